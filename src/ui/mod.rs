//! What people and programs see of a run: progress while it lasts, the summary and the report at its
//! end, the log throughout.
//!
//! Listens to events and reads counters; decides nothing about data. One thread writes to standard
//! error while a run lasts, so that a slow or stopped terminal never holds up the run, and no line
//! is torn by another.

mod bar;
pub mod clock;
mod figures;
pub mod file;
pub mod inspection;
pub mod journal;
pub mod json;
pub mod log;
pub mod metrics;
mod plain;
pub mod report;
mod rows;
pub mod short;
pub mod status;
mod telling;
pub mod verification;
mod words;

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use crate::event::{Counters, Event, Events, Listener, Stage};
use crate::ui::figures::{Figures, Tracker};
use crate::ui::status::{Board, Standing};
use crate::ui::telling::Telling;

pub use crate::ui::telling::Teller;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Style {
    /// `Bar` on a terminal, `Plain` otherwise.
    Auto,
    Bar,
    Plain,
    Json,
    None,
}

/// How a run ended, for programs: the last line of `--progress json`, and a part of the report. Field names are
/// stable.
#[derive(Debug, Clone, Serialize)]
pub struct Ending {
    pub exit_status: u8,
    /// `done`, `done-with-damaged-pages`, `not-needed`, `dry-run`, `refused`, `failed`, `rebuilt-not-streaming`,
    /// `copied-not-started` or `copied-not-ready`.
    pub outcome: &'static str,
    /// State of the target: `standby`, `copy`, `closed-copy`, `untouched` or `half-way`.
    pub target: &'static str,
    /// The stage that it was in; absent before the first one.
    pub stage: Option<Stage>,
    /// Stable names of what refused, one for each of `errors`.
    pub refusals: Vec<&'static str>,
    pub errors: Vec<String>,
    pub details: Vec<String>,
    pub hints: Vec<String>,
}

/// What stands before a line for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    Nothing,
    /// The time: the line goes to a file.
    Time,
    /// Its importance: the line goes to systemd's journal, which knows the time.
    Priority,
}

impl Before {
    /// As standard error is read: on a terminal one sees the time, a log tells it.
    #[must_use]
    pub fn of_standard_error() -> Self {
        if io::stderr().is_terminal() {
            Before::Nothing
        } else if journal::is_read() {
            Before::Priority
        } else {
            Before::Time
        }
    }

    /// The same without the time: warnings alone are read by people.
    fn undated(self) -> Self {
        match self {
            Before::Time => Before::Nothing,
            other => other,
        }
    }
}

/// How important a line of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warning",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// One way of showing a run. Called from one thread.
trait Display: Send {
    /// Time between two calls of `tick`.
    fn interval(&self) -> Duration;
    fn event(&mut self, event: &Event, figures: &Figures);
    fn tick(&mut self, figures: &Figures);
    fn log(&mut self, level: Level, text: &str);
    /// Somebody has asked how far the run is.
    fn status(&mut self, standing: &Standing);
    /// The run is over. Says whether the display told how it ended, so that nobody else need to.
    fn end(&mut self, ending: &Ending, figures: &Figures) -> bool {
        let _ = (ending, figures);
        false
    }
}

/// The display of one run.
pub struct Ui {
    screen: Arc<Screen>,
    board: Arc<Board>,
    events: Events,
    thread: JoinHandle<bool>,
    is_json: bool,
    before: Before,
}

