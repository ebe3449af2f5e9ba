//! Comparison by position: relation pages, SLRU pages and everything else that never shifts.

use crate::digest::{DIGEST_BYTES, SessionKey};
use crate::geometry::{BitSet, pieces};

/// Appends the digest of each `unit` of `bytes` (the last one perhaps shorter) to `digests`.
pub fn digest_pieces(key: &SessionKey, bytes: &[u8], unit: u32, digests: &mut Vec<u8>) {
    for piece in bytes.chunks(unit as usize) {
        digests.extend_from_slice(&key.digest(piece).0);
    }
}

/// As [`digest_pieces`] of so many zero bytes.
pub fn digest_zeros(key: &SessionKey, bytes: u32, unit: u32, digests: &mut Vec<u8>) {
    let zeros = vec![0; unit.min(bytes) as usize];
    let whole = key.digest(&zeros);
    for (_, length) in pieces(bytes, unit) {
        let digest = match zeros.get(..length as usize) {
            Some(short) if length < unit => key.digest(short),
            _ => whole,
        };
        digests.extend_from_slice(&digest.0);
    }
}

/// Number of digests that [`digest_pieces`] makes of so many bytes.
#[must_use]
pub fn piece_count(bytes: u32, unit: u32) -> usize {
    bytes.div_ceil(unit) as usize
}

/// Positions at which two equally long lists of digests differ.
pub fn differing<'a>(ours: &'a [u8], theirs: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    ours.chunks_exact(DIGEST_BYTES)
        .zip(theirs.chunks_exact(DIGEST_BYTES))
        .enumerate()
        .filter(|(_, (ours, theirs))| ours != theirs)
        .map(|(position, _)| position)
}

/// What the asking side has in place of a span.
#[derive(Debug, Clone, Copy)]
pub enum Baseline<'a> {
    /// Digests of its blocks.
    Digests(&'a [u8]),
    /// Zero bytes: a file that is new, or grew.
    Zeros,
}

