//! The replication slot of a standby through its rebuild: kept, not taken for another's, named when it is left, and
//! bounded.

use crate::cluster::{Cluster, DEADLINE, Pair, Rebuild, Scene, Stop, eventually};
use crate::oracle::{assert_untouched, tree};
use crate::wrong_side::{inspected, sentences};

/// A primary and a standby that streams with slot "db1".
pub fn with_slot(scene: &Scene) -> (Cluster, Cluster) {
    let pair = Pair::streaming_with(scene, &["--create-slot", "--slot", "db1"], |old| {
        old.sql(
            "CREATE TABLE t AS SELECT i, repeat('x', 100) AS f FROM generate_series(1, 5000) AS i",
        );
    });
    let Pair {
        old: primary,
        new: standby,
    } = pair;
    (primary, standby)
}

const SLOTS: &str = "SELECT string_agg(slot_name || ' ' || active, ',' ORDER BY slot_name) FROM pg_replication_slots";

fn warnings(said: &crate::cluster::Said) -> String {
    said.report()["warnings"].to_string()
}

/// The slot in use is that of the standby itself; with or without being named, and with -X none.
#[test]
fn slot_that_the_target_itself_streams_with_is_its_own() {
    let scene = Scene::new();
    let (primary, standby) = with_slot(&scene);
    for options in [
        &["--slot", "db1"][..],
        &[],
        &["--slot", "db1", "-X", "none"],
        &["--slot", "db1", "--create-slot"],
    ] {
        primary.sql("INSERT INTO t SELECT i, 'more' FROM generate_series(1, 1000) AS i");
        let server = standby.postmaster();
        Rebuild::new(&standby, &primary)
            .args(options)
            .args(["--stop", "--dry-run"])
            .succeed();
        assert_eq!(standby.postmaster(), server);
        let said = Rebuild::new(&standby, &primary)
            .args(options)
            .args(["--stop", "--start"])
            .succeed();
        assert_ne!(standby.postmaster(), server);
        assert_eq!(said.word("slot"), "db1", "{options:?} {said}");
        assert_eq!(warnings(&said), "[]", "{options:?} {said}");
        assert_eq!(standby.sql("SHOW primary_slot_name"), "db1");
        primary.wait_caught_up(&standby);
        assert_eq!(primary.sql(SLOTS), "db1 true");
    }
}

#[test]
fn slot_that_another_standby_streams_with_is_still_refused() {
    let scene = Scene::new();
    let (primary, mut standby) = with_slot(&scene);
    // It is told to use the slot of the first, and cannot stream with it.
    let mut second = scene.standby("second", &primary, &[]);
    primary.wait_caught_up(&second);
    let server = second.postmaster();
    let said = Rebuild::new(&second, &primary)
        .args(["--stop", "--slot", "db1"])
        .fail(3);
    assert!(
        said.messages().contains("Another standby streams from it"),
        "{said}"
    );
    assert_eq!(second.postmaster(), server, "{said}");
    second.stop(Stop::Fast);
    second.configure("primary_slot_name = 'db1'");
    second.start();
    let server = second.postmaster();
    let said = Rebuild::new(&second, &primary)
        .args(["--stop", "--slot", "db1"])
        .fail(3);
    assert_eq!(second.postmaster(), server, "{said}");
    // Without being asked it does not take it either, and says so.
    let said = Rebuild::new(&second, &primary)
        .args(["--stop", "--dry-run"])
        .succeed();
    assert!(
        warnings(&said).contains("is in use by another standby"),
        "{said}"
    );
    assert!(said.report()["slot"].is_null());
    standby.stop(Stop::Fast);
}

