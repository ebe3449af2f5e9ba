//! The story of a rebuild, a seed or a dry run.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::conf;
use super::failure::{Failure, Kind, TargetState, chain};
use super::look;
use super::marker::{self, Before, Marker};
use super::options::RebuildOptions;
use super::outcome::{DamagedPage, DivergenceReport, Mode, Outcome, StageTime};
use super::source::{self, Connection, Source, SourceError};
use super::standby::{self, Watched};
use super::transfer::{FileWork, Found, Sink, Transfer, TransferError};
use super::work::{self, Work};
use crate::digest::SessionKey;
use crate::disk::DiskError;
use crate::disk::root::Roots;
use crate::disk::target::{CloseError, ClosePlan, ClosedTarget, Finish, Held};
use crate::event::{Counters, Event, Events, Stage};
use crate::facts::{Condition, Running, SourceFacts, TargetCluster, TargetFacts};
use crate::manifest::Entry;
use crate::path::RelPath;
use crate::pg::control::poison_checkpoint;
use crate::pg::label::BackupLabel;
use crate::pg::layout;
use crate::pg::lsn::Lsn;
use crate::plan::guard::{self, Cleared, Situation};
use crate::plan::refusal::Refusal;
use crate::plan::standby as standby_plan;
use crate::plan::tablespaces;
use crate::postmaster;
use crate::wire::message::{Answer, ManifestEnd, Request, SlotWish, WalFile};
use crate::workers::Workers;

/// Rebuilds, seeds or compares a target. Ends early when `cancel` becomes true.
///
/// # Errors
/// A [`Failure`] that knows in what state it leaves the target.
pub async fn rebuild(
    options: &RebuildOptions,
    events: &Events,
    mut cancel: watch::Receiver<bool>,
) -> Result<Outcome, Failure> {
    let run = Run::begin(options, events)?;
    let prepared = tokio::select! {
        biased;
        () = cancelled(&mut cancel) => Err(interrupted(TargetState::Untouched)),
        prepared = prepare(&run) => prepared,
    };
    let (connection, half) = match prepared? {
        Prepared::Survey(connection, outcome) => {
            connection.end().await;
            return Ok(*outcome);
        }
        // Point of no return: pg_control is gone, and `finish` alone brings it back.
        Prepared::Closed(connection, half) => (connection, half),
    };
    let source = half.source.clone();
    let carried = tokio::select! {
        biased;
        () = cancelled(&mut cancel) => Err(interrupted(TargetState::HalfWay)),
        lost = source.lost() => Err(Failure::new(TargetState::HalfWay, chain(&lost))),
        carried = carry_out(&run, *half) => carried,
    };
    let finished = match carried {
        Ok(finished) => finished,
        Err(failure) => return Err(after_loss(failure, source, connection).await),
    };
    let outcome = tokio::select! {
        biased;
        () = cancelled(&mut cancel) => Err(interrupted(TargetState::Rebuilt)),
        outcome = start_and_watch(&run, &source, finished) => outcome,
    };
    // The temporary slot may go only now. The agent's end does the same, less politely.
    let _ = source.ask(&Request::Bye, Vec::new()).await;
    drop(source);
    connection.end().await;
    events.stage(Stage::Done);
    outcome
}

/// Ends the connection after a failure, and adds how the agent ended if the link was the trouble.
async fn after_loss(failure: Failure, source: Source, connection: Connection) -> Failure {
    drop(source);
    let epitaph = connection.end().await;
    let is_link = failure.errors.iter().any(|error| error.contains("connection to the agent"));
    if is_link {
        failure.detail(format!("{epitaph}."))
    } else {
        failure
    }
}

async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    if cancel.wait_for(|wanted| *wanted).await.is_err() {
        // Nobody can cancel any more.
        std::future::pending::<()>().await;
    }
}

fn interrupted(state: TargetState) -> Failure {
    Failure::new(state, "interrupted by a signal")
}

/// What comes of the half before the point of no return.
enum Prepared {
    Survey(Connection, Box<Outcome>),
    Closed(Connection, Box<Half>),
}

/// What the half behind the point of no return needs.
struct Half {
    source: Source,
    facts: SourceFacts,
    target: Arc<ClosedTarget>,
    cleared: Cleared,
    before: Option<TargetCluster>,
    work: Work,
    start_lsn: Lsn,
    /// The text that postgresql.auto.conf grows from: the target's own or, in a seed, the source's.
    old_auto_conf: Vec<u8>,
    bindir: Option<std::path::PathBuf>,
}

