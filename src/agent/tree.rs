//! The walk that makes the manifest: everything that a base backup would send, in directory order.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::disk::DiskError;
use crate::disk::facts as disk_facts;
use crate::disk::read::open_linked;
use crate::disk::root::Roots;
use crate::disk::walk::{self, Kind, Place};
use crate::errors::{chain, one_line};
use crate::facts::Tablespace;
use crate::geometry::EntryId;
use crate::manifest::{EntryKind, Folder, Listing, ListingError, Manifest};
use crate::path::{RelPath, check_name};
use crate::pg::layout::{self, Class, HostLocal};
use crate::plan::remedy;
use crate::wire::listing;
use crate::wire::message::{Fault, FaultKind};

/// What the walk found.
#[derive(Debug)]
pub struct Tree {
    pub manifest: Arc<Manifest>,
    /// The first entry of each part in which the manifest travels.
    pub parts: Vec<EntryId>,
    /// Foreign links and special files, which a base backup leaves out too, and what may not be read.
    pub skipped: Vec<String>,
    /// Configuration that is a link, with what it leads to: only what the walk saw there is ever read.
    pub linked: BTreeMap<RelPath, File>,
    /// Data that may not be read, as many as are named.
    pub unreadable: Vec<String>,
    /// How many more there are.
    pub unreadable_more: u64,
    pub tablespaces: Vec<Tablespace>,
}

/// What the walk has to know beside the directory itself.
#[derive(Debug, Clone)]
pub struct WalkRules {
    /// `PG_<major>_<catalog version>`: the only directory of a tablespace's location that is ours.
    pub version_directory: String,
    /// Relative to the data directory; its content is the source's own.
    pub log_directory: Option<RelPath>,
    pub tablespaces: Vec<Tablespace>,
}

/// How many files are named that may not be read.
const UNREADABLE_NAMED: usize = 100;

/// What a visit saw.
struct Seen<'a> {
    folders: Vec<Folder<EntryKind>>,
    skipped: Vec<RelPath>,
    unreadable: Vec<RelPath>,
    linked: BTreeMap<RelPath, File>,
    below: Vec<Place<'a>>,
}

/// Walks the data directory and its tablespaces with so many threads.
///
/// # Errors
/// A directory that cannot be listed; a link or special file where PostgreSQL keeps data.
pub fn walk(roots: &Roots, rules: &WalkRules, threads: usize) -> Result<Tree, Fault> {
    let start = vec![Place::new(roots.data(), None)];
    let visits = walk::spread(start, threads, |place| {
        let mut seen = visit(&place, roots, rules, threads)?;
        let below = std::mem::take(&mut seen.below);
        Ok::<_, Fault>((seen, below))
    })?;
    let (mut folders, mut skipped, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    let mut linked = BTreeMap::new();
    for seen in visits {
        folders.extend(seen.folders);
        skipped.extend(seen.skipped);
        unreadable.extend(seen.unreadable);
        linked.extend(seen.linked);
    }
    unreadable.extend(unreadable_histories(roots)?);
    skipped.sort_by(RelPath::cmp_components);
    unreadable.sort_by(RelPath::cmp_components);
    let manifest = Listing::from_folders(folders).map_err(|error| list_fault(&error))?;
    Ok(Tree {
        parts: listing::part_starts(&manifest),
        manifest: Arc::new(manifest),
        linked,
        unreadable_more: unreadable.len().saturating_sub(UNREADABLE_NAMED) as u64,
        unreadable: unreadable
            .iter()
            .take(UNREADABLE_NAMED)
            .map(ToString::to_string)
            .collect(),
        skipped: skipped.iter().map(ToString::to_string).collect(),
        tablespaces: rules.tablespaces.clone(),
    })
}

fn visit<'a>(
    place: &Place<'a>,
    roots: &'a Roots,
    rules: &WalkRules,
    threads: usize,
) -> Result<Seen<'a>, Fault> {
    let mut seen = Seen {
        folders: Vec::new(),
        skipped: Vec::new(),
        unreadable: Vec::new(),
        linked: BTreeMap::new(),
        below: Vec::new(),
    };
    let mut directory = match place.read() {
        Ok(directory) => directory,
        // Dropped since its parent was listed.
        Err(error) if error.is_missing() && place.at().is_some() => return Ok(seen),
        Err(error) if error.is_denied() && place.at().is_some() => {
            seen.unreadable.extend(place.at().cloned());
            return Ok(seen);
        }
        Err(error) => return Err(read_fault(&error)),
    };
    if place.at().is_some() && is_location(rules, &directory)? {
        // A tablespace in the data directory, or in another one, comes by its own number (`basebackup.c`, `rpath`).
        directory.retain(|_, _| false);
    }
    let unlogged = place
        .at()
        .filter(|at| layout::holds_relations(at))
        .map(|_| layout::unlogged_relfilenodes(directory.iter().map(|(name, _)| name)));
    let mut fault = None;
    directory.retain(|name, kind| {
        let wanted = is_wanted(
            &mut seen,
            place,
            name,
            kind,
            unlogged.as_ref(),
            (roots, rules),
        );
        fault.is_none()
            && wanted.unwrap_or_else(|error| {
                fault = Some(error);
                false
            })
    });
    if let Some(fault) = fault {
        return Err(fault);
    }
    let mut folder = Folder::new(place.at().cloned());
    folder.reserve(directory.len(), directory.name_bytes());
    if !directory.is_searchable() {
        // It may be listed, but nothing in it may be opened.
        seen.unreadable.extend(place.at().cloned());
        return Ok(seen);
    }
    let (at, unreadable, linked) = (place.at(), &mut seen.unreadable, &seen.linked);
    directory.looks::<Fault>(threads, |name, kind, look| {
        if look.is_some_and(|look| !directory.is_readable(name, &look)) {
            unreadable.extend(path_of(at, name));
        }
        let mut size = look.map_or(0, |look| look.size);
        let kind = match kind {
            Kind::File => EntryKind::File,
            Kind::Symlink
                if let Some(file) = path_of(at, name).and_then(|path| linked.get(&path)) =>
            {
                size = file.metadata().map_or(0, |found| found.len());
                EntryKind::File
            }
            // Of the others only directories are wanted, and links to such as are emptied.
            _ => EntryKind::Directory,
        };
        folder
            .push(name, kind, size)
            .map_err(|error| list_fault(&error))
    })?;
    seen.folders.push(folder);
    Ok(seen)
}

