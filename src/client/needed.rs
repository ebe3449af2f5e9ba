//! `--if-needed`: whether the target is what a rebuild would make of it. Changes nothing.
//!
//! It is looked at as `inspect` does, in a session of its own with the source: a rebuild that turns out to be needed
//! begins as if nobody had looked.

use crate::client::failure::Failure;
use crate::client::inspect::{self, Proof};
use crate::client::look::lineage;
use crate::client::look::target::{self, Hold};
use crate::client::options::InspectSource;
use crate::client::run::Run;
use crate::event::Stage;
use crate::facts::{Condition, Running};
use crate::plan::needed::{Need, needed};
use crate::plan::slots;
use crate::workers;

/// Looks whether a rebuild is needed, and notes what is found.
///
/// # Errors
/// The target cannot be looked at, or the source cannot be asked.
pub(super) async fn look(run: &Run<'_>) -> Result<Need, Failure> {
    let options = run.options;
    run.stage(Stage::Look);
    let mut target = workers::in_place(|| {
        let hold = target::hold(&options.pgdata)?;
        let target = target::look(&options.pgdata, &hold);
        drop::<Hold>(hold);
        target
    })
    .map_err(|error| Failure::untouched(&error))?;
    // What does not run, or is not ours to look at, is the rebuild's affair, with its refusals.
    let runs = match &target.condition {
        Condition::Cluster(cluster) => {
            matches!(cluster.running, Running::Server { .. })
                && cluster.is_owner
                && !cluster.is_locked
        }
        _ => false,
    };
    if !runs || target.is_root {
        return Ok(note(
            run,
            Need::Some("no server that can be asked runs in it".to_owned()),
        ));
    }
    lineage::complete(&mut target, &options.pgdata, options.config_file.as_deref()).await;
    let source = InspectSource {
        from: options.reach.from.clone(),
        primary: options.primary.clone(),
        typed: Vec::new(),
    };
    let slot = slots::wanted(options.slot.as_deref(), &target).map(str::to_owned);
    let place = (&mut target, &*options.pgdata);
    let asked = inspect::ask(&source, slot, place, Proof::Always, run.events).await?;
    run.stage(Stage::Judge);
    let judged = inspect::judge(&target, &asked, &[]);
    let need = match &target.condition {
        Condition::Cluster(cluster) => needed(cluster, &judged.state, &judged.advice),
        _ => Need::Some(format!("it is {}", judged.state)),
    };
    if need == Need::None {
        let facts = &asked.facts;
        run.record.note(|outcome| {
            outcome.source_host = Some(facts.host.name.clone());
            outcome.timeline = Some(facts.timeline);
            outcome.streaming = true;
        });
    }
    Ok(note(run, need))
}

fn note(run: &Run<'_>, need: Need) -> Need {
    run.record
        .note(|outcome| outcome.needed = Some(need != Need::None));
    if let Need::Some(why) = &need {
        run.events.note(format!("A rebuild is needed: {why}."));
    }
    need
}
