//! What state a directory is in: states of PostgreSQL's, and those that pg_reseed itself makes.
//!
//! The control file alone does not tell. That of a finished rebuild is the source's until a server is started in it, and
//! that of a running server says nothing of whom it follows. So the marker, the label of the backup, the signal files
//! and, where it lets us in, the server itself are asked too.

mod reasons;
mod words;

use serde::Serialize;

use crate::facts::{
    Condition, Live, Receiver, Recovery, Running, SourceFacts, TargetCluster, TargetFacts,
    Unstarted,
};
use crate::pg::conninfo::Conninfo;
use crate::pg::control::ClusterState;
use crate::pg::lsn::{Lsn, SegmentName};
use crate::pg::timeline::TimelineId;
use crate::plan::lineage::{Named, servers};

use self::reasons::reasons;

/// The state. Its name in reports is in kebab case; its [`Display`](std::fmt::Display) form completes a sentence that
/// begins with "it is".
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "code")]
pub enum State {
    /// Nothing is there.
    Missing,
    /// An empty directory.
    Empty,
    /// A directory with other content.
    Unknown,
    /// No server can start in it as it is.
    Unusable { problem: String },
    /// pg_reseed works on it now.
    InWork,
    /// A rebuild or seed was interrupted.
    Interrupted { source: String },
    /// A rebuild has finished, and no server was started since.
    Rebuilt(Backup),
    /// A base backup of another tool's, in which no server was started yet.
    Copied(Backup),
    /// A server runs that writes its own WAL.
    Primary,
    /// A server runs in recovery and receives WAL.
    Streaming(Stream),
    /// A server runs as a standby and receives none.
    NotStreaming {
        /// Whom it would follow, as its configuration says; none if that says nothing.
        follows: Vec<String>,
        /// Whether the source is among them; `null` where no source was asked.
        is_of_source: Option<bool>,
        /// Why, as far as that can be seen: sentences.
        reasons: Vec<String>,
        /// The last lines of its log, where that is found.
        log: Vec<String>,
    },
    /// A server runs and recovers from a crash, or from an archive up to a target: it is no standby.
    Recovering,
    /// A server starts, or stops.
    Changing { status: String },
    /// A primary that was shut down.
    StoppedPrimary,
    /// A primary that ended without a shutdown.
    CrashedPrimary,
    /// A standby, or a server in recovery, that does not run.
    StoppedStandby {
        /// As in `NotStreaming`.
        follows: Vec<String>,
        is_of_source: Option<bool>,
    },
}

/// A base backup that waits for its first start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// Host of the server that was copied, where the label names it.
    pub source: Option<String>,
    /// Where replay begins, on which timeline, and the checkpoint there.
    pub start_lsn: Lsn,
    pub timeline: TimelineId,
    pub checkpoint: Lsn,
    /// When the backup began, in the words of its server.
    pub start_time: Option<String>,
    /// It will ask the server that it follows for WAL from here on: what comes before is in its own pg_wal.
    pub needs: Lsn,
    /// Whom it will follow; none if nothing makes it a standby.
    pub follows: Vec<String>,
    /// Whether the source is among them, or is the server that was copied; `null` where no source was asked.
    pub is_of_source: Option<bool>,
    pub slot: Option<String>,
    pub has_standby_signal: bool,
}

impl Backup {
    /// Whether a server that is started in it follows another one. Without `standby.signal` it would be a primary.
    #[must_use]
    pub fn follows_when_started(&self) -> bool {
        self.has_standby_signal && !self.follows.is_empty()
    }
}

/// What a standby receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stream {
    /// Its sender, as it names it; `null` where it does not say.
    pub from: Option<String>,
    /// Whether that is the source; `null` where no source was asked.
    pub is_from_source: Option<bool>,
    pub slot: Option<String>,
    pub replayed: Option<Lsn>,
    /// What it has not replayed of its sender's or the source's WAL.
    pub lag_bytes: Option<u64>,
    /// Age of the last commit that it has replayed; 0 when nothing is left to replay.
    pub lag_seconds: Option<u64>,
    pub is_paused: bool,
}

/// What is known of the source beside its own facts.
#[derive(Debug, Clone, Copy)]
pub struct Beside<'a> {
    pub source: &'a SourceFacts,
    /// The server that the directory's own receives from is the source.
    pub is_sender: bool,
    /// Its `primary_conninfo` leads to the source, alone or among others.
    pub is_named: bool,
    /// What its server said once more after the source had answered, if it did.
    pub later: Option<&'a Live>,
}

