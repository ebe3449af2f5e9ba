//! Listing directories. Not a snapshot: a file that comes or goes meanwhile may be listed or not, which
//! is safe inside the bracket because WAL replays both.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;

use rustix::fs::{FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::DiskError;
use super::access::{self, Look};
use super::durable;
use super::root::Root;
pub use super::spread::spread;
use crate::facts::FileIdentity;
use crate::path::RelPath;
use crate::pg::layout;
use crate::plan::access::Bar;

/// What a name in a directory is, without following links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    /// Socket, pipe, device.
    Special,
}

/// One name in a directory.
#[derive(Debug, Clone)]
pub struct Listed {
    pub name: Vec<u8>,
    pub kind: Kind,
    /// Bytes of a file, 0 otherwise.
    pub size: u64,
}

impl Kind {
    /// What the bits of `st_mode` say.
    #[must_use]
    pub fn of_mode(mode: u32) -> Self {
        kind_of(FileType::from_raw_mode(mode)).unwrap_or(Kind::Special)
    }

    /// As the layout sees it: special files count as files.
    #[must_use]
    pub fn in_layout(self) -> layout::Kind {
        match self {
            Kind::File | Kind::Special => layout::Kind::File,
            Kind::Directory => layout::Kind::Directory,
            Kind::Symlink => layout::Kind::Symlink,
        }
    }
}

impl Listed {
    /// The name, to be joined to its directory.
    #[must_use]
    pub fn file_name(&self) -> &OsStr {
        OsStr::from_bytes(&self.name)
    }
}

/// A directory on a walk: beneath which root it lies, and its path in the data directory. A link that is put in its
/// place leads nowhere.
#[derive(Debug)]
pub struct Place<'a> {
    root: &'a Root,
    beneath: PathBuf,
    at: Option<RelPath>,
}

impl<'a> Place<'a> {
    /// The root's own directory; `at` is `None` for the top of the data directory.
    #[must_use]
    pub fn new(root: &'a Root, at: Option<RelPath>) -> Self {
        Self {
            root,
            beneath: PathBuf::new(),
            at,
        }
    }

    /// A directory in this one.
    #[must_use]
    pub fn below(&self, at: RelPath) -> Self {
        Self {
            root: self.root,
            beneath: self.beneath.join(OsStr::from_bytes(at.name())),
            at: Some(at),
        }
    }

    /// Its path in the data directory.
    #[must_use]
    pub fn at(&self) -> Option<&RelPath> {
        self.at.as_ref()
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.root.path().join(&self.beneath)
    }

    /// Reads the names in it.
    ///
    /// # Errors
    /// As [`Directory::read`]; also when a link leads there.
    pub fn read(&self) -> Result<Directory, DiskError> {
        let handle = self.root.open_directory(&self.beneath)?;
        Directory::read_opened(handle, self.path())
    }
}

/// What a file system keeps in its own top directory; only root may look into it.
pub(super) const LOST_AND_FOUND: &[u8] = b"lost+found";

/// Room for what the system tells of a directory at once: a million names come in some hundred calls.
const LIST_BYTES: usize = 64 * 1024;

/// Fewest files whose sizes are worth more than one thread.
const SIZES_PER_THREAD: usize = 8192;

/// The names in one directory, in order. What they are is what the directory itself says: the files were
/// not looked at yet.
pub struct Directory {
    handle: OwnedFd,
    itself: Look,
    path: PathBuf,
    names: Vec<u8>,
    found: Vec<Found>,
}

/// A name in a directory: a million of them must not cost an allocation each.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// Where the name begins in the directory's names.
    start: u32,
    bytes: u16,
    kind: Kind,
}

