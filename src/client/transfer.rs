//! Compare and move: the ranges of all files, many in flight, into a sink that writes or only counts.
//!
//! A range goes through up to three steps: digests of its extents on both sides at once; digests of the
//! blocks of those extents that differ; the blocks that differ, proven and written. Files that the
//! target lacks go straight to the last step. Every step waits for the link or for a worker, never for
//! another range.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::source::{Source, SourceError};
use super::task::{FileWork, Task, Way, tasks};
use crate::compare::blocks::{differing, digest_pieces, piece_count, placed};
use crate::compare::rolling;
use crate::digest::{Damaged, SessionKey, Verified};
use crate::disk::DiskError;
use crate::disk::read::{read_most, read_padded};
use crate::disk::root::Roots;
use crate::disk::target::{ClosedTarget, parts};
use crate::event::Counters;
use crate::geometry::{EXTENT_BYTES, EntryId, RANGE_BYTES, SPANS_MAX, Span, WHOLE_MAX_BYTES};
use crate::path::RelPath;
use crate::wire::message::{Answer, DamagedBlock, Request};
use crate::wire::payload::{self, PayloadError};
use crate::workers::{WorkerFailed, Workers};

/// Ranges in flight for each worker: enough that the link and the workers of both sides always have the
/// next one waiting. Each may hold a range's blocks, so this also bounds the memory.
const RANGES_PER_WORKER: usize = 4;

/// Fewest ranges in flight, so that a link with a long delay stays busy.
const RANGES_MIN: usize = 12;

/// Moving a range did not work.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{error}: {}", .error.source)]
    Target { error: DiskError },
    #[error(transparent)]
    Worker(#[from] WorkerFailed),
    #[error("an answer of the agent cannot be used: {0}")]
    Payload(#[from] PayloadError),
    #[error("an answer of the agent cannot be used: {0}")]
    Damaged(#[from] Damaged),
    #[error("an answer of the agent does not fit what was asked")]
    Unfitting,
}

impl TransferError {
    /// What the agent says can be done.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            TransferError::Source(error) => error.hint(),
            _ => None,
        }
    }
}

impl From<DiskError> for TransferError {
    fn from(error: DiskError) -> Self {
        Self::Target { error }
    }
}

/// Where the bytes go.
#[derive(Clone)]
pub enum Sink {
    Target(Arc<ClosedTarget>),
    /// Only count what differs, in the directories of a target that stays as it is.
    Survey(Arc<Roots>),
}

impl Sink {
    fn roots(&self) -> &Roots {
        match self {
            Sink::Target(target) => target.roots(),
            Sink::Survey(roots) => roots,
        }
    }

    fn target(&self) -> Option<&ClosedTarget> {
        match self {
            Sink::Target(target) => Some(target),
            Sink::Survey(_) => None,
        }
    }
}

/// All that a range needs to be moved.
#[derive(Clone)]
pub struct Transfer {
    source: Source,
    sink: Sink,
    workers: Workers,
    counters: Arc<Counters>,
    key: SessionKey,
    block_bytes: u32,
    found: Arc<Mutex<Found>>,
}

/// What turned up on the way.
#[derive(Debug, Default)]
pub struct Found {
    /// Files that vanished on the source since the manifest: they go.
    pub gone: BTreeSet<EntryId>,
    /// Pages of the source that fail their checksum.
    pub damaged: Vec<DamagedBlock>,
}

