//! The standby's login, tried with what it will use.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::setting::without_session;
use crate::plan::guard::Login;

/// How long the login may take.
const LOGIN_WITHIN: Duration = Duration::from_secs(30);

/// What of the environment libpq reads whatever the connection string says, and a server would have to have too
/// (PostgreSQL `fe-connect.c:parseServiceInfo`). Other variables became part of the string.
const ADDS: [&str; 2] = ["PGSERVICEFILE", "PGSYSCONFDIR"];

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    pub login: Login,
    /// It only works with these variables of this session, which a server has only if it is started so.
    pub needs: Vec<String>,
}

/// Tries the standby's login with the very connection string that it will use, by libpq itself: `psql` beside the
/// server's programs, or on the PATH. First as a server will see it that a service manager starts, which has no
/// variables of ours, then as one that is started from here. `None` when there is no `psql`.
pub async fn try_login(bindir: Option<&Path>, primary_conninfo: &str) -> Option<Trial> {
    let bare = login(bindir, primary_conninfo, &[]).await?;
    if matches!(bare, Login::Reached { .. }) {
        return Some(Trial {
            login: bare,
            needs: Vec::new(),
        });
    }
    let is_set = |name: &&&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let needs: Vec<String> = ADDS
        .iter()
        .filter(is_set)
        .map(|name| (*name).to_owned())
        .collect();
    let home = std::env::var_os("HOME");
    let is_other = home.is_some_and(|home| entry_home().is_some_and(|entry| *entry != *home));
    let with_home = is_other.then(|| [&needs[..], &["HOME".to_owned()]].concat());
    // The least that makes it work.
    let trials = [Some(needs).filter(|needs| !needs.is_empty()), with_home];
    for needs in trials.into_iter().flatten() {
        let login = login(bindir, primary_conninfo, &needs).await?;
        if matches!(login, Login::Reached { .. }) {
            return Some(Trial { login, needs });
        }
    }
    Some(Trial {
        login: bare,
        needs: Vec::new(),
    })
}

/// The home directory in the user's entry of /etc/passwd; `None` where another service knows the user.
fn entry_home() -> Option<String> {
    let own = rustix::process::geteuid().as_raw().to_string();
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&own.as_str()))
        .and_then(|fields| fields.get(5).map(|home| (*home).to_owned()))
}

/// `with` are the variables of this session that it has.
async fn login(bindir: Option<&Path>, primary_conninfo: &str, with: &[String]) -> Option<Login> {
    let program = bindir
        .map(|directory| directory.join("psql"))
        .filter(|program| program.is_file())
        .unwrap_or_else(|| "psql".into());
    let mut command = tokio::process::Command::new(&program);
    // Without HOME the user's entry says where the home directory is, as a service manager does.
    without_session(&mut command).env_remove("HOME");
    for name in with {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .args([
            "--no-psqlrc",
            "--no-align",
            "--tuples-only",
            "--no-password",
        ])
        .args([
            "--field-separator",
            " ",
            "--command",
            "IDENTIFY_SYSTEM",
            "--dbname",
        ])
        // As a walreceiver does: the name of the database is what password files are searched for
        // (`libpqwalreceiver.c:libpqrcv_connect`).
        .arg(format!(
            "{primary_conninfo} dbname=replication replication=true"
        ))
        .env("PGAPPNAME", "pg_reseed")
        .env("PGCONNECT_TIMEOUT", "15")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(LOGIN_WITHIN, command.output()).await {
        Err(_) => {
            return Some(Login::Refused {
                reason: format!("no answer within {} s", LOGIN_WITHIN.as_secs()),
            });
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Ok(Err(error)) => {
            return Some(Login::Refused {
                reason: format!("could not run \"{}\": {error}", program.display()),
            });
        }
        Ok(Ok(output)) => output,
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let identifier = said
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    Some(match (output.status.success(), identifier) {
        (true, Some(system_identifier)) => Login::Reached { system_identifier },
        _ => {
            let reason = String::from_utf8_lossy(&output.stderr);
            let reason = reason.trim().trim_start_matches("psql: ");
            Login::Refused {
                reason: reason.trim_start_matches("error: ").to_owned(),
            }
        }
    })
}
