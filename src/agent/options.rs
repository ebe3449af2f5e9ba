//! What `serve` was asked to do.

use std::path::PathBuf;

use crate::pg::conninfo::Conninfo;

/// The options of an agent.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// How the agent reaches its own server.
    pub dbname: Conninfo,
    /// The data directory, when the role may not ask the server for it.
    pub pgdata: Option<PathBuf>,
    /// Content of the password file, if there is one.
    pub passfile: Option<String>,
}
