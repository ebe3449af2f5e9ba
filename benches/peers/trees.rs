//! What two data directories hold, and where they differ: by reading every byte of both.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::Result;
use crate::cluster::Site;

pub const BLOCK_BYTES: usize = 8192;
/// Large files are divided, so that all cores have a part of each.
const PIECE_BYTES: u64 = 8 << 20;
const READ_BYTES: usize = 256 << 10;
/// Of zstd, where a measure for what must travel is wanted.
const LEVEL: i32 = 1;

/// A file of a data directory or of one of its tablespaces.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Below the data directory; tablespaces are seen through their links in pg_tblspc.
    pub path: PathBuf,
    pub length: u64,
}

/// A run of bytes of one file of a listing.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub entry: usize,
    pub start: u64,
    pub end: u64,
}

/// All files of a data directory and its tablespaces, in order.
pub fn files(site: &Site) -> Result<Vec<Entry>> {
    let mut all = Vec::new();
    walk(&site.data(), Path::new(""), &mut all)?;
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

fn walk(root: &Path, below: &Path, all: &mut Vec<Entry>) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let is_space = below == Path::new("pg_tblspc");
        if is_space || entry.file_type()?.is_dir() {
            walk(root, &path, all)?;
        } else if entry.file_type()?.is_file() {
            // A running server may remove a file meanwhile.
            if let Ok(metadata) = entry.metadata() {
                let length = metadata.len();
                all.push(Entry { path, length });
            }
        }
    }
    Ok(())
}

/// The files of relations: what a standby must have in common with its source, block by block.
pub fn relations(site: &Site) -> Result<Vec<Entry>> {
    let mut all = files(site)?;
    all.retain(|entry| is_relation(&entry.path));
    Ok(all)
}

fn is_relation(path: &Path) -> bool {
    let is_placed = ["base", "global", "pg_tblspc"]
        .iter()
        .any(|top| path.starts_with(top));
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let is_map = name == b"pg_filenode.map";
    is_placed && (is_map || name.first().is_some_and(u8::is_ascii_digit))
}

/// Divides files into pieces.
pub fn pieces(entries: &[Entry]) -> Vec<Piece> {
    let mut all = Vec::new();
    for (entry, Entry { length, .. }) in entries.iter().enumerate() {
        let mut start = 0;
        while start < *length {
            let end = length.min(&(start + PIECE_BYTES)).to_owned();
            all.push(Piece { entry, start, end });
            start = end;
        }
    }
    all
}

/// Reads every byte of a directory, with all cores, so that it is in the page cache.
pub fn read_all(site: &Site) -> Result<()> {
    let entries = files(site)?;
    let root = site.data();
    pieces(&entries).into_par_iter().try_for_each_init(
        || vec![0; READ_BYTES],
        |buffer, piece| {
            let Ok(file) = File::open(root.join(&entries[piece.entry].path)) else {
                return Ok(());
            };
            let mut at = piece.start;
            while at < piece.end {
                match file.read_at(buffer, at)? {
                    0 => break,
                    read => at += read as u64,
                }
            }
            Ok(())
        },
    )
}

/// How a file of the source is not as the target's.
#[derive(Debug, Clone)]
pub struct Difference {
    pub path: PathBuf,
    pub length: u64,
    /// None where the target has no such file.
    pub target_length: Option<u64>,
    /// Numbers of the blocks of the source that are different or absent in the target, in order.
    pub blocks: Vec<u64>,
}

/// Where relations of the target differ from the source's.
#[derive(Debug, Clone, Default)]
pub struct Differences {
    /// Files of the source that are not the same in the target.
    pub files: Vec<Difference>,
    /// Files of the source that are.
    pub same: Vec<PathBuf>,
    /// Files that only the target has.
    pub extra: Vec<PathBuf>,
    /// Blocks that were compared.
    pub compared_blocks: u64,
}

impl Differences {
    pub fn blocks(&self) -> u64 {
        self.files.iter().map(|file| file.blocks.len() as u64).sum()
    }

    pub fn is_none(&self) -> bool {
        self.files.is_empty() && self.extra.is_empty()
    }
}

