//! Backup labels: what is taken is what the server wrote.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_reseed::pg::label::BackupLabel;

fuzz_target!(|data: &[u8]| {
    if let Ok(label) = BackupLabel::parse(data) {
        let again = BackupLabel::parse(&label.bytes).expect("it parsed before");
        assert_eq!(again.start_lsn, label.start_lsn);
        assert_eq!(again.start_timeline, label.start_timeline);
    }
});
