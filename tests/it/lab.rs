//! The classic replication lab, step by step, as it is taught on Debian: two instances made by
//! `pg_createcluster`, their configuration under /etc/postgresql (here a folder of that shape), switched
//! over and back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pg_reseed::wire::message::Answer;

use crate::between::between;
use crate::cluster::{Cluster, Rebuild, Said, Scene, Stop, binary, clean, done, major};
use crate::oracle::{Tree, assert_same_data, tree};
use crate::traps::auto_conf_lines;

const PASSWORD: &str = r"s3cret:p'w\d";

struct Lab {
    scene: Scene,
    etc: PathBuf,
    passfile: PathBuf,
}

impl Lab {
    /// Needs postgresql-common, which knows Debian's own major only.
    fn new() -> Option<Self> {
        if major() != 15 {
            eprintln!(
                "the lab is on PostgreSQL 15, these tests run on {}",
                major()
            );
            return None;
        }
        let scene = Scene::new();
        let etc = scene.folder("etc");
        let passfile = scene.path().join("pgpass");
        let escaped = PASSWORD.replace('\\', r"\\").replace(':', r"\:");
        fs::write(&passfile, format!("*:*:replication:repli:{escaped}\n")).unwrap();
        fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
        Some(Self {
            scene,
            etc,
            passfile,
        })
    }

    fn debian(&self, program: &str) -> Command {
        let mut command = clean(Command::new(program));
        command.env("PG_CLUSTER_CONF_ROOT", &self.etc);
        command
    }

    fn conf(&self, cluster: &Cluster) -> PathBuf {
        self.etc.join("15").join(cluster.name())
    }

    /// `pg_createcluster 15 NAME`, with the lab's replication settings in its conf.d and pg_hba.conf.
    fn create(&self, name: &str, port: u16) -> Cluster {
        let cluster = self.scene.vacant(name).on_port(port);
        done(
            self.debian("pg_createcluster")
                .args([
                    "15",
                    name,
                    "--start-conf=manual",
                    "--locale=C.UTF-8",
                    "--encoding=UTF8",
                ])
                .arg(format!("--port={port}"))
                .arg(format!("--datadir={}", cluster.pgdata().display()))
                .arg(format!("--socketdir={}", cluster.home().display()))
                .arg(format!("--logfile={}", cluster.log_path().display()))
                .args(["--", "--data-checksums", "--no-sync", "--username=postgres"]),
        );
        let conf = self.conf(&cluster);
        fs::write(
            conf.join("conf.d/lab.conf"),
            "listen_addresses = ''\nssl = off\nfsync = off\nshared_buffers = 32MB\nwal_retrieve_retry_interval = 200ms\n",
        )
        .unwrap();
        let hba = fs::read_to_string(conf.join("pg_hba.conf")).unwrap();
        fs::write(
            conf.join("pg_hba.conf"),
            format!("local all postgres trust\nlocal replication repli scram-sha-256\n{hba}"),
        )
        .unwrap();
        cluster
    }

    /// instance1, running, with a role for replication.
    fn primary(&self) -> Cluster {
        let one = self.create("instance1", 5501);
        self.control(&one, "start", &[]);
        one.sql(&format!(
            "CREATE ROLE repli LOGIN REPLICATION PASSWORD '{}'",
            PASSWORD.replace('\'', "''")
        ));
        one
    }

    fn control(&self, cluster: &Cluster, action: &str, options: &[&str]) {
        done(
            self.debian("pg_ctlcluster")
                .args(["15", cluster.name(), action])
                .args(options),
        );
    }

    /// What the DBA types to make `target` a standby of `source`.
    fn rebuild(&self, target: &Cluster, source: &Cluster) -> Said {
        let conf = self.conf(target).join("postgresql.conf");
        self.command(target, source)
            .arg("--config-file")
            .arg(conf)
            .succeed()
    }

    fn command(&self, target: &Cluster, source: &Cluster) -> Rebuild {
        self.command_from(target, source, "local")
            .arg("--source-dbname")
            .arg(format!("{} dbname=postgres", source.conninfo()))
    }

