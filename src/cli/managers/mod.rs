//! Doors for those who manage clusters: a replica method of Patroni's, and `pg_rewind`'s place. Each turns its command
//! line into the words of a `rebuild`, which are parsed as if they had been typed.

pub mod args;
mod patroni;
pub(super) mod persist;
mod rewind;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::args::{self as definitions, Command};
use crate::cli::exit::{self, Status};
use crate::cli::managers::args::RewindArguments;
use crate::cli::managers::persist::Persistence;
use crate::cli::resolve::{self, UsageError};
use crate::cli::{Manner, jobs, surroundings, variable};

/// The name by which `pg_rewind`'s callers know it.
const PG_REWIND: &str = "pg_rewind";

/// The command line as it is meant when the program is called by `pg_rewind`'s name.
pub(super) fn by_name(mut words: Vec<OsString>) -> Vec<OsString> {
    let name = words.first().and_then(|name| Path::new(name).file_name());
    if name == Some(OsStr::new(PG_REWIND)) {
        words.insert(1, "rewind".into());
    }
    words
}

/// Whether the words are those of this command, and not a question for its help.
fn is_call(words: &[OsString], command: &str) -> bool {
    let asks = |word: &OsString| matches!(word.to_str(), Some("--help" | "-?"));
    words.get(1).is_some_and(|word| word == command) && !words[2..].iter().any(asks)
}

/// Does what the words say, if they are for one of the managers' doors.
pub(super) fn called(words: &[OsString]) -> Option<ExitCode> {
    if is_call(words, "patroni") {
        return Some(as_replica_method(words));
    }
    let asks = |word: &OsString| matches!(word.to_str(), Some("--version" | "-V"));
    if is_call(words, "rewind") && words.get(2).is_some_and(asks) {
        return Some(exit::print(&format!("{}\n", rewind::VERSION)));
    }
    None
}

/// A `create_replica_methods` command of Patroni's.
pub(super) fn as_replica_method(words: &[OsString]) -> ExitCode {
    let rebuild = definitions::command();
    let rebuild = rebuild.find_subcommand("rebuild");
    let is_known = |name: &str| {
        rebuild
            .iter()
            .flat_map(|command| command.get_arguments())
            .any(|argument| argument.get_long() == Some(name))
    };
    let call = match patroni::translate(&words[2..], &is_known, &variable) {
        Ok(call) => call,
        Err(error) => {
            exit::usage(&error, "patroni");
            return Status::Failed.code();
        }
    };
    let persistence = Persistence {
        retry_for: call.retry_for,
        parent: std::os::unix::process::parent_id(),
        ignored: call.ignored,
    };
    let code = rebuild_with(words, &call.words, |meant| {
        meant.options.is_typed = false;
        Manner {
            persistence: Some(persistence),
        }
    });
    succeeded_or_failed(code)
}

/// In `pg_rewind`'s place.
pub(super) fn as_pg_rewind(typed: &RewindArguments, words: &[OsString]) -> ExitCode {
    let call = match rewind::translate(typed, &variable) {
        Ok(call) => call,
        Err(error) => return rewind_usage(&error),
    };
    for note in &call.notes {
        exit::print_error(&format!("{PG_REWIND}: {note}\n"));
    }
    let code = rebuild_with(words, &call.words, |meant| {
        meant.options.rewinds = true;
        Manner::default()
    });
    succeeded_or_failed(code)
}

/// Parses the words of a rebuild, gives them meaning, and does it.
fn rebuild_with(
    typed: &[OsString],
    words: &[OsString],
    manner: impl FnOnce(&mut resolve::Rebuild) -> Manner,
) -> ExitCode {
    let expanded = match jobs::expand(words, &variable) {
        Ok(expanded) => expanded,
        Err(error) => return exit::usage(&error, "jobs"),
    };
    let arguments = match definitions::parse(expanded.words.into_iter()) {
        Ok(arguments) => arguments,
        Err(error) => {
            let status = exit::clap(&error);
            exit::hint_at(expanded.job.as_deref());
            return status;
        }
    };
    let Command::Rebuild(arguments) = arguments.command else {
        return Status::Usage.code();
    };
    match surroundings(typed, |around| resolve::rebuild(*arguments, around)) {
        Ok(mut meant) => {
            let manner = manner(&mut meant);
            super::rebuild(&meant, &manner)
        }
        Err(error) => exit::usage(&error, "rebuild"),
    }
}

/// A manager knows two ends: the directory is complete, with whatever pages the source has, or it is not.
fn succeeded_or_failed(code: ExitCode) -> ExitCode {
    let is_one_of = |status: Status| code == status.code();
    if is_one_of(Status::Done) || is_one_of(Status::DamagedPages) {
        Status::Done.code()
    } else {
        Status::Failed.code()
    }
}

/// The end of a command line that `pg_rewind` would not take.
fn rewind_usage(error: &UsageError) -> ExitCode {
    exit::print_error(&rewind::usage_text(error));
    Status::Failed.code()
}

/// The end of a command line of `rewind` that clap refused, or that asked for help.
pub(super) fn rewind_clap(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return exit::clap(error);
    }
    rewind_usage(&rewind::of_clap(error))
}

/// How long a run of Patroni's may take to end after a signal: Patroni kills after 10 seconds.
const STOPS_WITHIN: Duration = Duration::from_secs(8);
