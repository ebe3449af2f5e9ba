//! Every guard: the command, its words, exit status 3, and a target that is bit for bit what it was.
//!
//! Guards whose situation needs another machine (no room on a file system, a tablespace that appears
//! during the run) are tested where they are functions, in `plan::guard`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use insta::assert_snapshot;
use rustix::process::{Signal, kill_process};

use crate::cluster::{
    Cluster, DEADLINE, Pair, Rebuild, Said, Scene, Stop, binary, children_of, clean, done,
    eventually, tool,
};
use crate::oracle::{assert_same_data, assert_untouched, tree};
use crate::rebuild::assert_source_as_found;

/// Runs a rebuild that must be refused and leave `target` untouched; returns its words without what
/// changes from run to run.
fn refused(scene: &Scene, target: &Cluster, rebuild: Rebuild) -> String {
    refused_at(scene, target.pgdata(), rebuild)
}

fn refused_at(scene: &Scene, target: &Path, rebuild: Rebuild) -> String {
    let before = tree(target);
    let said = rebuild.args(["--progress", "none"]).fail(3);
    assert_untouched(&before, target);
    words(scene, &said)
}

/// The messages with paths, numbers of processes, LSNs and identifiers replaced.
pub fn words(scene: &Scene, said: &Said) -> String {
    let mut text = said
        .messages()
        .replace(&scene.path().display().to_string(), "SCENE");
    if let Some(version) = text.find("PG_15_") {
        let name = text[version..version + 15].to_owned();
        text = text.replace(&name, "PG_15_CATALOG");
    }
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() || c == '/' || c == '_' || c == '.' || c == '-' {
            word.push(c);
            continue;
        }
        out.push_str(&replaced(&word));
        word.clear();
        out.push(c);
    }
    out.trim_end().replace("PID PID", "PID")
}

fn replaced(word: &str) -> String {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (body, dot) = word
        .strip_suffix('.')
        .map_or((word, ""), |body| (body, "."));
    if is_number(body) && body.len() >= 18 {
        format!("IDENTIFIER{dot}")
    } else if is_number(body) && body.len() >= 3 {
        format!("PID{dot}")
    } else if body
        .split_once('/')
        .is_some_and(|(high, low)| is_hex(high) && is_hex(low))
    {
        format!("LSN{dot}")
    } else {
        word.to_owned()
    }
}

// ------------------------------------------------------------------------------ who runs it, and where

#[test]
fn running_target_is_refused() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.old.start();
    let before = pair
        .old
        .sql("SELECT pg_postmaster_start_time(), count(*) FROM t");
    let said = pair.rebuild().args(["--progress", "none"]).fail(3);
    assert_snapshot!(words(&scene, &said), @"");
    assert_eq!(
        pair.old
            .sql("SELECT pg_postmaster_start_time(), count(*) FROM t"),
        before
    );
    assert!(!pair.old.exists("pg_reseed.state"));
    assert_source_as_found(&pair.new, 0);
}

#[test]
fn orphaned_backends_are_refused() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.old.start();
    let postmaster = pair.old.postmaster().unwrap();
    // A stopped process cannot see that its postmaster is gone.
    let orphan = children_of(postmaster)[0];
    kill_process(orphan, Signal::STOP).unwrap();
    kill_process(postmaster, Signal::KILL).unwrap();
    eventually("the postmaster is gone", DEADLINE, || {
        (!pair.old.is_server_alive()).then_some(())
    });
    let said = pair.rebuild().args(["--progress", "none"]).run();
    kill_process(orphan, Signal::KILL).unwrap();
    assert_eq!(said.code(), 3, "{said}");
    assert_snapshot!(words(&scene, &said), @"");
    assert!(!pair.old.exists("pg_reseed.state"));
    eventually("the orphan is gone", DEADLINE, || {
        (!crate::cluster::alive(orphan)).then_some(())
    });
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
}

#[test]
fn directories_of_the_source_are_refused() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let same = |target: &Path| {
        let mut outside = scene.vacant(&format!("at{}", target.display().to_string().len()));
        outside.place(target);
        let said = Rebuild::new(&outside, &pair.new)
            .args(["--progress", "none", "--stop"])
            .fail(3);
        words(&scene, &said)
    };
    assert_snapshot!(same(pair.new.pgdata()), @"");
    let link = scene.path().join("link-to-new");
    symlink(pair.new.pgdata(), &link).unwrap();
    assert_snapshot!(same(&link), @"");
    assert_snapshot!(same(&pair.new.pgdata().join("base/inside")), @"");
    assert!(!pair.new.exists("base/inside"));
    assert_snapshot!(same(pair.new.home()), @"");
    // A pg_wal that leads into the source's.
    let pg_wal = pair.old.pgdata().join("pg_wal");
    fs::rename(&pg_wal, scene.path().join("wal")).unwrap();
    symlink(pair.new.pgdata().join("pg_wal"), &pg_wal).unwrap();
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild().arg("--stop")), @"");
    // The source took no harm from any of it.
    pair.new.sql("CHECKPOINT");
    pair.new.restart();
    assert_eq!(pair.new.sql("SELECT count(*) FROM t"), "5000");
}

