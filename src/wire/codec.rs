//! Bytes to messages and back. Decoding answers "not yet", a frame, or a fault, and trusts no length.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::{PROTOCOL, RequestId};

/// First bytes of both directions.
pub const MAGIC: [u8; 8] = *b"pgreseed";

/// Length of the preamble: magic word, version (little endian), two zero bytes.
pub const PREAMBLE_BYTES: usize = 12;

/// Length of a frame's header: request number, length of the head, length of the body, little
/// endian.
pub const HEADER_BYTES: usize = 12;

/// Longest head: the facts of the source, or what its walk skipped.
pub const HEAD_MAX: u32 = 4 * 1024 * 1024;

/// Longest body: a whole range that does not shrink, and some room for the packer.
pub const BODY_MAX: u32 = 5 * 1024 * 1024;

/// The peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("the peer does not speak pg_reseed's protocol; it sent \"{0}\"")]
    NoPreamble(String),
    #[error("the peer speaks version {theirs} of the protocol, this side version {PROTOCOL}")]
    OtherVersion { theirs: u16 },
    #[error("a message of {actual} bytes is longer than the {limit} bytes allowed")]
    TooLong { actual: u32, limit: u32 },
    #[error("a message does not decode")]
    Malformed,
}

/// The preamble of this version.
#[must_use]
pub fn preamble() -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&PROTOCOL.to_le_bytes());
    bytes
}

/// Checks the peer's preamble.
///
/// # Errors
/// [`CodecError::NoPreamble`] with what was sent instead, or [`CodecError::OtherVersion`].
pub fn check_preamble(bytes: &[u8; PREAMBLE_BYTES]) -> Result<(), CodecError> {
    if bytes[..8] != MAGIC {
        return Err(CodecError::NoPreamble(
            String::from_utf8_lossy(bytes).trim_end().to_owned(),
        ));
    }
    let theirs = u16::from_le_bytes([bytes[8], bytes[9]]);
    if theirs != PROTOCOL {
        return Err(CodecError::OtherVersion { theirs });
    }
    Ok(())
}

/// The lengths that a frame announces, within their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub id: RequestId,
    pub head_bytes: u32,
    pub body_bytes: u32,
}

impl Header {
    /// Decodes a header.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] when a length is beyond its limit.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, CodecError> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let header = Self {
            id: word(0),
            head_bytes: word(4),
            body_bytes: word(8),
        };
        within(header.head_bytes, HEAD_MAX)?;
        within(header.body_bytes, BODY_MAX)?;
        Ok(header)
    }
}

fn within(actual: u32, limit: u32) -> Result<(), CodecError> {
    if actual > limit {
        return Err(CodecError::TooLong { actual, limit });
    }
    Ok(())
}

/// Header and head of a frame whose body has `body_bytes` bytes.
///
/// # Errors
/// [`CodecError::TooLong`] when head or body would be refused by the peer.
pub fn encode<M: Serialize>(
    id: RequestId,
    message: &M,
    body_bytes: usize,
) -> Result<Vec<u8>, CodecError> {
    let mut frame =
        postcard::to_extend(message, vec![0; HEADER_BYTES]).map_err(|_| CodecError::Malformed)?;
    let head_bytes = u32::try_from(frame.len() - HEADER_BYTES).unwrap_or(u32::MAX);
    let body_bytes = u32::try_from(body_bytes).unwrap_or(u32::MAX);
    within(head_bytes, HEAD_MAX)?;
    within(body_bytes, BODY_MAX)?;
    frame[0..4].copy_from_slice(&id.to_le_bytes());
    frame[4..8].copy_from_slice(&head_bytes.to_le_bytes());
    frame[8..12].copy_from_slice(&body_bytes.to_le_bytes());
    Ok(frame)
}

/// Decodes a head.
///
/// # Errors
/// [`CodecError::Malformed`] when the bytes are not exactly one message.
pub fn decode<M: DeserializeOwned>(head: &[u8]) -> Result<M, CodecError> {
    match postcard::take_from_bytes(head) {
        Ok((message, [])) => Ok(message),
        _ => Err(CodecError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{BitSet, EntryId, Span};
    use crate::wire::message::{Answer, Fault, FaultKind, Notice, Request};
    use proptest::prelude::*;

    #[test]
    fn noise_before_the_protocol_is_shown() {
        let error = check_preamble(b"Last login: ").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the peer does not speak pg_reseed's protocol; it sent \"Last login:\""
        );
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = preamble();
        bytes[8] = 99;
        assert_eq!(
            check_preamble(&bytes),
            Err(CodecError::OtherVersion { theirs: 99 })
        );
        assert_eq!(check_preamble(&preamble()), Ok(()));
    }

    #[test]
    fn frames_round_trip_with_stable_bytes() {
        let message = Request::Blocks {
            spans: vec![Span {
                entry: EntryId(300),
                offset: 65_536,
                bytes: 8192,
            }],
            noisy: BitSet::with_size(1),
            hungry: true,
        };
        let frame = encode(7, &message, 16).unwrap();
        // A change of these bytes is a change of the protocol: raise PROTOCOL.
        assert_eq!(
            frame,
            [
                7, 0, 0, 0, 12, 0, 0, 0, 16, 0, 0, 0, 5, 1, 172, 2, 128, 128, 4, 128, 64, 1, 0, 1
            ]
        );
        let header = Header::decode(frame[..HEADER_BYTES].try_into().unwrap()).unwrap();
        assert_eq!((header.id, header.body_bytes), (7, 16));
        assert!(matches!(
            decode::<Request>(&frame[HEADER_BYTES..]).unwrap(),
            Request::Blocks { .. }
        ));
    }

    #[test]
    fn lengths_beyond_the_limit_are_refused_before_anything_is_allocated() {
        let mut frame = encode(1, &Request::Manifest { part: 0 }, 0).unwrap();
        frame[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Header::decode(frame[..HEADER_BYTES].try_into().unwrap()).is_err());
        assert!(encode(1, &Request::Manifest { part: 0 }, BODY_MAX as usize + 1).is_err());
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let fault = Answer::Fault(Fault::new(FaultKind::Read, "x"));
        let mut frame = encode(1, &fault, 0).unwrap();
        frame.push(0);
        assert!(decode::<Answer>(&frame[HEADER_BYTES..]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Answer>(&bytes);
            let _ = decode::<Notice>(&bytes);
        }
    }
}
