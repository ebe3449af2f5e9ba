//! What can be typed for the managers' doors: definitions for the parser, the help and the manual pages.

use std::path::PathBuf;

use clap::{ArgAction, Args};

/// Create a replica for Patroni
///
/// A command for Patroni's create_replica_methods, with keep_data: true. It makes the data directory that Patroni names a
/// standby of the member that Patroni names, as pg_reseed rebuild does: a directory that exists, such as that of an old
/// primary, is made equal by moving only what differs, and one that does not is seeded with everything. The settings
/// that make it a standby are left to Patroni.
///
/// Every option of pg_reseed rebuild may be given, in the command or as a key of the method, and so may the options below.
/// Patroni appends --scope, --role, --datadir, --connstring and the keys of the method; keys that are no option of
/// pg_reseed are ignored, and _ in a key stands for -.
#[derive(Debug, Args)]
#[command(
    override_usage = "pg_reseed patroni [--from AGENT] [--retry-for SECS] [OPTION]... --datadir=PGDATA --connstring=CONNINFO"
)]
pub struct PatroniArguments {
    /// Data directory, as Patroni appends it
    ///
    /// The data directory that becomes the standby. Patroni appends it.
    #[arg(long, value_name = "PGDATA", help_heading = PATRONI)]
    pub datadir: Option<PathBuf>,

    /// The source, as Patroni appends it
    ///
    /// How to reach the member to copy from, as a replication role. Its host is where the agent is sought when --from names
    /// only a way, such as ssh: or tls:, or is not given. Empty when there is no leader (no_leader: 1): then -d or --from
    /// must name a source. The password file of PGPASSFILE is Patroni's; nothing of it is kept.
    #[arg(long, value_name = "CONNINFO", help_heading = PATRONI)]
    pub connstring: Option<String>,

    /// Seconds to go on after failures that may pass
    ///
    /// When the last of its methods fails, Patroni removes the data directory, also with keep_data. So an attempt that
    /// fails for a reason which may pass is followed by another one, after a pause of one second at first and of half a
    /// minute at last: no agent, a lost link, a source that restarts or fails over, no free slot. This is how many
    /// seconds pauses and attempts that come to nothing may last together; an attempt that moved data for longer than that
    /// begins the count anew. Refusals whose reason does not pass, and errors of this host's disks, end the run
    /// at once; 0 ends it after every failure.
    #[arg(
        long,
        value_name = "SECS",
        default_value_t = super::patroni::RETRY_FOR_SECS,
        value_parser = clap::value_parser!(u64).range(0..=31_536_000),
        help_heading = PATRONI
    )]
    pub retry_for: u64,

    /// Patroni's name of the cluster: ignored
    ///
    /// The name of the cluster. Patroni appends it; it has no effect.
    #[arg(long, value_name = "NAME", help_heading = PATRONI)]
    pub scope: Option<String>,

    /// Patroni's word for what is made: ignored
    ///
    /// Patroni appends --role=replica; it has no effect. That the settings are Patroni's is always meant.
    #[arg(long, value_name = "ROLE", help_heading = PATRONI)]
    pub role: Option<String>,
}

/// Do what pg_rewind does, by comparing
///
/// Takes pg_rewind's command line, that of all versions from 13 to 18, and stands in its place, also when the program is
/// called pg_rewind by a link: it makes a data directory that diverged follow the source server again. It compares what
/// both sides have, so that neither wal_log_hints nor data checksums are needed, no WAL of the target's, and no rights on
/// the source but those of the agent.
///
/// It differs in this. Blocks come from an agent on the source's host, pg_reseed serve, not by the connection of
/// --source-server: see ENVIRONMENT. The server of --source-server must run. A target that was not shut down cleanly is
/// taken as it is. Files that are not PostgreSQL's stay in the data directory; so does the log directory. standby.signal is there
/// also without -R, so that the server does not start as a second primary. A target that has nothing of its own but
/// lacks WAL which the source has no more is made equal instead of being left to fail.
#[derive(Debug, Args)]
#[command(
    infer_long_args = true,
    max_term_width = 95,
    override_usage = "pg_reseed rewind -D DIRECTORY --source-server=CONNSTR [OPTION]...\n       pg_rewind -D DIRECTORY --source-server=CONNSTR [OPTION]..."
)]
pub struct RewindArguments {
    /// Existing data directory to modify
    ///
    /// The data directory that is made to follow the source. No server may run in it.
    #[arg(short = 'D', long, value_name = "DIRECTORY", help_heading = REWIND)]
    pub target_pgdata: Option<PathBuf>,

    /// Source data directory: needs a running source here
    ///
    /// The data directory of a source that is stopped. pg_reseed needs a running source, and refuses it: start the source's
    /// server and give --source-server.
    #[arg(long, value_name = "DIRECTORY", help_heading = REWIND)]
    pub source_pgdata: Option<PathBuf>,

    /// Source server to synchronize with
    ///
    /// How to connect to the source's server. Its host is where the agent is sought by ssh, unless PG_RESEED_FROM says
    /// otherwise; with a socket directory, localhost or no host at all, the agent is started on this host. With -R it
    /// becomes primary_conninfo; a password in it is refused then, and has no effect otherwise.
    #[arg(long, value_name = "CONNSTR", help_heading = REWIND)]
    pub source_server: Option<String>,

    /// Write the configuration for replication
    ///
    /// Writes primary_conninfo of --source-server to postgresql.auto.conf, also if nothing else is to be done. Without it
    /// no settings of a standby are written, and those that were there are removed.
    #[arg(short = 'R', long, help_heading = REWIND)]
    pub write_recovery_conf: bool,

    /// Stop before modifying anything
    ///
    /// Compares and changes nothing.
    #[arg(short = 'n', long, help_heading = REWIND)]
    pub dry_run: bool,

    /// Do not wait for data to be safe on disk
    ///
    /// Does not wait until everything is written to disk. For tests only.
    #[arg(short = 'N', long, help_heading = REWIND)]
    pub no_sync: bool,

    /// Write progress messages
    ///
    /// Shows progress on standard error.
    #[arg(short = 'P', long, help_heading = REWIND)]
    pub progress: bool,

    /// Accepted; no WAL of the target is needed
    ///
    /// Has no effect: pg_rewind uses the target's restore_command to read WAL of the target, and none is read here.
    #[arg(short = 'c', long, help_heading = REWIND)]
    pub restore_target_wal: bool,

    /// The target's postgresql.conf when it is elsewhere
    ///
    /// The main configuration file of the target's server when it is not in the data directory, as with pg_reseed rebuild.
    #[arg(long, value_name = "FILENAME", help_heading = REWIND)]
    pub config_file: Option<PathBuf>,

    /// Accepted; a clean shutdown is not needed
    ///
    /// Has no effect: a target that was not shut down cleanly is taken as it is, and no server is run in it.
    #[arg(long, help_heading = REWIND)]
    pub no_ensure_shutdown: bool,

    /// Write a lot of debug messages
    ///
    /// Logs more, as -v -v of pg_reseed rebuild.
    #[arg(long, action = ArgAction::SetTrue, help_heading = REWIND)]
    pub debug: bool,

    /// How data is made safe: fsync or syncfs
    ///
    /// Accepted for pg_rewind's sake; whole file systems are synchronised in any case.
    #[arg(long, value_name = "METHOD", value_parser = ["fsync", "syncfs"], help_heading = REWIND)]
    pub sync_method: Option<String>,

    /// More words than pg_rewind takes.
    #[arg(hide = true)]
    pub rest: Vec<std::ffi::OsString>,
}

const PATRONI: &str = "Patroni options";
const REWIND: &str = "Options";
