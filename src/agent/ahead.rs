//! WAL that goes ahead of the end of its backup: which segments are complete, and what the client has of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::answer::Reader;
use super::replay::Scan;
use super::tree::read_fault;
use crate::disk::walk::{self, Kind};
use crate::facts::SourceFacts;
use crate::path::RelPath;
use crate::pg::lsn::{Lsn, SegmentName, WalFile as Name};
use crate::pg::timeline::TimelineId;
use crate::wire::message::{Fault, FaultKind, WalFile};

/// Bytes of WAL that are named at once, unless a single segment has more.
const BATCH_BYTES: u64 = 32 * 1024 * 1024;

/// How far the WAL of a running backup has gone to the client.
#[derive(Debug)]
pub(super) struct Ahead {
    /// What must be known of WAL before the source may remove it.
    pub scan: Scan,
    /// The end of the last segment that was named: the client cannot have more.
    named: Lsn,
}

/// The segments in pg_wal by their numbers, each with its names and lengths.
type Segments = BTreeMap<u64, Vec<(String, u64)>>;

/// The segments among these files that `counts`: where a source, a standby, followed to another timeline, a segment is
/// there in the name of both; which one a server reads is its history's affair
/// (`xlogrecovery.c: XLogFileReadAnyTLI`).
pub(super) fn segments_of(
    listed: &[walk::Listed],
    segment_bytes: u32,
    counts: impl Fn(TimelineId) -> bool,
) -> Segments {
    let mut there = Segments::new();
    for found in listed {
        let name = std::str::from_utf8(&found.name).unwrap_or_default();
        if let Some(segment) = SegmentName::parse(name, segment_bytes)
            && counts(segment.timeline)
        {
            let names = there.entry(segment.number).or_default();
            names.push((name.to_owned(), found.size));
        }
    }
    there
}

impl Ahead {
    /// Of a backup that begins at `start`; nothing was named yet.
    pub fn new(facts: &SourceFacts, start: Lsn) -> Self {
        Self {
            scan: Scan::new(facts, start),
            named: start,
        }
    }

    /// Takes note that the client has all WAL before `have`, and returns what the source need not keep: the record
    /// that begins last may go on in the next segment, and is read together with that.
    ///
    /// # Errors
    /// The client cannot have it, or the WAL cannot be read.
    pub fn has_come(&mut self, facts: &SourceFacts, wal: &Path, have: Lsn) -> Result<Lsn, Fault> {
        let unit = u64::from(facts.control.wal_segment_bytes);
        let start = self.scan.from;
        let is_end = have == start || have.0.is_multiple_of(unit);
        if have < start || have > self.named || !is_end {
            return Err(Fault::new(
                FaultKind::Protocol,
                format!("WAL up to {have} was not named"),
            ));
        }
        if have > self.scan.at {
            let listed = walk::list(wal).map_err(|error| read_fault(&error))?;
            let oldest = facts.control.timeline;
            let newest = timelines(&listed, facts).last().copied();
            let timelines = oldest..=newest.unwrap_or(oldest);
            self.scan.read_on(facts, wal, timelines, have)?;
        }
        let read = self.scan.at.0;
        Ok(have.min(Lsn(read - read % unit)))
    }

    /// Names the next segments from `have` on that are complete, as the WAL up to `settled` is.
    ///
    /// # Errors
    /// The source's pg_wal cannot be listed.
    pub fn name_next(
        &mut self,
        facts: &SourceFacts,
        wal: &Path,
        reader: &Reader,
        (have, settled): (Lsn, Lsn),
    ) -> Result<Vec<WalFile>, Fault> {
        let unit = facts.control.wal_segment_bytes;
        let first = have.0 / u64::from(unit);
        let complete = settled.0 / u64::from(unit);
        if complete <= first {
            return Ok(Vec::new());
        }
        let listed = walk::list(wal).map_err(|error| read_fault(&error))?;
        let timelines = timelines(&listed, facts);
        let mut there = segments_of(&listed, unit, |timeline| timelines.contains(&timeline));
        let mut files = Vec::new();
        let most = (BATCH_BYTES / u64::from(unit)).max(1);
        for number in first..complete.min(first + most) {
            // Whatever is the matter with one, the end of the backup tells.
            let Some(names) = there.remove(&number) else {
                break;
            };
            if names.iter().any(|(_, bytes)| *bytes != u64::from(unit)) {
                break;
            }
            for (name, bytes) in names {
                let path = RelPath::parse(format!("pg_wal/{name}").as_bytes()).ok();
                let entry = path.and_then(|path| reader.admit_wal(path));
                let Some(entry) = entry else {
                    return Ok(files);
                };
                files.push(WalFile { entry, name, bytes });
            }
            let end = (number + 1).saturating_mul(u64::from(unit));
            self.named = self.named.max(Lsn(end));
        }
        Ok(files)
    }
}

/// The timelines whose WAL may be the source's: from that of the last checkpoint before the backup on, each that it
/// was seen on or has a history of. A standby fetches the history before it follows a timeline, and what the server
/// says of its timeline may lag behind.
fn timelines(listed: &[walk::Listed], facts: &SourceFacts) -> BTreeSet<TimelineId> {
    let oldest = facts.control.timeline;
    let histories = listed
        .iter()
        .filter(|found| found.kind == Kind::File)
        .filter_map(|found| match Name::classify(&found.name) {
            Name::TimelineHistory(timeline) => Some(timeline),
            _ => None,
        });
    let seen = (oldest.0..=facts.timeline.0).map(TimelineId);
    histories
        .filter(|timeline| *timeline >= oldest)
        .chain(seen)
        .chain([oldest])
        .collect()
}