async fn prepare(run: &Run<'_>) -> Result<Prepared, Failure> {
    let options = run.options;
    run.stage(Stage::Look);
    let mut target = look::target(&options.pgdata).map_err(|error| untouched_disk(&error))?;
    if target.is_root {
        return Err(refused(&[Refusal::RunsAsRoot]));
    }
    let (source, connection) = source::connect(&options.from, run.events)
        .await
        .map_err(|error| unreachable_agent(&error))?;
    let facts = facts(run, &source).await.map_err(untouched)?;

    run.stage(Stage::Judge);
    let cleared = judge(run, &mut target, &facts).await?;
    let bindir = match &options.bindir {
        Some(directory) => Some(directory.clone()),
        None => postmaster::find_bindir(facts.version.major()),
    };
    if options.start && bindir.is_none() {
        return Err(Failure::new(
            TargetState::Untouched,
            format!("could not find pg_ctl of PostgreSQL {}", facts.version.major()),
        )
        .hint("Say with --bindir where the server's programs are."));
    }
    judge_login(run, &facts, bindir.as_deref()).await?;

    if options.dry_run {
        let outcome = survey(run, &source, &facts, &target, &cleared).await?;
        drop(source);
        return Ok(Prepared::Survey(connection, Box::new(outcome)));
    }

    run.stage(Stage::Bracket);
    let start_lsn = open_bracket(run, &source, &cleared).await.map_err(untouched)?;

    run.stage(Stage::Manifest);
    let (entries, end) = manifest(&source).await.map_err(untouched)?;
    let work = plan(run, &target, &facts, &cleared, &entries, &end)?;
    let old_auto_conf = old_auto_conf(run, &source, &facts, &work)
        .await
        .map_err(untouched)?;

    run.stage(Stage::Close);
    let before = match target.condition {
        Condition::Cluster(cluster) => Some(*cluster),
        _ => None,
    };
    let closed = close(run, &facts, &cleared, before.as_ref(), start_lsn, &old_auto_conf)?;
    Ok(Prepared::Closed(
        connection,
        Box::new(Half {
            source,
            facts,
            target: Arc::new(closed),
            cleared,
            before,
            work,
            start_lsn,
            old_auto_conf,
            bindir,
        }),
    ))
}

async fn facts(run: &Run<'_>, source: &Source) -> Result<SourceFacts, SourceError> {
    let configure = Request::Configure {
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        key: run.key,
        compression: run.options.compression,
        jobs: u16::try_from(run.options.jobs).unwrap_or(u16::MAX),
        survey: run.options.dry_run,
    };
    let (Answer::Ready { .. }, _) = source.ask(&configure, Vec::new()).await? else {
        return Err(SourceError::Unfitting("configure"));
    };
    let slot = run.options.slot.clone();
    match source.ask(&Request::Facts { slot }, Vec::new()).await? {
        (Answer::Facts(facts), _) => Ok(*facts),
        _ => Err(SourceError::Unfitting("facts")),
    }
}

/// Lets the guards judge, and stops the target's server in between when that was asked for.
async fn judge(
    run: &Run<'_>,
    target: &mut TargetFacts,
    facts: &SourceFacts,
) -> Result<Cleared, Failure> {
    let options = run.options;
    for attempt in 0..2 {
        let places = look::places(
            &options.pgdata,
            options.waldir.as_deref(),
            target,
            target.host.is_same_kernel(&facts.host),
            tablespaces::would_be(&facts.tablespaces, &options.mappings),
            &tablespaces::version_directory(facts),
        )
        .map_err(|error| untouched_disk(&error))?;
        let situation = Situation {
            target,
            source: facts,
            slot: slot_wish(options),
            mappings: &options.mappings,
            places: &places,
            overrides: &options.overrides,
        };
        let pid = match &target.condition {
            Condition::Cluster(cluster) => match cluster.running {
                Running::Server { pid } => Some(pid),
                _ => None,
            },
            _ => None,
        };
        let (Some(pid), true, 0) = (pid, options.stop, attempt) else {
            return guard::judge(&situation).map_err(|refusals| refused(&refusals));
        };
        guard::judge_before_stop(&situation).map_err(|refusals| refused(&refusals))?;
        if options.dry_run {
            return Err(Failure::new(
                TargetState::Untouched,
                format!("a server with pid {pid} runs in the target, and a dry run does not stop it"),
            )
            .hint("Stop it first: the figures of a directory that changes mean nothing."));
        }
        postmaster::stop(&options.pgdata, pid, options.wait)
            .await
            .map_err(|error| Failure::new(TargetState::Untouched, chain(&error)))?;
        run.events.note("The target's server was stopped.");
        *target = look::target(&options.pgdata).map_err(|error| untouched_disk(&error))?;
    }
    unreachable!("the second attempt returns")
}

