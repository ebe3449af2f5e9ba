//! Clusters, pairs of clusters, load, and the binary under test.
//!
//! A [`Scene`] is a temporary folder; a [`Cluster`] in it is a data directory with its own socket, stopped
//! when it is dropped, also by a panic. A [`Pair`] is a primary and its standby, with the drama of a
//! failover as methods. [`Rebuild`] runs the binary and returns all that it said.

mod load;
mod pair;
mod rebuild;
mod scene;
mod server;
mod template;
mod tools;

use std::time::Duration;

pub use load::Load;
pub use pair::Pair;
pub use rebuild::{Rebuild, Running, Said};
pub use scene::Scene;
pub use server::{Cluster, Stop};
pub use template::Template;
pub use tools::{
    Dice, alive, as_of_15, binary, bindir, children_of, clean, done, eventually, eventually_with,
    major, pause, plain_lsns, said, tool,
};

/// How long anything may take that is not the work itself.
pub const DEADLINE: Duration = Duration::from_secs(60);
