//! The client: `pg_reseed rebuild` and `inspect`, on the target's host. Decides and writes.
//!
//! The stories (`rebuild` with its halves `prepare` and `carry`, `survey` for the dry run, `inspect`, `status`) are sequence;
//! what they do stands in rooms, each of which knows those before it only: `look`, `close`, `transfer`, `finish`.
//! Beneath all are the words: options, outcome, failure, what is known of a run (`record`), what
//! a run has (`run`), the agent as it is asked (`source`, over
//! the streams of `asking`).

mod asking;
mod clock;
pub mod failure;
pub mod options;
pub mod outcome;
pub mod record;
mod run;
mod source;

mod close;
pub mod command;
mod finish;
pub mod look;
mod transfer;

mod carry;
pub mod inspect;
mod needed;
mod prepare;
pub mod rebuild;
pub mod status;
mod survey;
pub mod verify;
