//! What Patroni calls a replica method with, as the words of a rebuild.
//!
//! Patroni appends `--key=value` for each key of the method, its own `keep_data` and `no_leader` among them, and then
//! `--scope=`, `--role=`, `--datadir=` and `--connstring=` (`patroni/postgresql/bootstrap.py`, `create_replica`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use crate::cli::resolve::UsageError;

/// How long is tried again unless something else is said.
pub(super) const RETRY_FOR_SECS: u64 = 300;

/// What Patroni has decided already: which member is the leader, that this one follows it, and that its own writes are lost.
/// Another cluster, or a server that runs, is still refused.
const DECIDED: [&str; 7] = [
    "--role=managed",
    "--seed",
    "--discard-newer-timeline",
    "--discard-newer-wal",
    "--leave-no-primary",
    "--overwrite-unknown-cluster",
    // Patroni's log is a file.
    "--progress=plain",
];

/// Keys of Patroni's own.
const OF_PATRONI: [&str; 9] = [
    "command",
    "keep_data",
    "keep-data",
    "no_leader",
    "no-leader",
    "no_params",
    "no-params",
    "role",
    "scope",
];

/// A call of Patroni's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// The words of the rebuild.
    pub words: Vec<OsString>,
    pub retry_for: Duration,
    /// Keys that mean nothing here.
    pub ignored: Vec<String>,
}

/// Turns the words behind `patroni` into those of a rebuild. `is_known` tells whether the rebuild has an option of this
/// name.
///
/// # Errors
/// What is missing or makes no sense.
pub(super) fn translate(
    words: &[OsString],
    is_known: &dyn Fn(&str) -> bool,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Call, UsageError> {
    let mut own = Vec::new();
    let mut ignored = Vec::new();
    let (mut datadir, mut connstring, mut retry_for) = (None, None, None);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let Some((key, value)) = option(word) else {
            own.push(word.clone());
            continue;
        };
        let mut taken = || match &value {
            Some(value) => Ok(value.clone()),
            None => rest
                .next()
                .cloned()
                .ok_or_else(|| UsageError::new(format_args!("option \"--{key}\" needs a value"))),
        };
        let name = key.replace('_', "-");
        match (name.as_str(), &value) {
            ("datadir", _) => datadir = Some(taken()?),
            ("connstring", _) => connstring = Some(taken()?),
            ("retry-for", _) => retry_for = Some(seconds(&taken()?)?),
            // Without a value none of Patroni's is meant.
            _ if OF_PATRONI.contains(&key.as_str()) && value.is_some() => ignored.push(key),
            (_, Some(value)) if is_known(&name) => own.push(joined(&name, value)),
            (_, Some(_)) => ignored.push(key),
            // The parser of the rebuild knows what to say.
            (_, None) => own.push(word.clone()),
        }
    }
    let connstring = connstring.filter(|text| !text.as_bytes().trim_ascii().is_empty());
    let names_source = own.iter().any(|word| {
        let word = word.as_bytes();
        [&b"-d"[..], b"-h", b"--dbname", b"--host", b"--from"]
            .iter()
            .any(|option| word.starts_with(option))
    }) || variable("PG_RESEED_FROM").is_some();
    if connstring.is_none() && !names_source {
        return Err(UsageError::new("there is no member to copy from: --connstring is empty").hint(
            "Patroni has no leader. With no_leader: 1, say with --from and -d which server to copy.",
        ));
    }
    let mut all: Vec<OsString> = ["pg_reseed", "rebuild"].map(OsString::from).to_vec();
    all.extend(DECIDED.map(OsString::from));
    all.extend(own);
    for (option, value) in [("pgdata", datadir), ("dbname", connstring)] {
        all.extend(value.map(|value| joined(option, &value)));
    }
    Ok(Call {
        words: all,
        retry_for: retry_for.unwrap_or(Duration::from_secs(RETRY_FOR_SECS)),
        ignored,
    })
}

