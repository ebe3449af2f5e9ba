//! The canonical form of a page: the page without the noise that PostgreSQL may change without WAL and without
//! meaning.
//!
//! Two pages that differ in noise alone have one canonical form. Noise is what the masks of
//! `wal_consistency_checking` clear (`src/backend/access/common/bufmask.c` and the `*_mask` functions of the resource
//! managers, the same in 13 to 19 unless said below), less what has a meaning on disk, and a little more that replay
//! makes otherwise than the primary did and nobody reads. What stays is said where it is kept. A page is recognised
//! by itself: size of its special space, the page id in its last two bytes (each access method chose one that the
//! others cannot have), flags.
//!
//! For pages of a *main fork* only: maps of free space and visibility look like empty heap pages whose content would
//! be their hole. Masking proves nothing: a hint bit that is gone from the form may have been false
//! ([`hints`](super::hints)).

mod heap;
mod index;
#[cfg(test)]
mod tests;

pub(super) use heap::{Tuple, tuples};

use super::page::HEADER_BYTES;

/// Smallest and largest block size that PostgreSQL can be built with (`configure --with-blocksize`).
const BLOCK_SIZES: std::ops::RangeInclusive<usize> = 1024..=32_768;
/// `bufpage.h:PG_PAGE_LAYOUT_VERSION`, since 8.3.
const LAYOUT_VERSION: u16 = 4;
/// `bufpage.h:PD_VALID_FLAG_BITS`.
const FLAGS_VALID: u16 = 0x0007;
/// Where `bufpage.h:PageHeaderData` has its fields, behind LSN and checksum.
const FLAGS: usize = 10;
const LOWER: usize = 12;
const UPPER: usize = 14;
const SPECIAL: usize = 16;
const SIZE_AND_VERSION: usize = 18;
const PRUNE_XID: usize = 20;
/// LSN and checksum.
const LSN_AND_CHECKSUM: std::ops::Range<usize> = 0..10;
/// `MAXIMUM_ALIGNOF` of every platform that we build for.
const MAXALIGN: usize = 8;

/// What a page is, as far as it shows itself.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum PageKind {
    /// Never used (`PageIsNew`).
    New,
    /// Of a table, or of whatever has no special space.
    Heap,
    /// The one page of a sequence.
    Sequence,
    Btree,
    Hash,
    Gist,
    Gin,
    Spgist,
    Brin,
    /// Of an index method outside the core that writes generic WAL: bloom, and pgvector's two.
    Generic,
    /// Anything else, and what has a header that PostgreSQL would not take.
    Unknown,
}

impl PageKind {
    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Heap => "heap",
            Self::Sequence => "sequence",
            Self::Btree => "btree",
            Self::Hash => "hash",
            Self::Gist => "gist",
            Self::Gin => "gin",
            Self::Spgist => "spgist",
            Self::Brin => "brin",
            Self::Generic => "generic",
            Self::Unknown => "unknown",
        }
    }
}

/// What the page is. `page` is one whole block of a main fork.
#[must_use]
pub fn kind(page: &[u8]) -> PageKind {
    if page.get(UPPER..UPPER + 2) == Some(&[0, 0]) {
        return PageKind::New;
    }
    Layout::of(page).map_or(PageKind::Unknown, |layout| layout.kind(page))
}

/// Brings a page into its canonical form, in place, and says whether a byte changed.
///
/// `page` is one whole block of a main fork. A page without a canonical form other than itself stays as it is: new,
/// unknown, or one whose header or line pointers contradict each other. The form of a form is itself. What was taken
/// away is `page XOR form`, and the same XOR brings it back.
pub fn make_canonical(page: &mut [u8]) -> bool {
    let Some(layout) = Layout::of(page) else {
        return false;
    };
    let kind = layout.kind(page);
    let mut form = Form {
        page,
        layout,
        is_changed: false,
    };
    let has_form = match kind {
        PageKind::New | PageKind::Unknown => false,
        PageKind::Heap => heap::mask(&mut form),
        PageKind::Btree => index::mask_btree(&mut form),
        PageKind::Hash => index::mask_hash(&mut form),
        PageKind::Gist => index::mask_gist(&mut form),
        PageKind::Gin => index::mask_gin(&mut form),
        PageKind::Spgist => index::mask_spgist(&mut form),
        PageKind::Brin => index::mask_brin(&mut form),
        // `sequence.c:seq_mask`, `generic_xlog.c:generic_mask`. What a sequence has counted is no noise, though a
        // primary's page holds less than its WAL promised.
        PageKind::Sequence | PageKind::Generic => {
            form.clear_hole();
            true
        }
    };
    if has_form {
        form.clear(LSN_AND_CHECKSUM);
    }
    form.is_changed
}

/// As [`make_canonical`], and without `PD_ALL_VISIBLE` on a page of a table. The flag has a meaning, and so does not
/// belong to the form by which pages are judged. But from 19 on, whoever reads a page may set it
/// (`pruneheap.c:heap_page_prune_opt`): what differs by such reading shall not travel as a whole, and the same XOR
/// brings the flag back.
pub fn make_patchable(page: &mut [u8]) -> bool {
    let is_changed = make_canonical(page);
    if kind(page) != PageKind::Heap {
        return is_changed;
    }
    let flags = word(page, FLAGS);
    let others = flags & !heap::ALL_VISIBLE;
    page[FLAGS..FLAGS + 2].copy_from_slice(&others.to_le_bytes());
    is_changed || flags != others
}

