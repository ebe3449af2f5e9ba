//! Words for refusals: what the standby would have less of.

use super::reason::Refusal;
use super::words::{Words, words};

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
        Refusal::SettingsTooLow { settings } => words(
            "settings of the target are lower than the source's",
            settings
                .iter()
                .map(|low| {
                    format!(
                        "\"{}\" is {} in the target and {} in the source.",
                        low.name, low.target, low.source
                    )
                })
                .chain(["A standby with less lets no session in.".to_owned()])
                .collect::<Vec<_>>()
                .join(" "),
            format!(
                "Set in the target's configuration: {}; or use --raise-settings.",
                settings
                    .iter()
                    .map(|low| format!("{} = {}", low.name, low.source))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        ),
        _ => return None,
    })
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    use crate::plan::settings::TooLow;

    vec![Refusal::SettingsTooLow {
        settings: vec![TooLow {
            name: "max_connections",
            target: 100,
            source: 200,
        }],
    }]
}
