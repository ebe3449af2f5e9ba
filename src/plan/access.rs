//! What keeps a user from changing a file or directory, and what follows from that for what a run wants to do.
//!
//! Asked beforehand, for everything that a run will change: behind the point of no return it would end half-way, and
//! every rerun there too.

use std::fmt;

/// Why a user may not do everything with a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bar {
    /// The permission bits of its owner, who this user is.
    Mode {
        /// It can be read nevertheless.
        can_read: bool,
    },
    /// The permission bits of a directory do not let its owner, who this user is, look into it.
    Closed,
    /// It belongs to another user, and does not let this one in.
    Owner,
    /// It lies in another user's directory from which each user may remove only what is its own (sticky).
    Sticky,
    /// A mount point, which cannot be removed or replaced. It can be written to.
    Mounted,
    /// On a file system, or beneath a mount, that is read-only.
    ReadOnly,
    /// Immutable or append-only (`chattr +i`, `chattr +a`).
    Pinned,
}

/// What a run wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Read and write the content of a file that stays.
    Write,
    /// Read a file that has another hard link, and put a copy in its place: neither the content nor the permission
    /// bits of the other name may change.
    Unshare,
    /// Take a file, or an empty directory, away.
    Remove,
    /// Make something in a directory, or take something away from it.
    ChangeWithin,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Nothing is in the way.
    Free,
    /// The owner changes the permission bits first.
    Mend,
    /// A new file takes its place: who may change the directory need not own the file.
    Replace,
    /// It cannot be done.
    Barred,
}

/// Decides what follows from `bar` for `act`.
#[must_use]
pub fn way(bar: Bar, act: Act) -> Way {
    match (act, bar) {
        (Act::Write, Bar::Mode { .. }) | (Act::ChangeWithin, Bar::Mode { .. }) => Way::Mend,
        (Act::Write | Act::Unshare, Bar::Owner) => Way::Replace,
        // The copy has the bits that it needs; without a right to read there is nothing to copy.
        (Act::Unshare, Bar::Mode { can_read: true }) => Way::Free,
        (Act::Unshare, Bar::Mode { can_read: false }) => Way::Replace,
        // Whose the file is does not matter, only whose the directory is.
        (Act::Remove, Bar::Mode { .. } | Bar::Owner | Bar::Closed) => Way::Free,
        (Act::Write, Bar::Mounted | Bar::Sticky) | (Act::ChangeWithin, Bar::Mounted) => Way::Free,
        (Act::ChangeWithin, Bar::Sticky) => Way::Free,
        (_, Bar::Closed | Bar::Owner | Bar::Sticky | Bar::Mounted) => Way::Barred,
        (_, Bar::ReadOnly | Bar::Pinned) => Way::Barred,
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bar::Mode { .. } => "its permission bits keep its owner out",
            Bar::Closed => "its permission bits do not let its owner look into it",
            Bar::Owner => "it belongs to another user",
            Bar::Sticky => "it belongs to another user, and so does its directory, which is sticky",
            Bar::Mounted => "it is a mount point",
            Bar::ReadOnly => "it is mounted read-only",
            Bar::Pinned => "it is immutable or append-only",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_depends_on_what_is_wanted() {
        let mode = |can_read| Bar::Mode { can_read };
        let (free, barred) = (Way::Free, Way::Barred);
        for (bar, write, unshare, remove, change_within) in [
            (mode(true), Way::Mend, free, free, Way::Mend),
            (mode(false), Way::Mend, Way::Replace, free, Way::Mend),
            (Bar::Closed, barred, barred, free, barred),
            (Bar::Owner, Way::Replace, Way::Replace, free, barred),
            (Bar::Sticky, free, barred, barred, free),
            (Bar::Mounted, free, barred, barred, free),
            (Bar::ReadOnly, barred, barred, barred, barred),
            (Bar::Pinned, barred, barred, barred, barred),
        ] {
            assert_eq!(way(bar, Act::Write), write, "{bar:?}");
            assert_eq!(way(bar, Act::Unshare), unshare, "{bar:?}");
            assert_eq!(way(bar, Act::Remove), remove, "{bar:?}");
            assert_eq!(way(bar, Act::ChangeWithin), change_within, "{bar:?}");
        }
    }
}
