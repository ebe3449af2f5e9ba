//! Whose turn it is to compute.
//!
//! A disk is fastest when much is asked of it at once, so far more threads read than there are processors to use.
//! Each has a turn while it computes, and lets another have it while it waits for a disk: then all processors hash,
//! whatever the disk takes, and no more of them than the user allows.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// So many turns as threads may compute at a time.
#[derive(Debug)]
pub struct Turns {
    free: Mutex<usize>,
    given: Condvar,
}

thread_local! {
    /// The turns of which this thread has one.
    static OWN: RefCell<Option<Arc<Turns>>> = const { RefCell::new(None) };
}

impl Turns {
    /// So many turns, at least one.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count.max(1)),
            given: Condvar::new(),
        }
    }

    /// Whether a turn waits for somebody to take it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        *self.lock() > 0
    }

    /// Waits for a turn and has it as long as `act` runs, but for what `act` does [`aside`].
    pub fn during<T>(self: &Arc<Self>, act: impl FnOnce() -> T) -> T {
        self.take();
        OWN.set(Some(Arc::clone(self)));
        // Given back also when `act` panics.
        let _turn = Given(|| {
            OWN.set(None);
            self.give();
        });
        act()
    }

    fn take(&self) {
        let free = self.lock();
        let mut free = self
            .given
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
    }

    fn give(&self) {
        *self.lock() += 1;
        self.given.notify_one();
    }

    /// Nobody panics with the lock in hand.
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs something that waits for a disk, and lets another thread compute meanwhile. A thread that has no turn just
/// runs it.
pub fn aside<T>(act: impl FnOnce() -> T) -> T {
    let Some(turns) = OWN.take() else {
        return act();
    };
    turns.give();
    let _back = Given(|| {
        turns.take();
        OWN.set(Some(Arc::clone(&turns)));
    });
    act()
}

/// Does something when it goes.
struct Given<F: FnMut()>(F);

impl<F: FnMut()> Drop for Given<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many turns are free now.
    fn free(turns: &Turns) -> usize {
        *turns.lock()
    }

    #[test]
    fn a_turn_is_free_while_its_owner_waits_and_his_again_afterwards() {
        let turns = Arc::new(Turns::new(1));
        turns.during(|| {
            assert!(!turns.is_free());
            aside(|| {
                assert!(turns.is_free());
                // Nothing to lend any more.
                aside(|| assert_eq!(free(&turns), 1));
            });
            assert!(!turns.is_free());
        });
        assert_eq!(free(&turns), 1);
        aside(|| assert_eq!(free(&turns), 1));
    }

    #[test]
    fn a_panic_takes_no_turn_with_it() {
        let turns = Arc::new(Turns::new(2));
        for is_aside in [true, false] {
            let panicking = || {
                turns.during(|| {
                    if is_aside {
                        aside(|| panic!("expected by the test"))
                    } else {
                        panic!("expected by the test")
                    }
                })
            };
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking));
            assert!(caught.is_err());
            assert_eq!(free(&turns), 2);
        }
    }

    #[test]
    fn no_more_compute_at_a_time_than_there_are_turns() {
        let turns = Arc::new(Turns::new(2));
        let (computing, most) = (Mutex::new(0), Mutex::new(0));
        let enter = || {
            let mut now = computing.lock().unwrap();
            *now += 1;
            let mut most = most.lock().unwrap();
            *most = (*most).max(*now);
        };
        let leave = || *computing.lock().unwrap() -= 1;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        turns.during(|| {
                            enter();
                            leave();
                            aside(std::thread::yield_now);
                            enter();
                            leave();
                        });
                    }
                });
            }
        });
        assert!((1..=2).contains(&*most.lock().unwrap()));
        assert_eq!(free(&turns), 2);
    }
}
