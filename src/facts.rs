//! What each side says about itself before anything is decided: the input of every guard.
//!
//! Values only. `client::look::target` and `agent::look` fill them in; `plan` judges them.

pub mod clone;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pg::control::ControlFile;
use crate::pg::label::BackupLabel;
use crate::pg::lsn::Lsn;
use crate::pg::timeline::{History, TimelineId};
use crate::pg::version::Version;

/// Which file system object a directory is: equal on one host means the same directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileIdentity {
    pub device: u64,
    pub inode: u64,
}

/// Which running system this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostIdentity {
    /// The host's name, for people.
    pub name: String,
    /// `/proc/sys/kernel/random/boot_id`: equal for two processes on one kernel, containers
    /// included; empty where it cannot be read.
    pub boot_id: String,
}

impl HostIdentity {
    /// Whether both processes run on one kernel, so that file identities can be compared.
    #[must_use]
    pub fn is_same_kernel(&self, other: &Self) -> bool {
        !self.boot_id.is_empty() && self.boot_id == other.boot_id
    }
}

/// One tablespace other than pg_default and pg_global.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    pub oid: u32,
    /// Where `pg_tblspc/<oid>` leads: an absolute path as stored in the link; `None` for an
    /// in-place tablespace, which is a real directory.
    pub location: Option<Vec<u8>>,
    /// The location's identity, where it exists.
    pub identity: Option<FileIdentity>,
}

/// What the agent tells about its cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceFacts {
    pub host: HostIdentity,
    /// Effective user of the agent.
    pub user: String,
    pub version: Version,
    pub control: ControlFile,
    pub in_recovery: bool,
    /// The timeline on which the server writes or replays now.
    pub timeline: TimelineId,
    pub history: History,
    /// End of WAL now: the insert position of a primary, the replay position of a standby.
    pub current_lsn: Lsn,
    /// From here on its pg_wal has all WAL up to now; `None` when it lacks even the last segment.
    pub oldest_wal: Option<Lsn>,
    /// As the server names it.
    pub data_directory: Vec<u8>,
    /// Permission bits of the data directory.
    pub data_directory_mode: u32,
    pub identity: FileIdentity,
    pub wal_identity: FileIdentity,
    pub tablespaces: Vec<Tablespace>,
    /// The first bytes of `postmaster.pid`: equal in the target means that it is the same directory
    /// behind another mount, or a copy of a running one.
    pub pid_file: Vec<u8>,
    /// Relative paths in the data directory of what the server's settings call its own: logs,
    /// certificates.
    pub log_directory: String,
    pub settings: SourceSettings,
    pub rights: SourceRights,
    /// The slot asked for, if it exists.
    pub slot: Option<SlotFacts>,
    /// Another run of pg_reseed that has the slot asked for.
    pub slot_run: Option<SlotHolder>,
    /// `application_name`s listed in `synchronous_standby_names` (the raw setting).
    pub synchronous_standby_names: String,
    /// All physical slots that are not temporary.
    pub slots: Vec<SlotFacts>,
    /// Whom it follows; `None` for a primary.
    pub upstream: Option<Upstream>,
    /// Its pg_wal has the history file of its timeline, or the timeline is the first, which has none.
    pub has_history_file: bool,
    /// No server runs in its data directory: what only a server knows is empty.
    pub is_stopped: bool,
    /// What it is a copy of, if `--role clone` has made it.
    pub copy: Option<String>,
}

/// Whom a server in recovery follows, as far as it can be seen from its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// What its walreceiver says (`pg_stat_wal_receiver`); `None` where there is none.
    pub receiver: Option<Receiver>,
    /// `primary_conninfo`, without secrets; empty when it is not set, `None` when the agent's role may not read it.
    pub primary_conninfo: Option<String>,
    /// The servers that it receives from, or would: one unless `primary_conninfo` names several hosts.
    pub servers: Vec<Server>,
    /// The servers behind the first of them, as far as their directories can be read on the source's host.
    pub behind: Vec<Server>,
}

/// A server as another one names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// A name, an address or the directory of a socket.
    pub host: String,
    pub port: u16,
    /// The addresses of `host`, as they are known there; none of a socket.
    pub addresses: Vec<String>,
    /// Its data directory, where it runs on the same host and says so in its socket's lock file.
    pub data_directory: Option<String>,
    pub identity: Option<FileIdentity>,
    /// Whether it is in recovery, by its directory's `standby.signal`; `None` where that cannot be seen.
    pub in_recovery: Option<bool>,
}

