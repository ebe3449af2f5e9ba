//! A source that waits for its only synchronous standby, which is the target.

use crate::cluster::{Load, Pair, Scene};

fn pair_that_waits(scene: &Scene) -> Pair {
    let mut pair = Pair::streaming(scene, |old| Load::init(old, 1));
    pair.fail_over();
    Load::run_for(&pair.old, 100, 1);
    Load::run_for(&pair.new, 100, 2);
    pair.old.stop(crate::cluster::Stop::Fast);
    pair.new
        .configure("synchronous_standby_names = 'old'\nsynchronous_commit = on");
    pair.new.sql("SELECT pg_reload_conf()");
    pair.new.wait_sql("SHOW synchronous_standby_names", "old");
    pair
}

const WAITING: &str =
    "SELECT wait_event FROM pg_stat_activity WHERE query LIKE 'CREATE TABLE waits%'";

#[test]
fn commits_that_wait_for_the_target_go_on_once_it_streams() {
    let scene = Scene::new();
    let pair = pair_that_waits(&scene);
    let commit = pair.new.sql_later("CREATE TABLE waits AS SELECT 1 AS i");
    pair.new.wait_sql(WAITING, "SyncRep");
    pair.rebuild().arg("--start").succeed();
    commit.wait().unwrap();
    // A standby made while a commit waits sees it with the next transaction's end only: its snapshots
    // begin with the source's "latest completed" transaction, which the waiting one is not yet.
    pair.new.sql("CREATE TABLE next_transaction (i int)");
    pair.check_equal();
    assert_eq!(pair.old.sql("SELECT i FROM waits"), "1");
    assert_eq!(
        pair.new.sql("SELECT sync_state FROM pg_stat_replication"),
        "sync"
    );
}

#[test]
fn commits_hang_until_the_rebuilt_target_is_started() {
    let scene = Scene::new();
    let mut pair = pair_that_waits(&scene);
    let mut commit = pair.new.sql_later("CREATE TABLE waits AS SELECT 1 AS i");
    pair.new.wait_sql(WAITING, "SyncRep");
    pair.rebuild().succeed();
    // The copy itself confirmed nothing in the standby's name.
    assert!(commit.running());
    assert_eq!(pair.new.sql(WAITING), "SyncRep");
    pair.old.start();
    commit.wait().unwrap();
    // A standby made while a commit waits sees it with the next transaction's end only: its snapshots
    // begin with the source's "latest completed" transaction, which the waiting one is not yet.
    pair.new.sql("CREATE TABLE next_transaction (i int)");
    pair.check_equal();
}
