//! Pages of every kind built by hand, with each bit known as noise or content.

use proptest::prelude::*;

use super::heap::Taken;
use super::*;

const MAIN: &[u8] = include_bytes!("../../../tests/it/data/pg/pages.15.main");

/// A page, and what each of its bits is. What is not marked is content.
struct Sample {
    name: &'static str,
    kind: PageKind,
    page: Vec<u8>,
    /// The bits that may be flipped with no change of the form.
    noise: Vec<u8>,
    /// Bits that are the one or the other, by what else the page says then.
    both: std::ops::Range<usize>,
}

impl Sample {
    /// A page full of something, with a header that fits; its hole is noise.
    fn new(name: &'static str, kind: PageKind, size: usize, tail: usize) -> Self {
        let page = (0..size).map(|at| (at * 31 / 7).to_le_bytes()[0] | 1);
        let mut sample = Self {
            name,
            kind,
            page: page.collect(),
            noise: vec![0; size],
            both: 0..0,
        };
        sample.put(FLAGS, &[0, 0]);
        sample.bounds(HEADER_BYTES, size - tail, size - tail);
        sample.put(SIZE_AND_VERSION, &as_word(size | 4).to_le_bytes());
        sample.mark(LSN_AND_CHECKSUM);
        sample
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.page[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_word(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    fn bounds(&mut self, lower: usize, upper: usize, special: usize) {
        for (at, value) in [(LOWER, lower), (UPPER, upper), (SPECIAL, special)] {
            self.put_word(at, as_word(value));
        }
    }

    fn special(&self) -> usize {
        usize::from(word(&self.page, SPECIAL))
    }

    /// Says that these bytes are noise.
    fn mark(&mut self, range: std::ops::Range<usize>) {
        self.noise[range].fill(0xFF);
    }

    /// Says that these bits of a word are noise.
    fn mark_bits(&mut self, at: usize, bits: u16) {
        for (mask, byte) in self.noise[at..].iter_mut().zip(bits.to_le_bytes()) {
            *mask |= byte;
        }
    }

    fn hole(mut self) -> Self {
        let [lower, upper] = [LOWER, UPPER].map(|at| usize::from(word(&self.page, at)));
        self.mark(lower..upper);
        self
    }

    /// Line pointers at tuples from the end on, of these states and lengths.
    fn lines(mut self, lines: &[(u32, usize)]) -> Self {
        let special = self.special();
        let mut upper = special;
        for (index, (state, length)) in lines.iter().enumerate() {
            let at = if *length > 0 {
                upper -= length.next_multiple_of(MAXALIGN);
                upper
            } else {
                0
            };
            let pointer = u32::try_from(at | length << 17).unwrap() | state << 15;
            self.put(HEADER_BYTES + 4 * index, &pointer.to_le_bytes());
        }
        self.bounds(HEADER_BYTES + 4 * lines.len(), upper, special);
        self
    }

    /// A scan may mark these dead.
    fn killable(mut self) -> Self {
        let count = (usize::from(word(&self.page, LOWER)) - HEADER_BYTES) / 4;
        for index in 0..count {
            self.mark_bits(HEADER_BYTES + 4 * index + 2, 1);
        }
        self
    }

    /// The special space, from its begin.
    fn tail(mut self, words: &[u16]) -> Self {
        let special = self.special();
        for (index, word) in words.iter().enumerate() {
            self.put_word(special + 2 * index, *word);
        }
        self
    }

    /// A word of the special space in which these bits are noise.
    fn noisy(mut self, at: usize, bits: u16) -> Self {
        self.mark_bits(self.special() + at, bits);
        self
    }

    /// Nothing on it counts but header and special space.
    fn empty(mut self) -> Self {
        let special = self.special();
        self.mark(HEADER_BYTES..special);
        self.both = LOWER..UPPER + 2;
        self
    }
}

fn canonical(page: &[u8]) -> Vec<u8> {
    let mut form = page.to_vec();
    let is_changed = make_canonical(&mut form);
    assert_eq!(is_changed, form != page);
    form
}

/// `(infomask, bits of it that are noise)` for tuples of all sorts.
const TUPLES: [(u16, u16); 7] = [
    // No hint: either one of xmin may come, not both at once.
    (0x0002, 0x0F20),
    (0x0902, 0x0D20),
    (0x0A22, 0x0E20),
    // Frozen.
    (0x0B02, 0x0C20),
    (0x2502, 0x0D20),
    // A multixact.
    (0x1482, 0x0F20),
    // Moved by an old VACUUM FULL: its command is another transaction.
    (0x4102, 0x0D00),
];

fn heap(size: usize) -> Sample {
    let mut sample = Sample::new("heap", PageKind::Heap, size, 0);
    let mut lines = TUPLES.map(|_| (1, 23)).to_vec();
    for (index, (_, length)) in lines.iter_mut().enumerate() {
        *length += index * 5;
    }
    // A redirect, a dead one and an unused one lie between.
    lines.splice(2..2, [(2, 0), (3, 0), (0, 0)]);
    sample = sample.lines(&lines).hole();
    sample.put_word(FLAGS, 0x0005);
    sample.mark_bits(FLAGS, 0x0003);
    sample.mark(PRUNE_XID..PRUNE_XID + 4);
    let tuples = (0..lines.len()).filter(|index| lines[*index].1 > 0);
    for (index, (infomask, noise)) in tuples.zip(TUPLES) {
        let line = Line::at(&sample.page, index);
        let (at, end) = (line.offset(), line.offset() + line.length());
        sample.put_word(at + 20, infomask);
        sample.mark_bits(at + 20, noise);
        if infomask & 0xC000 == 0 {
            sample.mark(at + 8..at + 12);
        }
        sample.mark(end..end.next_multiple_of(MAXALIGN));
    }
    sample
}

fn samples(size: usize) -> Vec<Sample> {
    let items = [(1, 16), (3, 24), (1, 40), (3, 16)];
    let new = |name, kind, tail| Sample::new(name, kind, size, tail);
    // Sixteen bytes of special space: flags are its seventh word.
    let sixteen = |name, kind, words: [u16; 2], flags, last| {
        new(name, kind, 16).tail(&[7, 0, 8, 0, words[0], words[1], flags, last])
    };
    let btree = |name, level, flags| sixteen(name, PageKind::Btree, [level, 0], flags, 0x1234);
    let hash = |name, flags| sixteen(name, PageKind::Hash, [1, 0], flags, 0xFF80);
    let gist = |name, flags| sixteen(name, PageKind::Gist, [9, 0], flags, 0xFF81);
    let told = |mut sample: Sample| {
        let special = sample.special();
        sample.bounds(HEADER_BYTES + 50, special - 100, special);
        sample.hole()
    };
    let eight = |name, kind, words: [u16; 4]| new(name, kind, 8).tail(&words);
    let mut all = vec![
        heap(size),
        new("empty heap", PageKind::Heap, 0),
        btree("btree leaf", 0, 0x00C1)
            .lines(&items)
            .hole()
            .killable()
            .noisy(12, 0x0060)
            .noisy(14, 0xFFFF),
        btree("btree inner", 3, 0x0022)
            .lines(&items)
            .hole()
            .noisy(12, 0x0060)
            .noisy(14, 0xFFFF),
        told(btree("btree deleted", 0, 0x0105))
            .noisy(12, 0x0060)
            .noisy(14, 0xFFFF),
        told(btree("btree deleted by 13", 900, 0x0005))
            .empty()
            .noisy(12, 0x0061)
            .noisy(14, 0xFFFF),
        told(btree("btree meta", 0, 0x0008)).noisy(14, 0xFFFF),
        hash("hash bucket", 0x0082)
            .lines(&items)
            .hole()
            .killable()
            .noisy(12, 0x0080),
        hash("hash overflow", 0x0001)
            .lines(&items)
            .hole()
            .killable()
            .noisy(12, 0x0080),
        told(hash("hash bitmap", 0x0004)),
        told(hash("hash meta", 0x0008)),
        told(hash("hash unused", 0x0000)).empty(),
        gist("gist leaf", 0x0019)
            .lines(&items)
            .hole()
            .killable()
            .noisy(12, 0x0014),
        gist("gist inner", 0x0000)
            .lines(&items)
            .hole()
            .noisy(12, 0x0014),
        told(gist("gist deleted", 0x0003)).noisy(12, 0x0014),
        told(eight("gin leaf", PageKind::Gin, [7, 0, 3, 0x0083])),
        told(eight("gin meta", PageKind::Gin, [0xFFFF, 0xFFFF, 0, 8])),
        eight("gin of before 9.4", PageKind::Gin, [7, 0, 3, 0x0003]),
        told(eight("gin tree deleted", PageKind::Gin, [7, 0, 0, 0x0087])),
        told(eight("gin list deleted", PageKind::Gin, [7, 0, 1, 0x0004]))
            .empty()
            .noisy(0, 0xFFFF)
            .noisy(2, 0xFFFF)
            .noisy(4, 0xFFFF),
        told(eight("spgist leaf", PageKind::Spgist, [4, 1, 2, 0xFF82])),
        eight("spgist empty", PageKind::Spgist, [0, 0, 0, 0xFF82]).hole(),
        told(eight("spgist meta", PageKind::Spgist, [1, 0, 0, 0xFF82])),
        eight(
            "spgist meta of before 11",
            PageKind::Spgist,
            [1, 0, 0, 0xFF82],
        ),
        told(eight("brin", PageKind::Brin, [0, 0, 1, 0xF093])).noisy(4, 1),
        told(eight("brin meta", PageKind::Brin, [0, 0, 0, 0xF091])),
        eight("brin map", PageKind::Brin, [0, 0, 0, 0xF092]),
        eight("sequence", PageKind::Sequence, [0x1717, 0, 0, 0])
            .lines(&[(1, 41)])
            .hole(),
        told(eight("bloom", PageKind::Generic, [9, 0, 0, 0xFF83])),
        told(eight("ivfflat", PageKind::Generic, [9, 0, 0, 0xFF84])),
        told(eight("hnsw", PageKind::Generic, [9, 0, 0, 0xFF90])),
    ];
    let empty = &mut all[1];
    empty.put_word(FLAGS, 4);
    empty.mark(HEADER_BYTES..size);
    empty.mark_bits(FLAGS, 0x0003);
    empty.mark(PRUNE_XID..PRUNE_XID + 4);
    all
}

/// Checks what the flip of a bit does.
fn check_flip(sample: &Sample, form: &[u8], at: usize, bit: usize) {
    if sample.both.contains(&at) {
        return;
    }
    let mut page = sample.page.clone();
    page[at] ^= 1 << bit;
    let is_noise = canonical(&page) == form;
    let expected = sample.noise[at] >> bit & 1 == 1;
    assert_eq!(
        is_noise, expected,
        "{}: bit {bit} of byte {at}",
        sample.name
    );
}

#[test]
fn every_kind_is_recognised() {
    for size in [1024, 2048, 4096, 8192, 16_384, 32_768] {
        for sample in samples(size) {
            assert_eq!(kind(&sample.page), sample.kind, "{}", sample.name);
        }
    }
}

#[test]
fn every_bit_is_noise_or_content() {
    for sample in samples(1024) {
        let form = canonical(&sample.page);
        assert!(form != sample.page, "{}", sample.name);
        let special = sample.special().min(1008);
        for at in 0..1024 {
            // Bytes among many of one sort have one flip.
            let is_single = (0x01..=0xFE).contains(&sample.noise[at]) || at < 60 || at >= special;
            let bits = if is_single { 0..8 } else { at % 8..at % 8 + 1 };
            for bit in bits {
                check_flip(&sample, &form, at, bit);
            }
        }
    }
}

#[test]
fn forms_of_forms_are_themselves_and_the_noise_brings_the_page_back() {
    for size in [1024, 8192, 32_768] {
        for sample in samples(size) {
            let form = canonical(&sample.page);
            assert!(canonical(&form) == form, "{}", sample.name);
            assert_eq!(kind(&form), sample.kind, "{}", sample.name);
            // A page with other noise takes this page's.
            let mut other = sample.page.clone();
            for (byte, noise) in other.iter_mut().zip(&sample.noise) {
                // Both hints of a tuple's xmin at once would freeze it.
                *byte ^= if *noise == 0xFF { 0xFF } else { 0 };
            }
            let patch = sample
                .page
                .iter()
                .zip(&form)
                .map(|(page, form)| page ^ form);
            let back: Vec<u8> = canonical(&other)
                .iter()
                .zip(patch)
                .map(|(form, patch)| form ^ patch)
                .collect();
            assert!(back == sample.page, "{}", sample.name);
        }
    }
}

#[test]
fn the_flag_of_visible_rows_is_patched_and_judged() {
    for sample in samples(8192) {
        let mut other = sample.page.clone();
        other[FLAGS] ^= 4;
        if [&sample.page, &other].map(|page| kind(page)) != [PageKind::Heap; 2] {
            continue;
        }
        assert_ne!(
            canonical(&sample.page),
            canonical(&other),
            "{}",
            sample.name
        );
        let [mut one, mut two] = [sample.page.clone(), other];
        assert!(make_patchable(&mut one) | make_patchable(&mut two));
        assert_eq!(one, two, "{}", sample.name);
        assert!(!make_patchable(&mut two));
    }
}

#[test]
fn pages_of_a_real_table_lose_their_hints_only() {
    for page in MAIN.chunks(8192) {
        assert_eq!(kind(page), PageKind::Heap);
        let form = canonical(page);
        assert!(canonical(&form) == form);
        let gone = page.iter().zip(&form).map(|(page, form)| page ^ form);
        let outside = gone.enumerate().filter(|(at, gone)| {
            let upper = usize::from(word(page, UPPER));
            *at >= upper && gone.count_ones() > 4
        });
        // Command ids and padding of this table are zero already.
        assert_eq!(outside.count(), 0);
        assert_eq!(form[10..12], [page[10] & 4, 0]);
    }
}

#[test]
fn what_is_new_unknown_or_insane_stays() {
    let sane = heap(1024).page;
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut page = sane.clone();
        change(&mut page);
        page
    };
    let put = |at: usize, value: u16| {
        changed(&move |page| page[at..at + 2].copy_from_slice(&value.to_le_bytes()))
    };
    for (page, expected) in [
        (vec![], PageKind::Unknown),
        (vec![0; 15], PageKind::Unknown),
        (vec![0; 8192], PageKind::New),
        (put(UPPER, 0), PageKind::New),
        (put(LOWER, 23), PageKind::Unknown),
        (put(LOWER, 1000), PageKind::Unknown),
        (put(UPPER, 1025), PageKind::Unknown),
        (put(SPECIAL, 1032), PageKind::Unknown),
        (put(SPECIAL, 1020), PageKind::Unknown),
        (put(SPECIAL, 992), PageKind::Unknown),
        (put(SIZE_AND_VERSION, 1024 | 5), PageKind::Unknown),
        (put(SIZE_AND_VERSION, 2048 | 4), PageKind::Unknown),
        (put(FLAGS, 8), PageKind::Unknown),
        (changed(&|page| page.truncate(1000)), PageKind::Unknown),
        (changed(&|page| page.resize(1536, 0)), PageKind::Unknown),
        (vec![0xFF; 8192], PageKind::Unknown),
        (vec![0xFF; 65_536], PageKind::Unknown),
        // Line pointers that are none.
        (put(LOWER, 26), PageKind::Heap),
    ] {
        assert_eq!(kind(&page), expected);
        assert!(canonical(&page) == page);
    }
}

#[test]
fn flags_and_ids_of_nobody_are_unknown() {
    for (tail, words) in [
        // A btree has no more flags, no inner page of level 0 and no leaf above it; a metapage is nothing else.
        (16, [7, 0, 8, 0, 0, 0, 0x0201, 0]),
        (16, [7, 0, 8, 0, 0, 0, 0x0000, 0]),
        (16, [7, 0, 8, 0, 1, 0, 0x0001, 0]),
        (16, [7, 0, 8, 0, 0, 0, 0x0009, 0]),
        (16, [7, 0, 8, 0, 0, 0, 0x0001, 0xFF82]),
        (16, [7, 0, 8, 0, 0, 0, 0x0003, 0xFF80]),
        (16, [7, 0, 8, 0, 0, 0, 0x0020, 0xFF81]),
        (8, [7, 0, 0, 0x0100, 0, 0, 0, 0]),
        (8, [16, 0, 0, 0xFF82, 0, 0, 0, 0]),
        (8, [0, 0, 0, 0xF090, 0, 0, 0, 0]),
        (8, [0, 0, 0, 0xFF85, 0, 0, 0, 0]),
    ] {
        let sample = Sample::new("unknown", PageKind::Unknown, 1024, tail).tail(&words[..tail / 2]);
        assert_eq!(kind(&sample.page), PageKind::Unknown, "{words:x?}");
        assert!(canonical(&sample.page) == sample.page);
    }
    // What links to the block of the magic number is no sequence.
    let gin = Sample::new("gin", PageKind::Gin, 1024, 8)
        .tail(&[0x1717, 0, 0, 0])
        .lines(&[(1, 40)]);
    assert_eq!(kind(&gin.page), PageKind::Gin);
}

#[test]
fn line_pointers_out_of_bounds_or_across_each_other_are_left_alone() {
    let pointer = |offset: u32, state: u32, length: u32| offset | state << 15 | length << 17;
    let heap = heap(1024).page;
    let leaf = samples(1024).swap_remove(2);
    assert_eq!(leaf.name, "btree leaf");
    let upper = u32::from(word(&heap, UPPER));
    let first = Line::at(&heap, 0);
    let first = u32::try_from(first.offset()).unwrap();
    for (page, value) in [
        (&heap, pointer(upper - 8, 1, 24)),
        (&heap, pointer(1016, 1, 24)),
        (&heap, pointer(first + 8, 1, 24)),
        (&heap, pointer(first, 1, 16)),
        (&heap, pointer(first + 4, 1, 23)),
        // Over the second one.
        (&heap, pointer(first - 8, 1, 24)),
        (&heap, pointer(first - 8, 3, 24)),
        (&heap, pointer(5, 2, 1)),
        (&heap, pointer(0, 0, 24)),
        (&leaf.page, pointer(8, 1, 16)),
        (&leaf.page, pointer(1016, 1, 16)),
        (&leaf.page, pointer(0, 3, 0)),
        (&leaf.page, pointer(3, 2, 0)),
        (&leaf.page, pointer(1000, 0, 8)),
    ] {
        let mut page = page.clone();
        page[24..28].copy_from_slice(&value.to_le_bytes());
        assert!(canonical(&page) == page, "{value:x}");
    }
}

#[test]
fn every_eight_of_the_largest_page_can_be_taken() {
    let mut taken = Taken::default();
    let line = |offset: u32, length: u32| Line(offset | length << 17);
    assert!(taken.take(line(24, 32_768 - 32)));
    assert!(taken.take(line(32_760, 8)));
    assert!(!taken.take(line(32_759, 1)));
    assert!(!taken.take(line(512, 1)));
    assert!(taken.take(line(0, 24)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn flips_in_pages_of_every_size(
        size in (10..=15u32).prop_map(|power| 1usize << power), at: usize, bit in 0..8usize,
    ) {
        for sample in samples(size) {
            check_flip(&sample, &canonical(&sample.page), at % size, bit);
        }
    }

}

proptest! {
    #[test]
    fn any_bytes_are_survived(mut page in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let _ = kind(&page);
        let _ = tuples(&page).map(Iterator::count);
        make_canonical(&mut page);
    }

    /// What random bytes hardly ever are: pages with a sane header and any content.
    #[test]
    fn any_content_has_a_form_of_its_own(
        bytes in proptest::collection::vec(any::<u8>(), 1024..=1024),
        lower in 0..40usize, upper in 0..1000usize, tail in prop_oneof![Just(0usize), Just(8), Just(16), Just(24)],
        last in prop_oneof![
            any::<u16>(), 0..0x200u16, 0xFF7E..0xFF92u16, 0xF090..0xF095u16, Just(0),
        ],
        flags in 0..0x200u16,
        states in proptest::collection::vec(0..4u32, 40),
    ) {
        let mut sample = Sample::new("any", PageKind::Unknown, 1024, tail);
        let header = sample.page[..HEADER_BYTES].to_vec();
        sample.page.copy_from_slice(&bytes);
        sample.put(0, &header);
        let special = 1024 - tail;
        let lower = HEADER_BYTES + lower * 4;
        let upper = upper.clamp(lower, special);
        sample.bounds(lower, upper, special);
        // Pointers that point at some place behind the hole, and may cross.
        for (index, state) in states.iter().enumerate().take((lower - HEADER_BYTES) / 4) {
            let seed = usize::from(word(&bytes, 24 + 4 * index));
            let offset = (upper + seed % 1024).min(special.saturating_sub(24)) & !7;
            let length = if state % 2 == 1 { 23 + seed % 20 } else { 0 };
            let pointer = u32::try_from(offset | length << 17).unwrap() | state << 15;
            sample.put(24 + 4 * index, &pointer.to_le_bytes());
        }
        if tail > 0 {
            sample.put_word(1022, last);
        }
        if tail == 16 {
            sample.put_word(special + 12, flags);
        }
        let form = canonical(&sample.page);
        prop_assert!(canonical(&form) == form);
        prop_assert_eq!(form.len(), 1024);
        if form != sample.page {
            prop_assert_eq!(kind(&form), kind(&sample.page));
        }
    }
}