#[test]
fn directories_that_are_no_data_directory_are_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut other = scene.vacant("other");
    fs::create_dir(other.pgdata()).unwrap();
    fs::set_permissions(other.pgdata(), fs::Permissions::from_mode(0o700)).unwrap();
    other.write("thesis.txt", "the only copy");
    assert_snapshot!(refused(&scene, &other, Rebuild::new(&other, &pair.new)), @"");
    other.place(Path::new("/srv"));
    if fs::read_dir("/srv").is_ok_and(|mut entries| entries.next().is_none()) {
        // Nobody's own folder: it belongs to root.
        assert_snapshot!(refused(&scene, &other, Rebuild::new(&other, &pair.new)), @"");
    }
}

#[test]
fn unreadable_targets_are_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let control = fs::read(pair.old.pgdata().join("global/pg_control")).unwrap();
    let mut bad = control.clone();
    bad[40] ^= 1;
    pair.old.write("global/pg_control", &bad);
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @"");
    fs::remove_file(pair.old.pgdata().join("global/pg_control")).unwrap();
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @"");
    pair.old.write("global/pg_control", &control);
    pair.old.write("PG_VERSION", "14\n");
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @"");
    pair.old.write("PG_VERSION", "15\n");
    // And a link where none may be.
    fs::rename(pair.old.pgdata().join("base"), scene.path().join("base")).unwrap();
    symlink(scene.path().join("base"), pair.old.pgdata().join("base")).unwrap();
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @"");
}

#[test]
fn root_is_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let before = tree(pair.old.pgdata());
    // Root of a user namespace, as `id -u` tells everybody in it.
    let output = clean(Command::new("unshare"))
        .arg("--map-root-user")
        .arg(binary())
        .args([
            "rebuild",
            "--from",
            "local",
            "--progress",
            "none",
            "-d",
            &pair.new.conninfo(),
            "-D",
        ])
        .arg(pair.old.pgdata())
        .args([
            "--source-dbname",
            &format!("{} dbname=postgres", pair.new.conninfo()),
        ])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    if stderr.starts_with("unshare: ") {
        // Containers forbid it; then the guard's own test has to do.
        return;
    }
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    let shown = stderr.replace(&scene.path().display().to_string(), "SCENE");
    assert_snapshot!(shown, @"");
    assert_untouched(&before, pair.old.pgdata());
}

#[test]
fn second_rebuild_of_one_target_is_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut first = pair.rebuild().args(["--progress", "json"]).spawn();
    first.wait_closed(&pair.old);
    kill_process(first.pid(), Signal::STOP).unwrap();
    let mut second = scene.vacant("second");
    second.place(pair.old.pgdata());
    let words = refused(&scene, &pair.old, Rebuild::new(&second, &pair.new));
    kill_process(first.pid(), Signal::CONT).unwrap();
    assert_snapshot!(words, @"");
    let said = first.wait();
    assert_eq!(said.code(), 0, "{said}");
}

// ----------------------------------------------------------------------------------------- kinship

#[test]
fn foreign_cluster_is_refused_unless_given_up() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    source.sql("CREATE TABLE t AS SELECT 1 AS i");
    let mut foreign = scene.foreign_cluster("foreign", &["--data-checksums"]);
    foreign.start();
    foreign.sql("CREATE TABLE other AS SELECT 1 AS i");
    foreign.stop(Stop::Fast);
    assert_snapshot!(refused(&scene, &foreign, Rebuild::new(&foreign, &source)), @"");
    Rebuild::new(&foreign, &source)
        .args(["--overwrite-foreign-cluster", "--start"])
        .succeed();
    source.wait_caught_up(&foreign);
    assert_same_data(&source, &foreign);
}

#[test]
fn other_layout_is_refused() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    let foreign = scene.foreign_cluster("foreign", &["--wal-segsize=1"]);
    let rebuild = || Rebuild::new(&foreign, &source).arg("--overwrite-foreign-cluster");
    assert_snapshot!(refused(&scene, &foreign, rebuild()), @"");
}

