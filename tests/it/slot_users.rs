//! One slot, one standby: who has it is seen before and after, and our stream is known by our own walreceiver.

use std::fs;
use std::net::TcpListener;

use crate::cluster::{Cluster, Pair, Rebuild, Scene, Stop, bindir, eventually};
use crate::oracle::{assert_untouched, tree};

/// A run that stays under way until it is told to end.
const SLOW: [&str; 2] = ["--max-rate", "64k"];

#[test]
fn two_runs_cannot_have_one_slot() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let second = scene.copy("second", &pair.old);
    pair.new.sql("CREATE DATABASE other");
    let bare = |target: &Cluster, database: &str| {
        Rebuild::with_conninfo(target, &pair.new.conninfo())
            .args(["--from", "local", "--source-dbname"])
            .arg(format!("{} dbname={database}", pair.new.conninfo()))
            .args(["--create-slot", "--progress", "none"])
    };
    let with_slot = |target: &Cluster, database| bare(target, database).args(["--slot", "s"]);
    let mut first = with_slot(&pair.old, "postgres").args(SLOW).spawn();
    first.wait_closed(&pair.old);
    let before = tree(second.pgdata());
    for (database, options) in [
        ("postgres", &["--start"][..]),
        // Locks of a kind that each database has for itself.
        ("other", &[]),
        ("other", &["--dry-run"]),
    ] {
        let said = with_slot(&second, database).args(options).fail(3);
        let words = said.messages();
        let error = "another run of pg_reseed uses replication slot \"s\" of the source now";
        assert!(words.contains(error), "{said}");
        // It is named after its target.
        let other = words.contains("of the source, \"pg_reseed ") && words.contains("old/data ");
        assert!(other, "{said}");
        assert_untouched(&before, second.pgdata());
    }
    // A slot of its own is nobody else's business.
    bare(&second, "other").args(["--slot", "t"]).succeed();
    first.kill();
    drop(first);
    // What the killed run leaves is given back within moments.
    with_slot(&pair.old, "other").arg("--start").succeed();
    pair.check_equal();
    // Nor do runs of the same command one after the other disturb each other.
    with_slot(&pair.old, "postgres")
        .args(["--stop", "--start"])
        .succeed();
    pair.check_equal();
}

/// A lock of this kind can be had while a server is in recovery.
#[test]
fn two_runs_cannot_have_one_slot_of_a_standby_either() {
    let scene = Scene::new();
    let pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 50000) AS i");
    });
    let (one, two) = (scene.vacant("one"), scene.vacant("two"));
    let with_slot = |target: &Cluster| {
        Rebuild::new(target, &pair.new)
            .args(["--slot", "s", "--create-slot", "--progress", "none"])
            .args(SLOW)
    };
    let mut first = with_slot(&one).spawn();
    first.wait_closed(&one);
    let said = with_slot(&two).fail(3);
    assert!(said.messages().contains("another run"), "{said}");
    first.kill();
}

/// The target's own server releases its slot when it is stopped; another's is refused by name.
#[test]
fn slot_in_use_is_refused_unless_the_target_uses_it_itself() {
    let scene = Scene::new();
    let Pair { old, mut new } = Pair::diverged(&scene);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    new.configure(&format!("listen_addresses = '127.0.0.1'\nport = {port}"));
    new.stop(Stop::Fast);
    let mut new = new.on_port(port);
    new.start();
    let pair = Pair { old, new };
    for host in ["127.0.0.1", &pair.new.home().display().to_string()] {
        let conninfo = format!("host={host} port={port} user=postgres");
        let rebuild = |target: &Cluster| {
            Rebuild::with_conninfo(target, &conninfo)
                .args(["--from", "local", "--source-dbname"])
                .arg(format!("{} dbname=postgres", pair.new.conninfo()))
                // What its server receives until it is stopped may be more than the source had when it was asked.
                .arg("--discard-newer-wal")
                .args(["--slot", "s", "--create-slot", "--progress", "none"])
        };
        rebuild(&pair.old).args(["--stop", "--start"]).succeed();
        pair.new
            .wait_sql("SELECT active FROM pg_replication_slots", "t");
        let said = rebuild(&pair.old).args(["--stop", "--start"]).succeed();
        assert!(!said.stderr.contains("only one of them"), "{said}");
        pair.check_equal();
        let other = scene.vacant("other");
        let said = rebuild(&other).fail(3);
        let words = said.messages();
        assert!(words.contains("\"s\" of the source is in use"), "{said}");
        assert!(words.contains("\"old\" from"), "{said}");
        assert!(!other.pgdata().exists());
        fs::remove_dir_all(other.home()).unwrap();
    }
}

