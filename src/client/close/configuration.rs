//! `--target-config-dir`: the source's configuration files come to a host that has none.

use std::path::{Path, PathBuf};

use crate::client::failure::Failure;
use crate::client::options::RebuildOptions;
use crate::client::run::Run;
use crate::client::source::{Source, SourceError};
use crate::disk::keep::{self, Vacancy};
use crate::plan::configuration::{self, Moved, Place};
use crate::plan::refusal::Refusal;
use crate::warning::Code;
use crate::wire::message::{Answer, Request};

/// The configuration as it will be, on disk already but not yet in its place.
pub struct Staged {
    from: PathBuf,
    to: PathBuf,
}

/// Where the files lie until the target is whole.
fn staging(directory: &Path) -> PathBuf {
    let mut name = directory.as_os_str().to_owned();
    name.push(".pg_reseed.tmp");
    PathBuf::from(name)
}

/// Fetches the files and judges their place, which is missing or empty. `None` when there is nothing to do: not
/// asked for, or done by the run whose interruption left the target as it is.
///
/// # Errors
/// The place cannot be used, or the files cannot be had.
pub async fn fetch(
    run: &Run<'_>,
    source: &Source,
    is_interrupted: bool,
) -> Result<Option<Moved>, Failure> {
    let Some(directory) = run.options.target_config_dir.as_deref() else {
        return Ok(None);
    };
    let answer = source.ask(&Request::Configuration, Vec::new()).await;
    let (answer, _) = answer.map_err(|error| error.untouched())?;
    let Answer::Configuration(configuration) = answer else {
        return Err(SourceError::Unfitting("configuration").untouched());
    };
    let place = Place {
        directory,
        pgdata: &run.options.pgdata,
        port: run.options.target_port,
    };
    let moved =
        configuration::moved(&configuration, &place).map_err(|error| Failure::untouched(&error))?;
    let problem = match keep::vacancy(directory, "") {
        Ok(Vacancy::Vacant) if keep::can_be_replaced(directory) => None,
        Ok(Vacancy::Vacant) => Some("It is a link, or a file system of its own."),
        Ok(_) if is_interrupted && keep::holds(directory, &moved.files) => return Ok(None),
        Ok(_) => {
            Some("It is not empty, and configuration files of this host are never overwritten.")
        }
        Err(error) => return Err(Failure::untouched(&error)),
    };
    if let Some(problem) = problem {
        return Err(Failure::refused(&[Refusal::ConfigDirUnfit {
            directory: directory.display().to_string(),
            problem: problem.to_owned(),
        }]));
    }
    for remark in &moved.remarks {
        run.warn(Code::ConfigurationChanged, remark);
    }
    Ok(Some(moved))
}

/// Writes the files beside their place, so that nothing can be in the way any more when the target is closed.
///
/// # Errors
/// The system's error; nothing of the target has changed.
pub fn stage(options: &RebuildOptions, moved: Option<Moved>) -> Result<Option<Staged>, Failure> {
    let (Some(moved), Some(directory)) = (moved, options.target_config_dir.as_deref()) else {
        return Ok(None);
    };
    let from = staging(directory);
    keep::write_tree(&from, &moved.directories, &moved.files).map_err(|error| {
        Failure::untouched(&error)
            .hint("Give --target-config-dir a directory whose parent you may write to.")
    })?;
    Ok(Some(Staged {
        from,
        to: directory.to_owned(),
    }))
}

impl Staged {
    /// Puts the files in their place.
    ///
    /// # Errors
    /// The system's error.
    pub fn settle(&self, run: &Run<'_>) -> Result<(), Failure> {
        keep::rename(&self.from, &self.to).map_err(|error| Failure::half_way(&error))?;
        let place = self.to.display();
        run.events.note(format!(
            "The configuration of the source was copied to \"{place}\"."
        ));
        Ok(())
    }
}
