//! Agents that listen by TLS: who comes in, who does not, and that those who do not cannot hinder those who do.
//!
//! Certificates are made by the commands of SECURITY.md, as they stand there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{
    Cluster, DEADLINE, Pair, Rebuild, Scene, binary, clean, done, eventually, pause,
};

/// The commands of SECURITY.md that make certificates, for an agent on this host.
fn script() -> String {
    let page = include_str!("../../SECURITY.md");
    let block = page
        .split("```\n")
        .find(|block| block.contains("openssl req -x509"))
        .unwrap();
    block
        .replace("db2.example.com", "localhost")
        .replace("-newkey ed25519", "-newkey ed25519 -config /dev/null")
}

/// An authority with certificates of an agent and of a client, in a folder.
pub struct Authority {
    pub folder: PathBuf,
}

impl Authority {
    pub fn new(scene: &Scene, name: &str) -> Self {
        let folder = scene.folder(name);
        // A request needs a section for its subject's name, which openssl takes from its configuration.
        let script = script().replace("/dev/null", "openssl.cnf");
        fs::write(
            folder.join("openssl.cnf"),
            "[req]\ndistinguished_name = dn\n[dn]\n",
        )
        .unwrap();
        shell(&folder, &format!("set -e\n{script}"));
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A further certificate of a client.
    fn issue(&self, file: &str, extensions: &str, days: &str) {
        shell(
            &self.folder,
            &format!(
                "set -e; umask 077
                 openssl req -newkey ed25519 -config openssl.cnf -nodes -subj /CN={file} -keyout {file}.key -out {file}.csr
                 printf '{extensions}' > {file}.ext
                 openssl x509 -req -in {file}.csr -CA ca.crt -CAkey ca.key -CAcreateserial {days} \\
                    -extfile {file}.ext -out {file}.crt"
            ),
        );
    }

    /// Makes a list of revoked certificates without any.
    fn begin_revoking(&self) {
        shell(
            &self.folder,
            "set -e; touch index.txt; echo 01 > crlnumber
             printf '[ca]\\ndefault_ca=a\\n[a]\\ndatabase=index.txt\\ncrlnumber=crlnumber\\ndefault_md=default\\n' > ca.cnf
             openssl ca -config ca.cnf -gencrl -crldays 9 -keyfile ca.key -cert ca.crt -out crl.pem",
        );
    }

    fn revoke(&self, name: &str) {
        shell(
            &self.folder,
            &format!(
                "set -e; openssl ca -config ca.cnf -keyfile ca.key -cert ca.crt -revoke {name}.crt
                 openssl ca -config ca.cnf -gencrl -crldays 9 -keyfile ca.key -cert ca.crt -out crl.new
                 mv crl.new crl.pem"
            ),
        );
    }

    /// What a client is told of who it is.
    pub fn options(&self, authority: &Self, name: &str) -> Vec<std::ffi::OsString> {
        let mut options = Vec::new();
        for (option, path) in [
            ("--tls-ca", authority.path("ca.crt")),
            ("--tls-cert", self.path(&format!("{name}.crt"))),
            ("--tls-key", self.path(&format!("{name}.key"))),
        ] {
            options.push(option.into());
            options.push(path.into());
        }
        options
    }
}

fn shell(folder: &Path, script: &str) -> String {
    done(
        clean(Command::new("sh"))
            .args(["-c", script])
            .current_dir(folder),
    )
}

/// A running `pg_reseed serve --listen`.
pub struct Daemon {
    pub child: Child,
    pub port: u16,
    pub log: PathBuf,
}

impl Daemon {
    pub fn start(scene: &Scene, source: &Cluster, authority: &Authority, more: &[&str]) -> Self {
        let log = scene.path().join("daemon.log");
        let mut command = clean(Command::new(binary()));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "-d"])
            .arg(format!("{} dbname=postgres", source.conninfo()))
            .args(authority.options(authority, "agent"))
            .args(["--allow", "standby1.example.com"])
            .args(more)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        // As a shell does with a job.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().unwrap();
        let mut daemon = Self {
            child,
            port: 0,
            log,
        };
        daemon.port = eventually("the daemon listens", DEADLINE, || {
            let log = daemon.said();
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {log}");
            let (_, rest) = log.split_once("listening on 127.0.0.1:")?;
            rest.lines().next()?.trim().parse().ok()
        });
        daemon
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    pub fn place(&self) -> String {
        format!("tls://localhost:{}", self.port)
    }

