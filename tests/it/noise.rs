//! The canonical form of pages and the truth of hint bits, on what servers write.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pg_reseed::pg::canonical::{self, PageKind};
use pg_reseed::pg::hints::{self, HintVerdict, XactPage, XactStatus, XidRange};

use crate::cluster::{Cluster, Pair, Scene, Stop, major};

const BLOCK: usize = 8192;

/// Tables with an index of every method. They are filled to six tenths, so that reading prunes nothing.
pub const TABLES: &str = "
CREATE TABLE t (i int, k int, f text, p point, a int[]) WITH (fillfactor = 60);
CREATE TABLE u (i int PRIMARY KEY, f text);
CREATE SEQUENCE s;
INSERT INTO t SELECT i, i % 500, 'row ' || i, point(i % 100, i / 100), ARRAY[i % 5, 1000 + i % 77]
    FROM generate_series(1, 8000) AS i;
CREATE INDEX ON t USING btree (i);
CREATE INDEX ON t USING hash (k);
CREATE INDEX ON t USING gist (p);
CREATE INDEX ON t USING gin (a);
CREATE INDEX ON t USING spgist (f);
CREATE INDEX ON t USING brin (i) WITH (pages_per_range = 4);
ALTER TABLE t SET (fillfactor = 100);
";

/// What leaves tuples of every sort: deleted, updated, of transactions that failed, of subtransactions.
pub const WRITES: &str = "
DELETE FROM t WHERE i % 5 = 0;
UPDATE t SET f = f || 'x' WHERE i % 9 = 0;
BEGIN; UPDATE t SET f = 'lost' WHERE i % 7 = 0; ROLLBACK;
BEGIN; SAVEPOINT a; INSERT INTO u SELECT i, 'lost' FROM generate_series(1, 60) AS i; ROLLBACK TO a;
INSERT INTO u SELECT i, 'kept' FROM generate_series(1, 60) AS i; DELETE FROM u WHERE i < 10; COMMIT;
";

/// Reads that set hint bits and mark items of indexes dead.
pub const READS: &str = "
SET default_transaction_read_only = on;
SELECT count(f) FROM t; SELECT count(f) FROM u;
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;
SELECT count(f) FROM t WHERE i > 0;
SELECT count(f) FROM u WHERE i > 0;
SELECT count(t.f) FROM generate_series(0, 499) AS g, LATERAL (SELECT f FROM t WHERE k = g OFFSET 0) AS t;
SELECT count(k) FROM t WHERE p <@ box '((0,0),(100,100))';
SELECT count(k) FROM t WHERE f >= 'row';
";

/// Pages of every method are emptied and deleted. A posting tree of GIN and a bucket of a hash have more than one page
/// only when they are long.
pub const CHURN: &str = "
CREATE TABLE g AS SELECT i, i % 3 AS k, ARRAY[1] AS a FROM generate_series(1, 60000) AS i;
CREATE INDEX ON g USING gin (a);
CREATE INDEX ON g USING hash (k);
DELETE FROM g WHERE i BETWEEN 1000 AND 50000;
VACUUM g;
DELETE FROM t WHERE i BETWEEN 1000 AND 7000 OR a[1] = 3;
VACUUM t;
VACUUM t;
CHECKPOINT;
SELECT nextval('s'), nextval('s');
";

/// What makes room of items that were killed, and uses pages again.
pub const REUSE: &str = "
INSERT INTO t SELECT i, i % 20, 'row ' || i, point(i % 9, i % 7), ARRAY[i % 5, i] FROM generate_series(1, 3000) AS i;
DELETE FROM t WHERE i < 2000;
";

/// The list of pending entries of GIN is emptied; rows come and go in one transaction, are locked, frozen, changed.
pub const SHORT_LIVES: &str = "
SELECT gin_clean_pending_list('t_a_idx');
BEGIN; INSERT INTO u VALUES (1000, 'short'); DELETE FROM u WHERE i = 1000; COMMIT;
BEGIN; SELECT count(*) FROM (SELECT 1 FROM u FOR UPDATE) AS x; COMMIT;
VACUUM (FREEZE) u;
UPDATE u SET f = 'again' WHERE i % 2 = 0;
BEGIN; INSERT INTO u VALUES (2000, 'short'); DELETE FROM u WHERE i = 2000; COMMIT;
";

