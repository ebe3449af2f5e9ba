//! The WAL of the backup: brought whole, or left to the standby with a proof that it will find it.

use std::fs;
use std::path::Path;

use insta::assert_snapshot;

use crate::cluster::{Cluster, Pair, Scene, Stop, eventually};
use crate::cluster::{DEADLINE, Said};
use crate::guards::words;
use crate::oracle::{Since, assert_like_basebackup, assert_untouched, tree};

/// Segments in a directory.
fn segments(directory: &Path) -> usize {
    let names = fs::read_dir(directory).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .count()
}

/// A diverged pair whose new primary archives; the folder of the archive, and how to restore from it.
fn archiving(scene: &Scene) -> (Pair, std::path::PathBuf, String) {
    let mut pair = Pair::diverged(scene);
    let archive = scene.folder("the archive");
    let place = archive.display();
    pair.new.configure(&format!(
        "archive_mode = on\narchive_command = 'test ! -f \"{place}/%f\" && cp \"%p\" \"{place}/%f\"'\n\
         wal_keep_size = 0"
    ));
    pair.new.restart();
    let restore = format!("cp \"{place}/%f\" \"%p\"");
    (pair, archive, restore)
}

/// Waits until nothing is left to be archived.
fn wait_archived(cluster: &Cluster) {
    cluster.sql("SELECT pg_switch_wal()");
    eventually("everything is archived", DEADLINE, || {
        let names = fs::read_dir(cluster.pgdata().join("pg_wal/archive_status")).unwrap();
        let mut names = names.map(|entry| entry.unwrap().path());
        let is_waiting = names.any(|name| name.extension() == Some("ready".as_ref()));
        (!is_waiting).then_some(())
    });
}

fn state(said: &Said) -> &str {
    said.word("target")
}

#[test]
fn without_wal_the_standby_finds_it_by_its_slot() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let said = pair
        .rebuild()
        .args(["-X", "none", "--slot", "s", "--create-slot"])
        .succeed();
    assert_eq!(
        said.number("wal_bytes"),
        fs::metadata(pair.old.pgdata().join("pg_wal/00000002.history"))
            .unwrap()
            .len()
    );
    assert_eq!(segments(&pair.old.pgdata().join("pg_wal")), 0);
    pair.new
        .sql("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT");
    pair.old.start();
    pair.check_equal();
}

#[test]
fn without_wal_the_standby_finds_it_in_the_archive() {
    let scene = Scene::new();
    let (mut pair, _archive, restore) = archiving(&scene);
    pair.rebuild()
        .args(["--wal-method", "none", "--restore-command", &restore])
        .succeed();
    assert_eq!(segments(&pair.old.pgdata().join("pg_wal")), 0);
    assert!(!pair.old.exists("pg_wal/RECOVERYXLOG"));
    // The source keeps none of it.
    wait_archived(&pair.new);
    pair.new
        .sql("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT");
    pair.old.start();
    pair.check_equal();
}

