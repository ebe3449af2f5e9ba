//! TCP for pg_reseed, which has no network port of its own: a listener that starts an agent on each
//! connection, as inetd would, and a relay between the client's streams and that connection.
//!
//! So the bytes take the same way as those of the peers, whose daemons listen on TCP. The agent has the
//! socket itself as its standard streams; the relay moves what it sends within the kernel (splice).

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};

use crate::Result;
use crate::cgroup::Side;
use crate::process::{Entry, Runner};

/// What the relay is called in the benchmark's own command line.
pub const RELAY_OPTION: &str = "--relay";

/// What the pipe to the client holds, and so the most that one call of splice moves.
const PIPE_BYTES: usize = 1 << 20;

/// The relay's whole life: standard input to the connection, the connection to standard output.
pub fn run(address: Option<OsString>) -> ExitCode {
    match relay(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn relay(address: Option<OsString>) -> Result<()> {
    let address = address.and_then(|address| address.into_string().ok());
    let address: SocketAddr = address.ok_or("no address")?.parse()?;
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let to = socket.try_clone()?;
    // Not joined: when the connection ends, nobody needs what may still come on standard input.
    thread::spawn(move || {
        let done = copy(std::io::stdin().lock(), &to);
        let _ = to.shutdown(Shutdown::Write);
        done
    });
    let pipe = std::io::stdout().lock();
    // A larger pipe takes more at once; with the usual one it works as well.
    let _ = fcntl_setpipe_size(&pipe, PIPE_BYTES);
    carry(&socket, pipe)
}

/// Moves what the agent sends, by splice where the output is a pipe.
fn carry(socket: &TcpStream, to: impl Write + AsFd) -> Result<()> {
    loop {
        // Splice holds the pipe's lock while it waits for a socket, so that nobody can read what lies in
        // the pipe: it must not wait.
        if socket.peek(&mut [0])? == 0 {
            return Ok(());
        }
        match splice(socket, None, &to, None, PIPE_BYTES, SpliceFlags::MOVE) {
            Ok(_) | Err(Errno::INTR) => {}
            // No pipe: nothing was moved.
            Err(Errno::INVAL) => return copy(socket, to),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Copies what comes until its end. What the client sends is little, and splice would hold the lock of
/// its pipe while the socket is full.
fn copy(mut from: impl Read, mut to: impl Write) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            read => {
                to.write_all(&buffer[..read])?;
                to.flush()?;
            }
        }
    }
}

/// A listener that starts an agent on each connection, until it is dropped.
pub struct Inetd {
    pub port: u16,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Inetd {
    /// `words` are the agent's program and arguments.
    pub fn start(words: Vec<OsString>, runner: Arc<Runner>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            for socket in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let started = socket
                    .map_err(Into::into)
                    .and_then(|socket| serve(socket, &words, &runner));
                if let Err(error) = started {
                    eprintln!("could not start the agent: {error}");
                }
            }
        });
        Ok(Self {
            port,
            is_over,
            thread: Some(thread),
        })
    }
}

fn serve(socket: TcpStream, words: &[OsString], runner: &Runner) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut command = runner.command(Some(Side::Source), &words[0]);
    command.args(&words[1..]);
    command.stdin(Stdio::from(OwnedFd::from(socket.try_clone()?)));
    command.stdout(Stdio::from(OwnedFd::from(socket)));
    let mut child = command.spawn()?;
    // The agent ends with its connection.
    thread::spawn(move || {
        let _entry = Entry::new(&child);
        child.wait()
    });
    Ok(())
}

impl Drop for Inetd {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread, which waits for a connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
