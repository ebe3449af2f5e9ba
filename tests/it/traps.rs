//! The ways in which a standby that was rebuilt on top of old files can go wrong, each one laid out on
//! purpose (the traps of section 14 of the PostgreSQL facts).

use std::fs;
use std::path::PathBuf;

use crate::cluster::{Cluster, Pair, Rebuild, Scene, Stop, done, tool};
use crate::guards::pair_with_tablespaces;
use crate::oracle::{
    Since, assert_checksums, assert_like_basebackup, count_same_lsn_differing, settle,
};

/// The lines of postgresql.auto.conf that set `name`, whatever its case.
pub fn auto_conf_lines(cluster: &Cluster, name: &str) -> Vec<String> {
    cluster
        .read("postgresql.auto.conf")
        .lines()
        .filter(|line| {
            let word = line
                .trim_start()
                .split(|c: char| c == '=' || c.is_whitespace())
                .next()
                .unwrap();
            word.eq_ignore_ascii_case(name)
        })
        .map(str::to_owned)
        .collect()
}

/// T8: a table that is permanent on the source would be wiped at promotion.
#[test]
fn stale_init_fork_does_not_wipe_a_table() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let file = pair.new.sql("SELECT pg_relation_filepath('t')");
    pair.old.write(&format!("{file}_init"), b"");
    pair.rebuild().arg("--start").succeed();
    assert!(!pair.old.exists(&format!("{file}_init")));
    pair.check_equal();
    pair.old.promote();
    assert_eq!(pair.old.sql("SELECT count(*) FROM t"), "5000");
    pair.old.restart();
    assert_eq!(pair.old.sql("SELECT count(*) FROM t"), "5000");
}

/// T7, T9: valid pages and files that only the target has.
#[test]
fn longer_files_and_extra_files_of_the_target_do_not_show() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.old.start();
    pair.old
        .sql("INSERT INTO t SELECT i, 'tail' FROM generate_series(10000, 90000) AS i; CHECKPOINT");
    pair.old.stop(Stop::Fast);
    pair.new.sql("VACUUM");
    let file = pair.new.sql("SELECT pg_relation_filepath('t')");
    let page = fs::read(pair.old.pgdata().join(&file)).unwrap()[..8192].to_vec();
    // Its number is fixed from 15 on only.
    let database = pair
        .new
        .sql("SELECT 'base/' || oid FROM pg_database WHERE datname = 'postgres'");
    let extra = [
        &format!("{database}/99999"),
        &format!("{database}/99999_fsm"),
        "base/77777/1259",
        "base/77777/PG_VERSION",
        "global/99999",
        "pg_xact/00FF",
        "pg_multixact/members/00FF",
    ];
    fs::create_dir(pair.old.pgdata().join("base/77777")).unwrap();
    for path in extra {
        pair.old.write(path, &page);
    }
    pair.old.write(&format!("{file}.1"), &page);
    pair.old.write(&format!("{file}.2"), &page);
    pair.rebuild().succeed();
    let length = |cluster: &Cluster| fs::metadata(cluster.pgdata().join(&file)).unwrap().len();
    assert_eq!(length(&pair.old), length(&pair.new));
    for path in extra
        .into_iter()
        .chain(["base/77777", &format!("{file}.1"), &format!("{file}.2")])
    {
        assert!(!pair.old.exists(path), "{path} is left");
    }
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
    pair.old.start();
    pair.check_equal();
}