fn slot_wish(options: &RebuildOptions) -> guard::SlotWish<'_> {
    match &options.slot {
        None => guard::SlotWish::Temporary,
        Some(name) if options.create_slot => guard::SlotWish::Create(name),
        Some(name) => guard::SlotWish::Existing(name),
    }
}

fn primary_conninfo(options: &RebuildOptions) -> Result<String, Failure> {
    standby_plan::primary_conninfo(&options.primary, options.application_name.as_deref())
        .map_err(|error| Failure::new(TargetState::Untouched, chain(&error)))
}

async fn judge_login(
    run: &Run<'_>,
    facts: &SourceFacts,
    bindir: Option<&std::path::Path>,
) -> Result<(), Failure> {
    let overrides = &run.options.overrides;
    if overrides.no_login_check {
        return Ok(());
    }
    let conninfo = primary_conninfo(run.options)?;
    let Some(login) = standby::try_login(bindir, &conninfo).await else {
        return Err(Failure::new(
            TargetState::Untouched,
            "could not find psql to try the standby's login on the source",
        )
        .hint("Say with --bindir where it is, or skip the check with --no-login-check."));
    };
    let expected = facts.control.system_identifier;
    guard::login(&login, expected, &conninfo, overrides).map_err(|refusal| refused(&[refusal]))
}

async fn open_bracket(
    run: &Run<'_>,
    source: &Source,
    cleared: &Cleared,
) -> Result<Lsn, SourceError> {
    let slot = match slot_wish(run.options) {
        guard::SlotWish::Create(name) => SlotWish::Create(name.to_owned()),
        guard::SlotWish::Existing(name) if !cleared.findings().needs_temporary_slot => {
            SlotWish::Existing(name.to_owned())
        }
        _ => SlotWish::Temporary,
    };
    let request = Request::OpenBracket {
        label: "pg_reseed rebuild".to_owned(),
        fast_checkpoint: run.options.fast_checkpoint,
        slot,
    };
    match source.ask(&request, Vec::new()).await? {
        (Answer::BracketOpened { start_lsn, .. }, _) => Ok(start_lsn),
        _ => Err(SourceError::Unfitting("backup start")),
    }
}

async fn manifest(source: &Source) -> Result<(Vec<Entry>, ManifestEnd), SourceError> {
    let mut entries = Vec::new();
    loop {
        let from = u32::try_from(entries.len()).map_err(|_| SourceError::Unfitting("manifest"))?;
        let answer = source.ask(&Request::Manifest { from }, Vec::new()).await?;
        let (Answer::ManifestPart { entries: part, last }, _) = answer else {
            return Err(SourceError::Unfitting("manifest"));
        };
        if part.is_empty() && last.is_none() {
            return Err(SourceError::Unfitting("manifest"));
        }
        entries.extend(part);
        if let Some(end) = last {
            return Ok((entries, end));
        }
    }
}

/// Turns the manifest into work, and lets the guards judge that need sizes.
fn plan(
    run: &Run<'_>,
    target: &TargetFacts,
    facts: &SourceFacts,
    cleared: &Cleared,
    entries: &[Entry],
    end: &ManifestEnd,
) -> Result<Work, Failure> {
    let options = run.options;
    let findings = cleared.findings();
    let oids = end.tablespaces.iter().map(|space| space.oid);
    guard::new_tablespaces(&findings.placements, oids).map_err(|refusal| refused(&[refusal]))?;
    let work = work::make(options, target, facts, findings, entries)
        .map_err(|error| untouched_disk(&error))?;
    guard::max_delete(options.max_delete, work.removed_files)
        .map_err(|refusal| refused(&[refusal]))?;
    guard::room(&work.room, &options.overrides).map_err(|refusals| refused(&refusals))?;
    for name in &end.skipped {
        run.events.warn(format!(
            "\"{name}\" on the source is a link or special file and is left out."
        ));
    }
    run.events.tell(&Event::Planned {
        files: work.files.len() as u64,
        compare_bytes: work.files.iter().map(|file| file.common.min(file.bytes)).sum(),
        fetch_bytes: work.files.iter().map(|file| file.bytes.saturating_sub(file.common)).sum(),
    });
    Ok(work)
}

