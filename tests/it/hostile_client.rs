//! A client that does not mean well: it asks for what it must not have, in no order, or makes noise.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStdin, ChildStdout};
use std::time::Duration;

use pg_reseed::digest::{Digest, SessionKey};
use pg_reseed::event::Stage;
use pg_reseed::geometry::{BitSet, EntryId, RANGE_BYTES, Span};
use pg_reseed::manifest::{EntryKind, Listing, Manifest};
use pg_reseed::pg::lsn::Lsn;
use pg_reseed::pg::timeline::TimelineId;
use pg_reseed::wire::codec::{self, HEADER_BYTES, PREAMBLE_BYTES};
use pg_reseed::wire::message::{
    Answer, Compression, JoinToken, Notice, Purpose, Request, RequestId, SlotWish,
};
use pg_reseed::wire::{listing, payload};

use crate::cluster::{Cluster, DEADLINE, Dice, Scene, eventually, pause};
use crate::frames::{Raw, agent, read_frame, write_frame};

const KEY: SessionKey = SessionKey([1; 32]);

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
        self.ask_for_body(request, body).0
    }

    fn ask_for_body(&mut self, request: &Request, body: Vec<u8>) -> (Answer, Vec<u8>) {
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
                return (codec::decode(&frame.head).unwrap(), frame.body);
            }
        }
    }

    fn fault(&mut self, request: &Request) -> String {
        match self.ask(request, Vec::new()) {
            Answer::Fault(fault) => fault.message,
            other => panic!("{request:?} was answered: {other:?}"),
        }
    }

    /// The manifest of a small cluster.
    fn list(&mut self) -> Manifest {
        let (answer, body) = self.ask_for_body(&Request::Manifest { part: 0 }, Vec::new());
        let Answer::ManifestPart {
            parts: 1, packed, ..
        } = answer
        else {
            panic!("{answer:?}");
        };
        let list = payload::unpack(&packed, body.into(), &KEY, listing::PART_BYTES).unwrap();
        Listing::from_folders(listing::decode(list.bytes()).unwrap()).unwrap()
    }

    /// Begins a backup that makes a slot.
    fn begin(&mut self) {
        self.ask(&Client::configure(), Vec::new());
        self.ask(&Request::Facts { slot: None }, Vec::new());
        let bracket = Request::OpenBracket {
            label: "test".to_owned(),
            fast_checkpoint: true,
            slot: SlotWish::Create("mine".to_owned()),
        };
        let answer = self.ask(&bracket, Vec::new());
        assert!(matches!(answer, Answer::BracketOpened { .. }), "{answer:?}");
    }

    /// Sends a request without reading what comes.
    fn say(&mut self, request: &Request) -> io::Result<()> {
        let head = codec::encode(0, request, 0).unwrap()[HEADER_BYTES..].to_vec();
        let frame = Raw {
            id: 0,
            head,
            body: Vec::new(),
        };
        write_frame(self.input.as_mut().unwrap(), &frame)
    }

    fn configure() -> Request {
        Request::Configure {
            client_version: "0".to_owned(),
            key: KEY,
            compression: Compression::None,
            jobs: Some(1),
            max_rate: None,
            purpose: Purpose::Rebuild,
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

/// What the source's DBA sees of a run is the client's word, and does nothing but to be read.
#[test]
fn a_name_for_the_dba_is_cleaned_and_cut() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    let mut client = Client::new(&source);
    client.ask(&Client::configure(), Vec::new());
    client.ask(&Request::Facts { slot: None }, Vec::new());
    for (number, (target, name)) in (41..).zip([
        ("db1:/srv/pg/15".to_owned(), "pg_reseed db1:/srv/pg/15 41%"),
        (
            "x'; DROP TABLE t; --\\\u{1b}[2J\n\u{e4}".to_owned(),
            "pg_reseed x???DROP?TABLE?t??--??[2J?? 42%",
        ),
        (
            "y".repeat(100_000),
            "pg_reseed yyyyyyyyyyyyyyyy..yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy 43%",
        ),
    ]) {
        let shown = Request::Shown {
            target,
            stage: Stage::Compare,
            percent: Some(number),
        };
        client.say(&shown).unwrap();
        source.wait_sql(
            &format!(
                "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'pg_reseed%{number}\\%'"
            ),
            name,
        );
    }
    // Before the session has its configuration there is nothing to show or to limit.
    let shown = Request::Shown {
        target: String::new(),
        stage: Stage::Wal,
        percent: None,
    };
    Client::new(&source).fault(&shown);
    Client::new(&source).fault(&Request::Limit { max_rate: None });
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
    Client::new(&source).fault(&Request::Alive);
    let mut greedy = Client::configure();
    if let Request::Configure { compression, .. } = &mut greedy {
        // It takes much memory, at every worker.
        *compression = Compression::Zstd(22);
    }
    client.fault(&greedy);
    let mut client = Client::new(&source);
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
        &Request::Position,
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
    let ahead = |have| Request::WalAhead { have, slot: true };
    for request in [
        &Client::bracket(),
        &wal,
        &spans(0, 0, 8192),
        &manifest(7),
        &ahead(Lsn(0)),
    ] {
        client.fault(request);
    }
    let list = client.list();
    // What was not named, nobody has; so the slot does not move.
    let restart = "SELECT restart_lsn FROM pg_replication_slots";
    let restart_before = source.sql(restart);
    for have in [Lsn(0), Lsn(1 << 40), Lsn(u64::MAX)] {
        client.fault(&ahead(have));
    }
    assert_eq!(source.sql(restart), restart_before);
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
            noisy: BitSet::default(),
            hungry: true,
        },
    ] {
        client.fault(&request);
    }
    // Bodies that no question has; the last is a signature of blocks of no length, which are everywhere.
    let delta_of_a_file = || {
        let file = list.iter().find(|item| item.kind == EntryKind::File);
        delta(file.unwrap().id.0)
    };
    for (request, body) in [
        (spans(0, 0, 8192), vec![0; 16]),
        (delta_of_a_file(), vec![0; 1 << 20]),
        (delta_of_a_file(), [&b"rs\x016"[..], &[0; 12]].concat()),
    ] {
        let answer = client.ask(&request, body);
        assert!(matches!(answer, Answer::Fault(_)), "{answer:?}");
    }
    let control = client.ask(&Request::Control, Vec::new());
    assert!(matches!(control, Answer::Control), "{control:?}");
    assert!(matches!(
        client.ask(&Request::CloseBracket, Vec::new()),
        Answer::BracketClosed { .. }
    ));
    for request in [
        &Request::CloseBracket,
        &spans(0, 0, 8192),
        &manifest(0),
        // Each might make a slot.
        &Client::bracket(),
    ] {
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

/// Files and directories become links that lead out, after they were listed and before they are asked for.
#[test]
fn agent_follows_no_link_that_was_put_in_the_place_of_a_file() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    let outside = scene.folder("outside");
    for (place, word) in [(source.pgdata(), "inside "), (&outside, "secret ")] {
        fs::create_dir(place.join("folder")).unwrap();
        for name in ["file", "folder/file"] {
            fs::write(place.join(name), word.repeat(1000)).unwrap();
        }
    }
    let mut client = Client::new(&source);
    client.ask(&Client::configure(), Vec::new());
    client.ask(&Request::Facts { slot: None }, Vec::new());
    client.ask(&Client::bracket(), Vec::new());
    let list = client.list();
    let blocks = |name: &str| {
        let entry = list
            .iter()
            .find(|item| item.path().to_string() == name)
            .unwrap();
        Request::Blocks {
            spans: vec![Span {
                entry: entry.id,
                offset: 0,
                bytes: 8192,
            }],
            noisy: BitSet::default(),
            hungry: true,
        }
    };
    for name in ["file", "folder/file"] {
        let (_, body) = client.ask_for_body(&blocks(name), Vec::new());
        assert!(body.starts_with(b"inside inside"), "{name}: {body:?}");
    }
    for name in ["file", "folder"] {
        let place = source.pgdata().join(name);
        fs::rename(&place, source.home().join(format!("{name} of before"))).unwrap();
        symlink(outside.join(name), &place).unwrap();
    }
    for name in ["file", "folder/file"] {
        let said = client.fault(&blocks(name));
        assert!(said.contains("symbolic links"), "{name}: {said}");
    }
}

