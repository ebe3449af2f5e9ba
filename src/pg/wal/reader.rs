//! Records one after the other, out of pages that somebody else reads.
//!
//! The rules are those of `xlogreader.c`: a page must be the one that belongs at its place, a record must follow
//! the one before it and its CRC must hold. Where one of these fails the WAL ends, as it does for a server that
//! recovers: a segment that was recycled holds old bytes behind the end.

use std::ops::Range;

use crate::pg::control::ControlFile;
use crate::pg::lsn::{Lsn, SegmentName};
use crate::pg::wal::record::{HEADER_BYTES, Record};

/// Length of a page's header, and of the first one in a segment (`xlog_internal.h`, aligned).
const PAGE_HEADER: usize = 24;
const LONG_PAGE_HEADER: usize = 40;

/// `xlp_info`: the page begins with the rest of a record.
const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// `xlp_info`: the header is a long one.
const LONG_HEADER: u16 = 0x0002;
/// `xlp_info`: the rest of the record before was never written, by a crash; what stands here follows the record
/// before that. Up to 18, the bit that it has since 19 had another meaning.
const FIRST_IS_OVERWRITE_CONTRECORD_TILL_18: u16 = 0x0008;
const FIRST_IS_OVERWRITE_CONTRECORD_SINCE_19: u16 = 0x0004;

/// `XLOG_PAGE_MAGIC` of 15: from here on the bits of a block's image are others.
const MAGIC_15: u16 = 0xd110;
/// `XLOG_PAGE_MAGIC` of 19: from here on a bit of a page's header is another.
const MAGIC_19: u16 = 0xd122;

/// Longest record that a server writes (`xlogrecord.h: XLogRecordMaxSize`).
const RECORD_BYTES_MAX: usize = 1020 * 1024 * 1024;

/// What the control file says of the WAL's form.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// `xlog_blcksz`.
    pub page_bytes: u32,
    pub segment_bytes: u32,
    pub system_identifier: u64,
}

impl Geometry {
    /// Of the cluster with this control file.
    #[must_use]
    pub fn of(control: &ControlFile) -> Self {
        Self {
            page_bytes: control.wal_block_bytes,
            segment_bytes: control.wal_segment_bytes,
            system_identifier: control.system_identifier,
        }
    }
}

/// Why the WAL ends where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum End {
    #[error("there is no WAL there")]
    Absent,
    #[error("no record stands there")]
    Empty,
    #[error("the page there is not the one that belongs there")]
    OtherPage,
    #[error("the segment there is another cluster's")]
    OtherCluster,
    #[error("the record there has an impossible length")]
    Length,
    #[error("the record there does not follow the one before it")]
    OtherRecord,
    #[error("the rest of the record there is missing")]
    Incomplete,
    #[error("the record there has a wrong checksum")]
    Checksum,
}

/// Bytes at the beginning of a segment that tell whether it was written to.
pub const SEGMENT_HEAD_BYTES: usize = 20;

/// Whether a segment whose file begins with `head` holds WAL of its own. One that was made for later use holds zero
/// bytes, or what it held under its old name (`xlog.c: XLogFileInit, InstallXLogFileSegment`). The first page may be a
/// copy from the timeline before (`XLogFileCopy`).
#[must_use]
pub fn is_written(head: &[u8], segment: &SegmentName, segment_bytes: u32) -> bool {
    u16_at(head, 0) != 0
        && u32_at(head, 4) <= segment.timeline.0
        && Lsn(u64_at(head, 8)) == segment.begin(segment_bytes)
}

/// Reads records in order. `read` fills a page that begins at an LSN, or says that it is not there.
pub struct Reader<F> {
    read: F,
    geometry: Geometry,
    page: Vec<u8>,
    /// The LSN of the page that is in memory.
    loaded: Option<Lsn>,
    magic: Option<u16>,
    /// Where the next record is looked for.
    next: Lsn,
    previous: Option<Lsn>,
    /// The first page may begin with the rest of a record, which is passed over.
    skips_rest: bool,
    record: Vec<u8>,
    end: Option<End>,
}

