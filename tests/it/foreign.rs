//! What PostgreSQL does not know in a data directory: an extension's keys and columns belong to the data, and come
//! from the source as a whole; what tells of the host stays.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::cluster::{Cluster, Pair, Said, Scene, Stop};

fn put(cluster: &Cluster, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = cluster.pgdata().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// The files in a directory, and below it, by their paths in it.
fn files(directory: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            if found.is_dir() {
                open.push(path);
            } else if found.is_file() {
                let name = path.strip_prefix(directory).unwrap();
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                all.insert(name.to_str().unwrap().to_owned(), text);
            }
        }
    }
    all
}

fn listed(said: &Said, name: &str) -> Vec<String> {
    let list = said.report()[name].as_array().unwrap();
    list.iter()
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

/// Two histories of one extension's keys must not be mixed.
#[test]
fn what_an_extension_keeps_comes_from_the_source_as_a_whole() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    put(
        &pair.old,
        &[
            ("pg_tde/1664_keys", "keys of old"),
            ("pg_tde/9_keys", "only of old"),
            ("pg_tde/lost/deep/er", "only of old"),
            ("kinds/file/was/a/directory", "of old"),
            ("kinds/directory", "was a file"),
            ("pgsodium_root.key", "key of old"),
            ("same.map", "same"),
            ("mine/deep/a", "of old"),
            ("mine.txt", "of old"),
            ("global/ext.map", "of old"),
            ("global/only_old.map", "of old"),
        ],
    );
    put(
        &pair.new,
        &[
            ("pg_tde/1664_keys", "keys of new"),
            ("pg_tde/5_keys", "only of new"),
            ("pg_tde/empty", ""),
            ("kinds/file", "is a file"),
            ("kinds/directory/of/new", "of new"),
            ("pgsodium_root.key", "key of new"),
            ("same.map", "same"),
            ("columns/1/2", "of new"),
            ("ext.key", "a key that the old has not"),
            ("global/ext.map", "of new"),
        ],
    );
    // What is behind a link is none of ours, on neither side.
    let elsewhere = scene.folder("elsewhere");
    fs::write(elsewhere.join("precious"), "precious").unwrap();
    symlink(&elsewhere, pair.old.pgdata().join("columns")).unwrap();
    symlink(&elsewhere, pair.new.pgdata().join("pg_tde/link")).unwrap();
    let before = files(pair.old.pgdata());
    let dry = pair.rebuild().arg("--dry-run").succeed();
    assert_eq!(files(pair.old.pgdata()), before);
    // Removals in there count as others do.
    let refused = pair.rebuild().args(["--max-delete", "0"]).fail(3);
    assert!(refused.stderr.contains("pg_tde/9_keys"), "{refused}");
    let said = pair.rebuild().arg("--start").succeed();
    pair.check_equal();
    for name in ["pg_tde", "kinds", "columns"] {
        let (old, new) = (pair.old.pgdata().join(name), pair.new.pgdata().join(name));
        assert_eq!(files(&old), files(&new), "{name}");
    }
    for name in ["pgsodium_root.key", "ext.key", "same.map", "global/ext.map"] {
        assert_eq!(pair.old.read(name), pair.new.read(name), "{name}");
        let mode = fs::metadata(pair.old.pgdata().join(name))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{name}");
    }
    assert!(!pair.old.exists("global/only_old.map"));
    assert!(!pair.old.exists("pg_tde/lost"));
    assert_eq!(pair.old.read("mine/deep/a"), "of old");
    assert_eq!(pair.old.read("mine.txt"), "of old");
    let columns = pair.old.pgdata().join("columns");
    assert!(fs::symlink_metadata(&columns).unwrap().is_dir());
    assert_eq!(files(&elsewhere).len(), 1);
    for said in [&dry, &said] {
        let replaced = listed(said, "replaced");
        for name in [
            "pg_tde",
            "kinds",
            "pgsodium_root.key",
            "same.map",
            "columns",
        ] {
            assert!(replaced.iter().any(|found| found == name), "{name}: {said}");
        }
        assert_eq!(listed(said, "taken_over"), ["ext.key"], "{said}");
        let kept = listed(said, "kept");
        for name in ["mine", "mine.txt", "postgresql.conf"] {
            assert!(kept.iter().any(|found| found == name), "{name}: {said}");
        }
        for word in ["Taken over", "Replaced", "Kept"] {
            assert!(said.stdout.contains(word), "{said}");
        }
        assert!(said.stderr.contains("pg_tde/link"), "{said}");
    }
}

