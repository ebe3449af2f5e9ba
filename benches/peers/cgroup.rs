//! Two control groups, one for each side, in which everything that a tool needs is started: servers,
//! daemons, agents and clients. They count the CPU time of processes that we never see, such as a server's
//! backends, and name the processes whose memory is looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use crate::Result;

/// On whose behalf a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Source, Self::Target];

    fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

/// The control groups, removed when they are dropped.
pub struct Groups {
    root: PathBuf,
    is_unified: bool,
    /// The group of both sides whose memory is limited, where it is another one.
    limited: Option<PathBuf>,
}

impl Groups {
    /// None where control groups cannot be made: without root, and in most containers.
    pub fn create() -> Option<Self> {
        let is_unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let mount = if is_unified {
            "/sys/fs/cgroup"
        } else {
            "/sys/fs/cgroup/cpuacct"
        };
        let root = Path::new(mount).join(format!("pg_reseed-bench.{}", process::id()));
        let groups = Self {
            root,
            is_unified,
            limited: None,
        };
        for side in Side::BOTH {
            fs::create_dir_all(groups.path(side)).ok()?;
        }
        groups.cpu_seconds(Side::Source).map(|_| groups)
    }

    /// Limits the memory of both sides together, with the page cache that they bring in.
    pub fn limit_memory(&mut self, bytes: u64) -> Result<()> {
        if self.is_unified {
            fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory")?;
            fs::write(self.root.join("memory.max"), bytes.to_string())?;
            return Ok(());
        }
        let name = self.root.file_name().unwrap_or_default();
        let limited = Path::new("/sys/fs/cgroup/memory").join(name);
        fs::create_dir_all(&limited)?;
        fs::write(limited.join("memory.limit_in_bytes"), bytes.to_string())?;
        self.limited = Some(limited);
        Ok(())
    }

    /// The files that a process writes its number into to become a member.
    pub fn doors(&self, side: Side) -> [PathBuf; 2] {
        let own = self.path(side);
        let limited = self.limited.as_ref().unwrap_or(&own);
        [own.join("cgroup.procs"), limited.join("cgroup.procs")]
    }

    /// CPU time that all members of a side have had so far, those that have ended included.
    pub fn cpu_seconds(&self, side: Side) -> Option<f64> {
        if self.is_unified {
            let text = fs::read_to_string(self.path(side).join("cpu.stat")).ok()?;
            let line = text.lines().find(|line| line.starts_with("usage_usec"))?;
            let microseconds: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(microseconds as f64 / 1e6)
        } else {
            let text = fs::read_to_string(self.path(side).join("cpuacct.usage")).ok()?;
            let nanoseconds: u64 = text.trim().parse().ok()?;
            Some(nanoseconds as f64 / 1e9)
        }
    }

    /// The members of a side.
    pub fn pids(&self, side: Side) -> Vec<u32> {
        let text = fs::read_to_string(self.path(side).join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn path(&self, side: Side) -> PathBuf {
        self.root.join(side.name())
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for side in Side::BOTH {
            let _ = fs::remove_dir(self.path(side));
        }
        let _ = fs::remove_dir(&self.root);
        if let Some(limited) = &self.limited {
            let _ = fs::remove_dir(limited);
        }
    }
}
