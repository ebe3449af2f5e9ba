//! A target that needs no rewind: nothing of its data changes, and it becomes a standby of the source if that was asked for.

use crate::client::failure::{Failure, TargetState};
use crate::client::look::conf;
use crate::client::look::settings;
use crate::client::look::target::Hold;
use crate::client::outcome::Mode;
use crate::client::run::Run;
use crate::facts::{Condition, SourceFacts, TargetFacts};
use crate::pg::layout;
use crate::plan::refusal::Refusal;
use crate::plan::relation::relate;
use crate::plan::rewind::{self, Rewind};
use crate::plan::standby as standby_plan;

/// Whether there is nothing to do, for a run in the place of `pg_rewind`.
///
/// # Errors
/// Nothing is there that could be rewound.
pub fn needs_nothing(
    run: &Run<'_>,
    target: &TargetFacts,
    facts: &SourceFacts,
) -> Result<bool, Failure> {
    if !run.options.rewinds {
        return Ok(false);
    }
    match rewind::judge(target, facts, &relate(target, facts)) {
        Rewind::Needed => Ok(false),
        Rewind::NotNeeded => {
            run.record
                .note(|outcome| outcome.mode = Some(Mode::NotNeeded));
            Ok(true)
        }
        Rewind::NothingThere => {
            let pgdata = run.options.pgdata.display();
            let error = format!("nothing is in \"{pgdata}\" that could be rewound");
            Err(Failure::new(TargetState::Untouched, error)
                .hint("pg_reseed rebuild makes a new standby there."))
        }
    }
}

/// Writes the settings of a standby of the source, if they are to be written.
///
/// # Errors
/// Another run works on the target, or something cannot be read or written.
pub fn settle(run: &Run<'_>, target: &TargetFacts, hold: &Hold) -> Result<(), Failure> {
    let options = run.options;
    if !options.role.has_settings() {
        return Ok(());
    }
    let (Hold::Ours(held), Condition::Cluster(cluster)) = (hold, &target.condition) else {
        let pgdata = options.pgdata.display().to_string();
        let holder = match hold {
            Hold::Others(holder) => holder.clone().map(Box::new),
            _ => None,
        };
        return Err(Failure::refused(&[Refusal::Locked { pgdata, holder }]));
    };
    let name = settings::application_name(options, &target.host.name, false);
    let wanted = settings::standby(run, name.as_deref())?;
    let old = conf::auto_conf(&options.pgdata).map_err(|error| Failure::untouched(&error))?;
    let base = settings::own_base(options).settings;
    let text = standby_plan::auto_conf(&old, &base, &wanted)
        .map_err(|error| Failure::untouched(&error))?;
    held.make_standby(&text, layout::has_group_access(cluster.mode))
        .map_err(|error| Failure::untouched(&error))
}
