//! Whether the `pg_xact` of a standby says the same of transactions as its source's.
//!
//! Its pages have no LSN. But what the last checkpoint found to have ended is on disk as it ended, and never changes
//! again: these transactions, settled on both sides, must have committed on both or on neither. All others are left out,
//! and with them what a server has in memory only, what it writes later, and subtransactions whose parent is just
//! committing.
//!
//! One that did not commit may be in progress for ever on one side and aborted on the other: that it was aborted is
//! written to the disk without waiting for its WAL (PostgreSQL `transam.c:TransactionIdAbortTree`), and a crash may lose
//! that WAL. Both mean the same.
//!
//! `pg_multixact` cannot be judged so: a checkpoint counts multixacts that have a number and no content yet
//! (`multixact.c:MultiXactIdCreateFromMembers`), and does not say which these are.

use std::fmt;

use crate::compare::verdict::{Fault, Verdict};
use crate::pg::hints::{Settled, XactPage, XactStatus, XidRange, status_in};

/// A transaction that ended otherwise on both sides.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct OtherEnd {
    /// The first of the page.
    pub xid: u32,
    pub source: XactStatus,
    pub standby: XactStatus,
    /// How many more the page has.
    pub more: u32,
}

/// The words complete a sentence that begins with "it".
impl fmt::Display for OtherEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            xid,
            source,
            standby,
            more,
        } = self;
        write!(
            f,
            "says on the standby that transaction {xid} {}, and on the source that it {}",
            words(*standby),
            words(*source)
        )?;
        match more {
            0 => Ok(()),
            1 => f.write_str("; 1 more transaction in the block ended otherwise, too"),
            more => write!(
                f,
                "; {more} more transactions in the block ended otherwise, too"
            ),
        }
    }
}

fn words(status: XactStatus) -> &'static str {
    match status {
        XactStatus::Committed => "committed",
        XactStatus::Aborted => "rolled back",
        XactStatus::SubCommitted => "is a part of one that is about to commit",
        XactStatus::InProgress | XactStatus::Unknown => "never ended",
    }
}

/// What is settled on both sides.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct XactLaw {
    range: XidRange,
    source_is_final: bool,
    standby_is_final: bool,
}

impl XactLaw {
    #[must_use]
    pub fn of(source: Settled, standby: Settled) -> Self {
        Self {
            range: source.range.shared(standby.range),
            source_is_final: source.is_final,
            standby_is_final: standby.is_final,
        }
    }

    /// The same where nothing more can come from the source: what is in progress stays so.
    #[must_use]
    pub fn at_the_end(self) -> Self {
        Self {
            source_is_final: true,
            standby_is_final: true,
            ..self
        }
    }

    /// Whether a page has any of them.
    #[must_use]
    pub fn concerns(&self, page: XactPage, block_bytes: u32) -> bool {
        let (first, count) = page.xids(block_bytes);
        let Ok(first) = u32::try_from(first) else {
            return false;
        };
        let XidRange { oldest, next } = self.range;
        let begins_in = u64::from(oldest.wrapping_sub(first)) < count;
        oldest != next && (begins_in || self.range.outside(first).is_none())
    }

    fn judge(&self, source: XactStatus, standby: XactStatus) -> End {
        use XactStatus::{Aborted, InProgress};
        let may_commit = |status, is_final: bool| status == InProgress && !is_final;
        if source == standby
            || matches!(
                (source, standby),
                (InProgress | Aborted, InProgress | Aborted)
            )
        {
            End::Same
        } else if may_commit(source, self.source_is_final)
            || may_commit(standby, self.standby_is_final)
        {
            End::NotYet
        } else {
            End::Other
        }
    }
}

/// What is known of how a transaction ended.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
enum End {
    Same,
    /// On one side it may still commit.
    NotYet,
    Other,
}

