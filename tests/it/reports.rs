//! The report: one form for every end of a run, found to be writable before the run, and with nothing secret in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::cluster::{Pair, Rebuild, Said, Scene};
use crate::oracle::{assert_untouched, tree};
use crate::rebuild::assert_source_as_found;

fn fields(said: &Said) -> Vec<String> {
    let fields = said.report().as_object().unwrap().keys().cloned();
    fields.collect()
}

/// What every report has.
fn assert_framed(said: &Said) {
    assert_eq!(said.number("report_version"), 1, "{said}");
    assert_eq!(
        said.number("exit_status"),
        u64::try_from(said.code()).unwrap()
    );
    for name in ["started_at", "finished_at"] {
        let time = said.word(name);
        assert!(time.len() == 20 && time.ends_with('Z'), "{name}: {time}");
    }
    assert!(
        said.word("started_at") <= said.word("finished_at"),
        "{said}"
    );
    assert!(!said.word("target_host").is_empty(), "{said}");
    assert!(said.word("command").contains("rebuild -D "), "{said}");
}

#[test]
fn report_has_one_form_whatever_the_end() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    // Refused: one more stays than may go.
    let refused = pair.rebuild().args(["--max-delete", "0"]).fail(3);
    assert_framed(&refused);
    assert_eq!(refused.report()["refusals"][0], "too-many-removals");
    assert_eq!(refused.word("stage"), "manifest");
    assert_eq!(refused.word("target"), "untouched");
    assert_eq!(refused.report()["relation"]["code"], "diverged");
    assert!(refused.report()["stop_lsn"].is_null(), "{refused}");

    // Interrupted half-way.
    let mut running = pair
        .rebuild()
        .args(["--max-rate", "256k", "--slot", "mine", "--create-slot"])
        .args(["--progress", "json"])
        .spawn();
    running.wait_for("something is compared", |running| {
        let compared = |event: &Value| event["compared_bytes"].as_u64().unwrap_or(0) > 0;
        pair.old.exists("pg_reseed.state") && running.events().iter().any(compared)
    });
    kill_process(running.pid(), Signal::TERM).unwrap();
    let halted = running.wait();
    assert_eq!(halted.code(), 4, "{halted}");
    assert_framed(&halted);
    assert_eq!(halted.word("stage"), "compare");
    assert_eq!(halted.word("slot"), "mine");
    assert_eq!(halted.report()["slot_made"], true);
    assert!(halted.number("compared_bytes") > 0, "{halted}");
    assert!(halted.number("left_bytes") > 0, "{halted}");
    assert_eq!(
        halted.number("left_bytes"),
        halted.number("compare_bytes") + halted.number("fetch_bytes")
            - halted.number("compared_bytes")
            - halted.number("fetched_bytes"),
    );
    let last = &halted.report()["stages"]
        .as_array()
        .unwrap()
        .last()
        .unwrap();
    assert_eq!(last["name"], "compare");
    assert!(
        halted.stdout.contains("is half-way") && halted.stdout.contains(" left\n"),
        "{halted}"
    );
    assert_source_as_found(&pair.new, 0);

    let done = pair.rebuild().arg("--start").succeed();
    assert_framed(&done);
    assert_eq!(done.word("stage"), "done");
    assert_eq!(done.number("left_bytes"), 0, "{done}");
    assert_eq!(done.report()["relation"]["code"], "interrupted");
    let stages = done.report()["stages"].as_array().unwrap();
    let compared = stages.iter().any(|stage| stage["name"] == "compare");
    assert!(compared && done.stdout.contains("\n  Time  "), "{done}");
    assert_eq!(fields(&refused), fields(&halted));
    assert_eq!(fields(&halted), fields(&done));
    pair.check_equal();
}

/// Neither by the report, nor by what is printed.
#[test]
fn secrets_of_the_command_are_in_no_report() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let said = pair
        .rebuild()
        .env("PGPASSWORD", "geheim")
        .args(["--dry-run", "--restore-command"])
        .arg("env VAULT_TOKEN=geheim fetch %f %p")
        .succeed();
    assert!(said.word("command").contains("VAULT_TOKEN="), "{said}");
    assert!(!said.report().to_string().contains("geheim"), "{said}");
}

#[test]
fn report_can_go_to_standard_output() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let dry = |progress: &str| {
        pair.rebuild()
            .args(["--dry-run", "--report", "-", "--progress", progress])
            .succeed()
    };
    let said = dry("plain");
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(report["outcome"], "dry-run");
    // People read it beside that.
    assert!(
        said.stderr.contains("Dry run: nothing was changed"),
        "{said}"
    );
    let said = dry("json");
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(report["outcome"], "dry-run");
    for line in said.stderr.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    let said = pair
        .rebuild()
        .args(["--max-delete", "0", "--report", "-"])
        .fail(3);
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(report["refusals"][0], "too-many-removals");
}

#[test]
fn report_that_cannot_be_written_is_found_before_anything_is_done() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let before = tree(pair.old.pgdata());
    let locked = scene.folder("locked");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    let asked = scene.path().join("asked");
    let agent = format!("exec:touch {}", asked.display());
    for file in [
        scene.path().join("missing/report.json"),
        locked.join("report.json"),
        locked.clone(),
    ] {
        let said = Rebuild::bare(&pair.old, &pair.new)
            .args(["--from", &agent, "--report"])
            .arg(&file)
            .fail(1);
        assert!(
            said.stderr.contains("could not write report") && said.stderr.contains("hint: "),
            "{said}"
        );
        assert!(!asked.exists(), "{}", file.display());
    }
    assert_untouched(&before, pair.old.pgdata());
}

#[test]
fn log_tells_the_time_of_each_step() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let said = pair
        .rebuild()
        .args(["-v", "-v", "--progress", "plain", "--max-delete", "0"])
        .fail(3);
    let is_dated = |line: &&str| {
        let time = line.get(..27).unwrap_or_default();
        time.ends_with(" UTC") && time.starts_with("20") && &time[10..11] == " "
    };
    let others = said.stderr.lines().filter(|line| !is_dated(line));
    // Those begin as with any program of PostgreSQL's.
    let is_ending = |line: &&str| {
        let rest = line.strip_prefix("pg_reseed: ").unwrap_or_default();
        ["error: ", "detail: ", "hint: "]
            .iter()
            .any(|part| rest.starts_with(part))
    };
    let others: Vec<_> = others.filter(|line| !is_ending(line)).collect();
    assert_eq!(others, [""; 0], "{said}");
    assert!(said.stderr.contains("\npg_reseed: error: "), "{said}");
    assert!(said.stderr.contains(" UTC pg_reseed: 0:00:0"), "{said}");
}
