//! From the manifest to work: what is compared, fetched, made, removed and kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::client::look::conf;
use crate::client::look::settings;
use crate::client::options::RebuildOptions;
use crate::client::outcome::{REMOVED_NAMED, TablespaceRemoval};
use crate::client::transfer::here::Walked;
use crate::client::transfer::ranges::Found;
use crate::client::transfer::rights::Rights;
use crate::client::transfer::task::{Files, Planned};
use crate::disk::DiskError;
use crate::disk::conf::Base;
use crate::disk::facts as disk;
use crate::disk::size;
use crate::facts::SourceFacts;
use crate::geometry::{EntryId, ROLLING_MAX_BYTES};
use crate::manifest::{self, Entry, EntryKind, Listing, Manifest};
use crate::path::RelPath;
use crate::pg::layout::{self, Class, HostLocal, PatternError};
use crate::pg::relfile;
use crate::plan::access::Bar;
use crate::plan::action::{self, Action, HostPolicy, Removal, TargetEntry, Why, top_of};
use crate::plan::guard::{Findings, RoomNeed};
use crate::plan::tablespaces::{self, Placement};

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
    /// Their paths, as many as the report names.
    pub removed: Vec<String>,
    /// What stays as it is in the target, for the report.
    pub kept: Vec<String>,
    /// What PostgreSQL does not know and the host does not own, at the top: new from the source, and made equal to
    /// the source's; configuration that comes too. Not in a seed, where all comes.
    pub taken_over: Vec<String>,
    pub made_equal: Vec<String>,
    /// Files of the source's host, at the top, that the target lacks and does not get.
    pub not_brought: Vec<String>,
    pub room: Vec<RoomNeed>,
    /// Tablespaces that the source does not have.
    pub tablespaces: Vec<TablespaceRemoval>,
    /// Files that come and have another hard link in the target.
    pub shared: Vec<RelPath>,
    /// How many these are, for the report, with those of which nothing can be read and that come as new files.
    pub unshared_files: u64,
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
    of_source: &[Vec<u8>],
) -> Result<HostLocal, PatternError> {
    let version_directory = tablespaces::version_directory(facts);
    let mut host_local = HostLocal::default_for(Some(&version_directory));
    for path in conf::host_files(&options.pgdata, base, Some(&options.primary)) {
        host_local.add_path(&path);
    }
    // What the source's configuration names is its host's, not data.
    for name in of_source {
        if let Ok(path) = RelPath::parse(name) {
            host_local.add_path(&top_of(&path));
        }
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
    walked: &Walked,
    skipped: &[String],
) -> Result<Work, DiskError> {
    let tree = &walked.tree;
    let mut rights = Rights::new(&walked.bars);
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
            action if replaces_kept(action, &entry.path, here, tree, host_local) => {
                Action::KeepWhole
            }
            action => action,
        };
        let is_in_the_way = here.is_some_and(|here| here.kind != layout::Kind::Directory);
        let is_kept = action == Action::KeepWhole || action == Action::Keep && is_in_the_way;
        if is_kept && entry.kind == EntryKind::Directory {
            kept_from.insert(entry.path.clone());
        }
        if item.directory.is_none() && !findings.is_seed {
            work.note_top(&entry, action, here, host_local, facts);
        }
        let is_filled = here.is_some_and(|here| action::is_void(&entry.path, here));
        let stays = matches!(action, Action::Keep | Action::KeepWhole);
        if is_filled && !stays && policy == HostPolicy::FillGaps {
            work.filled.push(entry.path.to_string());
        }
        let is_shared = walked.shared.contains(&entry.path);
        let (action, here) = rights.settle(&entry, action, here, is_shared, options.dry_run);
        if work.add(item.id, &entry, action, here) {
            if is_shared {
                // The other name keeps the room that both had.
                let bytes = entry.size.max(here.map_or(0, |here| here.size));
                growth.add(&entry.path, bytes, None);
                if here.is_some() {
                    work.shared.push(entry.path);
                }
                work.unshared_files += 1;
            } else {
                growth.add(&entry.path, entry.size, here);
            }
        }
    }
    work.judge_rest(findings, host_local, policy, tree, manifest, skipped);
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
    /// Tells at the end also of what was done for an earlier backup of the same run.
    pub fn tell_of(&mut self, earlier: &Work) {
        self.unshared_files += earlier.unshared_files;
        // What the earlier one removed is not there any more.
        self.removed.splice(..0, earlier.removed.iter().cloned());
        self.removed.truncate(REMOVED_NAMED);
        // Their links are gone by now.
        self.tablespaces.clone_from(&earlier.tablespaces);
        self.made_equal
            .retain(|name| !earlier.taken_over.contains(name));
        for (own, before) in [
            (&mut self.taken_over, &earlier.taken_over),
            (&mut self.made_equal, &earlier.made_equal),
        ] {
            own.extend_from_slice(before);
            own.sort();
            own.dedup();
        }
    }

    /// Files of the target that vanished on the source while it was read.
    pub fn vanished<'a>(&'a self, found: &'a Found) -> impl Iterator<Item = RelPath> + 'a {
        let had = found.gone.iter().filter(|entry| self.files.had(**entry));
        had.filter_map(|entry| self.files.path(*entry))
    }

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
            Action::Keep | Action::KeepWhole | Action::Skip => return false,
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

    /// Notes what becomes of an entry at the top that PostgreSQL does not know, or that is the host's.
    fn note_top(
        &mut self,
        entry: &Entry,
        action: Action,
        here: Option<TargetEntry>,
        host_local: &HostLocal,
        facts: &SourceFacts,
    ) {
        let kind = match entry.kind {
            EntryKind::File => layout::Kind::File,
            EntryKind::Directory => layout::Kind::Directory,
        };
        let class = layout::classify(&entry.path, kind, host_local);
        if !matches!(class, Class::Foreign | Class::HostLocal) {
            return;
        }
        let name = entry.path.to_string();
        // Only the directory of the log comes, to have one.
        let is_log = name == facts.log_directory;
        match (action, here) {
            (Action::KeepWhole, _) => {}
            (Action::Skip, None) if !is_log => self.not_brought.push(name),
            (Action::Skip, _) => {}
            (_, None) if is_log => {}
            (_, None) => self.taken_over.push(name),
            (_, Some(_)) => self.made_equal.push(name),
        }
    }

    /// Decides about what the target has.
    fn judge_rest(
        &mut self,
        findings: &Findings,
        host_local: &HostLocal,
        policy: HostPolicy,
        tree: &Listing<layout::Kind>,
        manifest: &Manifest,
        skipped: &[String],
    ) {
        // What the source has and cannot send is no reason to remove the target's.
        let skipped: HashSet<RelPath> = skipped
            .iter()
            .filter_map(|path| RelPath::parse(path.as_bytes()).ok())
            .collect();
        let is_wanted = |path: &RelPath| {
            is_required(path)
                || !skipped.is_empty() && is_in(&skipped, path)
                || layout::tablespace_oid(path).is_some_and(|oid| {
                    findings
                        .placements
                        .iter()
                        .any(|placement| placement.oid == oid)
                        || findings
                            .stale_tablespaces
                            .iter()
                            .any(|stale| stale.oid == oid)
                })
        };
        let removals = action::removals(manifest, tree, host_local, policy, is_wanted);
        self.removed_files = removals.limited_files;
        let files = removals.remove.iter().filter(|item| {
            item.kind.why == Why::NotOnSource && item.kind.kind != layout::Kind::Directory
        });
        let named = files.take(REMOVED_NAMED);
        self.removed = named.map(|item| item.path().to_string()).collect();
        self.removals = Arc::new(removals.remove);
        let kept = removals.kept_foreign.iter().chain(&removals.kept_own);
        self.kept = kept.map(ToString::to_string).collect();
        self.kept.sort();
        self.emptied = removals.emptied;
        self.emptied
            .retain(|path| path.components().next() != Some(b"pg_wal"));
    }

    /// Counts what goes with tablespaces that the source does not have.
    fn count_stale(
        &mut self,
        options: &RebuildOptions,
        findings: &Findings,
        version_directory: &str,
    ) -> Result<(), DiskError> {
        for stale in &findings.stale_tablespaces {
            let link = options.pgdata.join("pg_tblspc").join(stale.oid.to_string());
            let mut removal = TablespaceRemoval {
                oid: stale.oid,
                location: stale.place(),
                left: stale.left.clone(),
                files: 0,
            };
            // One that lies in the data directory was counted with the rest.
            if disk::link(&link).is_some() && stale.left.is_none() {
                let ours = link.join(version_directory);
                if is_placed(&link, findings)? {
                    removal.left = Some("another tablespace is there now".to_owned());
                } else if disk::directory(&ours)?.is_some() {
                    let room = REMOVED_NAMED.saturating_sub(self.removed.len());
                    let (files, named) = size::files(&ours, room)?;
                    removal.files = files;
                    self.removed_files += files;
                    let named = named
                        .iter()
                        .filter_map(|path| path.strip_prefix(&options.pgdata).ok());
                    self.removed
                        .extend(named.map(|path| path.display().to_string()));
                }
            }
            self.tablespaces.push(removal);
        }
        Ok(())
    }
}

