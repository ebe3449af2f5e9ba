//! What carries the bytes between client and agent. `--from` is parsed here; everything above is the same
//! code whatever the link is.

pub mod frames;
pub mod inquiry;
pub mod join;
pub mod name;
pub mod process;
pub mod stdio;
pub mod tls;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::plan::contact::Carrier;

/// Where the agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// A child of the client on this host.
    Local {
        /// The program; this very one when absent.
        agent: Option<PathBuf>,
        /// `--source-dbname`.
        source: Option<String>,
        /// `--source-pgdata`: a data directory without a server.
        stopped: Option<PathBuf>,
    },
    /// The standard streams of a command, run by `/bin/sh -c`.
    Exec { command: String },
    /// The system's ssh.
    Ssh {
        user_host: String,
        port: Option<u16>,
        /// The remote shell and its own arguments.
        rsh: Vec<String>,
        /// The program on the source's host.
        agent_path: String,
        source: Option<String>,
        stopped: Option<PathBuf>,
    },
    /// An agent that listens, by TLS.
    Tls {
        host: String,
        port: u16,
        files: tls::Files,
    },
}

/// What belongs to `--from`, as it was typed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Companions<'a> {
    pub rsh: Option<&'a str>,
    pub agent_path: Option<&'a str>,
    pub source_dbname: Option<&'a str>,
    pub source_pgdata: Option<&'a Path>,
    pub tls_ca: Option<&'a Path>,
    pub tls_cert: Option<&'a Path>,
    pub tls_key: Option<&'a Path>,
}

/// `--from` and its companions do not name an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FromError {
    #[error(
        "unrecognized agent \"{0}\": use ssh://[USER@]HOST[:PORT], tls://HOST[:PORT], exec:COMMAND or local"
    )]
    Unknown(String),
    #[error("the agent \"{0}\" names no host, and neither does the connection string")]
    NoHost(String),
    #[error(
        "the host of the connection string, \"{0}\", is a socket directory and no host to reach an agent on"
    )]
    SocketDirectory(String),
    #[error(
        "the connection string names several hosts, so it is not known on which one the agent is"
    )]
    SeveralHosts,
    #[error("invalid host \"{0}\" of the agent")]
    BadHost(String),
    #[error("invalid port \"{0}\"")]
    BadPort(String),
    #[error("the command in \"{0}\" is empty")]
    EmptyCommand(String),
    #[error("the remote shell \"{0}\" does not parse as a command")]
    BadRsh(String),
    #[error("an agent that is reached by TLS needs \"{0}\"")]
    NoFile(&'static str),
    #[error("option \"{option}\" has no effect with \"{from}\"")]
    NoEffect {
        option: &'static str,
        from: &'static str,
    },
}

/// Parses `--from` with the options that belong to it. `primary_host` is the host of `-d`, for `ssh:` and `tls:`
/// without one.
///
/// # Errors
/// [`FromError`] when they do not name an agent or contradict one another.
pub fn parse(
    from: Option<&str>,
    primary_host: Option<&str>,
    with: &Companions,
) -> Result<From, FromError> {
    let text = from.unwrap_or("ssh:");
    let source = with.source_dbname.map(str::to_owned);
    let stopped = with.source_pgdata.map(Path::to_owned);
    if text == "local" {
        with.only(
            "local",
            &["--agent-path", "--source-dbname", "--source-pgdata"],
        )?;
        return Ok(From::Local {
            agent: with.agent_path.map(PathBuf::from),
            source,
            stopped,
        });
    }
    if let Some(command) = text.strip_prefix("exec:") {
        with.only("exec:", &[])?;
        if command.trim().is_empty() {
            return Err(FromError::EmptyCommand(text.to_owned()));
        }
        return Ok(From::Exec {
            command: command.to_owned(),
        });
    }
    if let Some(place) = text.strip_prefix("tls:") {
        with.only("tls:", &["--tls-ca", "--tls-cert", "--tls-key"])?;
        let (host, port) = place_of(text, place, primary_host)?;
        let file =
            |name, path: Option<&Path>| path.map(Path::to_owned).ok_or(FromError::NoFile(name));
        return Ok(From::Tls {
            host: host.to_owned(),
            port: port.unwrap_or(tls::PORT),
            files: tls::Files {
                authority: file("--tls-ca", with.tls_ca)?,
                certificate: file("--tls-cert", with.tls_cert)?,
                key: file("--tls-key", with.tls_key)?,
                revoked: None,
            },
        });
    }
    let Some(place) = text.strip_prefix("ssh:") else {
        return Err(FromError::Unknown(text.to_owned()));
    };
    with.only(
        "ssh:",
        &[
            "--rsh",
            "--agent-path",
            "--source-dbname",
            "--source-pgdata",
        ],
    )?;
    let (user_host, port) = place_of(text, place, primary_host)?;
    let rsh = match with.rsh {
        None => vec!["ssh".to_owned()],
        Some(text) => shlex::split(text)
            .filter(|words| !words.is_empty())
            .ok_or_else(|| FromError::BadRsh(text.to_owned()))?,
    };
    Ok(From::Ssh {
        user_host: user_host.to_owned(),
        port,
        rsh,
        agent_path: with.agent_path.unwrap_or("pg_reseed").to_owned(),
        source,
        stopped,
    })
}

