//! The command line: what was typed goes in, an exit status comes out.
//!
//! `args` defines the options, `resolve` gives them meaning, `exit` knows how a run ends. Everything
//! between is done by `client` and `agent`; this module starts them, shows them and stops them.

pub mod args;
mod attend;
pub mod exit;
pub mod help;
mod jobs;
mod looking;
pub mod managers;
mod passfile;
pub mod resolve;
mod serve;
mod service;
mod signals;
mod status;
#[cfg(test)]
mod troubleshooting;
mod typed;
pub mod values;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::cli::args::Command;
use crate::cli::attend::{What, attend};
use crate::cli::exit::Status;
use crate::cli::managers::persist::{Persistence, persist};
use crate::cli::resolve::{Rebuild, Report, Surroundings, UsageError};
use crate::cli::service::Manager;
use crate::cli::signals::stop_signal;
use crate::client;
use crate::client::failure::{Failure, TargetState};
use crate::client::look::debian;
use crate::client::options::RebuildOptions;
use crate::client::outcome::Outcome;
use crate::client::record::Record;
use crate::event::Stage;
use crate::plan::standby::Role;
use crate::ui::report::{self, Warned};
use crate::ui::{Teller, Ui, clock, file, json, log, metrics, short};
use crate::warning::{Code, Warning};

/// Does what the arguments say.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    signals::survive_questions();
    let words = managers::by_name(args.collect());
    if typed::wants_json(&words) {
        json::errors_too();
    }
    if let Some(code) = managers::called(&words) {
        return code;
    }
    let expanded = match jobs::expand(&words, &variable) {
        Ok(expanded) => expanded,
        Err(error) => return exit::usage(&error, "jobs"),
    };
    let job = expanded.job;
    // As a job says.
    if typed::wants_json(&expanded.words) {
        json::errors_too();
    }
    let is_rewind = words.get(1).is_some_and(|word| word == "rewind");
    match args::parse(expanded.words.into_iter()) {
        Err(error) if is_rewind => managers::rewind_clap(&error),
        Err(error) => {
            let status = exit::clap(&error);
            if error.use_stderr() {
                exit::hint_at(job.as_deref());
            }
            status
        }
        Ok(arguments) => match arguments.command {
            Command::Rebuild(typed) => resolved(
                "rebuild",
                (&words, job.as_deref()),
                |around| resolve::rebuild(*typed, around),
                |meant| rebuild(meant, &Manner::default()),
            ),
            Command::Inspect(typed) => resolved(
                "inspect",
                (&words, job.as_deref()),
                |around| resolve::inspect(*typed, around),
                looking::inspect,
            ),
            Command::Verify(typed) => resolved(
                "verify",
                (&words, job.as_deref()),
                |around| resolve::verify(*typed, around),
                looking::verify,
            ),
            Command::Status(typed) => resolved(
                "status",
                (&words, None),
                |around| resolve::status(typed, around),
                status::status,
            ),
            Command::Serve(typed) => serve::serve(typed),
            Command::Jobs(typed) => surroundings(&words, |around| jobs::check(&typed, around)),
            Command::Rewind(typed) => managers::as_pg_rewind(&typed, &words),
            // Its words are not all defined.
            Command::Patroni(_) => managers::as_replica_method(&words),
        },
    }
}

/// What of a rebuild depends on who called it.
#[derive(Debug, Default)]
struct Manner {
    /// It is tried again, and ends with its caller.
    persistence: Option<Persistence>,
}

