//! Further streams to the agent, which come up while the run goes on.

use std::convert::Infallible;

use futures_util::{StreamExt, stream};

use crate::client::run::Run;
use crate::client::source::{Connection, Opened, Source, SourceError};
use crate::errors::chain;
use crate::plan::contact::NoContact;
use crate::wire::message::{Fault, JoinToken};

/// Streams that are opened at the same time: sshd turns away who comes with many at once (`MaxStartups`).
const AT_ONCE: usize = 4;

/// Opens the further streams that were asked for, from when they are admitted on, and never returns. One
/// that does not come up is a warning.
pub async fn widen(run: &Run<'_>, source: &Source, connection: &mut Connection) -> Infallible {
    if let Some(token) = run.join {
        run.admitted.notified().await;
        if let Err(error) = open(run, source, connection, token).await {
            run.warn(words(&error, connection.streams(), run.options.streams));
        }
    }
    std::future::pending().await
}

async fn open(
    run: &Run<'_>,
    source: &Source,
    connection: &mut Connection,
    token: JoinToken,
) -> Result<(), SourceError> {
    let join = || source.join(&run.options.from, token);
    // Where one cannot come in, there is no need to knock more often.
    add(source, join().await?, connection);
    let rest = (2..run.options.streams).map(|_| join());
    let mut rest = stream::iter(rest).buffer_unordered(AT_ONCE);
    let mut result = Ok(());
    while let Some(joined) = rest.next().await {
        match joined {
            Ok(opened) => add(source, opened, connection),
            Err(error) => result = Err(error),
        }
    }
    result
}

fn add(source: &Source, opened: Opened, connection: &mut Connection) {
    source.add(opened, connection);
    tracing::debug!("{} streams to the agent", connection.streams());
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
