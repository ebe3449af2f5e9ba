//! Clusters as they are met in the field, one test for each: what PostgreSQL's own suites for `pg_rewind` and
//! `pg_basebackup` check, and what other people's directories look like.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::process::Command;

use crate::cluster::{Cluster, DEADLINE, Pair, Rebuild, Scene, Stop, done, eventually, tool};
use crate::oracle::{Since, assert_checksums, assert_like_basebackup, assert_same_data};
use crate::rebuild::assert_source_as_found;

/// A tablespace that is a directory in the data directory, as developers make them.
#[test]
fn tablespaces_in_the_data_directory_are_rebuilt() {
    let scene = Scene::new();
    let make = |cluster: &Cluster, name: &str| {
        cluster.sql(&format!("CREATE TABLESPACE {name} LOCATION ''"));
        cluster.sql(&format!(
            "CREATE TABLE t_{name} TABLESPACE {name} AS SELECT generate_series(1, 3000) AS i"
        ));
    };
    let mut pair = Pair::streaming(&scene, |old| {
        // A server that recovers asks for it too.
        old.configure("allow_in_place_tablespaces = on");
        old.restart();
        make(old, "s_both");
    });
    pair.fail_over();
    make(&pair.old, "s_old");
    make(&pair.new, "s_new");
    pair.old.sql("UPDATE t_s_both SET i = -i");
    pair.old.stop(Stop::Fast);
    pair.rebuild().succeed();
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
    pair.old.start();
    pair.check_equal();
}

/// The history of the source has two switches that the target never saw.
#[test]
fn old_primary_comes_back_after_two_promotions() {
    let scene = Scene::new();
    let pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) AS i");
    });
    let Pair { mut old, new } = pair;
    let third = scene.standby("third", &new, &[]);
    new.wait_caught_up(&third);
    new.promote();
    new.sql("INSERT INTO t VALUES (-2)");
    new.wait_caught_up(&third);
    third.promote();
    third.sql("INSERT INTO t VALUES (-3)");
    old.sql("INSERT INTO t SELECT generate_series(6000, 7000)");
    old.stop(Stop::Fast);
    assert_eq!(third.timeline(), 3);
    let pair = Pair { old, new: third };
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
    assert_eq!(pair.old.sql("SELECT count(*) FROM t"), "5002");
    // The one in the middle diverged as well, one timeline later.
    let Pair { old, new: third } = pair;
    let mut second = new;
    second.sql("INSERT INTO t VALUES (-22)");
    second.stop(Stop::Fast);
    Rebuild::new(&second, &third).arg("--start").succeed();
    third.wait_caught_up(&second);
    assert_same_data(&third, &second);
    third.wait_caught_up(&old);
}

#[test]
fn data_directory_behind_a_link_is_rebuilt_where_it_is() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let really = scene.path().join("really");
    fs::rename(pair.old.pgdata(), &really).unwrap();
    symlink(&really, pair.old.pgdata()).unwrap();
    pair.rebuild().succeed();
    assert_eq!(fs::read_link(pair.old.pgdata()).unwrap(), really);
    assert_like_basebackup(&scene, &pair.new, &really, Since::Rebuilt);
    pair.old.start();
    pair.check_equal();
}

/// Names of files are bytes.
#[test]
fn names_that_are_no_text_are_copied_and_removed() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let odd = |number: u8| [b"odd \xff\n'\"\\", &[number][..]].concat();
    let inside = |cluster: &Cluster, number: u8| {
        let name = odd(number);
        cluster.pgdata().join("base").join(OsStr::from_bytes(&name))
    };
    fs::write(inside(&pair.new, b'1'), "of the source").unwrap();
    fs::write(inside(&pair.old, b'1'), "of the target").unwrap();
    fs::write(inside(&pair.new, b'2'), "of the source").unwrap();
    fs::write(inside(&pair.old, b'3'), "of the target").unwrap();
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
    for number in [b'1', b'2'] {
        let content = fs::read_to_string(inside(&pair.old, number)).unwrap();
        assert_eq!(content, "of the source");
    }
    assert!(!inside(&pair.old, b'3').exists());
}

