//! What a path in a data directory is to a rebuild. Decided here and nowhere else.
//!
//! The rules are those of a base backup (`excludeDirContents`, `excludeFiles`, `sendDir` in
//! `src/backend/backup/basebackup.c`), which PostgreSQL itself trusts to make standbys, with three
//! differences: names are excluded where PostgreSQL writes them and not inside directories that are
//! not its own, since what is left out is also removed; files that describe another life of the
//! directory (old labels, signals, `current_logfiles`) are left out too; and files that belong to
//! the host stay. Decides from the path alone: what exists, and what follows from a class, is not
//! its business. Unlogged relations need the other names of their directory, hence
//! [`unlogged_relfilenodes`].

use std::collections::{BTreeSet, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::relfile::{self, Fork};
use crate::path::RelPath;

/// Tells that a rebuild is unfinished, and of which session it was.
pub const MARKER: &str = "pg_reseed.state";

/// The target's control file while a rebuild is unfinished.
pub const SAVED_CONTROL: &str = "pg_reseed.saved_control";

/// Tells that the directory is a copy and no member, and of what.
pub const CLONE_MARK: &str = "pg_reseed.clone";

/// Access rules of a copy whose hooks have not succeeded yet, and the map that they name.
pub const CLONE_HBA: &str = "pg_reseed.hba";
pub const CLONE_IDENT: &str = "pg_reseed.ident";

/// Names at the top of a data directory that begin like this are ours.
pub const OWN_PREFIX: &str = "pg_reseed.";

/// What a path is to a rebuild.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum Class {
    /// Made equal to the source's.
    Synchronised,
    /// Belongs to the target's host; the target's own stays.
    HostLocal,
    /// The directory (or the link to it) stays, its content goes.
    EmptiedDirectory,
    /// Content of such a directory: not copied, and removed.
    InsideEmptied,
    /// Not copied, and removed.
    LeftOut,
    /// Written by pg_reseed itself.
    Ours,
    /// Not a name that PostgreSQL knows. At the top of the data directory it may be an extension's: keys, columns,
    /// state that belong to the data. Beside this cluster's part of a tablespace other clusters may keep theirs.
    /// All below is foreign too.
    Foreign,
    /// `global/pg_control`: goes first, comes last.
    Control,
}

/// What kind of file system object a path is. Special files count as files.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Directory,
    Symlink,
}

/// Directories that PostgreSQL keeps at the top of a data directory, the same from 13 to 19.
const DIRECTORIES: [&str; 17] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_multixact",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_xact",
];

/// Holds the major version; the only name with capitals at the top.
const VERSION_FILE: &[u8] = b"PG_VERSION";

/// Directories whose content belongs to one life of one server (`excludeDirContents`), and the log,
/// which comes from the source by its own way. The two below pg_wal must exist, empty.
const EMPTIED: [&str; 10] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_wal/summaries",
];

/// Configuration that lies at the top of a data directory unless it was put elsewhere; the last from 19 on.
const CONFIGURATION: [&str; 5] = [
    "postgresql.conf",
    "postgresql.auto.conf",
    "pg_hba.conf",
    "pg_ident.conf",
    "pg_hosts.conf",
];

/// Default names of keys and certificates (`src/include/libpq/libpq-be.h`, `guc_tables.c`).
const CERTIFICATES: [&str; 4] = ["server.crt", "server.key", "root.crt", "root.crl"];

/// Other names at the top that tell of the host and not of the data: logs (`pg_ctl --log`, `log_directory`'s
/// defaults), configuration and what is included by habit.
const HOST_NAMES: [&str; 6] = [
    "conf.d",
    "log",
    "logfile",
    "lost+found",
    "pg_log",
    "serverlog",
];

/// Left out by name wherever PostgreSQL writes (`excludeFiles`).
const LEFT_OUT: [&str; 8] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
    ".DS_Store",
];

/// Left out by the beginning of the name wherever PostgreSQL writes: `PG_TEMP_FILE_PREFIX`,
/// `RELCACHE_INIT_FILENAME`, which is followed by a process id while it is written, and what a killed run of
/// ours was writing.
const LEFT_OUT_PREFIXES: [&str; 3] = ["pgsql_tmp", "pg_internal.init", OWN_PREFIX];

/// Left out at the top only: they steer or describe another life of the directory. The last three
/// are orders to a running server (`PROMOTE_SIGNAL_FILE`, `LOGROTATE_SIGNAL_FILE`).
const LEFT_OUT_ON_TOP: [&str; 10] = [
    "backup_label.old",
    "tablespace_map.old",
    "recovery.signal",
    "standby.signal",
    "recovery.conf",
    "recovery.done",
    "current_logfiles",
    "promote",
    "fallback_promote",
    "logrotate",
];

