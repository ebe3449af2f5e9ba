//! A server that was started and works elsewhere than it should: found by what it is, and stopped again.
//!
//! Whose server it is: it was not there before; it is our descendant (orphans of what we ran come to us), or its
//! command line names our data directory or configuration file, which is how one looks that a service manager has
//! started. Another's server is never touched, whatever starts beside us.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{LOOK_EVERY, PidFile, is_alive, pid_of, processes, works_in};

/// A server that works in another directory than it was started for.
#[derive(Debug)]
pub(super) struct Stray {
    pub pid: u32,
    pub directory: PathBuf,
}

/// The server processes that were there before a start: pid and start time in clock ticks.
#[derive(Debug)]
pub(super) struct Before(HashSet<(u32, u64)>);

impl Before {
    /// Looks who is there. From here on, orphans of what we start become our children.
    pub(super) fn look() -> Self {
        // Where the kernel refuses, command lines alone tell whose a server is.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        Self(servers().map(|pid| (pid, started(pid))).collect())
    }

    /// A server of ours that has taken another directory than `pgdata`.
    pub(super) fn stray(&self, pgdata: &Path, config_file: Option<&Path>) -> Option<Stray> {
        servers().find_map(|pid| {
            if self.0.contains(&(pid, started(pid))) || works_in(pid, pgdata) {
                return None;
            }
            // Until it has changed its directory and written its pid file there, it may still become ours.
            let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
            let pid_file = std::fs::read(directory.join("postmaster.pid")).ok()?;
            let is_settled = PidFile::parse(&pid_file)?.pid == pid;
            let is_ours = || descends_from_us(pid) || names(pid, pgdata, config_file);
            (is_settled && is_ours()).then_some(Stray { pid, directory })
        })
    }
}

/// Stops a stray, at last by force; whether it is gone.
pub(super) async fn stop(stray: &Stray, wait: Duration) -> bool {
    for signal in [Signal::INT, Signal::QUIT] {
        if let Some(pid) = pid_of(stray.pid) {
            // It may be gone already.
            let _ = rustix::process::kill_process(pid, signal);
        }
        let begin = Instant::now();
        while begin.elapsed() <= wait {
            if !is_alive(stray.pid) {
                return true;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    false
}

/// Processes that a server's program runs in.
fn servers() -> impl Iterator<Item = u32> {
    processes().map(|(pid, _)| pid)
}

/// The fields of `/proc/PID/stat` behind the name: the first is number 3 of proc(5).
fn stat(pid: u32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.split_whitespace().map(str::to_owned).collect()
}

fn started(pid: u32) -> u64 {
    stat(pid)
        .get(19)
        .and_then(|ticks| ticks.parse().ok())
        .unwrap_or(0)
}

fn descends_from_us(mut pid: u32) -> bool {
    let us = std::process::id();
    // Chains of parents are short, and end at 1.
    for _ in 0..64 {
        match stat(pid).get(1).and_then(|parent| parent.parse().ok()) {
            Some(parent) if parent == us => return true,
            Some(parent) if parent > 1 => pid = parent,
            _ => return false,
        }
    }
    false
}

/// Whether the command line says this data directory or this configuration file.
fn names(pid: u32, pgdata: &Path, config_file: Option<&Path>) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is = |word: &[u8], path: &Path| {
        let said = Path::new(std::ffi::OsStr::from_bytes(word));
        said.is_absolute()
            && match (said.canonicalize(), path.canonicalize()) {
                (Ok(said), Ok(path)) => said == path,
                _ => false,
            }
    };
    line.split(|byte| *byte == 0).any(|word| {
        let value = word
            .iter()
            .position(|byte| *byte == b'=')
            .map_or(word, |at| &word[at + 1..]);
        let value = value.strip_prefix(b"-D").unwrap_or(value);
        is(value, pgdata) || config_file.is_some_and(|file| is(value, file))
    })
}
