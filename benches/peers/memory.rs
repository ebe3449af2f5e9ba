//! Resident memory of pg_reseed: watched while it runs.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::cgroup::Side;
use crate::process::Runner;

/// How often one looks. The kernel keeps the peak itself, so that only the last moments can be missed.
const STEP: Duration = Duration::from_millis(10);
/// What the kernel calls the processes that are watched.
const NAME: &str = "pg_reseed";

/// Looks at the peak memory of both sides until it is ended.
pub struct Watch {
    end: Sender<()>,
    thread: JoinHandle<[u64; 2]>,
}

impl Watch {
    pub fn start(runner: &Arc<Runner>) -> Self {
        let (end, ended) = mpsc::channel();
        let runner = Arc::clone(runner);
        let thread = thread::spawn(move || {
            let mut peaks = [HashMap::new(), HashMap::new()];
            while ended.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
                look(&runner, &mut peaks);
            }
            // Several processes of a side count together.
            peaks.map(|side| side.into_values().sum())
        });
        Self { end, thread }
    }

    /// Most bytes of the source's side and of the target's.
    pub fn end(self) -> [u64; 2] {
        drop(self.end);
        self.thread.join().unwrap_or_default()
    }
}

fn look(runner: &Runner, peaks: &mut [HashMap<u32, u64>; 2]) {
    let Some(groups) = &runner.groups else {
        return;
    };
    for (side, peaks) in Side::BOTH.into_iter().zip(peaks) {
        for pid in groups.pids(side) {
            if let Some(bytes) = peak_bytes(pid) {
                peaks.insert(pid, bytes);
            }
        }
    }
}

/// The peak of a process, if it is one of ours and lives.
fn peak_bytes(pid: u32) -> Option<u64> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if name.trim() != NAME {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}
