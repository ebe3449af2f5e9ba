//! What happens to each entry of the manifest, and which of the target's own entries must go.
//!
//! One entry, one decision: from the entry, what the target has under its path, and the class of the
//! path (`pg::layout`). The writer executes, in this order: lengths and directories, content,
//! removals. Sizes decide here how a file is compared, never whether: two files of one size are as
//! likely to differ as any.
//!
//! Links of tablespaces are made from their [`Placement`](super::tablespaces::Placement)s before the
//! target is walked, so that what is seen beneath `pg_tblspc/<oid>/` is what is there afterwards.

use std::collections::HashSet;

use crate::geometry::{EXTENT_BYTES, ROLLING_MAX_BYTES};
use crate::manifest::{Entry, EntryKind, Item, Listing, Manifest, join};
use crate::path::RelPath;
use crate::pg::layout::{
    Class, HostLocal, Kind, classify, is_statistics, is_written_whole, tablespace_oid,
};

/// What the target has under an entry's path; links are not followed, except those of tablespaces
/// and pg_wal on the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetEntry {
    pub kind: Kind,
    /// Bytes of a file.
    pub size: u64,
}

/// Whose host-local files the target has afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPolicy {
    /// Its own and no others: its configuration lies outside the data directory.
    Keep,
    /// Its own, and the source's where it has none, except private keys: a rebuild.
    FillGaps,
    /// The source's: a seed, or `--config=source`.
    TakeSource,
}

/// What happens to an entry of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// What the target has stays as it is.
    Keep,
    /// So does all that is in it: nothing of the source's comes there, lest both be mixed.
    KeepWhole,
    /// The target gets nothing under this path: it is made in another way, or not wanted.
    Skip,
    /// A directory is made.
    MakeDirectory {
        /// What stands in its place and goes first; a directory with all that is in it, a link
        /// without what it leads to.
        obstacle: Option<Kind>,
    },
    /// The file is read whole from the source.
    Fetch { bytes: u64, obstacle: Option<Kind> },
    /// The file is cut or extended to `compare_bytes + fetch_bytes`, its beginning compared by
    /// blocks, its end read from the source.
    Compare {
        /// Compared from the start; what the target's file lacks of it counts as zeros. Ends on an
        /// extent's border, or with the source's file.
        compare_bytes: u64,
        /// Read from the source, behind that.
        fetch_bytes: u64,
    },
    /// The file is read as a whole, as it is then, whatever the manifest says of its length; a rolling
    /// delta against what the target has makes that cheap.
    Whole { obstacle: Option<Kind> },
}

/// Decides what happens to an entry of the manifest. `host_local` is the target's: what it calls its
/// own.
#[must_use]
pub fn decide(
    entry: &Entry,
    target: Option<TargetEntry>,
    host_local: &HostLocal,
    policy: HostPolicy,
) -> Action {
    if tablespace_oid(&entry.path).is_some() {
        // Link or directory: made from its placement.
        return Action::Skip;
    }
    let kind = match entry.kind {
        EntryKind::File => Kind::File,
        EntryKind::Directory => Kind::Directory,
    };
    match classify(&entry.path, kind, host_local) {
        Class::Synchronised => synchronise(entry, target),
        Class::EmptiedDirectory => match target.map(|target| target.kind) {
            // A link is the target's choice of another disk.
            Some(Kind::Directory | Kind::Symlink) => Action::Keep,
            other => Action::MakeDirectory { obstacle: other },
        },
        // What the DBA names stays, whatever the policy.
        Class::HostLocal if target.is_some() && host_local.is_kept(&entry.path) => {
            Action::KeepWhole
        }
        Class::HostLocal => follow_policy(entry, target, policy),
        // Beside a tablespace's version directory lie other clusters.
        Class::Foreign if is_in_tablespaces(&entry.path) => Action::Skip,
        // It may be an extension's, and belong to the data.
        Class::Foreign => synchronise(entry, target),
        Class::InsideEmptied | Class::LeftOut | Class::Ours | Class::Control => Action::Skip,
    }
}

fn follow_policy(entry: &Entry, target: Option<TargetEntry>, policy: HostPolicy) -> Action {
    match (policy, target) {
        (HostPolicy::TakeSource, _) => synchronise(entry, target),
        (HostPolicy::FillGaps, Some(here)) if is_void(&entry.path, here) => {
            synchronise(entry, target)
        }
        (_, Some(_)) => Action::KeepWhole,
        (HostPolicy::Keep, None) => Action::Skip,
        (HostPolicy::FillGaps, None) if is_private_key(&entry.path) => Action::Skip,
        (HostPolicy::FillGaps, None) => synchronise(entry, None),
    }
}