/// A server's socket and its lock, where `unix_socket_directories` names the data directory
/// (`UNIXSOCK_PATH`): left out at the top.
const SOCKET_PREFIX: &[u8] = b".s.PGSQL.";

/// What belongs to the target's host and not to its cluster.
///
/// It never reaches into the directories that PostgreSQL manages, nor to the files that a rebuild
/// has to remove, whatever it is told to keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostLocal {
    paths: BTreeSet<Vec<u8>>,
    patterns: Vec<Pattern>,
    version_directory: Option<Vec<u8>>,
    /// Names that tell of the host by habit count too.
    has_known_names: bool,
}

/// Why a text is not a pattern of paths to keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("\"{pattern}\" is not a path relative to the data directory")]
    NotRelative { pattern: String },
    #[error("\"{pattern}\" cannot be kept: PostgreSQL's own files must follow the source")]
    Managed { pattern: String },
}

impl HostLocal {
    /// Nothing is the host's own: all is seen as a base backup sees it.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Configuration files, keys and certificates in their default places.
    ///
    /// `version_directory` is the cluster's directory in each tablespace, as
    /// [`tablespace_directory`](super::version::tablespace_directory) names it; whatever else lies
    /// in a tablespace's location is then [`Class::Foreign`]. Without it, directories of all
    /// versions count as the cluster's.
    #[must_use]
    pub fn default_for(version_directory: Option<&str>) -> Self {
        let names = CONFIGURATION.iter().chain(&CERTIFICATES);
        Self {
            paths: names.map(|name| name.as_bytes().to_vec()).collect(),
            patterns: Vec::new(),
            version_directory: version_directory.map(|name| name.as_bytes().to_vec()),
            has_known_names: true,
        }
    }

    /// Adds a file, or a directory with all that is in it: the log directory, an included file.
    pub fn add_path(&mut self, path: &RelPath) {
        self.paths.insert(path.as_bytes().to_vec());
    }

    /// Adds a pattern: `*` stands for any part of a name, `?` for one byte of it, neither for `/`.
    ///
    /// Without `/` it is held against every name in a path, otherwise against the path from the
    /// data directory on. What lies below a match is kept with it.
    ///
    /// # Errors
    /// [`PatternError`]: it could not match any path, or names what must not be kept.
    pub fn add_pattern(&mut self, pattern: &str) -> Result<(), PatternError> {
        let trimmed = pattern.trim_end_matches('/');
        let path = RelPath::parse(trimmed.as_bytes()).map_err(|_| PatternError::NotRelative {
            pattern: pattern.to_owned(),
        })?;
        // A pattern with wildcards may well match more than it can keep; a plain name may not.
        let class = classify(&path, Kind::File, &Self::none());
        let top = path.components().next().unwrap_or_default();
        if is_managed_top_level(top) || matches!(class, Class::LeftOut | Class::Ours) {
            return Err(PatternError::Managed {
                pattern: pattern.to_owned(),
            });
        }
        self.patterns.push(Pattern(path));
        Ok(())
    }

    /// Whether a path matches one of the patterns.
    #[must_use]
    pub fn is_kept(&self, path: &RelPath) -> bool {
        self.patterns.iter().any(|pattern| pattern.covers(path))
    }

    /// Whether a path is told to be the host's own, by itself or through a directory above it.
    #[must_use]
    pub fn covers(&self, path: &RelPath) -> bool {
        let bytes = path.as_bytes();
        let ends = (0..bytes.len()).filter(|at| bytes[*at] == b'/');
        ends.chain([bytes.len()])
            .any(|end| self.paths.contains(&bytes[..end]))
            || self.has_known_names && path.components().next().is_some_and(tells_of_the_host)
            || self.is_kept(path)
    }

    /// Whether the DBA keeps anything by a pattern.
    #[must_use]
    pub fn has_patterns(&self) -> bool {
        !self.patterns.is_empty()
    }
}

/// Whether a name at the top tells of the host by habit: configuration and copies of it (Patroni's and editors'
/// among them), logs, and what begins with a dot, such as `.pgpass` and `.ssh`.
fn tells_of_the_host(name: &[u8]) -> bool {
    let is_copy = |known: &&str| {
        name.strip_prefix(known.as_bytes())
            .is_some_and(|rest| rest.starts_with(b".") || rest.starts_with(b"~"))
    };
    is_one_of(&HOST_NAMES, name)
        || name.starts_with(b".")
        || name.starts_with(b"patroni")
        || name.ends_with(b".conf")
        || name.ends_with(b".log")
        || name.starts_with(b"postgresql.base.conf")
        || CONFIGURATION.iter().any(is_copy)
}

