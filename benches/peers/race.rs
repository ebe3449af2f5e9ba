//! A shape is measured: each tool in turn, round by round, all from the same saved state.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::args::{Args, Cache};
use crate::cgroup::Side;
use crate::cluster::Server;
use crate::link::Link;
use crate::memory::Watch;
use crate::process::{Runner, check_interrupted, done_by};
use crate::relay::Inetd;
use crate::results::{Results, Row, Sample, ShapeFacts};
use crate::roofline::{self, Part, Work};
use crate::scene::{Pair, Target};
use crate::services::{Repository, RsyncDaemon};
use crate::shapes::Shape;
use crate::tools::{Ports, Programs, Stage, Tool, Way};
use crate::trees::{self, Differences};
use crate::{Result, host, say};

/// What all shapes share.
pub struct Course<'a> {
    pub args: &'a Args,
    pub runner: &'a Arc<Runner>,
    pub programs: &'a Programs,
    /// For logs, reports and sockets.
    pub folder: &'a Path,
    pub repository: Option<&'a Repository>,
    pub absent: &'a [&'static str],
}

/// A shape with all that its runs need.
struct Race<'a> {
    course: &'a Course<'a>,
    shape: &'a Shape,
    target: &'a Target,
    differences: Differences,
}

/// What runs on the source's side as long as its server does, and the way there.
struct Services {
    _inetd: Inetd,
    _rsync: Option<RsyncDaemon>,
    link: Option<Link>,
    ports: Ports,
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
    let relations = trees::relations(pair.saved())?;
    let facts = ShapeFacts {
        shape: shape.name,
        about: shape.about,
        files: relations.len() as u64,
        relation_bytes: relations.iter().map(|entry| entry.length).sum(),
        differing_blocks: differences.blocks(),
        compressed_bytes: trees::compressed_bytes(pair.saved(), &differences, 1)?,
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
    results.shapes.push(facts);
    let race = Race {
        course,
        shape,
        target,
        differences,
    };
    let is_out = |tool: &&Tool| course.absent.iter().any(|name| tool.name.starts_with(name));
    let wanted = |tool: &&Tool| course.args.wants_tool(&tool.name);
    let tools: Vec<_> = shape
        .tools
        .iter()
        .filter(wanted)
        .filter(|tool| !is_out(tool))
        .collect();
    let mut caches = course.args.caches.clone();
    caches.retain(|cache| *cache == Cache::Warm || !shape.is_warm_only);
    for cache in caches {
        let mut rows: Vec<_> = tools
            .iter()
            .map(|tool| Row::new(shape.name, &tool.name, cache))
            .collect();
        for round in 0..course.args.runs {
            pair.put_source_back()?;
            let services = race.services(pair.source()?)?;
            for (tool, row) in tools.iter().zip(&mut rows) {
                if row.failure.is_some() {
                    continue;
                }
                if let Err(error) = race.one(pair, &services, tool, round, row, results) {
                    check_interrupted()?;
                    say(&format!("   {:<28} FAILED: {error}", tool.name));
                    row.failure = Some(error.to_string());
                }
            }
        }
        results.rows.extend(rows);
    }
    target.site.clear()?;
    target.state.clear()
}

impl Race<'_> {
    fn services(&self, source: &Server) -> Result<Services> {
        let Course {
            runner,
            programs,
            folder,
            absent,
            ..
        } = self.course;
        let mut words = vec![programs.pg_reseed.clone().into_os_string()];
        words.extend(["serve", "--stdio", "-d", &source.local_conninfo()].map(Into::into));
        let inetd = Inetd::start(words, Arc::clone(runner))?;
        let rsync = match absent.contains(&"rsync") {
            true => None,
            false => Some(RsyncDaemon::start(&source.site, folder, runner)?),
        };
        let mut ports = Ports {
            postgres: source.port,
            agent: inetd.port,
            rsync: rsync.as_ref().map_or(0, |daemon| daemon.port),
        };
        let link = self.shape.link.map(Link::new);
        if let Some(link) = &link {
            ports = Ports {
                postgres: link.open(ports.postgres)?,
                agent: link.open(ports.agent)?,
                rsync: link.open(ports.rsync)?,
            };
        }
        Ok(Services {
            _inetd: inetd,
            _rsync: rsync,
            link,
            ports,
        })
    }

