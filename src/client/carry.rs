//! Behind the point of no return: everything comes, what must not be there goes, and the target becomes
//! a standby.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::sync::watch;

use crate::client::close::configuration::Staged;
use crate::client::failure::{Failure, Kind, TargetState};
use crate::client::finish::ahead::{self, Ahead};
use crate::client::finish::copy::{self, Copy};
use crate::client::finish::launch::Finished;
use crate::client::finish::summary::Noted;
use crate::client::finish::wal::{self, Stopped};
use crate::client::look::{adoption, conf, server, settings};
use crate::client::prepare::Half;
use crate::client::run::Run;
use crate::client::source::{Source, SourceError};
use crate::client::transfer::lists::{lists, plan};
use crate::client::transfer::ranges::{Found, Transfer};
use crate::client::transfer::sink::Sink;
use crate::client::transfer::work::Work;
use crate::disk::DiskError;
use crate::disk::confine::{self, Confined};
use crate::disk::target::{ClosedTarget, Settle};
use crate::errors::chain;
use crate::event::{Counters, Stage};
use crate::facts::clone::Mark;
use crate::facts::{SourceFacts, TargetCluster};
use crate::path::RelPath;
use crate::pg::control::poison_checkpoint;
use crate::pg::label::BackupLabel;
use crate::pg::layout;
use crate::pg::lsn::Lsn;
use crate::plan::adoption::Home;
use crate::plan::clone;
use crate::plan::guard::{self, Cleared};
use crate::plan::refusal::Refusal;
use crate::plan::replay::{self, Spoiled};
use crate::plan::standby::{self as standby_plan, Role, StandbySettings};
use crate::plan::tablespaces;
use crate::plan::words;
use crate::warning::Code;
use crate::wire::message::{Answer, Request, SlotWish};
use crate::workers;

/// What the run has when all has come but the end.
pub(super) struct Carried {
    facts: SourceFacts,
    target: Arc<ClosedTarget>,
    cleared: Cleared,
    before: Option<TargetCluster>,
    work: Work,
    noted: Noted,
    start_lsn: Lsn,
    stop_lsn: Lsn,
    label: BackupLabel,
    control: Vec<u8>,
    old_auto_conf: Vec<u8>,
    standby: StandbySettings,
    configuration: Option<Staged>,
    adoption: Option<Home>,
    former: Option<Mark>,
    bindir: Option<PathBuf>,
}

/// Most backups of one run. What spoils one is over in moments, unless somebody does it all the time.
const BACKUPS_MAX: u32 = 4;

/// Brings everything, and ends the backup: the first one that replay makes into what the source had.
///
/// # Errors
/// A failure that leaves the target half-way.
pub(super) async fn carry_out(run: &Run<'_>, mut half: Half) -> Result<Carried, Failure> {
    workers::in_place(|| confine(run, &half.target, &half.cleared, &half.work));
    let mut noted = Noted::default();
    let mut number = 1;
    loop {
        let (brought, spoiled) = bring(run, &half, &mut noted).await?;
        let Some(spoiled) = spoiled else {
            return Ok(carried(half, brought, noted));
        };
        let reason = spoiled.reason();
        if number == BACKUPS_MAX {
            let error = format!("no backup of {BACKUPS_MAX} can be used: {reason}");
            return Err(Failure::new(TargetState::HalfWay, error)
                .detail(
                    "Replay copies files where a database is moved or copied, and nothing says that they are still \
                     what they were.",
                )
                .hint("Leave databases and tablespaces of the source in their place meanwhile.")
                .again());
        }
        run.warn(
            Code::BackupRepeated,
            format!(
                "The backup cannot be used ({reason}): a new one begins, and all is compared again."
            ),
        );
        again(run, &mut half, &spoiled).await?;
        number += 1;
    }
}

/// What one backup brought beside the files.
struct Brought {
    stopped: Stopped,
    control: Vec<u8>,
}

