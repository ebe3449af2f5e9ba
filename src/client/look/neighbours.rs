//! Other data directories on the target's host, and which of them use a directory that the target leads to.

use std::path::{Path, PathBuf};

use crate::disk::facts as disk;
use crate::disk::near::{self, DataDirectory};
use crate::plan::tablespaces::Sharer;
use crate::postmaster;

/// The data directories that could be seen beside the target.
pub struct Neighbours(Vec<(DataDirectory, Option<u32>)>);

impl Neighbours {
    /// Looks for servers that run on this host, for data directories near the target, for the one that the target
    /// was copied from, and for those around the given places.
    pub fn look<'a>(pgdata: &Path, places: impl IntoIterator<Item = &'a Path>) -> Self {
        let own = disk::directory(pgdata).ok().flatten();
        let own = own.map(|found| found.identity);
        let mut found: Vec<(DataDirectory, Option<u32>)> = Vec::new();
        let mut note = |path: &Path, root: Option<&Path>, pid: Option<u32>| {
            // Most paths are none, and the processes of a server have one.
            let Some(identity) = disk::directory(path).ok().flatten() else {
                return;
            };
            let identity = identity.identity;
            let is_known = found.iter().any(|(known, _)| known.identity() == identity);
            if !is_known && Some(identity) != own {
                found.extend(DataDirectory::look(path, root).map(|seen| (seen, pid)));
            }
        };
        for (pid, directory) in postmaster::servers() {
            let root = PathBuf::from(format!("/proc/{pid}/root"));
            note(&directory, Some(&root), Some(pid));
        }
        let around = places.into_iter().flat_map(near::above);
        let others = near::candidates(pgdata)
            .into_iter()
            .chain(near::started_before(pgdata))
            .chain(around);
        for path in others {
            note(&path, None, None);
        }
        Self(found)
    }

    /// Who else uses a directory, or one in it.
    pub fn sharer(&self, place: &Path) -> Option<Sharer> {
        self.first(|other| other.uses(place))
    }

    /// Who else has a tablespace at a location, with its files in this version directory.
    pub fn tablespace_sharer(&self, location: &Path, version_directory: &str) -> Option<Sharer> {
        self.first(|other| other.uses_tablespace(location, version_directory))
    }

    /// The first, one with a server before all others.
    fn first(&self, uses: impl Fn(&DataDirectory) -> bool) -> Option<Sharer> {
        let all: Vec<_> = self.0.iter().filter(|(other, _)| uses(other)).collect();
        let running = all.iter().find(|(_, pid)| pid.is_some());
        let (other, pid) = running.or(all.first())?;
        Some(Sharer {
            pgdata: other.path().display().to_string(),
            server_pid: *pid,
        })
    }
}
