//! The first contact of a newcomer: ssh that asks, ssh that fails, the role and the installation by the book.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use insta::assert_snapshot;
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{
    DEADLINE, Pair, Rebuild, Said, Scene, alive, binary, bindir, clean, done, eventually,
};
use crate::guards::words;
use crate::oracle::{assert_untouched, tree};
use crate::rebuild::assert_source_as_found;
use crate::transport::Sshd;

fn script(scene: &Scene, name: &str, text: &str) -> PathBuf {
    let path = scene.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A terminal with `pg_reseed rebuild` on it, and an ssh that asks for a passphrase there.
struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    shown: PathBuf,
    folder: PathBuf,
}

const PROMPT: &str = "Enter passphrase for key: ";

impl Terminal {
    fn rebuild(scene: &Scene, pair: &Pair) -> Self {
        let folder = scene.folder("terminal");
        // ssh asks on the terminal, whatever its standard streams are.
        let rsh = script(
            scene,
            "ssh",
            &format!(
                "trap 'echo > {0}/ended; exit 1' TERM
                 echo $PPID > {0}/client.new
                 mv {0}/client.new {0}/client
                 printf '{PROMPT}' > /dev/tty
                 read answer < /dev/tty
                 echo \"$answer\" > {0}/answer
                 shift
                 exec sh -c \"$*\"",
                folder.display()
            ),
        );
        let typed = [
            binary().display().to_string(),
            "rebuild".to_owned(),
            "--no-sync".to_owned(),
            "-D".to_owned(),
            pair.old.pgdata().display().to_string(),
            "-d".to_owned(),
            pair.new.conninfo(),
            "--bindir".to_owned(),
            bindir().display().to_string(),
            "--from".to_owned(),
            "ssh://db2.example".to_owned(),
            "--streams".to_owned(),
            "1".to_owned(),
            "--rsh".to_owned(),
            rsh.display().to_string(),
            "--agent-path".to_owned(),
            binary().display().to_string(),
            "--source-dbname".to_owned(),
            format!("{} dbname=postgres", pair.new.conninfo()),
        ];
        let shown = folder.join("shown");
        // The program of util-linux that gives a command a terminal of its own.
        let mut child = clean(Command::new("script"))
            .args(["--quiet", "--return", "--flush", "--command"])
            .arg(shlex::try_join(typed.iter().map(String::as_str)).unwrap())
            .arg("/dev/null")
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(File::create(&shown).unwrap())
            .spawn()
            .unwrap();
        let keyboard = child.stdin.take().unwrap();
        Self {
            child,
            keyboard,
            shown,
            folder,
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.shown).unwrap()).into_owned()
    }

    fn wait_for_the_question(&self) {
        eventually("ssh asks", DEADLINE, || {
            self.shown().contains(PROMPT).then_some(())
        });
    }

    fn client(&self) -> Pid {
        let text = fs::read_to_string(self.folder.join("client")).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cursor that moves takes the question away, and the answer with it.
#[test]
fn nothing_is_drawn_while_ssh_asks() {
    use std::io::Write as _;
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let mut terminal = Terminal::rebuild(&scene, &pair);
    terminal.wait_for_the_question();
    // As long as a person takes: several times the distance between two drawings.
    let begin = std::time::Instant::now();
    eventually("a second has passed", DEADLINE, || {
        (begin.elapsed().as_millis() > 1000).then_some(())
    });
    let before = terminal.shown();
    assert!(before.ends_with(PROMPT), "{before:?}");
    assert!(!before.contains('\x1b'), "{before:?}");
    terminal.keyboard.write_all(b"secret\n").unwrap();
    let status = terminal.child.wait().unwrap();
    let shown = terminal.shown();
    assert!(status.success(), "{status}: {shown}");
    let answer = fs::read_to_string(terminal.folder.join("answer")).unwrap();
    assert_eq!(answer, "secret\n");
    // From then on there is a display.
    let after = &shown[before.len()..];
    assert!(after.contains('\x1b'), "{after:?}");
    assert_source_as_found(&pair.new, 0);
}

/// A run that is stopped while ssh asks leaves no ssh behind that reads from the terminal, with its echo off.
#[test]
fn ssh_that_asks_ends_with_the_run() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let before = tree(pair.old.pgdata());
    let mut terminal = Terminal::rebuild(&scene, &pair);
    terminal.wait_for_the_question();
    let client = terminal.client();
    kill_process(client, Signal::TERM).unwrap();
    eventually("ssh was asked to end", DEADLINE, || {
        terminal.folder.join("ended").exists().then_some(())
    });
    let status = terminal.child.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{}", terminal.shown());
    assert!(!alive(client));
    assert!(!terminal.shown().contains('\x1b'));
    assert_untouched(&before, pair.old.pgdata());
}

