//! The guards: reasons to refuse before a byte is written, and the proof that there was none.
//!
//! [`judge`] holds what both sides said about themselves against every guard and returns all
//! refusals, the most fundamental first, so that the DBA mends everything in one go. [`Cleared`] can
//! be made here only: whoever writes to a target asks for it. Guards that few runs need or whose facts come
//! later ([`wal_supply`], [`login`], [`room`], [`max_delete`], [`new_tablespaces`]) are functions of their own
//! and refuse in the same words.

use crate::facts::{
    Condition, FileIdentity, HostIdentity, Running, SlotFacts, SourceFacts, TargetCluster,
    TargetFacts,
};
use crate::pg::control::ControlFile;
use crate::pg::version::SUPPORTED_MAJORS;
// Those who only set them know the guards by this one name.
pub use crate::plan::overrides::Overrides;
use crate::plan::refusal::Refusal;
use crate::plan::relation::{Relation, relate};
use crate::plan::settings::TooLow;
use crate::plan::tablespaces::{
    Mapping, PlaceState, Placement, TargetPlaces, canonical, is_inside, resolve, stale_links,
};
use crate::plan::words::text;

/// The replication slot that the run was asked to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotWish<'a> {
    /// None: a temporary one, until the standby streams.
    Temporary,
    /// `--slot`: it exists.
    Existing(&'a str),
    /// `--slot` with `--create-slot`: it is made if it does not exist.
    Create(&'a str),
}

/// All that the guards look at.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub target: &'a TargetFacts,
    pub source: &'a SourceFacts,
    pub slot: SlotWish<'a>,
    pub mappings: &'a [Mapping],
    pub places: &'a TargetPlaces,
    pub overrides: &'a Overrides,
}

/// What the judgement found, for the steps that follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    pub relation: Relation,
    /// The target has nothing of its own: it takes the source's configuration too.
    pub is_seed: bool,
    /// Where each tablespace of the source goes.
    pub placements: Vec<Placement>,
    /// Tablespaces of the target that the source has not.
    pub stale_tablespaces: Vec<u32>,
    /// WAL must be kept by a temporary slot: none was asked for, or the one asked for keeps nothing
    /// yet because no standby has used it.
    pub needs_temporary_slot: bool,
}

/// The proof that every guard has passed: only [`judge`] makes it.
#[derive(Debug, Clone)]
pub struct Cleared(Findings);

impl Cleared {
    /// What the judgement found.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.0
    }
}

/// Judges whether the run may go on.
///
/// # Errors
/// All refusals, the most fundamental first.
pub fn judge(situation: &Situation) -> Result<Cleared, Vec<Refusal>> {
    judge_but(situation, |_| true).map(Cleared)
}

/// As [`judge`], but a server that runs in the target is no reason to refuse, and what comes of it
/// is no proof: for a run that will stop the server (it must not stop the source's) and for
/// `--dry-run` with `--stop`. Look and judge again once it is stopped.
///
/// # Errors
/// All other refusals.
pub fn judge_before_stop(situation: &Situation) -> Result<Findings, Vec<Refusal>> {
    judge_but(situation, |refusal| {
        !matches!(refusal, Refusal::ServerRunning { .. })
    })
}

fn judge_but(
    situation: &Situation,
    counts: impl Fn(&Refusal) -> bool,
) -> Result<Findings, Vec<Refusal>> {
    let Situation { target, source, .. } = situation;
    let relation = relate(target, source);
    let mut refusals = Vec::new();
    if target.is_root {
        refusals.push(Refusal::RunsAsRoot);
    }
    let same = judge_identity(situation);
    if !same.is_empty() {
        // Everything else would speak about the source: "stop the server" would be fatal advice.
        refusals.extend(same);
        return Err(refusals);
    }
    refusals.extend(judge_place(target));
    refusals.extend(judge_waldir(situation.places));
    refusals.extend(judge_kinship(situation, &relation));
    refusals.extend(judge_source(source));
    refusals.extend(judge_slot(situation));
    let placements = resolve(
        source,
        situation.mappings,
        situation.places,
        situation.overrides,
    )
    .unwrap_or_else(|tablespaces| {
        refusals.extend(tablespaces);
        Vec::new()
    });
    refusals.retain(counts);
    if !refusals.is_empty() {
        return Err(refusals);
    }
    Ok(Findings {
        is_seed: relation.is_seed(),
        relation,
        stale_tablespaces: stale_links(
            situation.places.existing.iter().map(|here| here.oid),
            source.tablespaces.iter().map(|there| there.oid),
        ),
        placements,
        needs_temporary_slot: needs_temporary_slot(situation),
    })
}

