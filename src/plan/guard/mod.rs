//! The guards: reasons to refuse before a byte is written, and the proof that there was none.
//!
//! [`judge`] holds what both sides said about themselves against every guard and returns all
//! refusals, the most fundamental first, so that the DBA mends everything in one go. [`Cleared`] can
//! be made in `verdict` only: whoever writes to a target asks for it. Guards that few runs need or whose facts
//! come later ([`wal_supply`], [`diverged_wal`], [`login()`], [`room()`], [`rights()`], [`settings()`], [`serves`],
//! [`empty_configuration`], [`max_delete`], [`new_tablespaces`])
//! are functions of their own and refuse in the same words.
//!
//! A file for each kind, and one of the same name in [`refusal`](super::refusal) for its words:
//!
//! - `identity`: target and source must not be the same directories.
//! - `target`: who runs it, and what is in the target's place.
//! - `directories`: directories that options name.
//! - `kinship`: whether the target may become a standby of this source.
//! - `lineage`: whether the source leads to a primary that is not the target.
//! - `source`: whether the source can give a backup and serve a standby.
//! - `slot`: the replication slot that the run needs.
//! - `tablespaces`: those that came too late; the others are in [`plan::tablespaces`](super::tablespaces).
//! - `login`: the standby's login.
//! - `room`: room on the file systems.
//! - `settings`: what the standby has less of than the source, and whose server its configuration makes.
//! - `removals`: how many files go.
//! - `rights`: what may not be read or written.
//!
//! Beneath them is the `situation` that they look at, above them the `verdict`.

mod directories;
mod identity;
mod kinship;
mod lineage;
mod login;
mod removals;
mod rights;
mod room;
mod settings;
mod situation;
mod slot;
mod source;
mod tablespaces;
mod target;
mod verdict;

pub use self::directories::diverged_wal;
pub use self::login::{Login, login};
pub use self::removals::max_delete;
pub use self::rights::{Reader, Writer, rights};
pub use self::room::{RoomNeed, room};
pub use self::settings::{ConfiguredDirectory, Location, empty_configuration, serves, settings};
pub use self::situation::{Situation, SlotWish};
pub use self::slot::{is_of_target, wal_supply};
pub use self::source::linked_configuration;
pub use self::tablespaces::new_tablespaces;
pub use self::verdict::{Cleared, Findings, judge, judge_before_stop};
// Those who only set them know the guards by this one name.
pub use super::overrides::Overrides;

#[cfg(test)]
mod scene;
