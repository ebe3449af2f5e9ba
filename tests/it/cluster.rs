//! Clusters, pairs of clusters, load, and the binary under test.
//!
//! A [`Scene`] is a temporary folder; a [`Cluster`] in it is a data directory with its own socket, stopped
//! when it is dropped, also by a panic. A [`Pair`] is a primary and its standby, with the drama of a
//! failover as methods. [`Rebuild`] runs the binary and returns all that it said.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that is not the work itself.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How long a rebuild may take in these tests.
const REBUILD_DEADLINE: Duration = Duration::from_secs(300);
const PORT: u16 = 5432;

// ------------------------------------------------------------------------------------------- tools

/// Where the PostgreSQL programs are.
pub fn bindir() -> PathBuf {
    std::env::var_os("PG_RESEED_TEST_BINDIR").map_or_else(
        || PathBuf::from("/usr/lib/postgresql/15/bin"),
        PathBuf::from,
    )
}

/// The major version of the programs there.
pub fn major() -> u32 {
    static MAJOR: OnceLock<u32> = OnceLock::new();
    *MAJOR.get_or_init(|| {
        let said = done(tool("postgres").arg("--version"));
        let version = said.split_whitespace().nth(2).unwrap();
        version.split('.').next().unwrap().parse().unwrap()
    })
}

/// What 15 says otherwise than the majors before it; the other way round, messages are made those of 15.
const SINCE_15: [(&str, &str); 2] = [
    (
        "pg_backup_start(text, boolean)",
        "pg_start_backup(text, boolean, boolean)",
    ),
    (
        "pg_backup_stop(boolean)",
        "pg_stop_backup(boolean, boolean)",
    ),
];

/// A script as this major understands it.
fn for_this_major(sql: &str) -> String {
    if major() >= 15 {
        return sql.to_owned();
    }
    // There is one strategy only.
    let mut sql = sql
        .replace(" STRATEGY file_copy", "")
        .replace(" STRATEGY wal_log", "");
    for (new, old) in SINCE_15 {
        sql = sql.replace(new, old);
    }
    sql
}

/// A message of the program as it would be with 15.
pub fn as_of_15(message: &str) -> String {
    let mut message = message
        .replace(&format!("PostgreSQL {}", major()), "PostgreSQL 15")
        .replace(&format!("PG_{}_", major()), "PG_15_");
    for (new, old) in SINCE_15 {
        message = message.replace(old, new);
    }
    message
        // From 16 on.
        .replace(
            "permission denied to start WAL sender",
            "must be superuser or replication role to start walsender",
        )
        // Up to 13.
        .replace("\"postgres\", SSL off", "\"postgres\", no encryption")
}

/// The binary under test: the one just built, or any other by `PG_RESEED_TEST_BINARY`.
pub fn binary() -> PathBuf {
    std::env::var_os("PG_RESEED_TEST_BINARY").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_pg_reseed")),
        PathBuf::from,
    )
}

/// A PostgreSQL program with an environment that no user's settings reach.
pub fn tool(name: &str) -> Command {
    clean(Command::new(bindir().join(name)))
}

/// Removes what could change the meaning of a test from the environment of `command`.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    command
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .stdin(Stdio::null());
    command
}

/// Runs `command` to its end; panics with all it said when it fails.
pub fn done(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        said(&output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Waits until `condition` gives a value; panics with `what` when it does not come in time.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            begin.elapsed() < deadline,
            "waited {deadline:?} in vain: {what}"
        );
        pause(Duration::from_millis(10));
    }
}

/// The one sleep of these tests: between two looks at a condition, and before a kill at a random moment.
#[allow(
    clippy::disallowed_methods,
    reason = "polling needs it, and no runtime is near"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Small deterministic random numbers (SplitMix64); the seed of a failed run is in its output.
pub struct Dice(u64);

