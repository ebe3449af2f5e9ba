//! `pg_reseed verify`: a standby that has what its source has, and what is found where it has not.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use pg_reseed::pg::canonical::{PageKind, kind, make_canonical};
use pg_reseed::pg::page::checksum;
use serde_json::Value;

use crate::cluster::{Cluster, Dice, Pair, Scene, Stop, binary, clean};
use crate::oracle::{assert_untouched, settle, tree};
use crate::rebuild::assert_source_as_found;

pub const BLOCK: usize = 8192;

/// What `verify` said: its status, and its result or its messages.
#[derive(Debug)]
pub struct Verified {
    pub code: i32,
    pub found: Value,
    pub stderr: String,
}

impl Verified {
    pub fn number(&self, name: &str) -> u64 {
        self.found[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name}: {self:?}"))
    }

    /// Code and block of each fault, in the order of the result.
    pub fn faults(&self) -> Vec<(String, Option<u64>)> {
        let faults = self.found["faults"].as_array().unwrap();
        let one = |fault: &Value| {
            (
                fault["code"].as_str().unwrap().to_owned(),
                fault["block"].as_u64(),
            )
        };
        faults.iter().map(one).collect()
    }

    pub fn assert_equal(&self) {
        assert_eq!(
            (self.code, self.found["verdict"].as_str()),
            (0, Some("equal")),
            "{self:?}"
        );
    }

    /// One fault: in this block, of this code.
    pub fn assert_one(&self, code: &str, block: u64) -> &Value {
        assert_eq!(self.code, 5, "{self:?}");
        assert_eq!(self.faults(), [(code.to_owned(), Some(block))], "{self:?}");
        &self.found["faults"][0]
    }
}

pub fn run(standby: &Cluster, options: &[&str]) -> Verified {
    run_from(standby, "local", options)
}

