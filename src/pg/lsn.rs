//! Positions in the write-ahead log, and the names of the files that hold it.
//!
//! The text form is that of the type `pg_lsn` (`src/backend/utils/adt/pg_lsn.c`), the file names are
//! those of `src/include/access/xlog_internal.h`. Reads no file and lists no directory.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::timeline::TimelineId;

/// A position in the write-ahead log, in bytes since the cluster was made.
///
/// Human readable formats carry it as text (`"0/3000028"`), all others as the number.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// Why a text is not an [`Lsn`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid LSN \"{text}\"")]
pub struct LsnError {
    /// What was to be parsed.
    pub text: String,
}

impl Lsn {
    /// `0/0`: no position. No record ever starts there.
    pub const INVALID: Lsn = Lsn(0);

    /// Parses `X/X`: two hexadecimal numbers of one to eight digits, in upper or lower case.
    ///
    /// # Errors
    /// [`LsnError`] when the text has any other form.
    pub fn parse(text: &str) -> Result<Self, LsnError> {
        let halves = || {
            let (high, low) = text.split_once('/')?;
            Some((u64::from(hex_u32(high)?) << 32) | u64::from(hex_u32(low)?))
        };
        halves().map(Lsn).ok_or_else(|| LsnError {
            text: text.to_owned(),
        })
    }

    /// The distance from `earlier` to this position in bytes; 0 when `earlier` is not earlier.
    #[must_use]
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One to eight hexadecimal digits, without sign.
fn hex_u32(digits: &str) -> Option<u32> {
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(digits, 16).ok())?
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        Self::parse(text)
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            Self::parse(&text).map_err(serde::de::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Lsn)
        }
    }
}

/// One file of write-ahead log: a timeline, and the how-manieth file since the cluster was made.
///
/// `wal_segment_bytes` below is the size of such a file as pg_control states it: a power of two from
/// 1 MiB to 1 GiB (`IsValidWalSegSize`). Other sizes give no sensible names, but no panic either.
#[derive(
    Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct SegmentName {
    /// The timeline in whose name the file was written.
    pub timeline: TimelineId,
    /// Start of the file in the log, divided by the size of a segment.
    pub number: u64,
}

impl SegmentName {
    /// The file that holds the byte at `lsn` (`XLByteToSeg`).
    #[must_use]
    pub fn of(lsn: Lsn, timeline: TimelineId, wal_segment_bytes: u32) -> Self {
        let number = lsn.0 / u64::from(wal_segment_bytes.max(1));
        Self { timeline, number }
    }

    /// The name in `pg_wal`: 24 upper-case hexadecimal digits (`XLogFileName`).
    #[must_use]
    pub fn file_name(&self, wal_segment_bytes: u32) -> String {
        let per_id = segments_per_id(wal_segment_bytes);
        let (id, rest) = (self.number / per_id, self.number % per_id);
        format!("{:08X}{id:08X}{rest:08X}", self.timeline.0)
    }

    /// Parses the name of a segment; `None` for any other name, and for one that no log of this
    /// segment size has (`XLogFromFileName`).
    #[must_use]
    pub fn parse(name: &str, wal_segment_bytes: u32) -> Option<Self> {
        if !is_upper_hex(name.as_bytes(), 24) {
            return None;
        }
        let field = |from: usize| name.get(from..from + 8).and_then(hex_u32);
        let per_id = segments_per_id(wal_segment_bytes);
        let rest = u64::from(field(16)?);
        (rest < per_id).then_some(Self {
            timeline: TimelineId(field(0)?),
            number: u64::from(field(8)?) * per_id + rest,
        })
    }

    /// The first position in the file.
    #[must_use]
    pub fn begin(&self, wal_segment_bytes: u32) -> Lsn {
        Lsn(self.number.saturating_mul(u64::from(wal_segment_bytes)))
    }

    /// The first position behind the file.
    #[must_use]
    pub fn end(&self, wal_segment_bytes: u32) -> Lsn {
        Lsn(self
            .number
            .saturating_add(1)
            .saturating_mul(u64::from(wal_segment_bytes)))
    }
}

/// How many segments share the middle eight digits of their names (`XLogSegmentsPerXLogId`).
fn segments_per_id(wal_segment_bytes: u32) -> u64 {
    0x1_0000_0000 / u64::from(wal_segment_bytes.max(1))
}

/// The segments from the one that holds `start` to the one that holds the byte before `stop`.
///
/// The segment of `start` is always among them, also when `stop` is not behind `start`: recovery
/// that begins at `start` reads at least one record there.
pub fn segments(
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
    wal_segment_bytes: u32,
) -> impl DoubleEndedIterator<Item = SegmentName> {
    let first = SegmentName::of(start, timeline, wal_segment_bytes).number;
    let last_byte = Lsn(stop.0.saturating_sub(1));
    let last = SegmentName::of(last_byte, timeline, wal_segment_bytes).number;
    (first..=last.max(first)).map(move |number| SegmentName { timeline, number })
}

