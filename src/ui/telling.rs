//! A display that also tells somebody else, in one line, where the run is: systemd, whose `systemctl status` shows it.

use std::time::Duration;

use crate::event::{Event, Stage};
use crate::ui::figures::Figures;
use crate::ui::status::Standing;
use crate::ui::{Display, Ending, Level, plain, words};

/// Takes a line.
pub type Teller = Box<dyn FnMut(&str) + Send>;

/// How often the line is told again while the comparison lasts.
const DISTANCE: Duration = Duration::from_secs(10);

pub(super) struct Telling {
    inner: Box<dyn Display>,
    tell: Teller,
    next: Duration,
}

impl Telling {
    pub(super) fn new(inner: Box<dyn Display>, tell: Teller) -> Self {
        Self {
            inner,
            tell,
            next: Duration::ZERO,
        }
    }
}

impl Display for Telling {
    fn interval(&self) -> Duration {
        self.inner.interval().min(DISTANCE)
    }

    fn event(&mut self, event: &Event, figures: &Figures) {
        if let Event::Stage(stage) = event {
            (self.tell)(words::stage(*stage));
        }
        self.inner.event(event, figures);
    }

    fn tick(&mut self, figures: &Figures) {
        let now = Duration::from_secs_f64(figures.seconds);
        if figures.stage == Some(Stage::Compare) && now >= self.next {
            (self.tell)(&plain::progress(figures));
            self.next = now + DISTANCE;
        }
        self.inner.tick(figures);
    }

    fn log(&mut self, level: Level, text: &str) {
        self.inner.log(level, text);
    }

    fn status(&mut self, standing: &Standing) {
        self.inner.status(standing);
    }

    fn end(&mut self, ending: &Ending, figures: &Figures) -> bool {
        let error = ending.errors.first().map(String::as_str);
        (self.tell)(error.unwrap_or(ending.outcome));
        self.inner.end(ending, figures)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::ui::tests::{Written, compare_figures, run_shown};

    /// Tells into a list; what it shows is what the plain display shows.
    struct Both(Telling, Arc<Mutex<Vec<String>>>);

    impl Display for Both {
        fn interval(&self) -> Duration {
            self.0.interval()
        }
        fn event(&mut self, event: &Event, figures: &Figures) {
            self.0.event(event, figures);
        }
        fn tick(&mut self, figures: &Figures) {
            self.0.tick(figures);
        }
        fn log(&mut self, level: Level, text: &str) {
            self.0.log(level, text);
        }
        fn status(&mut self, standing: &Standing) {
            self.0.status(standing);
        }
        fn end(&mut self, ending: &Ending, figures: &Figures) -> bool {
            self.0.end(ending, figures)
        }
    }

    impl Written for Both {
        fn written(self) -> Vec<u8> {
            self.1.lock().unwrap().join("\n").into_bytes()
        }
    }

    #[test]
    fn stages_progress_and_the_end_are_told() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell: Teller = Box::new({
            let told = Arc::clone(&told);
            move |text| told.lock().unwrap().push(text.to_owned())
        });
        let inner = Box::new(plain::Plain::new(
            Vec::new(),
            true,
            crate::ui::Before::Nothing,
        ));
        let text = run_shown(|_| Both(Telling::new(inner, tell), told));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], words::stage(Stage::Look));
        assert!(lines.iter().any(|line| line.contains('%')), "{text}");
        assert_eq!(lines.last(), Some(&"a \"quoted\" reason"));
    }

    #[test]
    fn progress_is_told_every_ten_seconds() {
        let told = Arc::new(Mutex::new(0));
        let tell: Teller = Box::new({
            let told = Arc::clone(&told);
            move |_| *told.lock().unwrap() += 1
        });
        let inner = Box::new(plain::Plain::new(
            Vec::new(),
            true,
            crate::ui::Before::Nothing,
        ));
        let mut telling = Telling::new(inner, tell);
        let mut figures = compare_figures(1 << 40, 1 << 38, 1 << 20);
        for tenth in 0..300 {
            figures.seconds = f64::from(tenth) / 10.0;
            telling.tick(&figures);
        }
        assert_eq!(*told.lock().unwrap(), 3);
    }
}
