//! The target's facts: what stands at its path, read without changing anything.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::client::look::conf;
use crate::client::look::marker::Marker;
use crate::client::look::neighbours::Neighbours;
use crate::client::options::RebuildOptions;
use crate::disk::DiskError;
use crate::disk::close::is_our_pid_file;
use crate::disk::facts as disk;
use crate::disk::holder;
use crate::disk::read::read_if_there;
use crate::disk::target::Held;
use crate::disk::wal::written_end;
use crate::disk::walk::{self, Kind};
use crate::errors::chain;
use crate::facts::clone::MarkFound;
use crate::facts::{
    Condition, Holder, Interrupted, OwnStream, Running, SharedWal, Standing, TargetCluster,
    TargetFacts, Unstarted,
};
use crate::path::RelPath;
use crate::pg::control::ControlFile;
use crate::pg::label::BackupLabel;
use crate::pg::layout::{self, Class, HostLocal};
use crate::pg::lsn::Lsn;
use crate::pg::timeline::{History, TimelineId};
use crate::plan::clone;
use crate::plan::tablespaces::{Behind, Dangling, Place, PlaceState, SharedLink, TargetPlaces};
use crate::postmaster::{self, Receives};

/// Longest marker or configuration file that is read.
const SMALL_FILE_MAX: u64 = 16 * 1024 * 1024;

/// Whether the target is ours alone among runs of pg_reseed.
#[derive(Debug)]
pub enum Hold {
    /// Nothing is there to be held, or it is not ours.
    Nothing,
    Ours(Held),
    /// Another run's, as far as it can be seen.
    Others(Option<Holder>),
}

/// Takes the lock on the target: what is seen from here on, no other run changes.
///
/// # Errors
/// The system's error.
pub fn hold(pgdata: &Path) -> Result<Hold, DiskError> {
    match disk::directory(pgdata)? {
        Some(facts) if facts.is_owner => Ok(match Held::take(pgdata)? {
            Some(held) => Hold::Ours(held),
            None => Hold::Others(holder::holder(pgdata)),
        }),
        _ => Ok(Hold::Nothing),
    }
}

/// Looks at the target.
///
/// # Errors
/// The directory cannot be read.
pub fn look(pgdata: &Path, hold: &Hold) -> Result<TargetFacts, DiskError> {
    let condition = match disk::directory(pgdata)? {
        None => Condition::Missing,
        Some(facts) => {
            let listed = walk::list(pgdata)?;
            let is_ours = listed.iter().any(|found| {
                found.name == b"PG_VERSION" || found.name == layout::MARKER.as_bytes()
            }) || ControlSource::InPlace.decode(pgdata).is_ok();
            match walk::first_of_content(pgdata)? {
                None => Condition::Empty {
                    is_owner: facts.is_owner,
                    identity: facts.identity,
                },
                Some(first) if !is_ours => Condition::Unknown {
                    example: String::from_utf8_lossy(&first.name).into_owned(),
                },
                Some(_) => Condition::Cluster(Box::new(cluster(pgdata, facts, &listed, hold)?)),
            }
        }
    };
    Ok(TargetFacts {
        host: disk::host(),
        user: disk::user(),
        is_root: disk::is_root(),
        pgdata: pgdata.display().to_string(),
        is_parent_missing: is_parent_missing(pgdata),
        condition,
    })
}

/// Whether the directory that the path lies in does not exist.
fn is_parent_missing(pgdata: &Path) -> bool {
    pgdata.parent().is_some_and(|parent| !disk::exists(parent))
}

