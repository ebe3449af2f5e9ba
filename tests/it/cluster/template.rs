//! What many tests begin with, made once by the process and copied by each of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::pair::Pair;
use super::scene::Scene;
use super::server::Stop;

/// A pair whose making takes several servers' starts and stops, a base backup and a promotion: made once, and each
/// test has a copy of its own.
pub struct Template(OnceLock<PathBuf>);

impl Template {
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// A copy of the pair that `make` makes, in `scene`: "old" is stopped, "new" runs.
    pub fn copy(&self, scene: &Scene, make: impl FnOnce(&Scene) -> Pair) -> Pair {
        let place = self.0.get_or_init(|| {
            let scene = Scene::new();
            let mut pair = make(&scene);
            let place = lasting_folder();
            for cluster in [&mut pair.old, &mut pair.new] {
                if cluster.postmaster().is_some() {
                    cluster.stop(Stop::Fast);
                }
                fs::rename(cluster.pgdata(), place.join(cluster.name())).unwrap();
            }
            place
        });
        let old = scene.cluster_like("old", &place.join("old"));
        let mut new = scene.cluster_like("new", &place.join("new"));
        // What it has been told as a standby names the folder in which the template was made.
        new.follow(&old);
        new.start();
        Pair { old, new }
    }
}

/// A new folder that goes when this process has ended, however it ends: what is static is never dropped.
pub fn lasting_folder() -> PathBuf {
    static ALL: OnceLock<(PathBuf, Option<Child>)> = OnceLock::new();
    let (all, _) = ALL.get_or_init(|| {
        let folder = tempfile::Builder::new().prefix("rs").tempdir().unwrap();
        let folder = folder.keep();
        let is_kept = std::env::var_os("PG_RESEED_TEST_KEEP").is_some();
        let janitor = (!is_kept).then(|| janitor(&folder));
        (folder, janitor)
    });
    let folder = tempfile::Builder::new().tempdir_in(all).unwrap();
    folder.keep()
}

/// A process that removes `folder` when the pipe that this process alone holds is closed.
fn janitor(folder: &Path) -> Child {
    Command::new("sh")
        .args([
            "-c",
            "trap '' HUP INT TERM; read nothing; rm -rf \"$0\" 2> /dev/null",
        ])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