fn carried(half: Half, brought: Brought, noted: Noted) -> Carried {
    let Stopped {
        stop_lsn, label, ..
    } = brought.stopped;
    Carried {
        facts: half.facts,
        target: half.target,
        cleared: half.cleared,
        before: half.before,
        work: half.work,
        noted,
        start_lsn: half.start_lsn,
        stop_lsn,
        label,
        control: brought.control,
        old_auto_conf: half.old_auto_conf,
        standby: half.standby,
        configuration: half.configuration,
        adoption: half.adoption,
        former: half.former,
        bindir: half.bindir,
    }
}

/// Does the work, and ends the backup; also why it cannot be used, if that is so. Adds to what was noted.
async fn bring(
    run: &Run<'_>,
    half: &Half,
    noted: &mut Noted,
) -> Result<(Brought, Option<Spoiled>), Failure> {
    let Half {
        source,
        facts,
        target,
        cleared,
        work,
        ..
    } = half;
    run.stage(Stage::Compare);
    let transfer = Transfer::new(
        source.clone(),
        Sink::Target(Arc::clone(target)),
        run.workers.clone(),
        Arc::clone(run.events.counters()),
        run.key,
        facts.control.block_bytes,
    )
    .patching(run.options.patch_noise);
    make_directories(run, target, work).await?;
    unshare(run, target, work).await?;
    // Removing large files takes the file system a while, in which it can well do something else.
    let emptying = {
        let target = Arc::clone(target);
        workers::beside(move || target.empty_wal())
    };
    let (come, have_come) = watch::channel(false);
    let moving = async {
        let found = transfer.run(work.files.iter()).await;
        let found = found.map_err(|error| Failure::half_way_with(&error, error.hint()))?;
        come.send_replace(true);
        Ok(found)
    };
    let wal_ahead = async {
        emptying
            .await
            .map_err(|error| Failure::half_way(&error))?
            .map_err(|error| Failure::half_way(&error))?;
        if !run.options.streams_wal {
            return Ok(Ahead::default());
        }
        ahead::go_ahead(run, source, target, facts, half.start_lsn, have_come)
            .await
            .map_err(|error| Failure::half_way_with(&error, error.hint()))
    };
    let (found, ahead) = futures_util::future::try_join(moving, wal_ahead).await?;
    drop(transfer);
    noted.add(run, work, &found);
    remove(run, target, facts, cleared, work, found).await?;

    run.stage(Stage::Wal);
    // The control file after all data and before the end: on a standby source it tells where
    // consistency is reached.
    let mut control = control(source)
        .await
        .map_err(|error| Failure::half_way_with(&error, error.hint()))?;
    let stopped = close_bracket(source, cleared, half.start_lsn)
        .await
        .map_err(|error| Failure::half_way_with(&error, error.hint().as_deref()))?;
    run.record
        .note(|outcome| outcome.stop_lsn = Some(stopped.stop_lsn));
    let supplied = async {
        wal::supply(run, source, target, facts, &stopped, ahead)
            .await
            .map_err(|error| Failure::half_way_with(&error, error.hint()))
    };
    let judged = spoiled(half, &stopped);
    let ((), spoiled) = futures_util::future::try_join(supplied, judged).await?;
    poison_checkpoint(&mut control).map_err(|error| Failure::half_way(&error))?;
    Ok((Brought { stopped, control }, spoiled))
}

/// Asks what the backup's WAL replays from files, and judges it.
async fn spoiled(half: &Half, stopped: &Stopped) -> Result<Option<Spoiled>, Failure> {
    let request = Request::FileCopies {
        timeline: stopped.label.start_timeline,
        from: stopped.label.start_lsn,
        to: stopped.stop_lsn,
    };
    let answer = half.source.ask(&request, Vec::new()).await;
    let (answer, _) = answer.map_err(|error| Failure::half_way_with(&error, error.hint()))?;
    let Answer::FileCopies { doubts, made } = answer else {
        return Err(Failure::half_way(&SourceError::Unfitting("file copies")));
    };
    let placements = &half.cleared.findings().placements;
    Ok(replay::judge(&doubts, &made, placements))
}

