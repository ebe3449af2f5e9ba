//! Ends at any instant: the target either starts as before or refuses to start with a message that leads
//! to the rerun, and the same command run again finishes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{
    DEADLINE, Dice, Load, Pair, Rebuild, Running, Said, Scene, Stop, Template, alive, children_of,
    done, eventually, pause,
};
use crate::oracle::{assert_same_data, assert_untouched, tree};
use crate::rebuild::assert_source_as_found;

/// The setting that no server knows: it keeps an unfinished target from starting, and names the remedy.
const LOCK: &str = "pg_reseed_rebuild_unfinished_run_the_same_command_again";

/// Between two looks at a run: who looks without a break takes a processor from it.
const LOOK: Duration = Duration::from_millis(1);

/// What the target is after a run that ended early.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum State {
    Untouched,
    Closed,
    Whole,
}

struct Drama {
    scene: Scene,
    pair: Pair,
    /// The diverged old primary as it was.
    saved: std::path::PathBuf,
    before: crate::oracle::Tree,
}

impl Drama {
    fn new() -> Self {
        static MADE: Template = Template::new();
        let scene = Scene::new();
        let pair = MADE.copy(&scene, |scene| {
            let mut pair = Pair::streaming(scene, |old| Load::init(old, 3));
            pair.fail_over();
            Load::run_for(&pair.old, 300, 1);
            pair.old.sql("CREATE TABLE only_old AS SELECT 1 AS i");
            pair.old.stop(Stop::Fast);
            pair
        });
        Load::run_for(&pair.new, 300, 2);
        let saved = scene.path().join("saved");
        copy(pair.old.pgdata(), &saved);
        let before = tree(&saved);
        Self {
            scene,
            pair,
            saved,
            before,
        }
    }

    fn rebuild(&self) -> Rebuild {
        self.pair
            .rebuild()
            .args(["--progress", "json", "--jobs", "1"])
    }

    /// Puts the diverged old primary back.
    fn again(&mut self) {
        if self.pair.old.postmaster().is_some() {
            self.pair.old.stop(Stop::Immediate);
        }
        fs::remove_dir_all(self.pair.old.pgdata()).unwrap();
        copy(&self.saved, self.pair.old.pgdata());
    }

    /// Checks that the target is in a state that was promised, and which.
    fn check(&mut self) -> State {
        // The source is rid of the run.
        assert_source_as_found(&self.pair.new, 0);
        let old = &mut self.pair.old;
        let is_locked = old.read("postgresql.auto.conf").contains(LOCK);
        if !is_locked && !old.exists("standby.signal") {
            // A kill may leave traces of closing that mean nothing to a server.
            for trace in ["pg_reseed.tmp", "pg_reseed.saved_control", "postmaster.pid"] {
                let _ = fs::remove_file(old.pgdata().join(trace));
            }
            assert_untouched(&self.before, old.pgdata());
            // As before: it starts as the primary that it was.
            old.start();
            assert_eq!(
                old.sql("SELECT pg_is_in_recovery(), to_regclass('only_old') IS NOT NULL"),
                "f|t"
            );
            old.stop(Stop::Fast);
            return State::Untouched;
        }
        if !is_locked && old.exists("global/pg_control") {
            // The moment after the control file's rename: all is there, the marker at most is left over.
            for path in ["backup_label", "standby.signal"] {
                assert!(
                    old.exists(path),
                    "the control file is there and {path} is not"
                );
            }
            return State::Whole;
        }
        let log = old.try_start().unwrap_err();
        assert!(
            // The very last moment before the control file comes has no lock any more.
            log.contains(if is_locked { LOCK } else { "global/pg_control" }),
            "the server's refusal names no remedy:\n{log}"
        );

        State::Closed
    }

    fn finish(&mut self) -> Said {
        let said = self.rebuild().arg("--start").succeed();
        assert!(!self.pair.old.exists("pg_reseed.state"));
        self.pair.new.wait_caught_up(&self.pair.old);
        said
    }
}