fn cluster(
    pgdata: &Path,
    facts: disk::DirectoryFacts,
    listed: &[walk::Listed],
    hold: &Hold,
) -> Result<TargetCluster, DiskError> {
    let is_held = matches!(hold, Hold::Ours(_));
    let marker = valid_marker(pgdata)?;
    let (control, mut control_problem) = control(pgdata, marker.is_some());
    let backup = control
        .as_ref()
        .filter(|_| marker.is_none())
        .and_then(|control| backup(pgdata, control));
    // A checkpoint that no server starts from is told to nobody.
    let label = backup.as_ref().and_then(|backup| backup.label.as_ref());
    let control = control.map(|control| control.cured(label));
    let wal = pgdata.join("pg_wal");
    let timeline = control
        .as_ref()
        .map_or(TimelineId(1), ControlFile::timeline_reached);
    let before = marker.as_ref().and_then(|marker| marker.before.clone());
    // What an interrupted run has removed, its marker remembers.
    let (unarchived, slots, mark) = match &before {
        Some(before) => (
            before.unarchived.clone(),
            before.slots.clone(),
            before.mark.clone(),
        ),
        None => (
            disk::unarchived(&wal)?,
            disk::slots(pgdata)?,
            clone_mark(pgdata)?,
        ),
    };
    let (history, newest_wal_timeline, wal_segments_end) = match (before, &control) {
        (Some(before), _) => (
            before.history,
            before.newest_wal_timeline,
            before.wal_segments_end,
        ),
        (None, Some(control)) => {
            let (newest, end) = newest_wal(&wal, timeline, control.wal_segment_bytes);
            let history = disk::history(&wal, timeline).unwrap_or_else(|error| {
                control_problem = Some(chain(&error));
                History::single(timeline)
            });
            (history, newest, end)
        }
        (None, None) => (History::single(timeline), None, None),
    };
    let pid_file = disk::pid_file(pgdata)?;
    let running = running(pgdata, pid_file.as_deref(), marker.is_some(), is_held);
    Ok(TargetCluster {
        // One that is no number is as good as none.
        major: disk::major_version(pgdata).ok().flatten(),
        has_directories: ["base", "global"]
            .iter()
            .all(|name| disk::directory(&pgdata.join(name)).is_ok_and(|found| found.is_some())),
        control,
        control_problem,
        interrupted: marker.map(interrupted_by),
        backup,
        history,
        newest_wal_timeline,
        wal_segments_end,
        has_standby_signal: disk::exists(&pgdata.join("standby.signal")),
        has_recovery_signal: disk::exists(&pgdata.join("recovery.signal")),
        is_owner: facts.is_owner,
        mode: facts.mode,
        identity: facts.identity,
        // A dangling link has no identity; it is mended or refused later.
        wal_identity: disk::directory(&wal)
            .ok()
            .flatten()
            .map(|found| found.identity),
        tablespaces: disk::tablespaces(pgdata)?,
        stream: stream(pgdata, &running),
        running,
        pid_file: pid_file.unwrap_or_default(),
        unexpected_links: unexpected_links(pgdata, listed)?,
        is_locked: matches!(hold, Hold::Others(_)),
        locked_by: match hold {
            Hold::Others(holder) => holder.clone(),
            _ => None,
        },
        standing: Standing::default(),
        shared_wal: SharedWal::default(),
        unarchived,
        slots,
        mark,
    })
}

/// The mark of a copy. One that does not parse fits no cluster.
fn clone_mark(pgdata: &Path) -> Result<Option<MarkFound>, DiskError> {
    let Some(text) = read_if_there(&pgdata.join(layout::CLONE_MARK), SMALL_FILE_MAX)? else {
        return Ok(None);
    };
    let mark = serde_json::from_slice(&text).unwrap_or_default();
    let changed = clone::changed(&conf::auto_conf(pgdata)?, &mark);
    Ok(Some(MarkFound { mark, changed }))
}

/// How the server that runs in the target streams.
fn stream(pgdata: &Path, running: &Running) -> Option<OwnStream> {
    let Running::Server { pid } = running else {
        return None;
    };
    let receiver = postmaster::receiver(*pid)?;
    // One that only tries may be kept out by who has the slot, and a socket does not tell.
    let tells = matches!(receiver.receives, Receives::Streams(_)) || !receiver.ends.is_empty();
    if !tells && !receiver.is_steady() {
        return None;
    }
    let auto_conf = conf::auto_conf(pgdata).unwrap_or_default();
    let base = conf::base(pgdata, None).followed_by(&pgdata.join(conf::AUTO_CONF), &auto_conf);
    Some(OwnStream {
        slot: base.settings.get("primary_slot_name").cloned(),
        ends: receiver.ends,
    })
}

