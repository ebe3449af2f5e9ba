//! Two sides that part and go on, each in its own way: whatever they do, the noise patch changes nothing of the result.
//!
//! A history is made of dice; `PG_RESEED_TEST_SEED` repeats one.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::cluster::{Cluster, Dice, Pair, Rebuild, Scene, Stop, major};
use crate::oracle::{
    Since, assert_alike, assert_amcheck, assert_checksums, assert_like_basebackup,
    assert_same_data, databases, settle, tree,
};
use crate::verify::{BLOCK, verify};

#[test]
fn generated_histories_end_like_the_source_to_the_last_byte_with_the_noise_patch_and_without() {
    let histories = if std::env::var_os("PG_RESEED_TEST_SEED").is_some() {
        1
    } else if std::env::var_os("PG_RESEED_TEST_LARGE").is_some() {
        20
    } else {
        2
    };
    for _ in 0..histories {
        let mut dice = Dice::new(
            "generated_histories_end_like_the_source_to_the_last_byte_with_the_noise_patch_and_without",
        );
        end_like_the_source(&mut dice);
    }
}

fn end_like_the_source(dice: &mut Dice) {
    let scene = Scene::new();
    let (Pair { mut old, new }, mut writer) = common_past(&scene, dice);
    let mut other = writer.clone();
    new.promote();
    // What one side only reads differs in noise only, unless the other side writes to it.
    for writer in [&mut writer, &mut other] {
        writer.tables.retain(|_| dice.below(2) == 0);
    }
    // Only here: their hint bits are noise, whatever else happens.
    new.sql("SELECT count(*) FROM quiet");
    for _ in 0..8 + dice.below(8) {
        old.sql(&writer.steps(dice));
        new.sql(&other.steps(dice));
    }
    let open = [&old, &new].map(|cluster| {
        let session = cluster.sql_later(&left_open(dice));
        cluster.wait_sql(
            &format!("SELECT count(*) {LEFT_OPEN} AND wait_event = 'PgSleep'"),
            "1",
        );
        session
    });
    if dice.below(2) == 0 {
        old.sql("CHECKPOINT");
    }
    old.stop(dice.any(&[Stop::Fast, Stop::Immediate, Stop::Kill]));
    if dice.below(2) == 0 {
        damage(old.pgdata(), dice);
    }
    vacuum_catalogs(&new);
    fray(&new, dice);

    let mut with = scene.copy("with", &old);
    let mut without = scene.copy("without", &old);
    let ways: [&[&str]; 5] = [
        &[],
        &["--compress", "none", "--jobs", "1"],
        &["--compress", "zstd:5", "--jobs", "7"],
        &["--streams", "3"],
        &["--compress", "lz4", "--streams", "2", "--jobs", "2"],
    ];
    let patched = Rebuild::new(&with, &new)
        .arg("--noise-patch")
        .args(dice.any(&ways))
        .succeed();
    let whole = Rebuild::new(&without, &new).succeed();
    assert_alike(with.pgdata(), without.pgdata());
    assert_like_basebackup(&scene, &new, with.pgdata(), Since::Rebuilt);
    let figures = ["differing_blocks", "moved_blocks", "patched_blocks"];
    let [differing, moved, patches] = figures.map(|figure| patched.number(figure));
    eprintln!("{differing} blocks differed, {patches} of them were patched");
    assert!(patches > 0, "{patched}");
    assert_eq!(
        figures.map(|figure| whole.number(figure)),
        [differing, moved + patches, 0],
        "{patched}{whole}"
    );

    with.start();
    without.start();
    new.sql(&format!("SELECT pg_terminate_backend(pid) {LEFT_OPEN}"));
    new.wait_sql(&format!("SELECT count(*) {LEFT_OPEN}"), "0");
    drop(open);
    // Both standbys know the prepared transactions, and what comes next. Whole pages take the place of a piece of one.
    new.sql(&other.end_all_prepared(dice));
    new.sql("INSERT INTO quiet SELECT i, 'more' FROM generate_series(1, 1000) AS i");
    other.tables = TABLES.to_vec();
    for _ in 0..3 {
        new.sql(&other.steps(dice));
    }
    vacuum_catalogs(&new);
    for standby in [&with, &without] {
        new.wait_caught_up(standby);
        standby.sql(&reads(dice));
        assert_same_data(&new, standby);
        settle(&new, standby);
        verify(standby, &new, &[]).assert_equal();
    }
    assert_amcheck(&new, &with);
    if new.sql("SHOW data_checksums") == "on" {
        assert_checksums(&mut with);
    }
}

