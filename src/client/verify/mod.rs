//! `verify`: whether a standby has what its source has. Changes nothing, takes no backup and needs no pause.
//!
//! Each pass reads both control files first, and from them what both disks must hold (`plan::verifiable::threshold`);
//! then it lists both sides, compares, and judges what differs. What is too new is looked at in the next pass, when the
//! checkpoints of both sides have moved on.

mod files;
mod lists;
mod others;
mod passes;
mod report;

use crate::client::failure::{Failure, Kind, TargetState};
use crate::client::finish::summary;
use crate::client::look::target::{self, Hold};
use crate::client::look::{lineage, twins};
use crate::client::options::VerifyOptions;
use crate::client::outcome::Verification;
use crate::client::record::Record;
use crate::client::run::Run;
use crate::client::source::{self, Source};
use crate::client::transfer::{aside, streams};
use crate::disk::DiskError;
use crate::event::{Events, Stage};
use crate::facts::TargetFacts;
use crate::plan::relation::relate;
use crate::plan::verifiable::{Unfit, fit};
use crate::wire::message::Purpose;
use crate::workers;

use self::passes::Scene;

/// A verification under way.
type Verify<'a> = Run<'a, VerifyOptions>;

/// Compares a data directory with its source.
///
/// # Errors
/// What stands against it, or does not work. Nothing is changed in any case.
pub async fn verify(
    options: &VerifyOptions,
    events: &Events,
    record: &Record,
) -> Result<Verification, Failure> {
    let run = Run::begin(options, &options.reach, events, record)?;
    run.stage(Stage::Look);
    let standby = look(&run).await?;
    let connected = source::connect(&options.reach.from, events).await;
    let (source, mut connection) = connected.map_err(|error| error.untouched())?;
    let result = tokio::select! {
        result = with_source(&run, standby, &source) => result,
        never = streams::widen(&run, &source, &mut connection) => match never {},
        never = aside::tell(&run, &source, &options.pgdata) => match never {},
    };
    match result {
        Ok(found) => {
            run.stage(Stage::Done);
            drop(source);
            connection.end().await;
            Ok(found)
        }
        Err(failure) => Err(connection.end_after(source, failure).await),
    }
}

async fn look(run: &Verify<'_>) -> Result<TargetFacts, Failure> {
    let pgdata = &run.options.pgdata;
    let mut standby = workers::in_place(|| {
        // Held for a moment, to see whether a run holds it.
        let hold = target::hold(pgdata)?;
        let standby = target::look(pgdata, &hold);
        drop::<Hold>(hold);
        standby
    })
    .map_err(|error: DiskError| Failure::untouched(&error))?;
    let config_file = run.options.config_file.as_deref();
    lineage::complete(&mut standby, pgdata, config_file).await;
    Ok(standby)
}

async fn with_source(
    run: &Verify<'_>,
    mut standby: TargetFacts,
    source: &Source,
) -> Result<Verification, Failure> {
    let configure = run.configure(Purpose::Verify);
    let introduced = source.introduce(&configure, None).await;
    let facts = introduced.map_err(|error| error.untouched())?;
    summary::note_source(run, &facts);
    twins::complete(&mut standby, &facts, source, &run.options.pgdata, run.key)
        .await
        .map_err(|error| Failure::untouched(&error))?;
    let relation = relate(&standby, &facts);
    let (cluster, control) = fit(&standby, &facts, &relation).map_err(refused)?;
    run.admitted.notify_one();
    let scene = Scene::open(run, source, &facts, cluster, &relation)?;
    let found = scene.compare(control).await?;
    report::report(&scene, found).await
}

fn refused(unfit: Unfit) -> Failure {
    Failure {
        kind: Kind::Refused,
        state: TargetState::Untouched,
        is_of_disk: false,
        refusals: vec![unfit.code],
        errors: vec![unfit.error],
        details: vec![unfit.detail],
        hints: vec![unfit.hint],
    }
}
