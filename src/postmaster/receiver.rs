//! The walreceiver of a server, by what the system says of its process: the standby's own view of its stream, which
//! needs no login.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::facts::SlotClient;
use crate::pg::lsn::Lsn;

/// What a walreceiver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receives {
    /// Its title does not say what it does (`update_process_title`, or it is about to connect).
    Unknown,
    /// It has written what it received up to here; `None` where the title is not understood.
    Streams(Option<Lsn>),
}

/// The walreceiver of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    pub pid: u32,
    pub receives: Receives,
    /// Its own ends of its TCP connections: what the walsender's side knows as its client.
    pub ends: Vec<SlotClient>,
    /// How long the process has lived.
    pub age: Duration,
}

impl Receiver {
    /// Whether it has lived for so long that nobody has turned it away. Its title tells nothing as long as no WAL has
    /// come, as from an idle source.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        self.age >= STEADY_FOR
    }
}

/// How long a walreceiver must live to be one that streams: one that is turned away ends at once.
const STEADY_FOR: Duration = Duration::from_secs(1);

/// The kernel's ticks in a second, as it counts them for processes (`USER_HZ`, the same everywhere).
const TICKS: f64 = 100.0;

/// How long a process has lived, by the start time in its `stat` (proc(5), field 22).
fn age(stat: &str) -> Duration {
    let ticks = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(19)?.parse::<f64>().ok());
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime
        .split(' ')
        .next()
        .and_then(|seconds| seconds.parse::<f64>().ok());
    match (ticks, uptime) {
        (Some(ticks), Some(uptime)) => {
            Duration::try_from_secs_f64(uptime - ticks / TICKS).unwrap_or_default()
        }
        _ => Duration::ZERO,
    }
}

/// The walreceiver of the server with this pid (PostgreSQL `walreceiver.c:XLogWalRcvProcessMsg` writes its title).
#[must_use]
pub fn receiver(postmaster: u32) -> Option<Receiver> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    for process in processes {
        let read = |name: &str| std::fs::read_to_string(process.path().join(name));
        let stat = read("stat").unwrap_or_default();
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        if parent != Some(postmaster) {
            continue;
        }
        let title = read("cmdline").unwrap_or_default();
        if !title.contains("walreceiver") {
            continue;
        }
        let receives = match title.split_once("walreceiver streaming ") {
            Some((_, lsn)) => Receives::Streams(Lsn::parse(lsn.trim_end_matches(['\0', ' '])).ok()),
            None => Receives::Unknown,
        };
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        return Some(Receiver {
            pid,
            receives,
            ends: ends(pid),
            age: age(&stat),
        });
    }
    None
}

/// The own ends of a process's TCP connections.
fn ends(pid: u32) -> Vec<SlotClient> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter();
    let sockets: Vec<String> = open
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let link = std::fs::read_link(entry.path()).ok()?;
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok())
        .flat_map(|table| own_ends(&table, &sockets))
        .collect()
}

/// Reads a table of `/proc/net` (proc(5): the second word is the local end, the tenth the inode).
fn own_ends(table: &str, sockets: &[String]) -> Vec<SlotClient> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let inode = *words.get(9)?;
            if !sockets.iter().any(|socket| socket == inode) {
                return None;
            }
            let (address, port) = words.get(1)?.split_once(':')?;
            Some(SlotClient {
                address: Some(address_of(address)?.to_string()),
                port: u16::from_str_radix(port, 16).ok()?,
            })
        })
        .collect()
}

/// An address as the kernel prints it: words of 32 bits in the order of the host.
fn address_of(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => {
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            Some(address.to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn own_ends_are_those_of_the_processs_sockets() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1 0 111 1\n\
             1: 0100007F:8AE2 0100007F:1538 01 00000000:00000000 00:00000000 00000000  1 0 222 1\n";
        let found = own_ends(table, &["222".to_owned()]);
        let own = SlotClient {
            address: Some("127.0.0.1".to_owned()),
            port: 0x8AE2,
        };
        assert_eq!(found, [own]);
        let six = address_of("00000000000000000000000001000000");
        assert_eq!(six, Some("::1".parse().unwrap()));
        let mapped = address_of("0000000000000000FFFF00000100007F");
        assert_eq!(mapped, Some("127.0.0.1".parse().unwrap()));
    }
}
