//! A run belongs to the one who started it: it ends when it is told to, goes on when it was to go on, and outlives what
//! it can do without.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::cluster::{
    Cluster, DEADLINE, Pair, Rebuild, Running, Scene, alive, binary, children_of, eventually,
};
use crate::oracle::{Since, assert_like_basebackup};
use crate::rebuild::assert_source_as_found;
use crate::transport::primary;

/// How long a run may go on after its terminal or its reader went.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

/// A seed that takes a few seconds.
fn slow_seed(standby: &Cluster, primary: &Cluster) -> Rebuild {
    Rebuild::new(standby, primary).args(["--seed", "--max-rate", "8M"])
}

/// `nohup`, a shell's trap, and the background of a shell without job control.
#[test]
fn what_is_ignored_at_the_start_stays_ignored_by_all_processes_of_the_run() {
    let scene = Scene::new();
    let primary = primary(&scene);
    for (name, before, signals) in [
        ("a", "trap '' HUP", &[Signal::HUP][..]),
        ("b", "trap '' HUP INT", &[Signal::HUP, Signal::INT]),
    ] {
        let standby = scene.vacant(name);
        let mut running = slow_seed(&standby, &primary)
            .args(["--streams", "2"])
            .after(before)
            .in_own_group()
            .spawn();
        running.wait_closed(&standby);
        for signal in signals {
            kill_process_group(running.pid(), *signal).unwrap();
        }
        let said = running.wait();
        assert_eq!(said.code(), 0, "{name} {said}");
        assert_eq!(said.number("lost_streams"), 0, "{name} {said}");
        assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
        assert_source_as_found(&primary, 0);
    }
}

#[test]
fn nohup_keeps_a_run_and_not_from_being_stopped() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut running = pair
        .rebuild()
        .args(["--max-rate", "64k"])
        .under(&["nohup"])
        .in_own_group()
        .spawn();
    running.wait_closed(&pair.old);
    kill_process_group(running.pid(), Signal::HUP).unwrap();
    // Had it heard that, a second signal would end it without more ado.
    kill_process(running.pid(), Signal::TERM).unwrap();
    let said = running.wait();
    assert_eq!(said.code(), 4, "{said}");
    assert_eq!(said.report()["errors"][0], "interrupted by a signal");
    assert_source_as_found(&pair.new, 0);
}

/// The run's process, a child of a terminal's program.
struct Terminal {
    script: Child,
    run: Pid,
}

