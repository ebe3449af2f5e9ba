//! The rules of the house that no compiler knows: which module may know which, which words belong to
//! which floor, how long a file may be. Reads the sources; takes milliseconds.
//!
//! The floors are those of `ARCHITECTURE.md`. A rule that is in the way is changed here, with a reason,
//! and not worked around.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules by floor. Imports go downwards; from floor 3 up never sideways.
const FLOORS: [(u8, &[&str]); 9] = [
    (
        0,
        &[
            "buffer", "path", "geometry", "digest", "errors", "event", "turns", "warning",
        ],
    ),
    (1, &["pg"]),
    (2, &["facts", "manifest"]),
    (3, &["plan", "compare", "wire"]),
    (4, &["disk", "sql", "link", "postmaster", "workers"]),
    (5, &["client", "agent"]),
    (6, &["ui"]),
    // The command line starts the display, so it stands above it.
    (7, &["cli"]),
    (8, &["main"]),
];

/// The lowest floor from which nobody imports sideways.
const NEVER_SIDEWAYS_FROM: u8 = 3;

/// Files and rooms of `client`, from the bottom: each knows those before it only, so that what moves never asks
/// what ends a run. Those within one line are free to know each other.
const ROOMS: [&[&str]; 6] = [
    &[
        "asking", "clock", "command", "failure", "options", "outcome", "record", "run", "source",
    ],
    &["look"],
    &["close"],
    &["transfer"],
    &["finish"],
    &[
        "carry", "inspect", "needed", "prepare", "rebuild", "status", "survey", "verify",
    ],
];

/// Words that a floor must not contain, up to the floor given, and why.
const FORBIDDEN_UP_TO: [(u8, &[&str], &str); 3] = [
    (
        3,
        &[
            "tokio",
            "std::fs",
            "std::net",
            "std::os::unix::net",
            "std::process",
            "std::thread",
            "std::env",
            "std::time::SystemTime",
            "std::time::Instant",
            "SystemTime::now",
            "Instant::now",
            "getrandom",
        ],
        "floors 0 to 3 are pure: no runtime, file, socket, process, clock, environment or randomness",
    ),
    (
        5,
        &[
            "println!",
            "eprintln!",
            "print!",
            "eprint!",
            "std::io::stdout",
            "io::stderr",
        ],
        "printing belongs to `cli` and `ui`",
    ),
    (
        7,
        &["std::process::exit", "process::abort"],
        "the exit status goes through `main`",
    ),
];

/// Words that one floor must not contain.
const FORBIDDEN_ON: [(u8, &[&str], &str); 3] = [
    (5, &["SELECT "], "SQL text belongs to `sql`"),
    (
        5,
        // The acts; the type `std::fs::File` may pass through.
        &[
            "fs::canonicalize",
            "fs::copy",
            "fs::create",
            "fs::metadata",
            "fs::read",
            "fs::remove",
            "fs::rename",
            "fs::symlink",
            "fs::write",
            "File::create",
            "File::open",
            "OpenOptions",
        ],
        "file calls belong to `disk`",
    ),
    (
        6,
        &["crate::disk", "crate::sql", "crate::link", "crate::wire"],
        "`ui` listens; it does not act",
    ),
];

/// Libraries and the one module that may name them: a library that has one home can be replaced.
const HOMES: [(&str, &[&str]); 24] = [
    ("blake3", &["digest"]),
    ("clap", &["cli", "ui"]),
    ("crc32c", &["pg"]),
    ("fast_rsync", &["compare"]),
    ("getrandom", &["client"]),
    ("indicatif", &["ui"]),
    ("jiff", &["client"]),
    ("landlock", &["disk"]),
    ("listenfd", &["cli"]),
    ("lz4_flex", &["wire"]),
    ("memmap2", &["buffer"]),
    ("postcard", &["wire"]),
    ("rayon", &["workers"]),
    ("rustix", &["disk", "link", "postmaster", "workers"]),
    ("rustls", &["link"]),
    ("sd_notify", &["cli"]),
    ("shlex", &["client", "link", "postmaster"]),
    ("strsim", &["cli"]),
    ("tokio_postgres", &["sql"]),
    ("webpki", &["link"]),
    ("toml", &["cli"]),
    ("tracing_subscriber", &["ui"]),
    ("walkdir", &["disk"]),
    ("zstd", &["wire"]),
];

