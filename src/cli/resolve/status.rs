//! The meaning of what was typed for `status`.

use super::{Surroundings, Target, UsageError, target};
use crate::cli::args::StatusArguments;
use crate::client::status::StatusOptions;

/// A question for the state of a run, as it was meant.
#[derive(Debug)]
pub struct Status {
    pub options: StatusOptions,
    pub is_json: bool,
}

/// Gives meaning to the arguments of `status`.
///
/// # Errors
/// As [`rebuild`](super::rebuild).
pub fn status(typed: StatusArguments, around: &Surroundings) -> Result<Status, UsageError> {
    let Target { pgdata, .. } = target(typed.pgdata, typed.debian.cluster, false, around)?;
    Ok(Status {
        options: StatusOptions {
            pgdata,
            working_directory: around.working_directory.to_owned(),
        },
        is_json: typed.json,
    })
}
