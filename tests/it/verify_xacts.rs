//! `pg_reseed verify` beside how transactions ended: `pg_xact`, and hints that it denies.

use std::fs;

use crate::cluster::{Cluster, Pair, Scene, Stop, bindir, done, tool};
use crate::oracle::settle;
use crate::verify::{Verified, file, page, pair, place, stop_both, tuples, verify, verify_stopped};

const XACTS: &str = "pg_xact/0000";

/// What the standby's pg_xact says of a transaction is replaced: 0 in progress, 1 committed, 2 rolled back. Returns what
/// it said.
fn set_status(standby: &Cluster, xid: u32, status: u8) -> u8 {
    let mut bytes = fs::read(place(standby, XACTS)).unwrap();
    let (at, shift) = (xid as usize / 4, xid % 4 * 2);
    let before = bytes[at] >> shift & 3;
    bytes[at] = bytes[at] & !(3 << shift) | status << shift;
    fs::write(place(standby, XACTS), bytes).unwrap();
    before
}

/// The transaction of a row.
fn xid(primary: &Cluster, row: &str) -> u32 {
    let sql = format!("SELECT xmin FROM plain WHERE {row} LIMIT 1");
    primary.sql(&sql).parse().unwrap()
}

/// It is told, and at most that hints say otherwise, too.
fn assert_told(found: &Verified, xid: u32) {
    assert_eq!(found.code, 5, "{found:?}");
    let faults = found.found["faults"].as_array().unwrap();
    let is_told = faults.iter().any(|fault| fault["path"] == XACTS);
    assert!(
        is_told && faults.iter().all(|fault| fault["xid"] == xid),
        "{found:?}"
    );
}

#[test]
fn a_transaction_that_ended_otherwise_is_found_and_named() {
    let scene = Scene::new();
    let Pair {
        old: mut primary,
        new: mut standby,
    } = pair(&scene);
    let committed = xid(&primary, "i = 1");
    // The transaction behind it, whose row nobody sees.
    let aborted = committed + 1;
    standby.stop(Stop::Fast);
    for (xid, was, becomes, words) in [
        (
            committed,
            1,
            0,
            "never ended, and on the source that it committed",
        ),
        (
            committed,
            1,
            2,
            "rolled back, and on the source that it committed",
        ),
        (
            committed,
            1,
            3,
            "is a part of one that is about to commit, and",
        ),
        (
            aborted,
            2,
            1,
            "committed, and on the source that it rolled back",
        ),
    ] {
        assert_eq!(set_status(&standby, xid, becomes), was);
        let found = verify(&standby, &primary, &[]);
        let fault = found.assert_one("transaction-status", 0);
        assert_eq!(
            (&fault["path"], &fault["xid"]),
            (&XACTS.into(), &xid.into()),
            "{fault}"
        );
        assert!(fault["words"].as_str().unwrap().contains(words), "{fault}");
        for nothing in ["fork", "page", "relation", "source_lsn", "standby_lsn"] {
            assert!(fault[nothing].is_null(), "{nothing}: {fault}");
        }
        set_status(&standby, xid, was);
    }
    // It may be the source's that is wrong: a rebuild would copy it.
    set_status(&standby, committed, 2);
    let found = verify(&standby, &primary, &[]);
    let advice = found.found["advice"][0].as_str().unwrap();
    assert!(
        advice.starts_with("Which side is right cannot be told"),
        "{advice}"
    );
    set_status(&standby, committed, 1);
    // Both mean that it did not commit.
    assert_eq!(set_status(&standby, aborted, 0), 2);
    verify(&standby, &primary, &[]).assert_equal();
    // Of what is not settled nothing is said: neither side has got that far.
    let next = primary.sql("SELECT pg_current_xact_id()").parse::<u32>();
    let later = next.unwrap() + 100;
    assert_eq!(set_status(&standby, later, 1), 0);
    verify(&standby, &primary, &[]).assert_equal();
    set_status(&standby, later, 0);

    // While its server runs, too; and a server that has it in memory does not hide it for long.
    set_status(&standby, committed, 2);
    standby.start();
    settle(&primary, &standby);
    assert_told(&verify(&standby, &primary, &[]), committed);
    // And between two that are stopped.
    stop_both(&mut primary, &mut standby);
    assert_told(&verify_stopped(&standby, &primary), committed);
    set_status(&standby, committed, 1);
    verify_stopped(&standby, &primary).assert_equal();

    // Without the file there is nothing to look it up in.
    fs::remove_file(place(&standby, XACTS)).unwrap();
    let found = verify_stopped(&standby, &primary);
    assert_eq!(
        found.faults(),
        [("missing-file".to_owned(), None)],
        "{found:?}"
    );
    assert_eq!(found.found["faults"][0]["path"], XACTS);
}

