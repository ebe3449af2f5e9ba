//! A client that does not mean well: it asks for what it must not have, in no order, or makes noise.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout};

use pg_reseed::digest::{Digest, SessionKey};
use pg_reseed::geometry::{EntryId, Span};
use pg_reseed::pg::lsn::Lsn;
use pg_reseed::pg::timeline::TimelineId;
use pg_reseed::wire::codec::{self, HEADER_BYTES, PREAMBLE_BYTES};
use pg_reseed::wire::message::{Answer, Compression, JoinToken, Request, RequestId, SlotWish};

use crate::cluster::{Cluster, Dice, Scene};
use crate::frames::{Raw, agent, read_frame, write_frame};

/// A client that says what it likes.
struct Client {
    agent: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    next: RequestId,
}

impl Client {
    fn new(source: &Cluster) -> Self {
        let (agent, mut input, mut output) = agent(source);
        input.write_all(&codec::preamble()).unwrap();
        let mut preamble = [0; PREAMBLE_BYTES];
        output.read_exact(&mut preamble).unwrap();
        Self {
            agent,
            input: Some(input),
            output,
            next: 0,
        }
    }

    fn ask(&mut self, request: &Request, body: Vec<u8>) -> Answer {
        self.next += 1;
        let head = codec::encode(self.next, request, 0).unwrap()[HEADER_BYTES..].to_vec();
        let frame = Raw {
            id: self.next,
            head,
            body,
        };
        write_frame(self.input.as_mut().unwrap(), &frame).unwrap();
        loop {
            let frame = read_frame(&mut self.output).unwrap();
            if frame.id == self.next {
                return codec::decode(&frame.head).unwrap();
            }
        }
    }

    fn fault(&mut self, request: &Request) -> String {
        match self.ask(request, Vec::new()) {
            Answer::Fault(fault) => fault.message,
            other => panic!("{request:?} was answered: {other:?}"),
        }
    }

    fn configure() -> Request {
        Request::Configure {
            client_version: "0".to_owned(),
            key: SessionKey([1; 32]),
            compression: Compression::None,
            jobs: 1,
            max_rate: None,
            survey: false,
            join: None,
        }
    }

    fn bracket() -> Request {
        Request::OpenBracket {
            label: "test".to_owned(),
            fast_checkpoint: true,
            slot: SlotWish::Temporary,
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.agent.wait();
    }
}

fn spans(entry: u32, offset: u64, bytes: u32) -> Request {
    Request::Digests {
        spans: vec![Span {
            entry: EntryId(entry),
            offset,
            bytes,
        }],
        have: Digest([0; 16]),
    }
}

#[test]
fn agent_answers_nothing_out_of_order_and_nothing_that_is_not_listed() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    let mut client = Client::new(&source);
    let wal = Request::WalFiles {
        timeline: TimelineId(1),
        from: Lsn(0),
        to: Lsn(u64::MAX),
    };
    let delta = |entry| Request::Delta {
        entry: EntryId(entry),
        have: Digest([0; 16]),
    };
    let join = Request::Join {
        token: JoinToken([0; 16]),
    };
    let manifest = |part| Request::Manifest { part };
    Client::new(&source).fault(&Request::Facts { slot: None });
    assert!(matches!(
        client.ask(&Client::configure(), Vec::new()),
        Answer::Ready { .. }
    ));
    for request in [
        &Client::configure(),
        &Client::bracket(),
        &manifest(0),
        &wal,
        &Request::CloseBracket,
        &Request::Standbys,
        &Request::Configuration,
        &Request::Control,
        &spans(0, 0, 8192),
        &delta(0),
        &join,
    ] {
        client.fault(request);
    }
    assert!(matches!(
        client.ask(&Request::Facts { slot: None }, Vec::new()),
        Answer::Facts(_)
    ));
    for request in [
        &Request::Facts { slot: None },
        &manifest(0),
        &wal,
        &Request::CloseBracket,
    ] {
        client.fault(request);
    }
    assert!(matches!(
        client.ask(&Client::bracket(), Vec::new()),
        Answer::BracketOpened { .. }
    ));
    for request in [&Client::bracket(), &wal, &spans(0, 0, 8192), &manifest(7)] {
        client.fault(request);
    }
    let Answer::ManifestPart { .. } = client.ask(&manifest(0), Vec::new()) else {
        panic!("no manifest");
    };
    // Numbers that the list does not have, directories, and parts that no file can have.
    for request in [
        spans(u32::MAX, 0, 8192),
        spans(10_000_000, 0, 8192),
        spans(0, u64::MAX, 8192),
        spans(0, 0, u32::MAX),
        delta(u32::MAX),
        manifest(u32::MAX),
        Request::Blocks {
            spans: vec![
                Span {
                    entry: EntryId(0),
                    offset: 0,
                    bytes: 4 << 20,
                };
                5000
            ],
            hungry: true,
        },
    ] {
        client.fault(&request);
    }
    let control = client.ask(&Request::Control, Vec::new());
    assert!(matches!(control, Answer::Control), "{control:?}");
    assert!(matches!(
        client.ask(&Request::CloseBracket, Vec::new()),
        Answer::BracketClosed { .. }
    ));
    for request in [&Request::CloseBracket, &spans(0, 0, 8192), &manifest(0)] {
        client.fault(request);
    }
    client.fault(&wal);
    assert!(matches!(
        client.ask(&Request::Bye, Vec::new()),
        Answer::Farewell
    ));
    drop(client);
    source.wait_sql("SELECT count(*) FROM pg_replication_slots", "0");
}

