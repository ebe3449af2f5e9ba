//! Messages: what decodes encodes to a message that decodes to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_reseed::wire::codec::{self, HEADER_BYTES};
use pg_reseed::wire::message::{Answer, Notice, Request};

fuzz_target!(|data: &[u8]| {
    macro_rules! round {
        ($message:ty) => {
            if let Ok(message) = codec::decode::<$message>(data) {
                let again = codec::encode(1, &message, 0).expect("it was short enough before");
                let again = codec::decode::<$message>(&again[HEADER_BYTES..]);
                let again = again.expect("what was encoded decodes");
                assert_eq!(format!("{message:?}"), format!("{again:?}"));
            }
        };
    }
    round!(Request);
    round!(Answer);
    round!(Notice);
    if let Ok(Answer::Facts(facts)) = codec::decode::<Answer>(data)
        && facts.control.is_sane()
    {
        let _ = (facts.control.end_of_wal(), facts.control.major());
    }
});
