//! Whether the hint bits of a heap page are true.
//!
//! A hint says what became of a transaction, so that nobody has to look it up again: a false one makes rows appear or
//! vanish, and neither `pg_amcheck` nor the page's checksum sees it. A server that went another way after a common
//! past may have set hints of that way, on pages whose LSN is older. `pg_xact` tells: two bits a transaction
//! (`src/backend/access/transam/clog.c`).

use std::fmt;

use super::canonical::{Tuple, tuples};
use crate::path::RelPath;

/// What `pg_xact` says of a transaction (`clog.h:TRANSACTION_STATUS_*`).
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum XactStatus {
    /// Also of one that a crash ended.
    InProgress,
    Committed,
    Aborted,
    /// A subtransaction whose parent is about to commit.
    SubCommitted,
    /// `pg_xact` knows it no more: every tuple that it left was frozen, or is not looked at. Confirms every claim.
    Unknown,
}

/// What hint bits say (`htup_details.h`).
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum Claim {
    XminCommitted,
    XminInvalid,
    XmaxCommitted,
    XmaxInvalid,
    /// That the update among the members of a multixact ended one way or the other: `pg_xact` alone cannot tell.
    Multixact,
}

/// A hint that is not confirmed.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub struct FalseHint {
    /// Number of the tuple's line pointer, from 1.
    pub line: u16,
    /// The transaction of the claim, or the multixact.
    pub xid: u32,
    pub claim: Claim,
    /// What was found instead; `None` for a multixact. A server that has ended takes a transaction in progress for
    /// aborted, so [`Claim::XminInvalid`] with [`XactStatus::InProgress`] may be true of one that a crash ended.
    pub found: Option<XactStatus>,
}

/// What is known of the hints of a page.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum HintVerdict {
    /// Every claim is confirmed.
    True,
    /// The first that is not.
    False(FalseHint),
    /// No page of a table, or one that contradicts itself.
    NoHeap,
}

const XMAX_EXCL_LOCK: u16 = 0x0040;
const XMAX_LOCK_ONLY: u16 = 0x0080;
const XMIN_COMMITTED: u16 = 0x0100;
const XMIN_INVALID: u16 = 0x0200;
const XMAX_COMMITTED: u16 = 0x0400;
const XMAX_INVALID: u16 = 0x0800;
const XMAX_IS_MULTI: u16 = 0x1000;
/// `HEAP_LOCK_MASK`.
const LOCKS: u16 = 0x0050;

// transam.h
const INVALID_XID: u32 = 0;
const FIRST_NORMAL_XID: u32 = 3;

/// Judges the hints of a page of a main fork by what `status` says of transactions.
///
/// Too strict rather than too mild: a claim is confirmed by its own status only, and one of a multixact that holds an
/// update never. Claims about a mere lock are not judged: no row depends on how it ended.
pub fn judge(page: &[u8], status: impl FnMut(u32) -> XactStatus) -> HintVerdict {
    judge_claims(page, status, true)
}

/// As [`judge`], but claims about multixacts are not judged: where only what is certainly false counts.
pub fn judge_plain(page: &[u8], status: impl FnMut(u32) -> XactStatus) -> HintVerdict {
    judge_claims(page, status, false)
}

fn judge_claims(
    page: &[u8],
    mut status: impl FnMut(u32) -> XactStatus,
    with_multixacts: bool,
) -> HintVerdict {
    let Some(mut tuples) = tuples(page) else {
        return HintVerdict::NoHeap;
    };
    tuples
        .find_map(|tuple| doubt(tuple, &mut status, with_multixacts))
        .map_or(HintVerdict::True, HintVerdict::False)
}

