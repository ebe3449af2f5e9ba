//! Saving files of the target elsewhere before they go.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::{DiskError, durable, walk};

/// What stands where files shall be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vacancy {
    /// Nothing, or an empty directory.
    Vacant,
    /// What was saved by an earlier run: `note` is there.
    Ours,
    Taken,
}

/// Looks at the place.
///
/// # Errors
/// The system's error; also when it is no directory.
pub fn vacancy(directory: &Path, note: &str) -> Result<Vacancy, DiskError> {
    match walk::list(directory) {
        Ok(listed) if listed.is_empty() => Ok(Vacancy::Vacant),
        Ok(listed) if listed.iter().any(|found| found.name == note.as_bytes()) => Ok(Vacancy::Ours),
        Ok(_) => Ok(Vacancy::Taken),
        Err(error) if error.is_missing() && !directory.exists() => Ok(Vacancy::Vacant),
        Err(error) => Err(error),
    }
}

/// Copies files of one directory into another one, which is made if it is missing, with a note first, and has all
/// of it on disk when it returns. What is there by the same name is replaced. Returns the bytes.
///
/// # Errors
/// The system's error.
pub fn copy(
    from: &Path,
    names: &[std::ffi::OsString],
    to: &Path,
    note: (&str, &str),
) -> Result<u64, DiskError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(to)
        .map_err(|error| DiskError::new("create directory", to, error))?;
    let (name, text) = note;
    write_new(&to.join(name), |file| file.write_all(text.as_bytes()))?;
    let mut bytes = 0;
    for name in names {
        let source = from.join(name);
        let mut reader =
            File::open(&source).map_err(|error| DiskError::new("open", &source, error))?;
        write_new(&to.join(name), |file| {
            bytes += std::io::copy(&mut reader, file)?;
            Ok(())
        })?;
    }
    durable::sync_directory(to)?;
    if let Some(parent) = to.parent() {
        durable::sync_directory(parent)?;
    }
    Ok(bytes)
}

/// Writes a file anew; links by that name are removed, not followed.
fn write_new(
    path: &Path,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(DiskError::new("remove", path, error));
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options
        .open(path)
        .map_err(|error| DiskError::new("create", path, error))?;
    write(&mut file)
        .and_then(|()| file.sync_all())
        .map_err(|error| DiskError::new("write", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_whole_and_can_be_saved_again() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("a/to"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("1"), b"one").unwrap();
        assert_eq!(vacancy(&to, "note").unwrap(), Vacancy::Vacant);
        for _ in 0..2 {
            assert_eq!(
                copy(&from, &["1".into()], &to, ("note", "words")).unwrap(),
                3
            );
            assert_eq!(fs::read(to.join("1")).unwrap(), b"one");
            assert_eq!(vacancy(&to, "note").unwrap(), Vacancy::Ours);
        }
        assert!(copy(&from, &["2".into()], &to, ("note", "words")).is_err());
        fs::remove_file(to.join("note")).unwrap();
        assert_eq!(vacancy(&to, "note").unwrap(), Vacancy::Taken);
        assert!(vacancy(&to.join("1"), "note").is_err());
    }
}
