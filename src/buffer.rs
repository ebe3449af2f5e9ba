//! Memory for the bytes of files: aligned to pages, used again and again.
//!
//! Where a destination lies a few bytes behind its source within a page, a copy by `rep movsb` (glibc's and the
//! kernel's way for long copies) is several times slower on some processors (measured on Zen 3: a cached read
//! into a buffer 16 bytes behind a page's start at 2.6 instead of 15 GiB/s; glibc bug 30994). That is just where
//! an ordinary large vector begins. And fresh memory costs a page fault for each of its pages.
//!
//! What a disk reads into or writes from in large parts is made of huge pages: a disk writes straight into the memory of a direct read, and for each
//! page that lies apart it is told so, up to a number of pages in a request (measured on a virtual disk that takes 254:
//! 1 MiB at a time 0.75 GB/s into pages of 4 KiB, 1.75 GB/s into huge ones).

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use memmap2::{Advice, MmapMut};

/// Size of a page of memory on nearly all machines; another one costs speed only.
const PAGE_BYTES: usize = 4096;

/// Size of a huge page where pages have 4 KiB; another one costs speed only.
const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// A kind of memory that is kept for the next buffer.
struct Class {
    bytes: usize,
    /// Made of huge pages.
    is_huge: bool,
    /// Most pieces that are kept.
    kept: usize,
}

const fn class(bytes: usize, is_huge: bool, kept: usize) -> Class {
    Class {
        bytes,
        is_huge,
        kept,
    }
}

/// From the smallest to the largest, twice. Of those that every thread reads into, as many are kept as there are
/// threads; few of the others, since what is kept is never given back.
const CLASSES: [Class; 5] = [
    class(256 * 1024, false, 16),
    class(1024 * 1024, false, 4),
    class(4 * 1024 * 1024, false, 4),
    class(2 * 1024 * 1024, true, 4),
    class(4 * 1024 * 1024, true, 4),
];

/// Shorter ones are not worth keeping.
const KEPT_MIN_BYTES: usize = 64 * 1024;

/// Shorter ones are read through the cache, or their pieces are few.
const HUGE_MIN_BYTES: usize = 1024 * 1024;

/// What fills the largest class up to so little is written to the disk as a whole. Anything else would take a huge page
/// that it does not fill.
const UNFILLED_MAX_BYTES: usize = 256 * 1024;

static POOLS: [Mutex<Vec<Memory>>; CLASSES.len()] =
    [const { Mutex::new(Vec::new()) }; CLASSES.len()];

#[derive(Debug)]
enum Memory {
    Plain(Vec<u8>),
    Huge(MmapMut),
}

impl Default for Memory {
    fn default() -> Self {
        Self::Plain(Vec::new())
    }
}

impl Memory {
    /// So many bytes with a page more, a huge one if that is wanted and there is memory for it.
    fn with_room(bytes: usize, is_huge: bool) -> Self {
        if is_huge && let Ok(pages) = MmapMut::map_anon(bytes + HUGE_PAGE_BYTES) {
            // A system without huge pages has small ones.
            let _ = pages.advise(Advice::HugePage);
            return Self::Huge(pages);
        }
        Self::Plain(vec![0; bytes + PAGE_BYTES])
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Huge(pages) => pages,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Huge(pages) => pages,
        }
    }

    /// Where the first page begins.
    fn start(&self) -> usize {
        let page = match self {
            Self::Plain(_) => PAGE_BYTES,
            Self::Huge(_) => HUGE_PAGE_BYTES,
        };
        let start = self.bytes().as_ptr().align_offset(page);
        // The offset may be unknown by its contract; it is less than a page otherwise.
        if start < page { start } else { 0 }
    }
}

