//! Each reason to refuse, with its values, and in words for the DBA.
//!
//! Three parts, in the style of PostgreSQL's messages: the error says what is wrong, the detail why
//! going on is dangerous or impossible, the hint what to do, with the option that overrides the
//! guard where one exists. Who refuses, and when, is in [`guard`](super::guard) and
//! [`tablespaces`](super::tablespaces).

use crate::pg::lsn::Lsn;
use crate::pg::timeline::TimelineId;
use crate::pg::version::{SUPPORTED_MAJORS, Version};
use crate::plan::settings::TooLow;
use crate::plan::words::{Bytes, some_of, text};

/// A guard that does not let the run go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    // Who runs it, and where.
    RunsAsRoot,
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
    },
    Locked {
        pgdata: String,
    },
    ServerRunning {
        pgdata: String,
        pid: u32,
    },
    Orphans {
        pgdata: String,
        detail: String,
    },
    PidFileUnclear {
        pgdata: String,
        pid: u32,
    },
    UnexpectedLinks {
        links: Vec<String>,
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
    },
    SlotLost {
        name: String,
    },
    /// `-X none` has nothing but a slot that keeps nothing yet.
    SlotKeepsNothing {
        name: String,
    },
    FullPageWritesOff,
    SettingsTooLow {
        settings: Vec<TooLow>,
    },
    DivergedWalPlace {
        directory: String,
        /// A sentence.
        problem: String,
    },
    ConfigDirUnfit {
        directory: String,
        /// A sentence.
        problem: String,
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
    WaldirUnfit {
        waldir: String,
        problem: String,
    },

    // What shows only later.
    LoginRefused {
        primary_conninfo: String,
        reason: String,
    },
    LoginElsewhere {
        primary_conninfo: String,
        expected: u64,
        actual: u64,
    },
    NoRoom {
        place: String,
        needed_bytes: u64,
        available_bytes: u64,
    },
    TooManyRemovals {
        limit: u64,
        files: u64,
        /// Some of them.
        examples: Vec<String>,
    },
    NewTablespaces {
        oids: Vec<u32>,
    },
}

/// The three parts of a message.
struct Words {
    error: String,
    detail: String,
    hint: String,
}

