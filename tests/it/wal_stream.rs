//! `-X stream`: the WAL of the backup comes while the files do, and the source need not keep it.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pg_reseed::wire::message::Answer;

use crate::between::{between, pair_rebuild};
use crate::cluster::{Cluster, Load, Pair, Rebuild, Running, Said, Scene, Stop};
use crate::moves::{TO_DEFAULT, TO_SPACE, mapped, pair_with_a_database};
use crate::oracle::{assert_checksums, assert_same_data};
use crate::slots::with_slot;

/// A way to a source on which the first answer about files is held back: until it is let go, the files do not all
/// come.
struct Held {
    from: String,
    let_go: Arc<AtomicBool>,
}

impl Held {
    fn back(source: &Cluster) -> Self {
        let let_go = Arc::new(AtomicBool::new(false));
        let is_let_go = Arc::clone(&let_go);
        let (mut was_held, mut held) = (false, None);
        let from = between(source, move |twisted| {
            if matches!(twisted.answer, Answer::Digests { .. }) && !was_held {
                was_held = true;
                held = Some(twisted.frame());
                twisted.raw = Some(Vec::new());
            } else if is_let_go.load(Ordering::SeqCst)
                && let Some(first) = held.take()
            {
                twisted.raw = Some([first, twisted.frame()].concat());
            }
        });
        Self { from, let_go }
    }

    fn let_go(&self) {
        self.let_go.store(true, Ordering::SeqCst);
    }
}

/// It keeps no WAL but what it must.
fn keep_nothing(source: &Cluster) {
    for setting in [
        "wal_keep_size = 0",
        "min_wal_size = '32MB'",
        "max_wal_size = '32MB'",
    ] {
        source.sql(&format!("ALTER SYSTEM SET {setting}"));
    }
    source.sql("SELECT pg_reload_conf()");
}

/// Writes so many segments.
fn write_segments(primary: &Cluster, count: u32) {
    for number in 0..count {
        primary.sql(&format!(
            "CREATE TABLE IF NOT EXISTS written (i int, f text);
             INSERT INTO written SELECT {number}, repeat('w', 100) FROM generate_series(1, 100)"
        ));
        primary.sql("SELECT pg_switch_wal()");
    }
}

/// The segment that a primary writes to.
fn current_segment(primary: &Cluster) -> String {
    primary.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
}

fn has_segment(cluster: &Cluster, name: &str) -> bool {
    cluster.exists(&format!("pg_wal/{name}"))
}

/// Writes a row of segments, and waits until the source has removed the first of them while the run goes on.
fn wait_removed(running: &mut Running, source: &Cluster, target: &Cluster) {
    for _ in 0..4 {
        let first = current_segment(source);
        write_segments(source, 3);
        running.wait_for("a segment has come", |_| has_segment(target, &first));
        running.wait_for("the source has removed it", |_| {
            source.sql("CHECKPOINT");
            !has_segment(source, &first)
        });
    }
}

/// The names of a target's segments, each of which is marked as one that needs no archiving.
fn segments(target: &Cluster) -> BTreeSet<String> {
    let names = fs::read_dir(target.pgdata().join("pg_wal")).unwrap();
    let names: BTreeSet<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.len() == 24)
        .collect();
    for name in &names {
        let mark = format!("pg_wal/archive_status/{name}.done");
        assert!(target.exists(&mark), "{name} is not marked as done");
    }
    names
}

/// All WAL that the target has, once, by the report.
fn assert_wal_is_told(target: &Cluster, said: &Said) {
    let histories = fs::read_dir(target.pgdata().join("pg_wal")).unwrap();
    let histories = histories
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension() == Some("history".as_ref()))
        .map(|entry| entry.metadata().unwrap().len());
    let segments = segments(target).len() as u64 * (16 << 20);
    assert_eq!(said.number("wal_bytes"), segments + histories.sum::<u64>());
}

/// A run with this slot in which the source removes most of the WAL that the standby needs.
fn source_removes_what_has_come(options: &[&str]) {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    keep_nothing(&pair.new);
    pair.new
        .sql("SELECT pg_create_physical_replication_slot('given', true)");
    if !options.contains(&"given") {
        pair.new.sql("SELECT pg_drop_replication_slot('given')");
    }
    let held = Held::back(&pair.new);
    let mut running = pair_rebuild(&pair, &held.from)
        .args(["-X", "stream", "--max-wal-retained", "100M"])
        .args(options)
        .spawn();
    running.wait_closed(&pair.old);
    wait_removed(&mut running, &pair.new, &pair.old);
    held.let_go();
    let said = running.wait();
    assert_eq!(said.code(), 0, "{said}");
    assert_eq!(said.report()["warnings"].to_string(), "[]");
    // All twelve, and more.
    assert!(segments(&pair.old).len() > 12);
    assert_wal_is_told(&pair.old, &said);
    pair.old.start();
    pair.check_equal();
}

