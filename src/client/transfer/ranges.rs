//! Compare and move: the ranges of all files, many in flight, into a sink that writes or only counts.
//!
//! A range goes through up to three steps: a digest of it on both sides, and those of its extents where that
//! differs; digests of the blocks of those extents that differ; the blocks that differ, proven and written. Where
//! most extents differ, the first step is left out, and what the target has stays in memory for the last one. Blocks
//! that differ in noise only are patched (`compare::noise`). Files that the target lacks go straight to the last step.
//! Every step waits for the link or for a worker, and none for another range, but that a range begins only when few
//! others are being compared: it is to see how dense their differences were.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::client::source::Source;
use crate::client::transfer::error::TransferError;
use crate::client::transfer::land::{Landed, Landing};
use crate::client::transfer::lately::{Density, Noise};
use crate::client::transfer::own::{Own, Reading, read_own};
use crate::client::transfer::reply::Reply;
use crate::client::transfer::sink::Sink;
use crate::client::transfer::task::{FileWork, Task, Way, tasks};
use crate::compare::blocks::{Placed, differing, piece_count, placed};
use crate::digest::{DIGEST_BYTES, SessionKey};
use crate::event::Counters;
use crate::geometry::{BitSet, EXTENT_BYTES, EntryId, SPANS_MAX, Span, total_bytes};
use crate::wire::message::{Answer, DamagedBlock, Request};
use crate::workers::{WorkerFailed, Workers};

/// Ranges in flight: so many that a link with a delay of 50 ms stays busy however little of them differs. One
/// that waits for digests holds a few KiB only.
const RANGES: usize = 64;

/// Bytes of blocks that may be asked for and not yet written: bounds the memory, and is more than a link with
/// 50 ms and 5 Gbit/s has on its way.
const ASKED_MAX: u32 = 48 * 1024 * 1024;

/// Most damaged pages that are remembered.
const DAMAGED_MAX: usize = 10_000;

/// Most bytes that files which are read as a whole may have grown by since the manifest.
const GROWN_MAX: u64 = 1024 * 1024 * 1024;

/// What a permit stands for.
const PERMIT_BYTES: u32 = 64 * 1024;

/// All that a range needs to be moved.
#[derive(Clone)]
pub struct Transfer {
    pub source: Source,
    pub sink: Sink,
    pub workers: Workers,
    pub counters: Arc<Counters>,
    pub key: SessionKey,
    block_bytes: u32,
    room: Arc<Semaphore>,
    /// Ranges that may be compared at a time: the others wait to see how dense the differences are.
    comparing: Arc<Semaphore>,
    density: Arc<Density>,
    /// Absent where no block shall be patched.
    noise: Option<Arc<Noise>>,
    pub found: Arc<Mutex<Found>>,
}

/// What turned up on the way.
#[derive(Debug, Default)]
pub struct Found {
    /// Files that vanished on the source since the manifest: they go.
    pub gone: BTreeSet<EntryId>,
    /// Pages of the source that fail their checksum, the first [`DAMAGED_MAX`] of them.
    pub damaged: Vec<DamagedBlock>,
    /// How many more there were.
    pub damaged_more: u64,
    /// Bytes that files have grown by since the manifest, beside those that are made of blocks.
    pub grown_bytes: u64,
}

impl Found {
    fn note_damaged(&mut self, damaged: Vec<DamagedBlock>) {
        let room = DAMAGED_MAX.saturating_sub(self.damaged.len());
        self.damaged_more += damaged.len().saturating_sub(room) as u64;
        self.damaged.extend(damaged.into_iter().take(room));
    }

