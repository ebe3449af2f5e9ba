//! The passes of a verification, and the looks of each.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future;

use crate::client::failure::{Failure, TargetState};
use crate::client::source::{Source, SourceError};
use crate::client::transfer::error::TransferError;
use crate::client::transfer::here::TargetWalk;
use crate::client::transfer::judge::{Earlier, Found, Jury, Still, WrongBlock, Xacts};
use crate::client::transfer::lists::manifest;
use crate::client::transfer::places::{Places, runs};
use crate::client::transfer::ranges::Transfer;
use crate::client::transfer::sink::Sink;
use crate::client::transfer::task::{chosen, tasks};
use crate::client::verify::Verify;
use crate::client::verify::files::Files;
use crate::client::verify::lists::{Alone, Lists, Work};
use crate::client::verify::others::{Others, differing};
use crate::compare::verdict::{Fault, Law};
use crate::compare::xacts::XactLaw;
use crate::disk::facts as disk;
use crate::disk::root::Roots;
use crate::event::{Counters, Event, Stage};
use crate::facts::{Running, SourceFacts, Tablespace, TargetCluster};
use crate::pg::control::ControlFile;
use crate::pg::lsn::Lsn;
use crate::plan::relation::Relation;
use crate::plan::verifiable::{settled_xids, threshold, version_directory};
use crate::wire::message::{Answer, Request, SILENT_AFTER};
use crate::workers;

/// How often a block that seems wrong is looked at in a pass while a server may be writing it: a page that is being
/// written looks torn.
const LOOKS: usize = 3;

/// Time between two of them.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// How often the control files are read while a pass waits for a checkpoint.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How often a control file is read that is being written, and the time between.
const CONTROL_READS: usize = 10;
const CONTROL_PAUSE: Duration = Duration::from_millis(10);

/// Both sides, and how they are reached.
pub struct Scene<'a> {
    pub run: &'a Verify<'a>,
    pub source: &'a Source,
    pub facts: &'a SourceFacts,
    pub cluster: &'a TargetCluster,
    pub relation: &'a Relation,
    roots: Arc<Roots>,
    began: Instant,
}

/// What all passes have found.
#[derive(Default)]
pub struct Sum {
    pub passes: u32,
    pub threshold: Lsn,
    pub files: u64,
    pub blocks: u64,
    pub noise: Places,
    pub all_visible: Places,
    pub map_doubts: u64,
    pub unknown: Places,
    /// What the last pass could not compare.
    pub pending: Places,
    pub wrong: Vec<WrongBlock>,
    /// Files that are wrong as a whole.
    pub of_files: Files,
    /// Files that are no relation's.
    pub others: Others,
    pub seconds: f64,
}

/// Both control files.
struct Controls {
    ours: ControlFile,
    theirs: ControlFile,
}

impl Controls {
    fn threshold(&self) -> Lsn {
        threshold(&self.ours, &self.theirs)
    }
}

/// By what a pass judges.
struct Terms {
    law: Law,
    xacts: Arc<Xacts>,
    settled: XactLaw,
    earlier: Vec<Arc<Earlier>>,
    still: Still,
}

