//! What the DBA must hear: what goes with a rebuild beside the data, before it goes and afterwards, and once.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::cluster::{Cluster, Pair, Rebuild, Said, Scene, Stop, binary, bindir, clean, done};
use crate::oracle::{assert_untouched, tree};

/// `inspect` of the old primary beside the new one.
fn inspect(pair: &Pair, options: &[&str]) -> String {
    let mut command = clean(Command::new(binary()));
    command
        .args(["inspect", "-D"])
        .arg(pair.old.pgdata())
        .args(["-d", &pair.new.conninfo(), "--from", "local"])
        .args([
            "--source-dbname",
            &format!("{} dbname=postgres", pair.new.conninfo()),
        ])
        .args(options);
    done(&mut command)
}

/// A pair whose old primary has these settings, diverged after `more` was done on both sides.
fn diverged_with(scene: &Scene, settings: &str, more: impl FnOnce(&Pair)) -> Pair {
    let mut old = scene.cluster("old");
    old.configure(settings);
    old.start();
    old.sql("CREATE TABLE t AS SELECT i, repeat('x', 100) AS f FROM generate_series(1, 5000) AS i");
    let new = scene.standby("new", &old, &[]);
    old.wait_caught_up(&new);
    let mut pair = Pair { old, new };
    more(&pair);
    pair.old.wait_caught_up(&pair.new);
    pair.fail_over();
    pair.new.sql("UPDATE t SET f = 'kept' WHERE i % 7 = 0");
    pair.old.sql("INSERT INTO t VALUES (-1, 'lost')");
    pair.old.stop(Stop::Fast);
    pair
}

/// A pair whose old primary could not archive anything.
fn unarchived(scene: &Scene) -> Pair {
    let settings = "archive_mode = on\narchive_command = '/bin/false'";
    diverged_with(scene, settings, |pair| {
        pair.old.sql("SELECT pg_switch_wal()");
        pair.old
            .sql("INSERT INTO t VALUES (0, 'both'); SELECT pg_switch_wal()");
    })
}

/// The names of what waits to be archived.
fn ready(cluster: &Cluster) -> Vec<String> {
    let names = fs::read_dir(cluster.pgdata().join("pg_wal/archive_status")).unwrap();
    let mut names: Vec<String> = names
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".ready").map(str::to_owned)
        })
        .collect();
    names.sort();
    names
}

/// Everything that a person sees.
fn seen(said: &Said) -> String {
    format!("{}{}", said.stderr, said.stdout)
}

#[test]
fn wal_that_was_never_archived_is_named_before_and_after() {
    let scene = Scene::new();
    let pair = unarchived(&scene);
    let names = ready(&pair.old);
    assert!(names.len() >= 2, "{names:?}");
    let before = tree(pair.old.pgdata());

    let text = inspect(&pair, &[]);
    assert!(
        text.contains("Not archived") && text.contains(&names[0]),
        "{text}"
    );
    assert!(text.contains("the archive has a gap there"), "{text}");
    let found: Value = serde_json::from_str(&inspect(&pair, &["--json"])).unwrap();
    assert_eq!(found["cluster"]["unarchived"]["files"], names.len());

    let dry = pair
        .rebuild()
        .args(["--dry-run", "--progress", "none"])
        .succeed();
    assert_untouched(&before, pair.old.pgdata());
    let real = pair.rebuild().args(["--progress", "none"]).succeed();
    for said in [&dry, &real] {
        let report = &said.report()["unarchived"];
        assert_eq!(report["files"], names.len(), "{said}");
        assert!(
            report["names"][0].as_str().unwrap().starts_with(&names[0]),
            "{said}"
        );
        assert!(report["of_source_history"].as_u64().unwrap() >= 2, "{said}");
        assert_eq!(report["saved"], false);
        let warnings = seen(said)
            .matches("has WAL that was never archived")
            .count();
        assert_eq!(warnings, 1, "{said}");
        assert!(
            said.stderr
                .contains("Archive it first, or save it with --keep-diverged-wal.")
        );
        assert!(said.stdout.contains("Not archived"), "{said}");
    }
    // What was archived, or needed not be, is no reason to warn.
    let again = pair.rebuild().succeed();
    assert_eq!(again.report()["unarchived"], Value::Null);
    assert!(!seen(&again).contains("archived"), "{again}");
}

