//! Physical replication slots: what keeps the WAL while a backup runs, which the backup alone does not
//! (`postgres-facts` sections 1 and 7).

use super::backup::parse_lsn;
use super::{Session, SqlError};
use crate::digest::SessionKey;
use crate::facts::{SlotClient, SlotFacts, SlotHolder};
use crate::pg::lsn::Lsn;

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

/// Reads pid, name, address and port of a session from four columns.
fn holder(row: &tokio_postgres::Row, from: usize) -> Option<SlotHolder> {
    Some(SlotHolder {
        pid: row.get::<_, Option<i32>>(from)?,
        application_name: row.get(from + 1),
        client: client(row.get(from + 2), row.get(from + 3)),
    })
}

/// The other end of a session, by `client_addr` and `client_port`, which is -1 for a Unix-domain socket and NULL
/// where the role may not see it.
pub(super) fn client(address: Option<&str>, port: Option<i32>) -> Option<SlotClient> {
    let address = address.map(|text| {
        let parsed = text.parse::<std::net::IpAddr>();
        parsed.map_or_else(|_| text.to_owned(), |ip| ip.to_canonical().to_string())
    });
    let port = port?;
    Some(SlotClient {
        address,
        port: u16::try_from(port).unwrap_or(0),
    })
}

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
                "SELECT s.slot_name::text, s.slot_type = 'physical', s.active, s.restart_lsn::text, \
                 COALESCE(s.wal_status, ''), s.active_pid, COALESCE(a.application_name, ''), \
                 host(a.client_addr), a.client_port \
                 FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid \
                 WHERE s.slot_name = $1::text::name",
                &[&name],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(SlotFacts {
            holder: holder(&row, 5),
            ..slot_of(&row)?
        }))
    }

    /// All physical slots that outlive their session, without who has them.
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

    /// Takes a slot's name for this session among all runs of pg_reseed, or only looks whether one has it. An
    /// advisory lock is no write, lives on a standby too, and ends with the session. It is one of a database, so that
    /// others are looked for in all of them.
    ///
    /// Returns who else has it.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn claim_slot(
        &self,
        name: &str,
        takes: bool,
    ) -> Result<Option<SlotHolder>, SqlError> {
        let digest = SessionKey(*b"slot of a standby for pg_reseed.")
            .digest(name.as_bytes())
            .0;
        let key = i64::from_be_bytes(std::array::from_fn(|at| digest[at]));
        if takes {
            self.client
                .execute("SELECT pg_try_advisory_lock($1)", &[&key])
                .await?;
        }
        let row = self
            .client
            .query_opt(
                "SELECT l.pid, COALESCE(a.application_name, ''), host(a.client_addr), a.client_port \
                 FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
                 WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.pid <> pg_backend_pid() \
                 AND (l.classid::int8 << 32) | l.objid::int8 = $1 LIMIT 1",
                &[&key],
            )
            .await?;
        let other = row.and_then(|row| holder(&row, 0));
        if takes && other.is_some() {
            // That of another database may be beside ours: each of two gives way.
            self.client
                .execute("SELECT pg_advisory_unlock($1)", &[&key])
                .await?;
        }
        Ok(other)
    }

    /// Moves a physical slot on to `to`, so that the server may remove the WAL before it. A slot that keeps nothing
    /// yet, or that somebody else uses, stays as it is, and none moves back. On a standby it stays before the last
    /// restartpoint: from there on a server keeps its WAL anyway, and a backup of it may begin there again.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn advance_slot(&self, name: &str, to: Lsn) -> Result<(), SqlError> {
        self.client
            .execute(
                "SELECT pg_replication_slot_advance(s.slot_name, t.lsn) FROM pg_replication_slots s, \
                 (SELECT CASE WHEN pg_is_in_recovery() THEN LEAST($2::text::pg_lsn, redo_lsn) \
                 ELSE $2::text::pg_lsn END AS lsn FROM pg_control_checkpoint()) t \
                 WHERE s.slot_name = $1::text::name AND s.slot_type = 'physical' AND s.restart_lsn < t.lsn \
                 AND (NOT s.active OR s.active_pid = pg_backend_pid())",
                &[&name, &to.to_string()],
            )
            .await?;
        Ok(())
    }

    /// The end of the WAL that stays as it is: flushed on a primary, replayed on a standby, which may have received
    /// more on a timeline that is abandoned.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn settled_lsn(&self) -> Result<Lsn, SqlError> {
        let row = self
            .client
            .query_one(
                "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                 ELSE pg_current_wal_flush_lsn() END::text",
                &[],
            )
            .await?;
        row.get::<_, Option<&str>>(0)
            .map_or(Ok(Lsn::INVALID), parse_lsn)
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
        holder: None,
    })
}
