//! A path relative to a data directory, safe to join: the only form in which a path crosses the wire.
//!
//! Bytes, not text: PostgreSQL does not ask that file names be UTF-8.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest accepted path in bytes: PostgreSQL's own `MAXPGPATH` (`src/include/pg_config_manual.h`).
pub const MAX_BYTES: usize = 1024;

/// A relative path of plain components: not empty, no leading slash, no `.`, no `..`, no empty
/// component, no NUL, at most [`MAX_BYTES`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Box<[u8]>);

/// Why bytes are not a [`RelPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path is empty")]
    Empty,
    #[error("the path is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the path is absolute")]
    Absolute,
    #[error("the path has an empty component")]
    EmptyComponent,
    #[error("the path has a component \".\" or \"..\"")]
    Dots,
    #[error("the path contains a NUL byte")]
    Nul,
    #[error("the name contains a slash")]
    Slash,
}

/// Checks that a name can stand behind a directory (`None`: at the top), without making the path.
///
/// # Errors
/// The first rule of [`RelPath`] that the path would break; [`PathError::Slash`] when the name is more
/// than one component.
pub fn check_name(directory: Option<&RelPath>, name: &[u8]) -> Result<(), PathError> {
    let above = directory.map_or(0, |directory| directory.0.len() + 1);
    match name {
        b"" => Err(PathError::EmptyComponent),
        b"." | b".." => Err(PathError::Dots),
        _ if above + name.len() > MAX_BYTES => Err(PathError::TooLong),
        _ if name.contains(&0) => Err(PathError::Nul),
        _ if name.contains(&b'/') => Err(PathError::Slash),
        _ => Ok(()),
    }
}

impl RelPath {
    /// Parses bytes as a relative path.
    ///
    /// # Errors
    /// The first rule of [`RelPath`] that the bytes break.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        if bytes.len() > MAX_BYTES {
            return Err(PathError::TooLong);
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        if bytes[0] == b'/' {
            return Err(PathError::Absolute);
        }
        for component in bytes.split(|byte| *byte == b'/') {
            match component {
                b"" => return Err(PathError::EmptyComponent),
                b"." | b".." => return Err(PathError::Dots),
                _ => {}
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The path's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for file calls, still relative.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The components, outermost first; never empty.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/')
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.components().next_back().unwrap_or(&self.0)
    }

    /// The path without its last component; `None` for a path of one component.
    #[must_use]
    pub fn parent(&self) -> Option<RelPath> {
        let slash = self.0.iter().rposition(|byte| *byte == b'/')?;
        Some(Self(self.0[..slash].into()))
    }

    /// This path with one more component behind it.
    ///
    /// # Errors
    /// As [`RelPath::parse`]; `name` must be a single component or a relative path.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Self::parse(&bytes)
    }

    /// Compares by components: what lies beneath a directory follows it before anything else does,
    /// `notes/a` before `notes.d`.
    #[must_use]
    pub fn cmp_components(&self, other: &RelPath) -> Ordering {
        // No name holds a NUL, so a slash that counts as one is less than all that a name can hold.
        let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }

    /// Whether this path is `ancestor` or lies beneath it, by whole components.
    #[must_use]
    pub fn starts_with(&self, ancestor: &RelPath) -> bool {
        self.as_path().starts_with(ancestor.as_path())
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_path().display())
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_path())
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <Vec<u8>>::deserialize(deserializer)?;
        Self::parse(&bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_lead_out_are_refused() {
        for (bytes, error) in [
            (&b""[..], PathError::Empty),
            (b"/etc/passwd", PathError::Absolute),
            (b"..", PathError::Dots),
            (b"base/../../x", PathError::Dots),
            (b"./x", PathError::Dots),
            (b"base//1", PathError::EmptyComponent),
            (b"base/", PathError::EmptyComponent),
            (b"a\0b", PathError::Nul),
        ] {
            assert_eq!(RelPath::parse(bytes), Err(error), "{bytes:?}");
        }
        assert_eq!(
            RelPath::parse(&[b'a'; MAX_BYTES + 1]),
            Err(PathError::TooLong)
        );
    }

    #[test]
    fn plain_paths_keep_their_bytes() {
        for bytes in [&b"base/5/1259"[..], b"...", b"a b", b"\xff\xfe"] {
            assert_eq!(RelPath::parse(bytes).unwrap().as_bytes(), bytes);
        }
    }

    #[test]
    fn ancestors_are_whole_components() {
        let path = RelPath::parse(b"pg_wal/x").unwrap();
        assert!(path.starts_with(&RelPath::parse(b"pg_wal").unwrap()));
        assert!(!path.starts_with(&RelPath::parse(b"pg_w").unwrap()));
        assert_eq!(path.parent().unwrap().as_bytes(), b"pg_wal");
        assert_eq!(path.name(), b"x");
    }

    #[test]
    fn a_name_is_checked_as_the_path_with_it_would_be() {
        let directory = RelPath::parse(&[b'd'; MAX_BYTES - 3]).unwrap();
        for (name, error) in [
            (&b""[..], PathError::EmptyComponent),
            (b".", PathError::Dots),
            (b"..", PathError::Dots),
            (b"abc", PathError::TooLong),
            (b"\0", PathError::Nul),
            (b"/", PathError::Slash),
        ] {
            assert_eq!(check_name(Some(&directory), name), Err(error), "{name:?}");
        }
        assert_eq!(check_name(Some(&directory), b"ab"), Ok(()));
        assert_eq!(check_name(None, b"abc"), Ok(()));
    }

    #[test]
    fn what_lies_beneath_a_directory_follows_it() {
        let mut paths = [
            "notes.d", "notes", "base/5.1", "notes/a", "base/5/1", "base/5",
        ]
        .map(|text| RelPath::parse(text.as_bytes()).unwrap());
        paths.sort_by(RelPath::cmp_components);
        let names = paths.map(|path| path.to_string());
        assert_eq!(
            names,
            [
                "base/5", "base/5/1", "base/5.1", "notes", "notes/a", "notes.d"
            ]
        );
    }

    #[test]
    fn a_hostile_path_does_not_decode() {
        let encoded = postcard::to_stdvec(&b"../x".to_vec()).unwrap();
        assert!(postcard::from_bytes::<RelPath>(&encoded).is_err());
        let good = RelPath::parse(b"base/1").unwrap();
        let encoded = postcard::to_stdvec(&good).unwrap();
        assert_eq!(postcard::from_bytes::<RelPath>(&encoded).unwrap(), good);
    }
}
