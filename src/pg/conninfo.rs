//! Connection strings and password files as libpq reads and writes them.
//!
//! Both forms of a connection string follow `src/interfaces/libpq/fe-connect.c`
//! (`conninfo_parse`, `conninfo_uri_parse_options`), its options are `PQconninfoOptions` there; the
//! quoting on the way out is `appendConnStrVal` in `src/fe_utils/string_utils.c`; the password file
//! is `passwordFromFile`. Looks at no environment, opens no file, fills in no default.

use std::fmt;

/// Every option that libpq knows up to 18.
const KEYWORDS: [&str; 50] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "options",
    "passfile",
    "password",
    "port",
    "replication",
    "require_auth",
    "requirepeer",
    "scram_client_key",
    "scram_server_key",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslkeylogfile",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Options whose value nobody but libpq should see (those that libpq itself marks with `*`).
const SECRETS: [&str; 5] = [
    "oauth_client_secret",
    "password",
    "scram_client_key",
    "scram_server_key",
    "sslpassword",
];

/// Both schemes that a URI may have.
const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

/// The port that a password file means when a connection names none.
const DEFAULT_PORT: &str = "5432";

/// Directories of Unix sockets that builds of libpq have as their default: that of the sources, and
/// that of the distributions. A password file calls them `localhost`.
const DEFAULT_SOCKET_DIRECTORIES: [&str; 2] = ["/tmp", "/var/run/postgresql"];

/// A connection string, taken apart: options with their values in the order in which they first
/// came. Its debug form hides secrets.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Conninfo {
    pairs: Vec<(&'static str, String)>,
}

/// Why a text is no connection string, or a connection cannot be written as one. No message holds a
/// value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    #[error("invalid connection option \"{keyword}\"")]
    UnknownKeyword { keyword: String },
    #[error("missing \"=\" after \"{keyword}\" in the connection string")]
    MissingEquals { keyword: String },
    #[error("unterminated quoted string in the connection string")]
    UnterminatedQuote,
    #[error("the value of connection option \"{keyword}\" contains a line end or a NUL byte")]
    UnwritableValue { keyword: &'static str },
    #[error("invalid percent-encoding in the connection URI")]
    BadPercentEncoding,
    #[error("unexpected space in the connection URI")]
    SpaceInUri,
    #[error("invalid IPv6 address in the connection URI")]
    BadIpv6Address,
    #[error("query parameter \"{keyword}\" of the connection URI has more than one \"=\"")]
    ExtraEquals { keyword: String },
}

impl Conninfo {
    /// Parses `keyword=value` pairs or a URI. A later value of an option replaces an earlier one.
    ///
    /// # Errors
    /// [`ConninfoError`] where libpq would refuse the text. Text of neither form, a bare database
    /// name for instance, is an error as well.
    pub fn parse(text: &str) -> Result<Self, ConninfoError> {
        match SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
            Some(rest) => parse_uri(rest),
            None => parse_pairs(text),
        }
    }

    /// The value of an option; `None` when it is not given. An empty value means the default.
    #[must_use]
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.iter()
            .find(|(known, _)| *known == keyword)
            .map(|(_, value)| value)
    }

    /// Gives an option a value, in the place of its earlier one if there was any.
    ///
    /// # Errors
    /// [`ConninfoError::UnknownKeyword`].
    pub fn set(&mut self, keyword: &str, value: &str) -> Result<(), ConninfoError> {
        let known = KEYWORDS
            .into_iter()
            .find(|known| *known == keyword)
            .ok_or_else(|| ConninfoError::UnknownKeyword {
                keyword: keyword.to_owned(),
            })?;
        match self.pairs.iter_mut().find(|(other, _)| *other == known) {
            Some((_, earlier)) => value.clone_into(earlier),
            None => self.pairs.push((known, value.to_owned())),
        }
        Ok(())
    }

    /// Takes an option away, and returns the value that it had.
    pub fn remove(&mut self, keyword: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(known, _)| *known == keyword)?;
        Some(self.pairs.remove(at).1)
    }

    /// The options and their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.pairs
            .iter()
            .map(|(keyword, value)| (*keyword, value.as_str()))
    }

    /// Writes `keyword=value` pairs, quoted so that libpq reads the same values again.
    ///
    /// For a line of a configuration file the whole is to be quoted once more, by
    /// [`quote_value`](super::conf::quote_value).
    ///
    /// # Errors
    /// [`ConninfoError::UnwritableValue`]: libpq could read a line end, but no configuration file
    /// carries one.
    pub fn to_keyword_value(&self) -> Result<String, ConninfoError> {
        for (keyword, value) in self.iter() {
            if value.contains(['\n', '\0']) {
                return Err(ConninfoError::UnwritableValue { keyword });
            }
        }
        Ok(self.to_string_unchecked())
    }

    fn to_string_unchecked(&self) -> String {
        let pairs: Vec<String> = self
            .iter()
            .map(|(keyword, value)| format!("{keyword}={}", quote(value)))
            .collect();
        pairs.join(" ")
    }

    /// Whether a password is given in the string itself.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.get("password").is_some_and(|value| !value.is_empty())
    }

    /// The same without passwords and keys: fit for messages and logs.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let pairs = self.pairs.iter();
        Self {
            pairs: pairs
                .filter(|(keyword, _)| !SECRETS.contains(keyword))
                .cloned()
                .collect(),
        }
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Conninfo")
            .field(&self.without_secrets().to_string_unchecked())
            .finish()
    }
}

