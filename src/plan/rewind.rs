//! Whether a target must be rewound at all, in the place of `pg_rewind`: one that has nothing of its own, and whose WAL goes
//! on in the source's, follows it as it is.

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
    // Whether one may go on while a server runs, the guards say.
    if let Condition::Cluster(cluster) = &target.condition
        && cluster.running != Running::No
    {
        return Rewind::Needed;
    }
    match advise(target, source, relation, &state(target, None, &[])) {
        Advice::Seed => Rewind::NothingThere,
        Advice::Reattach { .. } | Advice::Start { .. } | Advice::SwitchoverReady { .. } => {
            Rewind::NotNeeded
        }
        _ => Rewind::Needed,
    }
}
