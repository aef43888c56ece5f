"""What the end-to-end cases share: a directory of their own, the programs, a load with its oracle, and comparisons.

The oracle is SQLite's: ms-loadgen and ms-oracle log "seq sha256 begin_us end_us bytes" for exact copies of the live database, and a restored
file says in ms_seq which commit it is. Nothing of migstream takes part in an expected value.
"""
import datetime
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

SUPPORT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support")
sys.path.insert(0, SUPPORT)
from ports import free_port  # noqa: E402, F401: for the suites

BUILD = os.path.abspath(os.environ.get("MS_BUILD_DIR", os.path.join(os.path.dirname(__file__), "..", "..", "build")))
BIN = os.path.join(BUILD, "bin")
KILLAT = os.path.join(BUILD, "tests", "libkillat.so")
# Sanitizers and valgrind make everything slower; deadlines are stretched, never removed.
SLOW = float(os.environ.get("MS_SLOW", "1"))
# The second run of everything, under sanitizers, takes samples where the first is complete.
QUICK = bool(os.environ.get("MS_QUICK"))


def sha256(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for chunk in iter(lambda: f.read(1 << 20), b""):
            h.update(chunk)
    return h.hexdigest()


def seq_of(path):
    """Sequence number in a database file that nobody uses; leaves no -wal or -shm."""
    db = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    try:
        return db.execute("SELECT seq FROM ms_seq WHERE id=1").fetchone()[0]
    finally:
        db.close()


def rfc3339(us):
    t = datetime.datetime.fromtimestamp(us // 1000000, datetime.timezone.utc)
    return t.strftime("%Y-%m-%dT%H:%M:%S.") + f"{us % 1000000:06d}Z"


def from_rfc3339(text):
    whole, _, fraction = text.rstrip("Z").partition(".")
    t = datetime.datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=datetime.timezone.utc)
    return int(t.timestamp()) * 1000000 + int((fraction + "000000")[:6])


class Oracle:
    """seq -> set of hashes (VACUUM changes the bytes within one seq); begin and end of the commit in microseconds."""

    def __init__(self, path):
        self.hashes, self.begin, self.end, self.path = {}, {}, {}, path
        with open(path) as f:
            for line in f:
                seq, sha, begin, end, _ = line.split()
                seq = int(seq)
                self.hashes.setdefault(seq, set()).add(sha)
                self.begin.setdefault(seq, int(begin))
                self.end.setdefault(seq, int(end))


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="ms-e2e-")
        self.procs = []
        self.db = self.path("app.db")
        self.replica = self.path("replica")
        self.url = "file://" + self.replica
        self.shadow = self.path("shadow")
        self.log = self.path("oracle.log")
        self.partial = False  # True: commits without an oracle entry are allowed, and counted in self.unproven
        self.unproven = 0
        keep = ("PATH", "LANG", "TMPDIR", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS", "LD_LIBRARY_PATH")
        self.env = {k: os.environ[k] for k in keep if k in os.environ}
        self.env.update(HOME=self.dir, MIGSTREAM_SHADOW=self.shadow)
        self.random = random.Random(os.environ.get("MS_SEED") or self.id())

    def tearDown(self):
        for p in self.procs:
            if p.poll() is None:
                p.kill()
                p.wait()
        result = self._outcome.result
        bad = any(getattr(t, "test_case", t) is self for t, _ in result.failures + result.errors)
        if bad:
            for name in sorted(os.listdir(self.dir)):
                if name.startswith("daemon"):
                    with open(self.path(name), errors="replace") as f:
                        print(f"--- {name}\n" + "".join(f.readlines()[-25:]))
        if bad and os.environ.get("MS_E2E_KEEP"):
            print("kept", self.dir)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    # ---- files ----

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def connect(self, path=None, **kw):
        """A Python application's connection: autocommit unless it says BEGIN."""
        db = sqlite3.connect(path or self.db, isolation_level=None, timeout=10, **kw)
        self.addCleanup(db.close)
        return db

    def objects(self, part="", root=None):
        """Paths of replica objects, relative, that hold `part`, sorted."""
        root = root or self.replica
        found = []
        for d, _, files in os.walk(root):
            found += [os.path.relpath(os.path.join(d, f), root) for f in files]
        return sorted(f for f in found if part in f)

    def disturb(self, path, at=None, bit=None):
        """Flips one bit in place; returns what undoes it."""
        with open(path, "rb") as f:
            old = f.read()
        at = self.random.randrange(len(old)) if at is None else at
        bit = self.random.randrange(8) if bit is None else bit
        new = bytearray(old)
        new[at] ^= 1 << bit
        mode = os.stat(path).st_mode
        os.chmod(path, 0o600)
        with open(path, "r+b") as f:
            f.write(new)

        def undo():
            with open(path, "r+b") as f:
                f.write(old)
            os.chmod(path, mode & 0o7777)
        return at, bit, undo

    # ---- programs ----

    def run_program(self, name, *args, rc=0, timeout=120, env=None, **kw):
        p = subprocess.run([os.path.join(BIN, name), *map(str, args)], env={**self.env, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           stdin=subprocess.DEVNULL, text=True, timeout=timeout * SLOW, cwd=kw.pop("cwd", self.dir), **kw)
        if rc is not None:
            self.assertIn(p.returncode, rc if isinstance(rc, tuple) else (rc,),
                          f"{name} {' '.join(map(str, args))}\nstdout: {p.stdout[-2000:]}\nstderr: {p.stderr[-2000:]}")
        return p

    def ms(self, *args, **kw):
        return self.run_program("migstream", *args, **kw)

    def ms_json(self, *args, **kw):
        return json.loads(self.ms(*args, "--json", **kw).stdout)

    def restore(self, out, *args, url=None, **kw):
        """migrestore -o out args url; `url` may be a list, or "" for none."""
        urls = [self.url] if url is None else url if isinstance(url, list) else [url] if url else []
        return self.run_program("migrestore", "--quiet", "-o", out, *args, *urls, **kw)

    def start(self, name, *args, log=None, env=None, **kw):
        out = open(log, "ab") if log else subprocess.DEVNULL
        p = subprocess.Popen([os.path.join(BIN, name), *map(str, args)], env={**self.env, **(env or {})}, stdin=subprocess.DEVNULL, stdout=out,
                             stderr=subprocess.STDOUT if log else subprocess.DEVNULL, cwd=self.dir, **kw)
        if log:
            out.close()
        self.procs.append(p)
        return p

    def daemon(self, *args, shadow=None, log="daemon.log", env=None, **kw):
        """migstream replicate; without arguments DB URL."""
        env = dict(env or {})
        if shadow:
            env["MIGSTREAM_SHADOW"] = shadow
        return self.start("migstream", "replicate", *(args or (self.db, self.url)), log=self.path(log), env=env, **kw)

    def stop(self, p, rc=0, timeout=60, sig=signal.SIGTERM):
        p.send_signal(sig)
        self.assertEqual(p.wait(timeout * SLOW), rc)

    def asan(self):
        """ASAN_OPTIONS of a program with KILLAT preloaded."""
        return (self.env.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0").lstrip(":")

    def kill9(self, p):
        p.kill()
        p.wait()

    def daemon_log(self, log="daemon.log"):
        with open(self.path(log), errors="replace") as f:
            return f.read()

    def until(self, what, condition, timeout=60, every=0.05):
        """Waits for a condition; its last value is returned. Exceptions of a condition that does not hold yet are its business."""
        deadline = time.monotonic() + timeout * SLOW
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                self.fail(f"not within {timeout * SLOW:.0f} s: {what}")
            time.sleep(every)

    def status(self, db=None, env=None):
        """The first database in status --json, or None while no daemon answers."""
        p = self.ms("status", "--json", *([db] if db else []), rc=None, env=env)
        if p.returncode != 0:
            return None
        return json.loads(p.stdout)["databases"][0]

    def following(self, p=None, env=None, timeout=60, seeding=False):
        """Followed, and (unless `seeding` will do) the first snapshot is on the replica: points before it are not advertised."""
        states = ("following", "seeding") if seeding else ("following",)

        def there():
            if p is not None and p.poll() is not None:
                self.fail(f"the daemon exited with {p.returncode}")
            s = self.status(env=env)
            return s if s and s["state"] in states and s["txid"] > 0 else None
        return self.until("the daemon follows", there, timeout)

    def shipped(self, timeout=60, **kw):
        """Every commit is on the replicas, and the first snapshot too, without which no point is advertised."""
        self.ms("wait", self.db, "--timeout", f"{int(timeout * SLOW)}s", timeout=timeout + 10, **kw)
        self.until("the first snapshot is there", lambda: (self.status() or {}).get("state") != "seeding", timeout=timeout)

    # ---- load and oracle ----

    def seed(self, *args):
        """Makes the database without any workload commit, and logs its state as seq 0."""
        self.run_program("ms-loadgen", "--db", self.db, "--scale", "0.05", "--commits", 0, "--json", "/dev/null", *args)
        self.oracle_now()

    def oracle_now(self, db=None):
        return self.run_program("ms-oracle", db or self.db, "--log", self.log).stdout.split()

    def load(self, *args, oracle=True, json_file="load.json", **kw):
        extra = ["--oracle-log", self.log] if oracle else []
        return self.start("ms-loadgen", "--db", self.db, "--scale", "0.05", "--json", self.path(json_file), *extra, *args, log=self.path("load.log"), **kw)

    def finish(self, p, timeout=120):
        if p.wait(timeout * SLOW) != 0:
            with open(self.path("load.log")) as f:
                self.fail("the load failed: " + f.read()[-1000:])
        with open(self.path("load.json")) as f:
            return json.load(f)

    def run_load(self, *args, **kw):
        return self.finish(self.load(*args, **kw))

    def oracle(self):
        return Oracle(self.log)

    # ---- comparisons ----

    def check_file(self, path, oracle):
        """A restored file is exactly SQLite's copy of the commit that it names. Returns that commit."""
        digest = sha256(path)
        seq = seq_of(path)
        if self.partial and seq not in oracle.hashes:
            self.unproven += 1
            return seq
        self.assertIn(seq, oracle.hashes, f"{path}: commit {seq} has no oracle entry")
        self.assertIn(digest, oracle.hashes[seq], f"{path}: bytes differ from SQLite's copy of commit {seq} (size {os.path.getsize(path)})")
        for suffix in ("-wal", "-shm", "-journal"):
            self.assertFalse(os.path.exists(path + suffix), suffix)
        return seq

    def restored_seq(self, oracle, *args, url=None):
        fd, out = tempfile.mkstemp(dir=self.dir, prefix="restored-")
        os.close(fd)
        os.unlink(out)
        try:
            self.restore(out, *args, url=url)
            return self.check_file(out, oracle)
        finally:
            if os.path.exists(out):
                os.unlink(out)

    def restorable(self, url=None):
        """[(generation, fromTxid, toTxid, fromTime, toTime, granularity)] as advertised."""
        found = []
        for g in self.ms_json("list", url or self.url)["generations"]:
            for r in g["restorable"]:
                found.append((g["id"], r["fromTxid"], r["toTxid"], from_rfc3339(r["fromTime"]), from_rfc3339(r["toTime"]), r["granularity"]))
        return found

    def check_every_txid(self, oracle, sample=None):
        """Restores every advertised txid (at most `sample` of them, ends included) and compares. Returns {(generation, txid): seq}."""
        points = [(g, t) for g, first, last, *_ in self.restorable() for t in range(first, last + 1)]
        whole = len(points)
        self.assertTrue(points, "nothing is advertised as restorable")
        if QUICK:
            sample = min(sample or 60, 60)
        if sample and len(points) > sample:
            points = sorted(set([points[0], points[-1]] + self.random.sample(points, sample - 2)))
        with ThreadPoolExecutor(2) as pool:
            seqs = list(pool.map(lambda p: self.restored_seq(oracle, "--generation", p[0], "--txid", p[1]), points))
        found = dict(zip(points, seqs))
        self.sampled = len(points) < whole
        for (g, t), seq in found.items():
            for u in (t + 1,):
                if (g, u) in found:
                    self.assertLessEqual(seq, found[g, u], f"txid {t} and {u} of {g} are out of order")
        return found

    def assert_every(self, found, commits):
        """Of check_every_txid(): commits 0 to `commits`, each at one txid (a sample: as many txids as there are commits)."""
        if not self.sampled:
            self.assertEqual(sorted(found.values()), list(range(commits + 1)))
        self.assertEqual(sum(r[2] - r[1] + 1 for r in self.restorable()), commits + 1)

    def check_random_times(self, oracle, n=200, slack_us=None):
        """Restores to n random moments of the newest history. A commit begun after the moment must not be in it, and with slack_us every
        commit that ended that much before it must be."""
        n = min(n, 30) if QUICK else n
        ranges = self.restorable()
        first, last = min(r[3] for r in ranges), max(r[4] for r in ranges)
        times = sorted(self.random.randint(first, last + 1000000) for _ in range(n))
        with ThreadPoolExecutor(2) as pool:
            seqs = list(pool.map(lambda t: self.restored_seq(oracle, "--timestamp", rfc3339(t)), times))
        ends = sorted((e, s) for s, e in oracle.end.items())
        for t, seq in zip(times, seqs):
            self.assertLessEqual(oracle.begin[seq], t, f"commit {seq} began after {rfc3339(t)}")
            if slack_us is not None:
                due = [s for e, s in ends if e + slack_us <= t]
                self.assertGreaterEqual(seq, max(due, default=0), f"at {rfc3339(t)} a commit of {slack_us} us before is missing")
        self.assertEqual(seqs, sorted(seqs), "later moments gave earlier commits")
        return seqs
