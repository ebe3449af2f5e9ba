//! The results as a plot: horizontal bars, grouped by shape, each group on a scale of its own.
//!
//! SVG by hand. It has no background and keeps to colours that are readable on white as on GitHub's dark
//! page, for an image cannot ask which of the two it is on.

use std::fmt::Write as _;

use crate::args::{Cache, ShapeName};
use crate::results::{Results, Row};
use crate::tools::Tool;

const WIDTH: u32 = 930;
const LABEL_WIDTH: u32 = 280;
/// What the longest bar of a group takes.
const BAR_WIDTH: f64 = 460.0;
const ROW_HEIGHT: u32 = 24;
const HEADING_HEIGHT: u32 = 40;

const STYLE: &str = "
  text { font: 13px -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #6f7b87; }
  .shape { font-weight: 600; font-size: 15px; }
  .ours text { font-weight: 600; fill: #1f7ae0; }
  .warm { fill: #8c959f; } .cold { fill: #8c959f; fill-opacity: .45; }
  .ours .warm { fill: #1f7ae0; } .ours .cold { fill: #1f7ae0; fill-opacity: .45; }
  .best rect { fill: none; stroke: #8c959f; stroke-dasharray: 3 2; }";

/// The whole drawing.
pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 30;
    for facts in &results.shapes {
        group(&mut body, results, facts.shape, facts.about, &mut y);
    }
    let mut text = String::new();
    let height = y + 12;
    put(
        &mut text,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-label=\"Time to a standby by tool and shape, less is better\">\n<style>{STYLE}\n</style>"
        ),
    );
    put(
        &mut text,
        format_args!(
            "<text x=\"8\" y=\"20\">Seconds to a standby, less is better; full bars with a warm page cache, pale \
             ones with a cold one. Each group has its own scale.</text>"
        ),
    );
    text += &body;
    text += "</svg>\n";
    text
}

fn group(body: &mut String, results: &Results, shape: ShapeName, about: &str, y: &mut u32) {
    let times = results
        .rows
        .iter()
        .filter(|row| row.shape == shape)
        .filter_map(Row::seconds);
    let Some(longest) = times.reduce(f64::max) else {
        return;
    };
    *y += HEADING_HEIGHT;
    put(
        body,
        format_args!(
            "<text class=\"shape\" x=\"8\" y=\"{}\">{}</text><text x=\"{LABEL_WIDTH}\" y=\"{}\">{}</text>",
            *y - 12,
            escaped(&shape.name()),
            *y - 12,
            escaped(about)
        ),
    );
    // Variants of ours tell something in some shapes; of the others the tables have them.
    let has_variants = matches!(shape, ShapeName::Empty | ShapeName::Failover);
    let is_shown = |tool: &&str| has_variants || !tool.starts_with("pg_reseed -");
    for tool in results.tools(shape).into_iter().filter(is_shown) {
        let rows = [Cache::Warm, Cache::Cold].map(|cache| results.row(shape, tool, cache));
        bars(body, results, tool, rows, longest, *y);
        *y += ROW_HEIGHT;
    }
}

fn bars(
    body: &mut String,
    results: &Results,
    tool: &str,
    rows: [Option<&Row>; 2],
    longest: f64,
    y: u32,
) {
    let class = match tool {
        tool if tool.starts_with(Tool::RESEED) => "ours",
        Tool::ROOFLINE => "best",
        _ => "peer",
    };
    put(
        body,
        format_args!(
            "<g class=\"{class}\"><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LABEL_WIDTH - 8,
            y + 14,
            escaped(tool)
        ),
    );
    let width = |seconds: f64| (seconds / longest * BAR_WIDTH).max(1.0);
    let mut end: f64 = 0.0;
    let mut words = Vec::new();
    for ((row, class), (top, height)) in rows.iter().zip(["warm", "cold"]).zip([(2, 10), (13, 6)]) {
        let Some(row) = row else {
            continue;
        };
        let Some(seconds) = row.seconds().filter(|_| row.failure.is_none()) else {
            words.push("failed".to_owned());
            continue;
        };
        put(
            body,
            format_args!(
                "<rect class=\"{class}\" x=\"{LABEL_WIDTH}\" y=\"{}\" width=\"{:.1}\" height=\"{height}\" rx=\"1\"/>",
                y + top,
                width(seconds)
            ),
        );
        end = end.max(width(seconds));
        words.push(format!("{} s", significant(seconds)));
    }
    let ours = rows[0].and_then(|row| results.row(row.shape, Tool::RESEED, Cache::Warm));
    let ratio = rows[0]
        .and_then(Row::seconds)
        .zip(ours.and_then(Row::seconds));
    let ratio = ratio
        .filter(|_| class == "peer")
        .map(|(theirs, ours)| theirs / ours);
    let ratio = ratio.map_or(String::new(), |ratio| format!(" ({ratio:.1}×)"));
    put(
        body,
        format_args!(
            "<text x=\"{:.1}\" y=\"{}\">{}{ratio}</text></g>",
            f64::from(LABEL_WIDTH) + end + 6.0,
            y + 14,
            words.join(" / ")
        ),
    );
}

/// Three digits are enough.
fn significant(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.2}"),
        s if s < 100.0 => format!("{s:.1}"),
        s => format!("{s:.0}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn put(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing into a string cannot fail.
    let _ = writeln!(text, "{words}");
}
