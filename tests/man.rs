//! The manual pages say what the program does: they are made from the definitions of the command line
//! (`src/cli/args.rs`), the exit statuses (`src/cli/exit.rs`) and the sections in `man/*.in`.
//!
//! `UPDATE_MAN=1 cargo test --test man` writes them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;
use insta::assert_snapshot;
use pg_reseed::cli::args;
use pg_reseed::cli::exit::Verdict;
use pg_reseed::cli::help::{self, Example};
use pg_reseed::warning::Code;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name)
}

/// The commands that have a page, by the page's name.
fn commands() -> Vec<(String, Command)> {
    let mut main = args::command();
    main.build();
    let subcommands: Vec<_> = main
        .get_subcommands()
        .map(|command| (format!("pg_reseed-{}", command.get_name()), command.clone()))
        .collect();
    let mut all = vec![("pg_reseed".to_owned(), main)];
    all.extend(subcommands);
    all
}

/// A page: what clap knows, then our sections.
fn page(name: &str, command: Command) -> String {
    let has_subcommands = command.has_subcommands();
    let man = Man::new(command)
        .title(name.to_uppercase())
        .section("1")
        .date("")
        .source(concat!("pg_reseed ", env!("CARGO_PKG_VERSION")))
        .manual("pg_reseed");
    let mut text = Vec::new();
    man.render_title(&mut text).unwrap();
    man.render_name_section(&mut text).unwrap();
    man.render_synopsis_section(&mut text).unwrap();
    man.render_description_section(&mut text).unwrap();
    if has_subcommands {
        man.render_subcommands_section(&mut text).unwrap();
    }
    man.render_options_section(&mut text).unwrap();
    let sections = fs::read_to_string(path(&format!("{name}.in"))).unwrap();
    let text = String::from_utf8(text).unwrap();
    let command = name.strip_prefix("pg_reseed-").unwrap_or(name);
    let sections = sections
        .replace("@EXIT_STATUS@\n", &exit_statuses(command))
        .replace("@EXAMPLES@\n", &examples(command))
        .replace("@VERDICTS@\n", &verdicts())
        .replace("@WARNINGS@\n", &warnings())
        .replace("@REFUSALS@\n", &refusals());
    text + &sections
}

fn warnings() -> String {
    let escaped = |text: &str| text.replace('-', "\\-");
    Code::ALL
        .iter()
        .map(|(_, name, meaning)| format!(".TP\n.B {}\n{}\n", escaped(name), escaped(meaning)))
        .collect()
}

/// The names of `Refusal::name`, and of what closing the target finds at the last moment.
fn refusals() -> String {
    let source = include_str!("../src/plan/refusal/reason.rs");
    let (_, names) = source.split_once("pub fn name(").unwrap();
    let names = names.lines().filter_map(|line| line.split_once("=> \""));
    let mut names: Vec<_> = names
        .filter_map(|(_, rest)| rest.split_once('"'))
        .map(|(name, _)| name.replace('-', "\\-"))
        .chain(["target\\-changed".to_owned()])
        .collect();
    names.sort();
    names.dedup();
    assert!(names.len() > 50, "{names:?}");
    names.join(",\n") + ".\n"
}

fn exit_statuses(command: &str) -> String {
    help::statuses(command)
        .iter()
        .map(|(number, meaning)| format!(".TP\n.B {number}\n{meaning}\n"))
        .collect()
}

fn verdicts() -> String {
    Verdict::MEANINGS
        .iter()
        .map(|(verdict, meaning)| {
            format!(
                ".TP\n.B {}\n{}\n",
                verdict.number(),
                meaning.replace('-', "\\-")
            )
        })
        .collect()
}

/// A text as roff takes it.
fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

fn examples(command: &str) -> String {
    let mut text = String::new();
    for Example { what, commands } in help::examples(command) {
        if !text.is_empty() {
            text.push_str(".PP\n");
        }
        let _ = writeln!(text, "{}:\n.PP\n.nf\n.RS", roff(what));
        for command in *commands {
            let _ = writeln!(text, "$ {}", roff(command));
        }
        text.push_str(".RE\n.fi\n");
    }
    text
}

#[test]
fn pages_match_the_definitions() {
    for (name, command) in commands() {
        let file = path(&format!("{name}.1"));
        let wanted = page(&name, command);
        if std::env::var_os("UPDATE_MAN").is_some() {
            fs::write(&file, &wanted).unwrap();
        }
        let found = fs::read_to_string(&file).unwrap_or_default();
        let differing = wanted.lines().zip(found.lines()).find(|(a, b)| a != b);
        assert!(
            wanted == found,
            "{} is out of date, at {differing:?}: run UPDATE_MAN=1 cargo test --test man",
            file.display()
        );
    }
}

