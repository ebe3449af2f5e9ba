//! Where the source leads: a standby of it must get its WAL from a primary that is not the target.
//!
//! A primary leads to itself. A source in recovery follows somebody, and two kinds of things tell whom. The
//! addresses: the walreceiver's sender, `primary_conninfo`, and the directories behind them, as far as they can be
//! seen. And the WAL: a timeline has one primary, so that a source in recovery on the timeline on which the target
//! was the primary follows the target, directly or not, unless it has WAL that the target has not.
//!
//! A copy of a primary on the primary's own timeline (a disk's snapshot that was started elsewhere) looks like
//! the primary itself until one of both has written something. There the override is for.

use std::fmt;

use crate::facts::{Condition, Receiver, Running, Server, SourceFacts, TargetCluster, TargetFacts};
use crate::pg::conninfo::Conninfo;
use crate::pg::control::{ClusterState, ControlFile};
use crate::pg::lsn::Lsn;
use crate::pg::timeline::{TimelineId, divergence};
use crate::plan::relation::end_of_wal;

/// libpq's default, unless it was built with another.
const DEFAULT_PORT: u16 = 5432;

/// A page header may stand in the middle of the last record (`xlog_internal.h:XLogLongPageHeaderData`).
const PAGE_HEADER_MAX: u64 = 40;

/// A server as a connection string names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Empty for the default, a socket.
    pub host: String,
    pub port: u16,
}

/// The servers that a connection string leads to, in their order; none if it is empty.
#[must_use]
pub fn servers(conninfo: &Conninfo) -> Vec<Named> {
    if conninfo.iter().next().is_none() {
        return Vec::new();
    }
    let list = |keyword| {
        let value = conninfo.get(keyword).unwrap_or_default();
        value.split(',').map(str::to_owned).collect::<Vec<_>>()
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let hosts = if addresses.iter().all(String::is_empty) {
        names
    } else {
        addresses
    };
    let port = |at: usize| {
        let text = if ports.len() == 1 {
            ports.first()
        } else {
            ports.get(at)
        };
        text.and_then(|text| text.trim().parse().ok())
            .unwrap_or(DEFAULT_PORT)
    };
    let named = hosts.into_iter().enumerate();
    named
        .map(|(at, host)| Named {
            host,
            port: port(at),
        })
        .collect()
}

/// Where the source leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lineage {
    /// It is a primary.
    Primary,
    /// It is a standby, and a primary that is not the target is behind it.
    HasPrimary { server: String },
    /// It is a standby that receives from a server of which nothing more can be seen.
    Unseen { server: String },
    /// It is a standby that receives from nobody now; whom it would follow, if that is known.
    Alone { servers: Vec<String> },
    /// It is a standby of the target.
    OfTarget(Evidence),
}

/// What tells that the source is a standby of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// The target's server sends to it.
    Receives { server: String },
    /// It receives from nobody now, and `primary_conninfo` leads to the target.
    Configured { server: String },
    /// A server behind the one that it follows is the target.
    Behind { server: String },
    /// The target was, or is, the primary of the timeline on which the source is in recovery, and the source has
    /// nothing that the target has not.
    Timeline { timeline: TimelineId, end: Lsn },
}

/// Tells where the source leads. `local` are those of the addresses in the source's facts that are the
/// target's host's.
#[must_use]
pub fn lineage(target: &TargetFacts, source: &SourceFacts, local: &[String]) -> Lineage {
    if !source.in_recovery {
        return Lineage::Primary;
    }
    let cluster = match &target.condition {
        Condition::Cluster(cluster) => Some(&**cluster),
        _ => None,
    };
    let upstream = source.upstream.clone().unwrap_or_default();
    let is_streaming = upstream
        .receiver
        .as_ref()
        .is_some_and(Receiver::is_streaming);
    let is_target = |server: &Server| {
        cluster.is_some_and(|cluster| is_target(server, target, cluster, source, local))
    };
    let runs = cluster.is_some_and(|cluster| matches!(cluster.running, Running::Server { .. }));
    // Who sends runs: a target that does not has left its address to another server.
    let first = upstream.servers.first();
    if let Some(server) = first
        && upstream.servers.iter().all(is_target)
        && (runs || !is_streaming)
    {
        let server = server.to_string();
        return Lineage::OfTarget(if is_streaming {
            Evidence::Receives { server }
        } else {
            Evidence::Configured { server }
        });
    }
    if let Some(server) = upstream.behind.iter().find(|server| is_target(server)) {
        return Lineage::OfTarget(Evidence::Behind {
            server: server.to_string(),
        });
    }
    let primary = first.into_iter().chain(&upstream.behind).find(|server| {
        server.in_recovery == Some(false) && upstream.servers.len() == 1 && !is_target(server)
    });
    // One that is configured and not there proves nothing.
    if let Some(server) = primary.filter(|_| is_streaming) {
        return Lineage::HasPrimary {
            server: server.to_string(),
        };
    }
    if let Some(evidence) = cluster.and_then(|cluster| by_timeline(cluster, source)) {
        return Lineage::OfTarget(evidence);
    }
    match (&upstream.receiver, first) {
        (Some(_), Some(server)) if is_streaming => Lineage::Unseen {
            server: server.to_string(),
        },
        (Some(receiver), _) if is_streaming || receiver.status.is_empty() => Lineage::Unseen {
            server: "a server that the agent's role may not ask for".to_owned(),
        },
        _ => Lineage::Alone {
            servers: upstream.servers.iter().map(ToString::to_string).collect(),
        },
    }
}

