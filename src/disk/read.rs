//! Positional reads, and how they leave the page cache as they found it.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Advice, Mode, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::{DiskError, depth, direct, dontcache};
use crate::buffer::Buffer;
use crate::compare::blocks::{digest_pieces, digest_zeros};
use crate::digest::SessionKey;
use crate::geometry::{Span, pieces};
use crate::path::RelPath;

/// Bytes of a cached file that are read at once to be hashed: few calls, and still in the processor's cache when
/// they are hashed. A multiple of the extents and of the blocks.
const PIECE_BYTES: u32 = 256 * 1024;

/// Size of a page of the cache on nearly all machines; another one costs speed only.
const PAGE_BYTES: usize = 4096;

/// Reads files to hash them.
#[derive(Debug)]
pub struct PieceReader {
    buffer: Buffer,
}

impl Default for PieceReader {
    fn default() -> Self {
        Self {
            buffer: Buffer::with_length(PIECE_BYTES as usize),
        }
    }
}

impl PieceReader {
    /// Appends the digests of the pieces of `unit` bytes of a span to `digests`. Holes are not read.
    ///
    /// # Errors
    /// The system's error.
    pub fn digest(
        &mut self,
        file: &File,
        span: &Span,
        unit: u32,
        key: &SessionKey,
        digests: &mut Vec<u8>,
    ) -> io::Result<()> {
        self.digest_and(file, span, unit, key, digests, |_| {})
    }

    /// As [`digest`](Self::digest); shows each piece that was read also to `see`, in order, of whole units but for the
    /// last one. Shows nothing of a hole.
    ///
    /// # Errors
    /// The system's error.
    pub fn digest_and(
        &mut self,
        file: &File,
        span: &Span,
        unit: u32,
        key: &SessionKey,
        digests: &mut Vec<u8>,
        mut see: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        if is_hole(file, span.offset, span.bytes) {
            digest_zeros(key, span.bytes, unit, digests);
            return Ok(());
        }
        let take = |piece: &[u8]| {
            digest_pieces(key, piece, unit, digests);
            see(piece);
        };
        self.read(file, span.offset, span.bytes, take)
    }

    /// Reads a part of a file, at most a range, and hands it over in pieces of whole extents but for the last
    /// one. What lies beyond the end of the file reads as zero bytes. The page cache stays as it is.
    ///
    /// # Errors
    /// The system's error.
    fn read(
        &mut self,
        file: &File,
        offset: u64,
        bytes: u32,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        ask_for_no_more(file);
        let mut at = 0;
        let mut asked = None;
        while at < bytes {
            let piece = &mut self.buffer[..(bytes - at).min(PIECE_BYTES) as usize];
            let cached = take_cached(file, offset + u64::from(at), piece);
            if cached.bytes < piece.len() {
                asked = Some((offset + u64::from(at), cached));
                break;
            }
            take(piece);
            at += PIECE_BYTES;
        }
        let least = asked.map_or(direct::MIN_BYTES, |(_, cached)| cached.least_direct());
        for (begin, length) in pieces(bytes.saturating_sub(at), direct::CALL_BYTES) {
            let length = length as usize;
            // No memory for those that wait for their turn to read.
            let piece = depth::read(length, || {
                let mut piece = Buffer::for_disk(length);
                let from = offset + u64::from(at + begin);
                let count = read_uncached(file, from, &mut piece, least)?;
                piece[count..].fill(0);
                Ok::<_, io::Error>(piece)
            });
            take(&piece?);
        }
        if let Some((from, cached)) = asked {
            cached.forget_begun(file, from);
        }
        Ok(())
    }
}

