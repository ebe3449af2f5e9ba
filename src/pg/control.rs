//! The control file, `global/pg_control`: decode, check, and the fields that a rebuild decides by.
//!
//! Layouts by `pg_control_version` are those of `src/include/catalog/pg_control.h`; the checks are
//! those of `get_controlfile` (`src/common/controldata_utils.c`) and `ReadControlFile`
//! (`src/backend/access/transam/xlog.c`). The data lies in the first 312 bytes of a file of 8192, so
//! that one sector write replaces it; a CRC-32C covers all that precedes it. Knows no file and no
//! path: bytes in, a value out. `pg_controldata` prints the same fields.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::label::BackupLabel;
use super::lsn::Lsn;
use super::timeline::TimelineId;

/// Length in bytes of the longest layout's data, CRC and padding included. The file goes on behind it.
pub const DATA_BYTES: usize = 312;

/// The impossible checkpoint position that [`poison_checkpoint`] installs: no record starts there.
pub const POISONED: Lsn = Lsn(0xDEAD);

/// What a layout differs by from the others.
struct Layout {
    control_version: u32,
    /// Where the CRC lies; it covers all before.
    crc_offset: usize,
    /// Whether the default signedness of `char` is stated.
    states_char_signedness: bool,
    /// By how much fields lie further behind than in the layout of 18, which all offsets here are of: from which
    /// offset on, and by how many bytes.
    shifts: &'static [(usize, usize)],
    /// Where the number of pages in a segment of an SLRU lies, such as pg_xact.
    slru_pages_offset: Option<usize>,
}

const LAYOUTS: [Layout; 4] = [
    // 13 to 16
    Layout {
        control_version: 1300,
        crc_offset: 288,
        states_char_signedness: false,
        shifts: &[],
        slru_pages_offset: None,
    },
    // 17
    Layout {
        control_version: 1700,
        crc_offset: 288,
        states_char_signedness: false,
        shifts: &[],
        slru_pages_offset: None,
    },
    // 18
    Layout {
        control_version: 1800,
        crc_offset: 292,
        states_char_signedness: true,
        shifts: &[],
        slru_pages_offset: None,
    },
    // 19
    Layout {
        control_version: 1905,
        crc_offset: 308,
        states_char_signedness: true,
        shifts: &[
            // logicalDecodingEnabled
            (64, 8),
            // nextMultiOffset has 64 bits.
            (84, 12),
            // The word that had aligned the time is gone.
            (104, 8),
            // slru_pages_per_segment
            (224, 12),
            // data_checksum_version_init, what initdb chose, before what is now
            (252, 16),
        ],
        slru_pages_offset: Some(232),
    },
];

impl Layout {
    /// Where a field lies that 18 has at `offset`.
    fn place(&self, offset: usize) -> usize {
        let shift = self.shifts.iter().rfind(|(from, _)| *from <= offset);
        offset + shift.map_or(0, |&(_, by)| by)
    }
}

/// Pages in a segment of an SLRU (`SLRU_PAGES_PER_SEGMENT` in `src/include/pg_config_manual.h`).
const SLRU_PAGES: u32 = 32;

/// `src/include/storage/checksum.h`; up to 18 in `bufpage.h`.
const PG_DATA_CHECKSUM_VERSION: u32 = 1;

/// Offset of `checkPoint`, the position of the last checkpoint's record.
const CHECKPOINT_OFFSET: usize = 32;

/// Why bytes are not a control file that can be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("the control file has {actual} bytes, expected at least {DATA_BYTES}")]
    TooShort { actual: usize },
    #[error("the control file has the unknown version {control_version}")]
    UnknownVersion { control_version: u32 },
    #[error("the control file was written with the other byte order")]
    WrongByteOrder,
    /// A torn read looks like this: read again before believing it.
    #[error(
        "the control file's checksum is wrong: calculated {actual:08X}, but the file says {expected:08X}"
    )]
    BadCrc {
        /// What the file says.
        expected: u32,
        /// What its content gives.
        actual: u32,
    },
    #[error("the control file's field {field} has the impossible value {value}")]
    BadField { field: &'static str, value: u64 },
}

/// What the cluster was doing when the control file was written (`DBState`).
///
/// Displayed in the words of `pg_controldata`. A server that is not running and was not shut down
/// has crashed.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

impl ClusterState {
    const ALL: [ClusterState; 7] = [
        Self::StartingUp,
        Self::ShutDown,
        Self::ShutDownInRecovery,
        Self::ShuttingDown,
        Self::InCrashRecovery,
        Self::InArchiveRecovery,
        Self::InProduction,
    ];

