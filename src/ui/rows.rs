//! Rows of the summaries for people: how one looks, and those that a run has whatever its end.

use std::fmt::{self, Write as _};

use crate::client::outcome::{Outcome, StageTime};
use crate::errors::one_line;
use crate::pg::lsn::Lsn;
use crate::ui::words;

/// Column in which the values begin.
const INDENT: usize = 16;

/// One row: its name, and its value in one line.
pub(super) fn row(text: &mut String, name: &str, value: fmt::Arguments<'_>) {
    let value = one_line(&value.to_string());
    put(
        text,
        format_args!("  {name:<width$}{value}\n", width = INDENT - 2),
    );
}

/// What was moved, or would be, in words.
pub(super) fn moved_blocks(outcome: &Outcome) -> String {
    let blocks = words::counted(outcome.moved_blocks, "block", "blocks");
    match outcome.patched_blocks {
        0 => blocks,
        patched => format!(
            "{blocks} and {}",
            words::counted(patched, "patch", "patches")
        ),
    }
}

/// A row per item, the name only before the first.
pub(super) fn list(
    text: &mut String,
    name: &str,
    items: impl ExactSizeIterator<Item: fmt::Display>,
    max: usize,
) {
    let all = items.len() as u64;
    list_of(text, name, items, max, all);
}

/// As [`list`], of so many of which not all are at hand.
pub(super) fn list_of(
    text: &mut String,
    name: &str,
    items: impl Iterator<Item: fmt::Display>,
    max: usize,
    all: u64,
) {
    let mut listed = 0;
    for (index, item) in items.take(max).enumerate() {
        let name = if index == 0 { name } else { "" };
        row(text, name, format_args!("{item}"));
        listed += 1;
    }
    let left_out = all.saturating_sub(listed);
    if left_out > 0 {
        let left_out = words::number(left_out);
        row(text, "", format_args!("and {left_out} more (see --report)"));
    }
}

/// Adds to a text.
pub(super) fn put(text: &mut String, value: fmt::Arguments<'_>) {
    text.write_fmt(value)
        .expect("writing to a string cannot fail");
}

/// The source's version and timeline in brackets, as far as it was asked.
pub(super) fn source(outcome: &Outcome) -> String {
    match (&outcome.server_version, outcome.timeline) {
        (Some(version), Some(timeline)) => {
            format!(" (PostgreSQL {}, timeline {timeline})", one_line(version))
        }
        _ => String::new(),
    }
}

/// What was saved of the target's own WAL.
pub(super) fn saved_wal(text: &mut String, outcome: &Outcome) {
    if let Some(kept) = &outcome.kept_wal {
        row(
            text,
            "Saved WAL",
            format_args!(
                "{} in {}{}, in \"{}\"",
                words::size(kept.bytes),
                words::counted(kept.files, "file", "files"),
                match kept.from {
                    Some(Lsn::INVALID) | None => String::new(),
                    Some(from) => format!(", from {from} on"),
                },
                kept.directory
            ),
        );
        for missing in &kept.missing {
            row(
                text,
                "",
                format_args!("without {}, which pg_wal had no more", missing.segments()),
            );
        }
    }
}

/// What went over the streams, and how many of those there were.
pub(super) fn wire(text: &mut String, outcome: &Outcome) {
    let mut streams = match outcome.streams {
        0 | 1 => String::new(),
        streams => format!(", over {streams} streams"),
    };
    if outcome.lost_streams > 0 {
        let lost = words::counted(outcome.lost_streams, "stream was", "streams were");
        let _ = write!(streams, "; {lost} lost on the way");
    }
    row(
        text,
        "On the wire",
        format_args!(
            "{} received, {} sent{streams}",
            words::size(outcome.wire_received_bytes),
            words::size(outcome.wire_sent_bytes),
        ),
    );
}

/// How long it took, and which of it took how long.
pub(super) fn time(text: &mut String, outcome: &Outcome) {
    // A stage may come again; what took no time is not worth a word.
    let mut stages: Vec<StageTime> = Vec::new();
    for stage in &outcome.stages {
        match stages.iter_mut().find(|known| known.name == stage.name) {
            Some(known) => known.seconds += stage.seconds,
            None => stages.push(stage.clone()),
        }
    }
    let stages: Vec<_> = stages
        .iter()
        .filter(|stage| stage.seconds >= 0.05)
        .map(|stage| {
            format!(
                "{} {}",
                words::doing(stage.name),
                words::took(stage.seconds)
            )
        })
        .collect();
    let all = words::took(outcome.seconds);
    if stages.is_empty() {
        row(text, "Time", format_args!("{all}"));
    } else {
        row(text, "Time", format_args!("{all}: {}", stages.join(", ")));
    }
}
