//! Who holds the lock on a data directory, and whether that process can answer.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock, major, minor};

use super::DiskError;
use crate::facts::FileIdentity;

/// Who has a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    Nobody,
    /// A process; its number where this one may see it: it may be in another PID namespace.
    Process(Option<u32>),
}

/// Whether a run of pg_reseed has the directory, and which process that is.
///
/// # Errors
/// The directory cannot be opened.
pub fn holder(pgdata: &Path, identity: FileIdentity) -> Result<Holder, DiskError> {
    let table = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    if let Some(pid) = holder_of(&table, identity) {
        return Ok(Holder::Process(Some(pid)));
    }
    // The table leaves out other namespaces, and some file systems have other numbers there than stat(2) tells. Shared,
    // and for a moment.
    let directory =
        File::open(pgdata).map_err(|error| DiskError::new("open directory", pgdata, error))?;
    match flock(&directory, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Holder::Process(None)),
        _ => Ok(Holder::Nobody),
    }
}

/// The process that has an exclusive lock on the file, by `proc_locks(5)`.
fn holder_of(table: &str, identity: FileIdentity) -> Option<u32> {
    let FileIdentity { device, inode } = identity;
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_lock = fields.next() == Some("FLOCK")
            && fields.next() == Some("ADVISORY")
            && fields.next() == Some("WRITE");
        let pid = fields.next()?;
        (is_lock && fields.next() == Some(&*file))
            .then(|| pid.parse().ok().filter(|pid| *pid > 0))
            .flatten()
    })
}

/// Whether a process is suspended, by `proc_pid_stat(5)`.
#[must_use]
pub fn is_suspended(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program in parentheses may hold anything.
    text.rsplit_once(") ")
        .is_some_and(|(_, state)| state.starts_with(['T', 't']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_the_process() {
        let table = "1: POSIX  ADVISORY  WRITE 11 fd:01:131073 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 12 fd:01:131073 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 fd:01:131073 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 0 fd:01:131073 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 15 fd:01:13107 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 16 fd:01:131073 0 EOF\n";
        let file = |inode| FileIdentity {
            device: rustix::fs::makedev(0xfd, 1),
            inode,
        };
        assert_eq!(holder_of(table, file(131_073)), Some(16));
        assert_eq!(holder_of(table, file(13_107)), Some(15));
        assert_eq!(holder_of(table, file(1)), None);
    }

    #[test]
    fn a_lock_is_seen_and_nothing_stays_of_the_look() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let identity = super::super::facts::directory(path)
            .unwrap()
            .unwrap()
            .identity;
        assert_eq!(holder(path, identity).unwrap(), Holder::Nobody);
        let held = super::super::target::Held::take(path).unwrap().unwrap();
        // Its number, unless the table does not tell it here.
        match holder(path, identity).unwrap() {
            Holder::Process(pid) => assert!(pid.is_none_or(|pid| pid == std::process::id())),
            Holder::Nobody => panic!("not seen"),
        }
        drop(held);
        assert_eq!(holder(path, identity).unwrap(), Holder::Nobody);
        assert!(super::super::target::Held::take(path).unwrap().is_some());
    }
}
