//! One request, one answer, on a worker thread: digests, blocks, deltas, the control file. Stateless and
//! idempotent given the list of files.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use super::control;
use super::effort::{Effort, Lane};
use super::tree::read_fault;
use crate::buffer::Buffer;
use crate::compare::blocks::{Baseline, keep_differing, piece_count};
use crate::compare::noise::{FORM_BYTES, Noisy, Patched, Sieve};
use crate::compare::rolling;
use crate::digest::{DIGEST_BYTES, Digest, SessionKey};
use crate::disk::DiskError;
use crate::disk::read::{PieceReader, is_hole, read_most, read_padded, reopen};
use crate::disk::root::Roots;
use crate::geometry::{
    BitSet, EXTENT_BYTES, EntryId, RANGE_BYTES, SPANS_MAX, Span, WHOLE_MAX_BYTES, total_bytes,
};
use crate::manifest::Manifest;
use crate::path::RelPath;
use crate::pg::layout;
use crate::pg::lsn::Lsn;
use crate::pg::page::{self, PageVerdict};
use crate::pg::relfile;
use crate::wire::message::{Answer, DamagedBlock, Fault, FaultKind, Request};
use crate::workers;

/// Reads of a page before a wrong checksum is believed: a page that is being written looks torn.
const PAGE_READS: usize = 5;

/// Pause between them.
const PAGE_PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// What may be read, and how to answer. Made by the session when it has a bracket, or for a survey.
#[derive(Debug)]
pub struct Reader {
    pub roots: Roots,
    /// Configuration that is a link in the data directory: what it leads to.
    pub linked: BTreeMap<RelPath, std::fs::File>,
    /// The files by their numbers.
    pub files: Arc<Manifest>,
    /// WAL that is brought while the backup runs: its numbers follow those of `files`.
    pub wal: RwLock<Vec<RelPath>>,
    pub key: SessionKey,
    pub effort: Arc<Effort>,
    pub block_bytes: u32,
    /// Blocks of a full segment.
    pub segment_blocks: u32,
    /// Verify checksums of pages older than this; `None` when the cluster has none.
    pub checksums_before: Option<Lsn>,
    /// Answer which blocks differ, without their content.
    pub is_survey: bool,
}

/// An answer with its body.
pub type Reply = (Answer, Buffer);

/// A file of the manifest, open; `None` when it is gone.
type Opened = (RelPath, Option<std::fs::File>);

/// Smallest block that a cluster may have (PostgreSQL `meson_options.txt`).
const BLOCK_MIN_BYTES: usize = 1024;

/// Judges a request before it waits for a worker, and takes room meanwhile.
///
/// # Errors
/// It asks for too much, or brings too much.
pub(super) fn check(request: &Request, body_bytes: usize) -> Result<(), Fault> {
    let (spans, most): (&[Span], u64) = match request {
        Request::Digests { spans, .. } => (spans, 0),
        Request::Blocks { spans, .. } => {
            let blocks = RANGE_BYTES as usize / BLOCK_MIN_BYTES + SPANS_MAX;
            (spans, (blocks * (DIGEST_BYTES + FORM_BYTES)) as u64)
        }
        Request::Delta { .. } => (&[], rolling::SIGNATURE_MAX_BYTES),
        _ => (&[], 0),
    };
    if body_bytes as u64 > most
        || spans.len() > SPANS_MAX
        || total_bytes(spans) > u64::from(RANGE_BYTES)
        || !spans.iter().all(Span::is_lawful)
    {
        return Err(Fault::new(
            FaultKind::Protocol,
            "a request asks for too much",
        ));
    }
    Ok(())
}

/// Its requests have been judged before.
impl Reader {
    /// Digests of all extents of the spans, unless they are those of the client, whose digest is `have`.
    ///
    /// # Errors
    /// A fault when the request breaks a rule or a file cannot be read.
    pub fn digests(&self, spans: &[Span], have: Digest) -> Result<Reply, Fault> {
        let mut gone = Vec::new();
        let mut digests = Vec::new();
        let mut reader = PieceReader::default();
        let mut opened: Option<(EntryId, Opened)> = None;
        for (index, span) in spans.iter().enumerate() {
            let (path, file) = self.reuse(&mut opened, span.entry)?;
            let Some(file) = file else {
                gone.push(u16::try_from(index).expect("at most SPANS_MAX spans"));
                let count = piece_count(span.bytes, EXTENT_BYTES);
                digests.resize(digests.len() + count * DIGEST_BYTES, 0);
                continue;
            };
            reader
                .digest(file, span, EXTENT_BYTES, &self.key, &mut digests)
                .map_err(|error| self.fault(path, error))?;
        }
        if gone.is_empty() && self.key.digest(&digests) == have {
            digests.clear();
        }
        Ok((Answer::Digests { gone }, digests.into()))
    }

