//! What a tool costs those who work on the source meanwhile: transactions of pgbench, and the page cache.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::args::Cache;
use crate::cluster::Server;
use crate::lane::{Course, Lane};
use crate::process::{Background, check_interrupted, pause};
use crate::results::{Results, median};
use crate::scene::{Pair, Target, touch_every};
use crate::tools::Tool;
use crate::{Result, say, trees};

/// What the figures are called, before the name of the tool.
pub const LOAD_FIGURE: &str = "neighbour: ";
pub const CACHE_FIGURE: &str = "page cache: ";
/// What runs beside the load in the first phase.
pub const NOBODY: &str = "nobody";

/// How long pgbench runs before it counts.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long it goes on: it writes its logs by the page, and what it has not written when it is stopped is
/// lost.
const COOL_DOWN: Duration = Duration::from_secs(2);
/// More rounds tell little for their time.
const ROUNDS_MAX: u32 = 3;
const CLIENTS: &str = "4";
const THREADS: &str = "2";

/// Measures both and adds them to the figures.
pub fn measure(
    course: &Course,
    pair: &mut Pair,
    target: &Target,
    results: &mut Results,
) -> Result<()> {
    say("== neighbour: pgbench on the source, and its page cache");
    pair.diverge(&target.state, |server| touch_every(server, 100))?;
    load(course, pair, target, results)?;
    cache(course, pair, target, results)?;
    pair.put_source_back()?;
    target.site.clear()?;
    target.state.clear()
}

/// Tools beside the load: with the same limit, and without any.
pub fn limited_tools(rate: &str) -> [Tool; 2] {
    let option = format!("--max-rate={rate}");
    [
        Tool::reseed_with(&[&option]),
        Tool::basebackup_with(&[&option]),
    ]
}

/// What one phase has seen.
struct Seen {
    seconds: f64,
    transactions_per_second: f64,
    p99_milliseconds: f64,
}

fn load(course: &Course, pair: &mut Pair, target: &Target, results: &mut Results) -> Result<()> {
    let limited = limited_tools(&course.args.max_rate);
    let free = [Tool::reseed(), Tool::basebackup()];
    let mut phases: Vec<(Option<Tool>, Vec<Seen>, Option<String>)> = vec![(None, Vec::new(), None)];
    phases.extend(
        limited
            .into_iter()
            .chain(free)
            .map(|tool| (Some(tool), Vec::new(), None)),
    );
    for _ in 0..course.args.runs.min(ROUNDS_MAX) {
        for (tool, seen, failure) in phases.iter_mut().filter(|(.., failure)| failure.is_none()) {
            pair.put_source_back()?;
            match phase(course, pair.source()?, target, tool.as_ref()) {
                Ok(one) => seen.push(one),
                Err(error) => {
                    check_interrupted()?;
                    *failure = Some(error.to_string());
                }
            }
        }
    }
    for (tool, seen, failure) in phases {
        let name = tool.map_or_else(|| NOBODY.to_owned(), |tool| tool.name);
        let figure = match failure {
            Some(failure) => json!({ "failure": failure }),
            None => json!({
                "transactions_per_second": median(seen.iter().map(|one| one.transactions_per_second)),
                "p99_milliseconds": median(seen.iter().map(|one| one.p99_milliseconds)),
                "seconds": median(seen.iter().map(|one| one.seconds)),
            }),
        };
        say(&format!("   pgbench beside {name}: {figure}"));
        results
            .figures
            .push((format!("{LOAD_FIGURE}{name}"), figure));
    }
    Ok(())
}

fn phase(course: &Course, source: &Server, target: &Target, tool: Option<&Tool>) -> Result<Seen> {
    if tool.is_none_or(Tool::needs_empty_target) {
        target.site.clear()?;
    } else {
        target.site.put_back(&target.state)?;
    }
    let lane = Lane::open(course, source, None)?;
    lane.prepare(&target.site, Cache::Warm)?;
    let logs = tempfile::Builder::new()
        .prefix("load.")
        .tempdir_in(course.folder)?;
    crate::process::give(logs.path())?;
    let load = Background::start(&mut endless(course, source, logs.path()))?;
    pause(WARM_UP);
    let begin = now()?;
    match tool {
        None => pause(Duration::from_secs(course.args.neighbour_seconds)),
        Some(tool) => {
            lane.timed(tool, &target.site)?;
        }
    }
    let end = now()?;
    pause(COOL_DOWN);
    drop(load);
    seen(logs.path(), begin, end)
}

