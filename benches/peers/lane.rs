//! The way between the two sides: what runs beside the source's server, the link if the shape has one, and
//! one timed run of a tool over it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::args::{Args, Cache};
use crate::cgroup::Side;
use crate::cluster::{Server, Site};
use crate::link::{self, Link};
use crate::memory::Watch;
use crate::process::{Runner, done_by};
use crate::relay::Inetd;
use crate::results::Sample;
use crate::services::{Repository, RsyncDaemon, Sshd};
use crate::tools::{Ports, Programs, Stage, Tool, Way};
use crate::{Result, host, trees};

/// What all shapes share.
#[derive(Clone, Copy)]
pub struct Course<'a> {
    pub args: &'a Args,
    pub runner: &'a Arc<Runner>,
    pub programs: &'a Programs,
    /// For logs, reports and sockets.
    pub folder: &'a Path,
    pub repository: Option<&'a Repository>,
    pub absent: &'a [&'static str],
}

/// The way to one running source, as long as it runs.
pub struct Lane<'a> {
    pub course: &'a Course<'a>,
    pub source: &'a Server<'a>,
    pub link: Option<Link>,
    /// After which a tool is stopped.
    pub deadline: Duration,
    ports: Ports,
    sshd: Option<Sshd>,
    _inetd: Inetd,
    _rsync: Option<RsyncDaemon>,
}

/// The counters of both sides at a moment.
struct Counters {
    cpu_seconds: Option<[f64; 2]>,
    wire_bytes: u64,
}

impl<'a> Lane<'a> {
    pub fn open(
        course: &'a Course,
        source: &'a Server,
        shape: Option<link::Shape>,
    ) -> Result<Self> {
        let mut words = vec![course.programs.pg_reseed.clone().into_os_string()];
        words.extend(["serve", "--stdio", "-d", &source.local_conninfo()].map(Into::into));
        let inetd = Inetd::start(words, Arc::clone(course.runner))?;
        let rsync = if course.absent.contains(&"rsync") {
            None
        } else {
            Some(RsyncDaemon::start(
                &source.site,
                course.folder,
                course.runner,
            )?)
        };
        let sshd = if course.args.ssh {
            Some(Sshd::start(course.folder, course.runner)?)
        } else {
            None
        };
        let mut ports = Ports {
            postgres: source.port,
            agent: inetd.port,
            rsync: rsync.as_ref().map_or(0, |daemon| daemon.port),
        };
        let link = shape.map(Link::new);
        if let Some(link) = &link {
            ports = Ports {
                postgres: link.open(ports.postgres)?,
                agent: link.open(ports.agent)?,
                rsync: link.open(ports.rsync)?,
            };
        }
        Ok(Self {
            course,
            source,
            link,
            deadline: Duration::from_secs(course.args.deadline),
            ports,
            sshd,
            _inetd: inetd,
            _rsync: rsync,
        })
    }

    /// Runs a tool between two looks at the counters, with the caches as they are.
    pub fn timed(&self, tool: &Tool, target: &Site) -> Result<Sample> {
        let Course {
            args,
            runner,
            programs,
            folder,
            repository,
            ..
        } = *self.course;
        let report = self.report_path();
        let _ = fs::remove_file(&report);
        let stage = Stage {
            runner,
            programs,
            source: &self.source.site,
            target,
            ports: self.ports,
            repository,
            sshd: self.sshd.as_ref(),
            agent_conninfo: self.source.local_conninfo(),
            extra: &shlex::split(&args.reseed_options)
                .ok_or("--reseed-options: quotes do not match")?,
            report: &report,
        };
        let mut command = stage.command(tool)?;
        let watch =
            matches!(tool.way, Way::Reseed(_) | Way::ReseedBySsh).then(|| Watch::start(runner));
        let before = self.counters()?;
        let begin = Instant::now();
        let ended = done_by(&mut command, &folder.join("tool.log"), self.deadline);
        let seconds = begin.elapsed().as_secs_f64();
        let after = self.counters()?;
        let memory_bytes = watch.map(Watch::end);
        ended?;
        let cpu = before.cpu_seconds.zip(after.cpu_seconds);
        Ok(Sample {
            seconds,
            cpu_seconds: cpu.map(|(a, b)| [b[0] - a[0], b[1] - a[1]]),
            wire_bytes: after.wire_bytes - before.wire_bytes,
            memory_bytes,
        })
    }

    /// What pg_reseed's last run has reported.
    pub fn report(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.report_path()).ok()?).ok()
    }

    fn report_path(&self) -> PathBuf {
        self.course.folder.join("report.json")
    }

    /// What is dirty is written, so that nobody pays for another's writing; then both trees are read, or
    /// forgotten.
    pub fn prepare(&self, target: &Site, cache: Cache) -> Result<()> {
        rustix::fs::sync();
        match cache {
            Cache::Cold => host::drop_page_cache(),
            Cache::Warm => {
                // Where the saved states fill the memory, little of what is read now would stay. The programs go
                // too, so only there.
                let bytes: u64 = trees::files(&self.source.site)?
                    .iter()
                    .map(|entry| entry.length)
                    .sum();
                if bytes > host::memory_bytes() / 10 && host::can_drop_page_cache() {
                    host::drop_page_cache()?;
                }
                trees::read_all(&self.source.site)?;
                if target.data().exists() {
                    trees::read_all(target)?;
                }
                Ok(())
            }
        }
    }

    /// Bytes on the wire so far: the link's own where there is one.
    pub fn wire_bytes(&self) -> Result<u64> {
        match &self.link {
            Some(link) => Ok(link.carried_bytes()),
            None => host::loopback_bytes(),
        }
    }

    fn counters(&self) -> Result<Counters> {
        let groups = self.course.runner.groups.as_ref();
        let cpu_seconds = groups.and_then(|groups| {
            let source = groups.cpu_seconds(Side::Source)?;
            Some([source, groups.cpu_seconds(Side::Target)?])
        });
        Ok(Counters {
            cpu_seconds,
            wire_bytes: self.wire_bytes()?,
        })
    }
}