    /// By an agent of the test's own.
    fn command_from(&self, target: &Cluster, source: &Cluster, from: &str) -> Rebuild {
        let primary = format!(
            "host={} port={} user=repli passfile={}",
            source.home().display(),
            source
                .conninfo()
                .split("port=")
                .nth(1)
                .unwrap()
                .split(' ')
                .next()
                .unwrap(),
            self.passfile.display()
        );
        Rebuild::without_name(target, &primary).args(["--from", from])
    }

    /// The steps that make sure of a standby.
    fn check_replication(primary: &Cluster, standby: &Cluster) {
        let name = format!("15/{}", standby.name());
        primary.wait_sql(
            &format!(
                "SELECT usename, state FROM pg_stat_replication WHERE application_name = '{name}'"
            ),
            "repli|streaming",
        );
        standby.wait_sql("SELECT status FROM pg_stat_wal_receiver", "streaming");
        let lsn = primary.sql("SELECT pg_current_wal_flush_lsn()");
        standby.wait_sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
        assert_same_data(primary, standby);
        let refused = standby
            .try_sql("postgres", "INSERT INTO courses VALUES (0, 'refused')")
            .unwrap_err();
        assert!(
            refused.contains("cannot execute INSERT in a read-only transaction"),
            "{refused}"
        );
        assert_eq!(auto_conf_lines(standby, "primary_conninfo").len(), 1);
        assert!(
            !standby.read("postgresql.auto.conf").contains("s3cret"),
            "a password was written"
        );
    }

    /// Stops the primary, makes sure that nothing is missing, promotes the standby.
    fn switch(&self, primary: &Cluster, standby: &Cluster) {
        self.control(primary, "stop", &["-m", "fast"]);
        assert_eq!(primary.postmaster(), None);
        assert_eq!(primary.control()["Database cluster state"], "shut down");
        // The shutdown checkpoint has arrived when the standby can make its restartpoint there.
        let redo = primary.control()["Latest checkpoint's REDO location"].clone();
        standby.wait_sql(&format!("SELECT pg_last_wal_replay_lsn() > '{redo}'"), "t");
        standby.sql("CHECKPOINT");
        assert_eq!(standby.control()["Latest checkpoint's REDO location"], redo);
        self.control(standby, "promote", &[]);
        standby.wait_sql("SELECT pg_is_in_recovery()", "f");
    }

    fn configuration(&self) -> Tree {
        tree(&self.etc)
    }
}

#[test]
fn classic_replication_lab_goes_through_there_and_back() {
    let Some(lab) = Lab::new() else { return };
    // instance1, with data and a role for replication.
    let one = lab.primary();
    one.sql(
        "CREATE TABLE courses (i int PRIMARY KEY, title text);
         INSERT INTO courses SELECT i, repeat('course ', 20) FROM generate_series(1, 50000) AS i;",
    );

    // instance2: made for its configuration, its data directory emptied, seeded from instance1.
    let two = lab.create("instance2", 5502);
    fs::remove_dir_all(two.pgdata()).unwrap();
    let configuration = lab.configuration();
    let seed = lab.rebuild(&two, &one);
    assert_eq!(seed.word("mode"), "seed");
    assert!(
        !two.exists("postgresql.conf"),
        "the configuration is in etc, on both sides"
    );
    lab.control(&two, "start", &[]);
    Lab::check_replication(&one, &two);
    one.sql("INSERT INTO courses VALUES (100001, 'arrives')");
    Lab::check_replication(&one, &two);
    assert_eq!(
        two.sql("SELECT title FROM courses WHERE i = 100001"),
        "arrives"
    );

    // Over: instance2 becomes the primary, instance1 its standby.
    lab.switch(&one, &two);
    two.sql(
        "INSERT INTO courses SELECT i, 'on instance2' FROM generate_series(200001, 201000) AS i",
    );
    let over = lab.rebuild(&one, &two);
    assert_eq!(over.word("mode"), "rebuild");
    assert!(
        over.number("moved_bytes") < over.number("full_copy_bytes") / 4,
        "{over}"
    );
    lab.control(&one, "start", &[]);
    Lab::check_replication(&two, &one);

    // And back.
    lab.switch(&two, &one);
    one.sql(
        "INSERT INTO courses SELECT i, 'on instance1' FROM generate_series(300001, 301000) AS i",
    );
    let back = lab.rebuild(&two, &one);
    assert!(
        back.number("moved_bytes") < back.number("full_copy_bytes") / 4,
        "{back}"
    );
    lab.control(&two, "start", &[]);
    Lab::check_replication(&one, &two);
    assert_eq!(one.timeline(), 3);
    assert_eq!(two.sql("SELECT count(*) FROM courses"), "52001");

    assert_eq!(
        lab.configuration(),
        configuration,
        "the configuration in etc was touched"
    );
    for instance in [&two, &one] {
        lab.control(instance, "stop", &["-m", "fast"]);
        assert!(!Path::new(&instance.pgdata().join("postmaster.pid")).exists());
    }
}

