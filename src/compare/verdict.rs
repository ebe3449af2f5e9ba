//! Whether a block of a standby is what it must be, beside the same block of its source.
//!
//! Both servers may be running: their files lag behind what they hold in memory, and one of them behind the other. But
//! what a completed checkpoint has behind it is on disk. So where both pages were changed last before the redo position
//! of both sides' last checkpoints, the *threshold*, they must be one page: same LSN, and same content but for noise
//! ([`canonical`]). Where one of them is newer nothing can be said yet.
//!
//! A page's LSN is the end of the record that changed it last, so that one which is the threshold itself lies before it
//! (PostgreSQL `xlog.c:XLogCheckBufferNeedsBackup`: `page_lsn <= RedoRecPtr`).

use std::fmt;

use crate::compare::xacts::OtherEnd;
use crate::pg::canonical::{self, PageKind, kind, make_canonical};
use crate::pg::hints::{self, Claim, FalseHint, HintVerdict, XactStatus};
use crate::pg::lsn::Lsn;
use crate::pg::page::{self, PageHeader};

/// By what pages are judged.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Law {
    /// What both disks hold all changes up to.
    pub threshold: Lsn,
    pub source_has_checksums: bool,
    pub standby_has_checksums: bool,
}

/// What is wrong with a block.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The page's own checksum, or its header, says that it is damaged.
    DamagedOnSource,
    DamagedOnStandby,
    /// The side has an older page: a write was lost, or the other has one that it must not have.
    LostOnSource,
    LostOnStandby,
    /// The same LSN, and another content.
    Content {
        /// Offset of the first byte that must not differ, and how many there are.
        first: usize,
        bytes: usize,
    },
    /// What the standby's page says of a transaction is not what its `pg_xact` says.
    FalseHint(FalseHint),
    /// The standby has nothing where the source has a page.
    MissingOnStandby,
    /// The standby has a page where the source has nothing.
    SuperfluousOnStandby,
    /// The standby's visibility map promises too much of this block of the heap.
    PromisedVisible(u32),
    /// The standby's `pg_xact` says of a transaction that it ended otherwise than on the source.
    TransactionStatus(OtherEnd),
}

impl Fault {
    /// Its stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::DamagedOnSource => "damaged-on-source",
            Self::DamagedOnStandby => "damaged-on-standby",
            Self::LostOnSource => "lost-write-on-source",
            Self::LostOnStandby => "lost-write-on-standby",
            Self::Content { .. } => "content",
            Self::FalseHint(_) => "false-hint",
            Self::MissingOnStandby => "missing-on-standby",
            Self::SuperfluousOnStandby => "superfluous-on-standby",
            Self::PromisedVisible(_) => "promised-visible",
            Self::TransactionStatus(_) => "transaction-status",
        }
    }

    /// The transaction that it is about; the first of several.
    #[must_use]
    pub fn xid(&self) -> Option<u32> {
        match self {
            Self::FalseHint(hint) => Some(hint.xid),
            Self::TransactionStatus(other) => Some(other.xid),
            _ => None,
        }
    }
}

/// The words complete a sentence that begins with "it".
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DamagedOnSource => f.write_str("fails its own checksum on the source"),
            Self::DamagedOnStandby => f.write_str("fails its own checksum on the standby"),
            Self::LostOnSource => f.write_str(
                "is older on the source than on the standby, and both were written before the last checkpoint: a write \
                 was lost on the source",
            ),
            Self::LostOnStandby => f.write_str(
                "is older on the standby than on the source, and both were written before the last checkpoint: a write \
                 was lost on the standby",
            ),
            Self::Content { first, bytes } => write!(
                f,
                "has the same LSN on both sides and another content: {bytes} bytes that are no hint bits, the first at \
                 offset {first}"
            ),
            Self::FalseHint(hint) => {
                let FalseHint {
                    line, xid, claim, ..
                } = hint;
                let (says, is) = match claim {
                    Claim::XminCommitted | Claim::XmaxCommitted => ("committed", "it did not"),
                    _ => ("rolled back", "it committed"),
                };
                write!(
                    f,
                    "says on the standby, in tuple {line}, that transaction {xid} {says}: by the standby's pg_xact {is}"
                )
            }
            Self::MissingOnStandby => {
                f.write_str("is empty or missing on the standby, and not on the source")
            }
            Self::PromisedVisible(block) => write!(
                f,
                "of the standby's visibility map promises that all rows of block {block} of the table are visible to \
                 everybody, which neither the source's map nor, where that is old enough, that block says"
            ),
            Self::TransactionStatus(other) => other.fmt(f),
            Self::SuperfluousOnStandby => {
                f.write_str("is empty or missing on the source, and not on the standby")
            }
        }
    }
}

