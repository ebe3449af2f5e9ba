//! What the project has promised to reach, held against what was measured.

use serde_json::Value;

use crate::args::{Cache, ShapeName};
use crate::results::{Results, Row};
use crate::tools::Tool;
use crate::{memory, neighbour};

/// One promise.
pub struct Verdict {
    pub shape: String,
    pub against: String,
    pub at_least: String,
    pub reached: String,
    /// None where something for it was not measured.
    pub is_kept: Option<bool>,
}

/// Bytes that a run may move beyond what differs, of the cluster's size.
const OVERHEAD: f64 = 0.0003;
const MEMORY_BYTES: u64 = 256 << 20;
const ROOFLINE: f64 = 0.7;
/// With a cold cache, where little differs.
const COLD_ROOFLINE: f64 = 0.9;

/// All promises in the order of the project's list.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    use ShapeName::{Empty, EmptyGbit, Failover, Far, Heavy, Hot, Many, None as Same, Sparse};
    let look = Look { results };
    let plain = "pg_reseed -Z none";
    let mut all = Vec::new();
    for shape in [Same, Sparse] {
        all.extend([
            look.cold(shape, Tool::RSYNC_DELTA, 1.3),
            look.cold(shape, Tool::BASEBACKUP, 1.7),
            look.cpu(shape, Cache::Cold, 0.5),
        ]);
    }
    for shape in [Hot, Heavy] {
        for peer in [
            Tool::BASEBACKUP,
            Tool::RSYNC_WHOLE,
            Tool::RSYNC_DELTA,
            Tool::PGBACKREST,
        ] {
            all.push(look.cold(shape, peer, 1.0));
        }
    }
    all.push(look.cold(Empty, Tool::BASEBACKUP, 1.4));
    all.extend([
        look.faster(Same, Tool::RSYNC_DELTA, 2.2),
        look.fewer_bytes(Same, Tool::RSYNC_DELTA, 1.0),
        look.faster(Sparse, Tool::RSYNC_DELTA, 2.2),
        look.fewer_bytes(Sparse, Tool::RSYNC_DELTA, 1.0),
        look.faster(Sparse, Tool::REWIND, 1.2),
        look.fewer_bytes(Sparse, Tool::REWIND, 0.25),
        look.faster(Sparse, Tool::BASEBACKUP, 3.5),
        look.faster(Sparse, Tool::PGBACKREST, 4.0),
        look.faster(Same, Tool::PGBACKREST, 1.7),
        look.faster(Hot, Tool::RSYNC_DELTA, 4.0),
        look.faster(Hot, Tool::BASEBACKUP, 2.0),
        look.faster(Heavy, Tool::BASEBACKUP, 1.0),
        look.fewer_bytes(Heavy, Tool::BASEBACKUP, 0.5),
        look.faster_of(Empty, plain, Tool::BASEBACKUP, 1.5),
        look.faster_of(Empty, plain, Tool::RSYNC_WHOLE, 1.2),
        look.faster(EmptyGbit, Tool::BASEBACKUP, 2.0),
        look.faster(Many, Tool::RSYNC_WHOLE, 2.0),
        look.faster(Far, Tool::RSYNC_DELTA, 2.0),
        look.fewer_bytes(Failover, Tool::WITHOUT_PATCH, 1.0 / 3.0),
        look.faster(Failover, Tool::WITHOUT_PATCH, 1.0),
    ]);
    for facts in &results.shapes {
        for cache in [Cache::Cold, Cache::Warm] {
            all.extend(look.near_roofline(facts.shape, cache));
        }
    }
    all.extend([
        look.cpu(Sparse, Cache::Warm, 0.6),
        look.bytes_of_none(),
        look.bytes_of_sparse("pg_reseed -Z lz4"),
        look.bytes_of_sparse("pg_reseed -Z zstd"),
        look.bytes_of_sparse(Tool::RESEED),
        look.memory(),
    ]);
    all.extend(figures(results));
    all
}

struct Look<'a> {
    results: &'a Results,
}

