//! The first half of a run: learn, judge, start the backup, plan, and close the target. Nothing of the
//! target changes before the last step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::close::Close;
use super::conf;
use super::configuration::{self, Staged};
use super::failure::{Failure, TargetState};
use super::keep;
use super::look::{self, Hold};
use super::options::RebuildOptions;
use super::run::Run;
use super::settings;
use super::source::{Source, SourceError};
use super::whole::fetch_small;
use super::work::{self, TargetWalk, Work};
use crate::disk::facts as disk;
use crate::disk::target::ClosedTarget;
use crate::event::{Event, Stage};
use crate::facts::{Condition, Running, SourceFacts, TargetCluster, TargetFacts};
use crate::manifest::{self, EntryKind, Folder, Listing, Manifest};
use crate::path::RelPath;
use crate::pg::layout;
use crate::pg::lsn::Lsn;
use crate::plan::guard::{self, Cleared, Situation};
use crate::plan::refusal::Refusal;
use crate::plan::relation::relate;
use crate::plan::standby as standby_plan;
use crate::plan::tablespaces::{self, TargetPlaces};
use crate::plan::words;
use crate::postmaster;
use crate::wire::listing::{self, PARTS_MAX};
use crate::wire::message::{Answer, ManifestEnd, Request, SlotWish};
use crate::wire::payload;
use crate::workers;

/// Parts of the manifest that are asked for ahead, so that a link with a long delay stays busy.
const PARTS_AHEAD: usize = 8;

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
    let looked = look::hold(pgdata).and_then(|hold| {
        let target = look::target(pgdata, &hold)?;
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
            look::target(&options.pgdata, &hold).map_err(|error| Failure::untouched(&error))?;
    }
    let cleared = match cleared {
        Some(cleared) => cleared,
        None => judge(options, &target, &facts)?,
    };

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

pub(super) fn judge(
    options: &RebuildOptions,
    target: &TargetFacts,
    facts: &SourceFacts,
) -> Result<Cleared, Failure> {
    let places = places(options, target, facts)?;
    guard::judge(&situation(options, target, facts, &places))
        .map_err(|refusals| Failure::refused(&refusals))
}

fn judge_before_stop(
    options: &RebuildOptions,
    target: &TargetFacts,
    facts: &SourceFacts,
) -> Result<(), Failure> {
    let places = places(options, target, facts)?;
    guard::judge_before_stop(&situation(options, target, facts, &places))
        .map(drop)
        .map_err(|refusals| Failure::refused(&refusals))
}

fn places(
    options: &RebuildOptions,
    target: &TargetFacts,
    facts: &SourceFacts,
) -> Result<TargetPlaces, Failure> {
    look::places(
        &options.pgdata,
        options.waldir.as_deref(),
        target,
        target.host.is_same_kernel(&facts.host),
        tablespaces::would_be(&facts.tablespaces, &options.mappings),
        &tablespaces::version_directory(facts),
    )
    .map_err(|error| Failure::untouched(&error))
}

fn situation<'a>(
    options: &'a RebuildOptions,
    target: &'a TargetFacts,
    source: &'a SourceFacts,
    places: &'a TargetPlaces,
) -> Situation<'a> {
    Situation {
        target,
        source,
        slot: slot_wish(options),
        mappings: &options.mappings,
        places,
        overrides: &options.overrides,
    }
}

fn slot_wish(options: &RebuildOptions) -> guard::SlotWish<'_> {
    match &options.slot {
        None => guard::SlotWish::Temporary,
        Some(name) if options.create_slot => guard::SlotWish::Create(name),
        Some(name) => guard::SlotWish::Existing(name),
    }
}

/// Judges whether the standby will find the WAL that the run does not bring.
pub(super) fn judge_wal_supply(
    options: &RebuildOptions,
    facts: &SourceFacts,
) -> Result<(), Failure> {
    if options.brings_wal {
        return Ok(());
    }
    let has_restore_command = options.restore_command.is_some();
    guard::wal_supply(slot_wish(options), facts.slot.as_ref(), has_restore_command)
        .map_err(|refusal| Failure::refused(&[refusal]))
}

