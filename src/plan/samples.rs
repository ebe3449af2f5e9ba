//! A source and a target that agree, for tests to bend.

use crate::facts::{
    Condition, FileIdentity, HostIdentity, Running, SharedWal, SourceFacts, SourceRights,
    SourceSettings, Standing, Tablespace, TargetCluster, TargetFacts, UnarchivedWal,
};
use crate::pg::control::{ClusterState, ControlFile, WalLevel};
use crate::pg::lsn::Lsn;
use crate::pg::timeline::{History, TimelineId};
use crate::pg::version::Version;

/// The source's timeline is 2, forked from 1 here.
pub const FORK: Lsn = Lsn(0x300_0060);
/// The source's end of WAL.
pub const END: Lsn = Lsn(0x500_0000);

pub fn control(timeline: u32, checkpoint: u64, state: ClusterState) -> ControlFile {
    ControlFile {
        system_identifier: 7_000_000_000_000_000_001,
        control_version: 1300,
        catalog_version: 202_209_061,
        state,
        time: 1_700_000_000,
        checkpoint: Lsn(checkpoint),
        redo: Lsn(checkpoint),
        timeline: TimelineId(timeline),
        prev_timeline: TimelineId(timeline),
        full_page_writes: true,
        next_xid: 1000,
        next_oid: 16_500,
        next_multixact: 1,
        next_multixact_offset: 0,
        oldest_xid: 716,
        oldest_multixact: 1,
        oldest_active_xid: 0,
        checkpoint_time: 1_700_000_000,
        min_recovery_point: Lsn(0),
        min_recovery_timeline: TimelineId(0),
        backup_start: Lsn(0),
        backup_end: Lsn(0),
        backup_end_required: false,
        wal_level: WalLevel::Replica,
        wal_log_hints: false,
        max_connections: 100,
        max_worker_processes: 8,
        max_wal_senders: 10,
        max_prepared_transactions: 0,
        max_locks_per_transaction: 64,
        track_commit_timestamp: false,
        max_align: 8,
        float_format_bits: 1_234_567.0_f64.to_bits(),
        block_bytes: 8192,
        segment_blocks: 131_072,
        wal_block_bytes: 8192,
        wal_segment_bytes: 16 << 20,
        name_bytes: 64,
        index_max_keys: 32,
        toast_max_chunk_bytes: 1996,
        large_object_block_bytes: 2048,
        float8_by_value: true,
        checksum_version: 1,
        default_char_signed: None,
    }
}

pub fn identity(inode: u64) -> FileIdentity {
    FileIdentity { device: 1, inode }
}

pub fn host(name: &str) -> HostIdentity {
    HostIdentity {
        name: name.to_owned(),
        boot_id: format!("boot-of-{name}"),
    }
}

pub fn tablespace(oid: u32, location: &str, inode: u64) -> Tablespace {
    Tablespace {
        oid,
        location: Some(location.as_bytes().to_vec()),
        identity: Some(identity(inode)),
    }
}

/// A primary on timeline 2 of host `b`, at [`END`].
pub fn source() -> SourceFacts {
    SourceFacts {
        host: host("b"),
        user: "postgres".to_owned(),
        version: Version(150_018),
        control: control(2, 0x400_0028, ClusterState::InProduction),
        in_recovery: false,
        timeline: TimelineId(2),
        history: History::parse(TimelineId(2), b"1\t0/3000060\tno recovery target\n").unwrap(),
        current_lsn: END,
        oldest_wal: Some(Lsn(0x400_0000)),
        data_directory: b"/srv/b".to_vec(),
        data_directory_mode: 0o700,
        identity: identity(100),
        wal_identity: identity(101),
        tablespaces: Vec::new(),
        pid_file: b"4711\n/srv/b\n".to_vec(),
        log_directory: "log".to_owned(),
        settings: SourceSettings {
            wal_level: "replica".to_owned(),
            max_wal_senders: 10,
            active_wal_senders: 0,
            max_replication_slots: 10,
            used_replication_slots: 0,
            full_page_writes: true,
            data_checksums: true,
            wal_keep_bytes: 0,
            archive_mode: "off".to_owned(),
        },
        rights: SourceRights {
            role: "postgres".to_owned(),
            backup: true,
            replication: true,
        },
        slot: None,
        slot_run: None,
        synchronous_standby_names: String::new(),
        slots: Vec::new(),
        upstream: None,
        is_stopped: false,
        copy: None,
        has_history_file: true,
    }
}

/// An old primary, shut down on timeline 1 at `checkpoint`.
pub fn cluster(checkpoint: u64) -> TargetCluster {
    TargetCluster {
        major: Some(15),
        has_directories: true,
        control: Some(control(1, checkpoint, ClusterState::ShutDown)),
        control_problem: None,
        interrupted: None,
        backup: None,
        history: History::single(TimelineId(1)),
        newest_wal_timeline: Some(TimelineId(1)),
        wal_segments_end: Some(Lsn(0x600_0000)),
        has_standby_signal: false,
        has_recovery_signal: false,
        is_owner: true,
        mode: 0o700,
        identity: identity(200),
        wal_identity: Some(identity(201)),
        tablespaces: Vec::new(),
        pid_file: Vec::new(),
        running: Running::No,
        stream: None,
        unexpected_links: Vec::new(),
        is_locked: false,
        locked_by: None,
        standing: Standing::default(),
        shared_wal: SharedWal::default(),
        unarchived: UnarchivedWal::default(),
        slots: Vec::new(),
        mark: None,
    }
}

/// What host `a` says about it.
pub fn target(condition: Condition) -> TargetFacts {
    TargetFacts {
        host: host("a"),
        user: "postgres".to_owned(),
        is_root: false,
        pgdata: "/srv/a".to_owned(),
        condition,
        is_parent_missing: false,
    }
}

/// The old primary, diverged.
pub fn diverged_target() -> TargetFacts {
    target(Condition::Cluster(Box::new(cluster(0x310_0028))))
}
