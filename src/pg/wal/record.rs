//! One record: its header, the blocks that it names and its main data.

use crate::pg::lsn::Lsn;

/// Length of `XLogRecord`.
pub const HEADER_BYTES: usize = 24;

/// Numbers of resource managers (`rmgrlist.h`); their order is the same in 13 to 19.
pub mod rmgr {
    pub const XLOG: u8 = 0;
    pub const XACT: u8 = 1;
    pub const SMGR: u8 = 2;
    pub const DBASE: u8 = 4;
    pub const TBLSPC: u8 = 5;
    pub const RELMAP: u8 = 7;
}

/// `XLOG_SWITCH`: the segment ends here.
const XLOG_SWITCH: u8 = 0x40;
/// `XLOG_CHECKPOINT_SHUTDOWN`, `XLOG_CHECKPOINT_ONLINE` and `XLOG_END_OF_RECOVERY`.
const XLOG_DATED: [u8; 3] = [0x00, 0x10, 0x90];

/// Of a record of `RM_XACT_ID` (`xact.h`): what it does, and which of them end a transaction.
pub(super) const XACT_OPERATION: u8 = 0x70;
pub(super) const XACT_ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];

/// `pg_control.h: XLOG_FPI_FOR_HINT`: an image of a page of which only hints have changed.
const XLOG_FPI_FOR_HINT: u8 = 0xa0;

/// Bits of `xl_info` that belong to the resource manager (`xlogrecord.h: XLR_RMGR_INFO_MASK`).
const RMGR_INFO: u8 = 0xf0;

/// Numbers of blocks up to 32; what else stands in their place (`xlogrecord.h`).
const BLOCK_ID_MAX: u8 = 32;
const BLOCK_ID_DATA_SHORT: u8 = 255;
const BLOCK_ID_DATA_LONG: u8 = 254;
const BLOCK_ID_ORIGIN: u8 = 253;
const BLOCK_ID_TOPLEVEL_XID: u8 = 252;

/// Bits of a block's `fork_flags`.
const BLOCK_FORK: u8 = 0x0f;
const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_SAME_REL: u8 = 0x80;

/// Bits of an image's `bimg_info`.
const IMAGE_HAS_HOLE: u8 = 0x01;
const IMAGE_IS_COMPRESSED_TILL_14: u8 = 0x02;
const IMAGE_IS_COMPRESSED_SINCE_15: u8 = 0x04 | 0x08 | 0x10;

/// A record whose checksum holds, but whose content cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the WAL record at {0} cannot be understood")]
pub struct Malformed(pub Lsn);

/// A record, whole and in one piece.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    bytes: &'a [u8],
    /// Where it begins.
    pub lsn: Lsn,
    /// Where the next one begins.
    pub end: Lsn,
    is_since_15: bool,
}

/// A file of a relation, as WAL names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Locator {
    pub tablespace: u32,
    pub database: u32,
    pub relfilenode: u32,
}

/// A block that a record changes or restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockReference {
    pub locator: Locator,
    /// `ForkNumber`: 0 main, 1 free space map, 2 visibility map, 3 init.
    pub fork: u8,
    pub block: u32,
}

impl<'a> Record<'a> {
    /// A record of at least [`HEADER_BYTES`] bytes.
    pub(super) fn new(bytes: &'a [u8], lsn: Lsn, end: Lsn, is_since_15: bool) -> Self {
        debug_assert!(bytes.len() >= HEADER_BYTES);
        Self {
            bytes,
            lsn,
            end,
            is_since_15,
        }
    }

    /// All its bytes, without the page headers in between.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// `xl_prev`: where the record before it begins.
    #[must_use]
    pub fn previous(&self) -> Lsn {
        let mut bytes = Bytes(&self.bytes[8..16]);
        Lsn(bytes.u64().unwrap_or_default())
    }

    /// The resource manager whose record it is.
    #[must_use]
    pub fn rmgr(&self) -> u8 {
        self.bytes[17]
    }

    /// What the resource manager does by it.
    #[must_use]
    pub fn info(&self) -> u8 {
        self.bytes[16] & RMGR_INFO
    }

