//! Whether the source has the WAL that a standby will ask for, and what keeps it there.

use serde::Serialize;

use crate::facts::SourceFacts;
use crate::pg::lsn::{Lsn, SegmentName};

/// Why WAL that is there will still be there when it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keeper {
    /// The standby's replication slot.
    Slot,
    /// `wal_keep_size` is larger than the distance.
    WalKeepSize,
    /// Nothing: the source's next checkpoint may remove it.
    Nothing,
}

/// Whether the source has WAL.
pub(super) enum Supply {
    Kept(Keeper),
    /// Its archive may have it.
    Archived,
    Gone,
}

/// Whether the source has all WAL from `needs` on.
pub(super) fn supply(source: &SourceFacts, needs: Lsn) -> Supply {
    if source.oldest_wal.is_some_and(|oldest| oldest <= needs) {
        Supply::Kept(if slot_keeps(source, needs) {
            Keeper::Slot
        } else if source.current_lsn.bytes_since(needs) < source.settings.wal_keep_bytes {
            Keeper::WalKeepSize
        } else {
            Keeper::Nothing
        })
    } else if source.settings.archive_mode == "off" {
        Supply::Gone
    } else {
        Supply::Archived
    }
}

fn slot_keeps(source: &SourceFacts, needs: Lsn) -> bool {
    // A slot keeps whole segments.
    let unit = source.control.wal_segment_bytes;
    let begin = |lsn| SegmentName::of(lsn, source.timeline, unit).begin(unit);
    source.slot.as_ref().is_some_and(|slot| {
        slot.is_physical
            && slot
                .restart_lsn
                .is_some_and(|restart| begin(restart) <= needs)
            && matches!(slot.wal_status.as_str(), "reserved" | "extended")
    })
}