fn synchronise(entry: &Entry, target: Option<TargetEntry>) -> Action {
    let obstacle = target.map(|target| target.kind);
    match (entry.kind, target) {
        (
            EntryKind::Directory,
            Some(TargetEntry {
                kind: Kind::Directory,
                ..
            }),
        ) => Action::Keep,
        (EntryKind::Directory, _) => Action::MakeDirectory { obstacle },
        (EntryKind::File, _)
            if is_written_whole(&entry.path) && entry.size <= ROLLING_MAX_BYTES =>
        {
            Action::Whole {
                obstacle: obstacle.filter(|kind| *kind != Kind::File),
            }
        }
        (
            EntryKind::File,
            Some(TargetEntry {
                kind: Kind::File,
                size,
            }),
        ) => update(entry, size),
        (EntryKind::File, _) => Action::Fetch {
            bytes: entry.size,
            obstacle,
        },
    }
}

/// Both sides have the file.
fn update(entry: &Entry, target_bytes: u64) -> Action {
    let source_bytes = entry.size;
    // The extent in which the target's file ends is compared, not fetched: its blocks may match.
    let compare_bytes = target_bytes
        .checked_next_multiple_of(u64::from(EXTENT_BYTES))
        .unwrap_or(u64::MAX)
        .min(source_bytes);
    Action::Compare {
        compare_bytes,
        fetch_bytes: source_bytes - compare_bytes,
    }
}

/// Whether what the target has is as good as nothing: a `pg_hba.conf` without content, with which no server starts
/// (PostgreSQL `hba.c:load_hba`), as a killed `pg_rewind` leaves it.
#[must_use]
pub fn is_void(path: &RelPath, here: TargetEntry) -> bool {
    path.as_bytes() == b"pg_hba.conf" && here.kind == Kind::File && here.size == 0
}

/// Whether a name is that of a private key, by the habits of `ssl_key_file`.
fn is_private_key(path: &RelPath) -> bool {
    let name = path.name();
    name.ends_with(b".key") || name.ends_with(b"key.pem")
}

fn is_in_tablespaces(path: &RelPath) -> bool {
    path.components().next() == Some(b"pg_tblspc")
}

/// What becomes of something that the target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It stays: the manifest has it, or it belongs to the host or to the run.
    Stay,
    /// It stays although nobody knows it: the DBA is told.
    StayForeign,
    /// It goes.
    Go(Why),
}

/// Why something of the target goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// The source does not have it.
    NotOnSource,
    /// It is the content of a directory that is emptied: old WAL, slots, statistics.
    Emptied,
    /// It describes another life of the directory: an old label, a signal, a temporary file.
    LeftOut,
}

/// Decides what becomes of something of that class that the target has. `is_wanted` says whether the manifest has
/// it, or, of `pg_tblspc/<oid>`, whether a placement does; `is_replaced` of something foreign, whether it is in an
/// entry that the source has too.
fn fate(class: Class, is_wanted: impl Fn() -> bool, is_replaced: impl Fn() -> bool) -> Fate {
    match class {
        Class::HostLocal | Class::Ours | Class::EmptiedDirectory | Class::Control => Fate::Stay,
        Class::InsideEmptied => Fate::Go(Why::Emptied),
        Class::LeftOut => Fate::Go(Why::LeftOut),
        Class::Synchronised if is_wanted() => Fate::Stay,
        Class::Synchronised => Fate::Go(Why::NotOnSource),
        Class::Foreign if is_wanted() => Fate::Stay,
        Class::Foreign if is_replaced() => Fate::Go(Why::NotOnSource),
        Class::Foreign => Fate::StayForeign,
    }
}

/// What something that goes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// As what it goes: a link without what it leads to, a directory once it is empty.
    pub kind: Kind,
    pub why: Why,
}

