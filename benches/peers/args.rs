//! What is typed behind `make bench ARGS=...`.

use std::path::PathBuf;

use clap::{ArgAction, Parser, ValueEnum};

/// The sizes that the published results have.
const USUAL_SCALE: u64 = 100;
const USUAL_MANY_FILES: u64 = 200_000;

/// Times pg_reseed beside pg_basebackup, rsync, pgBackRest and pg_rewind, on this machine.
#[derive(Debug, Parser)]
#[command(name = "peers", bin_name = "make bench ARGS=")]
pub struct Args {
    /// The shapes that are measured, separated by commas; the default is all of them
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SHAPE")]
    pub shapes: Vec<ShapeName>,

    /// Only tools whose name contains one of these words, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "WORD")]
    pub tools: Vec<String>,

    /// How often each tool runs per shape and cache
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,

    /// pgbench's scale; 100 is 1.8 GB
    #[arg(long, default_value_t = USUAL_SCALE, value_parser = clap::value_parser!(u64).range(1..))]
    pub scale: u64,

    /// The caches that are measured; cold needs root
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["cold", "warm"], value_name = "CACHE")]
    pub caches: Vec<Cache>,

    /// Most memory in MiB that the tools and servers of both sides have together, with the page cache that they bring
    /// in: what a cluster that does not fit in memory would be
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u64>,

    /// How many files of relations the shape "many" has
    #[arg(long, default_value_t = USUAL_MANY_FILES, value_name = "N")]
    pub many_files: u64,

    /// How many sparse files of 1 GiB the shape "memory" adds to both sides
    #[arg(long, default_value_t = 2000, value_name = "N")]
    pub memory_segments: u64,

    /// How many small files the shape "memory" adds to both sides
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub memory_files: u64,

    /// What pg_reseed and pg_basebackup may read of the source in the shape "neighbour", per second
    #[arg(long, default_value = "64M", value_name = "RATE")]
    pub max_rate: String,

    /// How long pgbench runs alone in the shape "neighbour"
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    pub neighbour_seconds: u64,

    /// Measures pg_reseed and rsync over ssh to this host as well
    #[arg(long)]
    pub ssh: bool,

    /// Options for every pg_reseed rebuild, such as "--streams 2"
    #[arg(
        long,
        default_value = "",
        value_name = "OPTIONS",
        allow_hyphen_values = true
    )]
    pub reseed_options: String,

    /// Another pg_reseed than the one that was built with this benchmark
    #[arg(long, value_name = "FILE")]
    pub pg_reseed: Option<PathBuf>,

    /// Where results.md, results.json and results.svg go; the default is benches/results for a run of
    /// everything in its usual size, and benches/results/partial for any other
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,

    /// Seconds after which a tool is stopped and counts as failed
    #[arg(long, default_value_t = 1800, value_name = "SECONDS")]
    pub deadline: u64,

    /// What cargo bench adds
    #[arg(long, hide = true, action = ArgAction::SetTrue)]
    pub bench: bool,
}

/// A shape of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShapeName {
    None,
    Sparse,
    Hot,
    Heavy,
    Failover,
    Empty,
    Many,
    Far,
    SparseGbit,
    EmptyGbit,
    Memory,
    Neighbour,
}

/// Whether what is read lies in memory when a tool starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cache {
    Warm,
    Cold,
}

impl ShapeName {
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Cache {
    pub fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

impl Args {
    /// Where the results go.
    pub fn output(&self) -> PathBuf {
        let is_whole = self.shapes.is_empty()
            && self.tools.is_empty()
            && self.memory.is_none()
            && self.scale == USUAL_SCALE
            && self.many_files == USUAL_MANY_FILES;
        let below = if is_whole { "" } else { "partial" };
        let usual = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results");
        self.output
            .clone()
            .unwrap_or_else(|| PathBuf::from(usual).join(below))
    }

    pub fn wants(&self, shape: ShapeName) -> bool {
        self.shapes.is_empty() || self.shapes.contains(&shape)
    }

    pub fn wants_tool(&self, name: &str) -> bool {
        self.tools.is_empty() || self.tools.iter().any(|word| name.contains(word.as_str()))
    }
}
