//! Lists of files and directories: the manifest, which is the agent's list of what the target shall hold,
//! made by one walk inside the bracket, and what the target itself has.
//!
//! A cluster may have a million files, so a list keeps no path for each: the entries of one directory stand
//! together, their names one after the other, and a path is made when it is asked for. An entry takes 16 bytes
//! and its name.
//!
//! All lists have one order: directories by their components, so that what lies beneath a directory follows it,
//! and in a directory by name. Neighbours on disk stay neighbours, a directory comes before its content, and
//! two lists can be held against each other in one pass.

mod lawful;

use std::cmp::Ordering;
use std::iter::Peekable;

use crate::geometry::EntryId;
use crate::path::{PathError, RelPath, check_name};

pub use lawful::twins;

/// What an entry of the manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    File,
    Directory,
}

/// One file or directory of the source. Tablespaces appear beneath `pg_tblspc/<oid>/`, whatever
/// their links lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: RelPath,
    pub kind: EntryKind,
    /// Bytes when the walk saw it; 0 for a directory. The target's file gets exactly this length,
    /// whatever the source's becomes: what is beyond comes through WAL.
    pub size: u64,
}

/// The agent's list of what the target shall hold. An entry's number is its place in it.
pub type Manifest = Listing<EntryKind>;

/// Entries in the order of all lists, each once; `K` says what an entry is.
#[derive(Debug, Clone)]
pub struct Listing<K> {
    /// Not empty, in order. A directory may go on in the next one.
    folders: Vec<Folder<K>>,
    len: u32,
}

/// Entries of one directory, in the order of their names.
#[derive(Debug, Clone)]
pub struct Folder<K> {
    /// `None` for the top.
    directory: Option<RelPath>,
    /// Number of the first entry, once it is part of a list.
    first: u32,
    names: Vec<u8>,
    records: Vec<Record<K>>,
}

#[derive(Debug, Clone, Copy)]
struct Record<K> {
    size: u64,
    /// Where its name ends in the folder's names; it begins where the one before ends.
    name_end: u32,
    kind: K,
}

/// Why something cannot be part of a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("a list of files is not in order")]
    Order,
    #[error("a list of files is too long")]
    TooLong,
}

/// An entry of a list.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a, K> {
    /// Its place in the list.
    pub id: EntryId,
    /// `None` for the top.
    pub directory: Option<&'a RelPath>,
    pub name: &'a [u8],
    pub kind: K,
    /// Bytes of a file.
    pub size: u64,
}

impl<K> Item<'_, K> {
    /// Its path, made anew.
    #[must_use]
    pub fn path(&self) -> RelPath {
        match self.directory {
            None => RelPath::parse(self.name),
            Some(directory) => directory.join(self.name),
        }
        .expect("a folder takes no name that cannot stand behind its directory")
    }

    /// Compares by the order of all lists, whatever the entries are.
    fn cmp_place<L>(&self, other: &Item<'_, L>) -> Ordering {
        cmp_directories(self.directory, other.directory).then_with(|| self.name.cmp(other.name))
    }
}

impl Item<'_, EntryKind> {
    /// The entry as a value of its own.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry {
            path: self.path(),
            kind: self.kind,
            size: self.size,
        }
    }
}

/// The order of directories: the top, then by components.
fn cmp_directories(a: Option<&RelPath>, b: Option<&RelPath>) -> Ordering {
    match (a, b) {
        // The most frequent case by far.
        (Some(a), Some(b)) if a == b => Ordering::Equal,
        (Some(a), Some(b)) => a.cmp_components(b),
        _ => a.is_some().cmp(&b.is_some()),
    }
}

impl<K: Copy> Folder<K> {
    /// A directory, `None` for the top, without entries.
    #[must_use]
    pub fn new(directory: Option<RelPath>) -> Self {
        Self {
            directory,
            first: 0,
            names: Vec::new(),
            records: Vec::new(),
        }
    }

    /// The directory's path, `None` for the top.
    #[must_use]
    pub fn directory(&self) -> Option<&RelPath> {
        self.directory.as_ref()
    }

    /// Makes room for that many entries with that many bytes of names in all.
    pub fn reserve(&mut self, entries: usize, name_bytes: usize) {
        self.records.reserve_exact(entries);
        self.names.reserve_exact(name_bytes);
    }

