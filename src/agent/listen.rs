//! `serve --listen`: who may come in, and an agent for each connection that does.
//!
//! This process speaks TLS and knows nothing of PostgreSQL; it starts an agent ([`super::serve`]) for each
//! connection and carries the bytes between both. What an agent does, it does in a process of its own: with its own
//! memory, its own session on the server, and nothing of the others'.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::errors::chain;
use crate::link::frames::{self, FrameError};
use crate::link::process::{AgentEnd, start_agent};
use crate::link::tls::{self, Admission, Certificates, Files, HANDSHAKE_WITHIN, TlsError};
use crate::wire::codec;
use crate::wire::message::{Answer, Fault, FaultKind, SILENT_AFTER};

/// Handshakes that may be under way. One more, and the oldest is given up: an honest one takes milliseconds.
const HANDSHAKES_MAX: usize = 128;

/// Bytes that are carried at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// How long the other side may leave what it is sent lying.
const STUCK_AFTER: Duration = SILENT_AFTER;

/// How long agents may take to tidy up when everything ends.
const END_WITHIN: Duration = Duration::from_secs(20);

/// Pause after the system could not give a connection: no descriptor is left, perhaps.
const PAUSE: Duration = Duration::from_millis(200);

/// What `serve --listen` was asked to do.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// Names of certificates that may come in.
    pub allowed: Vec<String>,
    /// Most connections with an agent at a time.
    pub connections_max: usize,
    /// Arguments of each agent, behind `serve --stdio`.
    pub agent: Vec<OsString>,
}

/// Reads the files and hands them on, each time that `reload` says so. One that cannot be read leaves those in use
/// that were.
pub struct Keys {
    current: watch::Sender<Admission>,
    files: Files,
}

impl Keys {
    /// Reads them for the first time.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn read(files: &Files) -> Result<Self, TlsError> {
        Ok(Self {
            current: watch::Sender::new(tls::for_agent(files)?),
            files: files.clone(),
        })
    }

    /// Reads them again.
    pub fn reload(&self) {
        match tls::for_agent(&self.files) {
            Ok(admission) => {
                self.current.send_replace(admission);
                tracing::info!("certificates were read again");
            }
            Err(error) => tracing::error!(
                "certificates were not read again, those in use stay: {}",
                chain(&error)
            ),
        }
    }
}

/// Lets clients in until `stop` ends, then ends all agents in order.
pub async fn listen(
    options: ListenOptions,
    listener: TcpListener,
    keys: Arc<Keys>,
    stop: impl Future<Output = ()>,
) {
    let house = Arc::new(House {
        rooms: Semaphore::new(options.connections_max),
        options,
        keys,
        number: AtomicU64::new(0),
    });
    let (ending, is_ending) = watch::channel(false);
    let mut all = JoinSet::new();
    let mut knocking = Knocking::default();
    let mut stop = std::pin::pin!(stop);
    loop {
        let (stream, from) = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("a connection could not be taken: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        while all.try_join_next().is_some() {}
        let (done, is_done) = watch::channel(false);
        let visit = visit(Arc::clone(&house), stream, from, done, is_ending.clone());
        let task = all.spawn(visit);
        knocking.admit(task, is_done);
    }
    drop(listener);
    let _ = ending.send(true);
    let ended = tokio::time::timeout(END_WITHIN, async {
        while all.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        tracing::warn!(
            "some sessions did not end within {} s",
            END_WITHIN.as_secs()
        );
    }
}

/// What all connections share.
struct House {
    options: ListenOptions,
    keys: Arc<Keys>,
    rooms: Semaphore,
    number: AtomicU64,
}

/// Connections that are not let in yet, the oldest first.
#[derive(Default)]
struct Knocking {
    waiting: VecDeque<(AbortHandle, watch::Receiver<bool>)>,
}

impl Knocking {
    fn admit(&mut self, task: AbortHandle, is_done: watch::Receiver<bool>) {
        self.waiting.push_back((task, is_done));
        if self.waiting.len() > HANDSHAKES_MAX {
            self.waiting
                .retain(|(task, is_done)| !*is_done.borrow() && !task.is_finished());
        }
        if self.waiting.len() > HANDSHAKES_MAX
            && let Some((oldest, _)) = self.waiting.pop_front()
        {
            tracing::warn!(
                "{HANDSHAKES_MAX} connections wait to be let in: the oldest is given up"
            );
            oldest.abort();
        }
    }
}

/// One connection from its beginning to its end.
async fn visit(
    house: Arc<House>,
    stream: TcpStream,
    from: SocketAddr,
    done: watch::Sender<bool>,
    mut is_ending: watch::Receiver<bool>,
) {
    let mut admission = house.keys.current.subscribe();
    let acceptor = admission.borrow_and_update().acceptor.clone();
    let accepting = tls::accept(&acceptor, stream);
    let accepted = tokio::time::timeout(HANDSHAKE_WITHIN, accepting).await;
    let mut stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::warn!("{from}: refused: {error}");
            return;
        }
        Err(_) => {
            tracing::warn!(
                "{from}: refused: no handshake within {} s",
                HANDSHAKE_WITHIN.as_secs()
            );
            return;
        }
    };
    let certificates = Certificates::of(&stream);
    let names = certificates.names();
    let shown = names.join(", ");
    if !tls::is_allowed(&names, &house.options.allowed) {
        tracing::warn!("{from}: refused: its certificate is for \"{shown}\", which is not allowed");
        let fault = Fault::new(
            FaultKind::Unfit,
            format!("the agent does not allow the client's certificate, which is for \"{shown}\""),
        )
        .with_hint("Add one of its DNS names to the agent's --allow.");
        turn_away(&mut stream, fault).await;
        return;
    }
    let Ok(_room) = house.rooms.try_acquire() else {
        tracing::warn!(
            "{from}: \"{shown}\" is turned away: there are {} connections",
            house.options.connections_max
        );
        let fault = Fault::new(
            FaultKind::Unfit,
            "the agent has as many connections as it may have",
        )
        .with_hint(
            "Try again later, with fewer --streams, or raise the agent's --max-connections.",
        );
        turn_away(&mut stream, fault).await;
        return;
    };
    // Until here it is one of those that may be given up.
    let _ = done.send(true);
    let number = house.number.fetch_add(1, Ordering::Relaxed) + 1;
    let begin = Instant::now();
    let (agent, socket) = match start_agent(&house.options.agent, format!("session {number}")) {
        Ok(started) => started,
        Err(error) => {
            tracing::error!("{from}: no agent could be started: {error}");
            let fault = Fault::new(FaultKind::Server, "no agent could be started");
            turn_away(&mut stream, fault).await;
            return;
        }
    };
    tracing::info!("session {number}: {from} as \"{shown}\"");
    let (received, sent) = (AtomicU64::new(0), AtomicU64::new(0));
    let (from_client, to_client) = tokio::io::split(stream);
    let (from_agent, to_agent) = socket.into_split();
    let end = tokio::select! {
        end = carry_both((from_client, to_agent, &received), (from_agent, to_client, &sent)) => end,
        _ = is_ending.wait_for(|ending| *ending) => "it was stopped".to_owned(),
        error = unwelcome(&mut admission, &certificates) => {
            format!("it was stopped, its certificate is not accepted any more: {error}")
        }
    };
    let AgentEnd { cluster, status } = agent.end(END_WITHIN).await;
    let cluster = cluster.unwrap_or_else(|| "no cluster".to_owned());
    let (received, sent) = (received.into_inner(), sent.into_inner());
    let seconds = begin.elapsed().as_secs_f64();
    tracing::info!(
        "session {number}: {from} as \"{shown}\", {cluster}: {received} bytes received, {sent} bytes sent, \
         {seconds:.1} s; {end}; the agent's {status}"
    );
}

