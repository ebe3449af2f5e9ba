//! Blocks that differ in noise only: hint bits, marks of dead items, bytes of the hole
//! ([`canonical`](crate::pg::canonical)).
//!
//! Beside the digest of a block the asking side sends a short one of its canonical form. Where that is the form of the
//! other side's block too, a patch is enough: what stands on that block and not in its form, mostly zeros, and so some
//! hundred bytes instead of thousands. The block made of it counts only when its own digest is the announced one, so
//! that neither an error of the form nor an accident of the short digest can do more than cost bytes.

use twox_hash::XxHash3_64;

use crate::digest::{DIGEST_BYTES, Digest, SessionKey};
use crate::geometry::BitSet;
use crate::pg::canonical::make_patchable;

/// Length of the digest of a canonical form. It selects, it proves nothing: a fast one will do.
pub const FORM_BYTES: usize = 8;

/// Part of a block that a patch may have, as a divisor: what is longer is no noise that is worth it, such as old rows in
/// the hole.
const WORTH: usize = 4;

/// Bytes of a patch's length in front of it.
const LENGTH_BYTES: usize = 2;

/// Fewer zeros between two runs are sent with them: naming the runs apart takes as many bytes.
const GAP_MIN: usize = 3;

/// A set of patches is not what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the patches of blocks are malformed")]
pub struct Malformed;

/// Takes canonical forms of blocks, one after the other.
#[derive(Debug, Default)]
pub struct Forms {
    form: Vec<u8>,
}

impl Forms {
    /// The digest of a block's form; `None` where the block is its own form: that cannot be half of a patch.
    pub fn digest(&mut self, key: &SessionKey, block: &[u8]) -> Option<[u8; FORM_BYTES]> {
        self.form.clear();
        self.form.extend_from_slice(block);
        if !make_patchable(&mut self.form) {
            return None;
        }
        let (seed, _) = key.0.split_first_chunk().expect("a key has 32 bytes");
        let digest = XxHash3_64::oneshot_with_seed(u64::from_le_bytes(*seed), &self.form);
        Some(digest.to_le_bytes())
    }

    /// Appends the patch that makes `block`, whose digest is given, of its form, if that is the form with this digest and
    /// the patch is short.
    fn patch(
        &mut self,
        key: &SessionKey,
        (block, digest): (&[u8], &[u8]),
        of_form: &[u8],
        patches: &mut Vec<u8>,
    ) -> bool {
        if self.digest(key, block).is_none_or(|form| form != of_form) {
            return false;
        }
        let before = patches.len();
        patches.extend_from_slice(digest);
        patches.extend_from_slice(&[0; LENGTH_BYTES]);
        let begin = patches.len();
        encode(block, &self.form, patches);
        let length = patches.len() - begin;
        match u16::try_from(length) {
            Ok(short) if length <= block.len() / WORTH => {
                patches[begin - LENGTH_BYTES..begin].copy_from_slice(&short.to_le_bytes());
                true
            }
            _ => {
                patches.truncate(before);
                false
            }
        }
    }
}

/// The digests of the forms of the asking side's blocks.
#[derive(Debug, Clone, Copy)]
pub struct Noisy<'a> {
    /// The blocks that have one, counted over all spans.
    pub blocks: &'a BitSet,
    /// Theirs, in order.
    pub forms: &'a [u8],
}

/// Blocks that need a patch only, and their patches.
#[derive(Debug, Default)]
pub struct Patched {
    pub blocks: BitSet,
    pub patches: Vec<u8>,
}

/// Finds, among the differing blocks, those of which a patch is enough.
#[derive(Debug)]
pub struct Sieve<'a> {
    key: &'a SessionKey,
    noisy: Noisy<'a>,
    forms: Forms,
    /// The next block to be asked for, and how many before it have a form.
    next: usize,
    rank: usize,
    pub found: Patched,
}

