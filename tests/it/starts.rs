//! The server that starts is the standby that was built, and it stays one.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::Value;

use crate::cluster::{Cluster, Pair, Rebuild, Said, Scene, Stop, binary, clean, done, major};
use crate::oracle::{assert_untouched, tree};

/// An old copy of a stopped cluster, which would start.
fn old_copy(scene: &Scene, pair: &Pair) -> Cluster {
    let copy = scene.copy("copy", &pair.old);
    copy.write("standby.signal", "");
    copy
}

/// A run that is refused, and leaves the target as it was.
fn refused(target: &Cluster, rebuild: Rebuild) -> Said {
    let before = tree(target.pgdata());
    let said = rebuild.args(["--progress", "none"]).fail(3);
    assert_untouched(&before, target.pgdata());
    said
}

fn inspection(target: &Cluster) -> Value {
    let said = done(
        clean(Command::new(binary()))
            .args(["inspect", "--json", "-D"])
            .arg(target.pgdata()),
    );
    serde_json::from_str(&said).unwrap()
}

fn problems(target: &Cluster) -> Vec<String> {
    let found = inspection(target);
    let problems = found["cluster"]["configuration_problems"].as_array();
    let problems = problems.unwrap().iter();
    problems
        .map(|problem| problem.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn configuration_of_another_directorys_server_is_refused_everywhere() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let copy = old_copy(&scene, &pair);
    assert_eq!(problems(&pair.old), [""; 0]);
    let own = pair.old.read("postgresql.conf");
    let place = copy.pgdata().display();
    fs::create_dir(pair.old.pgdata().join("conf.d")).unwrap();
    pair.old
        .write("conf.d/a.conf", format!("data_directory = '{place}'\n"));
    pair.old
        .write("more.conf", "include_if_exists 'conf.d/a.conf'\n");
    let link = scene.path().join("link");
    symlink(copy.pgdata(), &link).unwrap();
    let right = pair.old.pgdata().display();
    for lines in [
        format!("data_directory = '{place}'\n"),
        format!("data_directory = '{}'\n", link.display()),
        "include_dir 'conf.d'\n".to_owned(),
        "include 'more.conf'\n".to_owned(),
        format!("data_directory = '{place}/none'\n"),
        // The server knows it in this spelling only, and the last one counts.
        format!("data_directory = '{place}'\nData_Directory = '{right}'\n"),
        "data_directory = ''\n".to_owned(),
    ] {
        pair.old.write("postgresql.conf", format!("{own}{lines}"));
        for options in [&["--start"][..], &["--dry-run"], &["--stop"]] {
            let said = refused(&pair.old, pair.rebuild().args(options));
            let words = said.messages();
            assert!(words.contains("\"data_directory\" is"), "{lines}{said}");
            assert!(words.contains("Nothing was changed"), "{lines}{said}");
        }
        assert_eq!(problems(&pair.old).len(), 1, "{lines}");
    }
    assert!(!copy.is_server_alive());
}

/// What is not the server's directory although it looks so, and what is although it does not.
#[test]
fn configuration_of_the_targets_server_is_taken_by_whatever_name() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let copy = old_copy(&scene, &pair);
    let link = scene.path().join("link");
    symlink(pair.old.pgdata(), &link).unwrap();
    // Another spelling is no setting, and in postgresql.auto.conf it comes too late.
    pair.old
        .configure(&format!("Data_Directory = '{}'", copy.pgdata().display()));
    pair.old.write(
        "auto.inc",
        format!("data_directory = '{}'\n", copy.pgdata().display()),
    );
    let auto = pair.old.read("postgresql.auto.conf");
    pair.old
        .write("postgresql.auto.conf", auto + "include 'auto.inc'\n");
    pair.old
        .configure(&format!("data_directory = '{}/.'", link.display()));
    assert_eq!(problems(&pair.old), [""; 0]);
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
    assert!(!copy.is_server_alive());
}

