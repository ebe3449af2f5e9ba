//! The process that carries a link: `ssh`, any command, or an agent on this host.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{From, stdio};

/// How many of the agent's last lines on standard error are kept for an error message.
const LAST_LINES: usize = 8;

/// What comes from the agent.
pub type Incoming = ChildStdout;

/// An open link: two byte streams, and the process at their end.
pub struct Link {
    pub reader: Incoming,
    pub writer: ChildStdin,
    pub process: Process,
}

/// The process that carries a link.
pub struct Process {
    child: Child,
    last_lines: Arc<Mutex<VecDeque<String>>>,
    stderr_done: tokio::task::JoinHandle<()>,
}

impl Process {
    /// How the process ended, as a sentence, with its last words on standard error. Waits a moment for
    /// the end.
    pub async fn epitaph(&mut self) -> String {
        let wait = std::time::Duration::from_secs(2);
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
    pub async fn end(mut self, limit: std::time::Duration) {
        if tokio::time::timeout(limit, self.child.wait())
            .await
            .is_err()
        {
            let _ = self.child.kill().await;
        }
    }
}

/// Opens a link: starts the process that carries it. It is not killed when it is dropped: the agent ends,
/// and tidies up, when its standard input does.
///
/// # Errors
/// The system's error when the process cannot be started.
pub fn open(from: &From) -> io::Result<Link> {
    start(from, IfDropped::Ends)
}

/// Opens a link for a further stream of a session. Its process goes with the link, also while it is still
/// trying to reach the other side: there is nothing that it would have to tidy up.
///
/// # Errors
/// As [`open`].
pub fn open_further(from: &From) -> io::Result<Link> {
    start(&from.further(), IfDropped::IsKilled)
}

/// What becomes of a process that nobody cares for any more.
#[derive(Clone, Copy, PartialEq)]
enum IfDropped {
    Ends,
    IsKilled,
}

fn start(from: &From, if_dropped: IfDropped) -> io::Result<Link> {
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
        let mut stderr = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = stderr.next_line().await {
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
        reader,
        writer,
        process: Process {
            child,
            last_lines,
            stderr_done,
        },
    })
}