/// The text that the new postgresql.auto.conf grows from.
async fn old_auto_conf(
    run: &Run<'_>,
    source: &Source,
    facts: &SourceFacts,
    work: &Work,
) -> Result<Vec<u8>, TransferErrorOrDisk> {
    match &work.auto_conf {
        Some((entry, bytes)) => {
            Ok(super::transfer::fetch_small(source, &run.key, *entry, *bytes, facts.control.block_bytes)
                .await?)
        }
        None => Ok(conf::auto_conf(&run.options.pgdata)?),
    }
}

fn close(
    run: &Run<'_>,
    facts: &SourceFacts,
    cleared: &Cleared,
    before: Option<&TargetCluster>,
    start_lsn: Lsn,
    old_auto_conf: &[u8],
) -> Result<ClosedTarget, Failure> {
    let options = run.options;
    let findings = cleared.findings();
    let untouched = |error: &DiskError| untouched_disk(error);
    let group_access = match before {
        Some(cluster) => cluster.mode & 0o050 != 0,
        None => facts.data_directory_mode & 0o050 != 0,
    };
    if before.is_none() {
        let mode = if group_access { 0o750 } else { 0o700 };
        crate::disk::target::make_data_directory(&options.pgdata, mode)
            .map_err(|error| untouched(&error))?;
    }
    let held = Held::take(&options.pgdata)
        .map_err(|error| untouched(&error))?
        .ok_or_else(|| refused(&[Refusal::Locked]))?;
    let marker = Marker {
        message: marker::MESSAGE.to_owned(),
        pg_reseed_version: env!("CARGO_PKG_VERSION").to_owned(),
        started_unix_seconds: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs()),
        source_host: facts.host.name.clone(),
        source_system_identifier: facts.control.system_identifier.to_string(),
        start_lsn,
        is_seed: findings.is_seed,
        before: before.map(|cluster| Before {
            history: cluster.history.clone(),
            newest_wal_timeline: cluster.newest_wal_timeline,
            wal_segments_end: cluster.wal_segments_end,
        }),
    };
    let marker = serde_json::to_vec_pretty(&marker)
        .map_err(|error| Failure::new(TargetState::Untouched, error))?;
    let closed_auto_conf = standby_plan::closed_auto_conf(old_auto_conf);
    let plan = ClosePlan {
        marker: &marker,
        closed_auto_conf: &closed_auto_conf,
        group_access,
        waldir: options.waldir.as_deref(),
        placements: &findings.placements,
        required_directories: layout::required_directories(facts.version.major()),
        stale_pid_file: before.map_or(&[], |cluster| &cluster.pid_file),
        sync: options.sync,
    };
    ClosedTarget::close(held, cleared, &plan).map_err(|error| match &error {
        CloseError::Untouched(cause) | CloseError::HalfWay(cause) => {
            let state = match &error {
                CloseError::HalfWay(_) => TargetState::HalfWay,
                _ => TargetState::Untouched,
            };
            Failure::new(state, disk_words(cause))
        }
        CloseError::Started(_) => refused_text(&error.to_string()),
    })
}

/// Compares without a bracket and without changing anything.
async fn survey(
    run: &Run<'_>,
    source: &Source,
    facts: &SourceFacts,
    target: &TargetFacts,
    cleared: &Cleared,
) -> Result<Outcome, Failure> {
    run.stage(Stage::Manifest);
    let (entries, end) = manifest(source).await.map_err(|error| untouched(&error))?;
    let work = plan(run, target, facts, cleared, &entries, &end)?;
    run.stage(Stage::Compare);
    let located = cleared.findings().placements.iter().filter_map(located);
    let located: Vec<_> = located.collect();
    let places = located.iter().map(|(oid, path)| (*oid, path.as_path()));
    // A seed has nothing to compare: any directory does, since nothing in it is opened.
    let root = match target.condition {
        Condition::Missing => std::path::Path::new("/"),
        _ => &run.options.pgdata,
    };
    let roots = Roots::open(root, places).map_err(|error| untouched_disk(&error))?;
    let found = Transfer::new(
        source.clone(),
        Sink::Survey(Arc::new(roots)),
        run.workers.clone(),
        run.events.clone(),
        run.key,
        facts.control.block_bytes,
    )
    .run(work.files.iter().cloned())
    .await
    .map_err(|error| Failure::new(TargetState::Untouched, chain(&error)))?;
    Counters::add(&run.events.counters().removed_files, work.removed_files);
    run.stage(Stage::Done);
    let before = match &target.condition {
        Condition::Cluster(cluster) => Some(&**cluster),
        _ => None,
    };
    Ok(summary::outcome(
        run,
        &Told {
            facts,
            cleared,
            before,
            work: &work,
            damaged: damaged_pages(&work, &found),
            lsns: None,
            streaming: false,
        },
    ))
}

