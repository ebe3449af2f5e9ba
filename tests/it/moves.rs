//! What the source does to whole databases and tablespaces while a backup of it runs: replay copies files then, and
//! a standby must not come of copies that are not what the source had.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pg_reseed::disk::wal::Pages;
use pg_reseed::pg::control::ControlFile;
use pg_reseed::pg::lsn::{Lsn, SegmentName};
use pg_reseed::pg::timeline::TimelineId;
use pg_reseed::pg::wal::{Geometry, Reader};
use pg_reseed::wire::message::Answer;

use crate::between::between;
use crate::cluster::{
    Cluster, DEADLINE, Pair, Rebuild, Scene, Stop, bindir, done, eventually, major, tool,
};
use crate::oracle::assert_same_data;

/// Statements for a server, each in a session of its own, from wherever.
fn psql(server: &Cluster) -> impl Fn(&str, &[&str]) + Send + use<> {
    let conninfo = server.conninfo();
    move |database, statements| {
        let mut command = tool("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d"]);
        command.arg(format!("{conninfo} dbname={database}"));
        for statement in statements {
            command.args(["-c", statement]);
        }
        done(&mut command);
    }
}

/// A rebuild in which `during` happens on the source right after a backup has begun, with the number of that backup;
/// counts the backups.
fn rebuild_while(
    pair: &Pair,
    source: &Cluster,
    during: impl Fn(u32) + Send + 'static,
) -> (Rebuild, Arc<AtomicU32>) {
    let backups = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&backups);
    let from = between(source, move |twisted| {
        if matches!(twisted.answer, Answer::BracketOpened { .. }) {
            during(counted.fetch_add(1, Ordering::SeqCst) + 1);
        }
    });
    let rebuild = Rebuild::bare(&pair.old, source).args([
        "--from",
        &from,
        "--streams",
        "1",
        "--progress",
        "none",
        "-Z",
        "none",
    ]);
    (rebuild, backups)
}

/// A diverged pair whose source has a database of its own and a tablespace that is empty.
pub fn pair_with_a_database(scene: &Scene) -> Pair {
    let pair = Pair::diverged(scene);
    let [theirs, ours] = ["new-space", "old-space"].map(|name| scene.folder(name));
    pair.new.sql(&format!(
        "CREATE TABLESPACE space LOCATION '{}'",
        theirs.display()
    ));
    pair.new.sql("CREATE DATABASE app");
    pair.new.sql_in(
        "app",
        "CREATE TABLE data AS SELECT i, repeat('x', 100) AS f FROM generate_series(1, 3000) AS i",
    );
    pair.new.sql("CHECKPOINT");
    std::fs::write(
        scene.path().join("mapping"),
        format!("{}={}", theirs.display(), ours.display()),
    )
    .unwrap();
    pair
}

pub fn mapped(scene: &Scene, rebuild: Rebuild) -> Rebuild {
    let mapping = std::fs::read_to_string(scene.path().join("mapping")).unwrap();
    rebuild.args(["-T", &mapping])
}

pub const TO_SPACE: &str = "ALTER DATABASE app SET TABLESPACE space";
pub const TO_DEFAULT: &str = "ALTER DATABASE app SET TABLESPACE pg_default";

#[test]
fn a_database_that_moves_during_the_run_is_whole_on_the_standby() {
    let scene = Scene::new();
    let pair = pair_with_a_database(&scene);
    let run = psql(&pair.new);
    let (rebuild, backups) = rebuild_while(&pair, &pair.new, move |number| {
        if number == 1 {
            run("postgres", &[TO_SPACE]);
        }
    });
    let said = mapped(&scene, rebuild).arg("--start").succeed();
    pair.check_equal();
    assert_eq!(backups.load(Ordering::SeqCst), 2, "{said}");
    assert!(said.stderr.contains("a new one begins"), "{said}");
}

/// The same where the WAL does not come with the run.
#[test]
fn a_database_that_moves_is_whole_without_the_wal_of_the_run_too() {
    let scene = Scene::new();
    let pair = pair_with_a_database(&scene);
    let run = psql(&pair.new);
    let (rebuild, backups) = rebuild_while(&pair, &pair.new, move |number| {
        if number == 1 {
            run("postgres", &[TO_SPACE, TO_DEFAULT]);
        }
    });
    mapped(&scene, rebuild)
        .args(["-X", "none", "--slot", "own", "--create-slot", "--start"])
        .succeed();
    pair.check_equal();
    assert_eq!(backups.load(Ordering::SeqCst), 2);
}