/// Tells the state. `log` are the last lines of its server's log. `beside` is `None` where no source was asked.
#[must_use]
pub fn state(target: &TargetFacts, beside: Option<Beside<'_>>, log: &[String]) -> State {
    let cluster = match &target.condition {
        Condition::Missing => return State::Missing,
        Condition::Empty { .. } => return State::Empty,
        Condition::Unknown { .. } => return State::Unknown,
        Condition::Cluster(cluster) => cluster,
    };
    if let Some(run) = &cluster.interrupted {
        return if cluster.is_locked {
            State::InWork
        } else {
            State::Interrupted {
                source: run.source_host.clone(),
            }
        };
    }
    if cluster.is_locked {
        return State::InWork;
    }
    if matches!(cluster.running, Running::Server { .. }) {
        return of_server(cluster, beside, log);
    }
    if let Some(problem) = &cluster.control_problem {
        return State::Unusable {
            problem: problem.clone(),
        };
    }
    if let Some(backup) = &cluster.backup {
        return of_backup(cluster, backup, beside);
    }
    let Some(control) = &cluster.control else {
        return State::Unusable {
            problem: "it has no control file".to_owned(),
        };
    };
    match control.state {
        ClusterState::ShutDown => State::StoppedPrimary,
        ClusterState::ShutDownInRecovery | ClusterState::InArchiveRecovery => {
            stopped_standby(cluster, beside)
        }
        _ if cluster.has_standby_signal => stopped_standby(cluster, beside),
        _ => State::CrashedPrimary,
    }
}

fn stopped_standby(cluster: &TargetCluster, beside: Option<Beside<'_>>) -> State {
    State::StoppedStandby {
        follows: followed(cluster),
        is_of_source: beside.map(|beside| beside.is_named),
    }
}

fn of_backup(cluster: &TargetCluster, backup: &Unstarted, beside: Option<Beside<'_>>) -> State {
    let Some(label) = &backup.label else {
        return State::Unusable {
            problem: "a rebuild of it had finished, and its \"backup_label\" was removed since, so that no server can \
                      start in it"
                .to_owned(),
        };
    };
    let source = label.source_host();
    let copy = Backup {
        source: source.map(str::to_owned),
        start_lsn: label.start_lsn,
        timeline: label.start_timeline,
        checkpoint: label.checkpoint,
        start_time: label.start_time.clone(),
        needs: needs(cluster, label.start_lsn),
        follows: followed(cluster),
        is_of_source: beside
            .map(|beside| beside.is_named || source == Some(beside.source.host.name.as_str())),
        slot: cluster.standing.primary_slot_name.clone(),
        has_standby_signal: cluster.has_standby_signal,
    };
    if backup.is_rebuilt {
        State::Rebuilt(copy)
    } else {
        State::Copied(copy)
    }
}

/// From where on a server that starts at `start` asks for WAL: from the begin of the segment in which its own ends
/// (PostgreSQL `walreceiverfuncs.c:RequestXLogStreaming`).
fn needs(cluster: &TargetCluster, start: Lsn) -> Lsn {
    let (Some(control), Some(end)) = (&cluster.control, cluster.wal_segments_end) else {
        return start;
    };
    let unit = control.wal_segment_bytes;
    let begin = |lsn| SegmentName::of(lsn, cluster.history.tip(), unit).begin(unit);
    if end <= start {
        return begin(start);
    }
    begin(Lsn(end.0 - 1)).max(begin(start))
}

/// Whom the configuration says that it follows, in words.
fn followed(cluster: &TargetCluster) -> Vec<String> {
    named(cluster).iter().map(place_of).collect()
}

/// The servers that the configuration in force leads to.
#[must_use]
pub fn named(cluster: &TargetCluster) -> Vec<Named> {
    let standing = &cluster.standing;
    let in_force = recovery(cluster).and_then(|recovery| recovery.primary_conninfo.as_deref());
    in_force
        .or(standing.primary_conninfo.as_deref())
        .and_then(|text| Conninfo::parse(text).ok())
        .map_or_else(Vec::new, |conninfo| servers(&conninfo))
}

fn place_of(named: &Named) -> String {
    place(&named.host, named.port)
}

fn place(host: &str, port: u16) -> String {
    match host {
        "" => format!("its default socket, port {port}"),
        host => format!("\"{host}\" port {port}"),
    }
}

fn recovery(cluster: &TargetCluster) -> Option<&Recovery> {
    cluster.standing.live.as_ref().map(|live| &live.recovery)
}

