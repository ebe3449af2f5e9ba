//! How many reads are on their way to the disks at a time.
//!
//! A volume that answers after 10 ms is fast only if much is asked of it at once. A disk that is busy with the first
//! few gains nothing from more: they only make everybody's reads wait, those of the source's server among them
//! (measured: with 16 reads of 1 MiB in flight pgbench's p99 was 108 ms, with 4 of them 30 ms, and the run no slower).
//! So the depth is found while reading: it doubles where that brings much more, and is halved where that costs little.

use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::turns::aside;

/// Reads in flight at the beginning.
const FIRST: usize = 4;

/// Fewest and most reads in flight. The most are as many as threads read.
const RANGE: std::ops::RangeInclusive<usize> = 2..=16;

/// Reads after which a depth is judged.
const JUDGED_AFTER: usize = 32;

/// Judgements for which a depth stays when another one was no better.
const KEPT_FOR: usize = 8;

/// Twice the depth must bring so many times the rate. Another user of the disk loses by it what we gain: who has as
/// many reads in flight as we would see us gain a third.
const GAIN: f64 = 1.4;

/// Half the depth may cost so much of the rate.
const LOSS: f64 = 0.8;

/// What a read costs the disk beside its bytes, as bytes.
const READ_COST: u64 = 64 * 1024;

/// The depth of this process.
static DEPTH: LazyLock<Depth> = LazyLock::new(|| Depth {
    now: Mutex::new(Now {
        in_flight: 0,
        search: Search::default(),
    }),
    changed: Condvar::new(),
    began: Instant::now(),
});

struct Depth {
    now: Mutex<Now>,
    changed: Condvar,
    began: Instant,
}

struct Now {
    in_flight: usize,
    search: Search,
}

/// Waits until one more read may be in flight, and reads so many bytes. Others compute meanwhile.
pub(super) fn read<T>(bytes: usize, read: impl FnOnce() -> T) -> T {
    aside(|| read_in_turn(bytes, read))
}

fn read_in_turn<T>(bytes: usize, read: impl FnOnce() -> T) -> T {
    let depth = &*DEPTH;
    let now = depth.lock();
    depth
        .changed
        .wait_while(now, |now| now.in_flight >= now.search.depth)
        .unwrap_or_else(PoisonError::into_inner)
        .in_flight += 1;
    let result = read();
    let mut now = depth.lock();
    now.in_flight -= 1;
    let before = now.search.depth;
    now.search.done(bytes as u64, depth.began.elapsed());
    if now.search.depth > before {
        depth.changed.notify_all();
    } else {
        depth.changed.notify_one();
    }
    result
}

impl Depth {
    /// Nobody panics with the lock in hand.
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The search for the depth, given what was read when.
#[derive(Debug)]
struct Search {
    depth: usize,
    /// The depth that the one on trial is held against, with its rate.
    trial: Option<(usize, f64)>,
    /// Whether the next trial is one of more.
    is_upwards: bool,
    /// Judgements until the next trial.
    keeps: usize,
    /// Reads that were asked for at another depth.
    strange: usize,
    /// Since when it is counted, how many reads, and what they cost.
    since: Duration,
    reads: usize,
    cost: u64,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            depth: FIRST,
            trial: None,
            is_upwards: true,
            keeps: 0,
            strange: FIRST,
            since: Duration::ZERO,
            reads: 0,
            cost: 0,
        }
    }
}

impl Search {
    /// A read of so many bytes is done, at this time since some beginning.
    fn done(&mut self, bytes: u64, now: Duration) {
        if self.strange > 0 {
            self.strange -= 1;
            self.since = now;
            return;
        }
        self.reads += 1;
        self.cost += bytes + READ_COST;
        if self.reads == JUDGED_AFTER {
            #[expect(clippy::cast_precision_loss, reason = "a rate is no exact thing")]
            let rate = self.cost as f64 / now.saturating_sub(self.since).as_secs_f64().max(1e-9);
            self.judge(rate);
            (self.since, self.reads, self.cost) = (now, 0, 0);
        }
    }

