"""What the benchmarks share: options, tables, rounds, the sidecars they measure, and the fair ways to take a time or a peak.

Times are wall clock. Resident memory is VmHWM as the kernel counts it for the process itself: rusage also counts what the process was before exec, a copy
of this interpreter.
"""
import argparse
import http.client
import json
import os
import platform
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.join(HERE, "..", "tests")
TICK = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


class Options:
    """Of the command under way; filled by parse()."""
    bin = dir = None
    quick = False


def arguments(doc):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default=os.path.join(HERE, "..", "build"))
    p.add_argument("--dir", help="directory of the databases (default: a new one in $TMPDIR)")
    p.add_argument("--out", help="file for the tables (default: standard output)")
    p.add_argument("--quick", action="store_true", help="small and short, to see that it runs; its figures mean nothing")
    return p


def parse(p):
    a = p.parse_args()
    Options.bin, Options.dir, Options.quick = os.path.join(os.path.abspath(a.build), "bin"), a.dir, a.quick
    os.environ["MS_BUILD_DIR"] = os.path.abspath(a.build)
    for name in ("migstream", "migrestore", "ms-loadgen"):
        if not os.path.exists(program(name)):
            sys.exit(f"{sys.argv[0]}: {program(name)} is missing: cmake --preset release && cmake --build build")
    return a


