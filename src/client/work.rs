//! From the manifest to work: what is compared, fetched, made, removed and kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::conf;
use super::options::RebuildOptions;
use super::task::FileWork;
use crate::disk::DiskError;
use crate::disk::facts as disk;
use crate::disk::walk;
use crate::facts::{Condition, SourceFacts, TargetFacts};
use crate::geometry::{EntryId, ROLLING_MAX_BYTES};
use crate::manifest::{Entry, EntryKind};
use crate::path::RelPath;
use crate::pg::layout::{self, Class, HostLocal, PatternError};
use crate::pg::relfile;
use crate::plan::action::{self, Action, HostPolicy, TargetEntry};
use crate::plan::guard::{Findings, RoomNeed};
use crate::plan::tablespaces;

/// Segments of WAL that the room must be enough for beside the files: the run's own WAL is not known yet.
const WAL_SEGMENTS: u64 = 4;

/// Everything that has to be done to the target.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// In the manifest's order.
    pub files: Vec<FileWork>,
    /// To be made, parents first.
    pub directories: Vec<RelPath>,
    /// What stands where something of another kind must be, and goes first.
    pub replaced: Vec<RelPath>,
    /// In an order in which each can be removed.
    pub removals: Vec<RelPath>,
    /// Directories whose content goes; pg_wal is emptied in its own way.
    pub emptied: Vec<RelPath>,
    /// Files that the source does not have.
    pub removed_files: u64,
    /// What stays as it is in the target, for the report.
    pub kept: Vec<String>,
    pub room: Vec<RoomNeed>,
    /// Bytes of all files of the manifest.
    pub full_copy_bytes: u64,
    /// The source's postgresql.auto.conf, where the new one grows from that.
    pub auto_conf: Option<(EntryId, u64)>,
}

/// What of the target's data directory belongs to its host.
///
/// # Errors
/// A pattern of `--keep` that cannot be one.
pub(super) fn host_local(
    options: &RebuildOptions,
    facts: &SourceFacts,
    base: &conf::Base,
) -> Result<HostLocal, PatternError> {
    let version_directory = tablespaces::version_directory(facts);
    let mut host_local = HostLocal::default_for(Some(&version_directory));
    for path in conf::host_files(&options.pgdata, base) {
        host_local.add_path(&path);
    }
    for pattern in &options.keep {
        host_local.add_pattern(pattern)?;
    }
    Ok(host_local)
}

/// Holds the manifest against the target's tree.
///
/// # Errors
/// A directory of the target that cannot be listed.
pub(super) fn make(
    options: &RebuildOptions,
    target: &TargetFacts,
    facts: &SourceFacts,
    findings: &Findings,
    host_local: &HostLocal,
    entries: &[Entry],
) -> Result<Work, DiskError> {
    let has_content = matches!(target.condition, Condition::Cluster(_));
    let tree = tree(options, facts, findings, has_content)?;
    let policy = policy(options, findings);
    let mut work = Work::default();
    let mut growth = Growth::new(options, findings);
    // Links and files of the target that stay where the source has a directory.
    let mut kept_from = HashSet::new();
    for (number, entry) in entries.iter().enumerate() {
        let id = EntryId(u32::try_from(number).unwrap_or(u32::MAX));
        work.full_copy_bytes = work.full_copy_bytes.saturating_add(entry.size);
        if entry.path.as_bytes() == b"postgresql.auto.conf" {
            // It is written at the end; only where its text comes from is decided here.
            if policy == HostPolicy::TakeSource && entry.kind == EntryKind::File {
                work.auto_conf = Some((id, entry.size));
            }
            continue;
        }
        if entry
            .path
            .parent()
            .is_some_and(|above| kept_from.contains(&above))
        {
            kept_from.insert(entry.path.clone());
            continue;
        }
        let here = tree.get(&entry.path).copied();
        let action = match action::decide(entry, here, host_local, policy) {
            // Closing makes these, pg_wal perhaps as a link.
            Action::MakeDirectory { obstacle: None } if is_required(&entry.path) => Action::Keep,
            action => action,
        };
        let is_in_the_way = here.is_some_and(|here| here.kind != layout::Kind::Directory);
        if action == Action::Keep && entry.kind == EntryKind::Directory && is_in_the_way {
            kept_from.insert(entry.path.clone());
        }
        work.add(id, entry, action, here);
        if let Some(file) = work.files.last().filter(|file| file.entry == id) {
            growth.add(&entry.path, file.bytes, here);
        }
    }
    let version_directory = tablespaces::version_directory(facts);
    work.judge_rest(findings, host_local, policy, &tree, entries);
    work.count_stale(options, findings, &version_directory)?;
    growth.add_bytes(
        &options.pgdata,
        WAL_SEGMENTS * u64::from(facts.control.wal_segment_bytes),
    );
    work.room = growth.needs()?;
    Ok(work)
}