/// Whether a server works in the target. No server gets as far as to work in one that was closed, and a postmaster.pid
/// of our own is that of a dead run as long as we hold the directory: what is left of one, after a loss of power
/// without its content or with the number of a process of today, is none.
fn running(pgdata: &Path, pid_file: Option<&[u8]>, is_closed: bool, is_held: bool) -> Running {
    let is_ours = is_held && pid_file.is_some_and(is_our_pid_file);
    if is_ours {
        return postmaster::running(pgdata, None);
    }
    match postmaster::running(pgdata, pid_file) {
        Running::Unclear { .. } | Running::TornPidFile if is_closed => {
            postmaster::running(pgdata, None)
        }
        seen => seen,
    }
}

/// The marker of an interrupted run. One that does not parse still says that a run was interrupted.
///
/// # Errors
/// The system's error.
pub fn marker(pgdata: &Path) -> Result<Option<Marker>, DiskError> {
    let path = pgdata.join(layout::MARKER);
    let Some(text) = read_if_there(&path, SMALL_FILE_MAX)? else {
        return Ok(None);
    };
    Ok(Some(serde_json::from_slice(&text).unwrap_or_default()))
}

/// The marker, if the target is closed. One that a run left behind when it was killed at its very end says nothing: the
/// target may have been a primary since.
fn valid_marker(pgdata: &Path) -> Result<Option<Marker>, DiskError> {
    Ok(marker(pgdata)?
        .filter(|_| conf::is_closed(pgdata) || ControlSource::InPlace.decode(pgdata).is_err()))
}

fn interrupted_by(marker: Marker) -> Interrupted {
    Interrupted {
        started_unix_seconds: marker.started_unix_seconds,
        start_lsn: marker.start_lsn,
        is_seed: marker.is_seed,
        source_host: marker.source_host,
        command: marker.command,
        directory: marker.directory,
    }
}

/// The run that was interrupted in a directory, or is still in it.
///
/// # Errors
/// The system's error.
pub fn interrupted(pgdata: &Path) -> Result<Option<Interrupted>, DiskError> {
    Ok(valid_marker(pgdata)?.map(interrupted_by))
}

/// When a rebuild finished in a directory in which no server was started since.
#[must_use]
pub fn finished_at(pgdata: &Path) -> Option<SystemTime> {
    let control = ControlSource::InPlace.decode(pgdata).ok()?;
    // Nothing writes to it before a server does.
    control
        .is_poisoned()
        .then(|| disk::modified(&pgdata.join("global/pg_control")))
        .flatten()
}

/// Where a control file lies.
#[derive(Clone, Copy)]
enum ControlSource {
    InPlace,
    /// The copy that an interrupted run has saved.
    Saved,
}

impl ControlSource {
    /// Reads and decodes it.
    fn decode(self, pgdata: &Path) -> Result<ControlFile, String> {
        let name = match self {
            ControlSource::InPlace => "global/pg_control",
            ControlSource::Saved => layout::SAVED_CONTROL,
        };
        let bytes = disk::control_file(&pgdata.join(name)).map_err(|error| chain(&error))?;
        ControlFile::decode(&bytes).map_err(|error| format!("\"{name}\": {error}"))
    }
}

/// The control file, or the copy that an interrupted run has saved, or why there is none.
fn control(pgdata: &Path, is_interrupted: bool) -> (Option<ControlFile>, Option<String>) {
    let saved = is_interrupted.then(|| ControlSource::Saved.decode(pgdata).ok());
    match (saved.flatten(), ControlSource::InPlace.decode(pgdata)) {
        (Some(control), _) | (None, Ok(control)) => (Some(control), None),
        (None, Err(problem)) => (None, Some(problem)),
    }
}

