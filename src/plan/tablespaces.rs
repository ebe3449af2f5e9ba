//! Where each tablespace of the source goes in the target, and which places are refused.
//!
//! The mapping is that of `pg_basebackup --tablespace-mapping` (`tablespace_list_append` and
//! `get_tablespace_mapping` in `src/bin/pg_basebackup/pg_basebackup.c`): OLD is compared, after
//! canonicalisation, with where the source's link leads; what is not mapped keeps the source's path.
//!
//! The target gets links of our own making and **no `tablespace_map`**. At start, a server that
//! reads `backup_label` also reads `tablespace_map`, removes each link that it names and makes it
//! again with the path in the file: the source's path, whatever was mapped
//! (`read_tablespace_map` and its caller in `src/backend/access/transam/xlogrecovery.c`). The file
//! exists for tools that unpack a tar archive without links; without it the server uses the links
//! that it finds, which is what `pg_basebackup` in plain format relies on. An old `tablespace_map`
//! of the target is left out of the new tree like an old `backup_label`.
//!
//! In a tablespace's directory only `PG_<major>_<catalog version>` is a cluster's own; others beside
//! it belong to other majors and are never touched. The writer makes the link before that directory,
//! so that a run that was interrupted in between does not meet its own directory as a stranger's.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::facts::{FileIdentity, SourceFacts, Tablespace};
use crate::pg::version::tablespace_directory;
use crate::plan::overrides::Overrides;
use crate::plan::refusal::Refusal;
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

/// An absolute path without empty and `.` components, with `..` resolved in the text, and without a
/// slash at its end (`canonicalize_path` in `src/port/path.c`, as of 16).
#[must_use]
pub fn canonical(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let mut joined = Vec::with_capacity(path.len());
    for part in parts {
        joined.push(b'/');
        joined.extend_from_slice(part);
    }
    if joined.is_empty() {
        joined.push(b'/');
    }
    joined
}

/// Whether canonical path `inner` is `outer` or lies beneath it.
#[must_use]
pub fn is_inside(inner: &[u8], outer: &[u8]) -> bool {
    match inner.strip_prefix(outer) {
        Some(rest) => rest.is_empty() || rest[0] == b'/' || outer == b"/",
        None => false,
    }
}

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
    /// Whether the agent runs on the same kernel, so that identities can be compared.
    pub is_same_kernel: bool,
    /// What stands at each of [`would_be`]'s paths.
    pub places: BTreeMap<Vec<u8>, Place>,
}

/// Where one tablespace goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub oid: u32,
    /// Where the link leads; `None` for a real directory in pg_tblspc.
    pub location: Option<Vec<u8>>,
    /// The directory does not exist yet.
    pub create: bool,
    /// `pg_tblspc/<oid>` is missing, leads elsewhere, or is a directory instead of a link or the
    /// other way round.
    pub relink: bool,
    /// Where the target had it until now, if that is another place: its files there are no longer
    /// the cluster's, and stay.
    pub former: Option<Vec<u8>>,
}

impl Placement {
    /// The location as a path.
    #[must_use]
    pub fn location_path(&self) -> Option<PathBuf> {
        let location = self.location.as_deref()?;
        Some(PathBuf::from(OsStr::from_bytes(location)))
    }
}

/// The paths that [`resolve`] needs to know about: one for each tablespace that has a location.
#[must_use]
pub fn would_be(source: &[Tablespace], mappings: &[Mapping]) -> BTreeSet<Vec<u8>> {
    source
        .iter()
        .filter_map(|tablespace| mapped(tablespace, mappings))
        .collect()
}

/// The name of the cluster's own directory in a tablespace's location.
#[must_use]
pub fn version_directory(source: &SourceFacts) -> String {
    tablespace_directory(source.version.major(), source.control.catalog_version)
}