/// What a module must not name although the floors allow it.
const NEVER: [(&str, &[&str], &str); 1] = [(
    "agent",
    &["disk::target", "disk::durable", "disk::clone"],
    "the agent cannot write",
)];

/// What starts another program, and the modules that may.
const RUN: &str = "process::Command";
const MAY_RUN: [&str; 2] = ["link", "postmaster"];

/// Files that still do it elsewhere.
const STILL_RUN: &[&str] = &[];

/// Files may have this many lines.
const LINES_MAX: usize = 600;

/// Files that are longer, with their reason.
const LONGER: &[(&str, &str)] = &[
    ("cli/args.rs", "one definition for each option"),
    (
        "cli/exit.rs",
        "one list of statuses for each command; a fifth is its tests",
    ),
    (
        "cli/resolve.rs",
        "one meaning for each option; a third is its tests",
    ),
    ("client/source.rs", "one call for each request"),
    ("pg/conninfo.rs", "one grammar; a third is its tests"),
    (
        "pg/control.rs",
        "one file format of six versions; half is its tests",
    ),
    ("pg/layout.rs", "one table of names; a third is its tests"),
    ("plan/action.rs", "two thirds are tests"),
    ("plan/standby.rs", "half is its tests"),
    ("ui/status.rs", "a third is its tests"),
    ("it/guards.rs", "one test for each guard"),
    ("tidy.rs", "one rule a line; a quarter is its tests"),
];

/// `main.rs` is a door.
const MAIN_LINES_MAX: usize = 60;

/// A source file without its tests, comments and strings.
struct Source {
    /// Below `src`.
    path: String,
    /// The first component of the path: `client` for `client/look.rs`.
    module: String,
    /// Lines with comments and strings blanked, up to the tests.
    code: Vec<String>,
    /// The same with strings.
    code_with_strings: Vec<String>,
    lines: usize,
    is_test: bool,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let module = path.split(['/', '.']).next().unwrap().to_owned();
        let code = |keeps_strings| {
            blank(text, keeps_strings)
                .lines()
                .map(str::to_owned)
                .take_while(|line| line.trim() != "#[cfg(test)]" || line.starts_with(' '))
                .collect()
        };
        Self {
            path: path.to_owned(),
            module,
            code: code(false),
            code_with_strings: code(true),
            lines: text.lines().count(),
            is_test: false,
        }
    }

    fn floor(&self) -> Option<u8> {
        floor_of(&self.module)
    }
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(_, modules)| modules.contains(&module))
        .map(|(floor, _)| *floor)
}

/// Replaces comments, and strings unless they are kept, by blanks, so that line numbers stay.
fn blank(text: &str, keeps_strings: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (taken, keeps) = token(rest, first);
        let piece = &rest[..taken];
        let is_string = keeps == Keeps::IfStrings;
        if keeps == Keeps::Always || (is_string && keeps_strings) {
            out.push_str(piece);
        } else {
            out.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = &rest[taken..];
    }
    out
}

#[derive(PartialEq, Clone, Copy)]
enum Keeps {
    Always,
    IfStrings,
    Never,
}

/// Length of the token at the beginning of the text, and whether it stays.
fn token(text: &str, first: char) -> (usize, Keeps) {
    if text.starts_with("//") {
        return (text.find('\n').unwrap_or(text.len()), Keeps::Never);
    }
    if text.starts_with("/*") {
        let end = text.find("*/").map_or(text.len(), |end| end + 2);
        return (end, Keeps::Never);
    }
    if let Some(length) = raw_string(text) {
        return (length, Keeps::IfStrings);
    }
    if first == '"' {
        return (quoted(text), Keeps::IfStrings);
    }
    // A quote as a character would begin a string.
    for character in ["'\"'", "'\\\"'", "'\\''"] {
        if text.starts_with(character) {
            return (character.len(), Keeps::IfStrings);
        }
    }
    // A whole word at once, so that the r of "error" begins no raw string.
    let word = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    let length = match word {
        Some(0) => first.len_utf8(),
        Some(length) => length,
        None => text.len(),
    };
    (length, Keeps::Always)
}

