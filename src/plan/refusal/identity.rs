//! Words for refusals: target and source are one, or one inside the other.

use super::reason::Refusal;
use super::words::{Words, words};

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
        Refusal::SameDirectory {
            target_role,
            source_role,
            source_path,
        } => words(
            format!("{target_role} of the target is {source_role} of the source"),
            format!(
                "Both are \"{source_path}\": a rebuild would overwrite the files of the running source."
            ),
            "Check -D and --from. If a link of the target leads to the source's directory, remove the link first and give a tablespace its own place with --tablespace-mapping.",
        ),
        Refusal::SamePidFile { pgdata } => words(
            format!("data directory \"{pgdata}\" holds the source's \"postmaster.pid\""),
            "It is the source's own data directory seen through another mount, or a copy of it.",
            format!(
                "Check -D and --from. Only if \"{pgdata}\" is a copy that no server uses, remove \"postmaster.pid\" from it."
            ),
        ),
        Refusal::NestedDirectory { inner, outer } => words(
            format!("directory \"{inner}\" lies inside \"{outer}\""),
            "One is the target, the other the source: writing to one would change the other.",
            "Check -D, or choose a directory outside the source's data directory.",
        ),
        _ => return None,
    })
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    let s = || "x".to_owned();
    vec![
        Refusal::SameDirectory {
            target_role: "the data directory".to_owned(),
            source_role: "the data directory".to_owned(),
            source_path: s(),
        },
        Refusal::SamePidFile { pgdata: s() },
        Refusal::NestedDirectory {
            inner: s(),
            outer: s(),
        },
    ]
}