/// Decides where each tablespace of the source goes.
///
/// # Errors
/// All refusals, in the order of the mappings and then of the tablespaces.
pub fn resolve(
    source: &SourceFacts,
    mappings: &[Mapping],
    target: &TargetPlaces,
    overrides: &Overrides,
) -> Result<Vec<Placement>, Vec<Refusal>> {
    let mut refusals = judge_mappings(&source.tablespaces, mappings);
    let mut placements = Vec::with_capacity(source.tablespaces.len());
    let mut taken: Vec<Taken> = Vec::new();
    for tablespace in &source.tablespaces {
        let Some(location) = mapped(tablespace, mappings) else {
            placements.push(place_in_pgdata(tablespace.oid, target));
            continue;
        };
        let wanted = Wanted {
            tablespace,
            is_mapped: is_mapped(tablespace, mappings),
            location,
        };
        refusals.extend(judge_location(&wanted, source, target));
        refusals.extend(judge_overlap(&wanted, &taken));
        refusals.extend(judge_content(&wanted, source, target, overrides));
        taken.push(Taken {
            location: wanted.location.clone(),
            is_mapped: wanted.is_mapped,
        });
        placements.push(place(wanted, target));
    }
    if refusals.is_empty() {
        Ok(placements)
    } else {
        Err(refusals)
    }
}

/// The oids of tablespaces that the target has and the source has not: their links must go, and the
/// cluster's version directory behind them.
#[must_use]
pub fn stale_links(
    target: impl IntoIterator<Item = u32>,
    source: impl IntoIterator<Item = u32>,
) -> Vec<u32> {
    let source: BTreeSet<u32> = source.into_iter().collect();
    let stale: BTreeSet<u32> = target
        .into_iter()
        .filter(|oid| !source.contains(oid))
        .collect();
    stale.into_iter().collect()
}

/// A tablespace of the source and where it would go.
struct Wanted<'a> {
    tablespace: &'a Tablespace,
    is_mapped: bool,
    location: Vec<u8>,
}

impl Wanted<'_> {
    /// The source's location: the OLD of a mapping that would help.
    fn old(&self) -> Vec<u8> {
        canonical(self.tablespace.location.as_deref().unwrap_or_default())
    }
}

/// A place that an earlier tablespace has.
struct Taken {
    location: Vec<u8>,
    is_mapped: bool,
}

fn judge_mappings(source: &[Tablespace], mappings: &[Mapping]) -> Vec<Refusal> {
    let known: BTreeSet<Vec<u8>> = source
        .iter()
        .filter_map(|tablespace| tablespace.location.as_deref().map(canonical))
        .collect();
    let mut seen = BTreeSet::new();
    let mut refusals = Vec::new();
    for mapping in mappings {
        if !seen.insert(&mapping.old) {
            refusals.push(Refusal::MappingTwice {
                old: mapping.old.clone(),
            });
        } else if !known.contains(&mapping.old) {
            refusals.push(Refusal::MappingUnknown {
                old: mapping.old.clone(),
                known: known.iter().map(|path| text(path)).collect(),
            });
        }
    }
    refusals
}

/// The place is sane by its path: absolute, outside the data directory, not the source's.
fn judge_location(wanted: &Wanted, source: &SourceFacts, target: &TargetPlaces) -> Option<Refusal> {
    let oid = wanted.tablespace.oid;
    let stored = wanted.tablespace.location.as_deref().unwrap_or_default();
    if !stored.starts_with(b"/") {
        return Some(Refusal::LocationNotAbsolute {
            oid,
            location: stored.to_vec(),
        });
    }
    if is_of_source(wanted, source, target) {
        return Some(Refusal::LocationOfSource {
            oid,
            old: wanted.old(),
            location: wanted.location.clone(),
            suggestion: place_in_use(wanted, source, target),
        });
    }
    let inside = |outer: &[u8], outer_role| Refusal::LocationInside {
        oid,
        old: wanted.old(),
        location: wanted.location.clone(),
        outer: outer.to_vec(),
        outer_role,
    };
    let source_pgdata = canonical(&source.data_directory);
    let pgdata = canonical(&target.pgdata);
    if !wanted.is_mapped && is_inside(&wanted.location, &source_pgdata) {
        // Legal, though the server warns of it: the same path within the same data directory.
        return (source_pgdata != pgdata)
            .then(|| inside(&source_pgdata, "the source's data directory"));
    }
    if is_inside(&wanted.location, &pgdata) {
        return Some(inside(&pgdata, "the data directory"));
    }
    if wanted.is_mapped && target.is_same_kernel {
        if is_inside(&wanted.location, &source_pgdata) {
            return Some(inside(&source_pgdata, "the source's data directory"));
        }
        let theirs = source.tablespaces.iter();
        let mut theirs = theirs.filter_map(|space| space.location.as_deref().map(canonical));
        // At the place itself identity has decided.
        if let Some(outer) =
            theirs.find(|outer| is_inside(&wanted.location, outer) && wanted.location != *outer)
        {
            return Some(inside(&outer, "the source's tablespace"));
        }
    }
    let wal = target.wal_directory.as_deref().map(canonical)?;
    is_inside(&wanted.location, &wal).then(|| inside(&wal, "the WAL directory"))
}

