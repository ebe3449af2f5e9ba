//! The command line: what was typed goes in, an exit status comes out.
//!
//! `args` defines the options, `resolve` gives them meaning, `exit` knows how a run ends. Everything
//! between is done by `client` and `agent`; this module starts them, shows them and stops them.

pub mod args;
pub mod exit;
pub mod help;
mod passfile;
pub mod resolve;
mod serve;
mod typed;
pub mod values;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::args::Command;
use crate::cli::exit::{Status, Verdict};
use crate::cli::resolve::{Inspect, Rebuild, Surroundings, UsageError};
use crate::client;
use crate::client::failure::{Failure, TargetState};
use crate::client::look::debian;
use crate::client::options::RebuildOptions;
use crate::client::outcome::Outcome;
use crate::event::Stage;
use crate::ui::file::{self, FailureReport};
use crate::ui::report::{self, Warned};
use crate::ui::{Ending, Style, Ui, inspection, log};

/// Does what the arguments say.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = args.collect();
    match args::parse(words.iter().cloned()) {
        Err(error) => exit::clap(&error),
        Ok(arguments) => match arguments.command {
            Command::Rebuild(typed) => resolved(
                "rebuild",
                &words,
                |around| resolve::rebuild(*typed, around),
                rebuild,
            ),
            Command::Inspect(typed) => resolved(
                "inspect",
                &words,
                |around| resolve::inspect(*typed, around),
                inspect,
            ),
            Command::Serve(typed) => serve::serve(typed),
        },
    }
}

/// Gives meaning to what was typed for a command, and does it.
fn resolved<T>(
    command: &str,
    words: &[OsString],
    resolve: impl FnOnce(&Surroundings) -> Result<T, UsageError>,
    act: impl FnOnce(&T) -> ExitCode,
) -> ExitCode {
    let conf_root = std::env::var_os("PG_CLUSTER_CONF_ROOT").map(PathBuf::from);
    let around = Surroundings {
        variable: &|name| std::env::var(name).ok(),
        words,
        working_directory: &std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        is_typed: io::stdin().is_terminal() && io::stderr().is_terminal(),
        recorded: &|name| debian::find(name, conf_root.as_deref()),
        recorded_at: &|pgdata| debian::find_by_directory(pgdata, conf_root.as_deref()),
    };
    match resolve(&around) {
        Ok(meant) => act(&meant),
        Err(error) => exit::usage(&error, command),
    }
}

/// Looks, and prints what was found.
fn inspect(meant: &Inspect) -> ExitCode {
    let (ui, runtime) = match Ui::start(Style::None).and_then(|ui| Ok((ui, Runtime::new()?))) {
        Ok(both) => both,
        Err(error) => return cannot_begin(&format!("could not start threads: {error}")),
    };
    if let Err(error) = log::start(meant.verbosity, ui.log_sink()) {
        return exit::wrong_variable(&error);
    }
    let result = runtime.block_on(async {
        tokio::select! {
            found = client::inspect::inspect(&meant.options, ui.events()) => found,
            () = stop_signal() => Err(Failure::new(TargetState::Untouched, "interrupted by a signal")),
        }
    });
    runtime.shutdown_background();
    let pgdata = meant.options.pgdata.display().to_string();
    match result {
        Ok(found) => {
            let status = if meant.tells_verdict {
                Verdict::of(found.advice.as_ref())
            } else {
                Verdict::Healthy
            };
            ui.end(Ending {
                exit_status: status.number(),
                outcome: "inspected",
                target: "untouched",
                errors: Vec::new(),
                details: Vec::new(),
                hints: Vec::new(),
            });
            let text = if meant.is_json {
                serde_json::to_string_pretty(&found).map(|json| json + "\n")
            } else {
                Ok(inspection::text(&found))
            };
            match text {
                // Writing fails when nobody reads any more.
                Ok(text) => drop(io::stdout().write_all(text.as_bytes())),
                Err(error) => return cannot_begin(&error.to_string()),
            }
            status.code()
        }
        Err(failure) => {
            let ending = exit::ending(&Err(failure), &pgdata);
            if !ui.end(ending.clone()) {
                exit::print_error(&exit::lines(&ending));
            }
            ExitCode::from(ending.exit_status)
        }
    }
}