/// The first claim of a tuple that is not confirmed.
fn doubt(
    tuple: Tuple,
    status: &mut impl FnMut(u32) -> XactStatus,
    with_multixacts: bool,
) -> Option<FalseHint> {
    let Tuple {
        line,
        xmin,
        xmax,
        infomask,
    } = tuple;
    let is_set = |bit: u16| infomask & bit != 0;
    // Both bits: frozen, which came by WAL.
    let xmin_claim = match infomask & (XMIN_COMMITTED | XMIN_INVALID) {
        XMIN_COMMITTED => Some(Claim::XminCommitted),
        XMIN_INVALID => Some(Claim::XminInvalid),
        _ => None,
    };
    // `HEAP_XMAX_IS_LOCKED_ONLY`, with the locks of before 9.3.
    let is_lock = is_set(XMAX_LOCK_ONLY) || infomask & (XMAX_IS_MULTI | LOCKS) == XMAX_EXCL_LOCK;
    let is_multi = is_set(XMAX_IS_MULTI);
    let has_claim = xmax != INVALID_XID && !is_lock;
    let is_judged_multi = with_multixacts && is_multi;
    let multi_claim = (has_claim && is_judged_multi && is_set(XMAX_COMMITTED | XMAX_INVALID))
        .then_some(Claim::Multixact);
    let is_plain = has_claim && !is_multi;
    let committed = (is_plain && is_set(XMAX_COMMITTED)).then_some(Claim::XmaxCommitted);
    let invalid = (is_plain && is_set(XMAX_INVALID)).then_some(Claim::XmaxInvalid);
    [
        (xmin, xmin_claim),
        (xmax, multi_claim),
        (xmax, committed),
        (xmax, invalid),
    ]
    .into_iter()
    .find_map(|(xid, claim)| {
        let claim = claim?;
        let wanted = match claim {
            Claim::XminCommitted | Claim::XmaxCommitted => Some(XactStatus::Committed),
            Claim::XminInvalid | Claim::XmaxInvalid => Some(XactStatus::Aborted),
            Claim::Multixact => None,
        };
        let found = wanted.map(|_| settled(xid).unwrap_or_else(|| status(xid)));
        let is_confirmed =
            wanted.is_some() && (found == wanted || found == Some(XactStatus::Unknown));
        (!is_confirmed).then_some(FalseHint {
            line,
            xid,
            claim,
            found,
        })
    })
}

/// What needs no looking up: no transaction at all, and the two that made the cluster
/// (`transam.c:TransactionLogFetch`).
fn settled(xid: u32) -> Option<XactStatus> {
    match xid {
        INVALID_XID => Some(XactStatus::Aborted),
        1..FIRST_NORMAL_XID => Some(XactStatus::Committed),
        _ => None,
    }
}

/// `clog.c:CLOG_XACTS_PER_BYTE`.
const XACTS_PER_BYTE: usize = 4;
/// `slru.h:SLRU_PAGES_PER_SEGMENT`.
const PAGES_PER_SEGMENT: u32 = 32;

/// Where `pg_xact` has a transaction.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct XactPage {
    /// Number of the file; its name is what is displayed.
    pub segment: u32,
    /// Number of the page in the file.
    pub page: u32,
}

impl XactPage {
    /// The page of a transaction in a cluster with this block size.
    #[must_use]
    pub fn of(xid: u32, block_size: u32) -> Self {
        let per_page = u64::from(block_size.max(1)) * XACTS_PER_BYTE as u64;
        // No more than there are transactions.
        let page = u32::try_from(u64::from(xid) / per_page).unwrap_or(u32::MAX);
        Self {
            segment: page / PAGES_PER_SEGMENT,
            page: page % PAGES_PER_SEGMENT,
        }
    }

    /// All pages of the file at a path, if that is one of `pg_xact`.
    pub fn of_file(path: &RelPath) -> impl Iterator<Item = Self> {
        let is_placed = path
            .parent()
            .is_some_and(|folder| folder.as_bytes() == b"pg_xact");
        let name = std::str::from_utf8(path.name()).ok();
        let segment = name.filter(|name| {
            let is_digit = |digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F');
            is_placed && name.len() == 4 && name.bytes().all(is_digit)
        });
        let segment = segment.and_then(|name| u32::from_str_radix(name, 16).ok());
        segment
            .into_iter()
            .flat_map(|segment| (0..PAGES_PER_SEGMENT).map(move |page| Self { segment, page }))
    }

    /// Its first transaction, and how many it has.
    #[must_use]
    pub fn xids(self, block_size: u32) -> (u64, u64) {
        let per_page = u64::from(block_size) * XACTS_PER_BYTE as u64;
        let page = u64::from(self.segment) * u64::from(PAGES_PER_SEGMENT) + u64::from(self.page);
        (page * per_page, per_page)
    }
}

impl fmt::Display for XactPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}", self.segment)
    }
}