/// Whether the place is one of the source's directories. Two containers on one kernel can have the
/// same path without having the same directory: identity decides where it is known.
fn is_of_source(wanted: &Wanted, source: &SourceFacts, target: &TargetPlaces) -> bool {
    if !target.is_same_kernel {
        return false;
    }
    let here = target
        .places
        .get(&wanted.location)
        .and_then(|place| place.identity);
    let theirs = source
        .tablespaces
        .iter()
        .map(|tablespace| tablespace.identity);
    let theirs = theirs.chain([Some(source.identity), Some(source.wal_identity)]);
    if here.is_some() {
        return theirs.flatten().any(|identity| Some(identity) == here);
    }
    // Not here yet. Where the source's directory is not seen either, only the path can tell.
    source.tablespaces.iter().any(|tablespace| {
        tablespace.identity.is_none()
            && tablespace.location.as_deref().map(canonical).as_ref() == Some(&wanted.location)
    })
}

/// Where the target has this tablespace now, if the source does not use that place.
fn place_in_use(wanted: &Wanted, source: &SourceFacts, target: &TargetPlaces) -> Option<Vec<u8>> {
    let existing = target
        .existing
        .iter()
        .find(|existing| existing.oid == wanted.tablespace.oid)?;
    let location = existing.location.as_deref().map(canonical)?;
    let is_the_sources = source.tablespaces.iter().any(|tablespace| {
        tablespace.location.as_deref().map(canonical).as_ref() == Some(&location)
            || (tablespace.identity.is_some() && tablespace.identity == existing.identity)
    });
    (!is_the_sources).then_some(location)
}

/// A mapped place must not overlap another. Two that the source itself has are as the source wants
/// them, even one inside the other: each has its version directory of its own.
fn judge_overlap(wanted: &Wanted, taken: &[Taken]) -> Option<Refusal> {
    let other = taken.iter().find(|other| {
        let overlap = is_inside(&wanted.location, &other.location)
            || is_inside(&other.location, &wanted.location);
        overlap && (wanted.is_mapped || other.is_mapped || wanted.location == other.location)
    })?;
    Some(Refusal::LocationsOverlap {
        location: wanted.location.clone(),
        other: other.location.clone(),
    })
}

fn judge_content(
    wanted: &Wanted,
    source: &SourceFacts,
    target: &TargetPlaces,
    overrides: &Overrides,
) -> Option<Refusal> {
    let place = target.places.get(&wanted.location)?;
    if place.state == PlaceState::NotDirectory {
        return Some(Refusal::LocationNotDirectory {
            location: wanted.location.clone(),
        });
    }
    if overrides.reuse_tablespace_dirs
        || is_linked(&wanted.location, place, target)
        || is_of_source(wanted, source, target)
    {
        return None;
    }
    match &place.state {
        PlaceState::OurVersion => Some(Refusal::LocationInUse {
            location: wanted.location.clone(),
            version_directory: version_directory(source),
        }),
        PlaceState::ForeignContent { example } => Some(Refusal::LocationNotEmpty {
            location: wanted.location.clone(),
            example: example.clone(),
        }),
        _ => None,
    }
}

/// Whether any link of the target leads to the place: then what is there is the target's own, also
/// when both sides made a tablespace of another number there after they parted.
fn is_linked(location: &[u8], place: &Place, target: &TargetPlaces) -> bool {
    target.existing.iter().any(|existing| {
        existing.location.as_deref().map(canonical).as_deref() == Some(location)
            || (existing.identity.is_some() && existing.identity == place.identity)
    })
}

