//! Resident memory of pg_reseed: watched while it runs, and measured with clusters that are large in every
//! way, which must not matter.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rayon::prelude::*;
use serde_json::json;

use crate::cgroup::Side;
use crate::cluster::Site;
use crate::lane::{Course, Lane};
use crate::process::{Runner, check_interrupted, give};
use crate::results::Results;
use crate::scene::{Pair, Target, touch_every};
use crate::tools::Tool;
use crate::{Result, say};

/// How often one looks. The kernel keeps the peak itself, so that only the last moments can be missed.
const STEP: Duration = Duration::from_millis(10);
/// What the kernel calls the processes that are watched.
const NAME: &str = "pg_reseed";

/// Adds files to one side.
type Add<'a> = dyn Fn(&Site) -> Result<()> + 'a;

/// Looks at the peak memory of both sides until it is ended.
pub struct Watch {
    end: Sender<()>,
    thread: JoinHandle<[u64; 2]>,
}

impl Watch {
    pub fn start(runner: &Arc<Runner>) -> Self {
        let (end, ended) = mpsc::channel();
        let runner = Arc::clone(runner);
        let thread = thread::spawn(move || {
            let mut peaks = [HashMap::new(), HashMap::new()];
            while ended.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
                look(&runner, &mut peaks);
            }
            // Several processes of a side count together.
            peaks.map(|side| side.into_values().sum())
        });
        Self { end, thread }
    }

    /// Most bytes of the source's side and of the target's.
    pub fn end(self) -> [u64; 2] {
        drop(self.end);
        self.thread.join().unwrap_or_default()
    }
}

fn look(runner: &Runner, peaks: &mut [HashMap<u32, u64>; 2]) {
    let Some(groups) = &runner.groups else {
        return;
    };
    for (side, peaks) in Side::BOTH.into_iter().zip(peaks) {
        for pid in groups.pids(side) {
            match is_ours(pid) {
                Some(true) => {
                    if let Some(bytes) = peak_bytes(pid) {
                        peaks.insert(pid, bytes);
                    }
                }
                // Until it became another program it had our name and looked as large as its parent.
                Some(false) => {
                    peaks.remove(&pid);
                }
                None => {}
            }
        }
    }
}

/// Whether a process is one of ours; `None` when it is gone.
fn is_ours(pid: u32) -> Option<bool> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim() == NAME)
}

/// The peak of a process that lives.
fn peak_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// What is allowed for reading a segment on both sides, at the speed of a slow machine.
const SECONDS_PER_SEGMENT: Duration = Duration::from_secs(5);

/// What the figures of this shape are called, before the name of the case.
pub const FIGURE: &str = "memory: ";

/// Sizes of relation segments.
const SEGMENT_BYTES: u64 = 1 << 30;
/// A relation that no catalogue knows; a rebuild takes files as they are.
const RELATION: u32 = 900_000_000;
/// Directories among which the many files are divided, as if so many databases had them.
const DIRECTORIES: u64 = 10;
/// Of the many files, every second has a block; the others are empty, as a table is before its first row.
const SMALL_BYTES: u64 = 8192;

/// Runs pg_reseed with a usual cluster, with one of enormous size, and with one of very many files.
pub fn measure(
    course: &Course,
    pair: &mut Pair,
    target: &Target,
    results: &mut Results,
) -> Result<()> {
    say("== memory: peak of both sides, whatever the size");
    let (segments, files) = (course.args.memory_segments, course.args.memory_files);
    pair.diverge(&target.state, |server| touch_every(server, 100))?;
    let cases: [(String, &Add); 3] = [
        (format!("pgbench at scale {}", course.args.scale), &|_| {
            Ok(())
        }),
        (
            format!("{segments} sparse segments of 1 GiB more"),
            &|site| add_segments(site, segments),
        ),
        (format!("{files} small files more"), &|site| {
            add_files(site, files)
        }),
    ];
    for (name, add) in cases {
        pair.put_source_back()?;
        target.site.put_back(&target.state)?;
        let source = pair.source()?;
        add(&source.site)?;
        add(&target.site)?;
        rustix::fs::sync();
        let mut lane = Lane::open(course, source, None)?;
        lane.deadline += SECONDS_PER_SEGMENT * u32::try_from(segments)?;
        let figure = match lane.timed(&Tool::reseed(), &target.site) {
            Ok(sample) => {
                let [source, target] = sample.memory_bytes.unwrap_or_default();
                json!({"source_bytes": source, "target_bytes": target, "seconds": sample.seconds})
            }
            Err(error) => {
                check_interrupted()?;
                json!({"failure": error.to_string()})
            }
        };
        say(&format!("   {name}: {figure}"));
        results.figures.push((format!("{FIGURE}{name}"), figure));
    }
    pair.put_source_back()?;
    target.site.clear()?;
    target.state.clear()
}

/// Adds a relation of so many segments that takes no room on the disk.
fn add_segments(site: &Site, segments: u64) -> Result<()> {
    let database = fs::read_dir(site.data().join("base"))?
        .next()
        .ok_or("there is no database")??;
    for segment in 0..segments {
        let name = match segment {
            0 => RELATION.to_string(),
            _ => format!("{RELATION}.{segment}"),
        };
        add_hole(&database.path().join(name), SEGMENT_BYTES)?;
    }
    Ok(())
}

/// Adds so many files of a block or of nothing.
fn add_files(site: &Site, files: u64) -> Result<()> {
    (0..DIRECTORIES).into_par_iter().try_for_each(|number| {
        let directory = site
            .data()
            .join("base")
            .join((u64::from(RELATION) + number).to_string());
        fs::create_dir(&directory)?;
        give(&directory)?;
        for file in 0..files / DIRECTORIES {
            let path = directory.join((u64::from(RELATION) + file).to_string());
            add_hole(&path, file % 2 * SMALL_BYTES)?;
        }
        Ok(())
    })
}

fn add_hole(path: &Path, bytes: u64) -> Result<()> {
    File::create(path)?.set_len(bytes)?;
    give(path)
}