/// Moves the blocks of `bytes`, a span's content, that differ from the baseline to its beginning, one after the
/// other, and inserts their numbers, counted from `first`, into `present`. Returns how many bytes they have. Their digests
/// are appended to `taken`, where they had to be taken.
pub fn keep_differing(
    key: &SessionKey,
    bytes: &mut [u8],
    block_bytes: u32,
    baseline: Baseline<'_>,
    first: usize,
    present: &mut BitSet,
    taken: &mut Vec<u8>,
) -> usize {
    let block_bytes = block_bytes as usize;
    let mut end = 0;
    let mut start = 0;
    let mut number = 0;
    while start < bytes.len() {
        let next = (start + block_bytes).min(bytes.len());
        let block = &bytes[start..next];
        let is_same = match baseline {
            Baseline::Digests(digests) => {
                let digest = key.digest(block).0;
                let is_same = digests
                    .get(number * DIGEST_BYTES..(number + 1) * DIGEST_BYTES)
                    .is_some_and(|theirs| digest == theirs);
                if !is_same {
                    taken.extend_from_slice(&digest);
                }
                is_same
            }
            Baseline::Zeros => is_zero(block),
        };
        if !is_same {
            present.insert(first + number);
            if end != start {
                bytes.copy_within(start..next, end);
            }
            end += next - start;
        }
        start = next;
        number += 1;
    }
    end
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Folding fixed pieces lets the compiler use wide registers; a plain `all` stops at every byte.
    let (pieces, rest) = bytes.as_chunks::<64>();
    pieces
        .iter()
        .all(|piece| piece.iter().fold(0, |or, byte| or | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// A run of neighbouring blocks in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Index of its span.
    pub span: usize,
    /// Offset within the span.
    pub offset: u32,
    pub bytes: u32,
}

/// The runs of blocks of the spans that are in `present`, in order; no run goes beyond its span. Their bytes
/// follow one another in the reply.
#[must_use]
pub fn placed(
    span_bytes: impl Iterator<Item = u32>,
    block_bytes: u32,
    present: &BitSet,
) -> Vec<Placed> {
    let mut runs: Vec<Placed> = Vec::new();
    let mut first = 0;
    for (span, bytes) in span_bytes.enumerate() {
        for (number, (offset, bytes)) in pieces(bytes, block_bytes).enumerate() {
            if !present.contains(first + number) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.span == span && run.offset + run.bytes == offset => {
                    run.bytes += bytes;
                }
                _ => runs.push(Placed {
                    span,
                    offset,
                    bytes,
                }),
            }
        }
        first += piece_count(bytes, block_bytes);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: SessionKey = SessionKey([5; 32]);

    /// Makes `old` equal to `new` the way client and agent do it together.
    fn exchange(old: &mut [u8], new: &[u8], block: u32, baseline_is_zero: bool) -> usize {
        let mut digests = Vec::new();
        digest_pieces(&KEY, old, block, &mut digests);
        let baseline = if baseline_is_zero {
            Baseline::Zeros
        } else {
            Baseline::Digests(&digests)
        };
        let mut present = BitSet::default();
        let mut chosen = new.to_vec();
        let kept = keep_differing(
            &KEY,
            &mut chosen,
            block,
            baseline,
            0,
            &mut present,
            &mut Vec::new(),
        );
        chosen.truncate(kept);
        let lengths = std::iter::once(u32::try_from(new.len()).unwrap());
        let mut rest = &chosen[..];
        for run in placed(lengths, block, &present) {
            let (piece, behind) = rest.split_at(run.bytes as usize);
            old[run.offset as usize..][..piece.len()].copy_from_slice(piece);
            rest = behind;
        }
        assert!(rest.is_empty());
        present.len()
    }

    proptest! {
        #[test]
        fn an_exchange_makes_equal_and_moves_only_what_differs(
            old in proptest::collection::vec(any::<u8>(), 1..5000),
            flips in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
            block in 1_u32..600,
        ) {
            let mut new = old.clone();
            for flip in flips {
                let at = flip.index(new.len());
                new[at] ^= 0x55;
            }
            let differing = old.chunks(block as usize).zip(new.chunks(block as usize))
                .filter(|(a, b)| a != b).count();
            let mut target = old.clone();
            prop_assert_eq!(exchange(&mut target, &new, block, false), differing);
            prop_assert_eq!(&target, &new);
        }

        #[test]
        fn zero_blocks_do_not_travel_to_a_new_file(
            blocks in proptest::collection::vec(any::<bool>(), 1..40),
        ) {
            let new: Vec<u8> = blocks.iter().flat_map(|full| [u8::from(*full); 128]).collect();
            let mut target = vec![0; new.len()];
            let full = blocks.iter().filter(|full| **full).count();
            prop_assert_eq!(exchange(&mut target, &new, 128, true), full);
            prop_assert_eq!(target, new);
        }
    }

    #[test]
    fn neighbouring_blocks_are_one_run_within_their_span() {
        let mut present = BitSet::default();
        // Spans of four blocks, the last of the first span short; of three blocks; of one.
        for number in [0, 2, 3, 4, 5, 7] {
            present.insert(number);
        }
        let run = |span, offset, bytes| Placed {
            span,
            offset,
            bytes,
        };
        assert_eq!(
            placed([35, 30, 10].into_iter(), 10, &present),
            [run(0, 0, 10), run(0, 20, 15), run(1, 0, 20), run(2, 0, 10)]
        );
    }

    #[test]
    fn zeros_have_the_digests_of_zeros() {
        for bytes in [1, 10, 25, 30] {
            let (mut short, mut long) = (Vec::new(), Vec::new());
            digest_zeros(&KEY, bytes, 10, &mut short);
            digest_pieces(&KEY, &vec![0; bytes as usize], 10, &mut long);
            assert_eq!(short, long, "{bytes}");
        }
    }

    #[test]
    fn differing_digests_are_found_by_position() {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        digest_pieces(&KEY, b"aabbcc", 2, &mut ours);
        digest_pieces(&KEY, b"aaxxcy", 2, &mut theirs);
        assert_eq!(differing(&ours, &theirs).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_single_set_bit_is_not_zero() {
        for length in [1, 63, 64, 65, 8192] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in [0, length / 2, length - 1] {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{length} {at}");
                bytes[at] = 0;
            }
        }
    }
}
