//! How a run ends: the exit status by kind, and the lines of a failure in PostgreSQL's three parts.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::cli::resolve::UsageError;
use crate::client::failure::{Failure, Kind, TargetState};
use crate::client::outcome::{Mode, Outcome, VerifyVerdict};
use crate::errors::{one_line, printable};
use crate::event::Stage;
use crate::plan::advice::Advice;
use crate::plan::standby::Role;
use crate::ui::{Ending, journal, json};

/// The exit statuses. The numbers are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Refused = 3,
    HalfWay = 4,
    DamagedPages = 5,
    NotStreaming = 6,
    Incomplete = 7,
}

impl Status {
    /// All of them with their meaning, as the manual has it.
    pub const MEANINGS: [(Status, &str); 7] = [
        (
            Status::Done,
            "The run succeeded. With --start, the standby streams.",
        ),
        (
            Status::Failed,
            "Something did not work. The files of the target are as they were; with --stop, its server runs again, or \
             the message says how to start it.",
        ),
        (Status::Usage, "The options are wrong. Nothing was done."),
        (
            Status::Refused,
            "A check refused to go on. The files of the target are as they were; with --stop, its server runs again, or \
             the message says how to start it.",
        ),
        (
            Status::HalfWay,
            "The run stopped half-way. PostgreSQL cannot start in the target until the same command \
             has been run again and has finished.",
        ),
        (
            Status::DamagedPages,
            "The run, or dry run, succeeded, but some of the pages that differ have a wrong checksum on the \
             source. A rebuild copies them as they are. Pages that are the same on both sides are not checked, and \
             none is where the source has no data checksums. The summary lists the first ten, the report 10000 at most.",
        ),
        (
            Status::NotStreaming,
            "The target is rebuilt and complete, but did not start, or did not stream within the \
             time given with --wait; or it is a copy, and did not start, or one of its hooks failed.",
        ),
    ];

    /// Those of `inspect`.
    pub const OF_INSPECT: [(Status, &str); 3] = [
        (
            Status::Done,
            "The directory, and the source if one was named, were looked at. What was found is printed. With --exit-code \
             also: it needs nothing.",
        ),
        (
            Status::Failed,
            "Something could not be read or asked; standard error says what.",
        ),
        (Status::Usage, "The options are wrong."),
    ];

    /// Those of `verify`.
    pub const OF_VERIFY: [(Status, &str); 6] = [
        (Status::Done, "All was compared, and is as it must be."),
        (
            Status::Failed,
            "Something could not be read or asked; standard error says what.",
        ),
        (Status::Usage, "The options are wrong."),
        (
            Status::Refused,
            "The directory is no standby of the source that could be compared with it; standard error says why.",
        ),
        (
            Status::DamagedPages,
            "Something is wrong. Whether all was compared is told in the result.",
        ),
        (
            Status::Incomplete,
            "Nothing that was compared is wrong, but not all could be: some blocks were changed after the last \
             checkpoint of one side in every pass, or are of a kind that is not known.",
        ),
    ];

    /// Of a verification that came to its end.
    #[must_use]
    pub fn of_verdict(verdict: VerifyVerdict) -> Self {
        match verdict {
            VerifyVerdict::Equal => Status::Done,
            VerifyVerdict::Wrong => Status::DamagedPages,
            VerifyVerdict::Incomplete => Status::Incomplete,
        }
    }

    /// Those of `patroni` and `rewind`.
    pub const OF_MANAGERS: [(Status, &str); 2] = [
        (
            Status::Done,
            "The data directory is complete, or needed nothing.",
        ),
        (
            Status::Failed,
            "It is not; standard error says why, and in what state it is.",
        ),
    ];

