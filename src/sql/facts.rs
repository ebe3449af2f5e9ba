//! What the server says about itself, and about who streams from it.

use super::backup::parse_lsn;
use super::slot::client;
use super::{Session, SqlError};
use crate::facts::{SourceRights, SourceSettings};
use crate::pg::lsn::Lsn;
use crate::pg::timeline::TimelineId;
use crate::wire::message::WalSender;

/// The server's own identity and settings, as far as SQL tells them.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    pub system_identifier: u64,
    pub in_recovery: bool,
    pub timeline: TimelineId,
    pub current_lsn: Lsn,
    /// `None` when the role may not read it (pg_read_all_settings).
    pub data_directory: Option<String>,
    /// As `data_directory`; the default when it may not be read.
    pub log_directory: String,
    pub port: u16,
    pub settings: SourceSettings,
    pub rights: SourceRights,
    pub synchronous_standby_names: String,
}

impl Session {
    /// Asks the server for everything that a guard wants to know.
    ///
    /// # Errors
    /// A failing statement, or an answer that cannot be.
    pub async fn facts(&self) -> Result<ServerFacts, SqlError> {
        let (start_function, start_arguments) = if self.version.major() >= 15 {
            ("pg_backup_start", "text, boolean")
        } else {
            ("pg_start_backup", "text, boolean, boolean")
        };
        // A standby knows its timeline from the walreceiver, else from the control file.
        let statement = format!(
            "SELECT (SELECT system_identifier FROM pg_control_system())::text, \
             pg_is_in_recovery(), \
             CASE WHEN pg_is_in_recovery() \
               THEN GREATEST((SELECT timeline_id FROM pg_control_checkpoint()), \
                             (SELECT min_recovery_end_timeline FROM pg_control_recovery()), \
                             (SELECT max(received_tli) FROM pg_stat_wal_receiver))::int8 \
               ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8 END, \
             CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
               ELSE pg_current_wal_lsn() END::text, \
             (SELECT setting FROM pg_settings WHERE name = 'data_directory'), \
             (SELECT setting FROM pg_settings WHERE name = 'log_directory'), \
             current_setting('port')::int4, \
             current_setting('wal_level'), \
             current_setting('max_wal_senders')::int4, \
             (SELECT count(*) FROM pg_stat_replication)::int4, \
             current_setting('max_replication_slots')::int4, \
             (SELECT count(*) FROM pg_replication_slots)::int4, \
             CASE WHEN pg_is_in_recovery() \
               THEN (SELECT full_page_writes FROM pg_control_checkpoint()) \
               ELSE current_setting('full_page_writes')::bool END, \
             current_setting('data_checksums') = 'on', \
             current_user::text, \
             has_function_privilege('pg_catalog.{start_function}({start_arguments})', 'EXECUTE'), \
             (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user), \
             current_setting('synchronous_standby_names'), \
             COALESCE((SELECT setting::int8 FROM pg_settings WHERE name = 'wal_keep_size'), 0), \
             current_setting('archive_mode')"
        );
        let row = self.client.query_one(&statement, &[]).await?;
        let number = |at: usize| u32::try_from(row.get::<_, i32>(at)).unwrap_or(0);
        let identifier: &str = row.get(0);
        let unexpected = |value: String, expected| SqlError::Unexpected { value, expected };
        // The server prints its unsigned 64 bits as a signed number.
        let system_identifier = identifier
            .parse::<i64>()
            .map_err(|_| unexpected(identifier.to_owned(), "a system identifier"))?
            .cast_unsigned();
        let timeline: i64 = row.get(2);
        let current_lsn: Option<&str> = row.get(3);
        let log_directory: Option<String> = row.get(5);
        Ok(ServerFacts {
            system_identifier,
            in_recovery: row.get(1),
            timeline: TimelineId(
                u32::try_from(timeline)
                    .map_err(|_| unexpected(timeline.to_string(), "a timeline"))?,
            ),
            current_lsn: current_lsn.map_or(Ok(Lsn::INVALID), parse_lsn)?,
            data_directory: row.get(4),
            log_directory: log_directory.unwrap_or_else(|| "log".to_owned()),
            port: u16::try_from(number(6)).unwrap_or(0),
            settings: SourceSettings {
                wal_level: row.get(7),
                max_wal_senders: number(8),
                active_wal_senders: number(9),
                max_replication_slots: number(10),
                used_replication_slots: number(11),
                full_page_writes: row.get(12),
                data_checksums: row.get(13),
                // The server counts it in megabytes (guc.c).
                wal_keep_bytes: u64::try_from(row.get::<_, i64>(18)).unwrap_or(0) << 20,
                archive_mode: row.get(19),
            },
            rights: SourceRights {
                role: row.get(14),
                backup: row.get(15),
                replication: row.get(16),
            },
            synchronous_standby_names: row.get(17),
        })
    }

    /// The paths of `postgresql.conf`, `pg_hba.conf` and `pg_ident.conf`; `None` when the role may not read them.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn configuration_files(&self) -> Result<Option<[String; 3]>, SqlError> {
        let row = self
            .client
            .query_one(
                "SELECT (SELECT setting FROM pg_settings WHERE name = 'config_file'), \
                 (SELECT setting FROM pg_settings WHERE name = 'hba_file'), \
                 (SELECT setting FROM pg_settings WHERE name = 'ident_file')",
                &[],
            )
            .await?;
        let path = |at: usize| {
            row.get::<_, Option<String>>(at)
                .filter(|path| !path.is_empty())
        };
        Ok(match (path(0), path(1), path(2)) {
            (Some(config), Some(hba), Some(ident)) => Some([config, hba, ident]),
            _ => None,
        })
    }

    /// The settings that name files or directories of the host, as far as the role may see them: name and value,
    /// none empty.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn named_files(&self) -> Result<Vec<(String, String)>, SqlError> {
        let rows = self
            .client
            .query(
                "SELECT name, setting FROM pg_settings WHERE setting <> '' AND name IN ('config_file', \
                 'hba_file', 'hosts_file', 'ident_file', 'external_pid_file', 'log_directory', 'stats_temp_directory', \
                 'krb_server_keyfile', 'ssl_ca_file', 'ssl_cert_file', 'ssl_crl_dir', 'ssl_crl_file', \
                 'ssl_dh_params_file', 'ssl_key_file')",
                &[],
            )
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Who streams from this server now.
    ///
    /// # Errors
    /// A failing statement.
    pub async fn wal_senders(&self) -> Result<Vec<WalSender>, SqlError> {
        let rows = self
            .client
            .query(
                "SELECT r.pid, COALESCE(r.application_name, ''), COALESCE(r.state, ''), \
                 s.slot_name::text, r.flush_lsn::text, r.replay_lsn::text, \
                 host(r.client_addr), r.client_port, (extract(epoch FROM r.backend_start) * 1000000)::int8 \
                 FROM pg_stat_replication r \
                 LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid",
                &[],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let lsn = |at: usize| row.get::<_, Option<&str>>(at).map(parse_lsn).transpose();
                Ok(WalSender {
                    pid: row.get(0),
                    application_name: row.get(1),
                    state: row.get(2),
                    slot: row.get(3),
                    flush_lsn: lsn(4)?,
                    replay_lsn: lsn(5)?,
                    client: client(row.get(6), row.get(7)),
                    began: row.get(8),
                })
            })
            .collect()
    }
}
