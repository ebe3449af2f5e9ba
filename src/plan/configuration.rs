//! The source's configuration for another host: which file goes where, and what must name the new place.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::facts::SourceConfiguration;
use crate::pg::cluster_name::ClusterName;
use crate::pg::conf::{self, Directive, Edit, KEY_FILES, QuoteError};
use crate::pg::hba;

/// Where files go that lie elsewhere than beside the source's main file.
const ELSEWHERE: &str = "included";

/// Name of the main file.
pub const MAIN_FILE: &str = "postgresql.conf";

/// Settings that the copy has the say in, whatever was set by ALTER SYSTEM on the source.
pub const SAYS: [&str; 5] = [
    "cluster_name",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "port",
];

/// Settings whose values are named after a cluster of Debian's, and name something of which each cluster needs
/// its own (`pg_createcluster`; the second up to 14).
const NAMED_AFTER_CLUSTER: [&str; 2] = ["external_pid_file", "stats_temp_directory"];

/// Where the configuration goes.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The directory of the files.
    pub directory: &'a Path,
    pub pgdata: &'a Path,
    /// Another port than the source's.
    pub port: Option<u16>,
}

/// The files with their new texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// Paths below the new directory, of plain components.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Included directories, which may be empty.
    pub directories: BTreeSet<PathBuf>,
    /// What the administrator should look at, in sentences.
    pub remarks: Vec<String>,
}

/// Why the configuration cannot be moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    #[error("the agent named a configuration file \"{0}\" that has no absolute path")]
    NotAbsolute(String),
    #[error("the agent did not send the configuration file \"{0}\"")]
    NotSent(String),
    #[error("the path \"{path}\" cannot be written into a configuration file")]
    Path {
        path: String,
        #[source]
        reason: QuoteError,
    },
}

/// Moves the configuration to its new place: files beside the main one and below keep their relative paths, others
/// go into a directory of their own; includes are rewritten where they would miss, and settings where they name
/// the old place.
///
/// # Errors
/// [`MoveError`].
pub fn moved(source: &SourceConfiguration, place: &Place) -> Result<Moved, MoveError> {
    let map = Map::new(source, place)?;
    let main = map.file(&source.config_file)?;
    let of_settings = map.files_of_settings(source)?;
    let mut moved = Moved::default();
    for directory in &source.directories {
        let new = map.get(&absolute(directory)?);
        moved.directories.extend(new.map(Path::to_owned));
    }
    // A server starts without it.
    moved.files.insert(map.ident.clone(), Vec::new());
    let mut set = map.settings(source)?;
    for (old, text) in &source.files {
        let old = absolute(old)?;
        let new = map.get(&old).ok_or_else(|| not_sent(&old))?;
        let text = if of_settings.contains(&old) {
            map.conf_text(&old, text, &mut set, &mut moved.remarks)?
        } else {
            map.auth_text(&old, text)
        };
        moved.files.insert(new.to_owned(), text);
    }
    // What no line says is said at the end.
    let missing = set
        .iter()
        .filter(|(_, setting)| setting.must && !setting.is_set);
    let missing: Vec<(&str, &str)> = missing
        .map(|(name, setting)| (*name, setting.value.as_str()))
        .collect();
    if let Some(text) = moved.files.get_mut(&main) {
        *text = conf::rewrite(text, &[], &missing);
    }
    moved.remarks.sort();
    moved.remarks.dedup();
    Ok(moved)
}

/// A setting's new value.
struct Setting {
    value: String,
    /// Set it also where no line does.
    must: bool,
    is_set: bool,
}

/// Where each file and included directory goes, below the new directory.
struct Map<'a> {
    places: BTreeMap<PathBuf, PathBuf>,
    place: &'a Place<'a>,
    /// `pg_ident.conf`, which need not be there.
    ident: PathBuf,
    /// The old and the new cluster's name on Debian.
    names: Option<(ClusterName, ClusterName)>,
}

