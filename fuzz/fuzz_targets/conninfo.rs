//! Connection strings: what parses means the same after it was written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_reseed::pg::conninfo::Conninfo;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(conninfo) = Conninfo::parse(text) else {
        return;
    };
    assert!(!conninfo.without_secrets().has_password());
    if let Ok(written) = conninfo.to_keyword_value() {
        let again = Conninfo::parse(&written).expect("what was written parses");
        assert_eq!(again, conninfo);
    }
});
