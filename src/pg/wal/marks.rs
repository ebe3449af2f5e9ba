//! Digests that tell whether two logs hold the same records, and where they part.
//!
//! Each is of all records from a common beginning to some position, so that one comparison proves everything before it.
//! Records are taken without the page headers in between, which name the timeline of the file and not of the record.

use crate::digest::{Digest, SessionKey};
use crate::pg::lsn::Lsn;
use crate::pg::wal::reader::Reader;
use crate::pg::wal::record::Record;

/// Most positions that are asked about at once.
pub const MARKS_MAX: usize = 1000;

/// A digest that takes one record after the other.
struct Running {
    key: SessionKey,
    digest: Digest,
    bytes: Vec<u8>,
}

impl Running {
    fn new(key: SessionKey) -> Self {
        Self {
            digest: key.digest(b"records"),
            key,
            bytes: Vec::new(),
        }
    }

    fn take(&mut self, record: &Record<'_>) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&self.digest.0);
        self.bytes.extend_from_slice(&record.lsn.0.to_le_bytes());
        self.bytes.extend_from_slice(record.bytes());
        self.digest = self.key.digest(&self.bytes);
    }
}

/// The digest of all records that begin before a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// A record ends here.
    pub end: Lsn,
    pub digest: Digest,
    /// Whether one of them tells when it was written.
    pub is_dated: bool,
}

/// The digests of a log at these positions, which rise; fewer where it ends before.
///
/// # Errors
/// Those of reading.
pub fn digests<F, E>(
    reader: &mut Reader<F>,
    key: SessionKey,
    ends: &[Lsn],
) -> Result<Vec<Digest>, E>
where
    F: FnMut(Lsn, &mut [u8]) -> Result<bool, E>,
{
    let mut running = Running::new(key);
    let mut found = Vec::new();
    let mut reached = None;
    for end in ends {
        while reached.is_none_or(|reached| reached < *end) {
            let Some(record) = reader.next_record()? else {
                return Ok(found);
            };
            running.take(&record);
            reached = Some(record.end);
        }
        found.push(running.digest);
    }
    Ok(found)
}

/// Marks of a log from `after` to `until` or its end, evenly spread: at most [`MARKS_MAX`], and the last one. Their digests
/// are of all records from where the reader begins.
///
/// # Errors
/// Those of reading.
pub fn marks<F, E>(
    reader: &mut Reader<F>,
    key: SessionKey,
    (after, until): (Lsn, Lsn),
) -> Result<Vec<Mark>, E>
where
    F: FnMut(Lsn, &mut [u8]) -> Result<bool, E>,
{
    let mut running = Running::new(key);
    let mut marks: Vec<Mark> = Vec::new();
    let (mut stride, mut count) = (1_u64, 0_u64);
    let mut is_dated = false;
    let mut last = None;
    while let Some(record) = reader.next_record()? {
        running.take(&record);
        is_dated |= record.is_dated();
        let mark = Mark {
            end: record.end,
            digest: running.digest,
            is_dated,
        };
        if record.end > until {
            break;
        }
        last = Some(mark);
        if record.end < after {
            continue;
        }
        if count.is_multiple_of(stride) {
            marks.push(mark);
        }
        count += 1;
        if marks.len() == MARKS_MAX {
            let mut number = 0;
            marks.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            stride *= 2;
        }
    }
    if let Some(last) = last.filter(|last| marks.last() != Some(last)) {
        marks.push(last);
    }
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::wal::samples::Log;

    const KEY: SessionKey = SessionKey([1; 32]);

    /// A log of so many records, one of which may be another than usual.
    fn log(records: usize, other: Option<usize>) -> Log {
        let mut log = Log::new(0xd110);
        for number in 0..records {
            let length = 20 + number % 300;
            let byte = if other == Some(number) { 9 } else { 1 };
            // Every tenth is a commit.
            let rmgr = if number % 10 == 9 { 1 } else { 9 };
            log.push(rmgr, 0, &[], &vec![byte; length]);
        }
        log
    }

    fn marks_of(log: &Log, range: (Lsn, Lsn)) -> Vec<Mark> {
        marks(&mut log.read(log.bytes()), KEY, range).unwrap()
    }

    fn digests_of(log: &Log, marks: &[Mark]) -> Vec<Digest> {
        let ends: Vec<_> = marks.iter().map(|mark| mark.end).collect();
        digests(&mut log.read(log.bytes()), KEY, &ends).unwrap()
    }

    const ALL: (Lsn, Lsn) = (Lsn(0), Lsn(u64::MAX));

    #[test]
    fn equal_logs_have_equal_digests_at_every_mark() {
        for records in [1, 2, 999, 1000, 1001, 5000] {
            let log = log(records, None);
            let marks = marks_of(&log, ALL);
            assert!(marks.len() <= MARKS_MAX + 1, "{records}");
            assert_eq!(marks.last().unwrap().end, log.end(), "{records}");
            let theirs = digests_of(&log, &marks);
            let ours: Vec<_> = marks.iter().map(|mark| mark.digest).collect();
            assert_eq!(theirs, ours, "{records}");
            assert_eq!(marks.last().unwrap().is_dated, records >= 10);
        }
    }

    #[test]
    fn from_the_record_that_differs_on_no_digest_is_equal() {
        let ours = log(3000, None);
        for other in [0, 1, 1500, 2999] {
            let theirs = log(3000, Some(other));
            let marks = marks_of(&ours, ALL);
            let found = digests_of(&theirs, &marks);
            let equal = marks
                .iter()
                .zip(&found)
                .filter(|(mark, digest)| mark.digest == **digest);
            let last_equal = equal
                .map(|(mark, _)| mark.end)
                .next_back()
                .unwrap_or_default();
            let mut reader = ours.read(ours.bytes());
            let mut differs = None;
            for number in 0..=other {
                differs = reader
                    .next_record()
                    .unwrap()
                    .map(|record| (number, record.lsn));
            }
            let (_, begins) = differs.unwrap();
            assert!(last_equal <= begins, "{other}");
            // Looked at more closely, the mark before it is found.
            let next = marks
                .iter()
                .map(|mark| mark.end)
                .find(|end| *end > last_equal)
                .unwrap();
            let close = marks_of(&ours, (last_equal, next));
            let found = digests_of(&theirs, &close);
            let equal = close
                .iter()
                .zip(&found)
                .filter(|(mark, digest)| mark.digest == **digest);
            assert_eq!(
                equal
                    .map(|(mark, _)| mark.end)
                    .next_back()
                    .unwrap_or(ours.begin_of_records()),
                begins
            );
        }
    }

    #[test]
    fn a_log_that_ends_earlier_gives_fewer_digests() {
        let (long, short) = (log(100, None), log(60, None));
        let marks = marks_of(&long, ALL);
        let found = digests_of(&short, &marks);
        assert_eq!(found.len(), 60);
        assert_eq!(found[59], marks[59].digest);
    }
}
