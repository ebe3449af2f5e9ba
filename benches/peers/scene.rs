//! The clusters of the benchmark: an old primary and the standby that was promoted in its place, made as a
//! failover makes them, and the states of the old primary that the shapes begin with.

use std::path::Path;

use crate::Result;
use crate::cgroup::Side;
use crate::cluster::{Server, Site, initdb};
use crate::failover;
use crate::filler;
use crate::process::{Runner, done, give};

/// Settings for the building, where nothing is measured and everything can be made again.
const FAST: [&str; 1] = ["fsync=off"];
/// A load without WAL.
const LOAD: [&str; 6] = [
    "fsync=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "wal_keep_size=0",
    "maintenance_work_mem=512MB",
    "checkpoint_timeout=1d",
];
/// Files of a table of the cluster with many files: itself, its visibility map and its primary key.
const FILES_PER_TABLE: u64 = 3;
/// Databases among which those files are divided.
const MANY_DATABASES: u64 = 20;

/// A promoted standby, running, and the old primary, stopped.
pub struct Pair<'a> {
    /// None only while it is put back.
    running: Option<Server<'a>>,
    place: Site,
    /// The source as it was before the first run.
    saved: Site,
    /// The old primary before anybody wrote to it behind the new one's back.
    old: Site,
    /// A digest of the rows of the source, where a tool may leave pages that differ in what means nothing.
    pub rows: Option<String>,
    runner: &'a Runner,
}

impl<'a> Pair<'a> {
    pub fn source(&self) -> Result<&Server<'a>> {
        Ok(self.running.as_ref().ok_or("the source is stopped")?)
    }

    /// Makes the pair: `load` fills the old primary; `part` gets it and its standby, both running, and leaves them
    /// stopped, the standby promoted; `finish` sees the source.
    fn build(
        folder: &Path,
        runner: &'a Runner,
        load: impl FnOnce(&Server) -> Result<()>,
        part: impl FnOnce(Server, Server) -> Result<()>,
        finish: impl FnOnce(&Server) -> Result<()>,
    ) -> Result<Self> {
        let site = |name: &str| Site::create(folder.join(name));
        let (old, place, saved) = (site("old")?, site("new")?, site("saved-new")?);
        initdb(&old, runner)?;
        let server = Server::start(&old, None, &LOAD, runner)?;
        load(&server)?;
        server.stop()?;

        let primary = Server::start(&old, None, &FAST, runner)?;
        // A first standby by pg_basebackup: file times differ from the primary's, as they do in life.
        basebackup(&primary, &place, runner)?;
        let standby = Server::start(&place, None, &FAST, runner)?;
        primary.await_standby()?;
        part(primary, standby)?;

        let source = Server::start(&place, Some(Side::Source), &[], runner)?;
        finish(&source)?;
        source.ask("postgres", "CHECKPOINT")?;
        source.stop()?;
        saved.put_back(&place)?;
        rustix::fs::sync();
        let running = Some(Server::start(&place, Some(Side::Source), &[], runner)?);
        Ok(Self {
            running,
            place,
            saved,
            old,
            rows: None,
            runner,
        })
    }

    /// Puts the source back to what it was before the first run: each run leaves WAL behind, which
    /// pg_rewind would copy.
    pub fn put_source_back(&mut self) -> Result<()> {
        if let Some(server) = self.running.take() {
            server.stop()?;
        }
        self.place.put_back(&self.saved)?;
        self.running = Some(Server::start(
            &self.place,
            Some(Side::Source),
            &[],
            self.runner,
        )?);
        Ok(())
    }

    /// Makes `state` an old primary that took writes behind the new one's back, and was stopped.
    pub fn diverge(&self, state: &Site, write: impl FnOnce(&Server) -> Result<()>) -> Result<()> {
        state.put_back(&self.old)?;
        let server = Server::start(state, None, &["fsync=off"], self.runner)?;
        write(&server)?;
        server.ask("postgres", "CHECKPOINT")?;
        server.stop()
    }

    /// Makes `state` the old primary as it was when the histories had parted.
    pub fn crashed(&self, state: &Site) -> Result<()> {
        state.put_back(&self.old)
    }

    /// Makes `state` a copy of the source, taken while it was stopped.
    pub fn twin(&self, state: &Site) -> Result<()> {
        state.put_back(&self.saved)
    }

    pub fn saved(&self) -> &Site {
        &self.saved
    }
}