/// Verifies with an agent that is elsewhere.
pub fn run_from(standby: &Cluster, from: &str, options: &[&str]) -> Verified {
    let mut command = clean(Command::new(binary()));
    command
        .args(["verify", "--json", "--progress", "none", "--from", from])
        .arg("-D")
        .arg(standby.pgdata())
        .args(options);
    let output = command.output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    Verified {
        code: output.status.code().unwrap(),
        found: serde_json::from_str(&stdout).unwrap_or_default(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Verifies a standby beside its running source. Neither may be changed by it, and nothing may stay behind.
pub fn verify(standby: &Cluster, source: &Cluster, options: &[&str]) -> Verified {
    let before = standby
        .postmaster()
        .is_none()
        .then(|| tree(standby.pgdata()));
    let slots = source.sql("SELECT count(*) FROM pg_replication_slots");
    let conninfo = format!("{} dbname=postgres", source.conninfo());
    let found = run(
        standby,
        &[&["--source-dbname", &conninfo], options].concat(),
    );
    if let Some(before) = before {
        assert_untouched(&before, standby.pgdata());
    }
    assert_source_as_found(source, slots.parse().unwrap());
    found
}

/// Verifies two stopped clusters.
pub fn verify_stopped(standby: &Cluster, source: &Cluster) -> Verified {
    let before = [standby, source].map(|cluster| tree(cluster.pgdata()));
    let found = run(
        standby,
        &["--source-pgdata", source.pgdata().to_str().unwrap()],
    );
    assert_untouched(&before[0], standby.pgdata());
    assert_untouched(&before[1], source.pgdata());
    found
}

/// Tables with an index of every method, a sequence, an unlogged table, another database.
pub const TABLES: &str = "
CREATE TABLE t (i int, k int, f text, p point, a int[]);
INSERT INTO t SELECT i, i % 500, 'row ' || i, point(i % 100, i / 100), ARRAY[i % 5, 1000 + i % 77]
    FROM generate_series(1, 8000) AS i;
CREATE INDEX ON t USING btree (i);
CREATE INDEX ON t USING hash (k);
CREATE INDEX ON t USING gist (p);
CREATE INDEX ON t USING gin (a);
CREATE INDEX ON t USING spgist (f);
CREATE INDEX ON t USING brin (i);
CREATE TABLE plain (i int, f text);
INSERT INTO plain SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i;
BEGIN; INSERT INTO plain VALUES (-1, 'lost'); ROLLBACK;
CREATE UNLOGGED TABLE u AS SELECT i FROM generate_series(1, 1000) AS i;
CREATE SEQUENCE s;
SELECT nextval('s'), nextval('s');
VACUUM t;
CHECKPOINT;
SELECT count(*), count(f) FROM t;
SELECT nextval('s');
";

/// A primary and its standby, both behind a checkpoint that has everything behind it.
pub fn pair(scene: &Scene) -> Pair {
    let pair = Pair::streaming(scene, |old| {
        old.configure("autovacuum = off");
        old.restart();
        old.sql(TABLES);
        old.sql("CREATE DATABASE other");
        old.sql_in(
            "other",
            "CREATE TABLE o AS SELECT i FROM generate_series(1, 1000) AS i",
        );
    });
    settle(&pair.old, &pair.new);
    pair
}

/// The file of a relation's main fork.
pub fn file(primary: &Cluster, relation: &str) -> String {
    primary.sql(&format!("SELECT pg_relation_filepath('{relation}')"))
}

pub fn place(cluster: &Cluster, path: &str) -> PathBuf {
    cluster.pgdata().join(path)
}

pub fn page(cluster: &Cluster, path: &str, block: usize) -> Vec<u8> {
    let bytes = fs::read(place(cluster, path)).unwrap();
    bytes[block * BLOCK..][..BLOCK].to_vec()
}

/// Puts a page into a file, with a checksum that fits.
pub fn put(cluster: &Cluster, path: &str, block: usize, page: Vec<u8>) {
    put_as(cluster, path, block, block, page);
}

/// As [`put`], where the block has another number in its fork than in the file.
fn put_as(cluster: &Cluster, path: &str, block: usize, number: usize, mut page: Vec<u8>) {
    let sum = checksum(&page, u32::try_from(number).unwrap()).to_le_bytes();
    page[8..10].copy_from_slice(&sum);
    let mut bytes = fs::read(place(cluster, path)).unwrap();
    bytes[block * BLOCK..][..BLOCK].copy_from_slice(&page);
    fs::write(place(cluster, path), bytes).unwrap();
}

/// Flips a bit of the first row of a block of a table, which has this number in its fork, with a checksum that fits. Returns
/// the block as it was.
pub fn spoil(standby: &Cluster, path: &str, block: usize, number: usize) -> Vec<u8> {
    let whole = page(standby, path, block);
    assert_eq!(kind(&whole), PageKind::Heap);
    let mut wrong = whole.clone();
    let row = tuples(&wrong)[0] + 25;
    wrong[row] ^= 0x20;
    put_as(standby, path, block, number, wrong);
    whole
}

/// Stops both, the primary first, so that the standby has all of it and has made a checkpoint of it.
pub fn stop_both(primary: &mut Cluster, standby: &mut Cluster) {
    primary.stop(Stop::Fast);
    standby.wait_sql("SELECT count(*) FROM pg_stat_wal_receiver", "0");
    standby.sql("CHECKPOINT");
    standby.stop(Stop::Fast);
}

fn word(page: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([page[at], page[at + 1]]))
}

/// Offsets of the tuples of a heap page.
pub fn tuples(page: &[u8]) -> Vec<usize> {
    let pointers = page[24..word(page, 12)].chunks(4);
    let offset = |pointer: &[u8]| {
        let value = u32::from_le_bytes(pointer.try_into().unwrap());
        (value >> 15 & 3 == 1).then_some((value & 0x7FFF) as usize)
    };
    pointers.filter_map(offset).collect()
}

#[test]
fn healthy_standby_is_equal_while_it_runs_and_when_it_is_stopped() {
    let scene = Scene::new();
    let Pair {
        old: mut primary,
        new: mut standby,
    } = pair(&scene);
    let live = verify(&standby, &primary, &[]);
    live.assert_equal();
    assert!(live.number("blocks") > 1000, "{live:?}");
    assert_eq!(live.found["standby_runs"], true);
    assert!(live.found["command"].is_null());
    standby.stop(Stop::Fast);
    verify(&standby, &primary, &[]).assert_equal();
    standby.start();
    primary.wait_caught_up(&standby);
    stop_both(&mut primary, &mut standby);
    let stopped = verify_stopped(&standby, &primary);
    stopped.assert_equal();
    assert_eq!(stopped.found["source_runs"], false);
    assert_eq!(stopped.number("pending_blocks"), 0);
}

#[test]
fn what_is_too_new_is_told_as_not_compared() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: standby,
    } = pair(&scene);
    primary.sql("UPDATE plain SET f = 'new' WHERE i < 100");
    primary.wait_caught_up(&standby);
    standby.sql("SELECT count(*) FROM plain");
    // On the disk of the source, but not behind a checkpoint of the standby.
    primary.sql("CHECKPOINT");
    let found = verify(&standby, &primary, &["--passes", "2", "--wait", "0"]);
    assert_eq!(found.code, 7, "{found:?}");
    assert_eq!(found.found["verdict"], "incomplete");
    assert!(found.number("pending_blocks") > 0);
    let path = file(&primary, "plain");
    let pending = found.found["pending"].as_array().unwrap();
    assert!(
        pending.iter().any(|file| file["path"] == path.as_str()),
        "{found:?}"
    );
    settle(&primary, &standby);
    verify(&standby, &primary, &[]).assert_equal();
}

