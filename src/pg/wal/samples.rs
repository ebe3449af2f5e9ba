//! Small write-ahead logs for tests, written as `xlog.c` would.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

use crate::pg::lsn::Lsn;
use crate::pg::wal::reader::{Geometry, Reader};

pub const GEOMETRY: Geometry = Geometry {
    page_bytes: 8192,
    segment_bytes: 65536,
    system_identifier: 7,
};

/// A log that grows by whole records.
pub struct Log {
    magic: u16,
    begin: u64,
    bytes: Vec<u8>,
    previous: u64,
}

impl Log {
    /// Begins at a segment's beginning.
    pub fn new(magic: u16) -> Self {
        Self {
            magic,
            begin: 4 * u64::from(GEOMETRY.segment_bytes),
            bytes: Vec::new(),
            previous: 0,
        }
    }

    /// Where the first record begins, behind the page's header.
    pub fn begin_of_records(&self) -> Lsn {
        Lsn(self.begin + 40)
    }

    pub fn begin(&self) -> Lsn {
        Lsn(self.begin)
    }

    fn at(&self) -> u64 {
        self.begin + self.bytes.len() as u64
    }

    /// Begins a page if one must begin here.
    fn page(&mut self, remaining: usize) {
        let at = self.at();
        if !at.is_multiple_of(8192) {
            return;
        }
        let is_first = at.is_multiple_of(u64::from(GEOMETRY.segment_bytes));
        let info = u16::from(remaining > 0) | if is_first { 2 } else { 0 };
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend(info.to_le_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend((remaining as u32).to_le_bytes());
        self.bytes.extend([0; 4]);
        if is_first {
            self.bytes.extend(GEOMETRY.system_identifier.to_le_bytes());
            self.bytes.extend(GEOMETRY.segment_bytes.to_le_bytes());
            self.bytes.extend(GEOMETRY.page_bytes.to_le_bytes());
        }
    }

    /// Appends a record with this main data behind these headers of blocks; where it begins.
    pub fn push(&mut self, rmgr: u8, info: u8, blocks: &[u8], data: &[u8]) -> Lsn {
        let mut body = blocks.to_vec();
        if data.len() < 256 {
            body.extend([255, data.len() as u8]);
        } else {
            body.push(254);
            body.extend((data.len() as u32).to_le_bytes());
        }
        body.extend(data);
        self.page(0);
        let start = self.at();
        let mut head = Vec::new();
        head.extend(((24 + body.len()) as u32).to_le_bytes());
        head.extend(3_u32.to_le_bytes());
        head.extend(self.previous.to_le_bytes());
        head.extend([info, rmgr, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &head);
        head.extend(crc.to_le_bytes());
        head.extend(body);
        for (done, byte) in head.iter().enumerate() {
            self.page(head.len() - done);
            self.bytes.push(*byte);
        }
        while !self.at().is_multiple_of(8) {
            self.bytes.push(0);
        }
        self.previous = start;
        Lsn(start)
    }

    /// The bytes with zeros behind them up to a page's end.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len().next_multiple_of(8192) + 8192, 0);
        bytes
    }

    pub fn end(&self) -> Lsn {
        Lsn(self.at())
    }

    /// A reader of these bytes, which lie where the log begins.
    pub fn read(
        &self,
        bytes: Vec<u8>,
    ) -> Reader<impl FnMut(Lsn, &mut [u8]) -> Result<bool, std::convert::Infallible> + use<>> {
        let begin = self.begin;
        Reader::new(GEOMETRY, Lsn(begin), move |at, page| {
            let from = at.0.checked_sub(begin).map(|from| from as usize);
            let found = from.and_then(|from| bytes.get(from..from + page.len()));
            Ok(found.map(|found| page.copy_from_slice(found)).is_some())
        })
    }
}

/// The header of a block of a relation, without image and data.
pub fn block(tablespace: u32, database: u32, relfilenode: u32) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0];
    for number in [tablespace, database, relfilenode, 1] {
        bytes.extend(number.to_le_bytes());
    }
    bytes
}

/// Numbers as main data.
pub fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}
