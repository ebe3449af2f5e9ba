//! A command on the wrong side: nothing may take the last primary away, nor stop a server for nothing, nor seed a
//! directory that was only mistyped.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::{
    Cluster, DEADLINE, Pair, Rebuild, Said, Scene, Stop, alive, binary, children_of, clean, done,
    eventually,
};
use crate::oracle::{assert_untouched, tree};
use crate::rebuild::assert_source_as_found;

/// What `inspect --json` says of a directory beside a source.
pub fn inspected(target: &Cluster, source: &Cluster, options: &[&str]) -> Value {
    let mut command = clean(Command::new(binary()));
    command
        .args(["inspect", "--json", "-D"])
        .arg(target.pgdata())
        .args(["-d", &source.conninfo(), "--from", "local"])
        .args([
            "--source-dbname",
            &format!("{} dbname=postgres", source.conninfo()),
        ])
        .args(options);
    serde_json::from_str(&done(&mut command)).unwrap()
}

/// All sentences of an inspection.
pub fn sentences(found: &Value) -> String {
    found["sentences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sentence| sentence.as_str().unwrap())
        .collect::<Vec<_>>()
        .join("\n")
}

const FOLLOWS: &str = "the source is a standby of the target";

/// Rebuild, dry run and inspection say that the source follows the target, whatever is asked for, and its server is
/// not touched.
fn assert_wrong_side(target: &Cluster, source: &Cluster, says: &str) {
    let server = target.postmaster();
    for options in [
        &[][..],
        &["--stop"],
        &["--dry-run", "--stop"],
        &["--dry-run"],
    ] {
        let said = Rebuild::new(target, source).args(options).fail(3);
        assert!(said.messages().contains(FOLLOWS), "{options:?} {said}");
        assert!(said.messages().contains(says), "{options:?} {said}");
        assert_eq!(target.postmaster(), server, "{options:?} {said}");
        assert!(!target.exists("pg_reseed.state"));
    }
    if let Some(server) = server {
        assert!(alive(server));
    }
    let found = inspected(target, source, &[]);
    assert!(
        sentences(&found).contains("The source is a standby of the target"),
        "{found}"
    );
    assert!(found["command"].is_null(), "{found}");
    let advice = found["advice"]["verdict"].as_str().unwrap();
    let harmless = [
        "source-follows-target",
        "switchover-ready",
        "switchover-too-early",
        "look-twice",
    ];
    assert!(harmless.contains(&advice), "{found}");
    assert_source_as_found(source, 0);
}

#[test]
fn running_primary_is_not_stopped_for_its_own_standby() {
    let scene = Scene::new();
    let pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t (i int)");
    });
    pair.old
        .sql("INSERT INTO t SELECT generate_series(1, 10000)");
    assert_wrong_side(&pair.old, &pair.new, "which is the target's server");
    pair.old.sql("INSERT INTO t VALUES (1)");
    pair.old.wait_caught_up(&pair.new);
}

/// A clean shutdown and a crash, and the way out of both: promote first.
#[test]
fn primary_that_was_stopped_is_not_made_a_standby_of_its_own_standby() {
    let scene = Scene::new();
    for how in [Stop::Fast, Stop::Immediate] {
        let folder = Scene::new();
        let mut pair = Pair::streaming(&folder, |old| {
            old.sql("CREATE TABLE t (i int)");
        });
        pair.old.stop(how);
        let before = tree(pair.old.pgdata());
        assert_wrong_side(&pair.old, &pair.new, "promote it first");
        assert_untouched(&before, pair.old.pgdata());
        if how == Stop::Immediate {
            let said = pair.rebuild().arg("--leave-no-primary").succeed();
            assert!(
                said.report()["warnings"]
                    .to_string()
                    .contains("--leave-no-primary")
            );
        }
        pair.new.promote();
        pair.rebuild().arg("--start").succeed();
        pair.check_equal();
    }
    drop(scene);
}

