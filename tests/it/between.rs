//! A go-between that may twist what an agent says, and what a client makes of an agent that fails it at the end.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use pg_reseed::digest::SessionKey;
use pg_reseed::wire::codec::{self, HEADER_BYTES, PREAMBLE_BYTES};
use pg_reseed::wire::message::{Answer, Request, RequestId};

use crate::cluster::{Cluster, Pair, Rebuild, Scene};
use crate::frames::{Raw, agent, read_frame, write_frame};

/// An answer that can be twisted.
pub struct Twisted<'a> {
    pub id: RequestId,
    pub key: SessionKey,
    pub answer: Answer,
    pub body: Vec<u8>,
    /// Sent instead of the whole frame.
    pub raw: Option<Vec<u8>>,
    pub source: &'a str,
}

impl Twisted<'_> {
    /// The frame, to be sent some other time.
    pub fn frame(&self) -> Vec<u8> {
        let head = codec::encode(self.id, &self.answer, 0).unwrap();
        let frame = Raw {
            id: self.id,
            head: head[HEADER_BYTES..].to_vec(),
            body: self.body.clone(),
        };
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &frame).unwrap();
        bytes
    }
}

/// Stands between a client and an agent of `source`; returns what to say for `--from`.
pub fn between(source: &Cluster, mut twist: impl FnMut(&mut Twisted) + Send + 'static) -> String {
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = door.local_addr().unwrap().port();
    let (mut agent, mut to_agent, mut from_agent) = agent(source);
    let pgdata = source.pgdata().display().to_string();
    std::thread::spawn(move || {
        let (mut client, _) = door.accept().unwrap();
        let key = Arc::new(Mutex::new(SessionKey([0; 32])));
        let asking = std::thread::spawn({
            let (mut client, key) = (client.try_clone().unwrap(), Arc::clone(&key));
            move || {
                let mut preamble = [0; PREAMBLE_BYTES];
                client.read_exact(&mut preamble)?;
                to_agent.write_all(&preamble)?;
                loop {
                    let frame = read_frame(&mut client)?;
                    if let Ok(Request::Configure { key: chosen, .. }) = codec::decode(&frame.head) {
                        *key.lock().unwrap() = chosen;
                    }
                    write_frame(&mut to_agent, &frame)?;
                }
                #[expect(unreachable_code, reason = "it gives the closure its type")]
                io::Result::Ok(())
            }
        });
        let mut answering = || -> io::Result<()> {
            let mut preamble = [0; PREAMBLE_BYTES];
            from_agent.read_exact(&mut preamble)?;
            client.write_all(&preamble)?;
            loop {
                let frame = read_frame(&mut from_agent)?;
                let frame = if frame.id == 0 {
                    frame
                } else {
                    let mut twisted = Twisted {
                        id: frame.id,
                        key: *key.lock().unwrap(),
                        answer: codec::decode(&frame.head).unwrap(),
                        body: frame.body,
                        raw: None,
                        source: &pgdata,
                    };
                    twist(&mut twisted);
                    if let Some(raw) = twisted.raw {
                        client.write_all(&raw)?;
                        client.flush()?;
                        continue;
                    }
                    let head = codec::encode(frame.id, &twisted.answer, 0).unwrap();
                    Raw {
                        id: frame.id,
                        head: head[HEADER_BYTES..].to_vec(),
                        body: twisted.body,
                    }
                };
                write_frame(&mut client, &frame)?;
            }
        };
        // Ends with an error when one of both hangs up.
        let _ = answering();
        let _ = client.shutdown(std::net::Shutdown::Both);
        let _ = asking.join();
        let _ = agent.wait();
    });
    format!("exec:bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}; cat <&3 & cat >&3; kill $!'")
}

/// A rebuild by a go-between.
pub fn pair_rebuild(pair: &Pair, from: &str) -> Rebuild {
    Rebuild::bare(&pair.old, &pair.new)
        .args(["--from", from, "--streams", "1", "--progress", "none"])
        .args(["--no-login-check", "-Z", "none"])
}

/// The agent is lost before it has confirmed the end: whether the slot that it made is there, nobody knows.
#[test]
fn slot_that_may_be_gone_is_told_at_the_end() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let from = between(&pair.new, |twisted| {
        if matches!(twisted.answer, Answer::Farewell) {
            twisted.raw = Some(vec![0xff; 64]);
        }
    });
    let said = pair_rebuild(&pair, &from)
        .args(["--slot", "mine", "--create-slot"])
        .fail(6);
    let told = "It may have dropped replication slot \"mine\"";
    assert!(said.stderr.contains(told), "{said}");
    // The target is whole.
    pair.new.wait_sql(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'mine'",
        "1",
    );
    pair.old.start();
    pair.check_equal();
}

/// The agent says that it is there, and no more: `--wait` ends that, too.
#[test]
fn agent_that_does_not_answer_is_not_waited_for_when_the_standby_starts() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let from = between(&pair.new, |twisted| {
        if matches!(twisted.answer, Answer::Standbys { .. }) {
            twisted.raw = Some(Vec::new());
        }
    });
    let said = pair_rebuild(&pair, &from)
        .args(["--start", "--wait", "2"])
        .fail(6);
    assert!(said.stderr.contains("did not answer within 2 s"), "{said}");
    assert!(said.stderr.contains("was not started"), "{said}");
}

/// The twist that changes nothing: otherwise all the others prove nothing.
#[test]
fn a_go_between_that_twists_nothing_is_not_noticed() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let from = between(&pair.new, |twisted| {
        if let Answer::Facts(facts) = &twisted.answer {
            assert_eq!(facts.data_directory, twisted.source.as_bytes());
        }
    });
    pair_rebuild(&pair, &from).arg("--start").succeed();
    pair.check_equal();
}
