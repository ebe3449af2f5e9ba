//! pg_reseed: rebuild a PostgreSQL standby by moving only the blocks that differ.
//!
//! The modules stand on floors; imports go downwards (`tests/tidy.rs` checks it). `ARCHITECTURE.md`
//! is the map. This library promises no stable interface: it exists for the binary, the tests and
//! the benchmarks.

// Floor 1: what PostgreSQL's files mean. Bytes and text in, values out.
pub mod pg;

// Floor 0: words that everybody uses.
pub mod path;
