//! Pages of indexes.
//!
//! None of them has page hints in its header: only heaps set `PD_PAGE_FULL`, `PD_HAS_FREE_LINES` and a prune xid, and
//! GIN's deleted pages keep the transaction that deleted them where that stands. The masks clear all three; here they
//! stay.

use super::{Form, HEADER_BYTES, Layout, Line, LineState, PageKind, double_word, word};

// Page ids, in the last two bytes of a page.
/// `nbtree.h:MAX_BT_CYCLE_ID`: a btree has the cycle id of a vacuum there, which is no more than this.
const BTREE_LAST: u16 = 0xFF7F;
/// `hash.h:HASHO_PAGE_ID`.
const HASH: u16 = 0xFF80;
/// `gist.h:GIST_PAGE_ID`.
const GIST: u16 = 0xFF81;
/// `spgist_private.h:SPGIST_PAGE_ID`.
const SPGIST: u16 = 0xFF82;
/// `contrib/bloom/bloom.h:BLOOM_PAGE_ID`, pgvector's `ivfflat.h:IVFFLAT_PAGE_ID` and `hnsw.h:HNSW_PAGE_ID`.
const GENERIC: [u16; 3] = [0xFF83, 0xFF84, 0xFF90];
/// `brin_page.h:BRIN_PAGETYPE_META`, `_REVMAP`, `_REGULAR`.
const BRIN_META: u16 = 0xF091;
const BRIN_REVMAP: u16 = 0xF092;
const BRIN_REGULAR: u16 = 0xF093;
/// GIN has its flags there, of which it uses the low eight only (`ginblock.h:GinPageOpaqueData` promises it).
const GIN_FLAGS: u16 = 0x00FF;

/// `sequence.c:SEQ_MAGIC`, the content of a sequence's special space.
const SEQUENCE_MAGIC: u32 = 0x1717;
/// Length of a sequence's tuple: header, two `int8` and one `bool`, since 10. Tuples of indexes are never odd.
const SEQUENCE_TUPLE_BYTES: usize = 41;

/// What has eight bytes of special space.
pub(super) fn kind_of_eight(page: &[u8], layout: Layout, last: u16) -> PageKind {
    match last {
        0 if is_sequence(page, layout) => PageKind::Sequence,
        BRIN_META | BRIN_REVMAP | BRIN_REGULAR => PageKind::Brin,
        SPGIST if word(page, layout.special) & !SPGIST_FLAGS == 0 => PageKind::Spgist,
        id if GENERIC.contains(&id) => PageKind::Generic,
        flags if flags & !GIN_FLAGS == 0 => PageKind::Gin,
        _ => PageKind::Unknown,
    }
}

/// Its magic number alone would be a GIN page's link to block 5911.
fn is_sequence(page: &[u8], layout: Layout) -> bool {
    double_word(page, layout.special) == SEQUENCE_MAGIC
        && layout.lower == HEADER_BYTES + Line::BYTES
        && Line::at(page, 0).length() == SEQUENCE_TUPLE_BYTES
}

/// What has sixteen bytes of special space. All three have their flags at its twelfth.
pub(super) fn kind_of_sixteen(page: &[u8], layout: Layout, last: u16) -> PageKind {
    let flags = word(page, layout.special + FLAGS16);
    match last {
        0..=BTREE_LAST if is_btree(flags, double_word(page, layout.special + BTREE_LEVEL)) => {
            PageKind::Btree
        }
        HASH if flags & !HASH_FLAGS == 0 && (flags & HASH_TYPE).count_ones() <= 1 => PageKind::Hash,
        GIST if flags & !GIST_FLAGS == 0 => PageKind::Gist,
        _ => PageKind::Unknown,
    }
}

/// Where `BTPageOpaqueData`, `HashPageOpaqueData` and `GISTPageOpaqueData` have their flags.
const FLAGS16: usize = 12;

// nbtree.h
const BTREE_LEVEL: usize = 8;
const BTREE_CYCLE: usize = 14;
/// `BTP_LEAF` to `BTP_INCOMPLETE_SPLIT`, and `BTP_HAS_FULLXID`, since 14.
const BTREE_FLAGS: u16 = 0x01FF;
const BTP_LEAF: u16 = 0x0001;
const BTP_DELETED: u16 = 0x0004;
const BTP_META: u16 = 0x0008;
const BTP_SPLIT_END: u16 = 0x0020;
const BTP_HAS_GARBAGE: u16 = 0x0040;
const BTP_HAS_FULLXID: u16 = 0x0100;

