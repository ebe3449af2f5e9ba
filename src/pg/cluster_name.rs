//! Names of clusters as Debian's postgresql-common has them: version and name (`PgCommon.pm`).

use std::path::Path;
use std::str::FromStr;

/// The name of a cluster, as in `15/main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterName {
    pub version: String,
    pub name: String,
}

/// The text is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use VERSION/NAME, such as 15/main")]
pub struct NotAClusterName;

impl FromStr for ClusterName {
    type Err = NotAClusterName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (version, name) = text.split_once('/').ok_or(NotAClusterName)?;
        let is_number = version.starts_with(|c: char| c.is_ascii_digit())
            && version.bytes().all(|c| c.is_ascii_digit() || c == b'.');
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
        let is_name = name.bytes().all(is_plain)
            && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if is_number && is_name {
            Ok(Self {
                version: version.to_owned(),
                name: name.to_owned(),
            })
        } else {
            Err(NotAClusterName)
        }
    }
}

impl std::fmt::Display for ClusterName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.with('/'))
    }
}

impl ClusterName {
    /// The cluster whose configuration is in `directory`, if its path ends as postgresql-common's do.
    #[must_use]
    pub fn of_directory(directory: &Path) -> Option<Self> {
        let name = directory.file_name()?.to_str()?;
        let version = directory.parent()?.file_name()?.to_str()?;
        format!("{version}/{name}").parse().ok()
    }

    /// Both parts with a character between them.
    #[must_use]
    pub fn with(&self, between: char) -> String {
        format!("{}{between}{}", self.version, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_version_and_name() {
        for (text, version, name) in [("15/main", "15", "main"), ("9.6/a-b.c", "9.6", "a-b.c")] {
            let found: ClusterName = text.parse().unwrap();
            assert_eq!((&*found.version, &*found.name), (version, name));
            assert_eq!(found.to_string(), text);
        }
        for text in [
            "main", "15/", "/main", "15/../x", "15/.x", "x/main", "../main", "15/a/b", "15/a b", "",
        ] {
            assert_eq!(text.parse::<ClusterName>(), Err(NotAClusterName), "{text}");
        }
    }

    #[test]
    fn directories_of_clusters_are_known_by_their_ends() {
        let of = |path: &str| ClusterName::of_directory(Path::new(path)).map(|name| name.with('-'));
        assert_eq!(of("/etc/postgresql/15/main"), Some("15-main".to_owned()));
        assert_eq!(of("/srv/9.6/x_1"), Some("9.6-x_1".to_owned()));
        for path in [
            "/etc/postgresql/main",
            "/15",
            "/",
            "15/a b",
            "/x/15/main/..",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
