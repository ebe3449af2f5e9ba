//! A relation in words.

use std::fmt;

use super::Relation;
use crate::plan::words::Bytes;

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Relation::Seed => write!(f, "is empty: everything comes from the source"),
            Relation::Interrupted { before } if **before == Relation::Seed => {
                write!(f, "was left by an interrupted seed")
            }
            Relation::Interrupted { before } => {
                write!(
                    f,
                    "was left by an interrupted rebuild; before that it {before}"
                )
            }
            Relation::Same { timeline, lsn } => {
                write!(
                    f,
                    "stands where the source stands, at {lsn} of timeline {}",
                    timeline.0
                )
            }
            Relation::Lagging {
                timeline,
                target_end,
                bytes,
            } => write!(
                f,
                "is behind the source by {} of WAL, at {target_end} of timeline {}",
                Bytes(*bytes),
                timeline.0
            ),
            Relation::CleanAncestor {
                timeline,
                target_end,
                lsn,
            } => write!(
                f,
                "ended at {target_end} of timeline {}, before the source left that timeline at {lsn}: it has no WAL of its own",
                timeline.0
            ),
            Relation::PossiblyDiverged {
                timeline,
                lsn,
                target_end,
                at_most_bytes,
            } => write!(
                f,
                "may have diverged from the source at {lsn} of timeline {}: it was not shut down cleanly, its last known position is {target_end}, and its WAL files leave room for at most {} that only it has",
                timeline.0,
                Bytes(*at_most_bytes)
            ),
            Relation::Diverged { timeline, lsn, .. } => write!(
                f,
                "diverged from the source at {lsn} of timeline {}",
                timeline.0
            ),
            Relation::AheadSameTimeline {
                timeline,
                target_end,
                source_end,
                ..
            } => write!(
                f,
                "is ahead of the source on timeline {}: it has WAL up to {target_end}, the source up to {source_end}",
                timeline.0
            ),
            Relation::NewerTimeline {
                target,
                source,
                common,
                target_end,
            } => {
                write!(
                    f,
                    "is on timeline {}, which is newer than the source's timeline {}; it has WAL up to {target_end}",
                    target.0, source.0
                )?;
                if let Some((timeline, lsn)) = common {
                    write!(
                        f,
                        ", common with the source up to {lsn} of timeline {}",
                        timeline.0
                    )?;
                }
                Ok(())
            }
            Relation::NoCommonTimeline { target, source } => write!(
                f,
                "is on timeline {}, whose history shares no timeline with the source's timeline {}: how they relate is not known",
                target.0, source.0
            ),
            Relation::Foreign { target, source } => write!(
                f,
                "belongs to another cluster: its system identifier is {target}, the source's is {source}"
            ),
            Relation::Unknown => {
                write!(f, "has no readable control file: what it was is not known")
            }
        }
    }
}
