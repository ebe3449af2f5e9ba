//! What the standby's configuration files say beside what the run writes: which of it is overridden because it would
//! end the standby's role, and which of it stays in force and may surprise. The files belong to the administrator.

use std::collections::BTreeMap;

/// What the DBA should hear about settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InForce {
    /// What another server's or another role's command could do to this one: sentences.
    pub warnings: Vec<String>,
    /// What only has to be known: sentences.
    pub notes: Vec<String>,
}

/// What is overridden in `postgresql.auto.conf`, since with it the standby would end its recovery by itself.
const ENDS_RECOVERY: [&str; 6] = [
    "promote_trigger_file",
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// Commands of a recovery, with what may surprise, and whether an option of ours says them.
const COMMANDS: [(&str, &str); 2] = [
    (
        "restore_command",
        "the standby also takes WAL and timelines from there; --restore-command says another one",
    ),
    (
        "archive_cleanup_command",
        "the standby removes WAL there; --archive-cleanup-command says another one",
    ),
];

/// Sorts what the files set. `settings` are theirs, names in lower case, without the lines of
/// `postgresql.auto.conf` that the run replaces; `origins` the files that set them; `said` are the settings that
/// the run writes itself.
#[must_use]
pub fn in_force(
    settings: &BTreeMap<String, String>,
    origin: impl Fn(&str) -> Option<String>,
    said: &[&str],
) -> InForce {
    let mut found = InForce::default();
    let value = |name: &str| {
        let value = settings.get(name).filter(|value| !value.is_empty())?;
        let file = origin(name).map_or_else(String::new, |file| format!(" in \"{file}\""));
        Some((value, file))
    };
    for (name, surprise) in COMMANDS {
        if let (Some((value, file)), false) = (value(name), said.contains(&name)) {
            found.warnings.push(format!(
                "Setting {name} = \"{value}\"{file} stays in force: {surprise}."
            ));
        }
    }
    for name in ENDS_RECOVERY {
        if let Some((value, file)) = value(name) {
            found.notes.push(format!(
                "Setting {name} = \"{value}\"{file} is overridden in \"postgresql.auto.conf\": with it the \
                 standby would not stay one."
            ));
        }
    }
    let is_zero = |value: &str| value.trim_end_matches(char::is_alphabetic).trim() == "0";
    for (name, is_usual, surprise) in [
        (
            "recovery_end_command",
            (|_| false) as fn(&str) -> bool,
            "it is run when the standby is promoted",
        ),
        (
            "recovery_min_apply_delay",
            is_zero,
            "the standby replays that much later",
        ),
        (
            "hot_standby",
            |value| !crate::plan::settings::is_false(value),
            "the standby lets no session in",
        ),
        (
            "archive_mode",
            |value| !value.eq_ignore_ascii_case("always"),
            "the standby archives what it receives",
        ),
    ] {
        if let Some((value, file)) = value(name)
            && !is_usual(value)
        {
            found.notes.push(format!(
                "Setting {name} = \"{value}\"{file} stays in force: {surprise}."
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(settings: &[(&str, &str)], said: &[&str]) -> InForce {
        let settings = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        in_force(&settings, |_| Some("/c".to_owned()), said)
    }

    #[test]
    fn commands_that_nobody_asked_for_are_warned_of() {
        let commands = [
            ("restore_command", "cp /a/%f %p"),
            ("archive_cleanup_command", "x %r"),
        ];
        let found = of(&commands, &[]);
        assert_eq!(found.warnings.len(), 2);
        assert_eq!(
            found.warnings[0],
            "Setting restore_command = \"cp /a/%f %p\" in \"/c\" stays in force: the standby also takes WAL and \
             timelines from there; --restore-command says another one."
        );
        let said = ["restore_command", "archive_cleanup_command"];
        assert_eq!(of(&commands, &said), InForce::default());
    }

    #[test]
    fn what_ends_the_role_is_named_and_what_is_usual_is_not() {
        let found = of(
            &[
                ("promote_trigger_file", "/t"),
                ("recovery_target_xid", ""),
                ("recovery_end_command", "true"),
                ("recovery_min_apply_delay", "1h"),
                ("hot_standby", "off"),
                ("archive_mode", "Always"),
            ],
            &[],
        );
        assert_eq!(found.warnings, [""; 0]);
        let names: Vec<_> = found
            .notes
            .iter()
            .map(|note| note.split(' ').nth(1).unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "promote_trigger_file",
                "recovery_end_command",
                "recovery_min_apply_delay",
                "hot_standby",
                "archive_mode"
            ]
        );
        assert!(found.notes[0].contains("is overridden"), "{found:?}");
        let usual = [
            ("recovery_min_apply_delay", "0"),
            ("recovery_min_apply_delay", "0s"),
            ("hot_standby", "on"),
            ("archive_mode", "on"),
        ];
        assert_eq!(of(&usual, &[]), InForce::default());
    }
}
