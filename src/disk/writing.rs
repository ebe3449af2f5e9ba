//! Writing verified bytes so that the disk is at work while more arrives: what waited for the sync at the end
//! would be written when everybody waits for it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::dontcache::{self, let_go};
use super::read::{is_hole, read_padded};
use super::root::Roots;
use super::{DiskError, direct};
use crate::buffer::Buffer;
use crate::digest::Verified;
use crate::geometry::Span;
use crate::path::RelPath;
use crate::turns::aside;

/// Files below this length are left to the sync at the end, which writes many of them in one go.
pub(super) const EARLY_MIN_BYTES: u64 = 1024 * 1024;

/// Where so much of a stretch is written, or more, the disk is better told once than piece by piece.
const DENSE: u64 = 4;

/// Writes to one file.
#[derive(Debug)]
pub struct Writing<'a> {
    pub(super) file: &'a File,
    pub(super) path: &'a RelPath,
    pub(super) roots: &'a Roots,
    pub(super) is_early: bool,
}

impl Writing<'_> {
    /// Writes pieces at their offsets, which are in order. Returns how many bytes they have.
    ///
    /// # Errors
    /// The system's error, such as a full disk.
    pub fn write(&self, pieces: &[(u64, VerifiedPart<'_>)]) -> Result<u64, DiskError> {
        let Some(Stretch {
            first,
            end,
            written,
            is_dense,
        }) = stretch(pieces)
        else {
            return Ok(0);
        };
        let write = || {
            pieces.iter().try_for_each(|(offset, bytes)| {
                if self.is_early && !is_dense {
                    write_through(self.file, *offset, bytes.0)
                } else {
                    self.file.write_all_at(bytes.0, *offset)
                }
            })?;
            if self.is_early && is_dense {
                // This drops the pages between the pieces too; so few are left that nobody misses them.
                let_go(self.file, first, end - first);
            }
            Ok(())
        };
        // What stays in memory for now waits for nobody.
        let result: io::Result<()> = if self.is_early { aside(write) } else { write() };
        result.map_err(|error| DiskError::new("write", &self.roots.display(self.path), error))?;
        Ok(written)
    }

    /// The error of reading the file.
    pub fn unread(&self, error: io::Error) -> DiskError {
        DiskError::new("read", &self.roots.display(self.path), error)
    }

    /// Writes those places of a held part that were changed, in order, given by their offsets in `held` and lengths. Where
    /// they are dense and cover much, that is one write with what lies between them. `begin` is where they are counted
    /// from, in `held` and in the file. Returns how many bytes were written.
    ///
    /// # Errors
    /// The system's error, such as a full disk.
    pub fn write_held(
        &self,
        held: &Held,
        changed: &[(usize, usize)],
        begin: (usize, u64),
    ) -> Result<u64, DiskError> {
        let piece = |&(at, length): &(usize, usize)| {
            let offset = begin.1 + (at - begin.0) as u64;
            (offset, VerifiedPart(&held.0[at..at + length]))
        };
        let pieces: Vec<_> = changed.iter().map(piece).collect();
        let is_one = stretch(&pieces).is_some_and(|stretch| {
            stretch.is_dense && stretch.end - stretch.first >= direct::MIN_BYTES as u64
        });
        match (changed, is_one) {
            ([(first, _), .., (last, length)], true) => {
                self.write(&[piece(&(*first, last + length - first))])
            }
            _ => self.write(&pieces),
        }
    }
}

/// What pieces of a file cover.
struct Stretch {
    first: u64,
    end: u64,
    /// Bytes of the pieces.
    written: u64,
    is_dense: bool,
}

/// Of pieces in order.
fn stretch(pieces: &[(u64, VerifiedPart<'_>)]) -> Option<Stretch> {
    let (first, (last, bytes)) = (pieces.first()?.0, pieces.last()?);
    let end = last + bytes.0.len() as u64;
    let written: u64 = pieces.iter().map(|(_, bytes)| bytes.0.len() as u64).sum();
    Some(Stretch {
        first,
        end,
        written,
        is_dense: pieces.len() > 1 && written.saturating_mul(DENSE) >= end - first,
    })
}

/// What the target has in some parts of its files, one after the other: in memory until it is what the source has, so that
/// it need not be read once more.
#[derive(Debug)]
pub struct Held(Buffer);

impl Held {
    /// Room for so many bytes.
    #[must_use]
    pub fn with_length(bytes: usize) -> Self {
        Self(Buffer::for_disk(bytes))
    }

    /// Reads a part of a file to `at`, and returns it. What lies beyond the file's end is zero.
    ///
    /// # Errors
    /// The system's error.
    pub fn read(&mut self, at: usize, file: &File, span: &Span) -> io::Result<&[u8]> {
        let part = &mut self.0[at..at + span.bytes as usize];
        if is_hole(file, span.offset, span.bytes) {
            part.fill(0);
        } else {
            read_padded(file, span.offset, part)?;
        }
        Ok(part)
    }

    /// So many bytes at a place; `None` where there are fewer.
    #[must_use]
    pub fn get(&self, at: usize, length: usize) -> Option<&[u8]> {
        self.0.get(at..at.checked_add(length)?)
    }

    /// Puts verified bytes to a place. `None` where there is no room for them.
    pub fn put(&mut self, at: usize, part: VerifiedPart<'_>) -> Option<()> {
        let to = self.0.get_mut(at..at.checked_add(part.0.len())?)?;
        to.copy_from_slice(part.0);
        Some(())
    }
}

/// Writes, and has the disk begin at once.
fn write_through(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    loop {
        match direct::write(file, offset + done as u64, &bytes[done..])? {
            0 => break,
            count => done += count,
        }
    }
    while done < bytes.len() {
        let (rest, at) = (&bytes[done..], offset + done as u64);
        let written = match dontcache::flag() {
            Some(flag) => rustix::io::pwritev2(file, &[IoSlice::new(rest)], at, flag),
            None => Err(Errno::OPNOTSUPP),
        };
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                file.write_all_at(rest, at)?;
                let_go(file, at, rest.len() as u64);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A part of verified bytes.
#[derive(Debug, Clone, Copy)]
pub struct VerifiedPart<'a>(&'a [u8]);

impl VerifiedPart<'_> {
    /// How many they are.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.len()
    }
}

impl<'a, T: AsRef<[u8]>> From<&'a Verified<T>> for VerifiedPart<'a> {
    fn from(whole: &'a Verified<T>) -> Self {
        Self(whole.bytes())
    }
}

/// Cuts verified bytes into the parts that a reply's blocks are, given their lengths in order.
///
/// Returns `None` when the lengths do not add up to what was sent.
#[must_use]
pub fn parts(
    bytes: &Verified<impl AsRef<[u8]>>,
    lengths: impl IntoIterator<Item = u32>,
) -> Option<Vec<VerifiedPart<'_>>> {
    let mut rest = bytes.bytes();
    let mut parts = Vec::new();
    for length in lengths {
        let (part, behind) = rest.split_at_checked(length as usize)?;
        parts.push(VerifiedPart(part));
        rest = behind;
    }
    rest.is_empty().then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::SessionKey;
    use crate::geometry::EntryId;

    const KEY: SessionKey = SessionKey([3; 32]);
    const LENGTH: usize = 4 << 20;
    const BLOCK: usize = 8192;

    /// Puts new blocks in the place of these of a held part that begins behind so many bytes of a file, and writes them:
    /// whether the file is right then, and how many bytes were written.
    fn written(blocks: &[usize], behind: usize) -> (bool, u64) {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = RelPath::parse(b"f").unwrap();
        let mut content: Vec<u8> = (0..=250).cycle().take(behind + LENGTH + 77).collect();
        std::fs::write(dir.path().join("f"), &content).unwrap();
        let file = File::options()
            .read(true)
            .write(true)
            .open(dir.path().join("f"))
            .unwrap();
        let span = Span {
            entry: EntryId(0),
            offset: behind as u64,
            bytes: u32::try_from(LENGTH).unwrap(),
        };
        // Another span's bytes come first.
        let start = BLOCK;
        let mut held = Held::with_length(start + LENGTH);
        assert_eq!(
            held.read(start, &file, &span).unwrap(),
            &content[behind..][..LENGTH]
        );
        let new = [0xee; BLOCK];
        let new = Verified::check(&KEY, &new[..], KEY.digest(&new)).unwrap();
        let mut changed = Vec::new();
        for block in blocks {
            held.put(start + block * BLOCK, (&new).into()).unwrap();
            changed.push((start + block * BLOCK, BLOCK));
            content[behind + block * BLOCK..][..BLOCK].fill(0xee);
        }
        assert!(held.put(start + LENGTH, (&new).into()).is_none());
        let writing = Writing {
            file: &file,
            path: &path,
            roots: &Roots::open(dir.path(), []).unwrap(),
            is_early: true,
        };
        let bytes = writing
            .write_held(&held, &changed, (start, span.offset))
            .unwrap();
        (
            std::fs::read(dir.path().join("f")).unwrap() == content,
            bytes,
        )
    }

    #[test]
    fn what_is_dense_is_written_as_one_and_what_is_not_by_itself() {
        let every = |step| (3..LENGTH / BLOCK).step_by(step).collect::<Vec<_>>();
        for behind in [0, BLOCK, 512] {
            assert_eq!(
                written(&every(2), behind),
                (true, (LENGTH - 3 * BLOCK) as u64)
            );
            let few = every(50);
            assert_eq!(written(&few, behind), (true, (few.len() * BLOCK) as u64));
            assert_eq!(written(&[7], behind), (true, BLOCK as u64));
            assert_eq!(written(&[], behind), (true, 0));
        }
    }
}