/// The name and the value of a long option.
fn option(word: &OsStr) -> Option<(String, Option<OsString>)> {
    let text = word
        .as_bytes()
        .strip_prefix(b"--")
        .filter(|text| !text.is_empty())?;
    let at = text.iter().position(|byte| *byte == b'=');
    let (key, value) = match at {
        Some(at) => (
            &text[..at],
            Some(OsString::from_vec(text[at + 1..].to_vec())),
        ),
        None => (text, None),
    };
    Some((String::from_utf8(key.to_vec()).ok()?, value))
}

fn joined(option: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(format!("--{option}="));
    word.push(value);
    word
}

fn seconds(value: &OsStr) -> Result<Duration, UsageError> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.map(Duration::from_secs).ok_or_else(|| {
        let value = value.display();
        UsageError::new(format_args!(
            "\"{value}\" is no number of seconds (--retry-for)"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(line: &str) -> Result<Call, UsageError> {
        let words: Vec<OsString> = shlex::split(line)
            .unwrap()
            .into_iter()
            .map(Into::into)
            .collect();
        let is_known = |name: &str| ["from", "max-rate", "rsh", "role"].contains(&name);
        translate(&words, &is_known, &|_| None)
    }

    /// The words behind those that every call has.
    fn own(line: &str) -> Vec<String> {
        let words = called(line).unwrap().words;
        let words = words.iter().map(|word| word.to_str().unwrap().to_owned());
        words.skip(2 + DECIDED.len()).collect()
    }

    const APPENDED: &str = "--keep_data=True --no_leader=1 --scope=trial --role=replica --datadir=/srv/pg \
                            --connstring='dbname=postgres user=repl host=127.0.0.1 port=5810'";
    const MEANT: [&str; 2] = [
        "--pgdata=/srv/pg",
        "--dbname=dbname=postgres user=repl host=127.0.0.1 port=5810",
    ];

    #[test]
    fn what_patroni_appends_becomes_a_rebuild() {
        assert_eq!(own(APPENDED), MEANT);
        for (given, meant) in [
            ("--from ssh:", &["--from", "ssh:"][..]),
            (
                "--from=local --max_rate=50M",
                &["--from=local", "--max-rate=50M"],
            ),
            ("-T /a=/b --my_key=x --other=", &["-T", "/a=/b"]),
            ("-j 2 --dry-run", &["-j", "2", "--dry-run"]),
            ("--rsh='ssh -i /k --x=y'", &["--rsh=ssh -i /k --x=y"]),
        ] {
            let line = format!("{given} {APPENDED}");
            assert_eq!(own(&line), [meant, &MEANT].concat(), "{line}");
        }
    }

    #[test]
    fn what_means_nothing_is_told_of() {
        let call = called(&format!("{APPENDED} --my_key=1 --retry_for=7")).unwrap();
        assert_eq!(
            call.ignored,
            ["keep_data", "no_leader", "scope", "role", "my_key"]
        );
        assert_eq!(call.retry_for, Duration::from_secs(7));
        let call = called(&format!("{APPENDED} --retry-for 0")).unwrap();
        assert_eq!(call.retry_for, Duration::ZERO);
        assert!(called(&format!("{APPENDED} --retry-for soon")).is_err());
        assert!(called(&format!("{APPENDED} --retry-for")).is_err());
    }

    #[test]
    fn without_a_leader_something_must_name_a_source() {
        for (line, is_error) in [
            ("--no_leader=1 --datadir=/srv/pg --connstring=", true),
            ("--datadir=/srv/pg", true),
            ("--datadir=/srv/pg --connstring= -d host=b", false),
            ("--datadir=/srv/pg --connstring= -h b", false),
            ("--datadir=/srv/pg --connstring= --from=ssh://b", false),
        ] {
            assert_eq!(called(line).is_err(), is_error, "{line}");
        }
        let in_environment = translate(&["--connstring=".into()], &|_| false, &|name| {
            (name == "PG_RESEED_FROM").then(|| "ssh://b".to_owned())
        });
        assert!(in_environment.is_ok());
    }
}