/// What is known of a block.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Verdict {
    Equal,
    /// Differs in what may.
    Noise,
    /// Newer than the threshold on one side: cannot be compared yet.
    Changed,
    /// One side has a page that is old enough, and the other has none. A fault unless the block came or went since: the
    /// page's LSN does not tell of that.
    OneSided(Fault, Lsn),
    Fault(Fault),
    /// The same but for the flag that all tuples are visible, which replay leaves alone on a page that is newer
    /// (PostgreSQL `heapam_xlog.c:heap_xlog_visible`).
    AllVisible,
    /// Pages of an access method that is not known: whether what differs may is not known either.
    UnknownKind,
}

/// `bufpage.h:PD_ALL_VISIBLE`, and where the flags are.
const ALL_VISIBLE: u8 = 0x04;
const FLAGS: usize = 10;

/// Judges a block of a main fork. What is not there is zeros. `block` counts within the fork; `status` is what the
/// standby's `pg_xact` says of transactions, [`XactStatus::Unknown`] where it cannot tell.
pub fn judge(
    source: &[u8],
    standby: &[u8],
    block: u32,
    law: &Law,
    status: impl FnMut(u32) -> XactStatus,
) -> Verdict {
    if source == standby {
        return Verdict::Equal;
    }
    let (Some(on_source), Some(on_standby)) =
        (PageHeader::decode(source), PageHeader::decode(standby))
    else {
        return Verdict::UnknownKind;
    };
    let is_settled = |header: &PageHeader| header.lsn <= law.threshold;
    let settled = |is_settled: bool, verdict: Verdict| {
        if is_settled {
            verdict
        } else {
            Verdict::Changed
        }
    };
    if is_damaged(source, &on_source, block, law.source_has_checksums) {
        return settled(
            is_settled(&on_source),
            Verdict::Fault(Fault::DamagedOnSource),
        );
    }
    if is_damaged(standby, &on_standby, block, law.standby_has_checksums) {
        return settled(
            is_settled(&on_standby),
            Verdict::Fault(Fault::DamagedOnStandby),
        );
    }
    match (on_source.is_new(), on_standby.is_new()) {
        (false, true) => {
            let verdict = Verdict::OneSided(Fault::MissingOnStandby, on_source.lsn);
            return settled(is_settled(&on_source), verdict);
        }
        (true, false) => {
            let verdict = Verdict::OneSided(Fault::SuperfluousOnStandby, on_standby.lsn);
            return settled(is_settled(&on_standby), verdict);
        }
        _ => {}
    }
    if !is_settled(&on_source) || !is_settled(&on_standby) {
        return Verdict::Changed;
    }
    judge_settled((source, &on_source), (standby, &on_standby), status)
}