/// The standby is promoted, and both go on: the histories part.
fn switch_over(primary: Server, standby: Server) -> Result<()> {
    standby.ask("postgres", "SELECT pg_promote()")?;
    standby.ask("postgres", "CHECKPOINT")?;
    primary.ask("postgres", "SELECT pg_switch_wal()")?;
    standby.ask("postgres", "SELECT txid_current()")?;
    primary.stop()?;
    standby.stop()
}

fn basebackup(primary: &Server, place: &Site, runner: &Runner) -> Result<()> {
    let mut tool = runner.postgres_tool("pg_basebackup");
    tool.args(["-d", &primary.local_conninfo(), "-c", "fast", "-R", "-N"]);
    tool.arg("-D").arg(place.data());
    for (from, to) in primary.site.spaces().iter().zip(place.spaces()) {
        tool.arg("-T")
            .arg(format!("{}={}", from.display(), to.display()));
    }
    done(&mut tool)?;
    Ok(())
}

/// pgbench's tables with text instead of blanks, and two tables in tablespaces: at scale 100 about 1.8 GB.
pub fn pgbench<'a>(
    folder: &Path,
    scale: u64,
    runner: &'a Runner,
    finish: impl FnOnce(&Server) -> Result<()>,
) -> Result<Pair<'a>> {
    Pair::build(
        folder,
        runner,
        |server| load_pgbench(server, scale, runner),
        switch_over,
        finish,
    )
}

/// The same tables, whose old primary was killed under load; also what is to be said of it.
pub fn failover<'a>(
    folder: &Path,
    scale: u64,
    runner: &'a Runner,
    finish: impl FnOnce(&Server) -> Result<()>,
) -> Result<(Pair<'a>, String)> {
    let mut story = String::new();
    let mut rows = None;
    let mut pair = Pair::build(
        folder,
        runner,
        |server| load_pgbench(server, scale, runner),
        |primary, standby| {
            story = failover::play(primary, standby, scale, runner)?;
            Ok(())
        },
        |source| {
            rows = Some(failover::rows(source)?);
            finish(source)
        },
    )?;
    pair.rows = rows;
    Ok((pair, story))
}

fn load_pgbench(server: &Server, scale: u64, runner: &Runner) -> Result<()> {
    let steps = |steps: &str| {
        let mut tool = runner.postgres_tool("pgbench");
        // Some room in each page, so that a changed row stays in its page and changes no other.
        tool.args(["-i", "-q", "-F", "95", "-I", steps, "-U", "postgres"]);
        tool.args(["-s", &scale.to_string(), "-p", &server.port.to_string()]);
        done(tool.arg("-h").arg(server.site.folder()).arg("postgres"))
    };
    steps("dt")?;
    server.run_script("postgres", |out| {
        writeln!(out, "BEGIN; TRUNCATE pgbench_accounts, pgbench_branches, pgbench_tellers;")?;
        writeln!(out, "INSERT INTO pgbench_branches SELECT i, 0 FROM generate_series(1, {scale}) AS i;")?;
        writeln!(
            out,
            "INSERT INTO pgbench_tellers SELECT i, (i - 1) / 10 + 1, 0 FROM generate_series(1, {scale} * 10) AS i;"
        )?;
        writeln!(out, "COPY pgbench_accounts FROM STDIN (FREEZE);")?;
        filler::accounts(out, scale)?;
        writeln!(out, "\\.\nCOMMIT;")
    })?;
    for (seed, space) in (2..).zip(server.site.spaces()) {
        let name = space
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let statement = format!("CREATE TABLESPACE {name} LOCATION '{}'", space.display());
        server.ask("postgres", &statement)?;
        server.run_script("postgres", |out| {
            writeln!(
                out,
                "BEGIN; CREATE TABLE documents_{name} (id int, body text) TABLESPACE {name};"
            )?;
            writeln!(out, "COPY documents_{name} FROM STDIN (FREEZE);")?;
            filler::documents(out, seed, scale * 6_000)?;
            writeln!(out, "\\.\nCOMMIT;")
        })?;
    }
    steps("vp")?;
    server.ask("postgres", "VACUUM (FREEZE)")?;
    Ok(())
}

