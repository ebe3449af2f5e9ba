//! What can be typed: every option with its name, its short help and its manual text.
//!
//! The single definition: `-?`, `--help`, the man pages (`tests/man.rs`) and the parser come from
//! here. Meaning is given to what was typed in [`super::resolve`]. Names are those of
//! `pg_basebackup`, `pg_rewind` and `pg_ctl` where the meaning is the same; `-h` is therefore the
//! host, and help is `-?`. The doc comments of the options are printed, so they have no backquotes.

#![expect(
    rustdoc::broken_intra_doc_links,
    reason = "square brackets in help texts are optional parts"
)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::help;
use crate::cli::managers::args::{PatroniArguments, RewindArguments};
use crate::cli::values::{self, Checkpoint, ConfigSide, JobsAction, ResultRole, WalMethod};
use crate::pg::cluster_name::ClusterName;
use crate::plan::timetable::Rates;
use crate::ui::Style;
use crate::wire::message::Compression;

/// Rebuild a PostgreSQL standby by moving only the blocks that differ
///
/// pg_reseed makes a data directory a streaming standby of a running PostgreSQL server. It compares
/// the directory with the server's and moves only the blocks that differ, so that an old primary
/// that diverged after a failover, or a standby that fell too far behind, comes back without a full
/// copy.
///
/// Two processes take part. pg_reseed rebuild runs on the host of the directory that becomes the
/// standby, the target. It starts pg_reseed serve, the agent, on the host of the server to follow,
/// the source.
#[derive(Debug, Parser)]
#[command(
    name = "pg_reseed",
    version,
    propagate_version = true,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    // The last one counts, as in psql and pg_basebackup; lists add up all the same.
    args_override_self = true,
    max_term_width = 100,
    override_usage = "pg_reseed rebuild [OPTION]...\n       pg_reseed inspect [OPTION]...\n       pg_reseed verify [OPTION]...\n       pg_reseed status [OPTION]...\n       pg_reseed serve [OPTION]...\n       pg_reseed jobs check [OPTION]...\n       pg_reseed patroni [OPTION]...\n       pg_reseed rewind [OPTION]...\n       pg_reseed help [COMMAND]\n       pg_reseed version"
)]
pub struct Arguments {
    /// Print help: -? in short, --help in full
    #[arg(short = '?', long, action = ArgAction::Help, global = true, help_heading = GENERAL)]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, global = true, help_heading = GENERAL)]
    version: Option<bool>,

    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Rebuild(Box<RebuildArguments>),
    Inspect(Box<InspectArguments>),
    Verify(Box<VerifyArguments>),
    Status(StatusArguments),
    Serve(ServeArguments),
    Jobs(JobsArguments),
    Patroni(PatroniArguments),
    Rewind(RewindArguments),
}

