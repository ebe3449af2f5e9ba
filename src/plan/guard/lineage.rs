//! The source must lead to a primary that is not the target: else a rebuild takes the last one away.

use super::situation::Situation;
use crate::plan::lineage::{Lineage, lineage};
use crate::plan::refusal::Refusal;

/// Whether the source is a standby of the target.
pub(super) fn judge(situation: &Situation) -> Option<Refusal> {
    let Situation {
        target,
        source,
        local,
        overrides,
        ..
    } = situation;
    match lineage(target, source, local) {
        Lineage::OfTarget(evidence) if !overrides.leave_no_primary => {
            Some(Refusal::SourceFollowsTarget {
                evidence: evidence.to_string(),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Bend, refused};
    use crate::pg::control::ClusterState;
    use crate::plan::samples::{END, control};

    #[test]
    fn a_source_that_follows_the_target_is_refused_unless_that_is_meant() {
        let follows: Bend = |s| {
            s.source.in_recovery = true;
            let history = s.source.history.clone();
            let cluster = s.cluster();
            cluster.history = history;
            cluster.control = Some(control(2, END.0 - 120, ClusterState::ShutDown));
        };
        assert_eq!(refused(follows), ["source-follows-target"]);
        assert!(
            refused(|s| {
                follows(s);
                s.overrides.leave_no_primary = true;
            })
            .is_empty()
        );
    }
}