impl<'a> Map<'a> {
    fn new(source: &SourceConfiguration, place: &'a Place<'a>) -> Result<Self, MoveError> {
        let main = absolute(&source.config_file)?;
        let top = main.parent().unwrap_or(Path::new("/")).to_owned();
        let auth = [absolute(&source.hba_file)?, absolute(&source.ident_file)?];
        let mut places = BTreeMap::new();
        places.insert(main, PathBuf::from(MAIN_FILE));
        let paths = source.directories.iter();
        let paths = paths.chain(source.files.iter().map(|(path, _)| path));
        for (number, path) in paths.enumerate() {
            let path = absolute(path)?;
            if places.contains_key(&path) {
                continue;
            }
            let name = path.file_name().unwrap_or(OsStr::new("file"));
            // A file of a directory that goes elsewhere goes with it.
            let with_parent = path.parent().and_then(|parent| places.get(parent));
            let new = match path.strip_prefix(&top) {
                Ok(below) if !below.as_os_str().is_empty() => below.to_owned(),
                _ => match with_parent {
                    Some(parent) => parent.join(name),
                    None if auth.contains(&path) => PathBuf::from(name),
                    None => {
                        let mut numbered = format!("{number}-").into_bytes();
                        numbered.extend_from_slice(name.as_bytes());
                        Path::new(ELSEWHERE).join(OsStr::from_bytes(&numbered))
                    }
                },
            };
            places.insert(path, new);
        }
        let ident = auth[1].clone();
        let name = ident.file_name().unwrap_or(OsStr::new("pg_ident.conf"));
        let ident = places
            .entry(ident.clone())
            .or_insert_with(|| name.into())
            .clone();
        let names = ClusterName::of_directory(&top).zip(ClusterName::of_directory(place.directory));
        Ok(Self {
            places,
            place,
            ident,
            names,
        })
    }

    fn get(&self, old: &Path) -> Option<&Path> {
        self.places.get(old).map(PathBuf::as_path)
    }

    fn file(&self, old: &[u8]) -> Result<PathBuf, MoveError> {
        let old = absolute(old)?;
        self.get(&old)
            .map(Path::to_owned)
            .ok_or_else(|| not_sent(&old))
    }

    /// The files that are read for settings: the main file and what it includes.
    fn files_of_settings(
        &self,
        source: &SourceConfiguration,
    ) -> Result<BTreeSet<PathBuf>, MoveError> {
        let mut texts = BTreeMap::new();
        for (path, text) in &source.files {
            texts.insert(absolute(path)?, text);
        }
        let mut found = BTreeSet::new();
        let mut open = vec![absolute(&source.config_file)?];
        while let Some(at) = open.pop() {
            let Some(text) = texts.get(&at) else { continue };
            if !found.insert(at.clone()) {
                continue;
            }
            for line in conf::parse(text).unwrap_or_default() {
                match line.directive {
                    Directive::Include(name) | Directive::IncludeIfExists(name) => {
                        open.push(beside(&at, &name));
                    }
                    Directive::IncludeDir(name) => {
                        let directory = beside(&at, &name);
                        let all = self.places.keys();
                        open.extend(
                            all.filter(|file| file.parent() == Some(&directory))
                                .cloned(),
                        );
                    }
                    Directive::Setting { .. } => {}
                }
            }
        }
        Ok(found)
    }

    /// The settings that name the old place, with their new values.
    fn settings(
        &self,
        source: &SourceConfiguration,
    ) -> Result<BTreeMap<&'static str, Setting>, MoveError> {
        let directory = self.place.directory;
        let path = |path: &Path| shown(path);
        let mut set = vec![
            ("data_directory", path(self.place.pgdata)),
            (
                "hba_file",
                path(&directory.join(self.file(&source.hba_file)?)),
            ),
            ("ident_file", path(&directory.join(&self.ident))),
        ];
        set.extend(self.place.port.map(|port| ("port", port.to_string())));
        for (_, value) in &set {
            conf::quote_value(value).map_err(|reason| MoveError::Path {
                path: value.clone(),
                reason,
            })?;
        }
        let set = set.into_iter().map(|(name, value)| {
            let setting = Setting {
                value,
                must: true,
                is_set: false,
            };
            (name, setting)
        });
        Ok(set.collect())
    }

    fn conf_text(
        &self,
        old: &Path,
        text: &[u8],
        set: &mut BTreeMap<&'static str, Setting>,
        remarks: &mut Vec<String>,
    ) -> Result<Vec<u8>, MoveError> {
        let mut failed = None;
        let mut line = |name: &str, value: &str| match conf::quote_value(value) {
            Ok(quoted) => Edit::Replace(format!("{name} = {quoted}")),
            Err(reason) => {
                failed = Some(MoveError::Path {
                    path: value.to_owned(),
                    reason,
                });
                Edit::Keep
            }
        };
        let text = conf::edit(text, |directive| {
            let (name, value) = match directive {
                Directive::Include(path) => ("include", path),
                Directive::IncludeIfExists(path) => ("include_if_exists", path),
                Directive::IncludeDir(path) => ("include_dir", path),
                Directive::Setting { name, value } => {
                    if let Some(setting) = set.get_mut(name.as_str()) {
                        setting.is_set = true;
                        return line(name, &setting.value);
                    }
                    return match self.renamed(name, value) {
                        Renamed::To(value) => line(name, &value),
                        Renamed::Gone => Edit::Remove,
                        Renamed::Same => {
                            remarks.extend(remark(name, value));
                            Edit::Keep
                        }
                    };
                }
            };
            match self.corrected(old, value) {
                Some(path) => line(name, &path),
                None => Edit::Keep,
            }
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(text),
        }
    }

    fn auth_text(&self, old: &Path, text: &[u8]) -> Vec<u8> {
        let mut new = Vec::with_capacity(text.len());
        let mut from = 0;
        for reference in hba::references(text) {
            if let Some(path) = self.corrected(old, &reference.path) {
                new.extend_from_slice(&text[from..reference.place.start]);
                new.extend_from_slice(hba::quoted(&path).as_bytes());
                from = reference.place.end;
            }
        }
        new.extend_from_slice(&text[from..]);
        new
    }

    /// The path by which a file finds another one in the new place, where the old words would miss it.
    fn corrected(&self, file: &Path, words: &str) -> Option<String> {
        let meant = beside(file, words);
        let (file, new) = (self.get(file)?, self.get(&meant)?);
        let directory = self.place.directory;
        let found = beside(&directory.join(file), words);
        let new = directory.join(new);
        (found != new).then(|| shown(&new))
    }

    /// What becomes of a value that is named after the cluster.
    fn renamed(&self, name: &str, value: &str) -> Renamed {
        if name == "cluster_name" {
            return match &self.names {
                Some((old, new)) if *value == old.with('/') => Renamed::To(new.with('/')),
                _ => Renamed::Same,
            };
        }
        if !NAMED_AFTER_CLUSTER.contains(&name) || value.is_empty() {
            return Renamed::Same;
        }
        match &self.names {
            Some((old, new)) if value.contains(&old.with('-')) => {
                Renamed::To(value.replace(&old.with('-'), &new.with('-')))
            }
            // It may be another cluster's on this host.
            _ => Renamed::Gone,
        }
    }
}