    pub fn wait_said(&self, words: &str) {
        eventually(&format!("the daemon says: {words}"), DEADLINE, || {
            self.said().contains(words).then_some(())
        });
    }

    fn connect(&self) -> TcpStream {
        let mut places = ("localhost", self.port).to_socket_addrs().unwrap();
        let place = places.find(std::net::SocketAddr::is_ipv4).unwrap();
        let stream = TcpStream::connect(place).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the daemon said:\n{}", self.said());
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(self.pid(), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// A rebuild by TLS as the client `name` of `authority`, who trusts `trusted`.
pub fn rebuild(pair: &Pair, place: &str, options: Vec<std::ffi::OsString>) -> Rebuild {
    Rebuild::bare(&pair.old, &pair.new)
        .args(["--from", place, "--progress", "none"])
        .args(options)
}

#[test]
fn tls_carries_the_bytes() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let authority = Authority::new(&scene, "ca");
    let daemon = Daemon::start(&scene, &pair.new, &authority, &[]);
    let options = || authority.options(&authority, "client");
    let said = rebuild(&pair, &daemon.place(), options())
        .args(["--streams", "3", "--start"])
        .succeed();
    pair.check_equal();
    assert_eq!(said.number("streams"), 3);
    let identifier = pair.new.control()["Database system identifier"].clone();
    daemon.wait_said("it ended in order; the agent's exit status: 0");
    let log = daemon.said();
    for words in [
        "as \"standby1.example.com\"".to_owned(),
        format!("{identifier} in \"{}\"", pair.new.pgdata().display()),
        "as a further stream of another session".to_owned(),
    ] {
        assert!(log.contains(&words), "{words} is not in\n{log}");
    }
    // Inspecting goes the same way, and the advice with it.
    pair.new.sql("SELECT 1");
    let found = done(
        clean(Command::new(binary()))
            .args(["inspect", "-D"])
            .arg(pair.old.pgdata())
            .args(["-d", &pair.new.conninfo(), "--from", &daemon.place()])
            .args(options()),
    );
    assert!(found.contains(&identifier), "{found}");
}

/// Not only the next session is refused: the one that runs is ended, with its backup and its slot.
#[test]
fn revoked_certificate_ends_its_session() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let authority = Authority::new(&scene, "ca");
    authority.begin_revoking();
    let crl = authority.path("crl.pem");
    let crl = ["--tls-crl", crl.to_str().unwrap()];
    let daemon = Daemon::start(&scene, &pair.new, &authority, &crl);
    let options = authority.options(&authority, "client");
    let mut running = rebuild(&pair, &daemon.place(), options)
        .args(["--streams", "2", "--max-rate", "64k"])
        .args(["--slot", "mine", "--create-slot"])
        .spawn();
    running.wait_closed(&pair.old);
    // Read again without a reason to end it.
    kill_process(daemon.pid(), Signal::HUP).unwrap();
    daemon.wait_said("certificates were read again");
    assert!(!running.ended());
    authority.revoke("client");
    kill_process(daemon.pid(), Signal::HUP).unwrap();
    let said = running.wait();
    assert_eq!(said.code(), 4, "{said}");
    daemon.wait_said("not accepted any more: invalid peer certificate: Revoked");
    pair.new
        .wait_sql("SELECT count(*) FROM pg_replication_slots", "0");
}

/// Everybody who must not come in, one after the other, and then one who may.
#[test]
fn nobody_else_comes_in() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let authority = Authority::new(&scene, "ca");
    let stranger = Authority::new(&scene, "stranger");
    let crl = authority.path("crl.pem");
    let name = "subjectAltName=DNS:standby1.example.com";
    authority.issue(
        "server",
        &format!("{name}\\nextendedKeyUsage=serverAuth\\n"),
        "-days 9",
    );
    authority.issue("short", &format!("{name}\\n"), "-days 0");
    authority.issue(
        "other",
        "subjectAltName=DNS:standby2.example.com\\n",
        "-days 9",
    );
    authority.issue("wild", "subjectAltName=DNS:*.example.com\\n", "-days 9");
    authority.issue("nameless", "basicConstraints=CA:FALSE\\n", "-days 9");
    authority.issue("revoked", &format!("{name}\\n"), "-days 9");
    authority.begin_revoking();
    let daemon = Daemon::start(
        &scene,
        &pair.new,
        &authority,
        &["--tls-crl", crl.to_str().unwrap()],
    );
    let place = daemon.place();
    let refused = |options: Vec<std::ffi::OsString>, words: &str| {
        let said = rebuild(&pair, &place, options).fail(1);
        assert!(said.stderr.contains(words), "no \"{words}\" in {said}");
        assert!(said.stderr.contains("Nothing was changed"), "{said}");
    };

