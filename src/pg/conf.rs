//! Configuration files as the server reads them: postgresql.conf and postgresql.auto.conf.
//!
//! The grammar is that of `src/backend/utils/misc/guc-file.l` (`ParseConfigFp`, `GUC_scanstr`), the
//! quoting that of `escape_single_quotes_ascii` (`src/port/quotes.c`), with which `ALTER SYSTEM`
//! writes. Opens no file: an include is reported, not followed, and no name is checked against the
//! settings that exist.

use std::collections::BTreeMap;

/// Settings that name files of certificates and keys, or (the first, from 19 on) a list of these: their host's own.
pub const KEY_FILES: [&str; 8] = [
    "hosts_file",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_crl_dir",
    "ssl_crl_file",
    "ssl_dh_params_file",
    "ssl_key_file",
    "krb_server_keyfile",
];

/// One line that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Counts from 1.
    pub number: usize,
    pub directive: Directive,
    /// Whether the name stands there in lower case: the server looks for `data_directory` in no other spelling
    /// (`strcmp` in `guc.c:ProcessConfigFileInternal`).
    pub is_lower_case: bool,
}

/// What a line says. Text that is not UTF-8 has its bad bytes replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directive {
    Setting {
        /// In lower case: names are compared without regard to it.
        name: String,
        /// Without its quotes and escapes.
        value: String,
    },
    /// Read this file here, and refuse to start without it.
    Include(String),
    /// Read this file here if it exists.
    IncludeIfExists(String),
    /// Read all files in this directory whose names end in `.conf` and begin with no dot, by name.
    IncludeDir(String),
}

/// The first line that the server would refuse; it then refuses to start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in line {line} of the configuration file, near \"{near}\"")]
pub struct ConfError {
    /// Counts from 1.
    pub line: usize,
    /// Where the line stops making sense.
    pub near: String,
}

/// Why a value cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    #[error("the value contains a line end")]
    Newline,
    #[error("the value contains a NUL byte")]
    Nul,
}

/// Parses a configuration file into the lines that say something, in their order.
///
/// # Errors
/// [`ConfError`] for the first line that is neither empty nor a directive.
pub fn parse(text: &[u8]) -> Result<Vec<Line>, ConfError> {
    let mut lines = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        match parse_line(line) {
            Ok(None) => {}
            Ok(Some(directive)) => lines.push(Line {
                number,
                directive,
                is_lower_case: is_lower_case(line),
            }),
            Err(rest) => {
                let near = String::from_utf8_lossy(&line[line.len() - rest..]);
                return Err(ConfError {
                    line: number,
                    near: near.trim_end().to_owned(),
                });
            }
        }
    }
    Ok(lines)
}

/// Whether the name that a line begins with has no capital letter.
fn is_lower_case(line: &[u8]) -> bool {
    let name = line.trim_ascii_start();
    let length = run(name, is_letter_or_digit);
    !name[..length].iter().any(u8::is_ascii_uppercase)
}

/// The settings that hold after all lines: the last line of each name wins. Includes are not
/// followed, and what they set is not here.
#[must_use]
pub fn effective(lines: &[Line]) -> BTreeMap<String, String> {
    lines
        .iter()
        .filter_map(|line| match &line.directive {
            Directive::Setting { name, value } => Some((name.clone(), value.clone())),
            _ => None,
        })
        .collect()
}

/// Removes every line that sets one of the names in `remove` or `set`, in whatever spelling, keeps
/// all else byte for byte, and appends one line for each pair of `set`.
///
/// A line that the server could not read is kept too. Doing it again changes nothing. If `set` has
/// a name twice, the last pair counts. Each value should pass [`quote_value`]; where one does not,
/// a line end is written as an escape, which the server reads as the same value, and a NUL byte,
/// which no value can have, is left out.
#[must_use]
pub fn rewrite(text: &[u8], remove: &[&str], set: &[(&str, &str)]) -> Vec<u8> {
    let is_replaced = |name: &str| {
        let mut names = remove.iter().chain(set.iter().map(|(name, _)| name));
        names.any(|replaced| replaced.eq_ignore_ascii_case(name))
    };
    let mut result = edit(text, |directive| match directive {
        Directive::Setting { name, .. } if is_replaced(name) => Edit::Remove,
        _ => Edit::Keep,
    });
    for (index, (name, value)) in set.iter().enumerate() {
        let later = &set[index + 1..];
        if later
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(name))
        {
            continue;
        }
        if result.last().is_some_and(|byte| *byte != b'\n') {
            result.push(b'\n');
        }
        let escaped = value.replace('\0', "");
        let quoted = quote(&escaped).replace('\n', "\\n");
        result.extend_from_slice(format!("{name} = {quoted}\n").as_bytes());
    }
    result
}