/// What a page of `pg_xact` says of one of its transactions.
///
/// `page` is the whole block of [`XactPage::of`], or empty when there is none: then the status is unknown, which is
/// right of what is too old and wrong of what is to come ([`XidRange::outside`]).
#[must_use]
pub fn status_in(page: &[u8], xid: u32) -> XactStatus {
    let number = xid as usize;
    let byte = (number / XACTS_PER_BYTE)
        .checked_rem(page.len())
        .and_then(|at| page.get(at));
    match byte.map(|byte| byte >> (number % XACTS_PER_BYTE * 2) & 3) {
        None => XactStatus::Unknown,
        Some(0) => XactStatus::InProgress,
        Some(1) => XactStatus::Committed,
        Some(2) => XactStatus::Aborted,
        Some(_) => XactStatus::SubCommitted,
    }
}

/// The transactions that `pg_xact` has: from the oldest to the one that comes next, as the control file names them.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub struct XidRange {
    pub oldest: u32,
    /// The low half of the next transaction's number. Not older than the page that is judged was when `pg_xact` was
    /// read.
    pub next: u32,
}

impl XidRange {
    /// The status of a transaction that `pg_xact` does not have, `None` when it has. One that is still to come is in
    /// progress: no claim about it can be true.
    ///
    /// Transactions count in a circle: half of it is past (`transam.c:TransactionIdPrecedes`).
    #[must_use]
    pub fn outside(self, xid: u32) -> Option<XactStatus> {
        let age = xid.wrapping_sub(self.oldest);
        if age < self.next.wrapping_sub(self.oldest) {
            None
        } else if age > u32::MAX / 2 {
            Some(XactStatus::Unknown)
        } else {
            Some(XactStatus::InProgress)
        }
    }

    /// The transactions that two ranges share.
    #[must_use]
    pub fn shared(self, other: Self) -> Self {
        let is_before = |a: u32, b: u32| a.wrapping_sub(b) > u32::MAX / 2;
        let later = |a, b| if is_before(a, b) { b } else { a };
        let earlier = |a, b| if is_before(a, b) { a } else { b };
        let oldest = later(self.oldest, other.oldest);
        Self {
            oldest,
            next: later(oldest, earlier(self.next, other.next)),
        }
    }
}

