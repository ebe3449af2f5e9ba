//! Blocks that differ in hint bits and the like only: patched instead of moved, and equal all the same.

use std::fs;

use pg_reseed::wire::message::{Answer, Compression};
use pg_reseed::wire::payload;

use crate::between::{between, pair_rebuild};
use crate::cluster::{Cluster, Pair, Scene, Stop};
use crate::oracle::{Since, assert_like_basebackup, assert_untouched, tree};

/// A table: its rows, how often the text of each is repeated, and those that change.
#[derive(Clone, Copy, PartialEq)]
struct Table {
    rows: u32,
    fillfactor: u32,
    repeated: u32,
    changed: &'static str,
}

const SMALL: Table = Table {
    rows: 60_000,
    fillfactor: 100,
    repeated: 1,
    changed: "i < 200",
};

/// Long enough for the run to find that most of it differs, and to hold its own blocks until they are complete.
const LONG: Table = Table {
    rows: 24_000,
    fillfactor: 10,
    repeated: 25,
    changed: "i % 5 < 2",
};

/// An old primary, stopped, that its successor differs from by what reading left on the pages, and by some rows.
fn read_since(scene: &Scene, table: Table) -> Pair {
    let Table {
        rows,
        fillfactor,
        repeated,
        changed,
    } = table;
    let mut pair = Pair::streaming(scene, |old| {
        // No index is built later, and nothing pruned: both would change more than hint bits.
        old.sql(&format!(
            "CREATE TABLE t (i int, f text) WITH (fillfactor = {fillfactor}, autovacuum_enabled = off);
             CREATE INDEX ON t (i);
             CREATE INDEX ON t USING hash (f);
             INSERT INTO t SELECT i, repeat(md5(i::text), {repeated}) FROM generate_series(1, {rows}) AS i;
             BEGIN; DELETE FROM t WHERE i % 9 = 0; ROLLBACK;
             CHECKPOINT",
        ));
    });
    pair.old.wait_caught_up(&pair.new);
    pair.fail_over();
    pair.old.stop(Stop::Fast);
    pair.new.sql(&format!(
        "SELECT count(*), sum(i), max(f) FROM t; UPDATE t SET f = f || 'y' WHERE {changed}; CHECKPOINT",
    ));
    pair
}

#[test]
fn blocks_that_only_reading_has_changed_are_patched_and_equal_to_the_last_byte() {
    let scene = Scene::new();
    let pair = read_since(&scene, SMALL);
    let before = tree(pair.old.pgdata());
    let dry = || pair.rebuild().arg("--dry-run");
    let with = dry().arg("--noise-patch").succeed();
    let without = dry().succeed();
    assert_untouched(&before, pair.old.pgdata());
    assert_eq!(
        with.number("differing_blocks"),
        without.number("differing_blocks")
    );
    assert_eq!(without.number("patched_blocks"), 0);
    let patched = with.number("patched_blocks");
    assert!(patched > 300, "{with}");
    assert_eq!(
        with.number("moved_blocks") + patched,
        without.number("moved_blocks")
    );
    assert!(
        with.number("moved_bytes") * 3 < without.number("moved_bytes"),
        "{with}{without}"
    );
    assert!(
        with.stdout.contains("in hint bits and the like only"),
        "{with}"
    );

    let said = pair.rebuild().arg("--noise-patch").succeed();
    for figure in [
        "differing_blocks",
        "moved_blocks",
        "patched_blocks",
        "moved_bytes",
    ] {
        assert_eq!(said.number(figure), with.number(figure), "{figure}");
    }
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
}

