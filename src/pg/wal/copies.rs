//! Records whose replay reads files instead of WAL.
//!
//! A database that is created by copying files (`CREATE DATABASE` up to 14, `STRATEGY file_copy` since 15) or moved
//! to another tablespace is logged as one small record; its replay removes the new directory and copies the old one
//! as it is found then (`dbcommands.c: dbase_redo`). In a base backup the old directory is as it was when it was
//! read, perhaps long after that record: changed, or gone with the next record, in which case the copy is empty.
//! Nothing in PostgreSQL notices. The copy is the right one only if nothing has changed the old directory from the
//! record to the end of the backup: before the record replay itself brings it to what it was then.
//!
//! A tablespace that is created is made where the record says, whatever link the backup has
//! (`tablespace.c: create_tablespace_directories`).

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::pg::lsn::Lsn;
use crate::pg::wal::record::{Bytes, Malformed, Record, XACT_ENDS, XACT_OPERATION, rmgr};

/// Most doubts that are remembered.
const DOUBTS_MAX: usize = 100;

/// Records of `RM_DBASE_ID` (`dbcommands_xlog.h`). What is a drop up to 14 is a creation by WAL since 15.
const DBASE_CREATE_FILE_COPY: u8 = 0x00;
const DBASE_DROP_TILL_14: u8 = 0x10;
const DBASE_DROP_SINCE_15: u8 = 0x20;

/// Records of `RM_SMGR_ID` (`storage_xlog.h`).
const SMGR_CREATE: u8 = 0x10;
const SMGR_TRUNCATE: u8 = 0x20;

/// Record of `RM_TBLSPC_ID` (`tablespace.h`); the other one is a drop.
const TBLSPC_CREATE: u8 = 0x00;

/// Of a record of `RM_XACT_ID` that ends a transaction and so can remove files (`xact.h`): the bits of `xinfo` that
/// stand before their names.
const XACT_HAS_INFO: u8 = 0x80;
const XINFO_HAS_DATABASE: u32 = 1 << 0;
const XINFO_HAS_SUBXACTS: u32 = 1 << 1;
const XINFO_HAS_RELFILES: u32 = 1 << 2;

/// A database's directory in a tablespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Directory {
    pub tablespace: u32,
    pub database: u32,
}

/// A copy of files whose replay may copy something else than the source did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// The record that says: copy.
    pub copied_at: Lsn,
    pub from: Directory,
    pub to: Directory,
    /// The later record that changes what is copied from.
    pub changed_at: Lsn,
}

/// A tablespace that was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub oid: u32,
    /// Where, as the server was told; empty for one in the data directory.
    pub location: Vec<u8>,
    pub at: Lsn,
}

/// Takes all records of a backup's WAL, in order, and knows at the end which copies are doubtful.
#[derive(Debug, Default)]
pub struct FileCopies {
    /// 13 and 14.
    is_before_15: bool,
    /// Copies that nothing speaks against yet, by what they copy from.
    sure: HashMap<Directory, Vec<(Lsn, Directory)>>,
    doubts: Vec<Doubt>,
    made: Vec<Made>,
}

impl FileCopies {
    /// Of a server of this major version.
    #[must_use]
    pub fn of_major(major: u32) -> Self {
        Self {
            is_before_15: major < 15,
            ..Self::default()
        }
    }

