//! Jobs: the command line of a timer, what it tells Prometheus, and who has the lock.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::process::{Signal, kill_process};

use crate::cluster::{Cluster, Pair, Rebuild, Scene, Stop, binary, bindir, clean, said};

/// The job that a rebuild of "old" from "new" is, in a directory of its own, with lines of its own.
struct Job {
    directory: PathBuf,
    metrics: PathBuf,
}

impl Job {
    fn nightly(scene: &Scene, pair: &Pair, more: &str) -> Self {
        let directory = scene.folder("jobs");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let metrics = directory.join("nightly.prom");
        let old = &pair.old;
        let text = format!(
            "pgdata = '{pgdata}'\ndbname = \"{conninfo}\"\nfrom = 'local'\n\
             source-dbname = \"{conninfo} dbname=postgres\"\nbindir = '{bindir}'\nlog-file = '{log}'\n\
             application-name = '{name}'\nno-sync = true\nstop = true\nstart = true\nmetrics = '{metrics}'\n{more}",
            pgdata = old.pgdata().display(),
            conninfo = pair.new.conninfo(),
            bindir = bindir().display(),
            log = old.log_path().display(),
            name = old.name(),
            metrics = metrics.display(),
        );
        let job = Self { directory, metrics };
        job.write("nightly.toml", &text);
        job
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = clean(Command::new(binary()));
        command.env("PG_RESEED_CONFIG_DIR", &self.directory);
        command.args(words).output().unwrap()
    }

    /// The command line of the service.
    fn nights(&self, status: i32) -> Output {
        let output = self.run(&[
            "rebuild",
            "--job",
            "nightly",
            "--if-needed",
            "--report",
            self.report().to_str().unwrap(),
        ]);
        assert_eq!(output.status.code(), Some(status), "{}", said(&output));
        output
    }

    fn report(&self) -> PathBuf {
        self.directory.join("report.json")
    }

    fn reported(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.report()).unwrap()).unwrap()
    }

    /// The metrics without their labels but the stage, in thousandths.
    fn metrics(&self) -> BTreeMap<String, u64> {
        let text = fs::read_to_string(&self.metrics).unwrap();
        let mode = fs::metadata(&self.metrics).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o644);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(
                    series.contains("{reseed_job=\"nightly\",pgdata=\"/"),
                    "{line}"
                );
                let (name, labels) = series.split_once('{').unwrap();
                let stage = labels.split_once("stage=\"").map(|(_, rest)| rest);
                let stage = stage.and_then(|rest| rest.split('"').next());
                let name = name.strip_prefix("pg_reseed_").unwrap();
                let name = stage.map_or(name.to_owned(), |stage| format!("{name}/{stage}"));
                let (whole, rest) = value.split_once('.').unwrap_or((value, "000"));
                assert_eq!(rest.len(), 3, "{line}");
                (name, (whole.to_owned() + rest).parse().unwrap())
            })
            .collect()
    }
}

/// The server of the old primary was started by the rebuild: the scene's end stops it by its pid file.
fn pid(cluster: &Cluster) -> String {
    let text = cluster.read("postmaster.pid");
    text.lines().next().unwrap().to_owned()
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn a_nightly_job_rebuilds_then_does_nothing_and_tells_prometheus() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let job = Job::nightly(&scene, &pair, "");
    let checked = job.run(&["jobs", "check"]);
    assert!(checked.status.success(), "{}", said(&checked));
    assert!(String::from_utf8_lossy(&checked.stdout).starts_with("nightly: ok ("));

    // A delta.
    job.nights(0);
    let first = job.metrics();
    assert_eq!(first["last_run_exit_status"], 0);
    assert_eq!(first["last_run_needed"], 1000);
    assert!(
        first["last_run_compared_bytes"] > first["last_run_moved_bytes"],
        "{first:?}"
    );
    assert!(first["last_run_differing_bytes"] > 0, "{first:?}");
    assert!(first["last_run_lost_wal_bytes"] > 0, "{first:?}");
    let stages: u64 = first
        .iter()
        .filter(|(name, _)| name.starts_with("last_run_stage_duration_seconds/"))
        .map(|(_, seconds)| seconds)
        .sum();
    let whole = first["last_run_duration_seconds"];
    assert!(stages > 0 && stages <= whole + 100, "{first:?}");
    assert_eq!(
        first["last_success_timestamp_seconds"],
        first["last_run_timestamp_seconds"]
    );
    let report = job.reported();
    assert_eq!(
        (&report["needed"], &report["job"]),
        (&true.into(), &"nightly".into())
    );
    let command = report["command"].as_str().unwrap();
    assert!(
        command.contains("rebuild --job nightly --if-needed"),
        "{command}"
    );
    assert!(!command.contains("--pgdata"), "{command}");
    pair.check_equal();

    // Nothing.
    let (server, written) = (
        pid(&pair.old),
        inode(&pair.old.pgdata().join("global/pg_control")),
    );
    pair.new.sql("INSERT INTO t VALUES (100000, 'newer')");
    let second = job.nights(0);
    let text = String::from_utf8_lossy(&second.stdout);
    assert!(
        text.contains("needs no rebuild: it streams from"),
        "{}",
        said(&second)
    );
    let nothing = job.metrics();
    assert_eq!(nothing["last_run_needed"], 0);
    assert_eq!(
        nothing["last_run_compared_bytes"] + nothing["last_run_lost_wal_bytes"],
        0
    );
    assert!(nothing["last_success_timestamp_seconds"] > first["last_success_timestamp_seconds"]);
    let report = job.reported();
    assert_eq!(
        (&report["needed"], &report["outcome"]),
        (&false.into(), &"not-needed".into())
    );
    assert_eq!(pid(&pair.old), server);
    assert_eq!(inode(&pair.old.pgdata().join("global/pg_control")), written);
    pair.check_equal();

    // A failure keeps what was.
    pair.new.stop(Stop::Fast);
    job.nights(1);
    let failed = job.metrics();
    assert_eq!(failed["last_run_exit_status"], 1000);
    assert_eq!(
        failed["last_success_timestamp_seconds"],
        nothing["last_success_timestamp_seconds"]
    );
    assert!(failed["last_run_timestamp_seconds"] > nothing["last_run_timestamp_seconds"]);
    // And a dry run says nothing.
    let before = fs::read(&job.metrics).unwrap();
    let dry = job.run(&["rebuild", "--job", "nightly", "--dry-run"]);
    assert_eq!(dry.status.code(), Some(1), "{}", said(&dry));
    assert_eq!(fs::read(&job.metrics).unwrap(), before);
    pair.old.stop(Stop::Fast);
}

