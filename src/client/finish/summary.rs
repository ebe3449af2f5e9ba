//! The outcome of a run: what was found, moved and kept, and what to do next.

use crate::client::command;
use crate::client::look::leaving;
use crate::client::options::{RebuildOptions, Starter};
use crate::client::outcome::{
    DamagedPage, DivergenceReport, Mode, Outcome, REMOVED_NAMED, RelationReport,
};
use crate::client::run::Run;
use crate::client::transfer::ranges::Found;
use crate::client::transfer::work::Work;
use crate::facts::{SourceFacts, TargetCluster};
use crate::path::RelPath;
use crate::pg::lsn::Lsn;
use crate::plan::configuration::MAIN_FILE;
use crate::plan::guard::Findings;
use crate::plan::leaving::Unarchived;
use crate::plan::relation::Relation;
use crate::plan::standby::Role;
use crate::plan::words;
use crate::warning::Code;

/// What a run can tell at its end.
pub struct Told<'a> {
    pub facts: &'a SourceFacts,
    pub findings: &'a Findings,
    pub before: Option<&'a TargetCluster>,
    pub work: &'a Work,
    pub noted: Noted,
    /// Start and stop of the backup; `None` in a dry run.
    pub lsns: Option<(Lsn, Lsn)>,
    pub streaming: bool,
    /// The server that a dry run would have stopped.
    pub server_to_stop: Option<u32>,
}

/// What turned up while the files were compared, in all backups of the run.
#[derive(Debug, Default)]
pub struct Noted {
    pub damaged: Vec<DamagedPage>,
    /// Files of the target that the source had at first.
    pub vanished: Vec<RelPath>,
}

impl Noted {
    /// Adds what one backup found.
    pub fn add(&mut self, run: &Run<'_>, work: &Work, found: &Found) {
        // Those of an earlier backup are the same by now on both sides.
        for page in damaged_pages(run, work, found) {
            if !self.damaged.contains(&page) {
                self.damaged.push(page);
            }
        }
        self.vanished.extend(work.vanished(found));
        run.record
            .note(|outcome| outcome.damaged.clone_from(&self.damaged));
    }
}

/// Notes what the source is.
pub fn note_source<O>(run: &Run<'_, O>, facts: &SourceFacts) {
    run.record.note(|outcome| {
        outcome.source_host = Some(facts.host.name.clone());
        outcome.source_data_directory =
            Some(String::from_utf8_lossy(&facts.data_directory).into_owned());
        outcome.server_version = Some(facts.version.to_string());
        outcome.system_identifier = Some(facts.control.system_identifier.to_string());
        outcome.timeline = Some(facts.timeline);
        outcome.block_bytes = Some(facts.control.block_bytes);
    });
}

/// Notes how both relate, what a rebuild takes from the target, and the slot.
pub fn note_relation(
    run: &Run<'_>,
    facts: &SourceFacts,
    relation: &Relation,
    before: Option<&TargetCluster>,
) {
    let found = before.and_then(|before| leaving::unarchived(before, Some((facts, relation))));
    run.record.note(|outcome| {
        outcome.relation = Some(RelationReport {
            code: relation.name(),
            words: relation.to_string(),
        });
        outcome.divergence = divergence(relation, before);
        let kept = outcome.kept_wal.as_ref();
        outcome.unarchived = found.map(|found| Unarchived {
            saved: kept.is_some_and(|kept| kept.unarchived_files > 0),
            ..found
        });
        outcome.removed_slots = before.map_or_else(Vec::new, |cluster| cluster.slots.clone());
        outcome.slot = run.slot().map(str::to_owned);
    });
}

/// Notes whether everything comes. A dry run stays one.
pub fn note_mode(run: &Run<'_>, is_seed: bool) {
    let mode = if is_seed { Mode::Seed } else { Mode::Rebuild };
    run.record
        .note(|outcome| outcome.mode = outcome.mode.or(Some(mode)));
}

/// Puts the outcome together.
pub fn outcome(run: &Run<'_>, told: &Told<'_>) -> Outcome {
    for (code, warning) in warnings(run, told) {
        run.warn(code, warning);
    }
    let findings = told.findings;
    note_relation(run, told.facts, &findings.relation, told.before);
    note_mode(run, findings.is_seed);
    run.record.note(|outcome| {
        outcome.start_lsn = told.lsns.map(|(start, _)| start);
        outcome.stop_lsn = told.lsns.map(|(_, stop)| stop);
        outcome.full_copy_bytes = told.work.full_copy_bytes;
        outcome.files = told.work.files.len() as u64;
        outcome.removed = removed(told);
        outcome.kept.clone_from(&told.work.kept);
        outcome.taken_over.clone_from(&told.work.taken_over);
        outcome.replaced.clone_from(&told.work.made_equal);
        outcome
            .removed_tablespaces
            .clone_from(&told.work.tablespaces);
        outcome.unshared_files = told.work.unshared_files;
        outcome.damaged.clone_from(&told.noted.damaged);
        outcome.server_to_stop = told.server_to_stop;
        outcome.streaming = told.streaming;
        outcome.next_steps = next_steps(run, told);
    });
    run.record.outcome(run.events.counters())
}

