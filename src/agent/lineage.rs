//! Whom the source follows: the server that it receives from, and those behind it as far as their directories
//! can be read on this host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::bracket::server_fault;
use crate::disk::conf as disk_conf;
use crate::disk::facts as disk;
use crate::disk::read::read_if_there;
use crate::facts::{Server, Upstream};
use crate::link::name;
use crate::pg::conf;
use crate::pg::conninfo::Conninfo;
use crate::plan::lineage::{self, Named};
use crate::sql::{SOCKET_DIRECTORIES, Session};
use crate::wire::message::Fault;

/// Most servers in a row that are looked at: a circle has no end.
const HOPS_MAX: usize = 8;

/// Longest lock file or configuration file that is read.
const SMALL_FILE_MAX: u64 = 16 * 1024 * 1024;

/// Asks the source's server whom it follows, and looks where that leads.
///
/// # Errors
/// The server's refusal.
pub async fn upstream(sql: &Session) -> Result<Upstream, Fault> {
    let fault = |error| server_fault("could not ask the source whom it follows", &error);
    let receiver = sql.receiver().await.map_err(fault)?;
    let conninfo = sql.primary_conninfo().await.map_err(fault)?;
    let conninfo = conninfo.map(|text| Conninfo::parse(&text).unwrap_or_default());
    let connected = receiver
        .as_ref()
        .filter(|receiver| receiver.is_streaming() && !receiver.host.is_empty());
    let named = match (connected, &conninfo) {
        (Some(receiver), _) => vec![Named {
            host: receiver.host.clone(),
            port: receiver.port,
        }],
        (None, Some(conninfo)) => lineage::servers(conninfo),
        (None, None) => Vec::new(),
    };
    let mut servers = Vec::new();
    for named in named {
        servers.push(look(named).await);
    }
    let mut behind = Vec::new();
    // Of several that it might follow, none is known.
    let mut last = match &servers[..] {
        [one] => Some(one.clone()),
        _ => None,
    };
    while let Some(server) = last.take() {
        if behind.len() < HOPS_MAX
            && server.in_recovery == Some(true)
            && let Some(pgdata) = &server.data_directory
            && let [named] = &followed(Path::new(pgdata))[..]
        {
            let next = look(named.clone()).await;
            behind.push(next.clone());
            last = Some(next);
        }
    }
    Ok(Upstream {
        receiver,
        primary_conninfo: conninfo.map(|conninfo| {
            let shown = conninfo.without_secrets();
            shown.to_keyword_value().unwrap_or_default()
        }),
        servers,
        behind,
    })
}

/// Looks at a server from here.
async fn look(Named { host, port }: Named) -> Server {
    let is_socket = host.is_empty() || host.starts_with(['/', '@']);
    let addresses = if is_socket {
        Vec::new()
    } else {
        name::addresses(&host).await
    };
    let is_here = addresses.iter().any(|address| name::is_local(address));
    let pgdata = crate::workers::in_place(|| {
        if host.starts_with('/') {
            lock_file(Path::new(&host), port)
        } else if host.is_empty() || is_here {
            let mut places = SOCKET_DIRECTORIES.iter();
            places.find_map(|place| lock_file(Path::new(place), port))
        } else {
            None
        }
    });
    let identity = pgdata.as_deref().and_then(|pgdata| {
        let found = disk::directory(pgdata).ok().flatten();
        found.map(|found| found.identity)
    });
    let in_recovery = pgdata
        .as_deref()
        .filter(|_| identity.is_some())
        .and_then(|pgdata| {
            disk::exists(&pgdata.join("global/pg_control"))
                .then(|| disk::exists(&pgdata.join("standby.signal")))
        });
    Server {
        host,
        port,
        addresses,
        data_directory: pgdata.map(|pgdata| pgdata.display().to_string()),
        identity,
        in_recovery,
    }
}

/// The data directory of the server whose socket is there: the second line of the socket's lock file (PostgreSQL
/// `miscinit.c:CreateLockFile`).
fn lock_file(directory: &Path, port: u16) -> Option<PathBuf> {
    let path = directory.join(format!(".s.PGSQL.{port}.lock"));
    let text = read_if_there(&path, SMALL_FILE_MAX).ok()??;
    let text = String::from_utf8(text).ok()?;
    text.lines().nth(1).map(PathBuf::from)
}

/// The servers that a data directory's configuration leads to.
fn followed(pgdata: &Path) -> Vec<Named> {
    let base = disk_conf::read(&pgdata.join("postgresql.conf"), false);
    let mut settings: BTreeMap<String, String> = base.settings;
    let auto = read_if_there(&pgdata.join("postgresql.auto.conf"), SMALL_FILE_MAX);
    if let Ok(Some(text)) = auto
        && let Ok(lines) = conf::parse(&text)
    {
        settings.extend(conf::effective(&lines));
    }
    let conninfo = settings.get("primary_conninfo");
    let conninfo = conninfo.and_then(|text| Conninfo::parse(text).ok());
    conninfo.map_or_else(Vec::new, |conninfo| lineage::servers(&conninfo))
}
