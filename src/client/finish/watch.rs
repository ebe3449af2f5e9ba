//! The wait until the standby streams.

use std::time::{Duration, Instant};

use crate::client::source::{Source, SourceError};
use crate::pg::lsn::Lsn;
use crate::postmaster::{self, Receiver, Receives};
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

/// Which walsenders can be that of our standby.
#[derive(Debug, Clone, Copy)]
struct Ours<'a> {
    /// The slot that it uses.
    slot: Option<&'a str>,
    /// Who streamed before it was started.
    before: &'a [WalSender],
}

impl Ours<'_> {
    /// The walsenders that can serve `receiver`: none that was there before, none of another slot, and none of
    /// another connection. Where the source sees our own address, it sees our port too; where it does not, as behind
    /// a translation of addresses, ports say nothing.
    fn among<'a>(&self, now: &'a [WalSender], receiver: &Receiver) -> Vec<&'a WalSender> {
        let was_there = |sender: &WalSender| {
            let is_same = |old: &WalSender| old.pid == sender.pid && old.began == sender.began;
            self.before.iter().any(is_same)
        };
        let addresses: Vec<_> = receiver.ends.iter().map(|end| &end.address).collect();
        let mut found: Vec<&WalSender> = now
            .iter()
            .filter(|sender| !was_there(sender))
            .filter(|sender| {
                self.slot
                    .is_none_or(|slot| sender.slot.as_deref() == Some(slot))
            })
            .filter(|sender| match &sender.client {
                // Not to be seen by the agent's role.
                None => true,
                // Through a socket of its host.
                Some(client) if client.address.is_none() => receiver.ends.is_empty(),
                Some(client) if addresses.contains(&&client.address) => {
                    receiver.ends.contains(client)
                }
                Some(_) => !receiver.ends.is_empty(),
            })
            .collect();
        let is_exact = |sender: &&WalSender| {
            let client = sender.client.as_ref();
            client.is_some_and(|client| receiver.ends.contains(client))
        };
        if found.iter().any(is_exact) {
            found.retain(is_exact);
        }
        found
    }
}

