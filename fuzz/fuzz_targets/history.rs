//! Timeline histories, and where two of them part.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_reseed::pg::lsn::{Lsn, SegmentName, WalFile};
use pg_reseed::pg::timeline::{History, TimelineId, divergence};

fuzz_target!(|data: &[u8]| {
    let (first, second) = data.split_at(data.len() / 2);
    let _ = WalFile::classify(first);
    if let Ok(text) = std::str::from_utf8(first) {
        let _ = Lsn::parse(text);
        let _ = SegmentName::parse(text, 1 << 24);
    }
    if let (Ok(a), Ok(b)) = (
        History::parse(TimelineId(9), first),
        History::parse(TimelineId(7), second),
    ) {
        let _ = divergence(&a, &b);
        let _ = divergence(&b, &a);
        let same = divergence(&a, &a).expect("it shares its oldest timeline with itself");
        assert_eq!((same.timeline, same.lsn), (a.tip(), None));
        let _ = (a.tip(), a.timeline_at(Lsn(0)), a.timeline_at(Lsn(u64::MAX)));
    }
});
