//! How often, and after which time, a stream is opened again that was lost.

use std::time::Duration;

/// Tries in a row, counted from the last stream that lived.
const TRIES_MAX: u32 = 10;
/// Before the first one; each next one waits twice as long.
const FIRST_AFTER: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);
/// A stream that lived for so long was no failure: its loss begins a new count.
const LIVED: Duration = Duration::from_secs(60);

/// The tries of one run.
#[derive(Debug, Default)]
pub struct Reopening {
    tries: u32,
}

impl Reopening {
    /// A stream was lost, `lived` after it came up: how long to wait before another is opened. `None` when that was
    /// tried often enough.
    pub fn after_loss(&mut self, lived: Duration) -> Option<Duration> {
        if lived >= LIVED {
            self.tries = 0;
        }
        self.after_failure()
    }

    /// A try failed: how long to wait before the next.
    pub fn after_failure(&mut self) -> Option<Duration> {
        if self.tries == TRIES_MAX {
            return None;
        }
        let wait = FIRST_AFTER.saturating_mul(1 << self.tries).min(LONGEST);
        self.tries += 1;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rare_and_end() {
        let mut reopening = Reopening::default();
        let waits: Vec<u64> = std::iter::from_fn(|| reopening.after_loss(Duration::from_secs(1)))
            .map(|wait| u64::try_from(wait.as_millis()).unwrap())
            .collect();
        assert_eq!(
            waits,
            [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]
        );
        assert_eq!(reopening.after_failure(), None);
    }

    #[test]
    fn a_stream_that_lived_begins_a_new_count() {
        let mut reopening = Reopening::default();
        while reopening.after_failure().is_some() {}
        assert_eq!(reopening.after_loss(LIVED), Some(FIRST_AFTER));
    }
}
