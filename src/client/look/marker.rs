//! The marker that an unfinished rebuild leaves in its target: who did what since when, and what the
//! target was before, which its own files may no longer tell.

use serde::{Deserialize, Serialize};

use crate::facts::clone::MarkFound;
use crate::facts::{TargetSlot, UnarchivedWal};
use crate::pg::lsn::Lsn;
use crate::pg::timeline::{History, TimelineId};

/// Content of `pg_reseed.state`, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Marker {
    /// For whoever opens the file.
    pub message: String,
    pub pg_reseed_version: String,
    pub started_unix_seconds: u64,
    pub source_host: String,
    pub source_system_identifier: String,
    pub start_lsn: Lsn,
    /// The words of the command, without secrets, and where it was typed.
    pub command: Vec<String>,
    pub directory: String,
    /// The target held nothing before the first of the interrupted runs.
    pub is_seed: bool,
    pub before: Option<Before>,
}

/// What the target was before the first of the interrupted runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    pub history: History,
    pub newest_wal_timeline: Option<TimelineId>,
    pub wal_segments_end: Option<Lsn>,
    // Earlier versions did not remember these.
    #[serde(default)]
    pub unarchived: UnarchivedWal,
    #[serde(default)]
    pub slots: Vec<TargetSlot>,
    #[serde(default)]
    pub mark: Option<MarkFound>,
}

/// The words for whoever opens the marker.
pub const MESSAGE: &str = "A pg_reseed rebuild of this data directory has not finished. PostgreSQL \
                           cannot start in it. Run the same pg_reseed command again: what already \
                           matches the source is not moved twice.";
