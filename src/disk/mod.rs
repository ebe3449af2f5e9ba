//! Every file call. Each function is one act, with the path in its error; no policy.
//!
//! [`root`] opens beneath a data directory, [`walk`] lists it, [`read`] reads it. Only [`target`]
//! writes, with [`close`], [`writing`] and [`durable`] below it; the agent names neither.

pub mod access;
pub mod clone;
pub mod close;
pub mod conf;
pub mod confine;
mod depth;
mod direct;
mod dontcache;
pub mod durable;
pub mod facts;
pub mod holder;
pub mod keep;
pub mod locks;
pub mod near;
pub mod read;
pub mod root;
pub mod size;
mod spread;
pub mod target;
pub mod trusted;
pub mod wal;
pub mod walk;
pub mod writing;

use std::io;
use std::path::{Path, PathBuf};

/// A file call failed.
#[derive(Debug, thiserror::Error)]
#[error("could not {act} \"{path}\"")]
pub struct DiskError {
    /// What was tried: open, read, write …
    pub act: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl DiskError {
    /// An error of `act` on `path`.
    pub fn new(act: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            act,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// An error of making a directory. That something exists says little of a link that leads nowhere.
    pub fn making(path: &Path, source: impl Into<io::Error>) -> Self {
        let mut source = source.into();
        if source.kind() == io::ErrorKind::AlreadyExists
            && let Some((link, leads_to)) = facts::dangling(path)
        {
            let (link, leads_to) = (link.display(), leads_to.display());
            source = io::Error::new(
                io::ErrorKind::NotFound,
                format!("\"{link}\" is a link to \"{leads_to}\", which does not exist"),
            );
        }
        Self::new("create directory", path, source)
    }

    /// Whether the system did not allow it to this user.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }

    /// Whether the file or a directory on the way to it does not exist (any more).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(
            self.source.raw_os_error(),
            Some(code) if code == rustix::io::Errno::NOENT.raw_os_error()
                || code == rustix::io::Errno::NOTDIR.raw_os_error()
        )
    }
}