    /// Whether the last server ended in order, so that no data page is half written.
    #[must_use]
    pub fn is_shut_down(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShutDownInRecovery)
    }
}

impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StartingUp => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

/// How much the server writes into its log (`WalLevel` in `src/include/access/xlog.h`).
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalLevel {
    Minimal,
    Replica,
    Logical,
}

impl WalLevel {
    const ALL: [WalLevel; 3] = [Self::Minimal, Self::Replica, Self::Logical];
}

impl fmt::Display for WalLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minimal => "minimal",
            Self::Replica => "replica",
            Self::Logical => "logical",
        })
    }
}

/// The content of a control file whose checksum holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlFile {
    pub system_identifier: u64,
    /// 1300 for 13 to 16, 1700, 1800, 1905: tells the layout of this file.
    pub control_version: u32,
    /// Tells the major: [`major_of_catalog`](super::version::major_of_catalog).
    pub catalog_version: u32,
    pub state: ClusterState,
    /// When the file was last written, in seconds since 1970.
    pub time: i64,
    /// Where the last checkpoint's record starts.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint begins; at or before it.
    pub redo: Lsn,
    /// The last checkpoint's timeline. Right after a promotion it is still the old one; see
    /// [`ControlFile::timeline_reached`].
    pub timeline: TimelineId,
    pub prev_timeline: TimelineId,
    pub full_page_writes: bool,
    /// The next transaction to be started; the upper 32 bits count the wraparounds.
    pub next_xid: u64,
    pub next_oid: u32,
    pub next_multixact: u32,
    /// Of 32 bits before 19.
    pub next_multixact_offset: u64,
    pub oldest_xid: u32,
    pub oldest_multixact: u32,
    /// The oldest transaction that ran when the last checkpoint was made; 0 when none could, as at a shutdown.
    pub oldest_active_xid: u32,
    /// When the last checkpoint was made, in seconds since 1970.
    pub checkpoint_time: i64,
    /// How far recovery must go before the data is consistent; `0/0` on a primary.
    pub min_recovery_point: Lsn,
    pub min_recovery_timeline: TimelineId,
    /// Where the backup began from which this cluster is recovering; `0/0` when it is not.
    pub backup_start: Lsn,
    pub backup_end: Lsn,
    pub backup_end_required: bool,
    pub wal_level: WalLevel,
    pub wal_log_hints: bool,
    pub max_connections: i32,
    pub max_worker_processes: i32,
    pub max_wal_senders: i32,
    pub max_prepared_transactions: i32,
    pub max_locks_per_transaction: i32,
    pub track_commit_timestamp: bool,
    pub max_align: u32,
    /// The bits of a floating point number that every cluster writes as 1234567.
    pub float_format_bits: u64,
    /// Bytes per block of a relation: a power of two from 1 KiB to 32 KiB.
    pub block_bytes: u32,
    /// Blocks per segment file of a relation; not 0.
    pub segment_blocks: u32,
    /// Bytes per block of the log: a power of two from 1 KiB to 64 KiB.
    pub wal_block_bytes: u32,
    /// Bytes per file of the log: a power of two from 1 MiB to 1 GiB.
    pub wal_segment_bytes: u32,
    pub name_bytes: u32,
    pub index_max_keys: u32,
    pub toast_max_chunk_bytes: u32,
    pub large_object_block_bytes: u32,
    pub float8_by_value: bool,
    /// 0 when data pages carry no checksums, 1 when they do: see [`ControlFile::has_checksums`].
    pub checksum_version: u32,
    /// Whether `char` was signed where the cluster was made; stated from 18 on.
    pub default_char_signed: Option<bool>,
}

