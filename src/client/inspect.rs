//! `inspect`: what a directory is, how it relates to a source, and what follows from that. Changes nothing.

use std::fmt::Write as _;
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
    ClusterReport, Inspection, InterruptedReport, SlotReport, SourceReport, TablespaceReport,
};
use crate::client::source;
use crate::digest::SessionKey;
use crate::disk::facts as disk;
use crate::disk::size;
use crate::event::Events;
use crate::facts::{Condition, Running, SourceFacts, TargetCluster, TargetFacts};
use crate::pg::lsn::unbroken_since;
use crate::pg::timeline::history_file_name;
use crate::pg::version::tablespace_directory;
use crate::plan::advice::{Advice, advise};
use crate::plan::lineage::{Lineage, Remark, lineage as lineage_of};
use crate::plan::relation::relate;
use crate::plan::slots;
use crate::plan::words;
use crate::warning::Warning;
use crate::wire::message::{Compression, Request};
use crate::workers;

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
        advice: None,
        sentences: Vec::new(),
        command: None,
    };
    if let Some(source) = &options.source {
        lineage::complete(&mut target, pgdata, options.config_file.as_deref()).await;
        let slot = slots::wanted(options.slot.as_deref(), &target);
        let slot = slot.map(str::to_owned);
        let facts = ask(source, slot, (&mut target, pgdata), events).await?;
        conclude(&mut inspection, options, source, &target, &facts)?;
    }
    Ok(inspection)
}

async fn ask(
    source: &InspectSource,
    slot: Option<String>,
    (target, pgdata): (&mut TargetFacts, &Path),
    events: &Events,
) -> Result<SourceFacts, Failure> {
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
        jobs: 1,
        max_rate: None,
        survey: true,
        join: None,
    };
    let introduced = asked.introduce(&configure, slot).await;
    let found = match introduced {
        Ok(facts) => twins::complete(target, &facts, &asked, pgdata, key)
            .await
            .map(|()| facts)
            .map_err(|error| Failure::untouched(&error)),
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

fn conclude(
    inspection: &mut Inspection,
    options: &InspectOptions,
    source: &InspectSource,
    target: &TargetFacts,
    facts: &SourceFacts,
) -> Result<(), Failure> {
    let relation = relate(target, facts);
    let lineage = lineage_of(target, facts, &lineage::local_addresses(facts));
    let advice = advise(target, facts, &relation).along(&lineage);
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
    inspection
        .sentences
        .extend(remarks(options, target, facts, &lineage));
    let cluster_report = inspection.cluster.as_ref();
    if cluster_report.is_some_and(|cluster| !cluster.configuration_problems.is_empty()) {
        let mend = "Whatever you do, mend the directory's configuration before you start a server.";
        inspection.sentences.push(mend.to_owned());
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
        let mut command = command(options, source)?;
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

/// The rebuild that the advice speaks of, with the words of this inspection.
fn command(options: &InspectOptions, source: &InspectSource) -> Result<String, Failure> {
    let conninfo = source
        .primary
        .to_keyword_value()
        .map_err(|error| Failure::untouched(&error))?;
    let pgdata = options.pgdata.display().to_string();
    let cluster = options.cluster.as_ref().map(ToString::to_string);
    let mut command = "pg_reseed rebuild".to_owned();
    let typed = source
        .typed
        .iter()
        .map(|(option, value)| (*option, Some(value)));
    for (option, value) in [
        ("--cluster", cluster.as_ref()),
        ("-D", Some(&pgdata).filter(|_| cluster.is_none())),
        ("-d", Some(&conninfo)),
    ]
    .into_iter()
    .chain(typed)
    .chain([("--slot", options.slot.as_ref())])
    {
        if let Some(value) = value {
            // Only a NUL cannot be quoted, and no argument holds one.
            let quoted = shlex::try_quote(value).unwrap_or_default();
            let _ = write!(command, " {option} {quoted}");
        }
    }
    Ok(command)
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
        state: control.map(|control| control.state),
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
        has_standby_signal: cluster.has_standby_signal,
        timeline: control.map(|_| cluster.history.tip()),
        history: cluster.history.entries.clone(),
        checkpoint: control.map(|control| control.checkpoint),
        redo: control.map(|control| control.redo),
        checkpoint_age_seconds: control
            .and_then(|control| seconds_since(u64::try_from(control.checkpoint_time).ok()?)),
        min_recovery_point: control.map(|control| control.min_recovery_point),
        wal_begin,
        wal_end: cluster.wal_segments_end,
        data_checksums: control.map(|control| control.checksum_version > 0),
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
        }),
        files: size.files,
        bytes: size.bytes,
    })
}

fn sentences(warnings: Vec<Warning>) -> Vec<String> {
    let messages = warnings.into_iter().map(|warning| warning.message);
    messages.collect()
}
