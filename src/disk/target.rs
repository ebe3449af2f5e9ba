//! The only writer. A target is [`held`](Held::take), then [`closed`](ClosedTarget::close): from there
//! on PostgreSQL cannot start in it, and only [`ClosedTarget::finish`] makes it startable again.
//!
//! How it is closed is the affair of [`close`](mod@super::close). Order of finishing: label and signal, all data
//! synced, configuration, and last of all the control file (`postgres-facts` 12).

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use super::DiskError;
use super::access;
use super::clone::{self, CopyFiles};
use super::close::{self, CloseError, ClosePlan};
use super::dontcache::let_go;
use super::durable;
use super::facts;
use super::root::Roots;
use super::size;
use super::walk;
use super::writing::{EARLY_MIN_BYTES, Writing};
use crate::digest::Verified;
use crate::path::RelPath;
use crate::pg::layout;
use crate::plan::guard::Cleared;

/// Directories in pg_wal that the server keeps there; the second since 17.
const WAL_DIRECTORIES: [&str; 2] = ["archive_status", "summaries"];

/// The target is ours alone among runs of pg_reseed: a lock on the directory itself, which ends with the
/// process.
#[derive(Debug)]
pub struct Held {
    _directory: File,
    pgdata: PathBuf,
}

impl Held {
    /// Takes the lock; `None` when another run has it.
    ///
    /// # Errors
    /// The system's error, for instance when the directory does not exist.
    pub fn take(pgdata: &Path) -> Result<Option<Self>, DiskError> {
        let directory =
            File::open(pgdata).map_err(|error| DiskError::new("open directory", pgdata, error))?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self {
                _directory: directory,
                pgdata: pgdata.to_owned(),
            })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(DiskError::new("lock", pgdata, error)),
        }
    }

    /// Makes a standby of a target whose data is right as it is: the signal comes first, so that a server which is
    /// started in between is no primary.
    ///
    /// # Errors
    /// The system's error.
    pub fn make_standby(&self, auto_conf: &[u8], group_access: bool) -> Result<(), DiskError> {
        let mode = if group_access { 0o640 } else { 0o600 };
        durable::replace(&self.pgdata.join("standby.signal"), b"", mode)?;
        durable::replace(&self.pgdata.join("postgresql.auto.conf"), auto_conf, mode)
    }
}

/// A target in which PostgreSQL cannot start.
#[derive(Debug)]
pub struct ClosedTarget {
    held: Held,
    roots: Roots,
    /// One descriptor in each file system, opened before the first write: a failed write-back is then
    /// reported by the sync at the end, whenever it happened (Linux 5.8, `syncfs`).
    systems: Vec<(PathBuf, File)>,
    directory_mode: u32,
    file_mode: u32,
    sync: bool,
    /// How many files got a content of their own.
    unshared: AtomicU64,
}

/// What a settled target holds beside the copied files.
#[derive(Debug)]
pub struct Settle<'a> {
    pub backup_label: &'a [u8],
    pub auto_conf: &'a [u8],
    /// It is a copy, and no standby.
    pub copy: Option<&'a CopyFiles>,
}

impl ClosedTarget {
    /// Closes a target: the point of no return.
    ///
    /// # Errors
    /// [`CloseError`] tells whether the target still starts as before.
    pub fn close(held: Held, _: &Cleared, plan: &ClosePlan<'_>) -> Result<Self, CloseError> {
        let pgdata = held.pgdata.clone();
        let (directory_mode, file_mode) = if plan.group_access {
            (0o750, 0o640)
        } else {
            (0o700, 0o600)
        };
        rustix::process::umask(Mode::from_raw_mode(0o777 & !directory_mode));
        close::close(&pgdata, plan, directory_mode, file_mode)?;
        let located: Vec<(u32, PathBuf)> = plan
            .placements
            .iter()
            .filter_map(|placement| Some((placement.oid, placement.location_path()?)))
            .collect();
        let roots = Roots::open(
            &pgdata,
            located.iter().map(|(oid, path)| (*oid, path.as_path())),
        )
        .map_err(CloseError::HalfWay)?;
        let mut systems = Vec::new();
        let places = std::iter::once(pgdata.clone())
            .chain(std::iter::once(pgdata.join("pg_wal")))
            .chain(located.into_iter().map(|(_, path)| path));
        for place in places {
            let directory = File::open(&place).map_err(|error| {
                CloseError::HalfWay(DiskError::new("open directory", &place, error))
            })?;
            systems.push((place, directory));
        }
        Ok(Self {
            held,
            roots,
            systems,
            directory_mode,
            file_mode,
            sync: plan.sync,
            unshared: AtomicU64::new(0),
        })
    }

