//! The client: `pg_reseed rebuild`, on the target's host. Decides and writes.

pub mod failure;
pub mod look;
pub mod options;
pub mod outcome;
pub mod rebuild;
pub mod source;
pub mod standby;
pub mod transfer;
