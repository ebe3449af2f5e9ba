//! The figures of a moment, made from the counters: how far, how fast, how long still.
//!
//! Knows no clock and no screen: time comes in.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::{Counters, Event, Stage};

/// The rate is an average over this time: long enough to be calm, short enough to follow a change.
const RATE_WINDOW: Duration = Duration::from_secs(30);
/// Distance of the samples within the window.
const SAMPLE_DISTANCE: Duration = Duration::from_millis(500);
/// Below this the rate says nothing yet.
const RATE_MINIMUM: Duration = Duration::from_secs(1);

/// The state of a run at one moment, as it stands in the `progress` event of `--progress json`:
/// the field names are stable. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) stage: Option<Stage>,
    /// Since the run began.
    pub(super) seconds: f64,
    pub(super) files: u64,
    /// Planned to be compared with what the target has.
    pub(super) compare_bytes: u64,
    /// Planned to be fetched because the target does not have it.
    pub(super) fetch_bytes: u64,
    pub(super) compared_bytes: u64,
    pub(super) fetched_bytes: u64,
    pub(super) differing_blocks: u64,
    pub(super) moved_blocks: u64,
    pub(super) patched_blocks: u64,
    pub(super) moved_bytes: u64,
    pub(super) wire_received_bytes: u64,
    pub(super) wire_sent_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) removed_files: u64,
    pub(super) wal_bytes: u64,
    /// WAL that the source keeps for this run.
    pub(super) retained_wal_bytes: u64,
    /// Compared and fetched per second, lately; absent while unknown.
    pub(super) bytes_per_second: Option<u64>,
    /// Time until everything planned is compared and fetched; absent while unknown.
    pub(super) seconds_left: Option<u64>,
    /// What the source may read a second now; absent without a limit.
    pub(super) max_rate: Option<u64>,
}

impl Figures {
    /// Everything that is to be compared or fetched.
    pub(super) fn planned_bytes(&self) -> u64 {
        self.compare_bytes.saturating_add(self.fetch_bytes)
    }

    /// What of it is done. Never more than planned: files grow while they are read.
    pub(super) fn done_bytes(&self) -> u64 {
        let done = self.compared_bytes.saturating_add(self.fetched_bytes);
        done.min(self.planned_bytes())
    }
}

/// What must be remembered between two moments.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    stage: Option<Stage>,
    files: u64,
    compare_bytes: u64,
    fetch_bytes: u64,
    retained_wal_bytes: u64,
    max_rate: Option<u64>,
    samples: VecDeque<(Duration, u64)>,
}

impl Tracker {
    /// Learns from an event.
    pub(super) fn hear(&mut self, event: &Event) {
        match event {
            Event::Stage(stage) => {
                self.stage = Some(*stage);
                self.samples.clear();
            }
            Event::Planned {
                files,
                compare_bytes,
                fetch_bytes,
            } => {
                self.files = *files;
                self.compare_bytes = *compare_bytes;
                self.fetch_bytes = *fetch_bytes;
            }
            Event::RetainedWal { bytes } => self.retained_wal_bytes = *bytes,
            Event::MaxRate(rate) => self.max_rate = *rate,
            Event::MayAsk(_) | Event::Warning(_) | Event::Note(_) => {}
        }
    }

