//! Starting a server again the way it ran before it was stopped.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::pg::opts::Opts;

/// How a server runs: what is seen of it before it is stopped.
#[derive(Debug, Clone, Default)]
pub struct Ran {
    pub pid: u32,
    /// Its command line.
    opts: Option<Opts>,
    /// Its environment; nothing when it cannot be read.
    environment: Vec<OsString>,
    /// The file that its standard error goes to.
    pub log_file: Option<PathBuf>,
    /// The systemd service that it belongs to.
    pub service: Option<String>,
}

/// Looks how the server with this pid runs.
#[must_use]
pub fn look(pgdata: &Path, pid: u32) -> Ran {
    let of_process = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let opts = std::fs::read_to_string(pgdata.join("postmaster.opts")).unwrap_or_default();
    let environment = std::fs::read(of_process("environ")).unwrap_or_default();
    let log = std::fs::read_link(of_process("fd/2")).ok();
    let cgroup = std::fs::read_to_string(of_process("cgroup")).unwrap_or_default();
    Ran {
        pid,
        opts: Opts::parse(&opts),
        environment: environment
            .split(|byte| *byte == 0)
            .filter(|variable| variable.contains(&b'='))
            .map(|variable| OsString::from_vec(variable.to_vec()))
            .collect(),
        log_file: log.filter(|path| path.is_file()),
        service: service_of(&cgroup),
    }
}

/// The service of a server that systemd runs, by the names of the units that packages bring. The service of
/// whatever else started a server (cron, sshd) is not the server's.
fn service_of(cgroup: &str) -> Option<String> {
    let units = cgroup.lines().filter_map(|line| line.rsplit('/').next());
    let mut services = units.filter(|unit| unit.ends_with(".service"));
    services
        .find(|unit| {
            ["postgres", "pgsql", "patroni"]
                .iter()
                .any(|name| unit.contains(name))
        })
        // As it stands in the path of a group: `systemd-escape(1)`.
        .map(|unit| unit.replace("\\x2d", "-"))
}

impl Ran {
    /// `pg_ctl start` with the server's own arguments and environment: the words of the command. `bindir` is where
    /// its programs are if its own command line does not tell.
    #[must_use]
    pub fn command(&self, pgdata: &Path, log_file: &Path, bindir: Option<&Path>) -> Vec<OsString> {
        let opts = self.opts.clone().unwrap_or_default();
        let beside = Path::new(&opts.program).parent().map(Path::to_owned);
        let pg_ctl = beside
            .into_iter()
            .chain(bindir.map(Path::to_owned))
            .map(|directory| directory.join("pg_ctl"))
            .find(|program| program.is_file())
            .unwrap_or_else(|| "pg_ctl".into());
        let mut words: Vec<OsString> = vec![
            pg_ctl.into(),
            "start".into(),
            "--no-wait".into(),
            "--silent".into(),
            "--pgdata".into(),
            pgdata.into(),
            "--log".into(),
            log_file.into(),
        ];
        // Only a NUL cannot be quoted, and no argument holds one.
        let options = shlex::try_join(opts.without_directory()).unwrap_or_default();
        if !options.is_empty() {
            words.extend(["--options".into(), options.into()]);
        }
        words
    }

    /// As [`Ran::command`], in the environment that the server had.
    #[must_use]
    pub fn command_in_environment(
        &self,
        pgdata: &Path,
        log_file: &Path,
        bindir: Option<&Path>,
    ) -> Vec<OsString> {
        let command = self.command(pgdata, log_file, bindir);
        if self.environment.is_empty() {
            return command;
        }
        let env = ["env", "-i"].map(OsString::from);
        // `pg_ctl` runs a shell, and a server may have been started without any PATH.
        let has_path = self
            .environment
            .iter()
            .any(|variable| variable.as_encoded_bytes().starts_with(b"PATH="));
        let path = (!has_path).then(|| OsString::from("PATH=/usr/bin:/bin"));
        env.into_iter()
            .chain(path)
            .chain(self.environment.iter().cloned())
            .chain(command)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_the_servers_own_only_by_its_name() {
        for (cgroup, service) in [
            (
                "0::/system.slice/system-postgresql.slice/postgresql@15-main.service\n",
                Some("postgresql@15-main.service"),
            ),
            (
                "0::/system.slice/postgresql\\x2d15.service",
                Some("postgresql-15.service"),
            ),
            ("0::/system.slice/cron.service", None),
            ("0::/user.slice/user-0.slice/session-3.scope", None),
            ("0::/", None),
        ] {
            assert_eq!(service_of(cgroup).as_deref(), service, "{cgroup}");
        }
    }

    #[test]
    fn the_command_has_the_arguments_that_the_server_had() {
        let ran = Ran {
            opts: Opts::parse("/no/bin/postgres \"-D\" \"data\" \"-c\" \"a=b c\""),
            ..Ran::default()
        };
        let words = ran.command(Path::new("/srv/a"), Path::new("/log"), None);
        let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
        assert_eq!(
            words,
            [
                "pg_ctl",
                "start",
                "--no-wait",
                "--silent",
                "--pgdata",
                "/srv/a",
                "--log",
                "/log",
                "--options",
                "-c 'a=b c'"
            ]
        );
    }
}