/// Bytes whose first one lies at the start of a page.
#[derive(Debug, Default)]
pub struct Buffer {
    memory: Memory,
    /// The memory's class, if it is kept for the next buffer.
    class: Option<usize>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// A buffer of so many bytes of arbitrary content.
    #[must_use]
    pub fn with_length(length: usize) -> Self {
        let largest = CLASSES[CLASSES.len() - 1].bytes;
        let is_filled = length <= largest && length + UNFILLED_MAX_BYTES >= largest;
        Self::new(length, is_filled)
    }

    /// As [`with_length`](Self::with_length), to read past the page cache into it.
    #[must_use]
    pub fn for_disk(length: usize) -> Self {
        Self::new(length, length >= HUGE_MIN_BYTES)
    }

    fn new(length: usize, is_huge: bool) -> Self {
        let class = CLASSES
            .iter()
            .position(|class| class.is_huge == is_huge && length <= class.bytes)
            .filter(|_| length > KEPT_MIN_BYTES);
        let memory = class
            .and_then(|class| POOLS[class].lock().ok()?.pop())
            .unwrap_or_else(|| {
                let room = class.map_or(length, |class| CLASSES[class].bytes);
                Memory::with_room(room, is_huge)
            });
        Self {
            start: memory.start(),
            memory,
            class,
            length,
        }
    }

    /// Keeps the first bytes only.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(class) = self.class
            && let Ok(mut pool) = POOLS[class].lock()
            && pool.len() < CLASSES[class].kept
        {
            pool.push(std::mem::take(&mut self.memory));
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.bytes()[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory.bytes_mut()[self.start..self.start + self.length]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Takes the bytes as they lie.
impl From<Vec<u8>> for Buffer {
    fn from(memory: Vec<u8>) -> Self {
        Self {
            length: memory.len(),
            start: 0,
            class: None,
            memory: Memory::Plain(memory),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_any_length_begin_at_a_page() {
        for length in [0, 1, 5000, 70_000, 262_144, 262_145, 4 << 20, (4 << 20) + 1] {
            for make in [Buffer::with_length, Buffer::for_disk, Buffer::with_length] {
                let mut buffer = make(length);
                assert_eq!(buffer.len(), length);
                assert_eq!(buffer.as_ptr() as usize % PAGE_BYTES, 0);
                buffer.fill(7);
                buffer.truncate(3);
                assert_eq!(buffer.len(), length.min(3));
            }
        }
    }

    /// What `/proc/self/smaps` says of the memory of a buffer, as far as it says that.
    fn flags(buffer: &Buffer) -> Option<String> {
        let maps = std::fs::read_to_string("/proc/self/smaps").ok()?;
        let at = buffer.as_ptr() as usize;
        let mut is_it = false;
        for line in maps.lines() {
            let range = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            let ends =
                range.map(|(begin, end)| [begin, end].map(|end| usize::from_str_radix(end, 16)));
            match ends {
                Some([Ok(begin), Ok(end)]) => is_it = (begin..end).contains(&at),
                _ if is_it && line.starts_with("VmFlags:") => return Some(line.to_owned()),
                _ => {}
            }
        }
        None
    }

    #[test]
    fn what_a_disk_reads_into_asks_for_huge_pages_and_begins_at_one() {
        for (length, is_huge) in [(2 << 20, true), (4 << 20, true), (64 << 10, false)] {
            let mut buffer = Buffer::for_disk(length);
            buffer.fill(1);
            // A kernel without huge pages does not know the flag.
            if std::path::Path::new("/sys/kernel/mm/transparent_hugepage/enabled").exists() {
                let flags = flags(&buffer).unwrap();
                assert_eq!(
                    flags.split(' ').any(|flag| flag == "hg"),
                    is_huge,
                    "{flags}"
                );
            }
            let is_aligned = (buffer.as_ptr() as usize).is_multiple_of(HUGE_PAGE_BYTES);
            assert!(is_aligned || !is_huge, "{length}");
        }
    }

    #[test]
    fn a_vector_becomes_a_buffer_with_its_bytes() {
        assert_eq!(&Buffer::from(vec![1, 2, 3])[..], [1, 2, 3]);
        assert!(Buffer::default().is_empty());
    }
}
