//! What the target has.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::client::options::RebuildOptions;
use crate::client::transfer::rights::Bars;
use crate::disk::DiskError;
use crate::disk::access;
use crate::disk::facts as disk;
use crate::disk::root::Root;
use crate::disk::walk::{self, Place};
use crate::facts::{FileIdentity, SourceFacts, Tablespace};
use crate::manifest::{Folder, Listing};
use crate::path::RelPath;
use crate::pg::layout::{self, Class, HostLocal};
use crate::plan::access::Bar;
use crate::plan::guard::Findings;
use crate::plan::tablespaces;

/// The walk through all that the target has, with tablespaces where they will be: a seed may find them there.
/// What is emptied anyway is not looked into.
pub struct TargetWalk {
    /// The data directory, unless it is empty or missing.
    content: Option<PathBuf>,
    /// What tablespaces have of this cluster, by their paths in the data directory.
    located: Vec<(PathBuf, RelPath)>,
    /// The locations of these: one in the data directory, or in another tablespace, is not seen twice.
    locations: Vec<FileIdentity>,
    threads: usize,
}

/// What the target has.
#[derive(Debug)]
pub struct Walked {
    pub tree: Listing<layout::Kind>,
    /// Files that have another name somewhere. None, mostly.
    pub shared: HashSet<RelPath>,
    pub bars: Bars,
}

/// What a visit saw.
struct Seen {
    folder: Folder<layout::Kind>,
    shared: Vec<RelPath>,
    bars: Vec<(Option<RelPath>, Bar)>,
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
        let locations = findings.placements.iter();
        let locations = locations.filter_map(|placement| {
            let location = placement.location_path()?;
            Some(disk::directory(&location).ok()??.identity)
        });
        Self {
            locations: locations.collect(),
            content: has_content.then(|| options.pgdata.clone()),
            located: located.collect(),
            threads: options.reach.jobs,
        }
    }

    /// A walk through a data directory as it is, whose tablespaces of this version are where their links lead.
    ///
    /// # Errors
    /// A directory that cannot be looked at.
    pub fn of_cluster(
        pgdata: &Path,
        spaces: &[Tablespace],
        version_directory: &str,
        threads: usize,
    ) -> Result<Self, DiskError> {
        let (mut located, mut locations) = (Vec::new(), Vec::new());
        for space in spaces {
            let Some(location) = &space.location else {
                continue;
            };
            let place = Path::new(OsStr::from_bytes(location));
            let path = format!("pg_tblspc/{}/{version_directory}", space.oid);
            if let Ok(path) = RelPath::parse(path.as_bytes()) {
                located.push((place.join(version_directory), path));
            }
            locations.extend(disk::directory(place)?.map(|found| found.identity));
        }
        Ok(Self {
            content: Some(pgdata.to_owned()),
            located,
            locations,
            threads,
        })
    }

    /// Walks.
    ///
    /// # Errors
    /// A directory that cannot be listed.
    pub fn walk(&self) -> Result<Walked, DiskError> {
        let mut roots = Vec::new();
        let mut folders = Vec::new();
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
        let (mut shared, mut bars) = (HashSet::new(), Bars::new());
        for seen in walk::spread(start, self.threads, visit)? {
            folders.push(seen.folder);
            shared.extend(seen.shared);
            bars.extend(seen.bars);
        }
        let tree = Listing::from_folders(folders).map_err(|error| {
            let place = self.content.as_deref().unwrap_or(Path::new("/"));
            DiskError::new("list", place, std::io::Error::other(error))
        })?;
        Ok(Walked { tree, shared, bars })
    }

    /// Lists one directory, and tells which of those in it are to be visited.
    fn visit<'a>(&self, place: &Place<'a>) -> Result<(Seen, Vec<Place<'a>>), DiskError> {
        let mut seen = Seen {
            folder: Folder::new(place.at().cloned()),
            shared: Vec::new(),
            bars: Vec::new(),
        };
        let mut below = Vec::new();
        let mut directory = match place.read() {
            Ok(directory) => directory,
            Err(error) => match access::bar_of_closed(&place.path(), &error) {
                // Whether that matters depends on what is to be done there.
                Some(closed) if place.at().is_some() => {
                    seen.bars.push((place.at().cloned(), closed));
                    return Ok((seen, below));
                }
                _ => return Err(error),
            },
        };
        let within = directory.bar_within()?;
        seen.bars
            .extend(within.map(|within| (place.at().cloned(), within)));
        if within.is_some() && !directory.is_searchable() {
            return Ok((seen, below));
        }
        if place.at().is_some()
            && !self.locations.is_empty()
            && self.locations.contains(&directory.identity()?)
        {
            directory.retain(|_, _| false);
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
            let Some(look) = look else { return Ok(()) };
            if look.is_linked {
                seen.shared.extend(path_in(place, name));
            }
            if let Some(found) = directory.bar_of(name, &look) {
                let path = path_in(place, name);
                seen.bars.extend(path.map(|path| (Some(path), found)));
            }
            Ok(())
        })?;
        Ok((seen, below))
    }

    fn below<'a>(&self, place: &Place<'a>, name: &[u8]) -> Option<Place<'a>> {
        let path = path_in(place, name)?;
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

/// The path of a name in a place.
fn path_in(place: &Place<'_>, name: &[u8]) -> Option<RelPath> {
    let path = match place.at() {
        None => RelPath::parse(name),
        Some(at) => at.join(name),
    };
    path.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on another host, where the source's path is the target's too: the tablespace is in the target's own data
    /// directory, and what it holds must neither be seen nor removed as something foreign.
    #[test]
    fn a_tablespace_in_the_own_data_directory_is_seen_once() {
        let dir = tempfile::tempdir().unwrap();
        let location = dir.path().join("space");
        std::fs::create_dir_all(location.join("PG_15_202209061/5")).unwrap();
        std::fs::write(location.join("PG_15_202209061/5/1"), "rows").unwrap();
        std::fs::create_dir(dir.path().join("pg_tblspc")).unwrap();
        std::os::unix::fs::symlink(&location, dir.path().join("pg_tblspc/7")).unwrap();
        let walk = TargetWalk {
            content: Some(dir.path().to_owned()),
            located: vec![(
                location.join("PG_15_202209061"),
                RelPath::parse(b"pg_tblspc/7/PG_15_202209061").unwrap(),
            )],
            locations: vec![disk::directory(&location).unwrap().unwrap().identity],
            threads: 1,
        };
        let walked = walk.walk().unwrap();
        let mut names: Vec<String> = walked
            .tree
            .iter()
            .map(|item| item.path().to_string())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "pg_tblspc",
                "pg_tblspc/7",
                "pg_tblspc/7/PG_15_202209061",
                "pg_tblspc/7/PG_15_202209061/5",
                "pg_tblspc/7/PG_15_202209061/5/1",
                "space",
            ]
        );
        assert!(walked.shared.is_empty());
    }
}