    /// Adds an entry behind all others.
    ///
    /// # Errors
    /// Its name cannot be one, or does not come behind the last one.
    pub fn push(&mut self, name: &[u8], kind: K, size: u64) -> Result<(), ListingError> {
        check_name(self.directory.as_ref(), name)?;
        if self.last_name().is_some_and(|last| last >= name) {
            return Err(ListingError::Order);
        }
        let end = self.names.len() + name.len();
        let name_end = u32::try_from(end).map_err(|_| ListingError::TooLong)?;
        self.names.extend_from_slice(name);
        self.records.push(Record {
            size,
            name_end,
            kind,
        });
        Ok(())
    }

    fn last_name(&self) -> Option<&[u8]> {
        Some(self.name(self.records.len().checked_sub(1)?))
    }

    fn name(&self, index: usize) -> &[u8] {
        let from = match index.checked_sub(1) {
            None => 0,
            Some(before) => self.records[before].name_end as usize,
        };
        &self.names[from..self.records[index].name_end as usize]
    }

    fn item(&self, index: usize) -> Item<'_, K> {
        let record = self.records[index];
        let index_in_folder = u32::try_from(index).expect("a list has at most u32::MAX entries");
        Item {
            id: EntryId(self.first + index_in_folder),
            directory: self.directory.as_ref(),
            name: self.name(index),
            kind: record.kind,
            size: record.size,
        }
    }
}

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Self {
            folders: Vec::new(),
            len: 0,
        }
    }
}

impl<K: Copy> Listing<K> {
    /// Puts folders into order.
    ///
    /// # Errors
    /// A directory that is there twice, with entries that overlap; more entries than there are numbers.
    pub fn from_folders(mut folders: Vec<Folder<K>>) -> Result<Self, ListingError> {
        folders.sort_by(|a, b| cmp_directories(a.directory(), b.directory()));
        let mut listing = Self::default();
        listing.folders.reserve_exact(folders.len());
        for folder in folders {
            listing.append(folder)?;
        }
        Ok(listing)
    }

    /// Adds entries behind all others. The folder may go on with the last one's directory.
    ///
    /// # Errors
    /// It does not come behind the last one, or there are more entries than there are numbers.
    pub fn append(&mut self, mut folder: Folder<K>) -> Result<(), ListingError> {
        if folder.records.is_empty() {
            return Ok(());
        }
        if let Some(last) = self.folders.last() {
            match cmp_directories(last.directory(), folder.directory()) {
                Ordering::Less => {}
                Ordering::Equal if last.last_name() < Some(folder.name(0)) => {}
                _ => return Err(ListingError::Order),
            }
        }
        folder.first = self.len;
        let more = u32::try_from(folder.records.len()).map_err(|_| ListingError::TooLong)?;
        self.len = self.len.checked_add(more).ok_or(ListingError::TooLong)?;
        folder.names.shrink_to_fit();
        folder.records.shrink_to_fit();
        self.folders.push(folder);
        Ok(())
    }

    /// A list of entries of another one, in its order, as what they are now.
    ///
    /// # Panics
    /// The entries do not stand in the order of a list.
    #[must_use]
    pub fn of_items<'a, L: 'a>(items: impl Iterator<Item = (Item<'a, L>, K)>) -> Self {
        let proof = "what is in order in one list is so in another";
        let mut listing = Self::default();
        let mut folder = Folder::new(None);
        for (item, kind) in items {
            if item.directory != folder.directory() {
                let next = Folder::new(item.directory.cloned());
                let full = std::mem::replace(&mut folder, next);
                listing.append(full).expect(proof);
            }
            folder.push(item.name, kind, item.size).expect(proof);
        }
        listing.append(folder).expect(proof);
        listing
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry with this number.
    #[must_use]
    pub fn get(&self, id: EntryId) -> Option<Item<'_, K>> {
        if id.0 >= self.len {
            return None;
        }
        let behind = self.folders.partition_point(|folder| folder.first <= id.0);
        let folder = self.folders.get(behind.checked_sub(1)?)?;
        Some(folder.item((id.0 - folder.first) as usize))
    }

    /// The entry with this path.
    #[must_use]
    pub fn find(&self, path: &RelPath) -> Option<Item<'_, K>> {
        let parent = path.parent();
        // Parts of a directory's entries may stand in folders of their own, one behind the other.
        let behind = self.folders.partition_point(|folder| {
            cmp_directories(folder.directory(), parent.as_ref())
                .then_with(|| folder.name(0).cmp(path.name()))
                .is_le()
        });
        let folder = self.folders.get(behind.checked_sub(1)?)?;
        if folder.directory() != parent.as_ref() {
            return None;
        }
        let (mut low, mut high) = (0, folder.records.len());
        while low < high {
            let middle = low.midpoint(high);
            match folder.name(middle).cmp(path.name()) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Some(folder.item(middle)),
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// All entries in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Item<'_, K>> {
        self.folders
            .iter()
            .flat_map(|folder| (0..folder.records.len()).map(|index| folder.item(index)))
    }

    /// The entries from number `from` on, in order.
    pub fn iter_from(&self, from: EntryId) -> impl Iterator<Item = Item<'_, K>> {
        let behind = self
            .folders
            .partition_point(|folder| folder.first <= from.0);
        let start = behind.saturating_sub(1);
        self.folders[start..].iter().flat_map(move |folder| {
            let skipped = from.0.saturating_sub(folder.first) as usize;
            (skipped..folder.records.len()).map(|index| folder.item(index))
        })
    }
}

