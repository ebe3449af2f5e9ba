//! Whether the visibility map of a standby promises what is not so.
//!
//! A bit of a map may be cleared without a trace in the page's LSN (PostgreSQL `visibilitymap.c:visibilitymap_clear`), so
//! that maps of two servers may differ at any moment. What is certain is found on the standby alone: a bit that was on disk
//! at the threshold was set together with the flag of the heap's page, and who clears the flag clears the bit.

use crate::compare::verdict::{Fault, Law, Verdict, is_damaged};
use crate::pg::page::PageHeader;
use crate::pg::visibility::{is_all_visible, promises_more};

/// What is known of a page of a map.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MapVerdict {
    /// The page itself is damaged, or being written.
    pub page: Option<Verdict>,
    /// Blocks of the heap, counted within the page of the map, that are promised wrongly.
    pub wrong: Vec<u32>,
    /// How many the source does not promise, and nothing more can be said of.
    pub doubts: u64,
}

/// Judges a page of a map. `heap_page` reads the standby's page of a block, counted within the page of the map. With
/// `is_final` the source is at rest and the standby has all that it has.
pub fn judge_map(
    source: &[u8],
    standby: &[u8],
    block: u32,
    law: &Law,
    is_final: bool,
    mut heap_page: impl FnMut(u32) -> Option<Vec<u8>>,
) -> MapVerdict {
    let mut verdict = MapVerdict::default();
    let (Some(on_source), Some(on_standby)) =
        (PageHeader::decode(source), PageHeader::decode(standby))
    else {
        return verdict;
    };
    for (page, header, has_checksums, fault) in [
        (
            source,
            &on_source,
            law.source_has_checksums,
            Fault::DamagedOnSource,
        ),
        (
            standby,
            &on_standby,
            law.standby_has_checksums,
            Fault::DamagedOnStandby,
        ),
    ] {
        // The LSN of a map's page does not tell when it was changed last.
        if is_damaged(page, header, block, has_checksums) {
            verdict.page = Some(Verdict::Fault(fault));
            return verdict;
        }
    }
    let is_settled = on_standby.lsn <= law.threshold;
    for promised in promises_more(standby, source) {
        let is_denied = is_settled
            && heap_page(promised).is_some_and(|page| {
                PageHeader::decode(&page)
                    .is_some_and(|header| !header.is_new() && header.lsn <= law.threshold)
                    && !is_all_visible(&page)
            });
        if is_denied || is_final {
            verdict.wrong.push(promised);
        } else {
            verdict.doubts += 1;
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::lsn::Lsn;

    const LAW: Law = Law {
        threshold: Lsn(0x500),
        source_has_checksums: false,
        standby_has_checksums: false,
    };

    fn page(lsn: u8, flags: u8, content: u8) -> Vec<u8> {
        let mut page = vec![0; 8192];
        page[5] = lsn;
        page[10] = flags;
        page[15] = 0x20;
        page[26] = content;
        page
    }

    /// What is said of block 9, which the standby promises and the source does not.
    fn judged(map_lsn: u8, is_final: bool, heap: Option<&[u8]>) -> (Vec<u32>, u64) {
        let (source, standby) = (page(1, 0, 0), page(map_lsn, 0, 0b0000_0100));
        let verdict = judge_map(&source, &standby, 0, &LAW, is_final, |block| {
            assert_eq!(block, 9);
            heap.map(<[u8]>::to_vec)
        });
        assert_eq!(verdict.page, None);
        (verdict.wrong, verdict.doubts)
    }

    #[test]
    fn a_promise_that_the_heap_denies_is_wrong() {
        assert_eq!(judged(5, false, Some(&page(5, 0, 0)[..])), (vec![9], 0));
        // The flag is there; the heap or the map is newer; the heap is not there.
        assert_eq!(judged(5, false, Some(&page(5, 4, 0)[..])), (vec![], 1));
        assert_eq!(judged(5, false, Some(&page(6, 0, 0)[..])), (vec![], 1));
        assert_eq!(judged(6, false, Some(&page(5, 0, 0)[..])), (vec![], 1));
        assert_eq!(judged(5, false, None), (vec![], 1));
        // Nothing is to come that would make it true.
        assert_eq!(judged(5, true, Some(&page(5, 4, 0)[..])), (vec![9], 0));
    }

    #[test]
    fn what_only_the_source_promises_is_harmless_and_damage_is_told() {
        let (more, less) = (page(1, 0, 0xFF), page(1, 0, 0));
        let verdict = judge_map(&more, &less, 0, &LAW, true, |_| None);
        assert_eq!(verdict, MapVerdict::default());
        let law = Law {
            standby_has_checksums: true,
            ..LAW
        };
        let verdict = judge_map(&less, &more, 0, &law, true, |_| None);
        let damaged = Verdict::Fault(Fault::DamagedOnStandby);
        assert_eq!(verdict.page, Some(damaged));
        assert!(judge_map(&[], &[], 0, &LAW, true, |_| None).page.is_none());
    }
}
