//! How the target's history relates to the source's: the same, behind, diverged, ahead, foreign.
//!
//! Read from both control files and timeline histories only. It decides what is refused and what
//! the DBA is told; it never decides which blocks move, because a comparison of everything needs no
//! lineage. The rules are those of pg_rewind (`src/bin/pg_rewind/pg_rewind.c`,
//! `findCommonAncestorTimeline`), which compares the begin of each timeline as well as its number.
//!
//! Where a server was not shut down cleanly, its control file gives only a lower bound of what it
//! wrote, and the WAL files' names only an upper bound: words say "at least" and "at most" then.

mod words;

use crate::facts::{Condition, SharedWal, SourceFacts, TargetCluster, TargetFacts};
use crate::pg::control::ControlFile;
use crate::pg::lsn::Lsn;
use crate::pg::timeline::{TimelineId, divergence};

/// How the target relates to the source. Its [`Display`](std::fmt::Display) form completes a sentence
/// that begins with "the target".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relation {
    /// Nothing is there: a seed.
    Seed,
    /// A rebuild or seed was interrupted; `before` is what the target was before it, as far as its
    /// saved control file tells.
    Interrupted { before: Box<Relation> },
    /// On the source's timeline and at the source's end of WAL.
    Same { timeline: TimelineId, lsn: Lsn },
    /// On the source's timeline and behind it.
    Lagging {
        timeline: TimelineId,
        target_end: Lsn,
        bytes: u64,
    },
    /// It ended before the source left their common timeline: it has nothing of its own.
    CleanAncestor {
        timeline: TimelineId,
        target_end: Lsn,
        /// Where the source left that timeline.
        lsn: Lsn,
    },
    /// It was not shut down cleanly, and its last known position is before the divergence point:
    /// it may have written more.
    PossiblyDiverged {
        timeline: TimelineId,
        lsn: Lsn,
        /// Lower bound.
        target_end: Lsn,
        /// Upper bound of the bytes that only the target has.
        at_most_bytes: u64,
    },
    /// It has WAL that the source's history lacks.
    Diverged {
        /// The last common timeline.
        timeline: TimelineId,
        /// The divergence point: the last common LSN.
        lsn: Lsn,
        target_end: Lsn,
        /// Bytes of WAL that only the target has.
        lost_bytes: u64,
    },
    /// On the source's timeline and further than the source.
    AheadSameTimeline {
        timeline: TimelineId,
        target_end: Lsn,
        source_end: Lsn,
        /// Whether the source is a standby, which may only be late.
        source_is_standby: bool,
    },
    /// On a timeline with a higher number than the source's: it may be the real primary.
    NewerTimeline {
        target: TimelineId,
        source: TimelineId,
        /// The last common timeline and LSN, where there is one.
        common: Option<(TimelineId, Lsn)>,
        target_end: Lsn,
    },
    /// The same system identifier, but the histories share no timeline: a history file is missing
    /// or one of them was reset.
    NoCommonTimeline {
        target: TimelineId,
        source: TimelineId,
    },
    /// Another cluster: the system identifiers differ.
    Foreign { target: u64, source: u64 },
    /// There is no control file to tell.
    Unknown,
}

impl Relation {
    /// Whether it says of a target that it has nothing of its own, by numbers only: two servers that went on from one
    /// position have the same ones.
    #[must_use]
    pub fn needs_proof(&self) -> bool {
        matches!(
            self,
            Relation::Same { .. } | Relation::Lagging { .. } | Relation::CleanAncestor { .. }
        )
    }

