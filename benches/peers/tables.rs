//! The results as tables: for the terminal and for Markdown.

use std::fmt::Write as _;

use serde_json::Value;

use crate::args::{Cache, ShapeName};
use crate::results::{Results, Row, ShapeFacts};
use crate::targets::Verdict;
use crate::tools::Tool;

/// Cells, the first line are headings.
type Table = Vec<Vec<String>>;

const RACE_HEADINGS: [&str; 10] = [
    "tool",
    "cold s",
    "min..max",
    "CPU s",
    "warm s",
    "min..max",
    "CPU s",
    "wire MB",
    "times pg_reseed",
    "checked",
];

/// Everything, as a page.
pub fn markdown(results: &Results, verdicts: &[Verdict]) -> String {
    let mut page = String::from("# Benchmark\n\n");
    page += "Written by `make bench`; the raw numbers are in `results.json`.\n\n";
    page += "![Times by shape](results.svg)\n\n";
    for (name, value) in results.machine.as_object().into_iter().flatten() {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        line(
            &mut page,
            format_args!("- {}: {value}", name.replace('_', " ")),
        );
    }
    for note in &results.notes {
        line(&mut page, format_args!("- {note}"));
    }
    page += "\nTimes are medians of whole processes, from the tool's start to a directory that only needs a\n\
             start and survives a crash of the system. CPU is that of both sides, servers included.\n\
             Bytes are those of the loopback interface, or of the shaped link, both directions.\n";
    for facts in &results.shapes {
        line(&mut page, format_args!("\n## {}\n", facts.shape.name()));
        line(&mut page, format_args!("{}\n", sentence(facts)));
        page += &as_markdown(&race(results, facts.shape));
        page += &failures(results, facts.shape);
        page += &closeness(results, facts);
    }
    if !results.figures.is_empty() {
        page += "\n## Beside the races\n\n";
        page += &as_markdown(&figures(results));
    }
    page += "\n## Targets\n\n";
    page += &as_markdown(&targets(verdicts));
    page
}

/// The tables, for a terminal.
pub fn terminal(results: &Results, verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for facts in &results.shapes {
        line(
            &mut text,
            format_args!("\n{}: {}", facts.shape.name(), sentence(facts)),
        );
        text += &aligned(&race(results, facts.shape));
        text += &failures(results, facts.shape);
        text += &closeness(results, facts);
    }
    if !results.figures.is_empty() {
        text += "\nBeside the races:\n";
        text += &aligned(&figures(results));
    }
    text += "\nTargets:\n";
    text += &aligned(&targets(verdicts));
    text
}

fn sentence(facts: &ShapeFacts) -> String {
    format!(
        "{}: {} files of {:.0} MB, {} blocks of {:.1} MB ({:.1} MB by zstd:1) to move.",
        facts.about,
        facts.files,
        facts.relation_bytes as f64 / 1e6,
        facts.differing_blocks,
        facts.differing_bytes() as f64 / 1e6,
        facts.compressed_bytes as f64 / 1e6,
    )
}

fn race(results: &Results, shape: ShapeName) -> Table {
    let mut table = vec![RACE_HEADINGS.map(str::to_owned).to_vec()];
    let ours = |cache| {
        results
            .row(shape, Tool::RESEED, cache)
            .and_then(Row::seconds)
    };
    for tool in results.tools(shape) {
        let warm = results.row(shape, tool, Cache::Warm);
        let cold = results.row(shape, tool, Cache::Cold);
        let any = warm.or(cold);
        let ratios = [(Cache::Cold, cold), (Cache::Warm, warm)].map(|(cache, row)| {
            let both = row.and_then(Row::seconds).zip(ours(cache));
            both.map(|(seconds, ours)| format!("{:.2}", seconds / ours))
        });
        let ratios: Vec<_> = ratios.into_iter().flatten().collect();
        table.push(vec![
            tool.to_owned(),
            seconds(cold),
            range(cold),
            cpu(cold),
            seconds(warm),
            range(warm),
            cpu(warm),
            cell(
                any.and_then(Row::wire_bytes)
                    .map(|value| format!("{:.2}", value / 1e6)),
            ),
            ratios.join(" / "),
            cell(any.and_then(|row| row.check.clone())),
        ]);
    }
    table
}