/// A relation has a file for each GiB. Most of this one are blocks that were never written.
#[test]
fn relation_of_more_than_one_segment_is_rebuilt() {
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE long AS SELECT i FROM generate_series(1, 1000) AS i");
    });
    pair.fail_over();
    let path = pair.new.sql("SELECT pg_relation_filepath('long')");
    pair.new.stop(Stop::Fast);
    let (first, second) = (
        pair.new.pgdata().join(&path),
        pair.new.pgdata().join(format!("{path}.1")),
    );
    File::options()
        .append(true)
        .open(first)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    let mut options = File::options();
    let second = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(second);
    second.unwrap().set_len(16 * 8192).unwrap();
    pair.new.start();
    pair.new
        .sql("INSERT INTO long SELECT generate_series(2000, 400000)");
    assert!(
        pair.new
            .sql("SELECT pg_relation_size('long') > 1024 * 1024 * 1024")
            == "t"
    );
    pair.old.sql("UPDATE long SET i = -i");
    pair.old.stop(Stop::Fast);
    pair.rebuild().succeed();
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
    pair.old.start();
    pair.check_equal();
    // And back to one: the second file stays, empty, as the server leaves it.
    pair.old.stop(Stop::Fast);
    pair.new.sql("TRUNCATE long");
    pair.new.sql("CHECKPOINT");
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
}

/// Checksums are the source's affair: the target's own pages are not trusted in any case.
#[test]
fn checksums_become_those_of_the_source() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let Pair { mut old, new } = pair;
    done(tool("pg_checksums").arg("--disable").arg(old.pgdata()));
    Rebuild::new(&old, &new).arg("--start").succeed();
    new.wait_caught_up(&old);
    assert_same_data(&new, &old);
    assert_eq!(old.sql("SHOW data_checksums"), "on");
    assert_checksums(&mut old);
}

#[test]
fn promotion_of_a_standby_source_ends_the_run_with_the_reason() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let middle = scene.standby("middle", &pair.new, &[]);
    pair.new.wait_caught_up(&middle);
    let mut running = Rebuild::new(&pair.old, &middle)
        .args(["--max-rate", "4M", "--progress", "none"])
        .spawn();
    running.wait_closed(&pair.old);
    middle.promote();
    let said = running.wait();
    assert_eq!(said.code(), 4, "{said}");
    assert!(said.stderr.contains("promoted"), "{said}");
    assert!(said.stderr.contains("Run the same command again"), "{said}");
    assert_source_as_found(&middle, 0);
    Rebuild::new(&pair.old, &middle).arg("--start").succeed();
    middle.wait_caught_up(&pair.old);
    assert_same_data(&middle, &pair.old);
}

/// The run's own temporary slot, which its session holds, or the standby's.
#[test]
fn slot_that_loses_its_wal_ends_the_run_with_the_reason() {
    for options in [&[][..], &["--slot", "mine", "--create-slot"]] {
        let scene = Scene::new();
        let pair = Pair::diverged(&scene);
        let set = |setting: &str| {
            pair.new.sql(&format!("ALTER SYSTEM {setting}"));
            pair.new.sql("SELECT pg_reload_conf()");
        };
        let mut running = pair
            .rebuild()
            .args(["--max-rate", "256k", "--progress", "none"])
            .args(options)
            .spawn();
        running.wait_closed(&pair.old);
        set("SET wal_keep_size = 0");
        set("SET max_slot_wal_keep_size = '1MB'");
        pair.new.wait_sql("SHOW max_slot_wal_keep_size", "1MB");
        eventually("the slot is lost", DEADLINE, || {
            pair.new
                .sql("INSERT INTO t SELECT i, repeat('w', 500) FROM generate_series(1, 2000) AS i");
            pair.new.sql("SELECT pg_switch_wal()");
            pair.new.sql("CHECKPOINT");
            let slots = "SELECT coalesce(min(wal_status), 'gone') FROM pg_replication_slots";
            matches!(&*pair.new.sql(slots), "lost" | "gone").then_some(())
        });
        let said = running.wait();
        assert_eq!(said.code(), 4, "{said}");
        assert!(said.stderr.contains("max_slot_wal_keep_size"), "{said}");
        // With more room the same command finishes.
        set("RESET max_slot_wal_keep_size");
        pair.new.wait_sql("SHOW max_slot_wal_keep_size", "-1");
        pair.rebuild().args(options).arg("--start").succeed();
        pair.check_equal();
    }
}

