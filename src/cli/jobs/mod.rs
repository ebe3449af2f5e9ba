//! Jobs: command lines that stand in files, by name.
//!
//! A job becomes words that are put before those that were typed, and one parser reads all of them: so what is typed
//! wins, and what is wrong on a command line is wrong in a file.

mod check;
mod files;
mod text;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::cli::args;
use crate::cli::resolve::UsageError;

pub(super) use self::check::check;
use self::files::{Found, Place};
use self::text::Fault;

/// Where the files are, unless [`DIRECTORY_VARIABLE`] says otherwise.
const DIRECTORY: &str = "/etc/pg_reseed";

/// The variable that names another directory of files.
pub const DIRECTORY_VARIABLE: &str = "PG_RESEED_CONFIG_DIR";

/// The variable that names the job, for callers that cannot pass options.
pub const JOB_VARIABLE: &str = "PG_RESEED_JOB";

/// Commands that take a job.
const COMMANDS: [&str; 3] = ["rebuild", "inspect", "verify"];

/// A command line with the words of its job.
#[derive(Debug)]
pub(super) struct Expanded {
    pub words: Vec<OsString>,
    /// The job, and where it stands.
    pub job: Option<String>,
}

/// Puts the words of the job before those that were typed, if the command line or the environment names one.
///
/// # Errors
/// The job is not found, or is wrong.
pub(super) fn expand(
    typed: &[OsString],
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Expanded, UsageError> {
    let plain = || Expanded {
        words: typed.to_vec(),
        job: None,
    };
    let Some(wish) = wish(typed, variable) else {
        return Ok(plain());
    };
    let place = match &wish.file {
        Some(file) => Place::File(file.clone()),
        None => Place::of_variable(variable),
    };
    let found = files::find(&place, wish.name.as_deref())?;
    let Found { file, job } = &found;
    let words =
        text::words(job, wish.command, &args::command()).map_err(|fault| usage(file, &fault))?;
    let mut all = typed[..2].to_vec();
    all.extend(words);
    all.extend_from_slice(&typed[2..]);
    // Where the environment or the file alone names it.
    all.push(format!("--job={}", job.name).into());
    Ok(Expanded {
        words: all,
        job: Some(format!(
            "job \"{}\" ({}:{})",
            job.name,
            file.display(),
            job.line
        )),
    })
}

/// Which job is wanted.
#[derive(Debug, PartialEq, Eq)]
struct Wish<'a> {
    command: &'a str,
    name: Option<String>,
    file: Option<PathBuf>,
}

fn wish<'a>(typed: &'a [OsString], variable: &dyn Fn(&str) -> Option<String>) -> Option<Wish<'a>> {
    let command = typed.get(1)?.to_str()?;
    let options = typed.get(2..)?;
    let asks_for_help = options.iter().any(|word| word == "--help" || word == "-?");
    if !COMMANDS.contains(&command) || asks_for_help {
        return None;
    }
    let name = last(options, "--job").map(|name| name.to_string_lossy().into_owned());
    let name = name.or_else(|| variable(JOB_VARIABLE).filter(|name| !name.is_empty()));
    let file = last(options, "--job-file").map(PathBuf::from);
    (name.is_some() || file.is_some()).then_some(Wish {
        command,
        name,
        file,
    })
}

/// The value of an option, the last one if it is given several times. An option as the value of another one, which
/// needs a `=` before it, is a word that begins with that option's name.
fn last(words: &[OsString], option: &str) -> Option<OsString> {
    let mut found = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == option {
            found = words.next().cloned().or(found);
        } else if let Some(value) = word
            .to_str()
            .and_then(|word| word.strip_prefix(option)?.strip_prefix('='))
        {
            found = Some(OsStr::new(value).to_owned());
        }
    }
    found
}

fn usage(file: &Path, fault: &Fault) -> UsageError {
    UsageError {
        error: told(file, fault),
        hint: fault.hint.clone(),
    }
}

