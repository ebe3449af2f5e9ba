//! What a directory says of itself that `--role clone` has made: a copy, and no member of anything.

use serde::{Deserialize, Serialize};

use crate::pg::lsn::Lsn;
use crate::pg::timeline::TimelineId;

/// Content of `pg_reseed.clone`, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mark {
    /// For whoever opens the file.
    pub message: String,
    pub pg_reseed_version: String,
    pub made_unix_seconds: u64,
    pub source_host: String,
    pub source_data_directory: String,
    pub system_identifier: String,
    /// The timeline of the source that was copied, and what the copy has of it: all up to `stop_lsn`, and nothing
    /// behind `wal_end`.
    pub timeline: TimelineId,
    pub stop_lsn: Lsn,
    pub wal_end: Lsn,
    /// Of the data directory: a file that was copied elsewhere says nothing there.
    pub inode: u64,
    /// All that was to be done to it before it is used has been done.
    pub is_ready: bool,
    /// The lines of ours in `postgresql.auto.conf`.
    pub lines: Vec<OwnLine>,
}

/// A setting that was written to `postgresql.auto.conf` for the copy's sake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnLine {
    pub name: String,
    pub value: String,
    /// What the file said there before.
    pub before: Option<String>,
}

/// A mark that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MarkFound {
    pub mark: Mark,
    /// Settings of its lines that say something else by now.
    pub changed: Vec<String>,
}
