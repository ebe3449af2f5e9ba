//! Reads and writes past the page cache (`O_DIRECT`).
//!
//! What is read so costs a tenth of the processor's time, and the cache stays as it is by construction, whatever the
//! kernel. What it returns is what a read through the cache would have returned when it began: the kernel first writes
//! the pages of that part which are changed in the cache, waits until they are on the disk, and reads then (Linux
//! `mm/filemap.c: kiocb_write_and_wait`, called by `fs/iomap/direct-io.c: __iomap_dio_rw` for ext4 and XFS, and for
//! Btrfs as well). The pages stay in the cache. Who writes meanwhile is not seen or seen in part, as with any read: WAL
//! makes that right. ext4 holds the file's lock, shared, until the part is read, so that writers to the same file wait
//! for it: another reason to ask for little at a time.

use std::fs::File;
use std::io;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Less is read through the cache where it was asked what is cached: it would be two requests to the disk instead of one,
/// since asking is one already. Less is written through the cache.
pub(super) const MIN_BYTES: usize = 256 * 1024;

/// Bytes that a disk is asked for at once by each thread, which is a huge page. Some disks are faster with more, and a server
/// that uses the same disk waits for it: cold dry runs beside pgbench, p99 30 to 35 ms with 2 MiB and 49 to 53 ms with
/// 4 MiB, as many runs in the time; 1 MiB is slower nearly everywhere (both trees 3.3 to 5.9 s, with 2 MiB 2.6 to 3.2 s).
pub(super) const CALL_BYTES: u32 = 2 * 1024 * 1024;

/// Offsets, lengths and addresses are multiples of this: the largest block of a disk that Linux file systems have
/// been made for, and a page of memory.
pub(super) const ALIGNMENT: usize = 4096;

/// File systems of which it is known that a direct read sees what has been written before it
/// (`include/uapi/linux/magic.h`): ext2 to ext4, XFS, Btrfs. On others files are read through the cache.
pub(super) const COHERENT: [i64; 3] = [0xef53, 0x5846_5342, 0x9123_683e];

/// Fills the beginning of `buffer` past the page cache, and returns how far: not at all where that are not `least` bytes
/// or it cannot be done, and otherwise to the end of the file or the last whole [`ALIGNMENT`].
///
/// Changes the file's flags meanwhile: nobody else may use this handle.
///
/// # Errors
/// The system's error.
pub(super) fn read(file: &File, offset: u64, buffer: &mut [u8], least: usize) -> io::Result<usize> {
    let Some(length) = possible(file, offset, buffer, least) else {
        return Ok(0);
    };
    past_the_cache(file, || {
        rustix::io::pread(file, &mut buffer[..length], offset)
    })
}

/// Writes the beginning of `bytes` past the page cache, and returns how much of it: nothing where that is not worth it or
/// cannot be done, otherwise what the disk took, at most to the last whole [`ALIGNMENT`]. What the cache has of that part
/// is written before, if it is changed, and dropped (Linux `mm/filemap.c: kiocb_invalidate_pages`). It is on the disk, but
/// for the disk's own cache and the file's metadata: the sync at the end is still needed.
///
/// Changes the file's flags meanwhile: nobody else may use this handle.
///
/// # Errors
/// The system's error, such as a full disk.
pub(super) fn write(file: &File, offset: u64, bytes: &[u8]) -> io::Result<usize> {
    let Some(length) = possible(file, offset, bytes, MIN_BYTES) else {
        return Ok(0);
    };
    past_the_cache(file, || rustix::io::pwrite(file, &bytes[..length], offset))
}

/// How many of the first bytes can go past the cache, if these are at least so many.
fn possible(file: &File, offset: u64, bytes: &[u8], least: usize) -> Option<usize> {
    let length = bytes.len() - bytes.len() % ALIGNMENT;
    let is_aligned = offset.is_multiple_of(ALIGNMENT as u64)
        && (bytes.as_ptr() as usize).is_multiple_of(ALIGNMENT);
    (length >= least && is_aligned && is_coherent(file)).then_some(length)
}

/// Does something to a file with its flag for direct access set; 0 where that cannot be.
fn past_the_cache(file: &File, mut act: impl FnMut() -> Result<usize, Errno>) -> io::Result<usize> {
    let Ok(flags) = rustix::fs::fcntl_getfl(file) else {
        return Ok(0);
    };
    if rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
        return Ok(0);
    }
    let result = rustix::io::retry_on_intr(&mut act);
    rustix::fs::fcntl_setfl(file, flags)?;
    match result {
        // A disk with larger blocks, or a file that the file system keeps in another way.
        Err(Errno::INVAL) => Ok(0),
        result => Ok(result?),
    }
}