/// Waits until certificates are read again that do not let the client in.
async fn unwelcome(
    admission: &mut watch::Receiver<Admission>,
    certificates: &Certificates,
) -> String {
    while admission.changed().await.is_ok() {
        if let Err(error) = admission.borrow_and_update().check(certificates) {
            return error;
        }
    }
    // Nobody reads them again.
    std::future::pending().await
}

/// Says why, in the words of the protocol, to somebody who proved who it is.
async fn turn_away(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), fault: Fault) {
    let said = async {
        frames::write_preamble(stream).await?;
        frames::read_preamble(stream).await?;
        // As the answer to whatever is asked first.
        if let Some(question) = frames::read_frame(stream).await? {
            let answer = codec::encode(question.id, &Answer::Fault(fault), 0)?;
            stream.write_all(&answer).await?;
            stream.shutdown().await?;
        }
        Ok::<(), FrameError>(())
    };
    // Who does not listen is not told.
    let _ = tokio::time::timeout(HANDSHAKE_WITHIN, said).await;
}

/// A direction: from where, to where, and how much.
type Way<'a, R, W> = (R, W, &'a AtomicU64);

/// Carries bytes both ways until the agent has said all; how it ended, in words. The agent's input ends with the
/// client's, and the agent ends then.
async fn carry_both(
    inward: Way<'_, impl AsyncRead + Unpin, impl AsyncWrite + Unpin>,
    outward: Way<'_, impl AsyncRead + Unpin, impl AsyncWrite + Unpin>,
) -> String {
    let mut outward = std::pin::pin!(carry(outward));
    let said = tokio::select! {
        ended = carry(inward) => match ended {
            // What the agent has still to say may come.
            Ok(()) => outward.await,
            Err(error) => Err(error),
        },
        ended = &mut outward => ended,
    };
    match said {
        Ok(()) => "it ended in order".to_owned(),
        Err(error) => format!("the connection broke: {error}"),
    }
}

async fn carry(
    (mut from, mut to, count): Way<'_, impl AsyncRead + Unpin, impl AsyncWrite + Unpin>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = match from.read(&mut piece).await? {
            0 => break,
            read => read,
        };
        let writing = async {
            to.write_all(&piece[..read]).await?;
            to.flush().await
        };
        match tokio::time::timeout(STUCK_AFTER, writing).await {
            Ok(written) => written?,
            Err(_) => {
                let seconds = STUCK_AFTER.as_secs();
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("nothing was taken for {seconds} s"),
                ));
            }
        }
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
    // It may be gone already.
    let _ = to.shutdown().await;
    Ok(())
}