impl Companions<'_> {
    /// Refuses all that were given but these.
    fn only(&self, from: &'static str, these: &[&str]) -> Result<(), FromError> {
        let given = [
            ("--rsh", self.rsh.is_some()),
            ("--agent-path", self.agent_path.is_some()),
            ("--source-dbname", self.source_dbname.is_some()),
            ("--source-pgdata", self.source_pgdata.is_some()),
            ("--tls-ca", self.tls_ca.is_some()),
            ("--tls-cert", self.tls_cert.is_some()),
            ("--tls-key", self.tls_key.is_some()),
        ];
        let mut others = given
            .iter()
            .filter(|(option, is_given)| *is_given && !these.contains(option));
        match others.next() {
            Some((option, _)) => Err(FromError::NoEffect { option, from }),
            None => Ok(()),
        }
    }
}

/// Host and port behind the scheme; without a host that of the connection string.
fn place_of<'a>(
    text: &str,
    place: &'a str,
    primary_host: Option<&'a str>,
) -> Result<(&'a str, Option<u16>), FromError> {
    let place = place.strip_prefix("//").unwrap_or(place);
    let (user_host, port) = match split_port(place.strip_suffix('/').unwrap_or(place))? {
        ("", port) => {
            let host = primary_host
                .filter(|host| !host.is_empty())
                .ok_or_else(|| FromError::NoHost(text.to_owned()))?;
            if host.starts_with('/') || host.starts_with('@') {
                return Err(FromError::SocketDirectory(host.to_owned()));
            }
            if host.contains(',') {
                return Err(FromError::SeveralHosts);
            }
            (host, port)
        }
        named => named,
    };
    if port == Some(0) {
        return Err(FromError::BadPort("0".to_owned()));
    }
    // ssh would take a host that begins with a dash for an option.
    let host = user_host.rsplit('@').next().unwrap_or(user_host);
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/')
    };
    if !is_plain(host) || !is_plain(user_host) {
        return Err(FromError::BadHost(user_host.to_owned()));
    }
    Ok((user_host, port))
}

/// Splits `[user@]host[:port]`; an IPv6 address stands in brackets when a port follows.
///
/// # Errors
/// [`FromError`] when the port is none.
pub fn split_port(place: &str) -> Result<(&str, Option<u16>), FromError> {
    let port = |text: &str| {
        text.parse()
            .ok()
            .ok_or_else(|| FromError::BadPort(text.to_owned()))
    };
    if let Some((host, behind)) = place.split_once(']') {
        // ssh takes the address without brackets; "user@[::1]" is not a form that it knows.
        let host = host
            .strip_prefix('[')
            .ok_or_else(|| FromError::BadHost(place.to_owned()))?;
        return match behind.strip_prefix(':') {
            Some(text) => Ok((host, Some(port(text)?))),
            None if behind.is_empty() => Ok((host, None)),
            None => Err(FromError::BadHost(place.to_owned())),
        };
    }
    match place.rsplit_once(':') {
        Some((host, text)) if !host.contains(':') => Ok((host, Some(port(text)?))),
        _ => Ok((place, None)),
    }
}

