//! `inspect` knows every state, those that pg_reseed itself makes among them: each is made here for real.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::cluster::{
    Cluster, DEADLINE, Pair, Rebuild, Scene, Stop, binary, bindir, clean, done, eventually,
    plain_lsns,
};

/// What `inspect` found, in every form, and its exit status by verdict.
struct Found {
    json: Value,
    text: String,
    status: i32,
}

impl Found {
    fn code(&self) -> &str {
        self.json["state"]["code"].as_str().unwrap()
    }

    fn verdict(&self) -> &str {
        self.json["advice"]["verdict"].as_str().unwrap_or("none")
    }

    fn command(&self) -> &str {
        self.json["command"]
            .as_str()
            .unwrap_or_else(|| panic!("no command: {}", self.text))
    }

    /// Code of the state, verdict and exit status at once.
    fn is(&self, code: &str, verdict: &str, status: i32) {
        let found = (self.code(), self.verdict(), self.status);
        assert_eq!(found, (code, verdict, status), "{}", self.text);
    }
}

/// Inspects with these options, as text and as JSON.
fn inspect(target: &Cluster, options: &[&str]) -> Found {
    let run = |more: &[&str]| {
        let mut command = clean(Command::new(binary()));
        command.args(["inspect", "--exit-code", "-D"]);
        command.arg(target.pgdata()).args(options).args(more);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let status = output.status.code().unwrap();
        assert!(status == 0 || status >= 10, "{status}\n{text}\n{errors}");
        for shown in [&text, &errors] {
            assert!(!shown.to_ascii_uppercase().contains("0/DEAD"), "{shown}");
        }
        (text, status)
    };
    let (text, status) = run(&[]);
    let (json, same) = run(&["--json"]);
    assert_eq!(status, same, "{text}\n{json}");
    let json = serde_json::from_str(&json).unwrap();
    Found { json, text, status }
}

/// Options that name a source.
fn asking(source: &Cluster) -> [String; 6] {
    let conninfo = source.conninfo();
    let own = format!("{conninfo} dbname=postgres");
    ["-d", &conninfo, "--from", "local", "--source-dbname", &own].map(str::to_owned)
}

fn beside(target: &Cluster, source: &Cluster) -> Found {
    let options = asking(source);
    inspect(target, &options.each_ref().map(String::as_str))
}

/// Inspects until the verdict is this one.
fn until(target: &Cluster, source: &Cluster, verdict: &str) -> Found {
    let mut last = String::new();
    eventually(&format!("the verdict is {verdict}"), DEADLINE, || {
        let mut command = clean(Command::new(binary()));
        command.args(["inspect", "--json", "-D"]);
        let text = done(command.arg(target.pgdata()).args(asking(source)));
        let found: Value = serde_json::from_str(&text).unwrap();
        if found["advice"]["verdict"] == verdict {
            return Some(());
        }
        if last != text {
            eprintln!("{text}");
            last = text;
        }
        None
    });
    beside(target, source)
}

/// Runs a command as it would be pasted. What it starts must not hold our pipe.
fn paste(command: &str, scene: &Scene) {
    let log = scene.path().join("pasted");
    let path = format!("{}:{}", bindir().display(), std::env::var("PATH").unwrap());
    let status = clean(Command::new("sh"))
        .arg("-c")
        .arg(format!("{{ {command}\n}} > {} 2>&1", log.display()))
        .env("PATH", path)
        .status()
        .unwrap();
    assert!(
        status.success(),
        "{command}\n{}",
        fs::read_to_string(log).unwrap()
    );
}

fn host() -> String {
    done(Command::new("uname").arg("-n")).trim().to_owned()
}

/// Lets the source remove all WAL that nothing keeps.
fn forget_wal(source: &Cluster) {
    source.sql("ALTER SYSTEM SET wal_keep_size = 0");
    source.sql("SELECT pg_reload_conf()");
    source.wait_sql("SHOW wal_keep_size", "0");
    for _ in 0..4 {
        source.sql("CREATE TABLE forget (i int)");
        source.sql("DROP TABLE forget");
        source.sql("SELECT pg_switch_wal()");
    }
    source.sql("CHECKPOINT");
}

