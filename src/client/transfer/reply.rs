//! The answer to a request for blocks: blocks and patches, and what they are of.

use std::sync::Arc;

use crate::buffer::Buffer;
use crate::client::transfer::error::TransferError;
use crate::client::transfer::task::Task;
use crate::compare::blocks::Placed;
use crate::digest::{SessionKey, Verified};
use crate::geometry::{RANGE_BYTES, Span};
use crate::wire::message::Packed;
use crate::wire::payload;

/// What the bytes of an answer are.
pub struct Reply {
    pub task: Arc<Task>,
    /// Each span with the index of its file, in the order of the files.
    pub spans: Vec<(usize, Span)>,
    pub runs: Vec<Placed>,
    /// What patches are of, and how many bytes all of them have.
    pub patched: Vec<Placed>,
    pub patch_bytes: u32,
    pub block_bytes: u32,
}

impl Reply {
    /// Unpacks and proves the bytes.
    ///
    /// # Errors
    /// They are not what the agent read.
    pub fn unpack(
        key: &SessionKey,
        packed: &Packed,
        body: Buffer,
    ) -> Result<Verified<Buffer>, TransferError> {
        Ok(payload::unpack(packed, body, key, RANGE_BYTES as usize)?)
    }

    /// The blocks and, behind them, the patches.
    ///
    /// # Errors
    /// There are fewer bytes than patches have.
    pub fn split<'b>(
        &self,
        bytes: &'b Verified<Buffer>,
    ) -> Result<[Verified<&'b [u8]>; 2], TransferError> {
        let at = bytes.bytes().len().checked_sub(self.patch_bytes as usize);
        at.and_then(|at| bytes.split_at(at))
            .ok_or(TransferError::Unfitting)
    }

    /// Where a run begins in its file.
    pub fn offset(&self, run: &Placed) -> u64 {
        self.spans[run.span].1.offset + u64::from(run.offset)
    }

    /// Where each span begins when all are put one after the other.
    pub fn starts(&self) -> Vec<usize> {
        let lengths = self.spans.iter().map(|(_, span)| span.bytes as usize);
        let starts = lengths.scan(0, |end, length| {
            let start = *end;
            *end += length;
            Some(start)
        });
        starts.collect()
    }

    /// A block of a run alone, at this offset in its file, with the index of that: to be asked for once more.
    pub fn alone(&self, run: &Placed, offset: u64) -> (usize, Span) {
        let (file, span) = self.spans[run.span];
        let block = Span {
            entry: span.entry,
            offset,
            bytes: self.block_bytes,
        };
        (file, block)
    }
}