impl Look<'_> {
    fn warm(&self, shape: ShapeName, tool: &str) -> Option<&Row> {
        self.results.row(shape, tool, Cache::Warm)
    }

    fn faster(&self, shape: ShapeName, peer: &str, times: f64) -> Verdict {
        self.faster_of(shape, Tool::RESEED, peer, times)
    }

    fn faster_of(&self, shape: ShapeName, ours: &str, peer: &str, times: f64) -> Verdict {
        self.faster_with(Cache::Warm, shape, (ours, peer), times)
    }

    fn cold(&self, shape: ShapeName, peer: &str, times: f64) -> Verdict {
        self.faster_with(Cache::Cold, shape, (Tool::RESEED, peer), times)
    }

    fn faster_with(
        &self,
        cache: Cache,
        shape: ShapeName,
        (ours, peer): (&str, &str),
        times: f64,
    ) -> Verdict {
        let seconds = |tool| self.results.row(shape, tool, cache).and_then(Row::seconds);
        let ratio = seconds(ours)
            .zip(seconds(peer))
            .map(|(ours, theirs)| theirs / ours);
        let note = if ours == Tool::RESEED {
            String::new()
        } else {
            format!(" ({ours})")
        };
        Verdict {
            shape: format!("{}, {}", shape.name(), cache.name()),
            against: format!("{peer}{note}"),
            at_least: format!("{times:.1} times faster"),
            reached: ratio.map_or("not measured".to_owned(), |ratio| {
                format!("{ratio:.2} times")
            }),
            is_kept: ratio.map(|ratio| ratio >= times),
        }
    }

    fn fewer_bytes(&self, shape: ShapeName, peer: &str, share: f64) -> Verdict {
        let ours = self.warm(shape, Tool::RESEED).and_then(Row::wire_bytes);
        let theirs = self.warm(shape, peer).and_then(Row::wire_bytes);
        let ratio = ours.zip(theirs).map(|(ours, theirs)| ours / theirs);
        Verdict {
            shape: format!("{}, warm", shape.name()),
            against: format!("{peer}: bytes"),
            at_least: format!("at most {share:.2} of them"),
            reached: ratio.map_or("not measured".to_owned(), |ratio| format!("{ratio:.2}")),
            is_kept: ratio.map(|ratio| ratio <= share),
        }
    }

    /// None where the shape was not run with that cache at all.
    fn near_roofline(&self, shape: ShapeName, cache: Cache) -> Option<Verdict> {
        let best = self.results.row(shape, Tool::ROOFLINE, cache)?;
        let ours = self.results.row(shape, Tool::RESEED, cache)?;
        let share = best
            .seconds()
            .zip(ours.seconds())
            .map(|(best, ours)| best / ours);
        let is_little = matches!(shape, ShapeName::None | ShapeName::Sparse);
        let least = if is_little && cache == Cache::Cold {
            COLD_ROOFLINE
        } else {
            ROOFLINE
        };
        Some(Verdict {
            shape: format!("{}, {}", shape.name(), cache.name()),
            against: Tool::ROOFLINE.to_owned(),
            at_least: format!("{:.0} % of it", least * 100.0),
            reached: share.map_or("not measured".to_owned(), |share| {
                format!("{:.0} %", share * 100.0)
            }),
            is_kept: share.map(|share| share >= least),
        })
    }

    fn cpu(&self, shape: ShapeName, cache: Cache, share: f64) -> Verdict {
        let seconds = |tool| {
            self.results
                .row(shape, tool, cache)
                .and_then(Row::cpu_seconds)
        };
        let pair = seconds(Tool::RESEED).zip(seconds(Tool::RSYNC_DELTA));
        Verdict {
            shape: format!("{}, {}", shape.name(), cache.name()),
            against: "rsync delta: CPU time".to_owned(),
            at_least: format!("at most {share:.1} of it"),
            reached: pair.map_or("not measured".to_owned(), |(ours, theirs)| {
                format!("{:.2} ({ours:.2} s and {theirs:.2} s)", ours / theirs)
            }),
            is_kept: pair.map(|(ours, theirs)| ours <= share * theirs),
        }
    }

    fn bytes_of_none(&self) -> Verdict {
        let most = self
            .results
            .facts(ShapeName::None)
            .map(|facts| OVERHEAD * facts.relation_bytes as f64);
        self.bytes(ShapeName::None, Tool::RESEED, most, "0.03 % of the cluster")
    }

    fn bytes_of_sparse(&self, tool: &str) -> Verdict {
        let most = self.results.facts(ShapeName::Sparse).map(|facts| {
            1.2 * facts.compressed_bytes as f64 + OVERHEAD * facts.relation_bytes as f64
        });
        self.bytes(
            ShapeName::Sparse,
            tool,
            most,
            "1.2 of the blocks by zstd:1, and 0.03 %",
        )
    }

    /// Bytes on the wire beyond the WAL of the run, which travels with any tool: it is mostly zeros, so it
    /// counts as what zstd:1 makes of it.
    fn bytes(&self, shape: ShapeName, tool: &str, most: Option<f64>, what: &str) -> Verdict {
        let row = self.warm(shape, tool);
        let wire = row.and_then(Row::wire_bytes);
        let wal = row.and_then(|row| row.wal_packed_bytes);
        let beyond = wire.zip(wal).map(|(wire, wal)| wire - wal as f64);
        let both = beyond.zip(most);
        Verdict {
            shape: format!("{}, warm", shape.name()),
            against: format!("{tool}: bytes on the wire"),
            at_least: format!("at most {what}, beyond WAL"),
            reached: both.map_or("not measured".to_owned(), |(beyond, most)| {
                format!("{:.3} MB of {:.3} MB", beyond / 1e6, most / 1e6)
            }),
            is_kept: both.map(|(beyond, most)| beyond <= most),
        }
    }

    fn memory(&self) -> Verdict {
        let all = self.results.rows.iter().filter_map(Row::memory_bytes);
        let most = all.reduce(|a, b| [a[0].max(b[0]), a[1].max(b[1])]);
        memory_kept("all races", most)
    }
}

