//! The head of a WAL segment, by which a server knows it (PostgreSQL `xlog_internal.h:XLogLongPageHeaderData`).

use super::lsn::{Lsn, SegmentName};
use super::timeline::TimelineId;

/// Bytes of the head.
pub const HEAD_BYTES: usize = 40;

/// Set in the flags of a segment's first page (`XLP_LONG_HEADER`).
const LONG_HEADER: u16 = 2;

/// Why a file is not the segment that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongSegment {
    #[error("it has {found} bytes instead of {expected}")]
    Length { found: u64, expected: u32 },
    #[error("it does not begin as a WAL segment does")]
    NoHead,
    #[error("it is WAL of another cluster, with system identifier {0}")]
    Foreign(u64),
    #[error("its segments have {0} bytes")]
    SegmentSize(u32),
    #[error("it begins at {0}")]
    Begin(Lsn),
    #[error("it is of timeline {0}")]
    Timeline(TimelineId),
}

/// Holds the head of a file of `length` bytes against the segment that it should be.
///
/// # Errors
/// [`WrongSegment`].
pub fn check(
    head: &[u8; HEAD_BYTES],
    length: u64,
    segment: SegmentName,
    segment_bytes: u32,
    system_identifier: u64,
) -> Result<(), WrongSegment> {
    let number = |at: usize, bytes: usize| {
        let digits = head[at..at + bytes].iter().rev();
        digits.fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte))
    };
    let short = |at| u32::try_from(number(at, 4)).unwrap_or(u32::MAX);
    if length != u64::from(segment_bytes) {
        return Err(WrongSegment::Length {
            found: length,
            expected: segment_bytes,
        });
    }
    if number(0, 2) == 0 || number(2, 2) & u64::from(LONG_HEADER) == 0 {
        return Err(WrongSegment::NoHead);
    }
    let timeline = TimelineId(short(4));
    // The first segment of a timeline begins with pages of the one before.
    if timeline > segment.timeline {
        return Err(WrongSegment::Timeline(timeline));
    }
    let begin = Lsn(number(8, 8));
    if begin != segment.begin(segment_bytes) {
        return Err(WrongSegment::Begin(begin));
    }
    let foreign = number(24, 8);
    if foreign != system_identifier {
        return Err(WrongSegment::Foreign(foreign));
    }
    match short(32) {
        bytes if bytes == segment_bytes => Ok(()),
        bytes => Err(WrongSegment::SegmentSize(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    /// The head of a segment as a server of 15 writes it.
    fn head(timeline: u32, begin: u64, identifier: u64, bytes: u32) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..2].copy_from_slice(&0xD110_u16.to_le_bytes());
        head[2..4].copy_from_slice(&7_u16.to_le_bytes());
        head[4..8].copy_from_slice(&timeline.to_le_bytes());
        head[8..16].copy_from_slice(&begin.to_le_bytes());
        head[24..32].copy_from_slice(&identifier.to_le_bytes());
        head[32..36].copy_from_slice(&bytes.to_le_bytes());
        head[36..].copy_from_slice(&8192_u32.to_le_bytes());
        head
    }

    #[test]
    fn only_the_segment_itself_passes() {
        let begin = 5 * u64::from(MIB);
        let segment = SegmentName::of(Lsn(begin + 40), TimelineId(2), MIB);
        let found = |head: [u8; HEAD_BYTES], length: u32| {
            check(&head, u64::from(length), segment, MIB, 77).map_err(|error| error.to_string())
        };
        assert_eq!(found(head(2, begin, 77, MIB), MIB), Ok(()));
        assert_eq!(found(head(1, begin, 77, MIB), MIB), Ok(()));
        for (head, length, error) in [
            (
                head(2, begin, 77, MIB),
                8192,
                "it has 8192 bytes instead of 1048576",
            ),
            (
                [0; HEAD_BYTES],
                MIB,
                "it does not begin as a WAL segment does",
            ),
            (head(3, begin, 77, MIB), MIB, "it is of timeline 3"),
            (head(2, 0, 77, MIB), MIB, "it begins at 0/0"),
            (
                head(2, begin, 78, MIB),
                MIB,
                "it is WAL of another cluster, with system identifier 78",
            ),
            (
                head(2, begin, 77, 16 * MIB),
                MIB,
                "its segments have 16777216 bytes",
            ),
        ] {
            assert_eq!(found(head, length), Err(error.to_owned()));
        }
    }
}
