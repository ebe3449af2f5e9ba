//! Words for refusals: room on the file systems.

use super::reason::Refusal;
use super::words::{Words, words};
use crate::plan::words::Bytes;

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
        Refusal::NoRoom {
            place,
            needed_bytes,
            available_bytes,
        } => words(
            format!("not enough room in \"{place}\""),
            format!(
                "{} are needed, {} are available.",
                Bytes(*needed_bytes),
                Bytes(*available_bytes)
            ),
            "Make room. If the estimate is wrong, for a file system that compresses, use --ignore-free-space.",
        ),
        _ => return None,
    })
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    let s = || "x".to_owned();
    vec![Refusal::NoRoom {
        place: s(),
        needed_bytes: 2,
        available_bytes: 1,
    }]
}
