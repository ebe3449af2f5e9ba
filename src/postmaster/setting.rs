//! What a server's program says of the server that it would be.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// How long a server's program may take to say a setting.
const SETTING_WITHIN: Duration = Duration::from_secs(30);

/// What a server says of one of its settings, with its files as they lie now: `postgres -C`, which needs no control
/// file (tried with 13 to 18).
///
/// # Errors
/// Why it does not say it, in its own words and one line.
pub async fn setting(
    bindir: &Path,
    pgdata: &Path,
    config_file: Option<&Path>,
    name: &str,
) -> Result<String, String> {
    let mut command = tokio::process::Command::new(bindir.join("postgres"));
    command.arg("-C").arg(name).arg("-D").arg(pgdata);
    if let Some(file) = config_file {
        let mut setting = OsString::from("config_file=");
        setting.push(file);
        command.arg("-c").arg(setting);
    }
    without_session(&mut command)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(SETTING_WITHIN, command.output())
        .await
        .map_err(|_| format!("no answer within {} s", SETTING_WITHIN.as_secs()))?
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        return Ok(said.strip_suffix('\n').unwrap_or(&said).to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said
        .lines()
        .map(|line| line.split_once("] ").map_or(line, |(_, words)| words))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    Err(lines.join("; "))
}

/// Takes away what the environment of this session says to libpq and to servers: a server that a service manager
/// starts has none of it, and PGPORT, which led us to the source, would be the standby's port.
pub(super) fn without_session(
    command: &mut tokio::process::Command,
) -> &mut tokio::process::Command {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    command
}
