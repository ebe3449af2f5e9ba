//! The bridge between waiting and working: async code asks, threads of an own pool read, hash and write
//! with ordinary blocking code.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

/// A pool of threads with a bound on the jobs that wait or run, and so on the buffers in use.
#[derive(Clone)]
pub struct Workers {
    pool: Arc<rayon::ThreadPool>,
    permits: Arc<Semaphore>,
    threads: usize,
}

/// A job did not end well. A bug, never the user's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker thread failed (this is a bug in pg_reseed)")]
pub struct WorkerFailed;

/// Jobs that may wait for each thread: enough to keep it busy, few enough to bound the buffers.
const QUEUED_PER_THREAD: usize = 2;

impl Workers {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// The system's error when threads cannot be made.
    pub fn start(threads: usize) -> Result<Self, std::io::Error> {
        let threads = threads.max(1);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("worker-{number}"))
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Self {
            pool: Arc::new(pool),
            permits: Arc::new(Semaphore::new(threads * (1 + QUEUED_PER_THREAD))),
            threads,
        })
    }

    /// Number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether a thread has nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.permits.available_permits() > self.threads * QUEUED_PER_THREAD
    }

    /// Runs `act` once on each thread, and waits for all.
    ///
    /// # Errors
    /// [`WorkerFailed`] when it panics.
    pub fn on_each<T: Send>(&self, act: impl Fn() -> T + Sync) -> Result<Vec<T>, WorkerFailed> {
        let all = || self.pool.broadcast(|_| act());
        std::panic::catch_unwind(AssertUnwindSafe(all)).map_err(|_| WorkerFailed)
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
        self.pool.spawn(move || {
            // A panic that leaves a rayon job aborts the process.
            let result = std::panic::catch_unwind(AssertUnwindSafe(job));
            drop(permit);
            // Nobody listens any more: the run was cancelled.
            let _ = sender.send(result);
        });
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

    #[tokio::test]
    async fn a_panicking_job_is_an_error_and_the_pool_goes_on() {
        let workers = Workers::start(1).unwrap();
        let failed = workers.run(|| -> u32 { panic!("expected by the test") });
        assert_eq!(failed.await, Err(WorkerFailed));
        assert_eq!(workers.run(|| 5).await, Ok(5));
    }
}
