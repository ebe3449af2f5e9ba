//! An agent that listens, as a service: how it starts and stops, and what it does about clients that hang or are
//! too many.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process, kill_process_group};

use crate::cluster::{DEADLINE, Pair, Rebuild, Scene, Stop, binary, clean, eventually};
use crate::tls::{Authority, Daemon, rebuild};

#[test]
fn stop_of_the_daemon_ends_sessions_in_order() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let authority = Authority::new(&scene, "ca");
    let mut daemon = Daemon::start(&scene, &pair.new, &authority, &[]);
    let mut running = rebuild(
        &pair,
        &daemon.place(),
        authority.options(&authority, "client"),
    )
    .args(["--max-rate", "64k", "--slot", "mine", "--create-slot"])
    .spawn();
    running.wait_closed(&pair.old);
    kill_process(daemon.pid(), Signal::TERM).unwrap();
    let status = daemon.child.wait().unwrap();
    assert!(status.success(), "{status}");
    let said = running.wait();
    assert_eq!(said.code(), 4, "{said}");
    // Neither a backup nor the slot of the failed run is left.
    assert_eq!(
        pair.new.sql("SELECT count(*) FROM pg_replication_slots"),
        "0"
    );
    pair.new.wait_sql(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg_reseed%'",
        "0",
    );
}

/// A terminal that is closed signals the whole group: the daemon reads its certificates again, and its sessions go on.
#[test]
fn hangup_of_the_daemons_group_ends_no_session() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let authority = Authority::new(&scene, "ca");
    let daemon = Daemon::start(&scene, &pair.new, &authority, &[]);
    let mut running = rebuild(
        &pair,
        &daemon.place(),
        authority.options(&authority, "client"),
    )
    .args(["--streams", "2", "--max-rate", "4M", "--start"])
    .spawn();
    running.wait_closed(&pair.old);
    kill_process_group(daemon.pid(), Signal::HUP).unwrap();
    let said = running.wait();
    assert_eq!(said.code(), 0, "{said}");
    pair.check_equal();
}

/// A client that hangs, as when its host is suspended, keeps neither its backup nor its slot.
#[test]
fn client_that_hangs_is_cut_off() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let authority = Authority::new(&scene, "ca");
    let daemon = Daemon::start(&scene, &pair.new, &authority, &[]);
    let mut running = rebuild(
        &pair,
        &daemon.place(),
        authority.options(&authority, "client"),
    )
    .args(["--streams", "2", "--max-rate", "64k"])
    .args(["--slot", "mine", "--create-slot"])
    .spawn();
    running.wait_closed(&pair.old);
    kill_process(running.pid(), Signal::STOP).unwrap();
    eventually("it is given up", 2 * DEADLINE, || {
        daemon
            .said()
            .contains("heard nothing of the client")
            .then_some(())
    });
    pair.new
        .wait_sql("SELECT count(*) FROM pg_replication_slots", "0");
    pair.new.wait_sql(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg_reseed%'",
        "0",
    );
    kill_process(running.pid(), Signal::CONT).unwrap();
    let said = running.wait();
    assert_eq!(said.code(), 4, "{said}");
}

