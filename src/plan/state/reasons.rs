//! Why a standby that runs receives nothing.

use super::{Beside, followed, needed, recovery};
use crate::facts::{Receiver, SourceFacts, TargetCluster};

/// The reasons: sentences.
pub fn reasons(
    cluster: &TargetCluster,
    told: Option<&Receiver>,
    beside: Option<Beside<'_>>,
) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut say = |text: String| reasons.push(text);
    let standing = &cluster.standing;
    if standing.live.is_none() {
        match cluster.server_status().as_str() {
            "standby" => say(
                "It lets nobody in: it is not consistent yet, or hot_standby is off. What is said here is by its files."
                    .to_owned(),
            ),
            _ => say(
                "It did not let this user in to ask: what is said here is by its files.".to_owned(),
            ),
        }
    }
    let names = followed(cluster);
    if names.is_empty() {
        say("Its primary_conninfo is not set: it follows no server.".to_owned());
    }
    match told {
        Some(receiver) => say(format!(
            "Its walreceiver is there and does not stream: its status is \"{}\".",
            receiver.status
        )),
        None if standing.receives => {
            say("Its walreceiver is there and has received nothing yet.".to_owned());
        }
        None => {}
    }
    if recovery(cluster).is_some_and(|recovery| recovery.is_paused) {
        say("Its replay is paused: pg_wal_replay_resume() lets it go on.".to_owned());
    }
    let Some(beside) = beside else {
        return reasons;
    };
    let source = beside.source;
    if !names.is_empty() && !beside.is_named {
        say(format!(
            "Its primary_conninfo leads to {}, not to this source.",
            names.join(" or ")
        ));
        return reasons;
    }
    if source.settings.active_wal_senders >= source.settings.max_wal_senders {
        say(format!(
            "All {} walsenders of the source are in use (max_wal_senders).",
            source.settings.max_wal_senders
        ));
    }
    if let Some(reason) = of_slot(cluster, source) {
        say(reason);
    }
    if let Some(needs) = needed(cluster, source)
        && source.oldest_wal.is_none_or(|oldest| oldest > needs)
    {
        let begins = source
            .oldest_wal
            .map_or_else(String::new, |oldest| format!(", which begins at {oldest}"));
        say(format!(
            "It needs WAL from {needs} on, which is not in the source's pg_wal any more{begins}."
        ));
    }
    reasons
}

/// What of its slot keeps it from streaming.
fn of_slot(cluster: &TargetCluster, source: &SourceFacts) -> Option<String> {
    let name = recovery(cluster)
        .and_then(|recovery| recovery.primary_slot_name.as_deref())
        .or(cluster.standing.primary_slot_name.as_deref())?;
    let Some(slot) = source.slots.iter().find(|slot| slot.name == name) else {
        return Some(format!(
            "Its primary_slot_name is \"{name}\", and the source has no such slot."
        ));
    };
    if slot.wal_status == "lost" {
        return Some(format!(
            "Its slot \"{name}\" has lost the WAL that it kept."
        ));
    }
    slot.active.then(|| {
        let by = slot.holder.as_ref();
        let by = by.map_or_else(String::new, |holder| format!(": {holder}"));
        format!("Its slot \"{name}\" is in use by another standby{by}.")
    })
}
