//! What cannot work is refused before it starts, and what the owner can mend is mended.
//!
//! Files of other users cannot be made here, since the tests run as one user: what follows from an owner is tested
//! where it is a function, in `plan::access`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, Pair, Rebuild, Said, Scene, Stop};
use crate::oracle::{assert_same_data, assert_untouched, tree};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The file of table `t`.
pub fn table(cluster: &Cluster) -> String {
    cluster.sql("SELECT pg_relation_filepath('t')")
}

/// Dry run and rebuild, both of which must be refused and leave the target as it was; what the second said.
pub fn refused(target: &Cluster, rebuild: impl Fn() -> Rebuild, words: &[&str]) -> Said {
    let before = tree(target.pgdata());
    let dry = rebuild().arg("--dry-run").fail(3);
    let said = rebuild().fail(3);
    assert_untouched(&before, target.pgdata());
    for said in [&dry, &said] {
        for word in words {
            assert!(said.messages().contains(word), "no {word:?}: {said}");
        }
    }
    said
}

fn host() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

pub fn start_and_compare(pair: &mut Pair) {
    pair.old.start();
    pair.check_equal();
}

// ---------------------------------------------------------------------------------- what may not be read or written

#[test]
fn data_that_the_agent_may_not_read_is_refused() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let host = format!("host \"{}\"", host());
    let data = pair.new.pgdata().to_owned();
    let database = data.join(table(&pair.new)).parent().unwrap().to_owned();
    let folder = database.file_name().unwrap().to_str().unwrap().to_owned();
    fs::write(database.join("JUNK"), "x").unwrap();
    set_mode(&database.join("JUNK"), 0);
    let junk = format!("\"base/{folder}/JUNK\"");
    refused(&pair.old, || pair.rebuild(), &[&host, &junk]);
    // Many are named, not all.
    for number in 0..200 {
        let path = database.join(format!("JUNK{number}"));
        fs::write(&path, "x").unwrap();
        set_mode(&path, 0);
    }
    let said = refused(&pair.old, || pair.rebuild(), &[&host, &junk, "more"]);
    assert!(said.messages().len() < 2000, "{said}");
    for entry in fs::read_dir(&database).unwrap() {
        let path = entry.unwrap().path();
        if path.display().to_string().contains("JUNK") {
            fs::remove_file(path).unwrap();
        }
    }
    // Directories of both kinds: that cannot be listed, and of which only the names can be had.
    for bits in [0o000, 0o600] {
        fs::create_dir(data.join("base/4711")).unwrap();
        fs::write(data.join("base/4711/1"), "x").unwrap();
        set_mode(&data.join("base/4711"), bits);
        refused(&pair.old, || pair.rebuild(), &[&host, "\"base/4711\""]);
        set_mode(&data.join("base/4711"), 0o700);
        fs::remove_dir_all(data.join("base/4711")).unwrap();
    }
    // All histories travel, at the very end.
    fs::write(data.join("pg_wal/00000009.history"), "").unwrap();
    set_mode(&data.join("pg_wal/00000009.history"), 0);
    refused(
        &pair.old,
        || pair.rebuild(),
        &[&host, "\"pg_wal/00000009.history\""],
    );
    fs::remove_file(data.join("pg_wal/00000009.history")).unwrap();
    pair.rebuild().succeed();
    start_and_compare(&mut pair);
}

