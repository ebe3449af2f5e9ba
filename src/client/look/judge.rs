//! The guards of `plan`, fed with what was seen: each refuses before anything changes.

use std::path::{Path, PathBuf};

use crate::client::failure::{Failure, TargetState};
use crate::client::look::{settings, target};
use crate::client::options::RebuildOptions;
use crate::client::run::Run;
use crate::facts::{SourceFacts, TargetFacts};
use crate::plan::guard::{self, Cleared, Findings, Situation};
use crate::plan::relation::relate;
use crate::plan::tablespaces::{self, TargetPlaces};
use crate::postmaster;

pub fn judge(
    options: &RebuildOptions,
    target: &TargetFacts,
    facts: &SourceFacts,
) -> Result<Cleared, Failure> {
    let places = places(options, target, facts)?;
    guard::judge(&situation(options, target, facts, &places))
        .map_err(|refusals| Failure::refused(&refusals))
}

pub fn judge_before_stop(
    options: &RebuildOptions,
    target: &TargetFacts,
    facts: &SourceFacts,
) -> Result<Findings, Failure> {
    let places = places(options, target, facts)?;
    guard::judge_before_stop(&situation(options, target, facts, &places))
        .map_err(|refusals| Failure::refused(&refusals))
}

fn places(
    options: &RebuildOptions,
    target: &TargetFacts,
    facts: &SourceFacts,
) -> Result<TargetPlaces, Failure> {
    target::places(
        &options.pgdata,
        options.waldir.as_deref(),
        target,
        target.host.is_same_kernel(&facts.host),
        tablespaces::would_be(&facts.tablespaces, &options.mappings),
        &tablespaces::version_directory(facts),
    )
    .map_err(|error| Failure::untouched(&error))
}

fn situation<'a>(
    options: &'a RebuildOptions,
    target: &'a TargetFacts,
    source: &'a SourceFacts,
    places: &'a TargetPlaces,
) -> Situation<'a> {
    Situation {
        target,
        source,
        slot: slot_wish(options),
        mappings: &options.mappings,
        places,
        overrides: &options.overrides,
        has_restore_command: settings::has_restore_command(
            options,
            relate(target, source).is_seed(),
        ),
    }
}

pub fn slot_wish(options: &RebuildOptions) -> guard::SlotWish<'_> {
    match &options.slot {
        None => guard::SlotWish::Temporary,
        Some(name) if options.create_slot => guard::SlotWish::Create(name),
        Some(name) => guard::SlotWish::Existing(name),
    }
}

/// Judges whether the standby will find the WAL that the run does not bring.
pub fn judge_wal_supply(options: &RebuildOptions, facts: &SourceFacts) -> Result<(), Failure> {
    if options.brings_wal {
        return Ok(());
    }
    let has_restore_command = options.restore_command.is_some();
    guard::wal_supply(slot_wish(options), facts.slot.as_ref(), has_restore_command)
        .map_err(|refusal| Failure::refused(&[refusal]))
}

/// Where the programs of the target's server are.
pub fn bindir(options: &RebuildOptions, facts: &SourceFacts) -> Result<Option<PathBuf>, Failure> {
    let major = facts.version.major();
    let found = match &options.bindir {
        Some(directory) if !postmaster::is_bindir(directory, major) => {
            return Err(Failure::new(
                TargetState::Untouched,
                format!(
                    "no server programs of PostgreSQL {major} in \"{}\"",
                    directory.display()
                ),
            )
            .hint("Check --bindir: it must be of the source's major version."));
        }
        Some(directory) => Some(directory.clone()),
        None => postmaster::find_bindir(major),
    };
    if options.start && options.starter.is_none() && found.is_none() {
        return Err(Failure::new(
            TargetState::Untouched,
            format!("could not find pg_ctl of PostgreSQL {major}"),
        )
        .hint("Say with --bindir where the server's programs are."));
    }
    Ok(found)
}

pub async fn judge_login(
    run: &Run<'_>,
    name: Option<&str>,
    facts: &SourceFacts,
    bindir: Option<&Path>,
) -> Result<(), Failure> {
    let overrides = &run.options.overrides;
    if overrides.no_login_check {
        return Ok(());
    }
    let conninfo = settings::primary_conninfo(&run.options.primary, name)?;
    let Some(login) = postmaster::try_login(bindir, &conninfo).await else {
        return Err(Failure::new(
            TargetState::Untouched,
            "could not find psql to try the standby's login on the source",
        )
        .hint("Say with --bindir where it is, or skip the check with --no-login-check."));
    };
    let shown = settings::primary_conninfo(&run.options.primary.without_secrets(), name)?;
    let expected = facts.control.system_identifier;
    guard::login(&login, expected, &shown, overrides)
        .map_err(|refusal| Failure::refused(&[refusal]))
}
