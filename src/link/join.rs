//! How a further stream comes to a session: the agent at its end hands the descriptors of its standard
//! streams to the first agent and carries nothing itself.
//!
//! The first agent listens on an abstract Unix-domain socket whose name is a digest of the session's token.
//! Whoever hands a stream over proves that it runs as the same user (`SO_PEERCRED`, on both sides) and knows
//! the token.

use std::fmt::Write as _;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::stdio::{Ends, Input, Output};
use crate::wire::message::{JoinToken, RequestId};

/// What comes with the descriptors: the token, and the number of the request.
const MESSAGE_BYTES: usize = 16 + 4;

/// What the first agent says when it has taken a stream.
const TAKEN: u8 = 1;

/// How long the handing over may take.
const WITHIN: Duration = Duration::from_secs(10);

/// A stream could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("no session to join on this host")]
    NoSession,
    #[error("the session on this host did not take the stream")]
    NotTaken,
    #[error("could not reach the session on this host: {0}")]
    Io(#[from] io::Error),
}

/// Where further streams of a session come in.
pub struct Door {
    listener: UnixListener,
    token: JoinToken,
}

/// A stream that came in.
pub struct Guest {
    /// Number of the request to join, which waits for its answer.
    pub id: RequestId,
    pub input: Input,
    pub output: Output,
    pub bond: Bond,
}

/// Holds the process that handed a stream over: it ends when this is dropped. To be dropped after the
/// streams.
pub struct Bond {
    _connection: UnixStream,
}

impl Door {
    /// Begins to listen. Must be called inside the runtime.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(token: JoinToken) -> io::Result<Self> {
        let listener = UnixListener::bind(name(&token))?;
        Ok(Self { listener, token })
    }

    /// Waits for the next stream. Not cancellation safe: one that is just coming in is lost.
    pub async fn next(&self) -> Guest {
        loop {
            let taken = match self.listener.accept().await {
                Ok((connection, _)) => timeout(WITHIN, self.take(connection)).await,
                Err(error) => {
                    tracing::warn!("a further stream cannot come in: {error}");
                    // No descriptor is left, perhaps; that may pass.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            match taken {
                Ok(Ok(guest)) => return guest,
                Ok(Err(error)) => tracing::info!("a further stream is refused: {error}"),
                Err(_) => tracing::info!("a further stream is refused: it did not come"),
            }
        }
    }

    async fn take(&self, mut connection: UnixStream) -> io::Result<Guest> {
        check_user(&connection)?;
        let received = connection.async_io(Interest::READABLE, || receive(&connection));
        let (token, id, ends) = received.await?;
        if token != self.token {
            return Err(io::Error::other("it does not know the session's token"));
        }
        let (input, output) = ends.streams()?;
        connection.write_all(&[TAKEN]).await?;
        Ok(Guest {
            id,
            input,
            output,
            bond: Bond {
                _connection: connection,
            },
        })
    }
}

/// A stream that was handed over. The process must live as long as the session uses it.
pub struct HandedOver {
    connection: UnixStream,
}

impl HandedOver {
    /// Waits until the session has let go of the stream.
    pub async fn released(mut self) {
        // Nothing more is said: whatever comes is the end.
        let _ = self.connection.read(&mut [0]).await;
    }
}

/// Hands a stream over to the session with this token. `id` is the number of the request to join, which the
/// session answers.
///
/// # Errors
/// [`JoinError`]; then nobody else uses the stream.
pub async fn hand_over(
    token: &JoinToken,
    id: RequestId,
    ends: Ends,
) -> Result<HandedOver, JoinError> {
    match timeout(WITHIN, hand(token, id, ends)).await {
        Ok(handed) => handed,
        Err(_) => Err(JoinError::NotTaken),
    }
}

async fn hand(token: &JoinToken, id: RequestId, ends: Ends) -> Result<HandedOver, JoinError> {
    let mut connection = match UnixStream::connect(name(token)).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(JoinError::NoSession);
        }
        connected => connected?,
    };
    check_user(&connection)?;
    let sent = connection.async_io(Interest::WRITABLE, || send(&connection, token, id, &ends));
    sent.await?;
    drop(ends);
    let mut said = [0];
    match connection.read(&mut said).await? {
        1 if said == [TAKEN] => Ok(HandedOver { connection }),
        _ => Err(JoinError::NotTaken),
    }
}

/// The abstract name of the session's socket.
fn name(token: &JoinToken) -> String {
    let mut name = "\0pg_reseed-".to_owned();
    for byte in token.public().0 {
        write!(name, "{byte:02x}").expect("writing to a string cannot fail");
    }
    name
}

/// The other side must be of this process's user.
fn check_user(connection: &UnixStream) -> io::Result<()> {
    if connection.peer_cred()?.uid() == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::other("the other side belongs to another user"))
}

