//! Those who ask while a run lasts: `pg_reseed status` in another process, and SIGUSR1.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::cluster::{
    Cluster, DEADLINE, Pair, Rebuild, Running, Scene, binary, clean, eventually, eventually_with,
};

/// Status and output of `pg_reseed status`.
fn ask(target: &Cluster, options: &[&str]) -> (i32, String) {
    let begin = Instant::now();
    let output = clean(Command::new(binary()))
        .args(["status", "-D"])
        .arg(target.pgdata())
        .args(options)
        .output()
        .unwrap();
    // It never hangs, whatever the run does.
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text)
}

fn ask_json(target: &Cluster) -> (i32, Value) {
    let (code, text) = ask(target, &["--json"]);
    let value: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(value["schema"], "pg_reseed.status");
    assert_eq!(value["version"], 1);
    (code, value)
}

fn is_comparing(running: &Running) -> bool {
    let compared = |event: &Value| event["compared_bytes"].as_u64().unwrap_or(0) > 0;
    running.events().iter().any(compared)
}

/// A rebuild that compares for as long as a test needs.
fn slow(pair: &Pair) -> Rebuild {
    pair.rebuild()
        .args(["--max-rate", "64k", "--progress", "json"])
}

fn pid(running: &Running) -> u64 {
    u64::try_from(running.pid().as_raw_nonzero().get()).unwrap()
}

