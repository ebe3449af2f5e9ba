//! The server in a data directory: does it run, stop it, start it.

pub mod again;
mod login;
mod receiver;
pub mod restore;
pub mod script;
mod setting;
mod strays;

pub use self::login::{Trial, try_login};
pub use self::receiver::{Receiver, Receives, receiver};
pub use self::setting::setting;

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::facts::Running;

/// What in the environment says how to reach the source, and would be a setting of a server that we start, or let
/// its walreceiver in only until the next start.
const NOT_FOR_SERVERS: [&str; 3] = ["PGPORT", "PGOPTIONS", "PGPASSWORD"];

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Lines of a server's log that an error message shows.
const LOG_LINES: usize = 12;

/// Stopping or starting a server did not work.
#[derive(Debug, thiserror::Error)]
pub enum PostmasterError {
    #[error("could not signal the server with pid {pid}: {source}")]
    Signal { pid: u32, source: std::io::Error },
    #[error("the server with pid {pid} did not stop within {} s", .waited.as_secs())]
    StillRuns { pid: u32, waited: Duration },
    #[error("could not run \"{program}\": {source}")]
    Run {
        program: String,
        source: std::io::Error,
    },
    #[error("the server did not start: {0}")]
    DidNotStart(String),
    #[error(
        "the server that was started works in \"{}\", not in \"{}\"{}",
        .directory.display(), .pgdata.display(),
        if *.is_stopped { "; it was stopped again".to_owned() } else { format!(", and does not stop (pid {pid})") }
    )]
    Elsewhere {
        pid: u32,
        directory: PathBuf,
        pgdata: PathBuf,
        is_stopped: bool,
    },
}

/// The lines of postmaster.pid that matter (PostgreSQL `src/include/utils/pidfile.h`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct PidFile {
    pid: u32,
    /// Key and id of the shared memory segment.
    shared_memory: Option<(u64, u64)>,
}

impl PidFile {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(text);
        let mut lines = text.lines();
        // A single-user server writes its pid with a minus sign.
        let pid: i64 = lines.next()?.trim().parse().ok()?;
        let shared_memory = lines.nth(5).and_then(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        });
        Some(Self {
            pid: u32::try_from(pid.unsigned_abs()).ok()?,
            shared_memory,
        })
    }
}

/// Whether a server works in `pgdata`, judged as PostgreSQL judges it when it starts (`miscinit.c:
/// CreateLockFile`): the pid in postmaster.pid is alive, or its shared memory is still attached. Also
/// finds server processes without a pid file that have the directory as their working directory.
///
/// `pid_file` is the content of postmaster.pid, `None` when there is none.
#[must_use]
pub fn running(pgdata: &Path, pid_file: Option<&[u8]>) -> Running {
    if let Some(found) = pid_file.and_then(PidFile::parse) {
        if is_alive(found.pid) && found.pid != std::process::id() {
            // A server's working directory is its data directory (`postmaster.c`, `ChangeToDataDir`).
            return if works_in(found.pid, pgdata) {
                Running::Server { pid: found.pid }
            } else {
                Running::Unclear { pid: found.pid }
            };
        }
        if let Some((key, id)) = found.shared_memory
            && is_attached(key, id)
        {
            return Running::Orphans {
                detail: format!("Shared memory segment {id} of a dead server is still in use."),
            };
        }
    }
    match process_within(pgdata) {
        Some((pid, name)) => Running::Orphans {
            detail: format!("Process {pid} ({name}) works in it."),
        },
        // A server writes its number a moment after it has made the file, and a loss of power leaves the one
        // without the other.
        None if pid_file.is_some_and(|text| PidFile::parse(text).is_none()) => Running::TornPidFile,
        None => Running::No,
    }
}

