//! Commands in messages: they can be pasted into a shell.

/// A word for a shell.
#[must_use]
pub fn word(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./:=,@%+".contains(letter);
    if word.starts_with(|letter: char| letter.is_ascii_alphanumeric()) && word.chars().all(is_plain)
    {
        // A setting of a variable among them, which reads better so.
        return word.to_owned();
    }
    // Only a NUL cannot be quoted, and no argument holds one.
    shlex::try_quote(word).unwrap_or_default().into_owned()
}

/// The words of a text as a shell splits it; `None` where a quote is not closed.
#[must_use]
pub fn words(text: &str) -> Option<Vec<String>> {
    shlex::split(text)
}

/// A command for a shell.
#[must_use]
pub fn line(words: &[String]) -> String {
    // Only a NUL cannot be quoted, and no argument holds one.
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default()
}

/// What starts the server of a data directory by hand, with its configuration where that is elsewhere.
#[must_use]
pub fn pg_ctl(program: &str, pgdata: &str, config_file: Option<&str>) -> String {
    let command = format!("{} start -D {}", word(program), word(pgdata));
    match config_file {
        Some(file) => {
            let setting = format!("-c config_file={}", word(file));
            format!("{command} -o {}", word(&setting))
        }
        None => command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_survives_the_shell_and_plain_words_stay_plain() {
        assert_eq!(
            pg_ctl("pg_ctl", "/srv/pg/15", Some("/etc/pg.conf")),
            "pg_ctl start -D /srv/pg/15 -o '-c config_file=/etc/pg.conf'"
        );
        assert_eq!(word("PGPORT=5433"), "PGPORT=5433");
        let command = pg_ctl("pg_ctl", "/srv/my data", Some("/etc/it's"));
        let words = shlex::split(&command).unwrap();
        assert_eq!(words[3], "/srv/my data");
        assert_eq!(
            shlex::split(&words[5]).unwrap(),
            ["-c", "config_file=/etc/it's"]
        );
    }
}