    /// The relation's stable name, for reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Relation::Seed => "seed",
            Relation::Interrupted { .. } => "interrupted",
            Relation::Same { .. } => "same",
            Relation::Lagging { .. } => "lagging",
            Relation::CleanAncestor { .. } => "clean-ancestor",
            Relation::PossiblyDiverged { .. } => "possibly-diverged",
            Relation::Diverged { .. } => "diverged",
            Relation::AheadSameTimeline { .. } => "ahead-same-timeline",
            Relation::NewerTimeline { .. } => "newer-timeline",
            Relation::NoCommonTimeline { .. } => "no-common-timeline",
            Relation::Foreign { .. } => "foreign",
            Relation::Unknown => "unknown",
        }
    }

    /// The relation before an interrupted run, or this one.
    #[must_use]
    pub fn original(&self) -> &Relation {
        match self {
            Relation::Interrupted { before } => before.original(),
            other => other,
        }
    }

    /// Whether the target had nothing of its own, also when its first seed was interrupted.
    #[must_use]
    pub fn is_seed(&self) -> bool {
        *self.original() == Relation::Seed
    }

    /// The WAL that only the target has, from and to: an end that may be further when the target
    /// was not shut down cleanly.
    #[must_use]
    pub fn lost_range(&self) -> Option<(Lsn, Lsn)> {
        match self.original() {
            Relation::Diverged {
                lsn, target_end, ..
            } => Some((*lsn, *target_end)),
            Relation::AheadSameTimeline {
                target_end,
                source_end,
                ..
            } => Some((*source_end, *target_end)),
            Relation::NewerTimeline {
                common: Some((_, lsn)),
                target_end,
                ..
            } if target_end > lsn => Some((*lsn, *target_end)),
            _ => None,
        }
    }
}

/// Tells how the target relates to the source.
#[must_use]
pub fn relate(target: &TargetFacts, source: &SourceFacts) -> Relation {
    match &target.condition {
        Condition::Missing | Condition::Empty { .. } => Relation::Seed,
        Condition::Unknown { .. } => Relation::Unknown,
        Condition::Cluster(cluster) if cluster.interrupted.is_some() => {
            let was_seed = cluster.interrupted.as_ref().is_some_and(|run| run.is_seed);
            let before = if cluster.control.is_none() && was_seed {
                Relation::Seed
            } else {
                relate_cluster(cluster, source)
            };
            Relation::Interrupted {
                before: Box::new(before),
            }
        }
        Condition::Cluster(cluster) => relate_cluster(cluster, source),
    }
}

fn relate_cluster(cluster: &TargetCluster, source: &SourceFacts) -> Relation {
    let Some(control) = &cluster.control else {
        return Relation::Unknown;
    };
    if control.system_identifier != source.control.system_identifier {
        return Relation::Foreign {
            target: control.system_identifier,
            source: source.control.system_identifier,
        };
    }
    // The control file of a server that runs lags behind it.
    let live = cluster.standing.live.as_ref();
    let said = live.map(|live| live.end).or(cluster.standing.received);
    let target_end = end_of_wal(control).max(said.unwrap_or(Lsn::INVALID));
    let common = divergence(&cluster.history, &source.history);
    let reached = timeline_reached(cluster);
    if let Some(reached) = reached.filter(|reached| reached.0 > source.timeline.0) {
        return Relation::NewerTimeline {
            target: reached,
            source: source.timeline,
            common: common.and_then(|at| Some((at.timeline, at.lsn?))),
            target_end,
        };
    }
    let Some(common) = common else {
        return Relation::NoCommonTimeline {
            target: cluster.history.tip(),
            source: source.timeline,
        };
    };
    let timeline = common.timeline;
    if let SharedWal::Parts { at, end } = cluster.shared_wal {
        return Relation::Diverged {
            timeline,
            lsn: at,
            target_end: target_end.max(end),
            lost_bytes: target_end.max(end).bytes_since(at),
        };
    }
    // A standby that was asked has said where its WAL ends.
    let is_exact = control.state.is_shut_down() || live.is_some_and(|live| live.in_recovery);
    match common.lsn {
        None => relate_on_one_timeline(timeline, target_end, source),
        Some(lsn) if target_end > lsn => Relation::Diverged {
            timeline,
            lsn,
            target_end,
            lost_bytes: target_end.bytes_since(lsn),
        },
        Some(lsn) => {
            let furthest = cluster.wal_segments_end.unwrap_or(target_end);
            if is_exact || furthest <= lsn {
                Relation::CleanAncestor {
                    timeline,
                    target_end,
                    lsn,
                }
            } else {
                Relation::PossiblyDiverged {
                    timeline,
                    lsn,
                    target_end,
                    at_most_bytes: furthest.bytes_since(lsn),
                }
            }
        }
    }
}