/// Make a data directory a standby of a running server
///
/// Makes the data directory PGDATA a streaming standby of a running server, the source, by moving
/// only the blocks that differ. The directory may hold an old primary that diverged after a failover,
/// a standby that fell behind, the remains of an interrupted rebuild, or nothing at all: an empty or
/// missing directory is seeded with everything.
///
/// Run it on the host of PGDATA, as the operating system user that owns PGDATA. The checks come
/// before the first change; a refusal leaves the directory as it was. From the first change until the
/// end PostgreSQL cannot start in PGDATA, because global/pg_control is away. When a run stops half-way,
/// for whatever reason, run the same command again: what already matches is not moved twice.
#[derive(Debug, Args)]
#[command(
    override_usage = "pg_reseed rebuild -D PGDATA {-h HOST [-U USERNAME] | -d CONNINFO} [--from AGENT] [OPTION]..."
)]
pub struct RebuildArguments {
    /// Data directory that becomes the standby
    ///
    /// The data directory that becomes the standby. It may be absent or empty; then it is made and
    /// seeded with everything. In it, and in its tablespaces, everything that belongs to PostgreSQL is
    /// made equal to the source's, and removed where the source does not have it. What belongs to this
    /// host stays: see --config and --keep. No server may run in it: see --stop.
    #[arg(
        short = 'D',
        long,
        value_name = "PGDATA",
        env = "PGDATA",
        hide_env_values = true,
        required_unless_present_any = ["cluster", "job", "job_file"],
        help_heading = TARGET
    )]
    pub pgdata: Option<PathBuf>,

    #[command(flatten)]
    pub debian: DebianArguments,

    /// Relocate a tablespace: OLDDIR=NEWDIR (repeatable)
    ///
    /// Puts the tablespace that is in directory OLDDIR on the source into NEWDIR on this host. Both
    /// must be absolute paths. OLDDIR is compared with what the source's pg_tblspc link says, after
    /// double slashes, . and .. have been taken out of both; other links on the way are not followed.
    /// Write a = that is part of a path as \=. May be given many times. Needed for every tablespace when
    /// source and target are on one host. A tablespace that is not mapped keeps the source's path;
    /// missing directories are made. A NEWDIR that overlaps another one, or lies in PGDATA, is refused.
    #[arg(
        short = 'T',
        long,
        value_name = "OLDDIR=NEWDIR",
        help_heading = TARGET
    )]
    pub tablespace_mapping: Vec<OsString>,

    /// Directory for the WAL of a seeded standby
    ///
    /// When PGDATA is seeded, puts its WAL into this directory and makes pg_wal a symbolic link to it.
    /// The path must be absolute; a directory that is neither missing nor empty is refused. A PGDATA
    /// that exists keeps its pg_wal, directory or link, and this option has no effect.
    #[arg(long, value_name = "WALDIR", help_heading = TARGET)]
    pub waldir: Option<PathBuf>,

    /// Whose configuration files the standby has
    ///
    /// Whose configuration files the standby has when both sides have them in their data directory:
    /// postgresql.conf, postgresql.auto.conf, pg_hba.conf, pg_ident.conf, the files they include,
    /// and TLS keys and certificates. "source" takes the source's. "target" keeps the standby's own. Files
    /// of this kind that only the source has are copied nevertheless, except private keys; not if the target's
    /// configuration lies outside of PGDATA, see --config-file. A seeded directory has none of its own and takes the source's.
    /// In these, data_directory is left out, as is external_pid_file on the source's own host, and paths in the source's
    /// data directory become those in PGDATA; warnings tell of it.
    ///
    /// Files outside of the data directories, such as those in /etc/postgresql, are not changed. The
    /// settings that make the directory a standby of the source are written to postgresql.auto.conf in
    /// any case, and so is what overrides the settings of other files that would end its role: recovery targets,
    /// promote_trigger_file. Commands of theirs that stay in force, such as restore_command, are told of. Before
    /// the target can start, the server's program is asked (postgres -C) whether all of it holds.
    ///
    /// A postgresql.conf of the target's own without any content is refused: a killed pg_rewind leaves such files. An
    /// empty pg_hba.conf in PGDATA gets the source's content; one with nothing but blanks, or elsewhere, is refused.
    #[arg(
        long,
        value_enum,
        value_name = "SIDE",
        default_value_t = ConfigSide::Target,
        help_heading = TARGET
    )]
    pub config: ConfigSide,

    /// Leave these paths of the target alone (repeatable)
    ///
    /// Leaves the files and directories of the target alone that match PATTERN, and what lies in them:
    /// they are neither overwritten nor removed, also with --config source. In PATTERN, * stands for
    /// any part of a name and ? for one byte of it. A PATTERN without / is compared with every name,
    /// otherwise with the path relative to PGDATA. May be given many times. What PostgreSQL itself
    /// manages, such as base or pg_wal, always follows the source and cannot be kept. Where the target has a
    /// directory that matches, nothing of the source's comes into it.
    #[arg(long, value_name = "PATTERN", help_heading = TARGET)]
    pub keep: Vec<String>,

    /// Refuse to remove more files than this
    ///
    /// Refuses to go on when more than N files would have to be removed from the target because the source
    /// does not have them; so does a dry run. What every rebuild empties or leaves out does not count:
    /// old WAL, replication slots, temporary files. The default is no limit. A protection against a
    /// wrong PGDATA in scripts.
    #[arg(long, value_name = "N", help_heading = TARGET)]
    pub max_delete: Option<u64>,

    /// Save WAL that only the target has, or never archived, here
    ///
    /// Saves the WAL that only the target has, from where its history left the source's, to DIR before anything
    /// is removed, with the history files and a note on what it is and how to read it; and WAL that the target was
    /// still to archive, so that it can be brought to the archive. Segments that the server has removed from pg_wal
    /// already are gone: if any of the target's own are missing, that is a reason to refuse, see --keep-incomplete-wal.
    /// DIR must be absolute, outside of PGDATA, and missing, empty, or made by an earlier run of this option, whose
    /// files of the same names are replaced. Nothing is saved when there is nothing of either kind.
    #[arg(long, value_name = "DIR", help_heading = TARGET)]
    pub keep_diverged_wal: Option<PathBuf>,

    /// Make a new standby where nothing is
    ///
    /// Says that a PGDATA that does not exist is meant, and not mistyped: it is made, and everything comes from the
    /// source. Needed when the command is typed at a terminal, that is when standard input and standard error are
    /// one, and when the directory that PGDATA would lie in does not exist either. Scripts that seed into a missing
    /// PGDATA go on without it, with a warning. A directory that exists and is empty is seeded without it. It has no
    /// effect on a PGDATA that has content.
    #[arg(long, help_heading = TARGET)]
    pub seed: bool,

    /// Directory of the target's PostgreSQL programs
    ///
    /// The directory with the PostgreSQL programs of this host: postgres, pg_ctl and psql. It is refused
    /// when they are not of the source's major version. The default is the directory in which Debian
    /// and Red Hat install that version, otherwise one of PATH.
    #[arg(short = 'B', long, value_name = "BINDIR", help_heading = TARGET)]
    pub bindir: Option<PathBuf>,

    /// The target's postgresql.conf when it is elsewhere
    ///
    /// The main configuration file of the target's server when it is not PGDATA/postgresql.conf, as on
    /// Debian, where it is in /etc/postgresql. It is read, never written, and it is handed to a server
    /// that --start starts. If data_directory in it, or in what it includes, is another directory than PGDATA, the
    /// run is refused. When it lies outside of PGDATA, no configuration of the source is copied
    /// into PGDATA, unless with --config source or into a new directory.
    #[arg(long, value_name = "FILE", help_heading = TARGET)]
    pub config_file: Option<PathBuf>,

    /// Copy the source's configuration files to this directory
    ///
    /// Copies the source's configuration, postgresql.conf, pg_hba.conf, pg_ident.conf and all that they include, to
    /// DIR, for a host that has none. What names the old place is rewritten: data_directory, hba_file,
    /// ident_file and includes; external_pid_file and cluster_name follow the name of DIR when both directories
    /// are of Debian's kind, as in /etc/postgresql/15/main, otherwise external_pid_file is left out. The files that
    /// ssl_cert_file and its like name are not copied; a warning tells of them. DIR must be absolute, outside of
    /// PGDATA, and missing or empty; it is made once the data directory is complete, out of DIR.pg_reseed.tmp, which
    /// is replaced if there is one: its parent must be writable. Afterwards use --config-file.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config_file", "cluster"], help_heading = TARGET)]
    pub target_config_dir: Option<PathBuf>,

    /// Port of the standby in the copied configuration
    ///
    /// The port that --target-config-dir writes instead of the source's.
    #[arg(long, value_name = "PORT", requires = "target_config_dir", help_heading = TARGET)]
    pub target_port: Option<u16>,

    #[command(flatten)]
    pub agent: AgentArguments,

    /// Replication slot that the standby shall use
    ///
    /// The physical replication slot of the source that the standby will use. It becomes
    /// primary_slot_name. It must exist, unless --create-slot is given, and must not be in use, by a standby (a server in
    /// PGDATA that --stop stops may have it) or by another run of pg_reseed. It keeps
    /// the source's WAL during the run. An existing slot that never reserved WAL cannot do that: then a
    /// temporary slot does, and the standby's slot reserves WAL when the standby first connects.
    ///
    /// A temporary slot, which is also used without this option, lasts as long as the run; with --start it
    /// is released only once the standby streams.
    ///
    /// Without this option the standby keeps the slot that its own configuration names (primary_slot_name), if the
    /// source has it and no other standby uses it; otherwise it has none, and depends on wal_keep_size or a WAL
    /// archive when it is away for long. A slot of the target that is left without a standby is named in a warning,
    /// since it keeps WAL on the source until it is dropped.
    #[arg(short = 'S', long, value_name = "SLOTNAME", help_heading = SOURCE)]
    pub slot: Option<String>,

    /// Create the slot if it does not exist
    ///
    /// Creates the replication slot named by --slot if it does not exist. An existing physical slot that
    /// nobody uses is taken as it is, so that the same command can be run again. The slot stays when the
    /// run succeeds; a slot that a failed run created is dropped again. Remember that a slot which nobody
    /// reads from keeps WAL on the source without limit, unless max_slot_wal_keep_size is set.
    #[arg(short = 'C', long, requires = "slot", help_heading = SOURCE)]
    pub create_slot: bool,

    /// Most WAL that the source may keep for the run
    ///
    /// Stops the run when its replication slot makes the source keep more WAL than SIZE, so that a long run does not
    /// fill the source's disk. SIZE is a number of bytes, or one with the suffix k, M, G or T. The source is asked
    /// every five seconds, and the progress shows what it keeps. The target is half-way then; the same command
    /// finishes it. A slot of --slot that keeps more already is a reason to refuse. With -X stream the source need not
    /// keep what has come. The default is no limit.
    #[arg(long, value_name = "SIZE", value_parser = values::parse_size, help_heading = SOURCE)]
    pub max_wal_retained: Option<u64>,

    /// Immediate or spread checkpoint at the start
    ///
    /// How the source makes the checkpoint that the backup begins with: "fast" writes everything at once,
    /// "spread" takes up to checkpoint_timeout times checkpoint_completion_target, minutes as a rule,
    /// and spares the disks of a busy source.
    #[arg(
        short = 'c',
        long,
        value_enum,
        value_name = "MODE",
        default_value_t = Checkpoint::Fast,
        help_heading = SOURCE
    )]
    pub checkpoint: Checkpoint,

    /// How the WAL of the backup comes
    ///
    /// How the WAL that the backup needs comes to the standby. "fetch" brings it from the source's pg_wal at
    /// the end, and is sure that no segment is missing; the source keeps all of it until then. "stream" is as sure and
    /// brings each segment as soon as it is complete, so that the source may remove it while the files still
    /// come: for a long copy of a busy source. It needs no further connection. It moves the slot of --slot, or the
    /// standby's own one, on with what has come, as the standby would. Under --max-rate, WAL gets up to half of the
    /// rate while files come. On a standby as source, the WAL since its last restartpoint is kept whatever comes.
    /// "none" brings none and proves instead that the standby will
    /// find it: the slot of --slot keeps it, or else --restore-command, which is run for the first and for the
    /// last segment as the standby will run it, gives both within --wait seconds. One of the two options is
    /// required then. The proof comes at the end, when the last segment is known: if it fails, the target is
    /// half-way, and the same command must be run again.
    #[arg(
        short = 'X',
        long,
        value_enum,
        value_name = "METHOD",
        default_value_t = WalMethod::Fetch,
        help_heading = SOURCE
    )]
    pub wal_method: WalMethod,

    #[command(flatten)]
    pub connection: ConnectionArguments,

    /// What PGDATA becomes: standby, managed, or clone
    ///
    /// What PGDATA becomes. "standby", the default, is a standby of the source, with all settings that it needs. "managed" is for a
    /// cluster manager, or a person, that writes these settings afterwards: none is written, no slot is used or made, and
    /// -d is needed only where it names the source's host. standby.signal is there all the same, so that a server which
    /// is started in PGDATA does not become a second primary. What a former role left in postgresql.auto.conf is taken
    /// out: primary_conninfo, primary_slot_name, recovery targets, restore_command and its like. Settings in other files
    /// stay as they are and are not judged.
    ///
    /// "clone" is a read-write copy that is no member of anything, such as for staging. It recovers from the WAL that the
    /// run brings, ends on a timeline of its own at its first start, and never connects to the source, which keeps
    /// nothing for it: only the run itself has a temporary slot. -d is needed only where it names the source's host. Its
    /// postgresql.auto.conf turns off what would act on others: archive_mode, synchronous_standby_names, the workers of
    /// subscriptions (max_logical_replication_workers), recovery_end_command and its like. Port, cluster_name and all else
    /// stay the target's own; a seed has the source's, and a warning says so. The file pg_reseed.clone in PGDATA says
    /// what it is a copy of. By it the next run with --role clone overwrites what was written to the copy since,
    /// without --discard-newer-timeline: as long as the file was made in that directory for that cluster, the copy still
    /// is on the timeline that it began, does not archive, has no standbys, and the source has all that it had then.
    /// A later run for a standby takes out what was written for the copy.
    #[arg(
        long,
        value_enum,
        value_name = "ROLE",
        default_value_t = ResultRole::Standby,
        hide_default_value = true,
        hide_possible_values = true,
        help_heading = STANDBY
    )]
    pub role: ResultRole,

    /// Name of the standby in the source's views
    ///
    /// The application_name in primary_conninfo: the name of the standby in pg_stat_replication and in
    /// synchronous_standby_names. Without it, and without one in -d, it is the standby's cluster_name, if its
    /// own configuration sets one (as on Debian, such as 15/main), otherwise the name of this host.
    #[arg(long, value_name = "NAME", help_heading = STANDBY)]
    pub application_name: Option<String>,

    /// The standby's restore_command
    ///
    /// Sets restore_command on the standby, so that it can take WAL from an archive that the source no
    /// longer has. Without this option none is left in postgresql.auto.conf: one that was meant for
    /// the directory's former role could bring in WAL of the abandoned timeline. With or without it,
    /// recovery_end_command and recovery_min_apply_delay are removed from there.
    #[arg(long, value_name = "COMMAND", help_heading = STANDBY)]
    pub restore_command: Option<String>,

    /// The standby's archive_cleanup_command
    ///
    /// Sets archive_cleanup_command on the standby. Without this option none is left in
    /// postgresql.auto.conf.
    #[arg(long, value_name = "COMMAND", help_heading = STANDBY)]
    pub archive_cleanup_command: Option<String>,

    /// Timeline that the standby shall follow
    ///
    /// Sets recovery_target_timeline on the standby: "latest", "current" or the number of a timeline. The
    /// default is latest, which is what follows the source through later failovers.
    #[arg(
        long,
        value_name = "TIMELINE",
        value_parser = values::parse_timeline,
        help_heading = STANDBY
    )]
    pub recovery_target_timeline: Option<String>,

    /// Raise settings that must not be lower than the source's
    ///
    /// A standby lets no session in when its max_connections, max_worker_processes, max_wal_senders,
    /// max_prepared_transactions or max_locks_per_transaction is lower than the source's. Without this option
    /// that is a reason to refuse; with it, the source's value is written to the standby's
    /// postgresql.auto.conf.
    #[arg(long, help_heading = STANDBY)]
    pub raise_settings: bool,

    /// Compare and report, change nothing
    ///
    /// Looks, judges and compares as a real run would, reports the same figures, reads on both sides and
    /// changes nothing on either: no slot, no backup, no checkpoint. Of relations it moves digests and
    /// no blocks; files that are not made of blocks are compared whole. The source goes on working
    /// meanwhile, so a real run will move a little more or less. A server that runs in PGDATA is a reason
    /// to refuse. With --stop it is not: the dry run compares beside the running server, and says which one a real
    /// run would stop.
    #[arg(short = 'n', long, help_heading = RUN)]
    pub dry_run: bool,

    /// Do nothing when the target streams from the source
    ///
    /// Looks first, as pg_reseed inspect does, and does nothing, with status 0, when a server runs in PGDATA that streams
    /// from this very source, and both sides' WAL, compared record by record, is one: then the target is what a rebuild
    /// would make of it, however far it lags. In any other case the run goes on as without this option; also for a standby
    /// that is stopped, or whose replay is paused, or of whose WAL too little is left to tell, since nothing shows then that
    /// it is a standby that streams. A server that runs is a reason to refuse then, unless --stop is given too. What the
    /// other options say of the standby, such as --slot, is not compared with what it has.
    #[arg(long, help_heading = RUN)]
    pub if_needed: bool,

    /// Stop a server that runs in the target first
    ///
    /// If a server runs in PGDATA, stops it as pg_ctl stop -m fast does, once all checks have passed, the backup has
    /// begun and the list of files is there. They are made once more when it has stopped: what it wrote last counts. If
    /// the run fails then and nothing was changed, the server is started again the way it ran, by --start-command or
    /// pg_ctlcluster where these start it, otherwise by pg_ctl with the arguments, the environment and the log file
    /// that it had; where it was a service of systemd, the command that starts it is printed. Without this option a
    /// running server is a reason to refuse. Where a cluster manager such as Patroni would start the server again,
    /// stop it there instead.
    #[arg(long, help_heading = RUN)]
    pub stop: bool,

    /// Start the standby and wait until it streams
    ///
    /// Starts the standby with pg_ctl at the end, and waits until it streams from the source and has
    /// replayed everything that makes it consistent. Only then the temporary slot is released. If it
    /// does not come to that within --wait seconds, the exit status is 6. A server that comes up in another
    /// directory than PGDATA is stopped again, and the exit status is 6. PGPORT, PGOPTIONS and PGPASSWORD, which
    /// are meant for the source, do not reach the server. Where a cluster manager or
    /// systemd is in charge of the server, start it there instead.
    #[arg(long, help_heading = RUN)]
    pub start: bool,

    /// Log file of the server that --start starts
    ///
    /// Appends the output of the server that --start starts to this file, as pg_ctl -l does. The default
    /// is PGDATA/pg_reseed.start.log. Of pg_ctlcluster (see --cluster) and --start-command it is their own output; the
    /// server logs where its configuration, or Debian's habit (/var/log/postgresql), says.
    #[arg(short = 'l', long, value_name = "FILE", help_heading = RUN)]
    pub log_file: Option<PathBuf>,

    /// Command that starts the standby instead of pg_ctl
    ///
    /// Starts the standby with this command, which /bin/sh runs, instead of pg_ctl, as in
    /// "sudo systemctl start postgresql-15"; implies --start. The command must end once the server has been
    /// started. What it prints goes to the file of --log-file.
    #[arg(long, value_name = "COMMAND", help_heading = RUN)]
    pub start_command: Option<String>,

    /// Seconds to wait for stop, start and streaming
    ///
    /// How long to wait, in seconds, for each of: the server to stop (--stop), the server to start
    /// and the standby to stream (--start), and a segment of WAL to come by --restore-command (-X none).
    #[arg(
        long,
        value_name = "SECS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=31_536_000),
        help_heading = RUN
    )]
    pub wait: u64,

    #[command(flatten)]
    pub copy: CopyArguments,

    #[command(flatten)]
    pub effort: EffortArguments,

    /// Do not wait for data to be safe on disk
    ///
    /// Does not wait until the operating system has written everything to disk. The run is shorter, but
    /// a crash of the operating system soon after it leaves a corrupt standby. For tests only.
    #[arg(short = 'N', long, help_heading = RUN)]
    pub no_sync: bool,

    /// Move every block that differs, also in hint bits only
    ///
    /// By default blocks that differ from the source's in hint bits, marks of dead index entries or bytes of
    /// free space only are patched: what is sent is what differs, some hundred bytes a block. The result is the
    /// same, byte for byte, with this option and without it. With --from local it is the default: there
    /// moving a block costs less than making a patch.
    #[arg(long, hide_short_help = true, overrides_with = "noise_patch", help_heading = RUN)]
    pub no_noise_patch: bool,

    /// Patch blocks that differ in hint bits only, also with --from local
    ///
    /// The opposite of --no-noise-patch.
    #[arg(long, hide_short_help = true, overrides_with = "no_noise_patch", help_heading = RUN)]
    pub noise_patch: bool,

    #[command(flatten)]
    pub job: JobArguments,

    #[command(flatten)]
    pub progress: ProgressArguments,

    /// Write the result to this file as JSON; - is standard output
    ///
    /// Writes the result of the run to this file as one JSON object, also when the run fails or a check
    /// refuses. The file appears at once and whole; one that exists is replaced. It must not lie in
    /// PGDATA. That it can be written is tried before the run begins, which otherwise does not begin; when it
    /// cannot at the end, that is a warning, and the exit status stays that of the run. With - it goes to standard
    /// output, and the summary to standard error.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub report: Option<PathBuf>,

    /// Write figures for Prometheus to this file
    ///
    /// Writes figures of the run to this file, in the text format of Prometheus, for the textfile collector of
    /// node_exporter, which reads what is called *.prom: when the target was last rebuilt with success, or found to need
    /// nothing; and of the last run its end, its exit status, the time that each stage took, what was compared, differed and
    /// moved, and how much WAL of the target was lost. See METRICS. The file appears at once and whole, and everybody may
    /// read it. A run that fails keeps the time of the last success of the file before. Each job needs a file of its own. A
    /// dry run writes none. That the file can be written is tried before the run begins.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub metrics: Option<PathBuf>,

    /// Log more to standard error (repeatable)
    ///
    /// Logs more to standard error: once for what the agent's command writes to its standard error, such
    /// as the banners of ssh, and other notes; twice also for the stages. More often means no more today.
    #[arg(short = 'v', long, action = ArgAction::Count, help_heading = OUTPUT)]
    pub verbose: u8,

    /// No progress and no summary
    ///
    /// Shows no progress and no summary; warnings and errors are still written. A --progress that is
    /// given explicitly and --report keep their effect.
    #[arg(short = 'q', long, conflicts_with = "verbose", help_heading = OUTPUT)]
    pub quiet: bool,

    #[command(flatten)]
    pub overrides: OverrideArguments,
}