/// Another standby takes the slot, with the same name, before ours is there: ours does not stream.
#[test]
fn stream_of_another_standby_is_not_taken_for_ours() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut other = scene.standby("other", &pair.new, &[]);
    other.stop(Stop::Fast);
    other.configure(&format!(
        "primary_slot_name = 's'\nprimary_conninfo = '{} application_name=old'",
        pair.new.conninfo()
    ));
    other.write("postgresql.auto.conf", "");
    let start = |cluster: &Cluster| {
        let bindir = bindir();
        let (bindir, pgdata) = (bindir.display(), cluster.pgdata().display());
        format!(
            "{bindir}/pg_ctl start -w -D {pgdata} -l {}",
            cluster.log_path().display()
        )
    };
    // The other one first, and it streams when ours comes.
    let psql = format!(
        "until {}/psql -XAtd '{} dbname=postgres' -c \"select 1 from pg_stat_replication where state = 'streaming'\" \
         | grep -q 1; do :; done",
        bindir().display(),
        pair.new.conninfo()
    );
    let command = format!("{} && {psql} && {}", start(&other), start(&pair.old));
    let run = || {
        pair.rebuild()
            .args(["--slot", "s", "--create-slot", "--wait", "8"])
    };
    let said = run().args(["--start-command", &command]).fail(6);
    let words = said.messages();
    assert!(words.contains("another standby uses its slot"), "{said}");
    other.stop(Stop::Fast);
    // It comes once the slot is free, and is known then.
    eventually("ours has the slot", crate::cluster::DEADLINE, || {
        let active = pair.new.sql("SELECT active FROM pg_replication_slots");
        (active == "t").then_some(())
    });
    run().args(["--stop", "--start"]).succeed();
    pair.check_equal();
}

/// Who made it and why, the source does not tell: it is said that somebody may come back to it.
#[test]
fn slot_that_may_be_anothers_is_spoken_of() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.new
        .sql("SELECT pg_create_physical_replication_slot('s', true)");
    let run = || pair.rebuild().args(["--slot", "s"]);
    let words = "if a standby that is stopped uses it";
    let said = run().succeed();
    assert!(said.stderr.contains(words), "{said}");
    // Now it is the target's own.
    let said = run().arg("--start").succeed();
    assert!(!said.stderr.contains(words), "{said}");
    pair.check_equal();
}

/// What libpq finds with variables of this session only, a server does not find that systemd starts.
#[test]
fn login_by_this_sessions_environment_is_warned_of() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let services = scene.path().join("services");
    let home = pair.new.home().display();
    fs::write(
        &services,
        format!("[my svc]\nhost={home}\nport=5432\nuser=postgres\n"),
    )
    .unwrap();
    let rebuild = || {
        Rebuild::with_conninfo(&pair.old, "service='my svc'")
            .args(["--from", "local", "--progress", "none", "--source-dbname"])
            .arg(format!("{} dbname=postgres", pair.new.conninfo()))
    };
    let before = tree(pair.old.pgdata());
    let said = rebuild().fail(3);
    assert!(said.messages().contains("my svc"), "{said}");
    assert_untouched(&before, pair.old.pgdata());
    for options in [&["--dry-run"][..], &["--start"]] {
        let said = rebuild()
            .env("PGSERVICEFILE", &services)
            .args(options)
            .succeed();
        let words = "login works with PGSERVICEFILE of this session only";
        assert!(said.messages().contains(words), "{said}");
    }
    pair.check_equal();
    let said = pair.rebuild().args(["--stop", "--start"]);
    let said = said.env("PGSERVICEFILE", &services).succeed();
    assert!(!said.messages().contains("of this session"), "{said}");
}

/// The port of the source, by which this command finds it, is not that of the standby.
#[test]
fn port_of_the_environment_does_not_reach_the_standby() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let own = pair.old.read("postgresql.conf");
    let lines: Vec<&str> = own
        .lines()
        .filter(|line| !line.starts_with("port = "))
        .collect();
    pair.old.write("postgresql.conf", lines.join("\n"));
    pair.rebuild()
        .arg("--start")
        .env("PGPORT", "45912")
        .succeed();
    pair.check_equal();
    assert_eq!(pair.old.sql("SHOW port"), "5432");
}
