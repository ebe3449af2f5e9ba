//! A replica method of Patroni's: called as Patroni calls it, on the directories that it hands over.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{
    Cluster, DEADLINE, Pair, Rebuild, Running, Said, Scene, Stop, alive, binary, bindir,
    children_of, eventually,
};
use crate::oracle::{assert_same_data, assert_untouched, tree};
use crate::rebuild::assert_source_as_found;

/// How long Patroni waits after TERM before it kills.
const PATRONI_WAITS: Duration = Duration::from_secs(10);

/// How the agent reaches its server as the role of the tests.
fn agents(source: &Cluster) -> String {
    format!("{} dbname=postgres", source.conninfo())
}

/// A call with all that Patroni appends (seen: `patroni.md`), and a key of the method that means nothing. The role is one
/// that may replicate and nothing else.
fn method(target: &Cluster, source: &Cluster, own: &[&str]) -> Rebuild {
    let conninfo = source.conninfo().replace("user=postgres", "user=repl");
    let report = target.home().join("report.json");
    Rebuild::other(target, &binary(), &["patroni"])
        .args(["--no-sync", "--bindir"])
        .arg(bindir())
        .arg("--report")
        .arg(report)
        .args(own)
        .args(["--keep_data=True", "--no_leader=1", "--your_key=value"])
        .args(["--scope=trial", "--role=replica"])
        .arg(format!("--datadir={}", target.pgdata().display()))
        .arg(format!("--connstring=dbname=postgres {conninfo}"))
}

/// As [`method`], with an agent on this host.
fn local(target: &Cluster, source: &Cluster, own: &[&str]) -> Rebuild {
    method(target, source, own)
        .args(["--from", "local", "--source-dbname"])
        .arg(agents(source))
}

/// A diverged old primary whose server was stopped as Patroni does it, and the new primary with Patroni's role.
fn pair(scene: &Scene) -> Pair {
    let mut pair = Pair::diverged(scene);
    pair.new.sql("CREATE ROLE repl LOGIN REPLICATION");
    pair.old.start();
    pair.old.sql("CHECKPOINT; CREATE TABLE last (i int)");
    pair.old.stop(Stop::Immediate);
    pair
}

/// What Patroni does after the method: it writes the settings of the standby, and starts it.
fn as_patroni_goes_on(target: &mut Cluster, source: &Cluster) {
    let conninfo = source.conninfo().replace("user=postgres", "user=repl");
    target.configure(&format!("primary_conninfo = '{conninfo}'"));
    target.start();
    source.wait_caught_up(target);
    assert_same_data(source, target);
}

fn assert_settings_are_left(target: &Cluster) {
    let settings = target.read("postgresql.auto.conf");
    for name in ["primary_", "recovery_", "restore_command"] {
        assert!(!settings.contains(name), "{settings}");
    }
    assert!(target.exists("standby.signal") && target.exists("backup_label"));
}

fn attempts(said: &str) -> usize {
    said.matches("Attempt ").count()
}

#[test]
fn an_old_primary_becomes_what_patroni_makes_a_standby() {
    let scene = Scene::new();
    let mut pair = pair(&scene);
    pair.old.write(
        "postgresql.auto.conf",
        "primary_conninfo = 'host=gone'\nprimary_slot_name = 'mine'\nwork_mem = '5MB'\n",
    );
    // Its slot on the leader, which Patroni keeps meanwhile.
    pair.new
        .sql("SELECT pg_create_physical_replication_slot('mine', true)");
    let kept = pair.new.sql("SELECT restart_lsn FROM pg_replication_slots");
    let said = local(&pair.old, &pair.new, &[]).succeed();
    assert_settings_are_left(&pair.old);
    assert_eq!(said.word("mode"), "rebuild");
    assert_eq!(said.word("role"), "managed");
    assert!(said.report()["slot"].is_null(), "{}", said.report());
    assert!(
        said.number("moved_bytes") < said.number("full_copy_bytes") / 4,
        "{said}"
    );
    assert_eq!(attempts(&said.stderr), 0, "{said}");
    assert_eq!(pair.old.read("postgresql.auto.conf"), "work_mem = '5MB'\n");
    assert_source_as_found(&pair.new, 1);
    assert_eq!(
        pair.new.sql("SELECT restart_lsn FROM pg_replication_slots"),
        kept
    );
    as_patroni_goes_on(&mut pair.old, &pair.new);
}