/// What is looked at.
enum What<'a> {
    All(&'a Work),
    These(&'a Places),
}

impl<'a> Scene<'a> {
    /// Opens the standby's directories.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(
        run: &'a Verify<'a>,
        source: &'a Source,
        facts: &'a SourceFacts,
        cluster: &'a TargetCluster,
        relation: &'a Relation,
    ) -> Result<Self, Failure> {
        let located: Vec<(u32, PathBuf)> = cluster
            .tablespaces
            .iter()
            .filter_map(|space| Some((space.oid, location(space)?)))
            .collect();
        let places = located.iter().map(|(oid, path)| (*oid, path.as_path()));
        let roots =
            Roots::open(&run.options.pgdata, places).map_err(|error| Failure::untouched(&error))?;
        Ok(Self {
            run,
            source,
            facts,
            cluster,
            relation,
            roots: Arc::new(roots),
            began: Instant::now(),
        })
    }

    /// Whether a server may be changing the standby.
    #[must_use]
    pub fn standby_runs(&self) -> bool {
        self.cluster.running != Running::No
    }

    /// Makes all passes. `control` is the standby's control file, as it was when it was looked at.
    ///
    /// # Errors
    /// The source cannot be asked, the standby cannot be read, or one of them became something else meanwhile.
    pub async fn compare(&self, control: &ControlFile) -> Result<Sum, Failure> {
        let mut sum = Sum::default();
        let mut earlier: Vec<Arc<Earlier>> = Vec::new();
        let mut controls = Controls {
            ours: control.clone(),
            theirs: self.facts.control.clone(),
        };
        loop {
            sum.passes += 1;
            sum.threshold = controls.threshold();
            let terms = self.terms(&controls, &earlier);
            let (end, one_sided) = self.pass(&terms, &mut sum).await?;
            let is_done = sum.pending.is_empty() && !sum.others.is_waiting();
            let is_last = is_done || sum.passes >= self.run.options.passes;
            if is_last || !self.can_move_on(&controls) {
                break;
            }
            let next = Lsn(sum.threshold.0.saturating_add(1));
            let wanted = if one_sided.is_empty() && !sum.others.is_waiting() {
                next
            } else {
                end.max(next)
            };
            earlier.push(Arc::new(Earlier { end, one_sided }));
            controls = self.wait(&controls, wanted).await?;
        }
        self.check_rest(control).await?;
        sum.seconds = self.began.elapsed().as_secs_f64();
        Ok(sum)
    }

    fn terms(&self, controls: &Controls, earlier: &[Arc<Earlier>]) -> Terms {
        let Controls { ours, theirs } = controls;
        let is_ended = self.facts.is_stopped && theirs.state.is_shut_down();
        let settled = XactLaw::of(settled_xids(theirs), settled_xids(ours));
        let is_final = is_ended && theirs.redo <= ours.redo;
        Terms {
            law: Law {
                threshold: controls.threshold(),
                source_has_checksums: theirs.has_checksums(),
                standby_has_checksums: ours.has_checksums(),
            },
            xacts: Arc::new(Xacts::new(
                Arc::clone(&self.roots),
                settled_xids(ours),
                ours.block_bytes,
            )),
            settled: if is_final {
                settled.at_the_end()
            } else {
                settled
            },
            earlier: earlier.to_vec(),
            still: Still {
                is_standby: !self.standby_runs(),
                source_end: is_ended.then_some(theirs.redo),
            },
        }
    }

    /// One pass. Returns the source's end of WAL after it, and what only one side had.
    async fn pass(&self, terms: &Terms, sum: &mut Sum) -> Result<(Lsn, Places), Failure> {
        let is_first = sum.passes == 1;
        self.run.stage(Stage::Manifest);
        let lists = self.lists().await?;
        let work = lists.all(is_first && terms.still.is_standby, &terms.settled);
        let these = std::mem::take(&mut sum.pending).without(|path| {
            work.only_source.contains_key(path) || work.only_standby.contains_key(path)
        });
        if is_first {
            self.plan(&work);
            sum.files = work.main_files;
            sum.blocks = work.blocks;
        }
        self.run.stage(Stage::Compare);
        let what = if is_first {
            What::All(&work)
        } else {
            What::These(&these)
        };
        let mut found = self.look(terms, &lists, &what).await?;
        let looks = if self.standby_runs() || !self.facts.is_stopped {
            LOOKS
        } else {
            1
        };
        for _ in 1..looks {
            if found.suspects.is_empty() {
                break;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
            let suspects = std::mem::take(&mut found.suspects);
            found.wrong.clear();
            let again = self.look(terms, &lists, &What::These(&suspects)).await?;
            found.take(again);
        }
        let key = &self.run.key;
        let others = differing(&lists, self.source, &self.roots, key).await?;
        let end = self.position().await?;
        let source_end = terms.still.source_end;
        sum.others
            .judge(others, terms.law.threshold, end, source_end);
        let has_old = |wrong: &WrongBlock| wrong.fault == Fault::MissingOnStandby;
        let pending = sum
            .of_files
            .judge(&work, terms.law.threshold, end, source_end, |path| {
                let mut wrong = found.wrong.iter();
                wrong.any(|wrong| wrong.path == *path && has_old(wrong))
            });
        sum.noise.add(&found.noise);
        sum.unknown.add(&found.unknown);
        sum.all_visible.add(&found.all_visible);
        sum.map_doubts = if is_first {
            found.map_doubts
        } else {
            sum.map_doubts
        };
        let of_files = &sum.of_files;
        found.wrong.retain(|wrong| !of_files.is_wrong(&wrong.path));
        sum.wrong.append(&mut found.wrong);
        let mut all = found.changed;
        all.add(&found.one_sided);
        for (path, blocks) in &pending {
            all.insert_first(path, *blocks);
        }
        sum.pending = all.without(|path| of_files.is_wrong(path));
        let mut one_sided = found.one_sided;
        for (path, _) in &pending {
            // So that the next pass waits for them, too.
            one_sided.insert(path, 0);
        }
        Ok((end, one_sided))
    }

    /// Lists both sides.
    async fn lists(&self) -> Result<Lists, Failure> {
        let options = self.run.options;
        let walk = TargetWalk::of_cluster(
            &options.pgdata,
            &self.cluster.tablespaces,
            &version_directory(self.facts),
            self.run.reach.jobs,
        )
        .map_err(|error| Failure::untouched(&error))?;
        let walked = self.run.workers.run(move || walk.walk());
        let (manifest, walked) = future::join(manifest(self.run, self.source), walked).await;
        let (manifest, end) = manifest.map_err(|error| error.untouched())?;
        if let Some(path) = end.unreadable.first() {
            let error = format!("the agent may not read \"{path}\" on the source");
            return Err(Failure::new(TargetState::Untouched, error)
                .hint("Run the agent as the owner of the source's data directory."));
        }
        Ok(Lists {
            manifest,
            walked: walked
                .map_err(|error| Failure::untouched(&error))?
                .map_err(|error| Failure::untouched(&error))?,
            block_bytes: u64::from(self.facts.control.block_bytes),
        })
    }

    fn plan(&self, work: &Work) {
        let compared = work.files.iter().map(|file| file.common);
        let fetched = work.files.iter().map(|file| file.bytes - file.common);
        let compare_bytes = compared.fold(0, u64::saturating_add);
        let fetch_bytes = fetched.fold(0, u64::saturating_add);
        self.run.record.note(|outcome| {
            outcome.compare_bytes = Some(compare_bytes);
            outcome.fetch_bytes = Some(fetch_bytes);
        });
        self.run.events.tell(&Event::Planned {
            files: work.files.len() as u64,
            compare_bytes,
            fetch_bytes,
        });
    }

    /// Compares and judges.
    async fn look(&self, terms: &Terms, lists: &Lists, what: &What<'_>) -> Result<Found, Failure> {
        let control = &self.facts.control;
        let jury = Arc::new(Jury {
            roots: Arc::clone(&self.roots),
            law: terms.law,
            block_bytes: control.block_bytes,
            segment_blocks: control.segment_blocks,
            xacts: Arc::clone(&terms.xacts),
            settled: terms.settled,
            earlier: terms.earlier.clone(),
            still: terms.still,
            found: std::sync::Mutex::default(),
        });
        let transfer = Transfer::new(
            self.source.clone(),
            Sink::Judge(Arc::clone(&jury)),
            self.run.workers.clone(),
            Arc::clone(self.run.events.counters()),
            self.run.key,
            control.block_bytes,
        )
        .patching(true);
        let mut alone: Vec<Alone> = Vec::new();
        let done = match what {
            What::All(work) => {
                alone.clone_from(&work.alone);
                transfer.run_tasks(tasks(work.files.iter().cloned())).await
            }
            What::These(places) => {
                let mut files = Vec::new();
                for (path, blocks) in places.iter() {
                    let (work, rest) = lists.of_file(path);
                    files.extend(work.map(|work| (work, blocks)));
                    let Some((_, there, here)) = rest else {
                        continue;
                    };
                    let own = runs(blocks, here).filter(|(_, end)| *end > there);
                    alone.extend(own.map(|(first, end)| (path.clone(), first.max(there), end)));
                }
                let files = files.into_iter();
                transfer.run_tasks(chosen(files, control.block_bytes)).await
            }
        };
        done.map_err(|error| failed(&error))?;
        for (path, first, end) in alone {
            let jury = Arc::clone(&jury);
            let heard = move || jury.hear_alone(&path, first, end);
            let heard = self.run.workers.run(heard).await;
            heard
                .map_err(|error| Failure::untouched(&error))?
                .map_err(|error| Failure::untouched(&error))?;
        }
        let mut found = jury.found();
        Ok(std::mem::take(&mut *found))
    }

    /// Waits for what is answered at once, or never: an agent that is there and says nothing is not waited for.
    pub async fn soon<T>(
        &self,
        asked: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(SILENT_AFTER, asked).await {
            Ok(answer) => answer.map_err(|error| error.untouched()),
            Err(_) => {
                let seconds = SILENT_AFTER.as_secs();
                let error = format!("the agent did not answer within {seconds} s");
                Err(Failure::new(TargetState::Untouched, error)
                    .hint("Look at the source's host, and run the same command again."))
            }
        }
    }

    /// The source's end of WAL.
    async fn position(&self) -> Result<Lsn, Failure> {
        let (_, lsn) = self.soon(self.source.position()).await?;
        Ok(lsn)
    }

    /// Whether the threshold can rise: the side that holds it back runs.
    fn can_move_on(&self, controls: &Controls) -> bool {
        let threshold = controls.threshold();
        let is_held = |control: &ControlFile, runs: bool| control.redo == threshold && !runs;
        !is_held(&controls.ours, self.standby_runs())
            && !is_held(&controls.theirs, !self.facts.is_stopped)
    }

    /// Waits for checkpoints of both sides, as long as that may take.
    async fn wait(&self, before: &Controls, wanted: Lsn) -> Result<Controls, Failure> {
        let until = Instant::now() + self.run.options.wait;
        loop {
            let now = self.controls().await?;
            if now.threshold() >= wanted || Instant::now() >= until {
                let moved = now.threshold().bytes_since(before.threshold());
                tracing::debug!("the checkpoints moved on by {moved} bytes");
                return Ok(now);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Both control files as they are now.
    async fn controls(&self) -> Result<Controls, Failure> {
        let ours = self.own_control()?;
        let theirs = match self
            .soon(self.source.ask(&Request::Control, Vec::new()))
            .await?
        {
            (Answer::Control, body) => ControlFile::decode(&body).ok(),
            _ => None,
        };
        let theirs = theirs.ok_or_else(|| SourceError::Unfitting("control file").untouched())?;
        let is_same = |control: &ControlFile| {
            control.system_identifier == self.facts.control.system_identifier
        };
        let history = &self.facts.history.entries;
        let is_common = history.iter().any(|entry| entry.timeline == ours.timeline);
        if !is_same(&ours)
            || !is_same(&theirs)
            || !is_common
            || theirs.timeline > self.facts.timeline
        {
            return Err(Failure::new(
                TargetState::Untouched,
                "one of both servers went to another timeline meanwhile",
            )
            .hint("Run the same command again."));
        }
        Ok(Controls { ours, theirs })
    }

    fn own_control(&self) -> Result<ControlFile, Failure> {
        let path = self.run.options.pgdata.join("global/pg_control");
        workers::in_place(|| {
            let mut reads = 0;
            loop {
                let bytes =
                    disk::control_file(&path).map_err(|error| Failure::untouched(&error))?;
                reads += 1;
                match ControlFile::decode(&bytes) {
                    Ok(control) => return Ok(control),
                    Err(error) if reads == CONTROL_READS => {
                        return Err(Failure::untouched(&error));
                    }
                    Err(_) => workers::pause(CONTROL_PAUSE),
                }
            }
        })
    }

    /// Makes sure that no server was started where none ran: what was seen then is of different moments.
    async fn check_rest(&self, control: &ControlFile) -> Result<(), Failure> {
        let was_started = |side: &str| {
            let error = format!("a server was started in the {side}'s data directory meanwhile");
            Failure::new(TargetState::Untouched, error).hint("Run the same command again.")
        };
        if !self.standby_runs() && !self.own_control()?.is_still(control) {
            return Err(was_started("standby"));
        }
        if self.facts.is_stopped && self.controls().await?.theirs != self.facts.control {
            return Err(was_started("source"));
        }
        Ok(())
    }
}

/// Where a tablespace is that is no directory of the data directory itself.
fn location(space: &Tablespace) -> Option<PathBuf> {
    let location = space.location.as_deref()?;
    Some(PathBuf::from(OsStr::from_bytes(location)))
}

fn failed(error: &TransferError) -> Failure {
    let failure = Failure::untouched(error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// What was counted on the way.
#[must_use]
pub fn counted(run: &Verify<'_>) -> (u64, u64) {
    let counters = run.events.counters();
    (
        Counters::read(&counters.compared_bytes),
        Counters::read(&counters.wire_received_bytes),
    )
}
