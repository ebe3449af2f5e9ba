//! Programs, what the majors say otherwise, waiting, processes, dice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Pid;

/// Where the PostgreSQL programs are.
pub fn bindir() -> PathBuf {
    std::env::var_os("PG_RESEED_TEST_BINDIR").map_or_else(
        || PathBuf::from("/usr/lib/postgresql/15/bin"),
        PathBuf::from,
    )
}

/// The major version of the programs there.
pub fn major() -> u32 {
    static MAJOR: OnceLock<u32> = OnceLock::new();
    *MAJOR.get_or_init(|| {
        let said = done(tool("postgres").arg("--version"));
        let version = said.split_whitespace().nth(2).unwrap();
        // 18.4, 19rc1
        let digits = version.split(|c: char| !c.is_ascii_digit()).next();
        digits.unwrap().parse().unwrap()
    })
}

/// A text with its LSNs as the servers before 19 write them: those since write 0/0300A000 for 0/300A000.
pub fn plain_lsns(text: &str) -> String {
    let mut parts = text.split('/');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.chars().take_while(char::is_ascii_hexdigit).count();
        let is_lsn = digits == 8 && plain.ends_with(|c: char| c.is_ascii_hexdigit());
        let zeros = part.chars().take_while(|c| *c == '0').count().min(7);
        plain.push('/');
        plain.push_str(if is_lsn { &part[zeros..] } else { part });
    }
    plain
}

/// What 15 says otherwise than the majors before it; the other way round, messages are made those of 15.
const SINCE_15: [(&str, &str); 2] = [
    (
        "pg_backup_start(text, boolean)",
        "pg_start_backup(text, boolean, boolean)",
    ),
    (
        "pg_backup_stop(boolean)",
        "pg_stop_backup(boolean, boolean)",
    ),
];

/// A script as this major understands it.
pub fn for_this_major(sql: &str) -> String {
    if major() >= 15 {
        return sql.to_owned();
    }
    // There is one strategy only.
    let mut sql = sql
        .replace(" STRATEGY file_copy", "")
        .replace(" STRATEGY wal_log", "");
    for (new, old) in SINCE_15 {
        sql = sql.replace(new, old);
    }
    sql
}

/// A message of the program as it would be with 15.
pub fn as_of_15(message: &str) -> String {
    let mut message = message
        .replace(&format!("PostgreSQL {}", major()), "PostgreSQL 15")
        .replace(&format!("PG_{}_", major()), "PG_15_");
    for (new, old) in SINCE_15 {
        message = message.replace(old, new);
    }
    message
        // From 16 on.
        .replace(
            "permission denied to start WAL sender",
            "must be superuser or replication role to start walsender",
        )
        // Up to 13.
        .replace("\"postgres\", SSL off", "\"postgres\", no encryption")
}

/// The binary under test: the one just built, or any other by `PG_RESEED_TEST_BINARY`.
pub fn binary() -> PathBuf {
    std::env::var_os("PG_RESEED_TEST_BINARY").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_pg_reseed")),
        PathBuf::from,
    )
}

/// A PostgreSQL program with an environment that no user's settings reach.
pub fn tool(name: &str) -> Command {
    clean(Command::new(bindir().join(name)))
}

/// Removes what could change the meaning of a test from the environment of `command`.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    command
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .stdin(Stdio::null());
    command
}

/// Runs `command` to its end; panics with all it said when it fails.
pub fn done(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        said(&output)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Waits until `condition` gives a value; panics with `what` when it does not come in time.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            begin.elapsed() < deadline,
            "waited {deadline:?} in vain: {what}"
        );
        pause(Duration::from_millis(10));
    }
}

/// The one sleep of these tests: between two looks at a condition, and before a kill at a random moment.
#[allow(
    clippy::disallowed_methods,
    reason = "polling needs it, and no runtime is near"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Small deterministic random numbers (SplitMix64); the seed of a failed run is in its output.
pub struct Dice(u64);

impl Dice {
    /// Seeded by `PG_RESEED_TEST_SEED` or the clock.
    pub fn new(test: &str) -> Self {
        let seed = std::env::var("PG_RESEED_TEST_SEED").map_or_else(
            |_| {
                let now = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap();
                u64::try_from(now.as_nanos() & u128::from(u32::MAX)).unwrap()
            },
            |seed| seed.parse().unwrap(),
        );
        eprintln!("{test}: PG_RESEED_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// A place in what has so many.
    pub fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(u64::try_from(count).unwrap())).unwrap()
    }

    /// One of these.
    pub fn any<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }
}

/// As [`eventually`], for conditions that can say why they do not hold yet.
pub fn eventually_with<T>(
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let begin = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(why) => assert!(
                begin.elapsed() < deadline,
                "waited {deadline:?} in vain: {why}"
            ),
        }
        pause(Duration::from_millis(20));
    }
}

/// Whether there is a process of this number, if only one that waits to be reaped: it would still count as
/// the owner of a lock file.
pub fn exists(pid: Pid) -> bool {
    Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()
}

/// Whether the process runs (a zombie that nobody has reaped yet does not).
pub fn alive(pid: Pid) -> bool {
    let stat =
        fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The state is the first field after the name in brackets.
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X')))
}

/// The direct children of a process.
pub fn children_of(pid: Pid) -> Vec<Pid> {
    let parent = pid.as_raw_nonzero().get();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let its_parent = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
            its_parent == Some(parent)
        })
        .filter_map(Pid::from_raw)
        .collect()
}