/// A value as it stands behind `=`.
fn quote(value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    if !value.is_empty() && value.bytes().all(is_plain) {
        return value.to_owned();
    }
    let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
    format!("'{escaped}'")
}

/// What C's `isspace` holds for blank.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0B' | '\x0C')
}

fn parse_pairs(text: &str) -> Result<Conninfo, ConninfoError> {
    let mut conninfo = Conninfo::default();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest
            .find(|character| character == '=' || is_space(character))
            .unwrap_or(rest.len());
        let (keyword, tail) = rest.split_at(end);
        let tail = tail.trim_start_matches(is_space);
        let Some(tail) = tail.strip_prefix('=') else {
            let keyword = keyword.to_owned();
            return Err(ConninfoError::MissingEquals { keyword });
        };
        // Blanks after "=" do not make an empty value: the next word is the value.
        let (value, tail) = take_value(tail.trim_start_matches(is_space))?;
        conninfo.set(keyword, &value)?;
        rest = tail.trim_start_matches(is_space);
    }
    Ok(conninfo)
}

/// Takes a value, quoted or not, off the start of a text.
fn take_value(text: &str) -> Result<(String, &str), ConninfoError> {
    let (is_quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' if is_quoted => return Ok((value, &body[at + 1..])),
            _ if !is_quoted && is_space(character) => return Ok((value, &body[at..])),
            // A backslash takes the next character as it is; at the end it stands for nothing.
            '\\' => value.extend(characters.next().map(|(_, next)| next)),
            _ => value.push(character),
        }
    }
    if is_quoted {
        Err(ConninfoError::UnterminatedQuote)
    } else {
        Ok((value, ""))
    }
}

/// Parses what follows the scheme: `user:password@host:port,host:port/dbname?option=value&…`, each
/// part optional.
fn parse_uri(text: &str) -> Result<Conninfo, ConninfoError> {
    let mut conninfo = Conninfo::default();
    let mut rest = text;
    // libpq looks for the "@" up to the first "/" only, but even behind a "?".
    let before_path = &text[..text.find('/').unwrap_or(text.len())];
    if let Some((credentials, _)) = before_path.split_once('@') {
        rest = &text[credentials.len() + 1..];
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        set_decoded(&mut conninfo, "user", user)?;
        set_decoded(&mut conninfo, "password", password)?;
    }
    let (hosts, ports, tail) = take_hosts(rest)?;
    set_decoded(&mut conninfo, "host", &hosts)?;
    set_decoded(&mut conninfo, "port", &ports)?;
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    set_decoded(
        &mut conninfo,
        "dbname",
        path.strip_prefix('/').unwrap_or(path),
    )?;
    if !query.is_empty() {
        // An "&" at the very end is forgiven.
        for parameter in query.strip_suffix('&').unwrap_or(query).split('&') {
            set_parameter(&mut conninfo, parameter)?;
        }
    }
    Ok(conninfo)
}