/// What is done to a copy before it is used.
#[derive(Debug, Args)]
pub struct CopyArguments {
    /// SQL to run in a copy while nobody else can come in; @FILE (repeatable)
    ///
    /// With --role clone: runs this SQL, or that of a file (@FILE), in the copy before anybody else can connect, such as
    /// to mask what is personal. May be given many times; the scripts run in their order, each by psql up to its first
    /// error, as the role of --hook-user in the database postgres; \connect goes to another database. Until all have
    /// succeeded, the directory itself is closed to others, whoever starts a server in it: its postgresql.auto.conf has no
    /// address to listen on, a directory of sockets of its own, and access rules that let in only this operating
    /// system user (by peer). The server is stopped after them. If one fails the exit status is 6, the copy stays
    /// closed, and the same command begins anew, which moves what differs only. What they print goes to the
    /// file of --log-file. A script that is typed can be seen in the list of processes and is in no report; secrets
    /// belong in a file. Libraries that the server preloads, such as pg_cron, run meanwhile.
    #[arg(long, value_name = "SQL", help_heading = COPY)]
    pub before_start: Vec<String>,

    /// SQL to run in a copy once it is started; @FILE (repeatable)
    ///
    /// With --role clone and --start: as --before-start, but once the copy has been started for good, when others can
    /// connect already. The copy's own access rules must let the role of --hook-user in without a password. If one fails,
    /// the server is stopped, and the directory is closed to others as before --before-start.
    #[arg(long, value_name = "SQL", help_heading = COPY)]
    pub after_start: Vec<String>,