/// T4, T5, T6: what a twin on the same timeline left in pg_wal would be replayed before anything streams.
#[test]
fn wal_of_a_twin_on_the_same_timeline_is_not_replayed() {
    let scene = Scene::new();
    let mut primary = scene.cluster("primary");
    primary.start();
    primary.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) AS i");
    primary.stop(Stop::Fast);
    let mut twin = scene.copy("twin", &primary);
    twin.start();
    twin.sql("CREATE TABLE only_twin AS SELECT i FROM generate_series(1, 50000) AS i; SELECT pg_switch_wal(); CHECKPOINT");
    twin.sql("INSERT INTO only_twin SELECT i FROM generate_series(1, 500000) AS i; SELECT pg_switch_wal(); CHECKPOINT");
    twin.stop(Stop::Fast);
    primary.start();
    primary.sql("CREATE TABLE only_primary AS SELECT i FROM generate_series(1, 800000) AS i");
    // A failed promotion left a history file, one for the future too; both wait for the archiver.
    for (name, text) in [
        (
            "00000002.history",
            "1\t0/1500000\tno recovery target specified\n",
        ),
        ("00000003.history", "2\t7F/0\tlater\n"),
    ] {
        twin.write(&format!("pg_wal/{name}"), text);
        twin.write(&format!("pg_wal/archive_status/{name}.ready"), "");
    }
    twin.write("pg_wal/archive_status/000000010000000000000001.ready", "");
    twin.write("pg_wal/000000010000000000000009.partial", "x");
    fs::create_dir(twin.pgdata().join("pg_wal/walg_data")).unwrap();
    twin.write("pg_wal/walg_data/x", "x");

    Rebuild::new(&twin, &primary).succeed();
    for name in fs::read_dir(twin.pgdata().join("pg_wal")).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        assert!(
            ["archive_status", "summaries"].contains(&&*name)
                || (name.len() == 24 && primary.exists(&format!("pg_wal/{name}"))),
            "pg_wal holds {name}"
        );
        if name.len() == 24 {
            assert!(
                twin.exists(&format!("pg_wal/archive_status/{name}.done")),
                "{name} would be archived again"
            );
        }
    }
    for name in fs::read_dir(twin.pgdata().join("pg_wal/archive_status")).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        assert!(
            name.strip_suffix(".done").is_some(),
            "archive_status holds {name}"
        );
    }
    twin.start();
    primary.wait_caught_up(&twin);
    assert_eq!(
        twin.sql("SELECT to_regclass('only_twin') IS NULL, count(*) FROM only_primary"),
        "t|800000"
    );
    twin.restart();
    primary.wait_caught_up(&twin);
    twin.promote();
    assert_eq!(twin.timeline(), 2);
}

/// T1: without its label the standby would recover from the wrong place and say nothing.
#[test]
fn lost_label_panics_instead_of_recovering_wrongly() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.rebuild().succeed();
    let label = pair.old.read("backup_label");
    fs::remove_file(pair.old.pgdata().join("backup_label")).unwrap();
    let log = pair.old.try_start().unwrap_err();
    assert!(
        (log.contains("PANIC") || log.contains("FATAL"))
            && log.contains("could not locate a valid checkpoint record"),
        "{log}"
    );
    // With it everything is well.
    pair.old.write("backup_label", label);
    pair.old.start();
    pair.check_equal();
}

/// T2, T3: a control file that appears before label and signal makes a second primary, or worse. The
/// directory is watched during the run, in the order that would show it.
#[test]
fn control_file_appears_after_label_and_signal() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut running = pair.rebuild().spawn();
    let (mut closed, mut wrong) = (false, Vec::new());
    while !running.ended() {
        let has_control = pair.old.exists("global/pg_control");
        closed |= !has_control;
        if closed && has_control {
            for path in ["backup_label", "standby.signal", "postgresql.auto.conf"] {
                if !pair.old.exists(path) {
                    wrong.push(path);
                }
            }
        }
    }
    let said = running.wait();
    assert_eq!(said.code(), 0, "{said}");
    assert!(closed, "the target was never without control file");
    assert!(
        wrong.is_empty(),
        "the control file was there before {wrong:?}"
    );
}

/// T15: the source's tablespace_map would put the links back to the source's own places.
#[test]
fn mapped_tablespace_links_survive_the_start() {
    let scene = Scene::new();
    let (mut pair, theirs, ours) = pair_with_tablespaces(&scene);
    let mapping = |n: usize| format!("{}={}", theirs[n], ours[n]);
    pair.rebuild()
        .args(["-T", &mapping(0), "-T", &mapping(1)])
        .succeed();
    if pair.old.exists("tablespace_map") {
        let map = pair.old.read("tablespace_map");
        assert!(!theirs.iter().any(|place| map.contains(place)), "{map}");
    }
    let links = || {
        pair.new
            .tablespaces()
            .iter()
            .map(|(oid, _)| {
                fs::read_link(pair.old.pgdata().join(format!("pg_tblspc/{oid}"))).unwrap()
            })
            .collect::<Vec<_>>()
    };
    let wanted = ours.iter().map(PathBuf::from).collect::<Vec<_>>();
    assert_eq!(links(), wanted);
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
    pair.old.start();
    assert_eq!(
        pair.new
            .tablespaces()
            .iter()
            .map(
                |(oid, _)| fs::read_link(pair.old.pgdata().join(format!("pg_tblspc/{oid}")))
                    .unwrap()
            )
            .collect::<Vec<_>>(),
        wanted
    );
    pair.check_equal();
}

