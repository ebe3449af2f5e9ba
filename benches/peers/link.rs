//! A network link of a given rate and round trip time, as a proxy of TCP: where the kernel cannot shape
//! its loopback interface, and the same for every tool.
//!
//! Each direction is one line that all connections share. A byte waits until the line is free, takes the
//! time that the rate says, and arrives half a round trip later. What is modelled is the line, not TCP on
//! it: no slow start, no loss, no overhead of packets. A sender is held back as by a router whose queue
//! is `QUEUE` long; a receiver that does not read holds back the line's bytes of its own connection.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::pause;

/// How far ahead of the line a sender may be. Long enough to outlast a late wake-up, so that the line
/// never idles, and short beside any round trip that is worth shaping.
const QUEUE: Duration = Duration::from_millis(2);
/// Most bytes that are taken from a connection at once: at 100 Mbit/s, 1.3 ms.
const READ_BYTES: usize = 16 << 10;

/// Rate and distance of a link.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub bits_per_second: u64,
    pub round_trip: Duration,
}

impl Shape {
    fn time_of(self, bytes: usize) -> Duration {
        let nanoseconds = bytes as u64 * 8 * 1_000_000_000 / self.bits_per_second;
        Duration::from_nanos(nanoseconds)
    }

    /// Most bytes of a connection that are under way at once: what fits on the line, and the queue.
    fn bytes_under_way(self) -> usize {
        let time = self.round_trip / 2 + QUEUE;
        let bytes = u128::from(self.bits_per_second) / 8 * time.as_nanos() / 1_000_000_000;
        usize::try_from(bytes).unwrap_or(usize::MAX) + 4 * READ_BYTES
    }
}

/// One direction.
struct Line {
    shape: Shape,
    /// When the line has sent everything that was given to it.
    free_at: Mutex<Instant>,
    carried_bytes: AtomicU64,
}

impl Line {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            free_at: Mutex::new(Instant::now()),
            carried_bytes: AtomicU64::new(0),
        }
    }

    /// Takes bytes onto the line; returns when the last of them has left.
    fn take(&self, bytes: usize) -> Instant {
        let mut free_at = lock(&self.free_at);
        let sent_at = Instant::now().max(*free_at) + self.shape.time_of(bytes);
        *free_at = sent_at;
        self.carried_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        sent_at
    }
}

/// What is under way on one connection in one direction; the end of the stream is an empty piece.
#[derive(Default)]
struct UnderWay {
    pieces: Mutex<Pieces>,
    changed: Condvar,
}

#[derive(Default)]
struct Pieces {
    queue: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    is_broken: bool,
}

impl UnderWay {
    /// False when the receiver is gone.
    fn push(&self, arrives_at: Instant, piece: Vec<u8>, most_bytes: usize) -> bool {
        let mut pieces = lock(&self.pieces);
        while pieces.bytes > most_bytes && !pieces.is_broken {
            pieces = wait(&self.changed, pieces);
        }
        pieces.bytes += piece.len();
        pieces.queue.push_back((arrives_at, piece));
        self.changed.notify_all();
        !pieces.is_broken
    }

    fn pop(&self) -> (Instant, Vec<u8>) {
        let mut pieces = lock(&self.pieces);
        loop {
            if let Some(first) = pieces.queue.pop_front() {
                return first;
            }
            pieces = wait(&self.changed, pieces);
        }
    }

    fn delivered(&self, bytes: usize, is_broken: bool) {
        let mut pieces = lock(&self.pieces);
        pieces.bytes -= bytes;
        pieces.is_broken |= is_broken;
        self.changed.notify_all();
    }
}

/// A link, for as long as it is held.
pub struct Link {
    there: Arc<Line>,
    back: Arc<Line>,
    is_over: Arc<AtomicBool>,
    ports: Mutex<Vec<u16>>,
}

impl Link {
    pub fn new(shape: Shape) -> Self {
        Self {
            there: Arc::new(Line::new(shape)),
            back: Arc::new(Line::new(shape)),
            is_over: Arc::default(),
            ports: Mutex::default(),
        }
    }