/// The arguments the wrong way round: the promoted standby would be overwritten by the old primary.
#[test]
fn target_on_a_newer_timeline_is_refused_unless_given_up() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.new.stop(Stop::Fast);
    pair.old.start();
    let rebuild = || Rebuild::new(&pair.new, &pair.old);
    assert_snapshot!(refused(&scene, &pair.new, rebuild()), @"");
    rebuild()
        .args(["--discard-newer-timeline", "--start"])
        .succeed();
    pair.old.wait_caught_up(&pair.new);
    assert_same_data(&pair.old, &pair.new);
    assert_eq!(
        pair.new
            .sql("SELECT count(*) FROM pg_ls_waldir() WHERE name LIKE '%.history'"),
        "0"
    );
}

/// Both sides on one timeline, the target further: the source was restored from a backup, say.
#[test]
fn target_that_is_ahead_is_refused_unless_given_up() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    primary.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) AS i");
    primary.stop(Stop::Fast);
    let mut restored = scene.copy("restored", &primary);
    primary.start();
    primary.sql("INSERT INTO t SELECT i FROM generate_series(1001, 90000) AS i");
    primary.stop(Stop::Fast);
    restored.start();
    let rebuild = || Rebuild::new(&primary, &restored);
    assert_snapshot!(refused(&scene, &primary, rebuild()), @"");
    rebuild().args(["--discard-newer-wal", "--start"]).succeed();
    restored.wait_caught_up(&primary);
    assert_same_data(&restored, &primary);
    assert_eq!(primary.sql("SELECT count(*) FROM t"), "1000");
}

// -------------------------------------------------------------------- whether the source can serve it

#[test]
fn roles_without_rights_are_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.new.sql(
        "CREATE ROLE agent LOGIN; GRANT pg_read_all_settings TO agent; CREATE ROLE reader LOGIN",
    );
    let rebuild = || {
        let rebuild =
            Rebuild::bare(&pair.old, &pair.new).args(["--from", "local", "--source-dbname"]);
        rebuild.arg(format!(
            "{} dbname=postgres",
            pair.new.conninfo().replace("user=postgres", "user=agent")
        ))
    };
    assert_snapshot!(refused(&scene, &pair.old, rebuild()), @"");
    // What the hints say is enough.
    pair.new.sql(
        "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO agent;
         ALTER ROLE agent REPLICATION;",
    );
    rebuild().arg("--start").succeed();
    pair.check_equal();
}

#[test]
fn login_of_the_standby_is_tried_first() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let source = format!("{} dbname=postgres", pair.new.conninfo());
    let rebuild = |conninfo: &str| {
        let mut nowhere = scene.vacant(&format!("r{}", conninfo.len()));
        nowhere.place(pair.old.pgdata());
        Rebuild::with_conninfo(&nowhere, conninfo).args([
            "--from",
            "local",
            "--source-dbname",
            &source,
        ])
    };
    // Nobody there; no replication for this role; another cluster.
    let nobody = format!("host={} port=5999 user=postgres", pair.new.home().display());
    assert_snapshot!(refused(&scene, &pair.old, rebuild(&nobody)), @"");
    pair.new.sql("CREATE ROLE reader LOGIN");
    let reader = pair.new.conninfo().replace("user=postgres", "user=reader");
    assert_snapshot!(refused(&scene, &pair.old, rebuild(&reader)), @"");
    let hba = pair.new.read("pg_hba.conf");
    pair.new.write(
        "pg_hba.conf",
        format!("local replication postgres reject\n{hba}"),
    );
    pair.new.sql("SELECT pg_reload_conf()");
    let conninfo = pair.new.conninfo();
    eventually("the rule is in force", DEADLINE, || {
        let tried = tool("psql")
            .args(["-Xc", "IDENTIFY_SYSTEM", "-d"])
            .arg(format!("{conninfo} replication=true"))
            .output();
        (!tried.unwrap().status.success()).then_some(())
    });
    assert_snapshot!(refused(&scene, &pair.old, rebuild(&conninfo)), @"");
    let mut elsewhere = scene.foreign_cluster("elsewhere", &["--data-checksums"]);
    elsewhere.start();
    assert_snapshot!(refused(&scene, &pair.old, rebuild(&elsewhere.conninfo())), @"");
    // Overridden, it is the standby that will not stream.
    let said = rebuild(&conninfo).arg("--no-login-check").succeed();
    assert_eq!(said.word("outcome"), "done");
    pair.new.write("pg_hba.conf", hba);
    pair.new.sql("SELECT pg_reload_conf()");
    pair.old.start();
    pair.new
        .wait_sql("SELECT state FROM pg_stat_replication", "streaming");
}

