//! What the WAL of a backup does when it is replayed, as far as that is not told by the WAL alone.

use std::ops::RangeInclusive;
use std::path::Path;

use super::tree::read_fault;
use crate::digest::SessionKey;
use crate::disk::wal::Pages;
use crate::facts::SourceFacts;
use crate::pg::lsn::Lsn;
use crate::pg::timeline::TimelineId;
use crate::pg::wal::marks::{self, MARKS_MAX};
use crate::pg::wal::{FileCopies, Geometry, Reader};
use crate::wire::message::{Answer, Fault, FaultKind};

/// The WAL of a backup as far as it was read: what of it is replayed from files.
#[derive(Debug)]
pub(super) struct Scan {
    pub from: Lsn,
    /// All records before it were read.
    pub at: Lsn,
    copies: FileCopies,
}

impl Scan {
    /// Begins where a backup does.
    pub fn new(facts: &SourceFacts, from: Lsn) -> Self {
        Self {
            from,
            at: from,
            copies: FileCopies::of_major(facts.version.major()),
        }
    }

    /// Reads the records that end at `to` or before, while the backup runs. One that goes on behind `to` may not be
    /// there as a whole.
    ///
    /// # Errors
    /// The WAL cannot be read, or a record cannot be understood.
    pub fn read_on(
        &mut self,
        facts: &SourceFacts,
        wal: &Path,
        timelines: RangeInclusive<TimelineId>,
        to: Lsn,
    ) -> Result<(), Fault> {
        self.read(facts, wal, timelines, to, false).map(drop)
    }

    /// Reads all records up to `to`, the end of the backup. A standby's files may have more in them: its backup ends
    /// at the position that its control file names, which lags behind what it has replayed, and it may be in the
    /// middle of a record. All that it has received is read then.
    ///
    /// # Errors
    /// The WAL is not all there, or a record cannot be understood: nothing is known then.
    pub fn finish(
        mut self,
        facts: &SourceFacts,
        wal: &Path,
        timelines: RangeInclusive<TimelineId>,
        to: Lsn,
    ) -> Result<Answer, Fault> {
        let stopped = self.read(facts, wal, timelines, to, facts.in_recovery)?;
        if let Some(reason) = stopped {
            let end = self.at;
            return Err(Fault::new(
                FaultKind::Read,
                format!("the WAL of the backup, up to {to}, cannot be read from {end} on{reason}"),
            ));
        }
        let (doubts, made) = self.copies.end();
        Ok(Answer::FileCopies { doubts, made })
    }

    /// Reads up to `to`, and with `beyond` as far as records go; why it did not come to `to`.
    fn read(
        &mut self,
        facts: &SourceFacts,
        wal: &Path,
        timelines: RangeInclusive<TimelineId>,
        to: Lsn,
        beyond: bool,
    ) -> Result<Option<String>, Fault> {
        let mut pages = Pages::open(wal, facts.control.wal_segment_bytes, timelines)
            .map_err(|error| read_fault(&error))?;
        let geometry = Geometry::of(&facts.control);
        let mut reader = Reader::new(geometry, self.at, |at, page| pages.read(at, page));
        loop {
            let is_enough = reader.has_reached(to);
            if is_enough && !beyond {
                return Ok(None);
            }
            let record = reader.next_record().map_err(|error| read_fault(&error))?;
            let Some(record) = record else {
                let reason = reader.end();
                let reason = reason
                    .map(|reason| format!(": {reason}"))
                    .unwrap_or_default();
                return Ok((!is_enough).then_some(reason));
            };
            self.copies
                .note(&record)
                .map_err(|error| Fault::new(FaultKind::Read, error.to_string()))?;
            self.at = reader.position();
        }
    }
}

/// Digests of the source's records from `from` up to each of `ends`, as far as its WAL goes.
///
/// # Errors
/// The request is too large, or the WAL cannot be read.
pub(super) fn wal_digests(
    facts: &SourceFacts,
    wal: &Path,
    key: SessionKey,
    from: Lsn,
    ends: &[Lsn],
) -> Result<Answer, Fault> {
    // Those of `marks` and the end.
    if ends.len() > MARKS_MAX + 1 || !ends.is_sorted() {
        return Err(Fault::new(
            FaultKind::Protocol,
            "a request for digests of WAL asks for too much",
        ));
    }
    let unit = facts.control.wal_segment_bytes;
    let mut pages = Pages::open(wal, unit, TimelineId(1)..=facts.timeline)
        .map_err(|error| read_fault(&error))?;
    let mut reader = Reader::first_behind(Geometry::of(&facts.control), from, |at, page| {
        pages.read(at, page)
    });
    let digests = marks::digests(&mut reader, key, ends).map_err(|error| read_fault(&error))?;
    Ok(Answer::WalDigests { digests })
}
