//! The first half of a run: learn, judge, start the backup, plan, and close the target. Nothing of the
//! target changes before the last step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::close::configuration::{self, Staged};
use crate::client::close::keep;
use crate::client::close::lock::Close;
use crate::client::close::rewound;
use crate::client::close::stop;
use crate::client::failure::{Failure, TargetState};
use crate::client::finish::{summary, watch};
use crate::client::look::judge::{
    bindir, choose_slot, judge, judge_before_stop, judge_login, judge_wal_supply, remark, slot_wish,
};
use crate::client::look::leaving;
use crate::client::look::lineage;
use crate::client::look::settings;
use crate::client::look::target::{self, Hold};
use crate::client::look::twins;
use crate::client::look::{adoption, conf, server};
use crate::client::options::RebuildOptions;
use crate::client::run::Run;
use crate::client::source::{Source, SourceError};
use crate::client::transfer::lists::{Lists, judge_rights_before_stop, lists, plan};
use crate::client::transfer::whole::fetch_small;
use crate::client::transfer::work::Work;
use crate::disk::target::ClosedTarget;
use crate::event::Stage;
use crate::facts::clone::Mark;
use crate::facts::{Condition, Live, Running, SourceFacts, TargetCluster, TargetFacts};
use crate::pg::lsn::Lsn;
use crate::plan::adoption::Home;
use crate::plan::guard::{self, Cleared, Findings};
use crate::plan::refusal::Refusal;
use crate::plan::relation::relate;
use crate::plan::slots;
use crate::plan::standby as standby_plan;
use crate::wire::message::{Purpose, SlotWish};
use crate::workers;

/// How long the source may take to notice that a standby is gone.
const SLOT_FREE_WITHIN: Duration = Duration::from_secs(10);

/// How often it is asked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

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
    /// The source's configuration comes into the data directory.
    pub adoption: Option<Home>,
    /// The mark of the copy that the target was, whose lines are in its postgresql.auto.conf.
    pub former: Option<Mark>,
    pub bindir: Option<PathBuf>,
}

/// Looks at the target.
///
/// # Errors
/// It cannot be looked at, or root asks.
pub(super) async fn look(run: &Run<'_>) -> Result<Looked, Failure> {
    run.stage(Stage::Look);
    let pgdata = &run.options.pgdata;
    let looked = target::hold(pgdata).and_then(|hold| {
        let target = target::look(pgdata, &hold)?;
        Ok(Looked { target, hold })
    });
    let mut looked = looked.map_err(|error| Failure::untouched(&error))?;
    if looked.target.is_root {
        return Err(Failure::refused(&[Refusal::RunsAsRoot]));
    }
    // Before the source is asked where it stands: what the target had then, the source may have.
    let config_file = run.options.config_file.as_deref();
    lineage::complete(&mut looked.target, pgdata, config_file).await;
    Ok(looked)
}