/// Judges a page of `pg_xact`.
#[must_use]
pub fn judge_xacts(source: &[u8], standby: &[u8], page: XactPage, law: &XactLaw) -> Verdict {
    let bytes = source.iter().zip(standby).enumerate();
    let (first, _) = page.xids(u32::try_from(source.len()).unwrap_or(0));
    let mut other: Option<OtherEnd> = None;
    let mut is_undecided = false;
    for (at, _) in bytes.filter(|(_, (a, b))| a != b) {
        let first = first + at as u64 * PER_BYTE;
        // No more than there are transactions.
        let xids = (first..first + PER_BYTE).filter_map(|xid| u32::try_from(xid).ok());
        for xid in xids.filter(|xid| law.range.outside(*xid).is_none()) {
            let (on_source, on_standby) = (status_in(source, xid), status_in(standby, xid));
            match (law.judge(on_source, on_standby), &mut other) {
                (End::Same, _) => {}
                (End::NotYet, _) => is_undecided = true,
                (End::Other, Some(first)) => first.more += 1,
                (End::Other, None) => {
                    other = Some(OtherEnd {
                        xid,
                        source: on_source,
                        standby: on_standby,
                        more: 0,
                    });
                }
            }
        }
    }
    match other {
        Some(other) => Verdict::Fault(Fault::TransactionStatus(other)),
        None if is_undecided => Verdict::Changed,
        None => Verdict::Equal,
    }
}