#[test]
fn a_database_that_moves_all_the_time_ends_in_no_standby() {
    let scene = Scene::new();
    let mut pair = pair_with_a_database(&scene);
    let run = psql(&pair.new);
    let (rebuild, backups) = rebuild_while(&pair, &pair.new, move |number| {
        run(
            "postgres",
            &[if number % 2 == 1 {
                TO_SPACE
            } else {
                TO_DEFAULT
            }],
        );
    });
    let said = mapped(&scene, rebuild).fail(4);
    assert_eq!(backups.load(Ordering::SeqCst), 4, "{said}");
    assert!(said.stderr.contains("moved from tablespace"), "{said}");
    assert!(said.stderr.contains("cannot start"), "{said}");
    pair.old.try_start().unwrap_err();
    // The agent is gone, and so is all that it held.
    pair.new
        .wait_sql("SELECT count(*) FROM pg_replication_slots", "0");
    mapped(&scene, pair.rebuild()).arg("--start").succeed();
    pair.check_equal();
}

#[test]
fn a_copy_of_a_database_that_changes_then_is_what_it_was_on_the_source() {
    let scene = Scene::new();
    let pair = pair_with_a_database(&scene);
    let run = psql(&pair.new);
    let (rebuild, backups) = rebuild_while(&pair, &pair.new, move |number| {
        if number == 1 {
            let strategy = if major() < 15 {
                ""
            } else {
                "STRATEGY file_copy"
            };
            run(
                "postgres",
                &[&format!("CREATE DATABASE copy TEMPLATE app {strategy}")],
            );
            run("app", &["UPDATE data SET f = 'later'", "CHECKPOINT"]);
        }
    });
    mapped(&scene, rebuild).arg("--start").succeed();
    pair.check_equal();
    assert_eq!(backups.load(Ordering::SeqCst), 2);
}

/// A copy by itself is no reason to compare everything again: on 13 and 14 each CREATE DATABASE is one.
#[test]
fn a_copy_of_a_database_that_stays_as_it_is_costs_no_second_backup() {
    let scene = Scene::new();
    let pair = pair_with_a_database(&scene);
    let run = psql(&pair.new);
    let (rebuild, backups) = rebuild_while(&pair, &pair.new, move |_| {
        let strategy = if major() < 15 {
            ""
        } else {
            "STRATEGY file_copy"
        };
        run(
            "postgres",
            &[&format!("CREATE DATABASE copy TEMPLATE app {strategy}")],
        );
        run(
            "copy",
            &["UPDATE data SET f = 'later'", "CREATE INDEX ON data (i)"],
        );
    });
    mapped(&scene, rebuild).arg("--start").succeed();
    pair.check_equal();
    assert_eq!(backups.load(Ordering::SeqCst), 1);
}

/// Replay would make the tablespace where the source had it, which this host may not have.
#[test]
fn a_tablespace_that_comes_and_goes_during_the_run_leaves_a_standby_that_starts() {
    let scene = Scene::new();
    let pair = pair_with_a_database(&scene);
    let brief = scene.folder("brief");
    let run = psql(&pair.new);
    let (rebuild, backups) = rebuild_while(&pair, &pair.new, move |number| {
        if number == 1 {
            let create = format!("CREATE TABLESPACE brief LOCATION '{}'", brief.display());
            run("postgres", &[&create, "DROP TABLESPACE brief"]);
            std::fs::remove_dir(&brief).unwrap();
        }
    });
    mapped(&scene, rebuild).arg("--start").succeed();
    pair.check_equal();
    assert_eq!(backups.load(Ordering::SeqCst), 2);
}

