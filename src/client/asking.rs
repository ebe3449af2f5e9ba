//! Which question goes over which stream, who waits for its answer, and what becomes of both when a stream is lost:
//! whoever waits is woken, and asks again on another one. That may be done, since reading requests are stateless.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::buffer::Buffer;
use crate::geometry::total_bytes;
use crate::link::frames::Outgoing;
use crate::wire::message::{Answer, Request, RequestId};

/// The stream that the session began with: with it the session ends.
pub(super) const FIRST: usize = 1;

/// What an answer weighs beside its blocks.
const SMALL_ANSWER_BYTES: u64 = 4096;

/// What a stream has brought and will bring.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) received_bytes: AtomicU64,
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
pub(super) struct Stream {
    /// [`FIRST`], or a number that no other stream of the session had.
    pub(super) number: usize,
    pub(super) outgoing: mpsc::Sender<Outgoing>,
    pub(super) tally: Arc<Tally>,
}

impl Stream {
    pub(super) fn new(number: usize, outgoing: mpsc::Sender<Outgoing>) -> Self {
        Self {
            number,
            outgoing,
            tally: Arc::default(),
        }
    }

    pub(super) fn is_first(&self) -> bool {
        self.number == FIRST
    }
}

/// Who waits for an answer.
struct Waiting {
    answer: oneshot::Sender<(Answer, Buffer)>,
    stream: usize,
    _load: Load,
}

/// A further stream that was lost.
pub(super) struct Loss {
    pub(super) number: usize,
    pub(super) reason: String,
}

/// The streams of a session.
pub(super) struct Streams {
    first: Stream,
    further: Mutex<Vec<Stream>>,
    pending: Mutex<Pending>,
    losses: mpsc::UnboundedSender<Loss>,
}

/// Who waits for what; `None` when nothing more is answered.
type Pending = Option<HashMap<RequestId, Waiting>>;

impl Streams {
    /// One stream, and where the losses of further ones are told.
    pub(super) fn begin(outgoing: mpsc::Sender<Outgoing>) -> (Self, mpsc::UnboundedReceiver<Loss>) {
        let (losses, told) = mpsc::unbounded_channel();
        let streams = Self {
            first: Stream::new(FIRST, outgoing),
            further: Mutex::default(),
            pending: Mutex::new(Some(HashMap::new())),
            losses,
        };
        (streams, told)
    }

    pub(super) fn first(&self) -> &Stream {
        &self.first
    }

    /// Takes a further stream into use.
    pub(super) fn add(&self, stream: Stream) {
        self.further().push(stream);
    }

    /// The stream for a question of this [`weight`]: the one that has least to bring.
    pub(super) fn choose(&self, weight: u64) -> Stream {
        if weight == 0 {
            return self.first.clone();
        }
        let awaited = |stream: &&Stream| stream.tally.awaited_bytes.load(Ordering::Relaxed);
        let first = std::iter::once(&self.first);
        let further = self.further();
        let lightest = first.chain(further.iter()).min_by_key(awaited);
        lightest.unwrap_or(&self.first).clone()
    }