/// Changes one row in every `step`th block of the big table, and nothing else.
pub fn touch_every(server: &Server, step: u64) -> Result<()> {
    let statement = format!(
        "UPDATE pgbench_accounts SET abalance = abalance + 1
          WHERE ctid = ANY (ARRAY(SELECT format('(%s,1)', block)::tid
                FROM generate_series(0, pg_relation_size('pgbench_accounts') / 8192 - 1, {step}) AS block))"
    );
    server.ask("postgres", &statement)?;
    Ok(())
}

/// A cluster of many small relations in several databases.
pub fn many<'a>(folder: &Path, files: u64, runner: &'a Runner) -> Result<Pair<'a>> {
    Pair::build(
        folder,
        runner,
        |server| load_many(server, files),
        switch_over,
        |_| Ok(()),
    )
}

fn load_many(server: &Server, files: u64) -> Result<()> {
    let tables = files.div_ceil(MANY_DATABASES * FILES_PER_TABLE);
    server.ask("postgres", "CREATE DATABASE tenant_1")?;
    server.run_script("tenant_1", |out| {
        // Locks are kept to the end of a transaction, so not all in one.
        for first in (1..=tables).step_by(500) {
            let last = tables.min(first + 499);
            writeln!(
                out,
                "DO $$ BEGIN FOR i IN {first}..{last} LOOP
                    EXECUTE format('CREATE TABLE t_%s (id int PRIMARY KEY, value int)', i);
                    EXECUTE format('INSERT INTO t_%s SELECT i, i FROM generate_series(1, 20) AS i', i);
                 END LOOP; END $$;"
            )?;
        }
        writeln!(out, "VACUUM (FREEZE);")
    })?;
    for number in 2..=MANY_DATABASES {
        // Copies files, where creating the tables would execute a statement for each.
        let statement =
            format!("CREATE DATABASE tenant_{number} TEMPLATE tenant_1 STRATEGY file_copy");
        server.ask("postgres", &statement)?;
    }
    Ok(())
}

/// Changes a row in every hundredth table.
pub fn touch_many(server: &Server) -> Result<()> {
    for number in 1..=MANY_DATABASES {
        server.ask(
            &format!("tenant_{number}"),
            "DO $$ DECLARE name text; BEGIN
                FOR name IN SELECT relname FROM pg_class WHERE relname ~ '^t_[0-9]*00$' LOOP
                    EXECUTE format('UPDATE %I SET value = value + 1 WHERE id = 1', name);
                END LOOP; END $$",
        )?;
    }
    Ok(())
}

/// A folder for the clusters of one family of shapes, removed when it is dropped.
pub fn folder(parent: &Path, name: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix(name).tempdir_in(parent)?;
    give(folder.path())?;
    Ok(folder)
}

/// The target of all runs, and the state that it is put back to.
pub struct Target {
    pub site: Site,
    pub state: Site,
}

impl Target {
    pub fn create(folder: &Path) -> Result<Self> {
        let site = |name: &str| Site::create(folder.join(name));
        Ok(Self {
            site: site("target")?,
            state: site("state")?,
        })
    }
}
