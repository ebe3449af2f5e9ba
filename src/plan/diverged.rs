//! The WAL that only the target has: where it begins, and which files of its pg_wal hold it.

use crate::pg::lsn::{Lsn, SegmentName, WalFile};
use crate::pg::timeline::{History, TimelineId};
use crate::plan::relation::Relation;

/// Where the WAL begins that only the target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divergence {
    /// The timeline on which it goes on.
    pub timeline: TimelineId,
    /// `0/0` where nothing says where it begins.
    pub from: Lsn,
    /// Where it ends, if that is known: segments behind it were made for later use.
    pub until: Option<Lsn>,
}

impl Divergence {
    /// `None` when the target has nothing of its own, as far as its history tells.
    #[must_use]
    pub fn of(relation: &Relation, history: &History) -> Option<Self> {
        let from = match relation.original() {
            Relation::Diverged { lsn, .. } | Relation::PossiblyDiverged { lsn, .. } => *lsn,
            Relation::AheadSameTimeline { source_end, .. } => *source_end,
            Relation::NewerTimeline { common, .. } => common.map_or(Lsn::INVALID, |(_, lsn)| lsn),
            Relation::NoCommonTimeline { .. } | Relation::Foreign { .. } => Lsn::INVALID,
            Relation::Seed
            | Relation::Interrupted { .. }
            | Relation::Same { .. }
            | Relation::Lagging { .. }
            | Relation::CleanAncestor { .. }
            | Relation::Unknown => return None,
        };
        let known = Some(from).filter(|from| *from != Lsn::INVALID);
        let timeline = known.and_then(|from| history.timeline_at(from));
        Some(Self {
            timeline: timeline.unwrap_or_else(|| history.tip()),
            from,
            until: None,
        })
    }

    /// Whether a file of pg_wal is part of it: a segment, finished or not, that reaches behind the begin, or a
    /// history.
    #[must_use]
    pub fn includes(&self, name: &[u8], wal_segment_bytes: u32) -> bool {
        match WalFile::classify(name) {
            WalFile::TimelineHistory(_) => true,
            WalFile::Segment | WalFile::Partial => {
                let text = std::str::from_utf8(name).unwrap_or_default();
                let whole = text.strip_suffix(".partial").unwrap_or(text);
                SegmentName::parse(whole, wal_segment_bytes).is_some_and(|segment| {
                    let begin = segment.begin(wal_segment_bytes);
                    segment.end(wal_segment_bytes) > self.from
                        && self.until.is_none_or(|until| begin <= until)
                })
            }
            WalFile::BackupHistory | WalFile::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    fn diverged() -> Divergence {
        let relation = Relation::Diverged {
            timeline: TimelineId(1),
            lsn: Lsn(0x300_0060),
            target_end: Lsn(0x500_0000),
            lost_bytes: 1,
        };
        Divergence::of(&relation, &History::single(TimelineId(1))).unwrap()
    }

    #[test]
    fn all_segments_from_the_divergence_on_belong_to_it() {
        for (name, belongs) in [
            ("000000010000000000000002", false),
            ("000000010000000000000003", true),
            ("000000010000000000000004", true),
            ("000000010000000000000005.partial", true),
            ("000000010000000000000001.partial", false),
            ("00000002.history", true),
            ("000000010000000000000003.00000028.backup", false),
            ("archive_status", false),
            ("notes", false),
        ] {
            assert_eq!(
                diverged().includes(name.as_bytes(), 16 * MIB),
                belongs,
                "{name}"
            );
        }
        let ended = Divergence {
            until: Some(Lsn(0x4ff_0000)),
            ..diverged()
        };
        assert!(ended.includes(b"000000010000000000000004", 16 * MIB));
        assert!(!ended.includes(b"000000010000000000000005", 16 * MIB));
    }

    #[test]
    fn own_wal_of_a_target_that_was_promoted_is_on_its_own_timeline() {
        let history = History::parse(TimelineId(2), b"1\t0/2000000\tx\n").unwrap();
        let relation = Relation::Diverged {
            timeline: TimelineId(1),
            lsn: Lsn(0x200_0000),
            target_end: Lsn(0x500_0000),
            lost_bytes: 1,
        };
        let own = Divergence::of(&relation, &history).unwrap();
        assert_eq!(own.timeline, TimelineId(2));
    }

    #[test]
    fn who_only_follows_has_nothing_of_its_own() {
        for relation in [
            Relation::Seed,
            Relation::Lagging {
                timeline: TimelineId(1),
                target_end: Lsn(1),
                bytes: 1,
            },
            Relation::CleanAncestor {
                timeline: TimelineId(1),
                target_end: Lsn(1),
                lsn: Lsn(2),
            },
        ] {
            let history = History::single(TimelineId(1));
            assert_eq!(Divergence::of(&relation, &history), None, "{relation}");
        }
        let before = Box::new(Relation::NoCommonTimeline {
            target: TimelineId(3),
            source: TimelineId(2),
        });
        let history = History::single(TimelineId(3));
        let all = Divergence::of(&Relation::Interrupted { before }, &history).unwrap();
        assert_eq!((all.timeline, all.from), (TimelineId(3), Lsn::INVALID));
        assert!(all.includes(b"000000010000000000000001", 16 * MIB));
    }
}
