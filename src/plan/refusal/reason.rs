//! All reasons to refuse, with their values and their stable names. A kind has its words in the file of its name.

use crate::facts::{Holder, SlotHolder};
use crate::pg::lsn::Lsn;
use crate::pg::timeline::TimelineId;
use crate::pg::version::Version;
use crate::plan::access::Bar;
use crate::plan::settings::TooLow;
use crate::plan::tablespaces::Sharer;

/// A guard that does not let the run go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    // Who runs it, and what is in the target's place.
    RunsAsRoot,
    NotADataDirectory {
        pgdata: String,
        example: String,
    },
    NotOwner {
        pgdata: String,
        user: String,
    },
    Unreadable {
        pgdata: String,
        problem: String,
        /// It has all else that makes a data directory.
        is_data_directory: bool,
    },
    Locked {
        pgdata: String,
        /// As far as it can be seen.
        holder: Option<Box<Holder>>,
    },
    ServerRunning {
        pgdata: String,
        pid: u32,
    },
    PidFileUnclear {
        pgdata: String,
        pid: u32,
    },
    /// postmaster.pid without a process number.
    PidFileTorn {
        pgdata: String,
    },
    Orphans {
        pgdata: String,
        detail: String,
    },
    UnexpectedLinks {
        links: Vec<String>,
    },
    SeedNotAskedFor {
        pgdata: String,
        is_parent_missing: bool,
    },

    // Target and source are one, or one inside the other.
    /// A directory of the target is a directory of the source.
    SameDirectory {
        /// What it is in the target, as a noun.
        target_role: String,
        source_role: String,
        source_path: String,
    },
    /// Both data directories hold the same postmaster.pid.
    SamePidFile {
        pgdata: String,
    },
    /// One data directory lies inside the other.
    NestedDirectory {
        inner: String,
        outer: String,
    },

    // Where the source leads.
    SourceFollowsTarget {
        /// Sentences.
        evidence: String,
    },

    // How the two clusters relate.
    UnsupportedVersion {
        version: Version,
    },
    OtherMajor {
        target: u32,
        source: u32,
    },
    OtherLayout {
        /// Field, the target's value, the source's value.
        differences: Vec<(&'static str, String, String)>,
    },
    ForeignCluster {
        target: u64,
        source: u64,
    },
    NewerTimeline {
        target: TimelineId,
        source: TimelineId,
        common: Option<(TimelineId, Lsn)>,
        target_end: Lsn,
        /// What the mark of a copy says of it: sentences.
        copy: Option<String>,
    },
    NewerWal {
        timeline: TimelineId,
        target_end: Lsn,
        source_end: Lsn,
        source_is_standby: bool,
    },

    // Whether the source can serve a standby.
    NoBackupRight {
        role: String,
        major: u32,
    },
    NoReplicationRight {
        role: String,
    },
    WalLevelTooLow {
        wal_level: String,
    },
    NoWalSender {
        max: u32,
        active: u32,
    },
    FullPageWritesOff,
    /// The source's configuration includes what is a link in its data directory and so does not come.
    LinkedConfiguration {
        host: String,
        links: Vec<String>,
    },
    /// The source's pg_wal lacks the history file of its timeline.
    HistoryMissing {
        host: String,
        timeline: TimelineId,
        /// Its name.
        file: String,
    },

    // The replication slot.
    NoFreeSlot {
        max: u32,
        used: u32,
    },
    SlotMissing {
        name: String,
    },
    SlotLogical {
        name: String,
    },
    SlotActive {
        name: String,
        holder: Option<SlotHolder>,
    },
    /// Another run of pg_reseed has it.
    SlotOfRun {
        name: String,
        holder: SlotHolder,
    },
    SlotLost {
        name: String,
    },
    SlotKeepsTooMuch {
        name: String,
        bytes: u64,
        limit: u64,
    },
    /// `-X none` has nothing but a slot that keeps nothing yet.
    SlotKeepsNothing {
        name: String,
    },

    // What the standby would have less of.
    SettingsTooLow {
        settings: Vec<TooLow>,
    },

    // What the target's configuration makes of its server.
    /// The server of this configuration works in another directory.
    ServesElsewhere {
        pgdata: String,
        /// As the configuration has it.
        data_directory: String,
        /// Where that leads.
        place: String,
        file: String,
    },
    EmptyConfiguration {
        files: Vec<String>,
    },

    // Directories that options name.
    WaldirUnfit {
        waldir: String,
        problem: String,
    },
    DivergedWalPlace {
        directory: String,
        /// A sentence.
        problem: String,
    },
    /// Parts of what `--keep-diverged-wal` shall save are gone.
    DivergedWalIncomplete {
        /// Names of segments.
        missing: Vec<String>,
        /// Sentences.
        lack: String,
    },
    ConfigDirUnfit {
        directory: String,
        /// A sentence.
        problem: String,
    },

    /// A directory that is emptied, behind a link, is another data directory's too.
    /// Links and where they lead.
    DanglingLinks {
        links: Vec<(String, String)>,
    },
    DirectoryShared {
        link: String,
        location: Vec<u8>,
        other: Sharer,
    },

    // Where tablespaces go.
    MappingUnknown {
        old: Vec<u8>,
        known: Vec<String>,
    },
    MappingTwice {
        old: Vec<u8>,
    },
    LocationNotAbsolute {
        oid: u32,
        location: Vec<u8>,
    },
    LocationsOverlap {
        location: Vec<u8>,
        other: Vec<u8>,
    },
    LocationInside {
        oid: u32,
        /// The source's location, the OLD of a mapping.
        old: Vec<u8>,
        location: Vec<u8>,
        /// What it lies inside of.
        outer: Vec<u8>,
        outer_role: &'static str,
    },
    LocationOfSource {
        oid: u32,
        old: Vec<u8>,
        location: Vec<u8>,
        /// A place to map to that the target uses already.
        suggestion: Option<Vec<u8>>,
    },
    /// Another data directory has a tablespace there.
    LocationShared {
        oid: u32,
        old: Vec<u8>,
        location: Vec<u8>,
        other: Sharer,
    },
    LocationInUse {
        location: Vec<u8>,
        version_directory: String,
    },
    LocationNotEmpty {
        location: Vec<u8>,
        example: String,
    },
    LocationNotDirectory {
        location: Vec<u8>,
    },
    NewTablespaces {
        oids: Vec<u32>,
    },

    // The standby's login.
    LoginRefused {
        primary_conninfo: String,
        reason: String,
    },
    LoginElsewhere {
        primary_conninfo: String,
        expected: u64,
        actual: u64,
    },

    // Room on the file systems.
    NoRoom {
        place: String,
        needed_bytes: u64,
        available_bytes: u64,
    },

    // What may not be read or written.
    SourceUnreadable {
        host: String,
        /// The user that the agent is.
        user: String,
        paths: Vec<String>,
        /// How many more there are.
        more: u64,
    },
    TargetUnwritable {
        host: String,
        /// The user that the client is.
        user: String,
        /// Paths, and what bars the way there.
        barred: Vec<(String, Bar)>,
    },

    // How many files go.
    TooManyRemovals {
        limit: u64,
        files: u64,
        /// Some of them.
        examples: Vec<String>,
    },
}

