//! A dry run: the same judgement and the same figures, and nothing changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::client::close::configuration;
use crate::client::close::keep;
use crate::client::close::rewound;
use crate::client::failure::Failure;
use crate::client::finish::summary::{self, Noted, Told};
use crate::client::look::judge::{
    bindir, choose_slot, judge, judge_before_stop, judge_login, judge_wal_supply, remark,
};
use crate::client::look::leaving;
use crate::client::look::settings;
use crate::client::look::twins;
use crate::client::look::{adoption, conf, server};
use crate::client::outcome::Outcome;
use crate::client::prepare::{facts, is_interrupted, note_relation, server_to_stop};
use crate::client::run::Run;
use crate::client::source::Source;
use crate::client::transfer::lists::{lists, plan};
use crate::client::transfer::ranges::Transfer;
use crate::client::transfer::sink::Sink;
use crate::disk::root::Roots;
use crate::event::{Counters, Stage};
use crate::facts::{Condition, TargetFacts};
use crate::plan::relation::relate;
use crate::plan::standby as standby_plan;

/// Compares without a backup and without changing anything.
///
/// # Errors
/// What would stop a real run before it closes the target.
pub(super) async fn survey(
    run: &Run<'_>,
    source: &Source,
    target: &mut TargetFacts,
) -> Result<Outcome, Failure> {
    let options = run.options;
    let facts = facts(run, source, target)
        .await
        .map_err(|error| error.untouched())?;
    twins::complete(target, &facts, source, &options.pgdata, run.key)
        .await
        .map_err(|error| Failure::untouched(&error))?;
    let target = &*target;
    run.stage(Stage::Judge);
    keep::judge_place(options, target)?;
    choose_slot(run, target, &facts);
    note_relation(run, target, &facts);
    if rewound::needs_nothing(run, target, &facts)? {
        return Ok(run.record.outcome(run.events.counters()));
    }
    keep::judge_completeness(run, target, &relate(target, &facts))?;
    let server_to_stop = server_to_stop(options, target);
    let findings = match server_to_stop {
        Some(_) => judge_before_stop(run, target, &facts)?,
        None => judge(run, target, &facts)?.findings().clone(),
    };
    remark(run, target, &facts);
    if let Some(pid) = server_to_stop {
        run.events
            .note(format!("It would stop the target's server (PID {pid})."));
    }
    judge_wal_supply(run, &facts)?;
    settings::warn_of_history(run, &facts);
    settings::warn_of_mending(run, target);
    let bindir = bindir(options, &facts)?;
    let is_seed = findings.is_seed;
    server::judge_server(run, is_seed, bindir.as_deref()).await?;
    if let Some(home) = adoption::home(options, &facts, &target.host, is_seed) {
        adoption::foretell(run, source, &home).await;
    }
    let name = settings::application_name(options, &target.host.name, is_seed);
    let name = name.as_deref();
    judge_login(run, name, &facts, bindir.as_deref()).await?;
    configuration::fetch(run, source, is_interrupted(target)).await?;
    leaving::warn(run, target, &facts);
    run.admitted.notify_one();
    run.stage(Stage::Manifest);
    let has_content = target.condition.is_cluster();
    let lists = lists(run, source, has_content, &facts, &findings).await?;
    let work = plan(run, &facts, &findings, &lists)?;
    let old = match work.auto_conf {
        // The source's comes: what it sets is not known yet.
        Some(_) => Vec::new(),
        None => conf::auto_conf(&options.pgdata).map_err(|error| Failure::untouched(&error))?,
    };
    if settings::has_own_configuration(options, findings.is_seed) {
        settings::raised(options, &facts, &old)?;
        settings::warn_of_slot_sync(run, facts.version, &old);
    }
    if work.auto_conf.is_none() {
        standby_plan::auto_conf(&old, &BTreeMap::new(), &settings::standby(run, name)?)
            .map_err(|error| Failure::untouched(&error))?;
    }
    run.stage(Stage::Compare);
    let placements = &findings.placements;
    let located: Vec<(u32, PathBuf)> = placements
        .iter()
        .filter_map(|placement| Some((placement.oid, placement.location_path()?)))
        .collect();
    // A seed has nothing to compare: any directory does, since nothing in it is opened.
    let root = match target.condition {
        Condition::Missing => Path::new("/"),
        _ => &options.pgdata,
    };
    let roots = Roots::open(
        root,
        located.iter().map(|(oid, path)| (*oid, path.as_path())),
    )
    .map_err(|error| Failure::untouched(&error))?;
    let found = Transfer::new(
        source.clone(),
        Sink::Survey(Arc::new(roots)),
        run.workers.clone(),
        Arc::clone(run.events.counters()),
        run.key,
        facts.control.block_bytes,
    )
    .patching(run.options.patch_noise)
    .run(work.files.iter())
    .await
    .map_err(|error| Failure::untouched(&error))?;
    let mut noted = Noted::default();
    noted.add(run, &work, &found);
    Counters::add(
        &run.events.counters().removed_files,
        work.removed_files + noted.vanished.len() as u64,
    );
    let before = match &target.condition {
        Condition::Cluster(cluster) => Some(&**cluster),
        _ => None,
    };
    Ok(summary::outcome(
        run,
        &Told {
            facts: &facts,
            findings: &findings,
            before,
            work: &work,
            noted,
            lsns: None,
            streaming: false,
            server_to_stop,
        },
    ))
}