/// Where the programs of the target's server are.
pub(super) fn bindir(
    options: &RebuildOptions,
    facts: &SourceFacts,
) -> Result<Option<PathBuf>, Failure> {
    let major = facts.version.major();
    let found = match &options.bindir {
        Some(directory) if !postmaster::is_bindir(directory, major) => {
            return Err(Failure::new(
                TargetState::Untouched,
                format!(
                    "no server programs of PostgreSQL {major} in \"{}\"",
                    directory.display()
                ),
            )
            .hint("Check --bindir: it must be of the source's major version."));
        }
        Some(directory) => Some(directory.clone()),
        None => postmaster::find_bindir(major),
    };
    if options.start && options.starter.is_none() && found.is_none() {
        return Err(Failure::new(
            TargetState::Untouched,
            format!("could not find pg_ctl of PostgreSQL {major}"),
        )
        .hint("Say with --bindir where the server's programs are."));
    }
    Ok(found)
}

pub(super) async fn judge_login(
    run: &Run<'_>,
    name: Option<&str>,
    facts: &SourceFacts,
    bindir: Option<&Path>,
) -> Result<(), Failure> {
    let overrides = &run.options.overrides;
    if overrides.no_login_check {
        return Ok(());
    }
    let conninfo = settings::primary_conninfo(&run.options.primary, name)?;
    let Some(login) = postmaster::try_login(bindir, &conninfo).await else {
        return Err(Failure::new(
            TargetState::Untouched,
            "could not find psql to try the standby's login on the source",
        )
        .hint("Say with --bindir where it is, or skip the check with --no-login-check."));
    };
    let shown = settings::primary_conninfo(&run.options.primary.without_secrets(), name)?;
    let expected = facts.control.system_identifier;
    guard::login(&login, expected, &shown, overrides)
        .map_err(|refusal| Failure::refused(&[refusal]))
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

/// What both sides have.
pub(super) struct Lists {
    manifest: Arc<Manifest>,
    end: ManifestEnd,
    tree: Listing<layout::Kind>,
}

/// Lists what both sides have, at the same time.
///
/// # Errors
/// The source cannot be listed, or the target.
pub(super) async fn lists(
    run: &Run<'_>,
    source: &Source,
    target: &TargetFacts,
    facts: &SourceFacts,
    cleared: &Cleared,
) -> Result<Lists, Failure> {
    let walk = TargetWalk::new(run.options, target, facts, cleared.findings());
    let walked = run.workers.run(move || walk.walk());
    let (manifest, walked) = futures_util::future::join(manifest(run, source), walked).await;
    let (manifest, end) = manifest.map_err(|error| error.untouched())?;
    let tree = walked
        .map_err(|error| Failure::untouched(&error))?
        .map_err(|error| Failure::untouched(&error))?;
    Ok(Lists {
        manifest: Arc::new(manifest),
        end,
        tree,
    })
}

async fn manifest(run: &Run<'_>, source: &Source) -> Result<(Manifest, ManifestEnd), SourceError> {
    let first = manifest_part(run, source, 0).await?;
    let parts = first.parts;
    if parts > PARTS_MAX {
        return Err(SourceError::Unfitting("manifest"));
    }
    let rest = (1..parts).map(|number| manifest_part(run, source, number));
    let rest = stream::iter(rest).buffered(PARTS_AHEAD);
    let mut all = std::pin::pin!(stream::iter([Ok(first)]).chain(rest));
    let mut manifest = Manifest::default();
    let (mut end, mut packed_bytes) = (None, 0);
    while let Some(part) = all.try_next().await? {
        for folder in part.folders {
            manifest
                .append(folder)
                .map_err(|_| SourceError::Unfitting("manifest"))?;
        }
        packed_bytes += part.packed_bytes;
        end = part.end;
    }
    let end = end.ok_or(SourceError::Unfitting("manifest"))?;
    if let Some(path) = manifest.orphan() {
        tracing::warn!("the manifest has entries in \"{path}\", which is no directory of it");
        return Err(SourceError::Unfitting("manifest"));
    }
    let entries = manifest.len();
    tracing::debug!("manifest: {entries} entries in {packed_bytes} bytes, {parts} parts");
    Ok((manifest, end))
}

/// A part of the manifest.
struct Part {
    folders: Vec<Folder<EntryKind>>,
    /// Bytes that it took on the link.
    packed_bytes: usize,
    /// How many parts there are.
    parts: u32,
    /// With the last one.
    end: Option<ManifestEnd>,
}

async fn manifest_part(run: &Run<'_>, source: &Source, part: u32) -> Result<Part, SourceError> {
    let unfitting = || SourceError::Unfitting("manifest");
    let request = Request::Manifest { part };
    let (answer, body) = source.ask(&request, Vec::new()).await?;
    let Answer::ManifestPart { parts, packed, end } = answer else {
        return Err(unfitting());
    };
    let packed_bytes = body.len();
    let bytes =
        payload::unpack(&packed, body, &run.key, listing::PART_BYTES).map_err(|_| unfitting())?;
    Ok(Part {
        folders: listing::decode(bytes.bytes()).map_err(|_| unfitting())?,
        packed_bytes,
        parts,
        end,
    })
}

/// Judges names that are one where a file system does not tell upper from lower case.
fn judge_names(
    options: &RebuildOptions,
    manifest: &Manifest,
    tree: &Listing<layout::Kind>,
) -> Result<(), Failure> {
    let is_special = |directory: Option<&RelPath>| {
        directory.is_none_or(|directory| directory.as_bytes() == b"global")
    };
    let mut special = manifest.iter().filter(|item| is_special(item.directory));
    if let Some(item) = special.find(|item| layout::is_disguised(&item.path())) {
        let error = format!(
            "\"{}\" on the source has a name of PostgreSQL's own but for upper and lower case",
            item.path()
        );
        return Err(Failure::new(TargetState::Untouched, error).hint("Rename or remove it."));
    }
    if disk::folds_case(&options.pgdata)
        && let Some((theirs, ours)) = workers::in_place(|| manifest::twins(manifest, tree))
    {
        let error = format!(
            "the target's file system takes \"{theirs}\", which is on the source, for \"{ours}\""
        );
        return Err(Failure::new(TargetState::Untouched, error)
            .hint("Rename one of them, or use a file system that tells upper from lower case."));
    }
    Ok(())
}

/// Turns the manifest into work, and lets the guards judge that need sizes.
pub(super) fn plan(
    run: &Run<'_>,
    facts: &SourceFacts,
    cleared: &Cleared,
    lists: Lists,
) -> Result<Work, Failure> {
    let Lists {
        manifest,
        end,
        tree,
    } = lists;
    let options = run.options;
    let findings = cleared.findings();
    judge_names(options, &manifest, &tree)?;
    let oids = end.tablespaces.iter().map(|space| space.oid);
    guard::new_tablespaces(&findings.placements, oids)
        .map_err(|refusal| Failure::refused(&[refusal]))?;
    let base = settings::own_base(options);
    for problem in &base.problems {
        run.warn(problem);
    }
    let host_local =
        work::host_local(options, facts, &base).map_err(|error| Failure::untouched(&error))?;
    let make = || work::make(options, facts, findings, &host_local, &manifest, &tree);
    let work = workers::in_place(make).map_err(|error| Failure::untouched(&error))?;
    guard::max_delete(options.max_delete, work.removed_files, || {
        work.some_removed()
    })
    .map_err(|refusal| Failure::refused(&[refusal]))?;
    guard::room(&work.room, &options.overrides).map_err(|refusals| Failure::refused(&refusals))?;
    if !end.skipped.is_empty() {
        run.warn(format!(
            "What is a link, a special file or not readable on the source is left out: {}.",
            words::some_of(&end.skipped)
        ));
    }
    run.events.tell(&Event::Planned {
        files: work.files.len() as u64,
        compare_bytes: work.files.compare_bytes(),
        fetch_bytes: work.files.fetch_bytes(),
    });
    Ok(work)
}
