"""Command lines, configurations, machine-readable output, and what migrestore refuses."""
import json
import os
import signal
import sqlite3
import subprocess
import time
import unittest
import urllib.error
import urllib.request

from harness import BIN, Case, SLOW, free_port, from_rfc3339, rfc3339, sha256

TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"


class Usage(Case):
    def test_bad_command_lines(self):
        for args in ((), ("replicat",), ("replicate", "--wat"), ("replicate", self.db, "ftp://x/y"), ("replicate", self.db, "file://"),
                     ("replicate", self.db, "s3//bucket"), ("status", "a", "b", "c"), ("wait",), ("wait", self.db, "--txid", "minus"),
                     ("wait", self.db, "--timeout", "10"), ("list",), ("list", "nowhere"), ("verify",), ("config",), ("config", "check"),
                     ("config", "wat", "x"), ("pause",), ("replicate", "-c"), ("list", "--json=x", self.url)):
            with self.subTest(args=args):
                p = self.ms(*args, rc=2)
                self.assertTrue(p.stderr.strip(), "no explanation")
                self.assertEqual(p.stdout, "")

    def test_nearest_names_are_offered(self):
        self.assertIn("replicate", self.ms("replicat", rc=2).stderr)
        self.assertIn("--timestamp", self.run_program("migrestore", "--timestmp", "x", "-o", "f", self.url, rc=2).stderr)

    def test_bad_migrestore_lines(self):
        out = self.path("out.db")
        for args in ((), (self.url,), ("-o", out), ("-o", out, "--txid", "x", self.url), ("-o", out, "--txid", "-1", self.url),
                     ("-o", out, "--timestamp", "yesterday", self.url), ("-o", out, "--timestamp", "2026-13-01T00:00:00Z", self.url),
                     ("-o", out, "--txid", "1", "--timestamp", "2026-01-01T00:00:00Z", self.url), ("-o", out, "--verify", "some", self.url),
                     ("-o", out, "--parallel", "0", self.url), ("-o", out, "--generation", "xyz", self.url), ("-o", out, "gopher://x")):
            with self.subTest(args=args):
                p = self.run_program("migrestore", *args, rc=2)
                self.assertTrue(p.stderr.strip())
                self.assertFalse(os.path.exists(out))

    def test_help_and_version(self):
        p = self.ms("--help")
        for command in ("replicate", "status", "wait", "pause", "resume", "snapshot", "takeover", "list", "verify", "config", "doctor"):
            self.assertIn(command, p.stdout)
            h = self.ms(command, "--help").stdout
            self.assertIn("migstream " + command, h)
        self.assertIn("-o", self.run_program("migrestore", "--help").stdout)
        for program in ("migstream", "migrestore"):
            v = self.run_program(program, "--version").stdout.lower()
            for library in ("sqlite", "zstd"):
                self.assertIn(library, v)

    def test_no_daemon(self):
        self.seed()
        p = self.ms("status", self.db, rc=1)
        self.assertIn("stopped", p.stdout + p.stderr)
        self.ms("wait", self.db, "--timeout", "200ms", rc=1)
        self.ms("pause", self.db, rc=1)