fn is_coherent(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|found| COHERENT.contains(&found.f_type))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buffer;
    use rustix::fs::Advice;
    use std::os::unix::fs::FileExt as _;

    const LENGTH: usize = 3 * CALL_BYTES as usize + 12_345;

    /// A file whose bytes are on the disk and nowhere else. `None` where the tests' file system has no direct reads.
    fn uncached() -> Option<(tempfile::TempDir, File, Vec<u8>)> {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("f");
        let content: Vec<u8> = (0..=250).cycle().take(LENGTH).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        is_coherent(&file).then_some((dir, file, content))
    }

    /// Pages of a file that are in the cache, by the system's own tool.
    fn cached_pages(dir: &tempfile::TempDir) -> u64 {
        let told = std::process::Command::new("fincore")
            .args(["--bytes", "--noheadings", "--output", "RES"])
            .arg(dir.path().join("f"))
            .output()
            .unwrap();
        let bytes: u64 = String::from_utf8(told.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        bytes / ALIGNMENT as u64
    }

    #[test]
    fn a_direct_read_gives_the_bytes_and_brings_no_page_into_the_cache() {
        let Some((dir, file, content)) = uncached() else {
            return;
        };
        for (from, length) in [
            (0, LENGTH),
            (8192, MIN_BYTES + 4096),
            (CALL_BYTES as usize, 2 << 20),
        ] {
            let mut buffer = Buffer::with_length(length);
            let count = read(&file, from as u64, &mut buffer, MIN_BYTES).unwrap();
            assert_eq!(count, length - length % ALIGNMENT);
            assert!(buffer[..count] == content[from..from + count]);
        }
        assert_eq!(cached_pages(&dir), 0);
        // Beyond the end there is nothing.
        let mut buffer = Buffer::with_length(2 * MIN_BYTES);
        let from = LENGTH / ALIGNMENT * ALIGNMENT;
        assert_eq!(
            read(&file, from as u64, &mut buffer, MIN_BYTES).unwrap(),
            LENGTH - from
        );
        assert_eq!(
            read(&file, (from + ALIGNMENT) as u64, &mut buffer, MIN_BYTES).unwrap(),
            0
        );
    }

    #[test]
    fn what_is_changed_in_the_cache_only_is_what_a_direct_read_sees_and_it_stays_there() {
        let Some((dir, file, mut content)) = uncached() else {
            return;
        };
        let writer = File::options()
            .write(true)
            .open(dir.path().join("f"))
            .unwrap();
        for block in [0, 17, 300] {
            let at = block * 8192;
            content[at..at + 8192].fill(0xee);
            writer.write_all_at(&[0xee; 8192], at as u64).unwrap();
        }
        let mut buffer = Buffer::with_length(LENGTH);
        let count = read(&file, 0, &mut buffer, MIN_BYTES).unwrap();
        assert!(buffer[..count] == content[..count]);
        assert_eq!(cached_pages(&dir), 6);
    }

    #[test]
    fn a_direct_write_gives_the_bytes_brings_no_page_into_the_cache_and_leaves_no_old_one_there() {
        let Some((dir, file, mut content)) = uncached() else {
            return;
        };
        // Both kinds: pages that are as on the disk, and one that is changed.
        file.read_exact_at(&mut vec![0; 64 * 1024], 0).unwrap();
        file.write_all_at(&[0xee; 4096], 8192).unwrap();
        file.set_len(8 << 20).unwrap();
        content.resize(8 << 20, 0);
        let new = {
            let mut new = Buffer::with_length(1 << 20);
            new.iter_mut()
                .zip((0..=240).cycle())
                .for_each(|(to, byte)| *to = byte);
            new
        };
        // Over what is there, over its end, and where there is nothing.
        for at in [0, 3 << 20, 6 << 20] {
            assert_eq!(write(&file, at as u64, &new).unwrap(), new.len());
            content[at..at + new.len()].copy_from_slice(&new);
        }
        assert_eq!(cached_pages(&dir), 0);
        let mut found = vec![0; content.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == content);
        // Left to others, whole or in part.
        assert_eq!(write(&file, 512, &new).unwrap(), 0);
        assert_eq!(write(&file, 0, &new[..MIN_BYTES - 1]).unwrap(), 0);
        assert_eq!(write(&file, 0, &new[..=MIN_BYTES]).unwrap(), MIN_BYTES);
    }

    #[test]
    fn what_cannot_be_read_past_the_cache_is_left_to_others_and_the_handle_is_as_before() {
        let Some((_dir, file, content)) = uncached() else {
            return;
        };
        let mut buffer = Buffer::with_length(LENGTH);
        let flags = rustix::fs::fcntl_getfl(&file).unwrap();
        assert_eq!(read(&file, 1, &mut buffer, MIN_BYTES).unwrap(), 0);
        assert_eq!(read(&file, 0, &mut buffer[1..], MIN_BYTES).unwrap(), 0);
        assert_eq!(
            read(&file, 0, &mut buffer[..MIN_BYTES - 1], MIN_BYTES).unwrap(),
            0
        );
        assert!(read(&file, 0, &mut buffer, MIN_BYTES).unwrap() > 0);
        assert_eq!(rustix::fs::fcntl_getfl(&file).unwrap(), flags);
        let mut few = [0; 3];
        file.read_exact_at(&mut few, 5).unwrap();
        assert_eq!(few, content[5..8]);
        // Memory is not read past the cache.
        let memory = tempfile::tempfile_in("/dev/shm").unwrap();
        memory.set_len(LENGTH as u64).unwrap();
        assert_eq!(read(&memory, 0, &mut buffer, MIN_BYTES).unwrap(), 0);
    }
}
