//! What becomes of the source's configuration files that come with its data directory: what names the source's own
//! place names the target's, or goes. Two servers on one host would otherwise share a data directory.

use std::path::{Path, PathBuf};

use crate::pg::conf::{self, Directive, Edit, KEY_FILES};

/// Settings whose values are paths that may lie in the data directory, beside those of [`KEY_FILES`].
const PATHS: [&str; 5] = [
    "hba_file",
    "ident_file",
    "external_pid_file",
    "log_directory",
    "stats_temp_directory",
];

/// Settings that a server cannot start without, where they name a file.
const MUST_EXIST: [&str; 2] = ["hba_file", "ident_file"];

/// From where to where the files have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Data directory of the source, by all names that are known of it: absolute.
    pub sources: Vec<PathBuf>,
    pub pgdata: PathBuf,
    /// Both are on one host, where each server needs a file of its own.
    pub shares_host: bool,
}

/// A file's text as it must be here, and what to say about it in sentences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    pub text: Vec<u8>,
    pub remarks: Vec<String>,
}

impl Home {
    /// The path here of a path in the source's data directory.
    fn moved(&self, value: &str) -> Option<String> {
        let value = Path::new(value);
        let mut below = self
            .sources
            .iter()
            .filter_map(|source| value.strip_prefix(source).ok());
        let below = below.next()?;
        let moved = if below.as_os_str().is_empty() {
            self.pgdata.clone()
        } else {
            self.pgdata.join(below)
        };
        Some(moved.display().to_string())
    }

    /// Adapts a configuration file.
    #[must_use]
    pub fn adopted(&self, text: &[u8]) -> Adopted {
        let mut remarks = Vec::new();
        let text = conf::edit(text, |directive| {
            let (edit, remark) = match directive {
                Directive::Include(path) => self.path("include", path),
                Directive::IncludeIfExists(path) => self.path("include_if_exists", path),
                Directive::IncludeDir(path) => self.path("include_dir", path),
                Directive::Setting { name, value } => self.setting(name, value),
            };
            remarks.extend(remark);
            edit
        });
        Adopted { text, remarks }
    }

    fn setting(&self, name: &str, value: &str) -> (Edit, Option<String>) {
        let says = || format!("The source's configuration sets {name} to \"{value}\"");
        match name {
            "data_directory" => (
                Edit::Remove,
                Some(format!("{}: that line was left out here.", says())),
            ),
            "external_pid_file"
                if self.shares_host && !value.is_empty() && self.moved(value).is_none() =>
            {
                (
                    Edit::Remove,
                    Some(format!(
                        "{}, which is the source's own: that line was left out here.",
                        says()
                    )),
                )
            }
            _ if PATHS.contains(&name) || KEY_FILES.contains(&name) => {
                let (edit, remark) = self.path(name, value);
                let is_there = value.starts_with('/') && self.moved(value).is_none();
                let must = is_there && (MUST_EXIST.contains(&name) || KEY_FILES.contains(&name));
                let other = if must {
                    Some(format!("{}, which must exist on this host.", says()))
                } else if is_there && name == "external_pid_file" {
                    Some(format!("{}, which must be writable on this host.", says()))
                } else {
                    None
                };
                (edit, remark.or(other))
            }
            _ => (
                Edit::Keep,
                self.sources
                    .iter()
                    .any(|source| names(value, source))
                    .then(|| format!("{}, which names the source's data directory.", says())),
            ),
        }
    }

    fn path(&self, name: &str, value: &str) -> (Edit, Option<String>) {
        let Some(moved) = self.moved(value) else {
            return (Edit::Keep, None);
        };
        // Both on hosts of their own, in the same place.
        if moved == value {
            return (Edit::Keep, None);
        }
        match conf::quote_value(&moved) {
            Ok(quoted) => (
                Edit::Replace(format!("{name} = {quoted}")),
                Some(format!(
                    "The source's configuration sets {name} to \"{value}\": here it is \"{moved}\"."
                )),
            ),
            // Left out, PostgreSQL's default is in the data directory.
            Err(_) => (
                Edit::Remove,
                Some(format!(
                    "The source's configuration sets {name} to \"{value}\": that line was left out here."
                )),
            ),
        }
    }
}

/// Whether a text holds the path, as a whole or with something beneath it.
fn names(text: &str, path: &Path) -> bool {
    let path = path.display().to_string();
    text.match_indices(&path).any(|(at, _)| {
        let next = text[at + path.len()..].chars().next();
        next.is_none_or(|next| !(next.is_alphanumeric() || matches!(next, '-' | '_' | '.')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(shares_host: bool) -> Home {
        Home {
            sources: vec!["/srv/b".into(), "/mnt/b".into()],
            pgdata: "/srv/it's".into(),
            shares_host,
        }
    }

    fn adopted(text: &str, shares_host: bool) -> (String, Vec<String>) {
        let adopted = home(shares_host).adopted(text.as_bytes());
        (String::from_utf8(adopted.text).unwrap(), adopted.remarks)
    }

    #[test]
    fn what_names_the_sources_place_names_the_targets() {
        let (text, remarks) = adopted(
            "# kept\ndata_directory = '/srv/b' # own\nhba_file = '/mnt/b/pg_hba.conf'\n\
             ident_file '/etc/ident'\nlog_directory = 'log'\ninclude '/srv/b/more.conf'\n\
             work_mem = 5MB\narchive_command = 'cp %p /srv/b/../wal/%f'\nport = 5433\n",
            true,
        );
        assert_eq!(
            text,
            "# kept\nhba_file = '/srv/it''s/pg_hba.conf'\nident_file '/etc/ident'\n\
             log_directory = 'log'\ninclude = '/srv/it''s/more.conf'\nwork_mem = 5MB\n\
             archive_command = 'cp %p /srv/b/../wal/%f'\nport = 5433\n"
        );
        assert_eq!(remarks.len(), 5, "{remarks:?}");
        assert!(remarks[0].contains("left out"), "{remarks:?}");
        assert!(remarks[2].contains("must exist"), "{remarks:?}");
    }

    #[test]
    fn a_pid_file_is_shared_by_no_two_servers_of_a_host() {
        let line = "external_pid_file = '/run/15-main.pid'\n";
        assert_eq!(adopted(line, true).0, "");
        let (text, remarks) = adopted(line, false);
        assert_eq!(text, line);
        assert_eq!(remarks.len(), 1);
        let inside = "external_pid_file = '/srv/b/x.pid'\n";
        assert_eq!(
            adopted(inside, true).0,
            "external_pid_file = '/srv/it''s/x.pid'\n"
        );
    }

    #[test]
    fn another_directory_that_begins_alike_is_another() {
        let text = "hba_file = '/srv/b2/pg_hba.conf'\narchive_command = 'x /srv/b2'\n";
        let (kept, remarks) = adopted(text, true);
        assert_eq!(kept, text);
        assert_eq!(remarks.len(), 1, "{remarks:?}");
    }

    #[test]
    fn in_the_same_place_nothing_changes_but_the_data_directory() {
        let home = Home {
            sources: vec!["/srv/a".into()],
            pgdata: "/srv/a".into(),
            shares_host: false,
        };
        let text = b"data_directory = '/srv/a'\nhba_file = '/srv/a/pg_hba.conf'\n";
        let adopted = home.adopted(text);
        assert_eq!(adopted.text, b"hba_file = '/srv/a/pg_hba.conf'\n");
        assert_eq!(adopted.remarks.len(), 1);
    }
}