/// Length of a raw string, `r"..."` or `br#"..."#`.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = if text.starts_with("br") { 2 } else { 1 };
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body
        .find(&close)
        .map_or(body.len(), |end| end + close.len());
    Some(prefix + hashes + 1 + end)
}

/// Length of a string with escapes.
fn quoted(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// The roots of this package's own paths.
const OWN: &[&str] = &["crate::", "pg_reseed::"];

/// All paths behind these roots that the code names, with their lines: `a::b` and `a::c` of
/// `crate::a::{b, c}`; `a as` where `a` gets another name.
fn named_paths(code: &str, roots: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in roots {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let line = code[..at].matches('\n').count();
            let rest = &code[at + root.len()..];
            let mut paths = Vec::new();
            tree(rest, "", &mut paths);
            found.extend(paths.into_iter().map(|path| (line, path)));
        }
    }
    found
}

/// Reads the tree of a `use`, or a plain path, at the beginning of the text; returns what follows it.
fn tree<'a>(text: &'a str, above: &str, paths: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if rest.is_empty() {
                return rest;
            }
            if let Some(behind) = rest.strip_prefix('}') {
                return behind;
            }
            let behind = tree(rest, above, paths);
            if behind.len() == rest.len() {
                // No tree after all: a macro, perhaps.
                return behind;
            }
            rest = behind;
        }
    }
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let end = if text.starts_with('*') { 1 } else { end };
    let (name, rest) = text.split_at(end);
    let path = match (above, name) {
        (above, "self") => above.to_owned(),
        ("", name) => name.to_owned(),
        (above, name) => format!("{above}::{name}"),
    };
    if let Some(below) = rest.trim_start().strip_prefix("::") {
        return tree(below, &path, paths);
    }
    if let Some(new) = rest.trim_start().strip_prefix("as ") {
        paths.push(format!("{path} as"));
        let new = new.trim_start();
        let end = new.find(|c: char| !c.is_alphanumeric() && c != '_');
        return &new[end.unwrap_or(new.len())..];
    }
    paths.push(path);
    rest
}

/// Lines of the code that name a path of at least two parts, or something within it, however it is
/// written: at full length, in braces, through an import of what is above it. What is above it must
/// neither get another name nor be imported with a star.
fn lines_with(source: &Source, roots: &[&str], wanted: &str) -> BTreeSet<usize> {
    let (above, _) = wanted.rsplit_once("::").unwrap();
    let is_wanted = |path: &str| {
        let path = path.trim_end_matches(" as");
        path == wanted || path.starts_with(&format!("{wanted}::"))
    };
    let hides_it = |path: &str| path == format!("{above}::*") || path == format!("{above} as");
    let by_paths = named_paths(&source.code.join("\n"), roots)
        .into_iter()
        .filter(|(_, path)| is_wanted(path) || hides_it(path))
        .map(|(line, _)| line + 1);
    let by_words = (1..)
        .zip(&source.code)
        .filter(|(_, line)| has(line, wanted))
        .map(|(number, _)| number);
    by_paths.chain(by_words).collect()
}

/// Everything in a file that breaks a rule.
fn faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let path = &source.path;
    let limit = if path == "main.rs" {
        MAIN_LINES_MAX
    } else {
        LINES_MAX
    };
    let is_listed = LONGER.iter().any(|(longer, _)| longer == path);
    if source.lines > limit && !is_listed {
        let lines = source.lines;
        faults.push(format!(
            "{path}: {lines} lines: look for the second idea in it"
        ));
    }
    if path == "lib.rs" || source.is_test {
        return faults;
    }
    let Some(floor) = source.floor() else {
        faults.push(format!(
            "{path}: stands on no floor: see FLOORS in tests/tidy.rs"
        ));
        return faults;
    };
    imports(source, floor, &mut faults);
    rooms(source, &mut faults);
    words(source, floor, &mut faults);
    barred(source, &mut faults);
    faults
}

