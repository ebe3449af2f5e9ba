//! A shape is measured: each tool in turn, round by round, all from the same saved state.

use crate::args::Cache;
use crate::cluster::Server;
use crate::failover;
use crate::lane::{Course, Lane};
use crate::process::check_interrupted;
use crate::results::{Results, Row, Sample, ShapeFacts};
use crate::roofline::{self, Part, Work};
use crate::scene::{Pair, Target};
use crate::shapes::Shape;
use crate::tools::{Tool, Way};
use crate::trees::{self, Differences};
use crate::{Result, say};

/// Ways of the roofline to read that are tried a second time.
const FINALISTS: usize = 4;

/// A shape with all that its runs need.
struct Race<'a> {
    course: &'a Course<'a>,
    shape: &'a Shape,
    target: &'a Target,
    differences: Differences,
    /// Of the source, see [`Pair`].
    rows: Option<String>,
}

/// Measures one shape; failures of tools are rows, others end the benchmark.
pub fn run(
    course: &Course,
    pair: &mut Pair,
    shape: &Shape,
    target: &Target,
    results: &mut Results,
) -> Result<()> {
    say(&format!("== {}: {}", shape.name.name(), shape.about));
    shape.make(pair, &target.state)?;
    let differences = trees::compare(pair.saved(), &target.state)?;
    results.shapes.push(facts(pair, shape, &differences)?);
    let race = Race {
        course,
        shape,
        target,
        differences,
        rows: pair.rows.clone(),
    };
    let mut caches = course.args.caches.clone();
    caches.retain(|cache| *cache == Cache::Warm || !shape.is_warm_only);
    for cache in caches {
        let rows = race.with_cache(pair, cache, results)?;
        results.rows.extend(rows);
    }
    target.site.clear()?;
    target.state.clear()
}

fn facts(pair: &Pair, shape: &Shape, differences: &Differences) -> Result<ShapeFacts> {
    let relations = trees::relations(pair.saved())?;
    let facts = ShapeFacts {
        shape: shape.name,
        about: shape.about,
        files: relations.len() as u64,
        relation_bytes: relations.iter().map(|entry| entry.length).sum(),
        differing_blocks: differences.blocks(),
        compressed_bytes: trees::compressed_bytes(pair.saved(), differences)?,
        parts: Vec::new(),
    };
    say(&format!(
        "   {} files of relations, {:.0} MB; {} blocks differ, {:.1} MB, by zstd:1 {:.1} MB",
        facts.files,
        facts.relation_bytes as f64 / 1e6,
        facts.differing_blocks,
        facts.differing_bytes() as f64 / 1e6,
        facts.compressed_bytes as f64 / 1e6,
    ));
    Ok(facts)
}

