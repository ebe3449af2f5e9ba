//! What every step of a run needs, and the clock that measures the steps.

use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use tokio::sync::Notify;

use crate::client::failure::{Failure, TargetState};
use crate::client::options::RebuildOptions;
use crate::client::outcome::{KeptWal, StageTime};
use crate::digest::SessionKey;
use crate::event::{Events, Stage};
use crate::plan::lineage::Remark;
use crate::plan::slots::Choice;
use crate::postmaster::again::Ran;
use crate::wire::message::JoinToken;
use crate::workers::Workers;

/// What every step of a run needs.
pub(super) struct Run<'a> {
    pub(super) options: &'a RebuildOptions,
    pub(super) events: &'a Events,
    pub(super) workers: Workers,
    pub(super) key: SessionKey,
    /// With it further streams join the session, if more than one was asked for.
    pub(super) join: Option<JoinToken>,
    /// Told when the further streams may come.
    pub(super) admitted: Notify,
    pub(super) clock: Clock,
    /// What was saved of the target's own WAL.
    pub(super) kept_wal: OnceLock<KeptWal>,
    /// Set once the standby's slot was made, which only lasts if the agent hears that the run has ended well.
    pub(super) made_slot: OnceLock<()>,
    /// The slot that the standby will use, once the source was asked.
    pub(super) choice: OnceLock<Choice>,
    /// How the target's server ran that this run has stopped.
    pub(super) stopped: OnceLock<Ran>,
    warnings: Mutex<Vec<String>>,
}

impl<'a> Run<'a> {
    pub(super) fn begin(options: &'a RebuildOptions, events: &'a Events) -> Result<Self, Failure> {
        let untouched = |error: String| Failure::new(TargetState::Untouched, error);
        let (mut key, mut token) = ([0; 32], [0; 16]);
        getrandom::fill(&mut key)
            .and_then(|()| getrandom::fill(&mut token))
            .map_err(|error| untouched(format!("could not get random numbers: {error}")))?;
        Ok(Self {
            options,
            events,
            workers: Workers::start(options.jobs)
                .map_err(|error| untouched(format!("could not start worker threads: {error}")))?,
            key: SessionKey(key),
            join: (options.streams > 1).then_some(JoinToken(token)),
            admitted: Notify::new(),
            clock: Clock::start(),
            kept_wal: OnceLock::new(),
            made_slot: OnceLock::new(),
            choice: OnceLock::new(),
            stopped: OnceLock::new(),
            warnings: Mutex::default(),
        })
    }

    /// Tells a warning, once, now and in the outcome.
    pub(super) fn warn(&self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        if let Ok(mut warnings) = self.warnings.lock() {
            if warnings.contains(&sentence) {
                return;
            }
            warnings.push(sentence.clone());
        }
        self.events.warn(sentence);
    }

    /// Tells a remark as loud as it is.
    pub(super) fn remark(&self, remark: &Remark) {
        match remark {
            Remark::Note(text) => self.events.note(text),
            Remark::Warning(text) => self.warn(text),
        }
    }

    /// The slot that the standby will use: the one asked for, or the target's own.
    pub(super) fn slot(&self) -> Option<&str> {
        match self.choice.get() {
            Some(choice) => choice.name.as_deref(),
            None => self.options.slot.as_deref(),
        }
    }

    /// All warnings up to now.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings
            .lock()
            .map(|list| list.clone())
            .unwrap_or_default()
    }

    pub(super) fn stage(&self, stage: Stage) {
        tracing::debug!("stage {}", stage.name());
        self.clock.enter(stage);
        self.events.stage(stage);
    }
}

/// Measures the stages.
pub(super) struct Clock {
    pub(super) began: Instant,
    entered: Mutex<Vec<(Stage, Instant)>>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            began: Instant::now(),
            entered: Mutex::default(),
        }
    }

    pub(super) fn enter(&self, stage: Stage) {
        if let Ok(mut entered) = self.entered.lock() {
            entered.push((stage, Instant::now()));
        }
    }

    pub(super) fn stages(&self) -> Vec<StageTime> {
        let entered = self
            .entered
            .lock()
            .map(|list| list.clone())
            .unwrap_or_default();
        let ends = entered
            .iter()
            .skip(1)
            .map(|(_, at)| *at)
            .chain(std::iter::once(Instant::now()));
        entered
            .iter()
            .zip(ends)
            .map(|((stage, from), to)| StageTime {
                name: stage.name(),
                seconds: (to - *from).as_secs_f64(),
            })
            .collect()
    }
}