/// A fault with its place before it, as compilers have it.
fn told(file: &Path, fault: &Fault) -> String {
    let file = file.display().to_string();
    match fault.line {
        Some(line) => format!("{file}:{line}: {}", fault.error),
        None if fault.error.contains(&file) => fault.error.clone(),
        None => format!("{file}: {}", fault.error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use insta::assert_snapshot;

    use super::*;

    fn expanded(directory: &Path, line: &str, job: Option<&str>) -> String {
        let typed: Vec<OsString> = shlex::split(line)
            .unwrap()
            .into_iter()
            .map(Into::into)
            .collect();
        let variable = |name: &str| match name {
            DIRECTORY_VARIABLE => Some(directory.display().to_string()),
            JOB_VARIABLE => job.map(str::to_owned),
            _ => None,
        };
        let text = match expand(&typed, &variable) {
            Ok(expanded) => {
                let words = expanded.words.iter().map(|word| word.to_str().unwrap());
                format!("{}\n", shlex::try_join(words).unwrap())
            }
            Err(UsageError { error, hint }) => {
                let hint = hint.map_or_else(String::new, |hint| format!("  hint: {hint}\n"));
                format!("error: {error}\n{hint}")
            }
        };
        text.replace(&directory.display().to_string(), "/etc/pg_reseed")
    }

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn a_job_stands_before_what_is_typed() {
        let files = directory(&[
            ("nightly.toml", "pgdata = '/srv/pg/15'\nhost = 'db2'\n"),
            (
                "others.toml",
                "[a]\npgdata = '/a'\n[b]\npgdata = '/b'\nmax-delete = 3\n",
            ),
            ("notes.txt", "[c]\n"),
        ]);
        let at = |line: &str, job| expanded(files.path(), line, job);
        let lines = [
            at("pg_reseed rebuild --job nightly --host db3", None),
            at("pg_reseed rebuild -n", Some("b")),
            at("pg_reseed inspect --job=b", Some("nightly")),
            at("pg_reseed rebuild --job a --job b", None),
            // Nothing to do with jobs.
            at("pg_reseed rebuild -D /x -j 3 --jobs 4", None),
            at("pg_reseed rebuild -D /x", Some("")),
            at("pg_reseed serve --stdio", Some("nightly")),
            at("pg_reseed rebuild --job missing --help", None),
            at("pg_reseed", Some("nightly")),
            at("pg_reseed rebuild --job", None),
        ]
        .concat();
        assert_snapshot!(lines, @"
        pg_reseed rebuild '--pgdata=/srv/pg/15' '--host=db2' --job nightly --host db3 '--job=nightly'
        pg_reseed rebuild '--pgdata=/b' '--max-delete=3' -n '--job=b'
        pg_reseed inspect '--pgdata=/b' '--job=b' '--job=b'
        pg_reseed rebuild '--pgdata=/b' '--max-delete=3' --job a --job b '--job=b'
        pg_reseed rebuild -D /x -j 3 --jobs 4
        pg_reseed rebuild -D /x
        pg_reseed serve --stdio
        pg_reseed rebuild --job missing --help
        pg_reseed
        pg_reseed rebuild --job
        ");
        let file = files.path().join("others.toml");
        let file = |rest: &str| format!("pg_reseed rebuild --job-file {}{rest}", file.display());
        let lines = [
            at(&file(" --job a"), None),
            at(&file(""), None),
            at(&file(" --job c"), None),
            at(&file("x"), None),
        ]
        .concat();
        assert_snapshot!(lines, @r#"
        pg_reseed rebuild '--pgdata=/a' --job-file /etc/pg_reseed/others.toml --job a '--job=a'
        error: /etc/pg_reseed/others.toml: it has 2 jobs
          hint: Say with --job which one: a, b.
        error: job "c" is not in /etc/pg_reseed/others.toml
          hint: Jobs there: a, b.
        error: could not read file "/etc/pg_reseed/others.tomlx": No such file or directory (os error 2)
        "#);
    }

    #[test]
    fn a_job_that_is_not_found_or_is_wrong_is_told_with_its_place() {
        let files = directory(&[
            ("a.toml", "pgdata = '/a'\n"),
            ("b.toml", "\n[a]\n[c]\nkeeep = 'x'\n"),
            ("d.toml", "pgdata = /a\n"),
        ]);
        let at = |line: &str| expanded(files.path(), line, None);
        let lines = [
            at("pg_reseed rebuild --job a"),
            at("pg_reseed rebuild --job c"),
            at("pg_reseed rebuild --job d"),
            at("pg_reseed rebuild --job e"),
        ]
        .concat();
        assert_snapshot!(lines, @r#"
        error: job "a" is twice there: /etc/pg_reseed/a.toml:1 and /etc/pg_reseed/b.toml:2
          hint: Give one of them another name.
        error: /etc/pg_reseed/b.toml:4: unknown key "keeep"
          hint: Did you mean "keep"?
        error: job "d" is not in /etc/pg_reseed
          hint: Jobs there: a, c. Not read: /etc/pg_reseed/d.toml:1: not TOML: string values must be quoted, expected literal string.
        error: job "e" is not in /etc/pg_reseed
          hint: Jobs there: a, c. Not read: /etc/pg_reseed/d.toml:1: not TOML: string values must be quoted, expected literal string.
        "#);
        let empty = directory(&[]);
        let at = |at: &Path| expanded(at, "pg_reseed rebuild --job a", None);
        assert_snapshot!(at(empty.path()) + &at(&empty.path().join("x")), @r#"
        error: job "a" is not in /etc/pg_reseed
          hint: There is no job: a job is a file NAME.toml there, or a table [NAME] in one. See pg_reseed-jobs(1).
        error: could not read directory "/etc/pg_reseed": No such file or directory (os error 2)
        "#);
    }
}
