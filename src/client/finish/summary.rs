//! The outcome of a run: what was found, moved and kept, and what to do next.

use crate::client::look::leaving;
use crate::client::options::{RebuildOptions, Starter};
use crate::client::outcome::{DamagedPage, DivergenceReport, Mode, Outcome, REMOVED_NAMED};
use crate::client::run::Run;
use crate::client::transfer::ranges::Found;
use crate::client::transfer::work::Work;
use crate::event::Counters;
use crate::facts::{SourceFacts, TargetCluster};
use crate::path::RelPath;
use crate::pg::lsn::Lsn;
use crate::plan::configuration::MAIN_FILE;
use crate::plan::guard::Findings;
use crate::plan::leaving::Unarchived;
use crate::plan::relation::Relation;
use crate::plan::words;

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
    }
}

/// Puts the outcome together.
pub fn outcome(run: &Run<'_>, told: &Told<'_>) -> Outcome {
    for warning in warnings(told) {
        run.warn(warning);
    }
    let counters = run.events.counters();
    let read = Counters::read;
    let findings = told.findings;
    let mode = match (told.lsns, findings.is_seed) {
        (None, _) => Mode::DryRun,
        (Some(_), true) => Mode::Seed,
        (Some(_), false) => Mode::Rebuild,
    };
    let outcome = match (mode, told.noted.damaged.is_empty()) {
        (Mode::DryRun, _) => "dry-run",
        (_, true) => "done",
        (_, false) => "done-with-damaged-pages",
    };
    Outcome {
        outcome,
        mode,
        pg_reseed_version: env!("CARGO_PKG_VERSION"),
        pgdata: run.options.pgdata.display().to_string(),
        source_host: told.facts.host.name.clone(),
        source_data_directory: String::from_utf8_lossy(&told.facts.data_directory).into_owned(),
        server_version: told.facts.version.to_string(),
        system_identifier: told.facts.control.system_identifier.to_string(),
        timeline: told.facts.timeline,
        relation: findings.relation.to_string(),
        divergence: divergence(&findings.relation, told.before),
        kept_wal: run.kept_wal.get().cloned(),
        unarchived: unarchived(run, told),
        removed_slots: told
            .before
            .map_or_else(Vec::new, |cluster| cluster.slots.clone()),
        start_lsn: told.lsns.map(|(start, _)| start),
        stop_lsn: told.lsns.map(|(_, stop)| stop),
        compared_bytes: read(&counters.compared_bytes),
        differing_blocks: read(&counters.differing_blocks),
        moved_blocks: read(&counters.moved_blocks),
        moved_bytes: read(&counters.moved_bytes),
        fetched_bytes: read(&counters.fetched_bytes),
        wal_bytes: read(&counters.wal_bytes),
        written_bytes: read(&counters.written_bytes),
        wire_received_bytes: read(&counters.wire_received_bytes),
        wire_sent_bytes: read(&counters.wire_sent_bytes),
        streams: read(&counters.streams),
        full_copy_bytes: told.work.full_copy_bytes,
        files: told.work.files.len() as u64,
        removed_files: read(&counters.removed_files),
        removed: removed(told),
        kept: told.work.kept.clone(),
        taken_over: told.work.taken_over.clone(),
        replaced: told.work.made_equal.clone(),
        removed_tablespaces: told.work.tablespaces.clone(),
        unshared_files: told.work.unshared_files,
        damaged: told.noted.damaged.clone(),
        warnings: run.warnings(),
        slot: run.slot().map(str::to_owned),
        server_to_stop: told.server_to_stop,
        streaming: told.streaming,
        next_steps: next_steps(run, told, mode),
        stages: run.clock.stages(),
        seconds: run.clock.began.elapsed().as_secs_f64(),
    }
}

/// The WAL that was never archived, and whether it was saved.
fn unarchived(run: &Run<'_>, told: &Told<'_>) -> Option<Unarchived> {
    let relation = &told.findings.relation;
    let found = leaving::unarchived(told.before?, Some((told.facts, relation)))?;
    let kept = run.kept_wal.get();
    Some(Unarchived {
        saved: kept.is_some_and(|kept| kept.unarchived_files > 0),
        ..found
    })
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
        run.warn(format!(
            "{} more pages of the source have a wrong checksum; they are not listed.",
            found.damaged_more
        ));
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

fn warnings(told: &Told<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Relation::PossiblyDiverged { .. } = told.findings.relation.original() {
        warnings.push(
            "The target was not shut down cleanly: it may have had writes of its own that its control \
             file does not tell of."
                .to_owned(),
        );
    }
    for placement in &told.findings.placements {
        if let Some(former) = &placement.former {
            warnings.push(format!(
                "Tablespace {} was at \"{}\" before: what it held there is left.",
                placement.oid,
                words::text(former)
            ));
        }
    }
    if !told.facts.synchronous_standby_names.is_empty() {
        warnings.push(format!(
            "The source waits for synchronous standbys ({}): if the target is one of them, commits \
             wait until it streams.",
            told.facts.synchronous_standby_names
        ));
    }
    warnings
}

fn next_steps(run: &Run<'_>, told: &Told<'_>, mode: Mode) -> Vec<String> {
    let options = run.options;
    let mut steps = Vec::new();
    if mode == Mode::DryRun {
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
    if !options.start {
        let command = match &options.starter {
            Some(Starter::Debian(cluster)) => {
                format!("pg_ctlcluster {} {} start", cluster.version, cluster.name)
            }
            _ => pg_ctl(options),
        };
        steps.push(format!("Start the server, for instance with: {command}"));
        if run.slot().is_none() || told.findings.needs_temporary_slot {
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
    let command = format!("pg_ctl start -D {}", options.pgdata.display());
    match options.config_file.as_ref().or(copied.as_ref()) {
        Some(file) => format!("{command} -o '-c config_file={}'", file.display()),
        None => command,
    }
}