    /// The figures now, `elapsed` after the run began.
    pub(super) fn figures(&mut self, elapsed: Duration, counters: &Counters) -> Figures {
        let mut figures = Figures {
            stage: self.stage,
            seconds: (elapsed.as_secs_f64() * 10.0).round() / 10.0,
            files: self.files,
            compare_bytes: self.compare_bytes,
            fetch_bytes: self.fetch_bytes,
            compared_bytes: Counters::read(&counters.compared_bytes),
            fetched_bytes: Counters::read(&counters.fetched_bytes),
            differing_blocks: Counters::read(&counters.differing_blocks),
            moved_blocks: Counters::read(&counters.moved_blocks),
            patched_blocks: Counters::read(&counters.patched_blocks),
            moved_bytes: Counters::read(&counters.moved_bytes),
            wire_received_bytes: Counters::read(&counters.wire_received_bytes),
            wire_sent_bytes: Counters::read(&counters.wire_sent_bytes),
            written_bytes: Counters::read(&counters.written_bytes),
            removed_files: Counters::read(&counters.removed_files),
            wal_bytes: Counters::read(&counters.wal_bytes),
            retained_wal_bytes: self.retained_wal_bytes,
            bytes_per_second: None,
            seconds_left: None,
            max_rate: self.max_rate,
        };
        if self.stage == Some(Stage::Compare) {
            let done = figures.compared_bytes.saturating_add(figures.fetched_bytes);
            figures.bytes_per_second = self.rate(elapsed, done);
            figures.seconds_left = figures
                .bytes_per_second
                .filter(|rate| *rate > 0)
                .map(|rate| (figures.planned_bytes() - figures.done_bytes()).div_ceil(rate));
        }
        figures
    }

    fn rate(&mut self, now: Duration, done: u64) -> Option<u64> {
        while self
            .samples
            .front()
            .is_some_and(|(then, _)| now.saturating_sub(*then) > RATE_WINDOW)
        {
            self.samples.pop_front();
        }
        let is_due = self
            .samples
            .back()
            .is_none_or(|(then, _)| now.saturating_sub(*then) >= SAMPLE_DISTANCE);
        if is_due {
            self.samples.push_back((now, done));
        }
        let (then, before) = *self.samples.front()?;
        let time = now.saturating_sub(then);
        if time < RATE_MINIMUM {
            return None;
        }
        let bytes = u128::from(done.saturating_sub(before));
        u64::try_from(bytes * 1000 / time.as_millis()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_compare(compare_bytes: u64) -> Tracker {
        let mut tracker = Tracker::default();
        tracker.hear(&Event::Stage(Stage::Compare));
        tracker.hear(&Event::Planned {
            files: 3,
            compare_bytes,
            fetch_bytes: 0,
        });
        tracker
    }

    #[test]
    fn rate_follows_the_last_half_minute() {
        let mut tracker = at_compare(1_000_000);
        let counters = Counters::default();
        for second in 0..=60 {
            // 100 bytes a second for half a minute, then 1000.
            Counters::add(
                &counters.compared_bytes,
                if second <= 30 { 100 } else { 1000 },
            );
            tracker.figures(Duration::from_secs(second), &counters);
        }
        let figures = tracker.figures(Duration::from_secs(60), &counters);
        assert_eq!(figures.bytes_per_second, Some(1000));
        let left = 1_000_000 - figures.compared_bytes;
        assert_eq!(figures.seconds_left, Some(left.div_ceil(1000)));
    }

    #[test]
    fn a_rate_is_not_guessed_from_nothing() {
        let mut tracker = at_compare(1000);
        let counters = Counters::default();
        let first = tracker.figures(Duration::ZERO, &counters);
        assert_eq!((first.bytes_per_second, first.seconds_left), (None, None));
        let stalled = tracker.figures(Duration::from_secs(5), &counters);
        assert_eq!(stalled.bytes_per_second, Some(0));
        assert_eq!(stalled.seconds_left, None);
    }

    #[test]
    fn more_than_planned_is_not_more_than_everything() {
        let mut tracker = at_compare(1000);
        let counters = Counters::default();
        tracker.figures(Duration::ZERO, &counters);
        Counters::add(&counters.compared_bytes, 5000);
        let figures = tracker.figures(Duration::from_secs(5), &counters);
        assert_eq!(figures.done_bytes(), 1000);
        assert_eq!(figures.seconds_left, Some(0));
    }

    #[test]
    fn samples_stay_few() {
        let mut tracker = at_compare(u64::MAX);
        let counters = Counters::default();
        for tick in 0..100_000 {
            tracker.figures(Duration::from_millis(tick * 10), &counters);
        }
        assert!(tracker.samples.len() <= 62, "{}", tracker.samples.len());
    }
}
