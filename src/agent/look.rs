//! The source's facts: what its server says, and what its directory says.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::bracket::{server_fault, slot_facts};
use super::control;
use super::lineage;
use super::options::ServeOptions;
use super::tree::read_fault;
use crate::disk::facts as disk_facts;
use crate::disk::read::read_if_there;
use crate::facts::clone::Mark;
use crate::facts::{Running, SlotHolder, SourceFacts, SourceRights, SourceSettings, Tablespace};
use crate::pg::layout;
use crate::pg::lsn::unbroken_since;
use crate::pg::version::Version;
use crate::plan::clone;
use crate::plan::relation::end_of_wal;
use crate::postmaster;
use crate::sql::Session;
use crate::wire::message::{Fault, FaultKind};
use crate::workers;

/// Longest mark of a copy that is read.
const MARK_MAX: u64 = 1024 * 1024;

/// What the directory is a copy of, if it says so.
fn copy(pgdata: &Path) -> Option<String> {
    let text = read_if_there(&pgdata.join(layout::CLONE_MARK), MARK_MAX);
    let mark: Mark = serde_json::from_slice(&text.ok()??).ok()?;
    Some(clone::words(&mark))
}

/// Looks at server and directory, and makes sure that they belong together.
///
/// # Errors
/// A fault when one of them cannot be read, or they are not the same cluster.
pub async fn source(
    sql: &Session,
    options: &ServeOptions,
    slot: Option<&str>,
    slot_run: Option<SlotHolder>,
) -> Result<SourceFacts, Fault> {
    let server = sql
        .facts()
        .await
        .map_err(|error| server_fault("could not ask the source's server for its facts", &error))?;
    let slot = match slot {
        None => None,
        Some(name) => slot_facts(sql, name).await?,
    };
    let slots = sql.physical_slots().await.map_err(|error| {
        server_fault("could not ask the source for its replication slots", &error)
    })?;
    let upstream = if server.in_recovery {
        Some(lineage::upstream(sql).await?)
    } else {
        None
    };
    let pgdata = options
        .pgdata
        .clone()
        .or_else(|| server.data_directory.as_ref().map(PathBuf::from))
        .ok_or_else(|| {
            Fault::new(
                FaultKind::Unfit,
                format!(
                    "role \"{}\" may not ask the source's server for its data directory",
                    server.rights.role
                ),
            )
            .with_hint("Grant it pg_read_all_settings, or give the agent --pgdata.")
        })?;
    let disk = |error| {
        read_fault(&error).with_hint(
            "The agent must run on the source's host as the owner of its data directory.",
        )
    };
    let control_path = pgdata.join("global/pg_control");
    let read = || disk_facts::control_file(&control_path).map_err(disk);
    let (control, _) = workers::in_place(|| control::settled(read))?;
    let facts = disk_facts::directory(&pgdata)
        .map_err(disk)?
        .ok_or_else(|| missing(&pgdata))?;
    let wal = pgdata.join("pg_wal");
    let wal_facts = disk_facts::directory(&wal)
        .map_err(disk)?
        .ok_or_else(|| missing(&wal))?;
    let pid_file = disk_facts::pid_file(&pgdata)
        .map_err(disk)?
        .unwrap_or_default();
    let port_of_pid_file = String::from_utf8_lossy(&pid_file)
        .lines()
        .nth(3)
        .and_then(|line| line.trim().parse::<u16>().ok());
    if control.system_identifier != server.system_identifier
        || port_of_pid_file != Some(server.port)
    {
        return Err(Fault::new(
            FaultKind::Unfit,
            format!(
                "the server that the agent is connected to does not run on the data directory \"{}\"",
                pgdata.display()
            ),
        )
        .with_hint("Check --source-dbname, and that the agent runs on the server's own host."));
    }
    Ok(SourceFacts {
        host: disk_facts::host(),
        user: disk_facts::user(),
        version: sql.version(),
        has_history_file: disk_facts::has_history(&wal, server.timeline),
        history: disk_facts::history(&wal, server.timeline).map_err(disk)?,
        oldest_wal: unbroken_since(
            disk_facts::segments(&wal, control.wal_segment_bytes)
                .map_err(disk)?
                .iter()
                .map(|segment| segment.number),
            server.current_lsn,
            control.wal_segment_bytes,
        ),
        control,
        in_recovery: server.in_recovery,
        timeline: server.timeline,
        current_lsn: server.current_lsn,
        data_directory: pgdata.as_os_str().as_bytes().to_vec(),
        data_directory_mode: facts.mode,
        identity: facts.identity,
        wal_identity: wal_facts.identity,
        tablespaces: tablespaces(&pgdata)?,
        pid_file,
        log_directory: server.log_directory,
        settings: server.settings,
        rights: server.rights,
        slot,
        slot_run,
        synchronous_standby_names: server.synchronous_standby_names,
        slots,
        upstream,
        is_stopped: false,
        copy: copy(&pgdata),
    })
}

