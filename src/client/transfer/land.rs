//! Blocks that arrived: unpacked, proven, written.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::client::transfer::error::TransferError;
use crate::client::transfer::task::{Task, Way};
use crate::compare::blocks::Placed;
use crate::digest::SessionKey;
use crate::disk::target::ClosedTarget;
use crate::disk::writing::parts;
use crate::geometry::{EntryId, RANGE_BYTES, Span};
use crate::wire::message::Packed;
use crate::wire::payload;

/// An answer's blocks, and where they go.
pub struct Landing {
    pub task: Arc<Task>,
    /// Each span with the index of its file, in the order of the files.
    pub spans: Vec<(usize, Span)>,
    pub runs: Arc<Vec<Placed>>,
    /// Files that vanished on the source: they are not made.
    pub gone: BTreeSet<EntryId>,
}

impl Landing {
    /// Unpacks, proves and writes. On a worker.
    ///
    /// # Errors
    /// The answer does not fit or was damaged, or the target cannot be written.
    pub fn land(
        &self,
        target: &ClosedTarget,
        key: &SessionKey,
        packed: &Packed,
        body: Buffer,
    ) -> Result<(), TransferError> {
        let bytes = payload::unpack(packed, body, key, RANGE_BYTES as usize)?;
        let parts =
            parts(&bytes, self.runs.iter().map(|run| run.bytes)).ok_or(TransferError::Unfitting)?;
        let mut pieces = self.runs.iter().zip(parts).peekable();
        for (index, work) in self.task.files.iter().enumerate() {
            let is_here = |(run, _): &(&Placed, _)| self.spans[run.span].0 == index;
            let must_fit =
                self.task.way == Way::Fetch && work.fit && !self.gone.contains(&work.entry);
            if !must_fit && !pieces.peek().is_some_and(is_here) {
                continue;
            }
            let file = target.fit(&work.path, work.bytes)?;
            let mut own = Vec::new();
            while let Some((run, piece)) = pieces.next_if(is_here) {
                own.push((self.spans[run.span].1.offset + u64::from(run.offset), piece));
            }
            target.writing(&file, &work.path, work.bytes).write(&own)?;
        }
        Ok(())
    }
}