class Config(Case):
    def config(self, text, name="c.yml"):
        with open(self.path(name), "w") as f:
            f.write(text)
        return self.path(name)

    def test_errors_name_file_line_and_key(self):
        ok = f"databases:\n  - path: {self.db}\n    replicas: [{{url: '{self.url}'}}]\n"
        self.ms("config", "check", self.config(ok))
        for text, line, words in (
                ("snapshotIntervall: 1h\n" + ok, 1, ["snapshotIntervall", "snapshotInterval"]),
                ("minInterval: 10\n" + ok, 1, ["minInterval"]),
                ("minInterval: -5s\n" + ok, 1, ["minInterval"]),
                ("journal: {syncMode: sometimes}\n" + ok, 1, ["syncMode", "fdatasync"]),
                ("compression: {level: 99}\n" + ok, 1, ["level"]),
                ("databases:\n  - pth: x\n", 2, ["pth", "path"]),
                ("databases:\n  - replicas: []\n", 2, ["path"]),
                ("shadowDir: [1]\n" + ok, 1, ["shadowDir"]),
                (ok + "shadowDir: /a\nshadowDir: /b\n", 5, ["shadowDir"]),
                ("databases:\n  - path: x\n    replicas:\n      - {url: 'ftp://a'}\n", 4, ["ftp"]),
                ("databases: {\n", 2, [])):
            with self.subTest(text=text):
                path = self.config(text)
                for command in (("config", "check", path), ("replicate", "-c", path)):
                    p = self.ms(*command, rc=2)
                    self.assertIn(f"c.yml:{line}:" if words else "c.yml:", p.stderr)
                    for w in words:
                        self.assertIn(w, p.stderr)

    def test_missing_file(self):
        p = self.ms("replicate", "-c", self.path("none.yml"), rc=(1, 2))
        self.assertIn("none.yml", p.stderr)

    def test_print_loads_again(self):
        path = self.config(f"minInterval: 250ms\ndatabases:\n  - path: {self.db}\n    replicas: [{{name: r, url: '{self.url}'}}]\n")
        for args, name in (((), "d.yml"), (("--json",), "d.json")):
            once = self.ms("config", "print", *args, path).stdout
            again = self.ms("config", "print", *args, self.config(once, name)).stdout
            self.assertEqual(once, again)
        self.assertEqual(json.loads(self.ms("config", "print", "--json", path).stdout)["databases"][0]["minInterval"], "250ms")

    def test_sighup_reloads_and_says_what_changed(self):
        self.seed()
        text = f"shadowDir: {self.shadow}\nminInterval: INTERVAL\ndatabases:\n  - path: {self.db}\n    replicas: [{{name: r, url: '{self.url}'}}]\n"
        path = self.config(text.replace("INTERVAL", "1s"))
        daemon = self.daemon("-c", path)
        self.following(daemon)
        self.config(text.replace("INTERVAL", "50ms"))
        daemon.send_signal(signal.SIGHUP)
        self.until("the change is named", lambda: "minInterval" in self.daemon_log() and "50ms" in self.daemon_log())
        # A broken file changes nothing.
        self.config("nonsense: true\n")
        daemon.send_signal(signal.SIGHUP)
        self.until("the mistake is named", lambda: "nonsense" in self.daemon_log())
        self.config(text.replace("INTERVAL", "50ms"))
        self.following(daemon)
        self.run_load("--commits", 10, "--rate", 50)
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 10)

    def test_two_databases_in_one_daemon(self):
        self.seed()
        second = self.path("second.db")
        os.mkdir(self.path("all"))
        self.run_program("ms-loadgen", "--db", second, "--scale", "0.04", "--seed", 5, "--commits", 3, "--json", "/dev/null")
        path = self.config(f"shadowDir: {self.shadow}\nreplicas: [{{url: 'file://{self.path('all')}/{{db}}'}}]\n"
                           f"databases:\n  - path: {self.db}\n  - path: {second}\n    name: other\n")
        if self.ms("config", "check", path, rc=None).returncode:
            path = self.config(f"shadowDir: {self.shadow}\ndatabases:\n  - path: {self.db}\n    replicas: [{{url: 'file://{self.path('all', 'app')}'}}]\n"
                               f"  - path: {second}\n    name: other\n    replicas: [{{url: 'file://{self.path('all', 'other')}'}}]\n")
        daemon = self.daemon("-c", path)
        self.following(daemon)
        self.run_load("--commits", 20, "--rate", 100)
        self.run_program("ms-loadgen", "--db", second, "--commits", 20, "--rate", 100, "--json", "/dev/null")
        for db in (self.db, "other"):
            self.ms("wait", "-c", path, db, "--timeout", "20s")
        states = json.loads(self.ms("status", "-c", path, "--json").stdout)["databases"]
        self.assertEqual(len(states), 2)
        self.stop(daemon)
        expected = self.oracle_now(second)
        heads = sorted(d for d, dirs, _ in os.walk(self.path("all")) if "head" in dirs)
        self.assertEqual(len(heads), 2)
        oracle = self.oracle()
        found = sorted(self.restored_seq(oracle, url="file://" + h) for h in heads)
        self.assertEqual(found, sorted([20, int(expected[0])]))


