//! Data directories with their tablespaces, and the servers in them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::cgroup::Side;
use crate::host;
use crate::process::{Runner, done, eventually, give};

/// How many tablespaces a cluster has besides its own directory.
pub const SPACES: usize = 2;

/// How long a server may take to start, stop or catch up.
const DEADLINE_SECONDS: u64 = 300;

/// What every server has in its configuration file; what differs is given on its command line.
const SETTINGS: &str = "
# The shapes say what differs, to the block: nothing else may write.
autovacuum = off
checkpoint_timeout = 1d
# Every peer at its best: pg_rewind needs the target's WAL since the divergence, a standby the source's.
wal_keep_size = 64GB
max_wal_size = 4GB
min_wal_size = 32MB
shared_buffers = 256MB
max_wal_senders = 20
max_connections = 60
max_locks_per_transaction = 256
wal_retrieve_retry_interval = 200ms
log_checkpoints = off
";

/// A place for a data directory and its tablespaces; what is there at a time is another question.
#[derive(Debug, Clone)]
pub struct Site {
    folder: PathBuf,
}

impl Site {
    pub fn create(folder: PathBuf) -> Result<Self> {
        fs::create_dir(&folder)?;
        give(&folder)?;
        Ok(Self { folder })
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The tablespaces' directories, in the order in which they were created.
    pub fn spaces(&self) -> Vec<PathBuf> {
        (1..=SPACES)
            .map(|number| self.folder.join(format!("space{number}")))
            .collect()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes everything in the place.
    pub fn clear(&self) -> Result<()> {
        for path in [vec![self.data()], self.spaces()].concat() {
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }

    /// Makes the place hold the same as `other`, file times included, with its own tablespaces.
    pub fn put_back(&self, other: &Self) -> Result<()> {
        self.clear()?;
        let mut copy = Command::new("cp");
        copy.args(["-a", "--reflink=auto"]);
        for path in [vec![other.data()], other.spaces()].concat() {
            if path.exists() {
                copy.arg(path);
            }
        }
        done(copy.arg(&self.folder))?;
        self.own_links()
    }

    /// Points the links in pg_tblspc into this place.
    fn own_links(&self) -> Result<()> {
        for entry in fs::read_dir(self.data().join("pg_tblspc"))? {
            let link = entry?.path();
            let space = fs::read_link(&link)?;
            let name = space.file_name().ok_or("a tablespace without a name")?;
            fs::remove_file(&link)?;
            symlink(self.folder.join(name), &link)?;
            give(&link)?;
        }
        Ok(())
    }

    /// OID, name and directory of each tablespace, as the links in pg_tblspc say.
    pub fn space_oids(&self) -> Result<Vec<(String, String, PathBuf)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.data().join("pg_tblspc"))? {
            let entry = entry?;
            let directory = fs::read_link(entry.path())?;
            let name = directory.file_name().unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            let oid = entry.file_name().to_string_lossy().into_owned();
            all.push((oid, name, directory));
        }
        all.sort();
        Ok(all)
    }
}

/// Makes a new cluster in `site`.
pub fn initdb(site: &Site, runner: &Runner) -> Result<()> {
    let mut initdb = runner.postgres_tool("initdb");
    initdb.args(["--no-sync", "--data-checksums", "--auth=trust"]);
    initdb.args(["--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"]);
    done(initdb.arg("-D").arg(site.data()))?;
    for space in site.spaces() {
        fs::create_dir(&space)?;
        give(&space)?;
    }
    let path = site.data().join("postgresql.conf");
    let mut file = File::options().append(true).open(path)?;
    file.write_all(SETTINGS.as_bytes())?;
    Ok(())
}

/// A running server, stopped when it is dropped.
pub struct Server<'a> {
    pub site: Site,
    pub port: u16,
    runner: &'a Runner,
    child: Child,
}