/// Runs the rebuild behind its display, then tells the result in every form that was asked for.
fn rebuild(meant: &Rebuild) -> ExitCode {
    let start = Instant::now();
    let (ui, runtime) = match Ui::start(meant.progress).and_then(|ui| Ok((ui, Runtime::new()?))) {
        Ok(both) => both,
        Err(error) => return cannot_begin(&format!("could not start threads: {error}")),
    };
    if let Err(error) = log::start(meant.verbosity, ui.log_sink()) {
        return exit::wrong_variable(&error);
    }
    if let Some(cluster) = &meant.found_cluster {
        ui.events().note(format!(
            "The data directory is that of cluster {cluster}, as postgresql-common has it on record: its configuration \
             and programs are used."
        ));
    }
    let result = runtime.block_on(rebuild_until_stopped(&meant.options, &ui));
    // A second signal may have left tasks behind that wait for something.
    runtime.shutdown_background();

    let pgdata = meant.options.pgdata.display().to_string();
    let ending = exit::ending(&result, &pgdata);
    let warned = if ui.shows_to_people() {
        Warned::Already
    } else {
        Warned::NotYet
    };
    let is_told = ui.end(ending.clone());
    let written = match (&meant.report, &result) {
        (None, _) => Ok(()),
        (Some(path), Ok(outcome)) => file::write(path, outcome),
        (Some(path), Err(_)) => file::write(
            path,
            &FailureReport {
                ending: &ending,
                pg_reseed_version: env!("CARGO_PKG_VERSION"),
                pgdata,
                seconds: start.elapsed().as_secs_f64(),
            },
        ),
    };
    if let (Err(error), Some(path)) = (written, &meant.report) {
        let path = path.display();
        exit::print_error(&format!(
            "pg_reseed: warning: could not write report \"{path}\": {error}\n"
        ));
    }
    match &result {
        Ok(outcome) if meant.shows_summary => {
            // Fails when nobody reads any more.
            let _ = io::stdout().write_all(report::summary(outcome, warned).as_bytes());
        }
        Err(_) if !is_told => exit::print_error(&exit::lines(&ending)),
        _ => {}
    }
    ExitCode::from(ending.exit_status)
}

/// The rebuild, until it ends or is stopped. The first signal asks it to stop, which it does after
/// it has ended the backup on the source; the second one does not wait for that.
async fn rebuild_until_stopped(options: &RebuildOptions, ui: &Ui) -> Result<Outcome, Failure> {
    let (cancel, is_cancelled) = watch::channel(false);
    let mut running = std::pin::pin!(client::rebuild::rebuild(options, ui.events(), is_cancelled));
    let mut stopped = std::pin::pin!(stop_signal());
    tokio::select! {
        result = &mut running => return result,
        () = &mut stopped => {}
    }
    ui.events()
        .note("stopping; a second signal stops without cleaning up");
    cancel.send_replace(true);
    tokio::select! {
        result = &mut running => result,
        () = stop_signal() => Err(abandoned(ui.stage())),
    }
}

/// Waits for a signal that asks to stop.
async fn stop_signal() {
    any_signal([
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ])
    .await;
}

/// Waits for one of these signals.
async fn any_signal<const N: usize>(kinds: [SignalKind; N]) {
    let mut signals = kinds.map(signal);
    let waiting = signals.iter_mut().map(|signal| {
        Box::pin(async move {
            match signal {
                Ok(signal) => signal.recv().await,
                // Without a handler the signal ends the process, as it does by default.
                Err(_) => std::future::pending().await,
            }
        })
    });
    futures_util::future::select_all(waiting).await;
}

/// What is known about a run that was stopped without waiting for it.
fn abandoned(stage: Option<Stage>) -> Failure {
    let state = match stage {
        Some(stage) if stage >= Stage::Start => TargetState::Rebuilt,
        Some(stage) if stage >= Stage::Close => TargetState::HalfWay,
        _ => TargetState::Untouched,
    };
    let failure = Failure::new(state, "stopped by a second signal");
    match state {
        TargetState::HalfWay => failure.again(),
        TargetState::Untouched | TargetState::Rebuilt => failure,
    }
}

fn cannot_begin(error: &str) -> ExitCode {
    exit::print_error(&format!("pg_reseed: error: {error}\n"));
    Status::Failed.code()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_run_says_no_more_than_is_sure() {
        for (stage, state) in [
            (None, TargetState::Untouched),
            (Some(Stage::Manifest), TargetState::Untouched),
            (Some(Stage::Close), TargetState::HalfWay),
            (Some(Stage::Finish), TargetState::HalfWay),
            (Some(Stage::Start), TargetState::Rebuilt),
        ] {
            assert_eq!(abandoned(stage).state, state, "{stage:?}");
        }
    }
}