/// Whether a server as the source names it is the target's.
fn is_target(
    server: &Server,
    target: &TargetFacts,
    cluster: &TargetCluster,
    source: &SourceFacts,
    local: &[String],
) -> bool {
    if target.host.is_same_kernel(&source.host)
        && let Some(identity) = server.identity
    {
        return identity == cluster.identity;
    }
    let is_one_host = target.host == source.host;
    let standing = &cluster.standing;
    // The configuration of a copy that was never started is that of the server that it was copied from.
    if standing.is_unstarted || server.port != standing.port {
        return false;
    }
    if server.addresses.is_empty() {
        let directory = server.host.trim_end_matches('/');
        let mut sockets = standing.sockets.iter();
        return is_one_host && sockets.any(|socket| socket.trim_end_matches('/') == directory);
    }
    let is_loopback = |address: &str| {
        let address = address.parse::<core::net::IpAddr>();
        address.is_ok_and(|address| address.is_loopback())
    };
    server.addresses.iter().any(|address| {
        if is_loopback(address) {
            is_one_host
        } else {
            local.contains(address)
        }
    })
}

/// Whether the WAL tells that the source follows the target.
fn by_timeline(cluster: &TargetCluster, source: &SourceFacts) -> Option<Evidence> {
    let control = cluster.control.as_ref()?;
    if control.system_identifier != source.control.system_identifier || !was_primary(cluster) {
        return None;
    }
    let parts = divergence(&cluster.history, &source.history)?;
    let timeline = source.timeline;
    if parts.lsn.is_some() || cluster.history.tip() != timeline || parts.timeline != timeline {
        return None;
    }
    let end = furthest(cluster, control);
    let live = cluster.standing.live.as_ref();
    let said = live.map_or(Lsn::INVALID, |live| live.end);
    let has_more = end.is_some_and(|end| source.current_lsn > end);
    (!has_more).then_some(Evidence::Timeline {
        timeline,
        end: end_of_wal(control).max(said),
    })
}

/// Whether the target wrote the WAL of its timeline itself.
fn was_primary(cluster: &TargetCluster) -> bool {
    // What an interrupted run has begun to replace is no primary any more, and what it was is not known for sure.
    if cluster.standing.is_unstarted || cluster.interrupted.is_some() {
        return false;
    }
    let state = cluster.control.as_ref().map(|control| control.state);
    match &cluster.standing.live {
        Some(live) => !live.in_recovery,
        None => !matches!(
            state,
            None | Some(ClusterState::ShutDownInRecovery | ClusterState::InArchiveRecovery)
        ),
    }
}

/// The position behind which the target wrote nothing; `None` when it may be writing now.
fn furthest(cluster: &TargetCluster, control: &ControlFile) -> Option<Lsn> {
    if control.state == ClusterState::ShutDown {
        let end = end_of_wal(control).0;
        return Some(Lsn(end.saturating_add(PAGE_HEADER_MAX)));
    }
    match cluster.running {
        Running::Server { .. } => None,
        // An upper bound.
        _ => cluster
            .wal_segments_end
            .map(|end| Lsn(end.0.saturating_add(PAGE_HEADER_MAX))),
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.as_str() {
            "" => write!(f, "port {}", self.port),
            host => write!(f, "\"{host}\" port {}", self.port),
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Evidence::Receives { server } => {
                write!(
                    f,
                    "It receives its WAL from {server}, which is the target's server."
                )
            }
            Evidence::Configured { server } => write!(
                f,
                "It receives WAL from no server now, and its primary_conninfo leads to {server}, which is the \
                 target's server."
            ),
            Evidence::Behind { server } => write!(
                f,
                "It follows a server that follows {server}, which is the target's server."
            ),
            Evidence::Timeline { timeline, end } => write!(
                f,
                "It is in recovery on timeline {timeline}, whose primary is the target, and it has no WAL that the \
                 target, at {end} at least, has not."
            ),
        }
    }
}

