//! What `verify` prints for people.

use std::fmt::Write as _;

use crate::client::outcome::{FaultReport, Verification, VerifyVerdict};
use crate::errors::one_line;
use crate::ui::rows::{list, row};
use crate::ui::words;

/// Most faults that the text lists; JSON has all.
const FAULTS_SHOWN: usize = 50;

/// Most files that the text names which could not be compared.
const PENDING_SHOWN: usize = 5;

/// Says what was compared and what is wrong.
#[must_use]
pub fn text(found: &Verification) -> String {
    let mut text = String::new();
    headline(&mut text, found);
    text.push('\n');
    row(
        &mut text,
        "Compared",
        format_args!(
            "{} in {}, as they were at {}, in {}",
            words::counted(found.blocks, "block", "blocks"),
            words::counted(found.files, "file", "files"),
            found.threshold,
            words::counted(u64::from(found.passes), "pass", "passes"),
        ),
    );
    let mut parts = format!("{} equal", words::number(found.equal_blocks));
    for (count, words) in [
        (found.noise_blocks, "differ in hint bits and the like only"),
        (
            found.all_visible_blocks,
            "differ in the flag of visible tuples only",
        ),
        (
            found.pending_blocks,
            "not compared: changed since in every pass",
        ),
        (
            found.unknown_blocks,
            "not compared: of a kind that is not known",
        ),
    ] {
        if count > 0 {
            let _ = write!(parts, "; {} {words}", words::number(count));
        }
    }
    row(&mut text, "Blocks", format_args!("{parts}"));
    let pending = found.pending.iter().map(|file| {
        let blocks = words::counted(file.blocks, "block", "blocks");
        format!("{blocks} of \"{}\"", one_line(&file.path))
    });
    list(
        &mut text,
        "Not compared",
        pending.take(PENDING_SHOWN),
        usize::MAX,
    );
    let faults = found.faults.iter().map(fault);
    list(&mut text, "Wrong", faults.take(FAULTS_SHOWN), usize::MAX);
    let more = found.faults.len().saturating_sub(FAULTS_SHOWN) as u64 + found.faults_more;
    if more > 0 {
        let more = words::number(more);
        row(&mut text, "", format_args!("and {more} more (see --json)"));
    }
    let warnings = found.warnings.iter().map(|warning| &warning.message);
    list(&mut text, "Warnings", warnings, usize::MAX);
    list(&mut text, "Advice", found.advice.iter(), usize::MAX);
    if let Some(command) = &found.command {
        row(&mut text, "Command", format_args!("{command}"));
    }
    text
}

fn headline(text: &mut String, found: &Verification) {
    let pgdata = &found.pgdata;
    let host = one_line(&found.source_host);
    let sentence = match found.verdict {
        VerifyVerdict::Equal => format!("\"{pgdata}\" has what its source on {host} has."),
        VerifyVerdict::Wrong => {
            let faults = found.faults.len() as u64 + found.faults_more;
            let faults = words::counted(faults, "fault was", "faults were");
            format!("\"{pgdata}\" is not what its source on {host} is: {faults} found.")
        }
        VerifyVerdict::Incomplete => format!(
            "Nothing wrong was found in \"{pgdata}\" beside its source on {host}, but not all could be compared."
        ),
    };
    let _ = writeln!(text, "{sentence}");
}

/// One fault: where, what, and why it is no noise.
fn fault(fault: &FaultReport) -> String {
    let mut place = match (&fault.database, &fault.relation) {
        (Some(database), Some(relation)) => {
            format!(
                "{} in database {}, ",
                one_line(relation),
                one_line(database)
            )
        }
        _ => String::new(),
    };
    let _ = write!(place, "file \"{}\"", one_line(&fault.path));
    if let Some(block) = fault.block {
        let _ = write!(place, ", block {block}");
    }
    if let Some(page) = fault.page {
        let _ = write!(place, " ({page})");
    }
    let lsns = match (fault.source_lsn, fault.standby_lsn) {
        (None, None) => String::new(),
        (source, standby) => {
            let shown =
                |lsn: Option<_>| lsn.map_or_else(|| "none".to_owned(), |lsn| format!("{lsn}"));
            format!(
                "; LSN {} on the source, {} on the standby",
                shown(source),
                shown(standby)
            )
        }
    };
    format!("{}: {place} {}{lsns}", fault.code, fault.words)
}
