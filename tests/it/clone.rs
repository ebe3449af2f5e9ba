//! `--role clone`: a read-write copy that is no member of anything.

use std::fs;

use crate::cluster::{Cluster, Load, Pair, Rebuild, Running, Said, Scene, Stop, done, major};
use crate::oracle::digests;

/// A copy of `source` into `target`.
fn copying(target: &Cluster, source: &Cluster) -> Rebuild {
    Rebuild::without_name(target, &source.conninfo())
        .args(["--from", "local", "--source-dbname"])
        .arg(format!("{} dbname=postgres", source.conninfo()))
        .args(["--role", "clone", "--hook-user", "postgres"])
}

/// A primary with some data, and a place with a configuration of its own.
fn both(scene: &Scene) -> (Cluster, Cluster) {
    let mut source = scene.cluster("source");
    source.start();
    source.sql("CREATE TABLE t AS SELECT i, 'secret ' || i AS f FROM generate_series(1, 20000) AS i; CREATE INDEX ON t (i)");
    (source, scene.cluster("copy"))
}

/// Nothing of the run, and nobody, is left on the source.
fn assert_left_alone(source: &Cluster) {
    let counts = "SELECT (SELECT count(*) FROM pg_stat_replication), (SELECT count(*) FROM pg_replication_slots)";
    assert_eq!(source.sql(counts), "0|0");
}

/// Heaps and B-trees of a server that can be written to.
fn assert_amcheck(copy: &Cluster) {
    if major() >= 14 {
        copy.sql("CREATE EXTENSION IF NOT EXISTS amcheck");
        done(
            copy.client("pg_amcheck")
                .args(["--heapallindexed", "--database=postgres"]),
        );
    }
}

fn assert_refused(said: &Said, words: &str) {
    assert_eq!(said.report()["refusals"][0], "newer-timeline", "{said}");
    assert!(said.stderr.contains(words), "{words}\n{said}");
}

#[test]
fn a_copy_is_equal_and_read_write_and_acts_on_nobody() {
    let scene = Scene::new();
    let (source, copy) = both(&scene);
    let archive = scene.folder("archive");
    let path = archive.display();
    // Its own configuration is that of a real server: smaller than the source, and with all that acts on others.
    copy.configure(&format!(
        "archive_mode = on\narchive_command = 'touch {path}/%f'\nsynchronous_standby_names = 'nobody'\n\
         recovery_end_command = 'touch {path}/end'\nrecovery_min_apply_delay = '1h'\nmax_connections = 12\n\
         primary_conninfo = '{}'\nprimary_slot_name = 'x'\nrecovery_target_timeline = 'current'",
        source.conninfo()
    ));
    let said = copying(&copy, &source).arg("--start").succeed();
    assert_eq!(said.word("role"), "clone", "{said}");
    assert_eq!(said.report()["copy"]["timeline"], 2, "{said}");
    assert_eq!(said.report()["copy"]["cluster_name"], "copy", "{said}");
    assert_eq!(copy.sql("SELECT pg_is_in_recovery()"), "f");
    assert_eq!(copy.timeline(), 2);
    assert_eq!(digests(&copy), digests(&source));
    assert_left_alone(&source);
    // With synchronous standbys this would hang.
    copy.sql("INSERT INTO t VALUES (0, 'own'); SELECT pg_switch_wal(); CHECKPOINT");
    let settings = [
        ("archive_mode", "off"),
        ("synchronous_standby_names", ""),
        ("max_logical_replication_workers", "0"),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
        ("cluster_name", "copy"),
    ];
    for (name, value) in settings {
        assert_eq!(copy.sql(&format!("SHOW {name}")), value, "{name}");
    }
    assert_eq!(fs::read_dir(&archive).unwrap().count(), 0);
    for signal in ["standby.signal", "recovery.signal"] {
        assert!(!copy.exists(signal), "{signal}");
    }
    let log = copy.log();
    assert!(
        !log.contains("WAL streaming") && !log.contains("could not connect"),
        "{log}"
    );
    assert!(said.stdout.contains("no member of the cluster"), "{said}");
}