#[test]
fn there_is_no_page_without_a_command() {
    let mut wanted: Vec<_> = commands()
        .into_iter()
        .flat_map(|(name, _)| [format!("{name}.1"), format!("{name}.in")])
        .collect();
    let mut found: Vec<_> = fs::read_dir(path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    wanted.sort();
    found.sort();
    assert_eq!(wanted, found);
}

#[test]
fn every_option_is_explained_at_length() {
    for (name, command) in commands() {
        for option in command
            .get_arguments()
            .filter(|option| !option.is_hide_set())
        {
            let id = option.get_id();
            if id == "help" || id == "version" {
                continue;
            }
            let short = option.get_help().expect("a short help").to_string();
            let long = option.get_long_help().expect("a long help").to_string();
            assert!(short.len() < 72, "{name} {id}: {short}");
            assert!(!short.ends_with('.'), "{name} {id}: {short}");
            assert!(long.ends_with('.') && long != short, "{name} {id}: {long}");
            assert!(option.get_help_heading().is_some(), "{name} {id}");
        }
    }
}

#[test]
fn options_and_manual_name_the_same() {
    let mut command = args::command();
    command.build();
    for command in command.get_subcommands() {
        let page = path(&format!("pg_reseed-{}.1", command.get_name()));
        let page = fs::read_to_string(page).unwrap().replace("\\-", "-");
        let defined: BTreeSet<_> = command
            .get_arguments()
            .filter_map(|option| option.get_long())
            .map(|long| format!("--{long}"))
            .collect();
        for option in &defined {
            assert!(
                page.contains(option.as_str()),
                "{option} is not in the manual"
            );
        }
        // Back: what stands at the beginning of an entry is an option.
        for line in page.lines().filter(|line| line.starts_with("\\fB-")) {
            let long = line.split("\\fB").find(|word| word.starts_with("--"));
            let long = long.and_then(|word| word.split('\\').next()).unwrap();
            assert!(defined.contains(long), "{long} is in the manual only");
        }
    }
}

/// The documents may name only options that exist.
#[test]
fn documents_name_only_options_that_exist() {
    let mut command = args::command();
    command.build();
    let mut defined: BTreeSet<String> = command
        .get_subcommands()
        .flat_map(clap::Command::get_arguments)
        .filter_map(|option| option.get_long())
        .map(str::to_owned)
        .collect();
    // Of the programs that the documents mention.
    let others = [
        "checksum", "delta", "test", "shapes", "runs", "scale", "caches", "memory", "help",
    ];
    defined.extend(others.map(str::to_owned));
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "docs/promises.md",
        "docs/recipes.md",
        "docs/troubleshooting.md",
    ] {
        let text = fs::read_to_string(path("..").join(document)).unwrap();
        for (at, _) in text.match_indices("--") {
            let name: String = text[at + 2..]
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '-')
                .collect();
            let begins = at == 0
                || [' ', '`', '/', '(', '"']
                    .iter()
                    .any(|c| text[..at].ends_with(*c));
            if begins && name.starts_with(|c: char| c.is_ascii_lowercase()) {
                assert!(
                    defined.contains(&name),
                    "{document}: --{name} does not exist"
                );
            }
        }
    }
}

