//! How much is in a directory and all below it.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::DiskError;
use super::walk::LOST_AND_FOUND;

/// Files, links and special files in a directory and all below it; what vanishes meanwhile is left out.
///
/// # Errors
/// The system's error.
pub fn count_files(path: &Path) -> Result<u64, DiskError> {
    files(path, 0).map(|(files, _)| files)
}

/// As [`count_files`], with the paths of the first `named`, which begin with the path.
///
/// # Errors
/// As [`count_files`].
pub fn files(path: &Path, named: usize) -> Result<(u64, Vec<PathBuf>), DiskError> {
    let (mut files, mut names) = (0, Vec::new());
    for_each_below(path, None, |entry| {
        if !entry.file_type().is_dir() {
            files += 1;
            if names.len() < named {
                names.push(entry.path().to_owned());
            }
        }
        Ok(())
    })?;
    Ok((files, names))
}

/// How much is below a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    pub files: u64,
    pub bytes: u64,
}

impl Size {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// Regular files and their bytes in a directory and all below it, but for what is called `left_out` in the
/// directory itself.
///
/// # Errors
/// As [`count_files`].
pub fn below(path: &Path, left_out: Option<&str>) -> Result<Size, DiskError> {
    let mut size = Size::default();
    for_each_below(path, left_out, |entry| {
        if entry.file_type().is_file() {
            let bytes = entry.metadata()?.len();
            size = size.and(Size { files: 1, bytes });
        }
        Ok(())
    })?;
    Ok(size)
}

fn for_each_below(
    path: &Path,
    left_out: Option<&str>,
    mut see: impl FnMut(&walkdir::DirEntry) -> Result<(), walkdir::Error>,
) -> Result<(), DiskError> {
    let all = walkdir::WalkDir::new(path)
        .follow_root_links(true)
        .min_depth(1)
        .into_iter()
        .filter_entry(|entry| {
            let name = entry.file_name();
            let is_left_out = name == OsStr::from_bytes(LOST_AND_FOUND)
                || left_out.is_some_and(|left_out| name == left_out);
            entry.depth() != 1 || !is_left_out
        });
    for entry in all {
        if let Err(error) = entry.and_then(|entry| see(&entry)) {
            let failed = error.path().unwrap_or(path).to_owned();
            let cause = error
                .into_io_error()
                .unwrap_or_else(|| ErrorKind::Other.into());
            if cause.kind() != ErrorKind::NotFound {
                return Err(DiskError::new("list", &failed, cause));
            }
        }
    }
    Ok(())
}
