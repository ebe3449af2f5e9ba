//! Whether two clusters can be compared block by block: only where the one is an earlier stage of the other.

use std::fmt;

use crate::facts::{Condition, SourceFacts, TargetCluster, TargetFacts};
use crate::pg::control::ControlFile;
use crate::pg::hints::{Settled, XidRange};
use crate::pg::lsn::Lsn;
use crate::plan::relation::Relation;
use crate::plan::tablespaces;

/// Why they cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// A stable name.
    pub code: &'static str,
    /// Lower case, no full stop.
    pub error: String,
    /// Sentences.
    pub detail: String,
    pub hint: String,
}

/// What the hint says where a rebuild makes both one.
const REBUILD: &str = "pg_reseed rebuild makes the directory a standby of the source, and moves only what differs. \
                       pg_reseed inspect tells how both relate.";

fn unfit(
    code: &'static str,
    error: impl fmt::Display,
    detail: impl Into<String>,
    hint: &str,
) -> Unfit {
    Unfit {
        code,
        error: error.to_string(),
        detail: detail.into(),
        hint: hint.to_owned(),
    }
}

/// The standby's cluster, if it can be compared with the source.
///
/// # Errors
/// What stands against it.
pub fn fit<'a>(
    standby: &'a TargetFacts,
    source: &SourceFacts,
    relation: &Relation,
) -> Result<(&'a TargetCluster, &'a ControlFile), Unfit> {
    let Condition::Cluster(cluster) = &standby.condition else {
        return Err(unfit(
            "no-cluster",
            format!("\"{}\" is no data directory", standby.pgdata),
            "There is nothing to compare.",
            "Check -D.",
        ));
    };
    if cluster.interrupted.is_some() || cluster.is_locked {
        return Err(unfit(
            "interrupted",
            "a rebuild of the directory has not ended",
            "It is neither what it was nor what it will be.",
            "Let it end, or run its command again.",
        ));
    }
    let Some(control) = &cluster.control else {
        let problem = cluster.control_problem.clone().unwrap_or_default();
        return Err(unfit(
            "no-control-file",
            "the directory has no control file that can be read",
            format!("{problem}."),
            REBUILD,
        ));
    };
    if cluster.backup.is_some() {
        return Err(unfit(
            "never-started",
            "the directory is a backup in which no server was ever started",
            "Its files are of different moments until its server has replayed the WAL of the backup.",
            "Start its server, and verify when it has replayed that.",
        ));
    }
    let theirs = &source.control;
    if control.system_identifier == theirs.system_identifier {
        let differences = control.layout_differences(theirs);
        if let Some((name, ours, theirs)) = differences.first() {
            return Err(unfit(
                "layout",
                format!("the directory's {name} is {ours}, the source's {theirs}"),
                "Their files have different layouts.",
                REBUILD,
            ));
        }
        if cluster.major != Some(source.version.major()) {
            return Err(unfit(
                "version",
                "the directory is of another major version than the source",
                "Their files have different layouts.",
                REBUILD,
            ));
        }
    }
    judge_relation(source, relation)?;
    if !source.version.is_supported() {
        return Err(unfit(
            "unknown-version",
            format!(
                "this pg_reseed does not know PostgreSQL {}",
                source.version.major()
            ),
            "Which bytes of its pages may differ is not known.",
            "Use a newer pg_reseed.",
        ));
    }
    Ok((cluster, control))
}

fn judge_relation(source: &SourceFacts, relation: &Relation) -> Result<(), Unfit> {
    match relation {
        Relation::Same { .. } | Relation::Lagging { .. } | Relation::CleanAncestor { .. } => Ok(()),
        Relation::Foreign { .. } => Err(unfit(
            "foreign",
            "the directory and the source are two clusters",
            format!("It {relation}."),
            "Check -D, and which source is asked.",
        )),
        Relation::AheadSameTimeline {
            source_is_standby: true,
            ..
        } => Err(unfit(
            "source-is-behind",
            "the source is behind the directory",
            format!("It {relation}."),
            "Name the server as the source that the directory's server follows, or wait until the source has replayed \
             that.",
        )),
        relation => Err(unfit(
            "not-one-history",
            format!(
                "the directory is no standby of the source in {}",
                source.host.name
            ),
            format!("It {relation}: what differs would say nothing."),
            REBUILD,
        )),
    }
}

/// The only directory of a tablespace's location that is the cluster's.
#[must_use]
pub fn version_directory(source: &SourceFacts) -> String {
    tablespaces::version_directory(source)
}

