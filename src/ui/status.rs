//! How far a run is, for those who ask while it lasts: `pg_reseed status` in another process, and SIGUSR1.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::client::status::{At, Found, Heard, Left, WITHIN};
use crate::errors::one_line;
use crate::event::{Counters, Event, Listener, Stage};
use crate::pg::lsn::Lsn;
use crate::ui::figures::{Figures, Tracker};
use crate::ui::rows::row;
use crate::ui::{clock, plain, words};

/// What is heard of a run, for those who ask: apart from the display, which may wait for its terminal.
#[derive(Debug)]
pub struct Board {
    began: Instant,
    counters: Arc<Counters>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    tracker: Tracker,
    /// When the stage began.
    stage_since: Duration,
    warnings: u64,
}

impl Board {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            began: Instant::now(),
            counters,
            known: Mutex::default(),
        }
    }

    /// Takes a sample, from which rates are made. To be called every second or so.
    pub fn sample(&self) {
        self.known()
            .tracker
            .figures(self.began.elapsed(), &self.counters);
    }

    /// The state of the run now.
    #[must_use]
    pub fn standing(&self, run: Particulars) -> Standing {
        let elapsed = self.began.elapsed();
        let mut known = self.known();
        let figures = known.tracker.figures(elapsed, &self.counters);
        let told = Told {
            run,
            stage_seconds: tenths(elapsed.saturating_sub(known.stage_since)),
            percent: percent(&figures),
            warnings: known.warnings,
            figures,
        };
        let pid = std::process::id();
        Standing { pid, told }
    }

    /// A panic while the lock was held leaves nothing half-changed that matters here.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener for Board {
    fn hear(&self, event: &Event) {
        let mut known = self.known();
        known.tracker.hear(event);
        match event {
            Event::Stage(_) => known.stage_since = self.began.elapsed(),
            Event::Warning(_) => known.warnings += 1,
            _ => {}
        }
    }
}

/// Seconds, as JSON has them.
fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

/// How much of the comparison is done, cut to tenths; `None` before it is known how much there is.
fn percent(figures: &Figures) -> Option<f64> {
    let planned = figures.planned_bytes();
    if planned == 0 {
        return None;
    }
    let tenths = u128::from(figures.done_bytes()) * 1000 / u128::from(planned);
    u32::try_from(tenths)
        .ok()
        .map(|tenths| f64::from(tenths) / 10.0)
}

/// What does not change while a run lasts, or is found out once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Particulars {
    pub pg_reseed_version: String,
    /// `rebuild`, `dry-run` or `verify`.
    pub kind: String,
    pub started_at: String,
    pub pgdata: String,
    /// What was typed, for a shell, without secrets.
    pub command: String,
    pub source_host: Option<String>,
    pub source_data_directory: Option<String>,
    pub slot: Option<String>,
}

/// The state of a run at one moment. Field names are stable; those of the figures are those of `--progress json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub pid: u32,
    #[serde(flatten)]
    told: Told,
}

/// What a run tells beside its PID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    #[serde(flatten)]
    run: Particulars,
    /// In the stage that it is in.
    pub stage_seconds: f64,
    pub percent: Option<f64>,
    /// How often it has warned.
    pub warnings: u64,
    #[serde(flatten)]
    figures: Figures,
}

impl Standing {
    /// As one line of JSON, for whoever asks.
    ///
    /// # Errors
    /// As serde has it.
    pub fn line(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// What it does, and how far it is, each in a line.
    pub(super) fn lines(&self) -> Vec<String> {
        let Self { pid, told } = self;
        let figures = &told.figures;
        let mut head = format!(
            "{} of \"{}\"{} (PID {pid}), {} since it began: {}",
            told.run.kind,
            told.run.pgdata,
            told.from(),
            words::clock(seconds(figures.seconds)),
            figures.stage.map_or("starting", words::doing),
        );
        if figures.stage != Some(Stage::Compare) && figures.retained_wal_bytes > 0 {
            let _ = write!(
                head,
                ", source keeps {} of WAL",
                words::size(figures.retained_wal_bytes)
            );
        }
        let progress = (figures.stage == Some(Stage::Compare)).then(|| plain::progress(figures));
        std::iter::once(head)
            .chain(progress)
            .map(|line| format!("pg_reseed: status: {}", one_line(&line)))
            .collect()
    }
}

impl Told {
    fn from(&self) -> String {
        match (&self.run.source_host, &self.run.source_data_directory) {
            (Some(host), Some(directory)) => format!(" from {host}:{directory}"),
            (Some(host), None) => format!(" from {host}"),
            _ => String::new(),
        }
    }

