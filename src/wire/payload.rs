//! Packing of bodies: compression where it pays, a digest always.

use super::message::{Codec, Compression, Packed};
use crate::digest::{SessionKey, Verified};

/// Least share that compression must save, as a divisor: less than 1/16 is not worth unpacking.
const WORTH: usize = 16;

/// A body cannot be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error("the peer announced {announced} bytes where at most {limit} are allowed")]
    TooLong { announced: u32, limit: usize },
    #[error("compressed data do not unpack to the announced {announced} bytes")]
    Malformed { announced: u32 },
    #[error(transparent)]
    Damaged(#[from] crate::digest::Damaged),
}

/// Packs `bytes`, at most `u32::MAX` of them.
#[must_use]
pub fn pack(bytes: Vec<u8>, key: &SessionKey, compression: Compression) -> (Packed, Vec<u8>) {
    let mut packed = Packed {
        codec: Codec::Raw,
        bytes: u32::try_from(bytes.len()).expect("bodies are bounded by BODY_MAX"),
        digest: key.digest(&bytes),
    };
    let smaller = match compression {
        Compression::None => None,
        Compression::Lz4 => Some((Codec::Lz4, lz4_flex::block::compress(&bytes))),
        Compression::Zstd(level) => zstd::bulk::compress(&bytes, level)
            .ok()
            .map(|smaller| (Codec::Zstd, smaller)),
    };
    match smaller {
        Some((codec, smaller)) if smaller.len() + bytes.len() / WORTH < bytes.len() => {
            packed.codec = codec;
            (packed, smaller)
        }
        _ => (packed, bytes),
    }
}

/// Unpacks and proves a body of at most `limit` bytes.
///
/// # Errors
/// [`PayloadError`] when the body is longer than allowed, does not unpack to what was announced, or
/// fails its digest.
pub fn unpack(
    packed: &Packed,
    body: Vec<u8>,
    key: &SessionKey,
    limit: usize,
) -> Result<Verified<Vec<u8>>, PayloadError> {
    let announced = packed.bytes;
    if announced as usize > limit {
        return Err(PayloadError::TooLong { announced, limit });
    }
    let malformed = PayloadError::Malformed { announced };
    let bytes = match packed.codec {
        Codec::Raw => body,
        // Both are told the announced length as the most that they may make: no compression bomb.
        Codec::Lz4 => {
            lz4_flex::block::decompress(&body, announced as usize).map_err(|_| malformed.clone())?
        }
        Codec::Zstd => {
            zstd::bulk::decompress(&body, announced as usize).map_err(|_| malformed.clone())?
        }
    };
    if bytes.len() != announced as usize {
        return Err(malformed);
    }
    Ok(Verified::check(key, bytes, packed.digest)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: SessionKey = SessionKey([9; 32]);

    fn round_trip_holds(bytes: &[u8], compression: Compression) {
        let (packed, body) = pack(bytes.to_vec(), &KEY, compression);
        assert!(body.len() <= bytes.len());
        let unpacked = unpack(&packed, body, &KEY, bytes.len()).unwrap();
        assert_eq!(unpacked.bytes(), bytes);
    }

    const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd(1)];

    #[test]
    fn round_trip_cases() {
        for compression in ALL {
            round_trip_holds(b"", compression);
            round_trip_holds(b"x", compression);
            round_trip_holds(&vec![0; 100_000], compression);
        }
    }

    proptest! {
        #[test]
        fn round_trip_random(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            for compression in ALL {
                round_trip_holds(&bytes, compression);
            }
        }

        #[test]
        fn arbitrary_bodies_never_panic(
            body in proptest::collection::vec(any::<u8>(), 0..500), announced in 0_u32..100_000,
        ) {
            for codec in [Codec::Raw, Codec::Lz4, Codec::Zstd] {
                let packed = Packed { codec, bytes: announced, digest: KEY.digest(b"") };
                let _ = unpack(&packed, body.clone(), &KEY, 50_000);
            }
        }
    }

    #[test]
    fn a_compression_bomb_is_refused() {
        for compression in [Compression::Lz4, Compression::Zstd(1)] {
            let (mut packed, body) = pack(vec![0; 10_000_000], &KEY, compression);
            assert!(unpack(&packed, body.clone(), &KEY, 1_000_000).is_err());
            packed.bytes = 1000;
            assert!(unpack(&packed, body, &KEY, 1_000_000).is_err());
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        for compression in ALL {
            let (packed, mut body) =
                pack((0..=255).cycle().take(9000).collect(), &KEY, compression);
            let middle = body.len() / 2;
            body[middle] ^= 1;
            assert!(unpack(&packed, body, &KEY, 9000).is_err(), "{compression}");
        }
    }
}