impl Refusal {
    /// The guard's stable name, for reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::RunsAsRoot => "runs-as-root",
            Refusal::NotADataDirectory { .. } => "not-a-data-directory",
            Refusal::NotOwner { .. } => "not-owner",
            Refusal::Unreadable { .. } => "unreadable",
            Refusal::Locked { .. } => "locked",
            Refusal::ServerRunning { .. } => "server-running",
            Refusal::PidFileUnclear { .. } => "pid-file-unclear",
            Refusal::PidFileTorn { .. } => "pid-file-torn",
            Refusal::Orphans { .. } => "orphans",
            Refusal::UnexpectedLinks { .. } => "unexpected-links",
            Refusal::SameDirectory { .. } => "same-directory",
            Refusal::SamePidFile { .. } => "same-pid-file",
            Refusal::NestedDirectory { .. } => "nested-directory",
            Refusal::SourceFollowsTarget { .. } => "source-follows-target",
            Refusal::SeedNotAskedFor { .. } => "seed-not-asked-for",
            Refusal::SlotKeepsTooMuch { .. } => "slot-keeps-too-much",
            Refusal::UnsupportedVersion { .. } => "unsupported-version",
            Refusal::OtherMajor { .. } => "other-major",
            Refusal::OtherLayout { .. } => "other-layout",
            Refusal::ForeignCluster { .. } => "foreign-cluster",
            Refusal::NewerTimeline { .. } => "newer-timeline",
            Refusal::NewerWal { .. } => "newer-wal",
            Refusal::NoBackupRight { .. } => "no-backup-right",
            Refusal::NoReplicationRight { .. } => "no-replication-right",
            Refusal::WalLevelTooLow { .. } => "wal-level-too-low",
            Refusal::NoWalSender { .. } => "no-wal-sender",
            Refusal::FullPageWritesOff => "full-page-writes-off",
            Refusal::LinkedConfiguration { .. } => "linked-configuration",
            Refusal::HistoryMissing { .. } => "history-missing",
            Refusal::NoFreeSlot { .. } => "no-free-slot",
            Refusal::SlotMissing { .. } => "slot-missing",
            Refusal::SlotLogical { .. } => "slot-logical",
            Refusal::SlotActive { .. } => "slot-active",
            Refusal::SlotOfRun { .. } => "slot-of-run",
            Refusal::SlotLost { .. } => "slot-lost",
            Refusal::SlotKeepsNothing { .. } => "slot-keeps-nothing",
            Refusal::SettingsTooLow { .. } => "settings-too-low",
            Refusal::ServesElsewhere { .. } => "serves-elsewhere",
            Refusal::EmptyConfiguration { .. } => "empty-configuration",
            Refusal::WaldirUnfit { .. } => "waldir-unfit",
            Refusal::DivergedWalPlace { .. } => "diverged-wal-place",
            Refusal::DivergedWalIncomplete { .. } => "diverged-wal-incomplete",
            Refusal::ConfigDirUnfit { .. } => "config-dir-unfit",
            Refusal::DanglingLinks { .. } => "dangling-link",
            Refusal::DirectoryShared { .. } => "directory-shared",
            Refusal::MappingUnknown { .. } => "mapping-unknown",
            Refusal::MappingTwice { .. } => "mapping-twice",
            Refusal::LocationNotAbsolute { .. } => "location-not-absolute",
            Refusal::LocationsOverlap { .. } => "locations-overlap",
            Refusal::LocationInside { .. } => "location-inside",
            Refusal::LocationOfSource { .. } => "location-of-source",
            Refusal::LocationShared { .. } => "location-shared",
            Refusal::LocationInUse { .. } => "location-in-use",
            Refusal::LocationNotEmpty { .. } => "location-not-empty",
            Refusal::LocationNotDirectory { .. } => "location-not-directory",
            Refusal::NewTablespaces { .. } => "new-tablespaces",
            Refusal::LoginRefused { .. } => "login-refused",
            Refusal::LoginElsewhere { .. } => "login-elsewhere",
            Refusal::NoRoom { .. } => "no-room",
            Refusal::SourceUnreadable { .. } => "source-unreadable",
            Refusal::TargetUnwritable { .. } => "target-unwritable",
            Refusal::TooManyRemovals { .. } => "too-many-removals",
        }
    }
}
