//! What a run warns of: a code for programs, and a sentence for people.

use serde::{Serialize, Serializer};

/// What kind of warning it is. The names are stable: they stand in `--progress json` and in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    AttemptFailed,
    AutoConfReplaced,
    BackupRepeated,
    ConfigurationChanged,
    ConfigurationRejected,
    ConfigurationUnread,
    CopyHasSourcesName,
    DamagedPagesUnlisted,
    DirectoryModeMended,
    DivergedWalGone,
    DivergedWalIncomplete,
    DivergedWalSavedEarlier,
    EmptyConfigurationFilled,
    HistoryMissing,
    HostFilesNotBrought,
    LeavesNoPrimary,
    LoginFailed,
    LoginOfThisSession,
    ParentGone,
    ReportNotWritten,
    SeedsMissingDirectory,
    SettingInForce,
    SettingUnknown,
    SlotInUse,
    SlotLeft,
    SlotMissing,
    SlotSyncIncomplete,
    SlotsRemoved,
    SourceFilesLeftOut,
    SourceIsCopy,
    SourceWithoutPrimary,
    StreamLost,
    StreamsMissing,
    SynchronousStandby,
    TablespaceLeft,
    TargetIsCopy,
    TargetIsStandby,
    UncleanShutdown,
    WalNotArchived,
}

impl Code {
    /// All of them with their names and their meaning, as the manual has it.
    pub const ALL: [(Code, &str, &str); 39] = [
        (
            Code::AttemptFailed,
            "attempt-failed",
            "an attempt of pg_reseed patroni failed for a reason that may pass, and another one follows",
        ),
        (
            Code::AutoConfReplaced,
            "auto-conf-replaced",
            "postgresql.auto.conf is a link, and becomes a file",
        ),
        (
            Code::BackupRepeated,
            "backup-repeated",
            "a backup cannot be used, and a new one begins",
        ),
        (
            Code::ConfigurationChanged,
            "configuration-changed",
            "what the source's configuration names is changed or left out here",
        ),
        (
            Code::ConfigurationRejected,
            "configuration-rejected",
            "a server would not start with the target's configuration",
        ),
        (
            Code::ConfigurationUnread,
            "configuration-unread",
            "a part of the target's configuration cannot be read",
        ),
        (
            Code::CopyHasSourcesName,
            "copy-has-sources-name",
            "a copy has the port and the cluster_name of its source",
        ),
        (
            Code::DamagedPagesUnlisted,
            "damaged-pages-unlisted",
            "there are more damaged pages than are listed",
        ),
        (
            Code::DirectoryModeMended,
            "directory-mode-mended",
            "the data directory gets permissions that PostgreSQL accepts",
        ),
        (
            Code::DivergedWalGone,
            "diverged-wal-gone",
            "the WAL that only the target had cannot be saved any more",
        ),
        (
            Code::DivergedWalIncomplete,
            "diverged-wal-incomplete",
            "a part of the WAL that only the target has is gone already",
        ),
        (
            Code::DivergedWalSavedEarlier,
            "diverged-wal-saved-earlier",
            "an earlier run has saved the WAL that only the target had",
        ),
        (
            Code::EmptyConfigurationFilled,
            "empty-configuration-filled",
            "files of the target without content get the source's",
        ),
        (
            Code::HistoryMissing,
            "history-missing",
            "the source lacks the history file of its timeline",
        ),
        (
            Code::HostFilesNotBrought,
            "host-files-not-brought",
            "files of the source's host that the target lacks do not come",
        ),
        (
            Code::LeavesNoPrimary,
            "leaves-no-primary",
            "the source is a standby of the target, and --leave-no-primary was given",
        ),
        (
            Code::LoginFailed,
            "login-failed",
            "with --role managed, the connection string that was given did not let the standby in",
        ),
        (
            Code::LoginOfThisSession,
            "login-of-this-session",
            "the standby's login works with variables of this session only",
        ),
        (
            Code::ParentGone,
            "parent-gone",
            "the process that started pg_reseed patroni has ended, and the run stops",
        ),
        (
            Code::ReportNotWritten,
            "report-not-written",
            "the file of --report or --metrics could not be written at the end",
        ),
        (
            Code::SeedsMissingDirectory,
            "seeds-missing-directory",
            "the data directory does not exist, and --seed was not given",
        ),
        (
            Code::SettingInForce,
            "setting-in-force",
            "a setting of the target's configuration may surprise",
        ),
        (
            Code::SettingUnknown,
            "setting-unknown",
            "the server's program does not tell a setting",
        ),
        (
            Code::SlotInUse,
            "slot-in-use",
            "another standby uses the slot that the target's configuration names",
        ),
        (
            Code::SlotLeft,
            "slot-left",
            "a slot is left on the source without a standby",
        ),
        (
            Code::SlotMissing,
            "slot-missing",
            "the source does not have the slot that the target's configuration names",
        ),
        (
            Code::SlotSyncIncomplete,
            "slot-sync-incomplete",
            "slot synchronisation is on and lacks something",
        ),
        (
            Code::SlotsRemoved,
            "slots-removed",
            "the target's replication slots go",
        ),
        (
            Code::SourceFilesLeftOut,
            "source-files-left-out",
            "links, special files and what is not readable on the source do not come",
        ),
        (
            Code::SourceIsCopy,
            "source-is-copy",
            "the source is a copy of --role clone",
        ),
        (
            Code::SourceWithoutPrimary,
            "source-without-primary",
            "the source is a standby that receives WAL from no server",
        ),
        (
            Code::StreamLost,
            "stream-lost",
            "a further stream was lost, and the run goes on",
        ),
        (
            Code::StreamsMissing,
            "streams-missing",
            "the run goes on with fewer streams than were asked for",
        ),
        (
            Code::SynchronousStandby,
            "synchronous-standby",
            "the source waits for synchronous standbys",
        ),
        (
            Code::TablespaceLeft,
            "tablespace-left",
            "the former place of a tablespace keeps what it held",
        ),
        (
            Code::TargetIsCopy,
            "target-is-copy",
            "the target is a copy of --role clone and becomes a standby",
        ),
        (
            Code::TargetIsStandby,
            "target-is-standby",
            "the target is a standby and becomes a copy",
        ),
        (
            Code::UncleanShutdown,
            "unclean-shutdown",
            "the target may have had writes of its own that nothing tells of",
        ),
        (
            Code::WalNotArchived,
            "wal-not-archived",
            "WAL of the target that was never archived goes",
        ),
    ];

    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    pub code: Code,
    /// A sentence.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_name() {
        for (number, (code, name, meaning)) in Code::ALL.iter().enumerate() {
            assert_eq!((*code as usize, code.name()), (number, *name));
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
            assert!(!meaning.is_empty() && !meaning.ends_with('.'), "{name}");
        }
        assert!(Code::ALL.is_sorted_by_key(|(_, name, _)| *name));
    }
}
