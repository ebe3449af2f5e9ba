//! WAL that goes ahead of the end of its backup: each segment is brought as soon as it is complete, while the files
//! come, so that the source need not keep it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::client::finish::wal::{WalError, bring};
use crate::client::run::Run;
use crate::client::source::{Source, SourceError};
use crate::disk::target::ClosedTarget;
use crate::facts::SourceFacts;
use crate::pg::lsn::{Lsn, SegmentName};
use crate::wire::message::{Answer, Request, WalFile};

/// How often the source is asked while no further segment is complete.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Most names of one segment: it has one more for each timeline that began in it.
const NAMES_MAX: usize = 64;

/// The WAL that has come while the files did.
#[derive(Debug, Default)]
pub struct Ahead {
    /// The segments, in order and without a gap.
    pub files: Vec<WalFile>,
    /// Where they end; `INVALID` when there are none.
    pub end: Lsn,
}

/// Brings all segments from `start` on that become complete until the files `have_come`. The one that is on its way
/// then is brought to its end. pg_wal must have been emptied.
///
/// Nothing is synced before the source hears that it may remove a segment: a run that is interrupted is begun again
/// with another backup, which needs none of this WAL, and one that is not syncs all before the target can start.
///
/// # Errors
/// The source cannot give a segment, or the target cannot take it.
pub async fn go_ahead(
    run: &Run<'_>,
    source: &Source,
    target: &Arc<ClosedTarget>,
    facts: &SourceFacts,
    start: Lsn,
    mut have_come: watch::Receiver<bool>,
) -> Result<Ahead, WalError> {
    let segment_bytes = facts.control.wal_segment_bytes;
    let mut ahead = Ahead::default();
    let mut have = start;
    loop {
        let request = Request::WalAhead {
            have,
            slot: run.slot().is_some(),
        };
        let (Answer::WalFiles { files }, _) = source.ask(&request, Vec::new()).await? else {
            return Err(SourceError::Unfitting("WAL ahead").into());
        };
        if files.is_empty() {
            let come = have_come.wait_for(|come| *come);
            let _ = tokio::time::timeout(ASK_EVERY, come).await;
        } else {
            have = end_of(&files, have, segment_bytes).map_err(WalError::Name)?;
            bring(run, source, target, &files, facts.control.block_bytes).await?;
            ahead.files.extend(files);
            ahead.end = have;
        }
        if *have_come.borrow() {
            return Ok(ahead);
        }
    }
}

/// Where these files end if they are the next whole segments behind `have`, in order and without a gap, under whatever
/// timelines.
///
/// # Errors
/// The name of the first file that the agent has no reason to name.
fn end_of(files: &[WalFile], have: Lsn, segment_bytes: u32) -> Result<Lsn, String> {
    let unit = u64::from(segment_bytes.max(1));
    let first = have.0 / unit;
    let mut next = first;
    let mut names = 0;
    for file in files {
        let segment = SegmentName::parse(&file.name, segment_bytes);
        let number = segment
            .filter(|_| file.bytes == unit)
            .map(|found| found.number);
        names += 1;
        match number {
            Some(number) if number == next => {
                next += 1;
                names = 1;
            }
            Some(number) if number + 1 == next && next > first && names <= NAMES_MAX => {}
            _ => return Err(file.name.clone()),
        }
    }
    Ok(Lsn(next.saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::EntryId;
    use crate::pg::timeline::TimelineId;

    const SEGMENT: u32 = 16 << 20;

    fn segment(timeline: u32, number: u64) -> WalFile {
        let timeline = TimelineId(timeline);
        WalFile {
            entry: EntryId(0),
            name: SegmentName { timeline, number }.file_name(SEGMENT),
            bytes: u64::from(SEGMENT),
        }
    }

    #[test]
    fn only_the_next_whole_segments_go_ahead() {
        let at = |number: u64| Lsn(number * u64::from(SEGMENT));
        let end = |files: &[WalFile]| end_of(files, Lsn(at(5).0 + 40), SEGMENT);
        assert_eq!(end(&[segment(3, 5)]), Ok(at(6)));
        let several = [segment(3, 5), segment(3, 6), segment(4, 6), segment(4, 7)];
        assert_eq!(end(&several), Ok(at(8)));
        let history = WalFile {
            name: "00000004.history".to_owned(),
            ..segment(3, 5)
        };
        let short = WalFile {
            bytes: 1,
            ..segment(3, 6)
        };
        for other in [segment(3, 4), segment(3, 7), history, short] {
            let name = other.name.clone();
            assert_eq!(end(&[segment(3, 5), other]), Err(name));
        }
        for first in [segment(3, 4), segment(3, 6)] {
            assert_eq!(end(std::slice::from_ref(&first)), Err(first.name));
        }
        let many: Vec<_> = (3..90).map(|timeline| segment(timeline, 5)).collect();
        assert!(end(&many[..NAMES_MAX]).is_ok() && end(&many).is_err());
    }
}
