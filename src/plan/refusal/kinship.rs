//! Words for refusals: how the two clusters relate.

use super::reason::Refusal;
use super::words::{Words, words};
use crate::pg::version::SUPPORTED_MAJORS;
use crate::plan::words::Bytes;

pub(super) fn words_of(refusal: &Refusal) -> Option<Words> {
    Some(match refusal {
        Refusal::UnsupportedVersion { version } => words(
            format!("the source runs PostgreSQL {version}, which is not supported"),
            format!(
                "The files of PostgreSQL {} to {} are known.",
                SUPPORTED_MAJORS.start(),
                SUPPORTED_MAJORS.end()
            ),
            if version.major() > *SUPPORTED_MAJORS.end() {
                "Use a pg_reseed made for this version. If nothing that it depends on has changed there, --allow-unknown-version goes on."
            } else {
                "Use a pg_reseed made for this version."
            },
        ),
        Refusal::OtherMajor { target, source } => words(
            format!("the target is of PostgreSQL {target}, the source of PostgreSQL {source}"),
            "A standby must be of its primary's major version, and no block of one is of use in the other.",
            "Check -D and --from. To seed a standby of the source there, empty the directory first.",
        ),
        Refusal::OtherLayout { differences } => words(
            "the data files of target and source have different layouts",
            differences
                .iter()
                .map(|(field, target, source)| {
                    format!("Field {field} is {target} in the target and {source} in the source.")
                })
                .collect::<Vec<_>>()
                .join(" "),
            "Check -D and --from. To seed a standby of the source there, empty the directory first.",
        ),
        Refusal::ForeignCluster { target, source } => words(
            "the target belongs to another cluster",
            format!(
                "Its system identifier is {target}, the source's is {source}: everything in it would be lost."
            ),
            "Check -D and --from. If the target's cluster can be given up, use --overwrite-foreign-cluster.",
        ),
        Refusal::NewerTimeline {
            target,
            source,
            common,
            target_end,
            copy,
        } => words(
            format!(
                "the target is on timeline {target}, which is newer than the source's timeline {source}"
            ),
            match (common, copy) {
                (_, Some(copy)) => format!("{copy} What was written to it would be lost."),
                (Some((timeline, lsn)), None) => format!(
                    "It is, or has followed, a server that was promoted later than the source, perhaps the real primary: its WAL after {lsn} of timeline {timeline}, up to {target_end} at least, would be lost."
                ),
                (None, None) => format!(
                    "It is, or has followed, a server that was promoted later than the source, perhaps the real primary: its WAL, up to {target_end} at least, would be lost."
                ),
            },
            "Check which server is the primary: perhaps the source is the one to rebuild. If the target's timeline can be given up, use --discard-newer-timeline.",
        ),
        Refusal::NewerWal {
            timeline,
            target_end,
            source_end,
            source_is_standby,
        } => words(
            format!("the target is ahead of the source on timeline {timeline}"),
            format!(
                "It has WAL up to {target_end}, the source up to {source_end}: {} would be lost.",
                Bytes(target_end.bytes_since(*source_end))
            ),
            if *source_is_standby {
                "The source is a standby and may only be late: wait until it has replayed more, or use its primary. If the target's WAL can be given up, use --discard-newer-wal."
            } else {
                "Check which server is the primary, and whether the source was restored from an older backup. If the target's WAL can be given up, use --discard-newer-wal."
            },
        ),
        _ => return None,
    })
}

/// One of each.
#[cfg(test)]
pub(super) fn samples() -> Vec<Refusal> {
    use crate::pg::lsn::Lsn;
    use crate::pg::timeline::TimelineId;
    use crate::pg::version::Version;

    let s = || "x".to_owned();
    let (lsn, timeline) = (Lsn(0x300_0060), TimelineId(2));
    vec![
        Refusal::UnsupportedVersion {
            version: Version(200_000),
        },
        Refusal::OtherMajor {
            target: 14,
            source: 15,
        },
        Refusal::OtherLayout {
            differences: vec![("blcksz", s(), s())],
        },
        Refusal::ForeignCluster {
            target: 1,
            source: 2,
        },
        Refusal::NewerTimeline {
            target: timeline,
            source: timeline,
            common: Some((timeline, lsn)),
            target_end: lsn,
            copy: None,
        },
        Refusal::NewerTimeline {
            target: timeline,
            source: timeline,
            common: None,
            target_end: lsn,
            copy: Some("It is a copy.".to_owned()),
        },
        Refusal::NewerWal {
            timeline,
            target_end: lsn,
            source_end: Lsn(0x300_0000),
            source_is_standby: true,
        },
        Refusal::NewerWal {
            timeline,
            target_end: lsn,
            source_end: Lsn(0x300_0000),
            source_is_standby: false,
        },
    ]
}