/// Clears in a canonical form what is no noise, and yet may differ between a primary and its standby under one LSN:
/// what a sequence has counted, and the blocks that SP-GiST used last.
pub fn clear_unlogged(page: &mut [u8]) {
    let Some(layout) = Layout::of(page) else {
        return;
    };
    let kind = layout.kind(page);
    let mut form = Form {
        page,
        layout,
        is_changed: false,
    };
    match kind {
        PageKind::Sequence => index::clear_counts(&mut form),
        PageKind::Spgist => index::clear_last_used(&mut form),
        _ => {}
    }
}

/// Where the parts of a page are: header, line pointers or content up to `lower`, hole, tuples from `upper` on, and
/// what the access method keeps from `special` on.
#[derive(Debug, Copy, Clone)]
struct Layout {
    lower: usize,
    upper: usize,
    special: usize,
}

impl Layout {
    /// `None` unless the header is as `bufpage.c:PageIsVerified` wants it, and of this block size.
    fn of(page: &[u8]) -> Option<Self> {
        let size = page.len();
        if !BLOCK_SIZES.contains(&size) || !size.is_power_of_two() {
            return None;
        }
        let [lower, upper, special] = [LOWER, UPPER, SPECIAL].map(|at| usize::from(word(page, at)));
        let is_sane = usize::from(word(page, SIZE_AND_VERSION))
            == size | usize::from(LAYOUT_VERSION)
            && word(page, FLAGS) & !FLAGS_VALID == 0
            && (HEADER_BYTES..=upper).contains(&lower)
            && upper <= special
            && special <= size
            && special.is_multiple_of(MAXALIGN);
        is_sane.then_some(Self {
            lower,
            upper,
            special,
        })
    }

    fn kind(self, page: &[u8]) -> PageKind {
        let last = word(page, page.len() - 2);
        match page.len() - self.special {
            0 => PageKind::Heap,
            8 => index::kind_of_eight(page, self, last),
            16 => index::kind_of_sixteen(page, self, last),
            _ => PageKind::Unknown,
        }
    }
}

/// A page on its way to its canonical form.
struct Form<'a> {
    page: &'a mut [u8],
    layout: Layout,
    is_changed: bool,
}

impl Form<'_> {
    fn word(&self, at: usize) -> u16 {
        word(self.page, at)
    }

    fn set_word(&mut self, at: usize, value: u16) {
        if self.word(at) != value {
            self.page[at..at + 2].copy_from_slice(&value.to_le_bytes());
            self.is_changed = true;
        }
    }

    fn clear_bits(&mut self, at: usize, bits: u16) {
        self.set_word(at, self.word(at) & !bits);
    }

    fn clear(&mut self, range: std::ops::Range<usize>) {
        let bytes = &mut self.page[range];
        // One pass without a branch in it, which the compiler makes wide.
        if bytes.iter().fold(0, |all, byte| all | byte) != 0 {
            bytes.fill(0);
            self.is_changed = true;
        }
    }

    fn clear_hole(&mut self) {
        self.clear(self.layout.lower..self.layout.upper);
    }

    /// Takes away all that a page holds which is out of use, and where it was. The special space stays: it says what
    /// the page is.
    fn clear_content(&mut self) {
        self.clear(HEADER_BYTES..self.layout.special);
        self.set_word(LOWER, as_word(HEADER_BYTES));
        self.set_word(UPPER, as_word(self.layout.special));
    }
}

/// A line pointer (`itemid.h:ItemIdData`): 15 bits of offset, 2 of state, 15 of length.
#[derive(Debug, Copy, Clone)]
struct Line(u32);

/// The states of a line pointer: `itemid.h:LP_UNUSED`, `LP_NORMAL`, `LP_REDIRECT`, `LP_DEAD`.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
enum LineState {
    Unused,
    Normal,
    Redirect,
    Dead,
}

impl Line {
    const BYTES: usize = 4;

    /// That of number `index`, from 0.
    fn at(page: &[u8], index: usize) -> Self {
        let at = HEADER_BYTES + index * Self::BYTES;
        Self(double_word(page, at))
    }

    /// That which these bytes are.
    fn of(bytes: [u8; Self::BYTES]) -> Self {
        Self(u32::from_le_bytes(bytes))
    }

    /// How many there are; `None` when what stands between header and hole cannot be line pointers.
    fn count(layout: Layout) -> Option<usize> {
        let bytes = layout.lower - HEADER_BYTES;
        bytes
            .is_multiple_of(Self::BYTES)
            .then_some(bytes / Self::BYTES)
    }

    fn offset(self) -> usize {
        (self.0 & 0x7FFF) as usize
    }

    fn state(self) -> LineState {
        match self.0 >> 15 & 3 {
            0 => LineState::Unused,
            1 => LineState::Normal,
            2 => LineState::Redirect,
            _ => LineState::Dead,
        }
    }

    fn length(self) -> usize {
        (self.0 >> 17) as usize
    }

    /// Whether what it points at lies among the tuples.
    fn is_inside(self, layout: Layout) -> bool {
        self.offset() >= layout.upper && self.offset() + self.length() <= layout.special
    }
}

/// The two bytes at an offset inside the page.
fn word(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

/// The four bytes at an offset inside the page.
fn double_word(page: &[u8], at: usize) -> u32 {
    u32::from(word(page, at)) | u32::from(word(page, at + 2)) << 16
}

/// An offset in a page as its header has it.
fn as_word(offset: usize) -> u16 {
    u16::try_from(offset).expect("a block has at most 32768 bytes")
}
