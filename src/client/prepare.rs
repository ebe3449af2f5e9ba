//! The first half of a run: learn, judge, start the backup, plan, and close the target. Nothing of the
//! target changes before the last step.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::client::close::configuration::{self, Staged};
use crate::client::close::keep;
use crate::client::close::lock::Close;
use crate::client::failure::{Failure, TargetState};
use crate::client::look::conf;
use crate::client::look::judge::{
    bindir, judge, judge_before_stop, judge_login, judge_wal_supply, slot_wish,
};
use crate::client::look::leaving;
use crate::client::look::settings;
use crate::client::look::target::{self, Hold};
use crate::client::options::RebuildOptions;
use crate::client::run::Run;
use crate::client::source::{Source, SourceError};
use crate::client::transfer::lists::{lists, plan};
use crate::client::transfer::whole::fetch_small;
use crate::client::transfer::work::Work;
use crate::disk::target::ClosedTarget;
use crate::event::Stage;
use crate::facts::{Condition, Running, SourceFacts, TargetCluster, TargetFacts};
use crate::pg::lsn::Lsn;
use crate::plan::guard::{self, Cleared};
use crate::plan::refusal::Refusal;
use crate::plan::relation::relate;
use crate::plan::standby as standby_plan;
use crate::postmaster;
use crate::wire::message::{Answer, Request, SlotWish};
use crate::workers;

/// The target as it was found, held against other runs.
pub(super) struct Looked {
    pub target: TargetFacts,
    pub hold: Hold,
}

/// What the second half needs.
pub(super) struct Half {
    pub source: Source,
    pub facts: SourceFacts,
    pub target: Arc<ClosedTarget>,
    pub cleared: Cleared,
    pub before: Option<TargetCluster>,
    pub work: Work,
    pub start_lsn: Lsn,
    /// The text that postgresql.auto.conf grows from: the target's own or, in a seed, the source's.
    pub old_auto_conf: Vec<u8>,
    pub standby: standby_plan::StandbySettings,
    pub configuration: Option<Staged>,
    pub bindir: Option<PathBuf>,
}

/// Looks at the target.
///
/// # Errors
/// It cannot be looked at, or root asks.
pub(super) fn look(run: &Run<'_>) -> Result<Looked, Failure> {
    run.stage(Stage::Look);
    let pgdata = &run.options.pgdata;
    let looked = target::hold(pgdata).and_then(|hold| {
        let target = target::look(pgdata, &hold)?;
        Ok(Looked { target, hold })
    });
    let looked = looked.map_err(|error| Failure::untouched(&error))?;
    if looked.target.is_root {
        return Err(Failure::refused(&[Refusal::RunsAsRoot]));
    }
    Ok(looked)
}

/// Goes through the rest of the first half.
///
/// # Errors
/// A failure that leaves the target as it was, unless closing it stopped in the middle.
pub(super) async fn prepare(
    run: &Run<'_>,
    looked: Looked,
    source: &Source,
) -> Result<Box<Half>, Failure> {
    let is_interrupted = is_interrupted(&looked.target);
    let mut was_stopped = false;
    let prepared = close_in_order(run, source, looked, &mut was_stopped).await;
    prepared.map_err(|failure| {
        if failure.state != TargetState::Untouched {
            failure
        } else if was_stopped {
            failure.detail("The target's server was stopped and is not running now.")
        } else if is_interrupted {
            failure.detail(
                "An earlier run was interrupted in it: it cannot start until one has finished.",
            )
        } else {
            failure
        }
    })
}

/// Whether an earlier run has left the target half-way.
pub(super) fn is_interrupted(target: &TargetFacts) -> bool {
    match &target.condition {
        Condition::Cluster(cluster) => cluster.interrupted.is_some() && !cluster.is_locked,
        _ => false,
    }
}