impl Ui {
    /// Starts to show a run on standard error, and to tell `teller`, if there is one, where it is.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(style: Style, teller: Option<Teller>) -> io::Result<Self> {
        let before = Before::of_standard_error();
        let style = style.resolved(io::stderr().is_terminal());
        let display: Box<dyn Display> = match style {
            Style::Bar => Box::new(bar::Bar::new()),
            Style::Json => {
                json::errors_too();
                Box::new(json::Json::begin(io::stderr()))
            }
            Style::None => Box::new(plain::Plain::new(io::stderr(), true, before.undated())),
            Style::Auto | Style::Plain => Box::new(plain::Plain::new(io::stderr(), false, before)),
        };
        let display = match teller {
            Some(teller) => Box::new(Telling::new(display, teller)),
            None => display,
        };
        let counters = Arc::new(Counters::default());
        let screen = Arc::new(Screen::default());
        let thread = std::thread::Builder::new()
            .name("pg_reseed ui".to_owned())
            .spawn({
                let (screen, counters) = (Arc::clone(&screen), Arc::clone(&counters));
                move || show(&screen, &counters, display)
            })?;
        let board = Arc::new(Board::new(Arc::clone(&counters)));
        let both = Both(Arc::clone(&screen), Arc::clone(&board));
        Ok(Self {
            events: Events::new(counters, Arc::new(both)),
            screen,
            board,
            thread,
            is_json: style == Style::Json,
            before,
        })
    }

    /// What the steps of the run tell their events to.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The stage that began last.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        self.screen.told().stage
    }

    /// Whether people read what is shown, and not a program.
    #[must_use]
    pub fn shows_to_people(&self) -> bool {
        !self.is_json
    }

    /// How far the run is, for those who ask.
    #[must_use]
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// What shows the state of the run when somebody asks.
    pub fn shows_status(&self) -> impl Fn(Standing) + Send + Sync + use<> {
        let screen = Arc::clone(&self.screen);
        move |standing| screen.show(Item::Status(Box::new(standing)))
    }

    /// Where the log goes while the run lasts.
    #[must_use]
    pub fn log_sink(&self) -> log::Sink {
        log::Sink::screen(
            &self.screen,
            self.is_json || self.before == Before::Priority,
        )
    }

    /// Shows what is still to be shown, and stops. Says whether the display told how the run ended.
    pub fn end(self, ending: Ending) -> bool {
        self.screen.end(ending);
        self.thread.join().unwrap_or(false)
    }
}

impl Style {
    /// A bar needs a terminal.
    fn resolved(self, is_terminal: bool) -> Self {
        match self {
            Style::Auto | Style::Bar if is_terminal => Style::Bar,
            Style::Auto | Style::Bar => Style::Plain,
            other => other,
        }
    }
}

/// Bounds of what waits to be shown. Events are few; the log gives way first.
const EVENTS_MAX: usize = 8192;
const LOG_LINES_MAX: usize = 4096;

/// What waits to be shown: written by every thread of the run, emptied by the one that shows.
#[derive(Default)]
struct Screen {
    told: Mutex<Told>,
    wake: Condvar,
}

#[derive(Default)]
struct Told {
    waiting: VecDeque<Item>,
    stage: Option<Stage>,
    ending: Option<Ending>,
    lost_lines: u64,
    is_over: bool,
}

enum Item {
    Event(Event),
    Log(Level, String),
    Status(Box<Standing>),
}

/// Hears for the display and for those who ask.
struct Both(Arc<Screen>, Arc<Board>);

impl Listener for Both {
    fn hear(&self, event: &Event) {
        self.1.hear(event);
        self.0.hear(event);
    }
}

impl Listener for Screen {
    fn hear(&self, event: &Event) {
        let mut told = self.told();
        if let Event::Stage(stage) = event {
            told.stage = Some(*stage);
        }
        drop(told);
        self.show(Item::Event(event.clone()));
    }
}