/// The files of main forks below a data directory.
fn main_forks(pgdata: &Path) -> Vec<PathBuf> {
    let databases = fs::read_dir(pgdata.join("base")).unwrap();
    databases
        .map(|entry| PathBuf::from("base").join(entry.unwrap().file_name()))
        .chain([PathBuf::from("global")])
        .flat_map(|folder| {
            let names = fs::read_dir(pgdata.join(&folder)).unwrap();
            names
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| {
                    name.bytes()
                        .all(|byte| byte.is_ascii_digit() || byte == b'.')
                })
                .map(|name| folder.join(name))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Compares the main forks of two stopped clusters: how many pages of each kind differ in noise, and every page that
/// differs in more, unless it may.
fn compare(
    left: &Path,
    right: &Path,
    may_differ: impl Fn(PageKind, usize) -> bool,
) -> (BTreeMap<String, usize>, Vec<String>) {
    let mut noisy = BTreeMap::new();
    let mut faults = Vec::new();
    for path in main_forks(left) {
        let theirs = fs::read(right.join(&path)).unwrap_or_default();
        let ours = fs::read(left.join(&path)).unwrap();
        for (block, (l, r)) in ours.chunks(BLOCK).zip(theirs.chunks(BLOCK)).enumerate() {
            let kind = canonical::kind(l);
            let is_equal = l == r;
            let [l, r] = [l, r].map(|page| {
                let mut form = page.to_vec();
                canonical::make_canonical(&mut form);
                form
            });
            // Servers write no page that is unknown or contradicts itself: each has lost its LSN.
            assert!(
                kind != PageKind::Unknown && l[..10] == [0; 10],
                "{} block {block}: {kind:?}",
                path.display()
            );
            if is_equal {
                continue;
            }
            if l == r {
                *noisy.entry(format!("{kind:?}")).or_default() += 1;
            } else if !may_differ(kind, block) {
                let at = l.iter().zip(&r).position(|(l, r)| l != r).unwrap();
                let count = l.iter().zip(&r).filter(|(l, r)| l != r).count();
                let tail = &l[l.len() - 16..];
                faults.push(format!(
                    "{} block {block} ({kind:?}, ends in {tail:02x?}): {count} bytes from {at} on",
                    path.display()
                ));
            }
        }
    }
    (noisy, faults)
}

/// What `pg_xact` of a stopped cluster says.
struct Statuses {
    range: XidRange,
    files: BTreeMap<String, Vec<u8>>,
}

impl Statuses {
    fn of(cluster: &Cluster) -> Self {
        let control = cluster.control();
        let number = |name: &str| {
            let text = &control[name];
            text.rsplit(':').next().unwrap().parse::<u32>().unwrap()
        };
        let files = fs::read_dir(cluster.pgdata().join("pg_xact")).unwrap();
        Self {
            range: XidRange {
                oldest: number("Latest checkpoint's oldestXID"),
                next: number("Latest checkpoint's NextXID"),
            },
            files: files
                .map(|entry| entry.unwrap())
                .map(|entry| {
                    let name = entry.file_name().into_string().unwrap();
                    (name, fs::read(entry.path()).unwrap())
                })
                .collect(),
        }
    }

    fn status(&self, xid: u32) -> XactStatus {
        self.range.outside(xid).unwrap_or_else(|| {
            let place = XactPage::of(xid, 8192);
            let file = self.files.get(&place.to_string());
            let begin = place.page as usize * BLOCK;
            let page = file.and_then(|file| file.get(begin..begin + BLOCK));
            hints::status_in(page.unwrap_or_default(), xid)
        })
    }
}

/// How many heap pages a cluster has, and the false hints among them.
fn judge(cluster: &Cluster, status: impl Fn(u32) -> XactStatus) -> (usize, Vec<String>) {
    let mut heaps = 0;
    let mut found = Vec::new();
    for path in main_forks(cluster.pgdata()) {
        let file = fs::read(cluster.pgdata().join(&path)).unwrap();
        for (block, page) in file.chunks(BLOCK).enumerate() {
            let verdict = hints::judge(page, &status);
            assert_eq!(
                verdict == HintVerdict::NoHeap,
                canonical::kind(page) != PageKind::Heap,
                "{} block {block}",
                path.display()
            );
            heaps += usize::from(verdict != HintVerdict::NoHeap);
            if let HintVerdict::False(hint) = verdict {
                found.push(format!("{} block {block}: {hint:?}", path.display()));
            }
        }
    }
    (heaps, found)
}

fn reading_changes_noise_only(options: &[&str]) {
    let scene = Scene::new();
    let mut before = scene.foreign_cluster("before", options);
    before.start();
    before.sql(TABLES);
    before.sql("VACUUM");
    before.sql(WRITES);
    before.stop(Stop::Fast);
    let mut after = scene.copy("after", &before);
    after.start();
    after.sql(READS);
    after.stop(Stop::Fast);

    let (noisy, faults) = compare(before.pgdata(), after.pgdata(), |_, _| false);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    for kind in ["Heap", "Btree", "Hash", "Gist"] {
        assert!(noisy.get(kind).is_some_and(|count| *count > 5), "{noisy:?}");
    }

    let statuses = Statuses::of(&after);
    let (heaps, found) = judge(&after, |xid| statuses.status(xid));
    assert!(heaps > 100, "{heaps}");
    assert!(found.is_empty(), "{}", found.join("\n"));
    // In a history that had not come so far, the last hints are false.
    let earlier = XidRange {
        next: statuses.range.next - 5,
        ..statuses.range
    };
    let status = |xid| earlier.outside(xid).unwrap_or_else(|| statuses.status(xid));
    let (_, found) = judge(&after, status);
    assert!(found.len() > 20, "{}", found.join("\n"));
}

#[test]
fn reading_changes_noise_only_with_checksums() {
    reading_changes_noise_only(&["--data-checksums"]);
}

#[test]
fn reading_changes_noise_only_without_checksums() {
    // They are the default from 18 on.
    let off: &[&str] = if major() >= 18 {
        &["--no-data-checksums"]
    } else {
        &[]
    };
    reading_changes_noise_only(off);
}

/// What replay makes otherwise than the primary did is noise too, but for what is known to be more.
#[test]
fn a_standby_differs_from_its_primary_in_noise_only() {
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| {
        old.sql(TABLES);
    });
    let (old, new) = (&pair.old, &pair.new);
    old.sql("VACUUM; CHECKPOINT");
    old.sql(WRITES);
    old.sql(READS);
    old.wait_caught_up(new);
    new.sql(READS);
    old.sql("CHECKPOINT");
    old.sql(CHURN);
    old.sql(REUSE);
    old.sql(READS);
    old.sql(REUSE);
    old.sql(SHORT_LIVES);
    old.sql(READS);
    old.wait_caught_up(new);
    new.sql(READS);
    pair.old.stop(Stop::Fast);
    // The shutdown checkpoint arrives before the primary is gone; the standby's own stop flushes up to it.
    pair.new
        .wait_sql("SELECT count(*) FROM pg_stat_wal_receiver", "0");
    pair.new.stop(Stop::Fast);

    let (noisy, faults) = compare(pair.old.pgdata(), pair.new.pgdata(), |kind, block| {
        // A primary's sequence has counted less than WAL says; an SP-GiST metapage names pages without WAL.
        kind == PageKind::Sequence || (kind == PageKind::Spgist && block == 0)
    });
    assert!(faults.is_empty(), "{noisy:?}\n{}", faults.join("\n"));
    for kind in ["Heap", "Btree", "Hash", "Gist", "Gin", "Spgist"] {
        assert!(noisy.get(kind).is_some_and(|count| *count > 5), "{noisy:?}");
    }
    for cluster in [&pair.old, &pair.new] {
        let statuses = Statuses::of(cluster);
        let (_, found) = judge(cluster, |xid| statuses.status(xid));
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