/// Whether a directory is where a tablespace is.
fn is_location(rules: &WalkRules, directory: &walk::Directory) -> Result<bool, Fault> {
    let located = rules.tablespaces.iter();
    let mut located = located.filter(|space| space.location.is_some()).peekable();
    if located.peek().is_none() {
        return Ok(false);
    }
    let here = directory.identity()?;
    Ok(located.any(|space| space.identity == Some(here)))
}

fn path_of(at: Option<&RelPath>, name: &[u8]) -> Option<RelPath> {
    match at {
        None => RelPath::parse(name),
        Some(at) => at.join(name),
    }
    .ok()
}

/// Histories in pg_wal that may not be read: all of them travel, at the end.
fn unreadable_histories(roots: &Roots) -> Result<Vec<RelPath>, Fault> {
    let wal = RelPath::parse(b"pg_wal").expect("a constant of one component");
    let mut directory = match walk::Directory::read(&roots.display(&wal)) {
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        directory => directory?,
    };
    directory.retain(|name, _| name.ends_with(b".history"));
    let mut unreadable = Vec::new();
    directory.looks::<Fault>(1, |name, _, look| {
        if look.is_some_and(|look| !directory.is_readable(name, &look)) {
            unreadable.extend(wal.join(name));
        }
        Ok(())
    })?;
    Ok(unreadable)
}

