//! From the manifest to work: what is compared, fetched, made, removed and kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::client::look::conf;
use crate::client::look::settings;
use crate::client::options::RebuildOptions;
use crate::client::transfer::rights::{Bars, Rights};
use crate::client::transfer::task::{Files, Planned};
use crate::disk::DiskError;
use crate::disk::access;
use crate::disk::conf::Base;
use crate::disk::facts as disk;
use crate::disk::root::Root;
use crate::disk::walk::{self, Place};
use crate::facts::SourceFacts;
use crate::geometry::{EntryId, ROLLING_MAX_BYTES};
use crate::manifest::{self, Entry, EntryKind, Folder, Listing, Manifest};
use crate::path::RelPath;
use crate::pg::layout::{self, Class, HostLocal, PatternError};
use crate::pg::relfile;
use crate::plan::access::Bar;
use crate::plan::action::{self, Action, HostPolicy, Removal, TargetEntry, Why};
use crate::plan::guard::{Findings, RoomNeed};
use crate::plan::tablespaces::{self, Placement};
use crate::plan::words;

/// Segments of WAL that the room must be enough for beside the files: the run's own WAL is not known yet.
const WAL_SEGMENTS: u64 = 4;

/// Everything that has to be done to the target.
#[derive(Debug, Default)]
pub struct Work {
    pub files: Files,
    /// To be made, parents first.
    pub directories: Vec<RelPath>,
    /// What stands where something of another kind must be, and goes first.
    pub replaced: Vec<RelPath>,
    /// Backwards, each can be removed.
    pub removals: Arc<Listing<Removal>>,
    /// Directories whose content goes; pg_wal is emptied in its own way.
    pub emptied: Vec<RelPath>,
    /// Files that the source does not have.
    pub removed_files: u64,
    /// What stays as it is in the target, for the report.
    pub kept: Vec<String>,
    pub room: Vec<RoomNeed>,
    /// Bytes of all files of the manifest.
    pub full_copy_bytes: u64,
    /// What the owner's permission bits keep it from, until it has changed them.
    pub mend: Vec<RelPath>,
    /// Files of the host that are there without content, and get the source's.
    pub filled: Vec<String>,
    /// What must change and cannot, and why.
    pub barred: Vec<(String, Bar)>,
    /// The source's postgresql.auto.conf, where the new one grows from that.
    pub auto_conf: Option<(EntryId, u64)>,
}

