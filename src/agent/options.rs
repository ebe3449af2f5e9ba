//! What `serve` was asked to do.

use std::path::PathBuf;

use crate::disk::facts;
use crate::pg::conninfo::Conninfo;
use crate::sql::Defaults;

/// The options of an agent.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// How the agent reaches its own server.
    pub dbname: Conninfo,
    /// The data directory, when the role may not ask the server for it.
    pub pgdata: Option<PathBuf>,
    /// Content of the password file, if there is one.
    pub passfile: Option<String>,
    /// No server runs in the data directory, and none is asked.
    pub is_stopped: bool,
}

impl ServeOptions {
    /// What counts where the connection string says nothing.
    #[must_use]
    pub fn defaults(&self) -> Defaults {
        Defaults {
            user: facts::user(),
            passfile: self.passfile.clone(),
        }
    }
}
