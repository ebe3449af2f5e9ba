"""What the rigs of this folder share: the way down from root, places, packages, processes, ports and waiting.

A rig runs pg_reseed under a manager that is not ours, on servers that it makes itself. `run` is its whole frame: as
root it brings what is missing, gives root up for the rest, and at the end, however that comes, ends every process
that descends from it, by its id, and removes the folder in which everything happened. A cache keeps what was brought:
$PG_RESEED_MANAGERS_DIR, by default /var/cache/pg_reseed/managers for root, ~/.cache/pg_reseed/managers for others.

    PG_RESEED_RIG_BINARY   the pg_reseed that is tried; by default a release build of this tree is made
    PG_RESEED_RIG_KEEP     not empty: the folder stays, and its name is printed
    PG_RESEED_TEST_USER    who runs the servers when root starts a rig: postgres
"""

import ctypes
import glob
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
PG = Path("/usr/lib/postgresql/15")
# Every row of pgbench's tables counts.
SUMS = " UNION ALL ".join(
    f"SELECT '{table}', count(*), sum(hashtextextended(t::text, 0)::numeric) FROM pgbench_{table} t"
    for table in ("accounts", "branches", "history", "tellers"))
PYPI = ["patroni[etcd3]==4.1.*", "psycopg[binary]==3.*"]


class Failed(Exception):
    """A promise that did not hold, or a wait that was in vain: the words are for the table."""


def until(what, condition, seconds=60, every=0.1):
    """Waits until `condition` gives something true, and returns that; an exception counts as not yet."""
    end = time.monotonic() + seconds
    while True:
        why = ""
        try:
            found = condition()
        except Failed:
            raise
        except Exception as error:  # A server that is not there yet, a file that is half written.
            found, why = None, f" ({type(error).__name__}: {error})"
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"waited {seconds} s in vain: {what}{why[:300]}")
        time.sleep(every)


def hold(condition, what):
    if not condition:
        raise Failed(what)


def out(argv, seconds=60, check=True, **more):
    """The standard output of a command that is to end within `seconds`."""
    try:
        done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=seconds, text=True, errors="replace", **more)
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{argv[0]} did not end within {seconds} s") from late
    if check and done.returncode:
        raise Failed(f"{' '.join(map(str, argv))[:200]}: status {done.returncode}: {done.stderr.strip()[-600:]}")
    return done.stdout if check else done


# ------------------------------------------------------------------------------------------- packages


def cache():
    default = "/var/cache/pg_reseed/managers" if os.geteuid() == 0 else "~/.cache/pg_reseed/managers"
    return Path(os.environ.get("PG_RESEED_MANAGERS_DIR", default)).expanduser()


def say(text):
    print(text, flush=True)


def apt(*words, **more):
    return out(["apt-get", "-q", "-y", *words], 900, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, **more)


def installed(what, *packages):
    """Sees to what has to be in Debian's own place: a file, or what a command that succeeds proves."""
    if not out(what, check=False).returncode if isinstance(what, list) else Path(what).exists():
        return
    hold(os.geteuid() == 0, f"missing: apt-get install {' '.join(packages)}")
    say(f"installing {' '.join(packages)}")
    # No cluster "main": a rig makes its own.
    conf = Path("/etc/postgresql-common/createcluster.d/pg_reseed-rig.conf")
    conf.parent.mkdir(parents=True, exist_ok=True)
    conf.write_text("create_main_cluster = false\n")
    try:
        apt("update")
        apt("install", "--no-install-recommends", *packages)
    finally:
        conf.unlink()


def fresh(name, make):
    """A folder of the cache, made whole or not at all: `make` is given a folder beside it."""
    place = cache() / name
    if not place.exists():
        say(f"bringing {name} to {place}")
        place.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=place.parent))
        try:
            make(new)
            out(["chmod", "-R", "a+rX", new])
            try:
                new.rename(place)
            except OSError:  # Another rig was faster.
                hold(place.exists(), f"could not make {place}")
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return place


def unpacked(*packages):
    """Debian packages in a folder of their own: nothing is configured, no daemon starts. Returns the root of it."""

    def make(new):
        try:
            apt("download", *packages, cwd=new)
        except Failed:
            apt("update")
            apt("download", *packages, cwd=new)
        for package in glob.glob(f"{new}/*.deb"):
            out(["dpkg", "-x", package, new / "root"])
            os.unlink(package)

    return fresh("deb/" + "+".join(packages), make) / "root"


