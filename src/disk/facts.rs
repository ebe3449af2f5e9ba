//! What the file system and the kernel say: identities, owners, links, free space.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::DiskError;
use super::read::{read_if_there, read_small};
use super::walk::{self, Kind};
use crate::facts::{FileIdentity, HostIdentity, SlotKind, Tablespace, TargetSlot, UnarchivedWal};
use crate::pg::lsn::{SegmentName, WalFile};
use crate::pg::relfile;
use crate::pg::slot::{STATE_MAX_BYTES, SlotState};
use crate::pg::timeline::{History, TimelineId, history_file_name};

/// Longest history file, pid file or label that is read.
const SMALL_FILE_MAX: u64 = 1024 * 1024;

/// Name and kernel of this host.
#[must_use]
pub fn host() -> HostIdentity {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    HostIdentity {
        name: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        boot_id: boot_id.trim().to_owned(),
    }
}

/// Name of the effective user, as `/etc/passwd` has it; the number where it does not.
#[must_use]
pub fn user() -> String {
    name_of(rustix::process::geteuid().as_raw())
}

/// Name of a user, as `/etc/passwd` has it; the number where it does not.
#[must_use]
pub fn name_of(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
        })
        .unwrap_or_else(|| uid.to_string())
}

/// Whether the effective user is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Identity, owner and permission bits of a directory.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryFacts {
    pub identity: FileIdentity,
    pub is_owner: bool,
    /// Number of the user who owns it.
    pub owner: u32,
    /// Permission bits, such as 0o700.
    pub mode: u32,
}

/// Looks at a directory, following links; `None` when it does not exist.
///
/// # Errors
/// The system's error; also when it is no directory.
pub fn directory(path: &Path) -> Result<Option<DirectoryFacts>, DiskError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(Some(DirectoryFacts {
            identity: FileIdentity {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
            is_owner: metadata.uid() == rustix::process::geteuid().as_raw(),
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
        })),
        Ok(_) => Err(DiskError::new(
            "use",
            path,
            std::io::Error::other("not a directory"),
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DiskError::new("stat", path, error)),
    }
}

/// The nearest directory above a path that exists, and what of the path is below it.
///
/// # Errors
/// As [`directory`].
pub fn nearest(path: &Path) -> Result<Option<(DirectoryFacts, PathBuf)>, DiskError> {
    let path = resolved_beginning(path);
    for above in path.ancestors().skip(1) {
        if let Some(facts) = directory(above)? {
            let rest = path.strip_prefix(above).unwrap_or(&path);
            return Ok(Some((facts, rest.components().collect())));
        }
    }
    Ok(None)
}

/// When a file was written last; `None` when it is not there.
#[must_use]
pub fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|found| found.modified())
        .ok()
}

/// Whether a path, links followed, is the same directory as one of `places`. What is missing is none.
///
/// # Errors
/// As [`directory`].
pub fn is_one_of<P: AsRef<Path>>(
    path: &Path,
    places: impl IntoIterator<Item = P>,
) -> Result<bool, DiskError> {
    let Some(here) = directory(path)? else {
        return Ok(false);
    };
    for place in places {
        if directory(place.as_ref())?.is_some_and(|there| there.identity == here.identity) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a link leads, as it is stored; `None` for anything else.
#[must_use]
pub fn link(path: &Path) -> Option<PathBuf> {
    std::fs::read_link(path).ok()
}

/// The first link on the way to a path that leads nowhere, and where it leads.
#[must_use]
pub fn dangling(path: &Path) -> Option<(PathBuf, PathBuf)> {
    for ancestor in path.ancestors() {
        if let Some(leads_to) = link(ancestor) {
            return (!exists(ancestor)).then(|| (ancestor.to_owned(), leads_to));
        }
        if exists(ancestor) {
            return None;
        }
    }
    None
}

/// The path without links as far as it exists, and absolute in any case.
#[must_use]
pub fn resolved(path: &Path) -> PathBuf {
    std::fs::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

/// The path with the part of it that exists resolved: where it would be if it were made.
#[must_use]
pub fn resolved_beginning(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(known), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return known.join(rest);
        }
    }
    path.to_owned()
}

/// Whether anything is at the path, links followed.
#[must_use]
pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// Whether something that is no directory stands at the path, links followed.
#[must_use]
pub fn is_something_else(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_dir())
}