/// Where the WAL begins that reaches to `end` without a gap, judging by the numbers of the segments that are there;
/// `None` when not even the last one is. A segment counts on any timeline: where a server left one, the file is
/// there in the name of both.
#[must_use]
pub fn unbroken_since(
    numbers: impl IntoIterator<Item = u64>,
    end: Lsn,
    wal_segment_bytes: u32,
) -> Option<Lsn> {
    let unit = u64::from(wal_segment_bytes.max(1));
    let there: std::collections::BTreeSet<u64> = numbers.into_iter().collect();
    let last = end.0.saturating_sub(1) / unit;
    let first = there
        .range(..=last)
        .rev()
        .zip((0..=last).rev())
        .take_while(|(found, wanted)| *found == wanted)
        .last()?;
    Some(Lsn(first.1 * unit))
}

/// What a name in `pg_wal` stands for (`IsXLogFileName` and its neighbours).
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum WalFile {
    /// A segment, `000000010000000000000001`.
    Segment,
    /// The last, unfinished segment of a timeline that ended, `….partial`.
    Partial,
    /// The record of a finished backup, `….00000028.backup`.
    BackupHistory,
    /// The history of a timeline, `00000002.history`.
    TimelineHistory(TimelineId),
    /// Anything else, `archive_status` and `summaries` included.
    Other,
}

impl WalFile {
    /// Tells what `name` stands for.
    #[must_use]
    pub fn classify(name: &[u8]) -> Self {
        let with_suffix = |suffix: &str| name.strip_suffix(suffix.as_bytes());
        if is_upper_hex(name, 24) {
            return Self::Segment;
        }
        if with_suffix(".partial").is_some_and(|stem| is_upper_hex(stem, 24)) {
            return Self::Partial;
        }
        if let Some(stem) = with_suffix(".backup")
            && let Some((segment, offset)) = stem.split_at_checked(24)
            && is_upper_hex(segment, 24)
            && offset.first() == Some(&b'.')
            && is_upper_hex(&offset[1..], 8)
        {
            return Self::BackupHistory;
        }
        if let Some(stem) = with_suffix(".history")
            && is_upper_hex(stem, 8)
            && let Some(number) = std::str::from_utf8(stem).ok().and_then(hex_u32)
        {
            return Self::TimelineHistory(TimelineId(number));
        }
        Self::Other
    }
}