/// Whether the process exists and has not ended. Another user's process cannot be the server of a directory
/// that is ours.
fn is_alive(pid: u32) -> bool {
    pid_of(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
        && !is_zombie(pid)
}

/// Whether the process has ended and its parent has not asked how: in containers that may take for ever.
fn is_zombie(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program in parentheses may hold anything.
    text.rsplit_once(") ")
        .is_some_and(|(_, state)| state.starts_with('Z'))
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Whether a System V shared memory segment has attached processes.
fn is_attached(key: u64, id: u64) -> bool {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let mut lines = table.lines();
    let Some(header) = lines.next() else {
        return false;
    };
    let column = |name| header.split_whitespace().position(|word| word == name);
    let (Some(key_at), Some(id_at), Some(attached_at)) =
        (column("key"), column("shmid"), column("nattch"))
    else {
        return false;
    };
    lines.any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<i64>().ok());
        // The kernel prints the key as a signed number.
        number(key_at).is_some_and(|found| u64::from(truncate(found)) == key & 0xFFFF_FFFF)
            && number(id_at) == i64::try_from(id).ok()
            && number(attached_at).is_some_and(|count| count > 0)
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the low 32 bits are meant"
)]
fn truncate(number: i64) -> u32 {
    number as u32
}

/// Whether the working directory of a process is `pgdata`.
fn works_in(pid: u32, pgdata: &Path) -> bool {
    let (Ok(here), Ok(there)) = (
        std::fs::metadata(pgdata),
        std::fs::metadata(format!("/proc/{pid}/cwd")),
    ) else {
        return false;
    };
    here.dev() == there.dev() && here.ino() == there.ino()
}

/// A server process whose working directory is `pgdata`.
fn process_within(pgdata: &Path) -> Option<(u32, String)> {
    processes().find(|(pid, _)| works_in(*pid, pgdata))
}

/// The processes of servers on this host, with their names, as far as they can be seen.
fn processes() -> impl Iterator<Item = (u32, String)> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        let is_server = name.starts_with("postgres") || name.starts_with("postmaster");
        is_server.then(|| (pid, name.trim().to_owned()))
    })
}

/// The servers that run on this host, as far as they can be seen (those of other users cannot): a process, the one
/// with the lowest number first, and a path that leads to its working directory, which is its data directory.
#[must_use]
pub fn servers() -> Vec<(u32, PathBuf)> {
    let mut all: Vec<u32> = processes().map(|(pid, _)| pid).collect();
    all.sort_unstable();
    all.into_iter()
        .map(|pid| (pid, PathBuf::from(format!("/proc/{pid}/cwd"))))
        .collect()
}

