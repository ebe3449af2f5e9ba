//! A failover as it happens under load: a primary that is written to and read, and a standby that is read, with
//! checkpoints; the way between them is cut, the primary takes transactions that nobody else has, and is killed;
//! the standby is promoted and used.
//!
//! Pages whose rows both sides have in common then differ nevertheless, in what means nothing: each side has set hint
//! bits, which are not in the WAL of a page that is dirty already, has noted what might be pruned, and has left
//! other bytes in the hole of a page. Reading is enough for that. How many such pages there are beside those
//! with other rows depends on how long the clusters lived before and after the failover. That is a choice, made
//! before anything was measured: see the numbers below.
//!
//! Seeds and numbers of transactions are given, so that the same pages are written to each time; which client comes
//! first, and at which transaction the primary is hit, is chance.

use std::process::Command;
use std::thread;

use crate::Result;
use crate::cluster::Server;
use crate::process::{Background, Runner, done, eventually};

/// From one checkpoint to the next; in the last there is none before the failover.
const CYCLES: u64 = 4;
/// Transactions that write, per unit of pgbench's scale: in each half of a cycle, between which all is scanned.
const WRITES_PER_HALF: u64 = 50;
/// Before and after the way is cut, until the primary is killed.
const WRITES_LAST: u64 = 5;
/// On the new primary.
const WRITES_AFTER: u64 = 40;
/// Transactions that look up a row, for each that writes; on the standby there are as many.
const READS_PER_WRITE: u64 = 3;

const CLIENTS: u64 = 4;
const THREADS: u64 = 2;
/// More than any run comes to.
const ENDLESS: u64 = 1_000_000_000;
/// How long a number of transactions may take.
const DEADLINE_SECONDS: u64 = 600;

/// While both live, no more WAL is kept than is needed: pg_rewind copies all that the source has.
const FRUGAL: [(&str, &str); 2] = [("wal_keep_size", "512MB"), ("wal_recycle", "off")];

/// Reads each of the tables that are written to as a whole.
const SCAN: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
     (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)";

/// Plays it, from the servers' normal life to both being stopped; returns what the old primary alone has.
pub fn play(primary: Server, standby: Server, scale: u64, runner: &Runner) -> Result<String> {
    for (name, value) in FRUGAL {
        for server in [&primary, &standby] {
            server.set(name, Some(value))?;
        }
    }
    let mut seeds = 1..;
    let mut seed = || seeds.next().unwrap_or_default();
    for cycle in 1..=CYCLES {
        live(&primary, &standby, scale, seed(), runner)?;
        scan(&primary, &standby)?;
        live(&primary, &standby, scale, seed(), runner)?;
        if cycle < CYCLES {
            primary.ask("postgres", "CHECKPOINT")?;
            primary.await_standby()?;
            standby.ask("postgres", "CHECKPOINT")?;
        }
    }
    let last = part(primary, &standby, scale, seed(), runner)?;

    standby.ask("postgres", "SELECT pg_promote()")?;
    let kept = transactions(&standby)?;
    if last <= kept {
        return Err("the old primary has nothing of its own".into());
    }
    standby.ask("postgres", "CHECKPOINT")?;
    standby.ask("postgres", SCAN)?;
    let mixed = Load::mixed(scale * WRITES_AFTER, seed());
    done(&mut mixed.command(&standby, runner))?;
    // Twice: the first prunes what the second finds.
    standby.ask("postgres", SCAN)?;
    standby.ask("postgres", SCAN)?;
    let own = transactions(&standby)? - kept;
    standby.stop()?;
    Ok(format!(
        "failover: {kept} transactions that wrote are common; then the old primary had at least {} of its own before it \
         was killed under load, and the new one {own}",
        last - kept
    ))
}

/// Digests of all rows of all tables.
pub fn rows(server: &Server) -> Result<String> {
    let tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1";
    let mut all = String::new();
    for table in server.ask("postgres", tables)?.lines() {
        let statement = format!(
            "SELECT '{table}', count(*), sum(hashtextextended(t::text, 0)) FROM {table} AS t"
        );
        all += &server.ask("postgres", &statement)?;
        all.push('\n');
    }
    Ok(all)
}