/// A run over a remote shell that says something and ends.
fn failed_by(scene: &Scene, pair: &Pair, (said, status): (&str, i32), more: &[&str]) -> Said {
    let before = tree(pair.old.pgdata());
    let rsh = script(
        scene,
        "rsh",
        &format!("cat >&2 << 'END'\n{said}\nEND\nexit {status}"),
    );
    let said = Rebuild::bare(&pair.old, &pair.new)
        .args(["--from", "ssh://dba@db2.example:2222", "--rsh"])
        .arg(&rsh)
        .args(["--progress", "none"])
        .args(more)
        .fail(1);
    assert_untouched(&before, pair.old.pgdata());
    said
}

#[test]
fn ssh_that_reaches_nobody_and_a_host_without_pg_reseed_have_words_of_their_own() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let failed =
        |said: &str, status: i32| words(&scene, &failed_by(&scene, &pair, (said, status), &[]));
    let texts = [
        failed("dba@db2.example: Permission denied (publickey).", 255),
        failed("bash: line 1: pg_reseed: command not found", 127),
        failed(
            "bash: line 1: /usr/local/bin/pg_reseed: Permission denied",
            126,
        ),
    ];
    assert_snapshot!(texts.join("\n"), @r#"
    pg_reseed: error: the login by ssh on "dba@db2.example" (port PID) was refused
    pg_reseed: detail: rsh ended with exit status PID; it said: dba@db2.example: Permission denied (publickey).
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: This user's public key must be in ~/.ssh/authorized_keys of the user there; --from ssh://USER@HOST names another one. By hand, this must work: SCENE/rsh -p PID dba@db2.example true
    pg_reseed: error: there is no "pg_reseed" on "dba@db2.example" (port PID)
    pg_reseed: detail: rsh ended with exit status PID; it said: bash: line 1: pg_reseed: command not found.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: Install pg_reseed there, in the same version, or say with --agent-path where it is: the PATH of a command by ssh is often shorter than that of a login.
    pg_reseed: error: "pg_reseed" cannot be run on "dba@db2.example" (port PID)
    pg_reseed: detail: rsh ended with exit status PID; it said: bash: line 1: /usr/local/bin/pg_reseed: Permission denied.
    pg_reseed: detail: Nothing was changed in "SCENE/old/data".
    pg_reseed: hint: It must be a program for that host, executable for the user who logs in, and not on a file system that is mounted noexec; --agent-path names another one.
    "#);
}

/// What ssh wrote stands in the message and nowhere else, however much is logged.
#[test]
fn what_ssh_wrote_is_quoted_once() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    for (said, more) in [
        ("dba@db2.example: Permission denied (publickey).", &[][..]),
        (
            "dba@db2.example: Permission denied (publickey).",
            &["-v", "-v"],
        ),
        ("pg_reseed: error: the agent's own words", &[]),
        ("pg_reseed: error: the agent's own words", &["-v"]),
    ] {
        let failed = failed_by(&scene, &pair, (said, 255), more);
        assert_eq!(failed.stderr.matches(said).count(), 1, "{more:?}: {failed}");
    }
    // And the report has it.
    let failed = failed_by(&scene, &pair, ("banner", 255), &[]);
    let details = failed.report()["details"].to_string();
    assert!(details.contains("it said: banner"), "{details}");
}

/// A connection that is lost later has its last words once, too.
#[test]
fn what_ssh_wrote_before_it_lost_the_connection_is_quoted_once() {
    let scene = Scene::new();
    let pair = Pair::diverged(&scene);
    let rsh = script(
        &scene,
        "rsh",
        &format!(
            ": | {} serve --stdio -d '{} dbname=postgres'; echo 'Connection to db2 closed.' >&2; exit 255",
            binary().display(),
            pair.new.conninfo()
        ),
    );
    for more in [&[][..], &["-v"]] {
        let failed = Rebuild::bare(&pair.old, &pair.new)
            .args(["--from", "ssh://db2.example", "--progress", "none", "--rsh"])
            .arg(&rsh)
            .args(more)
            .fail(1);
        let count = failed.stderr.matches("Connection to db2 closed.").count();
        assert_eq!(count, 1, "{more:?}: {failed}");
    }
}