impl Dice {
    /// Seeded by `PG_RESEED_TEST_SEED` or the clock.
    pub fn new(test: &str) -> Self {
        let seed = std::env::var("PG_RESEED_TEST_SEED").map_or_else(
            |_| {
                let now = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap();
                u64::try_from(now.as_nanos() & u128::from(u32::MAX)).unwrap()
            },
            |seed| seed.parse().unwrap(),
        );
        eprintln!("{test}: PG_RESEED_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }
}

// ------------------------------------------------------------------------------------------- scene

/// A temporary folder for the clusters of one test. Socket paths are short, so it is near the root.
pub struct Scene {
    folder: Arc<Folder>,
    template: Arc<Folder>,
}

struct Folder(Option<TempDir>);

impl Folder {
    fn new() -> Self {
        Self(Some(
            tempfile::Builder::new()
                .prefix("rs")
                .rand_bytes(5)
                .tempdir()
                .unwrap(),
        ))
    }

    fn path(&self) -> &Path {
        self.0.as_ref().unwrap().path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::env::var_os("PG_RESEED_TEST_KEEP").is_some() {
            let path = self.0.take().unwrap().keep();
            eprintln!("kept: {}", path.display());
        }
    }
}

impl Scene {
    pub fn new() -> Self {
        assert!(
            !rustix::process::geteuid().is_root(),
            "PostgreSQL refuses to run as root: use `make test`, whose runner gives root up"
        );
        Self {
            folder: Arc::new(Folder::new()),
            template: template(),
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A new folder in the scene.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// A cluster, ready to start: a copy of the template, so of the same lineage as its siblings.
    pub fn cluster(&self, name: &str) -> Cluster {
        let cluster = self.vacant(name);
        done(
            Command::new("cp")
                .arg("-a")
                .arg(self.template.path().join("data"))
                .arg(cluster.pgdata()),
        );
        cluster.settle();
        cluster
    }

    /// A cluster of an initdb of its own: another system identifier.
    pub fn foreign_cluster(&self, name: &str, initdb_options: &[&str]) -> Cluster {
        let cluster = self.vacant(name);
        initdb(cluster.pgdata(), initdb_options);
        cluster.settle();
        cluster
    }

    /// The place for a cluster: a socket folder, a log, and no data directory yet.
    pub fn vacant(&self, name: &str) -> Cluster {
        let home = self.folder(name);
        Cluster {
            name: name.to_owned(),
            pgdata: home.join("data"),
            home,
            child: None,
            port: PORT,
            options: Vec::new(),
            is_borrowed: false,
            _folder: Arc::clone(&self.folder),
        }
    }

    /// A copy of a stopped cluster's data directory: a twin on the same timeline.
    pub fn copy(&self, name: &str, original: &Cluster) -> Cluster {
        assert!(original.postmaster().is_none(), "the original runs");
        let cluster = self.vacant(name);
        done(
            Command::new("cp")
                .arg("-a")
                .arg(original.pgdata())
                .arg(cluster.pgdata()),
        );
        cluster.settle();
        cluster
    }

    /// A running standby of `primary`, made by `pg_basebackup`; `options` for more of its options.
    pub fn standby(&self, name: &str, primary: &Cluster, options: &[&str]) -> Cluster {
        let mut standby = self.vacant(name);
        primary.basebackup(
            standby.pgdata(),
            &[&["--write-recovery-conf"], options].concat(),
        );
        // The client may be of a later major, and writes what an earlier walreceiver does not understand.
        let conf = standby.read("postgresql.auto.conf");
        let others = conf
            .lines()
            .filter(|line| !line.starts_with("primary_conninfo"))
            .map(|line| format!("{line}\n"))
            .collect::<String>();
        let own = format!("primary_conninfo = '{}'\n", primary.conninfo());
        standby.write("postgresql.auto.conf", others + &own);
        standby.settle();
        standby.start();
        standby
    }
}

/// The data directory that clusters are copied from: one initdb as long as any test holds it.
fn template() -> Arc<Folder> {
    static TEMPLATE: Mutex<Weak<Folder>> = Mutex::new(Weak::new());
    let mut slot = TEMPLATE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(folder) = slot.upgrade() {
        return folder;
    }
    let folder = Arc::new(Folder::new());
    initdb(&folder.path().join("data"), &["--data-checksums"]);
    *slot = Arc::downgrade(&folder);
    folder
}

fn initdb(pgdata: &Path, options: &[&str]) {
    done(
        tool("initdb")
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ])
            .args(options)
            .arg(pgdata),
    );
}

// ----------------------------------------------------------------------------------------- cluster

/// A data directory with its own socket, log and, sometimes, server.
pub struct Cluster {
    name: String,
    home: PathBuf,
    pgdata: PathBuf,
    child: Option<Child>,
    port: u16,
    options: Vec<String>,
    /// The data directory is another cluster's, which also stops the server.
    is_borrowed: bool,
    _folder: Arc<Folder>,
}

/// How to stop a server, by PostgreSQL's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Fast,
    Immediate,
    /// SIGKILL to the postmaster, as by an accident.
    Kill,
}

impl Cluster {
    pub fn pgdata(&self) -> &Path {
        &self.pgdata
    }

