//! A read-write copy of the source that is no member of anything: which settings make it one, and whether a directory
//! is still the copy that its mark tells of.
//!
//! It recovers by `recovery.signal` from the WAL that the run has brought and ends on a timeline of its own, so that no
//! server of the source's can ever be mistaken for its twin. Archive recovery wants a `restore_command`, and there is
//! nothing to restore: `exit 1` is the shell's own word for that. Any status above 125 would be fatal
//! (PostgreSQL `xlogarchive.c:RestoreArchivedFile`).

use std::collections::BTreeMap;

use crate::facts::clone::{Mark, OwnLine};
use crate::facts::{SlotKind, SourceFacts, TargetCluster};
use crate::pg::conf;
use crate::pg::layout::{CLONE_HBA, CLONE_MARK};
use crate::plan::relation::Relation;

/// The words for whoever opens the mark.
pub const MESSAGE: &str = "This data directory is a copy that pg_reseed --role clone has made, and no member of the \
                           cluster that it was copied from. The next run of --role clone overwrites what was written \
                           to it. If it shall become a server that others rely on, remove this file.";

/// Finds no file.
const NOTHING_TO_RESTORE: &str = "exit 1";

/// How the server of a copy is kept to itself while its hooks run, whoever starts it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seclusion {
    /// A directory that only the owner can enter.
    pub sockets: String,
    pub hba_file: String,
    pub ident_file: String,
}

/// What the copy shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CloneSettings {
    /// Leave `archive_mode` as the configuration has it.
    pub keeps_archiving: bool,
    /// Let nobody in but the hooks.
    pub seclusion: Option<Seclusion>,
}

/// The settings that keep the server to itself.
const SECLUDING: [&str; 4] = [
    "listen_addresses",
    "unix_socket_directories",
    "hba_file",
    "ident_file",
];

/// What is emptied where the configuration sets it: what would act on others when the recovery ends, or wait for
/// slots that are not there. A server of an earlier major does not know all of the names.
const EMPTIED: [&str; 6] = [
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    AWAITED_SLOTS,
];

/// Walsenders of logical slots wait for these (17 and later).
const AWAITED_SLOTS: &str = "synchronized_standby_slots";

/// Recovery would wait that long.
const DELAY: &str = "recovery_min_apply_delay";

/// The lines that `postgresql.auto.conf` ends with, beside those that override recovery targets. `base` is what other
/// files set, `old` its text.
#[must_use]
pub fn settings<'a>(
    old: &[u8],
    base: &BTreeMap<String, String>,
    wanted: &'a CloneSettings,
) -> Vec<(&'static str, &'a str)> {
    let own = effective(old);
    let is_set = |name: &str| {
        let value = base
            .get(name)
            .or_else(|| own.get(name).filter(|_| name == AWAITED_SLOTS));
        value.is_some_and(|value| !value.is_empty())
    };
    let mut set = of_role(wanted);
    set.extend(
        EMPTIED
            .into_iter()
            .filter(|name| is_set(name))
            .map(|name| (name, "")),
    );
    if is_set(DELAY) {
        set.push((DELAY, "0"));
    }
    set
}

/// The settings that every copy has, and their values, as its server must say them.
#[must_use]
pub fn of_role(wanted: &CloneSettings) -> Vec<(&'static str, &str)> {
    let mut set = vec![
        ("restore_command", NOTHING_TO_RESTORE),
        // Commits would wait for ever.
        ("synchronous_standby_names", ""),
        // The source's subscriptions are here too, and would take the changes out of the slots that the source reads.
        ("max_logical_replication_workers", "0"),
        // Nobody comes in before the copy is one; and one on a smaller host may have less of what a standby needs as
        // much of as its source.
        ("hot_standby", "off"),
    ];
    if !wanted.keeps_archiving {
        set.push(("archive_mode", "off"));
    }
    if let Some(seclusion) = &wanted.seclusion {
        set.extend(secluding(seclusion));
    }
    set
}