/// The names of the files that go, as many as the report has.
fn removed(told: &Told<'_>) -> Vec<String> {
    let vanished = told.noted.vanished.iter().map(ToString::to_string);
    let all = told.work.removed.iter().cloned().chain(vanished);
    all.take(REMOVED_NAMED).collect()
}

/// The damaged pages that turned up, by their paths.
fn damaged_pages(run: &Run<'_>, work: &Work, found: &Found) -> Vec<DamagedPage> {
    if found.damaged_more > 0 {
        run.warn(
            Code::DamagedPagesUnlisted,
            format!(
                "{} more pages of the source have a wrong checksum; they are not listed.",
                found.damaged_more
            ),
        );
    }
    found
        .damaged
        .iter()
        .map(|block| DamagedPage {
            path: work.files.path(block.entry).map_or_else(
                || format!("file {}", block.entry.0),
                |path| path.to_string(),
            ),
            block: block.block,
            expected_checksum: block.expected_checksum,
            actual_checksum: block.actual_checksum,
        })
        .collect()
}

/// What the target has and the source has not.
pub fn divergence(relation: &Relation, before: Option<&TargetCluster>) -> Option<DivergenceReport> {
    let (lsn, target_end) = relation.lost_range()?;
    let control = before.and_then(|cluster| cluster.control.as_ref())?;
    Some(DivergenceReport {
        lsn,
        timeline: control.timeline_reached(),
        target_end,
        lost_bytes: target_end.bytes_since(lsn),
        is_exact: control.state.is_shut_down(),
    })
}

fn warnings(run: &Run<'_>, told: &Told<'_>) -> Vec<(Code, String)> {
    let mut warnings = Vec::new();
    if let Relation::PossiblyDiverged { .. } = told.findings.relation.original() {
        warnings.push((
            Code::UncleanShutdown,
            "The target was not shut down cleanly: it may have had writes of its own that its control \
             file does not tell of."
                .to_owned(),
        ));
    }
    for placement in &told.findings.placements {
        if let Some(former) = &placement.former {
            let place = words::text(former);
            let oid = placement.oid;
            warnings.push((
                Code::TablespaceLeft,
                format!("Tablespace {oid} was at \"{place}\" before: what it held there is left."),
            ));
        }
    }
    if !told.facts.synchronous_standby_names.is_empty() && run.options.role != Role::Clone {
        warnings.push((
            Code::SynchronousStandby,
            format!(
                "The source waits for synchronous standbys ({}): if the target is one of them, commits \
                 wait until it streams.",
                told.facts.synchronous_standby_names
            ),
        ));
    }
    warnings
}

fn next_steps(run: &Run<'_>, told: &Told<'_>) -> Vec<String> {
    let options = run.options;
    let mut steps = Vec::new();
    if told.lsns.is_none() {
        if let Some(pid) = told.server_to_stop {
            steps.push(format!(
                "The same command without --dry-run stops the server with PID {pid} first."
            ));
        }
        steps.push("Run the same command without --dry-run.".to_owned());
        return steps;
    }
    if !told.noted.damaged.is_empty() {
        steps.push(
            "Repair the damaged pages on the source: the standby has the same damage.".to_owned(),
        );
    }
    if options.role == Role::Managed {
        steps.push(
            "Set whom it follows (primary_conninfo) and start the server, unless its manager does: until then it is a \
             standby of nobody."
                .to_owned(),
        );
    } else if !options.start {
        let command = match &options.starter {
            Some(Starter::Debian(cluster)) => {
                format!("pg_ctlcluster {} {} start", cluster.version, cluster.name)
            }
            _ => pg_ctl(options),
        };
        steps.push(format!("Start the server, for instance with: {command}"));
        let follows = options.role != Role::Clone;
        if follows && (run.slot().is_none() || told.findings.needs_temporary_slot) {
            steps.push(
                "Start it soon: no replication slot keeps the WAL that it needs from now on."
                    .to_owned(),
            );
        }
    }
    steps
}

/// The command that starts the server by hand, with its configuration where that is elsewhere.
fn pg_ctl(options: &RebuildOptions) -> String {
    let copied = options.target_config_dir.as_deref();
    let copied = copied.map(|directory| directory.join(MAIN_FILE));
    let file = options.config_file.as_ref().or(copied.as_ref());
    let file = file.map(|file| file.display().to_string());
    command::pg_ctl(
        "pg_ctl",
        &options.pgdata.display().to_string(),
        file.as_deref(),
    )
}
