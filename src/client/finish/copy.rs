//! The end of a run that makes a copy: its hooks run in it while nobody else can come in, then it is opened.
//!
//! Until the hooks have succeeded the directory itself says that it is closed: its `postgresql.auto.conf` has no address
//! to listen on, a directory of sockets that only the owner can enter, and access rules that let in nobody but the
//! hooks. So it is closed to whoever starts it, also after a crash of this run or of the host.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::client::failure::{Failure, TargetState};
use crate::client::finish::launch::{Finished, MEND, log_file, start_options};
use crate::client::look::hooks::{Hooks, Script};
use crate::client::look::{conf, settings};
use crate::client::outcome::{CopyReport, Outcome};
use crate::client::run::Run;
use crate::disk::clone::{self as disk_clone, CopyFiles};
use crate::disk::facts as disk;
use crate::event::{Event, Stage};
use crate::facts::clone::{Mark, OwnLine};
use crate::facts::{Running, SourceFacts};
use crate::pg::control::ControlFile;
use crate::pg::lsn::{Lsn, SegmentName};
use crate::pg::timeline::TimelineId;
use crate::plan::adoption::Home;
use crate::plan::clone::{self, CloneSettings, Seclusion};
use crate::plan::words;
use crate::postmaster;
use crate::postmaster::script::{self, Door, Opened, ScriptError};
use crate::warning::Code;

/// PostgreSQL's.
const DEFAULT_PORT: u16 = 5432;

/// What makes the shutdown that follows a short one, however much the hooks have written.
const CHECKPOINT: &[u8] = b"CHECKPOINT;";

/// The copy, as far as it is made.
pub struct Copy {
    pub mark: Mark,
    /// How it is closed; `None` where no hook runs before it is opened.
    pub seclusion: Option<Seclusion>,
    /// What its configuration says.
    pub port: u16,
    pub cluster_name: Option<String>,
}

/// What is known of a copy when it is whole. `configured` is what its files set, `lines` are those of ours among them.
///
/// # Errors
/// The data directory cannot be looked at.
pub fn made(
    run: &Run<'_>,
    configured: &BTreeMap<String, String>,
    lines: Vec<OwnLine>,
    wanted: &CloneSettings,
    (facts, stop_lsn, home): (&SourceFacts, Lsn, Option<&Home>),
) -> Result<Copy, Failure> {
    let unit = facts.control.wal_segment_bytes;
    let last = SegmentName::of(Lsn(stop_lsn.0.saturating_sub(1)), facts.timeline, unit);
    let found = disk::directory(&run.options.pgdata).map_err(|error| Failure::half_way(&error))?;
    let text = |name: &str| configured.get(name).filter(|value| !value.is_empty());
    let port = text("port").and_then(|port| port.parse().ok());
    let copy = Copy {
        mark: Mark {
            message: clone::MESSAGE.to_owned(),
            pg_reseed_version: env!("CARGO_PKG_VERSION").to_owned(),
            made_unix_seconds: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_secs()),
            source_host: facts.host.name.clone(),
            source_data_directory: words::text(&facts.data_directory),
            system_identifier: facts.control.system_identifier.to_string(),
            timeline: facts.timeline,
            stop_lsn,
            wal_end: last.end(unit),
            inode: found.map_or(0, |found| found.identity.inode),
            is_ready: wanted.seclusion.is_none() && run.options.hooks.after_start.is_empty(),
            lines,
        },
        seclusion: wanted.seclusion.clone(),
        port: port.unwrap_or(DEFAULT_PORT),
        cluster_name: text("cluster_name").cloned(),
    };
    if let Some(home) = home {
        let name = copy.cluster_name.as_ref();
        let name = name.map_or_else(String::new, |name| format!(" and cluster_name \"{name}\""));
        let beside = if home.shares_host {
            ", which is on this host, where no two servers can have one port"
        } else {
            ""
        };
        run.warn(
            Code::CopyHasSourcesName,
            format!(
                "The copy has the source's configuration: port {}{name} are the source's too{beside}. Give it its own \
                 before anybody takes it for the source.",
                copy.port
            ),
        );
    }
    Ok(copy)
}

