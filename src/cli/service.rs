//! systemd, when it started this process: what it is told of a run (`sd_notify(3)`).

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use sd_notify::NotifyState;

/// Where systemd listens.
#[derive(Debug, Clone)]
pub(super) struct Manager {
    address: SocketAddr,
}

impl Manager {
    /// Finds it, and takes it out of the environment: the programs that a run starts, and the server, are not systemd's
    /// affair. To be called before any thread is there.
    pub(super) fn take() -> Option<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET")?;
        // It cannot be sent to sockets without a file; that is done below.
        let _ = sd_notify::notify(true, &[NotifyState::Status("begins")]);
        let address = address(&name).ok()?;
        Some(Self { address })
    }

    /// Shows a line in `systemctl status`. One that cannot be told does not stop the run.
    pub(super) fn tell(&self, line: &str) {
        let line = line.replace(char::is_control, " ");
        let sent = UnixDatagram::unbound().and_then(|socket| {
            // A manager that does not read must not hold up the display.
            socket.set_nonblocking(true)?;
            socket.send_to_addr(format!("STATUS={line}\n").as_bytes(), &self.address)
        });
        if let Err(error) = sent {
            tracing::debug!("systemd cannot be told: {error}");
        }
    }
}

/// A path, or after an @ the name of a socket without a file.
fn address(name: &OsString) -> io::Result<SocketAddr> {
    match name.as_bytes().split_first() {
        Some((b'@', rest)) => SocketAddr::from_abstract_name(rest),
        _ => SocketAddr::from_pathname(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram, name: &str) -> String {
        let manager = Manager {
            address: address(&OsString::from(name)).unwrap(),
        };
        manager.tell("45 %\nof it");
        let mut bytes = [0; 100];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_line_arrives_at_both_kinds_of_sockets() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let wanted = "STATUS=45 % of it\n";
        assert_eq!(heard(&socket, path.to_str().unwrap()), wanted);
        let name = format!("pg_reseed-test-{}", std::process::id());
        let at = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&at).unwrap();
        assert_eq!(heard(&socket, &format!("@{name}")), wanted);
        // Nobody listens: nothing happens.
        drop(socket);
        let address = address(&OsString::from(format!("@{name}"))).unwrap();
        Manager { address }.tell("x");
    }
}
