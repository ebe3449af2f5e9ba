//! Why nobody answered: what carried the link, how that ended and what it said, turned into an error and a remedy.
//!
//! Programs say it by their exit status first: ssh ends with 255 when it did not come as far as the other host's
//! shell (`ssh(1)`), a shell with 127 when it finds no program and with 126 when it cannot run it (POSIX, Shell
//! Command Language, 2.8.2), `docker exec` and `kubectl exec` likewise. What they wrote tells more.

mod carrier;

pub use carrier::{Carrier, Ended, epitaph};

/// What was heard instead of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Nothing,
    /// Nothing for as long as one waits, in seconds.
    TooLate(u64),
    /// An agent that speaks another version of the protocol; in words.
    OtherVersion(String),
    /// Something else; in words.
    Other(String),
}

/// A first contact that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoContact {
    /// Lower case, without a full stop.
    pub error: String,
    /// How it ended and what was said, as a sentence without its full stop; `None` when that adds nothing.
    pub detail: Option<String>,
    pub hint: String,
}

const VERSION_HINT: &str = "Install the same version of pg_reseed on both hosts.";

/// TLS 1.3 tells a client late, and in few words, that it is refused.
const TLS_HINT: &str =
    "The agent's log says why it refuses: check its --allow and the certificates of both sides.";

const NOISE_HINT: &str = "Nothing but pg_reseed serve --stdio may write to the standard output there: look at the \
                          start-up files of that user's shell (.bashrc and the like).";

const LIBRARY_HINT: &str = "That program was built for a newer system: build pg_reseed on the older one of both hosts, \
                            and copy it to the other.";

const COMMAND_HINT: &str = "The command must start pg_reseed serve --stdio on the source's host and pass its standard \
                            input and output on: docker and kubectl do with exec -i, without -t.";

const KILLED_HINT: &str = "Somebody ended it, or the system did for lack of memory: run the same command again when \
                           the cause is mended.";

/// The port that people take for the one of `--from`.
const NOT_THE_SERVERS: &str = "-p is the port of the PostgreSQL server.";

/// What ssh's words tell of why it reached nobody. OpenSSH: sshconnect.c, sshconnect2.c, misc.c; the texts of the
/// system are those of `strerror` and `getaddrinfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unreached {
    Name,
    Port,
    NewKey,
    HostKey,
    Login,
    Unclear,
}

impl Unreached {
    const SIGNS: [(Unreached, &[&str]); 5] = [
        (Unreached::Name, &["could not resolve hostname"]),
        (
            Unreached::NewKey,
            &[
                "remote host identification has changed",
                "has changed and you have requested strict",
            ],
        ),
        (
            Unreached::HostKey,
            &["host key verification failed", "host key is known"],
        ),
        (
            Unreached::Login,
            &[
                "permission denied",
                "too many authentication failures",
                "no supported authentication",
            ],
        ),
        (
            Unreached::Port,
            &[
                "connection refused",
                "timed out",
                "no route to host",
                "network is unreachable",
                "connection closed by",
                "connection reset",
            ],
        ),
    ];

    fn by(said: &str) -> Self {
        let said = said.to_lowercase();
        let found = Self::SIGNS
            .iter()
            .find(|(_, signs)| signs.iter().any(|sign| said.contains(sign)));
        found.map_or(Self::Unclear, |(kind, _)| *kind)
    }
}

/// What is wrong with the program that was to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Missing,
    NotRunnable,
    /// The dynamic loader refuses it.
    OtherSystem,
}

impl Program {
    /// docker says that a program is missing with 126 or 127, by its version, kubectl with 1.
    fn by(code: i32, said: &str) -> Option<Self> {
        let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if says(&["error while loading shared libraries", "GLIBC_"]) {
            Some(Self::OtherSystem)
        } else if code == 127 || says(&["executable file not found", "exit code 127"]) {
            Some(Self::Missing)
        } else if code == 126 || says(&["exit code 126"]) {
            Some(Self::NotRunnable)
        } else {
            None
        }
    }
}

