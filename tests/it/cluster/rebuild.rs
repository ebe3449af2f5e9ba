//! The binary under test, and all that it said.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::DEADLINE;
use super::server::Cluster;
use super::tools::{binary, bindir, clean, eventually_with, pause};

/// How long a rebuild may take in these tests.
const REBUILD_DEADLINE: Duration = Duration::from_secs(300);

/// A command line of `pg_reseed rebuild`.
pub struct Rebuild {
    command: Command,
    folder: PathBuf,
    report: PathBuf,
}

/// What a finished command said.
#[derive(Debug)]
pub struct Said {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub report: Option<Value>,
}

impl Rebuild {
    /// `rebuild` of `target` from the running `source`, with an agent on this host.
    pub fn new(target: &Cluster, source: &Cluster) -> Self {
        let mut rebuild = Self::bare(target, source);
        rebuild
            .command
            .args(["--from", "local", "--source-dbname"])
            .arg(format!("{} dbname=postgres", source.conninfo()));
        rebuild
    }

    /// `rebuild` without `--from`.
    pub fn bare(target: &Cluster, source: &Cluster) -> Self {
        Self::with_conninfo(target, &source.conninfo())
    }

    /// `rebuild` without `--from`, for a standby that shall connect with `conninfo`.
    pub fn with_conninfo(target: &Cluster, conninfo: &str) -> Self {
        Self::without_name(target, conninfo).args(["--application-name", target.name()])
    }

    /// `rebuild` of `target` as a job says.
    pub fn of_job(target: &Cluster, directory: &Path, job: &str) -> Self {
        let mut command = clean(Command::new(binary()));
        command
            .args(["rebuild", "--job", job])
            .env("PG_RESEED_CONFIG_DIR", directory);
        Self {
            command,
            folder: target.home().to_owned(),
            report: target.home().join("report.json"),
        }
    }

    /// `rebuild` without `--from` and without `--application-name`.
    pub fn without_name(target: &Cluster, conninfo: &str) -> Self {
        let mut command = clean(Command::new(binary()));
        let report = target.home().join("report.json");
        let _ = fs::remove_file(&report);
        command
            .arg("rebuild")
            .arg("-D")
            .arg(target.pgdata())
            .args(["-d", conninfo])
            .arg("--bindir")
            .arg(bindir())
            .arg("--log-file")
            .arg(target.log_path())
            .args(["--no-sync", "--report"])
            .arg(&report);
        Self {
            command,
            folder: target.home().to_owned(),
            report,
        }
    }