fn secluding(seclusion: &Seclusion) -> [(&'static str, &str); 4] {
    let Seclusion {
        sockets,
        hba_file,
        ident_file,
    } = seclusion;
    let [listen, directories, hba, ident] = SECLUDING;
    [
        (listen, ""),
        (directories, sockets),
        (hba, hba_file),
        (ident, ident_file),
    ]
}

/// What the file said before, of all that is set: for the mark.
#[must_use]
pub fn own_lines(old: &[u8], set: &[(&str, &str)]) -> Vec<OwnLine> {
    let before = effective(old);
    set.iter()
        .map(|(name, value)| OwnLine {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
            before: before.get(*name).cloned(),
        })
        .collect()
}

/// The text without the lines of ours, and with what stood there before. What somebody has changed since is theirs.
#[must_use]
pub fn taken_back(text: &[u8], lines: &[OwnLine]) -> Vec<u8> {
    let now = effective(text);
    let ours: Vec<&OwnLine> = lines
        .iter()
        .filter(|line| now.get(&line.name) == Some(&line.value))
        .collect();
    let names: Vec<&str> = ours.iter().map(|line| line.name.as_str()).collect();
    let before: Vec<(&str, &str)> = ours
        .iter()
        .filter_map(|line| Some((line.name.as_str(), line.before.as_deref()?)))
        .collect();
    conf::rewrite(text, &names, &before)
}

/// The text of a former copy as it was before it became one. Whatever its mark says: access rules that are ours go.
#[must_use]
pub fn no_copy_any_more(text: &[u8], mark: &Mark) -> Vec<u8> {
    let text = taken_back(text, &mark.lines);
    let is_ours = effective(&text)
        .get("hba_file")
        .is_some_and(|file| file.ends_with(CLONE_HBA));
    if is_ours {
        conf::rewrite(&text, &SECLUDING, &[])
    } else {
        text
    }
}

/// The text that lets others in, and the lines of ours that are left in it.
#[must_use]
pub fn opened(text: &[u8], lines: Vec<OwnLine>) -> (Vec<u8>, Vec<OwnLine>) {
    let (secluding, others): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| SECLUDING.contains(&line.name.as_str()));
    (taken_back(text, &secluding), others)
}

/// The text that lets nobody in any more, and all lines of ours in it.
#[must_use]
pub fn secluded(
    text: &[u8],
    lines: Vec<OwnLine>,
    seclusion: &Seclusion,
) -> (Vec<u8>, Vec<OwnLine>) {
    let (text, mut lines) = opened(text, lines);
    let set = secluding(seclusion);
    lines.extend(own_lines(&text, &set));
    (conf::rewrite(&text, &[], &set), lines)
}

/// Which settings of our lines say something else by now.
#[must_use]
pub fn changed(text: &[u8], mark: &Mark) -> Vec<String> {
    let now = effective(text);
    let lines = mark.lines.iter();
    lines
        .filter(|line| now.get(&line.name) != Some(&line.value))
        .map(|line| line.name.clone())
        .collect()
}

fn effective(text: &[u8]) -> BTreeMap<String, String> {
    conf::parse(text).map_or_else(|_| BTreeMap::new(), |lines| conf::effective(&lines))
}

/// Access rules for the hooks alone: this operating system user, as `role`.
#[must_use]
pub fn hba(role: &str) -> String {
    format!(
        "# Until the hooks of pg_reseed --role clone have succeeded, nobody else may come in.\n\
         local all {} peer map=pg_reseed\n",
        quoted(role)
    )
}

/// The map that [`hba`] names.
#[must_use]
pub fn ident(user: &str, role: &str) -> String {
    format!("pg_reseed {} {}\n", quoted(user), quoted(role))
}

/// A word of an access file (PostgreSQL `hba.c:next_token`): quotes take its meaning from any keyword.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('"', "\"\""))
}

/// What a directory is by its mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has none.
    Unmarked,
    /// It is the copy that the mark tells of.
    Copy,
    /// It is something else by now, or may be: a sentence.
    Doubtful(String),
}

/// A page header at most lies between where WAL ends and where the next record begins.
const PAGE_HEADER_MAX: u64 = 40;

/// Tells whether a directory is still the copy that its mark tells of: a mark alone says nothing, since it may have been
/// copied with other files, and a copy may have been made a primary that others rely on.
#[must_use]
pub fn standing(cluster: &TargetCluster) -> Standing {
    let Some(found) = &cluster.mark else {
        return Standing::Unmarked;
    };
    let mark = &found.mark;
    let doubt = |text: String| Standing::Doubtful(text);
    let Some(control) = &cluster.control else {
        return doubt("There is no control file that could tell.".to_owned());
    };
    if mark.system_identifier != control.system_identifier.to_string() {
        return doubt("Its mark was made for another cluster, or cannot be read.".to_owned());
    }
    if mark.inode != cluster.identity.inode {
        return doubt(
            "Its mark was made in another directory, and came here by a copy.".to_owned(),
        );
    }
    if cluster.has_standby_signal {
        return doubt("It has been made a standby since.".to_owned());
    }
    // What a copy of nobody's does not need.
    for (name, what) in [
        ("archive_mode", "It has been made to archive since"),
        (
            "synchronous_standby_names",
            "It has been made to wait for synchronous standbys since",
        ),
    ] {
        if found.changed.iter().any(|changed| changed == name) {
            return doubt(format!("{what} ({name} was changed)."));
        }
    }
    if let Some(slot) = cluster
        .slots
        .iter()
        .find(|slot| slot.kind == SlotKind::Physical)
    {
        return doubt(format!(
            "It has been given standbys since: it has the replication slot \"{}\".",
            slot.name
        ));
    }
    let tip = cluster.history.entries.last();
    let begin = tip.map(|tip| tip.begin).unwrap_or_default();
    let tip = cluster.history.tip();
    let reached = [
        Some(control.timeline_reached()),
        cluster.newest_wal_timeline,
    ];
    if reached
        .into_iter()
        .flatten()
        .any(|reached| reached.0 > tip.0)
    {
        return doubt("It has reached a timeline whose history is not known.".to_owned());
    }
    let is_unstarted = tip == mark.timeline;
    let began_there =
        begin >= mark.stop_lsn && begin.0 <= mark.wal_end.0.saturating_add(PAGE_HEADER_MAX);
    if is_unstarted || tip.0 > mark.timeline.0 && began_there {
        Standing::Copy
    } else {
        doubt(format!(
            "Its timeline {tip} begins at {begin}, and the copy that was made ended at {}: it has been promoted since.",
            mark.stop_lsn
        ))
    }
}

