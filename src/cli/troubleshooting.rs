//! `docs/troubleshooting.md` is made of the messages themselves. `UPDATE_DOCS=1 cargo test troubleshooting` writes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::cli::exit::Status;
use crate::plan::contact::{NoContact, samples as contacts};
use crate::plan::refusal;
use crate::warning::Code;

const HEAD: &str = "\
# What it says, and what to do

Made of the messages themselves, with example values (`UPDATE_DOCS=1 cargo test troubleshooting`): look for a part of
what you see. An error says what happened, its detail in what state the target is and why, its hint what to do next.

The exit status tells how a run ended:

| status | meaning |
| --- | --- |
";

const REFUSALS: &str = "
## A check refuses (exit status 3)

Nothing was changed. `refusals` in the JSON of `--report` and `--progress json` has the names.
";

const CONTACTS: &str = "
## No agent answers (exit status 1)

Nothing was changed. The names and ports are those of an example.
";

const WARNINGS: &str = "
## Warnings

The run goes on. The codes stand in `warnings` of the report and in `--progress json`.

| code | meaning |
| --- | --- |
";

/// A sentence or several, as a line of Markdown. What stands in `<>` would be taken for a tag.
fn line(text: &str) -> String {
    text.replace('<', "&lt;").replace('\n', " ")
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (status, meaning) in &Status::MEANINGS {
        let _ = writeln!(page, "| {} | {meaning} |", *status as u8);
    }
    page.push_str(REFUSALS);
    let mut by_name = BTreeMap::<_, Vec<_>>::new();
    for refusal in refusal::samples() {
        by_name.entry(refusal.name()).or_default().push(refusal);
    }
    for (name, refusals) in by_name {
        let _ = write!(page, "\n### {name}\n");
        for refusal in refusals {
            let [error, detail, hint] =
                [refusal.error(), refusal.detail(), refusal.hint()].map(|text| line(&text));
            let _ = write!(page, "\n**{error}**  \n{detail}  \n→ {hint}\n");
        }
    }
    page.push_str(CONTACTS);
    let all = [
        contacts::of_ssh(),
        contacts::of_programs(),
        contacts::of_what_is_heard(),
        contacts::of_what_cannot_be_begun(),
    ];
    let mut told = Vec::new();
    for NoContact { error, hint, .. } in all.concat() {
        let (error, hint) = (line(&error), line(&hint));
        if !told.contains(&error) {
            let _ = write!(page, "\n**{error}**  \n→ {hint}\n");
            told.push(error);
        }
    }
    page.push_str(WARNINGS);
    for (_, name, meaning) in &Code::ALL {
        let _ = writeln!(page, "| {name} | {meaning} |");
    }
    page
}

#[test]
fn no_reason_to_refuse_is_missing_among_the_samples() {
    let (_, names) = include_str!("../plan/refusal/reason.rs")
        .split_once("pub fn name(")
        .unwrap();
    let names: Vec<_> = names
        .lines()
        .filter_map(|line| line.split_once("=> \"")?.1.split_once('"'))
        .map(|(name, _)| name)
        .collect();
    assert!(names.len() > 50, "{names:?}");
    let samples = refusal::samples();
    for name in names {
        assert!(
            samples.iter().any(|sample| sample.name() == name),
            "{name} has no sample"
        );
    }
}

#[test]
fn the_page_has_every_message_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/troubleshooting.md is not what is said: UPDATE_DOCS=1 cargo test troubleshooting"
    );
}
