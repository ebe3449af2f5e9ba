//! What a finished run, dry run or inspection has to say: the input of what is printed and of `--report`.

use std::fmt;

use serde::Serialize;

use crate::event::{Counters, Stage};
use crate::facts::TargetSlot;
use crate::pg::control::ClusterState;
use crate::pg::lsn::Lsn;
use crate::pg::relfile::Fork;
use crate::pg::timeline::{HistoryEntry, TimelineId};
use crate::plan::advice::Advice;
use crate::plan::leaving::Unarchived;
use crate::plan::saved::Stretch;
use crate::plan::standby::Role;
use crate::plan::state::State;
use crate::warning::Warning;

/// How many removed files the report names.
pub const REMOVED_NAMED: usize = 10_000;

/// What kind of run it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Rebuild,
    Seed,
    DryRun,
    /// In the place of `pg_rewind`: the target follows the source as it is.
    NotNeeded,
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

/// WAL that only the target had, or that was never archived, saved elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptWal {
    pub directory: String,
    pub files: u64,
    pub bytes: u64,
    /// Where what only the target had begins; `null` when it had nothing of its own.
    pub from: Option<Lsn>,
    /// How many of the files were never archived.
    pub unarchived_files: u64,
    /// What only the target had and was not in its pg_wal any more.
    pub missing: Vec<Stretch>,
}

/// A tablespace that the source does not have: its link goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TablespaceRemoval {
    pub oid: u32,
    /// Where the link leads; for one in the data directory, its path in there.
    pub location: String,
    /// Why what is behind the link stays; absent when it goes.
    pub left: Option<String>,
    /// Files that go with it.
    pub files: u64,
}

impl fmt::Display for TablespaceRemoval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            oid,
            location,
            left,
            files,
        } = self;
        match left {
            Some(why) => write!(f, "{oid}: its link goes, \"{location}\" stays: {why}"),
            None if *files == 1 => write!(f, "{oid}: goes, with 1 file in \"{location}\""),
            None => write!(f, "{oid}: goes, with {files} files in \"{location}\""),
        }
    }
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
    pub name: Stage,
    pub seconds: f64,
}

/// A read-write copy of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// It has all of the source up to here, and when that was, by the clock of the target's host.
    pub stop_lsn: Lsn,
    pub taken_unix_seconds: u64,
    /// Its own timeline; absent before its first start.
    pub timeline: Option<TimelineId>,
    pub port: u16,
    pub cluster_name: Option<String>,
    pub is_running: bool,
    /// How many scripts were run in it.
    pub hooks: u64,
}

/// How the target related to the source before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RelationReport {
    /// Its stable name.
    pub code: &'static str,
    /// Completes a sentence that begins with "the target".
    pub words: String,
}

