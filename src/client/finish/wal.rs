//! The WAL from start to stop, which makes the target consistent: it is brought, or the standby is proved to find
//! it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::client::finish::ahead::Ahead;
use crate::client::run::Run;
use crate::client::source::{Source, SourceError};
use crate::client::transfer::error::TransferError;
use crate::client::transfer::ranges::Transfer;
use crate::client::transfer::sink::Sink;
use crate::client::transfer::task::FileWork;
use crate::disk::DiskError;
use crate::disk::target::ClosedTarget;
use crate::event::Counters;
use crate::facts::{SlotFacts, SourceFacts};
use crate::path::RelPath;
use crate::pg::label::BackupLabel;
use crate::pg::lsn::{Lsn, SegmentName, WalFile as Name, segments};
use crate::pg::timeline::TimelineId;
use crate::postmaster::restore::{self, RestoreError, Wanted};
use crate::wire::message::{Answer, Request, WalFile};

/// Holds an empty file for each segment that needs no archiving any more.
const ARCHIVE_STATUS: &str = "pg_wal/archive_status";

/// Most segments of further timelines that a backup needs beside twice its own.
const SEGMENTS_MORE: u64 = 64;

/// Most bytes of all history files together.
const HISTORY_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// How the backup ended.
pub struct Stopped {
    pub stop_lsn: Lsn,
    pub label: BackupLabel,
    /// The slot that kept the WAL meanwhile, as it is now.
    pub slot: Option<SlotFacts>,
}

/// Why the WAL could not be brought, or will not be found.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("{0}")]
    Disk(#[from] DiskError),
    #[error("the agent named a WAL file \"{0}\"")]
    Name(String),
    #[error("WAL file \"{0}\" vanished from the source while it was copied")]
    Gone(String),
    #[error("the agent did not name WAL segment \"{0}\"")]
    NotNamed(String),
    #[error("replication slot \"{0}\" does not keep the WAL of the backup any more")]
    NotKept(String),
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

impl WalError {
    pub fn hint(&self) -> Option<&str> {
        match self {
            WalError::Source(error) => error.hint(),
            WalError::Transfer(error) => error.hint(),
            WalError::NotKept(_) | WalError::Restore(_) => {
                Some("With -X fetch the WAL comes from the source.")
            }
            _ => None,
        }
    }
}

/// Brings the WAL from start to stop, but what came ahead, or proves that the standby will find it, and brings all
/// history files.
///
/// # Errors
/// A segment is not on the source any more, something cannot be moved or written, or a proof fails.
pub async fn supply(
    run: &Run<'_>,
    source: &Source,
    target: &Arc<ClosedTarget>,
    facts: &SourceFacts,
    stopped: &Stopped,
    ahead: Ahead,
) -> Result<(), WalError> {
    let Stopped {
        stop_lsn, label, ..
    } = stopped;
    // A standby's backup ends where its control file says, and what it has replayed may be far ahead of that.
    let last_byte = Lsn(stop_lsn.0.saturating_sub(1));
    let from = ahead.end.min(last_byte).max(label.start_lsn);
    let request = Request::WalFiles {
        timeline: label.start_timeline,
        from,
        to: *stop_lsn,
    };
    let segment_bytes = facts.control.wal_segment_bytes;
    let needed = || {
        segments(
            label.start_timeline,
            label.start_lsn,
            *stop_lsn,
            segment_bytes,
        )
    };
    if !run.options.brings_wal {
        prove(run, facts, stopped, needed()).await?;
    }
    let (Answer::WalFiles { mut files }, _) = source.ask(&request, Vec::new()).await? else {
        return Err(SourceError::Unfitting("WAL files").into());
    };
    let rest = segments(label.start_timeline, from, *stop_lsn, segment_bytes);
    if let Some(file) = unlawful(&files, rest, segment_bytes) {
        return Err(WalError::Name(file.name.clone()));
    }
    if run.options.brings_wal {
        let all = ahead.files.iter().chain(&files);
        if let Some(absent) = absent(all, needed(), segment_bytes) {
            return Err(WalError::NotNamed(absent.file_name(segment_bytes)));
        }
        files.retain(|file| ahead.files.iter().all(|here| here.name != file.name));
    } else {
        files.retain(|file| Name::classify(file.name.as_bytes()) != Name::Segment);
    }
    bring(run, source, target, &files, facts.control.block_bytes).await
}

/// A file that the agent has no reason to name: neither a whole segment of those needed, on whatever timeline, nor a
/// history file of a plausible length; or one of too many.
fn unlawful(
    files: &[WalFile],
    mut needed: impl DoubleEndedIterator<Item = SegmentName>,
    segment_bytes: u32,
) -> Option<&WalFile> {
    let first = needed.next()?.number;
    let last = needed.next_back().map_or(first, |last| last.number);
    // A segment in which a source changed its timeline is there under both names.
    let (mut segments, mut history_bytes) =
        (2 * (last - first + 1) + SEGMENTS_MORE, HISTORY_MAX_BYTES);
    files.iter().find(|file| {
        match SegmentName::parse(&file.name, segment_bytes) {
            Some(segment) if file.bytes == u64::from(segment_bytes) => {
                segments = segments.saturating_sub(1);
                segments == 0 || !(first..=last).contains(&segment.number)
            }
            Some(_) => true,
            // What is neither is refused by its name.
            None => match history_bytes.checked_sub(file.bytes) {
                Some(rest) => {
                    history_bytes = rest;
                    false
                }
                None => true,
            },
        }
    })
}

/// The first segment that no file is, of whatever timeline.
fn absent<'f>(
    files: impl Iterator<Item = &'f WalFile>,
    mut needed: impl Iterator<Item = SegmentName>,
    segment_bytes: u32,
) -> Option<SegmentName> {
    let mut newest: HashMap<u64, TimelineId> = HashMap::new();
    for file in files {
        if let Some(named) = SegmentName::parse(&file.name, segment_bytes) {
            let timeline = newest.entry(named.number).or_insert(named.timeline);
            *timeline = named.timeline.max(*timeline);
        }
    }
    needed.find(|needed| {
        newest
            .get(&needed.number)
            .is_none_or(|timeline| *timeline < needed.timeline)
    })
}

