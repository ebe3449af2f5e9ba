//! Listing directories. Not a snapshot: a file that comes or goes meanwhile may be listed or not, which
//! is safe inside the bracket because WAL replays both.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::ScopedJoinHandle;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use super::DiskError;
use super::durable;
use super::root::Root;
use crate::facts::FileIdentity;
use crate::path::RelPath;
use crate::pg::layout;

/// What a name in a directory is, without following links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    /// Socket, pipe, device.
    Special,
}

/// What a look at a file tells; of anything else, nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looked {
    /// Bytes of a file, 0 otherwise.
    pub size: u64,
    /// Whether the file has another name somewhere: writing to it changes what is seen there.
    pub is_linked: bool,
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
        let mut directory = Self {
            handle,
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
                    Some(looked) => {
                        kind_of(FileType::from_raw_mode(looked.st_mode)).unwrap_or(Kind::Special)
                    }
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

    /// Looks at the files, by several threads if there are many, and tells each name with what it is and what
    /// was seen. What vanished since is left out.
    ///
    /// # Errors
    /// The system's error, or that of `tell`.
    pub fn sizes<E: From<DiskError>>(
        &self,
        threads: usize,
        mut tell: impl FnMut(&[u8], Kind, Looked) -> Result<(), E>,
    ) -> Result<(), E> {
        // Some at a time, so that few sizes have to be remembered.
        for batch in self.found.chunks(threads.max(1) * SIZES_PER_THREAD) {
            let mut parts = batch.chunks(SIZES_PER_THREAD);
            let first = parts.next().unwrap_or_default();
            let sizes = std::thread::scope(|scope| {
                let begin = |part| {
                    let job = move || self.sizes_of(part);
                    (part, std::thread::Builder::new().spawn_scoped(scope, job))
                };
                let others: Vec<_> = parts.map(begin).collect();
                let mut sizes = self.sizes_of(first)?;
                for (part, other) in others {
                    sizes.extend(match other.map(ScopedJoinHandle::join) {
                        Ok(Ok(found)) => found?,
                        Ok(Err(panic)) => std::panic::resume_unwind(panic),
                        // No thread to be had.
                        Err(_) => self.sizes_of(part)?,
                    });
                }
                Ok::<_, DiskError>(sizes)
            })?;
            for (found, looked) in batch.iter().zip(sizes) {
                if let Some(looked) = looked {
                    tell(found.name(&self.names), found.kind, looked)?;
                }
            }
        }
        Ok(())
    }

    fn sizes_of(&self, part: &[Found]) -> Result<Vec<Option<Looked>>, DiskError> {
        let sizes = part.iter().map(|found| match found.kind {
            Kind::File => {
                let looked = look(&self.handle, &self.path, found.name(&self.names))?;
                Ok(looked.map(|looked| Looked {
                    size: u64::try_from(looked.st_size).unwrap_or(0),
                    is_linked: looked.st_nlink > 1,
                }))
            }
            _ => Ok(Some(Looked::default())),
        });
        sizes.collect()
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
fn look(directory: &OwnedFd, path: &Path, name: &[u8]) -> Result<Option<Stat>, DiskError> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
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
    Directory::read(path)?.sizes::<DiskError>(1, |name, kind, looked| {
        let (name, size) = (name.to_vec(), looked.size);
        names.push(Listed { name, kind, size });
        Ok(())
    })?;
    Ok(names)
}

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

/// The first name that a run which was killed at its very beginning cannot have left behind.
#[must_use]
pub fn first_of_others(listed: &[Listed]) -> Option<&Listed> {
    listed
        .iter()
        .find(|found| found.name != durable::TEMPORARY.as_bytes())
}

/// Whether this user may read a file or look into a directory, links not followed.
#[must_use]
pub fn is_readable(path: &Path) -> bool {
    rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        rustix::fs::Access::READ_OK,
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
                .sizes::<DiskError>(threads, |name, _, looked| {
                    assert_eq!(name, format!("{:06}", looked.size).as_bytes());
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