    /// Those of `status`: as of `pg_ctl status`, 3 is that nothing runs.
    pub const OF_STATUS: [(Status, &str); 5] = [
        (
            Status::Done,
            "A run works on the directory, and has answered.",
        ),
        (
            Status::Failed,
            "A run is there that does not answer, and the output says why; or the directory could not be read, and standard \
             error says why.",
        ),
        (Status::Usage, "The options are wrong."),
        (Status::Refused, "Nothing runs, and none was interrupted."),
        (
            Status::HalfWay,
            "Nothing runs, but one was interrupted: PostgreSQL cannot start in the directory until the same command has \
             been run again and has finished.",
        ),
    ];

    /// Those of `jobs`.
    pub const OF_JOBS: [(Status, &str); 3] = [
        (Status::Done, "There are jobs, and all are right."),
        (
            Status::Failed,
            "A job is wrong, a file cannot be read, or there is no job at all.",
        ),
        (
            Status::Usage,
            "The options are wrong, or the directory cannot be read.",
        ),
    ];

    /// Those of `serve`.
    pub const OF_SERVE: [(Status, &str); 3] = [
        (
            Status::Done,
            "The client ended the session, or a signal ended the listening.",
        ),
        (
            Status::Failed,
            "Something did not work; standard error says what.",
        ),
        (Status::Usage, "The options are wrong."),
    ];

    /// Of a run that came to its end.
    #[must_use]
    pub fn of_outcome(outcome: &Outcome) -> Self {
        if outcome.damaged.is_empty() {
            Status::Done
        } else {
            Status::DamagedPages
        }
    }

    /// Of a run that did not: what the target can do decides first.
    #[must_use]
    pub fn of_failure(failure: &Failure) -> Self {
        match (failure.state, failure.kind) {
            (TargetState::Untouched, Kind::Refused) => Status::Refused,
            (TargetState::Untouched, Kind::Failed) => Status::Failed,
            (TargetState::HalfWay, _) => Status::HalfWay,
            (TargetState::Rebuilt | TargetState::Copied | TargetState::Unready, _) => {
                Status::NotStreaming
            }
        }
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    pub(super) fn code(self) -> ExitCode {
        ExitCode::from(self.number())
    }
}

/// What `inspect --exit-code` ends with once it has looked. The numbers are stable, and none is one of [`Status`] but
/// for 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    Healthy = 0,
    Start = 10,
    Rebuild = 11,
    Interrupted = 12,
    NotStreaming = 13,
    OfAnother = 14,
    CannotTell = 15,
    Never = 16,
    SwitchoverReady = 17,
    SwitchoverTooEarly = 18,
}

impl Verdict {
    /// All of them with their meaning, as the manual has it.
    pub const MEANINGS: [(Verdict, &str); 10] = [
        (
            Verdict::Healthy,
            "healthy: it is a standby that streams from the source; where no source was named, from whomever it says.",
        ),
        (
            Verdict::Start,
            "start, reattach, reattach-from-archive: it needs no rebuild, but does not run, or lacks WAL that only an \
             archive has.",
        ),
        (
            Verdict::Rebuild,
            "seed, rebuild, wal-gone, broken: it needs a rebuild.",
        ),
        (
            Verdict::Interrupted,
            "run-again: a rebuild was interrupted and must be run again.",
        ),
        (
            Verdict::NotStreaming,
            "not-streaming, paused: it runs as a standby and does not receive, or does not replay.",
        ),
        (
            Verdict::OfAnother,
            "of-another: it runs as a standby of another server.",
        ),
        (
            Verdict::CannotTell,
            "cannot-tell, history-untold, source-is-behind, wait, unusable, or no verdict, as of a primary that is \
             looked at alone: a person must look, or look again later.",
        ),
        (
            Verdict::Never,
            "foreign, source-follows-target, look-twice: it must not be rebuilt from this source as things are.",
        ),
        (Verdict::SwitchoverReady, "switchover-ready."),
        (Verdict::SwitchoverTooEarly, "switchover-too-early."),
    ];

