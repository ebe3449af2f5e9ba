//! Writing so that it survives a power cut: sync the file, rename it into place, sync the directory
//! (PostgreSQL `src/common/file_utils.c:durable_rename`). Every failure is final: after EIO the page
//! cache may lie, so nothing is tried twice.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::DiskError;

/// Name of a file that is being written, beside the one that it will replace.
pub const TEMPORARY: &str = "pg_reseed.tmp";

/// Writes `bytes` to `path` by way of a temporary file beside it, and syncs file and directory.
///
/// # Errors
/// The system's error; the old file is then still in place.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DiskError> {
    let temporary = &write_beside(path, bytes, mode)?;
    std::fs::rename(temporary, path).map_err(|error| DiskError::new("replace", path, error))?;
    sync_parent(path)
}

/// As [`replace`], but only if nothing is at `path`; returns whether that was so. Nobody ever sees the file
/// without its content, not even after a loss of power.
///
/// # Errors
/// The system's error.
pub fn make_new(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, DiskError> {
    let temporary = &write_beside(path, bytes, mode)?;
    let made = match std::fs::hard_link(temporary, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        // A file system without hard links.
        Err(_) => make_in_place(path, bytes, mode),
    };
    std::fs::remove_file(temporary).map_err(|error| DiskError::new("remove", temporary, error))?;
    sync_parent(path)?;
    made
}

fn make_in_place(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, DiskError> {
    match write_new(path, bytes, mode) {
        Ok(()) => Ok(true),
        Err(error) if error.source.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the temporary file beside `path`, and syncs it. What an earlier run has left under its name goes first:
/// it may be another user's, a link, or a file that has another name too.
fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf, DiskError> {
    let temporary = path.with_file_name(TEMPORARY);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(DiskError::new("remove", &temporary, error));
        }
        _ => {}
    }
    write_new(&temporary, bytes, mode)?;
    Ok(temporary)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DiskError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|error| DiskError::new("create", path, error))?;
    file.write_all(bytes)
        .map_err(|error| DiskError::new("write", path, error))?;
    file.sync_all()
        .map_err(|error| DiskError::new("sync", path, error))
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