impl Screen {
    /// A panic while the lock was held leaves nothing half-changed that matters here.
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, item: Item) {
        let mut told = self.told();
        if told.waiting.len() < EVENTS_MAX {
            told.waiting.push_back(item);
            drop(told);
            self.wake.notify_one();
        } else {
            told.lost_lines += 1;
        }
    }

    /// Takes a line of the log, or gives it back when nobody shows lines any more.
    fn log(&self, level: Level, text: String) -> Result<(), String> {
        let mut told = self.told();
        if told.is_over {
            return Err(text);
        }
        if told.waiting.len() < LOG_LINES_MAX {
            told.waiting.push_back(Item::Log(level, text));
            drop(told);
            self.wake.notify_one();
        } else {
            told.lost_lines += 1;
        }
        Ok(())
    }

    fn end(&self, ending: Ending) {
        self.told().ending = Some(ending);
        self.wake.notify_one();
    }

    /// Waits until there is something to show, but no longer than `time`.
    fn wait(&self, time: Duration) -> (VecDeque<Item>, u64, Option<Ending>) {
        let is_idle = |told: &mut Told| told.waiting.is_empty() && told.ending.is_none();
        let (mut told, _) = self
            .wake
            .wait_timeout_while(self.told(), time, is_idle)
            .unwrap_or_else(PoisonError::into_inner);
        let ending = told.ending.take();
        told.is_over |= ending.is_some();
        (
            std::mem::take(&mut told.waiting),
            std::mem::take(&mut told.lost_lines),
            ending,
        )
    }
}

/// The showing thread. Says whether the display told how the run ended.
fn show(screen: &Screen, counters: &Counters, mut display: Box<dyn Display>) -> bool {
    let start = Instant::now();
    let mut tracker = Tracker::default();
    let mut next_tick = display.interval();
    loop {
        let (items, lost_lines, ending) = screen.wait(next_tick.saturating_sub(start.elapsed()));
        for item in items {
            match item {
                Item::Event(event) => {
                    tracker.hear(&event);
                    display.event(&event, &tracker.figures(start.elapsed(), counters));
                }
                Item::Log(level, text) => display.log(level, &text),
                Item::Status(standing) => display.status(&standing),
            }
        }
        if lost_lines > 0 {
            let text = format!("{lost_lines} lines could not be shown in time");
            display.log(Level::Warn, &text);
        }
        let elapsed = start.elapsed();
        if let Some(ending) = ending {
            return display.end(&ending, &tracker.figures(elapsed, counters));
        }
        if elapsed >= next_tick {
            display.tick(&tracker.figures(elapsed, counters));
            next_tick = elapsed + display.interval();
        }
    }
}

