//! The source's blocks beside the standby's: judged, and nothing is written.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::buffer::Buffer;
use crate::client::transfer::error::TransferError;
use crate::client::transfer::near::Near;
use crate::client::transfer::places::Places;
use crate::client::transfer::reply::Reply;
use crate::compare::blocks::Placed;
use crate::compare::map::judge_map;
use crate::compare::noise;
use crate::compare::verdict::{Fault, Law, Verdict, judge};
use crate::compare::xacts::{XactLaw, judge_xacts};
use crate::digest::SessionKey;
use crate::disk::DiskError;
use crate::disk::read::read_padded;
use crate::disk::root::Roots;
use crate::geometry::{RANGE_BYTES, Span};
use crate::path::RelPath;
use crate::pg::canonical::{PageKind, kind};
use crate::pg::hints::{Settled, XactPage, XactStatus, status_in};
use crate::pg::lsn::Lsn;
use crate::pg::page::PageHeader;
use crate::pg::relfile::{self, Fork, RelFile};
use crate::pg::visibility::heap_blocks_per_page;
use crate::wire::message::Packed;

/// Most blocks that seem wrong whose details are kept, and that are looked at again.
pub const FAULTS_MAX: usize = 10_000;

/// What a primary of 14 to 16 writes into the pages of a GiST index that it builds by sorting: they are younger than they
/// say (PostgreSQL `gistbuild.c:gist_indexsortbuild_flush_ready_pages`, `gist.h:GistBuildLSN`).
const GIST_BUILD_LSN: Lsn = Lsn(1);

/// What the standby's `pg_xact` says for certain.
pub struct Xacts {
    roots: Arc<Roots>,
    /// From the oldest that it has to the first that may have been running at the last checkpoint: of these it says on
    /// disk how they ended.
    settled: Settled,
    block_bytes: u32,
    pages: Mutex<HashMap<XactPage, Vec<u8>>>,
}

impl Xacts {
    pub fn new(roots: Arc<Roots>, settled: Settled, block_bytes: u32) -> Self {
        Self {
            roots,
            settled,
            block_bytes,
            pages: Mutex::default(),
        }
    }

    /// How a transaction ended; unknown where that may not be on disk yet.
    fn status(&self, xid: u32) -> XactStatus {
        if self.settled.range.outside(xid).is_some() {
            return XactStatus::Unknown;
        }
        let place = XactPage::of(xid, self.block_bytes);
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let page = pages
            .entry(place)
            .or_insert_with(|| self.read(place).unwrap_or_default());
        match status_in(page, xid) {
            // It is not running any more: a crash ended it.
            XactStatus::InProgress if self.settled.is_final => XactStatus::Aborted,
            XactStatus::InProgress | XactStatus::SubCommitted => XactStatus::Unknown,
            status => status,
        }
    }

    /// `None` where it cannot be read, or was cut off meanwhile.
    fn read(&self, place: XactPage) -> Option<Vec<u8>> {
        let path = RelPath::parse(format!("pg_xact/{place}").as_bytes()).ok()?;
        let file = self.roots.open_regular(&path).ok()?;
        let mut page = vec![0; self.block_bytes as usize];
        let offset = u64::from(place.page) * u64::from(self.block_bytes);
        let read = read_padded(&file, offset, &mut page).ok()?;
        (read == page.len()).then_some(page)
    }
}

/// What only one side had at an earlier look.
pub struct Earlier {
    /// The source's end of WAL after that look.
    pub end: Lsn,
    pub one_sided: Places,
}

/// What does not change meanwhile, since no server runs there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Still {
    pub is_standby: bool,
    /// The end of the WAL of a source that was shut down: all that it has came before it.
    pub source_end: Option<Lsn>,
}

/// A block that is wrong, or seems to be.
#[derive(Debug, Clone)]
pub struct WrongBlock {
    pub path: RelPath,
    /// Number within the relation's fork, or within the file where it is none of a relation's.
    pub block: u32,
    pub fault: Fault,
    pub source_lsn: Option<Lsn>,
    pub standby_lsn: Option<Lsn>,
    /// `None` for a page of a visibility map or of `pg_xact`.
    pub kind: Option<PageKind>,
}