/// systemd hands over a socket, and hears when the agent is ready and when it stops. All of it by the unit's own
/// command.
#[test]
fn unit_starts_an_agent_on_the_socket_of_systemd() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let authority = Authority::new(&scene, "ca");
    let unit = include_str!("../../systemd/pg_reseed-agent.service").replace("\\\n", " ");
    let setting = |name: &str| {
        let value = unit.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap_or_else(|| panic!("the unit has no {name}"))
    };
    assert_eq!(setting("Type="), "notify");
    let command = setting("ExecStart=")
        .replace("/usr/local/bin/pg_reseed", binary().to_str().unwrap())
        .replace("/etc/pg_reseed", authority.folder.to_str().unwrap());
    let told = scene.path().join("notify");
    let systemd = UnixDatagram::bind(&told).unwrap();
    systemd.set_read_timeout(Some(DEADLINE)).unwrap();
    let door = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = door.local_addr().unwrap().port();
    let log = scene.path().join("daemon.log");
    // As systemd does: the socket is descriptor 3.
    let child = clean(Command::new("sh"))
        .args(["-c", &format!("exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec {command} -d '{} dbname=postgres'", pair.new.conninfo())])
        .env("NOTIFY_SOCKET", &told)
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(door)))
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut daemon = Daemon { child, port, log };
    let heard = || {
        let mut text = [0; 100];
        let length = systemd.recv(&mut text).expect("systemd is told");
        String::from_utf8_lossy(&text[..length]).trim().to_owned()
    };
    assert_eq!(heard(), "READY=1");
    rebuild(
        &pair,
        &daemon.place(),
        authority.options(&authority, "client"),
    )
    .arg("--start")
    .succeed();
    pair.check_equal();
    assert_eq!(setting("ExecReload="), "/bin/kill -HUP $MAINPID");
    kill_process(daemon.pid(), Signal::HUP).unwrap();
    daemon.wait_said("certificates were read again");
    kill_process(daemon.pid(), Signal::TERM).unwrap();
    assert_eq!(heard(), "STOPPING=1");
    assert!(daemon.child.wait().unwrap().success());
}

#[test]
fn more_connections_than_allowed_are_turned_away() {
    let scene = Scene::new();
    let mut pair = Pair::diverged(&scene);
    let authority = Authority::new(&scene, "ca");
    let daemon = Daemon::start(&scene, &pair.new, &authority, &["--max-connections", "1"]);
    let options = || authority.options(&authority, "client");
    let mut running = rebuild(&pair, &daemon.place(), options())
        .args(["--streams", "1", "--max-rate", "64k"])
        .spawn();
    running.wait_closed(&pair.old);
    let target = scene.vacant("third");
    let said = Rebuild::bare(&target, &pair.new)
        .args(["--from", &daemon.place(), "--progress", "none"])
        .args(options())
        .fail(1);
    assert!(
        said.stderr.contains("as many connections as it may have"),
        "{said}"
    );
    running.kill();
    drop(running);
    daemon.wait_said("session 1:");
    eventually("the agent is free again", DEADLINE, || {
        let said = rebuild(&pair, &daemon.place(), options())
            .args(["--streams", "1"])
            .run();
        (said.code() == 0).then_some(())
    });
    pair.old.start();
    pair.check_equal();
    pair.old.stop(Stop::Fast);
}

#[test]
fn keys_and_options_that_cannot_be_used_are_told() {
    let scene = Scene::new();
    let authority = Authority::new(&scene, "ca");
    let serve = |options: &[&str]| {
        let output = clean(Command::new(binary()))
            .arg("serve")
            .args(options)
            .current_dir(&authority.folder)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    let files = [
        "--tls-ca",
        "ca.crt",
        "--tls-cert",
        "agent.crt",
        "--tls-key",
        "agent.key",
    ];
    let listen = ["--listen", "127.0.0.1:0", "--allow", "x"];
    let with = |options: &[&'static str]| -> Vec<&'static str> { [&files[..], options].concat() };
    for (options, status, words) in [
        (vec![], 2, "--listen"),
        (
            vec!["--stdio", "--listen", "127.0.0.1"],
            2,
            "cannot be used with",
        ),
        (listen.to_vec(), 2, "--tls-ca"),
        (with(&["--listen", "127.0.0.1:0"]), 2, "--allow"),
        (with(&["--stdio"]), 2, "no effect"),
        (
            with(&["--listen", "127.0.0.1:x", "--allow", "x"]),
            2,
            "invalid port",
        ),
        (
            with(&["--listen", ":7432", "--allow", "x"]),
            2,
            "names no host",
        ),
        (vec!["--stdio", "-d", "password=secret"], 2, "password"),
    ] {
        let (code, said) = serve(&options);
        assert_eq!(code, Some(status), "{options:?}: {said}");
        assert!(said.contains(words), "{options:?}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(
            authority.path("agent.key"),
            fs::Permissions::from_mode(mode),
        )
        .unwrap();
    };
    mode(0o644);
    let (code, said) = serve(&with(&listen));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("can be read by others"), "{said}");
    mode(0o600);
    let (code, said) = serve(&[&files[..3], &["client.crt"], &files[4..], &listen].concat());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot be used"), "{said}");
}
