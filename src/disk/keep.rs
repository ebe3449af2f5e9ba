//! Writing elsewhere than into the target: its files before they go, and configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{DiskError, durable, read, walk};

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
    make_directory(to)?;
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

/// Makes a new directory with these files in it, paths of plain components below it, in place of what was there by
/// that name, and has all of it on disk when it returns.
///
/// # Errors
/// The system's error.
pub fn write_tree(
    to: &Path,
    directories: &BTreeSet<PathBuf>,
    files: &BTreeMap<PathBuf, Vec<u8>>,
) -> Result<(), DiskError> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(DiskError::new("remove", to, error));
        }
        _ => {}
    }
    let parents = files.keys().filter_map(|path| path.parent());
    let directories = parents.chain(directories.iter().map(PathBuf::as_path));
    let directories: BTreeSet<PathBuf> = directories.map(|path| to.join(path)).collect();
    make_directory(to)?;
    for directory in &directories {
        make_directory(directory)?;
    }
    for (path, text) in files {
        write_new(&to.join(path), |file| file.write_all(text))?;
    }
    for directory in &directories {
        durable::sync_directory(directory)?;
    }
    durable::sync_directory(to)?;
    durable::sync_parent(to)
}

/// Whether a directory can take the name of another one, empty or missing: that is no link and no file system.
#[must_use]
pub fn can_be_replaced(directory: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(directory) else {
        return true;
    };
    let above = directory
        .parent()
        .and_then(|parent| fs::metadata(parent).ok());
    found.is_dir() && above.is_some_and(|above| above.dev() == found.dev())
}

/// Whether all these files are below a directory as they should be.
#[must_use]
pub fn holds(directory: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) -> bool {
    let is_there = |(path, text): (&PathBuf, &Vec<u8>)| {
        let limit = text.len() as u64;
        let found = read::read_if_there(&directory.join(path), limit);
        found.is_ok_and(|found| found.as_ref() == Some(text))
    };
    files.iter().all(is_there)
}

/// Renames a directory to a name that is missing or an empty directory, durably.
///
/// # Errors
/// The system's error.
pub fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::rename(from, to).map_err(|error| DiskError::new("rename", from, error))?;
    durable::sync_parent(to)
}

/// Makes a directory and those above it.
fn make_directory(path: &Path) -> Result<(), DiskError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(path)
        .map_err(|error| DiskError::making(path, error))
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
    fn a_tree_replaces_what_was_there_and_takes_an_empty_place() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, place) = (dir.path().join("tree"), dir.path().join("place"));
        let files = |names: &[&str]| {
            let each = names
                .iter()
                .map(|name| (PathBuf::from(name), name.as_bytes().to_vec()));
            each.collect()
        };
        let empty = BTreeSet::from([PathBuf::from("empty.d")]);
        write_tree(&tree, &empty, &files(&["old"])).unwrap();
        write_tree(&tree, &empty, &files(&["a", "d/e/f"])).unwrap();
        fs::create_dir(&place).unwrap();
        rename(&tree, &place).unwrap();
        assert_eq!(fs::read(place.join("d/e/f")).unwrap(), b"d/e/f");
        assert!(!place.join("old").exists() && !tree.exists());
        assert!(place.join("empty.d").is_dir());
        assert!(holds(&place, &files(&["a", "d/e/f"])));
        assert!(!holds(&place, &files(&["a", "b"])));
        write_tree(&tree, &empty, &files(&[])).unwrap();
        assert!(rename(&tree, &place).is_err());
        assert!(can_be_replaced(&place) && can_be_replaced(&dir.path().join("none")));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&place, &link).unwrap();
        assert!(!can_be_replaced(&link) && !can_be_replaced(Path::new("/proc")));
    }

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
