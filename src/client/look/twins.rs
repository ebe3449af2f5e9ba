//! Whether the target's WAL is the source's: both sides' records are compared, since the numbers of timelines do not tell
//! two servers apart that were promoted at one position.

use std::path::Path;

use crate::client::source::{Source, SourceError};
use crate::digest::SessionKey;
use crate::disk::DiskError;
use crate::disk::wal::Pages;
use crate::facts::{Condition, SharedWal, SourceFacts, TargetCluster, TargetFacts};
use crate::pg::lsn::Lsn;
use crate::pg::timeline::{TimelineId, divergence};
use crate::pg::wal::marks::{self, Mark};
use crate::pg::wal::{Geometry, Reader};
use crate::plan::relation::relate;
use crate::wire::message::{Answer, Request};
use crate::workers;

/// Why the logs could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum TwinsError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{0}")]
    Disk(#[from] DiskError),
}

/// Adds to the target's facts whether its WAL is the source's, where its relation to the source rests on that.
///
/// # Errors
/// The target's WAL cannot be read, or the source cannot be asked.
pub async fn complete(
    target: &mut TargetFacts,
    facts: &SourceFacts,
    source: &Source,
    pgdata: &Path,
    key: SessionKey,
) -> Result<(), TwinsError> {
    if relate(target, facts).needs_proof() {
        prove(target, facts, source, pgdata, key).await?;
    }
    Ok(())
}

/// As [`complete`], whatever both sides' relation rests on.
///
/// # Errors
/// As [`complete`].
pub async fn prove(
    target: &mut TargetFacts,
    facts: &SourceFacts,
    source: &Source,
    pgdata: &Path,
    key: SessionKey,
) -> Result<(), TwinsError> {
    if let Condition::Cluster(cluster) = &mut target.condition {
        cluster.shared_wal = compare(cluster, facts, source, pgdata, key).await?;
    }
    Ok(())
}

/// How often both logs are read at most: while servers run, what one side has read may be recycled before the other looks.
const READINGS: usize = 5;

async fn compare(
    cluster: &TargetCluster,
    facts: &SourceFacts,
    source: &Source,
    pgdata: &Path,
    key: SessionKey,
) -> Result<SharedWal, TwinsError> {
    for _ in 0..READINGS {
        let Some(log) = Log::of(cluster, facts, pgdata, key) else {
            break;
        };
        if let Some(told) = read_both(log, facts, source).await? {
            return Ok(told);
        }
        tracing::debug!("the WAL of both sides could not be compared; they are read again");
    }
    Ok(SharedWal::Untold)
}

/// Compares both logs once; none when one of them was not there as a whole when it was read.
async fn read_both(
    log: Log,
    facts: &SourceFacts,
    source: &Source,
) -> Result<Option<SharedWal>, TwinsError> {
    let Some(log) = workers::in_place(|| log.begin())? else {
        return Ok(Some(SharedWal::Untold));
    };
    let coarse = workers::in_place(|| log.marks((Lsn::INVALID, Lsn(u64::MAX))))?;
    let Some(last) = coarse.last() else {
        return Ok(Some(SharedWal::Untold));
    };
    let first = Equal::of(&coarse, &ask(source, log.from, &coarse).await?);
    // A primary has written all that it has; a standby may only be late.
    let is_all = first.count == coarse.len()
        || first.count == first.answered && (facts.in_recovery || first.answered == 0);
    if is_all {
        let equal = first.count.checked_sub(1).map(|number| coarse[number]);
        return Ok(Some(match equal {
            Some(mark) if mark.is_dated => SharedWal::Equal,
            _ => SharedWal::Untold,
        }));
    }
    // Between the last mark that is equal and the next one, record by record.
    let mut at = first.up_to(&coarse).unwrap_or(log.from);
    let mut next = coarse[first.count].end;
    loop {
        let close = workers::in_place(|| log.marks((at, next)))?;
        let equal = Equal::of(&close, &ask(source, log.from, &close).await?);
        let known = equal.up_to(&close).unwrap_or(log.from).max(at);
        let behind = close.get(equal.count).map_or(next, |mark| mark.end);
        if (known, behind) == (at, next) {
            let parts = SharedWal::Parts { at, end: last.end };
            let (_, stands) = source.position().await?;
            return Ok(equal.is_proof(&close, stands).then_some(parts));
        }
        (at, next) = (known, behind);
    }
}

