//! The judges: what two trees and two servers really hold, found out the slow and simple way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, Scene, Stop, done, major, tool};

const BLOCK: usize = 8192;

// ------------------------------------------------------------------------------------------- trees

/// One entry of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Folder {
        mode: u32,
    },
    File {
        mode: u32,
        length: u64,
        digest: blake3::Hash,
    },
    Link {
        to: PathBuf,
    },
}

/// All that a data directory holds, by relative path; tablespaces and a linked pg_wal are followed.
pub type Tree = BTreeMap<String, Entry>;

pub fn tree(pgdata: &Path) -> Tree {
    let mut tree = Tree::new();
    read_into(&mut tree, pgdata, "");
    tree
}

fn read_into(tree: &mut Tree, folder: &Path, prefix: &str) {
    for entry in
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
    {
        let entry = entry.unwrap();
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let meta = fs::symlink_metadata(&path).unwrap();
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_symlink() {
            tree.insert(
                name.clone(),
                Entry::Link {
                    to: fs::read_link(&path).unwrap(),
                },
            );
            if path.is_dir() {
                read_into(tree, &path, &format!("{name}/"));
            }
        } else if meta.is_dir() {
            tree.insert(name.clone(), Entry::Folder { mode });
            read_into(tree, &path, &format!("{name}/"));
        } else {
            assert!(meta.is_file(), "neither file nor folder: {name}");
            let mut hasher = blake3::Hasher::new();
            hasher
                .update_reader(fs::File::open(&path).unwrap())
                .unwrap();
            tree.insert(
                name,
                Entry::File {
                    mode,
                    length: meta.len(),
                    digest: hasher.finalize(),
                },
            );
        }
    }
}

/// What differs between two trees, a line each; `judged` chooses the paths.
fn differences(left: &Tree, right: &Tree, judged: impl Fn(&str) -> bool) -> Vec<String> {
    let paths = left.keys().chain(right.keys()).collect::<BTreeSet<_>>();
    paths
        .into_iter()
        .filter(|path| judged(path))
        .filter_map(|path| match (left.get(path), right.get(path)) {
            (Some(l), Some(r)) if l == r => None,
            (Some(l), Some(r)) => Some(format!("{path}: {l:?} became or is {r:?}")),
            (Some(_), None) => Some(format!("{path}: only on the left")),
            (None, _) => Some(format!("{path}: only on the right")),
        })
        .collect()
}

/// Proves that nothing was written: every file, folder, link, mode and byte is as before.
pub fn assert_untouched(before: &Tree, pgdata: &Path) {
    let changed = differences(before, &tree(pgdata), |_| true);
    assert!(
        changed.is_empty(),
        "the target was touched:\n{}",
        changed.join("\n")
    );
}

/// Proves that two targets hold the same bytes, but for what is each copy's own.
pub fn assert_alike(left: &Path, right: &Path) {
    let differing = differences(&tree(left), &tree(right), |path| !own_of_a_copy(path));
    assert!(
        differing.is_empty(),
        "both targets differ:\n{}",
        differing.join("\n")
    );
}

/// Whether a running server, or the way it was started, may change this path (with all below it).
fn changed_by_running(path: &str) -> bool {
    const NAMES: [&str; 8] = [
        "backup_label.old",
        "tablespace_map.old",
        "postmaster.opts",
        "postmaster.pid",
        "current_logfiles",
        "pg_stat",
        "pg_stat_tmp",
        "pg_notify",
    ];
    NAMES.iter().any(|name| below(path, name))
        || below(path, "pg_subtrans")
        || below(path, "pg_replslot")
        || path.ends_with("/pg_internal.init")
}

fn below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What is each copy's own: configuration, label, signal, WAL, the control file's bytes.
fn own_of_a_copy(path: &str) -> bool {
    const OWN: [&str; 10] = [
        "backup_label",
        // pg_basebackup copies it, although it describes another life of the source's directory.
        "backup_label.old",
        "backup_manifest",
        "tablespace_map",
        "standby.signal",
        "postgresql.conf",
        "postgresql.auto.conf",
        "pg_hba.conf",
        "pg_ident.conf",
        "global/pg_control",
    ];
    OWN.contains(&path) || path.starts_with("pg_wal/")
}

/// How strictly [`assert_like_basebackup`] judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// The target has not been started: every byte.
    Rebuilt,
    /// The target ran as a standby, and nobody wrote or read on the source: every byte, but for what
    /// a running server changes outside relations.
    Started,
    /// Sessions read and wrote on the source meanwhile: as `Started`, but pages whose last WAL record is
    /// the same may differ (hint bits are set without WAL), and free space maps are not judged.
    Used,
}