/// Bytes of a file; 0 when there is none.
#[must_use]
pub fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

/// The tablespaces of a data directory, by its links in pg_tblspc.
///
/// # Errors
/// The system's error.
pub fn tablespaces(pgdata: &Path) -> Result<Vec<Tablespace>, DiskError> {
    let directory_path = pgdata.join("pg_tblspc");
    let listed = match walk::list(&directory_path) {
        Ok(listed) => listed,
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut spaces = Vec::new();
    for found in listed {
        let Some(oid) = relfile::number_without_leading_zero(&found.name) else {
            continue;
        };
        let path = directory_path.join(std::ffi::OsStr::from_bytes(&found.name));
        let location = match found.kind {
            Kind::Symlink => {
                let target = std::fs::read_link(&path)
                    .map_err(|error| DiskError::new("read link", &path, error))?;
                Some(target.as_os_str().as_bytes().to_vec())
            }
            Kind::Directory => None,
            Kind::File | Kind::Special => continue,
        };
        // A location that is no directory or cannot be seen has no identity to compare.
        let identity = directory(&path).ok().flatten().map(|facts| facts.identity);
        spaces.push(Tablespace {
            oid,
            location,
            identity,
        });
    }
    Ok(spaces)
}

/// The history of `tip` from a pg_wal directory. A missing file means no parents, as the server reads it
/// (PostgreSQL `timeline.c:readTimeLineHistory`).
///
/// # Errors
/// The system's error, or a history that does not parse.
pub fn history(wal: &Path, tip: TimelineId) -> Result<History, DiskError> {
    let path = wal.join(history_file_name(tip));
    match read_if_there(&path, SMALL_FILE_MAX)? {
        None => Ok(History::single(tip)),
        Some(text) => History::parse(tip, &text)
            .map_err(|error| DiskError::new("parse", &path, std::io::Error::other(error))),
    }
}

/// Whether a pg_wal directory has the history file that a standby on `tip` asks for. The first timeline has none.
///
/// A walreceiver fetches the files from its start's timeline to the server's own, and ends if the server lacks one
/// (PostgreSQL `walreceiver.c:WalRcvFetchTimeLineHistoryFiles`).
#[must_use]
pub fn has_history(wal: &Path, tip: TimelineId) -> bool {
    tip.0 == 1 || wal.join(history_file_name(tip)).is_file()
}

/// The WAL segments in a pg_wal directory, those included that are not finished and named `.partial`.
///
/// # Errors
/// The system's error.
pub fn segments(wal: &Path, wal_segment_bytes: u32) -> Result<Vec<SegmentName>, DiskError> {
    let listed = walk::list(wal)?;
    let parse = |found: &walk::Listed| {
        let name = std::str::from_utf8(&found.name).ok()?;
        let whole = name.strip_suffix(".partial").unwrap_or(name);
        SegmentName::parse(whole, wal_segment_bytes)
    };
    Ok(listed.iter().filter_map(parse).collect())
}

/// The files of a pg_wal directory that wait to be archived. A status without its file waits for nothing.
///
/// # Errors
/// The system's error.
pub fn unarchived(wal: &Path) -> Result<UnarchivedWal, DiskError> {
    let listed = match walk::list(&wal.join("archive_status")) {
        Ok(listed) => listed,
        Err(error) if error.is_missing() => return Ok(UnarchivedWal::default()),
        Err(error) => return Err(error),
    };
    let mut found = UnarchivedWal::default();
    for status in listed {
        let Some(name) = status.name.strip_suffix(b".ready") else {
            continue;
        };
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        if WalFile::classify(name.as_bytes()) != WalFile::Other
            && let Ok(file) = std::fs::symlink_metadata(wal.join(name))
        {
            found.files.push(name.to_owned());
            found.bytes = found.bytes.saturating_add(file.len());
        }
    }
    found.files.sort();
    Ok(found)
}

/// The replication slots of a data directory. Those that do not outlive their session are none, and neither is what
/// a server was making or removing when it ended (`slot.c:StartupReplicationSlots`).
///
/// # Errors
/// The system's error.
pub fn slots(pgdata: &Path) -> Result<Vec<TargetSlot>, DiskError> {
    let directory = pgdata.join("pg_replslot");
    let listed = match walk::list(&directory) {
        Ok(listed) => listed,
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut slots = Vec::new();
    for found in listed {
        if found.kind != Kind::Directory || found.name.ends_with(b".tmp") {
            continue;
        }
        let state = directory.join(found.file_name()).join("state");
        // One that cannot be read is a slot all the same.
        let bytes = read_if_there(&state, STATE_MAX_BYTES).ok().flatten();
        let name = String::from_utf8_lossy(&found.name).into_owned();
        let slot = match bytes.as_deref().and_then(SlotState::decode) {
            Some(state) if !state.is_persistent => continue,
            Some(state) => TargetSlot {
                name,
                kind: match (state.database, state.plugin) {
                    (None, _) => SlotKind::Physical,
                    (Some(database_oid), plugin) => SlotKind::Logical {
                        database_oid,
                        plugin: plugin.unwrap_or_default(),
                    },
                },
                restart_lsn: state.restart_lsn,
                is_synced: state.is_synced,
            },
            None => TargetSlot {
                name,
                kind: SlotKind::Unknown,
                restart_lsn: None,
                is_synced: false,
            },
        };
        slots.push(slot);
    }
    slots.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(slots)
}

/// The content of postmaster.pid; `None` when there is none.
///
/// # Errors
/// The system's error.
pub fn pid_file(pgdata: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    read_if_there(&pgdata.join("postmaster.pid"), SMALL_FILE_MAX)
}

/// The major version in PG_VERSION; `None` when there is no such file.
///
/// # Errors
/// The system's error, or content that is no version.
pub fn major_version(pgdata: &Path) -> Result<Option<u32>, DiskError> {
    let path = pgdata.join("PG_VERSION");
    let Some(text) = read_if_there(&path, 64)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&text);
    match text.trim().parse() {
        Ok(major) => Ok(Some(major)),
        Err(_) => Err(DiskError::new(
            "parse",
            &path,
            std::io::Error::other(format!("\"{}\" is no major version", text.trim())),
        )),
    }
}

/// The raw control file.
///
/// # Errors
/// The system's error; a missing file too.
pub fn control_file(path: &Path) -> Result<Vec<u8>, DiskError> {
    read_small(path, SMALL_FILE_MAX)
}

/// Free bytes for this user on the file system that holds `path`, or the nearest directory above it that
/// exists, with the file system's identity.
///
/// # Errors
/// The system's error.
pub fn free_space(path: &Path) -> Result<(u64, u64), DiskError> {
    let mut at: PathBuf = path.to_owned();
    loop {
        match rustix::fs::statvfs(&at) {
            Ok(found) => {
                let device = std::fs::metadata(&at)
                    .map_err(|error| DiskError::new("stat", &at, error))?
                    .dev();
                return Ok((device, found.f_bavail.saturating_mul(found.f_frsize)));
            }
            Err(rustix::io::Errno::NOENT) if at.pop() => {
                if at.as_os_str().is_empty() {
                    at.push(".");
                }
            }
            Err(error) => return Err(DiskError::new("look at the file system of", &at, error)),
        }
    }
}

/// Whether upper and lower case are one in a data directory, as on ext4 with `casefold`, or on file systems of other
/// systems.
#[must_use]
pub fn folds_case(pgdata: &Path) -> bool {
    let look = |name: &str| {
        let found = std::fs::symlink_metadata(pgdata.join(name)).ok()?;
        Some((found.dev(), found.ino()))
    };
    look("PG_VERSION").is_some_and(|found| look("pg_version") == Some(found))
}
