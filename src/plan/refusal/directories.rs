//! Words for refusals: directories that options name.

use super::reason::Refusal;
use super::words::{Words, words};
use crate::plan::words::some_of;

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
        Refusal::WaldirUnfit { waldir, problem } => words(
            format!("cannot use \"{waldir}\" as WAL directory: {problem}"),
            "All that is in the WAL directory of a new standby is removed.",
            "Choose another directory with --waldir, missing or empty.",
        ),
        Refusal::DivergedWalPlace { directory, problem } => words(
            format!("diverged WAL cannot be saved in the directory \"{directory}\""),
            problem,
            "Give --keep-diverged-wal an empty or missing directory that no rebuild touches.",
        ),
        Refusal::DivergedWalIncomplete { missing, lack } => words(
            format!(
                "not all WAL that only the target has can be saved: {} missing",
                match &missing[..] {
                    [one] => format!("{one} is"),
                    some => format!("{} are", some_of(some)),
                }
            ),
            lack,
            "Look for these segments in an archive of the target. To save what is there, add --keep-incomplete-wal.",
        ),
        Refusal::ConfigDirUnfit { directory, problem } => words(
            format!("the configuration cannot be copied to the directory \"{directory}\""),
            problem,
            "Give --target-config-dir an empty or missing directory; or, to use what is there, --config-file.",
        ),
        _ => return None,
    })
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    let s = || "x".to_owned();
    vec![
        Refusal::WaldirUnfit {
            waldir: s(),
            problem: s(),
        },
        Refusal::DivergedWalPlace {
            directory: s(),
            problem: "It is full.".to_owned(),
        },
        Refusal::DivergedWalIncomplete {
            missing: vec![s()],
            lack: "It is gone.".to_owned(),
        },
        Refusal::ConfigDirUnfit {
            directory: s(),
            problem: "It is full.".to_owned(),
        },
    ]
}