    /// Of what was advised; nothing was when no source was asked and the state alone says nothing.
    #[must_use]
    pub fn of(advice: Option<&Advice>) -> Self {
        match advice {
            Some(Advice::Healthy { .. }) => Verdict::Healthy,
            Some(
                Advice::Start { .. } | Advice::Reattach { .. } | Advice::ReattachFromArchive { .. },
            ) => Verdict::Start,
            Some(
                Advice::Seed | Advice::Rebuild { .. } | Advice::WalGone { .. } | Advice::Broken,
            ) => Verdict::Rebuild,
            Some(Advice::RunAgain) => Verdict::Interrupted,
            Some(Advice::NotStreaming { .. } | Advice::Paused { .. }) => Verdict::NotStreaming,
            Some(Advice::OfAnother { .. }) => Verdict::OfAnother,
            Some(
                Advice::CannotTell
                | Advice::HistoryUntold { .. }
                | Advice::SourceIsBehind { .. }
                | Advice::Wait { .. }
                | Advice::Unusable { .. },
            )
            | None => Verdict::CannotTell,
            Some(Advice::Foreign | Advice::SourceFollowsTarget | Advice::LookTwice) => {
                Verdict::Never
            }
            Some(Advice::SwitchoverReady { .. }) => Verdict::SwitchoverReady,
            Some(Advice::SwitchoverTooEarly { .. }) => Verdict::SwitchoverTooEarly,
        }
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// How a run ended, for programs; `stage` is the last one that it was in.
pub(super) fn ending(
    result: &Result<Outcome, Failure>,
    pgdata: &str,
    stage: Option<Stage>,
) -> Ending {
    match result {
        Ok(outcome) => Ending {
            exit_status: Status::of_outcome(outcome).number(),
            outcome: match (outcome.mode, outcome.damaged.is_empty()) {
                _ if outcome.needed == Some(false) => "not-needed",
                (Some(Mode::DryRun), _) => "dry-run",
                (Some(Mode::NotNeeded), _) => "not-needed",
                (_, true) => "done",
                (_, false) => "done-with-damaged-pages",
            },
            target: match outcome.mode {
                _ if outcome.needed == Some(false) => "standby",
                Some(Mode::DryRun | Mode::NotNeeded) => "untouched",
                _ if outcome.role == Role::Clone => "copy",
                _ => "standby",
            },
            stage,
            refusals: Vec::new(),
            errors: Vec::new(),
            details: Vec::new(),
            hints: Vec::new(),
        },
        Err(failure) => {
            let status = Status::of_failure(failure);
            let mut details = failure.details.clone();
            details.push(state(failure.state, pgdata));
            Ending {
                exit_status: status.number(),
                outcome: match (failure.state, status) {
                    (_, Status::Refused) => "refused",
                    (TargetState::Copied, _) => "copied-not-started",
                    (TargetState::Unready, _) => "copied-not-ready",
                    (_, Status::NotStreaming) => "rebuilt-not-streaming",
                    _ => "failed",
                },
                target: match failure.state {
                    TargetState::Untouched => "untouched",
                    TargetState::HalfWay => "half-way",
                    TargetState::Rebuilt => "standby",
                    TargetState::Copied => "copy",
                    TargetState::Unready => "closed-copy",
                },
                stage,
                refusals: failure.refusals.clone(),
                errors: failure.errors.clone(),
                details,
                hints: failure.hints.clone(),
            }
        }
    }
}

/// The state of the target, always said.
fn state(state: TargetState, pgdata: &str) -> String {
    match state {
        TargetState::Untouched => format!("Nothing was changed in \"{pgdata}\"."),
        TargetState::HalfWay => {
            format!("The target \"{pgdata}\" cannot start until the same command has finished.")
        }
        TargetState::Rebuilt => {
            format!("The target \"{pgdata}\" is rebuilt and complete, but was not seen streaming.")
        }
        TargetState::Copied => {
            format!("The target \"{pgdata}\" is a complete copy, but was not seen running.")
        }
        TargetState::Unready => format!(
            "The target \"{pgdata}\" is a complete copy, but not ready: its hooks have not all succeeded. A server that is \
             started in it lets nobody in but its owner."
        ),
    }
}

/// The lines of a failure of a command that only looks.
pub(super) fn lines_of_look(failure: &Failure) -> String {
    lines(&Ending {
        exit_status: Status::Failed.number(),
        outcome: "failed",
        target: "untouched",
        stage: None,
        refusals: Vec::new(),
        errors: failure.errors.clone(),
        details: failure.details.clone(),
        hints: failure.hints.clone(),
    })
}

/// The lines of a failure. Several refusals keep their own detail and hint beside them.
pub(super) fn lines(ending: &Ending) -> String {
    let mut text = String::new();
    let mut put = |part: &str, sentence: Option<&String>| {
        if let Some(sentence) = sentence {
            let _ = writeln!(text, "pg_reseed: {part}: {}", printable(sentence));
        }
    };
    let Ending {
        errors,
        details,
        hints,
        ..
    } = ending;
    // The last detail is the state of the target.
    let is_paired = errors.len() + 1 == details.len() && errors.len() == hints.len();
    if is_paired && errors.len() > 1 {
        for (index, error) in errors.iter().enumerate() {
            put("error", Some(error));
            put("detail", details.get(index));
            put("hint", hints.get(index));
        }
        put("detail", details.last());
    } else {
        for (part, sentences) in [("error", errors), ("detail", details), ("hint", hints)] {
            for sentence in sentences {
                put(part, Some(sentence));
            }
        }
    }
    text
}

/// The end of a run that has not begun, in the form that is read.
pub(super) fn early(
    status: Status,
    error: &str,
    detail: Option<&str>,
    hints: impl IntoIterator<Item = String>,
) -> ExitCode {
    let ending = Ending {
        exit_status: status.number(),
        outcome: match status {
            Status::Usage => "usage",
            _ => "failed",
        },
        target: "untouched",
        stage: None,
        refusals: Vec::new(),
        errors: vec![error.to_owned()],
        details: detail.iter().map(|&detail| detail.to_owned()).collect(),
        hints: hints.into_iter().collect(),
    };
    if json::are_errors_json() {
        print_error(&json::never_begun(&ending));
    } else {
        print_error(&lines(&ending));
    }
    status.code()
}

/// The end of a wrong command line.
pub(super) fn usage(error: &UsageError, command: &str) -> ExitCode {
    let help = format!("Try \"pg_reseed {command} --help\" for more information.");
    let hints = error.hint.iter().chain(std::iter::once(&help));
    early(Status::Usage, &error.error, None, hints.cloned())
}

/// The end of a run whose environment has a value without meaning.
pub(super) fn wrong_variable(error: &str) -> ExitCode {
    early(Status::Usage, error, None, None)
}

/// The end of a command line that clap refused, or that asked for help or the version.
pub(super) fn clap(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && json::are_errors_json() {
        let text = error.to_string();
        let mut parts = text.split("\n\n").map(one_line);
        let first = parts.next().unwrap_or_default();
        let first = first.strip_prefix("error: ").unwrap_or(&first);
        early(
            Status::Usage,
            first.trim(),
            None,
            parts.map(|part| part.trim().to_owned()),
        )
    } else if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        print_error(&error.to_string());
        Status::Usage.code()
    } else if error.use_stderr() {
        print_error(&format!("pg_reseed: {error}"));
        Status::Usage.code()
    } else {
        // Fails when nobody reads any more.
        let _ = error.print();
        Status::Done.code()
    }
}

/// Prints what was asked for. It fails when nobody reads any more.
pub(super) fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Status::Done.code()
}