/// Waits until the server with `pid` streams from the source and has replayed `stop_lsn`. It is the standby's own
/// walreceiver that must stream, and the walsender one that can be its: names alone count for nothing.
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
    let ours = Ours { slot, before };
    loop {
        // Looked at first: what the source says then is not older.
        let receiver = postmaster::receiver(pid);
        let now = senders(source, wait).await?;
        let candidates = receiver
            .as_ref()
            .map_or_else(Vec::new, |receiver| ours.among(&now, receiver));
        let streams = receiver.as_ref().is_some_and(|receiver| {
            candidates
                .iter()
                .any(|sender| is_through(sender, receiver, stop_lsn))
        });
        if streams && postmaster::lives(pid) {
            return Ok(Watched::Streams);
        }
        if !postmaster::lives(pid) {
            return Ok(Watched::Ended);
        }
        if begin.elapsed() > wait {
            let first = candidates.first().copied();
            let first = first.filter(|sender| {
                let own = receiver.as_ref();
                own.is_some_and(|own| can_be_at(sender, own))
            });
            let seen = seen(first, &now, slot, stop_lsn);
            return Ok(Watched::TimeUp { seen });
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Whether the walsender is at the other end of a walreceiver that may be about to be turned away.
fn can_be_at(sender: &WalSender, receiver: &Receiver) -> bool {
    let client = sender.client.as_ref();
    matches!(receiver.receives, Receives::Streams(_))
        || receiver.is_steady()
        || client.is_some_and(|client| receiver.ends.contains(client))
}

/// Whether our walreceiver streams, and what this walsender says of it reaches the end of the backup.
fn is_through(sender: &WalSender, receiver: &Receiver, stop_lsn: Lsn) -> bool {
    match receiver.receives {
        // The agent's role may not see more than that there is one. Who has written all up to `stop_lsn`, or had it
        // before, needs nobody's help to replay it.
        Receives::Streams(Some(written)) if sender.state.is_empty() => written >= stop_lsn,
        // It was sent the whole segment that it goes on in.
        Receives::Streams(Some(written)) if written < stop_lsn => false,
        _ if !can_be_at(sender, receiver) => false,
        _ => sender.state == "streaming" && sender.replay_lsn >= Some(stop_lsn),
    }
}

/// What was seen last.
fn seen(ours: Option<&WalSender>, now: &[WalSender], slot: Option<&str>, stop_lsn: Lsn) -> String {
    let Some(sender) = ours else {
        let holder = slot.and_then(|slot| {
            now.iter()
                .find(|sender| sender.slot.as_deref() == Some(slot))
        });
        return match holder {
            Some(other) => {
                let from = other
                    .client
                    .as_ref()
                    .map_or_else(String::new, |client| format!(" from {client}"));
                format!(
                    "another standby uses its slot (process {} of the source, \"{}\"{from})",
                    other.pid, other.application_name
                )
            }
            None => "it has not connected to the source".to_owned(),
        };
    };
    match sender.replay_lsn {
        _ if sender.state.is_empty() => "it has connected, but does not receive".to_owned(),
        None => format!("its walsender is in state \"{}\"", sender.state),
        Some(lsn) => format!(
            "its walsender is in state \"{}\" and it has replayed up to {lsn} of {stop_lsn}",
            sender.state
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::SlotClient;

    fn end(address: &str, port: u16) -> SlotClient {
        SlotClient {
            address: (!address.is_empty()).then(|| address.to_owned()),
            port,
        }
    }

    fn sender(pid: i32, client: Option<SlotClient>, slot: Option<&str>) -> WalSender {
        WalSender {
            pid,
            application_name: "a".to_owned(),
            state: "streaming".to_owned(),
            slot: slot.map(str::to_owned),
            flush_lsn: None,
            replay_lsn: Some(Lsn(9)),
            client,
            began: Some(1),
        }
    }

    fn receiver(ends: &[SlotClient]) -> Receiver {
        Receiver {
            pid: 1,
            receives: Receives::Streams(Some(Lsn(9))),
            ends: ends.to_vec(),
            age: Duration::ZERO,
        }
    }

    fn among(ours: Ours<'_>, now: &[WalSender], receiver: &Receiver) -> Vec<i32> {
        ours.among(now, receiver)
            .iter()
            .map(|one| one.pid)
            .collect()
    }

    #[test]
    fn our_walsender_is_the_one_at_the_other_end() {
        let ours = Ours {
            slot: Some("s"),
            before: &[],
        };
        let own = receiver(&[end("10.0.0.1", 7)]);
        let at = |pid, address, port| sender(pid, Some(end(address, port)), Some("s"));
        // The same name and slot, and another port, another host, a socket.
        let now = [
            at(1, "10.0.0.1", 8),
            at(2, "10.0.0.1", 7),
            at(3, "10.0.0.2", 7),
            at(4, "", 0),
        ];
        assert_eq!(among(ours, &now, &own), [2]);
        // Addresses are translated: who is at an unknown address can be it.
        assert_eq!(among(ours, &now[2..], &own), [3]);
        // We have a socket.
        assert_eq!(among(ours, &now, &receiver(&[])), [4]);
        // Another slot, or one that the role does not see whom it serves.
        let now = [sender(1, None, Some("t")), sender(2, None, Some("s"))];
        assert_eq!(among(ours, &now, &own), [2]);
    }

    #[test]
    fn who_was_there_before_is_not_ours_even_with_our_slot() {
        let old = sender(1, None, Some("s"));
        let before = [old.clone()];
        let ours = Ours {
            slot: Some("s"),
            before: &before,
        };
        let own = receiver(&[]);
        assert_eq!(among(ours, &before, &own), [0; 0]);
        // Its number, used again.
        let new = WalSender {
            began: Some(2),
            ..old
        };
        assert_eq!(among(ours, &[new], &own), [1]);
    }

    #[test]
    fn only_a_walreceiver_of_ours_that_streams_counts() {
        let far = sender(1, None, None);
        let hidden = WalSender {
            state: String::new(),
            ..far.clone()
        };
        let through = |sender: &WalSender, receives, seconds, stop_lsn| {
            let receiver = Receiver {
                receives,
                age: Duration::from_secs(seconds),
                ..receiver(&[end("10.0.0.1", 7)])
            };
            is_through(sender, &receiver, Lsn(stop_lsn))
        };
        let streams = |lsn| Receives::Streams(Some(Lsn(lsn)));
        assert!(!through(&far, Receives::Unknown, 0, 9));
        assert!(through(&far, Receives::Unknown, 5, 9));
        let exact = sender(1, Some(end("10.0.0.1", 7)), None);
        assert!(through(&exact, Receives::Unknown, 0, 9));
        assert!(through(&far, streams(9), 0, 9));
        assert!(!through(&far, streams(8), 0, 9));
        assert!(!through(&far, streams(10), 0, 10));
        assert!(through(&hidden, streams(9), 0, 9));
        assert!(!through(&hidden, streams(8), 0, 9));
    }

    #[test]
    fn who_has_our_slot_is_named() {
        let other = sender(5, Some(end("10.0.0.9", 7)), Some("s"));
        assert_eq!(
            seen(None, &[other], Some("s"), Lsn(9)),
            "another standby uses its slot (process 5 of the source, \"a\" from 10.0.0.9 port 7)"
        );
    }
}
