//! Reads and writes that leave nothing in the page cache.

use std::fs::File;
use std::num::NonZeroU64;
use std::sync::OnceLock;

use rustix::fs::Advice;
use rustix::io::ReadWriteFlags;

/// `RWF_DONTCACHE` (`include/uapi/linux/fs.h`): pages that a read brings in go when it is done, read-ahead
/// included, and pages that were there stay; what is written is on its way to the disk at once, and goes from memory
/// when it is there.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// From this version of Linux on it is used. It came with 6.14, but only 6.16 takes care that a page which a server
/// has changed meanwhile, and which is on its way to the disk, is not dropped (`mm/filemap.c`,
/// `filemap_end_dropbehind`): a source's files are no place to find out.
const SINCE: (u32, u32) = (6, 16);

/// The flag, where the kernel is to be trusted with it. The file system may refuse it nevertheless.
pub(super) fn flag() -> Option<ReadWriteFlags> {
    static TRUSTED: OnceLock<bool> = OnceLock::new();
    TRUSTED
        .get_or_init(|| {
            let name = rustix::system::uname();
            name.sysname().to_bytes() == b"Linux"
                && version(&name.release().to_string_lossy()).is_some_and(|found| found >= SINCE)
        })
        .then_some(DONTCACHE)
}

/// Drops a part of the file from memory where the flag cannot be had; what waits to be written there is begun with
/// instead (Linux `mm/fadvise.c`). Only advice.
pub(super) fn let_go(file: &File, offset: u64, bytes: u64) {
    // No bytes would mean all up to the end.
    if let Some(bytes) = NonZeroU64::new(bytes) {
        let _ = rustix::fs::fadvise(file, offset, Some(bytes), Advice::DontNeed);
    }
}

/// Major and minor number of a release such as `6.18.44-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for (release, is_trusted) in [
            ("6.18.44-fc-v445", true),
            ("6.16.0", true),
            ("7.0-rc1", true),
            ("6.15.9", false),
            ("6.9.1", false),
            ("5.10.0-28-amd64", false),
        ] {
            assert_eq!(version(release) >= Some(SINCE), is_trusted, "{release}");
        }
        assert_eq!(version("strange"), None);
    }
}