/// Judges two pages that were written before the threshold.
fn judge_settled(
    (source, on_source): (&[u8], &PageHeader),
    (standby, on_standby): (&[u8], &PageHeader),
    status: impl FnMut(u32) -> XactStatus,
) -> Verdict {
    let [mut theirs, mut ours] = [source, standby].map(|page| {
        let mut form = page.to_vec();
        make_canonical(&mut form);
        form
    });
    // Also with two LSNs. The image that is logged for a hint does not get into a page that is just being flushed
    // (PostgreSQL `bufmgr.c:MarkBufferDirtyHint`), and a write that was lost has lost nothing then.
    if theirs == ours {
        return match hints::judge_plain(standby, status) {
            HintVerdict::False(hint) => Verdict::Fault(Fault::FalseHint(hint)),
            HintVerdict::True | HintVerdict::NoHeap => Verdict::Noise,
        };
    }
    let kinds = [kind(source), kind(standby)];
    if kinds == [PageKind::Unknown; 2] {
        return Verdict::UnknownKind;
    }
    if on_source.lsn != on_standby.lsn {
        let is_ours_older = on_standby.lsn < on_source.lsn;
        return Verdict::Fault(if is_ours_older {
            Fault::LostOnStandby
        } else {
            Fault::LostOnSource
        });
    }
    if kinds == [PageKind::Heap; 2] {
        let before = [&theirs, &ours].map(|form| form[FLAGS]);
        theirs[FLAGS] &= !ALL_VISIBLE;
        ours[FLAGS] &= !ALL_VISIBLE;
        if theirs == ours {
            return Verdict::AllVisible;
        }
        [theirs[FLAGS], ours[FLAGS]] = before;
    }
    for form in [&mut theirs, &mut ours] {
        canonical::clear_unlogged(form);
    }
    if theirs == ours {
        return Verdict::Noise;
    }
    let mut unlike = theirs
        .iter()
        .zip(&ours)
        .enumerate()
        .filter_map(|(at, (a, b))| (a != b).then_some(at));
    let first = unlike.next().unwrap_or(0);
    Verdict::Fault(Fault::Content {
        first,
        bytes: unlike.count() + 1,
    })
}