/// Lawful messages in any order: each is answered, and the agent tidies up.
#[test]
fn agent_survives_lawful_messages_in_any_order() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    let mut dice = Dice::new("lawful_messages_in_any_order");
    for _ in 0..25 {
        let mut client = Client::new(&source);
        // Most first messages end the session's beginning; this one opens it.
        client.ask(&Client::configure(), Vec::new());
        for _ in 0..25 {
            let number = u32::try_from(dice.below(2000)).unwrap();
            let (request, body) = match dice.below(13) {
                0 => (Client::configure(), 0),
                1 | 2 => (Request::Facts { slot: None }, 0),
                3 => (Client::bracket(), 0),
                4 | 5 => (Request::Manifest { part: number % 3 }, 0),
                6 => (spans(number, 0, 8192), 0),
                7 => (
                    Request::Blocks {
                        spans: vec![Span {
                            entry: EntryId(number),
                            offset: 0,
                            bytes: 8192,
                        }],
                        hungry: true,
                    },
                    16,
                ),
                8 => (
                    Request::Delta {
                        entry: EntryId(number),
                        have: Digest([3; 16]),
                    },
                    usize::try_from(dice.below(100)).unwrap(),
                ),
                9 => (Request::Control, 0),
                10 => (Request::CloseBracket, 0),
                11 => (
                    Request::WalFiles {
                        timeline: TimelineId(1),
                        from: Lsn(dice.below(1 << 26)),
                        to: Lsn(dice.below(1 << 26)),
                    },
                    0,
                ),
                _ => (Request::Standbys, 0),
            };
            client.ask(&request, vec![9; body]);
        }
        drop(client.input.take());
        assert!(client.agent.wait().unwrap().success());
    }
    source.wait_sql("SELECT count(*) FROM pg_replication_slots", "0");
}

/// What does not keep to the protocol is hung up on, whatever it is.
#[test]
fn agent_hangs_up_on_noise() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    for noise in [
        &b"SSH-2.0-OpenSSH\r\n"[..],
        &[0; 64],
        &[codec::preamble().to_vec(), vec![0xff; 12]].concat(),
        &[
            codec::preamble().to_vec(),
            vec![1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        ]
        .concat(),
    ] {
        let (mut agent, mut input, mut output) = agent(&source);
        let _ = input.write_all(noise);
        let mut said = Vec::new();
        output.read_to_end(&mut said).unwrap();
        let status = agent.wait().unwrap();
        assert_eq!(status.code(), Some(1), "{noise:?}");
    }
}