def venv():
    """Patroni, in an environment of its own. Returns the folder of its programs, which that python has to start."""

    def make(new):
        out(["/usr/bin/python3", "-m", "venv", new], 120)
        out([new / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *PYPI], 600)

    installed("/usr/bin/python3", "python3")
    installed(["/usr/bin/python3", "-c", "import ensurepip"], "python3-venv")
    return fresh("venv", make) / "bin"


def postgres_source(*parts):
    """Parts of PostgreSQL 15's sources, from Debian's source package: the version that is installed, or another."""
    url = "http://deb.debian.org/"
    sources = f"deb-src {url}debian bookworm main\ndeb-src {url}debian-security bookworm-security main\n"

    def make(new):
        # Lists of its own: the machine's apt is left as it is.
        for folder in ("lists/partial", "cache/archives/partial", "parts"):
            (new / "apt" / folder).mkdir(parents=True)
        (new / "apt/sources.list").write_text(sources)
        own = [f"-oDir::Etc::{key}={new}/apt/{value}" for key, value in
               (("sourcelist", "sources.list"), ("sourceparts", "parts"))]
        own += [f"-oDir::State::lists={new}/apt/lists", f"-oDir::Cache={new}/apt/cache"]
        apt(*own, "update")
        known = out(["dpkg-query", "-W", "-f", "${source:Version}", "postgresql-15"], check=False).stdout
        shown = out(["apt-cache", *own, "showsrc", "--only-source", "postgresql-15"])
        versions = [known, *(line.split()[1] for line in shown.splitlines() if line.startswith("Version: "))]
        why = None
        for version in dict.fromkeys(filter(None, versions)):
            try:
                apt(*own, "source", "--download-only", f"postgresql-15={version}", cwd=new)
                break
            except Failed as error:  # Not on the mirror: one that is older or newer tests the same program.
                why = error
        else:
            raise Failed(f"no source package of postgresql-15: {why}")
        with tarfile.open(next(new.glob("*.orig.tar.bz2"))) as archive:
            top = archive.next().name.split("/")[0]
            wanted = [each for each in archive if any(each.name.startswith(f"{top}/{part}/") for part in parts)]
            archive.extractall(new / "unpacked", wanted)
        (new / "unpacked" / top).rename(new / "postgresql")
        (new / "version").write_text(version)
        for left in ("apt", "unpacked", *(each.name for each in new.glob("postgresql-15_*"))):
            shutil.rmtree(new / left) if (new / left).is_dir() else (new / left).unlink()

    return fresh("postgresql-15", make)


def sshd():
    """A real sshd, the system's or one that is only unpacked, and the environment that it needs."""
    own = os.environ.get("PG_RESEED_TEST_SSHD", "/usr/sbin/sshd")
    if Path(own).exists():
        return {"RIG_SSHD": own}
    root = unpacked("openssh-server", "libwrap0")
    library = next(root.rglob("libwrap.so.0")).parent
    return {"RIG_SSHD": str(root / "usr/sbin/sshd"), "RIG_SSHD_LIBRARIES": str(library)}


# ------------------------------------------------------------------------------------------- the frame


def run(name, bring, story):
    """Runs a rig: `bring` as who started it, which returns variables for `story`, which gets the folder to work in."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if "RIG_WORK" in os.environ:
        status = 1
        try:
            status = story(Path(os.environ["RIG_WORK"]))
        except (Failed, OSError) as error:
            say(f"FAILED: {error}")
        finally:
            end_all_but_me()
        sys.exit(status)
    adopt_orphans()
    work, status = None, 1
    try:
        os.environ.update(bring() or {})
        built = binary()
        work = Path(tempfile.mkdtemp(prefix=f"reseed-{name}.", dir=os.environ.get("TMPDIR", "/tmp")))
        # Copied, so that the other user can reach them wherever this clone is.
        shutil.copy(built, work / "pg_reseed")
        shutil.copytree(TREE / "tests/managers", work / "tests/managers", ignore=shutil.ignore_patterns("__*"))
        shutil.copytree(TREE / "docs", work / "docs")
        user, down = pwd.getpwuid(os.geteuid()), []
        if os.geteuid() == 0:
            user = pwd.getpwnam(os.environ.get("PG_RESEED_TEST_USER", "postgres"))
            out(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", work])
            down = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups",
                    "--pdeathsig=TERM"]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PG") or key.startswith("PG_")}
        story = subprocess.Popen([*down, "env", "--default-signal=HUP,INT,TERM", "/usr/bin/python3", "-B",
                                  work / "tests/managers" / Path(sys.argv[0]).name, *sys.argv[1:]], cwd=work,
                                 stdin=subprocess.DEVNULL,
                                 env={**clean, "RIG_WORK": str(work), "HOME": str(work), "TMPDIR": str(work),
                                      "LC_ALL": "C.UTF-8", "USER": user.pw_name, "LOGNAME": user.pw_name})
        status = reap_until_end_of(story.pid)
    except Failed as error:
        say(f"FAILED: {error}")
    finally:
        end_descendants()
        if work and os.environ.get("PG_RESEED_RIG_KEEP"):
            say(f"kept: {work}")
        elif work:
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(status)


def binary():
    own = os.environ.get("PG_RESEED_RIG_BINARY")
    if own:
        return own
    subprocess.run(["cargo", "build", "--release", "--locked"], cwd=TREE, check=True)
    return TREE / os.environ.get("CARGO_TARGET_DIR", "target") / "release/pg_reseed"


def adopt_orphans():
    """Makes this process the parent of descendants whose own parent ends: they stay within reach (prctl 36)."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def children_of(pid):
    try:
        return [int(word) for task in glob.glob(f"/proc/{pid}/task/*/children") for word in
                Path(task).read_text().split()]
    except OSError:
        return []


