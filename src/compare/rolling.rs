//! Comparison where content shifts: the rsync algorithm, for files without page structure that both
//! sides have (`fast_rsync`). The result counts only when its digest is the source's.

use fast_rsync::{Signature, SignatureOptions};

use crate::geometry::ROLLING_MAX_BYTES;

/// Bytes of each block of the signature.
const SIGNATURE_BLOCK: u32 = 2048;

/// Bytes of the strong hash of each block. The result is proven by a digest afterwards, so a
/// collision costs a second transfer and not a wrong byte.
const SIGNATURE_HASH: u32 = 8;

/// Longest signature: a header of magic number, block size and hash size, then 4 bytes and a hash for each block.
pub const SIGNATURE_MAX_BYTES: u64 = HEADER_BYTES as u64
    + (ROLLING_MAX_BYTES / SIGNATURE_BLOCK as u64 + 1) * (4 + SIGNATURE_HASH as u64);

const HEADER_BYTES: usize = 12;

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
/// [`RollingError::Signature`] when the signature is malformed, is none of [`signature`]'s, or describes more than
/// [`ROLLING_MAX_BYTES`] bytes.
pub fn delta(signature: Vec<u8>, new: &[u8]) -> Result<Vec<u8>, RollingError> {
    // With other sizes, 0 above all, fast_rsync may not come to an end.
    let sizes = [SIGNATURE_BLOCK.to_be_bytes(), SIGNATURE_HASH.to_be_bytes()].concat();
    let is_ours = signature.get(4..HEADER_BYTES) == Some(&sizes[..]);
    if !is_ours || signature.len() as u64 > SIGNATURE_MAX_BYTES {
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

    #[test]
    fn a_signature_of_other_sizes_is_refused_before_it_is_used() {
        let ours = signature(&[7; 5000]);
        assert!(delta(ours.clone(), &[7; 100]).is_ok());
        for (at, value) in [(4, 0_u32), (4, 1), (4, 4096), (8, 0), (8, 16)] {
            let mut other = ours.clone();
            other[at..at + 4].copy_from_slice(&value.to_be_bytes());
            assert!(matches!(
                delta(other, &[7; 100]),
                Err(RollingError::Signature)
            ));
        }
        // An empty block that is found everywhere.
        let mut endless = ours[..4].to_vec();
        endless.resize(16, 0);
        for broken in [endless, Vec::new(), ours[..11].to_vec()] {
            assert!(matches!(
                delta(broken, &[7; 100]),
                Err(RollingError::Signature)
            ));
        }
    }
}
