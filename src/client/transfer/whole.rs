//! Files that are read as a whole: those without page structure, small and few.

use crate::client::source::Source;
use crate::client::transfer::error::TransferError;
use crate::client::transfer::ranges::Transfer;
use crate::client::transfer::sink::Sink;
use crate::client::transfer::task::FileWork;
use crate::compare::blocks::placed;
use crate::compare::rolling;
use crate::digest::{SessionKey, Verified};
use crate::disk::DiskError;
use crate::disk::read::read_most;
use crate::event::Counters;
use crate::geometry::{BitSet, EntryId, RANGE_BYTES, Span, WHOLE_MAX_BYTES};
use crate::path::RelPath;
use crate::wire::message::{Answer, Request};
use crate::wire::payload;
use crate::workers::WorkerFailed;

impl Transfer {
    /// Makes a file equal to what the source's is now, by a rolling delta.
    pub async fn bring_whole(&self, work: FileWork) -> Result<(), TransferError> {
        let _room = self.room(work.common.saturating_add(work.bytes)).await;
        let (old, have, signature) = self
            .workers
            .run({
                let (this, work) = (self.clone(), work.clone());
                move || {
                    let old = match work.common {
                        0 => Vec::new(),
                        length => own_bytes(&this.sink, &work.path, length)?,
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
        {
            let mut found = self.found.lock().map_err(|_| WorkerFailed)?;
            found.note_grown(u64::from(bytes), work.bytes)?;
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
                    if u64::from(bytes) != old.len() as u64 {
                        return Err(TransferError::Unfitting);
                    }
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
                if new.len() as u64 != u64::from(bytes) {
                    return Err(TransferError::Unfitting);
                }
                // The proof: fast_rsync's own hashes only propose.
                let new = Verified::check(&this.key, new, digest)?;
                target.write_whole(&work.path, &new)?;
                Counters::add(&this.counters.written_bytes, new.bytes().len() as u64);
                Ok(())
            })
            .await?
    }
}

fn own_bytes(sink: &Sink, path: &RelPath, length: u64) -> Result<Vec<u8>, DiskError> {
    let roots = sink.roots();
    let file = match roots.open_regular(path) {
        // As in `ranges`.
        Err(error) if error.is_missing() && sink.target().is_none() => return Ok(Vec::new()),
        file => file?,
    };
    read_most(&file, &roots.display(path), length)
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
    let request = Request::Blocks {
        spans: vec![span],
        noisy: BitSet::default(),
        hungry: true,
    };
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
    for run in placed(std::iter::once(length), block_bytes, &present) {
        let (piece, behind) = rest
            .split_at_checked(run.bytes as usize)
            .ok_or(TransferError::Unfitting)?;
        content[run.offset as usize..][..piece.len()].copy_from_slice(piece);
        rest = behind;
    }
    Ok(content)
}