/// The transactions of which the `pg_xact` on a disk says for good how they ended.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub struct Settled {
    pub range: XidRange,
    /// Whether one that is in progress there will never commit: otherwise it may be a prepared one.
    pub is_final: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: usize = 8192;

    /// A heap page with one tuple for each of these: xmin, xmax, infomask.
    fn page(tuples: &[(u32, u32, u16)]) -> Vec<u8> {
        let mut page = vec![0; BLOCK];
        let mut word = |at: usize, value: usize| {
            page[at..at + 2].copy_from_slice(&u16::try_from(value).unwrap().to_le_bytes());
        };
        let upper = BLOCK - 32 * tuples.len();
        word(12, 24 + 4 * tuples.len());
        word(14, upper);
        word(16, BLOCK);
        word(18, BLOCK | 4);
        for (index, (xmin, xmax, infomask)) in tuples.iter().enumerate() {
            let at = upper + 32 * index;
            let pointer = u32::try_from(at | 1 << 15 | 28 << 17).unwrap();
            let line = 24 + 4 * index;
            page[line..line + 4].copy_from_slice(&pointer.to_le_bytes());
            page[at..at + 4].copy_from_slice(&xmin.to_le_bytes());
            page[at + 4..at + 8].copy_from_slice(&xmax.to_le_bytes());
            page[at + 20..at + 22].copy_from_slice(&infomask.to_le_bytes());
        }
        page
    }

    /// Transactions of these tests: what the number says.
    fn status(xid: u32) -> XactStatus {
        match xid % 10 {
            0 => XactStatus::InProgress,
            1 => XactStatus::Committed,
            2 => XactStatus::Aborted,
            3 => XactStatus::SubCommitted,
            _ => XactStatus::Unknown,
        }
    }

    fn claim(xmin: u32, xmax: u32, infomask: u16) -> Option<Claim> {
        match judge(&page(&[(xmin, xmax, infomask)]), status) {
            HintVerdict::True => None,
            HintVerdict::False(hint) => {
                assert_eq!(hint.line, 1);
                Some(hint.claim)
            }
            HintVerdict::NoHeap => panic!("a heap"),
        }
    }

    #[test]
    fn each_claim_is_confirmed_by_its_own_status_only() {
        for (bit, as_xmin, claimed, confirming) in [
            (XMIN_COMMITTED, true, Claim::XminCommitted, 101),
            (XMIN_INVALID, true, Claim::XminInvalid, 102),
            (XMAX_COMMITTED, false, Claim::XmaxCommitted, 101),
            (XMAX_INVALID, false, Claim::XmaxInvalid, 102),
        ] {
            for xid in [100, 101, 102, 103] {
                let (xmin, xmax) = if as_xmin { (xid, 0) } else { (100, xid) };
                let expected = (xid != confirming).then_some(claimed);
                assert_eq!(claim(xmin, xmax, bit), expected, "{bit:x} {xid}");
            }
            // Too old to be known.
            assert_eq!(claim(104, 104, bit), None);
        }
    }

    #[test]
    fn what_claims_nothing_is_true() {
        // No hint; frozen; no xmax, which every new tuple says; a lock, new and as before 9.3; a multixact of locks.
        for (xmin, xmax, infomask) in [
            (100, 100, 0),
            (100, 0, XMIN_COMMITTED | XMIN_INVALID | XMAX_INVALID),
            (101, 0, XMIN_COMMITTED | XMAX_INVALID),
            (100, 101, XMAX_LOCK_ONLY | XMAX_INVALID),
            (100, 101, XMAX_EXCL_LOCK | XMAX_INVALID),
            (100, 7, XMAX_IS_MULTI | XMAX_LOCK_ONLY | XMAX_INVALID),
            (100, 7, XMAX_IS_MULTI),
            // The cluster's first transactions, and a speculative insert that was taken back.
            (1, 0, XMIN_COMMITTED),
            (2, 0, XMIN_COMMITTED),
            (0, 0, XMIN_INVALID),
        ] {
            assert_eq!(claim(xmin, xmax, infomask), None, "{infomask:x}");
        }
    }

    #[test]
    fn multixacts_with_an_update_cannot_be_confirmed() {
        for bit in [XMAX_COMMITTED, XMAX_INVALID] {
            assert_eq!(claim(100, 7, XMAX_IS_MULTI | bit), Some(Claim::Multixact));
            // The bit of a lock says nothing in a multixact.
            let infomask = XMAX_IS_MULTI | XMAX_EXCL_LOCK | bit;
            assert_eq!(claim(100, 7, infomask), Some(Claim::Multixact));
            // What stands behind it is judged all the same.
            let page = page(&[(100, 7, infomask), (102, 0, XMIN_COMMITTED)]);
            let HintVerdict::False(hint) = judge_plain(&page, status) else {
                panic!("the second is false");
            };
            assert_eq!((hint.line, hint.claim), (2, Claim::XminCommitted));
        }
    }

    #[test]
    fn impossible_claims_are_false() {
        assert_eq!(claim(0, 0, XMIN_COMMITTED), Some(Claim::XminCommitted));
        assert_eq!(claim(1, 0, XMIN_INVALID), Some(Claim::XminInvalid));
    }

    #[test]
    fn the_first_false_hint_is_named() {
        let tuples = [
            (101, 0, XMIN_COMMITTED),
            (101, 110, XMIN_COMMITTED | XMAX_COMMITTED),
            (100, 0, XMIN_COMMITTED),
        ];
        assert_eq!(
            judge(&page(&tuples), status),
            HintVerdict::False(FalseHint {
                line: 2,
                xid: 110,
                claim: Claim::XmaxCommitted,
                found: Some(XactStatus::InProgress),
            })
        );
        assert_eq!(judge(&page(&tuples[..1]), status), HintVerdict::True);
    }

    #[test]
    fn only_sound_heap_pages_are_judged() {
        let mut other = page(&[(101, 0, XMIN_COMMITTED)]);
        other[16..18].copy_from_slice(&8184u16.to_le_bytes());
        let mut crossed = page(&[(101, 0, 0), (101, 0, 0)]);
        crossed.copy_within(24..28, 28);
        for page in [vec![], vec![0; BLOCK], other, crossed] {
            assert_eq!(judge(&page, status), HintVerdict::NoHeap);
        }
    }

    #[test]
    fn transactions_are_where_pg_xact_has_them() {
        for (xid, block, segment, number, name) in [
            (0, 8192, 0, 0, "0000"),
            (32_767, 8192, 0, 0, "0000"),
            (32_768, 8192, 0, 1, "0000"),
            (1_048_575, 8192, 0, 31, "0000"),
            (1_048_576, 8192, 1, 0, "0001"),
            (u32::MAX, 8192, 4095, 31, "0FFF"),
            (u32::MAX, 1024, 32_767, 31, "7FFF"),
            (131_072, 32_768, 0, 1, "0000"),
        ] {
            let found = XactPage::of(xid, block);
            assert_eq!((found.segment, found.page), (segment, number), "{xid}");
            assert_eq!(found.to_string(), name);
        }
    }

    #[test]
    fn a_page_of_pg_xact_is_read() {
        let mut page = vec![0; BLOCK];
        // Transactions 4 to 7 of the page, the first in the lowest bits.
        page[1] = 0b11_10_01_00;
        for base in [0, 32_768, 1_048_576] {
            let found = [4, 5, 6, 7].map(|xid| status_in(&page, base + xid));
            assert_eq!(
                found,
                [
                    XactStatus::InProgress,
                    XactStatus::Committed,
                    XactStatus::Aborted,
                    XactStatus::SubCommitted
                ]
            );
        }
        assert_eq!(status_in(&[], 4), XactStatus::Unknown);
    }

    #[test]
    fn a_range_may_cross_the_end_of_the_numbers() {
        let range = XidRange {
            oldest: u32::MAX - 9,
            next: 20,
        };
        for (xid, expected) in [
            (u32::MAX - 10, Some(XactStatus::Unknown)),
            (u32::MAX - 9, None),
            (19, None),
            (20, Some(XactStatus::InProgress)),
            (1_000_000, Some(XactStatus::InProgress)),
            (3_000_000_000, Some(XactStatus::Unknown)),
        ] {
            assert_eq!(range.outside(xid), expected, "{xid}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000), xid: u32, next: u32, block: u32,
        ) {
            let _ = judge(&bytes, status);
            let _ = status_in(&bytes, xid);
            let _ = XactPage::of(xid, block).to_string();
            let _ = XidRange { oldest: xid, next }.outside(block);
        }

        #[test]
        fn any_tuples_are_judged(
            tuples in proptest::collection::vec((0..200u32, 0..200u32, any::<u16>()), 0..200),
        ) {
            let verdict = judge(&page(&tuples), status);
            prop_assert_ne!(verdict, HintVerdict::NoHeap);
            if let HintVerdict::False(hint) = verdict {
                prop_assert!(hint.found != Some(XactStatus::Unknown));
                let (xmin, xmax, _) = tuples[usize::from(hint.line) - 1];
                prop_assert!(hint.xid == xmin || hint.xid == xmax);
            }
        }
    }

    #[test]
    fn ranges_share_what_both_have() {
        let range = |oldest, next| XidRange { oldest, next };
        for (a, b, shared) in [
            ((700, 900), (600, 850), (700, 850)),
            ((700, 900), (700, 900), (700, 900)),
            ((700, 800), (900, 950), (900, 900)),
            (
                (u32::MAX - 9, 400),
                (u32::MAX - 99, 500),
                (u32::MAX - 9, 400),
            ),
            ((u32::MAX - 9, 400), (5, 500), (5, 400)),
        ] {
            let (a, b) = (range(a.0, a.1), range(b.0, b.1));
            assert_eq!(a.shared(b), range(shared.0, shared.1), "{a:?} {b:?}");
            assert_eq!(b.shared(a), a.shared(b));
        }
    }

    #[test]
    fn files_of_pg_xact_have_their_pages() {
        let pages = |path: &str| {
            let path = RelPath::parse(path.as_bytes()).unwrap();
            XactPage::of_file(&path).collect::<Vec<_>>()
        };
        let found = pages("pg_xact/00AF");
        assert_eq!(found.len(), 32);
        for page in found {
            let (first, count) = page.xids(8192);
            assert_eq!(count, 32_768);
            let first = u32::try_from(first).unwrap();
            assert_eq!(XactPage::of(first, 8192), page);
            assert_eq!(XactPage::of(first + 32_767, 8192), page);
            assert_eq!(page.to_string(), "00AF");
        }
        for other in [
            "pg_xact",
            "pg_xact/0000/0000",
            "base/0000",
            "pg_xact/00af",
            "pg_xact/0",
            "pg_xact/+123",
        ] {
            assert!(pages(other).is_empty(), "{other}");
        }
    }
}