/// Why nobody answered as an agent does.
#[must_use]
pub fn judge(carrier: &Carrier, heard: &Heard, ended: &Ended, said: &[String]) -> NoContact {
    let (error, hint) = match heard {
        Heard::OtherVersion(words) => (
            format!("could not talk to the agent {carrier}: {words}"),
            VERSION_HINT.to_owned(),
        ),
        _ => by_end(carrier, ended, &said.join("\n"))
            .unwrap_or_else(|| by_heard(carrier, heard, ended)),
    };
    let is_telling = !said.is_empty() || !matches!(ended, Ended::Code(0) | Ended::Connection);
    NoContact {
        error,
        detail: is_telling.then(|| epitaph(carrier, ended, said)),
        hint,
    }
}

/// Why what was to carry the link could not be begun, with the system's error or TLS's.
#[must_use]
pub fn not_begun(carrier: &Carrier, kind: std::io::ErrorKind, error: &str) -> NoContact {
    use std::io::ErrorKind as Kind;
    let hint = match (carrier, kind) {
        (Carrier::Shell { .. }, Kind::NotFound) => {
            "That program is not on this host: install ssh, or name another one with --rsh."
                .to_owned()
        }
        (Carrier::Here(_), Kind::NotFound | Kind::PermissionDenied) => {
            "--agent-path must name a pg_reseed of this host that this user may run.".to_owned()
        }
        (
            Carrier::Tls { .. },
            Kind::ConnectionRefused
            | Kind::TimedOut
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable,
        ) => format!(
            "pg_reseed serve --listen must run there, and nothing between both hosts may hold it up; --from \
             tls://HOST:PORT names another place. {NOT_THE_SERVERS}"
        ),
        _ => "Check --from and the options that belong to it.".to_owned(),
    };
    NoContact {
        error: format!("could not reach the agent {carrier}: {error}"),
        detail: None,
        hint,
    }
}

/// What the exit status and the words of a program tell, if they tell it.
fn by_end(carrier: &Carrier, ended: &Ended, said: &str) -> Option<(String, String)> {
    let code = match *ended {
        Ended::Code(code) => code,
        Ended::Signal(number) => {
            return Some((
                format!("the agent {carrier} was killed (signal {number}) before it said anything"),
                KILLED_HINT.to_owned(),
            ));
        }
        Ended::Running | Ended::Unknown(_) | Ended::Connection => return None,
    };
    if let Some(program) = Program::by(code, said) {
        return by_program(carrier, program);
    }
    let unreached = Unreached::by(said);
    match carrier {
        Carrier::Shell { .. } if code == 255 => Some(by_unreached(carrier, unreached)),
        Carrier::Command(_) if code == 255 && unreached != Unreached::Unclear => Some((
            format!("could not reach the agent {carrier}"),
            "The command's ssh reached nobody: what it said tells why; try the command by hand."
                .to_owned(),
        )),
        _ => None,
    }
}

fn by_program(carrier: &Carrier, program: Program) -> Option<(String, String)> {
    let place = carrier.place();
    Some(match (carrier, program) {
        (Carrier::Tls { .. }, _) => return None,
        (_, Program::OtherSystem) => (
            format!("the agent {carrier} cannot be run on that system"),
            LIBRARY_HINT.to_owned(),
        ),
        (Carrier::Shell { agent, .. }, Program::Missing) => (
            format!("there is no \"{agent}\" on {place}"),
            "Install pg_reseed there, in the same version, or say with --agent-path where it is: the PATH of a \
             command by ssh is often shorter than that of a login."
                .to_owned(),
        ),
        (Carrier::Shell { agent, .. }, Program::NotRunnable) => (
            format!("\"{agent}\" cannot be run on {place}"),
            "It must be a program for that host, executable for the user who logs in, and not on a file system that \
             is mounted noexec; --agent-path names another one."
                .to_owned(),
        ),
        (Carrier::Command(command), Program::Missing) => (
            format!(
                "a program of the command \"{}\" was not found",
                Carrier::short(command)
            ),
            "What it said tells which: install pg_reseed where the command leads, in the same version, and name it by \
             its whole path."
                .to_owned(),
        ),
        (Carrier::Command(command), Program::NotRunnable) => (
            format!(
                "a program of the command \"{}\" cannot be run",
                Carrier::short(command)
            ),
            "It must be a program for that host, executable for the user who runs it there.".to_owned(),
        ),
        (Carrier::Here(agent), Program::Missing | Program::NotRunnable) => (
            format!("\"{agent}\" runs no agent"),
            "--agent-path must name a pg_reseed of this host.".to_owned(),
        ),
    })
}

