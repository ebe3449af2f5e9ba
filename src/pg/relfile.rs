//! Names of the files that hold relations, and where they lie.
//!
//! Names follow `parse_filename_for_nontemp_relation` in `src/backend/storage/file/reinit.c` (its
//! stricter form, of 17) and `looks_like_temp_rel_name` in `src/backend/storage/file/fd.c`, places
//! `GetRelationPath` in `src/common/relpath.c`. Says nothing of whether a file is wanted: that is
//! [`layout`](super::layout).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::path::RelPath;

/// The tablespace of all that lies in `base` (`DEFAULTTABLESPACE_OID`).
pub const DEFAULT_TABLESPACE: u32 = 1663;

/// The tablespace of all that lies in `global` (`GLOBALTABLESPACE_OID`).
pub const GLOBAL_TABLESPACE: u32 = 1664;

/// One of the files that a relation consists of (`ForkNumber`).
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fork {
    /// The rows or the index entries.
    Main,
    /// The free space map.
    Fsm,
    /// The visibility map.
    Vm,
    /// What an unlogged relation is reset to; only those have it.
    Init,
}

impl Fork {
    /// What stands behind the number in a file name (`forkNames`).
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Fsm => "_fsm",
            Self::Vm => "_vm",
            Self::Init => "_init",
        }
    }
}

/// One segment of one fork of a relation.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelFile {
    /// The number in the name; not 0, and not the relation's OID in general.
    pub relfilenode: u32,
    pub fork: Fork,
    /// Counts from 0, which the name does not show.
    pub segment: u32,
}

impl fmt::Display for RelFile {
    /// Writes the file name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.relfilenode, self.fork.suffix())?;
        match self.segment {
            0 => Ok(()),
            segment => write!(f, ".{segment}"),
        }
    }
}

/// Parses a file name; `None` for all that is no permanent or unlogged relation's.
#[must_use]
pub fn parse(name: &[u8]) -> Option<RelFile> {
    let (number, rest) = split_digits(name);
    let relfilenode = number_without_leading_zero(number)?;
    let (fork, rest) = split_fork(rest);
    let segment = match rest.strip_prefix(b".") {
        Some(digits) => number_without_leading_zero(digits)?,
        None if rest.is_empty() => 0,
        None => return None,
    };
    Some(RelFile {
        relfilenode,
        fork,
        segment,
    })
}

/// Whether this is the name of a temporary relation's file, `t3_16384` for instance. The server
/// removes such files at every start.
#[must_use]
pub fn is_temp_relation(name: &[u8]) -> bool {
    let shape = || {
        let (backend, rest) = split_digits(name.strip_prefix(b"t")?);
        let (number, rest) = split_digits(rest.strip_prefix(b"_")?);
        let (_, rest) = split_fork(rest);
        let segment_ends_it = match rest.strip_prefix(b".") {
            Some(digits) => is_digits(digits),
            None => rest.is_empty(),
        };
        Some(is_digits(backend) && is_digits(number) && segment_ends_it)
    };
    shape().unwrap_or(false)
}

/// The OIDs of tablespace and database of a relation's file (database 0 for `global`), and what the
/// name says; `None` for paths that are no relation's.
#[must_use]
pub fn location_of(path: &RelPath) -> Option<(u32, u32, RelFile)> {
    let (tablespace, database) = database_directory(&path.parent()?)?;
    let file = parse(path.name())?;
    Some((tablespace, database, file))
}

/// Whether the path is a relation's file: right name in the right place.
#[must_use]
pub fn is_relation_path(path: &RelPath) -> bool {
    location_of(path).is_some()
}

/// The OIDs of tablespace and database whose relations lie in a directory: `global`, `base/5`,
/// `pg_tblspc/16390/PG_15_202209061/5`.
#[must_use]
pub fn database_directory(directory: &RelPath) -> Option<(u32, u32)> {
    // A relation lies at most four directories deep.
    let mut components = directory.components();
    let mut next = || components.next();
    match (next(), next(), next(), next(), next()) {
        (Some(b"global"), None, ..) => Some((GLOBAL_TABLESPACE, 0)),
        (Some(b"base"), Some(database), None, ..) => {
            Some((DEFAULT_TABLESPACE, number_without_leading_zero(database)?))
        }
        (Some(b"pg_tblspc"), Some(tablespace), Some(version), Some(database), None) => {
            let tablespace = number_without_leading_zero(tablespace)?;
            let database = number_without_leading_zero(database)?;
            is_tablespace_directory(version).then_some((tablespace, database))
        }
        _ => None,
    }
}

/// Whether a name has the form `PG_<major>_<catalog version>`, of whatever version.
#[must_use]
pub fn is_tablespace_directory(name: &[u8]) -> bool {
    tablespace_directory_major(name).is_some()
}

/// The major version in such a name.
#[must_use]
pub fn tablespace_directory_major(name: &[u8]) -> Option<u32> {
    let (major, rest) = split_digits(name.strip_prefix(b"PG_")?);
    let catalog_version = rest.strip_prefix(b"_")?;
    let has_shape = is_digits(major) && is_digits(catalog_version);
    has_shape.then(|| std::str::from_utf8(major).ok()?.parse().ok())?
}