    /// Says that the data directory is elsewhere (it belongs to another cluster, or is none).
    pub fn place(&mut self, pgdata: &Path) {
        assert!(self.child.is_none(), "its server runs");
        pgdata.clone_into(&mut self.pgdata);
        self.is_borrowed = true;
    }

    /// Whether the process in postmaster.pid runs.
    pub fn is_server_alive(&self) -> bool {
        self.postmaster().is_some_and(alive)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of the cluster: data directory, log and socket.
    pub fn home(&self) -> &Path {
        &self.home
    }

    pub fn log_path(&self) -> PathBuf {
        self.home.join("log")
    }

    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// The text of a file of the data directory.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.pgdata.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::write(self.pgdata.join(path), content)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    pub fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.pgdata.join(path)).is_ok()
    }

    /// Writes the settings that every test server has: the socket, no waiting for disks, no surprises.
    fn settle(&self) {
        self.configure(&format!(
            "listen_addresses = ''\n\
             unix_socket_directories = '{home}'\n\
             port = {PORT}\n\
             fsync = off\n\
             autovacuum = off\n\
             # Tests stop a standby that has no slot for as long as they compare files.\n\
             wal_keep_size = 1GB\n\
             shared_buffers = 32MB\n\
             max_connections = 40\n\
             max_prepared_transactions = 20\n\
             max_wal_senders = 10\n\
             checkpoint_timeout = 1h\n\
             wal_retrieve_retry_interval = 200ms\n\
             wal_receiver_status_interval = 1s\n\
             log_line_prefix = '%m [%p] '\n\
             log_min_messages = log\n\
             log_checkpoints = off\n\
             cluster_name = '{name}'\n",
            home = self.home.display(),
            name = self.name,
        ));
    }

    /// Appends lines to the cluster's postgresql.conf.
    pub fn configure(&self, lines: &str) {
        let path = self.pgdata.join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(format!("{lines}\n").as_bytes()).unwrap();
    }

    /// Says that the server has another port.
    pub fn on_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Options of `postgres` for later starts.
    pub fn with_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
    }

    /// Starts the server and waits until it lets sessions in.
    pub fn start(&mut self) {
        if let Err(log) = self.try_start() {
            panic!("cluster \"{}\" did not start:\n{log}", self.name);
        }
    }

