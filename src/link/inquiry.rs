//! How a run is asked how far it is. It answers at an abstract Unix-domain socket that is named after its target, so that
//! nothing stays behind of one that is killed: whoever connects gets one line of JSON, and the connection ends.
//!
//! Names in that space belong to nobody: anybody on the host may have taken one before. So there are several for each
//! target, a run answers only its own user and root, and who asks looks at whose the other side is (`SO_PEERCRED`).

use std::io;
use std::time::Duration;

use rustix::process::geteuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::digest::SessionKey;
use crate::facts::FileIdentity;

/// Runs on one target that can be asked at a time: a rebuild, and verifications beside it.
const ROOMS: usize = 4;

/// The longest answer that is read.
const ANSWER_MAX: u64 = 1024 * 1024;

/// How long whoever asks may take to read the answer.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// How long nothing is accepted after that has failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What a target is called on this host, whichever path leads to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// Of a directory that is there.
    #[must_use]
    pub fn of(directory: FileIdentity) -> Self {
        let FileIdentity { device, inode } = directory;
        Self(format!("\0pg_reseed-run-{device:x}-{inode:x}"))
    }

    /// Of one that is not there yet: where its path leads from the nearest directory that is.
    #[must_use]
    pub fn of_missing(above: FileIdentity, rest: &[u8]) -> Self {
        let FileIdentity { device, inode } = above;
        // A socket's name has room for 107 bytes.
        let rest = SessionKey(*b"a target that is not there yet..").digest(rest);
        let rest: String = rest.0.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("\0pg_reseed-run-{device:x}-{inode:x}-{rest}"))
    }

    fn room(&self, number: usize) -> String {
        format!("{}.{number}", self.0)
    }
}

/// Where a run can be asked.
#[derive(Debug)]
pub struct Desk {
    listener: UnixListener,
}

/// Somebody who may know.
#[derive(Debug)]
pub struct Asker(UnixStream);

impl Desk {
    /// Takes the first name that is free; `None` when all are taken. Must be called inside the runtime.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(name: &Name) -> io::Result<Option<Self>> {
        for number in 0..ROOMS {
            match UnixListener::bind(name.room(number)) {
                Ok(listener) => return Ok(Some(Self { listener })),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Waits for somebody who may know.
    pub async fn next(&self) -> Asker {
        loop {
            match self.listener.accept().await {
                Ok((connection, _)) if may_know(&connection) => return Asker(connection),
                Ok(_) => tracing::info!("another user asks how far the run is: it is not told"),
                Err(error) => {
                    tracing::info!("nobody can ask how far the run is: {error}");
                    // No descriptor is left, perhaps; that may pass.
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }
}

impl Asker {
    /// Tells the answer. Whoever does not take it has gone.
    pub async fn tell(self, line: &str) {
        let Self(mut connection) = self;
        let _ = timeout(TAKEN_WITHIN, connection.write_all(line.as_bytes())).await;
    }
}

/// The user of the run and root may.
fn may_know(connection: &UnixStream) -> bool {
    connection
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == geteuid().as_raw() || peer.uid() == 0)
}

/// A run that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `None` when it is in another PID namespace, or takes no connection any more.
    pub pid: Option<u32>,
    pub heard: Heard,
}

/// What a run says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Told(String),
    /// Nothing in time: it is suspended, or hangs.
    Nothing,
    /// It is this user's, and does not answer others.
    OfUser(u32),
}

/// Asks all runs on a target, at most for so long. Whoever listens there and is neither the target's `owner` nor this
/// user is no run.
pub async fn ask(name: &Name, owner: Option<u32>, within: Duration) -> Vec<Peer> {
    let rooms = (0..ROOMS).map(|number| ask_one(name.room(number), owner, within));
    let answers = futures_util::future::join_all(rooms).await;
    answers.into_iter().flatten().collect()
}

async fn ask_one(place: String, owner: Option<u32>, within: Duration) -> Option<Peer> {
    let mut connection = match UnixStream::connect(place).await {
        Ok(connection) => connection,
        // More ask than it takes: somebody is there, and does not answer.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Some(Peer {
                pid: None,
                heard: Heard::Nothing,
            });
        }
        Err(_) => return None,
    };
    // Of who listens, as it was when it began to.
    let peer = connection.peer_cred().ok()?;
    let own = geteuid().as_raw();
    if peer.uid() != own && owner != Some(peer.uid()) {
        tracing::info!("user {} listens in a run's place", peer.uid());
        return None;
    }
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    let pid = pid.filter(|pid| *pid > 0);
    if peer.uid() != own && own != 0 {
        let heard = Heard::OfUser(peer.uid());
        return Some(Peer { pid, heard });
    }
    let mut text = String::new();
    let mut limited = (&mut connection).take(ANSWER_MAX);
    let heard = match timeout(within, limited.read_to_string(&mut text)).await {
        Ok(Ok(length)) if length > 0 => Heard::Told(text),
        // It has just ended.
        Ok(_) => return None,
        Err(_) => Heard::Nothing,
    };
    Some(Peer { pid, heard })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_millis(100);

    fn name(inode: u64) -> Name {
        Name::of(FileIdentity {
            device: u64::from(std::process::id()),
            inode,
        })
    }

    #[tokio::test]
    async fn several_runs_on_one_target_are_asked_and_those_that_ended_are_not() {
        let name = name(1);
        assert_eq!(ask(&name, None, WITHIN).await, []);
        let first = Desk::open(&name).unwrap().unwrap();
        let second = Desk::open(&name).unwrap().unwrap();
        let tell = async |desk: &Desk, line: &str| desk.next().await.tell(line).await;
        let (answers, (), ()) = tokio::join!(
            ask(&name, None, Duration::from_secs(10)),
            tell(&first, "one"),
            tell(&second, "two")
        );
        let told = |line: &str| Peer {
            pid: Some(std::process::id()),
            heard: Heard::Told(line.to_owned()),
        };
        assert_eq!(answers, [told("one"), told("two")]);
        drop(first);
        // It accepts, as a run that is suspended, and says nothing.
        let silent = ask(&name, None, WITHIN).await;
        assert_eq!(silent.len(), 1);
        assert_eq!(silent[0].heard, Heard::Nothing);
        assert_eq!(silent[0].pid, Some(std::process::id()));
        drop(second);
        assert_eq!(ask(&name, None, WITHIN).await, []);
    }

    #[tokio::test]
    async fn there_is_an_end_of_rooms() {
        let name = name(2);
        let open = || Desk::open(&name).unwrap();
        let desks: Vec<_> = std::iter::from_fn(open).collect();
        assert_eq!(desks.len(), ROOMS);
    }

    #[test]
    fn names_fit_into_an_address() {
        let far = FileIdentity {
            device: u64::MAX,
            inode: u64::MAX,
        };
        let names = [Name::of(far), Name::of_missing(far, &[b'x'; 5000])];
        for name in &names {
            assert!(name.room(ROOMS).len() <= 107, "{name:?}");
        }
        assert_ne!(Name::of_missing(far, b"a"), Name::of_missing(far, b"b"));
    }
}
