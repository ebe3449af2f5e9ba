//! The client's end of the wire: questions out, answers in, many in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::buffer::Buffer;
use crate::client::asking::{FIRST, Loss, Stream, Streams, weight};
use crate::client::failure::Failure;
use crate::errors::{chain, one_line};
use crate::event::{Counters, Event, Events};
use crate::facts::SourceFacts;
use crate::link::From;
use crate::link::frames::{self, Frame, FrameError, Impatient, Outgoing};
use crate::link::process::{self, Link, Process};
use crate::link::stdio::Input;
use crate::pg::label;
use crate::pg::lsn::Lsn;
use crate::pg::timeline::TimelineId;
use crate::plan::contact::{self, Heard, NoContact};
use crate::wire::codec::{self, CodecError};
use crate::wire::message::{
    ALIVE_EVERY, Answer, Fault, JoinToken, Notice, Request, RequestId, SILENT_AFTER, SlotWish,
};

/// Requests that may wait for the link.
const WAITING_REQUESTS: usize = 16;

/// How long the other side may take to say its first word: ssh may ask for a password.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(120);

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

/// An agent that answers, over one or several streams.
#[derive(Clone)]
pub struct Source {
    streams: Arc<Streams>,
    next: Arc<AtomicU32>,
    tell_end: Arc<watch::Sender<Option<End>>>,
    /// Bytes of WAL that the source keeps for the run, as it told last.
    retained: Arc<watch::Sender<u64>>,
    /// The agent has taken the session's configuration.
    is_ready: Arc<watch::Sender<bool>>,
    events: Events,
}

/// Why nothing more will be answered.
#[derive(Debug, Clone)]
enum End {
    /// The first stream broke.
    Link(String),
    Bracket(String),
}

/// The processes that carry the streams, and the tasks that talk to them: the first one's and the others'.
pub struct Connection {
    first: Carrier,
    further: Vec<Carrier>,
    /// How many streams there have been.
    opened: usize,
    losses: mpsc::UnboundedReceiver<Loss>,
}

