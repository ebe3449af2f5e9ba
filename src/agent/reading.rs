//! What every stream of a session does, the first and the further ones: takes requests, runs those that
//! read on the workers, answers, and says now and then that the agent is there. Knows neither how a
//! session begins nor how streams come to it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use tokio::io::AsyncRead;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::answer::{self, Reader};
use super::effort::{Held, Limit};
use crate::buffer::Buffer;
use crate::geometry::{EXTENT_BYTES, WHOLE_MAX_BYTES, total_bytes};
use crate::link::frames::{self, Frame, FrameError, Outgoing};
use crate::link::stdio::Output;
use crate::plan::shown;
use crate::wire::codec;
use crate::wire::message::{ALIVE_EVERY, Answer, Fault, FaultKind, Notice, Request, RequestId};
use crate::workers::{self, WorkerFailed, Workers};

/// Answers that may wait for the link: with the workers' own bound it limits the memory in use.
pub(super) const WAITING_ANSWERS: usize = 4;

/// Requests that may wait for a worker; a client that sends more is not read until some are answered.
const WAITING_REQUESTS: usize = 256;

/// Most worker threads that a client may ask for.
const JOBS_MAX: usize = 256;

/// What the reading requests of all streams share.
pub(super) struct Shared {
    /// Started as the client's configuration says.
    workers: OnceLock<Workers>,
    reader: RwLock<Option<Arc<Reader>>>,
    in_flight: AtomicUsize,
    waiting: Arc<Semaphore>,
    limit: Arc<Limit>,
    /// The name under which the source's DBA shall see the run; empty before it has one.
    pub(super) shown: watch::Sender<String>,
}

impl Shared {
    /// Nothing can be read yet.
    pub(super) fn new(limit: Arc<Limit>) -> Self {
        Self {
            workers: OnceLock::new(),
            reader: RwLock::new(None),
            in_flight: AtomicUsize::new(0),
            waiting: Arc::new(Semaphore::new(WAITING_REQUESTS)),
            limit,
            shown: watch::Sender::default(),
        }
    }

    /// Starts the workers that the client asks for, or this host suggests; without any, reading requests are refused.
    pub(super) fn start_workers(&self, jobs: Option<u16>) {
        if let Ok(workers) = Workers::start(workers::jobs(jobs).min(JOBS_MAX)) {
            let _ = self.workers.set(workers);
        }
    }

    /// Says what reading requests read from now on; `None` forbids them.
    pub(super) fn publish(&self, now: Option<Arc<Reader>>) {
        if let Ok(mut reader) = self.reader.write() {
            *reader = now;
        }
    }

    /// Whether a reading request is on its way.
    pub(super) fn is_reading(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) > 0
    }
}

/// A reading request that is on its way, until this is dropped.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Takes the requests of one stream until it ends. One without `control` is for reading only. What is still to be
/// answered ends with the stream: nobody would hear it, and the client asks again on another.
pub(super) async fn receive(
    mut reader: impl AsyncRead + Unpin,
    shared: &Arc<Shared>,
    outgoing: &mpsc::Sender<Outgoing>,
    control: Option<&mpsc::Sender<(RequestId, Request)>>,
) -> Result<(), FrameError> {
    let mut answers = JoinSet::new();
    while let Some(frame) = frames::read_frame(&mut reader).await? {
        while answers.try_join_next().is_some() {}
        let Frame { id, head, body } = frame;
        match (codec::decode::<Request>(&head)?, control) {
            (Request::Alive, _) => {}
            // At once, also while the session is busy with something else.
            (Request::Limit { max_rate }, Some(_)) => shared.limit.set(max_rate),
            (
                Request::Shown {
                    target,
                    stage,
                    percent,
                },
                Some(_),
            ) => {
                let name = shown::application_name(&target, stage, percent);
                shared.shown.send_if_modified(|shown| {
                    let is_new = *shown != name;
                    *shown = name;
                    is_new
                });
            }
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
                let (reading, outgoing) = (InFlight::new(shared), outgoing.clone());
                answers.spawn(async move {
                    let result = read(&reading.0, request, body).await;
                    drop(reading);
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
    reader.effort.pace(reads, reader.lane(&request)).await;
    let job = move || match request {
        Request::Digests { spans, have } => reader.digests(&spans, have),
        Request::Blocks {
            spans,
            noisy,
            hungry,
        } => reader.blocks(&spans, &noisy, &body, hungry),
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

/// Answers the only request with a fault.
pub(super) async fn say(output: &mut Output, id: RequestId, fault: Fault) -> io::Result<()> {
    let (outgoing, to_write) = mpsc::channel(1);
    send(&outgoing, id, Err(fault)).await;
    drop(outgoing);
    frames::write_frames(output, to_write).await
}

/// Tells the client now and then that the agent is there, whatever else it is doing.
pub(super) async fn beat(outgoing: mpsc::Sender<Outgoing>) {
    loop {
        tokio::time::sleep(ALIVE_EVERY).await;
        tell(&outgoing, &Notice::Alive).await;
    }
}

/// Tells the client what it has not asked for.
pub(super) async fn tell(outgoing: &mpsc::Sender<Outgoing>, notice: &Notice) {
    if let Ok(frame) = Outgoing::new(0, notice, Vec::new()) {
        let _ = outgoing.send(frame).await;
    }
}
