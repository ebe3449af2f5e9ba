//! What a directory is, and whether it needs a rebuild.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::cluster::{
    Cluster, DEADLINE, Pair, Rebuild, Scene, Stop, binary, bindir, clean, done, eventually,
};
use crate::oracle::{assert_untouched, tree};
use crate::rebuild::assert_source_as_found;

fn command(target: &Cluster) -> Command {
    let mut command = clean(Command::new(binary()));
    command
        .args(["inspect", "--json", "-D"])
        .arg(target.pgdata());
    command
}

/// What `inspect --json` says of a directory alone.
fn alone(target: &Cluster) -> Value {
    serde_json::from_str(&done(&mut command(target))).unwrap()
}

/// What it says of a directory beside a source. Neither side may be changed by it.
pub fn beside(target: &Cluster, source: &Cluster, options: &[&str]) -> Value {
    let before = tree(target.pgdata());
    let slots = source.sql("SELECT count(*) FROM pg_replication_slots");
    let found = done(
        command(target)
            .args(["-d", &source.conninfo(), "--from", "local"])
            .args([
                "--source-dbname",
                &format!("{} dbname=postgres", source.conninfo()),
            ])
            .args(options),
    );
    assert_untouched(&before, target.pgdata());
    assert_source_as_found(source, slots.parse().unwrap());
    serde_json::from_str(&found).unwrap()
}

fn verdict(found: &Value) -> &str {
    found["advice"]["verdict"].as_str().unwrap()
}

#[test]
fn a_directory_is_described_as_pg_controldata_does() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    let running = alone(&primary);
    assert_eq!(
        running["cluster"]["server_pid"],
        primary.postmaster().unwrap().as_raw_nonzero().get()
    );
    primary.stop(Stop::Fast);
    let found = alone(&primary);
    let cluster = &found["cluster"];
    for (name, field) in [
        ("system_identifier", "Database system identifier"),
        ("checkpoint", "Latest checkpoint location"),
        ("redo", "Latest checkpoint's REDO location"),
    ] {
        assert_eq!(cluster[name], primary.control()[field], "{name}: {found}");
    }
    assert_eq!(found["condition"], "cluster");
    assert_eq!(cluster["state"], "shut_down");
    assert_eq!(cluster["data_checksums"], true);
    assert_eq!(cluster["timeline"], 1);
    assert_eq!(
        cluster["major"].to_string(),
        primary.read("PG_VERSION").trim()
    );
    assert!(cluster["server_pid"].is_null() && found["source"].is_null());
    let vacant = scene.vacant("vacant");
    assert_eq!(alone(&vacant)["condition"], "missing");
    fs::create_dir(vacant.pgdata()).unwrap();
    assert_eq!(alone(&vacant)["condition"], "empty");
    vacant.write("notes.txt", "mine");
    assert_eq!(alone(&vacant)["condition"], "unknown");
}

#[test]
fn diverged_primary_is_told_what_only_it_has_and_how_to_rebuild_it() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let found = beside(&pair.old, &pair.new, &["--slot", "old"]);
    assert_eq!(verdict(&found), "rebuild", "{found}");
    assert_eq!(found["relation"], "diverged");
    assert!(found["divergence"]["lost_bytes"].as_u64().unwrap() > 0);
    assert_eq!(found["divergence"]["is_exact"], true);
    // The command does what it says, as it stands.
    let advised = found["command"].as_str().unwrap().to_owned();
    let mut words = shlex::split(&advised).unwrap().into_iter();
    assert_eq!(words.next().unwrap(), "pg_reseed");
    let mut rebuild = clean(Command::new(binary()));
    rebuild
        .args(words)
        .args(["--create-slot", "--no-sync", "--start", "--bindir"]);
    rebuild.arg(bindir());
    rebuild.arg("--log-file").arg(pair.old.log_path());
    done(&mut rebuild);
    pair.check_equal();
}

#[test]
fn interrupted_rebuild_is_recognised() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut running = pair.rebuild().args(["--max-rate", "32k"]).spawn();
    running.wait_closed(&pair.old);
    assert_eq!(alone(&pair.old)["cluster"]["is_locked"], true);
    running.kill();
    drop(running);
    eventually("the agent is gone", DEADLINE, || {
        (pair.new.sql("SELECT count(*) FROM pg_replication_slots") == "0").then_some(())
    });
    let found = beside(&pair.old, &pair.new, &[]);
    assert_eq!(found["condition"], "interrupted");
    assert_eq!(verdict(&found), "run-again");
    let age = found["cluster"]["interrupted"]["age_seconds"].as_u64();
    assert!(age.is_some_and(|age| age < 120), "{found}");
    assert_eq!(found["cluster"]["is_locked"], false);
    pair.rebuild().succeed();
}

