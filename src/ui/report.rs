//! The result of a run for people: the summary.

use std::time::{Duration, UNIX_EPOCH};

use crate::client::outcome::{DamagedPage, Mode, Outcome};
use crate::errors::one_line;
use crate::plan::leaving;
use crate::plan::standby::Role;
use crate::ui::rows::{list, list_of, moved_blocks, put, row, saved_wal, source, time, wire};
use crate::ui::{clock, words};

/// Most names and pages that the summary lists; the report has all.
const LISTED_MAX: usize = 10;

/// Whether a person has seen the warnings of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warned {
    /// On standard error, when they came up.
    Already,
    /// They went to a program.
    NotYet,
}

/// What the standard output of a finished run says. Nothing is said twice.
#[must_use]
pub fn summary(outcome: &Outcome, warned: Warned) -> String {
    let mut text = String::new();
    headline(&mut text, outcome);
    text.push('\n');
    history(&mut text, outcome);
    if outcome.mode == Some(Mode::NotNeeded) {
        return text;
    }
    transfer(&mut text, outcome);
    backup(&mut text, outcome);
    copy(&mut text, outcome);
    time(&mut text, outcome);
    let gone = outcome.removed_tablespaces.iter();
    list(&mut text, "Tablespaces", gone, usize::MAX);
    list(&mut text, "Kept", outcome.kept.iter(), LISTED_MAX);
    let new = outcome.taken_over.iter();
    list(&mut text, "Taken over", new, LISTED_MAX);
    list(&mut text, "Replaced", outcome.replaced.iter(), LISTED_MAX);
    match (warned, outcome.warnings.len() as u64) {
        (_, 0) => {}
        (Warned::Already, count) => row(
            &mut text,
            "Warnings",
            format_args!("{} (see standard error)", words::number(count)),
        ),
        (Warned::NotYet, _) => {
            let warnings = outcome.warnings.iter().map(|warning| &warning.message);
            list(&mut text, "Warnings", warnings, usize::MAX);
        }
    }
    let damaged = outcome.damaged.iter().map(damage);
    list(&mut text, "Damaged pages", damaged, LISTED_MAX);
    let next = outcome.next_steps.iter();
    list(&mut text, "Next", next, usize::MAX);
    text
}

fn headline(text: &mut String, outcome: &Outcome) {
    let pgdata = &outcome.pgdata;
    let host = outcome.source_host.as_deref();
    let host = host.filter(|host| !host.is_empty());
    let host = host.unwrap_or("the source");
    let state = if outcome.streaming {
        ", and streams from it"
    } else {
        ""
    };
    let becomes = match outcome.role {
        Role::Standby => "as a standby of",
        Role::Managed => "from",
        Role::Clone => "as a read-write copy of",
    };
    let sentence = match outcome.mode {
        Some(Mode::Seed) => format!("\"{pgdata}\" is seeded {becomes} {host}{state}"),
        Some(Mode::NotNeeded) => {
            format!("No rewind required: \"{pgdata}\" can follow {host} as it is")
        }
        Some(Mode::DryRun) => format!("Dry run: nothing was changed in \"{pgdata}\""),
        Some(Mode::Rebuild) | None => {
            format!("\"{pgdata}\" is rebuilt {becomes} {host}{state}")
        }
    };
    put(
        text,
        format_args!("{}{}.\n", one_line(&sentence), source(outcome)),
    );
    if !outcome.damaged.is_empty() {
        let pages = words::counted(outcome.damaged.len() as u64, "page", "pages");
        put(
            text,
            format_args!("The source has {pages} whose checksum is wrong; see below.\n"),
        );
    }
}

/// How the target came to be where it was, and what of it is gone.
fn history(text: &mut String, outcome: &Outcome) {
    if let Some(relation) = &outcome.relation {
        row(text, "The target", format_args!("{}", relation.words));
    }
    if let Some(divergence) = &outcome.divergence {
        let (name, has) = if outcome.is_dry_run() {
            ("To be lost", "has")
        } else {
            ("Lost", "had")
        };
        row(
            text,
            name,
            format_args!(
                "{}{} of WAL that only the target {has}: timeline {} from {} to {}",
                if divergence.is_exact { "" } else { "at least " },
                words::size(divergence.lost_bytes),
                divergence.timeline,
                divergence.lsn,
                divergence.target_end
            ),
        );
    }
    saved_wal(text, outcome);
    let tense = |is: &'static str, was: &'static str| {
        if outcome.is_dry_run() { is } else { was }
    };
    if let Some(unarchived) = &outcome.unarchived {
        let saved = if unarchived.saved {
            "; saved"
        } else {
            tense("; to be removed", "; removed")
        };
        row(
            text,
            "Not archived",
            format_args!("{}{saved}", unarchived.summary()),
        );
    }
    list(
        text,
        tense("Slots to go", "Slots gone"),
        outcome.removed_slots.iter().map(leaving::slot),
        LISTED_MAX,
    );
}