    /// Starts the server; when it ends instead of letting sessions in, what it logged.
    pub fn try_start(&mut self) -> Result<(), String> {
        assert_eq!(
            self.postmaster(),
            None,
            "cluster \"{}\" is running",
            self.name
        );
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let before = log.metadata().unwrap().len();
        let words = |log: String| {
            log.get(usize::try_from(before).unwrap()..)
                .unwrap_or_default()
                .to_owned()
        };
        let mut server = clean(Command::new("setpriv"));
        // The server ends with the test, even when the test has no chance to say so.
        server
            .args(["--pdeathsig", "INT"])
            .arg(bindir().join("postgres"))
            .arg("-D")
            .arg(&self.pgdata);
        server
            .args(&self.options)
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = server.spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        self.child = Some(child);
        let ended = eventually("the server accepts sessions or ends", DEADLINE, || {
            if self.reaped() {
                return Some(true);
            }
            let lines = fs::read_to_string(self.pgdata.join("postmaster.pid")).unwrap_or_default();
            let lines = lines.lines().collect::<Vec<_>>();
            let mine = lines
                .first()
                .is_some_and(|line| line.trim() == pid.to_string());
            let status = lines.get(7).map_or("", |line| line.trim());
            (mine && status == "ready").then_some(false)
        });
        if ended {
            Err(words(self.log()))
        } else {
            Ok(())
        }
    }

    /// Whether a child that was started here has ended (and is now reaped).
    fn reaped(&mut self) -> bool {
        match &mut self.child {
            Some(child) => {
                let ended = child.try_wait().unwrap().is_some();
                if ended {
                    self.child = None;
                }
                ended
            }
            None => true,
        }
    }

