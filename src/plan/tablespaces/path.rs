//! Paths as text, as PostgreSQL brings them into one form (`src/port/path.c`). No link is followed.

/// An absolute path without empty and `.` components, with `..` resolved in the text, and without a
/// slash at its end (`canonicalize_path` in `src/port/path.c`, as of 16).
#[must_use]
pub fn canonical(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let mut joined = Vec::with_capacity(path.len());
    for part in parts {
        joined.push(b'/');
        joined.extend_from_slice(part);
    }
    if joined.is_empty() {
        joined.push(b'/');
    }
    joined
}

/// Whether canonical path `inner` is `outer` or lies beneath it.
#[must_use]
pub fn is_inside(inner: &[u8], outer: &[u8]) -> bool {
    match inner.strip_prefix(outer) {
        Some(rest) => rest.is_empty() || rest[0] == b'/' || outer == b"/",
        None => false,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn canonical_paths_hold(path: &[u8]) {
        let once = canonical(path);
        assert_eq!(canonical(&once), once);
        assert!(once.starts_with(b"/"));
        assert!(once == b"/" || !once.ends_with(b"/"));
        assert!(is_inside(&once, b"/") && is_inside(&once, &once));
    }

    #[test]
    fn canonical_paths_cases() {
        for path in ["/", "//", "/..", "/a/../..", "/.", "/a/b/", "/..a/.b"] {
            canonical_paths_hold(path.as_bytes());
        }
        assert_eq!(canonical(b"/..a/.b"), b"/..a/.b");
        assert!(!is_inside(b"/ab", b"/a"));
        assert!(is_inside(b"/a/b", b"/a"));
        assert!(!is_inside(b"/a", b"/a/b"));
    }

    proptest! {
        #[test]
        fn canonical_paths_random(path in "/[./a]{0,20}") {
            canonical_paths_hold(path.as_bytes());
        }
    }
}