/// What a look has found.
#[derive(Debug, Default)]
pub struct Found {
    /// What is newer than the threshold.
    pub changed: Places,
    /// What only one side has and the other may get or lose yet.
    pub one_sided: Places,
    /// What seems wrong, with its details.
    pub suspects: Places,
    pub wrong: Vec<WrongBlock>,
    /// Differing pages of an unknown kind.
    pub unknown: Places,
    /// Pages whose flag of visible tuples only one side has.
    pub all_visible: Places,
    pub noise: Places,
    /// Blocks of heaps that only the standby's visibility map calls visible, and perhaps not for long.
    pub map_doubts: u64,
}

impl Found {
    /// Takes over what a further look at the suspects has found.
    pub fn take(&mut self, again: Self) {
        let Self {
            changed,
            one_sided,
            suspects,
            wrong,
            unknown,
            all_visible,
            noise,
            map_doubts,
        } = again;
        for (own, more) in [
            (&mut self.changed, &changed),
            (&mut self.one_sided, &one_sided),
            (&mut self.suspects, &suspects),
            (&mut self.unknown, &unknown),
            (&mut self.all_visible, &all_visible),
            (&mut self.noise, &noise),
        ] {
            own.add(more);
        }
        self.wrong.extend(wrong);
        self.map_doubts += map_doubts;
    }
}

/// Judges blocks, for one look.
pub struct Jury {
    pub roots: Arc<Roots>,
    pub law: Law,
    pub block_bytes: u32,
    pub segment_blocks: u32,
    pub xacts: Arc<Xacts>,
    /// What is settled on both sides.
    pub settled: XactLaw,
    pub earlier: Vec<Arc<Earlier>>,
    pub still: Still,
    pub found: Mutex<Found>,
}

/// A file of the standby, by its index, and what was read of it.
struct Opened {
    index: usize,
    /// `None` when there is none.
    file: Option<File>,
    near: Near,
    /// In the place of blocks that are not there.
    nothing: Vec<u8>,
}

impl Jury {
    /// Unpacks, proves and judges. On a worker. Returns the blocks of which a patch was not enough.
    ///
    /// # Errors
    /// The answer does not fit or was damaged, or the standby cannot be read.
    pub fn hear(
        &self,
        reply: &Reply,
        key: &SessionKey,
        packed: &Packed,
        body: Buffer,
    ) -> Result<Vec<(usize, Span)>, TransferError> {
        let bytes = Reply::unpack(key, packed, body)?;
        let [blocks, patches] = reply.split(&bytes)?;
        let (mut blocks, mut patches) = (blocks.bytes(), patches.bytes());
        let size = reply.block_bytes as usize;
        let mut opened = None;
        let mut runs = reply.runs.iter();
        while let Some(run) = runs.next() {
            let (theirs, rest) = blocks
                .split_at_checked(run.bytes as usize)
                .ok_or(TransferError::Unfitting)?;
            blocks = rest;
            let (path, first, own) = self.own(reply, run, runs.clone(), &mut opened)?;
            for (number, (source, standby)) in theirs.chunks(size).zip(own.chunks(size)).enumerate()
            {
                self.consider(path, first + number, source, standby);
            }
        }
        let mut unlike = Vec::new();
        let mut runs = reply.patched.iter();
        while let Some(run) = runs.next() {
            let (path, first, own) = self.own(reply, run, runs.clone(), &mut opened)?;
            let offsets = (reply.offset(run)..).step_by(size);
            for (number, (offset, standby)) in offsets.zip(own.chunks(size)).enumerate() {
                let mut source = standby.to_vec();
                let digest = noise::apply_next(&mut patches, &mut source)?;
                if key.digest(&source) == digest {
                    self.consider(path, first + number, &source, standby);
                } else {
                    unlike.push(reply.alone(run, offset));
                }
            }
        }
        if !blocks.is_empty() || !patches.is_empty() {
            return Err(TransferError::Unfitting);
        }
        Ok(unlike)
    }