fn located(placement: &tablespaces::Placement) -> Option<(u32, std::path::PathBuf)> {
    use std::os::unix::ffi::OsStrExt;
    let location = placement.location.as_deref()?;
    Some((
        placement.oid,
        std::ffi::OsStr::from_bytes(location).into(),
    ))
}

/// Starts the standby and waits until it streams, if that was asked for, and tells the outcome.
async fn start_and_watch(
    run: &Run<'_>,
    source: &Source,
    finished: Finished,
) -> Result<Outcome, Failure> {
    let options = run.options;
    if let (true, Some(bindir)) = (options.start, &finished.bindir) {
        let rebuilt = |error: String| {
            Failure::new(TargetState::Rebuilt, error)
        };
        let before = standby::senders(source)
            .await
            .map_err(|error| rebuilt(chain(&error)))?;
        run.stage(Stage::Start);
        let log_file = options
            .log_file
            .clone()
            .unwrap_or_else(|| options.pgdata.join("pg_reseed.start.log"));
        let start = postmaster::StartOptions {
            pgdata: options.pgdata.clone(),
            bindir: bindir.clone(),
            config_file: options.config_file.clone(),
            log_file: log_file.clone(),
        };
        let log_from = std::fs::metadata(&log_file).map_or(0, |found| found.len());
        let pid = postmaster::start(&start, options.wait)
            .await
            .map_err(|error| {
                rebuilt(chain(&error)).hint("Mend what the log names and start the server: nothing needs to be copied again.")
            })?;
        run.stage(Stage::Watch);
        let slot = options.slot.as_deref();
        let watched = standby::watch(source, pid, slot, &before, finished.stop_lsn, options.wait)
            .await
            .map_err(|error| rebuilt(chain(&error)))?;
        let log = postmaster::log_tail(&log_file, log_from);
        match watched {
            Watched::Streams { .. } => {}
            Watched::Ended => {
                return Err(rebuilt("the standby's server ended".to_owned())
                    .detail(format!("Its log says:\n{log}"))
                    .hint("Mend what the log names and start the server: nothing needs to be copied again."));
            }
            Watched::TimeUp { seen } => {
                let waited = options.wait.as_secs();
                return Err(rebuilt(format!(
                    "the standby does not stream after {waited} s: {seen}"
                ))
                .detail(format!("The server runs. Its log says:\n{log}"))
                .hint("Look at its log and at pg_stat_replication on the source; --wait allows more time."));
            }
        }
    }
    Ok(summary::outcome(
        run,
        &Told {
            facts: &finished.facts,
            cleared: &finished.cleared,
            before: finished.before.as_ref(),
            work: &finished.work,
            damaged: finished.damaged,
            lsns: Some((finished.start_lsn, finished.stop_lsn)),
            streaming: options.start,
        },
    ))
}

fn untouched(error: &SourceError) -> Failure {
    let failure = Failure::new(TargetState::Untouched, chain(error));
    match error {
        SourceError::Fault(fault) => match &fault.hint {
            Some(hint) => failure.hint(hint.clone()),
            None => failure,
        },
        _ => failure,
    }
}

fn untouched_disk(error: &DiskError) -> Failure {
    Failure::new(TargetState::Untouched, disk_words(error))
}

fn unreachable_agent(error: &SourceError) -> Failure {
    let failure = Failure::new(TargetState::Untouched, chain(error));
    match error {
        SourceError::Handshake { epitaph, .. } => failure.detail(format!("{epitaph}.")).hint(
            "pg_reseed must be installed on the source's host (--agent-path says where), and nothing \
             else may write to the standard output of that command.",
        ),
        _ => failure,
    }
}

fn refused(refusals: &[Refusal]) -> Failure {
    Failure {
        kind: Kind::Refused,
        state: TargetState::Untouched,
        errors: refusals.iter().map(Refusal::error).collect(),
        details: refusals.iter().map(Refusal::detail).collect(),
        hints: refusals.iter().map(Refusal::hint).collect(),
    }
}