impl<'a> Server<'a> {
    /// Starts a server and waits until it lets sessions in. It counts for `side`; `settings` are of the
    /// form name=value and stand only on its command line.
    pub fn start(
        site: &Site,
        side: Option<Side>,
        settings: &[&str],
        runner: &'a Runner,
    ) -> Result<Self> {
        let port = host::free_port()?;
        let log_path = site.folder().join("log");
        let log = File::options().create(true).append(true).open(&log_path)?;
        let mut command = runner.command(side, "setpriv");
        // The server ends with the benchmark, even when that has no chance to say so.
        command.args(["--pdeathsig", "INT"]);
        command.arg(host::bindir().join("postgres"));
        command.arg("-D").arg(site.data());
        command.args(["-c", "listen_addresses=127.0.0.1", "-c"]);
        command.arg(format!(
            "unix_socket_directories={}",
            site.folder().display()
        ));
        command.args(["-c", &format!("port={port}")]);
        for setting in settings {
            command.args(["-c", setting]);
        }
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn()?;
        let mut server = Self {
            site: site.clone(),
            port,
            runner,
            child,
        };
        server.await_ready().map_err(|error| {
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            let mut last: Vec<_> = log.lines().rev().take(5).collect();
            last.reverse();
            format!("{error}: {}", last.join(" | "))
        })?;
        Ok(server)
    }

    fn await_ready(&mut self) -> Result<()> {
        let pid_file = self.site.data().join("postmaster.pid");
        let pid = self.child.id().to_string();
        eventually("the server accepts sessions", DEADLINE_SECONDS, || {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the server ended: {status}").into());
            }
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            let lines: Vec<_> = text.lines().map(str::trim).collect();
            let is_ready = lines.first() == Some(&pid.as_str()) && lines.get(7) == Some(&"ready");
            Ok(is_ready.then_some(()))
        })
    }

    /// Answers of the server, without headers and alignment.
    pub fn ask(&self, database: &str, statement: &str) -> Result<String> {
        let mut psql = self.psql(database);
        Ok(done(psql.args(["-c", statement]))?.trim().to_owned())
    }

    /// Changes a setting of the running server; without a value it becomes what the configuration file says.
    pub fn set(&self, name: &str, value: Option<&str>) -> Result<()> {
        let statement = match value {
            Some(value) => format!("ALTER SYSTEM SET {name} = '{value}'"),
            None => format!("ALTER SYSTEM RESET {name}"),
        };
        self.ask("postgres", &statement)?;
        self.ask("postgres", "SELECT pg_reload_conf()")?;
        Ok(())
    }

    /// Runs a script whose text `write` writes, which may be long.
    pub fn run_script(
        &self,
        database: &str,
        write: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>,
    ) -> Result<()> {
        let mut psql = self.psql(database);
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let written = child.stdin.take().map(|stdin| {
            let mut stdin = std::io::BufWriter::with_capacity(1 << 18, stdin);
            write(&mut stdin)?;
            stdin.flush()
        });
        let status = child.wait()?;
        if !status.success() {
            return Err(format!("psql: {status}").into());
        }
        written.unwrap_or(Ok(()))?;
        Ok(())
    }

    fn psql(&self, database: &str) -> Command {
        let mut psql = self.runner.postgres_tool("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres"]);
        psql.arg("-h").arg(self.site.folder());
        psql.args(["-p", &self.port.to_string(), "-d", database]);
        psql
    }

    /// How a process on this host reaches the server by TCP, directly or through `port` of a link.
    pub fn conninfo_by(port: u16) -> String {
        format!("host=127.0.0.1 port={port} user=postgres dbname=postgres")
    }

    /// How the agent, on the server's own host, reaches it.
    pub fn local_conninfo(&self) -> String {
        let folder = self.site.folder().display();
        format!(
            "host={folder} port={} user=postgres dbname=postgres",
            self.port
        )
    }

    /// Waits until a standby streams and has replayed all that this server has written.
    pub fn await_standby(&self) -> Result<()> {
        let lsn = self.ask("postgres", "SELECT pg_current_wal_flush_lsn()")?;
        let question = format!(
            "SELECT count(*) > 0 FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn >= '{lsn}'"
        );
        eventually("the standby streams", 60, || {
            Ok((self.ask("postgres", &question)? == "t").then_some(()))
        })
    }

    /// Stops the server as pg_ctl's fast mode does.
    pub fn stop(mut self) -> Result<()> {
        self.end(Signal::INT)
    }

    /// Ends the server as pg_ctl's immediate mode does: at once, with nothing written and no checkpoint, so that its
    /// directory is one after a crash.
    pub fn crash(mut self) -> Result<()> {
        self.end(Signal::QUIT)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.child), signal)?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        // SIGQUIT: at once, for nobody needs the directory any more.
        let _ = self.end(Signal::QUIT);
    }
}