/// What becomes of what the target has.
#[derive(Debug, Clone, Default)]
pub struct Removals {
    /// What goes: backwards, so that content goes before its directory.
    pub remove: Listing<Removal>,
    /// How many files the source does not have: what `--max-delete` limits. What is emptied or left out in
    /// every rebuild tells nothing about a mistake.
    pub limited_files: u64,
    /// Kept, for the report: the outermost of what PostgreSQL does not know, without its content.
    pub kept_foreign: Vec<RelPath>,
    /// Kept, for the report: the outermost of what belongs to the host.
    pub kept_own: Vec<RelPath>,
    /// Directories whose content goes.
    pub emptied: Vec<RelPath>,
}

/// Decides what goes from the target, given both lists. A directory that holds something that stays does not go
/// either. `is_wanted` says of a path that the manifest does not have whether it is wanted nevertheless: of
/// `pg_tblspc/<oid>`, when a placement is, and of what the source has and cannot send. Remembers directories and what
/// goes, not every file.
#[must_use]
pub fn removals(
    manifest: &Manifest,
    tree: &Listing<Kind>,
    host_local: &HostLocal,
    policy: HostPolicy,
    is_wanted: impl Fn(&RelPath) -> bool,
) -> Removals {
    let mut found = Removals::default();
    let mut going = Vec::new();
    let mut foreign = HashSet::new();
    let mut occupied = HashSet::new();
    // Whose files stay is mostly the same as with the file before.
    let mut last_occupied: Option<&RelPath> = None;
    let on_top = manifest.iter().filter(|item| item.directory.is_none());
    let on_top: HashSet<RelPath> = on_top.map(|item| item.path()).collect();
    for pair in join(manifest, tree) {
        let Some(item) = pair.right else { continue };
        let is_in_manifest = pair.left.is_some();
        let path = item.path();
        let class = classify(&path, item.kind, host_local);
        let fate = fate(
            class,
            || is_in_manifest || is_wanted(&path),
            || !is_in_tablespaces(&path) && on_top.contains(&top_of(&path)),
        );
        if let Fate::Go(mut why) = fate {
            if is_statistics(&path) {
                why = Why::Emptied;
            }
            if why == Why::NotOnSource && item.kind != Kind::Directory {
                found.limited_files += 1;
            }
            going.push((item.id, why));
            continue;
        }
        if last_occupied.is_none() || last_occupied != item.directory {
            occupy(&mut occupied, &path);
            last_occupied = item.directory;
        }
        if fate == Fate::StayForeign && !has_ancestor(&path, |above| foreign.contains(above)) {
            foreign.insert(path.clone());
            found.kept_foreign.push(path);
        } else if class == Class::EmptiedDirectory {
            found.emptied.push(path);
        } else if class == Class::HostLocal
            && !(policy == HostPolicy::TakeSource && is_in_manifest)
            && !(policy == HostPolicy::FillGaps && is_in_manifest && is_void(&path, here(item)))
            && item.directory.is_none_or(|above| !host_local.covers(above))
        {
            found.kept_own.push(path);
        }
    }
    let going = going
        .into_iter()
        .filter_map(|(id, why)| Some((tree.get(id)?, why)))
        .filter(|(item, _)| item.kind != Kind::Directory || !occupied.contains(&item.path()))
        .map(|(item, why)| {
            let kind = item.kind;
            (item, Removal { kind, why })
        });
    found.remove = Listing::of_items(going);
    found
}

/// The entry at the top in which a path lies.
#[must_use]
pub fn top_of(path: &RelPath) -> RelPath {
    let mut top = path.clone();
    while let Some(above) = top.parent() {
        top = above;
    }
    top
}

fn here(item: Item<'_, Kind>) -> TargetEntry {
    TargetEntry {
        kind: item.kind,
        size: item.size,
    }
}

/// Notes the directories above a path.
fn occupy(occupied: &mut HashSet<RelPath>, path: &RelPath) {
    let mut above = path.parent();
    while let Some(directory) = above {
        above = directory.parent();
        if !occupied.insert(directory) {
            // Then all above it are noted too.
            break;
        }
    }
}

