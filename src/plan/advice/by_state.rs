//! What follows from the state that the target is in, where that says more than both histories.

use super::Advice;
use super::supply::{Supply, supply};
use crate::facts::{Condition, Running, SharedWal, SourceFacts, TargetCluster, TargetFacts};
use crate::plan::state::{self, Backup, State, Stream};

/// What follows from the state alone, where no source was asked; `None` where nothing does.
#[must_use]
pub fn advise_alone(target: &TargetFacts, state: &State) -> Option<Advice> {
    if is_broken(target) {
        return Some(Advice::Broken);
    }
    match state {
        State::Rebuilt(backup) | State::Copied(backup) => {
            backup.follows_when_started().then_some(Advice::Start {
                needs: backup.needs,
                kept_by: None,
            })
        }
        State::Interrupted { .. } => Some(Advice::RunAgain),
        State::Streaming(stream) => Some(streaming(stream)),
        State::NotStreaming { reasons, .. } => Some(Advice::NotStreaming {
            reasons: reasons.clone(),
        }),
        State::InWork | State::Changing { .. } | State::Recovering => Some(Advice::Wait {
            state: state.to_string(),
        }),
        State::Missing
        | State::Empty
        | State::Unknown
        | State::Unusable { .. }
        | State::Primary
        | State::StoppedPrimary
        | State::CrashedPrimary
        | State::StoppedStandby { .. } => None,
    }
}

fn streaming(stream: &Stream) -> Advice {
    let Stream {
        lag_bytes,
        lag_seconds,
        ..
    } = *stream;
    if stream.is_paused {
        return Advice::Paused {
            lag_bytes,
            lag_seconds,
        };
    }
    Advice::Healthy {
        lag_bytes,
        lag_seconds,
        slot: stream.slot.clone(),
    }
}

/// Whether what a finished rebuild needs to start was removed.
pub(super) fn is_broken(target: &TargetFacts) -> bool {
    match &target.condition {
        Condition::Cluster(cluster) => {
            let backup = cluster.backup.as_ref();
            cluster.running == Running::No && backup.is_some_and(|backup| backup.label.is_none())
        }
        _ => false,
    }
}

/// What follows where a source was asked; `None` where the histories say more.
pub(super) fn of_state(
    cluster: &TargetCluster,
    source: &SourceFacts,
    state: &State,
) -> Option<Advice> {
    match state {
        State::Rebuilt(backup) | State::Copied(backup) => Some(start(cluster, backup, source)),
        State::Streaming(stream) if stream.is_from_source == Some(true) => Some(streaming(stream)),
        State::Streaming(stream) => Some(Advice::OfAnother {
            server: stream.from.clone().unwrap_or_default(),
        }),
        State::NotStreaming {
            follows,
            is_of_source: Some(false),
            ..
        } if !follows.is_empty() => Some(Advice::OfAnother {
            server: follows.join(" or "),
        }),
        State::NotStreaming { reasons, .. } => Some(not_streaming(cluster, source, reasons)),
        State::Changing { .. } | State::Recovering => Some(Advice::Wait {
            state: state.to_string(),
        }),
        _ => None,
    }
}

/// A backup that waits for its first start: whether the source has what it will ask for.
fn start(cluster: &TargetCluster, backup: &Backup, source: &SourceFacts) -> Advice {
    if backup.is_of_source == Some(false) && backup.follows_when_started() {
        return Advice::OfAnother {
            server: backup.follows.join(" or "),
        };
    }
    let is_its = backup.source.as_ref() == Some(&source.host.name);
    if cluster.shared_wal == SharedWal::Untold && !is_its {
        return Advice::HistoryUntold {
            oldest: source.oldest_wal,
        };
    }
    match supply(source, backup.needs) {
        Supply::Kept(kept_by) if backup.follows_when_started() => Advice::Start {
            needs: backup.needs,
            kept_by: Some(kept_by),
        },
        Supply::Kept(kept_by) => Advice::Reattach {
            needs: backup.needs,
            kept_by,
        },
        Supply::Archived => Advice::ReattachFromArchive {
            needs: backup.needs,
            oldest: source.oldest_wal,
        },
        Supply::Gone => Advice::WalGone {
            needs: backup.needs,
            oldest: source.oldest_wal,
        },
    }
}

/// A standby of the source that runs and receives nothing: it is out of WAL, or held up by something else.
fn not_streaming(cluster: &TargetCluster, source: &SourceFacts, reasons: &[String]) -> Advice {
    let needs = state::needed(cluster, source);
    match needs.map(|needs| (needs, supply(source, needs))) {
        Some((needs, Supply::Gone)) => Advice::WalGone {
            needs,
            oldest: source.oldest_wal,
        },
        Some((needs, Supply::Archived)) => Advice::ReattachFromArchive {
            needs,
            oldest: source.oldest_wal,
        },
        _ => Advice::NotStreaming {
            reasons: reasons.to_vec(),
        },
    }
}