    /// One run of one tool, from the saved state to a checked result.
    fn one(
        &self,
        pair: &Pair,
        services: &Services,
        tool: &Tool,
        round: u32,
        row: &mut Row,
        results: &mut Results,
    ) -> Result<()> {
        let Target { site, state } = self.target;
        if tool.needs_empty_target() || self.shape.is_empty() {
            site.clear()?;
        } else {
            site.put_back(state, self.course.runner)?;
        }
        let source = pair.source()?;
        if tool.way == Way::RsyncEqualTimes {
            trees::equal_times(&source.site, site, &self.differences.same)?;
        }
        if tool.way == Way::Roofline {
            let parts = &mut results.shapes.last_mut().ok_or("no shape")?.parts;
            let sample = self.roofline(source, services, row.cache, parts)?;
            row.samples.push(sample);
        } else {
            let report = self.course.folder.join("report.json");
            let _ = fs::remove_file(&report);
            let sample = self.timed(source, services, tool, row.cache, &report)?;
            row.samples.push(sample);
            let text = fs::read(&report).unwrap_or_default();
            row.report = serde_json::from_slice(&text).ok().or(row.report.take());
        }
        let shown = row.samples.last().ok_or("no sample")?;
        say(&format!(
            "   {:<28} {} {:>2}  {:8.3} s  cpu {:>7}  wire {:10.3} MB",
            tool.name,
            row.cache.name(),
            round + 1,
            shown.seconds,
            shown
                .cpu_seconds
                .map_or("-".to_owned(), |[a, b]| format!("{:.2} s", a + b)),
            shown.wire_bytes as f64 / 1e6
        ));
        if round == 0 {
            let verdict = self.check(source, tool)?;
            say(&format!("   {:<28} {verdict}", ""));
            row.check = Some(verdict);
        }
        Ok(())
    }

    /// Runs the command of a tool between two looks at the counters.
    fn timed(
        &self,
        source: &Server,
        services: &Services,
        tool: &Tool,
        cache: Cache,
        report: &Path,
    ) -> Result<Sample> {
        let extra = shlex::split(&self.course.args.reseed_options)
            .ok_or("--reseed-options: quotes do not match")?;
        let stage = Stage {
            runner: self.course.runner,
            programs: self.course.programs,
            source: &source.site,
            target: &self.target.site,
            ports: services.ports,
            repository: self.course.repository,
            extra: &extra,
            report,
        };
        let mut command = stage.command(tool)?;
        self.prepare(source, cache)?;
        let watch = matches!(tool.way, Way::Reseed(_)).then(|| Watch::start(self.course.runner));
        let before = self.counters(services)?;
        let begin = Instant::now();
        let deadline = Duration::from_secs(self.course.args.deadline);
        let ended = done_by(&mut command, &self.course.folder.join("tool.log"), deadline);
        let seconds = begin.elapsed().as_secs_f64();
        let after = self.counters(services)?;
        let memory_bytes = watch.map(Watch::end);
        ended?;
        Ok(Sample {
            seconds,
            cpu_seconds: before
                .0
                .zip(after.0)
                .map(|(a, b)| [b[0] - a[0], b[1] - a[1]]),
            wire_bytes: after.1 - before.1,
            memory_bytes,
        })
    }

    fn roofline(
        &self,
        source: &Server,
        services: &Services,
        cache: Cache,
        parts: &mut Vec<(Cache, &'static str, f64)>,
    ) -> Result<Sample> {
        let work = Work {
            source: &source.site,
            target: &self.target.site,
            differences: &self.differences,
            link: services.link.as_ref(),
            is_cold: cache == Cache::Cold,
        };
        let is_first = !parts.iter().any(|(of, ..)| *of == cache);
        if is_first && !self.shape.is_empty() {
            // Neither changes what the target holds beforehand in a way that the other parts would notice.
            self.prepare(source, cache)?;
            parts.push((
                cache,
                "reading and digesting both trees",
                roofline::run(&work, Part::Compare)?,
            ));
        }
        self.prepare(source, cache)?;
        let before = self.counters(services)?;
        let seconds = roofline::run(&work, Part::All)?;
        let wire_bytes = self.counters(services)?.1 - before.1;
        if is_first && !self.shape.is_empty() && !self.differences.is_none() {
            self.prepare(source, cache)?;
            let seconds = roofline::run(&work, Part::Move)?;
            parts.push((cache, "moving, writing and syncing what differs", seconds));
        }
        Ok(Sample {
            seconds,
            wire_bytes,
            ..Sample::default()
        })
    }

    /// What is dirty is written, so that nobody pays for another's writing; then both trees are read, or
    /// forgotten.
    fn prepare(&self, source: &Server, cache: Cache) -> Result<()> {
        rustix::fs::sync();
        match cache {
            Cache::Cold => host::drop_page_cache(),
            Cache::Warm => {
                trees::read_all(&source.site)?;
                if self.target.site.data().exists() {
                    trees::read_all(&self.target.site)?;
                }
                Ok(())
            }
        }
    }

    /// CPU time of both sides, and bytes on the wire: the link's own where there is one.
    fn counters(&self, services: &Services) -> Result<(Option<[f64; 2]>, u64)> {
        let groups = self.course.runner.groups.as_ref();
        let cpu = groups.and_then(|groups| {
            let source = groups.cpu_seconds(Side::Source)?;
            Some([source, groups.cpu_seconds(Side::Target)?])
        });
        let wire = match &services.link {
            Some(link) => link.carried_bytes(),
            None => host::loopback_bytes()?,
        };
        Ok((cpu, wire))
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
        standby.stop()?;
        // What a backup took before its end, WAL has made right by now.
        let rest = trees::compare(&source.site, site)?;
        if !rest.is_none() {
            let names: Vec<_> = rest
                .files
                .iter()
                .take(3)
                .map(|file| file.path.display().to_string())
                .collect();
            let count = rest.blocks();
            return Err(format!(
                "streams, but {count} blocks differ from the source: {}, files too many: {:?}",
                names.join(", "),
                rest.extra
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