    /// The process of a running server of this data directory, whoever started it.
    pub fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.pgdata.join("postmaster.pid")).ok()?;
        let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?)?;
        // A postmaster works in its data directory; a stale file's number may be anybody's.
        let cwd = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())).ok()?;
        (cwd == fs::canonicalize(&self.pgdata).ok()?).then_some(pid)
    }

    /// Stops the server and waits until it and its backends are gone.
    pub fn stop(&mut self, how: Stop) {
        let pid = self
            .postmaster()
            .unwrap_or_else(|| panic!("cluster \"{}\" is not running", self.name));
        // A killed postmaster's children have another parent at once.
        let children = children_of(pid);
        Self::signal(pid, how);
        self.wait_gone(pid, &children, DEADLINE);
    }

    fn signal(pid: Pid, how: Stop) {
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
            Stop::Kill => Signal::KILL,
        };
        // An error means that it is gone already.
        let _ = kill_process(pid, signal);
    }

    fn wait_gone(&mut self, pid: Pid, children: &[Pid], deadline: Duration) {
        eventually(
            &format!("server of \"{}\" is gone", self.name),
            deadline,
            || {
                self.reaped();
                (!exists(pid) && !children.iter().any(|child| alive(*child))).then_some(())
            },
        );
    }

    pub fn restart(&mut self) {
        self.stop(Stop::Fast);
        self.start();
    }

    /// How another process reaches this server.
    pub fn conninfo(&self) -> String {
        format!(
            "host={} port={} user=postgres",
            self.home.display(),
            self.port
        )
    }

    /// A program of PostgreSQL's that talks to this server.
    pub fn client(&self, name: &str) -> Command {
        let mut command = tool(name);
        command
            .env("PGHOST", &self.home)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    fn psql(&self, database: &str) -> Command {
        let mut command = self.client("psql");
        // A statement that hangs fails its test, with its text, instead of hanging it.
        command.env("PGOPTIONS", "-c statement_timeout=60s");
        command.args([
            "--no-psqlrc",
            "-Atq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            database,
        ]);
        command
    }

    /// The result of `sql` in the database "postgres", columns by `|`, without the last line end.
    pub fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql)
    }

    pub fn sql_in(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql)
            .unwrap_or_else(|error| panic!("\"{}\": {sql}\n{error}", self.name))
    }

    /// Runs `sql` as a script (each statement its own transaction, `\gexec` and the like possible).
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut child = self
            .psql(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let sql = for_this_major(sql);
        let writer = std::thread::spawn(move || input.write_all(sql.as_bytes()));
        let output = child.wait_with_output().unwrap();
        // psql that stops at an error leaves the rest of its input unread.
        let _ = writer.join().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout)
                .unwrap()
                .trim_end_matches('\n')
                .to_owned())
        } else {
            Err(said(&output))
        }
    }

    /// Starts `sql` in a session of its own and does not wait for it.
    pub fn sql_later(&self, sql: &str) -> Session {
        let child = self
            .psql("postgres")
            .args(["-c", sql])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Session { child: Some(child) }
    }

    /// Waits until `sql` answers `wanted`.
    pub fn wait_sql(&self, sql: &str, wanted: &str) {
        let mut last = String::new();
        eventually_with(DEADLINE, || {
            last = self.try_sql("postgres", sql).unwrap_or_else(|error| error);
            if last == wanted {
                Ok(())
            } else {
                Err(format!(
                    "{sql}\nwanted {wanted}, last was {last}\n{}",
                    self.log_tail()
                ))
            }
        });
    }

    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines = log.lines().collect::<Vec<_>>();
        let tail = lines[lines.len().saturating_sub(25)..].join("\n");
        format!("---- log of \"{}\" ends:\n{tail}", self.name)
    }

    pub fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote()"), "t");
        // The end-of-recovery checkpoint puts the new timeline into pg_control.
        self.sql("CHECKPOINT");
    }

    pub fn timeline(&self) -> u32 {
        self.sql("SELECT timeline_id FROM pg_control_checkpoint()")
            .parse()
            .unwrap()
    }

    /// `pg_controldata`, by name of the field.
    pub fn control(&self) -> BTreeMap<String, String> {
        done(tool("pg_controldata").arg(&self.pgdata))
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect()
    }

    /// Copies the running cluster to `pgdata` with `pg_basebackup`.
    pub fn basebackup(&self, pgdata: &Path, options: &[&str]) {
        done(
            self.client("pg_basebackup")
                .args(["--checkpoint=fast", "--no-sync", "--wal-method=stream"])
                .args(options)
                .arg("-D")
                .arg(pgdata),
        );
    }

    /// The oid and place of every tablespace that is not built in.
    pub fn tablespaces(&self) -> Vec<(u32, PathBuf)> {
        self.sql("SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 10000 ORDER BY oid")
            .lines()
            .map(|line| {
                let (oid, location) = line.split_once('|').unwrap();
                (oid.parse().unwrap(), PathBuf::from(location))
            })
            .collect()
    }

    /// Waits until `standby` streams from this server and has replayed all that this server has.
    pub fn wait_caught_up(&self, standby: &Cluster) {
        self.wait_sql(
            &format!(
                "SELECT state FROM pg_stat_replication WHERE application_name = '{}'",
                standby.name
            ),
            "streaming",
        );
        let lsn = if self.sql("SELECT pg_is_in_recovery()") == "t" {
            self.sql("SELECT pg_last_wal_replay_lsn()")
        } else {
            self.sql("SELECT pg_current_wal_flush_lsn()")
        };
        standby.wait_sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if self.is_borrowed {
            return;
        }
        // The child too: a server that fails to start has no postmaster.pid.
        let child = self
            .child
            .as_ref()
            .and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        for pid in [self.postmaster(), child].into_iter().flatten() {
            Self::signal(pid, Stop::Immediate);
            let begin = Instant::now();
            while !self.reaped() || alive(pid) {
                if begin.elapsed() > Duration::from_secs(10) {
                    Self::signal(pid, Stop::Kill);
                }
                if begin.elapsed() > Duration::from_secs(20) {
                    eprintln!("process {pid:?} of \"{}\" does not end", self.name);
                    break;
                }
                pause(Duration::from_millis(5));
            }
        }
    }
}

/// As [`eventually`], for conditions that can say why they do not hold yet.
pub fn eventually_with<T>(
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let begin = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(why) => assert!(
                begin.elapsed() < deadline,
                "waited {deadline:?} in vain: {why}"
            ),
        }
        pause(Duration::from_millis(20));
    }
}

/// Whether there is a process of this number, if only one that waits to be reaped: it would still count as
/// the owner of a lock file.
fn exists(pid: Pid) -> bool {
    Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()
}