impl<'a> Sieve<'a> {
    /// None found yet.
    #[must_use]
    pub fn new(key: &'a SessionKey, noisy: Noisy<'a>) -> Self {
        Self {
            key,
            noisy,
            forms: Forms::default(),
            next: 0,
            rank: 0,
            found: Patched::default(),
        }
    }

    /// Whether a patch of this block is enough; it is noted then. Blocks must come in order.
    fn take(&mut self, number: usize, block: (&[u8], &[u8])) -> bool {
        while self.next < number {
            self.rank += usize::from(self.noisy.blocks.contains(self.next));
            self.next += 1;
        }
        if !self.noisy.blocks.contains(number) {
            return false;
        }
        let at = self.rank * FORM_BYTES;
        let Some(form) = self.noisy.forms.get(at..at + FORM_BYTES) else {
            return false;
        };
        let is_enough = self
            .forms
            .patch(self.key, block, form, &mut self.found.patches);
        if is_enough {
            self.found.blocks.insert(number);
        }
        is_enough
    }

    /// Leaves of the blocks in `bytes`, those of these numbers that are in `present`, at its beginning those of which a
    /// patch is not enough; the others leave `present` too. `digests` are theirs. Returns how many bytes are left.
    pub fn sift(
        &mut self,
        bytes: &mut [u8],
        digests: &[u8],
        block_bytes: u32,
        blocks: std::ops::Range<usize>,
        present: &mut BitSet,
    ) -> usize {
        if self.noisy.forms.is_empty() {
            return bytes.len();
        }
        let block_bytes = block_bytes as usize;
        let (mut from, mut end) = (0, 0);
        let mut digests = digests.chunks_exact(DIGEST_BYTES);
        for number in blocks {
            if !present.contains(number) {
                continue;
            }
            let next = (from + block_bytes).min(bytes.len());
            let block = &bytes[from..next];
            // A piece at the end is no page.
            let is_patched = digests.next().is_some_and(|digest| {
                block.len() == block_bytes && self.take(number, (block, digest))
            });
            if is_patched {
                present.remove(number);
            } else {
                if end != from {
                    bytes.copy_within(from..next, end);
                }
                end += next - from;
            }
            from = next;
        }
        end
    }
}

/// Appends the runs of bytes that make `block` of `form`: how many zeros stand before each, how many bytes it has, and
/// these.
fn encode(block: &[u8], form: &[u8], patch: &mut Vec<u8>) {
    let mut run: Option<(usize, usize)> = None;
    let mut behind = 0;
    let mut put_run = |(begin, end): (usize, usize), patch: &mut Vec<u8>| {
        put(patch, begin - behind);
        put(patch, end - begin);
        let bytes = block[begin..end].iter().zip(&form[begin..end]);
        patch.extend(bytes.map(|(a, b)| a ^ b));
        behind = end;
    };
    each_unlike(block, form, |at| match &mut run {
        Some((_, end)) if at < *end + GAP_MIN => *end = at + 1,
        found => {
            if let Some(before) = found.replace((at, at + 1)) {
                put_run(before, patch);
            }
        }
    });
    if let Some(last) = run {
        put_run(last, patch);
    }
}

/// Calls for each position at which both differ, in order. Most bytes are the same: eight of them are one step.
fn each_unlike(a: &[u8], b: &[u8], mut call: impl FnMut(usize)) {
    let ((words, rest), (others, other_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (index, (a, b)) in words.iter().zip(others).enumerate() {
        let mut unlike = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        while unlike != 0 {
            let byte = unlike.trailing_zeros() / 8;
            call(index * 8 + byte as usize);
            unlike &= !(0xff << (8 * byte));
        }
    }
    let begin = a.len() - rest.len();
    for (index, (a, b)) in rest.iter().zip(other_rest).enumerate() {
        if a != b {
            call(begin + index);
        }
    }
}

/// Appends a number, seven bits a byte.
fn put(patch: &mut Vec<u8>, mut number: usize) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            patch.push(low);
            return;
        }
        patch.push(low | 0x80);
    }
}

