//! Closing a target: order is everything.
//!
//! First what must show before anything is lost: that nobody else is in the directory, that it is what was
//! judged, that every place can be made. Then the copy of the control file, the line in
//! postgresql.auto.conf that makes a server refuse with the name of the remedy, the marker, and then the
//! control file goes: a marker is never in a directory that starts as what it was.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::DiskError;
use super::access;
use super::durable;
use super::facts;
use super::root::Roots;
use super::walk;
use crate::path::RelPath;
use crate::pg::control::ControlFile;
use crate::pg::layout;
use crate::plan::tablespaces::Placement;

/// What closing needs to know.
#[derive(Debug)]
pub struct ClosePlan<'a> {
    /// Content of the marker.
    pub marker: &'a [u8],
    /// The text of postgresql.auto.conf while the rebuild is unfinished.
    pub closed_auto_conf: &'a [u8],
    /// What the data directory's permission bits become, where a server would refuse them as they are.
    pub data_directory_mode: Option<u32>,
    /// Files and directories whose owner, this user, its permission bits keep out.
    pub mend: &'a [RelPath],
    /// New directories get 0750 instead of 0700, new files 0640 instead of 0600.
    pub group_access: bool,
    /// Where pg_wal of a target without one shall be.
    pub waldir: Option<&'a Path>,
    pub placements: &'a [Placement],
    /// Directories that every data directory has.
    pub required_directories: &'a [&'a str],
    /// What the guards have seen there.
    pub expected: Expected<'a>,
    /// Content of the postmaster.pid that the guards found to be stale; empty when there was none.
    pub stale_pid_file: &'a [u8],
    pub sync: bool,
}

/// What the guards have seen in the target, to be seen again before it is closed.
#[derive(Debug, Clone, Copy)]
pub enum Expected<'a> {
    /// Nothing, or what an interrupted run has left: only our own files, or no control file.
    Empty,
    Interrupted,
    /// A cluster with this control file.
    Cluster(&'a ControlFile),
    /// A data directory whose control file is missing or cannot be read.
    Unknown,
}

impl Expected<'_> {
    fn is_there(self, pgdata: &Path) -> bool {
        let control = std::fs::read(pgdata.join("global/pg_control"));
        let is_missing =
            matches!(&control, Err(error) if error.kind() == std::io::ErrorKind::NotFound);
        match self {
            // Our own pid file is there by now.
            Expected::Empty => walk::first_of_content(pgdata).is_ok_and(|found| found.is_none()),
            // One that is still there belongs to a run that was killed while it closed the target.
            Expected::Interrupted => is_missing || pgdata.join(layout::MARKER).exists(),
            Expected::Unknown => match control {
                Ok(bytes) => ControlFile::decode(&bytes).is_err(),
                Err(_) => is_missing,
            },
            Expected::Cluster(judged) => control
                .ok()
                .and_then(|bytes| ControlFile::decode(&bytes).ok())
                .is_some_and(|now| now.is_still(judged)),
        }
    }
}

