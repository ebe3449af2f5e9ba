//! What `inspect` concludes: whether the target needs a rebuild at all, and what to do.
//!
//! The question behind it is which WAL the target would ask the source for if it were started as it is, and
//! whether the source still has it. A standby asks from the begin of the segment on in which its own WAL ends
//! (PostgreSQL `walreceiverfuncs.c:RequestXLogStreaming`).

use serde::Serialize;

use crate::facts::{Condition, Running, SourceFacts, TargetCluster, TargetFacts};
use crate::pg::control::ClusterState;
use crate::pg::lsn::{Lsn, SegmentName};
use crate::plan::lineage::Lineage;
use crate::plan::relation::Relation;
use crate::plan::words::Bytes;

/// Why WAL that is there will still be there when it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keeper {
    /// The standby's replication slot.
    Slot,
    /// `wal_keep_size` is larger than the distance.
    WalKeepSize,
    /// Nothing: the source's next checkpoint may remove it.
    Nothing,
}

/// The conclusion. Its name in reports is in kebab case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Advice {
    /// Nothing is there.
    Seed,
    /// It is no data directory that can be judged.
    Unusable { problem: String },
    /// A rebuild was interrupted.
    RunAgain,
    /// It needs no rebuild: the source has all WAL from `needs` on.
    Reattach { needs: Lsn, kept_by: Keeper },
    /// The source's pg_wal begins behind `needs`, but it archives.
    ReattachFromArchive { needs: Lsn, oldest: Option<Lsn> },
    /// The source's pg_wal begins behind `needs`.
    WalGone { needs: Lsn, oldest: Option<Lsn> },
    /// It has, or may have, WAL of its own.
    Rebuild { is_sure: bool },
    /// Both were primaries on one timeline, or the histories do not tell.
    CannotTell,
    /// A stopped primary whose standby, the source, has replayed all of its WAL.
    SwitchoverReady { checkpoint: Lsn },
    /// A stopped primary whose standby, the source, lacks the end of its WAL.
    SwitchoverTooEarly { missing_bytes: u64 },
    /// It is further than the source, which is a standby too.
    SourceIsBehind { bytes: u64 },
    /// It may be the real primary: not to be rebuilt without a second look.
    LookTwice,
    /// Another cluster.
    Foreign,
    /// The source is a standby of it: neither may follow the other way round.
    SourceFollowsTarget,
}

impl Advice {
    /// Whether the next command is a rebuild.
    #[must_use]
    pub fn is_rebuild(&self) -> bool {
        matches!(
            self,
            Advice::Seed
                | Advice::RunAgain
                | Advice::WalGone { .. }
                | Advice::Rebuild { .. }
                | Advice::CannotTell
        )
    }

    /// What is left of it when the source turns out to lead where `lineage` says: what would make the directory a
    /// standby of its own standby is no advice.
    #[must_use]
    pub fn along(self, lineage: &Lineage) -> Self {
        let makes_standby = self.is_rebuild() && self != Advice::RunAgain
            || matches!(
                self,
                Advice::Reattach { .. } | Advice::ReattachFromArchive { .. }
            );
        match lineage {
            Lineage::OfTarget(_) if makes_standby => Advice::SourceFollowsTarget,
            _ => self,
        }
    }