/// What the configuration of either side names, and what is a host's by habit, is no data.
#[test]
fn what_belongs_to_the_host_is_neither_replaced_nor_mixed() {
    let scene = Scene::new();
    let pair = Pair::streaming(&scene, |old| {
        old.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) AS i");
    });
    let mut pair = pair;
    pair.fail_over();
    pair.old.sql("INSERT INTO t VALUES (-1)");
    pair.old.stop(Stop::Fast);
    put(
        &pair.old,
        &[
            ("own.d/a.conf", "work_mem = '5MB'\n"),
            ("certs/server.pem", "of old"),
            ("patroni.dynamic.json", "of old"),
            ("pg_hba.conf.backup", "of old"),
            (".pgpass", "of old"),
            ("login/client.key", "of old"),
            (
                "rules/hba",
                "local all all trust\nlocal replication all trust\n",
            ),
            (".s.PGSQL.5999.lock", "of old"),
        ],
    );
    put(
        &pair.new,
        &[
            ("own.d/a.conf", "work_mem = '6MB'\n"),
            ("own.d/b.conf", "maintenance_work_mem = '77MB'\n"),
            ("certs/server.pem", "of new"),
            ("certs/more.pem", "of new"),
            ("patroni.dynamic.json", "of new"),
            ("pg_hba.conf.backup", "of new"),
            (".pgpass", "of new"),
            ("login/client.key", "of new"),
            (
                "rules/hba",
                "local all all trust\nlocal replication all trust\n# of new\n",
            ),
            ("theirs.d/c.conf", "maintenance_work_mem = '78MB'\n"),
            ("private.key", "of new"),
            (".s.PGSQL.5998.lock", "of new"),
        ],
    );
    // A relative one is relative to where the server is started.
    let hba = |cluster: &Cluster| cluster.pgdata().join("rules/hba").display().to_string();
    pair.old.configure(&format!(
        "include_dir = 'own.d'\nssl_cert_file = 'certs/server.pem'\nhba_file = '{}'",
        hba(&pair.old)
    ));
    pair.new.configure(&format!(
        "include_dir = 'own.d'\ninclude_dir = 'theirs.d'\nhba_file = '{}'\nssl_key_file = 'private.key'",
        hba(&pair.new)
    ));
    pair.new.restart();
    let login = pair.old.pgdata().join("login/client.key");
    let conninfo = format!("{} sslkey={}", pair.new.conninfo(), login.display());
    let source = format!("{} dbname=postgres", pair.new.conninfo());
    let rebuild = || {
        crate::cluster::Rebuild::with_conninfo(&pair.old, &conninfo).args([
            "--from",
            "local",
            "--source-dbname",
            &source,
        ])
    };
    let said = rebuild().succeed();
    let of_old = [
        "certs/server.pem",
        "patroni.dynamic.json",
        "pg_hba.conf.backup",
        ".pgpass",
        "login/client.key",
    ];
    for name in of_old {
        assert_eq!(pair.old.read(name), "of old", "{name}: {said}");
    }
    assert!(pair.old.read("own.d/a.conf").contains("5MB"));
    assert!(!pair.old.read("rules/hba").contains("of new"));
    for name in [
        "own.d/b.conf",
        "certs/more.pem",
        "private.key",
        ".s.PGSQL.5998.lock",
        ".s.PGSQL.5999.lock",
    ] {
        assert!(!pair.old.exists(name), "{name}: {said}");
    }
    // A private key of the source's host is not brought, and that is said.
    assert!(said.stderr.contains("private.key"), "{said}");
    assert!(listed(&said, "taken_over").contains(&"theirs.d".to_owned()));
    assert!(listed(&said, "kept").contains(&"patroni.dynamic.json".to_owned()));
    pair.old.start();
    pair.check_equal();
    assert_eq!(pair.old.sql("SHOW work_mem"), "5MB");
    assert_ne!(pair.old.sql("SHOW maintenance_work_mem"), "77MB");
}