fn cluster(target: &TargetFacts) -> Option<&TargetCluster> {
    match &target.condition {
        Condition::Cluster(cluster) => Some(cluster),
        _ => None,
    }
}

/// Whether target and source share a directory.
fn judge_identity(situation: &Situation) -> Vec<Refusal> {
    let Situation {
        target,
        source,
        places,
        ..
    } = situation;
    let mut refusals = Vec::new();
    if target.host.is_same_kernel(&source.host) {
        let theirs = directories_of_source(source);
        for (target_role, here) in directories_of_target(target) {
            if let Some((source_role, path, _)) = theirs.iter().find(|(_, _, there)| *there == here)
            {
                refusals.push(Refusal::SameDirectory {
                    target_role,
                    source_role: source_role.clone(),
                    source_path: text(path),
                });
                if here == source.identity {
                    // All that lies in it is the source's too.
                    break;
                }
            }
        }
        refusals.extend(nested(&target.host, &places.pgdata, source));
    }
    if let Some(cluster) = cluster(target)
        && refusals.is_empty()
        && !source.pid_file.is_empty()
        && cluster.pid_file == source.pid_file
    {
        refusals.push(Refusal::SamePidFile {
            pgdata: target.pgdata.clone(),
        });
    }
    refusals
}

fn directories_of_source(source: &SourceFacts) -> Vec<(String, Vec<u8>, FileIdentity)> {
    let pgdata = source.data_directory.clone();
    let wal = [&pgdata[..], b"/pg_wal"].concat();
    let mut all = vec![
        ("the data directory".to_owned(), pgdata, source.identity),
        ("the WAL directory".to_owned(), wal, source.wal_identity),
    ];
    for tablespace in &source.tablespaces {
        if let (Some(location), Some(identity)) = (&tablespace.location, tablespace.identity) {
            let role = format!("tablespace {}", tablespace.oid);
            all.push((role, location.clone(), identity));
        }
    }
    all
}

fn directories_of_target(target: &TargetFacts) -> Vec<(String, FileIdentity)> {
    let mut all = Vec::new();
    match &target.condition {
        Condition::Missing | Condition::Unknown { .. } => {}
        Condition::Empty { identity, .. } => {
            all.push(("the data directory".to_owned(), *identity));
        }
        Condition::Cluster(cluster) => {
            all.push(("the data directory".to_owned(), cluster.identity));
            if let Some(identity) = cluster.wal_identity {
                all.push(("the WAL directory".to_owned(), identity));
            }
            for tablespace in &cluster.tablespaces {
                if let Some(identity) = tablespace.identity {
                    all.push((format!("tablespace {}", tablespace.oid), identity));
                }
            }
        }
    }
    all
}

/// One data directory inside the other. Told by their paths, which mean the same on one host only:
/// containers on one kernel have names of their own.
fn nested(host: &HostIdentity, pgdata: &[u8], source: &SourceFacts) -> Option<Refusal> {
    if pgdata.is_empty() || host.name != source.host.name {
        return None;
    }
    let (here, there) = (canonical(pgdata), canonical(&source.data_directory));
    let (inner, outer) = if here == there {
        return None;
    } else if is_inside(&here, &there) {
        (here, there)
    } else if is_inside(&there, &here) {
        (there, here)
    } else {
        return None;
    };
    Some(Refusal::NestedDirectory {
        inner: text(&inner),
        outer: text(&outer),
    })
}

/// Whether the directory is one that this user may write, and nobody else does.
fn judge_place(target: &TargetFacts) -> Vec<Refusal> {
    let pgdata = || target.pgdata.clone();
    let not_owner = || Refusal::NotOwner {
        pgdata: pgdata(),
        user: target.user.clone(),
    };
    let mut refusals = Vec::new();
    match &target.condition {
        Condition::Missing => {}
        // As root nobody owns anything; one refusal says it.
        Condition::Empty { is_owner, .. } => {
            if !is_owner && !target.is_root {
                refusals.push(not_owner());
            }
        }
        Condition::Unknown { example } => refusals.push(Refusal::NotADataDirectory {
            pgdata: pgdata(),
            example: example.clone(),
        }),
        Condition::Cluster(cluster) => {
            if !cluster.is_owner && !target.is_root {
                refusals.push(not_owner());
            }
            if cluster.is_locked {
                // The other run may hold postmaster.pid: that is no server.
                refusals.push(Refusal::Locked { pgdata: pgdata() });
                return refusals;
            }
            match &cluster.running {
                Running::No => {}
                Running::Server { pid } => refusals.push(Refusal::ServerRunning {
                    pgdata: pgdata(),
                    pid: *pid,
                }),
                Running::Unclear { pid } => refusals.push(Refusal::PidFileUnclear {
                    pgdata: pgdata(),
                    pid: *pid,
                }),
                Running::Orphans { detail } => refusals.push(Refusal::Orphans {
                    pgdata: pgdata(),
                    detail: detail.clone(),
                }),
            }
            if let Some(problem) = unreadable(cluster) {
                refusals.push(Refusal::Unreadable {
                    pgdata: pgdata(),
                    problem,
                });
            }
            if !cluster.unexpected_links.is_empty() {
                refusals.push(Refusal::UnexpectedLinks {
                    links: cluster.unexpected_links.clone(),
                });
            }
        }
    }
    refusals
}

