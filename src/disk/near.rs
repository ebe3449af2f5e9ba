//! Other data directories on this host, as far as they can be seen, and the directories that each uses: what a
//! rebuild must not touch although a link of its own target leads there.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::facts::{self, directory};
use super::walk::{self, Kind};
use crate::facts::FileIdentity;
use crate::pg::opts::Opts;
use crate::pg::relfile;

/// Most directories that are looked at as neighbours.
const CANDIDATES_MAX: usize = 2000;

/// A directory that a data directory uses.
#[derive(Debug, Clone)]
struct Used {
    identity: FileIdentity,
    /// Its path without links.
    path: PathBuf,
    /// Whether this process sees the same under that path: a server in a container has paths of its own.
    is_path_known: bool,
}

impl Used {
    /// A directory that is seen at `path`.
    fn at(path: &Path) -> Option<Self> {
        let identity = directory(path).ok().flatten()?.identity;
        let path = facts::resolved(path);
        let here = directory(&path).ok().flatten();
        Some(Self {
            is_path_known: here.is_some_and(|here| here.identity == identity),
            identity,
            path,
        })
    }

    fn is_in(&self, place: &Path) -> bool {
        self.is_path_known && self.path.starts_with(place)
    }

    fn holds(&self, place: &Path) -> bool {
        self.is_path_known && place.starts_with(&self.path)
    }
}

/// A data directory.
#[derive(Debug, Clone)]
pub struct DataDirectory {
    own: Used,
    major: Option<u32>,
    /// What it writes wherever that is: its own directories, whatever links lead to.
    directories: Vec<Used>,
    /// The locations of its tablespaces.
    tablespaces: Vec<Used>,
}

impl DataDirectory {
    /// Looks at a path; `None` when there is no data directory, or it cannot be seen. Links of a server in another
    /// mount namespace are followed as that server does, beneath its `root`.
    #[must_use]
    pub fn look(path: &Path, root: Option<&Path>) -> Option<Self> {
        let is_one = path.join("PG_VERSION").is_file() && path.join("global").is_dir();
        if !is_one {
            return None;
        }
        let used = |path: &Path| {
            let through = match (facts::link(path), root) {
                (Some(target), Some(root)) if target.is_absolute() => {
                    root.join(target.strip_prefix("/").unwrap_or(&target))
                }
                _ => path.to_owned(),
            };
            Used::at(&through)
        };
        let listed = walk::list(path).unwrap_or_default();
        let directories = listed
            .iter()
            .filter(|found| matches!(found.kind, Kind::Directory | Kind::Symlink))
            .filter_map(|found| used(&path.join(found.file_name())));
        let spaces = path.join("pg_tblspc");
        let tablespaces = walk::list(&spaces).unwrap_or_default();
        let tablespaces = tablespaces
            .iter()
            .filter(|found| found.kind == Kind::Symlink)
            .filter_map(|found| used(&spaces.join(found.file_name())));
        Some(Self {
            own: Used::at(path)?,
            major: facts::major_version(path).ok().flatten(),
            directories: directories.collect(),
            tablespaces: tablespaces.collect(),
        })
    }

    /// Its path without links, for people.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.own.path
    }

    /// Which directory it is.
    #[must_use]
    pub fn identity(&self) -> FileIdentity {
        self.own.identity
    }

    /// Whether it uses a directory, or one in it, or has it inside itself.
    #[must_use]
    pub fn uses(&self, place: &Path) -> bool {
        self.reaches(place, Path::new(""))
    }

    /// Whether it has a tablespace at a location whose files are in this version directory: clusters of another
    /// major version have one of their own there.
    #[must_use]
    pub fn uses_tablespace(&self, location: &Path, version_directory: &str) -> bool {
        let major = relfile::tablespace_directory_major(version_directory.as_bytes());
        let is_other = self.major.is_some() && major.is_some() && self.major != major;
        !is_other && self.reaches(location, Path::new(version_directory))
    }

    /// Whether a place is its own, or what is at `below` in there.
    fn reaches(&self, place: &Path, below: &Path) -> bool {
        let Some(found) = directory(place).ok().flatten() else {
            return false;
        };
        let resolved = facts::resolved(place);
        let below = resolved.join(below);
        let mut all = self.directories.iter().chain(&self.tablespaces);
        self.own.holds(&resolved)
            || all.any(|used| used.identity == found.identity || used.is_in(&below))
    }
}