    /// Role that runs the hooks
    ///
    /// The role, a superuser as a rule, as which --before-start and --after-start run. The default is the name of the
    /// operating system user.
    #[arg(long, value_name = "ROLE", help_heading = COPY)]
    pub hook_user: Option<String>,

    /// Let a copy archive as its configuration says
    ///
    /// With --role clone: leaves archive_mode alone. Make sure that its archive_command does not reach the archive of the
    /// source.
    #[arg(long, help_heading = COPY)]
    pub keep_archive_mode: bool,
}

/// How much is done at a time.
#[derive(Debug, Args)]
pub struct EffortArguments {
    /// Threads on each side that compute at a time
    ///
    /// How many threads hash and compress at a time, on each side. By default each side uses its own host's
    /// processors: up to 4 all of them, of more than 16 a quarter, and at most 16. How much is read at a time
    /// is not set by this: that is found while reading, as what the disk does best.
    #[arg(
        short = 'j',
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=256),
        help_heading = RUN
    )]
    pub jobs: Option<u16>,

    /// Byte streams between the sides: 1 to 16
    ///
    /// Over how many streams the data come, from 1 to 16. The further ones are opened the same way as the
    /// first, once the source has been judged fit, and are used from when they are there; one that cannot
    /// be opened is a warning, and so is one that is lost: the run goes on, and opens another. One connection is encrypted on one processor and is slow over a long distance:
    /// several move more. The default with ssh and tls is the number of this host's processors, but at most 4;
    /// it is 1 with --from local, exec:COMMAND and a --rsh that is not ssh. Further streams of ssh
    /// never ask for a password (BatchMode), so they need a key or an agent that holds one.
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u8).range(1..=16),
        help_heading = RUN
    )]
    pub streams: Option<u8>,

    /// Compression between the sides: auto, none, lz4, zstd[:LEVEL]
    ///
    /// How the agent compresses the blocks that it sends: none, lz4, zstd with an optional level from
    /// 1 (the default) to 19, as in zstd:3, or auto. With auto it uses zstd while the link is what the run
    /// waits for, and as long as that takes next to no time: over a fast link it costs a few per cent at most.
    /// The default is none for --from local and auto otherwise.
    #[arg(
        short = 'Z',
        long,
        value_name = "METHOD",
        help_heading = RUN
    )]
    pub compress: Option<Compression>,

    /// Most that the source reads a second: RATE, or a timetable
    ///
    /// How much the agent reads of the source's files in a second at most, and so sends at most, in
    /// kilobytes; the suffixes k, M and G (as in 200M) mean kilobytes, megabytes and gigabytes. At least 32 kB.
    /// Comparing counts too: at 100M, a cluster of 1 TB takes three hours however little of it differs.
    ///
    /// Instead of one rate, a timetable: entries TIME,RATE with blanks between, as in "08:00,50M 23:00,off". Each is in
    /// force until the next one; "off" is no limit. TIME is HH:MM or HH:MM:SS of this host's local time, of all days, or of
    /// one that is named before it, as in Sat-08:00. The rate changes while the run goes on, and the progress shows it.
    #[arg(
        short = 'r',
        long,
        value_name = "RATE",
        value_parser = values::parse_rates,
        help_heading = RUN
    )]
    pub max_rate: Option<Rates>,
}