    /// The standby's bytes of a run, zeros where it has none, with their file and the number of the first block in it.
    /// `next` are the runs behind it.
    fn own<'r, 'o>(
        &self,
        reply: &'r Reply,
        run: &Placed,
        next: impl Iterator<Item = &'r Placed>,
        opened: &'o mut Option<Opened>,
    ) -> Result<(&'r RelPath, usize, &'o [u8]), TransferError> {
        let index = reply.spans[run.span].0;
        let path = &reply.task.files[index].path;
        if opened.as_ref().is_none_or(|last| last.index != index) {
            *opened = Some(Opened {
                index,
                file: self.open(path)?,
                near: Near::default(),
                nothing: Vec::new(),
            });
        }
        let opened = opened.as_mut().expect("it was just set");
        let offset = reply.offset(run);
        let own = if let Some(file) = &opened.file {
            opened
                .near
                .take(file, offset, run, next)
                .map_err(|error| DiskError::new("read", &self.roots.display(path), error))?
        } else {
            opened.nothing.resize(run.bytes as usize, 0);
            &mut opened.nothing
        };
        let first = usize::try_from(offset / u64::from(reply.block_bytes)).unwrap_or(usize::MAX);
        Ok((path, first, own))
    }

    fn open(&self, path: &RelPath) -> Result<Option<File>, DiskError> {
        match self.roots.open_regular(path) {
            Ok(file) => Ok(Some(file)),
            // Its server may drop it meanwhile.
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Judges blocks that only the standby has: those from `first` on, before `end`. On a worker.
    ///
    /// # Errors
    /// The standby cannot be read.
    pub fn hear_alone(&self, path: &RelPath, first: usize, end: usize) -> Result<(), DiskError> {
        let Some(file) = self.open(path)? else {
            return Ok(());
        };
        let nothing = vec![0; self.block_bytes as usize];
        let size = self.block_bytes as usize;
        let at_once = (RANGE_BYTES / self.block_bytes).max(1) as usize;
        let mut block = first;
        while block < end {
            let count = at_once.min(end - block);
            let mut own = vec![0; count * size];
            let offset = block as u64 * size as u64;
            read_padded(&file, offset, &mut own)
                .map_err(|error| DiskError::new("read", &self.roots.display(path), error))?;
            for (number, page) in own.chunks(size).enumerate() {
                self.consider(path, block + number, &nothing, page);
            }
            block += count;
        }
        Ok(())
    }

    /// Judges one block of a file, and notes what was found.
    fn consider(&self, path: &RelPath, block: usize, source: &[u8], standby: &[u8]) {
        if source.len() != self.block_bytes as usize || standby.len() != source.len() {
            return;
        }
        let Some((.., file)) = relfile::location_of(path) else {
            self.consider_xacts(path, block, source, standby);
            return;
        };
        let number = file
            .segment
            .wrapping_mul(self.segment_blocks)
            .wrapping_add(u32::try_from(block).unwrap_or(u32::MAX));
        if file.fork == Fork::Vm {
            self.consider_map((path, block, number), source, standby);
            return;
        }
        let verdict = judge(source, standby, number, &self.law, |xid| {
            self.xacts.status(xid)
        });
        let verdict = match verdict {
            Verdict::OneSided(fault, lsn) if self.is_certain(fault, lsn, path, block) => {
                Verdict::Fault(fault)
            }
            verdict => verdict,
        };
        self.note((path, block, number), verdict, (source, standby));
    }

    /// Judges one block of `pg_xact`.
    fn consider_xacts(&self, path: &RelPath, block: usize, source: &[u8], standby: &[u8]) {
        let Some(page) = XactPage::of_file(path).nth(block) else {
            return;
        };
        let verdict = judge_xacts(source, standby, page, &self.settled);
        // The server may have cut it off meanwhile. Whether it lacks a file, the lists tell.
        let is_gone = || self.open(path).is_ok_and(|file| file.is_none());
        if verdict != Verdict::Equal && !is_gone() {
            self.note((path, block, page.page), verdict, (source, standby));
        }
    }

    /// Judges one block of a visibility map.
    fn consider_map(&self, place: (&RelPath, usize, u32), source: &[u8], standby: &[u8]) {
        let (path, _, number) = place;
        let heap_of = |block: u32| {
            number
                .wrapping_mul(heap_blocks_per_page(self.block_bytes))
                .wrapping_add(block)
        };
        let is_final = self
            .still
            .source_end
            .is_some_and(|end| self.still.is_standby && end <= self.law.threshold);
        let verdict = judge_map(source, standby, number, &self.law, is_final, |block| {
            self.heap_page(path, heap_of(block))
        });
        if let Some(verdict) = verdict.page {
            self.note(place, verdict, (source, standby));
        }
        for block in verdict.wrong {
            let fault = Fault::PromisedVisible(heap_of(block));
            self.note(place, Verdict::Fault(fault), (source, standby));
        }
        self.found().map_doubts += verdict.doubts;
    }

    /// The standby's page of a block of the heap that a visibility map belongs to.
    fn heap_page(&self, map: &RelPath, block: u32) -> Option<Vec<u8>> {
        let (.., file) = relfile::location_of(map)?;
        let heap = RelFile {
            fork: Fork::Main,
            segment: block / self.segment_blocks,
            ..file
        };
        let path = map.parent()?.join(heap.to_string().as_bytes()).ok()?;
        let file = self.open(&path).ok()??;
        let mut page = vec![0; self.block_bytes as usize];
        let offset = u64::from(block % self.segment_blocks) * u64::from(self.block_bytes);
        let read = read_padded(&file, offset, &mut page).ok()?;
        (read == page.len()).then_some(page)
    }

    /// Notes what was found of a block: its file, its number in there and in the fork.
    fn note(
        &self,
        (path, block, number): (&RelPath, usize, u32),
        verdict: Verdict,
        (source, standby): (&[u8], &[u8]),
    ) {
        let mut found = self.found();
        match verdict {
            Verdict::Equal => {}
            Verdict::Noise => found.noise.insert(path, block),
            Verdict::Changed => found.changed.insert(path, block),
            Verdict::OneSided(..) => found.one_sided.insert(path, block),
            Verdict::AllVisible => found.all_visible.insert(path, block),
            Verdict::UnknownKind => found.unknown.insert(path, block),
            // More than anybody reads: they are told of as not compared.
            Verdict::Fault(_) if found.wrong.len() >= FAULTS_MAX => {
                found.changed.insert(path, block);
            }
            Verdict::Fault(fault) => {
                let lsn = |page: &[u8]| {
                    let header = PageHeader::decode(page)?;
                    (!header.is_new()).then_some(header.lsn)
                };
                let is_map = matches!(fault, Fault::PromisedVisible(_));
                // Its pages have no header.
                let is_xact = matches!(fault, Fault::TransactionStatus(_));
                let wrong = WrongBlock {
                    path: path.clone(),
                    block: number,
                    fault,
                    source_lsn: lsn(source).filter(|_| !is_xact),
                    standby_lsn: lsn(standby).filter(|_| !is_xact),
                    kind: match kind(source) {
                        _ if is_map || is_xact => None,
                        PageKind::New => Some(kind(standby)),
                        kind => Some(kind),
                    },
                };
                found.suspects.insert(path, block);
                found.wrong.push(wrong);
            }
        }
    }

    /// Whether a block that only one side has, last changed at `lsn`, is no coming or going that the other side has
    /// still before it, or does not show yet.
    fn is_certain(&self, fault: Fault, lsn: Lsn, path: &RelPath, block: usize) -> bool {
        // What the source cut off after the threshold it would not have; so the standby, which is behind it and at
        // rest, has not cut it off either.
        if fault == Fault::MissingOnStandby && self.still.is_standby && lsn != GIST_BUILD_LSN {
            return true;
        }
        let is_past = |end: Lsn| end <= self.law.threshold && lsn <= end;
        self.still.source_end.is_some_and(is_past)
            || self
                .earlier
                .iter()
                .any(|look| is_past(look.end) && look.one_sided.contains(path, block))
    }

    pub fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::client::transfer::task::{FileWork, Task, Way};
    use crate::geometry::EntryId;
    use crate::pg::hints::XidRange;
    use crate::wire::message::Compression;
    use crate::wire::payload;

    const KEY: SessionKey = SessionKey([3; 32]);
    const BLOCK: u32 = 8192;

    fn jury(pgdata: &Path) -> Jury {
        let roots = Arc::new(Roots::open(pgdata, []).unwrap());
        let settled = Settled {
            range: XidRange { oldest: 3, next: 3 },
            is_final: true,
        };
        Jury {
            roots: Arc::clone(&roots),
            law: Law {
                threshold: Lsn(100),
                source_has_checksums: false,
                standby_has_checksums: false,
            },
            block_bytes: BLOCK,
            segment_blocks: 131_072,
            xacts: Arc::new(Xacts::new(roots, settled, BLOCK)),
            settled: XactLaw::of(settled, settled),
            earlier: Vec::new(),
            still: Still::default(),
            found: Mutex::default(),
        }
    }

    fn reply(path: &RelPath, runs: &[(u32, u32)], patched: &[(u32, u32)]) -> Reply {
        let placed = |runs: &[(u32, u32)]| {
            let one = |(offset, bytes): &(u32, u32)| Placed {
                span: 0,
                offset: *offset,
                bytes: *bytes,
            };
            runs.iter().map(one).collect()
        };
        let entry = EntryId(0);
        let work = FileWork {
            entry,
            path: path.clone(),
            bytes: u64::from(4 * BLOCK),
            common: u64::from(4 * BLOCK),
            fit: false,
            whole: false,
        };
        let span = Span {
            entry,
            offset: 0,
            bytes: 4 * BLOCK,
        };
        Reply {
            task: Arc::new(Task {
                files: vec![work],
                spans: vec![(0, span)],
                way: Way::Compare,
            }),
            spans: vec![(0, span)],
            runs: placed(runs),
            patched: placed(patched),
            patch_bytes: 0,
            block_bytes: BLOCK,
        }
    }

    fn hear(jury: &Jury, reply: &Reply, body: &[u8]) -> Result<usize, TransferError> {
        let (packed, body) = payload::pack(body.to_vec().into(), &KEY, Compression::None);
        let unlike = jury.hear(reply, &KEY, &packed, body)?;
        Ok(unlike.len())
    }

    #[test]
    fn answers_that_do_not_fit_are_refused_and_files_may_be_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = RelPath::parse(b"base/5/16384").unwrap();
        let jury = jury(dir.path());
        let page = vec![7; BLOCK as usize];
        let one = reply(&path, &[(0, BLOCK)], &[]);
        assert_eq!(hear(&jury, &one, &page).unwrap(), 0);
        let bodies = [vec![], page[1..].to_vec(), [&page[..], &[1]].concat()];
        for body in bodies {
            let refused = hear(&jury, &one, &body);
            assert!(matches!(refused, Err(TransferError::Unfitting)));
        }
        let mut longer = reply(&path, &[(0, BLOCK)], &[]);
        longer.patch_bytes = BLOCK + 1;
        assert!(hear(&jury, &longer, &page).is_err());
        let mut patch = reply(&path, &[], &[(0, BLOCK)]);
        patch.patch_bytes = 5;
        assert!(matches!(
            hear(&jury, &patch, &[1; 5]),
            Err(TransferError::Patch(_))
        ));
        // A patch that makes something else of what is there: the block must come whole.
        patch.patch_bytes = 18;
        assert_eq!(hear(&jury, &patch, &[0; 18]).unwrap(), 1);
    }

    #[test]
    fn what_one_side_lacks_is_certain_only_when_it_was_lacking_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = RelPath::parse(b"base/5/16384").unwrap();
        let mut jury = jury(dir.path());
        let fault = Fault::SuperfluousOnStandby;
        assert!(!jury.is_certain(fault, Lsn(50), &path, 3));
        let mut one_sided = Places::default();
        one_sided.insert(&path, 3);
        for (end, is_certain) in [(100, true), (101, false), (49, false)] {
            jury.earlier = vec![Arc::new(Earlier {
                end: Lsn(end),
                one_sided: one_sided.clone(),
            })];
            assert_eq!(
                jury.is_certain(fault, Lsn(50), &path, 3),
                is_certain,
                "{end}"
            );
            assert!(!jury.is_certain(fault, Lsn(50), &path, 4));
        }
        jury.still.is_standby = true;
        assert!(jury.is_certain(Fault::MissingOnStandby, Lsn(50), &path, 9));
        assert!(!jury.is_certain(Fault::MissingOnStandby, GIST_BUILD_LSN, &path, 9));
        assert!(!jury.is_certain(fault, Lsn(50), &path, 9));
        jury.still.source_end = Some(Lsn(60));
        assert!(jury.is_certain(fault, Lsn(50), &path, 9));
    }
}