    fn rows(&self, text: &mut String) {
        let figures = &self.figures;
        if figures.planned_bytes() > 0 {
            let done = plain::done(figures);
            match plain::speed(figures) {
                Some(speed) => row(text, "Done", format_args!("{done}, {speed}")),
                None => row(text, "Done", format_args!("{done}")),
            }
            row(text, "Moved", format_args!("{}", plain::moved(figures)));
        } else if figures.retained_wal_bytes > 0 {
            let kept = words::size(figures.retained_wal_bytes);
            row(text, "Kept WAL", format_args!("{kept} on the source"));
        }
        if let Some(host) = &self.run.source_host {
            let directory = self.run.source_data_directory.as_deref();
            let directory = directory.map_or_else(String::new, |path| format!(", \"{path}\""));
            row(text, "Source", format_args!("{host}{directory}"));
        }
        let since = seconds(figures.seconds);
        let stage = seconds(self.stage_seconds);
        row(
            text,
            "Since",
            format_args!(
                "{}, for {}; for {} in this stage",
                self.run.started_at,
                words::clock(since),
                words::clock(stage)
            ),
        );
        if self.warnings > 0 {
            let warnings = words::counted(self.warnings, "time", "times");
            row(text, "Warned", format_args!("{warnings}, see its output"));
        }
        row(text, "Command", format_args!("{}", self.run.command));
    }
}

/// What a program was told, which may be anything.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Version of the JSON of `pg_reseed status`: it grows when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// What `pg_reseed status` has found. Field names are stable.
#[derive(Debug, Serialize)]
pub struct Status {
    pub schema: &'static str,
    pub version: u32,
    pub pg_reseed_version: &'static str,
    pub pgdata: String,
    /// `running`, `silent`, `interrupted`, `finished` or `none`.
    pub state: State,
    pub runs: Vec<RunStatus>,
    pub interrupted: Option<InterruptedStatus>,
    /// When a rebuild finished, where no server was started since.
    pub finished_at: Option<String>,
}

/// What there is of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A run has answered.
    Running,
    /// A run is there, and has not answered.
    Silent,
    Interrupted,
    Finished,
    None,
}

/// A run that works on the directory.
#[derive(Debug, Serialize)]
pub struct RunStatus {
    /// `null` where it cannot be seen, as in another container.
    pub pid: Option<u32>,
    pub answers: bool,
    /// By SIGSTOP or the like.
    pub is_suspended: bool,
    /// Number of the user whose run it is, where it does not answer this one.
    pub of_user: Option<u32>,
    /// Absent where it did not answer.
    #[serde(flatten)]
    told: Option<Told>,
}

/// A run that did not end.
#[derive(Debug, Serialize)]
pub struct InterruptedStatus {
    pub started_at: Option<String>,
    pub source_host: Option<String>,
    pub start_lsn: Lsn,
    pub is_seed: bool,
    /// The command, for a shell; absent where an earlier version was interrupted.
    pub command: Option<String>,
}