fn words(error: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Words {
    Words {
        error: error.into(),
        detail: detail.into(),
        hint: hint.into(),
    }
}

impl Refusal {
    /// What is wrong: one line, lower case, no full stop.
    #[must_use]
    pub fn error(&self) -> String {
        self.words().error
    }

    /// Why the run must not go on: sentences.
    #[must_use]
    pub fn detail(&self) -> String {
        self.words().detail
    }

    /// What to do: sentences.
    #[must_use]
    pub fn hint(&self) -> String {
        self.words().hint
    }

    /// The guard's stable name, for reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::RunsAsRoot => "runs-as-root",
            Refusal::SameDirectory { .. } => "same-directory",
            Refusal::SamePidFile { .. } => "same-pid-file",
            Refusal::NestedDirectory { .. } => "nested-directory",
            Refusal::NotADataDirectory { .. } => "not-a-data-directory",
            Refusal::NotOwner { .. } => "not-owner",
            Refusal::Unreadable { .. } => "unreadable",
            Refusal::Locked { .. } => "locked",
            Refusal::ServerRunning { .. } => "server-running",
            Refusal::Orphans { .. } => "orphans",
            Refusal::PidFileUnclear { .. } => "pid-file-unclear",
            Refusal::WaldirUnfit { .. } => "waldir-unfit",
            Refusal::UnexpectedLinks { .. } => "unexpected-links",
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
            Refusal::NoFreeSlot { .. } => "no-free-slot",
            Refusal::SlotMissing { .. } => "slot-missing",
            Refusal::SlotLogical { .. } => "slot-logical",
            Refusal::SlotActive { .. } => "slot-active",
            Refusal::SlotLost { .. } => "slot-lost",
            Refusal::SlotKeepsNothing { .. } => "slot-keeps-nothing",
            Refusal::FullPageWritesOff => "full-page-writes-off",
            Refusal::SettingsTooLow { .. } => "settings-too-low",
            Refusal::DivergedWalPlace { .. } => "diverged-wal-place",
            Refusal::ConfigDirUnfit { .. } => "config-dir-unfit",
            Refusal::MappingUnknown { .. } => "mapping-unknown",
            Refusal::MappingTwice { .. } => "mapping-twice",
            Refusal::LocationNotAbsolute { .. } => "location-not-absolute",
            Refusal::LocationsOverlap { .. } => "locations-overlap",
            Refusal::LocationInside { .. } => "location-inside",
            Refusal::LocationOfSource { .. } => "location-of-source",
            Refusal::LocationInUse { .. } => "location-in-use",
            Refusal::LocationNotEmpty { .. } => "location-not-empty",
            Refusal::LocationNotDirectory { .. } => "location-not-directory",
            Refusal::LoginRefused { .. } => "login-refused",
            Refusal::LoginElsewhere { .. } => "login-elsewhere",
            Refusal::NoRoom { .. } => "no-room",
            Refusal::TooManyRemovals { .. } => "too-many-removals",
            Refusal::NewTablespaces { .. } => "new-tablespaces",
        }
    }

    fn words(&self) -> Words {
        self.place_words()
            .or_else(|| self.relation_words())
            .or_else(|| self.source_words())
            .or_else(|| self.tablespace_words())
            .unwrap_or_else(|| self.later_words())
    }

    fn place_words(&self) -> Option<Words> {
        Some(match self {
            Refusal::RunsAsRoot => words(
                "cannot be executed by \"root\"",
                "Files made by root would not be readable by the server.",
                "Log in (using, e.g., \"su\") as the user that owns the data directory.",
            ),
            Refusal::SameDirectory {
                target_role,
                source_role,
                source_path,
            } => words(
                format!("{target_role} of the target is {source_role} of the source"),
                format!(
                    "Both are \"{source_path}\": a rebuild would overwrite the files of the running source."
                ),
                "Check -D and --from. If a link of the target leads to the source's directory, remove the link first and give a tablespace its own place with --tablespace-mapping.",
            ),
            Refusal::SamePidFile { pgdata } => words(
                format!("data directory \"{pgdata}\" holds the source's \"postmaster.pid\""),
                "It is the source's own data directory seen through another mount, or a copy of it.",
                format!(
                    "Check -D and --from. Only if \"{pgdata}\" is a copy that no server uses, remove \"postmaster.pid\" from it."
                ),
            ),
            Refusal::NestedDirectory { inner, outer } => words(
                format!("directory \"{inner}\" lies inside \"{outer}\""),
                "One is the target, the other the source: writing to one would change the other.",
                "Check -D, or choose a directory outside the source's data directory.",
            ),
            Refusal::NotADataDirectory { pgdata, example } => words(
                format!("directory \"{pgdata}\" exists but is not a data directory"),
                format!(
                    "It has no \"PG_VERSION\", but it holds \"{example}\", which a rebuild could remove."
                ),
                "Check -D. To seed a new standby there, empty the directory first.",
            ),
            Refusal::NotOwner { pgdata, user } => words(
                format!("data directory \"{pgdata}\" does not belong to user \"{user}\""),
                "The server must own its data directory, and files made by another user would keep it from starting.",
                "Run the command as the user that owns the data directory.",
            ),
            Refusal::Unreadable { pgdata, problem } => words(
                format!("could not tell which cluster is in \"{pgdata}\": {problem}"),
                "Without its control file nothing proves that this directory may be overwritten.",
                "Check -D. If its content can be given up, empty the directory and run the same command again: it seeds the standby.",
            ),
            Refusal::Locked { pgdata } => words(
                format!("another pg_reseed is at work in \"{pgdata}\""),
                "Two at once would destroy each other's work.",
                "Wait until the other run has ended.",
            ),
            Refusal::ServerRunning { pgdata, pid } => words(
                format!("a server is running in \"{pgdata}\" (PID {pid})"),
                "Its files cannot be replaced beneath it.",
                "Stop the server first, or use --stop to have it stopped.",
            ),
            Refusal::PidFileUnclear { pgdata, pid } => words(
                format!("could not tell whether a server is running in \"{pgdata}\""),
                format!(
                    "Its \"postmaster.pid\" names process {pid}, which is alive but does not work there: the number was given away again, or the server runs in another container."
                ),
                "If no server uses the directory, remove \"postmaster.pid\".",
            ),
            Refusal::WaldirUnfit { waldir, problem } => words(
                format!("cannot use \"{waldir}\" as WAL directory: {problem}"),
                "All that is in the WAL directory of a new standby is removed.",
                "Choose another directory with --waldir, missing or empty.",
            ),
            Refusal::Orphans { pgdata, detail } => words(
                format!("processes of a stopped server still use \"{pgdata}\""),
                detail.clone(),
                "Terminate these processes, then run the same command again.",
            ),
            Refusal::UnexpectedLinks { links } => words(
                format!(
                    "unexpected symbolic link in the target's data directory: {}",
                    some_of(links)
                ),
                "Only pg_wal and the tablespaces may be links: writing through any other would reach outside the data directory.",
                "Replace each link by the directory or file that it leads to.",
            ),
            _ => return None,
        })
    }

    fn relation_words(&self) -> Option<Words> {
        Some(match self {
            Refusal::UnsupportedVersion { version } => words(
                format!("the source runs PostgreSQL {version}, which is not supported"),
                format!(
                    "The files of PostgreSQL {} to {} are known.",
                    SUPPORTED_MAJORS.start(),
                    SUPPORTED_MAJORS.end()
                ),
                if version.major() > *SUPPORTED_MAJORS.end() {
                    "Use a pg_reseed made for this version. If nothing that it depends on has changed there, --allow-unknown-version goes on."
                } else {
                    "Use a pg_reseed made for this version."
                },
            ),
            Refusal::OtherMajor { target, source } => words(
                format!("the target is of PostgreSQL {target}, the source of PostgreSQL {source}"),
                "A standby must be of its primary's major version, and no block of one is of use in the other.",
                "Check -D and --from. To seed a standby of the source there, empty the directory first.",
            ),
            Refusal::OtherLayout { differences } => words(
                "the data files of target and source have different layouts",
                differences
                    .iter()
                    .map(|(field, target, source)| {
                        format!(
                            "Field {field} is {target} in the target and {source} in the source."
                        )
                    })
                    .collect::<Vec<_>>()
                    .join(" "),
                "Check -D and --from. To seed a standby of the source there, empty the directory first.",
            ),
            Refusal::ForeignCluster { target, source } => words(
                "the target belongs to another cluster",
                format!(
                    "Its system identifier is {target}, the source's is {source}: everything in it would be lost."
                ),
                "Check -D and --from. If the target's cluster can be given up, use --overwrite-foreign-cluster.",
            ),
            Refusal::NewerTimeline {
                target,
                source,
                common,
                target_end,
            } => words(
                format!(
                    "the target is on timeline {target}, which is newer than the source's timeline {source}"
                ),
                match common {
                    Some((timeline, lsn)) => format!(
                        "It is, or has followed, a server that was promoted later than the source, perhaps the real primary: its WAL after {lsn} of timeline {timeline}, up to {target_end} at least, would be lost."
                    ),
                    None => format!(
                        "It is, or has followed, a server that was promoted later than the source, perhaps the real primary: its WAL, up to {target_end} at least, would be lost."
                    ),
                },
                "Check which server is the primary: perhaps the source is the one to rebuild. If the target's timeline can be given up, use --discard-newer-timeline.",
            ),
            Refusal::NewerWal {
                timeline,
                target_end,
                source_end,
                source_is_standby,
            } => words(
                format!("the target is ahead of the source on timeline {timeline}"),
                format!(
                    "It has WAL up to {target_end}, the source up to {source_end}: {} would be lost.",
                    Bytes(target_end.bytes_since(*source_end))
                ),
                if *source_is_standby {
                    "The source is a standby and may only be late: wait until it has replayed more, or use its primary. If the target's WAL can be given up, use --discard-newer-wal."
                } else {
                    "Check which server is the primary, and whether the source was restored from an older backup. If the target's WAL can be given up, use --discard-newer-wal."
                },
            ),
            _ => return None,
        })
    }

    fn source_words(&self) -> Option<Words> {
        Some(match self {
            Refusal::NoBackupRight { role, major } => {
                let functions = if *major >= 15 {
                    "pg_backup_start(text, boolean), pg_backup_stop(boolean)"
                } else {
                    "pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean)"
                };
                words(
                    format!("role \"{role}\" may not start a backup on the source"),
                    "The agent needs EXECUTE on the backup functions in the database that it connects to; the attribute REPLICATION does not include it.",
                    format!(
                        "Let the agent connect as a superuser, or do on the source: GRANT EXECUTE ON FUNCTION {functions} TO {};",
                        quoted(role)
                    ),
                )
            }
            Refusal::NoReplicationRight { role } => words(
                format!("role \"{role}\" may not use replication slots on the source"),
                "Without a slot the source may remove WAL that the new standby needs.",
                format!(
                    "Let the agent connect as a superuser, or do on the source: ALTER ROLE {} REPLICATION;",
                    quoted(role)
                ),
            ),
            Refusal::WalLevelTooLow { wal_level } => words(
                format!("\"wal_level\" is \"{wal_level}\" on the source"),
                "Its WAL is not sufficient for a backup or a standby.",
                "Set \"wal_level\" to \"replica\" or \"logical\" on the source and restart it.",
            ),
            Refusal::NoWalSender { max, active } => words(
                "the source has no free WAL sender for the new standby",
                format!("{active} of \"max_wal_senders\" = {max} are in use."),
                "Set \"max_wal_senders\" higher on the source and restart it, or end a connection that is no longer needed.",
            ),
            Refusal::NoFreeSlot { max, used } => words(
                "the source has no free replication slot",
                format!(
                    "{used} of \"max_replication_slots\" = {max} are in use, and the run needs one so that the source keeps its WAL."
                ),
                "Drop a slot that is no longer needed, or set \"max_replication_slots\" higher on the source and restart it.",
            ),
            Refusal::SlotMissing { name } => words(
                format!("replication slot \"{name}\" does not exist on the source"),
                "The standby would wait for it for ever.",
                "Check --slot, or use --create-slot to have it made.",
            ),
            Refusal::SlotLogical { name } => words(
                format!("replication slot \"{name}\" of the source is a logical slot"),
                "A standby needs a physical slot.",
                "Choose another name with --slot.",
            ),
            Refusal::SlotActive { name } => words(
                format!("replication slot \"{name}\" of the source is in use"),
                "Another standby streams from it, and a slot serves one at a time.",
                "Choose another name with --slot, or stop the standby that uses it.",
            ),
            Refusal::SlotLost { name } => words(
                format!("replication slot \"{name}\" of the source has lost its WAL"),
                "It was invalidated and cannot be used any more.",
                format!(
                    "Drop it on the source, SELECT pg_drop_replication_slot('{}');, and use --create-slot to have it made again.",
                    name.replace('\'', "''")
                ),
            ),
            Refusal::SlotKeepsNothing { name } => words(
                format!("replication slot \"{name}\" of the source keeps no WAL yet"),
                "It was made without reserving WAL, and with -X none nothing else gives the standby the WAL of the backup.",
                "Use -X fetch, give --restore-command, or drop the slot and use --create-slot to have it made again.",
            ),
            Refusal::DivergedWalPlace { directory, problem } => words(
                format!("diverged WAL cannot be saved in the directory \"{directory}\""),
                problem,
                "Give --keep-diverged-wal an empty or missing directory that no rebuild touches.",
            ),
            Refusal::ConfigDirUnfit { directory, problem } => words(
                format!("the configuration cannot be copied to the directory \"{directory}\""),
                problem,
                "Give --target-config-dir an empty or missing directory; or, to use what is there, --config-file.",
            ),
            Refusal::SettingsTooLow { settings } => words(
                "settings of the target are lower than the source's",
                settings
                    .iter()
                    .map(|low| {
                        format!(
                            "\"{}\" is {} in the target and {} in the source.",
                            low.name, low.target, low.source
                        )
                    })
                    .chain(["A standby with less lets no session in.".to_owned()])
                    .collect::<Vec<_>>()
                    .join(" "),
                format!(
                    "Set in the target's configuration: {}; or use --raise-settings.",
                    settings
                        .iter()
                        .map(|low| format!("{} = {}", low.name, low.source))
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            ),
            Refusal::FullPageWritesOff => words(
                "\"full_page_writes\" is off in the WAL that the source replays",
                "The source is a standby, and a backup taken from it could hold torn pages.",
                "Set \"full_page_writes\" to \"on\" on its primary and wait for the next restartpoint, or use the primary as the source.",
            ),
            _ => return None,
        })
    }

    fn tablespace_words(&self) -> Option<Words> {
        Some(match self {
            Refusal::MappingUnknown { old, known } => words(
                format!("no tablespace of the source is at \"{}\"", text(old)),
                if known.is_empty() {
                    "The source has no tablespaces to map.".to_owned()
                } else {
                    format!("The source's tablespaces are at {}.", some_of(known))
                },
                "Correct or leave out the --tablespace-mapping.",
            ),
            Refusal::MappingTwice { old } => words(
                format!("tablespace \"{}\" is mapped more than once", text(old)),
                "It can be in one place only.",
                "Leave out all but one --tablespace-mapping for it.",
            ),
            Refusal::LocationNotAbsolute { oid, location } => words(
                format!(
                    "location \"{}\" of the source's tablespace {oid} is not an absolute path",
                    text(location)
                ),
                "It does not tell where the tablespace goes on this host.",
                "Correct the link in \"pg_tblspc\" on the source.",
            ),
            Refusal::LocationsOverlap { location, other } => words(
                format!(
                    "tablespace locations \"{}\" and \"{}\" overlap",
                    text(location),
                    text(other)
                ),
                "Each tablespace needs a place of its own.",
                "Choose another directory with --tablespace-mapping.",
            ),
            Refusal::LocationInside {
                oid,
                old,
                location,
                outer,
                outer_role,
            } => words(
                format!(
                    "tablespace {oid} would be at \"{}\", inside {outer_role} \"{}\"",
                    text(location),
                    text(outer)
                ),
                "Its files would be taken for files of that directory.",
                format!(
                    "Choose a directory outside: --tablespace-mapping={}=NEWDIR.",
                    mapping_side(old)
                ),
            ),
            Refusal::LocationOfSource {
                oid,
                old,
                location,
                suggestion,
            } => words(
                format!(
                    "tablespace {oid} would be at \"{}\", which the source uses on this host",
                    text(location)
                ),
                "A rebuild would overwrite the files of the running source.",
                match suggestion {
                    Some(place) => format!(
                        "Use --tablespace-mapping={}={}, where the target has it now, or another directory.",
                        mapping_side(old),
                        mapping_side(place)
                    ),
                    None => format!(
                        "Choose another directory: --tablespace-mapping={}=NEWDIR.",
                        mapping_side(old)
                    ),
                },
            ),
            Refusal::LocationInUse {
                location,
                version_directory,
            } => words(
                format!(
                    "directory \"{}/{version_directory}\" already exists",
                    text(location)
                ),
                "No link of the target leads there: it may be a tablespace of another cluster.",
                "Choose another directory with --tablespace-mapping. If its content can be given up, use --reuse-tablespace-dirs.",
            ),
            Refusal::LocationNotEmpty { location, example } => words(
                format!("directory \"{}\" exists but is not empty", text(location)),
                format!("It holds \"{example}\", which is no part of a tablespace."),
                "Choose another directory with --tablespace-mapping. If the tablespace may share the directory, use --reuse-tablespace-dirs.",
            ),
            Refusal::LocationNotDirectory { location } => words(
                format!("\"{}\" exists but is not a directory", text(location)),
                "A tablespace of the source goes there.",
                "Remove it, or choose another directory with --tablespace-mapping.",
            ),
            _ => return None,
        })
    }

    fn later_words(&self) -> Words {
        match self {
            Refusal::LoginRefused {
                primary_conninfo,
                reason,
            } => words(
                format!("could not connect to the source for replication: {reason}"),
                format!(
                    "The rebuilt standby would connect with \"{primary_conninfo}\" and could not stream either."
                ),
                "Check -d, the passfile, and the line for \"replication\" in the source's pg_hba.conf. If the login cannot work yet, use --no-login-check.",
            ),
            Refusal::LoginElsewhere {
                primary_conninfo,
                expected,
                actual,
            } => words(
                "the server that the standby would follow is not the source",
                format!(
                    "\"{primary_conninfo}\" leads to system identifier {actual}, the agent's server has {expected}: the rebuilt standby could not stream from it."
                ),
                "Check -d and --from. If -d leads to the source only later, use --no-login-check.",
            ),
            Refusal::NoRoom {
                place,
                needed_bytes,
                available_bytes,
            } => words(
                format!("not enough room in \"{place}\""),
                format!(
                    "{} are needed, {} are available.",
                    Bytes(*needed_bytes),
                    Bytes(*available_bytes)
                ),
                "Make room. If the estimate is wrong, for a file system that compresses, use --ignore-free-space.",
            ),
            Refusal::TooManyRemovals {
                limit,
                files,
                examples,
            } => words(
                format!(
                    "the run would remove {files} files from the target, but the limit is {limit}"
                ),
                format!(
                    "The source does not have them{}. So many may mean that the target is not what it is taken for.",
                    if examples.is_empty() {
                        String::new()
                    } else {
                        format!(", for instance {}", some_of(examples))
                    }
                ),
                "Check -D and the source, then give a higher --max-delete.",
            ),
            Refusal::NewTablespaces { oids } => words(
                format!(
                    "the source got a new tablespace during the run: {}",
                    oids.iter()
                        .map(u32::to_string)
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
                "Where it goes on this host was not decided, and its place was not checked.",
                "Run the same command again, with a --tablespace-mapping for it where the source's path is not to be used.",
            ),
            // The other words functions have the rest; `every_refusal_has_words` proves it.
            other => words(other.name(), "", ""),
        }
    }
}

/// An SQL identifier in double quotes.
fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// One side of a `--tablespace-mapping`, its equals signs escaped.
fn mapping_side(path: &[u8]) -> String {
    text(path).replace('=', "\\=")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each.
    fn all() -> Vec<Refusal> {
        let s = || "x".to_owned();
        let b = || b"/x".to_vec();
        let (lsn, timeline) = (Lsn(0x300_0060), TimelineId(2));
        vec![
            Refusal::RunsAsRoot,
            Refusal::SameDirectory {
                target_role: "the data directory".to_owned(),
                source_role: "the data directory".to_owned(),
                source_path: s(),
            },
            Refusal::SamePidFile { pgdata: s() },
            Refusal::NestedDirectory {
                inner: s(),
                outer: s(),
            },
            Refusal::NotADataDirectory {
                pgdata: s(),
                example: s(),
            },
            Refusal::NotOwner {
                pgdata: s(),
                user: s(),
            },
            Refusal::Unreadable {
                pgdata: s(),
                problem: s(),
            },
            Refusal::Locked { pgdata: s() },
            Refusal::ServerRunning {
                pgdata: s(),
                pid: 1,
            },
            Refusal::Orphans {
                pgdata: s(),
                detail: "PID 1 does.".to_owned(),
            },
            Refusal::UnexpectedLinks { links: vec![s()] },
            Refusal::UnsupportedVersion {
                version: Version(190_000),
            },
            Refusal::OtherMajor {
                target: 14,
                source: 15,
            },
            Refusal::OtherLayout {
                differences: vec![("blcksz", s(), s())],
            },
            Refusal::ForeignCluster {
                target: 1,
                source: 2,
            },
            Refusal::NewerTimeline {
                target: timeline,
                source: timeline,
                common: Some((timeline, lsn)),
                target_end: lsn,
            },
            Refusal::NewerTimeline {
                target: timeline,
                source: timeline,
                common: None,
                target_end: lsn,
            },
            Refusal::NewerWal {
                timeline,
                target_end: lsn,
                source_end: Lsn(0x300_0000),
                source_is_standby: true,
            },
            Refusal::NewerWal {
                timeline,
                target_end: lsn,
                source_end: Lsn(0x300_0000),
                source_is_standby: false,
            },
            Refusal::NoBackupRight {
                role: s(),
                major: 13,
            },
            Refusal::NoReplicationRight { role: s() },
            Refusal::WalLevelTooLow { wal_level: s() },
            Refusal::NoWalSender { max: 0, active: 0 },
            Refusal::NoFreeSlot { max: 0, used: 0 },
            Refusal::SlotMissing { name: s() },
            Refusal::SlotLogical { name: s() },
            Refusal::SlotActive { name: s() },
            Refusal::SlotLost { name: s() },
            Refusal::SlotKeepsNothing { name: s() },
            Refusal::FullPageWritesOff,
            Refusal::DivergedWalPlace {
                directory: s(),
                problem: "It is full.".to_owned(),
            },
            Refusal::ConfigDirUnfit {
                directory: s(),
                problem: "It is full.".to_owned(),
            },
            Refusal::SettingsTooLow {
                settings: vec![TooLow {
                    name: "max_connections",
                    target: 100,
                    source: 200,
                }],
            },
            Refusal::MappingUnknown {
                old: b(),
                known: vec![s()],
            },
            Refusal::MappingUnknown {
                old: b(),
                known: vec![],
            },
            Refusal::MappingTwice { old: b() },
            Refusal::LocationNotAbsolute {
                oid: 1,
                location: b(),
            },
            Refusal::LocationsOverlap {
                location: b(),
                other: b(),
            },
            Refusal::PidFileUnclear {
                pgdata: s(),
                pid: 1,
            },
            Refusal::WaldirUnfit {
                waldir: s(),
                problem: s(),
            },
            Refusal::LocationInside {
                oid: 1,
                old: b(),
                location: b(),
                outer: b(),
                outer_role: "the data directory",
            },
            Refusal::LocationOfSource {
                oid: 1,
                old: b(),
                location: b(),
                suggestion: None,
            },
            Refusal::LocationOfSource {
                oid: 1,
                old: b(),
                location: b(),
                suggestion: Some(b()),
            },
            Refusal::LocationInUse {
                location: b(),
                version_directory: s(),
            },
            Refusal::LocationNotEmpty {
                location: b(),
                example: s(),
            },
            Refusal::LocationNotDirectory { location: b() },
            Refusal::LoginRefused {
                primary_conninfo: s(),
                reason: s(),
            },
            Refusal::LoginElsewhere {
                primary_conninfo: s(),
                expected: 1,
                actual: 2,
            },
            Refusal::NoRoom {
                place: s(),
                needed_bytes: 2,
                available_bytes: 1,
            },
            Refusal::TooManyRemovals {
                limit: 1,
                files: 2,
                examples: vec!["base/1/2".to_owned()],
            },
            Refusal::NewTablespaces { oids: vec![1] },
        ]
    }

    #[test]
    fn every_refusal_has_words_in_postgresqls_style() {
        for refusal in all() {
            let (name, error) = (refusal.name(), refusal.error());
            let (detail, hint) = (refusal.detail(), refusal.hint());
            assert!(
                error.contains(' ') && !error.ends_with('.'),
                "{name}: {error}"
            );
            // A name in quotes may come first; otherwise lower case.
            assert!(!error.starts_with(char::is_uppercase), "{name}: {error}");
            assert!(!error.contains('\n'), "{name}: {error}");
            for sentence in [&detail, &hint] {
                let end = sentence.trim_end_matches(';');
                assert!(
                    sentence
                        .starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit() || c == '"'),
                    "{name}: {sentence}"
                );
                assert!(sentence.ends_with(['.', ';']), "{name}: {end}");
            }
            assert!(
                name.chars().all(|c| c.is_ascii_lowercase() || c == '-'),
                "{name}"
            );
        }
    }

    #[test]
    fn overridable_refusals_name_their_option() {
        for (name, option) in [
            ("server-running", "--stop"),
            ("foreign-cluster", "--overwrite-foreign-cluster"),
            ("newer-timeline", "--discard-newer-timeline"),
            ("newer-wal", "--discard-newer-wal"),
            ("location-in-use", "--reuse-tablespace-dirs"),
            ("location-not-empty", "--reuse-tablespace-dirs"),
            ("login-refused", "--no-login-check"),
            ("login-elsewhere", "--no-login-check"),
            ("no-room", "--ignore-free-space"),
            ("too-many-removals", "--max-delete"),
            ("unsupported-version", "--allow-unknown-version"),
            ("settings-too-low", "--raise-settings"),
            ("diverged-wal-place", "--keep-diverged-wal"),
        ] {
            let named: Vec<Refusal> = all().into_iter().filter(|r| r.name() == name).collect();
            assert!(!named.is_empty(), "{name}");
            for refusal in named {
                assert!(
                    refusal.hint().contains(option),
                    "{name}: {}",
                    refusal.hint()
                );
            }
        }
    }

    #[test]
    fn names_are_quoted_for_where_they_go() {
        let refusal = Refusal::NoReplicationRight {
            role: "a\"b".to_owned(),
        };
        assert!(
            refusal
                .hint()
                .contains("ALTER ROLE \"a\"\"b\" REPLICATION;")
        );
        let refusal = Refusal::LocationOfSource {
            oid: 1,
            old: b"/a=b".to_vec(),
            location: b"/a=b".to_vec(),
            suggestion: Some(b"/c".to_vec()),
        };
        assert!(refusal.hint().contains("--tablespace-mapping=/a\\=b=/c,"));
    }
}