/// T17: settings of the directory's former lives, in every spelling that the server accepts.
#[test]
fn settings_of_a_former_life_do_not_survive() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.old.write(
        "postgresql.auto.conf",
        "# Do not edit this file manually!\n\
         work_mem = '7MB'\n\
         primary_conninfo = 'host=/first user=nobody'\n\
         PRIMARY_CONNINFO 'host=/second'\n\
         \x20 Primary_ConnInfo='host=/third'\n\
         primary_slot_name = 'slot_of_another'\n\
         recovery_target_lsn = '0/1'\n\
         recovery_target_action = 'promote'\n\
         recovery_target_inclusive off\n\
         recovery_target_timeline = 'current'\n\
         recovery_min_apply_delay = '1h'\n\
         restore_command = 'cp /archive/%f %p'\n\
         archive_cleanup_command = 'rm -rf /archive'\n\
         recovery_end_command = 'false'\n\
         maintenance_work_mem = '17MB'\n",
    );
    pair.old.write("recovery.signal", "");
    pair.old.write("recovery.conf", "standby_mode = on\n");
    pair.rebuild().arg("--start").succeed();
    assert_eq!(auto_conf_lines(&pair.old, "primary_conninfo").len(), 1);
    pair.new.wait_caught_up(&pair.old);
    let show = |name: &str| pair.old.sql(&format!("SHOW {name}"));
    for name in [
        "primary_slot_name",
        "recovery_target",
        "recovery_target_lsn",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_xid",
        "restore_command",
        "archive_cleanup_command",
        "recovery_end_command",
    ] {
        assert_eq!(show(name), "", "{name}");
    }
    assert_eq!(show("recovery_target_timeline"), "latest");
    assert_eq!(show("recovery_min_apply_delay"), "0");
    // What says nothing about the role is the host's own.
    assert_eq!(show("work_mem"), "7MB");
    assert_eq!(show("maintenance_work_mem"), "17MB");
    assert!(!pair.old.exists("recovery.signal") && !pair.old.exists("recovery.conf"));
    // The next failover still works: it follows a new timeline.
    pair.check_equal();
    // Again, and once more: it stays one line.
    pair.old.stop(Stop::Fast);
    pair.rebuild().succeed();
    assert_eq!(auto_conf_lines(&pair.old, "primary_conninfo").len(), 1);
}

/// The same settings in postgresql.conf, which is the host's own and is not written: they must be
/// overruled, or the standby promotes itself.
#[test]
fn recovery_settings_in_the_hosts_own_file_are_overruled() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.old.configure(
        "primary_conninfo = 'host=/first user=nobody'\n\
         primary_slot_name = 'slot_of_another'\n\
         recovery_target_lsn = '0/1'\n\
         recovery_target_action = 'promote'\n",
    );
    let before = pair.old.read("postgresql.conf");
    pair.rebuild().arg("--start").succeed();
    assert_eq!(pair.old.read("postgresql.conf"), before);
    pair.check_equal();
    assert_eq!(pair.old.sql("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(pair.old.sql("SHOW primary_slot_name"), "");
    assert_eq!(pair.old.sql("SHOW recovery_target_lsn"), "");
}

/// Both quoting levels: the server reads back what was meant.
#[test]
fn connection_string_survives_both_levels_of_quoting() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let name = r"it's a \ 'name' = x";
    Rebuild::without_name(&pair.old, &pair.new.conninfo())
        .args(["--from", "local", "--source-dbname"])
        .arg(format!("{} dbname=postgres", pair.new.conninfo()))
        .args(["--application-name", name])
        .succeed();
    let conninfo = done(
        tool("postgres")
            .args(["-C", "primary_conninfo", "-D"])
            .arg(pair.old.pgdata()),
    );
    let quoted = name.replace('\\', r"\\").replace('\'', r"\'");
    assert!(
        conninfo.contains(&format!("application_name='{quoted}'")),
        "{conninfo}"
    );
    let Pair { mut old, new } = pair;
    old.start();
    new.wait_sql("SELECT application_name FROM pg_stat_replication", name);
}