/// A circle of standbys cuts both off, also where a primary is left elsewhere.
#[test]
fn standby_is_not_rebuilt_from_one_that_follows_it() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    primary.sql("CREATE TABLE t (i int)");
    let mut middle = scene.standby("middle", &primary, &[]);
    let mut below = scene.standby("below", &middle, &[]);
    middle.wait_caught_up(&below);
    assert_wrong_side(&middle, &below, "It receives its WAL from");
    let last = scene.standby("last", &below, &[]);
    below.wait_caught_up(&last);
    assert_wrong_side(&middle, &last, "It follows a server that follows");
    // The primary is at the end of the same chain.
    assert_wrong_side(&primary, &last, "which is the target's server");
    middle.stop(Stop::Fast);
    eventually("the one below has noticed", DEADLINE, || {
        (below.sql("SELECT count(*) FROM pg_stat_wal_receiver") == "0").then_some(())
    });
    assert_wrong_side(&middle, &below, "its primary_conninfo leads to");
    // Below another one it is a source like any other, and the DBA hears where it leads.
    below.configure(&format!("primary_conninfo = '{}'", primary.conninfo()));
    let own = below.read("postgresql.auto.conf");
    let kept: Vec<&str> = own
        .lines()
        .filter(|line| !line.starts_with("primary_conninfo"))
        .collect();
    below.write("postgresql.auto.conf", kept.join("\n") + "\n");
    below.restart();
    primary.wait_caught_up(&below);
    let said = Rebuild::new(&middle, &below).arg("--start").succeed();
    assert!(said.stderr.contains("a primary is behind it"), "{said}");
    below.wait_caught_up(&middle);
}

#[test]
fn source_that_follows_nobody_is_pointed_out() {
    let scene = Scene::new();
    let pair = Pair::streaming(&scene, |_| {});
    let mut third = scene.standby("third", &pair.old, &[]);
    third.stop(Stop::Fast);
    let mut primary = pair.old;
    primary.stop(Stop::Fast);
    eventually("the source has noticed", DEADLINE, || {
        (pair.new.sql("SELECT count(*) FROM pg_stat_wal_receiver") == "0").then_some(())
    });
    let said = Rebuild::new(&third, &pair.new).succeed();
    let warnings = said.report()["warnings"].to_string();
    assert!(warnings.contains("receives WAL from no server"), "{said}");
    let found = inspected(&third, &pair.new, &[]);
    assert!(
        sentences(&found).contains("receives WAL from no server"),
        "{found}"
    );
}

/// The control file of a base backup says what its source was doing, which is to be a primary.
#[test]
fn copy_that_was_never_started_is_nobodys_primary() {
    let scene = Scene::new();
    let pair = Pair::streaming(&scene, |_| {});
    let Pair {
        old: mut primary,
        new: standby,
    } = pair;
    let copy = scene.vacant("copy");
    Rebuild::new(&copy, &primary).succeed();
    primary.stop(Stop::Fast);
    eventually("the source has noticed", DEADLINE, || {
        (standby.sql("SELECT count(*) FROM pg_stat_wal_receiver") == "0").then_some(())
    });
    let found = inspected(&copy, &standby, &[]);
    assert_ne!(
        found["advice"]["verdict"], "source-follows-target",
        "{found}"
    );
    Rebuild::new(&copy, &standby).succeed();
    assert_wrong_side(&primary, &standby, "which is the target's server");
}

/// Two primaries on one timeline, the target further than the source.
fn twins(scene: &Scene) -> (Cluster, Cluster) {
    let mut target = scene.cluster("target");
    target.start();
    target.sql("CREATE TABLE t (i int)");
    target.stop(Stop::Fast);
    let mut source = scene.copy("source", &target);
    source.start();
    // Further than the target's last checkpoint, which is all that its files tell.
    source.sql("CREATE TABLE u AS SELECT generate_series(1, 5000)");
    target.with_options(&["-c", "work_mem=7MB"]);
    target.start();
    target.sql("INSERT INTO t SELECT generate_series(1, 50000)");
    (target, source)
}

#[test]
fn running_server_is_asked_where_it_stands_before_it_is_stopped() {
    let scene = Scene::new();
    let (target, source) = twins(&scene);
    let server = target.postmaster();
    for options in [&["--stop"][..], &["--stop", "--dry-run"]] {
        let said = Rebuild::new(&target, &source).args(options).fail(3);
        assert!(said.messages().contains("is ahead of the source"), "{said}");
        assert_eq!(target.postmaster(), server, "{said}");
    }
    assert_eq!(target.sql("SELECT count(*) FROM t"), "50000");
}

/// Sets the target's pg_hba.conf, and waits until it holds.
fn let_in(target: &Cluster, method: &str, is_let_in: bool) {
    target.write("pg_hba.conf", format!("local all all {method}\n"));
    kill_process(target.postmaster().unwrap(), Signal::HUP).unwrap();
    eventually("pg_hba.conf holds", DEADLINE, || {
        (target.try_sql("postgres", "SELECT 1").is_ok() == is_let_in).then_some(())
    });
}