/// What carries a stream.
pub(super) struct Carrier {
    stream: Stream,
    since: Instant,
    process: Process,
    reading: tokio::task::JoinHandle<()>,
    writing: tokio::task::JoinHandle<std::io::Result<()>>,
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
    let (streams, losses) = Streams::begin(opened.outgoing.clone());
    let first = streams.first().clone();
    let source = Source {
        streams: Arc::new(streams),
        next: Arc::new(AtomicU32::new(1)),
        tell_end: Arc::new(watch::Sender::new(None)),
        retained: Arc::default(),
        is_ready: Arc::default(),
        events: events.clone(),
    };
    Counters::add(&events.counters().streams, 1);
    let connection = Connection {
        first: source.listen(opened, first),
        further: Vec::new(),
        opened: FIRST,
        losses,
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

/// What is told of what comes.
struct Hearing {
    streams: Arc<Streams>,
    tell_end: Arc<watch::Sender<Option<End>>>,
    retained: Arc<watch::Sender<u64>>,
    events: Events,
}

/// Reads frames until the stream ends, and hands each to whoever waits for it.
async fn receive(mut reader: impl tokio::io::AsyncRead + Unpin, stream: Stream, source: Hearing) {
    let Hearing {
        streams,
        tell_end,
        retained,
        events,
    } = source;
    let link = End::Link;
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
        Counters::add(&stream.tally.received_bytes, frame.wire_bytes());
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
            Ok(answer) => streams.answer(id, (answer, body)),
            Err(error) => break link(error.to_string()),
        }
    };
    let end = match end {
        End::Link(reason) if !stream.is_first() => {
            streams.lose(stream.number, reason);
            return;
        }
        end => end,
    };
    // The first end is the cause of the others.
    tell_end.send_if_modified(|told| {
        let is_first = told.is_none();
        if is_first {
            *told = Some(end);
        }
        is_first
    });
    streams.end();
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
        // The second question does not wait for the first answer: over a long link each costs a round trip.
        let facts = Request::Facts { slot };
        let (ready, facts) = futures_util::future::join(
            self.ask(configure, Vec::new()),
            self.ask(&facts, Vec::new()),
        )
        .await;
        let (Answer::Ready { .. }, _) = ready? else {
            return Err(SourceError::Unfitting("configure"));
        };
        self.is_ready.send_replace(true);
        match facts? {
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

    /// Where the source stands: its timeline, and the end of its WAL.
    ///
    /// # Errors
    /// As [`Source::ask`].
    pub async fn position(&self) -> Result<(TimelineId, Lsn), SourceError> {
        match self.ask(&Request::Position, Vec::new()).await? {
            (Answer::Position { timeline, lsn }, _) => Ok((timeline, lsn)),
            _ => Err(SourceError::Unfitting("position")),
        }
    }

    /// Waits until the session has its configuration: before that nothing else may be said.
    pub(super) async fn ready(&self) {
        let mut told = self.is_ready.subscribe();
        if told.wait_for(|is_ready| *is_ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Says what has no answer.
    pub(super) async fn say(&self, request: &Request) {
        let Ok(frame) = Outgoing::new(0, request, Vec::new()) else {
            return;
        };
        Counters::add(&self.events.counters().wire_sent_bytes, frame.wire_bytes());
        // Whether the link is lost is noticed by those who ask.
        let _ = self.streams.first().outgoing.send(frame).await;
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
        let weight = weight(request, body.len());
        let mut body = body;
        loop {
            let stream = self.streams.choose(weight);
            // What a further stream takes with it is asked again.
            let body = if stream.is_first() {
                std::mem::take(&mut body)
            } else {
                body.clone()
            };
            let id = self.new_id();
            let frame = Outgoing::new(id, request, body)?;
            let bytes = frame.wire_bytes();
            let answer = self.streams.wait(&stream, id, weight);
            if self.tell_end.borrow().is_some() || answer.is_none() && stream.is_first() {
                return Err(self.end().await);
            }
            let Some(answer) = answer else { continue };
            Counters::add(&self.events.counters().wire_sent_bytes, bytes);
            if stream.outgoing.send(frame).await.is_err() {
                if stream.is_first() {
                    return Err(self.end().await);
                }
                let reason = "it takes nothing any more".to_owned();
                self.streams.lose(stream.number, reason);
                continue;
            }
            match answer.await {
                Ok((Answer::Fault(fault), _)) => {
                    return Err(SourceError::Fault(fault.in_one_line()));
                }
                Ok(answer) => return Ok(answer),
                Err(_) if stream.is_first() || self.tell_end.borrow().is_some() => {
                    return Err(self.end().await);
                }
                Err(_) => tracing::debug!("what stream {} took is asked again", stream.number),
            }
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
        connection.opened += 1;
        let stream = Stream::new(connection.opened, opened.outgoing.clone());
        // Before anybody could notice that it is lost.
        self.streams.add(stream.clone());
        let carrier = self.listen(opened, stream);
        connection.further.push(carrier);
    }

    /// Begins to read a stream's answers, and to say now and then that the client is there.
    fn listen(&self, opened: Opened, stream: Stream) -> Carrier {
        tokio::spawn(beat(opened.outgoing.downgrade(), self.events.clone()));
        let hearing = Hearing {
            streams: Arc::clone(&self.streams),
            tell_end: Arc::clone(&self.tell_end),
            retained: Arc::clone(&self.retained),
            events: self.events.clone(),
        };
        Carrier {
            process: opened.process,
            reading: tokio::spawn(receive(opened.reader, stream.clone(), hearing)),
            writing: opened.writing,
            since: Instant::now(),
            stream,
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
            Some(End::Link(reason)) => SourceError::Lost(reason),
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
        let is_lost = matches!(&*source.tell_end.borrow(), Some(End::Link(_)));
        drop(source);
        let epitaph = self.end().await;
        if is_lost {
            failure.detail(format!("{epitaph}."))
        } else {
            failure
        }
    }

    /// Waits until a further stream is lost, and gives what carried it.
    pub(super) async fn loss(&mut self) -> (Loss, Carrier) {
        loop {
            let Some(loss) = self.losses.recv().await else {
                // Nobody is left who could tell.
                return std::future::pending().await;
            };
            let is_it = |carrier: &Carrier| carrier.stream.number == loss.number;
            if let Some(place) = self.further.iter().position(is_it) {
                return (loss, self.further.remove(place));
            }
        }
    }

    /// Waits for the agents' end after the source was dropped or said good-bye, and tells how the first one ended.
    pub async fn end(self) -> String {
        let further = self.further.into_iter().map(Carrier::end);
        let further = futures_util::future::join_all(further);
        futures_util::future::join(self.first.end(), further)
            .await
            .0
    }
}

/// How what carries a stream ended, in words.
async fn epitaph(process: &mut Process) -> String {
    let (ended, said) = process.ended().await;
    contact::epitaph(process.carrier(), &ended, &said)
}

impl Carrier {
    /// How long it was in use.
    pub(super) fn lived(&self) -> Duration {
        self.since.elapsed()
    }

    /// Ends what carried a stream that was lost, and tells how it ended.
    pub(super) async fn bury(mut self) -> String {
        self.reading.abort();
        self.writing.abort();
        // Its process is killed with it, if it still runs.
        epitaph(&mut self.process).await
    }

    async fn end(self) -> String {
        let Carrier {
            stream,
            since: _,
            mut process,
            reading,
            writing,
        } = self;
        let received = Counters::read(&stream.tally.received_bytes);
        tracing::debug!("stream {} brought {received} bytes", stream.number);
        // Its writer ends with the last of those who can ask.
        drop(stream);
        reading.abort();
        let _ = tokio::time::timeout(END_WITHIN, writing).await;
        let epitaph = epitaph(&mut process).await;
        process.end(END_WITHIN).await;
        epitaph
    }
}
