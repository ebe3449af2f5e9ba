//! What a run costs the source's host: processors, disks, its page cache, and the link.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, getpriority_process};

use crate::cluster::{
    Cluster, DEADLINE, Load, Pair, Rebuild, Scene, Stop, children_of, done, eventually,
};
use crate::oracle::{Since, assert_amcheck, assert_checksums, assert_like_basebackup, settle};

const MIB: u64 = 1024 * 1024;

/// A primary with a table of some MiB for each name.
fn primary(scene: &Scene, tables: &[&str]) -> Cluster {
    let mut primary = scene.cluster("primary");
    primary.start();
    for table in tables {
        primary.sql(&format!(
            "CREATE TABLE {table} AS SELECT i, repeat(md5(i::text), 30) AS f FROM generate_series(1, 12000) AS i"
        ));
    }
    primary
}

fn file_of(primary: &Cluster, table: &str) -> PathBuf {
    let path = primary.sql(&format!("SELECT pg_relation_filepath('{table}')"));
    primary.pgdata().join(path)
}

/// Bytes of a file that lie in the page cache.
fn cached_bytes(file: &PathBuf) -> u64 {
    done(
        Command::new("fincore")
            .args(["--bytes", "--noheadings", "--output", "RES"])
            .arg(file),
    )
    .trim()
    .parse()
    .unwrap()
}

fn length(file: &PathBuf) -> u64 {
    fs::metadata(file).unwrap().len()
}

/// Has the kernel forget a file; whether the file system lets it.
fn forget(file: &PathBuf) -> bool {
    done(Command::new("sync").arg(file));
    drop_clean(file);
    cached_bytes(file) == 0
}

/// Has the kernel forget the pages of a file that are on the disk.
fn drop_clean(file: &Path) {
    done(
        Command::new("dd")
            .args(["iflag=nocache", "count=0", "status=none"])
            .arg(format!("if={}", file.display())),
    );
}

#[test]
fn page_cache_of_the_source_stays_as_it_was() {
    let scene = Scene::new();
    let primary = primary(&scene, &["hot", "cold"]);
    primary.sql("CHECKPOINT");
    let (hot, cold) = (file_of(&primary, "hot"), file_of(&primary, "cold"));
    assert!(length(&cold) > 8 * MIB);
    if !forget(&cold) {
        eprintln!("files of this temporary folder never leave memory: set TMPDIR to a disk");
        return;
    }
    let leaves_hot_alone = |standby: &Cluster, options: &[&str]| {
        fs::read(&hot).unwrap();
        Rebuild::new(standby, &primary).args(options).succeed();
        // The kernel may hold back what another one looks at just now.
        let left = cached_bytes(&cold);
        assert!(
            left <= MIB,
            "{options:?}: {left} bytes of {} came",
            length(&cold)
        );
        let (stayed, whole) = (cached_bytes(&hot), length(&hot).next_multiple_of(4096));
        eprintln!("{options:?}: {stayed} of {whole} bytes stayed");
        stayed == whole
    };
    // A kernel that takes back what looks cold (DAMON's pageout) takes a page of anything now and then: a run that
    // drops what was cached does so each time.
    // A seed reads each byte to send it, a rebuild each byte to hash it.
    let standby = (1..=3)
        .map(|number| scene.vacant(&format!("standby{number}")))
        .find(|standby| leaves_hot_alone(standby, &[]))
        .expect("three seeds dropped what was cached");
    assert!(
        (1..=3).any(|_| leaves_hot_alone(&standby, &["--config", "source"])),
        "three rebuilds dropped what was cached"
    );
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
}

