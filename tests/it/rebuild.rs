//! The tool's reason to exist: a diverged old primary becomes a standby of the new primary.

use std::fs;

use crate::cluster::{Cluster, Load, Pair, Rebuild, Said, Scene, Stop, done, tool};
use crate::oracle::{
    Since, assert_amcheck, assert_checksums, assert_like_basebackup, assert_same_data,
    assert_untouched, count_differing, settle, tree,
};

#[test]
fn old_primary_streams_after_rebuild() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let before = configuration(&pair.old);
    let said = pair.rebuild().arg("--start").succeed();
    assert_eq!(said.word("mode"), "rebuild");
    assert_eq!(said.word("outcome"), "done");
    assert_eq!(said.number("timeline"), 2);
    pair.check_equal();
    assert_eq!(pair.old.sql("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(
        pair.old
            .sql("SELECT to_regclass('only_old') IS NULL AND to_regclass('only_new') IS NOT NULL"),
        "t"
    );
    // Writes go on arriving.
    pair.new.sql("INSERT INTO t VALUES (0, 'after')");
    pair.check_equal();
    assert_eq!(configuration(&pair.old), before);
}

/// The configuration files that are the target's own.
fn configuration(cluster: &Cluster) -> [String; 3] {
    ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"].map(|name| cluster.read(name))
}

// -------------------------------------------------------------------- all that a cluster can hold

#[test]
fn all_that_a_cluster_can_hold_is_equal_after_rebuild() {
    let scene = Scene::new();
    let folder = |name: &str| scene.path().join(name).display().to_string();
    let mapping = |n: u32| {
        format!(
            "--tablespace-mapping={}={}",
            folder(&format!("old-s{n}")),
            folder(&format!("new-s{n}"))
        )
    };
    for name in ["old-s1", "old-s2", "old-s4", "new-s3"] {
        scene.folder(name);
    }
    let mut pair = Pair::streaming_with(&scene, &[&mapping(1), &mapping(2)], |old| {
        fill_with_everything(old, &folder);
    });
    let (both, rows) = ("SELECT count(*) FROM pg_prepared_xacts", "1");
    pair.old.wait_sql(both, rows);
    pair.fail_over();

    pair.old.sql(&format!(
        "CREATE TABLESPACE s4 LOCATION '{}'",
        folder("old-s4")
    ));
    pair.old.sql(ONLY_OLD);
    pair.new.sql(&format!(
        "CREATE TABLESPACE s3 LOCATION '{}'",
        folder("new-s3")
    ));
    pair.new.sql(ONLY_NEW);
    // Nothing is left for hint bits to tell: with them the strict comparison below would see noise.
    for database in crate::oracle::databases(&pair.new) {
        pair.new.sql_in(&database, "VACUUM");
    }
    assert_eq!(
        fs::metadata(pair.new.pgdata().join(format!(
            "{}.1",
            pair.new.sql("SELECT pg_relation_filepath('long')")
        )))
        .unwrap()
        .len(),
        0,
        "the second segment stays, with nothing in it"
    );
    pair.old.stop(Stop::Fast);
    assert!(wal_of_timeline(&pair.old, 1) >= 3);

    let mapping = |n: u32| {
        format!(
            "{}={}",
            folder(&format!("new-s{n}")),
            folder(&format!("old-s{n}"))
        )
    };
    let said = pair
        .rebuild()
        .args([
            "-T",
            &mapping(1),
            "-T",
            &mapping(2),
            "-T",
            &mapping(3),
            "--start",
        ])
        .succeed();
    assert_eq!(said.report()["divergence"]["timeline"], 1);
    assert!(
        said.report()["divergence"]["lost_bytes"].as_u64().unwrap() > 1_000_000,
        "{said}"
    );

    // The trees first: sessions that read would set hint bits.
    settle(&pair.new, &pair.old);
    pair.old.stop(Stop::Fast);
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Started);
    assert_eq!(
        wal_of_timeline(&pair.old, 1),
        0,
        "WAL of the old timeline is left"
    );
    for (oid, location) in pair.new.tablespaces() {
        let link = fs::read_link(pair.old.pgdata().join(format!("pg_tblspc/{oid}"))).unwrap();
        assert_eq!(
            link.display().to_string(),
            location.display().to_string().replace("/new-s", "/old-s")
        );
    }
    assert_eq!(
        fs::read_dir(folder("old-s4")).unwrap().count(),
        0,
        "the stale tablespace has content"
    );

    pair.old.start();
    pair.check_equal();
    assert_amcheck(&pair.new, &pair.old);
    settle(&pair.new, &pair.old);
    assert_checksums(&mut pair.old);
    check_as_primary(&mut pair);
}

