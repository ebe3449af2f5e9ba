//! Writing verified bytes so that the disk is at work while more arrives: what waited for the sync at the end
//! would be written when everybody waits for it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::dontcache::{self, let_go};
use super::root::Roots;
use super::{DiskError, direct};
use crate::digest::Verified;
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
    /// Writes pieces at their offsets, which are in order.
    ///
    /// # Errors
    /// The system's error, such as a full disk.
    pub fn write(&self, pieces: &[(u64, VerifiedPart<'_>)]) -> Result<(), DiskError> {
        let end_of = |(offset, bytes): &(u64, VerifiedPart<'_>)| offset + bytes.0.len() as u64;
        let (first, end) = match pieces {
            [] => return Ok(()),
            [first, ..] => (first.0, pieces.last().map_or(first.0, end_of)),
        };
        let written: u64 = pieces.iter().map(|(_, bytes)| bytes.0.len() as u64).sum();
        let is_dense = pieces.len() > 1 && written.saturating_mul(DENSE) >= end - first;
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
        let written: io::Result<()> = if self.is_early { aside(write) } else { write() };
        written.map_err(|error| DiskError::new("write", &self.roots.display(self.path), error))
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
