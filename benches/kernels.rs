//! The kernels that a run consists of, each alone and on one thread: how fast this machine could be if disks
//! and link cost nothing. `make bench-kernels`; `cargo test --bench kernels` runs each of them once.
//!
//! All input is painted from fixed seeds. Nothing is asserted about time. What an input shall be (so many
//! blocks differ, a page is valid) is asserted when it is made.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on fails")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use pg_reseed::buffer::Buffer;
use pg_reseed::compare::blocks::{Baseline, differing, digest_pieces, is_zero, keep_differing};
use pg_reseed::compare::noise::Forms;
use pg_reseed::compare::rolling;
use pg_reseed::digest::{DIGEST_BYTES, SessionKey};
use pg_reseed::geometry::{BitSet, EXTENT_BYTES, EntryId, RANGE_BYTES, SPANS_MAX, Span};
use pg_reseed::manifest::{EntryKind, Folder, Manifest};
use pg_reseed::path::RelPath;
use pg_reseed::pg::canonical::make_canonical;
use pg_reseed::pg::lsn::Lsn;
use pg_reseed::pg::page::{self, PageVerdict};
use pg_reseed::wire::codec::{self, HEADER_BYTES, Header};
use pg_reseed::wire::message::{Answer, Codec, Compression, Packed, Request};
use pg_reseed::wire::{listing, payload};

const KEY: SessionKey = SessionKey([7; 32]);
const BLOCK_BYTES: u32 = 8192;
const RANGE: usize = RANGE_BYTES as usize;
const BLOCK: usize = BLOCK_BYTES as usize;

/// Percent of a range's blocks that differ.
const SHARES: [usize; 3] = [0, 1, 50];

criterion_group! {
    name = kernels;
    // Short: the figures are for orders of magnitude, and a busy machine spoils long runs as well.
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = digests, comparison, noise, pages, frames, payloads, shifting, manifest
}
criterion_main!(kernels);

fn digests(c: &mut Criterion) {
    let mut group = c.benchmark_group("digest");
    for (name, bytes) in [
        ("8KiB", BLOCK),
        ("64KiB", EXTENT_BYTES as usize),
        ("16MiB", 16 * 1024 * 1024),
    ] {
        let input = Paint::new(1).bytes(bytes);
        group.throughput(bytes_of(&input));
        group.bench_function(name, |b| b.iter(|| KEY.digest(black_box(&input))));
    }
    group.finish();

    let mut group = c.benchmark_group("digest_pieces of 4MiB");
    let range = Paint::new(2).bytes(RANGE);
    group.throughput(bytes_of(&range));
    for (name, unit) in [("64KiB", EXTENT_BYTES), ("8KiB", BLOCK_BYTES)] {
        let mut digests = Vec::new();
        group.bench_function(name, |b| {
            b.iter(|| {
                digests.clear();
                digest_pieces(&KEY, black_box(&range), unit, &mut digests);
            });
        });
    }
    group.finish();
}

/// What looking for noise costs a block beside its digest: a heap page of pgbench's accounts, with hint bits.
fn noise(c: &mut Criterion) {
    let page = heap_page();
    let mut forms = Forms::default();
    assert!(forms.digest(&KEY, &page).is_some());
    let mut group = c.benchmark_group("noise of 8KiB");
    group.throughput(bytes_of(&page));
    group.bench_function("form and its digest", |b| {
        b.iter(|| forms.digest(&KEY, black_box(&page)));
    });
    group.bench_function("form", |b| {
        let mut form = page.clone();
        b.iter(|| {
            form.copy_from_slice(black_box(&page));
            make_canonical(&mut form)
        });
    });
    group.finish();
}

/// 61 tuples of 121 bytes, whose inserting transactions are known to have committed.
fn heap_page() -> Vec<u8> {
    const TUPLES: usize = 61;
    const ROOM: usize = 128;
    let mut page = Paint::new(9).bytes(BLOCK);
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    let word = |number: usize| u16::try_from(number).unwrap().to_le_bytes();
    let upper = BLOCK - TUPLES * ROOM;
    put(0, &[0; 24]);
    put(12, &word(24 + 4 * TUPLES));
    put(14, &word(upper));
    put(16, &word(BLOCK));
    put(18, &word(BLOCK | 4));
    put(24 + 4 * TUPLES, &vec![0; upper - 24 - 4 * TUPLES]);
    for number in 0..TUPLES {
        let at = BLOCK - (number + 1) * ROOM;
        let pointer = u32::try_from(at | 1 << 15 | 121 << 17).unwrap();
        put(24 + 4 * number, &pointer.to_le_bytes());
        put(at, &[0; 23]);
        put(at + 20, &[0x02, 0x09]);
        put(at + 121, &[0; 7]);
    }
    page
}