/// Proves that the standby will find the WAL of the backup by its slot or its `restore_command`.
async fn prove(
    run: &Run<'_>,
    facts: &SourceFacts,
    stopped: &Stopped,
    mut needed: impl DoubleEndedIterator<Item = SegmentName>,
) -> Result<(), WalError> {
    let options = run.options;
    // A temporary slot is not the standby's.
    let is_kept = stopped.slot.as_ref().is_some_and(|slot| {
        run.slot() == Some(&slot.name) && slot.keeps_from(stopped.label.start_lsn)
    });
    if is_kept {
        return Ok(());
    }
    let Some(command) = &options.restore_command else {
        let name = run.slot().unwrap_or_default().to_owned();
        return Err(WalError::NotKept(name));
    };
    for segment in [needed.next(), needed.next_back()].into_iter().flatten() {
        let wanted = Wanted {
            segment,
            segment_bytes: facts.control.wal_segment_bytes,
            system_identifier: facts.control.system_identifier,
        };
        restore::try_restore(&options.pgdata, command, &wanted, options.wait).await?;
    }
    Ok(())
}

/// Brings files into a pg_wal that was emptied.
pub(super) async fn bring(
    run: &Run<'_>,
    source: &Source,
    target: &Arc<ClosedTarget>,
    files: &[WalFile],
    block_bytes: u32,
) -> Result<(), WalError> {
    let named = files
        .iter()
        .map(|file| match wal_path(file) {
            Some(path) => Ok((file, path)),
            None => Err(WalError::Name(file.name.clone())),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::EntryId;

    const SEGMENT: u32 = 16 << 20;

    fn file(name: String, bytes: u64) -> WalFile {
        let entry = EntryId(0);
        WalFile { entry, name, bytes }
    }

    fn segment(timeline: u32, number: u64) -> WalFile {
        let timeline = TimelineId(timeline);
        let name = SegmentName { timeline, number }.file_name(SEGMENT);
        file(name, u64::from(SEGMENT))
    }

    /// The first that a backup of segments 5 and 6 has no reason to bring.
    fn refused(files: &[WalFile]) -> Option<String> {
        let unit = u64::from(SEGMENT);
        let needed = segments(TimelineId(3), Lsn(5 * unit + 40), Lsn(7 * unit), SEGMENT);
        unlawful(files, needed, SEGMENT).map(|file| file.name.clone())
    }

    #[test]
    fn only_what_a_backup_needs_is_brought() {
        let history = |number| file(format!("{number:08X}.history"), 1 << 20);
        let mut files = vec![segment(3, 5), segment(3, 6), segment(4, 6)];
        files.extend((2..66).map(history));
        assert_eq!(refused(&files), None);
        for other in [
            history(66),
            segment(3, 4),
            segment(3, 7),
            file(segment(3, 5).name, 1),
        ] {
            let name = other.name.clone();
            files.push(other);
            assert_eq!(refused(&files), Some(name));
            files.pop();
        }
        // On more timelines than anybody was on meanwhile.
        let many: Vec<_> = (3..90).map(|timeline| segment(timeline, 5)).collect();
        assert!(refused(&many[..60]).is_none() && refused(&many).is_some());
    }
}
