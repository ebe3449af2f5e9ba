//! The manual pages say what the program does: they are made from the definitions of the command line
//! (`src/cli/args.rs`), the exit statuses (`src/cli/exit.rs`) and the sections in `man/*.in`.
//!
//! `UPDATE_MAN=1 cargo test --test man` writes them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;
use insta::assert_snapshot;
use pg_reseed::cli::args;
use pg_reseed::cli::exit::Status;

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
    text + &sections.replace("@EXIT_STATUS@\n", &exit_statuses())
}

fn exit_statuses() -> String {
    Status::MEANINGS
        .iter()
        .map(|(status, meaning)| format!(".TP\n.B {}\n{meaning}\n", status.number()))
        .collect()
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

/// The `event` and field names that a page must explain: written by hand there.
#[test]
fn the_json_formats_are_documented() {
    let page = fs::read_to_string(path("pg_reseed-rebuild.1")).unwrap();
    let sources = [
        "src/client/outcome.rs",
        "src/ui/figures.rs",
        "src/ui/mod.rs",
    ];
    for source in sources {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        let text = fs::read_to_string(file).unwrap();
        for structure in [
            "Outcome",
            "DivergenceReport",
            "DamagedPage",
            "Figures",
            "Ending",
        ] {
            for field in fields(&text, structure) {
                assert!(page.contains(field), "{structure}.{field} is not explained");
            }
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
    assert_snapshot!(help_of(&["pg_reseed", "rebuild", "-?"]), @r"
    Make a data directory a standby of a running server

    Usage: pg_reseed rebuild -D PGDATA -d CONNINFO [--from AGENT] [OPTION]...

    Target options:
      -D, --pgdata <PGDATA>
              Data directory that becomes the standby [env: PGDATA]
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
      -B, --bindir <BINDIR>
              Directory of the target's PostgreSQL programs
          --config-file <FILE>
              The target's postgresql.conf when it is elsewhere

    Source options:
          --from <AGENT>              How to reach the agent: ssh://[USER@]HOST[:PORT], exec:COMMAND,
                                      local
          --rsh <COMMAND>             Command to use instead of ssh
          --agent-path <PATH>         Where pg_reseed is on the source's host
          --source-dbname <CONNINFO>  How the agent connects to its own server
      -S, --slot <SLOTNAME>           Replication slot that the standby shall use
      -C, --create-slot               Create the slot if it does not exist
      -c, --checkpoint <MODE>         Immediate or spread checkpoint at the start [default: fast]
                                      [possible values: fast, spread]

    Standby connection options:
      -d, --dbname <CONNINFO>          How the standby connects to the source
      -h, --host <HOST>                Source's host name or socket directory
      -p, --port <PORT>                Source's port
      -U, --username <USERNAME>        Role that replicates
          --application-name <NAME>    Name of the standby in the source's views
          --restore-command <COMMAND>  The standby's restore_command

    Run options:
      -n, --dry-run            Compare and report, change nothing
          --stop               Stop a server that runs in the target first
          --start              Start the standby and wait until it streams
      -l, --log-file <FILE>    Log file of the server that --start starts
          --wait <SECS>        Seconds to wait for stop, start and streaming [default: 60]
      -j, --jobs <N>           Worker threads on each side
      -Z, --compress <METHOD>  Compression between the sides: none, lz4, zstd[:LEVEL]
      -N, --no-sync            Do not wait for data to be safe on disk

    Output options:
      -P, --progress [<STYLE>]  How progress is shown: auto, bar, plain, json, none [default: auto]
          --report <FILE>       Write the result to this file as JSON
      -v, --verbose...          Log more to standard error (repeatable)
      -q, --quiet               No progress and no summary

    Overrides of refusals:
          --overwrite-foreign-cluster  Overwrite a cluster that never was the source's
          --discard-newer-timeline     Overwrite a target on a newer timeline
          --discard-newer-wal          Overwrite a target that is ahead of the source
          --no-login-check             Do not try the standby's connection first
          --reuse-tablespace-dirs      Use tablespace directories that have content
          --ignore-free-space          Do not check that there is enough room

    General options:
      -?, --help     Print help: -? in short, --help in full
      -V, --version  Print the version
    ");
}

#[test]
fn help_of_serve() {
    assert_snapshot!(help_of(&["pg_reseed", "serve", "--help"]), @r"
    The agent: runs on the source's host, as the user that owns the source's data directory, and answers
    pg_reseed rebuild. It is started by it and not by hand, except in the COMMAND of --from
    exec:COMMAND. It ends when its standard input ends, and with it the backup and the temporary slot on
    the server.

    It connects to its server, runs the backup functions, and reads the data directory. It writes
    nothing there, runs no statement that modifies data, and opens only files that its own listing of
    the directory has found.

    Usage: pg_reseed serve --stdio [-d CONNINFO] [-D PGDATA]

    Options:
          --stdio
              Talks to pg_reseed rebuild on standard input and output. Standard error is for messages to
              people.

      -d, --dbname <CONNINFO>
              A connection string (keyword/value or URI) with which the agent connects to its server.
              The default is the local socket, the role named like the operating system user, and
              database postgres. The right to run the backup functions belongs to a database, so it must
              be the one in which it was granted.

      -D, --pgdata <PGDATA>
              The server's data directory, for a role that may not ask the server for it: that takes a
              superuser or a member of pg_read_all_settings.

    General options:
      -?, --help
              Print help: -? in short, --help in full

      -V, --version
              Print the version
    ");
}

#[test]
fn help_of_rebuild_is_the_manual() {
    assert_snapshot!(help_of(&["pg_reseed", "rebuild", "--help"]), @r#"
    Makes the data directory PGDATA a streaming standby of a running server, the source, by moving only
    the blocks that differ. The directory may hold an old primary that diverged after a failover, a
    standby that fell behind, the remains of an interrupted rebuild, or nothing at all: an empty or
    missing directory is seeded with everything.

    Run it on the host of PGDATA, as the operating system user that owns PGDATA. Every check is made
    before the first change; a refusal leaves the directory as it was. From the first change until the
    end PostgreSQL cannot start in PGDATA, because global/pg_control is away. When a run stops half-way,
    for whatever reason, run the same command again: what already matches is not moved twice.

    Usage: pg_reseed rebuild -D PGDATA -d CONNINFO [--from AGENT] [OPTION]...

    Target options:
      -D, --pgdata <PGDATA>
              The data directory that becomes the standby. It may be absent or empty; then it is made
              and seeded with everything. In it, and in its tablespaces, everything that belongs to
              PostgreSQL is made equal to the source's, and removed where the source does not have it.
              What belongs to this host stays: see --config and --keep. No server may run in it: see
              --stop.

              [env: PGDATA]

      -T, --tablespace-mapping <OLDDIR=NEWDIR>
              Puts the tablespace that is in directory OLDDIR on the source into NEWDIR on this host.
              Both must be absolute paths, and OLDDIR must be written as the source's pg_tblspc link has
              it. Write a = that is part of a path as \=. May be given many times. Needed for every
              tablespace when source and target are on one host. A tablespace that is not mapped keeps
              the source's path; missing directories are made. A NEWDIR that overlaps another one, or
              lies in PGDATA, is refused.

          --waldir <WALDIR>
              When PGDATA is seeded, puts its WAL into this directory and makes pg_wal a symbolic link
              to it. The path must be absolute, the directory empty or missing. A PGDATA that exists
              keeps its pg_wal, directory or link, as it is.

          --config <SIDE>
              Whose configuration files the standby has when both sides have them in their data
              directory: postgresql.conf, postgresql.auto.conf, pg_hba.conf, pg_ident.conf, the files
              they include, and TLS keys and certificates. "target" keeps the standby's own; "source"
              takes the source's. A seeded directory has none of its own and takes the source's. Files
              outside of the data directories, such as those in /etc/postgresql, are never touched. The
              settings that make the directory a standby of the source are written to
              postgresql.auto.conf in any case.

              [default: target]
              [possible values: target, source]

          --keep <PATTERN>
              Leaves the files and directories of the target alone that match PATTERN, and what lies in
              them: they are neither overwritten nor removed, also with --config source. In PATTERN, *
              stands for any part of a name and ? for one byte of it. A PATTERN without / is held
              against every name, otherwise against the path relative to PGDATA. May be given many
              times. What PostgreSQL itself manages, such as base or pg_wal, always follows the source
              and cannot be kept.

          --max-delete <N>
              Stops when more than N files would have to be removed from the target. The default is no
              limit. A protection against a wrong PGDATA in scripts.

      -B, --bindir <BINDIR>
              The directory with the PostgreSQL programs of this host: postgres, pg_ctl and psql. They
              must be of the source's major version. The default is the directory in which Debian and
              Red Hat install that version, otherwise one of PATH.

          --config-file <FILE>
              The main configuration file of the target's server when it is not PGDATA/postgresql.conf,
              as on Debian, where it is in /etc/postgresql. It is read, never written, and it is handed
              to a server that --start starts.

    Source options:
          --from <AGENT>
              How to reach the agent, which is pg_reseed serve --stdio on the source's host, run as the
              user that owns the source's data directory.

              ssh://[USER@]HOST[:PORT] starts it with the system's ssh; keys and host names come from
              the configuration of ssh. This is the default, with the host of -d.

              exec:COMMAND runs COMMAND with /bin/sh and talks to its standard input and output; COMMAND
              must start pg_reseed serve --stdio by some means, such as docker exec -i, kubectl exec -i
              or sudo -u.

              local starts the agent on this host, as the same user.

          --rsh <COMMAND>
              The command that is used instead of ssh, with its options, as in rsync: for instance "ssh
              -i /etc/pg_reseed/key -o BatchMode=yes". The port, if any, the user and host, and the
              command for the other side are added to it. Only with ssh.

          --agent-path <PATH>
              Path of pg_reseed on the source's host, when it is not in the PATH that a command gets
              there. Not with exec:COMMAND, which names it itself.

          --source-dbname <CONNINFO>
              A connection string (keyword/value or URI) with which the agent connects to its own server
              on its own host. The default is the local socket, the role named like the operating system
              user, and database postgres. Give it when the source has another port or socket directory,
              or when the right to run the backup functions was granted in another database. Not with
              exec:COMMAND, which can hand -d to pg_reseed serve itself.

      -S, --slot <SLOTNAME>
              The physical replication slot of the source that the standby will use: it is reserved
              before the copy begins, and becomes primary_slot_name. It must exist, unless --create-slot
              is given, and must not be in use.

              Without this option a temporary slot keeps the source's WAL for as long as the run takes;
              with --start it is released only once the standby streams. Afterwards the standby depends
              on wal_keep_size or a WAL archive when it is away for long.

      -C, --create-slot
              Creates the replication slot named by --slot if it does not exist. It stays when the run
              succeeds; a slot that a failed run created is dropped again. Remember that a slot which
              nobody reads from keeps WAL on the source without limit, unless max_slot_wal_keep_size is
              set.

      -c, --checkpoint <MODE>
              How the source makes the checkpoint that the backup begins with: "fast" writes everything
              at once, "spread" takes up to checkpoint_timeout times checkpoint_completion_target,
              minutes as a rule, and spares the disks of a busy source.

              [default: fast]
              [possible values: fast, spread]

    Standby connection options:
      -d, --dbname <CONNINFO>
              A connection string (keyword/value or URI) with which the standby will connect to the
              source for replication. It becomes primary_conninfo, with what the options -h, -p and -U
              and the environment variables of libpq add to it; what stands in the string wins over the
              options, and the options win over the environment. A database name is written only if it
              stands in the string.

              A password is refused here: it would stand in a configuration file. Put it into the
              password file (.pgpass, or passfile=... in this string) of the user that the standby runs
              as. The connection is tried before anything is changed, see --no-login-check.

      -h, --host <HOST>
              The host name of the source, as the standby will connect to it; with a slash at the
              beginning the directory of its Unix-domain socket. The default is the environment variable
              PGHOST.

      -p, --port <PORT>
              The port on which the source listens, as the standby will connect to it. The default is
              the environment variable PGPORT, otherwise libpq's default, 5432 as a rule.

      -U, --username <USERNAME>
              The role as which the standby will connect to the source; it needs LOGIN and REPLICATION
              and a line for database replication in the source's pg_hba.conf. The default is the
              environment variable PGUSER, otherwise the name of the operating system user.

          --application-name <NAME>
              The application_name in primary_conninfo: the name of the standby in pg_stat_replication
              and in synchronous_standby_names. Without it, and without one in -d, PostgreSQL uses the
              standby's cluster_name, or "walreceiver".

          --restore-command <COMMAND>
              Sets restore_command on the standby, so that it can take WAL from an archive that the
              source no longer has. Without this option none is left in postgresql.auto.conf: one that
              was meant for the directory's former role could bring in WAL of the abandoned timeline.

    Run options:
      -n, --dry-run
              Looks, judges and compares as a real run would, reports the same figures, and changes
              nothing on the target. It moves digests, no blocks. Both sides go on working meanwhile, so
              the real run will differ a little more. No server is stopped or started.

          --stop
              If a server runs in PGDATA, stops it as pg_ctl stop -m fast does, once the other checks
              have passed. Without this option a running server is a reason to refuse. Where a cluster
              manager such as Patroni or systemd would start the server again, stop it there instead.

          --start
              Starts the standby with pg_ctl at the end, and waits until it streams from the source and
              has replayed everything that makes it consistent. Only then the temporary slot is
              released. If it does not come to that within --wait seconds, the exit status is 6. Where a
              cluster manager or systemd is in charge of the server, start it there instead.

      -l, --log-file <FILE>
              Appends the server log of a server that --start starts to this file, as pg_ctl -l does.

          --wait <SECS>
              How long to wait, in seconds, for each of: the server to stop (--stop), the server to
              start and the standby to stream (--start).

              [default: 60]

      -j, --jobs <N>
              How many threads read, hash and write, on each side. The default is the number of this
              host's processors, but at most 4, to be gentle with a busy source. More help when the
              disks are fast and the processors are free.

      -Z, --compress <METHOD>
              How the agent compresses the blocks that it sends: none, lz4, or zstd with an optional
              level from 1 (the default) to 19, as in zstd:3. Without this option it is none for --from
              local and lz4 otherwise. Choose zstd for a slow line, none for one that is faster than the
              processors, or when ssh compresses already.

      -N, --no-sync
              Does not wait until the operating system has written everything to disk. The run is
              shorter, but a crash of the operating system soon after it leaves a corrupt standby. For
              tests only.

    Output options:
      -P, --progress [<STYLE>]
              How progress is shown on standard error. "bar" draws a display that refreshes itself,
              "plain" writes a line per stage and one every ten seconds while data is compared, for
              logs; "json" writes one JSON object per line, for programs; "none" writes warnings and
              errors only. "auto" is bar on a terminal and plain otherwise.

              [default: auto]

          --report <FILE>
              Writes the result of the run to this file as one JSON object, also when the run fails or a
              check refuses. The file appears at once and whole; one that exists is replaced. It must
              not lie in PGDATA.

      -v, --verbose...
              Logs more to standard error: once for steps with their figures, twice for files, three
              times for every range that is compared.

      -q, --quiet
              Shows no progress and no summary; warnings and errors are still written. A --progress that
              is given explicitly and --report keep their effect.

    Overrides of refusals:
          --overwrite-foreign-cluster
              Goes on although the system identifier of the target is not the source's, which means that
              both never were the same cluster. All data of the target is lost. Check PGDATA twice.

          --discard-newer-timeline
              Goes on although the target is on a newer timeline than the source. As a rule this means
              that the target was promoted later and is the real primary, and that you are about to
              rebuild the wrong side: what was written to it since is lost.

          --discard-newer-wal
              Goes on although the target is ahead of the source on the same timeline: it has WAL that
              the source does not have. Either the source was restored to an earlier time, or both were
              written to on one timeline. What only the target has is lost.

          --no-login-check
              Does not try to connect to the source as the standby will. For when this host can reach
              the source only later. A wrong connection string then shows only when the standby is
              started.

          --reuse-tablespace-dirs
              Goes on although a directory that a tablespace shall be put into has content that is not
              known to be this target's. The subdirectory named after the PostgreSQL version and
              catalog, if there is one, is overwritten: make sure that no other cluster uses it. Other
              content stays.

          --ignore-free-space
              Does not check that the target's file systems have room for what must come. For file
              systems that compress, share blocks or grow on demand. When the disk fills nevertheless,
              the run stops half-way.

    General options:
      -?, --help
              Print help: -? in short, --help in full

      -V, --version
              Print the version
    "#);
}

#[test]
fn short_help_of_all() {
    assert_snapshot!(help_of(&["pg_reseed", "-?"]), @r"
    Rebuild a PostgreSQL standby by moving only the blocks that differ

    Usage: pg_reseed rebuild [OPTION]...
           pg_reseed serve --stdio [OPTION]...

    Commands:
      rebuild  Make a data directory a standby of a running server
      serve    Serve a source's data directory to pg_reseed rebuild

    General options:
      -?, --help     Print help: -? in short, --help in full
      -V, --version  Print the version
    ");
}
