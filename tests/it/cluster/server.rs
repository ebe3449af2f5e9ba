//! A data directory with its own socket, log and, sometimes, server.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::DEADLINE;
use super::load::Session;
use super::scene::Folder;
use super::tools::{
    alive, bindir, children_of, clean, done, eventually, eventually_with, exists, for_this_major,
    pause, plain_lsns, said, tool,
};

const PORT: u16 = 5432;

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
    /// The place for a cluster, with no data directory yet.
    pub fn vacant(name: &str, home: PathBuf, folder: Arc<Folder>) -> Self {
        Self {
            name: name.to_owned(),
            pgdata: home.join("data"),
            home,
            child: None,
            port: PORT,
            options: Vec::new(),
            is_borrowed: false,
            _folder: folder,
        }
    }

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
    pub fn settle(&self) {
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

    /// Says whom it follows as a standby, and nothing else of how.
    pub fn follow(&self, primary: &Self) {
        // A client of a later major may have written what an earlier walreceiver does not understand.
        let conf = self.read("postgresql.auto.conf");
        let others = conf
            .lines()
            .filter(|line| !line.starts_with("primary_conninfo"))
            .map(|line| format!("{line}\n"))
            .collect::<String>();
        let own = format!("primary_conninfo = '{}'\n", primary.conninfo());
        self.write("postgresql.auto.conf", others + &own);
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
        Session::new(child)
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
        plain_lsns(&done(tool("pg_controldata").arg(&self.pgdata)))
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
