//! What is known of a run, as far as it has come. Whoever started the run holds it: so one that fails, or that nobody
//! waits for any more, tells what it did.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::client::command;
use crate::client::options::RebuildOptions;
use crate::client::outcome::{Mode, Outcome, StageTime};
use crate::disk::facts as disk;
use crate::event::{Counters, Stage};
use crate::warning::Warning;

/// A run's outcome while it grows, and the clock that measures its stages.
pub struct Record {
    began: Instant,
    known: Mutex<Known>,
}

/// What is known of the source and not of the figures.
pub struct Particulars {
    pub source_host: Option<String>,
    pub source_data_directory: Option<String>,
    pub slot: Option<String>,
}

struct Known {
    outcome: Outcome,
    entered: Vec<(Stage, Instant)>,
}

impl Record {
    /// Nothing has happened yet.
    #[must_use]
    pub fn begin(options: &RebuildOptions) -> Self {
        Self::of(Self::blank(options))
    }

    /// Nothing has happened yet, once more: another attempt of the same run begins.
    pub fn begin_again(&self, options: &RebuildOptions) {
        *self.known() = Known {
            outcome: Self::blank(options),
            entered: Vec::new(),
        };
    }

    fn blank(options: &RebuildOptions) -> Outcome {
        Outcome {
            mode: options.dry_run.then_some(Mode::DryRun),
            role: options.role,
            job: options.job.clone(),
            pg_reseed_version: env!("CARGO_PKG_VERSION"),
            command: command::line(&options.command),
            pgdata: options.pgdata.display().to_string(),
            target_host: disk::host().name,
            slot: options.slot.clone(),
            ..Outcome::default()
        }
    }

    /// Nothing has happened yet of a run that only looks: of what it will have to say, the record has warnings and times.
    #[must_use]
    pub fn of_look(command: &[String]) -> Self {
        Self::of(Outcome {
            command: command::line(command),
            ..Outcome::default()
        })
    }

    fn of(outcome: Outcome) -> Self {
        Self {
            began: Instant::now(),
            known: Mutex::new(Known {
                outcome,
                entered: Vec::new(),
            }),
        }
    }

    /// The outcome up to now.
    #[must_use]
    pub fn outcome(&self, counters: &Counters) -> Outcome {
        let known = self.known();
        let mut outcome = known.outcome.clone();
        outcome.stages = times(&known.entered);
        let last = known.entered.iter().map(|(stage, _)| *stage).max();
        drop(known);
        outcome.seconds = self.began.elapsed().as_secs_f64();
        outcome.count(counters, last);
        outcome
    }

    /// The command, for a shell.
    #[must_use]
    pub fn command(&self) -> String {
        self.known().outcome.command.clone()
    }

    /// What those are told who ask while the run lasts.
    #[must_use]
    pub fn particulars(&self) -> Particulars {
        let outcome = &self.known().outcome;
        Particulars {
            source_host: outcome.source_host.clone(),
            source_data_directory: outcome.source_data_directory.clone(),
            slot: outcome.slot.clone(),
        }
    }

    /// The stage, and how much of the comparison is done, in per cent.
    pub(super) fn progress(&self, counters: &Counters) -> (Option<Stage>, Option<u8>) {
        let known = self.known();
        let stage = known.entered.last().map(|(stage, _)| *stage);
        let planned = known.outcome.planned_bytes().filter(|planned| *planned > 0);
        drop(known);
        let done = Counters::read(&counters.compared_bytes)
            .saturating_add(Counters::read(&counters.fetched_bytes));
        let percent = planned.map(|planned| {
            u8::try_from(u128::from(done.min(planned)) * 100 / u128::from(planned)).unwrap_or(100)
        });
        (stage, percent)
    }

    /// Remembers something.
    pub(super) fn note(&self, change: impl FnOnce(&mut Outcome)) {
        change(&mut self.known().outcome);
    }

    /// A stage begins.
    pub(super) fn enter(&self, stage: Stage) {
        self.known().entered.push((stage, Instant::now()));
    }

    /// Remembers a warning. Whether it is new.
    pub(super) fn warn(&self, warning: &Warning) -> bool {
        let warnings = &mut self.known().outcome.warnings;
        let is_new = !warnings.contains(warning);
        if is_new {
            warnings.push(warning.clone());
        }
        is_new
    }

    /// What was warned of up to now.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        self.known().outcome.warnings.clone()
    }

    /// A panic while the lock was held leaves nothing half-changed that matters here.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long each stage took; the last one up to now.
fn times(entered: &[(Stage, Instant)]) -> Vec<StageTime> {
    let ends = entered.iter().skip(1).map(|(_, at)| *at);
    let ends = ends.chain(std::iter::once(Instant::now()));
    entered
        .iter()
        .zip(ends)
        .map(|((stage, from), to)| StageTime {
            name: *stage,
            seconds: (to - *from).as_secs_f64(),
        })
        .collect()
}
