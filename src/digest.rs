//! Digests of blocks, extents and messages: BLAKE3 keyed with a random key of the session, cut to
//! 128 bits.
//!
//! A collision would leave a stale block in the target, so short or unkeyed sums will not do: with
//! 128 bits a billion differing blocks miss one another with a chance of 10⁻³⁰, and the key keeps
//! whoever controls the content of rows from preparing a collision.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Length of a digest in bytes.
pub const DIGEST_BYTES: usize = 16;

/// The session's secret, chosen by the client and told to the agent over the link.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct SessionKey(pub [u8; 32]);

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// A digest of some bytes under a [`SessionKey`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; DIGEST_BYTES]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl SessionKey {
    /// The digest of `bytes`.
    #[must_use]
    pub fn digest(&self, bytes: &[u8]) -> Digest {
        let hash = blake3::keyed_hash(&self.0, bytes);
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&hash.as_bytes()[..DIGEST_BYTES]);
        Digest(digest)
    }
}

/// Bytes that came from the peer and whose digest was checked. Nothing else is written to the
/// target.
#[derive(Debug)]
pub struct Verified<T>(T);

/// Bytes from the peer are not those that it read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data were damaged on the way: digest {actual:?} instead of {expected:?}")]
pub struct Damaged {
    pub expected: Digest,
    pub actual: Digest,
}

impl<T: AsRef<[u8]>> Verified<T> {
    /// Checks `bytes` against the digest that the peer took of them.
    ///
    /// # Errors
    /// [`Damaged`] when the digests differ.
    pub fn check(key: &SessionKey, bytes: T, expected: Digest) -> Result<Self, Damaged> {
        let actual = key.digest(bytes.as_ref());
        if actual == expected {
            Ok(Self(bytes))
        } else {
            Err(Damaged { expected, actual })
        }
    }

    /// The first bytes and those behind them, as well checked; `None` when there are fewer.
    pub fn split_at(&self, at: usize) -> Option<[Verified<&[u8]>; 2]> {
        let (first, behind) = self.bytes().split_at_checked(at)?;
        Some([first, behind].map(Verified))
    }

    /// The checked bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_intact_bytes_become_verified() {
        let key = SessionKey([3; 32]);
        let bytes = vec![7_u8; 8192];
        let digest = key.digest(&bytes);
        let mut torn = bytes.clone();
        torn[8191] ^= 1;
        assert!(Verified::check(&key, bytes, digest).is_ok());
        assert!(Verified::check(&key, torn, digest).is_err());
    }

    #[test]
    fn the_key_changes_every_digest() {
        assert_ne!(
            SessionKey([1; 32]).digest(b"x"),
            SessionKey([2; 32]).digest(b"x")
        );
    }
}
