//! The story of a rebuild, a seed or a dry run.

use tokio::sync::watch;

use super::carry::carry_out;
use super::failure::{AGAIN, Failure, TargetState};
use super::launch::start_and_watch;
use super::options::RebuildOptions;
use super::outcome::Outcome;
use super::prepare::{Prepared, prepare};
use super::run::Run;
use crate::event::{Events, Stage};
use crate::wire::message::Request;

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
        lost = source.lost() => Err(Failure::half_way(&lost)),
        carried = carry_out(&run, *half) => carried,
    };
    let finished = match carried {
        Ok(finished) => finished,
        Err(failure) => return Err(connection.end_after(source, failure).await),
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

async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    if cancel.wait_for(|wanted| *wanted).await.is_err() {
        // Nobody can cancel any more.
        std::future::pending::<()>().await;
    }
}

fn interrupted(state: TargetState) -> Failure {
    let failure = Failure::new(state, "interrupted by a signal");
    match state {
        TargetState::HalfWay => failure.hint(AGAIN),
        TargetState::Untouched | TargetState::Rebuilt => failure,
    }
}
