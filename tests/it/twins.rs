//! Two servers that were promoted at one position: their histories have the same numbers, and only their WAL tells them
//! apart.

use std::fs;
use std::process::Command;

use serde_json::Value;

use pg_reseed::wire::message::Answer;

use crate::between::between;
use crate::cluster::{Cluster, Rebuild, Scene, Stop, binary, clean, done, plain_lsns};
use crate::inspect::beside;

fn verdict(found: &Value) -> &str {
    found["advice"]["verdict"].as_str().unwrap()
}

/// "left" and "right" were standbys of one primary that is gone; each was promoted to timeline 2 at the same position,
/// and has written since.
struct Twins {
    left: Cluster,
    right: Cluster,
}

impl Twins {
    fn new(scene: &Scene) -> Self {
        let mut parent = scene.cluster("parent");
        parent.start();
        parent.sql("CREATE TABLE t (i int)");
        let [left, right] = ["left", "right"].map(|name| scene.standby(name, &parent, &[]));
        for standby in [&left, &right] {
            parent.wait_caught_up(standby);
        }
        parent.stop(Stop::Fast);
        for standby in [&left, &right] {
            // The primary's last checkpoint arrives before the primary is gone.
            standby.wait_sql("SELECT count(*) FROM pg_stat_wal_receiver", "0");
            standby.promote();
        }
        let histories = [&left, &right].map(|twin| twin.read("pg_wal/00000002.history"));
        let begins = histories
            .each_ref()
            .map(|text| text.split_whitespace().nth(1).unwrap());
        assert_eq!(begins[0], begins[1], "they were promoted at one position");
        left.sql("INSERT INTO t VALUES (1)");
        right.sql("INSERT INTO t SELECT generate_series(2, 1000)");
        Self { left, right }
    }

    /// "right" goes on to timeline 3.
    fn go_on(&mut self) {
        self.right.stop(Stop::Fast);
        self.right.write("standby.signal", "");
        self.right.start();
        self.right.promote();
        self.right.sql("INSERT INTO t VALUES (1001); CHECKPOINT");
        assert_eq!(self.right.timeline(), 3);
    }
}

#[test]
fn a_twin_that_wrote_a_row_and_stopped_is_not_told_to_attach_to_the_other() {
    let scene = Scene::new();
    let mut twins = Twins::new(&scene);
    twins.left.stop(Stop::Fast);
    twins.go_on();
    let found = beside(&twins.left, &twins.right, &[]);
    assert_eq!(verdict(&found), "rebuild", "{found}");
    assert_eq!(found["relation"], "diverged", "{found}");
    let history = plain_lsns(&twins.left.read("pg_wal/00000002.history"));
    let begin = history.split_whitespace().nth(1).unwrap();
    assert_eq!(found["divergence"]["lsn"], begin, "{found}");
    // The dry run says the same, and the row is saved.
    let command = |target: &Cluster| {
        Rebuild::new(target, &twins.right).args(["--discard-newer-wal", "--discard-newer-timeline"])
    };
    let said = command(&twins.left).arg("--dry-run").succeed();
    assert!(
        said.stdout
            .contains(&format!("diverged from the source at {begin}")),
        "{said}"
    );
    let saved = scene.path().join("saved");
    command(&twins.left)
        .arg("--keep-diverged-wal")
        .arg(&saved)
        .arg("--start")
        .succeed();
    let names: Vec<_> = fs::read_dir(&saved)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names
            .iter()
            .any(|name| name.starts_with("00000002") && name.len() == 24),
        "{names:?}"
    );
    twins.right.wait_caught_up(&twins.left);
    assert_eq!(twins.left.sql("SELECT min(i) FROM t"), "2");
}

