//! What every step of a run needs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::client::clock;
use crate::client::failure::{Failure, TargetState};
use crate::client::options::{Reach, RebuildOptions};
use crate::client::record::Record;
use crate::digest::SessionKey;
use crate::event::{Event, Events, Stage};
use crate::plan::lineage::Remark;
use crate::plan::slots::Choice;
use crate::postmaster::again::Ran;
use crate::warning::{Code, Warning};
use crate::wire::message::{JoinToken, Purpose, Request};
use crate::workers::Workers;

/// What every step of a run needs; `O` is what it was asked to do.
pub(super) struct Run<'a, O = RebuildOptions> {
    pub(super) options: &'a O,
    pub(super) reach: &'a Reach,
    pub(super) events: &'a Events,
    pub(super) workers: Workers,
    pub(super) key: SessionKey,
    /// With it further streams join the session, if more than one was asked for.
    pub(super) join: Option<JoinToken>,
    /// Told when the further streams may come.
    pub(super) admitted: Notify,
    pub(super) record: &'a Record,
    /// The rate that the agent was told last: bytes a second, 0 for no limit.
    pub(super) told_rate: AtomicU64,
    /// Set once the standby's slot was made, which only lasts if the agent hears that the run has ended well.
    pub(super) made_slot: OnceLock<()>,
    /// The slot that the standby will use, once the source was asked.
    pub(super) choice: OnceLock<Choice>,
    /// How the target's server ran that this run has stopped.
    pub(super) stopped: OnceLock<Ran>,
}

impl<'a, O> Run<'a, O> {
    pub(super) fn begin(
        options: &'a O,
        reach: &'a Reach,
        events: &'a Events,
        record: &'a Record,
    ) -> Result<Self, Failure> {
        let untouched = |error: String| Failure::new(TargetState::Untouched, error);
        let (mut key, mut token) = ([0; 32], [0; 16]);
        getrandom::fill(&mut key)
            .and_then(|()| getrandom::fill(&mut token))
            .map_err(|error| untouched(format!("could not get random numbers: {error}")))?;
        Ok(Self {
            options,
            reach,
            events,
            workers: Workers::start(reach.jobs)
                .map_err(|error| untouched(format!("could not start worker threads: {error}")))?,
            key: SessionKey(key),
            join: (reach.streams > 1).then_some(JoinToken(token)),
            admitted: Notify::new(),
            record,
            told_rate: AtomicU64::new(0),
            made_slot: OnceLock::new(),
            choice: OnceLock::new(),
            stopped: OnceLock::new(),
        })
    }

    /// What the agent is told first of a session for this purpose.
    pub(super) fn configure(&self, purpose: Purpose) -> Request {
        Request::Configure {
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            key: self.key,
            compression: self.reach.compression,
            jobs: self.reach.agent_jobs,
            max_rate: self.rate_now(),
            purpose,
            join: self.join,
        }
    }

    /// The rate that is in force now, which the agent is about to be told.
    pub(super) fn rate_now(&self) -> Option<u64> {
        let rate = self.reach.max_rate.at(clock::now());
        self.told_rate.store(rate.unwrap_or(0), Ordering::Relaxed);
        if rate.is_some() || self.reach.max_rate.changes() {
            self.events.tell(&Event::MaxRate(rate));
        }
        rate
    }

    /// Tells a warning, once, now and in the outcome.
    pub(super) fn warn(&self, code: Code, sentence: impl Into<String>) {
        let message = sentence.into();
        let warning = Warning { code, message };
        if self.record.warn(&warning) {
            self.events.warn(warning);
        }
    }

    /// Tells a remark as loud as it is.
    pub(super) fn remark(&self, remark: &Remark) {
        match remark {
            Remark::Note(text) => self.events.note(text),
            Remark::Warning(code, text) => self.warn(*code, text),
        }
    }

    pub(super) fn stage(&self, stage: Stage) {
        tracing::debug!("stage {}", stage.name());
        self.record.enter(stage);
        self.events.stage(stage);
    }
}

impl Run<'_> {
    /// The slot that the standby will use: the one asked for, or the target's own.
    pub(super) fn slot(&self) -> Option<&str> {
        match self.choice.get() {
            Some(choice) => choice.name.as_deref(),
            None => self.options.slot.as_deref(),
        }
    }
}
