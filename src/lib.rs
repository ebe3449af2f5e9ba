//! pg_reseed: rebuild a PostgreSQL standby by moving only the blocks that differ.
//!
//! The modules stand on floors; imports go downwards (`tests/tidy.rs` checks it). `ARCHITECTURE.md`
//! is the map. This library promises no stable interface: it exists for the binary and the tests.

// Floor 7: the command line. What was asked for, and how it ended.
pub mod cli;

// Floor 6: what people see.
pub mod ui;

// Floor 5: the two processes.
pub mod agent;
pub mod client;

// Floor 4: the world. Files, servers, the other process, threads.
pub mod disk;
pub mod link;
pub mod postmaster;
pub mod sql;
pub mod workers;

// Floor 3: decisions and the protocol. Values in, values out.
pub mod compare;
pub mod plan;
pub mod wire;

// Floor 2: what one side says about itself, and the list of entries.
pub mod facts;
pub mod manifest;

// Floor 1: what PostgreSQL's files mean. Bytes and text in, values out.
pub mod pg;

// Floor 0: words that everybody uses.
pub mod buffer;
pub mod digest;
pub mod errors;
pub mod event;
pub mod geometry;
pub mod path;
pub mod turns;
pub mod warning;
