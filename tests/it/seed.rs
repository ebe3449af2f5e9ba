//! The same command with nothing to start from.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::cluster::{Cluster, Pair, Rebuild, Scene};
use crate::guards::pair_with_tablespaces;
use crate::oracle::{Since, assert_amcheck, assert_like_basebackup, assert_same_data};

fn primary(scene: &Scene) -> Cluster {
    let mut primary = scene.cluster("primary");
    primary.start();
    primary.sql("CREATE TABLE t AS SELECT i, repeat('x', 100) AS f FROM generate_series(1, 20000) AS i; CREATE INDEX ON t (i); VACUUM");
    primary
}

/// The seeded directory has the source's configuration: its socket is the source's.
fn start_beside(standby: &mut Cluster) {
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
fn missing_directory_is_seeded() {
    let scene = Scene::new();
    let primary = primary(&scene);
    let mut standby = scene.vacant("standby");
    let said = Rebuild::new(&standby, &primary).succeed();
    assert_eq!(said.word("mode"), "seed");
    assert_eq!(
        fs::metadata(standby.pgdata()).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        assert_eq!(standby.read(name), primary.read(name));
    }
    start_beside(&mut standby);
    primary.wait_caught_up(&standby);
    assert_same_data(&primary, &standby);
    assert_amcheck(&primary, &standby);
}

#[test]
fn empty_directory_is_seeded_with_settings_of_its_own_role_only() {
    let scene = Scene::new();
    let mut primary = primary(&scene);
    primary.configure("work_mem = '9MB'");
    primary.sql("ALTER SYSTEM SET maintenance_work_mem = '19MB'");
    primary.sql("ALTER SYSTEM SET primary_slot_name = 'of_the_source'");
    primary.restart();
    let mut standby = scene.vacant("standby");
    fs::create_dir(standby.pgdata()).unwrap();
    fs::set_permissions(standby.pgdata(), fs::Permissions::from_mode(0o700)).unwrap();
    Rebuild::new(&standby, &primary).succeed();
    start_beside(&mut standby);
    primary.wait_caught_up(&standby);
    assert_eq!(standby.sql("SELECT current_setting('work_mem'), current_setting('maintenance_work_mem'), current_setting('primary_slot_name')"), "9MB|19MB|");
    assert_same_data(&primary, &standby);
}

#[test]
fn directories_of_tablespaces_and_wal_are_made() {
    let scene = Scene::new();
    let (pair, theirs, _) = pair_with_tablespaces(&scene);
    let Pair {
        old: _,
        new: primary,
    } = pair;
    primary.sql("VACUUM");
    let mut standby = scene.vacant("standby");
    let place = |name: &str| scene.path().join("made").join(name).display().to_string();
    let said = Rebuild::new(&standby, &primary)
        .args([
            "-T",
            &format!("{}={}", theirs[0], place("s1")),
            "-T",
            &format!("{}={}", theirs[1], place("s2")),
        ])
        .args(["--waldir", &place("wal")])
        .succeed();
    assert_eq!(said.word("mode"), "seed");
    assert_eq!(
        fs::read_link(standby.pgdata().join("pg_wal"))
            .unwrap()
            .display()
            .to_string(),
        place("wal")
    );
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
    start_beside(&mut standby);
    primary.wait_caught_up(&standby);
    assert_same_data(&primary, &standby);
    assert_eq!(
        fs::metadata(place("s1")).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

/// The source's mode decides: PostgreSQL accepts 0700 and 0750.
#[test]
fn seed_of_a_cluster_that_a_group_may_read_has_its_modes() {
    let scene = Scene::new();
    let mut primary = scene.foreign_cluster("primary", &["--allow-group-access"]);
    primary.start();
    let mut standby = scene.vacant("standby");
    Rebuild::new(&standby, &primary).succeed();
    let mode = |path: &str| {
        fs::metadata(standby.pgdata().join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (
            mode(""),
            mode("base"),
            mode("global/pg_control"),
            mode("pg_wal")
        ),
        (0o750, 0o750, 0o640, 0o750)
    );
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
    start_beside(&mut standby);
    primary.wait_caught_up(&standby);
}

#[test]
fn killed_seed_is_finished_by_the_same_command() {
    let scene = Scene::new();
    let primary = primary(&scene);
    let mut standby = scene.vacant("standby");
    let mut running = Rebuild::new(&standby, &primary)
        .args(["--progress", "json"])
        .spawn();
    running.wait_closed(&standby);
    running.kill();
    drop(running);
    assert!(!standby.exists("global/pg_control") || standby.exists("backup_label"));
    // A run that was killed when it had written nothing but the beginning of its marker.
    let mut early = scene.vacant("early");
    early.place(&scene.folder("early-data"));
    early.write("pg_reseed.tmp", "{");
    Rebuild::new(&early, &primary).succeed();
    assert!(early.exists("global/pg_control") && !early.exists("pg_reseed.tmp"));

    let said = Rebuild::new(&standby, &primary).succeed();
    assert_eq!(said.word("mode"), "seed");
    assert_eq!(
        standby.read("postgresql.conf"),
        primary.read("postgresql.conf")
    );
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
    start_beside(&mut standby);
    primary.wait_caught_up(&standby);
    assert_same_data(&primary, &standby);
}

#[test]
fn dry_run_of_a_seed_makes_nothing() {
    let scene = Scene::new();
    let primary = primary(&scene);
    let standby = scene.vacant("standby");
    let said = Rebuild::new(&standby, &primary).arg("--dry-run").succeed();
    assert!(!standby.pgdata().exists());
    assert!(said.number("fetched_bytes") > 20_000_000, "{said}");
}
