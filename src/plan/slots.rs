//! Which replication slot the standby uses, and which of its slots are left without a standby.
//!
//! A slot that nobody reads from keeps WAL on the source until the disk is full. So the slot that the target had
//! with this source stays its slot unless another one is asked for, and one that is left is named.

use crate::facts::{Condition, Running, SlotFacts, SourceFacts, TargetCluster, TargetFacts};
use crate::plan::lineage::Remark;
use crate::plan::words::Bytes;
use crate::warning::Code;

/// What became of the question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// The slot that the standby uses.
    pub name: Option<String>,
    /// It is the one that the target's own configuration names, and nobody asked for it.
    pub is_own: bool,
    /// It is in use by the target's server itself.
    pub is_held_by_target: bool,
    pub remarks: Vec<Remark>,
}

/// The slot to ask the source about: the one asked for, or the target's own.
#[must_use]
pub fn wanted<'a>(asked: Option<&'a str>, target: &'a TargetFacts) -> Option<&'a str> {
    asked.or_else(|| cluster(target)?.standing.primary_slot_name.as_deref())
}

/// Chooses the slot. `asked` is `--slot`.
#[must_use]
pub fn choose(asked: Option<&str>, target: &TargetFacts, source: &SourceFacts) -> Choice {
    let cluster = cluster(target);
    let own = cluster.and_then(|cluster| cluster.standing.primary_slot_name.as_deref());
    let find = |name: &str| source.slots.iter().find(|slot| slot.name == name);
    let is_held = |name: &str| {
        find(name).is_some_and(|slot| slot.active)
            && cluster.is_some_and(|cluster| streams_with(cluster, name))
    };
    let mut choice = Choice {
        name: asked.map(str::to_owned),
        ..Choice::default()
    };
    let warn = Remark::Warning;
    if let Some(own) = own.filter(|own| Some(*own) != asked) {
        match (find(own), asked) {
            (None, None) => choice.remarks.push(warn(
                Code::SlotMissing,
                format!(
                    "The target's configuration names replication slot \"{own}\", which the source does not have: the \
                     standby will use none. --slot {own} --create-slot makes it. If the server that the target \
                     followed before still runs, a slot of that name may be left there."
                ),
            )),
            (None, Some(_)) => {}
            // Its standby is another one.
            (Some(slot), None) if slot.active && !is_held(own) => {
                choice.remarks.push(warn(
                    Code::SlotInUse,
                    format!(
                        "Replication slot \"{own}\", which the target's configuration names, is in use by another \
                         standby: the new one will use none."
                    ),
                ));
            }
            (Some(slot), Some(_)) if slot.active && !is_held(own) => {}
            (Some(slot), None) if slot.wal_status != "lost" => {
                choice.name = Some(own.to_owned());
                choice.is_own = true;
                choice.remarks.push(Remark::Note(format!(
                    "The standby uses replication slot \"{own}\", as its own configuration says."
                )));
            }
            (Some(slot), _) => choice.remarks.push(warn(Code::SlotLeft, left(slot, source))),
        }
    }
    choice.is_held_by_target = choice.name.as_deref().is_some_and(is_held);
    choice
}

/// As [`choose`], of a target that will follow nobody: it uses none, and one that it had is left.
#[must_use]
pub fn give_up(target: &TargetFacts, source: &SourceFacts) -> Choice {
    let own = cluster(target).and_then(|cluster| cluster.standing.primary_slot_name.as_deref());
    let left_one = source
        .slots
        .iter()
        .find(|slot| Some(slot.name.as_str()) == own)
        .filter(|slot| {
            !slot.active || cluster(target).is_some_and(|own| streams_with(own, &slot.name))
        });
    Choice {
        remarks: left_one
            .map(|slot| Remark::Warning(Code::SlotLeft, left(slot, source)))
            .into_iter()
            .collect(),
        ..Choice::default()
    }
}

fn cluster(target: &TargetFacts) -> Option<&TargetCluster> {
    match &target.condition {
        Condition::Cluster(cluster) => Some(cluster),
        _ => None,
    }
}

/// Whether the target's server streams with a slot of this name, by what it says itself, or else by its configuration
/// and its processes. From which server, the slot tells once the target is stopped: it is free then.
fn streams_with(cluster: &TargetCluster, name: &str) -> bool {
    let standing = &cluster.standing;
    if !matches!(cluster.running, Running::Server { .. }) {
        return false;
    }
    let receiver = standing
        .live
        .as_ref()
        .and_then(|live| live.receiver.as_ref());
    match receiver {
        // Without rights it sees that there is one, and no more.
        Some(receiver) if !receiver.status.is_empty() => {
            receiver.is_streaming() && receiver.slot.as_deref() == Some(name)
        }
        Some(_) => standing.primary_slot_name.as_deref() == Some(name),
        None => {
            standing.live.is_none()
                && standing.receives
                && standing.primary_slot_name.as_deref() == Some(name)
        }
    }
}

