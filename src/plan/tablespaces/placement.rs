//! Where one tablespace goes, and what must be made there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::mapping::Wanted;
use super::path::canonical;
use super::places::{PlaceState, TargetPlaces};

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

pub(super) fn place(wanted: Wanted, target: &TargetPlaces) -> Placement {
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

pub(super) fn place_in_pgdata(oid: u32, target: &TargetPlaces) -> Placement {
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
