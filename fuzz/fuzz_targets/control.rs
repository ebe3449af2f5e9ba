//! Control files, and the pages and segment heads that are read beside them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_reseed::pg::control::{ControlFile, poison_checkpoint};
use pg_reseed::pg::lsn::{Lsn, SegmentName};
use pg_reseed::pg::page;
use pg_reseed::pg::segment::{self, HEAD_BYTES};
use pg_reseed::pg::timeline::TimelineId;

fuzz_target!(|data: &[u8]| {
    // Where the CRC is up to 17, and from 18 on. A peer that twists a file makes its CRC right, too.
    for offset in [288, 292] {
        let mut signed = data.to_vec();
        if let Some((before, rest)) = signed.split_at_mut_checked(offset)
            && let Some(crc) = rest.first_chunk_mut()
        {
            *crc = crc32c::crc32c(before).to_le_bytes();
            look(&signed);
        }
    }
    look(data);
});

fn look(data: &[u8]) {
    if let Ok(control) = ControlFile::decode(data)
        && control.is_sane()
    {
        let mut poisoned = data.to_vec();
        if poison_checkpoint(&mut poisoned).is_ok() {
            let again = ControlFile::decode(&poisoned).expect("its CRC is right");
            assert_eq!(again.system_identifier, control.system_identifier);
            assert_ne!(again.checkpoint, control.redo);
        }
        let _ = control.layout_differences(&control);
    }
    if let Some((head, rest)) = data.split_first_chunk::<HEAD_BYTES>() {
        let segment = SegmentName::of(Lsn(rest.len() as u64), TimelineId(1), 1 << 20);
        let _ = segment::check(head, rest.len() as u64, segment, 1 << 20, 7);
    }
    if data.len() >= 8192 {
        let _ = page::verify(&data[..8192], 3, Lsn(u64::MAX));
    }
}