#[test]
fn a_byte_of_a_row_is_found_and_named() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = pair(&scene);
    let path = file(&primary, "plain");
    let other = primary.sql_in("other", "SELECT pg_relation_filepath('o')");
    standby.stop(Stop::Fast);
    for (path, database, relation, block) in [
        (&path, "postgres", "public.plain", 3),
        (&other, "other", "public.o", 1),
    ] {
        let whole = spoil(&standby, path, block, block);
        let found = verify(&standby, &primary, &[]);
        let fault = found.assert_one("content", block as u64);
        assert_eq!(
            (&fault["database"], &fault["relation"]),
            (&database.into(), &relation.into())
        );
        assert_eq!(fault["path"], path.as_str());
        assert_eq!(
            (&fault["fork"], &fault["page"]),
            (&"main".into(), &"heap".into())
        );
        assert!(
            fault["words"].as_str().unwrap().contains("1 bytes"),
            "{fault}"
        );
        assert!(
            found.found["command"]
                .as_str()
                .unwrap()
                .starts_with("pg_reseed rebuild -D ")
        );
        put(&standby, path, block, whole);
    }
    // While the server runs, too.
    spoil(&standby, &path, 2, 2);
    standby.start();
    primary.wait_caught_up(&standby);
    verify(&standby, &primary, &[]).assert_one("content", 2);
}

#[test]
fn damage_and_lost_writes_are_told_of_the_side_that_has_them() {
    let scene = Scene::new();
    let Pair {
        old: mut primary,
        new: mut standby,
    } = pair(&scene);
    let path = file(&primary, "plain");
    let old = page(&standby, &path, 1);
    primary.sql("UPDATE plain SET f = 'new' WHERE ctid = '(1,5)'");
    settle(&primary, &standby);
    standby.stop(Stop::Fast);
    let new = page(&standby, &path, 1);
    put(&standby, &path, 1, old.clone());
    let found = verify(&standby, &primary, &[]);
    let fault = found.assert_one("lost-write-on-standby", 1);
    assert_ne!(fault["source_lsn"], fault["standby_lsn"]);
    put(&standby, &path, 1, new);
    verify(&standby, &primary, &[]).assert_equal();

    let mut bytes = fs::read(place(&standby, &path)).unwrap();
    bytes[2 * BLOCK + 5000] ^= 1;
    fs::write(place(&standby, &path), &bytes).unwrap();
    verify(&standby, &primary, &[]).assert_one("damaged-on-standby", 2);
    bytes[2 * BLOCK + 5000] ^= 1;
    fs::write(place(&standby, &path), &bytes).unwrap();

    standby.start();
    primary.wait_caught_up(&standby);
    primary.stop(Stop::Fast);
    put(&primary, &path, 1, old);
    let found = {
        primary.start();
        standby.sql("SELECT 1");
        verify(&standby, &primary, &[])
    };
    found.assert_one("lost-write-on-source", 1);
    assert!(
        found.found["advice"][0]
            .as_str()
            .unwrap()
            .contains("not mended by a rebuild")
    );
}