/// A client that is there and does nothing would hold back the source's WAL for ever.
#[test]
fn agent_ends_the_backup_of_a_client_that_falls_silent() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    let mut client = Client::new(&source);
    client.begin();
    let mut said = Vec::new();
    // Its words come to an end by themselves: the agent's input stays open.
    while let Ok(frame) = read_frame(&mut client.output) {
        said.push(codec::decode::<Notice>(&frame.head).unwrap());
    }
    let Some(Notice::BracketLost { reason }) = said.last() else {
        panic!("{said:?}");
    };
    assert!(reason.contains("heard nothing of the client"), "{reason}");
    assert_eq!(client.agent.wait().unwrap().code(), Some(1));
    assert_eq!(source.sql("SELECT count(*) FROM pg_replication_slots"), "0");
}

/// A client that asks for much and takes nothing, so that the agent's words are stuck, and says no more, or says
/// again and again that it is there.
fn takes_nothing(is_there: bool) {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    let mut client = Client::new(&source);
    client.begin();
    let list = client.list();
    let largest = list.iter().max_by_key(|item| item.size).unwrap();
    let bytes = u32::try_from(largest.size).unwrap().min(RANGE_BYTES);
    let blocks = Request::Blocks {
        spans: vec![Span {
            entry: largest.id,
            offset: 0,
            bytes,
        }],
        noisy: BitSet::default(),
        hungry: true,
    };
    for _ in 0..200 {
        client.say(&blocks).unwrap();
    }
    eventually("the agent has ended", 2 * DEADLINE, || {
        if is_there {
            let _ = client.say(&Request::Alive);
            pause(Duration::from_secs(1));
        }
        client.agent.try_wait().unwrap()
    });
    assert_eq!(source.sql("SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn agent_ends_the_backup_of_a_client_that_takes_nothing() {
    takes_nothing(true);
}

#[test]
fn agent_ends_the_backup_of_a_client_that_takes_nothing_and_is_silent() {
    takes_nothing(false);
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
            let (request, body) = match dice.below(14) {
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
                        noisy: BitSet::default(),
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
                12 => (
                    Request::WalAhead {
                        have: Lsn(dice.below(1 << 26)),
                        slot: dice.below(2) == 0,
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