/// What of the target's data directory belongs to its host.
///
/// # Errors
/// A pattern of `--keep` that cannot be one.
pub fn host_local(
    options: &RebuildOptions,
    facts: &SourceFacts,
    base: &Base,
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

/// Holds the manifest against what the target has.
///
/// # Errors
/// A directory of the target that cannot be looked at.
pub fn make(
    options: &RebuildOptions,
    facts: &SourceFacts,
    findings: &Findings,
    host_local: &HostLocal,
    manifest: &Arc<Manifest>,
    Walked { tree, bars }: &Walked,
) -> Result<Work, DiskError> {
    let mut rights = Rights::new(bars);
    let policy = policy(options, findings);
    let mut work = Work {
        files: Files::of(Arc::clone(manifest)),
        ..Work::default()
    };
    let mut growth = Growth::new(options, findings);
    // Links and files of the target that stay where the source has a directory.
    let mut kept_from: HashSet<RelPath> = HashSet::new();
    for pair in manifest::join(manifest, tree) {
        let Some(item) = pair.left else { continue };
        let entry = item.entry();
        work.full_copy_bytes = work.full_copy_bytes.saturating_add(entry.size);
        if entry.path.as_bytes() == b"postgresql.auto.conf" {
            // It is written at the end; only where its text comes from is decided here.
            if policy == HostPolicy::TakeSource && entry.kind == EntryKind::File {
                work.auto_conf = Some((item.id, entry.size));
            }
            continue;
        }
        if item
            .directory
            .is_some_and(|above| kept_from.contains(above))
        {
            kept_from.insert(entry.path);
            continue;
        }
        let here = pair.right.map(|here| TargetEntry {
            kind: here.kind,
            size: here.size,
        });
        let action = match action::decide(&entry, here, host_local, policy) {
            // Closing makes these, pg_wal perhaps as a link.
            Action::MakeDirectory { obstacle: None } if is_required(&entry.path) => Action::Keep,
            action => action,
        };
        let is_in_the_way = here.is_some_and(|here| here.kind != layout::Kind::Directory);
        if action == Action::Keep && entry.kind == EntryKind::Directory && is_in_the_way {
            kept_from.insert(entry.path.clone());
        }
        let is_filled = here.is_some_and(|here| action::is_void(&entry.path, here));
        if is_filled && action != Action::Keep && policy == HostPolicy::FillGaps {
            work.filled.push(entry.path.to_string());
        }
        let (action, here) = rights.settle(&entry, action, here, options.dry_run);
        if work.add(item.id, &entry, action, here) {
            growth.add(&entry.path, entry.size, here);
        }
    }
    work.judge_rest(findings, host_local, policy, tree, manifest);
    rights.remove_all(&work.removals);
    rights.around(
        options,
        findings,
        &work.emptied,
        &tablespaces::version_directory(facts),
    )?;
    (work.mend, work.barred) = rights.into_parts();
    work.count_stale(options, findings, &tablespaces::version_directory(facts))?;
    growth.add_bytes(
        None,
        WAL_SEGMENTS * u64::from(facts.control.wal_segment_bytes),
    );
    work.room = growth.needs()?;
    Ok(work)
}

fn policy(options: &RebuildOptions, findings: &Findings) -> HostPolicy {
    if findings.is_seed || options.config_from_source {
        HostPolicy::TakeSource
    } else if settings::is_outside(options) {
        HostPolicy::Keep
    } else {
        HostPolicy::FillGaps
    }
}

impl Work {
    /// Adds what is to be done for an entry, and returns whether that is work for a file.
    fn add(
        &mut self,
        id: EntryId,
        entry: &Entry,
        action: Action,
        here: Option<TargetEntry>,
    ) -> bool {
        let path = || entry.path.clone();
        let mut file = Planned {
            entry: id,
            common: 0,
            fit: here.is_none_or(|here| here.size != entry.size),
            whole: false,
        };
        match action {
            Action::Keep | Action::Skip => return false,
            Action::MakeDirectory { obstacle } => {
                self.replaced.extend(obstacle.map(|_| path()));
                self.directories.push(path());
                return false;
            }
            Action::Fetch { obstacle, .. } => {
                self.replaced.extend(obstacle.map(|_| path()));
                file.fit = true;
            }
            Action::Compare { compare_bytes, .. } => file.common = compare_bytes,
            Action::Whole { obstacle } => {
                self.replaced.extend(obstacle.map(|_| path()));
                let here = here.filter(|here| here.kind == layout::Kind::File);
                file.common = here.map_or(0, |here| here.size.min(ROLLING_MAX_BYTES));
                file.fit = here.is_none_or(|here| here.size != file.common || here.size == 0);
                file.whole = true;
            }
        }
        self.files.push(file);
        true
    }

    /// Decides about what the target has.
    fn judge_rest(
        &mut self,
        findings: &Findings,
        host_local: &HostLocal,
        policy: HostPolicy,
        tree: &Listing<layout::Kind>,
        manifest: &Manifest,
    ) {
        let is_wanted = |path: &RelPath| {
            is_required(path)
                || layout::tablespace_oid(path).is_some_and(|oid| {
                    findings
                        .placements
                        .iter()
                        .any(|placement| placement.oid == oid)
                        || findings.stale_tablespaces.contains(&oid)
                })
        };
        let removals = action::removals(manifest, tree, host_local, policy, is_wanted);
        self.removed_files = removals.limited_files;
        self.removals = Arc::new(removals.remove);
        let kept = removals.kept_foreign.iter().chain(&removals.kept_own);
        self.kept = kept.map(ToString::to_string).collect();
        self.kept.sort();
        self.emptied = removals.emptied;
        self.emptied
            .retain(|path| path.components().next() != Some(b"pg_wal"));
    }

    /// The first files that the source does not have, as many as are shown.
    pub fn some_removed(&self) -> Vec<String> {
        let files = self.removals.iter().filter(|item| {
            item.kind.why == Why::NotOnSource && item.kind.kind != layout::Kind::Directory
        });
        files
            .take(words::SHOWN)
            .map(|item| item.path().to_string())
            .collect()
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
    let places = findings.placements.iter();
    disk::is_one_of(link, places.filter_map(Placement::location_path))
}

/// Whether every data directory has this directory, whatever the source's walk saw.
fn is_required(path: &RelPath) -> bool {
    layout::required_directories(u32::MAX)
        .iter()
        .any(|name| name.as_bytes() == path.as_bytes())
}

/// What the walk through the target has found.
pub struct Walked {
    pub tree: Listing<layout::Kind>,
    pub bars: Bars,
}

/// What a visit to one directory has found.
struct Seen {
    folder: Folder<layout::Kind>,
    bars: Vec<(Option<RelPath>, Bar)>,
}

/// The walk through all that the target has, with tablespaces where they will be: a seed may find them there.
/// What is emptied anyway is not looked into.
pub struct TargetWalk {
    /// The data directory, unless it is empty or missing.
    content: Option<PathBuf>,
    /// What tablespaces have of this cluster, by their paths in the data directory.
    located: Vec<(PathBuf, RelPath)>,
    threads: usize,
}

impl TargetWalk {
    pub fn new(
        options: &RebuildOptions,
        has_content: bool,
        facts: &SourceFacts,
        findings: &Findings,
    ) -> Self {
        let version_directory = tablespaces::version_directory(facts);
        let located = findings.placements.iter().filter_map(|placement| {
            let path = format!("pg_tblspc/{}/{version_directory}", placement.oid);
            Some((
                placement.location_path()?.join(&version_directory),
                RelPath::parse(path.as_bytes()).ok()?,
            ))
        });
        Self {
            content: has_content.then(|| options.pgdata.clone()),
            located: located.collect(),
            threads: options.jobs,
        }
    }

    /// Walks.
    ///
    /// # Errors
    /// A directory that cannot be listed.
    pub fn walk(&self) -> Result<Walked, DiskError> {
        let mut roots = Vec::new();
        let (mut folders, mut bars) = (Vec::new(), Bars::new());
        for (place, path) in &self.located {
            if disk::directory(place)?.is_some() {
                let mut folder = Folder::new(path.parent());
                // A path without a name behind a directory does not get here.
                let _ = folder.push(path.name(), layout::Kind::Directory, 0);
                folders.push(folder);
                roots.push((Root::open(place)?, Some(path)));
            }
        }
        if let Some(content) = &self.content {
            roots.push((Root::open(content)?, None));
        }
        let start = roots
            .iter()
            .map(|(root, at)| Place::new(root, at.cloned()))
            .collect();
        let visit = |place| self.visit(&place);
        for seen in walk::spread(start, self.threads, visit)? {
            folders.push(seen.folder);
            bars.extend(seen.bars);
        }
        let tree = Listing::from_folders(folders).map_err(|error| {
            let place = self.content.as_deref().unwrap_or(Path::new("/"));
            DiskError::new("list", place, std::io::Error::other(error))
        })?;
        Ok(Walked { tree, bars })
    }

    /// Lists one directory, and tells which of those in it are to be visited.
    fn visit<'a>(&self, place: &Place<'a>) -> Result<(Seen, Vec<Place<'a>>), DiskError> {
        let mut seen = Seen {
            folder: Folder::new(place.at().cloned()),
            bars: Vec::new(),
        };
        let mut below = Vec::new();
        let bar = |at: Option<&RelPath>, bar| (at.cloned(), bar);
        let directory = match place.read() {
            Ok(directory) => directory,
            Err(error) => match access::bar_of_closed(&place.path(), &error) {
                // Whether that matters depends on what is to be done there.
                Some(closed) if place.at().is_some() => {
                    seen.bars.push(bar(place.at(), closed));
                    return Ok((seen, below));
                }
                _ => return Err(error),
            },
        };
        let within = directory.bar_within()?;
        seen.bars
            .extend(within.map(|within| bar(place.at(), within)));
        if within.is_some() && !directory.is_searchable() {
            return Ok((seen, below));
        }
        seen.folder.reserve(directory.len(), directory.name_bytes());
        directory.looks::<DiskError>(self.threads, |name, kind, look| {
            let kind = kind.in_layout();
            let size = look.map_or(0, |look| look.size);
            // A name that no manifest can hold is none of PostgreSQL's.
            if seen.folder.push(name, kind, size).is_err() {
                return Ok(());
            }
            if kind == layout::Kind::Directory {
                below.extend(self.below(place, name));
            }
            if let Some(found) = look.and_then(|look| directory.bar_of(name, &look)) {
                let path = path_of(place, name);
                seen.bars.extend(path.map(|path| (Some(path), found)));
            }
            Ok(())
        })?;
        Ok((seen, below))
    }

    fn below<'a>(&self, place: &Place<'a>, name: &[u8]) -> Option<Place<'a>> {
        let path = path_of(place, name)?;
        let class = layout::classify(&path, layout::Kind::Directory, &HostLocal::none());
        // What has a location is looked at there.
        let is_located = layout::tablespace_oid(&path).is_some()
            && self
                .located
                .iter()
                .any(|(_, located)| located.starts_with(&path));
        let is_visited = class != Class::EmptiedDirectory && !is_located;
        is_visited.then(|| place.below(path))
    }
}

