//! A run for a caller that takes a failure for the end of the data directory: what may pass is tried again.
//!
//! Such a run also ends when its parent does. Patroni that was killed and started again would start a server in the
//! directory while the run goes on, wherever `global/pg_control` is in place. The parent is asked for twice a second
//! (`getppid`), and the kernel's signal of its death (`PR_SET_PDEATHSIG`) is not used: it comes when the *thread* ends that
//! started the process, which of a program with threads, such as Patroni, may be long before the program does.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use crate::cli::rebuild_until_stopped;
use crate::cli::signals::stop_signal;
use crate::client::failure::{Failure, TargetState};
use crate::client::options::RebuildOptions;
use crate::client::outcome::Outcome;
use crate::client::record::Record;
use crate::event::Stage;
use crate::plan::retry::{Patience, may_pass};
use crate::ui::Ui;
use crate::warning::{Code, Warning};

/// How often it is asked whether the parent is still there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How a run goes on.
#[derive(Debug)]
pub(in crate::cli) struct Persistence {
    /// How long it goes on after failures.
    pub retry_for: Duration,
    /// The process that started it.
    pub parent: u32,
    /// Keys of the caller's that mean nothing.
    pub ignored: Vec<String>,
}

/// Runs the rebuild until it succeeds, or fails for a reason that does not pass, or patience is at its end.
pub(in crate::cli) async fn persist(
    options: &RebuildOptions,
    ui: &Ui,
    record: &Record,
    persistence: &Persistence,
) -> Result<Outcome, Failure> {
    for key in &persistence.ignored {
        tracing::debug!("the key \"{key}\" is ignored");
    }
    let mut stop = std::pin::pin!(told_to_stop(ui, persistence.parent));
    let mut patience = Patience::new(persistence.retry_for);
    let mut number = 0_u32;
    let mut is_half_way = false;
    loop {
        number += 1;
        let begin = Instant::now();
        if number > 1 {
            record.begin_again(options);
        }
        let limit = Some(super::STOPS_WITHIN);
        let (result, is_stopped) =
            rebuild_until_stopped(options, ui, record, stop.as_mut(), limit).await;
        let mut failure = match result {
            Err(failure) => failure,
            done => return done,
        };
        // What an earlier attempt has begun, a later one that begins nothing leaves as it is.
        is_half_way |= failure.state == TargetState::HalfWay;
        if is_half_way && failure.state == TargetState::Untouched {
            failure.state = TargetState::HalfWay;
        }
        let passes = !is_stopped && may_pass(&failure.refusals, failure.is_of_disk);
        let pause = passes
            .then(|| patience.pause_after(begin.elapsed(), has_worked(record, ui)))
            .flatten();
        let Some(pause) = pause else {
            return Err(failure);
        };
        ui.events().warn(Warning {
            code: Code::AttemptFailed,
            message: format!(
                "Attempt {number} failed: {}. The next one follows in {} s; for {} s more it is tried again.",
                failure.errors.join("; "),
                pause.as_secs().max(1),
                patience.left().as_secs()
            ),
        });
        if is_told(stop.as_mut(), pause).await {
            return Err(failure.detail("Stopped before the next attempt."));
        }
    }
}

/// Whether an attempt came to move what differs.
fn has_worked(record: &Record, ui: &Ui) -> bool {
    let stages = record.outcome(ui.events().counters()).stages;
    stages.iter().any(|stage| stage.name >= Stage::Compare)
}

/// Waits for a pause. Whether the run was told to stop meanwhile.
async fn is_told(stop: Pin<&mut impl Future<Output = ()>>, pause: Duration) -> bool {
    tokio::select! {
        biased;
        () = stop => true,
        () = tokio::time::sleep(pause) => false,
    }
}

/// Waits for a signal, or for the parent's end.
async fn told_to_stop(ui: &Ui, parent: u32) {
    tokio::select! {
        () = stop_signal() => {}
        () = gone(parent) => {
            ui.events().warn(Warning {
                code: Code::ParentGone,
                message: format!("The process that started this run (PID {parent}) is gone."),
            });
        }
    }
}

async fn gone(parent: u32) {
    while std::os::unix::process::parent_id() == parent {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