/// The old primary's slot on the source, which its configuration names, is neither dropped nor forgotten.
#[test]
fn slot_of_the_targets_configuration_is_kept_or_named() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.old.configure("primary_slot_name = 'mine'");
    // The source has none of that name.
    let said = pair.rebuild().arg("--dry-run").succeed();
    assert!(
        warnings(&said).contains("which the source does not have"),
        "{said}"
    );
    let found = inspected(&pair.old, &pair.new, &[]);
    assert!(
        sentences(&found).contains("which the source does not have"),
        "{found}"
    );
    pair.new
        .sql("SELECT pg_create_physical_replication_slot('mine', true)");
    pair.new
        .sql("SELECT pg_create_physical_replication_slot('new', true)");
    // Another one is asked for: this one keeps WAL for nobody.
    for options in [&["--dry-run"][..], &[]] {
        let said = pair
            .rebuild()
            .args(["--slot", "new"])
            .args(options)
            .succeed();
        let left = "Replication slot \\\"mine\\\", which the target's configuration names, is left without a standby";
        assert!(warnings(&said).contains(left), "{said}");
        assert!(
            said.stderr
                .contains("SELECT pg_drop_replication_slot('mine');"),
            "{said}"
        );
        if options.is_empty() {
            break;
        }
        let found = inspected(&pair.old, &pair.new, &["--slot", "new"]);
        assert!(
            sentences(&found).contains("is left without a standby"),
            "{found}"
        );
        let found = inspected(&pair.old, &pair.new, &[]);
        assert_eq!(found["source"]["slot"]["name"], "mine", "{found}");
        assert!(
            sentences(&found).contains("The standby uses replication slot \"mine\""),
            "{found}"
        );
    }
    // The rebuild has written the other one's name; whoever names none gets that.
    let said = pair.rebuild().arg("--start").succeed();
    assert_eq!(said.word("slot"), "new");
    pair.check_equal();
    assert_eq!(pair.new.sql(SLOTS), "mine false,new true");
    pair.old.stop(Stop::Fast);
}

#[test]
fn own_slot_is_used_without_being_asked_for() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.old.configure("primary_slot_name = 'mine'");
    pair.new
        .sql("SELECT pg_create_physical_replication_slot('mine', true)");
    for options in [&[][..], &["--stop", "--config", "target"]] {
        let said = pair.rebuild().args(options).arg("--start").run();
        if options.is_empty() {
            assert_eq!(said.code(), 0, "{said}");
        }
        assert_eq!(said.word("slot"), "mine", "{said}");
        assert_eq!(pair.old.sql("SHOW primary_slot_name"), "mine");
        pair.check_equal();
        assert_eq!(pair.new.sql(SLOTS), "mine true");
    }
}

/// WAL that the source keeps during a slow run is bounded: the run ends, with words, and the same command with more
/// room finishes it.
#[test]
fn run_that_makes_the_source_keep_too_much_wal_ends() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut running = pair
        .rebuild()
        .args(["--max-rate", "32k", "--max-wal-retained", "20M"])
        .spawn();
    running.wait_closed(&pair.old);
    pair.new
        .sql("CREATE TABLE big AS SELECT repeat('x', 500) AS f FROM generate_series(1, 60000)");
    let said = running.wait();
    assert_eq!(said.code(), 4, "{said}");
    assert!(
        said.messages()
            .contains("more than --max-wal-retained allows"),
        "{said}"
    );
    assert!(
        said.messages()
            .contains("the run's replication slot is gone"),
        "{said}"
    );
    eventually("the slot is gone", DEADLINE, || {
        (pair.new.sql("SELECT count(*) FROM pg_replication_slots") == "0").then_some(())
    });
    pair.rebuild()
        .args(["--start", "--max-wal-retained", "1G"])
        .succeed();
    pair.check_equal();
}

#[test]
fn slot_that_keeps_more_than_the_bound_is_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.new
        .sql("SELECT pg_create_physical_replication_slot('mine', true)");
    pair.new
        .sql("CREATE TABLE big AS SELECT repeat('x', 500) AS f FROM generate_series(1, 20000)");
    let before = tree(pair.old.pgdata());
    for options in [&[][..], &["--dry-run"]] {
        let said = pair
            .rebuild()
            .args(["--slot", "mine", "--max-wal-retained", "1M"])
            .args(options)
            .fail(3);
        assert!(
            said.messages().contains("of WAL on the source already"),
            "{said}"
        );
    }
    assert_untouched(&before, pair.old.pgdata());
}