/// `clog.c:CLOG_XACTS_PER_BYTE`.
const PER_BYTE: u64 = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path::RelPath;

    const BLOCK: usize = 8192;
    const PAGE_XIDS: u32 = 32_768;
    /// The first of all.
    const PAGE: XactPage = XactPage {
        segment: 0,
        page: 0,
    };

    fn settled(oldest: u32, next: u32, is_final: bool) -> Settled {
        Settled {
            range: XidRange { oldest, next },
            is_final,
        }
    }

    fn law() -> XactLaw {
        XactLaw::of(settled(700, 900, true), settled(600, 850, true))
    }

    /// A page with these statuses, two bits each.
    fn page(statuses: &[(u32, u8)]) -> Vec<u8> {
        let mut page = vec![0; BLOCK];
        for (xid, status) in statuses {
            let at = *xid as usize % PAGE_XIDS as usize;
            page[at / 4] |= status << (at % 4 * 2);
        }
        page
    }

    fn judged(xid: u32, source: u8, standby: u8, law: &XactLaw) -> Verdict {
        let [source, standby] = [source, standby].map(|status| page(&[(xid, status)]));
        let page = XactPage::of(xid, u32::try_from(BLOCK).unwrap());
        judge_xacts(&source, &standby, page, law)
    }

    const IN_PROGRESS: u8 = 0;
    const COMMITTED: u8 = 1;
    const ABORTED: u8 = 2;
    const SUB_COMMITTED: u8 = 3;

    #[test]
    fn who_committed_on_one_side_must_have_on_the_other() {
        let all = [IN_PROGRESS, COMMITTED, ABORTED, SUB_COMMITTED];
        for (source, standby) in all.into_iter().flat_map(|a| all.map(|b| (a, b))) {
            let ended_so = |status| matches!(status, IN_PROGRESS | ABORTED);
            let is_same = source == standby || ended_so(source) && ended_so(standby);
            let verdict = judged(800, source, standby, &law());
            let is_fault = matches!(
                verdict,
                Verdict::Fault(Fault::TransactionStatus(OtherEnd {
                    xid: 800,
                    more: 0,
                    ..
                }))
            );
            assert_eq!(is_fault, !is_same, "{source} {standby}: {verdict:?}");
            assert_eq!(verdict == Verdict::Equal, is_same, "{source} {standby}");
        }
    }

    #[test]
    fn what_is_not_settled_on_both_sides_is_left_out() {
        for (xid, is_told) in [
            (699, false),
            (700, true),
            (849, true),
            (850, false),
            (899, false),
        ] {
            let verdict = judged(xid, COMMITTED, ABORTED, &law());
            assert_eq!(verdict != Verdict::Equal, is_told, "{xid}");
        }
        // Nothing is settled on both.
        let none = XactLaw::of(settled(700, 800, true), settled(900, 950, true));
        assert!(!none.concerns(PAGE, 8192));
        for xid in [700, 800, 900, 949] {
            assert_eq!(judged(xid, COMMITTED, ABORTED, &none), Verdict::Equal);
        }
    }

    #[test]
    fn what_may_be_prepared_may_still_commit() {
        let at_rest = settled(700, 900, false);
        for (source, standby, on_source, on_standby, expected) in [
            (
                settled(700, 900, true),
                at_rest,
                COMMITTED,
                IN_PROGRESS,
                true,
            ),
            (
                settled(700, 900, true),
                at_rest,
                IN_PROGRESS,
                COMMITTED,
                false,
            ),
            (
                at_rest,
                settled(700, 900, true),
                IN_PROGRESS,
                COMMITTED,
                true,
            ),
            // What has ended has.
            (at_rest, at_rest, COMMITTED, ABORTED, false),
        ] {
            let law = XactLaw::of(source, standby);
            let verdict = judged(800, on_source, on_standby, &law);
            assert_eq!(verdict == Verdict::Changed, expected, "{verdict:?}");
            let verdict = judged(800, on_source, on_standby, &law.at_the_end());
            assert!(matches!(verdict, Verdict::Fault(_)), "{verdict:?}");
        }
    }

    #[test]
    fn all_of_a_page_are_one_fault() {
        let source = page(&[
            (700, COMMITTED),
            (701, ABORTED),
            (849, COMMITTED),
            (850, COMMITTED),
        ]);
        let verdict = judge_xacts(&source, &vec![0; BLOCK], PAGE, &law());
        let Verdict::Fault(fault @ Fault::TransactionStatus(other)) = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!((other.xid, other.more), (700, 1));
        assert_eq!(
            (fault.code(), fault.xid()),
            ("transaction-status", Some(700))
        );
        assert_eq!(
            fault.to_string(),
            "says on the standby that transaction 700 never ended, and on the source that it committed; 1 more \
             transaction in the block ended otherwise, too"
        );
    }

    #[test]
    fn transactions_count_in_a_circle() {
        let law = XactLaw::of(
            settled(u32::MAX - 100, 500, true),
            settled(u32::MAX - 50, 400, true),
        );
        for (xid, is_told) in [
            (u32::MAX - 60, false),
            (u32::MAX - 50, true),
            (u32::MAX, true),
            (3, true),
            (399, true),
            (400, false),
        ] {
            let verdict = judged(xid, COMMITTED, ABORTED, &law);
            assert_eq!(verdict != Verdict::Equal, is_told, "{xid}");
        }
    }

    #[test]
    fn pages_with_something_settled_are_looked_at() {
        let law = XactLaw::of(
            settled(PAGE_XIDS - 1, 3 * PAGE_XIDS, true),
            settled(3, 2 * PAGE_XIDS + 1, true),
        );
        let path = RelPath::parse(b"pg_xact/0000").unwrap();
        let pages: Vec<u32> = XactPage::of_file(&path)
            .filter(|page| law.concerns(*page, 8192))
            .map(|page| page.page)
            .collect();
        assert_eq!(pages, [0, 1, 2]);
        let next = RelPath::parse(b"pg_xact/0001").unwrap();
        assert!(!XactPage::of_file(&next).any(|page| law.concerns(page, 8192)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            source in proptest::collection::vec(any::<u8>(), 0..200),
            standby in proptest::collection::vec(any::<u8>(), 0..200),
            segment: u32, page in 0..32_u32, oldest: u32, next: u32,
        ) {
            let law = XactLaw::of(settled(oldest, next, true), settled(3, next, false));
            let page = XactPage { segment, page };
            let _ = judge_xacts(&source, &standby, page, &law);
            let _ = law.concerns(page, 8192);
        }
    }
}
