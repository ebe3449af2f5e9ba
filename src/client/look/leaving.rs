//! What goes from the target beside its data: said before it goes, and remembered for the outcome.

use crate::client::run::Run;
use crate::facts::{Condition, SourceFacts, TargetCluster, TargetFacts};
use crate::plan::diverged::Divergence;
use crate::plan::leaving::{self, Unarchived};
use crate::plan::relation::{Relation, relate};
use crate::warning::{Code, Warning};

/// What a server is made with, where no control file tells.
const SEGMENT_BYTES_DEFAULT: u32 = 16 << 20;

/// What takes it away, with its verb.
const REMOVES: &str = "a rebuild removes";
const REMOVED: &str = "the rebuild that was interrupted removes";

/// The WAL of a cluster that was never archived, as far as it is there.
pub fn unarchived(
    cluster: &TargetCluster,
    source: Option<(&SourceFacts, &Relation)>,
) -> Option<Unarchived> {
    let control = cluster.control.as_ref();
    let unit = control.map_or(SEGMENT_BYTES_DEFAULT, |control| control.wal_segment_bytes);
    let own = source.and_then(|(_, relation)| Divergence::of(relation, &cluster.history));
    Unarchived::of(
        &cluster.unarchived,
        unit,
        source.map(|(facts, _)| (facts, own.as_ref())),
    )
}

/// What a rebuild would take away beside the data. What is `saved` is no loss.
pub fn warnings(
    cluster: &TargetCluster,
    source: Option<(&SourceFacts, &Relation)>,
    saved: bool,
) -> Vec<Warning> {
    let removes = if cluster.interrupted.is_some() {
        REMOVED
    } else {
        REMOVES
    };
    let wal = unarchived(cluster, source).filter(|_| !saved || cluster.interrupted.is_some());
    let wal = wal.map(|wal| {
        let warning = wal.warning(removes);
        let message = match cluster.interrupted {
            None => format!("{warning} Archive it first, or save it with --keep-diverged-wal."),
            Some(_) => warning,
        };
        Warning {
            code: Code::WalNotArchived,
            message,
        }
    });
    let slots = leaving::slots_warning(&cluster.slots, removes).map(|message| Warning {
        code: Code::SlotsRemoved,
        message,
    });
    wal.into_iter().chain(slots).collect()
}

/// Warns of it.
pub fn warn(run: &Run<'_>, target: &TargetFacts, facts: &SourceFacts) {
    let Condition::Cluster(cluster) = &target.condition else {
        return;
    };
    let relation = relate(target, facts);
    let saved = run.options.keep_diverged_wal.is_some();
    for Warning { code, message } in warnings(cluster, Some((facts, &relation)), saved) {
        run.warn(code, message);
    }
}