/// Compares `target` (no server) with a `pg_basebackup` taken now from the running `source`.
pub fn assert_like_basebackup(scene: &Scene, source: &Cluster, target: &Path, since: Since) {
    let differing = unlike_basebackup(scene, source, target, since);
    assert!(
        differing.is_empty(),
        "the target (left) is not what pg_basebackup gives (right), {} differences:\n{}",
        differing.len(),
        differing[..differing.len().min(30)].join("\n")
    );
}

fn unlike_basebackup(scene: &Scene, source: &Cluster, target: &Path, since: Since) -> Vec<String> {
    assert!(!target.join("postmaster.pid").exists(), "the target runs");
    let copy = tempfile::Builder::new()
        .prefix("copy")
        .tempdir_in(scene.path())
        .unwrap();
    let mapping = source
        .tablespaces()
        .iter()
        // One in the data directory goes with it.
        .filter(|(_, location)| location.is_absolute())
        .map(|(oid, location)| {
            format!(
                "--tablespace-mapping={}={}",
                location.display(),
                copy.path().join(oid.to_string()).display()
            )
        })
        .collect::<Vec<_>>();
    let data = copy.path().join("data");
    source.basebackup(
        &data,
        &mapping.iter().map(String::as_str).collect::<Vec<_>>(),
    );

    let mut got = tree(target);
    let mut wanted = tree(&data);
    for tree in [&mut got, &mut wanted] {
        for (path, entry) in tree.iter_mut() {
            // Where a link leads is each copy's own; that it is there is not.
            if let Entry::Link { to } = entry {
                if path.starts_with("pg_tblspc/") {
                    *to = PathBuf::new();
                } else if path == "pg_wal" {
                    *entry = Entry::Folder { mode: 0o700 };
                }
            }
        }
    }
    let judged =
        |path: &str| !own_of_a_copy(path) && (since == Since::Rebuilt || !changed_by_running(path));
    let mut differing = differences(&got, &wanted, judged);
    if since == Since::Used {
        differing.retain(|line| {
            let path = line.split_once(": ").unwrap().0;
            !same_but_for_hints(&target.join(path), &data.join(path))
        });
    }
    let judged_files = wanted
        .iter()
        .filter(|(path, entry)| judged(path) && matches!(entry, Entry::File { .. }))
        .count();
    assert!(
        judged_files > 900,
        "a cluster has more files than {judged_files}"
    );
    differing
}

/// Whether two files of a relation differ in nothing that WAL describes. Pages of relations that differ
/// carry the same LSN, and the target may lack empty pages at the end. A free space map is never described by
/// WAL. A visibility map may lack bits or pages in the target (making its file is not logged, and `CREATE
/// DATABASE ... STRATEGY wal_log` logs it without content), but it must not have more.
fn same_but_for_hints(target: &Path, copy: &Path) -> bool {
    let name = target.file_name().unwrap().to_str().unwrap();
    if !is_relation_file(name) {
        return false;
    }
    if name.contains("_fsm") {
        return true;
    }
    let (theirs, ours) = (fs::read(copy), fs::read(target));
    if name.contains("_vm") {
        let bits = |file: &[u8]| {
            file.chunks(BLOCK)
                .flat_map(|page| page[24..].to_vec())
                .collect::<Vec<u8>>()
        };
        let (ours, mut theirs) = (
            bits(&ours.unwrap_or_default()),
            bits(&theirs.unwrap_or_default()),
        );
        theirs.resize(theirs.len().max(ours.len()), 0);
        return ours.iter().zip(&theirs).all(|(o, t)| o & !t == 0);
    }
    let (Ok(theirs), Ok(ours)) = (theirs, ours) else {
        return false;
    };
    // From 16 on a server makes a file longer than it has rows for yet, and says so to nobody.
    let beyond = theirs.get(ours.len()..);
    beyond.is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
        && ours
            .chunks(BLOCK)
            .zip(theirs.chunks(BLOCK))
            .all(|(o, t)| o == t || o[..8] == t[..8])
}