#[test]
fn keep_protects_a_foreign_directory_from_being_mixed() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    put(
        &pair.old,
        &[
            ("ext/a", "of old"),
            ("part/own.state", "of old"),
            ("part/b", "of old"),
            ("swapped/own.state", "of old"),
        ],
    );
    put(
        &pair.new,
        &[
            ("ext/a", "of new"),
            ("ext/b", "of new"),
            ("part/own.state", "of new"),
            ("part/b", "of new"),
            ("swapped", "is a file"),
        ],
    );
    let said = pair
        .rebuild()
        .args(["--keep", "ext", "--keep", "*.state", "--start"])
        .succeed();
    pair.check_equal();
    assert_eq!(files(&pair.old.pgdata().join("ext")).len(), 1, "{said}");
    assert_eq!(pair.old.read("ext/a"), "of old");
    assert_eq!(pair.old.read("part/own.state"), "of old");
    assert_eq!(pair.old.read("part/b"), "of new");
    assert_eq!(pair.old.read("swapped/own.state"), "of old");
}

/// What the agent may not read it cannot send; that is no reason to remove what the target has.
#[test]
fn what_the_source_cannot_send_stays_in_the_target() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    put(
        &pair.old,
        &[
            ("ext/secret", "of old"),
            ("ext/locked/a", "of old"),
            ("ext/b", "of old"),
        ],
    );
    put(
        &pair.new,
        &[("ext/secret", "of new"), ("ext/locked/a", "of new")],
    );
    let lock = |name: &str, mode| {
        let path = pair.new.pgdata().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    lock("ext/secret", 0o000);
    lock("ext/locked", 0o000);
    let said = pair.rebuild().arg("--start").succeed();
    lock("ext/locked", 0o700);
    pair.check_equal();
    assert_eq!(pair.old.read("ext/secret"), "of old", "{said}");
    assert_eq!(pair.old.read("ext/locked/a"), "of old", "{said}");
    assert!(!pair.old.exists("ext/b"), "{said}");
    assert!(said.stderr.contains("ext/secret"), "{said}");
}

/// Not a reason to refuse, as it would be of PostgreSQL's own files: what cannot be read at the top is named and left
/// out, and the target's own stays as it was.
#[test]
fn foreign_entries_that_the_agent_may_not_read_are_left_out_as_a_whole() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    put(
        &pair.old,
        &[
            ("unlisted/a", "of old"),
            ("unsearched/a", "of old"),
            ("key", "of old"),
        ],
    );
    put(
        &pair.new,
        &[
            ("unlisted/a", "of new"),
            ("unsearched/a", "of new"),
            ("key", "of new"),
            ("only_new/a", "of new"),
        ],
    );
    let locked = [
        ("unlisted", 0o300),
        ("unsearched", 0o600),
        ("key", 0o200),
        ("only_new", 0o400),
    ];
    let lock = |name: &str, mode| {
        let path = pair.new.pgdata().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for (name, mode) in locked {
        lock(name, mode);
    }
    let dry = pair.rebuild().arg("--dry-run").succeed();
    let said = pair.rebuild().arg("--start").succeed();
    for (name, _) in locked {
        lock(name, 0o700);
        for said in [&dry, &said] {
            assert!(said.stderr.contains(name), "{name}: {said}");
        }
    }
    pair.check_equal();
    for name in ["unlisted/a", "unsearched/a", "key"] {
        assert_eq!(pair.old.read(name), "of old", "{name}: {said}");
    }
    assert!(!pair.old.exists("only_new"), "{said}");
}

