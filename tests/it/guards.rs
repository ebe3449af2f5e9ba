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
    Cluster, DEADLINE, Pair, Rebuild, Said, Scene, Stop, as_of_15, binary, children_of, clean,
    done, eventually, tool,
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
    let mut text = as_of_15(&said.messages()).replace(&scene.path().display().to_string(), "SCENE");
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
    // A checksum may happen to have no letter in it.
    let out = out.replace("calculated PID", "calculated CRC");
    let out = out.replace("says PID", "says CRC");
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
    } else if body.contains('.') && body.parse::<f64>().is_ok() {
        format!("N{dot}")
    } else if is_number(body) && body.len() >= 3 {
        format!("PID{dot}")
    } else if is_hex(body) && body.len() == 8 {
        format!("CRC{dot}")
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
    assert_snapshot!(words(&scene, &said), @r#"
    pg_reseed: error: a server is running in "SCENE/old/data" (PID)
    pg_reseed: detail: Its files cannot be replaced beneath it.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Stop the server first, or use --stop to have it stopped.
    "#);
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
    assert_snapshot!(words(&scene, &said), @r#"
    pg_reseed: error: processes of a stopped server still use "SCENE/old/data"
    pg_reseed: detail: Shared memory segment PID of a dead server is still in use.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Terminate these processes, then run the same command again.
    "#);
    assert!(!pair.old.exists("pg_reseed.state"));
    eventually("the orphan is gone", DEADLINE, || {
        (!crate::cluster::alive(orphan)).then_some(())
    });
    // A server that starts asks the kernel, for which the dead live until somebody has asked how they
    // ended: not every container's first process does.
    fs::remove_file(pair.old.home().join(".s.PGSQL.5432.lock")).unwrap();
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
    assert_snapshot!(same(pair.new.pgdata()), @r#"
    pg_reseed: error: the data directory of the target is the data directory of the source
    pg_reseed: detail: Both are "SCENE/new/data": a rebuild would overwrite the files of the running source.
    pg_reseed: detail: Nothing was changed in "SCENE/new/data".
    pg_reseed: hint: Check -D and --from. If a link of the target leads to the source's directory, remove the link first and give a tablespace its own place with --tablespace-mapping.
    "#);
    let link = scene.path().join("link-to-new");
    symlink(pair.new.pgdata(), &link).unwrap();
    assert_snapshot!(same(&link), @r#"
    pg_reseed: error: the data directory of the target is the data directory of the source
    pg_reseed: detail: Both are "SCENE/new/data": a rebuild would overwrite the files of the running source.
    pg_reseed: detail: Nothing was changed in "SCENE/link-to-new".
    pg_reseed: hint: Check -D and --from. If a link of the target leads to the source's directory, remove the link first and give a tablespace its own place with --tablespace-mapping.
    "#);
    assert_snapshot!(same(&pair.new.pgdata().join("base/inside")), @r#"
    pg_reseed: error: directory "SCENE/new/data/base/inside" lies inside "SCENE/new/data"
    pg_reseed: detail: One is the target, the other the source: writing to one would change the other.
    pg_reseed: detail: Nothing was changed in "SCENE/new/data/base/inside".
    pg_reseed: hint: Check -D, or choose a directory outside the source's data directory.
    "#);
    assert!(!pair.new.exists("base/inside"));
    assert_snapshot!(same(pair.new.home()), @r#"
    pg_reseed: error: directory "SCENE/new/data" lies inside "SCENE/new"
    pg_reseed: detail: One is the target, the other the source: writing to one would change the other.
    pg_reseed: detail: Nothing was changed in "SCENE/new".
    pg_reseed: hint: Check -D, or choose a directory outside the source's data directory.
    "#);
    // A pg_wal that leads into the source's.
    let pg_wal = pair.old.pgdata().join("pg_wal");
    fs::rename(&pg_wal, scene.path().join("wal")).unwrap();
    symlink(pair.new.pgdata().join("pg_wal"), &pg_wal).unwrap();
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild().arg("--stop")), @r#"
    pg_reseed: error: the WAL directory of the target is the WAL directory of the source
    pg_reseed: detail: Both are "SCENE/new/data/pg_wal": a rebuild would overwrite the files of the running source.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Check -D and --from. If a link of the target leads to the source's directory, remove the link first and give a tablespace its own place with --tablespace-mapping.
    "#);
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
    assert_snapshot!(refused(&scene, &other, Rebuild::new(&other, &pair.new)), @r#"
    pg_reseed: error: directory "SCENE/other/data" exists but is not a data directory
    pg_reseed: detail: It has no "PG_VERSION", but it holds "thesis.txt", which a rebuild could remove.
    pg_reseed: detail: Nothing was changed in "SCENE/other/data".
    pg_reseed: hint: Check -D. To seed a new standby there, empty the directory first.
    "#);
    other.place(Path::new("/srv"));
    if fs::read_dir("/srv").is_ok_and(|mut entries| entries.next().is_none()) {
        // Nobody's own folder: it belongs to root.
        assert_snapshot!(refused(&scene, &other, Rebuild::new(&other, &pair.new)), @r#"
        pg_reseed: error: data directory "/srv" does not belong to user "postgres"
        pg_reseed: detail: The server must own its data directory, and files made by another user would keep it from starting.
        pg_reseed: detail: Nothing was changed in "/srv".
        pg_reseed: hint: Run the command as the user that owns the data directory.
        "#);
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
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @r#"
    pg_reseed: error: could not tell which cluster is in "SCENE/old/data": "global/pg_control": the control file's checksum is wrong: calculated CRC, but the file says CRC
    pg_reseed: detail: Without its control file nothing proves that this directory may be overwritten.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Check -D. If it is what an interrupted pg_rewind, pg_basebackup or restore has left, or its content can be given up otherwise, add --overwrite-unknown-cluster: only what differs from the source is moved.
    "#);
    fs::remove_file(pair.old.pgdata().join("global/pg_control")).unwrap();
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @r#"
    pg_reseed: error: could not tell which cluster is in "SCENE/old/data": could not open "SCENE/old/data/global/pg_control": No such file or directory (os error 2)
    pg_reseed: detail: Without its control file nothing proves that this directory may be overwritten.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Check -D. If it is what an interrupted pg_rewind, pg_basebackup or restore has left, or its content can be given up otherwise, add --overwrite-unknown-cluster: only what differs from the source is moved.
    "#);
    pair.old.write("global/pg_control", &control);
    let version = pair.old.read("PG_VERSION");
    pair.old.write("PG_VERSION", "12\n");
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @r#"
    pg_reseed: error: the target is of PostgreSQL 12, the source of PostgreSQL 15
    pg_reseed: detail: A standby must be of its primary's major version, and no block of one is of use in the other.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Check -D and --from. To seed a standby of the source there, empty the directory first.
    "#);
    pair.old.write("PG_VERSION", version);
    // And a link where none may be.
    fs::rename(pair.old.pgdata().join("base"), scene.path().join("base")).unwrap();
    symlink(scene.path().join("base"), pair.old.pgdata().join("base")).unwrap();
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @r#"
    pg_reseed: error: unexpected symbolic link in the target's data directory: "base"
    pg_reseed: detail: Only pg_wal and the tablespaces may be links: writing through any other would reach outside the data directory.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Replace each link by the directory or file that it leads to.
    "#);
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
    assert_snapshot!(shown, @r#"
    pg_reseed: error: cannot be executed by "root"
    pg_reseed: detail: Files made by root would not be readable by the server.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Log in (using, e.g., "su") as the user that owns the data directory.
    "#);
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
    // Who it is depends on where the test runs.
    let (begin, rest) = words.split_once("It is process ").unwrap();
    let (holder, end) = rest.split_once(". Two at once").unwrap();
    assert!(holder.contains("pg_reseed rebuild"), "{holder}");
    assert_snapshot!(format!("{begin}It is … Two at once{end}"), @r#"
    pg_reseed: error: another pg_reseed is at work in "SCENE/old/data"
    pg_reseed: detail: It is … Two at once would destroy each other's work.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Wait until the other run has ended.
    "#);
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
    assert_snapshot!(refused(&scene, &foreign, Rebuild::new(&foreign, &source)), @r#"
    pg_reseed: error: the target belongs to another cluster
    pg_reseed: detail: Its system identifier is IDENTIFIER, the source's is IDENTIFIER: everything in it would be lost.
    pg_reseed: detail: Nothing was changed in "SCENE/foreign/data".
    pg_reseed: hint: Check -D and --from. If the target's cluster can be given up, use --overwrite-foreign-cluster.
    "#);
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
    assert_snapshot!(refused(&scene, &foreign, rebuild()), @r#"
    pg_reseed: error: the data files of target and source have different layouts
    pg_reseed: detail: Field xlog_seg_size is PID in the target and PID in the source.
    pg_reseed: detail: Nothing was changed in "SCENE/foreign/data".
    pg_reseed: hint: Check -D and --from. To seed a standby of the source there, empty the directory first.
    "#);
}

/// The arguments the wrong way round: the promoted standby would be overwritten by the old primary.
#[test]
fn target_on_a_newer_timeline_is_refused_unless_given_up() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.new.stop(Stop::Fast);
    pair.old.start();
    let rebuild = || Rebuild::new(&pair.new, &pair.old);
    assert_snapshot!(refused(&scene, &pair.new, rebuild()), @r#"
    pg_reseed: error: the target is on timeline 2, which is newer than the source's timeline 1
    pg_reseed: detail: It is, or has followed, a server that was promoted later than the source, perhaps the real primary: its WAL after LSN of timeline 1, up to LSN at least, would be lost.
    pg_reseed: detail: Nothing was changed in "SCENE/new/data".
    pg_reseed: hint: Check which server is the primary: perhaps the source is the one to rebuild. If the target's timeline can be given up, use --discard-newer-timeline.
    "#);
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
    assert_snapshot!(refused(&scene, &primary, rebuild()), @r#"
    pg_reseed: error: the target is ahead of the source on timeline 1
    pg_reseed: detail: It has WAL up to LSN, the source up to LSN: N MB would be lost.
    pg_reseed: detail: Nothing was changed in "SCENE/primary/data".
    pg_reseed: hint: Check which server is the primary, and whether the source was restored from an older backup. If the target's WAL can be given up, use --discard-newer-wal.
    "#);
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
    assert_snapshot!(refused(&scene, &pair.old, rebuild()), @r#"
    pg_reseed: error: role "agent" may not start a backup on the source
    pg_reseed: detail: The agent needs EXECUTE on the backup functions in the database that it connects to; the attribute REPLICATION does not include it.
    pg_reseed: hint: Let the agent connect as a superuser, or do on the source: GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO "agent";
    pg_reseed: error: role "agent" may not use replication slots on the source
    pg_reseed: detail: Without a slot the source may remove WAL that the new standby needs.
    pg_reseed: hint: Let the agent connect as a superuser, or do on the source: ALTER ROLE "agent" REPLICATION;
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    "#);
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
    let rebuild = |name: &str, conninfo: &str| {
        let mut nowhere = scene.vacant(name);
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
    assert_snapshot!(refused(&scene, &pair.old, rebuild("name1", &nobody)), @r#"
    pg_reseed: error: could not connect to the source for replication: connection to server on socket "SCENE/new/.s.PGSQL.5999" failed: No such file or directory
    pg_reseed: detail: The rebuilt standby would connect with "host='SCENE/new' port=PID user=postgres application_name=name1" and could not stream either.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Check -d, the passfile, and the line for "replication" in the source's pg_hba.conf. If the login cannot work yet, use --no-login-check.
    "#);
    pair.new.sql("CREATE ROLE reader LOGIN");
    let reader = pair.new.conninfo().replace("user=postgres", "user=reader");
    assert_snapshot!(refused(&scene, &pair.old, rebuild("name2", &reader)), @r#"
    pg_reseed: error: could not connect to the source for replication: connection to server on socket "SCENE/new/.s.PGSQL.5432" failed: FATAL:  must be superuser or replication role to start walsender
    pg_reseed: detail: The rebuilt standby would connect with "host='SCENE/new' port=PID user=reader application_name=name2" and could not stream either.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Check -d, the passfile, and the line for "replication" in the source's pg_hba.conf. If the login cannot work yet, use --no-login-check.
    "#);
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
    assert_snapshot!(refused(&scene, &pair.old, rebuild("name3", &conninfo)), @r#"
    pg_reseed: error: could not connect to the source for replication: connection to server on socket "SCENE/new/.s.PGSQL.5432" failed: FATAL:  pg_hba.conf rejects replication connection for host "[local]", user "postgres", no encryption
    pg_reseed: detail: The rebuilt standby would connect with "host='SCENE/new' port=PID user=postgres application_name=name3" and could not stream either.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Check -d, the passfile, and the line for "replication" in the source's pg_hba.conf. If the login cannot work yet, use --no-login-check.
    "#);
    let mut elsewhere = scene.foreign_cluster("elsewhere", &["--data-checksums"]);
    elsewhere.start();
    assert_snapshot!(refused(&scene, &pair.old, rebuild("name5", &elsewhere.conninfo())), @r#"
    pg_reseed: error: the server that the standby would follow is not the source
    pg_reseed: detail: "host='SCENE/elsewhere' port=PID user=postgres application_name=name5" leads to system identifier IDENTIFIER, the agent's server has IDENTIFIER: the rebuilt standby could not stream from it.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Check -d and --from. If -d leads to the source only later, use --no-login-check.
    "#);
    // Overridden, it is the standby that will not stream.
    let said = rebuild("name4", &conninfo)
        .arg("--no-login-check")
        .succeed();
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
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @r#"
    pg_reseed: error: "wal_level" is "minimal" on the source
    pg_reseed: detail: Its WAL is not sufficient for a backup or a standby.
    pg_reseed: hint: Set "wal_level" to "replica" or "logical" on the source and restart it.
    pg_reseed: error: the source has no free WAL sender for the new standby
    pg_reseed: detail: 0 of "max_wal_senders" = 0 are in use.
    pg_reseed: hint: Set "max_wal_senders" higher on the source and restart it, or end a connection that is no longer needed.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    "#);
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
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @r#"
    pg_reseed: error: the source has no free replication slot
    pg_reseed: detail: 1 of "max_replication_slots" = 1 are in use, and the run needs one so that the source keeps its WAL.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Drop a slot that is no longer needed, or set "max_replication_slots" higher on the source and restart it.
    "#);
    pair.new.sql("SELECT pg_drop_replication_slot('taken')");
    let standby = scene.standby("standby", &pair.new, &["--wal-method=none"]);
    pair.new.wait_caught_up(&standby);
    assert_snapshot!(refused(&scene, &pair.old, pair.rebuild()), @r#"
    pg_reseed: error: the source has no free WAL sender for the new standby
    pg_reseed: detail: 1 of "max_wal_senders" = 1 are in use.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Set "max_wal_senders" higher on the source and restart it, or end a connection that is no longer needed.
    "#);
}

#[test]
fn slots_that_cannot_be_used_are_refused() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.new
        .configure("wal_level = logical\nmax_slot_wal_keep_size = 1MB\nmin_wal_size = 32MB\nwal_keep_size = 0\n");
    pair.new.restart();
    let slot = |name: &str| refused(&scene, &pair.old, pair.rebuild().args(["--slot", name]));
    assert_snapshot!(slot("missing"), @r#"
    pg_reseed: error: replication slot "missing" does not exist on the source
    pg_reseed: detail: The standby would wait for it for ever.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Check --slot, or use --create-slot to have it made.
    "#);
    pair.new
        .sql("SELECT pg_create_logical_replication_slot('logical', 'pgoutput')");
    assert_snapshot!(slot("logical"), @r#"
    pg_reseed: error: replication slot "logical" of the source is a logical slot
    pg_reseed: detail: A standby needs a physical slot.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Choose another name with --slot.
    "#);
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
    assert_snapshot!(slot("lost"), @r#"
    pg_reseed: error: replication slot "lost" of the source has lost its WAL
    pg_reseed: detail: It was invalidated and cannot be used any more.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Drop it on the source, SELECT pg_drop_replication_slot('lost');, and use --create-slot to have it made again.
    "#);
    pair.new
        .sql("ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf()");
    pair.new.wait_sql("SHOW max_slot_wal_keep_size", "-1");
    pair.new
        .sql("SELECT pg_create_physical_replication_slot('active', true)");
    let mut standby = scene.standby("standby", &pair.new, &[]);
    standby.stop(Stop::Fast);
    standby.configure("primary_slot_name = 'active'");
    standby.start();
    pair.new.wait_caught_up(&standby);
    let pid = pair
        .new
        .sql("SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'active'");
    let said = slot("active").replace(&format!("process {pid} "), "process PID ");
    assert_snapshot!(said, @r#"
    pg_reseed: error: replication slot "active" of the source is in use
    pg_reseed: detail: Another standby streams from it, and a slot serves one at a time: process PID of the source, "standby" from a socket of the source's host.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Choose another name with --slot, or stop the standby that uses it.
    "#);
    assert_eq!(
        pair.new
            .sql("SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots"),
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
    assert_snapshot!(refused(&scene, &pair.old, Rebuild::new(&pair.old, &middle)), @r#"
    pg_reseed: error: "full_page_writes" is off in the WAL that the source replays
    pg_reseed: detail: The source is a standby, and a backup taken from it could hold torn pages.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Set "full_page_writes" to "on" on its primary and wait for the next restartpoint, or use the primary as the source.
    "#);
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
    assert_snapshot!(tried(&[]), @r#"
    pg_reseed: error: tablespace PID would be at "SCENE/new-s1", which the source uses on this host
    pg_reseed: detail: A rebuild would overwrite the files of the running source.
    pg_reseed: hint: Use --tablespace-mapping=SCENE/new-s1=SCENE/old-s1, where the target has it now, or another directory.
    pg_reseed: error: tablespace PID would be at "SCENE/new-s2", which the source uses on this host
    pg_reseed: detail: A rebuild would overwrite the files of the running source.
    pg_reseed: hint: Use --tablespace-mapping=SCENE/new-s2=SCENE/old-s2, where the target has it now, or another directory.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    "#);
    assert_snapshot!(tried(&[map(new1, old1)]), @r#"
    pg_reseed: error: tablespace PID would be at "SCENE/new-s2", which the source uses on this host
    pg_reseed: detail: A rebuild would overwrite the files of the running source.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Use --tablespace-mapping=SCENE/new-s2=SCENE/old-s2, where the target has it now, or another directory.
    "#);
    assert_snapshot!(tried(&[map(new1, old1), map(new2, old2), map("/nowhere", "/elsewhere")]), @r#"
    pg_reseed: error: no tablespace of the source is at "/nowhere"
    pg_reseed: detail: The source's tablespaces are at "SCENE/new-s1", "SCENE/new-s2".
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Correct or leave out the --tablespace-mapping.
    "#);
    assert_snapshot!(tried(&[map(new1, old1), map(new2, old2), map(new2, "/elsewhere")]), @r#"
    pg_reseed: error: tablespace "SCENE/new-s2" is mapped more than once
    pg_reseed: detail: It can be in one place only.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Leave out all but one --tablespace-mapping for it.
    "#);
    assert_snapshot!(tried(&[map(new1, old1), map(new2, old1)]), @r#"
    pg_reseed: error: tablespace locations "SCENE/old-s1" and "SCENE/old-s1" overlap
    pg_reseed: detail: Each tablespace needs a place of its own.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Choose another directory with --tablespace-mapping.
    "#);
    assert_snapshot!(tried(&[map(new1, old1), map(new2, &format!("{old1}/below"))]), @r#"
    pg_reseed: error: tablespace locations "SCENE/old-s1/below" and "SCENE/old-s1" overlap
    pg_reseed: detail: Each tablespace needs a place of its own.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Choose another directory with --tablespace-mapping.
    "#);
    assert_snapshot!(tried(&[map(new1, old1), map(new2, &format!("{}/base/s", pair.old.pgdata().display()))]), @r#"
    pg_reseed: error: tablespace PID would be at "SCENE/old/data/base/s", inside the data directory "SCENE/old/data"
    pg_reseed: detail: Its files would be taken for files of that directory.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Choose a directory outside: --tablespace-mapping=SCENE/new-s2=NEWDIR.
    "#);
    assert_snapshot!(tried(&[map(new1, old1), map(new2, &format!("{}/s", pair.new.pgdata().display()))]), @r#"
    pg_reseed: error: tablespace PID would be at "SCENE/new/data/s", inside the source's data directory "SCENE/new/data"
    pg_reseed: detail: Its files would be taken for files of that directory.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Choose a directory outside: --tablespace-mapping=SCENE/new-s2=NEWDIR.
    "#);
    let full = scene.folder("full");
    fs::write(full.join("thesis.txt"), "the only copy").unwrap();
    assert_snapshot!(tried(&[map(new1, old1), map(new2, &full.display().to_string())]), @r#"
    pg_reseed: error: directory "SCENE/full" exists but is not empty
    pg_reseed: detail: It holds "thesis.txt", which is no part of a tablespace.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Choose another directory with --tablespace-mapping. If the tablespace may share the directory, use --reuse-tablespace-dirs.
    "#);
    let file = scene.path().join("file");
    fs::write(&file, "").unwrap();
    assert_snapshot!(tried(&[map(new1, old1), map(new2, &file.display().to_string())]), @r#"
    pg_reseed: error: "SCENE/file" exists but is not a directory
    pg_reseed: detail: A tablespace of the source goes there.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Remove it, or choose another directory with --tablespace-mapping.
    "#);
    let used = scene.folder("used");
    let version = fs::read_dir(new1)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    fs::create_dir(used.join(&version)).unwrap();
    fs::write(used.join(&version).join("other"), "of another cluster").unwrap();
    assert_snapshot!(tried(&[map(new1, old1), map(new2, &used.display().to_string())]), @r#"
    pg_reseed: error: directory "SCENE/used/PG_15_CATALOG" already exists
    pg_reseed: detail: No link of the target leads there: it may be a tablespace of another cluster.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Choose another directory with --tablespace-mapping. If its content can be given up, use --reuse-tablespace-dirs.
    "#);
    assert!(used.join(&version).join("other").exists());

    // Overridden: a place with content of its own is shared, and that content stays. So does what the
    // tablespace had in its old place.
    let said = pair
        .rebuild()
        .args([
            "-T",
            &map(new1, old1),
            "-T",
            &map(new2, &full.display().to_string()),
            "--reuse-tablespace-dirs",
            "--start",
        ])
        .succeed();
    assert!(
        said.stderr.contains(&format!("was at \"{old2}\" before")),
        "{said}"
    );
    pair.check_equal();
    assert_eq!(
        fs::read_to_string(full.join("thesis.txt")).unwrap(),
        "the only copy"
    );
    assert_eq!(fs::read_dir(old2).unwrap().count(), 1);
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
fn target_without_room_is_refused() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    // Nothing is written for it: a file with a hole larger than the disk.
    let huge = fs::File::create(pair.new.pgdata().join("huge")).unwrap();
    huge.set_len(8 << 40).unwrap();
    let words = refused(&scene, &pair.old, pair.rebuild());
    assert!(words.contains("not enough"), "{words}");
    assert!(words.contains("--ignore-free-space"), "{words}");
    fs::remove_file(pair.new.pgdata().join("huge")).unwrap();
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
}

/// It cannot be judged before; the target waits for the same command with a place for it.
#[test]
fn tablespace_made_during_the_run_is_noticed() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut run = pair.rebuild().args(["--progress", "json"]).spawn();
    run.wait_closed(&pair.old);
    kill_process(run.pid(), Signal::STOP).unwrap();
    let theirs = scene.folder("late");
    pair.new.sql(&format!(
        "CREATE TABLESPACE late LOCATION '{}'",
        theirs.display()
    ));
    pair.new
        .sql("CREATE TABLE in_late TABLESPACE late AS SELECT 1 AS i");
    kill_process(run.pid(), Signal::CONT).unwrap();
    let said = run.wait();
    assert_eq!(said.code(), 4, "{said}");
    assert!(said.stderr.contains("tablespace"), "{said}");
    let mapping = format!(
        "{}={}",
        theirs.display(),
        scene.path().join("ours").display()
    );
    pair.rebuild().args(["--start", "-T", &mapping]).succeed();
    pair.check_equal();
}

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
        words.contains("for instance \"base/") && words.contains("--max-delete"),
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