fn is_relation_file(name: &str) -> bool {
    let base = name.split(['_', '.']).next().unwrap();
    !base.is_empty() && base.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a perfect tool has to move for `target` to become like `source`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Differing {
    /// 8 KiB blocks of relation files that differ where both sides have them.
    pub common: u64,
    /// Blocks of relation files that only the source has (missing files, missing ends).
    pub missing: u64,
    /// Blocks (or parts of them) of all other files that differ or are missing.
    pub other: u64,
}

impl Differing {
    pub fn sum(self) -> u64 {
        self.common + self.missing + self.other
    }
}

/// Counts blocks that differ between two trees, one file after the other. Both servers must be quiet, and
/// the source checkpointed.
pub fn count_differing(target: &Path, source: &Path) -> Differing {
    let mut count = Differing::default();
    let unlogged = tree_paths(source)
        .into_iter()
        .filter_map(|path| path.strip_suffix("_init").map(str::to_owned))
        .collect::<BTreeSet<_>>();
    for path in tree_paths(source) {
        let folder = path.split('/').next().unwrap();
        let name = path.rsplit('/').next().unwrap();
        let moved = matches!(
            folder,
            "base"
                | "global"
                | "pg_tblspc"
                | "pg_xact"
                | "pg_multixact"
                | "pg_commit_ts"
                | "pg_twophase"
                | "pg_logical"
        ) && name != "pg_internal.init"
            && path != "global/pg_control"
            && (path.ends_with("_init") || !unlogged.contains(relation_path(&path)));
        if !moved {
            continue;
        }
        let theirs = fs::read(source.join(&path)).unwrap();
        let ours = fs::read(target.join(&path)).unwrap_or_default();
        let mut ours = ours.chunks(BLOCK);
        for block in theirs.chunks(BLOCK) {
            let counter = match ours.next() {
                Some(same) if same == block => continue,
                _ if !is_relation_file(name) => &mut count.other,
                Some(_) => &mut count.common,
                None => &mut count.missing,
            };
            *counter += 1;
        }
    }
    count
}

/// How many pages of main forks carry the same LSN on both sides and are not equal.
pub fn count_same_lsn_differing(left: &Path, right: &Path) -> u64 {
    let mut count = 0;
    for path in tree_paths(left) {
        let name = path.rsplit('/').next().unwrap();
        if !is_relation_file(name)
            || name.contains('_')
            || !(path.starts_with("base/") || path.starts_with("global/"))
        {
            continue;
        }
        let (l, r) = (
            fs::read(left.join(&path)).unwrap(),
            fs::read(right.join(&path)).unwrap_or_default(),
        );
        for (l, r) in l.chunks(BLOCK).zip(r.chunks(BLOCK)) {
            count += u64::from(l != r && l[..8] == r[..8]);
        }
    }
    count
}

/// `base/5/16384_fsm.1` without fork and segment.
fn relation_path(path: &str) -> &str {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    path[name..]
        .find(['_', '.'])
        .map_or(path, |end| &path[..name + end])
}

/// The regular files below `pgdata`, tablespaces included.
fn tree_paths(pgdata: &Path) -> Vec<String> {
    fn walk(found: &mut Vec<String>, folder: &Path, prefix: &str) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                walk(found, &entry.path(), &format!("{name}/"));
            } else if entry.path().is_file() {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    walk(&mut found, pgdata, "");
    found
}

// ----------------------------------------------------------------------------------------- servers

/// The databases that let sessions in.
pub fn databases(cluster: &Cluster) -> Vec<String> {
    let names = cluster.sql("SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1");
    names.lines().map(str::to_owned).collect()
}

/// For every table of every database, catalogs and large objects included: the number of its rows and a
/// digest of their text and places. Sequences run ahead on a standby and unlogged tables are closed there:
/// both are left out.
pub fn digests(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut digests = BTreeMap::new();
    for database in databases(cluster) {
        let lines = cluster.sql_in(
            &database,
            "SET extra_float_digits = 3; SET DateStyle = ISO;
             SELECT format(
                 'SELECT %L, count(*), sum(hashtextextended(%s, 0)::numeric) FROM ONLY %s AS t',
                 oid::regclass,
                 CASE relkind WHEN 't' THEN 'concat_ws('','', ctid, chunk_id, chunk_seq, chunk_data)'
                     ELSE 'ctid::text || t::text' END,
                 oid::regclass)
             FROM pg_class
             WHERE relkind IN ('r', 't', 'm') AND relpersistence = 'p'
             ORDER BY oid
             \\gexec\n",
        );
        for line in lines.lines() {
            let (table, digest) = line.split_once('|').unwrap();
            digests.insert(format!("{database}: {table}"), digest.to_owned());
        }
    }
    digests
}

/// Compares every table on both sides; `standby` must have replayed what `source` has, and nobody writes.
pub fn assert_same_data(source: &Cluster, standby: &Cluster) {
    let wanted = digests(source);
    let got = digests(standby);
    assert!(
        wanted.len() > 100,
        "the catalogs alone have more tables than {}",
        wanted.len()
    );
    let differing = wanted
        .keys()
        .chain(got.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|table| wanted.get(*table) != got.get(*table))
        .map(|table| {
            format!(
                "{table}: source {:?}, standby {:?}",
                wanted.get(table),
                got.get(table)
            )
        })
        .collect::<Vec<_>>();
    assert!(
        differing.is_empty(),
        "tables differ:\n{}",
        differing.join("\n")
    );
}

/// Checks heaps and B-trees of all databases of `standby`, with an extension that `source` is given.
pub fn assert_amcheck(source: &Cluster, standby: &Cluster) {
    for database in databases(source) {
        source.sql_in(&database, "CREATE EXTENSION IF NOT EXISTS amcheck");
    }
    source.wait_caught_up(standby);
    if major() < 14 {
        // pg_amcheck came with 14, and so did verify_heapam.
        for database in databases(source) {
            standby.sql_in(
                &database,
                "SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam \
                 WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p'",
            );
        }
        return;
    }
    done(standby.client("pg_amcheck").args([
        "--all",
        "--heapallindexed",
        "--jobs=2",
        "--exclude-database=template0",
    ]));
}

/// Brings both sides' memory to their disks: the source's checkpoint, replayed, lets the standby make one.
pub fn settle(source: &Cluster, standby: &Cluster) {
    source.sql("CHECKPOINT");
    source.wait_caught_up(standby);
    standby.sql("CHECKPOINT");
}

/// Stops the server and checks all page checksums; it is left stopped.
pub fn assert_checksums(cluster: &mut Cluster) {
    let has_tablespaces = !cluster.tablespaces().is_empty();
    cluster.stop(Stop::Fast);
    let version = done(tool("pg_checksums").arg("--version"));
    if has_tablespaces && !version.contains(&format!(") {}", major())) {
        // It looks for the directories of its own major in them. The server has checked what it has read.
        eprintln!("{} is not of this major", version.trim());
        return;
    }
    let said = done(tool("pg_checksums").arg("--check").arg(cluster.pgdata()));
    assert!(said.contains("Bad checksums:  0"), "{said}");
}

// -------------------------------------------------------------------- the judges themselves are judged

/// A copy made by `pg_basebackup` passes every judge; each kind of damage fails the one it is for.
#[test]
fn judges_accept_a_base_backup_and_see_each_damage() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    let space = scene.folder("space");
    primary.sql(&format!(
        "CREATE TABLESPACE space LOCATION '{}'",
        space.display()
    ));
    primary.sql(
        "CREATE TABLE t TABLESPACE space AS SELECT i, repeat('x', 100) AS f FROM generate_series(1, 1000) AS i;
         CREATE INDEX ON t (i);
         CREATE UNLOGGED TABLE u AS SELECT 1 AS i;
         VACUUM;
         CHECKPOINT;",
    );
    let file = primary.sql("SELECT pg_relation_filepath('t')");
    let mapping = format!(
        "--tablespace-mapping={}={}",
        space.display(),
        scene.path().join("space2").display()
    );
    let mut standby = scene.standby("standby", &primary, &[&mapping]);
    primary.wait_caught_up(&standby);
    assert_same_data(&primary, &standby);
    primary.sql("DELETE FROM t WHERE i = 1");
    let stale = digests(&primary);
    primary.wait_caught_up(&standby);
    assert_eq!(stale, digests(&standby));
    assert_amcheck(&primary, &standby);
    settle(&primary, &standby);
    assert_checksums(&mut standby);
    assert_eq!(
        count_differing(standby.pgdata(), primary.pgdata()).missing,
        0
    );
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Used);

    let fails = || !unlike_basebackup(&scene, &primary, standby.pgdata(), Since::Used).is_empty();
    let before = tree(standby.pgdata());
    let counted = count_differing(standby.pgdata(), primary.pgdata());
    // A page: of another record; a file too many; a file too few.
    let good = fs::read(standby.pgdata().join(&file)).unwrap();
    let mut bad = good.clone();
    let last_page = bad.len() - BLOCK;
    bad[last_page + 3] ^= 1;
    standby.write(&file, &bad);
    assert!(fails());
    assert_eq!(
        count_differing(standby.pgdata(), primary.pgdata()).common,
        counted.common + 1
    );
    standby.write(&file, &good[..last_page]);
    assert!(fails());
    standby.write(&file, [&good[..], &[0; BLOCK]].concat());
    assert!(fails());
    standby.write(&file, &good[..BLOCK]);
    assert!(fails());
    assert_eq!(
        count_differing(standby.pgdata(), primary.pgdata()).missing,
        u64::try_from(good.len() / BLOCK - 1).unwrap()
    );
    standby.write(&file, &good);
    assert_untouched(&before, standby.pgdata());
    standby.write("base/1/99999", b"");
    assert!(fails());
    fs::remove_file(standby.pgdata().join("base/1/99999")).unwrap();
    fs::remove_file(standby.pgdata().join("base/1/PG_VERSION")).unwrap();
    assert!(fails());
}