#[test]
fn finished_rebuild_is_one_that_is_to_be_started_and_the_command_starts_it() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let (old, new) = (&pair.old, &pair.new);
    pair.rebuild()
        .args(["--slot", "mine", "--create-slot"])
        .succeed();
    let found = beside(old, new);
    found.is("rebuilt", "start", 10);
    let (state, cluster) = (&found.json["state"], &found.json["cluster"]);
    assert_eq!(state["source"], host());
    let label = plain_lsns(&old.read("backup_label"));
    let start = state["start_lsn"].as_str().unwrap();
    assert!(label.contains(&format!("START WAL LOCATION: {start} ")));
    let checkpoint = cluster["checkpoint"].as_str().unwrap();
    assert!(label.contains(&format!("CHECKPOINT LOCATION: {checkpoint}\n")));
    assert_eq!(state["slot"], "mine");
    assert_eq!(found.json["advice"]["kept_by"], "slot");
    // What the copied control file says is the source's.
    assert!(cluster["state"].is_null(), "{cluster}");
    assert!(found.text.contains("and not started yet"), "{}", found.text);
    assert!(!found.text.contains("in production"), "{}", found.text);
    // Alone it is the same, and who has the WAL is not known.
    let alone = inspect(old, &[]);
    alone.is("rebuilt", "start", 10);
    assert!(alone.json["advice"]["kept_by"].is_null());
    // A run that refuses, and a dry run, tell no more of the poison.
    for said in [
        pair.rebuild()
            .args(["--slot", "mine", "--dry-run"])
            .succeed(),
        pair.rebuild().args(["--slot", "none"]).fail(3),
    ] {
        assert!(!said.to_string().contains("0/DEAD"), "{said}");
    }
    paste(found.command(), &scene);
    new.wait_caught_up(old);
    let found = until(old, new, "healthy");
    assert_eq!(found.json["state"]["slot"], "mine");
    pair.check_equal();
}

#[test]
fn finished_rebuild_whose_wal_is_gone_needs_another_and_one_without_its_label_too() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.rebuild().succeed();
    let found = beside(&pair.old, &pair.new);
    found.is("rebuilt", "start", 10);
    assert_eq!(found.json["advice"]["kept_by"], "wal-keep-size");
    forget_wal(&pair.new);
    let found = beside(&pair.old, &pair.new);
    found.is("rebuilt", "wal-gone", 11);
    assert!(found.command().starts_with("pg_reseed rebuild "));
    fs::remove_file(pair.old.pgdata().join("backup_label")).unwrap();
    let found = beside(&pair.old, &pair.new);
    found.is("unusable", "broken", 11);
    assert!(found.command().starts_with("pg_reseed rebuild "));
    inspect(&pair.old, &[]).is("unusable", "broken", 11);
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
}

#[test]
fn base_backup_of_another_tool_is_no_primary_before_it_was_started() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    let copy = scene.vacant("copy");
    primary.basebackup(copy.pgdata(), &["--write-recovery-conf"]);
    let found = beside(&copy, &primary);
    found.is("copied", "start", 10);
    assert!(found.json["cluster"]["state"].is_null());
    // As it is, a server would be a second primary: no command starts one.
    fs::remove_file(copy.pgdata().join("standby.signal")).unwrap();
    let found = beside(&copy, &primary);
    found.is("copied", "reattach", 10);
    assert!(found.json["command"].is_null(), "{}", found.text);
    inspect(&copy, &[]).is("copied", "none", 15);
}

/// The marker keeps the command that was interrupted, and no secret of it; what inspect prints finishes the run.
#[test]
fn interrupted_command_is_kept_without_its_secrets_and_finishes_the_run_when_it_is_pasted() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let agent = format!(
        "exec:PGPASSWORD='ge heim' VAULT_TOKEN=geheim {} serve --stdio -d '{} dbname=postgres'",
        binary().display(),
        pair.new.conninfo()
    );
    let mut running = Rebuild::bare(&pair.old, &pair.new)
        .args(["--from", &agent, "--max-rate", "32k", "--start"])
        .env("PGCONNECT_TIMEOUT", "23")
        .spawn();
    running.wait_closed(&pair.old);
    let locked = inspect(&pair.old, &[]);
    locked.is("in-work", "wait", 15);
    running.kill();
    drop(running);
    let marker = pair.old.read("pg_reseed.state");
    assert!(!marker.contains("heim"), "{marker}");
    for found in [inspect(&pair.old, &[]), beside(&pair.old, &pair.new)] {
        found.is("interrupted", "run-again", 12);
        assert_eq!(found.json["state"]["source"], host());
        let command = found.command();
        assert!(
            command.starts_with("env PGCONNECT_TIMEOUT=23 ") && command.contains(" 32k "),
            "{command}"
        );
        assert_eq!(found.json["cluster"]["interrupted"]["command"], command);
        assert!(found.text.contains("was left") || found.text.contains("s ago"));
    }
    let found = inspect(&pair.old, &[]);
    // From another directory it goes to the one where it was typed.
    let elsewhere = clean(Command::new(binary()))
        .args(["inspect", "--json", "-D"])
        .arg(pair.old.pgdata())
        .current_dir("/")
        .output()
        .unwrap();
    let elsewhere: Value = serde_json::from_slice(&elsewhere.stdout).unwrap();
    let there = elsewhere["command"].as_str().unwrap();
    assert!(there.starts_with("cd /"), "{there}");
    assert!(there.ends_with(found.command()), "{there}");
    eventually("the agent is gone", DEADLINE, || {
        (pair.new.sql("SELECT count(*) FROM pg_replication_slots") == "0").then_some(())
    });
    paste(&there.replace(" 32k ", " 1000M "), &scene);
    pair.check_equal();
}

