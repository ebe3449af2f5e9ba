//! `pg_reseed verify` beside an agent that does not mean well: a clear end, nothing changed, nothing that a terminal obeys.

use std::process::Command;

use pg_reseed::geometry::BitSet;
use pg_reseed::pg::control::ControlFile;
use pg_reseed::pg::lsn::Lsn;
use pg_reseed::wire::codec::BODY_MAX;
use pg_reseed::wire::message::{Answer, Compression, Fault, FaultKind, RelationName};
use pg_reseed::wire::payload;

use crate::between::{Twisted, between};
use crate::cluster::{Cluster, Pair, Scene, Stop, binary, clean, said};
use crate::hostile_agent::bomb;
use crate::oracle::{assert_untouched, tree};
use crate::verify::{file, pair, spoil};

/// Words that a terminal obeys.
const EVIL: &str = "\x1b]52;c;eA==\x07\npg_reseed: all is well\u{9b}2J";

type Twist = fn(&mut Twisted);

/// What was verified by a go-between: exit status, and all that was written.
fn verified(standby: &Cluster, source: &Cluster, twist: Twist, options: &[&str]) -> (i32, String) {
    let from = between(source, twist);
    // What hangs is ended, and tells it by 124.
    let output = clean(Command::new("timeout"))
        .arg("100")
        .arg(binary())
        .args(["verify", "--progress", "none", "--streams", "1"])
        .args(["-Z", "none", "--wait", "0", "--from", &from, "-D"])
        .arg(standby.pgdata())
        .args(options)
        .output()
        .unwrap();
    (output.status.code().unwrap(), said(&output))
}

/// A control file that is true and says something else.
fn twist_control(twisted: &mut Twisted, change: impl Fn(&mut [u8])) {
    if matches!(twisted.answer, Answer::Control) {
        change(&mut twisted.body);
        // Where the CRC is differs from major to major: where it fits.
        let sealed = (200..400).step_by(4).map(|at| {
            let mut bytes = twisted.body.clone();
            let sum = crc32c::crc32c(&bytes[..at]).to_le_bytes();
            bytes[at..at + 4].copy_from_slice(&sum);
            bytes
        });
        let mut fitting = sealed.filter(|bytes| ControlFile::decode(bytes).is_ok());
        twisted.body = fitting.next().unwrap();
    }
}

/// A name, the twist, the exit statuses that it may come to, words that are said.
const ATTACKS: &[(&str, Twist, &[i32], &str)] = &[
    ("nothing", |_| {}, &[5], "public.plain in database postgres"),
    (
        "names that a terminal obeys",
        |t| {
            if let Answer::Names { names } = &mut t.answer {
                names.fill(Some(RelationName {
                    database: EVIL.to_owned(),
                    relation: EVIL.to_owned(),
                }));
            }
        },
        &[5],
        "pg_reseed: all is well",
    ),
    (
        "more names than were asked for",
        |t| {
            if let Answer::Names { names } = &mut t.answer {
                names.resize(100_000, None);
            }
        },
        &[5],
        "content: public.plain in database postgres",
    ),
    (
        "no names",
        |t| {
            if let Answer::Names { names } = &mut t.answer {
                names.clear();
            }
        },
        &[5],
        "content: file \"base/",
    ),
    (
        "a host and a directory that a terminal obeys",
        |t| {
            if let Answer::Facts(facts) = &mut t.answer {
                EVIL.clone_into(&mut facts.host.name);
                facts.data_directory = EVIL.as_bytes().to_vec();
            }
        },
        &[1, 5],
        "",
    ),
    (
        "a fault with words that a terminal obeys",
        |t| {
            if matches!(t.answer, Answer::Position { .. }) {
                t.answer = Answer::Fault(Fault::new(FaultKind::Server, EVIL).with_hint(EVIL));
            }
        },
        &[1],
        "pg_reseed: all is well",
    ),
    (
        "digests that are those of nothing",
        |t| {
            if matches!(t.answer, Answer::Digests { .. }) {
                t.body.fill(7);
            }
        },
        &[1, 5],
        "",
    ),
    (
        "digests of another number of extents",
        |t| {
            if matches!(t.answer, Answer::Digests { .. }) && !t.body.is_empty() {
                t.body.pop();
            }
        },
        &[1],
        "does not fit",
    ),
    (
        "files that are gone and were not asked for",
        |t| {
            if let Answer::Digests { gone } = &mut t.answer {
                *gone = vec![u16::MAX];
            }
        },
        &[1],
        "does not fit",
    ),
    (
        "more blocks than were asked for",
        |t| {
            if let Answer::Blocks { present, .. } = &mut t.answer {
                let mut more = BitSet::default();
                more.insert(100_000);
                *present = present.union(&more);
            }
        },
        &[1],
        "does not fit",
    ),
    (
        "fewer bytes than blocks",
        |t| {
            if let Answer::Blocks { packed, .. } = &mut t.answer {
                let (new, body) = payload::pack(vec![1; 100].into(), &t.key, Compression::None);
                *packed = new;
                t.body = body.to_vec();
            }
        },
        &[1],
        "",
    ),
    (
        "blocks that unpack to more than a range has",
        |t| bomb(t, 64 << 20),
        &[1],
        "announced 67108864 bytes where at most",
    ),
    (
        "patches longer than the answer",
        |t| {
            if let Answer::Blocks { patch_bytes, .. } = &mut t.answer {
                *patch_bytes = u32::MAX;
            }
        },
        &[1],
        "does not fit",
    ),
    (
        "a body that is too long",
        |t| {
            if matches!(t.answer, Answer::Digests { .. }) {
                let length = BODY_MAX + 1;
                t.raw = Some([t.id.to_le_bytes(), [4, 0, 0, 0], length.to_le_bytes()].concat());
            }
        },
        &[1],
        "longer than",
    ),
    (
        "a list with more parts than there are",
        |t| {
            if let Answer::ManifestPart { parts, end, .. } = &mut t.answer {
                *parts = u32::MAX;
                *end = None;
            }
        },
        &[1],
        "",
    ),
    (
        "a list without an end",
        |t| {
            if let Answer::ManifestPart { end, .. } = &mut t.answer {
                *end = None;
            }
        },
        &[1],
        "",
    ),
    (
        "what may not be read has a name that a terminal obeys",
        |t| {
            if let Answer::ManifestPart { end: Some(end), .. } = &mut t.answer {
                end.unreadable.push(format!("base/{EVIL}"));
            }
        },
        &[1],
        "may not read",
    ),
    (
        "an end of WAL that is never reached",
        |t| {
            if let Answer::Position { lsn, .. } = &mut t.answer {
                *lsn = Lsn(u64::MAX);
            }
        },
        &[5],
        "content",
    ),
    (
        "an answer to another question",
        |t| {
            if matches!(t.answer, Answer::Position { .. }) {
                t.answer = Answer::Farewell;
            }
        },
        &[1],
        "does not fit",
    ),
];

