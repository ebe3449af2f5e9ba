//! Opening beneath a data directory, never outside of it and never through a link.
//!
//! A [`Root`] is one directory; [`Roots`] is a data directory with its tablespaces, where
//! `pg_tblspc/<oid>/…` continues at the tablespace's location, and `pg_wal/…` where that link leads. Linux resolves each path itself, with
//! `openat2` and RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, so that a link swapped in later cannot lead
//! out. Where the call does not exist (before 5.6, or a filter forbids it) every component is opened in
//! turn without following.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::DiskError;
use super::read::regular;
use crate::path::RelPath;
use crate::pg::relfile;

/// One directory beneath which files are opened.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens the directory at `path`, following links in `path` itself.
    ///
    /// # Errors
    /// The system's error, for instance when it is no directory.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let dir = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|error| DiskError::new("open directory", path, error))?;
        Ok(Self {
            dir,
            path: path.to_owned(),
        })
    }

    /// The directory's path, for messages and for walking.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file or directory beneath the root.
    ///
    /// # Errors
    /// The system's error; ELOOP when a component is a symbolic link.
    pub fn open_beneath(
        &self,
        path: &Path,
        flags: OFlags,
        mode: Mode,
    ) -> Result<OwnedFd, DiskError> {
        let flags = flags | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat2(
            &self.dir,
            path,
            flags,
            mode,
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::NOSYS | Errno::PERM) => self.open_by_component(path, flags, mode),
            result => result,
        };
        opened.map_err(|error| DiskError::new("open", &self.path.join(path), error))
    }

    /// Opens a directory beneath the root, or with no path the root's own.
    ///
    /// # Errors
    /// As [`Root::open_beneath`].
    pub fn open_directory(&self, path: &Path) -> Result<OwnedFd, DiskError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if path.as_os_str().is_empty() {
            return rustix::fs::openat(&self.dir, ".", flags, Mode::empty())
                .map_err(|error| DiskError::new("open", &self.path, error));
        }
        self.open_beneath(path, flags, Mode::empty())
    }

    fn open_by_component(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut dir: Option<OwnedFd> = None;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let std::path::Component::Normal(name) = component else {
                return Err(Errno::XDEV);
            };
            let at = dir.as_ref().map_or(self.dir.as_fd(), AsFd::as_fd);
            if components.peek().is_none() {
                return rustix::fs::openat(at, name, flags | OFlags::NOFOLLOW, mode);
            }
            dir = Some(rustix::fs::openat(at, name, step, Mode::empty())?);
        }
        Err(Errno::NOENT)
    }
}

/// A data directory with its tablespaces.
#[derive(Debug)]
pub struct Roots {
    data: Root,
    /// Where pg_wal leads, if it is a link.
    wal: Option<Root>,
    /// By object id of the tablespace: its location. In-place tablespaces are not here.
    tablespaces: BTreeMap<u32, Root>,
}

