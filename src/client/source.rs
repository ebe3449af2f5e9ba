//! The client's end of the wire: questions out, answers in, many in flight.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::buffer::Buffer;
use crate::client::failure::Failure;
use crate::errors::{chain, one_line};
use crate::event::{Counters, Event, Events};
use crate::facts::SourceFacts;
use crate::geometry::total_bytes;
use crate::link::From;
use crate::link::frames::{self, Frame, FrameError, Impatient, Outgoing};
use crate::link::process::{self, Link, Process};
use crate::link::stdio::Input;
use crate::pg::label;
use crate::pg::lsn::Lsn;
use crate::plan::contact::{self, Heard, NoContact};
use crate::wire::codec::{self, CodecError};
use crate::wire::message::{
    ALIVE_EVERY, Answer, Fault, JoinToken, Notice, Request, RequestId, SILENT_AFTER, SlotWish,
};

/// Requests that may wait for the link.
const WAITING_REQUESTS: usize = 16;

/// How long the other side may take to say its first word: ssh may ask for a password.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(120);

/// What an answer weighs beside its blocks.
const SMALL_ANSWER_BYTES: u64 = 4096;

/// How long the agent may take to end after the last word.
const END_WITHIN: Duration = Duration::from_secs(10);

/// The source cannot be asked, or it answered with a fault.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{}", .0.error)]
    NoContact(NoContact),
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
        if let SourceError::NoContact(NoContact {
            detail: Some(detail),
            ..
        }) = self
        {
            failure = failure.detail(format!("{detail}."));
        }
        match self {
            SourceError::Lost(_) | SourceError::BracketLost(_) => {
                failure.hint("Run the same command again when the cause is mended.")
            }
            _ => match self.hint() {
                Some(hint) => failure.hint(hint),
                None => failure,
            },
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            SourceError::NoContact(told) => Some(&told.hint),
            SourceError::Fault(fault) => fault.hint.as_deref(),
            SourceError::Lost(_)
            | SourceError::BracketLost(_)
            | SourceError::Unfitting(_)
            | SourceError::Request(_) => None,
        }
    }
}

/// Most tablespaces: each is held against all others.
const TABLESPACES_MAX: usize = 10_000;

/// Who waits for an answer.
struct Waiting {
    answer: oneshot::Sender<(Answer, Buffer)>,
    _load: Load,
}

/// Answers that are waited for, by the number of their request.
type Pending = Arc<Mutex<HashMap<RequestId, Waiting>>>;

/// What a stream has brought and will bring.
#[derive(Default)]
struct Tally {
    received_bytes: AtomicU64,
    awaited_bytes: AtomicU64,
}

/// Counts on a stream until the answer is there.
struct Load {
    tally: Arc<Tally>,
    bytes: u64,
}

