//! Files that name commands to be run: nobody but their user and root may have a hand in them.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use super::DiskError;

/// Longest file that is read.
const BYTES_MAX: u64 = 1024 * 1024;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Somebody else may write to it, or put another one in its place.
    #[error("others may write to \"{path}\" ({why})")]
    Others { path: String, why: String },
}

/// Reads a text that nobody but this user and root may have written.
///
/// # Errors
/// It cannot be read, is no text, or others may change it.
pub fn read(path: &Path) -> Result<String, TrustError> {
    let failed = |error: io::Error| DiskError::new("read file", path, error);
    // A pipe in its place would wait for ever.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(failed(io::Error::other("not a file")).into());
    }
    judge(path, &found)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let above = std::fs::metadata(directory).map_err(failed)?;
    // In one with the sticky bit nobody replaces another one's file.
    if above.mode() & 0o1000 == 0 {
        judge(directory, &above)?;
    }
    Ok(text_of(file, found.len()).map_err(failed)?)
}

fn text_of(file: File, length: u64) -> io::Result<String> {
    if length > BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn judge(path: &Path, found: &Metadata) -> Result<(), TrustError> {
    let others = |why: String| TrustError::Others {
        path: path.display().to_string(),
        why,
    };
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(others(format!("mode {mode:04o}")));
    }
    let own = rustix::process::geteuid().as_raw();
    // Root runs nothing of what it reads here, and looks at what is another user's.
    if ![0, own].contains(&found.uid()) && own != 0 {
        return Err(others(format!("owner {}", found.uid())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_others_may_write_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        fs::write(&path, "x").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        for (mode, of_directory, is_read) in [
            (0o600, 0o700, true),
            (0o644, 0o755, true),
            (0o664, 0o755, false),
            (0o646, 0o755, false),
            (0o644, 0o775, false),
            (0o644, 0o1777, true),
        ] {
            set(&path, mode).unwrap();
            set(directory.path(), of_directory).unwrap();
            let read = read(&path);
            assert_eq!(read.is_ok(), is_read, "{mode:o} {of_directory:o}: {read:?}");
            if let Err(error) = read {
                assert!(error.to_string().starts_with("others may write to \""));
            }
        }
    }

    #[test]
    fn what_is_no_text_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path()).is_err());
        assert!(read(&directory.path().join("missing")).is_err());
        let binary = directory.path().join("b");
        fs::write(&binary, [0xff, 0xfe]).unwrap();
        assert!(read(&binary).is_err());
    }
}