#[test]
fn a_directory_that_does_not_exist_is_seeded() {
    let scene = Scene::new();
    let mut source = scene.cluster("source");
    source.start();
    source.sql("CREATE ROLE repl LOGIN REPLICATION; CREATE TABLE t AS SELECT 1 AS i");
    let mut target = scene.vacant("target");
    let said = local(&target, &source, &[]).succeed();
    assert_eq!(said.word("mode"), "seed");
    assert!(!said.messages().contains("--seed"), "{said}");
    assert_settings_are_left(&target);
    target.settle();
    as_patroni_goes_on(&mut target, &source);
}

/// Runs until the first attempt has failed, does something, and waits for the end.
fn after_first_attempt(mut running: Running, act: impl FnOnce()) -> Said {
    running.wait_for("the first attempt has failed", |running| {
        running.stderr().contains("Attempt 1 failed")
    });
    act();
    running.wait()
}

#[test]
fn an_agent_that_comes_up_late_is_waited_for() {
    let scene = Scene::new();
    let mut pair = pair(&scene);
    let flag = scene.path().join("up");
    let command = format!(
        "exec:test -e {} && exec {} serve --stdio -d '{}'",
        flag.display(),
        binary().display(),
        agents(&pair.new)
    );
    let running = method(&pair.old, &pair.new, &["--from", &command]).spawn();
    let said = after_first_attempt(running, || fs::write(&flag, "").unwrap());
    assert_eq!(said.code(), 0, "{said}");
    assert!(
        said.stderr.contains("The next one follows in 1 s"),
        "{said}"
    );
    as_patroni_goes_on(&mut pair.old, &pair.new);
}

#[test]
fn a_source_that_restarts_is_waited_for() {
    let scene = Scene::new();
    let mut pair = pair(&scene);
    pair.new.stop(Stop::Fast);
    let running = local(&pair.old, &pair.new, &[]).spawn();
    let said = after_first_attempt(running, || pair.new.start());
    assert_eq!(said.code(), 0, "{said}");
    as_patroni_goes_on(&mut pair.old, &pair.new);
}

#[test]
fn a_source_that_is_lost_half_way_is_waited_for() {
    let scene = Scene::new();
    let mut pair = pair(&scene);
    let mut running = local(&pair.old, &pair.new, &["--max_rate=2M"]).spawn();
    running.wait_closed(&pair.old);
    pair.new.stop(Stop::Immediate);
    let said = after_first_attempt(running, || pair.new.start());
    assert_eq!(said.code(), 0, "{said}");
    as_patroni_goes_on(&mut pair.old, &pair.new);
}

#[test]
fn what_does_not_pass_is_refused_at_once_and_with_status_1() {
    let scene = Scene::new();
    let mut pair = pair(&scene);
    let foreign = scene.foreign_cluster("foreign", &[]);
    let before = tree(foreign.pgdata());
    let said = local(&foreign, &pair.new, &[]).fail(1);
    assert_eq!(said.report()["refusals"][0], "foreign-cluster", "{said}");
    assert_eq!(attempts(&said.stderr), 0, "{said}");
    assert_untouched(&before, foreign.pgdata());

    pair.old.start();
    let said = local(&pair.old, &pair.new, &[]).fail(1);
    assert_eq!(said.report()["refusals"][0], "server-running", "{said}");
    assert_eq!(attempts(&said.stderr), 0, "{said}");
    pair.old.stop(Stop::Fast);

    // Nothing that could pass is waited for.
    pair.new.stop(Stop::Fast);
    let said = local(&pair.old, &pair.new, &["--retry-for", "0"]).fail(1);
    assert_eq!(attempts(&said.stderr), 0, "{said}");
    let said = local(&pair.old, &pair.new, &["--retry-for=2"]).fail(1);
    assert!(attempts(&said.stderr) > 0, "{said}");
}

#[test]
fn without_a_leader_it_says_what_is_missing() {
    let scene = Scene::new();
    let target = scene.vacant("target");
    let said = Rebuild::other(&target, &binary(), &["patroni"])
        .args(["--no_leader=1", "--scope=trial", "--role=replica"])
        .arg(format!("--datadir={}", target.pgdata().display()))
        .arg("--connstring=")
        .fail(1);
    assert!(said.stderr.contains("no member to copy from"), "{said}");
    assert!(!target.pgdata().exists());
}