/// A standby that lags needs no rebuild as long as the source has its WAL, and one once it has not; what the
/// server itself says when the standby starts is the judge.
#[test]
fn lagging_standby_is_told_whether_the_source_has_its_wal() {
    let scene = Scene::new();
    let pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t (i int)");
    });
    let Pair {
        old: primary,
        new: mut standby,
    } = pair;
    standby.stop(Stop::Fast);
    primary.sql("INSERT INTO t VALUES (1)");
    let found = beside(&standby, &primary, &[]);
    assert_eq!(verdict(&found), "reattach", "{found}");
    assert_eq!(found["advice"]["kept_by"], "wal-keep-size");
    assert_eq!(found["relation"], "lagging");
    let command = found["command"].as_str().unwrap();
    assert!(command.contains("pg_ctl start -D "), "{command}");
    standby.start();
    primary.wait_caught_up(&standby);

    standby.stop(Stop::Fast);
    primary.sql("ALTER SYSTEM SET wal_keep_size = 0");
    primary.sql("SELECT pg_reload_conf()");
    primary.wait_sql("SHOW wal_keep_size", "0");
    for _ in 0..3 {
        primary.sql("INSERT INTO t VALUES (2)");
        primary.sql("SELECT pg_switch_wal()");
    }
    primary.sql("CHECKPOINT");
    let found = beside(&standby, &primary, &[]);
    assert_eq!(verdict(&found), "wal-gone", "{found}");
    assert!(
        found["command"]
            .as_str()
            .unwrap()
            .starts_with("pg_reseed rebuild -D ")
    );
    standby.start();
    eventually("the source says so too", DEADLINE, || {
        standby
            .log()
            .contains("has already been removed")
            .then_some(())
    });
    standby.stop(Stop::Fast);
    Rebuild::new(&standby, &primary).arg("--start").succeed();
    primary.wait_caught_up(&standby);
}

#[test]
fn slot_that_keeps_the_wal_is_named() {
    let scene = Scene::new();
    let pair = Pair::streaming_with(&scene, &["--create-slot", "--slot", "mine"], |old| {
        old.sql("CREATE TABLE t (i int)");
    });
    let Pair {
        old: primary,
        new: mut standby,
    } = pair;
    standby.stop(Stop::Fast);
    primary.sql("INSERT INTO t VALUES (1)");
    let found = beside(&standby, &primary, &["--slot", "mine"]);
    assert_eq!(verdict(&found), "reattach", "{found}");
    assert_eq!(found["advice"]["kept_by"], "slot");
    assert_eq!(found["source"]["slot"]["name"], "mine");
}

/// The question before a controlled switchover, asked while the standby lacks the end and when it has it.
#[test]
fn switchover_waits_until_the_standby_has_replayed_everything() {
    let scene = Scene::new();
    let pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t (i int)");
    });
    let Pair {
        old: mut primary,
        new: mut standby,
    } = pair;
    standby.sql("SELECT pg_wal_replay_pause()");
    standby.wait_sql("SELECT pg_is_wal_replay_paused()", "t");
    primary.sql("INSERT INTO t SELECT generate_series(1, 1000)");
    primary.stop(Stop::Fast);
    let found = beside(&primary, &standby, &[]);
    assert_eq!(verdict(&found), "switchover-too-early", "{found}");
    assert!(found["advice"]["missing_bytes"].as_u64().unwrap() > 0);
    standby.sql("SELECT pg_wal_replay_resume()");
    eventually("the standby has replayed everything", DEADLINE, || {
        (verdict(&beside(&primary, &standby, &[])) == "switchover-ready").then_some(())
    });
    // It was true: the old primary follows the new one without a rebuild.
    standby.promote();
    let found = beside(&primary, &standby, &[]);
    assert_eq!(found["relation"], "clean-ancestor", "{found}");
    assert_eq!(verdict(&found), "reattach", "{found}");
    primary.write("standby.signal", "");
    primary.configure(&format!("primary_conninfo = '{}'", standby.conninfo()));
    primary.start();
    standby.wait_caught_up(&primary);
    assert_eq!(primary.sql("SELECT count(*) FROM t"), "1000");
    standby.stop(Stop::Fast);
}

#[test]
fn other_cluster_is_no_target() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    let foreign = scene.foreign_cluster("foreign", &[]);
    let found = beside(&foreign, &source, &[]);
    assert_eq!(verdict(&found), "foreign", "{found}");
    assert!(found["command"].is_null());
}