    /// Waits for the answer to a question that goes over a stream; `None` when that was lost, so that no answer would
    /// come. The answer does not come either when the stream is lost later.
    pub(super) fn wait(
        &self,
        stream: &Stream,
        id: RequestId,
        weight: u64,
    ) -> Option<oneshot::Receiver<(Answer, Buffer)>> {
        let mut pending = self.pending();
        let pending = pending.as_mut()?;
        // Whoever is lost is not in the list any more, before those that wait for it are let go.
        if !stream.is_first() && !self.has(stream.number) {
            return None;
        }
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            answer,
            stream: stream.number,
            _load: Load::new(&stream.tally, weight),
        };
        pending.insert(id, waiting);
        Some(answered)
    }

    /// Hands an answer to whoever waits for it.
    pub(super) fn answer(&self, id: RequestId, answer: (Answer, Buffer)) {
        let waiting = self.pending().as_mut().and_then(|all| all.remove(&id));
        if let Some(waiting) = waiting {
            // Whoever asked may have given up.
            let _ = waiting.answer.send(answer);
        }
    }

    /// A further stream is lost: nobody uses it any more, and who waits for it wakes up. Told once.
    pub(super) fn lose(&self, number: usize, reason: String) {
        let was_there = {
            let mut further = self.further();
            let before = further.len();
            further.retain(|stream| stream.number != number);
            further.len() < before
        };
        if let Some(pending) = self.pending().as_mut() {
            pending.retain(|_, waiting| waiting.stream != number);
        }
        if was_there {
            // The session may be at its end.
            let _ = self.losses.send(Loss { number, reason });
        }
    }

    /// Nothing more is answered: everybody who waits wakes up.
    pub(super) fn end(&self) {
        *self.pending() = None;
    }

    fn has(&self, number: usize) -> bool {
        self.further().iter().any(|stream| stream.number == number)
    }

    /// A panic while the lock was held leaves nothing half-changed.
    fn further(&self) -> MutexGuard<'_, Vec<Stream>> {
        self.further.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that the answer may have, roughly, as a request weighs on its stream; 0 for one that must go on the
/// first.
pub(super) fn weight(request: &Request, body_bytes: usize) -> u64 {
    let answer = match request {
        Request::Digests { .. } | Request::Control => 0,
        Request::Blocks { spans, .. } => total_bytes(spans),
        Request::Delta { .. } => body_bytes as u64,
        _ => return 0,
    };
    answer + SMALL_ANSWER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams() -> (Streams, mpsc::UnboundedReceiver<Loss>) {
        let (outgoing, _) = mpsc::channel(1);
        Streams::begin(outgoing)
    }

    fn further(streams: &Streams, number: usize) -> Stream {
        let (outgoing, _) = mpsc::channel(1);
        let stream = Stream::new(number, outgoing);
        streams.add(stream.clone());
        stream
    }

    #[test]
    fn who_waits_for_a_lost_stream_wakes_up_and_the_others_wait_on() {
        let (streams, mut told) = streams();
        let (two, three) = (further(&streams, 2), further(&streams, 3));
        let mut on_first = streams.wait(streams.first(), 1, 0).unwrap();
        let mut on_two = streams.wait(&two, 2, 10).unwrap();
        let mut on_three = streams.wait(&three, 3, 10).unwrap();
        streams.lose(2, "killed".to_owned());
        streams.lose(2, "once more".to_owned());
        assert!(matches!(
            on_two.try_recv(),
            Err(oneshot::error::TryRecvError::Closed)
        ));
        for waits in [&mut on_first, &mut on_three] {
            assert!(matches!(
                waits.try_recv(),
                Err(oneshot::error::TryRecvError::Empty)
            ));
        }
        let loss = told.try_recv().unwrap();
        assert_eq!((loss.number, &*loss.reason), (2, "killed"));
        assert!(told.try_recv().is_err());
        // Whoever chose it a moment before.
        assert!(streams.wait(&two, 4, 10).is_none());
        streams.answer(3, (Answer::Joined, Buffer::default()));
        assert!(on_three.try_recv().is_ok());
    }

    #[test]
    fn a_question_goes_where_least_is_awaited_and_others_to_the_first() {
        let (streams, _told) = streams();
        let two = further(&streams, 2);
        let _first = streams.wait(streams.first(), 1, 100).unwrap();
        assert_eq!(streams.choose(5).number, 2);
        let second = streams.wait(&two, 2, 200).unwrap();
        assert_eq!(streams.choose(5).number, FIRST);
        assert_eq!(streams.choose(0).number, FIRST);
        drop(second);
        streams.lose(2, String::new());
        assert_eq!(two.tally.awaited_bytes.load(Ordering::Relaxed), 0);
        assert_eq!(streams.choose(5).number, FIRST);
    }

    #[test]
    fn after_the_end_nobody_waits() {
        let (streams, _told) = streams();
        let mut waits = streams.wait(streams.first(), 1, 0).unwrap();
        streams.end();
        assert!(waits.try_recv().is_err());
        assert!(streams.wait(streams.first(), 2, 0).is_none());
    }
}
