//! How files are cut: blocks, extents and ranges, and sets of blocks.
//!
//! A file is compared in ranges of [`RANGE_BYTES`], a range in extents of [`EXTENT_BYTES`], a
//! differing extent in blocks. All offsets are bytes from the start of one file.

use serde::{Deserialize, Serialize};

/// Unit of the first comparison: one digest for each 64 KiB. A multiple of every block size that
/// PostgreSQL can be built with (1 to 32 KiB, `configure --with-blocksize`).
pub const EXTENT_BYTES: u32 = 64 * 1024;

/// Unit of work and of memory: what one request covers at most.
pub const RANGE_BYTES: u32 = 4 * 1024 * 1024;

/// Longest file, by the manifest, that is read as a whole, and most of the target's file that a delta is
/// made against: both sides hold it in memory.
pub const ROLLING_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Most of a file that is read as a whole: such a file may have grown since it was listed.
pub const WHOLE_MAX_BYTES: u64 = 2 * ROLLING_MAX_BYTES;

/// Most spans in one request: bounds the work and the answer of a batch of small files.
pub const SPANS_MAX: usize = 1024;

/// Number of an entry in the agent's manifest: the only way to name a file in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId(pub u32);

/// A piece of one file: `bytes` is at least 1 and at most [`RANGE_BYTES`]. Extents and blocks are
/// counted from its `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    pub entry: EntryId,
    pub offset: u64,
    pub bytes: u32,
}

impl Span {
    /// Whether the span keeps its own rules.
    #[must_use]
    pub fn is_lawful(&self) -> bool {
        self.bytes > 0
            && self.bytes <= RANGE_BYTES
            && self.offset.checked_add(u64::from(self.bytes)).is_some()
    }

    /// The pieces of `unit` bytes that the span consists of, the last one perhaps shorter, as
    /// offset within the span and length.
    pub fn pieces(&self, unit: u32) -> impl Iterator<Item = (u32, u32)> + use<> {
        pieces(self.bytes, unit)
    }
}

/// Bytes of all spans, which need not be lawful.
pub fn total_bytes<'a>(spans: impl IntoIterator<Item = &'a Span>) -> u64 {
    let bytes = spans.into_iter().map(|span| u64::from(span.bytes));
    bytes.fold(0, u64::saturating_add)
}

/// Cuts `bytes` into pieces of `unit` bytes, the last one perhaps shorter: offset and length.
pub fn pieces(bytes: u32, unit: u32) -> impl Iterator<Item = (u32, u32)> + use<> {
    (0..bytes.div_ceil(unit)).map(move |index| {
        let offset = index * unit;
        (offset, unit.min(bytes - offset))
    })
}

/// Cuts a file's bytes `from..to` into ranges.
pub fn ranges(entry: EntryId, from: u64, to: u64) -> impl Iterator<Item = Span> + use<> {
    let unit = u64::from(RANGE_BYTES);
    let mut offset = from;
    std::iter::from_fn(move || {
        if offset >= to {
            return None;
        }
        // The first range ends on a range border, so that later ones start on borders.
        let end = (offset / unit + 1).saturating_mul(unit).min(to);
        let bytes = u32::try_from(end - offset).expect("a range is at most RANGE_BYTES");
        let span = Span {
            entry,
            offset,
            bytes,
        };
        offset = end;
        Some(span)
    })
}

/// A set of small numbers, one bit each: which blocks or extents of a request are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BitSet {
    words: Vec<u8>,
}

impl BitSet {
    /// An empty set that can hold numbers below `size` without growing.
    #[must_use]
    pub fn with_size(size: usize) -> Self {
        Self {
            words: vec![0; size.div_ceil(8)],
        }
    }

    /// Adds a number.
    pub fn insert(&mut self, number: usize) {
        let word = number / 8;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (number % 8);
    }

    /// Takes a number out.
    pub fn remove(&mut self, number: usize) {
        if let Some(word) = self.words.get_mut(number / 8) {
            *word &= !(1 << (number % 8));
        }
    }

    /// Whether no number is in both sets.
    #[must_use]
    pub fn is_apart_from(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).all(|(a, b)| a & b == 0)
    }

    /// All numbers of both sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let length = self.words.len().max(other.words.len());
        let word = |set: &Self, at: usize| set.words.get(at).copied().unwrap_or(0);
        Self {
            words: (0..length)
                .map(|at| word(self, at) | word(other, at))
                .collect(),
        }
    }

    /// Whether the number is in the set.
    #[must_use]
    pub fn contains(&self, number: usize) -> bool {
        self.words
            .get(number / 8)
            .is_some_and(|word| word & (1 << (number % 8)) != 0)
    }

    /// How many numbers are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// Whether no number is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// One more than the largest number that the set has room for: a bound for hostile input.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.words.len() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BORDERS: &[u64] = &[
        1,
        8191,
        8192,
        8193,
        65_535,
        65_536,
        65_537,
        RANGE_BYTES as u64 - 1,
        RANGE_BYTES as u64,
        RANGE_BYTES as u64 + 1,
        3 * RANGE_BYTES as u64 + 5,
    ];

    fn ranges_cover_exactly_holds(from: u64, to: u64) {
        let mut next = from;
        for span in ranges(EntryId(7), from, to) {
            assert!(span.is_lawful(), "{span:?}");
            assert_eq!(span.offset, next);
            next += u64::from(span.bytes);
        }
        assert_eq!(next, to.max(from));
    }

    #[test]
    fn ranges_cover_exactly_cases() {
        for to in BORDERS {
            ranges_cover_exactly_holds(0, *to);
            ranges_cover_exactly_holds(65_536, *to);
        }
    }

    proptest! {
        #[test]
        fn ranges_cover_exactly_random(extent in 0_u64..200, to in 0_u64..64_000_000) {
            ranges_cover_exactly_holds(extent * 65_536, to);
        }

        #[test]
        fn pieces_cover_exactly_random(bytes in 1_u32..RANGE_BYTES, unit in 1_u32..100_000) {
            let mut next = 0;
            for (offset, len) in pieces(bytes, unit) {
                prop_assert_eq!(offset, next);
                prop_assert!(len > 0 && len <= unit);
                next += len;
            }
            prop_assert_eq!(next, bytes);
        }
    }

    #[test]
    fn a_bit_set_holds_what_was_inserted() {
        let mut set = BitSet::with_size(10);
        assert!(set.is_empty());
        for number in [0, 7, 8, 9, 100] {
            set.insert(number);
        }
        assert_eq!(set.len(), 5);
        assert!(set.contains(100) && !set.contains(99) && !set.contains(10_000));
    }
}
