//! The text that ends a backup: backup_label.
//!
//! It is written by `build_backup_content` (`src/backend/access/transam/xlogbackup.c`; in 13 and 14
//! `do_pg_start_backup` in `xlog.c`) and read by `read_backup_label`
//! (`src/backend/access/transam/xlogrecovery.c`). Here it is only ever read, never made: it goes to
//! the target byte for byte as the server gave it. The tablespace_map that comes with it is not used:
//! see `plan::tablespaces`.

use serde::{Deserialize, Serialize};

use super::lsn::Lsn;
use super::timeline::TimelineId;

/// What a backup_label says, and the label itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupLabel {
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// The first segment that replay needs: 24 hexadecimal digits.
    pub start_segment: String,
    /// The timeline of that segment.
    pub start_timeline: TimelineId,
    /// Where the record of the checkpoint lies that replay begins with.
    pub checkpoint: Lsn,
    /// `streamed` for a backup of a running server.
    pub method: Option<String>,
    /// Whether the backup was taken from a standby: then the copied control file's minimum recovery
    /// point is its end.
    pub from_standby: bool,
    /// When the backup began, in the server's words and time zone; for people only.
    pub start_time: Option<String>,
    /// What the one who took the backup called it.
    pub label: Option<String>,
    /// Whether this is an incremental backup's label (17 and later), with which no server starts.
    pub is_incremental: bool,
    /// The label as it was read.
    pub bytes: Vec<u8>,
}

/// Why a text is no backup_label that a server would start from. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("line {line} of the backup label does not begin with \"{expected}\"")]
    MissingLine { line: usize, expected: &'static str },
    #[error("line {line} of the backup label is not as PostgreSQL writes it: \"{text}\"")]
    BadLine { line: usize, text: String },
    #[error("the backup label starts on timeline {file} and says that it is timeline {stated}")]
    TimelineMismatch {
        file: TimelineId,
        stated: TimelineId,
    },
}

/// What pg_reseed calls its backups, in front of the source's host.
const OURS: &str = "pg_reseed rebuild from ";

/// What a backup of the server on `host` is called.
#[must_use]
pub fn text(host: &str) -> String {
    // The server takes 1024 bytes (`xlog.c:do_pg_backup_start`).
    let host = host.chars().filter(|letter| !letter.is_control());
    OURS.chars().chain(host.take(200)).collect()
}

const START: &str = "START WAL LOCATION: ";
const CHECKPOINT: &str = "CHECKPOINT LOCATION: ";

impl BackupLabel {
    /// The source's host, if pg_reseed took the backup and knew it.
    #[must_use]
    pub fn source_host(&self) -> Option<&str> {
        let host = self.label.as_deref()?.strip_prefix(OURS)?;
        (!host.is_empty()).then_some(host)
    }

