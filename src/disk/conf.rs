//! A server's configuration files as they lie on disk, read as the server reads them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::read::read_if_there;
use super::walk;
use crate::pg::conf::{self, Directive};

/// Longest configuration file that is read.
pub const CONF_FILE_MAX: u64 = 16 * 1024 * 1024;

/// How deep files may include each other (PostgreSQL `conffiles.h:CONF_FILE_MAX_DEPTH`).
const INCLUDE_DEPTH_MAX: usize = 10;

/// Most bytes of all files together.
const TOTAL_MAX: u64 = 64 * 1024 * 1024;

/// What a file weighs beside its bytes: some thousand files are as many as anybody has.
const FILE_WEIGHT: u64 = 4096;

/// What a main configuration file and its includes say.
#[derive(Debug, Clone, Default)]
pub struct Base {
    /// Names in lower case; the last line of each name wins.
    pub settings: BTreeMap<String, String>,
    /// The file whose line it is, for each of the settings.
    pub origins: BTreeMap<String, PathBuf>,
    /// What `data_directory` the server finds: only in this very spelling, and never in `postgresql.auto.conf`,
    /// which it looks for in that directory (PostgreSQL `guc.c:SelectConfigFiles`; tried with 13 to 18).
    pub data_directory: Option<String>,
    /// The files that were read, with their texts.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// The directories whose files are included.
    pub directories: Vec<PathBuf>,
    /// What a server would stumble over, in sentences.
    pub problems: Vec<String>,
}

/// The files that lie `depth` levels below a directory; none where it cannot be read.
pub fn files_at_depth(root: &Path, depth: usize) -> impl Iterator<Item = PathBuf> {
    let all = walkdir::WalkDir::new(root).follow_links(true);
    let those = all.min_depth(depth).max_depth(depth);
    those
        .into_iter()
        .flatten()
        .map(walkdir::DirEntry::into_path)
}

/// Reads a configuration file with its includes. What cannot be read is a problem to tell of, not a reason to
/// stop: the files belong to the administrator. But for includes without an end: there a server stops too.
#[must_use]
pub fn read(path: &Path, must_exist: bool) -> Base {
    let mut reading = Reading {
        base: Base::default(),
        room: TOTAL_MAX,
    };
    let _ = reading.file(path, must_exist, 0);
    reading.base
}

impl Base {
    /// Reads on with the text of `postgresql.auto.conf` at `path`, as the server does after all that
    /// `postgresql.conf` includes. Includes are followed there too.
    #[must_use]
    pub fn followed_by(mut self, path: &Path, text: &[u8]) -> Self {
        let data_directory = self.data_directory.take();
        let mut reading = Reading {
            base: self,
            room: TOTAL_MAX,
        };
        let _ = reading.text(path, text, 0);
        Self {
            data_directory,
            ..reading.base
        }
    }

    /// What the files set that the text of `postgresql.auto.conf` at `path` includes, without its own lines.
    #[must_use]
    pub fn included_by(path: &Path, text: &[u8]) -> Self {
        let only = conf::edit(text, |directive| match directive {
            Directive::Setting { .. } => conf::Edit::Remove,
            _ => conf::Edit::Keep,
        });
        let mut found = Self::default().followed_by(path, &only);
        found.files.remove(path);
        found
    }
}

/// Breaks off where a server would, or where there is more than anybody means.
struct Reading {
    base: Base,
    /// Bytes that may still be read; each file and directory takes some of it even if it is empty.
    room: u64,
}

impl Reading {
    fn problem(&mut self, problem: String) {
        self.base.problems.push(problem);
    }

    fn file(&mut self, path: &Path, must_exist: bool, depth: usize) -> ControlFlow<()> {
        let shown = path.display();
        if depth > INCLUDE_DEPTH_MAX {
            self.problem(format!(
                "Configuration file \"{shown}\" is included too deep."
            ));
            return ControlFlow::Break(());
        }
        let read = read_if_there(path, CONF_FILE_MAX);
        match &read {
            Ok(None) if must_exist => {
                self.problem(format!("Configuration file \"{shown}\" does not exist."));
            }
            Ok(_) => {}
            Err(error) => self.problem(format!(
                "Configuration file \"{shown}\" cannot be read: {}.",
                error.source
            )),
        }
        let text = read.ok().flatten();
        self.weigh(path, text.as_ref().map_or(0, Vec::len))?;
        let Some(text) = text else {
            return ControlFlow::Continue(());
        };
        self.text(path, &text, depth)
    }

    fn text(&mut self, path: &Path, text: &[u8], depth: usize) -> ControlFlow<()> {
        let shown = path.display();
        let parsed = conf::parse(text);
        self.base.files.insert(path.to_owned(), text.to_owned());
        let lines = parsed.unwrap_or_else(|error| {
            self.problem(format!(
                "A server would not start with \"{shown}\": {error}."
            ));
            Vec::new()
        });
        let beside = |name: &str| path.parent().unwrap_or(Path::new("/")).join(name);
        for line in lines {
            match line.directive {
                Directive::Setting { name, value } => {
                    if name == "data_directory" && line.is_lower_case {
                        self.base.data_directory = Some(value.clone());
                    }
                    self.base.origins.insert(name.clone(), path.to_owned());
                    self.base.settings.insert(name, value);
                }
                Directive::Include(name) => self.file(&beside(&name), true, depth + 1)?,
                Directive::IncludeIfExists(name) => self.file(&beside(&name), false, depth + 1)?,
                Directive::IncludeDir(name) => self.directory(&beside(&name), depth + 1)?,
            }
        }
        ControlFlow::Continue(())
    }

