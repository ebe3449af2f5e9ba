//! What the standby's configuration will say, and what the target's own says now.

use std::collections::BTreeMap;
use std::path::Path;

use crate::client::failure::{Failure, TargetState};
use crate::client::look::conf;
use crate::client::options::RebuildOptions;
use crate::client::run::Run;
use crate::disk::conf::Base;
use crate::facts::{Condition, SourceFacts, TargetFacts};
use crate::pg::conf as pg_conf;
use crate::pg::conninfo::Conninfo;
use crate::pg::layout;
use crate::pg::timeline::history_file_name;
use crate::pg::version::Version;
use crate::plan::clone::{CloneSettings, Seclusion};
use crate::plan::configuration;
use crate::plan::guard;
use crate::plan::settings;
use crate::plan::standby::{self as standby_plan, Role, StandbySettings};
use crate::warning::Code;

/// What makes the target a standby; `name` is as [`application_name`] has it.
///
/// # Errors
/// A connection string that cannot be written.
pub fn standby(run: &Run<'_>, name: Option<&str>) -> Result<StandbySettings, Failure> {
    let options = run.options;
    Ok(StandbySettings {
        role: options.role,
        primary_conninfo: match options.role {
            Role::Clone => String::new(),
            Role::Standby | Role::Managed => primary_conninfo(&options.primary, name)?,
        },
        clone: clone(options)?,
        slot: run.slot().map(str::to_owned),
        restore_command: options.restore_command.clone(),
        archive_cleanup_command: options.archive_cleanup_command.clone(),
        recovery_target_timeline: options.recovery_target_timeline.clone(),
        raised: Vec::new(),
        elsewhere: match options.target_config_dir {
            Some(_) => configuration::SAYS
                .into_iter()
                .filter(|name| *name != "port" || options.target_port.is_some())
                .collect(),
            None => Vec::new(),
        },
    })
}

/// What makes the target a copy, if it shall be one.
fn clone(options: &RebuildOptions) -> Result<CloneSettings, Failure> {
    let seclusion = match options.hooks.before_start[..] {
        [] => None,
        [..] => Some(
            seclusion(&options.pgdata)
                .map_err(|error| Failure::new(TargetState::Untouched, error))?,
        ),
    };
    Ok(CloneSettings {
        keeps_archiving: options.keeps_archiving,
        seclusion,
    })
}

/// Longest path of a directory of sockets: a socket's own may have 107 bytes (`sun_path`).
const SOCKETS_MAX: usize = 80;

/// A new place for a server that is kept to itself.
///
/// # Errors
/// There are no random numbers.
pub fn seclusion(pgdata: &Path) -> Result<Seclusion, String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| format!("could not get random numbers: {error}"))?;
    let name = format!("pg_reseed.{:016x}", u64::from_le_bytes(random));
    let place = std::env::temp_dir().join(&name);
    let place = match place.as_os_str().len() {
        0..=SOCKETS_MAX => place,
        _ => Path::new("/tmp").join(&name),
    };
    let file = |name: &str| pgdata.join(name).display().to_string();
    Ok(Seclusion {
        sockets: place.display().to_string(),
        hba_file: file(layout::CLONE_HBA),
        ident_file: file(layout::CLONE_IDENT),
    })
}

/// The connection string that the standby will have.
///
/// # Errors
/// It cannot be written.
pub fn primary_conninfo(
    primary: &Conninfo,
    application_name: Option<&str>,
) -> Result<String, Failure> {
    standby_plan::primary_conninfo(primary, application_name)
        .map_err(|error| Failure::untouched(&error))
}

/// The standby's name where nobody gave one: that of its host. A `cluster_name` of its own needs no help, since a
/// walreceiver uses it (PostgreSQL `walreceiver.c:WalReceiverMain`).
pub fn application_name(options: &RebuildOptions, host: &str, is_seed: bool) -> Option<String> {
    let given = &options.application_name;
    if given.is_some()
        || options.primary.get("application_name").is_some()
        || !options.role.has_settings()
        // It writes what the source's connection string says, and no more.
        || options.rewinds
    {
        return given.clone();
    }
    let is_kept = has_own_configuration(options, is_seed);
    let auto_conf = conf::auto_conf(&options.pgdata).unwrap_or_default();
    let own = with_auto_conf(own_base(options), &auto_conf);
    let has_name = own.get("cluster_name").is_some_and(|name| !name.is_empty());
    if host.is_empty() || is_kept && has_name {
        return None;
    }
    Some(host.to_owned())
}