/// The base backup that the directory is, if no server was started in it since: one would have put the label away
/// (PostgreSQL `xlog.c:StartupXLOG`), written its own checkpoint and left its options behind.
fn backup(pgdata: &Path, control: &ControlFile) -> Option<Unstarted> {
    let is_rebuilt = control.is_poisoned();
    let text = read_if_there(&pgdata.join("backup_label"), SMALL_FILE_MAX);
    let label = text
        .ok()
        .flatten()
        .and_then(|text| BackupLabel::parse(&text).ok());
    let is_copy = label.is_some() && !disk::exists(&pgdata.join("postmaster.opts"));
    (is_rebuilt || is_copy).then_some(Unstarted { label, is_rebuilt })
}

/// The highest timeline that has a segment in pg_wal, and the end of the last segment of `timeline` that was written
/// to. A name says enough of the timeline: nobody makes segments for one that it has not reached.
fn newest_wal(
    wal: &Path,
    timeline: TimelineId,
    segment_bytes: u32,
) -> (Option<TimelineId>, Option<Lsn>) {
    let segments = disk::segments(wal, segment_bytes).unwrap_or_default();
    let newest = segments.iter().map(|segment| segment.timeline).max();
    let end = written_end(wal, timeline, segment_bytes).unwrap_or_default();
    (newest, end)
}

/// Links where a rebuild must write and PostgreSQL keeps none: they could lead into another cluster.
fn unexpected_links(pgdata: &Path, listed: &[walk::Listed]) -> Result<Vec<String>, DiskError> {
    let mut links = Vec::new();
    let mut note = |path: &RelPath, kind: Kind| {
        let top = path.components().next().unwrap_or_default();
        if kind == Kind::Symlink
            && layout::is_managed_top_level(top)
            && layout::classify(path, layout::Kind::Symlink, &HostLocal::none())
                == Class::Synchronised
        {
            links.push(path.to_string());
        }
    };
    for found in listed {
        let Ok(path) = RelPath::parse(&found.name) else {
            continue;
        };
        note(&path, found.kind);
        if matches!(&found.name[..], b"base" | b"global") && found.kind == Kind::Directory {
            for below in walk::list(&pgdata.join(path.as_path()))? {
                if let Ok(path) = path.join(&below.name) {
                    note(&path, below.kind);
                }
            }
        }
    }
    Ok(links)
}

/// What stands where tablespaces would go.
///
/// # Errors
/// A place that cannot be listed.
pub fn places(
    pgdata: &Path,
    waldir: Option<&Path>,
    target: &TargetFacts,
    is_same_kernel: bool,
    would_be: impl IntoIterator<Item = Vec<u8>>,
    version_directory: &str,
) -> Result<TargetPlaces, DiskError> {
    let wal = pgdata.join("pg_wal");
    // A pg_wal that is there stays where it is.
    let waldir = waldir.filter(|_| disk::link(&wal).is_none() && !disk::exists(&wal));
    let wal_directory = match waldir {
        Some(path) => Some(disk::resolved(path)),
        None => disk::link(&wal).map(|_| disk::resolved(&wal)),
    };
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let new_waldir = match waldir {
        Some(path) => Some((
            bytes(&disk::resolved(path)),
            place(path, version_directory)?,
        )),
        None => None,
    };
    let mut found = TargetPlaces {
        pgdata: bytes(&disk::resolved(pgdata)),
        wal_directory: wal_directory.map(|path| bytes(&path)),
        new_waldir,
        existing: match &target.condition {
            Condition::Cluster(cluster) => cluster.tablespaces.clone(),
            _ => Vec::new(),
        },
        is_same_kernel,
        ..TargetPlaces::default()
    };
    for location in would_be {
        let place = place(&path_of(&location), version_directory)?;
        found.places.insert(location, place);
    }
    note_neighbours(pgdata, version_directory, &mut found);
    Ok(found)
}