/// What both disks hold all changes up to: the redo position of the last checkpoint of either side, whichever is lower.
/// A standby's restartpoint is a checkpoint of its primary (PostgreSQL `xlog.c:CreateRestartPoint`).
#[must_use]
pub fn threshold(standby: &ControlFile, source: &ControlFile) -> Lsn {
    standby.redo.min(source.redo)
}

/// The transactions of which the `pg_xact` of a cluster says on disk how they ended.
///
/// From the checkpoint's `oldestActiveXid` on they may have been running when it was made, and their end may be in memory
/// only; at a shutdown, which states none, no transaction runs (PostgreSQL `xlog.c:CreateCheckPoint`). But one may be
/// prepared there, and commit after it.
#[must_use]
pub fn settled_xids(control: &ControlFile) -> Settled {
    // The upper half counts the wraparounds.
    let next = u32::try_from(control.next_xid & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let active = control.oldest_active_xid;
    Settled {
        range: XidRange {
            oldest: control.oldest_xid,
            next: if active == 0 { next } else { active },
        },
        is_final: active != 0 || control.max_prepared_transactions == 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Running;
    use crate::pg::control::ClusterState;
    use crate::plan::relation::relate;
    use crate::plan::samples::{END, cluster, control, source, target};

    fn judged(bend: impl FnOnce(&mut TargetCluster, &mut SourceFacts)) -> Result<(), &'static str> {
        let (mut cluster, mut source) = (cluster(0x2F0_0028), source());
        cluster.history = source.history.clone();
        cluster.control = Some(control(2, END.0 - 0x1000, ClusterState::InArchiveRecovery));
        cluster.major = Some(source.version.major());
        cluster.running = Running::No;
        bend(&mut cluster, &mut source);
        let target = target(Condition::Cluster(Box::new(cluster)));
        let relation = relate(&target, &source);
        fit(&target, &source, &relation)
            .map(|_| ())
            .map_err(|unfit| unfit.code)
    }

    #[test]
    fn only_earlier_stages_of_the_source_are_compared() {
        assert_eq!(judged(|_, _| {}), Ok(()));
        let ours = |change: fn(&mut ControlFile)| {
            judged(|cluster, _| change(cluster.control.as_mut().unwrap()))
        };
        assert_eq!(
            ours(|control| control.system_identifier = 1),
            Err("foreign")
        );
        assert_eq!(ours(|control| control.block_bytes = 4096), Err("layout"));
        assert_eq!(
            judged(|cluster, _| cluster.major = Some(14)),
            Err("version")
        );
        assert_eq!(
            judged(|cluster, _| cluster.is_locked = true),
            Err("interrupted")
        );
        let ahead = |control: &mut ControlFile| control.checkpoint = Lsn(END.0 + 0x2000);
        assert_eq!(ours(ahead), Err("not-one-history"));
        let late = judged(|cluster, source| {
            source.in_recovery = true;
            ahead(cluster.control.as_mut().unwrap());
        });
        assert_eq!(late, Err("source-is-behind"));
        assert_eq!(
            judged(|cluster, _| cluster.control = None),
            Err("no-control-file")
        );
        let empty = target(Condition::Missing);
        let source = source();
        let unfit = fit(&empty, &source, &relate(&empty, &source)).unwrap_err();
        assert_eq!(unfit.code, "no-cluster");
    }

    #[test]
    fn transactions_that_may_have_run_at_the_checkpoint_are_not_settled() {
        let mut control = control(1, 0x100, ClusterState::InProduction);
        control.next_xid = (7 << 32) + 900;
        control.oldest_active_xid = 850;
        control.max_prepared_transactions = 5;
        let Settled { range, is_final } = settled_xids(&control);
        let XidRange { oldest, next } = range;
        assert_eq!((oldest, next), (control.oldest_xid, 850));
        assert!(is_final);
        control.oldest_active_xid = 0;
        let shut_down = settled_xids(&control);
        assert_eq!((shut_down.range.next, shut_down.is_final), (900, false));
        control.max_prepared_transactions = 0;
        assert!(settled_xids(&control).is_final);
    }

    #[test]
    fn the_threshold_is_the_earlier_checkpoint() {
        let [a, b] = [0x100, 0x200].map(|at| control(1, at, ClusterState::InProduction));
        assert_eq!(threshold(&a, &b), Lsn(0x100));
        assert_eq!(threshold(&b, &a), Lsn(0x100));
    }
}