    /// Another command of the binary about `target`, or the binary by another name: `program` and its first words.
    pub fn other(target: &Cluster, program: &Path, words: &[&str]) -> Self {
        let mut command = clean(Command::new(program));
        let report = target.home().join("report.json");
        let _ = fs::remove_file(&report);
        command.args(words);
        Self {
            command,
            folder: target.home().to_owned(),
            report,
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives it a process group of its own, with all that it starts.
    pub fn in_own_group(mut self) -> Self {
        std::os::unix::process::CommandExt::process_group(&mut self.command, 0);
        self
    }

    /// Runs it by another program, which is given the words of the command.
    pub fn under(mut self, words: &[&str]) -> Self {
        let mut outer = Command::new(words[0]);
        outer.args(&words[1..]).arg(self.command.get_program());
        self.command = moved(&self.command, outer);
        self
    }

    /// The command as a shell understands it, with its environment.
    pub fn typed(&self) -> String {
        let mut words = vec!["env".to_owned()];
        for (name, value) in self.command.get_envs() {
            let name = name.to_str().unwrap();
            match value {
                Some(value) => words.push(format!("{name}={}", value.to_str().unwrap())),
                None => words
                    .splice(1..1, ["-u".to_owned(), name.to_owned()])
                    .for_each(drop),
            }
        }
        let program = std::iter::once(self.command.get_program());
        let all = program.chain(self.command.get_args());
        words.extend(all.map(|word| word.to_str().unwrap().to_owned()));
        shlex::try_join(words.iter().map(String::as_str)).unwrap()
    }

    /// Runs it in a shell that has done something first, such as set a limit.
    pub fn after(self, script: &str) -> Self {
        self.under(&["sh", "-c", &format!("{script}; exec \"$@\""), "sh"])
    }

    /// Runs it to its end, whatever that is.
    pub fn run(self) -> Said {
        self.spawn().wait()
    }

    /// Runs it; it must succeed.
    pub fn succeed(self) -> Said {
        let said = self.run();
        assert_eq!(said.code(), 0, "{said}");
        said
    }

    /// Runs it; it must end with this status.
    pub fn fail(self, code: i32) -> Said {
        let said = self.run();
        assert_eq!(said.code(), code, "{said}");
        said
    }

    /// Starts it. Output goes to files, so that nothing it starts can hold a pipe open.
    pub fn spawn(mut self) -> Running {
        let number = fs::read_dir(&self.folder).unwrap().count();
        let stdout = self.folder.join(format!("stdout.{number}"));
        let stderr = self.folder.join(format!("stderr.{number}"));
        let child = self
            .command
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        Running {
            child: Some(child),
            stdout,
            stderr,
            report: self.report,
        }
    }
}

/// A command that gets another's arguments and environment.
fn moved(from: &Command, mut to: Command) -> Command {
    to.args(from.get_args());
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
    to
}

/// A rebuild that is under way.
pub struct Running {
    child: Option<Child>,
    stdout: PathBuf,
    stderr: PathBuf,
    report: PathBuf,
}

impl Running {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.as_ref().unwrap().id()).unwrap()).unwrap()
    }

    pub fn ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Waits for a moment of the run; panics when the run ends before it.
    pub fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(
                !self.ended() || condition(self),
                "the rebuild ended before this moment: {what}\n{}",
                self.stderr()
            );
            assert!(
                begin.elapsed() < DEADLINE,
                "waited {DEADLINE:?} in vain: {what}\n{}",
                self.stderr()
            );
            pause(Duration::from_millis(1));
        }
    }

    /// Waits until the point of no return is behind it.
    pub fn wait_closed(&mut self, target: &Cluster) {
        self.wait_for("the target is closed", |_| target.exists("pg_reseed.state"));
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        let mut text = Vec::new();
        File::open(&self.stderr)
            .unwrap()
            .read_to_end(&mut text)
            .unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The events (`--progress json`) so far.
    pub fn events(&self) -> Vec<Value> {
        BufReader::new(File::open(&self.stderr).unwrap())
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str(&line).ok())
            .collect()
    }

    pub fn kill(&self) {
        let _ = kill_process(self.pid(), Signal::KILL);
    }

    pub fn wait(mut self) -> Said {
        eventually_with(REBUILD_DEADLINE, || {
            if self.ended() {
                Ok(())
            } else {
                Err(format!(
                    "the rebuild has not ended; standard error:\n{}",
                    self.stderr()
                ))
            }
        });
        let status = self.child.take().unwrap().wait().unwrap();
        let report = fs::read_to_string(&self.report).ok();
        Said {
            status,
            stdout: fs::read_to_string(&self.stdout).unwrap(),
            stderr: self.stderr(),
            report: report.map(|text| {
                serde_json::from_str(&text)
                    .unwrap_or_else(|error| panic!("{error} in the report:\n{text}"))
            }),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Said {
    /// The exit status; a death by signal is no status, and fails the test.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("{self}"))
    }

    pub fn report(&self) -> &Value {
        self.report
            .as_ref()
            .unwrap_or_else(|| panic!("no report was written\n{self}"))
    }

    /// A number of the report.
    pub fn number(&self, name: &str) -> u64 {
        self.report()[name]
            .as_u64()
            .unwrap_or_else(|| panic!("the report has no number \"{name}\": {}", self.report()))
    }

    pub fn word(&self, name: &str) -> &str {
        self.report()[name]
            .as_str()
            .unwrap_or_else(|| panic!("the report has no word \"{name}\": {}", self.report()))
    }

    /// The lines for people on standard error: error, detail, hint, warning.
    pub fn messages(&self) -> String {
        let mut messages = String::new();
        for line in self.stderr.lines() {
            // Without the time.
            let line = line.split_once(" UTC ").map_or(line, |(_, line)| line);
            if line.starts_with("pg_reseed: ") {
                let _ = writeln!(messages, "{line}");
            }
        }
        messages
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\n---- stdout\n{}\n---- stderr\n{}",
            self.status, self.stdout, self.stderr
        )
    }
}
