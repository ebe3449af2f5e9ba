//! `pg_rewind`'s command line, as the words of a rebuild (PostgreSQL `src/bin/pg_rewind/pg_rewind.c:main`).

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::managers::args::RewindArguments;
use crate::cli::resolve::UsageError;
use crate::client::command;
use crate::pg::conninfo::Conninfo;

/// What `-V` prints. Callers read the number behind the parenthesis as the version of PostgreSQL: that is the newest whose
/// `pg_rewind` this stands for.
pub(super) const VERSION: &str = concat!(
    "pg_rewind (PostgreSQL) 18 (pg_reseed ",
    env!("CARGO_PKG_VERSION"),
    ")"
);

/// What a caller of `pg_rewind` has decided: how its result is to be.
const DECIDED: [&str; 3] = [
    // All that is no relation comes from the source.
    "--config=source",
    // It goes from any timeline to any other.
    "--discard-newer-timeline",
    // It does not try the standby's login; the connection is for another purpose.
    "--no-login-check",
];

/// Options of `pg_reseed rebuild` for callers whose command line has no room for them.
pub(super) const OPTIONS: &str = "PG_RESEED_REWIND_OPTIONS";

/// A call in `pg_rewind`'s place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// The words of the rebuild.
    pub words: Vec<OsString>,
    /// What is said before it.
    pub notes: Vec<&'static str>,
}