/// Stops a server in its fast mode and waits until it is gone.
///
/// # Errors
/// [`PostmasterError`] when it cannot be signalled or does not stop in time.
pub async fn stop(pgdata: &Path, pid: u32, wait: Duration) -> Result<(), PostmasterError> {
    let signal_error = |source: std::io::Error| PostmasterError::Signal { pid, source };
    let process = pid_of(pid).ok_or_else(|| signal_error(std::io::ErrorKind::NotFound.into()))?;
    rustix::process::kill_process(process, Signal::INT)
        .map_err(|error| signal_error(error.into()))?;
    let begin = Instant::now();
    loop {
        let pid_file = std::fs::read(pgdata.join("postmaster.pid")).ok();
        if running(pgdata, pid_file.as_deref()) == Running::No {
            return Ok(());
        }
        if begin.elapsed() > wait {
            return Err(PostmasterError::StillRuns { pid, waited: wait });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How to start a server.
#[derive(Debug, Clone)]
pub struct StartOptions {
    pub pgdata: PathBuf,
    /// Where `pg_ctl` is.
    pub bindir: PathBuf,
    /// Configuration file outside of the data directory.
    pub config_file: Option<PathBuf>,
    pub log_file: PathBuf,
    /// What starts it instead of `pg_ctl`: a program and its arguments.
    pub instead: Option<Vec<OsString>>,
}

/// `pg_ctl` with its arguments.
fn pg_ctl_start(options: &StartOptions) -> Result<Vec<OsString>, PostmasterError> {
    let program = options.bindir.join("pg_ctl");
    let mut words: Vec<OsString> = vec![
        program.clone().into(),
        "start".into(),
        "--no-wait".into(),
        "--silent".into(),
        "--pgdata".into(),
        options.pgdata.clone().into(),
        "--log".into(),
        options.log_file.clone().into(),
    ];
    if let Some(config_file) = &options.config_file {
        let text = config_file.display().to_string();
        let quoted = shlex::try_quote(&text).map_err(|error| PostmasterError::Run {
            program: program.display().to_string(),
            source: std::io::Error::other(error),
        })?;
        words.push("--options".into());
        words.push(format!("-c config_file={quoted}").into());
    }
    Ok(words)
}

/// Starts a server and waits until it has taken the directory and goes through its recovery, not until it
/// accepts connections: a standby may be set to refuse them.
///
/// # Errors
/// [`PostmasterError`] with the last lines of its log when it ends instead.
pub async fn start(options: &StartOptions, wait: Duration) -> Result<u32, PostmasterError> {
    let mut words = match &options.instead {
        Some(words) => words.clone(),
        None => pg_ctl_start(options)?,
    }
    .into_iter();
    let program = words.next().unwrap_or_default();
    let run_error = |source| PostmasterError::Run {
        program: program.to_string_lossy().into_owned(),
        source,
    };
    // Servers append to their log: what was there before says nothing about this start.
    let log_before = std::fs::metadata(&options.log_file).map_or(0, |found| found.len());
    let mut log = File::options();
    // What servers log may hold statements.
    let log = log.append(true).create(true).mode(0o600);
    let log = log.open(&options.log_file).map_err(|error| {
        let path = options.log_file.display();
        PostmasterError::DidNotStart(format!("could not open \"{path}\": {error}"))
    })?;
    let before = strays::Before::look();
    let mut command = tokio::process::Command::new(&program);
    for name in NOT_FOR_SERVERS {
        command.env_remove(name);
    }
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(run_error)?)
        .stderr(log);
    let ended = tokio::time::timeout(wait, command.status()).await;
    let did_not_start = |reason: String| {
        let lines = log_tail(&options.log_file, log_before);
        if lines.is_empty() {
            PostmasterError::DidNotStart(reason)
        } else {
            PostmasterError::DidNotStart(format!("{reason}; its log says:\n{lines}"))
        }
    };
    let program = program.to_string_lossy();
    match ended {
        Err(_) => {
            let waited = wait.as_secs();
            return Err(did_not_start(format!(
                "\"{program}\" has not ended after {waited} s"
            )));
        }
        Ok(status) => {
            let status = status.map_err(run_error)?;
            if !status.success() {
                return Err(did_not_start(format!("\"{program}\" ended with {status}")));
            }
        }
    }
    let begin = Instant::now();
    loop {
        let pid_file = std::fs::read(options.pgdata.join("postmaster.pid")).unwrap_or_default();
        // The eighth line is its status: "starting", then "ready" or, in recovery, "standby".
        let status = String::from_utf8_lossy(&pid_file)
            .lines()
            .nth(7)
            .map(|line| line.trim().to_owned())
            .unwrap_or_default();
        if let (Some(found), true) = (
            PidFile::parse(&pid_file),
            matches!(status.as_str(), "starting" | "standby" | "ready"),
        ) && is_alive(found.pid)
            && works_in(found.pid, &options.pgdata)
        {
            return Ok(found.pid);
        }
        if let Some(stray) = before.stray(&options.pgdata, options.config_file.as_deref()) {
            return Err(PostmasterError::Elsewhere {
                is_stopped: strays::stop(&stray, wait).await,
                pid: stray.pid,
                directory: stray.directory,
                pgdata: options.pgdata.clone(),
            });
        }
        if begin.elapsed() > wait {
            return Err(did_not_start(format!("after {} s", wait.as_secs())));
        }
        if log_tail(&options.log_file, log_before).contains("FATAL:")
            && !matches!(
                running(&options.pgdata, Some(&pid_file)),
                Running::Server { .. }
            )
        {
            return Err(did_not_start("it ended at once".to_owned()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the server with this pid still lives.
#[must_use]
pub fn lives(pid: u32) -> bool {
    is_alive(pid)
}

/// The file that the server with this pid logs to: its collector's, or what its standard error is. `None` where it is
/// none, such as the journal.
#[must_use]
pub fn log_file(pgdata: &Path, pid: u32) -> Option<PathBuf> {
    // Lines such as `stderr log/postgresql.log` (PostgreSQL `syslogger.c:update_metainfo_datafile`).
    let current = std::fs::read_to_string(pgdata.join("current_logfiles")).unwrap_or_default();
    let collected = current
        .lines()
        .find_map(|line| line.strip_prefix("stderr "))
        .map(|path| pgdata.join(path));
    let is_file = |path: &PathBuf| path.is_file();
    collected
        .filter(is_file)
        .or_else(|| again::look(pgdata, pid).log_file)
}

/// The last lines of a log behind an offset, for messages.
#[must_use]
pub fn log_tail(path: &Path, from: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    const MOST: u64 = 16 * 1024;
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let end = file.metadata().map_or(0, |found| found.len());
        let start = from.max(end.saturating_sub(MOST));
        if file.seek(SeekFrom::Start(start)).is_ok() {
            // A log that cannot be read gives an empty tail.
            let _ = file.take(MOST).read_to_end(&mut text);
        }
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Finds the directory with a server's programs of this major version: Debian's, Red Hat's, or one on the
/// PATH.
#[must_use]
pub fn find_bindir(major: u32) -> Option<PathBuf> {
    let fixed = [
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("/usr/pgsql-{major}/bin"),
    ];
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    fixed
        .into_iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&on_path))
        .find(|directory| is_bindir(directory, major))
}

/// Whether a directory holds the programs of a server of this major version.
#[must_use]
pub fn is_bindir(directory: &Path, major: u32) -> bool {
    major_of(&directory.join("postgres")) == Some(major)
}

fn major_of(postgres: &Path) -> Option<u32> {
    let output = std::process::Command::new(postgres)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(2)?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_files_are_read_as_the_server_reads_them() {
        let text = b"4711\n/data\n1700000000\n5432\n/tmp\n*\n  5432001    32768\nready   \n";
        assert_eq!(
            PidFile::parse(text),
            Some(PidFile {
                pid: 4711,
                shared_memory: Some((5_432_001, 32768))
            })
        );
        assert_eq!(PidFile::parse(b"-99\n").unwrap().pid, 99);
        assert_eq!(PidFile::parse(b""), None);
        assert_eq!(PidFile::parse(b"x\n"), None);
    }

    #[test]
    fn a_dead_pid_is_not_running_and_a_living_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let sleep = |place: &Path| {
            let mut command = std::process::Command::new("sleep");
            command.arg("60").current_dir(place).spawn().unwrap()
        };
        let mut stranger = sleep(Path::new("/"));
        assert_eq!(
            running(dir.path(), Some(format!("{}\n", stranger.id()).as_bytes())),
            Running::Unclear { pid: stranger.id() }
        );
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        let mut child = sleep(dir.path());
        let text = format!("{}\n", child.id());
        assert_eq!(
            running(dir.path(), Some(text.as_bytes())),
            Running::Server { pid: child.id() }
        );
        child.kill().unwrap();
        while !is_zombie(child.id()) {
            std::thread::yield_now();
        }
        assert_eq!(running(dir.path(), Some(text.as_bytes())), Running::No);
        child.wait().unwrap();
        assert_eq!(running(dir.path(), Some(text.as_bytes())), Running::No);
        assert_eq!(running(dir.path(), None), Running::No);
        for torn in [&b""[..], b"\n", b"\0\0\0\0"] {
            assert_eq!(running(dir.path(), Some(torn)), Running::TornPidFile);
        }
    }
}