/// Whether pg_wal can be made where it shall be: everything there would go.
fn judge_waldir(places: &TargetPlaces) -> Option<Refusal> {
    let (waldir, place) = places.new_waldir.as_ref()?;
    let problem = match &place.state {
        PlaceState::Missing | PlaceState::Empty => None,
        PlaceState::NotDirectory => Some("it is not a directory".to_owned()),
        PlaceState::ForeignContent { example } => Some(format!("it holds \"{example}\"")),
        PlaceState::Free | PlaceState::OurVersion => Some("it holds a tablespace".to_owned()),
    };
    let pgdata = canonical(&places.pgdata);
    let is_inside_pgdata = is_inside(&canonical(waldir), &pgdata);
    let problem = if is_inside_pgdata {
        Some("it is in the data directory".to_owned())
    } else {
        problem
    };
    problem.map(|problem| Refusal::WaldirUnfit {
        waldir: text(waldir),
        problem,
    })
}

/// Why the cluster cannot be recognised. An interrupted seed has no control file of its own, and
/// its marker proves that the directory was given to the tool.
fn unreadable(cluster: &TargetCluster) -> Option<String> {
    if cluster.interrupted.is_some() {
        return None;
    }
    if cluster.control.is_none() {
        let problem = cluster.control_problem.as_deref();
        return Some(problem.unwrap_or("it has no control file").to_owned());
    }
    cluster
        .major
        .is_none()
        .then(|| "it has no valid \"PG_VERSION\"".to_owned())
}

/// Whether the target may become a standby of this source.
fn judge_kinship(situation: &Situation, relation: &Relation) -> Vec<Refusal> {
    let Situation {
        target,
        source,
        overrides,
        ..
    } = situation;
    let mut refusals = Vec::new();
    let is_allowed =
        overrides.allow_unknown_version && source.version.major() > *SUPPORTED_MAJORS.end();
    if !source.version.is_supported() && !is_allowed {
        refusals.push(Refusal::UnsupportedVersion {
            version: source.version,
        });
    }
    if let Some(cluster) = cluster(target) {
        refusals.extend(judge_layout(cluster, source));
    }
    match relation.original() {
        Relation::Foreign { target, source } if !overrides.overwrite_foreign_cluster => {
            refusals.push(Refusal::ForeignCluster {
                target: *target,
                source: *source,
            });
        }
        Relation::NewerTimeline {
            target,
            source,
            common,
            target_end,
        } if !overrides.discard_newer_timeline => {
            refusals.push(Refusal::NewerTimeline {
                target: *target,
                source: *source,
                common: *common,
                target_end: *target_end,
            });
        }
        Relation::AheadSameTimeline {
            timeline,
            target_end,
            source_end,
            source_is_standby,
        } if !overrides.discard_newer_wal => {
            refusals.push(Refusal::NewerWal {
                timeline: *timeline,
                target_end: *target_end,
                source_end: *source_end,
                source_is_standby: *source_is_standby,
            });
        }
        _ => {}
    }
    refusals
}

fn judge_layout(cluster: &TargetCluster, source: &SourceFacts) -> Option<Refusal> {
    let theirs = source.version.major();
    let control = cluster.control.as_ref();
    let ours = cluster
        .major
        .or_else(|| control.and_then(ControlFile::major));
    if let Some(ours) = ours.filter(|ours| *ours != theirs) {
        return Some(Refusal::OtherMajor {
            target: ours,
            source: theirs,
        });
    }
    let control = control?;
    let mut differences = control.layout_differences(&source.control);
    let (ours, theirs) = (control.wal_segment_bytes, source.control.wal_segment_bytes);
    if ours != theirs {
        differences.push(("xlog_seg_size", ours.to_string(), theirs.to_string()));
    }
    (!differences.is_empty()).then_some(Refusal::OtherLayout { differences })
}

