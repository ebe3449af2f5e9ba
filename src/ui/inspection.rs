//! What `inspect` prints for people.

use std::fmt::Write as _;

use crate::client::outcome::{ClusterReport, Inspection, SourceReport};
use crate::plan::leaving;
use crate::plan::saved::Stretch;
use crate::plan::state::State;
use crate::ui::rows::{list, row};
use crate::ui::words;

/// Says what was found, how it relates to the source, and what to do.
#[must_use]
pub fn text(found: &Inspection) -> String {
    let mut text = String::new();
    let pgdata = &found.pgdata;
    let what = match (found.condition, &found.cluster) {
        ("missing", _) => "does not exist".to_owned(),
        ("empty", _) => "is an empty directory".to_owned(),
        ("unknown", _) => "is no PostgreSQL data directory".to_owned(),
        (_, cluster) => {
            let major = cluster.as_ref().and_then(|cluster| cluster.major);
            let version = major.map_or_else(String::new, |major| format!(" of PostgreSQL {major}"));
            format!("is a data directory{version}")
        }
    };
    let _ = writeln!(text, "\"{pgdata}\" {what}.\n");
    if let Some(cluster) = &found.cluster {
        row(&mut text, "State", format_args!("{}", found.state_in_words));
        state(&mut text, &found.state);
        own(&mut text, cluster);
    }
    if let Some(source) = &found.source {
        other(&mut text, source);
    }
    if let Some(relation) = &found.relation_in_words {
        row(&mut text, "Relation", format_args!("it {relation}"));
    }
    if let Some(lost) = &found.divergence {
        row(
            &mut text,
            "Only here",
            format_args!(
                "{}{} of WAL: timeline {} from {} to {}",
                if lost.is_exact { "" } else { "at least " },
                words::size(lost.lost_bytes),
                lost.timeline,
                lost.lsn,
                lost.target_end
            ),
        );
    }
    if let Some(missing) = missing(&found.missing_wal) {
        row(&mut text, "", format_args!("{missing}"));
    }
    list(&mut text, "Warnings", found.warnings.iter(), usize::MAX);
    list(&mut text, "Advice", found.sentences.iter(), usize::MAX);
    if let Some(command) = &found.command {
        row(&mut text, "Command", format_args!("{command}"));
    }
    text
}

/// What there is to know of a state beside its words.
fn state(text: &mut String, state: &State) {
    match state {
        State::Rebuilt(backup) | State::Copied(backup) => {
            let begun = backup
                .start_time
                .as_ref()
                .map_or_else(String::new, |time| format!(", begun {time}"));
            row(
                text,
                "Backup",
                format_args!(
                    "from {} of timeline {} on, checkpoint {}{begun}",
                    backup.start_lsn, backup.timeline, backup.checkpoint
                ),
            );
            let follows = match (&backup.follows[..], backup.has_standby_signal) {
                ([], _) => "nobody: primary_conninfo is not set".to_owned(),
                (_, false) => {
                    "nobody: it has no standby.signal, and would become a primary".to_owned()
                }
                (some, true) => some.join(" or "),
            };
            let slot = backup
                .slot
                .as_ref()
                .map_or_else(String::new, |slot| format!(", with slot \"{slot}\""));
            row(
                text,
                "Will follow",
                format_args!("{follows}{slot}; it needs WAL from {} on", backup.needs),
            );
        }
        State::NotStreaming { log, .. } => list(text, "Its log", log.iter(), usize::MAX),
        _ => {}
    }
}

/// What of the WAL that only it has cannot be saved any more.
fn missing(gone: &[Stretch]) -> Option<String> {
    let (first, rest) = gone.split_first()?;
    let more = match rest.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "of it pg_wal has no more {}{more}, which cannot be saved",
        first.segments()
    ))
}

