//! Blocks and patches that arrived: unpacked, proven, written.

use std::collections::BTreeSet;

use crate::buffer::Buffer;
use crate::client::transfer::error::TransferError;
use crate::client::transfer::near::Near;
use crate::client::transfer::reply::Reply;
use crate::client::transfer::task::Way;
use crate::compare::blocks::Placed;
use crate::compare::noise;
use crate::digest::{SessionKey, Verified};
use crate::disk::DiskError;
use crate::disk::target::ClosedTarget;
use crate::disk::writing::{Writing, parts};
use crate::geometry::{EntryId, Span};
use crate::wire::message::Packed;

/// An answer's blocks, and where they go.
pub struct Landing {
    pub reply: Reply,
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
        let reply = &self.reply;
        let bytes = Reply::unpack(key, packed, body)?;
        let [blocks, patches] = reply.split(&bytes)?;
        let lengths = reply.runs.iter().map(|run| run.bytes);
        let parts = parts(&blocks, lengths).ok_or(TransferError::Unfitting)?;
        let mut pieces = reply.runs.iter().zip(parts).peekable();
        let mut places = reply.patched.iter().peekable();
        let mut patches = patches.bytes();
        let mut unlike = Vec::new();
        for (index, work) in reply.task.files.iter().enumerate() {
            let is_here = |run: &Placed| reply.spans[run.span].0 == index;
            let must_fit =
                reply.task.way == Way::Fetch && work.fit && !self.gone.contains(&work.entry);
            let has_piece = pieces.peek().is_some_and(|(run, _)| is_here(run));
            let has_patch = places.peek().is_some_and(|run| is_here(run));
            if !(must_fit || has_piece || has_patch) {
                continue;
            }
            let file = target.fit(&work.path, work.bytes)?;
            let mut own = Vec::new();
            while let Some((run, piece)) = pieces.next_if(|(run, _)| is_here(run)) {
                own.push((reply.offset(run), piece));
            }
            let writing = target.writing(&file, &work.path, work.bytes);
            writing.write(&own)?;
            let mut near = Near::default();
            while let Some(run) = places.next_if(|run| is_here(run)) {
                let pages = near
                    .take(&file, reply.offset(run), run, places.clone())
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
        let block_bytes = self.reply.block_bytes as usize;
        let offsets = (self.reply.offset(run)..).step_by(block_bytes);
        for (offset, page) in offsets.zip(pages.chunks_mut(block_bytes)) {
            let digest = noise::apply_next(patches, page)?;
            match Verified::check(key, &*page, digest) {
                Ok(page) => made.push((offset, page)),
                Err(_) => unlike.push(self.reply.alone(run, offset)),
            }
        }
        let parts = made.iter().map(|(offset, page)| (*offset, page.into()));
        writing.write(&parts.collect::<Vec<_>>())?;
        Ok(())
    }
}
