//! Progress as lines: one per stage and one every ten seconds of work. For logs and cron; in those each line begins
//! with the time.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use crate::errors::one_line;
use crate::event::{Event, Stage};
use crate::ui::figures::Figures;
use crate::ui::status::Standing;
use crate::ui::{Before, Display, Level, clock, words};

/// Distance of the progress lines.
const LINE_DISTANCE: Duration = Duration::from_secs(10);

/// Lines on standard error. With `is_silent`, warnings and the log only.
pub(super) struct Plain<W> {
    out: W,
    is_silent: bool,
    before: Before,
}

impl<W: Write> Plain<W> {
    pub(super) fn new(out: W, is_silent: bool, before: Before) -> Self {
        Self {
            out,
            is_silent,
            before,
        }
    }

    #[cfg(test)]
    pub(super) fn into_inner(self) -> W {
        self.out
    }

    /// Standard error may be gone; the run matters more than its display.
    fn line(&mut self, level: Level, text: &str) {
        let _ = match self.before {
            Before::Priority => writeln!(self.out, "{}{text}", level.priority()),
            before => writeln!(self.out, "{}{text}", clock::before(before == Before::Time)),
        };
        let _ = self.out.flush();
    }
}

impl<W: Write + Send> Display for Plain<W> {
    fn interval(&self) -> Duration {
        LINE_DISTANCE
    }

    fn event(&mut self, event: &Event, figures: &Figures) {
        if let Some(text) = notice(event) {
            let is_warning = matches!(event, Event::Warning(_));
            if !self.is_silent || is_warning {
                let level = if is_warning { Level::Warn } else { Level::Info };
                self.line(level, &text);
            }
        } else if !self.is_silent
            && let Some(text) = step(event, figures)
        {
            let clock = words::clock(Duration::from_secs_f64(figures.seconds));
            self.line(Level::Info, &format!("pg_reseed: {clock} {text}"));
        }
    }

    fn tick(&mut self, figures: &Figures) {
        if !self.is_silent && figures.stage == Some(Stage::Compare) {
            let clock = words::clock(Duration::from_secs_f64(figures.seconds));
            self.line(
                Level::Info,
                &format!("pg_reseed: {clock} {}", progress(figures)),
            );
        }
    }

    fn status(&mut self, standing: &Standing) {
        for line in standing.lines() {
            self.line(Level::Info, &line);
        }
    }

    fn log(&mut self, level: Level, text: &str) {
        // It has a time of its own, but in the journal.
        let priority = match self.before {
            Before::Priority => level.priority(),
            _ => "",
        };
        let _ = writeln!(self.out, "{priority}{text}");
        let _ = self.out.flush();
    }
}

/// A warning or a note as a line.
pub(super) fn notice(event: &Event) -> Option<String> {
    match event {
        Event::Warning(warning) => Some(format!(
            "pg_reseed: warning: {}",
            one_line(&warning.message)
        )),
        Event::Note(text) => Some(format!("pg_reseed: note: {}", one_line(text))),
        _ => None,
    }
}

/// A step of the run in words; nothing for an event that only changes figures.
fn step(event: &Event, figures: &Figures) -> Option<String> {
    match event {
        Event::Stage(stage) => Some(words::stage(*stage).to_owned()),
        Event::Planned { .. } => Some(planned(figures)),
        Event::MayAsk(_)
        | Event::MaxRate(_)
        | Event::RetainedWal { .. }
        | Event::Warning(_)
        | Event::Note(_) => None,
    }
}

/// What there is to do.
pub(super) fn planned(figures: &Figures) -> String {
    let files = words::counted(figures.files, "file", "files");
    format!(
        "{files}: {} to compare, {} to fetch",
        words::size(figures.compare_bytes),
        words::size(figures.fetch_bytes)
    )
}

/// How far the comparison is, in one line.
pub(super) fn progress(figures: &Figures) -> String {
    let mut text = format!("{}, {}", done(figures), moved(figures));
    if let Some(speed) = speed(figures) {
        text.push_str(", ");
        text.push_str(&speed);
    }
    text
}

/// What of the plan is done.
pub(super) fn done(figures: &Figures) -> String {
    format!(
        "{} of {} ({})",
        words::size(figures.done_bytes()),
        words::size(figures.planned_bytes()),
        words::percent(figures.done_bytes(), figures.planned_bytes())
    )
}

/// What differed and what came over.
pub(super) fn moved(figures: &Figures) -> String {
    let mut text = format!(
        "{}, {} moved, {} over the wire",
        words::counted(figures.differing_blocks, "block differs", "blocks differ"),
        words::size(figures.moved_bytes),
        words::size(
            figures
                .wire_received_bytes
                .saturating_add(figures.wire_sent_bytes)
        )
    );
    if figures.retained_wal_bytes > 0 {
        text.push_str(", source keeps ");
        text.push_str(&words::size(figures.retained_wal_bytes));
        text.push_str(" of WAL");
    }
    text
}

/// How fast, and how long still, once it is known.
pub(super) fn speed(figures: &Figures) -> Option<String> {
    let mut text = format!("{}/s", words::size(figures.bytes_per_second?));
    if let Some(most) = figures.max_rate {
        let _ = write!(text, " of {}/s at most", words::size(most));
    }
    if let Some(seconds) = figures.seconds_left {
        let left = words::clock(Duration::from_secs(seconds));
        let _ = write!(text, ", {left} left");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::ui::tests::run_shown;

    #[test]
    fn plain_is_a_line_per_step() {
        let shown = run_shown(|out| Plain::new(out, false, Before::Nothing));
        assert_snapshot!(shown, @r"
        pg_reseed: 0:00:00 looking at both sides
        pg_reseed: note: The target is an old primary.
        pg_reseed: 0:00:02 1 file: 1.00 GB to compare, 8.00 kB to fetch
        pg_reseed: 0:00:03 comparing and moving what differs
        pg_reseed: warning: The source's disk is slow.
        a line of the log
        pg_reseed: 0:00:13 300 MB of 1.00 GB (29 %), 1 block differs, 8.00 kB moved, 0 B over the wire, source keeps 16.0 MB of WAL, 30.0 MB/s, 0:00:25 left
        ");
    }

    #[test]
    fn silent_is_warnings_and_log_only() {
        let shown = run_shown(|out| Plain::new(out, true, Before::Nothing));
        assert_snapshot!(shown, @r"
        pg_reseed: warning: The source's disk is slow.
        a line of the log
        ");
    }

    #[test]
    fn the_journal_is_told_what_is_important() {
        let shown = run_shown(|out| Plain::new(out, false, Before::Priority));
        for line in shown.lines() {
            let wanted = if line.contains("warning: ") {
                "<4>"
            } else {
                "<6>"
            };
            assert!(
                line.starts_with(wanted) && !line.contains(" UTC "),
                "{line}"
            );
        }
        assert!(
            shown.contains("<4>pg_reseed: warning: ") && shown.contains("\n<6>a line of the log\n")
        );
    }

    #[test]
    fn a_log_tells_the_time_of_each_line() {
        let shown = run_shown(|out| Plain::new(out, false, Before::Time));
        let lines = shown.lines().filter(|line| line.contains("pg_reseed: "));
        for line in lines {
            let (time, _) = line.split_once(" UTC pg_reseed: ").unwrap();
            assert_eq!(time.len(), "2026-11-29 08:29:27.123".len(), "{line}");
        }
    }
}
