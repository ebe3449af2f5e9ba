//! Figures and paths as people read them in messages.

use std::fmt;

/// Bytes with PostgreSQL's units (`pg_size_pretty`: 1 kB is 1024 bytes), one decimal below ten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
        if self.0 == 1 {
            return write!(f, "1 byte");
        }
        if self.0 < 1024 {
            return write!(f, "{} bytes", self.0);
        }
        // Tenths in whole numbers: 999.95 must not become "1000.0".
        let mut tenths = u128::from(self.0) * 10 / 1024;
        let mut unit = 0;
        while tenths >= 10_240 && unit + 1 < UNITS.len() {
            tenths /= 1024;
            unit += 1;
        }
        if tenths < 100 && tenths % 10 != 0 {
            write!(f, "{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
        } else {
            write!(f, "{} {}", tenths / 10, UNITS[unit])
        }
    }
}

/// A path or another name of bytes, replaced where it is not UTF-8.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A message made the beginning of a sentence.
#[must_use]
pub fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

/// Most names that a message shows of a list.
pub const SHOWN: usize = 5;

/// A few names in double quotes, and how many more there are.
#[must_use]
pub fn some_of(names: &[String]) -> String {
    let mut line = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("\"{name}\""))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        line = format!("{line} and {} more", names.len() - SHOWN);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_as_postgresql_writes_them() {
        for (bytes, words) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1 kB"),
            (1536, "1.5 kB"),
            (1_258_291, "1.1 MB"),
            (16 << 20, "16 MB"),
            (1 << 30, "1 GB"),
            (u64::MAX, "15 EB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), words);
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..7).map(|n| n.to_string()).collect();
        assert_eq!(
            some_of(&names),
            "\"0\", \"1\", \"2\", \"3\", \"4\" and 2 more"
        );
        assert_eq!(some_of(&names[..1]), "\"0\"");
    }
}