fn place(wanted: Wanted, target: &TargetPlaces) -> Placement {
    let oid = wanted.tablespace.oid;
    let existing = target.existing.iter().find(|existing| existing.oid == oid);
    let now = existing.and_then(|existing| existing.location.as_deref().map(canonical));
    let relink = now.as_ref() != Some(&wanted.location);
    Placement {
        oid,
        create: target
            .places
            .get(&wanted.location)
            .is_none_or(|place| place.state == PlaceState::Missing),
        relink,
        former: now.filter(|_| relink),
        location: Some(wanted.location),
    }
}

fn place_in_pgdata(oid: u32, target: &TargetPlaces) -> Placement {
    let existing = target.existing.iter().find(|existing| existing.oid == oid);
    let former = existing.and_then(|existing| existing.location.as_deref().map(canonical));
    Placement {
        oid,
        location: None,
        create: existing.is_none_or(|existing| existing.location.is_some()),
        relink: former.is_some(),
        former,
    }
}

/// Where the tablespace goes; `None` for one without a location.
fn mapped(tablespace: &Tablespace, mappings: &[Mapping]) -> Option<Vec<u8>> {
    let location = canonical(tablespace.location.as_deref()?);
    let mapping = mappings.iter().find(|mapping| mapping.old == location);
    Some(mapping.map_or(location, |mapping| mapping.new.clone()))
}