#[test]
fn a_standby_that_followed_the_twin_is_not_told_to_attach_to_the_other() {
    let scene = Scene::new();
    let mut twins = Twins::new(&scene);
    let mut follower = scene.standby("follower", &twins.left, &[]);
    twins.left.sql("INSERT INTO t VALUES (5000)");
    twins.left.wait_caught_up(&follower);
    follower.stop(Stop::Fast);
    twins.left.stop(Stop::Fast);
    let found = beside(&follower, &twins.right, &[]);
    assert_ne!(verdict(&found), "reattach", "{found}");
    twins.go_on();
    let found = beside(&follower, &twins.right, &[]);
    assert_eq!(found["relation"], "diverged", "{found}");
    assert_eq!(verdict(&found), "rebuild", "{found}");
}

#[test]
fn a_standby_of_the_same_server_needs_no_rebuild_after_it_went_on() {
    let scene = Scene::new();
    let mut twins = Twins::new(&scene);
    let mut follower = scene.standby("follower", &twins.right, &[]);
    twins.right.sql("INSERT INTO t VALUES (5000)");
    twins.right.wait_caught_up(&follower);
    follower.stop(Stop::Fast);
    twins.left.stop(Stop::Fast);
    twins.go_on();
    let found = beside(&follower, &twins.right, &[]);
    assert_eq!(verdict(&found), "reattach", "{found}");
    assert_eq!(found["relation"], "clean-ancestor", "{found}");
    follower.start();
    twins.right.wait_caught_up(&follower);
    assert_eq!(follower.sql("SELECT count(*) FROM t WHERE i > 1000"), "2");
}

/// The new source never had the WAL that would tell.
#[test]
fn where_the_source_has_not_that_wal_any_more_nothing_is_promised() {
    let scene = Scene::new();
    let mut twins = Twins::new(&scene);
    twins.left.stop(Stop::Fast);
    // Behind all that "left" has.
    twins
        .right
        .sql("INSERT INTO t SELECT generate_series(1, 200000); SELECT pg_switch_wal(); CHECKPOINT");
    let mut heir = scene.standby("heir", &twins.right, &[]);
    twins.right.wait_caught_up(&heir);
    heir.promote();
    heir.sql("ALTER SYSTEM SET archive_mode = on; ALTER SYSTEM SET archive_command = 'true'");
    heir.restart();
    let found = beside(&twins.left, &heir, &[]);
    assert_eq!(verdict(&found), "history-untold", "{found}");
    let told = done(
        clean(Command::new(binary()))
            .args(["inspect", "-D"])
            .arg(twins.left.pgdata())
            .args(["-d", &heir.conninfo(), "--from", "local", "--source-dbname"])
            .arg(format!("{} dbname=postgres", heir.conninfo())),
    );
    assert!(told.contains("cannot be told"), "{told}");
    assert!(!told.contains("No rebuild is needed"), "{told}");
}

/// What `inspect` says of a directory whose source loses the last records of its answer so often.
fn beside_forgetful(target: &Cluster, source: &Cluster, often: usize) -> Value {
    let mut left = often;
    let from = between(source, move |twisted| {
        if let Answer::WalDigests { digests } = &mut twisted.answer
            && left > 0
        {
            left -= 1;
            digests.pop();
        }
    });
    let found = done(
        clean(Command::new(binary()))
            .args(["inspect", "--json", "-D"])
            .arg(target.pgdata())
            .args(["-d", &source.conninfo(), "--from", &from]),
    );
    serde_json::from_str(&found).unwrap()
}

/// A segment that is recycled while the source reads it is the end of what it reads.
#[test]
fn wal_that_its_source_recycles_while_it_reads_is_no_divergence() {
    let scene = Scene::new();
    let mut twins = Twins::new(&scene);
    let follower = scene.standby("follower", &twins.right, &[]);
    twins.right.sql("INSERT INTO t VALUES (5000)");
    twins.right.wait_caught_up(&follower);
    for often in [0, 1, 2, 1000] {
        let found = beside_forgetful(&follower, &twins.right, often);
        let relation = found["relation"].as_str().unwrap();
        assert!(["same", "lagging"].contains(&relation), "{often}: {found}");
    }
    // What differs is still found.
    twins.left.stop(Stop::Fast);
    for often in [1, 2] {
        let found = beside_forgetful(&twins.left, &twins.right, often);
        assert_eq!(found["relation"], "diverged", "{often}: {found}");
    }
}