/// A page has 32768 transactions.
#[test]
fn a_transaction_of_a_later_page_is_found_there() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = pair(&scene);
    // As many as its parts are, each of which has a number of its own.
    primary.sql(
        "CREATE TABLE many (i int);
         DO $$ BEGIN FOR k IN 1..40000 LOOP BEGIN INSERT INTO many VALUES (k);
             IF k % 7 = 0 THEN RAISE EXCEPTION 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$",
    );
    settle(&primary, &standby);
    verify(&standby, &primary, &[]).assert_equal();
    let xid = primary.sql("SELECT xmin FROM many WHERE i = 39999");
    let xid = xid.parse::<u32>().unwrap();
    standby.stop(Stop::Fast);
    assert_eq!(set_status(&standby, xid, 2), 1);
    assert_told(&verify(&standby, &primary, &[]), xid);
    let found = verify(&standby, &primary, &[]);
    found.assert_one("transaction-status", u64::from(xid / 32768));
    assert!(xid > 32768);
}

/// At a shutdown no transaction is in progress, and yet one may commit after it.
#[test]
fn what_was_prepared_before_a_shutdown_and_commits_behind_it_is_no_fault() {
    let scene = Scene::new();
    let Pair {
        old: mut primary,
        new: mut standby,
    } = pair(&scene);
    primary.sql("BEGIN; INSERT INTO plain VALUES (-2, 'prepared'); PREPARE TRANSACTION 'p'");
    primary.restart();
    // The standby's last checkpoint is that of the shutdown.
    primary.wait_caught_up(&standby);
    standby.sql("CHECKPOINT");
    standby.stop(Stop::Fast);
    primary.sql("COMMIT PREPARED 'p'; CHECKPOINT");
    let found = verify(&standby, &primary, &["--passes", "2", "--wait", "0"]);
    assert!(found.faults().is_empty(), "{found:?}");
    assert_eq!(found.code, 7, "{found:?}");
    standby.start();
    settle(&primary, &standby);
    verify(&standby, &primary, &[]).assert_equal();
}

/// Experiment E2: a standby of the old primary replays a commit that the new one never gets, and sets the hint on a page
/// that no WAL behind the last common checkpoint names. `pg_rewind` leaves that page; no checksum and no LSN tells.
#[test]
fn a_false_hint_that_pg_rewind_has_left_is_found_while_both_servers_run() {
    if !bindir().join("pg_rewind").exists() {
        eprintln!("no pg_rewind of this major: this test needs it");
        return;
    }
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: promoted,
    } = Pair::streaming(&scene, |old| {
        // What is dirty stays in memory until a checkpoint.
        old.configure("bgwriter_lru_maxpages = 0");
        old.restart();
        old.sql("CREATE TABLE x (i int, f text)");
        old.sql("CREATE TABLE junk (i int)");
    });
    let mut rewound = scene.standby("rewound", &primary, &[]);
    primary.sql("BEGIN; INSERT INTO x SELECT i, 'lost' FROM generate_series(1, 50) AS i; PREPARE TRANSACTION 'lost'");
    primary.sql("INSERT INTO x VALUES (1000, 'kept'); CHECKPOINT");
    primary.wait_caught_up(&promoted);
    primary.wait_caught_up(&rewound);
    promoted.promote();
    // Only the old primary and its standby get this. That files are dropped makes the standby's disk stand behind it
    // (PostgreSQL `xact.c:xact_redo_commit`), which allows the hint.
    primary.sql("COMMIT PREPARED 'lost'");
    primary.sql("DROP TABLE junk");
    primary.wait_caught_up(&rewound);
    assert_eq!(rewound.sql("SELECT count(*) FROM x"), "51");
    rewound.stop(Stop::Fast);
    let path = file(&primary, "x");
    let hinted = page(&rewound, &path, 0);
    let is_hinted = |tuple: &usize| hinted[*tuple + 21] & 0x03 == 0x01;
    let count = tuples(&hinted)
        .iter()
        .filter(|tuple| is_hinted(tuple))
        .count();
    assert_eq!(count, 51, "the hints are on disk");

    let source = format!("{} dbname=postgres", promoted.conninfo());
    let rewind = done(
        tool("pg_rewind")
            .arg("--target-pgdata")
            .arg(rewound.pgdata())
            .args(["--no-sync", "--source-server", &source]),
    );
    rewound.settle();
    rewound.follow(&promoted);
    rewound.write("standby.signal", "");
    rewound.start();
    promoted.sql("ROLLBACK PREPARED 'lost'");
    settle(&promoted, &rewound);
    let found = verify(&rewound, &promoted, &[]);
    let fault = found.assert_one("false-hint", 0);
    assert_eq!(fault["relation"], "public.x", "{rewind}");
    assert_eq!(fault["source_lsn"], fault["standby_lsn"]);
    let words = fault["words"].as_str().unwrap();
    assert!(
        words.contains("committed: by the standby's pg_xact it did not"),
        "{words}"
    );
    // What it is about.
    assert_eq!(rewound.sql("SELECT count(*) FROM x"), "51");
    assert_eq!(promoted.sql("SELECT count(*) FROM x"), "1");
}
