//! What ends a run: the WAL from start to stop, the start of the standby and the wait until it streams, and what
//! is told of it all.

pub mod ahead;
pub mod copy;
pub mod launch;
pub mod summary;
pub mod wal;
pub mod watch;