fn imports(source: &Source, floor: u8, faults: &mut Vec<String>) {
    let Source {
        path, module, code, ..
    } = source;
    for (line, name) in named_paths(&code.join("\n"), OWN) {
        let name = name.split([':', ' ']).next().unwrap();
        let Some(other) = floor_of(name) else {
            // A macro or an item of lib.rs; the compiler knows whether it exists.
            continue;
        };
        let is_sideways = other == floor && name != *module && floor >= NEVER_SIDEWAYS_FROM;
        if other > floor || is_sideways {
            let line = line + 1;
            faults.push(format!(
                "{path}:{line}: `{module}` (floor {floor}) must not know `{name}` (floor {other})"
            ));
        }
    }
    // So many times `super` reach the root, past the check above.
    let depth = path.matches('/').count() + usize::from(!path.ends_with("mod.rs"));
    let to_root = "super::".repeat(depth);
    for (number, _) in (1..).zip(code).filter(|(_, line)| line.contains(&to_root)) {
        faults.push(format!("{path}:{number}: leave out `super`, write `crate`"));
    }
}

/// Imports within `client`, room by room.
fn rooms(source: &Source, faults: &mut Vec<String>) {
    let room_of = |name: &str| ROOMS.iter().position(|room| room.contains(&name));
    let Some(below) = source.path.strip_prefix("client/") else {
        return;
    };
    let name = below.split(['/', '.']).next().unwrap();
    if name == "mod" {
        return;
    }
    let Some(own) = room_of(name) else {
        let path = &source.path;
        faults.push(format!(
            "{path}: stands in no room: see ROOMS in tests/tidy.rs"
        ));
        return;
    };
    for (line, path) in named_paths(&source.code.join("\n"), OWN) {
        let Some(other) = path.strip_prefix("client::") else {
            continue;
        };
        let other = other.split([':', ' ']).next().unwrap();
        if room_of(other).is_some_and(|room| room > own) {
            let (path, line) = (&source.path, line + 1);
            faults.push(format!("{path}:{line}: `{name}` must not know `{other}`"));
        }
    }
}

fn words(source: &Source, floor: u8, faults: &mut Vec<String>) {
    let Source { path, module, .. } = source;
    let by_floor = FORBIDDEN_UP_TO
        .iter()
        .filter(|(up_to, _, _)| floor <= *up_to)
        .map(|(_, words, why)| (*words, *why));
    let on_floor = FORBIDDEN_ON
        .iter()
        .filter(|(on, _, _)| floor == *on)
        .map(|(_, words, why)| (*words, *why));
    for (words, why) in by_floor.chain(on_floor) {
        for word in words {
            // SQL is text.
            let code = if *word == "SELECT " {
                &source.code_with_strings
            } else {
                &source.code
            };
            for (number, _) in code.iter().enumerate().filter(|(_, line)| has(line, word)) {
                let number = number + 1;
                faults.push(format!("{path}:{number}: \"{word}\": {why}"));
            }
        }
    }
    for (library, homes) in HOMES {
        if homes.contains(&module.as_str()) {
            continue;
        }
        for (number, line) in source.code.iter().enumerate() {
            if has(line, &format!("{library}::")) {
                let (number, home) = (number + 1, homes.join("`, `"));
                faults.push(format!(
                    "{path}:{number}: `{library}` is at home in `{home}`"
                ));
            }
        }
    }
}

/// What the module must not name, however it is written.
fn barred(source: &Source, faults: &mut Vec<String>) {
    let Source { path, module, .. } = source;
    for (of, names, why) in NEVER {
        for name in names.iter().filter(|_| of == module) {
            for line in lines_with(source, OWN, name) {
                faults.push(format!("{path}:{line}: \"{name}\": {why}"));
            }
        }
    }
    let may_run = MAY_RUN.contains(&module.as_str()) || STILL_RUN.contains(&path.as_str());
    if !may_run {
        let homes = MAY_RUN.join("`, `");
        for line in lines_with(source, &["std::", "tokio::"], RUN) {
            faults.push(format!(
                "{path}:{line}: only `{homes}` start other programs"
            ));
        }
    }
}

