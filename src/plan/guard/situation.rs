//! What the guards look at.

use crate::facts::{SourceFacts, TargetFacts};
use crate::plan::overrides::Overrides;
use crate::plan::standby::Role;
use crate::plan::tablespaces::{Mapping, TargetPlaces};

/// The replication slot that the run was asked to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotWish<'a> {
    /// None: a temporary one, until the standby streams.
    Temporary,
    /// `--slot`: it exists.
    Existing(&'a str),
    /// `--slot` with `--create-slot`: it is made if it does not exist.
    Create(&'a str),
}

/// All that the guards look at.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub target: &'a TargetFacts,
    pub source: &'a SourceFacts,
    pub slot: SlotWish<'a>,
    pub mappings: &'a [Mapping],
    pub places: &'a TargetPlaces,
    pub overrides: &'a Overrides,
    /// Those of the addresses in the source's facts that are the target's host's.
    pub local: &'a [String],
    /// The slot is in use by the target's own server, which runs.
    pub is_slot_targets: bool,
    /// A person typed the command: one who can be asked.
    pub is_typed: bool,
    /// `--max-wal-retained`: most bytes of WAL that the source may keep for the run.
    pub max_wal_retained: Option<u64>,
    /// The standby will have a restore_command.
    pub has_restore_command: bool,
    /// What the target shall be.
    pub role: Role,
}
