//! What is not the target's own is not touched: files that have another name, and directories behind links.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{Pair, Scene, Stop, done};

/// The content of each regular file in a directory and all below it, and where each link leads.
fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            if found.is_dir() {
                open.push(path);
            } else if found.is_file() {
                let bytes = fs::read(&path).unwrap();
                all.insert(path, bytes);
            } else if found.is_symlink() {
                let leads = fs::read_link(&path).unwrap();
                all.insert(path, leads.into_os_string().into_encoded_bytes());
            }
        }
    }
    all
}

fn assert_untouched(directory: &Path, before: &BTreeMap<PathBuf, Vec<u8>>) {
    let after = content(directory);
    let changed: Vec<_> = before
        .iter()
        .filter(|(path, bytes)| after.get(*path) != Some(bytes))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(changed, Vec::<&PathBuf>::new());
    assert_eq!(after.len(), before.len());
}

fn copy_with_links(from: &Path, to: &Path) {
    done(Command::new("cp").arg("-al").arg(from).arg(to));
}

/// A cheap copy of the data directory before the rebuild is what the DBA falls back on. Blocks in place, files that
/// become shorter and longer, files that are written as a whole, and those that only the server changes later.
#[test]
fn copy_of_hard_links_stays_as_it_was_byte_for_byte() {
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| {
        old.sql(
            "CREATE TABLE t AS SELECT i, repeat('x', 100) AS f FROM generate_series(1, 5000) AS i",
        );
        old.sql("CREATE TABLE cut AS SELECT i FROM generate_series(1, 50000) AS i");
        old.sql("CREATE TABLE same AS SELECT i FROM generate_series(1, 5000) AS i");
    });
    pair.fail_over();
    pair.old.sql("UPDATE t SET f = 'old' WHERE i % 5 = 0");
    pair.old
        .sql("CREATE TABLE only_old AS SELECT generate_series(1, 1000) AS i");
    pair.new.sql("DELETE FROM cut WHERE i > 10");
    pair.new.sql("VACUUM (TRUNCATE) cut");
    pair.new
        .sql("INSERT INTO t SELECT i, 'new' FROM generate_series(10000, 30000) AS i");
    pair.old.stop(Stop::Fast);
    fs::write(pair.old.pgdata().join("base/notes"), "of the target").unwrap();
    fs::write(pair.new.pgdata().join("base/notes"), "of the source").unwrap();
    let copy = scene.path().join("copy");
    copy_with_links(pair.old.pgdata(), &copy);
    let before = content(&copy);
    let conf = pair.old.pgdata().join("postgresql.conf");
    let dry = pair.rebuild().arg("--dry-run").succeed();
    assert_untouched(&copy, &before);
    let said = pair.rebuild().arg("--start").succeed();
    assert!(said.number("unshared_files") > 100, "{said}");
    assert_eq!(
        said.number("unshared_files"),
        dry.number("unshared_files"),
        "{dry}"
    );
    assert!(said.stdout.contains("Hard links"), "{said}");
    assert!(
        said.number("moved_bytes") < said.number("full_copy_bytes") / 2,
        "{said}"
    );
    pair.new.sql("UPDATE t SET f = 'later'");
    pair.new.sql("UPDATE same SET i = -i");
    pair.new.sql("CHECKPOINT");
    pair.check_equal();
    pair.old.stop(Stop::Fast);
    assert_untouched(&copy, &before);
    // What is only the host's is not written, and keeps its other name.
    assert_eq!(fs::metadata(&conf).unwrap().nlink(), 2);
    let base = content(&pair.old.pgdata().join("base"));
    for path in base.keys() {
        assert_eq!(fs::metadata(path).unwrap().nlink(), 1, "{}", path.display());
    }
    // What is not shared any more is not copied again.
    let again = pair.rebuild().succeed();
    assert_eq!(again.number("unshared_files"), 0, "{again}");
}

/// What a run that was killed while it made a file its own has left behind does no harm.
#[test]
fn interrupted_copies_of_files_with_hard_links_go() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let copy = scene.path().join("copy");
    copy_with_links(pair.old.pgdata(), &copy);
    let left = pair.old.pgdata().join("base/pg_reseed.tmp.3");
    fs::write(&left, "half").unwrap();
    // By this name the control file is saved: its other name must not be written to.
    let precious = scene.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    fs::hard_link(&precious, pair.old.pgdata().join("pg_reseed.tmp")).unwrap();
    fs::hard_link(&precious, pair.old.pgdata().join("global/pg_reseed.tmp")).unwrap();
    let before = content(&copy);
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
    assert!(!left.exists());
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert_untouched(&copy, &before);
}

/// Files of a tablespace too, and a name that is made while the run goes on is not written through.
#[test]
fn hard_links_that_come_during_the_run_are_not_written_through() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut running = pair
        .rebuild()
        .args(["--max-rate", "4M", "--progress", "none"])
        .spawn();
    running.wait_closed(&pair.old);
    let copy = scene.path().join("copy");
    copy_with_links(&pair.old.pgdata().join("base"), &copy);
    let before = content(&copy);
    let said = running.wait();
    assert_untouched(&copy, &before);
    if said.code() != 0 {
        assert_eq!(said.code(), 4, "{said}");
        assert!(said.stderr.contains("hard link"), "{said}");
        pair.rebuild().succeed();
        assert_untouched(&copy, &before);
    }
    let _ = File::open(copy).unwrap();
}