impl Transfer {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        source: Source,
        sink: Sink,
        workers: Workers,
        counters: Arc<Counters>,
        key: SessionKey,
        block_bytes: u32,
    ) -> Self {
        Self {
            source,
            sink,
            workers,
            counters,
            key,
            block_bytes,
            found: Arc::default(),
        }
    }

    /// Moves all files.
    ///
    /// # Errors
    /// The first thing that does not work; ranges in flight are given up.
    pub async fn run(
        &self,
        files: impl Iterator<Item = FileWork> + Send,
    ) -> Result<Found, TransferError> {
        let in_flight = (self.workers.threads() * RANGES_PER_WORKER).max(RANGES_MIN);
        stream::iter(tasks(files).map(|task| self.perform(task)))
            .buffer_unordered(in_flight)
            .try_for_each(|()| async { Ok(()) })
            .await?;
        let mut found = self.found.lock().map_err(|_| WorkerFailed)?;
        Ok(std::mem::take(&mut *found))
    }

    async fn perform(&self, task: Task) -> Result<(), TransferError> {
        if task.way == Way::Whole {
            for work in task.files {
                self.bring_whole(work).await?;
            }
            return Ok(());
        }
        let task = Arc::new(task);
        if task.files.iter().any(|work| work.fit) && self.sink.target().is_some() {
            let (this, task) = (self.clone(), Arc::clone(&task));
            self.workers.run(move || this.fit(&task)).await??;
        }
        if task.spans.is_empty() {
            return Ok(());
        }
        if task.way == Way::Fetch {
            let bytes = task
                .spans
                .iter()
                .map(|(_, span)| u64::from(span.bytes))
                .sum();
            self.bring(&task, &task.spans, Vec::new()).await?;
            Counters::add(&self.counters.fetched_bytes, bytes);
            return Ok(());
        }
        self.compare(&task).await
    }

    /// Gives files their length: makes those that are new, cuts those that are too long. On a worker.
    fn fit(&self, task: &Task) -> Result<(), TransferError> {
        if let Some(target) = self.sink.target() {
            for work in task.files.iter().filter(|work| work.fit) {
                target.fit(&work.path, work.bytes)?;
            }
        }
        Ok(())
    }

    /// Compares the extents of a task and brings what differs.
    async fn compare(&self, task: &Arc<Task>) -> Result<(), TransferError> {
        let spans: Vec<Span> = task.spans.iter().map(|(_, span)| *span).collect();
        let request = Request::Digests {
            spans: spans.clone(),
        };
        let ours = self.workers.run({
            let (this, task) = (self.clone(), Arc::clone(task));
            move || this.own_digests(&task, &task.spans, EXTENT_BYTES)
        });
        // Both sides read and hash the same range at the same time.
        let (theirs, ours) =
            futures_util::future::join(self.source.ask(&request, Vec::new()), ours).await;
        let (Answer::Digests { gone }, theirs) = theirs? else {
            return Err(TransferError::Unfitting);
        };
        let ours = ours??;
        if ours.len() != theirs.len() {
            return Err(TransferError::Unfitting);
        }
        let bytes = spans.iter().map(|span| u64::from(span.bytes)).sum();
        Counters::add(&self.counters.compared_bytes, bytes);
        let gone = self.note_gone(&spans, &gone)?;
        let differing = differing_extents(&task.spans, &ours, &theirs)
            .into_iter()
            .filter(|(_, span)| !gone.contains(&span.entry))
            .collect::<Vec<_>>();
        for batch in differing.chunks(SPANS_MAX) {
            let digests = self
                .workers
                .run({
                    let (this, task) = (self.clone(), Arc::clone(task));
                    let (batch, unit) = (batch.to_vec(), self.block_bytes);
                    move || this.own_digests(&task, &batch, unit)
                })
                .await??;
            self.bring(task, batch, digests).await?;
        }
        Ok(())
    }

    /// Asks for the blocks of spans that differ from `digests` (or from zero) and writes them.
    async fn bring(
        &self,
        task: &Arc<Task>,
        spans: &[(usize, Span)],
        digests: Vec<u8>,
    ) -> Result<(), TransferError> {
        let is_new = digests.is_empty();
        let asked: Vec<Span> = spans.iter().map(|(_, span)| *span).collect();
        let request = Request::Blocks {
            spans: asked.clone(),
        };
        let (answer, body) = self.source.ask(&request, digests).await?;
        let Answer::Blocks {
            gone,
            present,
            packed,
            damaged,
        } = answer
        else {
            return Err(TransferError::Unfitting);
        };
        let blocks: usize = asked
            .iter()
            .map(|span| piece_count(span.bytes, self.block_bytes))
            .sum();
        if present.capacity() > blocks.next_multiple_of(8) {
            return Err(TransferError::Unfitting);
        }
        self.note_gone(&asked, &gone)?;
        if !damaged.is_empty() {
            let mut found = self.found.lock().map_err(|_| WorkerFailed)?;
            found.damaged.extend(damaged);
        }
        let counters = &self.counters;
        let moved = present.len() as u64;
        Counters::add(&counters.moved_blocks, moved);
        if !is_new {
            Counters::add(&counters.differing_blocks, moved);
        }
        let (this, task, spans) = (self.clone(), Arc::clone(task), spans.to_vec());
        self.workers
            .run(move || this.write(&task, &spans, &present, &packed, body))
            .await?
    }

    /// Unpacks, proves and writes the blocks of an answer. On a worker.
    fn write(
        &self,
        task: &Task,
        spans: &[(usize, Span)],
        present: &crate::geometry::BitSet,
        packed: &crate::wire::message::Packed,
        body: Vec<u8>,
    ) -> Result<(), TransferError> {
        let lengths = spans.iter().map(|(_, span)| span.bytes);
        let places: Vec<_> = placed(lengths, self.block_bytes, present).collect();
        let moved: u64 = places.iter().map(|(_, _, bytes)| u64::from(*bytes)).sum();
        let counters = &self.counters;
        Counters::add(&counters.moved_bytes, moved);
        let Some(target) = self.sink.target() else {
            return Ok(());
        };
        let bytes = payload::unpack(packed, body, &self.key, RANGE_BYTES as usize)?;
        let pieces = parts(&bytes, places.iter().map(|(_, _, bytes)| *bytes))
            .ok_or(TransferError::Unfitting)?;
        let mut pieces = places.into_iter().zip(pieces).peekable();
        for (index, (file, span)) in spans.iter().enumerate() {
            let work = &task.files[*file];
            let here = |piece: &((usize, u32, u32), _)| piece.0.0 == index;
            if pieces.peek().is_none_or(|piece| !here(piece)) {
                continue;
            }
            let file = target.fit(&work.path, work.bytes)?;
            while let Some(((_, offset, _), piece)) = pieces.next_if(|piece| here(piece)) {
                target.write_at(&file, &work.path, span.offset + u64::from(offset), piece)?;
            }
        }
        Counters::add(&counters.written_bytes, moved);
        Ok(())
    }

    /// Makes a file equal to what the source's is now, by a rolling delta.
    async fn bring_whole(&self, work: FileWork) -> Result<(), TransferError> {
        let (old, have, signature) = self
            .workers
            .run({
                let (this, work) = (self.clone(), work.clone());
                move || {
                    let old = match work.common {
                        0 => Vec::new(),
                        length => this.own_bytes(&work.path, length)?,
                    };
                    let (have, signature) = (this.key.digest(&old), rolling::signature(&old));
                    Ok::<_, TransferError>((old, have, signature))
                }
            })
            .await??;
        let counters = &self.counters;
        Counters::add(&counters.compared_bytes, work.common);
        let request = Request::Delta {
            entry: work.entry,
            have,
        };
        let (answer, body) = self.source.ask(&request, signature).await?;
        let Answer::Delta {
            gone,
            bytes,
            digest,
            delta_bytes,
            packed,
        } = answer
        else {
            return Err(TransferError::Unfitting);
        };
        if gone {
            let mut found = self.found.lock().map_err(|_| WorkerFailed)?;
            found.gone.insert(work.entry);
            return Ok(());
        }
        Counters::add(&counters.moved_bytes, u64::from(delta_bytes));
        if work.common == 0 {
            Counters::add(&counters.fetched_bytes, u64::from(bytes));
        }
        let this = self.clone();
        self.workers
            .run(move || {
                let Some(target) = this.sink.target() else {
                    return Ok(());
                };
                if digest == have {
                    if work.fit {
                        target.fit(&work.path, u64::from(bytes))?;
                    }
                    return Ok(());
                }
                // A delta of unrelated content is a little longer than the content.
                let limit = WHOLE_MAX_BYTES + WHOLE_MAX_BYTES / 8 + 1024;
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let delta = payload::unpack(&packed, body, &this.key, limit)?;
                let new = rolling::apply(&old, delta.bytes(), WHOLE_MAX_BYTES)
                    .map_err(|_| TransferError::Unfitting)?;
                // The proof: fast_rsync's own hashes only propose.
                let new = Verified::check(&this.key, new, digest)?;
                target.write_whole(&work.path, &new)?;
                Counters::add(&this.counters.written_bytes, new.bytes().len() as u64);
                Ok(())
            })
            .await?
    }

    /// Digests of the target's own content. What it lacks counts as zeros, as on the source. On a worker.
    fn own_digests(
        &self,
        task: &Task,
        spans: &[(usize, Span)],
        unit: u32,
    ) -> Result<Vec<u8>, TransferError> {
        let roots = self.sink.roots();
        let mut digests = Vec::new();
        let mut buffer = vec![0; 4 * EXTENT_BYTES as usize];
        let mut opened: Option<(usize, std::fs::File)> = None;
        for (file, span) in spans {
            let path = &task.files[*file].path;
            let handle = match &opened {
                Some((last, handle)) if last == file => handle,
                _ => &opened.insert((*file, roots.open_regular(path)?)).1,
            };
            // A multiple of the extents and of the blocks, small enough for the processor's cache.
            for (offset, bytes) in span.pieces(4 * EXTENT_BYTES) {
                let buffer = &mut buffer[..bytes as usize];
                let at = span.offset + u64::from(offset);
                read_padded(handle, &roots.display(path), at, buffer)?;
                digest_pieces(&self.key, buffer, unit, &mut digests);
            }
        }
        Ok(digests)
    }

    fn own_bytes(&self, path: &RelPath, length: u64) -> Result<Vec<u8>, TransferError> {
        let roots = self.sink.roots();
        let file = roots.open_regular(path)?;
        Ok(read_most(&file, &roots.display(path), length)?)
    }

    /// Remembers files that vanished on the source, and returns those of this answer.
    fn note_gone(&self, spans: &[Span], gone: &[u16]) -> Result<BTreeSet<EntryId>, TransferError> {
        if gone.is_empty() {
            return Ok(BTreeSet::new());
        }
        let entries = gone
            .iter()
            .map(|index| spans.get(usize::from(*index)).map(|span| span.entry))
            .collect::<Option<BTreeSet<_>>>()
            .ok_or(TransferError::Unfitting)?;
        let mut found = self.found.lock().map_err(|_| WorkerFailed)?;
        found.gone.extend(&entries);
        Ok(entries)
    }
}

