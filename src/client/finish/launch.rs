//! The end of a run: start the standby, watch it stream, tell the outcome.

use std::path::PathBuf;

use crate::client::failure::{Failure, TargetState};
use crate::client::finish::summary::{self, Noted, Told};
use crate::client::finish::watch::{self, Watched};
use crate::client::options::Starter;
use crate::client::outcome::Outcome;
use crate::client::run::Run;
use crate::client::source::Source;
use crate::client::transfer::work::Work;
use crate::disk::facts as disk;
use crate::event::{Event, Stage};
use crate::facts::{SourceFacts, TargetCluster};
use crate::pg::lsn::Lsn;
use crate::plan::guard::Cleared;
use crate::postmaster;

/// What the run has when the target is whole.
pub struct Finished {
    pub facts: SourceFacts,
    pub cleared: Cleared,
    pub before: Option<TargetCluster>,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    pub work: Work,
    pub noted: Noted,
    pub bindir: Option<PathBuf>,
}

/// What to do about a standby that does not run.
pub(super) const MEND: &str =
    "Mend what the log names and start the server: nothing needs to be copied again.";

/// Starts the standby and waits until it streams, if that was asked for, and tells the outcome.
pub async fn start_and_watch(
    run: &Run<'_>,
    source: &Source,
    finished: Finished,
) -> Result<Outcome, Failure> {
    let options = run.options;
    if options.start {
        let before = watch::senders(source, options.wait).await;
        let before = before.map_err(|error| {
            Failure::rebuilt(&error).hint("The server was not started: start it.")
        })?;
        run.stage(Stage::Start);
        let log_file = options
            .log_file
            .clone()
            .unwrap_or_else(|| options.pgdata.join("pg_reseed.start.log"));
        let start = postmaster::StartOptions {
            pgdata: options.pgdata.clone(),
            // Without it the PATH is searched; it is not used when something else starts the server.
            bindir: finished.bindir.clone().unwrap_or_default(),
            config_file: options.config_file.clone(),
            log_file: log_file.clone(),
            instead: options.starter.as_ref().map(Starter::words),
        };
        let log_from = disk::length(&log_file);
        // sudo for a password, the server for the passphrase of its key.
        run.events.tell(&Event::MayAsk(true));
        let started = postmaster::start(&start, options.wait).await;
        run.events.tell(&Event::MayAsk(false));
        let pid = started.map_err(|error| Failure::rebuilt(&error).hint(MEND))?;
        run.stage(Stage::Watch);
        let slot = run.slot();
        let watched = watch::watch(source, pid, slot, &before, finished.stop_lsn, options.wait)
            .await
            .map_err(|error| {
                Failure::rebuilt(&error)
                    .hint("The server was started: look at its log and at pg_stat_replication on the source.")
            })?;
        let log = postmaster::log_tail(&log_file, log_from);
        match watched {
            Watched::Streams => {}
            Watched::Ended => {
                return Err(
                    Failure::new(TargetState::Rebuilt, "the standby's server ended")
                        .detail(format!("Its log says:\n{log}"))
                        .hint(MEND),
                );
            }
            Watched::TimeUp { seen } => {
                let waited = options.wait.as_secs();
                let error = format!("the standby does not stream after {waited} s: {seen}");
                return Err(Failure::new(TargetState::Rebuilt, error)
                .detail(format!("The server runs. Its log says:\n{log}"))
                .hint("Look at its log and at pg_stat_replication on the source; --wait allows more time."));
            }
        }
    }
    Ok(summary::outcome(
        run,
        &Told {
            facts: &finished.facts,
            findings: finished.cleared.findings(),
            before: finished.before.as_ref(),
            work: &finished.work,
            noted: finished.noted,
            lsns: Some((finished.start_lsn, finished.stop_lsn)),
            streaming: options.start,
            server_to_stop: None,
        },
    ))
}
