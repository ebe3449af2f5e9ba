//! Listing directories. Not a snapshot: a file that comes or goes meanwhile may be listed or not, which
//! is safe inside the bracket because WAL replays both.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::DiskError;
use super::durable;
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

/// What a file system keeps in its own top directory; only root may look into it.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// Lists one directory, sorted by name. What vanishes meanwhile is left out, and so is `lost+found`.
///
/// # Errors
/// The system's error; a missing directory too.
pub fn list(path: &Path) -> Result<Vec<Listed>, DiskError> {
    let mut names = Vec::new();
    for entry in walkdir::WalkDir::new(path)
        .min_depth(1)
        .max_depth(1)
        .follow_links(false)
        .follow_root_links(true)
    {
        let looked = entry.and_then(|entry| {
            let metadata = entry.metadata()?;
            Ok((entry, metadata))
        });
        let (entry, metadata) = match looked {
            Ok(pair) => pair,
            Err(error) => {
                let is_below = error.depth() > 0;
                let failed = error.path().unwrap_or(path).to_owned();
                let cause = error
                    .into_io_error()
                    .unwrap_or_else(|| std::io::Error::other("a loop of links"));
                if is_below && cause.kind() == std::io::ErrorKind::NotFound {
                    continue;
                }
                return Err(DiskError::new("list", &failed, cause));
            }
        };
        let file_type = metadata.file_type();
        let kind = if file_type.is_file() {
            Kind::File
        } else if file_type.is_dir() {
            Kind::Directory
        } else if file_type.is_symlink() {
            Kind::Symlink
        } else {
            Kind::Special
        };
        if kind == Kind::Directory && entry.file_name().as_bytes() == LOST_AND_FOUND {
            continue;
        }
        let is_file = kind == Kind::File;
        names.push(Listed {
            name: entry.file_name().to_owned().into_vec(),
            kind,
            size: if is_file { metadata.len() } else { 0 },
        });
    }
    names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(names)
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

/// Files, links and special files in a directory and all below it; what vanishes meanwhile is left out.
///
/// # Errors
/// The system's error.
pub fn count_files(path: &Path) -> Result<u64, DiskError> {
    let mut files = 0;
    let mut pending = vec![path.to_owned()];
    while let Some(directory) = pending.pop() {
        let listed = match list(&directory) {
            Ok(listed) => listed,
            Err(error) if error.is_missing() => continue,
            Err(error) => return Err(error),
        };
        for found in listed {
            if found.kind == Kind::Directory {
                pending.push(directory.join(found.file_name()));
            } else {
                files += 1;
            }
        }
    }
    Ok(files)
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
}
