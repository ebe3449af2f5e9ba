//! `--keep-diverged-wal`: the WAL that only the target has is saved before the target is closed.

use std::ffi::OsString;
use std::path::Path;

use crate::client::failure::Failure;
use crate::client::options::RebuildOptions;
use crate::client::outcome::KeptWal;
use crate::client::run::Run;
use crate::disk::facts as disk;
use crate::disk::keep::{self, Vacancy};
use crate::disk::walk;
use crate::facts::{Condition, SourceFacts, TargetCluster, TargetFacts};
use crate::plan::diverged::Divergence;
use crate::plan::guard::{self, Cleared};
use crate::plan::refusal::Refusal;
use crate::plan::relation::{Relation, end_of_wal};
use crate::plan::saved::{Coverage, NOTE, Saved, Stretch};
use crate::warning::Code;

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

/// Refuses to save less than all that only the target has, unless that may be; and says what of it is gone.
///
/// # Errors
/// The refusal, or the system's error.
pub fn judge_completeness(
    run: &Run<'_>,
    target: &TargetFacts,
    relation: &Relation,
) -> Result<(), Failure> {
    let Some(cluster) = to_be_saved(run, target) else {
        return Ok(());
    };
    let coverage = coverage(&run.options.pgdata, cluster, relation)?;
    let Some(lack) = coverage.lack() else {
        return Ok(());
    };
    guard::diverged_wal(&coverage, &run.options.overrides)
        .map_err(|refusal| Failure::refused(&[refusal]))?;
    run.warn(Code::DivergedWalIncomplete, lack);
    Ok(())
}

/// What of the WAL that only the target has is not in its pg_wal any more.
///
/// # Errors
/// The system's error.
pub fn missing(
    pgdata: &Path,
    cluster: &TargetCluster,
    relation: &Relation,
) -> Result<Vec<Stretch>, Failure> {
    coverage(pgdata, cluster, relation).map(|coverage| coverage.gone)
}

fn coverage(
    pgdata: &Path,
    cluster: &TargetCluster,
    relation: &Relation,
) -> Result<Coverage, Failure> {
    let Some(own) = own_wal(cluster, relation) else {
        return Ok(Coverage::default());
    };
    let names = names(pgdata)?;
    let unit = segment_bytes(cluster);
    Ok(Coverage::of(&own, &cluster.history, &names, unit))
}

/// Saves what only the target has and what was never archived, if that was asked for and there is any.
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
    let relation = &cleared.findings().relation;
    let Some(cluster) = to_be_saved(run, target) else {
        if let Condition::Cluster(cluster) = &target.condition
            && (own_wal(cluster, relation).is_some() || !cluster.unarchived.files.is_empty())
        {
            warn_of_interrupted(run, directory);
        }
        return Ok(None);
    };
    let own = own_wal(cluster, relation);
    let unit = segment_bytes(cluster);
    let there = names(&run.options.pgdata)?;
    let unarchived = &cluster.unarchived.files;
    let is_saved = |name: &&String| {
        own.as_ref()
            .is_some_and(|own| own.includes(name.as_bytes(), unit))
            || unarchived.binary_search(name).is_ok()
    };
    let saved: Vec<OsString> = there.iter().filter(is_saved).map(OsString::from).collect();
    if saved.is_empty() {
        if own.is_some() {
            run.warn(
                Code::DivergedWalGone,
                "No WAL that only the target has is there to be saved.",
            );
        }
        return Ok(None);
    }
    let coverage = own
        .as_ref()
        .map(|own| Coverage::of(own, &cluster.history, &there, unit));
    let place = directory.display().to_string();
    // Only a NUL cannot be quoted, and no path holds one.
    let quoted = shlex::try_quote(&place).unwrap_or_default();
    let note = Saved {
        pgdata: &target.pgdata,
        host: &target.host.name,
        major: facts.version.major(),
        directory: &quoted,
        own: own.as_ref().zip(coverage.as_ref()),
        unarchived,
    };
    let wal = run.options.pgdata.join("pg_wal");
    let bytes = keep::copy(&wal, &saved, directory, (NOTE, &note.note())).map_err(|error| {
        Failure::untouched(&error).hint("Give --keep-diverged-wal a directory with enough room.")
    })?;
    let gone = coverage.map(|coverage| coverage.gone).unwrap_or_default();
    Ok(Some(KeptWal {
        directory: place,
        files: saved.len() as u64,
        bytes,
        from: own.map(|own| own.from),
        unarchived_files: unarchived.len() as u64,
        missing: gone,
    }))
}

/// The target's cluster, if its WAL shall be saved and is still its own. Saving ends before the target is closed:
/// what an interrupted run left in pg_wal may be the source's.
fn to_be_saved<'a>(run: &Run<'_>, target: &'a TargetFacts) -> Option<&'a TargetCluster> {
    match &target.condition {
        Condition::Cluster(cluster)
            if run.options.keep_diverged_wal.is_some() && cluster.interrupted.is_none() =>
        {
            Some(cluster)
        }
        _ => None,
    }
}

fn warn_of_interrupted(run: &Run<'_>, directory: &Path) {
    let was_saved = matches!(keep::vacancy(directory, NOTE), Ok(Vacancy::Ours));
    if was_saved {
        run.warn(
            Code::DivergedWalSavedEarlier,
            "The WAL that only the target had was saved by an earlier run.",
        );
    } else {
        run.warn(
            Code::DivergedWalGone,
            "An interrupted run has removed the WAL that only the target had: it cannot be saved.",
        );
    }
}

/// What the target wrote on its own, to the end that its control file tells.
fn own_wal(cluster: &TargetCluster, relation: &Relation) -> Option<Divergence> {
    let mut own = Divergence::of(relation, &cluster.history)?;
    own.until = cluster
        .control
        .as_ref()
        .filter(|control| control.state.is_shut_down())
        .map(end_of_wal);
    Some(own)
}

/// What a server is made with, where the control file does not tell.
const SEGMENT_BYTES_DEFAULT: u32 = 16 << 20;

fn segment_bytes(cluster: &TargetCluster) -> u32 {
    let control = cluster.control.as_ref();
    control.map_or(SEGMENT_BYTES_DEFAULT, |control| control.wal_segment_bytes)
}

/// The files in pg_wal whose names are text, as all names of PostgreSQL's are.
fn names(pgdata: &Path) -> Result<Vec<String>, Failure> {
    let listed = match walk::list(&pgdata.join("pg_wal")) {
        Err(error) if error.is_missing() => Vec::new(),
        listed => listed.map_err(|error| Failure::untouched(&error))?,
    };
    let files = listed
        .into_iter()
        .filter(|found| found.kind == walk::Kind::File);
    let mut names: Vec<String> = files
        .filter_map(|found| String::from_utf8(found.name.clone()).ok())
        .collect();
    names.sort();
    Ok(names)
}