fn of_server(cluster: &TargetCluster, beside: Option<Beside<'_>>, log: &[String]) -> State {
    let standing = &cluster.standing;
    let status = cluster.server_status();
    if matches!(status.as_str(), "starting" | "stopping") && standing.live.is_none() {
        return State::Changing { status };
    }
    let in_recovery = standing.live.as_ref().map_or(
        cluster.has_standby_signal || cluster.has_recovery_signal,
        |live| live.in_recovery,
    );
    if !in_recovery {
        return State::Primary;
    }
    if !cluster.has_standby_signal {
        return State::Recovering;
    }
    let receiver = standing
        .live
        .as_ref()
        .and_then(|live| live.receiver.as_ref());
    // A role without rights sees that there is one, and no more.
    let told = receiver.filter(|receiver| !receiver.status.is_empty());
    let is_streaming = match (told, &standing.live, receiver) {
        (Some(receiver), _, _) => receiver.is_streaming(),
        // By its processes.
        (None, None, _) | (None, Some(_), Some(_)) => {
            standing.received.is_some() || cluster.stream.is_some()
        }
        (None, Some(_), None) => false,
    };
    if is_streaming {
        return State::Streaming(stream(cluster, told, beside));
    }
    State::NotStreaming {
        follows: followed(cluster),
        is_of_source: beside.map(|beside| beside.is_named),
        reasons: reasons(cluster, told, beside),
        log: log.to_vec(),
    }
}

fn stream(cluster: &TargetCluster, told: Option<&Receiver>, beside: Option<Beside<'_>>) -> Stream {
    let standing = &cluster.standing;
    let later = beside.and_then(|beside| beside.later);
    let recovery = later
        .map(|live| &live.recovery)
        .or_else(|| recovery(cluster));
    let replayed = recovery.and_then(|recovery| recovery.replayed);
    let is_from_source = beside.map(|beside| beside.is_sender);
    let end = match beside {
        Some(beside) if beside.is_sender => Some(beside.source.current_lsn),
        _ => recovery.and_then(|recovery| recovery.sender_end),
    };
    let at = replayed.or(standing.received);
    let lag_bytes = end.zip(at).map(|(end, at)| end.bytes_since(at));
    let age = recovery.and_then(|recovery| recovery.replayed_age_seconds);
    Stream {
        from: told
            .filter(|receiver| !receiver.host.is_empty())
            .map(|receiver| place(&receiver.host, receiver.port))
            .or_else(|| followed(cluster).into_iter().next()),
        is_from_source,
        slot: match told {
            Some(receiver) => receiver.slot.clone(),
            None => standing.primary_slot_name.clone(),
        },
        replayed,
        lag_bytes,
        lag_seconds: match lag_bytes {
            Some(0) => Some(0),
            _ => age,
        },
        is_paused: recovery.is_some_and(|recovery| recovery.is_paused),
    }
}

