//! Corners where a review found that the tool would have done harm, or stopped for no good reason.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::process::{Signal, kill_process, kill_process_group};

use crate::cluster::{Cluster, Pair, Rebuild, Scene, Stop, done, tool};
use crate::guards::pair_with_tablespaces;
use crate::oracle::{assert_same_data, assert_untouched, tree};

fn map(from: &str, to: &str) -> String {
    format!("--tablespace-mapping={from}={to}")
}

/// Both sides have a tablespace in one place, each of another number.
#[test]
fn place_of_a_dropped_tablespace_can_be_that_of_a_new_one() {
    let scene = Scene::new();
    let (pair, [new1, new2], [old1, old2]) = pair_with_tablespaces(&scene);
    let late = scene.folder("late").display().to_string();
    pair.new.sql("DROP TABLE t1");
    pair.new.sql("DROP TABLESPACE s1");
    pair.new
        .sql(&format!("CREATE TABLESPACE s3 LOCATION '{late}'"));
    pair.new
        .sql("CREATE TABLE t3 TABLESPACE s3 AS SELECT generate_series(1, 5000) AS i");
    pair.rebuild()
        .args([map(&late, &old1), map(&new2, &old2)])
        .arg("--start")
        .succeed();
    pair.check_equal();
    assert_eq!(pair.old.tablespaces().len(), 2);
    assert!(Path::new(&new1).is_dir());
}

#[test]
fn wal_directory_of_a_seed_must_be_empty() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let target = scene.vacant("seeded");
    let full = scene.folder("full");
    fs::write(full.join("thesis.txt"), "the only copy").unwrap();
    let theirs = pair.new.pgdata().join("pg_wal");
    let segments = fs::read_dir(&theirs).unwrap().count();
    for waldir in [&full, &theirs, &target.pgdata().join("wal")] {
        let said = Rebuild::new(&target, &pair.new)
            .arg("--waldir")
            .arg(waldir)
            .fail(3);
        assert!(said.messages().contains("as WAL directory"), "{said}");
        assert!(!target.pgdata().exists(), "{said}");
    }
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), segments);
}

/// Killed at its very end a run may leave its marker in a target that is a primary by the next time.
#[test]
fn leftovers_of_a_finished_run_do_not_hide_a_newer_timeline() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let mut run = pair.rebuild().args(["--progress", "json"]).spawn();
    run.wait_for("the marker and the saved control file are there", |_| {
        pair.old.exists("pg_reseed.state") && !pair.old.exists("global/pg_control")
    });
    let names = ["pg_reseed.state", "pg_reseed.saved_control"];
    let left = names.map(|name| fs::read(pair.old.pgdata().join(name)).unwrap());
    let said = run.wait();
    assert_eq!(said.code(), 0, "{said}");
    for (name, content) in names.iter().zip(left) {
        pair.old.write(name, content);
    }
    pair.old.start();
    pair.new.wait_caught_up(&pair.old);
    pair.old.promote();
    pair.old.sql("CREATE TABLE only_here (i int)");
    pair.old.stop(Stop::Fast);
    let before = tree(pair.old.pgdata());
    let said = pair.rebuild().fail(3);
    assert!(
        said.messages().contains("--discard-newer-timeline"),
        "{said}"
    );
    assert_untouched(&before, pair.old.pgdata());
}

#[test]
fn cluster_that_appears_during_a_seed_is_not_overwritten() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let target = scene.vacant("seeded");
    fs::create_dir(target.pgdata()).unwrap();
    fs::set_permissions(target.pgdata(), fs::Permissions::from_mode(0o700)).unwrap();
    // A spread checkpoint leaves time; the run is held in it.
    let mut run = Rebuild::new(&target, &pair.new)
        .args(["--progress", "json", "--checkpoint", "spread"])
        .spawn();
    run.wait_for("the backup begins", |run| {
        run.events().iter().any(|event| event["stage"] == "bracket")
    });
    kill_process(run.pid(), Signal::STOP).unwrap();
    done(
        tool("initdb")
            .args(["--no-sync", "-U", "postgres", "-D"])
            .arg(target.pgdata()),
    );
    let before = tree(target.pgdata());
    kill_process(run.pid(), Signal::CONT).unwrap();
    pair.new.sql("CHECKPOINT");
    let said = run.wait();
    assert_eq!(said.code(), 3, "{said}");
    assert!(
        said.stderr.contains("changed since it was checked"),
        "{said}"
    );
    assert_untouched(&before, target.pgdata());
}

