//! Words for refusals: where the source leads.

use super::reason::Refusal;
use super::words::{Words, words};

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
        Refusal::SourceFollowsTarget { evidence } => words(
            "the source is a standby of the target",
            format!(
                "{evidence} Rebuilt from it, the target would follow its own standby, and no primary would be left behind the two."
            ),
            "Check -D and --from: as a rule it is the source that should be rebuilt. If the source is to become the primary, promote it first. To go on without a primary, use --leave-no-primary.",
        ),
        _ => return None,
    })
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    vec![Refusal::SourceFollowsTarget {
        evidence: "It does.".to_owned(),
    }]
}
