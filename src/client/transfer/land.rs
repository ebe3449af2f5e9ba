//! Blocks and patches that arrived: unpacked, proven, written.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::client::transfer::error::TransferError;
use crate::client::transfer::task::{Task, Way};
use crate::compare::blocks::Placed;
use crate::compare::noise;
use crate::digest::{SessionKey, Verified};
use crate::disk::DiskError;
use crate::disk::read::{read_if_cached, read_padded};
use crate::disk::target::ClosedTarget;
use crate::disk::writing::{Writing, parts};
use crate::geometry::{EntryId, RANGE_BYTES, Span};
use crate::wire::message::Packed;
use crate::wire::payload;

/// An answer's blocks, and where they go.
pub struct Landing {
    pub task: Arc<Task>,
    /// Each span with the index of its file, in the order of the files.
    pub spans: Vec<(usize, Span)>,
    pub runs: Vec<Placed>,
    /// Where patches go, and how many bytes all of them have.
    pub patched: Vec<Placed>,
    pub patch_bytes: u32,
    pub block_bytes: u32,
    /// Files that vanished on the source: they are not made.
    pub gone: BTreeSet<EntryId>,
}

impl Landing {
    /// Unpacks, proves and writes. On a worker. Returns the blocks that their patches did not make what they must be.
    ///
    /// # Errors
    /// The answer does not fit or was damaged, or the target cannot be read or written.
    pub fn land(
        &self,
        target: &ClosedTarget,
        key: &SessionKey,
        packed: &Packed,
        body: Buffer,
    ) -> Result<Vec<(usize, Span)>, TransferError> {
        let bytes = payload::unpack(packed, body, key, RANGE_BYTES as usize)?;
        let [blocks, patches] = bytes
            .bytes()
            .len()
            .checked_sub(self.patch_bytes as usize)
            .and_then(|at| bytes.split_at(at))
            .ok_or(TransferError::Unfitting)?;
        let lengths = self.runs.iter().map(|run| run.bytes);
        let parts = parts(&blocks, lengths).ok_or(TransferError::Unfitting)?;
        let mut pieces = self.runs.iter().zip(parts).peekable();
        let mut places = self.patched.iter().peekable();
        let mut patches = patches.bytes();
        let mut unlike = Vec::new();
        for (index, work) in self.task.files.iter().enumerate() {
            let is_here = |run: &Placed| self.spans[run.span].0 == index;
            let must_fit =
                self.task.way == Way::Fetch && work.fit && !self.gone.contains(&work.entry);
            let has_piece = pieces.peek().is_some_and(|(run, _)| is_here(run));
            let has_patch = places.peek().is_some_and(|run| is_here(run));
            if !(must_fit || has_piece || has_patch) {
                continue;
            }
            let file = target.fit(&work.path, work.bytes)?;
            let mut own = Vec::new();
            while let Some((run, piece)) = pieces.next_if(|(run, _)| is_here(run)) {
                own.push((self.offset(run), piece));
            }
            let writing = target.writing(&file, &work.path, work.bytes);
            writing.write(&own)?;
            let mut near = Near::default();
            while let Some(run) = places.next_if(|run| is_here(run)) {
                let pages = near
                    .take(&file, self.offset(run), run, places.clone())
                    .map_err(|error| {
                        DiskError::new("read", &target.roots().display(&work.path), error)
                    })?;
                self.patch(run, pages, &mut patches, key, &writing, &mut unlike)?;
            }
        }
        if !patches.is_empty() {
            return Err(TransferError::Unfitting);
        }
        Ok(unlike)
    }

    /// Patches the target's own blocks of a run and writes those that became what the agent has.
    fn patch(
        &self,
        run: &Placed,
        pages: &mut [u8],
        patches: &mut &[u8],
        key: &SessionKey,
        writing: &Writing<'_>,
        unlike: &mut Vec<(usize, Span)>,
    ) -> Result<(), TransferError> {
        let mut made = Vec::new();
        for (offset, page) in (self.offset(run)..)
            .step_by(self.block_bytes as usize)
            .zip(pages.chunks_mut(self.block_bytes as usize))
        {
            let digest = noise::apply_next(patches, page)?;
            match Verified::check(key, &*page, digest) {
                Ok(page) => made.push((offset, page)),
                Err(_) => {
                    let (file, span) = self.spans[run.span];
                    let entry = span.entry;
                    let bytes = self.block_bytes;
                    unlike.push((
                        file,
                        Span {
                            entry,
                            offset,
                            bytes,
                        },
                    ));
                }
            }
        }
        let parts = made.iter().map(|(offset, page)| (*offset, page.into()));
        writing.write(&parts.collect::<Vec<_>>())?;
        Ok(())
    }

    /// Where a run begins in its file.
    fn offset(&self, run: &Placed) -> u64 {
        self.spans[run.span].1.offset + u64::from(run.offset)
    }
}

/// Most that is read at once for blocks which are near one another.
const NEAR_BYTES: u32 = 1024 * 1024;

/// So many runs of them, at least, are read with what lies between them: a disk is as fast with that as with each alone.
const NEAR_MIN: usize = 3;

/// A part of a file that was read for several runs of blocks.
#[derive(Default)]
struct Near {
    bytes: Buffer,
    offset: u64,
}

impl Near {
    /// The bytes of a run, which is at `offset` in the file. `next` are the runs behind it.
    fn take<'a>(
        &mut self,
        file: &File,
        offset: u64,
        run: &Placed,
        next: impl Iterator<Item = &'a Placed>,
    ) -> io::Result<&mut [u8]> {
        let length = run.bytes as usize;
        let is_read = |near: &Self| {
            let at = usize::try_from(offset.checked_sub(near.offset)?).ok()?;
            (at + length <= near.bytes.len()).then_some(at)
        };
        let at = match is_read(self) {
            Some(at) => at,
            None => {
                self.offset = offset;
                self.bytes = Buffer::with_length(length);
                if !read_if_cached(file, offset, &mut self.bytes) {
                    self.bytes = Buffer::for_disk(near_bytes(run, next) as usize);
                    read_padded(file, offset, &mut self.bytes)?;
                }
                0
            }
        };
        Ok(&mut self.bytes[at..at + length])
    }
}

/// How much is read for a run of blocks with those that follow.
fn near_bytes<'a>(run: &Placed, next: impl Iterator<Item = &'a Placed>) -> u32 {
    let ends = next
        .take_while(|next| next.span == run.span)
        .map(|next| next.offset + next.bytes - run.offset)
        .take_while(|bytes| *bytes <= NEAR_BYTES);
    let (count, last) = ends.fold((1, run.bytes), |(count, _), bytes| (count + 1, bytes));
    if count < NEAR_MIN { run.bytes } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_are_near_are_read_together_and_lone_ones_alone() {
        let run = |span, offset| Placed {
            span,
            offset,
            bytes: 8192,
        };
        let near = |runs: &[Placed]| near_bytes(&runs[0], runs[1..].iter());
        let mib = NEAR_BYTES;
        assert_eq!(near(&[run(0, 0)]), 8192);
        assert_eq!(near(&[run(0, 0), run(0, 16384)]), 8192);
        assert_eq!(near(&[run(0, 8192), run(0, 24576), run(0, 65536)]), 65536);
        // Of another span, and too far away.
        assert_eq!(near(&[run(0, 0), run(0, 16384), run(1, 24576)]), 8192);
        assert_eq!(near(&[run(0, 0), run(0, 16384), run(0, mib)]), 8192);
        assert_eq!(near(&[run(0, 0), run(0, 16384), run(0, mib - 8192)]), mib);
    }
}
