//! The bridge between waiting and working: async code asks, threads of an own pool read, hash and write
//! with ordinary blocking code.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Barrier, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use crate::turns::Turns;

/// A pool of threads with a bound on the jobs that wait or run, and so on the buffers in use. Most of the threads wait
/// for a disk; those that compute [take turns](Turns).
#[derive(Clone)]
pub struct Workers {
    pool: Arc<Pool>,
    permits: Arc<Semaphore>,
    turns: Arc<Turns>,
    threads: usize,
    places: usize,
}

type Job = Box<dyn FnOnce() + Send>;

/// Jobs for threads that sleep until there is one. A thread of rayon that has nothing to do goes on looking for a while: on
/// sixteen of them, which mostly wait for a disk, that took a twentieth of a run's processor time.
#[derive(Default)]
struct Queue {
    now: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    is_over: bool,
}

impl Queue {
    /// Nobody panics with the lock in hand.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) {
        self.lock().jobs.push_back(job);
        self.changed.notify_one();
    }

    /// Does jobs, which do not panic, until there will be no more.
    fn serve(&self) {
        let is_nothing = |now: &mut Waiting| now.jobs.is_empty() && !now.is_over;
        loop {
            let now = self.changed.wait_while(self.lock(), is_nothing);
            let job = now.unwrap_or_else(PoisonError::into_inner).jobs.pop_front();
            match job {
                Some(job) => job(),
                None => return,
            }
        }
    }
}

/// Threads that serve a queue until this goes.
struct Pool {
    queue: Arc<Queue>,
    _threads: rayon::ThreadPool,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.lock().is_over = true;
        self.queue.changed.notify_all();
    }
}

/// A job did not end well. A bug, never the user's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker thread failed (this is a bug in pg_reseed)")]
pub struct WorkerFailed;

/// Threads that may wait for a disk at a time. With 1 MiB each that is what a volume with 10 ms and 1.6 GB/s, or one
/// with 1 ms and 16 GB/s, has on its way. How many of them the disk gets to do, it says itself (`disk/depth.rs`).
const READING: usize = 16;

/// Jobs that may wait, for each thread that computes: enough to keep it busy, few enough to bound the buffers.
const QUEUED_PER_JOB: usize = 2;

/// Threads that compute at a time where nobody asked for a number, on a host with so many processors: all of a few, a
/// quarter of many, for others want them too. Each digests more in a second than most disks bring.
#[must_use]
pub fn jobs_of(processors: usize) -> usize {
    processors.clamp(1, 4).max((processors / 4).min(16))
}

/// As many as asked for, or [as fits](jobs_of) the processors that this process may use.
#[must_use]
pub fn jobs(asked: Option<u16>) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.map_or_else(|| jobs_of(processors()), usize::from)
}

impl Workers {
    /// Starts threads of which `jobs` may compute at a time.
    ///
    /// # Errors
    /// The system's error when threads cannot be made.
    pub fn start(jobs: usize) -> Result<Self, std::io::Error> {
        let jobs = jobs.max(1);
        let threads = jobs.max(READING);
        let places = threads + jobs * QUEUED_PER_JOB;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("worker-{number}"))
            .build()
            .map_err(std::io::Error::other)?;
        let queue = Arc::new(Queue::default());
        let served = Arc::clone(&queue);
        pool.spawn_broadcast(move |_| served.serve());
        Ok(Self {
            pool: Arc::new(Pool {
                queue,
                _threads: pool,
            }),
            permits: Arc::new(Semaphore::new(places)),
            turns: Arc::new(Turns::new(jobs)),
            threads,
            places,
        })
    }

    /// Number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Jobs that run or wait at most.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places
    }

    /// Whether one more could compute.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.turns.is_free()
    }

    /// Runs `act` once on each thread, and waits for all.
    ///
    /// # Errors
    /// [`WorkerFailed`] when it panics.
    pub fn on_each<T: Send + 'static>(
        &self,
        act: impl Fn() -> T + Send + Sync + 'static,
    ) -> Result<Vec<T>, WorkerFailed> {
        let (act, all) = (Arc::new(act), Arc::new(Barrier::new(self.threads)));
        let (sender, results) = mpsc::channel();
        for _ in 0..self.threads {
            let (act, all, sender) = (Arc::clone(&act), Arc::clone(&all), sender.clone());
            self.pool.queue.push(Box::new(move || {
                // Who waits here takes no second one.
                all.wait();
                let result = std::panic::catch_unwind(AssertUnwindSafe(|| act()));
                let _ = sender.send(result);
            }));
        }
        drop(sender);
        let results = results.iter().collect::<Result<_, _>>();
        results.map_err(|_| WorkerFailed)
    }

    /// Runs a job on a thread of the pool and waits for its result. The job runs to its end even when
    /// the waiting side is dropped.
    ///
    /// # Errors
    /// [`WorkerFailed`] when the job panics.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkerFailed> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| WorkerFailed)?;
        let (sender, receiver) = oneshot::channel();
        let turns = Arc::clone(&self.turns);
        self.pool.queue.push(Box::new(move || {
            // A panic that leaves a rayon job aborts the process.
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| turns.during(job)));
            drop(permit);
            // Nobody listens any more: the run was cancelled.
            let _ = sender.send(result);
        }));
        receiver
            .await
            .map_err(|_| WorkerFailed)?
            .map_err(|_| WorkerFailed)
    }
}

