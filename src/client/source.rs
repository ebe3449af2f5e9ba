//! The client's end of the wire: questions out, answers in, many in flight.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::failure::Failure;
use crate::buffer::Buffer;
use crate::event::{Counters, Event, Events};
use crate::link::frames::{self, Frame, FrameError, Outgoing};
use crate::link::{self, From, Process};
use crate::wire::codec::{self, CodecError};
use crate::wire::message::{Answer, Fault, Notice, Request, RequestId, SILENT_AFTER};

/// Requests that may wait for the link.
const WAITING_REQUESTS: usize = 16;

/// How long the other side may take to say its first word: ssh may ask for a password.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(120);

/// How long the agent may take to end after the last word.
const END_WITHIN: Duration = Duration::from_secs(10);

/// The source cannot be asked, or it answered with a fault.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("could not reach the agent")]
    Open(#[source] std::io::Error),
    #[error("could not talk to the agent")]
    Handshake {
        #[source]
        source: FrameError,
        epitaph: String,
    },
    #[error("the connection to the agent was lost: {0}")]
    Lost(String),
    #[error("the backup on the source was lost: {0}")]
    BracketLost(String),
    #[error("{0}")]
    Fault(Fault),
    #[error("the agent gave an answer that does not fit the question \"{0}\"")]
    Unfitting(&'static str),
    #[error("a request cannot be sent: {0}")]
    Request(#[from] CodecError),
}

impl SourceError {
    /// A failure that leaves the target as it was.
    #[must_use]
    pub fn untouched(&self) -> Failure {
        let mut failure = Failure::untouched(self);
        if let SourceError::Handshake { epitaph, .. } = self {
            failure = failure.detail(format!("{epitaph}."));
        }
        match self.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            SourceError::Handshake {
                source: FrameError::Codec(CodecError::OtherVersion { .. }),
                ..
            } => Some(VERSION_HINT),
            SourceError::Handshake { .. } => Some(HANDSHAKE_HINT),
            SourceError::Fault(fault) => fault.hint.as_deref(),
            SourceError::Open(_) => Some("Check --from and --rsh."),
            SourceError::Lost(_) | SourceError::BracketLost(_) => {
                Some("Run the same command again when the cause is mended.")
            }
            SourceError::Unfitting(_) | SourceError::Request(_) => None,
        }
    }
}

const VERSION_HINT: &str = "Install the same version of pg_reseed on both hosts.";

/// What usually is the matter when the other side says something else.
const HANDSHAKE_HINT: &str = "pg_reseed must be installed on the source's host (--agent-path says where), \
                              and nothing else may write to the standard output of that command.";

/// Answers that are waited for, by the number of their request.
type Pending = Arc<Mutex<HashMap<RequestId, oneshot::Sender<(Answer, Buffer)>>>>;

/// An agent that answers.
#[derive(Clone)]
pub struct Source {
    outgoing: mpsc::Sender<Outgoing>,
    pending: Pending,
    next: Arc<AtomicU32>,
    ended: watch::Receiver<Option<End>>,
    counters: Arc<Counters>,
}

/// Why nothing more will be answered.
#[derive(Debug, Clone)]
enum End {
    Link(String),
    Bracket(String),
}

/// The agent's process and the tasks that talk to it.
pub struct Connection {
    process: Process,
    reading: tokio::task::JoinHandle<()>,
    writing: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// Reaches the agent and agrees on the protocol.
///
/// # Errors
/// [`SourceError`] when the process cannot be started, ends, or speaks something else.
pub async fn connect(from: &From, events: &Events) -> Result<(Source, Connection), SourceError> {
    let link::Link {
        reader,
        writer,
        mut process,
    } = link::open(from).map_err(SourceError::Open)?;
    let (outgoing, to_write) = mpsc::channel(WAITING_REQUESTS);
    let writing = tokio::spawn(frames::write_frames(writer, to_write));
    let mut reader = frames::impatient(reader);
    let greeting = tokio::time::timeout(FIRST_WORD_WITHIN, frames::read_preamble(&mut reader));
    let greeted = match greeting.await {
        Ok(greeted) => greeted,
        Err(_) => Err(FrameError::Silent),
    };
    if let Err(source) = greeted {
        drop(outgoing);
        let epitaph = process.epitaph().await;
        return Err(SourceError::Handshake { source, epitaph });
    }
    frames::limit_silence(&mut reader, SILENT_AFTER);
    let pending = Pending::default();
    let (tell_end, ended) = watch::channel(None);
    let counters = Arc::clone(events.counters());
    let reading = tokio::spawn(receive(
        reader,
        Arc::clone(&pending),
        tell_end,
        events.clone(),
    ));
    let source = Source {
        outgoing,
        pending,
        next: Arc::new(AtomicU32::new(1)),
        ended,
        counters,
    };
    let connection = Connection {
        process,
        reading,
        writing,
    };
    Ok((source, connection))
}

/// Reads frames until the stream ends, and hands each to whoever waits for it.
async fn receive(
    mut reader: impl tokio::io::AsyncRead + Unpin,
    pending: Pending,
    tell_end: watch::Sender<Option<End>>,
    events: Events,
) {
    let end = loop {
        let frame = match frames::read_frame(&mut reader).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break End::Link("the agent ended".to_owned()),
            Err(FrameError::Io(error)) if error.kind() == std::io::ErrorKind::TimedOut => {
                let seconds = SILENT_AFTER.as_secs();
                break End::Link(format!("nothing was heard of it for {seconds} s"));
            }
            Err(error) => break End::Link(error.to_string()),
        };
        Counters::add(&events.counters().wire_received_bytes, frame.wire_bytes());
        let Frame { id, head, body } = frame;
        if id == 0 {
            match codec::decode::<Notice>(&head) {
                Ok(Notice::Alive) => {}
                Ok(Notice::RetainedWal { bytes, .. }) => events.tell(&Event::RetainedWal { bytes }),
                Ok(Notice::BracketLost { reason }) => break End::Bracket(reason),
                Err(error) => break End::Link(error.to_string()),
            }
            continue;
        }
        match codec::decode::<Answer>(&head) {
            Ok(answer) => {
                let waiting = pending.lock().ok().and_then(|mut map| map.remove(&id));
                if let Some(waiting) = waiting {
                    // Whoever asked may have given up.
                    let _ = waiting.send((answer, body));
                }
            }
            Err(error) => break End::Link(error.to_string()),
        }
    };
    let _ = tell_end.send(Some(end));
    // Drops the senders: everybody who waits wakes up.
    if let Ok(mut map) = pending.lock() {
        map.clear();
    }
}

impl Source {
    /// Asks one question and waits for its answer.
    ///
    /// # Errors
    /// A fault of the agent, or the loss of the link or the bracket.
    pub async fn ask(
        &self,
        request: &Request,
        body: Vec<u8>,
    ) -> Result<(Answer, Buffer), SourceError> {
        let id = loop {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            // 0 is for notices.
            if id != 0 {
                break id;
            }
        };
        let frame = Outgoing::new(id, request, body)?;
        Counters::add(&self.counters.wire_sent_bytes, frame.wire_bytes());
        let (sender, receiver) = oneshot::channel();
        if let Ok(mut map) = self.pending.lock() {
            map.insert(id, sender);
        }
        if self.ended.borrow().is_some() || self.outgoing.send(frame).await.is_err() {
            return Err(self.end().await);
        }
        match receiver.await {
            Ok((Answer::Fault(fault), _)) => Err(SourceError::Fault(fault)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.end().await),
        }
    }

    async fn end(&self) -> SourceError {
        let mut ended = self.ended.clone();
        // The writer may notice a broken link a moment before the reader does.
        let waited = tokio::time::timeout(END_WITHIN, ended.wait_for(Option::is_some)).await;
        match waited
            .ok()
            .and_then(|end| end.ok().and_then(|end| end.clone()))
        {
            Some(End::Bracket(reason)) => SourceError::BracketLost(reason),
            Some(End::Link(reason)) => SourceError::Lost(reason),
            None => SourceError::Lost("it does not answer any more".to_owned()),
        }
    }

    /// Returns when the link or the bracket is lost, with the reason.
    pub async fn lost(&self) -> SourceError {
        let mut ended = self.ended.clone();
        let _ = ended.wait_for(Option::is_some).await;
        self.end().await
    }
}

impl Connection {
    /// Ends the connection after a failure, and adds how the agent ended if the link broke.
    pub async fn end_after(self, source: Source, failure: Failure) -> Failure {
        let was_lost = matches!(&*source.ended.borrow(), Some(End::Link(_)));
        drop(source);
        let epitaph = self.end().await;
        if was_lost {
            failure.detail(format!("{epitaph}."))
        } else {
            failure
        }
    }

    /// Waits for the agent's end after the source was dropped or said good-bye, and tells how it ended.
    pub async fn end(self) -> String {
        let Connection {
            mut process,
            reading,
            writing,
        } = self;
        reading.abort();
        let _ = tokio::time::timeout(END_WITHIN, writing).await;
        let epitaph = process.epitaph().await;
        process.end(END_WITHIN).await;
        epitaph
    }
}