/// A btree has no page id of its own, so that its flags and its level must fit.
fn is_btree(flags: u16, level: u32) -> bool {
    let is_leaf = flags & BTP_LEAF != 0;
    let fits = match flags & (BTP_DELETED | BTP_META) {
        // 13 has the deleting transaction where the level was.
        BTP_DELETED => true,
        BTP_META => flags == BTP_META && level == 0,
        0 => is_leaf == (level == 0),
        _ => false,
    };
    flags & !BTREE_FLAGS == 0 && fits
}

/// `nbtxlog.c:btree_mask`.
///
/// The cycle id and the end of a split tell the vacuum of that moment where to look again; replay writes neither.
pub(super) fn mask_btree(form: &mut Form) -> bool {
    let special = form.layout.special;
    let flags = form.word(special + FLAGS16);
    let mut noise = BTP_SPLIT_END | BTP_HAS_GARBAGE;
    if flags & (BTP_DELETED | BTP_HAS_FULLXID) == BTP_DELETED {
        // As 13 deletes: the primary leaves what was there, replay makes an empty page that is no leaf.
        noise |= BTP_LEAF;
        form.clear_content();
    } else {
        // A deleted page of 14 and later is a leaf without line pointers: its safe xid stands there.
        let is_leaf = flags & (BTP_LEAF | BTP_DELETED) == BTP_LEAF;
        if is_leaf && !revive(form) {
            return false;
        }
        form.clear_hole();
    }
    form.clear_bits(special + FLAGS16, noise);
    form.set_word(special + BTREE_CYCLE, 0);
    true
}

// hash.h
/// `LH_OVERFLOW_PAGE` to `LH_PAGE_HAS_DEAD_TUPLES`.
const HASH_FLAGS: u16 = 0x00FF;
/// `LH_PAGE_TYPE`.
const HASH_TYPE: u16 = 0x000F;
const LH_UNUSED_PAGE: u16 = 0x0000;
const LH_OVERFLOW_PAGE: u16 = 0x0001;
const LH_BUCKET_PAGE: u16 = 0x0002;
const LH_PAGE_HAS_DEAD_TUPLES: u16 = 0x0080;

/// `hash_xlog.c:hash_mask`. Nothing in metapage and bitmaps is noise: the count of tuples is replayed.
pub(super) fn mask_hash(form: &mut Form) -> bool {
    let flags = form.layout.special + FLAGS16;
    match form.word(flags) & HASH_TYPE {
        LH_UNUSED_PAGE => form.clear_content(),
        LH_OVERFLOW_PAGE | LH_BUCKET_PAGE => {
            if !revive(form) {
                return false;
            }
            form.clear_hole();
            form.clear_bits(flags, LH_PAGE_HAS_DEAD_TUPLES);
        }
        _ => clear_hole_if_told(form),
    }
    true
}

// gist.h
/// `F_LEAF` to `F_HAS_GARBAGE`.
const GIST_FLAGS: u16 = 0x001F;
const F_LEAF: u16 = 0x0001;
const F_DELETED: u16 = 0x0002;
const F_TUPLES_DELETED: u16 = 0x0004;
const F_HAS_GARBAGE: u16 = 0x0010;

/// `gistxlog.c:gist_mask`, with two differences.
///
/// NSN and `F_FOLLOW_RIGHT` stay: they say that a split has to be finished, and the mask clears them only because the
/// image in WAL is older than they are; replay sets them even on a page that it restored (`gistRedoClearFollowRight`).
/// `F_TUPLES_DELETED` goes: replay sets it where the primary did not (`gistRedoDeleteRecord`, `gist.c:gistprunepage`),
/// and nobody reads it.
pub(super) fn mask_gist(form: &mut Form) -> bool {
    let flags = form.layout.special + FLAGS16;
    // The deleting transaction stands where a deleted page had line pointers (`gist.h:GistPageSetDeleted`).
    let is_leaf = form.word(flags) & (F_LEAF | F_DELETED) == F_LEAF;
    if is_leaf && !revive(form) {
        return false;
    }
    form.clear_hole();
    form.clear_bits(flags, F_TUPLES_DELETED | F_HAS_GARBAGE);
    true
}

/// Where `ginblock.h:GinPageOpaqueData` has its flags; link and count of items stand before.
const FLAGS_OF_GIN: usize = 6;
const GIN_DELETED: u16 = 0x0004;