/// What is written into its directory.
#[must_use]
pub fn files(run: &Run<'_>, copy: &Copy) -> CopyFiles {
    CopyFiles {
        mark: bytes(&copy.mark),
        rules: copy.seclusion.as_ref().map(|_| {
            let role = role(run);
            (clone::hba(&role), clone::ident(&disk::user(), &role))
        }),
    }
}

/// The role as which the hooks run.
#[must_use]
pub fn role(run: &Run<'_>) -> String {
    let given = run.options.hooks.user.clone();
    given.unwrap_or_else(disk::user)
}

/// Runs the hooks, opens the copy and starts it, as far as that was asked for, and tells the outcome.
///
/// # Errors
/// A failure that says whether the copy is closed to others.
pub async fn end(
    run: &Run<'_>,
    hooks: &Hooks,
    finished: Finished,
    mut copy: Copy,
    cancel: &mut watch::Receiver<bool>,
) -> Result<Outcome, Failure> {
    let options = run.options;
    let bindir = finished.bindir.as_deref();
    if let Some(seclusion) = copy.seclusion.take() {
        run.stage(Stage::Hooks);
        before_start(run, hooks, &seclusion, bindir, cancel).await?;
        open(run, &mut copy.mark, hooks.after_start.is_empty())?;
    }
    let mut door = None;
    if options.start {
        run.stage(Stage::Start);
        door = Some(start(run, bindir, cancel).await?);
        after_start(run, hooks, &mut copy.mark, (door.as_ref(), bindir), cancel).await?;
    }
    let is_started = options.start || !hooks.before_start.is_empty();
    let report = CopyReport {
        stop_lsn: copy.mark.stop_lsn,
        taken_unix_seconds: copy.mark.made_unix_seconds,
        timeline: is_started.then(|| timeline(&options.pgdata)).flatten(),
        port: door.as_ref().map_or(copy.port, |door| door.port),
        cluster_name: copy.cluster_name,
        is_running: options.start,
        hooks: (hooks.before_start.len() + hooks.after_start.len()) as u64,
    };
    run.record.note(|outcome| outcome.copy = Some(report));
    Ok(finished.told(run, false))
}

/// The timeline that the copy writes on.
fn timeline(pgdata: &Path) -> Option<TimelineId> {
    let bytes = disk::control_file(&pgdata.join("global/pg_control")).ok()?;
    let control = ControlFile::decode(&bytes).ok()?;
    Some(control.timeline_reached())
}

/// What the future gives, unless the run is to be stopped.
async fn unless_cancelled<T>(
    cancel: &mut watch::Receiver<bool>,
    future: impl Future<Output = T>,
) -> Result<T, String> {
    tokio::select! {
        biased;
        Ok(_) = cancel.wait_for(|wanted| *wanted) => Err("interrupted by a signal".to_owned()),
        result = future => Ok(result),
    }
}

/// Starts the copy where nobody can come in, runs the hooks and stops it again, whatever happened.
async fn before_start(
    run: &Run<'_>,
    hooks: &Hooks,
    seclusion: &Seclusion,
    bindir: Option<&Path>,
    cancel: &mut watch::Receiver<bool>,
) -> Result<(), Failure> {
    let sockets = Path::new(&seclusion.sockets);
    disk_clone::make_private_directory(sockets)
        .map_err(|error| unready(crate::errors::chain(&error)))?;
    let result = in_seclusion(run, hooks, bindir, cancel).await;
    let stopped = stop(run).await;
    disk_clone::remove_private_directory(sockets);
    match (result, stopped) {
        (result, Ok(())) => result,
        (Ok(()), Err(error)) => {
            Err(unready(error).hint("Stop it, or allow more time with --wait."))
        }
        (Err(failure), Err(error)) => {
            Err(failure.detail(format!("Its server still runs: {error}.")))
        }
    }
}