fn seconds(row: Option<&Row>) -> String {
    let failed = row.is_some_and(|row| row.failure.is_some());
    let time = row.and_then(Row::seconds);
    match (failed, time) {
        (true, _) => "FAILED".to_owned(),
        (false, time) => cell(time.map(|time| format!("{time:.3}"))),
    }
}

fn range(row: Option<&Row>) -> String {
    cell(
        row.and_then(Row::range)
            .map(|(min, max)| format!("{min:.3}..{max:.3}")),
    )
}

fn cpu(row: Option<&Row>) -> String {
    cell(
        row.and_then(Row::cpu_seconds)
            .map(|value| format!("{value:.2}")),
    )
}

fn cell(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

fn failures(results: &Results, shape: ShapeName) -> String {
    let mut text = String::new();
    for row in results.rows.iter().filter(|row| row.shape == shape) {
        if let Some(failure) = &row.failure {
            let (tool, cache) = (&row.tool, row.cache.name());
            line(
                &mut text,
                format_args!("\n{tool} ({cache}) failed: {failure}"),
            );
        }
    }
    text
}

/// How close pg_reseed is to the roofline, and what that consists of.
fn closeness(results: &Results, facts: &ShapeFacts) -> String {
    let mut text = String::new();
    for cache in [Cache::Cold, Cache::Warm] {
        let best = results
            .row(facts.shape, Tool::ROOFLINE, cache)
            .and_then(Row::seconds);
        let ours = results
            .row(facts.shape, Tool::RESEED, cache)
            .and_then(Row::seconds);
        let (Some(best), Some(ours)) = (best, ours) else {
            continue;
        };
        let parts: Vec<_> = facts
            .parts
            .iter()
            .filter(|(of, ..)| *of == cache)
            .map(|(_, part, seconds)| format!("{part} {seconds:.3} s"))
            .collect();
        line(
            &mut text,
            format_args!(
                "\nRoofline, {}: {best:.3} s; pg_reseed is at {:.0} % of it. {}",
                cache.name(),
                best / ours * 100.0,
                if parts.is_empty() {
                    String::new()
                } else {
                    format!("Alone: {}.", parts.join("; "))
                },
            ),
        );
    }
    text
}

fn figures(results: &Results) -> Table {
    let mut table = vec![["what", "figures"].map(str::to_owned).to_vec()];
    for (name, value) in &results.figures {
        let mut words = Vec::new();
        flatten("", value, &mut words);
        table.push(vec![name.clone(), words.join(", ")]);
    }
    table
}

/// The leaves of a JSON object with their names.
fn flatten(name: &str, value: &Value, words: &mut Vec<String>) {
    let name = name.replace('_', " ");
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                flatten(format!("{name} {member}").trim_start(), value, words);
            }
        }
        Value::Number(number) if number.is_f64() => {
            words.push(format!("{name} {:.3}", number.as_f64().unwrap_or_default()));
        }
        Value::String(text) => words.push(format!("{name} {text}")),
        other => words.push(format!("{name} {other}")),
    }
}

fn targets(verdicts: &[Verdict]) -> Table {
    let mut table = vec![
        ["shape", "against", "at least", "reached", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    for verdict in verdicts {
        let word = match verdict.is_kept {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "?",
        };
        table.push(vec![
            verdict.shape.clone(),
            verdict.against.clone(),
            verdict.at_least.clone(),
            verdict.reached.clone(),
            word.to_owned(),
        ]);
    }
    table
}

fn as_markdown(table: &Table) -> String {
    let mut text = String::new();
    for (number, cells) in table.iter().enumerate() {
        let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        line(&mut text, format_args!("| {} |", cells.join(" | ")));
        if number == 0 {
            line(&mut text, format_args!("|{}", " --- |".repeat(cells.len())));
        }
    }
    text
}

fn aligned(table: &Table) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| {
        table
            .iter()
            .map(|cells| cells[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for cells in table {
        let padded: Vec<_> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        line(
            &mut text,
            format_args!("  {}", padded.join("  ").trim_end()),
        );
    }
    text
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = writeln!(text, "{words}");
}
