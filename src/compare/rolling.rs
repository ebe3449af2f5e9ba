//! Comparison where content shifts: the rsync algorithm, for files without page structure that both
//! sides have (`fast_rsync`). The result counts only when its digest is the source's.

use fast_rsync::{Signature, SignatureOptions};

use crate::geometry::ROLLING_MAX_BYTES;

/// Bytes of each block of the signature.
const SIGNATURE_BLOCK: u32 = 2048;

/// Bytes of the strong hash of each block. The result is proven by a digest afterwards, so a
/// collision costs a second transfer and not a wrong byte.
const SIGNATURE_HASH: u32 = 8;

/// A delta does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum RollingError {
    #[error("a signature of the peer does not decode")]
    Signature,
    #[error("a delta could not be made")]
    Diff,
    #[error("a delta of the peer does not apply")]
    Apply,
}

/// The signature of what the client has.
#[must_use]
pub fn signature(old: &[u8]) -> Vec<u8> {
    Signature::calculate(
        old,
        SignatureOptions {
            block_size: SIGNATURE_BLOCK,
            crypto_hash_size: SIGNATURE_HASH,
        },
    )
    .into_serialized()
}

/// The delta from a file with this signature to `new`.
///
/// # Errors
/// [`RollingError::Signature`] when the signature is malformed or describes more than
/// [`ROLLING_MAX_BYTES`] bytes.
pub fn delta(signature: Vec<u8>, new: &[u8]) -> Result<Vec<u8>, RollingError> {
    // Header of 12 bytes, then 4 + SIGNATURE_HASH bytes for each block.
    let longest =
        12 + (ROLLING_MAX_BYTES / u64::from(SIGNATURE_BLOCK) + 1) * u64::from(4 + SIGNATURE_HASH);
    if signature.len() as u64 > longest {
        return Err(RollingError::Signature);
    }
    let signature = Signature::deserialize(signature).map_err(|_| RollingError::Signature)?;
    let mut delta = Vec::new();
    fast_rsync::diff(&signature.index(), new, &mut delta).map_err(|_| RollingError::Diff)?;
    Ok(delta)
}

/// Applies a delta. Its maker is not trusted: the result has at most `limit` bytes.
///
/// # Errors
/// [`RollingError::Apply`] when the delta is malformed or makes more than that.
pub fn apply(old: &[u8], delta: &[u8], limit: u64) -> Result<Vec<u8>, RollingError> {
    let mut new = Vec::new();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    fast_rsync::apply_limited(old, delta, &mut new, limit).map_err(|_| RollingError::Apply)?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holds(old: &[u8], new: &[u8]) -> usize {
        let delta = delta(signature(old), new).unwrap();
        assert_eq!(apply(old, &delta, new.len() as u64).unwrap(), new);
        delta.len()
    }

    #[test]
    fn shifted_content_costs_little() {
        let old: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut new = old.clone();
        new.splice(1000..1000, *b"a few bytes more");
        assert!(holds(&old, &new) < new.len() / 50);
    }

    #[test]
    fn a_delta_cannot_make_more_than_allowed() {
        let delta = delta(signature(b""), &[1; 5000]).unwrap();
        assert!(apply(b"", &delta, 4999).is_err());
    }

    proptest! {
        #[test]
        fn any_pair_of_files_works(
            old in proptest::collection::vec(any::<u8>(), 0..9000),
            new in proptest::collection::vec(any::<u8>(), 0..9000),
        ) {
            holds(&old, &new);
        }

        #[test]
        fn arbitrary_signatures_and_deltas_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = delta(bytes.clone(), b"new content");
            let _ = apply(b"old content", &bytes, 1000);
        }
    }
}