    /// Parses a backup_label.
    ///
    /// # Errors
    /// [`LabelError`] where the server would refuse the label, and where the last line is cut off;
    /// but an incremental backup's label is read, and told by its flag. Lines of unknown kinds are
    /// passed over.
    pub fn parse(bytes: &[u8]) -> Result<Self, LabelError> {
        let text = String::from_utf8_lossy(bytes);
        if let Some((line, cut_off)) = text.split('\n').enumerate().last()
            && !cut_off.is_empty()
        {
            let (line, text) = (line + 1, cut_off.to_owned());
            return Err(LabelError::BadLine { line, text });
        }
        let mut lines = text.split_terminator('\n').enumerate();
        let mut location = |line: usize, expected: &'static str| {
            let text = lines.next().map(|(_, text)| text).unwrap_or_default();
            let rest = text
                .strip_prefix(expected)
                .ok_or(LabelError::MissingLine { line, expected })?;
            Ok((text.to_owned(), rest.to_owned()))
        };
        let (text, rest) = location(1, START)?;
        let (start_lsn, start_segment, start_timeline) =
            start_of(&rest).ok_or(LabelError::BadLine { line: 1, text })?;
        let (text, rest) = location(2, CHECKPOINT)?;
        let checkpoint = Lsn::parse(&rest).map_err(|_| LabelError::BadLine { line: 2, text })?;
        let mut label = Self {
            start_lsn,
            start_segment,
            start_timeline,
            checkpoint,
            method: None,
            from_standby: false,
            start_time: None,
            label: None,
            is_incremental: false,
            bytes: bytes.to_vec(),
        };
        for (index, text) in lines {
            label.take_line(index + 1, text)?;
        }
        Ok(label)
    }

    /// Takes a line behind the first two.
    fn take_line(&mut self, line: usize, text: &str) -> Result<(), LabelError> {
        let Some((key, value)) = text.split_once(": ") else {
            return Ok(());
        };
        match key {
            "BACKUP METHOD" => self.method = Some(value.to_owned()),
            // 13 says "master" where others say "primary"; the server asks for "standby" only.
            "BACKUP FROM" => self.from_standby = value == "standby",
            "START TIME" => self.start_time = Some(value.to_owned()),
            "LABEL" => self.label = Some(value.to_owned()),
            "INCREMENTAL FROM LSN" | "INCREMENTAL FROM TLI" => self.is_incremental = true,
            "START TIMELINE" => {
                let stated = value
                    .parse()
                    .map(TimelineId)
                    .map_err(|_| LabelError::BadLine {
                        line,
                        text: text.to_owned(),
                    })?;
                let file = self.start_timeline;
                if stated != file {
                    return Err(LabelError::TimelineMismatch { file, stated });
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// `0/2000028 (file 000000010000000000000002)`
fn start_of(text: &str) -> Option<(Lsn, String, TimelineId)> {
    let (lsn, rest) = text.split_once(" (file ")?;
    let name = rest.strip_suffix(')')?;
    let is_hex = name.len() == 24 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if !is_hex {
        return None;
    }
    let timeline = u32::from_str_radix(name.get(..8)?, 16).ok()?;
    Some((Lsn::parse(lsn).ok()?, name.to_owned(), TimelineId(timeline)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    macro_rules! captured {
        ($($major:literal),*) => {
            [$(
                (
                    include_str!(concat!("../../tests/it/data/pg/backup_label.", $major, ".production")),
                    include_str!(concat!("../../tests/it/data/pg/backup_label.", $major, ".standby")),
                )
            ),*]
        };
    }

    const CAPTURED: [(&str, &str); 7] = captured!(13, 14, 15, 16, 17, 18, 19);

    #[test]
    fn labels_of_all_majors_are_read() {
        for (primary, standby) in CAPTURED {
            for (text, from_standby, name) in [(primary, false, "x"), (standby, true, "s")] {
                let label = BackupLabel::parse(text.as_bytes()).unwrap();
                assert_eq!(label.bytes, text.as_bytes());
                assert_eq!(label.from_standby, from_standby, "{text}");
                assert_eq!(label.method.as_deref(), Some("streamed"));
                assert_eq!(label.label.as_deref(), Some(name));
                assert_eq!(label.start_timeline, TimelineId(1));
                assert!(Lsn::INVALID < label.start_lsn && label.start_lsn < label.checkpoint);
                assert!(label.start_time.unwrap().ends_with(" UTC"));
                assert!(!label.is_incremental);
                // From 19 on, the lower half of an LSN has its leading zeros.
                let line = text.lines().next().unwrap().replace("0/0", "0/");
                assert_eq!(
                    line,
                    format!(
                        "START WAL LOCATION: {} (file {})",
                        label.start_lsn, label.start_segment
                    )
                );
            }
        }
        assert!(CAPTURED[0].0.contains("BACKUP FROM: master\n"));
    }

    #[test]
    fn what_the_server_refuses_is_refused() {
        let good = CAPTURED[2].0;
        let parse = |text: &str| BackupLabel::parse(text.as_bytes()).unwrap_err();
        assert_eq!(
            parse(""),
            LabelError::MissingLine {
                line: 1,
                expected: "START WAL LOCATION: "
            }
        );
        assert_eq!(
            parse(good.split_inclusive('\n').next().unwrap()).to_string(),
            "line 2 of the backup label does not begin with \"CHECKPOINT LOCATION: \""
        );
        for (from, to, line) in [
            ("(file 0000000", "(file 000000", 1),
            ("(file", "[file", 1),
            ("START WAL LOCATION: 0/", "START WAL LOCATION: 0", 1),
            ("CHECKPOINT LOCATION: 0/", "CHECKPOINT LOCATION: x/", 2),
            ("TIMELINE: 1", "TIMELINE: one", 7),
            ("TIMELINE: 1\n", "TIMELI", 7),
        ] {
            match parse(&good.replace(from, to)) {
                LabelError::BadLine { line: found, .. } => assert_eq!(found, line, "{to}"),
                other => panic!("{to}: {other}"),
            }
        }
        assert_eq!(
            parse(&good.replace("TIMELINE: 1", "TIMELINE: 2")).to_string(),
            "the backup label starts on timeline 1 and says that it is timeline 2"
        );
        // The server wants its own line ends.
        assert!(BackupLabel::parse(good.replace('\n', "\r\n").as_bytes()).is_err());
    }

    #[test]
    fn an_incremental_backup_is_told() {
        let text = format!(
            "{}INCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 1\n",
            CAPTURED[5].0
        );
        assert!(BackupLabel::parse(text.as_bytes()).unwrap().is_incremental);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = BackupLabel::parse(&bytes);
        }

        #[test]
        fn damaged_labels_are_survived(at: usize, byte: u8, cut: usize) {
            let mut bytes = CAPTURED[3].1.as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut % (bytes.len() + 1));
            if let Ok(label) = BackupLabel::parse(&bytes) {
                prop_assert_eq!(label.bytes, bytes);
            }
        }
    }
}
