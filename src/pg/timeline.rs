//! Timelines: their histories, and where two of them part.
//!
//! The text of a history file is that of `src/backend/access/transam/timeline.c`
//! (`readTimeLineHistory`, `writeTimeLineHistory`), the search for the common ancestor follows
//! `findCommonAncestorTimeline` in `src/bin/pg_rewind/pg_rewind.c`. Knows neither which files exist
//! nor which of two servers is right.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::lsn::Lsn;

/// The number of a timeline; real ones start at 1.
#[derive(
    Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One timeline of a history, and the stretch of log that was written on it.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HistoryEntry {
    pub timeline: TimelineId,
    /// Where it forked from the entry before; `0/0` for the oldest.
    pub begin: Lsn,
    /// Where the next entry forked from it; `None` for the tip, which may still grow.
    pub end: Option<Lsn>,
}

/// The way from a cluster's first timeline to one tip.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Entries")]
pub struct History {
    /// Oldest first, timelines strictly rising, each beginning where the one before ends. The last
    /// is the tip, and it alone has no end.
    pub entries: Vec<HistoryEntry>,
}

/// Why a text or a list of entries is not a [`History`]. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error("line {line} of the history file has no timeline number")]
    NoTimeline { line: usize },
    #[error("line {line} of the history file has no switch point")]
    NoSwitchPoint { line: usize },
    #[error("line {line} of the history file names timeline {timeline} out of order")]
    NotRising { line: usize, timeline: TimelineId },
    #[error("the history file of timeline {tip} names timeline {timeline} as its ancestor")]
    NotBelowTip {
        tip: TimelineId,
        timeline: TimelineId,
    },
    #[error("the entries do not form a timeline history")]
    NotAChain,
}

/// Where the log of two histories parts.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Divergence {
    /// The last timeline that both histories share.
    pub timeline: TimelineId,
    /// The last position that both share; `None` when neither history leaves that timeline: they
    /// have the same tip, and the histories alone show no difference.
    pub lsn: Option<Lsn>,
}

impl History {
    /// The history of a timeline without ancestors: timeline 1, or one whose file is missing, which
    /// the server reads the same way.
    #[must_use]
    pub fn single(tip: TimelineId) -> Self {
        Self {
            entries: vec![HistoryEntry {
                timeline: tip,
                begin: Lsn::INVALID,
                end: None,
            }],
        }
    }

    /// Parses the history file of timeline `tip`.
    ///
    /// # Errors
    /// [`HistoryError`], where the server too would refuse the file. Blank lines, comments and all
    /// that follows the switch point in a line are skipped, as the server does.
    pub fn parse(tip: TimelineId, text: &[u8]) -> Result<Self, HistoryError> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        let mut begin = Lsn::INVALID;
        for (index, raw) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = index + 1;
            let mut words = raw
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty())
                .map(|word| std::str::from_utf8(word).unwrap_or_default());
            let Some(first) = words.next() else { continue };
            if raw.trim_ascii_start().starts_with(b"#") {
                continue;
            }
            let timeline = decimal_u32(first)
                .map(TimelineId)
                .ok_or(HistoryError::NoTimeline { line })?;
            let end = words
                .next()
                .and_then(|word| Lsn::parse(word).ok())
                .ok_or(HistoryError::NoSwitchPoint { line })?;
            let above = entries.last().map_or(TimelineId(0), |entry| entry.timeline);
            if timeline <= above {
                return Err(HistoryError::NotRising { line, timeline });
            }
            entries.push(HistoryEntry {
                timeline,
                begin,
                end: Some(end),
            });
            begin = end;
        }
        if let Some(last) = entries.last()
            && last.timeline >= tip
        {
            let timeline = last.timeline;
            return Err(HistoryError::NotBelowTip { tip, timeline });
        }
        entries.push(HistoryEntry {
            timeline: tip,
            begin,
            end: None,
        });
        Ok(Self { entries })
    }

    /// The timeline that this history leads to; 0, which is no timeline, if `entries` was emptied.
    #[must_use]
    pub fn tip(&self) -> TimelineId {
        self.entries
            .last()
            .map_or(TimelineId(0), |entry| entry.timeline)
    }

    /// The timeline on which the byte at `lsn` was, or will be, written (`tliOfPointInHistory`).
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> Option<TimelineId> {
        self.entries
            .iter()
            .find(|entry| entry.begin <= lsn && entry.end.is_none_or(|end| lsn < end))
            .map(|entry| entry.timeline)
    }
}