/// Gives meaning to what was typed for a command, and does it.
fn resolved<T>(
    command: &str,
    (words, job): (&[OsString], Option<&str>),
    resolve: impl FnOnce(&Surroundings) -> Result<T, UsageError>,
    act: impl FnOnce(&T) -> ExitCode,
) -> ExitCode {
    match surroundings(words, resolve) {
        Ok(meant) => act(&meant),
        Err(error) => {
            let status = exit::usage(&error, command);
            exit::hint_at(job);
            status
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Asks with what the process knows besides its arguments.
fn surroundings<T>(words: &[OsString], ask: impl FnOnce(&Surroundings) -> T) -> T {
    let conf_root = std::env::var_os("PG_CLUSTER_CONF_ROOT").map(PathBuf::from);
    ask(&Surroundings {
        variable: &variable,
        words,
        working_directory: &std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        is_typed: io::stdin().is_terminal() && io::stderr().is_terminal(),
        recorded: &|name| debian::find(name, conf_root.as_deref()),
        recorded_at: &|pgdata| debian::find_by_directory(pgdata, conf_root.as_deref()),
    })
}

/// Runs the rebuild behind its display, then tells the result in every form that was asked for.
fn rebuild(meant: &Rebuild, manner: &Manner) -> ExitCode {
    let started = SystemTime::now();
    if let Some(Report::File(path)) = &meant.report
        && let Err(error) = file::check(path)
    {
        return no_file("report", path, &error);
    }
    if let Some(path) = &meant.metrics
        && let Err(error) = file::check(path)
    {
        return no_file("metrics", path, &error);
    }
    let teller =
        Manager::take().map(|manager| -> Teller { Box::new(move |line: &str| manager.tell(line)) });
    let started_ui = Ui::start(meant.progress, teller);
    let (ui, runtime) = match started_ui.and_then(|ui| Ok((ui, Runtime::new()?))) {
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
    let record = Arc::new(Record::begin(&meant.options));
    let what = What {
        kind: if meant.options.dry_run {
            "dry-run"
        } else {
            "rebuild"
        },
        pgdata: meant.options.pgdata.clone(),
        command: record.command(),
    };
    attend(&runtime, &ui, &record, what);
    let result = runtime.block_on(async {
        match &manner.persistence {
            Some(persistence) => persist(&meant.options, &ui, &record, persistence).await,
            None => {
                let stop = std::pin::pin!(stop_signal());
                let ended = rebuild_until_stopped(&meant.options, &ui, &record, stop, None).await;
                ended.0
            }
        }
    });
    // A second signal may have left tasks behind that wait for something.
    runtime.shutdown_background();

    let pgdata = meant.options.pgdata.display().to_string();
    let ending = exit::ending(&result, &pgdata, ui.stage());
    let partial = record.outcome(ui.events().counters());
    let outcome = result.as_ref().unwrap_or(&partial);
    let warned = if ui.shows_to_people() {
        Warned::Already
    } else {
        Warned::NotYet
    };
    let report = file::Report {
        report_version: file::VERSION,
        started_at: clock::rfc3339(started),
        finished_at: clock::rfc3339(SystemTime::now()),
        ending: &ending,
        outcome,
    };
    // While there is a display to warn.
    if let Some(Report::File(path)) = &meant.report
        && let Err(error) = report.text().and_then(|text| file::write(path, &text))
    {
        ui.events().warn(Warning {
            code: Code::ReportNotWritten,
            message: not_written("report", path, &error),
        });
    }
    // A dry run says nothing of the target, and must not hide that the last run failed.
    if let Some(path) = &meant.metrics
        && !meant.options.dry_run
    {
        let run = metrics::Run {
            started,
            finished: SystemTime::now(),
            ending: &ending,
            outcome,
        };
        if let Err(error) = run.write(path) {
            ui.events().warn(Warning {
                code: Code::ReportNotWritten,
                message: not_written("metrics", path, &error),
            });
        }
    }
    let is_told = ui.end(ending.clone());
    if let Some(Report::StandardOutput) = &meant.report {
        // Fails when nobody reads any more.
        let _ = report.text().and_then(|text| io::stdout().write_all(&text));
    }
    if result.is_err() && !is_told {
        exit::print_error(&exit::lines(&ending));
    }
    let summary = match &result {
        _ if !meant.shows_summary => None,
        Ok(outcome) if outcome.needed == Some(false) => Some(short::not_needed(outcome)),
        Ok(outcome) => Some(report::summary(outcome, warned)),
        Err(_) => short::summary(&ending, outcome),
    };
    match (summary, &meant.report) {
        (None, _) => {}
        // Standard output is the report's, and in JSON nothing else stands on standard error.
        (Some(_), Some(Report::StandardOutput)) if is_told => {}
        (Some(summary), Some(Report::StandardOutput)) => exit::print_error(&summary),
        // Fails when nobody reads any more.
        (Some(summary), _) => drop(io::stdout().write_all(summary.as_bytes())),
    }
    ExitCode::from(ending.exit_status)
}

fn not_written(what: &str, path: &Path, error: &io::Error) -> String {
    format!("could not write {what} \"{}\": {error}", path.display())
}

/// The end of a run whose report or metrics could not be written: nothing has begun.
fn no_file(what: &str, path: &Path, error: &io::Error) -> ExitCode {
    let or = if what == "report" {
        ", or - for standard output"
    } else {
        ""
    };
    exit::early(
        Status::Failed,
        &not_written(what, path, error),
        Some("The run has not begun."),
        [format!(
            "Give --{what} a file in a directory that this user may write to{or}."
        )],
    )
}

/// The rebuild, until it ends or is stopped. The first signal asks it to stop, which it does after
/// it has ended the backup on the source; the second one does not wait for that, nor does anybody longer than `limit`.
/// Also whether it was asked.
async fn rebuild_until_stopped(
    options: &RebuildOptions,
    ui: &Ui,
    record: &Record,
    stop: Pin<&mut impl Future<Output = ()>>,
    limit: Option<Duration>,
) -> (Result<Outcome, Failure>, bool) {
    let (cancel, is_cancelled) = watch::channel(false);
    let running = client::rebuild::rebuild(options, ui.events(), record, is_cancelled);
    let mut running = Box::pin(running);
    tokio::select! {
        result = &mut running => return (result, false),
        () = stop => {}
    }
    ui.events()
        .note("stopping; a second signal stops without cleaning up");
    cancel.send_replace(true);
    let time_up = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = &mut running => result,
        () = stop_signal() => Err(abandoned(ui.stage(), options.role, "stopped by a second signal")),
        () = time_up => Err(abandoned(
            ui.stage(),
            options.role,
            "stopped without waiting for the agent's end",
        )),
    };
    (result, true)
}

/// What is known about a run that was stopped without waiting for it.
fn abandoned(stage: Option<Stage>, role: Role, error: &str) -> Failure {
    let state = match stage {
        Some(Stage::Hooks) => TargetState::Unready,
        Some(stage) if stage >= Stage::Start && role == Role::Clone => TargetState::Copied,
        Some(stage) if stage >= Stage::Start => TargetState::Rebuilt,
        Some(stage) if stage >= Stage::Close => TargetState::HalfWay,
        _ => TargetState::Untouched,
    };
    let failure = Failure::new(state, error);
    match state {
        TargetState::HalfWay => failure.again(),
        _ => failure,
    }
}

fn cannot_begin(error: &str) -> ExitCode {
    exit::early(Status::Failed, error, None, None)
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
            (Some(Stage::Hooks), TargetState::Unready),
            (Some(Stage::Start), TargetState::Rebuilt),
        ] {
            let found = abandoned(stage, Role::Standby, "stopped").state;
            assert_eq!(found, state, "{stage:?}");
        }
    }
}