/// What two lists have under one path: at least one of both.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a, L, R> {
    pub left: Option<Item<'a, L>>,
    pub right: Option<Item<'a, R>>,
}

/// Holds two lists against each other: every path that one of them has, once, in order.
pub fn join<'a, L: Copy, R: Copy>(
    left: &'a Listing<L>,
    right: &'a Listing<R>,
) -> impl Iterator<Item = Pair<'a, L, R>> {
    Join {
        left: left.iter().peekable(),
        right: right.iter().peekable(),
    }
}

struct Join<A: Iterator, B: Iterator> {
    left: Peekable<A>,
    right: Peekable<B>,
}

impl<'a, L, R, A, B> Iterator for Join<A, B>
where
    L: Copy + 'a,
    R: Copy + 'a,
    A: Iterator<Item = Item<'a, L>>,
    B: Iterator<Item = Item<'a, R>>,
{
    type Item = Pair<'a, L, R>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.left.peek(), self.right.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.cmp_place(right),
        };
        Some(Pair {
            left: self.left.next_if(|_| order.is_le()),
            right: self.right.next_if(|_| order.is_ge()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// Paths that share beginnings, with the names around a slash's place in the order of bytes.
    fn paths() -> impl Strategy<Value = BTreeSet<String>> {
        let name = prop::sample::select(vec!["1", "1.1", "1_vm", "10", "a", "a-b", "a.d", "\u{1}"]);
        let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
        prop::collection::btree_set(path, 0..60)
    }

    fn listing(paths: &BTreeSet<String>) -> Listing<u8> {
        let mut by_directory: BTreeMap<Option<RelPath>, BTreeSet<RelPath>> = BTreeMap::new();
        for path in paths {
            let path = RelPath::parse(path.as_bytes()).unwrap();
            by_directory.entry(path.parent()).or_default().insert(path);
        }
        let folders = by_directory.into_iter().map(|(directory, paths)| {
            let mut folder = Folder::new(directory);
            for path in paths {
                folder
                    .push(path.name(), 7, path.as_bytes().len() as u64)
                    .unwrap();
            }
            folder
        });
        Listing::from_folders(folders.collect()).unwrap()
    }

    fn named(listing: &Listing<u8>) -> Vec<String> {
        listing.iter().map(|item| item.path().to_string()).collect()
    }

    proptest! {
        /// Nothing is lost, numbers are places, and directories come before what is in them.
        #[test]
        fn a_list_holds_what_was_put_in_random(paths in paths()) {
            let listing = listing(&paths);
            let names = named(&listing);
            prop_assert_eq!(names.iter().cloned().collect::<BTreeSet<_>>(), paths.clone());
            prop_assert_eq!(names.len(), paths.len());
            for (number, name) in (0_u32..).zip(&names) {
                let item = listing.get(EntryId(number)).unwrap();
                prop_assert_eq!(item.id, EntryId(number));
                prop_assert_eq!(&item.path().to_string(), name);
                prop_assert_eq!(item.size, name.len() as u64);
                let rest: Vec<String> =
                    listing.iter_from(item.id).map(|item| item.path().to_string()).collect();
                prop_assert_eq!(&rest[..], &names[number as usize..]);
                for above in names.iter().filter(|above| name.starts_with(&format!("{above}/"))) {
                    prop_assert!(names.iter().position(|n| n == above) < Some(number as usize));
                }
            }
            prop_assert!(listing.get(EntryId(listing.len())).is_none());
            prop_assert_eq!(listing.iter_from(EntryId(listing.len())).count(), 0);
            let backwards: Vec<String> =
                listing.iter().rev().map(|item| item.path().to_string()).collect();
            prop_assert!(backwards.iter().eq(names.iter().rev()));
        }

        /// The one pass finds the same as looking up every path.
        #[test]
        fn join_is_what_a_map_would_find_random(left in paths(), right in paths()) {
            let (left_listing, right_listing) = (listing(&left), listing(&right));
            let mut seen = BTreeSet::new();
            for Pair { left: l, right: r } in join(&left_listing, &right_listing) {
                let path = l.map(|item| item.path()).or(r.map(|item| item.path())).unwrap();
                if let (Some(l), Some(r)) = (l, r) {
                    prop_assert_eq!(l.path(), r.path());
                }
                let path = path.to_string();
                prop_assert_eq!(l.is_some(), left.contains(&path));
                prop_assert_eq!(r.is_some(), right.contains(&path));
                prop_assert!(seen.insert(path));
            }
            prop_assert_eq!(seen, left.union(&right).cloned().collect::<BTreeSet<_>>());
        }
    }

    fn folder(directory: &str, names: &[&str]) -> Folder<u8> {
        let directory = RelPath::parse(directory.as_bytes()).ok();
        let mut folder = Folder::new(directory);
        for name in names {
            folder.push(name.as_bytes(), 0, 0).unwrap();
        }
        folder
    }

    #[test]
    fn the_order_is_depth_first_and_by_name() {
        let listing = Listing::from_folders(vec![
            folder("base/5", &["1259", "1259_fsm"]),
            folder("base/16384", &["1"]),
            folder("", &["base", "base.d", "global"]),
            folder("base.d", &["x"]),
            folder("base", &["16384", "5"]),
        ]);
        assert_eq!(
            named(&listing.unwrap()),
            [
                "base",
                "base.d",
                "global",
                "base/16384",
                "base/5",
                "base/16384/1",
                "base/5/1259",
                "base/5/1259_fsm",
                "base.d/x"
            ]
        );
    }

    #[test]
    fn what_is_out_of_order_or_there_twice_is_refused() {
        let mut listing = Listing::default();
        listing.append(folder("base/5", &["1", "2"])).unwrap();
        for (directory, name) in [("base/5", "2"), ("base/5", "1"), ("base/4", "9"), ("", "x")] {
            let added = listing.append(folder(directory, &[name]));
            assert_eq!(added, Err(ListingError::Order), "{directory} {name}");
        }
        listing.append(folder("base/5", &["3"])).unwrap();
        listing.append(folder("base/4", &[])).unwrap();
        assert_eq!(named(&listing), ["base/5/1", "base/5/2", "base/5/3"]);
        let mut folder = folder("base", &["2"]);
        assert_eq!(folder.push(b"2", 0, 0), Err(ListingError::Order));
        assert_eq!(folder.push(b"1", 0, 0), Err(ListingError::Order));
        assert_eq!(folder.push(b"3/4", 0, 0), Err(PathError::Slash.into()));
    }

    proptest! {
        /// Whatever folders the entries stand in.
        #[test]
        fn every_path_is_found_and_no_other(here in paths(), others in paths(), cut in 1_usize..4) {
            let mut list = Listing::default();
            for folder in &listing(&here).folders {
                for part in (0..folder.records.len()).collect::<Vec<_>>().chunks(cut) {
                    let mut piece = Folder::new(folder.directory().cloned());
                    for index in part {
                        let item = folder.item(*index);
                        piece.push(item.name, item.kind, item.size).unwrap();
                    }
                    list.append(piece).unwrap();
                }
            }
            for path in here.union(&others) {
                let found = list.find(&RelPath::parse(path.as_bytes()).unwrap());
                let found = found.map(|item| item.path().to_string());
                prop_assert_eq!(found, here.contains(path).then(|| path.clone()));
            }
        }
    }
}