/// Same names, same lengths, other bytes; and one that the source does not have.
#[test]
fn old_copy_in_a_reused_place_of_a_seed_does_not_survive() {
    let scene = Scene::new();
    let (pair, [new1, new2], [old1, old2]) = pair_with_tablespaces(&scene);
    // Pages of zeros at the end of a file, as left by an extension.
    let path = pair.new.sql("SELECT pg_relation_filepath('t1')");
    let spoil = |file: &Path| {
        let bytes = fs::metadata(file).unwrap().len();
        fs::write(file, vec![0xAA; usize::try_from(bytes).unwrap()]).unwrap();
    };
    let relative = path.split('/').skip(2).collect::<Vec<_>>().join("/");
    let padded = fs::OpenOptions::new()
        .write(true)
        .open(Path::new(&new1).join(&relative))
        .unwrap();
    let length = padded.metadata().unwrap().len();
    padded.set_len(length + 4 * 8192).unwrap();
    let reused = scene.folder("reused");
    done(
        std::process::Command::new("cp")
            .arg("-a")
            .arg(&new1)
            .arg(&reused),
    );
    let place = reused.join("new-s1");
    spoil(&place.join(&relative));
    let stray = place.join(&relative).with_file_name("99999");
    fs::write(&stray, "stray").unwrap();
    let target = scene.vacant("seeded");
    let other = scene.path().join("other").display().to_string();
    Rebuild::new(&target, &pair.new)
        .args([map(&new1, &place.display().to_string()), map(&new2, &other)])
        .arg("--reuse-tablespace-dirs")
        .succeed();
    assert!(!stray.exists());
    assert_eq!(
        fs::read(place.join(&relative)).unwrap(),
        fs::read(Path::new(&new1).join(&relative)).unwrap()
    );
    assert!(Path::new(&old1).is_dir() && Path::new(&old2).is_dir());
}

#[test]
fn stop_does_not_hit_another_server() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let pid = pair.new.postmaster().unwrap().as_raw_nonzero();
    pair.old.write(
        "postmaster.pid",
        format!("{pid}\n{}\n", pair.old.pgdata().display()),
    );
    let before = tree(pair.old.pgdata());
    let said = pair.rebuild().arg("--stop").fail(3);
    assert!(
        said.messages()
            .contains("which is alive but does not work there"),
        "{said}"
    );
    assert_eq!(pair.new.sql("SELECT 1"), "1");
    assert_untouched(&before, pair.old.pgdata());
    fs::remove_file(pair.old.pgdata().join("postmaster.pid")).unwrap();
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
}

/// What is no relation has the length that it has when it is read.
#[test]
fn file_that_grows_after_the_listing_comes_whole() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.new.write("notes.txt", "short");
    let mut run = pair.rebuild().args(["--progress", "json"]).spawn();
    run.wait_for("the files are listed", |run| {
        run.events().iter().any(|event| event["event"] == "planned")
    });
    kill_process(run.pid(), Signal::STOP).unwrap();
    pair.new.write("notes.txt", "longer than it was before");
    kill_process(run.pid(), Signal::CONT).unwrap();
    let said = run.wait();
    assert_eq!(said.code(), 0, "{said}");
    let notes = pair.old.read("notes.txt");
    assert!(
        ["short", "longer than it was before"].contains(&notes.as_str()),
        "{notes}"
    );
}

/// The host's own disks: links that lead to them stay, and what another user keeps there too.
#[test]
fn links_of_the_host_are_left_alone() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let outside = scene.folder("outside");
    fs::write(outside.join("mine.conf"), "# mine").unwrap();
    symlink(&outside, pair.old.pgdata().join("conf.d")).unwrap();
    fs::create_dir(pair.new.pgdata().join("conf.d")).unwrap();
    pair.new.write("conf.d/theirs.conf", "# theirs");

    let memory = scene.folder("memory");
    fs::write(memory.join("old.stat"), "old").unwrap();
    fs::remove_dir_all(pair.old.pgdata().join("pg_stat_tmp")).unwrap();
    symlink(&memory, pair.old.pgdata().join("pg_stat_tmp")).unwrap();

    let disk = scene.folder("disk");
    let wal = pair.old.pgdata().join("pg_wal");
    done(
        std::process::Command::new("cp")
            .arg("-aT")
            .arg(&wal)
            .arg(&disk),
    );
    fs::remove_dir_all(&wal).unwrap();
    symlink(&disk, &wal).unwrap();
    let lost = disk.join("lost+found");
    fs::create_dir(&lost).unwrap();
    fs::set_permissions(&lost, fs::Permissions::from_mode(0o0)).unwrap();

    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
    pair.old.stop(Stop::Fast);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert!(!memory.join("old.stat").exists());
    for name in ["conf.d", "pg_stat_tmp", "pg_wal"] {
        assert!(pair.old.pgdata().join(name).is_symlink(), "{name}");
    }
    assert!(lost.exists());
    fs::set_permissions(&lost, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn foreign_file_that_cannot_be_read_is_left_out() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.new.write("root.bak", "secret");
    let path = pair.new.pgdata().join("root.bak");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    let said = pair.rebuild().arg("--start").succeed();
    assert!(
        said.report()["warnings"].to_string().contains("root.bak"),
        "{said}"
    );
    pair.check_equal();
    fs::remove_file(path).unwrap();
}