/// The links that lead nowhere on the ways to the data directory, its WAL and what else is emptied, its tablespaces,
/// and what the options name.
pub fn dangling(options: &RebuildOptions, places: &TargetPlaces) -> Vec<Dangling> {
    let pgdata = &options.pgdata;
    let found = |path: &Path, name: Option<&str>| {
        let (link, leads_to) = disk::dangling(path)?;
        let is_above = pgdata.starts_with(&link);
        let name = name.filter(|_| !is_above).map(str::to_owned);
        Some(Dangling {
            link: name.unwrap_or_else(|| link.display().to_string()),
            leads_to: leads_to.display().to_string(),
            is_above,
        })
    };
    if let Some(above) = found(pgdata, None) {
        return vec![above];
    }
    let emptied = emptied_links(pgdata).into_iter();
    let own = emptied.filter_map(|name| found(&pgdata.join(name), Some(name)));
    let named = [
        places.new_waldir.as_ref().and(options.waldir.clone()),
        options.keep_diverged_wal.clone(),
        options.target_config_dir.clone(),
    ];
    let located = places.places.keys().map(|location| path_of(location));
    let others = named.into_iter().flatten().chain(located);
    let others = others.filter_map(|path: PathBuf| found(&path, None));
    let mut all: Vec<Dangling> = own.chain(others).collect();
    all.dedup();
    all
}

fn path_of(location: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(location))
}

/// Notes which of the places that a rebuild writes to, empties or removes are another data directory's too.
fn note_neighbours(pgdata: &Path, version_directory: &str, found: &mut TargetPlaces) {
    let emptied = emptied_links(pgdata);
    let located = found.existing.iter().filter(|here| here.location.is_some());
    let located: Vec<(u32, PathBuf)> = located
        .map(|here| {
            (
                here.oid,
                pgdata.join("pg_tblspc").join(here.oid.to_string()),
            )
        })
        .collect();
    let would_be: Vec<PathBuf> = found.places.keys().map(|path| path_of(path)).collect();
    let places = emptied
        .iter()
        .map(|name| pgdata.join(name))
        .chain(located.iter().map(|(_, path)| path.clone()))
        .chain(would_be);
    let places: Vec<PathBuf> = places.filter(|path| disk::exists(path)).collect();
    if places.is_empty() {
        return;
    }
    let neighbours = Neighbours::look(pgdata, places.iter().map(PathBuf::as_path));
    for (location, place) in &mut found.places {
        place.sharer = neighbours.tablespace_sharer(&path_of(location), version_directory);
    }
    for (oid, path) in located {
        let ours = disk::directory(&path.join(version_directory));
        let behind = Behind {
            sharer: neighbours.tablespace_sharer(&path, version_directory),
            is_owner: ours.is_ok_and(|ours| ours.is_none_or(|ours| ours.is_owner)),
        };
        found.behind.insert(oid, behind);
    }
    for link in emptied {
        let path = pgdata.join(link);
        if let Some(sharer) = neighbours.sharer(&path) {
            found.shared_links.push(SharedLink {
                link: link.to_owned(),
                location: disk::resolved(&path).into_os_string().into_vec(),
                sharer,
            });
        }
    }
}

/// The directories that every rebuild empties and that are links in the target.
fn emptied_links(pgdata: &Path) -> Vec<&'static str> {
    let names = layout::required_directories(u32::MAX).iter().copied();
    names
        .filter(|name| {
            let class = RelPath::parse(name.as_bytes())
                .map(|path| layout::classify(&path, layout::Kind::Directory, &HostLocal::none()));
            class == Ok(Class::EmptiedDirectory) && disk::link(&pgdata.join(name)).is_some()
        })
        .collect()
}

/// What stands at a path.
fn place(path: &Path, version_directory: &str) -> Result<Place, DiskError> {
    let state = if disk::is_something_else(path) {
        PlaceState::NotDirectory
    } else {
        match walk::list(path) {
            Ok(listed) => {
                let names = listed.iter().map(|found| &found.name[..]);
                PlaceState::of_directory(names, version_directory)
            }
            Err(error) if error.is_missing() => PlaceState::Missing,
            Err(error) => return Err(error),
        }
    };
    let identity = disk::directory(path)
        .ok()
        .flatten()
        .map(|found| found.identity);
    Ok(Place {
        state,
        identity,
        sharer: None,
    })
}