    /// What it means, one sentence each.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let sentence = |text: &str| vec![text.to_owned()];
        match self {
            Advice::Seed => sentence("Nothing is there: a rebuild seeds it with everything."),
            Advice::Unusable { problem } => vec![format!("It cannot be judged: {problem}.")],
            Advice::RunAgain => sentence(
                "It cannot start until a rebuild has finished: run the interrupted command again.",
            ),
            Advice::Reattach { needs, kept_by } => {
                let mut text = vec![format!(
                    "No rebuild is needed: the source has all WAL from {needs} on. Start it as a standby of \
                     the source."
                )];
                text.push(match kept_by {
                    Keeper::Slot => "Its replication slot keeps that WAL.".to_owned(),
                    Keeper::WalKeepSize => {
                        "The source's wal_keep_size keeps that WAL for now.".to_owned()
                    }
                    Keeper::Nothing => {
                        "Nothing keeps that WAL: start it before the source's next checkpoint, or make a \
                         replication slot."
                            .to_owned()
                    }
                });
                text
            }
            Advice::ReattachFromArchive { needs, oldest } => vec![
                format!("It needs WAL from {needs} on. {}", begins(*oldest)),
                "The source archives its WAL: with a restore_command that reaches the archive, no rebuild is \
                 needed. Without one it needs a rebuild."
                    .to_owned(),
            ],
            Advice::WalGone { needs, oldest } => vec![format!(
                "It needs a rebuild: it would ask for WAL from {needs} on. {}",
                begins(*oldest)
            )],
            Advice::Rebuild { is_sure: true } => sentence(
                "It needs a rebuild, or pg_rewind. WAL that only it has is lost then.",
            ),
            Advice::Rebuild { is_sure: false } => sentence(
                "It was not shut down cleanly, so it may have writes of its own: it needs a rebuild.",
            ),
            Advice::CannotTell => sentence(
                "Their histories do not show whether it has writes of its own: only a rebuild, which \
                 compares everything, makes it equal.",
            ),
            Advice::SwitchoverReady { checkpoint } => vec![format!(
                "The source, a standby, has replayed everything up to the shutdown checkpoint at {checkpoint}: \
                 it can be promoted without losing anything."
            )],
            Advice::SwitchoverTooEarly { missing_bytes } => vec![format!(
                "The source, a standby, has not replayed the last {} of WAL: a promotion now would lose them.",
                Bytes(*missing_bytes)
            )],
            Advice::SourceIsBehind { bytes } => vec![format!(
                "The source, a standby, is {} of WAL behind it: wait until the source has caught up, or take \
                 another source.",
                Bytes(*bytes)
            )],
            Advice::LookTwice => sentence(
                "It may be the real primary. Make sure which of the two holds the data that you want before \
                 anything is rebuilt.",
            ),
            Advice::SourceFollowsTarget => sentence(
                "Neither start it as a standby of the source nor rebuild it from there.",
            ),
            Advice::Foreign => sentence(
                "It never was the same cluster as the source. Check the data directory and the source.",
            ),
        }
    }
}

fn begins(oldest: Option<Lsn>) -> String {
    match oldest {
        Some(oldest) => format!("The source's pg_wal begins at {oldest}."),
        None => "The source's pg_wal does not have its newest WAL.".to_owned(),
    }
}

/// Draws the conclusion.
#[must_use]
pub fn advise(target: &TargetFacts, source: &SourceFacts, relation: &Relation) -> Advice {
    let cluster = match &target.condition {
        Condition::Missing | Condition::Empty { .. } => return Advice::Seed,
        Condition::Unknown { example } => {
            return Advice::Unusable {
                problem: format!("it holds \"{example}\" and no PG_VERSION"),
            };
        }
        Condition::Cluster(cluster) if cluster.interrupted.is_some() => return Advice::RunAgain,
        Condition::Cluster(cluster) => cluster,
    };
    match relation {
        Relation::Foreign { .. } => Advice::Foreign,
        Relation::NewerTimeline { .. } => Advice::LookTwice,
        Relation::NoCommonTimeline { .. } => Advice::CannotTell,
        Relation::Diverged { .. } => Advice::Rebuild { is_sure: true },
        Relation::PossiblyDiverged { .. } => Advice::Rebuild { is_sure: false },
        Relation::CleanAncestor { target_end, .. } => reattach(cluster, *target_end, source),
        Relation::Same { lsn, .. } => on_one_timeline(cluster, source, *lsn),
        Relation::Lagging { target_end, .. } => on_one_timeline(cluster, source, *target_end),
        Relation::AheadSameTimeline { target_end, .. } => {
            on_one_timeline(cluster, source, *target_end)
        }
        Relation::Seed | Relation::Interrupted { .. } | Relation::Unknown => Advice::Unusable {
            problem: cluster
                .control_problem
                .clone()
                .unwrap_or_else(|| "it has no control file".to_owned()),
        },
    }
}

/// A page header may stand in the middle of the last record (`xlog_internal.h:XLogLongPageHeaderData`).
const PAGE_HEADER_MAX: u64 = 40;

fn on_one_timeline(cluster: &TargetCluster, source: &SourceFacts, target_end: Lsn) -> Advice {
    let Some(control) = &cluster.control else {
        return Advice::CannotTell;
    };
    let missing_bytes = target_end.bytes_since(source.current_lsn);
    match control.state {
        // The checkpoint's record is the last one, and a standby replays whole records.
        ClusterState::ShutDown if source.in_recovery => {
            if source.current_lsn.bytes_since(target_end) > PAGE_HEADER_MAX {
                Advice::LookTwice
            } else if source.current_lsn > control.checkpoint {
                Advice::SwitchoverReady {
                    checkpoint: control.checkpoint,
                }
            } else {
                Advice::SwitchoverTooEarly { missing_bytes }
            }
        }
        _ if !has_followed(cluster) => {
            if source.in_recovery || target_end > source.current_lsn {
                Advice::LookTwice
            } else {
                Advice::CannotTell
            }
        }
        _ if target_end <= source.current_lsn => reattach(cluster, target_end, source),
        _ if source.in_recovery => Advice::SourceIsBehind {
            bytes: missing_bytes,
        },
        _ => Advice::LookTwice,
    }
}