/// Turns what was typed into the words of a rebuild.
///
/// # Errors
/// What `pg_rewind` refuses too, in its words, and what cannot be done here.
pub(super) fn translate(
    typed: &RewindArguments,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Call, UsageError> {
    let server = match (&typed.source_pgdata, &typed.source_server) {
        (None, None) => {
            return Err(UsageError::new(
                "no source specified (--source-pgdata or --source-server)",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(UsageError::new(
                "only one of --source-pgdata or --source-server can be specified",
            ));
        }
        (source, server) => (source, server),
    };
    let Some(target) = &typed.target_pgdata else {
        return Err(UsageError::new(
            "no target data directory specified (--target-pgdata)",
        ));
    };
    if typed.write_recovery_conf && typed.source_server.is_none() {
        return Err(UsageError::new(
            "no source server information (--source-server) specified for --write-recovery-conf",
        ));
    }
    if let Some(first) = typed.rest.first() {
        let first = first.display();
        return Err(UsageError::new(format_args!(
            "too many command-line arguments (first is \"{first}\")"
        )));
    }
    let server = match server {
        (Some(directory), _) => return Err(stopped_source(directory)),
        (None, server) => server.as_deref().unwrap_or_default(),
    };
    let mut conninfo = Conninfo::parse(server).map_err(UsageError::new)?;
    if conninfo.has_password() && typed.write_recovery_conf {
        return Err(
            UsageError::new("a password in --source-server is not accepted with --write-recovery-conf").hint(
                "It would stand in a configuration file. Put it into the password file of the user that the \
                 standby runs as: ~/.pgpass, or passfile=... in the connection string.",
            ),
        );
    }
    conninfo = conninfo.without_secrets();
    let mut words: Vec<OsString> = ["pg_reseed", "rebuild"].map(OsString::from).to_vec();
    words.extend(DECIDED.map(OsString::from));
    words.extend(["-D".into(), target.clone().into_os_string()]);
    let text = conninfo.to_keyword_value().map_err(UsageError::new)?;
    words.extend(["-d".into(), text.into()]);
    if variable("PG_RESEED_FROM").is_none() {
        if is_here(&conninfo, variable) {
            words.extend(["--from".into(), "local".into()]);
        } else {
            judge_hosts(&conninfo, variable)?;
        }
    }
    let role = if typed.write_recovery_conf {
        "standby"
    } else {
        "managed"
    };
    let progress = if typed.progress { "plain" } else { "none" };
    words.extend(["--role", role, "--progress", progress].map(OsString::from));
    if let Some(file) = &typed.config_file {
        words.extend(["--config-file".into(), file.clone().into_os_string()]);
    }
    for (is_given, option) in [
        (typed.dry_run, "--dry-run"),
        (typed.no_sync, "--no-sync"),
        (typed.debug, "-vv"),
    ] {
        words.extend(is_given.then(|| option.into()));
    }
    if let Some(text) = variable(OPTIONS) {
        let more = command::words(&text).ok_or_else(|| {
            UsageError::new(format_args!("a quote is not closed in {OPTIONS}: {text}"))
        })?;
        words.extend(more.into_iter().map(OsString::from));
    }
    let notes = [
        (
            typed.restore_target_wal,
            "-c has no effect: pg_reseed compares both sides and needs no WAL of the target",
        ),
        (
            typed.no_ensure_shutdown,
            "--no-ensure-shutdown has no effect: pg_reseed takes a target as it is",
        ),
    ];
    Ok(Call {
        words,
        notes: notes
            .into_iter()
            .filter_map(|(is_given, note)| is_given.then_some(note))
            .collect(),
    })
}

fn stopped_source(directory: &Path) -> UsageError {
    let directory = directory.display();
    UsageError::new(format_args!(
        "pg_reseed needs a running source: --source-pgdata=\"{directory}\" cannot be used"
    ))
    .hint("Start the server in that directory, and give --source-server instead.")
}

/// The hosts that the connection leads to: of the string, or else of the environment.
fn hosts(conninfo: &Conninfo, variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let named = conninfo.get("host").or_else(|| conninfo.get("hostaddr"));
    let named = named.filter(|host| !host.is_empty()).map(str::to_owned);
    if named.is_some() || conninfo.get("service").is_some() {
        return named;
    }
    let set = |name| variable(name).filter(|value| !value.is_empty());
    set("PGHOST").or_else(|| set("PGHOSTADDR"))
}

/// Whether the source's server is on this host.
fn is_here(conninfo: &Conninfo, variable: &dyn Fn(&str) -> Option<String>) -> bool {
    match hosts(conninfo, variable) {
        None => conninfo.get("service").is_none() && variable("PGSERVICE").is_none(),
        Some(host) => {
            host.starts_with(['/', '@'])
                || matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1")
        }
    }
}

/// Judges whether one host is left to seek the agent on.
fn judge_hosts(
    conninfo: &Conninfo,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(), UsageError> {
    let error = match hosts(conninfo, variable) {
        Some(hosts) if hosts.contains(',') => "--source-server names several hosts",
        Some(_) => return Ok(()),
        None => "--source-server names no host but a service",
    };
    Err(UsageError::new(error).hint(
        "Say with the environment variable PG_RESEED_FROM where the agent is, such as ssh://HOST or tls://HOST.",
    ))
}

/// A wrong command line, as `pg_rewind` tells of it.
pub(super) fn usage_text(error: &UsageError) -> String {
    let mut text = format!("pg_rewind: error: {}\n", error.error);
    let hint = error.hint.as_deref();
    let hint = hint.unwrap_or("Try \"pg_rewind --help\" for more information.");
    let _ = writeln!(text, "pg_rewind: hint: {hint}");
    text
}

/// What clap refused, in one line.
pub(super) fn of_clap(error: &clap::Error) -> UsageError {
    let said = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    match (error.kind(), said(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(option)) => {
            UsageError::new(format_args!("unrecognized option \"{option}\""))
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            UsageError::new(first.trim_start_matches("error: "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{self, Command};

    fn typed(line: &str) -> RewindArguments {
        let words = shlex::split(&format!("pg_reseed rewind {line}")).unwrap();
        let parsed = args::parse(words.into_iter().map(Into::into)).unwrap();
        let Command::Rewind(typed) = parsed.command else {
            panic!("not a rewind");
        };
        typed
    }

    fn called(line: &str, variables: &[(&str, &str)]) -> Result<Call, UsageError> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        translate(&typed(line), &variable)
    }

    /// The words behind those that every call has.
    fn own(line: &str, variables: &[(&str, &str)]) -> String {
        let words = called(line, variables).unwrap().words;
        let words = words.iter().map(|word| word.to_str().unwrap());
        let words: Vec<_> = words.skip(2 + DECIDED.len()).collect();
        shlex::try_join(words).unwrap()
    }

    #[test]
    fn a_command_line_becomes_a_rebuild() {
        for (line, meant) in [
            (
                "-D /pg --source-server=host=b",
                "-D /pg -d 'host=b' --role managed --progress none",
            ),
            (
                "--target-pgdata /pg --source-server 'host=b dbname=postgres' -R -P",
                "-D /pg -d 'host=b dbname=postgres' --role standby --progress plain",
            ),
            (
                "-D/pg --source-ser=host=b -nNP --config-file=/etc/c --debug --sync-method=syncfs",
                "-D /pg -d 'host=b' --role managed --progress plain --config-file /etc/c --dry-run --no-sync -vv",
            ),
            (
                "-D /pg --source-server='host=b password=geheim'",
                "-D /pg -d 'host=b' --role managed --progress none",
            ),
        ] {
            assert_eq!(own(line, &[]), meant, "{line}");
        }
    }

    #[test]
    fn the_agent_is_where_the_source_is() {
        for (server, variables, is_local) in [
            ("host=b", &[][..], false),
            ("host=/tmp", &[], true),
            ("host=localhost", &[], true),
            ("hostaddr=127.0.0.1", &[], true),
            ("port=5433", &[], true),
            ("port=5433", &[("PGHOST", "/tmp")], true),
            ("port=5433", &[("PGHOST", "b")], false),
            ("host=/tmp", &[("PG_RESEED_FROM", "tls:")], false),
        ] {
            let line = format!("-D /pg --source-server='{server}'");
            let words = own(&line, variables);
            assert_eq!(words.contains("--from local"), is_local, "{words}");
        }
        for server in ["host=a,b", "service=s"] {
            let line = format!("-D /pg --source-server={server}");
            assert!(called(&line, &[]).is_err(), "{server}");
            assert!(called(&line, &[("PG_RESEED_FROM", "ssh://a")]).is_ok());
        }
    }

    #[test]
    fn what_pg_rewind_refuses_is_refused() {
        for (line, error) in [
            ("-D /pg", "no source specified"),
            (
                "-D /pg --source-server=host=b --source-pgdata=/b",
                "only one of",
            ),
            ("--source-server=host=b", "no target data directory"),
            (
                "-D /pg --source-pgdata=/b -R",
                "no source server information",
            ),
            ("-D /pg --source-pgdata=/b extra", "too many command-line"),
            ("-D /pg --source-pgdata=/b", "needs a running source"),
            (
                "-D /pg -R --source-server='host=b password=geheim'",
                "a password in --source-server",
            ),
        ] {
            let found = called(line, &[]).unwrap_err();
            assert!(found.error.contains(error), "{line}: {found:?}");
            assert!(!format!("{found:?}").contains("geheim"));
        }
    }

    #[test]
    fn more_options_come_from_the_environment() {
        let words = own(
            "-D /pg --source-server=host=b",
            &[(OPTIONS, "--max-rate 50M --keep 'my file'")],
        );
        assert!(
            words.ends_with("--progress none --max-rate 50M --keep 'my file'"),
            "{words}"
        );
        assert!(called("-D /pg --source-server=host=b", &[(OPTIONS, "'")]).is_err());
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let call = called("-D /pg --source-server=host=b -c --no-ensure-shutdown", &[]).unwrap();
        assert_eq!(call.notes.len(), 2);
    }
}