/// A row of `pg_stat_wal_receiver`. All is empty where the role may not see more than that there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver {
    pub status: String,
    pub host: String,
    pub port: u16,
    pub slot: Option<String>,
}

impl Receiver {
    /// Whether it is connected to a server that sends.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.status == "streaming"
    }
}

/// What a server that runs says of itself when it is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    pub in_recovery: bool,
    /// End of its WAL: what it wrote, or received and replayed.
    pub end: Lsn,
    pub receiver: Option<Receiver>,
    /// What it says of its recovery, if it is in recovery.
    pub recovery: Recovery,
}

/// What a server in recovery says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    pub replayed: Option<Lsn>,
    /// The end of its sender's WAL, as it was told last.
    pub sender_end: Option<Lsn>,
    /// Age of the last commit that it replayed, in seconds; `None` when there was none since it was started.
    pub replayed_age_seconds: Option<u64>,
    /// Replay is paused, or about to be.
    pub is_paused: bool,
    /// The settings in force; `None` when they are empty or may not be read.
    pub primary_conninfo: Option<String>,
    pub primary_slot_name: Option<String>,
}

/// The run of pg_reseed that has the lock on a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    pub user: String,
    pub host: String,
    /// What it does: `rebuild`, `inspect` ...
    pub command: String,
    pub job: Option<String>,
    pub age_seconds: Option<u64>,
}

impl Holder {
    /// The job of a process, by its command line or its environment.
    #[must_use]
    pub fn job_of(line: &[String], environment: &[String]) -> Option<String> {
        let mut typed = line.iter().enumerate().filter_map(|(at, word)| {
            if word == "--job" {
                line.get(at + 1).map(String::as_str)
            } else {
                word.strip_prefix("--job=")
            }
        });
        let mut set = environment
            .iter()
            .filter_map(|word| word.strip_prefix("PG_RESEED_JOB="));
        let job = typed.next_back().or_else(|| set.next_back());
        job.filter(|job| !job.is_empty()).map(str::to_owned)
    }
}

/// A clause.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pid,
            user,
            host,
            command,
            job,
            age_seconds,
        } = self;
        write!(
            f,
            "it is process {pid} of user \"{user}\" on \"{host}\", pg_reseed {command}"
        )?;
        if let Some(job) = job {
            write!(f, " of job \"{job}\"")?;
        }
        if let Some(age) = age_seconds {
            let (minutes, seconds) = (age / 60, age % 60);
            let (hours, minutes) = (minutes / 60, minutes % 60);
            write!(f, ", which has run for {hours}:{minutes:02}:{seconds:02}")?;
        }
        Ok(())
    }
}

/// Whether the target's WAL is the source's, record by record. A timeline's number and begin do not tell: two standbys
/// that were promoted at one position both call what follows by the same number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SharedWal {
    /// Nobody has looked.
    #[default]
    NotCompared,
    /// All that both still have is equal, and one of its records says when it was written.
    Equal,
    /// The first record of the target that the source does not have, and the end of the target's WAL.
    Parts { at: Lsn, end: Lsn },
    /// One of both has too little of it.
    Untold,
}

/// How the target's server is reached and whom it follows, by its configuration and by what it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub port: u16,
    /// Directories of its sockets.
    pub sockets: Vec<String>,
    /// Its own `primary_conninfo` and `primary_slot_name`; `None` when they are not set.
    pub primary_conninfo: Option<String>,
    pub primary_slot_name: Option<String>,
    /// What it said when it ran and let us in.
    pub live: Option<Live>,
    /// It runs and has a walreceiver.
    pub receives: bool,
    /// What that walreceiver has written, by its process title.
    pub received: Option<Lsn>,
    /// No server was ever started in it: a base backup, whose control file says what its source was doing.
    pub is_unstarted: bool,
}

/// Settings of the source that decide whether it can serve a standby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSettings {
    pub wal_level: String,
    pub max_wal_senders: u32,
    pub active_wal_senders: u32,
    pub max_replication_slots: u32,
    pub used_replication_slots: u32,
    /// On a standby the value that its primary logged last, otherwise the server's own.
    pub full_page_writes: bool,
    pub data_checksums: bool,
    /// `wal_keep_size` in bytes.
    pub wal_keep_bytes: u64,
    /// `archive_mode`: off, on or always.
    pub archive_mode: String,
}