impl From {
    /// Whether the remote shell is ssh itself, which can be told to ask nobody for a password.
    #[must_use]
    pub fn is_ssh(&self) -> bool {
        match self {
            From::Ssh { rsh, .. } => Path::new(&rsh[0]).file_name() == Some("ssh".as_ref()),
            From::Local { .. } | From::Exec { .. } | From::Tls { .. } => false,
        }
    }

    /// Whether each stream is encrypted by one processor, so that several move more.
    #[must_use]
    pub fn gains_by_streams(&self) -> bool {
        self.is_ssh() || matches!(self, From::Tls { .. })
    }

    /// What carries the link, in words for people.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        match self {
            From::Local { agent, .. } => Carrier::Here(match agent {
                Some(path) => path.display().to_string(),
                None => "pg_reseed".to_owned(),
            }),
            From::Exec { command } => Carrier::Command(command.clone()),
            From::Ssh {
                user_host,
                port,
                rsh,
                agent_path,
                ..
            } => {
                let words = login(rsh, *port, user_host);
                let name = Path::new(&rsh[0]).file_name().unwrap_or(rsh[0].as_ref());
                Carrier::Shell {
                    program: name.to_string_lossy().into_owned(),
                    login: shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default(),
                    user_host: user_host.clone(),
                    port: *port,
                    agent: agent_path.clone(),
                }
            }
            From::Tls { host, port, .. } => Carrier::Tls {
                host: host.clone(),
                port: *port,
            },
        }
    }

    /// The same for a further stream, which must not ask for a password once more.
    fn further(&self) -> Self {
        let mut further = self.clone();
        if self.is_ssh()
            && let From::Ssh { rsh, .. } = &mut further
        {
            rsh.extend(["-o".to_owned(), "BatchMode=yes".to_owned()]);
        }
        further
    }

    /// Program and arguments that carry the agent.
    fn command(&self) -> std::io::Result<(OsString, Vec<OsString>)> {
        let serve = |source: &Option<String>, stopped: &Option<PathBuf>| {
            let mut words: Vec<OsString> = vec!["serve".into(), "--stdio".into()];
            if let Some(stopped) = stopped {
                words.extend(["--stopped".into(), "--pgdata".into(), stopped.into()]);
            } else if let Some(source) = source {
                words.extend(["--dbname".into(), source.into()]);
            }
            words
        };
        match self {
            From::Local {
                agent,
                source,
                stopped,
            } => {
                let program = match agent {
                    Some(path) => path.clone(),
                    None => std::env::current_exe()?,
                };
                Ok((program.into(), serve(source, stopped)))
            }
            From::Exec { command } => Ok(("/bin/sh".into(), vec!["-c".into(), command.into()])),
            From::Tls { .. } => Err(std::io::Error::other("no program carries TLS")),
            From::Ssh {
                user_host,
                port,
                rsh,
                agent_path,
                source,
                stopped,
            } => {
                let mut words = login(rsh, *port, user_host);
                // ssh hands one string to a shell over there.
                let mut remote = vec![agent_path.clone()];
                for word in serve(source, stopped) {
                    let word = word.into_string();
                    remote.push(
                        word.map_err(|_| {
                            std::io::Error::other("the path of the source is no text")
                        })?,
                    );
                }
                let remote = shlex::try_join(remote.iter().map(String::as_str))
                    .map_err(|_| std::io::Error::other("an argument contains a NUL byte"))?;
                words.push(remote);
                let mut words = words.into_iter().map(OsString::from);
                let program = words.next().unwrap_or_default();
                Ok((program, words.collect()))
            }
        }
    }
}