    /// Opens a port of this side of the link that leads to `port` on the other side.
    pub fn open(&self, port: u16) -> Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let own_port = listener.local_addr()?.port();
        lock(&self.ports).push(own_port);
        let (there, back) = (Arc::clone(&self.there), Arc::clone(&self.back));
        let is_over = Arc::clone(&self.is_over);
        thread::spawn(move || {
            for near in listener.incoming() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let opened = near
                    .map_err(Into::into)
                    .and_then(|near| connect(near, port, &there, &back));
                if let Err(error) = opened {
                    eprintln!("link: {error}");
                }
            }
        });
        Ok(own_port)
    }

    /// Bytes that both directions have carried so far.
    pub fn carried_bytes(&self) -> u64 {
        [&self.there, &self.back]
            .map(|line| line.carried_bytes.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        for port in lock(&self.ports).iter() {
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, *port));
        }
    }
}

fn connect(near: TcpStream, port: u16, there: &Arc<Line>, back: &Arc<Line>) -> Result<()> {
    // The handshake takes a round trip, which a client waits for before it may send.
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
    }
    let handshake = Instant::now() + there.shape.round_trip;
    carry(
        near.try_clone()?,
        far.try_clone()?,
        Arc::clone(there),
        handshake,
    );
    carry(far, near, Arc::clone(back), handshake);
    Ok(())
}

/// Starts the two threads that take bytes onto the line and off it.
fn carry(from: TcpStream, to: TcpStream, line: Arc<Line>, begin: Instant) {
    let under_way = Arc::new(UnderWay::default());
    let arriving = Arc::clone(&under_way);
    thread::spawn(move || {
        pause_until(begin);
        put_in(from, &line, &under_way);
    });
    thread::spawn(move || take_out(to, &arriving));
}

fn put_in(mut from: TcpStream, line: &Line, under_way: &UnderWay) {
    let delay = line.shape.round_trip / 2;
    let most_bytes = line.shape.bytes_under_way();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        // A broken connection is an end like any other: the tool itself will say so.
        let read = from.read(&mut buffer).unwrap_or(0);
        let sent_at = line.take(read);
        let is_open = under_way.push(sent_at + delay, buffer[..read].to_vec(), most_bytes);
        if read == 0 || !is_open {
            let _ = from.shutdown(Shutdown::Read);
            return;
        }
        pause_until(sent_at.checked_sub(QUEUE).unwrap_or(sent_at));
    }
}

fn take_out(mut to: TcpStream, under_way: &UnderWay) {
    loop {
        let (arrives_at, piece) = under_way.pop();
        pause_until(arrives_at);
        let written = to.write_all(&piece);
        under_way.delivered(piece.len(), written.is_err());
        if piece.is_empty() || written.is_err() {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
    }
}

fn pause_until(time: Instant) {
    let rest = time.saturating_duration_since(Instant::now());
    if !rest.is_zero() {
        pause(rest);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(changed: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// What the link really does, measured: the rate one way, and the round trip of one byte.
pub fn proof(shape: Shape, bytes: usize) -> Result<(f64, Duration)> {
    let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let link = Link::new(shape);
    let port = link.open(echo.local_addr()?.port())?;
    // Takes everything and answers each byte of a first exchange, then one at the end.
    let other = thread::spawn(move || -> std::io::Result<()> {
        let (mut socket, _) = echo.accept()?;
        let mut buffer = vec![0; 256 << 10];
        for _ in 0..PINGS {
            socket.read_exact(&mut buffer[..1])?;
            socket.write_all(b"!")?;
        }
        let mut rest = bytes;
        while rest > 0 {
            rest -= socket.read(&mut buffer)?.max(1);
        }
        socket.write_all(b"!")
    });
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_nodelay(true)?;
    let mut answer = [0];
    // The first waits for the handshake as well.
    let mut round_trip = Duration::MAX;
    for _ in 0..PINGS {
        let begin = Instant::now();
        socket.write_all(b"?")?;
        socket.read_exact(&mut answer)?;
        round_trip = round_trip.min(begin.elapsed());
    }
    let begin = Instant::now();
    socket.write_all(&vec![0; bytes])?;
    socket.read_exact(&mut answer)?;
    let seconds = (begin.elapsed().saturating_sub(round_trip)).as_secs_f64();
    other
        .join()
        .map_err(|_| "the other side of the proof panicked")??;
    Ok((bytes as f64 * 8.0 / seconds, round_trip))
}

const PINGS: usize = 4;
