//! What `--keep-diverged-wal` can save: which parts of the WAL that only the target has are still in its pg_wal, which
//! are gone, and the note that goes with what was saved.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde::Serialize;

use crate::pg::lsn::{Lsn, SegmentName};
use crate::pg::timeline::{History, TimelineId};
use crate::plan::diverged::Divergence;
use crate::plan::words::Bytes;

/// The file in a directory of saved WAL that says what it is.
pub const NOTE: &str = "README.pg_reseed";

/// Most stretches, there or gone, that are told apart; behind them the rest is one.
const STRETCHES_MAX: usize = 1000;

/// A stretch of WAL in segments that follow each other. Field names are the report's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// In whose name the segments are, or were.
    pub timeline: TimelineId,
    /// The names of the first and the last segment.
    pub first: String,
    pub last: String,
    pub from: Lsn,
    /// `None` where the end is not known.
    pub until: Option<Lsn>,
}

impl Stretch {
    /// The segments by name.
    #[must_use]
    pub fn segments(&self) -> String {
        if self.first == self.last {
            self.first.clone()
        } else {
            format!("{} to {}", self.first, self.last)
        }
    }
}

/// What of the WAL that only the target has is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    pub there: Vec<Stretch>,
    pub gone: Vec<Stretch>,
}

impl Coverage {
    /// Holds what the target wrote on its own against the names of the segments in its pg_wal. Where nothing says
    /// where its own WAL begins, only gaps between segments are known to be gone.
    #[must_use]
    pub fn of(own: &Divergence, history: &History, names: &[String], unit: u32) -> Self {
        let names: HashSet<&str> = names.iter().map(String::as_str).collect();
        let present: Vec<SegmentName> = names
            .iter()
            .filter_map(|name| {
                SegmentName::parse(name.strip_suffix(".partial").unwrap_or(name), unit)
            })
            .filter(|segment| {
                let is_ours = |entry: &crate::pg::timeline::HistoryEntry| {
                    entry.timeline == segment.timeline && entry.begin < segment.end(unit)
                };
                history.entries.iter().any(is_ours)
            })
            .collect();
        let Some(highest) = present.iter().map(|segment| segment.number).max() else {
            return Self::gone_wholly(own, history, unit);
        };
        let lowest = present.iter().map(|segment| segment.number).min();
        let number = |lsn: Lsn| SegmentName::of(lsn, own.timeline, unit).number;
        let first = match own.from {
            Lsn::INVALID => lowest.unwrap_or_default(),
            from => number(from),
        };
        let last = own.until.map_or(highest, |until| {
            number(Lsn(until.0.saturating_sub(1))).max(first)
        });
        let mut coverage = Self::default();
        for number in first..=last {
            // The newest timeline that has a part in the segment: its file begins with what the older one wrote there
            // (PostgreSQL `xlog.c:XLogInitNewTimeline`).
            let mut owners = history.entries.iter().rev().map(|entry| SegmentName {
                timeline: entry.timeline,
                number,
            });
            let has_part = |segment: &SegmentName| {
                let entry =
                    |entry: &&crate::pg::timeline::HistoryEntry| entry.timeline == segment.timeline;
                history.entries.iter().find(entry).is_some_and(|entry| {
                    entry.begin < segment.end(unit)
                        && entry.end.is_none_or(|end| segment.begin(unit) < end)
                })
            };
            let mut owners = owners.by_ref().filter(has_part).collect::<Vec<_>>();
            let there = owners
                .iter()
                .copied()
                .find(|segment| names.contains(segment.file_name(unit).as_str()));
            let is_there = there.is_some();
            let Some(segment) = there.or_else(|| owners.drain(..).next()) else {
                continue;
            };
            let list = if is_there {
                &mut coverage.there
            } else {
                &mut coverage.gone
            };
            add(list, segment, own, unit);
        }
        coverage
    }