impl Race<'_> {
    /// All rounds with one state of the page cache.
    fn with_cache(&self, pair: &mut Pair, cache: Cache, results: &mut Results) -> Result<Vec<Row>> {
        let course = self.course;
        let is_out = |tool: &Tool| {
            let is_absent = course.absent.iter().any(|name| tool.name.starts_with(name));
            is_absent
                || !course.args.wants_tool(&tool.name)
                || (tool.needs_ssh() && !course.args.ssh)
        };
        let tools: Vec<_> = self
            .shape
            .tools
            .iter()
            .filter(|tool| !is_out(tool))
            .collect();
        let row = |tool: &&Tool| Row::new(self.shape.name, &tool.name, cache);
        let mut rows: Vec<_> = tools.iter().map(row).collect();
        for round in 0..course.args.runs {
            pair.put_source_back()?;
            let lane = Lane::open(course, pair.source()?, self.shape.link)?;
            for (tool, row) in tools.iter().zip(&mut rows) {
                if row.failure.is_some() {
                    continue;
                }
                if let Err(error) = self.one(&lane, tool, round, row, results) {
                    check_interrupted()?;
                    say(&format!("   {:<28} FAILED: {error}", tool.name));
                    row.failure = Some(error.to_string());
                }
            }
        }
        Ok(rows)
    }

    /// One run of one tool, from the saved state to a checked result.
    fn one(
        &self,
        lane: &Lane,
        tool: &Tool,
        round: u32,
        row: &mut Row,
        results: &mut Results,
    ) -> Result<()> {
        let Target { site, state } = self.target;
        if tool.needs_empty_target() || self.shape.is_empty() {
            site.clear()?;
        } else {
            site.put_back(state)?;
        }
        if tool.way == Way::RsyncEqualTimes {
            trees::equal_times(&lane.source.site, site, &self.differences.same)?;
        }
        let sample = if tool.way == Way::Roofline {
            let way = match row.cache {
                Cache::Warm => roofline::Way::warm(),
                Cache::Cold => self.cold_way(lane, results)?,
            };
            let parts = &mut results.shapes.last_mut().ok_or("no shape")?.parts;
            self.roofline(lane, row.cache, way, parts)?
        } else {
            lane.prepare(site, row.cache)?;
            lane.timed(tool, site)?
        };
        let cpu = sample.cpu_seconds.map(|[source, target]| source + target);
        say(&format!(
            "   {:<28} {} {:>2}  {:8.3} s  cpu {:>7}  wire {:10.3} MB",
            tool.name,
            row.cache.name(),
            round + 1,
            sample.seconds,
            cpu.map_or("-".to_owned(), |cpu| format!("{cpu:.2} s")),
            sample.wire_bytes as f64 / 1e6
        ));
        row.samples.push(sample);
        if matches!(tool.way, Way::Reseed(_)) {
            row.report = lane.report();
            row.wal_packed_bytes = Some(trees::packed_wal_bytes(site)?);
        }
        if round == 0 {
            let verdict = self.check(lane.source, tool)?;
            say(&format!("   {:<28} {verdict}", ""));
            row.check = Some(verdict);
        }
        Ok(())
    }

    /// How the roofline reads with a cold cache: what was the fastest to read both trees, of all ways once, and of
    /// the first few once more. A disk's property: found once, and used for all shapes.
    fn cold_way(&self, lane: &Lane, results: &mut Results) -> Result<roofline::Way> {
        if let Some(way) = results.cold_way {
            return Ok(way);
        }
        let target = &self.target.site;
        let mut ways: Vec<_> = roofline::Way::cold()
            .into_iter()
            .map(|way| (way, f64::MAX))
            .collect();
        for _ in 0..2 {
            for (way, best) in &mut ways {
                lane.prepare(target, Cache::Cold)?;
                let work = Work {
                    source: &lane.source.site,
                    target,
                    differences: &self.differences,
                    link: None,
                    way: *way,
                };
                let seconds = roofline::run(&work, Part::Compare)?.seconds;
                *best = best.min(seconds);
                say(&format!("   roofline tries {way}: {seconds:.3} s"));
            }
            ways.sort_by(|a, b| a.1.total_cmp(&b.1));
            ways.truncate(FINALISTS);
        }
        let way = ways.first().ok_or("no way to read")?.0;
        let note = format!("the roofline reads with a cold cache: {way}");
        say(&format!("   {note}"));
        results.notes.push(note);
        results.cold_way = Some(way);
        Ok(way)
    }

    fn roofline(
        &self,
        lane: &Lane,
        cache: Cache,
        way: roofline::Way,
        parts: &mut Vec<(Cache, &'static str, f64)>,
    ) -> Result<Sample> {
        let target = &self.target.site;
        let work = Work {
            source: &lane.source.site,
            target,
            differences: &self.differences,
            link: lane.link.as_ref(),
            way,
        };
        let is_first = !parts.iter().any(|(of, ..)| *of == cache) && !self.shape.is_empty();
        if is_first {
            lane.prepare(target, cache)?;
            let seconds = roofline::run(&work, Part::Compare)?.seconds;
            parts.push((cache, "reading and digesting both trees", seconds));
        }
        lane.prepare(target, cache)?;
        let before = lane.wire_bytes()?;
        let done = roofline::run(&work, Part::All)?;
        let wire_bytes = lane.wire_bytes()? - before;
        if is_first && !self.differences.is_none() {
            // Once more over what is right already: the same work for the disk.
            lane.prepare(target, cache)?;
            let seconds = roofline::run(&work, Part::Move)?.seconds;
            parts.push((cache, "moving, writing and syncing what differs", seconds));
        }
        Ok(Sample { wire_bytes, ..done })
    }

    /// Compares every relation with the source's, then starts the standby and sees it stream.
    fn check(&self, source: &Server, tool: &Tool) -> Result<String> {
        let site = &self.target.site;
        // What the server has in memory only is no fault of the tool.
        source.ask("postgres", "CHECKPOINT")?;
        let found = trees::compare(&source.site, site)?;
        let blocks = found.blocks();
        if tool.way == Way::Roofline {
            return match blocks {
                0 => Ok("all relations are equal".to_owned()),
                _ => Err(format!("{blocks} blocks differ from the source").into()),
            };
        }
        let standby = Server::start(site, None, &["fsync=off"], self.course.runner)?;
        source.await_standby()?;
        // What it does not move comes by replay, which sets no hint bits and the like: its rows are compared.
        let rows = match (&self.rows, &tool.way) {
            (Some(rows), Way::Rewind) => Some(failover::rows(&standby)? == *rows),
            _ => None,
        };
        standby.stop()?;
        // What a backup took before its end, WAL has made right by now.
        let rest = trees::compare(&source.site, site)?;
        if rows == Some(true) && !rest.is_none() {
            return Ok(format!(
                "it streams, and all rows are equal ({} blocks differ)",
                rest.blocks()
            ));
        }
        if !rest.is_none() || rows == Some(false) {
            let names = rest
                .files
                .iter()
                .take(3)
                .map(|file| file.path.display().to_string());
            let names = names.collect::<Vec<_>>().join(", ");
            let (count, extra) = (rest.blocks(), rest.extra.len());
            return Err(format!(
                "streams, but {count} blocks differ from the source ({names}), {extra} files are too many"
            )
            .into());
        }
        Ok(match blocks {
            0 => "all relations are equal; it streams".to_owned(),
            _ => format!(
                "it streams, and then all relations are equal ({blocks} blocks differed before)"
            ),
        })
    }
}
