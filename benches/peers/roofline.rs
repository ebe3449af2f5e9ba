//! What this machine can do at best for a shape: the time that pg_reseed is held against.
//!
//! **Definition.** One program on one machine that knows beforehand which blocks differ. It lists both
//! trees; workers read every relation of both trees with positional reads and digest them with keyed BLAKE3,
//! 64 KiB at a time. With a warm cache there are as many as cores, and they read 256 KiB at a time; with a cold one
//! it is tried beforehand what suits the disk best, see [`Way`]. From the same buffers they send the differing
//! blocks once over TCP on loopback, or over the link of the shape, there compressed with zstd:1; as many
//! receivers write them where they belong, into the files that are there or into new ones; at the end one
//! syncfs. All of it overlaps as well as the machine lets it. An empty target has nothing to read: then the
//! source's bytes are read and digested once, on their way.
//!
//! There is no server in it, no backup, no WAL, no exchange of digests and no proof of what arrives: a
//! tool that is at 100 % cannot exist.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use pg_reseed::buffer::Buffer;
use rustix::fs::{Mode, OFlags};

use crate::Result;
use crate::cluster::Site;
use crate::host;
use crate::link::Link;
use crate::process::check_interrupted;
use crate::results::Sample;
use crate::trees::{BLOCK_BYTES, Difference, Differences, Piece, pieces, read_full, relations};

const RECEIVE_BYTES: usize = 256 << 10;
const DIGEST_BYTES: usize = 64 << 10;
/// Less of a file is not read past the cache.
const DIRECT_MIN: u64 = 256 << 10;
/// Of direct reads.
const ALIGNMENT: usize = 4096;
/// Any key: it costs the same.
const KEY: [u8; 32] = [7; 32];

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Past the page cache.
    is_direct: bool,
    /// By how many workers, and so how many reads are in flight.
    workers: usize,
    /// Bytes of a read.
    bytes: usize,
}

impl Way {
    /// What is cached is read and digested by as many workers as there are cores.
    pub fn warm() -> Self {
        Self {
            is_direct: false,
            workers: host::cores(),
            bytes: 256 << 10,
        }
    }

    /// What may be the best with a cold cache: through the cache and past it, with few and with many in flight.
    pub fn cold() -> Vec<Self> {
        let mut ways = vec![Self::warm()];
        for workers in [4, 8, 16, 32] {
            for (is_direct, bytes) in [
                (false, 256 << 10),
                (false, 4 << 20),
                (true, 1 << 20),
                (true, 4 << 20),
            ] {
                ways.push(Self {
                    is_direct,
                    workers,
                    bytes,
                });
            }
        }
        ways
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = if self.is_direct { "direct" } else { "buffered" };
        write!(
            f,
            "{how}, {} in flight, {} KiB each",
            self.workers,
            self.bytes >> 10
        )
    }
}

/// Which parts of the work are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Read and digest both trees.
    Compare,
    /// Read the differing blocks, move and write them.
    Move,
    /// Both at once: the roofline.
    All,
}

/// What it works on.
pub struct Work<'a> {
    pub source: &'a Site,
    pub target: &'a Site,
    pub differences: &'a Differences,
    pub link: Option<&'a Link>,
    pub way: Way,
}

/// A piece of a file of one side.
struct Task<'a> {
    path: &'a Path,
    piece: Piece,
    /// The index of its difference, for a file of the source that has one.
    difference: Option<usize>,
    is_source: bool,
}

