//! What stands where tablespaces and pg_wal are or shall be: the client looks, here is what it may say.

use std::collections::BTreeMap;

use crate::facts::{FileIdentity, SourceFacts, Tablespace};
use crate::pg::version::tablespace_directory;
use crate::plan::words::text;

/// What stands where a tablespace shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceState {
    Missing,
    Empty,
    /// Only directories of other majors: where PostgreSQL itself would make a tablespace.
    Free,
    /// It holds the source's version directory, of this cluster or of another.
    OurVersion,
    /// It holds something that is no part of a tablespace, and not our version directory.
    ForeignContent {
        example: String,
    },
    NotDirectory,
}

impl PlaceState {
    /// The state of a directory by the names in it.
    #[must_use]
    pub fn of_directory<'a>(
        names: impl IntoIterator<Item = &'a [u8]>,
        version_directory: &str,
    ) -> Self {
        let mut example = None;
        let mut is_empty = true;
        for name in names {
            is_empty = false;
            if name == version_directory.as_bytes() {
                return PlaceState::OurVersion;
            }
            if !name.starts_with(b"PG_") {
                example.get_or_insert_with(|| text(name));
            }
        }
        match example {
            Some(example) => PlaceState::ForeignContent { example },
            None if is_empty => PlaceState::Empty,
            None => PlaceState::Free,
        }
    }
}

/// A would-be place of a tablespace, as the client found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub state: PlaceState,
    /// Where it exists, its links followed.
    pub identity: Option<FileIdentity>,
    /// Another data directory whose tablespace it is.
    pub sharer: Option<Sharer>,
}

/// Another data directory that uses a directory to which the target leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharer {
    /// Its path, for people.
    pub pgdata: String,
    /// A process of the server that runs in it.
    pub server_pid: Option<u32>,
}

/// A directory behind a link of the target, which every rebuild empties, and who else uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedLink {
    /// Relative to the data directory.
    pub link: String,
    pub location: Vec<u8>,
    pub sharer: Sharer,
}

/// What is behind the link of a tablespace that the target has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    pub sharer: Option<Sharer>,
    /// The version directory there belongs to the user who runs the rebuild, or there is none.
    pub is_owner: bool,
}

/// A link whose end does not exist, on the way to a directory that a rebuild needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dangling {
    /// Its path; of one of the data directory's own, the path in there.
    pub link: String,
    pub leads_to: String,
    /// It stands in the place of the data directory, or above.
    pub is_above: bool,
}

/// What the client knows about places on its host.
#[derive(Debug, Clone, Default)]
pub struct TargetPlaces {
    /// The data directory, absolute, its links resolved as far as it exists.
    pub pgdata: Vec<u8>,
    /// Where pg_wal really is, or shall be, when that is not in the data directory.
    pub wal_directory: Option<Vec<u8>>,
    /// What stands where pg_wal shall be, if it is not there yet and `--waldir` says where.
    pub new_waldir: Option<(Vec<u8>, Place)>,
    /// The tablespaces that the target has: its links and directories in pg_tblspc.
    pub existing: Vec<Tablespace>,
    /// By the object ids of those with a location: what is there.
    pub behind: BTreeMap<u32, Behind>,
    /// Directories that are emptied, behind links, that another data directory uses.
    pub shared_links: Vec<SharedLink>,
    pub dangling: Vec<Dangling>,
    /// Whether the agent runs on the same kernel, so that identities can be compared.
    pub is_same_kernel: bool,
    /// What stands at each of [`would_be`](super::would_be)'s paths.
    pub places: BTreeMap<Vec<u8>, Place>,
}

/// The name of the cluster's own directory in a tablespace's location.
#[must_use]
pub fn version_directory(source: &SourceFacts) -> String {
    tablespace_directory(source.version.major(), source.control.catalog_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_judged_by_the_names_in_them() {
        let state = |names: &[&str]| {
            PlaceState::of_directory(names.iter().map(|name| name.as_bytes()), "PG_15_202209061")
        };
        assert_eq!(state(&[]), PlaceState::Empty);
        assert_eq!(state(&["PG_14_202107181"]), PlaceState::Free);
        assert_eq!(state(&["x", "PG_15_202209061"]), PlaceState::OurVersion);
        assert_eq!(
            state(&["PG_14_202107181", "x"]),
            PlaceState::ForeignContent {
                example: "x".to_owned()
            }
        );
    }
}