fn own(text: &mut String, cluster: &ClusterReport) {
    if let Some(run) = &cluster.interrupted {
        let age = run.age_seconds.map_or_else(
            || "at an unknown time".to_owned(),
            |seconds| format!("{} ago", took(seconds)),
        );
        row(
            text,
            "Interrupted",
            format_args!("a rebuild that began {age}; what follows is from before it"),
        );
        if let Some(command) = &run.command {
            row(text, "", format_args!("it was: {command}"));
        }
    }
    if cluster.is_locked {
        row(text, "In use", format_args!("pg_reseed works on it now"));
    }
    if let Some(problem) = &cluster.problem {
        row(text, "Problem", format_args!("{problem}"));
    }
    for problem in &cluster.configuration_problems {
        row(text, "Problem", format_args!("{problem}"));
    }
    if let Some(copy) = &cluster.copy {
        let age = copy.age_seconds.map_or_else(String::new, |seconds| {
            format!(" Made {} ago.", took(seconds))
        });
        let ready = if copy.is_ready {
            ""
        } else {
            " It is not ready: its hooks have not all succeeded."
        };
        row(text, "Copy", format_args!("{}{age}{ready}", copy.in_words));
    }
    if let Some(identifier) = &cluster.system_identifier {
        row(text, "System", format_args!("{identifier}"));
    }
    if let Some(state) = cluster.state {
        let role = if cluster.has_standby_signal {
            "; it has standby.signal"
        } else {
            ""
        };
        let server = match cluster.server_pid {
            Some(pid) => format!("; a server runs in it (pid {pid})"),
            None => String::new(),
        };
        row(text, "Control", format_args!("{state}{role}{server}"));
    }
    if let Some(detail) = &cluster.is_used_otherwise {
        row(text, "In use", format_args!("{detail}"));
    }
    if let Some(timeline) = cluster.timeline {
        let before: Vec<String> = cluster
            .history
            .iter()
            .filter_map(|entry| Some(format!("{} until {}", entry.timeline, entry.end?)))
            .collect();
        let before = match &before[..] {
            [] => String::new(),
            some => format!("; before it {}", some.join(", ")),
        };
        row(text, "Timeline", format_args!("{timeline}{before}"));
    }
    if let (Some(_), Some(checkpoint), Some(redo)) =
        (cluster.state, cluster.checkpoint, cluster.redo)
    {
        let age = cluster
            .checkpoint_age_seconds
            .map_or_else(String::new, |seconds| format!(", {} ago", took(seconds)));
        row(
            text,
            "Checkpoint",
            format_args!("{checkpoint}, redo from {redo}{age}"),
        );
    }
    if let Some(recovery) = cluster.min_recovery_point.filter(|lsn| lsn.0 > 0) {
        row(text, "Recovery", format_args!("at least to {recovery}"));
    }
    match (cluster.wal_begin, cluster.wal_end) {
        (Some(begin), Some(end)) => row(
            text,
            "WAL",
            format_args!("pg_wal has segments from {begin} to {end}"),
        ),
        _ => row(
            text,
            "WAL",
            format_args!("pg_wal has no segment of its timeline"),
        ),
    }
    if let Some(unarchived) = &cluster.unarchived {
        row(
            text,
            "Not archived",
            format_args!("{}", unarchived.summary()),
        );
    }
    list(
        text,
        "Own slots",
        cluster.slots.iter().map(leaving::slot),
        usize::MAX,
    );
    if let Some(checksums) = cluster.data_checksums {
        let checksums = if checksums { "on" } else { "off" };
        row(text, "Checksums", format_args!("{checksums}"));
    }
    let places = cluster.tablespaces.iter().map(|space| {
        let missing = if space.is_there {
            ""
        } else {
            ", which is not there"
        };
        match &space.location {
            Some(location) => format!("{} at \"{location}\"{missing}", space.oid),
            None => format!("{} in the data directory", space.oid),
        }
    });
    list(text, "Tablespaces", places, usize::MAX);
    row(
        text,
        "Size",
        format_args!(
            "{} in {}, without WAL",
            words::size(cluster.bytes),
            words::counted(cluster.files, "file", "files")
        ),
    );
}

fn other(text: &mut String, source: &SourceReport) {
    text.push('\n');
    let role = if source.in_recovery {
        "standby"
    } else {
        "primary"
    };
    row(
        text,
        "Source",
        format_args!(
            "{role} \"{}\" on {}, PostgreSQL {}, at {} of timeline {}",
            source.data_directory,
            source.host,
            source.server_version,
            source.current_lsn,
            source.timeline
        ),
    );
    let has = match source.oldest_wal {
        Some(oldest) => format!("from {oldest} on"),
        None => "without its newest segment".to_owned(),
    };
    let keeps = match source.wal_keep_bytes {
        0 => "wal_keep_size is 0".to_owned(),
        bytes => format!("wal_keep_size is {}", words::size(bytes)),
    };
    row(
        text,
        "Its WAL",
        format_args!("{has}; {keeps}, archive_mode is {}", source.archive_mode),
    );
    if let Some(slot) = &source.slot {
        let keeps = match slot.restart_lsn {
            Some(restart) => format!("keeps WAL from {restart} on ({})", slot.wal_status),
            None => "keeps no WAL".to_owned(),
        };
        let used = if slot.active { ", in use" } else { "" };
        row(
            text,
            "Its slot",
            format_args!("{} {keeps}{used}", slot.name),
        );
    }
}

