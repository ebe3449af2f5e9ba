//! Blocks that differ in hint bits and the like only: patched instead of moved, and equal all the same.

use pg_reseed::wire::message::{Answer, Compression};
use pg_reseed::wire::payload;

use crate::between::{between, pair_rebuild};
use crate::cluster::{Pair, Scene, Stop};
use crate::oracle::{Since, assert_like_basebackup, assert_untouched, tree};

/// An old primary, stopped, that its successor differs from by what reading left on the pages, and by some rows.
fn read_since(scene: &Scene) -> Pair {
    let mut pair = Pair::streaming(scene, |old| {
        // No index is built later, and nothing pruned: both would change more than hint bits.
        old.sql(
            "CREATE TABLE t (i int, f text);
             CREATE INDEX ON t (i);
             CREATE INDEX ON t USING hash (f);
             INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 60000) AS i;
             BEGIN; DELETE FROM t WHERE i % 9 = 0; ROLLBACK;
             CHECKPOINT",
        );
    });
    pair.old.wait_caught_up(&pair.new);
    pair.fail_over();
    pair.old.stop(Stop::Fast);
    pair.new.sql(
        "SELECT count(*), sum(i), max(f) FROM t; UPDATE t SET f = f || 'y' WHERE i < 200; CHECKPOINT",
    );
    pair
}

#[test]
fn blocks_that_only_reading_has_changed_are_patched_and_equal_to_the_last_byte() {
    let scene = Scene::new();
    let pair = read_since(&scene);
    let before = tree(pair.old.pgdata());
    let dry = || pair.rebuild().arg("--dry-run");
    let (with, without) = (dry().succeed(), dry().arg("--no-noise-patch").succeed());
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

    let said = pair.rebuild().succeed();
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
#[test]
fn blocks_that_a_patch_does_not_make_right_are_asked_for() {
    let scene = Scene::new();
    let mut pair = read_since(&scene);
    let honest = pair.rebuild().arg("--dry-run").succeed();
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
    let [differing, moved, patched] =
        ["differing_blocks", "moved_blocks", "patched_blocks"].map(|figure| said.number(figure));
    assert_eq!(moved + patched, differing);
    assert_eq!(differing, honest.number("differing_blocks"));
    assert!(patched < honest.number("patched_blocks"), "{said}{honest}");
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
    pair.old.start();
    pair.check_equal();
}
