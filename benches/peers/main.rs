//! `make bench`: pg_reseed beside its peers, end to end, on this machine.
//!
//! Two clusters are made as a failover leaves them: a promoted standby, the source, and the old primary
//! that went on without it, the target; for one shape the failover itself is played, under load. For each shape of work the target gets a state that is saved, and
//! before each run of each tool it is put back to it. The tools run in turn, round by round, so that all
//! see the same machine; what is timed is the whole process. Every result is checked once per shape.
//!
//! All tools reach the source by TCP on loopback: the servers and the rsync daemon as they are, pg_reseed
//! through a listener and a relay of this program. Nothing here is a local copy, except for pgBackRest,
//! whose repository lies on the same disk.
//!
//! Runs as root, so that it can drop the page cache and count CPU time; servers and tools run as an
//! unprivileged user. Everything lives in one temporary folder, and all of it ends with the benchmark.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark talks to people"
)]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures for people need no more digits than an f64 has"
)]

mod args;
mod cgroup;
mod cluster;
mod failover;
mod filler;
mod host;
mod lane;
mod link;
mod memory;
mod neighbour;
mod plot;
mod process;
mod race;
mod relay;
mod results;
mod roofline;
mod scene;
mod services;
mod shapes;
mod tables;
mod targets;
mod tools;
mod trees;

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;

use args::{Args, Cache, ShapeName};
use cluster::Server;
use lane::Course;
use process::{Runner, give};
use results::Results;
use scene::Target;
use services::Repository;
use shapes::Shape;
use tools::{Programs, Tool, Way};

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == relay::RELAY_OPTION) {
        return relay::run(words.next());
    }
    match bench(&mut Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("make bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Tells how the benchmark goes.
pub fn say(words: &str) {
    println!("{words}");
}

fn bench(args: &mut Args) -> Result<()> {
    let absent = prepare(args)?;
    let folder = tempfile::Builder::new()
        .prefix("pg_reseed-bench.")
        .tempdir()?;
    let runner = Arc::new(Runner::new(
        folder.path(),
        args.memory.map(|mib| mib << 20),
    )?);
    give(folder.path())?;
    if runner.groups.is_none() {
        say("No control groups here: CPU time and memory are not measured");
    }
    let programs = install(args, folder.path())?;
    let mut results = Results {
        machine: host::description(&programs.pg_reseed),
        ..Results::default()
    };
    if let Some(mib) = args.memory {
        results.notes.push(format!(
            "all tools: at most {mib} MiB of memory for both sides, page cache included"
        ));
    }
    prove_links(args, &mut results)?;
    let mut course = Course {
        args,
        runner: &runner,
        programs: &programs,
        folder: folder.path(),
        repository: None,
        absent: &absent,
    };
    let raced = race_all(&mut course, &mut results);
    // What was measured before a failure is worth its time.
    if !results.rows.is_empty() || !results.figures.is_empty() {
        report(args, &results)?;
    }
    raced
}

/// Judges whether the benchmark can run at all; returns the peers that are absent.
fn prepare(args: &mut Args) -> Result<Vec<&'static str>> {
    process::heed_signals()?;
    if host::is_root() {
        host::user_ids()?;
    }
    if !host::bindir().join("postgres").exists() {
        return Err(format!("there is no PostgreSQL in {}", host::bindir().display()).into());
    }
    if args.caches.contains(&Cache::Cold) && !host::can_drop_page_cache() {
        say("Only root can drop the page cache: no runs with a cold cache");
        args.caches.retain(|cache| *cache != Cache::Cold);
    }
    let absent = host::absent_peers();
    for name in &absent {
        say(&format!(
            "{name} is absent and left out: apt-get install {name}"
        ));
    }
    let free = host::free_bytes(&std::env::temp_dir())?;
    let (place, free, needed) = (
        std::env::temp_dir(),
        free as f64 / 1e9,
        needed_bytes(args) as f64 / 1e9,
    );
    say(&format!(
        "{needed:.1} GB needed in {} (TMPDIR), {free:.1} GB free",
        place.display()
    ));
    if free < needed {
        return Err(format!(
            "{needed:.1} GB needed in {}, {free:.1} GB free",
            place.display()
        )
        .into());
    }
    Ok(absent)
}

/// Room for the clusters: old primary, source, its saved state, target and its saved state, a repository,
/// and WAL; generously.
fn needed_bytes(args: &Args) -> u64 {
    let pgbench = args.scale * 18_000_000 * 6 + 4_000_000_000;
    let others = [ShapeName::Many, ShapeName::Failover];
    let is_pgbench =
        args.shapes.iter().any(|shape| !others.contains(shape)) || args.shapes.is_empty();
    // A failover under load has WAL on both sides.
    let failover = args.scale * 25_000_000 * 6 + 1_500_000_000;
    // A small file takes a block of the file system and its inode.
    let many = args.many_files * 9_000 * 6 + 2_000_000_000;
    let pgbench = if is_pgbench { pgbench } else { 0 };
    let many = if args.wants(ShapeName::Many) { many } else { 0 };
    let failover = if args.wants(ShapeName::Failover) {
        failover
    } else {
        0
    };
    pgbench.max(many).max(failover)
}

/// Copies the programs to where the unprivileged user can reach them.
fn install(args: &Args, folder: &Path) -> Result<Programs> {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_pg_reseed"));
    let pg_reseed = args.pg_reseed.clone().unwrap_or(built);
    let place = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    };
    Ok(Programs {
        pg_reseed: place("pg_reseed", &fs::read(pg_reseed)?)?,
        own: place("bench-relay", &fs::read(std::env::current_exe()?)?)?,
        rsync_standby: place("rsync-standby", include_bytes!("rsync-standby"))?,
    })
}

