//! Packed bodies, deltas and signatures: never more memory than was announced within the limit, and nothing
//! unproven comes out.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_reseed::compare::rolling;
use pg_reseed::digest::{Digest, SessionKey};
use pg_reseed::wire::message::{Codec, Compression, Packed};
use pg_reseed::wire::payload;

const LIMIT: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let key = SessionKey([7; 32]);
    let Some((head, body)) = data.split_at_checked(6) else {
        return;
    };
    let packed = Packed {
        codec: match head[0] % 3 {
            0 => Codec::Raw,
            1 => Codec::Lz4,
            _ => Codec::Zstd,
        },
        bytes: u32::from_le_bytes([head[1], head[2], head[3], head[4]]),
        digest: Digest([head[5]; 16]),
    };
    if let Ok(bytes) = payload::unpack(&packed, body.to_vec().into(), &key, LIMIT) {
        assert!(bytes.bytes().len() <= LIMIT);
        assert_eq!(key.digest(bytes.bytes()), packed.digest);
    }
    for method in [Compression::None, Compression::Lz4, Compression::Zstd(1)] {
        let (packed, smaller) = payload::pack(body.to_vec().into(), &key, method);
        let again = payload::unpack(&packed, smaller, &key, body.len());
        assert_eq!(again.expect("what was packed unpacks").bytes(), body);
    }
    let (old, delta) = body.split_at(body.len() / 2);
    if let Ok(new) = rolling::apply(old, delta, LIMIT as u64) {
        assert!(new.len() <= LIMIT);
    }
    let _ = rolling::delta(delta.to_vec(), old);
    let made = rolling::delta(rolling::signature(old), delta).expect("our own signature");
    let limit = delta.len() as u64;
    assert_eq!(
        rolling::apply(old, &made, limit).expect("our own delta"),
        delta
    );
});