#[test]
fn a_seeded_copy_says_whose_name_it_has() {
    let scene = Scene::new();
    let (source, _) = both(&scene);
    let mut copy = scene.vacant("seeded");
    let said = copying(&copy, &source).succeed();
    assert_eq!(said.word("mode"), "seed");
    let warnings = said.report()["warnings"].to_string();
    assert!(warnings.contains("copy-has-sources-name"), "{said}");
    assert!(warnings.contains("port 5432"), "{said}");
    copy.settle();
    copy.start();
    assert_eq!(copy.sql("SELECT pg_is_in_recovery()"), "f");
    assert_eq!(copy.timeline(), 2);
    assert_eq!(digests(&copy), digests(&source));
    assert_left_alone(&source);
}

#[test]
fn every_night_the_changed_copy_is_a_delta_away() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    Load::init(&source, 4);
    let copy = scene.cluster("copy");
    let mut moved = Vec::new();
    for night in 0..4 {
        let said = copying(&copy, &source)
            .args(["--stop", "--start"])
            .succeed();
        let (bytes, full) = (said.number("moved_bytes"), said.number("full_copy_bytes"));
        println!("night {night}: {bytes} of {full} bytes moved");
        moved.push((bytes, full));
        assert_eq!(copy.timeline(), 2);
        assert_eq!(digests(&copy), digests(&source), "night {night}");
        assert_eq!(copy.sql("SHOW archive_mode"), "off");
        assert_left_alone(&source);
        // Each side goes its own way until the next one; each changes more than the last time.
        let rows = 20 * 4_u64.pow(night);
        Load::run_for(&source, rows, 1);
        let all = rows * 10;
        copy.sql(&format!("UPDATE pgbench_accounts SET filler = 'own' WHERE aid <= {all}; CREATE TABLE own_{night} (i int)"));
    }
    for (bytes, full) in &moved[1..] {
        assert!(bytes * 3 < *full, "{moved:?}");
    }
    assert!(
        moved[1].0 < moved[2].0 && moved[2].0 < moved[3].0,
        "{moved:?}"
    );
    // Under load it is one moment of the source.
    let load = Load::start(&source, 7);
    copying(&copy, &source)
        .args(["--stop", "--start"])
        .succeed();
    load.stop(&source);
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history), \
                (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)";
    assert_eq!(copy.sql(sums), "t|t");
    assert_amcheck(&copy);
}

#[test]
fn subscriptions_of_the_source_do_not_work_in_the_copy() {
    let scene = Scene::new();
    let mut publisher = scene.foreign_cluster("publisher", &["--data-checksums"]);
    publisher.configure("wal_level = logical");
    publisher.start();
    publisher.sql("CREATE TABLE t (i int); CREATE PUBLICATION p FOR TABLE t");
    let mut source = scene.cluster("source");
    source.start();
    source.sql(&format!(
        "CREATE TABLE t (i int);\nCREATE SUBSCRIPTION s CONNECTION '{} dbname=postgres' PUBLICATION p",
        publisher.conninfo()
    ));
    publisher.wait_sql(
        "SELECT count(*) FROM pg_replication_slots WHERE active",
        "1",
    );
    let copy = scene.cluster("copy");
    copying(&copy, &source).arg("--start").succeed();
    // The source is away: the slot is free for whoever wants it.
    source.stop(Stop::Fast);
    publisher.wait_sql(
        "SELECT count(*) FROM pg_replication_slots WHERE active",
        "0",
    );
    publisher.sql("INSERT INTO t VALUES (1)");
    assert_eq!(
        copy.sql("SELECT count(*) FROM pg_subscription WHERE subenabled"),
        "1"
    );
    let workers =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%'";
    assert_eq!(copy.sql(workers), "0");
    assert_eq!(copy.sql("SELECT count(*) FROM t"), "0");
    source.start();
    source.wait_sql("SELECT count(*) FROM t", "1");
}

#[test]
fn a_mark_counts_only_where_all_fits() {
    let scene = Scene::new();
    let (source, mut copy) = both(&scene);
    copying(&copy, &source).args(["--start"]).succeed();
    copy.sql("CREATE TABLE own (i int)");
    let mark = copy.read("pg_reseed.clone");
    // Somebody relies on it.
    copy.sql("SELECT pg_create_physical_replication_slot('of_a_standby')");
    copy.stop(Stop::Fast);
    let said = copying(&copy, &source).fail(3);
    assert_refused(&said, "of_a_standby");
    copy.start();
    copy.sql("SELECT pg_drop_replication_slot('of_a_standby')");
    copy.sql("ALTER SYSTEM SET archive_mode = 'on'");
    copy.stop(Stop::Fast);
    let said = copying(&copy, &source).fail(3);
    assert_refused(&said, "archive_mode was changed");
    copy.start();
    copy.sql("ALTER SYSTEM SET archive_mode = 'off'");
    copy.stop(Stop::Fast);
    // Without the mark it is what any server on a newer timeline is.
    fs::remove_file(copy.pgdata().join("pg_reseed.clone")).unwrap();
    let said = copying(&copy, &source).fail(3);
    assert_refused(&said, "perhaps the real primary");
    copy.write("pg_reseed.clone", mark.clone());
    copying(&copy, &source).succeed();

    // A real primary that the mark was copied to.
    let pair = Pair::streaming(&scene, |_| {});
    let mut other = pair.new;
    other.promote();
    other.sql("CREATE TABLE precious (i int)");
    other.stop(Stop::Fast);
    other.write("pg_reseed.clone", mark);
    let said = copying(&other, &pair.old).fail(3);
    assert_refused(&said, "does not fit");
}