fn relate_on_one_timeline(timeline: TimelineId, target_end: Lsn, source: &SourceFacts) -> Relation {
    let source_end = source.current_lsn;
    // A position at which a page begins may be told behind the page's header: pg_rewind asks for where the next record
    // begins, we for where the last one ended.
    let is_between = source_end
        .0
        .is_multiple_of(u64::from(source.control.wal_block_bytes))
        && target_end > source_end
        && PAGE_HEADERS.contains(&target_end.bytes_since(source_end));
    let target_end = if is_between { source_end } else { target_end };
    match target_end.cmp(&source_end) {
        std::cmp::Ordering::Less => Relation::Lagging {
            timeline,
            target_end,
            bytes: source_end.bytes_since(target_end),
        },
        std::cmp::Ordering::Equal => Relation::Same {
            timeline,
            lsn: target_end,
        },
        std::cmp::Ordering::Greater => Relation::AheadSameTimeline {
            timeline,
            target_end,
            source_end,
            source_is_standby: source.in_recovery,
        },
    }
}

/// The highest timeline that the target has touched: by its control file, or by a WAL segment that
/// it wrote or received since.
fn timeline_reached(cluster: &TargetCluster) -> Option<TimelineId> {
    [
        Some(cluster.history.tip()),
        cluster.control.as_ref().map(ControlFile::timeline_reached),
        cluster.newest_wal_timeline,
    ]
    .into_iter()
    .flatten()
    .max_by_key(|timeline| timeline.0)
}

/// Lengths of the header of a page of WAL: of most, and of the first of a segment (PostgreSQL `xlog_internal.h:
/// XLogPageHeaderData`, `XLogLongPageHeaderData`).
const PAGE_HEADERS: [u64; 2] = [24, 40];

/// Length of a checkpoint's record: 24 bytes of `XLogRecord`, 2 of data header, 88 of `CheckPoint`, from 19 on 96,
/// aligned to 8. A page header in its middle comes on top.
fn checkpoint_record_bytes(control: &ControlFile) -> u64 {
    if control.control_version < 1900 {
        120
    } else {
        128
    }
}

