//! Errors in one line, and texts of others as a terminal may show them.

use std::error::Error;
use std::fmt::Write as _;

/// An error and the errors below it, each said once.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    line
}

/// A text with nothing in it that a terminal obeys: control characters, but for the ends of lines, and those that
/// turn the direction of writing are replaced.
#[must_use]
pub fn printable(text: &str) -> String {
    text.replace(is_obeyed, "\u{fffd}")
}

fn is_obeyed(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON in which a terminal finds nothing to obey: what serde leaves as it is within strings, and [`printable`] would
/// replace, is escaped (RFC 8259, section 7).
#[must_use]
pub fn quiet_json(json: &str) -> String {
    let mut quiet = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        if is_obeyed(c) {
            // Of these none is beyond the basic plane, so one escape is enough; writing to a string cannot fail.
            let _ = write!(quiet, "\\u{:04x}", u32::from(c));
        } else {
            quiet.push(c);
        }
    }
    quiet
}

/// As [`printable`], and without ends of lines: somebody else's text cannot look as if it were a line of ours.
#[must_use]
pub fn one_line(text: &str) -> String {
    printable(&text.replace(['\n', '\r', '\t'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_do_nothing_to_a_terminal() {
        for (text, line) in [
            ("b\u{e4}se \u{1f600} \"x\"", "b\u{e4}se \u{1f600} \"x\""),
            ("\x1b]52;c;eA==\x07", "\u{fffd}]52;c;eA==\u{fffd}"),
            ("a\npg_reseed: done\t1\r", "a pg_reseed: done 1 "),
            ("\u{9b}2J\u{7f}\u{202e}x", "\u{fffd}2J\u{fffd}\u{fffd}x"),
        ] {
            assert_eq!(one_line(text), line);
            assert_eq!(
                printable(text).matches('\n').count(),
                text.matches('\n').count()
            );
        }
    }

    #[test]
    fn json_says_the_same_and_does_nothing_to_a_terminal() {
        for text in [
            "\x1b]52;\x07",
            "\u{9b}2J\u{7f}\u{202e}x\u{2069}",
            "a\nb\t\"\\ \u{e4}\u{1f600}",
        ] {
            let json = serde_json::to_string_pretty(&[text]).unwrap();
            let quiet = quiet_json(&json);
            assert!(!quiet.contains(is_obeyed), "{quiet}");
            let back: Vec<String> = serde_json::from_str(&quiet).unwrap();
            assert_eq!(back, [text]);
        }
        assert_eq!(quiet_json("{\n  \"a\": 1\n}"), "{\n  \"a\": 1\n}");
    }

    #[test]
    fn causes_follow_and_are_not_said_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Link {
            text: &'static str,
            #[source]
            cause: Option<Box<Link>>,
        }
        let link = |text, cause: Option<Link>| Link {
            text,
            cause: cause.map(Box::new),
        };
        let full = link("no file", None);
        assert_eq!(
            chain(&link("could not open", Some(full))),
            "could not open: no file"
        );
        let full = link("no file", None);
        assert_eq!(
            chain(&link("trouble: no file", Some(full))),
            "trouble: no file"
        );
    }
}
