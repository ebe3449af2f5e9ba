//! The agent: `pg_reseed serve`, on the source's host. Holds the SQL session and the bracket, reads the
//! data directory, answers. It writes nothing.

mod ahead;
pub mod answer;
pub mod bracket;
mod configuration;
mod control;
pub mod effort;
mod host;
mod lineage;
pub mod listen;
pub mod look;
mod names;
pub mod options;
mod reading;
mod replay;
pub mod serve;
pub mod session;
mod streams;
pub mod tree;
