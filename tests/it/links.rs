//! What is not the target's own is not touched: files that have another name, and directories behind links.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{Cluster, Pair, Rebuild, Scene, Stop, done};

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

/// Permission bits belong to all names of a file: they are mended in the target's new file only.
#[test]
fn permission_bits_of_a_copy_of_hard_links_are_not_mended() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let table = pair.new.sql("SELECT pg_relation_filepath('t')");
    // One that can be copied, one of which nothing can be read, and one that is written as a whole.
    let closed = [
        (table.as_str(), 0o400),
        ("pg_xact/0000", 0o200),
        ("base/notes", 0o000),
    ];
    fs::write(pair.old.pgdata().join("base/notes"), "of the target").unwrap();
    fs::write(pair.new.pgdata().join("base/notes"), "of the source").unwrap();
    let copy = scene.path().join("copy");
    copy_with_links(pair.old.pgdata(), &copy);
    let before = content(&copy);
    let set_mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (name, mode) in closed {
        set_mode(&copy.join(name), mode);
    }
    let modes = || closed.map(|(name, _)| fs::metadata(copy.join(name)).unwrap().mode() & 0o777);
    let dry = pair.rebuild().arg("--dry-run").succeed();
    assert_eq!(modes(), closed.map(|(_, mode)| mode), "{dry}");
    let said = pair.rebuild().succeed();
    assert_eq!(modes(), closed.map(|(_, mode)| mode), "{said}");
    assert_eq!(
        said.number("unshared_files"),
        dry.number("unshared_files"),
        "{dry}"
    );
    for (name, _) in closed {
        let mode = fs::metadata(pair.old.pgdata().join(name)).unwrap().mode();
        assert_eq!(mode & 0o600, 0o600, "{name}: {said}");
        set_mode(&copy.join(name), 0o600);
    }
    pair.old.start();
    pair.check_equal();
    assert_untouched(&copy, &before);
}

/// A directory that takes no new file cannot give one a content of its own: mended first, as its owner can.
#[test]
fn files_with_hard_links_in_a_closed_directory_get_a_content_of_their_own() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    for (cluster, text) in [(&pair.old, "of the target"), (&pair.new, "of the source")] {
        fs::create_dir(cluster.pgdata().join("ext")).unwrap();
        fs::write(cluster.pgdata().join("ext/a"), text).unwrap();
    }
    let copy = scene.path().join("copy");
    copy_with_links(pair.old.pgdata(), &copy);
    let before = content(&copy);
    let directory = pair.old.pgdata().join("ext");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o500)).unwrap();
    pair.rebuild().succeed();
    assert_eq!(pair.old.read("ext/a"), "of the source");
    pair.old.start();
    pair.check_equal();
    assert_untouched(&copy, &before);
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

/// A pair whose old primary has a tablespace that both have, mapped on the new one, and one of its own.
struct Spaces {
    pair: Pair,
    both: PathBuf,
    new: PathBuf,
    only_old: PathBuf,
}

fn with_tablespaces(scene: &Scene) -> Spaces {
    let [both, new, only_old] = ["ts_both", "ts_new", "ts_old"].map(|name| scene.folder(name));
    let mapping = format!("--tablespace-mapping={}={}", both.display(), new.display());
    let make = |cluster: &Cluster, name: &str, location: &Path| {
        let location = location.display();
        cluster.sql(&format!("CREATE TABLESPACE {name} LOCATION '{location}'"));
        cluster.sql(&format!(
            "CREATE TABLE t_{name} TABLESPACE {name} AS SELECT generate_series(1, 3000) AS i"
        ));
    };
    let pair = Pair::streaming_with(scene, &[&mapping], |old| make(old, "shared", &both));
    pair.fail_over();
    make(&pair.old, "only_old", &only_old);
    pair.new.sql("UPDATE t_shared SET i = -i");
    Spaces {
        pair,
        both,
        new,
        only_old,
    }
}

fn mapping(from: &Path, to: &Path) -> String {
    format!("--tablespace-mapping={}={}", from.display(), to.display())
}

