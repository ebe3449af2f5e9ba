//! Figures of a run for the textfile collector of Prometheus' `node_exporter`.
//!
//! Names, types and labels are stable. The label of the job is not called `job`, since Prometheus has one of that name
//! and would rename ours. Each series has the labels of the job and the directory, so that the files of several jobs do
//! not contradict each other, and each text of HELP is the same in all of them.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::client::outcome::{Outcome, StageTime};
use crate::event::Stage;
use crate::ui::{Ending, file};

/// Longest file of before that is read.
const BYTES_MAX: u64 = 1024 * 1024;

/// `node_exporter` runs as a user of its own.
const MODE: u32 = 0o644;

const LAST_SUCCESS: &str = "pg_reseed_last_success_timestamp_seconds";

/// A run that has ended.
#[derive(Debug)]
pub struct Run<'a> {
    pub started: SystemTime,
    pub finished: SystemTime,
    pub ending: &'a Ending,
    pub outcome: &'a Outcome,
}

impl Run<'_> {
    /// Writes the file. What it said of the last success stays there unless this run is one.
    ///
    /// # Errors
    /// When a file cannot be written or renamed. One that cannot be read is none.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let before = match fs::metadata(path) {
            Ok(found) if found.is_file() && found.len() <= BYTES_MAX => {
                fs::read_to_string(path).unwrap_or_default()
            }
            _ => String::new(),
        };
        file::write_for(path, self.text(&before).as_bytes(), Some(MODE))
    }

    /// The text, after one that may have been there before.
    #[must_use]
    pub fn text(&self, before: &str) -> String {
        let Self {
            started,
            finished,
            ending,
            outcome,
        } = self;
        let labels = self.labels();
        let mut text = String::new();
        let mut put = |name: &str, help: &str, samples: &[(String, String)]| {
            if !samples.is_empty() {
                let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            }
            for (more, value) in samples {
                let _ = writeln!(text, "{name}{{{labels}{more}}} {value}");
            }
        };
        let one = |value: String| vec![(String::new(), value)];
        let count = |value: u64| one(value.to_string());
        let some = |value: Option<u64>| value.map_or_else(Vec::new, count);
        let last_success = if ending.exit_status == 0 {
            Some(unix(*finished))
        } else {
            last_success(before, &labels)
        };
        put(
            LAST_SUCCESS,
            "When a run last ended with exit status 0.",
            &last_success.map_or_else(Vec::new, one),
        );
        for (name, help, time) in [
            (
                "pg_reseed_last_run_start_timestamp_seconds",
                "When the last run began.",
                started,
            ),
            (
                "pg_reseed_last_run_timestamp_seconds",
                "When the last run ended.",
                finished,
            ),
        ] {
            put(name, help, &one(unix(*time)));
        }
        put(
            "pg_reseed_last_run_exit_status",
            "Exit status of the last run.",
            &count(u64::from(ending.exit_status)),
        );
        put(
            "pg_reseed_last_run_needed",
            "Whether the last run found that a rebuild was needed; absent without --if-needed.",
            &some(outcome.needed.map(u64::from)),
        );
        put(
            "pg_reseed_last_run_duration_seconds",
            "Duration of the last run.",
            &one(seconds(outcome.seconds)),
        );
        put(
            "pg_reseed_last_run_stage_duration_seconds",
            "Duration of the last run by stage.",
            &stages(&outcome.stages),
        );
        let block_bytes = outcome.block_bytes.map(u64::from);
        for (name, help, value) in [
            (
                "pg_reseed_last_run_compared_bytes",
                "Bytes of the target that the last run compared with the source's.",
                Some(outcome.compared_bytes),
            ),
            (
                "pg_reseed_last_run_differing_bytes",
                "Bytes in blocks that the last run found to differ.",
                match outcome.differing_blocks {
                    0 => Some(0),
                    blocks => block_bytes.map(|bytes| blocks.saturating_mul(bytes)),
                },
            ),
            (
                "pg_reseed_last_run_moved_bytes",
                "Bytes of files that the source sent in the last run, before compression.",
                Some(outcome.moved_bytes),
            ),
            (
                "pg_reseed_last_run_received_bytes",
                "Bytes that came from the agent in the last run, as they came over the link.",
                Some(outcome.wire_received_bytes),
            ),
            (
                "pg_reseed_last_run_damaged_pages",
                "Pages with a wrong checksum on the source that the last run found.",
                u64::try_from(outcome.damaged.len()).ok(),
            ),
            (
                "pg_reseed_last_run_lost_wal_bytes",
                "WAL of the target that the source does not have, from where their histories parted to the target's \
                 end, as the last run found it; absent when it came to no relation.",
                match (&outcome.divergence, &outcome.relation, outcome.needed) {
                    (Some(divergence), ..) => Some(divergence.lost_bytes),
                    (None, Some(_), _) | (None, None, Some(false)) => Some(0),
                    (None, None, _) => None,
                },
            ),
        ] {
            put(name, help, &some(value));
        }
        text
    }

    fn labels(&self) -> String {
        let job = self.outcome.job.as_deref().unwrap_or_default();
        let pgdata = escaped(&self.outcome.pgdata);
        format!("reseed_job=\"{}\",pgdata=\"{pgdata}\"", escaped(job))
    }
}