/// Every command in a code block of the documents is one that is understood.
#[test]
fn commands_of_the_documents_are_understood() {
    for (document, least) in [("README.md", 5), ("SECURITY.md", 2), ("docs/recipes.md", 7)] {
        let text = fs::read_to_string(path("..").join(document)).unwrap();
        let blocks = text.split("```").skip(1).step_by(2);
        let lines: Vec<String> = blocks
            .flat_map(|block| {
                let whole = block.replace("\\\n", " ");
                whole.lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .filter_map(|line| {
                let typed = line.rsplit_once("$ ").map_or(&*line, |(_, typed)| typed);
                let typed = typed.trim();
                typed.starts_with("pg_reseed ").then(|| typed.to_owned())
            })
            .collect();
        assert!(lines.len() >= least, "{document}: {lines:?}");
        for line in lines {
            let words = shlex::split(&line).unwrap_or_else(|| panic!("{line}"));
            let parsed = args::parse(words.into_iter().map(Into::into));
            assert!(parsed.is_ok(), "{document}: {line}: {parsed:?}");
        }
    }
}

/// The `event` and field names that a page must explain: written by hand there.
#[test]
fn the_json_formats_are_documented() {
    let outcome = "src/client/outcome.rs";
    let explained = [
        ("rebuild", outcome, "Outcome"),
        ("rebuild", outcome, "DivergenceReport"),
        ("rebuild", outcome, "DamagedPage"),
        ("rebuild", outcome, "KeptWal"),
        ("rebuild", "src/plan/leaving.rs", "Unarchived"),
        ("rebuild", "src/plan/saved.rs", "Stretch"),
        ("rebuild", "src/facts.rs", "TargetSlot"),
        ("rebuild", "src/ui/figures.rs", "Figures"),
        ("rebuild", "src/ui/mod.rs", "Ending"),
        ("status", "src/ui/status.rs", "Status"),
        ("status", "src/ui/status.rs", "RunStatus"),
        ("status", "src/ui/status.rs", "InterruptedStatus"),
        ("status", "src/ui/status.rs", "Particulars"),
        ("status", "src/ui/status.rs", "Told"),
        ("inspect", outcome, "Inspection"),
        ("inspect", outcome, "ClusterReport"),
        ("inspect", outcome, "TablespaceReport"),
        ("inspect", outcome, "InterruptedReport"),
        ("inspect", outcome, "SourceReport"),
        ("inspect", outcome, "SlotReport"),
    ];
    for (command, source, structure) in explained {
        let page = fs::read_to_string(path(&format!("pg_reseed-{command}.1"))).unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        let text = fs::read_to_string(file).unwrap();
        let fields = fields(&text, structure);
        assert!(!fields.is_empty(), "there is no {structure} in {source}");
        for field in fields {
            assert!(page.contains(field), "{structure}.{field} is not explained");
        }
    }
}

/// The fields of a structure in a source text.
fn fields<'a>(source: &'a str, structure: &str) -> Vec<&'a str> {
    let Some((_, rest)) = source.split_once(&format!("struct {structure} {{")) else {
        return Vec::new();
    };
    let (body, _) = rest.split_once("\n}").expect("a closed structure");
    body.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("pub"))
        .filter_map(|line| line.split_once(": ")?.0.split(' ').next_back())
        .collect()
}

