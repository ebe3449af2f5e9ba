//! What carries a link: a process (`ssh`, any command, an agent on this host), or a connection by TLS. And the agents
//! that are started for connections.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::stdio::{self, Input, Output};
use super::{From, tls};
use crate::errors::one_line;

/// How many of the agent's last lines on standard error are kept for an error message.
const LAST_LINES: usize = 8;

/// Longest piece of a line that is taken at once.
const LINE_MAX: u64 = 4096;

/// What an agent begins the line with in which it tells of which cluster it is.
pub const CLUSTER_LINE: &str = "serves cluster ";

/// An open link: two byte streams, and what is at their end.
pub struct Link {
    pub reader: Input,
    pub writer: Output,
    pub process: Process,
}

/// What carries a link.
pub enum Process {
    Child(ChildProcess),
    /// A connection by TLS to this place.
    Connection(String),
}

/// The process that carries a link.
pub struct ChildProcess {
    child: Child,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    stderr_done: JoinHandle<()>,
}

impl Process {
    /// How it ended, as a sentence. Waits a moment for the end.
    pub async fn epitaph(&mut self) -> String {
        match self {
            Self::Child(child) => child.epitaph().await,
            Self::Connection(place) => format!("The connection to {place} ended"),
        }
    }

    /// Waits until it has ended by itself, for `limit` at most, and ends it then.
    pub async fn end(self, limit: Duration) {
        match self {
            Self::Child(child) => child.end(limit).await,
            Self::Connection(_) => {}
        }
    }
}

impl ChildProcess {
    /// How the process ended, as a sentence, with its last words on standard error. Waits a moment for
    /// the end.
    async fn epitaph(&mut self) -> String {
        let wait = Duration::from_secs(2);
        let status = match tokio::time::timeout(wait, self.child.wait()).await {
            Ok(Ok(status)) => format!("The agent's process ended: {status}"),
            Ok(Err(error)) => format!("The agent's process cannot be waited for: {error}"),
            Err(_) => "The agent's process still runs".to_owned(),
        };
        let _ = tokio::time::timeout(wait, &mut self.stderr_done).await;
        let lines = match self.last_lines.lock() {
            Ok(lines) => lines.iter().cloned().collect::<Vec<_>>().join(" | "),
            Err(_) => String::new(),
        };
        if lines.is_empty() {
            status
        } else {
            format!("{status}; it said: {lines}")
        }
    }

    /// Waits until the process has ended by itself, for `limit` at most, and kills it then.
    async fn end(mut self, limit: Duration) {
        if tokio::time::timeout(limit, self.child.wait())
            .await
            .is_err()
        {
            let _ = self.child.kill().await;
        }
    }
}

/// Opens a link: connects, or starts the process that carries it. That is not killed when it is dropped: the agent
/// ends, and tidies up, when its standard input does.
///
/// # Errors
/// The system's error when the process cannot be started, or TLS's.
pub async fn open(from: &From) -> io::Result<Link> {
    start(from, IfDropped::Ends).await
}

/// Opens a link for a further stream of a session. Its process goes with the link, also while it is still
/// trying to reach the other side: there is nothing that it would have to tidy up.
///
/// # Errors
/// As [`open`].
pub async fn open_further(from: &From) -> io::Result<Link> {
    start(&from.further(), IfDropped::IsKilled).await
}

/// What becomes of a process that nobody cares for any more.
#[derive(Clone, Copy, PartialEq)]
enum IfDropped {
    Ends,
    IsKilled,
}

