//! SQL that the user gives, run by `psql` in a server that this run has started.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::setting::without_session;
use super::{LOOK_EVERY, lives};

/// `psql` could not reach the server, or lost it (`psql/settings.h:EXIT_BADCONN`).
const NO_CONNECTION: i32 = 2;

/// Where a server lets sessions in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// A directory of sockets, or an address.
    pub host: String,
    pub port: u16,
}

/// How the wait for a server ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It lets sessions in here.
    At(Door),
    /// It ended.
    Ended,
    /// It is not that far; what it says of itself.
    TimeUp { status: String },
}

/// A script did not end well. No word of it is in here: it may hold secrets.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    #[error("could not run \"{program}\": {source}")]
    Run {
        program: String,
        source: std::io::Error,
    },
    #[error("could not write to \"{log}\": {source}")]
    Log { log: String, source: std::io::Error },
    #[error("psql could not connect to the copy: {0}")]
    NoConnection(String),
    #[error("psql stopped with {status}{}", .place.as_ref().map_or_else(String::new, |place| format!(" at {place}")))]
    Failed {
        status: String,
        /// The line of the script, and PostgreSQL's code of the error.
        place: Option<String>,
    },
}

/// Waits until the server with `pid` lets sessions in, which it does not do before it is no longer in recovery if its
/// `hot_standby` is off (PostgreSQL `postmaster.c:process_pm_pmsignal`).
pub async fn until_open(pgdata: &Path, pid: u32, wait: Duration) -> Opened {
    let begin = Instant::now();
    loop {
        let text = std::fs::read(pgdata.join("postmaster.pid")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let line = |at: usize| lines.get(at).copied().unwrap_or_default();
        let is_its = line(0) == pid.to_string();
        if is_its && line(7) == "ready" {
            return Opened::At(door(line(3), line(4), line(5)));
        }
        if !lives(pid) {
            return Opened::Ended;
        }
        if begin.elapsed() > wait {
            return Opened::TimeUp {
                status: line(7).to_owned(),
            };
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The fourth to sixth line of postmaster.pid: port, directory of the first socket, first address (PostgreSQL
/// `pidfile.h`).
fn door(port: &str, socket: &str, address: &str) -> Door {
    let host = match (socket, address) {
        ("", "" | "*" | "0.0.0.0") => "127.0.0.1",
        ("", "::") => "::1",
        ("", address) => address,
        (socket, _) => socket,
    };
    Door {
        host: host.to_owned(),
        port: port.parse().unwrap_or(5432),
    }
}

/// `psql` beside the server's programs, otherwise one of the PATH.
#[must_use]
pub fn find_psql(bindir: Option<&Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = bindir.map(Path::to_owned).into_iter();
    beside
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join("psql"))
        .find(|program| program.is_file())
}

/// How a script is run.
#[derive(Debug, Clone)]
pub struct Script<'a> {
    pub psql: &'a Path,
    pub door: &'a Door,
    pub role: &'a str,
    /// What relative paths in the script begin at.
    pub working_directory: &'a Path,
    /// Gets what `psql` says.
    pub log_file: &'a Path,
}

/// Runs a script in the database "postgres", which it can leave by `\connect`, up to its first error. It goes to `psql`
/// by its standard input, so that no list of processes shows it; `psql` is killed when nobody waits any more.
///
/// # Errors
/// [`ScriptError`].
pub async fn run(script: &Script<'_>, sql: &[u8]) -> Result<(), ScriptError> {
    let program = script.psql.display().to_string();
    let run_error = |source| ScriptError::Run {
        program: program.clone(),
        source,
    };
    let log_error = |source| ScriptError::Log {
        log: script.log_file.display().to_string(),
        source,
    };
    // What is written there may hold statements.
    let mut log = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(script.log_file)
        .map_err(log_error)?;
    let mut command = tokio::process::Command::new(script.psql);
    without_session(&mut command)
        .args(["--no-psqlrc", "--quiet", "--no-password", "--file", "-"])
        .args(["--set", "ON_ERROR_STOP=1", "--set", "VERBOSITY=verbose"])
        .args(["--dbname", "postgres", "--username", script.role])
        .args(["--host", &script.door.host])
        .args(["--port", &script.door.port.to_string()])
        .env("PGAPPNAME", "pg_reseed")
        .current_dir(script.working_directory)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().map_err(log_error)?)
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(run_error)?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let give = async {
        if let Some(mut stdin) = stdin {
            // psql that stops at an error leaves the rest unread.
            let _ = stdin.write_all(sql).await;
        }
    };
    let hear = async {
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            let mut piece = vec![0; 8192];
            while let Ok(length @ 1..) = stderr.read(&mut piece).await {
                log.write_all(&piece[..length])?;
                said.extend_from_slice(&piece[..length]);
                // Its last words count.
                let surplus = said.len().saturating_sub(SAID_MAX);
                said.drain(..surplus);
            }
        }
        Ok(said)
    };
    let (status, (), said) = tokio::join!(child.wait(), give, hear);
    let status = status.map_err(run_error)?;
    let said = said.map_err(log_error)?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&said);
    if status.code() == Some(NO_CONNECTION) {
        let last = said.lines().rfind(|line| !line.trim().is_empty());
        let last = last.unwrap_or_default().trim().to_owned();
        return Err(ScriptError::NoConnection(last));
    }
    Err(ScriptError::Failed {
        status: status.to_string(),
        place: place(&said),
    })
}

/// Most of psql's words that are kept.
const SAID_MAX: usize = 64 * 1024;

/// Where the script failed, by the last error that psql tells: `psql:<stdin>:3: ERROR:  42P01: ...`. What else it says may
/// quote the script.
fn place(said: &str) -> Option<String> {
    let (at, rest) = said
        .lines()
        .filter_map(|line| line.strip_prefix("psql:")?.split_once(": "))
        .rfind(|(_, rest)| !rest.starts_with("NOTICE"))?;
    let line = at.rsplit(':').next().filter(|line| is_number(line))?;
    let code =
        rest.split(": ").nth(1).map(str::trim).filter(|code| {
            code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
    Some(match code {
        Some(code) => format!("line {line} (SQLSTATE {code})"),
        None => format!("line {line}"),
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_its_place_and_nothing_of_the_script() {
        let said = "psql:<stdin>:1: NOTICE:  00000: x\nLOCATION:  a\n\
                    psql:<stdin>:7: ERROR:  42601: syntax error at or near \"secret\"\nLINE 1: secret\n";
        assert_eq!(place(said).unwrap(), "line 7 (SQLSTATE 42601)");
        assert_eq!(
            place("psql:<stdin>:2: error: invalid command \\secret").unwrap(),
            "line 2"
        );
        assert_eq!(place("killed"), None);
    }

    #[test]
    fn a_server_says_where_its_door_is() {
        let at = |socket, address| door("5433", socket, address).host;
        assert_eq!(at("/run/x", "*"), "/run/x");
        for (address, host) in [
            ("*", "127.0.0.1"),
            ("::", "::1"),
            ("10.0.0.1", "10.0.0.1"),
            ("", "127.0.0.1"),
        ] {
            assert_eq!(at("", address), host);
        }
        assert_eq!(door("5433", "/run/x", "").port, 5433);
    }
}