def chosen(p, text, known):
    """The names of a comma-separated option, all of them known."""
    names = text.split(",")
    unknown = set(names) - set(known)
    if unknown:
        p.error(f"no {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    return names


def program(name):
    return os.path.join(Options.bin, name)


def cached(name):
    """A program on the PATH, among the servers that scripts/setup keeps, or where Go installs."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/openssh", os.path.join(cache, "migstream", "bin"),
                                                    os.environ.get("GOBIN") or os.path.join(os.path.expanduser("~"), "go", "bin")]))


def note(text):
    print(text, file=sys.stderr, flush=True)


def tree_bytes(path, part=""):
    """Bytes of the files whose paths hold `part`; temporaries are no objects yet."""
    total = 0
    for d, _, files in os.walk(path):
        for f in files:
            whole = os.path.join(d, f)
            if part in whole and ".tmp" not in os.path.relpath(whole, path):
                try:
                    total += os.lstat(whole).st_size
                except FileNotFoundError:
                    pass
    return total


def percentile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def middle(values):
    return statistics.median(values)


def spread(values, digits=0):
    return f"{min(values):.{digits}f} - {max(values):.{digits}f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in rows]) + "\n"


def finish(title, text, out):
    text = f"# {title}\n\n{machine()}\n{text}"
    if out:
        with open(out, "w") as f:
            f.write(text)
    else:
        print(text)


def machine():
    cpu = "unknown CPU"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    version = subprocess.run([program("migstream"), "--version"], capture_output=True, text=True).stdout.strip().splitlines()
    fs = subprocess.run(["stat", "-f", "-c", "%T", Options.dir or tempfile.gettempdir()], capture_output=True, text=True).stdout.strip()
    lines = [f"Machine: {os.cpu_count()} x {cpu}, Linux {platform.release()}, {fs}; load average at the end {os.getloadavg()[0]:.1f}. Date: {time.strftime('%Y-%m-%d')}.",
             f"{version[0] if version else '?'}. Command: `" + " ".join([os.path.relpath(sys.argv[0], os.path.join(HERE, "..")), *sys.argv[1:]]) + "`."]
    if Options.quick:
        lines.append("**--quick: these figures mean nothing.**")
    return "\n".join(lines) + "\n"


class Work:
    """A directory that is gone afterwards."""

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="ms-bench-", dir=Options.dir)
        os.chmod(self.path, 0o755)  # sshd serves from it as another user
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


def rounds(count, *runs):
    """Runs each of `runs` once a round, in turn and every other round backwards, so that a machine that slows down or has something else to do
    for a while favours none. What others wrote is out of the way first. Returns one list of results for each."""
    results = [[] for _ in runs]
    for n in range(count):
        order = list(enumerate(runs))
        for i, run in reversed(order) if n % 2 else order:
            os.sync()
            results[i].append(run())
    return results


# ---- processes ----

def status_of(pid, key):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(key + ":"))


class Timed:
    """A command that must succeed: seconds, CPU seconds, and with `peak` the resident bytes, looked at every 2 ms until it ends."""

    def __init__(self, command, env=None, peak=False):
        self.peak, done = 0, threading.Event()
        t = time.perf_counter()
        with tempfile.TemporaryFile() as output:
            p = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
            watcher = threading.Thread(target=self.watch, args=(p.pid, done)) if peak else None
            if watcher:
                watcher.start()
            _, status, usage = os.wait4(p.pid, 0)
            self.seconds = time.perf_counter() - t
            done.set()
            if watcher:
                watcher.join()
            p.returncode = os.waitstatus_to_exitcode(status)
            if p.returncode:
                output.seek(0)
                raise RuntimeError(f"{' '.join(command)}: exit {p.returncode}: {output.read()[-1500:].decode(errors='replace')}")
        self.cpu = usage.ru_utime + usage.ru_stime

    def watch(self, pid, done):
        while not done.wait(0.002):
            try:
                self.peak = max(self.peak, status_of(pid, "VmHWM"))
            except (OSError, StopIteration):  # it has ended
                return


def shell(script, *args):
    """Seconds that a few lines of sh take."""
    return Timed(["sh", "-euc", script, "sh", *args]).seconds


def same(a, b):
    """Two files are equal, or the benchmark ends here: a figure for wrong bytes is none."""
    with open(a, "rb") as f, open(b, "rb") as g:
        while True:
            x = f.read(MIB)
            if x != g.read(MIB):
                raise RuntimeError(f"{b} differs from {a}")
            if not x:
                return


def load(db, *args):
    p = subprocess.run([program("ms-loadgen"), "--db", db, *map(str, args)], check=True, capture_output=True, text=True)
    return json.loads(p.stdout)


def random_database(db, size):
    """About `size` bytes that do not compress, in rows of 1,000 bytes, and the counter that tells which commit the database is at."""
    c = sqlite3.connect(db, isolation_level=None)
    c.execute("PRAGMA journal_mode=OFF")
    c.execute("CREATE TABLE ms_seq(id INTEGER PRIMARY KEY, seq INTEGER NOT NULL)")
    c.execute("INSERT INTO ms_seq VALUES(1,0)")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB NOT NULL)")
    rows = max(1, size // 1024)
    c.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?) INSERT INTO t SELECT i, randomblob(1000) FROM n", (rows,))
    c.execute("PRAGMA journal_mode=WAL")
    c.close()
    return rows


class Writer:
    """An application that commits `each` row updates at a time to a random_database(), and knows its commits by number."""

    def __init__(self, db, rows, each=1):
        self.c = sqlite3.connect(db, isolation_level=None, timeout=30, check_same_thread=False)
        self.rows, self.each, self.at = rows, each, 0

    def commit(self):
        """Returns the commit's number, the count of commits since the database was made."""
        c = self.c
        c.execute("BEGIN IMMEDIATE")
        for _ in range(self.each):
            self.at = (self.at * 1103515245 + 12345) & 0x7fffffff
            c.execute("UPDATE t SET b=randomblob(1000) WHERE id=?", (1 + self.at % self.rows,))
        seq = c.execute("UPDATE ms_seq SET seq=seq+1 WHERE id=1 RETURNING seq").fetchall()[0][0]
        c.execute("COMMIT")
        return seq

    def run(self, count, rate=0, each=None):
        """`count` commits, at most `rate` a second; each(seq, time of its return). Returns the seconds it took."""
        begin = time.perf_counter()
        for i in range(count):
            if rate:
                time.sleep(max(0, begin + i / rate - time.perf_counter()))
            seq = self.commit()
            if each:
                each(seq, time.perf_counter())
        return time.perf_counter() - begin

    def seq(self):
        return self.c.execute("SELECT seq FROM ms_seq").fetchone()[0]

    def close(self):
        self.c.close()


# ---- sidecars ----

class Sidecar:
    """A replicating process on a database, and what it costs. Its replica is a directory unless `urls` names others."""
    name = None

    def __init__(self, db, work, urls=None, env=None):
        self.db, self.work = db, work
        self.replica, self.shadow = os.path.join(work, "replica"), os.path.join(work, "shadow")
        self.urls = urls or ["file://" + self.replica]
        self.env = {**os.environ, **(env or {}), "MIGSTREAM_SHADOW": self.shadow}
        self.start()

    def start(self):
        self.log = open(os.path.join(self.work, "sidecar.log"), "ab")
        self.proc = subprocess.Popen(self.command(), env=self.env, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        try:
            self.ready()
        except BaseException:
            self.stop()
            raise

    def cpu(self):
        with open(f"/proc/{self.proc.pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def peak(self):
        return status_of(self.proc.pid, "VmHWM")

    def stored(self):
        return tree_bytes(self.replica)

    def stop(self):
        self.proc.send_signal(signal.SIGTERM)
        try:
            self.proc.wait(30)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
        self.log.close()

    def said(self):
        with open(self.log.name, errors="replace") as f:
            return "".join(f.readlines()[-5:])

    def wait_for(self, what, condition, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            if self.proc.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.proc.returncode}: {self.said()}")
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name}: not within {seconds} s: {what}: {self.said()}")
            time.sleep(0.05)


class Migstream(Sidecar):
    name = "migstream"

    def command(self):
        return [program("migstream"), "replicate", self.db, *self.urls]

    def ask(self, path):
        """Straight over the control socket: a process for each question would disturb what is measured."""
        s = socket.socket(socket.AF_UNIX)
        try:
            s.settimeout(30)
            s.connect(os.path.join(self.shadow, "control.sock"))
            s.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            r = http.client.HTTPResponse(s)
            r.begin()
            return r.read()
        finally:
            s.close()

    def status(self):
        return json.loads(self.ask(b"/status"))["databases"][0]

    def calls(self):
        """Calls of backend drivers since the start: {(type, kind): count}."""
        found = {}
        for line in self.ask(b"/metrics").decode().splitlines():
            if line.startswith("migstream_backend_calls_total{"):
                labels, _, value = line.partition("{")[2].partition("} ")
                values = [x.partition("=")[2].strip('"') for x in labels.split(",")]
                found[values[0], values[1]] = int(value)
        return found

    def ready(self):
        def following():
            try:
                s = self.status()
                for r in s["replicas"]:
                    if r["failingSeconds"] > 20:
                        raise RuntimeError(f"{self.name}: {r['name']}: {r['lastError']}")
                return s["state"] == "following"
            except (OSError, ValueError, KeyError, IndexError, http.client.HTTPException):
                return False
        self.wait_for("following", following, 600)

    def drain(self):
        subprocess.run([program("migstream"), "wait", self.db, "--timeout", "300s"], env=self.env, check=True, stdout=subprocess.DEVNULL)

    def restore(self, out):
        return [program("migrestore"), "--quiet", "-o", out, self.urls[0]]


class Litestream(Sidecar):
    name = "litestream"

    def command(self):
        return ["litestream", "replicate", self.db, *self.urls]

    def ready(self):
        self.wait_for("the first object", lambda: tree_bytes(self.replica) > 0, 600)
        # The snapshot of a large database goes on after its first byte.
        last = -1
        while (size := tree_bytes(self.replica)) != last:
            last = size
            time.sleep(1.5)

    def drain(self):
        time.sleep(3)  # it ships every second and says nothing; three periods

    def restore(self, out):
        return ["litestream", "restore", "-o", out, self.urls[0]]


def sidecars():
    found = [Migstream]
    if shutil.which("litestream"):
        found.append(Litestream)
    return found


def peers():
    """A line on the closest peer, which is measured where it is found."""
    if not shutil.which("litestream"):
        return "litestream is not on PATH: its figures are missing.\n"
    return "litestream " + subprocess.run(["litestream", "version"], capture_output=True, text=True).stdout.strip() + ".\n"