/// Whether the source can give a backup and serve a standby.
fn judge_source(source: &SourceFacts) -> Vec<Refusal> {
    let settings = &source.settings;
    let mut refusals = Vec::new();
    if !source.rights.backup {
        refusals.push(Refusal::NoBackupRight {
            role: source.rights.role.clone(),
            major: source.version.major(),
        });
    }
    if !source.rights.replication {
        refusals.push(Refusal::NoReplicationRight {
            role: source.rights.role.clone(),
        });
    }
    if !["replica", "logical"].contains(&settings.wal_level.as_str()) {
        refusals.push(Refusal::WalLevelTooLow {
            wal_level: settings.wal_level.clone(),
        });
    }
    if settings.active_wal_senders >= settings.max_wal_senders {
        refusals.push(Refusal::NoWalSender {
            max: settings.max_wal_senders,
            active: settings.active_wal_senders,
        });
    }
    if source.in_recovery && !settings.full_page_writes {
        refusals.push(Refusal::FullPageWritesOff);
    }
    refusals
}

/// Whether the run can have the slot that it needs.
fn judge_slot(situation: &Situation) -> Vec<Refusal> {
    let Situation { source, slot, .. } = situation;
    let settings = &source.settings;
    let mut refusals = Vec::new();
    match (*slot, &source.slot) {
        (SlotWish::Temporary, _) | (SlotWish::Create(_), None) => {}
        (SlotWish::Existing(name), None) => refusals.push(Refusal::SlotMissing {
            name: name.to_owned(),
        }),
        // A slot that is there already is that of an earlier run that was killed, or the DBA's own.
        (SlotWish::Existing(name) | SlotWish::Create(name), Some(facts)) => {
            let name = name.to_owned();
            if !facts.is_physical {
                refusals.push(Refusal::SlotLogical { name });
            } else if facts.active {
                refusals.push(Refusal::SlotActive { name });
            } else if facts.wal_status == "lost" {
                refusals.push(Refusal::SlotLost { name });
            }
        }
    }
    let makes_one = matches!(slot, SlotWish::Create(_)) && source.slot.is_none();
    let needs_new = needs_temporary_slot(situation) || makes_one;
    if needs_new && settings.used_replication_slots >= settings.max_replication_slots {
        refusals.push(Refusal::NoFreeSlot {
            max: settings.max_replication_slots,
            used: settings.used_replication_slots,
        });
    }
    refusals
}

