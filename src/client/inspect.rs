//! `inspect`: what a directory is, how it relates to a source, and what follows from that. Changes nothing.

mod beside;
pub(super) mod next;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::client::close::keep;
use crate::client::failure::{Failure, TargetState};
use crate::client::finish::summary;
use crate::client::look::leaving;
use crate::client::look::lineage;
use crate::client::look::server;
use crate::client::look::target::{self, Hold};
use crate::client::look::twins;
use crate::client::options::{InspectOptions, InspectSource};
use crate::client::outcome::{
    ClusterReport, Inspection, InterruptedReport, MarkReport, SlotReport, SourceReport,
    TablespaceReport,
};
use crate::client::source;
use crate::digest::SessionKey;
use crate::disk::facts as disk;
use crate::disk::size;
use crate::errors::one_line;
use crate::event::Events;
use crate::facts::{Condition, Live, Running, SourceFacts, TargetCluster, TargetFacts};
use crate::pg::control::ControlFile;
use crate::pg::lsn::unbroken_since;
use crate::pg::timeline::history_file_name;
use crate::pg::version::tablespace_directory;
use crate::plan::advice::{Advice, advise, advise_alone};
use crate::plan::clone;
use crate::plan::lineage::{Lineage, Remark, lineage as lineage_of};
use crate::plan::relation::{Relation, relate};
use crate::plan::slots;
use crate::plan::state::{Beside, State, state};
use crate::plan::words;
use crate::postmaster;
use crate::warning::Warning;
use crate::wire::message::{Compression, Purpose, Request};
use crate::workers;

use self::beside::Seen;

/// Lines of a server's log that are shown.
const LOG_LINES: usize = 5;

/// Looks at the directory, and asks the source if there is one.
///
/// # Errors
/// The directory cannot be read, or the source cannot be asked.
pub async fn inspect(options: &InspectOptions, events: &Events) -> Result<Inspection, Failure> {
    let pgdata = &options.pgdata;
    let (mut target, own) = workers::in_place(|| {
        // Held for a moment, to see whether a run holds it.
        let hold = target::hold(pgdata)?;
        let target = target::look(pgdata, &hold)?;
        drop::<Hold>(hold);
        let own = match &target.condition {
            Condition::Cluster(cluster) => Some(report_of(options, cluster)?),
            _ => None,
        };
        Ok::<_, crate::disk::DiskError>((target, own))
    })
    .map_err(|error| Failure::untouched(&error))?;
    let mut inspection = Inspection {
        pg_reseed_version: env!("CARGO_PKG_VERSION"),
        pgdata: target.pgdata.clone(),
        condition: condition(&target),
        cluster: own,
        source: None,
        relation: None,
        relation_in_words: None,
        divergence: None,
        missing_wal: Vec::new(),
        warnings: match &target.condition {
            Condition::Cluster(cluster) => sentences(leaving::warnings(cluster, None, false)),
            _ => Vec::new(),
        },
        state: State::Missing,
        state_in_words: String::new(),
        advice: None,
        sentences: Vec::new(),
        command: None,
    };
    lineage::complete(&mut target, pgdata, options.config_file.as_deref()).await;
    if let Some(source) = &options.source {
        let slot = slots::wanted(options.slot.as_deref(), &target);
        let slot = slot.map(str::to_owned);
        let place = (&mut target, &**pgdata);
        let asked = ask(source, slot, place, Proof::WhereNeeded, events).await?;
        conclude(&mut inspection, options, source, &target, &asked)?;
    } else {
        let state = state(&target, None, &log(&target, pgdata));
        inspection.advice = advise_alone(&target, &state);
        if let Some(advice) = &inspection.advice {
            inspection.sentences = advice.sentences();
        }
        settle(&mut inspection, state);
    }
    if let Some(advice) = &inspection.advice
        && inspection.command.is_none()
    {
        inspection.command = next(options, &target, &inspection.state, advice);
    }
    Ok(inspection)
}

/// Puts the state into the inspection.
fn settle(inspection: &mut Inspection, state: State) {
    inspection.state_in_words = state.to_string();
    inspection.state = state;
}

/// What is to be changed before a stopped standby can follow the source.
fn elsewhere(state: &State) -> Option<String> {
    match state {
        State::StoppedStandby {
            follows,
            is_of_source: Some(false),
        } if !follows.is_empty() => Some(format!(
            "Its primary_conninfo leads to {}, which does not seem to be this source.",
            follows.join(" or ")
        )),
        _ => None,
    }
}