fn comparison(c: &mut Criterion) {
    let theirs = Paint::new(3).bytes(RANGE);
    let their_digests = block_digests(&theirs);
    let blocks = RANGE / BLOCK;

    let mut group = c.benchmark_group("differing of 512 digests");
    group.throughput(Throughput::Elements(blocks as u64));
    for share in SHARES {
        let (ours, changed) = with_changed_blocks(&theirs, share);
        let ours = block_digests(&ours);
        assert_eq!(differing(&ours, &their_digests).count(), changed);
        group.bench_function(BenchmarkId::from_parameter(format!("{share}%")), |b| {
            b.iter(|| differing(black_box(&ours), black_box(&their_digests)).sum::<usize>());
        });
    }
    group.finish();

    let mut group = c.benchmark_group("keep_differing of 4MiB");
    group.throughput(bytes_of(&theirs));
    let mut bench = |name: &str, baseline: Baseline<'_>, expected: usize| {
        let keep = |bytes: &mut Buffer| {
            let mut present = BitSet::with_size(blocks);
            let kept = keep_differing(
                &KEY,
                bytes,
                BLOCK_BYTES,
                baseline,
                0,
                &mut present,
                &mut Vec::new(),
            );
            assert_eq!(kept, expected * BLOCK);
        };
        group.bench_function(name, |b| {
            b.iter_batched_ref(|| buffer(&theirs), keep, BatchSize::PerIteration);
        });
    };
    for share in SHARES {
        let (ours, changed) = with_changed_blocks(&theirs, share);
        let ours = block_digests(&ours);
        bench(&format!("{share}%"), Baseline::Digests(&ours), changed);
    }
    bench("all, against zeros", Baseline::Zeros, blocks);
    group.finish();

    let mut group = c.benchmark_group("is_zero");
    for (name, bytes) in [("8KiB", BLOCK), ("4MiB", RANGE)] {
        let zeros = vec![0; bytes];
        assert!(is_zero(&zeros));
        group.throughput(bytes_of(&zeros));
        group.bench_function(name, |b| b.iter(|| is_zero(black_box(&zeros))));
    }
    group.finish();
}

fn pages(c: &mut Criterion) {
    let pages = valid_pages(RANGE / BLOCK);
    let end = Lsn(u64::MAX);
    let all_valid = |pages: &[u8]| {
        (0..)
            .zip(pages.chunks_exact(BLOCK))
            .all(|(number, page)| page::verify(page, number, end) == PageVerdict::Valid)
    };
    assert!(all_valid(&pages));
    let mut group = c.benchmark_group("page::verify");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    group.bench_function("one page", |b| {
        b.iter(|| page::verify(black_box(&pages[..BLOCK]), 0, end));
    });
    group.throughput(bytes_of(&pages));
    group.bench_function("4MiB", |b| b.iter(|| all_valid(black_box(&pages))));
    group.finish();
}

fn frames(c: &mut Criterion) {
    let spans = (0..u32::try_from(SPANS_MAX).unwrap())
        .map(|number| Span {
            entry: EntryId(number * 700),
            offset: u64::from(number % 5) * u64::from(RANGE_BYTES),
            bytes: BLOCK_BYTES * (1 + number % 512),
        })
        .collect();
    frame(
        c,
        "Digests of 1024 spans",
        &Request::Digests {
            spans,
            have: KEY.digest(b""),
        },
    );

    let mut present = BitSet::with_size(RANGE / BLOCK);
    (0..RANGE / BLOCK)
        .step_by(2)
        .for_each(|block| present.insert(block));
    let blocks = Answer::Blocks {
        gone: Vec::new(),
        present,
        patched: BitSet::default(),
        patch_bytes: 0,
        packed: Packed {
            codec: Codec::Lz4,
            bytes: RANGE_BYTES / 2,
            digest: KEY.digest(b""),
        },
        damaged: Vec::new(),
    };
    frame(c, "Blocks of 4MiB", &blocks);
}