/// Whether the line has the word, and not as the end of a longer one.
fn has(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files with this ending below a directory, in order.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let entries = fs::read_dir(directory).unwrap();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            all.extend(files(&path, ending));
        } else if path.extension().is_some_and(|found| found == ending) {
            all.push(path);
        }
    }
    all.sort();
    all
}

fn sources(directory: &str) -> Vec<Source> {
    let directory = root().join(directory);
    if !directory.exists() {
        return Vec::new();
    }
    files(&directory, "rs")
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let below = path.strip_prefix(&directory).unwrap();
            Source::new(below.to_str().unwrap(), &text)
        })
        .collect()
}

fn all_faults() -> Vec<String> {
    let tests = ["tests", "benches"].into_iter().flat_map(sources);
    let tests = tests.map(|source| Source {
        is_test: true,
        ..source
    });
    let all: Vec<_> = sources("src").into_iter().chain(tests).collect();
    let mut found: Vec<String> = all.iter().flat_map(faults).collect();
    for (path, _) in LONGER {
        if !all.iter().any(|s| s.path == *path && s.lines > LINES_MAX) {
            found.push(format!(
                "{path}: not longer than {LINES_MAX} lines: take it off LONGER"
            ));
        }
    }
    for path in STILL_RUN {
        let runs = |s: &&Source| s.path == *path && s.code.iter().any(|line| has(line, RUN));
        if !all.iter().any(|s| runs(&s)) {
            found.push(format!("{path}: starts no program: take it off STILL_RUN"));
        }
    }
    found
}

#[test]
fn the_house_is_tidy() {
    let mut text = String::new();
    for fault in all_faults() {
        writeln!(text, "{fault}").unwrap();
    }
    assert!(text.is_empty(), "\n{text}");
}

#[test]
fn every_test_file_of_it_is_named_in_its_main() {
    let directory = root().join("tests/it");
    if !directory.exists() {
        return;
    }
    for path in files(&directory, "rs") {
        // What declares a module is the main file of its folder, or of the folder above.
        let is_main = path == directory.join("main.rs");
        let module = if path.ends_with("mod.rs") {
            path.parent().unwrap()
        } else {
            &path
        };
        let folder = module.parent().unwrap();
        let main = if folder == directory {
            "main.rs"
        } else {
            "mod.rs"
        };
        let declares = fs::read_to_string(folder.join(main)).unwrap_or_default();
        let name = module.file_stem().unwrap().to_str().unwrap();
        assert!(
            is_main || declares.contains(&format!("\nmod {name};\n")),
            "{} forgets {name}",
            folder.join(main).display()
        );
    }
}

/// An attack in SECURITY.md whose test is gone would be a promise that nobody keeps.
#[test]
fn every_test_that_the_security_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let names = page.split('`').filter_map(|words| words.split_once("::"));
    let mut found = 0;
    for (module, test) in names {
        let file = root.join("tests/it").join(format!("{module}.rs"));
        let source = fs::read_to_string(&file).unwrap_or_default();
        // One that ends with an ellipsis stands for several.
        let begin = test.trim_end_matches('…');
        let end = if begin == test { "()" } else { "" };
        assert!(
            source.contains(&format!("fn {begin}{end}")),
            "{module}::{test}"
        );
        found += 1;
    }
    assert!(found > 10, "{found}");
}

mod the_checker {
    use super::*;

    fn faults_of(path: &str, text: &str) -> String {
        faults(&Source::new(path, text)).join("\n")
    }

    #[test]
    fn finds_imports_that_go_up_or_sideways() {
        for (path, text) in [
            ("pg/lsn.rs", "use crate::facts::SourceFacts;"),
            ("plan/guard.rs", "use crate::client::options::Options;"),
            ("plan/guard.rs", "use crate::wire::message::Request;"),
            ("agent/serve.rs", "use crate::{pg::lsn::Lsn, client::look};"),
            ("client/look.rs", "fn f() { crate::agent::serve::serve(); }"),
            (
                "disk/walk.rs",
                "use crate::{\n    path::{RelPath, parse},\n    sql::slot,\n};",
            ),
            ("client/look.rs", "use super::super::agent;"),
            ("client/look/conf.rs", "use crate::client::finish::wal;"),
            (
                "client/transfer/land.rs",
                "use crate::client::{look::conf, carry::carry_out};",
            ),
            ("client/attic/land.rs", ""),
            ("postmaster.rs", "use super::sql;"),
        ] {
            assert!(!faults_of(path, text).is_empty(), "{path}: {text}");
        }
    }