/// Sets an option unless its text is empty.
fn set_decoded(conninfo: &mut Conninfo, keyword: &str, text: &str) -> Result<(), ConninfoError> {
    match text {
        "" => Ok(()),
        _ => conninfo.set(keyword, &percent_decode(text)?),
    }
}

/// Takes the hosts and ports off the start: each list with its commas, and what follows, which is
/// empty or begins with `/` or `?`.
fn take_hosts(text: &str) -> Result<(String, String, &str), ConninfoError> {
    let (mut hosts, mut ports) = (String::new(), String::new());
    let mut rest = text;
    loop {
        let (host, tail) = match rest.strip_prefix('[') {
            Some(bracketed) => match bracketed.split_once(']') {
                Some((host, tail))
                    if !host.is_empty()
                        && (tail.is_empty() || tail.starts_with([':', '/', '?', ','])) =>
                {
                    (host, tail)
                }
                _ => return Err(ConninfoError::BadIpv6Address),
            },
            None => rest.split_at(rest.find([':', '/', '?', ',']).unwrap_or(rest.len())),
        };
        hosts.push_str(host);
        rest = tail;
        if let Some(tail) = rest.strip_prefix(':') {
            let (port, tail) = tail.split_at(tail.find(['/', '?', ',']).unwrap_or(tail.len()));
            ports.push_str(port);
            rest = tail;
        }
        match rest.strip_prefix(',') {
            Some(tail) => rest = tail,
            None => return Ok((hosts, ports, rest)),
        }
        hosts.push(',');
        ports.push(',');
    }
}

/// Takes one `option=value` of a URI's query.
fn set_parameter(conninfo: &mut Conninfo, parameter: &str) -> Result<(), ConninfoError> {
    let Some((keyword, value)) = parameter.split_once('=') else {
        let keyword = parameter.to_owned();
        return Err(ConninfoError::MissingEquals { keyword });
    };
    if value.contains('=') {
        let keyword = keyword.to_owned();
        return Err(ConninfoError::ExtraEquals { keyword });
    }
    let (keyword, value) = (percent_decode(keyword)?, percent_decode(value)?);
    // JDBC's way of asking for encryption.
    if keyword == "ssl" && value == "true" {
        return conninfo.set("sslmode", "require");
    }
    conninfo.set(&keyword, &value)
}

/// Replaces `%XX`. Decoded bytes that are not UTF-8 are refused as if they were badly encoded.
fn percent_decode(text: &str) -> Result<String, ConninfoError> {
    if text.contains(is_space) {
        return Err(ConninfoError::SpaceInUri);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let ([high, low], tail) = rest
            .split_first_chunk()
            .ok_or(ConninfoError::BadPercentEncoding)?;
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let value = digit(high)
            .zip(digit(low))
            .and_then(|(high, low)| u8::try_from(high * 16 + low).ok())
            .filter(|value| *value != 0)
            .ok_or(ConninfoError::BadPercentEncoding)?;
        bytes.push(value);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| ConninfoError::BadPercentEncoding)
}

/// Looks up a password in the text of a password file; the first line that fits counts.
///
/// An empty `host` is `localhost` and an empty `port` 5432, as libpq has it; so is the directory of
/// a Unix socket, when it is the default of the sources or of the distributions, but any other
/// directory must be named in the file. `dbname` and `user` are what the connection will use.
#[must_use]
pub fn passfile_lookup(
    text: &str,
    host: &str,
    port: &str,
    dbname: &str,
    user: &str,
) -> Option<String> {
    let host = match host {
        "" => "localhost",
        _ if DEFAULT_SOCKET_DIRECTORIES.contains(&host) => "localhost",
        _ => host,
    };
    let port = if port.is_empty() { DEFAULT_PORT } else { port };
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .find_map(|line| {
            let rest = match_field(line, host)?;
            let rest = match_field(rest, port)?;
            let rest = match_field(rest, dbname)?;
            match_field(rest, user)
        })
        .map(unescape_password)
}

