//! Behind the point of no return: everything comes, what must not be there goes, and the target becomes
//! a standby.

use std::path::PathBuf;
use std::sync::Arc;

use super::conf;
use super::failure::{AGAIN, Failure, TargetState};
use super::outcome::DamagedPage;
use super::prepare::Half;
use super::run::Run;
use super::source::{Source, SourceError};
use super::summary::damaged_pages;
use super::transfer::{Found, Sink, Transfer};
use super::wal;
use super::work::Work;
use crate::disk::DiskError;
use crate::disk::target::{ClosedTarget, Finish};
use crate::errors::chain;
use crate::event::{Counters, Stage};
use crate::facts::{SourceFacts, TargetCluster};
use crate::path::RelPath;
use crate::pg::control::poison_checkpoint;
use crate::pg::label::BackupLabel;
use crate::pg::lsn::Lsn;
use crate::plan::guard::Cleared;
use crate::plan::standby as standby_plan;
use crate::plan::tablespaces;
use crate::wire::message::{Answer, Request};

/// What the run has when the target is whole.
pub(super) struct Finished {
    pub facts: SourceFacts,
    pub cleared: Cleared,
    pub before: Option<TargetCluster>,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    pub work: Work,
    pub damaged: Vec<DamagedPage>,
    pub bindir: Option<PathBuf>,
}

/// Goes through the second half, up to a target that can start.
///
/// # Errors
/// A failure that leaves the target half-way.
pub(super) async fn carry_out(run: &Run<'_>, half: Half) -> Result<Finished, Failure> {
    let Half {
        source,
        facts,
        target,
        cleared,
        before,
        work,
        start_lsn,
        old_auto_conf,
        standby,
        bindir,
    } = half;

    run.stage(Stage::Compare);
    let transfer = Transfer::new(
        source.clone(),
        Sink::Target(Arc::clone(&target)),
        run.workers.clone(),
        Arc::clone(run.events.counters()),
        run.key,
        facts.control.block_bytes,
    );
    make_directories(run, &target, &work).await?;
    let found = transfer
        .run(work.files.iter().cloned())
        .await
        .map_err(|error| Failure::half_way(&error))?;
    drop(transfer);
    let damaged = damaged_pages(&work, &found);
    remove(run, &target, &facts, &cleared, &work, found).await?;

    run.stage(Stage::Wal);
    // The control file after all data and before the end: on a standby source it tells where
    // consistency is reached.
    let mut control = control(&source)
        .await
        .map_err(|error| Failure::half_way(&error))?;
    let (stop_lsn, label) = close_bracket(&source, &cleared)
        .await
        .map_err(|error| Failure::half_way(&error))?;
    wal::bring(
        run,
        &source,
        &target,
        &label,
        stop_lsn,
        facts.control.block_bytes,
    )
    .await
    .map_err(|error| Failure::half_way(&error))?;

    run.stage(Stage::Finish);
    poison_checkpoint(&mut control).map_err(|error| Failure::half_way(&error))?;
    let base = conf::base(&run.options.pgdata, run.options.config_file.as_deref());
    for problem in &base.problems {
        run.events.warn(problem);
    }
    let auto_conf = standby_plan::auto_conf(&old_auto_conf, &base.settings, &standby)
        .map_err(|error| Failure::half_way(&error))?;
    let target = Arc::try_unwrap(target).map_err(|_| {
        let error = "the target is still being written (this is a bug in pg_reseed)";
        Failure::new(TargetState::HalfWay, error).hint(AGAIN)
    })?;
    run.workers
        .run(move || {
            target.finish(&Finish {
                backup_label: &label.bytes,
                auto_conf: &auto_conf,
                control: &control,
            })
        })
        .await
        .map_err(|error| Failure::half_way(&error))?
        .map_err(|error| Failure::half_way(&error))?;
    Ok(Finished {
        facts,
        cleared,
        before,
        start_lsn,
        stop_lsn,
        work,
        damaged,
        bindir,
    })
}

async fn make_directories(
    run: &Run<'_>,
    target: &Arc<ClosedTarget>,
    work: &Work,
) -> Result<(), Failure> {
    let (target, replaced, directories) = (
        Arc::clone(target),
        work.replaced.clone(),
        work.directories.clone(),
    );
    let made = run.workers.run(move || {
        for path in &replaced {
            target.remove(path)?;
        }
        directories
            .iter()
            .try_for_each(|path| target.make_directory(path))
    });
    made.await
        .map_err(|error| Failure::half_way(&error))?
        .map_err(|error| Failure::half_way(&error))
}

/// Removes what the source does not have: last, when everything that must come has come.
async fn remove(
    run: &Run<'_>,
    target: &Arc<ClosedTarget>,
    facts: &SourceFacts,
    cleared: &Cleared,
    work: &Work,
    found: Found,
) -> Result<(), Failure> {
    let gone_files = found.gone.len() as u64;
    let gone = work
        .files
        .iter()
        .filter(|file| found.gone.contains(&file.entry))
        .map(|file| file.path.clone());
    let paths: Vec<RelPath> = work.removals.iter().cloned().chain(gone).collect();
    let (target, emptied) = (Arc::clone(target), work.emptied.clone());
    let version_directory = tablespaces::version_directory(facts);
    let stale = cleared.findings().stale_tablespaces.clone();
    let removed = run.workers.run(move || {
        for path in &paths {
            target.remove(path)?;
        }
        for path in &emptied {
            target.empty_directory(path, &[])?;
        }
        for oid in stale {
            target.remove_tablespace(oid, &version_directory)?;
        }
        Ok::<(), DiskError>(())
    });
    removed
        .await
        .map_err(|error| Failure::half_way(&error))?
        .map_err(|error| Failure::half_way(&error))?;
    let removed = work.removed_files + gone_files;
    Counters::add(&run.events.counters().removed_files, removed);
    Ok(())
}

async fn control(source: &Source) -> Result<Vec<u8>, SourceError> {
    match source.ask(&Request::Control, Vec::new()).await? {
        (Answer::Control, bytes) => Ok(bytes),
        _ => Err(SourceError::Unfitting("control file")),
    }
}

/// Why the backup could not be ended well.
#[derive(Debug, thiserror::Error)]
enum EndError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the source's backup label cannot be used: {0}")]
    Label(String),
    #[error(
        "tablespace {0:?} was made on the source during the run and has no place in the target"
    )]
    NewTablespaces(Vec<u32>),
}

async fn close_bracket(source: &Source, cleared: &Cleared) -> Result<(Lsn, BackupLabel), EndError> {
    let answer = source.ask(&Request::CloseBracket, Vec::new()).await?;
    let (
        Answer::BracketClosed {
            stop_lsn,
            backup_label,
            tablespaces,
        },
        _,
    ) = answer
    else {
        return Err(SourceError::Unfitting("backup stop").into());
    };
    let known = &cleared.findings().placements;
    let new: Vec<u32> = tablespaces
        .iter()
        .map(|space| space.oid)
        .filter(|oid| !known.iter().any(|placement| placement.oid == *oid))
        .collect();
    if !new.is_empty() {
        return Err(EndError::NewTablespaces(new));
    }
    let label =
        BackupLabel::parse(&backup_label).map_err(|error| EndError::Label(chain(&error)))?;
    Ok((stop_lsn, label))
}
