//! The command that follows from an inspection: one that can be pasted.

use std::fmt::Write as _;
use std::path::Path;

use crate::client::command;
use crate::client::failure::Failure;
use crate::client::options::{InspectOptions, InspectSource};
use crate::facts::{Interrupted, TargetCluster};
use crate::postmaster;
use crate::sql::lineage::RESUME;

/// The rebuild that the advice speaks of, with the words of this inspection.
///
/// # Errors
/// The connection string cannot be written.
pub fn rebuild(options: &InspectOptions, source: &InspectSource) -> Result<String, Failure> {
    let conninfo = source
        .primary
        .to_keyword_value()
        .map_err(|error| Failure::untouched(&error))?;
    let pgdata = options.pgdata.display().to_string();
    let cluster = options.cluster.as_ref().map(ToString::to_string);
    let mut text = "pg_reseed rebuild".to_owned();
    let typed = source
        .typed
        .iter()
        .map(|(option, value)| (*option, Some(value)));
    for (option, value) in [
        ("--cluster", cluster.as_ref()),
        ("-D", Some(&pgdata).filter(|_| cluster.is_none())),
        ("-d", Some(&conninfo)),
    ]
    .into_iter()
    .chain(typed)
    .chain([("--slot", options.slot.as_ref())])
    {
        if let Some(value) = value {
            let _ = write!(text, " {option} {}", command::word(value));
        }
    }
    Ok(text)
}

/// The command that was interrupted, to be typed where this one was; `None` where the marker does not know it.
pub fn again(working_directory: &Path, run: &Interrupted) -> Option<String> {
    if run.command.is_empty() {
        return None;
    }
    let words: Vec<String> = run.command.iter().map(|word| command::word(word)).collect();
    let text = words.join(" ");
    if run.directory.is_empty() || Path::new(&run.directory) == working_directory {
        Some(text)
    } else {
        Some(format!("cd {} && {text}", command::word(&run.directory)))
    }
}

/// The command that starts the directory's server.
pub fn start(options: &InspectOptions, cluster: &TargetCluster) -> String {
    if let Some(cluster) = &options.cluster {
        return format!("pg_ctlcluster {} {} start", cluster.version, cluster.name);
    }
    let bindir = cluster.major().and_then(postmaster::find_bindir);
    let program = bindir.map_or_else(
        || "pg_ctl".to_owned(),
        |bindir| bindir.join("pg_ctl").display().to_string(),
    );
    let config_file = options
        .config_file
        .as_ref()
        .map(|file| file.display().to_string());
    command::pg_ctl(
        &program,
        &options.pgdata.display().to_string(),
        config_file.as_deref(),
    )
}

/// The command that lets a paused replay go on.
pub fn resume(cluster: &TargetCluster) -> String {
    let standing = &cluster.standing;
    let socket = standing.sockets.first().map_or("", String::as_str);
    format!(
        "psql -h {} -p {} -d postgres -c {}",
        command::word(socket),
        standing.port,
        command::word(RESUME)
    )
}