enum Renamed {
    To(String),
    Gone,
    Same,
}

/// What to say about a setting that names something of the source's host.
fn remark(name: &str, value: &str) -> Option<String> {
    (KEY_FILES.contains(&name) && value.starts_with('/')).then(|| {
        format!(
            "The source's configuration sets {name} to \"{value}\", which must exist on this host."
        )
    })
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn not_sent(path: &Path) -> MoveError {
    MoveError::NotSent(shown(path))
}

fn absolute(bytes: &[u8]) -> Result<PathBuf, MoveError> {
    let path = path_of(bytes);
    if path.is_absolute() && path.file_name().is_some() {
        Ok(normal(&path))
    } else {
        Err(MoveError::NotAbsolute(shown(&path)))
    }
}

/// What words in a file mean.
fn beside(file: &Path, words: &str) -> PathBuf {
    normal(&file.parent().unwrap_or(Path::new("/")).join(words))
}

/// The path without `.`, `..` and double slashes.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(files: &[(&str, &str)], directories: &[&str]) -> SourceConfiguration {
        let bytes = |text: &str| text.as_bytes().to_vec();
        SourceConfiguration {
            config_file: bytes("/etc/postgresql/15/main/postgresql.conf"),
            hba_file: bytes("/etc/postgresql/15/main/pg_hba.conf"),
            ident_file: bytes("/etc/postgresql/15/main/pg_ident.conf"),
            files: [
                (
                    "/etc/postgresql/15/main/pg_hba.conf",
                    "local all all peer\n",
                ),
                ("/etc/postgresql/15/main/pg_ident.conf", "# none\n"),
            ]
            .iter()
            .chain(files)
            .map(|(path, text)| (bytes(path), bytes(text)))
            .collect(),
            directories: directories.iter().map(|path| bytes(path)).collect(),
        }
    }

    fn in_new_place(source: &SourceConfiguration, port: Option<u16>) -> Moved {
        moved(
            source,
            &Place {
                directory: Path::new("/etc/postgresql/15/second"),
                pgdata: Path::new("/srv/it's"),
                port,
            },
        )
        .unwrap()
    }

    fn text(moved: &Moved, path: &str) -> String {
        String::from_utf8(moved.files[Path::new(path)].clone()).unwrap()
    }

    #[test]
    fn what_names_the_old_place_names_the_new_one() {
        let moved = in_new_place(
            &source(
                &[
                    (
                        "/etc/postgresql/15/main/postgresql.conf",
                        "# kept\ndata_directory = '/var/lib/postgresql/15/main' # old\n\
                     hba_file = '/etc/postgresql/15/main/pg_hba.conf'\n\
                     external_pid_file = '/var/run/postgresql/15-main.pid'\n\
                     port = 5432\nmax_connections = 77\ncluster_name = '15/main'\n\
                     ssl_key_file = '/etc/ssl/private/x.key'\ninclude_dir = 'conf.d'\n",
                    ),
                    ("/etc/postgresql/15/main/conf.d/a.conf", "port = 5433\n"),
                ],
                &["/etc/postgresql/15/main/conf.d"],
            ),
            Some(6000),
        );
        assert_eq!(
            text(&moved, "postgresql.conf"),
            "# kept\ndata_directory = '/srv/it''s'\n\
             hba_file = '/etc/postgresql/15/second/pg_hba.conf'\n\
             external_pid_file = '/var/run/postgresql/15-second.pid'\n\
             port = '6000'\nmax_connections = 77\ncluster_name = '15/second'\n\
             ssl_key_file = '/etc/ssl/private/x.key'\ninclude_dir = 'conf.d'\n\
             ident_file = '/etc/postgresql/15/second/pg_ident.conf'\n"
        );
        assert_eq!(text(&moved, "conf.d/a.conf"), "port = '6000'\n");
        assert_eq!(text(&moved, "pg_hba.conf"), "local all all peer\n");
        assert_eq!(
            moved.remarks,
            [
                "The source's configuration sets ssl_key_file to \"/etc/ssl/private/x.key\", which must exist \
              on this host."
            ]
        );
    }

    #[test]
    fn files_from_elsewhere_come_along_and_are_found() {
        let mut source = source(
            &[
                (
                    "/etc/postgresql/15/main/postgresql.conf",
                    "include '/etc/site/common.conf'\ninclude_if_exists 'none.conf'\n\
                     include '../all.conf'\ninclude_dir '/etc/site/d'\n",
                ),
                (
                    "/etc/site/common.conf",
                    "include 'more.conf'\nwork_mem = 5MB\n",
                ),
                ("/etc/site/more.conf", "external_pid_file = '/run/x.pid'\n"),
                ("/etc/postgresql/15/all.conf", ""),
                ("/etc/site/d/1.conf", "wal_level = logical\n"),
                (
                    "/srv/hba",
                    "include \"/etc/site/roles hba\"\nlocal @admins all md5\n",
                ),
                ("/etc/site/roles hba", ""),
                ("/srv/admins", "bob\n"),
            ],
            &["/etc/site/d"],
        );
        source.hba_file = b"/srv/hba".to_vec();
        let moved = in_new_place(&source, None);
        let names: Vec<_> = moved
            .files
            .keys()
            .map(|path| path.display().to_string())
            .collect();
        let common = text(&moved, "postgresql.conf");
        let place = "/etc/postgresql/15/second/included";
        assert!(
            common.starts_with(&format!("include = '{place}/")),
            "{common}"
        );
        assert!(
            common.contains("include_if_exists 'none.conf'\n"),
            "{common}"
        );
        assert!(
            common.contains(&format!("include_dir = '{place}/0-d'\n")),
            "{common}"
        );
        assert!(
            common.contains("hba_file = '/etc/postgresql/15/second/hba'\n"),
            "{common}"
        );
        assert!(
            names.contains(&"included/0-d/1.conf".to_owned()),
            "{names:?}"
        );
        let find = |end: &str| names.iter().find(|name| name.ends_with(end)).unwrap();
        let included = text(&moved, find("-common.conf"));
        assert!(
            included.starts_with(&format!("include = '{place}/")),
            "{included}"
        );
        assert_eq!(text(&moved, find("-more.conf")), "");
        let hba = text(&moved, "hba");
        assert!(hba.starts_with(&format!("include \"{place}/")), "{hba}");
        assert!(hba.contains(&format!("local @\"{place}/")), "{hba}");
    }

    #[test]
    fn no_file_leaves_the_new_directory() {
        for path in [
            "/etc/postgresql/15/main/../../../x/../y",
            "/a/../../b",
            "/x/..",
        ] {
            let mut source = source(
                &[(path, ""), ("/etc/postgresql/15/main/postgresql.conf", "")],
                &[],
            );
            source
                .files
                .push((b"/etc/postgresql/15/main/a/../b".to_vec(), Vec::new()));
            let place = Place {
                directory: Path::new("/d"),
                pgdata: Path::new("/p"),
                port: None,
            };
            if let Ok(moved) = moved(&source, &place) {
                for path in moved.files.keys() {
                    let is_plain = |part: Component| matches!(part, Component::Normal(_));
                    assert!(path.components().all(is_plain), "{path:?}");
                }
            }
        }
        let mut relative = source(&[("/etc/postgresql/15/main/postgresql.conf", "")], &[]);
        relative.files.push((b"etc/x".to_vec(), Vec::new()));
        let place = Place {
            directory: Path::new("/d"),
            pgdata: Path::new("/p"),
            port: None,
        };
        assert_eq!(
            moved(&relative, &place),
            Err(MoveError::NotAbsolute("etc/x".to_owned()))
        );
    }
}
