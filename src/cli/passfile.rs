//! The password file of the agent's user, found and trusted as libpq does it.
//!
//! PostgreSQL: src/interfaces/libpq/fe-connect.c, `passwordFromFile`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Content of the password file: the one named in the connection string, in PGPASSFILE, or the
/// home directory's. Nothing when there is none, or when others may read it.
pub(super) fn read(
    in_conninfo: Option<&str>,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Option<String> {
    let path = in_conninfo
        .map(PathBuf::from)
        .or_else(|| variable("PGPASSFILE").map(PathBuf::from))
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".pgpass")))?;
    let found = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    if found.permissions().mode() & 0o077 != 0 {
        tracing::warn!(
            "password file \"{}\" has group or world access; permissions should be u=rw (0600) or less",
            path.display()
        );
        return None;
    }
    fs::read_to_string(&path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_is_found_like_libpq_finds_it_and_only_used_when_private() {
        let home = tempfile::tempdir().unwrap();
        let (of_home, other) = (home.path().join(".pgpass"), home.path().join("other"));
        fs::write(&of_home, "home").unwrap();
        fs::write(&other, "other").unwrap();
        let allow = |mode| {
            for path in [&of_home, &other] {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
        };
        let at_home = |name: &str| (name == "HOME").then(|| home.path().into());
        let elsewhere = |name: &str| match name {
            "PGPASSFILE" => Some(other.clone().into()),
            _ => at_home(name),
        };
        allow(0o600);
        assert_eq!(read(None, &at_home).as_deref(), Some("home"));
        assert_eq!(read(None, &elsewhere).as_deref(), Some("other"));
        assert_eq!(read(other.to_str(), &at_home).as_deref(), Some("other"));
        assert_eq!(read(Some("/missing"), &elsewhere), None);
        allow(0o640);
        assert_eq!(read(None, &elsewhere), None);
    }
}