impl Directory {
    /// Reads the names. What vanishes meanwhile may be among them; `lost+found` is not.
    ///
    /// # Errors
    /// The system's error; a missing directory too.
    pub fn read(path: &Path) -> Result<Self, DiskError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| DiskError::new("list", path, error))?;
        Self::read_opened(handle, path.to_owned())
    }

    fn read_opened(handle: OwnedFd, path: PathBuf) -> Result<Self, DiskError> {
        let itself =
            Look::at(&handle, b"").map_err(|error| DiskError::new("look at", &path, error))?;
        let mut directory = Self {
            handle,
            itself,
            path,
            names: Vec::new(),
            found: Vec::new(),
        };
        let failed = |error: Errno| DiskError::new("list", &directory.path, error);
        let mut buffer = Vec::with_capacity(LIST_BYTES);
        let mut listed = RawDir::new(&directory.handle, buffer.spare_capacity_mut());
        while let Some(entry) = listed.next() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let kind = match kind_of(entry.file_type()) {
                Some(kind) => kind,
                // The file system does not say it here.
                None => match look(&directory.handle, &directory.path, name)? {
                    Some(looked) => looked.kind,
                    None => continue,
                },
            };
            if kind == Kind::Directory && name == LOST_AND_FOUND {
                continue;
            }
            let too_long = |_| failed(Errno::TOOBIG);
            directory.found.push(Found {
                start: u32::try_from(directory.names.len()).map_err(too_long)?,
                bytes: u16::try_from(name.len()).map_err(too_long)?,
                kind,
            });
            directory.names.extend_from_slice(name);
        }
        let names = &directory.names;
        directory
            .found
            .sort_unstable_by(|a, b| a.name(names).cmp(b.name(names)));
        // Made anew while the directory was read, a name may be told twice.
        directory
            .found
            .dedup_by(|a, b| a.name(names) == b.name(names));
        Ok(directory)
    }

    /// Which directory it is.
    ///
    /// # Errors
    /// The system's error.
    pub fn identity(&self) -> Result<FileIdentity, DiskError> {
        let found = rustix::fs::fstat(&self.handle)
            .map_err(|error| DiskError::new("stat", &self.path, error))?;
        Ok(FileIdentity {
            device: found.st_dev,
            inode: found.st_ino,
        })
    }

    /// The names with what they are.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Kind)> {
        self.found
            .iter()
            .map(|found| (found.name(&self.names), found.kind))
    }

    /// Number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Bytes of all names.
    #[must_use]
    pub fn name_bytes(&self) -> usize {
        self.names.len()
    }

    /// Leaves out the names that are not wanted.
    pub fn retain(&mut self, mut is_wanted: impl FnMut(&[u8], Kind) -> bool) {
        let names = &self.names;
        self.found
            .retain(|found| is_wanted(found.name(names), found.kind));
    }

    /// Asks for the sizes of the files, by several threads if there are many, and tells each name with what
    /// it is and its size, 0 for what is no file. What vanished since is left out.
    ///
    /// # Errors
    /// The system's error, or that of `tell`.
    pub fn sizes<E: From<DiskError>>(
        &self,
        threads: usize,
        mut tell: impl FnMut(&[u8], Kind, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        self.looks(threads, |name, kind, look| {
            tell(name, kind, look.map_or(0, |look| look.size))
        })
    }

    /// As [`Directory::sizes`], with all that the system tells of each file.
    ///
    /// # Errors
    /// As [`Directory::sizes`].
    pub fn looks<E: From<DiskError>>(
        &self,
        threads: usize,
        mut tell: impl FnMut(&[u8], Kind, Option<Look>) -> Result<(), E>,
    ) -> Result<(), E> {
        // Some at a time, so that few have to be remembered.
        for batch in self.found.chunks(threads.max(1) * SIZES_PER_THREAD) {
            let mut parts = batch.chunks(SIZES_PER_THREAD);
            let first = parts.next().unwrap_or_default();
            let looks = std::thread::scope(|scope| {
                let begin = |part| {
                    let job = move || self.looks_of(part);
                    (part, std::thread::Builder::new().spawn_scoped(scope, job))
                };
                let others: Vec<_> = parts.map(begin).collect();
                let mut looks = self.looks_of(first)?;
                for (part, other) in others {
                    looks.extend(match other.map(ScopedJoinHandle::join) {
                        Ok(Ok(found)) => found?,
                        Ok(Err(panic)) => std::panic::resume_unwind(panic),
                        // No thread to be had.
                        Err(_) => self.looks_of(part)?,
                    });
                }
                Ok::<_, DiskError>(looks)
            })?;
            for (found, look) in batch.iter().zip(looks) {
                if found.kind != Kind::File {
                    tell(found.name(&self.names), found.kind, None)?;
                } else if look.is_some() {
                    tell(found.name(&self.names), found.kind, look)?;
                }
            }
        }
        Ok(())
    }

    /// What the system tells of each file; `None` for what is none, and for what vanished.
    fn looks_of(&self, part: &[Found]) -> Result<Vec<Option<Look>>, DiskError> {
        let looks = part.iter().map(|found| match found.kind {
            Kind::File => look(&self.handle, &self.path, found.name(&self.names)),
            _ => Ok(None),
        });
        looks.collect()
    }

    /// Whether this user may open what is in it.
    #[must_use]
    pub fn is_searchable(&self) -> bool {
        access::is_searchable(&self.handle)
    }

    /// Whether this user may read a file of it.
    #[must_use]
    pub fn is_readable(&self, name: &[u8], look: &Look) -> bool {
        look.is_readable(&self.handle, name)
    }

    /// What keeps this user from changing a file of it.
    #[must_use]
    pub fn bar_of(&self, name: &[u8], look: &Look) -> Option<Bar> {
        look.bar(&self.handle, name, &self.itself)
    }

    /// What keeps this user from making and removing something in it.
    ///
    /// # Errors
    /// The system's error.
    pub fn bar_within(&self) -> Result<Option<Bar>, DiskError> {
        access::bar_within(&self.handle)
            .map_err(|error| DiskError::new("look at", &self.path, error))
    }
}

impl Found {
    fn name(self, names: &[u8]) -> &[u8] {
        &names[self.start as usize..][..usize::from(self.bytes)]
    }
}

