//! What was typed, turned once into what is meant: defaults filled in, connection parameters merged
//! as libpq merges them, nonsense refused. Touches no file; the environment comes in as a function.

mod copy;
mod status;
mod verify;

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::args::{
    AGENT_VARIABLES, AgentArguments, ConnectionArguments, EffortArguments, InspectArguments,
    OverrideArguments, RebuildArguments, ServeArguments, TlsArguments,
};
use crate::cli::jobs;
use crate::cli::typed;
use crate::cli::values::{Checkpoint, ConfigSide, WalMethod};
use crate::client::look::debian::Recorded;
use crate::client::options::{InspectOptions, InspectSource, Reach, RebuildOptions, Starter};
use crate::link::tls::{self, Files};
use crate::link::{self, Companions, From as Agent, FromError};
use crate::pg::cluster_name::ClusterName;
use crate::pg::conninfo::Conninfo;
use crate::pg::layout::HostLocal;
use crate::plan::configuration::MAIN_FILE;
use crate::plan::guard::Overrides;
use crate::plan::standby::Role;
use crate::plan::tablespaces::Mapping;
use crate::ui::Style;
use crate::wire::message::Compression;
use crate::workers;

pub use status::{Status, status};
pub use verify::{Verify, verify};

/// Streams over ssh unless `--streams` says otherwise: each takes a processor on both sides to encrypt.
const STREAMS_DEFAULT_MAX: usize = 4;

/// The longest name that PostgreSQL gives to a slot (`NAMEDATALEN` - 1).
const SLOT_NAME_MAX: usize = 63;

/// libpq's environment variables whose parameter makes sense in `primary_conninfo`. Left out:
/// PGPASSWORD (never written), PGDATABASE (written only when typed), PGREPLICATION and
/// PGCLIENTENCODING (the walreceiver's own), PGAPPNAME (the name of this process, not of the
/// standby). PostgreSQL: src/interfaces/libpq/fe-connect.c, `PQconninfoOptions`.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PGSERVICE", "service"),
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGUSER", "user"),
    ("PGPASSFILE", "passfile"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGOPTIONS", "options"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLCOMPRESSION", "sslcompression"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLSNI", "sslsni"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGKRBSRVNAME", "krbsrvname"),
    ("PGGSSLIB", "gsslib"),
    ("PGGSSDELEGATION", "gssdelegation"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
];

/// A rebuild as it was meant.
#[derive(Debug)]
pub struct Rebuild {
    pub options: RebuildOptions,
    pub progress: Style,
    pub report: Option<Report>,
    /// Where the metrics go.
    pub metrics: Option<PathBuf>,
    pub shows_summary: bool,
    /// Number of `-v`; -1 is `-q`.
    pub verbosity: i16,
    /// The cluster of postgresql-common that the data directory turned out to be.
    pub found_cluster: Option<ClusterName>,
}

/// Where the report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    StandardOutput,
    File(PathBuf),
}

/// Wrong usage: found before anything was done.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError {
    pub error: String,
    pub hint: Option<String>,
}