async fn in_seclusion(
    run: &Run<'_>,
    hooks: &Hooks,
    bindir: Option<&Path>,
    cancel: &mut watch::Receiver<bool>,
) -> Result<(), Failure> {
    let options = run.options;
    let start = start_options(run, bindir, None);
    let log_from = disk::length(&start.log_file);
    let started = unless_cancelled(cancel, postmaster::start(&start, options.wait)).await;
    let pid = started.map_err(unready)?.map_err(|error| {
        unready(error.to_string())
            .hint("Mend what the log names.")
            .again()
    })?;
    let opened = script::until_open(&options.pgdata, pid, options.wait);
    let door = match unless_cancelled(cancel, opened).await.map_err(unready)? {
        Opened::At(door) => door,
        Opened::Ended => {
            let log = postmaster::log_tail(&start.log_file, log_from);
            return Err(unready("the copy's server ended".to_owned())
                .detail(format!("Its log says:\n{log}"))
                .hint("Mend what the log names.")
                .again());
        }
        Opened::TimeUp { status } => return Err(unready(late(run, &status)).hint(WAIT).again()),
    };
    for script in &hooks.before_start {
        hook(run, script, &door, bindir, cancel).await?;
        done(run, script);
    }
    let rest = Script {
        name: "CHECKPOINT".to_owned(),
        sql: CHECKPOINT.to_vec(),
    };
    // A role that may not is no matter: the server's shutdown does the same.
    if let Err(failure) = hook(run, &rest, &door, bindir, cancel).await {
        tracing::debug!("no checkpoint before the shutdown: {:?}", failure.errors);
    }
    Ok(())
}

/// What to do about a copy that recovers for long.
const WAIT: &str = "--wait allows more time.";

fn late(run: &Run<'_>, status: &str) -> String {
    let waited = run.options.wait.as_secs();
    format!("the copy has not ended its recovery after {waited} s (its server says \"{status}\")")
}

/// A failure that leaves a copy which nobody but its owner can enter.
fn unready(error: String) -> Failure {
    Failure::new(TargetState::Unready, error)
}

/// Runs one hook.
async fn hook(
    run: &Run<'_>,
    script: &Script,
    door: &Door,
    bindir: Option<&Path>,
    cancel: &mut watch::Receiver<bool>,
) -> Result<(), Failure> {
    let Some(psql) = script::find_psql(bindir) else {
        return Err(unready("could not find psql for the hooks".to_owned())
            .hint("Say with --bindir where it is.")
            .again());
    };
    let (role, log_file) = (role(run), log_file(run));
    let how = script::Script {
        psql: &psql,
        door,
        role: &role,
        working_directory: &run.options.working_directory,
        log_file: &log_file,
    };
    let ran = unless_cancelled(cancel, script::run(&how, &script.sql)).await;
    let name = &script.name;
    let Err(error) = ran.map_err(|error| unready(error).again())? else {
        return Ok(());
    };
    let failure = unready(format!("{name} failed: {error}"));
    let failure = match error {
        ScriptError::Failed { .. } => failure.detail(format!(
            "What psql said is in \"{}\", since it may quote the script.",
            log_file.display()
        )),
        ScriptError::NoConnection(_) => {
            failure.hint("--hook-user names a superuser of the copy, which must be let in.")
        }
        ScriptError::Run { .. } | ScriptError::Log { .. } => failure,
    };
    Err(failure.again())
}

fn done(run: &Run<'_>, script: &Script) {
    run.events.note(format!("Done: {}.", script.name));
}

/// Stops the server that works in the copy, if one does.
async fn stop(run: &Run<'_>) -> Result<(), String> {
    let options = run.options;
    let pid_file = disk::pid_file(&options.pgdata).unwrap_or_default();
    match postmaster::running(&options.pgdata, pid_file.as_deref()) {
        Running::Server { pid } => postmaster::stop(&options.pgdata, pid, options.wait)
            .await
            .map_err(|error| error.to_string()),
        _ => Ok(()),
    }
}

/// Takes away what keeps others out: the server works with its own configuration from now on.
fn open(run: &Run<'_>, mark: &mut Mark, is_ready: bool) -> Result<(), Failure> {
    let pgdata = &run.options.pgdata;
    let failed = |error: crate::disk::DiskError| unready(crate::errors::chain(&error)).again();
    let text = conf::auto_conf(pgdata).map_err(failed)?;
    let (text, lines) = clone::opened(&text, std::mem::take(&mut mark.lines));
    mark.lines = lines;
    mark.is_ready = is_ready;
    disk_clone::write_auto_conf(pgdata, &text).map_err(failed)?;
    write(pgdata, mark).map_err(failed)?;
    disk_clone::remove_rules(pgdata).map_err(failed)
}

