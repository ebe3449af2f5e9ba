//! Blocks and patches that arrived: unpacked, proven, written.

use std::collections::BTreeSet;
use std::fs::File;

use crate::buffer::Buffer;
use crate::client::transfer::error::TransferError;
use crate::client::transfer::near::Near;
use crate::client::transfer::reply::Reply;
use crate::client::transfer::task::Way;
use crate::compare::blocks::Placed;
use crate::compare::noise;
use crate::digest::{SessionKey, Verified};
use crate::disk::target::ClosedTarget;
use crate::disk::writing::{Held, VerifiedPart, Writing, parts};
use crate::geometry::{self, EntryId, Span};
use crate::wire::message::Packed;

/// An answer's blocks, and where they go.
pub struct Landing {
    pub reply: Reply,
    /// Files that vanished on the source: they are not made.
    pub gone: BTreeSet<EntryId>,
    /// What the target has of all spans, where that was kept.
    pub held: Option<Held>,
}

/// What became of an answer.
#[derive(Default)]
pub struct Landed {
    /// Blocks that their patches did not make what they must be.
    pub unlike: Vec<(usize, Span)>,
    /// Bytes that were written.
    pub written: u64,
}

impl Landing {
    /// Unpacks, proves and writes. On a worker.
    ///
    /// # Errors
    /// The answer does not fit or was damaged, or the target cannot be read or written.
    pub fn land(
        self,
        target: &ClosedTarget,
        key: &SessionKey,
        packed: &Packed,
        body: Buffer,
    ) -> Result<Landed, TransferError> {
        let reply = &self.reply;
        let bytes = Reply::unpack(key, packed, body)?;
        let [blocks, patches] = reply.split(&bytes)?;
        let lengths = reply.runs.iter().map(|run| run.bytes);
        let parts = parts(&blocks, lengths).ok_or(TransferError::Unfitting)?;
        let mut pieces = reply.runs.iter().zip(parts).peekable();
        let mut places = reply.patched.iter().peekable();
        let mut hand = Hand {
            reply,
            key,
            held: self.held.map(|held| (held, reply.starts())),
            patches: patches.bytes(),
            landed: Landed::default(),
        };
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
            let pieces: Vec<_> =
                std::iter::from_fn(|| pieces.next_if(|(run, _)| is_here(run))).collect();
            let places: Vec<_> =
                std::iter::from_fn(|| places.next_if(|run| is_here(run))).collect();
            let writing = target.writing(&file, &work.path, work.bytes);
            if hand.held.is_some() {
                hand.complete(&writing, &pieces, &places)?;
            } else {
                let own = pieces
                    .iter()
                    .map(|(run, piece)| (reply.offset(run), *piece));
                hand.landed.written += writing.write(&own.collect::<Vec<_>>())?;
                hand.patch_all(&writing, &file, &places)?;
            }
        }
        if !hand.patches.is_empty() {
            return Err(TransferError::Unfitting);
        }
        Ok(hand.landed)
    }
}

/// What is at hand while an answer is written, file by file.
struct Hand<'a> {
    reply: &'a Reply,
    key: &'a SessionKey,
    /// What the target has of the spans, and where each begins in it.
    held: Option<(Held, Vec<usize>)>,
    /// Those that were not used yet.
    patches: &'a [u8],
    landed: Landed,
}

impl Hand<'_> {
    /// Makes held bytes of a file what they must be, and writes those that changed.
    fn complete(
        &mut self,
        writing: &Writing<'_>,
        pieces: &[(&Placed, VerifiedPart<'_>)],
        places: &[&Placed],
    ) -> Result<(), TransferError> {
        let Some((mut held, starts)) = self.held.take() else {
            return Ok(());
        };
        let at = |run: &Placed| starts[run.span] + run.offset as usize;
        let mut changed = Vec::new();
        for (run, piece) in pieces {
            held.put(at(run), *piece).ok_or(TransferError::Unfitting)?;
            changed.push((run.span, at(run), piece.length()));
        }
        for run in places {
            for (offset, length) in geometry::pieces(run.bytes, self.reply.block_bytes) {
                let at = at(run) + offset as usize;
                let page = held.get(at, length as usize);
                let mut page = page.ok_or(TransferError::Unfitting)?.to_vec();
                let offset = self.reply.offset(run) + u64::from(offset);
                if let Some(page) = self.patched(run, offset, &mut page)? {
                    let part = VerifiedPart::from(&page);
                    held.put(at, part).ok_or(TransferError::Unfitting)?;
                    changed.push((run.span, at, part.length()));
                }
            }
        }
        changed.sort_unstable();
        for changed in changed.chunk_by(|one, next| one.0 == next.0) {
            let span = changed[0].0;
            let places: Vec<_> = changed
                .iter()
                .map(|(_, at, length)| (*at, *length))
                .collect();
            let begin = (starts[span], self.reply.spans[span].1.offset);
            self.landed.written += writing.write_held(&held, &places, begin)?;
        }
        self.held = Some((held, starts));
        Ok(())
    }

    /// Patches the target's own block of a run, which is at `offset` in its file; none where it did not become what the
    /// agent has.
    fn patched<'p>(
        &mut self,
        run: &Placed,
        offset: u64,
        page: &'p mut [u8],
    ) -> Result<Option<Verified<&'p [u8]>>, TransferError> {
        let digest = noise::apply_next(&mut self.patches, page)?;
        let page = Verified::check(self.key, &*page, digest);
        if page.is_err() {
            self.landed.unlike.push(self.reply.alone(run, offset));
        }
        Ok(page.ok())
    }

    /// Patches a file's blocks that are read for it.
    fn patch_all(
        &mut self,
        writing: &Writing<'_>,
        file: &File,
        places: &[&Placed],
    ) -> Result<(), TransferError> {
        let mut near = Near::default();
        for (number, run) in places.iter().enumerate() {
            let next = places[number + 1..].iter().copied();
            let pages = near
                .take(file, self.reply.offset(run), run, next)
                .map_err(|error| writing.unread(error))?;
            self.patch(run, pages, writing)?;
        }
        Ok(())
    }

    /// Patches the target's own blocks of a run and writes those that became what the agent has.
    fn patch(
        &mut self,
        run: &Placed,
        pages: &mut [u8],
        writing: &Writing<'_>,
    ) -> Result<(), TransferError> {
        let mut made = Vec::new();
        let block_bytes = self.reply.block_bytes as usize;
        let offsets = (self.reply.offset(run)..).step_by(block_bytes);
        for (offset, page) in offsets.zip(pages.chunks_mut(block_bytes)) {
            made.extend(self.patched(run, offset, page)?.map(|page| (offset, page)));
        }
        let parts = made.iter().map(|(offset, page)| (*offset, page.into()));
        self.landed.written += writing.write(&parts.collect::<Vec<_>>())?;
        Ok(())
    }
}
