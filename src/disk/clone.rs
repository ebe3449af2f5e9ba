//! What a copy has of its own on disk: its mark, and the door that only its hooks have a key to.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use super::DiskError;
use super::durable;
use crate::pg::layout;

/// What others than the owner have no business to read.
const PRIVATE: u32 = 0o600;

/// What is written into the directory of a copy.
#[derive(Debug)]
pub struct CopyFiles {
    pub mark: Vec<u8>,
    /// Access rules and their map, where it is closed to others.
    pub rules: Option<(String, String)>,
}

/// Makes a directory that nobody but this user can enter, and that was not there.
///
/// # Errors
/// The system's error.
pub fn make_private_directory(path: &Path) -> Result<(), DiskError> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(|error| DiskError::making(path, error))
}

/// Removes such a directory, if nothing is left in it.
pub fn remove_private_directory(path: &Path) {
    // What is left in it is somebody's.
    let _ = std::fs::remove_dir(path);
}

/// Writes the access rules of a copy that lets in nobody but its hooks.
///
/// # Errors
/// The system's error.
pub fn write_rules(pgdata: &Path, hba: &str, ident: &str) -> Result<(), DiskError> {
    durable::replace(&pgdata.join(layout::CLONE_HBA), hba.as_bytes(), PRIVATE)?;
    durable::replace(&pgdata.join(layout::CLONE_IDENT), ident.as_bytes(), PRIVATE)
}

/// Removes them.
///
/// # Errors
/// The system's error.
pub fn remove_rules(pgdata: &Path) -> Result<(), DiskError> {
    durable::remove(&pgdata.join(layout::CLONE_HBA))?;
    durable::remove(&pgdata.join(layout::CLONE_IDENT))
}

/// Writes the mark.
///
/// # Errors
/// The system's error.
pub fn write_mark(pgdata: &Path, mark: &[u8]) -> Result<(), DiskError> {
    durable::replace(&pgdata.join(layout::CLONE_MARK), mark, PRIVATE)
}

/// Removes the mark, if there is one.
///
/// # Errors
/// The system's error.
pub fn remove_mark(pgdata: &Path) -> Result<(), DiskError> {
    durable::remove(&pgdata.join(layout::CLONE_MARK))
}

/// Replaces the text of `postgresql.auto.conf`.
///
/// # Errors
/// The system's error.
pub fn write_auto_conf(pgdata: &Path, text: &[u8]) -> Result<(), DiskError> {
    let path = pgdata.join("postgresql.auto.conf");
    let mode = std::fs::metadata(&path).map_or(PRIVATE, |found| found.permissions().mode() & 0o777);
    durable::replace(&path, text, mode)
}