/// How many marks at the beginning are equal on both sides, and how many the source has answered.
struct Equal {
    count: usize,
    answered: usize,
}

impl Equal {
    fn of(marks: &[Mark], digests: &[crate::digest::Digest]) -> Self {
        let pairs = marks.iter().zip(digests);
        Self {
            count: pairs
                .take_while(|(mark, digest)| mark.digest == **digest)
                .count(),
            answered: digests.len(),
        }
    }

    /// Where the last mark that is equal stands.
    fn up_to(&self, marks: &[Mark]) -> Option<Lsn> {
        let last = self.count.checked_sub(1)?;
        marks.get(last).map(|mark| mark.end)
    }

    /// Whether the source does not have what is behind the equal marks: it has other records there, or its WAL, which
    /// ended at `stands` after it was asked, does not go that far. Where it must have them and gave no digest, its
    /// files were recycled while it read them; where no mark is left, this side's were, or all is there by now.
    fn is_proof(&self, marks: &[Mark], stands: Lsn) -> bool {
        let Some(mark) = marks.get(self.count) else {
            return false;
        };
        self.count < self.answered || stands < mark.end
    }
}

async fn ask(
    source: &Source,
    from: Lsn,
    marks: &[Mark],
) -> Result<Vec<crate::digest::Digest>, SourceError> {
    let request = Request::WalDigests {
        from,
        ends: marks.iter().map(|mark| mark.end).collect(),
    };
    match source.ask(&request, Vec::new()).await? {
        (Answer::WalDigests { digests }, _) if digests.len() <= marks.len() => Ok(digests),
        _ => Err(SourceError::Unfitting("digests of WAL")),
    }
}

/// The target's own WAL, from where it can be compared.
struct Log {
    wal: std::path::PathBuf,
    geometry: Geometry,
    timelines: std::ops::RangeInclusive<TimelineId>,
    key: SessionKey,
    from: Lsn,
    /// An LSN that its WAL reaches.
    reaches: Lsn,
}

impl Log {
    fn of(
        cluster: &TargetCluster,
        facts: &SourceFacts,
        pgdata: &Path,
        key: SessionKey,
    ) -> Option<Self> {
        let control = cluster.control.as_ref()?;
        let common = divergence(&cluster.history, &facts.history)?;
        let entries = &cluster.history.entries;
        let entry = entries
            .iter()
            .find(|entry| entry.timeline == common.timeline)?;
        Some(Self {
            wal: pgdata.join("pg_wal"),
            geometry: Geometry::of(control),
            timelines: TimelineId(1)..=cluster.history.tip(),
            key,
            from: entry.begin.max(facts.oldest_wal?),
            reaches: control.end_of_wal(),
        })
    }

    fn pages(&self) -> Result<Pages, DiskError> {
        Pages::open(
            &self.wal,
            self.geometry.segment_bytes,
            self.timelines.clone(),
        )
    }

    /// With the beginning moved to where this side still has it all; none when it has not.
    fn begin(self) -> Result<Option<Self>, DiskError> {
        let own = self.pages()?.unbroken_since(self.reaches);
        Ok(own.filter(|_| self.from < self.reaches).map(|own| Self {
            from: self.from.max(own),
            ..self
        }))
    }

    /// Marks between two positions.
    fn marks(&self, range: (Lsn, Lsn)) -> Result<Vec<Mark>, DiskError> {
        let mut pages = self.pages()?;
        let mut reader =
            Reader::first_behind(self.geometry, self.from, |at, page| pages.read(at, page));
        marks::marks(&mut reader, self.key, range)
    }
}