#[test]
fn real_ssh_says_what_is_the_matter() {
    let scene = Scene::new();
    let Some(sshd) = Sshd::start(&scene) else {
        return;
    };
    let pair = Pair::diverged(&scene);
    let failed = |from: &str, rsh: &str, agent: &str| {
        let said = Rebuild::bare(&pair.old, &pair.new)
            .args(["--from", from, "--rsh", rsh, "--agent-path", agent])
            .args(["--progress", "none"])
            .fail(1);
        said.messages()
    };
    let place = format!("ssh://127.0.0.1:{}", sshd.port);
    let named = format!("\"127.0.0.1\" (port {})", sshd.port);
    let says = |said: &str, what: &str, quoted: &str| {
        assert!(said.contains(what), "{what}: {said}");
        assert_eq!(said.matches(quoted).count(), 1, "{quoted}: {said}");
    };
    // The program.
    let said = failed(&place, &sshd.rsh(), "/no/such/pg_reseed");
    says(
        &said,
        &format!("there is no \"/no/such/pg_reseed\" on {named}"),
        "exit status 127",
    );
    let file = scene.path().join("no-program");
    fs::write(&file, "").unwrap();
    let said = failed(&place, &sshd.rsh(), file.to_str().unwrap());
    says(
        &said,
        &format!("cannot be run on {named}"),
        "exit status 126",
    );
    // The host key.
    let strict = sshd
        .rsh()
        .replace("StrictHostKeyChecking=no", "StrictHostKeyChecking=yes");
    let said = failed(&place, &strict, "pg_reseed");
    says(
        &said,
        &format!("ssh has not accepted the host key of {named}"),
        "Host key verification failed",
    );
    // The key.
    let said = failed(&place, &sshd.rsh().replace("/user ", "/host "), "pg_reseed");
    says(
        &said,
        &format!("the login by ssh on {named} was refused"),
        "Permission denied (publickey",
    );
    // The port: nothing listens on 1.
    let said = failed("ssh://127.0.0.1:1", &sshd.rsh(), "pg_reseed");
    says(
        &said,
        "ssh could not connect to \"127.0.0.1\" (port 1)",
        "Connection refused",
    );
    // The name.
    let said = failed("ssh://no-such-host.invalid", &sshd.rsh(), "pg_reseed");
    says(
        &said,
        "ssh does not know the host of \"no-such-host.invalid\"",
        "Could not resolve hostname",
    );
}

/// The role that SECURITY.md describes, on a server that lets nobody in but by the name of the operating system's
/// user, as Debian's do: without the lines that the page gives the agent gets no further, and is told so.
#[test]
fn role_that_is_no_superuser_serves_the_agent_under_peer_authentication() {
    let scene = Scene::new();
    let mut primary = scene.foreign_cluster("primary", &["--auth=peer"]);
    let user = done(Command::new("id").arg("-un")).trim().to_owned();
    if user != "postgres" {
        // Who runs the tests is who owns the cluster, and its superuser is called postgres all the same.
        let hba = primary.read("pg_hba.conf");
        primary.write(
            "pg_hba.conf",
            format!("local all postgres trust\nlocal replication postgres trust\n{hba}"),
        );
    }
    primary.start();
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let page = include_str!("../../SECURITY.md");
    let block = |what: &str| {
        page.split("```\n")
            .find(|block| block.contains(what))
            .unwrap()
    };
    primary.sql(block("CREATE ROLE reseed"));
    let own = primary.conninfo().replace("user=postgres", "user=reseed");
    let standby = scene.vacant("standby");
    let rebuild = || {
        Rebuild::bare(&standby, &primary)
            .args(["--from", "local", "--source-dbname"])
            .arg(format!("{own} dbname=postgres"))
            .args(["--seed", "--slot", "mine", "--create-slot"])
    };
    let refused = rebuild().fail(1);
    assert!(
        refused
            .stderr
            .contains("Peer authentication failed for user \"reseed\"")
            && refused.stderr.contains("mapped to it in pg_ident.conf"),
        "{refused}"
    );
    let lines = block("echo 'reseed").replace("reseed postgres", &format!("reseed {user}"));
    assert!(lines.contains("pg_hba.conf"), "{lines}");
    let path = std::env::var("PATH").unwrap_or_default();
    done(
        clean(Command::new("sh"))
            .args(["-ec", &lines])
            .current_dir(primary.pgdata())
            .env("PATH", format!("{}:{path}", bindir().display()))
            .env("PGHOST", primary.home())
            .env("PGUSER", "postgres"),
    );
    // The page says that it takes effect at once; a server reads its files a moment after it was told.
    eventually("the server has read its files", DEADLINE, || {
        primary
            .sql("SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'peer' AND options::text LIKE '%map=reseed%'")
            .eq("1")
            .then_some(())
    });
    rebuild().succeed();
    // The seed has the primary's socket directory; its own comes now.
    standby.settle();
    rebuild().arg("--start").succeed();
    primary.wait_sql(
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'",
        "1",
    );
    assert_eq!(
        primary.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'reseed'"),
        "f"
    );
}