impl ControlFile {
    /// Decodes a control file, or its first [`DATA_BYTES`] bytes, and checks it.
    ///
    /// # Errors
    /// [`ControlError`]. The version is looked at before the checksum, whose place depends on it.
    pub fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
        let (layout, data) = check(bytes)?;
        if let Some(pages) = layout.slru_pages_offset.map(|at| data.u32_at(at))
            && pages != SLRU_PAGES
        {
            return Err(bad_field("slru_pages_per_segment", pages));
        }
        let state = data.u32(16);
        let wal_level = data.u32(172);
        Ok(Self {
            system_identifier: data.u64(0),
            control_version: data.u32(8),
            catalog_version: data.u32(12),
            state: one_of("state", &ClusterState::ALL, state)?,
            time: data.i64(24),
            checkpoint: Lsn(data.u64(CHECKPOINT_OFFSET)),
            redo: Lsn(data.u64(40)),
            timeline: TimelineId(data.u32(48)),
            prev_timeline: TimelineId(data.u32(52)),
            full_page_writes: data.bool(56),
            next_xid: data.u64(64),
            next_oid: data.u32(72),
            next_multixact: data.u32(76),
            next_multixact_offset: if layout.place(80) == 80 {
                u64::from(data.u32(80))
            } else {
                data.u64(80)
            },
            oldest_xid: data.u32(84),
            oldest_multixact: data.u32(92),
            oldest_active_xid: data.u32(120),
            checkpoint_time: data.i64(104),
            min_recovery_point: Lsn(data.u64(136)),
            min_recovery_timeline: TimelineId(data.u32(144)),
            backup_start: Lsn(data.u64(152)),
            backup_end: Lsn(data.u64(160)),
            backup_end_required: data.bool(168),
            wal_level: one_of("wal_level", &WalLevel::ALL, wal_level)?,
            wal_log_hints: data.bool(176),
            max_connections: data.i32(180),
            max_worker_processes: data.i32(184),
            max_wal_senders: data.i32(188),
            max_prepared_transactions: data.i32(192),
            max_locks_per_transaction: data.i32(196),
            track_commit_timestamp: data.bool(200),
            max_align: data.u32(204),
            float_format_bits: data.u64(208),
            block_bytes: power_of_two("blcksz", data.u32(216), 1 << 10, 32 << 10)?,
            segment_blocks: match data.u32(220) {
                0 => return Err(bad_field("relseg_size", 0)),
                blocks => blocks,
            },
            wal_block_bytes: power_of_two("xlog_blcksz", data.u32(224), 1 << 10, 64 << 10)?,
            wal_segment_bytes: power_of_two("xlog_seg_size", data.u32(228), 1 << 20, 1 << 30)?,
            name_bytes: data.u32(232),
            index_max_keys: data.u32(236),
            toast_max_chunk_bytes: data.u32(240),
            large_object_block_bytes: data.u32(244),
            float8_by_value: data.bool(248),
            checksum_version: data.u32(252),
            default_char_signed: layout.states_char_signedness.then(|| data.bool(256)),
        })
    }

    /// A position that this cluster's log reaches at least.
    ///
    /// It is the start of the last checkpoint's record or the minimum recovery point, whichever is
    /// later; after a crash, and by the length of the checkpoint's record always, there may be more.
    #[must_use]
    pub fn end_of_wal(&self) -> Lsn {
        self.checkpoint.max(self.min_recovery_point)
    }

    /// Whether it is that of a rebuild in which no server was started yet: see [`poison_checkpoint`].
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.checkpoint == POISONED
    }

    /// The same with the checkpoint that a server starts from: a poisoned one is the label's, or, where that is gone,
    /// as far as is known for sure.
    #[must_use]
    pub fn cured(self, label: Option<&BackupLabel>) -> Self {
        match label {
            _ if !self.is_poisoned() => self,
            Some(label) => Self {
                checkpoint: label.checkpoint,
                redo: label.start_lsn,
                ..self
            },
            None => Self {
                checkpoint: self.redo,
                ..self
            },
        }
    }

    /// Whether the file is still the one that `judged` was, cured or not.
    #[must_use]
    pub fn is_still(&self, judged: &Self) -> bool {
        let is_poisoned = self.is_poisoned();
        let now = Self {
            checkpoint: if is_poisoned {
                judged.checkpoint
            } else {
                self.checkpoint
            },
            redo: if is_poisoned { judged.redo } else { self.redo },
            ..self.clone()
        };
        now == *judged
    }

    /// Whether every data page carries a checksum that can be relied on.
    ///
    /// Betas of 19 could switch checksums while the server ran, with states of their own for the way there and back,
    /// in which pages without one are no damage; no release can.
    #[must_use]
    pub fn has_checksums(&self) -> bool {
        self.checksum_version == PG_DATA_CHECKSUM_VERSION
    }

    /// The last timeline that this cluster is known to have been on.
    ///
    /// A server that was promoted and stopped before its next checkpoint states the new timeline
    /// only beside its minimum recovery point.
    #[must_use]
    pub fn timeline_reached(&self) -> TimelineId {
        self.timeline.max(self.min_recovery_timeline)
    }

    /// The major version that wrote the file; `None` for a catalog version of no release.
    #[must_use]
    pub fn major(&self) -> Option<u32> {
        super::version::major_of_catalog(self.catalog_version)
    }

    /// Whether the sizes that others count with are those that a server can have: true for whatever
    /// [`decode`](Self::decode) has made, not for what a peer sent.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        let is_power = |size: u32, least: u32, most: u32| {
            size.is_power_of_two() && (least..=most).contains(&size)
        };
        is_power(self.block_bytes, 1 << 10, 32 << 10)
            && is_power(self.wal_segment_bytes, 1 << 20, 1 << 30)
            && self.segment_blocks > 0
    }

    /// The fields that must match before one cluster's blocks mean anything in the other, and do
    /// not: name as in `pg_control.h`, the value here, the value there.
    ///
    /// These are what `ReadControlFile` holds against the server's own build. The size of a WAL
    /// segment is not among them: it comes with the control file, and no WAL is mixed.
    #[must_use]
    pub fn layout_differences(&self, other: &Self) -> Vec<(&'static str, String, String)> {
        let float = |bits| f64::from_bits(bits).to_string();
        let word = |truth: bool| (if truth { "true" } else { "false" }).to_owned();
        let fields = |file: &Self| {
            [
                ("pg_control_version", file.control_version.to_string()),
                ("catalog_version_no", file.catalog_version.to_string()),
                ("maxAlign", file.max_align.to_string()),
                ("floatFormat", float(file.float_format_bits)),
                ("blcksz", file.block_bytes.to_string()),
                ("relseg_size", file.segment_blocks.to_string()),
                ("xlog_blcksz", file.wal_block_bytes.to_string()),
                ("nameDataLen", file.name_bytes.to_string()),
                ("indexMaxKeys", file.index_max_keys.to_string()),
                (
                    "toast_max_chunk_size",
                    file.toast_max_chunk_bytes.to_string(),
                ),
                ("loblksize", file.large_object_block_bytes.to_string()),
                ("float8ByVal", word(file.float8_by_value)),
            ]
        };
        fields(self)
            .into_iter()
            .zip(fields(other))
            .filter(|(mine, theirs)| mine.1 != theirs.1)
            .map(|((name, mine), (_, theirs))| (name, mine, theirs))
            .collect()
    }
}