/// What only the old primary does.
const ONLY_OLD: &str = "\
DROP TABLE dropped_on_old;
DROP DATABASE database_dropped_on_old;
CREATE DATABASE database_of_old TEMPLATE shop STRATEGY file_copy;
CREATE TABLE table_of_old TABLESPACE s4 AS SELECT i FROM generate_series(1, 20000) AS i;
INSERT INTO long SELECT i, repeat('o', 700) FROM generate_series(200001, 200500) AS i;
UPDATE accounts SET note = 'old' WHERE i % 3 = 0;
INSERT INTO events SELECT i % 300, 'old' FROM generate_series(1, 3000) AS i;
INSERT INTO unlogged SELECT i, 'old' FROM generate_series(1, 3000) AS i;
SELECT lo_unlink(42001);
SELECT lo_from_bytea(42100, repeat('o', 30000)::bytea);
ALTER TABLE moved SET TABLESPACE s1;
BEGIN; INSERT INTO accounts VALUES (900001, 'prepared on old'); PREPARE TRANSACTION 'only_old';
SELECT pg_switch_wal();
INSERT INTO accounts SELECT i, 'more' FROM generate_series(500000, 520000) AS i;
SELECT pg_switch_wal();
CHECKPOINT;
INSERT INTO accounts SELECT i, 'tail' FROM generate_series(600000, 600100) AS i;
";

/// What only the new primary does; each group meets its opposite in [`ONLY_OLD`].
const ONLY_NEW: &str = "\
DROP TABLE dropped_on_new;
DROP DATABASE database_dropped_on_new;
CREATE DATABASE database_of_new TEMPLATE shop STRATEGY wal_log;
CREATE TABLE table_of_new TABLESPACE s3 AS SELECT i FROM generate_series(1, 20000) AS i;
DELETE FROM long WHERE i > 130;
UPDATE accounts SET note = 'new' WHERE i % 5 = 0;
DELETE FROM events WHERE i BETWEEN 100 AND 120;
INSERT INTO unlogged SELECT i, 'new' FROM generate_series(1, 7000) AS i;
SELECT lo_put(42002, 100, repeat('n', 5000)::bytea);
SELECT lo_from_bytea(42200, repeat('n', 30000)::bytea);
ALTER TABLE moved SET TABLESPACE s2;
COMMIT PREPARED 'both';
ALTER TABLE moved ALTER COLUMN i TYPE bigint;
BEGIN; INSERT INTO accounts VALUES (900002, 'prepared on new'); PREPARE TRANSACTION 'only_new';
";

/// As a primary of its own it has what the source had: prepared transactions, empty unlogged tables.
fn check_as_primary(pair: &mut Pair) {
    pair.old.start();
    pair.new.wait_caught_up(&pair.old);
    pair.old.promote();
    assert_eq!(
        pair.old.sql("SELECT gid FROM pg_prepared_xacts"),
        "only_new"
    );
    pair.old.sql("COMMIT PREPARED 'only_new'");
    assert_eq!(
        pair.old
            .sql("SELECT string_agg(i::text, ',' ORDER BY i) FROM accounts WHERE i >= 900000"),
        "900000,900002"
    );
    assert_eq!(pair.old.sql("SELECT count(*) FROM unlogged"), "0");
    pair.old
        .sql("INSERT INTO unlogged SELECT i, 'again' FROM generate_series(1, 1000) AS i");
    assert_eq!(
        pair.old
            .sql("SELECT count(*), sum(length(lo_get(oid))) FROM pg_largeobject_metadata"),
        "4|120006"
    );
}