fn took(seconds: u64) -> String {
    // Whole seconds of a clock: far below what an f64 can hold.
    words::took(u32::try_from(seconds).map_or(f64::from(u32::MAX), f64::from))
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::client::outcome::{
        DivergenceReport, InterruptedReport, SlotReport, TablespaceReport,
    };
    use crate::pg::control::ClusterState;
    use crate::pg::lsn::Lsn;
    use crate::pg::timeline::{HistoryEntry, TimelineId};
    use crate::plan::advice::{Advice, Keeper};
    use crate::plan::state::Backup;

    fn cluster() -> ClusterReport {
        ClusterReport {
            major: Some(15),
            problem: None,
            configuration_problems: Vec::new(),
            system_identifier: Some("7412345678901234567".to_owned()),
            state: Some(ClusterState::ShutDown),
            server_pid: None,
            is_used_otherwise: None,
            is_locked: false,
            copy: None,
            has_standby_signal: false,
            timeline: Some(TimelineId(2)),
            history: vec![
                HistoryEntry {
                    timeline: TimelineId(1),
                    begin: Lsn(0),
                    end: Some(Lsn(0x300_0060)),
                },
                HistoryEntry {
                    timeline: TimelineId(2),
                    begin: Lsn(0x300_0060),
                    end: None,
                },
            ],
            checkpoint: Some(Lsn(0x500_0028)),
            redo: Some(Lsn(0x500_0028)),
            checkpoint_age_seconds: Some(11_400),
            min_recovery_point: Some(Lsn(0)),
            wal_begin: Some(Lsn(0x200_0000)),
            wal_end: Some(Lsn(0x600_0000)),
            data_checksums: Some(true),
            block_bytes: Some(8192),
            wal_segment_bytes: Some(16 << 20),
            tablespaces: vec![
                TablespaceReport {
                    oid: 16400,
                    location: Some("/ts/a".to_owned()),
                    is_there: false,
                },
                TablespaceReport {
                    oid: 16401,
                    location: None,
                    is_there: true,
                },
            ],
            interrupted: None,
            unarchived: None,
            slots: Vec::new(),
            files: 972,
            bytes: 1_800_000_000,
        }
    }

    fn inspection() -> Inspection {
        Inspection {
            pg_reseed_version: "0.1.0",
            pgdata: "/srv/pg/15".to_owned(),
            condition: "cluster",
            cluster: Some(cluster()),
            source: None,
            relation: None,
            relation_in_words: None,
            divergence: None,
            missing_wal: Vec::new(),
            warnings: Vec::new(),
            state: State::StoppedPrimary,
            state_in_words: State::StoppedPrimary.to_string(),
            advice: None,
            sentences: Vec::new(),
            command: None,
        }
    }

    #[test]
    fn a_directory_alone() {
        assert_snapshot!(text(&inspection()), @r#"
        "/srv/pg/15" is a data directory of PostgreSQL 15.

          State         a primary that was shut down
          System        7412345678901234567
          Control       shut down
          Timeline      2; before it 1 until 0/3000060
          Checkpoint    0/5000028, redo from 0/5000028, 3 h 10 min ago
          WAL           pg_wal has segments from 0/2000000 to 0/6000000
          Checksums     on
          Tablespaces   16400 at "/ts/a", which is not there
                        16401 in the data directory
          Size          1.68 GB in 972 files, without WAL
        "#);
        let mut interrupted = inspection();
        interrupted.condition = "interrupted";
        interrupted.state_in_words = State::Interrupted {
            source: "db2".to_owned(),
        }
        .to_string();
        let cluster = interrupted.cluster.as_mut().unwrap();
        cluster.interrupted = Some(InterruptedReport {
            start_lsn: Lsn(0x700_0028),
            age_seconds: Some(42),
            source_host: Some("db2".to_owned()),
            command: Some("pg_reseed rebuild -D /srv/pg/15 -h db2".to_owned()),
        });
        cluster.tablespaces.clear();
        cluster.server_pid = Some(4711);
        cluster.wal_begin = None;
        assert_snapshot!(text(&interrupted), @r#"
        "/srv/pg/15" is a data directory of PostgreSQL 15.

          State         left by an interrupted rebuild from "db2": it cannot start
          Interrupted   a rebuild that began 42 s ago; what follows is from before it
                        it was: pg_reseed rebuild -D /srv/pg/15 -h db2
          System        7412345678901234567
          Control       shut down; a server runs in it (pid 4711)
          Timeline      2; before it 1 until 0/3000060
          Checkpoint    0/5000028, redo from 0/5000028, 3 h 10 min ago
          WAL           pg_wal has no segment of its timeline
          Checksums     on
          Size          1.68 GB in 972 files, without WAL
        "#);
        let mut rebuilt = inspection();
        rebuilt.state = State::Rebuilt(Backup {
            source: Some("db2".to_owned()),
            start_lsn: Lsn(0x500_0028),
            timeline: TimelineId(2),
            checkpoint: Lsn(0x500_0060),
            start_time: Some("2026-01-01 00:00:00 UTC".to_owned()),
            needs: Lsn(0x600_0000),
            follows: vec!["\"db2\" port 5432".to_owned()],
            is_of_source: Some(true),
            slot: Some("db1".to_owned()),
            has_standby_signal: true,
        });
        rebuilt.state_in_words = rebuilt.state.to_string();
        let cluster = rebuilt.cluster.as_mut().unwrap();
        (cluster.state, cluster.min_recovery_point) = (None, None);
        cluster.tablespaces.clear();
        assert_snapshot!(text(&rebuilt), @r#"
        "/srv/pg/15" is a data directory of PostgreSQL 15.

          State         rebuilt from "db2" and not started yet
          Backup        from 0/5000028 of timeline 2 on, checkpoint 0/5000060, begun 2026-01-01 00:00:00 UTC
          Will follow   "db2" port 5432, with slot "db1"; it needs WAL from 0/6000000 on
          System        7412345678901234567
          Timeline      2; before it 1 until 0/3000060
          WAL           pg_wal has segments from 0/2000000 to 0/6000000
          Checksums     on
          Size          1.68 GB in 972 files, without WAL
        "#);
        let missing = Inspection {
            condition: "missing",
            cluster: None,
            ..inspection()
        };
        assert_snapshot!(text(&missing), @r#""/srv/pg/15" does not exist."#);
    }

    #[test]
    fn beside_its_source() {
        let advice = Advice::Reattach {
            needs: Lsn(0x500_0000),
            kept_by: Keeper::Slot,
        };
        let found = Inspection {
            source: Some(SourceReport {
                host: "db2".to_owned(),
                data_directory: "/srv/pg/15".to_owned(),
                server_version: "15.18".to_owned(),
                system_identifier: "7412345678901234567".to_owned(),
                in_recovery: false,
                timeline: TimelineId(2),
                current_lsn: Lsn(0x700_0060),
                oldest_wal: Some(Lsn(0x300_0000)),
                wal_keep_bytes: 1 << 30,
                archive_mode: "off".to_owned(),
                slot: Some(SlotReport {
                    name: "db1".to_owned(),
                    active: false,
                    restart_lsn: Some(Lsn(0x400_0000)),
                    wal_status: "reserved".to_owned(),
                }),
            }),
            relation: Some("lagging"),
            relation_in_words: Some("is behind the source by 32 MB of WAL".to_owned()),
            divergence: Some(DivergenceReport {
                lsn: Lsn(0x300_0060),
                timeline: TimelineId(1),
                target_end: Lsn(0x500_0028),
                lost_bytes: 33_554_376,
                is_exact: true,
            }),
            sentences: advice.sentences(),
            advice: Some(advice),
            command: Some("pg_reseed rebuild -D /srv/pg/15".to_owned()),
            ..inspection()
        };
        assert_snapshot!(text(&found), @r#"
        "/srv/pg/15" is a data directory of PostgreSQL 15.

          State         a primary that was shut down
          System        7412345678901234567
          Control       shut down
          Timeline      2; before it 1 until 0/3000060
          Checkpoint    0/5000028, redo from 0/5000028, 3 h 10 min ago
          WAL           pg_wal has segments from 0/2000000 to 0/6000000
          Checksums     on
          Tablespaces   16400 at "/ts/a", which is not there
                        16401 in the data directory
          Size          1.68 GB in 972 files, without WAL

          Source        primary "/srv/pg/15" on db2, PostgreSQL 15.18, at 0/7000060 of timeline 2
          Its WAL       from 0/3000000 on; wal_keep_size is 1.00 GB, archive_mode is off
          Its slot      db1 keeps WAL from 0/4000000 on (reserved)
          Relation      it is behind the source by 32 MB of WAL
          Only here     32.0 MB of WAL: timeline 1 from 0/3000060 to 0/5000028
          Advice        No rebuild is needed: the source has all WAL from 0/5000000 on. Start it as a standby of the source.
                        Its replication slot keeps that WAL.
          Command       pg_reseed rebuild -D /srv/pg/15
        "#);
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["advice"]["verdict"], "reattach");
        assert_eq!(json["advice"]["kept_by"], "slot");
        assert_eq!(json["cluster"]["state"], "shut_down");
    }
}
