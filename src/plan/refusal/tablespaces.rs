//! Words for refusals: where tablespaces go.

use super::reason::Refusal;
use super::words::{Words, words};
use crate::plan::words::{some_of, text};

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
        Refusal::MappingUnknown { old, known } => words(
            format!("no tablespace of the source is at \"{}\"", text(old)),
            if known.is_empty() {
                "The source has no tablespaces to map.".to_owned()
            } else {
                format!("The source's tablespaces are at {}.", some_of(known))
            },
            "Correct or leave out the --tablespace-mapping.",
        ),
        Refusal::MappingTwice { old } => words(
            format!("tablespace \"{}\" is mapped more than once", text(old)),
            "It can be in one place only.",
            "Leave out all but one --tablespace-mapping for it.",
        ),
        Refusal::LocationNotAbsolute { oid, location } => words(
            format!(
                "location \"{}\" of the source's tablespace {oid} is not an absolute path",
                text(location)
            ),
            "It does not tell where the tablespace goes on this host.",
            "Correct the link in \"pg_tblspc\" on the source.",
        ),
        Refusal::LocationsOverlap { location, other } => words(
            format!(
                "tablespace locations \"{}\" and \"{}\" overlap",
                text(location),
                text(other)
            ),
            "Each tablespace needs a place of its own.",
            "Choose another directory with --tablespace-mapping.",
        ),
        Refusal::LocationInside {
            oid,
            old,
            location,
            outer,
            outer_role,
        } => words(
            format!(
                "tablespace {oid} would be at \"{}\", inside {outer_role} \"{}\"",
                text(location),
                text(outer)
            ),
            "Its files would be taken for files of that directory.",
            format!(
                "Choose a directory outside: --tablespace-mapping={}=NEWDIR.",
                mapping_side(old)
            ),
        ),
        Refusal::LocationOfSource {
            oid,
            old,
            location,
            suggestion,
        } => words(
            format!(
                "tablespace {oid} would be at \"{}\", which the source uses on this host",
                text(location)
            ),
            "A rebuild would overwrite the files of the running source.",
            match suggestion {
                Some(place) => format!(
                    "Use --tablespace-mapping={}={}, where the target has it now, or another directory.",
                    mapping_side(old),
                    mapping_side(place)
                ),
                None => format!(
                    "Choose another directory: --tablespace-mapping={}=NEWDIR.",
                    mapping_side(old)
                ),
            },
        ),
        Refusal::LocationShared {
            oid,
            old,
            location,
            other,
        } => words(
            format!(
                "tablespace {oid} would be at \"{}\", which is in use by \"{}\"",
                text(location),
                other.pgdata
            ),
            match other.server_pid {
                Some(pid) => format!(
                    "A rebuild would overwrite the files of the running server with pid {pid}."
                ),
                None => "A rebuild would overwrite the files of that data directory.".to_owned(),
            },
            {
                let choose = format!(
                    "Choose another directory: --tablespace-mapping={}=NEWDIR.",
                    mapping_side(old)
                );
                match other.server_pid {
                    Some(_) => choose,
                    None => format!(
                        "{choose} If that data directory is of no use any more, remove it, or use \
                         --reuse-tablespace-dirs."
                    ),
                }
            },
        ),
        Refusal::LocationInUse {
            location,
            version_directory,
        } => words(
            format!(
                "directory \"{}/{version_directory}\" already exists",
                text(location)
            ),
            "No link of the target leads there: it may be a tablespace of another cluster.",
            "Choose another directory with --tablespace-mapping. If its content can be given up, use --reuse-tablespace-dirs.",
        ),
        Refusal::LocationNotEmpty { location, example } => words(
            format!("directory \"{}\" exists but is not empty", text(location)),
            format!("It holds \"{example}\", which is no part of a tablespace."),
            "Choose another directory with --tablespace-mapping. If the tablespace may share the directory, use --reuse-tablespace-dirs.",
        ),
        Refusal::LocationNotDirectory { location } => words(
            format!("\"{}\" exists but is not a directory", text(location)),
            "A tablespace of the source goes there.",
            "Remove it, or choose another directory with --tablespace-mapping.",
        ),
        Refusal::NewTablespaces { oids } => words(
            format!(
                "the source got a new tablespace during the run: {}",
                oids.iter()
                    .map(u32::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            "Where it goes on this host was not decided, and its place was not checked.",
            "Run the same command again, with a --tablespace-mapping for it where the source's path is not to be used.",
        ),
        _ => return None,
    })
}

/// One side of a `--tablespace-mapping`, its equals signs escaped.
fn mapping_side(path: &[u8]) -> String {
    text(path).replace('=', "\\=")
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    use crate::plan::tablespaces::Sharer;
    let s = || "x".to_owned();
    let b = || b"/x".to_vec();
    vec![
        Refusal::MappingUnknown {
            old: b(),
            known: vec![s()],
        },
        Refusal::MappingUnknown {
            old: b(),
            known: vec![],
        },
        Refusal::MappingTwice { old: b() },
        Refusal::LocationNotAbsolute {
            oid: 1,
            location: b(),
        },
        Refusal::LocationsOverlap {
            location: b(),
            other: b(),
        },
        Refusal::LocationInside {
            oid: 1,
            old: b(),
            location: b(),
            outer: b(),
            outer_role: "the data directory",
        },
        Refusal::LocationOfSource {
            oid: 1,
            old: b(),
            location: b(),
            suggestion: None,
        },
        Refusal::LocationOfSource {
            oid: 1,
            old: b(),
            location: b(),
            suggestion: Some(b()),
        },
        Refusal::LocationShared {
            oid: 1,
            old: b(),
            location: b(),
            other: Sharer {
                pgdata: s(),
                server_pid: None,
            },
        },
        Refusal::LocationShared {
            oid: 1,
            old: b(),
            location: b(),
            other: Sharer {
                pgdata: s(),
                server_pid: Some(1),
            },
        },
        Refusal::LocationInUse {
            location: b(),
            version_directory: s(),
        },
        Refusal::LocationNotEmpty {
            location: b(),
            example: s(),
        },
        Refusal::LocationNotDirectory { location: b() },
        Refusal::NewTablespaces { oids: vec![1] },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_in_a_hint_is_escaped() {
        let refusal = Refusal::LocationOfSource {
            oid: 1,
            old: b"/a=b".to_vec(),
            location: b"/a=b".to_vec(),
            suggestion: Some(b"/c".to_vec()),
        };
        assert!(refusal.hint().contains("--tablespace-mapping=/a\\=b=/c,"));
    }
}
