//! A primary and its standby, with the drama of a failover as methods.

use super::rebuild::Rebuild;
use super::scene::Scene;
use super::server::{Cluster, Stop};
use super::template::Template;

/// An old primary and the standby that becomes the new one.
pub struct Pair {
    pub old: Cluster,
    pub new: Cluster,
}

impl Pair {
    /// A primary "old" and its streaming standby "new"; `prepare` fills the primary before the copy.
    pub fn streaming(scene: &Scene, prepare: impl FnOnce(&mut Cluster)) -> Self {
        Self::streaming_with(scene, &[], prepare)
    }

    /// As [`Pair::streaming`], with options for `pg_basebackup`.
    pub fn streaming_with(
        scene: &Scene,
        options: &[&str],
        prepare: impl FnOnce(&mut Cluster),
    ) -> Self {
        let mut old = scene.cluster("old");
        old.start();
        prepare(&mut old);
        let new = scene.standby("new", &old, options);
        old.wait_caught_up(&new);
        Self { old, new }
    }

    /// The small diverged pair: a table on both sides, rows that only one side has, "old" stopped cleanly.
    pub fn diverged(scene: &Scene) -> Self {
        static MADE: Template = Template::new();
        let pair = MADE.copy(scene, |scene| {
            let mut pair = Self::streaming(scene, |old| {
                old.sql("CREATE TABLE t AS SELECT i, repeat('x', 100) AS f FROM generate_series(1, 5000) AS i");
            });
            pair.fail_over();
            pair.old.sql("INSERT INTO t SELECT i, 'lost' FROM generate_series(5001, 5300) AS i; CREATE TABLE only_old (i int)");
            pair.old.stop(Stop::Fast);
            pair
        });
        // Not on the template's disk: what a rebuild has to bring may be in the memory of the source.
        pair.new
            .sql("UPDATE t SET f = 'kept' WHERE i % 7 = 0; CREATE TABLE only_new AS SELECT 1 AS i");
        pair
    }

    /// Promotes "new" while "old" goes on as if nothing had happened.
    pub fn fail_over(&self) {
        self.new.promote();
    }

    /// A rebuild of "old" from "new".
    pub fn rebuild(&self) -> Rebuild {
        Rebuild::new(&self.old, &self.new)
    }

    /// Checks that "old" follows "new" and that both hold the same.
    pub fn check_equal(&self) {
        self.new.wait_caught_up(&self.old);
        crate::oracle::assert_same_data(&self.new, &self.old);
    }
}