/// A decimal number from 1 to 4294967295 that does not start with a zero, as the server writes OIDs.
#[must_use]
pub fn number_without_leading_zero(digits: &[u8]) -> Option<u32> {
    if digits.first() == Some(&b'0') || !is_digits(digits) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether there is at least one byte and all are decimal digits.
fn is_digits(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit)
}

/// The leading decimal digits, and what follows them.
fn split_digits(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(bytes.len());
    bytes.split_at(end)
}

/// The fork that a suffix names (`Main` without one), and what follows it.
fn split_fork(bytes: &[u8]) -> (Fork, &[u8]) {
    for fork in [Fork::Fsm, Fork::Vm, Fork::Init] {
        if let Some(rest) = bytes.strip_prefix(fork.suffix().as_bytes()) {
            return (fork, rest);
        }
    }
    (Fork::Main, bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn names_of_relations_are_read() {
        for (name, relfilenode, fork, segment) in [
            ("16384", 16384, Fork::Main, 0),
            ("1", 1, Fork::Main, 0),
            ("4294967295", u32::MAX, Fork::Main, 0),
            ("16384.1", 16384, Fork::Main, 1),
            ("16384_fsm", 16384, Fork::Fsm, 0),
            ("16384_vm.12", 16384, Fork::Vm, 12),
            ("16384_init", 16384, Fork::Init, 0),
        ] {
            let file = RelFile {
                relfilenode,
                fork,
                segment,
            };
            assert_eq!(parse(name.as_bytes()), Some(file), "{name}");
            assert_eq!(file.to_string(), name);
        }
    }

    #[test]
    fn other_names_are_not() {
        for name in [
            "",
            "0",
            "016384",
            "4294967296",
            "16384.",
            "16384.0",
            "16384.01",
            "16384.4294967296",
            "16384_",
            "16384_main",
            "16384_fsm_vm",
            "16384.1_fsm",
            "16384_vm1",
            "16384 ",
            "-1",
            "+1",
            "1a",
            "t3_16384",
            "pg_filenode.map",
            "pg_control",
            "PG_VERSION",
            "\u{661}",
        ] {
            assert_eq!(parse(name.as_bytes()), None, "{name:?}");
        }
    }

    #[test]
    fn temporary_relations_are_told() {
        for name in [
            "t3_16384",
            "t0_1",
            "t12_16384_fsm",
            "t3_16384_vm.2",
            "t3_16384.1",
        ] {
            assert!(is_temp_relation(name.as_bytes()), "{name}");
        }
        for name in [
            "", "t", "t_1", "t3_", "t3", "t3_1_", "t3_1.", "t3_1_foo", "t3_1x", "16384", "T3_1",
            "tt3_1",
        ] {
            assert!(!is_temp_relation(name.as_bytes()), "{name:?}");
        }
    }

    #[test]
    fn places_tell_tablespace_and_database() {
        let file = parse(b"1259.2").unwrap();
        for (text, expected) in [
            ("global/1259.2", Some((1664, 0))),
            ("base/5/1259.2", Some((1663, 5))),
            ("pg_tblspc/16390/PG_15_202209061/5/1259.2", Some((16390, 5))),
            ("1259.2", None),
            ("base/1259.2", None),
            ("base/05/1259.2", None),
            ("base/pgsql_tmp/1259.2", None),
            ("base/5/6/1259.2", None),
            ("pg_tblspc/16390/5/1259.2", None),
            ("pg_tblspc/16390/PG_15_202209061/1259.2", None),
            ("pg_tblspc/x/PG_15_202209061/5/1259.2", None),
            ("pg_tblspc/16390/PG_15/5/1259.2", None),
            ("pg_tblspc/16390/PG_15_202209061/5/6/1259.2", None),
            ("pg_xact/1259.2", None),
        ] {
            let expected = expected.map(|(tablespace, database)| (tablespace, database, file));
            assert_eq!(location_of(&path(text)), expected, "{text}");
            assert_eq!(is_relation_path(&path(text)), expected.is_some());
        }
        assert!(!is_relation_path(&path("global/pg_control")));
        assert!(!is_relation_path(&path("base/5/pg_filenode.map")));
    }

    #[test]
    fn directories_of_versions_are_told() {
        assert!(is_tablespace_directory(b"PG_15_202209061"));
        for name in [
            "",
            "PG_",
            "PG_15",
            "PG_15_",
            "PG__1",
            "pg_15_202209061",
            "PG_15_1x",
        ] {
            assert!(!is_tablespace_directory(name.as_bytes()), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(name: Vec<u8>, shaped in "t?[0-9_]{0,12}(_fsm|_vm|_init)?[.0-9]{0,12}") {
            for name in [&name[..], shaped.as_bytes()] {
                let _ = is_temp_relation(name);
                let _ = is_tablespace_directory(name);
                if let Some(file) = parse(name) {
                    prop_assert_eq!(file.to_string().into_bytes(), name);
                    prop_assert!(!is_temp_relation(name));
                }
                if let Ok(path) = RelPath::parse(name) {
                    prop_assert_eq!(location_of(&path), None);
                }
            }
        }
    }
}
