//! Whether the target may become a standby of this source: version, layout, history.

use super::situation::Situation;
use super::target::cluster;
use crate::facts::{SourceFacts, TargetCluster};
use crate::pg::version::SUPPORTED_MAJORS;
use crate::plan::clone;
use crate::plan::refusal::Refusal;
use crate::plan::relation::Relation;
use crate::plan::standby::Role;

/// Whether the target may become a standby of this source.
pub(super) fn judge(situation: &Situation, relation: &Relation) -> Vec<Refusal> {
    let Situation {
        target,
        source,
        overrides,
        role,
        ..
    } = situation;
    let mut refusals = Vec::new();
    let is_allowed =
        overrides.allow_unknown_version && source.version.major() > *SUPPORTED_MAJORS.end();
    if !source.version.is_supported() && !is_allowed {
        refusals.push(Refusal::UnsupportedVersion {
            version: source.version,
        });
    }
    if let Some(cluster) = cluster(target) {
        refusals.extend(judge_layout(cluster, source));
    }
    match relation.original() {
        Relation::Foreign { target, source } if !overrides.overwrite_foreign_cluster => {
            refusals.push(Refusal::ForeignCluster {
                target: *target,
                source: *source,
            });
        }
        // What was written to a copy is what the next one is for.
        Relation::NewerTimeline { .. }
            if *role == Role::Clone
                && cluster(situation.target).is_some_and(|cluster| {
                    clone::may_be_replaced(cluster, relation.original(), situation.source)
                }) => {}
        Relation::NewerTimeline {
            target,
            source,
            common,
            target_end,
        } if !overrides.discard_newer_timeline => {
            refusals.push(Refusal::NewerTimeline {
                target: *target,
                source: *source,
                common: *common,
                target_end: *target_end,
                copy: cluster(situation.target).and_then(clone::remark),
            });
        }
        Relation::AheadSameTimeline {
            timeline,
            target_end,
            source_end,
            source_is_standby,
        } if !overrides.discard_newer_wal => {
            refusals.push(Refusal::NewerWal {
                timeline: *timeline,
                target_end: *target_end,
                source_end: *source_end,
                source_is_standby: *source_is_standby,
            });
        }
        _ => {}
    }
    refusals
}

fn judge_layout(cluster: &TargetCluster, source: &SourceFacts) -> Option<Refusal> {
    let theirs = source.version.major();
    let control = cluster.control.as_ref();
    if let Some(ours) = cluster.major().filter(|ours| *ours != theirs) {
        return Some(Refusal::OtherMajor {
            target: ours,
            source: theirs,
        });
    }
    let control = control?;
    let mut differences = control.layout_differences(&source.control);
    let (ours, theirs) = (control.wal_segment_bytes, source.control.wal_segment_bytes);
    if ours != theirs {
        differences.push(("xlog_seg_size", ours.to_string(), theirs.to_string()));
    }
    (!differences.is_empty()).then_some(Refusal::OtherLayout { differences })
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Bend, ahead, refused};
    use crate::pg::timeline::TimelineId;
    use crate::pg::version::Version;

    #[test]
    fn each_guard_of_kinship_refuses() {
        let cases: &[(&str, Bend)] = &[
            ("unsupported-version", |s| {
                s.source.version = Version(120_020);
                s.cluster().major = Some(12);
            }),
            ("unsupported-version", |s| {
                s.source.version = Version(200_000);
                s.cluster().major = Some(20);
            }),
            ("other-major", |s| s.cluster().major = Some(14)),
            ("other-layout", |s| s.control().block_bytes = 16_384),
            ("other-layout", |s| s.control().segment_blocks = 16),
            ("other-layout", |s| s.control().catalog_version += 1),
            ("other-layout", |s| s.control().wal_segment_bytes = 1 << 20),
            ("foreign-cluster", |s| s.control().system_identifier = 1),
            ("newer-timeline", |s| {
                s.cluster().newest_wal_timeline = Some(TimelineId(3));
            }),
            ("newer-wal", ahead),
        ];
        for (name, bend) in cases {
            assert_eq!(refused(bend), [*name]);
        }
    }

    #[test]
    fn only_a_later_version_can_be_allowed() {
        let allowed = |major: u32| {
            refused(|s| {
                s.source.version = Version(major * 10_000);
                s.cluster().major = Some(major);
                s.overrides.allow_unknown_version = true;
            })
        };
        assert_eq!(allowed(20), [""; 0]);
        assert_eq!(allowed(12), ["unsupported-version"]);
    }
}
