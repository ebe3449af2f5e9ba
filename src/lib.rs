//! pg_reseed: rebuild a PostgreSQL standby by moving only the blocks that differ.
//!
//! The modules stand on floors; imports go downwards (`tests/tidy.rs` checks it). `ARCHITECTURE.md`
//! is the map. This library promises no stable interface: it exists for the binary, the tests and
//! the benchmarks.

// Floor 3: decisions. Values in, values out.
pub mod plan;

// Floor 2: what one side says about itself, and the list of entries.
pub mod facts;
pub mod manifest;

// Floor 1: what PostgreSQL's files mean. Bytes and text in, values out.
pub mod pg;

// Floor 0: words that everybody uses.
pub mod digest;
pub mod event;
pub mod geometry;
pub mod path;