#[test]
fn permission_bits_that_keep_the_owner_out_of_the_target_are_mended() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let old = pair.old.pgdata().to_owned();
    let file = table(&pair.new);
    let database = old.join(&file).parent().unwrap().to_owned();
    // Differs and must be written; only the target has it and must go; its directory, and that of the control file.
    set_mode(&old.join(&file), 0);
    fs::create_dir(old.join("base/4711")).unwrap();
    fs::write(old.join("base/4711/1"), "x").unwrap();
    set_mode(&old.join("base/4711"), 0o500);
    fs::write(old.join("pg_wal/archive_status/x"), "").unwrap();
    for name in ["global", "pg_wal/archive_status", "pg_xact"] {
        set_mode(&old.join(name), 0o500);
    }
    set_mode(&old.join("pg_xact/0000"), 0o400);
    set_mode(&database, 0o500);
    let before = mode(&old.join(&file));
    let dry = pair.rebuild().arg("--dry-run").succeed();
    assert_eq!(mode(&old.join(&file)), before, "a dry run mends nothing");
    assert!(dry.number("fetched_bytes") > 0, "{dry}");
    pair.rebuild().succeed();
    assert!(!old.join("base/4711").exists());
    assert_eq!(mode(&old.join(&file)), 0o600);
    assert_eq!(mode(&old.join("global")), 0o700);
    start_and_compare(&mut pair);
}

#[test]
fn a_target_in_which_something_cannot_be_reached_is_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let old = pair.old.pgdata().to_owned();
    let host = format!("host \"{}\"", host());
    for (place, bits) in [
        ("base/4711", 0o000),
        ("base/4711", 0o600),
        ("pg_wal/old", 0o000),
        ("pg_replslot/s", 0o300),
    ] {
        let place = old.join(place);
        fs::create_dir(&place).unwrap();
        fs::write(place.join("1"), "x").unwrap();
        set_mode(&place, bits);
        for dry in [true, false] {
            let rebuild = pair.rebuild();
            let said = if dry {
                rebuild.arg("--dry-run").fail(3)
            } else {
                rebuild.fail(3)
            };
            let name = place.file_name().unwrap().to_str().unwrap().to_owned();
            for word in [&host, &name, "chmod"] {
                assert!(said.messages().contains(word), "no {word:?}: {said}");
            }
            assert!(pair.old.exists("global/pg_control") && !pair.old.exists("pg_reseed.state"));
        }
        set_mode(&place, 0o700);
        fs::remove_dir_all(&place).unwrap();
    }
    // What stays as it is may be closed to everybody.
    fs::create_dir(old.join("private")).unwrap();
    set_mode(&old.join("private"), 0);
    pair.rebuild().succeed();
    assert_eq!(mode(&old.join("private")), 0);
    set_mode(&old.join("private"), 0o700);
}

#[test]
fn a_server_is_not_stopped_for_a_target_that_cannot_be_changed() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.old.start();
    let place = pair.old.pgdata().join("base/4711");
    fs::create_dir(&place).unwrap();
    set_mode(&place, 0);
    let said = pair.rebuild().arg("--stop").fail(3);
    set_mode(&place, 0o700);
    assert!(said.messages().contains("base/4711"), "{said}");
    assert!(pair.old.is_server_alive(), "{said}");
}

#[test]
fn a_place_that_cannot_be_made_is_refused() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    let above = scene.folder("above");
    let mut standby = scene.vacant("standby");
    standby.place(&above.join("data"));
    set_mode(&above, 0o500);
    let seed = || Rebuild::new(&standby, &primary);
    for rebuild in [seed(), seed().arg("--dry-run")] {
        let said = rebuild.fail(3);
        assert!(
            said.messages().contains(&above.display().to_string()),
            "{said}"
        );
    }
    // So is a directory for WAL into which nothing can be written.
    set_mode(&above, 0o700);
    let wal = scene.folder("wal");
    set_mode(&wal, 0o500);
    for option in ["--dry-run", "--progress=none"] {
        let said = seed().arg("--waldir").arg(&wal).arg(option).fail(3);
        assert!(
            said.messages().contains(&wal.display().to_string()),
            "{said}"
        );
    }
    assert!(!standby.pgdata().exists());
    set_mode(&wal, 0o700);
}

// --------------------------------------------------------------------------------------------- the source's history

