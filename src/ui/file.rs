//! The result of a run for programs: the report, a file that is whole or not there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::ui::Ending;

/// The report of a run that did not come to an outcome. Field names are stable.
#[derive(Debug, Serialize)]
pub struct FailureReport<'a> {
    #[serde(flatten)]
    pub ending: &'a Ending,
    pub pg_reseed_version: &'static str,
    pub pgdata: String,
    pub seconds: f64,
}

/// Writes a report as JSON: whole or not at all.
///
/// # Errors
/// When a file cannot be written or renamed.
pub fn write(path: &Path, report: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(report).map_err(io::Error::other)?;
    bytes.push(b'\n');
    let beside = beside(path);
    let written = write_and_rename(&beside, path, &bytes);
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write_and_rename(beside: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    // In a directory that others may write to, what has this name already may be a link of theirs.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, path)
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

    #[test]
    fn a_report_replaces_the_one_before_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        write(&path, &"old").unwrap();
        write(&path, &serde_json::json!({"mode": "rebuild"})).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["mode"], "rebuild");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_report_that_cannot_be_written_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing").join("report.json");
        assert!(write(&missing, &1).is_err());
        // A directory stands where the report shall go: the rename fails.
        let occupied = directory.path().join("occupied");
        fs::create_dir_all(occupied.join("child")).unwrap();
        assert!(write(&occupied, &1).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_is_reported_flat() {
        let ending = Ending {
            exit_status: 3,
            outcome: "refused",
            target: "untouched",
            errors: vec!["no".to_owned()],
            details: vec![],
            hints: vec![],
        };
        let report = FailureReport {
            ending: &ending,
            pg_reseed_version: "0.1.0",
            pgdata: "/srv/pg/15".to_owned(),
            seconds: 0.5,
        };
        assert_snapshot!(serde_json::to_string(&report).unwrap(), @r#"{"exit_status":3,"outcome":"refused","target":"untouched","errors":["no"],"details":[],"hints":[],"pg_reseed_version":"0.1.0","pgdata":"/srv/pg/15","seconds":0.5}"#);
    }
}