/// How far the agent stands behind whoever else wants the processors of the source's host, on the scale of
/// nice(1). Linux takes the priority of reads and writes from it as well (`ioprio_set(2)`).
const NICE: i32 = 10;

/// From here on this thread, and all that it starts, let others go first. A refusal is no reason to stop.
pub fn let_others_first() {
    if let Ok(priority) = rustix::process::getpriority_process(None) {
        let _ = rustix::process::setpriority_process(None, priority.max(NICE));
    }
}

/// Runs a long blocking job on a thread of its own, beside the pool. It runs to its end even when the waiting
/// side is dropped.
///
/// # Errors
/// [`WorkerFailed`] when the job panics.
pub async fn beside<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkerFailed> {
    tokio::task::spawn_blocking(job)
        .await
        .map_err(|_| WorkerFailed)
}

/// Runs blocking work on this thread, while the runtime's other work goes on elsewhere: for the few long
/// steps that nothing else of the run can go on without.
#[expect(clippy::disallowed_methods, reason = "this is the place for it")]
pub fn in_place<T>(job: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(job)
}

/// Waits, on a thread that may.
#[expect(
    clippy::disallowed_methods,
    reason = "a worker thread waits for the server to finish a write"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turns::aside;

    #[test]
    fn a_few_processors_are_all_used_and_of_many_a_quarter() {
        for (processors, jobs) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (4, 4),
            (8, 4),
            (24, 6),
            (64, 16),
            (256, 16),
        ] {
            assert_eq!(jobs_of(processors), jobs, "{processors}");
        }
        assert_eq!(super::jobs(Some(7)), 7);
    }

    #[tokio::test]
    async fn a_panicking_job_is_an_error_and_the_pool_goes_on() {
        let workers = Workers::start(1).unwrap();
        let failed = workers.run(|| -> u32 { panic!("expected by the test") });
        assert_eq!(failed.await, Err(WorkerFailed));
        assert_eq!(workers.run(|| 5).await, Ok(5));
        let failed = workers.on_each(|| -> u32 { panic!("expected by the test") });
        assert_eq!(failed, Err(WorkerFailed));
    }

    #[tokio::test]
    async fn many_wait_for_a_disk_at_a_time_where_one_computes() {
        let workers = Workers::start(1).unwrap();
        // Nobody comes back before all are there.
        let all = Arc::new(Barrier::new(READING));
        let jobs = (0..READING).map(|_| {
            let (workers, all) = (workers.clone(), Arc::clone(&all));
            tokio::spawn(async move { workers.run(move || aside(|| all.wait())).await })
        });
        for job in jobs.collect::<Vec<_>>() {
            assert!(job.await.unwrap().is_ok());
        }
    }

    #[test]
    fn what_is_done_on_each_thread_is_done_once_on_each_and_the_threads_end_with_the_pool() {
        let workers = Workers::start(3).unwrap();
        let is_alive = Arc::new(());
        let alive = Arc::downgrade(&is_alive);
        let mut names = workers
            .on_each(move || {
                let _ = &is_alive;
                std::thread::current().name().map(str::to_owned)
            })
            .unwrap();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), workers.threads());
        let queue = Arc::downgrade(&workers.pool.queue);
        drop(workers);
        while queue.strong_count() > 0 {
            std::thread::yield_now();
        }
        assert_eq!(alive.strong_count(), 0);
    }
}
