//! The settings that a standby must not have lower than its primary, or no session is let in: `hot_standby` asks
//! for room for all that the primary may have running (PostgreSQL `xlogrecovery.c:RecoveryRequiresIntParameter`,
//! `xlog.c:CheckRequiredParameterValues`). What the primary has stands in its WAL and control file.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::pg::control::ControlFile;

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
/// `configured` is what its files set, names in lower case; what they leave out has the server's default, the same
/// from 13 to 18. A value that is no plain number is left to the server to judge.
#[must_use]
pub fn too_low(source: &ControlFile, configured: &BTreeMap<String, String>) -> Vec<TooLow> {
    let is_off = |value: &String| {
        // Any unambiguous beginning of these words is understood (`bool.c:parse_bool_with_len`).
        let value = value.to_ascii_lowercase();
        matches!(value.as_str(), "of" | "off" | "0")
            || (!value.is_empty() && ("false".starts_with(&value) || "no".starts_with(&value)))
    };
    if configured.get("hot_standby").is_some_and(is_off) {
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
            64,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::samples;

    fn low(settings: &[(&str, &str)]) -> Vec<(&'static str, i32, i32)> {
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
        too_low(&source, &configured)
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
    fn a_standby_that_lets_no_session_in_may_have_less() {
        for off in ["off", "OFF", "f", "no", "0"] {
            assert_eq!(low(&[("hot_standby", off)]), [], "{off}");
        }
        for on in ["on", "1", "o", ""] {
            assert_eq!(low(&[("hot_standby", on)]).len(), 2, "{on}");
        }
    }
}
