//! Targets in which a file is lost or torn: by a killed restore or pg_rewind, or by a loss of power.

use std::fs;
use std::path::Path;

use crate::cluster::{Pair, Scene, Stop};
use crate::early::{refused, start_and_compare, table};
use crate::oracle::{assert_untouched, tree};

// ------------------------------------------------------------------------------------------ a lost control file

/// As killed restores and pg_rewinds leave it.
fn lose_control(pgdata: &Path, how: usize) {
    let path = pgdata.join("global/pg_control");
    let whole = fs::read(&path).unwrap();
    match how {
        0 => fs::remove_file(&path).unwrap(),
        1 => fs::write(&path, "").unwrap(),
        2 => fs::write(&path, &whole[..100]).unwrap(),
        3 => fs::write(&path, vec![0; whole.len()]).unwrap(),
        _ => {
            let mut torn = whole;
            torn[100] ^= 1;
            fs::write(&path, torn).unwrap();
        }
    }
}

#[test]
fn a_target_that_lost_its_control_file_is_brought_back_by_an_option() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    for how in 0..5 {
        pair.old.write("postgresql.conf", {
            let text = pair.old.read("postgresql.conf");
            format!("{text}work_mem = '{}MB'\n", 7 + how)
        });
        lose_control(pair.old.pgdata(), how);
        refused(
            &pair.old,
            || pair.rebuild(),
            &["--overwrite-unknown-cluster"],
        );
        let option = match how {
            1 => "--overwrite-foreign-cluster",
            _ => "--overwrite-unknown-cluster",
        };
        pair.rebuild().args([option, "--dry-run"]).succeed();
        let said = pair.rebuild().arg(option).succeed();
        // It is no seed: what is there is compared, and its configuration is its own.
        assert_eq!(said.word("mode"), "rebuild");
        assert!(
            said.number("moved_bytes") < said.number("full_copy_bytes") / 4,
            "{said}"
        );
        pair.old.start();
        assert_eq!(pair.old.sql("SHOW work_mem"), format!("{}MB", 7 + how));
        pair.check_equal();
        pair.old.stop(Stop::Fast);
    }
}

#[test]
fn an_interrupted_run_over_a_lost_control_file_is_finished_without_the_option() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    lose_control(pair.old.pgdata(), 2);
    pair.old.configure("work_mem = '7MB'");
    let mut running = pair
        .rebuild()
        .args(["--overwrite-unknown-cluster", "--progress", "json"])
        .spawn();
    running.wait_closed(&pair.old);
    running.kill();
    drop(running);
    let said = pair.rebuild().succeed();
    // Not taken for the remains of a seed, which would get the source's configuration.
    assert_eq!(said.word("mode"), "rebuild");
    pair.old.start();
    assert_eq!(pair.old.sql("SHOW work_mem"), "7MB");
    pair.check_equal();
}

#[test]
fn wal_that_nobody_can_tell_apart_is_not_silently_given_up() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    lose_control(pair.old.pgdata(), 1);
    let kept = scene.path().join("kept");
    let before = tree(pair.old.pgdata());
    let said = pair
        .rebuild()
        .arg("--overwrite-unknown-cluster")
        .arg("--keep-diverged-wal")
        .arg(&kept)
        .fail(3);
    assert_untouched(&before, pair.old.pgdata());
    assert!(said.messages().contains("--keep-diverged-wal"), "{said}");
}

/// A killed pg_rewind has cut off whatever file it was about to write, but for the control file.
#[test]
fn a_target_is_recognised_by_its_control_file_alone() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.old.write("PG_VERSION", "");
    let database = pair.old.pgdata().join(table(&pair.new));
    fs::write(database.parent().unwrap().join("PG_VERSION"), "").unwrap();
    fs::write(database, "").unwrap();
    // No server starts with it, so it is nobody's choice.
    pair.old.write("pg_hba.conf", "");
    fs::remove_file(pair.old.pgdata().join("pg_xact/0000")).unwrap();
    let said = pair.rebuild().succeed();
    assert!(said.messages().contains("\"pg_hba.conf\""), "{said}");
    assert_eq!(pair.old.read("pg_hba.conf"), pair.new.read("pg_hba.conf"));
    start_and_compare(&mut pair);
    pair.old.stop(Stop::Fast);
    fs::remove_file(pair.old.pgdata().join("PG_VERSION")).unwrap();
    pair.rebuild().succeed();
    start_and_compare(&mut pair);
}

// ---------------------------------------------------------------------------------------------------- postmaster.pid

#[test]
fn a_torn_pid_file_is_refused_with_its_remedy() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    for torn in [&b""[..], b"\0\0\0\0\0\0\0\0", b"\n"] {
        pair.old.write("postmaster.pid", torn);
        refused(&pair.old, || pair.rebuild(), &["remove \"postmaster.pid\""]);
    }
    fs::remove_file(pair.old.pgdata().join("postmaster.pid")).unwrap();
    pair.rebuild().succeed();
    start_and_compare(&mut pair);
}

/// As it comes back when the power fails before its removal was on disk: without content, with parts of it, or with the
/// number of a process that lives by now.
#[test]
fn a_pid_file_that_came_back_does_not_lock_out_the_run_that_left_it() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let mut running = pair.rebuild().args(["--progress", "json"]).spawn();
    running.wait_closed(&pair.old);
    running.kill();
    drop(running);
    assert!(pair.old.exists("pg_reseed.state"));
    let saved = scene.path().join("saved");
    let copy = |from: &Path, to: &Path| {
        let mut command = std::process::Command::new("cp");
        assert!(
            command
                .arg("-a")
                .arg(from)
                .arg(to)
                .status()
                .unwrap()
                .success()
        );
    };
    copy(pair.old.pgdata(), &saved);
    // The test itself lives, and works elsewhere.
    let living = std::process::id();
    let place = pair.old.pgdata().display().to_string();
    for text in [
        String::new(),
        "\0\0\0\0".to_owned(),
        format!("{living}\n{place}\n"),
        format!("{living}\n{place}\npg_reseed\n"),
        format!("{living}\n{place}\n1700000000\n5432\n/tmp\n\n"),
    ] {
        fs::remove_dir_all(pair.old.pgdata()).unwrap();
        copy(&saved, pair.old.pgdata());
        pair.old.write("postmaster.pid", &text);
        pair.rebuild().succeed();
        assert!(!pair.old.exists("postmaster.pid"), "{text:?}");
    }
    start_and_compare(&mut pair);
}

/// Killed before it had closed anything: no marker, and the target is what it was.
#[test]
fn our_own_pid_file_in_an_untouched_target_is_known() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let place = pair.old.pgdata().display().to_string();
    let living = std::process::id();
    pair.old
        .write("postmaster.pid", format!("{living}\n{place}\npg_reseed\n"));
    pair.rebuild().arg("--dry-run").succeed();
    pair.rebuild().succeed();
    start_and_compare(&mut pair);
}
