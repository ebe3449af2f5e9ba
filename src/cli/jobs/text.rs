//! A file of jobs, turned into the words of a command line. Text in, words out.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Options that are no keys: they say which job it is, or end the run before it begins.
const NO_KEYS: [&str; 4] = ["job", "job-file", "help", "version"];

/// Options that mean something else in another command than in `rebuild`.
const OTHER_MEANING: [(&str, &str); 1] = [("verify", "wait")];

/// How many edits a mistyped key may be away from the one that is proposed, by its length.
const LETTERS_PER_EDIT: usize = 3;

/// A job, as its file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub name: String,
    /// Where it begins.
    pub line: usize,
    keys: Vec<Key>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    name: String,
    line: usize,
    value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Flag(bool),
    Number(String),
    Text(String),
    List(Vec<Value>),
    /// A kind of value that no option has.
    Other(&'static str),
}

/// What is wrong with a file, or with a job in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub line: Option<usize>,
    pub error: String,
    pub hint: Option<String>,
}

impl Fault {
    pub(super) fn new(line: impl Into<Option<usize>>, error: impl Into<String>) -> Self {
        Self {
            line: line.into(),
            error: error.into(),
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The jobs of a file: one that is named as the file when keys stand at its top, otherwise one for each table.
///
/// # Errors
/// The text is not TOML, or holds something else than jobs.
pub fn jobs(stem: &str, text: &str) -> Result<Vec<Job>, Fault> {
    let line_of = |at: usize| 1 + text.get(..at).unwrap_or(text).matches('\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map(|span| line_of(span.start));
        Fault::new(line, format!("not TOML: {}", error.message()))
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    let is_table = |value: &Spanned<DeValue<'_>>| matches!(value.get_ref(), DeValue::Table(_));
    let own = entries.iter().find(|(_, value)| !is_table(value));
    let other = entries.iter().find(|(_, value)| is_table(value));
    if let (Some(_), Some((name, _))) = (own, other) {
        return Err(Fault::new(
            line_of(name.span().start),
            format!("table \"{}\" stands in a file that has keys before the first table", name.get_ref()),
        )
        .hint(
            "A file is one job, with keys alone, or several, with tables alone: keys at the top are not those of all \
             tables.",
        ));
    }
    let jobs = match own {
        Some((first, _)) => vec![Job {
            name: stem.to_owned(),
            line: line_of(first.span().start),
            keys: keys(table.get_ref(), &line_of),
        }],
        None => entries
            .iter()
            .filter_map(|(name, value)| match value.get_ref() {
                DeValue::Table(inner) => Some(Job {
                    name: name.get_ref().to_string(),
                    line: line_of(name.span().start),
                    keys: keys(inner, &line_of),
                }),
                _ => None,
            })
            .collect(),
    };
    match jobs.iter().find(|job| !is_name(&job.name)) {
        Some(job) => Err(Fault::new(job.line, format!("invalid name of a job \"{}\"", job.name)).hint(
            "Names consist of letters, digits, \"_\", \"-\" and \".\", and do not begin with \"-\" or \".\".",
        )),
        None => Ok(jobs),
    }
}

/// Whether systemd, a shell and a file name take it as it is.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['-', '.'])
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter))
}

/// The keys of a table, in the order of the text.
fn keys(table: &DeTable<'_>, line_of: &impl Fn(usize) -> usize) -> Vec<Key> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
        .into_iter()
        .map(|(name, found)| Key {
            name: name.get_ref().to_string(),
            line: line_of(name.span().start),
            value: value(found.get_ref()),
        })
        .collect()
}

fn value(found: &DeValue<'_>) -> Value {
    match found {
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => {
            Value::Number(number.as_str().to_owned())
        }
        DeValue::Integer(_) => Value::Other("a number that is not decimal"),
        DeValue::Array(list) => {
            Value::List(list.iter().map(|found| value(found.get_ref())).collect())
        }
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date or a time"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

/// What may follow a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Flag,
    Count,
    Value,
    Values,
}

impl Takes {
    fn of(option: &Arg) -> Self {
        match option.get_action() {
            ArgAction::SetTrue => Takes::Flag,
            ArgAction::Count => Takes::Count,
            ArgAction::Append => Takes::Values,
            _ => Takes::Value,
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Takes::Flag => "true or false",
            Takes::Count => "true, false or a number up to 255",
            Takes::Value => "a string or a whole decimal number",
            Takes::Values => "a string or a list of strings",
        }
    }
}

/// The words that say in a command line of `command` what the job says; `all` is the whole command line. What the
/// command has no option for, but `rebuild` has, is left out.
///
/// # Errors
/// A key that is no option of `rebuild`, or a value that the option does not take.
pub fn words(job: &Job, command: &str, all: &Command) -> Result<Vec<OsString>, Fault> {
    let mut found = Vec::new();
    for key in &job.keys {
        let option = option(key, all)?;
        let words = words_of(key, Takes::of(option))?;
        for word in &words {
            check(key, word, all)?;
        }
        let is_other = OTHER_MEANING.contains(&(command, &key.name));
        if options(command, all).any(|(long, _)| long == key.name) && !is_other {
            found.extend(words.into_iter().map(OsString::from));
        }
    }
    Ok(found)
}

/// The options of a command by their names.
fn options<'a>(command: &str, all: &'a Command) -> impl Iterator<Item = (&'a str, &'a Arg)> {
    let options = all.find_subcommand(command).into_iter();
    options
        .flat_map(Command::get_arguments)
        .filter_map(|option| Some((option.get_long()?, option)))
}

/// The option that a key stands for.
fn option<'a>(key: &Key, all: &'a Command) -> Result<&'a Arg, Fault> {
    let name = &key.name;
    if NO_KEYS.contains(&name.as_str()) {
        return Err(Fault::new(
            key.line,
            format!("\"{name}\" is an option, but no key of a job"),
        ));
    }
    let keys = || options("rebuild", all).filter(|(long, _)| !NO_KEYS.contains(long));
    if let Some((_, option)) = keys().find(|(long, _)| long == name) {
        return Ok(option);
    }
    let spelled = name.to_ascii_lowercase().replace('_', "-");
    let spelled = spelled.trim_start_matches('-');
    let nearest = keys()
        .map(|(long, _)| (strsim::damerau_levenshtein(spelled, long), long))
        .min()
        .filter(|(edits, long)| edits * LETTERS_PER_EDIT <= long.len().max(LETTERS_PER_EDIT));
    let fault = Fault::new(key.line, format!("unknown key \"{name}\""));
    Err(match nearest {
        Some((_, long)) => fault.hint(format!("Did you mean \"{long}\"?")),
        None => {
            fault.hint("Keys are the long options of pg_reseed rebuild, without the two dashes.")
        }
    })
}