fn copy(from: &Path, to: &Path) {
    done(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// The agent of a client that runs with `--from local`.
fn agent_of(client: Pid) -> Option<Pid> {
    children_of(client).into_iter().find(|child| {
        let line =
            fs::read(format!("/proc/{}/cmdline", child.as_raw_nonzero())).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"serve")
    })
}

#[derive(Debug, Clone, Copy)]
enum Victim {
    Client,
    Agent,
}

/// Kills one of them after so many events and a while; returns what the client said.
fn kill_after(
    mut running: Running,
    victim: Victim,
    events: usize,
    delay: Duration,
) -> Option<Said> {
    let mut agent = None;
    while running.events().len() < events && !running.ended() {
        agent = agent.or_else(|| agent_of(running.pid()));
        pause(LOOK);
    }
    pause(delay);
    match victim {
        Victim::Client => {
            let agent = agent.or_else(|| agent_of(running.pid()));
            running.kill();
            drop(running);
            if let Some(agent) = agent {
                eventually("the agent ends with its client", DEADLINE, || {
                    (!alive(agent)).then_some(())
                });
            }
            None
        }
        Victim::Agent => {
            if let Some(agent) = agent.or_else(|| agent_of(running.pid())) {
                let _ = kill_process(agent, Signal::KILL);
            }
            Some(running.wait())
        }
    }
}

fn twenty_kills(test: &str, victim: Victim) {
    let mut dice = Dice::new(test);
    let mut drama = Drama::new();
    // One run that is left alone tells how many events there are and how long it takes.
    let begin = std::time::Instant::now();
    let whole = drama.rebuild().spawn();
    let stderr = loop {
        let events = whole.events().len();
        if drama.pair.old.exists("backup_label") && !drama.pair.old.exists("pg_reseed.state") {
            break events;
        }
        assert!(begin.elapsed() < DEADLINE, "{}", whole.stderr());
        pause(LOOK);
    };
    assert_eq!(whole.wait().code(), 0);
    let (events, time) = (stderr.max(3), begin.elapsed());
    let mut seen = Vec::new();
    for round in 0..20 {
        drama.again();
        let after = usize::try_from(dice.below(events as u64)).unwrap();
        let delay = time * u32::try_from(dice.below(200)).unwrap() / 1000;
        let said = kill_after(drama.rebuild().spawn(), victim, after, delay);
        let state = drama.check();
        eprintln!("round {round}: killed {victim:?} after {after} events and {delay:?}: {state:?}");
        if let Some(said) = said {
            let wanted: &[i32] = match state {
                State::Untouched => &[1],
                State::Closed => &[4],
                State::Whole => &[0],
            };
            assert!(wanted.contains(&said.code()), "{state:?}: {said}");
            // The progress is JSON here, and so are the messages.
            let has = |words: &str| said.stderr.contains(words);
            // Who is killed before his first word may never have been an agent.
            let is_unknown = has(
                r#""errors":["the agent \"pg_reseed\" on this host was killed (signal 9) before it said anything"#,
            ) && has(r#""hints":["Somebody ended it"#);
            let is_lost = has(r#""errors":["the connection to the agent was lost"#)
                && has(r#""hints":["Run the same command again"#);
            match state {
                State::Untouched => assert!(is_lost || is_unknown, "{said}"),
                State::Closed => assert!(is_lost, "{said}"),
                State::Whole => {}
            }
        }
        if state != State::Untouched {
            let again = drama.finish();
            assert_eq!(
                again.report()["divergence"].is_null(),
                state == State::Whole,
                "{again}"
            );
            if round % 4 == 0 {
                assert_same_data(&drama.pair.new, &drama.pair.old);
            }
        }
        seen.push(state);
    }
    assert!(
        seen.contains(&State::Closed),
        "no kill met the target closed: {seen:?}"
    );
    drama.again();
    drama.finish();
    assert_same_data(&drama.pair.new, &drama.pair.old);
    drop(drama.scene);
}

#[test]
fn client_killed_at_twenty_random_moments_leaves_a_promised_state() {
    twenty_kills(
        "client_killed_at_twenty_random_moments_leaves_a_promised_state",
        Victim::Client,
    );
}

#[test]
fn agent_killed_at_twenty_random_moments_leaves_a_promised_state() {
    twenty_kills(
        "agent_killed_at_twenty_random_moments_leaves_a_promised_state",
        Victim::Agent,
    );
}

/// A run that goes on where another ended moves only what is still different.
#[test]
fn rerun_after_a_kill_moves_only_what_is_left() {
    let mut drama = Drama::new();
    drama.pair.new.sql("VACUUM");
    let mut running = drama.rebuild().spawn();
    running.wait_for("all is written but for the end", |running| {
        running.events().iter().any(|event| event["stage"] == "wal")
    });
    running.kill();
    drop(running);
    if drama.check() == State::Closed {
        let again = drama.finish();
        assert_eq!(again.number("differing_blocks"), 0, "{again}");
    }
}

/// A slot that the killed run made must not keep the same command from finishing.
#[test]
fn rerun_with_create_slot_finishes_after_a_kill() {
    for victim in [Victim::Client, Victim::Agent] {
        let drama = Drama::new();
        let rebuild = || drama.rebuild().args(["--create-slot", "--slot", "mine"]);
        let mut running = rebuild().spawn();
        running.wait_closed(&drama.pair.old);
        kill_after(running, victim, 0, Duration::ZERO);
        let said = rebuild().arg("--start").succeed();
        drama.pair.new.wait_sql(
            "SELECT slot_name, active FROM pg_replication_slots",
            "mine|t",
        );
        assert_eq!(said.word("outcome"), "done");
    }
}

/// Ctrl-C and a polite end are ends like any other, but told.
#[test]
fn signals_end_the_run_in_order() {
    let mut drama = Drama::new();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        drama.again();
        let mut running = drama.rebuild().spawn();
        running.wait_closed(&drama.pair.old);
        kill_process(running.pid(), signal).unwrap();
        let said = running.wait();
        match drama.check() {
            State::Untouched => panic!("{signal:?}: the target was closed"),
            State::Closed => assert_eq!(said.status.code(), Some(4), "{signal:?}: {said}"),
            State::Whole => assert_eq!(said.status.code(), Some(0), "{signal:?}: {said}"),
        }
    }
    drama.finish();
}

/// The source dies in the middle: the backup is void, the target stays closed, a rerun finishes.
#[test]
fn crash_of_the_source_stops_the_run() {
    let mut drama = Drama::new();
    let mut running = drama.rebuild().spawn();
    running.wait_closed(&drama.pair.old);
    kill_process(running.pid(), Signal::STOP).unwrap();
    drama.pair.new.stop(Stop::Kill);
    kill_process(running.pid(), Signal::CONT).unwrap();
    let said = running.wait();
    drama.pair.new.start();
    assert_eq!(said.code(), 4, "{said}");
    assert_eq!(drama.check(), State::Closed);
    drama.finish();
    assert_same_data(&drama.pair.new, &drama.pair.old);
}

/// The backup's session is ended by an administrator: the run must not go on under a void backup.
#[test]
fn loss_of_the_backup_session_stops_the_run() {
    let mut drama = Drama::new();
    let mut running = drama.rebuild().spawn();
    running.wait_closed(&drama.pair.old);
    kill_process(running.pid(), Signal::STOP).unwrap();
    let ended = drama.pair.new.sql(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid()",
    );
    kill_process(running.pid(), Signal::CONT).unwrap();
    let said = running.wait();
    assert_ne!(ended, "0");
    assert_eq!(said.code(), 4, "{said}");
    assert_eq!(drama.check(), State::Closed);
    drama.finish();
    assert_same_data(&drama.pair.new, &drama.pair.old);
}
