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
//!
//! - `mapping`: `--tablespace-mapping`, and where it sends a tablespace.
//! - `path`: paths as text: canonical, and one inside the other.
//! - `places`: what the client tells of its host.
//! - `judge`: which places are refused.
//! - `stale`: what becomes of those that the source does not have.
//! - `placement`: where a tablespace goes, and what must be done for it.

mod judge;
mod mapping;
mod path;
mod placement;
mod places;
mod stale;

use std::collections::BTreeSet;

pub use self::mapping::{Mapping, MappingError};
pub use self::path::{canonical, is_inside};
pub use self::placement::Placement;
pub use self::places::{
    Behind, Dangling, Place, PlaceState, SharedLink, Sharer, TargetPlaces, version_directory,
};
pub use self::stale::{StaleTablespace, stale};

use self::judge::{Taken, judge_content, judge_location, judge_mappings, judge_overlap};
use self::mapping::{Wanted, is_mapped, mapped};
use self::placement::{place, place_in_pgdata};
use crate::facts::{SourceFacts, Tablespace};
use crate::plan::overrides::Overrides;
use crate::plan::refusal::Refusal;

/// The paths that [`resolve`] needs to know about: one for each tablespace that has a location.
#[must_use]
pub fn would_be(source: &[Tablespace], mappings: &[Mapping]) -> BTreeSet<Vec<u8>> {
    source
        .iter()
        .filter_map(|tablespace| mapped(tablespace, mappings))
        .collect()
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

#[cfg(test)]
mod samples;

#[cfg(test)]
mod tests {
    use super::samples::{OTHER_HOST, SAME_KERNEL, resolved, source_with, target_at};
    use super::*;
    use crate::plan::samples::tablespace;

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
    fn tablespaces_that_only_the_target_has_are_stale() {
        assert_eq!(stale_links([3, 1, 2], [2]), [1, 3]);
        assert_eq!(stale_links([2], [2, 3]), Vec::<u32>::new());
    }
}
