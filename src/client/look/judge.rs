//! The guards of `plan`, fed with what was seen: each refuses before anything changes.

use std::path::{Path, PathBuf};

use crate::client::failure::{Failure, TargetState};
use crate::client::look::{lineage, settings, target};
use crate::client::options::RebuildOptions;
use crate::client::run::Run;
use crate::facts::{Condition, Running, SourceFacts, TargetFacts};
use crate::plan;
use crate::plan::clone;
use crate::plan::guard::{self, Cleared, Findings, Situation};
use crate::plan::refusal::Refusal;
use crate::plan::relation::relate;
use crate::plan::slots;
use crate::plan::standby::Role;
use crate::plan::tablespaces;
use crate::postmaster;
use crate::warning::Code;

pub fn judge(run: &Run<'_>, target: &TargetFacts, facts: &SourceFacts) -> Result<Cleared, Failure> {
    in_situation(run, target, facts, guard::judge)
}

pub fn judge_before_stop(
    run: &Run<'_>,
    target: &TargetFacts,
    facts: &SourceFacts,
) -> Result<Findings, Failure> {
    in_situation(run, target, facts, guard::judge_before_stop)
}

fn in_situation<T>(
    run: &Run<'_>,
    target: &TargetFacts,
    facts: &SourceFacts,
    judge: impl FnOnce(&Situation) -> Result<T, Vec<Refusal>>,
) -> Result<T, Failure> {
    let options = run.options;
    let mut places = target::places(
        &options.pgdata,
        options.waldir.as_deref(),
        target,
        target.host.is_same_kernel(&facts.host),
        tablespaces::would_be(&facts.tablespaces, &options.mappings),
        &tablespaces::version_directory(facts),
    )
    .map_err(|error| Failure::untouched(&error))?;
    places.dangling = target::dangling(options, &places);
    let runs = matches!(
        &target.condition,
        Condition::Cluster(cluster) if matches!(cluster.running, Running::Server { .. })
    );
    let choice = run.choice.get();
    let situation = Situation {
        target,
        source: facts,
        slot: slot_wish(run),
        mappings: &options.mappings,
        places: &places,
        overrides: &options.overrides,
        local: &lineage::local_addresses(facts),
        is_slot_targets: runs && choice.is_some_and(|choice| choice.is_held_by_target),
        is_typed: options.is_typed,
        max_wal_retained: options.max_wal_retained,
        has_restore_command: settings::has_restore_command(
            options,
            relate(target, facts).is_seed(),
        ),
        role: options.role,
    };
    judge(&situation).map_err(|refusals| Failure::refused(&refusals))
}

/// Says what the DBA should know of where the source leads, of the slot, and of a place where nothing is.
pub fn remark(run: &Run<'_>, target: &TargetFacts, facts: &SourceFacts) {
    let local = lineage::local_addresses(facts);
    let lineage = plan::lineage::lineage(target, facts, &local);
    if let Some(remark) = lineage.remark() {
        run.remark(&remark);
    }
    if let plan::lineage::Lineage::OfTarget(evidence) = &lineage {
        run.warn(
            Code::LeavesNoPrimary,
            format!(
                "The source is a standby of the target, and --leave-no-primary goes on. {evidence}"
            ),
        );
    }
    if let Some(copy) = &facts.copy {
        run.warn(
            Code::SourceIsCopy,
            format!(
                "The source says that it is {copy}: make sure that it is the server that you mean."
            ),
        );
    }
    if let Condition::Cluster(cluster) = &target.condition {
        match (run.options.role, clone::remark(cluster)) {
            (Role::Standby | Role::Managed, Some(copy)) => run.warn(
                Code::TargetIsCopy,
                format!("The target becomes a standby. {copy}"),
            ),
            (Role::Clone, None) if cluster.has_standby_signal => run.warn(
                Code::TargetIsStandby,
                "The target is a standby, and becomes a copy that follows nobody.",
            ),
            _ => {}
        }
    }
    for remark in run.choice.get().iter().flat_map(|choice| &choice.remarks) {
        run.remark(remark);
    }
    let pgdata = run.options.pgdata.display();
    match target.condition {
        Condition::Missing if run.options.overrides.seed => run
            .events
            .note(format!("\"{pgdata}\" does not exist: everything comes.")),
        Condition::Missing => run.warn(
            Code::SeedsMissingDirectory,
            format!(
                "\"{pgdata}\" does not exist: nothing is there, and everything comes. --seed says that this is meant."
            ),
        ),
        Condition::Empty { .. } => run
            .events
            .note(format!("Nothing is in \"{pgdata}\": everything comes.")),
        _ => {}
    }
}