fn send(connection: &UnixStream, token: &JoinToken, id: RequestId, ends: &Ends) -> io::Result<()> {
    let mut bytes = [0; MESSAGE_BYTES];
    bytes[..16].copy_from_slice(&token.0);
    bytes[16..].copy_from_slice(&id.to_le_bytes());
    let descriptors = [ends.input.as_fd(), ends.output.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("two descriptors do not fit"));
    }
    // A new socket has room for so little: it goes as a whole or not at all.
    let bytes = [IoSlice::new(&bytes)];
    match sendmsg(connection, &bytes, &mut control, SendFlags::NOSIGNAL)? {
        MESSAGE_BYTES => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn receive(connection: &UnixStream) -> io::Result<(JoinToken, RequestId, Ends)> {
    let mut bytes = [0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut room = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(connection, &mut room, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    let [input, output] = <[OwnedFd; 2]>::try_from(descriptors)
        .map_err(|_| io::Error::other("it brought no streams"))?;
    if received.bytes != MESSAGE_BYTES {
        return Err(io::Error::other("it said too little"));
    }
    let (mut token, mut id) = ([0; 16], [0; 4]);
    token.copy_from_slice(&bytes[..16]);
    id.copy_from_slice(&bytes[16..]);
    let ends = Ends { input, output };
    Ok((JoinToken(token), RequestId::from_le_bytes(id), ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream as ssh would bring it: what the client writes and reads, and what the agent has.
    fn stream() -> (io::PipeWriter, io::PipeReader, Ends) {
        let (input, questions) = io::pipe().unwrap();
        let (answers, output) = io::pipe().unwrap();
        let ends = Ends {
            input: input.into(),
            output: output.into(),
        };
        (questions, answers, ends)
    }

    fn token(first: u8) -> JoinToken {
        let mut token = [first; 16];
        token[1..5].copy_from_slice(&std::process::id().to_le_bytes());
        JoinToken(token)
    }

    #[tokio::test]
    async fn a_stream_goes_to_the_session_and_its_carrier_waits() {
        use std::io::{Read as _, Write as _};

        let door = Door::open(token(1)).unwrap();
        let (mut questions, mut answers, ends) = stream();
        let token = token(1);
        let (handed, mut guest) = tokio::join!(
            async { hand_over(&token, 7, ends).await.unwrap() },
            door.next()
        );
        assert_eq!(guest.id, 7);
        questions.write_all(b"asked").unwrap();
        let mut asked = [0; 5];
        guest.input.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"asked");
        guest.output.write_all(b"answered").await.unwrap();
        {
            let released = std::pin::pin!(handed.released());
            let wait = Duration::from_millis(20);
            let mut released = released;
            assert!(timeout(wait, &mut released).await.is_err());
            drop(guest);
            timeout(WITHIN, released).await.unwrap();
        }
        // Nobody has the other ends any more.
        let mut answered = String::new();
        answers.read_to_string(&mut answered).unwrap();
        assert_eq!(answered, "answered");
        assert!(questions.write_all(b"more").is_err());
    }

    #[tokio::test]
    async fn without_a_session_nothing_is_handed_over() {
        let (_questions, _answers, ends) = stream();
        let error = hand_over(&token(2), 1, ends).await.map(drop).unwrap_err();
        assert_eq!(error.to_string(), "no session to join on this host");
    }

    #[tokio::test]
    async fn the_name_is_not_enough() {
        let door = Door::open(token(3)).unwrap();
        let (_questions, _answers, ends) = stream();
        let (first, second) = (token(3), token(4));
        let knows_the_name = async {
            let connection = UnixStream::connect(name(&first)).await.unwrap();
            let sent =
                connection.async_io(Interest::WRITABLE, || send(&connection, &second, 1, &ends));
            sent.await.unwrap();
            let mut connection = connection;
            let read = connection.read(&mut [0]).await;
            // Hung up, with or without an error.
            assert!(!matches!(read, Ok(1)));
        };
        let says_nothing = async {
            let mut connection = UnixStream::connect(name(&first)).await.unwrap();
            connection
                .write_all(b"let me in, please, do")
                .await
                .unwrap();
            assert!(!matches!(connection.read(&mut [0]).await, Ok(1)));
        };
        let (_questions, _answers, more) = stream();
        let all = async {
            knows_the_name.await;
            says_nothing.await;
            // They do not keep the door from those who know the token.
            hand_over(&first, 5, more).await.unwrap()
        };
        let (_handed, guest) = tokio::join!(all, door.next());
        assert_eq!(guest.id, 5);
    }

    #[tokio::test]
    async fn what_is_no_stream_is_not_taken() {
        let door = Door::open(token(5)).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let ends = Ends {
            input: file.try_clone().unwrap().into(),
            output: file.into(),
        };
        let token = token(5);
        tokio::select! {
            handed = hand_over(&token, 1, ends) => {
                assert!(matches!(handed, Err(JoinError::NotTaken | JoinError::Io(_))));
            }
            _ = door.next() => panic!("it was taken"),
        }
    }
}
