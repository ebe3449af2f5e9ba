//! The states in words.

use std::fmt;

use super::{State, Stream};
use crate::plan::words::Bytes;

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Missing => f.write_str("not there"),
            State::Empty => f.write_str("empty"),
            State::Unknown => f.write_str("no data directory"),
            State::Unusable { problem } => write!(f, "unusable: {problem}"),
            State::InWork => f.write_str("being worked on by pg_reseed now"),
            State::Interrupted { source } if source.is_empty() => {
                f.write_str("left by an interrupted rebuild: it cannot start")
            }
            State::Interrupted { source } => write!(
                f,
                "left by an interrupted rebuild from \"{source}\": it cannot start"
            ),
            State::Rebuilt(copy) => match &copy.source {
                Some(source) => write!(f, "rebuilt from \"{source}\" and not started yet"),
                None => f.write_str("rebuilt and not started yet"),
            },
            State::Copied(_) => f.write_str("a base backup that was not started yet"),
            State::Primary => f.write_str("a primary that runs"),
            State::Streaming(stream) => write!(f, "{stream}"),
            State::NotStreaming { follows, .. } if follows.is_empty() => {
                f.write_str("a standby that runs and does not stream")
            }
            State::NotStreaming { follows, .. } => write!(
                f,
                "a standby that runs and does not stream; it would follow {}",
                follows.join(" or ")
            ),
            State::Recovering => f.write_str("in recovery, and no standby"),
            State::Changing { status } => write!(f, "{status}"),
            State::StoppedPrimary => f.write_str("a primary that was shut down"),
            State::CrashedPrimary => f.write_str("a primary that was not shut down cleanly"),
            State::StoppedStandby { follows, .. } if follows.is_empty() => {
                f.write_str("a standby that does not run")
            }
            State::StoppedStandby { follows, .. } => write!(
                f,
                "a standby that does not run; it would follow {}",
                follows.join(" or ")
            ),
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self
            .from
            .as_ref()
            .map_or_else(String::new, |from| format!(" from {from}"));
        write!(f, "a standby that streams{from}")?;
        if let Some(slot) = &self.slot {
            write!(f, " with slot \"{slot}\"")?;
        }
        match (self.lag_bytes, self.lag_seconds) {
            (Some(0), _) => f.write_str(", and is not behind")?,
            (Some(bytes), Some(seconds)) => {
                write!(f, ", and is {} or {seconds} s behind", Bytes(bytes))?;
            }
            (Some(bytes), None) => write!(f, ", and is {} behind", Bytes(bytes))?,
            (None, _) => {}
        }
        if self.is_paused {
            f.write_str("; its replay is paused")?;
        }
        Ok(())
    }
}
