//! The target's configuration files as they lie on disk.

use std::path::{Path, PathBuf};

use crate::disk::DiskError;
use crate::disk::conf::{self as disk_conf, Base, CONF_FILE_MAX};
use crate::disk::facts as disk;
use crate::disk::read::read_unless_null;
use crate::path::RelPath;
use crate::pg::conf;
use crate::pg::conninfo::Conninfo;
use crate::pg::layout;
use crate::plan::standby;

/// What `ALTER SYSTEM` writes, always in the data directory.
pub const AUTO_CONF: &str = "postgresql.auto.conf";

/// What the server logs to unless it is told otherwise.
const LOG_DIRECTORY: &str = "log";

/// Settings that name files or directories of the host, beside keys and the log directory. `stats_temp_directory`
/// ended with version 14.
const NAMING: [&str; 4] = [
    "external_pid_file",
    "hba_file",
    "ident_file",
    "stats_temp_directory",
];

/// Keywords of a connection string that name files.
const LOGIN_FILES: [&str; 6] = [
    "passfile",
    "sslcert",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslrootcert",
];

/// The target's own `postgresql.auto.conf`, without the lock of an unfinished rebuild; empty when there is
/// none.
///
/// # Errors
/// The system's error.
pub fn auto_conf(pgdata: &Path) -> Result<Vec<u8>, DiskError> {
    let path = pgdata.join(AUTO_CONF);
    let text = read_unless_null(&path, CONF_FILE_MAX)?.unwrap_or_default();
    Ok(standby::opened(&text))
}

/// Where `postgresql.auto.conf` leads, if it is a link. It becomes a file: a server replaces a link too when it
/// writes there (PostgreSQL `guc.c:AlterSystemSetConfigFile`).
pub fn auto_conf_link(pgdata: &Path) -> Option<PathBuf> {
    disk::link(&pgdata.join(AUTO_CONF))
}

/// Whether the target is locked by an unfinished rebuild.
pub fn is_closed(pgdata: &Path) -> bool {
    let text = read_unless_null(&pgdata.join(AUTO_CONF), CONF_FILE_MAX);
    // What cannot be read locks a server out just as well.
    text.map_or(true, |text| standby::is_closed(&text.unwrap_or_default()))
}

/// Reads `postgresql.conf`, in the data directory or where `config_file` says, with its includes.
pub fn base(pgdata: &Path, config_file: Option<&Path>) -> Base {
    match config_file {
        Some(path) => disk_conf::read(&pgdata.join(path), true),
        None => disk_conf::read(&pgdata.join("postgresql.conf"), false),
    }
}

/// The entries at the top of the data directory that belong to its host by what its configuration says, or in which
/// something lies that does: included files, files that settings name or that a login needs, the log directory.
pub fn host_files(pgdata: &Path, base: &Base, primary: Option<&Conninfo>) -> Vec<RelPath> {
    let auto = pgdata.join(AUTO_CONF);
    let text = auto_conf(pgdata).unwrap_or_default();
    let mut base = base.clone().followed_by(&auto, &text);
    base.files.remove(&auto);
    let setting = |name: &str| base.settings.get(name);
    let named = NAMING.iter().chain(&conf::KEY_FILES);
    let named = named.filter_map(|name| setting(name));
    let log = setting("log_directory").map_or(LOG_DIRECTORY, String::as_str);
    // What the standby has used to log in, and will use.
    let own = setting("primary_conninfo").and_then(|text| Conninfo::parse(text).ok());
    let logins = own.iter().chain(primary);
    let logins = logins.flat_map(|login| LOGIN_FILES.iter().filter_map(|name| login.get(name)));
    let logins: Vec<PathBuf> = logins.map(PathBuf::from).collect();
    let real = std::path::absolute(pgdata).unwrap_or_else(|_| pgdata.to_owned());
    let resolved = disk::resolved(pgdata);
    named
        .map(Path::new)
        .chain([Path::new(log)])
        .chain(base.files.keys().map(PathBuf::as_path))
        .chain(base.directories.iter().map(PathBuf::as_path))
        .chain(logins.iter().map(PathBuf::as_path))
        .filter_map(|path| {
            layout::named_entry(&real, path).or_else(|| layout::named_entry(&resolved, path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_configuration_names_belongs_to_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("conf.d")).unwrap();
        std::fs::write(
            at("postgresql.conf"),
            "include 'more.conf'\ninclude_dir 'conf.d'\nlog_directory = 'logs'\n",
        )
        .unwrap();
        std::fs::write(at("more.conf"), "ssl_key_file = 'keys/my.key'\n").unwrap();
        std::fs::write(at("conf.d/a.conf"), "").unwrap();
        // Includes are followed there too.
        std::fs::create_dir(at("auto.d")).unwrap();
        std::fs::write(at(AUTO_CONF), "include 'auto.d/own'\n").unwrap();
        std::fs::write(at("auto.d/own"), "hba_file = 'rules/hba'\n").unwrap();
        let base = base(dir.path(), None);
        assert_eq!(base.problems, Vec::<String>::new());
        let primary =
            Conninfo::parse("host=b sslkey=login/own.key sslrootcert=/etc/ca.pem").unwrap();
        let files: Vec<String> = host_files(dir.path(), &base, Some(&primary))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            files,
            [
                "rules",
                "keys",
                "logs",
                "auto.d",
                "conf.d",
                "more.conf",
                "postgresql.conf",
                "conf.d",
                "login",
            ]
        );
    }
}
