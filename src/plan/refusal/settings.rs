//! Words for refusals: what the standby would have less of, and what its configuration makes of its server.

use super::reason::Refusal;
use super::words::{Words, words};

/// Names in quotes, for the middle of a line.
fn quoted(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    quoted.join(", ")
}

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
        Refusal::ServesElsewhere {
            pgdata,
            data_directory,
            place,
            file,
        } => words(
            format!("the target's configuration is that of a server in \"{place}\""),
            format!(
                "\"data_directory\" is \"{data_directory}\" in \"{file}\": a server that is started with it would not \
                 work in \"{pgdata}\", but there, and perhaps as a second primary."
            ),
            format!(
                "Remove \"data_directory\" from that file or set it to '{}'; or give the right file with --config-file, or the right directory with -D.",
                pgdata.replace('\'', "''")
            ),
        ),
        Refusal::EmptyConfiguration { files } => words(
            format!(
                "configuration of the target without content: {}",
                quoted(files)
            ),
            "A killed pg_rewind leaves such files, since it empties a file before it writes the source's content. The target would keep them as its own.",
            "Use --config source, or put the target's own content back; a comment counts as content.",
        ),
        _ => return None,
    })
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    use crate::plan::settings::TooLow;

    let s = || "x".to_owned();
    vec![
        Refusal::SettingsTooLow {
            settings: vec![TooLow {
                name: "max_connections",
                target: 100,
                source: 200,
            }],
        },
        Refusal::ServesElsewhere {
            pgdata: s(),
            data_directory: s(),
            place: s(),
            file: s(),
        },
        Refusal::EmptyConfiguration { files: vec![s()] },
    ]
}
