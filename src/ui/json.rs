//! Progress for programs: one JSON object per line. The format is stable and described in
//! pg_reseed-rebuild(1); a change that is more than a new event or a new field needs a new major
//! version.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use crate::event::Event;
use crate::ui::figures::Figures;
use crate::ui::{Display, Ending, Level};

/// Distance of the `progress` lines.
const LINE_DISTANCE: Duration = Duration::from_millis(500);

/// One line. The tag is the field `event`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
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
    Note {
        text: &'a str,
    },
    Warning {
        text: &'a str,
    },
    Log {
        level: &'static str,
        text: &'a str,
    },
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

    #[cfg(test)]
    pub(super) fn into_inner(self) -> W {
        self.out
    }

    /// Whole lines at once, so that a reader never sees half of one. Standard error may be gone; the
    /// run matters more than its display.
    fn line(&mut self, line: &Line<'_>) {
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            let _ = self.out.write_all(&text);
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
            Event::Note(text) => Line::Note { text },
            Event::Warning(text) => Line::Warning { text },
        };
        self.line(&line);
    }

    fn tick(&mut self, figures: &Figures) {
        self.line(&Line::Progress(figures));
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
    fn json_is_an_object_per_line() {
        let shown = run_shown(Json::new);
        for line in shown.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["event"].is_string());
        }
        assert_snapshot!(shown, @"");
    }
}
