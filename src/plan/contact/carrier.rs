//! What carries a link, where it leads, and how it ended, in words.

use std::fmt;

/// What carries a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// ssh, or what is used instead.
    Shell {
        /// The program, by its name.
        program: String,
        /// The words that log in by hand, as a shell takes them, as in `ssh -p 2222 postgres@db2`.
        login: String,
        /// `[USER@]HOST`.
        user_host: String,
        port: Option<u16>,
        /// The program that is to run there.
        agent: String,
    },
    /// A command of the user's.
    Command(String),
    /// A program on this host.
    Here(String),
    /// TLS to a host and port.
    Tls { host: String, port: u16 },
}

/// How what carried the link ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Not yet.
    Running,
    Code(i32),
    Signal(i32),
    /// The system does not say; its error.
    Unknown(String),
    /// There was no process.
    Connection,
}

impl fmt::Display for Carrier {
    /// Where it leads, as in "the agent {}".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Carrier::Shell { .. } => write!(f, "on {}", self.place()),
            Carrier::Command(command) => {
                write!(f, "behind the command \"{}\"", Self::short(command))
            }
            Carrier::Here(program) => write!(f, "\"{program}\" on this host"),
            Carrier::Tls { host, port } => write!(f, "at \"{host}\" (port {port})"),
        }
    }
}

impl Carrier {
    /// The beginning of a command, which may be long.
    pub(super) fn short(command: &str) -> String {
        let command = command.trim();
        match command.split_once(char::is_whitespace) {
            Some((program, _)) => format!("{program} …"),
            None => command.to_owned(),
        }
    }

    /// Host and port.
    pub(super) fn place(&self) -> String {
        match self {
            Carrier::Shell {
                user_host, port, ..
            } => match port {
                Some(port) => format!("\"{user_host}\" (port {port})"),
                None => format!("\"{user_host}\" (port 22, or that of ssh's configuration)"),
            },
            Carrier::Tls { host, port } => format!("\"{host}\" (port {port})"),
            Carrier::Command(_) | Carrier::Here(_) => "this host".to_owned(),
        }
    }

    /// Who ended.
    fn subject(&self) -> String {
        match self {
            Carrier::Shell { program, .. } => program.clone(),
            Carrier::Command(_) => "The command".to_owned(),
            Carrier::Here(_) => "The agent".to_owned(),
            Carrier::Tls { host, port } => format!("The connection to \"{host}\" (port {port})"),
        }
    }

    /// The command that does `what` by hand; nothing for what is no remote shell.
    pub(super) fn by_hand(&self, what: &str) -> String {
        match self {
            Carrier::Shell { login, .. } => format!("{login} {what}"),
            Carrier::Command(_) | Carrier::Here(_) | Carrier::Tls { .. } => String::new(),
        }
    }
}

/// How what carried a link ended, and what it said that nobody has shown yet: a sentence without its full stop.
#[must_use]
pub fn epitaph(carrier: &Carrier, ended: &Ended, said: &[String]) -> String {
    let subject = carrier.subject();
    let how = match ended {
        Ended::Running => format!("{subject} still runs"),
        Ended::Code(code) => format!("{subject} ended with exit status {code}"),
        Ended::Signal(number) => format!("{subject} was ended by signal {number}"),
        Ended::Unknown(error) => format!("{subject} ended, it is not known how: {error}"),
        Ended::Connection => format!("{subject} ended"),
    };
    match said {
        [] => how,
        said => {
            let said = said.join(" | ");
            format!("{how}; it said: {}", said.trim_end_matches('.'))
        }
    }
}
