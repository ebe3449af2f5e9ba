//! What was measured: samples, rows of samples, and their medians.

use serde_json::{Value, json};

use crate::args::{Cache, ShapeName};
use crate::roofline::Way;
use crate::tools::Tool;
use crate::trees::BLOCK_BYTES;

/// One run of one tool.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    pub seconds: f64,
    /// CPU time of the source's side and of the target's, without the kernel's own threads.
    pub cpu_seconds: Option<[f64; 2]>,
    pub wire_bytes: u64,
    /// Most memory of the source's side and of the target's, pg_reseed only.
    pub memory_bytes: Option<[u64; 2]>,
}

/// All runs of one tool in one shape with one cache.
#[derive(Debug, Clone)]
pub struct Row {
    pub shape: ShapeName,
    pub tool: String,
    pub cache: Cache,
    pub samples: Vec<Sample>,
    /// Why there are no more samples.
    pub failure: Option<String>,
    /// The WAL that pg_reseed's last run has brought, by zstd:1.
    pub wal_packed_bytes: Option<u64>,
    /// What the check of its result said.
    pub check: Option<String>,
    /// The report of pg_reseed's last run.
    pub report: Option<Value>,
}

/// What is known of a shape before any tool runs.
#[derive(Debug, Clone)]
pub struct ShapeFacts {
    pub shape: ShapeName,
    pub about: &'static str,
    pub files: u64,
    pub relation_bytes: u64,
    pub differing_blocks: u64,
    /// The differing blocks by zstd:1, 64 KiB at a time.
    pub compressed_bytes: u64,
    /// Parts of the roofline: cache, what, seconds.
    pub parts: Vec<(Cache, &'static str, f64)>,
}

/// Everything that one run of the benchmark has found.
#[derive(Debug, Default)]
pub struct Results {
    pub machine: Value,
    pub notes: Vec<String>,
    pub shapes: Vec<ShapeFacts>,
    pub rows: Vec<Row>,
    /// Figures of the shapes that are not races: name, figures.
    pub figures: Vec<(String, Value)>,
    /// How the roofline reads with a cold cache, once that was tried.
    pub cold_way: Option<Way>,
}

impl Row {
    pub fn new(shape: ShapeName, tool: &str, cache: Cache) -> Self {
        Self {
            shape,
            tool: tool.to_owned(),
            cache,
            samples: Vec::new(),
            failure: None,
            wal_packed_bytes: None,
            check: None,
            report: None,
        }
    }

    /// Median time in seconds.
    pub fn seconds(&self) -> Option<f64> {
        median(self.samples.iter().map(|sample| sample.seconds))
    }

    /// Shortest and longest time.
    pub fn range(&self) -> Option<(f64, f64)> {
        let times = self.samples.iter().map(|sample| sample.seconds);
        let shortest = times.clone().reduce(f64::min)?;
        Some((shortest, times.reduce(f64::max)?))
    }

    /// Median CPU time of both sides together.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let both = self.samples.iter().filter_map(|sample| sample.cpu_seconds);
        median(both.map(|[source, target]| source + target))
    }

    /// Median of the bytes on the wire.
    pub fn wire_bytes(&self) -> Option<f64> {
        median(self.samples.iter().map(|sample| sample.wire_bytes as f64))
    }

    /// The most that a side had in any run.
    pub fn memory_bytes(&self) -> Option<[u64; 2]> {
        let all = self.samples.iter().filter_map(|sample| sample.memory_bytes);
        all.reduce(|a, b| [a[0].max(b[0]), a[1].max(b[1])])
    }

    fn json(&self) -> Value {
        let samples: Vec<_> = self.samples.iter().map(Sample::json).collect();
        json!({
            "shape": self.shape.name(),
            "tool": self.tool,
            "cache": self.cache.name(),
            "median_seconds": self.seconds(),
            "median_cpu_seconds": self.cpu_seconds(),
            "median_wire_bytes": self.wire_bytes(),
            "samples": samples,
            "failure": self.failure,
            "wal_packed_bytes": self.wal_packed_bytes,
            "check": self.check,
            "pg_reseed_report": self.report,
        })
    }
}

impl Sample {
    fn json(&self) -> Value {
        json!({
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds.map(|[source, target]| json!({"source": source, "target": target})),
            "wire_bytes": self.wire_bytes,
            "memory_bytes": self.memory_bytes.map(|[source, target]| json!({"source": source, "target": target})),
        })
    }
}

impl ShapeFacts {
    pub fn differing_bytes(&self) -> u64 {
        self.differing_blocks * BLOCK_BYTES as u64
    }

    fn json(&self) -> Value {
        let parts: Vec<_> = self
            .parts
            .iter()
            .map(|(cache, part, seconds)| json!({"cache": cache.name(), "part": part, "seconds": seconds}))
            .collect();
        json!({
            "shape": self.shape.name(),
            "about": self.about,
            "files": self.files,
            "relation_bytes": self.relation_bytes,
            "differing_blocks": self.differing_blocks,
            "compressed_bytes": self.compressed_bytes,
            "roofline_parts": parts,
        })
    }
}

impl Results {
    pub fn row(&self, shape: ShapeName, tool: &str, cache: Cache) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.shape == shape && row.tool == tool && row.cache == cache)
    }

    pub fn facts(&self, shape: ShapeName) -> Option<&ShapeFacts> {
        self.shapes.iter().find(|facts| facts.shape == shape)
    }

    /// Names of the tools of a shape: ours, the peers, the roofline.
    pub fn tools(&self, shape: ShapeName) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for row in self.rows.iter().filter(|row| row.shape == shape) {
            if !names.contains(&row.tool.as_str()) {
                names.push(&row.tool);
            }
        }
        names.sort_by_key(|name| match *name {
            Tool::ROOFLINE => 2,
            name => u8::from(!name.starts_with(Tool::RESEED)),
        });
        names
    }

    pub fn json(&self) -> Value {
        json!({
            "machine": self.machine,
            "notes": self.notes,
            "shapes": self.shapes.iter().map(ShapeFacts::json).collect::<Vec<_>>(),
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "figures": self.figures.iter().cloned().collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// The middle value; of two the mean.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}
