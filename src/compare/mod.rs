//! What differs: digests on one side, digests or zeros on the other, a set of blocks as the answer.
//!
//! Bytes in, values out; both sides use it, no file in sight.

pub mod blocks;
pub mod map;
pub mod noise;
pub mod rolling;
pub mod verdict;
pub mod xacts;