/// Paths near a data directory where others may be: beside it, and beside the directory that holds it, with what
/// is in there.
#[must_use]
pub fn candidates(pgdata: &Path) -> Vec<PathBuf> {
    let pgdata = facts::resolved(pgdata);
    let mut found = Vec::new();
    let Some(parent) = pgdata.parent() else {
        return found;
    };
    found.extend(directories_in(parent));
    if let Some(above) = parent.parent().filter(|above| above.parent().is_some()) {
        for beside in directories_in(above) {
            if beside != parent {
                let room = CANDIDATES_MAX.saturating_sub(found.len());
                found.extend(directories_in(&beside).into_iter().take(room));
            }
            found.push(beside);
        }
    }
    found.truncate(CANDIDATES_MAX);
    found
}

/// The directories above a place, its own links resolved.
#[must_use]
pub fn above(place: &Path) -> Vec<PathBuf> {
    let resolved = facts::resolved(place);
    resolved.ancestors().skip(1).map(Path::to_owned).collect()
}

/// The data directory that `postmaster.opts` names: in a copy, it is that of the original.
#[must_use]
pub fn started_before(pgdata: &Path) -> Option<PathBuf> {
    let text = super::read::read_if_there(&pgdata.join("postmaster.opts"), 64 * 1024).ok()??;
    let opts = Opts::parse(&String::from_utf8_lossy(&text))?;
    opts.directory().map(PathBuf::from)
}

fn directories_in(path: &Path) -> Vec<PathBuf> {
    let Ok(listed) = walk::Directory::read(path) else {
        return Vec::new();
    };
    listed
        .iter()
        .filter(|(_, kind)| matches!(kind, Kind::Directory | Kind::Symlink))
        .map(|(name, _)| path.join(std::ffi::OsStr::from_bytes(name)))
        .take(CANDIDATES_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn make(path: &Path, major: &str) {
        for name in ["global", "pg_tblspc", "pg_wal"] {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        fs::write(path.join("PG_VERSION"), major).unwrap();
    }

    #[test]
    fn what_a_neighbour_uses_is_seen_whatever_links_lead_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (target, other) = (at("a/data"), at("b/data"));
        make(&target, "15\n");
        make(&other, "15\n");
        for name in ["ts/sub", "apart", "link"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        symlink(at("ts/sub"), other.join("pg_tblspc/16400")).unwrap();
        symlink(at("ts/sub"), at("alias")).unwrap();
        assert!(candidates(&target).contains(&facts::resolved(&other)));
        let seen = DataDirectory::look(&other, None).unwrap();
        for (place, is_used) in [
            ("ts/sub", true),
            ("ts", true),
            ("alias", true),
            ("b/data/pg_wal", true),
            ("b/data", true),
            ("apart", false),
            ("none", false),
        ] {
            assert_eq!(seen.uses(&at(place)), is_used, "{place}");
            // Two can be one inside the other, each with its version directory.
            let is_used = is_used && place != "ts";
            let found = seen.uses_tablespace(&at(place), "PG_15_202209061");
            assert_eq!(found, is_used, "{place}");
        }
        // Each version has its own directory at a location.
        assert!(!seen.uses_tablespace(&at("ts/sub"), "PG_16_202307071"));
        assert!(DataDirectory::look(&at("ts"), None).is_none());
    }

    #[test]
    fn a_copy_tells_where_its_original_was() {
        let dir = tempfile::tempdir().unwrap();
        let written = |text: &str| {
            fs::write(dir.path().join("postmaster.opts"), text).unwrap();
            started_before(dir.path())
        };
        for text in [
            "/usr/lib/postgresql/15/bin/postgres \"-D\" \"/srv/a b/data\" \"-c\" \"port=1\"\n",
            "/usr/lib/postgresql/15/bin/postgres \"-p\" \"1\" \"-D\" \"/srv/a b/data\"\n",
            "/usr/lib/postgresql/15/bin/postgres \"-D/srv/a b/data\"\n",
        ] {
            assert_eq!(
                written(text),
                Some(PathBuf::from("/srv/a b/data")),
                "{text}"
            );
        }
        assert_eq!(written("/usr/bin/postgres\n"), None);
        assert_eq!(written(""), None);
    }
}
