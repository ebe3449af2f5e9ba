//! `pg_reseed status`: how far a run on a directory is, or which one was interrupted.

use std::io::{self, Write as _};
use std::process::ExitCode;

use super::cannot_begin;
use super::exit::{self, Status as ExitStatus};
use crate::cli::resolve::Status as Meant;
use crate::client;
use crate::errors::quiet_json;
use crate::ui::status::{State, Status};

/// Asks, and prints what was found.
pub(super) fn status(meant: &Meant) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let found = match runtime {
        Ok(runtime) => runtime.block_on(client::status::status(&meant.options)),
        Err(error) => return cannot_begin(&format!("could not ask: {error}")),
    };
    let status = match found {
        Ok(found) => Status::of(found),
        Err(failure) => {
            exit::print_error(&exit::lines_of_look(&failure));
            return ExitStatus::Failed.code();
        }
    };
    let text = if meant.is_json {
        match serde_json::to_string_pretty(&status) {
            Ok(json) => quiet_json(&json) + "\n",
            Err(error) => return cannot_begin(&error.to_string()),
        }
    } else {
        status.text()
    };
    // Fails when nobody reads any more.
    let _ = io::stdout().write_all(text.as_bytes());
    code(status.state).code()
}

/// The status that tells the state to scripts.
fn code(state: State) -> ExitStatus {
    match state {
        State::Running => ExitStatus::Done,
        State::Silent => ExitStatus::Failed,
        State::Finished | State::None => ExitStatus::Refused,
        State::Interrupted => ExitStatus::HalfWay,
    }
}