class Output(Case):
    def setUp(self):
        super().setUp()
        self.seed()
        self.process = self.daemon()
        self.following(self.process)
        self.run_load("--commits", 15, "--rate", 30)
        self.shipped()

    def typed(self, o, shape):
        for key, kind in shape.items():
            self.assertIn(key, o)
            if isinstance(kind, str):
                self.assertRegex(o[key], kind, key)
            elif kind is not None:
                self.assertIsInstance(o[key], kind, key)

    def test_status(self):
        s = json.loads(self.ms("status", "--json").stdout)
        d = s["databases"][0]
        self.typed(d, {"path": str, "generation": r"^[0-9a-f]{8}-[0-9a-f]{8}$", "txid": int, "time": TIME, "source": str, "walBytes": int, "shadowBytes": int,
                       "dataLossWindowSeconds": (int, float), "replicas": list})
        self.typed(d["replicas"][0], {"name": str, "type": "^file$", "txid": int, "lagSeconds": (int, float), "pendingBytes": int, "state": str,
                                      "lastError": None, "lastUploaded": TIME})
        self.assertEqual(d["txid"], 16)
        self.assertEqual(d["replicas"][0]["txid"], 16)
        self.assertEqual(os.path.realpath(self.db), d["path"])
        self.assertEqual(d["replicas"][0]["lagSeconds"], 0, "lag must be 0 when all is shipped")
        time.sleep(1.2)
        self.assertEqual(self.status()["replicas"][0]["lagSeconds"], 0, "lag grows while idle")
        text = self.ms("status").stdout
        self.assertIn("app.db", text)
        self.assertIn("following", text)

    def test_list(self):
        g = self.ms_json("list", self.url)["generations"][0]
        self.typed(g, {"id": r"^[0-9a-f]{8}-[0-9a-f]{8}$", "parent": None, "forkTxid": None, "snapshots": list, "segments": list, "restorable": list})
        self.typed(g["snapshots"][0], {"txid": int, "time": TIME, "bytes": int})
        self.typed(g["segments"][0], {"firstTxid": int, "lastTxid": int, "firstTime": TIME, "lastTime": TIME, "bytes": int, "objects": int})
        self.typed(g["restorable"][0], {"fromTxid": int, "toTxid": int, "fromTime": TIME, "toTime": TIME, "granularity": str})
        self.assertEqual(max(s["lastTxid"] for s in g["segments"]), 16)
        self.assertIn(g["id"], self.ms("list", self.url).stdout)

    def test_wait(self):
        self.ms("wait", self.db, "--txid", 16, "--timeout", "5s")
        began = time.monotonic()
        self.ms("wait", self.db, "--txid", 17, "--timeout", "500ms", rc=1)
        self.assertGreaterEqual(time.monotonic() - began, 0.5)
        waiter = self.start("migstream", "wait", self.db, "--txid", 18, "--timeout", "20s")
        time.sleep(0.3)
        self.assertIsNone(waiter.poll())
        self.run_load("--commits", 2)
        self.assertEqual(waiter.wait(15 * SLOW), 0)
        # Without --txid: everything visible now. What it promises is on the replica when it returns.
        self.run_load("--commits", 5)
        self.ms("wait", self.db, "--timeout", "20s")
        self.assertEqual(self.restored_seq(self.oracle()), 22)

    def test_verify(self):
        self.ms_json("verify", self.url)
        p = self.ms("verify", "--deep", self.url, timeout=120)
        self.assertTrue(p.stdout.strip())

    def test_snapshot(self):
        before = len(self.objects("/snapshots/"))
        self.run_load("--commits", 3)
        self.ms("snapshot", self.db)
        self.until("the snapshot is there", lambda: len(self.objects("/snapshots/")) > before)
        for s in self.ms_json("list", self.url)["generations"][0]["snapshots"]:
            self.restored_seq(self.oracle(), "--txid", s["txid"])

    def test_a_replica_that_does_not_exist(self):
        """A failure, not a finding about what it holds: it may be a disk that is not mounted."""
        for url in ("file://" + self.path("nowhere"), self.path("nowhere", "deep")):
            for p in (self.restore(self.path("none.db"), url=url, rc=1), self.ms("list", url, rc=1), self.ms("verify", url, rc=1)):
                self.assertIn("no such directory", p.stderr)
        os.mkdir(self.path("empty"))
        self.assertIn("no replica", self.restore(self.path("none.db"), url=self.path("empty"), rc=3).stderr)

    def test_doctor(self):
        self.ms("doctor", self.db)
        self.ms("doctor", self.url)
        before = self.objects()
        self.assertEqual(self.objects(), before)
        plain = self.path("plain.db")
        db = self.connect(plain)
        db.execute("CREATE TABLE t(x)")
        db.close()
        p = self.ms("doctor", plain, rc=1)
        self.assertIn("journal_mode", (p.stdout + p.stderr).lower())

    def test_control_socket_is_private(self):
        path = os.path.join(self.shadow, "control.sock")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertEqual(json.loads(self.ms("status", "--json", "--socket", path).stdout)["databases"][0]["txid"], 16)


