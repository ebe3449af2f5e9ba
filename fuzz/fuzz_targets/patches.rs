//! Patches that came from anywhere, for a block that came from anywhere; and what both sides make of two blocks.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_reseed::compare::noise::{Forms, Noisy, Sieve, apply_next};
use pg_reseed::digest::{DIGEST_BYTES, SessionKey};
use pg_reseed::geometry::BitSet;

const KEY: SessionKey = SessionKey([3; 32]);
const BLOCK_BYTES: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let Some((block, rest)) = data.split_at_checked(BLOCK_BYTES) else {
        return;
    };
    let mut patches = rest;
    let mut own = block.to_vec();
    while apply_next(&mut patches, &mut own).is_ok() {
        assert_eq!(own.len(), BLOCK_BYTES);
    }

    // The other side's block: this one, with some bytes changed.
    let mut other = page_like(block);
    let own = other.clone();
    for change in rest.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % BLOCK_BYTES;
        other[at] ^= change[2];
    }
    if own == other {
        return;
    }
    let mut noisy = BitSet::default();
    let form = Forms::default().digest(&KEY, &own);
    let forms = form.map_or(Vec::new(), |form| {
        noisy.insert(0);
        form.to_vec()
    });
    let mut sieve = Sieve::new(
        &KEY,
        Noisy {
            blocks: &noisy,
            forms: &forms,
        },
    );
    let mut present = BitSet::default();
    present.insert(0);
    let mut bytes = other.clone();
    let digest = KEY.digest(&other).0;
    assert_eq!(digest.len(), DIGEST_BYTES);
    let block_bytes = u32::try_from(BLOCK_BYTES).expect("a constant");
    let left = sieve.sift(&mut bytes, &digest, block_bytes, 0..1, &mut present);
    if present.contains(0) {
        assert_eq!((left, &bytes), (BLOCK_BYTES, &other));
        assert!(sieve.found.patches.is_empty());
    } else {
        let mut patches = &sieve.found.patches[..];
        let mut made = own;
        assert_eq!(apply_next(&mut patches, &mut made), Ok(KEY.digest(&other)));
        assert!(patches.is_empty() && made == other);
    }
});

/// The block with a header that a heap page may have.
fn page_like(block: &[u8]) -> Vec<u8> {
    let mut page = block.to_vec();
    let size = u16::try_from(BLOCK_BYTES).expect("a constant");
    page[10..12].copy_from_slice(&[0; 2]);
    page[16..18].copy_from_slice(&size.to_le_bytes());
    page[18..20].copy_from_slice(&(size | 4).to_le_bytes());
    page
}
