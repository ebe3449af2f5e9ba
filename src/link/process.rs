//! What carries a link: a process (`ssh`, any command, an agent on this host), or a connection by TLS. And the agents
//! that are started for connections.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::stdio::{self, Input, Output};
use super::{From, tls};
use crate::errors::one_line;
use crate::plan::contact::{Carrier, Ended};

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

/// What carries a link, with where it leads.
pub struct Process {
    carrier: Carrier,
    /// `None` for a connection.
    child: Option<ChildProcess>,
}

/// The process that carries a link.
struct ChildProcess {
    child: Child,
    said: Arc<Mutex<Said>>,
    stderr_done: JoinHandle<()>,
}

/// What a process has said on standard error.
#[derive(Default)]
struct Said {
    /// An agent has answered: from then on each line is shown when it comes. Before, a failure may quote it.
    has_answered: bool,
    /// The last lines that nobody has been shown, oldest first, for an error message.
    last: VecDeque<String>,
}

impl Said {
    fn hear(&mut self, line: String) {
        if self.has_answered {
            self.keep_unless_shown(line);
            return;
        }
        if self.last.len() == LAST_LINES
            && let Some(line) = self.last.pop_front()
        {
            show(&line);
        }
        self.last.push_back(line);
    }

    /// An agent has answered: what was said until now was no reason to fail.
    fn answered(&mut self) {
        self.has_answered = true;
        for line in std::mem::take(&mut self.last) {
            self.keep_unless_shown(line);
        }
    }

    fn keep_unless_shown(&mut self, line: String) {
        if !show(&line) {
            if self.last.len() == LAST_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
    }
}

/// Whether the log shows the line.
fn show(line: &str) -> bool {
    if line.starts_with("pg_reseed: ") {
        tracing::warn!(target: "pg_reseed::agent", "{line}");
        tracing::enabled!(target: "pg_reseed::agent", tracing::Level::WARN)
    } else {
        // Banners of remote shells and the like.
        tracing::info!(target: "pg_reseed::agent", "{line}");
        tracing::enabled!(target: "pg_reseed::agent", tracing::Level::INFO)
    }
}

impl Process {
    /// What carries the link.
    #[must_use]
    pub fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// Says that an agent is there. Until then a process is asked to end when this value is dropped: it may still
    /// wait for an answer at the terminal.
    pub fn answered(&mut self) {
        if let Some(child) = &self.child
            && let Ok(mut said) = child.said.lock()
        {
            said.answered();
        }
    }

    /// How it ended, and what it said that nobody has been shown. Waits a moment for the end.
    pub async fn ended(&mut self) -> (Ended, Vec<String>) {
        match &mut self.child {
            Some(child) => child.ended().await,
            None => (Ended::Connection, Vec::new()),
        }
    }

    /// Waits until it has ended by itself, for `limit` at most, and ends it then.
    pub async fn end(self, limit: Duration) {
        if let Some(child) = self.child {
            child.end(limit).await;
        }
    }
}

impl ChildProcess {
    async fn ended(&mut self) -> (Ended, Vec<String>) {
        let wait = Duration::from_secs(2);
        let ended = match tokio::time::timeout(wait, self.child.wait()).await {
            Ok(Ok(status)) => ended_by(status),
            Ok(Err(error)) => Ended::Unknown(error.to_string()),
            Err(_) => Ended::Running,
        };
        let _ = tokio::time::timeout(wait, &mut self.stderr_done).await;
        let said = match self.said.lock() {
            Ok(said) => said.last.iter().cloned().collect(),
            Err(_) => Vec::new(),
        };
        (ended, said)
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

fn ended_by(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, Some(number)) => Ended::Signal(number),
        (None, None) => Ended::Unknown(status.to_string()),
    }
}

impl Drop for ChildProcess {
    /// ssh may still ask for a passphrase, with the terminal's echo off: at SIGTERM it turns that on again and ends.
    /// An agent that answered tidies up when its standard input ends, which needs no signal.
    fn drop(&mut self) {
        let has_answered = self.said.lock().is_ok_and(|said| said.has_answered);
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if !has_answered && let Some(pid) = pid.and_then(Pid::from_raw) {
            // Fails when it has just ended.
            let _ = kill_process(pid, Signal::TERM);
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
            process: Process {
                carrier: from.carrier(),
                child: None,
            },
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
    let said = Arc::<Mutex<Said>>::default();
    let hearing = Arc::clone(&said);
    let stderr_done = tokio::spawn(async move {
        let mut stderr = BufReader::new(stderr);
        while let Some(line) = next_line(&mut stderr).await {
            if let Ok(mut said) = hearing.lock() {
                said.hear(line);
            }
        }
    });
    Ok(Link {
        reader: Box::new(reader),
        writer: Box::new(writer),
        process: Process {
            carrier: from.carrier(),
            child: Some(ChildProcess {
                child,
                said,
                stderr_done,
            }),
        },
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