/// Sets the checkpoint position of a control file to [`POISONED`] and renews the checksum.
///
/// A server that finds a backup_label starts from the label's checkpoint and repairs the field;
/// without the label it gives up (by a panic up to 18) instead of recovering from the wrong place.
///
/// # Errors
/// As [`ControlFile::decode`] for the bytes before the change; then nothing is changed.
pub fn poison_checkpoint(bytes: &mut [u8]) -> Result<(), ControlError> {
    let (layout, _) = check(bytes)?;
    bytes[CHECKPOINT_OFFSET..CHECKPOINT_OFFSET + 8].copy_from_slice(&POISONED.0.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..layout.crc_offset]);
    bytes[layout.crc_offset..layout.crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// The checks that need no field but the version: length, byte order, layout, checksum.
fn check(bytes: &[u8]) -> Result<(&'static Layout, Data<'_>), ControlError> {
    let actual = bytes.len();
    let bytes: &[u8; DATA_BYTES] = bytes
        .first_chunk()
        .ok_or(ControlError::TooShort { actual })?;
    let control_version = u32_of(bytes, 8);
    let newest = LAYOUTS.last().filter(|newest| {
        // A later major that has left the layout as it is proves it by its checksum.
        control_version > newest.control_version
            && u32_of(bytes, newest.crc_offset) == crc32c::crc32c(&bytes[..newest.crc_offset])
    });
    let layout = LAYOUTS
        .iter()
        .find(|layout| layout.control_version == control_version)
        .or(newest)
        .ok_or_else(|| {
            let swapped = control_version.swap_bytes();
            if LAYOUTS.iter().any(|l| l.control_version == swapped) {
                ControlError::WrongByteOrder
            } else {
                ControlError::UnknownVersion { control_version }
            }
        })?;
    let data = Data { bytes, layout };
    let expected = data.u32_at(layout.crc_offset);
    let actual = crc32c::crc32c(&bytes[..layout.crc_offset]);
    if expected == actual {
        Ok((layout, data))
    } else {
        Err(ControlError::BadCrc { expected, actual })
    }
}

/// The data of a control file. Offsets are this module's constants, those of 18; all lie within [`DATA_BYTES`] in
/// every layout.
#[derive(Copy, Clone)]
struct Data<'a> {
    bytes: &'a [u8; DATA_BYTES],
    layout: &'static Layout,
}