/// Everything the summary and the report say of what a run found and did, as far as it came: what is not known yet is
/// absent, empty or 0. Field names are the report's stable JSON names; all sizes are bytes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Absent until it is known whether the target is empty.
    pub mode: Option<Mode>,
    /// What the result is, or shall be.
    pub role: Role,
    /// Whether a rebuild was needed; absent where `--if-needed` did not ask.
    pub needed: Option<bool>,
    /// The job whose options these were.
    pub job: Option<String>,
    pub pg_reseed_version: &'static str,
    /// What was typed, for a shell, without secrets.
    pub command: String,
    pub pgdata: String,
    pub target_host: String,
    pub source_host: Option<String>,
    pub source_data_directory: Option<String>,
    /// PostgreSQL version of the source, such as 15.18.
    pub server_version: Option<String>,
    pub system_identifier: Option<String>,
    /// Timeline that the standby follows.
    pub timeline: Option<TimelineId>,
    pub relation: Option<RelationReport>,
    pub divergence: Option<DivergenceReport>,
    /// Bytes in a block of a relation, once the source has said.
    pub block_bytes: Option<u32>,
    /// What `--keep-diverged-wal` saved.
    pub kept_wal: Option<KeptWal>,
    /// WAL of the target that was never archived.
    pub unarchived: Option<Unarchived>,
    /// The target's replication slots, which do not come back.
    pub removed_slots: Vec<TargetSlot>,
    /// Absent in a dry run, and before the backup has begun or ended.
    pub start_lsn: Option<Lsn>,
    pub stop_lsn: Option<Lsn>,
    /// What is to be compared with what the target has, and fetched because it does not have it; absent before both
    /// sides are listed.
    pub compare_bytes: Option<u64>,
    pub fetch_bytes: Option<u64>,
    /// What of both is left.
    pub left_bytes: Option<u64>,
    pub compared_bytes: u64,
    /// Of blocks that exist on both sides.
    pub differing_blocks: u64,
    pub moved_blocks: u64,
    /// Of the differing ones those that were patched, since they differed in hint bits and the like only.
    pub patched_blocks: u64,
    /// Before compression; in a dry run what would move.
    pub moved_bytes: u64,
    pub fetched_bytes: u64,
    pub wal_bytes: u64,
    pub written_bytes: u64,
    pub wire_received_bytes: u64,
    pub wire_sent_bytes: u64,
    /// Byte streams between both sides that came up, without those that came in the place of a lost one.
    pub streams: u64,
    /// Further streams that were lost while the run went on.
    pub lost_streams: u64,
    /// What a full copy would have moved.
    pub full_copy_bytes: u64,
    pub files: u64,
    pub removed_files: u64,
    /// Their paths in the data directory, [`REMOVED_NAMED`] at most.
    pub removed: Vec<String>,
    /// Host-local files of the target that were kept, and foreign ones.
    pub kept: Vec<String>,
    /// Of the top of the data directory, without PostgreSQL's own: new from the source, and made equal to the
    /// source's. Both are empty after a seed.
    pub taken_over: Vec<String>,
    pub replaced: Vec<String>,
    /// Tablespaces of the target that the source does not have.
    pub removed_tablespaces: Vec<TablespaceRemoval>,
    /// Files that had other hard links and got a content of their own.
    pub unshared_files: u64,
    pub damaged: Vec<DamagedPage>,
    pub warnings: Vec<Warning>,
    pub slot: Option<String>,
    /// The run made it; it goes again when the run fails before the target is complete.
    pub slot_made: bool,
    /// PID of the server in the target that a run without `--dry-run` stops first.
    pub server_to_stop: Option<u32>,
    /// The standby was started and streams.
    pub streaming: bool,
    /// What became of `--role clone`; absent until all is done.
    pub copy: Option<CopyReport>,
    /// What the DBA should do next, one sentence each.
    pub next_steps: Vec<String>,
    pub stages: Vec<StageTime>,
    pub seconds: f64,
}

impl Outcome {
    /// Whether nothing was to be changed.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.mode == Some(Mode::DryRun)
    }

    /// Takes the figures over as they are now, in this stage.
    pub fn count(&mut self, counters: &Counters, stage: Option<Stage>) {
        let read = Counters::read;
        self.compared_bytes = read(&counters.compared_bytes);
        self.differing_blocks = read(&counters.differing_blocks);
        self.moved_blocks = read(&counters.moved_blocks);
        self.patched_blocks = read(&counters.patched_blocks);
        self.moved_bytes = read(&counters.moved_bytes);
        self.fetched_bytes = read(&counters.fetched_bytes);
        self.wal_bytes = read(&counters.wal_bytes);
        self.written_bytes = read(&counters.written_bytes);
        self.wire_received_bytes = read(&counters.wire_received_bytes);
        self.wire_sent_bytes = read(&counters.wire_sent_bytes);
        self.streams = read(&counters.streams);
        self.lost_streams = read(&counters.lost_streams);
        self.removed_files = read(&counters.removed_files);
        let done = self.compared_bytes.saturating_add(self.fetched_bytes);
        self.left_bytes = self.planned_bytes().map(|planned| match stage {
            // Files grow and vanish while they are read.
            Some(stage) if stage > Stage::Compare => 0,
            _ => planned.saturating_sub(done),
        });
    }

    /// What is to be compared or fetched.
    #[must_use]
    pub fn planned_bytes(&self) -> Option<u64> {
        Some(self.compare_bytes?.saturating_add(self.fetch_bytes?))
    }
}

