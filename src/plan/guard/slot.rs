//! The replication slot that keeps WAL for the run and its standby.

use super::situation::{Situation, SlotWish};
use crate::facts::SlotFacts;
use crate::plan::refusal::Refusal;

/// Whether the run can have the slot that it needs.
pub(super) fn judge(situation: &Situation) -> Vec<Refusal> {
    let Situation { source, slot, .. } = situation;
    let settings = &source.settings;
    let mut refusals = Vec::new();
    match (*slot, &source.slot) {
        (SlotWish::Temporary, _) | (SlotWish::Create(_), None) => {}
        (SlotWish::Existing(name), None) => refusals.push(Refusal::SlotMissing {
            name: name.to_owned(),
        }),
        // A slot that is there already is that of an earlier run that was killed, or the DBA's own.
        (SlotWish::Existing(name) | SlotWish::Create(name), Some(facts)) => {
            let name = name.to_owned();
            if !facts.is_physical {
                refusals.push(Refusal::SlotLogical { name });
            } else if facts.active && !situation.is_slot_targets {
                refusals.push(Refusal::SlotActive { name });
            } else if facts.wal_status == "lost" {
                refusals.push(Refusal::SlotLost { name });
            } else if let (Some(restart), Some(limit)) =
                (facts.restart_lsn, situation.max_wal_retained)
                && source.current_lsn.bytes_since(restart) > limit
            {
                refusals.push(Refusal::SlotKeepsTooMuch {
                    name,
                    bytes: source.current_lsn.bytes_since(restart),
                    limit,
                });
            }
        }
    }
    let makes_one = matches!(slot, SlotWish::Create(_)) && source.slot.is_none();
    let needs_new = needs_temporary_slot(situation) || makes_one;
    if needs_new && settings.used_replication_slots >= settings.max_replication_slots {
        refusals.push(Refusal::NoFreeSlot {
            max: settings.max_replication_slots,
            used: settings.used_replication_slots,
        });
    }
    refusals
}

/// Judges, for a run that brings no WAL, whether the standby's slot can keep it from the beginning on.
///
/// # Errors
/// The slot never reserved any, and nothing else gives WAL.
pub fn wal_supply(
    wish: SlotWish,
    slot: Option<&SlotFacts>,
    has_restore_command: bool,
) -> Result<(), Refusal> {
    match (wish, slot) {
        (SlotWish::Existing(name) | SlotWish::Create(name), Some(facts))
            if facts.restart_lsn.is_none() && !has_restore_command =>
        {
            Err(Refusal::SlotKeepsNothing {
                name: name.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Whether the run needs a temporary slot: none was asked for, the one asked for keeps nothing yet, or it is in use by
/// the target, which moves it on as long as it runs.
pub(super) fn needs_temporary_slot(situation: &Situation) -> bool {
    match (situation.slot, &situation.source.slot) {
        (SlotWish::Temporary, _) => true,
        (SlotWish::Existing(_) | SlotWish::Create(_), Some(facts)) => {
            facts.active || facts.restart_lsn.is_none()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Bend, Scene, refused};
    use super::super::verdict;
    use super::*;
    use crate::pg::lsn::Lsn;

    fn slot(restart_lsn: Option<u64>) -> SlotFacts {
        SlotFacts {
            name: "s".to_owned(),
            is_physical: true,
            active: false,
            restart_lsn: restart_lsn.map(Lsn),
            wal_status: "reserved".to_owned(),
        }
    }

    #[test]
    fn each_guard_of_the_slot_refuses() {
        let cases: &[(&str, Bend)] = &[
            ("no-free-slot", |s| {
                s.source.settings.max_replication_slots = 0;
            }),
            ("no-free-slot", |s| {
                s.source.settings.used_replication_slots = 10;
            }),
            ("no-free-slot", |s| {
                s.slot = SlotWish::Create("s");
                s.source.settings.used_replication_slots = 10;
            }),
            ("slot-missing", |s| s.slot = SlotWish::Existing("s")),
            ("slot-active", |s| {
                s.slot = SlotWish::Create("s");
                s.source.slot = Some(SlotFacts {
                    active: true,
                    ..slot(Some(1))
                });
            }),
            ("slot-logical", |s| {
                s.slot = SlotWish::Existing("s");
                s.source.slot = Some(SlotFacts {
                    is_physical: false,
                    ..slot(Some(1))
                });
            }),
            ("slot-active", |s| {
                s.slot = SlotWish::Existing("s");
                s.source.slot = Some(SlotFacts {
                    active: true,
                    ..slot(Some(1))
                });
            }),
            ("slot-lost", |s| {
                s.slot = SlotWish::Existing("s");
                s.source.slot = Some(SlotFacts {
                    wal_status: "lost".to_owned(),
                    ..slot(None)
                });
            }),
        ];
        for (name, bend) in cases {
            assert_eq!(refused(bend), [*name]);
        }
    }

    #[test]
    fn the_targets_own_slot_is_not_taken_for_anothers() {
        let bend = |s: &mut Scene| {
            s.slot = SlotWish::Existing("s");
            s.source.slot = Some(SlotFacts {
                active: true,
                ..slot(Some(0x300_0000))
            });
            s.is_slot_targets = true;
        };
        let mut scene = Scene::new();
        bend(&mut scene);
        let cleared = verdict::judge(&scene.situation()).unwrap();
        // While its server runs, the slot moves on and keeps nothing for the run.
        assert!(cleared.findings().needs_temporary_slot);
    }

    #[test]
    fn a_slot_that_keeps_more_than_it_may_is_refused() {
        for (limit, names) in [(1, &["slot-keeps-too-much"][..]), (1 << 40, &[])] {
            let refusals = refused(|s| {
                s.slot = SlotWish::Existing("s");
                s.source.slot = Some(slot(Some(0x300_0000)));
                s.max_wal_retained = Some(limit);
            });
            assert_eq!(refusals, names);
        }
    }

    #[test]
    fn a_slot_that_keeps_nothing_is_helped_by_a_temporary_one() {
        for (restart_lsn, needs) in [(None, true), (Some(0x300_0000), false)] {
            let mut scene = Scene::new();
            scene.slot = SlotWish::Existing("s");
            scene.source.slot = Some(slot(restart_lsn));
            let cleared = verdict::judge(&scene.situation()).unwrap();
            assert_eq!(cleared.findings().needs_temporary_slot, needs);
            // One that keeps its WAL already needs no further slot.
            scene.source.settings.used_replication_slots = 10;
            assert_eq!(verdict::judge(&scene.situation()).is_err(), needs);
        }
    }
}
