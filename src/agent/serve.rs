//! The agent's loop: frames in, frames out. Reading requests run on the workers, many at a time; the
//! others one after the other. The end of the first stream's input ends everything.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::sync::{Semaphore, mpsc, watch};

use super::answer::{self, Reader};
use super::effort::Held;
use super::options::ServeOptions;
use super::session::Session;
use super::streams;
use crate::buffer::Buffer;
use crate::geometry::{EXTENT_BYTES, WHOLE_MAX_BYTES, total_bytes};
use crate::link::frames::{self, Frame, FrameError, Outgoing};
use crate::link::stdio::{Input, Output};
use crate::wire::codec;
use crate::wire::message::{
    ALIVE_EVERY, Answer, Fault, FaultKind, Notice, Request, RequestId, SILENT_AFTER,
};
use crate::workers::{WorkerFailed, Workers};

/// Answers that may wait for the link: with the workers' own bound it limits the memory in use.
pub(super) const WAITING_ANSWERS: usize = 4;

/// Requests that may wait for a worker; a client that sends more is not read until some are answered.
const WAITING_REQUESTS: usize = 256;

/// Most worker threads that a client may ask for.
const JOBS_MAX: usize = 256;

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

/// What the reading requests of all streams share.
pub(super) struct Shared {
    /// Started as the client's configuration says.
    workers: OnceLock<Workers>,
    reader: RwLock<Option<Arc<Reader>>>,
    in_flight: AtomicUsize,
    waiting: Arc<Semaphore>,
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
            joined = streams::join(id, token, input, output) => joined,
            () = &mut stop => Ok(()),
        },
        Some((id, request)) if !matches!(request, Request::Configure { .. }) => {
            let fault = Fault::new(
                FaultKind::Protocol,
                "a session begins with its configuration",
            );
            say(&mut output, id, fault).await
        }
        Some((id, request)) => {
            let session = Session::new(options);
            lead(session, (id, request), (input, output), stop).await
        }
    }
}

/// Answers the only request with a fault.
pub(super) async fn say(
    output: &mut Output,
    id: RequestId,
    fault: Fault,
) -> Result<(), ServeError> {
    let (outgoing, to_write) = mpsc::channel(1);
    send(&outgoing, id, Err(fault)).await;
    drop(outgoing);
    Ok(frames::write_frames(output, to_write).await?)
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
    let shared = Arc::new(Shared {
        workers: OnceLock::new(),
        reader: RwLock::new(None),
        in_flight: AtomicUsize::new(0),
        waiting: Arc::new(Semaphore::new(WAITING_REQUESTS)),
    });
    // Ends with this function, and all further streams with it.
    let mut further = tokio::task::JoinSet::new();
    if let Request::Configure { jobs, join, .. } = &first {
        if let Ok(workers) = Workers::start(usize::from(*jobs).min(JOBS_MAX)) {
            let _ = shared.workers.set(workers);
        }
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

/// Takes the requests of one stream until it ends. One without `control` is for reading only.
pub(super) async fn receive(
    mut reader: impl AsyncRead + Unpin,
    shared: &Arc<Shared>,
    outgoing: &mpsc::Sender<Outgoing>,
    control: Option<&mpsc::Sender<(RequestId, Request)>>,
) -> Result<(), FrameError> {
    while let Some(frame) = frames::read_frame(&mut reader).await? {
        let Frame { id, head, body } = frame;
        match (codec::decode::<Request>(&head)?, control) {
            (Request::Alive, _) => {}
            (
                request @ (Request::Digests { .. }
                | Request::Blocks { .. }
                | Request::Delta { .. }
                | Request::Control),
                _,
            ) => {
                if let Err(fault) = answer::check(&request, body.len()) {
                    send(outgoing, id, Err(fault)).await;
                    continue;
                }
                let permit = Arc::clone(&shared.waiting).acquire_owned().await;
                let (shared, outgoing) = (Arc::clone(shared), outgoing.clone());
                shared.in_flight.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let result = read(&shared, request, body).await;
                    shared.in_flight.fetch_sub(1, Ordering::SeqCst);
                    send(&outgoing, id, result).await;
                    drop(permit);
                });
            }
            (request, Some(control)) => {
                if control.send((id, request)).await.is_err() {
                    break;
                }
            }
            (_, None) => {
                let fault = "a further stream takes requests that read, and no others";
                let fault = Fault::new(FaultKind::Protocol, fault);
                send(outgoing, id, Err(fault)).await;
            }
        }
    }
    Ok(())
}

/// An answer with its body, and the room that it takes.
pub(super) type HeldReply = (Answer, Buffer, Option<Held>);

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
    match request {
        Request::Digests { spans, .. } => (total_bytes(spans), 0),
        Request::Blocks { spans, .. } => (total_bytes(spans), total_bytes(spans)),
        // Its length shows when it is read; most are far shorter.
        Request::Delta { .. } => (u64::from(EXTENT_BYTES), WHOLE_MAX_BYTES),
        _ => (0, 0),
    }
}

/// Answers on the stream of the request.
pub(super) async fn send(
    outgoing: &mpsc::Sender<Outgoing>,
    id: RequestId,
    result: Result<HeldReply, Fault>,
) {
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
                    && shared.in_flight.load(Ordering::SeqCst) > 0
                {
                    let fault = Fault::new(FaultKind::Protocol, "the backup cannot end while it is read");
                    if unless_gone(&mut gone, send(&outgoing, id, Err(fault))).await.is_none() {
                        break;
                    }
                    continue;
                }
                let canceller = session.canceller();
                let answered = unless_gone(&mut gone, session.answer(request)).await;
                let Some(result) = answered else {
                    if let Some(canceller) = canceller {
                        canceller.cancel().await;
                    }
                    break;
                };
                publish(&shared, &session);
                let result = result.map(|(answer, body)| (answer, body, None));
                if unless_gone(&mut gone, send(&outgoing, id, result)).await.is_none() {
                    break;
                }
            }
            _ = clock.tick() => {
                if let Some(notice) = session.watch().await {
                    publish(&shared, &session);
                    if unless_gone(&mut gone, tell(&outgoing, &notice)).await.is_none() {
                        break;
                    }
                }
            }
        }
    }
    session.end().await;
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

fn publish(shared: &Shared, session: &Session) {
    if let Ok(mut reader) = shared.reader.write() {
        *reader = session.reader();
    }
}

/// Tells the client now and then that the agent is there, whatever else it is doing.
pub(super) async fn beat(outgoing: mpsc::Sender<Outgoing>) {
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
