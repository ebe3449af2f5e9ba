//! What the DBA has said may happen: beneath the guards and the places of tablespaces, which both ask it.

/// What the DBA has said may happen, each named after the danger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub struct Overrides {
    /// `--overwrite-foreign-cluster`: the target has another system identifier.
    pub overwrite_foreign_cluster: bool,
    /// `--overwrite-unknown-cluster`: no control file tells which cluster the target is.
    pub overwrite_unknown_cluster: bool,
    /// `--discard-newer-timeline`: the target may be the real primary.
    pub discard_newer_timeline: bool,
    /// `--discard-newer-wal`: the target is ahead on the source's timeline.
    pub discard_newer_wal: bool,
    /// `--no-login-check`: the standby's login is not tried.
    pub no_login_check: bool,
    /// `--reuse-tablespace-dirs`: a tablespace may go where something is that is not known to be
    /// the target's.
    pub reuse_tablespace_dirs: bool,
    /// `--ignore-free-space`.
    pub ignore_free_space: bool,
    /// `--leave-no-primary`: the source is a standby of the target.
    pub leave_no_primary: bool,
    /// `--seed`: a data directory that does not exist is meant.
    pub seed: bool,
    /// `--keep-incomplete-wal`: what is saved of the target's own WAL has gaps.
    pub keep_incomplete_wal: bool,
    /// `--allow-unknown-version`: the source's major is newer than those that are known.
    pub allow_unknown_version: bool,
}