/// A run that goes on for long, behind its point of no return.
fn slow(pair: &Pair, wrapped: impl FnOnce(Rebuild) -> Rebuild) -> Running {
    let mut running = wrapped(local(&pair.old, &pair.new, &["--max-rate=64k"])).spawn();
    running.wait_closed(&pair.old);
    running
}

/// What a run that was ended half-way leaves.
fn assert_half_way(pair: &mut Pair) {
    assert_source_as_found(&pair.new, 0);
    assert!(!pair.old.exists("global/pg_control"));
    let log = pair.old.try_start().expect_err("it must not start");
    assert!(log.contains("pg_reseed_rebuild_unfinished"), "{log}");
}

#[test]
fn term_ends_it_within_patronis_time_and_leaves_the_source_clean() {
    let scene = Scene::new();
    let mut pair = pair(&scene);
    let running = slow(&pair, |rebuild| rebuild);
    let begin = Instant::now();
    kill_process(running.pid(), Signal::TERM).unwrap();
    let said = running.wait();
    assert!(begin.elapsed() < PATRONI_WAITS, "{:?}", begin.elapsed());
    assert_eq!(said.code(), 1, "{said}");
    assert_eq!(attempts(&said.stderr), 0, "{said}");
    assert_half_way(&mut pair);
    // As Patroni calls it again with what is left.
    local(&pair.old, &pair.new, &[]).succeed();
    as_patroni_goes_on(&mut pair.old, &pair.new);
}

#[test]
fn term_ends_the_pause_before_the_next_attempt() {
    let scene = Scene::new();
    let pair = pair(&scene);
    let before = tree(pair.old.pgdata());
    let mut running = method(&pair.old, &pair.new, &["--from=exec:false"]).spawn();
    running.wait_for("it waits for half a minute", |running| {
        running.stderr().contains("follows in 16 s")
    });
    let begin = Instant::now();
    kill_process(running.pid(), Signal::TERM).unwrap();
    let said = running.wait();
    assert!(begin.elapsed() < PATRONI_WAITS, "{:?}", begin.elapsed());
    assert_eq!(said.code(), 1, "{said}");
    assert_untouched(&before, pair.old.pgdata());
}

#[test]
fn the_end_of_its_parent_ends_it() {
    let scene = Scene::new();
    let mut pair = pair(&scene);
    // A parent that goes on while its child does, as Patroni.
    let parent = slow(&pair, |rebuild| {
        rebuild.under(&["sh", "-c", "\"$@\" & wait", "sh"])
    });
    let child = only_child(parent.pid());
    parent.kill();
    drop(parent);
    eventually("the run has ended", DEADLINE, || {
        (!alive(child)).then_some(())
    });
    assert_half_way(&mut pair);
}

fn only_child(parent: Pid) -> Pid {
    let children = children_of(parent);
    let [child] = children[..] else {
        panic!("{children:?}");
    };
    child
}

#[test]
fn a_password_file_of_patronis_lets_the_standbys_role_in() {
    let scene = Scene::new();
    let pair = pair(&scene);
    pair.new.sql("ALTER ROLE repl PASSWORD 'geheim'");
    let hba = pair.new.read("pg_hba.conf");
    pair.new.write(
        "pg_hba.conf",
        format!("local all repl scram-sha-256\nlocal replication repl scram-sha-256\n{hba}"),
    );
    pair.new.sql("SELECT pg_reload_conf()");
    let conninfo = pair.new.conninfo();
    let passfile: PathBuf = scene.path().join("pgpass");
    fs::write(&passfile, "*:*:*:repl:geheim\n").unwrap();
    fs::set_permissions(
        &passfile,
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    // Without it the login fails, which is no reason to give up what Patroni has decided.
    let said = local(&pair.old, &pair.new, &[]).succeed();
    assert!(
        said.messages().contains("could not connect now"),
        "{said} {conninfo}"
    );
    let said = local(&pair.old, &pair.new, &[])
        .env("PGPASSFILE", &passfile)
        .succeed();
    assert!(!said.messages().contains("could not connect now"), "{said}");
    assert!(!format!("{said}{}", said.report()).contains("geheim"));
}