#[test]
fn a_copy_becomes_a_clean_standby_only_when_told() {
    let scene = Scene::new();
    let (source, mut copy) = both(&scene);
    copy.write(
        "postgresql.auto.conf",
        "archive_mode = 'always'\nwork_mem = '9MB'\n",
    );
    copying(&copy, &source).args(["--start"]).succeed();
    copy.sql("CREATE TABLE own (i int)");
    copy.stop(Stop::Fast);
    let said = Rebuild::new(&copy, &source).fail(3);
    assert_refused(&said, "a copy of cluster");
    let said = Rebuild::new(&copy, &source)
        .arg("--discard-newer-timeline")
        .succeed();
    assert!(
        said.report()["warnings"]
            .to_string()
            .contains("target-is-copy"),
        "{said}"
    );
    assert!(!copy.exists("pg_reseed.clone"));
    let conf = copy.read("postgresql.auto.conf");
    for name in [
        "hot_standby",
        "synchronous_standby_names",
        "max_logical",
        "exit 1",
    ] {
        assert!(!conf.contains(name), "{conf}");
    }
    assert!(
        conf.contains("archive_mode = 'always'") && conf.contains("work_mem"),
        "{conf}"
    );
    copy.start();
    source.wait_caught_up(&copy);
    assert_eq!(digests(&copy), digests(&source));
}

#[test]
fn hooks_run_before_anybody_comes_in_and_leave_no_trace() {
    let scene = Scene::new();
    let (source, mut copy) = both(&scene);
    source.sql("CREATE DATABASE other");
    let file = scene.path().join("mask.sql");
    fs::write(
        &file,
        "\\connect other\nCREATE TABLE masked AS SELECT 'hush-file' AS f\n",
    )
    .unwrap();
    let said = copying(&copy, &source)
        .args([
            "--before-start",
            "UPDATE t SET f = 'masked'; SELECT 'hush-typed'",
        ])
        .args(["--before-start", &format!("@{}", file.display())])
        .args(["--before-start", "ALTER SYSTEM SET work_mem = '9MB'"])
        .args([
            "--start",
            "--after-start",
            "CREATE TABLE after_start (i int)",
        ])
        .succeed();
    assert_eq!(said.report()["copy"]["hooks"], 4, "{said}");
    let all = format!("{said}{}{}", said.report(), copy.read("pg_reseed.clone"));
    assert!(!all.contains("hush"), "{all}");
    assert_eq!(copy.sql("SELECT count(*) FROM t WHERE f <> 'masked'"), "0");
    assert_eq!(copy.sql_in("other", "SELECT count(*) FROM masked"), "1");
    assert_eq!(copy.sql("SELECT count(*) FROM after_start"), "0");
    assert_eq!(copy.sql("SHOW work_mem"), "9MB");
    for name in ["pg_reseed.hba", "pg_reseed.ident"] {
        assert!(!copy.exists(name), "{name}");
    }
    let conf = copy.read("postgresql.auto.conf");
    assert!(
        !conf.contains("hba_file") && !conf.contains("listen_addresses"),
        "{conf}"
    );
    assert!(copy.read("pg_reseed.clone").contains("\"is_ready\": true"));
    copy.restart();
    // The next night.
    let said = copying(&copy, &source)
        .args(["--stop", "--before-start", "UPDATE t SET f = 'again'"])
        .succeed();
    println!(
        "{} of {} bytes",
        said.number("moved_bytes"),
        said.number("full_copy_bytes")
    );
    copy.start();
    assert_eq!(copy.sql("SELECT count(*) FROM t WHERE f <> 'again'"), "0");
    assert_left_alone(&source);
}