fn by_unreached(carrier: &Carrier, why: Unreached) -> (String, String) {
    let place = carrier.place();
    let try_it = carrier.by_hand("true");
    match why {
        Unreached::Name => (
            format!("ssh does not know the host of {place}"),
            "The host is that of --from, or else that of -h or -d: --from ssh://[USER@]HOST[:PORT] names it as ssh \
             shall."
                .to_owned(),
        ),
        Unreached::Port => (
            format!("ssh could not connect to {place}"),
            format!(
                "sshd must listen there, and nothing between both hosts may hold it up; --from ssh://HOST:PORT names \
                 another place. {NOT_THE_SERVERS}"
            ),
        ),
        Unreached::NewKey => (
            format!("the host key of {place} is not the one that ssh knows"),
            "That host was made anew, or another one answers in its place: find out which before the old key is \
             removed with ssh-keygen -R."
                .to_owned(),
        ),
        Unreached::HostKey => (
            format!("ssh has not accepted the host key of {place}"),
            format!("Compare it with the key of that host, and accept it once by hand: {try_it}"),
        ),
        Unreached::Login => (
            format!("the login by ssh on {place} was refused"),
            format!(
                "This user's public key must be in ~/.ssh/authorized_keys of the user there; --from ssh://USER@HOST \
                 names another one. By hand, this must work: {try_it}"
            ),
        ),
        Unreached::Unclear => (
            format!("ssh could not reach {place}"),
            format!("By hand, this must work: {try_it}"),
        ),
    }
}

/// What is left to say when the end tells nothing.
fn by_heard(carrier: &Carrier, heard: &Heard, ended: &Ended) -> (String, String) {
    let is_tls = matches!(carrier, Carrier::Tls { .. });
    match heard {
        Heard::Other(words) | Heard::OtherVersion(words) => (
            format!("could not talk to the agent {carrier}: {words}"),
            if is_tls { TLS_HINT } else { NOISE_HINT }.to_owned(),
        ),
        Heard::TooLate(seconds) => (
            format!("the agent {carrier} did not answer within {seconds} s"),
            match carrier {
                Carrier::Tls { .. } => TLS_HINT.to_owned(),
                Carrier::Command(_) => COMMAND_HINT.to_owned(),
                Carrier::Here(_) => "--agent-path must name a pg_reseed of this host.".to_owned(),
                Carrier::Shell { .. } => format!(
                    "If it waits for an answer of yours, give it sooner, or let ssh use a key. By hand, this must \
                     work: {}",
                    carrier.by_hand("true")
                ),
            },
        ),
        Heard::Nothing => {
            let end = match ended {
                Ended::Code(code) if *code != 0 => format!(" (exit status {code})"),
                _ => String::new(),
            };
            (
                format!("the agent {carrier} said nothing{end}"),
                match carrier {
                    Carrier::Tls { .. } => TLS_HINT.to_owned(),
                    Carrier::Command(_) => COMMAND_HINT.to_owned(),
                    Carrier::Here(_) => {
                        "--agent-path must name a pg_reseed of this host.".to_owned()
                    }
                    Carrier::Shell { agent, .. } => format!(
                        "By hand, this must print the version of pg_reseed there: {}",
                        carrier.by_hand(&format!("{agent} --version"))
                    ),
                },
            )
        }
    }
}

/// What can be heard and seen instead of an agent, judged.
#[cfg(test)]
pub mod samples {
    use std::io::ErrorKind as Kind;

    use super::*;

