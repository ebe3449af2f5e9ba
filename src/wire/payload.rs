//! Packing of bodies: compression where it pays, a digest always.

use super::message::{Codec, Compression, Packed};
use crate::buffer::Buffer;
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

/// What the choice of the compression depends on where nobody made it.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Bytes of finished answers that the link did not take yet.
    pub waiting_bytes: u64,
    /// Bytes that the link took in a second lately; 0 when that is not known yet.
    pub link_rate: u64,
    /// The client has nothing to do but wait for answers.
    pub is_hungry: bool,
    /// Bytes of files that the agent has read.
    pub read_bytes: u64,
    /// Bytes that it has packed up to now.
    pub packed_bytes: u64,
}

/// Bytes in a second from which on a link is fast: more than one thread compresses (measured: 0.33 GB/s), and
/// what waits for it does not wait long.
const FAST: u64 = 300_000_000;

/// Answers of so many bytes that wait show that the link is slower than the agent.
const BACKLOG: u64 = 6 * 1024 * 1024;

/// So many show that there is time to compress better.
const LONG_BACKLOG: u64 = 24 * 1024 * 1024;

/// Part of the bytes read, as a divisor, that is compressed even when nothing says that the link is slow: zstd
/// takes about twelve times as long as reading and hashing, so this costs a fifth of the agent's time at most,
/// and where so little differs there is hardly anything else to do for it.
const FEW: u64 = 64;

/// The first bytes are compressed whatever was read.
const FIRST: u64 = 4 * 1024 * 1024;

/// The compression for the next body: what was asked for, or what serves the run best now.
#[must_use]
pub fn choose(asked: Compression, load: Load) -> Compression {
    let is_slow = load.is_hungry && (1..FAST).contains(&load.link_rate);
    match asked {
        Compression::Auto if is_slow && load.waiting_bytes > LONG_BACKLOG => Compression::Zstd(3),
        Compression::Auto if is_slow && load.waiting_bytes > BACKLOG => Compression::Zstd(1),
        Compression::Auto if load.packed_bytes <= FIRST + load.read_bytes / FEW => {
            Compression::Zstd(1)
        }
        Compression::Auto => Compression::None,
        asked => asked,
    }
}

/// Packs `bytes`, at most `u32::MAX` of them.
#[must_use]
pub fn pack(bytes: Buffer, key: &SessionKey, compression: Compression) -> (Packed, Buffer) {
    let mut packed = Packed {
        codec: Codec::Raw,
        bytes: u32::try_from(bytes.len()).expect("bodies are bounded by BODY_MAX"),
        digest: key.digest(&bytes),
    };
    let smaller = match compression {
        Compression::None | Compression::Auto => None,
        Compression::Lz4 => Some((Codec::Lz4, lz4_flex::block::compress(&bytes))),
        Compression::Zstd(level) => zstd::bulk::compress(&bytes, level)
            .ok()
            .map(|smaller| (Codec::Zstd, smaller)),
    };
    match smaller {
        Some((codec, smaller)) if smaller.len() + bytes.len() / WORTH < bytes.len() => {
            packed.codec = codec;
            (packed, smaller.into())
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
    body: Buffer,
    key: &SessionKey,
    limit: usize,
) -> Result<Verified<Buffer>, PayloadError> {
    let announced = packed.bytes;
    if announced as usize > limit {
        return Err(PayloadError::TooLong { announced, limit });
    }
    let malformed = PayloadError::Malformed { announced };
    // Both have room for the announced length only: no compression bomb.
    let room = || Buffer::with_length(announced as usize);
    let (bytes, length) = match packed.codec {
        Codec::Raw => {
            let length = body.len();
            (body, length)
        }
        Codec::Lz4 => {
            let mut bytes = room();
            let length = lz4_flex::block::decompress_into(&body, &mut bytes)
                .map_err(|_| malformed.clone())?;
            (bytes, length)
        }
        Codec::Zstd => {
            let mut bytes = room();
            let length = zstd::bulk::decompress_to_buffer(&body, &mut bytes[..])
                .map_err(|_| malformed.clone())?;
            (bytes, length)
        }
    };
    if length != announced as usize {
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
        let (packed, body) = pack(bytes.to_vec().into(), &KEY, compression);
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
                let _ = unpack(&packed, body.clone().into(), &KEY, 50_000);
            }
        }
    }

    #[test]
    fn compression_is_chosen_where_the_link_is_slow_or_it_costs_little() {
        let load = Load {
            waiting_bytes: 0,
            link_rate: FAST / 10,
            is_hungry: true,
            read_bytes: 1 << 30,
            packed_bytes: 1 << 28,
        };
        let auto = |load| choose(Compression::Auto, load);
        assert_eq!(auto(load), Compression::None);
        let packed_bytes = 1 << 24;
        assert_eq!(
            auto(Load {
                packed_bytes,
                ..load
            }),
            Compression::Zstd(1)
        );
        let waiting_bytes = BACKLOG + 1;
        let behind = Load {
            waiting_bytes,
            ..load
        };
        assert_eq!(auto(behind), Compression::Zstd(1));
        let link_rate = FAST;
        assert_eq!(
            auto(Load {
                link_rate,
                ..behind
            }),
            Compression::None
        );
        // The client is what the run waits for, not the link.
        let is_hungry = false;
        assert_eq!(
            auto(Load {
                is_hungry,
                ..behind
            }),
            Compression::None
        );
        let waiting_bytes = LONG_BACKLOG + 1;
        assert_eq!(
            auto(Load {
                waiting_bytes,
                ..load
            }),
            Compression::Zstd(3)
        );
        assert_eq!(choose(Compression::Lz4, behind), Compression::Lz4);
    }

    #[test]
    fn a_compression_bomb_is_refused() {
        for compression in [Compression::Lz4, Compression::Zstd(1)] {
            let (mut packed, body) = pack(vec![0; 10_000_000].into(), &KEY, compression);
            assert!(unpack(&packed, body.to_vec().into(), &KEY, 1_000_000).is_err());
            packed.bytes = 1000;
            assert!(unpack(&packed, body, &KEY, 1_000_000).is_err());
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        for compression in ALL {
            let (packed, mut body) = pack(
                (0..=255).cycle().take(9000).collect::<Vec<u8>>().into(),
                &KEY,
                compression,
            );
            let middle = body.len() / 2;
            body[middle] ^= 1;
            assert!(unpack(&packed, body, &KEY, 9000).is_err(), "{compression}");
        }
    }
}