#[test]
fn a_source_without_its_own_history_file_is_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let history = pair.new.pgdata().join("pg_wal/00000002.history");
    let archive = scene.folder("archive");
    fs::rename(&history, archive.join("00000002.history")).unwrap();
    refused(
        &pair.old,
        || pair.rebuild(),
        &["00000002.history", &host(), "--restore-command"],
    );
    // A standby that gets it elsewhere streams.
    let command = format!("cp {}/%f %p", archive.display());
    let said = pair
        .rebuild()
        .args(["--start", "--restore-command", &command])
        .succeed();
    assert!(said.messages().contains("00000002.history"), "{said}");
    pair.check_equal();
}

/// Measured on 13, 15 and 18: a standby asks for the history of the source's timeline, not for those before it.
#[test]
fn an_older_history_file_is_not_missed() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut new = pair.new;
    new.stop(Stop::Fast);
    new.write("standby.signal", "");
    new.start();
    new.promote();
    assert_eq!(new.timeline(), 3);
    fs::remove_file(new.pgdata().join("pg_wal/00000002.history")).unwrap();
    let mut pair = Pair { old: pair.old, new };
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
    pair.old.stop(Stop::Fast);
}

// --------------------------------------------------------------------------------------- permissions of the directory

#[test]
fn a_data_directory_whose_permissions_postgresql_refuses_is_set_right() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    for (found, becomes) in [
        (0o2770, 0o750),
        (0o775, 0o750),
        (0o777, 0o750),
        (0o701, 0o700),
        (0o750, 0o750),
        (0o2750, 0o2750),
    ] {
        set_mode(pair.old.pgdata(), found);
        let said = pair.rebuild().arg("--dry-run").succeed();
        assert_eq!(mode(pair.old.pgdata()), found, "by a dry run");
        let is_told = said.messages().contains(&format!("{found:04o}"));
        assert_eq!(is_told, found != becomes, "{said}");
        // Nor does a run that is refused change it.
        pair.rebuild().arg("--slot=none_of_that_name").fail(3);
        assert_eq!(mode(pair.old.pgdata()), found, "by a refused run");
        let said = pair.rebuild().succeed();
        assert_eq!(mode(pair.old.pgdata()), becomes, "{said}");
        let is_told = said.messages().contains(&format!("{found:04o}"));
        assert_eq!(is_told, found != becomes, "{said}");
        pair.old.start();
        pair.check_equal();
        pair.old.stop(Stop::Fast);
    }
}

// ------------------------------------------------------------------------------------- seeds, and files that are links

/// A seed has its source's configuration, so its socket would be there too.
fn start_seed(standby: &mut Cluster) {
    let home = standby.home().display().to_string();
    let name = standby.name().to_owned();
    standby.with_options(&[
        "-c",
        &format!("unix_socket_directories={home}"),
        "-c",
        &format!("cluster_name={name}"),
    ]);
    standby.start();
}

#[test]
fn a_seed_may_find_an_empty_pg_wal_and_lost_and_found() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    primary.sql("CREATE TABLE t AS SELECT 1 AS i");
    for (name, is_link) in [("mount", false), ("link", true)] {
        let mut standby = scene.vacant(name);
        fs::create_dir(standby.pgdata()).unwrap();
        fs::create_dir(standby.pgdata().join("lost+found")).unwrap();
        let wal: PathBuf = standby.pgdata().join("pg_wal");
        let place = if is_link {
            let place = scene.folder(&format!("{name}-wal"));
            symlink(&place, &wal).unwrap();
            place
        } else {
            fs::create_dir(&wal).unwrap();
            wal.clone()
        };
        // What a file system of its own has.
        fs::create_dir(place.join("lost+found")).unwrap();
        Rebuild::new(&standby, &primary).arg("--dry-run").succeed();
        let said = Rebuild::new(&standby, &primary).succeed();
        assert_eq!(said.word("mode"), "seed");
        assert!(place.join("lost+found").exists() && wal.is_symlink() == is_link);
        start_seed(&mut standby);
        primary.wait_caught_up(&standby);
        assert_same_data(&primary, &standby);
    }
    // WAL that is somebody's is not emptied.
    let standby = scene.vacant("taken");
    fs::create_dir_all(standby.pgdata().join("pg_wal")).unwrap();
    fs::write(
        standby.pgdata().join("pg_wal/000000010000000000000001"),
        "x",
    )
    .unwrap();
    Rebuild::new(&standby, &primary).fail(3);
    assert!(standby.exists("pg_wal/000000010000000000000001"));
}