class Metrics(Case):
    def test_metrics_and_healthz(self):
        self.seed()
        port = free_port()
        with open(self.path("c.yml"), "w") as f:
            f.write(f"shadowDir: {self.shadow}\nmetrics: {{address: '127.0.0.1:{port}'}}\ndataLossWindowThreshold: 1s\n"
                    f"databases:\n  - path: {self.db}\n    replicas: [{{url: '{self.url}'}}]\n")
        daemon = self.daemon("-c", self.path("c.yml"))
        self.following(daemon)
        self.run_load("--commits", 10, "--rate", 100)
        self.ms("wait", "-c", self.path("c.yml"), self.db, "--timeout", "20s")

        def get(path):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as r:
                    return r.status, r.read().decode()
            except urllib.error.HTTPError as e:
                return e.code, e.read().decode()
        code, text = get("/metrics")
        self.assertEqual(code, 200)
        for word in ("migstream_replica_lag_seconds", "migstream_data_loss_window_seconds", "migstream_build_info"):
            self.assertIn(word, text)
        self.assertEqual(get("/healthz")[0], 200)
        self.assertEqual(get("/nothing")[0], 404)
        os.rename(self.replica, self.replica + ".away")
        self.run_load("--commits", 3)
        code, why = self.until("the alarm is raised", lambda: (lambda r: r if r[0] == 503 else None)(get("/healthz")))
        self.assertTrue(why.strip())
        _, text2 = get("/metrics")
        os.rename(self.replica + ".away", self.replica)
        self.until("the alarm is gone", lambda: get("/healthz")[0] == 200, timeout=60)
        self.stop(daemon)
        promtool = next((p for p in [os.path.expanduser("~/.cache/migstream/bin/promtool"), *(os.path.join(d, "promtool") for d in self.env["PATH"].split(":"))]
                         if os.path.exists(p)), None)
        if not promtool:
            self.skipTest("promtool is not there: everything but the lint of /metrics was checked")
        for page in (text, text2):
            p = subprocess.run([promtool, "check", "metrics"], input=page, text=True, capture_output=True)
            self.assertEqual((p.returncode, p.stdout + p.stderr), (0, ""))