/// The entry at the top of a data directory in which a file lies that the configuration names; relative names are
/// relative to the data directory. `None` when it lies elsewhere, or where PostgreSQL keeps its own.
#[must_use]
pub fn named_entry(pgdata: &Path, named: &Path) -> Option<RelPath> {
    let whole = pgdata.join(named);
    let mut inside = whole.strip_prefix(pgdata).ok()?.components();
    let top = inside.find(|component| *component != Component::CurDir)?;
    let name = match top {
        Component::Normal(name) => name.as_bytes(),
        _ => return None,
    };
    (!is_managed_top_level(name))
        .then(|| RelPath::parse(name).ok())
        .flatten()
}

/// A pattern of paths, its form checked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(RelPath);

impl Pattern {
    fn covers(&self, path: &RelPath) -> bool {
        let mut wanted = self.0.components();
        let mut names = path.components();
        if self.0.parent().is_none() {
            return names.any(|name| glob(self.0.as_bytes(), name));
        }
        wanted.all(|wanted| names.next().is_some_and(|name| glob(wanted, name)))
    }
}

/// Whether a name has the form of a pattern with `*` and `?`. Never worse than the product of both
/// lengths: only the last `*` is tried again.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut matched) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while matched < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at, matched));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[matched] => {
                at += 1;
                matched += 1;
            }
            _ => {
                let Some((star, from)) = retry else {
                    return false;
                };
                retry = Some((star, from + 1));
                at = star + 1;
                matched = from + 1;
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// Tells what a path is to a rebuild.
///
/// Unlogged relations are not told apart here: ask [`is_excluded_unlogged`] for each file of a
/// directory that [`holds_relations`].
#[must_use]
pub fn classify(path: &RelPath, kind: Kind, host_local: &HostLocal) -> Class {
    let components: Vec<&[u8]> = path.components().collect();
    let top = components[0];
    if top.starts_with(OWN_PREFIX.as_bytes()) {
        return Class::Ours;
    }
    if is_directory_of_postgres(top) {
        return classify_managed(path, &components, kind, host_local);
    }
    let is_on_top = components.len() == 1;
    let is_left_out =
        is_left_out_name(top) || is_one_of(&LEFT_OUT_ON_TOP, top) || top.starts_with(SOCKET_PREFIX);
    if is_on_top && is_left_out {
        return Class::LeftOut;
    }
    if !is_managed_top_level(top) && host_local.covers(path) {
        return Class::HostLocal;
    }
    if is_on_top && (is_managed_top_level(top) || is_configuration(top)) {
        Class::Synchronised
    } else {
        Class::Foreign
    }
}

/// The class of a directory that PostgreSQL manages, or of a path inside one.
fn classify_managed(
    path: &RelPath,
    components: &[&[u8]],
    kind: Kind,
    host_local: &HostLocal,
) -> Class {
    if path.as_bytes() == b"global/pg_control" {
        return Class::Control;
    }
    if is_one_of(&EMPTIED, path.as_bytes()) && kind != Kind::File {
        return Class::EmptiedDirectory;
    }
    if is_one_of(&EMPTIED, components[0]) {
        // A file in the place of the directory itself is in the way.
        return match components.len() {
            1 => Class::LeftOut,
            _ => Class::InsideEmptied,
        };
    }
    if let [b"pg_tblspc", tablespace, within, ..] = components
        && relfile::number_without_leading_zero(tablespace).is_some()
    {
        let is_own = match &host_local.version_directory {
            Some(own) => *within == &own[..],
            None => relfile::is_tablespace_directory(within),
        };
        if !is_own {
            return Class::Foreign;
        }
    }
    if components.iter().any(|name| is_left_out_name(name)) {
        return Class::LeftOut;
    }
    let in_database = components[0] != b"global"
        && path
            .parent()
            .is_some_and(|directory| holds_relations(&directory));
    if in_database && relfile::is_temp_relation(path.name()) {
        return Class::LeftOut;
    }
    Class::Synchronised
}

fn is_one_of(names: &[&str], name: &[u8]) -> bool {
    names.iter().any(|known| known.as_bytes() == name)
}

fn is_directory_of_postgres(name: &[u8]) -> bool {
    is_one_of(&DIRECTORIES, name)
}

fn is_configuration(name: &[u8]) -> bool {
    is_one_of(&CONFIGURATION, name) || is_one_of(&CERTIFICATES, name)
}

fn is_left_out_name(name: &[u8]) -> bool {
    let begins = |prefix: &&str| name.starts_with(prefix.as_bytes());
    is_one_of(&LEFT_OUT, name) || LEFT_OUT_PREFIXES.iter().any(begins)
}

/// Whether PostgreSQL manages what has this name at the top of a data directory: its directories,
/// and `PG_VERSION`. Configuration is not among them; its place is the administrator's choice.
#[must_use]
pub fn is_managed_top_level(name: &[u8]) -> bool {
    is_directory_of_postgres(name) || name == b"PG_VERSION"
}

/// Whether the files of a directory may be those of relations: `global`, and each database's
/// directory in `base` and in a tablespace.
#[must_use]
pub fn holds_relations(directory: &RelPath) -> bool {
    relfile::database_directory(directory).is_some()
}

/// Whether a file consists of pages with an LSN and, where the cluster has them, checksums. True
/// for all forks of relations and nothing else: transaction status files have blocks, but no pages.
#[must_use]
pub fn is_page_structured(path: &RelPath) -> bool {
    relfile::is_relation_path(path)
}

/// Whether a file is written anew as a whole, mostly by renaming another one into its place, rather than
/// in its pages: all but relations and the logs of transaction status (`slru.c`). What such a file holds
/// beyond the length that was seen does not come through WAL.
#[must_use]
pub fn is_written_whole(path: &RelPath) -> bool {
    const IN_PAGES: [&[u8]; 3] = [b"pg_xact", b"pg_commit_ts", b"pg_multixact"];
    let top = path.components().next().unwrap_or_default();
    !IN_PAGES.contains(&top) && !is_page_structured(path)
}

/// The relations that are unlogged, by the names in one directory that [`holds_relations`]: those
/// with an init fork.
#[must_use]
pub fn unlogged_relfilenodes<N: AsRef<[u8]>>(names: impl IntoIterator<Item = N>) -> HashSet<u32> {
    names
        .into_iter()
        .filter_map(|name| relfile::parse(name.as_ref()))
        .filter(|file| file.fork == Fork::Init)
        .map(|file| file.relfilenode)
        .collect()
}

/// Whether a file of the same directory is left out because its relation is unlogged: every fork
/// but the init fork, from which the server makes the others anew.
#[must_use]
pub fn is_excluded_unlogged(name: &[u8], unlogged: &HashSet<u32>) -> bool {
    relfile::parse(name)
        .is_some_and(|file| file.fork != Fork::Init && unlogged.contains(&file.relfilenode))
}

/// The object id, if the path is the entry of a tablespace: `pg_tblspc/16390`, a link or, for one in place,
/// a directory.
#[must_use]
pub fn tablespace_oid(path: &RelPath) -> Option<u32> {
    let name = path.as_bytes().strip_prefix(b"pg_tblspc/")?;
    relfile::number_without_leading_zero(name)
}

/// Whether a file holds statistics that a server leaves when it stops cleanly and takes away when it starts
/// (`pgstat.c:pgstat_write_statsfile`): a source that runs has none.
#[must_use]
pub fn is_statistics(path: &RelPath) -> bool {
    path.as_bytes().starts_with(b"pg_stat/")
}

/// Whether a path is one that is treated apart, but for upper and lower case: on a file system that does not tell
/// them apart it would be taken for that one. Only what lies at the top and in `global` can be.
#[must_use]
pub fn is_disguised(path: &RelPath) -> bool {
    let name = path.as_bytes();
    if name.eq_ignore_ascii_case(VERSION_FILE) {
        return name != VERSION_FILE;
    }
    let plain = name.to_ascii_lowercase();
    if plain == name {
        return false;
    }
    let is_on_top = !plain.contains(&b'/');
    plain == b"global/pg_control"
        || is_on_top
            && (is_managed_top_level(&plain)
                || plain.starts_with(OWN_PREFIX.as_bytes())
                || is_left_out_name(&plain)
                || is_one_of(&LEFT_OUT_ON_TOP, &plain)
                || is_one_of(&CONFIGURATION, &plain)
                || is_one_of(&CERTIFICATES, &plain))
}

/// Whether a server cannot do without this file whatever happens to the cluster meanwhile: databases, relations and
/// old segments of pg_xact may go, these two do not (the third is the control file, which travels apart).
#[must_use]
pub fn is_indispensable(path: &RelPath) -> bool {
    matches!(path.as_bytes(), VERSION_FILE | b"global/pg_filenode.map")
}

/// Whether a path is where a server reads its configuration, keys or certificates unless it is told otherwise: what a
/// link there leads to is what it uses.
#[must_use]
pub fn is_configuration_file(path: &RelPath) -> bool {
    is_configuration(path.as_bytes())
}

/// Files that go when a target is closed, or are replaced then.
pub const REPLACED_BY_CLOSING: [&str; 2] = ["global/pg_control", "postgresql.auto.conf"];

/// Whether a server keeps data in this directory.
#[must_use]
pub fn is_managed(directory: &RelPath) -> bool {
    classify(directory, Kind::Directory, &HostLocal::none()) == Class::Synchronised
}

/// Whether a server runs with group access: with a data directory of these permission bits its new files get 0640 and
/// its new directories 0750 (PostgreSQL `file_perm.c:SetDataDirectoryCreatePerm`).
#[must_use]
pub fn has_group_access(mode: u32) -> bool {
    mode & 0o050 == 0o050
}

/// What the permission bits of a data directory must become, if a server refuses it as it is (PostgreSQL
/// `miscinit.c:checkDataDir`: 0700 or 0750 at most) or its owner cannot work in it.
#[must_use]
pub fn mended_directory_mode(mode: u32) -> Option<u32> {
    let is_refused = mode & 0o027 != 0;
    let is_closed_to_owner = mode & 0o700 != 0o700;
    let wanted = if has_group_access(mode) { 0o750 } else { 0o700 };
    (is_refused || is_closed_to_owner).then_some(wanted)
}

/// Every directory that a data directory must have, even if empty; parents come first (`subdirs` in
/// `src/bin/initdb/initdb.c`).
#[must_use]
pub fn required_directories(major: u32) -> &'static [&'static str] {
    // The directory that not all majors have is the last.
    match major {
        17.. => &REQUIRED,
        _ => &REQUIRED[..REQUIRED.len() - 1],
    }
}

