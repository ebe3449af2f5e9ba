//! Random rounds. A module early in the alphabet, in whose order tests begin: this one takes longest, and begun late it
//! would be waited for alone.

use crate::cluster::{Cluster, Dice, Load, Pair, Scene, Stop};
use crate::oracle::{Since, assert_amcheck, assert_checksums, assert_like_basebackup, settle};

/// Twenty failovers between two clusters: each time the old primary goes on alone for a while, ends in a
/// random way, and is rebuilt while the new one is written to.
#[test]
fn twenty_rounds_of_random_divergence_under_load_end_equal() {
    let mut dice = Dice::new("twenty_rounds_of_random_divergence_under_load_end_equal");
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| {
        Load::init(old, 2);
        old.sql("CREATE DATABASE other");
    });
    for round in 1..=20 {
        pair.fail_over();
        for _ in 0..=dice.below(3) {
            change(&pair.old, &mut dice);
            change(&pair.new, &mut dice);
        }
        let how =
            [Stop::Fast, Stop::Immediate, Stop::Kill][usize::try_from(dice.below(3)).unwrap()];
        pair.old.stop(how);
        let load = Load::start(&pair.new, dice.roll());
        let storm = (round % 2 == 0).then(|| Load::script(&pair.new, dice.roll(), STORM));
        let said = pair.rebuild().arg("--start").succeed();
        load.stop(&pair.new);
        if let Some(storm) = storm {
            storm.stop(&pair.new);
        }
        assert_eq!(said.number("timeline"), round + 1, "round {round}");
        pair.check_equal();
        if round % 5 == 0 {
            assert_amcheck(&pair.new, &pair.old);
            settle(&pair.new, &pair.old);
            assert_checksums(&mut pair.old);
            assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Used);
            pair.old.start();
            pair.new.wait_caught_up(&pair.old);
        }
        // The next failover goes the other way.
        std::mem::swap(&mut pair.old, &mut pair.new);
    }
}

/// Files that come, go, grow and shrink while they are being read.
const STORM: &str = "\
DROP DATABASE IF EXISTS storm_log;
DROP DATABASE IF EXISTS storm_copy;
DROP TABLE IF EXISTS storm, storm_unlogged;
CREATE TABLE IF NOT EXISTS storm AS SELECT i, repeat('s', 500) AS f FROM generate_series(1, 3000) AS i;
CREATE INDEX ON storm (i);
DELETE FROM storm WHERE i > 100;
VACUUM storm;
INSERT INTO storm SELECT i, repeat('r', 500) FROM generate_series(101, 2000) AS i;
CREATE DATABASE storm_log STRATEGY wal_log;
DROP DATABASE storm_log;
CREATE DATABASE storm_copy STRATEGY file_copy;
DROP DATABASE storm_copy;
CREATE UNLOGGED TABLE IF NOT EXISTS storm_unlogged AS SELECT i FROM generate_series(1, 3000) AS i;
ALTER TABLE storm_unlogged SET LOGGED;
DROP TABLE storm_unlogged;
TRUNCATE storm;
DROP TABLE storm;
";

/// One random change. Names repeat, so that both sides make, change and drop the same ones differently.
fn change(cluster: &Cluster, dice: &mut Dice) {
    let n = dice.below(4);
    let rows = 1 + dice.below(5000);
    match dice.below(12) {
        0..=2 => Load::run_for(cluster, 20 + dice.below(300), dice.roll()),
        3 => drop(cluster.sql(&format!("CREATE TABLE IF NOT EXISTS r{n} AS SELECT i, md5(i::text) AS f FROM generate_series(1, {rows}) AS i"))),
        4 => drop(cluster.sql(&format!("DROP TABLE IF EXISTS r{n}"))),
        5 => drop(cluster.sql(&format!("DELETE FROM pgbench_history WHERE random() < 0.{n}; VACUUM pgbench_history"))),
        6 => drop(cluster.sql("VACUUM FULL pgbench_tellers; REINDEX TABLE pgbench_branches")),
        7 => drop(cluster.sql(&format!(
            "CREATE TABLE IF NOT EXISTS r{n} (i int, f text); TRUNCATE r{n};
             INSERT INTO r{n} SELECT i, repeat('c', 1000) FROM generate_series(1, {rows}) AS i"
        ))),
        8 => drop(cluster.sql(&format!("DROP DATABASE IF EXISTS d{n}; CREATE DATABASE d{n} TEMPLATE other"))),
        9 => drop(cluster.sql(&format!("DROP DATABASE IF EXISTS d{n}"))),
        10 => drop(cluster.sql(&format!("SELECT lo_from_bytea(0, repeat('b', {rows})::bytea); SELECT pg_switch_wal(); CHECKPOINT"))),
        _ => drop(cluster.sql(&format!(
            "DROP TABLE IF EXISTS u{n}; CREATE UNLOGGED TABLE u{n} AS SELECT i FROM generate_series(1, {rows}) AS i;
             UPDATE pgbench_accounts SET bid = bid WHERE aid % 97 = {n}"
        ))),
    }
}
