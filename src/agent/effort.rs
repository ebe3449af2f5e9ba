//! How hard the agent works: what it compresses, how fast it reads, how much it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::buffer::Buffer;
use crate::digest::SessionKey;
use crate::wire::message::{Compression, Packed};
use crate::wire::payload::{self, Load};

/// Bytes of answers that may be in the making or wait for the link: bounds the agent's memory whatever the
/// client asks for.
const HELD_MAX: u64 = 64 * 1024 * 1024;

/// What a permit stands for.
const PERMIT_BYTES: u64 = 64 * 1024;

/// What the agent keeps count of while it reads.
#[derive(Debug)]
pub struct Effort {
    compression: Compression,
    link: Arc<LinkState>,
    read: AtomicU64,
    packed: AtomicU64,
    room: Arc<Semaphore>,
    limit: Arc<Limit>,
}

/// What reading is for. Where it is limited, each lane that has something to read takes its turn: neither the WAL
/// nor the files wait until the other has nothing left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Files,
    /// WAL that is brought while the backup runs.
    Wal,
}

/// A limit on reading, which may change at any time.
#[derive(Debug)]
pub struct Limit {
    /// Bytes a second; 0 is no limit.
    rate: watch::Sender<u64>,
    debt: Mutex<Debt>,
    /// Held by who is next of a lane.
    lanes: [Mutex<()>; 2],
}

/// What was read, and not yet paid for with time.
#[derive(Debug)]
struct Debt {
    bytes: u64,
    since: Instant,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            rate: watch::Sender::new(0),
            debt: Mutex::new(Debt {
                bytes: 0,
                since: Instant::now(),
            }),
            lanes: Default::default(),
        }
    }
}

impl Limit {
    /// Limits to so many bytes a second from now on, or not at all. Who waits by the rate before waits by this one.
    pub fn set(&self, max_rate: Option<u64>) {
        self.rate.send_replace(max_rate.unwrap_or(0));
    }

    /// Waits until so many bytes may be read.
    async fn pass(&self, bytes: u64, lane: Lane) {
        let mut rate = self.rate.subscribe();
        if *rate.borrow() == 0 {
            return;
        }
        let _next_of_lane = self.lanes[usize::from(lane == Lane::Wal)].lock().await;
        // At most one of each lane waits here, and the lock is given in the order of asking.
        let mut debt = self.debt.lock().await;
        loop {
            let now = *rate.borrow_and_update();
            if now == 0 {
                debt.bytes = 0;
                return;
            }
            let paid = debt.since + time_for(debt.bytes, now);
            // Time in which nothing was asked for is not saved up.
            let turn = paid.max(Instant::now());
            tokio::select! {
                () = tokio::time::sleep_until(turn) => {
                    *debt = Debt { bytes, since: turn };
                    return;
                }
                _ = rate.changed() => {
                    let paid = bytes_in(debt.since.elapsed(), now);
                    *debt = Debt {
                        bytes: debt.bytes.saturating_sub(paid),
                        since: Instant::now(),
                    };
                }
            }
        }
    }
}

/// How long so many bytes take at a rate.
fn time_for(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How many bytes a rate allows in a time.
fn bytes_in(time: Duration, rate: u64) -> u64 {
    u64::try_from(time.as_nanos() * u128::from(rate) / 1_000_000_000).unwrap_or(u64::MAX)
}

impl Effort {
    /// Begins at zero.
    #[must_use]
    pub fn new(compression: Compression, limit: Arc<Limit>) -> Self {
        let permits = usize::try_from(HELD_MAX / PERMIT_BYTES).unwrap_or(usize::MAX);
        Self {
            compression,
            link: Arc::default(),
            read: AtomicU64::new(0),
            packed: AtomicU64::new(0),
            room: Arc::new(Semaphore::new(permits)),
            limit,
        }
    }

    /// The limit on reading.
    #[must_use]
    pub fn limit(&self) -> Arc<Limit> {
        Arc::clone(&self.limit)
    }

    /// Waits until an answer of so many bytes may be made; it is held until the returned value goes.
    pub async fn hold(&self, bytes: u64) -> Held {
        let permits = bytes.min(HELD_MAX).div_ceil(PERMIT_BYTES).max(1);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let permit = Arc::clone(&self.room).acquire_many_owned(permits).await;
        Held {
            _permit: permit.ok(),
            link: Arc::clone(&self.link),
            waiting: None,
        }
    }

    /// Waits until so many bytes may be read.
    pub async fn pace(&self, bytes: u64, lane: Lane) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
        self.limit.pass(bytes, lane).await;
    }

    /// Packs an answer's body in the way that serves the run best now.
    #[must_use]
    pub fn pack(&self, bytes: Buffer, key: &SessionKey, is_hungry: bool) -> (Packed, Buffer) {
        let load = Load {
            waiting_bytes: self.link.waiting.load(Ordering::Relaxed),
            link_rate: self.link.rate.load(Ordering::Relaxed),
            is_hungry,
            read_bytes: self.read.load(Ordering::Relaxed),
            packed_bytes: self.packed.fetch_add(bytes.len() as u64, Ordering::Relaxed),
        };
        payload::pack(bytes, key, payload::choose(self.compression, load))
    }
}

/// What is known of the link, from how long answers wait for it.
#[derive(Debug, Default)]
struct LinkState {
    /// Bytes of finished answers that it did not take yet.
    waiting: AtomicU64,
    /// Bytes that it took in a second lately.
    rate: AtomicU64,
}

/// Fewer bytes say nothing about the rate of a link: its buffers take them at once.
const TELLING: u64 = 2 * 1024 * 1024;