/// What is typed for a key.
fn words_of(key: &Key, takes: Takes) -> Result<Vec<String>, Fault> {
    let name = &key.name;
    let flag = || format!("--{name}");
    let with = |value: &String| format!("--{name}={value}");
    let wrong = || {
        let found = match &key.value {
            Value::Flag(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Other(what) => what,
        };
        let wanted = takes.wanted();
        Fault::new(
            key.line,
            format!("key \"{name}\" takes {wanted}, not {found}"),
        )
    };
    match (takes, &key.value) {
        (Takes::Flag | Takes::Count, Value::Flag(false)) => Ok(Vec::new()),
        (Takes::Flag | Takes::Count, Value::Flag(true)) => Ok(vec![flag()]),
        (Takes::Count, Value::Number(number)) => match number.parse::<u8>() {
            Ok(times) => Ok(vec![flag(); usize::from(times)]),
            Err(_) => Err(wrong()),
        },
        (Takes::Value, Value::Number(text) | Value::Text(text)) => Ok(vec![with(text)]),
        (Takes::Values, Value::Text(text)) => Ok(vec![with(text)]),
        (Takes::Values, Value::List(list)) => list
            .iter()
            .map(|value| match value {
                Value::Text(text) => Ok(with(text)),
                _ => Err(Fault::new(
                    key.line,
                    format!("key \"{name}\" takes {} only", takes.wanted()),
                )),
            })
            .collect(),
        _ => Err(wrong()),
    }
}

/// Has the one parser say what it thinks of a value, so that the line is known to which that belongs.
fn check(key: &Key, word: &str, all: &Command) -> Result<(), Fault> {
    let alone = [all.get_name(), "rebuild", word];
    match all.clone().try_get_matches_from(alone) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidUtf8
            ) =>
        {
            Err(Fault::new(key.line, said(&error)))
        }
        // What else is wrong may be set right by other words.
        _ => Ok(()),
    }
}