    // A certificate that is not good enough.
    refused(stranger.options(&authority, "client"), "alert");
    refused(
        stranger.options(&authority, "client"),
        "The agent's log says why it refuses",
    );
    refused(authority.options(&authority, "server"), "alert");
    for name in ["other", "wild", "nameless"] {
        refused(
            authority.options(&authority, name),
            "does not allow the client's certificate",
        );
    }
    eventually("its time is over", DEADLINE, || {
        let said = rebuild(&pair, &place, authority.options(&authority, "short"))
            .arg("--dry-run")
            .run();
        (said.code() == 1 && said.stderr.contains("CertificateExpired")).then_some(())
    });

    // One that was good, until the lists were read again.
    let dry = || rebuild(&pair, &place, authority.options(&authority, "revoked")).arg("--dry-run");
    dry().succeed();
    authority.revoke("revoked");
    dry().succeed();
    kill_process(daemon.pid(), Signal::HUP).unwrap();
    daemon.wait_said("certificates were read again");
    refused(
        authority.options(&authority, "revoked"),
        "CertificateRevoked",
    );
    // Files that cannot be read leave those in use.
    fs::write(&crl, "no list").unwrap();
    kill_process(daemon.pid(), Signal::HUP).unwrap();
    daemon.wait_said("those in use stay");
    refused(
        authority.options(&authority, "revoked"),
        "CertificateRevoked",
    );

    // An agent that the client must not believe.
    refused(
        authority.options(&stranger, "client"),
        "invalid peer certificate",
    );
    let elsewhere = format!("tls://127.0.0.1:{}", daemon.port);
    let said = rebuild(&pair, &elsewhere, authority.options(&authority, "client")).fail(1);
    assert!(said.stderr.contains("not valid for name"), "{said}");
    let typed = rebuild(&pair, &place, Vec::new()).fail(2);
    assert!(typed.stderr.contains("--tls-ca"), "{typed}");

