//! What the standby is told in its configuration, and what is saved of the target before it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use insta::assert_snapshot;

use crate::cluster::{Pair, Rebuild, Scene, Stop, bindir, clean, done, major};
use crate::guards::words;
use crate::oracle::{assert_untouched, tree};

/// A diverged pair whose new primary was given more room than the old one has.
fn pair_with_larger_source(scene: &Scene) -> Pair {
    let mut pair = Pair::diverged(scene);
    // The default up to 18.
    pair.old.configure("max_locks_per_transaction = 64");
    pair.new.sql("ALTER SYSTEM SET max_connections = 60");
    pair.new
        .sql("ALTER SYSTEM SET max_locks_per_transaction = 80");
    pair.new.restart();
    pair
}

#[test]
fn settings_lower_than_the_sources_are_refused_with_the_lines_to_change() {
    let scene = Scene::new();
    let pair = pair_with_larger_source(&scene);
    let mut texts = BTreeSet::new();
    for options in [&[][..], &["--dry-run"], &["--stop"]] {
        let before = tree(pair.old.pgdata());
        let said = pair
            .rebuild()
            .args(options)
            .args(["--progress", "none"])
            .fail(3);
        assert_untouched(&before, pair.old.pgdata());
        texts.insert(words(&scene, &said));
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert_snapshot!(texts.first().unwrap(), @r#"
    pg_reseed: error: settings of the target are lower than the source's
    pg_reseed: detail: "max_connections" is 40 in the target and 60 in the source. "max_locks_per_transaction" is 64 in the target and 80 in the source. A standby with less lets no session in.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Set in the target's configuration: max_connections = 60, max_locks_per_transaction = 80; or use --raise-settings.
    "#);
    // What the message asks for is enough.
    pair.old
        .configure("max_connections = 60\nmax_locks_per_transaction = 80");
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
}

#[test]
fn settings_lower_than_the_sources_are_raised_if_asked_for() {
    let scene = Scene::new();
    let pair = pair_with_larger_source(&scene);
    pair.rebuild()
        .args(["--raise-settings", "--start"])
        .succeed();
    pair.check_equal();
    assert_eq!(pair.old.sql("SHOW max_connections"), "60");
    assert_eq!(pair.old.sql("SHOW max_locks_per_transaction"), "80");
    assert_eq!(pair.old.sql("SHOW max_worker_processes"), "8");
}

#[test]
fn settings_of_the_source_need_no_raising() {
    let scene = Scene::new();
    let pair = pair_with_larger_source(&scene);
    // The source's files come, its socket directory among them: nothing is started.
    pair.rebuild().args(["--config", "source"]).succeed();
    assert!(
        pair.old
            .read("postgresql.auto.conf")
            .contains("max_connections = '60'")
    );
}

#[test]
fn commands_and_timeline_of_the_standby_are_set() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.old.configure("archive_cleanup_command = 'false'");
    pair.rebuild()
        .args(["--archive-cleanup-command", "true %r"])
        .args(["--restore-command", "false %f %p"])
        .args(["--recovery-target-timeline", "2", "--start"])
        .succeed();
    pair.check_equal();
    for (name, value) in [
        ("archive_cleanup_command", "true %r"),
        ("restore_command", "false %f %p"),
        ("recovery_target_timeline", "2"),
    ] {
        assert_eq!(pair.old.sql(&format!("SHOW {name}")), value);
    }
}

/// The standby's name in the source's views: that of its cluster, or of its host.
#[test]
fn standby_has_a_name_although_nobody_gave_one() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim();
    let rebuild = |conninfo: &str| {
        Rebuild::without_name(&pair.old, conninfo)
            .args(["--from", "local", "--source-dbname"])
            .arg(format!("{} dbname=postgres", pair.new.conninfo()))
            .args(["--stop", "--start"])
            .succeed();
        let names = "SELECT string_agg(application_name, ',') FROM pg_stat_replication";
        pair.new.sql(names)
    };
    let plain = pair.new.conninfo();
    assert_eq!(rebuild(&plain), "old");
    let written = pair.old.read("postgresql.auto.conf");
    assert!(!written.contains("application_name"), "{written}");
    pair.old.configure("cluster_name = ''");
    assert_eq!(rebuild(&plain), host);
    assert_eq!(rebuild(&format!("{plain} application_name=given")), "given");
}