/// Fills `buffer` from `offset` on; what lies beyond the end of the file reads as zero bytes, as a
/// base backup pads a file that shrank (PostgreSQL `basebackup.c:sendFile`). The page cache stays as it is: what
/// was cached stays, and what was not does not come. Returns the bytes that the file really had there.
///
/// # Errors
/// The system's error.
pub fn read_padded(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    ask_for_no_more(file);
    let cached = take_cached(file, offset, buffer);
    if cached.bytes == buffer.len() {
        return Ok(cached.bytes);
    }
    // A whole number of pages, so that what follows may go past the cache.
    let mut filled = cached.bytes - cached.bytes % PAGE_BYTES;
    for piece in buffer[filled..].chunks_mut(direct::CALL_BYTES as usize) {
        let at = offset + filled as u64;
        let least = cached.least_direct();
        let count = depth::read(piece.len(), || read_uncached(file, at, piece, least))?;
        filled += count;
        if count < piece.len() {
            break;
        }
    }
    cached.forget_begun(file, offset);
    buffer[filled..].fill(0);
    Ok(filled)
}

/// Fills `buffer` if all of it is cached; says whether it was. What is not in the file is not cached.
#[must_use]
pub fn read_if_cached(file: &File, offset: u64, buffer: &mut [u8]) -> bool {
    let cached = take_cached(file, offset, buffer);
    if cached.bytes < buffer.len() {
        cached.forget_begun(file, offset);
    }
    cached.bytes == buffer.len()
}

/// Has the kernel read what is asked for and nothing ahead of it: another worker may be done with that already, and
/// then it would stay in the cache, or look as if it had been there before.
fn ask_for_no_more(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, Advice::Random);
}

/// How much of a part was cached at its beginning.
#[derive(Debug, Clone, Copy, Default)]
struct Cached {
    bytes: usize,
    /// Bytes behind those that asking has made the kernel begin to read (Linux 5.9 and later,
    /// `mm/filemap.c:filemap_get_pages`).
    begun: usize,
    /// Nobody asked, for nothing was cached of late.
    is_unasked: bool,
}

impl Cached {
    /// The least that is read past the cache, in bytes: where asking has begun to read, a short part comes in the same
    /// request only through the cache.
    fn least_direct(self) -> usize {
        if self.is_unasked {
            direct::ALIGNMENT
        } else {
            direct::MIN_BYTES
        }
    }

    /// Drops what asking has begun to bring, where the kernel does not do so by itself. `offset` is the part's.
    fn forget_begun(self, file: &File, offset: u64) {
        if dontcache::flag().is_none() {
            dontcache::let_go(file, offset + self.bytes as u64, self.begun as u64);
        }
    }
}

/// Fills the beginning of `buffer` as far as that is cached and told without waiting. Where the rest would be read
/// past the cache, little is asked at first, and no more than a piece at a time. Where nothing was cached of late that is
/// not asked, mostly: the question makes the kernel read what is not there.
fn take_cached(file: &File, offset: u64, buffer: &mut [u8]) -> Cached {
    let flags = ReadWriteFlags::NOWAIT | dontcache::flag().unwrap_or(ReadWriteFlags::empty());
    let is_long = buffer.len() >= direct::MIN_BYTES;
    let mut cached = Cached::default();
    if buffer.len() >= direct::ALIGNMENT && !is_worth_asking() {
        cached.is_unasked = true;
        return cached;
    }
    let mut asked = if is_long { PAGE_BYTES } else { buffer.len() };
    while cached.bytes < buffer.len() {
        let end = buffer.len().min(cached.bytes + asked);
        let piece = &mut [IoSliceMut::new(&mut buffer[cached.bytes..end])];
        match rustix::io::preadv2(file, piece, offset + cached.bytes as u64, flags) {
            Ok(count) => cached.bytes += count,
            Err(Errno::AGAIN) => {}
            // Who cannot say what is cached must not drop it.
            Err(_) => break,
        }
        if cached.bytes < end {
            cached.begun = end - cached.bytes;
            break;
        }
        asked = PIECE_BYTES as usize;
    }
    note_asked(cached.bytes > 0);
    cached
}

/// How often in a row nothing was cached where that was asked, and how often it was not asked since.
static UNCACHED: AtomicU32 = AtomicU32::new(0);
static UNASKED: AtomicU32 = AtomicU32::new(0);

/// After so many vain questions one in as many is asked: each is a read of the disk more.
const VAIN: u32 = 8;