/// Whether a page is broken by what it says itself. One that was never used has neither checksum nor content.
pub(super) fn is_damaged(
    page: &[u8],
    header: &PageHeader,
    block: u32,
    has_checksums: bool,
) -> bool {
    if header.is_new() {
        return page.iter().any(|byte| *byte != 0);
    }
    has_checksums && page::checksum(page, block) != header.checksum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: usize = 8192;
    const NUMBER: u32 = 3;

    const LAW: Law = Law {
        threshold: Lsn(0x500),
        source_has_checksums: true,
        standby_has_checksums: true,
    };

    /// A heap page of one tuple: its xmin, infomask and content.
    fn heap(lsn: u64, xmin: u32, infomask: u16, content: u8) -> Vec<u8> {
        let mut page = vec![0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        let word = |number: usize| u16::try_from(number).unwrap().to_le_bytes();
        let tuple = BLOCK - 64;
        put(4, &u32::try_from(lsn).unwrap().to_le_bytes());
        put(12, &word(28));
        put(14, &word(tuple));
        put(16, &word(BLOCK));
        put(18, &word(BLOCK | 4));
        let pointer = u32::try_from(tuple | 1 << 15 | 64 << 17).unwrap();
        put(24, &pointer.to_le_bytes());
        put(tuple, &xmin.to_le_bytes());
        put(tuple + 20, &infomask.to_le_bytes());
        put(tuple + 22, &[24]);
        put(tuple + 24, &[content; 40]);
        sealed(page)
    }

    fn sealed(mut page: Vec<u8>) -> Vec<u8> {
        let sum = page::checksum(&page, NUMBER).to_le_bytes();
        page[8..10].copy_from_slice(&sum);
        page
    }

    fn status(xid: u32) -> XactStatus {
        match xid {
            100 => XactStatus::Committed,
            200 => XactStatus::Aborted,
            _ => XactStatus::Unknown,
        }
    }

    fn judged(source: &[u8], standby: &[u8]) -> Verdict {
        judge(source, standby, NUMBER, &LAW, status)
    }

    const OLD: u64 = 0x400;
    const NEW: u64 = 0x501;
    const XMIN_COMMITTED: u16 = 0x100;

    #[test]
    fn what_is_before_the_threshold_must_be_one_page() {
        let page = heap(OLD, 100, 0, 1);
        assert_eq!(judged(&page, &page), Verdict::Equal);
        // The threshold itself is before it.
        for lsn in [1, OLD, LAW.threshold.0] {
            let content = judged(&heap(lsn, 100, 0, 1), &heap(lsn, 100, 0, 2));
            let first = BLOCK - 40;
            assert_eq!(content, Verdict::Fault(Fault::Content { first, bytes: 40 }));
        }
        let older = heap(OLD - 8, 100, 0, 2);
        assert_eq!(judged(&page, &older), Verdict::Fault(Fault::LostOnStandby));
        assert_eq!(judged(&older, &page), Verdict::Fault(Fault::LostOnSource));
    }

    #[test]
    fn what_is_newer_on_either_side_cannot_be_compared_yet() {
        let (old, new) = (heap(OLD, 100, 0, 1), heap(NEW, 100, 0, 2));
        for (source, standby) in [(&old, &new), (&new, &old), (&new, &heap(NEW, 100, 0, 1))] {
            assert_eq!(judged(source, standby), Verdict::Changed);
        }
    }

    #[test]
    fn hints_are_noise_unless_they_are_false() {
        let plain = |xmin| heap(OLD, xmin, 0, 1);
        let hinted = |xmin| heap(OLD, xmin, XMIN_COMMITTED, 1);
        assert_eq!(judged(&plain(100), &hinted(100)), Verdict::Noise);
        assert_eq!(judged(&hinted(200), &plain(200)), Verdict::Noise);
        let found = judged(&plain(200), &hinted(200));
        let Verdict::Fault(fault @ Fault::FalseHint(hint)) = found else {
            panic!("{found:?}");
        };
        assert_eq!((hint.line, hint.xid), (1, 200));
        assert!(fault.to_string().contains("transaction 200 committed"));
        // What cannot be looked up is believed.
        assert_eq!(judged(&plain(300), &hinted(300)), Verdict::Noise);
        // An image for a hint that did not reach the page.
        let behind = heap(OLD - 8, 100, 0, 1);
        assert_eq!(judged(&behind, &hinted(100)), Verdict::Noise);
    }

    #[test]
    fn damage_is_told_of_the_side_that_has_it() {
        let page = heap(OLD, 100, 0, 1);
        let mut torn = page.clone();
        torn[5000] ^= 1;
        assert_eq!(judged(&torn, &page), Verdict::Fault(Fault::DamagedOnSource));
        assert_eq!(
            judged(&page, &torn),
            Verdict::Fault(Fault::DamagedOnStandby)
        );
        // Perhaps only because it is being written.
        let mut torn = heap(NEW, 100, 0, 1);
        torn[5000] ^= 1;
        assert_eq!(judged(&page, &torn), Verdict::Changed);
        // A page without a header and with content.
        let mut headless = vec![0; BLOCK];
        headless[100] = 1;
        assert_eq!(
            judged(&page, &headless),
            Verdict::Fault(Fault::DamagedOnStandby)
        );
        // Without checksums there is none to fail.
        let law = Law {
            standby_has_checksums: false,
            ..LAW
        };
        let mut other = page.clone();
        other[8..10].fill(0);
        assert_eq!(judge(&page, &other, NUMBER, &law, status), Verdict::Noise);
    }

    #[test]
    fn what_only_one_side_has_is_told_with_its_lsn() {
        let (page, none) = (heap(OLD, 100, 0, 1), vec![0; BLOCK]);
        let lsn = Lsn(OLD);
        assert_eq!(
            judged(&page, &none),
            Verdict::OneSided(Fault::MissingOnStandby, lsn)
        );
        assert_eq!(
            judged(&none, &page),
            Verdict::OneSided(Fault::SuperfluousOnStandby, lsn)
        );
        let new = heap(NEW, 100, 0, 1);
        assert_eq!(judged(&new, &none), Verdict::Changed);
        assert_eq!(judged(&none, &new), Verdict::Changed);
    }

    #[test]
    fn the_flag_of_visible_tuples_alone_is_no_fault() {
        let page = heap(OLD, 100, 0, 1);
        let mut flagged = page.clone();
        flagged[FLAGS] |= ALL_VISIBLE;
        let flagged = sealed(flagged);
        assert_eq!(judged(&page, &flagged), Verdict::AllVisible);
        let mut other = flagged.clone();
        other[BLOCK - 1] ^= 1;
        let found = judged(&page, &sealed(other));
        assert!(matches!(found, Verdict::Fault(Fault::Content { .. })));
    }

    /// A page with a special space of eight bytes.
    fn special(lower: u16, content: &[(usize, &[u8])]) -> Vec<u8> {
        let mut page = heap(OLD, 0, 0, 0);
        page[24..].fill(0);
        page[12..14].copy_from_slice(&lower.to_le_bytes());
        page[14..16].copy_from_slice(&8136_u16.to_le_bytes());
        page[16..18].copy_from_slice(&8184_u16.to_le_bytes());
        for (at, bytes) in content {
            page[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        sealed(page)
    }

    #[test]
    fn what_a_sequence_counts_ahead_is_no_fault() {
        let sequence = |last: u8, other: u8| {
            let pointer = (0x1FC8_u32 | 1 << 15 | 41 << 17).to_le_bytes();
            special(
                28,
                &[
                    (24, &pointer),
                    (8136, &[2, 0, 0, 0]),
                    (8136 + 8, &[other]),
                    (8136 + 22, &[24]),
                    (8136 + 24, &[last, 0, 0, 0, 0, 0, 0, 0, 32 - last]),
                    (8184, &[0x17, 0x17]),
                ],
            )
        };
        assert_eq!(kind(&sequence(1, 0)), PageKind::Sequence);
        assert_eq!(judged(&sequence(2, 0), &sequence(32, 0)), Verdict::Noise);
        let found = judged(&sequence(2, 0), &sequence(32, 1));
        assert!(matches!(found, Verdict::Fault(Fault::Content { .. })));
    }

    #[test]
    fn what_a_metapage_of_spgist_remembers_is_no_fault() {
        let meta = |lower: u16, magic: u8, last: u8| {
            let id = [0x01, 0, 0, 0, 0, 0, 0x82, 0xFF];
            special(lower, &[(24, &[magic]), (40, &[last; 8]), (8184, &id)])
        };
        assert_eq!(kind(&meta(92, 1, 0)), PageKind::Spgist);
        assert_eq!(judged(&meta(92, 1, 3), &meta(92, 1, 9)), Verdict::Noise);
        let found = judged(&meta(92, 1, 3), &meta(92, 2, 3));
        assert!(matches!(found, Verdict::Fault(Fault::Content { .. })));
    }

    #[test]
    fn of_unknown_pages_nothing_is_known() {
        let unknown = |byte| {
            let mut page = heap(OLD, 100, 0, byte);
            page[18] = 9;
            sealed(page)
        };
        assert_eq!(judged(&unknown(1), &unknown(2)), Verdict::UnknownKind);
        let found = judged(&heap(OLD, 100, 0, 1), &unknown(1));
        assert!(matches!(found, Verdict::Fault(Fault::Content { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            source in proptest::collection::vec(any::<u8>(), 0..2000),
            standby in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let _ = judged(&source, &standby);
        }

        /// What may not differ is noticed, wherever it is.
        #[test]
        fn each_bit_that_counts_is_noticed(at in 10..BLOCK, bit in 0..8) {
            let page = heap(OLD, 100, XMIN_COMMITTED, 1);
            let mut other = page.clone();
            other[at] ^= 1_u8 << bit;
            let other = sealed(other);
            let [mut a, mut b] = [page.clone(), other.clone()];
            make_canonical(&mut a);
            make_canonical(&mut b);
            let verdict = judged(&page, &other);
            match verdict {
                Verdict::Noise | Verdict::Fault(Fault::FalseHint(_)) => prop_assert_eq!(a, b),
                Verdict::AllVisible => prop_assert_eq!(at, FLAGS),
                Verdict::Fault(_) => prop_assert_ne!(a, b),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