fn policy(options: &RebuildOptions, findings: &Findings) -> HostPolicy {
    let is_outside = options
        .config_file
        .as_deref()
        .is_some_and(|path| !options.pgdata.join(path).starts_with(&options.pgdata));
    if findings.is_seed || options.config_from_source {
        HostPolicy::TakeSource
    } else if is_outside {
        HostPolicy::Keep
    } else {
        HostPolicy::FillGaps
    }
}

impl Work {
    fn add(&mut self, id: EntryId, entry: &Entry, action: Action, here: Option<TargetEntry>) {
        let path = || entry.path.clone();
        let mut file = FileWork {
            entry: id,
            path: path(),
            bytes: entry.size,
            common: 0,
            fit: here.is_none_or(|here| here.size != entry.size),
            whole: false,
        };
        match action {
            Action::Keep | Action::Skip => {}
            Action::MakeDirectory { obstacle } => {
                self.replaced.extend(obstacle.map(|_| path()));
                self.directories.push(path());
            }
            Action::Fetch { obstacle, .. } => {
                self.replaced.extend(obstacle.map(|_| path()));
                file.fit = true;
                self.files.push(file);
            }
            Action::Compare { compare_bytes, .. } => {
                file.common = compare_bytes;
                self.files.push(file);
            }
            Action::Whole { obstacle } => {
                self.replaced.extend(obstacle.map(|_| path()));
                let here = here.filter(|here| here.kind == layout::Kind::File);
                file.common = here.map_or(0, |here| here.size.min(ROLLING_MAX_BYTES));
                file.fit = here.is_none_or(|here| here.size != file.common || here.size == 0);
                file.whole = true;
                self.files.push(file);
            }
        }
    }

    /// Decides about what the target has.
    fn judge_rest(
        &mut self,
        findings: &Findings,
        host_local: &HostLocal,
        policy: HostPolicy,
        tree: &HashMap<RelPath, TargetEntry>,
        entries: &[Entry],
    ) {
        let wanted: HashSet<&RelPath> = entries.iter().map(|entry| &entry.path).collect();
        let is_wanted = |path: &RelPath| {
            wanted.contains(path)
                || is_required(path)
                || layout::tablespace_oid(path).is_some_and(|oid| {
                    findings
                        .placements
                        .iter()
                        .any(|placement| placement.oid == oid)
                        || findings.stale_tablespaces.contains(&oid)
                })
        };
        let here = tree.iter().map(|(path, entry)| (path.clone(), entry.kind));
        let removals = action::removals(here, host_local, is_wanted);
        self.removed_files = removals.limited_files();
        self.removals = removals
            .remove
            .into_iter()
            .map(|removal| removal.path)
            .collect();
        self.kept = removals
            .kept_foreign
            .iter()
            .map(ToString::to_string)
            .collect();
        let mut own: Vec<&RelPath> = tree
            .keys()
            .filter(|path| path.parent().is_none_or(|above| !host_local.covers(&above)))
            .filter(|path| host_local.covers(path))
            .collect();
        if policy == HostPolicy::TakeSource {
            own.retain(|path| !wanted.contains(path));
        }
        self.kept.extend(own.into_iter().map(ToString::to_string));
        self.kept.sort();
        self.emptied = tree
            .iter()
            .filter(|(path, entry)| {
                layout::classify(path, entry.kind, host_local) == Class::EmptiedDirectory
                    && path.components().next() != Some(b"pg_wal")
            })
            .map(|(path, _)| path.clone())
            .collect();
    }