/// The proof is the block's own digest: a patch that makes something else of it is no patch.
fn blocks_that_patches_do_not_make_right_are_asked_for(table: Table) {
    let scene = Scene::new();
    let mut pair = read_since(&scene, table);
    let honest = pair
        .rebuild()
        .args(["--noise-patch", "--dry-run"])
        .succeed();
    let from = between(&pair.new, |twisted| {
        if let Answer::Blocks {
            packed,
            patch_bytes: 1..,
            ..
        } = &mut twisted.answer
        {
            *twisted.body.last_mut().unwrap() ^= 1;
            let body = std::mem::take(&mut twisted.body);
            let (new, body) = payload::pack(body.into(), &twisted.key, Compression::None);
            (*packed, twisted.body) = (new, body.to_vec());
        }
    });
    let said = pair_rebuild(&pair, &from).succeed();
    let [differing, moved, patched] = ["differing_blocks", "moved_blocks", "patched_blocks"]
        .map(|figure| [said.number(figure), honest.number(figure)]);
    assert_eq!(differing[0], differing[1]);
    assert_eq!(moved[0] + patched[0], moved[1] + patched[1]);
    assert!(patched[0] < patched[1], "{said}{honest}");
    // What is held is written with what lies between the blocks that differ.
    let is_held = said.number("written_bytes") > (moved[0] + patched[0]) * 8192 + (8 << 20);
    assert_eq!(is_held, table == LONG, "{said}");
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
    pair.old.start();
    pair.check_equal();
}

#[test]
fn blocks_that_a_patch_does_not_make_right_are_asked_for() {
    blocks_that_patches_do_not_make_right_are_asked_for(SMALL);
}

#[test]
fn blocks_that_a_patch_does_not_make_right_are_asked_for_where_most_blocks_differ() {
    blocks_that_patches_do_not_make_right_are_asked_for(LONG);
}

/// A wrong checksum is noise to a patch, and damage all the same.
#[test]
fn a_damaged_page_of_the_source_is_reported_though_a_patch_brings_it() {
    let scene = Scene::new();
    let mut pair = read_since(&scene, SMALL);
    let file = pair.new.sql("SELECT pg_relation_filepath('t')");
    pair.new.stop(Stop::Fast);
    let mut bytes = fs::read(pair.new.pgdata().join(&file)).unwrap();
    bytes[20 * 8192 + 8] ^= 1;
    pair.new.write(&file, &bytes);
    pair.new.start();
    let without = pair.rebuild().arg("--dry-run").fail(5);
    let said = pair.rebuild().arg("--noise-patch").fail(5);
    let damaged = &said.report()["damaged"];
    assert_eq!(damaged[0]["block"], 20, "{said}");
    assert_eq!(damaged, &without.report()["damaged"]);
    assert!(said.number("patched_blocks") > 300, "{said}");
    assert!(fs::read(pair.old.pgdata().join(&file)).unwrap() == bytes);
}

/// Needs 6 GB of room, so only the whole matrix has it.
#[test]
fn blocks_on_both_sides_of_the_end_of_a_segment_are_patched() {
    if std::env::var_os("PG_RESEED_TEST_LARGE").is_none() {
        eprintln!("PG_RESEED_TEST_LARGE is not set");
        return;
    }
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| {
        // One row a page: 131072 of these are a segment.
        old.sql(
            "CREATE TABLE long (i int, filler text) WITH (fillfactor = 10);
             INSERT INTO long SELECT i, repeat('x', 700) FROM generate_series(1, 131200) AS i;
             CHECKPOINT",
        );
    });
    pair.fail_over();
    pair.old.stop(Stop::Fast);
    let path = pair.new.sql("SELECT pg_relation_filepath('long')");
    let around = "ctid BETWEEN '(131000,0)' AND '(131199,9)'";
    // No more than these pages are read, but for 13, which reads all.
    let read = pair
        .new
        .sql(&format!("SELECT count(filler) FROM long WHERE {around}"));
    assert_eq!(read, "200");
    pair.new.sql("CHECKPOINT");
    let differs = |path: &str, block: usize| {
        let page = |cluster: &Cluster| {
            let file = fs::read(cluster.pgdata().join(path)).unwrap();
            file[block * 8192..][..8192].to_vec()
        };
        page(&pair.old) != page(&pair.new)
    };
    assert!(differs(&path, 131_071) && differs(&format!("{path}.1"), 0));
    let said = pair.rebuild().arg("--noise-patch").succeed();
    assert!(said.number("patched_blocks") >= 200, "{said}");
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
}
