//! Progress on a terminal: what the run does, a bar while it compares, and the figures below.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::event::{Event, Stage};
use crate::ui::figures::Figures;
use crate::ui::status::Standing;
use crate::ui::{Display, Ending, Level, plain, print_line, words};

const REFRESH_DISTANCE: Duration = Duration::from_millis(200);
/// The bar's resolution: bytes would overflow nothing, but per mille is all that a terminal shows.
const STEPS: u64 = 1000;

/// Two or three lines at the bottom of the terminal that refresh themselves.
pub(super) struct Bar {
    lines: MultiProgress,
    /// The stage, its clock, and the bar.
    head: ProgressBar,
    /// The figures.
    foot: ProgressBar,
    is_bar: bool,
    /// Somebody else may ask a question at the terminal: nothing is drawn that would move the cursor.
    is_still: bool,
}

impl Bar {
    pub(super) fn new() -> Self {
        let lines = MultiProgress::new();
        let head = lines.add(ProgressBar::new(STEPS));
        let foot = lines.add(ProgressBar::new(STEPS));
        head.set_style(spinner());
        foot.set_style(style("  {wide_msg}"));
        Self {
            lines,
            head,
            foot,
            is_bar: false,
            // ssh asks for a host key or a passphrase.
            is_still: true,
        }
    }

    fn show(&mut self, figures: &Figures) {
        let Some(stage) = figures.stage else { return };
        if self.is_still {
            return;
        }
        let has_bar = stage == Stage::Compare && figures.planned_bytes() > 0;
        if has_bar != self.is_bar {
            self.is_bar = has_bar;
            self.head.set_style(if has_bar { bar() } else { spinner() });
        }
        let clock = words::clock(Duration::from_secs_f64(figures.seconds));
        self.head.set_prefix(clock);
        if has_bar {
            self.head
                .set_position(steps(figures.done_bytes(), figures.planned_bytes()));
            self.head.set_message(head_text(figures));
            self.foot.set_message(plain::moved(figures));
        } else {
            self.head.set_message(words::stage(stage));
            self.foot.set_message(foot_text(figures));
            self.head.tick();
        }
    }

    fn print(&self, text: &str) {
        if self.is_still {
            print_line(text);
            return;
        }
        // Fails when the terminal is gone; the run matters more than its display.
        let _ = self.lines.println(text);
    }
}

impl Display for Bar {
    fn interval(&self) -> Duration {
        REFRESH_DISTANCE
    }

    fn event(&mut self, event: &Event, figures: &Figures) {
        match event {
            Event::MayAsk(true) => {
                self.is_still = true;
                let _ = self.lines.clear();
                if figures.stage == Some(Stage::Start) {
                    self.print(&format!("pg_reseed: {}", words::stage(Stage::Start)));
                }
            }
            Event::MayAsk(false) => self.is_still = false,
            _ => {}
        }
        if let Some(text) = plain::notice(event) {
            self.print(&text);
        }
        self.show(figures);
    }

    fn tick(&mut self, figures: &Figures) {
        self.show(figures);
    }

    fn log(&mut self, _level: Level, text: &str) {
        self.print(text);
    }

    fn status(&mut self, standing: &Standing) {
        for line in standing.lines() {
            self.print(&line);
        }
    }

    fn end(&mut self, _ending: &Ending, _figures: &Figures) -> bool {
        if self.is_still {
            return false;
        }
        self.foot.finish_and_clear();
        self.head.finish_and_clear();
        let _ = self.lines.clear();
        false
    }
}

/// Beside the bar.
fn head_text(figures: &Figures) -> String {
    match plain::speed(figures) {
        Some(speed) => format!("{}, {speed}", plain::done(figures)),
        None => plain::done(figures),
    }
}

/// Below the spinner of a stage without a bar: what there was to move, once it moved.
fn foot_text(figures: &Figures) -> String {
    if figures.compared_bytes + figures.fetched_bytes > 0 {
        plain::moved(figures)
    } else if figures.planned_bytes() > 0 {
        plain::planned(figures)
    } else {
        String::new()
    }
}

fn steps(done: u64, planned: u64) -> u64 {
    let steps = u128::from(done) * u128::from(STEPS) / u128::from(planned.max(1));
    u64::try_from(steps).unwrap_or(STEPS).min(STEPS)
}

fn spinner() -> ProgressStyle {
    style("{spinner} {prefix} {wide_msg}").tick_strings(&["-", "\\", "|", "/", " "])
}

fn bar() -> ProgressStyle {
    style("  {prefix} [{bar:16}] {wide_msg}").progress_chars("=> ")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant that a test parses")
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::ui::tests::compare_figures;

    #[test]
    fn templates_parse() {
        spinner();
        bar();
        style("  {wide_msg}");
    }

    #[test]
    fn ten_gigabytes_and_ten_terabytes_fit_a_terminal() {
        let small = compare_figures(10 << 30, 4 << 30, 420 << 20);
        let large = compare_figures(10 << 40, 4 << 40, 2100 << 20);
        let text = [&small, &large]
            .map(|figures| format!("{}\n{}", head_text(figures), plain::moved(figures)))
            .join("\n");
        assert_snapshot!(text, @r"
        4.00 GB of 10.0 GB (40 %), 420 MB/s, 0:00:15 left
        1,204,332 blocks differ, 9.19 GB moved, 3.00 GB over the wire, source keeps 512 MB of WAL
        4.00 TB of 10.0 TB (40 %), 2.05 GB/s, 0:49:56 left
        1,204,332 blocks differ, 9.19 GB moved, 3.00 GB over the wire, source keeps 512 MB of WAL
        ");
        assert!(text.lines().all(|line| line.len() < 100));
    }

    #[test]
    fn steps_stay_on_the_bar() {
        assert_eq!(steps(0, 0), 0);
        assert_eq!(steps(5, 10), 500);
        assert_eq!(steps(u64::MAX, u64::MAX), STEPS);
        assert_eq!(steps(u64::MAX, 1), STEPS);
    }
}