#[test]
fn kept_files_stay_even_when_the_source_s_configuration_is_taken() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.old.write("site.local", "ours");
    pair.new.write("site.local", "theirs");
    pair.rebuild()
        .args(["--config", "source", "--keep", "*.local"])
        .succeed();
    assert_eq!(pair.old.read("site.local"), "ours");
}

#[test]
fn marker_that_cannot_be_read_does_not_stop_the_next_run() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut run = pair.rebuild().args(["--progress", "json"]).spawn();
    run.wait_for("the target is closed", |_| {
        pair.old.exists("pg_reseed.state") && !pair.old.exists("global/pg_control")
    });
    run.kill();
    drop(run);
    pair.old.write("pg_reseed.state", "{ half a mark");
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
}

/// A terminal's Ctrl-C reaches the agent too.
#[test]
fn slot_that_was_made_goes_when_a_whole_group_is_interrupted() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let run = pair
        .rebuild()
        .args(["--progress", "json", "--slot", "made", "--create-slot"])
        .in_own_group();
    let mut run = run.spawn();
    run.wait_closed(&pair.old);
    kill_process_group(run.pid(), Signal::INT).unwrap();
    let said = run.wait();
    let wanted = if said.code() == 0 { "1" } else { "0" };
    pair.new
        .wait_sql("SELECT count(*) FROM pg_replication_slots", wanted);
    assert!([0, 4, 6].contains(&said.code()), "{said}");
}

/// It followed a promotion and has no restartpoint on the new timeline yet: the backup starts on the old
/// timeline and ends on the new one, and its WAL is there in the names of both.
#[test]
fn cascading_standby_that_changed_its_timeline_can_be_the_source() {
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t WITH (fillfactor = 10) AS SELECT 0 AS i");
    });
    let cascading = scene.standby("cascading", &pair.new, &[]);
    pair.new.wait_caught_up(&cascading);
    // A promotion asks for a checkpoint that may take its time (`xlog.c:StartupXLOG`, CHECKPOINT_FORCE alone):
    // up to 100 ms for each dirty buffer (`checkpointer.c:CheckpointWriteDelay`). Until it is complete, no
    // checkpoint record of the new timeline exists, so no standby has a restartpoint there.
    pair.new.sql("ALTER SYSTEM SET bgwriter_lru_maxpages = 0");
    pair.new.sql("SELECT pg_reload_conf()");
    pair.old
        .sql("INSERT INTO t SELECT generate_series(1, 60000)");
    let is_slow = pair.old.sql("SELECT pg_relation_size('t') / 8192 > 1500");
    assert_eq!(
        is_slow, "t",
        "the checkpoint would be over in less than minutes"
    );
    pair.old.wait_caught_up(&pair.new);
    pair.new.wait_caught_up(&cascading);
    assert_eq!(pair.new.sql("SELECT pg_promote()"), "t");
    // Beyond the segment in which the timelines part.
    pair.new
        .sql("INSERT INTO t VALUES (-1); SELECT pg_switch_wal(); INSERT INTO t VALUES (-2)");
    pair.new.wait_caught_up(&cascading);
    let assert_premise = || {
        assert_eq!(
            cascading.sql("SELECT received_tli FROM pg_stat_wal_receiver"),
            "2"
        );
        assert_eq!(
            cascading.control()["Latest checkpoint's TimeLineID"],
            "1",
            "the checkpoint of the promotion came through: this test has nothing to test"
        );
    };
    assert_premise();
    pair.old.sql("INSERT INTO t VALUES (-3)");
    pair.old.stop(Stop::Fast);
    Rebuild::new(&pair.old, &cascading).arg("--start").succeed();
    assert_premise();
    cascading.wait_caught_up(&pair.old);
    assert_same_data(&cascading, &pair.old);
    stop(pair.old);
}

fn stop(mut cluster: Cluster) {
    cluster.stop(Stop::Fast);
}
