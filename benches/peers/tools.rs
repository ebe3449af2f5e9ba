//! The tools: pg_reseed and its peers, and the command that makes a standby with each.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::cgroup::Side;
use crate::cluster::{Server, Site};
use crate::host;
use crate::process::Runner;
use crate::relay::RELAY_OPTION;
use crate::services::{Repository, Sshd};

/// A tool with its options, as a row of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    pub name: String,
    pub way: Way,
}

/// How a standby is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    Reseed(Vec<String>),
    /// Over ssh instead of plain TCP.
    ReseedBySsh,
    Basebackup(Vec<String>),
    /// Trusts size and time.
    RsyncWhole,
    /// The same, where the times of equal files are equal.
    RsyncEqualTimes,
    /// Reads everything on both sides.
    RsyncDelta,
    /// The same over ssh.
    RsyncDeltaBySsh,
    /// Reads all of the target against the checksums of a backup on the same host.
    PgbackrestDelta,
    Rewind,
    /// No tool: what the machine can do.
    Roofline,
}

impl Tool {
    /// The row that everything is held against.
    pub const RESEED: &'static str = "pg_reseed";
    /// The same, whatever bits of a page mean nothing.
    pub const WITHOUT_PATCH: &'static str = "pg_reseed --no-noise-patch";
    pub const BASEBACKUP: &'static str = "pg_basebackup";
    pub const RSYNC_WHOLE: &'static str = "rsync whole";
    pub const RSYNC_DELTA: &'static str = "rsync delta";
    pub const PGBACKREST: &'static str = "pgbackrest delta";
    pub const REWIND: &'static str = "pg_rewind";
    pub const ROOFLINE: &'static str = "roofline";

    pub fn reseed() -> Self {
        Self::reseed_with(&[])
    }

    /// pg_reseed with options, which are part of the row's name.
    pub fn reseed_with(options: &[&str]) -> Self {
        Self::new(&named(Self::RESEED, options), Way::Reseed(owned(options)))
    }

    pub fn basebackup() -> Self {
        Self::basebackup_with(&[])
    }

    pub fn basebackup_with(options: &[&str]) -> Self {
        Self::new(
            &named(Self::BASEBACKUP, options),
            Way::Basebackup(owned(options)),
        )
    }

    pub fn rsync_whole() -> Self {
        Self::new(Self::RSYNC_WHOLE, Way::RsyncWhole)
    }

    pub fn rsync_equal_times() -> Self {
        Self::new("rsync whole, equal times", Way::RsyncEqualTimes)
    }

    pub fn rsync_delta() -> Self {
        Self::new(Self::RSYNC_DELTA, Way::RsyncDelta)
    }

    pub fn reseed_by_ssh() -> Self {
        Self::new("pg_reseed by ssh", Way::ReseedBySsh)
    }

    pub fn rsync_delta_by_ssh() -> Self {
        Self::new("rsync delta by ssh", Way::RsyncDeltaBySsh)
    }

    pub fn pgbackrest() -> Self {
        Self::new(Self::PGBACKREST, Way::PgbackrestDelta)
    }

    pub fn rewind() -> Self {
        Self::new(Self::REWIND, Way::Rewind)
    }

    pub fn roofline() -> Self {
        Self::new(Self::ROOFLINE, Way::Roofline)
    }

    fn new(name: &str, way: Way) -> Self {
        let name = name.to_owned();
        Self { name, way }
    }

    pub fn needs_ssh(&self) -> bool {
        matches!(self.way, Way::ReseedBySsh | Way::RsyncDeltaBySsh)
    }

    /// Whether it makes a directory and cannot use one that is there.
    pub fn needs_empty_target(&self) -> bool {
        matches!(self.way, Way::Basebackup(_))
    }
}

fn named(tool: &str, options: &[&str]) -> String {
    [&[tool], options].concat().join(" ")
}

fn owned(options: &[&str]) -> Vec<String> {
    options.iter().map(|option| (*option).to_owned()).collect()
}

/// Programs, copied to where the unprivileged user can reach them.
pub struct Programs {
    pub pg_reseed: PathBuf,
    /// The benchmark itself, as a relay.
    pub own: PathBuf,
    pub rsync_standby: PathBuf,
}

/// Ports that the target's side uses: the services' own, or those of a link that leads to them.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub postgres: u16,
    pub agent: u16,
    pub rsync: u16,
}

/// All that a command needs to know.
pub struct Stage<'a> {
    pub runner: &'a Runner,
    pub programs: &'a Programs,
    pub source: &'a Site,
    pub target: &'a Site,
    pub ports: Ports,
    pub repository: Option<&'a Repository>,
    pub sshd: Option<&'a Sshd>,
    /// How an agent on the source's host reaches its server.
    pub agent_conninfo: String,
    /// Options that every pg_reseed gets, by the user's wish.
    pub extra: &'a [String],
    pub report: &'a Path,
}

