//! The files of jobs: which there are, and what is in them.

use std::io;
use std::path::{Path, PathBuf};

use super::text::{self, Fault, Job};
use super::{DIRECTORY, DIRECTORY_VARIABLE, usage};
use crate::cli::resolve::UsageError;
use crate::disk::trusted;
use crate::errors::chain;

/// Where jobs are looked for.
#[derive(Debug)]
pub(super) enum Place {
    Directory(PathBuf),
    File(PathBuf),
}

impl Place {
    /// The directory of jobs.
    pub(super) fn of_variable(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let named = variable(DIRECTORY_VARIABLE).filter(|path| !path.is_empty());
        Place::Directory(named.map_or_else(|| DIRECTORY.into(), PathBuf::from))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Place::Directory(path) | Place::File(path) => path,
        }
    }
}

/// A job and its file.
#[derive(Debug)]
pub(super) struct Found {
    pub file: PathBuf,
    pub job: Job,
}

/// A file, and the jobs in it.
pub(super) type Read = (PathBuf, Result<Vec<Job>, Fault>);

/// All files of a place with the jobs in them.
///
/// # Errors
/// A directory that cannot be listed. A file that cannot be read is a fault of its own.
pub(super) fn all(place: &Place) -> Result<Vec<Read>, UsageError> {
    let files = match place {
        Place::File(file) => vec![file.clone()],
        Place::Directory(directory) => listed(directory).map_err(|error| {
            let shown = directory.display();
            let error = format!("could not read directory \"{shown}\": {error}");
            usage(directory, &Fault::new(None, error))
        })?,
    };
    let read = files.into_iter().map(|file| {
        let jobs = read(&file);
        (file, jobs)
    });
    Ok(read.collect())
}

fn listed(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
            && !is_hidden
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Vec<Job>, Fault> {
    let text = trusted::read(file).map_err(|error| {
        let fault = Fault::new(None, chain(&error));
        match error {
            trusted::TrustError::Others { .. } => fault.hint(
                "A job names commands that are run: let it belong to root or to the user who runs it, and let nobody \
                 else write to it or to its directory (chmod go-w).",
            ),
            trusted::TrustError::Disk(_) => fault,
        }
    })?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    text::jobs(&stem, &text)
}

/// The job of this name, or the only one of a file.
///
/// # Errors
/// There is none, or several.
pub(super) fn find(place: &Place, name: Option<&str>) -> Result<Found, UsageError> {
    let mut jobs = Vec::new();
    let mut faults = Vec::new();
    for (file, read) in all(place)? {
        match read {
            Ok(found) => jobs.extend(found.into_iter().map(|job| Found {
                file: file.clone(),
                job,
            })),
            Err(fault) => faults.push((file, fault)),
        }
    }
    if let (Place::File(_), Some((file, fault))) = (place, faults.first()) {
        return Err(usage(file, fault));
    }
    let mut names: Vec<&str> = jobs.iter().map(|found| found.job.name.as_str()).collect();
    names.dedup();
    let names = names.join(", ");
    let shown = place.path().display();
    let Some(name) = name else {
        return match jobs.len() {
            1 => jobs.pop().ok_or_else(|| none(&shown.to_string())),
            0 => Err(none(&shown.to_string())),
            several => Err(usage(
                place.path(),
                &Fault::new(None, format!("it has {several} jobs"))
                    .hint(format!("Say with --job which one: {names}.")),
            )),
        };
    };
    let mut named: Vec<Found> = jobs
        .into_iter()
        .filter(|found| found.job.name == name)
        .collect();
    if let [first, second, ..] = &named[..] {
        return Err(twice(first, second));
    }
    named.pop().ok_or_else(|| {
        let mut hint = if names.is_empty() && faults.is_empty() {
            "There is no job: a job is a file NAME.toml there, or a table [NAME] in one. See pg_reseed-jobs(1)."
                .to_owned()
        } else if names.is_empty() {
            "No job there can be read.".to_owned()
        } else {
            format!("Jobs there: {names}.")
        };
        // A job may be in what is broken, or belong to another user.
        for (file, fault) in &faults {
            hint.push_str(" Not read: ");
            hint.push_str(&super::told(file, fault));
            hint.push('.');
        }
        UsageError {
            error: format!("job \"{name}\" is not in {shown}"),
            hint: Some(hint),
        }
    })
}

fn none(shown: &str) -> UsageError {
    UsageError {
        error: format!("{shown}: there is no job in it"),
        hint: None,
    }
}

/// Two jobs of one name.
pub(super) fn twice(first: &Found, second: &Found) -> UsageError {
    let place = |found: &Found| format!("{}:{}", found.file.display(), found.job.line);
    UsageError {
        error: format!(
            "job \"{}\" is twice there: {} and {}",
            first.job.name,
            place(first),
            place(second)
        ),
        hint: Some("Give one of them another name.".to_owned()),
    }
}