/// `make install` as root would run it after a user's `make`: no cargo is in the PATH, or asked for.
#[test]
fn what_was_built_is_installed_without_cargo() {
    let scene = Scene::new();
    let folder = scene.folder("clone");
    let at = |path: &str| folder.join(path);
    for directory in ["src", "man", "target/release", "other/release"] {
        fs::create_dir_all(at(directory)).unwrap();
    }
    fs::write(at("Makefile"), include_str!("../../Makefile")).unwrap();
    fs::write(at("src/main.rs"), "fn main() {}").unwrap();
    fs::write(at("man/pg_reseed.1"), include_str!("../../man/pg_reseed.1")).unwrap();
    let is_root_possible = Command::new("unshare")
        .args(["--user", "--map-root-user", "true"])
        .output()
        .is_ok_and(|output| output.status.success());
    let install = |more: &[&str]| {
        let mut words = vec![
            "make",
            "--no-print-directory",
            "install",
            "CARGO=false",
            "DESTDIR=there",
        ];
        words.extend(more);
        if is_root_possible {
            words.splice(0..0, ["unshare", "--user", "--map-root-user"]);
        }
        clean(Command::new(words[0]))
            .args(&words[1..])
            .current_dir(&folder)
            .env_remove("CARGO_TARGET_DIR")
            .env("PATH", "/usr/bin:/bin")
            .output()
            .unwrap()
    };
    let told = install(&[]);
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    // A folder of root's own may hold a program that another clone built.
    if !Path::new("/var/cache/pg_reseed/target/release/pg_reseed").exists() {
        assert!(
            !told.status.success() && text.contains("run \"make\" first"),
            "{text}"
        );
        assert!(!text.contains("not found"), "{text}");
    }
    let told = install(&["CARGO_TARGET_DIR=nowhere"]);
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        !told.status.success() && text.contains("run \"make\" first"),
        "{text}"
    );

    fs::write(at("target/release/pg_reseed"), "built by a user").unwrap();
    done_well(&install(&[]));
    let installed = at("there/usr/local/bin/pg_reseed");
    assert_eq!(fs::read_to_string(&installed).unwrap(), "built by a user");
    assert_eq!(
        fs::metadata(&installed).unwrap().permissions().mode() & 0o777,
        0o755
    );
    assert!(at("there/usr/local/share/man/man1/pg_reseed.1").exists());
    // Where a user says that it is elsewhere, it is taken from there.
    fs::write(at("other/release/pg_reseed"), "built elsewhere").unwrap();
    done_well(&install(&["CARGO_TARGET_DIR=other"]));
    assert_eq!(fs::read_to_string(&installed).unwrap(), "built elsewhere");
    // What was changed since is not what would be installed.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let file = File::options().write(true).open(at("src/main.rs")).unwrap();
    file.set_modified(later).unwrap();
    let told = install(&[]);
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        !told.status.success() && text.contains("is older than src/main.rs"),
        "{text}"
    );
}

fn done_well(output: &std::process::Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.is_empty(), "{text}");
}
