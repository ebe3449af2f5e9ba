//! Sessions and load that run beside a test.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use super::DEADLINE;
use super::server::Cluster;
use super::tools::{done, eventually, for_this_major, said};

/// A session that runs beside the test.
pub struct Session {
    child: Option<Child>,
}

impl Session {
    pub fn new(child: Child) -> Self {
        Self { child: Some(child) }
    }

    pub fn running(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<String, String> {
        eventually("the session ends", DEADLINE, || {
            (!self.running()).then_some(())
        });
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned())
        } else {
            Err(said(&output))
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `pgbench` running against a server until it is stopped.
pub struct Load {
    child: Option<Child>,
    name: &'static str,
    log: PathBuf,
}

impl Load {
    /// Starts two sessions of the standard transaction; the tables must be there.
    pub fn start(cluster: &Cluster, seed: u64) -> Self {
        let before = Self::transactions(cluster);
        let load = Self::spawn(cluster, seed, "load", &["--client=2"]);
        eventually("pgbench has begun", DEADLINE, || {
            (Self::transactions(cluster) > before).then_some(())
        });
        load
    }

    /// Starts a session that repeats `script`, a statement a line.
    pub fn script(cluster: &Cluster, seed: u64, script: &str) -> Self {
        let file = cluster.home().join("load.sql");
        fs::write(&file, for_this_major(script)).unwrap();
        Self::spawn(
            cluster,
            seed,
            "script",
            &["--client=1", "--file", file.to_str().unwrap()],
        )
    }

    fn spawn(cluster: &Cluster, seed: u64, name: &'static str, options: &[&str]) -> Self {
        let log = cluster.home().join(format!("{name}.log"));
        let child = cluster
            .client("pgbench")
            .env("PGAPPNAME", name)
            .args(["--no-vacuum", "--time=3600"])
            .args(options)
            .arg(format!("--random-seed={}", seed & u64::from(u32::MAX)))
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            child: Some(child),
            name,
            log,
        }
    }

    fn transactions(cluster: &Cluster) -> u64 {
        cluster
            .sql("SELECT count(*) FROM pgbench_history")
            .parse()
            .unwrap()
    }

    /// Lets pgbench run for so many transactions.
    pub fn run_for(cluster: &Cluster, transactions: u64, seed: u64) {
        done(
            cluster
                .client("pgbench")
                .args(["--no-vacuum", "--client=1"])
                .arg(format!("--transactions={transactions}"))
                .arg(format!("--random-seed={}", seed & u64::from(u32::MAX))),
        );
    }

    /// Fills the standard tables.
    pub fn init(cluster: &Cluster, scale: u32) {
        done(
            cluster
                .client("pgbench")
                .args(["--initialize", "--quiet", "--init-steps=dtgp"])
                .arg(format!("--scale={scale}")),
        );
    }

    /// Ends the load; it must have been running until now.
    pub fn stop(mut self, cluster: &Cluster) {
        let mut child = self.child.take().unwrap();
        assert!(
            child.try_wait().unwrap().is_none(),
            "pgbench ended by itself: {}",
            fs::read_to_string(&self.log).unwrap()
        );
        child.kill().unwrap();
        child.wait().unwrap();
        // Its sessions end with their statement.
        let name = self.name;
        cluster.wait_sql(
            &format!("SELECT min(query) FROM pg_stat_activity WHERE application_name = '{name}'"),
            "",
        );
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
