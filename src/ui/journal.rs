//! Standard error as systemd's journal reads it: the journal knows the time, and takes the importance of a line from a
//! number before it (`sd-daemon(3)`).

use std::os::unix::fs::MetadataExt as _;

use crate::ui::Level;

/// The variable that says which stream leads to the journal (`systemd.exec(5)`).
const VARIABLE: &str = "JOURNAL_STREAM";

/// Whether standard error leads to the journal, and not to where a program that was started on the way sent it.
#[must_use]
pub fn is_read() -> bool {
    let named = std::env::var(VARIABLE).unwrap_or_default();
    let found = std::fs::metadata("/proc/self/fd/2");
    found.is_ok_and(|found| is_stream(&named, found.dev(), found.ino()))
}

fn is_stream(named: &str, device: u64, inode: u64) -> bool {
    named == format!("{device}:{inode}")
}

impl Level {
    /// What stands before a line of the journal.
    pub(super) fn priority(self) -> &'static str {
        match self {
            Level::Error => "<3>",
            Level::Warn => "<4>",
            Level::Info => "<6>",
            Level::Debug | Level::Trace => "<7>",
        }
    }
}

/// Lines as they are printed to people, each with its importance: what follows an error belongs to it.
#[must_use]
pub fn marked(text: &str) -> String {
    let mut marked = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let is = |part: &str| {
            line.strip_prefix("pg_reseed: ")
                .is_some_and(|rest| rest.starts_with(part))
        };
        let level = if is("error: ") || is("detail: ") || is("hint: ") {
            Level::Error
        } else if is("warning: ") {
            Level::Warn
        } else {
            Level::Info
        };
        marked.push_str(level.priority());
        marked.push_str(line);
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_told_by_its_numbers() {
        assert!(is_stream("8:4711", 8, 4711));
        for named in ["", "8:471", "8:47110", "08:4711", "8", "x"] {
            assert!(!is_stream(named, 8, 4711), "{named}");
        }
    }

    #[test]
    fn each_line_has_its_importance() {
        let text =
            "pg_reseed: error: no\npg_reseed: hint: Try.\npg_reseed: warning: careful\nSummary\n";
        assert_eq!(
            marked(text),
            "<3>pg_reseed: error: no\n<3>pg_reseed: hint: Try.\n<4>pg_reseed: warning: careful\n<6>Summary\n"
        );
    }
}