fn kind_of(found: FileType) -> Option<Kind> {
    match found {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Directory),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Unknown => None,
        _ => Some(Kind::Special),
    }
}

/// Looks at a name without following a link; `None` when it is gone.
fn look(directory: &OwnedFd, path: &Path, name: &[u8]) -> Result<Option<Look>, DiskError> {
    match Look::at(directory, name) {
        Ok(looked) => Ok(Some(looked)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => {
            let path = path.join(OsStr::from_bytes(name));
            Err(DiskError::new("list", &path, error))
        }
    }
}

/// Lists one directory, sorted by name. What vanishes meanwhile is left out, and so is `lost+found`. For
/// directories of few names: each takes an allocation.
///
/// # Errors
/// The system's error; a missing directory too.
pub fn list(path: &Path) -> Result<Vec<Listed>, DiskError> {
    let mut names = Vec::new();
    Directory::read(path)?.sizes::<DiskError>(1, |name, kind, size| {
        let name = name.to_vec();
        names.push(Listed { name, kind, size });
        Ok(())
    })?;
    Ok(names)
}

/// The first name in a data directory to be that is more than a seed may find there: what a run that was killed at its
/// very beginning has left, and a pg_wal, or a link to one, that is empty, as for a file system of its own.
///
/// # Errors
/// The system's error.
pub fn first_of_content(pgdata: &Path) -> Result<Option<Listed>, DiskError> {
    let listed = list(pgdata)?;
    for found in listed {
        let is_trace = found.name == durable::TEMPORARY.as_bytes();
        let is_empty_wal = found.name == b"pg_wal"
            && matches!(found.kind, Kind::Directory | Kind::Symlink)
            && Directory::read(&pgdata.join("pg_wal")).is_ok_and(|wal| wal.is_empty());
        if !is_trace && !is_empty_wal {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Whether this user may read a file, or list a directory and open what is in it; links not followed.
#[must_use]
pub fn is_readable(path: &Path, kind: Kind) -> bool {
    let wanted = match kind {
        Kind::Directory => rustix::fs::Access::READ_OK | rustix::fs::Access::EXEC_OK,
        _ => rustix::fs::Access::READ_OK,
    };
    rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        wanted,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW | rustix::fs::AtFlags::EACCESS,
    )
    .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_sorted_with_their_kinds_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b"), b"123").unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("c")).unwrap();
        let listed: Vec<_> = list(dir.path())
            .unwrap()
            .into_iter()
            .map(|name| (name.name, name.kind, name.size))
            .collect();
        assert_eq!(
            listed,
            [
                (b"a".to_vec(), Kind::Directory, 0),
                (b"b".to_vec(), Kind::File, 3),
                (b"c".to_vec(), Kind::Symlink, 0)
            ]
        );
        assert!(list(&dir.path().join("none")).unwrap_err().is_missing());
    }

    #[test]
    fn many_names_come_with_their_sizes_whatever_the_threads() {
        let dir = tempfile::tempdir().unwrap();
        let count = 2 * SIZES_PER_THREAD + 5;
        for number in 0..count {
            let file = std::fs::File::create(dir.path().join(format!("{number:06}"))).unwrap();
            file.set_len(number as u64).unwrap();
        }
        for threads in [0, 1, 2, 5] {
            let mut directory = Directory::read(dir.path()).unwrap();
            assert_eq!(directory.len(), count);
            directory.retain(|name, kind| name != b"000007" && kind == Kind::File);
            std::fs::remove_file(dir.path().join("000009")).unwrap();
            let mut told = 0;
            directory
                .sizes::<DiskError>(threads, |name, _, size| {
                    assert_eq!(name, format!("{size:06}").as_bytes());
                    told += 1;
                    Ok(())
                })
                .unwrap();
            assert_eq!(told, count - 2);
            std::fs::File::create(dir.path().join("000009"))
                .unwrap()
                .set_len(9)
                .unwrap();
        }
    }

    #[test]
    fn a_walk_visits_every_place_once_and_ends_with_an_error() {
        // Places are the numbers below 1000, each of which leads to its double and one more.
        let visit = |place: u32| {
            let more = [2 * place, 2 * place + 1];
            Ok::<_, u32>((
                place,
                more.into_iter().filter(|next| *next < 1000).collect(),
            ))
        };
        for threads in [0, 1, 4] {
            let mut seen = spread(vec![1], threads, visit).unwrap();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(1..1000));
            let failing = |place| if place == 700 { Err(7) } else { visit(place) };
            assert_eq!(spread(vec![1], threads, failing), Err(7));
            assert_eq!(spread(Vec::new(), threads, visit), Ok(Vec::new()));
        }
    }

    #[test]
    fn a_walk_that_panics_does_not_hang() {
        let visit = |place: u32| {
            assert!(place != 5, "expected by the test");
            Ok::<_, ()>(((), vec![place + 1]))
        };
        assert!(std::panic::catch_unwind(|| spread(vec![0], 3, visit)).is_err());
    }
}
