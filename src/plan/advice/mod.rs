//! What `inspect` concludes: whether the target needs a rebuild at all, and what to do.
//!
//! The question behind it is which WAL the target would ask the source for if it were started as it is, and
//! whether the source still has it. A standby asks from the begin of the segment on in which its own WAL ends
//! (PostgreSQL `walreceiverfuncs.c:RequestXLogStreaming`).

mod by_state;
mod supply;
mod words;

use serde::Serialize;

use crate::facts::{Condition, Running, SharedWal, SourceFacts, TargetCluster, TargetFacts};
use crate::pg::control::ClusterState;
use crate::pg::lsn::{Lsn, SegmentName};
use crate::plan::lineage::Lineage;
use crate::plan::relation::Relation;
use crate::plan::state::State;

pub use self::by_state::advise_alone;
use self::by_state::{is_broken, of_state};
pub use self::supply::Keeper;
use self::supply::{Supply, supply};

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
    /// pg_reseed works on it, or its server starts, stops or recovers: to be asked again later.
    Wait { state: String },
    /// A rebuild has finished: it is to be started. It needs WAL from `needs` on; `kept_by` is absent where no source
    /// was asked.
    Start { needs: Lsn, kept_by: Option<Keeper> },
    /// A rebuild has finished, and what was needed to start it was removed.
    Broken,
    /// It streams from the source. Where no source was asked, from whomever it says.
    Healthy {
        lag_bytes: Option<u64>,
        lag_seconds: Option<u64>,
        slot: Option<String>,
    },
    /// It streams, and its replay is paused.
    Paused {
        lag_bytes: Option<u64>,
        lag_seconds: Option<u64>,
    },
    /// It runs as a standby and receives nothing, for reasons that leave it its WAL.
    NotStreaming { reasons: Vec<String> },
    /// It runs as a standby of another server.
    OfAnother { server: String },
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
    /// It seems to have followed, but the WAL that would prove it is not there any more.
    HistoryUntold { oldest: Option<Lsn> },
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
                | Advice::Broken
                | Advice::WalGone { .. }
                | Advice::Rebuild { .. }
                | Advice::CannotTell
                | Advice::HistoryUntold { .. }
        )
    }

    /// What is left of it when the source turns out to lead where `lineage` says: what would make the directory a
    /// standby of its own standby is no advice.
    #[must_use]
    pub fn along(self, lineage: &Lineage) -> Self {
        let makes_standby = self.is_rebuild() && self != Advice::RunAgain
            || matches!(
                self,
                Advice::Reattach { .. }
                    | Advice::ReattachFromArchive { .. }
                    | Advice::Start { .. }
                    | Advice::Healthy { .. }
                    | Advice::Paused { .. }
                    | Advice::NotStreaming { .. }
                    | Advice::OfAnother { .. }
            );
        match lineage {
            Lineage::OfTarget(_) if makes_standby => Advice::SourceFollowsTarget,
            _ => self,
        }
    }
}

/// Draws the conclusion.
#[must_use]
pub fn advise(
    target: &TargetFacts,
    source: &SourceFacts,
    relation: &Relation,
    state: &State,
) -> Advice {
    let cluster = match &target.condition {
        Condition::Missing | Condition::Empty { .. } => return Advice::Seed,
        Condition::Unknown { example } => {
            return Advice::Unusable {
                problem: format!("it holds \"{example}\" and no PG_VERSION"),
            };
        }
        Condition::Cluster(_) if *state == State::InWork => {
            return Advice::Wait {
                state: state.to_string(),
            };
        }
        Condition::Cluster(cluster) if cluster.interrupted.is_some() => return Advice::RunAgain,
        Condition::Cluster(cluster) => cluster,
    };
    if let Relation::Foreign { .. } = relation {
        return Advice::Foreign;
    }
    if is_broken(target) {
        return Advice::Broken;
    }
    let may_follow = match relation {
        Relation::Same { .. }
        | Relation::Lagging { .. }
        | Relation::CleanAncestor { .. }
        | Relation::AheadSameTimeline { .. } => true,
        // The control file of a standby that runs, and of a backup, lags behind what they are.
        Relation::PossiblyDiverged { .. } => {
            cluster.backup.is_some() || matches!(state, State::Streaming(_))
        }
        _ => false,
    };
    if may_follow && let Some(advice) = of_state(cluster, source, state) {
        return advice;
    }
    let advice = match relation {
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
    };
    proven(advice, cluster, source)
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
    match supply(source, needs) {
        Supply::Kept(kept_by) => Advice::Reattach { needs, kept_by },
        Supply::Gone => Advice::WalGone { needs, oldest },
        Supply::Archived => Advice::ReattachFromArchive { needs, oldest },
    }
}

