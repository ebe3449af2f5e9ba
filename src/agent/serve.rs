//! The agent's loop: frames in, frames out. Reading requests run on the workers, many at a time; the
//! others one after the other. The end of the first stream's input ends everything.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::options::ServeOptions;
use super::reading::{Shared, WAITING_ANSWERS, beat, receive, say, send, tell};
use super::session::Session;
use super::streams;
use crate::link::frames::{self, FrameError, Outgoing};
use crate::link::stdio::{Input, Output};
use crate::wire::codec;
use crate::wire::message::{
    ALIVE_EVERY, Fault, FaultKind, Notice, Request, RequestId, SILENT_AFTER,
};

/// How long a client may take to its first request.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_secs(60);

/// How long the agent takes to tidy up when the client is gone.
const TIDY_WITHIN: Duration = Duration::from_secs(10);

/// The agent could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("the agent heard nothing of the client for {} s, or it took nothing", SILENT_AFTER.as_secs())]
    Idle,
}

/// Serves one client over the process's standard streams, until they end or `stop` does: then it tidies
/// up. Or hands them over to the agent whose session they belong to, and waits for its end.
///
/// # Errors
/// [`ServeError`] when the peer does not keep to the protocol or the streams break.
pub async fn serve(
    options: ServeOptions,
    (mut input, mut output): (Input, Output),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut stop = std::pin::pin!(stop);
    let first = tokio::select! {
        first = tokio::time::timeout(FIRST_REQUEST_WITHIN, open(&mut input, &mut output)) => match first {
            Ok(first) => first?,
            Err(_) => return Err(FrameError::Silent.into()),
        },
        () = &mut stop => return Ok(()),
    };
    match first {
        None => Ok(()),
        Some((id, Request::Join { token })) => tokio::select! {
            joined = streams::join(id, token, input, output) => Ok(joined?),
            () = &mut stop => Ok(()),
        },
        Some((id, request)) if !matches!(request, Request::Configure { .. }) => {
            let fault = Fault::new(
                FaultKind::Protocol,
                "a session begins with its configuration",
            );
            Ok(say(&mut output, id, fault).await?)
        }
        Some((id, request)) => {
            let session = Session::new(options);
            lead(session, (id, request), (input, output), stop).await
        }
    }
}

/// Exchanges preambles and reads the first request, and not a byte more: the rest may be another agent's.
async fn open(
    input: &mut Input,
    output: &mut Output,
) -> Result<Option<(RequestId, Request)>, ServeError> {
    frames::write_preamble(output).await?;
    frames::read_preamble(input).await?;
    let Some(frame) = frames::read_frame(input).await? else {
        return Ok(None);
    };
    let request = codec::decode(&frame.head).map_err(FrameError::from)?;
    Ok(Some((frame.id, request)))
}

/// Leads a session whose first request has come.
async fn lead(
    session: Session,
    (id, first): (RequestId, Request),
    (input, output): (Input, Output),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (outgoing, to_write) = mpsc::channel(WAITING_ANSWERS);
    let output = frames::unstuck(output, SILENT_AFTER);
    let mut writing = tokio::spawn(frames::write_frames(output, to_write));
    let shared = Arc::new(Shared::new(session.limit()));
    // Ends with this function, and all further streams with it.
    let mut further = tokio::task::JoinSet::new();
    if let Request::Configure { jobs, join, .. } = &first {
        shared.start_workers(*jobs);
        if let Some(token) = join {
            // Before the answer: from then on others may want to join.
            streams::admit(&mut further, *token, &shared);
        }
    }
    let (control, requests) = mpsc::channel(8);
    let (gone, is_gone) = watch::channel(false);
    let steering = tokio::spawn(steer(
        session,
        Arc::clone(&shared),
        outgoing.clone(),
        requests,
        is_gone,
    ));
    let beating = tokio::spawn(beat(outgoing.clone()));
    let mut input = frames::impatient(input);
    frames::limit_silence(&mut input, SILENT_AFTER);
    let ended = tokio::select! {
        received = async {
            // The channel is empty.
            let _ = control.send((id, first)).await;
            receive(input, &shared, &outgoing, Some(&control)).await
        } => received,
        // Before its time, since there are senders.
        written = &mut writing => match written {
            Ok(Err(error)) => Err(error.into()),
            _ => Ok(()),
        },
        () = stop => Ok(()),
    };
    beating.abort();
    further.abort_all();
    // The client is gone: whatever runs is not wanted any more.
    let _ = gone.send(true);
    let ended = match ended {
        Err(error) if error.is_timeout() => {
            // In case it only sleeps.
            let reason = ServeError::Idle.to_string();
            let notice = Notice::BracketLost { reason };
            let _ = tokio::time::timeout(TIDY_WITHIN, tell(&outgoing, &notice)).await;
            Err(ServeError::Idle)
        }
        ended => ended.map_err(ServeError::from),
    };
    drop(control);
    let _ = tokio::time::timeout(TIDY_WITHIN, steering).await;
    drop((shared, outgoing));
    if !writing.is_finished() {
        let _ = tokio::time::timeout(TIDY_WITHIN, writing).await;
    }
    ended
}

/// Answers the requests that change the session, and watches bracket and slot in between.
async fn steer(
    mut session: Session,
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Outgoing>,
    mut requests: mpsc::Receiver<(RequestId, Request)>,
    mut gone: watch::Receiver<bool>,
) {
    let mut clock = tokio::time::interval(ALIVE_EVERY);
    loop {
        tokio::select! {
            biased;
            _ = gone.changed() => break,
            request = requests.recv() => {
                let Some((id, request)) = request else { break };
                if matches!(request, Request::CloseBracket)
                    && shared.is_reading()
                {
                    let fault = Fault::new(FaultKind::Protocol, "the backup cannot end while it is read");
                    if unless_gone(&mut gone, send(&outgoing, id, Err(fault))).await.is_none() {
                        break;
                    }
                    continue;
                }
                // These may take minutes.
                if matches!(request, Request::OpenBracket { .. } | Request::CloseBracket) {
                    show(&mut session, &shared).await;
                }
                let canceller = session.canceller();
                let answered = unless_gone(&mut gone, session.answer(request)).await;
                let Some(result) = answered else {
                    if let Some(canceller) = canceller {
                        canceller.cancel().await;
                    }
                    break;
                };
                shared.publish(session.reader());
                let result = result.map(|(answer, body)| (answer, body, None));
                if unless_gone(&mut gone, send(&outgoing, id, result)).await.is_none() {
                    break;
                }
            }
            _ = clock.tick() => {
                show(&mut session, &shared).await;
                if let Some(notice) = session.watch().await {
                    shared.publish(session.reader());
                    if unless_gone(&mut gone, tell(&outgoing, &notice)).await.is_none() {
                        break;
                    }
                }
            }
        }
    }
    session.end().await;
}

/// Shows the run under the name that was asked for last: with each tick at most, so that a server that logs all statements
/// does not log one for each per cent.
async fn show(session: &mut Session, shared: &Shared) {
    let name = shared.shown.borrow().clone();
    if !name.is_empty() {
        session.show(&name).await;
    }
}

/// What `act` comes to, unless the client goes first.
async fn unless_gone<T>(
    gone: &mut watch::Receiver<bool>,
    act: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        done = act => Some(done),
        _ = gone.changed() => None,
    }
}