/// Pages that only hint bits tell apart have the same LSN on both sides; they are made equal all the same.
#[test]
fn pages_that_differ_only_in_hint_bits_are_made_equal() {
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| {
        drop(old.sql("CREATE TABLE t (i int, f text)"));
    });
    pair.old.sql(
        "CHECKPOINT; INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 20000) AS i",
    );
    // The first reader sets the bits. They are logged once a page and checkpoint, and no further.
    pair.old.sql("DELETE FROM t WHERE i % 3 = 0");
    pair.old.sql("SELECT count(*) FROM t");
    settle(&pair.old, &pair.new);
    pair.new.stop(Stop::Fast);
    let before = count_same_lsn_differing(pair.new.pgdata(), pair.old.pgdata());
    assert!(before > 100, "only {before} pages differ in hint bits");
    let said = Rebuild::new(&pair.new, &pair.old).succeed();
    assert!(said.number("differing_blocks") >= before, "{said}");
    assert_eq!(
        count_same_lsn_differing(pair.new.pgdata(), pair.old.pgdata()),
        0
    );
    assert_like_basebackup(&scene, &pair.old, pair.new.pgdata(), Since::Rebuilt);
    pair.new.start();
    pair.old.wait_caught_up(&pair.new);
    settle(&pair.old, &pair.new);
    assert_checksums(&mut pair.new);
}

/// T10, T11, T35, T37: prepared transactions, slots, relation maps and left-overs of another life.
#[test]
fn nothing_of_another_life_is_left() {
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| drop(old.sql("CREATE TABLE t (i int)")));
    pair.fail_over();
    pair.old.sql(
        "SELECT pg_create_physical_replication_slot('old_slot', true);
         VACUUM FULL pg_class; VACUUM FULL pg_proc;
         BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'ghost';
         CHECKPOINT;",
    );
    pair.new.sql("VACUUM FULL pg_class; VACUUM FULL pg_type; VACUUM FULL pg_class; VACUUM FULL pg_authid; VACUUM");
    pair.old.stop(Stop::Fast);
    assert!(
        fs::read_dir(pair.old.pgdata().join("pg_twophase"))
            .unwrap()
            .count()
            > 0
    );
    for path in [
        "backup_manifest",
        "backup_label.old",
        "tablespace_map.old",
        "current_logfiles",
        "postmaster.opts",
        "pg_stat/pgstat.stat",
        "pg_notify/0000",
        "base/5/pg_internal.init",
        "base/5/t3_16384",
        "pg_logical/replorigin_checkpoint",
        "base/pgsql_tmp/pgsql_tmp1.0",
    ] {
        fs::create_dir_all(pair.old.pgdata().join(path).parent().unwrap()).unwrap();
        pair.old.write(path, "of another life");
    }
    pair.rebuild().succeed();
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Rebuilt);
    assert_eq!(
        fs::read_dir(pair.old.pgdata().join("pg_replslot"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        fs::read_dir(pair.old.pgdata().join("pg_twophase"))
            .unwrap()
            .count(),
        0
    );
    pair.old.start();
    pair.check_equal();
    assert_eq!(
        pair.old.sql("SELECT count(*) FROM pg_replication_slots"),
        "0"
    );
    pair.old.promote();
    assert_eq!(pair.old.sql("SELECT count(*) FROM pg_prepared_xacts"), "0");
}

/// T16: what belongs to the host, not to the cluster.
#[test]
fn files_of_the_host_are_kept() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    pair.old.configure(
        "include_dir 'conf.d'\ninclude_if_exists 'more.conf'\nssl_cert_file = 'tls/me.crt'",
    );
    for folder in ["conf.d", "tls", "log", "kept-by-pattern"] {
        fs::create_dir(pair.old.pgdata().join(folder)).unwrap();
    }
    let own = [
        "conf.d/10-mine.conf",
        "more.conf",
        "server.crt",
        "server.key",
        "tls/me.crt",
        "log/postgresql.log",
        "kept-by-pattern/x",
        "patroni.dynamic.json",
        ".pgpass",
    ];
    for path in own {
        pair.old.write(path, format!("# {path} of this host\n"));
    }
    pair.new.write(
        "pg_hba.conf",
        format!("{}# the source's\n", pair.new.read("pg_hba.conf")),
    );
    pair.new.write("server.crt", "the source's");
    let hba = pair.old.read("pg_hba.conf");
    pair.rebuild()
        .args(["--keep", "kept-by-pattern", "--start"])
        .succeed();
    for path in own {
        assert_eq!(pair.old.read(path), format!("# {path} of this host\n"));
    }
    assert_eq!(pair.old.read("pg_hba.conf"), hba);
    pair.check_equal();
}