/// Begins a new backup, and looks again at what there is to do.
async fn again(run: &Run<'_>, half: &mut Half, spoiled: &Spoiled) -> Result<(), Failure> {
    run.stage(Stage::Bracket);
    let start_lsn = half
        .source
        .start_backup(
            &half.facts.host.name,
            run.options.fast_checkpoint,
            SlotWish::Held,
        )
        .await
        .map_err(|error| Failure::half_way_with(&error, error.hint()))?;
    if start_lsn <= spoiled.until {
        // A standby cannot make checkpoints of its own.
        let error = format!(
            "the source, a standby, has no restartpoint behind {} to begin a backup at, and one that begins before it \
             cannot be used: {}",
            spoiled.until,
            spoiled.reason()
        );
        return Err(Failure::new(TargetState::HalfWay, error)
            .hint("Run CHECKPOINT on its primary, wait until the source has replayed it, and run CHECKPOINT there.")
            .again());
    }
    half.start_lsn = start_lsn;
    run.record.note(|outcome| {
        outcome.start_lsn = Some(start_lsn);
        outcome.stop_lsn = None;
    });
    run.stage(Stage::Manifest);
    let half_way = |failure: Failure| Failure {
        kind: Kind::Failed,
        state: TargetState::HalfWay,
        ..failure.again()
    };
    let findings = half.cleared.findings();
    let lists = lists(run, &half.source, true, &half.facts, findings).await;
    let work = lists.and_then(|lists| plan(run, &half.facts, findings, &lists));
    let mut work = work.map_err(half_way)?;
    work.tell_of(&half.work);
    half.work = work;
    workers::in_place(|| half.target.mend(&half.work.mend))
        .map_err(|error| Failure::half_way(&error))?;
    Ok(())
}

/// Makes the target a standby, or a copy, that can start.
///
/// # Errors
/// A failure that leaves the target half-way.
pub(super) async fn finish(
    run: &Run<'_>,
    carried: Carried,
) -> Result<(Finished, Option<Copy>), Failure> {
    run.stage(Stage::Finish);
    if let Some(configuration) = &carried.configuration {
        workers::in_place(|| configuration.settle(run))?;
    }
    let old_auto_conf = match &carried.adoption {
        Some(home) => workers::in_place(|| {
            adoption::adopt(run, &carried.target, home, &carried.old_auto_conf)
        })
        .map_err(|error| Failure::half_way(&error))?,
        None => carried.old_auto_conf,
    };
    let old_auto_conf = match &carried.former {
        Some(mark) => clone::no_copy_any_more(&old_auto_conf, mark),
        None => old_auto_conf,
    };
    let mut base = conf::base(&run.options.pgdata, run.options.config_file.as_deref());
    let included = server::included(&run.options.pgdata, &old_auto_conf);
    for problem in base.problems.iter().chain(&included.problems) {
        run.warn(Code::ConfigurationUnread, problem);
    }
    // What either of them sets, ours must override.
    base.settings.extend(included.settings);
    let auto_conf = standby_plan::auto_conf(&old_auto_conf, &base.settings, &carried.standby)
        .map_err(|error| Failure::half_way(&error))?;
    let copy = match run.options.role {
        Role::Clone => {
            let lines = standby_plan::own_lines(&old_auto_conf, &base.settings, &carried.standby);
            base.settings.extend(settings::of_auto_conf(&auto_conf));
            let known = (&carried.facts, carried.stop_lsn, carried.adoption.as_ref());
            let wanted = &carried.standby.clone;
            Some(copy::made(run, &base.settings, lines, wanted, known)?)
        }
        Role::Standby | Role::Managed => None,
    };
    let files = copy.as_ref().map(|copy| copy::files(run, copy));
    let target = Arc::try_unwrap(carried.target).map_err(|_| {
        let error = "the target is still being written (this is a bug in pg_reseed)";
        Failure::new(TargetState::HalfWay, error).again()
    })?;
    let (label, control) = (carried.label, carried.control);
    let settled = run.workers.run(move || {
        target.settle(&Settle {
            backup_label: &label.bytes,
            auto_conf: &auto_conf,
            copy: files.as_ref(),
        })?;
        Ok::<_, DiskError>(target)
    });
    let target = settled
        .await
        .map_err(|error| Failure::half_way(&error))?
        .map_err(|error| Failure::half_way(&error))?;
    // As the files lie now, and while no server can start yet.
    let major = carried.facts.version.major();
    let proving = server::prove(run, carried.bindir.as_deref(), &carried.standby, major);
    let syncing = run.workers.run(move || target.sync().map(|()| target));
    let (proved, target) = futures_util::future::join(proving, syncing).await;
    let target = target
        .map_err(|error| Failure::half_way(&error))?
        .map_err(|error| Failure::half_way(&error))?;
    proved?;
    if !settings::has_own_configuration(run.options, carried.cleared.findings().is_seed) {
        // It was not here yet.
        server::tell(run);
    }
    run.workers
        .run(move || target.finish(&control))
        .await
        .map_err(|error| Failure::half_way(&error))?
        .map_err(|error| Failure::half_way(&error))?;
    let finished = Finished {
        facts: carried.facts,
        cleared: carried.cleared,
        before: carried.before,
        start_lsn: carried.start_lsn,
        stop_lsn: carried.stop_lsn,
        work: carried.work,
        noted: carried.noted,
        bindir: carried.bindir,
    };
    Ok((finished, copy))
}