fn has_ancestor(path: &RelPath, is_there: impl Fn(&RelPath) -> bool) -> bool {
    let mut above = path.parent();
    while let Some(directory) = above {
        if is_there(&directory) {
            return true;
        }
        above = directory.parent();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::manifest::Folder;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    fn file(text: &str, size: u64) -> Entry {
        Entry {
            path: path(text),
            kind: EntryKind::File,
            size,
        }
    }

    fn directory(text: &str) -> Entry {
        Entry {
            kind: EntryKind::Directory,
            ..file(text, 0)
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the target has it")]
    fn has(kind: Kind, size: u64) -> Option<TargetEntry> {
        Some(TargetEntry { kind, size })
    }

    fn host_local() -> HostLocal {
        HostLocal::default_for(Some("PG_15_202209061"))
    }

    fn decided(entry: &Entry, target: Option<TargetEntry>) -> Action {
        decide(entry, target, &host_local(), HostPolicy::FillGaps)
    }

    const EXTENT: u64 = EXTENT_BYTES as u64;

    #[test]
    fn relations_are_compared_as_far_as_the_target_has_them() {
        for (source, target, compare_bytes, fetch_bytes) in [
            (8192, 8192, 8192, 0),
            (8192, 16_384, 8192, 0),
            (16_384, 8192, 16_384, 0),
            (0, 8192, 0, 0),
            (8192, 0, 0, 8192),
            (4 * EXTENT, EXTENT, EXTENT, 3 * EXTENT),
            (4 * EXTENT, EXTENT + 8192, 2 * EXTENT, 2 * EXTENT),
            (1 << 30, 1 << 20, 1 << 20, (1 << 30) - (1 << 20)),
        ] {
            assert_eq!(
                decided(&file("base/5/16384", source), has(Kind::File, target)),
                Action::Compare {
                    compare_bytes,
                    fetch_bytes
                },
                "{source} {target}"
            );
        }
    }

    proptest! {
        /// Whatever the sizes: compared and fetched bytes make up the source's file, the border
        /// between them lies on an extent's, and nothing that the target has is fetched.
        #[test]
        fn compare_covers_the_source_exactly_random(
            source in 0..5 * EXTENT,
            target in 0..5 * EXTENT,
        ) {
            let action = decided(&file("base/5/16384", source), has(Kind::File, target));
            let Action::Compare { compare_bytes, fetch_bytes } = action else {
                panic!("{action:?}");
            };
            prop_assert_eq!(compare_bytes + fetch_bytes, source);
            prop_assert!(fetch_bytes == 0 || compare_bytes.is_multiple_of(EXTENT));
            prop_assert!(compare_bytes >= source.min(target));
        }
    }

    #[test]
    fn an_access_file_without_content_is_filled() {
        for (name, size, policy, is_kept) in [
            ("pg_hba.conf", 0, HostPolicy::FillGaps, false),
            ("pg_hba.conf", 1, HostPolicy::FillGaps, true),
            ("pg_hba.conf", 0, HostPolicy::Keep, true),
            // These may well be empty.
            ("pg_ident.conf", 0, HostPolicy::FillGaps, true),
            ("postgresql.conf", 0, HostPolicy::FillGaps, true),
        ] {
            let action = decide(&file(name, 9), has(Kind::File, size), &host_local(), policy);
            assert_eq!(
                action == Action::KeepWhole,
                is_kept,
                "{name} {size} {policy:?}"
            );
        }
        let mut kept = host_local();
        kept.add_pattern("pg_hba.conf").unwrap();
        let entry = file("pg_hba.conf", 9);
        let action = decide(&entry, has(Kind::File, 0), &kept, HostPolicy::FillGaps);
        assert_eq!(action, Action::KeepWhole);
    }

    #[test]
    fn what_is_written_as_a_whole_is_read_as_a_whole() {
        let is_whole = |name: &str, source, target| {
            let target = Some(target).filter(|bytes| *bytes > 0);
            let target = target.and_then(|bytes| has(Kind::File, bytes));
            let action = decided(&file(name, source), target);
            matches!(action, Action::Whole { obstacle: None })
        };
        for name in [
            "pg_logical/replorigin_checkpoint",
            "base/5/pg_filenode.map",
            "PG_VERSION",
            "notes",
        ] {
            assert!(is_whole(name, 0, 0), "{name}");
            assert!(is_whole(name, ROLLING_MAX_BYTES, 0), "{name}");
            assert!(!is_whole(name, ROLLING_MAX_BYTES + 1, 0), "{name}");
        }
        assert!(is_whole("PG_VERSION", 3, ROLLING_MAX_BYTES + 1));
        for name in [
            "pg_xact/0000",
            "pg_multixact/members/0000",
            "base/5/16384",
            "base/5/16384_vm",
        ] {
            assert!(!is_whole(name, 8192, 8192), "{name}");
        }
    }

    #[test]
    fn what_the_dba_keeps_is_never_overwritten() {
        let mut host_local = host_local();
        host_local.add_pattern("*.map").unwrap();
        let entry = file("pg_ident.map", 9);
        let action = |target| decide(&entry, target, &host_local, HostPolicy::TakeSource);
        assert_eq!(action(has(Kind::File, 5)), Action::KeepWhole);
        assert_eq!(action(None), Action::Whole { obstacle: None });
    }

    #[test]
    fn what_is_missing_is_fetched_or_made() {
        assert_eq!(
            decided(&file("base/5/1", 9), None),
            Action::Fetch {
                bytes: 9,
                obstacle: None
            }
        );
        let make = Action::MakeDirectory { obstacle: None };
        for name in ["base/5", "pg_wal", "pg_replslot", "pg_wal/archive_status"] {
            assert_eq!(decided(&directory(name), None), make, "{name}");
        }
    }

    #[test]
    fn another_kind_is_replaced() {
        for kind in [Kind::Directory, Kind::Symlink] {
            assert_eq!(
                decided(&file("base/5/1", 9), has(kind, 0)),
                Action::Fetch {
                    bytes: 9,
                    obstacle: Some(kind)
                }
            );
        }
        for kind in [Kind::File, Kind::Symlink] {
            assert_eq!(
                decided(&directory("base/5"), has(kind, 0)),
                Action::MakeDirectory {
                    obstacle: Some(kind)
                }
            );
        }
        assert_eq!(
            decided(&directory("pg_wal"), has(Kind::File, 0)),
            Action::MakeDirectory {
                obstacle: Some(Kind::File)
            }
        );
    }

    #[test]
    fn directories_and_the_link_of_the_wal_stay() {
        for (name, kind) in [
            ("base/5", Kind::Directory),
            ("pg_wal", Kind::Directory),
            ("pg_wal", Kind::Symlink),
            ("pg_replslot", Kind::Directory),
        ] {
            assert_eq!(decided(&directory(name), has(kind, 0)), Action::Keep);
        }
    }

    #[test]
    fn what_is_made_in_another_way_is_skipped() {
        for entry in [
            directory("pg_tblspc/16400"),
            file("global/pg_control", 8192),
            file("backup_label", 200),
            file("postmaster.pid", 80),
            file("pg_wal/000000010000000000000001", 1 << 24),
            file("pg_reseed.state", 10),
            file("pg_tblspc/16400/PG_14_202107181/5/1", 8192),
        ] {
            assert_eq!(decided(&entry, None), Action::Skip, "{entry:?}");
        }
        assert_ne!(
            decided(&directory("pg_tblspc/16400/PG_15_202209061"), None),
            Action::Skip
        );
    }

    #[test]
    fn host_files_follow_the_policy() {
        let takes = |name: &str, target, policy| {
            let entry = file(name, 100);
            !matches!(
                decide(&entry, target, &host_local(), policy),
                Action::Keep | Action::KeepWhole | Action::Skip
            )
        };
        let own = has(Kind::File, 50);
        let link = has(Kind::Symlink, 0);
        for name in ["postgresql.conf", "server.key", "notes.log"] {
            let is_key = name == "server.key";
            for target in [own, link] {
                assert!(!takes(name, target, HostPolicy::Keep));
                assert!(!takes(name, target, HostPolicy::FillGaps));
                assert!(takes(name, target, HostPolicy::TakeSource));
            }
            assert!(!takes(name, None, HostPolicy::Keep));
            assert_eq!(takes(name, None, HostPolicy::FillGaps), !is_key);
            assert!(takes(name, None, HostPolicy::TakeSource));
        }
        // A link of the target is replaced, never written through.
        assert_eq!(
            decide(
                &file("postgresql.conf", 100),
                link,
                &host_local(),
                HostPolicy::TakeSource
            ),
            Action::Whole {
                obstacle: Some(Kind::Symlink)
            }
        );
    }

    #[test]
    fn what_an_extension_may_have_written_comes_whatever_the_policy() {
        for policy in [
            HostPolicy::Keep,
            HostPolicy::FillGaps,
            HostPolicy::TakeSource,
        ] {
            let decide = |entry: &Entry, target| decide(entry, target, &host_local(), policy);
            for name in ["pg_tde/1664_keys", "pgsodium_root.key"] {
                for target in [None, has(Kind::File, 9)] {
                    let action = decide(&file(name, 9), target);
                    assert_eq!(action, Action::Whole { obstacle: None }, "{name}");
                }
            }
            for kind in [Kind::File, Kind::Symlink] {
                let action = decide(&directory("pg_tde"), has(kind, 9));
                let obstacle = Some(kind);
                assert_eq!(action, Action::MakeDirectory { obstacle });
            }
            let action = decide(&file("pg_tde", 9), has(Kind::Directory, 0));
            let obstacle = Some(Kind::Directory);
            assert_eq!(action, Action::Whole { obstacle });
        }
    }

    #[test]
    fn foreign_entries_of_the_source_are_made_equal_as_a_whole() {
        let manifest = listing(&[
            ("both", EntryKind::Directory),
            ("both/b", EntryKind::File),
            ("file", EntryKind::File),
            ("patroni.dynamic.json", EntryKind::File),
        ]);
        let target = listing(&[
            ("both", Kind::Directory),
            ("both/a", Kind::File),
            ("both/b", Kind::File),
            ("both/kept.state", Kind::File),
            ("both/sub", Kind::Directory),
            ("both/sub/c", Kind::File),
            ("both/unseen", Kind::Directory),
            ("both/unseen/d", Kind::File),
            ("file", Kind::File),
            ("file.2", Kind::File),
            ("mine", Kind::Directory),
            ("mine/b", Kind::File),
            ("patroni.dynamic.json", Kind::File),
        ]);
        let mut host = host_local();
        host.add_pattern("*.state").unwrap();
        let unseen = path("both/unseen");
        let is_wanted = |path: &RelPath| path.starts_with(&unseen);
        let policy = HostPolicy::FillGaps;
        let found = removals(&manifest, &target, &host, policy, is_wanted);
        let names = |paths: &[RelPath]| paths.iter().map(RelPath::to_string).collect::<Vec<_>>();
        let gone: Vec<RelPath> = found.remove.iter().map(|item| item.path()).collect();
        assert_eq!(names(&gone), ["both/a", "both/sub", "both/sub/c"]);
        assert_eq!(found.limited_files, 2);
        assert_eq!(names(&found.kept_foreign), ["file.2", "mine"]);
        assert_eq!(
            names(&found.kept_own),
            ["patroni.dynamic.json", "both/kept.state"]
        );
    }

    const TARGET: &[(&str, Kind)] = &[
        ("PG_VERSION", Kind::File),
        ("backup_label.old", Kind::File),
        ("base", Kind::Directory),
        ("base/5", Kind::Directory),
        ("base/5/1", Kind::File),
        ("base/5/1.1", Kind::File),
        ("base/5/1_init", Kind::File),
        ("base/6", Kind::Directory),
        ("base/6/1", Kind::File),
        ("global/pg_control", Kind::File),
        ("notes", Kind::Directory),
        ("notes.d", Kind::Directory),
        ("notes/a", Kind::File),
        ("pg_replslot", Kind::Directory),
        ("pg_replslot/s", Kind::Directory),
        ("pg_replslot/s/state", Kind::File),
        ("pg_reseed.state", Kind::File),
        ("pg_stat", Kind::Directory),
        ("pg_stat/pgstat.stat", Kind::File),
        ("pg_tblspc", Kind::Directory),
        ("pg_tblspc/7", Kind::Symlink),
        ("pg_tblspc/7/PG_15_202209061", Kind::Directory),
        ("pg_tblspc/7/PG_15_202209061/5", Kind::Directory),
        ("pg_tblspc/7/PG_15_202209061/5/9", Kind::File),
        ("pg_tblspc/8", Kind::Symlink),
        ("pg_tblspc/8/PG_14_202107181", Kind::Directory),
        ("pg_tblspc/8/PG_15_202209061", Kind::Directory),
        ("pg_wal", Kind::Symlink),
        ("pg_wal/000000010000000000000001", Kind::File),
        ("pg_wal/00000002.history", Kind::File),
        ("pg_wal/archive_status", Kind::Directory),
        ("pg_wal/archive_status/x.ready", Kind::File),
        ("pg_wal/walg_data", Kind::Directory),
        ("postgresql.conf", Kind::File),
        ("standby.signal", Kind::File),
        ("postmaster.pid", Kind::File),
    ];

    fn listing<K: Copy>(content: &[(&str, K)]) -> Listing<K> {
        let mut sorted: Vec<_> = content
            .iter()
            .map(|(name, kind)| (path(name), *kind))
            .collect();
        sorted.sort_by(|a, b| a.0.name().cmp(b.0.name()));
        let mut folders: BTreeMap<Option<RelPath>, Folder<K>> = BTreeMap::new();
        for (path, kind) in sorted {
            let directory = path.parent();
            let folder = folders
                .entry(directory.clone())
                .or_insert_with(|| Folder::new(directory));
            folder.push(path.name(), kind, 0).unwrap();
        }
        Listing::from_folders(folders.into_values().collect()).unwrap()
    }

    fn removed() -> Removals {
        let manifest = listing(&[
            ("PG_VERSION", EntryKind::File),
            ("base", EntryKind::Directory),
            ("base/5", EntryKind::Directory),
            ("base/5/1", EntryKind::File),
            ("pg_stat", EntryKind::Directory),
            ("pg_tblspc", EntryKind::Directory),
            ("pg_tblspc/7/PG_15_202209061", EntryKind::Directory),
            ("pg_tblspc/7/PG_15_202209061/5", EntryKind::Directory),
        ]);
        let placed = path("pg_tblspc/7");
        let policy = HostPolicy::FillGaps;
        let is_wanted = |path: &RelPath| *path == placed;
        removals(
            &manifest,
            &listing(TARGET),
            &host_local(),
            policy,
            is_wanted,
        )
    }

    #[test]
    fn only_what_the_source_lacks_goes() {
        let found = removed();
        let by_why = |why| {
            let mut names: Vec<String> = found
                .remove
                .iter()
                .filter(|removal| removal.kind.why == why)
                .map(|removal| removal.path().to_string())
                .collect();
            names.sort();
            names
        };
        assert_eq!(
            by_why(Why::NotOnSource),
            [
                "base/5/1.1",
                "base/5/1_init",
                "base/6",
                "base/6/1",
                "pg_tblspc/7/PG_15_202209061/5/9",
                "pg_tblspc/8",
                "pg_tblspc/8/PG_15_202209061",
            ]
        );
        assert_eq!(
            by_why(Why::Emptied),
            [
                "pg_replslot/s",
                "pg_replslot/s/state",
                "pg_stat/pgstat.stat",
                "pg_wal/000000010000000000000001",
                "pg_wal/00000002.history",
                "pg_wal/archive_status/x.ready",
                "pg_wal/walg_data",
            ]
        );
        assert_eq!(
            by_why(Why::LeftOut),
            ["backup_label.old", "postmaster.pid", "standby.signal"]
        );
        let kept: Vec<String> = found.kept_foreign.iter().map(RelPath::to_string).collect();
        assert_eq!(kept, ["notes", "notes.d", "pg_tblspc/8/PG_14_202107181"]);
        assert_eq!(found.limited_files, 5);
        assert_eq!(found.kept_own, [path("postgresql.conf")]);
        assert_eq!(
            found.emptied,
            ["pg_replslot", "pg_wal", "pg_wal/archive_status"].map(path)
        );
    }

    #[test]
    fn content_goes_before_its_directory_and_no_directory_that_is_needed() {
        let found = removed();
        let mut gone = BTreeSet::new();
        let kinds: BTreeMap<RelPath, Kind> = TARGET
            .iter()
            .map(|(name, kind)| (path(name), *kind))
            .collect();
        for removal in found.remove.iter().rev() {
            let path = removal.path();
            if removal.kind.kind == Kind::Directory {
                let left = kinds
                    .keys()
                    .filter(|inner| **inner != path && inner.starts_with(&path))
                    .find(|inner| !gone.contains(*inner));
                assert_eq!(left, None, "{path} is not empty");
            }
            gone.insert(path);
        }
    }

    #[test]
    fn a_directory_that_holds_something_kept_stays() {
        // An in-place tablespace of the target, with another cluster's directory in it.
        let target = listing(&[
            ("pg_tblspc/9", Kind::Directory),
            ("pg_tblspc/9/PG_14_202107181", Kind::Directory),
            ("pg_tblspc/9/PG_15_202209061", Kind::Directory),
        ]);
        let nothing = Manifest::default();
        let found = removals(
            &nothing,
            &target,
            &host_local(),
            HostPolicy::FillGaps,
            |_| false,
        );
        let gone: Vec<String> = found.remove.iter().map(|r| r.path().to_string()).collect();
        assert_eq!(gone, ["pg_tblspc/9/PG_15_202209061"]);
    }
}