#[test]
fn a_run_tells_how_far_it_is_and_its_remains_how_to_go_on() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let (code, none) = ask_json(&pair.old);
    assert_eq!((code, &none["state"]), (3, &Value::from("none")), "{none}");
    let (_, text) = ask(&pair.old, &[]);
    assert!(
        text.contains("nothing runs") && text.contains("inspect"),
        "{text}"
    );

    let mut running = slow(&pair).spawn();
    running.wait_for("something is compared", is_comparing);
    let (code, said) = ask_json(&pair.old);
    assert_eq!(
        (code, &said["state"]),
        (0, &Value::from("running")),
        "{said}"
    );
    let run = &said["runs"][0];
    assert_eq!(said["runs"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(run["pid"], pid(&running));
    assert_eq!(
        (&run["answers"], &run["kind"]),
        (&true.into(), &"rebuild".into())
    );
    assert_eq!(run["stage"], "compare");
    assert!(run["compared_bytes"].as_u64().unwrap() > 0, "{said}");
    assert_eq!(
        run["source_data_directory"],
        pair.new.pgdata().to_str().unwrap()
    );
    assert!(run["command"].as_str().unwrap().contains(" rebuild -D "));
    assert!(said["interrupted"].is_null(), "{said}");
    // A rate needs two looks a second apart, which nobody has made but the run itself.
    eventually_with(Duration::from_secs(60), || {
        let (_, said) = ask_json(&pair.old);
        let run = &said["runs"][0];
        let percent = run["percent"].as_f64().unwrap_or(0.0);
        assert!(percent < 100.0, "{said}");
        let is_known = percent > 0.0 && run["bytes_per_second"].is_u64();
        is_known.then_some(()).ok_or_else(|| said.to_string())
    });
    // The name of a directory does not matter.
    let link = scene.path().join("link");
    std::os::unix::fs::symlink(pair.old.pgdata(), &link).unwrap();
    let mut by_link = scene.vacant("by_link");
    by_link.place(&link);
    let (code, text) = ask(&by_link, &[]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains(&format!("a rebuild runs (PID {})", pid(&running))),
        "{text}"
    );
    assert!(text.contains(": comparing and moving\n"), "{text}");

    // One that is suspended cannot answer.
    kill_process(running.pid(), Signal::STOP).unwrap();
    let (code, said) = ask_json(&pair.old);
    assert_eq!(
        (code, &said["state"]),
        (1, &Value::from("silent")),
        "{said}"
    );
    let run = &said["runs"][0];
    assert_eq!(run["pid"], pid(&running), "{said}");
    assert_eq!(
        (&run["answers"], &run["is_suspended"]),
        (&false.into(), &true.into())
    );
    let (_, text) = ask(&pair.old, &[]);
    assert!(text.contains("SIGCONT"), "{text}");
    kill_process(running.pid(), Signal::CONT).unwrap();
    assert_eq!(ask(&pair.old, &[]).0, 0);

    // And one that was killed has left its command.
    running.kill();
    assert!(!running.wait().status.success());
    let (code, said) = ask_json(&pair.old);
    assert_eq!(
        (code, &said["state"]),
        (4, &Value::from("interrupted")),
        "{said}"
    );
    assert_eq!(said["runs"], Value::Array(Vec::new()));
    let left = &said["interrupted"];
    assert!(
        left["started_at"].as_str().unwrap().ends_with('Z'),
        "{said}"
    );
    assert!(
        left["command"].as_str().unwrap().contains("--max-rate 64k"),
        "{said}"
    );
    let (_, text) = ask(&pair.old, &[]);
    assert!(
        text.contains("half-way") && text.contains("--max-rate 64k"),
        "{text}"
    );

    pair.rebuild().succeed();
    let (code, said) = ask_json(&pair.old);
    assert_eq!(
        (code, &said["state"]),
        (3, &Value::from("finished")),
        "{said}"
    );
    assert!(
        said["finished_at"].as_str().unwrap().ends_with('Z'),
        "{said}"
    );
    pair.old.start();
    pair.check_equal();
    let (code, said) = ask_json(&pair.old);
    assert_eq!((code, &said["state"]), (3, &Value::from("none")), "{said}");
}

/// The directory that a seed will make is asked by its path, and then by what it is.
#[test]
fn a_seed_can_be_asked_before_and_after_its_directory_is_there() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let seed = scene.vacant("seed");
    // Nobody answers there: it looks at nothing but the path.
    let mut waiting = Rebuild::bare(&seed, &pair.new)
        .args(["--seed", "--from", "exec:sleep 1000"])
        .spawn();
    eventually("it can be asked", Duration::from_secs(20), || {
        (ask(&seed, &[]).0 == 0).then_some(())
    });
    let (_, said) = ask_json(&seed);
    assert_eq!(said["runs"][0]["stage"], "look", "{said}");
    assert_eq!(said["runs"][0]["pid"], pid(&waiting), "{said}");
    assert!(!seed.exists("") && !waiting.ended());
    kill_process(waiting.pid(), Signal::TERM).unwrap();
    assert_eq!(waiting.wait().code(), 1);
    assert_eq!(ask(&seed, &[]).0, 3);

    let mut running = Rebuild::new(&seed, &pair.new)
        .args(["--seed", "--max-rate", "64k", "--progress", "json"])
        .spawn();
    running.wait_closed(&seed);
    let (code, said) = ask_json(&seed);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said["runs"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(said["runs"][0]["pid"], pid(&running), "{said}");
}

#[test]
fn runs_that_change_nothing_can_be_asked_too_and_beside_another() {
    let scene = Scene::new();
    let pair = Pair::streaming(&scene, |old| {
        old.sql(
            "CREATE TABLE t AS SELECT i, repeat('x', 100) AS f FROM generate_series(1, 50000) AS i",
        );
    });
    let mut command = clean(Command::new(binary()));
    command
        .args(["verify", "-D"])
        .arg(pair.new.pgdata())
        .args(["--from", "local", "-d", &pair.old.conninfo()])
        .args(["--max-rate", "64k", "--progress", "none"])
        .stdout(std::process::Stdio::null());
    let mut both = Vec::new();
    for number in 1..=2 {
        // One looks whether the directory is locked, which for a moment it is by the other.
        both.push(command.spawn().unwrap());
        eventually_with(DEADLINE, || {
            let (code, said) = ask_json(&pair.new);
            let runs = said["runs"].as_array().unwrap();
            let is_one = |run: &Value| run["kind"] == "verify" && run["stage"] == "compare";
            let are_all = code == 0 && runs.len() == number && runs.iter().all(is_one);
            are_all.then_some(()).ok_or_else(|| said.to_string())
        });
    }
    for child in &mut both {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(ask(&pair.new, &[]).0, 3);
}

/// The signals that a process has a handler for, or ignores.
fn signals(running: &Running, set: &str) -> u64 {
    let status = format!("/proc/{}/status", running.pid().as_raw_nonzero());
    let status = fs::read_to_string(status).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(set));
    line.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap())
}

/// SIGUSR1 in such a set.
const USR1: u64 = 1 << 9;