fn fill_with_everything(old: &mut Cluster, folder: &dyn Fn(&str) -> String) {
    for n in [1, 2] {
        old.sql(&format!(
            "CREATE TABLESPACE s{n} LOCATION '{}'",
            folder(&format!("old-s{n}"))
        ));
    }
    old.sql(
        "CREATE TABLE accounts (i int PRIMARY KEY USING INDEX TABLESPACE s2, note text) TABLESPACE s1;
         INSERT INTO accounts SELECT i, repeat('a', i % 200) FROM generate_series(1, 40000) AS i;
         CREATE TABLE wide AS
             SELECT i, (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 200) AS j) AS f
             FROM generate_series(1, 100) AS i;
         CREATE TABLE events (i int, note text) PARTITION BY RANGE (i);
         CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (100);
         CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (100) TO (200) TABLESPACE s1;
         CREATE TABLE events_3 PARTITION OF events DEFAULT TABLESPACE s2;
         CREATE INDEX ON events (i);
         INSERT INTO events SELECT i % 300, 'event' FROM generate_series(1, 9000) AS i;
         CREATE UNLOGGED TABLE unlogged (i int PRIMARY KEY, note text) TABLESPACE s2;
         INSERT INTO unlogged SELECT i + 100000, 'first' FROM generate_series(1, 5000) AS i;
         CREATE TABLE dropped_on_old AS SELECT i FROM generate_series(1, 5000) AS i;
         CREATE TABLE dropped_on_new AS SELECT i FROM generate_series(1, 5000) AS i;
         CREATE TABLE moved AS SELECT i FROM generate_series(1, 5000) AS i;
         CREATE MATERIALIZED VIEW sums AS SELECT i % 10 AS k, count(*) FROM accounts GROUP BY 1;
         CREATE SEQUENCE numbers; SELECT nextval('numbers');
         SELECT lo_from_bytea(42000 + i, repeat('l', 30000 + i)::bytea) FROM generate_series(1, 4) AS i;
         SELECT lo_unlink(42004);
         CREATE DATABASE shop;
         CREATE DATABASE database_dropped_on_old TEMPLATE shop;
         CREATE DATABASE database_dropped_on_new TABLESPACE s2;
         BEGIN; INSERT INTO accounts VALUES (900000, 'prepared on both'); PREPARE TRANSACTION 'both';",
    );
    old.sql_in("shop", "CREATE TABLE goods AS SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i; CREATE INDEX ON goods (md5)");
    // More than one segment at the price of a tenth of it in WAL: one row a page.
    old.sql(
        "CREATE TABLE long (i int, filler text) WITH (fillfactor = 10);
         INSERT INTO long SELECT i, repeat('x', 700) FROM generate_series(1, 131200) AS i;
         CHECKPOINT;",
    );
    let second = format!("{}.1", old.sql("SELECT pg_relation_filepath('long')"));
    assert!(old.exists(&second), "\"long\" has only one segment");
}

/// How many WAL segments of a timeline a data directory holds.
fn wal_of_timeline(cluster: &Cluster, timeline: u32) -> usize {
    let prefix = format!("{timeline:08X}");
    fs::read_dir(cluster.pgdata().join("pg_wal"))
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
            name.len() == 24 && name.starts_with(&prefix)
        })
        .count()
}

// ------------------------------------------------------------------------------ what travels, what not

#[test]
fn only_blocks_that_differ_travel() {
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| Load::init(old, 5));
    pair.fail_over();
    Load::run_for(&pair.old, 500, 1);
    Load::run_for(&pair.new, 500, 2);
    pair.new.sql("VACUUM; CREATE TABLE only_new AS SELECT i FROM generate_series(1, 10000) AS i; VACUUM only_new; CHECKPOINT");
    pair.old.stop(Stop::Fast);
    let counted = count_differing(pair.old.pgdata(), pair.new.pgdata());
    assert!(counted.common > 500 && counted.missing > 40, "{counted:?}");

    let said = pair.rebuild().succeed();
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
    let moved = said.number("moved_blocks") + said.number("patched_blocks");
    assert!(moved <= counted.sum(), "moved {moved} of {counted:?}");
    assert!(moved >= counted.common, "moved {moved} of {counted:?}");
    assert!(
        said.number("differing_blocks") >= counted.common,
        "{said} {counted:?}"
    );
    // On the wire: what moved, digests of the rest, the WAL; far from a copy.
    let received = said.number("wire_received_bytes");
    assert!(
        received < counted.sum() * 8192 + said.number("full_copy_bytes") / 50 + 40_000_000,
        "{said}"
    );
    assert!(received < said.number("full_copy_bytes"), "{said}");
}