/// A primary and its standby when nothing has parted them yet, and who has written to both.
fn common_past(scene: &Scene, dice: &mut Dice) -> (Pair, Writer) {
    // With checksums a hint bit can be in WAL, without them it never is, unless all are.
    let mut old = match dice.below(3) {
        0 if major() >= 18 => scene.foreign_cluster("old", &["--no-data-checksums"]),
        0 => scene.foreign_cluster("old", &[]),
        _ => scene.cluster("old"),
    };
    for settings in [
        ["", "wal_log_hints = on", "full_page_writes = off"],
        // So small a cache is written back all the time, by readers, too.
        ["", "shared_buffers = 1MB", "wal_compression = on"],
    ] {
        old.configure(dice.any(&settings));
    }
    old.start();
    let bloom = "SELECT count(*) FROM pg_available_extensions WHERE name = 'bloom'";
    let mut writer = Writer {
        methods: match old.sql(bloom).as_str() {
            "0" => &METHODS[..METHODS.len() - 1],
            _ => &METHODS,
        },
        tables: TABLES.to_vec(),
        ..Writer::default()
    };
    old.sql(FOR_ALL);
    if writer.methods.len() == METHODS.len() {
        old.sql("CREATE EXTENSION bloom");
    }
    for table in TABLES {
        old.sql(&writer.make_table(table, dice, |_| true));
    }
    let new = scene.standby("new", &old, &[]);
    for _ in 0..6 + dice.below(6) {
        old.sql(&writer.steps(dice));
        if dice.below(2) == 0 {
            old.wait_caught_up(&new);
            new.sql(&reads(dice));
        }
    }
    // Both have its pages as they were written, and nobody has read them.
    old.sql(
        "INSERT INTO quiet SELECT i, md5(i::text) FROM generate_series(1, 8000) AS i; CHECKPOINT",
    );
    vacuum_catalogs(&old);
    settle(&old, &new);
    verify(&new, &old, &[]).assert_equal();
    (Pair { old, new }, writer)
}

/// Leaves nothing in the catalogs that who looks into them cleans up: rebuilds, base backups and `verify` do, one after the
/// other, and each shall find the same.
fn vacuum_catalogs(cluster: &Cluster) {
    for database in databases(cluster) {
        cluster.sql_in(
            &database,
            "SELECT format('VACUUM %s', oid::regclass) FROM pg_class
             WHERE relkind = 'r' AND relnamespace = 'pg_catalog'::regnamespace
             \\gexec\n",
        );
    }
}

/// A transaction that is still open when its server is killed, or its files are read.
fn left_open(dice: &mut Dice) -> String {
    let table = dice.any(&TABLES);
    format!(
        "SET statement_timeout = 0; BEGIN; UPDATE {table} SET h = -1 WHERE id % 3 = 0; SAVEPOINT a; \
         DELETE FROM {table} WHERE id % 7 = 0; INSERT INTO held VALUES (-1, 'open'); \
         SELECT 'left open', pg_sleep(3600)"
    )
}

/// The sessions in which one is.
const LEFT_OPEN: &str =
    "FROM pg_stat_activity WHERE query LIKE '%''left open''%' AND pid <> pg_backend_pid()";

/// Leaves the end of a file as a server does that could not make it longer: empty pages, and a piece of one.
fn fray(cluster: &Cluster, dice: &mut Dice) {
    let path = cluster.sql("SELECT pg_relation_filepath('quiet')");
    let file = fs::File::options()
        .append(true)
        .open(cluster.pgdata().join(path));
    let more = dice.any(&[0, BLOCK, 2 * BLOCK, BLOCK + 1000, 512]);
    file.unwrap().write_all(&vec![0; more]).unwrap();
}