#[test]
fn password_in_the_connection_string_is_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let before = tree(pair.old.pgdata());
    let said = pair
        .rebuild()
        .args(["-d", "host=/nowhere user=postgres password=secret"])
        .run();
    assert_eq!(said.code(), 2, "{said}");
    assert!(!said.stderr.contains("secret"), "{said}");
    assert_untouched(&before, pair.old.pgdata());
}

#[test]
fn source_without_replication_is_refused() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.new
        .configure("wal_level = minimal\nmax_wal_senders = 0\n");
    pair.new.restart();
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @"");
}

#[test]
fn source_without_free_places_is_refused() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.new
        .configure("max_wal_senders = 1\nmax_replication_slots = 1\n");
    pair.new.restart();
    pair.new
        .sql("SELECT pg_create_physical_replication_slot('taken')");
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @"");
    pair.new.sql("SELECT pg_drop_replication_slot('taken')");
    let standby = scene.standby("standby", &pair.new, &["--wal-method=none"]);
    pair.new.wait_caught_up(&standby);
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @"");
}

#[test]
fn slots_that_cannot_be_used_are_refused() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.new
        .configure("wal_level = logical\nmax_slot_wal_keep_size = 1MB\nmin_wal_size = 32MB\nwal_keep_size = 0\n");
    pair.new.restart();
    let slot = |name: &str| refused(&scene, &pair.old, pair.rebuild().args(["--slot", name]));
    assert_snapshot!(slot("missing"), @"");
    pair.new
        .sql("SELECT pg_create_logical_replication_slot('logical', 'pgoutput')");
    assert_snapshot!(slot("logical"), @"");
    pair.new
        .sql("SELECT pg_create_physical_replication_slot('lost', true)");
    for _ in 0..3 {
        pair.new
            .sql("INSERT INTO t VALUES (0, 'x'); SELECT pg_switch_wal(); CHECKPOINT");
    }
    assert_eq!(
        pair.new
            .sql("SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'lost'"),
        "lost"
    );
    assert_snapshot!(slot("lost"), @"");
    pair.new
        .sql("SELECT pg_create_physical_replication_slot('active', true)");
    let mut standby = scene.standby("standby", &pair.new, &[]);
    standby.stop(Stop::Fast);
    standby.configure("primary_slot_name = 'active'");
    standby.start();
    pair.new.wait_caught_up(&standby);
    assert_snapshot!(slot("active"), @"");
    assert_eq!(
        pair.new
            .sql("SELECT string_agg(slot_name, ',' ORDER BY 1) FROM pg_replication_slots"),
        "active,logical,lost"
    );
}

#[test]
fn standby_source_without_full_page_writes_is_refused() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.new.configure("full_page_writes = off");
    pair.new.restart();
    let middle = scene.standby("middle", &pair.new, &[]);
    pair.new
        .sql("CHECKPOINT; CREATE TABLE x (i int); CHECKPOINT");
    pair.new.wait_caught_up(&middle);
    assert_snapshot!(refused(&scene, &pair.old, Rebuild::new(&pair.old, &middle)), @"");
}

// -------------------------------------------------------------------------------- where tablespaces go

#[test]
fn tablespace_places_that_would_do_harm_are_refused() {
    let scene = Scene::new();
    let (mut pair, theirs, ours) = pair_with_tablespaces(&scene);
    let [new1, new2] = &theirs;
    let [old1, old2] = &ours;
    let map = |old: &str, new: &str| format!("{old}={new}");
    let tried = |mappings: &[String]| {
        let options = mappings
            .iter()
            .flat_map(|mapping| ["-T".to_owned(), mapping.clone()]);
        refused(&scene, &pair.old, pair.rebuild().args(options))
    };
    // The source's own place: source and target share this host.
    assert_snapshot!(tried(&[]), @"");
    assert_snapshot!(tried(&[map(new1, old1)]), @"");
    assert_snapshot!(tried(&[map(new1, old1), map(new2, old2), map("/nowhere", "/elsewhere")]), @"");
    assert_snapshot!(tried(&[map(new1, old1), map(new2, old2), map(new2, "/elsewhere")]), @"");
    assert_snapshot!(tried(&[map(new1, old1), map(new2, old1)]), @"");
    assert_snapshot!(tried(&[map(new1, old1), map(new2, &format!("{old1}/below"))]), @"");
    assert_snapshot!(tried(&[map(new1, old1), map(new2, &format!("{}/base/s", pair.old.pgdata().display()))]), @"");
    assert_snapshot!(tried(&[map(new1, old1), map(new2, &format!("{}/s", pair.new.pgdata().display()))]), @"");
    let full = scene.folder("full");
    fs::write(full.join("thesis.txt"), "the only copy").unwrap();
    assert_snapshot!(tried(&[map(new1, old1), map(new2, &full.display().to_string())]), @"");
    let file = scene.path().join("file");
    fs::write(&file, "").unwrap();
    assert_snapshot!(tried(&[map(new1, old1), map(new2, &file.display().to_string())]), @"");
    let used = scene.folder("used");
    let version = fs::read_dir(new1)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    fs::create_dir(used.join(&version)).unwrap();
    fs::write(used.join(&version).join("other"), "of another cluster").unwrap();
    assert_snapshot!(tried(&[map(new1, old1), map(new2, &used.display().to_string())]), @"");
    assert!(used.join(&version).join("other").exists());

    // Overridden: a place with content of its own is shared, and that content stays.
    pair.rebuild()
        .args([
            "-T",
            &map(new1, old1),
            "-T",
            &map(new2, &full.display().to_string()),
            "--reuse-tablespace-dirs",
            "--start",
        ])
        .succeed();
    pair.check_equal();
    assert_eq!(
        fs::read_to_string(full.join("thesis.txt")).unwrap(),
        "the only copy"
    );
    assert_eq!(
        fs::read_dir(old2).unwrap().count(),
        0,
        "the tablespace's old place has content"
    );
    pair.old.stop(Stop::Fast);
}

