//! What `rebuild` was asked to do, resolved: no defaults left to guess, no text left to parse.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::link::From;
use crate::pg::cluster_name::ClusterName;
use crate::pg::conninfo::Conninfo;
use crate::plan::guard::Overrides;
use crate::plan::standby::Role;
use crate::plan::tablespaces::Mapping;
use crate::plan::timetable::Rates;
use crate::wire::message::Compression;

/// How the source is reached, and how much is done at a time: what all runs have in common.
#[derive(Debug, Clone)]
pub struct Reach {
    pub from: From,
    /// Byte streams to the agent.
    pub streams: usize,
    pub compression: Compression,
    /// Threads that compute at a time on this side, and on the other if that was asked for.
    pub jobs: usize,
    pub agent_jobs: Option<u16>,
    /// Most bytes that the agent reads in a second, by the time of this host.
    pub max_rate: Rates,
}

/// The options of one rebuild, seed or dry run.
#[derive(Debug, Clone)]
pub struct RebuildOptions {
    pub pgdata: PathBuf,
    pub reach: Reach,
    /// What the result shall be.
    pub role: Role,
    /// How the standby will reach the source: becomes `primary_conninfo`, unless somebody else writes that. Empty where
    /// nobody said it.
    pub primary: Conninfo,
    pub slot: Option<String>,
    /// Make the slot if it does not exist; it stays when the run succeeds.
    pub create_slot: bool,
    /// Ask for an immediate checkpoint instead of a spread one.
    pub fast_checkpoint: bool,
    /// Bring the WAL of the backup; otherwise slot or restore_command must be able to give it.
    pub brings_wal: bool,
    /// Bring what is complete of it while the files come, so that the source need not keep it until the end.
    pub streams_wal: bool,
    pub mappings: Vec<Mapping>,
    /// Where pg_wal of a seeded target shall really be.
    pub waldir: Option<PathBuf>,
    pub dry_run: bool,
    /// As `pg_rewind`: nothing is done to a target that can follow the source as it is, and nothing is seeded.
    pub rewinds: bool,
    /// Take the source's configuration files even where the target has its own.
    pub config_from_source: bool,
    /// Patterns of paths in the target that are left alone.
    pub keep: Vec<String>,
    pub application_name: Option<String>,
    pub restore_command: Option<String>,
    pub archive_cleanup_command: Option<String>,
    pub recovery_target_timeline: Option<String>,
    /// Raise the standby's settings that must not be lower than the source's.
    pub raise_settings: bool,
    /// Where the WAL goes that only the target has, before it is removed.
    pub keep_diverged_wal: Option<PathBuf>,
    /// Do nothing when the target is a standby of the source that streams.
    pub if_needed: bool,
    /// Stop a server that runs in the target first.
    pub stop: bool,
    /// Start the target afterwards and wait until it streams.
    pub start: bool,
    /// How long to wait for `stop`, `start` and streaming.
    pub wait: Duration,
    pub sync: bool,
    /// Blocks that differ in noise only are patched.
    pub patch_noise: bool,
    /// Most files that the run may remove from the target; `None` is no limit.
    pub max_delete: Option<u64>,
    /// Where `postgres`, `pg_ctl` and `psql` of the target are; found by version when absent.
    pub bindir: Option<PathBuf>,
    /// Configuration file of the target's server when it is not in the data directory.
    pub config_file: Option<PathBuf>,
    /// Where the source's configuration is copied to; `config_file` lies in it then.
    pub target_config_dir: Option<PathBuf>,
    /// The port that the copy says.
    pub target_port: Option<u16>,
    /// Log file of a server that `start` starts.
    pub log_file: Option<PathBuf>,
    /// What starts the server instead of `pg_ctl`.
    pub starter: Option<Starter>,
    /// Most bytes of WAL that the source may keep for the run.
    pub max_wal_retained: Option<u64>,
    /// The job whose options these are.
    pub job: Option<String>,
    /// A person typed the command: one who can be asked.
    pub is_typed: bool,
    /// The words of the command that was typed, without secrets.
    pub command: Vec<String>,
    /// Where it was typed.
    pub working_directory: PathBuf,
    pub overrides: Overrides,
    /// A copy archives as its configuration says.
    pub keeps_archiving: bool,
    pub hooks: HookOptions,
}

/// SQL that a copy is changed by before it is used.
#[derive(Debug, Clone, Default)]
pub struct HookOptions {
    /// Before others can come in, and after.
    pub before_start: Vec<Hook>,
    pub after_start: Vec<Hook>,
    /// The role that runs it; named as the operating system user when absent.
    pub user: Option<String>,
}

/// Where the SQL of a hook stands.
#[derive(Clone, PartialEq, Eq)]
pub enum Hook {
    Text(String),
    File(PathBuf),
}

impl fmt::Debug for Hook {
    /// Without the text, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hook::Text(_) => f.write_str("Text"),
            Hook::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Who starts the standby's server instead of `pg_ctl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Starter {
    /// `pg_ctlcluster`, for a cluster of postgresql-common's.
    Debian(ClusterName),
    /// A command for a shell.
    Command(String),
}

impl Starter {
    /// The program that starts the server, with its arguments.
    #[must_use]
    pub fn words(&self) -> Vec<OsString> {
        match self {
            Starter::Command(command) => ["/bin/sh", "-c", command].map(OsString::from).to_vec(),
            // As the cluster's owner: systemd would want root.
            Starter::Debian(cluster) => [
                "pg_ctlcluster",
                "--skip-systemctl-redirect",
                &cluster.version,
                &cluster.name,
                "start",
            ]
            .map(OsString::from)
            .to_vec(),
        }
    }
}

/// What `inspect` was asked to look at.
#[derive(Debug, Clone)]
pub struct InspectOptions {
    pub pgdata: PathBuf,
    /// The name by which it was found.
    pub cluster: Option<ClusterName>,
    /// Configuration file that is on record for it.
    pub config_file: Option<PathBuf>,
    /// The server that the directory shall follow; `None` looks at the directory alone.
    pub source: Option<InspectSource>,
    /// The standby's slot on the source.
    pub slot: Option<String>,
    /// Where the command was typed.
    pub working_directory: PathBuf,
}

/// What `verify` was asked to compare.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    pub pgdata: PathBuf,
    /// Configuration file of the standby's server when it is not in the data directory.
    pub config_file: Option<PathBuf>,
    pub reach: Reach,
    /// How often what is too new to be compared is looked at.
    pub passes: u32,
    /// How long to wait before the next pass for checkpoints of both sides.
    pub wait: Duration,
    /// The rebuild that mends the standby; `None` where the source is stopped, from which nothing is rebuilt.
    pub rebuild: Option<RebuildWords>,
}

/// The words of a rebuild from the same source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RebuildWords {
    /// The program, and which directory.
    pub directory: Vec<String>,
    /// How the standby will reach the source; `None` where that was not said.
    pub conninfo: Option<String>,
    /// Where the agent is.
    pub agent: Vec<String>,
}

/// How `inspect` reaches the source, with what was typed: the advice is a command with the same words.
#[derive(Debug, Clone)]
pub struct InspectSource {
    pub from: From,
    pub primary: Conninfo,
    /// Options and their values.
    pub typed: Vec<(&'static str, String)>,
}
