//! Each reason to refuse, with its values, and in words for the DBA.
//!
//! Three parts, in the style of PostgreSQL's messages: the error says what is wrong, the detail why
//! going on is dangerous or impossible, the hint what to do, with the option that overrides the
//! guard where one exists. Who refuses, and when, is in `plan::guard` and `plan::tablespaces`.
//!
//! All reasons are in `reason`, with their names; the words of each kind, and a sample of each reason
//! for the tests, in a file of their own:
//!
//! - `target`: who runs it, and what is in the target's place.
//! - `identity`: target and source are one, or one inside the other.
//! - `kinship`: how the two clusters relate.
//! - `lineage`: where the source leads.
//! - `source`: whether the source can serve a standby.
//! - `slot`: the replication slot.
//! - `settings`: what the standby would have less of, and what its configuration makes of its server.
//! - `directories`: directories that options name.
//! - `tablespaces`: where tablespaces go.
//! - `login`: the standby's login.
//! - `room`: room on the file systems.
//! - `removals`: how many files go.
//! - `rights`: what may not be read or written.

mod directories;
mod identity;
mod kinship;
mod lineage;
mod login;
mod reason;
mod removals;
mod rights;
mod room;
mod settings;
mod slot;
mod source;
mod tablespaces;
mod target;
mod words;

pub use self::reason::Refusal;

use self::words::{Words, words};

/// The words of each kind; none for reasons of another.
const KINDS: [fn(&Refusal) -> Option<Words>; 13] = [
    target::words_of,
    identity::words_of,
    kinship::words_of,
    lineage::words_of,
    source::words_of,
    slot::words_of,
    settings::words_of,
    directories::words_of,
    tablespaces::words_of,
    login::words_of,
    room::words_of,
    removals::words_of,
    rights::words_of,
];

impl Refusal {
    /// What is wrong: one line, lower case, no full stop.
    #[must_use]
    pub fn error(&self) -> String {
        self.words().error
    }

    /// Why the run must not go on: sentences.
    #[must_use]
    pub fn detail(&self) -> String {
        self.words().detail
    }

    /// What to do: sentences.
    #[must_use]
    pub fn hint(&self) -> String {
        self.words().hint
    }

    fn words(&self) -> Words {
        KINDS
            .iter()
            .find_map(|words_of| words_of(self))
            // A reason that its kind forgot; `every_refusal_has_words` fails then.
            .unwrap_or_else(|| words(self.name(), "", ""))
    }
}

/// One of each reason at least, for the tests.
#[cfg(test)]
pub fn samples() -> Vec<Refusal> {
    [
        target::samples(),
        identity::samples(),
        kinship::samples(),
        lineage::samples(),
        source::samples(),
        slot::samples(),
        settings::samples(),
        directories::samples(),
        tablespaces::samples(),
        login::samples(),
        room::samples(),
        removals::samples(),
        rights::samples(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_samples() {
        for (number, words_of) in KINDS.iter().enumerate() {
            assert!(samples().iter().any(|r| words_of(r).is_some()), "{number}");
        }
    }

    #[test]
    fn every_refusal_has_words_in_postgresqls_style() {
        for refusal in samples() {
            let (name, error) = (refusal.name(), refusal.error());
            let (detail, hint) = (refusal.detail(), refusal.hint());
            assert!(
                error.contains(' ') && !error.ends_with('.'),
                "{name}: {error}"
            );
            // A name in quotes may come first; otherwise lower case.
            assert!(!error.starts_with(char::is_uppercase), "{name}: {error}");
            assert!(!error.contains('\n'), "{name}: {error}");
            for sentence in [&detail, &hint] {
                let end = sentence.trim_end_matches(';');
                assert!(
                    sentence
                        .starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit() || c == '"'),
                    "{name}: {sentence}"
                );
                assert!(sentence.ends_with(['.', ';']), "{name}: {end}");
            }
            assert!(
                name.chars().all(|c| c.is_ascii_lowercase() || c == '-'),
                "{name}"
            );
        }
    }

    #[test]
    fn overridable_refusals_name_their_option() {
        for (name, option) in [
            ("server-running", "--stop"),
            ("foreign-cluster", "--overwrite-foreign-cluster"),
            ("unreadable", "--overwrite-unknown-cluster"),
            ("newer-timeline", "--discard-newer-timeline"),
            ("newer-wal", "--discard-newer-wal"),
            ("location-in-use", "--reuse-tablespace-dirs"),
            ("location-not-empty", "--reuse-tablespace-dirs"),
            ("login-refused", "--no-login-check"),
            ("login-elsewhere", "--no-login-check"),
            ("no-room", "--ignore-free-space"),
            ("too-many-removals", "--max-delete"),
            ("unsupported-version", "--allow-unknown-version"),
            ("settings-too-low", "--raise-settings"),
            ("source-follows-target", "--leave-no-primary"),
            ("seed-not-asked-for", "--seed"),
            ("slot-keeps-too-much", "--max-wal-retained"),
            ("empty-configuration", "--config source"),
            ("diverged-wal-place", "--keep-diverged-wal"),
            ("diverged-wal-incomplete", "--keep-incomplete-wal"),
        ] {
            let named: Vec<Refusal> = samples().into_iter().filter(|r| r.name() == name).collect();
            assert!(!named.is_empty(), "{name}");
            for refusal in named {
                assert!(
                    refusal.hint().contains(option),
                    "{name}: {}",
                    refusal.hint()
                );
            }
        }
    }
}