/// A diverged pair with two tablespaces; the places on the source and on the target.
pub fn pair_with_tablespaces(scene: &Scene) -> (Pair, [String; 2], [String; 2]) {
    let place = |name: &str| scene.path().join(name).display().to_string();
    let (theirs, ours) = (
        [place("new-s1"), place("new-s2")],
        [place("old-s1"), place("old-s2")],
    );
    for path in &ours {
        fs::create_dir(path).unwrap();
    }
    let mapping = |n: usize| format!("--tablespace-mapping={}={}", ours[n], theirs[n]);
    let mut pair = Pair::streaming_with(scene, &[&mapping(0), &mapping(1)], |old| {
        old.sql(&format!(
            "CREATE TABLESPACE s1 LOCATION '{}';
             CREATE TABLESPACE s2 LOCATION '{}';
             CREATE TABLE t1 TABLESPACE s1 AS SELECT i FROM generate_series(1, 5000) AS i;
             CREATE TABLE t2 TABLESPACE s2 AS SELECT i FROM generate_series(1, 5000) AS i;",
            ours[0], ours[1]
        ));
    });
    pair.fail_over();
    pair.old.sql("UPDATE t1 SET i = -i WHERE i % 3 = 0");
    pair.new.sql("UPDATE t2 SET i = -i WHERE i % 5 = 0");
    pair.old.stop(Stop::Fast);
    (pair, theirs, ours)
}

// --------------------------------------------------------------------------------------- shows later

#[test]
fn more_removals_than_allowed_are_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let words = refused(
        &scene,
        &pair.old,
        pair.rebuild().args(["--max-delete", "0"]),
    );
    let error = words.lines().next().unwrap();
    assert!(
        error.starts_with("pg_reseed: error: the run would remove ")
            && error.ends_with(" files from the target, but the limit is 0"),
        "{words}"
    );
    assert!(
        words.contains("--dry-run") && words.contains("--max-delete"),
        "{words}"
    );
    assert_source_as_found(&pair.new, 0);
    pair.rebuild()
        .args(["--max-delete", "100", "--start"])
        .succeed();
    pair.check_equal();
}

#[test]
fn wrong_usage_ends_with_status_2_and_touches_nothing() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let before = tree(pair.old.pgdata());
    let tried: [&[&str]; 8] = [
        &["--no-such-option"],
        &["--create-slot"],
        &["--slot", "Not A Slot"],
        &["-T", "relative=/absolute"],
        &["-T", "/a=/b=/c"],
        &["--compress", "brotli"],
        &["--checkpoint", "never"],
        &["--jobs", "0"],
    ];
    for options in tried {
        let said = pair.rebuild().args(options).run();
        assert_eq!(said.code(), 2, "{options:?}: {said}");
        assert!(said.stderr.contains("error"), "{options:?}: {said}");
        assert!(said.stdout.is_empty(), "{options:?}: {said}");
    }
    let without_target = done(
        clean(Command::new("sh"))
            .arg("-c")
            .arg(format!("{} rebuild 2>&1; test $? = 2", binary().display())),
    );
    assert!(without_target.contains("--pgdata"), "{without_target}");
    assert_untouched(&before, pair.old.pgdata());
}
