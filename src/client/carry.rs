//! Behind the point of no return: everything comes, what must not be there goes, and the target becomes
//! a standby.

use std::path::PathBuf;
use std::sync::Arc;

use super::conf;
use super::failure::{Failure, TargetState, chain, disk_words};
use super::outcome::DamagedPage;
use super::rebuild::primary_conninfo;
use super::run::Run;
use super::source::{Source, SourceError};
use super::transfer::{Found, Sink, Transfer};
use super::wal;
use super::work::Work;
use crate::disk::DiskError;
use crate::disk::target::{ClosedTarget, Finish};
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
struct Finished {
    facts: SourceFacts,
    cleared: Cleared,
    before: Option<TargetCluster>,
    start_lsn: Lsn,
    stop_lsn: Lsn,
    work: Work,
    damaged: Vec<DamagedPage>,
    bindir: Option<std::path::PathBuf>,
}

async fn carry_out(run: &Run<'_>, half: Half) -> Result<Finished, Failure> {
    let half_way = |error: String| Failure::new(TargetState::HalfWay, error);
    let Half {
        source,
        facts,
        target,
        cleared,
        before,
        work,
        start_lsn,
        old_auto_conf,
        bindir,
    } = half;

    run.stage(Stage::Compare);
    let moved = Transfer::new(
        source.clone(),
        Sink::Target(Arc::clone(&target)),
        run.workers.clone(),
        run.events.clone(),
        run.key,
        facts.control.block_bytes,
    );
    make_directories(run, &target, &work).await?;
    let found = moved
        .run(work.files.iter().cloned())
        .await
        .map_err(|error| half_way(chain(&error)))?;
    let damaged = damaged_pages(&work, &found);
    remove(run, &target, &facts, &cleared, &work, found).await?;

    run.stage(Stage::Wal);
    // The control file after all data and before the end: on a standby source it tells where
    // consistency is reached.
    let mut control = control(&source).await.map_err(|error| half_way(chain(&error)))?;
    let (stop_lsn, label) =
        close_bracket(&source, &cleared).await.map_err(|error| half_way(chain(&error)))?;
    wal::bring(run, &source, &target, &label, stop_lsn, &moved)
        .await
        .map_err(|error| half_way(chain(&error)))?;
    drop(moved);

    run.stage(Stage::Finish);
    poison_checkpoint(&mut control).map_err(|error| half_way(chain(&error)))?;
    let base = conf::base_settings(&run.options.pgdata, run.options.config_file.as_deref())
        .map_err(|error| half_way(error.to_string()))?;
    let wanted = standby_plan::StandbySettings {
        primary_conninfo: primary_conninfo(run.options)?,
        slot: run.options.slot.clone(),
        restore_command: run.options.restore_command.clone(),
    };
    let auto_conf = standby_plan::auto_conf(&old_auto_conf, &base, &wanted)
        .map_err(|error| half_way(chain(&error)))?;
    let target = Arc::try_unwrap(target)
        .map_err(|_| half_way("the target is still being written (this is a bug in pg_reseed)".to_owned()))?;
    run.workers
        .run(move || {
            target.finish(&Finish {
                backup_label: &label.bytes,
                auto_conf: &auto_conf,
                control: &control,
            })
        })
        .await
        .map_err(|error| half_way(chain(&error)))?
        .map_err(|error| half_way(disk_words(&error)))?;
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
        directories.iter().try_for_each(|path| target.make_directory(path))
    });
    made.await
        .map_err(|error| Failure::new(TargetState::HalfWay, chain(&error)))?
        .map_err(|error| Failure::new(TargetState::HalfWay, disk_words(&error)))
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
        let mut removed = 0;
        for path in &paths {
            removed += target.remove(path)?;
        }
        for path in &emptied {
            removed += target.empty_directory(path, &["archive_status", "summaries"])?;
        }
        for oid in stale {
            removed += target.remove_tablespace(oid, &version_directory)?;
        }
        Ok::<u64, DiskError>(removed)
    });
    let removed = removed
        .await
        .map_err(|error| Failure::new(TargetState::HalfWay, chain(&error)))?
        .map_err(|error| Failure::new(TargetState::HalfWay, disk_words(&error)))?;
    Counters::add(&run.events.counters().removed_files, removed);
    Ok(())
}

fn damaged_pages(work: &Work, found: &Found) -> Vec<DamagedPage> {
    found
        .damaged
        .iter()
        .map(|block| DamagedPage {
            path: work
                .files
                .iter()
                .find(|file| file.entry == block.entry)
                .map_or_else(|| format!("file {}", block.entry.0), |file| file.path.to_string()),
            block: block.block,
            expected_checksum: block.expected_checksum,
            actual_checksum: block.actual_checksum,
        })
        .collect()
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
    #[error("tablespace {0:?} was made on the source during the run and has no place in the target")]
    NewTablespaces(Vec<u32>),
}

async fn close_bracket(
    source: &Source,
    cleared: &Cleared,
) -> Result<(Lsn, BackupLabel), EndError> {
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
    let label = BackupLabel::parse(&backup_label).map_err(|error| EndError::Label(chain(&error)))?;
    Ok((stop_lsn, label))
}