/// What the agent's role may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRights {
    pub role: String,
    /// EXECUTE on the backup start and stop functions in the agent's database.
    pub backup: bool,
    /// Superuser or REPLICATION: slots.
    pub replication: bool,
}

/// A replication slot of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotFacts {
    pub name: String,
    pub is_physical: bool,
    pub active: bool,
    pub restart_lsn: Option<Lsn>,
    /// `wal_status` of pg_replication_slots.
    pub wal_status: String,
    /// Who streams from it now.
    pub holder: Option<SlotHolder>,
}

/// The other end of a connection to the source's server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotClient {
    /// IP address in the shortest form; `None` for a Unix-domain socket.
    pub address: Option<String>,
    /// Its port; 0 for a Unix-domain socket.
    pub port: u16,
}

impl fmt::Display for SlotClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Some(address) => write!(f, "{address} port {}", self.port),
            None => f.write_str("a socket of the source's host"),
        }
    }
}

/// A session of the source's server that has a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotHolder {
    pub pid: i32,
    pub application_name: String,
    /// `None` where the role may not see it.
    pub client: Option<SlotClient>,
}

impl fmt::Display for SlotHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of the source", self.pid)?;
        if !self.application_name.is_empty() {
            write!(f, ", \"{}\"", self.application_name)?;
        }
        match &self.client {
            Some(client) => write!(f, " from {client}"),
            None => Ok(()),
        }
    }
}

impl SlotFacts {
    /// Whether the server keeps the WAL that the slot needs (PostgreSQL `xlog.c:GetWALAvailability`).
    #[must_use]
    pub fn is_kept(&self) -> bool {
        matches!(self.wal_status.as_str(), "reserved" | "extended")
    }

    /// Whether all WAL from `start` on is kept.
    #[must_use]
    pub fn keeps_from(&self, start: Lsn) -> bool {
        self.restart_lsn.is_some_and(|restart| restart <= start) && self.is_kept()
    }
}

/// The source's configuration files, wherever they lie; paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceConfiguration {
    pub config_file: Vec<u8>,
    pub hba_file: Vec<u8>,
    pub ident_file: Vec<u8>,
    /// These and all that they include, each path with its text.
    pub files: Vec<(Vec<u8>, Vec<u8>)>,
    /// The directories whose files are included.
    pub directories: Vec<Vec<u8>>,
}

/// What the client sees where the target is, or shall be.
#[derive(Debug, Clone)]
pub struct TargetFacts {
    pub host: HostIdentity,
    /// Effective user of the client, and whether it is root.
    pub user: String,
    pub is_root: bool,
    /// The path as given, for messages.
    pub pgdata: String,
    pub condition: Condition,
    /// The directory that the path lies in does not exist either.
    pub is_parent_missing: bool,
}

/// What stands at the target's path.
#[derive(Debug, Clone)]
pub enum Condition {
    /// Nothing; its parent exists or can be made.
    Missing,
    /// An empty directory of ours.
    Empty {
        is_owner: bool,
        identity: FileIdentity,
    },
    /// A directory that has content but is no data directory.
    Unknown { example: String },
    /// A data directory, whole or left by an interrupted rebuild.
    Cluster(Box<TargetCluster>),
}

impl Condition {
    /// Whether a data directory is there, whole or not.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(self, Condition::Cluster(_))
    }
}