/// Judges, for a run that brings no WAL, whether the standby's slot can keep it from the beginning on.
///
/// # Errors
/// The slot never reserved any, and nothing else gives WAL.
pub fn wal_supply(
    wish: SlotWish,
    slot: Option<&SlotFacts>,
    has_restore_command: bool,
) -> Result<(), Refusal> {
    match (wish, slot) {
        (SlotWish::Existing(name) | SlotWish::Create(name), Some(facts))
            if facts.restart_lsn.is_none() && !has_restore_command =>
        {
            Err(Refusal::SlotKeepsNothing {
                name: name.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

fn needs_temporary_slot(situation: &Situation) -> bool {
    match (situation.slot, &situation.source.slot) {
        (SlotWish::Temporary, _) => true,
        (SlotWish::Existing(_) | SlotWish::Create(_), Some(facts)) => facts.restart_lsn.is_none(),
        _ => false,
    }
}

/// What came of trying the standby's login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// The server let it in for replication.
    Reached { system_identifier: u64 },
    /// It did not, or was not there: the reason in its own words.
    Refused { reason: String },
}

/// Judges the login with the very `primary_conninfo` that will be written, given without password.
///
/// # Errors
/// The login was refused, or led to another cluster than `expected_identifier`.
pub fn login(
    result: &Login,
    expected_identifier: u64,
    primary_conninfo: &str,
    overrides: &Overrides,
) -> Result<(), Refusal> {
    if overrides.no_login_check {
        return Ok(());
    }
    match result {
        Login::Reached { system_identifier } if *system_identifier == expected_identifier => Ok(()),
        Login::Reached { system_identifier } => Err(Refusal::LoginElsewhere {
            primary_conninfo: primary_conninfo.to_owned(),
            expected: expected_identifier,
            actual: *system_identifier,
        }),
        Login::Refused { reason } => Err(Refusal::LoginRefused {
            primary_conninfo: primary_conninfo.to_owned(),
            reason: reason.clone(),
        }),
    }
}

/// What one file system must take, and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomNeed {
    /// A directory on it, for people.
    pub place: String,
    pub needed_bytes: u64,
    pub available_bytes: u64,
}

/// Judges whether all that must come has room, given one need for each file system.
///
/// # Errors
/// One refusal for each file system that is too small.
pub fn room(needs: &[RoomNeed], overrides: &Overrides) -> Result<(), Vec<Refusal>> {
    let refusals: Vec<Refusal> = needs
        .iter()
        .filter(|need| need.needed_bytes > need.available_bytes && !overrides.ignore_free_space)
        .map(|need| Refusal::NoRoom {
            place: need.place.clone(),
            needed_bytes: need.needed_bytes,
            available_bytes: need.available_bytes,
        })
        .collect();
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(refusals)
    }
}

/// Judges what the target's configuration gives to the standby.
///
/// # Errors
/// It is less than the source has.
pub fn settings(settings: Vec<TooLow>) -> Result<(), Refusal> {
    if settings.is_empty() {
        Ok(())
    } else {
        Err(Refusal::SettingsTooLow { settings })
    }
}

/// Judges how many files the run would remove from the target, of which `examples` names some; `None` is no limit.
///
/// # Errors
/// More than the limit.
pub fn max_delete(
    limit: Option<u64>,
    files: u64,
    examples: impl FnOnce() -> Vec<String>,
) -> Result<(), Refusal> {
    match limit {
        Some(limit) if files > limit => Err(Refusal::TooManyRemovals {
            limit,
            files,
            examples: examples(),
        }),
        _ => Ok(()),
    }
}

/// Judges the tablespaces of the manifest, which the source may have got since it was looked at.
///
/// # Errors
/// Some have no place yet.
pub fn new_tablespaces(
    placements: &[Placement],
    in_manifest: impl IntoIterator<Item = u32>,
) -> Result<(), Refusal> {
    let known = placements.iter().map(|placement| placement.oid);
    let oids = stale_links(in_manifest, known);
    if oids.is_empty() {
        Ok(())
    } else {
        Err(Refusal::NewTablespaces { oids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Interrupted, SlotFacts};
    use crate::pg::control::ClusterState;
    use crate::pg::lsn::Lsn;
    use crate::pg::timeline::TimelineId;
    use crate::pg::version::Version;
    use crate::plan::samples::{
        END, control, diverged_target, host, identity, source, tablespace, target,
    };

    /// Everything a guard looks at, owned, so that a test can bend it.
    struct Scene {
        target: TargetFacts,
        source: SourceFacts,
        slot: SlotWish<'static>,
        mappings: Vec<Mapping>,
        places: TargetPlaces,
        overrides: Overrides,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                target: diverged_target(),
                source: source(),
                slot: SlotWish::Temporary,
                mappings: Vec::new(),
                places: TargetPlaces {
                    pgdata: b"/srv/a".to_vec(),
                    ..TargetPlaces::default()
                },
                overrides: Overrides::default(),
            }
        }

        fn situation(&self) -> Situation<'_> {
            Situation {
                target: &self.target,
                source: &self.source,
                slot: self.slot,
                mappings: &self.mappings,
                places: &self.places,
                overrides: &self.overrides,
            }
        }

        fn cluster(&mut self) -> &mut TargetCluster {
            match &mut self.target.condition {
                Condition::Cluster(cluster) => cluster,
                other => panic!("no cluster: {other:?}"),
            }
        }

        fn control(&mut self) -> &mut crate::pg::control::ControlFile {
            self.cluster().control.as_mut().unwrap()
        }

        fn on_one_kernel(&mut self) -> &mut Self {
            self.target.host = host("b");
            self.places.is_same_kernel = true;
            self
        }
    }

    fn refused(bend: impl FnOnce(&mut Scene)) -> Vec<&'static str> {
        let mut scene = Scene::new();
        bend(&mut scene);
        match judge(&scene.situation()) {
            Ok(_) => Vec::new(),
            Err(refusals) => refusals.iter().map(Refusal::name).collect(),
        }
    }

    fn slot(restart_lsn: Option<u64>) -> SlotFacts {
        SlotFacts {
            name: "s".to_owned(),
            is_physical: true,
            active: false,
            restart_lsn: restart_lsn.map(Lsn),
            wal_status: "reserved".to_owned(),
        }
    }

    #[test]
    fn a_diverged_old_primary_is_cleared() {
        let scene = Scene::new();
        let cleared = judge(&scene.situation()).unwrap();
        let findings = cleared.findings();
        assert_eq!(findings.relation.name(), "diverged");
        assert!(!findings.is_seed);
        assert!(findings.needs_temporary_slot);
    }

    #[test]
    fn empty_places_are_cleared_as_seeds() {
        for condition in [
            Condition::Missing,
            Condition::Empty {
                is_owner: true,
                identity: identity(200),
            },
        ] {
            let mut scene = Scene::new();
            scene.target = target(condition);
            assert!(judge(&scene.situation()).unwrap().findings().is_seed);
        }
    }

    #[test]
    fn an_interrupted_run_can_be_repeated() {
        let marker = Interrupted {
            started_unix_seconds: 1,
            start_lsn: Lsn(1),
        };
        let mut scene = Scene::new();
        scene.cluster().interrupted = Some(marker.clone());
        let cleared = judge(&scene.situation()).unwrap();
        assert!(!cleared.findings().is_seed);
        let cluster = scene.cluster();
        (cluster.control, cluster.major) = (None, None);
        let cleared = judge(&scene.situation()).unwrap();
        assert!(cleared.findings().is_seed);
        // The marker opens no door to another cluster.
        assert_eq!(
            refused(|scene| {
                scene.cluster().interrupted = Some(marker);
                scene.control().system_identifier = 1;
            }),
            ["foreign-cluster"]
        );
    }

    type Bend = fn(&mut Scene);

    #[test]
    fn each_guard_of_the_target_refuses() {
        let cases: &[(&str, Bend)] = &[
            ("runs-as-root", |s| {
                s.target.is_root = true;
                s.cluster().is_owner = false;
            }),
            ("not-owner", |s| s.cluster().is_owner = false),
            ("not-owner", |s| {
                s.target.condition = Condition::Empty {
                    is_owner: false,
                    identity: identity(200),
                };
            }),
            ("not-a-data-directory", |s| {
                s.target.condition = Condition::Unknown {
                    example: "photos".to_owned(),
                };
            }),
            ("locked", |s| s.cluster().is_locked = true),
            ("server-running", |s| {
                s.cluster().running = Running::Server { pid: 42 };
            }),
            ("orphans", |s| {
                s.cluster().running = Running::Orphans {
                    detail: "PID 43 holds shared memory.".to_owned(),
                };
            }),
            ("unreadable", |s| s.cluster().control = None),
            ("unreadable", |s| s.cluster().major = None),
            ("unexpected-links", |s| {
                s.cluster().unexpected_links = vec!["base".to_owned()];
            }),
        ];
        for (name, bend) in cases {
            assert_eq!(refused(bend), [*name]);
        }
    }

    #[test]
    fn each_guard_of_kinship_refuses() {
        let cases: &[(&str, Bend)] = &[
            ("unsupported-version", |s| {
                s.source.version = Version(120_020);
                s.cluster().major = Some(12);
            }),
            ("unsupported-version", |s| {
                s.source.version = Version(190_000);
                s.cluster().major = Some(19);
            }),
            ("other-major", |s| s.cluster().major = Some(14)),
            ("other-layout", |s| s.control().block_bytes = 16_384),
            ("other-layout", |s| s.control().segment_blocks = 16),
            ("other-layout", |s| s.control().catalog_version += 1),
            ("other-layout", |s| s.control().wal_segment_bytes = 1 << 20),
            ("foreign-cluster", |s| s.control().system_identifier = 1),
            ("newer-timeline", |s| {
                s.cluster().newest_wal_timeline = Some(TimelineId(3));
            }),
            ("newer-wal", ahead),
        ];
        for (name, bend) in cases {
            assert_eq!(refused(bend), [*name]);
        }
    }

    fn ahead(scene: &mut Scene) {
        let history = scene.source.history.clone();
        let cluster = scene.cluster();
        cluster.control = Some(control(2, END.0 + 0x28, ClusterState::ShutDown));
        cluster.history = history;
    }

    #[test]
    fn overrides_open_their_own_guard_only() {
        let newer: Bend = |s| s.cluster().newest_wal_timeline = Some(TimelineId(3));
        let foreign: Bend = |s| s.control().system_identifier = 1;
        let bends: [Bend; 3] = [foreign, newer, ahead];
        let opens: [Bend; 3] = [
            |s| s.overrides.overwrite_foreign_cluster = true,
            |s| s.overrides.discard_newer_timeline = true,
            |s| s.overrides.discard_newer_wal = true,
        ];
        for (danger, bend) in bends.iter().enumerate() {
            for (key, open) in opens.iter().enumerate() {
                let names = refused(|scene| {
                    bend(scene);
                    open(scene);
                });
                assert_eq!(names.is_empty(), danger == key, "{danger} {key}: {names:?}");
            }
        }
        // No override lets blocks of another layout pass.
        assert_eq!(
            refused(|s| {
                foreign(s);
                s.control().block_bytes = 4096;
                s.overrides.overwrite_foreign_cluster = true;
            }),
            ["other-layout"]
        );
    }

    #[test]
    fn only_a_later_version_can_be_allowed() {
        let allowed = |major: u32| {
            refused(|s| {
                s.source.version = Version(major * 10_000);
                s.cluster().major = Some(major);
                s.overrides.allow_unknown_version = true;
            })
        };
        assert_eq!(allowed(19), [""; 0]);
        assert_eq!(allowed(12), ["unsupported-version"]);
    }

    #[test]
    fn one_directory_is_never_both() {
        let cases: &[Bend] = &[
            |s| s.cluster().identity = identity(100),
            |s| s.cluster().wal_identity = Some(identity(101)),
            |s| {
                s.source.tablespaces = vec![tablespace(16_400, "/ts", 300)];
                s.cluster().tablespaces = vec![tablespace(16_400, "/link/to/ts", 300)];
            },
            // A tablespace of one can be the data directory of the other.
            |s| s.cluster().tablespaces = vec![tablespace(16_400, "/x", 100)],
            |s| {
                s.target.condition = Condition::Empty {
                    is_owner: true,
                    identity: identity(100),
                };
            },
        ];
        for bend in cases {
            assert_eq!(
                refused(|scene| bend(scene.on_one_kernel())),
                ["same-directory"]
            );
            // Numbers of another kernel mean other things.
            assert!(!refused(bend).contains(&"same-directory"));
        }
    }

    #[test]
    fn the_source_itself_is_never_said_to_be_stopped() {
        let bend = |scene: &mut Scene| {
            scene.on_one_kernel().cluster().identity = identity(100);
            scene.cluster().running = Running::Server { pid: 42 };
            scene.cluster().is_locked = true;
        };
        assert_eq!(refused(bend), ["same-directory"]);
        let mut scene = Scene::new();
        bend(&mut scene);
        assert!(judge_before_stop(&scene.situation()).is_err());
    }

    #[test]
    fn a_shared_pid_file_betrays_another_mount() {
        let pid_file: Bend = |s| s.cluster().pid_file = b"4711\n/srv/b\n".to_vec();
        assert_eq!(refused(pid_file), ["same-pid-file"]);
        assert!(refused(|s| s.source.pid_file = Vec::new()).is_empty());
    }

    #[test]
    fn nested_data_directories_are_refused_on_one_host() {
        for (path, names) in [
            ("/srv/b/sub", &["nested-directory"][..]),
            ("/srv", &["nested-directory"]),
            ("/srv/b2", &[]),
        ] {
            assert_eq!(
                refused(|scene| {
                    scene.on_one_kernel().places.pgdata = path.as_bytes().to_vec();
                }),
                names,
                "{path}"
            );
        }
        assert!(refused(|scene| scene.places.pgdata = b"/srv/b/sub".to_vec()).is_empty());
    }

    #[test]
    fn each_guard_of_the_source_refuses() {
        let cases: &[(&str, Bend)] = &[
            ("no-backup-right", |s| s.source.rights.backup = false),
            ("no-replication-right", |s| {
                s.source.rights.replication = false;
            }),
            ("wal-level-too-low", |s| {
                s.source.settings.wal_level = "minimal".to_owned();
            }),
            ("no-wal-sender", |s| {
                s.source.settings.max_wal_senders = 0;
            }),
            ("no-wal-sender", |s| {
                s.source.settings.active_wal_senders = 10;
            }),
            ("no-free-slot", |s| {
                s.source.settings.max_replication_slots = 0;
            }),
            ("no-free-slot", |s| {
                s.source.settings.used_replication_slots = 10;
            }),
            ("no-free-slot", |s| {
                s.slot = SlotWish::Create("s");
                s.source.settings.used_replication_slots = 10;
            }),
            ("slot-missing", |s| s.slot = SlotWish::Existing("s")),
            ("slot-active", |s| {
                s.slot = SlotWish::Create("s");
                s.source.slot = Some(SlotFacts {
                    active: true,
                    ..slot(Some(1))
                });
            }),
            ("slot-logical", |s| {
                s.slot = SlotWish::Existing("s");
                s.source.slot = Some(SlotFacts {
                    is_physical: false,
                    ..slot(Some(1))
                });
            }),
            ("slot-active", |s| {
                s.slot = SlotWish::Existing("s");
                s.source.slot = Some(SlotFacts {
                    active: true,
                    ..slot(Some(1))
                });
            }),
            ("slot-lost", |s| {
                s.slot = SlotWish::Existing("s");
                s.source.slot = Some(SlotFacts {
                    wal_status: "lost".to_owned(),
                    ..slot(None)
                });
            }),
            ("full-page-writes-off", |s| {
                s.source.in_recovery = true;
                s.source.settings.full_page_writes = false;
            }),
        ];
        for (name, bend) in cases {
            assert_eq!(refused(bend), [*name]);
        }
        // A backup of a primary forces full page writes.
        assert!(refused(|s| s.source.settings.full_page_writes = false).is_empty());
    }

    #[test]
    fn a_slot_that_keeps_nothing_is_helped_by_a_temporary_one() {
        for (restart_lsn, needs) in [(None, true), (Some(0x300_0000), false)] {
            let mut scene = Scene::new();
            scene.slot = SlotWish::Existing("s");
            scene.source.slot = Some(slot(restart_lsn));
            let cleared = judge(&scene.situation()).unwrap();
            assert_eq!(cleared.findings().needs_temporary_slot, needs);
            // One that keeps its WAL already needs no further slot.
            scene.source.settings.used_replication_slots = 10;
            assert_eq!(judge(&scene.situation()).is_err(), needs);
        }
    }

    #[test]
    fn all_refusals_come_at_once_and_the_most_fundamental_first() {
        assert_eq!(
            refused(|s| {
                s.slot = SlotWish::Existing("s");
                s.mappings = vec![Mapping::parse(b"/x=/y").unwrap()];
                s.source.settings.wal_level = "minimal".to_owned();
                s.control().system_identifier = 1;
                s.cluster().is_locked = true;
                s.target.is_root = true;
            }),
            [
                "runs-as-root",
                "locked",
                "foreign-cluster",
                "wal-level-too-low",
                "slot-missing",
                "mapping-unknown"
            ]
        );
    }

    #[test]
    fn before_a_stop_only_the_running_server_is_forgiven() {
        let mut scene = Scene::new();
        scene.cluster().running = Running::Server { pid: 42 };
        assert!(judge(&scene.situation()).is_err());
        assert!(judge_before_stop(&scene.situation()).is_ok());
        scene.control().system_identifier = 1;
        let refusals = judge_before_stop(&scene.situation()).unwrap_err();
        assert_eq!(refusals.len(), 1);
        assert_eq!(refusals[0].name(), "foreign-cluster");
    }

    #[test]
    fn later_guards_refuse_in_their_turn() {
        let overrides = Overrides::default();
        let elsewhere = Login::Reached {
            system_identifier: 2,
        };
        let refused = Login::Refused {
            reason: "no pg_hba.conf entry".to_owned(),
        };
        let here = Login::Reached {
            system_identifier: 1,
        };
        assert!(login(&here, 1, "host=b", &overrides).is_ok());
        for (result, name) in [(&elsewhere, "login-elsewhere"), (&refused, "login-refused")] {
            let refusal = login(result, 1, "host=b", &overrides).unwrap_err();
            assert_eq!(refusal.name(), name);
            let overrides = Overrides {
                no_login_check: true,
                ..Overrides::default()
            };
            assert!(login(result, 1, "host=b", &overrides).is_ok());
        }

        let need = |needed_bytes| RoomNeed {
            place: "/srv".to_owned(),
            needed_bytes,
            available_bytes: 100,
        };
        assert!(room(&[need(100)], &overrides).is_ok());
        assert_eq!(
            room(&[need(100), need(101)], &overrides).unwrap_err().len(),
            1
        );
        let ignore = Overrides {
            ignore_free_space: true,
            ..Overrides::default()
        };
        assert!(room(&[need(101)], &ignore).is_ok());

        assert!(max_delete(None, u64::MAX, Vec::new).is_ok());
        assert!(max_delete(Some(3), 3, Vec::new).is_ok());
        assert!(max_delete(Some(3), 4, Vec::new).is_err());

        let known = [Placement {
            oid: 16_400,
            location: None,
            create: false,
            relink: false,
            former: None,
        }];
        assert!(new_tablespaces(&known, [16_400]).is_ok());
        assert_eq!(
            new_tablespaces(&known, [16_401, 16_400, 16_401]).unwrap_err(),
            Refusal::NewTablespaces { oids: vec![16_401] }
        );
    }
}