/// A server that does not let us in is judged by its files, which lag: what they do not tell shows after the stop.
#[test]
fn server_that_was_stopped_in_vain_is_started_again_as_it_ran() {
    let scene = Scene::new();
    let (mut target, source) = twins(&scene);
    let before = target.postmaster().unwrap();
    let opts = target.read("postmaster.opts");
    let_in(&target, "reject", false);
    let said = Rebuild::new(&target, &source).arg("--stop").fail(3);
    let has = |text: &str| assert!(said.messages().contains(text), "{text} {said}");
    has("is ahead of the source");
    has("has been started again (PID ");
    assert_ne!(target.postmaster().unwrap(), before);
    for argument in ["\"-c\" \"work_mem=7MB\"", "\"-D\""] {
        assert!(opts.contains(argument), "{opts}");
        assert!(target.read("postmaster.opts").contains(argument));
    }
    let_in(&target, "trust", true);
    assert_eq!(target.sql("SHOW work_mem"), "7MB");
    // By the command that starts it, where there is one; and that it did not help, if so.
    source.sql("CREATE TABLE v AS SELECT generate_series(1, 100000)");
    target.sql("INSERT INTO t SELECT generate_series(1, 200000)");
    let_in(&target, "reject", false);
    let command = format!("touch {}; false", target.home().join("started").display());
    let said = Rebuild::new(&target, &source)
        .args(["--stop", "--start-command", &command])
        .fail(3);
    assert!(target.home().join("started").exists(), "{said}");
    let has = |text: &str| assert!(said.messages().contains(text), "{text} {said}");
    has("is ahead of the source");
    has("is not running now");
    has("hint: Start it again: /bin/sh -c");
    target.write("pg_hba.conf", "local all all trust\n");
    target.start();
    assert_eq!(target.sql("SELECT count(*) FROM t"), "250000");
}

/// A process of a server, by its title.
fn process_of(server: &Cluster, title: &str) -> Pid {
    let children = children_of(server.postmaster().unwrap());
    let is_it = |pid: &Pid| {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
        line.is_ok_and(|line| line.contains(title))
    };
    children.into_iter().find(is_it).unwrap()
}

/// A run that is told to end while the server stops starts it again; one that has no time left says how.
#[test]
fn run_that_is_interrupted_while_the_server_stops_starts_it_again() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.old.start();
    // It cannot shut down without its checkpointer.
    let checkpointer = process_of(&pair.old, "checkpointer");
    let before = pair.old.postmaster();
    kill_process(checkpointer, Signal::STOP).unwrap();
    let told = |server: &Cluster| {
        server
            .log()
            .matches("received fast shutdown request")
            .count()
    };
    let told_before = told(&pair.old);
    let mut running = pair.rebuild().arg("--stop").spawn();
    running.wait_for("the server is told to stop", |_| {
        told(&pair.old) > told_before
    });
    kill_process(running.pid(), Signal::TERM).unwrap();
    running.wait_for("it has heard", |running| {
        running.stderr().contains("stopping;")
    });
    kill_process(checkpointer, Signal::CONT).unwrap();
    let said = running.wait();
    assert_eq!(said.code(), 1, "{said}");
    let has = |text: &str| assert!(said.messages().contains(text), "{text} {said}");
    has("interrupted by a signal");
    has("has been started again (PID ");
    assert_ne!(pair.old.postmaster(), before);
    pair.old.wait_sql("SELECT count(*) FROM only_old", "0");

    let checkpointer = process_of(&pair.old, "checkpointer");
    kill_process(checkpointer, Signal::STOP).unwrap();
    let said = pair.rebuild().args(["--stop", "--wait", "1"]).run();
    kill_process(checkpointer, Signal::CONT).unwrap();
    assert_eq!(said.code(), 1, "{said}");
    let has = |text: &str| assert!(said.messages().contains(text), "{text} {said}");
    has("did not stop within 1 s");
    has("may still be doing so");
    has("Once it has stopped, start it again: ");
    // The command is one that can be typed.
    eventually("the server is gone", DEADLINE, || {
        (!pair.old.exists("postmaster.pid")).then_some(())
    });
    let hint = "start it again: ";
    let command = said.messages();
    let command = command
        .lines()
        .find_map(|line| line.split_once(hint))
        .unwrap()
        .1;
    done(clean(Command::new("/bin/sh")).args(["-c", command]));
    pair.old.wait_sql("SELECT count(*) FROM only_old", "0");
}