/// A common mistake: the tablespace's directory is in the source's data directory. Its files must not come twice,
/// and what an earlier copy has brought there goes.
#[test]
fn tablespace_in_the_sources_data_directory_comes_once() {
    let scene = Scene::new();
    let place = scene.folder("place");
    let nested = scene.folder("nested");
    let mut pair = Pair::diverged(&scene);
    let inside = pair.new.pgdata().join("spaces/one");
    fs::create_dir_all(&inside).unwrap();
    // Reached through a link as well.
    let alias = scene.path().join("alias");
    symlink(pair.new.pgdata(), &alias).unwrap();
    let also = alias.join("two");
    fs::create_dir(&also).unwrap();
    for (name, location) in [("one", &inside), ("two", &also)] {
        let location = location.display();
        // A warning that this is no good idea goes to standard error.
        pair.new
            .sql(&format!("CREATE TABLESPACE {name} LOCATION '{location}'"));
        pair.new.sql(&format!(
            "CREATE TABLE t_{name} TABLESPACE {name} AS SELECT i, repeat('x', 200) AS f FROM generate_series(1, 20000) AS i"
        ));
    }
    pair.new.sql("CHECKPOINT");
    put(&pair.new, &[("spaces/note", "of new")]);
    put(
        &pair.old,
        &[("spaces/one/PG_15_202209061/5/16999", "a dead copy")],
    );
    let mapped = |from: &Path, to: &Path| {
        format!("--tablespace-mapping={}={}", from.display(), to.display())
    };
    let said = pair
        .rebuild()
        .args([mapped(&inside, &place), mapped(&also, &nested)])
        .succeed();
    for name in ["spaces", "two"] {
        let found = files(&pair.old.pgdata().join(name));
        let found: Vec<_> = found.keys().filter(|name| *name != "note").collect();
        assert_eq!(found, Vec::<&String>::new(), "{name}: {said}");
    }
    assert_eq!(pair.old.read("spaces/note"), "of new");
    assert!(!files(&place).is_empty() && !files(&nested).is_empty());
    // pg_basebackup would bring the one that is reached through a link a second time.
    pair.old.start();
    pair.check_equal();
    // Where nothing is mapped, the same path would be in the source's data directory.
    pair.old.stop(Stop::Fast);
    pair.rebuild().fail(3);
}

/// The target has its own tablespace in its own data directory: the rebuild must neither see nor remove it twice.
#[test]
fn tablespace_in_the_targets_data_directory_is_moved_out() {
    let scene = Scene::new();
    let outside = scene.folder("outside");
    let mut pair = Pair::streaming_with(&scene, &[], |_| {});
    let inside = pair.old.pgdata().join("space");
    fs::create_dir(&inside).unwrap();
    pair.fail_over();
    let (from, to) = (inside.display(), outside.display());
    pair.old
        .sql(&format!("CREATE TABLESPACE mine LOCATION '{from}'"));
    pair.old
        .sql("CREATE TABLE t_mine TABLESPACE mine AS SELECT generate_series(1, 3000) AS i");
    // Of another number.
    pair.new.sql("CREATE TABLE more (i int)");
    pair.new
        .sql(&format!("CREATE TABLESPACE theirs LOCATION '{to}'"));
    pair.new
        .sql("CREATE TABLE t_theirs TABLESPACE theirs AS SELECT generate_series(1, 3000) AS i");
    pair.old.stop(Stop::Fast);
    let apart = scene.folder("apart");
    let said = pair
        .rebuild()
        .arg(format!("--tablespace-mapping={to}={}", apart.display()))
        .arg("--start")
        .succeed();
    pair.check_equal();
    assert_eq!(files(&inside).len(), 0, "{said}");
    let gone = &said.report()["removed_tablespaces"][0];
    assert!(
        gone["left"].is_null() && gone["files"].as_u64() > Some(0),
        "{said}"
    );
    let of_it = format!("pg_tblspc/{}/", gone["oid"]);
    let named = said.report()["removed"].as_array().unwrap().iter();
    let named = named.filter(|path| path.as_str().unwrap().starts_with(&of_it));
    assert_eq!(Some(named.count() as u64), gone["files"].as_u64(), "{said}");
    assert!(!files(&apart).is_empty(), "{said}");
}
