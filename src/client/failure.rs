//! A failed run in the three parts that a DBA needs: what happened, in what state the target is now,
//! what to do next.

use std::error::Error;
use std::fmt;

use crate::disk::DiskError;
use crate::errors::chain;
use crate::plan::refusal::Refusal;
use crate::plan::remedy;

/// What to do about a target that is half-way, where nothing must be mended first.
const AGAIN: &str =
    "Run the same command again: what already matches the source is not moved twice.";

/// As [`AGAIN`], after another hint.
const THEN_AGAIN: &str =
    "Then run the same command again: what already matches the source is not moved twice.";

/// In what state a failure leaves the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetState {
    /// Nothing was written.
    Untouched,
    /// It cannot start until the same command has finished.
    HalfWay,
    /// It is whole, but what was asked for afterwards (start, streaming) did not happen.
    Rebuilt,
    /// It is a whole copy, but what was asked for afterwards did not happen.
    Copied,
    /// It is a whole copy that is closed to others, since its hooks have not all succeeded.
    Unready,
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
    /// A file call on the target's host did not work: time alone does not mend that.
    pub is_of_disk: bool,
    /// Stable names of what refused, one for each of `errors`; empty when nothing refused.
    pub refusals: Vec<&'static str>,
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
            is_of_disk: false,
            refusals: Vec::new(),
            errors: vec![error.to_string()],
            details: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// An error with its causes. One of a file call says that it was on the target, and what to do about its reason.
    fn of(state: TargetState, error: &(dyn Error + 'static)) -> Self {
        let mut text = chain(error);
        let mut remedy = None;
        let mut is_of_disk = false;
        let mut at = Some(error);
        while let Some(cause) = at {
            if let Some(disk) = cause.downcast_ref::<DiskError>() {
                let act = disk.to_string();
                text = text.replacen(&act, &format!("{act} on the target"), 1);
                remedy = remedy::of(&disk.source);
                is_of_disk = true;
            }
            at = cause.source();
        }
        let mut failure = Self::new(state, text);
        failure.hints.extend(remedy.map(str::to_owned));
        failure.is_of_disk = is_of_disk;
        failure
    }

    /// An error before anything was written.
    pub fn untouched(error: &(dyn Error + 'static)) -> Self {
        Self::of(TargetState::Untouched, error)
    }

    /// An error behind the point of no return.
    pub fn half_way(error: &(dyn Error + 'static)) -> Self {
        Self::half_way_with(error, None)
    }

    /// As [`Failure::half_way`], with the hint of the error first, if it has one.
    pub fn half_way_with(error: &(dyn Error + 'static), hint: Option<&str>) -> Self {
        let mut failure = Self::of(TargetState::HalfWay, error);
        failure.hints.extend(hint.map(str::to_owned));
        failure.again()
    }

    /// An error after the target was made whole.
    pub fn rebuilt(error: &(dyn Error + 'static)) -> Self {
        Self::of(TargetState::Rebuilt, error)
    }

    /// Says at the end, behind what must be mended first, that the same command goes on.
    #[must_use]
    pub fn again(self) -> Self {
        let hint = if self.hints.is_empty() {
            AGAIN
        } else {
            THEN_AGAIN
        };
        self.hint(hint)
    }

    /// What the guards say.
    #[must_use]
    pub fn refused(refusals: &[Refusal]) -> Self {
        Self {
            kind: Kind::Refused,
            state: TargetState::Untouched,
            is_of_disk: false,
            refusals: refusals.iter().map(Refusal::name).collect(),
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::client::transfer::error::TransferError;

    fn full() -> DiskError {
        DiskError::new(
            "write",
            Path::new("/pg/base/5/1"),
            io::Error::from_raw_os_error(28),
        )
    }

    #[test]
    fn a_full_disk_is_named_with_its_side_and_its_remedy_before_the_next_run() {
        let error =
            "could not write \"/pg/base/5/1\" on the target: No space left on device (os error 28)";
        for failure in [
            Failure::half_way(&full()),
            Failure::half_way(&TransferError::from(full())),
        ] {
            assert_eq!(failure.errors, [error]);
            assert!(failure.is_of_disk);
            assert!(
                failure.hints[0].starts_with("Make room"),
                "{:?}",
                failure.hints
            );
            assert_eq!(failure.hints[1..], [THEN_AGAIN]);
        }
        let failure = Failure::untouched(&full());
        assert_eq!((&failure.errors[0][..], failure.hints.len()), (error, 1));
    }

    #[test]
    fn what_needs_no_mending_is_just_run_again() {
        let lost = io::Error::other("the link is gone");
        assert_eq!(Failure::half_way(&lost).hints, [AGAIN]);
        assert!(!Failure::half_way(&lost).is_of_disk);
        let hints = Failure::half_way_with(&lost, Some("Start sshd.")).hints;
        assert_eq!(hints, ["Start sshd.", THEN_AGAIN]);
    }
}
