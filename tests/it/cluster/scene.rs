//! A temporary folder and the clusters that are made in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use tempfile::TempDir;

use super::server::Cluster;
use super::template::lasting_folder;
use super::tools::{done, tool};

/// A temporary folder for the clusters of one test. Socket paths are short, so it is near the root.
pub struct Scene {
    folder: Arc<Folder>,
}

pub struct Folder(Option<TempDir>);

impl Folder {
    fn new() -> Self {
        Self(Some(
            tempfile::Builder::new()
                .prefix("rs")
                .rand_bytes(5)
                .tempdir()
                .unwrap(),
        ))
    }

    fn path(&self) -> &Path {
        self.0.as_ref().unwrap().path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::env::var_os("PG_RESEED_TEST_KEEP").is_some() {
            let path = self.0.take().unwrap().keep();
            eprintln!("kept: {}", path.display());
        }
    }
}

impl Scene {
    pub fn new() -> Self {
        assert!(
            !rustix::process::geteuid().is_root(),
            "PostgreSQL refuses to run as root: use `make test`, whose runner gives root up"
        );
        Self {
            folder: Arc::new(Folder::new()),
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A new folder in the scene.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// A cluster, ready to start: a copy of the one initdb, so of the same lineage as its siblings.
    pub fn cluster(&self, name: &str) -> Cluster {
        static MADE: OnceLock<PathBuf> = OnceLock::new();
        let made = MADE.get_or_init(|| {
            let pgdata = lasting_folder().join("data");
            initdb(&pgdata, &["--data-checksums"]);
            pgdata
        });
        self.cluster_like(name, made)
    }

    /// A cluster, ready to start, with a copy of this data directory.
    pub fn cluster_like(&self, name: &str, pgdata: &Path) -> Cluster {
        let cluster = self.vacant(name);
        done(
            Command::new("cp")
                .arg("-a")
                .arg(pgdata)
                .arg(cluster.pgdata()),
        );
        cluster.settle();
        cluster
    }

    /// A cluster of an initdb of its own: another system identifier.
    pub fn foreign_cluster(&self, name: &str, initdb_options: &[&str]) -> Cluster {
        let cluster = self.vacant(name);
        initdb(cluster.pgdata(), initdb_options);
        cluster.settle();
        cluster
    }

    /// The place for a cluster: a socket folder, a log, and no data directory yet.
    pub fn vacant(&self, name: &str) -> Cluster {
        Cluster::vacant(name, self.folder(name), Arc::clone(&self.folder))
    }

    /// A copy of a stopped cluster's data directory: a twin on the same timeline.
    pub fn copy(&self, name: &str, original: &Cluster) -> Cluster {
        assert!(original.postmaster().is_none(), "the original runs");
        self.cluster_like(name, original.pgdata())
    }

    /// A running standby of `primary`, made by `pg_basebackup`; `options` for more of its options.
    pub fn standby(&self, name: &str, primary: &Cluster, options: &[&str]) -> Cluster {
        let mut standby = self.vacant(name);
        primary.basebackup(
            standby.pgdata(),
            &[&["--write-recovery-conf"], options].concat(),
        );
        standby.follow(primary);
        standby.settle();
        standby.start();
        standby
    }
}

fn initdb(pgdata: &Path, options: &[&str]) {
    done(
        tool("initdb")
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ])
            .args(options)
            .arg(pgdata),
    );
}