#[test]
fn cluster_is_found_and_started_by_its_debian_name() {
    let Some(lab) = Lab::new() else { return };
    let one = lab.primary();
    one.sql("CREATE TABLE courses (i int PRIMARY KEY, title text)");
    let two = lab.create("instance2", 5502);
    fs::remove_dir_all(two.pgdata()).unwrap();
    let configuration = lab.configuration();
    let rebuild = || {
        lab.command(&two, &one)
            .env("PG_CLUSTER_CONF_ROOT", &lab.etc)
            .args(["--cluster", "15/instance2"])
    };
    rebuild().arg("--start").succeed();
    Lab::check_replication(&one, &two);
    let found =
        done(
            lab.debian(binary().to_str().unwrap())
                .args(["inspect", "--cluster", "15/instance2"]),
        );
    assert!(found.contains(two.pgdata().to_str().unwrap()), "{found}");
    // Stopped and rebuilt while it runs, and started by what the DBA has instead.
    let command = format!(
        "PG_CLUSTER_CONF_ROOT='{}' pg_ctlcluster --skip-systemctl-redirect 15 instance2 start",
        lab.etc.display()
    );
    rebuild()
        .args(["--stop", "--start-command", &command])
        .succeed();
    Lab::check_replication(&one, &two);
    let failed = rebuild()
        .args(["--stop", "--start-command", "echo no such unit; exit 5"])
        .fail(6);
    assert!(failed.stderr.contains("no such unit"), "{failed}");
    lab.control(&two, "start", &[]);
    Lab::check_replication(&one, &two);
    // Another directory than the one on record is a mistake.
    let typed = lab
        .debian(binary().to_str().unwrap())
        .args(["inspect", "-D", "/srv/other", "--cluster", "15/instance2"])
        .output()
        .unwrap();
    assert_eq!(typed.status.code(), Some(2));
    assert_eq!(lab.configuration(), configuration);
    lab.control(&two, "stop", &[]);
    lab.control(&one, "stop", &[]);
}

