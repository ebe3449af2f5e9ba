//! The wait until the standby streams.

use std::time::{Duration, Instant};

use crate::client::source::{Source, SourceError};
use crate::pg::lsn::Lsn;
use crate::postmaster::{self, Receives};
use crate::wire::message::{Answer, Request, WalSender};

/// How often the source is asked whether the standby streams.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Who streams from the source.
///
/// # Errors
/// The source cannot be asked, or does not answer within `limit`.
pub async fn senders(source: &Source, limit: Duration) -> Result<Vec<WalSender>, SourceError> {
    let asked = source.ask(&Request::Standbys, Vec::new());
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok((Answer::Standbys { senders }, _))) => Ok(senders),
        Ok(Ok(_)) => Err(SourceError::Unfitting("standbys")),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let seconds = limit.as_secs();
            Err(SourceError::Lost(format!(
                "it did not answer within {seconds} s"
            )))
        }
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
        let now = senders(source, wait).await?;
        let mut ours = now.iter().filter(|sender| match slot {
            Some(name) => sender.slot.as_deref() == Some(name),
            None => !before.iter().any(|old| old.pid == sender.pid),
        });
        let first = ours.clone().next();
        // Another standby may have come back meanwhile: ours must receive, too.
        let receives = postmaster::receives(pid);
        let streams = ours.any(|sender| match (sender.replay_lsn, receives) {
            (_, Receives::No) => false,
            // The agent's role may not see more than that there is one. Who has written all up to `stop_lsn`, or
            // had it before, needs nobody's help to replay it.
            _ if sender.state.is_empty() => {
                matches!(receives, Receives::Streams(Some(written)) if written >= stop_lsn)
            }
            (replay_lsn, _) => sender.state == "streaming" && replay_lsn >= Some(stop_lsn),
        });
        if streams && postmaster::lives(pid) {
            return Ok(Watched::Streams);
        }
        let ours = first;
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