/// What an interrupted seed has brought is not taken for the target's own configuration by the run that finishes it.
#[test]
fn seed_that_was_interrupted_gets_the_name_that_it_had_got() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    let target = scene.vacant("target");
    let seed = || {
        Rebuild::without_name(&target, &source.conninfo())
            .args(["--from", "local", "--source-dbname"])
            .arg(format!("{} dbname=postgres", source.conninfo()))
    };
    let mut running = seed().args(["--max-rate", "1M"]).spawn();
    running.wait_for("the source's configuration has come", |_| {
        target.exists("postgresql.conf") && target.read("postgresql.conf").contains("cluster_name")
    });
    running.kill();
    drop(running);
    seed().succeed();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let written = target.read("postgresql.auto.conf");
    let name = format!("application_name={}", host.trim());
    assert!(written.contains(&name), "{written}");
}

#[test]
fn slot_synchronisation_without_what_it_needs_is_a_warning() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    // Servers before 17 do not know it and do not start: nothing is started.
    pair.old.configure("sync_replication_slots = on");
    let said = pair.rebuild().args(["--progress", "none"]).succeed();
    // The server's own program says at the end of a run that it does not know the setting.
    let messages = said.messages();
    let warning = messages.lines().next().unwrap();
    // Since 19 the primary's WAL decides.
    let before_19 = warning.replace("feedback = on.", "feedback = on, wal_level = logical.");
    assert_eq!(before_19 == warning, major() < 19, "{warning}");
    assert_snapshot!(before_19, @"pg_reseed: warning: The target's configuration asks for slot synchronisation (sync_replication_slots), which also needs a database in the connection string (dbname=... in -d), a slot (--slot), hot_standby_feedback = on, wal_level = logical.");
    let said = pair
        .rebuild()
        .args(["--dry-run", "--progress", "none"])
        .succeed();
    assert!(said.messages().starts_with(warning), "{said}");
}

/// What was lost is in the saved WAL: the very record of a transaction that only the old primary committed.
#[test]
fn wal_that_only_the_target_has_is_saved_and_can_be_read() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.old.start();
    let lost = pair
        .old
        .sql("BEGIN; INSERT INTO t VALUES (-1, 'lost'); SELECT pg_current_xact_id(); COMMIT");
    let lost = lost.lines().last().unwrap().to_owned();
    pair.old.stop(Stop::Fast);
    let kept = scene.path().join("kept/wal");
    let said = pair
        .rebuild()
        .args(["--keep-diverged-wal"])
        .arg(&kept)
        .arg("--start")
        .succeed();
    pair.check_equal();
    let report = &said.report()["kept_wal"];
    assert_eq!(report["directory"], kept.display().to_string());
    let note = fs::read_to_string(kept.join("README.pg_reseed")).unwrap();
    let command = note
        .lines()
        .find(|line| line.contains("pg_waldump --path"))
        .unwrap();
    let mut words = shlex::split(command).unwrap().into_iter();
    let segments = report["files"].as_u64().unwrap();
    assert_eq!(segments + 1, fs::read_dir(&kept).unwrap().count() as u64);
    let program = bindir().join(words.next().unwrap());
    if !program.exists() {
        eprintln!("no pg_waldump in {}", bindir().display());
        return;
    }
    // It ends with an error where the WAL ends.
    let output = clean(Command::new(program)).args(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let is_commit =
        |line: &str| line.contains("COMMIT") && line.contains(&format!("tx: {lost:>10}"));
    assert!(
        text.lines().any(is_commit),
        "transaction {lost} is not in\n{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn wal_is_saved_before_a_run_that_is_interrupted_and_not_twice() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let kept = scene.path().join("kept");
    let rebuild = || pair.rebuild().arg("--keep-diverged-wal").arg(&kept);
    let mut running = rebuild().args(["--max-rate", "32k"]).spawn();
    running.wait_closed(&pair.old);
    running.kill();
    drop(running);
    let content = || -> BTreeMap<_, _> {
        fs::read_dir(&kept)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    };
    let saved = content();
    assert!(saved.len() > 1);
    rebuild().arg("--start").succeed();
    pair.check_equal();
    // Segments that the second run still found were saved again.
    assert!(saved == content());
}

#[test]
fn place_for_diverged_wal_that_is_taken_is_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let kept = scene.folder("kept");
    fs::write(kept.join("photo"), "mine").unwrap();
    let before = tree(pair.old.pgdata());
    let said = pair
        .rebuild()
        .args(["--progress", "none", "--keep-diverged-wal"])
        .arg(&kept)
        .fail(3);
    assert_untouched(&before, pair.old.pgdata());
    assert_snapshot!(words(&scene, &said), @r#"
    pg_reseed: error: diverged WAL cannot be saved in the directory "SCENE/kept"
    pg_reseed: detail: It holds what no earlier run has saved.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Give --keep-diverged-wal an empty or missing directory that no rebuild touches.
    "#);
    done(Command::new("rm").arg(kept.join("photo")));
    pair.rebuild()
        .arg("--keep-diverged-wal")
        .arg(&kept)
        .succeed();
}
