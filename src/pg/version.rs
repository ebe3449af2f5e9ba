//! Versions: the number a server states, and what each supported major is recognised by.
//!
//! Catalog versions are `CATALOG_VERSION_NO` in `src/include/catalog/catversion.h`, control versions
//! `PG_CONTROL_VERSION` in `src/include/catalog/pg_control.h`. A new major is one new row here.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A server's version as its setting `server_version_num` states it: 150018 is 15.18.
#[derive(
    Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Version(pub u32);

impl Version {
    /// The major, 15 for 150018.
    #[must_use]
    pub fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// The minor, 18 for 150018.
    #[must_use]
    pub fn minor(self) -> u32 {
        self.0 % 10_000
    }

    /// What `max_locks_per_transaction` is where no file sets it.
    #[must_use]
    pub fn default_max_locks_per_transaction(self) -> i32 {
        if self.major() >= 19 { 128 } else { 64 }
    }

    /// Whether a standby decodes its WAL wherever its primary logs enough for it, whatever its own `wal_level` is
    /// (`effective_wal_level`, `src/backend/replication/logical/logicalctl.c`).
    #[must_use]
    pub fn standby_follows_wal_level(self) -> bool {
        self.major() >= 19
    }

    /// Whether the tool knows this major's files.
    #[must_use]
    pub fn is_supported(self) -> bool {
        SUPPORTED_MAJORS.contains(&self.major())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

impl FromStr for Version {
    type Err = std::num::ParseIntError;

    /// Parses the text of `server_version_num`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Version)
    }
}

/// What one major writes into its files.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct MajorFacts {
    pub major: u32,
    /// Also part of the directory name in a tablespace.
    pub catalog_version: u32,
    /// Tells the layout of pg_control.
    pub control_version: u32,
}

/// The majors whose files are known.
pub const SUPPORTED_MAJORS: RangeInclusive<u32> = 13..=19;

/// One row per supported major, in rising order. All were read from running servers, 19 from its release candidate.
pub const MAJORS: [MajorFacts; 7] = [
    row(13, 202_007_201, 1300),
    row(14, 202_107_181, 1300),
    row(15, 202_209_061, 1300),
    row(16, 202_307_071, 1300),
    row(17, 202_406_281, 1700),
    row(18, 202_506_291, 1800),
    row(19, 202_610_061, 1905),
];

const fn row(major: u32, catalog_version: u32, control_version: u32) -> MajorFacts {
    MajorFacts {
        major,
        catalog_version,
        control_version,
    }
}

/// The major whose released servers have this catalog version; `None` for others, betas included.
#[must_use]
pub fn major_of_catalog(catversion: u32) -> Option<u32> {
    MAJORS
        .iter()
        .find(|row| row.catalog_version == catversion)
        .map(|row| row.major)
}

/// The directory in which a cluster keeps its part of a tablespace
/// (`TABLESPACE_VERSION_DIRECTORY` in `src/include/common/relpath.h`).
#[must_use]
pub fn tablespace_directory(major: u32, catalog_version: u32) -> String {
    format!("PG_{major}_{catalog_version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_apart() {
        let version: Version = "150018".parse().unwrap();
        assert_eq!((version.major(), version.minor()), (15, 18));
        assert_eq!(version.to_string(), "15.18");
        assert!(version.is_supported());
        assert!(!Version(120_022).is_supported());
        assert!(!Version(200_000).is_supported());
        assert!("15.18".parse::<Version>().is_err());
    }

    #[test]
    fn every_supported_major_has_its_row() {
        let majors: Vec<u32> = MAJORS.iter().map(|row| row.major).collect();
        assert_eq!(majors, SUPPORTED_MAJORS.collect::<Vec<_>>());
        for row in MAJORS {
            assert_eq!(major_of_catalog(row.catalog_version), Some(row.major));
        }
        assert_eq!(major_of_catalog(202_209_062), None);
        assert_eq!(tablespace_directory(15, 202_209_061), "PG_15_202209061");
    }
}
