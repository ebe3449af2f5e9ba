//! What is looked at and judged before anything changes: the target's directory and configuration, what the
//! options mean for the standby, and the guards of `plan` fed with it.

pub(super) mod adoption;
pub(super) mod conf;
pub mod debian;
pub(super) mod hooks;
pub(super) mod judge;
pub(super) mod leaving;
pub(super) mod lineage;
pub(super) mod marker;
mod neighbours;
pub(super) mod server;
pub(super) mod settings;
pub(super) mod target;
pub(super) mod twins;
