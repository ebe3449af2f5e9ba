//! The judgement: all guards in their order, and the proof that each has passed.

use super::situation::Situation;
use super::{directories, identity, kinship, lineage, slot, source, target};
use crate::plan::refusal::Refusal;
use crate::plan::relation::{Relation, relate};
use crate::plan::tablespaces::{Placement, StaleTablespace, resolve, stale};

/// What the judgement found, for the steps that follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    pub relation: Relation,
    /// The target has nothing of its own: it takes the source's configuration too.
    pub is_seed: bool,
    /// Where each tablespace of the source goes.
    pub placements: Vec<Placement>,
    /// Tablespaces of the target that the source has not.
    pub stale_tablespaces: Vec<StaleTablespace>,
    /// WAL must be kept by a temporary slot: none was asked for, or the one asked for keeps nothing
    /// yet because no standby has used it.
    pub needs_temporary_slot: bool,
}

/// The proof that every guard has passed: only [`judge`] makes it.
#[derive(Debug, Clone)]
pub struct Cleared(Findings);

impl Cleared {
    /// What the judgement found.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.0
    }
}

/// Judges whether the run may go on.
///
/// # Errors
/// All refusals, the most fundamental first.
pub fn judge(situation: &Situation) -> Result<Cleared, Vec<Refusal>> {
    judge_but(situation, |_| true).map(Cleared)
}

/// As [`judge`], but a server that runs in the target is no reason to refuse, and what comes of it
/// is no proof: for a run that will stop the server (it must not stop the source's) and for
/// `--dry-run` with `--stop`. Look and judge again once it is stopped.
///
/// # Errors
/// All other refusals.
pub fn judge_before_stop(situation: &Situation) -> Result<Findings, Vec<Refusal>> {
    judge_but(situation, |refusal| {
        !matches!(refusal, Refusal::ServerRunning { .. })
    })
}

fn judge_but(
    situation: &Situation,
    counts: impl Fn(&Refusal) -> bool,
) -> Result<Findings, Vec<Refusal>> {
    let Situation { target, source, .. } = situation;
    let relation = relate(target, source);
    let mut refusals = Vec::new();
    refusals.extend(target::judge_user(target));
    let same = identity::judge(situation);
    if !same.is_empty() {
        // Everything else would speak about the source: "stop the server" would be fatal advice.
        refusals.extend(same);
        return Err(refusals);
    }
    refusals.extend(lineage::judge(situation));
    refusals.extend(target::judge(target, situation.overrides));
    refusals.extend(directories::judge_dangling(situation.places));
    // What is behind the link may be all but missing.
    if !situation.places.dangling.iter().any(|found| found.is_above) {
        refusals.extend(target::judge_seed(situation));
    }
    refusals.extend(directories::judge(situation.places));
    refusals.extend(directories::judge_links(situation.places));
    refusals.extend(kinship::judge(situation, &relation));
    refusals.extend(source::judge(situation));
    refusals.extend(slot::judge(situation));
    let placements = resolve(
        source,
        situation.mappings,
        situation.places,
        situation.overrides,
    )
    .unwrap_or_else(|tablespaces| {
        refusals.extend(tablespaces);
        Vec::new()
    });
    refusals.retain(counts);
    if !refusals.is_empty() {
        return Err(refusals);
    }
    Ok(Findings {
        is_seed: relation.is_seed(),
        relation,
        stale_tablespaces: stale(situation.places, &source.tablespaces),
        placements,
        needs_temporary_slot: slot::needs_temporary_slot(situation),
    })
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Bend, Scene, ahead, refused};
    use super::super::situation::SlotWish;
    use super::*;
    use crate::facts::{Condition, Interrupted, Running};
    use crate::pg::timeline::TimelineId;
    use crate::plan::samples::{identity, target};
    use crate::plan::tablespaces::Mapping;

    #[test]
    fn a_diverged_old_primary_is_cleared() {
        let scene = Scene::new();
        let cleared = judge(&scene.situation()).unwrap();
        let findings = cleared.findings();
        assert_eq!(findings.relation.name(), "diverged");
        assert!(!findings.is_seed);
        assert!(findings.needs_temporary_slot);
    }

    #[test]
    fn empty_places_are_cleared_as_seeds() {
        for condition in [
            Condition::Missing,
            Condition::Empty {
                is_owner: true,
                identity: identity(200),
            },
        ] {
            let mut scene = Scene::new();
            scene.target = target(condition);
            assert!(judge(&scene.situation()).unwrap().findings().is_seed);
        }
    }

    #[test]
    fn an_interrupted_run_can_be_repeated() {
        let marker = Interrupted {
            is_seed: true,
            ..Interrupted::default()
        };
        let mut scene = Scene::new();
        scene.cluster().interrupted = Some(marker.clone());
        let cleared = judge(&scene.situation()).unwrap();
        assert!(!cleared.findings().is_seed);
        let cluster = scene.cluster();
        (cluster.control, cluster.major) = (None, None);
        let cleared = judge(&scene.situation()).unwrap();
        assert!(cleared.findings().is_seed);
        // The marker opens no door to another cluster.
        assert_eq!(
            refused(|scene| {
                scene.cluster().interrupted = Some(marker);
                scene.control().system_identifier = 1;
            }),
            ["foreign-cluster"]
        );
    }

    #[test]
    fn overrides_open_their_own_guard_only() {
        let newer: Bend = |s| s.cluster().newest_wal_timeline = Some(TimelineId(3));
        let foreign: Bend = |s| s.control().system_identifier = 1;
        let bends: [Bend; 3] = [foreign, newer, ahead];
        let opens: [Bend; 3] = [
            |s| s.overrides.overwrite_foreign_cluster = true,
            |s| s.overrides.discard_newer_timeline = true,
            |s| s.overrides.discard_newer_wal = true,
        ];
        for (danger, bend) in bends.iter().enumerate() {
            for (key, open) in opens.iter().enumerate() {
                let names = refused(|scene| {
                    bend(scene);
                    open(scene);
                });
                assert_eq!(names.is_empty(), danger == key, "{danger} {key}: {names:?}");
            }
        }
        // No override lets blocks of another layout pass.
        assert_eq!(
            refused(|s| {
                foreign(s);
                s.control().block_bytes = 4096;
                s.overrides.overwrite_foreign_cluster = true;
            }),
            ["other-layout"]
        );
    }

    #[test]
    fn all_refusals_come_at_once_and_the_most_fundamental_first() {
        assert_eq!(
            refused(|s| {
                s.slot = SlotWish::Existing("s");
                s.mappings = vec![Mapping::parse(b"/x=/y").unwrap()];
                s.source.settings.wal_level = "minimal".to_owned();
                s.control().system_identifier = 1;
                s.cluster().is_locked = true;
                s.target.is_root = true;
            }),
            [
                "runs-as-root",
                "locked",
                "foreign-cluster",
                "wal-level-too-low",
                "slot-missing",
                "mapping-unknown"
            ]
        );
    }

    #[test]
    fn before_a_stop_only_the_running_server_is_forgiven() {
        let mut scene = Scene::new();
        scene.cluster().running = Running::Server { pid: 42 };
        assert!(judge(&scene.situation()).is_err());
        assert!(judge_before_stop(&scene.situation()).is_ok());
        scene.control().system_identifier = 1;
        let refusals = judge_before_stop(&scene.situation()).unwrap_err();
        assert_eq!(refusals.len(), 1);
        assert_eq!(refusals[0].name(), "foreign-cluster");
    }
}