/// Each is found out before the run claims success, and the next run brings what is missing.
#[test]
fn a_standby_that_would_not_find_its_wal_is_not_finished() {
    let scene = Scene::new();
    let (pair, archive, _) = archiving(&scene);
    let other = scene.folder("other");
    fs::write(other.join("segment"), vec![7; 16 << 20]).unwrap();
    let commands = [
        "echo no such tape >&2; false".to_owned(),
        "true".to_owned(),
        // What an archive has while a segment is being copied to it.
        "head -c 100000 /dev/zero > %p".to_owned(),
        format!("cp {}/segment %p", other.display()),
        // One that is of this cluster, and not the one asked for.
        format!(
            "cp \"$(ls '{0}'/*[0-9A-F] | head -n 1)\" %p",
            archive.display()
        ),
    ];
    let mut said = String::new();
    for command in &commands {
        let failed = pair
            .rebuild()
            .args(["-X", "none", "--wait", "1", "--progress", "none"])
            .args(["--restore-command", command])
            .fail(4);
        assert_eq!(state(&failed), "half-way");
        let error = failed.messages().lines().next().unwrap().to_owned();
        said += &(mask(&error) + "\n");
        assert!(
            failed
                .stderr
                .contains("With -X fetch the WAL comes from the source."),
            "{failed}"
        );
    }
    assert_snapshot!(said, @r#"
    pg_reseed: error: the restore_command did not give WAL segment "SEGMENT" within 1 s: it ended with exit status: 1 and said: no such tape
    pg_reseed: error: the restore_command did not give WAL segment "SEGMENT" within 1 s: it ended well, but "pg_wal/RECOVERYXLOG": No such file or directory (os error 2)
    pg_reseed: error: the restore_command did not give WAL segment "SEGMENT" within 1 s: it gave 100000 bytes of 16777216
    pg_reseed: error: what the restore_command gave as WAL segment "SEGMENT" is something else: it is of timeline 117901063
    pg_reseed: error: what the restore_command gave as WAL segment "SEGMENT" is something else: it begins at LSN
    "#);
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
}

/// An error without the names and positions that differ from run to run.
fn mask(error: &str) -> String {
    let is_number = |word: &str| word.bytes().all(|c| c.is_ascii_hexdigit() || c == b'/');
    let mut words = Vec::new();
    for word in error.split(' ') {
        let plain = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_name = plain.len() == 24 && is_number(plain);
        let is_lsn = plain.contains('/') && is_number(plain);
        words.push(match (is_name, is_lsn) {
            (true, _) => word.replace(plain, "SEGMENT"),
            (_, true) => word.replace(plain, "LSN"),
            _ => word.to_owned(),
        });
    }
    words.join(" ")
}

#[test]
fn without_wal_a_slot_that_keeps_nothing_is_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.new
        .sql("SELECT pg_create_physical_replication_slot('idle')");
    let before = tree(pair.old.pgdata());
    let mut said = Vec::new();
    for options in [&[][..], &["--dry-run"]] {
        let refused = pair
            .rebuild()
            .args(["-X", "none", "--slot", "idle", "--progress", "none"])
            .args(options)
            .fail(3);
        assert_untouched(&before, pair.old.pgdata());
        said.push(words(&scene, &refused));
    }
    assert_eq!(said[0], said[1]);
    assert_snapshot!(said[0], @r#"
    pg_reseed: error: replication slot "idle" of the source keeps no WAL yet
    pg_reseed: detail: It was made without reserving WAL, and with -X none nothing else gives the standby the WAL of the backup.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Use -X fetch, give --restore-command, or drop the slot and use --create-slot to have it made again.
    "#);
    // With the WAL of the backup in its pg_wal it needs no more of the slot than the future.
    pair.rebuild().args(["--slot", "idle", "--start"]).succeed();
    pair.check_equal();
}

/// Large segments; the smallest are in `rebuild::other_layouts_are_rebuilt`. The largest need 8 GB of room, so only
/// the whole matrix has them.
#[test]
fn segments_of_any_size_are_brought() {
    let largest = std::env::var_os("PG_RESEED_TEST_LARGE").map(|_| "1024");
    for megabytes in ["64"].into_iter().chain(largest) {
        let scene = Scene::new();
        let size = format!("--wal-segsize={megabytes}");
        let mut old = scene.foreign_cluster("old", &["--data-checksums", &size]);
        // At least two segments are kept.
        old.configure("min_wal_size = 2GB\nmax_wal_size = 4GB\nwal_keep_size = 0");
        old.start();
        old.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) AS i");
        let new = scene.standby("new", &old, &[]);
        old.wait_caught_up(&new);
        let mut pair = Pair { old, new };
        pair.fail_over();
        pair.old.sql("UPDATE t SET i = -i");
        pair.new.sql("INSERT INTO t VALUES (0)");
        pair.old.stop(Stop::Fast);
        pair.rebuild().succeed();
        assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
        pair.old.start();
        pair.check_equal();
        assert_eq!(
            pair.old.sql("SHOW wal_segment_size"),
            if megabytes == "1024" { "1GB" } else { "64MB" }
        );
    }
}