/// The primary is written to and read, and the standby is read.
fn live(primary: &Server, standby: &Server, scale: u64, seed: u64, runner: &Runner) -> Result<()> {
    let writes = scale * WRITES_PER_HALF;
    let reads = Load {
        scripts: vec!["select-only@1".to_owned()],
        transactions: writes * READS_PER_WRITE,
        seed,
    };
    let mut reads = reads.command(standby, runner);
    let mut mixed = Load::mixed(writes, seed).command(primary, runner);
    at_once(|| done(&mut mixed), || done(&mut reads))?;
    primary.await_standby()
}

fn scan(primary: &Server, standby: &Server) -> Result<()> {
    let scanned = |server: &Server| server.ask("postgres", SCAN);
    at_once(|| scanned(primary), || scanned(standby))
}

/// The way between both is cut under load, and then the primary is killed; returns how many transactions it had.
fn part(primary: Server, standby: &Server, scale: u64, seed: u64, runner: &Runner) -> Result<u64> {
    let mixed = Load {
        transactions: ENDLESS,
        ..Load::mixed(0, seed)
    };
    let load = Background::start(&mut mixed.command(&primary, runner))?;
    await_more(&primary, scale * WRITES_LAST)?;
    standby.set("primary_conninfo", Some(""))?;
    eventually("the standby receives nothing", DEADLINE_SECONDS, || {
        let receivers = standby.ask("postgres", "SELECT count(*) FROM pg_stat_wal_receiver")?;
        Ok((receivers == "0").then_some(()))
    })?;
    // From now on all WAL stays that pg_rewind may ask for.
    for (name, _) in FRUGAL {
        for server in [&primary, standby] {
            server.set(name, None)?;
        }
    }
    standby.set("primary_conninfo", None)?;
    let last = await_more(&primary, scale * WRITES_LAST)?;
    primary.crash()?;
    drop(load);
    Ok(last)
}

/// Waits for so many transactions that write; returns how many there are then.
fn await_more(server: &Server, writes: u64) -> Result<u64> {
    let until = transactions(server)? + writes;
    eventually("transactions", DEADLINE_SECONDS, || {
        let now = transactions(server)?;
        Ok((now >= until).then_some(now))
    })
}

/// Transactions that have written so far: each leaves a row.
fn transactions(server: &Server) -> Result<u64> {
    Ok(server
        .ask("postgres", "SELECT count(*) FROM pgbench_history")?
        .parse()?)
}

/// A run of pgbench.
struct Load {
    /// pgbench's own, with their weights.
    scripts: Vec<String>,
    /// Of all clients together.
    transactions: u64,
    seed: u64,
}

impl Load {
    /// Writes, and reads between them.
    fn mixed(writes: u64, seed: u64) -> Self {
        Self {
            scripts: vec![
                "tpcb-like@1".to_owned(),
                format!("select-only@{READS_PER_WRITE}"),
            ],
            transactions: writes * (1 + READS_PER_WRITE),
            seed,
        }
    }

    fn command(&self, server: &Server, runner: &Runner) -> Command {
        let mut command = runner.postgres_tool("pgbench");
        command.args(["-n", "-U", "postgres"]);
        for script in &self.scripts {
            command.args(["-b", script]);
        }
        for (option, value) in [
            ("-c", CLIENTS),
            ("-j", THREADS),
            ("-t", self.transactions.div_ceil(CLIENTS)),
            ("--random-seed", self.seed),
            ("-p", u64::from(server.port)),
        ] {
            command.args([option, &value.to_string()]);
        }
        command.arg("-h").arg(server.site.folder()).arg("postgres");
        command
    }
}

/// Does both at once, to the end of both.
fn at_once(
    one: impl FnOnce() -> Result<String>,
    other: impl FnOnce() -> Result<String> + Send,
) -> Result<()> {
    thread::scope(|scope| {
        let other = scope.spawn(other);
        let one = one();
        let other = other.join().map_err(|_| "a thread panicked")?;
        one.and(other)?;
        Ok(())
    })
}