/// The same for what is asked before a further pass.
const LATER: &[(&str, Twist, &[i32], &str)] = &[
    ("nothing", |_| {}, &[5], "public.plain in database postgres"),
    (
        "a control file that is none",
        |t| {
            if matches!(t.answer, Answer::Control) {
                t.body.fill(0x1b);
            }
        },
        &[1],
        "control file",
    ),
    (
        "a checkpoint before all time, in all passes",
        |t| {
            if let Answer::Facts(facts) = &mut t.answer {
                facts.control.redo = Lsn(1);
            }
            twist_control(t, |bytes| {
                bytes[40..48].copy_from_slice(&1_u64.to_le_bytes());
            });
        },
        &[7],
        "not all could be compared",
    ),
    (
        "another cluster from the second pass on",
        |t| twist_control(t, |bytes| bytes[0] ^= 1),
        &[1],
        "another timeline",
    ),
];

/// Goes through attacks; returns what came to another end.
fn failures(
    attacks: &[(&str, Twist, &[i32], &str)],
    standby: &Cluster,
    source: &Cluster,
) -> Vec<String> {
    let mut failures = Vec::new();
    for (name, twist, statuses, words) in attacks {
        for options in [&[][..], &["--json"]] {
            let (code, all) = verified(standby, source, *twist, options);
            let is_told = statuses.contains(&code) && (!options.is_empty() || all.contains(words));
            let is_evil = all.contains(['\x1b', '\u{9b}', '\x07']);
            if !is_told || is_evil {
                failures.push(format!(
                    "{name}: wanted {statuses:?}, \"{words}\": {code}\n{all}"
                ));
            }
        }
    }
    failures
}

#[test]
fn answers_of_a_hostile_agent_are_told_and_obeyed_by_nobody() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = pair(&scene);
    standby.stop(Stop::Fast);
    spoil(&standby, &file(&primary, "plain"), 3, 3);
    let before = tree(standby.pgdata());
    let failures = failures(ATTACKS, &standby, &primary);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_untouched(&before, standby.pgdata());
}

#[test]
fn lies_about_checkpoints_end_in_an_error_or_as_not_compared() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = pair(&scene);
    standby.stop(Stop::Fast);
    spoil(&standby, &file(&primary, "plain"), 3, 3);
    standby.start();
    // So that a pass leaves something to the next.
    primary.sql("UPDATE t SET f = 'new' WHERE i < 100; CHECKPOINT");
    primary.wait_caught_up(&standby);
    let failures = failures(LATER, &standby, &primary);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// It says that it is there, and no more.
#[test]
fn an_agent_that_does_not_answer_is_not_waited_for() {
    if std::env::var_os("PG_RESEED_TEST_LARGE").is_none() {
        eprintln!("this test takes minutes");
        return;
    }
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = pair(&scene);
    standby.stop(Stop::Fast);
    spoil(&standby, &file(&primary, "plain"), 3, 3);
    let is_mute: &[(&str, Twist, &[i32], &str)] = &[
        (
            "an end of WAL that is never told",
            |t| {
                if matches!(t.answer, Answer::Position { .. }) {
                    t.raw = Some(Vec::new());
                }
            },
            &[1],
            "did not answer within 60 s",
        ),
        (
            "names that are never told",
            |t| {
                if matches!(t.answer, Answer::Names { .. }) {
                    t.raw = Some(Vec::new());
                }
            },
            &[5],
            "content: file \"base/",
        ),
    ];
    let failures = failures(is_mute, &standby, &primary);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