    /// Nothing is there.
    fn gone_wholly(own: &Divergence, history: &History, unit: u32) -> Self {
        if own.from == Lsn::INVALID {
            return Self::default();
        }
        let first = SegmentName::of(own.from, own.timeline, unit);
        let end = own.until.unwrap_or(own.from);
        let last = SegmentName::of(Lsn(end.0.saturating_sub(1)), history.tip(), unit);
        Self {
            there: Vec::new(),
            gone: vec![Stretch {
                timeline: own.timeline,
                first: first.file_name(unit),
                last: if last.number > first.number {
                    last.file_name(unit)
                } else {
                    first.file_name(unit)
                },
                from: own.from,
                until: own.until,
            }],
        }
    }

    /// Bytes of WAL that are gone, as far as both ends are known.
    #[must_use]
    pub fn gone_bytes(&self) -> u64 {
        let bytes = |stretch: &Stretch| Some(stretch.until?.bytes_since(stretch.from));
        self.gone.iter().filter_map(bytes).sum()
    }

    /// What cannot be read, and why it matters, as sentences; `None` when all is there.
    #[must_use]
    pub fn lack(&self) -> Option<String> {
        let (first, rest) = self.gone.split_first()?;
        let until = first
            .until
            .map_or_else(String::new, |until| format!(" to {until}"));
        let mut text = format!(
            "Its pg_wal has no more {} of the WAL that only it had: {} (from {}{until})",
            match self.gone_bytes() {
                0 => "a part".to_owned(),
                bytes => Bytes(bytes).to_string(),
            },
            first.segments(),
            first.from
        );
        if !rest.is_empty() {
            let _ = write!(text, " and {} more gaps", rest.len());
        }
        text.push_str(
            ". Transactions that wrote there cannot be read, and recovery cannot pass it. An archive of the target, if \
             there is one, may have those segments.",
        );
        Some(text)
    }
}

/// Adds a segment to the last stretch if it continues it, otherwise to a new one.
fn add(list: &mut Vec<Stretch>, segment: SegmentName, own: &Divergence, unit: u32) {
    let name = segment.file_name(unit);
    let end = segment.end(unit);
    let until = own.until.map_or(end, |until| until.min(end));
    let is_full = list.len() >= STRETCHES_MAX;
    if let Some(before) = list.last_mut()
        && (is_full
            || before.timeline == segment.timeline && before.until == Some(segment.begin(unit)))
    {
        before.last = name;
        before.until = Some(until);
        return;
    }
    list.push(Stretch {
        timeline: segment.timeline,
        first: name.clone(),
        last: name,
        from: segment.begin(unit).max(own.from),
        until: Some(until),
    });
}

/// What was saved, for the note.
#[derive(Debug)]
pub struct Saved<'a> {
    pub pgdata: &'a str,
    pub host: &'a str,
    pub major: u32,
    /// Where it is saved, as a shell takes it.
    pub directory: &'a str,
    /// The WAL that only the target has, and what of it is there; `None` when it has none.
    pub own: Option<(&'a Divergence, &'a Coverage)>,
    /// Files that were never archived.
    pub unarchived: &'a [String],
}

