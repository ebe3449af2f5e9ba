//! How the target's server is reached and whom it follows, and which addresses are this host's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::look::conf;
use crate::disk::facts as disk;
use crate::disk::read::read_if_there;
use crate::facts::{Condition, Live, Running, SourceFacts, Standing, TargetCluster, TargetFacts};
use crate::link::name;
use crate::pg::conninfo::Conninfo;
use crate::pg::opts::Opts;
use crate::postmaster::{self, Receives};
use crate::sql::{Defaults, SOCKET_DIRECTORIES, Session};

/// How long the target's server may take to say where it stands.
const SAID_WITHIN: Duration = Duration::from_secs(10);

/// Longest file that is read.
const SMALL_FILE_MAX: u64 = 1024 * 1024;

/// Most addresses that are looked at: no honest agent names more.
const ADDRESSES_MAX: usize = 1000;

/// libpq's default, and the server's.
const DEFAULT_PORT: u16 = 5432;

/// Adds to the target's facts what its configuration says of it, and what its server says if it runs and lets this
/// user in. `config_file` is its main configuration file if that is elsewhere.
pub async fn complete(target: &mut TargetFacts, pgdata: &Path, config_file: Option<&Path>) {
    let user = target.user.clone();
    if let Condition::Cluster(cluster) = &mut target.condition {
        let mut standing = standing(pgdata, config_file, cluster);
        if let Running::Server { pid } = cluster.running {
            let receiver = postmaster::receiver(pid);
            standing.receives = receiver.is_some();
            standing.received = receiver.and_then(|receiver| match receiver.receives {
                Receives::Streams(lsn) => lsn,
                Receives::Unknown => None,
            });
            let asked = tokio::time::timeout(SAID_WITHIN, ask(&standing, &user));
            standing.live = asked.await.ok().flatten();
        }
        cluster.standing = standing;
    }
}

/// Asks the target's server once more where it stands, if it let us in before.
pub async fn ask_again(target: &TargetFacts) -> Option<Live> {
    match &target.condition {
        Condition::Cluster(cluster) if cluster.standing.live.is_some() => {
            let asked = ask(&cluster.standing, &target.user);
            tokio::time::timeout(SAID_WITHIN, asked)
                .await
                .ok()
                .flatten()
        }
        _ => None,
    }
}

/// What files say.
fn standing(pgdata: &Path, config_file: Option<&Path>, cluster: &TargetCluster) -> Standing {
    let opts = read_if_there(&pgdata.join("postmaster.opts"), SMALL_FILE_MAX);
    let opts = opts.ok().flatten();
    // No base backup has the file, and each start writes it.
    let is_unstarted =
        opts.is_none() && disk::exists(&pgdata.join("backup_label")) || cluster.backup.is_some();
    let opts = opts.unwrap_or_default();
    let opts = Opts::parse(&String::from_utf8_lossy(&opts)).unwrap_or_default();
    let last_file = opts.setting("config_file").map(PathBuf::from);
    let config_file = config_file.or(last_file.as_deref());
    let auto_conf = conf::auto_conf(pgdata).unwrap_or_default();
    let settings = conf::base(pgdata, config_file)
        .followed_by(&pgdata.join(conf::AUTO_CONF), &auto_conf)
        .settings;
    let setting = |name: &str| {
        let found = opts.setting(name).or_else(|| settings.get(name).cloned());
        found.filter(|value| !value.is_empty())
    };
    // The fourth and fifth line (PostgreSQL `pidfile.h`).
    let pid_file = String::from_utf8_lossy(&cluster.pid_file);
    let line = |at: usize| pid_file.lines().nth(at).map(|line| line.trim().to_owned());
    let sockets = setting("unix_socket_directories");
    let mut sockets: Vec<String> = sockets.map_or_else(
        || SOCKET_DIRECTORIES.map(str::to_owned).to_vec(),
        |list| list.split(',').map(|one| one.trim().to_owned()).collect(),
    );
    let first = line(4).filter(|socket| !socket.is_empty());
    sockets.splice(0..0, first);
    let port = line(3).or_else(|| setting("port"));
    Standing {
        port: port
            .and_then(|port| port.parse().ok())
            .unwrap_or(DEFAULT_PORT),
        sockets,
        primary_conninfo: setting("primary_conninfo"),
        primary_slot_name: setting("primary_slot_name"),
        live: None,
        receives: false,
        received: None,
        is_unstarted,
    }
}

/// Asks the target's server over its socket.
async fn ask(standing: &Standing, user: &str) -> Option<Live> {
    let mut conninfo = Conninfo::default();
    let socket = standing.sockets.first()?;
    conninfo.set("host", socket).ok()?;
    conninfo.set("port", &standing.port.to_string()).ok()?;
    let defaults = Defaults {
        user: user.to_owned(),
        passfile: None,
    };
    let asked = async { Session::connect(&conninfo, &defaults).await?.live().await };
    asked
        .await
        .inspect_err(|error| {
            tracing::debug!("the target's server does not tell where it stands: {error}");
        })
        .ok()
}

/// Those of the addresses in the source's facts that are this host's.
pub fn local_addresses(facts: &SourceFacts) -> Vec<String> {
    let upstream = facts.upstream.iter();
    upstream
        .flat_map(|upstream| upstream.servers.iter().chain(&upstream.behind))
        .flat_map(|server| &server.addresses)
        .take(ADDRESSES_MAX)
        .filter(|address| name::is_local(address))
        .cloned()
        .collect()
}