/// What `inspect` found. Field names are the stable names of its JSON; all sizes are bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    pub pg_reseed_version: &'static str,
    pub pgdata: String,
    /// `missing`, `empty`, `unknown`, `interrupted` or `cluster`.
    pub condition: &'static str,
    pub cluster: Option<ClusterReport>,
    pub source: Option<SourceReport>,
    /// How both relate: the stable name, and in words.
    pub relation: Option<&'static str>,
    pub relation_in_words: Option<String>,
    pub divergence: Option<DivergenceReport>,
    /// What of the WAL that only it has is not in its pg_wal any more.
    pub missing_wal: Vec<Stretch>,
    /// What a rebuild would take away beside its data: one sentence each.
    pub warnings: Vec<String>,
    /// What it is: one of PostgreSQL's states, or of those that pg_reseed makes.
    pub state: State,
    /// The state in words: completes a sentence that begins with "it is".
    pub state_in_words: String,
    pub advice: Option<Advice>,
    /// The advice in words.
    pub sentences: Vec<String>,
    /// The command that the advice speaks of: a rebuild, the one that was interrupted, or one that starts the server.
    pub command: Option<String>,
}

/// A data directory, by its files.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterReport {
    /// Content of `PG_VERSION`.
    pub major: Option<u32>,
    /// Why there is no control file to tell.
    pub problem: Option<String>,
    /// What is wrong with its configuration: the server that it makes would be another, or none. Sentences.
    pub configuration_problems: Vec<String>,
    pub system_identifier: Option<String>,
    pub state: Option<ClusterState>,
    /// The server that runs in it.
    pub server_pid: Option<u32>,
    /// What else seems to use it: a sentence.
    pub is_used_otherwise: Option<String>,
    /// Another pg_reseed works on it.
    pub is_locked: bool,
    /// What its mark says, if it is, or was, a copy of `--role clone`.
    pub copy: Option<MarkReport>,
    pub has_standby_signal: bool,
    pub timeline: Option<TimelineId>,
    /// From the oldest timeline to `timeline`.
    pub history: Vec<HistoryEntry>,
    pub checkpoint: Option<Lsn>,
    pub redo: Option<Lsn>,
    pub checkpoint_age_seconds: Option<u64>,
    pub min_recovery_point: Option<Lsn>,
    /// Its pg_wal holds everything from here to `wal_end`, the end of its newest segment.
    pub wal_begin: Option<Lsn>,
    pub wal_end: Option<Lsn>,
    pub data_checksums: Option<bool>,
    pub block_bytes: Option<u32>,
    pub wal_segment_bytes: Option<u32>,
    pub tablespaces: Vec<TablespaceReport>,
    pub interrupted: Option<InterruptedReport>,
    /// Its WAL that was never archived.
    pub unarchived: Option<Unarchived>,
    /// Its replication slots.
    pub slots: Vec<TargetSlot>,
    /// Files and their bytes without pg_wal, tablespaces included.
    pub files: u64,
    pub bytes: u64,
}

/// The mark of a copy.
#[derive(Debug, Clone, Serialize)]
pub struct MarkReport {
    /// It is still that copy, and no member of the cluster.
    pub is_copy: bool,
    /// Its hooks have all succeeded.
    pub is_ready: bool,
    pub system_identifier: String,
    pub source_host: String,
    pub stop_lsn: Lsn,
    pub age_seconds: Option<u64>,
    /// All of it: sentences.
    pub in_words: String,
}

/// A tablespace of a data directory.
#[derive(Debug, Clone, Serialize)]
pub struct TablespaceReport {
    pub oid: u32,
    /// `null` for one in the data directory itself.
    pub location: Option<String>,
    pub is_there: bool,
}

