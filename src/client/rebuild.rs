//! The story of a rebuild, a seed or a dry run.

use std::time::Duration;

use tokio::sync::watch;

use crate::client::carry::{carry_out, finish};
use crate::client::close::stop;
use crate::client::failure::{Failure, TargetState};
use crate::client::finish::copy::{self, Copy};
use crate::client::finish::launch::{Finished, start_and_watch};
use crate::client::look::hooks;
use crate::client::needed;
use crate::client::options::RebuildOptions;
use crate::client::outcome::Outcome;
use crate::client::prepare::{Looked, look, prepare};
use crate::client::record::Record;
use crate::client::run::Run;
use crate::client::source::{self, Connection, Source};
use crate::client::survey::survey;
use crate::client::transfer::{aside, streams};
use crate::event::{Events, Stage};
use crate::plan::needed::Need;
use crate::plan::words::Bytes;
use crate::wire::message::Request;

/// How long the agent may take to say good-bye.
const BYE_WITHIN: Duration = Duration::from_secs(10);

/// Rebuilds, seeds or compares a target, and keeps `record` of it. Ends early when `cancel` becomes true.
///
/// # Errors
/// A [`Failure`] that knows in what state it leaves the target.
pub async fn rebuild(
    options: &RebuildOptions,
    events: &Events,
    record: &Record,
    mut cancel: watch::Receiver<bool>,
) -> Result<Outcome, Failure> {
    let hooks = hooks::read(options)?;
    let run = Run::begin(options, &options.reach, events, record)?;
    if options.if_needed {
        let looked = tokio::select! {
            biased;
            () = cancelled(&mut cancel) => Err(interrupted(TargetState::Untouched)),
            looked = needed::look(&run) => looked,
        };
        if looked? == Need::None {
            events.stage(Stage::Done);
            return Ok(record.outcome(events.counters()));
        }
    }
    let connected = tokio::select! {
        biased;
        () = cancelled(&mut cancel) => Err(interrupted(TargetState::Untouched)),
        connected = look_and_connect(&run) => connected,
    };
    let (looked, (source, mut connection)) = connected?;
    let result = tokio::select! {
        result = with_source(&run, looked, &source, &mut cancel) => result,
        never = streams::widen(&run, &source, &mut connection) => match never {},
        never = aside::tell(&run, &source, &options.pgdata) => match never {},
    };
    match result {
        Ok(End::Copied(finished, copy)) => {
            // A copy needs the source no more, however long its hooks last.
            good_bye(&source).await;
            drop(source);
            connection.end().await;
            let outcome = copy::end(&run, &hooks, *finished, *copy, &mut cancel).await?;
            events.stage(Stage::Done);
            Ok(outcome)
        }
        Ok(End::Told(outcome)) => {
            let is_heard = good_bye(&source).await;
            // One that is in use is not dropped.
            if !is_heard && run.made_slot.get().is_some() && !options.start {
                let slot = run.slot().unwrap_or_default();
                let failure = Failure::new(TargetState::Rebuilt, "the agent was lost before the end")
                    .detail(format!("It may have dropped replication slot \"{slot}\", which it had made."))
                    .hint("Look at pg_replication_slots on the source. If it is not there, make it again and start \
                           the standby at once; if WAL is missing then, run the same command again.");
                return Err(connection.end_after(source, failure).await);
            }
            events.stage(Stage::Done);
            drop(source);
            connection.end().await;
            Ok(*outcome)
        }
        Err(failure) => {
            if failure.state == TargetState::Rebuilt {
                // The target uses the slot that was made for it.
                good_bye(&source).await;
            }
            Err(connection.end_after(source, failure).await)
        }
    }
}

async fn look_and_connect(run: &Run<'_>) -> Result<(Looked, (Source, Connection)), Failure> {
    let looked = look(run).await?;
    let connected = source::connect(&run.reach.from, run.events).await;
    Ok((looked, connected.map_err(|error| error.untouched())?))
}