/// Does the work; returns its time and the CPU time of this process meanwhile, which is on no side.
pub fn run(work: &Work, part: Part) -> Result<Sample> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let own_port = listener.local_addr()?.port();
    let port = match work.link {
        Some(link) => link.open(own_port)?,
        None => own_port,
    };
    let cpu = host::own_cpu_seconds()?;
    let begin = Instant::now();
    if part != Part::Compare {
        make_room(work)?;
    }
    let ours = relations(work.source)?;
    let theirs = if work.target.data().exists() {
        relations(work.target)?
    } else {
        Vec::new()
    };
    let differing: HashMap<_, _> = work
        .differences
        .files
        .iter()
        .enumerate()
        .map(|(index, file)| (file.path.as_path(), index))
        .collect();
    let source = pieces(&ours).into_iter().map(|piece| {
        let path = ours[piece.entry].path.as_path();
        let difference = differing.get(path).copied();
        Task {
            path,
            piece,
            difference,
            is_source: true,
        }
    });
    let target = pieces(&theirs).into_iter().map(|piece| {
        let path = theirs[piece.entry].path.as_path();
        Task {
            path,
            piece,
            difference: None,
            is_source: false,
        }
    });
    let tasks: Vec<_> = if work.differences.same.is_empty() {
        // An empty target: what it gets needs no second reading.
        source.collect()
    } else {
        alternate(source, target)
    };
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let hands: Vec<_> = (0..work.way.workers)
            .map(|_| {
                scope.spawn(|| {
                    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
                    work_on(work, part, &tasks, &next, &socket)
                })
            })
            .collect();
        let receivers: Vec<_> = (0..work.way.workers)
            .map(|_| {
                scope.spawn(|| {
                    let (socket, _) = listener.accept()?;
                    receive(work, socket)
                })
            })
            .collect();
        for thread in hands.into_iter().chain(receivers) {
            thread
                .join()
                .map_err(|_| "a thread of the roofline panicked")??;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    if part != Part::Compare {
        rustix::fs::syncfs(File::open(work.target.folder())?)?;
    }
    check_interrupted()?;
    Ok(Sample {
        seconds: begin.elapsed().as_secs_f64(),
        cpu_seconds: Some([host::own_cpu_seconds()? - cpu, 0.0]),
        ..Sample::default()
    })
}

