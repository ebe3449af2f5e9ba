//! The WAL from start to stop, which makes the target consistent without anybody's help.

use std::sync::Arc;

use super::run::Run;
use super::source::{Source, SourceError};
use super::task::FileWork;
use super::transfer::{Sink, Transfer, TransferError};
use crate::disk::DiskError;
use crate::disk::target::ClosedTarget;
use crate::event::Counters;
use crate::path::RelPath;
use crate::pg::label::BackupLabel;
use crate::pg::lsn::{Lsn, WalFile as Name};
use crate::wire::message::{Answer, Request, WalFile};

/// Holds an empty file for each segment that needs no archiving any more.
const ARCHIVE_STATUS: &str = "pg_wal/archive_status";

/// Why the WAL could not be brought.
#[derive(Debug, thiserror::Error)]
pub(super) enum WalError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("{error}: {}", .error.source)]
    Disk { error: DiskError },
    #[error("the agent named a WAL file \"{0}\"")]
    Name(String),
    #[error("WAL file \"{0}\" vanished from the source while it was copied")]
    Gone(String),
}

impl WalError {
    pub(super) fn hint(&self) -> Option<&str> {
        match self {
            WalError::Source(error) => error.hint(),
            WalError::Transfer(error) => error.hint(),
            _ => None,
        }
    }
}

impl From<DiskError> for WalError {
    fn from(error: DiskError) -> Self {
        Self::Disk { error }
    }
}

/// Brings the WAL from start to stop with all history files into an empty pg_wal.
///
/// # Errors
/// A segment is not on the source any more, or something cannot be moved or written.
pub(super) async fn bring(
    run: &Run<'_>,
    source: &Source,
    target: &Arc<ClosedTarget>,
    label: &BackupLabel,
    stop_lsn: Lsn,
    block_bytes: u32,
) -> Result<(), WalError> {
    let request = Request::WalFiles {
        timeline: label.start_timeline,
        from: label.start_lsn,
        to: stop_lsn,
    };
    let (Answer::WalFiles { files }, _) = source.ask(&request, Vec::new()).await? else {
        return Err(SourceError::Unfitting("WAL files").into());
    };
    let named = files
        .into_iter()
        .map(|file| match wal_path(&file) {
            Some(path) => Ok((file, path)),
            None => Err(WalError::Name(file.name)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let worker = |error| WalError::Transfer(TransferError::Worker(error));
    let noted = {
        let target = Arc::clone(target);
        let done: Vec<RelPath> = named
            .iter()
            .filter_map(|(file, _)| {
                RelPath::parse(format!("{ARCHIVE_STATUS}/{}.done", file.name).as_bytes()).ok()
            })
            .collect();
        run.workers
            .run(move || done.iter().try_for_each(|path| target.make_empty(path)))
    };
    noted.await.map_err(worker)??;
    let work = named.iter().map(|(file, path)| FileWork {
        entry: file.entry,
        path: path.clone(),
        bytes: file.bytes,
        common: 0,
        fit: true,
        whole: false,
    });
    let bytes = named.iter().map(|(file, _)| file.bytes).sum();
    // Counted apart: what the WAL weighs says nothing about how much differed.
    let counters = Arc::<Counters>::default();
    let found = Transfer::new(
        source.clone(),
        Sink::Target(Arc::clone(target)),
        run.workers.clone(),
        Arc::clone(&counters),
        run.key,
        block_bytes,
    )
    .run(work.collect::<Vec<_>>().into_iter())
    .await?;
    if let Some((file, _)) = named
        .iter()
        .find(|(file, _)| found.gone.contains(&file.entry))
    {
        return Err(WalError::Gone(file.name.clone()));
    }
    let total = run.events.counters();
    Counters::add(&total.wal_bytes, bytes);
    Counters::add(
        &total.written_bytes,
        Counters::read(&counters.written_bytes),
    );
    Ok(())
}

/// Where a WAL file goes: a plain segment or history file and nothing else.
fn wal_path(file: &WalFile) -> Option<RelPath> {
    match Name::classify(file.name.as_bytes()) {
        Name::Segment | Name::TimelineHistory(_) => {
            RelPath::parse(format!("pg_wal/{}", file.name).as_bytes()).ok()
        }
        _ => None,
    }
}
