//! Whom a server follows, and where it stands, by its own words.

use super::backup::parse_lsn;
use super::{Session, SqlError};
use crate::facts::{Live, Receiver, Recovery};
use crate::pg::lsn::Lsn;

/// End of WAL of a server in recovery: what it received counts although it is not replayed yet.
const END: &str = "CASE WHEN pg_is_in_recovery() \
                   THEN GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
                   ELSE pg_current_wal_lsn() END::text";

/// The statement that lets a paused replay go on: for people, who decide that.
pub const RESUME: &str = "SELECT pg_wal_replay_resume()";

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
        let setting =
            |name: &str| format!("(SELECT setting FROM pg_settings WHERE name = '{name}')");
        // Replay can be asked for its pauses during recovery only.
        let statement = format!(
            "SELECT pg_is_in_recovery(), {END}, \
             CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END::text, \
             CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END, \
             CASE WHEN pg_is_in_recovery() \
               THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::int8 END, \
             (SELECT latest_end_lsn FROM pg_stat_wal_receiver)::text, {}, {}",
            setting("primary_conninfo"),
            setting("primary_slot_name"),
        );
        let row = self.client.query_one(&statement, &[]).await?;
        let lsn = |at: usize| row.get::<_, Option<&str>>(at).map(parse_lsn).transpose();
        let text = |at: usize| {
            let text = row.get::<_, Option<String>>(at);
            text.filter(|text| !text.is_empty())
        };
        Ok(Live {
            in_recovery: row.get(0),
            end: lsn(1)?.unwrap_or(Lsn::INVALID),
            receiver: self.receiver().await?,
            recovery: Recovery {
                replayed: lsn(2)?,
                is_paused: row.get(3),
                // A clock that was set back counts as none.
                replayed_age_seconds: row
                    .get::<_, Option<i64>>(4)
                    .map(|seconds| u64::try_from(seconds).unwrap_or(0)),
                sender_end: lsn(5)?,
                primary_conninfo: text(6),
                primary_slot_name: text(7),
            },
        })
    }
}