/// A command line that stands in a file.
#[derive(Debug, Args)]
pub struct JobArguments {
    /// Take options from this job of the configuration files
    ///
    /// Takes the options that stand in the configuration files as this job: the file NAME.toml in /etc/pg_reseed, or the
    /// table [NAME] in one of the files there; see pg_reseed-jobs(1). What is typed beside it wins, and lists add up. The
    /// environment variable PG_RESEED_JOB does the same, and PG_RESEED_CONFIG_DIR names another directory. pg_reseed
    /// inspect and verify take of a job what they have options for and what means the same to them.
    #[arg(long, value_name = "NAME", env = "PG_RESEED_JOB", hide_env = true, help_heading = RUN)]
    pub job: Option<String>,

    /// Take the job from this file
    ///
    /// Takes the job from this file instead of those of /etc/pg_reseed. Without --job it is the only one in the file.
    #[arg(long, value_name = "FILE", help_heading = RUN)]
    pub job_file: Option<PathBuf>,
}

/// How progress is shown.
#[derive(Debug, Args)]
pub struct ProgressArguments {
    /// Show progress, and how: auto, bar, plain, json, none
    ///
    /// How progress is shown on standard error. "bar" draws a display that refreshes itself, "plain"
    /// writes a line per stage and one every ten seconds while data is compared, for logs; "json"
    /// writes one JSON object per line, for programs; "none" writes warnings and errors only. "auto"
    /// is bar on a terminal and plain otherwise. It is the default, unless --quiet is given; -P alone means auto, also
    /// with --quiet. Where standard error is no terminal, the lines of plain begin with the time, UTC.
    #[arg(
        short = 'P',
        long,
        value_enum,
        value_name = "STYLE",
        num_args = 0..=1,
        default_missing_value = "auto",
        hide_possible_values = true,
        help_heading = OUTPUT
    )]
    pub progress: Option<Style>,
}

/// A cluster by its name in postgresql-common.
#[derive(Debug, Args)]
pub struct DebianArguments {
    /// Cluster of Debian's postgresql-common: VERSION/NAME
    ///
    /// Names the target as pg_lsclusters does, as in 15/main, instead of -D, --config-file and --bindir: the
    /// data directory, the configuration outside of it and the programs are those that Debian's
    /// postgresql-common has on record, and --start uses pg_ctlcluster. systemd does not know of a server that was
    /// started so; where it shall, use --start-command "sudo systemctl start postgresql@15-main". A -D that is on
    /// record as the data directory of exactly one cluster, and has no postgresql.conf of its own, means the same as
    /// that cluster's name, unless --config-file or --target-config-dir says otherwise.
    #[arg(long, value_name = "VERSION/NAME", help_heading = TARGET)]
    pub cluster: Option<ClusterName>,
}

/// Where the agent is, and how it reaches its server.
#[derive(Debug, Args)]
pub struct AgentArguments {
    /// The agent: ssh://[USER@]HOST[:PORT], tls:..., exec:COMMAND, local
    ///
    /// How to reach the agent, which is pg_reseed serve --stdio on the source's host, run as the user
    /// that owns the source's data directory.
    ///
    /// ssh://[USER@]HOST[:PORT] starts it with the system's ssh; keys and host names come from the
    /// configuration of ssh. This is the default, with the host of -d.
    ///
    /// tls://HOST[:PORT] connects by TLS to an agent that runs there as pg_reseed serve --listen, on port 7432
    /// unless another one is given. --tls-ca, --tls-cert and --tls-key are required then, and the agent's
    /// certificate must be for HOST.
    ///
    /// exec:COMMAND runs COMMAND with /bin/sh and talks to its standard input and output; COMMAND must
    /// start pg_reseed serve --stdio by some means, such as docker exec -i, kubectl exec -i or sudo -u.
    ///
    /// local starts the agent on this host, as the same user.
    ///
    /// ssh: and tls: without a host take the host of -d or -h; ssh::PORT and tls::PORT say the port alone.
    #[arg(long, value_name = "AGENT", help_heading = SOURCE)]
    pub from: Option<String>,

    /// Command to use instead of ssh
    ///
    /// The command that is used instead of ssh, with its options, as in rsync: for instance
    /// "ssh -i /etc/pg_reseed/key -o BatchMode=yes". The port, if any, the user and host, and the
    /// command for the other side are added to it. Only with ssh.
    #[arg(long, value_name = "COMMAND", help_heading = SOURCE)]
    pub rsh: Option<String>,

    /// Where pg_reseed is on the source's host
    ///
    /// Path of pg_reseed on the source's host, when it is not in the PATH that a command gets there. Only
    /// with ssh and local.
    #[arg(long, value_name = "PATH", help_heading = SOURCE)]
    pub agent_path: Option<String>,

    /// How the agent connects to its own server
    ///
    /// A connection string (keyword/value or URI) with which the agent connects to its own server on
    /// its own host. The default is the local socket (in /var/run/postgresql or /tmp) with the port of -d or -p
    /// (with --from local also the socket directory of -h, if it is one), the role named like the operating
    /// system user, and database postgres. Give it when that is another one, or when the right to run the backup
    /// functions was granted in another database. The keywords are those of pg_reseed serve -d. Only
    /// with ssh and local; otherwise give pg_reseed serve its -d itself.
    #[arg(long, value_name = "CONNINFO", help_heading = SOURCE)]
    pub source_dbname: Option<String>,

    #[command(flatten)]
    pub tls: TlsArguments,
}

/// Who one is and whom one trusts, by certificates.
#[derive(Debug, Args)]
pub struct TlsArguments {
    /// Certificates that the other side's must come from
    ///
    /// A file of certificates (PEM) of the authority that the other side's certificate must come from. No other
    /// authority is trusted, not even those of the system.
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    pub tls_ca: Option<PathBuf>,

    /// One's own certificate
    ///
    /// A file with one's own certificate (PEM), followed by those between it and the authority, if there are any.
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    pub tls_cert: Option<PathBuf>,

    /// The key of one's own certificate
    ///
    /// The private key of --tls-cert (PEM), without a passphrase. The file must belong to the user and be readable by
    /// nobody else, or belong to root and be readable by the user's group.
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    pub tls_key: Option<PathBuf>,
}

/// How the standby reaches the source.
#[derive(Debug, Args)]
pub struct ConnectionArguments {
    /// How the standby connects to the source
    ///
    /// A connection string (keyword/value or URI) with which the standby will connect to the source for
    /// replication. It becomes primary_conninfo, with what the options -h, -p and -U and the
    /// environment variables of libpq add to it; what stands in the string wins over the options, and
    /// the options win over the environment. A database name is written only if it stands in the
    /// string.
    ///
    /// A password is refused here: it would stand in a configuration file. Put it into the password file
    /// (.pgpass, or passfile=... in this string) of the user that the standby runs as. The connection is
    /// tried before anything is changed, see --no-login-check.
    #[arg(short = 'd', long, value_name = "CONNINFO", help_heading = STANDBY)]
    pub dbname: Option<String>,

