//! Sets of blocks by file.

use std::collections::BTreeMap;

use crate::geometry::BitSet;
use crate::path::RelPath;

/// Blocks of files, one bit each. Blocks count within their file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places(BTreeMap<RelPath, BitSet>);

impl Places {
    /// Adds a block.
    pub fn insert(&mut self, path: &RelPath, block: usize) {
        match self.0.get_mut(path) {
            Some(blocks) => blocks.insert(block),
            None => {
                let mut blocks = BitSet::default();
                blocks.insert(block);
                self.0.insert(path.clone(), blocks);
            }
        }
    }

    /// Adds all of another set.
    pub fn add(&mut self, other: &Self) {
        for (path, blocks) in &other.0 {
            let own = self.0.entry(path.clone()).or_default();
            *own = own.union(blocks);
        }
    }

    /// Adds the first blocks of a file.
    pub fn insert_first(&mut self, path: &RelPath, count: u64) {
        for block in 0..usize::try_from(count).unwrap_or(usize::MAX) {
            self.insert(path, block);
        }
    }

    /// The same without files that are not wanted.
    #[must_use]
    pub fn without(mut self, is_unwanted: impl Fn(&RelPath) -> bool) -> Self {
        self.0.retain(|path, _| !is_unwanted(path));
        self
    }

    #[must_use]
    pub fn contains(&self, path: &RelPath, block: usize) -> bool {
        self.0
            .get(path)
            .is_some_and(|blocks| blocks.contains(block))
    }

    /// How many blocks there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.values().map(|blocks| blocks.len() as u64).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(BitSet::is_empty)
    }

    /// The files with their blocks, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&RelPath, &BitSet)> {
        self.0.iter()
    }
}

/// The runs of neighbouring numbers of a set below `end`: first and behind the last.
pub fn runs(blocks: &BitSet, end: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
    let end = end.min(blocks.capacity());
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = (at..end).find(|number| blocks.contains(*number))?;
        let behind = (first..end).find(|number| !blocks.contains(*number));
        at = behind.unwrap_or(end);
        Some((first, at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_neighbours_are_found() {
        let mut blocks = BitSet::default();
        for number in [0, 1, 5, 7, 8, 9] {
            blocks.insert(number);
        }
        let found = |end| runs(&blocks, end).collect::<Vec<_>>();
        assert_eq!(found(100), [(0, 2), (5, 6), (7, 10)]);
        assert_eq!(found(8), [(0, 2), (5, 6), (7, 8)]);
        assert_eq!(found(0), []);
    }

    #[test]
    fn sets_are_joined_file_by_file() {
        let path = |name: &str| RelPath::parse(name.as_bytes()).unwrap();
        let (a, b) = (path("base/1/2"), path("base/1/3"));
        let mut one = Places::default();
        assert!(one.is_empty());
        one.insert(&a, 3);
        let mut other = Places::default();
        other.insert(&a, 4);
        other.insert(&b, 0);
        one.add(&other);
        assert_eq!(one.len(), 3);
        assert!(one.contains(&a, 4) && one.contains(&b, 0) && !one.contains(&b, 3));
    }
}
