//! What carries the bytes between client and agent. `--from` is parsed here; everything above is the same
//! code whatever the link is.

pub mod frames;
pub mod join;
pub mod process;
pub mod stdio;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where the agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// A child of the client on this host.
    Local {
        /// The program; this very one when absent.
        agent: Option<PathBuf>,
        /// `--source-dbname`.
        source: Option<String>,
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
    },
}

/// `--from` and its companions do not name an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FromError {
    #[error("unrecognized agent \"{0}\": use ssh://[USER@]HOST[:PORT], exec:COMMAND or local")]
    Unknown(String),
    #[error("the agent \"{0}\" names no host, and neither does the connection string")]
    NoHost(String),
    #[error(
        "the host of the connection string, \"{0}\", is a socket directory and no host for ssh"
    )]
    SocketDirectory(String),
    #[error("the connection string names several hosts, so ssh cannot know which one to reach")]
    SeveralHosts,
    #[error("invalid host \"{0}\" for ssh")]
    BadHost(String),
    #[error("invalid port \"{0}\"")]
    BadPort(String),
    #[error("the command in \"{0}\" is empty")]
    EmptyCommand(String),
    #[error("the remote shell \"{0}\" does not parse as a command")]
    BadRsh(String),
    #[error("option \"{option}\" has no effect with \"{from}\"")]
    NoEffect {
        option: &'static str,
        from: &'static str,
    },
}

/// Parses `--from` with the options that belong to it. `primary_host` is the host of `-d`, for `ssh:`
/// without one.
///
/// # Errors
/// [`FromError`] when they do not name an agent or contradict one another.
pub fn parse(
    from: Option<&str>,
    primary_host: Option<&str>,
    rsh: Option<&str>,
    agent_path: Option<&str>,
    source_dbname: Option<&str>,
) -> Result<From, FromError> {
    let text = from.unwrap_or("ssh:");
    let no_effect = |option, given: Option<&str>, from| match given {
        Some(_) => Err(FromError::NoEffect { option, from }),
        None => Ok(()),
    };
    if text == "local" {
        no_effect("--rsh", rsh, "local")?;
        return Ok(From::Local {
            agent: agent_path.map(PathBuf::from),
            source: source_dbname.map(str::to_owned),
        });
    }
    if let Some(command) = text.strip_prefix("exec:") {
        no_effect("--rsh", rsh, "exec:")?;
        no_effect("--agent-path", agent_path, "exec:")?;
        no_effect("--source-dbname", source_dbname, "exec:")?;
        if command.trim().is_empty() {
            return Err(FromError::EmptyCommand(text.to_owned()));
        }
        return Ok(From::Exec {
            command: command.to_owned(),
        });
    }
    let Some(rest) = text.strip_prefix("ssh:") else {
        return Err(FromError::Unknown(text.to_owned()));
    };
    let (user_host, port) = match rest.strip_prefix("//").unwrap_or(rest) {
        "" => {
            let host = primary_host
                .filter(|host| !host.is_empty())
                .ok_or_else(|| FromError::NoHost(text.to_owned()))?;
            if host.starts_with('/') || host.starts_with('@') {
                return Err(FromError::SocketDirectory(host.to_owned()));
            }
            if host.contains(',') {
                return Err(FromError::SeveralHosts);
            }
            (host, None)
        }
        place => split_port(place.strip_suffix('/').unwrap_or(place))?,
    };
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
    let rsh = match rsh {
        None => vec!["ssh".to_owned()],
        Some(text) => shlex::split(text)
            .filter(|words| !words.is_empty())
            .ok_or_else(|| FromError::BadRsh(text.to_owned()))?,
    };
    Ok(From::Ssh {
        user_host: user_host.to_owned(),
        port,
        rsh,
        agent_path: agent_path.unwrap_or("pg_reseed").to_owned(),
        source: source_dbname.map(str::to_owned),
    })
}

/// Splits `[user@]host[:port]`; an IPv6 address stands in brackets when a port follows.
fn split_port(place: &str) -> Result<(&str, Option<u16>), FromError> {
    let port = |text: &str| {
        text.parse()
            .ok()
            .filter(|port| *port > 0)
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
            From::Local { .. } | From::Exec { .. } => false,
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
        let serve = |source: &Option<String>| {
            let mut words = vec!["serve".to_owned(), "--stdio".to_owned()];
            if let Some(source) = source {
                words.extend(["--dbname".to_owned(), source.clone()]);
            }
            words
        };
        match self {
            From::Local { agent, source } => {
                let program = match agent {
                    Some(path) => path.clone(),
                    None => std::env::current_exe()?,
                };
                let arguments = serve(source).into_iter().map(OsString::from).collect();
                Ok((program.into(), arguments))
            }
            From::Exec { command } => Ok(("/bin/sh".into(), vec!["-c".into(), command.into()])),
            From::Ssh {
                user_host,
                port,
                rsh,
                agent_path,
                source,
            } => {
                let mut words = rsh[1..].to_vec();
                if let Some(port) = port {
                    words.extend(["-p".to_owned(), port.to_string()]);
                }
                words.push(user_host.clone());
                // ssh hands one string to a shell over there.
                let mut remote = vec![agent_path.clone()];
                remote.extend(serve(source));
                let remote = shlex::try_join(remote.iter().map(String::as_str))
                    .map_err(|_| std::io::Error::other("an argument contains a NUL byte"))?;
                words.push(remote);
                let arguments = words.into_iter().map(OsString::from).collect();
                Ok((rsh[0].clone().into(), arguments))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn ssh(from: &str, host: Option<&str>) -> Result<(String, Option<u16>), FromError> {
        match parse(Some(from), host, None, None, None)? {
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
    fn what_is_no_agent_is_refused() {
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
            parse(Some("rsync://x"), None, None, None, None),
            Err(FromError::Unknown(_))
        ));
        assert!(matches!(
            parse(Some("local"), None, Some("ssh -4"), None, None),
            Err(FromError::NoEffect { .. })
        ));
        assert!(matches!(
            parse(Some("exec: "), None, None, None, None),
            Err(FromError::EmptyCommand(_))
        ));
    }

    #[test]
    fn the_remote_shell_sees_one_quoted_string() {
        let from = parse(
            Some("ssh://postgres@db1:2222"),
            None,
            Some("ssh -o 'BatchMode yes'"),
            Some("/opt/pg reseed/bin/pg_reseed"),
            Some("host=/tmp dbname='a b'; rm -rf /"),
        )
        .unwrap();
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
            let from = parse(Some("ssh://db1"), None, rsh, None, None).unwrap();
            let (program, arguments) = from.further().command().unwrap();
            let mut all = vec![program];
            all.extend(arguments);
            assert_eq!(all.join(OsStr::new(" ")), words);
            assert_eq!(from.is_ssh(), words.contains("BatchMode"));
        }
    }
}