    /// Source's host name or socket directory
    ///
    /// The host name of the source, as the standby will connect to it; with a slash at the beginning
    /// the directory of its Unix-domain socket. The default is the environment variable PGHOST.
    #[arg(short = 'h', long, value_name = "HOST", help_heading = STANDBY)]
    pub host: Option<String>,

    /// Source's port
    ///
    /// The port on which the source listens, as the standby will connect to it. The default is the
    /// environment variable PGPORT, otherwise libpq's default, 5432 as a rule.
    #[arg(short = 'p', long, value_name = "PORT", help_heading = STANDBY)]
    pub port: Option<u16>,

    /// Role that replicates
    ///
    /// The role as which the standby will connect to the source; it needs LOGIN and REPLICATION and a
    /// line for database replication in the source's pg_hba.conf. The default is the environment
    /// variable PGUSER, otherwise the name of the operating system user.
    #[arg(short = 'U', long, value_name = "USERNAME", help_heading = STANDBY)]
    pub username: Option<String>,
}

/// One override for each guard that has one, named after the danger.
#[derive(Debug, Args)]
#[command(next_help_heading = OVERRIDES)]
pub struct OverrideArguments {
    /// Overwrite a cluster that never was the source's
    ///
    /// Goes on although the system identifier of the target is not the source's, which means that both
    /// never were the same cluster. All data of the target is lost. Check PGDATA twice.
    #[arg(long)]
    pub overwrite_foreign_cluster: bool,

    /// Overwrite a cluster that cannot be told
    ///
    /// Goes on although the target has no global/pg_control that can be read, as an interrupted pg_rewind,
    /// pg_basebackup or restore leaves it: nothing but its PG_VERSION, which must be that of the source, and its
    /// directories say what it is. Everything in it is compared, so an earlier copy of the source's cluster costs what
    /// differs; if it is another cluster, all its data is lost. Check PGDATA twice. --overwrite-foreign-cluster includes
    /// this.
    #[arg(long)]
    pub overwrite_unknown_cluster: bool,

    /// Overwrite a target on a newer timeline
    ///
    /// Goes on although the target is on a newer timeline than the source. As a rule this means that the
    /// target was promoted later and is the real primary, and that you are about to rebuild the wrong
    /// side: what was written to it since is lost.
    #[arg(long)]
    pub discard_newer_timeline: bool,

    /// Overwrite a target that is ahead of the source
    ///
    /// Goes on although the target is ahead of the source on the same timeline: it has WAL that the
    /// source does not have. Either the source was restored to an earlier time, or both were written
    /// to on one timeline. What only the target has is lost.
    #[arg(long)]
    pub discard_newer_wal: bool,

    /// Follow a source that is a standby of the target
    ///
    /// Goes on although the source is a standby of the target, as far as can be seen: no primary is left behind the
    /// two, until one of them is promoted. As a rule this means that you are about to rebuild the wrong side, or that
    /// the source should be promoted first. Also for a target that is a copy of the source's primary on the same
    /// timeline, which looks the same.
    #[arg(long)]
    pub leave_no_primary: bool,

    /// Do not try the standby's connection first
    ///
    /// Does not try to connect to the source as the standby will. For when this host can reach the source
    /// only later. A wrong connection string then shows only when the standby is started.
    #[arg(long)]
    pub no_login_check: bool,

    /// Use tablespace directories that have content
    ///
    /// Goes on although a directory that a tablespace shall be put into has content that is not known to
    /// be this target's, or is also reached by another data directory that can be seen on this host, unless a
    /// server runs there. The subdirectory named after the PostgreSQL version and catalog, if there is
    /// one, is overwritten: make sure that no other cluster uses it. Other content stays.
    #[arg(long)]
    pub reuse_tablespace_dirs: bool,

    /// Do not check that there is enough room
    ///
    /// Does not check that the target's file systems have room for what must come. For file systems that
    /// compress, share blocks or grow on demand. When the disk fills nevertheless, the run stops half-way.
    #[arg(long)]
    pub ignore_free_space: bool,

    /// Save the WAL that only the target has although parts are gone
    ///
    /// Goes on although --keep-diverged-wal cannot save all WAL that only the target has, because the server has
    /// removed segments of it from pg_wal already. What is there is saved; the transactions that wrote to the
    /// missing segments cannot be read from it. Without this option that is a reason to refuse, so that an archive can
    /// be searched for these segments first.
    #[arg(long, requires = "keep_diverged_wal")]
    pub keep_incomplete_wal: bool,

    /// Go on with a PostgreSQL that is newer than known
    ///
    /// Goes on although the source's major version is newer than those that this pg_reseed knows. What a later
    /// version keeps elsewhere, or must not be copied, it cannot know. Start the standby and check it before
    /// you rely on it. A version whose control file has another form than the last that is known is refused all the
    /// same.
    #[arg(long)]
    pub allow_unknown_version: bool,
}

/// Tell what a data directory is and what it needs
///
/// Tells what the data directory PGDATA is: its version, system identifier, state, timeline and position,
/// its WAL, tablespaces and size, and whether a rebuild of it was interrupted. Nothing is changed, and
/// nothing of its relations is read.
///
/// With -d, -h or --from it also asks the source, the server that PGDATA shall follow, and tells how both relate:
/// whether PGDATA only lags and the source still has the WAL that it needs, whether it has diverged and
/// how much WAL only it has, whether it is ahead, or another cluster. It ends with advice and, where there is
/// one, the command to run. No backup is started and no slot is made.
///
/// Before a controlled switchover, run it in the data directory of the stopped primary against the standby
/// that will be promoted: it tells whether that standby has replayed everything.
#[derive(Debug, Args)]
#[command(
    override_usage = "pg_reseed inspect -D PGDATA [-h HOST [-U USERNAME] | -d CONNINFO] [--from AGENT] [OPTION]..."
)]
pub struct InspectArguments {
    /// Data directory to look at
    ///
    /// The data directory to look at. It may be absent or empty, a server may run in it, and a rebuild of it
    /// may have been interrupted.
    #[arg(
        short = 'D',
        long,
        value_name = "PGDATA",
        env = "PGDATA",
        hide_env_values = true,
        required_unless_present_any = ["cluster", "job", "job_file"],
        help_heading = TARGET
    )]
    pub pgdata: Option<PathBuf>,

    #[command(flatten)]
    pub debian: DebianArguments,

    #[command(flatten)]
    pub agent: AgentArguments,

    /// Replication slot that the standby has or will have
    ///
    /// The physical replication slot of the source that belongs to PGDATA. If it exists, what it keeps is part
    /// of the answer.
    #[arg(short = 'S', long, value_name = "SLOTNAME", help_heading = SOURCE)]
    pub slot: Option<String>,

    #[command(flatten)]
    pub connection: ConnectionArguments,

    #[command(flatten)]
    pub job: JobArguments,

    /// Tell the verdict by the exit status
    ///
    /// Ends with a status of 10 or more unless the directory is a standby that streams: see EXIT STATUS. Without it
    /// the status is 0 whatever was found.
    #[arg(long, help_heading = OUTPUT)]
    pub exit_code: bool,

    /// Print JSON
    ///
    /// Prints one JSON object instead of text.
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,

    /// Log more to standard error (repeatable)
    ///
    /// Logs more to standard error, as with pg_reseed rebuild.
    #[arg(short = 'v', long, action = ArgAction::Count, help_heading = OUTPUT)]
    pub verbose: u8,
}