async fn start(from: &From, if_dropped: IfDropped) -> io::Result<Link> {
    if let From::Tls { host, port, files } = from {
        let connector = tls::for_client(files).map_err(io::Error::other)?;
        let (reader, writer) = tokio::io::split(tls::connect(host, *port, &connector).await?);
        return Ok(Link {
            reader: Box::new(reader),
            writer: Box::new(writer),
            process: Process::Connection(format!("{host}:{port}")),
        });
    }
    let (program, arguments) = from.command()?;
    let mut child = Command::new(&program)
        .args(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(if_dropped == IfDropped::IsKilled)
        // In our process group: ssh must be able to ask for a password on the terminal.
        .spawn()
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("could not run \"{}\": {error}", program.display()),
            )
        })?;
    for pipe in [
        child.stdin.as_ref().map(AsFd::as_fd),
        child.stdout.as_ref().map(AsFd::as_fd),
    ] {
        stdio::widen(pipe);
    }
    let broken = || io::Error::other("a child process has no standard streams");
    let (reader, writer) = (
        child.stdout.take().ok_or_else(broken)?,
        child.stdin.take().ok_or_else(broken)?,
    );
    let stderr = child.stderr.take().ok_or_else(broken)?;
    let last_lines = Arc::new(Mutex::new(VecDeque::new()));
    let lines = Arc::clone(&last_lines);
    let stderr_done = tokio::spawn(async move {
        let mut stderr = BufReader::new(stderr);
        while let Some(line) = next_line(&mut stderr).await {
            if line.starts_with("pg_reseed: ") {
                tracing::warn!(target: "pg_reseed::agent", "{line}");
            } else {
                // Banners of remote shells and the like.
                tracing::info!(target: "pg_reseed::agent", "{line}");
            }
            if let Ok(mut lines) = lines.lock() {
                if lines.len() == LAST_LINES {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        }
    });
    Ok(Link {
        reader: Box::new(reader),
        writer: Box::new(writer),
        process: Process::Child(ChildProcess {
            child,
            last_lines,
            stderr_done,
        }),
    })
}

/// The next line of somebody who is not trusted, or the next piece of one that is too long.
async fn next_line(reader: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    let read = reader.take(LINE_MAX).read_until(b'\n', &mut line).await;
    if !matches!(read, Ok(1..)) {
        return None;
    }
    let line = line.trim_ascii_end();
    Some(one_line(&String::from_utf8_lossy(line)))
}

/// An agent that was started for a connection.
pub struct Agent {
    child: Child,
    /// Reads its standard error; returns of which cluster it is.
    listening: JoinHandle<Option<String>>,
}

/// How an agent ended.
pub struct AgentEnd {
    /// In words; `None` when it did not come to that.
    pub cluster: Option<String>,
    pub status: String,
}

/// Starts an agent of this very program with both its standard streams on one socket. What it says goes to the log
/// with `label` before it.
///
/// # Errors
/// The system's error.
pub fn start_agent(arguments: &[OsString], label: String) -> io::Result<(Agent, UnixStream)> {
    let (here, there) = std::os::unix::net::UnixStream::pair()?;
    here.set_nonblocking(true)?;
    // The program that runs, even after a newer one took its name.
    let mut child = Command::new("/proc/self/exe")
        .arg0("pg_reseed")
        .args(["serve", "--stdio"])
        .args(arguments)
        .env("PG_RESEED_LOG", "warn,pg_reseed::agent::session=info")
        .stdin(OwnedFd::from(there.try_clone()?))
        .stdout(OwnedFd::from(there))
        .stderr(Stdio::piped())
        // A signal to the listener's group, as from its terminal, is for the listener: it ends its sessions itself,
        // and goes on after a hangup.
        .process_group(0)
        .spawn()?;
    let stderr = child.stderr.take();
    let listening = tokio::spawn(async move {
        let mut cluster = None;
        let mut stderr = BufReader::new(stderr?);
        while let Some(line) = next_line(&mut stderr).await {
            match line.split_once(CLUSTER_LINE) {
                Some((_, words)) => cluster = Some(words.to_owned()),
                None => tracing::warn!("{label}: {line}"),
            }
        }
        cluster
    });
    let agent = Agent { child, listening };
    Ok((agent, UnixStream::from_std(here)?))
}

impl Agent {
    /// Waits for the end, for `limit` at most, and kills it then. Its socket must have been dropped.
    pub async fn end(mut self, limit: Duration) -> AgentEnd {
        let status = match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => format!("end is not known: {error}"),
            Err(_) => {
                let _ = self.child.kill().await;
                format!(
                    "process was killed, since it did not end within {} s",
                    limit.as_secs()
                )
            }
        };
        let cluster = tokio::time::timeout(Duration::from_secs(2), self.listening).await;
        AgentEnd {
            cluster: cluster.ok().and_then(Result::ok).flatten(),
            status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_without_an_end_comes_in_pieces() {
        let mut text = b"first \xff\x1b[2J\r\n".to_vec();
        text.extend([b'x'; 10_000]);
        let mut reader = BufReader::new(&text[..]);
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut reader).await {
            lines.push(line);
        }
        assert_eq!(lines[0], "first \u{fffd}\u{fffd}[2J");
        let lengths: Vec<_> = lines[1..].iter().map(String::len).collect();
        assert_eq!(lengths, [4096, 4096, 1808]);
    }
}
