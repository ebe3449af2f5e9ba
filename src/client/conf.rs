//! The target's configuration files as they lie on disk, read as its server would read them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::disk::DiskError;
use crate::disk::read::read_if_there;
use crate::disk::walk;
use crate::path::RelPath;
use crate::pg::conf::{self, Directive};
use crate::plan::standby;

/// What `ALTER SYSTEM` writes, always in the data directory.
const AUTO_CONF: &str = "postgresql.auto.conf";

/// Longest configuration file that is read.
const CONF_FILE_MAX: u64 = 16 * 1024 * 1024;

/// How deep files may include each other (PostgreSQL `conffiles.h:CONF_FILE_MAX_DEPTH`).
const INCLUDE_DEPTH_MAX: usize = 10;

/// Settings that name files of the host: they stay where they lie in the data directory.
const HOST_FILES: [&str; 9] = [
    "hba_file",
    "ident_file",
    "ssl_ca_file",
    "ssl_cert_file",
    "ssl_crl_dir",
    "ssl_crl_file",
    "ssl_dh_params_file",
    "ssl_key_file",
    "krb_server_keyfile",
];

/// What the server logs to unless it is told otherwise.
const LOG_DIRECTORY: &str = "log";

/// The target's own `postgresql.auto.conf`, without the lock of an unfinished rebuild; empty when there is
/// none.
///
/// # Errors
/// The system's error.
pub(super) fn auto_conf(pgdata: &Path) -> Result<Vec<u8>, DiskError> {
    let path = pgdata.join(AUTO_CONF);
    let text = read_if_there(&path, CONF_FILE_MAX)?.unwrap_or_default();
    Ok(standby::opened(&text))
}

/// Whether the target is locked by an unfinished rebuild.
pub(super) fn is_closed(pgdata: &Path) -> bool {
    let text = read_if_there(&pgdata.join(AUTO_CONF), CONF_FILE_MAX);
    // What cannot be read locks a server out just as well.
    text.map_or(true, |text| standby::is_closed(&text.unwrap_or_default()))
}

/// What `postgresql.conf` and its includes say.
#[derive(Debug, Default)]
pub(super) struct Base {
    /// Names in lower case; the last line of each name wins.
    pub settings: BTreeMap<String, String>,
    /// The files that were read, and the directories that were listed.
    pub files: Vec<PathBuf>,
    /// What a server would stumble over, in sentences.
    pub problems: Vec<String>,
}

/// Reads `postgresql.conf`, in the data directory or where `config_file` says, with its includes. What cannot
/// be read is a problem to tell of, not a reason to stop: the files belong to the administrator.
pub(super) fn base(pgdata: &Path, config_file: Option<&Path>) -> Base {
    let mut base = Base::default();
    let path = match config_file {
        Some(path) => pgdata.join(path),
        None => pgdata.join("postgresql.conf"),
    };
    read_into(&mut base, &path, config_file.is_some(), 0);
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
    base.files.push(path.to_owned());
    let lines = match conf::parse(&text) {
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
    base.files.push(directory.to_owned());
    match walk::list(directory) {
        Ok(listed) => {
            for found in listed {
                let name = &found.name;
                let is_conf = name.ends_with(b".conf") && !name.starts_with(b".");
                if is_conf && found.kind != walk::Kind::Directory {
                    read_into(base, &directory.join(found.file_name()), true, depth);
                }
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

/// The files and directories in the data directory that belong to its host by what its configuration says:
/// included files, files that settings name, the log directory.
pub(super) fn host_files(pgdata: &Path, base: &Base) -> Vec<RelPath> {
    let auto = auto_conf(pgdata).ok();
    let auto = auto.and_then(|text| conf::parse(&text).ok());
    let auto = conf::effective(&auto.unwrap_or_default());
    let setting = |name: &str| auto.get(name).or_else(|| base.settings.get(name));
    let named = HOST_FILES.iter().filter_map(|name| setting(name));
    let log = setting("log_directory").map_or(LOG_DIRECTORY, String::as_str);
    let real = std::path::absolute(pgdata).unwrap_or_else(|_| pgdata.to_owned());
    named
        .map(Path::new)
        .chain([Path::new(log)])
        .chain(base.files.iter().map(PathBuf::as_path))
        .filter_map(|path| {
            let whole = real.join(path);
            let inside = whole.strip_prefix(&real).ok()?;
            RelPath::parse(std::os::unix::ffi::OsStrExt::as_bytes(inside.as_os_str())).ok()
        })
        .collect()
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
            "port = 1\ninclude 'more.conf'\ninclude_dir 'conf.d'\nlog_directory = 'logs'\n\
             include_if_exists 'none.conf'\n",
        )
        .unwrap();
        std::fs::write(at("more.conf"), "port = 2\nssl_key_file = 'keys/my.key'\n").unwrap();
        std::fs::write(at("conf.d/b.conf"), "port = 4\n").unwrap();
        std::fs::write(at("conf.d/a.conf"), "port = 3\n").unwrap();
        std::fs::write(at("conf.d/.c.conf"), "port = 5\n").unwrap();
        let base = base(dir.path(), None);
        assert_eq!(base.problems, Vec::<String>::new());
        assert_eq!(base.settings["port"], "4");
        let files: Vec<String> = host_files(dir.path(), &base)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            files,
            [
                "keys/my.key",
                "logs",
                "postgresql.conf",
                "more.conf",
                "conf.d",
                "conf.d/a.conf",
                "conf.d/b.conf"
            ]
        );
    }

    #[test]
    fn a_loop_of_includes_and_a_missing_file_are_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("postgresql.conf"),
            "include 'postgresql.conf'\ninclude 'none.conf'\n",
        )
        .unwrap();
        let base = base(dir.path(), None);
        assert!(base.problems.iter().any(|text| text.contains("too deep")));
        assert!(
            base.problems
                .iter()
                .any(|text| text.contains("does not exist"))
        );
    }
}