/// A run that did not end.
#[derive(Debug, Clone, Serialize)]
pub struct InterruptedReport {
    pub start_lsn: Lsn,
    pub age_seconds: Option<u64>,
    pub source_host: Option<String>,
    /// The command, for a shell; absent where an earlier version was interrupted.
    pub command: Option<String>,
}

/// The server that was asked.
#[derive(Debug, Clone, Serialize)]
pub struct SourceReport {
    pub host: String,
    pub data_directory: String,
    pub server_version: String,
    pub system_identifier: String,
    pub in_recovery: bool,
    pub timeline: TimelineId,
    pub current_lsn: Lsn,
    /// From here on its pg_wal has all WAL.
    pub oldest_wal: Option<Lsn>,
    pub wal_keep_bytes: u64,
    pub archive_mode: String,
    pub slot: Option<SlotReport>,
}

/// The slot that was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct SlotReport {
    pub name: String,
    pub active: bool,
    pub restart_lsn: Option<Lsn>,
    pub wal_status: String,
}

/// What `verify` found. Field names are the stable names of its JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    pub pg_reseed_version: &'static str,
    pub verdict: VerifyVerdict,
    pub pgdata: String,
    pub source_host: String,
    pub source_data_directory: String,
    pub system_identifier: String,
    pub timeline: TimelineId,
    pub standby_runs: bool,
    pub source_runs: bool,
    /// What was changed last up to here was compared, in the last pass.
    pub threshold: Lsn,
    pub passes: u32,
    /// Files of main forks that were compared, and their blocks.
    pub files: u64,
    pub blocks: u64,
    pub equal_blocks: u64,
    /// Blocks that differ in hint bits and the like only.
    pub noise_blocks: u64,
    /// Blocks that could not be compared: what changed them last was too new in every pass.
    pub pending_blocks: u64,
    /// Blocks that differ and are of a kind that is not known.
    pub unknown_blocks: u64,
    /// The files of both, [`PENDING_NAMED`] at most.
    pub pending: Vec<PendingFile>,
    /// Blocks that only one side calls visible to all.
    pub all_visible_blocks: u64,
    /// Blocks of tables that only the standby's visibility map called visible to all, in the first pass: as a rule those
    /// that were just being changed.
    pub map_doubts: u64,
    pub faults: Vec<FaultReport>,
    /// How many more faults there are.
    pub faults_more: u64,
    /// What went wrong on the way, and what the rebuild that is named would take away beside the data.
    pub warnings: Vec<Warning>,
    /// What to do: sentences.
    pub advice: Vec<String>,
    /// The rebuild that mends the standby.
    pub command: Option<String>,
    pub compared_bytes: u64,
    pub wire_received_bytes: u64,
    pub seconds: f64,
}

/// How many files are named that could not be compared.
pub const PENDING_NAMED: usize = 100;

/// How a verification ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyVerdict {
    /// All that was compared is as it must be, and all was compared.
    Equal,
    /// Something is wrong.
    Wrong,
    /// Nothing that was compared is wrong, but not all could be compared.
    Incomplete,
}

/// A file with blocks that could not be compared.
#[derive(Debug, Clone, Serialize)]
pub struct PendingFile {
    pub path: String,
    pub blocks: u64,
}

/// What is wrong with one block, or with one file.
#[derive(Debug, Clone, Serialize)]
pub struct FaultReport {
    /// A stable name.
    pub code: &'static str,
    pub path: String,
    /// `main`, `vm`, or `null` where it is no file of a relation.
    pub fork: Option<Fork>,
    /// Number within the fork, or within the file where it is none of a relation's; `null` for a whole file.
    pub block: Option<u32>,
    /// As the source names them, where it was allowed to ask.
    pub database: Option<String>,
    pub relation: Option<String>,
    /// What kind of page it is; `null` for a whole file, a map, or what is no relation's.
    pub page: Option<&'static str>,
    pub source_lsn: Option<Lsn>,
    pub standby_lsn: Option<Lsn>,
    /// The transaction that it is about, the first of several; `null` where it is about none.
    pub xid: Option<u32>,
    /// Completes a sentence that begins with the block.
    pub words: String,
}
