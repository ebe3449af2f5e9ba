//! Commands that only look: `inspect` and `verify`. They run behind a display, and print what was found.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use tokio::runtime::Runtime;

use crate::cli::attend::{What, attend};
use crate::cli::cannot_begin;
use crate::cli::exit::{self, Status, Verdict};
use crate::cli::resolve::{Inspect, Verify};
use crate::cli::signals::stop_signal;
use crate::client;
use crate::client::failure::{Failure, TargetState};
use crate::client::outcome::VerifyVerdict;
use crate::client::record::Record;
use crate::errors::quiet_json;
use crate::event::Events;
use crate::ui::{Ending, Style, Ui, inspection, log, verification};

/// How it is looked, and shown.
struct Manner<'a> {
    progress: Style,
    verbosity: i16,
    is_json: bool,
    pgdata: &'a Path,
}

/// What is said of what was found.
struct Said {
    exit_status: u8,
    outcome: &'static str,
    /// For people.
    text: String,
}

/// Says what a data directory is.
pub(super) fn inspect(meant: &Inspect) -> ExitCode {
    let manner = Manner {
        progress: Style::None,
        verbosity: meant.verbosity,
        is_json: meant.is_json,
        pgdata: &meant.options.pgdata,
    };
    let look = async |events: &Events| client::inspect::inspect(&meant.options, events).await;
    show(&manner, None, look, |found| {
        let verdict = if meant.tells_verdict {
            Verdict::of(found.advice.as_ref())
        } else {
            Verdict::Healthy
        };
        Said {
            exit_status: verdict.number(),
            outcome: "inspected",
            text: inspection::text(found),
        }
    })
}

/// Compares a standby with its source.
pub(super) fn verify(meant: &Verify) -> ExitCode {
    let manner = Manner {
        progress: meant.progress,
        verbosity: meant.verbosity,
        is_json: meant.is_json,
        pgdata: &meant.options.pgdata,
    };
    let record = Arc::new(Record::of_look(&meant.command));
    let look =
        async |events: &Events| client::verify::verify(&meant.options, events, &record).await;
    show(&manner, Some(&record), look, |found| Said {
        exit_status: Status::of_verdict(found.verdict).number(),
        outcome: match found.verdict {
            VerifyVerdict::Equal => "equal",
            VerifyVerdict::Wrong => "wrong",
            VerifyVerdict::Incomplete => "incomplete",
        },
        text: verification::text(found),
    })
}

/// Looks behind the display, then prints what was found. Who keeps a record can be asked how far it is.
fn show<T: Serialize>(
    manner: &Manner<'_>,
    record: Option<&Arc<Record>>,
    look: impl AsyncFnOnce(&Events) -> Result<T, Failure>,
    say: impl FnOnce(&T) -> Said,
) -> ExitCode {
    let started = Ui::start(manner.progress, None);
    let (ui, runtime) = match started.and_then(|ui| Ok((ui, Runtime::new()?))) {
        Ok(both) => both,
        Err(error) => return cannot_begin(&format!("could not start threads: {error}")),
    };
    if let Err(error) = log::start(manner.verbosity, ui.log_sink()) {
        return exit::wrong_variable(&error);
    }
    if let Some(record) = record {
        let what = What {
            kind: "verify",
            pgdata: manner.pgdata.to_owned(),
            command: record.command(),
        };
        attend(&runtime, &ui, record, what);
    }
    let result = runtime.block_on(async {
        tokio::select! {
            found = look(ui.events()) => found,
            () = stop_signal() => Err(Failure::new(TargetState::Untouched, "interrupted by a signal")),
        }
    });
    runtime.shutdown_background();
    match result {
        Ok(found) => {
            let said = say(&found);
            ui.end(Ending {
                exit_status: said.exit_status,
                outcome: said.outcome,
                target: "untouched",
                stage: None,
                refusals: Vec::new(),
                errors: Vec::new(),
                details: Vec::new(),
                hints: Vec::new(),
            });
            let text = if manner.is_json {
                serde_json::to_string_pretty(&found).map(|json| quiet_json(&json) + "\n")
            } else {
                Ok(said.text)
            };
            match text {
                // Writing fails when nobody reads any more.
                Ok(text) => drop(io::stdout().write_all(text.as_bytes())),
                Err(error) => return cannot_begin(&error.to_string()),
            }
            ExitCode::from(said.exit_status)
        }
        Err(failure) => {
            let pgdata = manner.pgdata.display().to_string();
            let ending = exit::ending(&Err(failure), &pgdata, ui.stage());
            if !ui.end(ending.clone()) {
                exit::print_error(&exit::lines(&ending));
            }
            ExitCode::from(ending.exit_status)
        }
    }
}
