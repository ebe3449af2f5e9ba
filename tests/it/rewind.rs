//! In `pg_rewind`'s place: its command line, its ends, its promises.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::cluster::{Cluster, Pair, Rebuild, Scene, Stop, binary};
use crate::oracle::{assert_same_data, assert_untouched, tree};
use crate::rebuild::assert_source_as_found;

/// The binary by the name of `pg_rewind`.
fn linked(scene: &Scene) -> PathBuf {
    let link = scene.path().join("pg_rewind");
    if !link.exists() {
        symlink(binary(), &link).unwrap();
    }
    link
}

/// A call from `source`, by its socket; the agent's role is the tests' own.
fn rewind(scene: &Scene, target: &Cluster, source: &Cluster) -> Rebuild {
    let report = target.home().join("report.json");
    let conninfo = source.conninfo();
    Rebuild::other(target, &linked(scene), &["-N"])
        .arg("--target-pgdata")
        .arg(target.pgdata())
        .arg(format!("--source-server={conninfo} dbname=postgres"))
        .env(
            "PG_RESEED_SOURCE_DBNAME",
            format!("{conninfo} dbname=postgres"),
        )
        .env(
            "PG_RESEED_REWIND_OPTIONS",
            format!("--report {}", report.display()),
        )
}

/// Gives a target back its own place: `pg_rewind` brings the source's configuration.
fn restart_in_place(target: &mut Cluster, source: &Cluster) {
    target.settle();
    target.start();
    source.wait_caught_up(target);
    assert_same_data(source, target);
}

#[test]
fn with_r_an_old_primary_streams_again() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.new.configure("# of the source");
    pair.old.write("mine", "stays");
    rewind(&scene, &pair.old, &pair.new)
        .args(["-R", "-P"])
        .succeed();
    let settings = pair.old.read("postgresql.auto.conf");
    for word in ["primary_conninfo", "dbname=postgres"] {
        assert!(settings.contains(word), "{settings}");
    }
    // What waits for a standby waits for the name that libpq gives it.
    assert!(!settings.contains("application_name"), "{settings}");
    assert!(pair.old.exists("standby.signal"));
    assert_eq!(pair.old.read("mine"), "stays");
    assert!(pair.old.read("postgresql.conf").contains("# of the source"));
    assert_source_as_found(&pair.new, 0);
    restart_in_place(&mut pair.old, &pair.new);
}

#[test]
fn without_r_the_settings_are_left_to_the_caller() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let before = tree(pair.old.pgdata());
    let said = rewind(&scene, &pair.old, &pair.new).arg("-n").succeed();
    assert_untouched(&before, pair.old.pgdata());
    assert!(said.number("moved_bytes") > 0, "{said}");

    // It need not have been shut down cleanly, and a password goes nowhere.
    pair.old.start();
    pair.old.stop(Stop::Immediate);
    let said = rewind(&scene, &pair.old, &pair.new)
        .args(["-c", "--no-ensure-shutdown"])
        .arg(format!(
            "--source-server={} password=geheim",
            pair.new.conninfo()
        ))
        .succeed();
    assert!(said.stderr.contains("-c has no effect"), "{said}");
    assert!(!format!("{said}{}", said.report()).contains("geheim"));
    assert!(pair.old.exists("standby.signal"));
    let settings = pair.old.read("postgresql.auto.conf");
    assert!(!settings.contains("primary_conninfo"), "{settings}");
    pair.old.follow(&pair.new);
    restart_in_place(&mut pair.old, &pair.new);
}

#[test]
fn a_target_that_follows_as_it_is_is_left_alone() {
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t AS SELECT 1 AS i");
    });
    // Up to where the other one left their timeline.
    pair.old.stop(Stop::Fast);
    pair.new.promote();
    pair.new.sql("CREATE TABLE only_new (i int)");
    let before = tree(pair.old.pgdata());
    for option in ["-P", "-n"] {
        let said = rewind(&scene, &pair.old, &pair.new).arg(option).succeed();
        assert!(said.stdout.contains("No rewind required"), "{said}");
        assert_eq!(said.word("mode"), "not-needed");
        assert_untouched(&before, pair.old.pgdata());
    }
    // One that crashed may hide anything: it is compared.
    let said = {
        let mut crashed = scene.copy("crashed", &pair.old);
        crashed.write("standby.signal", "");
        crashed.write("postgresql.auto.conf", "");
        crashed.start();
        crashed.stop(Stop::Immediate);
        rewind(&scene, &crashed, &pair.new).succeed()
    };
    assert_eq!(said.word("mode"), "rebuild", "{said}");
    // What -R writes, it writes all the same.
    rewind(&scene, &pair.old, &pair.new).arg("-R").succeed();
    pair.old.start();
    pair.new.wait_caught_up(&pair.old);
    assert_same_data(&pair.new, &pair.old);
}

#[test]
fn what_pg_rewind_would_not_do_ends_with_status_1() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let call = || rewind(&scene, &pair.old, &pair.new);
    for (options, words) in [
        (&["--not-an-option"][..], "unrecognized option"),
        (&["extra"], "too many command-line arguments"),
        (&["--source-pgdata=/srv/b"], "only one of"),
    ] {
        let said = call().args(options).fail(1);
        assert!(said.stderr.contains(words), "{said}");
        assert!(said.stderr.contains("pg_rewind --help"), "{said}");
    }
    let stopped = Rebuild::other(&pair.old, &linked(&scene), &["-D"])
        .arg(pair.old.pgdata())
        .arg(format!("--source-pgdata={}", pair.new.pgdata().display()))
        .fail(1);
    assert!(
        stopped.stderr.contains("needs a running source"),
        "{stopped}"
    );
    let vacant = scene.vacant("vacant");
    let said = rewind(&scene, &vacant, &pair.new).fail(1);
    assert!(said.stderr.contains("that could be rewound"), "{said}");
    assert!(!vacant.pgdata().exists());
    let foreign = scene.foreign_cluster("foreign", &[]);
    let said = rewind(&scene, &foreign, &pair.new).fail(1);
    assert_eq!(said.report()["refusals"][0], "foreign-cluster", "{said}");
    pair.old.start();
    let said = rewind(&scene, &pair.old, &pair.new).fail(1);
    assert_eq!(said.report()["refusals"][0], "server-running", "{said}");
}

#[test]
fn the_agent_is_where_the_environment_says() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let told = scene.path().join("told");
    let command = format!(
        "exec:touch {}; exec {} serve --stdio -d '{} dbname=postgres'",
        told.display(),
        binary().display(),
        pair.new.conninfo()
    );
    // What is said of agents of another kind is no contradiction.
    Rebuild::other(&pair.old, &binary(), &["rewind", "-N", "-D"])
        .arg(pair.old.pgdata())
        .arg(format!(
            "--source-server=host=db2.example {}",
            pair.new.conninfo()
        ))
        .env("PG_RESEED_FROM", command)
        .env("PG_RESEED_RSH", "false")
        .env("PG_RESEED_TLS_CA", "/gone")
        .succeed();
    assert!(fs::exists(&told).unwrap());
}