/// The command that follows without a rebuild.
fn next(
    options: &InspectOptions,
    target: &TargetFacts,
    state: &State,
    advice: &Advice,
) -> Option<String> {
    let Condition::Cluster(cluster) = &target.condition else {
        return None;
    };
    match advice {
        Advice::RunAgain => next::again(&options.working_directory, cluster.interrupted.as_ref()?),
        Advice::Start { .. } => Some(next::start(options, cluster)),
        // What makes it follow is there.
        Advice::Reattach { .. }
            if cluster.has_standby_signal
                && matches!(
                    state,
                    State::StoppedStandby {
                        is_of_source: Some(true),
                        ..
                    }
                ) =>
        {
            Some(next::start(options, cluster))
        }
        Advice::Paused { .. } => Some(next::resume(cluster)),
        _ => None,
    }
}

/// The last lines of the log of a server that runs, where they are found.
fn log(target: &TargetFacts, pgdata: &Path) -> Vec<String> {
    let Condition::Cluster(cluster) = &target.condition else {
        return Vec::new();
    };
    let Running::Server { pid } = cluster.running else {
        return Vec::new();
    };
    let Some(path) = postmaster::log_file(pgdata, pid) else {
        return Vec::new();
    };
    let tail = workers::in_place(|| postmaster::log_tail(&path, 0));
    let lines: Vec<&str> = tail.lines().collect();
    let first = lines.len().saturating_sub(LOG_LINES);
    lines[first..].iter().map(|line| one_line(line)).collect()
}

/// When both sides' WAL is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// Where the relation rests on it.
    WhereNeeded,
    /// Always, where there is something to compare.
    Always,
}

/// The source, as it answered.
pub(super) struct Asked {
    pub facts: SourceFacts,
    seen: Seen,
    /// What the target's server said after that.
    later: Option<Live>,
}

/// Asks the source, and the target's server once more after it.
///
/// # Errors
/// The source does not answer, or one side's WAL cannot be read.
pub(super) async fn ask(
    source: &InspectSource,
    slot: Option<String>,
    (target, pgdata): (&mut TargetFacts, &Path),
    proof: Proof,
    events: &Events,
) -> Result<Asked, Failure> {
    let (asked, connection) = source::connect(&source.from, events)
        .await
        .map_err(|error| error.untouched())?;
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| {
        let error = format!("could not get random numbers: {error}");
        Failure::new(TargetState::Untouched, error)
    })?;
    let key = SessionKey(key);
    let configure = Request::Configure {
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        key,
        compression: Compression::None,
        jobs: Some(1),
        max_rate: None,
        purpose: Purpose::Survey,
        join: None,
    };
    let introduced = asked.introduce(&configure, slot).await;
    let found = match introduced {
        Ok(facts) => {
            let later = lineage::ask_again(target).await;
            let seen = beside::look(target, &facts, &asked, &source.primary).await;
            let compared = match proof {
                Proof::WhereNeeded => twins::complete(target, &facts, &asked, pgdata, key).await,
                Proof::Always => twins::prove(target, &facts, &asked, pgdata, key).await,
            };
            compared
                .map(|()| Asked { facts, seen, later })
                .map_err(|error| Failure::untouched(&error))
        }
        Err(error) => Err(error.untouched()),
    };
    match found {
        Ok(facts) => {
            drop(asked);
            connection.end().await;
            Ok(facts)
        }
        Err(failure) => Err(connection.end_after(asked, failure).await),
    }
}

/// What follows from what both sides said.
pub(super) struct Judged {
    pub relation: Relation,
    pub lineage: Lineage,
    pub state: State,
    pub advice: Advice,
}

/// Judges. `log` are the last lines of the log of the target's server.
pub(super) fn judge(target: &TargetFacts, asked: &Asked, log: &[String]) -> Judged {
    let facts = &asked.facts;
    let relation = relate(target, facts);
    let lineage = lineage_of(target, facts, &lineage::local_addresses(facts));
    let beside = Beside {
        source: facts,
        is_sender: asked.seen.is_sender,
        is_named: asked.seen.is_named,
        later: asked.later.as_ref(),
    };
    let state = state(target, Some(beside), log);
    let advice = advise(target, facts, &relation, &state).along(&lineage);
    Judged {
        relation,
        lineage,
        state,
        advice,
    }
}

