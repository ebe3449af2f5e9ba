//! The log: `tracing` to standard error, through the display while there is one.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::SystemTime;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::ui::{Level, Screen, clock, journal, json, print_line};

/// The variable that names levels by module, as in `info,pg_reseed::client=trace`.
pub const VARIABLE: &str = "PG_RESEED_LOG";

/// Where the lines of the log go.
#[derive(Clone)]
pub struct Sink {
    screen: Option<Arc<Screen>>,
    /// Level and time are told elsewhere.
    is_bare: bool,
    /// Lines that go straight to standard error have their importance before them.
    is_journal: bool,
}

impl Sink {
    /// Straight to standard error.
    #[must_use]
    pub fn standard_error() -> Self {
        Self {
            screen: None,
            is_bare: journal::is_read(),
            is_journal: journal::is_read(),
        }
    }

    pub(super) fn screen(screen: &Arc<Screen>, is_bare: bool) -> Self {
        Self {
            screen: Some(Arc::clone(screen)),
            is_bare,
            is_journal: false,
        }
    }
}

/// Starts the log. `verbosity` is the number of `-v`; negative is `-q`.
///
/// # Errors
/// With a sentence's worth of reason when the variable [`VARIABLE`] has no meaning.
pub fn start(verbosity: i16, sink: Sink) -> Result<(), String> {
    let filter = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            format!("invalid value \"{text}\" of environment variable \"{VARIABLE}\": {error}")
        })?,
        _ => EnvFilter::new(directives(verbosity)),
    };
    let is_bare = sink.is_bare;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false)
        .with_writer(sink);
    // Twice in one process only in tests, where the first one stays.
    let _ = if is_bare {
        builder.without_time().with_level(false).try_init()
    } else {
        builder.with_timer(Timer).try_init()
    };
    Ok(())
}

/// The time of a line, as all our lines have it.
struct Timer;

impl FormatTime for Timer {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        writer.write_str(&clock::stamp(SystemTime::now()))
    }
}

/// Other people's crates say less than we do.
fn directives(verbosity: i16) -> &'static str {
    match verbosity {
        i16::MIN..0 => "error",
        0 => "warn",
        1 => "warn,pg_reseed=info",
        2 => "info,pg_reseed=debug",
        _ => "debug,pg_reseed=trace",
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter {
            sink: self.clone(),
            level: Level::Info,
        }
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> LineWriter {
        LineWriter {
            sink: self.clone(),
            level: match *meta.level() {
                tracing::Level::ERROR => Level::Error,
                tracing::Level::WARN => Level::Warn,
                tracing::Level::INFO => Level::Info,
                tracing::Level::DEBUG => Level::Debug,
                tracing::Level::TRACE => Level::Trace,
            },
        }
    }
}

/// Takes one line in one call, as `tracing_subscriber` writes it.
pub struct LineWriter {
    sink: Sink,
    level: Level,
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
        let text = match &self.sink.screen {
            Some(screen) => screen.log(self.level, text),
            None => Err(text),
        };
        if let Err(text) = text {
            if json::are_errors_json() {
                print_line(&json::log_line(self.level, &text));
            } else if self.sink.is_journal {
                print_line(&format!("{}{text}", self.level.priority()));
            } else {
                print_line(&text);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