/// Damages files of relations. Whatever a target has, it ends like the source.
fn damage(pgdata: &Path, dice: &mut Dice) {
    let paths = tree(pgdata)
        .into_keys()
        .filter(|path| {
            let (folder, name) = path.rsplit_once('/').unwrap_or_default();
            folder.starts_with("base/") && name.starts_with(|begin: char| begin.is_ascii_digit())
        })
        .map(|path| pgdata.join(path))
        .filter(|path| fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() > 0))
        .collect::<Vec<_>>();
    let one = |dice: &mut Dice| paths[dice.index(paths.len())].clone();
    for _ in 0..100 {
        let path = one(dice);
        let mut bytes = fs::read(&path).unwrap();
        let blocks = bytes.len() / BLOCK;
        let [block, other] = [0; 2].map(|_| BLOCK * dice.index(blocks.max(1)));
        match dice.below(7) {
            _ if blocks == 0 => bytes.clear(),
            0 => {
                let at = dice.index(bytes.len());
                bytes[at] ^= 1 << dice.below(8);
            }
            1 => bytes[block..block + BLOCK].fill(0),
            // As a page looks of which one half was written when the power failed.
            2 => bytes.copy_within(block..block + BLOCK / 2, other),
            3 => bytes.copy_within(block..block + BLOCK, other),
            4 => bytes.truncate(dice.index(bytes.len())),
            5 => bytes.extend(vec![dice.any(&[0, 1, 255]); 1 + dice.index(3 * BLOCK)]),
            _ => bytes = fs::read(one(dice)).unwrap(),
        }
        fs::write(path, bytes).unwrap();
    }
}

// ---------------------------------------------------------------------------------------- what is written

/// What every history has: what prepared transactions write to, as their locks would be waited for elsewhere, and what
/// nobody reads.
const FOR_ALL: &str = "
CREATE TABLE held (id int, f text);
CREATE INDEX ON held (id);
CREATE TABLE quiet (id int, f text);
CREATE TABLE wide (id int PRIMARY KEY, f text, g text);
ALTER TABLE wide ALTER COLUMN f SET STORAGE EXTERNAL;
CREATE MATERIALIZED VIEW sums AS SELECT id % 10 AS k, count(*) FROM wide GROUP BY 1;
CREATE SEQUENCE numbers;
CREATE DATABASE shop;
";

/// Tables that change, go and come again, on both sides under the same names.
const TABLES: [&str; 6] = ["t0", "t1", "t2", "t3", "t4", "t5"];

/// The columns that an insert fills, and what with.
const COLUMNS: &str = "(id, h, k, f, p, a)";
const VALUES: &str =
    "i, 0, i % 500, 'row ' || i % 1000, point(i % 100, i / 100), ARRAY[i % 5, 1000 + i % 77]";

/// Indexes of every method. The last one is none of the core.
const METHODS: [&str; 7] = [
    "btree (id)",
    "hash (k)",
    "gist (p)",
    "gin (a)",
    "spgist (f)",
    "brin (id) WITH (pages_per_range = 4)",
    "bloom (id, k)",
];

/// Scans of every method that can mark items as dead, and of the rest of them.
const READS: [&str; 7] = [
    "SELECT count(f) FROM t",
    "SELECT count(f) FROM t WHERE id > 0",
    "SELECT count(x.f) FROM generate_series(0, 99) AS g, LATERAL (SELECT f FROM t WHERE k = g OFFSET 0) AS x",
    "SELECT count(k) FROM t WHERE p <@ box '((0,0),(100,100))'",
    "SELECT count(k) FROM t WHERE f >= 'row'",
    "SELECT count(k) FROM t WHERE a @> ARRAY[3]",
    "SELECT count(f) FROM held WHERE id > 0",
];

fn reads(dice: &mut Dice) -> String {
    let settings = dice.any(&[
        "",
        "SET enable_seqscan = off; SET enable_indexonlyscan = off;",
        "SET enable_seqscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off;",
    ]);
    let scans = (0..3).map(|_| {
        let table = format!("FROM {} ", dice.any(&TABLES));
        format!("{} ;", dice.any(&READS)).replace("FROM t ", &table)
    });
    format!("{settings} {}", scans.collect::<String>())
}

/// One side: what it writes next depends on what has become of it.
#[derive(Default, Clone)]
struct Writer {
    methods: &'static [&'static str],
    /// The tables that it writes to.
    tables: Vec<&'static str>,
    /// Transactions that are prepared, by number.
    prepared: Vec<u64>,
    /// Numbers that were given away.
    numbers: u64,
}

impl Writer {
    /// What happens next, in one session.
    fn steps(&mut self, dice: &mut Dice) -> String {
        (0..=dice.below(4))
            .map(|_| self.step(dice) + "\n")
            .collect()
    }

    fn step(&mut self, dice: &mut Dice) -> String {
        match dice.below(16) {
            0..=1 => self.prepare_or_end(dice),
            2..=5 => reads(dice),
            6..=8 => beside(dice),
            _ if self.tables.is_empty() => reads(dice),
            _ => self.change(dice.any(&self.tables), dice),
        }
    }

