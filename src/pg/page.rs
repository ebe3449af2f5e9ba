//! Pages of relations: their header, their checksum, and whether a page can be believed.
//!
//! The header is `PageHeaderData` in `src/include/storage/bufpage.h`, the checksum that of
//! `src/include/storage/checksum_impl.h`, the verdict that of a base backup
//! (`verify_page_checksum` in `src/backend/backup/basebackup.c`). Which files consist of pages is
//! said by [`layout`](super::layout); what stands in a page behind its header is not looked at.

use super::lsn::Lsn;

/// Length of the header of every page in bytes.
pub const HEADER_BYTES: usize = 24;

/// What the header of a page says.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub struct PageHeader {
    /// Behind the last record that changed the page. Hint bits may change without it.
    pub lsn: Lsn,
    /// 0 when the page was written without checksums.
    pub checksum: u16,
    /// Offset of the free space in bytes.
    pub lower: u16,
    /// Offset behind the free space in bytes; 0 only in a page that was never used.
    pub upper: u16,
}

impl PageHeader {
    /// Decodes the header of a page; `None` when there are fewer than [`HEADER_BYTES`] bytes.
    #[must_use]
    pub fn decode(page: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_BYTES] = page.first_chunk()?;
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        // The LSN is two 32 bit numbers, the high one first, each little endian.
        let half = |at: usize| u64::from(word(at)) | u64::from(word(at + 2)) << 16;
        Some(Self {
            lsn: Lsn(half(0) << 32 | half(4)),
            checksum: word(8),
            lower: word(12),
            upper: word(14),
        })
    }

    /// Whether the page was never used (`PageIsNew`). Such a page has no checksum.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.upper == 0
    }
}

/// How many sums run side by side (`N_SUMS`).
const LANES: usize = 32;

/// What each sum starts from (`checksumBaseOffsets`): part of the format.
const START: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The multiplier of the 32 bit FNV hash.
const FNV_PRIME: u32 = 16_777_619;

/// Calculates the checksum of a page, as if its checksum field were 0. Never 0 itself.
///
/// `page` is one whole block, a multiple of 128 bytes, as every block size is; bytes behind the
/// last multiple do not count. `relation_block` counts through the segments of the fork:
/// `segment * segment_blocks + block in the file`.
#[must_use]
pub fn checksum(page: &[u8], relation_block: u32) -> u16 {
    let (rows, _) = page.as_chunks::<{ LANES * 4 }>();
    let mut sums = START;
    if let Some((first, others)) = rows.split_first() {
        let mut first = *first;
        first[8..10].fill(0);
        mix(&mut sums, &first);
        for row in others {
            mix(&mut sums, row);
        }
    }
    let zeroes = [0; LANES * 4];
    mix(&mut sums, &zeroes);
    mix(&mut sums, &zeroes);
    let folded = sums.iter().fold(relation_block, |all, sum| all ^ sum);
    u16::try_from(folded % 65_535 + 1).expect("at most 65535")
}

/// Takes one word into each sum. Written lane by lane so that the compiler uses vector registers.
#[inline]
fn mix(sums: &mut [u32; LANES], row: &[u8; LANES * 4]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// What is known of a page that was read from a running server.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum PageVerdict {
    /// Never used, hence without checksum.
    New,
    /// The checksum holds.
    Valid,
    /// Changed since the backup's start: a torn read is possible and harmless, since the log holds
    /// the whole page. Not checked.
    Skipped,
    /// The checksum does not hold. Reading again tells a torn read from damage.
    Damaged {
        /// What the page says.
        expected: u16,
        /// What its content gives.
        actual: u16,
    },
}