fn conclude(
    inspection: &mut Inspection,
    options: &InspectOptions,
    source: &InspectSource,
    target: &TargetFacts,
    asked: &Asked,
) -> Result<(), Failure> {
    let facts = &asked.facts;
    let Judged {
        relation,
        lineage,
        state,
        advice,
    } = judge(target, asked, &log(target, &options.pgdata));
    let elsewhere = elsewhere(&state);
    settle(inspection, state);
    let cluster = match &target.condition {
        Condition::Cluster(cluster) => Some(&**cluster),
        _ => None,
    };
    inspection.source = Some(SourceReport {
        host: facts.host.name.clone(),
        data_directory: words::text(&facts.data_directory),
        server_version: facts.version.to_string(),
        system_identifier: facts.control.system_identifier.to_string(),
        in_recovery: facts.in_recovery,
        timeline: facts.timeline,
        current_lsn: facts.current_lsn,
        oldest_wal: facts.oldest_wal,
        wal_keep_bytes: facts.settings.wal_keep_bytes,
        archive_mode: facts.settings.archive_mode.clone(),
        slot: facts.slot.as_ref().map(|slot| SlotReport {
            name: slot.name.clone(),
            active: slot.active,
            restart_lsn: slot.restart_lsn,
            wal_status: slot.wal_status.clone(),
        }),
    });
    inspection.divergence = summary::divergence(&relation, cluster);
    if let Some(cluster) = cluster {
        let source = Some((facts, &relation));
        inspection.warnings = sentences(leaving::warnings(cluster, source, false));
        if let Some(report) = &mut inspection.cluster {
            report.unarchived = leaving::unarchived(cluster, source);
        }
        if cluster.interrupted.is_none() && inspection.divergence.is_some() {
            inspection.missing_wal = keep::missing(&options.pgdata, cluster, &relation)?;
        }
    }
    inspection.relation = Some(relation.name());
    inspection.relation_in_words = Some(relation.to_string());
    inspection.sentences = advice.sentences();
    inspection.sentences.extend(elsewhere);
    inspection
        .sentences
        .extend(remarks(options, target, facts, &lineage));
    let cluster_report = inspection.cluster.as_ref();
    if cluster_report.is_some_and(|cluster| !cluster.configuration_problems.is_empty()) {
        let mend = "Whatever you do, mend the directory's configuration before you start a server.";
        inspection.sentences.push(mend.to_owned());
    }
    if let Some(copy) = cluster.and_then(clone::remark) {
        let is_free = cluster.is_some_and(|own| clone::may_be_replaced(own, &relation, facts));
        if is_free && advice == Advice::LookTwice {
            inspection.sentences = vec![
                "pg_reseed rebuild --role clone makes it equal to the source again; what was written to it is lost then."
                    .to_owned(),
            ];
        }
        inspection.sentences.insert(0, copy);
    }
    if !facts.has_history_file {
        let file = history_file_name(facts.timeline);
        inspection.sentences.push(format!(
            "\"pg_wal/{file}\" is missing on the source: no standby can stream from it that does not get that file \
             elsewhere."
        ));
    }
    // An interrupted run is finished by its own command, with all its options.
    if advice.is_rebuild() && advice != Advice::RunAgain {
        let mut command = next::rebuild(options, source)?;
        if matches!(target.condition, Condition::Missing) {
            // A person who types it is asked.
            command.push_str(" --seed");
        }
        inspection.command = Some(command);
    }
    inspection.advice = Some(advice);
    Ok(())
}

/// What a rebuild would say of where the source leads, and of the slot.
fn remarks(
    options: &InspectOptions,
    target: &TargetFacts,
    facts: &SourceFacts,
    lineage: &Lineage,
) -> Vec<String> {
    let of_target = match lineage {
        Lineage::OfTarget(evidence) => Some(format!(
            "The source is a standby of the target: a rebuild from it is refused, since it would leave no primary. \
             {evidence}"
        )),
        _ => None,
    };
    let slot = slots::choose(options.slot.as_deref(), target, facts).remarks;
    let remarks = lineage.remark().into_iter().chain(slot);
    of_target
        .into_iter()
        .chain(remarks.map(|remark| match remark {
            Remark::Note(text) | Remark::Warning(_, text) => text,
        }))
        .collect()
}

fn condition(target: &TargetFacts) -> &'static str {
    match &target.condition {
        Condition::Missing => "missing",
        Condition::Empty { .. } => "empty",
        Condition::Unknown { .. } => "unknown",
        Condition::Cluster(cluster) if cluster.interrupted.is_some() => "interrupted",
        Condition::Cluster(_) => "cluster",
    }
}