    fn prepare_or_end(&mut self, dice: &mut Dice) -> String {
        if self.prepared.len() > 3 || (!self.prepared.is_empty() && dice.below(2) == 0) {
            return self.end_prepared(dice);
        }
        self.numbers += 1;
        let number = self.numbers;
        self.prepared.push(number);
        let first = number * 1000;
        let rows = 1 + dice.below(300);
        format!(
            "BEGIN; INSERT INTO held SELECT i, 'held' FROM generate_series({first}, {first} + {rows}) AS i;
             SAVEPOINT a; UPDATE held SET f = 'again' WHERE id BETWEEN {first} AND {first} + {rows} / 2;
             PREPARE TRANSACTION 'p{number}';"
        )
    }

    fn end_prepared(&mut self, dice: &mut Dice) -> String {
        let how = dice.any(&["COMMIT", "ROLLBACK"]);
        let number = self.prepared.remove(0);
        format!("{how} PREPARED 'p{number}';")
    }

    fn end_all_prepared(&mut self, dice: &mut Dice) -> String {
        let count = self.prepared.len();
        (0..count).map(|_| self.end_prepared(dice)).collect()
    }

    /// A table with indexes of these methods, filled before or after these are made.
    fn make_table(
        &self,
        table: &str,
        dice: &mut Dice,
        mut has: impl FnMut(&mut Dice) -> bool,
    ) -> String {
        let fill = dice.any(&[40, 70, 100]);
        let make = format!(
            "CREATE TABLE {table} (id int, h int, k int, f text, p point, a int[]) WITH (fillfactor = {fill});"
        );
        let insert = insert(table, 1 + dice.below(4000));
        let indexes = self
            .methods
            .iter()
            .filter(|_| has(dice))
            .map(|method| format!("CREATE INDEX ON {table} USING {method};"))
            .collect::<String>();
        match dice.below(2) {
            0 => format!("{make} {insert} {indexes}"),
            _ => format!("{make} {indexes} {insert}"),
        }
    }

    /// What happens to a table.
    fn change(&self, table: &str, dice: &mut Dice) -> String {
        let every = 2 + dice.below(11);
        let some = format!("id % {every} = {}", dice.below(every));
        let insert = insert(table, 1 + dice.below(1500));
        // HOT where there is room on the page.
        let touch = format!("UPDATE {table} SET h = h + 1 WHERE {some};");
        let update = format!(
            "UPDATE {table} SET k = k + 1, f = f || 'x', p = point(h, id % 50), a = a || h::int WHERE {some};"
        );
        let delete = format!("DELETE FROM {table} WHERE {some};");
        let end = dice.any(&["COMMIT;", "COMMIT;", "ROLLBACK;"]);
        match dice.below(18) {
            0 => insert,
            1..=2 => touch,
            3 => update,
            4 => delete,
            5 => format!("BEGIN; {update} {insert} {delete} ROLLBACK;"),
            6 => format!(
                "BEGIN; SAVEPOINT a; {insert} ROLLBACK TO a; {touch} SAVEPOINT b; {delete} SAVEPOINT c; {insert}
                 RELEASE b; {end}"
            ),
            // More subtransactions than a session keeps in memory.
            7 => format!(
                "DO $$ BEGIN
                     FOR i IN 1..100 LOOP
                         BEGIN
                             INSERT INTO {table} {COLUMNS} SELECT {VALUES};
                             PERFORM 1 / (i % 3);
                         EXCEPTION WHEN division_by_zero THEN NULL;
                         END;
                     END LOOP;
                 END $$;"
            ),
            // Rows with two lockers, or with a locker and a writer.
            8 => format!(
                "BEGIN; SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {some} FOR KEY SHARE) AS x;
                 SAVEPOINT a; SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {some} FOR SHARE) AS x;
                 SAVEPOINT b; {touch} {end}"
            ),
            // They come and go within one transaction.
            9 => format!("BEGIN; {insert} {update} DELETE FROM {table} WHERE h = 0 AND {some}; {end}"),
            10..=11 => {
                let options = dice.any(&[
                    "",
                    "",
                    "(FREEZE)",
                    "(FREEZE, DISABLE_PAGE_SKIPPING)",
                    "(INDEX_CLEANUP off)",
                    "(TRUNCATE off, ANALYZE)",
                    "(FULL)",
                ]);
                format!("VACUUM {options} {table};")
            }
            12 => format!("BEGIN; TRUNCATE {table}; {insert} {end}"),
            13 => format!(
                "BEGIN; TRUNCATE {table}; COPY {table} (id) FROM PROGRAM 'seq 1 3000' WITH (FREEZE); {end}"
            ),
            14 => {
                let what = dice.any(&["REINDEX TABLE", "VACUUM FULL", "ANALYZE"]);
                format!("{what} {table};")
            }
            15 => {
                let again = self.make_table(table, dice, |dice| dice.below(2) == 0);
                format!("DROP TABLE {table}; {again}")
            }
            16 => {
                let number = dice.below(100);
                let what = dice.any(&[
                    "ADD COLUMN IF NOT EXISTS x int DEFAULT 0",
                    "DROP COLUMN IF EXISTS x",
                    "ALTER COLUMN h TYPE bigint",
                    "ALTER COLUMN h TYPE int",
                ]);
                format!("ALTER TABLE {table} {what}; UPDATE {table} SET h = {number} WHERE {some};")
            }
            _ => self.change_indexes(table, dice),
        }
    }

    fn change_indexes(&self, table: &str, dice: &mut Dice) -> String {
        let each = |method: &str, what: &str| {
            format!(
                "SELECT format('{what}', c.oid::regclass) FROM pg_class AS c
                     JOIN pg_index AS i ON c.oid = i.indexrelid JOIN pg_am AS a ON a.oid = c.relam
                 WHERE i.indrelid = '{table}'::regclass AND a.amname LIKE '{method}'
                 ORDER BY c.oid LIMIT 1
                 \\gexec\n"
            )
        };
        match dice.below(5) {
            0 => format!("CREATE INDEX ON {table} USING {};", dice.any(self.methods)),
            1 => each("%", "DROP INDEX %s"),
            2 => each("%", "REINDEX INDEX %s"),
            3 => each("gin", "SELECT gin_clean_pending_list(%L)"),
            _ => each("brin", "SELECT brin_summarize_new_values(%L)"),
        }
    }
}