async fn with_source(
    run: &Run<'_>,
    mut looked: Looked,
    source: &Source,
    cancel: &mut watch::Receiver<bool>,
) -> Result<End, Failure> {
    let told = |outcome| End::Told(Box::new(outcome));
    if run.options.dry_run {
        return tokio::select! {
            biased;
            () = cancelled(cancel) => Err(interrupted(TargetState::Untouched)),
            outcome = survey(run, source, &mut looked.target) => outcome.map(told),
        };
    }
    let prepared = tokio::select! {
        biased;
        () = cancelled(cancel) => Err(interrupted(TargetState::Untouched)),
        failure = too_much_retained(run, source, TargetState::Untouched) => Err(failure),
        prepared = prepare(run, looked, source) => prepared,
    };
    // Point of no return: pg_control is gone, and `finish` alone brings it back.
    let half = match prepared {
        Ok(Some(half)) => half,
        Ok(None) => return Ok(told(run.record.outcome(run.events.counters()))),
        Err(failure) => return Err(stop::undo(run, failure).await),
    };
    let carried = tokio::select! {
        biased;
        () = cancelled(cancel) => Err(interrupted(TargetState::HalfWay)),
        lost = source.lost() => Err(Failure::half_way(&lost)),
        failure = too_much_retained(run, source, TargetState::HalfWay) => Err(failure),
        carried = carry_out(run, *half) => carried,
    };
    // Nothing stops this: it needs the source no more, and what it has begun it ends.
    let (finished, copy) = finish(run, carried?).await?;
    if let Some(copy) = copy {
        return Ok(End::Copied(Box::new(finished), Box::new(copy)));
    }
    tokio::select! {
        biased;
        () = cancelled(cancel) => Err(interrupted(TargetState::Rebuilt)),
        outcome = start_and_watch(run, source, finished) => outcome.map(told),
    }
}

/// What there is when nothing more comes from the source.
enum End {
    Told(Box<Outcome>),
    /// A copy, whose hooks and start are still to come.
    Copied(Box<Finished>, Box<Copy>),
}

/// Returns when the source keeps more WAL for the run than it may.
async fn too_much_retained(run: &Run<'_>, source: &Source, state: TargetState) -> Failure {
    let Some(limit) = run.options.max_wal_retained else {
        return std::future::pending().await;
    };
    let bytes = source.retains_more_than(limit).await;
    let error = format!(
        "the source keeps {} of WAL for this run, more than --max-wal-retained allows",
        Bytes(bytes)
    );
    let failure = Failure::new(state, error);
    let failure = match run.slot() {
        Some(slot) if run.made_slot.get().is_none() => failure.hint(format!(
            "Replication slot \"{slot}\" of the source keeps it until its standby streams: watch the room there, or \
             drop the slot."
        )),
        _ => failure.detail("It may remove that WAL now: the run's replication slot is gone."),
    };
    match state {
        TargetState::HalfWay => {
            let failure = failure.hint(
                "--max-wal-retained allows more, and --max-rate, --jobs and --streams make it faster.",
            );
            let failure = if run.options.brings_wal && !run.options.streams_wal {
                failure.hint("With -X stream the source need not keep what has come.")
            } else {
                failure
            };
            failure.again()
        }
        _ => failure,
    }
}

/// The temporary slot may go, and one that was made stays. The agent's end without this word drops both. Whether
/// it was heard.
async fn good_bye(source: &Source) -> bool {
    let said = tokio::time::timeout(BYE_WITHIN, source.ask(&Request::Bye, Vec::new())).await;
    matches!(said, Ok(Ok(_)))
}

async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    if cancel.wait_for(|wanted| *wanted).await.is_err() {
        // Nobody can cancel any more.
        std::future::pending::<()>().await;
    }
}

fn interrupted(state: TargetState) -> Failure {
    let failure = Failure::new(state, "interrupted by a signal");
    match state {
        TargetState::HalfWay => failure.again(),
        _ => failure,
    }
}
