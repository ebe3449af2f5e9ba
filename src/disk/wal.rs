//! The pages of a `pg_wal` directory, for who reads records.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::DiskError;
use super::read::read_padded;
use super::walk::{self, Kind};
use crate::pg::lsn::{Lsn, SegmentName};
use crate::pg::timeline::TimelineId;
use crate::pg::wal::{SEGMENT_HEAD_BYTES, is_written};

/// Bytes that are read at once.
const READ_BYTES: usize = 256 * 1024;

/// End of a timeline's newest segment that was written to, finished or not. What cannot be read counts as written.
///
/// # Errors
/// The directory cannot be listed.
pub fn written_end(
    directory: &Path,
    timeline: TimelineId,
    segment_bytes: u32,
) -> Result<Option<Lsn>, DiskError> {
    let listed = walk::list(directory)?;
    let mut segments: Vec<_> = listed
        .iter()
        .filter_map(|found| {
            let name = std::str::from_utf8(&found.name).ok()?;
            let whole = name.strip_suffix(".partial").unwrap_or(name);
            let segment = SegmentName::parse(whole, segment_bytes)?;
            (segment.timeline == timeline).then_some((segment, name))
        })
        .collect();
    segments.sort_unstable_by_key(|(segment, _)| std::cmp::Reverse(segment.number));
    let newest = segments.into_iter().find(|(segment, name)| {
        let mut head = [0; SEGMENT_HEAD_BYTES];
        let read = File::open(directory.join(name))
            .and_then(|file| read_padded(&file, 0, &mut head).map(|_| ()));
        match read {
            Ok(()) => is_written(&head, segment, segment_bytes),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    });
    Ok(newest.map(|(segment, _)| segment.end(segment_bytes)))
}

/// The segments of a `pg_wal` directory, as one row of bytes.
///
/// Where a timeline began within a segment, that segment is there under the names of both; the newer one holds the
/// older one's bytes up to there (`xlog.c: XLogInitNewTimeline`), so it is the newest that is read.
#[derive(Debug)]
pub struct Pages {
    directory: PathBuf,
    segment_bytes: u32,
    newest: BTreeMap<u64, TimelineId>,
    open: Option<(u64, File)>,
    /// Where in the WAL the buffer begins.
    begin: u64,
    buffer: Vec<u8>,
}

impl Pages {
    /// The segments of these timelines. Those that are not finished (`.partial`) are left out: the next timeline has
    /// what counts of them.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn open(
        directory: &Path,
        segment_bytes: u32,
        timelines: RangeInclusive<TimelineId>,
    ) -> Result<Self, DiskError> {
        let mut newest: BTreeMap<u64, TimelineId> = BTreeMap::new();
        for found in walk::list(directory)? {
            let name = std::str::from_utf8(&found.name).unwrap_or_default();
            if let Some(segment) = SegmentName::parse(name, segment_bytes)
                && found.kind == Kind::File
                && timelines.contains(&segment.timeline)
            {
                let known = newest.entry(segment.number).or_insert(segment.timeline);
                *known = segment.timeline.max(*known);
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            segment_bytes,
            newest,
            open: None,
            begin: 0,
            buffer: Vec::new(),
        })
    }

    /// Where the unbroken row of segments begins that holds the byte before `end`; none when there is no such
    /// segment.
    #[must_use]
    pub fn unbroken_since(&self, end: Lsn) -> Option<Lsn> {
        crate::pg::lsn::unbroken_since(self.newest.keys().copied(), end, self.segment_bytes)
    }

    /// Fills a page that begins at `at`. Whether its segment is there; one that vanishes meanwhile is not.
    ///
    /// # Errors
    /// The system's error.
    pub fn read(&mut self, at: Lsn, page: &mut [u8]) -> Result<bool, DiskError> {
        let is_held = |begin: u64, buffer: &[u8]| {
            at.0 >= begin && at.0 + page.len() as u64 <= begin + buffer.len() as u64
        };
        if !is_held(self.begin, &self.buffer) && !self.fill(at)? {
            return Ok(false);
        }
        let from = usize::try_from(at.0 - self.begin).unwrap_or(usize::MAX);
        let Some(held) = self.buffer.get(from..from.saturating_add(page.len())) else {
            return Ok(false);
        };
        page.copy_from_slice(held);
        Ok(true)
    }

    /// Reads on from `at`.
    fn fill(&mut self, at: Lsn) -> Result<bool, DiskError> {
        self.buffer.clear();
        let segment_bytes = u64::from(self.segment_bytes);
        let number = at.0 / segment_bytes;
        let Some(timeline) = self.newest.get(&number) else {
            return Ok(false);
        };
        let name = SegmentName {
            timeline: *timeline,
            number,
        };
        let path = self.directory.join(name.file_name(self.segment_bytes));
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            match File::open(&path) {
                Ok(file) => self.open = Some((number, file)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(DiskError::new("open", &path, error)),
            }
        }
        let Some((_, file)) = &self.open else {
            return Ok(false);
        };
        let offset = at.0 % segment_bytes;
        let rest = usize::try_from(segment_bytes - offset).unwrap_or(READ_BYTES);
        self.buffer.resize(rest.min(READ_BYTES), 0);
        self.begin = at.0;
        read_padded(file, offset, &mut self.buffer)
            .map_err(|error| DiskError::new("read", &path, error))?;
        Ok(true)
    }
}
