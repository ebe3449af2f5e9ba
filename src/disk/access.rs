//! What this user may do with what is there: asked of the file system before anything changes.
//!
//! Most is told by what the listing asks anyway (owner, mode, attributes); the system is asked once more only where
//! that says no, or cannot say.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags, accessat, chmod, fstat,
    statat, statx,
};
use rustix::io::Errno;

use super::DiskError;
use super::root::Roots;
use super::walk::{self, Kind};
use crate::path::RelPath;
use crate::plan::access::Bar;

/// What the file system tells of a name, links not followed.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub kind: Kind,
    /// Bytes of a file.
    pub size: u64,
    /// Whether it has another name somewhere: what is changed here changes there. Directories count their own.
    pub is_linked: bool,
    user: u32,
    mode: u32,
    is_pinned: bool,
    is_mounted: bool,
}

impl Look {
    /// Looks at a name in a directory, or with no name at the directory itself.
    pub(super) fn at(directory: impl AsFd, name: &[u8]) -> Result<Self, Errno> {
        let mut flags = AtFlags::SYMLINK_NOFOLLOW;
        if name.is_empty() {
            flags |= AtFlags::EMPTY_PATH;
        }
        let mask = StatxFlags::TYPE
            | StatxFlags::MODE
            | StatxFlags::UID
            | StatxFlags::SIZE
            | StatxFlags::NLINK;
        match statx(&directory, name, flags, mask) {
            Ok(found) => {
                let pinned = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
                let is = |which| found.stx_attributes.intersects(which);
                Ok(Self {
                    kind: Kind::of_mode(u32::from(found.stx_mode)),
                    size: found.stx_size,
                    is_linked: found.stx_nlink > 1,
                    user: found.stx_uid,
                    mode: u32::from(found.stx_mode),
                    is_pinned: is(pinned),
                    is_mounted: is(StatxAttributes::MOUNT_ROOT),
                })
            }
            // Before Linux 4.11, or where a filter forbids it.
            Err(Errno::NOSYS | Errno::PERM) => {
                let found = if name.is_empty() {
                    fstat(&directory)?
                } else {
                    statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?
                };
                Ok(Self {
                    kind: Kind::of_mode(found.st_mode),
                    size: u64::try_from(found.st_size).unwrap_or(0),
                    is_linked: found.st_nlink > 1,
                    user: found.st_uid,
                    mode: found.st_mode,
                    is_pinned: false,
                    is_mounted: false,
                })
            }
            Err(error) => Err(error),
        }
    }

    fn is_own(&self) -> bool {
        self.user == rustix::process::geteuid().as_raw()
    }

    /// Whether this user may read the file. A file of its own is judged by its mode, and anything that says no is asked.
    pub(super) fn is_readable(&self, directory: &OwnedFd, name: &[u8]) -> bool {
        self.is_own() && self.mode & 0o400 != 0 || may(directory, name, Access::READ_OK).is_ok()
    }

    /// What keeps this user from changing the file, which lies in `within`.
    pub(super) fn bar(&self, directory: &OwnedFd, name: &[u8], within: &Self) -> Option<Bar> {
        if self.is_pinned {
            return Some(Bar::Pinned);
        }
        let is_sure = self.is_own() && self.mode & 0o600 == 0o600 && !self.is_mounted;
        if !is_sure && let Err(error) = may(directory, name, Access::READ_OK | Access::WRITE_OK) {
            return Some(match error {
                Errno::ROFS => Bar::ReadOnly,
                _ if self.is_own() => Bar::Mode {
                    can_read: self.is_readable(directory, name),
                },
                _ => Bar::Owner,
            });
        }
        if self.is_mounted {
            return Some(Bar::Mounted);
        }
        let is_sticky = within.mode & 0o1000 != 0;
        (is_sticky && !within.is_own() && !self.is_own()).then_some(Bar::Sticky)
    }
}

fn may(directory: &OwnedFd, name: &[u8], access: Access) -> Result<(), Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EACCESS;
    accessat(directory, name, access, flags)
}

/// What keeps this user from making and removing something in a directory, links on the way followed.
///
/// # Errors
/// The system's error; a missing directory too.
pub fn bar_of_directory(path: &Path) -> Result<Option<Bar>, DiskError> {
    let failed = |error| DiskError::new("look at", path, error);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    bar_within(&directory).map_err(failed)
}