/// Whether all that it has came from another server.
fn has_followed(cluster: &TargetCluster) -> bool {
    let state = cluster.control.as_ref().map(|control| control.state);
    let was_standby = matches!(
        state,
        Some(ClusterState::ShutDownInRecovery | ClusterState::InArchiveRecovery)
    );
    was_standby && (cluster.has_standby_signal || cluster.running == Running::No)
}

fn reattach(cluster: &TargetCluster, target_end: Lsn, source: &SourceFacts) -> Advice {
    let unit = source.control.wal_segment_bytes;
    // What its own pg_wal lacks of the way from its last checkpoint on comes from the source too.
    let has_own = cluster
        .wal_segments_end
        .is_some_and(|end| end >= target_end);
    let redo = cluster.control.as_ref().map(|control| control.redo);
    let from = redo.filter(|_| !has_own).unwrap_or(target_end);
    let needs = SegmentName::of(from, source.timeline, unit).begin(unit);
    let oldest = source.oldest_wal;
    if oldest.is_some_and(|oldest| oldest <= needs) {
        let kept_by = if slot_keeps(source, needs) {
            Keeper::Slot
        } else if source.current_lsn.bytes_since(needs) < source.settings.wal_keep_bytes {
            Keeper::WalKeepSize
        } else {
            Keeper::Nothing
        };
        Advice::Reattach { needs, kept_by }
    } else if source.settings.archive_mode == "off" {
        Advice::WalGone { needs, oldest }
    } else {
        Advice::ReattachFromArchive { needs, oldest }
    }
}

