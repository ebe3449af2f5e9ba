//! The agent's loop: frames in, frames out. Reading requests run on the workers, many at a time; the
//! others one after the other. The end of the input ends everything.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::answer::Reader;
use super::effort::Held;
use super::options::ServeOptions;
use super::session::Session;
use crate::buffer::Buffer;
use crate::geometry::{EXTENT_BYTES, Span, WHOLE_MAX_BYTES};
use crate::link::frames::{self, Frame, FrameError, Outgoing};
use crate::wire::codec;
use crate::wire::message::{ALIVE_EVERY, Answer, Fault, FaultKind, Notice, Request, RequestId};
use crate::workers::{WorkerFailed, Workers};

/// Answers that may wait for the link: with the workers' own bound it limits the memory in use.
const WAITING_ANSWERS: usize = 4;

/// Requests that may wait for a worker; a client that sends more is not read until some are answered.
const WAITING_REQUESTS: usize = 256;

/// Most worker threads that a client may ask for.
const JOBS_MAX: usize = 256;

/// How long the agent takes to tidy up when the client is gone.
const TIDY_WITHIN: Duration = Duration::from_secs(10);

/// The agent could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// What the reading requests share.
struct Shared {
    /// Started as the client's configuration says.
    workers: OnceLock<Workers>,
    reader: RwLock<Option<Arc<Reader>>>,
    in_flight: AtomicUsize,
    outgoing: mpsc::Sender<Outgoing>,
}

/// Serves one client over a pair of streams, until they end or `stop` does: then it tidies up.
///
/// # Errors
/// [`ServeError`] when the peer does not keep to the protocol or the streams break.
pub async fn serve(
    options: ServeOptions,
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin + Send + 'static,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (outgoing, to_write) = mpsc::channel(WAITING_ANSWERS);
    let writing = tokio::spawn(frames::write_frames(writer, to_write));
    let shared = Arc::new(Shared {
        workers: OnceLock::new(),
        reader: RwLock::new(None),
        in_flight: AtomicUsize::new(0),
        outgoing,
    });
    let (control, requests) = mpsc::channel(8);
    let (gone, is_gone) = watch::channel(false);
    let steering = tokio::spawn(steer(
        Session::new(options),
        Arc::clone(&shared),
        requests,
        is_gone,
    ));
    let beating = tokio::spawn(beat(shared.outgoing.clone()));
    let received = tokio::select! {
        received = receive(reader, &shared, &control) => received,
        () = stop => Ok(()),
    };
    beating.abort();
    // The client is gone: whatever runs is not wanted any more.
    let _ = gone.send(true);
    drop(control);
    let _ = tokio::time::timeout(TIDY_WITHIN, steering).await;
    drop(shared);
    let _ = tokio::time::timeout(TIDY_WITHIN, writing).await;
    Ok(received?)
}