#[test]
fn wal_that_has_come_is_not_kept_for_the_run() {
    source_removes_what_has_come(&[]);
}

#[test]
fn wal_that_has_come_is_not_kept_by_the_slot_that_was_made() {
    source_removes_what_has_come(&["--slot", "made", "--create-slot"]);
}

#[test]
fn wal_that_has_come_is_not_kept_by_the_slot_that_was_given() {
    source_removes_what_has_come(&["--slot", "given"]);
}

/// What makes the runs above a proof: without `stream` the same one keeps all, and ends.
#[test]
fn wal_that_comes_at_the_end_is_kept_until_then() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    keep_nothing(&pair.new);
    let held = Held::back(&pair.new);
    let mut running = pair_rebuild(&pair, &held.from)
        .args(["-X", "fetch", "--max-wal-retained", "100M"])
        .spawn();
    running.wait_closed(&pair.old);
    let first = current_segment(&pair.new);
    write_segments(&pair.new, 4);
    pair.new.sql("CHECKPOINT");
    assert!(has_segment(&pair.new, &first));
    write_segments(&pair.new, 4);
    let said = running.wait();
    assert_eq!(said.code(), 4, "{said}");
    let told = "more than --max-wal-retained allows";
    assert!(said.messages().contains(told), "{said}");
}

/// The slot that the standby streamed with when the run began is not the run's own, and must not keep it all either.
#[test]
fn slot_that_the_target_was_streaming_with_is_moved_on() {
    let scene = Scene::new();
    let (primary, standby) = with_slot(&scene);
    keep_nothing(&primary);
    // Something to compare, and to hold back.
    primary.sql("UPDATE t SET f = 'changed' WHERE i % 7 = 0");
    primary.wait_caught_up(&standby);
    let held = Held::back(&primary);
    let mut running = Rebuild::bare(&standby, &primary)
        .args(["--from", &held.from, "--streams", "1", "-Z", "none"])
        .args(["--stop", "--start", "-X", "s", "--progress", "none"])
        .spawn();
    running.wait_closed(&standby);
    wait_removed(&mut running, &primary, &standby);
    held.let_go();
    let said = running.wait();
    assert_eq!(said.code(), 0, "{said}");
    assert_eq!(said.word("slot"), "db1");
    primary.wait_caught_up(&standby);
    assert_same_data(&primary, &standby);
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'db1'";
    assert_eq!(primary.sql(active), "t");
}

/// Killed with WAL in the target that the source has removed: the same command begins anew, under load.
#[test]
fn run_that_was_killed_is_repeated_without_the_wal_of_the_first() {
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| Load::init(old, 1));
    pair.fail_over();
    Load::run_for(&pair.old, 50, 1);
    pair.old.stop(Stop::Fast);
    keep_nothing(&pair.new);
    let load = Load::start(&pair.new, 7);
    let options = ["-X", "stream", "--slot", "own", "--create-slot"];
    let held = Held::back(&pair.new);
    let mut running = pair_rebuild(&pair, &held.from).args(options).spawn();
    running.wait_closed(&pair.old);
    wait_removed(&mut running, &pair.new, &pair.old);
    let before = segments(&pair.old);
    assert!(!before.is_empty());
    running.kill();
    drop(running);
    held.let_go();
    // Again, and this time what comes ahead is less than all.
    let held = Held::back(&pair.new);
    let mut running = pair_rebuild(&pair, &held.from)
        .args(options)
        .arg("--start")
        .spawn();
    running.wait_for("pg_wal was emptied", |_| {
        segments_there(&pair.old).is_disjoint(&before)
    });
    write_segments(&pair.new, 2);
    running.wait_for("segments of this run have come", |_| {
        let now = segments_there(&pair.old);
        now.is_disjoint(&before) && !now.is_empty()
    });
    held.let_go();
    let said = running.wait();
    assert_eq!(said.code(), 0, "{said}");
    load.stop(&pair.new);
    pair.check_equal();
    assert_checksums(&mut pair.old);
}