/// A wrong command line may be wrong by what its job says.
pub(super) fn hint_at(job: Option<&str>) {
    if let Some(job) = job
        && !json::are_errors_json()
    {
        print_error(&format!(
            "pg_reseed: hint: The options of {job} count too.\n"
        ));
    }
}

/// Standard error may be gone; there is nobody left to tell.
pub(super) fn print_error(text: &str) {
    let marked = journal::is_read().then(|| journal::marked(text));
    let text = marked.as_deref().unwrap_or(text);
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn failed(kind: Kind, state: TargetState) -> Failure {
        let mut failure = Failure::new(state, "could not read file \"base/1/2\" on the source")
            .detail("Its disk reports an error.")
            .hint("Check the source's disk, then run the same command again.");
        failure.kind = kind;
        failure
    }

    #[test]
    fn a_failure_says_what_happened_where_it_left_the_target_and_what_to_do() {
        let text = [
            (Kind::Refused, TargetState::Untouched),
            (Kind::Failed, TargetState::Untouched),
            (Kind::Failed, TargetState::HalfWay),
            (Kind::Failed, TargetState::Rebuilt),
        ]
        .map(|(kind, state)| {
            let ending = ending(&Err(failed(kind, state)), "/srv/pg/15", None);
            format!("{}{}\n", lines(&ending), ending.exit_status)
        })
        .concat();
        assert_snapshot!(text, @r#"
        pg_reseed: error: could not read file "base/1/2" on the source
        pg_reseed: detail: Its disk reports an error.
        pg_reseed: detail: Nothing was changed in "/srv/pg/15".
        pg_reseed: hint: Check the source's disk, then run the same command again.
        3
        pg_reseed: error: could not read file "base/1/2" on the source
        pg_reseed: detail: Its disk reports an error.
        pg_reseed: detail: Nothing was changed in "/srv/pg/15".
        pg_reseed: hint: Check the source's disk, then run the same command again.
        1
        pg_reseed: error: could not read file "base/1/2" on the source
        pg_reseed: detail: Its disk reports an error.
        pg_reseed: detail: The target "/srv/pg/15" cannot start until the same command has finished.
        pg_reseed: hint: Check the source's disk, then run the same command again.
        4
        pg_reseed: error: could not read file "base/1/2" on the source
        pg_reseed: detail: Its disk reports an error.
        pg_reseed: detail: The target "/srv/pg/15" is rebuilt and complete, but was not seen streaming.
        pg_reseed: hint: Check the source's disk, then run the same command again.
        6
        "#);
    }

    #[test]
    fn several_refusals_keep_their_own_reason_and_remedy() {
        let mut failure = failed(Kind::Refused, TargetState::Untouched);
        failure
            .errors
            .push("a server runs in the target".to_owned());
        failure.details.push("Its pid is 4711.".to_owned());
        failure.hints.push("Stop it.".to_owned());
        let ending = ending(&Err(failure), "/srv/pg/15", None);
        assert_snapshot!(lines(&ending), @r#"
        pg_reseed: error: could not read file "base/1/2" on the source
        pg_reseed: detail: Its disk reports an error.
        pg_reseed: hint: Check the source's disk, then run the same command again.
        pg_reseed: error: a server runs in the target
        pg_reseed: detail: Its pid is 4711.
        pg_reseed: hint: Stop it.
        pg_reseed: detail: Nothing was changed in "/srv/pg/15".
        "#);
    }

    #[test]
    fn every_status_has_its_number_and_meaning() {
        for (number, (status, _)) in (0..).zip(Status::MEANINGS) {
            assert_eq!(status.number(), number);
        }
    }

    #[test]
    fn a_verdict_is_never_taken_for_a_failure() {
        let mut before = 0;
        for (verdict, meaning) in Verdict::MEANINGS {
            let number = verdict.number();
            let is_status = Status::MEANINGS
                .iter()
                .any(|(status, _)| status.number() == number);
            assert!(verdict == Verdict::Healthy || !is_status && number > before);
            assert!(!meaning.is_empty());
            before = number;
        }
        assert_eq!(Verdict::of(None), Verdict::CannotTell);
    }
}
