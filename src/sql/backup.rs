//! `pg_backup_start` and `pg_backup_stop` under the names of each version, outside a transaction, in one
//! session.

use super::{Session, SqlError};
use crate::pg::lsn::Lsn;

/// What `pg_backup_stop` gives.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// On a primary the end of the end-of-backup record; on a standby its minimum recovery point.
    pub lsn: Lsn,
    /// To be written byte for byte as backup_label.
    pub label: String,
}

impl Session {
    /// Starts a non-exclusive backup and returns its start LSN: the redo pointer of a fresh checkpoint. A
    /// spread checkpoint takes minutes.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn start_backup(&self, label: &str, fast: bool) -> Result<Lsn, SqlError> {
        let statement = if self.version.major() >= 15 {
            "SELECT pg_catalog.pg_backup_start($1, $2)::text"
        } else {
            "SELECT pg_catalog.pg_start_backup($1, $2, false)::text"
        };
        let text: String = self
            .client
            .query_one(statement, &[&label, &fast])
            .await?
            .get(0);
        parse_lsn(&text)
    }

    /// Stops the backup without waiting for the archive: the label would be lost if such a wait were
    /// cancelled (PostgreSQL `xlog.c:do_pg_backup_stop`).
    ///
    /// # Errors
    /// The server's refusal, for instance because a standby was promoted meanwhile.
    pub async fn stop_backup(&self) -> Result<Stopped, SqlError> {
        let statement = if self.version.major() >= 15 {
            "SELECT lsn::text, labelfile FROM pg_catalog.pg_backup_stop(false)"
        } else {
            "SELECT lsn::text, labelfile FROM pg_catalog.pg_stop_backup(false, false)"
        };
        let row = self.client.query_one(statement, &[]).await?;
        Ok(Stopped {
            lsn: parse_lsn(row.get(0))?,
            label: row.get(1),
        })
    }
}

/// An LSN from the server's text.
pub(super) fn parse_lsn(text: &str) -> Result<Lsn, SqlError> {
    text.parse().map_err(|_| SqlError::Unexpected {
        value: text.to_owned(),
        expected: "an LSN",
    })
}
