//! A walk by several threads.

use std::panic::AssertUnwindSafe;
use std::sync::{Condvar, Mutex, PoisonError};

/// What the threads of a walk share.
struct Walk<P, T, E> {
    pending: Vec<P>,
    visiting: usize,
    seen: Vec<T>,
    failed: Option<E>,
}

/// Visits places, and those that a visit adds, by several threads; returns what was seen, in no order. The
/// last place that was added comes first, so that few wait.
///
/// # Errors
/// The first that a visit returns; places that were not visited yet are given up.
pub fn spread<P: Send, T: Send, E: Send>(
    start: Vec<P>,
    threads: usize,
    visit: impl Fn(P) -> Result<(T, Vec<P>), E> + Sync,
) -> Result<Vec<T>, E> {
    let walk = Mutex::new(Walk {
        pending: start,
        visiting: 0,
        seen: Vec::new(),
        failed: None,
    });
    let changed = Condvar::new();
    // A thread that panics poisons nothing that others could see half-made.
    let lock = || walk.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        let mut now = lock();
        loop {
            if now.failed.is_some() {
                return;
            }
            if let Some(place) = now.pending.pop() {
                now.visiting += 1;
                drop(now);
                let visited = std::panic::catch_unwind(AssertUnwindSafe(|| visit(place)));
                now = lock();
                now.visiting -= 1;
                changed.notify_all();
                match visited {
                    Ok(Ok((seen, more))) => {
                        now.seen.push(seen);
                        now.pending.extend(more);
                    }
                    Ok(Err(error)) => now.failed = Some(error),
                    Err(panic) => {
                        // The others must not wait for what never comes.
                        now.pending.clear();
                        drop(now);
                        std::panic::resume_unwind(panic);
                    }
                }
            } else if now.visiting == 0 {
                return;
            } else {
                now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // With fewer threads it takes longer.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let walk = walk.into_inner().unwrap_or_else(PoisonError::into_inner);
    match walk.failed {
        None => Ok(walk.seen),
        Some(error) => Err(error),
    }
}
