//! Progress for programs: one JSON object per line. The format is stable and described in
//! pg_reseed-rebuild(1); a change that is more than a new event or a new field needs a new major
//! version.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::errors::quiet_json;
use crate::event::Event;
use crate::ui::figures::Figures;
use crate::ui::status::Standing;
use crate::ui::{Display, Ending, Level, print_line};

/// Distance of the `progress` lines.
const LINE_DISTANCE: Duration = Duration::from_millis(500);

/// What the lines are, and the version of their format: it grows when an event or a field changes its meaning or goes.
const SCHEMA: &str = "pg_reseed.progress";
const VERSION: u32 = 1;

/// Whether all that goes to standard error is JSON, also where no display runs.
static ERRORS_TOO: AtomicBool = AtomicBool::new(false);

/// Says that whoever reads standard error reads JSON: from here on a panic is a line of it, too.
pub fn errors_too() {
    if !ERRORS_TOO.swap(true, Ordering::Relaxed) {
        std::panic::set_hook(Box::new(|panic| {
            print_line(&log_line(
                Level::Error,
                &format!("the program has a fault: {panic}"),
            ));
        }));
    }
}

/// Whether errors are JSON.
#[must_use]
pub fn are_errors_json() -> bool {
    ERRORS_TOO.load(Ordering::Relaxed)
}

/// All that is said of a run that has not begun.
#[must_use]
pub fn never_begun(ending: &Ending) -> String {
    let mut json = Json::begin(Vec::new());
    json.line(&Line::End(ending));
    String::from_utf8_lossy(&json.out).into_owned()
}

/// A line of the log that no display shows any more.
pub(super) fn log_line(level: Level, text: &str) -> String {
    let line = Line::Log {
        level: level.name(),
        text,
    };
    serde_json::to_string(&line).map_or_else(|_| String::new(), |text| quiet_json(&text))
}

/// One line. The tag is the field `event`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    /// The first one.
    Begin {
        schema: &'static str,
        version: u32,
        pg_reseed_version: &'static str,
        pid: u32,
    },
    Stage {
        stage: &'static str,
        seconds: f64,
    },
    Planned {
        files: u64,
        compare_bytes: u64,
        fetch_bytes: u64,
    },
    Progress(&'a Figures),
    RetainedWal {
        bytes: u64,
    },
    MaxRate {
        bytes_per_second: Option<u64>,
    },
    Note {
        text: &'a str,
    },
    Warning {
        code: &'static str,
        text: &'a str,
    },
    Log {
        level: &'static str,
        text: &'a str,
    },
    /// Somebody has asked.
    Status(&'a Standing),
    End(&'a Ending),
}

/// JSON objects on standard error.
pub(super) struct Json<W> {
    out: W,
}

impl<W: Write> Json<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }

    /// Says first what will be said.
    pub(super) fn begin(out: W) -> Self {
        let mut json = Self::new(out);
        json.line(&Line::Begin {
            schema: SCHEMA,
            version: VERSION,
            pg_reseed_version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
        });
        json
    }

    #[cfg(test)]
    pub(super) fn into_inner(self) -> W {
        self.out
    }

    /// Whole lines at once, so that a reader never sees half of one. Standard error may be gone; the
    /// run matters more than its display.
    fn line(&mut self, line: &Line<'_>) {
        if let Ok(text) = serde_json::to_string(line) {
            let text = quiet_json(&text) + "\n";
            let _ = self.out.write_all(text.as_bytes());
            let _ = self.out.flush();
        }
    }
}

impl<W: Write + Send> Display for Json<W> {
    fn interval(&self) -> Duration {
        LINE_DISTANCE
    }