/// The threads that write what comes give up writing elsewhere than in the target's trees. Those that start the
/// server later do not: it would inherit that.
fn confine(run: &Run<'_>, target: &ClosedTarget, cleared: &Cleared, work: &Work) {
    let pgdata = &run.options.pgdata;
    let roots = target.roots().places().map(Path::to_owned);
    // What these hold is removed, and they may be links.
    let stale = cleared.findings().stale_tablespaces.iter();
    let stale = stale
        .filter(|stale| stale.left.is_none())
        .map(|stale| pgdata.join("pg_tblspc").join(stale.oid.to_string()));
    let emptied = work.emptied.iter().map(|path| pgdata.join(path.as_path()));
    let places: Vec<_> = roots.chain(stale).chain(emptied).collect();
    let confined = run
        .workers
        .on_each(move || confine::to_writing_beneath(&places));
    match confined.as_deref().map(<[_]>::first) {
        Ok(Some(Ok(Confined::Wholly | Confined::Partly))) => {}
        Ok(Some(Ok(Confined::No)) | None) => {
            tracing::info!(
                "the kernel has no Landlock: that only the target is written is not enforced"
            );
        }
        Ok(Some(Err(error))) => {
            tracing::warn!("that only the target is written is not enforced: {error}");
        }
        Err(error) => tracing::warn!("{error}"),
    }
}

async fn make_directories(
    run: &Run<'_>,
    target: &Arc<ClosedTarget>,
    work: &Work,
) -> Result<(), Failure> {
    let (target, replaced, directories) = (
        Arc::clone(target),
        work.replaced.clone(),
        work.directories.clone(),
    );
    let made = run.workers.run(move || {
        for path in &replaced {
            target.remove(path)?;
        }
        directories
            .iter()
            .try_for_each(|path| target.make_directory(path))
    });
    made.await
        .map_err(|error| Failure::half_way(&error))?
        .map_err(|error| Failure::half_way(&error))
}

/// Gives every file that comes and has another hard link a content of its own, before anything is written: the
/// other name may be in a copy of the directory that the DBA relies on.
async fn unshare(run: &Run<'_>, target: &Arc<ClosedTarget>, work: &Work) -> Result<(), Failure> {
    let each = work.shared.iter().map(|path| {
        let (target, path) = (Arc::clone(target), path.clone());
        run.workers.run(move || target.unshare(&path))
    });
    let mut each = stream::iter(each).buffer_unordered(run.workers.threads().max(1));
    while let Some(done) = each.next().await {
        done.map_err(|error| Failure::half_way(&error))?
            .map_err(|error| Failure::half_way(&error))?;
    }
    Ok(())
}