/// What becomes of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    Keep,
    Remove,
    /// The line says this instead; its comment goes.
    Replace(String),
}

/// Edits the lines that say something, and keeps all else byte for byte, also what the server could not read.
pub fn edit(text: &[u8], mut decide: impl FnMut(&Directive) -> Edit) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        let edit = match parse_line(content) {
            Ok(Some(directive)) => decide(&directive),
            _ => Edit::Keep,
        };
        match edit {
            Edit::Keep => result.extend_from_slice(line),
            Edit::Remove => {}
            Edit::Replace(text) => {
                result.extend_from_slice(text.as_bytes());
                result.extend_from_slice(&line[content.len()..]);
            }
        }
    }
    result
}

/// Quotes a value for a configuration file: single quotes around it, quotes and backslashes in it doubled.
///
/// # Errors
/// [`QuoteError`] for a line end, which no quoting carries as it is, and for NUL.
pub fn quote_value(value: &str) -> Result<String, QuoteError> {
    if value.contains('\n') {
        Err(QuoteError::Newline)
    } else if value.contains('\0') {
        Err(QuoteError::Nul)
    } else {
        Ok(quote(value))
    }
}

fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// One line without its end: a directive, nothing, or how many bytes at its end make no sense.
fn parse_line(line: &[u8]) -> Result<Option<Directive>, usize> {
    let mut rest = line;
    let name = match next_token(&mut rest)? {
        None => return Ok(None),
        Some((Token::Name | Token::QualifiedName, name)) => name,
        Some((_, text)) => return Err(rest.len() + text.len()),
    };
    let mut token = next_token(&mut rest)?;
    if matches!(token, Some((Token::Equals, _))) {
        token = next_token(&mut rest)?;
    }
    let value = match token {
        Some((Token::String, text)) => unquote(text),
        Some((Token::Name | Token::Bare | Token::Number, text)) => text.to_vec(),
        // A value with a dot in the middle must be quoted, odd as it is.
        Some((Token::QualifiedName | Token::Equals, text)) => return Err(rest.len() + text.len()),
        None => return Err(0),
    };
    if let Some((_, text)) = next_token(&mut rest)? {
        return Err(rest.len() + text.len());
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let value = String::from_utf8_lossy(&value).into_owned();
    Ok(Some(match name.as_str() {
        "include" => Directive::Include(value),
        "include_if_exists" => Directive::IncludeIfExists(value),
        "include_dir" => Directive::IncludeDir(value),
        _ => Directive::Setting { name, value },
    }))
}

/// What the server's scanner tells apart.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
enum Token {
    /// `work_mem`
    Name,
    /// `plpgsql.extra_warnings`
    QualifiedName,
    /// `'quoted'`
    String,
    /// `C.UTF-8`, `/no/leading/slash` excepted
    Bare,
    /// `-1`, `0x1F`, `16MB`, `0.5`
    Number,
    Equals,
}

/// Takes the next token of a line off `rest`; `None` at the end and before a comment.
///
/// The longest match wins; of equally long ones that which is listed first in the scanner.
fn next_token<'a>(rest: &mut &'a [u8]) -> Result<Option<(Token, &'a [u8])>, usize> {
    while let [b' ' | b'\t' | b'\r', tail @ ..] = *rest {
        *rest = tail;
    }
    let (token, length) = match rest.first() {
        None | Some(b'#') => return Ok(None),
        Some(b'=') => (Token::Equals, 1),
        Some(b'\'') => (Token::String, string_length(rest).ok_or(rest.len())?),
        Some(byte) if is_letter(*byte) => word(rest),
        Some(_) => (Token::Number, number_length(rest).ok_or(rest.len())?),
    };
    let (text, tail) = rest.split_at(length);
    *rest = tail;
    Ok(Some((token, text)))
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

fn is_letter_or_digit(byte: u8) -> bool {
    is_letter(byte) || byte.is_ascii_digit()
}

/// How many bytes from the start satisfy `is_part`.
fn run(bytes: &[u8], is_part: impl Fn(u8) -> bool) -> usize {
    bytes
        .iter()
        .position(|byte| !is_part(*byte))
        .unwrap_or(bytes.len())
}

/// A token that begins with a letter.
fn word(bytes: &[u8]) -> (Token, usize) {
    let bare = run(bytes, |byte| {
        is_letter_or_digit(byte) || matches!(byte, b'-' | b'.' | b'_' | b':' | b'/')
    });
    let name = run(bytes, is_letter_or_digit);
    if name == bare {
        return (Token::Name, name);
    }
    if let [b'.', second @ ..] = &bytes[name..]
        && second.first().is_some_and(|byte| is_letter(*byte))
        && name + 1 + run(second, is_letter_or_digit) == bare
    {
        return (Token::QualifiedName, bare);
    }
    (Token::Bare, bare)
}

/// The length of a quoted string with its quotes, if it ends.
fn string_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match bytes.get(at..)? {
            [b'\'', b'\'', ..] | [b'\\', _, ..] => at += 2,
            [b'\'', ..] => return Some(at + 1),
            [b'\\'] | [] => return None,
            _ => at += 1,
        }
    }
}

