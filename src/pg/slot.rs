//! A replication slot on disk: `pg_replslot/<name>/state`.
//!
//! The layout is PostgreSQL's `slot.c:ReplicationSlotOnDisk` with `slot.h:ReplicationSlotPersistentData`; where the
//! plugin's name stands depends on the length, which grew in 14 (two-phase decoding). Seen on files of 13 to 19.

use crate::pg::lsn::Lsn;

/// `slot.c:SLOT_MAGIC`.
const MAGIC: u32 = 0x0105_1CA1;
/// What the checksum leaves out: the magic number and itself.
const HEAD_BYTES: usize = 8;
/// Magic, checksum, version and length; what follows has that length.
const FIXED_BYTES: usize = 16;
const DATABASE: usize = 0x50;
const PERSISTENCY: usize = 0x54;
const RESTART_LSN: usize = 0x60;
/// `NAMEDATALEN`.
const NAME_BYTES: usize = 64;
/// The length of what follows, and where in the file the plugin's name stands: 13, and since 14.
const PLUGIN: [(u32, usize); 2] = [(0xA8, 0x78), (0xB8, 0x81)];
/// Whether the slot is a copy of one on the primary: 17 and later, zero before.
const SYNCED: usize = 0xC1;

/// Longest state file.
pub const STATE_MAX_BYTES: u64 = 4096;

/// What a state file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    pub name: String,
    /// The database of a logical slot; `None` for a physical one.
    pub database: Option<u32>,
    /// The output plugin of a logical slot.
    pub plugin: Option<String>,
    /// The WAL that it keeps begins here; `None` for one that keeps none.
    pub restart_lsn: Option<Lsn>,
    /// Others do not outlive their session: a server removes them when it starts (`slot.c:RestoreSlotFromDisk`).
    pub is_persistent: bool,
    /// It is a standby's copy of a slot on its primary, which comes again by itself.
    pub is_synced: bool,
}

impl SlotState {
    /// Reads a state file; `None` when it is none, is damaged, or has a layout that is not known.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let text = |at: usize| {
            let name = bytes.get(at..at + NAME_BYTES)?;
            let end = name.iter().position(|byte| *byte == 0)?;
            Some(String::from_utf8_lossy(&name[..end]).into_owned())
        };
        let length = word(12)?;
        let end = FIXED_BYTES.checked_add(usize::try_from(length).ok()?)?;
        let covered = bytes.get(HEAD_BYTES..end)?;
        if word(0)? != MAGIC || word(4)? != crc32c::crc32c(covered) {
            return None;
        }
        let (_, plugin) = PLUGIN.iter().find(|(known, _)| *known == length)?;
        let restart_lsn = bytes.get(RESTART_LSN..RESTART_LSN + 8)?;
        let restart_lsn = Lsn(u64::from_le_bytes(restart_lsn.try_into().ok()?));
        Some(Self {
            name: text(FIXED_BYTES)?,
            database: word(DATABASE).filter(|oid| *oid != 0),
            plugin: text(*plugin).filter(|name| !name.is_empty()),
            restart_lsn: Some(restart_lsn).filter(|lsn| *lsn != Lsn::INVALID),
            is_persistent: word(PERSISTENCY)? == 0,
            is_synced: bytes.get(SYNCED).is_some_and(|flag| *flag == 1),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A state file as a server of that version and length writes it.
    fn state(version: u32, length: u32, plugin_at: usize, database: u32) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_BYTES + length as usize];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        bytes[16..20].copy_from_slice(b"logi");
        bytes[DATABASE..DATABASE + 4].copy_from_slice(&database.to_le_bytes());
        bytes[RESTART_LSN..RESTART_LSN + 8].copy_from_slice(&0x150_07C8_u64.to_le_bytes());
        if database > 0 {
            bytes[plugin_at..plugin_at + 8].copy_from_slice(b"pgoutput");
        }
        seal(&mut bytes);
        bytes
    }

    fn seal(bytes: &mut [u8]) {
        let crc = crc32c::crc32c(&bytes[HEAD_BYTES..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn slots_of_all_majors_are_read() {
        // Version and length as files of 13, of 14 and 15, of 16, and of 17 and 18 have them.
        for (version, length, plugin_at) in [
            (2, 0xA8, 0x78),
            (2, 0xB8, 0x81),
            (3, 0xB8, 0x81),
            (5, 0xB8, 0x81),
        ] {
            let logical = SlotState::decode(&state(version, length, plugin_at, 5)).unwrap();
            assert_eq!(
                logical,
                SlotState {
                    name: "logi".to_owned(),
                    database: Some(5),
                    plugin: Some("pgoutput".to_owned()),
                    restart_lsn: Some(Lsn(0x150_07C8)),
                    is_persistent: true,
                    is_synced: false,
                },
                "{version} {length}"
            );
            let physical = SlotState::decode(&state(version, length, plugin_at, 0)).unwrap();
            assert_eq!((physical.database, physical.plugin), (None, None));
        }
    }

    #[test]
    fn a_copy_of_the_primarys_and_one_that_ends_with_its_session_are_told_apart() {
        let mut bytes = state(5, 0xB8, 0x81, 5);
        bytes[SYNCED] = 1;
        bytes[PERSISTENCY] = 2;
        seal(&mut bytes);
        let slot = SlotState::decode(&bytes).unwrap();
        assert!(slot.is_synced && !slot.is_persistent);
    }

    #[test]
    fn a_damaged_file_is_not_believed() {
        let whole = state(5, 0xB8, 0x81, 5);
        for byte in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[byte] ^= 1;
            assert_eq!(SlotState::decode(&damaged), None, "{byte}");
        }
        assert_eq!(SlotState::decode(&whole[..100]), None);
        assert_eq!(SlotState::decode(b""), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, length: u32) {
            let _ = SlotState::decode(&bytes);
            let mut headed = MAGIC.to_le_bytes().to_vec();
            headed.extend([0; 8]);
            headed.extend(length.to_le_bytes());
            headed.extend(bytes);
            let _ = SlotState::decode(&headed);
        }
    }
}