/// Whether to ask what is cached of a part. What is cached and read from the disk nevertheless costs time only.
fn is_worth_asking() -> bool {
    UNCACHED.load(Ordering::Relaxed) < VAIN
        || UNASKED.fetch_add(1, Ordering::Relaxed) % VAIN == VAIN - 1
}

fn note_asked(was_cached: bool) {
    if was_cached {
        UNCACHED.store(0, Ordering::Relaxed);
    } else {
        UNCACHED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Fills `buffer` as far as the file goes, past the cache where that are `least` bytes and it can be done; returns how
/// far.
fn read_uncached(file: &File, offset: u64, buffer: &mut [u8], least: usize) -> io::Result<usize> {
    let mut filled = direct::read(file, offset, buffer, least)?;
    while filled < buffer.len() {
        match read_and_leave(file, offset + filled as u64, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn read_and_leave(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let Some(flag) = dontcache::flag() else {
        return read_and_drop(file, offset, buffer);
    };
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, flag) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => read_and_drop(file, offset, buffer),
        result => Ok(result?),
    }
}

/// Does by hand what the kernel or the file system cannot: reads what is cached, and drops what had to be
/// brought. A piece whose first page was not cached is dropped as a whole.
fn read_and_drop(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let pieces = &mut [IoSliceMut::new(buffer)];
    match rustix::io::preadv2(file, pieces, offset, ReadWriteFlags::NOWAIT) {
        Err(Errno::AGAIN) => {}
        // Who cannot say what is cached must not drop it.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return file.read_at(buffer, offset),
        result => return Ok(result?),
    }
    let count = file.read_at(buffer, offset)?;
    dontcache::let_go(file, offset, count as u64);
    Ok(count)
}

/// Shorter parts of a file are not worth a question.
const HOLE_MIN_BYTES: u32 = 1024 * 1024;

/// File systems whose word on holes is taken: those of direct reads, and tmpfs (`include/uapi/linux/magic.h`). Others
/// have told of holes where written data was on its way to the disk (OpenZFS before 2.2.2).
const HONEST: [i64; 4] = {
    let [ext4, xfs, btrfs] = direct::COHERENT;
    [ext4, xfs, btrfs, 0x0102_1994]
};

/// Whether the file is known to have only zero bytes there without reading them. Moves the file's own position.
#[must_use]
pub fn is_hole(file: &File, offset: u64, bytes: u32) -> bool {
    if bytes < HOLE_MIN_BYTES {
        return false;
    }
    let has_no_data = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data >= offset + u64::from(bytes),
        // No data up to the end of the file.
        Err(Errno::NXIO) => true,
        Err(_) => false,
    };
    has_no_data && rustix::fs::fstatfs(file).is_ok_and(|found| HONEST.contains(&found.f_type))
}

/// Reads an open file as long as it is, but at most `limit` bytes of it.
///
/// # Errors
/// The system's error with `path`.
pub fn read_most(file: &File, path: &Path, limit: u64) -> Result<Vec<u8>, DiskError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| DiskError::new("read", path, error))?;
    Ok(bytes)
}

/// The file, if it is a regular one; `path` is asked for messages only.
///
/// # Errors
/// It is none, or the system's error.
pub(super) fn regular(file: File, path: impl Fn() -> PathBuf) -> Result<File, DiskError> {
    let metadata = file
        .metadata()
        .map_err(|error| DiskError::new("stat", &path(), error))?;
    if metadata.is_file() {
        return Ok(file);
    }
    let problem = io::Error::other("not a regular file");
    Err(DiskError::new("read", &path(), problem))
}

/// Longest file that is read for what a link in the place of a configuration file leads to.
const LINKED_MAX: u64 = 16 * 1024 * 1024;

/// Opens the regular file that a path leads to, links followed; `None` when there is none, or none of a configuration
/// file's size.
///
/// # Errors
/// The system's error.
pub fn open_linked(path: &Path) -> Result<Option<File>, DiskError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(
        rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| DiskError::new("open", path, error))?,
    );
    let found = file
        .metadata()
        .map_err(|error| DiskError::new("stat", path, error))?;
    Ok((found.is_file() && found.len() <= LINKED_MAX).then_some(file))
}