/// Keeps everybody out whoever starts it the next time.
fn close_again(run: &Run<'_>, mark: &mut Mark) -> Result<(), String> {
    let pgdata = &run.options.pgdata;
    let place = settings::seclusion(pgdata)?;
    let role = role(run);
    let failed = |error: crate::disk::DiskError| crate::errors::chain(&error);
    let (hba, ident) = (clone::hba(&role), clone::ident(&disk::user(), &role));
    disk_clone::write_rules(pgdata, &hba, &ident).map_err(failed)?;
    let text = conf::auto_conf(pgdata).map_err(failed)?;
    let (text, lines) = clone::secluded(&text, std::mem::take(&mut mark.lines), &place);
    mark.lines = lines;
    mark.is_ready = false;
    disk_clone::write_auto_conf(pgdata, &text).map_err(failed)?;
    write(pgdata, mark).map_err(failed)
}

fn write(pgdata: &Path, mark: &Mark) -> Result<(), crate::disk::DiskError> {
    disk_clone::write_mark(pgdata, &bytes(mark))
}

/// The mark as it is written.
#[must_use]
pub fn bytes(mark: &Mark) -> Vec<u8> {
    // Nothing in it can fail.
    serde_json::to_vec_pretty(mark).unwrap_or_default()
}

/// Starts the copy for everybody, and waits until it lets sessions in.
async fn start(
    run: &Run<'_>,
    bindir: Option<&Path>,
    cancel: &mut watch::Receiver<bool>,
) -> Result<Door, Failure> {
    let options = run.options;
    let copied = |error: String| Failure::new(TargetState::Copied, error);
    let start = start_options(run, bindir, options.starter.as_ref());
    let log_from = disk::length(&start.log_file);
    // sudo for a password, the server for the passphrase of its key.
    run.events.tell(&Event::MayAsk(true));
    let started = unless_cancelled(cancel, postmaster::start(&start, options.wait)).await;
    run.events.tell(&Event::MayAsk(false));
    let pid = started
        .map_err(copied)?
        .map_err(|error| copied(error.to_string()).hint(MEND))?;
    let opened = script::until_open(&options.pgdata, pid, options.wait);
    let opened = unless_cancelled(cancel, opened).await.map_err(copied)?;
    let log = || postmaster::log_tail(&start.log_file, log_from);
    match opened {
        Opened::At(door) => Ok(door),
        Opened::Ended => Err(copied("the copy's server ended".to_owned())
            .detail(format!("Its log says:\n{}", log()))
            .hint(MEND)),
        Opened::TimeUp { status } => Err(copied(late(run, &status))
            .detail(format!("The server runs. Its log says:\n{}", log()))
            .hint(WAIT)),
    }
}

/// Runs the hooks in the copy that everybody can reach. If one fails, it is stopped and closed: what they were to do
/// was not done.
async fn after_start(
    run: &Run<'_>,
    hooks: &Hooks,
    mark: &mut Mark,
    (door, bindir): (Option<&Door>, Option<&Path>),
    cancel: &mut watch::Receiver<bool>,
) -> Result<(), Failure> {
    let (Some(door), false) = (door, hooks.after_start.is_empty()) else {
        return Ok(());
    };
    for script in &hooks.after_start {
        let Err(mut failure) = hook(run, script, door, bindir, cancel).await else {
            done(run, script);
            continue;
        };
        // So that it is closed however the stop ends.
        if let Err(error) = close_again(run, mark) {
            failure.state = TargetState::Copied;
            failure = failure.detail(format!("It could not be closed to others: {error}."));
        }
        if let Err(error) = stop(run).await {
            failure = failure.detail(format!(
                "Its server still runs and lets others in: {error}."
            ));
        }
        return Err(failure);
    }
    mark.is_ready = true;
    write(&run.options.pgdata, mark)
        .map_err(|error| Failure::new(TargetState::Copied, crate::errors::chain(&error)))
}