/// ... and are replaced when that is asked for.
#[test]
fn configuration_of_the_source_is_taken_when_asked_for() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.new.configure("work_mem = '9MB'");
    pair.new.write(
        "pg_hba.conf",
        format!("{}# the source's\n", pair.new.read("pg_hba.conf")),
    );
    pair.rebuild().args(["--config", "source"]).succeed();
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        assert_eq!(pair.old.read(name), pair.new.read(name), "{name}");
    }
    let home = pair.old.home().display().to_string();
    pair.old.with_options(&[
        "-c",
        &format!("unix_socket_directories={home}"),
        "-c",
        "cluster_name=old",
    ]);
    pair.old.start();
    pair.check_equal();
    assert_eq!(pair.old.sql("SHOW work_mem"), "9MB");
}

/// T30: a damaged page of the source is copied as it is, and told.
#[test]
fn damaged_page_of_the_source_is_reported() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let file = pair.new.sql("SELECT pg_relation_filepath('t')");
    pair.new.stop(Stop::Fast);
    let mut bytes = fs::read(pair.new.pgdata().join(&file)).unwrap();
    bytes[3 * 8192 + 5000] ^= 0x40;
    pair.new.write(&file, &bytes);
    pair.new.start();
    let said = pair.rebuild().fail(5);
    let damaged = said.report()["damaged"].as_array().unwrap().clone();
    assert_eq!(damaged.len(), 1, "{said}");
    assert_eq!(
        (
            damaged[0]["path"].as_str().unwrap(),
            damaged[0]["block"].as_u64().unwrap()
        ),
        (file.as_str(), 3)
    );
    assert!(
        said.stderr.contains(&file) || said.stdout.contains(&file),
        "{said}"
    );
    assert_eq!(fs::read(pair.old.pgdata().join(&file)).unwrap(), bytes);
    assert_eq!(said.word("outcome"), "done-with-damaged-pages");
}

/// T31: rot in the target is healed, whatever its LSN says.
#[test]
fn damaged_pages_of_the_target_are_healed() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    pair.new.sql("VACUUM");
    let file = pair.new.sql("SELECT pg_relation_filepath('pg_proc')");
    let mut bytes = fs::read(pair.old.pgdata().join(&file)).unwrap();
    for place in [5000, 3 * 8192, bytes.len() - 1] {
        bytes[place] ^= 0x40;
    }
    pair.old.write(&file, &bytes);
    pair.rebuild().arg("--start").succeed();
    pair.check_equal();
    settle(&pair.new, &pair.old);
    assert_checksums(&mut pair.old);
}

/// T18: without a slot of its own the run would lose its WAL to the source's checkpoints.
#[test]
fn wal_is_kept_while_the_run_takes_its_time() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut running = pair
        .rebuild()
        .args(["--start", "--progress", "json"])
        .spawn();
    running.wait_closed(&pair.old);
    rustix::process::kill_process(running.pid(), rustix::process::Signal::STOP).unwrap();
    for _ in 0..4 {
        pair.new.sql("INSERT INTO t SELECT i, 'meanwhile' FROM generate_series(1, 1000) AS i; SELECT pg_switch_wal(); CHECKPOINT");
    }
    rustix::process::kill_process(running.pid(), rustix::process::Signal::CONT).unwrap();
    let said = running.wait();
    assert_eq!(said.code(), 0, "{said}");
    pair.check_equal();
    crate::rebuild::assert_source_as_found(&pair.new, 0);
}