/// Closing did not work.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// Nothing that matters was written: the target starts as before.
    #[error("{0}")]
    Untouched(#[source] DiskError),
    /// A server was started in the target since it was looked at; nothing was written.
    #[error("a server was just started in the target: \"{0}\" exists")]
    Started(PathBuf),
    /// Somebody worked in the target since it was looked at; nothing was written.
    #[error("the target was changed since it was checked")]
    Changed,
    /// The target cannot start.
    #[error("{0}")]
    HalfWay(#[source] DiskError),
}

/// Closes the target: the point of no return.
pub(super) fn close(
    pgdata: &Path,
    plan: &ClosePlan<'_>,
    directory_mode: u32,
    file_mode: u32,
) -> Result<(), CloseError> {
    let is_empty = matches!(plan.expected, Expected::Empty);
    // No server can start in an empty directory.
    let pid_file = if is_empty {
        None
    } else {
        let is_closed = matches!(plan.expected, Expected::Interrupted);
        Some(PidFileLock::take(pgdata, plan.stale_pid_file, is_closed)?)
    };
    if !plan.expected.is_there(pgdata) {
        return Err(CloseError::Changed);
    }
    // What the owner can mend must be mended before anything is lost: that it cannot shows now.
    mend(pgdata, plan).map_err(CloseError::Untouched)?;
    if is_empty {
        // The first of all files, so that the same command knows what it finds.
        durable::replace(&pgdata.join(layout::MARKER), plan.marker, file_mode)
            .map_err(CloseError::Untouched)?;
    }
    // New empty directories do no harm; what cannot be made must show before anything is lost.
    make_places(pgdata, plan, directory_mode).map_err(CloseError::Untouched)?;
    lock_out(pgdata, plan, file_mode)?;
    drop(pid_file);
    relink(pgdata, plan, directory_mode).map_err(CloseError::HalfWay)
}

/// Lets the owner, and the server, work where permission bits keep them out.
fn mend(pgdata: &Path, plan: &ClosePlan<'_>) -> Result<(), DiskError> {
    if let Some(mode) = plan.data_directory_mode {
        change_mode(pgdata, mode)?;
    }
    if plan.mend.is_empty() {
        return Ok(());
    }
    let located: Vec<(u32, PathBuf)> = plan
        .placements
        .iter()
        .filter_map(|placement| Some((placement.oid, placement.location_path()?)))
        .collect();
    let located = located.iter().map(|(oid, path)| (*oid, path.as_path()));
    let roots = Roots::open(pgdata, located)?;
    plan.mend
        .iter()
        .try_for_each(|path| access::open_to_owner(&roots, path))
}

/// Makes every server refuse to start.
fn lock_out(pgdata: &Path, plan: &ClosePlan<'_>, file_mode: u32) -> Result<(), CloseError> {
    let control = pgdata.join("global/pg_control");
    let saved = pgdata.join(layout::SAVED_CONTROL);
    match std::fs::read(&control) {
        Ok(bytes) => {
            durable::replace(&saved, &bytes, file_mode).map_err(CloseError::Untouched)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(CloseError::Untouched(DiskError::new(
                "read", &control, error,
            )));
        }
    }
    let auto_conf = pgdata.join("postgresql.auto.conf");
    durable::replace(&auto_conf, plan.closed_auto_conf, file_mode).map_err(|error| {
        // It may have failed when the new text was there already.
        match std::fs::read(&auto_conf) {
            Ok(text) if text != plan.closed_auto_conf => CloseError::Untouched(error),
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {
                CloseError::Untouched(error)
            }
            _ => CloseError::HalfWay(error),
        }
    })?;
    durable::replace(&pgdata.join(layout::MARKER), plan.marker, file_mode)
        .map_err(CloseError::HalfWay)?;
    // A missing directory means a missing control file.
    match durable::remove(&control) {
        Err(error) if !error.is_missing() => Err(CloseError::HalfWay(error)),
        _ => Ok(()),
    }
}

/// Makes the directories that files will go to.
fn make_places(pgdata: &Path, plan: &ClosePlan<'_>, directory_mode: u32) -> Result<(), DiskError> {
    let wal = pgdata.join("pg_wal");
    if let (Some(waldir), None) = (plan.waldir, facts::link(&wal))
        && !wal.exists()
    {
        make_directories(waldir, directory_mode)?;
        if let Some(found) = walk::list(waldir)?.first() {
            let example = found.file_name().display();
            let problem = std::io::Error::other(format!("it holds \"{example}\""));
            return Err(DiskError::new("use as WAL directory", waldir, problem));
        }
        std::os::unix::fs::symlink(waldir, &wal)
            .map_err(|error| DiskError::new("create link", &wal, error))?;
    }
    for name in plan.required_directories {
        make_directories(&pgdata.join(name), directory_mode)?;
    }
    for placement in plan.placements {
        if let Some(location) = placement.location_path() {
            make_directories(&location, directory_mode)?;
        }
    }
    Ok(())
}

/// Makes the links of tablespaces lead where they shall.
fn relink(pgdata: &Path, plan: &ClosePlan<'_>, directory_mode: u32) -> Result<(), DiskError> {
    for placement in plan.placements {
        let link = pgdata.join("pg_tblspc").join(placement.oid.to_string());
        if placement.relink {
            match std::fs::symlink_metadata(&link) {
                Ok(found) if found.is_dir() => std::fs::remove_dir_all(&link)
                    .map_err(|error| DiskError::new("remove", &link, error))?,
                Ok(_) => std::fs::remove_file(&link)
                    .map_err(|error| DiskError::new("remove", &link, error))?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(DiskError::new("stat", &link, error)),
            }
        }
        match placement.location_path() {
            // The link first: an interrupted run must find its own directory again.
            Some(location) if placement.relink => std::os::unix::fs::symlink(&location, &link)
                .map_err(|error| DiskError::new("create link", &link, error))?,
            Some(_) => {}
            None => make_directories(&link, directory_mode)?,
        }
    }
    // Without its link, after a loss of power, what lies there by then would be somebody's.
    if plan.placements.iter().any(|placement| placement.relink) {
        durable::sync_directory(&pgdata.join("pg_tblspc"))?;
    }
    Ok(())
}

/// The line of our own postmaster.pid that no server writes: there a server tells when it started.
const OUR_PID_FILE: &str = "pg_reseed";

/// Whether a postmaster.pid was written by a run of pg_reseed and by no server.
#[must_use]
pub fn is_our_pid_file(text: &[u8]) -> bool {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    matches!(lines[..], [_, _, third, b""] if third == OUR_PID_FILE.as_bytes())
}

/// postmaster.pid, taken the way a server takes it: whoever makes it first has the directory. Held only
/// while the control file goes, after which no server gets as far.
struct PidFileLock(PathBuf);

impl PidFileLock {
    /// Takes it. A server removes a stale one too; `stale` is what the guards have found to be one. Any other
    /// content is a server that just started, and so is none at all, unless no server can start since `is_closed`.
    fn take(pgdata: &Path, stale: &[u8], is_closed: bool) -> Result<Self, CloseError> {
        let path = pgdata.join("postmaster.pid");
        let text = format!(
            "{}\n{}\n{OUR_PID_FILE}\n",
            std::process::id(),
            pgdata.display()
        );
        let make = || durable::make_new(&path, text.as_bytes(), 0o600);
        let made = match make() {
            Ok(false) => {
                let found = std::fs::read(&path).unwrap_or_default();
                if found != stale || found.is_empty() && !is_closed {
                    return Err(CloseError::Started(path));
                }
                std::fs::remove_file(&path).map_err(|error| {
                    CloseError::Untouched(DiskError::new("remove", &path, error))
                })?;
                make()
            }
            made => made,
        };
        match made {
            Ok(true) => Ok(Self(path)),
            Ok(false) => Err(CloseError::Started(path)),
            Err(error) => Err(CloseError::Untouched(error)),
        }
    }
}

impl Drop for PidFileLock {
    fn drop(&mut self) {
        // It must not come back after a loss of power. Left behind, it is a stale one, which the next server and the
        // next run remove.
        if let Err(error) = durable::remove(&self.0) {
            tracing::warn!("{error}: {}", error.source);
        }
    }
}

/// Makes the data directory of a seed, or gives one that is there the permission bits that a server wants.
///
/// # Errors
/// The system's error.
pub fn make_data_directory(path: &Path, mode: u32) -> Result<(), DiskError> {
    make_directories(path, mode)?;
    change_mode(path, mode)
}

fn change_mode(path: &Path, mode: u32) -> Result<(), DiskError> {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
        .map_err(|error| DiskError::new("change the permissions of", path, error))
}

/// Makes a directory and those above it, if they are not there.
///
/// # Errors
/// The system's error.
fn make_directories(path: &Path, mode: u32) -> Result<(), DiskError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| DiskError::making(path, error))
}