/// Nobody comes in by a plain start, but the owner through the door of the hooks.
fn assert_closed(copy: &mut Cluster) {
    let started = copy.try_start();
    assert!(copy.try_sql("postgres", "SELECT 1").is_err(), "{started:?}");
    if started.is_ok() {
        let conf = copy.read("postgresql.auto.conf");
        let line = conf
            .lines()
            .rfind(|line| line.starts_with("unix_socket_directories"));
        let door = line.unwrap().split('\'').nth(1).unwrap().to_owned();
        let with = |role: &str| {
            copy.client("psql")
                .env("PGHOST", &door)
                .env("PGUSER", role)
                .args(["-Atc", "SELECT 1"])
                .output()
                .unwrap()
        };
        let stranger = with("app");
        let words = String::from_utf8_lossy(&stranger.stderr).into_owned();
        assert!(words.contains("no pg_hba.conf entry"), "{words}");
        assert!(with("postgres").status.success());
        copy.stop(Stop::Fast);
    }
}

#[test]
fn a_hook_that_fails_leaves_the_copy_closed() {
    let scene = Scene::new();
    let (source, mut copy) = both(&scene);
    source.sql("CREATE ROLE app LOGIN SUPERUSER");
    let wrong = ["--before-start", "SELECT 'hush';\nUPDATE hush SET f = 'x'"];
    let said = copying(&copy, &source).args(wrong).arg("--start").fail(6);
    assert_eq!(said.word("outcome"), "copied-not-ready", "{said}");
    assert!(said.stderr.contains("at line 2 (SQLSTATE 42P01)"), "{said}");
    assert!(
        !format!("{said}{}", said.report()).contains("hush"),
        "{said}"
    );
    assert!(copy.log().contains("relation \"hush\" does not exist"));
    assert!(!copy.is_server_alive());
    assert_closed(&mut copy);
    assert_left_alone(&source);
    // The same command again, and the script mended.
    let said = copying(&copy, &source)
        .args(["--before-start", "UPDATE t SET f = 'x'", "--start"])
        .args(["--after-start", "SELECT 1/0"])
        .fail(6);
    assert!(said.stderr.contains("--after-start failed"), "{said}");
    assert!(
        said.number("moved_bytes") * 2 < said.number("full_copy_bytes"),
        "{said}"
    );
    assert!(!copy.is_server_alive());
    assert_closed(&mut copy);
    copying(&copy, &source)
        .args(["--before-start", "UPDATE t SET f = 'x'", "--start"])
        .succeed();
    assert_eq!(copy.sql("SELECT count(*) FROM t WHERE f <> 'x'"), "0");
}

#[test]
fn a_run_that_is_killed_while_a_hook_runs_leaves_the_copy_closed() {
    let scene = Scene::new();
    let (source, mut copy) = both(&scene);
    source.sql("CREATE ROLE app LOGIN SUPERUSER");
    let there = scene.path().join("there");
    let sleep = format!("\\! touch {}\nSELECT pg_sleep(600)", there.display());
    let in_hook = |copy: &Cluster| {
        let _ = fs::remove_file(&there);
        let mut running = copying(copy, &source)
            .args(["--before-start", &sleep, "--start"])
            .spawn();
        running.wait_for("the hook runs", |_: &Running| there.exists());
        running
    };
    let running = in_hook(&copy);
    assert_left_alone(&source);
    running.kill();
    drop(running);
    assert!(copy.is_server_alive());
    assert!(copy.try_sql("postgres", "SELECT 1").is_err());
    // As by a crash of the host.
    copy.stop(Stop::Immediate);
    assert_closed(&mut copy);
    // A signal ends hook and server.
    let running = in_hook(&copy);
    rustix::process::kill_process(running.pid(), rustix::process::Signal::TERM).unwrap();
    let said = running.wait();
    assert_eq!((said.code(), copy.is_server_alive()), (6, false), "{said}");
    assert_closed(&mut copy);
    let said = copying(&copy, &source)
        .args(["--before-start", "UPDATE t SET f = 'x'", "--start"])
        .succeed();
    assert!(
        said.number("moved_bytes") * 2 < said.number("full_copy_bytes"),
        "{said}"
    );
    assert_eq!(copy.sql("SELECT count(*) FROM t WHERE f <> 'x'"), "0");
    assert_eq!(digests(&source).len(), digests(&copy).len());
}