/// The best lower bound of the target's end of WAL: exact after a clean shutdown, but for a page
/// header. The control file names the start of the checkpoint's record; a target whose only own
/// record is its shutdown checkpoint has diverged all the same.
#[must_use]
pub fn end_of_wal(control: &ControlFile) -> Lsn {
    let length = checkpoint_record_bytes(control);
    let after_checkpoint = Lsn(control.checkpoint.0.saturating_add(length));
    control.end_of_wal().max(after_checkpoint)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::Interrupted;
    use crate::pg::control::ClusterState;
    use crate::pg::timeline::History;
    use crate::plan::samples::{END, FORK, cluster, control, source, target};

    fn related(bend: impl FnOnce(&mut TargetCluster, &mut SourceFacts)) -> Relation {
        let (mut cluster, mut source) = (cluster(0x310_0028), source());
        bend(&mut cluster, &mut source);
        relate(&target(Condition::Cluster(Box::new(cluster))), &source)
    }

    #[test]
    fn the_end_of_wal_lies_behind_the_shutdown_checkpoint() {
        let mut control = control(1, 0x300_0100, ClusterState::ShutDown);
        assert_eq!(end_of_wal(&control), Lsn(0x300_0178));
        // As a server of 19 ended and its standby said: checkpoint at 0/03000100, end of WAL at 0/03000180.
        control.control_version = 1905;
        assert_eq!(end_of_wal(&control), Lsn(0x300_0180));
        control.min_recovery_point = Lsn(0x400_0000);
        assert_eq!(end_of_wal(&control), Lsn(0x400_0000));
    }

    fn shut_down_at(cluster: &mut TargetCluster, timeline: u32, checkpoint: u64) {
        cluster.control = Some(control(timeline, checkpoint, ClusterState::ShutDown));
    }

    #[test]
    fn an_old_primary_that_went_on_has_diverged() {
        let relation = related(|_, _| {});
        assert_eq!(
            relation,
            Relation::Diverged {
                timeline: TimelineId(1),
                lsn: FORK,
                target_end: Lsn(0x310_00A0),
                lost_bytes: 0x10_0040,
            }
        );
        assert_eq!(
            relation.to_string(),
            "diverged from the source at 0/3000060 of timeline 1"
        );
        assert_eq!(relation.lost_range(), Some((FORK, Lsn(0x310_00A0))));
    }

    #[test]
    fn wal_that_parts_is_a_divergence_whatever_the_numbers_say() {
        let parts = SharedWal::Parts {
            at: Lsn(0x2ff_0000),
            end: Lsn(0x2ff_0100),
        };
        let expected = |timeline| Relation::Diverged {
            timeline: TimelineId(timeline),
            lsn: Lsn(0x2ff_0000),
            target_end: Lsn(0x2ff_0100),
            lost_bytes: 0x100,
        };
        let ancestor = |cluster: &mut TargetCluster| shut_down_at(cluster, 1, 0x2ff_0000 - 120);
        assert!(related(|cluster, _| ancestor(cluster)).needs_proof());
        let found = related(|cluster, _| {
            ancestor(cluster);
            cluster.shared_wal = parts;
        });
        assert_eq!(found, expected(1));
    }

    #[test]
    fn a_shutdown_checkpoint_alone_is_a_divergence() {
        let relation = related(|cluster, _| shut_down_at(cluster, 1, FORK.0));
        assert!(matches!(
            relation,
            Relation::Diverged {
                lost_bytes: 120,
                ..
            }
        ));
    }

    #[test]
    fn a_switchover_leaves_a_clean_ancestor() {
        // The standby replayed the shutdown checkpoint and was promoted behind it.
        let relation = related(|cluster, _| shut_down_at(cluster, 1, FORK.0 - 120));
        assert!(matches!(relation, Relation::CleanAncestor { .. }));
        assert_eq!(relation.lost_range(), None);
    }

    #[test]
    fn a_crash_before_the_fork_may_hide_a_divergence() {
        let relation = related(|cluster, _| {
            cluster.control = Some(control(1, 0x200_0028, ClusterState::InProduction));
        });
        assert_eq!(relation.name(), "possibly-diverged");
        assert_eq!(
            relation.to_string(),
            "may have diverged from the source at 0/3000060 of timeline 1: it was not shut down cleanly, its last known position is 0/20000A0, and its WAL files leave room for at most 47 MB that only it has"
        );
        let relation = related(|cluster, _| {
            cluster.control = Some(control(1, 0x200_0028, ClusterState::InProduction));
            cluster.wal_segments_end = Some(FORK);
        });
        assert_eq!(relation.name(), "clean-ancestor");
    }

    #[test]
    fn one_timeline_is_compared_by_its_ends() {
        let on_two = |end: u64| {
            related(|cluster, source| {
                shut_down_at(cluster, 2, end - 120);
                cluster.history = source.history.clone();
            })
        };
        assert_eq!(
            on_two(END.0 - 4096).to_string(),
            "is behind the source by 4 kB of WAL, at 0/4FFF000 of timeline 2"
        );
        assert_eq!(on_two(END.0).name(), "same");
        assert_eq!(on_two(END.0 + 8).name(), "ahead-same-timeline");
    }

    #[test]
    fn behind_a_page_header_is_where_the_page_begins() {
        let at = |source_end: u64, more: u64| {
            related(|cluster, source| {
                source.current_lsn = Lsn(source_end);
                cluster.history = source.history.clone();
                let mut control = control(2, 0x400_0028, ClusterState::InArchiveRecovery);
                control.min_recovery_point = Lsn(source_end + more);
                cluster.control = Some(control);
            })
            .name()
        };
        assert_eq!(at(END.0, 24), "same");
        assert_eq!(at(END.0, 40), "same");
        assert_eq!(at(END.0, 48), "ahead-same-timeline");
        assert_eq!(at(END.0 + 8, 24), "ahead-same-timeline");
    }

    #[test]
    fn timelines_of_one_number_but_two_beginnings_diverge_at_the_earlier() {
        let relation = related(|cluster, _| {
            shut_down_at(cluster, 2, 0x310_0028);
            cluster.history = History::parse(TimelineId(2), b"1\t0/2000060\tx\n").unwrap();
        });
        assert!(
            matches!(
                relation,
                Relation::Diverged {
                    timeline: TimelineId(1),
                    lsn: Lsn(0x200_0060),
                    ..
                }
            ),
            "{relation:?}"
        );
    }

    #[test]
    fn a_newer_timeline_is_seen_wherever_it_shows() {
        type Bend = fn(&mut TargetCluster);
        let bends: [Bend; 3] = [
            |cluster| {
                cluster.history =
                    History::parse(TimelineId(3), b"1\t0/3000060\tx\n2\t0/4000000\tx\n").unwrap();
            },
            |cluster| {
                if let Some(control) = &mut cluster.control {
                    control.min_recovery_timeline = TimelineId(3);
                }
            },
            |cluster| cluster.newest_wal_timeline = Some(TimelineId(3)),
        ];
        for bend in bends {
            let relation = related(|cluster, _| bend(cluster));
            assert!(
                matches!(
                    relation,
                    Relation::NewerTimeline {
                        target: TimelineId(3),
                        source: TimelineId(2),
                        ..
                    }
                ),
                "{relation:?}"
            );
        }
    }

    #[test]
    fn other_clusters_and_lost_histories_are_told_apart() {
        let foreign = related(|_, source| source.control.system_identifier += 1);
        assert_eq!(foreign.name(), "foreign");
        let lost = related(|cluster, source| {
            shut_down_at(cluster, 2, 0x310_0028);
            cluster.history = History::single(TimelineId(2));
            source.timeline = TimelineId(2);
        });
        assert_eq!(lost.name(), "no-common-timeline");
        let unreadable = related(|cluster, _| cluster.control = None);
        assert_eq!(unreadable, Relation::Unknown);
    }

    #[test]
    fn an_interrupted_run_remembers_what_was() {
        let marker = Some(Interrupted {
            is_seed: true,
            ..Interrupted::default()
        });
        let rebuild = related(|cluster, _| cluster.interrupted.clone_from(&marker));
        assert!(!rebuild.is_seed());
        assert_eq!(rebuild.original().name(), "diverged");
        let seed = related(|cluster, _| {
            cluster.interrupted.clone_from(&marker);
            cluster.control = None;
        });
        assert!(seed.is_seed());
        assert_eq!(seed.to_string(), "was left by an interrupted seed");
        assert!(relate(&target(Condition::Missing), &source()).is_seed());
    }

    proptest! {
        /// Wherever the target stopped on timeline 1: it has diverged just when it went past the
        /// fork, and what is lost is what lies behind it.
        #[test]
        fn divergence_is_what_lies_behind_the_fork_random(checkpoint in 0x28_u64..0x800_0000) {
            let relation = related(|cluster, _| shut_down_at(cluster, 1, checkpoint));
            let end = checkpoint + 120;
            match relation {
                Relation::Diverged { lost_bytes, .. } => prop_assert_eq!(FORK.0 + lost_bytes, end),
                Relation::CleanAncestor { .. } => prop_assert!(end <= FORK.0),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
