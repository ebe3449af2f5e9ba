//! Physical replication slots: what keeps the WAL while a backup runs, which the backup alone does not
//! (`postgres-facts` sections 1 and 7).

use super::backup::parse_lsn;
use super::{Session, SqlError};
use crate::facts::SlotFacts;

/// A slot's state and the WAL that it holds back.
#[derive(Debug, Clone)]
pub struct SlotState {
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: String,
    /// Bytes between its restart_lsn and the current end of WAL.
    pub retained_bytes: u64,
}

/// The current end of WAL, on a primary and on a standby.
const CURRENT_LSN: &str = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                           ELSE pg_current_wal_lsn() END";

impl Session {
    /// Makes a physical slot that reserves WAL at once.
    ///
    /// # Errors
    /// The server's refusal: no free slot, no right, the name exists.
    pub async fn create_slot(&self, name: &str, temporary: bool) -> Result<(), SqlError> {
        self.client
            .execute(
                "SELECT pg_create_physical_replication_slot($1::text::name, true, $2)",
                &[&name, &temporary],
            )
            .await?;
        Ok(())
    }

    /// Drops a slot.
    ///
    /// # Errors
    /// The server's refusal, for instance because the slot is in use.
    pub async fn drop_slot(&self, name: &str) -> Result<(), SqlError> {
        self.client
            .execute("SELECT pg_drop_replication_slot($1::text::name)", &[&name])
            .await?;
        Ok(())
    }

    /// What a slot is; `None` when it does not exist.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn slot(&self, name: &str) -> Result<Option<SlotFacts>, SqlError> {
        let row = self
            .client
            .query_opt(
                "SELECT slot_name::text, slot_type = 'physical', active, restart_lsn::text, \
                 COALESCE(wal_status, '') FROM pg_replication_slots WHERE slot_name = $1::text::name",
                &[&name],
            )
            .await?;
        row.as_ref().map(slot_of).transpose()
    }

    /// All physical slots that outlive their session.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn physical_slots(&self) -> Result<Vec<SlotFacts>, SqlError> {
        let rows = self
            .client
            .query(
                "SELECT slot_name::text, true, active, restart_lsn::text, COALESCE(wal_status, '') \
                 FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary ORDER BY 1",
                &[],
            )
            .await?;
        rows.iter().map(slot_of).collect()
    }

    /// How much WAL a slot holds back; `None` when it does not exist any more. Also serves as the
    /// session's sign of life.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn slot_state(&self, name: &str) -> Result<Option<SlotState>, SqlError> {
        let statement = format!(
            "SELECT COALESCE(wal_status, ''), \
             COALESCE(GREATEST(pg_wal_lsn_diff({CURRENT_LSN}, restart_lsn), 0), 0)::int8 \
             FROM pg_replication_slots WHERE slot_name = $1::text::name"
        );
        let row = self.client.query_opt(&statement, &[&name]).await?;
        let Some(row) = row else { return Ok(None) };
        let retained: i64 = row.get(1);
        Ok(Some(SlotState {
            wal_status: row.get(0),
            retained_bytes: retained.unsigned_abs(),
        }))
    }
}

fn slot_of(row: &tokio_postgres::Row) -> Result<SlotFacts, SqlError> {
    let restart_lsn: Option<&str> = row.get(3);
    Ok(SlotFacts {
        name: row.get(0),
        is_physical: row.get(1),
        active: row.get(2),
        restart_lsn: restart_lsn.map(parse_lsn).transpose()?,
        wal_status: row.get(4),
    })
}
