//! The further streams of a session: how they come to its agent, and how they are served.

use std::io;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::reading::{Shared, WAITING_ANSWERS, beat, receive, say, send};
use crate::buffer::Buffer;
use crate::link::frames::{self, FrameError, Outgoing};
use crate::link::join::{self, Door, Guest, JoinError};
use crate::link::process::CLUSTER_LINE;
use crate::link::stdio::{Ends, Input, Output};
use crate::wire::message::{
    Answer, Fault, FaultKind, JoinToken, RequestId, SILENT_AFTER, STREAMS_MAX,
};

/// What is said of the cluster by an agent that has none.
const FURTHER: &str = "as a further stream of another session";

/// Lets further streams come in, and serves them, as a task of `tasks`.
pub(super) fn admit(tasks: &mut JoinSet<()>, token: JoinToken, shared: &Arc<Shared>) {
    match Door::open(token) {
        Ok(door) => {
            let shared = Arc::clone(shared);
            tasks.spawn(async move { welcome(&door, &shared).await });
        }
        // Who wants to join is told that there is no session.
        Err(error) => tracing::warn!("further streams cannot come in: {error}"),
    }
}

async fn welcome(door: &Door, shared: &Arc<Shared>) {
    let mut guests = JoinSet::new();
    loop {
        let guest = door.next().await;
        while guests.try_join_next().is_some() {}
        // The first stream counts too.
        if guests.len() + 1 < STREAMS_MAX {
            guests.spawn(serve(guest, Arc::clone(shared)));
        } else {
            tracing::warn!("a further stream is refused: there are {STREAMS_MAX}");
        }
    }
}

/// Serves a further stream until its input ends.
async fn serve(guest: Guest, shared: Arc<Shared>) {
    let Guest {
        id,
        input,
        output,
        bond,
    } = guest;
    let (outgoing, to_write) = mpsc::channel::<Outgoing>(WAITING_ANSWERS);
    let joined = (Answer::Joined, Buffer::default(), None);
    send(&outgoing, id, Ok(joined)).await;
    let mut input = frames::impatient(input);
    frames::limit_silence(&mut input, SILENT_AFTER);
    let output = frames::unstuck(output, SILENT_AFTER);
    let ended = tokio::select! {
        received = receive(input, &shared, &outgoing, None) => received,
        written = frames::write_frames(output, to_write) => written.map_err(FrameError::from),
        () = beat(outgoing.clone()) => Ok(()),
    };
    if let Err(error) = ended {
        tracing::info!("a further stream ended: {error}");
    }
    drop(bond);
}

/// Hands the process's own streams over to the session with this token, and waits until it lets go of them.
/// If there is no such session, says so to the client.
pub(super) async fn join(
    id: RequestId,
    token: JoinToken,
    input: Input,
    mut output: Output,
) -> io::Result<()> {
    // From here on somebody else may read.
    drop(input);
    let handed = match Ends::standard() {
        Ok(ends) => join::hand_over(&token, id, ends).await,
        Err(error) => Err(error.into()),
    };
    match handed {
        Ok(handed) => {
            tracing::info!(target: "pg_reseed::agent::session", "{CLUSTER_LINE}{FURTHER}");
            drop(output);
            handed.released().await;
        }
        Err(error) => say(&mut output, id, fault(&error)).await?,
    }
    Ok(())
}