/// Compare a standby with its source, change nothing
///
/// Compares the data directory PGDATA, a standby that may be running, with its source, block by block, and names every
/// block that is wrong: damaged pages, lost writes, rows that differ, hint bits that are not true, files that are missing
/// or too many. Both servers may go on working: no backup is taken, no checkpoint is asked for, replay is not paused, no
/// slot is made, and nothing is written on either side.
///
/// What both servers have changed last before the last checkpoint of either of them is on both disks, and must be the
/// same but for what PostgreSQL may change on its own, such as hint bits. What is newer is compared in the next pass,
/// when both have made a further checkpoint, which takes as long as checkpoint_timeout says.
///
/// Run it on the host of PGDATA, as the operating system user that owns PGDATA.
#[derive(Debug, Args)]
#[command(
    override_usage = "pg_reseed verify -D PGDATA {-h HOST | -d CONNINFO | --from AGENT} [OPTION]..."
)]
pub struct VerifyArguments {
    /// Data directory of the standby
    ///
    /// The data directory of the standby, whether its server runs or not.
    #[arg(
        short = 'D',
        long,
        value_name = "PGDATA",
        env = "PGDATA",
        hide_env_values = true,
        required_unless_present_any = ["cluster", "job", "job_file"],
        help_heading = TARGET
    )]
    pub pgdata: Option<PathBuf>,

    #[command(flatten)]
    pub debian: DebianArguments,

    #[command(flatten)]
    pub agent: AgentArguments,

    /// Data directory of a source whose server is stopped
    ///
    /// The data directory of the source, in which no server runs: none is asked then. Only with ssh and local; otherwise
    /// give pg_reseed serve its --stopped and --pgdata itself.
    #[arg(
        long,
        value_name = "SOURCE_PGDATA",
        help_heading = SOURCE
    )]
    pub source_pgdata: Option<PathBuf>,

    #[command(flatten)]
    pub connection: ConnectionArguments,

    /// How often what is too new is looked at
    ///
    /// In how many passes blocks are looked at that cannot be compared yet, because they were changed after the last
    /// checkpoint of one side.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=1000),
        help_heading = RUN
    )]
    pub passes: u32,

    /// Seconds to wait for checkpoints before a further pass
    ///
    /// How long to wait, in seconds, before each further pass until both servers have made a checkpoint since the one
    /// before. Checkpoints come as checkpoint_timeout says, five minutes by default; none is asked for.
    #[arg(
        long,
        value_name = "SECS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(0..=31_536_000),
        help_heading = RUN
    )]
    pub wait: u64,

    #[command(flatten)]
    pub effort: EffortArguments,

    #[command(flatten)]
    pub job: JobArguments,

    #[command(flatten)]
    pub progress: ProgressArguments,

    /// Print JSON
    ///
    /// Prints one JSON object instead of text.
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,

    /// Log more to standard error (repeatable)
    ///
    /// Logs more to standard error, as with pg_reseed rebuild.
    #[arg(short = 'v', long, action = ArgAction::Count, help_heading = OUTPUT)]
    pub verbose: u8,

    /// No progress
    ///
    /// Shows no progress; the result, warnings and errors are still written.
    #[arg(short = 'q', long, conflicts_with = "verbose", help_heading = OUTPUT)]
    pub quiet: bool,
}

/// Tell how far a run is, or which one was interrupted
///
/// Asks the run of pg_reseed that works on the data directory PGDATA, a rebuild, a dry run or a verification: what it is
/// doing, how much of the comparison is done, how fast, how long still, and how much WAL the source keeps for it. Where
/// none runs, it tells of one that was interrupted, and the command that finishes it.
///
/// Run it on the host of PGDATA, as the user that runs the other one, or as root. It changes nothing, needs no connection
/// to the source, and ends within seconds, also when the run hangs or is suspended.
#[derive(Debug, Args)]
#[command(override_usage = "pg_reseed status -D PGDATA [--json]")]
pub struct StatusArguments {
    /// Data directory of the run
    ///
    /// The data directory that the run works on, or will make.
    #[arg(
        short = 'D',
        long,
        value_name = "PGDATA",
        env = "PGDATA",
        hide_env_values = true,
        required_unless_present = "cluster",
        help_heading = TARGET
    )]
    pub pgdata: Option<PathBuf>,

    #[command(flatten)]
    pub debian: DebianArguments,

    /// Print JSON
    ///
    /// Prints one JSON object instead of text.
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
}

/// Serve a source's data directory to pg_reseed rebuild
///
/// The agent: runs on the source's host, as the user that owns the source's data directory, and answers
/// pg_reseed rebuild. With --stdio it is started by the client; you type it only in the COMMAND of --from
/// exec:COMMAND. It ends when its standard input ends, and with it the backup and the temporary slot on the server.
/// With --listen it runs on its own and waits for clients of --from tls://HOST; each gets an agent, in a process of
/// its own.
///
/// It connects to its server, runs the backup functions, and reads the data directory. It writes
/// nothing there, runs no statement that modifies data, and serves only files that its own listing of
/// the directory has found. Where Linux has Landlock the kernel sees to it that it writes nowhere.
#[derive(Debug, Args)]
#[command(
    override_usage = "pg_reseed serve --stdio [-d CONNINFO] [-D PGDATA]\n       pg_reseed serve --listen ADDRESS --tls-ca FILE --tls-cert FILE --tls-key FILE --allow NAME... [OPTION]...",
    group = clap::ArgGroup::new("where").required(true).args(["stdio", "listen"])
)]
pub struct ServeArguments {
    /// Talk on standard input and output
    ///
    /// Talks to pg_reseed rebuild on standard input and output. Standard error is for messages to people.
    #[arg(long, help_heading = SERVE)]
    pub stdio: bool,

    /// Listen for clients by TLS: ADDRESS[:PORT]
    ///
    /// Listens on this address and port, 7432 unless another one is given; 0.0.0.0 or [::] is every address of the
    /// host. Both sides show certificates, by TLS 1.3: see --tls-ca, --tls-cert, --tls-key and --allow, which are
    /// required. A socket that systemd hands over is used instead. SIGHUP reads the certificates again and ends the
    /// sessions of those that are not valid any more; SIGTERM ends all sessions cleanly. Each session's beginning and end is a line on standard error.
    #[arg(
        long,
        value_name = "ADDRESS[:PORT]",
        requires_all = ["tls_ca", "tls_cert", "tls_key", "allow"],
        help_heading = SERVE
    )]
    pub listen: Option<String>,

    /// Name in a client's certificate that may come in (repeatable)
    ///
    /// A client may come in when its certificate has NAME among its DNS subject alternative names, letter for letter
    /// but for case. Wildcards stand for nobody, and the common name does not count. May be given many times.
    #[arg(long, value_name = "NAME", requires = "listen", help_heading = SERVE)]
    pub allow: Vec<String>,

    /// Most connections at a time
    ///
    /// Most connections of clients at a time; each of the --streams of a rebuild is one, and each has a process.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        value_parser = clap::value_parser!(u16).range(1..=4096),
        help_heading = SERVE
    )]
    pub max_connections: u16,

    /// How to connect to the server
    ///
    /// A connection string (keyword/value or URI) with which the agent connects to its server. The
    /// default is the local socket, the role named like the operating system user, and database
    /// postgres. The right to run the backup functions belongs to a database, so it must be the one in
    /// which it was granted.
    ///
    /// The keywords host, hostaddr, port, user, dbname, passfile, options, sslmode, application_name and
    /// connect_timeout are used; sslmode may be disable, allow or prefer, for there is no TLS. Others are refused. A
    /// password, which others could see in the list of processes, belongs in the password file. libpq's environment
    /// variables are not used, except PGPASSFILE.
    #[arg(short = 'd', long, value_name = "CONNINFO", help_heading = SERVE)]
    pub dbname: Option<String>,

    /// The server's data directory
    ///
    /// The server's data directory, for a role that may not ask the server for it: that takes a superuser
    /// or a member of pg_read_all_settings.
    #[arg(short = 'D', long, value_name = "PGDATA", help_heading = SERVE)]
    pub pgdata: Option<PathBuf>,

    /// No server runs: serve the directory of --pgdata alone
    ///
    /// Serves the data directory of --pgdata in which no server runs, for pg_reseed verify and nothing else: no server
    /// is connected to. It is refused when one runs there.
    #[arg(long, requires = "pgdata", conflicts_with_all = ["listen", "dbname"], help_heading = SERVE)]
    pub stopped: bool,

    #[command(flatten)]
    pub tls: TlsArguments,

    /// Certificates that are not valid any more
    ///
    /// A file of certificate revocation lists (PEM) of the authority. A client whose certificate is on one of them is
    /// refused; so is one whose authority has no list in the file.
    #[arg(long, value_name = "FILE", requires = "listen", help_heading = TLS)]
    pub tls_crl: Option<PathBuf>,
}

