//! The tool's reason to exist: a diverged old primary becomes a standby of the new primary.

use crate::cluster::{Pair, Scene};

#[test]
fn old_primary_streams_after_rebuild() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let said = pair.rebuild().arg("--start").succeed();
    assert_eq!(said.word("mode"), "rebuild");
    pair.check_equal();
    assert_eq!(pair.old.sql("SELECT pg_is_in_recovery()"), "t");
}