/// Whether the process runs (a zombie that nobody has reaped yet does not).
pub fn alive(pid: Pid) -> bool {
    let stat =
        fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The state is the first field after the name in brackets.
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X')))
}

/// The direct children of a process.
pub fn children_of(pid: Pid) -> Vec<Pid> {
    let parent = pid.as_raw_nonzero().get();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let its_parent = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
            its_parent == Some(parent)
        })
        .filter_map(Pid::from_raw)
        .collect()
}

/// A session that runs beside the test.
pub struct Session {
    child: Option<Child>,
}

impl Session {
    pub fn running(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<String, String> {
        eventually("the session ends", DEADLINE, || {
            (!self.running()).then_some(())
        });
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned())
        } else {
            Err(said(&output))
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

// -------------------------------------------------------------------------------------------- load

/// `pgbench` running against a server until it is stopped.
pub struct Load {
    child: Option<Child>,
    name: &'static str,
    log: PathBuf,
}

impl Load {
    /// Starts two sessions of the standard transaction; the tables must be there.
    pub fn start(cluster: &Cluster, seed: u64) -> Self {
        let before = Self::transactions(cluster);
        let load = Self::spawn(cluster, seed, "load", &["--client=2"]);
        eventually("pgbench has begun", DEADLINE, || {
            (Self::transactions(cluster) > before).then_some(())
        });
        load
    }

    /// Starts a session that repeats `script`, a statement a line.
    pub fn script(cluster: &Cluster, seed: u64, script: &str) -> Self {
        let file = cluster.home().join("load.sql");
        fs::write(&file, for_this_major(script)).unwrap();
        Self::spawn(
            cluster,
            seed,
            "script",
            &["--client=1", "--file", file.to_str().unwrap()],
        )
    }

    fn spawn(cluster: &Cluster, seed: u64, name: &'static str, options: &[&str]) -> Self {
        let log = cluster.home().join(format!("{name}.log"));
        let child = cluster
            .client("pgbench")
            .env("PGAPPNAME", name)
            .args(["--no-vacuum", "--time=3600"])
            .args(options)
            .arg(format!("--random-seed={}", seed & u64::from(u32::MAX)))
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            child: Some(child),
            name,
            log,
        }
    }

    fn transactions(cluster: &Cluster) -> u64 {
        cluster
            .sql("SELECT count(*) FROM pgbench_history")
            .parse()
            .unwrap()
    }

    /// Lets pgbench run for so many transactions.
    pub fn run_for(cluster: &Cluster, transactions: u64, seed: u64) {
        done(
            cluster
                .client("pgbench")
                .args(["--no-vacuum", "--client=1"])
                .arg(format!("--transactions={transactions}"))
                .arg(format!("--random-seed={}", seed & u64::from(u32::MAX))),
        );
    }

    /// Fills the standard tables.
    pub fn init(cluster: &Cluster, scale: u32) {
        done(
            cluster
                .client("pgbench")
                .args(["--initialize", "--quiet", "--init-steps=dtgp"])
                .arg(format!("--scale={scale}")),
        );
    }

    /// Ends the load; it must have been running until now.
    pub fn stop(mut self, cluster: &Cluster) {
        let mut child = self.child.take().unwrap();
        assert!(
            child.try_wait().unwrap().is_none(),
            "pgbench ended by itself: {}",
            fs::read_to_string(&self.log).unwrap()
        );
        child.kill().unwrap();
        child.wait().unwrap();
        // Its sessions end with their statement.
        let name = self.name;
        cluster.wait_sql(
            &format!("SELECT min(query) FROM pg_stat_activity WHERE application_name = '{name}'"),
            "",
        );
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

// -------------------------------------------------------------------------------------------- pair

/// An old primary and the standby that becomes the new one.
pub struct Pair {
    pub old: Cluster,
    pub new: Cluster,
}

impl Pair {
    /// A primary "old" and its streaming standby "new"; `prepare` fills the primary before the copy.
    pub fn streaming(scene: &Scene, prepare: impl FnOnce(&mut Cluster)) -> Self {
        Self::streaming_with(scene, &[], prepare)
    }

    /// As [`Pair::streaming`], with options for `pg_basebackup`.
    pub fn streaming_with(
        scene: &Scene,
        options: &[&str],
        prepare: impl FnOnce(&mut Cluster),
    ) -> Self {
        let mut old = scene.cluster("old");
        old.start();
        prepare(&mut old);
        let new = scene.standby("new", &old, options);
        old.wait_caught_up(&new);
        Self { old, new }
    }

    /// The small diverged pair: a table on both sides, rows that only one side has, "old" stopped cleanly.
    pub fn diverged(scene: &Scene) -> Self {
        let mut pair = Self::streaming(scene, |old| {
            old.sql("CREATE TABLE t AS SELECT i, repeat('x', 100) AS f FROM generate_series(1, 5000) AS i");
        });
        pair.fail_over();
        pair.old.sql("INSERT INTO t SELECT i, 'lost' FROM generate_series(5001, 5300) AS i; CREATE TABLE only_old (i int)");
        pair.new
            .sql("UPDATE t SET f = 'kept' WHERE i % 7 = 0; CREATE TABLE only_new AS SELECT 1 AS i");
        pair.old.stop(Stop::Fast);
        pair
    }

    /// Promotes "new" while "old" goes on as if nothing had happened.
    pub fn fail_over(&self) {
        self.new.promote();
    }

    /// A rebuild of "old" from "new".
    pub fn rebuild(&self) -> Rebuild {
        Rebuild::new(&self.old, &self.new)
    }

    /// Checks that "old" follows "new" and that both hold the same.
    pub fn check_equal(&self) {
        self.new.wait_caught_up(&self.old);
        crate::oracle::assert_same_data(&self.new, &self.old);
    }
}

// ----------------------------------------------------------------------------------------- rebuild

/// A command line of `pg_reseed rebuild`.
pub struct Rebuild {
    command: Command,
    folder: PathBuf,
    report: PathBuf,
}

/// What a finished command said.
#[derive(Debug)]
pub struct Said {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub report: Option<Value>,
}

impl Rebuild {
    /// `rebuild` of `target` from the running `source`, with an agent on this host.
    pub fn new(target: &Cluster, source: &Cluster) -> Self {
        let mut rebuild = Self::bare(target, source);
        rebuild
            .command
            .args(["--from", "local", "--source-dbname"])
            .arg(format!("{} dbname=postgres", source.conninfo()));
        rebuild
    }

    /// `rebuild` without `--from`.
    pub fn bare(target: &Cluster, source: &Cluster) -> Self {
        Self::with_conninfo(target, &source.conninfo())
    }

    /// `rebuild` without `--from`, for a standby that shall connect with `conninfo`.
    pub fn with_conninfo(target: &Cluster, conninfo: &str) -> Self {
        Self::without_name(target, conninfo).args(["--application-name", target.name()])
    }

    /// `rebuild` without `--from` and without `--application-name`.
    pub fn without_name(target: &Cluster, conninfo: &str) -> Self {
        let mut command = clean(Command::new(binary()));
        let report = target.home().join("report.json");
        let _ = fs::remove_file(&report);
        command
            .arg("rebuild")
            .arg("-D")
            .arg(target.pgdata())
            .args(["-d", conninfo])
            .arg("--bindir")
            .arg(bindir())
            .arg("--log-file")
            .arg(target.log_path())
            .args(["--no-sync", "--report"])
            .arg(&report);
        Self {
            command,
            folder: target.home().to_owned(),
            report,
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives it a process group of its own, with all that it starts.
    pub fn in_own_group(mut self) -> Self {
        std::os::unix::process::CommandExt::process_group(&mut self.command, 0);
        self
    }

    /// Runs it to its end, whatever that is.
    pub fn run(self) -> Said {
        self.spawn().wait()
    }

    /// Runs it; it must succeed.
    pub fn succeed(self) -> Said {
        let said = self.run();
        assert_eq!(said.code(), 0, "{said}");
        said
    }

    /// Runs it; it must end with this status.
    pub fn fail(self, code: i32) -> Said {
        let said = self.run();
        assert_eq!(said.code(), code, "{said}");
        said
    }

    /// Starts it. Output goes to files, so that nothing it starts can hold a pipe open.
    pub fn spawn(mut self) -> Running {
        let number = fs::read_dir(&self.folder).unwrap().count();
        let stdout = self.folder.join(format!("stdout.{number}"));
        let stderr = self.folder.join(format!("stderr.{number}"));
        let child = self
            .command
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        Running {
            child: Some(child),
            stdout,
            stderr,
            report: self.report,
        }
    }
}

/// A rebuild that is under way.
pub struct Running {
    child: Option<Child>,
    stdout: PathBuf,
    stderr: PathBuf,
    report: PathBuf,
}

impl Running {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.as_ref().unwrap().id()).unwrap()).unwrap()
    }

    pub fn ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Waits for a moment of the run; panics when the run ends before it.
    pub fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(
                !self.ended() || condition(self),
                "the rebuild ended before this moment: {what}\n{}",
                self.stderr()
            );
            assert!(
                begin.elapsed() < DEADLINE,
                "waited {DEADLINE:?} in vain: {what}\n{}",
                self.stderr()
            );
            pause(Duration::from_millis(1));
        }
    }