    fn weigh(&mut self, path: &Path, bytes: usize) -> ControlFlow<()> {
        match self.room.checked_sub(FILE_WEIGHT + bytes as u64) {
            Some(room) => {
                self.room = room;
                ControlFlow::Continue(())
            }
            None => {
                let shown = path.display();
                self.problem(format!("\"{shown}\" is one of too many that are included."));
                ControlFlow::Break(())
            }
        }
    }

    fn directory(&mut self, directory: &Path, depth: usize) -> ControlFlow<()> {
        self.weigh(directory, 0)?;
        self.base.directories.push(directory.to_owned());
        match included(directory) {
            Ok(files) => {
                for file in files {
                    self.file(&file, true, depth)?;
                }
            }
            Err(error) => {
                let shown = directory.display();
                self.problem(format!(
                    "Directory \"{shown}\" cannot be listed: {}.",
                    error.source
                ));
            }
        }
        ControlFlow::Continue(())
    }
}

/// The files of a directory that `include_dir` reads, by name (PostgreSQL `conffiles.c:GetConfFilesInDir`).
///
/// # Errors
/// The system's error.
pub fn included(directory: &Path) -> Result<Vec<PathBuf>, super::DiskError> {
    let mut files = Vec::new();
    for found in walk::list(directory)? {
        let is_conf = found.name.ends_with(b".conf") && !found.name.starts_with(b".");
        if is_conf && found.kind != walk::Kind::Directory {
            files.push(directory.join(found.file_name()));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_read_where_they_stand_and_the_last_line_wins() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("conf.d")).unwrap();
        std::fs::write(
            at("postgresql.conf"),
            "port = 1\ninclude 'more.conf'\ninclude_dir 'conf.d'\ninclude_if_exists 'none.conf'\n",
        )
        .unwrap();
        std::fs::write(at("more.conf"), "port = 2\n").unwrap();
        std::fs::write(at("conf.d/b.conf"), "port = 4\n").unwrap();
        std::fs::write(at("conf.d/a.conf"), "port = 3\n").unwrap();
        std::fs::write(at("conf.d/.c.conf"), "port = 5\n").unwrap();
        let base = read(&at("postgresql.conf"), true);
        assert_eq!(base.problems, Vec::<String>::new());
        assert_eq!(base.settings["port"], "4");
        let files: Vec<_> = base.files.keys().cloned().collect();
        let wanted = [
            "conf.d/a.conf",
            "conf.d/b.conf",
            "more.conf",
            "postgresql.conf",
        ];
        assert_eq!(files, wanted.map(at));
        assert_eq!(base.directories, [at("conf.d")]);
    }

    #[test]
    fn the_data_directory_is_found_where_and_as_the_server_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(
            at("postgresql.conf"),
            "data_directory = '/a'\ninclude 'more.conf'\nData_Directory = '/c'\n",
        )
        .unwrap();
        std::fs::write(at("more.conf"), "data_directory = '/b'\n").unwrap();
        std::fs::write(
            at("auto"),
            "recovery_target_name = 'x'\ndata_directory = '/d'\n",
        )
        .unwrap();
        let auto = at("postgresql.auto.conf");
        let text = b"port = 1\ninclude 'auto'\n";
        let base = read(&at("postgresql.conf"), true).followed_by(&auto, text);
        assert_eq!(base.data_directory.as_deref(), Some("/b"));
        assert_eq!(base.settings["recovery_target_name"], "x");
        assert_eq!(base.settings["port"], "1");
        assert_eq!(base.origins["recovery_target_name"], at("auto"));
        let included = Base::included_by(&auto, text);
        assert_eq!(included.settings.get("port"), None);
        assert_eq!(included.settings["recovery_target_name"], "x");
    }

    #[test]
    fn a_loop_of_includes_and_a_missing_file_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postgresql.conf");
        std::fs::write(&path, "include 'none.conf'\ninclude 'postgresql.conf'\n").unwrap();
        let base = read(&path, true);
        for words in ["too deep", "does not exist"] {
            assert!(base.problems.iter().any(|text| text.contains(words)));
        }
        assert_eq!(read(&dir.path().join("none"), false).problems, [""; 0]);
    }

    /// As somebody may write them who wants the reader never to end.
    #[test]
    fn includes_by_the_million_come_to_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postgresql.conf");
        std::fs::write(&path, "include 'postgresql.conf'\n".repeat(100)).unwrap();
        assert_eq!(read(&path, true).problems.len(), 1);
        // Never too deep, and a hundred times as many with each level.
        for level in 0..9 {
            let text = format!("include '{}'\n", level + 1).repeat(100);
            std::fs::write(dir.path().join(level.to_string()), text).unwrap();
        }
        std::fs::write(dir.path().join("9"), "port = 1\n").unwrap();
        let base = read(&dir.path().join("0"), true);
        assert_eq!(base.problems.len(), 1, "{:?}", base.problems);
        assert!(base.problems[0].contains("too many"));
        std::fs::write(&path, "include_dir 'none'\n".repeat(100_000)).unwrap();
        assert!(read(&path, true).directories.len() < 100_000);
    }

    #[test]
    fn what_is_no_regular_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postgresql.conf");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), mode).unwrap();
        std::fs::write(&path, "include 'pipe'\ninclude '/dev/zero'\nport = 2\n").unwrap();
        let base = read(&path, true);
        assert_eq!(base.problems.len(), 2, "{:?}", base.problems);
        assert_eq!(base.settings["port"], "2");
    }
}