/// Decimal digits only: no sign, no blanks.
fn decimal_u32(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

/// What is read from outside before the order of its entries is known to hold.
#[derive(Deserialize)]
struct Entries {
    entries: Vec<HistoryEntry>,
}

impl TryFrom<Entries> for History {
    type Error = HistoryError;

    fn try_from(Entries { entries }: Entries) -> Result<Self, HistoryError> {
        let linked = entries
            .windows(2)
            .all(|pair| pair[0].timeline < pair[1].timeline && pair[0].end == Some(pair[1].begin));
        let ends = entries.last().is_some_and(|tip| tip.end.is_none());
        if linked && ends {
            Ok(Self { entries })
        } else {
            Err(HistoryError::NotAChain)
        }
    }
}

/// Finds where two histories part; `None` when not even their oldest timelines agree.
///
/// An entry is shared when number **and** beginning agree: two standbys that were promoted apart
/// both call their new timeline 2, and only where it begins tells them apart. Two that were promoted
/// at the very same position cannot be told apart here.
#[must_use]
pub fn divergence(a: &History, b: &History) -> Option<Divergence> {
    let (last_a, last_b) = a
        .entries
        .iter()
        .zip(&b.entries)
        .take_while(|(x, y)| x.timeline == y.timeline && x.begin == y.begin)
        .last()?;
    let lsn = match (last_a.end, last_b.end) {
        (Some(x), Some(y)) => Some(x.min(y)),
        (x, y) => x.or(y),
    };
    Some(Divergence {
        timeline: last_a.timeline,
        lsn,
    })
}

/// The name of a timeline's history file in `pg_wal` (`TLHistoryFileName`).
#[must_use]
pub fn history_file_name(timeline: TimelineId) -> String {
    format!("{:08X}.history", timeline.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn history(tip: u32, text: &str) -> History {
        History::parse(TimelineId(tip), text.as_bytes()).unwrap()
    }

    fn entry(timeline: u32, begin: u64, end: Option<u64>) -> HistoryEntry {
        HistoryEntry {
            timeline: TimelineId(timeline),
            begin: Lsn(begin),
            end: end.map(Lsn),
        }
    }

    #[test]
    fn a_chain_of_switches_is_read() {
        let text = "1\t0/3000148\tno recovery target specified\n\n\
                    # a comment\n  3\t0/5000000\tat restore point \"x\"\n";
        let history = history(5, text);
        assert_eq!(
            history.entries,
            [
                entry(1, 0, Some(0x0300_0148)),
                entry(3, 0x0300_0148, Some(0x0500_0000)),
                entry(5, 0x0500_0000, None),
            ]
        );
        assert_eq!(history.tip(), TimelineId(5));
        for (lsn, timeline) in [(0, 1), (0x0300_0147, 1), (0x0300_0148, 3), (u64::MAX, 5)] {
            assert_eq!(history.timeline_at(Lsn(lsn)), Some(TimelineId(timeline)));
        }
    }

    #[test]
    fn an_empty_file_means_no_ancestors() {
        for text in ["", "\n \t\r\n", "# nothing"] {
            assert_eq!(history(4, text), History::single(TimelineId(4)));
        }
    }

    #[test]
    fn what_the_server_refuses_is_refused() {
        let parse = |text: &str| History::parse(TimelineId(3), text.as_bytes()).unwrap_err();
        assert_eq!(parse("x\t0/1\n"), HistoryError::NoTimeline { line: 1 });
        assert_eq!(
            parse("1\t0/1\n2\n"),
            HistoryError::NoSwitchPoint { line: 2 }
        );
        assert_eq!(parse("1\tabc\n"), HistoryError::NoSwitchPoint { line: 1 });
        assert_eq!(
            parse("2\t0/1\n1\t0/2\n"),
            HistoryError::NotRising {
                line: 2,
                timeline: TimelineId(1)
            }
        );
        assert_eq!(
            parse("3\t0/1\n").to_string(),
            "the history file of timeline 3 names timeline 3 as its ancestor"
        );
    }

    #[test]
    fn divergence_is_found_in_every_constellation() {
        let at = |timeline, lsn: Option<u64>| {
            Some(Divergence {
                timeline: TimelineId(timeline),
                lsn: lsn.map(Lsn),
            })
        };
        let one = history(1, "");
        let two = history(2, "1\t0/100\t");
        let other_two = history(2, "1\t0/200\t");
        let three = history(3, "1\t0/100\t\n2\t0/300\t");
        let three_of_one = history(3, "1\t0/80\t");
        for (a, b, expected) in [
            (&one, &one, at(1, None)),
            (&one, &two, at(1, Some(0x100))),
            (&two, &two, at(2, None)),
            (&two, &other_two, at(1, Some(0x100))),
            (&two, &three, at(2, Some(0x300))),
            (&one, &three, at(1, Some(0x100))),
            (&three, &three_of_one, at(1, Some(0x80))),
            (&one, &History::single(TimelineId(7)), None),
        ] {
            assert_eq!(divergence(a, b), expected);
            assert_eq!(divergence(b, a), expected);
        }
    }

    #[test]
    fn a_history_from_outside_must_be_a_chain() {
        let good = history(3, "1\t0/100\t\n2\t0/300\t");
        let json = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<History>(&json).unwrap(), good);
        let bytes = postcard::to_stdvec(&good).unwrap();
        assert_eq!(postcard::from_bytes::<History>(&bytes).unwrap(), good);
        for bad in [
            "{\"entries\":[]}".to_owned(),
            json.replace("\"end\":null", "\"end\":\"0/400\""),
            json.replace("\"timeline\":2", "\"timeline\":4"),
            json.replace("\"begin\":\"0/100\"", "\"begin\":\"0/101\""),
        ] {
            assert!(serde_json::from_str::<History>(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn file_names_are_upper_case_and_eight_digits() {
        assert_eq!(history_file_name(TimelineId(0xAB)), "000000AB.history");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(tip: u32, text: Vec<u8>) {
            let _ = History::parse(TimelineId(tip), &text);
        }

        #[test]
        fn texts_that_look_right_give_chains(
            tip: u32,
            text in "([0-9]{1,3}\t[0-9A-F]{1,2}/[0-9A-F]{1,4}\t?\n){0,4}",
        ) {
            if let Ok(history) = History::parse(TimelineId(tip), text.as_bytes()) {
                prop_assert_eq!(history.tip(), TimelineId(tip));
                let same = History::try_from(Entries { entries: history.entries.clone() });
                prop_assert_eq!(same, Ok(history.clone()));
                let itself = divergence(&history, &history);
                prop_assert_eq!(itself, Some(Divergence { timeline: TimelineId(tip), lsn: None }));
            }
        }
    }
}