    /// Waits until the point of no return is behind it.
    pub fn wait_closed(&mut self, target: &Cluster) {
        self.wait_for("the target is closed", |_| target.exists("pg_reseed.state"));
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        let mut text = Vec::new();
        File::open(&self.stderr)
            .unwrap()
            .read_to_end(&mut text)
            .unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The events (`--progress json`) so far.
    pub fn events(&self) -> Vec<Value> {
        BufReader::new(File::open(&self.stderr).unwrap())
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str(&line).ok())
            .collect()
    }

    pub fn kill(&self) {
        let _ = kill_process(self.pid(), Signal::KILL);
    }

    pub fn wait(mut self) -> Said {
        eventually_with(REBUILD_DEADLINE, || {
            if self.ended() {
                Ok(())
            } else {
                Err(format!(
                    "the rebuild has not ended; standard error:\n{}",
                    self.stderr()
                ))
            }
        });
        let status = self.child.take().unwrap().wait().unwrap();
        let report = fs::read_to_string(&self.report).ok();
        Said {
            status,
            stdout: fs::read_to_string(&self.stdout).unwrap(),
            stderr: self.stderr(),
            report: report.map(|text| {
                serde_json::from_str(&text)
                    .unwrap_or_else(|error| panic!("{error} in the report:\n{text}"))
            }),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Said {
    /// The exit status; a death by signal is no status, and fails the test.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("{self}"))
    }

    pub fn report(&self) -> &Value {
        self.report
            .as_ref()
            .unwrap_or_else(|| panic!("no report was written\n{self}"))
    }

    /// A number of the report.
    pub fn number(&self, name: &str) -> u64 {
        self.report()[name]
            .as_u64()
            .unwrap_or_else(|| panic!("the report has no number \"{name}\": {}", self.report()))
    }

    pub fn word(&self, name: &str) -> &str {
        self.report()[name]
            .as_str()
            .unwrap_or_else(|| panic!("the report has no word \"{name}\": {}", self.report()))
    }

    /// The lines for people on standard error: error, detail, hint, warning.
    pub fn messages(&self) -> String {
        let mut messages = String::new();
        for line in self
            .stderr
            .lines()
            .filter(|line| line.starts_with("pg_reseed: "))
        {
            let _ = writeln!(messages, "{line}");
        }
        messages
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\n---- stdout\n{}\n---- stderr\n{}",
            self.status, self.stdout, self.stderr
        )
    }
}