#[test]
fn what_is_not_proven_is_rebuilt() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let job = Job::nightly(&scene, &pair, "");
    job.nights(0);
    // Stopped: nothing shows that it streams.
    pair.old.stop(Stop::Fast);
    job.nights(0);
    assert_eq!(job.reported()["needed"], true);
    // Paused: it does not follow.
    pair.old.sql("SELECT pg_wal_replay_pause()");
    let paused = job.nights(0);
    assert_eq!(job.reported()["needed"], true);
    let stderr = String::from_utf8_lossy(&paused.stderr);
    assert!(stderr.contains("A rebuild is needed: it is"), "{stderr}");
    pair.check_equal();
    // A primary of its own.
    pair.old.promote();
    pair.old.sql("CREATE TABLE own AS SELECT 1 AS i");
    job.write(
        "nightly.toml",
        &(fs::read_to_string(job.directory.join("nightly.toml")).unwrap()
            + "discard-newer-timeline = true\n"),
    );
    job.nights(0);
    assert!(job.metrics()["last_run_lost_wal_bytes"] > 0);
    pair.check_equal();
    job.nights(0);
    assert_eq!(job.reported()["needed"], false);
    pair.old.stop(Stop::Fast);
}

#[test]
fn who_has_the_lock_is_named() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    // The first one waits for its agent, which never says anything.
    let job = Job::nightly(&scene, &pair, "");
    let text = fs::read_to_string(job.directory.join("nightly.toml")).unwrap();
    job.write(
        "waiting.toml",
        &text
            .lines()
            .filter(|line| !line.starts_with("from") && !line.starts_with("source-dbname"))
            .map(|line| format!("{line}\n"))
            .chain(["from = 'exec:sleep 600'\n".to_owned()])
            .collect::<String>(),
    );
    let mut running = Rebuild::of_job(&pair.old, &job.directory, "waiting").spawn();
    let holder = running.pid();
    running.wait_for("the lock is taken", |_| {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let pid = holder.as_raw_nonzero().to_string();
        let has = |line: &str| line.split_whitespace().any(|word| word == pid);
        locks
            .lines()
            .any(|line| line.contains("FLOCK") && has(line))
    });
    let second = job.nights(3);
    let stderr = String::from_utf8_lossy(&second.stderr);
    let pid = holder.as_raw_nonzero();
    let wanted = format!("detail: It is process {pid} of user \"");
    assert!(stderr.contains(&wanted), "{stderr}");
    assert!(
        stderr.contains("pg_reseed rebuild of job \"waiting\", which has run for 0:0"),
        "{stderr}"
    );
    kill_process(holder, Signal::TERM).unwrap();
    let said = running.wait();
    assert_eq!(said.code(), 1, "{said}");
    assert_eq!(job.reported()["refusals"], serde_json::json!(["locked"]));
}

#[test]
fn a_wrong_job_does_not_begin() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let job = Job::nightly(&scene, &pair, "keeep = 'x'\n");
    let wrong = job.run(&["rebuild", "--job", "nightly"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", said(&wrong));
    let stderr = String::from_utf8_lossy(&wrong.stderr);
    assert!(
        stderr.contains("nightly.toml:12: unknown key \"keeep\""),
        "{stderr}"
    );
    assert!(stderr.contains("hint: Did you mean \"keep\"?"), "{stderr}");
    assert_eq!(job.run(&["jobs", "check"]).status.code(), Some(1));
    assert!(!job.metrics.exists());
    // What is typed is refused with the job named.
    job.write("quiet.toml", "quiet = true\npgdata = '/a'\nhost = 'b'\n");
    let both = job.run(&["rebuild", "--job", "quiet", "-v"]);
    assert_eq!(both.status.code(), Some(2), "{}", said(&both));
    let stderr = String::from_utf8_lossy(&both.stderr);
    assert!(
        stderr.contains("hint: The options of job \"quiet\" ("),
        "{stderr}"
    );
    // Inspect takes of a job what it has options for.
    job.write(
        "nightly.toml",
        &format!("pgdata = '{}'\nstart = true\nwait = 5\nhost = 'nowhere.invalid'\nfrom = 'exec:false'\n", pair.old.pgdata().display()),
    );
    let looked = job.run(&["inspect", "--job", "nightly"]);
    assert_eq!(looked.status.code(), Some(1), "{}", said(&looked));
}
