//! The standard streams of an agent, as streams that wait without a thread: pipes, or one socket as from
//! inetd or systemd.

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

/// Standard input and standard output. Must be called inside the runtime.
///
/// # Errors
/// The system's error.
pub fn standard_streams() -> io::Result<(Input, Output)> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    widen(Some(output.as_fd()));
    let input: Input = match kind(&input)? {
        Kind::Pipe => Box::new(pipe::Receiver::from_owned_fd(input)?),
        Kind::Socket => Box::new(stream(input)?),
        Kind::Other => Box::new(tokio::io::stdin()),
    };
    let output: Output = match kind(&output)? {
        Kind::Pipe => Box::new(pipe::Sender::from_owned_fd(output)?),
        Kind::Socket => Box::new(stream(output)?),
        Kind::Other => Box::new(tokio::io::stdout()),
    };
    Ok((input, output))
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
