//! Why moving did not work.

use crate::client::source::SourceError;
use crate::compare::noise::Malformed;
use crate::digest::Damaged;
use crate::disk::DiskError;
use crate::wire::payload::PayloadError;
use crate::workers::WorkerFailed;

/// Moving a range did not work.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{0}")]
    Target(#[from] DiskError),
    #[error(transparent)]
    Worker(#[from] WorkerFailed),
    #[error("an answer of the agent cannot be used: {0}")]
    Payload(#[from] PayloadError),
    #[error("an answer of the agent cannot be used: {0}")]
    Damaged(#[from] Damaged),
    #[error("an answer of the agent cannot be used: {0}")]
    Patch(#[from] Malformed),
    #[error("an answer of the agent does not fit what was asked")]
    Unfitting,
}

impl TransferError {
    /// What the agent says can be done.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            TransferError::Source(error) => error.hint(),
            _ => None,
        }
    }
}
