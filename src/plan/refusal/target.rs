//! Words for refusals: who runs it, and what is in the target's place.

use super::reason::Refusal;
use super::words::{Words, words};
use crate::plan::words::{capital, some_of};

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
        Refusal::RunsAsRoot => words(
            "cannot be executed by \"root\"",
            "Files made by root would not be readable by the server.",
            "Log in (using, e.g., \"su\") as the user that owns the data directory.",
        ),
        Refusal::NotADataDirectory { pgdata, example } => words(
            format!("directory \"{pgdata}\" exists but is not a data directory"),
            format!(
                "It has no \"PG_VERSION\", but it holds \"{example}\", which a rebuild could remove."
            ),
            "Check -D. To seed a new standby there, empty the directory first.",
        ),
        Refusal::NotOwner { pgdata, user } => words(
            format!("data directory \"{pgdata}\" does not belong to user \"{user}\""),
            "The server must own its data directory, and files made by another user would keep it from starting.",
            "Run the command as the user that owns the data directory.",
        ),
        Refusal::Unreadable {
            pgdata,
            problem,
            is_data_directory,
        } => words(
            format!("could not tell which cluster is in \"{pgdata}\": {problem}"),
            "Without its control file nothing proves that this directory may be overwritten.",
            if *is_data_directory {
                "Check -D. If it is what an interrupted pg_rewind, pg_basebackup or restore has left, or its content can be given up otherwise, add --overwrite-unknown-cluster: only what differs from the source is moved."
            } else {
                "Check -D. If its content can be given up, empty the directory and run the same command again: it seeds the standby."
            },
        ),
        Refusal::Locked { pgdata, holder } => words(
            format!("another pg_reseed is at work in \"{pgdata}\""),
            format!(
                "{} Two at once would destroy each other's work.",
                match holder {
                    Some(holder) => format!("{}.", capital(&holder.to_string())),
                    None => "Who it is cannot be seen from here: it may run in another container, or on another host."
                        .to_owned(),
                }
            ),
            "Wait until the other run has ended.",
        ),
        Refusal::ServerRunning { pgdata, pid } => words(
            format!("a server is running in \"{pgdata}\" (PID {pid})"),
            "Its files cannot be replaced beneath it.",
            "Stop the server first, or use --stop to have it stopped.",
        ),
        Refusal::PidFileUnclear { pgdata, pid } => words(
            format!("could not tell whether a server is running in \"{pgdata}\""),
            format!(
                "Its \"postmaster.pid\" names process {pid}, which is alive but does not work there: the number was given away again, or the server runs in another container."
            ),
            "If no server uses the directory, remove \"postmaster.pid\".",
        ),
        Refusal::PidFileTorn { pgdata } => words(
            format!("\"postmaster.pid\" in \"{pgdata}\" holds no process number"),
            "Either a server is just starting there, or a crash has torn the file: PostgreSQL refuses to start then too.",
            "If no server uses the directory, remove \"postmaster.pid\" and run the same command again.",
        ),
        Refusal::Orphans { pgdata, detail } => words(
            format!("processes of a stopped server still use \"{pgdata}\""),
            detail.clone(),
            "Terminate these processes, then run the same command again.",
        ),
        Refusal::SeedNotAskedFor {
            pgdata,
            is_parent_missing,
        } => words(
            format!("data directory \"{pgdata}\" does not exist"),
            if *is_parent_missing {
                "Nothing is there, so everything would come from the source. The directory that it would lie in does not exist either, which looks like a mistyped path."
            } else {
                "Nothing is there, so everything would come from the source."
            },
            "Check -D. If a new standby is meant to be made there, use --seed.",
        ),
        Refusal::UnexpectedLinks { links } => words(
            format!(
                "unexpected symbolic link in the target's data directory: {}",
                some_of(links)
            ),
            "Only pg_wal and the tablespaces may be links: writing through any other would reach outside the data directory.",
            "Replace each link by the directory or file that it leads to.",
        ),
        _ => return None,
    })
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    let s = || "x".to_owned();
    vec![
        Refusal::RunsAsRoot,
        Refusal::NotADataDirectory {
            pgdata: s(),
            example: s(),
        },
        Refusal::NotOwner {
            pgdata: s(),
            user: s(),
        },
        Refusal::Unreadable {
            pgdata: s(),
            problem: s(),
            is_data_directory: true,
        },
        Refusal::Locked {
            pgdata: s(),
            holder: None,
        },
        Refusal::ServerRunning {
            pgdata: s(),
            pid: 1,
        },
        Refusal::PidFileUnclear {
            pgdata: s(),
            pid: 1,
        },
        Refusal::PidFileTorn { pgdata: s() },
        Refusal::Orphans {
            pgdata: s(),
            detail: "PID 1 does.".to_owned(),
        },
        Refusal::UnexpectedLinks { links: vec![s()] },
        Refusal::SeedNotAskedFor {
            pgdata: s(),
            is_parent_missing: false,
        },
        Refusal::SeedNotAskedFor {
            pgdata: s(),
            is_parent_missing: true,
        },
    ]
}