/// What clap says, as one line.
pub(super) fn said(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let lines: Vec<&str> = paragraph.lines().map(str::trim).collect();
    let line = lines.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::cli::args;

    fn line(command: &str, text: &str) -> String {
        let all = args::command();
        let shown = |fault: Fault| {
            let line = fault.line.map_or("-".to_owned(), |line| line.to_string());
            let hint = fault.hint.map(|hint| format!(" | {hint}"));
            format!("{line}: {}{}\n", fault.error, hint.unwrap_or_default())
        };
        let jobs = match jobs("nightly", text) {
            Ok(jobs) => jobs,
            Err(fault) => return shown(fault),
        };
        let lines = jobs.iter().map(|job| match words(job, command, &all) {
            Ok(words) => {
                let words = words.iter().map(|word| word.to_str().unwrap());
                let words = shlex::try_join(words).unwrap();
                format!("{}:{}: {words}\n", job.line, job.name)
            }
            Err(fault) => shown(fault),
        });
        lines.collect()
    }

    const NIGHTLY: &str = "# Every night.\npgdata = '/srv/pg/15'\nfrom = \"ssh://db2\"\nhost = 'db2'\nport = 5_433\n\
                           keep = ['a b', \"c\"]\nstart = true\nseed = false\nverbose = 2\nwait = 600\njobs = 4\n";

    #[test]
    fn keys_become_options() {
        assert_snapshot!(line("rebuild", NIGHTLY), @"2:nightly: '--pgdata=/srv/pg/15' '--from=ssh://db2' '--host=db2' '--port=5433' '--keep=a b' '--keep=c' --start --verbose --verbose '--wait=600' '--jobs=4'");
        let several = "[a]\npgdata = '/a'\n[b]\nverbose = true\nrestore-command = '''cp \"%f\" '/x/%p' '''\n[c]\n";
        assert_snapshot!(line("rebuild", several), @r#"
        1:a: '--pgdata=/a'
        3:b: --verbose "--restore-command=cp \"%f\" '/x/%p' "
        6:c:
        "#);
        assert_eq!(line("rebuild", "# Nothing.\n"), "");
    }

    #[test]
    fn another_command_takes_what_it_has_and_what_means_the_same_there() {
        assert_snapshot!(line("inspect", NIGHTLY), @"2:nightly: '--pgdata=/srv/pg/15' '--from=ssh://db2' '--host=db2' '--port=5433' --verbose --verbose");
        assert_snapshot!(line("verify", NIGHTLY), @"2:nightly: '--pgdata=/srv/pg/15' '--from=ssh://db2' '--host=db2' '--port=5433' --verbose --verbose '--jobs=4'");
        assert_snapshot!(line("inspect", "pgdata = '/a'\nexit-code = true\n"), @r#"2: unknown key "exit-code" | Keys are the long options of pg_reseed rebuild, without the two dashes."#);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let wrong = [
            "pgdata = '/a'\nkeeep = 'x'\n",
            "\nmax_rate = '50M'\n",
            "--start = true\n",
            "Host = 'b'\n",
            "colour = 'blue'\n",
            "job = 'x'\n",
            "help = true\n",
            "start = 'yes'\n",
            "start = 1\n",
            "pgdata = ['/a', '/b']\n",
            "pgdata = true\n",
            "wait = 1.5\n",
            "wait = 0x10\n",
            "keep = [1]\n",
            "verbose = 300\n",
            "host = 2026-01-01\n",
            "port = 99999\n",
            "config = 'both'\n",
            "max-rate = '1'\n",
            "wait = 0\n",
            "pgdata = '/a'\npgdata = '/b'\n",
            "pgdata = /a\n",
            "pgdata = '/a'\n[other]\npgdata = '/b'\n",
            "[a.b]\npgdata = '/a'\n",
            "['a b']\n",
            "[-x]\n",
        ];
        let said: String = wrong.iter().map(|text| line("rebuild", text)).collect();
        assert_snapshot!(said);
    }

    #[test]
    fn every_option_of_rebuild_is_a_key() {
        let all = args::command();
        let mut keys = 0;
        let options = options("rebuild", &all).filter(|(long, _)| !NO_KEYS.contains(long));
        for (long, option) in options {
            let key = Key {
                name: long.to_owned(),
                line: 1,
                value: match Takes::of(option) {
                    Takes::Flag | Takes::Count => Value::Flag(true),
                    Takes::Value | Takes::Values => Value::Text("x".to_owned()),
                },
            };
            let words = words_of(&key, Takes::of(super::option(&key, &all).unwrap())).unwrap();
            assert_eq!(words.len(), 1, "{long}");
            // The parser knows the word, whatever it thinks of the value.
            let parsed = all
                .clone()
                .try_get_matches_from(["pg_reseed", "rebuild", &words[0]]);
            let is_known = !matches!(
                parsed.map_err(|error| error.kind()),
                Err(ErrorKind::UnknownArgument | ErrorKind::TooManyValues)
            );
            assert!(is_known, "{long}");
            keys += 1;
        }
        assert!(keys > 50, "{keys}");
    }
}