#[test]
fn second_run_moves_nothing() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.new.sql("VACUUM");
    let first = pair.rebuild().succeed();
    assert!(first.number("moved_blocks") > 0);
    let second = pair.rebuild().succeed();
    assert_eq!(
        (
            second.number("moved_blocks"),
            second.number("differing_blocks"),
            second.number("removed_files")
        ),
        (0, 0, 0),
        "{second}"
    );
    assert!(second.number("compared_bytes") > 20_000_000, "{second}");
    pair.old.start();
    pair.check_equal();
}

#[test]
fn dry_run_gives_the_figures_and_touches_nothing() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.new.sql("VACUUM; CHECKPOINT");
    let before = tree(pair.old.pgdata());
    let tried = pair.rebuild().arg("--dry-run").succeed();
    assert_untouched(&before, pair.old.pgdata());
    assert_eq!(tried.word("mode"), "dry-run");
    assert_source_as_found(&pair.new, 0);
    let real = pair.rebuild().succeed();
    for figure in [
        "compared_bytes",
        "differing_blocks",
        "moved_blocks",
        "patched_blocks",
        "moved_bytes",
        "removed_files",
        "full_copy_bytes",
    ] {
        assert_eq!(tried.number(figure), real.number(figure), "{figure}");
    }
    assert_eq!(tried.report()["divergence"], real.report()["divergence"]);
}

/// Invariant 6: no session, no slot but those wanted, no backup running.
pub fn assert_source_as_found(source: &Cluster, slots: u32) {
    source.wait_sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()", "0");
    assert_eq!(
        source.sql("SELECT count(*) FROM pg_replication_slots"),
        slots.to_string()
    );
}

#[test]
fn source_is_left_as_found() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let settings = pair.new.read("postgresql.auto.conf");
    let files = file_names(&pair.new);
    let written = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_all_tables";
    let before = pair.new.sql(written);
    pair.rebuild().succeed();
    assert_source_as_found(&pair.new, 0);
    assert_eq!(pair.new.read("postgresql.auto.conf"), settings);
    assert_eq!(file_names(&pair.new), files);
    assert_eq!(pair.new.sql(written), before);
}

/// The files of a data directory outside pg_wal and the server's statistics.
fn file_names(cluster: &Cluster) -> Vec<String> {
    tree(cluster.pgdata())
        .into_keys()
        .filter(|path| {
            !path.starts_with("pg_wal/")
                && !path.starts_with("pg_stat")
                && !path.ends_with("pg_internal.init")
        })
        .collect()
}

// --------------------------------------------------------------------------------- kinds of rebuilds

#[test]
fn standby_uses_the_slot_that_was_asked_for() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.rebuild()
        .args(["--create-slot", "--slot", "reseed_old"])
        .succeed();
    assert_eq!(
        pair.new.sql(
            "SELECT slot_name, temporary, active, restart_lsn IS NOT NULL FROM pg_replication_slots"
        ),
        "reseed_old|f|f|t"
    );
    // The slot keeps the WAL however far the source goes on.
    for _ in 0..3 {
        pair.new.sql("INSERT INTO t SELECT i, 'more' FROM generate_series(1, 1000) AS i; SELECT pg_switch_wal(); CHECKPOINT");
    }
    pair.old.start();
    pair.check_equal();
    assert_eq!(
        pair.new
            .sql("SELECT slot_name, active FROM pg_replication_slots"),
        "reseed_old|t"
    );
    // It exists now, and is used again.
    pair.old.stop(Stop::Fast);
    pair.rebuild()
        .args(["--slot", "reseed_old", "--start"])
        .succeed();
    pair.check_equal();
    assert_eq!(
        pair.new
            .sql("SELECT slot_name, active FROM pg_replication_slots"),
        "reseed_old|t"
    );
}

#[test]
fn standby_can_be_the_source() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let middle = scene.standby("middle", &pair.new, &[]);
    pair.new.wait_caught_up(&middle);
    settle(&pair.new, &middle);
    Rebuild::new(&pair.old, &middle).arg("--start").succeed();
    pair.new
        .sql("INSERT INTO t VALUES (0, 'through the middle')");
    pair.new.wait_caught_up(&middle);
    middle.wait_caught_up(&pair.old);
    assert_same_data(&pair.new, &pair.old);
}