/// Chooses the slot that the standby uses.
pub fn choose_slot(run: &Run<'_>, target: &TargetFacts, facts: &SourceFacts) {
    let choice = match run.options.role {
        Role::Standby => slots::choose(run.options.slot.as_deref(), target, facts),
        // Whoever writes its settings knows of its slot, and needs it as it is.
        Role::Managed => slots::Choice::default(),
        Role::Clone => slots::give_up(target, facts),
    };
    // The source is asked once.
    let _ = run.choice.set(choice);
}

pub fn slot_wish<'a>(run: &'a Run<'_>) -> guard::SlotWish<'a> {
    match run.slot() {
        None => guard::SlotWish::Temporary,
        Some(name) if run.options.create_slot => guard::SlotWish::Create(name),
        Some(name) => guard::SlotWish::Existing(name),
    }
}

/// Judges whether the standby will find the WAL that the run does not bring.
pub fn judge_wal_supply(run: &Run<'_>, facts: &SourceFacts) -> Result<(), Failure> {
    let options = run.options;
    if options.brings_wal {
        return Ok(());
    }
    let has_restore_command = options.restore_command.is_some();
    guard::wal_supply(slot_wish(run), facts.slot.as_ref(), has_restore_command)
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
    let hooks = &options.hooks;
    let needs = [
        ("pg_ctl", hooks.before_start.is_empty() || found.is_some()),
        (
            "psql",
            hooks.before_start.is_empty() && hooks.after_start.is_empty()
                || postmaster::script::find_psql(found.as_deref()).is_some(),
        ),
    ];
    if let Some((program, _)) = needs.iter().find(|(_, is_there)| !is_there) {
        return Err(Failure::new(
            TargetState::Untouched,
            format!("could not find {program} of PostgreSQL {major}, which the hooks need"),
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
    if run.options.role == Role::Clone {
        // It never connects.
        return Ok(());
    }
    let overrides = &run.options.overrides;
    let is_written = run.options.role.has_settings();
    if overrides.no_login_check || !is_written && run.options.primary.iter().next().is_none() {
        return Ok(());
    }
    let conninfo = settings::primary_conninfo(&run.options.primary, name)?;
    let Some(trial) = postmaster::try_login(bindir, &conninfo).await else {
        if !is_written {
            return Ok(());
        }
        return Err(Failure::new(
            TargetState::Untouched,
            "could not find psql to try the standby's login on the source",
        )
        .hint("Say with --bindir where it is, or skip the check with --no-login-check."));
    };
    let shown = settings::primary_conninfo(&run.options.primary.without_secrets(), name)?;
    let expected = facts.control.system_identifier;
    if let (guard::Login::Refused { reason }, false) = (&trial.login, is_written) {
        // It may log in otherwise, as whoever writes its settings says.
        run.warn(
            Code::LoginFailed,
            format!("The standby could not connect now with \"{shown}\": {reason}."),
        );
        return Ok(());
    }
    guard::login(&trial.login, expected, &shown, overrides)
        .map_err(|refusal| Failure::refused(&[refusal]))?;
    if is_written && !trial.needs.is_empty() {
        let needs = trial.needs.join(", ");
        run.warn(
            Code::LoginOfThisSession,
            format!(
                "The standby's login works with {needs} of this session only. A server that is started without it, as \
                 systemd does, cannot stream: say host, port, user and passfile in -d, or put the service into \
                 .pg_service.conf of the server's user."
            ),
        );
    }
    Ok(())
}