/// Whichever of both names it, a cluster has one standby name, one way to be started and one place of its log.
#[test]
fn data_directory_that_is_on_record_is_its_cluster() {
    let Some(lab) = Lab::new() else { return };
    let one = lab.primary();
    one.sql("CREATE TABLE courses (i int PRIMARY KEY, title text)");
    let two = lab.create("instance2", 5502);
    fs::remove_dir_all(two.pgdata()).unwrap();
    let configuration = lab.configuration();
    let by_directory = |more: &[&str]| {
        lab.command(&two, &one)
            .env("PG_CLUSTER_CONF_ROOT", &lab.etc)
            .args(more)
            .succeed()
    };
    let seeded = by_directory(&["--start"]);
    assert!(
        seeded.stderr.contains("that of cluster 15/instance2"),
        "{seeded}"
    );
    // As 15/instance2, with the configuration in etc.
    Lab::check_replication(&one, &two);
    assert_eq!(
        two.sql("SHOW config_file"),
        lab.conf(&two).join("postgresql.conf").display().to_string()
    );
    let inspected = |named: &[&str]| {
        let source = format!("host={} port=5501 user=postgres", one.home().display());
        let found = done(
            lab.debian(binary().to_str().unwrap())
                .args(["inspect", "--from", "local", "-d", &source])
                .args(named),
        );
        // How long ago something was is not the same twice.
        let lines = found.lines().filter(|line| !line.contains(" ago"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    lab.control(&two, "stop", &[]);
    let directory = two.pgdata().to_str().unwrap();
    assert_eq!(
        inspected(&["-D", directory]),
        inspected(&["--cluster", "15/instance2"])
    );
    let again = by_directory(&[]);
    assert!(
        again.stdout.contains("pg_ctlcluster 15 instance2 start"),
        "{again}"
    );
    assert_eq!(lab.configuration(), configuration);
    lab.control(&one, "stop", &[]);
}

/// `--start` finds the configuration where Debian has it, when it is told.
#[test]
fn standby_with_configuration_elsewhere_is_started() {
    let Some(lab) = Lab::new() else { return };
    let one = lab.primary();
    one.sql("CREATE TABLE courses (i int PRIMARY KEY, title text)");
    let two = lab.create("instance2", 5502);
    fs::remove_dir_all(two.pgdata()).unwrap();
    lab.command(&two, &one)
        .arg("--config-file")
        .arg(lab.conf(&two).join("postgresql.conf"))
        .arg("--start")
        .succeed();
    Lab::check_replication(&one, &two);
}

/// The other variant, as on RHEL: each instance has its configuration in its data directory, and keeps it.
#[test]
fn lab_with_the_configuration_inside_goes_through_there_and_back() {
    let scene = Scene::new();
    let mut one = scene.cluster("one");
    one.configure("# of one");
    one.start();
    one.sql(
        "CREATE TABLE courses (i int PRIMARY KEY, title text);
         INSERT INTO courses SELECT i, repeat('course ', 20) FROM generate_series(1, 20000) AS i;",
    );
    // A new host gets everything, and its own settings afterwards.
    let mut two = scene.vacant("two");
    Rebuild::new(&two, &one).succeed();
    two.configure(&format!(
        "# of two\nunix_socket_directories = '{}'\ncluster_name = 'two'",
        two.home().display()
    ));
    two.start();
    one.wait_caught_up(&two);
    assert_same_data(&one, &two);
    let text = |cluster: &Cluster| {
        ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"].map(|name| cluster.read(name))
    };
    let (conf_of_one, conf_of_two) = (text(&one), text(&two));
    let switch = |primary: &mut Cluster, standby: &mut Cluster| {
        primary.stop(Stop::Fast);
        standby.promote();
        standby.sql("INSERT INTO courses SELECT max(i) + 1, 'after a switch' FROM courses");
        let said = Rebuild::new(primary, standby).arg("--start").succeed();
        let moved = said.number("moved_bytes");
        assert!(moved < said.number("full_copy_bytes") / 4, "{said}");
        standby.wait_caught_up(primary);
        assert_same_data(standby, primary);
        assert_eq!(auto_conf_lines(primary, "primary_conninfo").len(), 1);
    };
    switch(&mut one, &mut two);
    switch(&mut two, &mut one);
    assert_eq!(one.timeline(), 3);
    assert_eq!(text(&one), conf_of_one);
    assert_eq!(text(&two), conf_of_two);
}

/// A host without a configuration gets the source's, under its own names, and Debian's tools know the cluster.
#[test]
fn configuration_of_the_source_comes_to_a_host_that_has_none() {
    let Some(lab) = Lab::new() else { return };
    let one = lab.primary();
    one.sql("CREATE TABLE courses (i int PRIMARY KEY, title text)");
    let place = lab.etc.join("15/instance2");
    let two = lab.scene.vacant("instance2").on_port(5502);
    // A file that lies elsewhere and is named by its whole path.
    let common = lab.scene.path().join("common.conf");
    fs::write(&common, "work_mem = '5MB'\n").unwrap();
    fs::create_dir(lab.conf(&one).join("empty.d")).unwrap();
    // What was set here names the old place, or goes against the new one.
    one.sql("ALTER SYSTEM SET port = 5501");
    one.sql("ALTER SYSTEM SET cluster_name = 'other'");
    let main = lab.conf(&one).join("postgresql.conf");
    let mut text = fs::read_to_string(&main).unwrap();
    text += &[
        format!("include '{}'", common.display()),
        // As pg_createcluster makes it: empty.
        "include_dir 'empty.d'".to_owned(),
        format!(
            "external_pid_file = '{}/15-instance1.pid'",
            lab.scene.path().display()
        ),
        String::new(),
    ]
    .join("\n");
    fs::write(&main, text).unwrap();
    let configuration = lab.configuration();
    let rebuild = || {
        lab.command(&two, &one)
            .args(["--target-port", "5502", "--target-config-dir"])
            .arg(&place)
    };
    let said = rebuild().arg("--dry-run").succeed();
    assert_eq!(said.word("mode"), "dry-run");
    assert_eq!(lab.configuration(), configuration);
    assert!(!two.pgdata().exists());
    rebuild().arg("--start").succeed();
    // Its socket is where the source's is.
    let ask = |sql: &str| {
        let mut psql = one.client("psql");
        done(psql.env("PGPORT", "5502").args(["-Atqc", sql]))
            .trim()
            .to_owned()
    };
    one.wait_sql(
        "SELECT string_agg(state, ',') FROM pg_stat_replication",
        "streaming",
    );
    for (name, value) in [
        ("port", "5502"),
        ("cluster_name", "15/instance2"),
        ("work_mem", "5MB"),
        ("data_directory", two.pgdata().to_str().unwrap()),
        ("hba_file", place.join("pg_hba.conf").to_str().unwrap()),
        ("ident_file", place.join("pg_ident.conf").to_str().unwrap()),
        (
            "external_pid_file",
            lab.scene.path().join("15-instance2.pid").to_str().unwrap(),
        ),
    ] {
        assert_eq!(ask(&format!("SHOW {name}")), value, "{name}");
    }
    let files = ask("SELECT string_agg(DISTINCT sourcefile, ' ') FROM pg_file_settings");
    assert!(
        !files.contains("instance1") && !files.contains(common.to_str().unwrap()),
        "{files}"
    );
    lab.control(&two, "stop", &["-m", "fast"]);
    // What is there now is used, and not overwritten.
    let refused = rebuild().args(["--progress", "none"]).fail(3);
    assert!(refused.stderr.contains("--config-file"), "{refused}");
    lab.command(&two, &one)
        .args(["--cluster", "15/instance2", "--start"])
        .env("PG_CLUSTER_CONF_ROOT", &lab.etc)
        .succeed();
    lab.control(&two, "stop", &["-m", "fast"]);
    lab.control(&one, "stop", &["-m", "fast"]);
}

/// The last step fails when the configuration is in its place already: the same command does not take it for
/// somebody else's.
#[test]
fn run_that_fails_behind_the_copied_configuration_is_run_again() {
    let Some(lab) = Lab::new() else { return };
    let one = lab.primary();
    one.sql("CREATE TABLE courses (i int PRIMARY KEY, title text)");
    let place = lab.etc.join("15/instance2");
    let two = lab.scene.vacant("instance2").on_port(5502);
    let options = ["--target-port", "5502", "--target-config-dir"];
    let label = two.pgdata().join("backup_label");
    let from = between(&one, {
        let label = label.clone();
        move |twisted| {
            // The last thing that the target is given by others than the last step.
            if matches!(twisted.answer, Answer::WalFiles { .. }) {
                fs::create_dir(&label).unwrap();
            }
        }
    });
    let said = lab
        .command_from(&two, &one, &from)
        .args(["--no-login-check", "--streams", "1"])
        .args(options)
        .arg(&place)
        .fail(4);
    assert!(said.stderr.contains("backup_label"), "{said}");
    assert!(place.join("postgresql.conf").exists(), "{said}");
    fs::remove_dir(label).unwrap();
    lab.command(&two, &one)
        .args(options)
        .arg(&place)
        .arg("--start")
        .succeed();
    one.wait_sql(
        "SELECT string_agg(state, ',') FROM pg_stat_replication",
        "streaming",
    );
    lab.control(&two, "stop", &["-m", "fast"]);
    lab.control(&one, "stop", &["-m", "fast"]);
}
