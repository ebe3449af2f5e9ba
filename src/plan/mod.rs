//! Decisions: what the target is, whether the run may go on, and what becomes of each file.
//!
//! Pure: values in, values out. Nothing here reads a file, a socket, the clock or the environment;
//! `client` looks, asks this module, and acts on the answer.
//!
//! - [`advice`]: whether the target needs a rebuild at all, and what to do.
//! - [`state`]: what state a directory is in, our own states among them.
//! - [`contact`]: why no agent answered, and what to do.
//! - [`relation`]: how the target's history relates to the source's.
//! - [`lineage`]: where the source leads: to a primary that is not the target.
//! - [`diverged`]: which WAL only the target has.
//! - [`saved`]: what of it can be saved, and the note beside it.
//! - [`leaving`]: what goes beside the data and is missed by others.
//! - [`guard`]: the reasons to refuse, and the proof that there was none.
//! - [`overrides`]: what the DBA has said may happen all the same.
//! - [`refusal`]: each reason in words for the DBA.
//! - [`tablespaces`]: where each tablespace of the source goes in the target.
//! - [`slots`]: the replication slot that the standby uses, and those that are left without one.
//! - [`reopening`]: how often a stream is opened again that was lost.
//! - [`action`]: what happens to each entry of the manifest, and what must go.
//! - [`settings`]: what the standby must not have lower than the source.
//! - [`in_force`]: what else the standby's configuration says, and what of it may surprise.
//! - [`adoption`]: what becomes of the source's configuration files in its data directory.
//! - [`configuration`]: what the source's configuration becomes on a host that has none.
//! - [`standby`]: the configuration that makes the target a standby.
//! - [`shown`]: how the run is called on the source while it lasts.
//! - [`timetable`]: which rate is in force at what time.
//! - [`remedy`]: what to do about a file call that failed.
//! - [`words`]: figures as people read them.

pub mod access;
pub mod action;
pub mod adoption;
pub mod advice;
pub mod clone;
pub mod configuration;
pub mod contact;
pub mod diverged;
pub mod guard;
pub mod in_force;
pub mod leaving;
pub mod lineage;
pub mod needed;
pub mod overrides;
pub mod refusal;
pub mod relation;
pub mod remedy;
pub mod reopening;
pub mod replay;
pub mod retry;
pub mod rewind;
pub mod role;
pub mod saved;
pub mod settings;
pub mod shown;
pub mod slots;
pub mod standby;
pub mod state;
pub mod tablespaces;
pub mod timetable;
pub mod verifiable;
pub mod words;

#[cfg(test)]
mod samples;
