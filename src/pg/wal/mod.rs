//! The write-ahead log as bytes: pages, records, and what a record says.
//!
//! Only what decisions need is decoded. Facts: `src/include/access/xlog_internal.h` (pages), `xlogrecord.h`
//! (records), `rmgrlist.h` (numbers of resource managers), and the `*_xlog.h` of each resource manager.

pub mod copies;
pub mod marks;
pub mod reader;
pub mod record;
#[cfg(test)]
mod samples;

pub use copies::{Directory, Doubt, FileCopies, Made};
pub use reader::{End, Geometry, Reader, SEGMENT_HEAD_BYTES, is_written};
pub use record::{Malformed, Record};