#[test]
fn configuration_elsewhere_is_judged_as_well() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let copy = old_copy(&scene, &pair);
    let etc = scene.folder("etc");
    let conf = etc.join("postgresql.conf");
    let own = pair.old.read("postgresql.conf");
    let hba = format!("hba_file = '{}/pg_hba.conf'\n", pair.old.pgdata().display());
    let with = |place: &str| {
        let place = format!("data_directory = '{place}'\n");
        fs::write(&conf, format!("{own}{hba}{place}")).unwrap();
        pair.rebuild().arg("--config-file").arg(&conf)
    };
    let elsewhere = with(&copy.pgdata().display().to_string()).arg("--start");
    let said = refused(&pair.old, elsewhere);
    assert!(said.messages().contains(&conf.display().to_string()));
    // A seed is judged by it, too, before its directory is there.
    let seed = scene.vacant("seed");
    let said = Rebuild::new(&seed, &pair.new)
        .arg("--config-file")
        .arg(&conf)
        .fail(3);
    assert!(!seed.pgdata().exists(), "{said}");
    // Without one, the server works where it is told to.
    fs::write(&conf, format!("{own}{hba}")).unwrap();
    pair.rebuild()
        .arg("--config-file")
        .arg(&conf)
        .arg("--start")
        .succeed();
    pair.check_equal();
    assert!(!copy.is_server_alive());
}

/// On one host the seed's server would otherwise start in the source's directory.
#[test]
fn seed_has_no_path_of_the_source() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    let place = source.pgdata().display().to_string();
    let pid_file = scene.path().join("source.pid");
    source.configure(&format!(
        "data_directory = '{place}'\nhba_file = '{place}/pg_hba.conf'\n\
         ident_file = '{place}/pg_ident.conf'\nexternal_pid_file = '{}'\ninclude '{place}/more.conf'",
        pid_file.display()
    ));
    // The last line counts: a server of the target has its socket at home.
    source.write("more.conf", format!("log_directory = '{place}/logs'\n"));
    source.start();
    source.sql(&format!(
        "ALTER SYSTEM SET hba_file = '{place}/pg_hba.conf'"
    ));
    let before = fs::read_to_string(&pid_file).unwrap();
    let target = scene.vacant("target");
    let seed = || Rebuild::new(&target, &source).args(["--progress", "none"]);
    let said = seed().arg("--dry-run").succeed();
    let told = |said: &Said| {
        for name in [
            "data_directory",
            "hba_file",
            "ident_file",
            "external_pid_file",
            "include",
        ] {
            let words = format!("sets {name} to");
            assert!(said.messages().contains(&words), "{name}: {said}");
        }
    };
    told(&said);
    let said = seed().succeed();
    told(&said);
    for file in ["postgresql.conf", "postgresql.auto.conf", "more.conf"] {
        assert!(!target.read(file).contains(&place), "{file}");
    }
    let mut target = target;
    target.settle();
    target.start();
    source.wait_caught_up(&target);
    let at = |name: &str| target.sql(&format!("SHOW {name}"));
    let own = target.pgdata().display().to_string();
    assert_eq!(at("data_directory"), own);
    assert_eq!(at("hba_file"), format!("{own}/pg_hba.conf"));
    assert_eq!(at("external_pid_file"), "");
    assert_eq!(at("log_directory"), format!("{own}/logs"));
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), before);
}

/// A command that starts another server than that of PGDATA: nobody may be left with two of them.
#[test]
fn server_that_starts_elsewhere_is_stopped_again_and_named() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut copy = scene.copy("copy", &pair.old);
    let mut stranger = scene.copy("stranger", &pair.old);
    stranger.start();
    let pg_ctl = format!(
        "{}/pg_ctl start -w -D {} -l {}",
        crate::cluster::bindir().display(),
        copy.pgdata().display(),
        copy.log_path().display()
    );
    let said = pair
        .rebuild()
        .args(["--start-command", &pg_ctl, "--wait", "20"])
        .fail(6);
    assert!(!copy.is_server_alive(), "{said}");
    let words = format!(
        "the server that was started works in \"{}\", not in \"{}\"; it was stopped again",
        copy.pgdata().display(),
        pair.old.pgdata().display()
    );
    assert!(said.messages().contains(&words), "{said}");
    // Nobody else's server was touched.
    assert!(stranger.is_server_alive());
    // A server of another, which starts at the same moment, is not taken for ours either.
    copy.start();
    pair.rebuild().args(["--start"]).succeed();
    pair.check_equal();
    assert!(copy.is_server_alive() && stranger.is_server_alive());
    copy.stop(Stop::Fast);
    stranger.stop(Stop::Fast);
}

