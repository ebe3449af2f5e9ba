//! Pages of tables.

use super::{
    FLAGS, Form, HEADER_BYTES, Layout, Line, LineState, MAXALIGN, PRUNE_XID, double_word, word,
};

/// `bufpage.h:PD_HAS_FREE_LINES` and `PD_PAGE_FULL`, hints of where there is room. `PD_ALL_VISIBLE` is none: who
/// changes a tuple clears the visibility map where it is set.
const PAGE_HINTS: u16 = 0x0003;
pub(super) const ALL_VISIBLE: u16 = 0x0004;

// `htup_details.h:HeapTupleHeaderData`.
const XMIN: usize = 0;
const XMAX: usize = 4;
/// `t_cid`, or `t_xvac` in a tuple that `VACUUM FULL` moved before 9.0.
const FIELD3: usize = 8;
const INFOMASK: usize = 20;
/// `SizeofHeapTupleHeader`.
const TUPLE_HEADER_BYTES: usize = 23;

/// `HEAP_COMBOCID`: what the command id means to its own transaction.
const COMBOCID: u16 = 0x0020;
const XMIN_COMMITTED: u16 = 0x0100;
const XMIN_INVALID: u16 = 0x0200;
/// `HEAP_XMIN_FROZEN`: both, which neither hint says and WAL does.
const XMIN_FROZEN: u16 = XMIN_COMMITTED | XMIN_INVALID;
const XMAX_COMMITTED: u16 = 0x0400;
const XMAX_INVALID: u16 = 0x0800;
/// `HEAP_MOVED`.
const MOVED: u16 = 0xC000;

/// Of the masks' `HEAP_XACT_MASK` these alone are noise: the others say whether xmax is a lock or a multixact, and
/// whether the tuple is a new version, and come by WAL.
///
/// `t_cid` and what it is counted by are of use to the transaction that wrote them. Replay sets the first command
/// and clears `HEAP_COMBOCID` (`heapam_xlog.c:heap_xlog_insert`, `heap_xlog_delete`).
pub(super) fn mask(form: &mut Form) -> bool {
    if !is_sound(form.page, form.layout) {
        return false;
    }
    form.clear_bits(FLAGS, PAGE_HINTS);
    form.clear(PRUNE_XID..PRUNE_XID + 4);
    form.clear_hole();
    let Layout { lower, .. } = form.layout;
    let (head, rest) = form.page.split_at_mut(lower);
    let (lines, _) = head[HEADER_BYTES..].as_chunks();
    for line in lines.iter().map(|line| Line::of(*line)) {
        if line.state() != LineState::Normal {
            continue;
        }
        // Inside the page, and behind the line pointers: sound lines point there, and the special space begins at a
        // multiple, too.
        let begin = line.offset() - lower;
        let padded = line.length().next_multiple_of(MAXALIGN);
        form.is_changed |= mask_tuple(&mut rest[begin..begin + padded], line.length());
    }
    true
}

/// Masks one tuple, of so many bytes, with its padding; says whether a byte changed.
fn mask_tuple(tuple: &mut [u8], length: usize) -> bool {
    let infomask = word(tuple, INFOMASK);
    let mut noise = XMAX_COMMITTED | XMAX_INVALID;
    if infomask & XMIN_FROZEN != XMIN_FROZEN {
        noise |= XMIN_FROZEN;
    }
    let mut gone = 0;
    if infomask & MOVED == 0 {
        noise |= COMBOCID;
        gone = double_word(tuple, FIELD3);
        tuple[FIELD3..FIELD3 + 4].fill(0);
    }
    tuple[INFOMASK..INFOMASK + 2].copy_from_slice(&(infomask & !noise).to_le_bytes());
    let padding = tuple[length..].iter_mut();
    let gone_padding = padding.fold(0, |all, byte| all | std::mem::take(byte));
    infomask & noise != 0 || gone != 0 || gone_padding != 0
}

/// Whether line pointers point at tuples, none of which lies over another: masking one must not touch another.
fn is_sound(page: &[u8], layout: Layout) -> bool {
    let Some(count) = Line::count(layout) else {
        return false;
    };
    let (lines, _) = page[HEADER_BYTES..HEADER_BYTES + count * Line::BYTES].as_chunks();
    let lines = || lines.iter().map(|line| Line::of(*line));
    let is_placed = |line: Line| match line.state() {
        LineState::Unused | LineState::Redirect => line.length() == 0,
        LineState::Dead => line.length() == 0 || line.is_inside(layout),
        LineState::Normal => {
            line.is_inside(layout)
                && line.offset().is_multiple_of(MAXALIGN)
                && line.length() >= TUPLE_HEADER_BYTES
        }
    };
    // Tuples come from the end of a page in the order of their line pointers, until some of them go.
    let mut before = layout.special;
    let is_in_order = lines().all(|line| {
        let is_clear = line.length() == 0 || line.offset() + line.length() <= before;
        if line.length() > 0 {
            before = line.offset();
        }
        is_clear && is_placed(line)
    });
    let mut taken = Taken::default();
    is_in_order || lines().all(|line| is_placed(line) && (line.length() == 0 || taken.take(line)))
}

/// Which eights of bytes tuples lie in: 4096 of them in the largest page.
pub(super) struct Taken([u64; 64]);

impl Default for Taken {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Taken {
    /// Takes those of a tuple inside the page; `false` when another has one of them.
    pub(super) fn take(&mut self, line: Line) -> bool {
        let mut eight = line.offset() / MAXALIGN;
        let end = (line.offset() + line.length()).div_ceil(MAXALIGN);
        while eight < end {
            let bit = eight % 64;
            let bits = (end - eight).min(64 - bit);
            let mask = u64::MAX >> (64 - bits) << bit;
            let word = &mut self.0[eight / 64];
            if *word & mask != 0 {
                return false;
            }
            *word |= mask;
            eight += bits;
        }
        true
    }
}

/// What a tuple says of the transactions that made and ended it.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(in crate::pg) struct Tuple {
    /// Number of its line pointer, from 1.
    pub line: u16,
    pub xmin: u32,
    pub xmax: u32,
    pub infomask: u16,
}

/// The tuples of a heap page, in the order of their line pointers; `None` when it is no heap page, or contradicts
/// itself.
pub(in crate::pg) fn tuples(page: &[u8]) -> Option<impl Iterator<Item = Tuple>> {
    let layout = Layout::of(page)?;
    if layout.special != page.len() || !is_sound(page, layout) {
        return None;
    }
    let end = u16::try_from((layout.lower - HEADER_BYTES) / Line::BYTES).ok()?;
    Some((1..=end).filter_map(|line| {
        let pointer = Line::at(page, usize::from(line) - 1);
        let tuple = pointer.offset();
        (pointer.state() == LineState::Normal).then(|| Tuple {
            line,
            xmin: double_word(page, tuple + XMIN),
            xmax: double_word(page, tuple + XMAX),
            infomask: word(page, tuple + INFOMASK),
        })
    }))
}