/// Whether the standby will have a restore_command: a given one, or its own.
pub fn has_restore_command(options: &RebuildOptions, is_seed: bool) -> bool {
    if options.restore_command.is_some() || !has_own_configuration(options, is_seed) {
        return options.restore_command.is_some();
    }
    let auto_conf = conf::auto_conf(&options.pgdata).unwrap_or_default();
    let own = with_auto_conf(own_base(options), &auto_conf);
    own.get("restore_command")
        .is_some_and(|command| !command.is_empty())
}

/// Warns of what of the target's own is set right by the way.
pub fn warn_of_mending(run: &Run<'_>, target: &TargetFacts) {
    if let Condition::Cluster(cluster) = &target.condition
        && let Some(mended) = layout::mended_directory_mode(cluster.mode)
    {
        let mode = cluster.mode;
        run.warn(
            Code::DirectoryModeMended,
            format!(
            "PostgreSQL refuses to start in a data directory with the permissions {mode:04o}: they become \
             {mended:04o}."
        ),
        );
    }
    if let Some(place) = conf::auto_conf_link(&run.options.pgdata) {
        let place = place.display();
        run.warn(
            Code::AutoConfReplaced,
            format!(
            "\"postgresql.auto.conf\" is a link to \"{place}\": a file takes its place, since it must make the target \
             a standby."
        ),
        );
    }
}

/// Warns where a standby of this source streams only if it gets the history file elsewhere.
pub fn warn_of_history(run: &Run<'_>, facts: &SourceFacts) {
    if !facts.has_history_file && run.options.role != Role::Clone {
        let file = history_file_name(facts.timeline);
        run.warn(
            Code::HistoryMissing,
            format!(
            "\"pg_wal/{file}\" is missing on the source: the standby streams only if its restore_command gets \
             that file."
        ),
        );
    }
}

/// What the target's own `postgresql.conf` says; nothing if it gets the source's.
pub fn own_base(options: &RebuildOptions) -> Base {
    match options.target_config_dir {
        Some(_) => Base::default(),
        None => conf::base(&options.pgdata, options.config_file.as_deref()),
    }
}

/// Whether files of this host, and not the source's, say what the standby's settings are.
pub fn has_own_configuration(options: &RebuildOptions, is_seed: bool) -> bool {
    options.target_config_dir.is_none()
        && (is_outside(options) || !(is_seed || options.config_from_source))
}

/// Whether the standby's configuration lies outside of its data directory.
pub fn is_outside(options: &RebuildOptions) -> bool {
    let file = options.config_file.as_ref();
    file.is_some_and(|file| !file.starts_with(&options.pgdata))
}

/// The settings that must be raised to the source's, if any may. Those of a managed standby are its manager's.
///
/// # Errors
/// They are lower, and `--raise-settings` was not given.
pub fn raised(
    options: &RebuildOptions,
    facts: &SourceFacts,
    auto_conf: &[u8],
) -> Result<Vec<(&'static str, String)>, Failure> {
    if !options.role.has_settings() {
        return Ok(Vec::new());
    }
    let base = own_base(options);
    if (base.files.is_empty() || !base.problems.is_empty()) && !options.raise_settings {
        // The server has its configuration where nobody told, or parts of it cannot be read.
        return Ok(Vec::new());
    }
    let configured = with_auto_conf(base, auto_conf);
    let low = settings::too_low(&facts.control, facts.version, &configured);
    if options.raise_settings {
        let raised = low.iter().map(|low| (low.name, low.source.to_string()));
        return Ok(raised.collect());
    }
    guard::settings(low).map_err(|refusal| Failure::refused(&[refusal]))?;
    Ok(Vec::new())
}

/// Warns of what slot synchronisation lacks, if the target's own configuration asks for it.
pub fn warn_of_slot_sync(run: &Run<'_>, version: Version, auto_conf: &[u8]) {
    let options = run.options;
    if !options.role.has_settings() {
        return;
    }
    let configured = with_auto_conf(own_base(options), auto_conf);
    let has_database = options.primary.get("dbname").is_some();
    let lacks = settings::slot_sync_lacks(&configured, version, has_database, run.slot().is_some());
    if !lacks.is_empty() {
        run.warn(
            Code::SlotSyncIncomplete,
            format!(
            "The target's configuration asks for slot synchronisation (sync_replication_slots), which also \
             needs {}.",
            lacks.join(", ")
        ),
        );
    }
}

/// What all files together set.
fn with_auto_conf(base: Base, auto_conf: &[u8]) -> BTreeMap<String, String> {
    let mut configured = base.settings;
    configured.extend(of_auto_conf(auto_conf));
    configured
}

/// What the text sets. One that cannot be read is refused by its own name.
pub fn of_auto_conf(text: &[u8]) -> BTreeMap<String, String> {
    pg_conf::parse(text).map_or_else(|_| BTreeMap::new(), |lines| pg_conf::effective(&lines))
}
