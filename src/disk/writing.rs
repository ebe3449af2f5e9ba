//! Writing verified bytes so that the disk is at work while more arrives: what waited for the sync at the end
//! would be written when everybody waits for it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::Advice;
use rustix::io::Errno;

use super::root::Roots;
use super::{DiskError, dontcache};
use crate::digest::Verified;
use crate::geometry::EXTENT_BYTES;
use crate::path::RelPath;

/// Files below this length are left to the sync at the end, which writes many of them in one go.
const EARLY_MIN_BYTES: u64 = 1024 * 1024;

/// Writes to one file.
#[derive(Debug)]
pub struct Writing<'a> {
    file: &'a File,
    path: &'a RelPath,
    roots: &'a Roots,
    is_early: bool,
    /// From the first to behind the last byte that the kernel holds back.
    held_back: Option<(u64, u64)>,
}

impl<'a> Writing<'a> {
    /// `is_early`: have the disk begin at once.
    pub(super) fn new(file: &'a File, path: &'a RelPath, roots: &'a Roots, is_early: bool) -> Self {
        let is_long = || {
            file.metadata()
                .is_ok_and(|found| found.len() >= EARLY_MIN_BYTES)
        };
        Self {
            file,
            path,
            roots,
            is_early: is_early && is_long(),
            held_back: None,
        }
    }

    /// Writes at an offset.
    ///
    /// # Errors
    /// The system's error, such as a full disk.
    pub fn write_at(&mut self, offset: u64, bytes: VerifiedPart<'_>) -> Result<(), DiskError> {
        let bytes = bytes.0;
        let failed =
            |error: io::Error| DiskError::new("write", &self.roots.display(self.path), error);
        if self.is_early && bytes.len() >= EXTENT_BYTES as usize {
            return write_through(self.file, offset, bytes).map_err(failed);
        }
        self.file.write_all_at(bytes, offset).map_err(failed)?;
        let end = offset + bytes.len() as u64;
        let (first, last) = self.held_back.unwrap_or((offset, end));
        self.held_back = Some((first.min(offset), last.max(end)));
        Ok(())
    }

    /// Has the disk begin with what was written in small pieces.
    pub fn end(self) {
        if let (Some((first, last)), true) = (self.held_back, self.is_early) {
            begin(self.file, first, last - first);
        }
    }
}

/// Writes, and has the disk begin at once.
fn write_through(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
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
                begin(file, at, rest.len() as u64);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Has the disk begin with what is dirty in a part of the file, without waiting, and drops what is not (Linux
/// `mm/fadvise.c`). Only advice: the sync at the end is what counts.
fn begin(file: &File, offset: u64, length: u64) {
    let length = NonZeroU64::new(length);
    let _ = rustix::fs::fadvise(file, offset, length, Advice::DontNeed);
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