/// The begin of the segment from which a running standby asks the source; `None` where it does not say where it is.
#[must_use]
pub fn needed(cluster: &TargetCluster, source: &SourceFacts) -> Option<Lsn> {
    let live = cluster.standing.live.as_ref()?;
    let unit = source.control.wal_segment_bytes;
    let at = live.end;
    (at != Lsn::INVALID).then(|| SegmentName::of(at, source.timeline, unit).begin(unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Interrupted;
    use crate::pg::label::BackupLabel;
    use crate::plan::samples::{self, END};

    const LABEL: &[u8] = b"START WAL LOCATION: 0/4000028 (file 000000020000000000000004)\n\
        CHECKPOINT LOCATION: 0/4000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-01-01 00:00:00 UTC\nLABEL: pg_reseed rebuild from db2\nSTART TIMELINE: 2\n";

    fn target(change: impl FnOnce(&mut TargetCluster)) -> TargetFacts {
        let mut cluster = samples::cluster(0x310_0028);
        change(&mut cluster);
        samples::target(Condition::Cluster(Box::new(cluster)))
    }

    /// A standby that runs and said so.
    fn standby(change: impl FnOnce(&mut TargetCluster, &mut Live)) -> TargetFacts {
        target(|cluster| {
            let mut live = Live {
                in_recovery: true,
                end: END,
                ..Live::default()
            };
            cluster.running = Running::Server { pid: 7 };
            cluster.has_standby_signal = true;
            cluster.pid_file = b"7\n/a\n1\n5432\n/tmp\n\n\nready\n".to_vec();
            change(cluster, &mut live);
            cluster.standing.live = Some(live);
        })
    }

    fn streams(live: &mut Live) {
        live.receiver = Some(Receiver {
            status: "streaming".to_owned(),
            host: "db2".to_owned(),
            port: 5432,
            slot: Some("s".to_owned()),
        });
    }

    fn of(target: &TargetFacts) -> State {
        state(target, None, &[])
    }

    #[test]
    fn our_own_states_are_states() {
        let interrupted = target(|cluster| {
            cluster.interrupted = Some(Interrupted {
                source_host: "db2".to_owned(),
                ..Interrupted::default()
            });
        });
        assert_eq!(
            of(&interrupted).to_string(),
            "left by an interrupted rebuild from \"db2\": it cannot start"
        );
        let in_work = target(|cluster| {
            cluster.interrupted = Some(Interrupted::default());
            cluster.is_locked = true;
        });
        assert_eq!(of(&in_work), State::InWork);
        let backup = |label: Option<BackupLabel>, is_rebuilt| {
            of(&target(|cluster| {
                cluster.backup = Some(Unstarted { label, is_rebuilt });
                cluster.wal_segments_end = Some(Lsn(0x700_0000));
            }))
        };
        let label = BackupLabel::parse(LABEL).unwrap();
        let State::Rebuilt(rebuilt) = backup(Some(label.clone()), true) else {
            panic!("not rebuilt");
        };
        assert_eq!(rebuilt.source.as_deref(), Some("db2"));
        // From the segment in which its own WAL ends.
        assert_eq!(rebuilt.needs, Lsn(0x600_0000));
        assert!(matches!(backup(Some(label), false), State::Copied(_)));
        assert!(matches!(backup(None, true), State::Unusable { .. }));
    }

    #[test]
    fn a_server_is_what_it_says_and_a_stopped_one_what_its_files_say() {
        assert_eq!(of(&target(|_| {})), State::StoppedPrimary);
        assert_eq!(
            of(&target(|cluster| {
                cluster.control = Some(samples::control(1, 9, ClusterState::InProduction));
            })),
            State::CrashedPrimary
        );
        let standby = target(|cluster| {
            cluster.control = Some(samples::control(1, 9, ClusterState::ShutDownInRecovery));
        });
        assert!(matches!(of(&standby), State::StoppedStandby { .. }));
        assert_eq!(
            of(&self::standby(|_, live| live.in_recovery = false)),
            State::Primary
        );
        assert_eq!(
            of(&self::standby(
                |cluster, _| cluster.has_standby_signal = false
            )),
            State::Recovering
        );
        let starting = target(|cluster| {
            cluster.running = Running::Server { pid: 7 };
            cluster.pid_file = b"7\n/a\n1\n5432\n/tmp\n\n\nstarting\n".to_vec();
        });
        assert!(matches!(of(&starting), State::Changing { .. }));
    }

    #[test]
    fn lag_is_what_is_not_replayed_and_no_time_when_nothing_is_left() {
        let lag = |replayed: u64, beside: Option<Beside<'_>>| {
            let target = standby(|_, live| {
                streams(live);
                live.recovery = Recovery {
                    replayed: Some(Lsn(replayed)),
                    sender_end: Some(Lsn(END.0 - 8)),
                    replayed_age_seconds: Some(90),
                    ..Recovery::default()
                };
            });
            match state(&target, beside, &[]) {
                State::Streaming(stream) => (stream.lag_bytes, stream.lag_seconds),
                other => panic!("{other:?}"),
            }
        };
        let source = samples::source();
        let beside = |is_sender| {
            Some(Beside {
                source: &source,
                is_sender,
                is_named: is_sender,
                later: None,
            })
        };
        assert_eq!(lag(END.0 - 100, beside(true)), (Some(100), Some(90)));
        assert_eq!(lag(END.0, beside(true)), (Some(0), Some(0)));
        // What the source has says nothing of another server's standby.
        assert_eq!(lag(END.0 - 108, beside(false)), (Some(100), Some(90)));
        assert_eq!(lag(END.0 - 108, None), (Some(100), Some(90)));
    }

    #[test]
    fn what_keeps_a_standby_from_streaming_is_said() {
        let mut source = samples::source();
        source.oldest_wal = Some(Lsn(END.0 + 1));
        let target = standby(|cluster, live| {
            live.recovery.is_paused = true;
            cluster.standing.primary_conninfo = Some("host=db2".to_owned());
            cluster.standing.primary_slot_name = Some("gone".to_owned());
        });
        let beside = |is_named| Beside {
            source: &source,
            is_sender: false,
            is_named,
            later: None,
        };
        let reasons = |beside| match state(&target, beside, &[]) {
            State::NotStreaming { reasons, .. } => reasons.join(" "),
            other => panic!("{other:?}"),
        };
        let said = reasons(Some(beside(true)));
        for reason in [
            "replay is paused",
            "no such slot",
            "not in the source's pg_wal",
        ] {
            assert!(said.contains(reason), "{said}");
        }
        assert!(reasons(Some(beside(false))).contains("not to this source"));
        let alone = standby(|_, _| {});
        let State::NotStreaming { reasons, .. } = of(&alone) else {
            panic!("it streams");
        };
        assert!(reasons[0].contains("primary_conninfo is not set"));
    }
}
