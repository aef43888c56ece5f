"""Replicas that are missing, full, read-only or gone: commits never wait, status says so, catching up leaves no hole."""
import json
import os
import shutil
import subprocess
import time
import unittest

from harness import Case, SLOW, sha256


class Outage(Case):
    def config(self, text):
        path = self.path("migstream.yml")
        with open(path, "w") as f:
            f.write(text)
        return path

    def replica_status(self, name=None):
        s = self.status()
        if not s:
            return None
        return next((r for r in s["replicas"] if name in (None, r["name"])), None)

    def troubled(self, name=None):
        return self.until("the replica's trouble is reported",
                          lambda: (lambda r: r if r and r["lastError"] and r["state"] in ("retrying", "failed", "claiming") else None)(self.replica_status(name)))

    def outage(self, break_it, mend_it):
        """40 commits before, 60 during and 20 after an outage; every one restores afterwards."""
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 40, "--rate", 200)
        self.shipped()
        break_it()
        result = self.run_load("--commits", 60, "--rate", 100)
        # Paced at 100/s, 60 commits take 0.6 s and their oracle copies; waiting for a replica would take its timeouts.
        self.assertLess(result["commit_us"]["p99"], 500000 * SLOW, "commits waited")
        r = self.troubled()
        self.assertGreater(r["pendingBytes"], 0)
        time.sleep(0.3)
        self.assertGreater(self.status()["dataLossWindowSeconds"], 0.2)
        self.ms("wait", self.db, "--timeout", "300ms", rc=1)
        mend_it()
        self.run_load("--commits", 20, "--rate", 100)
        self.shipped(timeout=60)
        s = self.until("it is caught up", lambda: (lambda s: s if s and s["dataLossWindowSeconds"] == 0 else None)(self.status()))
        self.assertEqual(s["replicas"][0]["pendingBytes"], 0)
        self.stop(daemon)
        found = self.check_every_txid(self.oracle())
        self.assert_every(found, 120)
        self.ms("verify", self.url)

    def test_directory_gone_for_a_while(self):
        self.outage(self.take, self.give)

    def test_a_file_in_its_place_for_a_while(self):
        def take():
            self.take()
            open(self.replica, "w").close()

        def give():
            os.unlink(self.replica)
            self.give()
        self.outage(take, give)

    def take(self):
        os.rename(self.replica, self.path("away"))

    def give(self):
        # Nothing may have been made in its place meanwhile: that would be another, empty replica.
        self.assertFalse(os.path.exists(self.replica), "the replica was made anew")
        os.rename(self.path("away"), self.replica)

    @unittest.skipUnless(os.getuid() == 0, "needs root, to remount a file system read-only")
    def test_read_only_file_system(self):
        self.mount("16m")
        self.outage(lambda: self.remount("ro"), lambda: self.remount("rw"))

    @unittest.skipUnless(os.getuid() == 0, "needs root, to mount a small file system")
    def test_full_file_system(self):
        self.mount("4m")
        filler = os.path.join(self.replica, "filler")

        def fill():
            with open(filler, "wb", buffering=0) as f:
                try:
                    while True:
                        f.write(b"x" * 4096)
                except OSError:
                    pass
        self.outage(fill, lambda: os.unlink(filler))

    def mount(self, size):
        os.mkdir(self.replica)
        p = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", self.replica], capture_output=True, text=True)
        if p.returncode:
            self.skipTest(f"tmpfs cannot be mounted here: {p.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", self.replica])

    def remount(self, mode):
        # A file that is being written keeps the file system busy for a moment.
        self.until(f"remounted {mode}", lambda: subprocess.run(["mount", "-o", f"remount,{mode}", self.replica], capture_output=True).returncode == 0)

    def test_missing_at_start(self):
        """The replica's own directory is made; a missing parent may be a file system that is not mounted, so it is waited for."""
        self.seed()
        parent = self.path("mnt")
        self.url = "file://" + os.path.join(parent, "app")
        daemon = self.daemon()
        self.following(daemon, seeding=True)
        self.run_load("--commits", 10, "--rate", 100)
        self.until("the missing parent is named", lambda: parent in json.dumps(self.status()))
        self.assertFalse(os.path.exists(parent), "it was made")
        self.ms("wait", self.db, "--timeout", "300ms", rc=1)
        os.mkdir(parent)
        self.shipped(timeout=60)
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 10)

    def test_one_of_two_replicas_down(self):
        """The other one is not delayed, and each has a cursor of its own."""
        self.seed()
        other = self.path("second")
        daemon = self.daemon("-c", self.config(f"""
shadowDir: {self.shadow}
minInterval: 100ms
databases:
  - path: {self.db}
    replicas:
      - {{name: one, url: "{self.url}"}}
      - {{name: two, url: "file://{other}"}}
"""))
        self.following(daemon)
        self.run_load("--commits", 10, "--rate", 100)
        self.shipped()
        os.rename(other, other + ".away")
        self.run_load("--commits", 40, "--rate", 100)
        self.ms("wait", self.db, "--replica", "one", "--timeout", "10s")
        self.assertEqual(self.restored_seq(self.oracle()), 50)
        self.troubled("two")
        self.assertEqual(self.replica_status("one")["lagSeconds"], 0)
        os.rename(other + ".away", other)
        self.ms("wait", self.db, "--replica", "two", "--timeout", f"{int(30 * SLOW)}s", timeout=60)
        self.stop(daemon)
        oracle = self.oracle()
        for url in (self.url, "file://" + other):
            found = self.url, url
            self.assertEqual(self.restored_seq(oracle, url=url), 50, found)
        # The same history on both: every txid of the second is the same state as that of the first.
        first = self.check_every_txid(oracle)
        self.url = "file://" + other
        second = {t: s for (_, t), s in self.check_every_txid(oracle).items()}
        for (_, t), s in first.items():
            self.assertEqual(second.get(t, s), s, f"txid {t}")
        self.assertTrue(self.sampled or len(second) == len(first))

    def test_several_urls_make_each_other_whole(self):
        self.seed()
        other = self.path("second")
        daemon = self.daemon(self.db, self.url, "file://" + other)
        self.following(daemon)
        self.run_load("--commits", 60, "--rate", 30)
        self.shipped()
        self.stop(daemon)
        a = [o for o in self.objects("/segments/")]
        self.assertGreater(len(a), 1)
        os.unlink(os.path.join(self.replica, a[0]))
        b = [o for o in self.objects("/segments/", other)]
        os.unlink(os.path.join(other, b[-1]))
        self.assertEqual(self.restored_seq(self.oracle(), url=[self.url, "file://" + other]), 60)

    def test_disk_cap_of_the_shadow_directory(self):
        """At the cap granularity is given up and reported, continuity never."""
        self.seed()
        daemon = self.daemon("-c", self.config(f"""
shadowDir: {self.shadow}
maxShadowBytes: 16MiB
databases:
  - path: {self.db}
    replicas: [{{url: "{self.url}"}}]
"""))
        self.following(daemon)
        self.run_load("--commits", 10, "--rate", 100)
        self.shipped()
        self.take()
        db = self.connect()
        db.execute("CREATE TABLE noise(x)")
        most = 0
        for _ in range(60):
            db.execute("INSERT INTO noise VALUES(randomblob(1000000))")
            db.execute("DELETE FROM noise")
            time.sleep(0.02)
            used = sum(os.path.getsize(os.path.join(self.shadow, f)) for f in self.objects("", self.shadow) if os.path.exists(os.path.join(self.shadow, f)))
            most = max(most, used)
        self.assertLess(most, 40 << 20, "the cap was passed")
        db.close()
        self.oracle_now()
        self.give()
        self.run_load("--commits", 10, "--rate", 100)
        self.shipped(timeout=60)
        status = self.status()
        self.stop(daemon)
        oracle = self.oracle()
        self.assertEqual(self.restored_seq(oracle), 20)
        self.assertEqual(status["catchups"], 0, "the database was let go")
        self.assertGreater(status["replicas"][0]["catchups"], 0, "no catch-up was reported")
        self.assertEqual(len({g for g, *_ in self.restorable()}), 1)

    def test_replica_down_past_the_cap(self):
        """It holds up neither commits nor the other replica nor another database; back, it is brought to the present by one catch-up, without a
        hole and without a new snapshot; also through kill -9 and a second outage."""
        self.seed()
        near, far, aside = self.url, "file://" + self.path("far"), self.path("aside.db")
        other = self.connect(aside)
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE t(x)")
        config = self.config(f"""
shadowDir: {self.shadow}
maxShadowBytes: 16MiB
minInterval: 50ms
databases:
  - path: {self.db}
    replicas: [{{name: near, url: "{near}"}}, {{name: far, url: "{far}"}}]
  - path: {aside}
    replicas: [{{name: near, url: "file://{self.path('aside')}"}}]
""")
        daemon = self.daemon("-c", config)
        self.following(daemon)
        self.run_load("--commits", 10, "--rate", 100)
        self.shipped()
        noise = self.connect()
        noise.execute("CREATE TABLE noise(x)")

        def outage(kill):
            nonlocal daemon
            os.rename(self.path("far"), self.path("far.away"))
            for i in range(60):
                start = time.monotonic()
                noise.execute("INSERT INTO noise VALUES(randomblob(1000000))")
                noise.execute("DELETE FROM noise")
                self.assertLess(time.monotonic() - start, 3 * SLOW, "a commit waited")
                time.sleep(0.02)
                if kill and i in (20, 40):
                    self.kill9(daemon)
                    daemon = self.daemon("-c", config)
                    self.following(daemon)
                    other.execute("INSERT INTO t VALUES(1)")
            journal = sum(os.path.getsize(os.path.join(self.shadow, "journal", f)) for f in os.listdir(os.path.join(self.shadow, "journal")))
            self.assertLess(journal, 17 << 20, "the cap was passed")
            self.oracle_now()
            other.execute("INSERT INTO t VALUES(1)")
            self.ms("wait", aside, "-c", config, "--timeout", "10s")
            self.ms("wait", self.db, "--replica", "near", "--timeout", f"{int(10 * SLOW)}s")
            r = self.until("what is owed is told", lambda: (lambda r: r if r and r["owedCommits"] > 0 else None)(self.replica_status("far")))
            self.assertIn("no longer in the journal", self.ms("status", "-c", config).stdout)
            self.assertIn(r["state"], ("retrying", "claiming", "failed"))
            self.assertEqual(self.replica_status("near")["owedCommits"], 0)
            os.rename(self.path("far.away"), self.path("far"))
            self.shipped(timeout=60)
            self.run_load("--commits", 10, "--rate", 100)
            self.shipped(timeout=60)
            r = self.replica_status("far")
            self.assertEqual((r["owedCommits"], r["catchups"]), (0, 1))
            self.assertGreater(r["foldedCommits"], 50)
            self.assertEqual(self.status()["catchups"], 0 if not kill else self.status()["catchups"])

        outage(kill=False)
        first = self.replica_status("far")
        outage(kill=True)
        self.assertIn("only the last of these commits restores", self.daemon_log())
        self.stop(daemon)
        oracle = self.oracle()
        self.partial = True  # the noise has no oracle entries, but leaves ms_seq alone
        oracle.hashes = {s: h for s, h in oracle.hashes.items() if s > 10}
        for url in (near, far, [near, far]):
            self.assertEqual(self.restored_seq(oracle, url=url), 30)
        folds = [f for g in self.ms_json("list", far)["generations"] for f in g["catchups"]]
        self.assertEqual(len(folds), 2)
        self.assertEqual((folds[0]["firstTxid"], folds[0]["lastTxid"]), (first["foldedFirstTxid"], first["foldedLastTxid"]))
        self.assertIn("catch-up", self.ms("list", far).stdout)
        out = self.path("within.db")
        p = self.restore(out, "--txid", folds[0]["firstTxid"], url=far, rc=3)
        self.assertIn(str(folds[0]["lastTxid"]), p.stderr)
        self.restore(out, "--txid", folds[0]["firstTxid"], url=near)
        self.restore(self.path("together.db"), "--txid", folds[0]["firstTxid"], url=[far, near])
        self.assertEqual(sha256(out), sha256(self.path("together.db")))
        # The checksums agree where both replicas hold a point.
        for a in {folds[0]["lastTxid"], folds[1]["lastTxid"], folds[0]["firstTxid"] - 1, folds[1]["firstTxid"] - 1}:
            paths = []
            for n, url in enumerate((near, far)):
                paths.append(self.path(f"point-{a}-{n}"))
                self.restore(paths[-1], "--txid", a, url=url)
            self.assertEqual(sha256(paths[0]), sha256(paths[1]), f"txid {a}")
        for url in (near, far):
            self.ms("verify", "--deep", url)
        self.assertEqual(len(self.objects("/snapshots/", self.path("far"))), 1)

    def test_shadow_directory_full(self):
        if os.getuid():
            self.skipTest("needs root, to mount a small file system")
        self.seed()
        os.mkdir(self.shadow)
        p = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", self.shadow], capture_output=True, text=True)
        if p.returncode:
            self.skipTest(f"tmpfs cannot be mounted here: {p.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", self.shadow])
        daemon = self.daemon()
        self.following(daemon)
        self.shipped()
        filler = os.path.join(self.shadow, "filler")
        with open(filler, "wb", buffering=0) as f:
            try:
                while True:
                    f.write(b"x" * 4096)
            except OSError:
                pass
        result = self.run_load("--commits", 60, "--rate", 100)
        self.assertLess(result["commit_us"]["p99"], 500000 * SLOW, "commits waited")
        self.until("the full disk is reported", lambda: (lambda s: s and s["state"] in ("blocked", "catch-up", "catchup"))(self.status()), timeout=60)
        self.assertIsNone(daemon.poll())
        os.unlink(filler)
        self.run_load("--commits", 10, "--rate", 100)
        self.shipped(timeout=60)
        self.stop(daemon)
        oracle = self.oracle()
        self.assertEqual(self.restored_seq(oracle), 70)
        self.check_every_txid(oracle)

    def test_automatic_restore_at_start(self):
        self.seed()
        self.ms("replicate", "--once", self.db, self.url)
        self.run_load("--commits", 10)
        self.ms("replicate", "--once", self.db, self.url)
        config = self.config(f"""
shadowDir: {self.shadow}
databases:
  - path: {self.db}
    restore: {{enabled: true}}
    replicas: [{{url: "{self.url}"}}]
""")
        oracle = self.oracle()
        for damage in ("missing", "empty", "broken"):
            with self.subTest(damage=damage):
                for suffix in ("", "-wal", "-shm"):
                    if os.path.exists(self.db + suffix):
                        os.unlink(self.db + suffix)
                if damage == "empty":
                    open(self.db, "w").close()
                elif damage == "broken":
                    with open(self.db, "wb") as f:
                        f.write(b"SQLite format 3\0" + b"\xff" * 8000)
                daemon = self.daemon("-c", config)
                self.following(daemon)
                self.assertEqual(int(self.oracle_now()[0]), 10)
                self.stop(daemon)
                if damage == "broken":
                    kept = [n for n in os.listdir(self.dir) if n.startswith("app.db") and os.path.getsize(self.path(n)) == 8016]
                    self.assertTrue(kept, "the broken file was not set aside")
        self.assertEqual(self.restored_seq(oracle), 10)


if __name__ == "__main__":
    unittest.main()