/// Opens the same file once more, with a position of its own. `path` is its path in the data directory, for messages.
///
/// # Errors
/// The system's error.
pub fn reopen(file: &File, path: &RelPath) -> Result<File, DiskError> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(|error| DiskError::new("open", path.as_path(), error))
}

/// Reads a whole small file.
///
/// # Errors
/// The system's error; also when it is no regular file, or longer than `limit` bytes.
pub fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, DiskError> {
    // Nothing that waits for somebody who never comes.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map(File::from)
        .map_err(|error| DiskError::new("open", path, error))?;
    let file = regular(file, || path.to_owned())?;
    let bytes = read_most(&file, path, limit + 1)?;
    if bytes.len() as u64 > limit {
        return Err(DiskError::new(
            "read",
            path,
            std::io::Error::other(format!("it is longer than {limit} bytes")),
        ));
    }
    Ok(bytes)
}

/// As [`read_if_there`]; a link to the null device is as good as no file.
///
/// # Errors
/// As [`read_small`].
pub fn read_unless_null(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
    if is_null_device(path) {
        return Ok(None);
    }
    read_if_there(path, limit)
}

/// Whether a path leads to the null device (`Documentation/admin-guide/devices.txt`: character device 1, 3).
fn is_null_device(path: &Path) -> bool {
    rustix::fs::stat(path).is_ok_and(|found| {
        let device = found.st_rdev;
        rustix::fs::FileType::from_raw_mode(found.st_mode).is_char_device()
            && (rustix::fs::major(device), rustix::fs::minor(device)) == (1, 3)
    })
}

/// As [`read_small`], `None` when the file does not exist.
///
/// # Errors
/// As [`read_small`].
pub fn read_if_there(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
    match read_small(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_is_padded_with_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abc").unwrap();
        let file = File::open(&path).unwrap();
        let mut buffer = [7; 5];
        assert_eq!(read_padded(&file, 1, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer, b"bc\0\0\0");
        assert_eq!(read_padded(&file, 9, &mut buffer).unwrap(), 0);
        assert_eq!(buffer, [0; 5]);
        let mut buffer = [7; 5];
        assert_eq!(read_and_drop(&file, 1, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"bc");
    }

    #[test]
    fn pieces_make_up_the_part_whether_cached_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let content: Vec<u8> = (0..700_000_u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        for is_cached in [true, false] {
            for (from, bytes) in [(0, 700_000), (10, 262_144), (600_000, 300_000), (5, 1)] {
                if !is_cached {
                    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
                }
                let mut read = Vec::new();
                let mut reader = PieceReader::default();
                let read_all = reader.read(&file, from as u64, bytes, |piece| {
                    assert_eq!(read.len() % PIECE_BYTES as usize, 0);
                    read.extend_from_slice(piece);
                });
                read_all.unwrap();
                let mut expected = content[from..].to_vec();
                expected.resize(bytes as usize, 0);
                assert!(read == expected, "{from} {bytes} {is_cached}");
            }
        }
    }

    #[test]
    fn a_hole_is_known_without_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = File::create(&path).unwrap();
        let unit = HOLE_MIN_BYTES;
        file.set_len(u64::from(4 * unit)).unwrap();
        file.write_all_at(b"x", u64::from(2 * unit)).unwrap();
        let file = File::open(&path).unwrap();
        let is_honest = HONEST.contains(&rustix::fs::fstatfs(&file).unwrap().f_type);
        assert_eq!(is_hole(&file, 0, unit), is_honest);
        assert!(!is_hole(&file, 0, 3 * unit));
        assert!(!is_hole(&file, u64::from(2 * unit), unit));
        assert_eq!(is_hole(&file, u64::from(3 * unit), unit), is_honest);
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"abcd").unwrap();
        assert!(read_small(&path, 3).is_err());
        assert_eq!(read_small(&path, 4).unwrap(), b"abcd");
        assert!(read_if_there(&dir.path().join("g"), 4).unwrap().is_none());
    }
}
