//! `status`: whether a run works on a directory and how far it is, or which one was interrupted. Asks the run itself,
//! takes nothing from it, and waits a moment at most.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::client::failure::Failure;
use crate::client::inspect::next;
use crate::client::look::target;
use crate::disk::DiskError;
use crate::disk::facts as disk;
use crate::disk::locks::{self, Holder};
use crate::facts::{FileIdentity, Interrupted};
use crate::link::inquiry::{self, Name, Peer};

pub use crate::link::inquiry::Heard;

/// How long a run may take to answer.
pub const WITHIN: Duration = Duration::from_secs(3);

/// When it is looked again where somebody has the directory and says nothing.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What `status` was asked about.
#[derive(Debug, Clone)]
pub struct StatusOptions {
    pub pgdata: PathBuf,
    /// Where the command was typed.
    pub working_directory: PathBuf,
}

/// What is known of runs on a directory.
#[derive(Debug)]
pub struct Found {
    pub pgdata: String,
    /// Those that work on it now.
    pub runs: Vec<At>,
    /// What the last one has left, where none works on it.
    pub left: Left,
}

/// A run that works on the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    pub pid: Option<u32>,
    pub heard: Heard,
    /// It was suspended by a signal.
    pub is_suspended: bool,
}

/// What a run that is over has left.
#[derive(Debug)]
pub enum Left {
    Nothing,
    /// It is half-way; with the command that finishes it, as far as that is known.
    Interrupted(Interrupted, Option<String>),
    /// It finished then, and no server was started in the directory since.
    Finished(SystemTime),
}

/// The names by which a directory's runs can be asked.
#[derive(Debug)]
pub struct Names {
    /// Of the directory; `None` where there is none.
    pub own: Option<Name>,
    /// As of one that is still to be made: a run that makes it began with that.
    pub beforehand: Option<Name>,
    owner: Option<u32>,
    identity: Option<FileIdentity>,
}

/// The names of a directory now.
///
/// # Errors
/// The system's error; also when it is no directory.
pub fn names(pgdata: &Path) -> Result<Names, DiskError> {
    let here = disk::directory(pgdata)?;
    let above = disk::nearest(pgdata)?;
    let beforehand = above.as_ref().map(|(facts, rest)| {
        let rest = rest.as_os_str().as_bytes();
        Name::of_missing(facts.identity, rest)
    });
    Ok(Names {
        own: here.map(|facts| Name::of(facts.identity)),
        beforehand,
        owner: here
            .map(|facts| facts.owner)
            .or_else(|| Some(above?.0.owner)),
        identity: here.map(|facts| facts.identity),
    })
}

/// Asks who works on the directory, and looks what was left there.
///
/// # Errors
/// The directory cannot be read.
pub async fn status(options: &StatusOptions) -> Result<Found, Failure> {
    let found = look(options).await;
    let found = match found {
        // It may be about to listen, or one that only looked for a moment.
        Ok(found) if found.runs.iter().any(|run| run.heard == Heard::Nothing) => {
            tokio::time::sleep(AGAIN_AFTER).await;
            look(options).await
        }
        found => found,
    };
    found.map_err(|error| Failure::untouched(&error))
}

async fn look(options: &StatusOptions) -> Result<Found, DiskError> {
    let pgdata = &options.pgdata;
    let names = names(pgdata)?;
    let mut peers = Vec::new();
    for name in names.own.iter().chain(&names.beforehand) {
        peers.extend(inquiry::ask(name, names.owner, WITHIN).await);
    }
    // One that works on a directory that it has made has both names.
    let mut runs: Vec<At> = Vec::new();
    for Peer { pid, heard } in peers {
        if pid.is_none() || runs.iter().all(|run| run.pid != pid) {
            runs.push(at(pid, heard));
        }
    }
    let mut left = Left::Nothing;
    if let Some(identity) = names.identity {
        if runs.is_empty()
            && let Holder::Process(pid) = locks::holder(pgdata, identity)?
        {
            runs.push(at(pid, Heard::Nothing));
        }
        if runs.is_empty() {
            left = what_is_left(options)?;
        }
    }
    Ok(Found {
        pgdata: pgdata.display().to_string(),
        runs,
        left,
    })
}

fn at(pid: Option<u32>, heard: Heard) -> At {
    At {
        pid,
        is_suspended: heard == Heard::Nothing && pid.is_some_and(locks::is_suspended),
        heard,
    }
}

fn what_is_left(options: &StatusOptions) -> Result<Left, DiskError> {
    let pgdata = &options.pgdata;
    if let Some(run) = target::interrupted(pgdata)? {
        let again = next::again(&options.working_directory, &run);
        return Ok(Left::Interrupted(run, again));
    }
    Ok(target::finished_at(pgdata).map_or(Left::Nothing, Left::Finished))
}