/// As experiment E2 made it: the standby's page calls a transaction committed that was rolled back.
#[test]
fn a_false_hint_is_found_though_no_checksum_and_no_content_tells() {
    const XMIN_COMMITTED: u8 = 0x01;
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = pair(&scene);
    let path = file(&primary, "plain");
    standby.stop(Stop::Fast);
    let length = fs::metadata(place(&standby, &path)).unwrap().len();
    let last = usize::try_from(length).unwrap() / BLOCK - 1;
    let whole = page(&standby, &path, last);
    let mut wrong = whole.clone();
    // The row of the transaction that failed.
    let tuple = tuples(&wrong).pop().unwrap();
    wrong[tuple + 21] = wrong[tuple + 21] & !0x03 | XMIN_COMMITTED;
    put(&standby, &path, last, wrong);
    let found = verify(&standby, &primary, &[]);
    let fault = found.assert_one("false-hint", last as u64);
    assert!(
        fault["words"].as_str().unwrap().contains("committed"),
        "{fault}"
    );
    // A true one is none.
    let mut right = whole;
    let tuple = tuples(&right)[0];
    right[tuple + 21] = right[tuple + 21] & !0x03 | XMIN_COMMITTED;
    put(&standby, &path, last, right);
    verify(&standby, &primary, &[]).assert_equal();
}

#[test]
fn each_bit_that_may_not_differ_is_found() {
    let scene = Scene::new();
    let Pair {
        old: mut primary,
        new: mut standby,
    } = pair(&scene);
    stop_both(&mut primary, &mut standby);
    let mut dice = Dice::new("bits of pages");
    let flips = match std::env::var_os("PG_RESEED_TEST_LARGE") {
        Some(_) => 1000,
        None => 40,
    };
    let base = fs::read_dir(place(&standby, "base/5").as_path());
    let folder = if base.is_ok() { "base/5" } else { "base/1" };
    let names = fs::read_dir(place(&standby, folder)).unwrap();
    let mut files: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .map(|name| format!("{folder}/{name}"))
        .filter(|path| {
            place(&primary, path)
                .metadata()
                .is_ok_and(|meta| meta.len() > 0)
        })
        .filter(|path| !place(&primary, &format!("{path}_init")).exists())
        .collect();
    files.sort();
    let mut done = 0;
    while done < flips {
        let path = &files[usize::try_from(dice.roll()).unwrap() % files.len()];
        let length = fs::metadata(place(&standby, path)).unwrap().len();
        let block = usize::try_from(dice.roll() % (length / BLOCK as u64)).unwrap();
        let whole = page(&standby, path, block);
        let source = page(&primary, path, block);
        // Behind LSN and checksum.
        let at = 10 + usize::try_from(dice.roll()).unwrap() % (BLOCK - 10);
        let mut wrong = whole.clone();
        wrong[at] ^= 1 << (dice.roll() % 8);
        let form = |page: &[u8]| {
            let mut form = page.to_vec();
            make_canonical(&mut form);
            form
        };
        let is_excused = matches!(
            kind(&source),
            PageKind::Sequence | PageKind::Spgist | PageKind::New
        );
        if is_excused || form(&wrong) == form(&source) || wrong[10] & 4 != whole[10] & 4 {
            continue;
        }
        done += 1;
        put(&standby, path, block, wrong);
        let found = verify_stopped(&standby, &primary);
        let is_named = found.found["faults"]
            .as_array()
            .is_some_and(|faults| faults.len() == 1 && faults[0]["path"] == path.as_str());
        assert!(
            found.code == 5 && is_named && found.found["faults"][0]["block"] == block,
            "{path} block {block} offset {at}: {found:?}"
        );
        put(&standby, path, block, whole);
    }
    verify_stopped(&standby, &primary).assert_equal();
}
