//! Visibility maps: two bits for each block of a heap (`src/backend/access/heap/visibilitymap.c`).
//!
//! A bit that is set promises that all tuples of the block are visible to everybody, or frozen: an index-only scan and
//! vacuum do not look at the block then. A bit that is not set costs time only.

use super::page::HEADER_BYTES;

/// Blocks of a heap for each byte (`HEAPBLOCKS_PER_BYTE`), and the bits of each (`BITS_PER_HEAPBLOCK`).
const BLOCKS_PER_BYTE: u32 = 4;
const BITS_PER_BLOCK: u32 = 2;

/// `bufpage.h:PD_ALL_VISIBLE` among the flags in a page's header, and where these are.
const ALL_VISIBLE: u8 = 0x04;
const FLAGS: usize = 10;

/// How many blocks of the heap a page of the map has bits for (`HEAPBLOCKS_PER_PAGE`).
#[must_use]
pub fn heap_blocks_per_page(block_bytes: u32) -> u32 {
    let header = u32::try_from(HEADER_BYTES).expect("a header is short");
    block_bytes.saturating_sub(header) * BLOCKS_PER_BYTE
}

/// The blocks, counted within the page of the map, of which `page` promises more than `other` does.
pub fn promises_more<'a>(page: &'a [u8], other: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
    let bytes = page.iter().zip(other).skip(HEADER_BYTES);
    (0_u32..).zip(bytes).flat_map(|(at, (own, other))| {
        let more = own & !other;
        (0..BLOCKS_PER_BYTE)
            .filter(move |block| more >> (block * BITS_PER_BLOCK) & 0x03 != 0)
            .filter_map(move |block| at.checked_mul(BLOCKS_PER_BYTE)?.checked_add(block))
    })
}

/// Whether a page of a heap says itself that all its tuples are visible.
#[must_use]
pub fn is_all_visible(heap_page: &[u8]) -> bool {
    heap_page
        .get(FLAGS)
        .is_some_and(|flags| flags & ALL_VISIBLE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &[u8] = include_bytes!("../../tests/it/data/pg/pages.15.vm");

    #[test]
    fn promises_that_the_other_does_not_make_are_found() {
        assert_eq!(heap_blocks_per_page(8192), 32_672);
        let mut more = MAP.to_vec();
        let mut other = MAP.to_vec();
        assert_eq!(promises_more(&more, &other).count(), 0);
        // All-visible of block 5, all-frozen of block 6, and what the other alone promises.
        other[24..30].fill(0);
        more[24..30].fill(0);
        more[25] = 0b01_10_01_00;
        other[25] = 0b01_00_00_11;
        assert_eq!(promises_more(&more, &other).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(promises_more(&[0; 8192], &more).count(), 0);
        assert!(promises_more(&more, &[0; 8192]).any(|block| block == 7));
        assert_eq!(promises_more(&[1; 7], &[]).count(), 0);
    }

    #[test]
    fn the_flag_of_the_page_is_read() {
        let mut page = vec![0; 8192];
        assert!(!is_all_visible(&page) && !is_all_visible(&[]));
        page[10] = 0x05;
        assert!(is_all_visible(&page));
    }
}
