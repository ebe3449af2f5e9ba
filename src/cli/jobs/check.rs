//! `jobs check`: each job as its command would read it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::files::{self, Found, Place};
use super::text::{self, Job};
use super::{told, usage};
use crate::cli::args::{self, Command, JobsArguments};
use crate::cli::exit::{self, Status};
use crate::cli::resolve::{self, Surroundings, UsageError};
use crate::errors::{printable, quiet_json};

/// What is said of a job, or of a file that cannot be read. Field names are stable.
#[derive(Debug, Serialize)]
struct Checked {
    /// `null` of a file that cannot be read.
    job: Option<String>,
    file: String,
    line: Option<usize>,
    /// `null` when it is right.
    error: Option<String>,
    hint: Option<String>,
}

/// Checks every file and every job, and prints a line for each.
pub fn check(typed: &JobsArguments, around: &Surroundings<'_>) -> ExitCode {
    let place = match &typed.job_file {
        Some(file) => Place::File(file.clone()),
        None => Place::of_variable(around.variable),
    };
    let checked = match all(&place, around) {
        Ok(checked) => checked,
        Err(error) => return exit::usage(&error, "jobs"),
    };
    let is_right = !checked.is_empty() && checked.iter().all(|one| one.error.is_none());
    let text = if typed.json {
        serde_json::to_string_pretty(&checked).map(|json| quiet_json(&json) + "\n")
    } else {
        Ok(text_of(&checked, place.path()))
    };
    match text {
        Ok(text) if is_right => exit::print(&text),
        Ok(text) => {
            exit::print(&text);
            Status::Failed.code()
        }
        Err(error) => crate::cli::cannot_begin(&error.to_string()),
    }
}

fn all(place: &Place, around: &Surroundings<'_>) -> Result<Vec<Checked>, UsageError> {
    let mut checked = Vec::new();
    let mut jobs: Vec<Found> = Vec::new();
    for (file, read) in files::all(place)? {
        match read {
            Ok(found) => jobs.extend(found.into_iter().map(|job| Found {
                file: file.clone(),
                job,
            })),
            Err(fault) => checked.push(Checked {
                job: None,
                file: file.display().to_string(),
                line: fault.line,
                error: Some(told(&file, &fault)),
                hint: fault.hint,
            }),
        }
    }
    for (at, found) in jobs.iter().enumerate() {
        let other = jobs
            .iter()
            .enumerate()
            .find(|(other, one)| *other != at && one.job.name == found.job.name);
        let wrong = match other {
            Some((_, other)) => Err(files::twice(found, other)),
            None => understood(&found.file, &found.job, around),
        };
        let (error, hint) = match wrong {
            Ok(()) => (None, None),
            Err(UsageError { error, hint }) => (Some(error), hint),
        };
        checked.push(Checked {
            job: Some(found.job.name.clone()),
            file: found.file.display().to_string(),
            line: Some(found.job.line),
            error,
            hint,
        });
    }
    Ok(checked)
}

/// Has the job read as `rebuild` does, to the end.
fn understood(file: &Path, job: &Job, around: &Surroundings<'_>) -> Result<(), UsageError> {
    let words =
        text::words(job, "rebuild", &args::command()).map_err(|fault| usage(file, &fault))?;
    let begin = ["pg_reseed", "rebuild"].map(OsString::from);
    let of_job = |error: String, hint: Option<String>| UsageError {
        error: format!("{}:{}: {error}", file.display(), job.line),
        hint,
    };
    // As one that is asked for: what is missing is told alike.
    let name = OsString::from(format!("--job={}", job.name));
    let parsed = args::parse(begin.into_iter().chain(words).chain([name]));
    match parsed
        .map_err(|error| of_job(text::said(&error), None))?
        .command
    {
        Command::Rebuild(typed) => resolve::rebuild(*typed, around)
            .map(drop)
            .map_err(|UsageError { error, hint }| of_job(error, hint)),
        _ => Ok(()),
    }
}

fn text_of(checked: &[Checked], place: &Path) -> String {
    let mut text = String::new();
    for one in checked {
        let Checked {
            job,
            file,
            line,
            error,
            hint,
        } = one;
        let name = job
            .as_ref()
            .map_or_else(String::new, |job| format!("{job}: "));
        let _ = match error {
            Some(error) => writeln!(text, "{name}error: {}", printable(error)),
            None => writeln!(text, "{name}ok ({file}:{})", line.unwrap_or_default()),
        };
        if let Some(hint) = hint {
            let _ = writeln!(text, "  hint: {}", printable(hint));
        }
    }
    if checked.is_empty() {
        let _ = writeln!(text, "There is no job in \"{}\".", place.display());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn every_job_has_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        put(
            "nightly.toml",
            "# Every night.\npgdata = '/srv/pg/15'\nhost = 'db2'\nstart = true\n",
        );
        put(
            "wrong.toml",
            "[conflict]\npgdata = '/a'\nhost = 'b'\nquiet = true\nverbose = true\n\
             [secret]\npgdata = '/a'\ndbname = 'host=b password=x'\n\
             [sourceless]\npgdata = '/a'\n[targetless]\nhost = 'b'\n\
             [lonely]\npgdata = '/a'\nhost = 'b'\ncreate-slot = true\n\
             [typo]\npgdata = '/a'\nhots = 'b'\n[number]\nport = 'x'\n[nightly]\npgdata = '/b'\nhost = 'b'\n",
        );
        put("broken.toml", "pgdata = '/a'\nhost db2\n");
        let open = put("open.toml", "pgdata = '/a'\n");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();
        let none = |_: &str| None;
        let around = Surroundings {
            words: &[],
            variable: &none,
            working_directory: Path::new("/"),
            processors: 4,
            is_typed: false,
            recorded: &|_| Err("there is none".to_owned()),
            recorded_at: &|_| None,
        };
        let place = Place::Directory(directory.path().to_owned());
        let checked = all(&place, &around).unwrap();
        let text = text_of(&checked, place.path());
        let shown = text.replace(&directory.path().display().to_string(), "/etc/pg_reseed");
        assert_snapshot!(shown);
        let json = serde_json::to_value(&checked).unwrap();
        let right = json
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["error"].is_null());
        assert_eq!(right.count(), 0, "nightly is there twice");
        let nowhere = tempfile::tempdir().unwrap();
        let place = Place::Directory(nowhere.path().to_owned());
        assert!(all(&place, &around).unwrap().is_empty());
        assert!(text_of(&[], place.path()).starts_with("There is no job"));
    }
}