    /// This depth has this rate.
    fn judge(&mut self, rate: f64) {
        match self.trial.take() {
            Some((before, old)) if before < self.depth => {
                if rate < GAIN * old {
                    self.settle(before, false);
                }
            }
            Some((before, old)) => {
                let depth = if rate < LOSS * old {
                    before
                } else {
                    self.depth
                };
                self.settle(depth, true);
            }
            None if self.keeps > 0 => self.keeps -= 1,
            None => {
                let other = if self.is_upwards {
                    self.depth * 2
                } else {
                    self.depth / 2
                };
                let other = other.clamp(*RANGE.start(), *RANGE.end());
                if other == self.depth {
                    self.settle(other, !self.is_upwards);
                } else {
                    self.trial = Some((self.depth, rate));
                    self.change(other);
                }
            }
        }
    }

    /// Keeps a depth for a while, and tries then more or less.
    fn settle(&mut self, depth: usize, is_upwards: bool) {
        self.change(depth);
        self.is_upwards = is_upwards;
        self.keeps = KEPT_FOR;
    }

    fn change(&mut self, depth: usize) {
        self.strange = self.depth;
        self.depth = depth;
    }
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
mod tests {
    use super::*;

    /// Reads of 1 MiB at most by 16 threads from something that answers after `latency` and carries `rate` reads in a
    /// second, while others have `others` reads in flight. Returns the depth after each of so many reads.
    fn depths(latency: f64, rate: f64, others: usize, reads: usize) -> Vec<usize> {
        let mut search = Search::default();
        let mut now = 0.0;
        let mut noise = 12_345_u32;
        (0..reads)
            .map(|_| {
                let all = (search.depth + others) as f64;
                let takes = f64::max(latency, all / rate);
                // Up to a tenth more or less.
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = 0.9 + 0.2 * f64::from(noise >> 16) / 65_536.0;
                now += noise * takes / search.depth as f64;
                search.done(1 << 20, Duration::from_secs_f64(now));
                search.depth
            })
            .collect()
    }

    fn mean(depths: &[usize]) -> f64 {
        depths.iter().sum::<usize>() as f64 / depths.len() as f64
    }

    #[test]
    fn a_slow_answer_with_room_for_many_is_asked_for_many() {
        // 10 ms, and twice as much as 16 reads can ask for.
        let depths = depths(0.010, 3_200.0, 0, 2_000);
        assert_eq!(depths[150], 16);
        assert!(mean(&depths[150..]) > 14.0);
    }

    #[test]
    fn a_disk_that_is_busy_with_few_is_not_asked_for_more() {
        let depths = depths(0.001, 1_000.0, 0, 5_000);
        assert!(mean(&depths) < 3.5);
    }

    #[test]
    fn a_server_that_is_busy_as_well_is_not_pushed_aside() {
        let depths = depths(0.001, 1_000.0, 4, 5_000);
        assert!(mean(&depths) < 5.0);
        assert!(depths.iter().all(|depth| RANGE.contains(depth)));
    }

    #[test]
    fn a_depth_that_paid_once_is_left_when_it_does_not_any_more() {
        let mut search = Search {
            depth: 16,
            ..Search::default()
        };
        for read in 1..2_000_u32 {
            // As fast at any depth.
            search.done(1 << 20, Duration::from_millis(1) * read);
        }
        assert!(search.depth <= 4);
    }

    #[test]
    fn reads_at_a_time_are_no_more_than_the_depth() {
        let now = Mutex::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 * RANGE.end() {
                scope.spawn(|| {
                    for _ in 0..50 {
                        read(4096, || {
                            *now.lock().unwrap() += 1;
                            std::thread::yield_now();
                            assert!(*now.lock().unwrap() <= *RANGE.end());
                            *now.lock().unwrap() -= 1;
                        });
                    }
                });
            }
        });
        assert_eq!(DEPTH.lock().in_flight, 0);
    }
}