/// Reads one small file of the source into memory.
///
/// # Errors
/// It is longer than a range, vanished, or cannot be read.
pub async fn fetch_small(
    source: &Source,
    key: &SessionKey,
    entry: EntryId,
    bytes: u64,
    block_bytes: u32,
) -> Result<Vec<u8>, TransferError> {
    let length = u32::try_from(bytes).map_err(|_| TransferError::Unfitting)?;
    if length == 0 {
        return Ok(Vec::new());
    }
    let span = Span {
        entry,
        offset: 0,
        bytes: length,
    };
    let request = Request::Blocks { spans: vec![span] };
    let (answer, body) = source.ask(&request, Vec::new()).await?;
    let Answer::Blocks {
        gone,
        present,
        packed,
        ..
    } = answer
    else {
        return Err(TransferError::Unfitting);
    };
    if !gone.is_empty() {
        return Err(TransferError::Unfitting);
    }
    let unpacked = payload::unpack(&packed, body, key, RANGE_BYTES as usize)?;
    let mut content = vec![0; length as usize];
    let mut rest = unpacked.bytes();
    for (_, offset, bytes) in placed(std::iter::once(length), block_bytes, &present) {
        let (piece, behind) = rest
            .split_at_checked(bytes as usize)
            .ok_or(TransferError::Unfitting)?;
        content[offset as usize..][..piece.len()].copy_from_slice(piece);
        rest = behind;
    }
    Ok(content)
}

/// The extents of the spans whose digests differ, neighbours joined.
fn differing_extents(spans: &[(usize, Span)], ours: &[u8], theirs: &[u8]) -> Vec<(usize, Span)> {
    let mut positions = differing(ours, theirs).peekable();
    let mut first = 0;
    let mut found: Vec<(usize, Span)> = Vec::new();
    for (file, span) in spans {
        let count = piece_count(span.bytes, EXTENT_BYTES);
        while let Some(position) = positions.next_if(|position| *position < first + count) {
            let at =
                u32::try_from(position - first).expect("a span has few extents") * EXTENT_BYTES;
            let bytes = EXTENT_BYTES.min(span.bytes - at);
            let offset = span.offset + u64::from(at);
            match found.last_mut() {
                Some((_, last))
                    if last.entry == span.entry
                        && last.offset + u64::from(last.bytes) == offset
                        && offset > span.offset =>
                {
                    last.bytes += bytes;
                }
                _ => found.push((
                    *file,
                    Span {
                        entry: span.entry,
                        offset,
                        bytes,
                    },
                )),
            }
        }
        first += count;
    }
    found
}
