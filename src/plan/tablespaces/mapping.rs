//! One `--tablespace-mapping` as pg_basebackup reads it, and where all of them send a tablespace.

use super::path::canonical;
use crate::facts::Tablespace;
use crate::plan::words::text;

/// Longest path in bytes that PostgreSQL accepts, its NUL included (`MAXPGPATH`).
const MAX_PATH_BYTES: usize = 1024;

/// One `--tablespace-mapping`: both paths absolute and canonical.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Where the source's link leads.
    pub old: Vec<u8>,
    /// Where it leads in the target.
    pub new: Vec<u8>,
}

/// Why a text is not a [`Mapping`]; the words are those of pg_basebackup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    #[error("invalid tablespace mapping format \"{text}\", must be \"OLDDIR=NEWDIR\"")]
    Format { text: String },
    #[error("multiple \"=\" signs in tablespace mapping \"{text}\"")]
    ManyEquals { text: String },
    #[error("{side} directory is not an absolute path in tablespace mapping: {path}")]
    NotAbsolute { side: &'static str, path: String },
    #[error("directory name too long in tablespace mapping \"{text}\"")]
    TooLong { text: String },
}

impl Mapping {
    /// Parses `OLD=NEW`; an equals sign within a path is written `\=`.
    ///
    /// # Errors
    /// [`MappingError`], where pg_basebackup too refuses.
    pub fn parse(argument: &[u8]) -> Result<Self, MappingError> {
        let [mut old, mut new] = [Vec::new(), Vec::new()];
        let mut is_new = false;
        let mut bytes = argument.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' if bytes.peek() == Some(&b'=') => {
                    // The next byte is taken as it is.
                    bytes.next();
                    if is_new { &mut new } else { &mut old }.push(b'=');
                }
                b'=' if is_new => {
                    return Err(MappingError::ManyEquals {
                        text: text(argument),
                    });
                }
                b'=' => is_new = true,
                _ => if is_new { &mut new } else { &mut old }.push(byte),
            }
        }
        if old.is_empty() || new.is_empty() {
            return Err(MappingError::Format {
                text: text(argument),
            });
        }
        if old.len() >= MAX_PATH_BYTES || new.len() >= MAX_PATH_BYTES {
            return Err(MappingError::TooLong {
                text: text(argument),
            });
        }
        for (side, path) in [("old", &old), ("new", &new)] {
            if !path.starts_with(b"/") {
                return Err(MappingError::NotAbsolute {
                    side,
                    path: text(path),
                });
            }
        }
        Ok(Self {
            old: canonical(&old),
            new: canonical(&new),
        })
    }
}

/// A tablespace of the source and where it would go.
pub(super) struct Wanted<'a> {
    pub tablespace: &'a Tablespace,
    pub is_mapped: bool,
    pub location: Vec<u8>,
}

impl Wanted<'_> {
    /// The source's location: the OLD of a mapping that would help.
    pub fn old(&self) -> Vec<u8> {
        canonical(self.tablespace.location.as_deref().unwrap_or_default())
    }
}

/// Where the tablespace goes; `None` for one without a location.
pub(super) fn mapped(tablespace: &Tablespace, mappings: &[Mapping]) -> Option<Vec<u8>> {
    let location = canonical(tablespace.location.as_deref()?);
    let mapping = mappings.iter().find(|mapping| mapping.old == location);
    Some(mapping.map_or(location, |mapping| mapping.new.clone()))
}

pub(super) fn is_mapped(tablespace: &Tablespace, mappings: &[Mapping]) -> bool {
    let location = tablespace.location.as_deref().map(canonical);
    mappings
        .iter()
        .any(|mapping| Some(&mapping.old) == location.as_ref())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::path::tests::canonical_paths_hold;
    use super::super::samples::mapping;
    use super::*;

    #[test]
    fn mappings_parse_as_pg_basebackup_reads_them() {
        for (text, old, new) in [
            ("/a=/b", "/a", "/b"),
            ("/a/=/b//", "/a", "/b"),
            ("/a/./x=/b/../c", "/a/x", "/c"),
            ("/a\\=1=/b\\=2", "/a=1", "/b=2"),
            ("/a\\b=/c\\d", "/a\\b", "/c\\d"),
        ] {
            let mapping = mapping(text);
            assert_eq!(mapping.old, old.as_bytes(), "{text}");
            assert_eq!(mapping.new, new.as_bytes(), "{text}");
        }
    }

    #[test]
    fn broken_mappings_say_what_is_wrong() {
        for (text, message) in [
            (
                "",
                "invalid tablespace mapping format \"\", must be \"OLDDIR=NEWDIR\"",
            ),
            (
                "/a",
                "invalid tablespace mapping format \"/a\", must be \"OLDDIR=NEWDIR\"",
            ),
            (
                "/a=",
                "invalid tablespace mapping format \"/a=\", must be \"OLDDIR=NEWDIR\"",
            ),
            (
                "=/b",
                "invalid tablespace mapping format \"=/b\", must be \"OLDDIR=NEWDIR\"",
            ),
            (
                "/a=/b=/c",
                "multiple \"=\" signs in tablespace mapping \"/a=/b=/c\"",
            ),
            (
                "a=/b",
                "old directory is not an absolute path in tablespace mapping: a",
            ),
            (
                "/a=b",
                "new directory is not an absolute path in tablespace mapping: b",
            ),
        ] {
            let error = Mapping::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let long = format!("/a=/{}", "b".repeat(MAX_PATH_BYTES));
        assert!(matches!(
            Mapping::parse(long.as_bytes()),
            Err(MappingError::TooLong { .. })
        ));
    }

    proptest! {
        /// Any two paths survive the way through a mapping's text.
        #[test]
        fn escaped_mappings_come_back_random(old in "/[a=]{1,8}", new in "/[a=]{1,8}") {
            let escaped = |path: &str| path.replace('=', "\\=");
            let parsed = mapping(&format!("{}={}", escaped(&old), escaped(&new)));
            prop_assert_eq!(parsed.old, old.as_bytes());
            prop_assert_eq!(parsed.new, new.as_bytes());
        }

        #[test]
        fn arbitrary_mappings_do_not_panic(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(mapping) = Mapping::parse(&text) {
                canonical_paths_hold(&mapping.old);
                canonical_paths_hold(&mapping.new);
            }
        }

    }
}
