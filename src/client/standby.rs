//! The standby's own server: its login on the source, its start, and the wait until it streams.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::source::{Source, SourceError};
use crate::pg::lsn::Lsn;
use crate::plan::guard::Login;
use crate::postmaster;
use crate::wire::message::{Answer, Request, WalSender};

/// How often the source is asked whether the standby streams.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How long the login may take.
const LOGIN_WITHIN: Duration = Duration::from_secs(30);

/// Tries the standby's login with the very connection string that it will use, by libpq itself: `psql`
/// beside the server's programs, or on the PATH. `None` when there is no `psql`.
pub async fn try_login(bindir: Option<&Path>, primary_conninfo: &str) -> Option<Login> {
    let program = bindir
        .map(|directory| directory.join("psql"))
        .filter(|program| program.is_file())
        .unwrap_or_else(|| "psql".into());
    let mut command = tokio::process::Command::new(&program);
    command
        .args([
            "--no-psqlrc",
            "--no-align",
            "--tuples-only",
            "--no-password",
        ])
        .args([
            "--field-separator",
            " ",
            "--command",
            "IDENTIFY_SYSTEM",
            "--dbname",
        ])
        // As a walreceiver does: the name of the database is what password files are searched for
        // (`libpqwalreceiver.c:libpqrcv_connect`).
        .arg(format!(
            "{primary_conninfo} dbname=replication replication=true"
        ))
        // The server will not have these; what it will have stands in the connection string.
        .env_remove("PGPASSWORD")
        .env_remove("PGOPTIONS")
        .env_remove("PGDATABASE")
        .env("PGAPPNAME", "pg_reseed")
        .env("PGCONNECT_TIMEOUT", "15")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(LOGIN_WITHIN, command.output()).await {
        Err(_) => {
            return Some(Login::Refused {
                reason: format!("no answer within {} s", LOGIN_WITHIN.as_secs()),
            });
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Ok(Err(error)) => {
            return Some(Login::Refused {
                reason: format!("could not run \"{}\": {error}", program.display()),
            });
        }
        Ok(Ok(output)) => output,
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let identifier = said
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    Some(match (output.status.success(), identifier) {
        (true, Some(system_identifier)) => Login::Reached { system_identifier },
        _ => {
            let reason = String::from_utf8_lossy(&output.stderr);
            let reason = reason.trim().trim_start_matches("psql: ");
            Login::Refused {
                reason: reason.trim_start_matches("error: ").to_owned(),
            }
        }
    })
}

/// Who streams from the source.
///
/// # Errors
/// The source cannot be asked.
pub async fn senders(source: &Source) -> Result<Vec<WalSender>, SourceError> {
    match source.ask(&Request::Standbys, Vec::new()).await? {
        (Answer::Standbys { senders }, _) => Ok(senders),
        _ => Err(SourceError::Unfitting("standbys")),
    }
}

/// How the wait for the stream ended.
#[derive(Debug)]
pub enum Watched {
    /// It streams and has replayed beyond the end of the backup.
    Streams,
    /// The server ended.
    Ended,
    /// The time is up; what was seen last, in words.
    TimeUp { seen: String },
}

/// Waits until the server with `pid` streams from the source and has replayed `stop_lsn`. Which walsender is
/// ours: the one that uses our slot, or else one that was not there before the start.
///
/// # Errors
/// The source cannot be asked any more.
pub async fn watch(
    source: &Source,
    pid: u32,
    slot: Option<&str>,
    before: &[WalSender],
    stop_lsn: Lsn,
    wait: Duration,
) -> Result<Watched, SourceError> {
    let begin = Instant::now();
    loop {
        let now = senders(source).await?;
        let ours = now.iter().find(|sender| match slot {
            Some(name) => sender.slot.as_deref() == Some(name),
            None => !before.iter().any(|old| old.pid == sender.pid),
        });
        let streams = ours.is_some_and(|sender| match sender.replay_lsn {
            // The agent's role may not see more than that there is one. A standby asks for WAL when it has
            // read all that it has, and all up to `stop_lsn` was put into its pg_wal.
            _ if sender.state.is_empty() => postmaster::receives(pid),
            replay_lsn => sender.state == "streaming" && replay_lsn >= Some(stop_lsn),
        });
        if streams {
            return Ok(Watched::Streams);
        }
        if !postmaster::lives(pid) {
            return Ok(Watched::Ended);
        }
        if begin.elapsed() > wait {
            let seen = match ours {
                None => "it has not connected to the source".to_owned(),
                Some(sender) if sender.state.is_empty() => {
                    "it has connected, but does not receive".to_owned()
                }
                Some(sender) => match sender.replay_lsn {
                    None => format!("its walsender is in state \"{}\"", sender.state),
                    Some(lsn) => format!(
                        "its walsender is in state \"{}\" and it has replayed up to {lsn} of {stop_lsn}",
                        sender.state
                    ),
                },
            };
            return Ok(Watched::TimeUp { seen });
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}
