//! An agent that does not mean well: answers of an honest one are twisted on their way to the client.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};

use pg_reseed::digest::SessionKey;
use pg_reseed::facts::{FileIdentity, Tablespace};
use pg_reseed::manifest::{EntryKind, Folder, Listing};
use pg_reseed::wire::codec::{self, HEADER_BYTES, PREAMBLE_BYTES};
use pg_reseed::wire::message::{Answer, Compression, Request, WalFile};
use pg_reseed::wire::{listing, payload};

use crate::cluster::{Cluster, Pair, Scene};
use crate::frames::{Raw, agent, read_frame, write_frame};
use crate::oracle::{assert_untouched, tree};

/// An answer that can be twisted.
struct Twisted<'a> {
    key: SessionKey,
    answer: Answer,
    body: Vec<u8>,
    /// Sent instead of the whole frame.
    raw: Option<Vec<u8>>,
    source: &'a str,
}

/// Stands between a client and an agent of `source`; returns what to say for `--from`.
fn between(source: &Cluster, mut twist: impl FnMut(&mut Twisted) + Send + 'static) -> String {
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

/// A list of files in place of the agent's.
fn replace_manifest(twisted: &mut Twisted, encoded: Vec<u8>) {
    if let Answer::ManifestPart { packed, .. } = &mut twisted.answer {
        let (new, body) = payload::pack(encoded.into(), &twisted.key, Compression::None);
        *packed = new;
        twisted.body = body.to_vec();
    }
}

/// The agent's list with some bytes of it replaced by as many others.
fn twist_manifest(twisted: &mut Twisted, old: &[u8], new: &[u8]) {
    assert_eq!(old.len(), new.len());
    let Answer::ManifestPart { packed, .. } = &twisted.answer else {
        return;
    };
    let body = std::mem::take(&mut twisted.body);
    let bytes = payload::unpack(packed, body.into(), &twisted.key, listing::PART_BYTES).unwrap();
    let mut bytes = bytes.bytes().to_vec();
    let at = bytes.windows(old.len()).position(|window| window == old);
    let at = at.expect("the list has that name");
    bytes[at..at + old.len()].copy_from_slice(new);
    replace_manifest(twisted, bytes);
}

/// Blocks of 64 MiB of zeros, packed small, that are announced as so many bytes.
fn bomb(twisted: &mut Twisted, announced: u32) {
    if let Answer::Blocks { packed, .. } = &mut twisted.answer {
        let zeros = vec![0; 64 << 20];
        let (bomb, body) = payload::pack(zeros.into(), &twisted.key, Compression::Zstd(1));
        assert!(body.len() < 1 << 20);
        *packed = bomb;
        packed.bytes = announced;
        twisted.body = body.to_vec();
    }
}

/// A list of one file.
fn manifest_of(path: &str, size: u64) -> Vec<u8> {
    let (directory, name) = path.rsplit_once('/').unwrap();
    let mut folders = Vec::new();
    let mut top = Folder::new(None);
    top.push(directory.as_bytes(), EntryKind::Directory, 0)
        .unwrap();
    folders.push(top);
    let directory = pg_reseed::path::RelPath::parse(directory.as_bytes()).unwrap();
    let mut folder = Folder::new(Some(directory));
    folder.push(name.as_bytes(), EntryKind::File, size).unwrap();
    folders.push(folder);
    let list = Listing::from_folders(folders).unwrap();
    listing::encode(list.iter())
}

fn tablespace(location: &[u8]) -> Tablespace {
    Tablespace {
        oid: 99_999,
        location: Some(location.to_vec()),
        identity: Some(FileIdentity {
            device: 1,
            inode: 1,
        }),
    }
}

type Twist = fn(&mut Twisted);

/// What a hostile agent may try: a name, the twist, the exit status that it must come to, words of the message.
const ATTACKS: &[(&str, Twist, i32, &str)] = &[
    (
        "a name that leads out",
        |t| twist_manifest(t, b"PG_VERSION", b"../../evil"),
        1,
        "manifest",
    ),
    (
        "a name that is a way up",
        // A directory, by the encoding of lists: its length and kind, what it shares, its name.
        |t| replace_manifest(t, vec![2 << 2 | 2, 0, b'.', b'.']),
        1,
        "manifest",
    ),
    (
        "an absolute name",
        |t| twist_manifest(t, b"PG_VERSION", b"/tmp/evil1"),
        1,
        "manifest",
    ),
    (
        "a name with a NUL",
        |t| twist_manifest(t, b"PG_VERSION", b"PG_VERSIO\0"),
        1,
        "manifest",
    ),
    (
        "a name twice",
        |t| {
            let mut twice = manifest_of("base/1", 8192);
            let again = twice.clone();
            twice.extend(again);
            replace_manifest(t, twice);
        },
        1,
        "manifest",
    ),
    (
        "a list that is no list",
        |t| replace_manifest(t, vec![0xff; 1000]),
        1,
        "manifest",
    ),
    (
        "a list that is not the one announced",
        |t| {
            if matches!(t.answer, Answer::ManifestPart { .. }) {
                t.body.push(0);
            }
        },
        1,
        "manifest",
    ),
    (
        "more files than parts can hold",
        |t| {
            if let Answer::ManifestPart { parts, .. } = &mut t.answer {
                *parts = u32::MAX;
            }
        },
        1,
        "manifest",
    ),
    (
        "parts without an end",
        |t| {
            if let Answer::ManifestPart { parts, .. } = &mut t.answer {
                *parts = listing::PARTS_MAX;
            }
        },
        1,
        "has no part",
    ),
    (
        "a file larger than the disk",
        |t| replace_manifest(t, manifest_of("base/1", 1 << 60)),
        3,
        "room",
    ),
    (
        "a size that overflows",
        |t| replace_manifest(t, manifest_of("base/1", u64::MAX - 8191)),
        3,
        "room",
    ),
    (
        "a tablespace that no fact told of",
        |t| {
            if let Answer::ManifestPart { end: Some(end), .. } = &mut t.answer {
                end.tablespaces.push(tablespace(b"/tmp/evil"));
            }
        },
        3,
        "tablespace",
    ),
    (
        "a tablespace in a relative place",
        |t| {
            if let Answer::Facts(facts) = &mut t.answer {
                facts.tablespaces.push(tablespace(b"../../evil"));
            }
        },
        3,
        "absolute",
    ),
    (
        "a tablespace in the system's directories",
        |t| {
            if let Answer::Facts(facts) = &mut t.answer {
                facts.tablespaces.push(tablespace(b"/etc"));
            }
        },
        3,
        "\"/etc\"",
    ),
    (
        "segments without a size",
        |t| {
            if let Answer::Facts(facts) = &mut t.answer {
                facts.control.wal_segment_bytes = 0;
            }
        },
        1,
        "facts",
    ),
    (
        "a cluster other than the one that the standby will reach",
        |t| {
            if let Answer::Facts(facts) = &mut t.answer {
                facts.control.system_identifier += 1;
            }
        },
        3,
        "system identifier",
    ),
    (
        "an answer to another question",
        |t| {
            if matches!(t.answer, Answer::Facts(_)) {
                t.answer = Answer::Farewell;
            }
        },
        1,
        "does not fit the question",
    ),
    (
        "a message that is too long",
        |t| {
            if matches!(t.answer, Answer::Facts(_)) {
                t.raw = Some([[1, 0, 0, 0], [0xff; 4], [0; 4]].concat());
            }
        },
        1,
        "longer than",
    ),
    (
        "noise",
        |t| {
            if matches!(t.answer, Answer::Facts(_)) {
                t.raw = Some(
                    [
                        [2, 0, 0, 0],
                        [9, 0, 0, 0],
                        [0; 4],
                        [0xff; 4],
                        [0xff; 4],
                        [0xff; 4],
                    ]
                    .concat(),
                );
            }
        },
        1,
        "does not decode",
    ),
    (
        "a block with a wrong byte",
        |t| {
            if matches!(t.answer, Answer::Blocks { .. })
                && let Some(byte) = t.body.last_mut()
            {
                *byte ^= 1;
            }
        },
        4,
        "",
    ),
    (
        "blocks that unpack to more than a range has",
        |t| bomb(t, 64 << 20),
        4,
        "announced 67108864 bytes where at most",
    ),
    (
        "blocks that unpack to more than was announced",
        |t| bomb(t, 8192),
        4,
        "do not unpack to the announced 8192 bytes",
    ),
    (
        "digests of another number of extents",
        |t| {
            if matches!(t.answer, Answer::Digests { .. }) && !t.body.is_empty() {
                t.body.truncate(t.body.len() - 1);
            }
        },
        4,
        "",
    ),
    (
        "a segment that leads out",
        |t| {
            if let Answer::WalFiles { files } = &mut t.answer {
                "../../evil".clone_into(&mut files[0].name);
            }
        },
        4,
        "named a WAL file",
    ),
    (
        "a segment in the place of the control file",
        |t| {
            if let Answer::WalFiles { files } = &mut t.answer {
                "../global/pg_control".clone_into(&mut files[0].name);
            }
        },
        4,
        "named a WAL file",
    ),
    (
        "a segment too few",
        |t| {
            if let Answer::WalFiles { files } = &mut t.answer {
                files.retain(|file: &WalFile| file.name.contains("history"));
            }
        },
        4,
        "did not name WAL segment",
    ),
    (
        "a label that is none",
        |t| {
            if let Answer::BracketClosed { backup_label, .. } = &mut t.answer {
                *backup_label = b"START WAL LOCATION: nowhere".to_vec();
            }
        },
        4,
        "label",
    ),
    (
        "a control file that is none",
        |t| {
            if matches!(t.answer, Answer::Control) {
                t.body.fill(7);
            }
        },
        4,
        "",
    ),
];

#[test]
fn answers_of_a_hostile_agent_do_no_harm() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let before = tree(pair.old.pgdata());
    let mut is_whole = true;
    let mut failures = Vec::new();
    for (name, twist, status, words) in ATTACKS {
        let from = between(&pair.new, twist);
        let said = pair_rebuild(&pair, &from).run();
        if said.code() != *status || !said.stderr.contains(words) {
            failures.push(format!("{name}: wanted {status} and \"{words}\"\n{said}"));
        }
        if matches!(status, 1 | 3) && is_whole {
            assert_untouched(&before, pair.old.pgdata());
        }
        is_whole &= matches!(status, 1 | 3);
        for place in ["/tmp/evil", "/tmp/evil1", "/etc/evil"] {
            assert!(!std::path::Path::new(place).exists(), "{name}");
        }
        let evil = done_find(scene.path());
        assert!(evil.is_empty(), "{name}: {evil}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // Nothing of it is left when an honest agent comes.
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
}

fn pair_rebuild(pair: &Pair, from: &str) -> crate::cluster::Rebuild {
    crate::cluster::Rebuild::bare(&pair.old, &pair.new)
        .args(["--from", from, "--streams", "1", "--progress", "none"])
        .args(["--no-login-check", "-Z", "none"])
}

fn done_find(folder: &std::path::Path) -> String {
    crate::cluster::done(Command::new("find").arg(folder).args(["-name", "*evil*"]))
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