/// What was compared, moved and saved.
fn transfer(text: &mut String, outcome: &Outcome) {
    let is_dry = outcome.is_dry_run();
    let files = words::counted(outcome.files, "file", "files");
    let moved = words::size(outcome.moved_bytes);
    let verb = if is_dry { "To move" } else { "Moved" };
    if outcome.mode == Some(Mode::Seed) {
        row(text, verb, format_args!("{moved} in {files}"));
    } else {
        let compared = words::size(outcome.compared_bytes);
        row(text, "Compared", format_args!("{compared} in {files}"));
        let differing = words::counted(outcome.differing_blocks, "block", "blocks");
        let patched = match outcome.patched_blocks {
            0 => String::new(),
            patched => format!(
                ", {} of them in hint bits and the like only",
                words::number(patched)
            ),
        };
        row(text, "Differing", format_args!("{differing}{patched}"));
        let blocks = moved_blocks(outcome);
        // Blocks are not all that moves: files without pages move as a whole. What was lacking may be
        // more than what moved: zeros do not travel.
        let lacking = if outcome.fetched_bytes > 0 {
            let fetched = words::size(outcome.fetched_bytes);
            format!("; the target lacked {fetched}")
        } else {
            String::new()
        };
        row(text, verb, format_args!("{moved} with {blocks}{lacking}"));
    }
    wire(text, outcome);
    let saved = outcome.full_copy_bytes.saturating_sub(outcome.moved_bytes);
    if saved > 0 {
        row(
            text,
            "Saved",
            format_args!(
                "{} of the {} of a full copy ({})",
                words::size(saved),
                words::size(outcome.full_copy_bytes),
                words::percent(saved, outcome.full_copy_bytes)
            ),
        );
    }
    if outcome.written_bytes > 0 {
        row(
            text,
            "Written",
            format_args!("{}", words::size(outcome.written_bytes)),
        );
    }
    if outcome.removed_files > 0 {
        row(
            text,
            if is_dry { "To remove" } else { "Removed" },
            format_args!("{}", words::counted(outcome.removed_files, "file", "files")),
        );
        let all = outcome.removed.iter();
        list_of(text, "", all, LISTED_MAX, outcome.removed_files);
    }
    if outcome.unshared_files > 0 {
        let files = words::counted(outcome.unshared_files, "file", "files");
        let gets = if is_dry { "get" } else { "got" };
        row(
            text,
            "Hard links",
            format_args!(
                "{files} with another name {gets} a content apart; the other name keeps the old"
            ),
        );
    }
}

fn backup(text: &mut String, outcome: &Outcome) {
    if let (Some(start), Some(stop)) = (outcome.start_lsn, outcome.stop_lsn) {
        let wal = if outcome.wal_bytes > 0 {
            format!(", {} of WAL fetched", words::size(outcome.wal_bytes))
        } else {
            String::new()
        };
        row(text, "Backup", format_args!("{start} to {stop}{wal}"));
    }
    if let Some(slot) = &outcome.slot {
        row(text, "Slot", format_args!("{slot}"));
    }
}

/// What a copy is, and where.
fn copy(text: &mut String, outcome: &Outcome) {
    let Some(copy) = &outcome.copy else { return };
    let taken = UNIX_EPOCH + Duration::from_secs(copy.taken_unix_seconds);
    let timeline = match copy.timeline {
        Some(timeline) => format!(", and goes on on timeline {timeline}"),
        None => String::new(),
    };
    row(
        text,
        "Copy",
        format_args!(
            "it has the source up to {}, {}{timeline}; no member of the cluster",
            copy.stop_lsn,
            clock::stamp(taken)
        ),
    );
    let runs = if copy.is_running {
        "it runs on"
    } else {
        "it will have"
    };
    let name = copy.cluster_name.as_ref();
    let name = name.map_or_else(String::new, |name| format!(", cluster_name \"{name}\""));
    row(text, "", format_args!("{runs} port {}{name}", copy.port));
    if copy.hooks > 0 {
        let hooks = words::counted(copy.hooks, "script", "scripts");
        row(text, "Hooks", format_args!("{hooks} done"));
    }
}

