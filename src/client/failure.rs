//! A failed run in the three parts that a DBA needs: what happened, in what state the target is now,
//! what to do next.

use std::error::Error;
use std::fmt;

use crate::errors::chain;
use crate::plan::refusal::Refusal;

/// What to do about a target that is half-way.
pub const AGAIN: &str =
    "Run the same command again: what already matches the source is not moved twice.";

/// In what state a failure leaves the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetState {
    /// Nothing was written.
    Untouched,
    /// It cannot start until the same command has finished.
    HalfWay,
    /// It is whole, but what was asked for afterwards (start, streaming) did not happen.
    Rebuilt,
}

/// What kind of failure it is: decides the exit status together with the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A guard refused.
    Refused,
    /// Something did not work.
    Failed,
}

/// Why a run ended early.
#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    pub state: TargetState,
    /// What happened: lower case, no full stop; several for several refusals.
    pub errors: Vec<String>,
    /// More about it: sentences.
    pub details: Vec<String>,
    /// What to do next: sentences.
    pub hints: Vec<String>,
}

impl Failure {
    /// A failure with one error line.
    #[must_use]
    pub fn new(state: TargetState, error: impl fmt::Display) -> Self {
        Self {
            kind: Kind::Failed,
            state,
            errors: vec![error.to_string()],
            details: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// An error before anything was written.
    pub fn untouched(error: &dyn Error) -> Self {
        Self::new(TargetState::Untouched, chain(error))
    }

    /// An error behind the point of no return.
    pub fn half_way(error: &dyn Error) -> Self {
        Self::half_way_with(error, None)
    }

    /// As [`Failure::half_way`], with the hint of the error first, if it has one.
    pub fn half_way_with(error: &dyn Error, hint: Option<&str>) -> Self {
        let mut failure = Self::new(TargetState::HalfWay, chain(error));
        failure.hints.extend(hint.map(str::to_owned));
        failure.hint(AGAIN)
    }

    /// An error after the target was made whole.
    pub fn rebuilt(error: &dyn Error) -> Self {
        Self::new(TargetState::Rebuilt, chain(error))
    }

    /// What the guards say.
    #[must_use]
    pub fn refused(refusals: &[Refusal]) -> Self {
        Self {
            kind: Kind::Refused,
            state: TargetState::Untouched,
            errors: refusals.iter().map(Refusal::error).collect(),
            details: refusals.iter().map(Refusal::detail).collect(),
            hints: refusals.iter().map(Refusal::hint).collect(),
        }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }
}