/// Judges a page of a cluster with checksums, read after a backup began at `start`.
///
/// `page` is one whole block; what is too short for a header counts as damaged. For
/// `relation_block` see [`checksum`]. To check pages of a stopped cluster, let `start` be
/// `Lsn(u64::MAX)`.
#[must_use]
pub fn verify(page: &[u8], relation_block: u32, start: Lsn) -> PageVerdict {
    let header = PageHeader::decode(page);
    if header.is_some_and(|header| header.is_new()) {
        return PageVerdict::New;
    }
    if header.is_some_and(|header| header.lsn >= start) {
        return PageVerdict::Skipped;
    }
    let expected = header.map_or(0, |header| header.checksum);
    let actual = checksum(page, relation_block);
    if expected == actual {
        PageVerdict::Valid
    } else {
        PageVerdict::Damaged { expected, actual }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: usize = 8192;
    const MAIN: &[u8] = include_bytes!("../../tests/it/data/pg/pages.15.main");
    const MAP: &[u8] = include_bytes!("../../tests/it/data/pg/pages.15.vm");
    const FREE: &[u8] = include_bytes!("../../tests/it/data/pg/pages.15.fsm_block2");
    const END: Lsn = Lsn(u64::MAX);

    /// The checksum said once more, word after word, as the slow reference.
    fn reference(page: &[u8], relation_block: u32) -> u16 {
        let mut sums = START;
        let words = page.len() / 128 * 32;
        for index in 0..words + 64 {
            let mut word = 0;
            for byte in 0..4 {
                let at = index * 4 + byte;
                if index < words && at != 8 && at != 9 {
                    word |= u32::from(page[at]) << (8 * byte);
                }
            }
            let sum = &mut sums[index % 32];
            *sum ^= word;
            *sum = sum.wrapping_mul(FNV_PRIME) ^ (*sum >> 17);
        }
        let folded = sums.into_iter().fold(0, |all, sum| all ^ sum) ^ relation_block;
        u16::try_from(folded % 65_535 + 1).unwrap()
    }

    #[test]
    fn pages_of_a_real_cluster_are_valid_in_their_place_only() {
        for (page, block) in [
            (&MAIN[..BLOCK], 0),
            (&MAIN[BLOCK..], 1),
            (MAP, 0),
            (FREE, 2),
        ] {
            assert_eq!(page.len(), BLOCK);
            assert_eq!(verify(page, block, END), PageVerdict::Valid);
            let expected = PageHeader::decode(page).unwrap().checksum;
            assert_ne!(expected, 0);
            let actual = checksum(page, block + 7);
            assert_eq!(
                verify(page, block + 7, END),
                PageVerdict::Damaged { expected, actual }
            );
        }
    }

    #[test]
    fn the_header_is_decoded() {
        let header = PageHeader::decode(MAIN).unwrap();
        assert!(header.lsn > Lsn(0x0100_0000) && header.lsn < Lsn(0x1000_0000));
        assert!(header.lower > 24 && header.lower < header.upper);
        assert!(!header.is_new());
        let mut page = [0; HEADER_BYTES];
        page[..8].copy_from_slice(&[2, 0, 0, 0, 1, 0, 0, 0x80]);
        let lsn = PageHeader::decode(&page).unwrap().lsn;
        assert_eq!(lsn.to_string(), "2/80000001");
        assert_eq!(PageHeader::decode(&page[..23]), None);
    }

    #[test]
    fn pages_that_cannot_be_judged_are_not() {
        let lsn = PageHeader::decode(MAIN).unwrap().lsn;
        let mut damaged = MAIN[..BLOCK].to_vec();
        damaged[5000] ^= 0x10;
        assert_eq!(verify(&damaged, 0, lsn), PageVerdict::Skipped);
        assert!(matches!(
            verify(&damaged, 0, Lsn(lsn.0 + 1)),
            PageVerdict::Damaged { .. }
        ));
        assert_eq!(verify(&[0; BLOCK], 0, END), PageVerdict::New);
        // As the server does, only the one field tells a new page.
        damaged[14..16].fill(0);
        assert_eq!(verify(&damaged, 0, END), PageVerdict::New);
    }

    #[test]
    fn every_block_size_gives_what_the_reference_gives() {
        for blocks in [1, 2, 4, 8, 16, 32] {
            let page: Vec<u8> = (0..blocks * 1024u32)
                .map(|i| (i * 31 / 7).to_le_bytes()[0])
                .collect();
            for relation_block in [0, 1, 131_072, u32::MAX] {
                assert_eq!(
                    checksum(&page, relation_block),
                    reference(&page, relation_block)
                );
            }
        }
    }

    #[test]
    fn flipped_bits_are_noticed() {
        // A prime step, so that every bit of a word is met. No two of these collide.
        for bit in (0..BLOCK * 8).step_by(97) {
            let mut page = MAIN[..BLOCK].to_vec();
            page[bit / 8] ^= 1 << (bit % 8);
            let verdict = verify(&page, 0, END);
            assert!(matches!(verdict, PageVerdict::Damaged { .. }), "{bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            page in proptest::collection::vec(any::<u8>(), 0..2000), block: u32, start: u64,
        ) {
            prop_assert_eq!(checksum(&page, block), reference(&page, block));
            prop_assert_ne!(checksum(&page, block), 0);
            let _ = verify(&page, block, Lsn(start));
        }
    }
}
