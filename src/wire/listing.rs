//! The manifest on the wire: parts of bounded size, each of which stands for itself.
//!
//! Most of a manifest are names that begin like the one before and sizes that are whole pages, so a part says
//! of each entry only how its name differs from the one before: five or six bytes, before the body is packed.
//!
//! A part is a row of items; numbers are varints. Each item begins with the length of its new bytes, times 4,
//! plus what it is (`Tag`), then how many bytes it shares with the one before, then the new bytes, then a
//! file's size. A part begins at the top directory.

use crate::geometry::EntryId;
use crate::manifest::{EntryKind, Folder, Item, ListingError, Manifest};
use crate::path::RelPath;

/// Most bytes of names and of directories' paths in a part, with `ITEM_BYTES` for each of both: bounds what
/// the encoded part takes on the wire, and the decoded one in memory.
pub const PART_BYTES: usize = 1024 * 1024;

/// Most parts of a manifest: fifty million files and more.
pub const PARTS_MAX: u32 = 1024;

/// More than the encoding of an item takes beside its name, and about what the item takes in memory.
const ITEM_BYTES: usize = 24;

/// Sizes are counted in these where they can be.
const PAGE_BYTES: u64 = 8192;

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// A file of whole pages; their number follows.
    Pages = 0,
    /// A file; its size follows.
    Bytes = 1,
    Directory = 2,
    /// Not an entry: the path of the directory that those behind it are in.
    Enter = 3,
}

/// A part does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    #[error("a part of the manifest does not decode")]
    Malformed,
    #[error("a part of the manifest is longer than allowed")]
    TooLong,
    #[error(transparent)]
    Listing(#[from] ListingError),
}

/// Cuts a manifest into parts: the first entry of each. There is at least one part.
#[must_use]
pub fn part_starts(manifest: &Manifest) -> Vec<EntryId> {
    let mut starts = vec![EntryId(0)];
    let mut bytes = 0;
    let mut inside: Option<&RelPath> = None;
    for item in manifest.iter() {
        let mut cost = cost(item.name);
        if item.directory != inside {
            cost += item.directory.map_or(0, |path| self::cost(path.as_bytes()));
        }
        if bytes + cost > PART_BYTES {
            starts.push(item.id);
            bytes = 0;
            // The part says again where it is.
            cost = self::cost(item.name)
                + item.directory.map_or(0, |path| self::cost(path.as_bytes()));
        }
        inside = item.directory;
        bytes += cost;
    }
    starts
}

fn cost(name: &[u8]) -> usize {
    name.len() + ITEM_BYTES
}

/// Encodes entries that stand behind each other in a list.
#[must_use]
pub fn encode<'a>(items: impl Iterator<Item = Item<'a, EntryKind>>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut inside: Option<&RelPath> = None;
    let mut last: &[u8] = b"";
    for item in items {
        if item.directory != inside {
            let before = inside.map_or(&b""[..], RelPath::as_bytes);
            let path = item.directory.map_or(&b""[..], RelPath::as_bytes);
            name(&mut out, Tag::Enter, before, path);
            inside = item.directory;
            last = b"";
        }
        match (item.kind, item.size) {
            (EntryKind::Directory, _) => name(&mut out, Tag::Directory, last, item.name),
            (EntryKind::File, size) if size.is_multiple_of(PAGE_BYTES) => {
                name(&mut out, Tag::Pages, last, item.name);
                number(&mut out, size / PAGE_BYTES);
            }
            (EntryKind::File, size) => {
                name(&mut out, Tag::Bytes, last, item.name);
                number(&mut out, size);
            }
        }
        last = item.name;
    }
    out
}

fn name(out: &mut Vec<u8>, tag: Tag, before: &[u8], name: &[u8]) {
    let shared = before.iter().zip(name).take_while(|(a, b)| a == b).count();
    let new = &name[shared..];
    number(out, (new.len() as u64) << 2 | tag as u64);
    number(out, shared as u64);
    out.extend_from_slice(new);
}

fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).expect("seven bits"));
}

