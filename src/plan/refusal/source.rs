//! Words for refusals: whether the source can serve a standby.

use super::reason::Refusal;
use super::words::{Words, words};
use crate::plan::words::some_of;

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
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
        Refusal::FullPageWritesOff => words(
            "\"full_page_writes\" is off in the WAL that the source replays",
            "The source is a standby, and a backup taken from it could hold torn pages.",
            "Set \"full_page_writes\" to \"on\" on its primary and wait for the next restartpoint, or use the primary as the source.",
        ),
        Refusal::LinkedConfiguration { host, links } => words(
            format!(
                "the source's configuration includes links in its data directory on host \"{host}\": {}",
                some_of(links)
            ),
            "Links do not come, except in the place of the main configuration files: the standby could not start.",
            "Have all files of the configuration written elsewhere with --target-config-dir, name this host's own with --config-file, or replace the links on the source by what they lead to.",
        ),
        Refusal::HistoryMissing {
            host,
            timeline,
            file,
        } => words(
            format!("\"pg_wal/{file}\" is missing on the source, host \"{host}\""),
            format!(
                "The source is on timeline {}, and each standby that wants to stream from it asks for that file first: it would never stream.",
                timeline.0
            ),
            format!(
                "Put \"{file}\" back into the source's pg_wal, from its WAL archive or from another standby, or give the standby a --restore-command that gets it from the archive. If it is nowhere, a promotion makes a new timeline with a file of its own."
            ),
        ),
        _ => return None,
    })
}

/// An SQL identifier in double quotes.
fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    let s = || "x".to_owned();
    vec![
        Refusal::NoBackupRight {
            role: s(),
            major: 13,
        },
        Refusal::NoReplicationRight { role: s() },
        Refusal::WalLevelTooLow { wal_level: s() },
        Refusal::NoWalSender { max: 0, active: 0 },
        Refusal::FullPageWritesOff,
        Refusal::LinkedConfiguration {
            host: s(),
            links: vec![s()],
        },
        Refusal::HistoryMissing {
            host: s(),
            timeline: crate::pg::timeline::TimelineId(2),
            file: s(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_in_a_statement_is_quoted() {
        let refusal = Refusal::NoReplicationRight {
            role: "a\"b".to_owned(),
        };
        assert!(
            refusal
                .hint()
                .contains("ALTER ROLE \"a\"\"b\" REPLICATION;")
        );
    }
}
