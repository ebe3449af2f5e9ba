//! What the peers need on the source's side: an rsync daemon, and a repository of pgBackRest.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::cgroup::Side;
use crate::cluster::{Server, Site};
use crate::host;
use crate::process::{Runner, done, eventually, give};

/// A daemon that serves the source's directories for reading, stopped when it is dropped.
pub struct RsyncDaemon {
    pub port: u16,
    child: Child,
}

impl RsyncDaemon {
    pub fn start(source: &Site, folder: &Path, runner: &Runner) -> Result<Self> {
        let port = host::free_port()?;
        let log = folder.join("rsyncd.log");
        let mut config = format!(
            "address = 127.0.0.1\nport = {port}\nuse chroot = no\nread only = yes\nreverse lookup = no\n\
             log file = {}\npid file = {}\nlock file = {}\n",
            log.display(),
            folder.join("rsyncd.pid").display(),
            folder.join("rsyncd.lock").display(),
        );
        for path in [vec![source.data()], source.spaces()].concat() {
            let name = path.file_name().unwrap_or_default().display();
            writeln!(config, "[{name}]\npath = {}", path.display())?;
        }
        let config_path = folder.join("rsyncd.conf");
        fs::write(&config_path, config)?;
        let mut command = runner.command(Some(Side::Source), "rsync");
        command.args(["--daemon", "--no-detach", "--config"]);
        let child = command.arg(config_path).spawn()?;
        let mut daemon = Self { port, child };
        eventually("the rsync daemon listens", 10, || {
            if let Some(status) = daemon.child.try_wait()? {
                let log = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("the rsync daemon ended: {status}: {log}").into());
            }
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok())
        })?;
        Ok(daemon)
    }
}

impl Drop for RsyncDaemon {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// A repository with one full backup of the source, on the same disk.
pub struct Repository {
    folder: PathBuf,
    /// What the backup took, which no restore is charged with.
    pub backup_seconds: f64,
}

impl Repository {
    pub fn create(folder: &Path, source: &Server, runner: &Runner) -> Result<Self> {
        let folder = folder.join("pgbackrest");
        fs::create_dir(&folder)?;
        give(&folder)?;
        let mut repository = Self {
            folder,
            backup_seconds: 0.0,
        };
        let connection = |command: &mut Command| {
            command.arg(format!("--pg1-path={}", source.site.data().display()));
            command.arg(format!(
                "--pg1-socket-path={}",
                source.site.folder().display()
            ));
            command.arg(format!("--pg1-port={}", source.port));
            command.arg("--pg1-user=postgres");
        };
        let mut create = repository.command("stanza-create", None, runner);
        connection(&mut create);
        done(&mut create)?;
        // lz4, for a restore is limited by the decompression of what it takes from the repository.
        let mut backup = repository.command("backup", None, runner);
        connection(&mut backup);
        backup.args([
            "--type=full",
            "--start-fast",
            "--no-archive-check",
            "--compress-type=lz4",
        ]);
        backup.args(["--process-max=2", "--repo1-retention-full=1"]);
        let begin = Instant::now();
        done(&mut backup)?;
        repository.backup_seconds = begin.elapsed().as_secs_f64();
        Ok(repository)
    }

    /// Brings `target` to the state of the backup, as a standby that streams the rest.
    pub fn restore(&self, target: &Site, conninfo: &str, runner: &Runner) -> Command {
        let mut restore = self.command("restore", Some(Side::Target), runner);
        restore.args(["--delta", "--type=standby", "--process-max=2"]);
        restore.arg(format!("--pg1-path={}", target.data().display()));
        restore.arg(format!("--recovery-option=primary_conninfo={conninfo}"));
        for space in target.spaces() {
            let name = space.file_name().unwrap_or_default().display().to_string();
            restore.arg(format!("--tablespace-map={name}={}", space.display()));
        }
        restore
    }

    fn command(&self, name: &str, side: Option<Side>, runner: &Runner) -> Command {
        let mut command = runner.command(side, "pgbackrest");
        command.args([
            name,
            "--stanza=bench",
            "--no-config",
            "--log-level-file=off",
        ]);
        command.args(["--log-level-console=warn", "--log-level-stderr=error"]);
        for (option, below) in [("repo1-path", "repo"), ("lock-path", "lock")] {
            command.arg(format!("--{option}={}", self.folder.join(below).display()));
        }
        command
    }
}

/// An sshd of the unprivileged user for this host alone, stopped when it is dropped.
pub struct Sshd {
    pub port: u16,
    folder: tempfile::TempDir,
    child: Child,
}

impl Sshd {
    pub fn start(folder: &Path, runner: &Runner) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("sshd.")
            .tempdir_in(folder)?;
        give(folder.path())?;
        for name in ["host", "user"] {
            let mut keygen = runner.command(None, "ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
            done(keygen.arg(folder.path().join(name)))?;
        }
        let port = host::free_port()?;
        let config = folder.path().join("config");
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/user.pub\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n",
            folder.path().display()
        );
        fs::write(&config, text)?;
        let mut command = runner.command(Some(Side::Source), "/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(&config);
        command.stderr(File::create(folder.path().join("log"))?);
        let child = command.spawn()?;
        let mut sshd = Self {
            port,
            folder,
            child,
        };
        eventually("sshd listens", 10, || {
            if let Some(status) = sshd.child.try_wait()? {
                let log = fs::read_to_string(sshd.folder.path().join("log")).unwrap_or_default();
                return Err(format!("sshd ended: {status}: {log}").into());
            }
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok())
        })?;
        Ok(sshd)
    }

    /// The ssh command that it lets in, without the port.
    pub fn client(&self) -> String {
        format!(
            "ssh -F none -i {}/user -o BatchMode=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            self.folder.path().display()
        )
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}