/// Times one message both ways.
fn frame<M: serde::Serialize + serde::de::DeserializeOwned>(
    c: &mut Criterion,
    name: &str,
    message: &M,
) {
    let encoded = codec::encode(1, message, 0).unwrap();
    let mut group = c.benchmark_group(format!("frame: {name}"));
    group.throughput(bytes_of(&encoded));
    group.bench_function("encode", |b| {
        b.iter(|| codec::encode(1, black_box(message), 0).unwrap());
    });
    group.bench_function("decode", |b| b.iter(|| decoded::<M>(black_box(&encoded))));
    group.finish();
}

/// Header and head of a frame, as the loops of `link::frames` decode them.
fn decoded<M: serde::de::DeserializeOwned>(frame: &[u8]) -> M {
    let (header, head) = frame.split_first_chunk::<HEADER_BYTES>().unwrap();
    let header = Header::decode(header).unwrap();
    assert_eq!(header.head_bytes as usize, head.len());
    codec::decode(head).unwrap()
}

/// As the workers hold the bytes of files.
fn buffer(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::with_length(bytes.len());
    buffer.copy_from_slice(bytes);
    buffer
}

fn payloads(c: &mut Criterion) {
    let rows = Paint::new(5).rows(RANGE);
    let mut group = c.benchmark_group("payload of 4MiB");
    group.throughput(bytes_of(&rows));
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd(1)] {
        let (packed, body) = payload::pack(buffer(&rows), &KEY, compression);
        // Else the figures of "unpack" would be of raw bytes.
        let shrinks = body.len() < rows.len() / 2;
        assert_eq!(shrinks, compression != Compression::None);
        group.bench_function(BenchmarkId::new("pack", compression), |b| {
            b.iter_batched(
                || buffer(&rows),
                |rows| payload::pack(rows, &KEY, compression),
                BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("unpack", compression), |b| {
            b.iter_batched(
                || buffer(&body),
                |body| payload::unpack(&packed, body, &KEY, RANGE).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn shifting(c: &mut Criterion) {
    let mut paint = Paint::new(6);
    let old = paint.rows(1024 * 1024);
    // A few rows more, a few less, a few others.
    let mut new = old.clone();
    for place in [900_000, 500_000, 100_000] {
        let rows = paint.rows(300);
        new.splice(place..place + 200, rows);
    }
    new.truncate(old.len());
    let signature = rolling::signature(&old);
    let delta = rolling::delta(signature.clone(), &new).unwrap();
    assert!(delta.len() < new.len() / 20, "{}", delta.len());
    let limit = new.len() as u64;
    assert_eq!(rolling::apply(&old, &delta, limit).unwrap(), new);

    let mut group = c.benchmark_group("rolling of 1MiB");
    group.throughput(bytes_of(&new));
    group.bench_function("signature", |b| {
        b.iter(|| rolling::signature(black_box(&old)));
    });
    group.bench_function("delta", |b| {
        b.iter_batched(
            || signature.clone(),
            |signature| rolling::delta(signature, black_box(&new)).unwrap(),
            BatchSize::SmallInput,
        );
    });
    // The worst case: no block is found again.
    let strange = paint.bytes(new.len());
    group.bench_function("delta, nothing in common", |b| {
        b.iter_batched(
            || signature.clone(),
            |signature| rolling::delta(signature, black_box(&strange)).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("apply", |b| {
        b.iter(|| rolling::apply(black_box(&old), black_box(&delta), limit).unwrap());
    });
    group.finish();
}

/// A million entries, in parts, as the agent encodes and the client decodes and collects them.
fn manifest(c: &mut Criterion) {
    const ENTRIES: usize = 1_000_000;

    let all = entries(ENTRIES);
    let encode = || {
        let starts = listing::part_starts(&all);
        let mut items = all.iter().peekable();
        (1..=starts.len())
            .map(|next| {
                let part: Vec<_> = std::iter::from_fn(|| {
                    items.next_if(|item| starts.get(next).is_none_or(|start| item.id < *start))
                })
                .collect();
                listing::encode(part.into_iter())
            })
            .collect::<Vec<_>>()
    };
    let decode = |parts: &[Vec<u8>]| {
        let mut manifest = Manifest::default();
        for folder in parts.iter().flat_map(|part| listing::decode(part).unwrap()) {
            manifest.append(folder).unwrap();
        }
        manifest
    };
    let parts = encode();
    assert_eq!(decode(&parts).len(), all.len());

    let mut group = c.benchmark_group("manifest of 1000000 entries");
    group.sample_size(10);
    group.throughput(Throughput::Elements(ENTRIES as u64));
    group.bench_function("encode", |b| b.iter_with_large_drop(encode));
    group.bench_function("decode", |b| {
        b.iter_with_large_drop(|| decode(black_box(&parts)));
    });
    group.finish();
}

/// Entries with names and sizes like those of many databases full of small relations.
fn entries(count: usize) -> Manifest {
    let mut paint = Paint::new(8);
    let folders = (0..count.div_ceil(5000)).map(|database| {
        let path = format!("base/{}", 16_384 + database);
        let mut folder = Folder::new(Some(RelPath::parse(path.as_bytes()).unwrap()));
        let mut names: Vec<_> = (0..5000)
            .map(|number| {
                format!(
                    "{}{}",
                    20_000 + number / 4,
                    ["", "_fsm", "_vm", ".1"][number % 4]
                )
            })
            .collect();
        names.sort();
        for name in names {
            let size = u64::from(BLOCK_BYTES) * (paint.roll() % 131_072);
            folder.push(name.as_bytes(), EntryKind::File, size).unwrap();
        }
        folder
    });
    Manifest::from_folders(folders.collect()).unwrap()
}

// -------------------------------------------------------------------------------------------- input

fn bytes_of(input: &[u8]) -> Throughput {
    Throughput::Bytes(input.len() as u64)
}

fn block_digests(bytes: &[u8]) -> Vec<u8> {
    let mut digests = Vec::with_capacity(bytes.len() / BLOCK * DIGEST_BYTES);
    digest_pieces(&KEY, bytes, BLOCK_BYTES, &mut digests);
    digests
}

/// A copy of which so many percent of the blocks differ, in places without a pattern; and their number.
fn with_changed_blocks(bytes: &[u8], percent: usize) -> (Vec<u8>, usize) {
    let mut bytes = bytes.to_vec();
    let blocks = bytes.len() / BLOCK;
    let changed = blocks * percent / 100;
    let mut paint = Paint::new(4);
    let mut left = changed;
    let mut rest = blocks;
    // Each block is taken with the chance that makes the number come out.
    for block in bytes.chunks_exact_mut(BLOCK) {
        if paint.roll() % (rest as u64) < left as u64 {
            block[BLOCK / 2] ^= 1;
            left -= 1;
        }
        rest -= 1;
    }
    (bytes, changed)
}

/// Pages of one relation, full of noise behind their headers, with checksums that hold.
fn valid_pages(count: usize) -> Vec<u8> {
    let mut pages = Paint::new(9).bytes(count * BLOCK);
    for (number, page) in (0..).zip(pages.chunks_exact_mut(BLOCK)) {
        page[..8].copy_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0]);
        let end = u16::try_from(BLOCK_BYTES).unwrap().to_le_bytes();
        page[14..16].copy_from_slice(&end);
        let checksum = page::checksum(page, number);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
    }
    pages
}

/// Deterministic content (SplitMix64).
struct Paint(u64);

impl Paint {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Noise, which no compression shrinks.
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.roll().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// Rows of a table of orders, as text: numbers, times, words out of a few.
    fn rows(&mut self, count: usize) -> Vec<u8> {
        const WORDS: [&str; 16] = [
            "standard",
            "express",
            "shipped",
            "waiting",
            "returned",
            "Ljubljana",
            "Maribor",
            "customer",
            "invoice",
            "discount",
            "warehouse",
            "pallet",
            "blue",
            "green",
            "of",
            "with",
        ];
        let mut rows = String::with_capacity(count + 200);
        let mut number = 1_000_000;
        while rows.len() < count {
            number += 1 + self.roll() % 3;
            let (minute, cents) = (self.roll() % 60, self.roll() % 1_000_000);
            write!(rows, "{number}\t2024-05-17 12:{minute:02}:07+02\t{cents}").unwrap();
            for _ in 0..self.roll() % 12 {
                let word = usize::try_from(self.roll() % WORDS.len() as u64).unwrap();
                rows += "\t";
                rows += WORDS[word];
            }
            rows += "\n";
        }
        rows.truncate(count);
        rows.into_bytes()
    }
}
