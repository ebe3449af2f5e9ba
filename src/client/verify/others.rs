//! Files that are no relation's and must be the same: versions, and the maps that say which files the catalogs are.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::failure::Failure;
use crate::client::source::{Source, SourceError};
use crate::client::verify::lists::Lists;
use crate::digest::{DIGEST_BYTES, SessionKey};
use crate::disk::read::PieceReader;
use crate::disk::root::Roots;
use crate::geometry::{EXTENT_BYTES, EntryId, SPANS_MAX, Span};
use crate::path::RelPath;
use crate::pg::layout;
use crate::pg::lsn::Lsn;
use crate::wire::message::{Answer, Request};
use crate::workers;

/// How much of such a file is compared; all of them are shorter.
const COMPARED_BYTES: u32 = 8192;

/// The digests of a file that differs: the standby's and the source's.
type Digests = (Vec<u8>, Vec<u8>);

/// What differed, and what of it is wrong.
#[derive(Debug, Default)]
pub struct Others {
    /// The source's end of WAL after a look, with what differed in it.
    earlier: Vec<(Lsn, BTreeMap<RelPath, Digests>)>,
    pub wrong: BTreeSet<RelPath>,
}

impl Others {
    /// Judges what differs now, as `Files::judge`: a difference counts when it was the same before and both sides have come
    /// so far since.
    pub fn judge(
        &mut self,
        now: BTreeMap<RelPath, Digests>,
        threshold: Lsn,
        end: Lsn,
        source_end: Option<Lsn>,
    ) {
        let is_past = |end: Lsn| end <= threshold;
        for (path, digests) in &now {
            let was_so = self
                .earlier
                .iter()
                .any(|(end, before)| is_past(*end) && before.get(path) == Some(digests));
            if was_so || source_end.is_some_and(is_past) {
                self.wrong.insert(path.clone());
            }
        }
        self.earlier.push((end, now));
    }

    /// Whether something differed at the last look of which nothing can be said yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        let last = self.earlier.last();
        last.is_some_and(|(_, now)| now.keys().any(|path| !self.wrong.contains(path)))
    }
}

/// Compares these files of both sides.
///
/// # Errors
/// The source cannot be asked, or a file of the standby cannot be read.
pub async fn differing(
    lists: &Lists,
    source: &Source,
    roots: &Roots,
    key: &SessionKey,
) -> Result<BTreeMap<RelPath, Digests>, Failure> {
    let files: Vec<(RelPath, EntryId)> = lists
        .manifest
        .iter()
        .map(|item| (item.path(), item.id))
        .filter(|(path, _)| is_compared(path) && lists.walked.tree.find(path).is_some())
        .collect();
    let mut found = BTreeMap::new();
    for batch in files.chunks(SPANS_MAX) {
        let span = |entry| Span {
            entry,
            offset: 0,
            bytes: COMPARED_BYTES,
        };
        let spans: Vec<Span> = batch.iter().map(|(_, entry)| span(*entry)).collect();
        let ours = workers::in_place(|| own(batch, &spans, roots, key))?;
        let request = Request::Digests {
            spans,
            have: key.digest(&ours),
        };
        let asked = source.ask(&request, Vec::new()).await;
        let (Answer::Digests { gone }, theirs) = asked.map_err(|error| error.untouched())? else {
            return Err(SourceError::Unfitting("digests").untouched());
        };
        if theirs.is_empty() && gone.is_empty() {
            continue;
        }
        if theirs.len() != ours.len() {
            return Err(SourceError::Unfitting("digests").untouched());
        }
        let pairs = ours.chunks(DIGEST_BYTES).zip(theirs.chunks(DIGEST_BYTES));
        for (index, ((path, _), (ours, theirs))) in batch.iter().zip(pairs).enumerate() {
            let is_gone = gone.iter().any(|gone| usize::from(*gone) == index);
            if ours != theirs && !is_gone {
                found.insert(path.clone(), (ours.to_vec(), theirs.to_vec()));
            }
        }
    }
    Ok(found)
}

/// The digests of the standby's files; one that is gone since counts as zeros.
fn own(
    batch: &[(RelPath, EntryId)],
    spans: &[Span],
    roots: &Roots,
    key: &SessionKey,
) -> Result<Vec<u8>, Failure> {
    let mut digests = Vec::new();
    let mut reader = PieceReader::default();
    for ((path, _), span) in batch.iter().zip(spans) {
        match roots.open_regular(path) {
            Ok(file) => reader
                .digest(&file, span, EXTENT_BYTES, key, &mut digests)
                .map_err(|error| Failure::untouched(&error))?,
            Err(error) if error.is_missing() => {
                digests.resize(digests.len() + DIGEST_BYTES, 0);
            }
            Err(error) => return Err(Failure::untouched(&error)),
        }
    }
    Ok(digests)
}

/// `PG_VERSION` and `pg_filenode.map`, wherever they lie.
fn is_compared(path: &RelPath) -> bool {
    let is_placed = path
        .parent()
        .is_none_or(|directory| layout::holds_relations(&directory));
    is_placed && matches!(path.name(), b"PG_VERSION" | b"pg_filenode.map")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_counts_when_it_stays() {
        let path = RelPath::parse(b"global/pg_filenode.map").unwrap();
        let differs = |ours: u8| BTreeMap::from([(path.clone(), (vec![ours], vec![9]))]);
        let mut others = Others::default();
        others.judge(differs(1), Lsn(10), Lsn(20), None);
        assert!(others.is_waiting() && others.wrong.is_empty());
        // Another difference, and one that may still be replayed.
        others.judge(differs(2), Lsn(20), Lsn(30), None);
        others.judge(differs(2), Lsn(29), Lsn(40), None);
        assert!(others.wrong.is_empty());
        others.judge(differs(2), Lsn(30), Lsn(50), None);
        assert!(!others.is_waiting() && others.wrong.contains(&path));
        let mut at_rest = Others::default();
        at_rest.judge(differs(1), Lsn(10), Lsn(20), Some(Lsn(10)));
        assert!(at_rest.wrong.contains(&path));
    }

    #[test]
    fn only_versions_and_maps_in_their_places_are_compared() {
        for (path, expected) in [
            ("PG_VERSION", true),
            ("base/5/PG_VERSION", true),
            ("base/5/pg_filenode.map", true),
            ("global/pg_filenode.map", true),
            ("global/pg_control", false),
            ("notes/PG_VERSION", false),
            ("base/5/16384", false),
        ] {
            let path = RelPath::parse(path.as_bytes()).unwrap();
            assert_eq!(is_compared(&path), expected, "{path}");
        }
    }
}