/// Becomes true when this goes.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Files are read past the page cache while the source's server has changed pages of them in it, and changes more.
#[test]
fn pages_that_a_server_has_changed_in_the_cache_only_come_right_from_files_read_past_it() {
    let scene = Scene::new();
    let mut pair = Pair::streaming(&scene, |old| Load::init(old, 4));
    pair.fail_over();
    pair.old
        .sql("UPDATE pgbench_accounts SET bid = bid WHERE aid % 7 = 0");
    pair.old.stop(Stop::Fast);
    let file = file_of(&pair.new, "pgbench_accounts");
    pair.new.sql("CHECKPOINT");
    if !forget(&file) {
        eprintln!("files of this temporary folder never leave memory: set TMPDIR to a disk");
        return;
    }
    let load = Load::start(&pair.new, 1);
    let writing = Load::script(
        &pair.new,
        2,
        "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 50 = 0;\nCHECKPOINT;\n",
    );
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // What is on the disk leaves the cache at once, so that it is read from there, beside what is not there yet.
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                drop_clean(&file);
            }
        });
        // Also when the run does not succeed.
        let _done = Done(&is_done);
        pair.rebuild()
            .args(["--start", "--max-rate", "32M"])
            .succeed();
    });
    load.stop(&pair.new);
    writing.stop(&pair.new);
    pair.check_equal();
    assert_amcheck(&pair.new, &pair.old);
    settle(&pair.new, &pair.old);
    assert_checksums(&mut pair.old);
    assert_like_basebackup(&scene, &pair.new, pair.old.pgdata(), Since::Used);
}

#[test]
fn max_rate_is_kept() {
    let scene = Scene::new();
    let primary = primary(&scene, &["t"]);
    let standby = scene.vacant("standby");
    for (what, options) in [("a seed", &["--compress", "none"][..]), ("a rebuild", &[])] {
        let began = Instant::now();
        let said = Rebuild::new(&standby, &primary)
            .args(["--max-rate", "16M"])
            .args(options)
            .succeed();
        let took = began.elapsed();
        let read = said.number("compared_bytes") + said.number("fetched_bytes");
        let least = Duration::from_millis(read * 1000 / (16 * MIB));
        // What is asked for within the first moment comes at once.
        assert!(
            took + Duration::from_millis(500) > least,
            "{what}: {read} bytes in {took:?}: {said}"
        );
        assert!(least > Duration::from_secs(1), "{what}: {read} bytes");
    }
}

#[test]
fn agent_lets_others_go_first() {
    let scene = Scene::new();
    let primary = primary(&scene, &["t"]);
    let standby = scene.vacant("standby");
    let own = getpriority_process(None).unwrap();
    let mut running = Rebuild::new(&standby, &primary)
        .args(["--max-rate", "32k"])
        .spawn();
    running.wait_closed(&standby);
    let client = getpriority_process(Some(running.pid())).unwrap();
    assert_eq!(client, own, "the client is as any program");
    let agents = children_of(running.pid());
    assert_eq!(agents.len(), 1);
    for thread in threads_of(agents[0]) {
        let nice = getpriority_process(Some(thread)).unwrap();
        assert!(nice >= 10, "{thread:?} of the agent has {nice}");
    }
    running.kill();
    drop(running);
    eventually("the source is as it was", DEADLINE, || {
        (primary.sql("SELECT count(*) FROM pg_replication_slots") == "0").then_some(())
    });
}

fn threads_of(process: Pid) -> Vec<Pid> {
    let folder = format!("/proc/{}/task", process.as_raw_nonzero());
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let number = entry.unwrap().file_name().into_string().unwrap();
            Pid::from_raw(number.parse().unwrap()).unwrap()
        })
        .collect()
}

/// A relation grows by blocks of zeros, and a file that was copied cleverly has holes: neither is content.
#[test]
fn zeros_and_holes_do_not_travel() {
    let scene = Scene::new();
    let mut primary = primary(&scene, &["holes", "zeros"]);
    let (holes, zeros) = (file_of(&primary, "holes"), file_of(&primary, "zeros"));
    primary.stop(Stop::Fast);
    let grow = format!(
        "truncate -s +64M {}; head -c 64M /dev/zero >> {}",
        holes.display(),
        zeros.display()
    );
    done(Command::new("sh").args(["-c", &grow]));
    primary.start();
    let standby = scene.vacant("standby");
    let said = Rebuild::new(&standby, &primary)
        .args(["--compress", "none"])
        .succeed();
    let content = said.number("fetched_bytes") - 128 * MIB;
    let received = said.number("wire_received_bytes");
    assert!(received < content + 20 * MIB, "{received}: {said}");
    for path in ["holes", "zeros"] {
        let path = primary.sql(&format!("SELECT pg_relation_filepath('{path}')"));
        let metadata = fs::metadata(standby.pgdata().join(path)).unwrap();
        assert!(metadata.len() > 64 * MIB);
        assert!(metadata.blocks() * 512 < metadata.len() - 60 * MIB);
    }
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
}