    /// The target's directories.
    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Gives the owner, this user, the permission bits to work on files and directories.
    ///
    /// # Errors
    /// The system's error.
    pub fn mend(&self, paths: &[RelPath]) -> Result<(), DiskError> {
        paths
            .iter()
            .try_for_each(|path| access::open_to_owner(&self.roots, path))
    }

    /// Makes a directory, if it is not there. Its parent is.
    ///
    /// # Errors
    /// The system's error.
    pub fn make_directory(&self, path: &RelPath) -> Result<(), DiskError> {
        let (root, beneath) = self.roots.locate(path);
        let failed = |error: rustix::io::Errno| DiskError::making(&self.roots.display(path), error);
        let (parent, name) = self.parent_of(path)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(self.directory_mode)) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                root.open_beneath(beneath, flags, Mode::empty()).map(drop)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Gives a file that has another hard link a content of its own under this name, so that what is written
    /// here, and by the server later, is not seen there. Must be done before anything else opens the file to
    /// write. A file with one name is left alone.
    ///
    /// # Errors
    /// The system's error, such as a full disk; the file is then as it was.
    pub fn unshare(&self, path: &RelPath) -> Result<(), DiskError> {
        let shown = || self.roots.display(path);
        let mut old = match self.roots.open_regular(path) {
            Err(error) if error.is_missing() => return Ok(()),
            opened => opened?,
        };
        let found = old
            .metadata()
            .map_err(|error| DiskError::new("stat", &shown(), error))?;
        if found.nlink() <= 1 {
            return Ok(());
        }
        let (parent, name) = self.parent_of(path)?;
        let number = self.unshared.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{}.{number}", durable::TEMPORARY);
        let failed = |act| move |error: rustix::io::Errno| DiskError::new(act, &shown(), error);
        match rustix::fs::unlinkat(&parent, &temporary, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(failed("make room for a copy of")(error)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        // Its owner, as the server will, works with the copy whatever keeps it out of the other.
        let mode = Mode::from_raw_mode(found.mode() & 0o777 | 0o600);
        let new = rustix::fs::openat(&parent, &temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(failed("create a copy of"))?;
        let mut new = File::from(new);
        let copied = rustix::fs::fchmod(&new, mode)
            .map_err(std::io::Error::from)
            .and_then(|()| copy_content(&mut old, &mut new, found.len()));
        let copied = copied
            .map_err(|error| DiskError::new("copy", &shown(), error))
            .and_then(|()| {
                rustix::fs::renameat(&parent, &temporary, &parent, name).map_err(failed("replace"))
            });
        if copied.is_err() {
            // It would be removed by the next run.
            let _ = rustix::fs::unlinkat(&parent, &temporary, AtFlags::empty());
        }
        copied
    }

    /// Makes a file exactly `bytes` long: cuts what is beyond, fills with zeros what is missing.
    ///
    /// # Errors
    /// The system's error. Also when the file has another hard link: those that were seen are
    /// [unshared](Self::unshare), so it was made meanwhile.
    pub fn fit(&self, path: &RelPath, bytes: u64) -> Result<File, DiskError> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = self
            .roots
            .open_file(path, flags, Mode::from_raw_mode(self.file_mode))?;
        let shown = || self.roots.display(path);
        let found = file
            .metadata()
            .map_err(|error| DiskError::new("stat", &shown(), error))?;
        if found.nlink() > 1 {
            let problem = std::io::Error::other("somebody just made a hard link to it");
            return Err(DiskError::new("write to", &shown(), problem));
        }
        if found.len() != bytes {
            file.set_len(bytes)
                .map_err(|error| DiskError::new("change the length of", &shown(), error))?;
        }
        Ok(file)
    }

    /// Begins to write to a file that [`ClosedTarget::fit`] has opened and made `bytes` long.
    pub fn writing<'a>(&'a self, file: &'a File, path: &'a RelPath, bytes: u64) -> Writing<'a> {
        Writing {
            file,
            path,
            roots: &self.roots,
            is_early: self.sync && bytes >= EARLY_MIN_BYTES,
        }
    }