    /// The blocks that differ from the client's digests, or that are not zero; patches, where the digests of the
    /// `noisy` forms of the client's blocks, which are at the end of `body`, show that they are enough.
    ///
    /// # Errors
    /// As [`Reader::digests`].
    pub fn blocks(
        &self,
        spans: &[Span],
        noisy: &BitSet,
        body: &[u8],
        is_hungry: bool,
    ) -> Result<Reply, Fault> {
        let blocks: usize = spans
            .iter()
            .map(|span| piece_count(span.bytes, self.block_bytes))
            .sum();
        let unfitting = || {
            let problem = "the number of digests does not fit the blocks asked for";
            Fault::new(FaultKind::Protocol, problem)
        };
        let (digests, forms) = body
            .len()
            .checked_sub(noisy.len() * FORM_BYTES)
            .and_then(|at| body.split_at_checked(at))
            .ok_or_else(unfitting)?;
        if !digests.is_empty() && digests.len() != blocks * DIGEST_BYTES {
            return Err(unfitting());
        }
        let noisy = Noisy {
            blocks: noisy,
            forms,
        };
        let mut sieve = Sieve::new(&self.key, noisy);
        let mut gone = Vec::new();
        let mut present = BitSet::with_size(blocks);
        let bytes: usize = spans.iter().map(|span| span.bytes as usize).sum();
        let mut chosen = Buffer::for_disk(bytes);
        let mut end = 0;
        let mut damaged = Vec::new();
        let mut first = 0;
        let mut taken = Vec::new();
        let mut opened: Option<(EntryId, Opened)> = None;
        for (index, span) in spans.iter().enumerate() {
            let count = piece_count(span.bytes, self.block_bytes);
            let (path, file) = self.reuse(&mut opened, span.entry)?;
            if let Some(file) = file {
                if digests.is_empty() && is_hole(file, span.offset, span.bytes) {
                    first += count;
                    continue;
                }
                let baseline = digests
                    .get(first * DIGEST_BYTES..(first + count) * DIGEST_BYTES)
                    .map_or(Baseline::Zeros, Baseline::Digests);
                let content = &mut chosen[end..end + span.bytes as usize];
                self.read(path, file, span.offset, content)?;
                let block_bytes = self.block_bytes;
                taken.clear();
                let kept = keep_differing(
                    &self.key,
                    content,
                    block_bytes,
                    baseline,
                    first,
                    &mut present,
                    &mut taken,
                );
                let numbers = (0..count).filter(|number| present.contains(first + number));
                self.verify(
                    span,
                    path,
                    file,
                    numbers,
                    &mut content[..kept],
                    &mut damaged,
                )?;
                let numbers = first..first + count;
                let content = &mut content[..kept];
                end += sieve.sift(content, &taken, block_bytes, numbers, &mut present);
            } else {
                gone.push(u16::try_from(index).expect("at most SPANS_MAX spans"));
            }
            first += count;
        }
        let Patched { blocks, patches } = sieve.found;
        // Each is much shorter than the block that is not sent for it.
        chosen[end..end + patches.len()].copy_from_slice(&patches);
        end += patches.len();
        chosen.truncate(if self.is_survey { 0 } else { end });
        let (packed, body) = self.effort.pack(chosen, &self.key, is_hungry);
        let answer = Answer::Blocks {
            gone,
            present,
            patched: blocks,
            patch_bytes: u32::try_from(patches.len()).expect("fewer than the spans have"),
            packed,
            damaged,
        };
        Ok((answer, body))
    }

    /// The delta from the client's file to the source's, which is read as long as it is now.
    ///
    /// # Errors
    /// As [`Reader::digests`]; also a signature that does not decode.
    pub fn delta(&self, entry: EntryId, have: Digest, signature: Vec<u8>) -> Result<Reply, Fault> {
        let (path, file) = self.open(entry)?;
        let mut new = Vec::new();
        if let Some(file) = &file {
            new = read_most(file, &self.roots.display(&path), WHOLE_MAX_BYTES)
                .map_err(|error| read_fault(&error))?;
        }
        let digest = self.key.digest(&new);
        let mut delta = Vec::new();
        if digest != have {
            delta = rolling::delta(signature, &new)
                .map_err(|error| Fault::new(FaultKind::Protocol, error.to_string()))?;
        }
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let (bytes, delta_bytes) = (length(&new), length(&delta));
        if self.is_survey {
            delta.clear();
        }
        let (packed, body) = self.effort.pack(delta.into(), &self.key, true);
        let answer = Answer::Delta {
            gone: file.is_none(),
            bytes,
            digest,
            delta_bytes,
            packed,
        };
        Ok((answer, body))
    }

