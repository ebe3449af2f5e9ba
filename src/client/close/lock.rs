//! The point of no return: from what was judged to a closed target.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::client::failure::{Failure, Kind};
use crate::client::look::marker::{self, Before, Marker};
use crate::client::look::target::{self, Hold};
use crate::client::run::Run;
use crate::disk::close::{CloseError, ClosePlan, Expected, make_data_directory};
use crate::disk::target::ClosedTarget;
use crate::facts::{SourceFacts, TargetCluster};
use crate::path::RelPath;
use crate::pg::layout;
use crate::pg::lsn::Lsn;
use crate::plan::guard::Cleared;
use crate::plan::refusal::Refusal;
use crate::plan::standby as standby_plan;

/// What closing needs.
pub struct Close<'a> {
    pub run: &'a Run<'a>,
    pub facts: &'a SourceFacts,
    pub cleared: &'a Cleared,
    pub before: Option<&'a TargetCluster>,
    pub start_lsn: Lsn,
    pub old_auto_conf: &'a [u8],
    /// What the owner's permission bits do not let it work on yet.
    pub mend: &'a [RelPath],
}

impl Close<'_> {
    /// Makes the target unstartable: the point of no return.
    ///
    /// # Errors
    /// A failure that leaves the target as it was, unless closing stopped in the middle.
    pub fn close(&self, hold: Hold) -> Result<ClosedTarget, Failure> {
        let options = self.run.options;
        let findings = self.cleared.findings();
        let group_access = layout::has_group_access(match self.before {
            Some(cluster) => cluster.mode,
            None => self.facts.data_directory_mode,
        });
        if self.before.is_none() {
            let mode = if group_access { 0o750 } else { 0o700 };
            make_data_directory(&options.pgdata, mode)
                .map_err(|error| Failure::untouched(&error))?;
        }
        let hold = match hold {
            Hold::Nothing => {
                target::hold(&options.pgdata).map_err(|error| Failure::untouched(&error))?
            }
            hold => hold,
        };
        let held = match hold {
            Hold::Ours(held) => held,
            other => {
                let pgdata = options.pgdata.display().to_string();
                let holder = match other {
                    Hold::Others(holder) => holder.map(Box::new),
                    _ => None,
                };
                return Err(Failure::refused(&[Refusal::Locked { pgdata, holder }]));
            }
        };
        let marker = serde_json::to_vec_pretty(&self.marker())
            .map_err(|error| Failure::untouched(&error))?;
        let closed_auto_conf = standby_plan::closed_auto_conf(self.old_auto_conf);
        let plan = ClosePlan {
            marker: &marker,
            closed_auto_conf: &closed_auto_conf,
            data_directory_mode: self
                .before
                .and_then(|cluster| layout::mended_directory_mode(cluster.mode)),
            mend: self.mend,
            group_access,
            waldir: options.waldir.as_deref(),
            placements: &findings.placements,
            required_directories: layout::required_directories(self.facts.version.major()),
            expected: self.expected(),
            stale_pid_file: self.before.map_or(&[], |cluster| &cluster.pid_file),
            sync: options.sync,
        };
        ClosedTarget::close(held, self.cleared, &plan).map_err(|error| match &error {
            CloseError::HalfWay(_) => Failure::half_way(&error),
            CloseError::Untouched(_) => Failure::untouched(&error),
            CloseError::Started(_) => Failure {
                kind: Kind::Refused,
                refusals: vec!["server-running"],
                ..Failure::untouched(&error).hint("Stop that server, or use --stop.")
            },
            CloseError::Changed => Failure {
                kind: Kind::Refused,
                refusals: vec!["target-changed"],
                ..Failure::untouched(&error)
                    .hint("Find out who works there, then run the same command again.")
            },
        })
    }

    fn expected(&self) -> Expected<'_> {
        match self.before {
            None => Expected::Empty,
            Some(cluster) => match (&cluster.interrupted, &cluster.control) {
                (None, Some(control)) => Expected::Cluster(control),
                (None, None) => Expected::Unknown,
                (Some(_), _) => Expected::Interrupted,
            },
        }
    }

    fn marker(&self) -> Marker {
        let options = self.run.options;
        Marker {
            message: marker::MESSAGE.to_owned(),
            pg_reseed_version: env!("CARGO_PKG_VERSION").to_owned(),
            started_unix_seconds: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_secs()),
            source_host: self.facts.host.name.clone(),
            source_system_identifier: self.facts.control.system_identifier.to_string(),
            start_lsn: self.start_lsn,
            command: options.command.clone(),
            directory: options.working_directory.display().to_string(),
            is_seed: self.cleared.findings().is_seed,
            before: self.before.map(|cluster| Before {
                history: cluster.history.clone(),
                newest_wal_timeline: cluster.newest_wal_timeline,
                wal_segments_end: cluster.wal_segments_end,
                unarchived: cluster.unarchived.clone(),
                slots: cluster.slots.clone(),
                mark: cluster.mark.clone(),
            }),
        }
    }
}
