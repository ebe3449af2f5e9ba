//! A server's configuration files as they lie on disk, read as the server reads them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::read::read_if_there;
use super::walk;
use crate::pg::conf::{self, Directive};

/// Longest configuration file that is read.
pub const CONF_FILE_MAX: u64 = 16 * 1024 * 1024;

/// How deep files may include each other (PostgreSQL `conffiles.h:CONF_FILE_MAX_DEPTH`).
const INCLUDE_DEPTH_MAX: usize = 10;

/// What a main configuration file and its includes say.
#[derive(Debug, Default)]
pub struct Base {
    /// Names in lower case; the last line of each name wins.
    pub settings: BTreeMap<String, String>,
    /// The files that were read, with their texts.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// The directories whose files are included.
    pub directories: Vec<PathBuf>,
    /// What a server would stumble over, in sentences.
    pub problems: Vec<String>,
}

/// Reads a configuration file with its includes. What cannot be read is a problem to tell of, not a reason to
/// stop: the files belong to the administrator.
#[must_use]
pub fn read(path: &Path, must_exist: bool) -> Base {
    let mut base = Base::default();
    read_into(&mut base, path, must_exist, 0);
    base
}

fn read_into(base: &mut Base, path: &Path, must_exist: bool, depth: usize) {
    let shown = path.display();
    if depth > INCLUDE_DEPTH_MAX {
        let problem = format!("Configuration file \"{shown}\" is included too deep.");
        base.problems.push(problem);
        return;
    }
    let text = match read_if_there(path, CONF_FILE_MAX) {
        Ok(Some(text)) => text,
        Ok(None) if !must_exist => return,
        Ok(None) => {
            base.problems
                .push(format!("Configuration file \"{shown}\" does not exist."));
            return;
        }
        Err(error) => {
            let problem = format!(
                "Configuration file \"{shown}\" cannot be read: {}.",
                error.source
            );
            base.problems.push(problem);
            return;
        }
    };
    let parsed = conf::parse(&text);
    base.files.insert(path.to_owned(), text);
    let lines = match parsed {
        Ok(lines) => lines,
        Err(error) => {
            base.problems.push(format!(
                "A server would not start with \"{shown}\": {error}."
            ));
            return;
        }
    };
    let beside = |name: &str| path.parent().unwrap_or(Path::new("/")).join(name);
    for line in lines {
        match line.directive {
            Directive::Setting { name, value } => {
                base.settings.insert(name, value);
            }
            Directive::Include(name) => read_into(base, &beside(&name), true, depth + 1),
            Directive::IncludeIfExists(name) => read_into(base, &beside(&name), false, depth + 1),
            Directive::IncludeDir(name) => read_directory(base, &beside(&name), depth + 1),
        }
    }
}

fn read_directory(base: &mut Base, directory: &Path, depth: usize) {
    base.directories.push(directory.to_owned());
    match included(directory) {
        Ok(files) => {
            for file in files {
                read_into(base, &file, true, depth);
            }
        }
        Err(error) => {
            let shown = directory.display();
            base.problems.push(format!(
                "Directory \"{shown}\" cannot be listed: {}.",
                error.source
            ));
        }
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
    fn a_loop_of_includes_and_a_missing_file_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postgresql.conf");
        std::fs::write(&path, "include 'postgresql.conf'\ninclude 'none.conf'\n").unwrap();
        let base = read(&path, true);
        for words in ["too deep", "does not exist"] {
            assert!(base.problems.iter().any(|text| text.contains(words)));
        }
        assert_eq!(read(&dir.path().join("none"), false).problems, [""; 0]);
    }
}