impl Data<'_> {
    fn u32(self, offset: usize) -> u32 {
        self.u32_at(self.layout.place(offset))
    }

    /// At an offset of this layout.
    fn u32_at(self, offset: usize) -> u32 {
        u32_of(self.bytes, offset)
    }

    fn i32(self, offset: usize) -> i32 {
        i32::from_le_bytes(array(self.bytes, self.layout.place(offset)))
    }

    fn u64(self, offset: usize) -> u64 {
        u64::from_le_bytes(array(self.bytes, self.layout.place(offset)))
    }

    fn i64(self, offset: usize) -> i64 {
        i64::from_le_bytes(array(self.bytes, self.layout.place(offset)))
    }

    fn bool(self, offset: usize) -> bool {
        self.bytes[self.layout.place(offset)] != 0
    }
}

fn array<const N: usize>(bytes: &[u8; DATA_BYTES], offset: usize) -> [u8; N] {
    *bytes[offset..]
        .first_chunk()
        .expect("every field lies within the data")
}

fn u32_of(bytes: &[u8; DATA_BYTES], offset: usize) -> u32 {
    u32::from_le_bytes(array(bytes, offset))
}

fn bad_field(field: &'static str, value: u32) -> ControlError {
    let value = u64::from(value);
    ControlError::BadField { field, value }
}

/// The member of an enum that PostgreSQL numbers from 0.
fn one_of<T: Copy>(field: &'static str, all: &[T], value: u32) -> Result<T, ControlError> {
    usize::try_from(value)
        .ok()
        .and_then(|index| all.get(index).copied())
        .ok_or_else(|| bad_field(field, value))
}