/// Whether what a copy has written may be overwritten by the next one without a word: it is what `--role clone` has
/// made, and the source has all that it was copied from.
#[must_use]
pub fn may_be_replaced(cluster: &TargetCluster, relation: &Relation, source: &SourceFacts) -> bool {
    let has_all = match relation {
        Relation::NewerTimeline {
            common: Some((_, lsn)),
            ..
        } => *lsn <= source.current_lsn,
        _ => false,
    };
    has_all && standing(cluster) == Standing::Copy
}

/// What a marked directory is, and why it is not overwritten without a word: sentences.
#[must_use]
pub fn remark(cluster: &TargetCluster) -> Option<String> {
    let mark = &cluster.mark.as_ref()?.mark;
    Some(match standing(cluster) {
        Standing::Unmarked => return None,
        Standing::Copy => format!("It is {}.", words(mark)),
        Standing::Doubtful(doubt) => format!(
            "Its file \"{CLONE_MARK}\" says that it is {}, but that does not fit. {doubt}",
            words(mark)
        ),
    })
}

/// What a mark tells, for people: completes a sentence that begins with "it is".
#[must_use]
pub fn words(mark: &Mark) -> String {
    format!(
        "a copy of cluster {}, taken from \"{}\" up to {}, and no member of it",
        mark.system_identifier, mark.source_host, mark.stop_lsn
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::clone::MarkFound;
    use crate::facts::{TargetFacts, TargetSlot};
    use crate::pg::control::ClusterState;
    use crate::pg::lsn::Lsn;
    use crate::pg::timeline::{History, TimelineId};
    use crate::plan::relation::relate;
    use crate::plan::samples::{self, control, source, target};

    type Bend = fn(&mut TargetCluster);

    /// Where the copy that is told of below ended.
    const STOP: Lsn = Lsn(0x400_0100);

    /// A copy of the source that went on on timeline 3.
    fn copy() -> TargetCluster {
        let mut cluster = samples::cluster(0);
        cluster.control = Some(control(3, 0x600_0028, ClusterState::ShutDown));
        let text = b"1\t0/3000060\tx\n2\t0/5000000\tx\n";
        cluster.history = History::parse(TimelineId(3), text).unwrap();
        cluster.newest_wal_timeline = Some(TimelineId(3));
        cluster.mark = Some(MarkFound {
            mark: Mark {
                system_identifier: source().control.system_identifier.to_string(),
                source_host: "b".to_owned(),
                timeline: TimelineId(2),
                stop_lsn: STOP,
                wal_end: Lsn(0x500_0000),
                inode: cluster.identity.inode,
                ..Mark::default()
            },
            changed: vec!["hot_standby".to_owned()],
        });
        cluster
    }

    fn facts(cluster: &TargetCluster) -> TargetFacts {
        target(crate::facts::Condition::Cluster(Box::new(cluster.clone())))
    }

    fn is_free(cluster: &TargetCluster, source: &SourceFacts) -> bool {
        let relation = relate(&facts(cluster), source);
        may_be_replaced(cluster, &relation, source)
    }

    #[test]
    fn a_copy_that_was_written_to_may_be_overwritten_and_nothing_else() {
        assert_eq!(standing(&copy()), Standing::Copy);
        assert!(is_free(&copy(), &source()));
        let doubts: &[(&str, Bend)] = &[
            ("another cluster", |c| {
                c.control.as_mut().unwrap().system_identifier = 1;
            }),
            ("another cluster", |c| {
                c.mark = Some(MarkFound::default());
            }),
            ("another directory", |c| c.identity.inode += 1),
            ("a standby", |c| c.has_standby_signal = true),
            ("archive_mode", |c| {
                let mark = c.mark.as_mut().unwrap();
                mark.changed = vec!["archive_mode".to_owned()];
            }),
            ("given standbys", |c| {
                c.slots = vec![TargetSlot {
                    name: "s".to_owned(),
                    kind: SlotKind::Physical,
                    restart_lsn: None,
                    is_synced: false,
                }];
            }),
            ("promoted since", |c| {
                let text = b"1\t0/3000060\tx\n2\t0/4F00000\tx\n";
                c.mark.as_mut().unwrap().mark.stop_lsn = Lsn(0x4F0_0001);
                c.history = History::parse(TimelineId(3), text).unwrap();
            }),
            ("promoted since", |c| {
                let text = b"2\t0/5000000\tx\n3\t0/7000000\tx\n";
                c.control = Some(control(4, 0x800_0028, ClusterState::ShutDown));
                c.history = History::parse(TimelineId(4), text).unwrap();
                c.newest_wal_timeline = Some(TimelineId(4));
            }),
            ("not known", |c| {
                c.newest_wal_timeline = Some(TimelineId(4));
            }),
        ];
        for (words, bend) in doubts {
            let mut cluster = copy();
            bend(&mut cluster);
            match standing(&cluster) {
                Standing::Doubtful(doubt) => assert!(doubt.contains(words), "{doubt}"),
                other => panic!("{words}: {other:?}"),
            }
            assert!(!is_free(&cluster, &source()), "{words}");
        }
        let mut unmarked = copy();
        unmarked.mark = None;
        assert!(!is_free(&unmarked, &source()));
        // One that lost what the copy was taken from: the copy may be all that is left of it.
        let mut restored = source();
        restored.current_lsn = Lsn(0x4F0_0000);
        assert!(!is_free(&copy(), &restored));
    }

    #[test]
    fn a_copy_that_was_never_started_is_one() {
        let mut cluster = copy();
        cluster.control = Some(control(2, 0x400_0028, ClusterState::InProduction));
        cluster.history = source().history;
        cluster.newest_wal_timeline = Some(TimelineId(2));
        assert_eq!(standing(&cluster), Standing::Copy);
    }

    #[test]
    fn lines_of_ours_go_and_what_stood_there_comes_back() {
        let old = b"work_mem = '1MB'\narchive_mode = 'always'\nhba_file = '/etc/hba'\n";
        let wanted = CloneSettings {
            keeps_archiving: false,
            seclusion: Some(Seclusion {
                sockets: "/tmp/pg_reseed.1".to_owned(),
                hba_file: "/pg/pg_reseed.hba".to_owned(),
                ident_file: "/pg/pg_reseed.ident".to_owned(),
            }),
        };
        let base = BTreeMap::from([
            ("recovery_end_command".to_owned(), "rm".to_owned()),
            ("recovery_min_apply_delay".to_owned(), "1h".to_owned()),
        ]);
        let set = settings(old, &base, &wanted);
        for line in [
            ("archive_mode", "off"),
            ("listen_addresses", ""),
            ("recovery_end_command", ""),
            ("recovery_min_apply_delay", "0"),
        ] {
            assert!(set.contains(&line), "{line:?}");
        }
        let lines = own_lines(old, &set);
        let closed = conf::rewrite(old, &[], &set);
        let mut mark = Mark {
            lines: lines.clone(),
            ..Mark::default()
        };
        assert_eq!(changed(&closed, &mark), [""; 0]);
        assert_eq!(effective(&no_copy_any_more(&closed, &mark)), effective(old));
        // Open, and closed once more.
        let (open, rest) = opened(&closed, lines);
        assert_eq!(effective(&open)["hba_file"], "/etc/hba");
        assert_eq!(effective(&open)["archive_mode"], "off");
        let seclusion = wanted.seclusion.unwrap();
        let (again, all) = secluded(&open, rest, &seclusion);
        assert_eq!(effective(&again), effective(&closed));
        mark.lines = all;
        // What somebody has changed is theirs.
        let theirs = conf::rewrite(&again, &[], &[("archive_mode", "on")]);
        assert_eq!(changed(&theirs, &mark), ["archive_mode"]);
        let back = effective(&no_copy_any_more(&theirs, &mark));
        assert_eq!(back["archive_mode"], "on");
        // Rules of ours go although another mark tells of them.
        let back = effective(&no_copy_any_more(&closed, &Mark::default()));
        assert!(!back.contains_key("hba_file") && back.contains_key("hot_standby"));
    }

    #[test]
    fn names_in_access_rules_are_nothing_but_names() {
        assert!(hba("all").contains("local all \"all\" peer"));
        assert_eq!(ident("a", "it\"s"), "pg_reseed \"a\" \"it\"\"s\"\n");
    }
}