/// All steps up to the point of no return, which is the last one.
async fn close_in_order(
    run: &Run<'_>,
    source: &Source,
    looked: Looked,
    was_stopped: &mut bool,
) -> Result<Box<Half>, Failure> {
    let options = run.options;
    let Looked { mut target, hold } = looked;
    let facts = facts(run, source)
        .await
        .map_err(|error| error.untouched())?;

    run.stage(Stage::Judge);
    keep::judge_place(options)?;
    keep::judge_completeness(run, &target, &relate(&target, &facts))?;
    let to_stop = server_to_stop(options, &target);
    let mut cleared = None;
    if to_stop.is_some() {
        judge_before_stop(options, &target, &facts)?;
    } else {
        cleared = Some(judge(options, &target, &facts)?);
    }
    judge_wal_supply(options, &facts)?;
    let bindir = bindir(options, &facts)?;
    let is_interrupted = is_interrupted(&target);
    let configuration = configuration::fetch(run, source, is_interrupted).await?;
    let is_seed = relate(&target, &facts).is_seed();
    let name = settings::application_name(options, &target.host.name, is_seed);
    let name = name.as_deref();
    if settings::has_own_configuration(options, is_seed) {
        // What a late refusal would leave stopped is refused now.
        let auto_conf =
            conf::auto_conf(&options.pgdata).map_err(|error| Failure::untouched(&error))?;
        settings::raised(options, &facts, &auto_conf)?;
        settings::warn_of_slot_sync(run, &auto_conf);
    }
    if let Some(pid) = to_stop {
        judge_login(run, name, &facts, bindir.as_deref()).await?;
        postmaster::stop(&options.pgdata, pid, options.wait)
            .await
            .map_err(|error| {
                Failure::untouched(&error)
                    .detail("It was asked to stop and may still be doing so.")
                    .hint("Stop it, or allow more time with --wait.")
            })?;
        *was_stopped = true;
        run.events.note("The target's server was stopped.");
        target =
            target::look(&options.pgdata, &hold).map_err(|error| Failure::untouched(&error))?;
    }
    let cleared = match cleared {
        Some(cleared) => cleared,
        None => judge(options, &target, &facts)?,
    };
    if to_stop.is_some() {
        // Its last checkpoint may have removed segments.
        keep::judge_completeness(run, &target, &cleared.findings().relation)?;
    }
    leaving::warn(run, &target, &facts);

    run.stage(Stage::Bracket);
    run.admitted.notify_one();
    let login = async {
        match to_stop {
            // It was judged before the stop.
            Some(_) => Ok(()),
            None => judge_login(run, name, &facts, bindir.as_deref()).await,
        }
    };
    let bracket = async {
        let opened = open_bracket(run, source, &facts, &cleared).await;
        opened.map_err(|error| error.untouched())
    };
    let ((), start_lsn) = futures_util::future::try_join(login, bracket).await?;

    run.stage(Stage::Manifest);
    let lists = lists(run, source, &target, &facts, &cleared).await?;
    let work = plan(run, &facts, &cleared, lists)?;
    let old_auto_conf = match work.auto_conf {
        Some((entry, bytes)) => {
            let block_bytes = facts.control.block_bytes;
            fetch_small(source, &run.key, entry, bytes, block_bytes)
                .await
                .map_err(|error| Failure::untouched(&error))?
        }
        None => conf::auto_conf(&options.pgdata).map_err(|error| Failure::untouched(&error))?,
    };
    // A text that cannot be used must show now, not when the target is closed.
    let mut standby = settings::standby(options, name)?;
    if settings::has_own_configuration(options, cleared.findings().is_seed) {
        standby.raised = settings::raised(options, &facts, &old_auto_conf)?;
    }
    standby_plan::auto_conf(&old_auto_conf, &BTreeMap::new(), &standby)
        .map_err(|error| Failure::untouched(&error))?;

    if let Some(kept) = workers::in_place(|| keep::save(run, &target, &facts, &cleared))? {
        // It is saved once.
        let _ = run.kept_wal.set(kept);
    }

    let configuration = workers::in_place(|| configuration::stage(options, configuration))?;

    run.stage(Stage::Close);
    let before = match &target.condition {
        Condition::Cluster(cluster) => Some((**cluster).clone()),
        _ => None,
    };
    let close = Close {
        run,
        facts: &facts,
        cleared: &cleared,
        before: before.as_ref(),
        start_lsn,
        old_auto_conf: &old_auto_conf,
    };
    let closed = workers::in_place(|| close.close(hold))?;
    Ok(Box::new(Half {
        source: source.clone(),
        facts,
        target: Arc::new(closed),
        cleared,
        before,
        work,
        start_lsn,
        old_auto_conf,
        standby,
        configuration,
        bindir,
    }))
}

pub(super) async fn facts(run: &Run<'_>, source: &Source) -> Result<SourceFacts, SourceError> {
    let configure = Request::Configure {
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        key: run.key,
        compression: run.options.compression,
        jobs: u16::try_from(run.options.jobs).unwrap_or(u16::MAX),
        max_rate: run.options.max_rate,
        survey: run.options.dry_run,
        join: run.join,
    };
    source.introduce(&configure, run.options.slot.clone()).await
}

/// The server in the target that has to be stopped, if there is one and that was asked for.
fn server_to_stop(options: &RebuildOptions, target: &TargetFacts) -> Option<u32> {
    match &target.condition {
        Condition::Cluster(cluster) if options.stop => match cluster.running {
            Running::Server { pid } => Some(pid),
            _ => None,
        },
        _ => None,
    }
}

async fn open_bracket(
    run: &Run<'_>,
    source: &Source,
    facts: &SourceFacts,
    cleared: &Cleared,
) -> Result<Lsn, SourceError> {
    let slot = match slot_wish(run.options) {
        guard::SlotWish::Create(name) if facts.slot.is_none() => SlotWish::Create(name.to_owned()),
        guard::SlotWish::Existing(name) | guard::SlotWish::Create(name)
            if !cleared.findings().needs_temporary_slot =>
        {
            SlotWish::Existing(name.to_owned())
        }
        _ => SlotWish::Temporary,
    };
    if run.options.create_slot && facts.slot.is_some() {
        run.events
            .note("The replication slot exists already and is used.");
    }
    let is_new = matches!(slot, SlotWish::Create(_));
    let request = Request::OpenBracket {
        label: "pg_reseed rebuild".to_owned(),
        fast_checkpoint: run.options.fast_checkpoint,
        slot,
    };
    match source.ask(&request, Vec::new()).await? {
        (Answer::BracketOpened { start_lsn, .. }, _) => {
            if is_new {
                // It is set once.
                let _ = run.made_slot.set(());
            }
            Ok(start_lsn)
        }
        _ => Err(SourceError::Unfitting("backup start")),
    }
}