fn report_of(
    options: &InspectOptions,
    cluster: &TargetCluster,
) -> Result<ClusterReport, crate::disk::DiskError> {
    let pgdata: &Path = &options.pgdata;
    let control = cluster.control.as_ref();
    let own = control.filter(|_| cluster.backup.is_none());
    let wal = pgdata.join("pg_wal");
    let wal_begin = control
        .zip(cluster.wal_segments_end)
        .and_then(|(control, end)| {
            let unit = control.wal_segment_bytes;
            let segments = disk::segments(&wal, unit).unwrap_or_default();
            unbroken_since(segments.iter().map(|segment| segment.number), end, unit)
        });
    let mut size = size::below(pgdata, Some("pg_wal"))?;
    for space in &cluster.tablespaces {
        if let (Some(_), Some(control), Some(major)) = (&space.location, control, cluster.major) {
            let place = pgdata
                .join("pg_tblspc")
                .join(space.oid.to_string())
                .join(tablespace_directory(major, control.catalog_version));
            if disk::exists(&place) {
                size = size.and(size::below(&place, None)?);
            }
        }
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let seconds_since = |then: u64| (then > 0).then(|| now.saturating_sub(then));
    Ok(ClusterReport {
        major: cluster.major,
        problem: cluster.control_problem.clone(),
        // What an interrupted seed has brought is not its own yet.
        configuration_problems: match cluster.interrupted {
            Some(_) => Vec::new(),
            None => server::problems(pgdata, options.config_file.as_deref())
                .iter()
                .map(|refusal| {
                    let mut sentence = words::capital(&refusal.error());
                    sentence.push_str(". ");
                    sentence + &refusal.detail()
                })
                .collect(),
        },
        system_identifier: control.map(|control| control.system_identifier.to_string()),
        // The rest of a copy's control file is its source's.
        state: own.map(|control| control.state),
        server_pid: match cluster.running {
            Running::Server { pid } => Some(pid),
            _ => None,
        },
        is_used_otherwise: match &cluster.running {
            Running::No | Running::Server { .. } => None,
            Running::Unclear { pid } => Some(format!(
                "Its postmaster.pid names process {pid}, which works elsewhere."
            )),
            Running::TornPidFile => Some(
                "Its postmaster.pid holds no process number: a server is just starting, or a crash has torn it."
                    .to_owned(),
            ),
            Running::Orphans { detail } => Some(detail.clone()),
        },
        is_locked: cluster.is_locked,
        copy: cluster.mark.as_ref().map(|found| MarkReport {
            is_copy: clone::standing(cluster) == clone::Standing::Copy,
            is_ready: found.mark.is_ready,
            system_identifier: found.mark.system_identifier.clone(),
            source_host: found.mark.source_host.clone(),
            stop_lsn: found.mark.stop_lsn,
            age_seconds: seconds_since(found.mark.made_unix_seconds),
            in_words: clone::remark(cluster).unwrap_or_default(),
        }),
        has_standby_signal: cluster.has_standby_signal,
        timeline: control.map(|_| cluster.history.tip()),
        history: cluster.history.entries.clone(),
        checkpoint: control.map(|control| control.checkpoint),
        redo: control.map(|control| control.redo),
        checkpoint_age_seconds: own
            .and_then(|control| seconds_since(u64::try_from(control.checkpoint_time).ok()?)),
        min_recovery_point: own.map(|control| control.min_recovery_point),
        wal_begin,
        wal_end: cluster.wal_segments_end,
        data_checksums: control.map(ControlFile::has_checksums),
        block_bytes: control.map(|control| control.block_bytes),
        wal_segment_bytes: control.map(|control| control.wal_segment_bytes),
        tablespaces: cluster
            .tablespaces
            .iter()
            .map(|space| TablespaceReport {
                oid: space.oid,
                location: space.location.as_deref().map(words::text),
                is_there: space.identity.is_some(),
            })
            .collect(),
        unarchived: leaving::unarchived(cluster, None),
        slots: cluster.slots.clone(),
        interrupted: cluster.interrupted.as_ref().map(|run| InterruptedReport {
            start_lsn: run.start_lsn,
            age_seconds: seconds_since(run.started_unix_seconds),
            source_host: Some(run.source_host.clone()).filter(|host| !host.is_empty()),
            command: next::again(&options.working_directory, run),
        }),
        files: size.files,
        bytes: size.bytes,
    })
}

fn sentences(warnings: Vec<Warning>) -> Vec<String> {
    let messages = warnings.into_iter().map(|warning| warning.message);
    messages.collect()
}
