//! A temporary folder and the clusters that are made in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use tempfile::TempDir;

use super::server::Cluster;
use super::tools::{done, tool};

/// A temporary folder for the clusters of one test. Socket paths are short, so it is near the root.
pub struct Scene {
    folder: Arc<Folder>,
    template: Arc<Folder>,
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
            template: template(),
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

    /// A cluster, ready to start: a copy of the template, so of the same lineage as its siblings.
    pub fn cluster(&self, name: &str) -> Cluster {
        let cluster = self.vacant(name);
        done(
            Command::new("cp")
                .arg("-a")
                .arg(self.template.path().join("data"))
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
        let cluster = self.vacant(name);
        done(
            Command::new("cp")
                .arg("-a")
                .arg(original.pgdata())
                .arg(cluster.pgdata()),
        );
        cluster.settle();
        cluster
    }

    /// A running standby of `primary`, made by `pg_basebackup`; `options` for more of its options.
    pub fn standby(&self, name: &str, primary: &Cluster, options: &[&str]) -> Cluster {
        let mut standby = self.vacant(name);
        primary.basebackup(
            standby.pgdata(),
            &[&["--write-recovery-conf"], options].concat(),
        );
        // The client may be of a later major, and writes what an earlier walreceiver does not understand.
        let conf = standby.read("postgresql.auto.conf");
        let others = conf
            .lines()
            .filter(|line| !line.starts_with("primary_conninfo"))
            .map(|line| format!("{line}\n"))
            .collect::<String>();
        let own = format!("primary_conninfo = '{}'\n", primary.conninfo());
        standby.write("postgresql.auto.conf", others + &own);
        standby.settle();
        standby.start();
        standby
    }
}

/// The data directory that clusters are copied from: one initdb as long as any test holds it.
fn template() -> Arc<Folder> {
    static TEMPLATE: Mutex<Weak<Folder>> = Mutex::new(Weak::new());
    let mut slot = TEMPLATE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(folder) = slot.upgrade() {
        return folder;
    }
    let folder = Arc::new(Folder::new());
    initdb(&folder.path().join("data"), &["--data-checksums"]);
    *slot = Arc::downgrade(&folder);
    folder
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
