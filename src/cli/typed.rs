//! The command as it was typed, without its secrets: what may be kept in a file and shown to people.

use std::ffi::OsString;

use crate::pg::conninfo::Conninfo;

/// Ends of names whose values are secrets: keywords of connection strings and variables of programs.
const SECRET_NAMES: [&str; 6] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "sshpass",
    "token",
];

/// Keys in connection strings.
const SECRET_KEYS: [&str; 2] = ["scram_client_key", "scram_server_key"];

/// Commands that have `--progress`.
const SHOW_PROGRESS: [&str; 2] = ["rebuild", "verify"];

/// Short options that may stand before `-P` in one word, since they take no value.
const FLAGS: &str = "CNnqv";

/// Whether `--progress json` was typed, as far as the words alone tell: also where they are wrong otherwise.
pub fn wants_json(args: &[OsString]) -> bool {
    let mut words = args.iter().skip(1).map(|word| word.to_string_lossy());
    if !words
        .next()
        .is_some_and(|command| SHOW_PROGRESS.contains(&&*command))
    {
        return false;
    }
    let mut style = None;
    let mut is_next = false;
    for word in words.take_while(|word| word != "--") {
        let is_option = word.starts_with('-');
        if std::mem::take(&mut is_next) && !is_option {
            style = Some(word.into_owned());
            continue;
        }
        let short = word
            .strip_prefix('-')
            .map(|rest| rest.trim_start_matches(|flag| FLAGS.contains(flag)))
            .and_then(|rest| rest.strip_prefix('P'));
        let value = match (word.strip_prefix("--progress"), short) {
            (Some(value), _) if value.is_empty() || value.starts_with('=') => value,
            (_, Some(value)) => value,
            _ => continue,
        };
        // The last one counts.
        style = Some(value.trim_start_matches('=').to_owned());
        is_next = value.is_empty();
    }
    style.is_some_and(|style| style == "json")
}

/// The words of the command, so that it can be typed again: with the variables that had a part in it, and without
/// secrets. `variables` are their names, `variable` tells their values.
pub fn words<'a>(
    args: &[OsString],
    variables: impl IntoIterator<Item = &'a str>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Vec<String> {
    let set: Vec<String> = variables
        .into_iter()
        .filter_map(|name| Some(format!("{name}={}", variable(name)?)))
        .collect();
    let env = (!set.is_empty()).then(|| "env".to_owned());
    let mut is_script = false;
    let args = args.iter().map(|word| {
        let word = word.to_string_lossy().into_owned();
        let is_next = SCRIPTS.contains(&&*word);
        let shown = match word.split_once('=') {
            _ if is_script => script(&word),
            Some((option, text)) if SCRIPTS.contains(&option) => {
                format!("{option}={}", script(text))
            }
            _ => word,
        };
        is_script = is_next && !is_script;
        shown
    });
    env.into_iter()
        .chain(set)
        .chain(args)
        .map(|word| without_secrets(&word))
        .collect()
}

/// Options whose values are scripts, where anything may be a secret.
const SCRIPTS: [&str; 2] = ["--before-start", "--after-start"];

/// What is shown of a script: the name of its file.
fn script(text: &str) -> String {
    match text.strip_prefix('@') {
        Some(_) => text.to_owned(),
        None => "<SQL>".to_owned(),
    }
}

/// A word without the secrets in it.
fn without_secrets(word: &str) -> String {
    let (option, value) = match word.split_once('=') {
        Some((option, value)) if option.starts_with("--") => (Some(option), value),
        _ => (None, word),
    };
    let shown = match Conninfo::parse(value) {
        Ok(conninfo) => {
            let shown = conninfo.without_secrets();
            if shown == conninfo {
                value.to_owned()
            } else {
                shown.to_keyword_value().unwrap_or_default()
            }
        }
        Err(_) => scrubbed(value),
    };
    match option {
        Some(option) => format!("{option}={shown}"),
        None => shown,
    }
}

/// A text of whatever kind, such as a command of a shell, without the values of names that stand for secrets and
/// without the passwords of URIs.
fn scrubbed(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, behind) = rest.split_at(at);
        shown.push_str(before);
        rest = if behind.starts_with('=') {
            after_assignment(&mut shown, behind)
        } else {
            after_colon(&mut shown, behind)
        };
    }
    shown + rest
}

/// Goes on behind `=value`; the value stays out when the name in front of it says so.
fn after_assignment<'a>(shown: &mut String, behind: &'a str) -> &'a str {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let trimmed = shown.trim_end();
    let begin = trimmed.rfind(|letter| !is_of_name(letter));
    let name = &trimmed[begin.map_or(0, |at| at + 1)..];
    let small = name.to_ascii_lowercase();
    let is_secret = SECRET_NAMES.iter().any(|end| small.ends_with(end))
        || SECRET_KEYS.contains(&small.as_str());
    let is_keyword = small == name;
    let value = behind.trim_start_matches('=');
    if !is_secret || value.len() + 1 != behind.len() {
        shown.push('=');
        return &behind[1..];
    }
    let value = if is_keyword {
        value.trim_start()
    } else {
        value
    };
    let rest = match value.chars().next() {
        Some(quote @ ('\'' | '"')) => behind_quote(&value[1..], quote),
        _ => {
            let end = value.find(|letter: char| letter.is_whitespace() || "'\"&;".contains(letter));
            &value[end.unwrap_or(value.len())..]
        }
    };
    if is_keyword {
        // In a connection string the next value would be taken for this one.
        let length = begin.map_or(0, |at| at + 1);
        shown.truncate(length);
        rest.strip_prefix(' ').unwrap_or(rest)
    } else {
        shown.push('=');
        rest
    }
}