    /// Whether the rest of the segment is empty.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        self.rmgr() == rmgr::XLOG && self.info() == XLOG_SWITCH
    }

    /// Whether it holds the moment at which it was written: the end of a transaction, a checkpoint, the end of a
    /// recovery. Two servers that go on from one point do not write the same one by chance.
    #[must_use]
    pub fn is_dated(&self) -> bool {
        match self.rmgr() {
            rmgr::XACT => XACT_ENDS.contains(&(self.info() & XACT_OPERATION)),
            rmgr::XLOG => XLOG_DATED.contains(&self.info()),
            _ => false,
        }
    }

    /// Whether it only carries pages whose hints have changed.
    #[must_use]
    pub fn is_for_hints(&self) -> bool {
        self.rmgr() == rmgr::XLOG && self.info() == XLOG_FPI_FOR_HINT
    }

    /// Whether its CRC-32C holds: over what follows the header, then over the header before the CRC.
    pub(super) fn is_proven(&self) -> bool {
        let (header, data) = self.bytes.split_at(HEADER_BYTES);
        let crc = crc32c::crc32c_append(crc32c::crc32c(data), &header[..20]);
        header[20..24] == crc.to_le_bytes()
    }

    /// The blocks that it names, and its main data.
    ///
    /// # Errors
    /// It is no record as `xlogreader.c: DecodeXLogRecord` expects one.
    pub fn decode(&self) -> Result<(Vec<BlockReference>, &'a [u8]), Malformed> {
        self.parts().ok_or(Malformed(self.lsn))
    }

    /// Its main data alone.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn data(&self) -> Result<&'a [u8], Malformed> {
        self.decode().map(|(_, data)| data)
    }

    fn parts(&self) -> Option<(Vec<BlockReference>, &'a [u8])> {
        let mut rest = Bytes(&self.bytes[HEADER_BYTES..]);
        let mut blocks = Vec::new();
        let mut locator = None;
        // Bytes of images, data of blocks and main data: all that follows the headers.
        let mut data_bytes = 0_usize;
        let mut main_bytes = 0_usize;
        while rest.0.len() > data_bytes {
            match rest.u8()? {
                BLOCK_ID_DATA_SHORT => {
                    main_bytes = usize::from(rest.u8()?);
                    data_bytes += main_bytes;
                    // The main data's header is the last one.
                    break;
                }
                BLOCK_ID_DATA_LONG => {
                    main_bytes = rest.u32()? as usize;
                    data_bytes = data_bytes.checked_add(main_bytes)?;
                    break;
                }
                BLOCK_ID_ORIGIN => {
                    rest.u16()?;
                }
                BLOCK_ID_TOPLEVEL_XID => {
                    rest.u32()?;
                }
                0..=BLOCK_ID_MAX => {
                    let flags = rest.u8()?;
                    data_bytes += usize::from(rest.u16()?);
                    if flags & BLOCK_HAS_IMAGE != 0 {
                        data_bytes += self.image(&mut rest)?;
                    }
                    if flags & BLOCK_SAME_REL == 0 {
                        locator = Some(rest.locator()?);
                    }
                    blocks.push(BlockReference {
                        locator: locator?,
                        fork: flags & BLOCK_FORK,
                        block: rest.u32()?,
                    });
                }
                _ => return None,
            }
        }
        if rest.0.len() != data_bytes {
            return None;
        }
        Some((blocks, &rest.0[data_bytes - main_bytes..]))
    }

    /// Reads the header of a block's image; its length.
    fn image(&self, rest: &mut Bytes<'_>) -> Option<usize> {
        let bytes = usize::from(rest.u16()?);
        let _hole_offset = rest.u16()?;
        let info = rest.u8()?;
        let compressed = if self.is_since_15 {
            IMAGE_IS_COMPRESSED_SINCE_15
        } else {
            IMAGE_IS_COMPRESSED_TILL_14
        };
        if info & IMAGE_HAS_HOLE != 0 && info & compressed != 0 {
            let _hole_bytes = rest.u16()?;
        }
        Some(bytes)
    }
}

/// Bytes that are taken from the front; `None` where they do not suffice.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn locator(&mut self) -> Option<Locator> {
        Some(Locator {
            tablespace: self.u32()?,
            database: self.u32()?,
            relfilenode: self.u32()?,
        })
    }
}