#[test]
fn standby_that_streams_is_healthy_until_its_replay_is_paused() {
    let scene = Scene::new();
    let pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t (i int)");
    });
    let (primary, standby) = (&pair.old, &pair.new);
    let found = until(standby, primary, "healthy");
    found.is("streaming", "healthy", 0);
    let state = &found.json["state"];
    assert_eq!(state["is_from_source"], true, "{state}");
    assert_eq!(state["lag_bytes"], 0, "{state}");
    assert_eq!(state["lag_seconds"], 0, "{state}");
    let from = state["from"].as_str().unwrap();
    assert!(
        from.contains(&primary.home().display().to_string()),
        "{from}"
    );
    let alone = inspect(standby, &[]);
    alone.is("streaming", "healthy", 0);
    assert!(alone.json["state"]["is_from_source"].is_null());

    standby.sql("SELECT pg_wal_replay_pause()");
    standby.wait_sql("SELECT pg_is_wal_replay_paused()", "t");
    primary.sql("INSERT INTO t SELECT generate_series(1, 1000)");
    let found = beside(standby, primary);
    found.is("streaming", "paused", 13);
    assert!(found.json["advice"]["lag_bytes"].as_u64().unwrap() > 0);
    paste(found.command(), &scene);
    primary.wait_caught_up(standby);
    until(standby, primary, "healthy");
}

/// Nobody lets us in: its processes and files tell.
#[test]
fn standby_without_a_login_is_judged_by_its_files() {
    let scene = Scene::new();
    let pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t (i int)");
    });
    let (primary, standby) = (&pair.old, &pair.new);
    standby.write("pg_hba.conf", "local all nobody trust\n");
    standby.sql("SELECT pg_reload_conf()");
    eventually("nobody is let in", DEADLINE, || {
        standby
            .try_sql("postgres", "SELECT 1")
            .is_err()
            .then_some(())
    });
    primary.sql("INSERT INTO t VALUES (1)");
    let found = until(standby, primary, "healthy");
    found.is("streaming", "healthy", 0);
    assert!(found.json["state"]["replayed"].is_null());
}

#[test]
fn standby_that_receives_nothing_is_told_why() {
    let scene = Scene::new();
    let pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t (i int)");
    });
    let Pair {
        old: primary,
        new: mut standby,
    } = pair;
    let reasons = |found: &Found| found.json["state"]["reasons"].to_string();

    // A slot that is not there.
    standby.configure("primary_slot_name = 'nowhere'");
    standby.restart();
    eventually("it says so in its log", DEADLINE, || {
        standby
            .log_tail()
            .contains("\"nowhere\" does not exist")
            .then_some(())
    });
    let found = until(&standby, &primary, "not-streaming");
    found.is("not-streaming", "not-streaming", 13);
    assert!(
        reasons(&found).contains("source has no such slot"),
        "{}",
        found.text
    );
    let log = found.json["state"]["log"].to_string();
    assert!(log.contains("does not exist"), "{log}");
    assert!(found.text.contains("does not exist"), "{}", found.text);
    assert_eq!(inspect(&standby, &[]).status, 13);

    // The WAL that it needs is gone: only then is a rebuild needed.
    standby.stop(Stop::Fast);
    standby.configure("primary_slot_name = ''");
    forget_wal(&primary);
    standby.start();
    let found = until(&standby, &primary, "wal-gone");
    found.is("not-streaming", "wal-gone", 11);
    assert!(reasons(&found).contains("not in the source's pg_wal any more"));

    // Nothing says whom to follow.
    let auto = standby.read("postgresql.auto.conf");
    let without: String = auto
        .lines()
        .filter(|line| !line.starts_with("primary_conninfo"))
        .map(|line| format!("{line}\n"))
        .collect();
    standby.write("postgresql.auto.conf", without);
    standby.restart();
    let found = inspect(&standby, &[]);
    found.is("not-streaming", "not-streaming", 13);
    assert!(
        reasons(&found).contains("primary_conninfo is not set"),
        "{}",
        found.text
    );
}