/// Check the configuration files
///
/// Reads the configuration files in which jobs stand, and checks each job as pg_reseed rebuild --job would read it. Nothing
/// is run and nobody is asked. Each job gets a line on standard output, and each file that cannot be read.
#[derive(Debug, Args)]
#[command(override_usage = "pg_reseed jobs check [--job-file FILE] [--json]")]
pub struct JobsArguments {
    /// What to do: check
    ///
    /// What to do with the jobs. There is nothing but check.
    #[arg(value_enum, value_name = "ACTION", hide_possible_values = true, help_heading = JOBS)]
    pub action: JobsAction,

    /// Check the jobs of this file
    ///
    /// Checks the jobs of this file instead of those in /etc/pg_reseed, or in the directory that the environment
    /// variable PG_RESEED_CONFIG_DIR names.
    #[arg(long, value_name = "FILE", help_heading = JOBS)]
    pub job_file: Option<PathBuf>,

    /// Print JSON
    ///
    /// Prints a JSON array of objects with the fields job, file, line, error and hint; error is null when the job is
    /// right, and job is null of a file that cannot be read.
    #[arg(long, help_heading = JOBS)]
    pub json: bool,
}

const TARGET: &str = "Target options";
const SOURCE: &str = "Source options";
const STANDBY: &str = "Standby connection options";
const RUN: &str = "Run options";
const COPY: &str = "Options of a copy (--role clone)";
const OUTPUT: &str = "Output options";
const OVERRIDES: &str = "Overrides of refusals";
const SERVE: &str = "Options";
const JOBS: &str = "Options";
const TLS: &str = "TLS options";
const GENERAL: &str = "General options";

/// The command line with all that can be typed.
///
/// A doc comment's first line is the short help; the manual text is the rest without it, since that
/// says the same at length.
#[must_use]
pub fn command() -> clap::Command {
    at_length(Arguments::command()).mut_subcommands(|command| in_environment(at_length(command)))
}

/// Where the agent is may be said once for all commands, and for those that have no words for it.
pub const AGENT_VARIABLES: [(&str, &str); 7] = [
    ("from", "PG_RESEED_FROM"),
    ("rsh", "PG_RESEED_RSH"),
    ("agent_path", "PG_RESEED_AGENT_PATH"),
    ("source_dbname", "PG_RESEED_SOURCE_DBNAME"),
    ("tls_ca", "PG_RESEED_TLS_CA"),
    ("tls_cert", "PG_RESEED_TLS_CERT"),
    ("tls_key", "PG_RESEED_TLS_KEY"),
];

/// Lets the options of an agent have their values from the environment. An agent's own options do not: the one that a
/// client starts has the client's environment.
fn in_environment(command: clap::Command) -> clap::Command {
    if command
        .get_arguments()
        .all(|argument| argument.get_id() != "from")
    {
        return command;
    }
    command.mut_args(|argument| {
        let variable = AGENT_VARIABLES
            .iter()
            .find(|(id, _)| argument.get_id() == id);
        match variable {
            Some((_, variable)) => argument.env(variable).hide_env(true),
            None => argument,
        }
    })
}

fn at_length(command: clap::Command) -> clap::Command {
    let ending = help::ending(command.get_name());
    let mut command = command.after_long_help(ending);
    if let Some(rest) = command.get_long_about().and_then(rest) {
        command = command.long_about(rest);
    }
    command.mut_args(|arg| match arg.get_long_help().and_then(rest) {
        Some(rest) => arg.long_help(rest),
        None => arg,
    })
}

/// What follows the first paragraph.
fn rest(text: &StyledStr) -> Option<String> {
    let text = text.to_string();
    text.split_once("\n\n").map(|(_, rest)| rest.to_owned())
}

/// Reads the arguments. `help [COMMAND]` and `version` mean the options of these names.
///
/// # Errors
/// What clap has to say, which may be the help or the version.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    let mut words: Vec<OsString> = arguments.collect();
    match words.get(1).and_then(|word| word.to_str()) {
        Some("help") => {
            words.remove(1);
            words.retain(|word| word != "help");
            words.push("--help".into());
        }
        Some("version") => words[1] = "--version".into(),
        _ => {}
    }
    let mut command = command();
    let matches = command.try_get_matches_from_mut(words)?;
    Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_option_that_is_given_twice_the_last_one_counts_and_lists_add_up() {
        let line = "pg_reseed rebuild -D /a -D /b -h db1 --host db2 -p 1 -p 2 -n -n --start --start -P json -P plain \
                    --config source --config target -j 1 --jobs 2 -T /a=/b -T /c=/d --keep x --keep y -v -v";
        let words = line
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(Into::into);
        let Command::Rebuild(typed) = parse(words).unwrap().command else {
            panic!("not a rebuild");
        };
        assert_eq!(typed.pgdata, Some("/b".into()));
        assert_eq!(typed.connection.host.as_deref(), Some("db2"));
        assert_eq!(
            (typed.connection.port, typed.effort.jobs),
            (Some(2), Some(2))
        );
        assert!(typed.dry_run && typed.start);
        assert_eq!(
            (typed.progress.progress, typed.config),
            (Some(Style::Plain), ConfigSide::Target)
        );
        assert_eq!((typed.tablespace_mapping.len(), typed.keep.len()), (2, 2));
        assert_eq!(typed.verbose, 2);
        let both = "pg_reseed rebuild -D /a -q -q -v"
            .split(' ')
            .map(Into::into);
        assert!(parse(both).is_err());
        for line in [
            "pg_reseed inspect -D /a -D /b --json --json -S a -S b",
            "pg_reseed serve --stdio --stdio -D /a -D /b",
        ] {
            let words = line.split(' ').map(Into::into);
            assert!(parse(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn help_and_version_are_words_too() {
        let said = |line: &str| {
            let error = parse(line.split(' ').map(Into::into)).unwrap_err();
            (error.kind(), error.to_string())
        };
        for (line, same) in [
            ("pg_reseed help", "pg_reseed --help"),
            ("pg_reseed help rebuild", "pg_reseed rebuild --help"),
            ("pg_reseed help inspect", "pg_reseed inspect --help"),
            ("pg_reseed help help", "pg_reseed --help"),
            ("pg_reseed version", "pg_reseed --version"),
        ] {
            assert_eq!(said(line), said(same), "{line}");
        }
        assert!(said("pg_reseed version").1.starts_with("pg_reseed "));
        let (kind, _) = said("pg_reseed help rebuilt");
        assert_eq!(kind, clap::error::ErrorKind::InvalidSubcommand);
    }

    #[test]
    fn definitions_are_sound() {
        command().debug_assert();
    }
}
