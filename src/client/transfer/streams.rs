//! Further streams to the agent, which come up while the run goes on.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};

use crate::client::asking::Loss;
use crate::client::run::Run;
use crate::client::source::{Carrier, Connection, Opened, Source, SourceError};
use crate::errors::chain;
use crate::event::Counters;
use crate::plan::contact::NoContact;
use crate::plan::reopening::Reopening;
use crate::warning::Code;
use crate::wire::message::{Fault, JoinToken};

/// Streams that are opened at the same time: sshd turns away who comes with many at once (`MaxStartups`).
const AT_ONCE: usize = 4;

/// Time between two streams' ends that have one cause.
const TOGETHER: Duration = Duration::from_millis(100);

/// Opens the further streams that were asked for, from when they are admitted on, opens others in the place of those
/// that are lost, and never returns. One that does not come up is a warning.
pub async fn widen<O>(
    run: &Run<'_, O>,
    source: &Source,
    connection: &mut Connection,
) -> Infallible {
    if let Some(token) = run.join {
        run.admitted.notified().await;
        if let Err(error) = open(run, source, connection, token).await {
            run.warn(
                Code::StreamsMissing,
                words(&error, connection.streams(), run.reach.streams),
            );
        }
        replace(run, source, connection, token).await
    } else {
        std::future::pending().await
    }
}

async fn open<O>(
    run: &Run<'_, O>,
    source: &Source,
    connection: &mut Connection,
    token: JoinToken,
) -> Result<(), SourceError> {
    let join = || source.join(&run.reach.from, token);
    // Where one cannot come in, there is no need to knock more often.
    add(run, source, join().await?, connection);
    let rest = (2..run.reach.streams).map(|_| join());
    let mut rest = stream::iter(rest).buffer_unordered(AT_ONCE);
    let mut result = Ok(());
    while let Some(joined) = rest.next().await {
        match joined {
            Ok(opened) => add(run, source, opened, connection),
            Err(error) => result = Err(error),
        }
    }
    result
}

fn add<O>(run: &Run<'_, O>, source: &Source, opened: Opened, connection: &mut Connection) {
    source.add(opened, connection);
    let streams = connection.streams();
    // Those that come in the place of others do not count again.
    let counters = run.events.counters();
    counters
        .streams
        .fetch_max(streams as u64, Ordering::Relaxed);
    tracing::debug!("{streams} streams to the agent");
}

/// Opens a stream for each that is lost, a while after, which becomes longer from one to the next.
async fn replace<O>(
    run: &Run<'_, O>,
    source: &Source,
    connection: &mut Connection,
    token: JoinToken,
) -> Infallible {
    let mut reopening = Reopening::default();
    let mut coming = FuturesUnordered::new();
    loop {
        let wait = tokio::select! {
            (loss, carrier) = connection.loss() => {
                let wait = reopening.after_loss(carrier.lived());
                coming.push(another(run, source, token, Some((loss, carrier)), wait));
                continue;
            }
            Some(joined) = coming.next() => match joined {
                Joined::Yes(opened) => {
                    add(run, source, *opened, connection);
                    continue;
                }
                Joined::NotTried => None,
                Joined::No(error) => {
                    tracing::info!("a stream could not be opened again: {}", chain(&error));
                    match reopening.after_failure() {
                        None => {
                            run.warn(Code::StreamsMissing, words(&error, connection.streams(), run.reach.streams));
                            continue;
                        }
                        wait => wait,
                    }
                }
            },
        };
        match wait {
            Some(_) => coming.push(another(run, source, token, None, wait)),
            None => run.warn(
                Code::StreamsMissing,
                format!(
                    "The run goes on with {} of {} streams to the agent: too many were lost.",
                    connection.streams(),
                    run.reach.streams
                ),
            ),
        }
    }
}

/// What became of a try.
enum Joined {
    Yes(Box<Opened>),
    No(SourceError),
    NotTried,
}

/// Tells of a stream that was lost, and opens another after a while, unless that was tried too often.
async fn another<O>(
    run: &Run<'_, O>,
    source: &Source,
    token: JoinToken,
    lost: Option<(Loss, Carrier)>,
    wait: Option<Duration>,
) -> Joined {
    if let Some((Loss { number, reason }, carrier)) = lost {
        let epitaph = carrier.bury().await;
        // An agent that ends takes all streams with it: then the first one's end is what is told.
        tokio::time::sleep(TOGETHER).await;
        Counters::add(&run.events.counters().lost_streams, 1);
        run.warn(
            Code::StreamLost,
            format!(
                "Stream {number} to the agent was lost: {reason} ({epitaph}). What was asked on it is asked on another."
            ),
        );
    }
    let Some(wait) = wait else {
        return Joined::NotTried;
    };
    tokio::time::sleep(wait).await;
    match source.join(&run.reach.from, token).await {
        Ok(opened) => Joined::Yes(Box::new(opened)),
        Err(error) => Joined::No(error),
    }
}

fn words(error: &SourceError, open: usize, wanted: usize) -> String {
    let more = match error {
        SourceError::NoContact(NoContact {
            detail: Some(detail),
            ..
        }) => format!(" ({detail})."),
        SourceError::Fault(Fault {
            hint: Some(hint), ..
        }) => format!(". {hint}"),
        _ => ".".to_owned(),
    };
    let error = chain(error);
    format!("The run goes on with {open} of {wanted} streams to the agent: {error}{more}")
}
