//! The end of a run: start the standby, watch it stream, tell the outcome.

use std::path::{Path, PathBuf};

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
use crate::postmaster::{self, StartOptions};

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
        let start = start_options(run, finished.bindir.as_deref(), options.starter.as_ref());
        let log_file = &start.log_file;
        let log_from = disk::length(log_file);
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
        let log = postmaster::log_tail(log_file, log_from);
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
    Ok(finished.told(run, options.start))
}

impl Finished {
    /// The outcome, whether or not the standby was seen streaming.
    pub(super) fn told(self, run: &Run<'_>, streaming: bool) -> Outcome {
        summary::outcome(
            run,
            &Told {
                facts: &self.facts,
                findings: self.cleared.findings(),
                before: self.before.as_ref(),
                work: &self.work,
                noted: self.noted,
                lsns: Some((self.start_lsn, self.stop_lsn)),
                streaming,
                server_to_stop: None,
            },
        )
    }
}

/// How the target's server is started, by `instead` if there is one.
pub(super) fn start_options(
    run: &Run<'_>,
    bindir: Option<&Path>,
    instead: Option<&Starter>,
) -> StartOptions {
    StartOptions {
        pgdata: run.options.pgdata.clone(),
        // Without it the PATH is searched; it is not used when something else starts the server.
        bindir: bindir.map(Path::to_owned).unwrap_or_default(),
        config_file: run.options.config_file.clone(),
        log_file: log_file(run),
        instead: instead.map(Starter::words),
    }
}

/// Where a server that this run starts writes until it logs where its configuration says.
pub(super) fn log_file(run: &Run<'_>) -> PathBuf {
    let given = run.options.log_file.clone();
    given.unwrap_or_else(|| run.options.pgdata.join("pg_reseed.start.log"))
}
