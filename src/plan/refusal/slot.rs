//! Words for refusals: the replication slot.

use super::reason::Refusal;
use super::words::{Words, words};
use crate::plan::words::Bytes;

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
        Refusal::NoFreeSlot { max, used } => words(
            "the source has no free replication slot",
            format!(
                "{used} of \"max_replication_slots\" = {max} are in use, and the run needs one so that the source keeps its WAL."
            ),
            "Drop a slot that is no longer needed, or set \"max_replication_slots\" higher on the source and restart it.",
        ),
        Refusal::SlotMissing { name } => words(
            format!("replication slot \"{name}\" does not exist on the source"),
            "The standby would wait for it for ever.",
            "Check --slot, or use --create-slot to have it made.",
        ),
        Refusal::SlotLogical { name } => words(
            format!("replication slot \"{name}\" of the source is a logical slot"),
            "A standby needs a physical slot.",
            "Choose another name with --slot.",
        ),
        Refusal::SlotActive { name, holder } => words(
            format!("replication slot \"{name}\" of the source is in use"),
            match holder {
                Some(holder) => format!(
                    "Another standby streams from it, and a slot serves one at a time: {holder}."
                ),
                None => {
                    "Another standby streams from it, and a slot serves one at a time.".to_owned()
                }
            },
            "Choose another name with --slot, or stop the standby that uses it.",
        ),
        Refusal::SlotOfRun { name, holder } => words(
            format!("another run of pg_reseed uses replication slot \"{name}\" of the source now"),
            format!("A slot serves one standby at a time: {holder}."),
            "Give each standby a slot of its own with --slot. If that run was cut off, its agent ends within a minute or two.",
        ),
        Refusal::SlotLost { name } => words(
            format!("replication slot \"{name}\" of the source has lost its WAL"),
            "It was invalidated and cannot be used any more.",
            format!(
                "Drop it on the source, SELECT pg_drop_replication_slot('{}');, and use --create-slot to have it made again.",
                name.replace('\'', "''")
            ),
        ),
        Refusal::SlotKeepsTooMuch { name, bytes, limit } => words(
            format!(
                "replication slot \"{name}\" keeps {} of WAL on the source already",
                Bytes(*bytes)
            ),
            format!(
                "The run may make the source keep {}, and a slot keeps what it has until its standby streams.",
                Bytes(*limit)
            ),
            format!(
                "Allow more with --max-wal-retained; or drop the slot on the source, SELECT pg_drop_replication_slot('{}');, and use --create-slot to have it made again.",
                name.replace('\'', "''")
            ),
        ),
        Refusal::SlotKeepsNothing { name } => words(
            format!("replication slot \"{name}\" of the source keeps no WAL yet"),
            "It was made without reserving WAL, and with -X none nothing else gives the standby the WAL of the backup.",
            "Use -X fetch, give --restore-command, or drop the slot and use --create-slot to have it made again.",
        ),
        _ => return None,
    })
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    use crate::facts::SlotHolder;

    let s = || "x".to_owned();
    vec![
        Refusal::NoFreeSlot { max: 0, used: 0 },
        Refusal::SlotMissing { name: s() },
        Refusal::SlotLogical { name: s() },
        Refusal::SlotActive {
            name: s(),
            holder: None,
        },
        Refusal::SlotOfRun {
            name: s(),
            holder: SlotHolder {
                pid: 1,
                application_name: s(),
                client: None,
            },
        },
        Refusal::SlotLost { name: s() },
        Refusal::SlotKeepsNothing { name: s() },
        Refusal::SlotKeepsTooMuch {
            name: s(),
            bytes: 2,
            limit: 1,
        },
    ]
}
