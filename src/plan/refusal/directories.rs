//! Words for refusals: directories that options name.

use super::reason::Refusal;
use super::words::{Words, words};
use crate::plan::words::{some_of, text};

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
        Refusal::DirectoryShared {
            link,
            location,
            other,
        } => words(
            format!(
                "\"{link}\" of the target leads to \"{}\", which is in use by \"{}\"",
                text(location),
                other.pgdata
            ),
            match other.server_pid {
                Some(pid) => format!(
                    "A rebuild would empty it under the running server with pid {pid}: the target seems to be a copy."
                ),
                None => "A rebuild would empty it: one of both data directories seems to be a copy of the other."
                    .to_owned(),
            },
            format!(
                "Put an empty directory in the place of the link. If \"{}\" is of no use any more, remove it.",
                other.pgdata
            ),
        ),
        Refusal::DanglingLinks { links } => words(
            dangling(links),
            "A server could not start there, and what is made in its place would be on another file system.",
            "Mount what is missing or make the directory. A link that is of no use any more can be removed: then an \
             ordinary directory is made in its place.",
        ),
        _ => return None,
    })
}

fn dangling(links: &[(String, String)]) -> String {
    let each = links.iter();
    let each: Vec<_> = each
        .map(|(link, leads_to)| format!("\"{link}\" is a link to \"{leads_to}\""))
        .collect();
    format!("{}, which does not exist", each.join(", "))
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    use crate::plan::tablespaces::Sharer;
    let s = || "x".to_owned();
    let other = |server_pid| Sharer {
        pgdata: s(),
        server_pid,
    };
    vec![
        Refusal::DirectoryShared {
            link: s(),
            location: b"/x".to_vec(),
            other: other(None),
        },
        Refusal::DirectoryShared {
            link: s(),
            location: b"/x".to_vec(),
            other: other(Some(1)),
        },
        Refusal::DanglingLinks {
            links: vec![(s(), s())],
        },
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