/// Measures the links before anything depends on them.
fn prove_links(args: &Args, results: &mut Results) -> Result<()> {
    use ShapeName::{EmptyGbit, Far, SparseGbit};
    if ![EmptyGbit, Far, SparseGbit]
        .into_iter()
        .any(|shape| args.wants(shape))
    {
        return Ok(());
    }
    for (name, shape) in shapes::LINKS {
        // About a second of the link.
        let bytes = usize::try_from(shape.bits_per_second / 8)?;
        let (rate, round_trip) = link::proof(shape, bytes)?;
        let note = format!(
            "shaped link {name}: asked for {:.0} Mbit/s and {:.1} ms, measured {:.1} Mbit/s and {:.2} ms",
            shape.bits_per_second as f64 / 1e6,
            shape.round_trip.as_secs_f64() * 1e3,
            rate / 1e6,
            round_trip.as_secs_f64() * 1e3
        );
        say(&note);
        results.notes.push(note);
    }
    Ok(())
}

fn race_all(course: &mut Course, results: &mut Results) -> Result<()> {
    let args = course.args;
    let wanted = |shape: &Shape| args.wants(shape.name);
    let races: Vec<_> = shapes::of_pgbench().into_iter().filter(wanted).collect();
    let beside = [ShapeName::Memory, ShapeName::Neighbour];
    if !races.is_empty() || beside.into_iter().any(|shape| args.wants(shape)) {
        pgbench_races(course, &races, results)?;
    }
    if args.wants(ShapeName::Failover) {
        failover_race(course, results)?;
    }
    if args.wants(ShapeName::Many) {
        let folder = scene::folder(course.folder, "many.")?;
        say(&format!("Making a cluster of {} files", args.many_files));
        let mut pair = scene::many(folder.path(), args.many_files, course.runner)?;
        let target = Target::create(folder.path())?;
        race::run(course, &mut pair, &shapes::of_many(), &target, results)?;
    }
    Ok(())
}

fn pgbench_races(course: &Course, races: &[Shape], results: &mut Results) -> Result<()> {
    let args = course.args;
    let folder = scene::folder(course.folder, "pgbench.")?;
    say(&format!(
        "Making a cluster of pgbench's scale {}",
        args.scale
    ));
    let mut repository = None;
    let mut pair = scene::pgbench(folder.path(), args.scale, course.runner, |source| {
        repository = repository_for(course, races, folder.path(), source, results)?;
        Ok(())
    })?;
    let course = Course {
        repository: repository.as_ref(),
        ..*course
    };
    let target = Target::create(folder.path())?;
    for shape in races {
        race::run(&course, &mut pair, shape, &target, results)?;
        report_files(args, results)?;
    }
    if args.wants(ShapeName::Neighbour) {
        neighbour::measure(&course, &mut pair, &target, results)?;
    }
    if args.wants(ShapeName::Memory) {
        memory::measure(&course, &mut pair, &target, results)?;
    }
    Ok(())
}

fn failover_race(course: &Course, results: &mut Results) -> Result<()> {
    let args = course.args;
    let folder = scene::folder(course.folder, "failover.")?;
    say(&format!(
        "Making a failover under load, of pgbench's scale {}",
        args.scale
    ));
    let races = [shapes::of_failover()];
    let mut repository = None;
    let (mut pair, story) = scene::failover(folder.path(), args.scale, course.runner, |source| {
        repository = repository_for(course, &races, folder.path(), source, results)?;
        Ok(())
    })?;
    say(&story);
    results.notes.push(story);
    let course = Course {
        repository: repository.as_ref(),
        ..*course
    };
    let target = Target::create(folder.path())?;
    for shape in &races {
        race::run(&course, &mut pair, shape, &target, results)?;
        report_files(args, results)?;
    }
    Ok(())
}

/// A backup of the source, where a tool needs one.
fn repository_for(
    course: &Course,
    races: &[Shape],
    folder: &Path,
    source: &Server,
    results: &mut Results,
) -> Result<Option<Repository>> {
    let mut tools = races.iter().flat_map(|shape| &shape.tools);
    let is_needed = tools.any(|tool| tool.way == Way::PgbackrestDelta)
        && course.args.wants_tool(Tool::PGBACKREST)
        && !course.absent.contains(&"pgbackrest");
    if !is_needed {
        return Ok(None);
    }
    let repository = Repository::create(folder, source, course.runner)?;
    let note = format!(
        "pgBackRest's backup, which its restore needs, took {:.1} s and is charged to nobody",
        repository.backup_seconds
    );
    say(&note);
    results.notes.push(note);
    Ok(Some(repository))
}

/// Writes the files, and the tables to the terminal.
fn report(args: &Args, results: &Results) -> Result<()> {
    say(&tables::terminal(results, &targets::verdicts(results)));
    report_files(args, results)?;
    say(&format!(
        "Written: {}/results.md, .json and .svg",
        args.output().display()
    ));
    Ok(())
}

fn report_files(args: &Args, results: &Results) -> Result<()> {
    let output = args.output();
    fs::create_dir_all(&output)?;
    let place = |name| output.join(name);
    let verdicts = targets::verdicts(results);
    fs::write(place("results.md"), tables::markdown(results, &verdicts))?;
    fs::write(
        place("results.json"),
        serde_json::to_vec_pretty(&results.json())?,
    )?;
    fs::write(place("results.svg"), plot::svg(results))?;
    Ok(())
}