#[test]
fn standby_of_another_server_is_named_and_so_is_whom_it_follows() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: middle,
    } = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t (i int)");
    });
    let mut last = scene.standby("last", &middle, &[]);
    middle.wait_caught_up(&last);
    let found = until(&last, &primary, "of-another");
    found.is("streaming", "of-another", 14);
    let server = found.json["advice"]["server"].as_str().unwrap();
    assert!(
        server.contains(&middle.home().display().to_string()),
        "{server}"
    );
    until(&last, &middle, "healthy");
    // One that would follow a server that is not there.
    last.stop(Stop::Fast);
    let auto = last.read("postgresql.auto.conf");
    let middle_home = middle.home().display().to_string();
    last.write(
        "postgresql.auto.conf",
        auto.replace(&middle_home, "/nowhere"),
    );
    last.start();
    let found = beside(&last, &primary);
    found.is("not-streaming", "of-another", 14);
    assert!(found.text.contains("/nowhere"), "{}", found.text);
}

#[test]
fn primaries_and_what_recovers_are_no_standbys() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    inspect(&primary, &[]).is("primary", "none", 15);
    let mut restored = scene.vacant("restored");
    primary.basebackup(restored.pgdata(), &[]);
    restored.settle();
    restored.configure(
        "restore_command = 'false'\nrecovery_target = 'immediate'\nrecovery_target_action = 'pause'",
    );
    restored.write("recovery.signal", "");
    restored.start();
    inspect(&restored, &[]).is("recovering", "wait", 15);
    primary.stop(Stop::Fast);
    inspect(&primary, &[]).is("stopped-primary", "none", 15);
    primary.start();
    primary.stop(Stop::Immediate);
    inspect(&primary, &[]).is("crashed-primary", "none", 15);
    let vacant = scene.vacant("vacant");
    inspect(&vacant, &[]).is("missing", "none", 15);
}

/// A stopped standby that is ready is started by the command.
#[test]
fn stopped_standby_is_started_by_the_command() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t (i int)");
    });
    standby.stop(Stop::Fast);
    let found = beside(&standby, &primary);
    found.is("stopped-standby", "reattach", 10);
    assert_eq!(found.json["state"]["is_of_source"], true);
    paste(found.command(), &scene);
    primary.wait_caught_up(&standby);
}

/// Segments that wait for later use, recycled or new, are no WAL; what was written is, also by a server that crashed.
#[test]
fn segments_that_were_made_for_later_use_do_not_count_as_wal() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    primary.sql("CREATE TABLE t (i int)");
    forget_wal(&primary);
    let written = primary.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let names = || {
        let mut names: Vec<String> = fs::read_dir(primary.pgdata().join("pg_wal"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.len() == 24)
            .collect();
        names.sort();
        names
    };
    // The server has recycled some by itself.
    assert!(names().last() > Some(&written), "{:?}", names());
    let number = |name: &str| u64::from_str_radix(&name[16..], 16).unwrap();
    let end_of = |name: &str| format!("0/{:X}", (number(name) + 1) << 24);
    let wal_end = |cluster: &Cluster| {
        let found = inspect(cluster, &[]);
        let end = &found.json["cluster"]["wal_end"];
        end.as_str().unwrap().to_owned()
    };
    assert_eq!(wal_end(&primary), end_of(&written));
    let last = names().pop().unwrap();
    let path = format!("pg_wal/{}{:08X}", &last[..16], number(&last) + 1);
    primary.write(&path, vec![0; 16 << 20]);
    assert_eq!(wal_end(&primary), end_of(&written));
    // What is written counts, whatever the control file says.
    primary.sql("INSERT INTO t VALUES (1)");
    primary.sql("SELECT pg_switch_wal()");
    primary.sql("INSERT INTO t VALUES (2)");
    let written = primary.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    primary.stop(Stop::Kill);
    assert_eq!(wal_end(&primary), end_of(&written));
}