#[test]
fn lagging_standby_whose_wal_is_gone_streams_after_rebuild() {
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| Load::init(old, 1));
    pair.new.stop(Stop::Fast);
    for round in 0..4 {
        Load::run_for(&pair.old, 100, round);
        pair.old.sql("SELECT pg_switch_wal(); CHECKPOINT");
    }
    let said = Rebuild::new(&pair.new, &pair.old).arg("--start").succeed();
    assert!(said.report()["divergence"].is_null(), "{said}");
    pair.old.wait_caught_up(&pair.new);
    assert_same_data(&pair.old, &pair.new);
}

#[test]
fn running_target_is_stopped_when_asked() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.old.start();
    let before = pair.old.postmaster();
    pair.rebuild().args(["--stop", "--start"]).succeed();
    assert_ne!(pair.old.postmaster(), before);
    pair.check_equal();
}

#[test]
fn crashed_target_is_rebuilt() {
    for how in [Stop::Kill, Stop::Immediate] {
        let scene = Scene::new();
        let mut pair = Pair::diverged(&scene);
        pair.old.start();
        pair.old
            .sql("INSERT INTO t SELECT i, 'crash' FROM generate_series(1, 3000) AS i");
        pair.old.stop(how);
        pair.rebuild().arg("--start").succeed();
        pair.check_equal();
    }
}

#[test]
fn every_compression_and_number_of_jobs_gives_the_same() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.new.sql("VACUUM; CHECKPOINT");
    let mut moved = Vec::new();
    let saved = scene.path().join("saved");
    done(
        std::process::Command::new("cp")
            .arg("-a")
            .arg(pair.old.pgdata())
            .arg(&saved),
    );
    for options in [
        ["--compress", "none", "--jobs", "1"],
        ["--compress", "lz4", "--jobs", "2"],
        ["--compress", "zstd:5", "--jobs", "7"],
    ] {
        let said: Said = pair.rebuild().args(options).succeed();
        assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
        moved.push(said.number("moved_blocks"));
        fs::remove_dir_all(pair.old.pgdata()).unwrap();
        done(
            std::process::Command::new("cp")
                .arg("-a")
                .arg(&saved)
                .arg(pair.old.pgdata()),
        );
    }
    assert!(
        moved
            .iter()
            .all(|blocks| *blocks == moved[0] && *blocks > 0),
        "{moved:?}"
    );
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
    pair.old.stop(Stop::Fast);
}

/// Small WAL segments, a group that may read, no checksums: nothing is taken for granted.
#[test]
fn other_layouts_are_rebuilt() {
    let scene = Scene::new();
    let mut old = scene.foreign_cluster("old", &["--wal-segsize=1", "--allow-group-access"]);
    old.start();
    old.sql("CREATE TABLE t AS SELECT i, repeat('x', 100) AS f FROM generate_series(1, 5000) AS i");
    let new = scene.standby("new", &old, &[]);
    old.wait_caught_up(&new);
    let mut pair = Pair { old, new };
    pair.fail_over();
    pair.old.sql("UPDATE t SET f = 'old' WHERE i % 3 = 0");
    pair.new
        .sql("UPDATE t SET f = 'new' WHERE i % 5 = 0; CREATE TABLE n AS SELECT 1; VACUUM");
    pair.old.stop(Stop::Fast);
    pair.rebuild().succeed();
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
    pair.old.start();
    pair.check_equal();
}

/// A linked pg_wal stays where the target has it.
#[test]
fn linked_pg_wal_stays_a_link() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let elsewhere = scene.path().join("wal-of-old");
    let pg_wal = pair.old.pgdata().join("pg_wal");
    fs::rename(&pg_wal, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &pg_wal).unwrap();
    pair.rebuild().arg("--start").succeed();
    assert_eq!(fs::read_link(&pg_wal).unwrap(), elsewhere);
    assert_eq!(wal_of_timeline(&pair.old, 1), 0);
    pair.check_equal();
}

/// The data directory before the first start is what the server's own tools accept.
#[test]
fn rebuilt_control_file_is_the_source_s_with_an_impossible_checkpoint() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.rebuild().succeed();
    let control = pair.old.control();
    assert_eq!(control["Latest checkpoint location"], "0/DEAD");
    assert_eq!(
        control["Database system identifier"],
        pair.new.control()["Database system identifier"]
    );
    assert_eq!(control["Latest checkpoint's TimeLineID"], "2");
    let said = done(tool("pg_controldata").arg(pair.old.pgdata()));
    assert!(!said.contains("WARNING"), "{said}");
}