    fn ssh(port: Option<u16>) -> Carrier {
        Carrier::Shell {
            program: "ssh".to_owned(),
            login: "/usr/bin/ssh -o 'BatchMode yes' postgres@db2".to_owned(),
            user_host: "postgres@db2".to_owned(),
            port,
            agent: "pg_reseed".to_owned(),
        }
    }

    fn tls() -> Carrier {
        Carrier::Tls {
            host: "db2".to_owned(),
            port: 7432,
        }
    }

    fn judged(carrier: &Carrier, heard: &Heard, ended: &Ended, said: &str) -> NoContact {
        let said: Vec<_> = said.lines().map(str::to_owned).collect();
        judge(carrier, heard, ended, &said)
    }

    pub fn of_ssh() -> Vec<NoContact> {
        [
            "ssh: Could not resolve hostname db2: Name or service not known",
            "ssh: connect to host db2 port 2222: Connection refused",
            "kex_exchange_identification: Connection closed by remote host\nConnection closed by 10.0.0.2 port 2222",
            "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.",
            "No ED25519 host key is known for db2 and you have requested strict checking.\nHost key verification failed.",
            "postgres@db2: Permission denied (publickey,password).",
            "Bad configuration option: x",
        ]
        .iter()
        .map(|said| judged(&ssh(Some(2222)), &Heard::Nothing, &Ended::Code(255), said))
        .collect()
    }

    pub fn of_programs() -> Vec<NoContact> {
        let docker = Carrier::Command("docker exec -i pg pg_reseed serve --stdio".to_owned());
        let kubectl = Carrier::Command("kubectl exec -i pg -- pg_reseed serve --stdio".to_owned());
        [
            (
                &ssh(None),
                127,
                "bash: line 1: pg_reseed: command not found",
            ),
            (
                &ssh(None),
                126,
                "bash: line 1: pg_reseed: Permission denied",
            ),
            (
                &ssh(None),
                1,
                "pg_reseed: /lib/libc.so.6: version `GLIBC_2.38' not found",
            ),
            (&ssh(None), 1, "This account is currently not available."),
            (&docker, 127, "/bin/sh: 1: docker: not found"),
            (
                &docker,
                126,
                "OCI runtime exec failed: \"pg_reseed\": executable file not found in $PATH",
            ),
            (
                &docker,
                1,
                "Error response from daemon: No such container: pg",
            ),
            (&kubectl, 1, "command terminated with exit code 126"),
            (
                &Carrier::Command("ssh -J a b pg_reseed serve --stdio".to_owned()),
                255,
                "b: Permission denied",
            ),
            (
                &Carrier::Here("/bin/cat".to_owned()),
                1,
                "cat: unrecognized option '--stdio'",
            ),
        ]
        .iter()
        .map(|(carrier, code, said)| judged(carrier, &Heard::Nothing, &Ended::Code(*code), said))
        .collect()
    }

    pub fn of_what_is_heard() -> Vec<NoContact> {
        let tls = tls();
        let noise = Heard::Other("the peer does not speak it; it sent \"Welcome\"".to_owned());
        let other = Heard::OtherVersion("the peer speaks version 1".to_owned());
        vec![
            judged(&ssh(None), &noise, &Ended::Code(0), ""),
            // What the end says counts more.
            judged(
                &ssh(None),
                &noise,
                &Ended::Code(127),
                "sh: pg_reseed: not found",
            ),
            judged(&ssh(None), &other, &Ended::Code(127), ""),
            judged(&ssh(None), &Heard::TooLate(120), &Ended::Running, ""),
            judged(&ssh(None), &Heard::Nothing, &Ended::Signal(9), ""),
            judged(&tls, &Heard::Nothing, &Ended::Connection, ""),
        ]
    }