/// `ginxlog.c:gin_mask`, which masks every deleted page and has one sort in mind.
///
/// A page of the list of pending entries has no other flag when it is deleted: the primary leaves all that was there,
/// and replay makes an empty page (`ginfast.c:shiftList`, `ginRedoDeleteListPages`). Deleted pages of a posting tree
/// are replayed as they are, and running scans still follow their links.
pub(super) fn mask_gin(form: &mut Form) -> bool {
    let special = form.layout.special;
    if form.word(special + FLAGS_OF_GIN) == GIN_DELETED {
        form.clear_content();
        form.clear(special..special + FLAGS_OF_GIN);
    } else {
        // Pages from before 9.4 do not tell their hole.
        clear_hole_if_told(form);
    }
    true
}

// spgist_private.h
/// `SPGIST_META` to `SPGIST_NULLS`.
const SPGIST_FLAGS: u16 = 0x000F;
const SPGIST_META: u16 = 0x0001;

/// `spgxlog.c:spg_mask`, but for metapages from before 11, whose hole begins too early. The pages last used, which the
/// metapage names, are no noise, though they come without WAL: an insert looks for them.
pub(super) fn mask_spgist(form: &mut Form) -> bool {
    if form.word(form.layout.special) & SPGIST_META == 0 {
        form.clear_hole();
    } else {
        clear_hole_if_told(form);
    }
    true
}

/// Where `brin_page.h:BrinPageFlags` and `BrinPageType` are in the special space.
const FLAGS_OF_BRIN: usize = 4;
const TYPE_OF_BRIN: usize = 6;
const BRIN_EVACUATE_PAGE: u16 = 0x0001;

/// `brin_xlog.c:brin_mask`. The map of ranges is one array up to its end, and its header says that all of it is hole.
pub(super) fn mask_brin(form: &mut Form) -> bool {
    let special = form.layout.special;
    match form.word(special + TYPE_OF_BRIN) {
        BRIN_REGULAR => {
            form.clear_hole();
            form.clear_bits(special + FLAGS_OF_BRIN, BRIN_EVACUATE_PAGE);
        }
        BRIN_META => clear_hole_if_told(form),
        _ => {}
    }
    true
}

/// Clears the hole unless its begin was never set: content may stand there.
fn clear_hole_if_told(form: &mut Form) {
    if form.layout.lower > HEADER_BYTES {
        form.clear_hole();
    }
}

/// Line pointers that a scan marked dead are normal again (`LP_DEAD` is a hint in leaves of indexes). `false`, and
/// nothing changed, when one of them cannot be: it points out of the tuples.
fn revive(form: &mut Form) -> bool {
    let Some(count) = Line::count(form.layout) else {
        return false;
    };
    let is_sound = (0..count).all(|index| {
        let line = Line::at(form.page, index);
        match line.state() {
            LineState::Unused => line.length() == 0,
            LineState::Normal | LineState::Dead => line.length() > 0 && line.is_inside(form.layout),
            LineState::Redirect => false,
        }
    });
    if is_sound {
        for index in 0..count {
            if Line::at(form.page, index).state() == LineState::Dead {
                // The state's two bits lie across the bytes of the lower half: bit 15 and, in the upper one, bit 0.
                form.clear_bits(HEADER_BYTES + index * Line::BYTES + 2, 1);
            }
        }
    }
    is_sound
}

/// Where `spgist_private.h:SpGistMetaPageData` has its `lastUsedPages`, eight of a block number and its free space.
const SPGIST_LAST_USED: std::ops::Range<usize> = HEADER_BYTES + 4..HEADER_BYTES + 4 + 8 * 8;

/// The blocks that inserts of SP-GiST used last, and where the metapage ends, come without WAL
/// (`spgutils.c:SpGistUpdateMetaPage`).
pub(super) fn clear_last_used(form: &mut Form) {
    if form.word(form.layout.special) & SPGIST_META != 0
        && SPGIST_LAST_USED.end <= form.layout.special
    {
        form.clear(SPGIST_LAST_USED);
        form.set_word(super::LOWER, 0);
    }
}

/// What a primary has counted of a sequence comes to a standby ahead of time (`sequence.c:nextval_internal`): the tuple's
/// `last_value`, `log_cnt` and `is_called`.
pub(super) fn clear_counts(form: &mut Form) {
    let tuple = Line::at(form.page, 0);
    if !tuple.is_inside(form.layout) {
        return;
    }
    let begin = tuple.offset() + SEQUENCE_TUPLE_BYTES - SEQUENCE_COUNT_BYTES;
    form.clear(begin..begin + SEQUENCE_COUNT_BYTES);
}

/// Two `int8` and one `bool` (`sequence.h:FormData_pg_sequence_data`).
const SEQUENCE_COUNT_BYTES: usize = 17;