async fn receive(
    reader: impl AsyncRead + Unpin,
    shared: &Arc<Shared>,
    control: &mpsc::Sender<(RequestId, Request)>,
) -> Result<(), FrameError> {
    let mut reader = frames::buffered(reader);
    frames::read_preamble(&mut reader).await?;
    let waiting = Arc::new(tokio::sync::Semaphore::new(WAITING_REQUESTS));
    while let Some(frame) = frames::read_frame(&mut reader).await? {
        let Frame { id, head, body } = frame;
        match codec::decode::<Request>(&head)? {
            request @ (Request::Digests { .. }
            | Request::Blocks { .. }
            | Request::Delta { .. }
            | Request::Control) => {
                let permit = Arc::clone(&waiting).acquire_owned().await;
                let shared = Arc::clone(shared);
                shared.in_flight.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let result = read(&shared, request, body).await;
                    shared.in_flight.fetch_sub(1, Ordering::SeqCst);
                    send(&shared.outgoing, id, result).await;
                    drop(permit);
                });
            }
            request => {
                if let Request::Configure { jobs, .. } = &request
                    && let Ok(workers) = Workers::start(usize::from(*jobs).min(JOBS_MAX))
                {
                    // A second configuration is refused by the session.
                    let _ = shared.workers.set(workers);
                }
                if control.send((id, request)).await.is_err() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// An answer with its body, and the room that it takes.
type HeldReply = (Answer, Buffer, Option<Held>);

/// Runs a reading request on a worker.
async fn read(shared: &Shared, request: Request, body: Buffer) -> Result<HeldReply, Fault> {
    let reader = shared.reader.read().ok().and_then(|reader| reader.clone());
    let (Some(reader), Some(workers)) = (reader, shared.workers.get()) else {
        return Err(Fault::new(
            FaultKind::Protocol,
            "reading is not allowed now",
        ));
    };
    let (reads, answers) = weight(&request);
    let held = reader.effort.hold(answers).await;
    reader.effort.pace(reads).await;
    let job = move || match request {
        Request::Digests { spans, have } => reader.digests(&spans, have),
        Request::Blocks { spans, hungry } => reader.blocks(&spans, &body, hungry),
        Request::Delta { entry, have } => reader.delta(entry, have, body.to_vec()),
        Request::Control => reader.control(),
        _ => Err(Fault::new(FaultKind::Protocol, "not a reading request")),
    };
    match workers.run(job).await {
        Ok(Ok((answer, body))) => {
            let held = held.waits(body.len() as u64);
            Ok((answer, body, Some(held)))
        }
        Ok(Err(fault)) => Err(fault),
        Err(WorkerFailed) => Err(Fault::new(FaultKind::Read, WorkerFailed.to_string())),
    }
}

/// Bytes that a request reads, and bytes that its answer may have, at most.
fn weight(request: &Request) -> (u64, u64) {
    let sum = |spans: &[Span]| {
        let all = spans.iter().map(|span| u64::from(span.bytes));
        all.fold(0, u64::saturating_add)
    };
    match request {
        Request::Digests { spans, .. } => (sum(spans), 0),
        Request::Blocks { spans, .. } => (sum(spans), sum(spans)),
        // Its length shows when it is read; most are far shorter.
        Request::Delta { .. } => (u64::from(EXTENT_BYTES), WHOLE_MAX_BYTES),
        _ => (0, 0),
    }
}

async fn send(outgoing: &mpsc::Sender<Outgoing>, id: RequestId, result: Result<HeldReply, Fault>) {
    let (answer, body, held) =
        result.unwrap_or_else(|fault| (Answer::Fault(fault), Buffer::default(), None));
    let frame = Outgoing::new(id, &answer, body).map(|frame| match held {
        Some(held) => frame.holding(held),
        None => frame,
    });
    let frame = frame.or_else(|error| {
        let fault = Fault::new(FaultKind::Protocol, error.to_string());
        Outgoing::new(id, &Answer::Fault(fault), Vec::new())
    });
    if let Ok(frame) = frame {
        // The writer ended: the client is gone.
        let _ = outgoing.send(frame).await;
    }
}

/// Answers the requests that change the session, and watches bracket and slot in between.
async fn steer(
    mut session: Session,
    shared: Arc<Shared>,
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
                    && shared.in_flight.load(Ordering::SeqCst) > 0
                {
                    let fault = Fault::new(FaultKind::Protocol, "the backup cannot end while it is read");
                    send(&shared.outgoing, id, Err(fault)).await;
                    continue;
                }
                let canceller = session.canceller();
                let result = tokio::select! {
                    biased;
                    result = session.answer(request) => result,
                    _ = gone.changed() => {
                        if let Some(canceller) = canceller {
                            canceller.cancel().await;
                        }
                        break;
                    }
                };
                publish(&shared, &session);
                let result = result.map(|(answer, body)| (answer, body, None));
                send(&shared.outgoing, id, result).await;
            }
            _ = clock.tick() => {
                if let Some(notice) = session.watch().await {
                    publish(&shared, &session);
                    tell(&shared.outgoing, &notice).await;
                }
            }
        }
    }
    session.end().await;
}

fn publish(shared: &Shared, session: &Session) {
    if let Ok(mut reader) = shared.reader.write() {
        *reader = session.reader();
    }
}

/// Tells the client now and then that the agent is there, whatever else it is doing.
async fn beat(outgoing: mpsc::Sender<Outgoing>) {
    loop {
        tokio::time::sleep(ALIVE_EVERY).await;
        tell(&outgoing, &Notice::Alive).await;
    }
}

async fn tell(outgoing: &mpsc::Sender<Outgoing>, notice: &Notice) {
    if let Ok(frame) = Outgoing::new(0, notice, Vec::new()) {
        let _ = outgoing.send(frame).await;
    }
}
