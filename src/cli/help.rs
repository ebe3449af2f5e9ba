//! What `--help` and the manual pages end with: examples that can be pasted, and the exit statuses.

use std::fmt::Write as _;

use crate::cli::exit::{Status, Verdict};

/// Something to do, and the commands that do it. A command may go over several lines, as a shell takes them.
pub struct Example {
    /// What they do: a sentence without its colon.
    pub what: &'static str,
    pub commands: &'static [&'static str],
}

/// Columns of a help text; narrower terminals break the lines again.
const COLUMNS: usize = 98;

const PROGRAM: &[Example] = &[
    Example {
        what: "What is this directory, and does it need a rebuild at all? Then what a rebuild would do",
        commands: &[
            "pg_reseed inspect -D /srv/pg/15 -h db2 -U replicator",
            "pg_reseed rebuild -D /srv/pg/15 -h db2 -U replicator --dry-run",
        ],
    },
    Example {
        what: "Bring an old primary back as a standby of the new primary db2, and wait until it streams",
        commands: &["pg_reseed rebuild -D /srv/pg/15 -h db2 -U replicator --start"],
    },
    Example {
        what: "All options of a command, with this at its end",
        commands: &["pg_reseed help rebuild"],
    },
];

const REBUILD: &[Example] = &[
    Example {
        what: "The old primary of a failover, on its host, with its server stopped. The new primary is db2; ssh \
               reaches it as the same user",
        commands: &[
            "pg_reseed rebuild -D /srv/pg/15 -h db2 -U replicator --dry-run",
            "pg_reseed rebuild -D /srv/pg/15 -h db2 -U replicator --slot standby1 --create-slot --start",
        ],
    },
    Example {
        what: "Debian's layout, where the configuration is in /etc",
        commands: &[
            "pg_reseed rebuild --cluster 15/main -h db2 -U replicator \\\n    \
             --start-command 'sudo systemctl start postgresql@15-main'",
        ],
    },
    Example {
        what: "A new standby, where there is nothing yet",
        commands: &[
            "pg_reseed rebuild -D /srv/pg/15 --seed -h db2 -U replicator \\\n    --slot standby2 --create-slot --start",
        ],
    },
    Example {
        what: "A new standby on the source's own host, with a tablespace",
        commands: &[
            "pg_reseed rebuild -D /srv/pg/standby --seed --from local \\\n    \
             -d 'host=/var/run/postgresql port=5432 user=replicator' \\\n    \
             -T /srv/pg/space1=/srv/pg/standby_space1",
        ],
    },
    Example {
        what: "A source in a container",
        commands: &[
            "pg_reseed rebuild -D /srv/pg/15 -h db2 -U replicator \\\n    \
             --from 'exec:ssh db2 docker exec -i -u postgres pg pg_reseed serve --stdio'",
        ],
    },
    Example {
        what: "An agent that listens by TLS, on the port 7432 of db2",
        commands: &[
            "pg_reseed rebuild -D /srv/pg/15 -h db2 -U replicator --from tls: \\\n    \
             --tls-ca /etc/pg_reseed/ca.crt --tls-cert /etc/pg_reseed/client.crt \\\n    \
             --tls-key /etc/pg_reseed/client.key",
        ],
    },
];

const INSPECT: &[Example] = &[
    Example {
        what: "What a directory is",
        commands: &["pg_reseed inspect -D /srv/pg/15"],
    },
    Example {
        what: "Whether it can follow the server on db2 as it is, and if not, the command that brings it back",
        commands: &["pg_reseed inspect -D /srv/pg/15 -h db2 -U replicator"],
    },
    Example {
        what: "The same for a cluster of Debian's, for programs",
        commands: &["pg_reseed inspect --cluster 15/main -h db2 -U replicator --json"],
    },
    Example {
        what: "For monitoring: 0 while it is a standby that streams from db2",
        commands: &["pg_reseed inspect -D /srv/pg/15 -h db2 -U replicator --exit-code"],
    },
];

const VERIFY: &[Example] = &[
    Example {
        what: "Whether the standby on this host has what its primary db2 has, while both go on working",
        commands: &["pg_reseed verify -D /srv/pg/15 -h db2"],
    },
    Example {
        what: "The same for programs, gently, and with time for the checkpoints of a busy primary",
        commands: &[
            "pg_reseed verify -D /srv/pg/15 -h db2 --max-rate 50M --wait 600 --json --progress none",
        ],
    },
    Example {
        what: "Two stopped clusters on one host",
        commands: &[
            "pg_reseed verify -D /srv/pg/standby --from local --source-pgdata /srv/pg/primary",
        ],
    },
];

const STATUS: &[Example] = &[
    Example {
        what: "How far the rebuild of this directory is",
        commands: &["pg_reseed status -D /srv/pg/15"],
    },
    Example {
        what: "The same for programs, of a cluster of Debian's",
        commands: &["pg_reseed status --cluster 15/main --json"],
    },
];