/// A help text, without the blanks that clap leaves at the ends of lines.
fn help_of(arguments: &[&str]) -> String {
    let error = args::parse(arguments.iter().map(Into::into)).expect_err("help");
    let text = error.render().to_string();
    text.lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

#[test]
fn short_help_of_rebuild() {
    assert_snapshot!(help_of(&["pg_reseed", "rebuild", "-?"]), @"
    Make a data directory a standby of a running server

    Usage: pg_reseed rebuild -D PGDATA {-h HOST [-U USERNAME] | -d CONNINFO} [--from AGENT] [OPTION]...

    Target options:
      -D, --pgdata <PGDATA>
              Data directory that becomes the standby [env: PGDATA]
          --cluster <VERSION/NAME>
              Cluster of Debian's postgresql-common: VERSION/NAME
      -T, --tablespace-mapping <OLDDIR=NEWDIR>
              Relocate a tablespace: OLDDIR=NEWDIR (repeatable)
          --waldir <WALDIR>
              Directory for the WAL of a seeded standby
          --config <SIDE>
              Whose configuration files the standby has [default: target] [possible values: target,
              source]
          --keep <PATTERN>
              Leave these paths of the target alone (repeatable)
          --max-delete <N>
              Refuse to remove more files than this
          --keep-diverged-wal <DIR>
              Save WAL that only the target has, or never archived, here
          --seed
              Make a new standby where nothing is
      -B, --bindir <BINDIR>
              Directory of the target's PostgreSQL programs
          --config-file <FILE>
              The target's postgresql.conf when it is elsewhere
          --target-config-dir <DIR>
              Copy the source's configuration files to this directory
          --target-port <PORT>
              Port of the standby in the copied configuration

    Source options:
          --from <AGENT>              The agent: ssh://[USER@]HOST[:PORT], tls:..., exec:COMMAND, local
          --rsh <COMMAND>             Command to use instead of ssh
          --agent-path <PATH>         Where pg_reseed is on the source's host
          --source-dbname <CONNINFO>  How the agent connects to its own server
      -S, --slot <SLOTNAME>           Replication slot that the standby shall use
      -C, --create-slot               Create the slot if it does not exist
          --max-wal-retained <SIZE>   Most WAL that the source may keep for the run
      -c, --checkpoint <MODE>         Immediate or spread checkpoint at the start [default: fast]
                                      [possible values: fast, spread]
      -X, --wal-method <METHOD>       How the WAL of the backup comes [default: fetch] [possible values:
                                      fetch, stream, none]

    TLS options:
          --tls-ca <FILE>    Certificates that the other side's must come from
          --tls-cert <FILE>  One's own certificate
          --tls-key <FILE>   The key of one's own certificate

    Standby connection options:
      -d, --dbname <CONNINFO>                    How the standby connects to the source
      -h, --host <HOST>                          Source's host name or socket directory
      -p, --port <PORT>                          Source's port
      -U, --username <USERNAME>                  Role that replicates
          --role <ROLE>                          What PGDATA becomes: standby, managed, or clone
          --application-name <NAME>              Name of the standby in the source's views
          --restore-command <COMMAND>            The standby's restore_command
          --archive-cleanup-command <COMMAND>    The standby's archive_cleanup_command
          --recovery-target-timeline <TIMELINE>  Timeline that the standby shall follow
          --raise-settings                       Raise settings that must not be lower than the source's

    Run options:
      -n, --dry-run                  Compare and report, change nothing
          --if-needed                Do nothing when the target streams from the source
          --stop                     Stop a server that runs in the target first
          --start                    Start the standby and wait until it streams
      -l, --log-file <FILE>          Log file of the server that --start starts
          --start-command <COMMAND>  Command that starts the standby instead of pg_ctl
          --wait <SECS>              Seconds to wait for stop, start and streaming [default: 60]
      -j, --jobs <N>                 Threads on each side that compute at a time
          --streams <N>              Byte streams between the sides: 1 to 16
      -Z, --compress <METHOD>        Compression between the sides: auto, none, lz4, zstd[:LEVEL]
      -r, --max-rate <RATE>          Most that the source reads a second: RATE, or a timetable
      -N, --no-sync                  Do not wait for data to be safe on disk
          --job <NAME>               Take options from this job of the configuration files
          --job-file <FILE>          Take the job from this file

    Options of a copy (--role clone):
          --before-start <SQL>  SQL to run in a copy while nobody else can come in; @FILE (repeatable)
          --after-start <SQL>   SQL to run in a copy once it is started; @FILE (repeatable)
          --hook-user <ROLE>    Role that runs the hooks
          --keep-archive-mode   Let a copy archive as its configuration says

    Output options:
      -P, --progress [<STYLE>]  Show progress, and how: auto, bar, plain, json, none
          --report <FILE>       Write the result to this file as JSON; - is standard output
          --metrics <FILE>      Write figures for Prometheus to this file
      -v, --verbose...          Log more to standard error (repeatable)
      -q, --quiet               No progress and no summary

    Overrides of refusals:
          --overwrite-foreign-cluster  Overwrite a cluster that never was the source's
          --overwrite-unknown-cluster  Overwrite a cluster that cannot be told
          --discard-newer-timeline     Overwrite a target on a newer timeline
          --discard-newer-wal          Overwrite a target that is ahead of the source
          --leave-no-primary           Follow a source that is a standby of the target
          --no-login-check             Do not try the standby's connection first
          --reuse-tablespace-dirs      Use tablespace directories that have content
          --ignore-free-space          Do not check that there is enough room
          --keep-incomplete-wal        Save the WAL that only the target has although parts are gone
          --allow-unknown-version      Go on with a PostgreSQL that is newer than known

    General options:
      -?, --help     Print help: -? in short, --help in full
      -V, --version  Print the version
    ");
}

#[test]
fn help_of_serve() {
    assert_snapshot!(help_of(&["pg_reseed", "serve", "--help"]), @r"
    The agent: runs on the source's host, as the user that owns the source's data directory, and answers
    pg_reseed rebuild. With --stdio it is started by the client; you type it only in the COMMAND of
    --from exec:COMMAND. It ends when its standard input ends, and with it the backup and the temporary
    slot on the server. With --listen it runs on its own and waits for clients of --from tls://HOST;
    each gets an agent, in a process of its own.

    It connects to its server, runs the backup functions, and reads the data directory. It writes
    nothing there, runs no statement that modifies data, and serves only files that its own listing of
    the directory has found. Where Linux has Landlock the kernel sees to it that it writes nowhere.

    Usage: pg_reseed serve --stdio [-d CONNINFO] [-D PGDATA]
           pg_reseed serve --listen ADDRESS --tls-ca FILE --tls-cert FILE --tls-key FILE --allow NAME... [OPTION]...

    Options:
          --stdio
              Talks to pg_reseed rebuild on standard input and output. Standard error is for messages to
              people.

          --listen <ADDRESS[:PORT]>
              Listens on this address and port, 7432 unless another one is given; 0.0.0.0 or [::] is
              every address of the host. Both sides show certificates, by TLS 1.3: see --tls-ca,
              --tls-cert, --tls-key and --allow, which are required. A socket that systemd hands over is
              used instead. SIGHUP reads the certificates again and ends the sessions of those that are
              not valid any more; SIGTERM ends all sessions cleanly. Each session's beginning and end is
              a line on standard error.

          --allow <NAME>
              A client may come in when its certificate has NAME among its DNS subject alternative
              names, letter for letter but for case. Wildcards stand for nobody, and the common name
              does not count. May be given many times.

          --max-connections <N>
              Most connections of clients at a time; each of the --streams of a rebuild is one, and each
              has a process.

              [default: 64]

      -d, --dbname <CONNINFO>
              A connection string (keyword/value or URI) with which the agent connects to its server.
              The default is the local socket, the role named like the operating system user, and
              database postgres. The right to run the backup functions belongs to a database, so it must
              be the one in which it was granted.

              The keywords host, hostaddr, port, user, dbname, passfile, options, sslmode,
              application_name and connect_timeout are used; sslmode may be disable, allow or prefer,
              for there is no TLS. Others are refused. A password, which others could see in the list of
              processes, belongs in the password file. libpq's environment variables are not used,
              except PGPASSFILE.

      -D, --pgdata <PGDATA>
              The server's data directory, for a role that may not ask the server for it: that takes a
              superuser or a member of pg_read_all_settings.

          --stopped
              Serves the data directory of --pgdata in which no server runs, for pg_reseed verify and
              nothing else: no server is connected to. It is refused when one runs there.

    TLS options:
          --tls-ca <FILE>
              A file of certificates (PEM) of the authority that the other side's certificate must come
              from. No other authority is trusted, not even those of the system.

          --tls-cert <FILE>
              A file with one's own certificate (PEM), followed by those between it and the authority,
              if there are any.

          --tls-key <FILE>
              The private key of --tls-cert (PEM), without a passphrase. The file must belong to the
              user and be readable by nobody else, or belong to root and be readable by the user's
              group.

          --tls-crl <FILE>
              A file of certificate revocation lists (PEM) of the authority. A client whose certificate
              is on one of them is refused; so is one whose authority has no list in the file.

    General options:
      -?, --help
              Print help: -? in short, --help in full

      -V, --version
              Print the version

    Examples:
      An agent in a container of the source, started by the client:
          pg_reseed rebuild -D /srv/pg/15 -h db2 -U replicator \
              --from 'exec:docker exec -i -u postgres pg pg_reseed serve --stdio'

      An agent that listens by TLS, with a role of its own:
          pg_reseed serve --listen 0.0.0.0 -d user=reseed --allow standby1.example.com \
              --tls-ca /etc/pg_reseed/ca.crt --tls-cert /etc/pg_reseed/agent.crt \
              --tls-key /etc/pg_reseed/agent.key

    Exit status:
      0  The client ended the session, or a signal ended the listening.
      1  Something did not work; standard error says what.
      2  The options are wrong.
    ");
}

#[test]
fn help_of_rebuild() {
    // In tests/snapshots: it is long.
    assert_snapshot!(help_of(&["pg_reseed", "rebuild", "--help"]));
}

#[test]
fn short_help_of_all() {
    assert_snapshot!(help_of(&["pg_reseed", "-?"]), @"
    Rebuild a PostgreSQL standby by moving only the blocks that differ

    Usage: pg_reseed rebuild [OPTION]...
           pg_reseed inspect [OPTION]...
           pg_reseed verify [OPTION]...
           pg_reseed status [OPTION]...
           pg_reseed serve [OPTION]...
           pg_reseed jobs check [OPTION]...
           pg_reseed patroni [OPTION]...
           pg_reseed rewind [OPTION]...
           pg_reseed help [COMMAND]
           pg_reseed version

    Commands:
      rebuild  Make a data directory a standby of a running server
      inspect  Tell what a data directory is and what it needs
      verify   Compare a standby with its source, change nothing
      status   Tell how far a run is, or which one was interrupted
      serve    Serve a source's data directory to pg_reseed rebuild
      jobs     Check the configuration files
      patroni  Create a replica for Patroni
      rewind   Do what pg_rewind does, by comparing

    General options:
      -?, --help     Print help: -? in short, --help in full
      -V, --version  Print the version
    ");
}
