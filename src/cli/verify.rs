//! `pg_reseed verify`: compares, and prints what was found.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use tokio::runtime::Runtime;

use super::exit::{self, Status};
use super::signals::stop_signal;
use super::{cannot_begin, resolve};
use crate::client;
use crate::client::failure::{Failure, TargetState};
use crate::client::outcome::VerifyVerdict;
use crate::client::record::Record;
use crate::ui::{Ending, Ui, log, verification};

/// Compares behind the display, then prints the result.
pub(super) fn verify(meant: &resolve::Verify) -> ExitCode {
    let is_dated = !io::stderr().is_terminal();
    let started = Ui::start(meant.progress, is_dated);
    let (ui, runtime) = match started.and_then(|ui| Ok((ui, Runtime::new()?))) {
        Ok(both) => both,
        Err(error) => return cannot_begin(&format!("could not start threads: {error}")),
    };
    if let Err(error) = log::start(meant.verbosity, ui.log_sink()) {
        return exit::wrong_variable(&error);
    }
    let record = Record::begin(&meant.options.run);
    let result = runtime.block_on(async {
        tokio::select! {
            found = client::verify::verify(&meant.options, ui.events(), &record) => found,
            () = stop_signal() => Err(Failure::new(TargetState::Untouched, "interrupted by a signal")),
        }
    });
    runtime.shutdown_background();
    let pgdata = meant.options.run.pgdata.display().to_string();
    match result {
        Ok(found) => {
            let status = Status::of_verdict(found.verdict);
            ui.end(Ending {
                exit_status: status.number(),
                outcome: match found.verdict {
                    VerifyVerdict::Equal => "equal",
                    VerifyVerdict::Wrong => "wrong",
                    VerifyVerdict::Incomplete => "incomplete",
                },
                target: "untouched",
                stage: None,
                refusals: Vec::new(),
                errors: Vec::new(),
                details: Vec::new(),
                hints: Vec::new(),
            });
            let text = if meant.is_json {
                serde_json::to_string_pretty(&found).map(|json| json + "\n")
            } else {
                Ok(verification::text(&found))
            };
            match text {
                // Writing fails when nobody reads any more.
                Ok(text) => drop(io::stdout().write_all(text.as_bytes())),
                Err(error) => return cannot_begin(&error.to_string()),
            }
            status.code()
        }
        Err(failure) => {
            let ending = exit::ending(&Err(failure), &pgdata, ui.stage());
            if !ui.end(ending.clone()) {
                exit::print_error(&exit::lines(&ending));
            }
            ExitCode::from(ending.exit_status)
        }
    }
}
