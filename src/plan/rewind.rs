//! Whether a target must be rewound at all, in the place of `pg_rewind`: one that was shut down, has nothing of its own, and
//! whose WAL goes on in the source's, follows it as it is.

use crate::facts::{Condition, Running, SourceFacts, TargetFacts};
use crate::plan::advice::{Advice, advise};
use crate::plan::relation::Relation;
use crate::plan::state::state;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewind {
    /// To make it equal.
    Needed,
    /// Nothing.
    NotNeeded,
    /// Nothing can be: there is no cluster that could be rewound.
    NothingThere,
}

/// Judges it. Where only an archive has the WAL, or nothing proves that the histories are one, the target is made equal.
#[must_use]
pub fn judge(target: &TargetFacts, source: &SourceFacts, relation: &Relation) -> Rewind {
    if relation.is_seed() {
        return Rewind::NothingThere;
    }
    // While a server runs, the guards say what may be.
    let is_at_rest = match &target.condition {
        Condition::Cluster(cluster) => {
            let control = cluster.control.as_ref();
            let is_shut_down = control.is_some_and(|control| control.state.is_shut_down());
            cluster.running == Running::No && (is_shut_down || cluster.backup.is_some())
        }
        _ => false,
    };
    match advise(target, source, relation, &state(target, None, &[])) {
        Advice::Reattach { .. } | Advice::Start { .. } | Advice::SwitchoverReady { .. }
            if is_at_rest =>
        {
            Rewind::NotNeeded
        }
        _ => Rewind::Needed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{SharedWal, TargetCluster};
    use crate::pg::control::ClusterState;
    use crate::pg::lsn::Lsn;
    use crate::pg::timeline::TimelineId;
    use crate::plan::relation::relate;
    use crate::plan::samples::{self, diverged_target};

    type Bend = fn(&mut TargetCluster, &mut SourceFacts);

    /// The judgement on a stopped standby that only lags, but for what `bend` changes.
    fn of_lagging(bend: Bend) -> Rewind {
        let mut source = samples::source();
        let mut cluster = samples::cluster(0x310_0028);
        let state = ClusterState::ShutDownInRecovery;
        cluster.control = Some(samples::control(2, 0x410_0028, state));
        cluster.history = source.history.clone();
        cluster.newest_wal_timeline = Some(TimelineId(2));
        cluster.has_standby_signal = true;
        bend(&mut cluster, &mut source);
        let target = samples::target(Condition::Cluster(Box::new(cluster)));
        judge(&target, &source, &relate(&target, &source))
    }

    #[test]
    fn only_what_was_shut_down_and_can_follow_is_left_alone() {
        assert_eq!(of_lagging(|_, _| {}), Rewind::NotNeeded);
        let bends: [Bend; 4] = [
            |cluster, _| cluster.running = Running::Server { pid: 7 },
            |cluster, _| {
                let state = ClusterState::InArchiveRecovery;
                cluster.control = Some(samples::control(2, 0x410_0028, state));
            },
            |cluster, _| cluster.shared_wal = SharedWal::Untold,
            |_, source| source.oldest_wal = Some(Lsn(u64::MAX)),
        ];
        for (number, bend) in bends.into_iter().enumerate() {
            assert_eq!(of_lagging(bend), Rewind::Needed, "{number}");
        }
    }

    #[test]
    fn a_diverged_target_is_rewound_and_nothing_is_not() {
        let source = samples::source();
        let target = diverged_target();
        let relation = relate(&target, &source);
        assert_eq!(judge(&target, &source, &relation), Rewind::Needed);
        let target = samples::target(Condition::Missing);
        let relation = relate(&target, &source);
        assert_eq!(judge(&target, &source, &relation), Rewind::NothingThere);
    }
}
