//! Which mappings and which places are refused: those of somebody else, and those in each other's way.

use std::collections::BTreeSet;

use super::mapping::{Mapping, Wanted};
use super::path::{canonical, is_inside};
use super::places::{Place, PlaceState, TargetPlaces, version_directory};
use crate::facts::{SourceFacts, Tablespace};
use crate::path::RelPath;
use crate::pg::layout::{Class, HostLocal, Kind, classify};
use crate::plan::overrides::Overrides;
use crate::plan::refusal::Refusal;
use crate::plan::words::text;

/// A place that an earlier tablespace has.
pub(super) struct Taken {
    pub location: Vec<u8>,
    pub is_mapped: bool,
}

pub(super) fn judge_mappings(source: &[Tablespace], mappings: &[Mapping]) -> Vec<Refusal> {
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
pub(super) fn judge_location(
    wanted: &Wanted,
    source: &SourceFacts,
    target: &TargetPlaces,
) -> Option<Refusal> {
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
        if source_pgdata != pgdata {
            return Some(inside(&source_pgdata, "the source's data directory"));
        }
        // But not where each rebuild removes all that is there.
        return is_emptied(&wanted.location, &pgdata)
            .then(|| inside(&pgdata, "what each rebuild empties in the data directory"));
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

/// Whether a place is in a directory that each rebuild empties.
fn is_emptied(location: &[u8], pgdata: &[u8]) -> bool {
    let inside = location.strip_prefix(pgdata);
    let inside = inside.and_then(|inside| RelPath::parse(inside.strip_prefix(b"/")?).ok());
    inside.is_some_and(|inside| {
        matches!(
            classify(&inside, Kind::Directory, &HostLocal::none()),
            Class::EmptiedDirectory | Class::InsideEmptied
        )
    })
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
pub(super) fn judge_overlap(wanted: &Wanted, taken: &[Taken]) -> Option<Refusal> {
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

pub(super) fn judge_content(
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
    if is_of_source(wanted, source, target) {
        return None;
    }
    // A link of the target proves nothing: a copied data directory leads to the tablespaces of its original.
    if let Some(other) = &place.sharer
        && (other.server_pid.is_some() || !overrides.reuse_tablespace_dirs)
    {
        return Some(Refusal::LocationShared {
            oid: wanted.tablespace.oid,
            old: wanted.old(),
            location: wanted.location.clone(),
            other: other.clone(),
        });
    }
    if overrides.reuse_tablespace_dirs || is_linked(&wanted.location, place, target) {
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

#[cfg(test)]
mod tests {
    use super::super::places::Sharer;
    use super::super::resolve;
    use super::super::samples::{OTHER_HOST, SAME_KERNEL, names, resolved, source_with, target_at};
    use super::*;
    use crate::plan::samples::tablespace;

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
        target.wal_directory = None;
        for name in ["pg_wal/ts", "pg_replslot/ts"] {
            let emptied = source_with(vec![tablespace(1, &format!("/srv/b/{name}"), 1)]);
            assert_eq!(names(resolved(&emptied, &[], &target)), ["location-inside"]);
        }
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
    fn tablespaces_of_other_data_directories_are_refused_whatever_links_say() {
        let source = source_with(vec![tablespace(1, "/ts", 1)]);
        let reuse = Overrides {
            reuse_tablespace_dirs: true,
            ..Overrides::default()
        };
        for (server_pid, is_overridden) in [(None, true), (Some(7), false)] {
            let mut target = target_at(OTHER_HOST, &[("/ts", PlaceState::OurVersion, Some(9))]);
            target.existing = vec![tablespace(1, "/ts", 9)];
            assert!(resolved(&source, &[], &target).is_ok());
            let place = target.places.get_mut(&b"/ts"[..]).unwrap();
            place.sharer = Some(Sharer {
                pgdata: "/srv/c".to_owned(),
                server_pid,
            });
            assert_eq!(names(resolved(&source, &[], &target)), ["location-shared"]);
            let overridden = resolve(&source, &[], &target, &reuse);
            assert_eq!(overridden.is_ok(), is_overridden);
        }
    }

    #[test]
    fn relative_locations_are_refused() {
        let source = source_with(vec![tablespace(1, "ts", 1)]);
        assert_eq!(
            names(resolved(&source, &[], &target_at(OTHER_HOST, &[]))),
            ["location-not-absolute"]
        );
    }
}
