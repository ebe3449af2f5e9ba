//! The meaning of what was typed for `verify`.

use std::time::Duration;

use super::{
    Surroundings, Target, UsageError, agent, command, fitting, has_server, primary, reach, target,
    verbosity, without_environment, words_of,
};
use crate::cli::args::VerifyArguments;
use crate::client::options::{RebuildWords, VerifyOptions};
use crate::pg::cluster_name::ClusterName;
use crate::pg::conninfo::Conninfo;
use crate::ui::Style;

/// A verification as it was meant.
#[derive(Debug)]
pub struct Verify {
    pub options: VerifyOptions,
    /// The words of the command, without secrets.
    pub command: Vec<String>,
    pub progress: Style,
    pub is_json: bool,
    pub verbosity: i16,
}

/// Gives meaning to the arguments of `verify`.
///
/// # Errors
/// As [`rebuild`](super::rebuild).
pub fn verify(typed: VerifyArguments, around: &Surroundings) -> Result<Verify, UsageError> {
    let connection = &typed.connection;
    let names_server = connection.dbname.is_some()
        || connection.host.is_some()
        || connection.port.is_some()
        || connection.username.is_some();
    let is_stopped = typed.source_pgdata.is_some();
    let said = without_environment(&typed.agent, around);
    if is_stopped && said.source_dbname.is_some() {
        return Err(UsageError::new(
            "option \"--source-dbname\" has no effect with \"--source-pgdata\"",
        ));
    }
    let agent_arguments = fitting(typed.agent, around);
    let primary = if names_server || agent_arguments.from.is_none() {
        primary(connection, around)?
    } else {
        // How a standby would reach the source is of no interest here.
        Conninfo::default()
    };
    let from = agent(&agent_arguments, typed.source_pgdata.as_deref(), &primary)?;
    let Target {
        pgdata,
        cluster,
        recorded,
    } = target(typed.pgdata, typed.debian.cluster, false, around)?;
    let progress = match typed.progress.progress {
        None if typed.quiet => Style::None,
        style => style.unwrap_or(Style::Auto),
    };
    let rebuild = if is_stopped {
        None
    } else {
        let pgdata = pgdata.display().to_string();
        let words = words_of(agent_arguments);
        Some(rebuild(&pgdata, cluster.as_ref(), &primary, words)?)
    };
    Ok(Verify {
        options: VerifyOptions {
            pgdata,
            config_file: recorded.map(|cluster| cluster.config_file),
            reach: reach(&typed.effort, from, around),
            passes: typed.passes,
            wait: Duration::from_secs(typed.wait),
            rebuild,
        },
        command: command(around),
        progress,
        is_json: typed.json,
        verbosity: verbosity(typed.quiet, typed.verbose),
    })
}

/// The words of the rebuild from the same source.
fn rebuild(
    pgdata: &str,
    cluster: Option<&ClusterName>,
    primary: &Conninfo,
    agent: Vec<(&'static str, String)>,
) -> Result<RebuildWords, UsageError> {
    let named = match cluster {
        Some(cluster) => ["--cluster".to_owned(), cluster.to_string()],
        None => ["-D".to_owned(), pgdata.to_owned()],
    };
    let program = ["pg_reseed", "rebuild"].map(str::to_owned);
    let conninfo = has_server(primary)
        .then(|| primary.to_keyword_value().map_err(UsageError::new))
        .transpose()?;
    let agent = agent.into_iter();
    Ok(RebuildWords {
        directory: program.into_iter().chain(named).collect(),
        conninfo,
        agent: agent
            .flat_map(|(option, value)| [option.to_owned(), value])
            .collect(),
    })
}