/// The length of an integer with its unit, or of a real number, whichever is longer.
fn number_length(bytes: &[u8]) -> Option<usize> {
    let sign = usize::from(matches!(bytes.first(), Some(b'-' | b'+')));
    let body = &bytes[sign..];
    let digits = run(body, |byte| byte.is_ascii_digit());
    let hex = body
        .strip_prefix(b"0x")
        .map(|hex| run(hex, |byte| byte.is_ascii_hexdigit()))
        .filter(|length| *length > 0)
        .map(|length| length + 2);
    let number = hex.or_else(|| (digits > 0).then_some(digits));
    let integer = number.map(|length| length + run(&body[length..], |b| b.is_ascii_alphabetic()));
    let real = body[digits..].strip_prefix(b".").map(|fraction| {
        let length = run(fraction, |byte| byte.is_ascii_digit());
        digits + 1 + length + exponent_length(&fraction[length..])
    });
    integer.max(real).map(|length| sign + length)
}

/// The length of `e-5`, or 0.
fn exponent_length(bytes: &[u8]) -> usize {
    let [b'e' | b'E', body @ ..] = bytes else {
        return 0;
    };
    let sign = usize::from(matches!(body.first(), Some(b'-' | b'+')));
    match run(&body[sign..], |byte| byte.is_ascii_digit()) {
        0 => 0,
        digits => 1 + sign + digits,
    }
}

