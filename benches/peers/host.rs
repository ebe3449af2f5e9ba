//! This machine: who we are on it, its page cache, its counters, and how it is described beside the figures.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::Result;

/// Bytes that went over the loopback interface, in packets of every protocol, since the machine started.
const LOOPBACK_BYTES: &str = "/sys/class/net/lo/statistics/tx_bytes";

/// Where the PostgreSQL programs are.
pub fn bindir() -> PathBuf {
    std::env::var_os("PG_RESEED_BENCH_BINDIR").map_or_else(
        || PathBuf::from("/usr/lib/postgresql/15/bin"),
        PathBuf::from,
    )
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The unprivileged user whom root makes the servers and tools run as.
pub fn user() -> String {
    std::env::var("PG_RESEED_BENCH_USER").unwrap_or_else(|_| "postgres".to_owned())
}

/// Numbers of the unprivileged user and its group.
pub fn user_ids() -> Result<(u32, u32)> {
    static IDS: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    let number = |option| said("id", &[option, &user()])?.parse::<u32>().ok();
    let ids = *IDS.get_or_init(|| number("-u").zip(number("-g")));
    ids.ok_or_else(|| format!("there is no user \"{}\"", user()).into())
}

/// Empties the page cache. What is dirty cannot leave it, so it is written first.
pub fn drop_page_cache() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")
        .map_err(|error| format!("could not drop the page cache: {error}").into())
}

/// Whether the page cache can be dropped here.
pub fn can_drop_page_cache() -> bool {
    is_root() && fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// The machine's memory; 0 where it is not known.
pub fn memory_bytes() -> u64 {
    let kilobytes = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let number = kilobytes
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    number.unwrap_or(0) * 1024
}

pub fn loopback_bytes() -> Result<u64> {
    let text = fs::read_to_string(LOOPBACK_BYTES)?;
    Ok(text.trim().parse()?)
}

/// A TCP port that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Bytes that are free below `path`.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let space = rustix::fs::statvfs(path)?;
    Ok(space.f_bavail * space.f_frsize)
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What a reader must know to judge the figures.
pub fn description(pg_reseed: &Path) -> Value {
    let bindir = bindir();
    let postgres = bindir.join("postgres");
    let version = |program: &Path, option| {
        said(program, &[option])
            .and_then(|text| text.lines().next().map(str::to_owned))
            .unwrap_or_else(|| "absent".to_owned())
    };
    json!({
        "date": said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        "command": std::env::args().skip(1).filter(|word| word != "--bench").collect::<Vec<_>>().join(" "),
        "commit": said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
        "cores": cores(),
        "cpu": field("/proc/cpuinfo", "model name"),
        "memory": field("/proc/meminfo", "MemTotal"),
        "kernel": said("uname", &["-sr"]),
        "file_system": said("stat", &["-f", "-c", "%T", &std::env::temp_dir().display().to_string()]),
        "pg_reseed": version(pg_reseed, "--version"),
        "postgres": version(&postgres, "--version"),
        "rsync": version(Path::new("rsync"), "--version"),
        "pgbackrest": version(Path::new("pgbackrest"), "version"),
    })
}

/// The value after `name :` in one of the kernel's text files.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn said(program: impl AsRef<std::ffi::OsStr>, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Installs what is missing of the peers, as root; returns those that are absent nevertheless.
pub fn absent_peers() -> Vec<&'static str> {
    let absent = || {
        ["rsync", "pgbackrest"]
            .into_iter()
            .filter(|name| {
                said(
                    name,
                    &[if *name == "rsync" {
                        "--version"
                    } else {
                        "version"
                    }],
                )
                .is_none()
            })
            .collect::<Vec<_>>()
    };
    let missing = absent();
    if !missing.is_empty() && is_root() {
        crate::say(&format!("Installing {}", missing.join(" and ")));
        // When it fails, the peer stays absent, and that is said.
        let _ = Command::new("apt-get")
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output();
    }
    absent()
}

/// CPU time of this process and its threads so far, in seconds. `/proc/self/stat` counts in hundredths (`USER_HZ`).
pub fn own_cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Behind the name, which may hold anything: the state is the first, user and system time the 12th and 13th.
    let words: Vec<_> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .collect();
    let ticks = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let ticks = ticks(11)
        .zip(ticks(12))
        .ok_or("/proc/self/stat is strange")?;
    Ok((ticks.0 + ticks.1) as f64 / 100.0)
}