    /// The control file.
    ///
    /// # Errors
    /// A fault when it cannot be read or is really damaged.
    pub fn control(&self) -> Result<Reply, Fault> {
        let path = RelPath::parse(b"global/pg_control").expect("a constant of plain components");
        let (_, bytes) = control::settled(|| {
            let file = self
                .roots
                .open_regular(&path)
                .map_err(|error| read_fault(&error))?;
            let mut bytes = vec![0; CONTROL_BYTES as usize];
            self.read(&path, &file, 0, &mut bytes)?;
            Ok(bytes)
        })?;
        Ok((Answer::Control, bytes.into()))
    }

    fn path(&self, entry: EntryId) -> Option<RelPath> {
        match entry.0.checked_sub(self.files.len()) {
            None => Some(self.files.get(entry)?.path()),
            Some(number) => self.wal.read().ok()?.get(number as usize).cloned(),
        }
    }

    /// The number of a WAL file that may be read from now on; `None` when there is none left.
    pub(super) fn admit_wal(&self, path: RelPath) -> Option<EntryId> {
        let mut wal = self.wal.write().ok()?;
        let known = wal.iter().rposition(|known| *known == path);
        let number = known.unwrap_or(wal.len());
        let entry = self.files.len().checked_add(u32::try_from(number).ok()?)?;
        if known.is_none() {
            wal.push(path);
        }
        Some(EntryId(entry))
    }

    /// Which of the two lanes of the rate limit a request takes.
    pub(super) fn lane(&self, request: &Request) -> Lane {
        match request {
            Request::Blocks { spans, .. }
                if spans
                    .first()
                    .is_some_and(|span| span.entry.0 >= self.files.len()) =>
            {
                Lane::Wal
            }
            _ => Lane::Files,
        }
    }

    fn open(&self, entry: EntryId) -> Result<Opened, Fault> {
        let path = self.path(entry).ok_or_else(|| {
            Fault::new(
                FaultKind::Protocol,
                format!("file number {} is not in the manifest", entry.0),
            )
        })?;
        if let Some(file) = self.linked.get(&path) {
            let file = reopen(file, &path).map_err(|error| read_fault(&error))?;
            return Ok((path, Some(file)));
        }
        match self.roots.open_regular(&path) {
            Ok(file) => Ok((path, Some(file))),
            Err(error) if error.is_missing() => Ok((path, None)),
            Err(error) => Err(read_fault(&error)),
        }
    }

    /// Opens a file unless the last span was of the same one.
    fn reuse<'o>(
        &self,
        opened: &'o mut Option<(EntryId, Opened)>,
        entry: EntryId,
    ) -> Result<(&'o RelPath, Option<&'o std::fs::File>), Fault> {
        if opened.as_ref().is_none_or(|(last, _)| *last != entry) {
            *opened = Some((entry, self.open(entry)?));
        }
        let (_, (path, file)) = opened.as_ref().expect("it was just set");
        Ok((path, file.as_ref()))
    }

    /// Fills `buffer`, with zeros beyond the end of the file.
    fn read(
        &self,
        path: &RelPath,
        file: &std::fs::File,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), Fault> {
        match read_padded(file, offset, buffer) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.fault(path, error)),
        }
    }

    fn fault(&self, path: &RelPath, error: std::io::Error) -> Fault {
        read_fault(&DiskError::new("read", &self.roots.display(path), error))
    }

    /// Checks the pages that are about to travel, and reads those again that look wrong. `pages` holds
    /// the blocks `numbers` of the span, one after the other.
    fn verify(
        &self,
        span: &Span,
        path: &RelPath,
        file: &std::fs::File,
        numbers: impl Iterator<Item = usize>,
        pages: &mut [u8],
        damaged: &mut Vec<DamagedBlock>,
    ) -> Result<(), Fault> {
        let (Some(start), true) = (self.checksums_before, layout::is_page_structured(path)) else {
            return Ok(());
        };
        let Some(relation_file) = relfile::parse(path.name()) else {
            return Ok(());
        };
        let block_bytes = u64::from(self.block_bytes);
        for (number, page) in numbers.zip(pages.chunks_mut(self.block_bytes as usize)) {
            // A piece at the end that is no whole page is still being written.
            if page.len() != self.block_bytes as usize {
                continue;
            }
            let offset = span.offset + number as u64 * block_bytes;
            let in_segment = u32::try_from(offset / block_bytes).unwrap_or(u32::MAX);
            let block = relation_file
                .segment
                .wrapping_mul(self.segment_blocks)
                .wrapping_add(in_segment);
            let mut reads = 1;
            while let PageVerdict::Damaged { expected, actual } = page::verify(page, block, start) {
                if reads == PAGE_READS {
                    damaged.push(DamagedBlock {
                        entry: span.entry,
                        block,
                        expected_checksum: expected,
                        actual_checksum: actual,
                    });
                    break;
                }
                workers::pause(PAGE_PAUSE);
                self.read(path, file, offset, page)?;
                reads += 1;
            }
        }
        Ok(())
    }
}

/// Size of the control file (PostgreSQL `pg_control.h:PG_CONTROL_FILE_SIZE`).
pub const CONTROL_BYTES: u32 = 8192;