fn slot_keeps(source: &SourceFacts, needs: Lsn) -> bool {
    // A slot keeps whole segments.
    let unit = source.control.wal_segment_bytes;
    let begin = |lsn| SegmentName::of(lsn, source.timeline, unit).begin(unit);
    source.slot.as_ref().is_some_and(|slot| {
        slot.is_physical
            && slot
                .restart_lsn
                .is_some_and(|restart| begin(restart) <= needs)
            && matches!(slot.wal_status.as_str(), "reserved" | "extended")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Interrupted, SlotFacts};
    use crate::pg::timeline::{History, TimelineId};
    use crate::plan::lineage::Evidence;
    use crate::plan::relation::relate;
    use crate::plan::samples;

    fn advice(target: &TargetFacts, source: &SourceFacts) -> Advice {
        advise(target, source, &relate(target, source))
    }

    fn target(change: impl FnOnce(&mut TargetCluster)) -> TargetFacts {
        let mut cluster = samples::cluster(0x310_0028);
        change(&mut cluster);
        samples::target(Condition::Cluster(Box::new(cluster)))
    }

    /// A standby on timeline 2, as the source, that ended at an LSN.
    fn standby(end: u64) -> TargetFacts {
        target(|cluster| {
            cluster.control = Some(samples::control(2, end, ClusterState::ShutDownInRecovery));
            cluster.history = samples::source().history;
            cluster.newest_wal_timeline = Some(TimelineId(2));
            cluster.has_standby_signal = true;
        })
    }

    #[test]
    fn a_lagging_standby_needs_no_rebuild_while_the_source_has_its_wal() {
        let mut source = samples::source();
        let needs = Lsn(0x400_0000);
        let kept = |source: &SourceFacts| match advice(&standby(0x410_0028), source) {
            Advice::Reattach {
                needs: found,
                kept_by,
            } if found == needs => Some(kept_by),
            _ => None,
        };
        assert_eq!(kept(&source), Some(Keeper::Nothing));
        source.settings.wal_keep_bytes = 64 << 20;
        assert_eq!(kept(&source), Some(Keeper::WalKeepSize));
        source.slot = Some(SlotFacts {
            name: "s".to_owned(),
            is_physical: true,
            active: false,
            restart_lsn: Some(Lsn(needs.0 + 0x10_0028)),
            holder: None,
            wal_status: "reserved".to_owned(),
        });
        assert_eq!(kept(&source), Some(Keeper::Slot));
        source.slot.as_mut().unwrap().wal_status = "lost".to_owned();
        assert_eq!(kept(&source), Some(Keeper::WalKeepSize));
        source.oldest_wal = Some(Lsn(0x500_0000));
        let gone = Advice::WalGone {
            needs,
            oldest: source.oldest_wal,
        };
        assert_eq!(advice(&standby(0x410_0028), &source), gone);
        assert!(gone.is_rebuild());
        source.settings.archive_mode = "on".to_owned();
        assert!(matches!(
            advice(&standby(0x410_0028), &source),
            Advice::ReattachFromArchive { .. }
        ));
    }

    #[test]
    fn an_old_primary_that_ended_before_the_promotion_can_follow() {
        let source = SourceFacts {
            oldest_wal: Some(Lsn(0x200_0000)),
            ..samples::source()
        };
        let target = target(|cluster| {
            cluster.control = Some(samples::control(1, 0x2ff_0028, ClusterState::ShutDown));
        });
        assert_eq!(
            advice(&target, &source),
            Advice::Reattach {
                needs: Lsn(0x200_0000),
                kept_by: Keeper::Nothing
            }
        );
    }

    #[test]
    fn a_diverged_primary_needs_a_rebuild() {
        let source = samples::source();
        let diverged = samples::diverged_target();
        assert_eq!(
            advice(&diverged, &source),
            Advice::Rebuild { is_sure: true }
        );
        let crashed = target(|cluster| {
            cluster.control = Some(samples::control(1, 0x200_0028, ClusterState::InProduction));
        });
        assert_eq!(
            advice(&crashed, &source),
            Advice::Rebuild { is_sure: false }
        );
    }

    #[test]
    fn a_switchover_waits_for_the_shutdown_checkpoint() {
        let mut source = SourceFacts {
            in_recovery: true,
            timeline: TimelineId(1),
            history: History::single(TimelineId(1)),
            ..samples::source()
        };
        let stopped = samples::diverged_target();
        source.current_lsn = Lsn(0x310_0028);
        assert!(matches!(
            advice(&stopped, &source),
            Advice::SwitchoverTooEarly { missing_bytes: 120 }
        ));
        // One that has gone on since did not do so with this one's WAL.
        source.current_lsn = Lsn(0x350_0000);
        assert_eq!(advice(&stopped, &source), Advice::LookTwice);
        let running = target(|cluster| {
            cluster.control.as_mut().unwrap().state = ClusterState::InProduction;
        });
        assert_eq!(advice(&running, &source), Advice::LookTwice);
        source.current_lsn = Lsn(0x310_0028 + 120);
        assert_eq!(
            advice(&stopped, &source),
            Advice::SwitchoverReady {
                checkpoint: Lsn(0x310_0028)
            }
        );
        // Two primaries on one timeline are no switchover.
        source.in_recovery = false;
        assert_eq!(advice(&stopped, &source), Advice::CannotTell);
        source.current_lsn = Lsn(0x300_0028);
        assert_eq!(advice(&stopped, &source), Advice::LookTwice);
    }

    #[test]
    fn a_standby_may_be_ahead_of_another_one() {
        let source = SourceFacts {
            in_recovery: true,
            ..samples::source()
        };
        let ahead = standby(0x510_0028);
        assert!(matches!(
            advice(&ahead, &source),
            Advice::SourceIsBehind { .. }
        ));
        assert_eq!(advice(&ahead, &samples::source()), Advice::LookTwice);
    }

    #[test]
    fn what_is_no_cluster_of_the_source_is_said() {
        let source = samples::source();
        let foreign = target(|cluster| {
            cluster.control.as_mut().unwrap().system_identifier += 1;
        });
        assert_eq!(advice(&foreign, &source), Advice::Foreign);
        let unknown = samples::target(Condition::Unknown {
            example: "notes.txt".to_owned(),
        });
        assert!(matches!(advice(&unknown, &source), Advice::Unusable { .. }));
        assert_eq!(
            advice(&samples::target(Condition::Missing), &source),
            Advice::Seed
        );
        let interrupted = target(|cluster| {
            cluster.interrupted = Some(Interrupted {
                is_seed: false,
                started_unix_seconds: 0,
                start_lsn: Lsn(1),
            });
        });
        assert_eq!(advice(&interrupted, &source), Advice::RunAgain);
    }

    #[test]
    fn nothing_is_advised_that_makes_a_standby_of_its_own_standby() {
        let of_target = Lineage::OfTarget(Evidence::Receives {
            server: "db1".to_owned(),
        });
        let reattach = Advice::Reattach {
            needs: Lsn(1),
            kept_by: Keeper::Nothing,
        };
        let ready = Advice::SwitchoverReady { checkpoint: Lsn(1) };
        for (advice, stays) in [
            (reattach, false),
            (Advice::Rebuild { is_sure: true }, false),
            (Advice::CannotTell, false),
            (ready, true),
            (Advice::LookTwice, true),
        ] {
            assert_eq!(advice.clone().along(&Lineage::Primary), advice);
            assert_eq!(advice.clone().along(&of_target) == advice, stays);
        }
    }
}
