//! Who runs it, and what is in the target's place: a directory that this user may write, and nobody else does.

use super::situation::Situation;
use crate::facts::{Condition, Running, TargetCluster, TargetFacts};
use crate::plan::overrides::Overrides;
use crate::plan::refusal::Refusal;

/// Whether this user may be it at all.
pub(super) fn judge_user(target: &TargetFacts) -> Option<Refusal> {
    target.is_root.then_some(Refusal::RunsAsRoot)
}

/// Whether the directory is one that this user may write, and nobody else does.
pub(super) fn judge(target: &TargetFacts, overrides: &Overrides) -> Vec<Refusal> {
    let pgdata = || target.pgdata.clone();
    let not_owner = || Refusal::NotOwner {
        pgdata: pgdata(),
        user: target.user.clone(),
    };
    let mut refusals = Vec::new();
    match &target.condition {
        Condition::Missing => {}
        // As root nobody owns anything; one refusal says it.
        Condition::Empty { is_owner, .. } => {
            if !is_owner && !target.is_root {
                refusals.push(not_owner());
            }
        }
        Condition::Unknown { example } => refusals.push(Refusal::NotADataDirectory {
            pgdata: pgdata(),
            example: example.clone(),
        }),
        Condition::Cluster(cluster) => {
            if !cluster.is_owner && !target.is_root {
                refusals.push(not_owner());
            }
            if cluster.is_locked {
                // The other run may hold postmaster.pid: that is no server.
                refusals.push(Refusal::Locked {
                    pgdata: pgdata(),
                    holder: cluster.locked_by.clone().map(Box::new),
                });
                return refusals;
            }
            match &cluster.running {
                Running::No => {}
                Running::Server { pid } => refusals.push(Refusal::ServerRunning {
                    pgdata: pgdata(),
                    pid: *pid,
                }),
                Running::Unclear { pid } => refusals.push(Refusal::PidFileUnclear {
                    pgdata: pgdata(),
                    pid: *pid,
                }),
                Running::TornPidFile => {
                    refusals.push(Refusal::PidFileTorn { pgdata: pgdata() });
                }
                Running::Orphans { detail } => refusals.push(Refusal::Orphans {
                    pgdata: pgdata(),
                    detail: detail.clone(),
                }),
            }
            let is_data_directory = is_data_directory(cluster);
            if let Some(problem) = unreadable(cluster)
                && !(is_data_directory && overrides.overwrite_unknown_cluster)
            {
                refusals.push(Refusal::Unreadable {
                    pgdata: pgdata(),
                    problem,
                    is_data_directory,
                });
            }
            if !cluster.unexpected_links.is_empty() {
                refusals.push(Refusal::UnexpectedLinks {
                    links: cluster.unexpected_links.clone(),
                });
            }
        }
    }
    refusals
}

/// Whether a data directory that does not exist is meant, or mistyped. A person is asked, by a refusal; a script
/// that seeds has said what it means by being one. Nobody means a directory in a directory that is not there.
pub(super) fn judge_seed(situation: &Situation) -> Option<Refusal> {
    let Situation {
        target,
        overrides,
        is_typed,
        ..
    } = situation;
    let is_missing = matches!(target.condition, Condition::Missing);
    let is_doubtful = is_missing && (*is_typed || target.is_parent_missing);
    (is_doubtful && !overrides.seed).then(|| Refusal::SeedNotAskedFor {
        pgdata: target.pgdata.clone(),
        is_parent_missing: target.is_parent_missing,
    })
}

/// Why the cluster cannot be recognised. An interrupted seed has no control file of its own, and
/// its marker proves that the directory was given to the tool.
fn unreadable(cluster: &TargetCluster) -> Option<String> {
    if cluster.interrupted.is_some() || cluster.major().is_some() && cluster.control.is_some() {
        return None;
    }
    if cluster.control.is_none() {
        let problem = cluster.control_problem.as_deref();
        return Some(problem.unwrap_or("it has no control file").to_owned());
    }
    Some("it has no valid \"PG_VERSION\"".to_owned())
}

/// Whether `PG_VERSION` and the directories say that it is a data directory, even if nothing says of which cluster.
fn is_data_directory(cluster: &TargetCluster) -> bool {
    cluster.major.is_some() && cluster.has_directories
}

/// The cluster in the target, if one can be told.
pub(super) fn cluster(target: &TargetFacts) -> Option<&TargetCluster> {
    match &target.condition {
        Condition::Cluster(cluster) => Some(cluster),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Bend, refused};
    use super::*;
    use crate::plan::samples::identity;

    #[test]
    fn each_guard_of_the_target_refuses() {
        let cases: &[(&str, Bend)] = &[
            ("runs-as-root", |s| {
                s.target.is_root = true;
                s.cluster().is_owner = false;
            }),
            ("not-owner", |s| s.cluster().is_owner = false),
            ("not-owner", |s| {
                s.target.condition = Condition::Empty {
                    is_owner: false,
                    identity: identity(200),
                };
            }),
            ("not-a-data-directory", |s| {
                s.target.condition = Condition::Unknown {
                    example: "photos".to_owned(),
                };
            }),
            ("locked", |s| s.cluster().is_locked = true),
            ("server-running", |s| {
                s.cluster().running = Running::Server { pid: 42 };
            }),
            ("pid-file-torn", |s| {
                s.cluster().running = Running::TornPidFile;
            }),
            ("orphans", |s| {
                s.cluster().running = Running::Orphans {
                    detail: "PID 43 holds shared memory.".to_owned(),
                };
            }),
            ("unreadable", |s| s.cluster().control = None),
            ("unreadable", |s| {
                s.cluster().major = None;
                s.control().catalog_version = 1;
                s.source.control.catalog_version = 1;
            }),
            ("unexpected-links", |s| {
                s.cluster().unexpected_links = vec!["base".to_owned()];
            }),
        ];
        for (name, bend) in cases {
            assert_eq!(refused(bend), [*name]);
        }
    }

    #[test]
    fn a_missing_directory_that_may_be_mistyped_is_asked_about() {
        let missing: Bend = |s| s.target.condition = Condition::Missing;
        // A script that seeds goes on, one that means a directory in a missing one does not.
        assert!(refused(missing).is_empty());
        let doubts: [Bend; 2] = [|s| s.is_typed = true, |s| s.target.is_parent_missing = true];
        for doubt in doubts {
            let names = refused(|s| {
                missing(s);
                doubt(s);
            });
            assert_eq!(names, ["seed-not-asked-for"]);
            assert!(
                refused(|s| {
                    missing(s);
                    doubt(s);
                    s.overrides.seed = true;
                })
                .is_empty()
            );
            // A directory that is there was meant, also when it is empty.
            assert!(refused(doubt).is_empty());
        }
    }

    #[test]
    fn a_data_directory_of_the_right_version_may_stand_for_its_control_file() {
        let lost: Bend = |s| {
            s.cluster().control = None;
            s.overrides.overwrite_unknown_cluster = true;
        };
        assert_eq!(refused(lost), [""; 0]);
        let but = |bend: Bend| {
            refused(|s| {
                lost(s);
                bend(s);
            })
        };
        assert_eq!(but(|s| s.cluster().major = Some(14)), ["other-major"]);
        assert_eq!(but(|s| s.cluster().major = None), ["unreadable"]);
        assert_eq!(but(|s| s.cluster().has_directories = false), ["unreadable"]);
    }

    #[test]
    fn a_control_file_alone_tells_the_version_too() {
        // An interrupted pg_rewind cuts each file off before it writes it.
        assert_eq!(refused(|s| s.cluster().major = None), [""; 0]);
    }
}