impl<F, E> Reader<F>
where
    F: FnMut(Lsn, &mut [u8]) -> Result<bool, E>,
{
    /// A reader whose first record begins at `from`, or right behind the page's header where `from` is the
    /// beginning of a page.
    pub fn new(geometry: Geometry, from: Lsn, read: F) -> Self {
        Self {
            read,
            geometry,
            page: vec![0; (geometry.page_bytes as usize).max(LONG_PAGE_HEADER)],
            loaded: None,
            magic: None,
            next: Lsn(from.0.next_multiple_of(8)),
            previous: None,
            skips_rest: false,
            record: Vec::new(),
            end: None,
        }
    }

    /// A reader whose first record is the first one that begins at `from`, the beginning of a page, or behind it
    /// (`xlogreader.c: XLogFindNextRecord`).
    pub fn first_behind(geometry: Geometry, from: Lsn, read: F) -> Self {
        Self {
            skips_rest: true,
            ..Self::new(geometry, from, read)
        }
    }

    /// Where the WAL read so far ends: the next record would begin there.
    pub fn position(&self) -> Lsn {
        self.next
    }

    /// Whether all records before `lsn` were read. Where a page begins there, `lsn` may stand behind its header.
    pub fn has_reached(&self, lsn: Lsn) -> bool {
        let header_ends = self.next.0 + LONG_PAGE_HEADER as u64;
        self.next >= lsn || (self.page_of(lsn) == self.next && lsn.0 <= header_ends)
    }

    /// Why there is no further record, once [`next_record`](Self::next_record) has given none.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// The next record; none at the end of the WAL.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, E> {
        if self.end.is_some() {
            return Ok(None);
        }
        match self.assemble()? {
            Ok(place) => {
                let record = Record::new(&self.record, place.start, place.end, self.is_since_15());
                Ok(Some(record))
            }
            Err(end) => {
                self.end = Some(end);
                Ok(None)
            }
        }
    }

    fn is_since_15(&self) -> bool {
        self.magic.is_some_and(|magic| magic >= MAGIC_15)
    }

    fn page_of(&self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 - lsn.0 % u64::from(self.geometry.page_bytes))
    }

    /// Loads the page that begins at `at` and checks its header.
    fn load(&mut self, at: Lsn) -> Result<Result<PageHead, End>, E> {
        if self.loaded != Some(at) {
            self.loaded = None;
            if !(self.read)(at, &mut self.page)? {
                return Ok(Err(End::Absent));
            }
            self.loaded = Some(at);
        }
        Ok(self.page_head(at))
    }

    fn page_head(&mut self, at: Lsn) -> Result<PageHead, End> {
        let page = &self.page;
        let (magic, info) = (u16_at(page, 0), u16_at(page, 2));
        // 0xD0 and 0xD1 in the higher byte since long before 13; each major has its own lower one.
        let is_magic = magic >> 8 == 0xd1 && self.magic.is_none_or(|known| known == magic);
        if !is_magic || u64_at(page, 8) != at.0 {
            return Err(End::OtherPage);
        }
        let is_first = at.0.is_multiple_of(u64::from(self.geometry.segment_bytes));
        if is_first != (info & LONG_HEADER != 0) {
            return Err(End::OtherPage);
        }
        if is_first {
            let fits = u64_at(page, 24) == self.geometry.system_identifier
                && u32_at(page, 32) == self.geometry.segment_bytes
                && u32_at(page, 36) == self.geometry.page_bytes;
            if !fits {
                return Err(End::OtherCluster);
            }
        }
        self.magic = Some(magic);
        let overwrite = if magic >= MAGIC_19 {
            FIRST_IS_OVERWRITE_CONTRECORD_SINCE_19
        } else {
            FIRST_IS_OVERWRITE_CONTRECORD_TILL_18
        };
        Ok(PageHead {
            info,
            is_overwrite: info & overwrite != 0,
            remaining_bytes: u32_at(page, 16) as usize,
            bytes: if is_first {
                LONG_PAGE_HEADER
            } else {
                PAGE_HEADER
            },
        })
    }

    /// Puts the next record together in `self.record` and proves it.
    fn assemble(&mut self) -> Result<Result<Range<Lsn>, End>, E> {
        macro_rules! some {
            ($result:expr) => {
                match $result {
                    Ok(value) => value,
                    Err(end) => return Ok(Err(end)),
                }
            };
        }
        let page_bytes = self.geometry.page_bytes as usize;
        'record: loop {
            let mut at = self.page_of(self.next);
            let head = some!(self.load(at)?);
            let mut offset = usize::try_from(self.next.0 - at.0).unwrap_or(page_bytes);
            if offset == 0 {
                if head.info & FIRST_IS_CONTRECORD != 0 {
                    if !self.skips_rest {
                        return Ok(Err(End::OtherRecord));
                    }
                    let rest = head.remaining_bytes.next_multiple_of(8);
                    let room = page_bytes.saturating_sub(head.bytes);
                    // A rest that fills the page goes on in the next one, which says how much of it is left.
                    let skipped = head.bytes + rest.min(room);
                    self.next = Lsn(at.0 + skipped as u64);
                    self.skips_rest = rest >= room;
                    continue;
                }
                self.skips_rest = false;
                offset = head.bytes;
                self.next = Lsn(at.0 + offset as u64);
            } else if offset < head.bytes {
                return Ok(Err(End::OtherRecord));
            }
            let start = self.next;
            // Records begin at multiples of eight: the length never crosses a page.
            let total = u32_at(&self.page, offset) as usize;
            match total {
                0 => return Ok(Err(End::Empty)),
                HEADER_BYTES..=RECORD_BYTES_MAX => {}
                _ => return Ok(Err(End::Length)),
            }
            self.record.clear();
            loop {
                let wanted = (total - self.record.len()).min(page_bytes - offset);
                self.record
                    .extend_from_slice(&self.page[offset..offset + wanted]);
                offset += wanted;
                if self.record.len() == total {
                    break;
                }
                at = Lsn(at.0 + page_bytes as u64);
                let head = some!(self.load(at)?);
                if head.is_overwrite {
                    self.next = at;
                    continue 'record;
                }
                let is_rest = head.info & FIRST_IS_CONTRECORD != 0
                    && head.remaining_bytes == total - self.record.len();
                if !is_rest {
                    return Ok(Err(End::Incomplete));
                }
                offset = head.bytes;
            }
            let record = Record::new(&self.record, start, start, self.is_since_15());
            let follows = match self.previous {
                Some(previous) => record.previous() == previous,
                None => record.previous() < start,
            };
            if !follows {
                return Ok(Err(End::OtherRecord));
            }
            if !record.is_proven() {
                return Ok(Err(End::Checksum));
            }
            let segment_bytes = u64::from(self.geometry.segment_bytes);
            let mut end = (at.0 + offset as u64).next_multiple_of(8);
            if record.is_switch() {
                // What follows in the segment is zeros.
                end = end.next_multiple_of(segment_bytes);
            }
            self.previous = Some(start);
            self.next = Lsn(end);
            return Ok(Ok(start..Lsn(end)));
        }
    }
}