/// What follows the first field of a line and its colon, if the field is `*` or means `wanted`.
fn match_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut wanted = wanted.chars();
    let mut field = line.chars();
    loop {
        let character = match field.next()? {
            ':' if wanted.as_str().is_empty() => return Some(field.as_str()),
            '\\' => field.next()?,
            character => character,
        };
        if wanted.next() != Some(character) {
            return None;
        }
    }
}

/// The last field: up to a colon that is not escaped, if there is one.
fn unescape_password(field: &str) -> String {
    let mut password = String::new();
    let mut characters = field.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' => break,
            '\\' => password.push(characters.next().unwrap_or('\\')),
            _ => password.push(character),
        }
    }
    password
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(&'static str, String)> {
        Conninfo::parse(text)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
            .pairs
    }

    fn owned(pairs: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        pairs
            .iter()
            .map(|(keyword, value)| (*keyword, (*value).to_owned()))
            .collect()
    }

    #[test]
    fn pairs_are_read_as_libpq_does() {
        for (text, expected) in [
            ("", &[][..]),
            ("  ", &[]),
            ("host=a port = 5433", &[("host", "a"), ("port", "5433")]),
            ("host=a\n\tuser=b ", &[("host", "a"), ("user", "b")]),
            ("password='it\\'s \\\\ a'", &[("password", "it's \\ a")]),
            (r"password=it\'s\ a", &[("password", "it's a")]),
            ("password=''", &[("password", "")]),
            ("password=", &[("password", "")]),
            ("password= host=a", &[("password", "host=a")]),
            ("host=a host=b", &[("host", "b")]),
            ("options='-c a=b'", &[("options", "-c a=b")]),
            ("options=-ca=b", &[("options", "-ca=b")]),
            ("user=a'b'", &[("user", "a'b'")]),
            ("user='a'host=b", &[("user", "a"), ("host", "b")]),
            ("user=a\\", &[("user", "a")]),
            ("user=é", &[("user", "é")]),
        ] {
            assert_eq!(pairs(text), owned(expected), "{text}");
        }
    }

    #[test]
    fn uris_are_read_as_libpq_does() {
        for (text, expected) in [
            ("postgresql://", &[][..]),
            ("postgres://h", &[("host", "h")]),
            (
                "postgresql://u:p@h:5433/d?sslmode=require&application_name=x",
                &[
                    ("user", "u"),
                    ("password", "p"),
                    ("host", "h"),
                    ("port", "5433"),
                    ("dbname", "d"),
                    ("sslmode", "require"),
                    ("application_name", "x"),
                ],
            ),
            (
                "postgresql://u%40x:p%2F%25@%2Frun%2Fpg/d%20b",
                &[
                    ("user", "u@x"),
                    ("password", "p/%"),
                    ("host", "/run/pg"),
                    ("dbname", "d b"),
                ],
            ),
            (
                "postgresql://a:1,b:2,[::1]:3/d",
                &[("host", "a,b,::1"), ("port", "1,2,3"), ("dbname", "d")],
            ),
            ("postgresql://a,b", &[("host", "a,b"), ("port", ",")]),
            ("postgresql://[::1]", &[("host", "::1")]),
            ("postgresql:///d", &[("dbname", "d")]),
            ("postgresql://?host=h", &[("host", "h")]),
            ("postgresql://h?", &[("host", "h")]),
            ("postgresql://h/?port=1&", &[("host", "h"), ("port", "1")]),
            ("postgresql://u@", &[("user", "u")]),
            ("postgresql://:p@h", &[("password", "p"), ("host", "h")]),
            ("postgresql://u:@h", &[("user", "u"), ("host", "h")]),
            (
                "postgresql://h?ssl=true",
                &[("host", "h"), ("sslmode", "require")],
            ),
            ("postgresql://h/a/b", &[("host", "h"), ("dbname", "a/b")]),
            ("postgresql://a?host=b", &[("host", "b")]),
        ] {
            assert_eq!(pairs(text), owned(expected), "{text}");
        }
    }

    #[test]
    fn texts_that_libpq_refuses_are_refused() {
        let error = |text: &str| Conninfo::parse(text).unwrap_err();
        for (text, message) in [
            (
                "postgres",
                "missing \"=\" after \"postgres\" in the connection string",
            ),
            (
                "host a",
                "missing \"=\" after \"host\" in the connection string",
            ),
            ("hots=a", "invalid connection option \"hots\""),
            ("HOST=a", "invalid connection option \"HOST\""),
            ("=a", "invalid connection option \"\""),
            (
                "host='a",
                "unterminated quoted string in the connection string",
            ),
            (
                "host='a\\'",
                "unterminated quoted string in the connection string",
            ),
            ("postgresql://h?x=1", "invalid connection option \"x\""),
            (
                "postgresql://h?host",
                "missing \"=\" after \"host\" in the connection string",
            ),
            (
                "postgresql://h?host=a=b",
                "query parameter \"host\" of the connection URI has more than one \"=\"",
            ),
            (
                "postgresql://h?&host=a",
                "missing \"=\" after \"\" in the connection string",
            ),
            (
                "postgresql://%zz",
                "invalid percent-encoding in the connection URI",
            ),
            (
                "postgresql://%4",
                "invalid percent-encoding in the connection URI",
            ),
            (
                "postgresql://a%00b",
                "invalid percent-encoding in the connection URI",
            ),
            (
                "postgresql://%ff",
                "invalid percent-encoding in the connection URI",
            ),
            ("postgresql://a b", "unexpected space in the connection URI"),
            (
                "postgresql://[::1",
                "invalid IPv6 address in the connection URI",
            ),
            (
                "postgresql://[]",
                "invalid IPv6 address in the connection URI",
            ),
            (
                "postgresql://[::1]x",
                "invalid IPv6 address in the connection URI",
            ),
        ] {
            assert_eq!(error(text).to_string(), message, "{text}");
        }
    }

    #[test]
    fn options_are_set_replaced_and_removed_in_place() {
        let mut conninfo = Conninfo::parse("host=a user=b").unwrap();
        conninfo.set("host", "c d").unwrap();
        conninfo.set("application_name", "it's").unwrap();
        assert_eq!(conninfo.get("host"), Some("c d"));
        assert_eq!(
            conninfo.to_keyword_value().unwrap(),
            r"host='c d' user=b application_name='it\'s'"
        );
        assert_eq!(conninfo.remove("user").as_deref(), Some("b"));
        assert_eq!(conninfo.remove("user"), None);
        assert_eq!(conninfo.get("user"), None);
        assert!(conninfo.set("nonsense", "1").is_err());
    }

    #[test]
    fn both_levels_of_quoting_give_what_pg_basebackup_writes() {
        let mut conninfo = Conninfo::default();
        conninfo.set("password", r"p'w\ d").unwrap();
        let written = conninfo.to_keyword_value().unwrap();
        let line = crate::pg::conf::quote_value(&written).unwrap();
        assert_eq!(line, r"'password=''p\\''w\\\\ d'''");
    }

    #[test]
    fn line_ends_are_refused_when_written() {
        let conninfo = Conninfo::parse("host=a password='x\ny'").unwrap();
        assert_eq!(conninfo.get("password"), Some("x\ny"));
        let error = conninfo.to_keyword_value().unwrap_err();
        assert_eq!(
            error,
            ConninfoError::UnwritableValue {
                keyword: "password"
            }
        );
        assert!(!error.to_string().contains('x'));
    }

    #[test]
    fn secrets_are_never_shown() {
        let text = "host=h password=s1 sslpassword=s2 scram_client_key=s3 scram_server_key=s4 \
                    oauth_client_secret=s5 passfile=/p";
        let conninfo = Conninfo::parse(text).unwrap();
        assert!(conninfo.has_password());
        let shown = conninfo.without_secrets();
        assert!(!shown.has_password());
        assert_eq!(shown.to_keyword_value().unwrap(), "host=h passfile='/p'");
        assert_eq!(
            format!("{conninfo:?}"),
            "Conninfo(\"host=h passfile='/p'\")"
        );
        assert!(!Conninfo::parse("password=''").unwrap().has_password());
        for secret in SECRETS {
            assert!(KEYWORDS.contains(&secret));
        }
    }

    const PASSFILE: &str = "# comment\n\
        \n\
        h:5432:d:u:first\n\
        h:5432:d:u:second\n\
        *:*:*:a\\:b:it's\\:a\\\\b:rest\n\
        localhost:*:replication:r:local\r\n\
        /run/pg:5432:*:*:socket\n\
        broken:line\n\
        ::1:*:*:v:six\n\
        \\:\\:2:*:*:v:escaped six\n\
        *:*:*:empty:\n\
        x:*:*:u\\\n";

    #[test]
    fn passwords_are_found_as_libpq_does() {
        for (host, port, dbname, user, password) in [
            ("h", "5432", "d", "u", Some("first")),
            ("h", "", "d", "u", Some("first")),
            ("h", "5433", "d", "u", None),
            ("H", "5432", "d", "u", None),
            ("h2", "5432", "d", "u", None),
            ("any", "1", "x", "a:b", Some("it's:a\\b")),
            ("localhost", "1", "replication", "r", Some("local")),
            ("", "1", "replication", "r", Some("local")),
            ("/tmp", "1", "replication", "r", Some("local")),
            (
                "/var/run/postgresql",
                "1",
                "replication",
                "r",
                Some("local"),
            ),
            ("/elsewhere", "1", "replication", "r", None),
            ("/run/pg", "5432", "x", "y", Some("socket")),
            // Where the rest fits, a colon needs no escape.
            ("::1", "1", "x", "v", Some("six")),
            ("::2", "1", "x", "v", Some("escaped six")),
            ("z", "1", "x", "empty", Some("")),
            ("x", "1", "y", "u", None),
            ("broken", "line", "", "", None),
        ] {
            assert_eq!(
                passfile_lookup(PASSFILE, host, port, dbname, user).as_deref(),
                password,
                "{host}:{port}:{dbname}:{user}"
            );
        }
        assert_eq!(passfile_lookup("", "h", "1", "d", "u"), None);
    }

    #[test]
    fn keywords_are_sorted_and_unique() {
        assert!(KEYWORDS.is_sorted_by(|a, b| a < b));
    }

    /// An entry of a password file as libpq's documentation asks for it.
    fn escaped(field: &str) -> String {
        field.replace('\\', "\\\\").replace(':', "\\:")
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text: String, shaped in "[a-z=' \\\\:/?&@%,\\[\\]0-9]{0,30}") {
            for text in [&text, &shaped, &format!("postgresql://{shaped}"), &format!("host={shaped}")] {
                if let Ok(conninfo) = Conninfo::parse(text)
                    && let Ok(written) = conninfo.to_keyword_value()
                {
                    prop_assert_eq!(Conninfo::parse(&written), Ok(conninfo));
                }
                let _ = passfile_lookup(text, &shaped, "1", "d", "u");
            }
        }

        #[test]
        fn values_round_trip(
            values in proptest::collection::vec(
                (proptest::sample::select(KEYWORDS.to_vec()), "[^\0\n]{0,8}|['\\\\ =\t\r]{0,6}"),
                0..6,
            ),
        ) {
            let mut conninfo = Conninfo::default();
            for (keyword, value) in &values {
                conninfo.set(keyword, value).unwrap();
            }
            let written = conninfo.to_keyword_value().unwrap();
            prop_assert_eq!(Conninfo::parse(&written), Ok(conninfo.clone()));
            // And through a configuration file.
            let file = crate::pg::conf::rewrite(b"", &[], &[("primary_conninfo", &written)]);
            let lines = crate::pg::conf::parse(&file).unwrap();
            prop_assert_eq!(&crate::pg::conf::effective(&lines)["primary_conninfo"], &written);
        }

        #[test]
        fn escaped_passfile_entries_are_found(
            fields in proptest::collection::vec("[a:\\\\* #é]{1,5}", 4),
            password in "[a:\\\\* é]{0,6}",
        ) {
            let all: Vec<String> =
                fields.iter().chain([&password]).map(|field| escaped(field)).collect();
            // A field that begins like a wildcard or a comment says something else.
            prop_assume!(!all[0].starts_with('#'));
            let text = format!("no:no:no:no:no\n{}\n", all.join(":"));
            let found = passfile_lookup(&text, &fields[0], &fields[1], &fields[2], &fields[3]);
            prop_assert_eq!(found, Some(password));
        }
    }
}
