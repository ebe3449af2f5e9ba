//! What to do about a file call that failed, by the reason that the system gave.

use std::io::{Error, ErrorKind};

/// A sentence or two for whoever looks after the host; `None` where nothing but another try is known.
#[must_use]
pub fn of(error: &Error) -> Option<&'static str> {
    Some(match error.kind() {
        ErrorKind::StorageFull => {
            "Make room on that file system: df tells of bytes, df -i of inodes."
        }
        ErrorKind::QuotaExceeded => "Raise the user's quota on that file system, or make room.",
        ErrorKind::ReadOnlyFilesystem => {
            "Mount that file system for writing. One that the kernel has turned read-only has a fault: its log (dmesg) \
             tells."
        }
        ErrorKind::PermissionDenied => {
            "Give the user that runs pg_reseed the right to it: its owner, its mode, and those of the directories above."
        }
        ErrorKind::FileTooLarge => {
            "Raise the limit on the size of files: ulimit -f, or what the file system allows."
        }
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::AlreadyExists
        | ErrorKind::DirectoryNotEmpty => "Find out what else works in that directory, and end it.",
        _ => return of_number(error.raw_os_error()?),
    })
}

/// By Linux's number, where the kind has no name.
fn of_number(number: i32) -> Option<&'static str> {
    const EIO: i32 = 5;
    const EUCLEAN: i32 = 117;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    Some(match number {
        EIO | EUCLEAN => {
            "The disk or its file system reports a fault: look at the kernel's log (dmesg), and mend it before anything \
             else."
        }
        ENFILE | EMFILE => "Raise the limit on open files (ulimit -n), or lower --jobs.",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_remedy_and_a_signal_has_none() {
        let of = |number| of(&Error::from_raw_os_error(number));
        for (number, word) in [
            (28, "Make room"),
            (122, "quota"),
            (30, "for writing"),
            (13, "the right"),
            (1, "the right"),
            (27, "ulimit -f"),
            (2, "what else"),
            (17, "what else"),
            (39, "what else"),
            (5, "dmesg"),
            (117, "dmesg"),
            (24, "ulimit -n"),
        ] {
            assert!(
                of(number).is_some_and(|text| text.contains(word)),
                "{number}"
            );
        }
        assert_eq!(of(4), None);
    }
}