/// The promise of memory for anything that was watched.
fn memory_kept(shape: &str, most: Option<[u64; 2]>) -> Verdict {
    // A side that was never seen was not measured.
    let most = most.filter(|sides| sides.iter().all(|side| *side > 0));
    Verdict {
        shape: shape.to_owned(),
        against: "peak memory of each side".to_owned(),
        at_least: "at most 256 MiB".to_owned(),
        reached: most.map_or("not measured".to_owned(), |[source, target]| {
            format!("source {} MiB, target {} MiB", source >> 20, target >> 20)
        }),
        is_kept: most.map(|sides| sides.iter().all(|side| *side <= MEMORY_BYTES)),
    }
}

/// Promises about the figures beside the races, where those were measured.
fn figures(results: &Results) -> Vec<Verdict> {
    let mut all = Vec::new();
    for (name, figure) in &results.figures {
        if name.starts_with(memory::FIGURE) {
            let side = |name| figure.get(name).and_then(Value::as_u64);
            let most = side("source_bytes").zip(side("target_bytes"));
            all.push(memory_kept(
                name,
                most.map(|(source, target)| [source, target]),
            ));
        }
    }
    all.extend(load(results).into_iter().flatten());
    all.extend(cache(results));
    all
}

/// What pgbench loses beside pg_reseed, and beside pg_basebackup with the same limit.
fn load(results: &Results) -> [Option<Verdict>; 2] {
    let find = |tool: &str| {
        let has_limit =
            |name: &str| name.starts_with(&format!("{}{tool} --max-rate", neighbour::LOAD_FIGURE));
        let mut figures = results.figures.iter();
        Some(&figures.find(|(name, _)| has_limit(name))?.1)
    };
    let ours = find(Tool::RESEED);
    let theirs = find(Tool::BASEBACKUP);
    let number = |figure: Option<&Value>, name| figure?.get(name)?.as_f64();
    let verdict = |name, what: &str, is_better: fn(f64, f64) -> bool| {
        // Only where the shape was measured at all.
        theirs?;
        let both = number(ours, name).zip(number(theirs, name));
        Some(Verdict {
            shape: "neighbour".to_owned(),
            against: format!("pg_basebackup --max-rate: {what}"),
            at_least: "not worse".to_owned(),
            reached: both.map_or("not measured".to_owned(), |(ours, theirs)| {
                format!("{ours:.1} and {theirs:.1}")
            }),
            is_kept: both.map(|(ours, theirs)| is_better(ours, theirs)),
        })
    };
    [
        verdict(
            "transactions_per_second",
            "pgbench's transactions/s",
            |ours, theirs| ours >= theirs,
        ),
        verdict("p99_milliseconds", "pgbench's p99 in ms", |ours, theirs| {
            ours <= theirs
        }),
    ]
}

fn cache(results: &Results) -> Option<Verdict> {
    let name = format!("{}{}", neighbour::CACHE_FIGURE, Tool::RESEED);
    let warm = results
        .figures
        .iter()
        .find(|(of, _)| *of == name)?
        .1
        .get("warm")?;
    let share = |name| warm.get(name).and_then(Value::as_f64);
    let both = share("before").zip(share("after"));
    Some(Verdict {
        shape: "page cache".to_owned(),
        against: "the source's cached pages before".to_owned(),
        at_least: "still cached".to_owned(),
        reached: both.map_or("not measured".to_owned(), |(before, after)| {
            format!(
                "{:.1} % before, {:.1} % after",
                before * 100.0,
                after * 100.0
            )
        }),
        // A file or two of the catalogue come and go by themselves.
        is_kept: both.map(|(before, after)| after >= before * 0.995),
    })
}
