//! The meaning of what was typed for `verify`.

use std::time::Duration;

use super::{
    Surroundings, Target, UsageError, agent, has_server, primary, reach, target, verbosity,
    words_of,
};
use crate::cli::args::VerifyArguments;
use crate::client::options::VerifyOptions;
use crate::pg::cluster_name::ClusterName;
use crate::pg::conninfo::Conninfo;
use crate::ui::Style;

/// A verification as it was meant.
#[derive(Debug)]
pub struct Verify {
    pub options: VerifyOptions,
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
    let primary = if names_server || typed.agent.from.is_none() {
        primary(connection, around)?
    } else {
        // How a standby would reach the source is of no interest here.
        Conninfo::default()
    };
    let is_stopped = typed.source_pgdata.is_some();
    let from = agent(&typed.agent, typed.source_pgdata.as_deref(), &primary)?;
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
        Vec::new()
    } else {
        rebuild(
            &pgdata.display().to_string(),
            cluster.as_ref(),
            &primary,
            words_of(typed.agent),
        )?
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
) -> Result<Vec<String>, UsageError> {
    let mut words: Vec<String> = ["pg_reseed", "rebuild"].map(str::to_owned).to_vec();
    match cluster {
        Some(cluster) => words.extend(["--cluster".to_owned(), cluster.to_string()]),
        None => words.extend(["-D".to_owned(), pgdata.to_owned()]),
    }
    if has_server(primary) {
        let conninfo = primary.to_keyword_value().map_err(UsageError::new)?;
        words.extend(["-d".to_owned(), conninfo]);
    }
    for (option, value) in agent {
        words.extend([option.to_owned(), value]);
    }
    Ok(words)
}
