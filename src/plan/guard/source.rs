//! Whether the source can give a backup and serve a standby: rights and settings.

use super::situation::Situation;
use crate::facts::SourceConfiguration;
use crate::pg::timeline::history_file_name;
use crate::plan::refusal::Refusal;
use crate::plan::tablespaces::{canonical, is_inside};

/// Whether the source can give a backup and serve a standby.
pub(super) fn judge(situation: &Situation) -> Vec<Refusal> {
    let source = situation.source;
    let settings = &source.settings;
    let mut refusals = Vec::new();
    if !source.rights.backup {
        refusals.push(Refusal::NoBackupRight {
            role: source.rights.role.clone(),
            major: source.version.major(),
        });
    }
    if !source.rights.replication {
        refusals.push(Refusal::NoReplicationRight {
            role: source.rights.role.clone(),
        });
    }
    if !["replica", "logical"].contains(&settings.wal_level.as_str()) {
        refusals.push(Refusal::WalLevelTooLow {
            wal_level: settings.wal_level.clone(),
        });
    }
    if settings.active_wal_senders >= settings.max_wal_senders {
        refusals.push(Refusal::NoWalSender {
            max: settings.max_wal_senders,
            active: settings.active_wal_senders,
        });
    }
    if source.in_recovery && !settings.full_page_writes {
        refusals.push(Refusal::FullPageWritesOff);
    }
    // A standby that has the file, by its restore_command, does not ask for it.
    if !source.has_history_file && !situation.has_restore_command {
        refusals.push(Refusal::HistoryMissing {
            host: source.host.name.clone(),
            timeline: source.timeline,
            file: history_file_name(source.timeline),
        });
    }
    refusals
}

/// Judges whether all that the configuration in the source's data directory includes there comes with it: what is a link
/// does not, except in the place of the main files. Paths of `skipped` are relative to `data_directory`.
///
/// # Errors
/// Something is a link.
pub fn linked_configuration(
    host: &str,
    data_directory: &[u8],
    configuration: &SourceConfiguration,
    skipped: &[String],
) -> Result<(), Refusal> {
    let files = configuration.files.iter().map(|(path, _)| path);
    let named: Vec<Vec<u8>> = files
        .chain(&configuration.directories)
        .map(|path| canonical(path))
        .collect();
    let is_needed = |link: &&String| {
        let link = canonical(&[data_directory, b"/", link.as_bytes()].concat());
        named.iter().any(|path| is_inside(path, &link))
    };
    let links: Vec<String> = skipped.iter().filter(is_needed).cloned().collect();
    if links.is_empty() {
        return Ok(());
    }
    Err(Refusal::LinkedConfiguration {
        host: host.to_owned(),
        links,
    })
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Bend, refused};
    use super::*;

    #[test]
    fn each_guard_of_the_source_refuses() {
        let cases: &[(&str, Bend)] = &[
            ("no-backup-right", |s| s.source.rights.backup = false),
            ("no-replication-right", |s| {
                s.source.rights.replication = false;
            }),
            ("wal-level-too-low", |s| {
                s.source.settings.wal_level = "minimal".to_owned();
            }),
            ("no-wal-sender", |s| {
                s.source.settings.max_wal_senders = 0;
            }),
            ("no-wal-sender", |s| {
                s.source.settings.active_wal_senders = 10;
            }),
            ("full-page-writes-off", |s| {
                s.source.in_recovery = true;
                s.source.settings.full_page_writes = false;
            }),
            ("history-missing", |s| s.source.has_history_file = false),
        ];
        for (name, bend) in cases {
            assert_eq!(refused(bend), [*name]);
        }
        // A backup of a primary forces full page writes.
        assert!(refused(|s| s.source.settings.full_page_writes = false).is_empty());
        // The standby can get it elsewhere.
        assert!(
            refused(|s| {
                s.source.has_history_file = false;
                s.has_restore_command = true;
            })
            .is_empty()
        );
    }

    #[test]
    fn configuration_behind_a_link_that_does_not_come_is_refused() {
        let configuration = SourceConfiguration {
            config_file: b"/srv/b/postgresql.conf".to_vec(),
            hba_file: b"/srv/b/pg_hba.conf".to_vec(),
            ident_file: b"/srv/b/pg_ident.conf".to_vec(),
            files: vec![
                (b"/srv/b/conf.d/a.conf".to_vec(), Vec::new()),
                (b"/etc/more.conf".to_vec(), Vec::new()),
            ],
            directories: vec![b"/srv/b/conf.d".to_vec()],
        };
        for (skipped, is_refused) in [
            ("conf.d", true),
            ("conf.d/a.conf", true),
            ("conf", false),
            ("photos", false),
        ] {
            let skipped = [skipped.to_owned()];
            let judged = linked_configuration("b", b"/srv/b/", &configuration, &skipped);
            assert_eq!(judged.is_err(), is_refused, "{skipped:?}");
        }
    }
}