    fn event(&mut self, event: &Event, figures: &Figures) {
        let line = match event {
            Event::Stage(stage) => Line::Stage {
                stage: stage.name(),
                seconds: figures.seconds,
            },
            Event::Planned {
                files,
                compare_bytes,
                fetch_bytes,
            } => Line::Planned {
                files: *files,
                compare_bytes: *compare_bytes,
                fetch_bytes: *fetch_bytes,
            },
            Event::RetainedWal { bytes } => Line::RetainedWal { bytes: *bytes },
            Event::MaxRate(rate) => Line::MaxRate {
                bytes_per_second: *rate,
            },
            Event::Note(text) => Line::Note { text },
            Event::Warning(warning) => Line::Warning {
                code: warning.code.name(),
                text: &warning.message,
            },
            Event::MayAsk(_) => return,
        };
        self.line(&line);
    }

    fn tick(&mut self, figures: &Figures) {
        self.line(&Line::Progress(figures));
    }

    fn status(&mut self, standing: &Standing) {
        self.line(&Line::Status(standing));
    }

    fn log(&mut self, level: Level, text: &str) {
        self.line(&Line::Log {
            level: level.name(),
            text,
        });
    }

    fn end(&mut self, ending: &Ending, figures: &Figures) -> bool {
        self.line(&Line::Progress(figures));
        self.line(&Line::End(ending));
        true
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::ui::tests::run_shown;

    #[test]
    fn the_first_line_says_what_the_others_are() {
        let ending = Ending {
            exit_status: 2,
            outcome: "usage",
            target: "untouched",
            stage: None,
            refusals: vec![],
            errors: vec!["no\u{9b}such \"option\"".to_owned()],
            details: vec![],
            hints: vec!["look".to_owned()],
        };
        let text = never_begun(&ending).replace(&format!("{}}}", std::process::id()), "PID}");
        assert_snapshot!(text, @r#"
        {"event":"begin","schema":"pg_reseed.progress","version":1,"pg_reseed_version":"0.1.0","pid":PID}
        {"event":"end","exit_status":2,"outcome":"usage","target":"untouched","stage":null,"refusals":[],"errors":["no\u009bsuch \"option\""],"details":[],"hints":["look"]}
        "#);
    }

    #[test]
    fn json_is_an_object_per_line() {
        let shown = run_shown(Json::new);
        for line in shown.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["event"].is_string());
        }
        assert_snapshot!(shown, @r#"
        {"event":"stage","stage":"look","seconds":0.0}
        {"event":"note","text":"The target is an old primary."}
        {"event":"planned","files":1,"compare_bytes":1073741824,"fetch_bytes":8192}
        {"event":"stage","stage":"compare","seconds":3.0}
        {"event":"retained_wal","bytes":16777216}
        {"event":"warning","code":"slot-left","text":"The source's disk is slow."}
        {"event":"log","level":"info","text":"a line of the log"}
        {"event":"progress","stage":"compare","seconds":13.0,"files":1,"compare_bytes":1073741824,"fetch_bytes":8192,"compared_bytes":314572800,"fetched_bytes":0,"differing_blocks":1,"moved_blocks":0,"patched_blocks":0,"moved_bytes":8192,"wire_received_bytes":0,"wire_sent_bytes":0,"written_bytes":0,"removed_files":0,"wal_bytes":0,"retained_wal_bytes":16777216,"bytes_per_second":31457280,"seconds_left":25,"max_rate":null}
        {"event":"progress","stage":"compare","seconds":14.0,"files":1,"compare_bytes":1073741824,"fetch_bytes":8192,"compared_bytes":314572800,"fetched_bytes":0,"differing_blocks":1,"moved_blocks":0,"patched_blocks":0,"moved_bytes":8192,"wire_received_bytes":0,"wire_sent_bytes":0,"written_bytes":0,"removed_files":0,"wal_bytes":0,"retained_wal_bytes":16777216,"bytes_per_second":28597527,"seconds_left":27,"max_rate":null}
        {"event":"end","exit_status":3,"outcome":"refused","target":"untouched","stage":"compare","refusals":["server-running"],"errors":["a \"quoted\" reason"],"details":[],"hints":[]}
        "#);
    }
}