/// What is left of an advice that rests on a history which nothing proves.
fn proven(advice: Advice, cluster: &TargetCluster, source: &SourceFacts) -> Advice {
    match advice {
        Advice::Reattach { .. }
        | Advice::ReattachFromArchive { .. }
        | Advice::SwitchoverReady { .. }
            if cluster.shared_wal == SharedWal::Untold =>
        {
            Advice::HistoryUntold {
                oldest: source.oldest_wal,
            }
        }
        advice => advice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Interrupted, Live, Receiver, SlotFacts};
    use crate::pg::timeline::{History, TimelineId};
    use crate::plan::lineage::Evidence;
    use crate::plan::relation::relate;
    use crate::plan::samples::{self, END};
    use crate::plan::state::{self, Beside};

    fn advice(target: &TargetFacts, source: &SourceFacts) -> Advice {
        let beside = Beside {
            source,
            is_sender: false,
            is_named: true,
            later: None,
        };
        let state = state::state(target, Some(beside), &[]);
        advise(target, source, &relate(target, source), &state)
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
            cluster.interrupted = Some(Interrupted::default());
        });
        assert_eq!(advice(&interrupted, &source), Advice::RunAgain);
    }

    /// What is advised for a standby that runs, when the source is or is not whom it receives from, or would.
    fn of_running(target: &TargetFacts, source: &SourceFacts, is_its: bool) -> Advice {
        let beside = Beside {
            source,
            is_sender: is_its,
            is_named: is_its,
            later: None,
        };
        let state = state::state(target, Some(beside), &[]);
        advise(target, source, &relate(target, source), &state)
    }

    #[test]
    fn a_standby_that_runs_is_judged_by_what_it_receives() {
        let mut source = samples::source();
        let mut target = standby(END.0 - 0x100);
        let Condition::Cluster(cluster) = &mut target.condition else {
            panic!("no cluster");
        };
        cluster.control.as_mut().unwrap().state = ClusterState::InArchiveRecovery;
        cluster.running = Running::Server { pid: 7 };
        let streaming = Receiver {
            status: "streaming".to_owned(),
            host: "db2".to_owned(),
            port: 5432,
            slot: None,
        };
        cluster.standing.primary_conninfo = Some("host=db2".to_owned());
        cluster.standing.live = Some(Live {
            in_recovery: true,
            end: Lsn(END.0 - 8),
            receiver: Some(streaming),
            ..Live::default()
        });
        let change = |target: &TargetFacts, change: &dyn Fn(&mut Live)| {
            let mut target = target.clone();
            if let Condition::Cluster(cluster) = &mut target.condition {
                change(cluster.standing.live.as_mut().unwrap());
            }
            target
        };
        assert!(matches!(
            of_running(&target, &source, true),
            Advice::Healthy { .. }
        ));
        assert!(matches!(
            of_running(&target, &source, false),
            Advice::OfAnother { .. }
        ));
        let paused = change(&target, &|live| live.recovery.is_paused = true);
        assert!(matches!(
            of_running(&paused, &source, true),
            Advice::Paused { .. }
        ));
        let deaf = change(&target, &|live| live.receiver = None);
        assert!(matches!(
            of_running(&deaf, &source, true),
            Advice::NotStreaming { .. }
        ));
        assert!(matches!(
            of_running(&deaf, &source, false),
            Advice::OfAnother { .. }
        ));
        source.oldest_wal = Some(END);
        assert!(matches!(
            of_running(&deaf, &source, true),
            Advice::WalGone { .. }
        ));
        // Its own writes outweigh that it seems to receive.
        if let Condition::Cluster(cluster) = &mut target.condition {
            cluster.shared_wal = SharedWal::Parts {
                at: Lsn(1),
                end: Lsn(2),
            };
        }
        assert_eq!(
            of_running(&target, &source, true),
            Advice::Rebuild { is_sure: true }
        );
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
            (
                Advice::OfAnother {
                    server: String::new(),
                },
                false,
            ),
            (Advice::CannotTell, false),
            (ready, true),
            (Advice::LookTwice, true),
        ] {
            assert_eq!(advice.clone().along(&Lineage::Primary), advice);
            assert_eq!(advice.clone().along(&of_target) == advice, stays);
        }
    }
}