/// As [`segments`], while a run changes them.
fn segments_there(target: &Cluster) -> BTreeSet<String> {
    let names = fs::read_dir(target.pgdata().join("pg_wal")).into_iter();
    let names = names.flatten().flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.len() == 24)
        .collect()
}

/// A standby begins a backup at its last restartpoint, however old that is: its slot must not be moved behind that,
/// or the same command would be refused.
#[test]
fn run_from_a_standby_that_was_killed_is_repeated() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let source = scene.standby("source", &pair.new, &[]);
    pair.new.wait_caught_up(&source);
    source.sql("SELECT pg_create_physical_replication_slot('own', true)");
    let options = ["-X", "stream", "--slot", "own"];
    let held = Held::back(&source);
    let rebuild = |from: &str| {
        Rebuild::bare(&pair.old, &source)
            .args(["--from", from, "--streams", "1", "--progress", "none"])
            .args(["--no-login-check", "-Z", "none"])
            .args(options)
    };
    let mut running = rebuild(&held.from).spawn();
    running.wait_closed(&pair.old);
    let first = current_segment(&pair.new);
    write_segments(&pair.new, 3);
    pair.new.wait_caught_up(&source);
    running.wait_for("a segment has come", |_| has_segment(&pair.old, &first));
    // It was told that this one has come.
    let third = current_segment(&pair.new);
    write_segments(&pair.new, 1);
    running.wait_for("the next has come", |_| has_segment(&pair.old, &third));
    running.kill();
    drop(running);
    held.let_go();
    let said = Rebuild::new(&pair.old, &source)
        .args(options)
        .arg("--start")
        .succeed();
    assert_eq!(said.word("slot"), "own");
    source.wait_caught_up(&pair.old);
    assert_same_data(&source, &pair.old);
}

/// The segment in which the timelines part comes in the name of both.
#[test]
fn source_that_changes_its_timeline_meanwhile_is_followed() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let source = scene.standby("source", &pair.new, &[]);
    let next = scene.standby("next", &pair.new, &[]);
    for standby in [&source, &next] {
        pair.new.wait_caught_up(standby);
    }
    let held = Held::back(&source);
    let mut running = Rebuild::bare(&pair.old, &source)
        .args(["--from", &held.from, "--streams", "1", "--progress", "none"])
        .args(["--no-login-check", "-Z", "none", "-X", "stream", "--start"])
        .spawn();
    running.wait_closed(&pair.old);
    let first = current_segment(&pair.new);
    write_segments(&pair.new, 2);
    running.wait_for("a segment has come", |_| has_segment(&pair.old, &first));
    // Timelines part in the middle of a segment.
    pair.new.sql("INSERT INTO t VALUES (-1, 'the last')");
    for standby in [&source, &next] {
        pair.new.wait_caught_up(standby);
    }
    pair.new.stop(Stop::Fast);
    next.promote();
    source.follow(&next);
    source.sql("SELECT pg_reload_conf()");
    let parted = current_segment(&next);
    write_segments(&next, 2);
    next.wait_caught_up(&source);
    let older = format!("00000002{}", &parted[8..]);
    running.wait_for("the segment has come", |_| {
        has_segment(&pair.old, &parted) && has_segment(&pair.old, &older)
    });
    write_segments(&next, 2);
    next.wait_caught_up(&source);
    held.let_go();
    let said = running.wait();
    assert_eq!(said.code(), 0, "{said}");
    assert!(parted.starts_with("00000003"), "{parted}");
    source.wait_caught_up(&pair.old);
    assert_same_data(&next, &pair.old);
}

/// What is replayed from files is told by WAL that the source has removed by the time the backup ends.
#[test]
fn a_database_that_moved_in_wal_that_is_gone_is_noticed() {
    let scene = Scene::new();
    let pair = pair_with_a_database(&scene);
    keep_nothing(&pair.new);
    let held = Held::back(&pair.new);
    let mut running = mapped(&scene, pair_rebuild(&pair, &held.from))
        .args(["-X", "stream", "--start"])
        .spawn();
    running.wait_closed(&pair.old);
    let first = current_segment(&pair.new);
    for statement in [TO_SPACE, TO_DEFAULT] {
        pair.new.sql(statement);
    }
    write_segments(&pair.new, 2);
    running.wait_for("the source has removed it", |_| {
        pair.new.sql("CHECKPOINT");
        !has_segment(&pair.new, &first)
    });
    held.let_go();
    let said = running.wait();
    assert_eq!(said.code(), 0, "{said}");
    assert!(said.stderr.contains("a new one begins"), "{said}");
    pair.check_equal();
}
