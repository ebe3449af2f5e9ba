//! The client: `pg_reseed rebuild` and `inspect`, on the target's host. Decides and writes.

mod carry;
mod close;
mod conf;
pub mod debian;
pub mod failure;
pub mod inspect;
mod keep;
mod land;
mod launch;
mod look;
mod marker;
pub mod options;
pub mod outcome;
mod prepare;
pub mod rebuild;
mod run;
mod source;
mod standby;
mod streams;
mod summary;
mod survey;
mod task;
mod transfer;
mod wal;
mod whole;
mod work;
