//! What a rebuild makes of the target.

use serde::Serialize;

/// What the target shall be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A standby of the source: the run writes its settings.
    #[default]
    Standby,
    /// A standby whose settings somebody else writes, as Patroni and repmgr do. `standby.signal` is there all the same:
    /// a directory that starts as a second primary is the worst that can happen.
    Managed,
    /// A read-write copy that is no member of anything.
    Clone,
}

impl Role {
    /// Whether the run writes whom the standby follows, and how.
    #[must_use]
    pub fn has_settings(self) -> bool {
        match self {
            Role::Standby => true,
            Role::Managed | Role::Clone => false,
        }
    }
}