fn is_mapped(tablespace: &Tablespace, mappings: &[Mapping]) -> bool {
    let location = tablespace.location.as_deref().map(canonical);
    mappings
        .iter()
        .any(|mapping| Some(&mapping.old) == location.as_ref())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::samples::{identity, source, tablespace};

    const OTHER_HOST: bool = false;
    const SAME_KERNEL: bool = true;

    fn mapping(text: &str) -> Mapping {
        Mapping::parse(text.as_bytes()).unwrap()
    }

    fn source_with(tablespaces: Vec<Tablespace>) -> SourceFacts {
        SourceFacts {
            tablespaces,
            ..source()
        }
    }

    fn target_at(is_same_kernel: bool, places: &[(&str, PlaceState, Option<u64>)]) -> TargetPlaces {
        TargetPlaces {
            pgdata: b"/srv/a".to_vec(),
            is_same_kernel,
            places: places
                .iter()
                .map(|(path, state, inode)| {
                    let place = Place {
                        state: state.clone(),
                        identity: inode.map(identity),
                    };
                    (path.as_bytes().to_vec(), place)
                })
                .collect(),
            ..TargetPlaces::default()
        }
    }

    fn names(result: Result<Vec<Placement>, Vec<Refusal>>) -> Vec<&'static str> {
        match result {
            Ok(_) => Vec::new(),
            Err(refusals) => refusals.iter().map(Refusal::name).collect(),
        }
    }

    fn resolved(
        source: &SourceFacts,
        mappings: &[&str],
        target: &TargetPlaces,
    ) -> Result<Vec<Placement>, Vec<Refusal>> {
        let mappings: Vec<Mapping> = mappings.iter().map(|text| mapping(text)).collect();
        resolve(source, &mappings, target, &Overrides::default())
    }

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

    fn canonical_paths_hold(path: &[u8]) {
        let once = canonical(path);
        assert_eq!(canonical(&once), once);
        assert!(once.starts_with(b"/"));
        assert!(once == b"/" || !once.ends_with(b"/"));
        assert!(is_inside(&once, b"/") && is_inside(&once, &once));
    }

    #[test]
    fn canonical_paths_cases() {
        for path in ["/", "//", "/..", "/a/../..", "/.", "/a/b/", "/..a/.b"] {
            canonical_paths_hold(path.as_bytes());
        }
        assert_eq!(canonical(b"/..a/.b"), b"/..a/.b");
        assert!(!is_inside(b"/ab", b"/a"));
        assert!(is_inside(b"/a/b", b"/a"));
        assert!(!is_inside(b"/a", b"/a/b"));
    }

    proptest! {
        #[test]
        fn canonical_paths_random(path in "/[./a]{0,20}") {
            canonical_paths_hold(path.as_bytes());
        }

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

    #[test]
    fn unmapped_tablespaces_keep_the_sources_path() {
        let source = source_with(vec![tablespace(16_400, "/ts/", 1)]);
        let mut target = target_at(OTHER_HOST, &[("/ts", PlaceState::Missing, None)]);
        let placement = Placement {
            oid: 16_400,
            location: Some(b"/ts".to_vec()),
            create: true,
            relink: true,
            former: None,
        };
        assert_eq!(resolved(&source, &[], &target), Ok(vec![placement.clone()]));
        // Linked there already.
        target = target_at(OTHER_HOST, &[("/ts", PlaceState::OurVersion, Some(9))]);
        target.existing = vec![tablespace(16_400, "/ts", 9)];
        let kept = Placement {
            create: false,
            relink: false,
            ..placement.clone()
        };
        assert_eq!(resolved(&source, &[], &target), Ok(vec![kept]));
        // Linked elsewhere.
        target = target_at(OTHER_HOST, &[("/ts", PlaceState::Free, Some(9))]);
        target.existing = vec![tablespace(16_400, "/old", 8)];
        let moved = Placement {
            create: false,
            former: Some(b"/old".to_vec()),
            ..placement
        };
        assert_eq!(resolved(&source, &[], &target), Ok(vec![moved]));
    }

    #[test]
    fn mapped_tablespaces_go_where_they_are_told() {
        let source = source_with(vec![tablespace(1, "/ts1", 1), tablespace(2, "/ts2", 2)]);
        let target = target_at(SAME_KERNEL, &[]);
        let placements = resolved(&source, &["/ts1=/new1", "/ts2/=/new2"], &target).unwrap();
        assert_eq!(placements[0].location.as_deref(), Some(&b"/new1"[..]));
        assert_eq!(placements[1].location.as_deref(), Some(&b"/new2"[..]));
    }

    #[test]
    fn in_place_tablespaces_stay_in_the_data_directory() {
        let in_place = Tablespace {
            oid: 7,
            location: None,
            identity: None,
        };
        let source = source_with(vec![in_place.clone()]);
        let mut target = target_at(OTHER_HOST, &[]);
        let placement = resolved(&source, &[], &target).unwrap().remove(0);
        assert!(placement.create && !placement.relink && placement.location.is_none());
        target.existing = vec![in_place];
        let placement = resolved(&source, &[], &target).unwrap().remove(0);
        assert!(!placement.create && !placement.relink);
        target.existing = vec![tablespace(7, "/was/linked", 3)];
        let placement = resolved(&source, &[], &target).unwrap().remove(0);
        assert!(placement.create && placement.relink);
    }

    #[test]
    fn mappings_that_match_nothing_or_twice_are_refused() {
        let source = source_with(vec![tablespace(1, "/ts1", 1)]);
        let target = target_at(OTHER_HOST, &[]);
        assert_eq!(
            names(resolved(&source, &["/ts2=/x"], &target)),
            ["mapping-unknown"]
        );
        assert_eq!(
            names(resolved(&source, &["/ts1=/x", "/ts1=/y"], &target)),
            ["mapping-twice"]
        );
    }

    #[test]
    fn the_sources_own_directory_is_refused_with_the_mapping_to_use() {
        let source = source_with(vec![tablespace(1, "/ts1", 1)]);
        // The same directory is there.
        let mut target = target_at(SAME_KERNEL, &[("/ts1", PlaceState::OurVersion, Some(1))]);
        target.existing = vec![tablespace(1, "/mine", 5)];
        let refusals = resolved(&source, &[], &target).unwrap_err();
        assert_eq!(refusals.len(), 1);
        assert!(
            refusals[0]
                .hint()
                .contains("--tablespace-mapping=/ts1=/mine"),
            "{}",
            refusals[0].hint()
        );
        // Reached by another path, mapped or not.
        let target = target_at(SAME_KERNEL, &[("/other", PlaceState::OurVersion, Some(1))]);
        assert_eq!(
            names(resolved(&source, &["/ts1=/other"], &target)),
            ["location-of-source"]
        );
        // Another container on the kernel has its own directory at the path, or none yet.
        for place in [(PlaceState::Free, Some(77)), (PlaceState::Missing, None)] {
            let target = target_at(SAME_KERNEL, &[("/ts1", place.0, place.1)]);
            assert!(resolved(&source, &[], &target).is_ok());
        }
        // Another host: numbers mean nothing.
        let target = target_at(OTHER_HOST, &[("/ts1", PlaceState::Free, Some(1))]);
        assert!(resolved(&source, &[], &target).is_ok());
    }

    #[test]
    fn overlapping_places_are_refused() {
        let source = source_with(vec![tablespace(1, "/ts1", 1), tablespace(2, "/ts2", 2)]);
        let target = target_at(OTHER_HOST, &[]);
        for mappings in [
            &["/ts1=/x", "/ts2=/x"][..],
            &["/ts1=/x/y", "/ts2=/x"],
            &["/ts1=/ts2"],
            &["/ts2=/ts1/sub"],
        ] {
            assert_eq!(
                names(resolved(&source, mappings, &target)),
                ["locations-overlap"],
                "{mappings:?}"
            );
        }
        assert!(resolved(&source, &["/ts1=/ts2x", "/ts2=/x"], &target).is_ok());
        // The source has one inside the other: so be it.
        let nested = source_with(vec![tablespace(1, "/ts", 1), tablespace(2, "/ts/sub", 2)]);
        assert!(resolved(&nested, &[], &target).is_ok());
    }

    #[test]
    fn places_inside_the_data_directories_are_refused() {
        let source = source_with(vec![tablespace(1, "/ts1", 1)]);
        let mut target = target_at(OTHER_HOST, &[]);
        target.wal_directory = Some(b"/wal/a".to_vec());
        for mapped in ["/ts1=/srv/a", "/ts1=/srv/a/ts", "/ts1=/wal/a/ts"] {
            assert_eq!(
                names(resolved(&source, &[mapped], &target)),
                ["location-inside"],
                "{mapped}"
            );
        }
        assert!(resolved(&source, &["/ts1=/srv/a2"], &target).is_ok());

        // The source has it in its own data directory.
        let inside = source_with(vec![tablespace(1, "/srv/b/ts", 1)]);
        assert_eq!(names(resolved(&inside, &[], &target)), ["location-inside"]);
        assert!(resolved(&inside, &["/srv/b/ts=/x"], &target).is_ok());
        target.pgdata = b"/srv/b".to_vec();
        assert!(resolved(&inside, &[], &target).is_ok());
    }

    #[test]
    fn mapped_places_inside_the_source_are_refused_on_one_kernel() {
        let source = source_with(vec![tablespace(1, "/ts1", 1)]);
        for mapped in ["/ts1=/srv/b/ts", "/ts1=/ts1/below"] {
            let here = target_at(SAME_KERNEL, &[]);
            assert_eq!(
                names(resolved(&source, &[mapped], &here)),
                ["location-inside"]
            );
            let there = target_at(OTHER_HOST, &[]);
            assert!(resolved(&source, &[mapped], &there).is_ok());
        }
    }

    #[test]
    fn directories_of_strangers_are_refused() {
        let source = source_with(vec![tablespace(1, "/ts", 1)]);
        let foreign = PlaceState::ForeignContent {
            example: "photos".to_owned(),
        };
        for (state, name) in [
            (PlaceState::OurVersion, "location-in-use"),
            (foreign, "location-not-empty"),
        ] {
            let mut target = target_at(OTHER_HOST, &[("/ts", state, Some(9))]);
            assert_eq!(names(resolved(&source, &[], &target)), [name]);
            let overrides = Overrides {
                reuse_tablespace_dirs: true,
                ..Overrides::default()
            };
            assert!(resolve(&source, &[], &target, &overrides).is_ok());
            // A link of the target leads there, by path or by another name of the directory.
            for link in [tablespace(5, "/ts", 1), tablespace(5, "/alias", 9)] {
                target.existing = vec![link];
                assert!(resolved(&source, &[], &target).is_ok());
            }
        }
        let target = target_at(OTHER_HOST, &[("/ts", PlaceState::NotDirectory, Some(9))]);
        assert_eq!(
            names(resolved(&source, &[], &target)),
            ["location-not-directory"]
        );
    }

    #[test]
    fn relative_locations_are_refused() {
        let source = source_with(vec![tablespace(1, "ts", 1)]);
        assert_eq!(
            names(resolved(&source, &[], &target_at(OTHER_HOST, &[]))),
            ["location-not-absolute"]
        );
    }

    #[test]
    fn tablespaces_that_only_the_target_has_are_stale() {
        assert_eq!(stale_links([3, 1, 2], [2]), [1, 3]);
        assert_eq!(stale_links([2], [2, 3]), Vec::<u32>::new());
    }
}
