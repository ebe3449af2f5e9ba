//! The replication slot that keeps WAL for the run and its standby.

use super::situation::{Situation, SlotWish};
use crate::facts::{Condition, SlotFacts, SourceFacts, TargetFacts};
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
            } else if facts.active
                && !situation.is_slot_targets
                && !is_of_target(situation.target, source)
            {
                refusals.push(Refusal::SlotActive {
                    name,
                    holder: facts.holder.clone(),
                });
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
    if let (Some(holder), SlotWish::Existing(name) | SlotWish::Create(name)) =
        (&source.slot_run, *slot)
    {
        refusals.push(Refusal::SlotOfRun {
            name: name.to_owned(),
            holder: holder.clone(),
        });
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

/// Whether it is the target's own server that streams from the slot, and gives it back when it is stopped: its
/// walreceiver streams, is told to use this slot, and has the connection whose other end the source sees.
#[must_use]
pub fn is_of_target(target: &TargetFacts, source: &SourceFacts) -> bool {
    let (Condition::Cluster(cluster), Some(slot)) = (&target.condition, &source.slot) else {
        return false;
    };
    let (Some(stream), Some(holder)) = (&cluster.stream, &slot.holder) else {
        return false;
    };
    stream.slot.as_ref() == Some(&slot.name)
        && match &holder.client {
            // A socket of the source's host: the target's server is there too, and has no other connection.
            Some(client) if client.address.is_none() => {
                stream.ends.is_empty() && target.host.is_same_kernel(&source.host)
            }
            Some(client) => stream.ends.contains(client),
            None => false,
        }
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
    use crate::facts::{OwnStream, SlotClient, SlotHolder};
    use crate::pg::lsn::Lsn;

    fn slot(restart_lsn: Option<u64>) -> SlotFacts {
        SlotFacts {
            name: "s".to_owned(),
            is_physical: true,
            active: false,
            restart_lsn: restart_lsn.map(Lsn),
            wal_status: "reserved".to_owned(),
            holder: None,
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

    /// The target's own server streams from it, and its client's end is known.
    fn own(s: &mut Scene, address: Option<&str>, port: u16) {
        let end = SlotClient {
            address: address.map(str::to_owned),
            port,
        };
        s.slot = SlotWish::Existing("s");
        s.source.slot = Some(SlotFacts {
            active: true,
            holder: Some(SlotHolder {
                pid: 1,
                application_name: "a".to_owned(),
                client: Some(end),
            }),
            ..slot(Some(1))
        });
        s.cluster().stream = Some(OwnStream {
            slot: Some("s".to_owned()),
            ends: Vec::new(),
        });
    }

    #[test]
    fn only_the_targets_own_server_may_have_the_slot() {
        let ends = |port| {
            vec![SlotClient {
                address: Some("10.0.0.1".to_owned()),
                port,
            }]
        };
        let cases: &[(bool, Bend)] = &[
            (true, |s| own(s, Some("10.0.0.1"), 7)),
            (false, |s| {
                own(s, Some("10.0.0.1"), 7);
                s.cluster().stream.as_mut().unwrap().slot = Some("t".to_owned());
            }),
            (false, |s| {
                own(s, Some("10.0.0.1"), 7);
                s.cluster().stream = None;
            }),
            (false, |s| own(s, Some("10.0.0.1"), 8)),
            (false, |s| own(s, None, 0)),
            (true, |s| {
                own(s, None, 0);
                s.on_one_kernel();
            }),
        ];
        for (number, (is_own, bend)) in cases.iter().enumerate() {
            let found = refused(|s| {
                bend(s);
                let is_tcp = s.source.slot.as_ref().unwrap().holder.as_ref().unwrap();
                let is_tcp = is_tcp.client.as_ref().unwrap().address.is_some();
                if let (true, Some(stream)) = (is_tcp, &mut s.cluster().stream) {
                    stream.ends = ends(7);
                }
            });
            let wanted: &[&str] = if *is_own { &[] } else { &["slot-active"] };
            assert_eq!(found, wanted, "{number}");
        }
    }

    #[test]
    fn a_slot_of_another_run_is_refused_even_if_it_is_not_there_yet() {
        let holder = SlotHolder {
            pid: 1,
            application_name: "pg_reseed".to_owned(),
            client: None,
        };
        let refusals = refused(|s| {
            s.slot = SlotWish::Create("s");
            s.source.slot_run = Some(holder.clone());
        });
        assert_eq!(refusals, ["slot-of-run"]);
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