/// What follows the closing quote.
fn behind_quote(text: &str, quote: char) -> &str {
    let mut is_escaped = false;
    for (at, letter) in text.char_indices() {
        if !is_escaped && letter == quote {
            return &text[at + letter.len_utf8()..];
        }
        is_escaped = letter == '\\' && !is_escaped;
    }
    ""
}

/// Goes on behind `://user:password` without the password, or behind the colon.
fn after_colon<'a>(shown: &mut String, behind: &'a str) -> &'a str {
    let Some(authority) = behind.strip_prefix("://") else {
        shown.push(':');
        return &behind[1..];
    };
    shown.push_str("://");
    let end = authority.find(|letter: char| letter.is_whitespace() || "/?#'\"".contains(letter));
    let (login, _) = authority.split_at(end.unwrap_or(authority.len()));
    match login.rsplit_once('@') {
        Some((login, _)) if login.contains(':') => {
            shown.push_str(login.split(':').next().unwrap_or_default());
            &authority[login.len()..]
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_wanted_by_the_words_alone() {
        let wants = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            wants_json(&words)
        };
        for line in [
            "pg_reseed rebuild -P json",
            "pg_reseed rebuild -Pjson --no-such-option",
            "pg_reseed rebuild -P=json",
            "pg_reseed verify -nqP json -j",
            "pg_reseed rebuild --progress json -D",
            "pg_reseed rebuild -P plain --progress=json",
        ] {
            assert!(wants(line), "{line}");
        }
        for line in [
            "pg_reseed",
            "pg_reseed -P json",
            "pg_reseed inspect -P json",
            "pg_reseed rebuild -P json -P",
            "pg_reseed rebuild -P json -P bar",
            "pg_reseed rebuild -P -n json",
            "pg_reseed rebuild -- -P json",
            "pg_reseed rebuild --progressive json",
            "pg_reseed rebuild -DP json",
        ] {
            assert!(!wants(line), "{line}");
        }
    }

    #[test]
    fn no_script_is_kept() {
        let typed = [
            "x",
            "--before-start",
            "SELECT 'hush'",
            "--after-start=hush",
            "--before-start",
            "@f",
        ];
        let args = typed.map(OsString::from);
        assert_eq!(
            words(&args, [], &|_| None),
            [
                "x",
                "--before-start",
                "<SQL>",
                "--after-start=<SQL>",
                "--before-start",
                "@f"
            ]
        );
    }

    #[test]
    fn no_secret_stays_in_what_is_kept() {
        for (word, shown) in [
            ("host=b password=geheim user=r", "host=b user=r"),
            ("--dbname=host=b password='ge heim'", "--dbname=host=b"),
            ("-dhost=b password=geheim user=r", "-dhost=b user=r"),
            (
                "postgresql://r:geheim@b:5433/x?sslmode=require",
                "user=r port=5433 host=b dbname=x sslmode=require",
            ),
            ("-dpostgresql://r:geheim@b/x", "-dpostgresql://r@b/x"),
            (
                "exec:docker exec -e PGPASSWORD=geheim db pg_reseed serve --stdio",
                "exec:docker exec -e PGPASSWORD= db pg_reseed serve --stdio",
            ),
            (
                "exec:pg_reseed serve --stdio -d \"host=b password='ge heim' user=r\"",
                "exec:pg_reseed serve --stdio -d \"host=b user=r\"",
            ),
            ("SSHPASS='ge heim' ssh", "SSHPASS= ssh"),
            ("env VAULT_TOKEN=geheim;ssh", "env VAULT_TOKEN=;ssh"),
            ("-dhost=b scram_client_key=geheim", "-dhost=b "),
            ("postgresql:///x?host=b&password=geheim", "host=b dbname=x"),
        ] {
            let found = without_secrets(word);
            assert!(!found.contains("heim"), "{found}");
            if !word.starts_with("postgresql") {
                assert_eq!(found, shown, "{word}");
            }
        }
        for word in [
            "-D",
            "/srv/pg/15",
            "host=b passfile=/home/p/.pgpass",
            "ssh://postgres@db2:22",
            "--restore-command=cp /archive/%f %p",
            "-T/ts/a=/ts/b",
            "--application-name=a",
            "",
        ] {
            assert_eq!(without_secrets(word), word);
        }
    }

    #[test]
    fn variables_that_had_a_part_are_part_of_the_command() {
        let args = ["pg_reseed", "rebuild"].map(OsString::from);
        let variable = |name: &str| (name == "PGHOST").then(|| "db2".to_owned());
        assert_eq!(
            words(&args, ["PGDATA", "PGHOST"], &variable),
            ["env", "PGHOST=db2", "pg_reseed", "rebuild"]
        );
        assert_eq!(
            words(&args, ["PGDATA"], &variable),
            ["pg_reseed", "rebuild"]
        );
    }
}