#[test]
fn a_run_that_was_interrupted_does_not_forget_what_it_took_away() {
    let scene = Scene::new();
    let settings = "archive_mode = on\narchive_command = '/bin/false'";
    let pair = diverged_with(&scene, settings, |pair| {
        pair.old
            .sql("SELECT pg_create_physical_replication_slot('third'); SELECT pg_switch_wal()");
    });
    let names = ready(&pair.old);
    let mut running = pair.rebuild().args(["--max-rate", "32k"]).spawn();
    running.wait_closed(&pair.old);
    running.wait_for("WAL and slots are gone", |_| {
        !pair.old.exists(&format!("pg_wal/{}", names[0]))
    });
    running.kill();
    drop(running);
    let text = inspect(&pair, &[]);
    assert!(
        text.contains(&names[0]) && text.contains("physical \"third\""),
        "{text}"
    );
    let said = pair.rebuild().succeed();
    assert_eq!(said.report()["unarchived"]["files"], names.len(), "{said}");
    assert_eq!(said.report()["removed_slots"][0]["name"], "third", "{said}");
}

#[test]
fn wal_that_was_never_archived_is_saved_with_what_only_the_target_has() {
    let scene = Scene::new();
    let pair = unarchived(&scene);
    let names = ready(&pair.old);
    let content = |name: &String| fs::read(pair.old.pgdata().join("pg_wal").join(name)).unwrap();
    let contents: Vec<Vec<u8>> = names.iter().map(content).collect();
    let kept = scene.path().join("kept");
    let said = pair
        .rebuild()
        .arg("--keep-diverged-wal")
        .arg(&kept)
        .succeed();
    for (name, content) in names.iter().zip(&contents) {
        assert!(fs::read(kept.join(name)).unwrap() == *content, "{name}");
    }
    let report = said.report();
    assert_eq!(report["kept_wal"]["unarchived_files"], names.len());
    assert_eq!(report["unarchived"]["saved"], true);
    assert!(!said.stderr.contains("never archived"), "{said}");
    let note = fs::read_to_string(kept.join("README.pg_reseed")).unwrap();
    assert!(
        note.contains("NEVER ARCHIVED") && note.contains(&names[0]),
        "{note}"
    );
    run_commands(&note);
}

/// A standby has no WAL of its own, but it may have WAL that was never archived.
#[test]
fn of_a_standby_too() {
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t AS SELECT 1 AS i");
    });
    pair.new
        .configure("archive_mode = always\narchive_command = '/bin/false'");
    pair.new.restart();
    pair.old.wait_caught_up(&pair.new);
    pair.old
        .sql("INSERT INTO t VALUES (2); SELECT pg_switch_wal(); INSERT INTO t VALUES (3)");
    pair.old.wait_caught_up(&pair.new);
    pair.new.stop(Stop::Fast);
    let names = ready(&pair.new);
    assert!(!names.is_empty());
    let rebuild = || Rebuild::new(&pair.new, &pair.old);
    let dry = rebuild().arg("--dry-run").succeed();
    assert_eq!(dry.report()["unarchived"]["files"], names.len(), "{dry}");
    let kept = scene.path().join("kept");
    rebuild().arg("--keep-diverged-wal").arg(&kept).succeed();
    assert!(kept.join(&names[0]).exists());
    let note = fs::read_to_string(kept.join("README.pg_reseed")).unwrap();
    assert!(!note.contains("ONLY HERE"), "{note}");
}