/// What a page's header says.
struct PageHead {
    info: u16,
    /// What stands here takes the place of a record whose rest was never written.
    is_overwrite: bool,
    /// Bytes of the record that goes on here.
    remaining_bytes: usize,
    /// Length of the header.
    bytes: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .map_or(0, |found| u16::from_le_bytes([found[0], found[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes
        .get(at..at + 4)
        .and_then(|found| found.try_into().ok());
    found.map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let found = bytes
        .get(at..at + 8)
        .and_then(|found| found.try_into().ok());
    found.map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_possible_truncation, reason = "small numbers")]

    use proptest::prelude::*;

    use super::*;
    use crate::pg::timeline::TimelineId;
    use crate::pg::wal::samples::{GEOMETRY, Log};

    fn read_all(log: &Log, bytes: Vec<u8>) -> (Vec<(Lsn, Vec<u8>)>, Lsn, End) {
        let mut reader = log.read(bytes);
        let mut found = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            found.push((record.lsn, record.data().unwrap().to_vec()));
        }
        (found, reader.position(), reader.end().unwrap())
    }

    /// Lengths around all borders: within a page, at its end, over several, over a segment's end.
    fn lengths_hold(lengths: &[usize]) {
        let mut log = Log::new(0xd110);
        let mut pushed = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            let data = vec![number as u8; *length];
            pushed.push((log.push(9, 0, &[], &data), data));
        }
        let (found, position, end) = read_all(&log, log.bytes());
        assert_eq!(found, pushed);
        assert_eq!(position, log.end());
        assert!(matches!(end, End::Empty | End::OtherPage), "{end:?}");
    }