    /// Notes that a file came with so many bytes where the manifest had said less.
    ///
    /// # Errors
    /// All together are more than small files grow by; the check of the room knows nothing of them.
    pub fn note_grown(&mut self, bytes: u64, said: u64) -> Result<(), TransferError> {
        self.grown_bytes = self.grown_bytes.saturating_add(bytes.saturating_sub(said));
        if self.grown_bytes > GROWN_MAX {
            return Err(TransferError::Unfitting);
        }
        Ok(())
    }
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
            comparing: Arc::new(Semaphore::new(workers.places())),
            workers,
            counters,
            key,
            block_bytes,
            room: Arc::new(Semaphore::new((ASKED_MAX / PERMIT_BYTES) as usize)),
            density: Arc::default(),
            noise: None,
            found: Arc::default(),
        }
    }

    /// Has all blocks that differ moved, whatever differs in them, unless those are to be patched that can be.
    #[must_use]
    pub fn patching(mut self, is_wanted: bool) -> Self {
        self.noise = is_wanted.then(Arc::default);
        self
    }

    /// Moves all files.
    ///
    /// # Errors
    /// The first thing that does not work; ranges in flight are given up.
    pub async fn run(
        &self,
        files: impl Iterator<Item = FileWork> + Send,
    ) -> Result<Found, TransferError> {
        self.run_tasks(tasks(files)).await
    }

    /// Does tasks, as [`Transfer::run`] does those of whole files.
    ///
    /// # Errors
    /// As [`Transfer::run`].
    pub async fn run_tasks(
        &self,
        tasks: impl Iterator<Item = Task> + Send,
    ) -> Result<Found, TransferError> {
        stream::iter(tasks.map(|task| self.perform(task)))
            .buffer_unordered(RANGES)
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
        let must_fit = task.files.iter().any(|work| work.fit) && self.sink.target().is_some();
        if must_fit && (task.way == Way::Compare || task.spans.is_empty()) {
            let (this, task) = (self.clone(), Arc::clone(&task));
            self.workers.run(move || this.fit(&task)).await??;
        }
        if task.spans.is_empty() {
            return Ok(());
        }
        if task.way == Way::Fetch {
            let room = self.room(task.bytes()).await;
            self.bring(&task, &task.spans, Own::default(), room).await?;
            Counters::add(&self.counters.fetched_bytes, task.bytes());
            return Ok(());
        }
        // The semaphore is never closed.
        let turn = self.comparing.acquire().await.ok();
        if task.way == Way::Blocks || self.density.is_high() {
            self.compare_blocks(&task, turn).await
        } else {
            self.compare(&task, turn).await
        }
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
    async fn compare(
        &self,
        task: &Arc<Task>,
        turn: Option<SemaphorePermit<'_>>,
    ) -> Result<(), TransferError> {
        let extents = Reading {
            unit: EXTENT_BYTES,
            with_forms: false,
            is_held: false,
        };
        let ours = self.own(task, &task.spans, extents).await?.digests;
        let spans: Vec<Span> = task.spans.iter().map(|(_, span)| *span).collect();
        let request = Request::Digests {
            spans: spans.clone(),
            have: self.key.digest(&ours),
        };
        let (Answer::Digests { gone }, theirs) = self.source.ask(&request, Vec::new()).await?
        else {
            return Err(TransferError::Unfitting);
        };
        Counters::add(&self.counters.compared_bytes, task.bytes());
        let gone = self.note_gone(&spans, &gone)?;
        let extents = ours.len() / DIGEST_BYTES;
        if theirs.is_empty() && gone.is_empty() {
            self.density.note(extents, 0);
            return Ok(());
        }
        if ours.len() != theirs.len() {
            return Err(TransferError::Unfitting);
        }
        self.density
            .note(extents, differing(&ours, &theirs).count());
        drop(turn);
        let differing = differing_extents(&task.spans, &ours, &theirs)
            .into_iter()
            .filter(|(_, span)| !gone.contains(&span.entry))
            .collect::<Vec<_>>();
        for batch in differing.chunks(SPANS_MAX) {
            let own = self.own(task, batch, self.by_blocks(false)).await?;
            let room = self.room(bytes_of(batch)).await;
            self.bring(task, batch, own, room).await?;
        }
        Ok(())
    }

    /// Compares the blocks of a task at once and brings what differs.
    async fn compare_blocks(
        &self,
        task: &Arc<Task>,
        turn: Option<SemaphorePermit<'_>>,
    ) -> Result<(), TransferError> {
        // Room for what is held and for what comes, taken at once: who had one and waited for the other would have others
        // wait for it.
        let is_held = self.sink.target().is_some();
        let room = self.room(task.bytes() * if is_held { 2 } else { 1 }).await;
        let own = self.own(task, &task.spans, self.by_blocks(is_held)).await?;
        drop(turn);
        let runs = self.bring(task, &task.spans, own, room).await?;
        Counters::add(&self.counters.compared_bytes, task.bytes());
        let extents = task
            .spans
            .iter()
            .map(|(_, span)| piece_count(span.bytes, EXTENT_BYTES));
        self.density.note(extents.sum(), extents_of(&runs));
        Ok(())
    }

    /// Asks for the blocks of spans that differ from what the target has (zeros, when nothing is said of that) and
    /// writes them. Returns where they are. `room` is what they take.
    async fn bring(
        &self,
        task: &Arc<Task>,
        spans: &[(usize, Span)],
        own: Own,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<Vec<Placed>, TransferError> {
        let is_new = own.digests.is_empty();
        let (differing, unlike) = self.bring_once(task, spans, own).await?;
        drop(room);
        if !is_new {
            let blocks = differing
                .iter()
                .map(|run| piece_count(run.bytes, self.block_bytes) as u64);
            Counters::add(&self.counters.differing_blocks, blocks.sum());
        }
        for batch in unlike.chunks(SPANS_MAX) {
            let _room = self.room(bytes_of(batch)).await;
            self.bring_once(task, batch, Own::nothing_like(batch.len()))
                .await?;
        }
        Ok(differing)
    }

    /// As [`bring`](Self::bring). Returns with them blocks, each a span, of which a patch was not enough.
    async fn bring_once(
        &self,
        task: &Arc<Task>,
        spans: &[(usize, Span)],
        own: Own,
    ) -> Result<(Vec<Placed>, Vec<(usize, Span)>), TransferError> {
        let asked: Vec<Span> = spans.iter().map(|(_, span)| *span).collect();
        let Own {
            mut digests,
            noisy,
            forms,
            held,
        } = own;
        digests.extend_from_slice(&forms);
        let request = Request::Blocks {
            spans: asked.clone(),
            noisy: noisy.clone(),
            hungry: self.workers.is_idle(),
        };
        let (answer, body) = self.source.ask(&request, digests).await?;
        let Answer::Blocks {
            gone,
            present,
            patched,
            patch_bytes,
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
        let is_asked = |page: &DamagedBlock| asked.iter().any(|span| span.entry == page.entry);
        let differing = present.union(&patched);
        if differing.capacity() > blocks.next_multiple_of(8)
            || !present.is_apart_from(&patched)
            || patched.union(&noisy).len() > noisy.len()
            || damaged.len() > differing.len()
            || !damaged.iter().all(is_asked)
        {
            return Err(TransferError::Unfitting);
        }
        let gone = self.note_gone(&asked, &gone)?;
        if !damaged.is_empty() {
            let mut found = self.found.lock().map_err(|_| WorkerFailed)?;
            found.note_damaged(damaged);
        }
        if let Some(noise) = self.noise.as_ref().filter(|_| !noisy.is_empty()) {
            noise.note(differing.len(), patched.len());
        }
        let placed = |blocks: &BitSet| {
            let lengths = asked.iter().map(|span| span.bytes);
            placed(lengths, self.block_bytes, blocks)
        };
        let reply = Reply {
            task: Arc::clone(task),
            spans: spans.to_vec(),
            runs: placed(&present),
            patched: placed(&patched),
            patch_bytes,
            block_bytes: self.block_bytes,
        };
        let counters = &self.counters;
        Counters::add(&counters.moved_blocks, present.len() as u64);
        Counters::add(&counters.patched_blocks, patched.len() as u64);
        let moved: u64 = reply.runs.iter().map(|run| u64::from(run.bytes)).sum();
        Counters::add(&counters.moved_bytes, moved + u64::from(patch_bytes));
        let key = self.key;
        let unlike = match &self.sink {
            Sink::Survey(_) => Vec::new(),
            Sink::Judge(jury) => {
                let jury = Arc::clone(jury);
                let heard = move || jury.hear(&reply, &key, &packed, body);
                self.workers.run(heard).await??
            }
            Sink::Target(target) => {
                let (landing, target) = (Landing { reply, gone, held }, Arc::clone(target));
                let land = move || landing.land(&target, &key, &packed, body);
                let Landed { unlike, written } = self.workers.run(land).await??;
                Counters::add(&counters.written_bytes, written);
                unlike
            }
        };
        let left = unlike.len() as u64;
        counters.patched_blocks.fetch_sub(left, Ordering::Relaxed);
        Ok((placed(&differing), unlike))
    }

    /// Waits until so many bytes may be asked for.
    pub async fn room(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).map_or(ASKED_MAX, |bytes| bytes.min(ASKED_MAX));
        let permits = bytes.div_ceil(PERMIT_BYTES).max(1);
        // The semaphore is never closed.
        Arc::clone(&self.room)
            .acquire_many_owned(permits)
            .await
            .ok()
    }

    /// How spans are read block by block.
    fn by_blocks(&self, is_held: bool) -> Reading {
        let noise = self.noise.as_ref();
        Reading {
            unit: self.block_bytes,
            with_forms: noise.is_some_and(|noise| noise.is_worth_asking()),
            is_held,
        }
    }

    /// What the target has of spans. What it lacks counts as zeros, as on the source.
    async fn own(
        &self,
        task: &Arc<Task>,
        spans: &[(usize, Span)],
        reading: Reading,
    ) -> Result<Own, TransferError> {
        let (sink, key) = (self.sink.clone(), self.key);
        let (task, spans) = (Arc::clone(task), spans.to_vec());
        self.workers
            .run(move || read_own(&sink, &key, &task, &spans, reading))
            .await?
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

fn bytes_of(spans: &[(usize, Span)]) -> u64 {
    total_bytes(spans.iter().map(|(_, span)| span))
}

/// How many extents have a block in the runs, which are in order.
fn extents_of(runs: &[Placed]) -> usize {
    let mut extents = 0;
    let mut last = None;
    for run in runs {
        let (first, end) = (
            run.offset / EXTENT_BYTES,
            (run.offset + run.bytes).div_ceil(EXTENT_BYTES),
        );
        extents += (end - first) as usize;
        if last == Some((run.span, first)) {
            extents -= 1;
        }
        last = Some((run.span, end - 1));
    }
    extents
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_counted_once() {
        let run = |span, offset, bytes| Placed {
            span,
            offset,
            bytes,
        };
        let unit = EXTENT_BYTES;
        assert_eq!(extents_of(&[]), 0);
        let runs = [
            run(0, 0, 8192),
            run(0, 16384, 8192),
            run(0, unit - 8192, 2 * unit),
            run(1, 2 * unit, unit),
        ];
        assert_eq!(extents_of(&runs), 4);
    }

    #[test]
    fn what_a_peer_tells_of_is_bounded() {
        let mut found = Found::default();
        let page = DamagedBlock {
            entry: EntryId(0),
            block: 0,
            expected_checksum: 1,
            actual_checksum: 2,
        };
        for _ in 0..3 {
            found.note_damaged(vec![page; DAMAGED_MAX / 2 + 1]);
        }
        assert_eq!(found.damaged.len(), DAMAGED_MAX);
        assert_eq!(found.damaged_more, DAMAGED_MAX as u64 / 2 + 3);
        assert!(found.note_grown(5, 100).is_ok());
        assert_eq!(found.grown_bytes, 0);
        assert!(found.note_grown(GROWN_MAX + 7, 7).is_ok());
        assert!(found.note_grown(1, 0).is_err());
    }
}