const SERVE: &[Example] = &[
    Example {
        what: "An agent in a container of the source, started by the client",
        commands: &[
            "pg_reseed rebuild -D /srv/pg/15 -h db2 -U replicator \\\n    \
             --from 'exec:docker exec -i -u postgres pg pg_reseed serve --stdio'",
        ],
    },
    Example {
        what: "An agent that listens by TLS, with a role of its own",
        commands: &[
            "pg_reseed serve --listen 0.0.0.0 -d user=reseed --allow standby1.example.com \\\n    \
             --tls-ca /etc/pg_reseed/ca.crt --tls-cert /etc/pg_reseed/agent.crt \\\n    \
             --tls-key /etc/pg_reseed/agent.key",
        ],
    },
];

const PATRONI: &[Example] = &[Example {
    what: "What Patroni runs, to be tried by hand on a stopped member",
    commands: &[
        "pg_reseed patroni --from ssh: --scope=main --role=replica --datadir=/srv/pg/15 \\\n    \
         --connstring='host=db2 port=5432 user=replicator'",
    ],
}];

const REWIND: &[Example] = &[
    Example {
        what: "An old primary is made to follow db2; ssh reaches db2 as the same user",
        commands: &[
            "pg_reseed rewind -D /srv/pg/15 -R -P --source-server='host=db2 user=replicator'",
        ],
    },
    Example {
        what: "For scripts that call pg_rewind, by an agent that listens by TLS",
        commands: &[
            "ln -s /usr/bin/pg_reseed /usr/local/bin/pg_rewind",
            "export PG_RESEED_FROM=tls: PG_RESEED_TLS_CA=/etc/pg_reseed/ca.crt",
            "export PG_RESEED_TLS_CERT=/etc/pg_reseed/me.crt PG_RESEED_TLS_KEY=/etc/pg_reseed/me.key",
            "pg_rewind -D /srv/pg/15 --source-server='host=db2 user=postgres dbname=postgres'",
        ],
    },
];

const JOBS: &[Example] = &[
    Example {
        what: "All jobs of /etc/pg_reseed, before a timer runs them",
        commands: &["pg_reseed jobs check"],
    },
    Example {
        what: "What a job would do, and then the job",
        commands: &[
            "pg_reseed rebuild --job nightly --dry-run",
            "pg_reseed rebuild --job nightly",
        ],
    },
];

/// The examples of a command; those of the program for any other name.
#[must_use]
pub fn examples(command: &str) -> &'static [Example] {
    match command {
        "rebuild" => REBUILD,
        "inspect" => INSPECT,
        "verify" => VERIFY,
        "status" => STATUS,
        "serve" => SERVE,
        "patroni" => PATRONI,
        "rewind" => REWIND,
        "jobs" => JOBS,
        _ => PROGRAM,
    }
}

/// The exit statuses of a command with their meaning; those of `rebuild` for any other name.
#[must_use]
pub fn statuses(command: &str) -> Vec<(u8, &'static str)> {
    let some = match command {
        "inspect" => &Status::OF_INSPECT[..],
        "verify" => &Status::OF_VERIFY[..],
        "status" => &Status::OF_STATUS[..],
        "serve" => &Status::OF_SERVE[..],
        "patroni" | "rewind" => &Status::OF_MANAGERS[..],
        "jobs" => &Status::OF_JOBS[..],
        _ => &Status::MEANINGS[..],
    };
    some.iter()
        .map(|(status, meaning)| (status.number(), *meaning))
        .collect()
}

/// What the help of a command ends with.
#[must_use]
pub fn ending(command: &str) -> String {
    let mut text = "Examples:\n".to_owned();
    for Example { what, commands } in examples(command) {
        fold(&mut text, "  ", "  ", &format!("{what}:"));
        for line in commands.iter().flat_map(|command| command.lines()) {
            let _ = writeln!(text, "      {line}");
        }
        text.push('\n');
    }
    text.push_str("Exit status:\n");
    for (number, meaning) in statuses(command) {
        fold(&mut text, &format!("  {number}  "), "     ", meaning);
    }
    if command == "inspect" {
        text.push_str("  With --exit-code, by verdict:\n");
        for (verdict, meaning) in Verdict::MEANINGS {
            let number = verdict.number();
            fold(&mut text, &format!("  {number:<2} "), "     ", meaning);
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Writes a text in lines.
fn fold(out: &mut String, first: &str, others: &str, text: &str) {
    let mut line = first.to_owned();
    let mut is_new = true;
    for word in text.split_whitespace() {
        if !is_new && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(out, "{line}");
            others.clone_into(&mut line);
            is_new = true;
        }
        if !is_new {
            line.push(' ');
        }
        line.push_str(word);
        is_new = false;
    }
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;

    #[test]
    fn every_example_is_a_command_line_that_is_understood() {
        for command in [
            "pg_reseed",
            "rebuild",
            "inspect",
            "verify",
            "status",
            "serve",
            "jobs",
        ] {
            for example in examples(command) {
                for text in example.commands {
                    let words = shlex::split(&text.replace("\\\n", " "))
                        .unwrap_or_else(|| panic!("{text}"));
                    let parsed = args::parse(words.into_iter().map(Into::into));
                    let is_help = parsed.as_ref().is_err_and(|error| !error.use_stderr());
                    assert!(parsed.is_ok() || is_help, "{text}: {parsed:?}");
                    assert!(text.lines().all(|line| line.len() <= COLUMNS - 6), "{text}");
                }
            }
        }
    }
}