    #[test]
    fn records_of_all_lengths_come_back() {
        for length in (0..600)
            .chain(8000..8400)
            .chain([16000, 65000, 70000, 140_000])
        {
            lengths_hold(&[length, 3, length]);
        }
    }

    proptest! {
        #[test]
        fn random_records_come_back(lengths in prop::collection::vec(0..20_000_usize, 1..40)) {
            lengths_hold(&lengths);
        }

        #[test]
        fn no_bytes_make_it_panic(
            lengths in prop::collection::vec(0..9000_usize, 1..8),
            at in any::<prop::sample::Index>(),
            value in any::<u8>(),
        ) {
            let mut log = Log::new(0xd118);
            for length in &lengths {
                log.push(1, 0x80, &[], &vec![1; *length]);
            }
            let mut bytes = log.bytes();
            let at = at.index(bytes.len());
            let is_same = bytes[at] == value;
            bytes[at] = value;
            let (found, _, _) = read_all(&log, bytes);
            prop_assert!(found.len() <= lengths.len());
            prop_assert!(!is_same || found.len() == lengths.len());
        }
    }

    #[test]
    fn the_wal_ends_where_it_is_not_what_belongs_there() {
        let mut log = Log::new(0xd10d);
        log.push(9, 0, &[], &[1; 9000]);
        let second = log.push(9, 0, &[], &[2; 100]);
        let whole = log.bytes();
        let offset = (second.0 - log.begin().0) as usize;
        let cases: [(&str, usize, &[u8], End); 7] = [
            ("a wrong byte of data", offset + 60, &[9], End::Checksum),
            (
                "another previous record",
                offset + 8,
                &[9],
                End::OtherRecord,
            ),
            ("no length", offset, &[0; 4], End::Empty),
            (
                "a length below a header's",
                offset,
                &[23, 0, 0, 0],
                End::Length,
            ),
            ("a length beyond all", offset, &[255; 4], End::Length),
            (
                "a rest that is not the record's",
                40,
                &[0, 0, 1, 0],
                End::Incomplete,
            ),
            (
                "a page of a recycled segment",
                8192 + 8,
                &[0, 0],
                End::OtherPage,
            ),
        ];
        for (what, at, patch, expected) in cases {
            let mut bytes = whole.clone();
            bytes[at..at + patch.len()].copy_from_slice(patch);
            let (found, _, end) = read_all(&log, bytes);
            assert_eq!(end, expected, "{what}");
            assert_eq!(found.len(), usize::from(at >= offset), "{what}");
        }
        let mut bytes = whole.clone();
        bytes[24] ^= 1;
        assert_eq!(read_all(&log, bytes).2, End::OtherCluster);
        assert_eq!(read_all(&log, whole[..8192].to_vec()).2, End::Absent);
    }

    /// `XLOG_OVERWRITE_CONTRECORD`: what a crash cut off is passed over, and the next record follows the last whole.
    #[test]
    fn a_record_that_a_crash_cut_off_is_passed_over() {
        assert_eq!(what_follows_a_cut(0xd110, 8), End::Empty);
        assert_eq!(what_follows_a_cut(MAGIC_19, 4), End::Empty);
        // The bits of the others.
        assert_eq!(what_follows_a_cut(0xd118, 4), End::Incomplete);
        assert_eq!(what_follows_a_cut(MAGIC_19, 8), End::Incomplete);
    }

