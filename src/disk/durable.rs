//! Writing so that it survives a power cut: sync the file, rename it into place, sync the directory
//! (PostgreSQL `src/common/file_utils.c:durable_rename`). Every failure is final: after EIO the page
//! cache may lie, so nothing is tried twice.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::DiskError;

/// Name of a file that is being written, beside the one that it will replace.
pub const TEMPORARY: &str = "pg_reseed.tmp";

/// Writes `bytes` to `path` by way of a temporary file beside it, and syncs file and directory.
///
/// # Errors
/// The system's error; the old file is then still in place.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DiskError> {
    let temporary = &path.with_file_name(TEMPORARY);
    // What a killed run left by that name may be a link by now, or have another one: it is not written to.
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(DiskError::new("remove", temporary, error));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(temporary)
        .map_err(|error| DiskError::new("create", temporary, error))?;
    file.write_all(bytes)
        .map_err(|error| DiskError::new("write", temporary, error))?;
    file.sync_all()
        .map_err(|error| DiskError::new("sync", temporary, error))?;
    std::fs::rename(temporary, path).map_err(|error| DiskError::new("replace", path, error))?;
    sync_parent(path)
}

/// Removes a file, if it is there, and syncs its directory.
///
/// # Errors
/// The system's error.
pub fn remove(path: &Path) -> Result<(), DiskError> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DiskError::new("remove", path, error)),
    }
}

/// Syncs the directory that holds `path`.
///
/// # Errors
/// The system's error.
pub fn sync_parent(path: &Path) -> Result<(), DiskError> {
    match path.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Syncs a directory.
///
/// # Errors
/// The system's error.
pub fn sync_directory(path: &Path) -> Result<(), DiskError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| DiskError::new("sync directory", path, error))
}