fn insert(table: &str, rows: u64) -> String {
    format!(
        "INSERT INTO {table} {COLUMNS} SELECT {VALUES} FROM generate_series({rows}, 2 * {rows}) AS i;"
    )
}

/// What happens to everything else.
fn beside(dice: &mut Dice) -> String {
    let rows = 1 + dice.below(40);
    let every = 2 + dice.below(5);
    match dice.below(14) {
        0..=2 => format!(
            "INSERT INTO wide SELECT i, repeat(md5(i::text), 100 + i % 50),
                 (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 150) AS j)
             FROM generate_series({rows}, 2 * {rows}) AS i
             ON CONFLICT (id) DO UPDATE SET f = EXCLUDED.f || 'x', g = wide.g;"
        ),
        3 => format!("DELETE FROM wide WHERE id % {every} = 0; VACUUM wide;"),
        4 => format!("BEGIN; UPDATE wide SET f = f || 'lost' WHERE id % {every} = 1; ROLLBACK;"),
        5 => format!("SELECT count(nextval('numbers')) FROM generate_series(1, {rows});"),
        6 => format!("SELECT setval('numbers', {rows});"),
        7 => format!(
            "DROP TABLE IF EXISTS u; CREATE UNLOGGED TABLE u AS SELECT i FROM generate_series(1, 50 * {rows}) AS i;
             CREATE INDEX ON u (i);"
        ),
        8 => {
            let kind = dice.any(&["LOGGED", "UNLOGGED"]);
            format!("CREATE UNLOGGED TABLE IF NOT EXISTS u AS SELECT 1 AS i; ALTER TABLE u SET {kind};")
        }
        9 => {
            let strategy = dice.any(&["wal_log", "file_copy"]);
            format!("DROP DATABASE IF EXISTS d; CREATE DATABASE d TEMPLATE shop STRATEGY {strategy};")
        }
        10 => format!(
            "SELECT lo_from_bytea(0, repeat('l', 1000 * {rows})::bytea);
             SELECT lo_put(max(oid), 3000, 'changed') FROM pg_largeobject_metadata;
             SELECT lo_unlink(min(oid)) FROM pg_largeobject_metadata HAVING count(*) > 3;"
        ),
        11 => "REFRESH MATERIALIZED VIEW sums; VACUUM (FREEZE) held;".to_owned(),
        12 => "SELECT pg_switch_wal();".to_owned(),
        _ => "CHECKPOINT;".to_owned(),
    }
}