def descendants_of(pid):
    found, look = [], [pid]
    while look:
        for child in children_of(look.pop()):
            found.append(child)
            look.append(child)
    return found


def reap_until_end_of(pid):
    """The status of a child. Orphans that end before it do not stay as zombies: a manager waits for its server."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return abs(os.waitstatus_to_exitcode(status))


def end_descendants():
    """Ends whatever this process began and what that began, until nothing is left."""
    begin = time.monotonic()
    while time.monotonic() < begin + 30:
        end_these(descendants_of(os.getpid()), begin)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.05)


def end_all_but_me():
    """The same, asked for by the story: servers that left their manager are children of the process above."""
    begin = time.monotonic()

    def none_left():
        found = [pid for pid in descendants_of(os.getppid()) if pid != os.getpid() and is_alive(pid)]
        end_these(found, begin)
        return not found

    until("all processes of the rig end", none_left, 30, 0.05)


def end_these(pids, begin):
    """A server gets ten seconds, for it takes its shared memory away; others have nothing that outlasts them."""
    for pid in pids:
        is_server = words_of(pid)[0].split(":")[0].endswith("postgres") and time.monotonic() < begin + 10
        signal_to(pid, signal.SIGQUIT if is_server else signal.SIGKILL)


def signal_to(pid, which):
    try:
        os.kill(pid, which)
    except ProcessLookupError:
        pass


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def words_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]


# ------------------------------------------------------------------------------------------- pieces


class Service:
    """A process of the rig that goes on until it is ended, with its output in a file."""

    def __init__(self, name, argv, log, env=None, cwd=None):
        self.name, self.log = name, Path(log)
        with open(log, "ab") as file:
            self.child = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=file,
                                          stderr=file, env={**os.environ, **(env or {})}, cwd=cwd)
        self.pid = self.child.pid

    def is_running(self):
        if self.child.poll() is not None:
            raise Failed(f"{self.name} ended with status {self.child.returncode}: {tail(self.log)}")
        return True

    def end(self, which=signal.SIGTERM, seconds=60):
        if self.child.poll() is None:
            self.child.send_signal(which)
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired as late:
                raise Failed(f"{self.name} did not end within {seconds} s of signal {which}") from late


def tail(log, lines=6):
    try:
        return " | ".join(Path(log).read_text(errors="replace").splitlines()[-lines:])[-900:]
    except OSError:
        return "no log"


def loopback():
    """The first three bytes of addresses of this machine that nobody else has in mind: Linux answers to all of 127."""
    return f"127.{random.randint(16, 250)}.{random.randint(1, 250)}"


def free_port(addresses=("127.0.0.1",)):
    """A port that nobody listens on at these addresses, below those that the kernel gives to clients."""
    for _ in range(200):
        port = random.randint(20000, 32000)
        try:
            for address in addresses:
                with socket.socket() as probe:
                    probe.bind((address, port))
            return port
        except OSError:
            continue
    raise Failed("no free port found")


def listens(address, port):
    with socket.create_connection((address, port), 2):
        return True


class Ssh:
    """An sshd of this user at the addresses of the hosts, and an ssh that finds it, as ~/.ssh/config would have it.

    `agents` has the command that the key starts at an address, and nothing else: so SECURITY.md narrows it.
    """

    def __init__(self, folder, agents):
        (folder / "bin").mkdir(parents=True)
        for name in ("host", "user"):
            out(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name])
        key, port = (folder / "user.pub").read_text(), free_port(agents)
        config = (f"Port {port}\nHostKey {folder}/host\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
                  "PidFile none\nMaxStartups 100\n")
        config += "".join(f"ListenAddress {address}\n" for address in agents)
        for address, agent in agents.items():
            (folder / address).write_text(f'restrict,command="{agent}" {key}')
            config += f"Match LocalAddress {address}\n  AuthorizedKeysFile {folder}/{address}\n"
        (folder / "sshd").write_text(config)
        (folder / "config").write_text(
            f"Host *\n  Port {port}\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  BatchMode yes\n"
            "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n")
        (folder / "bin/ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {folder}/config "$@"\n')
        (folder / "bin/ssh").chmod(0o755)
        self.path = f"{folder}/bin:/usr/bin:/bin"
        libraries = os.environ.get("RIG_SSHD_LIBRARIES")
        self.sshd = Service("sshd", [os.environ["RIG_SSHD"], "-D", "-e", "-f", folder / "sshd"], folder / "log",
                            env={"LD_LIBRARY_PATH": libraries} if libraries else {})
        for address in agents:
            until("sshd listens", lambda: self.sshd.is_running() and listens(address, port))


def read_json(path):
    return json.loads(Path(path).read_text())


def size(count):
    return f"{count / 1048576:.1f} MB" if count >= 1048576 else f"{count / 1024:.0f} kB"


def delta_of(report):
    """The figures of a run that brought an old primary back, which must have been a delta."""
    hold(report["outcome"] == "done", f"{report['outcome']}: {report['errors']}")
    hold(report["mode"] == "rebuild" and report["divergence"], f"no delta of a diverged directory: {report['relation']}")
    hold(report["moved_bytes"] < report["full_copy_bytes"] / 2, f"no delta: {figures_of(report)}")
    return (f"{figures_of(report)}, {size(report['divergence']['lost_bytes'])} of WAL lost, {report['seconds']:.0f} s")


def figures_of(report):
    return f"{report['mode']} moved {size(report['moved_bytes'])} of {size(report['full_copy_bytes'])}"


def same_rows_and_blocks(source, standby, verify, env):
    """The standby holds what its source does, row by row and, as pg_reseed verify sees it, block by block.

    Both are quiet, and are nodes with a method `sql`. What one of them changed after its last checkpoint can be compared after
    the next one only (status 7): both make one before each try.
    """

    def replayed():
        lsn = source.sql("SELECT pg_current_wal_lsn()")
        until(f"{standby.name} replays", lambda: standby.sql(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'") == "t")

    def verified():
        source.sql("CHECKPOINT")
        replayed()
        standby.sql("CHECKPOINT")
        done = out([*verify, "--quiet", "--passes", "1"], 120, check=False, env=env)
        hold(done.returncode in (0, 7), f"verify of {standby.name}: status {done.returncode}: "
                                        f"{(done.stdout + done.stderr)[-600:]}")
        return done.returncode == 0

    until("the load's sessions end", lambda: source.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'") == "0")
    replayed()
    hold(standby.sql(SUMS) == source.sql(SUMS), f"{standby.name} has other rows than {source.name}")
    until(f"all blocks of {standby.name} can be compared", verified, 120)


class Table:
    """The lines that a rig prints while it goes and the table at its end."""

    def __init__(self):
        self.rows, self.began = [], time.monotonic()

    def case(self, name, act):
        """Runs one case, which returns its figures as text; what comes after a failure still runs."""
        begin = time.monotonic()
        try:
            figures, good = act(), True
        except (Failed, OSError) as error:
            figures, good = str(error), False
        seconds = time.monotonic() - begin
        say(f"{'ok    ' if good else 'FAILED'} {name} ({seconds:.0f} s): {figures}")
        self.rows.append((name, good, seconds, figures if good else figures[:100]))
        return good

    def end(self):
        say("")
        width = max(len(row[0]) for row in self.rows)
        for name, good, seconds, figures in self.rows:
            say(f"  {name:<{width}}  {'ok' if good else 'FAILED':<6}  {seconds:5.0f} s  {figures}")
        bad = sum(not row[1] for row in self.rows)
        say(f"  {len(self.rows) - bad} of {len(self.rows)} passed in {time.monotonic() - self.began:.0f} s")
        return 1 if bad or not self.rows else 0
