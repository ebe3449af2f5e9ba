//! The settings that a standby must not have lower than its primary, or no session is let in: `hot_standby` asks
//! for room for all that the primary may have running (PostgreSQL `xlogrecovery.c:RecoveryRequiresIntParameter`,
//! `xlog.c:CheckRequiredParameterValues`). What the primary has stands in its WAL and control file.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::pg::control::ControlFile;
use crate::pg::version::Version;

/// A setting that is too low.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TooLow {
    pub name: &'static str,
    /// What the target's configuration gives.
    pub target: i32,
    /// What the source has.
    pub source: i32,
}

/// What the target's configuration would give that is lower than the source's.
///
/// `configured` is what its files set, names in lower case; what they leave out has the server's default
/// (`guc_tables.c`, from 19 on `guc_parameters.dat`). A value that is no plain number is left to the server to judge.
#[must_use]
pub fn too_low(
    source: &ControlFile,
    version: Version,
    configured: &BTreeMap<String, String>,
) -> Vec<TooLow> {
    if configured
        .get("hot_standby")
        .is_some_and(|value| is_false(value))
    {
        return Vec::new();
    }
    [
        ("max_connections", 100, source.max_connections),
        ("max_worker_processes", 8, source.max_worker_processes),
        ("max_wal_senders", 10, source.max_wal_senders),
        (
            "max_prepared_transactions",
            0,
            source.max_prepared_transactions,
        ),
        (
            "max_locks_per_transaction",
            version.default_max_locks_per_transaction(),
            source.max_locks_per_transaction,
        ),
    ]
    .into_iter()
    .filter_map(|(name, default, source)| {
        let target = match configured.get(name) {
            None => default,
            Some(value) => value.trim().parse().ok()?,
        };
        (target < source).then_some(TooLow {
            name,
            target,
            source,
        })
    })
    .collect()
}

/// What slot synchronisation lacks, where the target's configuration asks for it (PostgreSQL 17 and later,
/// `slotsync.c:ValidateSlotSyncParams`).
#[must_use]
pub fn slot_sync_lacks(
    configured: &BTreeMap<String, String>,
    version: Version,
    has_database: bool,
    has_slot: bool,
) -> Vec<&'static str> {
    let is_on = |name: &str| configured.get(name).is_some_and(|value| is_true(value));
    if !is_on("sync_replication_slots") {
        return Vec::new();
    }
    let is_logical = version.standby_follows_wal_level()
        || configured
            .get("wal_level")
            .is_some_and(|level| level.eq_ignore_ascii_case("logical"));
    [
        (
            has_database,
            "a database in the connection string (dbname=... in -d)",
        ),
        (has_slot, "a slot (--slot)"),
        (is_on("hot_standby_feedback"), "hot_standby_feedback = on"),
        (is_logical, "wal_level = logical"),
    ]
    .into_iter()
    .filter_map(|(is_there, what)| (!is_there).then_some(what))
    .collect()
}

/// Any unambiguous beginning of these words is understood (`bool.c:parse_bool_with_len`).
fn is_true(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    matches!(value.as_str(), "on" | "1")
        || (!value.is_empty() && ("true".starts_with(&value) || "yes".starts_with(&value)))
}

/// As [`is_true`].
pub(super) fn is_false(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    matches!(value.as_str(), "of" | "off" | "0")
        || (!value.is_empty() && ("false".starts_with(&value) || "no".starts_with(&value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::samples;

    const BEFORE_19: Version = Version(180_004);

    fn low(settings: &[(&str, &str)]) -> Vec<(&'static str, i32, i32)> {
        low_in(BEFORE_19, settings)
    }

    fn low_in(version: Version, settings: &[(&str, &str)]) -> Vec<(&'static str, i32, i32)> {
        let mut source = samples::source().control;
        source.max_connections = 200;
        source.max_worker_processes = 8;
        source.max_wal_senders = 10;
        source.max_prepared_transactions = 5;
        source.max_locks_per_transaction = 64;
        let configured = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        too_low(&source, version, &configured)
            .into_iter()
            .map(|low| (low.name, low.target, low.source))
            .collect()
    }

    #[test]
    fn what_is_lower_than_the_sources_is_found() {
        assert_eq!(
            low(&[]),
            [
                ("max_connections", 100, 200),
                ("max_prepared_transactions", 0, 5)
            ]
        );
        assert_eq!(
            low(&[
                ("max_connections", "200"),
                ("max_prepared_transactions", "64"),
                ("max_worker_processes", "7"),
            ]),
            [("max_worker_processes", 7, 8)]
        );
        // The server says what it thinks of it.
        assert_eq!(
            low(&[
                ("max_connections", "many"),
                ("max_prepared_transactions", "5")
            ]),
            []
        );
    }

    #[test]
    fn a_default_that_has_changed_is_that_of_the_version() {
        let mut source = samples::source().control;
        source.max_locks_per_transaction = 128;
        let low = |version| too_low(&source, version, &BTreeMap::new());
        assert_eq!(low(Version(190_000)), []);
        assert_eq!(low(BEFORE_19)[0].name, "max_locks_per_transaction");
        // In 19 too, who sets less has less.
        let little = [("max_locks_per_transaction", "32")];
        assert!(low_in(Version(190_000), &little).contains(&("max_locks_per_transaction", 32, 64)));
    }

    #[test]
    fn a_standby_that_lets_no_session_in_may_have_less() {
        for off in ["off", "OFF", "f", "no", "0"] {
            assert_eq!(low(&[("hot_standby", off)]), [], "{off}");
        }
        for on in ["on", "1", "o", ""] {
            assert_eq!(low(&[("hot_standby", on)]).len(), 2, "{on}");
        }
    }

    #[test]
    fn slot_synchronisation_is_told_what_it_lacks() {
        let lacks = |settings: &[(&str, &str)], database, slot| {
            let configured = settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            slot_sync_lacks(&configured, BEFORE_19, database, slot).join(", ")
        };
        assert_eq!(lacks(&[], false, false), "");
        assert_eq!(
            lacks(&[("sync_replication_slots", "off")], false, false),
            ""
        );
        assert_eq!(
            lacks(&[("sync_replication_slots", "on")], false, false),
            "a database in the connection string (dbname=... in -d), a slot (--slot), \
             hot_standby_feedback = on, wal_level = logical"
        );
        let complete = [
            ("sync_replication_slots", "yes"),
            ("hot_standby_feedback", "t"),
            ("wal_level", "Logical"),
        ];
        assert_eq!(lacks(&complete, true, true), "");
        assert_eq!(lacks(&complete, true, false), "a slot (--slot)");
        // From 19 on the primary's WAL decides.
        let on = [
            ("sync_replication_slots", "on"),
            ("hot_standby_feedback", "on"),
        ];
        let configured = on
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        assert_eq!(
            slot_sync_lacks(&configured, BEFORE_19, true, true),
            ["wal_level = logical"]
        );
        assert!(slot_sync_lacks(&configured, Version(190_000), true, true).is_empty());
    }
}