/// Decodes a part, to be appended to those before it.
///
/// # Errors
/// The bytes are no part, or one of too many or impossible names, or out of order.
pub fn decode(bytes: &[u8]) -> Result<Vec<Folder<EntryKind>>, PartError> {
    let mut rest = bytes;
    let mut folders = Vec::new();
    let mut folder = Folder::new(None);
    let mut path = Vec::new();
    let mut last = Vec::new();
    let mut room = PART_BYTES;
    while !rest.is_empty() {
        let head = take_number(&mut rest)?;
        let is_path = head & 3 == Tag::Enter as u64;
        let text = if is_path { &mut path } else { &mut last };
        take_name(&mut rest, head >> 2, text)?;
        room = room.checked_sub(cost(text)).ok_or(PartError::TooLong)?;
        if is_path {
            let directory = RelPath::parse(&path).map_err(ListingError::from)?;
            folders.push(std::mem::replace(&mut folder, Folder::new(Some(directory))));
            last.clear();
        } else if head & 3 == Tag::Directory as u64 {
            folder.push(&last, EntryKind::Directory, 0)?;
        } else {
            let unit = if head & 3 == Tag::Pages as u64 {
                PAGE_BYTES
            } else {
                1
            };
            let size = take_number(&mut rest)?
                .checked_mul(unit)
                .ok_or(PartError::Malformed)?;
            folder.push(&last, EntryKind::File, size)?;
        }
    }
    folders.push(folder);
    Ok(folders)
}

/// Replaces what `text` does not share with the name to be read.
fn take_name(rest: &mut &[u8], new_bytes: u64, text: &mut Vec<u8>) -> Result<(), PartError> {
    let shared = usize::try_from(take_number(rest)?).map_err(|_| PartError::Malformed)?;
    let new_bytes = usize::try_from(new_bytes).map_err(|_| PartError::Malformed)?;
    if shared > text.len() {
        return Err(PartError::Malformed);
    }
    let (new, behind) = rest
        .split_at_checked(new_bytes)
        .ok_or(PartError::Malformed)?;
    text.truncate(shared);
    text.extend_from_slice(new);
    *rest = behind;
    Ok(())
}