/// A dry run with --stop compares beside the server that it would stop.
#[test]
fn dry_run_says_which_server_it_would_stop() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.old.start();
    let server = pair.old.postmaster().unwrap();
    let load = pair.old.sql_later(
        "INSERT INTO t SELECT i, 'busy' FROM generate_series(1, 100000) AS i; DROP TABLE only_old",
    );
    let said = pair.rebuild().args(["--dry-run", "--stop"]).succeed();
    drop(load);
    assert_eq!(said.word("mode"), "dry-run");
    assert!(said.number("differing_blocks") > 0, "{said}");
    let pid = u64::try_from(server.as_raw_nonzero().get()).unwrap();
    assert_eq!(said.number("server_to_stop"), pid);
    assert!(
        said.stdout
            .contains(&format!("stops the server with PID {pid} first")),
        "{said}"
    );
    assert_eq!(pair.old.postmaster(), Some(server));
    assert!(!pair.old.exists("pg_reseed.state"));
    // Without it a running server is a reason to refuse, as in a real run.
    pair.rebuild().arg("--dry-run").fail(3);
    pair.rebuild().args(["--stop", "--start"]).succeed();
    pair.check_equal();
}

/// What is refused for the list of files is refused while the server still runs.
#[test]
fn list_of_files_is_judged_before_the_stop() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.old.start();
    let server = pair.old.postmaster();
    let said = pair.rebuild().args(["--stop", "--max-delete", "0"]).fail(3);
    assert!(said.messages().contains("--max-delete"), "{said}");
    assert_eq!(pair.old.postmaster(), server, "{said}");
    pair.old.sql("SELECT 1");
}

// ------------------------------------------------------------------------------------------ a mistyped -D

/// Runs a command as a person does, at a terminal; what it said, and its status.
fn typed(rebuild: &str) -> (String, i32) {
    let output = clean(Command::new("script"))
        .args(["--quiet", "--return", "--command", rebuild, "/dev/null"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (text, output.status.code().unwrap())
}

#[test]
fn person_who_seeds_a_missing_directory_is_asked_and_a_script_is_told() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    let target = scene.vacant("target");
    let command = |more: &str| {
        format!(
            "{} rebuild -D {} -d '{conninfo}' --from local --source-dbname '{conninfo} dbname=postgres' --no-sync {more}",
            binary().display(),
            target.pgdata().display(),
            conninfo = primary.conninfo(),
        )
    };
    for more in ["", "--dry-run"] {
        let (text, status) = typed(&command(more));
        assert_eq!(status, 3, "{text}");
        assert!(
            text.contains("does not exist") && text.contains("--seed"),
            "{text}"
        );
        assert!(!target.pgdata().exists());
    }
    let (text, status) = typed(&command("--seed --dry-run"));
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("everything comes"), "{text}");
    // A script has nobody to ask.
    let said = Rebuild::new(&target, &primary).succeed();
    assert_eq!(said.word("mode"), "seed");
    let warnings = said.report()["warnings"].to_string();
    assert!(
        warnings.contains("nothing is there, and everything comes"),
        "{said}"
    );
    let first = said.stderr.find("nothing is there").unwrap();
    assert!(first < said.stderr.find("to fetch").unwrap(), "{said}");
}

#[test]
fn path_below_a_missing_directory_is_taken_for_a_mistake_unless_it_is_meant() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    let mut target = scene.vacant("target");
    let home = target.home().to_owned();
    target.place(&home.join("postgrseql/15/main"));
    for options in [&[][..], &["--dry-run"]] {
        let said: Said = Rebuild::new(&target, &primary).args(options).fail(3);
        assert!(said.messages().contains("mistyped path"), "{said}");
        assert!(!home.join("postgrseql").exists());
    }
    Rebuild::new(&target, &primary).arg("--seed").succeed();
    assert!(target.exists("global/pg_control"));
    // An empty directory was made by somebody: that is enough.
    let mut empty = scene.vacant("empty");
    empty.place(&scene.folder("made"));
    let said = Rebuild::new(&empty, &primary).succeed();
    assert!(
        !said.report()["warnings"]
            .to_string()
            .contains("everything comes")
    );
    fs::remove_dir_all(home.join("postgrseql")).unwrap();
}