/// Takes a number from the beginning.
fn get(patch: &mut &[u8]) -> Result<usize, Malformed> {
    let mut number = 0;
    for shift in [0, 7, 14] {
        let (byte, rest) = patch.split_first().ok_or(Malformed)?;
        *patch = rest;
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

/// Applies a patch to a form.
///
/// # Errors
/// The patch is none for so long a block.
fn decode(mut patch: &[u8], form: &mut [u8]) -> Result<(), Malformed> {
    let mut rest = form;
    while !patch.is_empty() {
        let (gap, length) = (get(&mut patch)?, get(&mut patch)?);
        let (run, behind) = rest
            .split_at_mut_checked(gap)
            .and_then(|(_, at)| at.split_at_mut_checked(length))
            .ok_or(Malformed)?;
        let (bytes, next) = patch.split_at_checked(length).ok_or(Malformed)?;
        run.iter_mut().zip(bytes).for_each(|(to, by)| *to ^= by);
        (rest, patch) = (behind, next);
    }
    Ok(())
}

/// Takes the next patch from the beginning of `patches` and applies it to the asking side's own block. Returns the
/// digest that the block must have now. A block that is still another one is no error of the peer: it must be asked for.
///
/// # Errors
/// There is no such patch.
pub fn apply_next(patches: &mut &[u8], block: &mut [u8]) -> Result<Digest, Malformed> {
    let (digest, rest) = patches
        .split_first_chunk::<DIGEST_BYTES>()
        .ok_or(Malformed)?;
    let (length, rest) = rest.split_first_chunk().ok_or(Malformed)?;
    let (patch, rest) = rest
        .split_at_checked(usize::from(u16::from_le_bytes(*length)))
        .ok_or(Malformed)?;
    *patches = rest;
    make_patchable(block);
    decode(patch, block)?;
    Ok(Digest(*digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: SessionKey = SessionKey([4; 32]);
    const BLOCK: usize = 8192;

    /// A heap page of a few tuples, whose hint bits, LSN and content are given.
    fn heap_page(hints: u8, lsn: u8, content: u8) -> Vec<u8> {
        let mut page = vec![0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        let (tuples, length) = (60_usize, 64_usize);
        let word = |number: usize| u16::try_from(number).unwrap().to_le_bytes();
        put(0, &[lsn; 10]);
        put(12, &word(24 + 4 * tuples));
        put(14, &word(BLOCK - tuples * length));
        put(16, &word(BLOCK));
        put(18, &word(BLOCK | 4));
        for number in 0..tuples {
            let at = BLOCK - (number + 1) * length;
            // Offset, LP_NORMAL and length (`itemid.h:ItemIdData`).
            let pointer = u32::try_from(at | 1 << 15 | length << 17).unwrap();
            put(24 + 4 * number, &pointer.to_le_bytes());
            put(at, &[7; 8]);
            put(at + 20, &[0, hints, 24]);
            put(at + 24, &[content; 40]);
        }
        page
    }

    /// What both sides do together. Returns the blocks that the client has then, how many came whole and how many patched.
    fn exchange(old: &[Vec<u8>], new: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize, usize) {
        let (mut blocks, mut forms) = (BitSet::default(), Vec::new());
        for (number, page) in old.iter().enumerate() {
            if let Some(form) = Forms::default().digest(&KEY, page) {
                blocks.insert(number);
                forms.extend_from_slice(&form);
            }
        }
        let noisy = Noisy {
            blocks: &blocks,
            forms: &forms,
        };
        let mut sieve = Sieve::new(&KEY, noisy);
        let (mut present, mut bytes, mut digests) = (BitSet::default(), Vec::new(), Vec::new());
        for (number, (old, new)) in old.iter().zip(new).enumerate() {
            if old != new {
                present.insert(number);
                bytes.extend_from_slice(new);
                digests.extend_from_slice(&KEY.digest(new).0);
            }
        }
        let left = sieve.sift(&mut bytes, &digests, 8192, 0..new.len(), &mut present);
        bytes.truncate(left);
        let found = sieve.found;
        let (mut whole, mut patches) = (&bytes[..], &found.patches[..]);
        let mut result = old.to_vec();
        for (number, page) in result.iter_mut().enumerate() {
            if present.contains(number) {
                assert!(!found.blocks.contains(number));
                let (next, rest) = whole.split_at(BLOCK);
                (*page, whole) = (next.to_vec(), rest);
            } else if found.blocks.contains(number) {
                let digest = apply_next(&mut patches, page).unwrap();
                assert_eq!(KEY.digest(page), digest);
            }
        }
        assert!(whole.is_empty() && patches.is_empty());
        (result, present.len(), found.blocks.len())
    }

    #[test]
    fn blocks_that_differ_in_noise_come_as_patches_and_all_others_whole() {
        let plain = vec![9; BLOCK];
        let zero = vec![0; BLOCK];
        let old = [
            heap_page(0, 1, 1),
            heap_page(1, 1, 1),
            heap_page(0, 1, 2),
            plain.clone(),
            zero.clone(),
            heap_page(8, 8, 1),
        ];
        let new = [
            heap_page(5, 3, 1),
            heap_page(1, 1, 1),
            heap_page(1, 1, 3),
            vec![8; BLOCK],
            heap_page(0, 0, 0),
            heap_page(0, 3, 1),
        ];
        let (result, whole, patched) = exchange(&old, &new);
        assert!(result == new);
        assert_eq!((whole, patched), (3, 2));
    }

    #[test]
    fn a_patch_of_hint_bits_is_short_and_one_of_a_full_hole_is_no_patch() {
        let (old, new) = (heap_page(0, 1, 1), heap_page(5, 3, 1));
        let form = Forms::default().digest(&KEY, &old).unwrap();
        let mut patches = Vec::new();
        assert!(Forms::default().patch(&KEY, (&new, &[0; 16]), &form, &mut patches));
        assert!(patches.len() < 300, "{}", patches.len());
        let mut full = new;
        full[300..4000].fill(3);
        assert!(!Forms::default().patch(&KEY, (&full, &[0; 16]), &form, &mut patches));
        assert!(patches.len() < 300, "{}", patches.len());
    }

    #[test]
    fn patches_that_are_none_are_refused() {
        let page = || heap_page(0, 1, 1);
        for bad in [
            &[0; 5][..],
            &[0; 17],
            &[1; 18],
            &[&[0; 16][..], &[2, 0, 0xff, 0xff]].concat(),
        ] {
            assert_eq!(apply_next(&mut &*bad, &mut page()), Err(Malformed));
        }
        // A run that goes beyond the block, and a number that never ends.
        for patch in [
            &[0xff, 0xff, 0x03, 1, 1][..],
            &[0, 2, 1],
            &[0x80, 0x80, 0x80, 0],
        ] {
            assert_eq!(decode(patch, &mut [0; 64]), Err(Malformed));
        }
        assert_eq!(decode(&[63, 1, 9], &mut [0; 64]), Ok(()));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_what_is_decoded(
            form in proptest::collection::vec(0_u8..3, 64..300),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        ) {
            let mut block = form.clone();
            for (at, by) in flips {
                let at = at.index(block.len());
                block[at] ^= by;
            }
            let mut patch = Vec::new();
            encode(&block, &form, &mut patch);
            let mut made = form.clone();
            prop_assert_eq!(decode(&patch, &mut made), Ok(()));
            prop_assert_eq!(made, block);
        }

        #[test]
        fn arbitrary_patches_never_panic(
            patches in proptest::collection::vec(any::<u8>(), 0..200),
            block in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let (mut patches, mut block) = (&patches[..], block);
            while apply_next(&mut patches, &mut block).is_ok() {}
        }
    }
}
