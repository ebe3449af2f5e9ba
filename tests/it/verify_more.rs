//! `pg_reseed verify` beside what changes: files, visibility maps, two histories, load.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cluster::{Load, Pair, Scene, Stop};
use crate::oracle::settle;
use crate::verify::{
    BLOCK, TABLES, file, page, pair, place, put, run, stop_both, verify, verify_stopped,
};

#[test]
fn files_that_are_missing_or_too_many_are_found() {
    let scene = Scene::new();
    let Pair {
        old: mut primary,
        new: mut standby,
    } = pair(&scene);
    let path = file(&primary, "plain");
    standby.stop(Stop::Fast);
    let content = fs::read(place(&standby, &path)).unwrap();
    fs::remove_file(place(&standby, &path)).unwrap();
    // The source runs, the standby does not.
    let found = verify(&standby, &primary, &[]);
    assert_eq!(
        found.faults(),
        [("missing-file".to_owned(), None)],
        "{found:?}"
    );
    assert_eq!(found.found["faults"][0]["relation"], "public.plain");
    // Both run.
    standby.start();
    settle(&primary, &standby);
    let ticking = Load::script(
        &primary,
        1,
        "CHECKPOINT;\nSELECT pg_switch_wal();\nSELECT pg_sleep(0.2);\n",
    );
    let restarting = Load::script(&standby, 1, "CHECKPOINT;\nSELECT pg_sleep(0.2);\n");
    let conninfo = format!("{} dbname=postgres", primary.conninfo());
    let options = [
        "--source-dbname",
        &conninfo,
        "--wait",
        "60",
        "--passes",
        "5",
    ];
    let found = run(&standby, &options);
    assert!(
        found.faults().contains(&("missing-file".to_owned(), None)),
        "{found:?}"
    );
    restarting.stop(&standby);
    ticking.stop(&primary);
    // Neither runs.
    stop_both(&mut primary, &mut standby);
    let found = verify_stopped(&standby, &primary);
    assert_eq!(
        found.faults(),
        [("missing-file".to_owned(), None)],
        "{found:?}"
    );
    fs::write(place(&standby, &path), content).unwrap();
    verify_stopped(&standby, &primary).assert_equal();
    let more = format!("{}/999999", path.rsplit_once('/').unwrap().0);
    fs::copy(place(&standby, &path), place(&standby, &more)).unwrap();
    let found = verify_stopped(&standby, &primary);
    assert_eq!(
        found.faults(),
        [("superfluous-file".to_owned(), None)],
        "{found:?}"
    );
    fs::remove_file(place(&standby, &more)).unwrap();
    // A file that is no relation's.
    let map = "global/pg_filenode.map";
    let whole = fs::read(place(&standby, map)).unwrap();
    let mut wrong = whole.clone();
    wrong[100] ^= 1;
    fs::write(place(&standby, map), wrong).unwrap();
    let found = verify_stopped(&standby, &primary);
    assert_eq!(
        found.faults(),
        [("file-content".to_owned(), None)],
        "{found:?}"
    );
    fs::write(place(&standby, map), whole).unwrap();
    // Blocks at the end.
    let length = fs::metadata(place(&standby, &path)).unwrap().len();
    let file = fs::File::options()
        .write(true)
        .open(place(&standby, &path))
        .unwrap();
    file.set_len(length - BLOCK as u64).unwrap();
    let last = length / BLOCK as u64 - 1;
    verify_stopped(&standby, &primary).assert_one("missing-on-standby", last);
}

#[test]
fn what_is_no_standby_of_the_source_is_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let found = verify(&pair.old, &pair.new, &[]);
    assert_eq!(found.code, 3, "{found:?}");
    assert!(
        found.stderr.contains("is no standby of the source"),
        "{found:?}"
    );
    assert!(found.stderr.contains("Nothing was changed in"), "{found:?}");
    assert!(found.stderr.contains("pg_reseed rebuild"), "{found:?}");
    let foreign = scene.foreign_cluster("foreign", &[]);
    let found = verify(&foreign, &pair.new, &[]);
    assert_eq!(found.code, 3, "{found:?}");
    // A server runs where none shall.
    let directory = pair.new.pgdata().to_str().unwrap();
    let found = run(&pair.old, &["--source-pgdata", directory]);
    assert_eq!(found.code, 1, "{found:?}");
    assert!(found.stderr.contains("a server runs in"), "{found:?}");
}

