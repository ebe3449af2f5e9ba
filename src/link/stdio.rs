//! The standard streams of an agent, as streams that wait without a thread: pipes, or one socket as from
//! inetd or systemd. Their descriptors can go to another process ([`super::join`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdStream;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// Bytes that a pipe shall hold: what an unprivileged process may ask for at most (`pipe(7)`,
/// `/proc/sys/fs/pipe-max-size`). The usual 64 KiB are a switch between two processes for each extent.
const PIPE_BYTES: usize = 1024 * 1024;

/// What an agent reads from.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;

/// What an agent writes to.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// The descriptors of a link's two directions, seen from the agent.
#[derive(Debug)]
pub struct Ends {
    pub(super) input: OwnedFd,
    pub(super) output: OwnedFd,
}

impl Ends {
    /// Standard input and standard output.
    ///
    /// # Errors
    /// The system's error.
    pub fn standard() -> io::Result<Self> {
        Ok(Self {
            input: io::stdin().as_fd().try_clone_to_owned()?,
            output: io::stdout().as_fd().try_clone_to_owned()?,
        })
    }

    /// One socket for both directions.
    #[cfg(test)]
    pub(crate) fn socket(socket: StdStream) -> Self {
        Self {
            input: socket.try_clone().expect("a socket can be cloned").into(),
            output: socket.into(),
        }
    }

    /// Both as streams. Must be called inside the runtime.
    ///
    /// # Errors
    /// The system's error; one of them may be neither a pipe nor a socket.
    pub fn streams(self) -> io::Result<(Input, Output)> {
        let other = || io::Error::other("it is neither a pipe nor a socket");
        Ok((
            input(self.input)?.ok_or_else(other)?,
            output(self.output)?.ok_or_else(other)?,
        ))
    }
}

/// Standard input and standard output as streams, whatever they are. Must be called inside the runtime.
///
/// # Errors
/// The system's error.
pub fn standard_streams() -> io::Result<(Input, Output)> {
    let ends = Ends::standard()?;
    let input = input(ends.input)?.unwrap_or_else(|| Box::new(tokio::io::stdin()));
    let output = output(ends.output)?.unwrap_or_else(|| Box::new(tokio::io::stdout()));
    Ok((input, output))
}

fn input(descriptor: OwnedFd) -> io::Result<Option<Input>> {
    Ok(match kind(&descriptor)? {
        Kind::Pipe => Some(Box::new(pipe::Receiver::from_owned_fd(descriptor)?)),
        Kind::Socket => Some(Box::new(stream(descriptor)?)),
        Kind::Other => None,
    })
}

fn output(descriptor: OwnedFd) -> io::Result<Option<Output>> {
    widen(Some(descriptor.as_fd()));
    Ok(match kind(&descriptor)? {
        Kind::Pipe => Some(Box::new(pipe::Sender::from_owned_fd(descriptor)?)),
        Kind::Socket => Some(Box::new(stream(descriptor)?)),
        Kind::Other => None,
    })
}

/// Lets a pipe hold more, if it is one and the system allows it.
pub(super) fn widen(pipe: Option<BorrowedFd<'_>>) {
    if let Some(pipe) = pipe {
        // A refusal costs speed and nothing else.
        let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES);
    }
}

enum Kind {
    Pipe,
    Socket,
    /// A terminal or a file: no test of readiness.
    Other,
}

fn kind(descriptor: &OwnedFd) -> io::Result<Kind> {
    let file = std::fs::File::from(descriptor.try_clone()?);
    let file_type = file.metadata()?.file_type();
    Ok(if file_type.is_fifo() {
        Kind::Pipe
    } else if file_type.is_socket() {
        Kind::Socket
    } else {
        Kind::Other
    })
}

/// A stream socket of whatever family: only its descriptor is used.
fn stream(socket: OwnedFd) -> io::Result<UnixStream> {
    let socket = StdStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