/// Goes through the rest of the first half. Nothing comes of it where nothing is to be done.
///
/// # Errors
/// A failure that leaves the target as it was, unless closing it stopped in the middle.
pub(super) async fn prepare(
    run: &Run<'_>,
    looked: Looked,
    source: &Source,
) -> Result<Option<Box<Half>>, Failure> {
    let is_interrupted = is_interrupted(&looked.target);
    let prepared = close_in_order(run, source, looked).await;
    prepared.map_err(|failure| {
        if failure.state == TargetState::Untouched && is_interrupted {
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

/// All steps up to the point of no return, which is the last one. A server that runs in the target is stopped as
/// late as can be: what can be judged while it runs is judged then.
async fn close_in_order(
    run: &Run<'_>,
    source: &Source,
    looked: Looked,
) -> Result<Option<Box<Half>>, Failure> {
    let options = run.options;
    let Looked { mut target, hold } = looked;
    let mut facts = facts(run, source, &target)
        .await
        .map_err(|error| error.untouched())?;

    compare_wal(run, source, &facts, &mut target).await?;
    run.stage(Stage::Judge);
    keep::judge_place(options, &target)?;
    choose_slot(run, &target, &facts);
    note_relation(run, &target, &facts);
    if rewound::needs_nothing(run, &target, &facts)? {
        workers::in_place(|| rewound::settle(run, &target, &hold))?;
        return Ok(None);
    }
    keep::judge_completeness(run, &target, &relate(&target, &facts))?;
    let to_stop = server_to_stop(options, &target);
    let mut cleared = None;
    let before_stop = match to_stop {
        Some(_) => judge_before_stop(run, &target, &facts)?,
        None => {
            let passed = judge(run, &target, &facts)?;
            cleared.insert(passed).findings().clone()
        }
    };
    summary::note_mode(run, before_stop.is_seed);
    remark(run, &target, &facts);
    judge_wal_supply(run, &facts)?;
    settings::warn_of_history(run, &facts);
    settings::warn_of_mending(run, &target);
    let bindir = bindir(options, &facts)?;
    let is_interrupted = is_interrupted(&target);
    let configuration = configuration::fetch(run, source, is_interrupted).await?;
    let is_seed = before_stop.is_seed;
    server::judge_server(run, is_seed, bindir.as_deref()).await?;
    let name = settings::application_name(options, &target.host.name, is_seed);
    let name = name.as_deref();
    if settings::has_own_configuration(options, is_seed) {
        // What a late refusal would leave stopped is refused now.
        let auto_conf =
            conf::auto_conf(&options.pgdata).map_err(|error| Failure::untouched(&error))?;
        settings::raised(options, &facts, &auto_conf)?;
        settings::warn_of_slot_sync(run, facts.version, &auto_conf);
    }
    let adoption = adoption::home(options, &facts, &target.host, is_seed);
    // The backup begins while the target's server still runs, so that the list of files is judged then: unless that
    // server does not say where it stands, since the backup's own WAL would hide that it is ahead; and unless the slot
    // that it streams with, which moves on until it is stopped, must keep all from the start of the backup on.
    let begins_first = to_stop.is_none()
        || live(&target).is_some()
            && (options.brings_wal
                || !run
                    .choice
                    .get()
                    .is_some_and(|choice| choice.is_held_by_target));
    let mut begun = None;
    if begins_first {
        begun = Some(
            begin(
                run,
                source,
                &target,
                &facts,
                &before_stop,
                (name, bindir.as_deref()),
            )
            .await?,
        );
    } else {
        judge_rights_before_stop(run, &facts, &before_stop).await?;
        judge_login(run, name, &facts, bindir.as_deref()).await?;
    }
    if let Some(pid) = to_stop {
        if let Some((_, lists)) = &begun {
            // For what it refuses.
            plan(run, &facts, &before_stop, lists)?;
        }
        // One that said where it stood was judged by that before the backup wrote any WAL; as a standby it has gone on
        // with the source since, as a primary on its own.
        let was_standby = live(&target).is_some_and(|live| live.in_recovery);
        stop::stop(run, pid).await?;
        target =
            target::look(&options.pgdata, &hold).map_err(|error| Failure::untouched(&error))?;
        lineage::complete(&mut target, &options.pgdata, options.config_file.as_deref()).await;
        compare_wal(run, source, &facts, &mut target).await?;
        slot_after_stop(run, source, &mut facts).await?;
        if begun.is_none() || was_standby {
            position_after_stop(source, &mut facts)
                .await
                .map_err(|error| error.untouched())?;
        }
    }
    let cleared = match cleared {
        Some(cleared) => cleared,
        None => judge(run, &target, &facts)?,
    };
    if to_stop.is_some() {
        // Its last checkpoint may have removed segments.
        keep::judge_completeness(run, &target, &cleared.findings().relation)?;
    }
    leaving::warn(run, &target, &facts);
    note_relation(run, &target, &facts);
    let findings = cleared.findings();
    let (start_lsn, lists) = match begun {
        Some((start_lsn, lists)) if to_stop.is_some() => {
            (start_lsn, lists.again(run, &facts, findings).await?)
        }
        Some(begun) => begun,
        None => {
            let known = (name, bindir.as_deref());
            begin(run, source, &target, &facts, findings, known).await?
        }
    };
    let work = plan(run, &facts, findings, &lists)?;
    let former = match (&work.auto_conf, &target.condition) {
        (None, Condition::Cluster(cluster)) => cluster.mark.clone().map(|found| found.mark),
        _ => None,
    };
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
    let mut standby = settings::standby(run, name)?;
    if settings::has_own_configuration(options, cleared.findings().is_seed) {
        standby.raised = settings::raised(options, &facts, &old_auto_conf)?;
    }
    standby_plan::auto_conf(&old_auto_conf, &BTreeMap::new(), &standby)
        .map_err(|error| Failure::untouched(&error))?;

    if let Some(kept) = workers::in_place(|| keep::save(run, &target, &facts, &cleared))? {
        run.record.note(|outcome| outcome.kept_wal = Some(kept));
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
        mend: &work.mend,
    };
    let closed = workers::in_place(|| close.close(hold))?;
    Ok(Some(Box::new(Half {
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
        adoption,
        former,
        bindir,
    })))
}

/// Remembers for the report how both relate.
pub(super) fn note_relation(run: &Run<'_>, target: &TargetFacts, facts: &SourceFacts) {
    let before = match &target.condition {
        Condition::Cluster(cluster) => Some(&**cluster),
        _ => None,
    };
    summary::note_relation(run, facts, &relate(target, facts), before);
}

/// Compares both sides' WAL where what is saved depends on it; a rebuild makes everything equal anyway.
async fn compare_wal(
    run: &Run<'_>,
    source: &Source,
    facts: &SourceFacts,
    target: &mut TargetFacts,
) -> Result<(), Failure> {
    // Numbers alone do not tell that nothing is to be done.
    if run.options.keep_diverged_wal.is_none() && !run.options.rewinds {
        return Ok(());
    }
    twins::complete(target, facts, source, &run.options.pgdata, run.key)
        .await
        .map_err(|error| Failure::untouched(&error))
}

/// Tries the login, starts the backup and lists both sides.
async fn begin(
    run: &Run<'_>,
    source: &Source,
    target: &TargetFacts,
    facts: &SourceFacts,
    findings: &Findings,
    (name, bindir): (Option<&str>, Option<&Path>),
) -> Result<(Lsn, Lists), Failure> {
    run.stage(Stage::Bracket);
    run.admitted.notify_one();
    // A login takes several round trips: over a long link both sides are listed by then.
    let login = judge_login(run, name, facts, bindir);
    let listed = async {
        let opened = open_bracket(run, source, facts, findings).await;
        let start_lsn = opened.map_err(|error| error.untouched())?;
        run.record
            .note(|outcome| outcome.start_lsn = Some(start_lsn));
        run.stage(Stage::Manifest);
        let has_content = target.condition.is_cluster();
        let lists = lists(run, source, has_content, facts, findings).await?;
        Ok((start_lsn, lists))
    };
    let ((), begun) = futures_util::future::try_join(login, listed).await?;
    Ok(begun)
}

/// Waits until the slot that the target's server streamed with is free. If it does not become so, another standby
/// streams with it.
async fn slot_after_stop(
    run: &Run<'_>,
    source: &Source,
    facts: &mut SourceFacts,
) -> Result<(), Failure> {
    if !run
        .choice
        .get()
        .is_some_and(|choice| choice.is_held_by_target)
    {
        return Ok(());
    }
    let Some(slot) = &mut facts.slot else {
        return Ok(());
    };
    let begin = Instant::now();
    loop {
        let senders = watch::senders(source, run.options.wait).await;
        let senders = senders.map_err(|error| error.untouched())?;
        slot.active = senders
            .iter()
            .any(|sender| sender.slot.as_ref() == Some(&slot.name));
        if !slot.active || begin.elapsed() > SLOT_FREE_WITHIN.min(run.options.wait) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks where the source stands now: a target that was its standby went on with it until it was stopped.
async fn position_after_stop(source: &Source, facts: &mut SourceFacts) -> Result<(), SourceError> {
    let (timeline, lsn) = source.position().await?;
    // On another one the backup is worthless anyway.
    if timeline == facts.timeline {
        facts.current_lsn = lsn.max(facts.current_lsn);
    }
    Ok(())
}

pub(super) async fn facts(
    run: &Run<'_>,
    source: &Source,
    target: &TargetFacts,
) -> Result<SourceFacts, SourceError> {
    let configure = run.configure(if run.options.dry_run {
        Purpose::Survey
    } else {
        Purpose::Rebuild
    });
    let slot = if run.options.role.has_settings() {
        slots::wanted(run.options.slot.as_deref(), target)
    } else {
        None
    };
    let facts = source
        .introduce(&configure, slot.map(str::to_owned))
        .await?;
    summary::note_source(run, &facts);
    Ok(facts)
}

/// The server in the target that has to be stopped, if there is one and that was asked for.
pub(super) fn server_to_stop(options: &RebuildOptions, target: &TargetFacts) -> Option<u32> {
    match &target.condition {
        Condition::Cluster(cluster) if options.stop => match cluster.running {
            Running::Server { pid } => Some(pid),
            _ => None,
        },
        _ => None,
    }
}

/// What the target's server said of itself.
fn live(target: &TargetFacts) -> Option<&Live> {
    match &target.condition {
        Condition::Cluster(cluster) => cluster.standing.live.as_ref(),
        _ => None,
    }
}

/// Says that an existing slot may be somebody else's: its WAL has been asked for, and nothing shows by whom.
fn say_whose(run: &Run<'_>, facts: &SourceFacts) {
    let Some((slot, lsn)) = facts
        .slot
        .as_ref()
        .and_then(|slot| Some((slot, slot.restart_lsn?)))
    else {
        return;
    };
    let options = run.options;
    let auto_conf = conf::auto_conf(&options.pgdata).unwrap_or_default();
    let own =
        settings::own_base(options).followed_by(&options.pgdata.join(conf::AUTO_CONF), &auto_conf);
    if own.settings.get("primary_slot_name") != Some(&slot.name) {
        run.events.note(format!(
            "Replication slot \"{}\" of the source keeps WAL from {lsn} on, and the target's configuration did not \
             name it: if a standby that is stopped uses it, only one of them can stream.",
            slot.name
        ));
    }
}

async fn open_bracket(
    run: &Run<'_>,
    source: &Source,
    facts: &SourceFacts,
    findings: &Findings,
) -> Result<Lsn, SourceError> {
    let slot = match slot_wish(run) {
        guard::SlotWish::Create(name) if facts.slot.is_none() => SlotWish::Create(name.to_owned()),
        guard::SlotWish::Existing(name) | guard::SlotWish::Create(name)
            if !findings.needs_temporary_slot =>
        {
            SlotWish::Existing(name.to_owned())
        }
        _ => SlotWish::Temporary,
    };
    if run.options.create_slot && facts.slot.is_some() {
        run.events
            .note("The replication slot exists already and is used.");
    }
    say_whose(run, facts);
    let is_new = matches!(slot, SlotWish::Create(_));
    let start_lsn = source
        .start_backup(&facts.host.name, run.options.fast_checkpoint, slot)
        .await?;
    if is_new {
        // It is set once.
        let _ = run.made_slot.set(());
        run.record.note(|outcome| outcome.slot_made = true);
    }
    Ok(start_lsn)
}
