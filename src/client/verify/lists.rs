//! What of both sides' lists is compared.

use std::collections::{BTreeMap, HashSet};

use crate::client::transfer::here::Walked;
use crate::client::transfer::task::FileWork;
use crate::compare::xacts::XactLaw;
use crate::geometry::RANGE_BYTES;
use crate::manifest::{self, EntryKind, Manifest};
use crate::path::RelPath;
use crate::pg::hints::XactPage;
use crate::pg::layout;
use crate::pg::relfile::{self, Fork};

/// Both sides' lists.
pub struct Lists {
    pub manifest: Manifest,
    pub walked: Walked,
    pub block_bytes: u64,
}

/// Blocks that only the standby has, of one file: from the first to behind the last.
pub type Alone = (RelPath, usize, usize);

/// What there is to be compared.
#[derive(Debug, Default)]
pub struct Work {
    pub files: Vec<FileWork>,
    pub alone: Vec<Alone>,
    /// Files that only one side has, with how many blocks these have.
    pub only_source: BTreeMap<RelPath, u64>,
    pub only_standby: BTreeMap<RelPath, u64>,
    /// Blocks of main forks that both sides have, and how many files these are.
    pub blocks: u64,
    pub main_files: u64,
}

impl Lists {
    /// The work for all main forks and visibility maps, and for `pg_xact` as far as it is settled. Of a file that only the
    /// source has the beginning is looked into, if `looks_into_missing`.
    pub fn all(&self, looks_into_missing: bool, settled: &XactLaw) -> Work {
        let mut work = Work::default();
        let unlogged = self.unlogged();
        for pair in manifest::join(&self.manifest, &self.walked.tree) {
            let theirs = pair.left.filter(|item| item.kind == EntryKind::File);
            let ours = pair.right.filter(|item| item.kind == layout::Kind::File);
            let path = match (&theirs, &ours) {
                (Some(item), _) => item.path(),
                (None, Some(item)) => item.path(),
                (None, None) => continue,
            };
            let Some((tablespace, database, file)) = relfile::location_of(&path) else {
                continue;
            };
            let is_main = match file.fork {
                Fork::Main => true,
                Fork::Vm => false,
                Fork::Fsm | Fork::Init => continue,
            };
            let blocks = |size: u64| size / self.block_bytes;
            match (theirs, ours) {
                (Some(theirs), Some(ours)) => {
                    let (there, here) = (blocks(theirs.size), blocks(ours.size));
                    let both = there.min(here);
                    if is_main {
                        work.blocks += both;
                        work.main_files += 1;
                    }
                    work.files.push(FileWork {
                        entry: theirs.id,
                        path: path.clone(),
                        // More of a map only promises more on the source, which is harmless.
                        bytes: if is_main { there } else { both } * self.block_bytes,
                        common: both * self.block_bytes,
                        fit: false,
                        whole: false,
                    });
                    if here > there {
                        work.alone.push((path, index(there), index(here)));
                    }
                }
                (Some(theirs), None) if is_main && blocks(theirs.size) > 0 => {
                    if looks_into_missing && !self.came_as_copy(&path) {
                        work.files.push(FileWork {
                            entry: theirs.id,
                            path: path.clone(),
                            bytes: (blocks(theirs.size) * self.block_bytes)
                                .min(u64::from(RANGE_BYTES)),
                            common: 0,
                            fit: false,
                            whole: false,
                        });
                    }
                    work.only_source.insert(path, blocks(theirs.size));
                }
                (None, Some(ours))
                    if blocks(ours.size) > 0
                        && !unlogged.contains(&(tablespace, database, file.relfilenode)) =>
                {
                    if is_main {
                        work.only_standby.insert(path, blocks(ours.size));
                    } else {
                        work.alone.push((path, 0, index(blocks(ours.size))));
                    }
                }
                _ => {}
            }
        }
        self.add_xacts(settled, &mut work);
        work
    }

    /// The segments of `pg_xact` that the source has, up to the last page with something settled. What only the standby
    /// has, the source has cut off.
    fn add_xacts(&self, settled: &XactLaw, work: &mut Work) {
        let block_bytes = u32::try_from(self.block_bytes).unwrap_or(u32::MAX);
        for theirs in self.manifest.iter() {
            let path = theirs.path();
            let concerned = |page: &XactPage| settled.concerns(*page, block_bytes);
            let Some(last) = XactPage::of_file(&path).filter(concerned).last() else {
                continue;
            };
            let blocks = u64::from(last.page + 1).min(theirs.size / self.block_bytes);
            match self.walked.tree.find(&path) {
                Some(ours) => work.files.push(FileWork {
                    entry: theirs.id,
                    path,
                    bytes: blocks * self.block_bytes,
                    common: blocks.min(ours.size / self.block_bytes) * self.block_bytes,
                    fit: false,
                    whole: false,
                }),
                None => {
                    work.only_source.insert(path, blocks);
                }
            }
        }
    }

    /// Whether a file of the source is one of a database that the standby does not have there. Such a one may have come as
    /// a copy of files, with pages that are older than itself (PostgreSQL `dbcommands.c:CreateDatabaseUsingFileCopy`,
    /// `movedb`).
    fn came_as_copy(&self, path: &RelPath) -> bool {
        let version = path.parent().map(|folder| folder.join(b"PG_VERSION"));
        version.and_then(Result::ok).is_some_and(|version| {
            self.manifest.find(&version).is_some() && self.walked.tree.find(&version).is_none()
        })
    }

    /// What both sides have of one file, and what of it only the standby has.
    pub fn of_file(&self, path: &RelPath) -> (Option<FileWork>, Option<Alone>) {
        let theirs = self.manifest.find(path);
        let there = theirs.map_or(0, |item| item.size / self.block_bytes);
        let ours = self.walked.tree.find(path);
        let here = ours.map_or(0, |item| item.size / self.block_bytes);
        let work = theirs.map(|item| FileWork {
            entry: item.id,
            path: path.clone(),
            bytes: there * self.block_bytes,
            common: there.min(here) * self.block_bytes,
            fit: false,
            whole: false,
        });
        let alone = (here > there).then(|| (path.clone(), index(there), index(here)));
        (work, alone)
    }

    /// The relations that have an init fork on the standby: what else it has of them is its own.
    fn unlogged(&self) -> HashSet<(u32, u32, u32)> {
        let files = self.walked.tree.iter();
        files
            .filter(|item| item.name.ends_with(b"_init"))
            .filter_map(|item| {
                let (tablespace, database, file) = relfile::location_of(&item.path())?;
                (file.fork == Fork::Init).then_some((tablespace, database, file.relfilenode))
            })
            .collect()
    }
}

fn index(block: u64) -> usize {
    usize::try_from(block).unwrap_or(usize::MAX)
}