/// Removes what the source does not have: last, when everything that must come has come.
async fn remove(
    run: &Run<'_>,
    target: &Arc<ClosedTarget>,
    facts: &SourceFacts,
    cleared: &Cleared,
    work: &Work,
    found: Found,
) -> Result<(), Failure> {
    let gone: Vec<RelPath> = found
        .gone
        .iter()
        .filter_map(|entry| work.files.path(*entry))
        .collect();
    let removed_files = judge_gone(run, work, &found, &gone)?;
    let removals = Arc::clone(&work.removals);
    let (target, emptied) = (Arc::clone(target), work.emptied.clone());
    let version_directory = tablespaces::version_directory(facts);
    let stale = cleared.findings().stale_tablespaces.clone();
    let removed = run.workers.run(move || {
        // Backwards: content before its directory.
        for item in removals.iter().rev() {
            let path = item.path();
            target.remove(&path)?;
            if item.kind.kind != layout::Kind::Directory {
                tracing::info!("removed \"{path}\"");
            }
        }
        for path in &gone {
            target.remove(path)?;
            tracing::info!("removed \"{path}\", which vanished on the source");
        }
        for path in &emptied {
            target.empty_directory(path, &[])?;
        }
        for stale in stale {
            let behind = stale.left.is_none().then_some(&version_directory[..]);
            target.remove_tablespace(stale.oid, behind)?;
        }
        Ok::<(), DiskError>(())
    });
    removed
        .await
        .map_err(|error| Failure::half_way(&error))?
        .map_err(|error| Failure::half_way(&error))?;
    Counters::add(&run.events.counters().removed_files, removed_files);
    Ok(())
}

/// Files that vanished on the source while it was read go as well, within the same limits. How many go.
fn judge_gone(run: &Run<'_>, work: &Work, found: &Found, gone: &[RelPath]) -> Result<u64, Failure> {
    if let Some(path) = gone.iter().find(|path| layout::is_indispensable(path)) {
        let error =
            format!("\"{path}\" is gone on the source, and no data directory is without it");
        return Err(Failure::new(TargetState::HalfWay, error)
            .hint("Check the source's data directory.")
            .again());
    }
    let removed = work.removed_files + work.vanished(found).count() as u64;
    let shown = gone.iter().take(words::SHOWN);
    let examples = || shown.map(ToString::to_string).collect();
    guard::max_delete(run.options.max_delete, removed, examples).map_err(|refusal| {
        let refused = Failure::refused(&[refusal]);
        Failure {
            kind: Kind::Failed,
            state: TargetState::HalfWay,
            ..refused.again()
        }
    })?;
    Ok(removed)
}

async fn control(source: &Source) -> Result<Vec<u8>, SourceError> {
    match source.ask(&Request::Control, Vec::new()).await? {
        (Answer::Control, bytes) => Ok(bytes.to_vec()),
        _ => Err(SourceError::Unfitting("control file")),
    }
}

/// Why the backup could not be ended well.
#[derive(Debug, thiserror::Error)]
enum EndError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the source's backup label cannot be used: {0}")]
    Label(String),
    #[error("{}", .0.error())]
    NewTablespaces(Refusal),
}

impl EndError {
    fn hint(&self) -> Option<String> {
        match self {
            EndError::Source(error) => error.hint().map(str::to_owned),
            EndError::Label(_) => None,
            EndError::NewTablespaces(refusal) => Some(refusal.hint()),
        }
    }
}

async fn close_bracket(
    source: &Source,
    cleared: &Cleared,
    start_lsn: Lsn,
) -> Result<Stopped, EndError> {
    let answer = source.ask(&Request::CloseBracket, Vec::new()).await?;
    let (
        Answer::BracketClosed {
            stop_lsn,
            backup_label,
            slot,
            tablespaces,
        },
        _,
    ) = answer
    else {
        return Err(SourceError::Unfitting("backup stop").into());
    };
    let oids = tablespaces.iter().map(|space| space.oid);
    guard::new_tablespaces(&cleared.findings().placements, oids)
        .map_err(EndError::NewTablespaces)?;
    let label =
        BackupLabel::parse(&backup_label).map_err(|error| EndError::Label(chain(&error)))?;
    if label.start_lsn != start_lsn || stop_lsn < start_lsn {
        let problem = format!(
            "it begins at {}, the backup began at {start_lsn} and ended at {stop_lsn}",
            label.start_lsn
        );
        return Err(EndError::Label(problem));
    }
    Ok(Stopped {
        stop_lsn,
        label,
        slot,
    })
}
