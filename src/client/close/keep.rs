//! `--keep-diverged-wal`: the WAL that only the target has is saved before the target is closed.

use std::ffi::OsString;

use crate::client::failure::Failure;
use crate::client::options::RebuildOptions;
use crate::client::outcome::KeptWal;
use crate::client::run::Run;
use crate::disk::facts as disk;
use crate::disk::keep::{self, Vacancy};
use crate::disk::walk;
use crate::facts::{Condition, SourceFacts, TargetFacts};
use crate::plan::diverged::{Divergence, NOTE};
use crate::plan::guard::Cleared;
use crate::plan::refusal::Refusal;
use crate::plan::relation::end_of_wal;

/// Refuses a place that holds something else, or that lies where a rebuild removes files; and to save what cannot be
/// told apart, in a target without a control file.
///
/// # Errors
/// The refusal, or the system's error.
pub fn judge_place(options: &RebuildOptions, target: &TargetFacts) -> Result<(), Failure> {
    let Some(directory) = options.keep_diverged_wal.as_deref() else {
        return Ok(());
    };
    let refused = |problem: &str| {
        Err(Failure::refused(&[Refusal::DivergedWalPlace {
            directory: directory.display().to_string(),
            problem: problem.to_owned(),
        }]))
    };
    if let Condition::Cluster(cluster) = &target.condition
        && cluster.control.is_none()
        && cluster.interrupted.is_none()
    {
        return refused(
            "Without the target's control file it cannot be told which WAL only the target has: save its pg_wal \
             by hand, and leave out --keep-diverged-wal.",
        );
    }
    let place = disk::resolved_beginning(directory);
    let pgdata = &options.pgdata;
    let spaces = disk::tablespaces(pgdata).map_err(|error| Failure::untouched(&error))?;
    let spaces = spaces
        .iter()
        .map(|space| pgdata.join("pg_tblspc").join(space.oid.to_string()));
    for owned in [pgdata.clone(), pgdata.join("pg_wal")]
        .into_iter()
        .chain(spaces)
    {
        if disk::exists(&owned) && place.starts_with(disk::resolved(&owned)) {
            return refused("It lies in the data directory, its pg_wal or a tablespace.");
        }
    }
    match keep::vacancy(directory, NOTE) {
        Ok(Vacancy::Vacant | Vacancy::Ours) => Ok(()),
        Ok(Vacancy::Taken) => refused("It holds what no earlier run has saved."),
        Err(error) => Err(Failure::untouched(&error)),
    }
}

/// Saves what only the target has, if that was asked for and there is any.
///
/// # Errors
/// The system's error; the target is as it was.
pub fn save(
    run: &Run<'_>,
    target: &TargetFacts,
    facts: &SourceFacts,
    cleared: &Cleared,
) -> Result<Option<KeptWal>, Failure> {
    let Some(directory) = run.options.keep_diverged_wal.as_deref() else {
        return Ok(None);
    };
    let Condition::Cluster(cluster) = &target.condition else {
        return Ok(None);
    };
    let history = &cluster.history;
    let Some(mut divergence) = Divergence::of(&cleared.findings().relation, history) else {
        return Ok(None);
    };
    divergence.until = cluster
        .control
        .as_ref()
        .filter(|control| control.state.is_shut_down())
        .map(end_of_wal);
    // Saving ends before the target is closed. What an interrupted run left in pg_wal may be the source's.
    if cluster.interrupted.is_some() {
        let was_saved = matches!(keep::vacancy(directory, NOTE), Ok(Vacancy::Ours));
        run.warn(if was_saved {
            "The WAL that only the target had was saved by an earlier run."
        } else {
            "An interrupted run has removed the WAL that only the target had: it cannot be saved."
        });
        return Ok(None);
    }
    let wal = run.options.pgdata.join("pg_wal");
    let listed = match walk::list(&wal) {
        Err(error) if error.is_missing() => Vec::new(),
        listed => listed.map_err(|error| Failure::untouched(&error))?,
    };
    let unit = facts.control.wal_segment_bytes;
    let names: Vec<OsString> = listed
        .iter()
        .filter(|found| found.kind == walk::Kind::File && divergence.includes(&found.name, unit))
        .map(|found| found.file_name().to_owned())
        .collect();
    if names.is_empty() {
        run.warn("No WAL that only the target has is there to be saved.");
        return Ok(None);
    }
    let host = &target.host.name;
    let major = facts.version.major();
    let first = names
        .iter()
        .find_map(|name| name.to_str().filter(|name| !name.ends_with(".history")));
    let first = first.unwrap_or_default();
    let note = divergence.note(&target.pgdata, host, major, directory, first);
    let bytes = keep::copy(&wal, &names, directory, (NOTE, &note)).map_err(|error| {
        Failure::untouched(&error).hint("Give --keep-diverged-wal a directory with enough room.")
    })?;
    Ok(Some(KeptWal {
        directory: directory.display().to_string(),
        files: names.len() as u64,
        bytes,
        from: divergence.from,
    }))
}