    // Other protocols, no certificate, and an old TLS.
    for words in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        b"pg_reseed\n",
        &[0x16, 3, 1, 255, 255],
        &[0; 4096],
    ] {
        let mut stream = daemon.connect();
        let _ = stream.write_all(words);
        // It hangs up, perhaps with an alert, or gives up waiting for more.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
        assert!(answer.len() < 64, "{answer:?}");
    }
    let client = |options: &str| {
        let command = format!(
            "echo | timeout 20 openssl s_client -connect localhost:{} -CAfile ca.crt -alpn pg_reseed -ign_eof {options} 2>&1 || true",
            daemon.port
        );
        shell(&authority.folder, &command)
    };
    let said = client("");
    assert!(said.contains("certificate required"), "{said}");
    let said = client("-tls1_2 -cert client.crt -key client.key");
    assert!(said.contains("protocol version"), "{said}");
    // Who does not say that it wants our protocol.
    let command = format!(
        "echo | timeout 20 openssl s_client -connect localhost:{} -CAfile ca.crt -cert client.crt -key client.key -ign_eof 2>&1 || true",
        daemon.port
    );
    shell(&authority.folder, &command);
    daemon.wait_said("it wants another protocol");
    // A session cannot be taken up again.
    let said = client("-cert client.crt -key client.key -sess_out session");
    assert!(
        !said.contains("Post-Handshake New Session Ticket"),
        "{said}"
    );
    assert!(!authority.path("session").exists() || !client("-sess_in session").contains("Reused"));
    // Who may come in and talks nonsense is hung up on.
    let said = client("-cert client.crt -key client.key");
    assert!(said.contains("Verify return code: 0"), "{said}");
    daemon.wait_said("the peer does not speak pg_reseed's protocol");

    // None of this has changed anything for those who may.
    rebuild(&pair, &place, authority.options(&authority, "client"))
        .arg("--start")
        .succeed();
    pair.check_equal();
}

/// What an honest client says first.
fn greeting(authority: &Authority) -> Vec<u8> {
    let door = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = door.local_addr().unwrap().port();
    let mut client = clean(Command::new("openssl"));
    client.args(["s_client", "-tls1_3", "-alpn", "pg_reseed", "-connect"]);
    let mut client = client
        .arg(format!("127.0.0.1:{port}"))
        .current_dir(&authority.folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut stream, _) = door.accept().unwrap();
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut rest).unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    [&head[..], &rest].concat()
}

/// Two hundred connections that never get anywhere: half of them silent, half sending an honest greeting a byte now
/// and then, all of them coming back when they are hung up on. More than may be under way: only by giving up the
/// oldest before its time is there room.
#[test]
fn agent_under_attack_serves_a_rebuild() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let authority = Authority::new(&scene, "ca");
    let greeting = Arc::new(greeting(&authority));
    let daemon = Arc::new(Daemon::start(&scene, &pair.new, &authority, &[]));
    let is_over = Arc::new(AtomicBool::new(false));
    let hung_up = Arc::new(AtomicU32::new(0));
    let attackers: Vec<_> = [false, true]
        .map(|is_silent| {
            let (daemon, is_over) = (Arc::clone(&daemon), Arc::clone(&is_over));
            let hung_up = Arc::clone(&hung_up);
            let greeting = Arc::clone(&greeting);
            std::thread::spawn(move || {
                let connect = || {
                    let stream = daemon.connect();
                    stream.set_nonblocking(true).unwrap();
                    (stream, 0)
                };
                let mut streams: Vec<_> = (0..100).map(|_| connect()).collect();
                while !is_over.load(Ordering::Relaxed) {
                    for (stream, said) in &mut streams {
                        let is_gone = match stream.read(&mut [0; 64]) {
                            Ok(0) => true,
                            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
                            Ok(_) => false,
                        };
                        // Never the last byte: that would be the end of the greeting.
                        let byte = greeting
                            .get(*said..*said + 1)
                            .filter(|_| *said + 1 < greeting.len());
                        if is_gone {
                            hung_up.fetch_add(1, Ordering::Relaxed);
                            (*stream, *said) = connect();
                        } else if let (Some(byte), false) = (byte, is_silent) {
                            let _ = stream.write_all(byte);
                            *said += 1;
                        }
                    }
                    pause(Duration::from_millis(50));
                }
            })
        })
        .into();
    rebuild(
        &pair,
        &daemon.place(),
        authority.options(&authority, "client"),
    )
    .args(["--streams", "2", "--start"])
    .succeed();
    pair.check_equal();
    daemon.wait_said("the oldest is given up");
    eventually("somebody was hung up on", DEADLINE, || {
        (hung_up.load(Ordering::Relaxed) > 0).then_some(())
    });
    is_over.store(true, Ordering::Relaxed);
    for thread in attackers {
        thread.join().unwrap();
    }
}
