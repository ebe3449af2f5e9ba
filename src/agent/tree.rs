//! The walk that makes the manifest: everything that a base backup would send, in directory order.

use std::path::{Path, PathBuf};

use crate::disk::root::Roots;
use crate::disk::walk::{self, Kind};
use crate::errors::chain;
use crate::facts::Tablespace;
use crate::manifest::{Entry, EntryKind};
use crate::path::RelPath;
use crate::pg::layout::{self, Class, HostLocal};
use crate::wire::message::{Fault, FaultKind};

/// What the walk found.
#[derive(Debug)]
pub struct Tree {
    pub entries: Vec<Entry>,
    /// Foreign links and special files, which a base backup leaves out too, and what may not be read.
    pub skipped: Vec<String>,
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

/// Walks the data directory and its tablespaces.
///
/// # Errors
/// A directory that cannot be listed; a link or special file where PostgreSQL keeps data.
pub fn walk(roots: &Roots, rules: &WalkRules) -> Result<Tree, Fault> {
    let mut tree = Tree {
        entries: Vec::new(),
        skipped: Vec::new(),
        tablespaces: rules.tablespaces.clone(),
    };
    let data = roots.data().path().to_owned();
    let mut pending: Vec<(PathBuf, Option<RelPath>)> = vec![(data, None)];
    while let Some((directory, at)) = pending.pop() {
        let listed = match walk::list(&directory) {
            Ok(listed) => listed,
            // Dropped since its parent was listed.
            Err(error) if error.is_missing() && at.is_some() => continue,
            Err(error) => return Err(read_fault(&error)),
        };
        let unlogged = at
            .as_ref()
            .filter(|at| layout::holds_relations(at))
            .map(|_| layout::unlogged_relfilenodes(listed.iter().map(|entry| &entry.name[..])));
        let mut below = Vec::new();
        for found in listed {
            if unlogged
                .as_ref()
                .is_some_and(|unlogged| layout::is_excluded_unlogged(&found.name, unlogged))
            {
                continue;
            }
            let path = match &at {
                None => RelPath::parse(&found.name),
                Some(at) => at.join(&found.name),
            }
            .map_err(|error| {
                let name = directory.join(found.file_name());
                Fault::new(
                    FaultKind::Read,
                    format!("cannot name \"{}\": {error}", name.display()),
                )
            })?;
            visit(&mut tree, &mut below, &directory, path, &found, rules)?;
        }
        // Depth first and in name order: neighbours on disk stay neighbours in the manifest.
        pending.extend(below.into_iter().rev());
    }
    Ok(tree)
}

fn visit(
    tree: &mut Tree,
    below: &mut Vec<(PathBuf, Option<RelPath>)>,
    directory: &Path,
    path: RelPath,
    found: &walk::Listed,
    rules: &WalkRules,
) -> Result<(), Fault> {
    let here = directory.join(found.file_name());
    let kind = found.kind.in_layout();
    if found.kind == Kind::Symlink
        && let Some(oid) = layout::tablespace_oid(&path)
        && rules.tablespaces.iter().any(|space| space.oid == oid)
    {
        // The location itself is the client's business; only our version's directory is data.
        let version = path
            .join(rules.version_directory.as_bytes())
            .map_err(|error| Fault::new(FaultKind::Read, error.to_string()))?;
        tree.entries.push(Entry {
            path: version.clone(),
            kind: EntryKind::Directory,
            size: 0,
        });
        below.push((here.join(&rules.version_directory), Some(version)));
        return Ok(());
    }
    match layout::classify(&path, kind, &HostLocal::none()) {
        Class::Control | Class::InsideEmptied | Class::LeftOut | Class::Ours => {}
        Class::EmptiedDirectory => tree.entries.push(Entry {
            path,
            kind: EntryKind::Directory,
            size: 0,
        }),
        Class::HostLocal | Class::Foreign
            if matches!(found.kind, Kind::File | Kind::Directory) && !walk::is_readable(&here) =>
        {
            tree.skipped.push(path.to_string());
        }
        Class::Synchronised | Class::HostLocal | Class::Foreign => match found.kind {
            Kind::File => tree.entries.push(Entry {
                path,
                kind: EntryKind::File,
                size: found.size,
            }),
            Kind::Directory => {
                let is_log = rules.log_directory.as_ref() == Some(&path);
                tree.entries.push(Entry {
                    path: path.clone(),
                    kind: EntryKind::Directory,
                    size: 0,
                });
                if !is_log {
                    below.push((here, Some(path)));
                }
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
                tree.skipped.push(path.to_string());
            }
        },
    }
    Ok(())
}

/// A fault for a file call that failed.
pub(super) fn read_fault(error: &crate::disk::DiskError) -> Fault {
    Fault::new(FaultKind::Read, chain(error))
}