fn take_number(rest: &mut &[u8]) -> Result<u64, PartError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first().ok_or(PartError::Malformed)?;
        *rest = behind;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(PartError::Malformed);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(PartError::Malformed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::manifest::Listing;

    type Content = BTreeMap<Vec<Vec<u8>>, (bool, u64)>;

    fn manifest(content: &Content) -> Manifest {
        let mut folders: BTreeMap<Option<RelPath>, Folder<EntryKind>> = BTreeMap::new();
        for (path, (is_file, size)) in content {
            let (name, above) = path.split_last().unwrap();
            let directory = RelPath::parse(&above.join(&b'/')).ok();
            let folder = folders
                .entry(directory.clone())
                .or_insert_with(|| Folder::new(directory));
            let (kind, size) = if *is_file {
                (EntryKind::File, *size)
            } else {
                (EntryKind::Directory, 0)
            };
            folder.push(name, kind, size).unwrap();
        }
        Listing::from_folders(folders.into_values().collect()).unwrap()
    }

    fn content() -> impl Strategy<Value = Content> {
        let name = prop_oneof![
            prop::sample::select(vec!["base", "1", "16384", "16384_fsm", "16384.1", "16385"])
                .prop_map(|name| name.as_bytes().to_vec()),
            prop::collection::vec(1_u8..=255, 1..40).prop_filter("one component", |name| {
                !name.contains(&b'/') && !matches!(&name[..], b"." | b"..")
            }),
        ];
        let size = prop_oneof![
            0_u64..100_000,
            (0_u64..1000).prop_map(|pages| pages * PAGE_BYTES),
            any::<u64>()
        ];
        let path = prop::collection::vec(name, 1..4);
        prop::collection::btree_map(path, (any::<bool>(), size), 0..60)
    }

    fn shown(manifest: &Manifest) -> Vec<(String, EntryKind, u64)> {
        let items = manifest.iter();
        items
            .map(|item| (format!("{:?}", item.path()), item.kind, item.size))
            .collect()
    }

    fn joined(parts: impl IntoIterator<Item = Vec<u8>>) -> Manifest {
        let mut manifest = Manifest::default();
        for part in parts {
            for folder in decode(&part).unwrap() {
                manifest.append(folder).unwrap();
            }
        }
        manifest
    }

    proptest! {
        #[test]
        fn parts_round_trip_random(content in content(), cut in 0_u32..60) {
            let manifest = manifest(&content);
            let cut = cut.min(manifest.len());
            let parts = [
                encode(manifest.iter().take(cut as usize)),
                encode(manifest.iter_from(EntryId(cut))),
            ];
            prop_assert_eq!(shown(&joined(parts)), shown(&manifest));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        /// A bit flipped or an end cut off makes another list or none, and each of its paths is one.
        #[test]
        fn damage_never_panics(content in content(), at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut bytes = encode(manifest(&content).iter());
            prop_assume!(!bytes.is_empty());
            let _ = decode(&bytes[..at.index(bytes.len())]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let Ok(folders) = decode(&bytes) else { return Ok(()) };
            let mut manifest = Manifest::default();
            if folders.into_iter().try_for_each(|folder| manifest.append(folder)).is_ok() {
                for item in manifest.iter() {
                    prop_assert!(RelPath::parse(item.path().as_bytes()).is_ok());
                }
            }
        }
    }

    #[test]
    fn a_part_has_stable_bytes() {
        let entry = |path: &str, is_file, size| {
            let names = path.split('/').map(|name| name.as_bytes().to_vec());
            (names.collect(), (is_file, size))
        };
        let manifest = manifest(&Content::from([
            entry("PG_VERSION", true, 3),
            entry("base/5", false, 0),
            entry("base/5/16384", true, 8192),
            entry("base/5/16384_vm", true, 16384),
        ]));
        // A change of these bytes is a change of the protocol: raise PROTOCOL.
        assert_eq!(
            encode(manifest.iter()),
            b"\x29\0PG_VERSION\x03\x13\0base\x06\x005\x0b\x04/5\x14\x0016384\x01\x0c\x05_vm\x02"
        );
    }

    #[test]
    fn parts_are_bounded_and_small() {
        let mut folder = Folder::new(RelPath::parse(b"base/16384").ok());
        for number in 0..100_000_u32 {
            let name = format!("{number:07}_vm");
            folder.push(name.as_bytes(), EntryKind::File, 8192).unwrap();
        }
        let manifest = Manifest::from_folders(vec![folder]).unwrap();
        let starts = part_starts(&manifest);
        assert!(starts.len() > 2);
        let ends = starts[1..].iter().copied().chain([EntryId(manifest.len())]);
        let parts: Vec<_> = starts
            .iter()
            .zip(ends)
            .map(|(from, to)| {
                let count = (to.0 - from.0) as usize;
                encode(manifest.iter_from(*from).take(count))
            })
            .collect();
        let all: usize = parts.iter().map(Vec::len).sum();
        assert!(all < 900_000, "{all}");
        assert_eq!(joined(parts).len(), 100_000);
        assert_eq!(part_starts(&Manifest::default()), [EntryId(0)]);
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let part = |items: &[(Tag, usize, &[u8])]| {
            let mut out = Vec::new();
            for (tag, shared, new) in items {
                number(&mut out, (new.len() as u64) << 2 | *tag as u64);
                number(&mut out, *shared as u64);
                out.extend_from_slice(new);
            }
            out
        };
        for (why, items) in [
            (
                "shares what is not there",
                &[(Tag::Directory, 1, &b"x"[..])][..],
            ),
            ("leads up", &[(Tag::Directory, 0, b"..")]),
            ("leads up", &[(Tag::Enter, 0, b"base/../..")]),
            ("is absolute", &[(Tag::Enter, 0, b"/etc")]),
            ("is absolute", &[(Tag::Directory, 0, b"/etc")]),
            ("has a NUL", &[(Tag::Directory, 0, b"a\0b")]),
            ("is empty", &[(Tag::Directory, 0, b"")]),
            ("is the top", &[(Tag::Enter, 0, b"")]),
            (
                "is there twice",
                &[(Tag::Directory, 0, b"x"), (Tag::Directory, 1, b"")],
            ),
            (
                "goes back",
                &[(Tag::Directory, 0, b"x"), (Tag::Directory, 0, b"a")],
            ),
        ] {
            assert!(decode(&part(items)).is_err(), "{why}");
        }
        // Small on the wire, large in memory.
        let mut items = vec![(Tag::Enter, 0, [b'a'; 1000].to_vec())];
        items.extend((0..2000).map(|_| (Tag::Enter, 1000, Vec::new())));
        let items: Vec<_> = items
            .iter()
            .map(|(tag, shared, new)| (*tag, *shared, &new[..]))
            .collect();
        assert_eq!(decode(&part(&items)).unwrap_err(), PartError::TooLong);
    }
}
