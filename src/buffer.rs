//! Memory for the bytes of files: aligned to pages, used again and again.
//!
//! Where a destination lies a few bytes behind its source within a page, a copy by `rep movsb` (glibc's and the
//! kernel's way for long copies) is several times slower on some processors (measured on Zen 3: a cached read
//! into a buffer 16 bytes behind a page's start at 2.6 instead of 15 GiB/s; glibc bug 30994). That is just where
//! an ordinary large vector begins. And fresh memory costs a page fault for each of its pages.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// Size of a page of memory on nearly all machines; another one costs speed only.
const PAGE_BYTES: usize = 4096;

/// Lengths of memory that is kept for the next buffer.
const CLASSES: [usize; 3] = [256 * 1024, 1024 * 1024, 4 * 1024 * 1024];

/// Most pieces of memory of each class that are kept: of those that are read into, as many as threads read.
const KEPT: [usize; CLASSES.len()] = [16, 16, 8];

static POOLS: [Mutex<Vec<Vec<u8>>>; CLASSES.len()] =
    [const { Mutex::new(Vec::new()) }; CLASSES.len()];

/// Bytes whose first one lies at the start of a page.
#[derive(Debug, Default)]
pub struct Buffer {
    memory: Vec<u8>,
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
        let room = class.map_or(length, |class| CLASSES[class]);
        let memory = class
            .and_then(|class| POOLS[class].lock().ok()?.pop())
            .unwrap_or_else(|| vec![0; room + PAGE_BYTES]);
        let start = memory.as_ptr().align_offset(PAGE_BYTES);
        Self {
            // The offset may be unknown by its contract; it is less than a page otherwise.
            start: if start < PAGE_BYTES { start } else { 0 },
            memory,
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
        let room = self.memory.len().wrapping_sub(PAGE_BYTES);
        if let Some(class) = CLASSES.iter().position(|class| *class == room)
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
        &self.memory[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
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
            memory,
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