/// 13 to 15 know the file; from 16 on a server with this setting does not start.
#[test]
fn trigger_file_that_is_there_does_not_promote_the_standby() {
    if major() > 15 {
        return;
    }
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let trigger = scene.path().join("trigger");
    fs::write(&trigger, "").unwrap();
    pair.old
        .configure(&format!("promote_trigger_file = '{}'", trigger.display()));
    let told = |said: &Said| {
        assert!(
            said.stderr.contains("promote_trigger_file"),
            "nothing was said: {said}"
        );
    };
    told(&pair.rebuild().arg("--dry-run").succeed());
    told(&pair.rebuild().arg("--start").succeed());
    pair.check_equal();
    assert_eq!(pair.old.sql("SHOW promote_trigger_file"), "");
    assert_eq!(pair.old.sql("SELECT pg_is_in_recovery()"), "t");
    assert!(trigger.exists());
}

#[test]
fn what_postgresql_auto_conf_includes_does_not_end_the_standbys_role() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.old.write(
        "hidden",
        "recovery_target = 'immediate'\nrecovery_target_action = 'promote'\n\
         primary_slot_name = 'of_another'\nprimary_conninfo = 'host=nowhere'\nrecovery_target_timeline = 'current'\n",
    );
    let auto = pair.old.read("postgresql.auto.conf");
    pair.old
        .write("postgresql.auto.conf", auto + "include 'hidden'\n");
    let said = pair.rebuild().arg("--start").succeed();
    pair.check_equal();
    assert!(said.stderr.contains("recovery_target = "), "{said}");
    assert_eq!(pair.old.sql("SHOW recovery_target"), "");
    assert_eq!(pair.old.sql("SHOW primary_slot_name"), "");
    assert_eq!(pair.old.sql("SHOW recovery_target_timeline"), "latest");
    // What somebody includes stays theirs.
    assert!(pair.old.read("postgresql.auto.conf").contains("include"));
}

#[test]
fn commands_that_stay_in_force_are_named() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.old.configure(
        "restore_command = 'false'\narchive_cleanup_command = 'true'\nrecovery_end_command = 'true'\n\
         recovery_min_apply_delay = '1ms'",
    );
    for options in [&["--dry-run"][..], &["--start"]] {
        let said = pair
            .rebuild()
            .args(options)
            .args(["--progress", "plain"])
            .succeed();
        for name in [
            "restore_command",
            "archive_cleanup_command",
            "recovery_end_command",
            "recovery_min_apply_delay",
        ] {
            let words = format!("Setting {name} = ");
            assert_eq!(said.stderr.matches(&words).count(), 1, "{name}: {said}");
        }
        let warnings = said.report()["warnings"].to_string();
        assert!(warnings.contains("restore_command"), "{warnings}");
        assert!(!warnings.contains("recovery_end_command"), "{warnings}");
    }
    // Who says it, knows it.
    let said = pair
        .rebuild()
        .args(["--stop", "--restore-command", "false"])
        .succeed();
    assert!(!said.stderr.contains("Setting restore_command"), "{said}");
}

#[test]
fn configuration_without_content_is_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    for (file, content) in [
        ("postgresql.conf", &b""[..]),
        // An empty one is filled with the source's.
        ("pg_hba.conf", b" \n"),
        ("postgresql.conf", &[0; 8192]),
    ] {
        let own = pair.old.read(file);
        pair.old.write(file, content);
        for options in [&["--start"][..], &["--dry-run"]] {
            let said = refused(&pair.old, pair.rebuild().args(options));
            let words = said.messages();
            assert!(words.contains("without content"), "{said}");
            assert!(words.contains("--config source"), "{said}");
            assert!(words.contains(file), "{said}");
        }
        assert_eq!(problems(&pair.old).len(), 1);
        pair.old.write(file, own);
    }
    pair.old.write("postgresql.conf", "");
    pair.rebuild().args(["--config", "source"]).succeed();
    assert!(pair.old.read("postgresql.conf").contains("shared_buffers"));
}
