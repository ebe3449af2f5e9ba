//! Positional reads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::DiskError;

/// Fills `buffer` from `offset` on; what lies beyond the end of the file reads as zero bytes, as a
/// base backup pads a file that shrank (PostgreSQL `basebackup.c:sendFile`). Returns the bytes that
/// the file really had there.
///
/// # Errors
/// The system's error with `path`.
pub fn read_padded(
    file: &File,
    path: &Path,
    offset: u64,
    buffer: &mut [u8],
) -> Result<usize, DiskError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(DiskError::new("read", path, error)),
        }
    }
    buffer[filled..].fill(0);
    Ok(filled)
}

/// Reads an open file as long as it is, but at most `limit` bytes of it.
///
/// # Errors
/// The system's error with `path`.
pub fn read_most(file: &File, path: &Path, limit: u64) -> Result<Vec<u8>, DiskError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| DiskError::new("read", path, error))?;
    Ok(bytes)
}

/// Reads a whole small file.
///
/// # Errors
/// The system's error; also when it is longer than `limit` bytes.
pub fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, DiskError> {
    let file = File::open(path).map_err(|error| DiskError::new("open", path, error))?;
    let bytes = read_most(&file, path, limit + 1)?;
    if bytes.len() as u64 > limit {
        return Err(DiskError::new(
            "read",
            path,
            std::io::Error::other(format!("it is longer than {limit} bytes")),
        ));
    }
    Ok(bytes)
}

/// As [`read_small`], `None` when the file does not exist.
///
/// # Errors
/// As [`read_small`].
pub fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
    match read_small(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_is_padded_with_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        let file = File::open(&path).unwrap();
        let mut buffer = [7; 5];
        assert_eq!(read_padded(&file, &path, 1, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer, b"bc\0\0\0");
        assert_eq!(read_padded(&file, &path, 9, &mut buffer).unwrap(), 0);
        assert_eq!(buffer, [0; 5]);
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abcd").unwrap();
        assert!(read_small(&path, 3).is_err());
        assert_eq!(read_small(&path, 4).unwrap(), b"abcd");
        assert!(read_if_there(&dir.path().join("g"), 4).unwrap().is_none());
    }
}