/// Whatever archiving either side does, the standby neither waits for an archive nor archives again what it got.
#[test]
fn archiving_on_either_side_does_not_matter() {
    for mode in ["on", "always"] {
        let scene = Scene::new();
        let mut pair = Pair::diverged(&scene);
        let archive = scene.folder("archive");
        pair.new
            .configure(&format!("archive_mode = {mode}\narchive_command = 'false'"));
        pair.new.restart();
        let copy = format!("test ! -f {0}/%f && cp %p {0}/%f", archive.display());
        pair.old.configure(&format!(
            "archive_mode = {mode}\narchive_command = '{copy}'"
        ));
        pair.rebuild().arg("--start").succeed();
        pair.check_equal();
        let archived = || fs::read_dir(&archive).unwrap().count();
        assert_eq!(
            archived(),
            0,
            "what came with the rebuild was archived again"
        );
        pair.new.sql("INSERT INTO t VALUES (-5, 'x')");
        pair.new.sql("SELECT pg_switch_wal()");
        pair.new.wait_caught_up(&pair.old);
        if mode == "always" {
            // What it receives from now on is its own affair.
            eventually("the standby archives", DEADLINE, || {
                (archived() > 0).then_some(())
            });
        }
        // A `cp` that is under way would write into a folder that goes.
        pair.old.stop(Stop::Fast);
        done(Command::new("rm").arg("-r").arg(&archive));
    }
}

/// A database for each customer: three hundred thousand files, nearly all of them equal. Needs 16 GB of room, so only
/// the whole matrix has it.
#[test]
fn a_thousand_databases_are_seeded_and_rebuilt() {
    if std::env::var_os("PG_RESEED_TEST_LARGE").is_none() {
        eprintln!("PG_RESEED_TEST_LARGE is not set");
        return;
    }
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    let make = |from: u32, to: u32| {
        primary.sql(&format!(
            "SELECT format('CREATE DATABASE c%s STRATEGY file_copy', i) FROM generate_series({from}, {to}) AS i \\gexec"
        ));
    };
    // In parts, since a statement of psql's has its time.
    for from in (1..1000).step_by(50) {
        make(from, from + 49);
    }
    let mut standby = scene.vacant("standby");
    Rebuild::new(&standby, &primary).succeed();
    standby.configure(&format!(
        "unix_socket_directories = '{}'\ncluster_name = 'standby'",
        standby.home().display()
    ));
    standby.start();
    primary.wait_caught_up(&standby);
    standby.promote();
    standby.sql_in(
        "c7",
        "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i",
    );
    primary.sql_in(
        "c1000",
        "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i",
    );
    primary.stop(Stop::Fast);
    let said = Rebuild::new(&primary, &standby).arg("--start").succeed();
    assert!(said.number("files") > 290_000, "{said}");
    assert!(
        said.number("moved_bytes") < said.number("full_copy_bytes") / 4,
        "{said}"
    );
    standby.wait_caught_up(&primary);
    assert_eq!(primary.sql("SELECT count(*) FROM pg_database"), "1003");
    assert_eq!(primary.sql_in("c7", "SELECT count(*) FROM t"), "1000");
}