/// pgbench that logs each transaction, and ends when it is stopped.
fn endless(course: &Course, source: &Server, logs: &Path) -> Command {
    let mut command = course.runner.postgres_tool("pgbench");
    command.args([
        "-n", "-c", CLIENTS, "-j", THREADS, "-T", "100000", "-U", "postgres",
    ]);
    command
        .arg("-l")
        .arg(format!("--log-prefix={}", logs.join("log").display()));
    command
        .args(["-p", &source.port.to_string(), "-h"])
        .arg(source.site.folder());
    command.arg("postgres");
    command
}

/// Seconds since 1970, as pgbench logs them.
fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// What pgbench's logs say of the time between `begin` and `end`.
fn seen(logs: &Path, begin: f64, end: f64) -> Result<Seen> {
    let mut all = Vec::new();
    let mut until = end;
    for entry in fs::read_dir(logs)? {
        let log = fs::read_to_string(entry?.path())?;
        let transactions: Vec<_> = log.lines().filter_map(transaction).collect();
        // Where that was not long enough: count to the last that all have.
        until = until.min(transactions.last().map_or(begin, |last| last.0));
        all.extend(transactions);
    }
    let counted = all
        .into_iter()
        .filter(|(time, _)| (begin..=until).contains(time));
    let mut latencies: Vec<_> = counted.map(|(_, latency)| latency).collect();
    if latencies.is_empty() {
        return Err("pgbench has logged nothing while the tool ran".into());
    }
    latencies.sort_unstable();
    let p99 = latencies[(latencies.len() * 99 / 100).min(latencies.len() - 1)];
    Ok(Seen {
        seconds: end - begin,
        transactions_per_second: latencies.len() as f64 / (until - begin),
        p99_milliseconds: p99 as f64 / 1e3,
    })
}

/// End in seconds since 1970 and latency in microseconds of one line: client, number, latency, script,
/// seconds, microseconds.
fn transaction(line: &str) -> Option<(f64, u64)> {
    let mut words = line.split_whitespace();
    let latency = words.nth(2)?.parse().ok()?;
    let seconds: f64 = words.nth(1)?.parse().ok()?;
    let microseconds: f64 = words.next()?.parse().ok()?;
    Some((seconds + microseconds / 1e6, latency))
}

/// How much of the source lies in the page cache before and after a tool: what was there must stay, and
/// what nobody had asked for should not come in.
fn cache(course: &Course, pair: &mut Pair, target: &Target, results: &mut Results) -> Result<()> {
    let is_root = course.args.caches.contains(&Cache::Cold);
    for tool in [Tool::reseed(), Tool::basebackup(), Tool::rsync_delta()] {
        let mut figure = serde_json::Map::new();
        for cache in [Cache::Warm, Cache::Cold] {
            if cache == Cache::Cold && !is_root {
                continue;
            }
            pair.put_source_back()?;
            let shares = cached(course, pair.source()?, target, &tool, cache);
            let shares = shares.unwrap_or_else(|error| json!({ "failure": error.to_string() }));
            check_interrupted()?;
            figure.insert(cache.name().to_owned(), shares);
        }
        let figure = Value::Object(figure);
        say(&format!(
            "   page cache of the source, {}: {figure}",
            tool.name
        ));
        results
            .figures
            .push((format!("{CACHE_FIGURE}{}", tool.name), figure));
    }
    Ok(())
}

fn cached(
    course: &Course,
    source: &Server,
    target: &Target,
    tool: &Tool,
    cache: Cache,
) -> Result<Value> {
    if tool.needs_empty_target() {
        target.site.clear()?;
    } else {
        target.site.put_back(&target.state)?;
    }
    let lane = Lane::open(course, source, None)?;
    lane.prepare(&target.site, cache)?;
    let before = trees::cached_bytes(&source.site)?;
    lane.timed(tool, &target.site)?;
    let after = trees::cached_bytes(&source.site)?;
    Ok(json!({
        "before": before.0 as f64 / before.1 as f64,
        "after": after.0 as f64 / after.1 as f64,
    }))
}