impl Load {
    fn new(tally: &Arc<Tally>, bytes: u64) -> Self {
        tally.awaited_bytes.fetch_add(bytes, Ordering::Relaxed);
        Self {
            tally: Arc::clone(tally),
            bytes,
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let awaited = &self.tally.awaited_bytes;
        awaited.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One of the streams, for those who ask.
#[derive(Clone)]
struct Stream {
    outgoing: mpsc::Sender<Outgoing>,
    tally: Arc<Tally>,
}

/// An agent that answers, over one or several streams.
#[derive(Clone)]
pub struct Source {
    first: Stream,
    further: Arc<RwLock<Vec<Stream>>>,
    pending: Pending,
    next: Arc<AtomicU32>,
    tell_end: Arc<watch::Sender<Option<End>>>,
    /// Bytes of WAL that the source keeps for the run, as it told last.
    retained: Arc<watch::Sender<u64>>,
    events: Events,
}

/// Why nothing more will be answered.
#[derive(Debug, Clone)]
enum End {
    /// The stream with this index broke.
    Link {
        stream: usize,
        reason: String,
    },
    Bracket(String),
}

/// The processes that carry the streams, and the tasks that talk to them: the first one's and the others'.
pub struct Connection {
    first: Carrier,
    further: Vec<Carrier>,
}

struct Carrier {
    process: Process,
    reading: tokio::task::JoinHandle<()>,
    writing: tokio::task::JoinHandle<std::io::Result<()>>,
    tally: Arc<Tally>,
}

/// A stream on which the preambles are exchanged.
pub(super) struct Opened {
    process: Process,
    reader: Impatient<Input>,
    outgoing: mpsc::Sender<Outgoing>,
    writing: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// Reaches the agent and agrees on the protocol.
///
/// # Errors
/// [`SourceError`] when the process cannot be started, ends, or speaks something else.
pub async fn connect(from: &From, events: &Events) -> Result<(Source, Connection), SourceError> {
    let link = process::open(from).await;
    let opened = open(link.map_err(|error| not_begun(from, &error))?).await?;
    events.tell(&Event::MayAsk(false));
    let source = Source {
        first: Stream {
            outgoing: opened.outgoing.clone(),
            tally: Arc::default(),
        },
        further: Arc::default(),
        pending: Pending::default(),
        next: Arc::new(AtomicU32::new(1)),
        tell_end: Arc::new(watch::Sender::new(None)),
        retained: Arc::default(),
        events: events.clone(),
    };
    tokio::spawn(beat(opened.outgoing.downgrade(), events.clone()));
    let first = source.listen(opened, 0, Arc::clone(&source.first.tally));
    let connection = Connection {
        first,
        further: Vec::new(),
    };
    Ok((source, connection))
}

/// Exchanges the preambles.
async fn open(link: Link) -> Result<Opened, SourceError> {
    let Link {
        reader,
        mut writer,
        mut process,
    } = link;
    let (outgoing, to_write) = mpsc::channel(WAITING_REQUESTS);
    let writing = tokio::spawn(async move {
        frames::write_preamble(&mut writer).await?;
        frames::write_frames(writer, to_write).await
    });
    let mut reader = frames::impatient(reader);
    let greeting = tokio::time::timeout(FIRST_WORD_WITHIN, frames::read_preamble(&mut reader));
    let Ok(greeted) = greeting.await else {
        drop(outgoing);
        return Err(no_contact(&Heard::TooLate(FIRST_WORD_WITHIN.as_secs()), process).await);
    };
    if let Err(error) = greeted {
        drop(outgoing);
        return Err(no_contact(&heard(&error), process).await);
    }
    process.answered();
    frames::limit_silence(&mut reader, SILENT_AFTER);
    Ok(Opened {
        process,
        reader,
        outgoing,
        writing,
    })
}

fn not_begun(from: &From, error: &std::io::Error) -> SourceError {
    let told = contact::not_begun(&from.carrier(), error.kind(), &chain(error));
    SourceError::NoContact(told)
}

/// What was heard instead of an agent's first words.
fn heard(error: &FrameError) -> Heard {
    match error {
        FrameError::Silent => Heard::Nothing,
        FrameError::Codec(CodecError::OtherVersion { .. }) => {
            Heard::OtherVersion(error.to_string())
        }
        _ => Heard::Other(error.to_string()),
    }
}

async fn no_contact(heard: &Heard, mut process: Process) -> SourceError {
    let (ended, said) = process.ended().await;
    SourceError::NoContact(contact::judge(process.carrier(), heard, &ended, &said))
}

/// Tells the agent now and then that the client is there, until the stream ends.
async fn beat(outgoing: mpsc::WeakSender<Outgoing>, events: Events) {
    loop {
        tokio::time::sleep(ALIVE_EVERY).await;
        let Some(outgoing) = outgoing.upgrade() else {
            break;
        };
        let Ok(frame) = Outgoing::new(0, &Request::Alive, Vec::new()) else {
            break;
        };
        let bytes = frame.wire_bytes();
        // Where no room is left, something else is said.
        if outgoing.try_send(frame).is_ok() {
            Counters::add(&events.counters().wire_sent_bytes, bytes);
        }
    }
}

/// Reads frames until the stream ends, and hands each to whoever waits for it.
async fn receive(
    mut reader: impl tokio::io::AsyncRead + Unpin,
    stream: usize,
    tally: Arc<Tally>,
    pending: Pending,
    tell_end: Arc<watch::Sender<Option<End>>>,
    retained: Arc<watch::Sender<u64>>,
    events: Events,
) {
    let link = |reason| End::Link { stream, reason };
    let end = loop {
        let frame = match frames::read_frame(&mut reader).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break link("the agent ended".to_owned()),
            Err(error) if error.is_timeout() => {
                let seconds = SILENT_AFTER.as_secs();
                break link(format!("nothing was heard of it for {seconds} s"));
            }
            Err(error) => break link(error.to_string()),
        };
        Counters::add(&events.counters().wire_received_bytes, frame.wire_bytes());
        Counters::add(&tally.received_bytes, frame.wire_bytes());
        let Frame { id, head, body } = frame;
        if id == 0 {
            match codec::decode::<Notice>(&head) {
                Ok(Notice::Alive) => {}
                Ok(Notice::RetainedWal { bytes, .. }) => {
                    events.tell(&Event::RetainedWal { bytes });
                    retained.send_replace(bytes);
                }
                Ok(Notice::BracketLost { reason }) => break End::Bracket(one_line(&reason)),
                Err(error) => break link(error.to_string()),
            }
            continue;
        }
        match codec::decode::<Answer>(&head) {
            Ok(answer) => {
                let waiting = pending.lock().ok().and_then(|mut map| map.remove(&id));
                if let Some(waiting) = waiting {
                    // Whoever asked may have given up.
                    let _ = waiting.answer.send((answer, body));
                }
            }
            Err(error) => break link(error.to_string()),
        }
    };
    // The first end is the cause of the others.
    tell_end.send_if_modified(|told| {
        let is_first = told.is_none();
        if is_first {
            *told = Some(end);
        }
        is_first
    });
    // Drops the senders: everybody who waits wakes up.
    if let Ok(mut map) = pending.lock() {
        map.clear();
    }
}

/// Bytes that the answer may have, roughly, as a request weighs on its stream; 0 for one that must go on the
/// first.
fn weight(request: &Request, body_bytes: usize) -> u64 {
    let answer = match request {
        Request::Digests { .. } | Request::Control => 0,
        Request::Blocks { spans, .. } => total_bytes(spans),
        Request::Delta { .. } => body_bytes as u64,
        _ => return 0,
    };
    answer + SMALL_ANSWER_BYTES
}

impl Source {
    /// Configures the session and asks for the source's facts; `slot` is the one to tell of.
    ///
    /// # Errors
    /// As [`Source::ask`]; also facts that cannot be.
    pub async fn introduce(
        &self,
        configure: &Request,
        slot: Option<String>,
    ) -> Result<SourceFacts, SourceError> {
        let (Answer::Ready { .. }, _) = self.ask(configure, Vec::new()).await? else {
            return Err(SourceError::Unfitting("configure"));
        };
        match self.ask(&Request::Facts { slot }, Vec::new()).await? {
            (Answer::Facts(facts), _)
                if facts.control.is_sane() && facts.tablespaces.len() <= TABLESPACES_MAX =>
            {
                Ok(*facts)
            }
            _ => Err(SourceError::Unfitting("facts")),
        }
    }

    /// Begins a backup of the server on `host` under a slot; where it starts.
    ///
    /// # Errors
    /// As [`Source::ask`].
    pub async fn start_backup(
        &self,
        host: &str,
        is_fast: bool,
        slot: SlotWish,
    ) -> Result<Lsn, SourceError> {
        let request = Request::OpenBracket {
            label: label::text(host),
            fast_checkpoint: is_fast,
            slot,
        };
        match self.ask(&request, Vec::new()).await? {
            (Answer::BracketOpened { start_lsn, .. }, _) => Ok(start_lsn),
            _ => Err(SourceError::Unfitting("backup start")),
        }
    }

    /// Asks one question and waits for its answer.
    ///
    /// # Errors
    /// A fault of the agent, or the loss of the link or the bracket.
    pub async fn ask(
        &self,
        request: &Request,
        body: Vec<u8>,
    ) -> Result<(Answer, Buffer), SourceError> {
        let id = self.new_id();
        let weight = weight(request, body.len());
        let frame = Outgoing::new(id, request, body)?;
        Counters::add(&self.events.counters().wire_sent_bytes, frame.wire_bytes());
        let stream = match weight {
            0 => self.first.clone(),
            _ => self.lightest(),
        };
        let (sender, receiver) = oneshot::channel();
        if let Ok(mut map) = self.pending.lock() {
            let waiting = Waiting {
                answer: sender,
                _load: Load::new(&stream.tally, weight),
            };
            map.insert(id, waiting);
        }
        if self.tell_end.borrow().is_some() || stream.outgoing.send(frame).await.is_err() {
            return Err(self.end().await);
        }
        match receiver.await {
            Ok((Answer::Fault(fault), _)) => Err(SourceError::Fault(fault.in_one_line())),
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.end().await),
        }
    }

    fn new_id(&self) -> RequestId {
        loop {
            let id = self.next.fetch_add(1, Ordering::Relaxed);
            // 0 is for what has no answer.
            if id != 0 {
                return id;
            }
        }
    }

    /// The stream that has least to bring.
    fn lightest(&self) -> Stream {
        let awaited = |stream: &&Stream| stream.tally.awaited_bytes.load(Ordering::Relaxed);
        let first = std::iter::once(&self.first);
        match self.further.read() {
            Ok(further) => first.chain(further.iter()).min_by_key(awaited).cloned(),
            Err(_) => None,
        }
        .unwrap_or_else(|| self.first.clone())
    }

    /// Opens a further stream and joins the session with it.
    ///
    /// # Errors
    /// [`SourceError`]; the streams that are there are not touched.
    pub(super) async fn join(&self, from: &From, token: JoinToken) -> Result<Opened, SourceError> {
        let link = process::open_further(from).await;
        let link = link.map_err(|error| not_begun(from, &error))?;
        let mut opened = open(link).await?;
        let request = Outgoing::new(self.new_id(), &Request::Join { token }, Vec::new())?;
        let _ = opened.outgoing.send(request).await;
        let error = match frames::read_frame(&mut opened.reader).await {
            Ok(Some(frame)) => match codec::decode(&frame.head)? {
                Answer::Joined => return Ok(opened),
                Answer::Fault(fault) => return Err(SourceError::Fault(fault.in_one_line())),
                _ => return Err(SourceError::Unfitting("join")),
            },
            Ok(None) => FrameError::Silent,
            Err(error) => error,
        };
        Err(no_contact(&heard(&error), opened.process).await)
    }

    /// Takes a further stream into use.
    pub(super) fn add(&self, opened: Opened, connection: &mut Connection) {
        let stream = Stream {
            outgoing: opened.outgoing.clone(),
            tally: Arc::default(),
        };
        let number = connection.further.len() + 1;
        let carrier = self.listen(opened, number, Arc::clone(&stream.tally));
        connection.further.push(carrier);
        if let Ok(mut further) = self.further.write() {
            further.push(stream);
        }
    }

    /// Begins to read a stream's answers.
    fn listen(&self, opened: Opened, stream: usize, tally: Arc<Tally>) -> Carrier {
        Counters::add(&self.events.counters().streams, 1);
        let reading = tokio::spawn(receive(
            opened.reader,
            stream,
            Arc::clone(&tally),
            Arc::clone(&self.pending),
            Arc::clone(&self.tell_end),
            Arc::clone(&self.retained),
            self.events.clone(),
        ));
        Carrier {
            process: opened.process,
            reading,
            writing: opened.writing,
            tally,
        }
    }

    async fn end(&self) -> SourceError {
        let mut ended = self.tell_end.subscribe();
        // The writer may notice a broken link a moment before the reader does.
        let waited = tokio::time::timeout(END_WITHIN, ended.wait_for(Option::is_some)).await;
        match waited
            .ok()
            .and_then(|end| end.ok().and_then(|end| end.clone()))
        {
            Some(End::Bracket(reason)) => SourceError::BracketLost(reason),
            Some(End::Link { stream: 0, reason }) => SourceError::Lost(reason),
            Some(End::Link { stream, reason }) => {
                SourceError::Lost(format!("stream {}: {reason}", stream + 1))
            }
            None => SourceError::Lost("it does not answer any more".to_owned()),
        }
    }

    /// Returns when the source keeps more bytes of WAL than `limit`, with their number.
    pub async fn retains_more_than(&self, limit: u64) -> u64 {
        let mut told = self.retained.subscribe();
        match told.wait_for(|bytes| *bytes > limit).await {
            Ok(bytes) => *bytes,
            // Nobody can tell any more.
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns when the link or the bracket is lost, with the reason.
    pub async fn lost(&self) -> SourceError {
        let mut ended = self.tell_end.subscribe();
        let _ = ended.wait_for(Option::is_some).await;
        self.end().await
    }
}

impl Connection {
    /// How many streams there are.
    pub(super) fn streams(&self) -> usize {
        1 + self.further.len()
    }

    /// Ends the connection after a failure, and adds how the agent ended if the link broke.
    pub async fn end_after(self, source: Source, failure: Failure) -> Failure {
        let lost = match &*source.tell_end.borrow() {
            Some(End::Link { stream, .. }) => Some(*stream),
            _ => None,
        };
        drop(source);
        let epitaphs = self.end().await;
        match lost.and_then(|stream| epitaphs.get(stream)) {
            Some(epitaph) => failure.detail(format!("{epitaph}.")),
            None => failure,
        }
    }

    /// Waits for the agents' end after the source was dropped or said good-bye, and tells how they ended.
    pub async fn end(self) -> Vec<String> {
        let carriers = std::iter::once(self.first).chain(self.further);
        let ends = (1..).zip(carriers).map(|(number, carrier)| async move {
            let received = Counters::read(&carrier.tally.received_bytes);
            tracing::debug!("stream {number} brought {received} bytes");
            carrier.end().await
        });
        futures_util::future::join_all(ends).await
    }
}

impl Carrier {
    async fn end(self) -> String {
        let Carrier {
            mut process,
            reading,
            writing,
            tally: _,
        } = self;
        reading.abort();
        let _ = tokio::time::timeout(END_WITHIN, writing).await;
        let (ended, said) = process.ended().await;
        let epitaph = contact::epitaph(process.carrier(), &ended, &said);
        process.end(END_WITHIN).await;
        epitaph
    }
}