/// Whether a path is one of these, or in one.
fn is_in(all: &HashSet<RelPath>, path: &RelPath) -> bool {
    let mut at = Some(path.clone());
    while let Some(path) = at {
        if all.contains(&path) {
            return true;
        }
        at = path.parent();
    }
    false
}

/// Whether an entry would take the place of a directory that holds something which the DBA keeps.
fn replaces_kept(
    action: Action,
    path: &RelPath,
    here: Option<TargetEntry>,
    tree: &Listing<layout::Kind>,
    host_local: &HostLocal,
) -> bool {
    let is_directory = here.is_some_and(|here| here.kind == layout::Kind::Directory);
    let comes = matches!(action, Action::Fetch { .. } | Action::Whole { .. });
    let kept = |below: &RelPath| {
        let class = layout::classify(below, layout::Kind::File, host_local);
        class == Class::HostLocal && host_local.is_kept(below)
    };
    comes
        && is_directory
        && host_local.has_patterns()
        && tree
            .iter()
            .map(|item| item.path())
            .any(|below| below.starts_with(path) && kept(&below))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_backup_of_the_run_did_is_told_too() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let removal = |files| TablespaceRemoval {
            oid: 7,
            location: "/ts".to_owned(),
            left: None,
            files,
        };
        let earlier = Work {
            unshared_files: 3,
            tablespaces: vec![removal(5)],
            taken_over: names(&["new"]),
            made_equal: names(&["both"]),
            ..Work::default()
        };
        // What was new is there by now, and the link of the tablespace is gone.
        let mut work = Work {
            tablespaces: vec![removal(0)],
            taken_over: names(&["newer"]),
            made_equal: names(&["both", "new"]),
            ..Work::default()
        };
        work.tell_of(&earlier);
        assert_eq!(work.unshared_files, 3);
        assert_eq!(work.tablespaces, [removal(5)]);
        assert_eq!(work.taken_over, ["new", "newer"]);
        assert_eq!(work.made_equal, ["both"]);
    }
}
