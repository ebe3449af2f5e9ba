//! Target and source must not be one: by the identities of directories on one kernel, by paths on one
//! host, by postmaster.pid where neither tells.

use super::situation::Situation;
use super::target::cluster;
use crate::facts::{Condition, FileIdentity, HostIdentity, SourceFacts, TargetFacts};
use crate::plan::refusal::Refusal;
use crate::plan::tablespaces::{canonical, is_inside};
use crate::plan::words::text;

/// Whether target and source share a directory.
pub(super) fn judge(situation: &Situation) -> Vec<Refusal> {
    let Situation {
        target,
        source,
        places,
        ..
    } = situation;
    let mut refusals = Vec::new();
    if target.host.is_same_kernel(&source.host) {
        let theirs = directories_of_source(source);
        for (target_role, here) in directories_of_target(target) {
            if let Some((source_role, path, _)) = theirs.iter().find(|(_, _, there)| *there == here)
            {
                refusals.push(Refusal::SameDirectory {
                    target_role,
                    source_role: source_role.clone(),
                    source_path: text(path),
                });
                if here == source.identity {
                    // All that lies in it is the source's too.
                    break;
                }
            }
        }
        refusals.extend(nested(&target.host, &places.pgdata, source));
    }
    if let Some(cluster) = cluster(target)
        && refusals.is_empty()
        && !source.pid_file.is_empty()
        && cluster.pid_file == source.pid_file
    {
        refusals.push(Refusal::SamePidFile {
            pgdata: target.pgdata.clone(),
        });
    }
    refusals
}

fn directories_of_source(source: &SourceFacts) -> Vec<(String, Vec<u8>, FileIdentity)> {
    let pgdata = source.data_directory.clone();
    let wal = [&pgdata[..], b"/pg_wal"].concat();
    let mut all = vec![
        ("the data directory".to_owned(), pgdata, source.identity),
        ("the WAL directory".to_owned(), wal, source.wal_identity),
    ];
    for tablespace in &source.tablespaces {
        if let (Some(location), Some(identity)) = (&tablespace.location, tablespace.identity) {
            let role = format!("tablespace {}", tablespace.oid);
            all.push((role, location.clone(), identity));
        }
    }
    all
}

fn directories_of_target(target: &TargetFacts) -> Vec<(String, FileIdentity)> {
    let mut all = Vec::new();
    match &target.condition {
        Condition::Missing | Condition::Unknown { .. } => {}
        Condition::Empty { identity, .. } => {
            all.push(("the data directory".to_owned(), *identity));
        }
        Condition::Cluster(cluster) => {
            all.push(("the data directory".to_owned(), cluster.identity));
            if let Some(identity) = cluster.wal_identity {
                all.push(("the WAL directory".to_owned(), identity));
            }
            for tablespace in &cluster.tablespaces {
                if let Some(identity) = tablespace.identity {
                    all.push((format!("tablespace {}", tablespace.oid), identity));
                }
            }
        }
    }
    all
}

/// One data directory inside the other. Told by their paths, which mean the same on one host only:
/// containers on one kernel have names of their own.
fn nested(host: &HostIdentity, pgdata: &[u8], source: &SourceFacts) -> Option<Refusal> {
    if pgdata.is_empty() || host.name != source.host.name {
        return None;
    }
    let (here, there) = (canonical(pgdata), canonical(&source.data_directory));
    let (inner, outer) = if here == there {
        return None;
    } else if is_inside(&here, &there) {
        (here, there)
    } else if is_inside(&there, &here) {
        (there, here)
    } else {
        return None;
    };
    Some(Refusal::NestedDirectory {
        inner: text(&inner),
        outer: text(&outer),
    })
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Bend, Scene, refused};
    use super::super::verdict::judge_before_stop;
    use super::*;
    use crate::facts::Running;
    use crate::plan::samples::{identity, tablespace};

    #[test]
    fn one_directory_is_never_both() {
        let cases: &[Bend] = &[
            |s| s.cluster().identity = identity(100),
            |s| s.cluster().wal_identity = Some(identity(101)),
            |s| {
                s.source.tablespaces = vec![tablespace(16_400, "/ts", 300)];
                s.cluster().tablespaces = vec![tablespace(16_400, "/link/to/ts", 300)];
            },
            // A tablespace of one can be the data directory of the other.
            |s| s.cluster().tablespaces = vec![tablespace(16_400, "/x", 100)],
            |s| {
                s.target.condition = Condition::Empty {
                    is_owner: true,
                    identity: identity(100),
                };
            },
        ];
        for bend in cases {
            assert_eq!(
                refused(|scene| bend(scene.on_one_kernel())),
                ["same-directory"]
            );
            // Numbers of another kernel mean other things.
            assert!(!refused(bend).contains(&"same-directory"));
        }
    }

    #[test]
    fn the_source_itself_is_never_said_to_be_stopped() {
        let bend = |scene: &mut Scene| {
            scene.on_one_kernel().cluster().identity = identity(100);
            scene.cluster().running = Running::Server { pid: 42 };
            scene.cluster().is_locked = true;
        };
        assert_eq!(refused(bend), ["same-directory"]);
        let mut scene = Scene::new();
        bend(&mut scene);
        assert!(judge_before_stop(&scene.situation()).is_err());
    }

    #[test]
    fn a_shared_pid_file_betrays_another_mount() {
        let pid_file: Bend = |s| s.cluster().pid_file = b"4711\n/srv/b\n".to_vec();
        assert_eq!(refused(pid_file), ["same-pid-file"]);
        assert!(refused(|s| s.source.pid_file = Vec::new()).is_empty());
    }

    #[test]
    fn nested_data_directories_are_refused_on_one_host() {
        for (path, names) in [
            ("/srv/b/sub", &["nested-directory"][..]),
            ("/srv", &["nested-directory"]),
            ("/srv/b2", &[]),
        ] {
            assert_eq!(
                refused(|scene| {
                    scene.on_one_kernel().places.pgdata = path.as_bytes().to_vec();
                }),
                names,
                "{path}"
            );
        }
        assert!(refused(|scene| scene.places.pgdata = b"/srv/b/sub".to_vec()).is_empty());
    }
}