#[test]
fn replication_slots_that_go_are_named() {
    let scene = Scene::new();
    let pair = diverged_with(&scene, "wal_level = logical", |pair| {
        pair.old
            .sql("SELECT pg_create_physical_replication_slot('third', true)");
        pair.old
            .sql("SELECT pg_create_logical_replication_slot('sub', 'pgoutput')");
    });
    // What a server that was killed leaves of a session's slot goes by itself.
    fs::create_dir(pair.old.pgdata().join("pg_replslot/torn.tmp")).unwrap();
    let database = pair
        .new
        .sql("SELECT oid FROM pg_database WHERE datname = 'postgres'");
    let logical = format!("logical \"sub\" (pgoutput, database with OID {database})");

    let text = inspect(&pair, &[]);
    assert!(
        text.contains(&logical) && text.contains("physical \"third\""),
        "{text}"
    );
    assert!(!text.contains("torn"), "{text}");
    let dry = pair
        .rebuild()
        .args(["--dry-run", "--progress", "none"])
        .succeed();
    let real = pair.rebuild().args(["--progress", "none"]).succeed();
    for said in [&dry, &real] {
        let wanted = format!(
            "pg_reseed: warning: The target has replication slots: {logical}, physical \"third\"; a rebuild removes \
             them."
        );
        assert!(said.stderr.contains(&wanted), "{said}");
        assert!(said.stdout.contains("Slots "), "{said}");
        let slots = &said.report()["removed_slots"];
        assert_eq!(slots[0]["name"], "sub");
        assert_eq!(
            (&slots[0]["kind"], &slots[0]["plugin"]),
            (&"logical".into(), &"pgoutput".into())
        );
        assert_eq!(
            (&slots[1]["name"], &slots[1]["kind"]),
            (&"third".into(), &"physical".into())
        );
        assert!(slots[1]["restart_lsn"].is_string(), "{slots}");
    }
    assert!(!pair.old.exists("pg_replslot/sub"));
}

#[test]
fn wal_that_cannot_be_saved_any_more_is_named_and_refused_unless_told() {
    let scene = Scene::new();
    let settings = "wal_keep_size = 0\nmin_wal_size = 32MB\nmax_wal_size = 64MB";
    let mut pair = diverged_with(&scene, settings, |_| {});
    pair.old.start();
    for _ in 0..4 {
        pair.old.sql("INSERT INTO t SELECT i, 'lost' FROM generate_series(1, 500) AS i; SELECT pg_switch_wal(); CHECKPOINT");
    }
    pair.old.sql("INSERT INTO t VALUES (-2, 'lost')");
    pair.old.stop(Stop::Fast);
    let kept = scene.path().join("kept");
    let rebuild = || pair.rebuild().arg("--keep-diverged-wal").arg(&kept);
    let before = tree(pair.old.pgdata());

    let text = inspect(&pair, &[]);
    assert!(
        text.contains("pg_wal has no more 0000000100000000"),
        "{text}"
    );
    let dry = rebuild().arg("--dry-run").fail(3);
    let real = rebuild().fail(3);
    assert_untouched(&before, pair.old.pgdata());
    assert!(!kept.exists());
    for said in [&dry, &real] {
        assert!(
            said.stderr
                .contains("not all WAL that only the target has can be saved"),
            "{said}"
        );
        assert!(said.stderr.contains("add --keep-incomplete-wal"), "{said}");
    }

    let said = rebuild().arg("--keep-incomplete-wal").succeed();
    assert!(
        said.stderr
            .contains("pg_reseed: warning: Its pg_wal has no more"),
        "{said}"
    );
    let missing = &said.report()["kept_wal"]["missing"];
    let first = missing[0]["first"].as_str().unwrap();
    assert!(
        !kept.join(first).exists() && said.stdout.contains(first),
        "{said}"
    );
    let note = fs::read_to_string(kept.join("README.pg_reseed")).unwrap();
    assert!(
        note.contains("IT IS NOT COMPLETE") && note.contains(first),
        "{note}"
    );
    let shown = run_commands(&note);
    assert!(shown.is_none_or(|shown| shown.contains("INSERT")), "{note}");
}

/// Runs each command of a note as it stands there: none may fail. What they print; `None` without pg_waldump.
fn run_commands(note: &str) -> Option<String> {
    if !bindir().join("pg_waldump").exists() {
        eprintln!("no pg_waldump in {}", bindir().display());
        return None;
    }
    let commands: Vec<&str> = note
        .lines()
        .filter(|line| line.contains("pg_waldump --path"))
        .collect();
    assert!(!commands.is_empty(), "{note}");
    let mut shown = String::new();
    for command in commands {
        let mut words = shlex::split(command).unwrap().into_iter();
        let program = bindir().join(words.next().unwrap());
        shown += &done(clean(Command::new(program)).args(words));
    }
    Some(shown)
}