    /// Why a log ends in which a page with this bit follows a record that is cut off. What stands in that page was
    /// read, unless the end came before it.
    fn what_follows_a_cut(magic: u16, bit: u16) -> End {
        let mut log = Log::new(magic);
        let first = log.push(9, 0, &[], &[1; 100]);
        let kept = log.bytes();
        let cut = log.push(9, 0, &[], &[2; 9000]);
        let mut bytes = log.bytes();
        let after = {
            // A log of the first record alone gives its successor the right xl_prev; it is moved to the next page.
            let mut again = Log::new(magic);
            again.push(9, 0, &[], &[1; 100]);
            let at = again.push(9, 0xd0, &[], &[3; 40]);
            let offset = (at.0 - again.begin().0) as usize;
            again.bytes()[offset..offset + 72].to_vec()
        };
        assert_eq!(kept[..100], bytes[..100]);
        bytes.truncate(8192);
        bytes.extend(magic.to_le_bytes());
        bytes.extend(bit.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend((log.begin().0 + 8192).to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(after);
        bytes.resize(3 * 8192, 0);
        let (found, _, end) = read_all(&log, bytes);
        let found: Vec<_> = found.iter().map(|(lsn, data)| (*lsn, data[0])).collect();
        let behind = (Lsn(log.begin().0 + 8192 + 24), 3);
        let is_passed_over = end == End::Empty;
        assert_eq!(found[0], (first, 1));
        assert_eq!(found.get(1), is_passed_over.then_some(&behind));
        assert!(cut > first);
        end
    }

    #[test]
    fn reading_can_begin_at_any_page() {
        let mut log = Log::new(0xd116);
        let lengths = [
            100, 8192, 30_000, 5, 8110, 8111, 8112, 8113, 8120, 16_000, 100, 70_000, 9,
        ];
        let starts: Vec<_> = lengths
            .iter()
            .map(|length| log.push(9, 0, &[], &vec![7; *length]))
            .collect();
        let bytes = log.bytes();
        let mut at = log.begin();
        while at < log.end() {
            let first = starts.iter().find(|start| **start >= at);
            let begin = log.begin().0;
            let mut reader = Reader::first_behind(GEOMETRY, at, |at: Lsn, page: &mut [u8]| {
                let from = (at.0 - begin) as usize;
                let found = bytes.get(from..from + page.len());
                Ok::<_, std::convert::Infallible>(
                    found.map(|found| page.copy_from_slice(found)).is_some(),
                )
            });
            let found = reader.next_record().unwrap().map(|record| record.lsn);
            // What begins right behind a page's header begins with the page.
            assert_eq!(found, first.copied(), "{at}");
            at = Lsn(at.0 + 8192);
        }
    }

    #[test]
    fn a_switch_leaves_the_rest_of_its_segment_out() {
        let mut log = Log::new(0xd116);
        log.push(0, 0x40, &[], &[]);
        let mut reader = log.read(log.bytes());
        let record = reader.next_record().unwrap().unwrap();
        assert_eq!(record.end, Lsn(log.begin().0 + 65536));
        assert!(reader.next_record().unwrap().is_none());
        assert_eq!(reader.end(), Some(End::Absent));
    }

    #[test]
    fn a_segment_that_was_made_for_later_use_was_not_written() {
        let segment = |timeline, number| SegmentName {
            timeline: TimelineId(timeline),
            number,
        };
        let mut head = [0; SEGMENT_HEAD_BYTES];
        assert!(!is_written(&head, &segment(1, 0), 16 << 20));
        head[..2].copy_from_slice(&0xd110_u16.to_le_bytes());
        head[4] = 2;
        head[8..16].copy_from_slice(&0x500_0000_u64.to_le_bytes());
        assert!(is_written(&head, &segment(2, 5), 16 << 20));
        // The beginning of a timeline holds what was copied from the one before.
        assert!(is_written(&head, &segment(3, 5), 16 << 20));
        assert!(!is_written(&head, &segment(2, 6), 16 << 20));
        assert!(!is_written(&head, &segment(1, 5), 16 << 20));
        assert!(!is_written(&head[..8], &segment(2, 5), 16 << 20));
    }
}
