//! Own blocks that are needed once more, here and there in a file.

use std::fs::File;
use std::io;

use crate::buffer::Buffer;
use crate::compare::blocks::Placed;
use crate::disk::read::{read_if_cached, read_padded};

/// Most that is read at once for blocks which are near one another.
const NEAR_BYTES: u32 = 1024 * 1024;

/// So many runs of them, at least, are read with what lies between them: a disk is as fast with that as with each alone.
const NEAR_MIN: usize = 3;

/// A part of a file that was read for several runs of blocks.
#[derive(Default)]
pub struct Near {
    bytes: Buffer,
    offset: u64,
}

impl Near {
    /// The bytes of a run, which is at `offset` in the file. `next` are the runs behind it.
    ///
    /// # Errors
    /// The system's error.
    pub fn take<'a>(
        &mut self,
        file: &File,
        offset: u64,
        run: &Placed,
        next: impl Iterator<Item = &'a Placed>,
    ) -> io::Result<&mut [u8]> {
        let length = run.bytes as usize;
        let is_read = |near: &Self| {
            let at = usize::try_from(offset.checked_sub(near.offset)?).ok()?;
            (at + length <= near.bytes.len()).then_some(at)
        };
        let at = match is_read(self) {
            Some(at) => at,
            None => {
                self.offset = offset;
                self.bytes = Buffer::with_length(length);
                if !read_if_cached(file, offset, &mut self.bytes) {
                    self.bytes = Buffer::for_disk(near_bytes(run, next) as usize);
                    read_padded(file, offset, &mut self.bytes)?;
                }
                0
            }
        };
        Ok(&mut self.bytes[at..at + length])
    }
}

/// How much is read for a run of blocks with those that follow.
fn near_bytes<'a>(run: &Placed, next: impl Iterator<Item = &'a Placed>) -> u32 {
    let ends = next
        .take_while(|next| next.span == run.span)
        .map(|next| next.offset + next.bytes - run.offset)
        .take_while(|bytes| *bytes <= NEAR_BYTES);
    let (count, last) = ends.fold((1, run.bytes), |(count, _), bytes| (count + 1, bytes));
    if count < NEAR_MIN { run.bytes } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_are_near_are_read_together_and_lone_ones_alone() {
        let run = |span, offset| Placed {
            span,
            offset,
            bytes: 8192,
        };
        let near = |runs: &[Placed]| near_bytes(&runs[0], runs[1..].iter());
        let mib = NEAR_BYTES;
        assert_eq!(near(&[run(0, 0)]), 8192);
        assert_eq!(near(&[run(0, 0), run(0, 16384)]), 8192);
        assert_eq!(near(&[run(0, 8192), run(0, 24576), run(0, 65536)]), 65536);
        // Of another span, and too far away.
        assert_eq!(near(&[run(0, 0), run(0, 16384), run(1, 24576)]), 8192);
        assert_eq!(near(&[run(0, 0), run(0, 16384), run(0, mib)]), 8192);
        assert_eq!(near(&[run(0, 0), run(0, 16384), run(0, mib - 8192)]), mib);
    }
}