/// What is said of a slot that was the target's and is nobody's now.
fn left(slot: &SlotFacts, source: &SourceFacts) -> String {
    let name = &slot.name;
    let keeps = match slot.restart_lsn {
        Some(restart) if slot.is_kept() => format!(
            "it keeps {} of WAL on the source, and more with every day",
            Bytes(source.current_lsn.bytes_since(restart))
        ),
        _ => format!("its status is \"{}\"", slot.wal_status),
    };
    format!(
        "Replication slot \"{name}\", which the target's configuration names, is left without a standby: {keeps}. \
         If no other standby needs it, drop it on the source: SELECT pg_drop_replication_slot('{}');",
        name.replace('\'', "''")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Live, Receiver};
    use crate::pg::lsn::Lsn;
    use crate::plan::samples::{self, diverged_target};

    fn slot(name: &str) -> SlotFacts {
        SlotFacts {
            name: name.to_owned(),
            is_physical: true,
            active: false,
            restart_lsn: Some(Lsn(0x300_0000)),
            wal_status: "reserved".to_owned(),
            holder: None,
        }
    }

    fn scene(slots: Vec<SlotFacts>) -> (TargetFacts, SourceFacts) {
        let mut target = diverged_target();
        let Condition::Cluster(cluster) = &mut target.condition else {
            panic!("no cluster");
        };
        cluster.standing.primary_slot_name = Some("own".to_owned());
        let source = SourceFacts {
            slots,
            ..samples::source()
        };
        (target, source)
    }

    fn warnings(choice: &Choice) -> usize {
        let is_warning = |remark: &&Remark| matches!(remark, Remark::Warning(..));
        choice.remarks.iter().filter(is_warning).count()
    }

    #[test]
    fn the_slot_that_the_target_had_stays_its_slot() {
        let (target, source) = scene(vec![slot("own")]);
        let choice = choose(None, &target, &source);
        assert_eq!(choice.name.as_deref(), Some("own"));
        assert!(choice.is_own && warnings(&choice) == 0);
        assert_eq!(wanted(None, &target), Some("own"));
        assert_eq!(wanted(Some("other"), &target), Some("other"));
    }

    #[test]
    fn a_slot_that_is_left_without_a_standby_is_named() {
        let lost = SlotFacts {
            wal_status: "lost".to_owned(),
            ..slot("own")
        };
        for (slots, asked, name, says) in [
            (vec![slot("own")], Some("new"), Some("new"), "drop it"),
            (vec![lost], None, None, "status is \"lost\""),
            (vec![], None, None, "does not have"),
        ] {
            let (target, source) = scene(slots);
            let choice = choose(asked, &target, &source);
            assert_eq!(choice.name.as_deref(), name);
            assert!(
                matches!(&choice.remarks[..], [Remark::Warning(_, text)] if text.contains(says)),
                "{choice:?}"
            );
        }
        // What is asked for is not left.
        let (target, source) = scene(vec![slot("own")]);
        let choice = choose(Some("own"), &target, &source);
        assert!(choice.remarks.is_empty() && !choice.is_own);
    }

    #[test]
    fn a_slot_in_use_is_the_targets_only_if_it_streams_with_it() {
        let active = || SlotFacts {
            active: true,
            ..slot("own")
        };
        let (mut target, source) = scene(vec![active()]);
        let choice = choose(None, &target, &source);
        assert_eq!((choice.name.clone(), warnings(&choice)), (None, 1));
        assert!(!choose(Some("own"), &target, &source).is_held_by_target);
        let Condition::Cluster(cluster) = &mut target.condition else {
            panic!("no cluster");
        };
        cluster.running = Running::Server { pid: 7 };
        cluster.standing.live = Some(Live {
            in_recovery: true,
            end: Lsn(1),
            receiver: Some(Receiver {
                status: "streaming".to_owned(),
                slot: Some("own".to_owned()),
                ..Receiver::default()
            }),
            ..Live::default()
        });
        for asked in [None, Some("own")] {
            let choice = choose(asked, &target, &source);
            assert!(choice.is_held_by_target, "{asked:?}");
            assert_eq!(choice.name.as_deref(), Some("own"));
        }
        // Another one asked for leaves it once the target is stopped.
        assert_eq!(warnings(&choose(Some("new"), &target, &source)), 1);
    }
}
