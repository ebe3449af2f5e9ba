//! Clusters as Debian's postgresql-common records them: a directory with the configuration for each, named after
//! version and name (`pg_lsclusters(1)`, `PgCommon.pm`).

use std::path::{Path, PathBuf};

use crate::client::look::conf;
use crate::disk::conf as disk_conf;
use crate::disk::facts as disk;
use crate::pg::cluster_name::ClusterName;
use crate::plan::configuration::MAIN_FILE;

/// Where postgresql-common keeps the configuration, unless `PG_CLUSTER_CONF_ROOT` says otherwise.
const CONF_ROOT: &str = "/etc/postgresql";

/// Where Debian installs the programs of a major version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// A cluster as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub pgdata: PathBuf,
    pub config_file: PathBuf,
    /// `None` when the version's programs are not where Debian installs them.
    pub bindir: Option<PathBuf>,
}

/// Finds a cluster below `conf_root`, or where Debian has it.
///
/// # Errors
/// What is missing, in words.
pub fn find(name: &ClusterName, conf_root: Option<&Path>) -> Result<Recorded, String> {
    let root = conf_root.unwrap_or(Path::new(CONF_ROOT));
    let directory = root.join(&name.version).join(&name.name);
    let config_file = directory.join("postgresql.conf");
    if !config_file.is_file() {
        return Err(format!(
            "there is no cluster {name}: \"{}\" does not exist",
            config_file.display()
        ));
    }
    let base = conf::base(&directory, Some(&config_file));
    let pgdata = base
        .data_directory
        .filter(|path| Path::new(path).is_absolute())
        .ok_or_else(|| {
            format!(
                "\"{}\" does not say where the data directory of cluster {name} is",
                config_file.display()
            )
        })?;
    let bindir = Path::new(PROGRAMS).join(&name.version).join("bin");
    Ok(Recorded {
        pgdata: PathBuf::from(pgdata),
        config_file,
        bindir: bindir.is_dir().then_some(bindir),
    })
}

/// Finds the one cluster whose data directory this is. `None` where there is none or are several, and for a directory
/// that has a `postgresql.conf` of its own: then it is not the recorded one that counts.
#[must_use]
pub fn find_by_directory(pgdata: &Path, conf_root: Option<&Path>) -> Option<ClusterName> {
    if pgdata.join(MAIN_FILE).exists() {
        return None;
    }
    let wanted = disk::resolved_beginning(pgdata);
    let is_its = |name: &ClusterName| {
        find(name, conf_root)
            .is_ok_and(|cluster| disk::resolved_beginning(&cluster.pgdata) == wanted)
    };
    let found: Vec<_> = disk_conf::files_at_depth(conf_root.unwrap_or(Path::new(CONF_ROOT)), 3)
        .filter(|path| path.file_name() == Some(MAIN_FILE.as_ref()))
        .filter_map(|path| ClusterName::of_directory(path.parent()?))
        .filter(is_its)
        .collect();
    match <[ClusterName; 1]>::try_from(found) {
        Ok([name]) => Some(name),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_the_one_cluster_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("etc");
        let pgdata = dir.path().join("data");
        let record = |name: &str, pgdata: &Path| {
            let directory = root.join(name);
            std::fs::create_dir_all(&directory).unwrap();
            let text = format!("data_directory = '{}'\n", pgdata.display());
            std::fs::write(directory.join("postgresql.conf"), text).unwrap();
        };
        let found = || find_by_directory(&pgdata, Some(&root)).map(|name| name.to_string());
        assert_eq!(found(), None, "there is no record at all");
        record("15/other", &dir.path().join("other"));
        record("15/main", &pgdata);
        // One that is still to be made counts too.
        assert_eq!(found().as_deref(), Some("15/main"));
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", &pgdata).unwrap();
        let real = find_by_directory(&dir.path().join("real"), Some(&root));
        assert!(real.is_some(), "by another path");
        std::fs::write(pgdata.join("postgresql.conf"), "").unwrap();
        assert_eq!(found(), None, "it has a configuration of its own");
        std::fs::remove_file(pgdata.join("postgresql.conf")).unwrap();
        record("16/main", &pgdata);
        assert_eq!(found(), None, "two claim it");
    }

    #[test]
    fn the_data_directory_may_be_set_by_an_included_file() {
        let dir = tempfile::tempdir().unwrap();
        let name: ClusterName = "15/main".parse().unwrap();
        let missing = find(&name, Some(dir.path())).unwrap_err();
        assert!(
            missing.starts_with("there is no cluster 15/main"),
            "{missing}"
        );
        let directory = dir.path().join("15/main");
        std::fs::create_dir_all(directory.join("conf.d")).unwrap();
        let conf = directory.join("postgresql.conf");
        std::fs::write(&conf, "port = 5432\ninclude_dir 'conf.d'\n").unwrap();
        assert!(
            find(&name, Some(dir.path()))
                .unwrap_err()
                .contains("does not say")
        );
        std::fs::write(
            directory.join("conf.d/a.conf"),
            "data_directory = '/srv/x'\n",
        )
        .unwrap();
        let found = find(&name, Some(dir.path())).unwrap();
        assert_eq!(found.pgdata, Path::new("/srv/x"));
        assert_eq!(found.config_file, conf);
    }
}