impl LinkState {
    /// So many bytes went in that time: counts with a weight of one in four.
    fn took(&self, bytes: u64, time: Duration) {
        if bytes < TELLING {
            return;
        }
        let nanos = time.as_nanos().max(1);
        let now = u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX / 8);
        let before = match self.rate.load(Ordering::Relaxed) {
            0 => now,
            before => before,
        };
        // Two that meet here lose one of many measurements.
        self.rate
            .store(before - before / 4 + now / 4, Ordering::Relaxed);
    }
}

/// Room for one answer, until the link has taken it.
#[derive(Debug)]
pub struct Held {
    _permit: Option<OwnedSemaphorePermit>,
    link: Arc<LinkState>,
    waiting: Option<Waiting>,
}

/// An answer that waits for the link.
#[derive(Debug)]
struct Waiting {
    bytes: u64,
    /// With all that the link takes before it.
    until_done: u64,
    since: Instant,
}

impl Held {
    /// The answer is made and has so many bytes.
    #[must_use]
    pub fn waits(mut self, bytes: u64) -> Self {
        let before = self.link.waiting.fetch_add(bytes, Ordering::Relaxed);
        self.waiting = Some(Waiting {
            bytes,
            until_done: before + bytes,
            since: Instant::now(),
        });
        self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(waiting) = &self.waiting {
            self.link
                .waiting
                .fetch_sub(waiting.bytes, Ordering::Relaxed);
            self.link.took(waiting.until_done, waiting.since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(rate: u64) -> Effort {
        let limit = Limit::default();
        limit.set(Some(rate));
        Effort::new(Compression::None, Arc::new(limit))
    }

    /// Who waits for a slow rate does not go on waiting when a faster one, or none, is in force.
    #[tokio::test(start_paused = true)]
    async fn a_limit_that_changes_holds_at_once() {
        let effort = Arc::new(limited(1_000));
        effort.pace(100_000, Lane::Files).await;
        let began = Instant::now();
        let waits = tokio::spawn({
            let effort = Arc::clone(&effort);
            async move { effort.pace(100_000, Lane::Files).await }
        });
        tokio::time::sleep(Duration::from_secs(40)).await;
        // 60,000 are still to be paid.
        effort.limit().set(Some(10_000));
        waits.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 46);
        let waits = tokio::spawn({
            let effort = Arc::clone(&effort);
            async move { effort.pace(1, Lane::Wal).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        effort.limit().set(None);
        waits.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 47);
        effort.pace(u64::MAX, Lane::Files).await;
        assert_eq!(began.elapsed().as_secs(), 47);
        // From no limit to one: what was read before costs nothing.
        effort.limit().set(Some(1_000));
        effort.pace(1_000, Lane::Files).await;
        effort.pace(1_000, Lane::Files).await;
        assert_eq!(began.elapsed().as_secs(), 48);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_spreads_reading_over_time() {
        let effort = limited(1_000_000);
        let began = Instant::now();
        for _ in 0..5 {
            effort.pace(500_000, Lane::Files).await;
        }
        // The first one starts at once; what it read has to be paid before the next.
        assert_eq!(began.elapsed().as_millis(), 2000);
        tokio::time::advance(Duration::from_secs(60)).await;
        let later = Instant::now();
        effort.pace(500_000, Lane::Files).await;
        effort.pace(500_000, Lane::Files).await;
        assert_eq!(later.elapsed().as_millis(), 500);
    }

    /// WAL does not wait until all files are read that were asked for before it, and does not keep them waiting.
    #[tokio::test(start_paused = true)]
    async fn files_and_wal_take_turns_under_a_limit() {
        let effort = Arc::new(limited(1_000));
        let order = Arc::new(std::sync::Mutex::new(String::new()));
        let mut tasks = Vec::new();
        for (lane, word) in [(Lane::Files, 'f'), (Lane::Wal, 'w')] {
            for _ in 0..6 {
                let (effort, order) = (Arc::clone(&effort), Arc::clone(&order));
                tasks.push(tokio::spawn(async move {
                    effort.pace(1_000, lane).await;
                    order.lock().unwrap().push(word);
                }));
            }
            // They have asked in this order.
            tokio::task::yield_now().await;
        }
        let began = Instant::now();
        for task in tasks {
            task.await.unwrap();
        }
        // The first one waits for nobody.
        assert_eq!(order.lock().unwrap()[..9], *"ffwfwfwfw");
        assert_eq!(began.elapsed().as_secs(), 11);
    }

    #[tokio::test]
    async fn answers_that_nobody_takes_stop_the_making_of_more() {
        let effort = Effort::new(Compression::None, Arc::default());
        let first = effort.hold(HELD_MAX - PERMIT_BYTES).await.waits(5);
        let second = effort.hold(1).await;
        {
            let third = std::pin::pin!(effort.hold(1));
            assert!(futures_util::FutureExt::now_or_never(third).is_none());
        }
        assert_eq!(effort.link.waiting.load(Ordering::Relaxed), 5);
        drop(first);
        assert_eq!(effort.link.waiting.load(Ordering::Relaxed), 0);
        // More than there is room for waits for all of the room, and no longer.
        drop(second);
        let _all = effort.hold(u64::MAX).await;
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_answers_wait_tells_how_fast_the_link_is() {
        let effort = Effort::new(Compression::Auto, Arc::default());
        for _ in 0..20 {
            let first = effort.hold(TELLING).await.waits(TELLING);
            let second = effort.hold(TELLING).await.waits(TELLING);
            tokio::time::advance(Duration::from_millis(100)).await;
            drop(first);
            tokio::time::advance(Duration::from_millis(100)).await;
            drop(second);
        }
        let rate = effort.link.rate.load(Ordering::Relaxed);
        assert!(rate.abs_diff(10 * TELLING) < TELLING / 100, "{rate}");
    }
}