impl Roots {
    /// Opens a data directory and the given tablespace locations, as far as they exist.
    ///
    /// # Errors
    /// The system's error for the data directory, or for a location that exists and cannot be opened.
    pub fn open<'a>(
        pgdata: &Path,
        tablespaces: impl IntoIterator<Item = (u32, &'a Path)>,
    ) -> Result<Self, DiskError> {
        let wal = pgdata.join("pg_wal");
        let mut roots = Self {
            data: Root::open(pgdata)?,
            wal: if wal.is_symlink() {
                Some(Root::open(&wal)?)
            } else {
                None
            },
            tablespaces: BTreeMap::new(),
        };
        for (oid, location) in tablespaces {
            match Root::open(location) {
                Ok(root) => {
                    roots.tablespaces.insert(oid, root);
                }
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(roots)
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> &Root {
        &self.data
    }

    /// The tablespaces that are reached through links.
    pub fn tablespaces(&self) -> impl Iterator<Item = (u32, &Root)> {
        self.tablespaces.iter().map(|(oid, root)| (*oid, root))
    }

    /// A tablespace that is reached through a link.
    #[must_use]
    pub fn tablespace(&self, oid: u32) -> Option<&Root> {
        self.tablespaces.get(&oid)
    }

    /// All the directories.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        let roots = std::iter::once(&self.data).chain(&self.wal);
        roots.chain(self.tablespaces.values()).map(Root::path)
    }

    /// Where a path of the data directory really lies: its root, and the path beneath it.
    #[must_use]
    pub fn locate<'a>(&'a self, path: &'a RelPath) -> (&'a Root, &'a Path) {
        let whole = path.as_path();
        let (root, levels) = if let Some(rest) = path.as_bytes().strip_prefix(b"pg_tblspc/") {
            (self.tablespace_of(rest), 2)
        } else if path.as_bytes().starts_with(b"pg_wal/") {
            (self.wal.as_ref(), 1)
        } else {
            (None, 0)
        };
        match root {
            Some(root) => {
                let mut components = whole.components();
                for _ in 0..levels {
                    components.next();
                }
                (root, components.as_path())
            }
            None => (&self.data, whole),
        }
    }

    /// The tablespace, if there is more behind its object id in `rest`.
    fn tablespace_of(&self, rest: &[u8]) -> Option<&Root> {
        let end = rest.iter().position(|byte| *byte == b'/')?;
        let oid = relfile::number_without_leading_zero(&rest[..end])?;
        self.tablespace(oid)
    }

    /// The absolute path, for messages only.
    #[must_use]
    pub fn display(&self, path: &RelPath) -> PathBuf {
        let (root, beneath) = self.locate(path);
        root.path().join(beneath)
    }

    /// Opens a file of the data directory.
    ///
    /// # Errors
    /// As [`Root::open_beneath`].
    pub fn open_file(&self, path: &RelPath, flags: OFlags, mode: Mode) -> Result<File, DiskError> {
        let (root, beneath) = self.locate(path);
        Ok(File::from(root.open_beneath(beneath, flags, mode)?))
    }

    /// Opens a file to read it. A special file is refused, and does not block.
    ///
    /// # Errors
    /// As [`Root::open_beneath`]; also when it is no regular file.
    pub fn open_regular(&self, path: &RelPath) -> Result<File, DiskError> {
        let file = self.open_file(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        regular(file, || self.display(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn links_are_not_followed_in_any_component() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("base")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
        let roots = Roots::open(dir.path(), []).unwrap();
        for name in ["base/secret", "file"] {
            assert!(roots.open_regular(&path(name)).is_err(), "{name}");
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            assert!(
                roots
                    .data
                    .open_by_component(Path::new(name), flags, Mode::empty())
                    .is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn tablespace_paths_continue_at_the_location() {
        let dir = tempfile::tempdir().unwrap();
        let location = tempfile::tempdir().unwrap();
        std::fs::create_dir(location.path().join("PG_15_1")).unwrap();
        std::fs::write(location.path().join("PG_15_1/77"), "rows").unwrap();
        let roots = Roots::open(dir.path(), [(16400, location.path())]).unwrap();
        let mut text = String::new();
        roots
            .open_regular(&path("pg_tblspc/16400/PG_15_1/77"))
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "rows");
        assert!(
            roots
                .open_regular(&path("pg_tblspc/16401/PG_15_1/77"))
                .unwrap_err()
                .is_missing()
        );
    }

    #[test]
    fn a_linked_wal_directory_is_gone_into() {
        let dir = tempfile::tempdir().unwrap();
        let wal = tempfile::tempdir().unwrap();
        std::fs::write(wal.path().join("x"), "").unwrap();
        std::os::unix::fs::symlink(wal.path(), dir.path().join("pg_wal")).unwrap();
        let roots = Roots::open(dir.path(), []).unwrap();
        assert!(roots.open_regular(&path("pg_wal/x")).is_ok());
        assert!(roots.open_regular(&path("pg_wal")).is_err());
    }

    #[test]
    fn a_named_pipe_neither_blocks_nor_opens() {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            dir.path().join("pipe"),
            Mode::from_raw_mode(0o600),
        )
        .unwrap();
        let roots = Roots::open(dir.path(), []).unwrap();
        assert!(roots.open_regular(&path("pipe")).is_err());
    }
}
