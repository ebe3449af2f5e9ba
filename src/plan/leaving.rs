//! What goes from the target beside its data, and is missed by others: WAL that was never archived, and replication
//! slots. The words for it, in the same way before and after it goes.

use std::fmt::Write as _;

use serde::Serialize;

use crate::facts::{SlotKind, SourceFacts, TargetSlot, UnarchivedWal};
use crate::pg::lsn::{Lsn, SegmentName};
use crate::plan::diverged::Divergence;
use crate::plan::words::Bytes;

/// Most unbroken runs of segments that are named.
const RUNS_MAX: usize = 10;
/// Most slots that a sentence names; a report has them all.
const SLOTS_MAX: usize = 10;

/// The WAL of the target that was never archived, as reports have it. Field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unarchived {
    pub files: u64,
    pub bytes: u64,
    /// Names of files in pg_wal: one, or the first and the last of an unbroken run, as `A to B`.
    pub names: Vec<String>,
    /// Runs and names that are not listed.
    pub names_left_out: u64,
    /// How many of the files are segments that end before the source's history leaves the target's, so that the
    /// archive of the source's history has a gap without them; `None` where the source was not asked.
    pub of_source_history: Option<u64>,
    /// Whether the source archives what it receives as a standby: then it may have archived those itself.
    pub source_archives_always: Option<bool>,
    /// They were saved by `--keep-diverged-wal`.
    pub saved: bool,
}

impl Unarchived {
    /// `None` when everything was archived. `own` is what only the target has, if it has anything.
    #[must_use]
    pub fn of(
        wal: &UnarchivedWal,
        wal_segment_bytes: u32,
        source: Option<(&SourceFacts, Option<&Divergence>)>,
    ) -> Option<Self> {
        if wal.files.is_empty() {
            return None;
        }
        let mut names = runs(&wal.files, wal_segment_bytes);
        let names_left_out = names.len().saturating_sub(RUNS_MAX) as u64;
        names.truncate(RUNS_MAX);
        let is_shared = |name: &&String, own: Option<&Divergence>| {
            SegmentName::parse(name, wal_segment_bytes).is_some_and(|segment| {
                own.is_none_or(|own| {
                    own.from != Lsn::INVALID && segment.end(wal_segment_bytes) <= own.from
                })
            })
        };
        Some(Self {
            files: wal.files.len() as u64,
            bytes: wal.bytes,
            names,
            names_left_out,
            of_source_history: source.map(|(_, own)| {
                wal.files.iter().filter(|name| is_shared(name, own)).count() as u64
            }),
            source_archives_always: source
                .map(|(facts, _)| facts.settings.archive_mode == "always"),
            saved: false,
        })
    }

    /// What they are, without a full stop.
    #[must_use]
    pub fn summary(&self) -> String {
        let files = if self.files == 1 {
            "1 file".to_owned()
        } else {
            format!("{} files", self.files)
        };
        let mut text = format!("{files}, {}: {}", Bytes(self.bytes), self.names.join(", "));
        if self.names_left_out > 0 {
            let _ = write!(text, " and {} more", self.names_left_out);
        }
        text
    }

    /// What is lost by it, as sentences; `removes` is what removes them, with its verb.
    #[must_use]
    pub fn warning(&self, removes: &str) -> String {
        let mut text = format!(
            "The target has WAL that was never archived ({}): {removes} it.",
            self.summary()
        );
        match (self.of_source_history, self.source_archives_always) {
            (Some(shared), Some(is_always)) if shared > 0 => {
                let _ = write!(
                    text,
                    " Of these, {shared} {} WAL that the source's history goes through:",
                    if shared == 1 { "is" } else { "are" }
                );
                text.push_str(if is_always {
                    " the source's archive_mode is always, so it may have archived that itself."
                } else {
                    " unless another server has archived that, the archive has a gap there, and no backup from \
                     before can be recovered beyond it."
                });
            }
            _ => {}
        }
        text
    }
}

/// Names, the segments of one timeline that follow each other as one.
fn runs(names: &[String], wal_segment_bytes: u32) -> Vec<String> {
    let mut runs: Vec<(Option<SegmentName>, &str, &str)> = Vec::new();
    let parsed = names
        .iter()
        .map(|name| (SegmentName::parse(name, wal_segment_bytes), name));
    let (segments, others): (Vec<_>, Vec<_>) = parsed.partition(|(segment, _)| segment.is_some());
    for (segment, name) in segments.into_iter().chain(others) {
        match (runs.last_mut(), segment) {
            (Some((Some(last), _, end)), Some(segment))
                if last.timeline == segment.timeline && segment.number == last.number + 1 =>
            {
                (*last, *end) = (segment, name);
            }
            _ => runs.push((segment, name, name)),
        }
    }
    runs.into_iter()
        .map(|(_, first, last)| {
            if first == last {
                first.to_owned()
            } else {
                format!("{first} to {last}")
            }
        })
        .collect()
}

/// A slot by name, with what it is for.
#[must_use]
pub fn slot(slot: &TargetSlot) -> String {
    let name = &slot.name;
    let synced = if slot.is_synced {
        ", a copy of the primary's"
    } else {
        ""
    };
    match &slot.kind {
        SlotKind::Physical => format!("physical \"{name}\"{synced}"),
        SlotKind::Logical {
            database_oid,
            plugin,
        } => format!("logical \"{name}\" ({plugin}, database with OID {database_oid}{synced})"),
        SlotKind::Unknown => format!("\"{name}\", which cannot be read"),
    }
}