/// Takes from both in turn, so that both sides are worked on from the beginning.
fn alternate<'a>(
    mut first: impl Iterator<Item = Task<'a>>,
    mut second: impl Iterator<Item = Task<'a>>,
) -> Vec<Task<'a>> {
    let mut all = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair.iter().all(Option::is_none) {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

/// Removes, shortens and makes directories: what is not the moving of blocks.
fn make_room(work: &Work) -> Result<()> {
    let root = work.target.data();
    if !root.exists() {
        fs::create_dir_all(&root)?;
        for (oid, name, _) in work.source.space_oids()? {
            let space = work.target.folder().join(name);
            fs::create_dir_all(&space)?;
            fs::create_dir_all(root.join("pg_tblspc"))?;
            std::os::unix::fs::symlink(space, root.join("pg_tblspc").join(oid))?;
        }
    }
    for path in &work.differences.extra {
        let path = root.join(path);
        // Gone already when the same work is done again.
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    let mut made = PathBuf::new();
    for Difference {
        path,
        length,
        target_length,
        ..
    } in &work.differences.files
    {
        let path = root.join(path);
        match target_length {
            Some(other) if other != length => {
                File::options().write(true).open(path)?.set_len(*length)?;
            }
            Some(_) => {}
            None => {
                if let Some(parent) = path.parent().filter(|parent| *parent != made) {
                    fs::create_dir_all(parent)?;
                    parent.clone_into(&mut made);
                }
                // Also where no block will come.
                File::create(path)?;
            }
        }
    }
    Ok(())
}

fn work_on(
    work: &Work,
    part: Part,
    tasks: &[Task],
    next: &AtomicUsize,
    mut socket: &TcpStream,
) -> Result<()> {
    let way = work.way;
    let mut buffer = Buffer::with_length(way.bytes);
    let mut message = Vec::new();
    let mut compressor = match work.link {
        Some(_) => Some(zstd::bulk::Compressor::new(1)?),
        None => None,
    };
    while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
        let blocks = task
            .difference
            .map_or(&[][..], |at| &work.differences.files[at].blocks);
        if part == Part::Move && blocks.is_empty() {
            continue;
        }
        let site = if task.is_source {
            work.source
        } else {
            work.target
        };
        // A file of the target may be in the act of being replaced.
        let is_direct = way.is_direct && task.piece.end - task.piece.start >= DIRECT_MIN;
        let flags = if is_direct {
            OFlags::DIRECT
        } else {
            OFlags::empty()
        };
        let opened = rustix::fs::open(
            site.data().join(task.path),
            OFlags::RDONLY | flags,
            Mode::empty(),
        );
        let Ok(file) = opened.map(File::from) else {
            continue;
        };
        let mut at = task.piece.start;
        while at < task.piece.end {
            let wanted = usize::try_from(task.piece.end - at)?.min(way.bytes);
            let block = at / BLOCK_BYTES as u64;
            let end = (at + wanted as u64).div_ceil(BLOCK_BYTES as u64);
            let blocks = &blocks
                [blocks.partition_point(|b| *b < block)..blocks.partition_point(|b| *b < end)];
            if part == Part::Move && blocks.is_empty() {
                at += wanted as u64;
                continue;
            }
            let have = if is_direct {
                let asked = wanted.next_multiple_of(ALIGNMENT);
                file.read_at(&mut buffer[..asked], at)?.min(wanted)
            } else {
                read_full(&file, &mut buffer[..wanted], at)?
            };
            if part != Part::Move {
                for extent in buffer[..have].chunks(DIGEST_BYTES) {
                    std::hint::black_box(blake3::keyed_hash(&KEY, extent));
                }
            }
            if part != Part::Compare && !blocks.is_empty() {
                let difference = task.difference.unwrap_or_default();
                write_message(
                    &mut message,
                    difference,
                    at,
                    &buffer[..have],
                    blocks,
                    compressor.as_mut(),
                )?;
                socket.write_all(&message)?;
            }
            if have < wanted {
                break;
            }
            at += have as u64;
        }
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    Ok(())
}

/// Header: index of the file, number of blocks, length of what follows, whether it is compressed; then the
/// numbers of the blocks, then their bytes.
fn write_message(
    message: &mut Vec<u8>,
    difference: usize,
    at: u64,
    buffer: &[u8],
    blocks: &[u64],
    compressor: Option<&mut zstd::bulk::Compressor>,
) -> Result<()> {
    message.clear();
    message.extend(u32::try_from(difference)?.to_le_bytes());
    message.extend(u32::try_from(blocks.len())?.to_le_bytes());
    message.extend([0; 8]);
    for block in blocks {
        message.extend(block.to_le_bytes());
    }
    let start = message.len();
    for block in blocks {
        let from = usize::try_from(block * BLOCK_BYTES as u64 - at)?.min(buffer.len());
        let to = (from + BLOCK_BYTES).min(buffer.len());
        message.extend_from_slice(&buffer[from..to]);
    }
    let plain = message.len() - start;
    if let Some(compressor) = compressor {
        let packed = compressor.compress(&message[start..])?;
        message.truncate(start);
        message.extend(packed);
    }
    let packed = message.len() - start;
    message[8..12].copy_from_slice(&u32::try_from(plain)?.to_le_bytes());
    message[12..16].copy_from_slice(&u32::try_from(packed)?.to_le_bytes());
    Ok(())
}

fn receive(work: &Work, socket: TcpStream) -> Result<()> {
    let mut socket = BufReader::with_capacity(RECEIVE_BYTES, socket);
    let mut bytes = Vec::new();
    let mut opened: Option<(u32, File)> = None;
    let mut decompressor = zstd::bulk::Decompressor::new()?;
    loop {
        let mut header = [0; 16];
        match socket.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (difference, count, plain, packed) = (number(0), number(4), number(8), number(12));
        let mut blocks = vec![0; count as usize * 8];
        socket.read_exact(&mut blocks)?;
        bytes.resize(packed as usize, 0);
        socket.read_exact(&mut bytes)?;
        if work.link.is_some() {
            bytes = decompressor.decompress(&bytes, plain as usize)?;
        }
        let file = match &mut opened {
            Some((which, file)) if *which == difference => file,
            other => {
                let path = &work.differences.files[difference as usize].path;
                let file = File::options()
                    .write(true)
                    .open(work.target.data().join(path))?;
                &mut other.insert((difference, file)).1
            }
        };
        let blocks = blocks.chunks_exact(8).map(|number| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(number);
            u64::from_le_bytes(bytes)
        });
        write_blocks(file, &blocks.collect::<Vec<_>>(), &bytes)?;
    }
}

/// Writes blocks, those that follow each other at once.
fn write_blocks(file: &File, blocks: &[u64], mut bytes: &[u8]) -> Result<()> {
    for run in blocks.chunk_by(|a, b| a + 1 == *b) {
        let (now, later) = bytes.split_at(bytes.len().min(run.len() * BLOCK_BYTES));
        file.write_all_at(now, run[0] * BLOCK_BYTES as u64)?;
        bytes = later;
    }
    Ok(())
}
