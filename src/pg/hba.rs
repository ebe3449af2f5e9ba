//! What `pg_hba.conf` and `pg_ident.conf` refer to (PostgreSQL `src/backend/libpq/hba.c`, `tokenize_auth_file`).

use std::ops::Range;

/// What a reference names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `include` and `include_if_exists`, since 16.
    File,
    /// `include_dir`, since 16: all files in it whose names end in `.conf`.
    Directory,
    /// `@file`: names of databases or roles.
    Names,
}

/// A file or directory that a file refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub kind: Kind,
    /// Where its path stands in the text, with quotes if it has any, without the `@`.
    pub place: Range<usize>,
    /// The path: relative to the directory of the file that refers to it, or absolute.
    pub path: String,
}

/// A word, unquoted, and where it stands.
struct Token {
    place: Range<usize>,
    text: Vec<u8>,
    /// Its first byte is a quote: then it means nothing special.
    is_quoted: bool,
}

/// All references of a text.
#[must_use]
pub fn references(text: &[u8]) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let tokens = tokens(line, start);
        let kind = match tokens.first() {
            Some(first) if !first.is_quoted => match first.text.as_slice() {
                b"include" | b"include_if_exists" => Some(Kind::File),
                b"include_dir" => Some(Kind::Directory),
                _ => None,
            },
            _ => None,
        };
        match (kind, tokens.as_slice()) {
            (Some(kind), [_, path]) => found.push(reference(kind, path.place.clone(), &path.text)),
            _ => {
                for token in tokens.iter().filter(|token| !token.is_quoted) {
                    if let [b'@', path @ ..] = token.text.as_slice()
                        && !path.is_empty()
                    {
                        let place = token.place.start + 1..token.place.end;
                        found.push(reference(Kind::Names, place, path));
                    }
                }
            }
        }
        start += line.len();
    }
    found
}

fn reference(kind: Kind, place: Range<usize>, path: &[u8]) -> Reference {
    Reference {
        kind,
        place,
        path: String::from_utf8_lossy(path).into_owned(),
    }
}

/// The words of a line, which begins at `start` of its text.
fn tokens(line: &[u8], start: usize) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let is_space = |byte: u8| byte.is_ascii_whitespace() || byte == b',';
    while at < line.len() {
        if is_space(line[at]) {
            at += 1;
            continue;
        }
        if line[at] == b'#' {
            break;
        }
        let begin = at;
        let (mut text, mut is_quoted) = (Vec::new(), false);
        while let Some(byte) = line.get(at).copied() {
            match byte {
                b'"' if is_quoted && line.get(at + 1) == Some(&b'"') => {
                    text.push(b'"');
                    at += 1;
                }
                b'"' => is_quoted = !is_quoted,
                byte if !is_quoted && (is_space(byte) || byte == b'#') => break,
                b'\n' => break,
                byte => text.push(byte),
            }
            at += 1;
        }
        tokens.push(Token {
            place: start + begin..start + at,
            text,
            is_quoted: line[begin] == b'"',
        });
    }
    tokens
}

/// A path as it can stand in such a file.
#[must_use]
pub fn quoted(path: &str) -> String {
    format!("\"{}\"", path.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn includes_and_lists_are_found_where_they_stand() {
        let text = b"# include not.conf\n\
            local all,@admins @\"my roles\" trust # @no\n\
            include more.conf\n\
            include_if_exists \"/etc/a \"\"b\"\".conf\"\r\n\
            include_dir hba.d # all\n\
            host \"@db\" all 0/0 md5";
        let found: Vec<_> = references(text)
            .into_iter()
            .map(|reference| {
                let raw = String::from_utf8_lossy(&text[reference.place]).into_owned();
                (reference.kind, reference.path, raw)
            })
            .collect();
        let is = |kind, path: &str, raw: &str| (kind, path.to_owned(), raw.to_owned());
        assert_eq!(
            found,
            [
                is(Kind::Names, "admins", "admins"),
                is(Kind::Names, "my roles", "\"my roles\""),
                is(Kind::File, "more.conf", "more.conf"),
                is(Kind::File, "/etc/a \"b\".conf", "\"/etc/a \"\"b\"\".conf\""),
                is(Kind::Directory, "hba.d", "hba.d"),
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in proptest::collection::vec(
            proptest::sample::select(b"include_dr @\"#,\n\\x".to_vec()), 0..200)) {
            for reference in references(&text) {
                prop_assert!(text.get(reference.place).is_some());
            }
        }

        #[test]
        fn what_is_quoted_is_read_back(path in "[ -~]{1,20}") {
            let text = format!("include {}\n", quoted(&path));
            prop_assert_eq!(&references(text.as_bytes())[0].path, &path);
        }
    }
}
