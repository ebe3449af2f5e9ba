//! The files' work, cut into what one request covers.

use std::sync::Arc;

use crate::client::transfer::places::runs;
use crate::geometry::{BitSet, EntryId, RANGE_BYTES, SPANS_MAX, Span, ranges, total_bytes};
use crate::manifest::Manifest;
use crate::path::RelPath;

/// What is to be done for one file.
#[derive(Debug, Clone)]
pub struct FileWork {
    pub entry: EntryId,
    pub path: RelPath,
    /// Length that the target's file gets; a file that is read as a whole may get another.
    pub bytes: u64,
    /// Bytes from the start that are compared; 0 when the target has no such file.
    pub common: u64,
    /// Whether its length must change, or it must be made.
    pub fit: bool,
    /// It is read as a whole rather than by blocks.
    pub whole: bool,
}

/// The work for all files, in the manifest's order: as little of each as must be remembered.
#[derive(Debug, Default)]
pub struct Files {
    manifest: Arc<Manifest>,
    planned: Vec<Planned>,
}

/// What the manifest does not say about a [`FileWork`].
#[derive(Debug, Clone, Copy)]
pub struct Planned {
    pub entry: EntryId,
    pub common: u64,
    pub fit: bool,
    pub whole: bool,
}

impl Files {
    /// No work yet for files of a manifest.
    pub fn of(manifest: Arc<Manifest>) -> Self {
        // Most files of most manifests are compared; what is not used costs addresses, not memory.
        let planned = Vec::with_capacity(manifest.len() as usize);
        Self { manifest, planned }
    }

    /// Adds a file behind all others.
    pub fn push(&mut self, planned: Planned) {
        self.planned.push(planned);
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.planned.len()
    }

    /// All files, each made as it is taken.
    pub fn iter(&self) -> impl Iterator<Item = FileWork> {
        self.planned.iter().filter_map(|planned| {
            let item = self.manifest.get(planned.entry)?;
            Some(FileWork {
                entry: planned.entry,
                path: item.path(),
                bytes: item.size,
                common: planned.common,
                fit: planned.fit,
                whole: planned.whole,
            })
        })
    }

    /// The path of an entry, if there is work for it.
    pub fn path(&self, entry: EntryId) -> Option<RelPath> {
        self.planned
            .binary_search_by_key(&entry, |planned| planned.entry)
            .ok()?;
        Some(self.manifest.get(entry)?.path())
    }

    /// Whether the target had a file for an entry.
    pub fn had(&self, entry: EntryId) -> bool {
        let place = self
            .planned
            .binary_search_by_key(&entry, |planned| planned.entry);
        place.is_ok_and(|place| self.planned[place].common > 0)
    }

    /// Bytes that are compared.
    pub fn compare_bytes(&self) -> u64 {
        let bytes = self.planned.iter().map(|planned| planned.common);
        bytes.fold(0, u64::saturating_add)
    }

    /// Bytes that will be read from the source whatever the comparison says.
    pub fn fetch_bytes(&self) -> u64 {
        let bytes = self.planned.iter().map(|planned| {
            if planned.whole && planned.common > 0 {
                return 0;
            }
            let item = self.manifest.get(planned.entry);
            item.map_or(0, |item| item.size.saturating_sub(planned.common))
        });
        bytes.fold(0, u64::saturating_add)
    }
}

/// What is done with a task's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Compare,
    /// Compare, block by block at once.
    Blocks,
    Fetch,
    /// One file, as a whole.
    Whole,
}

/// What one request covers: spans of one or several files, either compared or fetched.
#[derive(Debug)]
pub struct Task {
    pub files: Vec<FileWork>,
    /// Each span with the index of its file.
    pub spans: Vec<(usize, Span)>,
    pub way: Way,
}

impl Task {
    /// Bytes of all spans.
    pub fn bytes(&self) -> u64 {
        total_bytes(self.spans.iter().map(|(_, span)| span))
    }
}

/// Cuts the files into tasks: a large file into ranges, many small ones into one task. Comparing and
/// fetching never share a task.
pub fn tasks(files: impl Iterator<Item = FileWork>) -> impl Iterator<Item = Task> {
    let mut files = files;
    let mut ready: Vec<Task> = Vec::new();
    let mut compare = Batch::new(Way::Compare);
    let mut fetch = Batch::new(Way::Fetch);
    let mut ended = false;
    std::iter::from_fn(move || {
        loop {
            if let Some(task) = ready.pop() {
                return Some(task);
            }
            if ended {
                return None;
            }
            match files.next() {
                Some(work) if work.whole => {
                    return Some(Task {
                        files: vec![work],
                        spans: Vec::new(),
                        way: Way::Whole,
                    });
                }
                Some(work) => {
                    let common = work.common.min(work.bytes);
                    for span in ranges(work.entry, 0, common) {
                        ready.extend(compare.add(&work, span));
                    }
                    for span in ranges(work.entry, common, work.bytes) {
                        ready.extend(fetch.add(&work, span));
                    }
                    if work.bytes == 0 && work.fit {
                        ready.extend(fetch.add_file(&work));
                    }
                }
                None => {
                    ended = true;
                    ready.extend(compare.take());
                    ready.extend(fetch.take());
                }
            }
        }
    })
}

/// Cuts chosen blocks of files into tasks. Each file comes with the blocks, of which those count that it has.
pub fn chosen<'a>(
    files: impl Iterator<Item = (FileWork, &'a BitSet)>,
    block_bytes: u32,
) -> impl Iterator<Item = Task> {
    let mut batch = Batch::new(Way::Blocks);
    let mut ready = Vec::new();
    for (work, blocks) in files {
        let unit = u64::from(block_bytes);
        let end = usize::try_from(work.bytes / unit).unwrap_or(usize::MAX);
        for (first, behind) in runs(blocks, end) {
            for span in ranges(work.entry, first as u64 * unit, behind as u64 * unit) {
                ready.extend(batch.add(&work, span));
            }
        }
    }
    ready.extend(batch.take());
    ready.into_iter()
}

/// A task that is being filled.
struct Batch {
    task: Task,
    bytes: u32,
}

impl Batch {
    fn new(way: Way) -> Self {
        Self {
            task: Task {
                files: Vec::new(),
                spans: Vec::new(),
                way,
            },
            bytes: 0,
        }
    }

    /// Adds a file without content; returns the task before it if that is full.
    fn add_file(&mut self, work: &FileWork) -> Option<Task> {
        let is_full = self.task.files.len() >= SPANS_MAX;
        let full = if is_full { self.take() } else { None };
        if self
            .task
            .files
            .last()
            .is_none_or(|last| last.entry != work.entry)
        {
            self.task.files.push(work.clone());
        }
        full
    }

    fn add(&mut self, work: &FileWork, span: Span) -> Option<Task> {
        let is_full = self.bytes + span.bytes > RANGE_BYTES || self.task.spans.len() >= SPANS_MAX;
        let full = if is_full { self.take() } else { None };
        let full = self.add_file(work).or(full);
        self.task.spans.push((self.task.files.len() - 1, span));
        self.bytes += span.bytes;
        full
    }

    fn take(&mut self) -> Option<Task> {
        let way = self.task.way;
        let batch = std::mem::replace(self, Batch::new(way));
        (!batch.task.files.is_empty()).then_some(batch.task)
    }
}
