//! Pages that came from anywhere: their canonical form is one, and gives the page back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_reseed::pg::canonical::{kind, make_canonical};
use pg_reseed::pg::hints::{XactStatus, XidRange, judge, status_in};

fuzz_target!(|data: &[u8]| {
    look(data);
    // What is cut to a block size, with a header that says so, gets past the first checks more often.
    for power in 10..=15 {
        let size = 1usize << power;
        let Some(page) = data.get(..size) else {
            return;
        };
        look(page);
        let mut page = page.to_vec();
        let version = u16::try_from(size | 4).expect("at most 32772");
        page[18..20].copy_from_slice(&version.to_le_bytes());
        page[10] &= 7;
        page[11] = 0;
        look(&page);
        // Special spaces of the sizes that are known.
        for tail in [0, 8, 16] {
            let special = u16::try_from(size - tail).expect("at most 32768");
            page[16..18].copy_from_slice(&special.to_le_bytes());
            look(&page);
        }
    }
});

fn look(page: &[u8]) {
    let mut form = page.to_vec();
    let is_changed = make_canonical(&mut form);
    assert_eq!(form.len(), page.len());
    assert_eq!(is_changed, form != page);
    let mut again = form.clone();
    assert!(!make_canonical(&mut again));
    assert_eq!(again, form);
    if is_changed {
        assert_eq!(kind(&form), kind(page));
    }
    let patch: Vec<u8> = page
        .iter()
        .zip(&form)
        .map(|(page, form)| page ^ form)
        .collect();
    let back: Vec<u8> = form
        .iter()
        .zip(&patch)
        .map(|(form, patch)| form ^ patch)
        .collect();
    assert_eq!(back, page);

    let range = XidRange {
        oldest: 700,
        next: u32::MAX / 2,
    };
    let _ = judge(page, |xid| {
        range.outside(xid).unwrap_or_else(|| status_in(page, xid))
    });
    let _ = judge(&form, |_| XactStatus::Unknown);
}