#[test]
fn a_database_that_moves_while_a_standby_is_the_source_is_whole_too() {
    let scene = Scene::new();
    let mut pair = pair_with_a_database(&scene);
    let between_them = scene.folder("mid-space");
    let mapping = std::fs::read_to_string(scene.path().join("mapping")).unwrap();
    let (theirs, ours) = mapping.split_once('=').unwrap();
    // On one host the primary and its standby cannot have one tablespace each by themselves.
    let option = format!("--tablespace-mapping={theirs}={}", between_them.display());
    let mut middle = scene.standby("middle", &pair.new, &[&option]);
    let run = psql(&pair.new);
    let (theirs, ours) = (between_them.display().to_string(), ours.to_owned());
    let primary = pair.new.conninfo();
    let standby = middle.conninfo();
    let (rebuild, backups) = rebuild_while(&pair, &middle, move |number| {
        if number == 1 {
            run("postgres", &[TO_SPACE]);
            let ask = |conninfo: &str, sql: &str| {
                let mut command = tool("psql");
                command.args([
                    "-XAtq",
                    "-d",
                    &format!("{conninfo} dbname=postgres"),
                    "-c",
                    sql,
                ]);
                done(&mut command).trim().to_owned()
            };
            let lsn = ask(&primary, "SELECT pg_current_wal_lsn()");
            let question = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
            eventually("the source replays the move", DEADLINE, || {
                (ask(&standby, &question) == "t").then_some(())
            });
        }
    });
    rebuild
        .args(["-T", &format!("{theirs}={ours}"), "--start"])
        .succeed();
    assert_eq!(backups.load(Ordering::SeqCst), 2);
    let lsn = pair.new.sql("SELECT pg_current_wal_lsn()");
    let question = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", lsn.trim());
    pair.old.wait_sql(&question, "t");
    assert_same_data(&pair.new, &pair.old);
    pair.old.stop(Stop::Fast);
    middle.stop(Stop::Fast);
}

/// The reader of WAL beside PostgreSQL's own: no record is missed, and the end is the server's.
#[test]
fn every_record_of_a_servers_wal_is_read() {
    let scene = Scene::new();
    let mut cluster = scene.cluster("server");
    cluster.start();
    cluster.sql(
        "CREATE TABLE t AS SELECT i, repeat('x', 100) AS f FROM generate_series(1, 100000) AS i;
         CREATE INDEX ON t (f);
         SELECT pg_switch_wal();
         UPDATE t SET f = 'y' WHERE i % 3 = 0;
         CHECKPOINT;
         SELECT pg_logical_emit_message(true, 'long', repeat('z', 3000000));
         DELETE FROM t WHERE i % 5 = 0;
         CREATE DATABASE other;
         CHECKPOINT",
    );
    let end = Lsn::parse(cluster.sql("SELECT pg_current_wal_insert_lsn()").trim()).unwrap();
    let first = cluster.sql("SELECT name FROM pg_ls_waldir() ORDER BY 1 LIMIT 1");
    cluster.stop(Stop::Immediate);
    let wal = cluster.pgdata().join("pg_wal");
    let control = std::fs::read(cluster.pgdata().join("global/pg_control")).unwrap();
    let control = ControlFile::decode(&control).unwrap();
    let geometry = Geometry {
        page_bytes: control.wal_block_bytes,
        segment_bytes: control.wal_segment_bytes,
        system_identifier: control.system_identifier,
    };
    let begin = SegmentName::parse(first.trim(), geometry.segment_bytes).unwrap();
    let begin = begin.begin(geometry.segment_bytes);
    let mut pages =
        Pages::open(&wal, geometry.segment_bytes, TimelineId(1)..=TimelineId(1)).unwrap();
    let mut reader = Reader::new(geometry, begin, |at, page| pages.read(at, page));
    let (mut records, mut blocks) = (0, 0);
    while let Some(record) = reader.next_record().unwrap() {
        records += 1;
        blocks += record.decode().unwrap().0.len();
    }
    assert!(
        reader.has_reached(end),
        "{} of {end}: {:?}",
        reader.position(),
        reader.end()
    );
    assert!(records > 100_000 && blocks > 100_000, "{records}, {blocks}");
    if bindir().join("pg_waldump").exists() {
        // It ends with an error where the WAL ends.
        let last = SegmentName::of(Lsn(end.0 - 1), TimelineId(1), geometry.segment_bytes);
        let last = last.file_name(geometry.segment_bytes);
        let output = tool("pg_waldump")
            .arg("-p")
            .arg(&wal)
            .args([first.trim(), &last])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<_> = said
            .lines()
            .filter(|line| line.starts_with("rmgr:"))
            .collect();
        assert_eq!(
            lines.len(),
            records,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let theirs = lines
            .iter()
            .map(|line| line.matches(" blk ").count())
            .sum::<usize>();
        assert_eq!(theirs, blocks);
    }
}