/// The words that log in on another host.
fn login(rsh: &[String], port: Option<u16>, user_host: &str) -> Vec<String> {
    let mut words = rsh.to_vec();
    if let Some(port) = port {
        words.extend(["-p".to_owned(), port.to_string()]);
    }
    words.push(user_host.to_owned());
    words
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn ssh(from: &str, host: Option<&str>) -> Result<(String, Option<u16>), FromError> {
        match parse(Some(from), host, &Companions::default())? {
            From::Ssh {
                user_host, port, ..
            } => Ok((user_host, port)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ssh_hosts_and_ports_are_read() {
        for (from, host, user_host, port) in [
            ("ssh://db1", None, "db1", None),
            ("ssh://postgres@db1:2222", None, "postgres@db1", Some(2222)),
            ("ssh://[::1]:22", None, "::1", Some(22)),
            ("ssh://::1", None, "::1", None),
            ("ssh:", Some("db9"), "db9", None),
        ] {
            assert_eq!(ssh(from, host), Ok((user_host.to_owned(), port)), "{from}");
        }
    }

    #[test]
    fn places_of_agents_that_listen_are_read() {
        let with = Companions {
            tls_ca: Some(Path::new("/ca")),
            tls_cert: Some(Path::new("/cert")),
            tls_key: Some(Path::new("/key")),
            ..Companions::default()
        };
        for (from, host, port) in [
            ("tls://db1", "db1", tls::PORT),
            ("tls://db1:99/", "db1", 99),
            ("tls://[::1]:99", "::1", 99),
            ("tls:", "db9", tls::PORT),
            ("tls::99", "db9", 99),
            ("tls://:99/", "db9", 99),
        ] {
            match parse(Some(from), Some("db9"), &with).unwrap() {
                From::Tls {
                    host: found,
                    port: at,
                    ..
                } => assert_eq!((&*found, at), (host, port)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_agent_is_refused() {
        let with_rsh = Companions {
            rsh: Some("ssh -4"),
            ..Companions::default()
        };
        assert!(matches!(
            ssh("ssh:", Some("/var/run/postgresql")),
            Err(FromError::SocketDirectory(_))
        ));
        assert!(matches!(ssh("ssh:", None), Err(FromError::NoHost(_))));
        assert!(matches!(
            ssh("ssh:", Some("a,b")),
            Err(FromError::SeveralHosts)
        ));
        assert!(matches!(
            ssh("ssh://-oProxyCommand=x", None),
            Err(FromError::BadHost(_))
        ));
        assert!(matches!(
            ssh("ssh://a@-x", None),
            Err(FromError::BadHost(_))
        ));
        assert!(matches!(
            ssh("ssh://db:99999", None),
            Err(FromError::BadPort(_))
        ));
        assert!(matches!(
            parse(Some("rsync://x"), None, &Companions::default()),
            Err(FromError::Unknown(_))
        ));
        assert!(matches!(
            parse(Some("local"), None, &with_rsh),
            Err(FromError::NoEffect { .. })
        ));
        assert!(matches!(
            parse(Some("tls://db1"), None, &Companions::default()),
            Err(FromError::NoFile("--tls-ca"))
        ));
        assert!(matches!(
            parse(Some("exec: "), None, &Companions::default()),
            Err(FromError::EmptyCommand(_))
        ));
    }

    #[test]
    fn the_remote_shell_sees_one_quoted_string() {
        let with = Companions {
            rsh: Some("ssh -o 'BatchMode yes'"),
            agent_path: Some("/opt/pg reseed/bin/pg_reseed"),
            source_dbname: Some("host=/tmp dbname='a b'; rm -rf /"),
            ..Companions::default()
        };
        let from = parse(Some("ssh://postgres@db1:2222"), None, &with).unwrap();
        let (program, arguments) = from.command().unwrap();
        assert_eq!(program, "ssh");
        assert_eq!(
            arguments,
            [
                "-o",
                "BatchMode yes",
                "-p",
                "2222",
                "postgres@db1",
                "'/opt/pg reseed/bin/pg_reseed' serve --stdio --dbname \"host=/tmp dbname='a b'; rm -rf /\""
            ]
        );
    }

    #[test]
    fn a_further_stream_asks_for_no_password() {
        for (rsh, words) in [
            (None, "ssh -o BatchMode=yes db1 pg_reseed serve --stdio"),
            (
                Some("/opt/bin/ssh -4"),
                "/opt/bin/ssh -4 -o BatchMode=yes db1 pg_reseed serve --stdio",
            ),
            (Some("krsh -x"), "krsh -x db1 pg_reseed serve --stdio"),
        ] {
            let with = Companions {
                rsh,
                ..Companions::default()
            };
            let from = parse(Some("ssh://db1"), None, &with).unwrap();
            let (program, arguments) = from.further().command().unwrap();
            let mut all = vec![program];
            all.extend(arguments);
            assert_eq!(all.join(OsStr::new(" ")), words);
            assert_eq!(from.is_ssh(), words.contains("BatchMode"));
        }
    }
}