fn power_of_two(
    field: &'static str,
    value: u32,
    least: u32,
    most: u32,
) -> Result<u32, ControlError> {
    if value.is_power_of_two() && (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(bad_field(field, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pg::version::MAJORS;

    /// A captured control file and what `pg_controldata` says of it; see `tests/it/data/pg`.
    macro_rules! captured {
        ($major:literal, $state:literal) => {
            (
                $major,
                $state,
                &include_bytes!(concat!(
                    "../../tests/it/data/pg/pg_control.",
                    $major,
                    ".",
                    $state
                )),
                include_str!(concat!(
                    "../../tests/it/data/pg/pg_controldata.",
                    $major,
                    ".",
                    $state
                )),
            )
        };
    }

    const CAPTURED: [(u32, &str, &[u8; 512], &str); 16] = [
        captured!(13, "production"),
        captured!(13, "standby"),
        captured!(14, "production"),
        captured!(14, "standby"),
        captured!(15, "production"),
        captured!(15, "standby"),
        captured!(15, "shutdown"),
        captured!(16, "production"),
        captured!(16, "standby"),
        captured!(17, "production"),
        captured!(17, "standby"),
        captured!(18, "production"),
        captured!(18, "standby"),
        captured!(19, "production"),
        captured!(19, "standby"),
        captured!(19, "unchecksummed"),
    ];

    /// Length of the file in bytes (`PG_CONTROL_FILE_SIZE`); all behind the data is zero.
    const FILE_BYTES: usize = 8192;

    fn padded(data: &[u8]) -> Vec<u8> {
        let mut file = data.to_vec();
        file.resize(FILE_BYTES, 0);
        file
    }

    fn sample() -> Vec<u8> {
        padded(CAPTURED[12].2) // 18
    }

    /// Bytes with another value at `offset` and a checksum that holds, of layout 1800.
    fn with_u32(offset: usize, value: u32) -> Vec<u8> {
        let mut bytes = sample();
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..292]);
        bytes[292..296].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The lines of `pg_controldata` that the decoded fields can be held against.
    fn printed(file: &ControlFile) -> Vec<(&'static str, String)> {
        let on = |truth| (if truth { "on" } else { "off" }).to_owned();
        let xid = file.next_xid;
        // From 19 on, the lower half is printed with its leading zeros.
        let lsn = |lsn: Lsn| match file.control_version {
            1905.. => format!("{:X}/{:08X}", lsn.0 >> 32, lsn.0 & 0xFFFF_FFFF),
            _ => lsn.to_string(),
        };
        let mut lines = vec![
            (
                "pg_control version number",
                file.control_version.to_string(),
            ),
            ("Catalog version number", file.catalog_version.to_string()),
            (
                "Database system identifier",
                file.system_identifier.to_string(),
            ),
            ("Database cluster state", file.state.to_string()),
            ("Latest checkpoint location", lsn(file.checkpoint)),
            ("Latest checkpoint's REDO location", lsn(file.redo)),
            ("Latest checkpoint's TimeLineID", file.timeline.to_string()),
            (
                "Latest checkpoint's PrevTimeLineID",
                file.prev_timeline.to_string(),
            ),
            (
                "Latest checkpoint's full_page_writes",
                on(file.full_page_writes),
            ),
            (
                "Latest checkpoint's NextXID",
                format!("{}:{}", xid >> 32, xid & 0xFFFF_FFFF),
            ),
            ("Latest checkpoint's NextOID", file.next_oid.to_string()),
            (
                "Latest checkpoint's NextMultiXactId",
                file.next_multixact.to_string(),
            ),
            (
                "Latest checkpoint's NextMultiOffset",
                file.next_multixact_offset.to_string(),
            ),
            ("Latest checkpoint's oldestXID", file.oldest_xid.to_string()),
            (
                "Latest checkpoint's oldestMultiXid",
                file.oldest_multixact.to_string(),
            ),
            (
                "Minimum recovery ending location",
                lsn(file.min_recovery_point),
            ),
            (
                "Min recovery ending loc's timeline",
                file.min_recovery_timeline.to_string(),
            ),
            ("Backup start location", lsn(file.backup_start)),
            ("Backup end location", lsn(file.backup_end)),
            (
                "End-of-backup record required",
                if file.backup_end_required {
                    "yes"
                } else {
                    "no"
                }
                .to_owned(),
            ),
            ("wal_level setting", file.wal_level.to_string()),
            ("wal_log_hints setting", on(file.wal_log_hints)),
            ("max_connections setting", file.max_connections.to_string()),
            (
                "max_worker_processes setting",
                file.max_worker_processes.to_string(),
            ),
            ("max_wal_senders setting", file.max_wal_senders.to_string()),
            (
                "max_prepared_xacts setting",
                file.max_prepared_transactions.to_string(),
            ),
            (
                "max_locks_per_xact setting",
                file.max_locks_per_transaction.to_string(),
            ),
            (
                "track_commit_timestamp setting",
                on(file.track_commit_timestamp),
            ),
            ("Maximum data alignment", file.max_align.to_string()),
            ("Database block size", file.block_bytes.to_string()),
            (
                "Blocks per segment of large relation",
                file.segment_blocks.to_string(),
            ),
            ("WAL block size", file.wal_block_bytes.to_string()),
            ("Bytes per WAL segment", file.wal_segment_bytes.to_string()),
            ("Maximum length of identifiers", file.name_bytes.to_string()),
            (
                "Maximum columns in an index",
                file.index_max_keys.to_string(),
            ),
            (
                "Maximum size of a TOAST chunk",
                file.toast_max_chunk_bytes.to_string(),
            ),
            (
                "Size of a large-object chunk",
                file.large_object_block_bytes.to_string(),
            ),
            (
                "Float8 argument passing",
                if file.float8_by_value {
                    "by value"
                } else {
                    "by reference"
                }
                .to_owned(),
            ),
            (
                "Data page checksum version",
                file.checksum_version.to_string(),
            ),
        ];
        if let Some(signed) = file.default_char_signed {
            let word = if signed { "signed" } else { "unsigned" };
            lines.push(("Default char data signedness", word.to_owned()));
        }
        lines
    }

    #[test]
    fn fields_are_those_that_pg_controldata_prints() {
        for (major, state, data, text) in CAPTURED {
            let file = ControlFile::decode(&padded(data)).unwrap();
            assert_eq!(ControlFile::decode(data).unwrap(), file);
            assert_eq!(file.major(), Some(major));
            assert_eq!(file.float_format_bits, 1_234_567.0_f64.to_bits());
            assert!(file.time >= file.checkpoint_time && file.checkpoint_time > 1_700_000_000);
            for (label, value) in printed(&file) {
                let line = text
                    .lines()
                    .find_map(|line| line.strip_prefix(label)?.strip_prefix(':'))
                    .unwrap_or_else(|| panic!("{major} {state}: no line \"{label}\""));
                assert_eq!(line.trim(), value, "{major} {state}: {label}");
            }
        }
    }

    #[test]
    fn states_of_the_captured_servers() {
        let file = |index: usize| ControlFile::decode(CAPTURED[index].2).unwrap();
        let (primary, standby, stopped) = (file(4), file(5), file(6));
        assert_eq!(primary.state, ClusterState::InProduction);
        assert!(!primary.state.is_shut_down());
        assert_eq!(primary.min_recovery_point, Lsn::INVALID);
        assert_eq!(primary.end_of_wal(), primary.checkpoint);
        assert_eq!(standby.state, ClusterState::InArchiveRecovery);
        assert_eq!(standby.end_of_wal(), standby.min_recovery_point);
        assert!(standby.end_of_wal() > standby.checkpoint);
        assert_eq!(stopped.state, ClusterState::ShutDown);
        assert!(stopped.state.is_shut_down());
        assert!(stopped.has_checksums());
        let promoted = ControlFile {
            min_recovery_timeline: TimelineId(2),
            ..standby
        };
        assert_eq!(promoted.timeline_reached(), TimelineId(2));
        assert_eq!(primary.timeline_reached(), TimelineId(1));
    }

    #[test]
    fn the_layout_table_covers_every_supported_major() {
        for row in MAJORS {
            assert!(
                LAYOUTS
                    .iter()
                    .any(|layout| layout.control_version == row.control_version)
            );
        }
        for (major, _, data, _) in CAPTURED {
            let file = ControlFile::decode(data).unwrap();
            let row = MAJORS.iter().find(|row| row.major == major).unwrap();
            assert_eq!(file.control_version, row.control_version);
            assert_eq!(file.catalog_version, row.catalog_version);
        }
    }

    #[test]
    fn differences_that_forbid_a_rebuild_are_named() {
        let old = ControlFile::decode(CAPTURED[4].2).unwrap();
        let new = ControlFile::decode(CAPTURED[11].2).unwrap();
        assert_eq!(old.layout_differences(&old), []);
        let mut other = new.clone();
        // Neither who the cluster is nor what it is set to is a matter of layout.
        other.system_identifier += 1;
        other.wal_segment_bytes *= 2;
        other.checksum_version = 0;
        assert_eq!(new.layout_differences(&other), []);
        other.block_bytes = 16384;
        other.float8_by_value = false;
        assert_eq!(
            new.layout_differences(&other),
            [
                ("blcksz", "8192".to_owned(), "16384".to_owned()),
                ("float8ByVal", "true".to_owned(), "false".to_owned()),
            ]
        );
        let names: Vec<_> = old
            .layout_differences(&new)
            .into_iter()
            .map(|(name, _, _)| name)
            .collect();
        assert_eq!(names, ["pg_control_version", "catalog_version_no"]);
    }

    #[test]
    fn poison_changes_the_checkpoint_and_nothing_else() {
        for (_, _, data, _) in CAPTURED {
            let before = ControlFile::decode(data).unwrap();
            let mut bytes = padded(data);
            poison_checkpoint(&mut bytes).unwrap();
            let after = ControlFile::decode(&bytes).unwrap();
            assert_eq!(after.checkpoint.to_string(), "0/DEAD");
            assert_eq!(
                ControlFile {
                    checkpoint: before.checkpoint,
                    ..after
                },
                before
            );
            assert_eq!(bytes.len(), FILE_BYTES);
        }
    }

    #[test]
    fn nobody_sees_the_poison() {
        let mut bytes = CAPTURED[4].2.to_vec();
        let before = ControlFile::decode(&bytes).unwrap();
        assert_eq!(before.clone().cured(None), before);
        poison_checkpoint(&mut bytes).unwrap();
        let poisoned = ControlFile::decode(&bytes).unwrap();
        let label = b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
            CHECKPOINT LOCATION: 0/2000060\n";
        let label = BackupLabel::parse(label).unwrap();
        let cured = poisoned.clone().cured(Some(&label));
        assert_eq!(
            (cured.checkpoint, cured.redo),
            (Lsn(0x200_0060), Lsn(0x200_0028))
        );
        assert_eq!(poisoned.clone().cured(None).checkpoint, before.redo);
        assert!(poisoned.is_still(&cured) && before.is_still(&before));
        assert!(!before.is_still(&cured));
    }

    #[test]
    fn poison_refuses_what_does_not_decode() {
        let mut torn = sample();
        torn[100] ^= 1;
        let before = torn.clone();
        assert!(matches!(
            poison_checkpoint(&mut torn),
            Err(ControlError::BadCrc { .. })
        ));
        assert_eq!(torn, before);
        assert_eq!(
            poison_checkpoint(&mut []),
            Err(ControlError::TooShort { actual: 0 })
        );
    }

    #[test]
    fn files_of_others_are_refused_by_their_kind() {
        let mut swapped = sample();
        swapped[8..12].reverse();
        assert_eq!(
            ControlFile::decode(&swapped),
            Err(ControlError::WrongByteOrder)
        );
        assert_eq!(
            ControlFile::decode(&[0; FILE_BYTES]),
            Err(ControlError::UnknownVersion { control_version: 0 })
        );
        assert_eq!(
            ControlFile::decode(&with_u32(8, 1201))
                .unwrap_err()
                .to_string(),
            "the control file has the unknown version 1201"
        );
        assert_eq!(
            ControlFile::decode(&sample()[..311])
                .unwrap_err()
                .to_string(),
            "the control file has 311 bytes, expected at least 312"
        );
    }

    #[test]
    fn a_later_version_is_read_if_its_checksum_proves_the_layout() {
        let newest = LAYOUTS.last().unwrap();
        let (_, _, data, _) = CAPTURED.last().unwrap();
        let known = ControlFile::decode(*data).unwrap();
        assert_eq!(known.control_version, newest.control_version);
        let mut later = data.to_vec();
        later[8..12].copy_from_slice(&2000_u32.to_le_bytes());
        assert_eq!(
            ControlFile::decode(&later),
            Err(ControlError::UnknownVersion {
                control_version: 2000
            })
        );
        let crc = crc32c::crc32c(&later[..newest.crc_offset]);
        later[newest.crc_offset..newest.crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
        let decoded = ControlFile::decode(&later).unwrap();
        assert_eq!(decoded.control_version, 2000);
        assert_eq!(decoded.system_identifier, known.system_identifier);
        poison_checkpoint(&mut later).unwrap();
    }

    #[test]
    fn only_checksums_that_are_on_can_be_relied_on() {
        // Of a cluster made with checksums, which pg_checksums has disabled: what initdb chose stands before it.
        let (_, _, data, text) = CAPTURED[15];
        assert_eq!(data[264..272], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert!(text.contains("Data page checksum version:           0\n"));
        assert!(!ControlFile::decode(data).unwrap().has_checksums());
        let mut switching = ControlFile::decode(CAPTURED[13].2).unwrap();
        assert!(switching.has_checksums());
        // `inprogress-off` and `inprogress-on` of the betas.
        for version in [2, 3] {
            switching.checksum_version = version;
            assert!(!switching.has_checksums());
        }
    }

    #[test]
    fn the_segments_of_an_slru_have_one_size() {
        let mut bytes = CAPTURED[13].2.to_vec();
        bytes[232..236].copy_from_slice(&64_u32.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..308]);
        bytes[308..312].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(
            ControlFile::decode(&bytes),
            Err(bad_field("slru_pages_per_segment", 64))
        );
    }

    #[test]
    fn impossible_values_are_refused_by_field() {
        for (offset, field, value) in [
            (16, "state", 7),
            (172, "wal_level", 3),
            (216, "blcksz", 8191),
            (216, "blcksz", 65536),
            (220, "relseg_size", 0),
            (224, "xlog_blcksz", 0),
            (228, "xlog_seg_size", 1 << 31),
        ] {
            assert_eq!(
                ControlFile::decode(&with_u32(offset, value)),
                Err(bad_field(field, value))
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(ControlFile::decode(&bytes).is_err());
            prop_assert!(poison_checkpoint(&mut bytes).is_err());
        }

        #[test]
        fn any_content_with_a_good_checksum_is_survived(
            mut bytes in proptest::collection::vec(any::<u8>(), DATA_BYTES),
            which in 0..LAYOUTS.len(),
        ) {
            let layout = &LAYOUTS[which];
            bytes[8..12].copy_from_slice(&layout.control_version.to_le_bytes());
            let crc = crc32c::crc32c(&bytes[..layout.crc_offset]);
            bytes[layout.crc_offset..layout.crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
            let decoded = ControlFile::decode(&bytes);
            let plain = matches!(decoded, Ok(_) | Err(ControlError::BadField { .. }));
            prop_assert!(plain);
        }

        #[test]
        fn every_flipped_bit_and_every_cut_is_noticed(
            which in 0..CAPTURED.len(), bit in 0..DATA_BYTES * 8, cut in 0..DATA_BYTES,
        ) {
            let (major, _, data, _) = CAPTURED[which];
            let mut bytes = data.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // Where the checksum ends.
            let covered = match major {
                ..18 => 292,
                18 => 296,
                _ => 312,
            };
            prop_assert_eq!(ControlFile::decode(&bytes).is_err(), bit < covered * 8);
            prop_assert!(ControlFile::decode(&data[..cut]).is_err());
        }
    }
}