/// The target's cluster before the run.
#[derive(Debug, Clone)]
pub struct TargetCluster {
    /// Content of `PG_VERSION`; absent only in an interrupted seed.
    pub major: Option<u32>,
    /// Whether `base` and `global` are there.
    pub has_directories: bool,
    /// The control file, or the copy that an interrupted rebuild saved; absent in an interrupted
    /// seed.
    pub control: Option<ControlFile>,
    /// Why there is no usable control file although nothing was interrupted.
    pub control_problem: Option<String>,
    /// What an interrupted run left behind.
    pub interrupted: Option<Interrupted>,
    /// The base backup that it is, if no server was started in it since.
    pub backup: Option<Unstarted>,
    pub history: History,
    /// The highest timeline that a WAL segment in its pg_wal belongs to.
    pub newest_wal_timeline: Option<TimelineId>,
    /// End of the newest WAL segment in pg_wal on the cluster's timeline that was written to: an upper bound for
    /// what it wrote. Segments that are only made for later use do not count.
    pub wal_segments_end: Option<Lsn>,
    /// Whether it has `standby.signal`: a server that starts in it follows another one.
    pub has_standby_signal: bool,
    /// Whether it has `recovery.signal`: a server that starts in it recovers from an archive and ends as a primary.
    pub has_recovery_signal: bool,
    pub is_owner: bool,
    pub mode: u32,
    pub identity: FileIdentity,
    pub wal_identity: Option<FileIdentity>,
    pub tablespaces: Vec<Tablespace>,
    pub pid_file: Vec<u8>,
    pub running: Running,
    /// How its server streams, if one runs and does.
    pub stream: Option<OwnStream>,
    /// Symbolic links inside the data directory where a rebuild must write and none may be.
    pub unexpected_links: Vec<String>,
    /// Whether another pg_reseed works on it, and which, as far as that can be seen.
    pub is_locked: bool,
    pub locked_by: Option<Holder>,
    /// How its server is reached, and whom it follows.
    pub standing: Standing,
    pub shared_wal: SharedWal,
    pub unarchived: UnarchivedWal,
    /// Its replication slots, by name; not those that end with their session.
    pub slots: Vec<TargetSlot>,
    /// The mark of a copy that is no member.
    pub mark: Option<clone::MarkFound>,
}

/// Files of the target's pg_wal that its server was still to archive (`archive_status/*.ready`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnarchivedWal {
    /// Their names in pg_wal, in order.
    pub files: Vec<String>,
    pub bytes: u64,
}

/// A replication slot that the target has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetSlot {
    pub name: String,
    #[serde(flatten)]
    pub kind: SlotKind,
    /// The WAL that it keeps begins here, if it keeps any.
    pub restart_lsn: Option<Lsn>,
    /// It is a standby's copy of a slot on its primary.
    pub is_synced: bool,
}

/// What a replication slot is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum SlotKind {
    /// A standby, or another receiver of WAL.
    Physical,
    /// Logical decoding in a database, by a plugin.
    Logical { database_oid: u32, plugin: String },
    /// Its state file cannot be read.
    Unknown,
}

/// The stream that the target's own server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnStream {
    /// The slot that its configuration names.
    pub slot: Option<String>,
    /// Its own ends of its walreceiver's TCP connections.
    pub ends: Vec<SlotClient>,
}

impl TargetCluster {
    /// Its major version, by `PG_VERSION` or else by its control file.
    #[must_use]
    pub fn major(&self) -> Option<u32> {
        let of_control = || self.control.as_ref().and_then(ControlFile::major);
        self.major.or_else(of_control)
    }

    /// What its server says of itself in postmaster.pid: `starting`, `stopping`, `standby` (it lets nobody in) or
    /// `ready` (PostgreSQL `pidfile.h`).
    #[must_use]
    pub fn server_status(&self) -> String {
        let text = String::from_utf8_lossy(&self.pid_file);
        text.lines().nth(7).unwrap_or_default().trim().to_owned()
    }
}

/// A base backup in which no server was started yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unstarted {
    /// `None` when somebody has removed it: then no server can start there.
    pub label: Option<BackupLabel>,
    /// pg_reseed has made it; else it is another tool's.
    pub is_rebuilt: bool,
}

/// Facts from an interrupted run's marker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interrupted {
    pub started_unix_seconds: u64,
    pub start_lsn: Lsn,
    /// The target held nothing before the first of the interrupted runs.
    pub is_seed: bool,
    /// Name of the source's host.
    pub source_host: String,
    /// The words of the command, without secrets; none where an earlier version has left the marker.
    pub command: Vec<String>,
    /// Where it was typed.
    pub directory: String,
}

/// Whether a server works in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Running {
    No,
    /// A postmaster or single-user server with this pid.
    Server {
        pid: u32,
    },
    /// postmaster.pid names a process that lives and has another working directory.
    Unclear {
        pid: u32,
    },
    /// postmaster.pid holds no process number: a server is just starting, or it was torn by a crash.
    TornPidFile,
    /// No postmaster, but processes of one still hold the directory.
    Orphans {
        detail: String,
    },
}
