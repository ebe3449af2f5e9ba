//! What may differ between a primary and its standby and is no fault: each case is made by servers, seen on their disks,
//! and not told by `pg_reseed verify`.

use std::collections::BTreeMap;
use std::fs;

use pg_reseed::pg::canonical::{PageKind, kind};

use crate::cluster::{Cluster, Pair, Scene, Stop, major};
use crate::noise::{CHURN, READS, REUSE, SHORT_LIVES, WRITES};
use crate::oracle::settle;
use crate::verify::{BLOCK, file, page, pair, place, put, stop_both, verify, verify_stopped};

/// The blocks of a file that differ, behind LSN and checksum.
fn differing(a: &Cluster, b: &Cluster, path: &str) -> Vec<usize> {
    let [a, b] = [a, b].map(|cluster| fs::read(place(cluster, path)).unwrap());
    let pairs = a.chunks(BLOCK).zip(b.chunks(BLOCK)).enumerate();
    let unlike = pairs.filter(|(_, (a, b))| a[10..] != b[10..]);
    unlike.map(|(block, _)| block).collect()
}

#[test]
fn what_a_sequence_has_counted_ahead_is_no_fault() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: standby,
    } = pair(&scene);
    primary.sql("SELECT nextval('s')");
    settle(&primary, &standby);
    let path = file(&primary, "s");
    assert_eq!(differing(&primary, &standby, &path), [0]);
    verify(&standby, &primary, &[]).assert_equal();
}

#[test]
fn the_blocks_that_spgist_used_last_are_no_fault() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: standby,
    } = pair(&scene);
    primary.sql("INSERT INTO t SELECT i, i, 'more ' || i FROM generate_series(1, 3000) AS i");
    settle(&primary, &standby);
    let path = file(&primary, "t_f_idx");
    let metapage = page(&standby, &path, 0);
    assert_eq!(kind(&metapage), PageKind::Spgist);
    assert!(differing(&primary, &standby, &path).contains(&0));
    verify(&standby, &primary, &[]).assert_equal();
}

/// Pages that GIN and GiST have deleted, that a hash index has freed, items marked dead, hints, holes.
#[test]
fn what_replay_makes_otherwise_in_indexes_of_all_methods_is_no_fault() {
    let scene = Scene::new();
    let Pair {
        old: mut primary,
        new: mut standby,
    } = Pair::streaming(&scene, |old| {
        old.sql(crate::noise::TABLES);
    });
    primary.sql("VACUUM; CHECKPOINT");
    primary.sql(WRITES);
    primary.sql(READS);
    settle(&primary, &standby);
    standby.sql(READS);
    verify(&standby, &primary, &[]).assert_equal();
    for changes in [CHURN, REUSE, READS, REUSE, SHORT_LIVES, READS] {
        primary.sql(changes);
    }
    settle(&primary, &standby);
    standby.sql(READS);
    verify(&standby, &primary, &[]).assert_equal();
    let path = file(&primary, "t");
    let folder = path.rsplit_once('/').unwrap().0;
    stop_both(&mut primary, &mut standby);
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in fs::read_dir(place(&primary, folder)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = format!("{folder}/{name}");
        if name.bytes().all(|byte| byte.is_ascii_digit()) && place(&standby, &path).exists() {
            for block in differing(&primary, &standby, &path) {
                *kinds
                    .entry(kind(&page(&primary, &path, block)).name())
                    .or_default() += 1;
            }
        }
    }
    for kind in ["heap", "btree", "hash", "gist", "gin", "spgist"] {
        assert!(kinds.get(kind).is_some_and(|count| *count > 0), "{kinds:?}");
    }
    let found = verify_stopped(&standby, &primary);
    found.assert_equal();
    assert!(found.number("noise_blocks") > 20, "{found:?}");
}

#[test]
fn maps_of_free_space_and_unlogged_tables_are_each_side_s_own() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = pair(&scene);
    let map = format!("{}_fsm", file(&primary, "t"));
    let unlogged = file(&primary, "u");
    standby.stop(Stop::Fast);
    assert!(
        !place(&standby, &unlogged).exists() || differing(&primary, &standby, &unlogged).is_empty()
    );
    let mut bytes = fs::read(place(&standby, &map)).unwrap();
    bytes[100] ^= 0xff;
    fs::write(place(&standby, &map), bytes).unwrap();
    fs::write(place(&standby, &unlogged), vec![7; 3 * BLOCK]).unwrap();
    // One of a session that is gone.
    let folder = unlogged.rsplit_once('/').unwrap().0;
    fs::write(
        place(&standby, &format!("{folder}/t3_99999")),
        vec![7; BLOCK],
    )
    .unwrap();
    verify(&standby, &primary, &[]).assert_equal();
    fs::remove_file(place(&standby, &map)).unwrap();
    verify(&standby, &primary, &[]).assert_equal();
}

/// Replay leaves the flag alone on a page that is newer; the map says what counts.
#[test]
fn the_flag_of_visible_rows_alone_is_counted_and_no_fault() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = pair(&scene);
    let path = file(&primary, "plain");
    standby.stop(Stop::Fast);
    let mut flagged = page(&standby, &path, 4);
    assert_eq!(flagged[10] & 4, 0, "it was never vacuumed");
    flagged[10] |= 4;
    put(&standby, &path, 4, flagged);
    let found = verify(&standby, &primary, &[]);
    found.assert_equal();
    assert_eq!(found.number("all_visible_blocks"), 1, "{found:?}");
}

/// Of the pages of an access method that nobody knows, what may differ is not known.
#[test]
fn pages_of_an_unknown_kind_are_counted_as_not_compared() {
    let scene = Scene::new();
    let Pair {
        old: mut primary,
        new: mut standby,
    } = pair(&scene);
    let path = file(&primary, "plain");
    stop_both(&mut primary, &mut standby);
    for (cluster, content) in [(&primary, 1), (&standby, 2)] {
        let mut own = page(cluster, &path, 4);
        // A special space that no index method of the core has.
        own[16..18].copy_from_slice(&8000_u16.to_le_bytes());
        own[8000..].fill(content);
        assert_eq!(kind(&own), PageKind::Unknown);
        put(cluster, &path, 4, own);
    }
    let found = verify_stopped(&standby, &primary);
    assert_eq!(found.code, 7, "{found:?}");
    assert_eq!(found.number("unknown_blocks"), 1, "{found:?}");
    assert_eq!(found.found["verdict"], "incomplete");
}

/// What was made, dropped, cut off or rewritten behind the last checkpoint is there on one side only.
#[test]
fn what_came_and_went_since_the_last_checkpoint_is_no_fault() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = pair(&scene);
    primary.sql("CREATE TABLE short AS SELECT i FROM generate_series(1, 3000) AS i");
    settle(&primary, &standby);
    standby.stop(Stop::Fast);
    primary
        .sql("DROP TABLE short; TRUNCATE plain; VACUUM FULL t; CREATE TABLE made AS SELECT 1 AS i");
    // Its pages are older than itself, and so are those of a GiST index that was made anew. Before 15 there is no other way.
    primary.sql(if major() >= 15 {
        "CREATE DATABASE later STRATEGY file_copy"
    } else {
        "CREATE DATABASE later"
    });
    primary.sql("CHECKPOINT");
    let found = verify(&standby, &primary, &[]);
    assert!(found.faults().is_empty(), "{found:?}");
    assert_eq!(found.code, 7, "{found:?}");
    standby.start();
    settle(&primary, &standby);
    verify(&standby, &primary, &[]).assert_equal();
}