impl Status {
    /// What was found.
    #[must_use]
    pub fn of(found: Found) -> Self {
        let Found { pgdata, runs, left } = found;
        let runs: Vec<_> = runs.into_iter().map(RunStatus::of).collect();
        let state = match (&left, runs.is_empty()) {
            (_, false) if runs.iter().any(|run| run.answers) => State::Running,
            (_, false) => State::Silent,
            (Left::Interrupted(..), _) => State::Interrupted,
            (Left::Finished(_), _) => State::Finished,
            (Left::Nothing, _) => State::None,
        };
        let (interrupted, finished_at) = match left {
            Left::Interrupted(run, command) => {
                let started = Duration::from_secs(run.started_unix_seconds);
                let started = SystemTime::UNIX_EPOCH.checked_add(started);
                let interrupted = InterruptedStatus {
                    started_at: started
                        .filter(|_| run.started_unix_seconds > 0)
                        .map(clock::rfc3339),
                    source_host: Some(run.source_host).filter(|host| !host.is_empty()),
                    start_lsn: run.start_lsn,
                    is_seed: run.is_seed,
                    command,
                };
                (Some(interrupted), None)
            }
            Left::Finished(at) => (None, Some(clock::rfc3339(at))),
            Left::Nothing => (None, None),
        };
        Self {
            schema: "pg_reseed.status",
            version: VERSION,
            pg_reseed_version: env!("CARGO_PKG_VERSION"),
            pgdata,
            state,
            runs,
            interrupted,
            finished_at,
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let pgdata = one_line(&self.pgdata);
        for run in &self.runs {
            if !text.is_empty() {
                text.push('\n');
            }
            run.text(&pgdata, &mut text);
        }
        match (&self.interrupted, &self.finished_at) {
            _ if !self.runs.is_empty() => {}
            (Some(run), _) => {
                let _ = writeln!(
                    text,
                    "\"{pgdata}\": nothing runs; a rebuild was interrupted half-way, and PostgreSQL cannot start in it.\n"
                );
                run.rows(&mut text);
                text.push_str(
                    "\nRun the same command again: what already matches the source is not moved twice.\n",
                );
            }
            (None, Some(at)) => {
                let _ = writeln!(
                    text,
                    "\"{pgdata}\": nothing runs; a rebuild finished at {at}, and no server was started in it since."
                );
            }
            (None, None) => {
                let _ = writeln!(
                    text,
                    "\"{pgdata}\": nothing runs, and no rebuild was interrupted. \
                     What it is, pg_reseed inspect tells."
                );
            }
        }
        text
    }
}

impl RunStatus {
    fn of(run: At) -> Self {
        let At {
            pid,
            heard,
            is_suspended,
        } = run;
        let (standing, of_user) = match heard {
            // What another version says may mean something else.
            Heard::Told(text) => (serde_json::from_str::<Standing>(&text).ok(), None),
            Heard::Nothing => (None, None),
            Heard::OfUser(user) => (None, Some(user)),
        };
        Self {
            // The kernel's word counts before its own.
            pid: pid.or_else(|| Some(standing.as_ref()?.pid)),
            answers: standing.is_some(),
            is_suspended,
            of_user,
            told: standing.map(|standing| standing.told),
        }
    }