    #[test]
    fn finds_forbidden_words_and_libraries_away_from_home() {
        for (path, text) in [
            (
                "plan/guard.rs",
                "fn f() { let t = std::time::Instant::now(); }",
            ),
            (
                "wire/codec.rs",
                "async fn f(r: impl tokio::io::AsyncRead) {}",
            ),
            ("compare/blocks.rs", "fn f() { rayon::spawn(|| ()); }"),
            ("client/look.rs", "fn f() { std::fs::read(\"x\"); }"),
            ("client/look.rs", "const Q: &str = \"SELECT 1\";"),
            ("client/look.rs", "fn f() { println!(\"x\"); }"),
            ("agent/tree.rs", "use crate::disk::target::ClosedTarget;"),
            ("agent/tree.rs", "use crate::disk::{read, target};"),
            (
                "agent/tree.rs",
                "use crate::{\n    disk::{\n        read::{self, read_padded},\n        target as t,\n    },\n};",
            ),
            (
                "agent/tree.rs",
                "use crate::disk;\nfn f() { disk::target::f(); }",
            ),
            ("agent/tree.rs", "use crate::disk::*;"),
            ("agent/tree.rs", "use crate::disk as d;"),
            ("agent/tree.rs", "use crate::disk::{self as d, read};"),
            ("client/look.rs", "use std::process::{Command, Stdio};"),
            (
                "client/look.rs",
                "fn f() { tokio::process::Command::new(\"ls\"); }",
            ),
            (
                "disk/walk.rs",
                "use tokio::process;\nfn f() { process::Command::new(\"ls\"); }",
            ),
            ("agent/tree.rs", "use rustix::fs::RawDir;"),
            ("sql/slot.rs", "use clap::Parser;"),
            ("nowhere.rs", ""),
        ] {
            assert!(!faults_of(path, text).is_empty(), "{path}: {text}");
        }
        assert!(!faults_of("pg/lsn.rs", &"\n".repeat(LINES_MAX + 1)).is_empty());
        assert!(!faults_of("main.rs", &"\n".repeat(MAIN_LINES_MAX + 1)).is_empty());
    }

    #[test]
    fn lets_the_lawful_pass() {
        for (path, text) in [
            (
                "pg/lsn.rs",
                "//! Like tokio, but crate::client is not meant.\nuse super::timeline::TimelineId;",
            ),
            (
                "pg/lsn.rs",
                "const S: &str = \"use crate::client; // \\\" std::fs\"; use crate::path::RelPath;",
            ),
            (
                "pg/lsn.rs",
                "const S: &str = r#\"a \"std::fs\" b\"#; const Q: char = '\"';",
            ),
            (
                "plan/guard.rs",
                "use crate::facts::SourceFacts;\n#[cfg(test)]\nmod tests { use crate::client; }",
            ),
            (
                "client/look.rs",
                "use crate::{plan::guard, wire::message::Request};\nuse super::options;",
            ),
            (
                "agent/tree.rs",
                "use crate::disk::{DiskError, facts as disk_facts, read::*, walk::{self, Kind}};",
            ),
            (
                "client/look.rs",
                "use std::process::{self, Stdio};\nfn f() { process::id(); }",
            ),
            (
                "postmaster.rs",
                "fn f() { std::process::Command::new(\"pg_ctl\"); }",
            ),
            ("cli/mod.rs", "use crate::cli::args::{Command, Style};"),
            ("facts.rs", "use crate::manifest::Entry;"),
            ("cli/mod.rs", "use crate::ui::Ui;"),
            (
                "compare/blocks.rs",
                "/* rayon::spawn */ fn precursor_crate() {}",
            ),
            ("ui/plain.rs", "fn f() { let my_println = 1; }"),
        ] {
            assert_eq!(faults_of(path, text), "", "{path}: {text}");
        }
    }
}