    /// The copies that are doubtful, a hundred at most, and the tablespaces that were created.
    #[must_use]
    pub fn end(self) -> (Vec<Doubt>, Vec<Made>) {
        (self.doubts, self.made)
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// A record that must be understood is not.
    pub fn note(&mut self, record: &Record<'_>) -> Result<(), Malformed> {
        let lsn = record.lsn;
        match record.rmgr() {
            rmgr::DBASE => self.database(record).ok_or(Malformed(lsn))?,
            rmgr::TBLSPC => self.tablespace(record).ok_or(Malformed(lsn))?,
            // Most WAL has no copy in it.
            _ if self.sure.is_empty() => {}
            // Who copies a database keeps others out of it, those with a prepared transaction too: what the hints
            // say was true when it was copied.
            _ if record.is_for_hints() => {}
            _ => self.change(record)?,
        }
        Ok(())
    }

    /// A database was created or dropped.
    fn database(&mut self, record: &Record<'_>) -> Option<()> {
        let drop = if self.is_before_15 {
            DBASE_DROP_TILL_14
        } else {
            DBASE_DROP_SINCE_15
        };
        let mut data = Bytes(record.data().ok()?);
        if record.info() == drop {
            let database = data.u32()?;
            for _ in 0..data.u32()? {
                let tablespace = data.u32()?;
                self.changed(
                    record.lsn,
                    Directory {
                        tablespace,
                        database,
                    },
                );
            }
            return Some(());
        }
        let (database, tablespace) = (data.u32()?, data.u32()?);
        let to = Directory {
            tablespace,
            database,
        };
        self.changed(record.lsn, to);
        if record.info() == DBASE_CREATE_FILE_COPY {
            let (database, tablespace) = (data.u32()?, data.u32()?);
            let from = Directory {
                tablespace,
                database,
            };
            self.sure.entry(from).or_default().push((record.lsn, to));
        }
        Some(())
    }

    /// A tablespace was created or dropped.
    fn tablespace(&mut self, record: &Record<'_>) -> Option<()> {
        let mut data = Bytes(record.data().ok()?);
        let oid = data.u32()?;
        if record.info() == TBLSPC_CREATE {
            let location = data.0.split(|byte| *byte == 0).next()?;
            if self.made.len() < DOUBTS_MAX {
                self.made.push(Made {
                    oid,
                    location: location.to_vec(),
                    at: record.lsn,
                });
            }
            return Some(());
        }
        let within: Vec<_> = self.sure.keys().copied().collect();
        for directory in within.iter().filter(|found| found.tablespace == oid) {
            self.changed(record.lsn, *directory);
        }
        Some(())
    }

    /// Another record, while there are copies: it may change what they copied from.
    fn change(&mut self, record: &Record<'_>) -> Result<(), Malformed> {
        let lsn = record.lsn;
        let (blocks, data) = record.decode()?;
        for block in blocks {
            let directory = Directory {
                tablespace: block.locator.tablespace,
                database: block.locator.database,
            };
            self.changed(lsn, directory);
        }
        let mut data = Bytes(data);
        match record.rmgr() {
            rmgr::RELMAP => self.map(lsn, &mut data),
            rmgr::SMGR => self.storage(lsn, record.info(), &mut data),
            rmgr::XACT => self.transaction(lsn, record.info(), &mut data),
            _ => Some(()),
        }
        .ok_or(Malformed(lsn))
    }

    /// `xl_relmap_update`.
    fn map(&mut self, lsn: Lsn, data: &mut Bytes<'_>) -> Option<()> {
        let (database, tablespace) = (data.u32()?, data.u32()?);
        self.changed(
            lsn,
            Directory {
                tablespace,
                database,
            },
        );
        Some(())
    }

    /// `xl_smgr_create` and `xl_smgr_truncate`.
    fn storage(&mut self, lsn: Lsn, info: u8, data: &mut Bytes<'_>) -> Option<()> {
        match info {
            SMGR_CREATE => {}
            SMGR_TRUNCATE => {
                data.u32()?;
            }
            _ => return Some(()),
        }
        self.relation(lsn, data)
    }

    /// The end of a transaction: `xl_xact_commit` and `xl_xact_abort`, with the relations that go.
    fn transaction(&mut self, lsn: Lsn, info: u8, data: &mut Bytes<'_>) -> Option<()> {
        if !XACT_ENDS.contains(&(info & XACT_OPERATION)) || info & XACT_HAS_INFO == 0 {
            return Some(());
        }
        let _time = data.u64()?;
        let has = data.u32()?;
        if has & XINFO_HAS_DATABASE != 0 {
            data.u64()?;
        }
        if has & XINFO_HAS_SUBXACTS != 0 {
            for _ in 0..data.u32()? {
                data.u32()?;
            }
        }
        if has & XINFO_HAS_RELFILES != 0 {
            for _ in 0..data.u32()? {
                self.relation(lsn, data)?;
            }
        }
        Some(())
    }

    fn relation(&mut self, lsn: Lsn, data: &mut Bytes<'_>) -> Option<()> {
        let locator = data.locator()?;
        let (tablespace, database) = (locator.tablespace, locator.database);
        self.changed(
            lsn,
            Directory {
                tablespace,
                database,
            },
        );
        Some(())
    }

    /// Something in a directory is not what it was.
    fn changed(&mut self, changed_at: Lsn, from: Directory) {
        for (copied_at, to) in self.sure.remove(&from).unwrap_or_default() {
            if self.doubts.len() < DOUBTS_MAX {
                self.doubts.push(Doubt {
                    copied_at,
                    from,
                    to,
                    changed_at,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::wal::samples::{Log, block, numbers};

    const MAGIC: [(u32, u16); 7] = [
        (13, 0xd106),
        (14, 0xd10d),
        (15, 0xd110),
        (16, 0xd113),
        (17, 0xd116),
        (18, 0xd118),
        (19, 0xd122),
    ];

    type Step = (u8, u8, Vec<u8>, Vec<u8>);

    fn copy(to: [u32; 2], from: [u32; 2]) -> Step {
        (4, 0, vec![], numbers(&[to[1], to[0], from[1], from[0]]))
    }

    fn outcome(major: u32, steps: &[Step]) -> (Vec<Doubt>, Vec<Made>, Vec<Lsn>) {
        let magic = MAGIC.iter().find(|(of, _)| *of == major).unwrap().1;
        let mut log = Log::new(magic);
        let lsns = steps
            .iter()
            .map(|(rmgr, info, blocks, data)| log.push(*rmgr, *info, blocks, data))
            .collect();
        let mut copies = FileCopies::of_major(major);
        let mut reader = log.read(log.bytes());
        while let Some(record) = reader.next_record().unwrap() {
            copies.note(&record).unwrap();
        }
        let (doubts, made) = copies.end();
        (doubts, made, lsns)
    }

    fn commit_that_drops(tablespace: u32, database: u32) -> Step {
        let mut data = vec![0; 8];
        data.extend(numbers(&[7, database, tablespace, 2, 11, 12, 1]));
        data.extend(numbers(&[tablespace, database, 16384]));
        (1, 0x80, vec![], data)
    }

    #[test]
    fn a_copy_is_sure_while_nothing_changes_what_it_came_from() {
        for (major, _) in MAGIC {
            let harmless = [
                // Another database, the copy itself, hints, a file of its own that says nothing of relations.
                (10, 0, block(1663, 5, 1259), vec![]),
                (10, 0, block(1663, 20, 1259), vec![]),
                (0, 0xa0, block(1663, 1, 1259), vec![]),
                (3, 0, vec![], numbers(&[1])),
                commit_that_drops(1663, 20),
            ];
            for step in harmless {
                let (doubts, _, _) = outcome(
                    major,
                    &[
                        (10, 0, block(1663, 1, 1259), vec![]),
                        copy([1663, 20], [1663, 1]),
                        step.clone(),
                    ],
                );
                assert_eq!(doubts, [], "{major}: {step:?}");
            }
        }
    }

    #[test]
    fn whatever_changes_what_a_copy_came_from_makes_it_doubtful() {
        for (major, _) in MAGIC {
            let drop = if major < 15 { 0x10 } else { 0x20 };
            let changes: [Step; 10] = [
                (10, 0, block(1663, 1, 1259), vec![]),
                (0, 0xb0, block(1663, 1, 1259), vec![]),
                (4, drop, vec![], numbers(&[1, 2, 1700, 1663])),
                copy([1663, 1], [1700, 1]),
                (7, 0, vec![], numbers(&[1, 1663, 0])),
                (2, 0x10, vec![], numbers(&[1663, 1, 16384, 0])),
                (2, 0x20, vec![], numbers(&[5, 1663, 1, 16384, 7])),
                commit_that_drops(1663, 1),
                (1, 0xa0, vec![], commit_that_drops(1663, 1).3),
                (5, 0x10, vec![], numbers(&[1663])),
            ];
            for step in changes {
                let (doubts, _, lsns) =
                    outcome(major, &[copy([1700, 20], [1663, 1]), step.clone()]);
                let expected = Doubt {
                    copied_at: lsns[0],
                    from: Directory {
                        tablespace: 1663,
                        database: 1,
                    },
                    to: Directory {
                        tablespace: 1700,
                        database: 20,
                    },
                    changed_at: lsns[1],
                };
                assert_eq!(doubts, [expected], "{major}: {step:?}");
            }
        }
    }

    #[test]
    fn a_database_that_moves_is_doubtful_from_its_removal_on() {
        let moved = copy([1700, 20], [1663, 20]);
        let (doubts, _, _) = outcome(15, std::slice::from_ref(&moved));
        assert_eq!(doubts, []);
        let (doubts, _, lsns) = outcome(15, &[moved, (4, 0x20, vec![], numbers(&[20, 1, 1663]))]);
        assert_eq!(doubts.len(), 1);
        assert_eq!(doubts[0].changed_at, lsns[1]);
    }

    #[test]
    fn tablespaces_that_are_made_are_told_with_their_place() {
        let mut data = numbers(&[16390]);
        data.extend(b"/srv/space\0");
        let (_, made, lsns) = outcome(
            18,
            &[(5, 0, vec![], data), (5, 0x10, vec![], numbers(&[16390]))],
        );
        let expected = Made {
            oid: 16390,
            location: b"/srv/space".to_vec(),
            at: lsns[0],
        };
        assert_eq!(made, [expected]);
    }

    #[test]
    fn what_cannot_be_understood_is_no_good_news() {
        let mut log = Log::new(0xd110);
        log.push(4, 0, &[], &numbers(&[1]));
        let mut reader = log.read(log.bytes());
        let record = reader.next_record().unwrap().unwrap();
        let refused = FileCopies::of_major(15).note(&record);
        assert_eq!(refused, Err(Malformed(record.lsn)));
    }
}
