//! The result of a run for programs: the report, a file that is whole or not there.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::client::outcome::Outcome;
use crate::errors::quiet_json;
use crate::ui::Ending;

/// The version of the report's format: it grows when a field changes its meaning or goes, not when one is added.
pub const VERSION: u32 = 1;

/// The report of a run, whatever its end. Field names are stable.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    pub report_version: u32,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub finished_at: String,
    #[serde(flatten)]
    pub ending: &'a Ending,
    #[serde(flatten)]
    pub outcome: &'a Outcome,
}

impl Report<'_> {
    /// As JSON, with the end of the line.
    ///
    /// # Errors
    /// What cannot be JSON.
    pub fn text(&self) -> io::Result<Vec<u8>> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        Ok((quiet_json(&text) + "\n").into_bytes())
    }
}

/// Looks whether a file can be written beside `path` and take its place. Leaves nothing.
///
/// # Errors
/// Why not.
pub fn check(path: &Path) -> io::Result<()> {
    if is_special(path) {
        return Ok(());
    }
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let beside = beside(path);
    new_file(&beside)?;
    fs::remove_file(&beside)
}

/// Writes a file: whole or not at all, unless it is a pipe or a device.
///
/// # Errors
/// When a file cannot be written or renamed.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_for(path, bytes, None)
}

/// As [`write`](fn@write), with these permission bits whatever the umask is.
///
/// # Errors
/// As [`write`](fn@write).
pub fn write_for(path: &Path, bytes: &[u8], mode: Option<u32>) -> io::Result<()> {
    if is_special(path) {
        return File::options().write(true).open(path)?.write_all(bytes);
    }
    let beside = beside(path);
    let written = write_and_rename(&beside, path, bytes, mode);
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Whether it is a pipe, a terminal or another device: nothing that a file could take the place of.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

fn write_and_rename(beside: &Path, path: &Path, bytes: &[u8], mode: Option<u32>) -> io::Result<()> {
    let mut file = new_file(beside)?;
    if let Some(mode) = mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, path)
}

fn new_file(path: &Path) -> io::Result<File> {
    // In a directory that others may write to, what has this name already may be a link of theirs.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::create_new(path)
}

/// A name of its own in the same directory, since a rename does not cross file systems.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::event::Stage;

    #[test]
    fn a_report_replaces_the_one_before_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        check(&path).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        write(&path, b"old").unwrap();
        check(&path).unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_report_that_cannot_be_written_is_found_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing").join("report.json");
        assert!(check(&missing).is_err() && write(&missing, b"x").is_err());
        // A directory stands where the report shall go: the rename fails.
        let occupied = directory.path().join("occupied");
        fs::create_dir_all(occupied.join("child")).unwrap();
        assert!(check(&occupied).is_err() && write(&occupied, b"x").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_device_is_written_to_and_stays() {
        let device = Path::new("/dev/null");
        check(device).unwrap();
        write(device, b"x").unwrap();
        assert!(is_special(device));
    }

    #[test]
    fn a_failure_has_every_field_that_a_success_has() {
        let fields = |ending: &Ending, outcome: &Outcome| {
            let report = Report {
                report_version: VERSION,
                started_at: "2026-11-29T08:29:27Z".to_owned(),
                finished_at: "2026-11-29T08:30:12Z".to_owned(),
                ending,
                outcome,
            };
            let text = report.text().unwrap();
            let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let fields = value.as_object().unwrap().keys().cloned();
            fields.collect::<Vec<_>>()
        };
        let mut ending = Ending {
            exit_status: 3,
            outcome: "refused",
            target: "untouched",
            stage: Some(Stage::Judge),
            refusals: vec!["server-running"],
            errors: vec!["no".to_owned()],
            details: vec![],
            hints: vec![],
        };
        let failed = fields(&ending, &Outcome::default());
        ending.exit_status = 0;
        let done = fields(&ending, &crate::ui::report::tests::rebuilt());
        assert_eq!(failed, done);
        assert_snapshot!(done.join("\n"), @"
        block_bytes
        command
        compare_bytes
        compared_bytes
        copy
        damaged
        details
        differing_blocks
        divergence
        errors
        exit_status
        fetch_bytes
        fetched_bytes
        files
        finished_at
        full_copy_bytes
        hints
        job
        kept
        kept_wal
        left_bytes
        lost_streams
        mode
        moved_blocks
        moved_bytes
        needed
        next_steps
        outcome
        patched_blocks
        pg_reseed_version
        pgdata
        refusals
        relation
        removed
        removed_files
        removed_slots
        removed_tablespaces
        replaced
        report_version
        role
        seconds
        server_to_stop
        server_version
        slot
        slot_made
        source_data_directory
        source_host
        stage
        stages
        start_lsn
        started_at
        stop_lsn
        streaming
        streams
        system_identifier
        taken_over
        target
        target_host
        timeline
        unarchived
        unshared_files
        wal_bytes
        warnings
        wire_received_bytes
        wire_sent_bytes
        written_bytes
        ");
    }
}