#[test]
fn sigusr1_shows_how_far_a_run_is_and_ends_none() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    for style in ["json", "plain", "none"] {
        let mut running = pair
            .rebuild()
            .args(["--max-rate", "64k", "--progress", style])
            .spawn();
        let process = running.pid();
        running.wait_for("it can hear", |running| {
            signals(running, "SigCgt:") & USR1 != 0
        });
        // From its first moment on.
        kill_process(process, Signal::USR1).unwrap();
        running.wait_closed(&pair.old);
        eventually(
            "it is told while it compares",
            Duration::from_secs(30),
            || {
                kill_process(process, Signal::USR1).unwrap();
                let is_told = match style {
                    "json" => running.events().iter().any(|event| {
                        event["event"] == "status"
                            && event["stage"] == "compare"
                            && event["pid"] == pid(&running)
                            && event["percent"].is_number()
                    }),
                    _ => {
                        let said = running.stderr();
                        said.contains("pg_reseed: status: rebuild of ")
                            && said.contains(": comparing and moving\n")
                            && said.contains(" blocks differ, ")
                    }
                };
                is_told.then_some(())
            },
        );
        kill_process(process, Signal::TERM).unwrap();
        assert_eq!(running.wait().code(), 4);
    }
    // Throughout a whole run, and its agent too, as pkill would do it.
    let mut running = pair.rebuild().arg("--start").spawn();
    running.wait_for("it can hear", |running| {
        signals(running, "SigCgt:") & USR1 != 0
    });
    while !running.ended() {
        let _ = kill_process(running.pid(), Signal::USR1);
        for child in crate::cluster::children_of(running.pid()) {
            let line = fs::read(format!("/proc/{}/status", child.as_raw_nonzero()));
            let line = String::from_utf8(line.unwrap_or_default()).unwrap();
            let caught = line.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            if line.starts_with("Name:\tpg_reseed") && caught.unwrap_or(0) & USR1 != 0 {
                let _ = kill_process(child, Signal::USR1);
            }
        }
        crate::cluster::pause(Duration::from_millis(2));
    }
    let said = running.wait();
    assert_eq!(said.code(), 0, "{said}");
    pair.check_equal();
}

#[test]
fn sigusr1_that_was_ignored_at_the_start_stays_ignored() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut running = slow(&pair).after("trap '' USR1").spawn();
    running.wait_for("something is compared", is_comparing);
    assert_ne!(signals(&running, "SigIgn:") & USR1, 0);
    kill_process(running.pid(), Signal::USR1).unwrap();
    let ticks = running.events().len();
    running.wait_for("it goes on", |running| running.events().len() > ticks + 3);
    let is_status = |event: &Value| event["event"] == "status";
    assert!(!running.events().iter().any(is_status));
}

/// Whatever goes wrong, whoever reads JSON on standard error reads nothing else, and first what it is.
#[test]
fn with_progress_json_nothing_else_stands_on_standard_error() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let said = |rebuild: Rebuild, code: i32| {
        let said = rebuild.fail(code);
        let lines: Vec<Value> = said
            .stderr
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}\n{said}")))
            .collect();
        let (first, last) = (&lines[0], &lines[lines.len() - 1]);
        assert_eq!(
            (&first["event"], &first["schema"]),
            (&"begin".into(), &"pg_reseed.progress".into())
        );
        assert_eq!(first["version"], 1);
        assert_eq!(
            (&last["event"], &last["exit_status"]),
            (&"end".into(), &code.into())
        );
        lines
    };
    let json = || pair.rebuild().args(["--progress", "json"]);
    // Wrong by its words, by their meaning, by the environment.
    for (wrong, word) in [
        (json().arg("--no-such-option"), "--no-such-option"),
        (json().args(["--waldir", "here"]), "absolute"),
        (json().env("PG_RESEED_LOG", "=x=y="), "PG_RESEED_LOG"),
    ] {
        let lines = said(wrong, 2);
        let last = &lines[lines.len() - 1];
        assert_eq!(last["outcome"], "usage", "{lines:?}");
        let error = last["errors"][0].as_str().unwrap();
        assert!(error.contains(word) && !error.contains('\n'), "{lines:?}");
    }
    // Before it begins, by a check, and while it runs: what ssh says comes as a part of it.
    let folder = scene.path().display().to_string();
    said(json().args(["--report", &folder]), 1);
    said(json().args(["--max-delete", "0", "-v", "-v"]), 3);
    let mute = Rebuild::bare(&pair.old, &pair.new)
        .args(["--from", "exec:echo it has no key >&2; exit 1"])
        .args(["--progress", "json"]);
    let lines = said(mute, 1);
    assert!(
        lines[lines.len() - 1].to_string().contains("it has no key"),
        "{lines:?}"
    );
    // A report that could be written at first, and not at the end.
    let place = scene.folder("reports");
    let report = place.join("report.json");
    let mut running = json()
        .args(["--max-rate", "64k", "--report"])
        .arg(&report)
        .spawn();
    running.wait_for("something is compared", is_comparing);
    fs::remove_dir(&place).unwrap();
    kill_process(running.pid(), Signal::TERM).unwrap();
    let ended = running.wait();
    assert_eq!(ended.code(), 4, "{ended}");
    let events: Vec<Value> = ended
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        events
            .iter()
            .any(|event| event["code"] == "report-not-written"),
        "{ended}"
    );
    assert_eq!(events[events.len() - 1]["event"], "end");
}