class Restore(Case):
    def setUp(self):
        super().setUp()
        self.seed()
        self.ms("replicate", "--once", self.db, self.url)
        self.run_load("--commits", 10)
        self.ms("replicate", "--once", self.db, self.url)
        self.out = self.path("out", "app.db")
        os.mkdir(self.path("out"))

    def left(self):
        return sorted(os.listdir(self.path("out")))

    def test_existing_target(self):
        with open(self.out, "w") as f:
            f.write("mine")
        self.assertIn("--force", self.restore(self.out, rc=1).stderr)
        self.assertEqual(open(self.out).read(), "mine")
        self.restore(self.out, "--if-not-exists")
        self.assertEqual(open(self.out).read(), "mine")
        self.restore(self.out, "--force")
        self.assertEqual(self.check_file(self.out, self.oracle()), 10)
        self.assertEqual(self.left(), ["app.db"])

    def test_if_not_exists_on_a_missing_target(self):
        self.restore(self.out, "--if-not-exists")
        self.assertEqual(self.check_file(self.out, self.oracle()), 10)

    def test_leftovers_of_the_target(self):
        """SQLite would replay a -wal, -shm or -journal that lies beside the restored file into it."""
        for suffix in ("-wal", "-shm", "-journal"):
            with self.subTest(suffix=suffix):
                # A real -wal of the same database at a later commit is the dangerous kind.
                with open(self.out + suffix, "wb") as f:
                    f.write(open(self.db, "rb").read()[:40000])
                self.restore(self.out, rc=1)
                self.assertEqual(self.left(), ["app.db" + suffix])
                self.restore(self.out, "--force")
                self.assertEqual(self.check_file(self.out, self.oracle()), 10)
                db = sqlite3.connect(self.out)
                self.assertEqual(db.execute("SELECT seq FROM ms_seq").fetchone()[0], 10)
                self.assertEqual(db.execute("PRAGMA integrity_check").fetchone()[0], "ok")
                db.close()
                for name in self.left():
                    os.unlink(self.path("out", name))

    def test_real_wal_of_the_target(self):
        """The trap itself: a crash left a -wal with newer commits beside the target."""
        script = ("import sqlite3,os,sys; d=sqlite3.connect(sys.argv[1],isolation_level=None); d.execute('PRAGMA wal_autocheckpoint=0');"
                  "d.execute('UPDATE ms_seq SET seq=4711'); os._exit(0)")
        self.restore(self.out)
        subprocess.run(["python3", "-c", script, self.out], check=True)
        self.assertIn("app.db-wal", self.left())
        self.restore(self.out, rc=1)
        self.restore(self.out, "--force")
        db = sqlite3.connect(self.out)
        self.assertEqual(db.execute("SELECT seq FROM ms_seq").fetchone()[0], 10)
        db.close()

    def test_in_use(self):
        self.restore(self.out)
        db = self.connect(self.out)
        db.execute("PRAGMA journal_mode").fetchone()
        db.execute("SELECT count(*) FROM ms_seq").fetchone()  # an idle WAL connection
        p = self.restore(self.out, "--force", rc=1)
        self.assertIn("in use", p.stderr)
        self.assertEqual(db.execute("PRAGMA integrity_check").fetchone()[0], "ok")
        db.close()
        self.restore(self.out, "--force")

    def test_dry_run(self):
        p = self.restore(self.out, "--dry-run")
        self.assertTrue(any(c.isdigit() for c in p.stdout))
        self.assertEqual(self.left(), [])
        plan = json.loads(self.run_program("migrestore", "-o", self.out, "--dry-run", "--json", self.url).stdout)
        self.assertIsInstance(plan, dict)
        self.assertEqual(self.left(), [])

    def test_json(self):
        p = self.run_program("migrestore", "-o", self.out, "--json", self.url)
        o = json.loads(p.stdout)
        self.assertEqual(o.get("txid"), max(r[2] for r in self.restorable()))
        self.assertEqual(self.check_file(self.out, self.oracle()), 10)

    def test_verify_levels(self):
        for level in ("none", "checksum", "quick", "full"):
            self.restore(self.out, "--force", "--verify", level)
            self.assertEqual(self.check_file(self.out, self.oracle()), 10)

    def test_timestamps(self):
        g, first, last, t0, t1, _ = self.restorable()[-1]
        for text in (rfc3339(t1), rfc3339(t1).replace("Z", "+00:00"), "2999-01-01T00:00:00Z"):
            self.assertEqual(self.restored_seq(self.oracle(), "--timestamp", text), 10)
        before = rfc3339(min(r[3] for r in self.restorable()) - 1000000)
        self.restore(self.out, "--timestamp", before, rc=3)
        self.assertEqual(self.left(), [])

    def test_unwritable_target(self):
        self.restore(self.path("no", "such", "dir", "x.db"), rc=1)
        os.mkdir(self.path("out", "d"))
        self.restore(self.path("out", "d"), rc=1)
        self.restore(self.path("out", "d"), "--force", rc=1)

    def test_permission_bits(self):
        os.chmod(self.db, 0o640)
        url = "file://" + self.path("replica2")
        self.ms("replicate", "--once", self.db, url, env={"MIGSTREAM_SHADOW": self.path("shadow2")})
        os.umask(0)
        try:
            self.restore(self.out, url=url)
        finally:
            os.umask(0o022)
        mode = os.stat(self.out).st_mode & 0o777
        self.assertEqual(mode & ~0o640, 0, f"{mode:o} is wider than the database's 640")

    def test_interrupted(self):
        """Ctrl-C in the middle: nothing is left, the old target is whole."""
        self.db = self.path("large.db")
        self.url, self.shadow = "file://" + self.path("replica2"), self.path("shadow2")
        self.env["MIGSTREAM_SHADOW"] = self.shadow
        self.run_program("ms-loadgen", "--db", self.db, "--size", "150M", "--commits", 0, "--json", "/dev/null", timeout=120)
        self.ms("replicate", "--once", self.db, self.url, timeout=120)
        with open(self.out, "w") as f:
            f.write("mine")
        stopped = 0
        for delay in (0.02, 0.05, 0.1, 0.2, 0.3):
            p = self.start("migrestore", "-o", self.out, "--force", self.url)
            time.sleep(delay * SLOW)
            p.send_signal(signal.SIGINT)
            rc = p.wait(20 * SLOW)
            if rc == 0:
                break
            stopped += 1
            self.assertEqual(open(self.out).read(), "mine")
            self.assertEqual(self.left(), ["app.db"])
        self.assertGreater(stopped, 0, "no restore was interrupted")

    def test_temp_dir_on_another_file_system(self):
        if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(self.dir).st_dev:
            self.skipTest("/dev/shm is not another file system")
        temp = f"/dev/shm/ms-e2e-{os.getpid()}"
        os.mkdir(temp)
        try:
            self.restore(self.out, "--temp-dir", temp)
            self.assertEqual(os.listdir(temp), [])
        finally:
            subprocess.run(["rm", "-rf", temp])
        self.assertEqual(self.check_file(self.out, self.oracle()), 10)

    def test_progress_only_on_a_terminal(self):
        p = self.run_program("migrestore", "-o", self.out, self.url)
        self.assertNotIn("\r", p.stderr + p.stdout)


if __name__ == "__main__":
    unittest.main()