const REQUIRED: [&str; 23] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_xact",
    "pg_wal/summaries",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VERSION: &str = "PG_15_202209061";

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    fn host() -> HostLocal {
        let mut host = HostLocal::default_for(Some(VERSION));
        host.add_path(&path("log"));
        host.add_path(&path("conf.d/own.conf"));
        host
    }

    #[test]
    fn every_path_has_its_class() {
        use Class::*;
        use Kind::*;
        for (text, kind, class) in [
            ("PG_VERSION", File, Synchronised),
            ("base", Directory, Synchronised),
            ("base/5", Directory, Synchronised),
            ("base/5/1259", File, Synchronised),
            ("base/5/PG_VERSION", File, Synchronised),
            ("base/5/pg_filenode.map", File, Synchronised),
            ("base/5/16384_init", File, Synchronised),
            ("base/5/pg_internal.init", File, LeftOut),
            ("base/5/pg_internal.init.123", File, LeftOut),
            ("base/5/t3_16384", File, LeftOut),
            ("base/5/t3_16384_fsm.1", File, LeftOut),
            ("global/t3_16384", File, Synchronised),
            ("base/t3_16384", File, Synchronised),
            ("base/pgsql_tmp", Directory, LeftOut),
            ("base/pgsql_tmp/pgsql_tmp12.0", File, LeftOut),
            ("base/pgsql_tmp/12", File, LeftOut),
            ("global", Directory, Synchronised),
            ("global/1262", File, Synchronised),
            ("global/pg_filenode.map", File, Synchronised),
            ("global/pg_internal.init", File, LeftOut),
            ("global/pg_control", File, Control),
            ("pg_xact/0000", File, Synchronised),
            ("pg_multixact/offsets/0000", File, Synchronised),
            ("pg_commit_ts", Directory, Synchronised),
            ("pg_twophase/000002F1", File, Synchronised),
            ("pg_logical/snapshots/0-1.snap", File, Synchronised),
            ("pg_stat/pgstat.stat", File, Synchronised),
            ("pg_stat_tmp", Directory, EmptiedDirectory),
            ("pg_stat_tmp/global.stat", File, InsideEmptied),
            ("pg_stat_tmp", Symlink, EmptiedDirectory),
            ("pg_replslot", Directory, EmptiedDirectory),
            ("pg_replslot/a", Directory, InsideEmptied),
            ("pg_replslot/a/state", File, InsideEmptied),
            ("pg_dynshmem/mmap.1", File, InsideEmptied),
            ("pg_notify/0000", File, InsideEmptied),
            ("pg_serial", Directory, EmptiedDirectory),
            ("pg_snapshots/x", File, InsideEmptied),
            ("pg_subtrans/0000", File, InsideEmptied),
            ("pg_wal", Symlink, EmptiedDirectory),
            ("pg_wal", Directory, EmptiedDirectory),
            ("pg_wal", File, LeftOut),
            ("pg_wal/000000010000000000000001", File, InsideEmptied),
            ("pg_wal/archive_status", Directory, EmptiedDirectory),
            ("pg_wal/archive_status", File, InsideEmptied),
            ("pg_wal/archive_status/0.ready", File, InsideEmptied),
            ("pg_wal/summaries", Directory, EmptiedDirectory),
            ("pg_wal/walg_data", Directory, InsideEmptied),
            ("pg_tblspc", Directory, Synchronised),
            ("pg_tblspc/16390", Symlink, Synchronised),
            ("pg_tblspc/16390/PG_15_202209061", Directory, Synchronised),
            ("pg_tblspc/16390/PG_15_202209061/5/1259", File, Synchronised),
            ("pg_tblspc/16390/PG_15_202209061/5/t1_1", File, LeftOut),
            (
                "pg_tblspc/16390/PG_15_202209061/pgsql_tmp",
                Directory,
                LeftOut,
            ),
            ("pg_tblspc/16390/PG_14_202107181", Directory, Foreign),
            ("pg_tblspc/16390/PG_14_202107181/5/t1_1", File, Foreign),
            ("pg_tblspc/16390/lost+found", Directory, Foreign),
            ("pg_tblspc/x/y", File, Synchronised),
            ("postgresql.conf", File, HostLocal),
            ("postgresql.conf", Symlink, HostLocal),
            ("postgresql.auto.conf", File, HostLocal),
            ("pg_hba.conf", File, HostLocal),
            ("pg_ident.conf", File, HostLocal),
            ("pg_hosts.conf", File, HostLocal),
            ("server.key", File, HostLocal),
            ("log", Directory, HostLocal),
            ("log/postgresql.log", File, HostLocal),
            ("log/backup_label", File, HostLocal),
            ("log2", File, Foreign),
            ("conf.d", Directory, HostLocal),
            ("conf.d/own.conf", File, HostLocal),
            ("conf.d/other.conf", File, HostLocal),
            ("other.d", Directory, Foreign),
            ("postgresql.auto.conf.tmp", File, LeftOut),
            ("postmaster.pid", File, LeftOut),
            ("postmaster.opts", File, LeftOut),
            ("backup_label", File, LeftOut),
            ("backup_label.old", File, LeftOut),
            ("tablespace_map", File, LeftOut),
            ("tablespace_map.old", File, LeftOut),
            ("backup_manifest", File, LeftOut),
            ("standby.signal", File, LeftOut),
            ("recovery.signal", File, LeftOut),
            ("recovery.conf", File, LeftOut),
            ("recovery.done", File, LeftOut),
            ("current_logfiles", File, LeftOut),
            ("current_logfiles.tmp", File, LeftOut),
            ("promote", File, LeftOut),
            (".DS_Store", File, LeftOut),
            ("pg_reseed.state", File, Ours),
            ("pg_reseed.saved_control", File, Ours),
            ("pg_reseed.anything/below", File, Ours),
            ("pg_reseed", File, Foreign),
            ("patroni.dynamic.json", File, HostLocal),
            ("pg_hba.conf.backup", File, HostLocal),
            ("pg_hba.conf~", File, HostLocal),
            ("pg_hba.confs", File, Foreign),
            ("postgresql.base.conf.backup", File, HostLocal),
            ("repmgr.conf", File, HostLocal),
            ("server.log", File, HostLocal),
            (".pgpass", File, HostLocal),
            (".ssh/id_ed25519", File, HostLocal),
            (".s.PGSQL.5432", File, LeftOut),
            (".s.PGSQL.5432.lock", File, LeftOut),
            ("pg_tde/1664_keys", File, Foreign),
            ("pg_tde/.hidden", File, Foreign),
            ("pg_tde/x.log", File, Foreign),
            ("pgsodium_root.key", File, Foreign),
            ("base/5/pg_reseed.tmp.3", File, LeftOut),
            ("lost+found", Directory, HostLocal),
            ("backups/backup_label", File, Foreign),
            ("backups/PG_VERSION", File, Foreign),
            ("pg_xlog", Directory, Foreign),
        ] {
            assert_eq!(classify(&path(text), kind, &host()), class, "{text}");
        }
    }

    #[test]
    fn what_is_named_lies_in_an_entry_at_the_top() {
        let pgdata = Path::new("/srv/a");
        for (named, entry) in [
            ("keys/my.key", Some("keys")),
            ("./own.crt", Some("own.crt")),
            ("/srv/a/log/today", Some("log")),
            ("/srv/a", None),
            ("/srv/ab/log", None),
            ("../x", None),
            ("base/x.key", None),
            ("", None),
        ] {
            let found = named_entry(pgdata, Path::new(named));
            assert_eq!(
                found.map(|path| path.to_string()).as_deref(),
                entry,
                "{named}"
            );
        }
    }

    #[test]
    fn without_a_host_the_view_is_that_of_a_base_backup() {
        let none = HostLocal::none();
        for name in ["postgresql.conf", "pg_hba.conf", "server.key"] {
            assert_eq!(
                classify(&path(name), Kind::File, &none),
                Class::Synchronised
            );
        }
        let other = path("pg_tblspc/1/PG_14_202107181/5");
        assert_eq!(
            classify(&other, Kind::Directory, &none),
            Class::Synchronised
        );
        let log = path("log/x");
        assert_eq!(classify(&log, Kind::File, &none), Class::Foreign);
    }

    #[test]
    fn patterns_keep_what_they_match() {
        let mut host = HostLocal::none();
        for pattern in ["*.crt", "ext/*/keep?", "spool/"] {
            host.add_pattern(pattern).unwrap();
        }
        for (text, class) in [
            ("own.crt", Class::HostLocal),
            ("certs/own.crt", Class::HostLocal),
            ("own.crt.old", Class::Foreign),
            ("ext", Class::Foreign),
            ("ext/a/keep1", Class::HostLocal),
            ("ext/a/keep1/b/c", Class::HostLocal),
            ("ext/a/b/keep1", Class::Foreign),
            ("ext/a/keep", Class::Foreign),
            ("other/ext/a/keep1", Class::Foreign),
            ("spool/x", Class::HostLocal),
            ("spool2", Class::Foreign),
        ] {
            assert_eq!(classify(&path(text), Kind::File, &host), class, "{text}");
        }
    }

    #[test]
    fn what_must_follow_the_source_cannot_be_kept() {
        let mut host = HostLocal::none();
        for pattern in [
            "base",
            "pg_wal/*",
            "global/pg_control",
            "PG_VERSION",
            "backup_label",
            "standby.signal",
            "pg_reseed.state",
            "pg_wal/",
        ] {
            assert!(
                matches!(host.add_pattern(pattern), Err(PatternError::Managed { .. })),
                "{pattern}"
            );
        }
        for pattern in ["", "/", "/etc/x", "../x", "a//b", "."] {
            assert!(
                matches!(
                    host.add_pattern(pattern),
                    Err(PatternError::NotRelative { .. })
                ),
                "{pattern}"
            );
        }
        // Wildcards that would reach further end at PostgreSQL's own.
        host.add_pattern("*").unwrap();
        host.add_pattern("*/*").unwrap();
        host.add_path(&path("pg_wal"));
        host.add_path(&path("backup_label"));
        for (text, class) in [
            ("base/5/1259", Class::Synchronised),
            ("pg_wal/x", Class::InsideEmptied),
            ("PG_VERSION", Class::Synchronised),
            ("backup_label", Class::LeftOut),
            ("global/pg_control", Class::Control),
            ("anything", Class::HostLocal),
        ] {
            assert_eq!(classify(&path(text), Kind::File, &host), class, "{text}");
        }
    }

    #[test]
    fn stars_match_any_part_of_a_name() {
        for (pattern, name, matches) in [
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "aXXbYY", false),
            ("*ab", "aab", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("**", "x", true),
            ("*.log", ".log", true),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), name.as_bytes()),
                matches,
                "{pattern} {name}"
            );
        }
        // Backtracking over every star would not end.
        assert!(!glob(&b"*a".repeat(30), &[b'a'; 29]));
        assert!(!glob(
            &[&b"*a".repeat(300)[..], b"b"].concat(),
            &[b'a'; 900]
        ));
    }

    #[test]
    fn unlogged_relations_keep_their_init_fork_only() {
        let names = [
            "16384",
            "16384_fsm",
            "16384_init",
            "16390",
            "x_init",
            "16390_vm",
            "16400_init",
        ];
        let unlogged = unlogged_relfilenodes(names.map(str::as_bytes));
        assert_eq!(unlogged, HashSet::from([16384, 16400]));
        for (name, excluded) in [
            ("16384", true),
            ("16384.1", true),
            ("16384_vm", true),
            ("16384_init", false),
            ("16390", false),
            ("pg_filenode.map", false),
        ] {
            assert_eq!(
                is_excluded_unlogged(name.as_bytes(), &unlogged),
                excluded,
                "{name}"
            );
        }
    }

    #[test]
    fn required_directories_are_those_that_initdb_makes() {
        // `find -type d` of fresh clusters; databases' directories are not asked for.
        for (major, listing) in [
            (13, include_str!("../../tests/it/data/pg/directories.13")),
            (16, include_str!("../../tests/it/data/pg/directories.16")),
            (17, include_str!("../../tests/it/data/pg/directories.17")),
            (18, include_str!("../../tests/it/data/pg/directories.18")),
            (19, include_str!("../../tests/it/data/pg/directories.19")),
        ] {
            let mut required = required_directories(major).to_vec();
            for (index, directory) in required.iter().enumerate() {
                if let Some((parent, _)) = directory.split_once('/') {
                    assert!(required[..index].contains(&parent), "{directory}");
                }
                let class = classify(&path(directory), Kind::Directory, &HostLocal::none());
                assert!(matches!(
                    class,
                    Class::Synchronised | Class::EmptiedDirectory
                ));
            }
            required.sort_unstable();
            let made: Vec<&str> = listing
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with("base/"))
                .collect();
            assert_eq!(required, made, "{major}");
        }
    }

    #[test]
    fn managed_names_are_the_directories_and_the_version() {
        for directory in required_directories(19) {
            let top = directory.split('/').next().unwrap();
            assert!(is_managed_top_level(top.as_bytes()));
        }
        assert!(is_managed_top_level(b"PG_VERSION"));
        for name in ["postgresql.conf", "log", "pg_log", "pg_hba.conf", "Base"] {
            assert!(!is_managed_top_level(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn only_relations_have_pages() {
        assert!(is_page_structured(&path("global/1262")));
        assert!(is_page_structured(&path("base/5/16384_vm.1")));
        assert!(!is_page_structured(&path("pg_xact/0000")));
        assert!(!is_page_structured(&path("global/pg_control")));
        assert!(holds_relations(&path("global")));
        assert!(holds_relations(&path("base/5")));
        assert!(!holds_relations(&path("base")));
    }

    proptest! {
        #[test]
        fn any_path_is_survived(bytes: Vec<u8>, pattern: String, name: Vec<u8>) {
            let mut host = host();
            let _ = host.add_pattern(&pattern);
            let _ = glob(pattern.as_bytes(), &name);
            if let Ok(path) = RelPath::parse(&bytes) {
                for kind in [Kind::File, Kind::Directory, Kind::Symlink] {
                    let _ = classify(&path, kind, &host);
                }
            }
        }

        #[test]
        fn keeping_everything_keeps_nothing_of_postgres(
            top in proptest::sample::select(DIRECTORIES.to_vec()),
            below in "(/[a-z0-9_]{1,8}){0,3}",
        ) {
            let mut host = HostLocal::none();
            host.add_pattern("*").unwrap();
            host.add_path(&path(top));
            let path = path(&format!("{top}{below}"));
            for kind in [Kind::File, Kind::Directory, Kind::Symlink] {
                let class = classify(&path, kind, &host);
                prop_assert_eq!(class, classify(&path, kind, &HostLocal::none()));
            }
        }
    }

    #[test]
    fn names_that_are_postgresqls_but_for_their_case_are_known() {
        for name in [
            "Base",
            "PG_WAL",
            "pg_version",
            "Pg_Version",
            "Postgresql.conf",
            "pg_HBA.conf",
            "Backup_Label",
            "standby.SIGNAL",
            "PG_RESEED.state",
            "Server.Key",
            "global/PG_CONTROL",
            "Global/pg_control",
        ] {
            assert!(is_disguised(&path(name)), "{name}");
        }
        for name in [
            "PG_VERSION",
            "base",
            "README",
            "Notes/pg_hba.conf",
            "global/1262",
            "base/5/PG_VERSION",
            ".DS_Store",
            "pg_tblspc/7/PG_15_202209061/5/PG_VERSION",
            "pg_reseed.state",
            "global/pg_control",
        ] {
            assert!(!is_disguised(&path(name)), "{name}");
        }
    }
}