impl Saved<'_> {
    /// The words of the note.
    #[must_use]
    pub fn note(&self) -> String {
        let Self {
            pgdata,
            host,
            major,
            ..
        } = self;
        let mut text = format!(
            "Write-ahead log of the data directory \"{pgdata}\" on host \"{host}\", PostgreSQL {major}, saved by\n\
             pg_reseed before the directory was made a standby. Remove it when it is not needed any more.\n"
        );
        if let Some((own, coverage)) = self.own {
            self.note_own(&mut text, own, coverage);
        }
        if !self.unarchived.is_empty() {
            let _ = write!(
                text,
                "\nNEVER ARCHIVED\n\
                 These files waited to be archived (archive_status/*.ready). If the archive lacks one of them, no backup\n\
                 from before can be recovered beyond it: copy those that are missing there to it, under their names.\n\n"
            );
            for name in self.unarchived {
                let _ = writeln!(text, "    {name}");
            }
        }
        text
    }

    fn note_own(&self, text: &mut String, own: &Divergence, coverage: &Coverage) {
        let Divergence { timeline, from, .. } = own;
        let begin = match *from {
            Lsn::INVALID => "It is not known where it begins.".to_owned(),
            from => format!("It begins at {from} of timeline {timeline}."),
        };
        let _ = write!(
            text,
            "\nONLY HERE\n\
             The log holds transactions that no other server has: they were lost when the directory was rebuilt.\n\
             {begin}\n"
        );
        if !coverage.gone.is_empty() {
            let _ = write!(
                text,
                "\n\
                 IT IS NOT COMPLETE. These segments were not in pg_wal any more, so that the transactions that wrote\n\
                 there cannot be read; an archive of the old primary may have them:\n\n"
            );
            for gone in &coverage.gone {
                let until = gone
                    .until
                    .map_or_else(String::new, |until| format!(" to {until}"));
                let _ = writeln!(text, "    {} (from {}{until})", gone.segments(), gone.from);
            }
        }
        if coverage.there.is_empty() {
            return;
        }
        let major = self.major;
        let _ = write!(
            text,
            "\nTo read what is there, with the programs of PostgreSQL {major}:\n\n"
        );
        let directory = self.directory;
        for there in &coverage.there {
            let _ = write!(
                text,
                "    pg_waldump --path={directory} --timeline={} --start={}",
                there.timeline, there.from
            );
            if let Some(until) = there.until {
                let _ = write!(text, " --end={until}");
            }
            text.push('\n');
        }
        text.push_str(
            "\npg_waldump shows which relations and rows were written, not their text; --stats sums up.\n",
        );
        if own.until.is_none() {
            text.push_str(
                "The target was not shut down cleanly: where its log ends, pg_waldump says that it found no valid\n\
                 record, which is no fault.\n",
            );
        }
        text.push_str(if coverage.gone.is_empty() {
            "To get the rows back, restore a backup of the old primary and let it recover with these files.\n"
        } else {
            "To get rows back, restore a backup of the old primary and let it recover with these files: it comes as far\n\
             as they reach without a gap.\n"
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: u32 = 16 << 20;

    fn own(from: u64, until: Option<u64>) -> Divergence {
        Divergence {
            timeline: TimelineId(1),
            from: Lsn(from),
            until: until.map(Lsn),
        }
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn shown(list: &[Stretch]) -> Vec<String> {
        list.iter()
            .map(|it| {
                let until = it.until.map_or_else(String::new, |until| until.to_string());
                format!("{} {} {}..{until}", it.timeline, it.segments(), it.from)
            })
            .collect()
    }

    #[test]
    fn what_was_recycled_is_known_to_be_gone() {
        let history = History::single(TimelineId(1));
        let there = names(&[
            "000000010000000000000005",
            "000000010000000000000006",
            // Made for later use.
            "000000010000000000000007",
            "000000010000000000000008",
        ]);
        let coverage = Coverage::of(&own(0x300_0060, Some(0x601_0000)), &history, &there, UNIT);
        assert_eq!(
            shown(&coverage.there),
            ["1 000000010000000000000005 to 000000010000000000000006 0/5000000..0/6010000"]
        );
        assert_eq!(
            shown(&coverage.gone),
            ["1 000000010000000000000003 to 000000010000000000000004 0/3000060..0/5000000"]
        );
        assert_eq!(coverage.gone_bytes(), 0x500_0000 - 0x300_0060);
        let lack = coverage.lack().unwrap();
        assert!(
            lack.contains("31 MB") && lack.contains("0/3000060 to 0/5000000"),
            "{lack}"
        );

        let whole = names(&["000000010000000000000003"]);
        let coverage = Coverage::of(&own(0x300_0060, Some(0x301_0000)), &history, &whole, UNIT);
        assert_eq!((coverage.gone.len(), coverage.lack()), (0, None));
        // An end on a border belongs to the segment before it.
        let coverage = Coverage::of(&own(0x300_0060, Some(0x400_0000)), &history, &whole, UNIT);
        assert_eq!(coverage.gone.len(), 0);
        let nothing = Coverage::of(&own(0x300_0060, Some(0x601_0000)), &history, &[], UNIT);
        assert_eq!(
            shown(&nothing.gone),
            ["1 000000010000000000000003 to 000000010000000000000006 0/3000060..0/6010000"]
        );
    }

    #[test]
    fn a_gap_in_the_middle_is_seen_also_where_the_begin_is_not_known() {
        let history = History::single(TimelineId(1));
        let there = names(&[
            "000000010000000000000003",
            "000000010000000000000005",
            "000000020000000000000004",
            "000000010000000000000003.00000028.backup",
        ]);
        for from in [0, 0x300_0060] {
            let coverage = Coverage::of(&own(from, None), &history, &there, UNIT);
            assert_eq!(
                shown(&coverage.gone),
                ["1 000000010000000000000004 0/4000000..0/5000000"]
            );
            assert_eq!(coverage.there.len(), 2);
        }
        assert_eq!(
            Coverage::of(&own(0, None), &history, &[], UNIT),
            Coverage::default()
        );
    }

    #[test]
    fn the_segment_of_a_switch_is_read_in_the_name_of_the_newer_timeline() {
        let history = History::parse(TimelineId(2), b"1\t0/5000100\tx\n").unwrap();
        let there = names(&[
            "000000010000000000000004",
            "000000010000000000000005.partial",
            "000000020000000000000005",
            "000000020000000000000006",
        ]);
        let coverage = Coverage::of(&own(0x400_0060, Some(0x601_0000)), &history, &there, UNIT);
        assert_eq!(
            shown(&coverage.there),
            [
                "1 000000010000000000000004 0/4000060..0/5000000",
                "2 000000020000000000000005 to 000000020000000000000006 0/5000000..0/6010000"
            ]
        );
        assert_eq!(coverage.gone, []);
    }

    #[test]
    fn the_note_says_what_is_there_what_is_not_and_how_to_read_it() {
        let history = History::single(TimelineId(1));
        let divergence = own(0x300_0060, Some(0x601_0000));
        let there = names(&["000000010000000000000005", "000000010000000000000006"]);
        let coverage = Coverage::of(&divergence, &history, &there, UNIT);
        let unarchived = names(&["000000010000000000000002"]);
        let mut saved = Saved {
            pgdata: "/srv/pg/15",
            host: "db1",
            major: 15,
            directory: "\"/srv/it's lost\"",
            own: Some((&divergence, &coverage)),
            unarchived: &unarchived,
        };
        let note = saved.note();
        insta::assert_snapshot!(note, @r#"
        Write-ahead log of the data directory "/srv/pg/15" on host "db1", PostgreSQL 15, saved by
        pg_reseed before the directory was made a standby. Remove it when it is not needed any more.

        ONLY HERE
        The log holds transactions that no other server has: they were lost when the directory was rebuilt.
        It begins at 0/3000060 of timeline 1.

        IT IS NOT COMPLETE. These segments were not in pg_wal any more, so that the transactions that wrote
        there cannot be read; an archive of the old primary may have them:

            000000010000000000000003 to 000000010000000000000004 (from 0/3000060 to 0/5000000)

        To read what is there, with the programs of PostgreSQL 15:

            pg_waldump --path="/srv/it's lost" --timeline=1 --start=0/5000000 --end=0/6010000

        pg_waldump shows which relations and rows were written, not their text; --stats sums up.
        To get rows back, restore a backup of the old primary and let it recover with these files: it comes as far
        as they reach without a gap.

        NEVER ARCHIVED
        These files waited to be archived (archive_status/*.ready). If the archive lacks one of them, no backup
        from before can be recovered beyond it: copy those that are missing there to it, under their names.

            000000010000000000000002
        "#);
        assert!(note.lines().all(|line| line.len() < 120), "{note}");
        saved.own = None;
        let note = saved.note();
        assert!(!note.contains("pg_waldump") && note.contains("000000010000000000000002"));
    }
}