impl Stage<'_> {
    /// The command of a tool; the roofline has none.
    pub fn command(&self, tool: &Tool) -> Result<Command> {
        match &tool.way {
            Way::Reseed(options) => Ok(self.reseed(options)),
            Way::ReseedBySsh => self.reseed_by_ssh(),
            Way::Basebackup(options) => Ok(self.basebackup(options)),
            Way::RsyncWhole | Way::RsyncEqualTimes => self.rsync("whole", &self.rsync_url()),
            Way::RsyncDelta => self.rsync("delta", &self.rsync_url()),
            Way::RsyncDeltaBySsh => {
                let sshd = self.sshd.ok_or("there is no sshd")?;
                // A site has the names of the daemon's modules.
                let url = format!("127.0.0.1:{}", self.source.folder().display());
                let mut command = self.rsync("delta", &url)?;
                command.env("RSYNC_RSH", format!("{} -p {}", sshd.client(), sshd.port));
                Ok(command)
            }
            Way::PgbackrestDelta => {
                let repository = self.repository.ok_or("there is no repository")?;
                Ok(repository.restore(self.target, &self.conninfo(), self.runner))
            }
            Way::Rewind => Ok(self.rewind()),
            Way::Roofline => Err("the roofline is no command".into()),
        }
    }

    pub fn conninfo(&self) -> String {
        Server::conninfo_by(self.ports.postgres)
    }

    fn reseed(&self, options: &[String]) -> Command {
        let (own, port) = (self.programs.own.display(), self.ports.agent);
        let from = format!("exec:{own} {RELAY_OPTION} 127.0.0.1:{port}");
        let mut command = self.reseed_from(&from);
        command.args(options).args(self.extra);
        command
    }

    fn reseed_by_ssh(&self) -> Result<Command> {
        let sshd = self.sshd.ok_or("there is no sshd")?;
        let mut command = self.reseed_from(&format!("ssh://127.0.0.1:{}", sshd.port));
        command.args(["--rsh", &sshd.client()]);
        command.args(["--source-dbname", &self.agent_conninfo]);
        command.arg("--agent-path").arg(&self.programs.pg_reseed);
        command.args(self.extra);
        Ok(command)
    }

    fn reseed_from(&self, from: &str) -> Command {
        let mut command = self.on_target(&self.programs.pg_reseed);
        command.args(["rebuild", "--quiet", "-d", &self.conninfo(), "-D"]);
        command.arg(self.target.data()).args(["--from", from]);
        command.arg("--bindir").arg(host::bindir());
        command.arg("--report").arg(self.report);
        self.map_spaces(&mut command);
        command
    }

    fn rsync_url(&self) -> String {
        format!("rsync://127.0.0.1:{}", self.ports.rsync)
    }

    fn basebackup(&self, options: &[String]) -> Command {
        let mut command = self.on_target(host::bindir().join("pg_basebackup"));
        command.args([
            "-X",
            "stream",
            "-c",
            "fast",
            "-R",
            "-d",
            &self.conninfo(),
            "-D",
        ]);
        command.arg(self.target.data());
        self.map_spaces(&mut command);
        command.args(options);
        command
    }

    fn rsync(&self, mode: &str, url: &str) -> Result<Command> {
        let mut command = self.on_target(&self.programs.rsync_standby);
        command.env("PSQL", host::bindir().join("psql"));
        command.arg(mode).arg(self.target.data());
        command.args([url, &self.conninfo()]);
        for (oid, name, _) in self.source.space_oids()? {
            let directory = self.target.folder().join(&name);
            command.arg(format!("{oid}={name}={}", directory.display()));
        }
        Ok(command)
    }

    fn rewind(&self) -> Command {
        let mut command = self.on_target(host::bindir().join("pg_rewind"));
        command.args(["-R", "--source-server", &self.conninfo(), "-D"]);
        command.arg(self.target.data());
        command
    }

    fn map_spaces(&self, command: &mut Command) {
        for (from, to) in self.source.spaces().iter().zip(self.target.spaces()) {
            // Clusters without tablespaces have no such directories.
            if self
                .source
                .space_oids()
                .is_ok_and(|all| all.iter().any(|(_, _, space)| space == from))
            {
                command
                    .arg("-T")
                    .arg(format!("{}={}", from.display(), to.display()));
            }
        }
    }

    fn on_target(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.runner.command(Some(Side::Target), program)
    }
}
