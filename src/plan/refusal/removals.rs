//! Words for refusals: how many files go.

use super::reason::Refusal;
use super::words::{Words, words};
use crate::plan::words::some_of;

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
        Refusal::TooManyRemovals {
            limit,
            files,
            examples,
        } => words(
            format!("the run would remove {files} files from the target, but the limit is {limit}"),
            format!(
                "The source does not have them{}. So many may mean that the target is not what it is taken for.",
                if examples.is_empty() {
                    String::new()
                } else {
                    format!(", for instance {}", some_of(examples))
                }
            ),
            "Check -D and the source, then give a higher --max-delete.",
        ),
        _ => return None,
    })
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    vec![Refusal::TooManyRemovals {
        limit: 1,
        files: 2,
        examples: vec!["base/1/2".to_owned()],
    }]
}