/// A label's value, as the format has it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn unix(time: SystemTime) -> String {
    seconds(
        time.duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64(),
    )
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.3}")
}

/// The time in each stage; one that was gone through twice is one.
fn stages(times: &[StageTime]) -> Vec<(String, String)> {
    let mut sums: Vec<(Stage, f64)> = Vec::new();
    for time in times {
        match sums.iter_mut().find(|(stage, _)| *stage == time.name) {
            Some((_, sum)) => *sum += time.seconds,
            None => sums.push((time.name, time.seconds)),
        }
    }
    sums.iter()
        .map(|(stage, sum)| (format!(",stage=\"{}\"", stage.name()), seconds(*sum)))
        .collect()
}

/// The time of the last success that a file of the same job and directory has.
fn last_success(before: &str, labels: &str) -> Option<String> {
    let begin = format!("{LAST_SUCCESS}{{{labels}}} ");
    let value = before.lines().find_map(|line| line.strip_prefix(&begin))?;
    // Whatever else stands there would spoil the whole file.
    let number = value.trim().parse::<f64>().ok()?;
    number.is_finite().then(|| seconds(number))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use insta::assert_snapshot;

    use super::*;
    use crate::ui::report;

    /// A strict reading of the text format (Prometheus, "Text-based format"): each metric's HELP and TYPE once and
    /// before its samples, samples of one metric together, no series twice, names and label names of the allowed
    /// letters, values that are numbers, a line feed at the end.
    fn parsed(text: &str) -> BTreeMap<String, f64> {
        assert!(text.ends_with('\n') && !text.contains("\n\n"));
        let is_name = |name: &str| {
            name.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_')
                && name
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        };
        let mut found = BTreeMap::new();
        let mut seen = Vec::new();
        let mut current = String::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(is_name(name) && help.ends_with('.'), "{line}");
                assert!(!seen.contains(&name), "{name} twice");
                seen.push(name);
                current = name.to_owned();
                assert_eq!(lines.next().unwrap(), format!("# TYPE {name} gauge"));
                assert!(lines.peek().unwrap().starts_with(name));
                // Base units stand at the end of the name.
                let unit = ["_seconds", "_bytes", "_status", "_needed", "_pages"];
                assert!(unit.iter().any(|unit| name.ends_with(unit)), "{name}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap();
            assert_eq!(name, current);
            let mut rest = labels;
            while rest != "}" {
                let (label, behind) = rest.split_once("=\"").unwrap();
                assert!(is_name(label) && label != "job", "{line}");
                let mut is_escaped = false;
                let end = behind.find(|letter| {
                    let ends = letter == '"' && !is_escaped;
                    is_escaped = letter == '\\' && !is_escaped;
                    ends
                });
                let behind = &behind[end.unwrap() + 1..];
                rest = behind.strip_prefix(',').unwrap_or(behind);
            }
            let value: f64 = value.parse().unwrap();
            assert!(
                found.insert(series.to_owned(), value).is_none(),
                "{series} twice"
            );
        }
        found
    }

    fn ending(exit_status: u8) -> Ending {
        Ending {
            exit_status,
            outcome: "done",
            target: "standby",
            stage: None,
            refusals: vec![],
            errors: vec![],
            details: vec![],
            hints: vec![],
        }
    }

    fn text(exit_status: u8, at: u64, outcome: &Outcome, before: &str) -> String {
        let finished = UNIX_EPOCH + Duration::from_secs(at);
        let run = Run {
            started: finished - Duration::from_secs(60),
            finished,
            ending: &ending(exit_status),
            outcome,
        };
        run.text(before)
    }

    fn rebuilt() -> Outcome {
        Outcome {
            job: Some("nightly".to_owned()),
            block_bytes: Some(8192),
            ..report::tests::rebuilt()
        }
    }

    const SUCCESS: &str = "pg_reseed_last_success_timestamp_seconds{reseed_job=\"nightly\"";

    fn success(text: &str) -> Option<f64> {
        let all = parsed(text);
        let found = all.iter().find(|(series, _)| series.starts_with(SUCCESS));
        found.map(|(_, value)| *value)
    }

    #[test]
    fn a_success_says_all() {
        let text = text(0, 1_796_000_000, &rebuilt(), "");
        assert!(parsed(&text).len() > 11);
        assert_snapshot!(text);
    }

    #[test]
    fn the_last_success_stays_when_a_run_fails() {
        let first = text(0, 1_796_000_000, &rebuilt(), "");
        let failed = text(1, 1_796_086_400, &rebuilt(), &first);
        assert_eq!(success(&failed), Some(1_796_000_000.0));
        let again = text(
            4,
            1_796_172_800,
            &Outcome {
                divergence: None,
                ..rebuilt()
            },
            &failed,
        );
        assert_eq!(success(&again), Some(1_796_000_000.0));
        let damaged = text(5, 1_796_172_800, &rebuilt(), &again);
        assert_eq!(success(&damaged), Some(1_796_000_000.0));
        let well = text(0, 1_796_259_200, &rebuilt(), &damaged);
        assert_eq!(success(&well), Some(1_796_259_200.0));
        // Of another job, or what a hand has spoilt, nothing is kept.
        let other = Outcome {
            job: None,
            ..rebuilt()
        };
        assert_eq!(
            success(&text(1, 1_796_259_200, &rebuilt(), &text(0, 1, &other, ""))),
            None
        );
        let spoilt = first.replace("1796000000.000", "yesterday");
        assert_eq!(success(&text(1, 1_796_259_200, &rebuilt(), &spoilt)), None);
    }

    #[test]
    fn a_run_that_came_nowhere_says_what_is_known() {
        let nothing = Outcome {
            pgdata: "/srv/\"a\\b\"\n".to_owned(),
            ..Outcome::default()
        };
        let text = text(3, 1_796_000_000, &nothing, "");
        assert_snapshot!(text);
        parsed(&text);
    }

    #[test]
    fn needed_is_told_where_it_was_asked() {
        let with = |needed| Outcome {
            needed,
            ..Outcome::default()
        };
        let said = |needed| {
            let all = parsed(&text(0, 1, &with(needed), ""));
            let found = all.iter().find(|(series, _)| series.contains("_needed"));
            found.map(|(_, value)| *value)
        };
        assert_eq!(
            [None, Some(false), Some(true)].map(said),
            [None, Some(0.0), Some(1.0)]
        );
    }

    #[test]
    fn everybody_may_read_the_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pg_reseed.prom");
        let outcome = rebuilt();
        let run = |exit_status: u8, at| {
            let finished = UNIX_EPOCH + Duration::from_secs(at);
            let ending = ending(exit_status);
            let run = Run {
                started: finished,
                finished,
                ending: &ending,
                outcome: &outcome,
            };
            run.write(&path).unwrap();
            fs::read_to_string(&path).unwrap()
        };
        run(0, 100);
        assert_eq!(success(&run(1, 200)), Some(100.0));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o644
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
