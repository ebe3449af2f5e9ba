//! Who has the lock on a directory: the kernel knows, so nothing need be written to tell it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{major, minor};

use super::facts;
use crate::facts::Holder;

/// The kernel's ticks in a second, as it counts them for processes (`USER_HZ`, the same everywhere).
const TICKS: u64 = 100;

/// The process that holds a lock of `flock(2)` on the directory; `None` when it cannot be seen from here, as one in
/// another container, or on another host of a shared file system.
#[must_use]
pub fn holder(directory: &Path) -> Option<Holder> {
    let found = fs::metadata(directory).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let mut pids = holders(&locks, found.ino());
    let pid = pids.find(|(device, pid)| {
        // Subvolumes and overlays have a device of their own for each file that is looked at.
        *device == (major(found.dev()), minor(found.dev())) || has_open(*pid, &found)
    });
    pid.map(|(_, pid)| of(pid))
}

/// The devices and processes of the locks on an inode (`proc_locks(5)`).
fn holders(locks: &str, inode: u64) -> impl Iterator<Item = ((u32, u32), u32)> {
    locks.lines().filter_map(move |line| {
        let mut fields = line.split_whitespace().skip(1);
        let (kind, mode, access) = (fields.next()?, fields.next()?, fields.next()?);
        if (kind, mode, access) != ("FLOCK", "ADVISORY", "WRITE") {
            return None;
        }
        let pid = fields.next()?.parse().ok().filter(|pid| *pid > 0)?;
        let mut place = fields.next()?.split(':');
        let mut device = || u32::from_str_radix(place.next()?, 16).ok();
        let device = (device()?, device()?);
        (place.next()?.parse() == Ok(inode)).then_some((device, pid))
    })
}

fn has_open(pid: u32, found: &fs::Metadata) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    open.flatten().any(|entry| {
        fs::metadata(entry.path())
            .is_ok_and(|there| (there.dev(), there.ino()) == (found.dev(), found.ino()))
    })
}

fn of(pid: u32) -> Holder {
    let of_process = |name: &str| format!("/proc/{pid}/{name}");
    let words = |name: &str| -> Vec<String> {
        let bytes = fs::read(of_process(name)).unwrap_or_default();
        let words = bytes.split(|byte| *byte == 0);
        words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect()
    };
    let line = words("cmdline");
    let environment = words("environ");
    let stat = fs::read_to_string(of_process("stat")).unwrap_or_default();
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    Holder {
        pid,
        user: fs::metadata(of_process(""))
            .map(|found| facts::name_of(found.uid()))
            .unwrap_or_default(),
        host: facts::host().name,
        command: line.get(1).cloned().unwrap_or_default(),
        job: Holder::job_of(&line, &environment),
        age_seconds: age(&stat, &uptime),
    }
}

/// How many seconds a process has lived, by its start in ticks since the boot (`proc_pid_stat(5)`, field 22).
fn age(stat: &str, uptime: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks: u64 = rest.split(' ').nth(19)?.parse().ok()?;
    let up: u64 = uptime.split('.').next()?.parse().ok()?;
    Some(up.saturating_sub(ticks / TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::target::Held;

    #[test]
    fn a_lock_has_its_process() {
        let locks = "1: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 12 08:01:131 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 5 08:01:131 0 EOF\n\
                     3: FLOCK  ADVISORY  READ 6 08:01:131 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 0 08:01:131 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 8 fd:0a:131 0 EOF\n\
                     6: FLOCK  ADVISORY  WRITE 9 08:01:1310 0 EOF\nnonsense\n";
        let found: Vec<_> = holders(locks, 131).collect();
        assert_eq!(found, [((8, 1), 4711), ((0xfd, 10), 8)]);
    }

    #[test]
    fn the_age_of_a_process_is_told_by_its_start() {
        let fields = "S 1 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 12345 1 1";
        let stat = format!("7 (a) b) {fields}\n");
        assert_eq!(age(&stat, "200.51 300.00\n"), Some(77));
        assert_eq!(age("", "200.51 300.00\n"), None);
        assert_eq!(age(&stat, ""), None);
    }

    #[test]
    fn this_process_is_found_by_its_lock() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(holder(directory.path()), None);
        let held = Held::take(directory.path()).unwrap();
        assert!(held.is_some());
        let found = holder(directory.path()).unwrap();
        assert_eq!(found.pid, std::process::id());
        assert_eq!(found.user, facts::user());
        assert!(found.age_seconds.is_some());
        drop(held);
        assert_eq!(holder(directory.path()), None);
    }
}
