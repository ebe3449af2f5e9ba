//! Starting other programs: as the unprivileged user, in the control group of a side, with a clean
//! environment, with a deadline, and gone when the benchmark is interrupted.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Result;
use crate::cgroup::{Groups, Side};
use crate::host;

/// Becomes a member of the control groups, then the program: nothing of it runs uncounted.
const JOIN: &str = r#"echo $$ > "$0" && echo $$ > "$1" && shift && exec "$@""#;

static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Process groups of what runs and may be stopped by a signal at any moment.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Makes commands.
pub struct Runner {
    pub groups: Option<Groups>,
    /// The folder that the unprivileged user has as its home.
    home: PathBuf,
}

impl Runner {
    /// `memory`: most bytes that all commands of both sides have together, if there is a limit.
    pub fn new(home: &Path, memory: Option<u64>) -> Result<Self> {
        let mut groups = Groups::create();
        if let Some(bytes) = memory {
            let groups = groups
                .as_mut()
                .ok_or("no control groups here: memory cannot be limited")?;
            groups.limit_memory(bytes)?;
        }
        Ok(Self {
            groups,
            home: home.to_owned(),
        })
    }

    /// A command of the unprivileged user that counts for a side, or for none.
    pub fn command(&self, side: Option<Side>, program: impl AsRef<OsStr>) -> Command {
        let mut words: Vec<std::ffi::OsString> = Vec::new();
        if let Some((groups, side)) = self.groups.as_ref().zip(side) {
            words.extend(["sh".into(), "-c".into(), JOIN.into()]);
            words.extend(groups.doors(side).map(Into::into));
        }
        if host::is_root() {
            // `main` has asked for the user before anything is started.
            let (user, group) = host::user_ids().unwrap_or_default();
            words.push("setpriv".into());
            words.push(format!("--reuid={user}").into());
            words.push(format!("--regid={group}").into());
            words.extend(["--init-groups".into(), "--".into()]);
        }
        words.push(program.as_ref().to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", &self.home)
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .current_dir(&self.home)
            .stdin(Stdio::null())
            // Signals come from us, in our order, and not from a terminal to all at once.
            .process_group(0);
        command
    }

    /// A PostgreSQL program that counts for nobody: it prepares or checks.
    pub fn postgres_tool(&self, name: &str) -> Command {
        self.command(None, host::bindir().join(name))
    }
}

/// Gives a file or folder to the unprivileged user.
pub fn give(path: &Path) -> Result<()> {
    if host::is_root() {
        let (user, group) = host::user_ids()?;
        std::os::unix::fs::lchown(path, Some(user), Some(group))?;
    }
    Ok(())
}

/// Runs `command` to its end and returns its standard output.
pub fn done(command: &mut Command) -> Result<String> {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let entry = Entry::new(&child);
    let output = child.wait_with_output()?;
    drop(entry);
    check_interrupted()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}: {}", output.status, words.trim()).into())
}

/// Runs `command` with its output in `log`; fails with the end of it, and when `deadline` passes.
pub fn done_by(command: &mut Command, log: &Path, deadline: Duration) -> Result<()> {
    let file = File::create(log)?;
    let mut child = command
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let status = wait_by(&mut child, deadline)?;
    check_interrupted()?;
    if status.success() {
        return Ok(());
    }
    let words = fs::read(log)?;
    let words = String::from_utf8_lossy(&words);
    Err(format!("{status}: {}", excerpt(&words)).into())
}

/// The beginning and the end of what a program has said, in one line.
fn excerpt(words: &str) -> String {
    let lines: Vec<_> = words.trim().lines().map(str::trim).collect();
    if lines.len() <= 6 {
        return lines.join(" | ");
    }
    [&lines[..3], &["..."], &lines[lines.len() - 3..]]
        .concat()
        .join(" | ")
}

/// Waits for a child, and kills its group when the deadline passes. The wait itself polls nothing, so that
/// it adds nothing to a measured time.
fn wait_by(child: &mut Child, deadline: Duration) -> Result<ExitStatus> {
    let entry = Entry::new(child);
    let pid = entry.0;
    let (ended, watch) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        let is_late = watch.recv_timeout(deadline) == Err(mpsc::RecvTimeoutError::Timeout);
        if is_late {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        is_late
    });
    let status = child.wait()?;
    drop(entry);
    drop(ended);
    match watchdog.join() {
        Ok(false) => Ok(status),
        _ => Err(format!("stopped after {} seconds", deadline.as_secs()).into()),
    }
}

/// A program that runs beside others, and is stopped when it is dropped.
pub struct Background {
    child: Child,
    _entry: Entry,
}

impl Background {
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let entry = Entry::new(&child);
        Ok(Self {
            child,
            _entry: entry,
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::INT);
        let _ = self.child.wait();
    }
}

/// Notes that a process group runs, until it is dropped.
pub struct Entry(Pid);

impl Entry {
    pub fn new(child: &Child) -> Self {
        let pid = Pid::from_child(child);
        RUNNING
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pid);
        Self(pid)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|pid| *pid != self.0);
    }
}

/// From now on a signal stops what runs, so that the benchmark fails on its usual way, which cleans up.
pub fn heed_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut int), Ok(mut term)) = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            ) else {
                return;
            };
            loop {
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
                IS_INTERRUPTED.store(true, Ordering::SeqCst);
                for pid in RUNNING
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .iter()
                {
                    let _ = kill_process_group(*pid, Signal::TERM);
                }
            }
        });
    });
    Ok(())
}

pub fn check_interrupted() -> Result<()> {
    if IS_INTERRUPTED.load(Ordering::SeqCst) {
        return Err("interrupted".into());
    }
    Ok(())
}

/// The one sleep of the benchmark: between two looks at a condition, and where a link is slow on purpose.
#[expect(
    clippy::disallowed_methods,
    reason = "polling and delaying need it, and no runtime is near"
)]
pub fn pause(time: Duration) {
    thread::sleep(time);
}

/// Waits until `condition` gives a value.
pub fn eventually<T>(
    what: &str,
    seconds: u64,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let step = Duration::from_millis(10);
    for _ in 0..seconds * 100 {
        check_interrupted()?;
        if let Some(value) = condition()? {
            return Ok(value);
        }
        pause(step);
    }
    Err(format!("waited {seconds} seconds in vain: {what}").into())
}
