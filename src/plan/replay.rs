//! Whether replaying the WAL of a backup makes of the files that came what the source had.
//!
//! It does for everything that is in the WAL. Some records are replayed from files instead (`pg::wal::copies`); where
//! it is not sure that these files are what they were, the backup is worthless, however well its blocks were copied.

use crate::pg::wal::{Doubt, Made};
use crate::plan::tablespaces::Placement;
use crate::plan::words;

/// Why a backup cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoiled {
    reasons: Vec<String>,
    /// A backup that starts behind this position is not spoiled by the same.
    pub until: crate::pg::lsn::Lsn,
}

impl Spoiled {
    /// What has happened on the source, as a clause.
    #[must_use]
    pub fn reason(&self) -> String {
        let more = self.reasons.len().saturating_sub(words::SHOWN);
        let shown = self.reasons.iter().take(words::SHOWN).map(String::as_str);
        let more = (more > 0).then(|| format!("and {more} more"));
        shown.chain(more.as_deref()).collect::<Vec<_>>().join("; ")
    }
}

/// Judges what was found in the WAL of a backup; `None` when nothing speaks against it.
#[must_use]
pub fn judge(doubts: &[Doubt], made: &[Made], placements: &[Placement]) -> Option<Spoiled> {
    let is_placed = |made: &Made| {
        let place = placements.iter().find(|place| place.oid == made.oid);
        place.is_some_and(|place| place.location.as_deref().unwrap_or_default() == made.location)
    };
    let strangers: Vec<_> = made.iter().filter(|made| !is_placed(made)).collect();
    let copied = doubts.iter().map(|doubt| doubt.copied_at);
    let until = copied.chain(strangers.iter().map(|made| made.at)).max()?;
    let mut reasons: Vec<String> = doubts.iter().map(of_copy).collect();
    reasons.extend(strangers.into_iter().map(of_tablespace));
    Some(Spoiled { reasons, until })
}

fn of_copy(doubt: &Doubt) -> String {
    let Doubt {
        copied_at,
        from,
        to,
        changed_at,
    } = doubt;
    if from.database == to.database {
        format!(
            "database {} moved from tablespace {} to {} ({copied_at})",
            from.database, from.tablespace, to.tablespace
        )
    } else {
        format!(
            "database {} was copied from database {} ({copied_at}), which then changed ({changed_at})",
            to.database, from.database
        )
    }
}

fn of_tablespace(made: &Made) -> String {
    format!("tablespace {} was made ({})", made.oid, made.at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::lsn::Lsn;
    use crate::pg::wal::Directory;

    fn doubt(from: (u32, u32), to: (u32, u32)) -> Doubt {
        let directory = |(tablespace, database)| Directory {
            tablespace,
            database,
        };
        Doubt {
            copied_at: Lsn(0x100),
            from: directory(from),
            to: directory(to),
            changed_at: Lsn(0x180),
        }
    }

    fn made(location: &str) -> Made {
        Made {
            oid: 16_400,
            location: location.as_bytes().to_vec(),
            at: Lsn(0x200),
        }
    }

    fn placement(location: Option<&str>) -> Placement {
        Placement {
            oid: 16_400,
            location: location.map(|location| location.as_bytes().to_vec()),
            create: false,
            relink: false,
            former: None,
        }
    }

    #[test]
    fn nothing_from_files_is_nothing_to_doubt() {
        assert_eq!(judge(&[], &[], &[placement(None)]), None);
    }

    #[test]
    fn doubtful_copies_spoil_a_backup_until_the_last_of_them() {
        let moved = judge(&[doubt((1663, 5), (1700, 5))], &[], &[]).unwrap();
        assert_eq!(moved.until, Lsn(0x100));
        insta::assert_snapshot!(moved.reason(), @"database 5 moved from tablespace 1663 to 1700 (0/100)");
        let copied = judge(&[doubt((1663, 1), (1663, 9))], &[made("/a")], &[]).unwrap();
        assert_eq!(copied.until, Lsn(0x200));
        insta::assert_snapshot!(copied.reason(), @"database 9 was copied from database 1 (0/100), which then changed (0/180); tablespace 16400 was made (0/200)");
    }

    #[test]
    fn a_tablespace_that_replay_makes_where_it_is_spoils_nothing() {
        assert_eq!(judge(&[], &[made("/a")], &[placement(Some("/a"))]), None);
        assert_eq!(judge(&[], &[made("")], &[placement(None)]), None);
        for elsewhere in [placement(Some("/b")), placement(None)] {
            assert!(judge(&[], &[made("/a")], &[elsewhere]).is_some());
        }
    }
}