impl Lineage {
    /// What the DBA should know about a source that may be followed: a sentence.
    #[must_use]
    pub fn remark(&self) -> Option<Remark> {
        match self {
            Lineage::Primary | Lineage::OfTarget(_) => None,
            Lineage::HasPrimary { server } => Some(Remark::Note(format!(
                "The source is a standby; a primary is behind it, at {server}."
            ))),
            Lineage::Unseen { server } => Some(Remark::Note(format!(
                "The source is a standby that receives from {server}: what is behind that server cannot be seen from \
                 here."
            ))),
            Lineage::Alone { servers } => {
                let would = match &servers[..] {
                    [] => String::new(),
                    some => format!(" It would follow {}.", some.join(" or ")),
                };
                Some(Remark::Warning(format!(
                    "The source is a standby that receives WAL from no server: it is not sure that any primary is \
                     left.{would}"
                )))
            }
        }
    }
}

/// A sentence, and how loud it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    Note(String),
    Warning(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Interrupted, Live, Upstream};
    use crate::plan::samples::{self, END, control, diverged_target, host, identity};

    /// A source in recovery, and a target that was shut down cleanly as the primary of its timeline.
    struct Scene {
        target: TargetFacts,
        source: SourceFacts,
        local: Vec<String>,
    }

    impl Scene {
        fn new() -> Self {
            let mut source = samples::source();
            source.in_recovery = true;
            source.upstream = Some(Upstream::default());
            let mut scene = Self {
                target: diverged_target(),
                source,
                local: Vec::new(),
            };
            let history = scene.source.history.clone();
            let end = scene.source.current_lsn;
            let cluster = scene.cluster();
            cluster.history = history;
            cluster.standing.port = 5432;
            // Its last record is its shutdown checkpoint, which the source has replayed.
            cluster.control = Some(control(2, end.0 - 120, ClusterState::ShutDown));
            scene
        }

        fn cluster(&mut self) -> &mut TargetCluster {
            match &mut self.target.condition {
                Condition::Cluster(cluster) => cluster,
                other => panic!("no cluster: {other:?}"),
            }
        }

        fn upstream(&mut self) -> &mut Upstream {
            self.source.upstream.as_mut().unwrap()
        }

        /// A target that never wrote on the source's timeline.
        fn standby() -> Self {
            let mut scene = Self::new();
            let end = scene.source.current_lsn;
            scene.cluster().control =
                Some(control(2, end.0 - 120, ClusterState::ShutDownInRecovery));
            scene
        }

        fn streams_from(&mut self, server: Server) {
            let upstream = self.upstream();
            upstream.receiver = Some(Receiver {
                status: "streaming".to_owned(),
                host: server.host.clone(),
                port: server.port,
                slot: None,
            });
            upstream.servers = vec![server];
        }

        fn lineage(&self) -> Lineage {
            lineage(&self.target, &self.source, &self.local)
        }

        fn is_of_target(&self) -> bool {
            matches!(self.lineage(), Lineage::OfTarget(_))
        }
    }

    fn at(address: &str, port: u16) -> Server {
        Server {
            host: "db1".to_owned(),
            port,
            addresses: vec![address.to_owned()],
            ..Server::default()
        }
    }

    #[test]
    fn a_standby_on_the_timeline_of_which_the_target_was_the_primary_follows_it() {
        let mut scene = Scene::new();
        assert!(scene.is_of_target());
        // Whoever it receives from: that may be a standby of the target as well.
        scene.streams_from(at("192.0.2.7", 5432));
        assert!(scene.is_of_target());
        // Unless that is seen to be a primary.
        scene.upstream().servers[0].in_recovery = Some(false);
        assert!(matches!(scene.lineage(), Lineage::HasPrimary { .. }));
        // A primary leads to itself.
        scene.source.in_recovery = false;
        assert_eq!(scene.lineage(), Lineage::Primary);
    }

    #[test]
    fn wal_that_the_target_has_not_proves_another_primary() {
        for (state, beyond, is_of_target) in [
            (ClusterState::ShutDown, 40, true),
            (ClusterState::ShutDown, 48, false),
            (ClusterState::InProduction, 48, true),
            (ClusterState::InProduction, 0x200_0000, false),
        ] {
            let mut scene = Scene::new();
            scene.cluster().control = Some(control(2, END.0 - 120, state));
            scene.source.current_lsn = Lsn(END.0 + beyond);
            assert_eq!(scene.is_of_target(), is_of_target, "{state:?} {beyond:#x}");
            // One that runs may be writing.
            scene.cluster().running = Running::Server { pid: 7 };
            if state == ClusterState::InProduction {
                assert!(scene.is_of_target());
            }
        }
    }

    #[test]
    fn another_timeline_and_a_former_standby_prove_nothing() {
        assert!(!Scene::standby().is_of_target());
        let mut scene = Scene::new();
        scene.target = diverged_target();
        assert!(!scene.is_of_target());
        // A base backup of a primary, and what an interrupted run has left.
        let mut scene = Scene::new();
        scene.cluster().standing.is_unstarted = true;
        assert!(!scene.is_of_target());
        let mut scene = Scene::new();
        scene.cluster().interrupted = Some(Interrupted {
            started_unix_seconds: 1,
            start_lsn: Lsn(1),
            ..Interrupted::default()
        });
        assert!(!scene.is_of_target());
        // A server that says itself that it is a standby.
        let mut scene = Scene::new();
        scene.cluster().standing.live = Some(Live {
            in_recovery: true,
            end: END,
            ..Live::default()
        });
        assert!(!scene.is_of_target());
    }

    #[test]
    fn addresses_lead_to_the_target() {
        let mut scene = Scene::standby();
        scene.local = vec!["192.0.2.7".to_owned()];
        scene.upstream().servers = vec![at("192.0.2.7", 5432)];
        assert!(matches!(
            scene.lineage(),
            Lineage::OfTarget(Evidence::Configured { .. })
        ));
        scene.streams_from(at("192.0.2.7", 5432));
        // The target does not run: whoever sends is another server.
        assert!(matches!(scene.lineage(), Lineage::Unseen { .. }));
        scene.cluster().running = Running::Server { pid: 7 };
        assert!(matches!(
            scene.lineage(),
            Lineage::OfTarget(Evidence::Receives { .. })
        ));
        for (address, port) in [("192.0.2.7", 5433), ("192.0.2.8", 5432)] {
            scene.streams_from(at(address, port));
            assert!(!scene.is_of_target(), "{address} {port}");
        }
        // Of several hosts one is the target: it may follow another.
        scene.upstream().receiver = None;
        scene.upstream().servers = vec![at("192.0.2.7", 5432), at("192.0.2.8", 5432)];
        assert!(matches!(scene.lineage(), Lineage::Alone { .. }));
    }

    #[test]
    fn loopback_and_sockets_mean_the_sources_own_host() {
        let socket = Server {
            host: "/run/a".to_owned(),
            port: 5432,
            ..Server::default()
        };
        for server in [at("127.0.0.1", 5432), socket] {
            let mut scene = Scene::standby();
            scene.cluster().standing.sockets = vec!["/run/a/".to_owned()];
            scene.upstream().servers = vec![server];
            assert!(!scene.is_of_target());
            scene.target.host = scene.source.host.clone();
            assert!(scene.is_of_target());
        }
    }

    #[test]
    fn on_one_kernel_the_directory_decides() {
        let mut scene = Scene::standby();
        scene.target.host = host("b");
        scene.upstream().servers = vec![Server {
            identity: Some(identity(200)),
            ..at("192.0.2.9", 1)
        }];
        assert!(scene.is_of_target());
        scene.upstream().servers[0].identity = Some(identity(201));
        assert!(!scene.is_of_target());
        scene.upstream().behind = vec![Server {
            identity: Some(identity(200)),
            ..Server::default()
        }];
        assert!(matches!(
            scene.lineage(),
            Lineage::OfTarget(Evidence::Behind { .. })
        ));
    }

    #[test]
    fn a_connection_string_names_its_servers() {
        let named = |text: &str| {
            servers(&Conninfo::parse(text).unwrap())
                .into_iter()
                .map(|named| format!("{}:{}", named.host, named.port))
                .collect::<Vec<_>>()
        };
        assert_eq!(named(""), [""; 0]);
        assert_eq!(named("user=x"), [":5432"]);
        assert_eq!(named("host=a,b port=1,2"), ["a:1", "b:2"]);
        assert_eq!(named("host=a,b port=6432"), ["a:6432", "b:6432"]);
        assert_eq!(named("host=a hostaddr=192.0.2.1"), ["192.0.2.1:5432"]);
    }
}