fn fault(error: &JoinError) -> Fault {
    let fault = Fault::new(FaultKind::Unfit, error.to_string());
    match error {
        JoinError::NoSession => fault.with_hint(
            "All streams must reach the same host, and the same container there, as the same user.",
        ),
        JoinError::NotTaken | JoinError::Io(_) => fault,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{DuplexStream, ReadHalf, WriteHalf};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::agent::options::ServeOptions;
    use crate::agent::serve::{ServeError, serve};
    use crate::digest::SessionKey;
    use crate::pg::conninfo::Conninfo;
    use crate::wire::codec;
    use crate::wire::message::{Compression, Purpose, Request};

    /// The client's end of a stream.
    struct Client {
        reader: ReadHalf<DuplexStream>,
        writer: WriteHalf<DuplexStream>,
    }

    impl Client {
        /// A stream to an agent of its own.
        fn new() -> (Self, JoinHandle<Result<(), ServeError>>) {
            let (here, there) = tokio::io::duplex(1 << 16);
            let (input, output) = tokio::io::split(there);
            let options = ServeOptions {
                is_stopped: false,
                dbname: Conninfo::default(),
                pgdata: None,
                passfile: None,
            };
            let streams: (Input, Output) = (Box::new(input), Box::new(output));
            let serving = tokio::spawn(serve(options, streams, std::future::pending()));
            let (reader, writer) = tokio::io::split(here);
            (Self { reader, writer }, serving)
        }

        async fn greet(&mut self) {
            frames::write_preamble(&mut self.writer).await.unwrap();
            frames::read_preamble(&mut self.reader).await.unwrap();
        }

        async fn ask(&mut self, id: RequestId, request: &Request) -> Answer {
            use tokio::io::AsyncWriteExt;

            let frame = codec::encode(id, request, 0).unwrap();
            self.writer.write_all(&frame).await.unwrap();
            let frame = frames::read_frame(&mut self.reader).await.unwrap().unwrap();
            assert_eq!(frame.id, id);
            codec::decode(&frame.head).unwrap()
        }
    }

    fn fault_of(answer: Answer) -> String {
        match answer {
            Answer::Fault(fault) => fault.message,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_token_that_nobody_knows_is_refused() {
        let (mut client, serving) = Client::new();
        client.greet().await;
        let token = JoinToken([77; 16]);
        let answer = client.ask(5, &Request::Join { token }).await;
        assert_eq!(fault_of(answer), "no session to join on this host");
        serving.await.unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_further_stream_is_for_reading_and_ends_with_the_first() {
        let mut token = JoinToken([78; 16]);
        token.0[..4].copy_from_slice(&std::process::id().to_le_bytes());
        let (mut first, serving) = Client::new();
        first.greet().await;
        let configure = Request::Configure {
            client_version: String::new(),
            key: SessionKey([0; 32]),
            compression: Compression::None,
            jobs: Some(1),
            max_rate: None,
            purpose: Purpose::Rebuild,
            join: Some(token),
        };
        let answer = first.ask(1, &configure).await;
        assert!(matches!(answer, Answer::Ready { .. }));

        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let mut here = tokio::net::UnixStream::from_std(here).unwrap();
        let handed = join::hand_over(&token, 9, Ends::socket(there)).await;
        let joined = frames::read_frame(&mut here).await.unwrap().unwrap();
        assert_eq!(joined.id, 9);
        assert!(matches!(codec::decode(&joined.head), Ok(Answer::Joined)));
        for (id, request, answer) in [
            (10, Request::Control, "reading is not allowed now"),
            (
                11,
                Request::Standbys,
                "a further stream takes requests that read, and no others",
            ),
            (
                12,
                Request::Join { token },
                "a further stream takes requests that read, and no others",
            ),
        ] {
            use tokio::io::AsyncWriteExt;

            let frame = codec::encode(id, &request, 0).unwrap();
            here.write_all(&frame).await.unwrap();
            let frame = frames::read_frame(&mut here).await.unwrap().unwrap();
            assert_eq!(frame.id, id);
            assert_eq!(fault_of(codec::decode(&frame.head).unwrap()), answer);
        }

        drop(first);
        assert!(frames::read_frame(&mut here).await.unwrap().is_none());
        let released = handed.unwrap().released();
        let soon = Duration::from_secs(5);
        tokio::time::timeout(soon, released).await.unwrap();
        serving.await.unwrap().unwrap();
    }
}