/// A copy of a data directory has links to the original's tablespaces: a rebuild of the copy must not cost the
/// original, whether its server runs or not.
#[test]
fn tablespaces_of_the_original_survive_the_rebuild_of_a_copy() {
    let scene = Scene::new();
    let mut spaces = with_tablespaces(&scene);
    let original = &mut spaces.pair.old;
    original.stop(Stop::Fast);
    let copy = scene.copy("copy", original);
    let apart = scene.path().join("ts_copy");
    original.start();
    for is_running in [true, false] {
        if !is_running {
            original.stop(Stop::Fast);
        }
        let (both, only_old) = (content(&spaces.both), content(&spaces.only_old));
        let rebuild = || Rebuild::new(&copy, &spaces.pair.new);
        // Its link leads there, which proves nothing.
        let into_both = mapping(&spaces.new, &spaces.both);
        for options in [&["--dry-run"][..], &[]] {
            let said = rebuild().arg(&into_both).args(options).fail(3);
            assert!(said.stderr.contains("is in use by"), "{said}");
            assert!(said.stderr.contains("old/data"), "{said}");
            assert!(said.stderr.contains("--tablespace-mapping"), "{said}");
        }
        if is_running {
            let said = rebuild()
                .arg(&into_both)
                .arg("--reuse-tablespace-dirs")
                .fail(3);
            assert!(said.stderr.contains("running server"), "{said}");
        }
        for options in [&["--dry-run"][..], &["--max-delete", "100"]] {
            let said = rebuild()
                .arg(mapping(&spaces.new, &apart))
                .args(options)
                .succeed();
            let removals = &said.report()["removed_tablespaces"];
            if is_running {
                assert!(said.stdout.contains("ts_old"), "{said}");
                let left = removals[0]["left"].as_str().unwrap();
                assert!(left.contains("old/data"), "{said}");
                assert!(left.contains("server"), "{said}");
            }
        }
        if is_running {
            assert!(removed_link(&copy, &spaces.only_old));
            for (name, sum) in [("shared", "4501500"), ("only_old", "4501500")] {
                let asked = format!("SELECT sum(i) FROM t_{name}");
                assert_eq!(original.sql(&asked), sum);
            }
        } else {
            assert_untouched(&spaces.both, &both);
            assert_untouched(&spaces.only_old, &only_old);
        }
    }
    // Nobody else leads there any more: what only the original has is its own, and goes.
    fs::remove_dir_all(copy.pgdata()).unwrap();
    let said = Rebuild::new(&spaces.pair.old, &spaces.pair.new)
        .arg(mapping(&spaces.new, &spaces.both))
        .succeed();
    let removal = &said.report()["removed_tablespaces"][0];
    assert!(removal["left"].is_null(), "{said}");
    assert!(removal["files"].as_u64().unwrap() > 0, "{said}");
    assert!(said.stdout.contains("ts_old"), "{said}");
    assert_eq!(content(&spaces.only_old).len(), 0);
}

/// What is left to others behind a link is not asked for rights either: nothing is done there.
#[test]
fn what_stays_behind_a_link_may_be_closed_to_everybody() {
    let scene = Scene::new();
    let mut spaces = with_tablespaces(&scene);
    spaces.pair.old.stop(Stop::Fast);
    let copy = scene.copy("copy", &spaces.pair.old);
    let apart = scene.path().join("ts_copy");
    let version = fs::read_dir(&spaces.only_old).unwrap().next().unwrap();
    let closed = version.unwrap().path().join("4711");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    for option in ["--dry-run", "--progress=none"] {
        let said = Rebuild::new(&copy, &spaces.pair.new)
            .arg(mapping(&spaces.new, &apart))
            .arg(option)
            .succeed();
        let left = said.report()["removed_tablespaces"][0]["left"].as_str();
        assert!(left.unwrap().contains("old/data"), "{said}");
    }
    assert!(removed_link(&copy, &spaces.only_old) && closed.exists());
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
}

/// Whether no link of a cluster leads to a place.
fn removed_link(cluster: &Cluster, place: &Path) -> bool {
    fs::read_dir(cluster.pgdata().join("pg_tblspc"))
        .unwrap()
        .all(|entry| fs::read_link(entry.unwrap().path()).unwrap() != place)
}

/// The WAL, the slots and whatever else is emptied may lie behind a link, which a copy has too.
#[test]
fn directories_that_a_copy_shares_are_not_emptied() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let mut copies = Vec::new();
    for name in ["pg_wal", "pg_stat_tmp"] {
        let apart = scene.path().join(format!("apart_{name}"));
        let inside = pair.old.pgdata().join(name);
        fs::rename(&inside, &apart).unwrap();
        symlink(&apart, &inside).unwrap();
        fs::write(apart.join("mine"), "of the original").unwrap();
        copies.push(apart);
    }
    let copy = scene.copy("copy", &pair.old);
    pair.old.start();
    for is_running in [true, false] {
        if !is_running {
            pair.old.stop(Stop::Fast);
        }
        let names = |apart: &PathBuf| content(apart).into_keys().collect::<Vec<_>>();
        let before: Vec<_> = copies.iter().map(names).collect();
        for options in [&["--dry-run"][..], &[]] {
            let said = Rebuild::new(&copy, &pair.new).args(options).fail(3);
            for name in ["pg_wal", "pg_stat_tmp"] {
                assert!(said.stderr.contains(&format!("apart_{name}")), "{said}");
            }
            assert!(said.stderr.contains("old/data"), "{said}");
            assert_eq!(said.stderr.contains("running server"), is_running, "{said}");
        }
        let after: Vec<_> = copies.iter().map(names).collect();
        assert!(is_running || before == after);
        assert!(
            copies
                .iter()
                .all(|apart| apart.join("mine").exists() || is_running)
        );
    }
    for name in ["pg_wal", "pg_stat_tmp"] {
        let inside = copy.pgdata().join(name);
        fs::remove_file(&inside).unwrap();
        fs::create_dir(&inside).unwrap();
    }
    Rebuild::new(&copy, &pair.new).arg("--start").succeed();
    pair.new.wait_caught_up(&copy);
    // The original is whole, and its own links are no reason to refuse.
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
    assert!(!copies[0].join("mine").exists());
}
