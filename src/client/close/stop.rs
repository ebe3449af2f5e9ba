//! The target's server: stopped before anything changes, and started again if nothing does.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::client::failure::{Failure, TargetState};
use crate::client::run::Run;
use crate::disk::facts as disk;
use crate::event::Event;
use crate::facts::Running;
use crate::postmaster::{self, StartOptions, again};

/// How often it is looked whether a server is gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Stops the server with this pid, and remembers how it ran.
///
/// # Errors
/// It cannot be stopped in time.
pub async fn stop(run: &Run<'_>, pid: u32) -> Result<(), Failure> {
    let options = run.options;
    // It is stopped once.
    let _ = run.stopped.set(again::look(&options.pgdata, pid));
    postmaster::stop(&options.pgdata, pid, options.wait)
        .await
        .map_err(|error| {
            Failure::untouched(&error).hint("Stop it, or allow more time with --wait.")
        })?;
    run.events.note("The target's server was stopped.");
    Ok(())
}

/// Starts the server again that this run has stopped, after a failure that left the target as it was, and says so.
pub async fn undo(run: &Run<'_>, failure: Failure) -> Failure {
    let Some(ran) = run.stopped.get() else {
        return failure;
    };
    if failure.state != TargetState::Untouched {
        return failure;
    }
    let options = run.options;
    let log_file = ran
        .log_file
        .clone()
        .or_else(|| options.log_file.clone())
        .unwrap_or_else(|| options.pgdata.join("pg_reseed.start.log"));
    let by_hand = match (&options.starter, &ran.service) {
        (Some(starter), _) => shown(&starter.words()),
        (None, Some(service)) => format!("systemctl start {service}"),
        (None, None) => shown(&ran.command(&options.pgdata, &log_file, options.bindir.as_deref())),
    };
    let is_gone = {
        let begin = Instant::now();
        loop {
            match running(&options.pgdata) {
                Running::No => break true,
                _ if begin.elapsed() > options.wait => break false,
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    };
    if !is_gone {
        return failure
            .detail("The target's server was asked to stop and may still be doing so.")
            .hint(format!("Once it has stopped, start it again: {by_hand}"));
    }
    if options.starter.is_none()
        && let Some(service) = &ran.service
    {
        return failure
            .detail(format!(
                "The target's server was stopped and is not running now: it belongs to the service {service}, which \
                 only systemd can start."
            ))
            .hint(format!("Start it again: {by_hand}"));
    }
    let words = match &options.starter {
        Some(starter) => starter.words(),
        None => ran.command_in_environment(&options.pgdata, &log_file, options.bindir.as_deref()),
    };
    let start = StartOptions {
        pgdata: options.pgdata.clone(),
        bindir: PathBuf::new(),
        config_file: None,
        log_file,
        instead: Some(words),
    };
    // sudo for a password, the server for the passphrase of its key.
    run.events.tell(&Event::MayAsk(true));
    let started = postmaster::start(&start, options.wait).await;
    run.events.tell(&Event::MayAsk(false));
    match started {
        Ok(pid) => failure.detail(format!(
            "The target's server was stopped and has been started again (PID {pid})."
        )),
        Err(error) => failure
            .detail(format!(
                "The target's server was stopped and is not running now: {error}."
            ))
            .hint(format!("Start it again: {by_hand}")),
    }
}

fn running(pgdata: &std::path::Path) -> Running {
    let pid_file = disk::pid_file(pgdata).unwrap_or_default();
    postmaster::running(pgdata, pid_file.as_deref())
}

/// A command as it can be typed.
fn shown(words: &[OsString]) -> String {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    // Only a NUL cannot be quoted.
    shlex::try_join(words.iter().map(|word| &**word)).unwrap_or_default()
}