/// As [`bar_of_directory`], of one that is open.
pub(super) fn bar_within(directory: &OwnedFd) -> Result<Option<Bar>, Errno> {
    let look = Look::at(directory, b"")?;
    if look.is_pinned {
        return Ok(Some(Bar::Pinned));
    }
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    Ok(match accessat(directory, ".", wanted, AtFlags::EACCESS) {
        Ok(()) => None,
        Err(Errno::ROFS) => Some(Bar::ReadOnly),
        Err(_) if look.is_own() && look.mode & 0o500 != 0o500 => Some(Bar::Closed),
        Err(_) if look.is_own() => Some(Bar::Mode { can_read: true }),
        Err(_) => Some(Bar::Owner),
    })
}

pub(super) fn is_searchable(directory: &OwnedFd) -> bool {
    accessat(directory, ".", Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// Why a directory that cannot be opened to be listed, cannot; `None` when it is not a matter of rights.
#[must_use]
pub fn bar_of_closed(path: &Path, error: &DiskError) -> Option<Bar> {
    if !error.is_denied() {
        return None;
    }
    let own = rustix::fs::lstat(path).ok()?.st_uid == rustix::process::geteuid().as_raw();
    Some(if own { Bar::Closed } else { Bar::Owner })
}

/// What keeps this user from making a directory at `path`, or from working in the one that is there: that one, or
/// the nearest above that exists, and why.
///
/// # Errors
/// The system's error.
pub fn bar_of_making(path: &Path) -> Result<Option<(PathBuf, Bar)>, DiskError> {
    for at in path.ancestors() {
        let at = if at.as_os_str().is_empty() {
            Path::new(".")
        } else {
            at
        };
        match bar_of_directory(at) {
            Ok(bar) => return Ok(bar.map(|bar| (at.to_owned(), bar))),
            Err(error) if error.is_missing() => {}
            // What is above it does not let this user through.
            Err(error) if error.is_denied() => return Ok(Some((at.to_owned(), Bar::Owner))),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// What keeps this user from emptying a directory, links on the way to it followed: paths with their bars.
///
/// # Errors
/// The system's error; a missing directory is empty.
pub fn bars_of_emptying(path: &Path) -> Result<Vec<(PathBuf, Bar)>, DiskError> {
    let mut bars = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(at) = open.pop() {
        let directory = match walk::Directory::read(&at) {
            Ok(directory) => directory,
            Err(error) if error.is_missing() => continue,
            Err(error) => match bar_of_closed(&at, &error) {
                Some(bar) => {
                    bars.push((at, bar));
                    continue;
                }
                None => return Err(error),
            },
        };
        // An empty one in it needs no right but on the one above it.
        if (!directory.is_empty() || at == path)
            && let Some(bar) = directory.bar_within()?
        {
            bars.push((at.clone(), bar));
        }
        if !directory.is_searchable() {
            continue;
        }
        directory.looks::<DiskError>(1, |name, kind, look| {
            let below = at.join(OsStr::from_bytes(name));
            if kind == Kind::Directory {
                open.push(below);
            } else if let Some(bar) = look.and_then(|look| directory.bar_of(name, &look)) {
                bars.push((below, bar));
            }
            Ok(())
        })?;
    }
    Ok(bars)
}

/// Gives the owner of a file or directory, who this user is, the permission bits to work on it.
///
/// # Errors
/// The system's error; also when something on the way is a link, and when the file has another hard link, whose
/// permission bits would change too: those that were seen get a content of their own, so it was made meanwhile.
pub(super) fn open_to_owner(roots: &Roots, path: &RelPath) -> Result<(), DiskError> {
    let failed = |error| DiskError::new("change the permissions of", &roots.display(path), error);
    let (root, beneath) = roots.locate(path);
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let opened = root.open_beneath(beneath, flags, Mode::empty())?;
    let found = fstat(&opened).map_err(failed)?;
    let mode = found.st_mode;
    let bits = match FileType::from_raw_mode(mode) {
        FileType::Directory => 0o700,
        _ if found.st_nlink > 1 => {
            let problem = std::io::Error::other("somebody just made a hard link to it");
            let shown = roots.display(path);
            return Err(DiskError::new("change the permissions of", &shown, problem));
        }
        _ => 0o600,
    };
    // A descriptor of this kind takes no change itself, and a path could lead elsewhere by now.
    let opened = format!("/proc/self/fd/{}", opened.as_raw_fd());
    chmod(opened, Mode::from_raw_mode(mode & 0o7777 | bits)).map_err(failed)
}