#[test]
fn a_linked_auto_conf_of_the_target_becomes_a_file() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let place = pair.old.pgdata().join("postgresql.auto.conf");
    let elsewhere = scene.path().join("elsewhere.conf");
    for (text, leads) in [
        (None, PathBuf::from("/dev/null")),
        (Some("work_mem = '7MB'\n"), elsewhere.clone()),
        (None, scene.path().join("dangling")),
    ] {
        fs::remove_file(&place).unwrap();
        symlink(&leads, &place).unwrap();
        if let Some(text) = text {
            fs::write(&leads, text).unwrap();
        }
        let before = tree(pair.old.pgdata());
        pair.rebuild().arg("--dry-run").succeed();
        assert_untouched(&before, pair.old.pgdata());
        let said = pair.rebuild().succeed();
        assert!(said.messages().contains("postgresql.auto.conf"), "{said}");
        assert!(place.is_file() && !place.is_symlink());
        pair.old.start();
        pair.check_equal();
        if let Some(text) = text {
            // Its settings stay, and the file that it led to is not ours.
            assert_eq!(pair.old.sql("SHOW work_mem"), "7MB");
            assert_eq!(fs::read_to_string(&leads).unwrap(), text);
        }
        pair.old.stop(Stop::Fast);
    }
}

#[test]
fn a_seed_brings_what_a_linked_configuration_of_the_source_says() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.configure("work_mem = '9MB'");
    let etc = scene.folder("etc");
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::rename(primary.pgdata().join(name), etc.join(name)).unwrap();
        symlink(etc.join(name), primary.pgdata().join(name)).unwrap();
    }
    fs::remove_file(primary.pgdata().join("postgresql.auto.conf")).unwrap();
    symlink("/dev/null", primary.pgdata().join("postgresql.auto.conf")).unwrap();
    // Links of other names stay at home, wherever they lead.
    symlink("/etc/passwd", primary.pgdata().join("passwd.conf")).unwrap();
    primary.start();
    let mut standby = scene.vacant("standby");
    Rebuild::new(&standby, &primary).arg("--dry-run").succeed();
    Rebuild::new(&standby, &primary).succeed();
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        assert!(!standby.pgdata().join(name).is_symlink());
        assert_eq!(standby.read(name), primary.read(name), "{name}");
    }
    assert!(!standby.exists("passwd.conf"));
    start_seed(&mut standby);
    primary.wait_caught_up(&standby);
    assert_eq!(standby.sql("SHOW work_mem"), "9MB");
    assert_same_data(&primary, &standby);
}

#[test]
fn a_seed_whose_configuration_would_lack_what_a_link_leads_to_is_refused() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    let etc = scene.folder("etc");
    fs::write(etc.join("a.conf"), "work_mem = '9MB'\n").unwrap();
    symlink(&etc, primary.pgdata().join("conf.d")).unwrap();
    primary.configure("include_dir 'conf.d'");
    primary.start();
    let standby = scene.vacant("standby");
    for option in ["--dry-run", "--progress=none"] {
        let said = Rebuild::new(&standby, &primary).arg(option).fail(3);
        for word in ["\"conf.d\"", "--target-config-dir"] {
            assert!(said.messages().contains(word), "no {word:?}: {said}");
        }
    }
    assert!(!standby.pgdata().exists());
}
