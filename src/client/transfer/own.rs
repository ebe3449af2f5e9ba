//! What the target has in place of what is compared.

use crate::client::transfer::error::TransferError;
use crate::client::transfer::sink::Sink;
use crate::client::transfer::task::Task;
use crate::compare::blocks::{digest_pieces, digest_zeros, piece_count};
use crate::compare::noise::Forms;
use crate::digest::{DIGEST_BYTES, SessionKey};
use crate::disk::DiskError;
use crate::disk::read::PieceReader;
use crate::disk::writing::Held;
use crate::geometry::{BitSet, Span};
use crate::path::RelPath;
use crate::pg::relfile::{self, Fork};

/// What the target has of some spans: digests of their pieces, and of the canonical forms of blocks that have one.
#[derive(Debug, Default)]
pub struct Own {
    pub digests: Vec<u8>,
    pub noisy: BitSet,
    pub forms: Vec<u8>,
    /// Their bytes, where these are kept until the answer is there.
    pub held: Option<Held>,
}

impl Own {
    /// What is unlike so many blocks, whatever these are.
    pub fn nothing_like(blocks: usize) -> Self {
        Self {
            digests: vec![0; blocks * DIGEST_BYTES],
            ..Self::default()
        }
    }
}

/// How spans are read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Length of the pieces that are digested.
    pub unit: u32,
    /// Whether to look for canonical forms: the pieces are blocks then.
    pub with_forms: bool,
    /// Whether to keep the bytes.
    pub is_held: bool,
}

/// Reads spans of the target and digests them. On a worker.
///
/// # Errors
/// A file that cannot be read.
pub fn read_own(
    sink: &Sink,
    key: &SessionKey,
    task: &Task,
    spans: &[(usize, Span)],
    reading: Reading,
) -> Result<Own, TransferError> {
    let Reading { unit, .. } = reading;
    let roots = sink.roots();
    let mut own = Own::default();
    let bytes = spans.iter().map(|(_, span)| span.bytes as usize).sum();
    let mut held = reading.is_held.then(|| Held::with_length(bytes));
    let mut at = 0;
    let mut forms = Forms::default();
    let mut reader = PieceReader::default();
    let mut opened: Option<(usize, std::fs::File)> = None;
    let mut first = 0;
    for (file, span) in spans {
        let path = &task.files[*file].path;
        let mut number = first;
        first += piece_count(span.bytes, unit);
        let handle = match &opened {
            Some((last, handle)) if last == file => handle,
            _ => match roots.open_regular(path) {
                // The server of a surveyed target may run and remove it meanwhile.
                Err(error) if error.is_missing() && sink.target().is_none() => {
                    digest_zeros(key, span.bytes, unit, &mut own.digests);
                    continue;
                }
                handle => &opened.insert((*file, handle?)).1,
            },
        };
        let with_forms = reading.with_forms && may_be_noise(path);
        let mut see = |piece: &[u8]| {
            for block in piece.chunks(unit as usize).take_while(|_| with_forms) {
                if let Some(form) = forms.digest(key, block) {
                    own.noisy.insert(number);
                    own.forms.extend_from_slice(&form);
                }
                number += 1;
            }
        };
        let read = match &mut held {
            Some(held) => held.read(at, handle, span).map(|piece| {
                digest_pieces(key, piece, unit, &mut own.digests);
                see(piece);
            }),
            None => reader.digest_and(handle, span, unit, key, &mut own.digests, see),
        };
        read.map_err(|error| DiskError::new("read", &roots.display(path), error))?;
        at += span.bytes as usize;
    }
    Ok(Own { held, ..own })
}

/// Whether a file has pages with a canonical form.
fn may_be_noise(path: &RelPath) -> bool {
    relfile::location_of(path).is_some_and(|(.., file)| file.fork == Fork::Main)
}