/// Whether a name is an entry of the manifest in its own directory. Notes what else it means.
fn is_wanted<'a>(
    seen: &mut Seen<'a>,
    place: &Place<'a>,
    name: &[u8],
    kind: Kind,
    unlogged: Option<&HashSet<u32>>,
    (roots, rules): (&'a Roots, &WalkRules),
) -> Result<bool, Fault> {
    if unlogged.is_some_and(|unlogged| layout::is_excluded_unlogged(name, unlogged)) {
        return Ok(false);
    }
    let here = || place.path().join(OsStr::from_bytes(name));
    check_name(place.at(), name).map_err(|error| {
        Fault::new(
            FaultKind::Read,
            format!("cannot name \"{}\": {error}", here().display()),
        )
    })?;
    let path = match place.at() {
        None => RelPath::parse(name),
        Some(at) => at.join(name),
    }
    .expect("the name was just checked");
    if kind == Kind::Symlink
        && let Some(oid) = layout::tablespace_oid(&path)
        && rules.tablespaces.iter().any(|space| space.oid == oid)
    {
        // The location itself is the client's business; only our version's directory is data.
        let version = path
            .join(rules.version_directory.as_bytes())
            .map_err(|error| Fault::new(FaultKind::Read, error.to_string()))?;
        let mut folder = Folder::new(Some(path.clone()));
        folder
            .push(version.name(), EntryKind::Directory, 0)
            .map_err(|error| list_fault(&error))?;
        seen.folders.push(folder);
        // One that is not there had no files when the roots were opened: it was dropped, or made since.
        if let Some(root) = roots.tablespace(oid) {
            seen.below.push(Place::new(root, Some(path)).below(version));
        }
        return Ok(false);
    }
    match layout::classify(&path, kind.in_layout(), &HostLocal::none()) {
        Class::Control | Class::InsideEmptied | Class::LeftOut | Class::Ours => Ok(false),
        Class::EmptiedDirectory => Ok(true),
        Class::HostLocal | Class::Foreign
            if matches!(kind, Kind::File | Kind::Directory)
                && !walk::is_readable(&here(), kind) =>
        {
            seen.skipped.push(path);
            Ok(false)
        }
        Class::Synchronised | Class::HostLocal | Class::Foreign => match kind {
            Kind::File => Ok(true),
            Kind::Directory => {
                if rules.log_directory.as_ref() != Some(&path) {
                    seen.below.push(place.below(path));
                }
                Ok(true)
            }
            Kind::Symlink
                if layout::is_configuration_file(&path)
                    && let Ok(Some(file)) = open_linked(&here()) =>
            {
                seen.linked.insert(path, file);
                Ok(true)
            }
            Kind::Symlink | Kind::Special => {
                let top = path.components().next().unwrap_or_default();
                if layout::is_managed_top_level(top) {
                    return Err(Fault::new(
                        FaultKind::Unfit,
                        format!("\"{path}\" on the source is a link or special file"),
                    )
                    .with_hint(
                        "PostgreSQL's base backup would leave it out; only pg_wal and tablespaces \
                         may be links.",
                    ));
                }
                seen.skipped.push(path);
                Ok(false)
            }
        },
    }
}

/// A fault for a list that cannot be made.
pub(super) fn list_fault(error: &ListingError) -> Fault {
    Fault::new(FaultKind::Read, chain(error))
}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Self {
        read_fault(&error)
    }
}

/// A fault for a file call that failed: says on which host, and what to do about the reason.
pub(super) fn read_fault(error: &DiskError) -> Fault {
    let host = one_line(&disk_facts::host().name);
    let cause = &error.source;
    Fault {
        hint: remedy::of(cause).map(str::to_owned),
        ..Fault::new(
            FaultKind::Read,
            format!("{error} on the source \"{host}\": {cause}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    use super::*;

    /// Somebody puts a link that leads out in the place of a directory, and takes it away again, all the time.
    #[test]
    fn a_link_that_comes_during_the_walk_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let [data, outside] = ["data", "outside"].map(|name| dir.path().join(name));
        let database = data.join("base/5");
        std::fs::create_dir_all(&database).unwrap();
        std::fs::write(database.join("1259"), "").unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        let roots = Roots::open(&data, []).unwrap();
        let rules = WalkRules {
            version_directory: "PG_15_202209061".to_owned(),
            log_directory: None,
            tablespaces: Vec::new(),
        };
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    renameat_with(CWD, &link, CWD, &database, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let begin = Instant::now();
            let (mut walked, mut caught) = (0, 0);
            // Until it was both there and not there at the moment that counts.
            while (walked < 20 || caught < 20) && begin.elapsed() < Duration::from_secs(60) {
                match walk(&roots, &rules, 1) {
                    Ok(tree) => {
                        walked += 1;
                        let names: Vec<_> = tree.manifest.iter().map(|item| item.path()).collect();
                        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
                        if names != ["base", "base/5", "base/5/1259"] {
                            is_over.store(true, Ordering::Relaxed);
                            panic!("{names:?}");
                        }
                    }
                    Err(fault) if fault.kind == FaultKind::Read => caught += 1,
                    // It was a link when its own directory was listed.
                    Err(_) => {}
                }
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(walked >= 20 && caught >= 20, "{walked}, {caught}");
        });
    }
}
