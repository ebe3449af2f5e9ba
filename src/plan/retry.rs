//! Whether what failed is tried again, and when: for callers that take a failure for the end of the data directory.

use std::time::Duration;

/// Refusals whose reason goes by itself: what another process or the source does at the moment.
const PASSING: [&str; 9] = [
    "full-page-writes-off",
    "history-missing",
    "locked",
    "new-tablespaces",
    "no-free-slot",
    "no-wal-sender",
    "orphans",
    "pid-file-torn",
    "pid-file-unclear",
];

/// The first pause, and the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Whether time alone may mend a failure: what all refusals are about, or what did not work on the way to the source and
/// there. A file call that fails on the target's own host fails again.
#[must_use]
pub fn may_pass(refusals: &[&str], is_of_disk: bool) -> bool {
    !is_of_disk && refusals.iter().all(|name| PASSING.contains(name))
}

/// How long the whole may take that is not work, and what of it is used up.
#[derive(Debug, Clone)]
pub struct Patience {
    whole: Duration,
    used: Duration,
    failures: u32,
}

impl Patience {
    /// Nothing is used up yet.
    #[must_use]
    pub fn new(whole: Duration) -> Self {
        Self {
            whole,
            used: Duration::ZERO,
            failures: 0,
        }
    }

    /// The pause after an attempt that failed; `None` when there is none left. `has_worked` says that it came to move
    /// what differs: after one that did so for longer than patience lasts, patience begins anew.
    pub fn pause_after(&mut self, attempt: Duration, has_worked: bool) -> Option<Duration> {
        if has_worked && attempt > self.whole {
            *self = Self::new(self.whole);
        } else if self.failures > 0 {
            self.used += attempt;
        }
        let left = self.left();
        if left.is_zero() {
            return None;
        }
        let pause = FIRST.saturating_mul(1 << self.failures.min(10));
        let pause = pause.min(LONGEST).min(left);
        self.failures += 1;
        self.used += pause;
        Some(pause)
    }

    /// What is left.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.whole.saturating_sub(self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_by_itself_is_tried_again() {
        for (refusals, is_of_disk, passes) in [
            (&[][..], false, true),
            (&[], true, false),
            (&["no-free-slot"], false, true),
            (&["locked", "orphans"], false, true),
            (&["foreign-cluster"], false, false),
            (&["server-running"], false, false),
            (&["no-free-slot", "other-major"], false, false),
        ] {
            assert_eq!(may_pass(refusals, is_of_disk), passes, "{refusals:?}");
        }
    }

    #[test]
    fn names_of_refusals_exist() {
        let source = include_str!("refusal/reason.rs");
        for name in PASSING {
            assert!(source.contains(&format!("=> \"{name}\"")), "{name}");
        }
    }

    #[test]
    fn pauses_grow_and_end() {
        let mut patience = Patience::new(Duration::from_secs(100));
        let mut pauses = Vec::new();
        while let Some(pause) = patience.pause_after(Duration::ZERO, true) {
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 9]);
        assert_eq!(
            Patience::new(Duration::ZERO).pause_after(Duration::ZERO, false),
            None
        );
    }

    #[test]
    fn attempts_that_come_to_nothing_use_it_up_and_work_does_not() {
        let mut patience = Patience::new(Duration::from_secs(60));
        let second = Duration::from_secs(1);
        assert_eq!(patience.pause_after(30 * second, false), Some(second));
        assert_eq!(patience.pause_after(30 * second, true), Some(2 * second));
        assert_eq!(patience.left(), 27 * second);
        assert_eq!(patience.pause_after(61 * second, true), Some(second));
        assert_eq!(patience.left(), 59 * second);
        // However long nobody answers, that is no work.
        assert_eq!(patience.pause_after(600 * second, false), None);
    }
}