    /// Writes a file as a whole.
    ///
    /// # Errors
    /// The system's error.
    pub fn write_whole(&self, path: &RelPath, bytes: &Verified<Vec<u8>>) -> Result<(), DiskError> {
        let length = bytes.bytes().len() as u64;
        let file = self.fit(path, length)?;
        self.writing(&file, path, length)
            .write(&[(0, bytes.into())])
            .map(drop)
    }

    /// Makes an empty file: `archive_status/….done`.
    ///
    /// # Errors
    /// The system's error.
    pub fn make_empty(&self, path: &RelPath) -> Result<(), DiskError> {
        self.fit(path, 0).map(drop)
    }

    /// Removes a file, a link or a directory with all that is in it, if it is there. Links are removed, never
    /// followed. Returns the number of files removed.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove(&self, path: &RelPath) -> Result<u64, DiskError> {
        let (parent, name) = match self.parent_of(path) {
            Ok(found) => found,
            Err(error) if error.is_missing() => return Ok(0),
            Err(error) => return Err(error),
        };
        let failed =
            |error: rustix::io::Errno| DiskError::new("remove", &self.roots.display(path), error);
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) => return Ok(1),
            Err(rustix::io::Errno::NOENT) => return Ok(0),
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(failed(error)),
        }
        let mut removed = 0;
        for found in walk::list(&self.roots.display(path))? {
            if let Ok(below) = path.join(&found.name) {
                removed += self.remove(&below)?;
            }
        }
        match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(removed),
            Err(error) => Err(failed(error)),
        }
    }

    /// Removes what is in a directory but the names to keep.
    ///
    /// # Errors
    /// The system's error.
    pub fn empty_directory(&self, path: &RelPath, keep: &[&str]) -> Result<u64, DiskError> {
        let directory = self.roots.display(path);
        if path.as_bytes() != b"pg_wal" && facts::link(&directory).is_some() {
            // The administrator's choice of another disk.
            return empty_linked(&directory);
        }
        let mut removed = 0;
        for found in walk::list(&directory)? {
            let is_kept = keep.iter().any(|name| name.as_bytes() == found.name);
            if let (false, Ok(below)) = (is_kept, path.join(&found.name)) {
                removed += self.remove(&below)?;
            }
        }
        Ok(removed)
    }

    /// Removes what is in pg_wal, but for the two directories that the server keeps there, which are emptied.
    ///
    /// # Errors
    /// The system's error.
    pub fn empty_wal(&self) -> Result<(), DiskError> {
        let wal = RelPath::parse(b"pg_wal").expect("a constant of one component");
        self.empty_directory(&wal, &WAL_DIRECTORIES)?;
        for name in WAL_DIRECTORIES {
            let path = wal
                .join(name.as_bytes())
                .expect("a constant of one component");
            match self.empty_directory(&path, &[]) {
                Err(error) if !error.is_missing() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes a tablespace that the source does not have: the version directory behind its link, unless that is
    /// not the target's own, and the link. What else is at its location belongs to others.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove_tablespace(
        &self,
        oid: u32,
        version_directory: Option<&str>,
    ) -> Result<u64, DiskError> {
        let text = format!("pg_tblspc/{oid}");
        let link = RelPath::parse(text.as_bytes()).expect("made of plain components");
        let path = self.roots.display(&link);
        let is_link = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
        let mut removed = 0;
        if let Some(version_directory) = version_directory
            && is_link
            && !self.is_placed(&path)?
        {
            let ours = path.join(version_directory);
            let files = size::count_files(&ours)?;
            match std::fs::remove_dir_all(&ours) {
                Ok(()) => removed = files,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(DiskError::new("remove", &ours, error)),
            }
        }
        Ok(removed + self.remove(&link)?)
    }

    /// Whether a tablespace that stays is where a link leads: both sides may have made one of another number
    /// there.
    fn is_placed(&self, link: &Path) -> Result<bool, DiskError> {
        facts::is_one_of(link, self.roots.tablespaces().map(|(_, root)| root.path()))
    }

    fn parent_of<'a>(
        &'a self,
        path: &'a RelPath,
    ) -> Result<(std::os::fd::OwnedFd, &'a std::ffi::OsStr), DiskError> {
        let (root, beneath) = self.roots.locate(path);
        let name = std::ffi::OsStr::from_bytes(path.name());
        let parent = beneath
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let opened = root.open_beneath(
            parent.unwrap_or(Path::new(".")),
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )?;
        Ok((opened, name))
    }

    /// Syncs everything that was written, and whatever an earlier run left unsynced, in every file system of
    /// the target.
    ///
    /// # Errors
    /// The system's error: some write may be lost.
    pub fn sync(&self) -> Result<(), DiskError> {
        if !self.sync {
            return Ok(());
        }
        let mut devices = Vec::new();
        for (path, directory) in &self.systems {
            let device = rustix::fs::fstat(directory)
                .map_err(|error| DiskError::new("stat", path, error))?
                .st_dev;
            if devices.contains(&device) {
                continue;
            }
            devices.push(device);
            rustix::fs::syncfs(directory)
                .map_err(|error| DiskError::new("sync the file system of", path, error))?;
        }
        Ok(())
    }

    /// Makes the target a standby, or a copy: label, signal, configuration. It still cannot start, and [`ClosedTarget::sync`] must
    /// follow.
    ///
    /// # Errors
    /// The system's error.
    pub fn settle(&self, settle: &Settle<'_>) -> Result<(), DiskError> {
        let pgdata = &self.held.pgdata;
        let mode = self.file_mode;
        durable::replace(&pgdata.join("backup_label"), settle.backup_label, mode)?;
        match settle.copy {
            None => {
                durable::replace(&pgdata.join("standby.signal"), b"", mode)?;
                clone::remove_mark(pgdata)?;
                clone::remove_rules(pgdata)?;
            }
            Some(copy) => {
                durable::replace(&pgdata.join("recovery.signal"), b"", mode)?;
                match &copy.rules {
                    Some((hba, ident)) => clone::write_rules(pgdata, hba, ident)?,
                    None => clone::remove_rules(pgdata)?,
                }
                clone::write_mark(pgdata, &copy.mark)?;
            }
        }
        durable::replace(&pgdata.join("postgresql.auto.conf"), settle.auto_conf, mode)
    }

    /// Replaces the text of a configuration file that came from the source.
    ///
    /// # Errors
    /// The system's error.
    pub fn rewrite(&self, path: &RelPath, text: &[u8]) -> Result<(), DiskError> {
        let path = self.held.pgdata.join(path.as_path());
        durable::replace(&path, text, self.file_mode)
    }

    /// Makes the settled target one that can start: the control file comes last of all. `control` is the source's, its checkpoint poisoned.
    ///
    /// # Errors
    /// The system's error; the target then still cannot start.
    pub fn finish(self, control: &[u8]) -> Result<(), DiskError> {
        let pgdata = self.held.pgdata.clone();
        let mode = self.file_mode;
        durable::replace(&pgdata.join("global/pg_control"), control, mode)?;
        // The target is whole. What remains are our own traces, which mean nothing from here on.
        for trace in [durable::TEMPORARY, layout::SAVED_CONTROL, layout::MARKER] {
            if let Err(error) = durable::remove(&pgdata.join(trace)) {
                tracing::warn!("{error}: {}", error.source);
            }
        }
        Ok(())
    }
}

/// Copies a file's content, on file systems that can by sharing the blocks until one of both changes.
fn copy_content(from: &mut File, to: &mut File, bytes: u64) -> std::io::Result<()> {
    if rustix::fs::ioctl_ficlone(&*to, &*from).is_ok() {
        return Ok(());
    }
    std::io::copy(from, to)?;
    if bytes >= EARLY_MIN_BYTES {
        let_go(to, 0, bytes);
    }
    Ok(())
}

/// Removes what is in the directory behind a link.
fn empty_linked(link: &Path) -> Result<u64, DiskError> {
    let removed = size::count_files(link)?;
    for found in walk::list(link)? {
        let path = link.join(found.file_name());
        let done = match found.kind {
            walk::Kind::Directory => std::fs::remove_dir_all(&path),
            _ => std::fs::remove_file(&path),
        };
        done.map_err(|error| DiskError::new("remove", &path, error))?;
    }
    Ok(removed)
}