fn damage(page: &DamagedPage) -> String {
    format!(
        "block {} of \"{}\": checksum {:04X}, but its content gives {:04X}",
        page.block, page.path, page.expected_checksum, page.actual_checksum
    )
}

#[cfg(test)]
pub(super) mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::client::outcome::StageTime;
    use crate::client::outcome::{DivergenceReport, KeptWal, RelationReport, TablespaceRemoval};
    use crate::event::Stage;
    use crate::pg::lsn::Lsn;
    use crate::pg::timeline::TimelineId;
    use crate::warning::{Code, Warning};

    fn warning(message: &str) -> Warning {
        Warning {
            code: Code::SettingInForce,
            message: message.to_owned(),
        }
    }

    pub(crate) fn rebuilt() -> Outcome {
        Outcome {
            mode: Some(Mode::Rebuild),
            role: Role::Standby,
            copy: None,
            needed: None,
            job: None,
            block_bytes: Some(8192),
            pg_reseed_version: "0.1.0",
            command: "pg_reseed rebuild -D /srv/pg/15 -h db2".to_owned(),
            target_host: "db1".to_owned(),
            pgdata: "/srv/pg/15".to_owned(),
            source_host: Some("db2".to_owned()),
            source_data_directory: Some("/srv/pg/15".to_owned()),
            server_version: Some("15.18".to_owned()),
            system_identifier: Some("7312345678901234567".to_owned()),
            timeline: Some(TimelineId(2)),
            relation: Some(RelationReport {
                code: "diverged",
                words: "diverged from the source at 0/5000000 of timeline 1".to_owned(),
            }),
            divergence: Some(DivergenceReport {
                lsn: Lsn(0x0500_0000),
                timeline: TimelineId(1),
                target_end: Lsn(0x062A_4F10),
                lost_bytes: 0x012A_4F10,
                is_exact: true,
            }),
            kept_wal: Some(KeptWal {
                directory: "/srv/lost".to_owned(),
                files: 3,
                bytes: 50_331_690,
                from: Some(Lsn(0x500_0000)),
                unarchived_files: 0,
                missing: Vec::new(),
            }),
            unarchived: None,
            removed_slots: Vec::new(),
            start_lsn: Some(Lsn(0x0700_0028)),
            stop_lsn: Some(Lsn(0x0900_0100)),
            compared_bytes: 13_314_398_617,
            differing_blocks: 25_514,
            moved_blocks: 18_204,
            patched_blocks: 7_310,
            moved_bytes: 153_321_472,
            fetched_bytes: 4_194_304,
            wal_bytes: 33_554_432,
            written_bytes: 186_875_904,
            wire_received_bytes: 63_963_136,
            wire_sent_bytes: 2_097_152,
            compare_bytes: Some(13_314_398_617),
            fetch_bytes: Some(4_194_304),
            left_bytes: Some(0),
            streams: 4,
            lost_streams: 0,
            full_copy_bytes: 13_421_772_800,
            files: 1204,
            removed_files: 12,
            removed: vec!["base/5/16384".to_owned(), "base/5/16384_fsm".to_owned()],
            kept: vec!["postgresql.conf".to_owned(), "pg_hba.conf".to_owned()],
            taken_over: vec!["pgsodium_root.key".to_owned()],
            replaced: vec!["pg_tde".to_owned()],
            removed_tablespaces: vec![
                TablespaceRemoval {
                    oid: 16_400,
                    location: "/ts/one".to_owned(),
                    left: None,
                    files: 3,
                },
                TablespaceRemoval {
                    oid: 16_401,
                    location: "/ts/two".to_owned(),
                    left: Some("it belongs to another user".to_owned()),
                    files: 0,
                },
            ],
            unshared_files: 7,
            damaged: vec![],
            warnings: vec![],
            slot: Some("standby1".to_owned()),
            slot_made: false,
            server_to_stop: None,
            streaming: true,
            next_steps: vec![],
            stages: vec![
                StageTime {
                    name: Stage::Look,
                    seconds: 0.31,
                },
                StageTime {
                    name: Stage::Compare,
                    seconds: 42.4,
                },
            ],
            seconds: 45.02,
        }
    }

    #[test]
    fn summary_of_a_rebuild() {
        assert_snapshot!(summary(&rebuilt(), Warned::Already), @r#"
        "/srv/pg/15" is rebuilt as a standby of db2, and streams from it (PostgreSQL 15.18, timeline 2).

          The target    diverged from the source at 0/5000000 of timeline 1
          Lost          18.6 MB of WAL that only the target had: timeline 1 from 0/5000000 to 0/62A4F10
          Saved WAL     48.0 MB in 3 files, from 0/5000000 on, in "/srv/lost"
          Compared      12.4 GB in 1,204 files
          Differing     25,514 blocks, 7,310 of them in hint bits and the like only
          Moved         146 MB with 18,204 blocks and 7,310 patches; the target lacked 4.00 MB
          On the wire   61.0 MB received, 2.00 MB sent, over 4 streams
          Saved         12.3 GB of the 12.5 GB of a full copy (98 %)
          Written       178 MB
          Removed       12 files
                        base/5/16384
                        base/5/16384_fsm
                        and 10 more (see --report)
          Hard links    7 files with another name got a content apart; the other name keeps the old
          Backup        0/7000028 to 0/9000100, 32.0 MB of WAL fetched
          Slot          standby1
          Time          45 s: looking at both sides 0.3 s, comparing and moving 42 s
          Tablespaces   16400: goes, with 3 files in "/ts/one"
                        16401: its link goes, "/ts/two" stays: it belongs to another user
          Kept          postgresql.conf
                        pg_hba.conf
          Taken over    pgsodium_root.key
          Replaced      pg_tde
        "#);
    }

    #[test]
    fn summary_of_a_seed() {
        let outcome = Outcome {
            mode: Some(Mode::Seed),
            relation: Some(RelationReport {
                code: "seed",
                words: "is empty: everything comes from the source".to_owned(),
            }),
            divergence: None,
            kept_wal: None,
            compared_bytes: 0,
            differing_blocks: 0,
            moved_blocks: 0,
            patched_blocks: 0,
            moved_bytes: 13_421_772_800,
            fetched_bytes: 13_421_772_800,
            removed_files: 0,
            removed: vec![],
            kept: vec![],
            taken_over: vec![],
            replaced: vec![],
            removed_tablespaces: vec![],
            unshared_files: 0,
            slot: None,
            streaming: false,
            next_steps: vec!["Start the standby: pg_ctl -D /srv/pg/15 start".to_owned()],
            ..rebuilt()
        };
        assert_snapshot!(summary(&outcome, Warned::NotYet), @r#"
        "/srv/pg/15" is seeded as a standby of db2 (PostgreSQL 15.18, timeline 2).

          The target    is empty: everything comes from the source
          Moved         12.5 GB in 1,204 files
          On the wire   61.0 MB received, 2.00 MB sent, over 4 streams
          Written       178 MB
          Backup        0/7000028 to 0/9000100, 32.0 MB of WAL fetched
          Time          45 s: looking at both sides 0.3 s, comparing and moving 42 s
          Next          Start the standby: pg_ctl -D /srv/pg/15 start
        "#);
    }

    #[test]
    fn summary_of_a_dry_run() {
        let outcome = Outcome {
            mode: Some(Mode::DryRun),
            kept_wal: None,
            start_lsn: None,
            stop_lsn: None,
            wal_bytes: 0,
            written_bytes: 0,
            slot: None,
            streaming: false,
            ..rebuilt()
        };
        assert_snapshot!(summary(&outcome, Warned::NotYet), @r#"
        Dry run: nothing was changed in "/srv/pg/15" (PostgreSQL 15.18, timeline 2).

          The target    diverged from the source at 0/5000000 of timeline 1
          To be lost    18.6 MB of WAL that only the target has: timeline 1 from 0/5000000 to 0/62A4F10
          Compared      12.4 GB in 1,204 files
          Differing     25,514 blocks, 7,310 of them in hint bits and the like only
          To move       146 MB with 18,204 blocks and 7,310 patches; the target lacked 4.00 MB
          On the wire   61.0 MB received, 2.00 MB sent, over 4 streams
          Saved         12.3 GB of the 12.5 GB of a full copy (98 %)
          To remove     12 files
                        base/5/16384
                        base/5/16384_fsm
                        and 10 more (see --report)
          Hard links    7 files with another name get a content apart; the other name keeps the old
          Time          45 s: looking at both sides 0.3 s, comparing and moving 42 s
          Tablespaces   16400: goes, with 3 files in "/ts/one"
                        16401: its link goes, "/ts/two" stays: it belongs to another user
          Kept          postgresql.conf
                        pg_hba.conf
          Taken over    pgsodium_root.key
          Replaced      pg_tde
        "#);
    }

    #[test]
    fn summary_of_a_rebuild_from_a_damaged_source() {
        let outcome = Outcome {
            damaged: (0..12)
                .map(|block| DamagedPage {
                    path: "base/16384/24601".to_owned(),
                    block,
                    expected_checksum: 0x1F2A,
                    actual_checksum: 0x0B11,
                })
                .collect(),
            warnings: vec![warning(
                "Settings of the source name a log directory elsewhere.",
            )],
            next_steps: vec!["Repair the source.".to_owned(), "Run it again.".to_owned()],
            ..rebuilt()
        };
        assert_snapshot!(summary(&outcome, Warned::NotYet), @r#"
        "/srv/pg/15" is rebuilt as a standby of db2, and streams from it (PostgreSQL 15.18, timeline 2).
        The source has 12 pages whose checksum is wrong; see below.

          The target    diverged from the source at 0/5000000 of timeline 1
          Lost          18.6 MB of WAL that only the target had: timeline 1 from 0/5000000 to 0/62A4F10
          Saved WAL     48.0 MB in 3 files, from 0/5000000 on, in "/srv/lost"
          Compared      12.4 GB in 1,204 files
          Differing     25,514 blocks, 7,310 of them in hint bits and the like only
          Moved         146 MB with 18,204 blocks and 7,310 patches; the target lacked 4.00 MB
          On the wire   61.0 MB received, 2.00 MB sent, over 4 streams
          Saved         12.3 GB of the 12.5 GB of a full copy (98 %)
          Written       178 MB
          Removed       12 files
                        base/5/16384
                        base/5/16384_fsm
                        and 10 more (see --report)
          Hard links    7 files with another name got a content apart; the other name keeps the old
          Backup        0/7000028 to 0/9000100, 32.0 MB of WAL fetched
          Slot          standby1
          Time          45 s: looking at both sides 0.3 s, comparing and moving 42 s
          Tablespaces   16400: goes, with 3 files in "/ts/one"
                        16401: its link goes, "/ts/two" stays: it belongs to another user
          Kept          postgresql.conf
                        pg_hba.conf
          Taken over    pgsodium_root.key
          Replaced      pg_tde
          Warnings      Settings of the source name a log directory elsewhere.
          Damaged pages block 0 of "base/16384/24601": checksum 1F2A, but its content gives 0B11
                        block 1 of "base/16384/24601": checksum 1F2A, but its content gives 0B11
                        block 2 of "base/16384/24601": checksum 1F2A, but its content gives 0B11
                        block 3 of "base/16384/24601": checksum 1F2A, but its content gives 0B11
                        block 4 of "base/16384/24601": checksum 1F2A, but its content gives 0B11
                        block 5 of "base/16384/24601": checksum 1F2A, but its content gives 0B11
                        block 6 of "base/16384/24601": checksum 1F2A, but its content gives 0B11
                        block 7 of "base/16384/24601": checksum 1F2A, but its content gives 0B11
                        block 8 of "base/16384/24601": checksum 1F2A, but its content gives 0B11
                        block 9 of "base/16384/24601": checksum 1F2A, but its content gives 0B11
                        and 2 more (see --report)
          Next          Repair the source.
                        Run it again.
        "#);
    }

    #[test]
    fn warnings_that_were_seen_are_counted_and_not_repeated() {
        let outcome = Outcome {
            warnings: vec![warning("Beware.")],
            ..rebuilt()
        };
        let text = summary(&outcome, Warned::Already);
        assert!(!text.contains("Beware.") && text.contains("Warnings      1 (see standard error)"));
        assert!(summary(&outcome, Warned::NotYet).contains("Warnings      Beware.\n"));
    }
}
