//! A stream of frames: what it announces is within its limits, or it is refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_reseed::wire::codec::{self, BODY_MAX, HEAD_MAX, HEADER_BYTES, Header, PREAMBLE_BYTES};
use pg_reseed::wire::message::{Answer, Notice, Request};

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    if let Some((preamble, behind)) = rest.split_first_chunk::<PREAMBLE_BYTES>() {
        let _ = codec::check_preamble(preamble);
        rest = behind;
    }
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let Ok(header) = Header::decode(header) else {
            return;
        };
        assert!(header.head_bytes <= HEAD_MAX && header.body_bytes <= BODY_MAX);
        let Some((head, behind)) = behind.split_at_checked(header.head_bytes as usize) else {
            return;
        };
        let _ = codec::decode::<Request>(head);
        let _ = codec::decode::<Answer>(head);
        let _ = codec::decode::<Notice>(head);
        let Some((_, behind)) = behind.split_at_checked(header.body_bytes as usize) else {
            return;
        };
        rest = behind;
    }
});
