//! `postmaster.opts`: the command line of a server's last start (PostgreSQL `postmaster.c:CreateOptsFile`).

/// The program and its arguments. Each argument stands in double quotes behind a blank, and nothing is escaped, which
/// is how `pg_ctl restart` takes it as well (`pg_ctl.c:read_post_opts`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opts {
    pub program: String,
    pub arguments: Vec<String>,
}

impl Opts {
    /// Parses the file; `None` when it is empty.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.trim_end();
        let (program, arguments) = match line.split_once(" \"") {
            None => (line, Vec::new()),
            Some((program, rest)) => {
                let rest = rest.strip_suffix('"').unwrap_or(rest);
                (program, rest.split("\" \"").map(str::to_owned).collect())
            }
        };
        (!program.is_empty()).then(|| Self {
            program: program.to_owned(),
            arguments,
        })
    }

    /// The arguments but for the data directory, which may have been given relative to a place that is not known.
    #[must_use]
    pub fn without_directory(&self) -> Vec<&str> {
        let mut rest = Vec::new();
        let mut arguments = self.arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            if argument == "-D" {
                arguments.next();
            } else if !argument.starts_with("-D") {
                rest.push(argument);
            }
        }
        rest
    }

    /// The data directory as it was given.
    #[must_use]
    pub fn directory(&self) -> Option<&str> {
        let mut arguments = self.arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix("-D") {
                Some("") => return arguments.next().map(String::as_str),
                Some(directory) => return Some(directory),
                None => {}
            }
        }
        None
    }

    /// What the command line sets a setting to; the last one counts (`postmaster.c:PostmasterMain`).
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<String> {
        let mut found = None;
        let mut arguments = self.arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            let assignment = match argument {
                "-c" => arguments.next(),
                "-p" if name == "port" => {
                    found = arguments.next().map(str::to_owned).or(found);
                    None
                }
                "-k" if name == "unix_socket_directories" => {
                    found = arguments.next().map(str::to_owned).or(found);
                    None
                }
                _ => argument
                    .strip_prefix("--")
                    .or_else(|| argument.strip_prefix("-c")),
            };
            if let Some((key, value)) = assignment.and_then(|text| text.split_once('='))
                // A dash stands for an underscore (`guc.c:ParseLongOption`).
                && key.replace('-', "_").eq_ignore_ascii_case(name)
            {
                found = Some(value.to_owned());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read_as_pg_ctl_reads_it() {
        let opts = Opts::parse(
            "/usr/lib/postgresql/15/bin/postgres \"-D\" \"/srv/a b\" \"-c\" \"config_file=/etc/x.conf\" \"-p\" \"5433\"\n",
        )
        .unwrap();
        assert_eq!(opts.program, "/usr/lib/postgresql/15/bin/postgres");
        assert_eq!(
            opts.without_directory(),
            ["-c", "config_file=/etc/x.conf", "-p", "5433"]
        );
        assert_eq!(opts.setting("config_file").unwrap(), "/etc/x.conf");
        assert_eq!(opts.setting("port").unwrap(), "5433");
        assert_eq!(opts.setting("work_mem"), None);
        let bare = Opts::parse("postgres\n").unwrap();
        assert!(bare.arguments.is_empty());
        assert_eq!(Opts::parse("\n"), None);
        let long = Opts::parse("postgres \"--config-file=/x\" \"-D/y\"").unwrap();
        assert_eq!(long.setting("config_file").unwrap(), "/x");
        assert_eq!(long.without_directory(), ["--config-file=/x"]);
    }
}