/// The value of a quoted string, given with its quotes.
fn unquote(text: &[u8]) -> Vec<u8> {
    let mut rest = &text[1..text.len() - 1];
    let mut value = Vec::with_capacity(rest.len());
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        let Some((next, after)) = rest.split_first() else {
            value.push(*byte);
            break;
        };
        let meant = match (byte, next) {
            (b'\\', b'0'..=b'7') => {
                let length = run(rest, |byte| matches!(byte, b'0'..=b'7')).min(3);
                let (digits, tail) = rest.split_at(length);
                rest = tail;
                // Three digits may exceed a byte; the server too keeps the low eight bits.
                value.push(digits.iter().fold(0u8, |number, digit| {
                    number.wrapping_mul(8).wrapping_add(digit - b'0')
                }));
                continue;
            }
            (b'\\', b'b') => 0x08,
            (b'\\', b'f') => 0x0C,
            (b'\\', b'n') => b'\n',
            (b'\\', b'r') => b'\r',
            (b'\\', b't') => b'\t',
            (b'\\', _) | (b'\'', b'\'') => *next,
            _ => {
                value.push(*byte);
                continue;
            }
        };
        value.push(meant);
        rest = after;
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn setting(name: &str, value: &str) -> Directive {
        Directive::Setting {
            name: name.to_owned(),
            value: value.to_owned(),
        }
    }

    fn one(line: &str) -> Option<Directive> {
        let mut lines = parse(line.as_bytes()).ok()?;
        assert_eq!(lines.len(), 1, "{line}");
        lines.pop().map(|line| line.directive)
    }

    #[test]
    fn settings_are_read_as_the_server_does() {
        for (line, name, value) in [
            ("port = 5432", "port", "5432"),
            ("port 5432", "port", "5432"),
            ("port=5432", "port", "5432"),
            ("  PORT\t=\t5432 # comment\r", "port", "5432"),
            ("shared_buffers = 16MB", "shared_buffers", "16MB"),
            ("a = 0x1Fk", "a", "0x1Fk"),
            ("a = -1", "a", "-1"),
            ("a = +.5e-3", "a", "+.5e-3"),
            ("a = 1.", "a", "1."),
            ("a = on", "a", "on"),
            ("a = C.UTF-8", "a", "C.UTF-8"),
            ("a = de/DE:x", "a", "de/DE:x"),
            ("x.y = 'z'", "x.y", "z"),
            ("a = ''", "a", ""),
            ("a = 'it''s'", "a", "it's"),
            (r"a = 'it\'s'", "a", "it's"),
            (r"a = 'c:\\d \q \t\101\18'", "a", "c:\\d q \tA\u{1}8"),
            ("a = 'x # no comment'", "a", "x # no comment"),
            ("a='x'#y", "a", "x"),
            ("größe = 'é'", "größe", "é"),
        ] {
            assert_eq!(one(line), Some(setting(name, value)), "{line}");
        }
    }

    #[test]
    fn lines_that_stop_the_server_stop_the_parser() {
        for (line, near) in [
            ("port", ""),
            ("port =", ""),
            ("port = # 5432", ""),
            ("= 1", "= 1"),
            ("5432", "5432"),
            ("port 5432 5433", "5433"),
            ("port = = 1", "= 1"),
            ("a = 'x", "'x"),
            ("a = 'x\\'", "'x\\'"),
            ("a = 'x' y", "y"),
            ("a = b.c", "b.c"),
            ("a = /x", "/x"),
            ("a = 1e5", "5"),
            ("a = -", "-"),
            ("a.b.c = 1", "a.b.c = 1"),
            ("a; b", "; b"),
            ("\u{b}a = 1", "\u{b}a = 1"),
            ("'a' = 1", "'a' = 1"),
        ] {
            let text = format!("# first\nb = 1\n{line}\nc = 1\n");
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!((error.line, error.near.as_str()), (3, near), "{line}");
        }
    }

    #[test]
    fn includes_are_told_apart_from_settings() {
        let text = "include 'a b'\nInclude_Dir = conf.d\ninclude_if_exists= 'x.conf'\n";
        // An unquoted name with a dot between letters is a syntax error for the server as well.
        assert_eq!(parse(text.as_bytes()).unwrap_err().line, 2);
        let lines = parse(text.replace("conf.d", "'conf.d'").as_bytes()).unwrap();
        let directives: Vec<_> = lines.into_iter().map(|line| line.directive).collect();
        assert_eq!(
            directives,
            [
                Directive::Include("a b".to_owned()),
                Directive::IncludeDir("conf.d".to_owned()),
                Directive::IncludeIfExists("x.conf".to_owned()),
            ]
        );
    }

    #[test]
    fn the_last_line_wins() {
        let lines = parse(b"a = 1\n\n# x\nb = 2\nA = 3\ninclude 'c'").unwrap();
        let numbers: Vec<usize> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 4, 5, 6]);
        let settings = effective(&lines);
        assert_eq!(settings.len(), 2);
        assert_eq!((&settings["a"][..], &settings["b"][..]), ("3", "2"));
    }

    #[test]
    fn rewriting_touches_named_settings_only() {
        let text = b"# Do not edit\n\
            Primary_ConnInfo 'host=a'\r\n\
            \t primary_conninfo= 'host=b' # old\n\
            #primary_conninfo = 'host=c'\n\
            primary_conninfo = 'broken\n\
            primary_conninfo2 = 'x'\n\
            include 'primary_conninfo'\n\
            recovery_target = 'immediate'\n\
            work_mem=4MB";
        let rewritten = rewrite(
            text,
            &["RECOVERY_TARGET"],
            &[
                ("primary_conninfo", "host=d password=it's\\"),
                ("restore_command", ""),
            ],
        );
        insta::assert_snapshot!(String::from_utf8(rewritten).unwrap(), @r"
        # Do not edit
        #primary_conninfo = 'host=c'
        primary_conninfo = 'broken
        primary_conninfo2 = 'x'
        include 'primary_conninfo'
        work_mem=4MB
        primary_conninfo = 'host=d password=it''s\\'
        restore_command = ''
        ");
    }

    #[test]
    fn rewriting_nothing_keeps_every_byte() {
        for text in [&b""[..], b"a", b"\n", b"\xff = 1", b"a = 1\r\n\r\n# x"] {
            assert_eq!(rewrite(text, &["b"], &[]), text);
        }
        assert_eq!(rewrite(b"a=1", &["A"], &[]), b"");
        let twice = rewrite(b"", &[], &[("a", "1"), ("A", "2")]);
        assert_eq!(twice, b"A = '2'\n");
    }

    #[test]
    fn values_that_no_line_can_carry_are_refused() {
        assert_eq!(quote_value(r"it's a \").unwrap(), r"'it''s a \\'");
        assert_eq!(quote_value("a\nb"), Err(QuoteError::Newline));
        assert_eq!(quote_value("a\0b"), Err(QuoteError::Nul));
        let rewritten = rewrite(b"", &[], &[("a", "x\ny\0z")]);
        assert_eq!(rewritten, b"a = 'x\\nyz'\n");
        assert_eq!(effective(&parse(&rewritten).unwrap())["a"], "x\nyz");
    }

    fn some_line() -> impl Strategy<Value = String> {
        prop_oneof![
            "[aAbBcC]( ?= ?| )('[^'\\\\\n]{0,5}'|[0-9]{1,3})( #.{0,4})?",
            "#.{0,8}",
            "include 'a'",
            "[ \t]{0,3}",
        ]
        .prop_filter("one line", |line| !line.contains('\n'))
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>, shaped in "[a'\\\\0-9.=# \nxe+-]{0,30}") {
            for text in [&text[..], shaped.as_bytes()] {
                let _ = parse(text);
                let once = rewrite(text, &["a"], &[("xe", "1")]);
                prop_assert_eq!(rewrite(&once, &["a"], &[("xe", "1")]), once);
            }
        }

        #[test]
        fn quoted_values_parse_back(value in "[^\0\n]{0,20}", sharp in "['\\\\ \t=#a]{0,12}") {
            for value in [value, sharp] {
                let line = format!("a = {}", quote_value(&value).unwrap());
                prop_assert_eq!(one(&line), Some(setting("a", &value)));
            }
        }

        #[test]
        fn after_rewriting_each_name_occurs_once(
            lines in proptest::collection::vec(some_line(), 0..12),
            ends_with_newline: bool,
            first in "['\\\\ =#a\r]{0,8}",
            second in "[^\0\n]{0,8}",
        ) {
            let mut text = lines.join("\n");
            if ends_with_newline {
                text.push('\n');
            }
            let before = parse(text.as_bytes()).unwrap();
            let set = [("a", first.as_str()), ("B", second.as_str())];
            let once = rewrite(text.as_bytes(), &[], &set);
            prop_assert_eq!(&rewrite(&once, &[], &set), &once);
            let after = parse(&once).unwrap();
            for (name, value) in set {
                let mut values = after.iter().filter_map(|line| match &line.directive {
                    Directive::Setting { name: found, value } => {
                        found.eq_ignore_ascii_case(name).then_some(value.as_str())
                    }
                    _ => None,
                });
                prop_assert_eq!(values.next(), Some(value));
                prop_assert_eq!(values.next(), None);
            }
            // What was not named is still there, in its order.
            let others = |lines: &[Line]| -> Vec<Directive> {
                let is_other = |directive: &Directive| !matches!(
                    directive, Directive::Setting { name, .. } if name == "a" || name == "b"
                );
                let directives = lines.iter().map(|line| line.directive.clone());
                directives.filter(is_other).collect()
            };
            prop_assert_eq!(others(&before), others(&after));
        }
    }
}
