//! Whom a server follows, and where it stands, by its own words.

use super::backup::parse_lsn;
use super::{Session, SqlError};
use crate::facts::{Live, Receiver};
use crate::pg::lsn::Lsn;

/// End of WAL of a server in recovery: what it received counts although it is not replayed yet.
const END: &str = "CASE WHEN pg_is_in_recovery() \
                   THEN GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
                   ELSE pg_current_wal_lsn() END::text";

impl Session {
    /// The setting `primary_conninfo`; `None` when the role may not read it.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn primary_conninfo(&self) -> Result<Option<String>, SqlError> {
        let row = self
            .client
            .query_opt(
                "SELECT setting FROM pg_settings WHERE name = 'primary_conninfo'",
                &[],
            )
            .await?;
        Ok(row.map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()))
    }

    /// What the walreceiver does; `None` where there is none.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn receiver(&self) -> Result<Option<Receiver>, SqlError> {
        let row = self
            .client
            .query_opt(
                "SELECT COALESCE(status, ''), COALESCE(sender_host, ''), COALESCE(sender_port, 0), slot_name \
                 FROM pg_stat_wal_receiver WHERE pid IS NOT NULL",
                &[],
            )
            .await?;
        Ok(row.map(|row| Receiver {
            status: row.get(0),
            host: row.get(1),
            port: u16::try_from(row.get::<_, i32>(2)).unwrap_or(0),
            slot: row
                .get::<_, Option<String>>(3)
                .filter(|name| !name.is_empty()),
        }))
    }

    /// Where the server stands.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn live(&self) -> Result<Live, SqlError> {
        let statement = format!("SELECT pg_is_in_recovery(), {END}");
        let row = self.client.query_one(&statement, &[]).await?;
        let end: Option<&str> = row.get(1);
        Ok(Live {
            in_recovery: row.get(0),
            end: end.map_or(Ok(Lsn::INVALID), parse_lsn)?,
            receiver: self.receiver().await?,
        })
    }
}