    /// Counts what goes with tablespaces that the source does not have.
    fn count_stale(
        &mut self,
        options: &RebuildOptions,
        findings: &Findings,
        version_directory: &str,
    ) -> Result<(), DiskError> {
        for oid in &findings.stale_tablespaces {
            let link = options.pgdata.join("pg_tblspc").join(oid.to_string());
            // One that lies in the data directory was counted with the rest, and a place that another
            // tablespace has now is that one's.
            if disk::link(&link).is_some() && !is_placed(&link, findings)? {
                let ours = link.join(version_directory);
                if disk::directory(&ours)?.is_some() {
                    self.removed_files += walk::count_files(&ours)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a tablespace will be at the place where a link leads.
fn is_placed(link: &Path, findings: &Findings) -> Result<bool, DiskError> {
    let Some(here) = disk::directory(link)? else {
        return Ok(false);
    };
    for placement in &findings.placements {
        if let Some(location) = placement.location_path()
            && disk::directory(&location)?.is_some_and(|there| there.identity == here.identity)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether every data directory has this directory, whatever the source's walk saw.
fn is_required(path: &RelPath) -> bool {
    layout::required_directories(u32::MAX)
        .iter()
        .any(|name| name.as_bytes() == path.as_bytes())
}

/// All that the target has, by its path, with tablespaces where they will be: a seed may find them there. What is emptied anyway is not
/// looked into.
fn tree(
    options: &RebuildOptions,
    facts: &SourceFacts,
    findings: &Findings,
    has_content: bool,
) -> Result<HashMap<RelPath, TargetEntry>, DiskError> {
    let version_directory = tablespaces::version_directory(facts);
    let mut found_all = HashMap::new();
    let mut pending: Vec<(PathBuf, Option<RelPath>)> = Vec::new();
    if has_content {
        pending.push((options.pgdata.clone(), None));
    }
    for placement in &findings.placements {
        let version = format!("pg_tblspc/{}/{version_directory}", placement.oid);
        let (Some(location), Ok(path)) = (
            placement.location_path(),
            RelPath::parse(version.as_bytes()),
        ) else {
            continue;
        };
        let place = location.join(&version_directory);
        if disk::directory(&place)?.is_some() {
            let kind = layout::Kind::Directory;
            found_all.insert(path.clone(), TargetEntry { kind, size: 0 });
            pending.push((place, Some(path)));
        }
    }
    while let Some((directory, at)) = pending.pop() {
        for found in walk::list(&directory)? {
            let path = match &at {
                None => RelPath::parse(&found.name),
                Some(at) => at.join(&found.name),
            };
            // A name that no manifest can hold is none of PostgreSQL's.
            let Ok(path) = path else { continue };
            let kind = found.kind.in_layout();
            let is_tablespace = layout::tablespace_oid(&path).is_some_and(|oid| {
                findings
                    .placements
                    .iter()
                    .any(|space| space.oid == oid && space.location.is_some())
            });
            let is_emptied =
                layout::classify(&path, kind, &HostLocal::none()) == Class::EmptiedDirectory;
            if kind == layout::Kind::Directory && !is_emptied && !is_tablespace {
                pending.push((directory.join(found.file_name()), Some(path.clone())));
            }
            let size = found.size;
            found_all.insert(path, TargetEntry { kind, size });
        }
    }
    Ok(found_all)
}

/// How much each file system must take.
struct Growth {
    /// Where each tablespace will be.
    places: HashMap<u32, PathBuf>,
    pgdata: PathBuf,
    by_place: BTreeMap<PathBuf, u64>,
}

impl Growth {
    fn new(options: &RebuildOptions, findings: &Findings) -> Self {
        let places = findings.placements.iter();
        Self {
            places: places
                .filter_map(|placement| Some((placement.oid, placement.location_path()?)))
                .collect(),
            pgdata: options.pgdata.clone(),
            by_place: BTreeMap::new(),
        }
    }

    fn add(&mut self, path: &RelPath, bytes: u64, here: Option<TargetEntry>) {
        let more = bytes.saturating_sub(here.map_or(0, |here| here.size));
        let mut components = path.components();
        let place = match (components.next(), components.next()) {
            (Some(b"pg_tblspc"), Some(name)) => {
                relfile::number_without_leading_zero(name).and_then(|oid| self.places.get(&oid))
            }
            _ => None,
        };
        let place = place.unwrap_or(&self.pgdata).clone();
        self.add_bytes(&place, more);
    }

    fn add_bytes(&mut self, place: &Path, bytes: u64) {
        match self.by_place.get_mut(place) {
            Some(sum) => *sum = sum.saturating_add(bytes),
            None => {
                self.by_place.insert(place.to_owned(), bytes);
            }
        }
    }

    fn needs(self) -> Result<Vec<RoomNeed>, DiskError> {
        let mut by_device: BTreeMap<u64, RoomNeed> = BTreeMap::new();
        for (place, bytes) in self.by_place {
            let (device, available_bytes) = disk::free_space(&place)?;
            let need = by_device.entry(device).or_insert(RoomNeed {
                place: place.display().to_string(),
                needed_bytes: 0,
                available_bytes,
            });
            need.needed_bytes = need.needed_bytes.saturating_add(bytes);
        }
        Ok(by_device.into_values().collect())
    }
}
