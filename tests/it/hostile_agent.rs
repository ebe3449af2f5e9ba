//! An agent that does not mean well: answers of an honest one are twisted on their way to the client.

use std::process::Command;

use pg_reseed::facts::{FileIdentity, Tablespace};
use pg_reseed::geometry::EntryId;
use pg_reseed::manifest::{EntryKind, Folder, Listing};

use pg_reseed::wire::message::{Answer, Compression, DamagedBlock, Fault, FaultKind, WalFile};
use pg_reseed::wire::{listing, payload};

use crate::between::{Twisted, between, pair_rebuild};
use crate::cluster::{Pair, Scene};
use crate::oracle::{assert_untouched, tree};

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
pub fn bomb(twisted: &mut Twisted, announced: u32) {
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
        "a file in the place of a directory that has entries",
        |t| {
            let mut top = Folder::new(None);
            top.push(b"base", EntryKind::File, 0).unwrap();
            let base = pg_reseed::path::RelPath::parse(b"base").unwrap();
            let mut folder = Folder::new(Some(base));
            folder.push(b"1", EntryKind::File, 0).unwrap();
            let list = Listing::from_folders(vec![top, folder]).unwrap();
            replace_manifest(t, listing::encode(list.iter()));
        },
        1,
        "manifest",
    ),
    (
        "entries of a directory that is not there",
        |t| {
            let base = pg_reseed::path::RelPath::parse(b"base/1").unwrap();
            let mut folder = Folder::new(Some(base));
            folder.push(b"1", EntryKind::File, 0).unwrap();
            let list = Listing::from_folders(vec![folder]).unwrap();
            replace_manifest(t, listing::encode(list.iter()));
        },
        1,
        "manifest",
    ),
    (
        "the control file under another name, where case is not told apart",
        |t| replace_manifest(t, manifest_of("Global/pg_control", 8192)),
        1,
        "but for upper and lower case",
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
        "a fault with words that a terminal obeys",
        |t| {
            if matches!(t.answer, Answer::Facts(_)) {
                let words = "\x1b]52;c;eA==\x07\npg_reseed: all is well";
                t.answer = Answer::Fault(Fault::new(FaultKind::Server, words).with_hint(words));
            }
        },
        1,
        "]52;c;eA==\u{fffd} pg_reseed: all is well",
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
        "damaged pages that nobody asked for",
        |t| {
            if let Answer::Blocks { damaged, .. } = &mut t.answer {
                let page = DamagedBlock {
                    entry: EntryId(0),
                    block: 0,
                    expected_checksum: 1,
                    actual_checksum: 2,
                };
                damaged.resize(100_000, page);
            }
        },
        4,
        "does not fit",
    ),
    (
        "patches of blocks that are not to be patched",
        |t| {
            if let Answer::Blocks {
                present, patched, ..
            } = &mut t.answer
            {
                patched.clone_from(present);
            }
        },
        4,
        "does not fit",
    ),
    (
        "patches longer than the answer",
        |t| {
            if let Answer::Blocks { patch_bytes, .. } = &mut t.answer {
                *patch_bytes = u32::MAX;
            }
        },
        4,
        "does not fit",
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
        "files that no data directory is without are gone",
        |t| {
            if let Answer::Delta { gone, .. } = &mut t.answer {
                *gone = true;
            }
        },
        4,
        "no data directory is without it",
    ),
    (
        "files that have grown without measure",
        |t| {
            if let Answer::Delta { bytes, .. } = &mut t.answer {
                *bytes = u32::MAX;
            }
        },
        4,
        "does not fit",
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
        "a history file that fills the disk",
        |t| {
            if let Answer::WalFiles { files } = &mut t.answer {
                files.push(WalFile {
                    entry: EntryId(0),
                    name: "00000009.history".to_owned(),
                    bytes: 1 << 40,
                });
            }
        },
        4,
        "named a WAL file \"00000009.history\"",
    ),
    (
        "a segment that the backup does not need",
        |t| {
            if let Answer::WalFiles { files } = &mut t.answer {
                files.push(WalFile {
                    entry: EntryId(0),
                    name: "000000020000FFFF00000001".to_owned(),
                    bytes: 16 << 20,
                });
            }
        },
        4,
        "named a WAL file \"000000020000FFFF00000001\"",
    ),
    (
        "a backup that ended before it began",
        |t| {
            if let Answer::BracketClosed { stop_lsn, .. } = &mut t.answer {
                *stop_lsn = pg_reseed::pg::lsn::Lsn(8);
            }
        },
        4,
        "label cannot be used",
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
        assert!(!said.stderr.contains('\x1b'), "{name}");
        let evil = done_find(scene.path());
        assert!(evil.is_empty(), "{name}: {evil}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // Nothing of it is left when an honest agent comes.
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
}

fn done_find(folder: &std::path::Path) -> String {
    crate::cluster::done(Command::new("find").arg(folder).args(["-name", "*evil*"]))
}
