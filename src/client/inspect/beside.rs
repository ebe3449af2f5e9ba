//! Whether the server that a standby receives from, or would, is the source that was asked.

use std::time::Duration;

use crate::client::finish::watch;
use crate::client::source::Source;
use crate::facts::{Condition, Running, SourceFacts, TargetFacts};
use crate::link::name;
use crate::pg::conninfo::Conninfo;
use crate::plan::lineage::{Named, servers};
use crate::plan::state;
use crate::postmaster;
use crate::wire::message::WalSender;

/// How long the source may take to say who streams from it.
const SAID_WITHIN: Duration = Duration::from_secs(10);

/// What tells it.
#[derive(Debug, Default)]
pub struct Seen {
    pub is_sender: bool,
    pub is_named: bool,
}

/// Looks whether the target's server receives from the source, and whether its configuration leads there. `typed` is
/// how the source is reached.
pub async fn look(
    target: &TargetFacts,
    facts: &SourceFacts,
    source: &Source,
    typed: &Conninfo,
) -> Seen {
    let Condition::Cluster(cluster) = &target.condition else {
        return Seen::default();
    };
    let place = Place::of(target, facts, typed).await;
    let mut is_named = false;
    for named in state::named(cluster) {
        is_named |= place.is_at(&named).await;
    }
    let Running::Server { pid } = cluster.running else {
        return Seen {
            is_sender: false,
            is_named,
        };
    };
    let live = cluster.standing.live.as_ref();
    let receiver = live.and_then(|live| live.receiver.as_ref());
    let told = receiver.filter(|receiver| !receiver.host.is_empty());
    let is_sender = match told {
        Some(receiver) => {
            place
                .is_at(&Named {
                    host: receiver.host.clone(),
                    port: receiver.port,
                })
                .await
        }
        None => is_named,
    };
    // A name for the source that this host does not know tells nothing; its walsenders may.
    let is_sender = is_sender || {
        let slot = receiver
            .and_then(|receiver| receiver.slot.as_deref())
            .or(cluster.standing.primary_slot_name.as_deref());
        match watch::senders(source, SAID_WITHIN).await {
            Ok(senders) => serves(&senders, pid, slot),
            Err(_) => false,
        }
    };
    Seen {
        is_sender,
        is_named: is_named || is_sender,
    }
}

/// Whether one of the source's walsenders is at the other end of the walreceiver of the server with this pid: by its
/// end of the connection.
fn serves(senders: &[WalSender], pid: u32, slot: Option<&str>) -> bool {
    let Some(receiver) = postmaster::receiver(pid) else {
        return false;
    };
    senders.iter().any(|sender| {
        let client = sender.client.as_ref();
        client.is_some_and(|client| receiver.ends.contains(client))
            && (slot.is_none() || sender.slot.as_deref() == slot)
    })
}

/// Where the source's server is, as far as this host knows.
struct Place {
    typed: Vec<Named>,
    /// The addresses of those.
    addresses: Vec<(String, u16)>,
    /// The source runs on this kernel: its port, and the directory of its socket.
    here: Option<(u16, String)>,
}

impl Place {
    async fn of(target: &TargetFacts, facts: &SourceFacts, typed: &Conninfo) -> Self {
        let typed = servers(typed);
        let mut addresses = Vec::new();
        for named in typed.iter().filter(|named| is_host(named)) {
            for address in name::addresses(&named.host).await {
                addresses.push((address, named.port));
            }
        }
        // The fourth and fifth line (PostgreSQL `pidfile.h`).
        let text = String::from_utf8_lossy(&facts.pid_file);
        let mut lines = text.lines().skip(3).map(str::trim);
        let port = lines.next().and_then(|line| line.parse().ok());
        let socket = lines.next().unwrap_or_default().to_owned();
        Self {
            typed,
            addresses,
            here: port
                .filter(|_| target.host.is_same_kernel(&facts.host))
                .map(|port| (port, socket)),
        }
    }

    async fn is_at(&self, named: &Named) -> bool {
        let plain = |host: &str| host.trim_end_matches('/').to_ascii_lowercase();
        let is_same =
            |one: &Named| one.port == named.port && plain(&one.host) == plain(&named.host);
        if !is_host(named) {
            // A socket is on its own host.
            return match &self.here {
                Some((port, socket)) => {
                    *port == named.port && plain(socket) == plain(&named.host)
                        || self.typed.iter().any(is_same)
                }
                None => false,
            };
        }
        if self.typed.iter().any(is_same) {
            return true;
        }
        let found = name::addresses(&named.host).await;
        let is_here = |address: &String| {
            self.here
                .as_ref()
                .is_some_and(|(port, _)| *port == named.port && name::is_local(address))
        };
        found.iter().any(|address| {
            is_here(address) || self.addresses.contains(&(address.clone(), named.port))
        })
    }
}

/// Whether it is a name or an address, and no socket.
fn is_host(named: &Named) -> bool {
    !named.host.is_empty() && !named.host.starts_with(['/', '@'])
}