/// Says that it is over, also when a test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_alarm_is_raised_under_load() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: standby,
    } = Pair::streaming(&scene, |old| {
        old.configure("autovacuum_naptime = '1s'\nshared_buffers = '2MB'");
        old.restart();
        old.sql(TABLES);
        Load::init(old, 1);
    });
    let load = Load::start(&primary, 7);
    let changes = Load::script(
        &primary,
        7,
        "UPDATE t SET f = f || 'x' WHERE i % 97 = 0;\n\
         DELETE FROM t WHERE i % 101 = 0;\n\
         INSERT INTO t SELECT i, i % 500, 'row ' || i, point(i % 100, i / 100), ARRAY[i % 5] FROM generate_series(1, 400) AS i;\n\
         SELECT nextval('s');\n\
         VACUUM t;\n\
         CREATE TABLE made AS SELECT i FROM generate_series(1, 5000) AS i;\n\
         CREATE INDEX ON made (i);\n\
         DROP TABLE made;\n\
         REINDEX INDEX t_i_idx;\n\
         TRUNCATE plain;\n\
         INSERT INTO plain SELECT i, md5(i::text) FROM generate_series(1, 3000) AS i;\n\
         DELETE FROM plain WHERE i > 500;\n\
         VACUUM plain;\n\
         SET synchronous_commit = off;\n\
         DO $$ BEGIN FOR k IN 1..500 LOOP BEGIN INSERT INTO plain VALUES (k, 'sub'); \
             IF k % 3 = 0 THEN RAISE EXCEPTION 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;\n\
         BEGIN;\n\
         INSERT INTO plain VALUES (-9, 'no');\n\
         ROLLBACK;\n\
         RESET synchronous_commit;\n\
         CHECKPOINT;\n",
    );
    let rounds = match std::env::var_os("PG_RESEED_TEST_LARGE") {
        Some(_) => 100,
        None => 3,
    };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Reads, too, set hints; one that is in the way of replay is cancelled, or its session is ended.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for statement in [
                    "SELECT count(f) FROM t",
                    "SELECT count(*) FROM pgbench_accounts WHERE abalance > 0",
                    "CHECKPOINT",
                ] {
                    let _ = standby.try_sql("postgres", statement);
                }
            }
        });
        let ends = Ends(&is_over);
        for _ in 0..rounds {
            let conninfo = format!("{} dbname=postgres", primary.conninfo());
            let found = run(&standby, &["--source-dbname", &conninfo, "--wait", "2"]);
            assert!([0, 7].contains(&found.code), "{found:?}");
            assert!(found.number("blocks") > 1000, "{found:?}");
            let compared = found.number("blocks") - found.number("pending_blocks");
            eprintln!("{compared} of {} blocks compared", found.number("blocks"));
        }
        drop(ends);
    });
    changes.stop(&primary);
    load.stop(&primary);
    settle(&primary, &standby);
    verify(&standby, &primary, &[]).assert_equal();
}

#[test]
fn a_promise_of_the_visibility_map_that_the_table_denies_is_found() {
    let scene = Scene::new();
    let Pair {
        old: primary,
        new: mut standby,
    } = pair(&scene);
    primary.sql("DELETE FROM t WHERE ctid = '(2,1)'");
    settle(&primary, &standby);
    standby.stop(Stop::Fast);
    let path = format!("{}_vm", file(&primary, "t"));
    let whole = page(&standby, &path, 0);
    // Two bits a block behind the header: block 2 has the third pair of the first byte.
    assert_eq!(whole[24] >> 4 & 0x03, 0, "the bit is clear");
    let mut wrong = whole.clone();
    wrong[24] |= 0x10;
    put(&standby, &path, 0, wrong);
    let found = verify(&standby, &primary, &[]);
    let fault = found.assert_one("promised-visible", 0);
    assert_eq!(fault["fork"], "vm");
    assert!(
        fault["words"]
            .as_str()
            .unwrap()
            .contains("block 2 of the table")
    );
    // Too little is harmless.
    let mut careful = whole;
    careful[24] = 0;
    put(&standby, &path, 0, careful);
    verify(&standby, &primary, &[]).assert_equal();
}
