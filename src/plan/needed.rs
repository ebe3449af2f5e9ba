//! Whether a target that shall become a standby of the source must be rebuilt for it.

use crate::facts::{SharedWal, TargetCluster};
use crate::plan::advice::Advice;
use crate::plan::state::State;

/// Whether a rebuild is needed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// It is what a rebuild would make of it.
    None,
    /// A clause.
    Some(String),
}

/// Judges by what `inspect` concludes, and takes nothing for granted: a standby that runs and streams from the source
/// with a WAL that is the source's is left alone, however far it lags. One that is stopped may be harmless; but whoever
/// asks for a rebuild wants a standby that streams, and only a server that runs shows that it does. One whose replay is
/// paused, or that does not receive, is none that streams.
#[must_use]
pub fn needed(cluster: &TargetCluster, state: &State, advice: &Advice) -> Need {
    match advice {
        Advice::Healthy { .. } if cluster.shared_wal == SharedWal::Equal => Need::None,
        Advice::Healthy { .. } => Need::Some(format!(
            "it is {state}, but too little of its WAL is left to prove that it is the source's"
        )),
        _ => Need::Some(format!("it is {state}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::samples;
    use crate::plan::state::Stream;

    #[test]
    fn nothing_is_left_undone_that_is_not_proven() {
        let streaming = State::Streaming(Stream {
            from: Some("\"db2\" port 5432".to_owned()),
            is_from_source: Some(true),
            slot: None,
            replayed: None,
            lag_bytes: Some(1 << 40),
            lag_seconds: Some(3600),
            is_paused: false,
        });
        let healthy = Advice::Healthy {
            lag_bytes: Some(1 << 40),
            lag_seconds: Some(3600),
            slot: None,
        };
        let with = |shared_wal| {
            let mut cluster = samples::cluster(0x310_0028);
            cluster.shared_wal = shared_wal;
            cluster
        };
        let equal = with(SharedWal::Equal);
        assert_eq!(needed(&equal, &streaming, &healthy), Need::None);
        for unproven in [SharedWal::NotCompared, SharedWal::Untold] {
            let Need::Some(why) = needed(&with(unproven), &streaming, &healthy) else {
                panic!("{unproven:?}");
            };
            assert!(why.contains("too little of its WAL"), "{why}");
        }
        for advice in [
            Advice::Rebuild { is_sure: true },
            Advice::Paused {
                lag_bytes: None,
                lag_seconds: None,
            },
            Advice::SourceFollowsTarget,
            Advice::OfAnother {
                server: "db3".to_owned(),
            },
        ] {
            assert!(matches!(needed(&equal, &streaming, &advice), Need::Some(_)));
        }
        let stopped = State::StoppedStandby {
            follows: vec!["\"db2\" port 5432".to_owned()],
            is_of_source: Some(true),
        };
        assert!(matches!(
            needed(&equal, &stopped, &Advice::RunAgain),
            Need::Some(_)
        ));
    }
}
