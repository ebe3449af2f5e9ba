//! The manifest: the agent's list of what the target shall hold, made by one walk inside the
//! bracket.

use serde::{Deserialize, Serialize};

use crate::path::RelPath;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    File,
    Directory,
}

/// One file or directory of the source. Tablespaces appear beneath `pg_tblspc/<oid>/`, whatever
/// their links lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub path: RelPath,
    pub kind: EntryKind,
    /// Bytes when the walk saw it; 0 for a directory. The target's file gets exactly this length,
    /// whatever the source's becomes: what is beyond comes through WAL.
    pub size: u64,
}