/// Compares the relations of two directories whose servers are stopped or write nothing.
pub fn compare(source: &Site, target: &Site) -> Result<Differences> {
    let ours = relations(source)?;
    let theirs = if target.data().exists() {
        relations(target)?
    } else {
        Vec::new()
    };
    let find = |entries: &[Entry], path: &Path| {
        let at = entries.binary_search_by(|entry| entry.path.as_path().cmp(path));
        at.ok().map(|at| entries[at].length)
    };
    let found: Vec<Vec<u64>> = pieces(&ours)
        .into_par_iter()
        .map(|piece| blocks_of(source, target, &ours[piece.entry].path, piece))
        .collect::<Result<_>>()?;
    let mut blocks = vec![Vec::new(); ours.len()];
    for (piece, found) in pieces(&ours).into_iter().zip(found) {
        blocks[piece.entry].extend(found);
    }
    let mut differences = Differences::default();
    for (entry, blocks) in ours.iter().zip(blocks) {
        let Entry { path, length } = entry;
        differences.compared_blocks += length.div_ceil(BLOCK_BYTES as u64);
        let target_length = find(&theirs, path);
        if blocks.is_empty() && target_length == Some(*length) {
            differences.same.push(path.clone());
        } else {
            differences.files.push(Difference {
                path: path.clone(),
                length: *length,
                target_length,
                blocks,
            });
        }
    }
    let extra = theirs.into_iter().map(|entry| entry.path);
    differences.extra = extra.filter(|path| find(&ours, path).is_none()).collect();
    Ok(differences)
}

fn blocks_of(source: &Site, target: &Site, path: &Path, piece: Piece) -> Result<Vec<u64>> {
    let ours = File::open(source.data().join(path))?;
    let theirs = File::open(target.data().join(path)).ok();
    let (mut a, mut b) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
    let mut blocks = Vec::new();
    let mut at = piece.start;
    while at < piece.end {
        let wanted = usize::try_from(piece.end - at)?.min(READ_BYTES);
        let have = read_full(&ours, &mut a[..wanted], at)?;
        let theirs = match &theirs {
            Some(file) => read_full(file, &mut b[..wanted], at)?,
            None => 0,
        };
        for (number, block) in a[..have].chunks(BLOCK_BYTES).enumerate() {
            let start = number * BLOCK_BYTES;
            let other = b[..theirs].get(start..start + block.len());
            if other != Some(block) {
                blocks.push(at / BLOCK_BYTES as u64 + number as u64);
            }
        }
        if have < wanted {
            break;
        }
        at += have as u64;
    }
    Ok(blocks)
}

/// Reads until the buffer is full or the file ends; returns how much was read.
pub fn read_full(file: &File, buffer: &mut [u8], at: u64) -> Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match file.read_at(&mut buffer[have..], at + have as u64)? {
            0 => break,
            read => have += read,
        }
    }
    Ok(have)
}

/// Gives the files that are equal the same times, as they have them where the target was once made by
/// `rsync -a` and nobody wrote to them since: the best case of a quick check.
pub fn equal_times(source: &Site, target: &Site, same: &[PathBuf]) -> Result<()> {
    same.par_iter().try_for_each(|path| {
        let time = fs::metadata(source.data().join(path))?.modified()?;
        File::options()
            .write(true)
            .open(target.data().join(path))?
            .set_modified(time)?;
        Ok(())
    })
}

/// Bytes of the differing blocks by zstd:1, taken 64 KiB at a time, as they might travel.
pub fn compressed_bytes(source: &Site, differences: &Differences) -> Result<u64> {
    let each = differences.files.par_iter().map(|difference| {
        let file = File::open(source.data().join(&difference.path))?;
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        let mut bytes = 0;
        for blocks in difference.blocks.chunks(8) {
            let mut text = vec![0; blocks.len() * BLOCK_BYTES];
            let mut have = 0;
            for (place, block) in text.chunks_mut(BLOCK_BYTES).zip(blocks) {
                have += read_full(&file, place, block * BLOCK_BYTES as u64)?;
            }
            bytes += compressor.compress(&text[..have])?.len() as u64;
        }
        Ok(bytes)
    });
    let each = each.collect::<Result<Vec<u64>>>()?;
    Ok(each.iter().sum())
}

/// Bytes of the WAL that a directory holds by zstd:1: what a run had to fetch of it at least.
pub fn packed_wal_bytes(site: &Site) -> Result<u64> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    let mut bytes = 0;
    for entry in fs::read_dir(site.data().join("pg_wal"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let text = fs::read(entry.path())?;
            for extent in text.chunks(8 * BLOCK_BYTES) {
                bytes += compressor.compress(extent)?.len() as u64;
            }
        }
    }
    Ok(bytes)
}

/// How much of the files of a directory lies in the page cache, and their size.
pub fn cached_bytes(site: &Site) -> Result<(u64, u64)> {
    let entries = relations(site)?;
    let mut cached = 0;
    for some in entries.chunks(1000) {
        let mut fincore = std::process::Command::new("fincore");
        fincore.args(["--bytes", "--noheadings", "--output", "RES"]);
        fincore.args(some.iter().map(|entry| site.data().join(&entry.path)));
        for line in crate::process::done(&mut fincore)?.lines() {
            cached += line.trim().parse::<u64>()?;
        }
    }
    Ok((cached, entries.iter().map(|entry| entry.length).sum()))
}