    pub fn of_what_cannot_be_begun() -> Vec<NoContact> {
        let tls = tls();
        vec![
            not_begun(&ssh(None), Kind::NotFound, "could not run \"ssh\": gone"),
            not_begun(&tls, Kind::ConnectionRefused, "refused"),
            not_begun(&tls, Kind::Other, "bad certificate"),
            not_begun(
                &Carrier::Here("/x".to_owned()),
                Kind::NotFound,
                "could not run \"/x\": gone",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn told(contacts: &[NoContact]) -> String {
        contacts
            .iter()
            .map(|contact| {
                let NoContact {
                    error,
                    detail,
                    hint,
                } = contact;
                assert!(hint.ends_with('.') || hint.contains(": "), "{hint}");
                let detail = detail.as_ref().map(|detail| format!("  {detail}.\n"));
                format!("{error}\n{}  > {hint}\n", detail.unwrap_or_default())
            })
            .collect()
    }

    #[test]
    fn ssh_that_reaches_nobody_says_why() {
        let text = told(&samples::of_ssh());
        assert_snapshot!(text, @r#"
        ssh does not know the host of "postgres@db2" (port 2222)
          ssh ended with exit status 255; it said: ssh: Could not resolve hostname db2: Name or service not known.
          > The host is that of --from, or else that of -h or -d: --from ssh://[USER@]HOST[:PORT] names it as ssh shall.
        ssh could not connect to "postgres@db2" (port 2222)
          ssh ended with exit status 255; it said: ssh: connect to host db2 port 2222: Connection refused.
          > sshd must listen there, and nothing between both hosts may hold it up; --from ssh://HOST:PORT names another place. -p is the port of the PostgreSQL server.
        ssh could not connect to "postgres@db2" (port 2222)
          ssh ended with exit status 255; it said: kex_exchange_identification: Connection closed by remote host | Connection closed by 10.0.0.2 port 2222.
          > sshd must listen there, and nothing between both hosts may hold it up; --from ssh://HOST:PORT names another place. -p is the port of the PostgreSQL server.
        the host key of "postgres@db2" (port 2222) is not the one that ssh knows
          ssh ended with exit status 255; it said: WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! | Host key verification failed.
          > That host was made anew, or another one answers in its place: find out which before the old key is removed with ssh-keygen -R.
        ssh has not accepted the host key of "postgres@db2" (port 2222)
          ssh ended with exit status 255; it said: No ED25519 host key is known for db2 and you have requested strict checking. | Host key verification failed.
          > Compare it with the key of that host, and accept it once by hand: /usr/bin/ssh -o 'BatchMode yes' postgres@db2 true
        the login by ssh on "postgres@db2" (port 2222) was refused
          ssh ended with exit status 255; it said: postgres@db2: Permission denied (publickey,password).
          > This user's public key must be in ~/.ssh/authorized_keys of the user there; --from ssh://USER@HOST names another one. By hand, this must work: /usr/bin/ssh -o 'BatchMode yes' postgres@db2 true
        ssh could not reach "postgres@db2" (port 2222)
          ssh ended with exit status 255; it said: Bad configuration option: x.
          > By hand, this must work: /usr/bin/ssh -o 'BatchMode yes' postgres@db2 true
        "#);
    }

    #[test]
    fn program_that_is_not_there_is_told_from_one_that_cannot_run() {
        let text = told(&samples::of_programs());
        assert_snapshot!(text, @r#"
        there is no "pg_reseed" on "postgres@db2" (port 22, or that of ssh's configuration)
          ssh ended with exit status 127; it said: bash: line 1: pg_reseed: command not found.
          > Install pg_reseed there, in the same version, or say with --agent-path where it is: the PATH of a command by ssh is often shorter than that of a login.
        "pg_reseed" cannot be run on "postgres@db2" (port 22, or that of ssh's configuration)
          ssh ended with exit status 126; it said: bash: line 1: pg_reseed: Permission denied.
          > It must be a program for that host, executable for the user who logs in, and not on a file system that is mounted noexec; --agent-path names another one.
        the agent on "postgres@db2" (port 22, or that of ssh's configuration) cannot be run on that system
          ssh ended with exit status 1; it said: pg_reseed: /lib/libc.so.6: version `GLIBC_2.38' not found.
          > That program was built for a newer system: build pg_reseed on the older one of both hosts, and copy it to the other.
        the agent on "postgres@db2" (port 22, or that of ssh's configuration) said nothing (exit status 1)
          ssh ended with exit status 1; it said: This account is currently not available.
          > By hand, this must print the version of pg_reseed there: /usr/bin/ssh -o 'BatchMode yes' postgres@db2 pg_reseed --version
        a program of the command "docker …" was not found
          The command ended with exit status 127; it said: /bin/sh: 1: docker: not found.
          > What it said tells which: install pg_reseed where the command leads, in the same version, and name it by its whole path.
        a program of the command "docker …" was not found
          The command ended with exit status 126; it said: OCI runtime exec failed: "pg_reseed": executable file not found in $PATH.
          > What it said tells which: install pg_reseed where the command leads, in the same version, and name it by its whole path.
        the agent behind the command "docker …" said nothing (exit status 1)
          The command ended with exit status 1; it said: Error response from daemon: No such container: pg.
          > The command must start pg_reseed serve --stdio on the source's host and pass its standard input and output on: docker and kubectl do with exec -i, without -t.
        a program of the command "kubectl …" cannot be run
          The command ended with exit status 1; it said: command terminated with exit code 126.
          > It must be a program for that host, executable for the user who runs it there.
        could not reach the agent behind the command "ssh …"
          The command ended with exit status 255; it said: b: Permission denied.
          > The command's ssh reached nobody: what it said tells why; try the command by hand.
        the agent "/bin/cat" on this host said nothing (exit status 1)
          The agent ended with exit status 1; it said: cat: unrecognized option '--stdio'.
          > --agent-path must name a pg_reseed of this host.
        "#);
    }

    #[test]
    fn what_is_heard_instead_is_told() {
        let text = told(&samples::of_what_is_heard());
        assert_snapshot!(text, @r#"
        could not talk to the agent on "postgres@db2" (port 22, or that of ssh's configuration): the peer does not speak it; it sent "Welcome"
          > Nothing but pg_reseed serve --stdio may write to the standard output there: look at the start-up files of that user's shell (.bashrc and the like).
        there is no "pg_reseed" on "postgres@db2" (port 22, or that of ssh's configuration)
          ssh ended with exit status 127; it said: sh: pg_reseed: not found.
          > Install pg_reseed there, in the same version, or say with --agent-path where it is: the PATH of a command by ssh is often shorter than that of a login.
        could not talk to the agent on "postgres@db2" (port 22, or that of ssh's configuration): the peer speaks version 1
          ssh ended with exit status 127.
          > Install the same version of pg_reseed on both hosts.
        the agent on "postgres@db2" (port 22, or that of ssh's configuration) did not answer within 120 s
          ssh still runs.
          > If it waits for an answer of yours, give it sooner, or let ssh use a key. By hand, this must work: /usr/bin/ssh -o 'BatchMode yes' postgres@db2 true
        the agent on "postgres@db2" (port 22, or that of ssh's configuration) was killed (signal 9) before it said anything
          ssh was ended by signal 9.
          > Somebody ended it, or the system did for lack of memory: run the same command again when the cause is mended.
        the agent at "db2" (port 7432) said nothing
          > The agent's log says why it refuses: check its --allow and the certificates of both sides.
        "#);
    }

    #[test]
    fn what_cannot_be_begun_names_the_place() {
        let text = told(&samples::of_what_cannot_be_begun());
        assert_snapshot!(text, @r#"
        could not reach the agent on "postgres@db2" (port 22, or that of ssh's configuration): could not run "ssh": gone
          > That program is not on this host: install ssh, or name another one with --rsh.
        could not reach the agent at "db2" (port 7432): refused
          > pg_reseed serve --listen must run there, and nothing between both hosts may hold it up; --from tls://HOST:PORT names another place. -p is the port of the PostgreSQL server.
        could not reach the agent at "db2" (port 7432): bad certificate
          > Check --from and the options that belong to it.
        could not reach the agent "/x" on this host: could not run "/x": gone
          > --agent-path must name a pg_reseed of this host that this user may run.
        "#);
    }
}