/// Writes a line to standard error. It may be gone; that is no reason to stop.
fn print_line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::warning::{Code, Warning};

    /// Figures in the middle of a comparison.
    pub(super) fn compare_figures(planned: u64, compared: u64, rate: u64) -> Figures {
        let mut tracker = Tracker::default();
        tracker.hear(&Event::Stage(Stage::Compare));
        tracker.hear(&Event::Planned {
            files: 1204,
            compare_bytes: planned,
            fetch_bytes: 0,
        });
        tracker.hear(&Event::RetainedWal { bytes: 512 << 20 });
        let counters = Counters::default();
        Counters::add(&counters.compared_bytes, compared - rate * 2);
        Counters::add(&counters.differing_blocks, 1_204_332);
        Counters::add(&counters.moved_bytes, 1_204_332 * 8192);
        Counters::add(&counters.wire_received_bytes, 3 << 30);
        tracker.figures(Duration::from_secs(751), &counters);
        Counters::add(&counters.compared_bytes, rate * 2);
        tracker.figures(Duration::from_secs(753), &counters)
    }

    /// What a display writes of a small run.
    pub(super) fn run_shown<D: Display + Written>(display: impl FnOnce(Vec<u8>) -> D) -> String {
        let mut display = display(Vec::new());
        let events = [
            Event::Stage(Stage::Look),
            Event::Note("The target is an old primary.".to_owned()),
            Event::Planned {
                files: 1,
                compare_bytes: 1 << 30,
                fetch_bytes: 8192,
            },
            Event::Stage(Stage::Compare),
            Event::RetainedWal { bytes: 16 << 20 },
            Event::Warning(Warning {
                code: Code::SlotLeft,
                message: "The source's disk is slow.".to_owned(),
            }),
        ];
        let mut tracker = Tracker::default();
        let counters = Counters::default();
        for (second, event) in events.iter().enumerate() {
            tracker.hear(event);
            let elapsed = Duration::from_secs(second as u64);
            display.event(event, &tracker.figures(elapsed, &counters));
        }
        Counters::add(&counters.compared_bytes, 300 << 20);
        Counters::add(&counters.differing_blocks, 1);
        Counters::add(&counters.moved_bytes, 8192);
        display.log(Level::Info, "a line of the log");
        display.tick(&tracker.figures(Duration::from_secs(13), &counters));
        let ending = Ending {
            exit_status: 3,
            outcome: "refused",
            target: "untouched",
            stage: Some(Stage::Compare),
            refusals: vec!["server-running"],
            errors: vec!["a \"quoted\" reason".to_owned()],
            details: vec![],
            hints: vec![],
        };
        let figures = tracker.figures(Duration::from_secs(14), &counters);
        display.end(&ending, &figures);
        String::from_utf8(display.written()).unwrap()
    }

    /// A display that wrote to memory.
    pub(super) trait Written {
        fn written(self) -> Vec<u8>;
    }

    impl Written for plain::Plain<Vec<u8>> {
        fn written(self) -> Vec<u8> {
            self.into_inner()
        }
    }

    impl Written for json::Json<Vec<u8>> {
        fn written(self) -> Vec<u8> {
            self.into_inner()
        }
    }

    #[test]
    fn a_bar_needs_a_terminal() {
        assert_eq!(Style::Auto.resolved(true), Style::Bar);
        assert_eq!(Style::Auto.resolved(false), Style::Plain);
        assert_eq!(Style::Bar.resolved(false), Style::Plain);
        assert_eq!(Style::Json.resolved(true), Style::Json);
    }

    /// Tells what it was shown, once it may.
    struct Slow {
        may_go_on: mpsc::Receiver<()>,
        shown: mpsc::Sender<String>,
    }

    impl Display for Slow {
        fn interval(&self) -> Duration {
            Duration::from_secs(3600)
        }
        fn event(&mut self, event: &Event, _: &Figures) {
            let _ = self.may_go_on.recv();
            self.shown.send(format!("{event:?}")).unwrap();
        }
        fn tick(&mut self, _: &Figures) {}
        fn log(&mut self, _: Level, text: &str) {
            self.shown.send(text.to_owned()).unwrap();
        }
        fn status(&mut self, _: &Standing) {}
    }

    #[test]
    fn a_stopped_terminal_holds_up_nobody_and_is_bounded() {
        let (go_on, may_go_on) = mpsc::channel();
        let (shown, lines) = mpsc::channel();
        let screen = Arc::new(Screen::default());
        let thread = std::thread::spawn({
            let screen = Arc::clone(&screen);
            move || {
                let display = Slow { may_go_on, shown };
                show(&screen, &Counters::default(), Box::new(display))
            }
        });
        for number in 0..2 * EVENTS_MAX {
            screen.hear(&Event::Note(number.to_string()));
            screen.log(Level::Info, "log".to_owned()).unwrap();
        }
        assert!(screen.told().waiting.len() <= EVENTS_MAX);
        drop(go_on);
        screen.end(Ending {
            exit_status: 0,
            outcome: "done",
            target: "standby",
            stage: None,
            refusals: vec![],
            errors: vec![],
            details: vec![],
            hints: vec![],
        });
        assert!(!thread.join().unwrap());
        let shown: Vec<_> = lines.iter().collect();
        assert_eq!(shown[0], "Note(\"0\")");
        assert!(
            shown
                .last()
                .unwrap()
                .ends_with("could not be shown in time")
        );
        assert_eq!(
            screen.log(Level::Info, "late".to_owned()),
            Err("late".to_owned())
        );
    }
}