impl UsageError {
    pub(super) fn new(error: impl fmt::Display) -> Self {
        Self {
            error: error.to_string(),
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What the process knows besides its arguments.
pub struct Surroundings<'a> {
    /// What was typed, with the name of the program.
    pub words: &'a [OsString],
    /// Value of an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    pub working_directory: &'a Path,
    pub processors: usize,
    /// A person typed the command, at a terminal.
    pub is_typed: bool,
    /// What Debian's postgresql-common has on record of a cluster.
    pub recorded: &'a dyn Fn(&ClusterName) -> Result<Recorded, String>,
    /// The cluster that it has on record for a data directory, if there is exactly one.
    pub recorded_at: &'a dyn Fn(&Path) -> Option<ClusterName>,
}

/// Gives meaning to the arguments of `rebuild`.
///
/// # Errors
/// When they contradict each other, lack something, or cannot be parsed.
pub fn rebuild(typed: RebuildArguments, around: &Surroundings) -> Result<Rebuild, UsageError> {
    let role = Role::from(typed.role);
    if role != Role::Clone {
        copy::judge_others(&typed)?;
    }
    let starts = typed.start || typed.start_command.is_some();
    let hooks = copy::hooks(&typed, starts, around)?;
    let (primary, from) = if role.has_settings() {
        let primary = primary(&typed.connection, around)?;
        let from = agent_of_primary(&fitting(typed.agent, around), &primary)?;
        (primary, from)
    } else {
        match role {
            Role::Clone => copy::judge(&typed)?,
            Role::Standby | Role::Managed => managed(&typed)?,
        }
        let primary = merged(&typed.connection, around)?;
        let from = agent(&fitting(typed.agent, around), None, &primary)?;
        (primary, from)
    };
    let patch_noise = patches_noise(typed.noise_patch, typed.no_noise_patch, &from);
    // A configuration that is named, or comes from the source, says that it is not the recorded one.
    let is_named = typed.debian.cluster.is_some();
    let is_told_otherwise = typed.config_file.is_some() || typed.target_config_dir.is_some();
    let Target {
        pgdata,
        cluster,
        recorded,
    } = target(
        typed.pgdata,
        typed.debian.cluster,
        is_told_otherwise,
        around,
    )?;
    let found_cluster = cluster.clone().filter(|_| !is_named);
    let metrics = typed
        .metrics
        .map(|file| outside("--metrics", "metrics", file, &pgdata, around))
        .transpose()?;
    let report = typed
        .report
        .map(|file| report(file, &pgdata, around))
        .transpose()?;
    if let Some(slot) = &typed.slot {
        check_slot_name(slot)?;
    }
    if let Some(waldir) = &typed.waldir
        && !waldir.is_absolute()
    {
        let waldir = waldir.display();
        return Err(UsageError::new(format_args!(
            "the WAL directory \"{waldir}\" is not an absolute path"
        )));
    }
    for (content, directory) in [
        ("diverged WAL", &typed.keep_diverged_wal),
        ("the configuration", &typed.target_config_dir),
    ] {
        if let Some(directory) = directory
            && (!directory.is_absolute() || directory.starts_with(&pgdata))
        {
            let directory = directory.display();
            return Err(UsageError::new(format_args!(
                "the directory \"{directory}\" for {content} must be an absolute path outside of the data \
                 directory"
            )));
        }
    }
    for (option, value) in [
        ("--application-name", &typed.application_name),
        ("--restore-command", &typed.restore_command),
        ("--archive-cleanup-command", &typed.archive_cleanup_command),
    ] {
        if let Some(value) = value
            && (value.is_empty() || value.contains(char::is_control))
        {
            return Err(UsageError::new(format_args!(
                "the value of \"{option}\" is empty or contains control characters"
            )));
        }
    }
    let brings_wal = typed.wal_method != WalMethod::None;
    if !brings_wal && typed.slot.is_none() && typed.restore_command.is_none() {
        return Err(UsageError::new(
            "with \"-X none\" nothing gives the standby the WAL of the backup",
        )
        .hint("Give --slot, --restore-command or both."));
    }
    let mappings = typed
        .tablespace_mapping
        .iter()
        .map(|text| Mapping::parse(text.as_bytes()).map_err(UsageError::new))
        .collect::<Result<_, _>>()?;
    for pattern in &typed.keep {
        HostLocal::none()
            .add_pattern(pattern)
            .map_err(UsageError::new)?;
    }
    let progress = match typed.progress.progress {
        None if typed.quiet => Style::None,
        style => style.unwrap_or(Style::Auto),
    };
    let options = RebuildOptions {
        pgdata,
        patch_noise,
        reach: reach(&typed.effort, from, around),
        role,
        primary,
        slot: typed.slot,
        create_slot: typed.create_slot,
        fast_checkpoint: typed.checkpoint == Checkpoint::Fast,
        brings_wal,
        streams_wal: typed.wal_method == WalMethod::Stream,
        mappings,
        waldir: typed.waldir,
        dry_run: typed.dry_run,
        rewinds: false,
        config_from_source: typed.config == ConfigSide::Source,
        keep: typed.keep,
        application_name: typed.application_name,
        restore_command: typed.restore_command,
        archive_cleanup_command: typed.archive_cleanup_command,
        recovery_target_timeline: typed.recovery_target_timeline,
        raise_settings: typed.raise_settings,
        keep_diverged_wal: typed.keep_diverged_wal,
        if_needed: typed.if_needed,
        stop: typed.stop,
        start: starts,
        starter: match (typed.start_command, cluster) {
            (Some(command), _) => Some(Starter::Command(command)),
            (None, Some(cluster)) => Some(Starter::Debian(cluster)),
            (None, None) => None,
        },
        wait: Duration::from_secs(typed.wait),
        sync: !typed.no_sync,
        max_delete: typed.max_delete,
        bindir: typed
            .bindir
            .map(|p| absolute("-B", p, around))
            .transpose()?
            .or_else(|| recorded.as_ref()?.bindir.clone()),
        config_file: typed
            .config_file
            .map(|file| absolute("--config-file", file, around))
            .transpose()?
            .or_else(|| Some(recorded?.config_file))
            .or_else(|| Some(plain(typed.target_config_dir.as_deref()?).join(MAIN_FILE))),
        target_config_dir: typed.target_config_dir.as_deref().map(plain),
        target_port: typed.target_port,
        log_file: typed
            .log_file
            .map(|file| absolute("-l", file, around))
            .transpose()?,
        max_wal_retained: typed.max_wal_retained,
        job: typed.job.job.filter(|name| !name.is_empty()),
        is_typed: around.is_typed,
        command: command(around),
        working_directory: around.working_directory.to_owned(),
        overrides: overrides(&typed.overrides, typed.seed),
        keeps_archiving: typed.copy.keep_archive_mode,
        hooks,
    };
    Ok(Rebuild {
        options,
        progress,
        report,
        metrics,
        shows_summary: !typed.quiet,
        verbosity: verbosity(typed.quiet, typed.verbose),
        found_cluster,
    })
}

/// Judges what was typed for a standby whose settings somebody else writes: what makes no sense then.
fn managed(typed: &RebuildArguments) -> Result<(), UsageError> {
    let given = of_a_standby(typed).into_iter().chain([
        ("--start", typed.start),
        ("--start-command", typed.start_command.is_some()),
    ]);
    match first_given(given) {
        None => Ok(()),
        Some(option) => Err(UsageError::new(format_args!(
            "option \"{option}\" has no effect with \"--role managed\""
        ))
        .hint("Whoever writes the standby's settings says it there.")),
    }
}

/// Options for the settings of a standby, and whether they were given.
fn of_a_standby(typed: &RebuildArguments) -> [(&'static str, bool); 6] {
    [
        ("--slot", typed.slot.is_some()),
        ("--application-name", typed.application_name.is_some()),
        ("--restore-command", typed.restore_command.is_some()),
        (
            "--archive-cleanup-command",
            typed.archive_cleanup_command.is_some(),
        ),
        (
            "--recovery-target-timeline",
            typed.recovery_target_timeline.is_some(),
        ),
        ("--raise-settings", typed.raise_settings),
    ]
}

fn first_given(options: impl IntoIterator<Item = (&'static str, bool)>) -> Option<&'static str> {
    let given = options.into_iter().find(|(_, is_given)| *is_given);
    given.map(|(option, _)| option)
}

/// What was typed, with what of the environment gives it meaning.
fn command(around: &Surroundings) -> Vec<String> {
    let variables = [
        "PGDATA",
        "PG_CLUSTER_CONF_ROOT",
        jobs::JOB_VARIABLE,
        jobs::DIRECTORY_VARIABLE,
    ]
    .into_iter()
    .chain(AGENT_VARIABLES.map(|(_, variable)| variable))
    .chain(ENVIRONMENT.iter().map(|(variable, _)| *variable));
    typed::words(around.words, variables, around.variable)
}

/// How much is logged.
fn verbosity(quiet: bool, verbose: u8) -> i16 {
    if quiet { -1 } else { i16::from(verbose) }
}

/// How the source is reached, and how much is done at a time.
fn reach(typed: &EffortArguments, from: Agent, around: &Surroundings) -> Reach {
    Reach {
        streams: streams(typed, &from, around),
        compression: compression(typed, &from),
        jobs: jobs(typed, around),
        agent_jobs: typed.jobs,
        max_rate: typed.max_rate.clone().unwrap_or_default(),
        from,
    }
}

/// How many threads of this side compute at a time.
fn jobs(typed: &EffortArguments, around: &Surroundings) -> usize {
    typed
        .jobs
        .map_or_else(|| workers::jobs_of(around.processors), usize::from)
}

/// How the agent compresses.
fn compression(typed: &EffortArguments, from: &Agent) -> Compression {
    typed.compress.unwrap_or(match from {
        Agent::Local { .. } => Compression::None,
        _ => Compression::Auto,
    })
}

/// Whether blocks that differ in noise only are patched. On one host nothing is cheaper than moving them.
fn patches_noise(is_asked_for: bool, is_unwanted: bool, from: &Agent) -> bool {
    is_asked_for || !is_unwanted && !matches!(from, Agent::Local { .. })
}

/// How many streams there are.
fn streams(typed: &EffortArguments, from: &Agent, around: &Surroundings) -> usize {
    match typed.streams {
        Some(streams) => usize::from(streams),
        // Another remote shell may ask for a password each time.
        None if from.gains_by_streams() => around.processors.clamp(1, STREAMS_DEFAULT_MAX),
        None => 1,
    }
}

/// An inspection as it was meant.
#[derive(Debug)]
pub struct Inspect {
    pub options: InspectOptions,
    pub is_json: bool,
    /// The exit status tells the verdict.
    pub tells_verdict: bool,
    pub verbosity: i16,
}

/// Gives meaning to the arguments of `inspect`. The source is asked only if something names it.
///
/// # Errors
/// As [`rebuild`].
pub fn inspect(typed: InspectArguments, around: &Surroundings) -> Result<Inspect, UsageError> {
    if let Some(slot) = &typed.slot {
        check_slot_name(slot)?;
    }
    let Target {
        pgdata,
        cluster,
        recorded,
    } = target(typed.pgdata, typed.debian.cluster, false, around)?;
    let connection = &typed.connection;
    // The environment says where the agent of a source would be, and not that there is one.
    let said = without_environment(&typed.agent, around);
    let names_source = said.from.is_some()
        || said.source_dbname.is_some()
        || connection.dbname.is_some()
        || connection.host.is_some();
    let source = if names_source {
        let primary = primary(connection, around)?;
        let agent = fitting(typed.agent, around);
        Some(InspectSource {
            from: agent_of_primary(&agent, &primary)?,
            primary,
            typed: words_of(agent),
        })
    } else if connection.port.is_some()
        || connection.username.is_some()
        || typed.slot.is_some()
        || said.rsh.is_some()
        || said.agent_path.is_some()
    {
        return Err(UsageError::new("no source specified")
            .hint("Say with -d, -h or --from which server to ask, or leave its options out."));
    } else {
        None
    };
    Ok(Inspect {
        options: InspectOptions {
            pgdata,
            cluster,
            config_file: recorded.map(|cluster| cluster.config_file),
            source,
            slot: typed.slot,
            working_directory: around.working_directory.to_owned(),
        },
        is_json: typed.json,
        tells_verdict: typed.exit_code,
        verbosity: i16::from(typed.verbose),
    })
}

/// What was typed about the agent.
fn words_of(typed: AgentArguments) -> Vec<(&'static str, String)> {
    let path = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
    [
        ("--from", typed.from),
        ("--rsh", typed.rsh),
        ("--agent-path", typed.agent_path),
        ("--source-dbname", typed.source_dbname),
        ("--tls-ca", path(typed.tls.tls_ca)),
        ("--tls-cert", path(typed.tls.tls_cert)),
        ("--tls-key", path(typed.tls.tls_key)),
    ]
    .into_iter()
    .filter_map(|(option, value)| Some((option, value?)))
    .collect()
}

/// The data directory, and the cluster of postgresql-common that it belongs to, with what is on record of that.
struct Target {
    pgdata: PathBuf,
    cluster: Option<ClusterName>,
    recorded: Option<Recorded>,
}

/// Finds the target by what was typed. A data directory that is on record is that cluster's, whichever of both names
/// it, so that the standby has one name, one log and one way to be started; unless `is_told_otherwise`.
fn target(
    pgdata: Option<PathBuf>,
    cluster: Option<ClusterName>,
    is_told_otherwise: bool,
    around: &Surroundings,
) -> Result<Target, UsageError> {
    let typed = pgdata
        .map(|path| absolute("-D", path, around))
        .transpose()?;
    let is_named = cluster.is_some();
    let cluster = cluster.or_else(|| match &typed {
        Some(pgdata) if !is_told_otherwise => (around.recorded_at)(pgdata),
        _ => None,
    });
    let recorded = cluster.as_ref().map(around.recorded).transpose();
    let recorded = recorded.map_err(UsageError::new)?;
    let known = recorded.as_ref().map(|cluster| &cluster.pgdata);
    let pgdata = match (typed, known) {
        (Some(typed), Some(known)) if is_named && typed != *known => {
            return Err(UsageError::new(format_args!(
                "-D or PGDATA says \"{}\", but the data directory of that cluster is \"{}\"",
                typed.display(),
                known.display()
            )));
        }
        (Some(path), _) => path,
        (None, Some(known)) => absolute("--cluster", known.clone(), around)?,
        (None, None) => return Err(UsageError::new("no data directory specified")),
    };
    Ok(Target {
        pgdata,
        cluster,
        recorded,
    })
}

/// How the standby will connect: the string first, then the options, then the environment.
fn primary(typed: &ConnectionArguments, around: &Surroundings) -> Result<Conninfo, UsageError> {
    let conninfo = merged(typed, around)?;
    if typed.dbname.is_none() && !has_server(&conninfo) {
        return Err(UsageError::new("no source specified").hint(
            "Say with -d, or with -h, -p and -U, how the standby will connect to the source.",
        ));
    }
    Ok(conninfo)
}

/// As [`primary`], but it may name no server.
fn merged(typed: &ConnectionArguments, around: &Surroundings) -> Result<Conninfo, UsageError> {
    let string = typed.dbname.as_deref().unwrap_or_default();
    let mut conninfo = Conninfo::parse(string).map_err(UsageError::new)?;
    if conninfo.has_password() {
        return Err(
            UsageError::new("a password in the connection string is not accepted").hint(
                "It would stand in a configuration file. Put it into the password file of the user \
                 that the standby runs as: ~/.pgpass, or passfile=... in the connection string.",
            ),
        );
    }
    let port = typed.port.map(|port| port.to_string());
    for (keyword, value) in [
        ("host", &typed.host),
        ("port", &port),
        ("user", &typed.username),
    ] {
        if let Some(value) = value {
            add(&mut conninfo, keyword, value)?;
        }
    }
    // A host that was typed is not mixed with an address from the environment, nor the reverse:
    // libpq would connect to the address.
    let names_server = has_server(&conninfo);
    for (variable, keyword) in ENVIRONMENT {
        let is_server = matches!(*keyword, "host" | "hostaddr" | "service");
        if let Some(value) = (around.variable)(variable)
            && !(is_server && names_server)
        {
            add(&mut conninfo, keyword, &value)?;
        }
    }
    Ok(conninfo)
}

/// Sets a parameter that is not set yet.
fn add(conninfo: &mut Conninfo, keyword: &str, value: &str) -> Result<(), UsageError> {
    if value.is_empty() || conninfo.get(keyword).is_some() {
        return Ok(());
    }
    conninfo.set(keyword, value).map_err(UsageError::new)
}

fn has_server(conninfo: &Conninfo) -> bool {
    ["host", "hostaddr", "service"]
        .iter()
        .any(|keyword| conninfo.get(keyword).is_some())
}

/// What was typed of an agent, without what the environment says.
fn without_environment(typed: &AgentArguments, around: &Surroundings) -> AgentArguments {
    let is_other = |value: &str, id: &str| {
        let variable = AGENT_VARIABLES.iter().find(|(known, _)| *known == id);
        variable
            .and_then(|(_, variable)| (around.variable)(variable))
            .as_deref()
            != Some(value)
    };
    let text = |value: &Option<String>, id| value.clone().filter(|value| is_other(value, id));
    let path = |value: &Option<PathBuf>, id| {
        let value = value.clone();
        value.filter(|value| value.to_str().is_none_or(|value| is_other(value, id)))
    };
    AgentArguments {
        from: text(&typed.from, "from"),
        rsh: text(&typed.rsh, "rsh"),
        agent_path: text(&typed.agent_path, "agent_path"),
        source_dbname: text(&typed.source_dbname, "source_dbname"),
        tls: TlsArguments {
            tls_ca: path(&typed.tls.tls_ca, "tls_ca"),
            tls_cert: path(&typed.tls.tls_cert, "tls_cert"),
            tls_key: path(&typed.tls.tls_key, "tls_key"),
        },
    }
}

/// What was said of an agent, without what the environment says of agents of another kind.
fn fitting(said: AgentArguments, around: &Surroundings) -> AgentArguments {
    let typed = without_environment(&said, around);
    let from = said.from.as_deref().unwrap_or("ssh:");
    let starts = from == "local" || from.starts_with("ssh:");
    AgentArguments {
        rsh: if from.starts_with("ssh:") {
            said.rsh
        } else {
            typed.rsh
        },
        agent_path: if starts {
            said.agent_path
        } else {
            typed.agent_path
        },
        source_dbname: if starts {
            said.source_dbname
        } else {
            typed.source_dbname
        },
        tls: if from.starts_with("tls:") {
            said.tls
        } else {
            typed.tls
        },
        from: said.from,
    }
}

/// Where the agent is.
fn agent(
    typed: &AgentArguments,
    source_pgdata: Option<&Path>,
    primary: &Conninfo,
) -> Result<Agent, UsageError> {
    let source = match &typed.source_dbname {
        _ if source_pgdata.is_some() => None,
        Some(given) => {
            own_server(given)?;
            Some(given.clone())
        }
        None => agents_own_server(typed.from.as_deref(), primary)?,
    };
    link::parse(
        typed.from.as_deref(),
        primary.get("host").or_else(|| primary.get("hostaddr")),
        &Companions {
            rsh: typed.rsh.as_deref(),
            agent_path: typed.agent_path.as_deref(),
            source_dbname: source.as_deref(),
            source_pgdata,
            tls_ca: typed.tls.tls_ca.as_deref(),
            tls_cert: typed.tls.tls_cert.as_deref(),
            tls_key: typed.tls.tls_key.as_deref(),
        },
    )
    .map_err(|error| {
        let refused = UsageError::new(&error);
        match error {
            FromError::NoHost(_) => refused.hint(
                "Give the source's host with -h or in -d; or say with --from where the agent is.",
            ),
            FromError::SocketDirectory(_) => {
                refused.hint("If the source is on this host, add --from local.")
            }
            FromError::SeveralHosts => refused
                .hint("Say with --from ssh://HOST (or tls://HOST) on which of them the source is."),
            FromError::NoEffect { from: "exec:", .. } => {
                refused.hint("Write it into the command: pg_reseed serve has options of its own.")
            }
            _ => refused,
        }
    })
}

/// As [`agent`], of a source that a standby shall follow.
fn agent_of_primary(typed: &AgentArguments, primary: &Conninfo) -> Result<Agent, UsageError> {
    let agent = agent(typed, None, primary)?;
    if matches!(agent, Agent::Ssh { .. } | Agent::Tls { .. }) && !has_server(primary) {
        return Err(
            UsageError::new("the connection string for the standby names no host").hint(
                "The standby would connect to its own host. Give the source's host with -h or in \
                 -d.",
            ),
        );
    }
    Ok(agent)
}

/// Where the agent finds its server when nobody says so: at the port that the standby will use, on the same
/// host also in the same socket directory.
fn agents_own_server(from: Option<&str>, primary: &Conninfo) -> Result<Option<String>, UsageError> {
    let mut own = Conninfo::default();
    if from == Some("local")
        && let Some(host) = primary.get("host").filter(|host| host.starts_with('/'))
    {
        add(&mut own, "host", host)?;
    }
    if let Some(port) = primary.get("port").filter(|port| !port.contains(','))
        && !from.is_some_and(|from| from.starts_with("exec:") || from.starts_with("tls:"))
    {
        add(&mut own, "port", port)?;
    }
    if own == Conninfo::default() {
        return Ok(None);
    }
    own.to_keyword_value().map(Some).map_err(UsageError::new)
}

/// The connection string of an agent: no secret may stand on a command line.
///
/// # Errors
/// It does not parse, or has a password.
pub fn own_server(text: &str) -> Result<Conninfo, UsageError> {
    let conninfo = Conninfo::parse(text).map_err(UsageError::new)?;
    if conninfo.has_password() {
        return Err(
            UsageError::new("a password in the agent's connection string is not accepted").hint(
                "It would stand in the list of processes. Put it into the password file of the user that \
                 the agent runs as: ~/.pgpass, or passfile=... in the connection string.",
            ),
        );
    }
    Ok(conninfo)
}

/// Where an agent listens, and with which files.
#[derive(Debug, PartialEq, Eq)]
pub struct Listening {
    pub host: String,
    pub port: u16,
    pub files: Files,
}

/// Where an agent shall listen; `None` for one on its standard streams.
///
/// # Errors
/// The address makes no sense, or files are given to one that does not need them.
pub fn listening(typed: &ServeArguments) -> Result<Option<Listening>, UsageError> {
    let TlsArguments {
        tls_ca,
        tls_cert,
        tls_key,
    } = &typed.tls;
    let Some(address) = &typed.listen else {
        for (option, file) in [
            ("--tls-ca", tls_ca),
            ("--tls-cert", tls_cert),
            ("--tls-key", tls_key),
        ] {
            if file.is_some() {
                return Err(UsageError::new(format_args!(
                    "option \"{option}\" has no effect with \"--stdio\""
                )));
            }
        }
        return Ok(None);
    };
    let (host, port) = link::split_port(address).map_err(UsageError::new)?;
    if host.is_empty() {
        return Err(
            UsageError::new(format_args!("the address \"{address}\" names no host"))
                .hint("Use 0.0.0.0 or [::] for every address of this host."),
        );
    }
    let file = |file: &Option<PathBuf>| file.clone().unwrap_or_default();
    let files = Files {
        authority: file(tls_ca),
        certificate: file(tls_cert),
        key: file(tls_key),
        revoked: typed.tls_crl.clone(),
    };
    Ok(Some(Listening {
        host: host.to_owned(),
        port: port.unwrap_or(tls::PORT),
        files,
    }))
}

fn check_slot_name(name: &str) -> Result<(), UsageError> {
    let is_lawful = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.is_empty() && name.len() <= SLOT_NAME_MAX && name.chars().all(is_lawful) {
        return Ok(());
    }
    Err(
        UsageError::new(format_args!("invalid replication slot name \"{name}\"")).hint(format!(
            "Slot names consist of at most {SLOT_NAME_MAX} lower case letters, digits and \
             underscores."
        )),
    )
}

/// The report must not become part of what it reports on.
fn report(file: PathBuf, pgdata: &Path, around: &Surroundings) -> Result<Report, UsageError> {
    if file.as_os_str() == "-" {
        return Ok(Report::StandardOutput);
    }
    outside("--report", "report", file, pgdata, around).map(Report::File)
}

/// A file of ours, which must not lie in the data directory.
fn outside(
    option: &str,
    what: &str,
    file: PathBuf,
    pgdata: &Path,
    around: &Surroundings,
) -> Result<PathBuf, UsageError> {
    let file = absolute(option, file, around)?;
    if file.starts_with(pgdata) {
        let file = file.display();
        return Err(UsageError::new(format_args!(
            "the {what} \"{file}\" would lie in the data directory"
        )));
    }
    Ok(file)
}

/// A path that stays right whatever the working directory becomes, and that messages can show.
fn absolute(option: &str, path: PathBuf, around: &Surroundings) -> Result<PathBuf, UsageError> {
    if path.as_os_str().is_empty() {
        return Err(UsageError::new(format_args!(
            "the path given with \"{option}\" is empty"
        )));
    }
    if path.is_absolute() {
        return Ok(plain(&path));
    }
    Ok(plain(&around.working_directory.join(path)))
}

/// So that "/srv/pg/" and "/srv//pg" are "/srv/pg".
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

fn overrides(typed: &OverrideArguments, seed: bool) -> Overrides {
    Overrides {
        overwrite_foreign_cluster: typed.overwrite_foreign_cluster,
        // Whoever may overwrite another cluster may overwrite one that may be another.
        overwrite_unknown_cluster: typed.overwrite_unknown_cluster
            || typed.overwrite_foreign_cluster,
        discard_newer_timeline: typed.discard_newer_timeline,
        discard_newer_wal: typed.discard_newer_wal,
        no_login_check: typed.no_login_check,
        reuse_tablespace_dirs: typed.reuse_tablespace_dirs,
        ignore_free_space: typed.ignore_free_space,
        keep_incomplete_wal: typed.keep_incomplete_wal,
        allow_unknown_version: typed.allow_unknown_version,
        leave_no_primary: typed.leave_no_primary,
        seed,
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::cli::args::{self, Command};
    use crate::client::options::Hook;
    use crate::plan::timetable::Rates;

    /// Resolves a command line in an environment that has nothing but `variables`.
    fn resolve(line: &str, variables: &[(&str, &str)]) -> Result<Rebuild, UsageError> {
        let words = shlex::split(line).unwrap();
        let begin = ["pg_reseed", "rebuild", "-D", "data"].map(str::to_owned);
        resolve_words(begin.into_iter().chain(words), variables)
    }

    fn resolve_words(
        words: impl IntoIterator<Item = String>,
        variables: &[(&str, &str)],
    ) -> Result<Rebuild, UsageError> {
        let words = words.into_iter().map(Into::into);
        let Command::Rebuild(typed) = args::parse(words).unwrap().command else {
            panic!("not a rebuild");
        };
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let around = Surroundings {
            words: &[],
            variable: &variable,
            working_directory: Path::new("/home/postgres"),
            processors: 64,
            is_typed: false,
            recorded: &|name| {
                Ok(Recorded {
                    pgdata: "/var/lib/postgresql/15/main".into(),
                    config_file: format!("/etc/postgresql/{name}/postgresql.conf").into(),
                    bindir: Some("/usr/lib/postgresql/15/bin".into()),
                })
            },
            recorded_at: &|pgdata| {
                let is_mains = pgdata == Path::new("/var/lib/postgresql/15/main");
                is_mains.then(|| "15/main".parse().unwrap())
            },
        };
        rebuild(*typed, &around)
    }

    fn refused(line: &str) -> String {
        let UsageError { error, hint } = resolve(line, &[]).unwrap_err();
        let hint = hint.map(|hint| format!("  hint: {hint}\n"));
        format!("{line}\n  error: {error}\n{}", hint.unwrap_or_default())
    }

    fn conninfo(line: &str, variables: &[(&str, &str)]) -> String {
        let resolved = resolve(line, variables).unwrap();
        resolved.options.primary.to_keyword_value().unwrap()
    }

    #[test]
    fn what_a_manager_writes_is_not_said_here() {
        let managed = resolve("--role managed --from local", &[]).unwrap().options;
        assert_eq!(managed.role, Role::Managed);
        assert_eq!(managed.primary, Conninfo::default());
        assert!(resolve("--role managed", &[]).is_err());
        assert!(resolve("--role managed -h b", &[]).is_ok());
        for option in [
            "-S s",
            "--application-name a",
            "--restore-command c",
            "--raise-settings",
            "--start",
        ] {
            let error = resolve(&format!("--role managed -h b {option}"), &[]).unwrap_err();
            assert!(error.error.contains("no effect"), "{option}: {error:?}");
        }
    }

    #[test]
    fn several_streams_are_the_default_of_ssh_alone() {
        for (line, streams) in [
            ("-h db2 --rsh 'ssh -4'", 4),
            ("-h db2 --streams 9", 9),
            ("-h db2 --rsh 'krsh -x'", 1),
            ("-h db2 --rsh 'krsh -x' --streams 2", 2),
            ("-h db2 --from local", 1),
            ("-h db2 --from exec:carrier", 1),
            ("-h db2 --from exec:carrier --streams 16", 16),
        ] {
            let resolved = resolve(line, &[]).unwrap();
            assert_eq!(resolved.options.reach.streams, streams, "{line}");
        }
    }

    #[test]
    fn noise_is_moved_whole_where_nothing_must_travel_unless_somebody_says_otherwise() {
        for (line, patches) in [
            ("-h db2", true),
            ("-h db2 --no-noise-patch", false),
            ("-h db2 --no-noise-patch --noise-patch", true),
            ("-h db2 --noise-patch --no-noise-patch", false),
            ("-h db2 --from exec:carrier", true),
            ("-h db2 --from local", false),
            ("-h db2 --from local --noise-patch", true),
        ] {
            let resolved = resolve(line, &[]).unwrap();
            assert_eq!(resolved.options.patch_noise, patches, "{line}");
        }
    }

    #[test]
    fn the_shortest_command_has_the_documented_defaults() {
        let resolved = resolve("-h db2", &[]).unwrap();
        let options = resolved.options;
        assert_eq!(options.pgdata, Path::new("/home/postgres/data"));
        assert!(matches!(&options.reach.from, Agent::Ssh { user_host, .. } if user_host == "db2"));
        assert_eq!(options.reach.compression, Compression::Auto);
        assert_eq!(options.reach.max_rate, Rates::Always(None));
        assert_eq!((options.reach.jobs, options.reach.agent_jobs), (16, None));
        assert_eq!(options.reach.streams, 4);
        assert_eq!(options.wait, Duration::from_secs(60));
        assert!(options.fast_checkpoint && options.sync);
        assert!(!options.config_from_source && !options.start && !options.stop);
        assert_eq!(resolved.progress, Style::Auto);
        assert_eq!((resolved.verbosity, resolved.shows_summary), (0, true));
    }

    #[test]
    fn string_beats_options_and_options_beat_the_environment() {
        let environment = [("PGHOST", "db3"), ("PGPORT", "5433"), ("PGUSER", "bob")];
        assert_eq!(conninfo("", &environment), "host=db3 port=5433 user=bob");
        assert_eq!(
            conninfo("-d 'host=db1' -h db2 -p 5434", &environment),
            "host=db1 port=5434 user=bob"
        );
        assert_eq!(
            conninfo(
                "-h db2",
                &[("PGHOSTADDR", "10.0.0.3"), ("PGSSLMODE", "require")]
            ),
            "host=db2 sslmode=require"
        );
        assert_eq!(
            conninfo(
                "-h db2",
                &[("PGPASSWORD", "x"), ("PGDATABASE", "y"), ("PGUSER", "")]
            ),
            "host=db2"
        );
    }

    #[test]
    fn the_environment_says_where_agents_are_and_contradicts_nothing() {
        let variables = [
            ("PG_RESEED_FROM", "tls:"),
            ("PG_RESEED_TLS_CA", "/ca"),
            ("PG_RESEED_RSH", "ssh -i key"),
        ];
        let words = ["--from", "tls:", "--tls-ca", "/ca", "--rsh", "ssh -i key"];
        let around = |variable: &str| {
            let found = variables.iter().find(|(name, _)| *name == variable);
            found.map(|(_, value)| (*value).to_owned())
        };
        let line = [&["pg_reseed", "rebuild", "-D", "d", "-h", "b"], &words[..]].concat();
        let Command::Rebuild(typed) = args::parse(line.into_iter().map(Into::into))
            .unwrap()
            .command
        else {
            panic!("not a rebuild");
        };
        let around = Surroundings {
            words: &[],
            variable: &around,
            working_directory: Path::new("/"),
            processors: 1,
            is_typed: false,
            recorded: &|_| Err("none".to_owned()),
            recorded_at: &|_| None,
        };
        let typed = typed.agent;
        let said = without_environment(&typed, &around);
        assert!(said.from.is_none() && said.rsh.is_none() && said.tls.tls_ca.is_none());
        let fit = fitting(typed, &around);
        assert_eq!(fit.from.as_deref(), Some("tls:"));
        assert!(fit.rsh.is_none() && fit.tls.tls_ca.is_some());
        let by_ssh = fitting(AgentArguments { from: None, ..fit }, &around);
        assert!(by_ssh.tls.tls_ca.is_none());
    }

    #[test]
    fn local_compresses_only_when_told() {
        let resolved = resolve("--from local -d port=5433", &[]).unwrap();
        assert_eq!(resolved.options.reach.compression, Compression::None);
        let resolved = resolve("--from local -d port=5433 -Z lz4", &[]).unwrap();
        assert_eq!(resolved.options.reach.compression, Compression::Lz4);
    }

    #[test]
    fn the_agent_uses_the_port_of_the_standby() {
        for (line, own) in [
            ("-h db2", None),
            ("-h db2 -p 5433", Some("port=5433")),
            ("-h db2 -p 5433 --from local", Some("port=5433")),
            (
                "-h /run/x -p 5433 --from local",
                Some("host='/run/x' port=5433"),
            ),
            ("-h db2 -p 5433 --source-dbname user=me", Some("user=me")),
        ] {
            let source = match resolve(line, &[]).unwrap().options.reach.from {
                Agent::Local { source, .. } | Agent::Ssh { source, .. } => source,
                Agent::Exec { .. } | Agent::Tls { .. } => None,
            };
            assert_eq!(source.as_deref(), own, "{line}");
        }
    }

    #[test]
    fn a_data_directory_on_record_is_its_cluster_whichever_of_both_is_typed() {
        let options = |line: &str| {
            let words = shlex::split(&format!("pg_reseed rebuild -h db2 {line}")).unwrap();
            let resolved = resolve_words(words, &[]).unwrap();
            let options = &resolved.options;
            let what = (
                options.pgdata.clone(),
                options.config_file.clone(),
                options.bindir.clone(),
                options.starter.clone(),
            );
            (what, resolved.found_cluster.is_some())
        };
        let directory = "-D /var/lib/postgresql/15/main/";
        let (by_name, was_found) = options("--cluster 15/main");
        assert!(!was_found);
        assert!(matches!(&by_name.3, Some(Starter::Debian(name)) if name.to_string() == "15/main"));
        assert_eq!(options(directory), (by_name.clone(), true));
        assert_eq!(
            options(&format!("{directory} --cluster 15/main")),
            (by_name.clone(), false)
        );
        // What is said counts.
        let (said, _) = options(&format!("{directory} -B /opt/pg/bin --start-command x"));
        assert_eq!(said.1, by_name.1);
        assert_eq!(said.2, Some("/opt/pg/bin".into()));
        assert_eq!(said.3, Some(Starter::Command("x".to_owned())));
        let (elsewhere, was_found) = options(&format!("{directory} --config-file /etc/pg.conf"));
        assert_eq!((elsewhere.3, was_found), (None, false));
        let (copied, was_found) = options(&format!("{directory} --target-config-dir /etc/new"));
        assert_eq!((copied.3, was_found), (None, false));
    }

    #[test]
    fn quiet_is_silent_unless_progress_is_asked_for() {
        let resolved = resolve("-h db2 -q", &[]).unwrap();
        assert_eq!(resolved.progress, Style::None);
        assert_eq!((resolved.verbosity, resolved.shows_summary), (-1, false));
        let resolved = resolve("-h db2 -q -P json", &[]).unwrap();
        assert_eq!(resolved.progress, Style::Json);
        // As pg_basebackup's -P: show it.
        for (line, style) in [
            ("-P", Style::Auto),
            ("-q -P", Style::Auto),
            ("", Style::Auto),
        ] {
            let line = format!("-h db2 {line}");
            assert_eq!(resolve(&line, &[]).unwrap().progress, style, "{line}");
        }
    }

    #[test]
    fn a_copy_has_nothing_of_a_standby() {
        let options = |line: &str| {
            resolve(&format!("--role clone {line}"), &[])
                .unwrap()
                .options
        };
        // Who only names the agent has said enough.
        for line in [
            "--from ssh://db2",
            "--from local",
            "--from exec:x",
            "-h db2",
        ] {
            let options = options(line);
            assert_eq!(options.role, Role::Clone, "{line}");
        }
        let hooks = options("-h db2 --before-start 'SELECT 1' --before-start @mask.sql").hooks;
        assert_eq!(
            hooks.before_start,
            [
                Hook::Text("SELECT 1".to_owned()),
                Hook::File("/home/postgres/mask.sql".into())
            ]
        );
        assert!(!format!("{hooks:?}").contains("SELECT"));
        for (line, error) in [
            ("-S s", "\"--slot\" makes no sense"),
            ("-X none", "\"-X none\" makes no sense"),
            ("--application-name a", "makes no sense"),
            ("--restore-command a", "makes no sense"),
            ("--recovery-target-timeline 3", "makes no sense"),
            ("--raise-settings", "makes no sense"),
            ("--after-start x", "needs \"--start\""),
            ("--hook-user ''", "is empty"),
        ] {
            let line = format!("--role clone -h db2 {line}");
            let refused = resolve(&line, &[]).unwrap_err();
            assert!(refused.error.contains(error), "{line}: {}", refused.error);
        }
        for line in [
            "--before-start x",
            "--after-start x",
            "--hook-user x",
            "--keep-archive-mode",
        ] {
            let refused = resolve(&format!("-h db2 {line}"), &[]).unwrap_err();
            assert!(refused.error.ends_with("needs \"--role clone\""), "{line}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let refusals = [
            "-n",
            "-d 'host=db2 password=secret'",
            "-d port=5433",
            "-d port=5433 --from ssh://db2",
            "-h /tmp",
            "-h db1,db2",
            "-h db2 --from local --rsh ssh",
            "-h db2 --from 'exec:docker exec -i pg pg_reseed serve --stdio' --agent-path /opt/pg_reseed",
            "-h db2 --from 'exec:sudo -u postgres pg_reseed serve --stdio' --source-dbname port=5433",
            "-h db2 --from rsync://db2",
            "-h db2 -S Standby1",
            "-h db2 --waldir wal",
            "-h db2 --report data/report.json",
            "-h db2 --application-name ''",
            "-h db2 -T /a",
            "-h db2 --keep base",
            "-h db2 -X none",
        ]
        .map(refused)
        .concat();
        assert_snapshot!(refusals, @r#"
        -n
          error: no source specified
          hint: Say with -d, or with -h, -p and -U, how the standby will connect to the source.
        -d 'host=db2 password=secret'
          error: a password in the connection string is not accepted
          hint: It would stand in a configuration file. Put it into the password file of the user that the standby runs as: ~/.pgpass, or passfile=... in the connection string.
        -d port=5433
          error: the agent "ssh:" names no host, and neither does the connection string
          hint: Give the source's host with -h or in -d; or say with --from where the agent is.
        -d port=5433 --from ssh://db2
          error: the connection string for the standby names no host
          hint: The standby would connect to its own host. Give the source's host with -h or in -d.
        -h /tmp
          error: the host of the connection string, "/tmp", is a socket directory and no host to reach an agent on
          hint: If the source is on this host, add --from local.
        -h db1,db2
          error: the connection string names several hosts, so it is not known on which one the agent is
          hint: Say with --from ssh://HOST (or tls://HOST) on which of them the source is.
        -h db2 --from local --rsh ssh
          error: option "--rsh" has no effect with "local"
        -h db2 --from 'exec:docker exec -i pg pg_reseed serve --stdio' --agent-path /opt/pg_reseed
          error: option "--agent-path" has no effect with "exec:"
          hint: Write it into the command: pg_reseed serve has options of its own.
        -h db2 --from 'exec:sudo -u postgres pg_reseed serve --stdio' --source-dbname port=5433
          error: option "--source-dbname" has no effect with "exec:"
          hint: Write it into the command: pg_reseed serve has options of its own.
        -h db2 --from rsync://db2
          error: unrecognized agent "rsync://db2": use ssh://[USER@]HOST[:PORT], tls://HOST[:PORT], exec:COMMAND or local
        -h db2 -S Standby1
          error: invalid replication slot name "Standby1"
          hint: Slot names consist of at most 63 lower case letters, digits and underscores.
        -h db2 --waldir wal
          error: the WAL directory "wal" is not an absolute path
        -h db2 --report data/report.json
          error: the report "/home/postgres/data/report.json" would lie in the data directory
        -h db2 --application-name ''
          error: the value of "--application-name" is empty or contains control characters
        -h db2 -T /a
          error: invalid tablespace mapping format "/a", must be "OLDDIR=NEWDIR"
        -h db2 --keep base
          error: "base" cannot be kept: PostgreSQL's own files must follow the source
        -h db2 -X none
          error: with "-X none" nothing gives the standby the WAL of the backup
          hint: Give --slot, --restore-command or both.
        "#);
    }
}