    fn text(&self, pgdata: &str, text: &mut String) {
        let pid = match self.pid {
            Some(pid) => format!("PID {pid}"),
            None => "its PID cannot be seen from here".to_owned(),
        };
        if let Some(told) = &self.told {
            let kind = match &*told.run.kind {
                "dry-run" => "dry run",
                kind => kind,
            };
            let stage = told.figures.stage.map_or("starting", words::doing);
            let kind = one_line(kind);
            let _ = writeln!(text, "\"{pgdata}\": a {kind} runs ({pid}): {stage}\n");
            told.rows(text);
            return;
        }
        let why = match self.of_user {
            Some(user) => {
                format!("it is a run of user {user}, and answers that user and root only")
            }
            None if self.is_suspended => {
                "it is suspended (SIGSTOP, Ctrl-Z); SIGCONT lets it go on".to_owned()
            }
            None => format!(
                "it hangs, is in another container, or is of another version (waited {} s)",
                WITHIN.as_secs()
            ),
        };
        let _ = writeln!(
            text,
            "\"{pgdata}\": a run is there ({pid}), but did not answer: {why}."
        );
    }
}

impl InterruptedStatus {
    fn rows(&self, text: &mut String) {
        if let Some(at) = &self.started_at {
            row(text, "Began", format_args!("{at}"));
        }
        if let Some(host) = &self.source_host {
            row(text, "Source", format_args!("{host}"));
        }
        if let Some(command) = &self.command {
            row(text, "Command", format_args!("{command}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Interrupted;
    use crate::ui::tests::compare_figures;

    fn standing() -> Standing {
        let told = Told {
            run: Particulars {
                pg_reseed_version: "0.1.0".to_owned(),
                kind: "rebuild".to_owned(),
                started_at: "2026-11-30T10:01:58Z".to_owned(),
                pgdata: "/srv/pg/15".to_owned(),
                command: "pg_reseed rebuild -D /srv/pg/15 -h db2".to_owned(),
                source_host: Some("db2".to_owned()),
                source_data_directory: Some("/srv/pg/15".to_owned()),
                slot: None,
            },
            stage_seconds: 700.0,
            percent: Some(40.0),
            warnings: 1,
            figures: compare_figures(10 << 30, 4 << 30, 420 << 20),
        };
        Standing { pid: 4711, told }
    }

    fn found(runs: Vec<At>, left: Left) -> Status {
        let mut status = Status::of(Found {
            pgdata: "/srv/pg/15".to_owned(),
            runs,
            left,
        });
        status.pg_reseed_version = "0.1.0";
        status
    }

    fn at(heard: Heard, is_suspended: bool) -> At {
        At {
            pid: Some(4711),
            heard,
            is_suspended,
        }
    }

    fn answered() -> Status {
        let line = standing().line().unwrap();
        found(vec![at(Heard::Told(line), false)], Left::Nothing)
    }

    fn interrupted() -> Status {
        let run = Interrupted {
            started_unix_seconds: 1_796_032_918,
            start_lsn: Lsn(0x700_0028),
            is_seed: false,
            source_host: "db2".to_owned(),
            command: Vec::new(),
            directory: String::new(),
        };
        let command = "pg_reseed rebuild -D /srv/pg/15 -h db2".to_owned();
        found(Vec::new(), Left::Interrupted(run, Some(command)))
    }

    #[test]
    fn what_a_run_tells_is_read_again_as_it_was() {
        let line = standing().line().unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Standing>(&line).unwrap(), standing());
        // Of a later version, with more fields.
        let more = line.replacen('{', "{\"new\":{\"a\":[1]},", 1);
        assert_eq!(serde_json::from_str::<Standing>(&more).unwrap(), standing());
    }

    #[test]
    fn states_for_people() {
        let nothing = |left| found(Vec::new(), left);
        let elsewhere = At {
            pid: None,
            heard: Heard::Nothing,
            is_suspended: false,
        };
        let text = [
            answered(),
            found(vec![at(Heard::Nothing, true)], Left::Nothing),
            found(vec![elsewhere], Left::Nothing),
            found(vec![at(Heard::OfUser(26), false)], Left::Nothing),
            found(vec![at(Heard::Told("{}".to_owned()), false)], Left::Nothing),
            interrupted(),
            nothing(Left::Finished(SystemTime::UNIX_EPOCH)),
            nothing(Left::Nothing),
        ]
        .map(|status| status.text() + "----\n")
        .concat();
        insta::assert_snapshot!(text, @r#"
        "/srv/pg/15": a rebuild runs (PID 4711): comparing and moving

          Done          4.00 GB of 10.0 GB (40 %), 420 MB/s, 0:00:15 left
          Moved         1,204,332 blocks differ, 9.19 GB moved, 3.00 GB over the wire, source keeps 512 MB of WAL
          Source        db2, "/srv/pg/15"
          Since         2026-11-30T10:01:58Z, for 0:12:33; for 0:11:40 in this stage
          Warned        1 time, see its output
          Command       pg_reseed rebuild -D /srv/pg/15 -h db2
        ----
        "/srv/pg/15": a run is there (PID 4711), but did not answer: it is suspended (SIGSTOP, Ctrl-Z); SIGCONT lets it go on.
        ----
        "/srv/pg/15": a run is there (its PID cannot be seen from here), but did not answer: it hangs, is in another container, or is of another version (waited 3 s).
        ----
        "/srv/pg/15": a run is there (PID 4711), but did not answer: it is a run of user 26, and answers that user and root only.
        ----
        "/srv/pg/15": a run is there (PID 4711), but did not answer: it hangs, is in another container, or is of another version (waited 3 s).
        ----
        "/srv/pg/15": nothing runs; a rebuild was interrupted half-way, and PostgreSQL cannot start in it.

          Began         2026-11-30T10:01:58Z
          Source        db2
          Command       pg_reseed rebuild -D /srv/pg/15 -h db2

        Run the same command again: what already matches the source is not moved twice.
        ----
        "/srv/pg/15": nothing runs; a rebuild finished at 1970-01-01T00:00:00Z, and no server was started in it since.
        ----
        "/srv/pg/15": nothing runs, and no rebuild was interrupted. What it is, pg_reseed inspect tells.
        ----
        "#);
    }

    #[test]
    fn states_for_programs() {
        let json = |status: &Status| serde_json::to_string_pretty(status).unwrap();
        let json = [answered(), interrupted()].map(|it| json(&it)).join("\n");
        insta::assert_snapshot!(json, @r#"
        {
          "schema": "pg_reseed.status",
          "version": 1,
          "pg_reseed_version": "0.1.0",
          "pgdata": "/srv/pg/15",
          "state": "running",
          "runs": [
            {
              "pid": 4711,
              "answers": true,
              "is_suspended": false,
              "of_user": null,
              "pg_reseed_version": "0.1.0",
              "kind": "rebuild",
              "started_at": "2026-11-30T10:01:58Z",
              "pgdata": "/srv/pg/15",
              "command": "pg_reseed rebuild -D /srv/pg/15 -h db2",
              "source_host": "db2",
              "source_data_directory": "/srv/pg/15",
              "slot": null,
              "stage_seconds": 700.0,
              "percent": 40.0,
              "warnings": 1,
              "stage": "compare",
              "seconds": 753.0,
              "files": 1204,
              "compare_bytes": 10737418240,
              "fetch_bytes": 0,
              "compared_bytes": 4294967296,
              "fetched_bytes": 0,
              "differing_blocks": 1204332,
              "moved_blocks": 0,
              "patched_blocks": 0,
              "moved_bytes": 9865887744,
              "wire_received_bytes": 3221225472,
              "wire_sent_bytes": 0,
              "written_bytes": 0,
              "removed_files": 0,
              "wal_bytes": 0,
              "retained_wal_bytes": 536870912,
              "bytes_per_second": 440401920,
              "seconds_left": 15,
              "max_rate": null
            }
          ],
          "interrupted": null,
          "finished_at": null
        }
        {
          "schema": "pg_reseed.status",
          "version": 1,
          "pg_reseed_version": "0.1.0",
          "pgdata": "/srv/pg/15",
          "state": "interrupted",
          "runs": [],
          "interrupted": {
            "started_at": "2026-11-30T10:01:58Z",
            "source_host": "db2",
            "start_lsn": "0/7000028",
            "is_seed": false,
            "command": "pg_reseed rebuild -D /srv/pg/15 -h db2"
          },
          "finished_at": null
        }
        "#);
    }

    #[test]
    fn a_signal_brings_two_lines() {
        insta::assert_snapshot!(standing().lines().join("\n"), @r#"
        pg_reseed: status: rebuild of "/srv/pg/15" from db2:/srv/pg/15 (PID 4711), 0:12:33 since it began: comparing and moving
        pg_reseed: status: 4.00 GB of 10.0 GB (40 %), 1,204,332 blocks differ, 9.19 GB moved, 3.00 GB over the wire, source keeps 512 MB of WAL, 420 MB/s, 0:00:15 left
        "#);
    }
}
