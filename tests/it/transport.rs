//! What carries the bytes: any command, ssh, and ways in which it can fail to.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use insta::assert_snapshot;

use pg_reseed::wire::message::PROTOCOL;

use crate::cluster::{
    Cluster, DEADLINE, Pair, Rebuild, Said, Scene, alive, binary, children_of, done, eventually,
};
use crate::guards::words;
use crate::oracle::{Since, assert_like_basebackup, assert_untouched, tree};
use crate::rebuild::assert_source_as_found;

fn serve(pair: &Pair) -> String {
    format!(
        "{} serve --stdio -d '{} dbname=postgres'",
        binary().display(),
        pair.new.conninfo()
    )
}

#[test]
fn any_command_can_carry_the_bytes() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let command = format!("exec:sh -c \"{}\"", serve(&pair));
    Rebuild::bare(&pair.old, &pair.new)
        .args(["--from", &command, "--start"])
        .succeed();
    pair.check_equal();
    assert_source_as_found(&pair.new, 0);
}

/// A remote shell that stays here: it drops ssh's own arguments and gives the rest to a shell, as sshd does.
pub fn remote_shell(scene: &Scene) -> PathBuf {
    let path = scene.path().join("rsh");
    let log = scene.path().join("rsh.log");
    fs::write(
        &path,
        format!(
            "#!/bin/sh\necho \"$@\" >> {}\nwhile [ $# -gt 0 ]; do\n  case $1 in\n    -p|-l|-o|-i) shift 2;;\n    -*) shift;;\n    *) break;;\n  esac\ndone\nshift\nexec sh -c \"$*\"\n",
            log.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn ssh_carries_the_bytes() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let rsh = remote_shell(&scene);
    // Both the words of the remote shell and the connection string have to survive a shell.
    Rebuild::bare(&pair.old, &pair.new)
        .args([
            "--from",
            "ssh://dba@db2.example:2222",
            "--rsh",
            &format!("{} -o 'BatchMode yes'", rsh.display()),
        ])
        .args(["--agent-path", &binary().display().to_string()])
        .args([
            "--source-dbname",
            &format!(
                "{} dbname=postgres application_name='the \\'agent\\' $HOME'",
                pair.new.conninfo()
            ),
        ])
        .arg("--start")
        .succeed();
    pair.check_equal();
    let log = fs::read_to_string(scene.path().join("rsh.log")).unwrap();
    assert!(
        log.contains("-o BatchMode yes")
            && log.contains("-p 2222")
            && log.contains("dba@db2.example"),
        "{log}"
    );
    assert!(log.contains("serve --stdio"), "{log}");
}

/// A run that fails before anything was decided: status 1, untouched, and words that help.
fn failed(scene: &Scene, pair: &Pair, from: &str) -> String {
    let before = tree(pair.old.pgdata());
    let said = Rebuild::bare(&pair.old, &pair.new)
        .args(["--from", from, "--progress", "none"])
        .fail(1);
    assert_untouched(&before, pair.old.pgdata());
    assert_source_as_found(&pair.new, 0);
    words(scene, &said)
}

#[test]
fn agents_that_do_not_come_up_are_reported() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let failed = |from: &str| failed(&scene, &pair, from);
    assert_snapshot!(failed("exec:/no/such/pg_reseed serve --stdio"), @r#"
    pg_reseed: error: a program of the command "/no/such/pg_reseed …" was not found
    pg_reseed: detail: The command ended with exit status PID; it said: /bin/sh: 1: /no/such/pg_reseed: not found.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: What it said tells which: install pg_reseed where the command leads, in the same version, and name it by its whole path.
    "#);
    assert_snapshot!(failed("exec:echo 'permission denied (publickey)' >&2; exit 255"), @r#"
    pg_reseed: error: could not reach the agent behind the command "echo …"
    pg_reseed: detail: The command ended with exit status PID; it said: permission denied (publickey).
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: The command's ssh reached nobody: what it said tells why; try the command by hand.
    "#);
    assert_snapshot!(failed("exec:true"), @r#"
    pg_reseed: error: the agent behind the command "true" said nothing
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: The command must start pg_reseed serve --stdio on the source's host and pass its standard input and output on: docker and kubectl do with exec -i, without -t.
    "#);
    let noise = failed(&format!("exec:echo 'Welcome to db2!'; {}", serve(&pair)));
    assert_snapshot!(noise, @r#"
    pg_reseed: error: could not talk to the agent behind the command "echo …": the peer does not speak pg_reseed's protocol; it sent "Welcome to db2!"
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Nothing but pg_reseed serve --stdio may write to the standard output there: look at the start-up files of that user's shell (.bashrc and the like).
    "#);
    // The same word, another number after it.
    let other = failed(r"exec:printf 'pgreseed\377\001\000\000'; cat > /dev/null");
    assert_snapshot!(other.replace(&format!("version {PROTOCOL}"), "version OURS"), @r#"
    pg_reseed: error: could not talk to the agent behind the command "printf …": the peer speaks version PID of the protocol, this side version OURS
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Install the same version of pg_reseed on both hosts.
    "#);
    assert_snapshot!(failed(r"exec:printf 'HTTP/1.1 400 Bad Request\r\n\r\n'"), @r#"
    pg_reseed: error: could not talk to the agent behind the command "printf …": the peer does not speak pg_reseed's protocol; it sent "HTTP/1.1 PID Bad Request"
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Nothing but pg_reseed serve --stdio may write to the standard output there: look at the start-up files of that user's shell (.bashrc and the like).
    "#);
}

#[test]
fn agent_without_its_server_is_reported() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let command = format!(
        "exec:{} serve --stdio -d 'host={} port=5999'",
        binary().display(),
        pair.new.home().display()
    );
    assert_snapshot!(failed(&scene, &pair, &command), @r#"
    pg_reseed: error: could not connect to the source's server at "SCENE/new" port PID as "postgres": error connecting to server: No such file or directory (os error 2)
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: The agent connects from the source's own host; --source-dbname (or the agent's own --dbname) says how.
    "#);
}

#[test]
fn remote_shell_that_is_missing_is_reported() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let before = tree(pair.old.pgdata());
    let said = Rebuild::bare(&pair.old, &pair.new)
        .args([
            "--from",
            "ssh://db2.example",
            "--rsh",
            "/no/such/ssh",
            "--progress",
            "none",
        ])
        .fail(1);
    assert_untouched(&before, pair.old.pgdata());
    assert_snapshot!(words(&scene, &said), @r#"
    pg_reseed: error: could not reach the agent on "db2.example" (port 22, or that of ssh's configuration): could not run "/no/such/ssh": No such file or directory (os error 2)
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: That program is not on this host: install ssh, or name another one with --rsh.
    "#);
}

/// The agent's own messages come through, and its debris on standard error does not disturb.
#[test]
fn noise_on_standard_error_does_not_disturb() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let command = format!("exec:echo 'Authorized use only' >&2; {}", serve(&pair));
    let said = Rebuild::bare(&pair.old, &pair.new)
        .args(["--verbose", "--from", &command])
        .succeed();
    assert!(said.stderr.contains("Authorized use only"), "{said}");
}

/// A real sshd of this user on a loopback port, where one is installed (`PG_RESEED_TEST_SSHD`).
pub struct Sshd {
    child: Child,
    pub folder: PathBuf,
    pub port: u16,
}

impl Sshd {
    pub fn start(scene: &Scene) -> Option<Self> {
        let program = std::env::var_os("PG_RESEED_TEST_SSHD")
            .map_or_else(|| PathBuf::from("/usr/sbin/sshd"), PathBuf::from);
        if !program.exists() {
            eprintln!("no sshd at {}: this test needs one", program.display());
            return None;
        }
        let folder = scene.folder("sshd");
        for name in ["host", "user"] {
            done(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                    .arg(folder.join(name)),
            );
        }
        // The port is free now; nothing else asks for this one before sshd does.
        let port = TcpListener::bind(("127.0.0.1", 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = folder.join("config");
        fs::write(
            &config,
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/user.pub\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n",
                folder.display()
            ),
        )
        .unwrap();
        let log = File::create(folder.join("log")).unwrap();
        let child = Command::new(program)
            .args(["-D", "-e", "-f"])
            .arg(&config)
            .stderr(log)
            .spawn()
            .unwrap();
        let mut sshd = Self {
            child,
            folder,
            port,
        };
        eventually("sshd listens", DEADLINE, || {
            assert!(
                sshd.child.try_wait().unwrap().is_none(),
                "{}",
                fs::read_to_string(sshd.folder.join("log")).unwrap()
            );
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Some(sshd)
    }

    pub fn rsh(&self) -> String {
        format!(
            "ssh -F none -i {}/user -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            self.folder.display()
        )
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn real_ssh_carries_the_bytes() {
    let scene = Scene::new();
    let Some(sshd) = Sshd::start(&scene) else {
        return;
    };
    let pair = Pair::diverged(&scene);
    let rebuild = || {
        Rebuild::bare(&pair.old, &pair.new)
            .args([
                "--from",
                &format!("ssh://127.0.0.1:{}", sshd.port),
                "--rsh",
                &sshd.rsh(),
            ])
            .args(["--agent-path", &binary().display().to_string()])
            .args([
                "--source-dbname",
                &format!("{} dbname=postgres", pair.new.conninfo()),
            ])
    };
    rebuild().args(["--compress", "zstd", "--start"]).succeed();
    pair.check_equal();
    assert_source_as_found(&pair.new, 0);
}

/// A seed that moves something over several streams: a slow login keeps it from beginning before they are there.
fn seed(standby: &Cluster, primary: &Cluster) -> Rebuild {
    let conninfo = format!("{} options='-c post_auth_delay=2'", primary.conninfo());
    Rebuild::with_conninfo(standby, &conninfo).args(["--seed", "-v", "-v", "--compress", "none"])
}

/// Everybody's part of what came, as the log tells.
fn assert_moved_over(said: &Said, streams: usize) {
    let brought: Vec<u64> = (1..=streams)
        .map(|number| {
            let before = format!("stream {number} brought ");
            let (_, rest) = said
                .stderr
                .split_once(&before)
                .unwrap_or_else(|| panic!("{said}"));
            rest.split(' ').next().unwrap().parse().unwrap()
        })
        .collect();
    assert_eq!(said.number("streams"), streams as u64, "{said}");
    let all = said.number("wire_received_bytes");
    // The last word comes when the report is made.
    let more = brought.iter().sum::<u64>() - all;
    assert!(more < 100, "{brought:?}: {said}");
    assert!(
        brought.iter().all(|bytes| *bytes > all / 20),
        "{brought:?}: {said}"
    );
}

pub fn primary(scene: &Scene) -> Cluster {
    let mut primary = scene.cluster("primary");
    primary.start();
    primary.sql(
        "CREATE TABLE t AS SELECT i, repeat('x', 1000) AS f FROM generate_series(1, 20000) AS i",
    );
    primary
}

#[test]
fn several_streams_carry_the_bytes() {
    let scene = Scene::new();
    let primary = primary(&scene);
    let standby = scene.vacant("standby");
    let said = seed(&standby, &primary)
        .args(["--from", "local", "--streams", "3", "--source-dbname"])
        .arg(format!("{} dbname=postgres", primary.conninfo()))
        .succeed();
    assert_moved_over(&said, 3);
    assert!(said.report()["warnings"].as_array().unwrap().is_empty());
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
    assert_source_as_found(&primary, 0);
}

#[test]
fn several_streams_of_real_ssh_carry_the_bytes() {
    let scene = Scene::new();
    let Some(sshd) = Sshd::start(&scene) else {
        return;
    };
    let primary = primary(&scene);
    let standby = scene.vacant("standby");
    let said = seed(&standby, &primary)
        .args([
            "--from",
            &format!("ssh://127.0.0.1:{}", sshd.port),
            "--streams",
            "3",
            "--rsh",
            &sshd.rsh(),
        ])
        .args(["--agent-path", &binary().display().to_string()])
        .args([
            "--source-dbname",
            &format!("{} dbname=postgres", primary.conninfo()),
        ])
        .succeed();
    assert_moved_over(&said, 3);
    assert_like_basebackup(&scene, &primary, standby.pgdata(), Since::Rebuilt);
    assert_source_as_found(&primary, 0);
}

/// What cannot be had is a warning, once.
#[test]
fn stream_that_does_not_come_up_is_a_warning() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let lock = scene.path().join("lock");
    let command = format!(
        "exec:mkdir {} 2> /dev/null || {{ echo only one at a time >&2; exit 9; }}; exec {}",
        lock.display(),
        serve(&pair)
    );
    let said = Rebuild::bare(&pair.old, &pair.new)
        .args(["--from", &command, "--streams", "5"])
        .args(["--start", "--progress", "none"])
        .succeed();
    pair.check_equal();
    assert_eq!(said.number("streams"), 1);
    assert_snapshot!(words(&scene, &said), @r#"pg_reseed: warning: The run goes on with 1 of 5 streams to the agent: the agent behind the command "mkdir …" said nothing (exit status 9) (The command ended with exit status 9; it said: only one at a time)."#);
    assert_source_as_found(&pair.new, 0);
}

#[test]
fn killed_client_leaves_no_process_of_any_stream() {
    let scene = Scene::new();
    let primary = primary(&scene);
    let standby = scene.vacant("standby");
    let mut running = Rebuild::new(&standby, &primary)
        .args(["--streams", "4", "--max-rate", "32k"])
        .spawn();
    let mut agents = Vec::new();
    running.wait_for("four agents", |running| {
        agents = children_of(running.pid());
        standby.exists("pg_reseed.state") && agents.len() == 4
    });
    running.kill();
    drop(running);
    eventually("all agents end with their client", DEADLINE, || {
        (!agents.iter().any(|agent| alive(*agent))).then_some(())
    });
    eventually("the source is as it was", DEADLINE, || {
        (primary.sql("SELECT count(*) FROM pg_replication_slots") == "0").then_some(())
    });
    assert_source_as_found(&primary, 0);
}

#[test]
fn refused_ssh_key_is_reported() {
    let scene = Scene::new();
    let Some(sshd) = Sshd::start(&scene) else {
        return;
    };
    let pair = Pair::diverged(&scene);
    fs::write(sshd.folder.join("user.pub"), "").unwrap();
    let before = tree(pair.old.pgdata());
    let said = Rebuild::bare(&pair.old, &pair.new)
        .args([
            "--from",
            &format!("ssh://127.0.0.1:{}", sshd.port),
            "--rsh",
            &sshd.rsh(),
        ])
        .fail(1);
    assert_untouched(&before, pair.old.pgdata());
    assert!(
        said.stderr.contains("Permission denied (publickey"),
        "{said}"
    );
}

/// SECURITY.md's line for authorized_keys: the key opens the agent and nothing else.
#[test]
fn ssh_key_with_a_forced_command_opens_the_agent_and_nothing_else() {
    let scene = Scene::new();
    let Some(sshd) = Sshd::start(&scene) else {
        return;
    };
    let pair = Pair::diverged(&scene);
    let page = include_str!("../../SECURITY.md");
    let line = page
        .lines()
        .find(|line| line.starts_with("restrict,command="))
        .unwrap();
    let (options, _) = line.split_once(" ssh-ed25519").unwrap();
    let command = format!(
        "{} serve --stdio -d '{} dbname=postgres'",
        binary().display(),
        pair.new.conninfo()
    );
    let options = options.replace("/usr/local/bin/pg_reseed serve --stdio", &command);
    let key = fs::read_to_string(sshd.folder.join("user.pub")).unwrap();
    fs::write(sshd.folder.join("user.pub"), format!("{options} {key}")).unwrap();
    let from = format!("ssh://127.0.0.1:{}", sshd.port);
    // What it asks for does not matter.
    Rebuild::bare(&pair.old, &pair.new)
        .args(["--from", &from, "--rsh", &sshd.rsh(), "--streams", "2"])
        .args(["--agent-path", "/bin/false", "--start"])
        .succeed();
    pair.check_equal();
    let port = sshd.port.to_string();
    let words = [sshd.rsh(), format!("-p {port} 127.0.0.1 id")].join(" ");
    let words = shlex::split(&words).unwrap();
    let output = Command::new(&words[0])
        .args(&words[1..])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.starts_with("pgreseed") && !said.contains("uid="),
        "{said}"
    );
}