/// Whether the bytes are exactly `digits` hexadecimal digits as PostgreSQL writes them.
fn is_upper_hex(bytes: &[u8], digits: usize) -> bool {
    bytes.len() == digits && bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u32 = 1 << 20;

    #[test]
    fn text_form_is_that_of_pg_lsn() {
        for (text, value) in [
            ("0/0", 0),
            ("0/17414F8", 0x0174_14F8),
            ("16/B374D848", 0x16_B374_D848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(Lsn::parse(text), Ok(Lsn(value)));
            assert_eq!(Lsn(value).to_string(), text);
        }
        assert_eq!("a/bC".parse(), Ok(Lsn(0xA_0000_00BC)));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "0/0/0",
            " 0/0",
            "0/0 ",
            "+1/0",
            "0x1/0",
            "G/0",
            "123456789/0",
            "0/123456789",
            "-1/0",
            "é/0",
        ] {
            assert!(Lsn::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            Lsn::parse("12").unwrap_err().to_string(),
            "invalid LSN \"12\""
        );
    }

    #[test]
    fn distance_never_wraps() {
        assert_eq!(Lsn(10).bytes_since(Lsn(3)), 7);
        assert_eq!(Lsn(3).bytes_since(Lsn(10)), 0);
    }

    #[test]
    fn serialized_as_text_for_people_and_as_number_for_machines() {
        let lsn = Lsn(0x1_0000_0002);
        assert_eq!(serde_json::to_string(&lsn).unwrap(), "\"1/2\"");
        assert_eq!(serde_json::from_str::<Lsn>("\"1/2\"").unwrap(), lsn);
        assert!(serde_json::from_str::<Lsn>("\"12\"").is_err());
        let bytes = postcard::to_stdvec(&lsn).unwrap();
        assert_eq!(bytes, postcard::to_stdvec(&lsn.0).unwrap());
        assert_eq!(postcard::from_bytes::<Lsn>(&bytes).unwrap(), lsn);
    }

    #[test]
    fn wal_is_unbroken_up_to_the_first_gap() {
        let since = |numbers: &[u64], end| {
            unbroken_since(numbers.iter().copied(), Lsn(end), MIB).map(|lsn| lsn.0)
        };
        let unit = u64::from(MIB);
        assert_eq!(since(&[3, 5, 6, 7], 7 * unit + 1), Some(5 * unit));
        // The segment that begins at the end need not be there.
        assert_eq!(since(&[5, 6, 6], 7 * unit), Some(5 * unit));
        assert_eq!(since(&[5, 6, 8, 9], 7 * unit), Some(5 * unit));
        assert_eq!(since(&[4, 5], 7 * unit), None);
        assert_eq!(since(&[], 1), None);
        assert_eq!(since(&[0], 1), Some(0));
    }

    #[test]
    fn segment_names_follow_the_segment_size() {
        let tli = TimelineId(1);
        // pg_walfile_name('0/17414F8') of a fresh cluster, and of one made with --wal-segsize=1.
        for (lsn, mib, name) in [
            (0x0174_14F8, 16, "000000010000000000000001"),
            (0x0174_14F8, 1, "000000010000000000000017"),
            (0x1_0000_0000, 16, "000000010000000100000000"),
            (0xFFFF_FFFF, 16, "0000000100000000000000FF"),
            (0xFFFF_FFFF, 1024, "000000010000000000000003"),
        ] {
            let segment = SegmentName::of(Lsn(lsn), tli, mib * MIB);
            assert_eq!(segment.file_name(mib * MIB), name);
            assert_eq!(SegmentName::parse(name, mib * MIB), Some(segment));
            assert!(segment.begin(mib * MIB) <= Lsn(lsn));
            assert!(segment.end(mib * MIB) > Lsn(lsn));
        }
        for name in [
            "",
            "00000001000000000000000",
            "00000001000000000000000a",
            "000000010000000000000100",
            "+00000010000000000000001",
            "000000010000000000000001.partial",
        ] {
            assert_eq!(SegmentName::parse(name, 16 * MIB), None, "{name:?}");
        }
    }

    #[test]
    fn a_stop_on_a_border_belongs_to_the_segment_before() {
        let names = |start, stop| -> Vec<u64> {
            segments(TimelineId(1), Lsn(start), Lsn(stop), MIB)
                .map(|segment| segment.number)
                .collect()
        };
        let mib = u64::from(MIB);
        assert_eq!(names(3 * mib + 40, 5 * mib), [3, 4]);
        assert_eq!(names(3 * mib + 40, 5 * mib + 1), [3, 4, 5]);
        assert_eq!(names(3 * mib, 3 * mib), [3]);
        assert_eq!(names(3 * mib, 0), [3]);
    }

    #[test]
    fn names_in_pg_wal_are_told_apart() {
        for (name, kind) in [
            ("000000010000000000000001", WalFile::Segment),
            ("000000010000000000000001.partial", WalFile::Partial),
            (
                "000000010000000000000001.00000028.backup",
                WalFile::BackupHistory,
            ),
            ("0000000A.history", WalFile::TimelineHistory(TimelineId(10))),
            ("0000000a.history", WalFile::Other),
            ("00000001000000000000000g", WalFile::Other),
            ("000000010000000000000001.0000002.backup", WalFile::Other),
            ("000000010000000000000001.backup", WalFile::Other),
            ("archive_status", WalFile::Other),
            ("summaries", WalFile::Other),
            ("xlogtemp.123", WalFile::Other),
        ] {
            assert_eq!(WalFile::classify(name.as_bytes()), kind, "{name}");
        }
    }

    proptest! {
        #[test]
        fn lsn_text_round_trips(value: u64) {
            prop_assert_eq!(Lsn::parse(&Lsn(value).to_string()), Ok(Lsn(value)));
        }

        #[test]
        fn names_round_trip(timeline: u32, lsn: u64, power in 20u32..=30) {
            let bytes = 1 << power;
            let segment = SegmentName::of(Lsn(lsn), TimelineId(timeline), bytes);
            let name = segment.file_name(bytes);
            prop_assert_eq!(SegmentName::parse(&name, bytes), Some(segment));
            prop_assert_eq!(WalFile::classify(name.as_bytes()), WalFile::Segment);
        }

        #[test]
        fn any_text_and_any_size_are_survived(text: String, hex in "[0-9A-F]{24}", bytes: u32,
                                              lsn: u64, raw: Vec<u8>) {
            let _ = Lsn::parse(&text);
            let _ = SegmentName::parse(&text, bytes);
            if let Some(segment) = SegmentName::parse(&hex, bytes) {
                let _ = (segment.begin(bytes), segment.end(bytes), segment.file_name(bytes));
            }
            let _ = SegmentName::of(Lsn(lsn), TimelineId(1), bytes).end(bytes);
            let _ = WalFile::classify(&raw);
            let _ = WalFile::classify(text.as_bytes());
        }
    }
}