fn path_of(place: &Place<'_>, name: &[u8]) -> Option<RelPath> {
    match place.at() {
        None => RelPath::parse(name),
        Some(at) => at.join(name),
    }
    .ok()
}

/// How much each file system must take.
struct Growth {
    /// Where each tablespace will be.
    places: HashMap<u32, PathBuf>,
    pgdata: PathBuf,
    /// By tablespace; `None` for the data directory.
    by_place: BTreeMap<Option<u32>, u64>,
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
        let oid = match (components.next(), components.next()) {
            (Some(b"pg_tblspc"), Some(name)) => relfile::number_without_leading_zero(name),
            _ => None,
        };
        self.add_bytes(oid.filter(|oid| self.places.contains_key(oid)), more);
    }

    fn add_bytes(&mut self, tablespace: Option<u32>, bytes: u64) {
        let sum = self.by_place.entry(tablespace).or_default();
        *sum = sum.saturating_add(bytes);
    }

    fn needs(self) -> Result<Vec<RoomNeed>, DiskError> {
        let mut by_device: BTreeMap<u64, RoomNeed> = BTreeMap::new();
        for (tablespace, bytes) in &self.by_place {
            let located = tablespace.and_then(|oid| self.places.get(&oid));
            let place = located.unwrap_or(&self.pgdata);
            let (device, available_bytes) = disk::free_space(place)?;
            let need = by_device.entry(device).or_insert(RoomNeed {
                place: place.display().to_string(),
                needed_bytes: 0,
                available_bytes,
            });
            need.needed_bytes = need.needed_bytes.saturating_add(*bytes);
        }
        Ok(by_device.into_values().collect())
    }
}