/// What is lost with the slots, as sentences; `None` when there are none, or only copies, which come again by
/// themselves. `removes` is what removes them, with its verb.
#[must_use]
pub fn slots_warning(slots: &[TargetSlot], removes: &str) -> Option<String> {
    let mut own: Vec<&TargetSlot> = slots.iter().filter(|slot| !slot.is_synced).collect();
    if own.is_empty() {
        return None;
    }
    // What cannot be made again as it was comes first.
    own.sort_by_key(|slot| !matches!(slot.kind, SlotKind::Logical { .. }));
    let mut names: Vec<String> = own.iter().take(SLOTS_MAX).map(|it| slot(it)).collect();
    if own.len() > SLOTS_MAX {
        names.push(format!("and {} more", own.len() - SLOTS_MAX));
    }
    let noun = if own.len() == 1 {
        "The target has a replication slot"
    } else {
        "The target has replication slots"
    };
    let it = if own.len() == 1 { "it" } else { "them" };
    let mut text = format!("{noun}: {}; {removes} {it}.", names.join(", "));
    let is_logical = |it: &&TargetSlot| matches!(it.kind, SlotKind::Logical { .. });
    if own.iter().any(is_logical) {
        text.push_str(
            " Who decodes from a logical slot cannot go on with a new one from where it was: changes in between are \
             not sent.",
        );
    }
    if own.iter().any(|it| it.kind == SlotKind::Physical) {
        text.push_str(" Standbys that use a physical one need it made again.");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::timeline::TimelineId;
    use crate::plan::samples;

    const MIB: u32 = 1 << 20;

    fn wal(names: &[&str]) -> UnarchivedWal {
        UnarchivedWal {
            files: names.iter().map(|name| (*name).to_owned()).collect(),
            bytes: names.len() as u64 * u64::from(16 * MIB),
        }
    }

    fn own(from: u64) -> Divergence {
        Divergence {
            timeline: TimelineId(1),
            from: Lsn(from),
            until: None,
        }
    }

    #[test]
    fn segments_that_follow_each_other_are_named_by_the_first_and_the_last() {
        let names = [
            "000000010000000000000003",
            "000000010000000000000003.00000028.backup",
            "000000010000000000000004",
            "000000010000000000000006",
            "000000020000000000000007",
            "00000002.history",
        ];
        let found = Unarchived::of(&wal(&names), 16 * MIB, None).unwrap();
        assert_eq!(
            found.summary(),
            "6 files, 96 MB: 000000010000000000000003 to 000000010000000000000004, 000000010000000000000006, \
             000000020000000000000007, 000000010000000000000003.00000028.backup, 00000002.history"
        );
        assert_eq!(found.of_source_history, None);
        // At a border of the middle eight digits too.
        let border = ["0000000100000000000000FF", "000000010000000100000000"];
        let found = Unarchived::of(&wal(&border), 16 * MIB, None).unwrap();
        assert_eq!(found.names.len(), 1);
        assert_eq!(Unarchived::of(&wal(&[]), 16 * MIB, None), None);
    }

    #[test]
    fn gaps_in_the_archive_of_the_source_are_told_from_wal_that_only_the_target_has() {
        let names = [
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000004",
        ];
        let mut source = samples::source();
        let shared = |source: &SourceFacts, own: Option<&Divergence>| {
            Unarchived::of(&wal(&names), 16 * MIB, Some((source, own))).unwrap()
        };
        let found = shared(&source, Some(&own(0x300_0060)));
        assert_eq!(found.of_source_history, Some(1));
        assert!(
            found
                .warning("a rebuild removes")
                .contains("the archive has a gap there"),
            "{found:?}"
        );
        source.settings.archive_mode = "always".to_owned();
        let found = shared(&source, Some(&own(0x400_0000)));
        assert_eq!(found.of_source_history, Some(2));
        assert!(
            found
                .warning("this run removes")
                .contains("it may have archived that itself")
        );
        // One that only follows has nothing that is not the source's; of one without a common past nothing is.
        assert_eq!(shared(&source, None).of_source_history, Some(3));
        let found = shared(&source, Some(&own(0)));
        assert_eq!(found.of_source_history, Some(0));
        assert!(!found.warning("a rebuild removes").contains("gap"));
    }

    #[test]
    fn logical_slots_come_first_and_copies_are_no_loss() {
        let slot = |name: &str, kind: SlotKind, is_synced| TargetSlot {
            name: name.to_owned(),
            kind,
            restart_lsn: None,
            is_synced,
        };
        let logical = || SlotKind::Logical {
            database_oid: 5,
            plugin: "pgoutput".to_owned(),
        };
        let slots = [
            slot("db3", SlotKind::Physical, false),
            slot("sub", logical(), false),
            slot("twin", logical(), true),
        ];
        let warning = slots_warning(&slots, "a rebuild removes").unwrap();
        assert!(
            warning.starts_with(
                "The target has replication slots: logical \"sub\" (pgoutput, database with OID 5), physical \
                 \"db3\"; a rebuild removes them."
            ),
            "{warning}"
        );
        assert!(!warning.contains("twin"));
        assert_eq!(slots_warning(&slots[2..], "a rebuild removes"), None);
        let torn = [slot("torn", SlotKind::Unknown, false)];
        let warning = slots_warning(&torn, "a rebuild removes").unwrap();
        assert_eq!(
            warning,
            "The target has a replication slot: \"torn\", which cannot be read; a rebuild removes it."
        );
    }
}