/// Looks at a directory in which no server runs.
///
/// # Errors
/// A fault when it cannot be read, or a server may be running in it.
pub fn stopped(options: &ServeOptions) -> Result<SourceFacts, Fault> {
    let pgdata = options.pgdata.clone().ok_or_else(|| {
        Fault::new(
            FaultKind::Unfit,
            "the agent was not told which data directory",
        )
        .with_hint("Give it --pgdata.")
    })?;
    let disk = |error| {
        read_fault(&error).with_hint(
            "The agent must run on the source's host as the owner of its data directory.",
        )
    };
    let facts = disk_facts::directory(&pgdata)
        .map_err(disk)?
        .ok_or_else(|| missing(&pgdata))?;
    let pid_file = disk_facts::pid_file(&pgdata).map_err(disk)?;
    if postmaster::running(&pgdata, pid_file.as_deref()) != Running::No {
        return Err(Fault::new(
            FaultKind::Unfit,
            format!("a server runs in \"{}\"", pgdata.display()),
        )
        .with_hint("Leave --source-pgdata, or --stopped, out: the agent asks the server then."));
    }
    let path = pgdata.join("global/pg_control");
    let read = || disk_facts::control_file(&path).map_err(disk);
    let (control, _) = control::settled(read)?;
    let major = control.major().ok_or_else(|| {
        let version = control.catalog_version;
        Fault::new(
            FaultKind::Unfit,
            format!("catalog version {version} is that of no release that is known"),
        )
    })?;
    let wal = pgdata.join("pg_wal");
    let wal_facts = disk_facts::directory(&wal)
        .map_err(disk)?
        .ok_or_else(|| missing(&wal))?;
    let timeline = control.timeline_reached();
    let end = end_of_wal(&control);
    Ok(SourceFacts {
        host: disk_facts::host(),
        user: disk_facts::user(),
        version: Version(major * 10_000),
        has_history_file: disk_facts::has_history(&wal, timeline),
        history: disk_facts::history(&wal, timeline).map_err(disk)?,
        oldest_wal: None,
        in_recovery: disk_facts::exists(&pgdata.join("standby.signal")),
        timeline,
        current_lsn: end,
        data_directory: pgdata.as_os_str().as_bytes().to_vec(),
        data_directory_mode: facts.mode,
        identity: facts.identity,
        wal_identity: wal_facts.identity,
        tablespaces: tablespaces(&pgdata)?,
        pid_file: Vec::new(),
        log_directory: "log".to_owned(),
        settings: SourceSettings {
            wal_level: String::new(),
            max_wal_senders: 0,
            active_wal_senders: 0,
            max_replication_slots: 0,
            used_replication_slots: 0,
            full_page_writes: control.full_page_writes,
            data_checksums: control.has_checksums(),
            wal_keep_bytes: 0,
            archive_mode: String::new(),
        },
        rights: SourceRights {
            role: String::new(),
            backup: false,
            replication: false,
        },
        slot: None,
        slot_run: None,
        synchronous_standby_names: String::new(),
        slots: Vec::new(),
        upstream: None,
        is_stopped: true,
        copy: copy(&pgdata),
        control,
    })
}

/// The source's tablespaces now.
///
/// # Errors
/// A fault when pg_tblspc cannot be read.
pub fn tablespaces(pgdata: &Path) -> Result<Vec<Tablespace>, Fault> {
    disk_facts::tablespaces(pgdata).map_err(|error| read_fault(&error))
}

fn missing(path: &Path) -> Fault {
    Fault::new(
        FaultKind::Read,
        format!("\"{}\" does not exist on this host", path.display()),
    )
    .with_hint("The agent must run on the host of the source's server.")
}
