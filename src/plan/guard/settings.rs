//! What the standby would have less of than the source, and whose server its configuration makes.

use crate::facts::FileIdentity;
use crate::plan::refusal::Refusal;
use crate::plan::settings::TooLow;

/// Judges what the target's configuration gives to the standby.
///
/// # Errors
/// It is less than the source has.
pub fn settings(settings: Vec<TooLow>) -> Result<(), Refusal> {
    if settings.is_empty() {
        Ok(())
    } else {
        Err(Refusal::SettingsTooLow { settings })
    }
}

/// A directory: which one, if it exists, and its path without links as far as it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub identity: Option<FileIdentity>,
    pub path: String,
}

impl Location {
    fn is(&self, other: &Self) -> bool {
        match (self.identity, other.identity) {
            (Some(this), Some(other)) => this == other,
            // A target that has to be made.
            (None, None) => self.path == other.path,
            _ => false,
        }
    }
}

/// The data directory that a configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredDirectory {
    /// As it stands there.
    pub text: String,
    pub file: String,
    pub location: Location,
}

/// Judges whether the server of the target's configuration works in the target: by what the directory is, whatever
/// its name.
///
/// # Errors
/// It works elsewhere.
pub fn serves(
    pgdata: &str,
    target: &Location,
    configured: Option<&ConfiguredDirectory>,
) -> Result<(), Refusal> {
    match configured {
        Some(found) if !found.location.is(target) => Err(Refusal::ServesElsewhere {
            pgdata: pgdata.to_owned(),
            data_directory: found.text.clone(),
            place: found.location.path.clone(),
            file: found.file.clone(),
        }),
        _ => Ok(()),
    }
}

/// Judges the content of files that a server cannot do without.
///
/// # Errors
/// Some have none: nothing but white space and what a file system gives for blocks that were never written.
pub fn empty_configuration<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), Refusal> {
    let has_nothing = |text: &[u8]| {
        text.iter()
            .all(|byte| byte.is_ascii_whitespace() || *byte == 0)
    };
    let files: Vec<String> = files
        .into_iter()
        .filter(|(_, text)| has_nothing(text))
        .map(|(name, _)| name.to_owned())
        .collect();
    if files.is_empty() {
        Ok(())
    } else {
        Err(Refusal::EmptyConfiguration { files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::samples::identity;

    fn location(inode: Option<u64>, path: &str) -> Location {
        Location {
            identity: inode.map(identity),
            path: path.to_owned(),
        }
    }

    #[test]
    fn the_directory_counts_and_not_its_name() {
        let judged = |target: Location, found: Location| {
            let configured = ConfiguredDirectory {
                text: "x".to_owned(),
                file: "c".to_owned(),
                location: found,
            };
            serves("/a", &target, Some(&configured)).is_ok()
        };
        assert!(judged(
            location(Some(1), "/a"),
            location(Some(1), "/b/bind mount")
        ));
        assert!(!judged(location(Some(1), "/a"), location(Some(2), "/a")));
        assert!(!judged(location(Some(1), "/a"), location(None, "/a")));
        assert!(!judged(location(None, "/a"), location(Some(1), "/b")));
        assert!(judged(location(None, "/a"), location(None, "/a")));
        assert!(!judged(location(None, "/a"), location(None, "/b")));
        assert!(serves("/a", &location(Some(1), "/a"), None).is_ok());
    }

    #[test]
    fn files_without_content_are_named() {
        let refusal = empty_configuration([
            ("a", &b"# a comment\n"[..]),
            ("b", b""),
            ("c", b"\0\0\n \t"),
        ])
        .unwrap_err();
        assert_eq!(
            refusal,
            Refusal::EmptyConfiguration {
                files: vec!["b".to_owned(), "c".to_owned()]
            }
        );
        assert!(empty_configuration([("a", &b"local all all trust"[..])]).is_ok());
    }
}
