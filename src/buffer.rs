//! Memory for the bytes of files: aligned to pages, used again and again.
//!
//! Where a destination lies a few bytes behind its source within a page, a copy by `rep movsb` (glibc's and the
//! kernel's way for long copies) is several times slower on some processors (measured on Zen 3: a cached read
//! into a buffer 16 bytes behind a page's start at 2.6 instead of 15 GiB/s; glibc bug 30994). That is just where
//! an ordinary large vector begins. And fresh memory costs a page fault for each of its pages.
//!
//! Large buffers are asked for in huge pages: a disk writes straight into the memory of a direct read, and for each
//! page that lies apart it is told so, up to a number of pages in a request (measured on a virtual disk that takes 254:
//! 1 MiB at a time 0.75 GB/s into pages of 4 KiB, 1.75 GB/s into huge ones).

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use memmap2::{Advice, MmapMut};

/// Size of a page of memory on nearly all machines; another one costs speed only.
const PAGE_BYTES: usize = 4096;

/// Size of a huge page where pages have 4 KiB; another one costs speed only.
const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Lengths of memory that is kept for the next buffer.
const CLASSES: [usize; 3] = [256 * 1024, 1024 * 1024, 4 * 1024 * 1024];

/// Classes from this length on are made of huge pages.
const HUGE_MIN_BYTES: usize = 1024 * 1024;

/// Most pieces of memory of each class that are kept: of the smallest, as many as threads read.
const KEPT: [usize; CLASSES.len()] = [16, 8, 8];

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
    /// So many bytes with a page more, or with a huge one where there is memory for that.
    fn with_room(bytes: usize) -> Self {
        if bytes >= HUGE_MIN_BYTES
            && let Ok(pages) = MmapMut::map_anon(bytes + HUGE_PAGE_BYTES)
        {
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
        let class = CLASSES
            .iter()
            .position(|class| length <= *class && length > CLASSES[0] / 4);
        let memory = class
            .and_then(|class| POOLS[class].lock().ok()?.pop())
            .unwrap_or_else(|| Memory::with_room(class.map_or(length, |class| CLASSES[class])));
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
            && pool.len() < KEPT[class]
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
            for _ in 0..2 {
                let mut buffer = Buffer::with_length(length);
                assert_eq!(buffer.len(), length);
                assert_eq!(buffer.as_ptr() as usize % PAGE_BYTES, 0);
                buffer.fill(7);
                buffer.truncate(3);
                assert_eq!(buffer.len(), length.min(3));
            }
        }
    }

    #[test]
    fn a_vector_becomes_a_buffer_with_its_bytes() {
        assert_eq!(&Buffer::from(vec![1, 2, 3])[..], [1, 2, 3]);
        assert!(Buffer::default().is_empty());
    }
}
