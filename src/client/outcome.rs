//! What a finished run (or dry run) has to say: the input of the summary and of `--report`.

use serde::Serialize;

use crate::pg::lsn::Lsn;
use crate::pg::timeline::TimelineId;

/// What kind of run it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Rebuild,
    Seed,
    DryRun,
}

/// How the target's history left the source's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DivergenceReport {
    /// The last LSN that both histories share.
    pub lsn: Lsn,
    /// The target's timeline that left there.
    pub timeline: TimelineId,
    /// End of what only the target had, as far as its files tell.
    pub target_end: Lsn,
    /// WAL bytes between both: the old timeline's writes that are gone.
    pub lost_bytes: u64,
    /// False when the target was not shut down cleanly: there may have been more.
    pub is_exact: bool,
}

/// A block that fails PostgreSQL's own checksum on the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedPage {
    /// Path of the file on the source.
    pub path: String,
    /// Block number within the relation fork.
    pub block: u32,
    pub expected_checksum: u16,
    pub actual_checksum: u16,
}

/// Time spent in a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageTime {
    pub name: &'static str,
    pub seconds: f64,
}

/// Everything the summary and the report say. Field names are the report's stable JSON names; all
/// sizes are bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// `done`, `done-with-damaged-pages` or `dry-run`.
    pub outcome: &'static str,
    pub mode: Mode,
    pub pg_reseed_version: &'static str,
    pub pgdata: String,
    pub source_host: String,
    pub source_data_directory: String,
    /// PostgreSQL version of the source, such as 15.18.
    pub server_version: String,
    pub system_identifier: String,
    /// Timeline that the standby follows.
    pub timeline: TimelineId,
    /// How the target related to the source before, in words.
    pub relation: String,
    pub divergence: Option<DivergenceReport>,
    /// Absent in a dry run.
    pub start_lsn: Option<Lsn>,
    pub stop_lsn: Option<Lsn>,
    pub compared_bytes: u64,
    /// Of blocks that exist on both sides.
    pub differing_blocks: u64,
    pub moved_blocks: u64,
    /// Before compression; in a dry run what would move.
    pub moved_bytes: u64,
    pub fetched_bytes: u64,
    pub wal_bytes: u64,
    pub written_bytes: u64,
    pub wire_received_bytes: u64,
    pub wire_sent_bytes: u64,
    /// Byte streams between both sides that came up.
    pub streams: u64,
    /// What a full copy would have moved.
    pub full_copy_bytes: u64,
    pub files: u64,
    pub removed_files: u64,
    /// Host-local files of the target that were kept, and foreign ones.
    pub kept: Vec<String>,
    pub damaged: Vec<DamagedPage>,
    pub warnings: Vec<String>,
    pub slot: Option<String>,
    /// The standby was started and streams.
    pub streaming: bool,
    /// What the DBA should do next, one sentence each.
    pub next_steps: Vec<String>,
    pub stages: Vec<StageTime>,
    pub seconds: f64,
}