impl Terminal {
    /// Runs it on a terminal of its own, and waits until the target is closed.
    fn open(rebuild: &Rebuild, before: &str, target: &Cluster) -> Self {
        let line = format!("{before} exec {}", rebuild.typed());
        let script = Command::new("script")
            .args(["--quiet", "--flush", "--command", &line, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let parent = Pid::from_raw(i32::try_from(script.id()).unwrap()).unwrap();
        let run = eventually("the target is closed", DEADLINE, || {
            let run = children_of(parent).first().copied();
            run.filter(|_| target.exists("pg_reseed.state"))
        });
        Self { script, run }
    }

    /// The terminal's program dies, and the terminal with it.
    fn close(mut self) -> Pid {
        self.script.kill().unwrap();
        self.script.wait().unwrap();
        self.run
    }
}

fn report_of(run: Pid, target: &Cluster) -> Value {
    eventually("the run ends", ENDS_WITHIN, || (!alive(run)).then_some(()));
    let text = fs::read_to_string(target.home().join("report.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn closed_terminal_ends_a_run_in_order() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let rebuild = pair.rebuild().args(["--max-rate", "64k"]);
    let run = Terminal::open(&rebuild, "", &pair.old).close();
    let report = report_of(run, &pair.old);
    assert_eq!(report["exit_status"], 4, "{report}");
    assert_eq!(report["target"], "half-way", "{report}");
    assert_eq!(report["errors"][0], "interrupted by a signal", "{report}");
    assert_source_as_found(&pair.new, 0);
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
}

/// The bar is drawn on a terminal that is not there any more, and the summary cannot be written.
#[test]
fn closed_terminal_does_not_end_a_run_that_ignores_it() {
    let scene = Scene::new();
    let primary = primary(&scene);
    let standby = scene.vacant("standby");
    let rebuild = slow_seed(&standby, &primary).args(["--progress", "bar", "-v", "-v"]);
    let run = Terminal::open(&rebuild, "trap '' HUP;", &standby).close();
    let report = report_of(run, &standby);
    assert_eq!(report["exit_status"], 0, "{report}");
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
    assert_source_as_found(&primary, 0);
}

/// Who read the lines has gone: each further one fails.
#[test]
fn reader_that_goes_does_not_end_a_run() {
    let scene = Scene::new();
    let primary = primary(&scene);
    for (name, progress) in [("a", "plain"), ("b", "json"), ("c", "none")] {
        let standby = scene.vacant(name);
        let rebuild = slow_seed(&standby, &primary).args(["-v", "-v", "--progress", progress]);
        let line = format!("{} 2>&1 | :", rebuild.typed());
        let status = Command::new("sh")
            .args(["-c", &line])
            .stdin(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        let text = fs::read_to_string(standby.home().join("report.json")).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["exit_status"], 0, "{progress} {report}");
    }
}

/// Two signals: the run is not waited for, and its report tells all the same how far it came.
#[test]
fn run_that_is_abandoned_tells_how_far_it_came() {
    let scene = Scene::new();
    let primary = primary(&scene);
    let standby = scene.vacant("standby");
    let mut running = Rebuild::new(&standby, &primary)
        .args(["--seed", "--max-rate", "1M", "--progress", "json"])
        .spawn();
    running.wait_for("something has moved", |running| {
        let moved = |event: &Value| event["moved_bytes"].as_u64().unwrap_or(0) > 0;
        standby.exists("pg_reseed.state") && running.events().iter().any(moved)
    });
    kill_process(running.pid(), Signal::INT).unwrap();
    let _ = kill_process(running.pid(), Signal::INT);
    let said = running.wait();
    assert_eq!(said.code(), 4, "{said}");
    assert_eq!(said.word("stage"), "compare");
    assert!(
        said.number("moved_bytes") > 0 && said.number("left_bytes") > 0,
        "{said}"
    );
    assert_eq!(said.word("mode"), "seed");
    assert!(said.stdout.contains("is half-way"), "{said}");
}

/// Relays that can die: as ssh does, they carry the bytes and end with the agent.
fn relayed(primary: &Cluster) -> String {
    format!(
        "exec:cat | {} serve --stdio -d '{} dbname=postgres' | cat",
        binary().display(),
        primary.conninfo()
    )
}

/// What carries the streams of a run, the first one's first: a shell for each, with the relays below it.
fn carriers(run: Pid) -> Vec<Pid> {
    let mut shells = children_of(run);
    shells.sort_by_key(|pid| begun(*pid));
    shells.retain(|shell| children_of(*shell).len() == 3);
    shells
}

/// When a process began, in ticks.
fn begun(pid: Pid) -> u64 {
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = fs::read_to_string(Path::new(&stat)).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest.split_whitespace().nth(19);
    ticks.and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

fn kill_stream(shell: Pid) {
    for process in children_of(shell) {
        let _ = kill_process(process, Signal::KILL);
    }
}

#[test]
fn lost_further_streams_are_replaced_and_nothing_is_lost_with_them() {
    let scene = Scene::new();
    let primary = primary(&scene);
    let standby = scene.vacant("standby");
    let mut running = Rebuild::bare(&standby, &primary)
        .args(["--from", &relayed(&primary), "--streams", "3"])
        .args([
            "--seed",
            "--max-rate",
            "3M",
            "--compress",
            "none",
            "-v",
            "-v",
        ])
        .spawn();
    let mut killed = 0;
    // How often all three have been in use.
    let complete = |running: &Running| running.stderr().matches("3 streams to the agent").count();
    for round in 0..3 {
        running.wait_for("three streams", |running| complete(running) > round);
        let all = carriers(running.pid());
        assert_eq!(all.len(), 3);
        let further = if round == 2 { &all[1..2] } else { &all[1..] };
        for shell in further {
            kill_stream(*shell);
            killed += 1;
        }
    }
    running.wait_for("three streams again", |running| complete(running) > 3);
    let said = running.wait();
    assert_eq!(said.code(), 0, "{said}");
    assert_eq!(said.number("lost_streams"), killed, "{said}");
    assert_eq!(said.number("streams"), 3, "{said}");
    let warnings = said.report()["warnings"].as_array().unwrap();
    let lost = warnings
        .iter()
        .filter(|warning| warning["code"] == "stream-lost");
    assert_eq!(lost.count() as u64, killed, "{said}");
    assert!(
        said.stdout.contains("5 streams were lost on the way"),
        "{said}"
    );
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
    assert_source_as_found(&primary, 0);
}

/// Nobody can come in again: the first stream does it alone.
#[test]
fn streams_that_cannot_be_replaced_are_done_without() {
    let scene = Scene::new();
    let primary = primary(&scene);
    let standby = scene.vacant("standby");
    let lock = scene.path().join("closed");
    let command = relayed(&primary).replacen(
        "exec:",
        &format!(
            "exec:test ! -e {} || {{ echo full >&2; exit 9; }}; ",
            lock.display()
        ),
        1,
    );
    let mut running = Rebuild::bare(&standby, &primary)
        .args(["--from", &command, "--streams", "4"])
        .args(["--seed", "--max-rate", "4M", "--compress", "none"])
        .args(["-v", "-v"])
        .spawn();
    // A stream whose agent has not answered yet would be one that never opened, not one that was lost.
    running.wait_for("four streams", |running| {
        running.stderr().contains("4 streams to the agent")
    });
    let all = carriers(running.pid());
    assert_eq!(all.len(), 4);
    fs::write(&lock, "").unwrap();
    for shell in &all[1..] {
        kill_stream(*shell);
    }
    let said = running.wait();
    assert_eq!(said.code(), 0, "{said}");
    assert_eq!(said.number("lost_streams"), 3, "{said}");
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
    assert_source_as_found(&primary, 0);
}

/// With the first stream the backup goes, whatever the others carry.
#[test]
fn lost_first_stream_ends_the_run_and_its_report_tells_how_far_it_came() {
    let scene = Scene::new();
    let primary = primary(&scene);
    let standby = scene.vacant("standby");
    let mut running = Rebuild::bare(&standby, &primary)
        .args(["--from", &relayed(&primary), "--streams", "2"])
        .args(["--seed", "--max-rate", "1M", "--progress", "json"])
        .spawn();
    running.wait_for("something has moved", |running| {
        let moved = |event: &Value| event["moved_bytes"].as_u64().unwrap_or(0) > 0;
        carriers(running.pid()).len() == 2 && running.events().iter().any(moved)
    });
    kill_stream(carriers(running.pid())[0]);
    let said = running.wait();
    assert_eq!(said.code(), 4, "{said}");
    assert!(
        said.report()["errors"][0]
            .as_str()
            .unwrap()
            .contains("the connection to the agent was lost"),
        "{said}"
    );
    assert!(
        said.number("moved_bytes") > 0 && said.number("left_bytes") > 0,
        "{said}"
    );
    assert_eq!(said.word("stage"), "compare");
    eventually("the source is as it was", DEADLINE, || {
        (primary.sql("SELECT count(*) FROM pg_replication_slots") == "0").then_some(())
    });
    assert_source_as_found(&primary, 0);
    Rebuild::new(&standby, &primary).succeed();
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
}
