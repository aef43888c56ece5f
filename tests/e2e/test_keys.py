"""Configuration keys take effect: each is set to a value whose effect can be seen from outside."""
import json
import os
import re
import shutil
import sqlite3
import time

from harness import Case, from_rfc3339

MARK = b"a sentence that compresses well, again and again; "


class Keys(Case):
    def config(self, text, replicas=None):
        """One database with the replica at self.url and `text` at the top level."""
        path = self.path("c.yml")
        with open(path, "w") as f:
            f.write(f"shadowDir: {self.shadow}\n{text}\ndatabases:\n  - path: {self.db}\n    name: app\n")
            f.write(f"    replicas:\n{replicas}" if replicas else f"    replicas: [{{name: r, url: '{self.url}'}}]\n")
        return path

    def make(self, pages=600):
        """A database of about pages * 4 KiB whose content is the same in each run; several chunks from 1,024 pages on."""
        db = sqlite3.connect(self.db, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        db.execute("BEGIN")
        for i in range(pages):
            # Repeats from the page before, and from one that lies 40 KiB back: what a window reaches.
            db.execute("INSERT INTO t(v) VALUES (?)", (MARK * 20 + str(i).encode() + bytes((i % 11 * 7 + k * k) % 251 for k in range(2400)),))
        db.execute("COMMIT")
        db.close()

    def fresh(self):
        for path in (self.replica, self.shadow):
            shutil.rmtree(path, ignore_errors=True)

    def once(self, text, **kw):
        self.ms("replicate", "-c", self.config(text, **kw), "--once")

    def sizes(self, part):
        return sum(os.path.getsize(os.path.join(self.replica, o)) for o in self.objects(part))

    def insert(self, n, every=0.0):
        db = sqlite3.connect(self.db, isolation_level=None, timeout=10)
        db.execute("CREATE TABLE IF NOT EXISTS u(v)")
        for i in range(n):
            db.execute("INSERT INTO u VALUES (?)", (MARK + str(i).encode(),))
            time.sleep(every)
        db.close()

    def all_points_restore(self):
        """Every advertised txid restores to a database that SQLite finds whole. Returns how many."""
        points = [(g, t) for g, first, last, *_ in self.restorable() for t in range(first, last + 1)]
        self.assertTrue(points)
        for g, t in points:
            out = self.path("point.db")
            self.restore(out, "--force", "--generation", g, "--txid", t)
            db = sqlite3.connect(f"file:{out}?immutable=1", uri=True)
            self.assertEqual(db.execute("PRAGMA quick_check").fetchall(), [("ok",)])
            db.close()
        return len(points)

    # ---- compression ----

    def compressed(self, text):
        """Bytes of the snapshot and of the segments, and whether plain text is seen in either."""
        self.fresh()
        shutil.copy(self.path("kept.db"), self.db)
        self.once(text)
        self.insert(40)
        self.once(text)
        plain = {part: any(MARK in open(os.path.join(self.replica, o), "rb").read() for o in self.objects(part)) for part in ("segments/", "/")}
        out = self.path("check.db")
        self.restore(out, "--force", "--verify", "full")
        return self.sizes("snapshots/") + self.sizes("chunks/"), self.sizes("segments/"), plain

    def test_compression(self):
        self.make(2000)
        db = sqlite3.connect(self.db)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        os.rename(self.db, self.path("kept.db"))
        raw = os.path.getsize(self.path("kept.db"))
        snap, seg, plain = self.compressed("compression: {codec: zstd}")
        self.assertLess(snap, raw / 2)
        none_snap, none_seg, plain = self.compressed("compression: {codec: none}")
        self.assertGreater(none_snap, raw, "pages of a snapshot are compressed in spite of none")
        self.assertTrue(plain["segments/"], "pages of a segment are compressed in spite of none")
        self.assertGreater(none_seg, 10 * seg)
        # The bare word, as the seed's configurations have it.
        self.assertEqual(self.compressed("compression: none")[:1], (none_snap,))
        self.assertEqual(self.compressed("compression: zstd")[:1], (snap,))
        self.assertLess(self.compressed("compression: {level: 19}")[0], snap)
        # What repeats lies further back than a window of 1 KiB.
        self.assertGreater(self.compressed("compression: {window: 10}")[0], snap * 1.2)
        self.assertEqual(self.compressed("compression: {window: 27}")[0], snap, "blocks have 1 MiB: a larger window changes nothing")

    def test_another_compression_later(self):
        """Chunks that did not change have their names from the content; a snapshot with other settings meets them again."""
        self.make(3000)
        self.once("compression: {level: 1}\nsnapshotInterval: 10ms")
        chunks = self.objects("chunks/")
        self.assertGreater(len(chunks), 1)
        for level in (9, 3):
            self.insert(3)
            path = self.config(f"compression: {{level: {level}}}\nsnapshotInterval: 1h\nsnapshotShare: 0")
            p = self.daemon("-c", path)
            self.following(p)
            before = len(self.objects("snapshots/"))
            self.ms("snapshot", "app", "-c", path)
            self.until("the snapshot is there", lambda: len(self.objects("snapshots/")) == before + 1)
            self.stop(p)
        self.assertLess(len(self.objects("chunks/")), 3 * len(chunks), "unchanged chunks were put again")
        self.assertEqual(self.ms("verify", "--deep", self.url).returncode, 0)
        self.all_points_restore()

    # ---- snapshots and retention ----

    def test_snapshot_interval(self):
        self.seed()
        p = self.daemon("-c", self.config("snapshotInterval: 300ms\nsnapshotShare: 0\nminInterval: 0"))
        self.following(p)
        self.until("several snapshots", lambda: self.insert(1) or len(self.objects("snapshots/")) >= 5)
        self.shipped()
        n = len(self.objects("snapshots/"))
        time.sleep(1.5)
        self.assertLessEqual(len(self.objects("snapshots/")), n + 1, "an idle database gets snapshots")
        self.stop(p)
        self.fresh()
        p = self.daemon("-c", self.config("snapshotInterval: 1h\nsnapshotShare: 0\nminInterval: 0"))
        self.following(p)
        self.insert(20, 0.05)
        self.shipped()
        self.stop(p)
        self.assertEqual(len(self.objects("snapshots/")), 1)

    def test_snapshot_share(self):
        self.seed()
        # The rule begins at 16 MiB of records.
        for share, least, most in (("0.5", 2, 4), ("1000", 1, 1), ("0", 1, 1)):
            self.fresh()
            p = self.daemon("-c", self.config(f"snapshotInterval: 1h\nsnapshotShare: {share}\nminInterval: 0\ncompression: none"))
            self.following(p)
            db = self.connect()
            db.execute("CREATE TABLE IF NOT EXISTS u(v)")
            db.execute("DELETE FROM u")
            for i in range(90):
                db.execute("INSERT INTO u VALUES (zeroblob(200000))")
            self.shipped()
            self.until("enough snapshots", lambda: len(self.objects("snapshots/")) >= least)
            time.sleep(1.5)  # for those that should not come
            self.assertTrue(least <= len(self.objects("snapshots/")) <= most, (share, self.objects("snapshots/")))
            self.stop(p)

    def snapshot_times(self):
        return sorted(int(os.path.basename(o).split("-")[1].split(".")[0], 16) for o in self.objects("snapshots/"))

    def test_retention(self):
        """Old snapshots go with what only they needed; it runs by itself."""
        self.seed()
        p = self.daemon("-c", self.config("snapshotInterval: 200ms\nsnapshotShare: 0\nminInterval: 0\n"
                                          "retention: {snapshotInterval: 0, snapshotRetention: 2s, checkInterval: 200ms}"))
        self.following(p)
        was = []

        def pruned():
            nonlocal was
            self.insert(1)
            seen = self.snapshot_times()
            # What was there a moment ago and is not older than snapshotRetention even now is there still.
            limit = time.time() * 1e6 - 2e6
            self.assertLessEqual({t for t in was if t > limit}, set(seen), "removed before its time")
            was = seen
            return self.restorable()[0][1] > 1 and self.status()["replicas"][0]["removals"] > 5
        self.until("old ones are pruned", pruned, every=0.1)
        self.shipped()
        # Without further commits only the newest is left in the end, with the segments that come after it.
        self.until("all but the newest have gone", lambda: len(self.objects("snapshots/")) == 1)
        first = self.restorable()[0][1]
        self.until("segments of removed snapshots go", lambda: not [s for s in self.objects("segments/") if int(os.path.basename(s)[:16], 16) < first - 2])
        self.stop(p)
        self.all_points_restore()

    def test_retention_keeps_the_newest(self):
        self.seed()
        text = "snapshotInterval: 200ms\nsnapshotShare: 0\nminInterval: 0\nretention: {snapshotRetention: 300ms, checkInterval: 200ms}"
        p = self.daemon("-c", self.config(text))
        self.following(p)
        self.insert(10, 0.1)
        self.shipped()
        self.until("all but the newest have gone", lambda: len(self.objects("snapshots/")) == 1)
        time.sleep(1)
        self.assertEqual(len(self.objects("snapshots/")), 1)
        self.stop(p)
        self.all_points_restore()
        self.assertEqual(self.ms("verify", "--deep", self.url).returncode, 0)

    def test_retention_snapshot_interval(self):
        """Snapshots that lie closer than it are thinned; every point stays restorable from the one before."""
        self.seed()
        text = "snapshotInterval: 150ms\nsnapshotShare: 0\nminInterval: 0\nretention: {snapshotInterval: %s, snapshotRetention: 1h, checkInterval: 200ms}"
        p = self.daemon("-c", self.config(text % "2s"))
        self.following(p)

        def made():
            """Txids of all snapshots that were ever taken, by the log."""
            return [int(t) for t in re.findall(r'msg="snapshot stored".* txid=(\d+)', self.daemon_log())]

        def left():
            """(txid, time in microseconds) of those that are there."""
            return sorted((int(os.path.basename(o)[:16], 16), int(os.path.basename(o).split("-")[1].split(".")[0], 16)) for o in self.objects("snapshots/"))

        began = time.monotonic()
        self.until("enough snapshots", lambda: self.insert(1) or (len(made()) > 20 and time.monotonic() - began > 5), every=0.05)
        self.shipped()
        self.until("the last snapshot is there", lambda: made()[-1] == left()[-1][0])
        # Of three in a row the middle one goes when the outer two are close enough.
        self.until("they are thinned", lambda: all(c[1] - a[1] > 2000000 for a, c in zip(left(), left()[2:])))
        kept = left()
        self.assertEqual((kept[0][0], kept[-1][0]), (made()[0], made()[-1]), "the oldest or the newest has gone")
        self.assertLess(len(kept), len(made()))
        for a, b in zip(kept, kept[1:]):
            self.assertTrue(b[1] - a[1] <= 2000000 or not [t for t in made() if a[0] < t < b[0]], "thinned too far: points far from any snapshot")
        self.stop(p)
        self.assertEqual(self.restorable()[0][1], 1, "points were lost")
        self.assertGreaterEqual(self.all_points_restore(), kept[-1][0])
        self.assertEqual(self.ms("verify", "--deep", self.url).returncode, 0)

    def test_zero_inherits(self):
        path = self.config("snapshotInterval: 17m\nretention: {snapshotInterval: 0, snapshotRetention: 0, checkInterval: 0}\ncompression: none")
        c = json.loads(self.ms("config", "print", "--json", path).stdout)
        d = c["databases"][0]
        self.assertEqual((d["retention"]["snapshotInterval"], d["retention"]["snapshotRetention"], d["retention"]["checkInterval"]), ("17m", "1d", "1h"))
        self.assertEqual(d["compression"]["codec"], "none")
        with open(path, "w") as f:
            f.write(f"databases: [{{path: {self.db}}}]\n")
        d = json.loads(self.ms("config", "print", "--json", path).stdout)["databases"][0]
        self.assertEqual((d["snapshotInterval"], d["retention"]["snapshotInterval"]), ("6h", "6h"))

    # ---- where things lie, and how often ----

    def test_shadow_dir(self):
        self.seed()
        self.shadow = self.path("elsewhere")
        self.ms("replicate", "-c", self.config(""), "--once", env={"MIGSTREAM_SHADOW": self.path("not-here")})
        self.assertTrue(os.path.isdir(os.path.join(self.shadow, "journal")))
        self.assertFalse(os.path.exists(self.path("not-here")))

    def test_typed_file_replica_and_local(self):
        self.seed()
        self.once("local: {enabled: true}", replicas=f"      - {{name: typed, type: file, path: {self.replica}}}\n")
        local = os.path.join(self.shadow, "db", "app", "replica")
        self.assertEqual(self.objects("snapshots/"), self.objects("snapshots/", root=local))
        oracle = self.oracle()
        for url in (self.url, local):
            self.assertEqual(self.restored_seq(oracle, url=url), 0)

    def test_min_interval(self):
        self.seed()
        for key, replicas in (("0", None), ("10s", None), ("replica", f"      - {{name: r, url: '{self.url}', minInterval: 10s}}\n")):
            self.fresh()
            p = self.daemon("-c", self.config(f"minInterval: {'0' if key == 'replica' else key}", replicas=replicas))
            self.following(p)
            self.until("seeded", lambda: self.objects("snapshots/"))
            before = len(self.objects("segments/"))
            if key == "0":
                for i in range(1, 13):  # one for each commit, once the last one is there
                    self.insert(1)
                    self.until("its segment is there", lambda: len(self.objects("segments/")) >= before + i)
            else:
                began = time.monotonic()
                self.insert(20, 0.05)
                time.sleep(0.3)  # for those that should not come
                self.assertLessEqual(len(self.objects("segments/")), 2 + (time.monotonic() - began) // 10)
            self.stop(p)

    def test_owner(self):
        self.seed()
        self.once("owner: alice")
        shutil.rmtree(self.shadow)
        # Her own name is enough to go on; another's is refused, unless it takes over.
        self.once("owner: alice")
        shutil.rmtree(self.shadow)
        p = self.ms("replicate", "-c", self.config("owner: bob"), "--once", rc=4)
        self.assertIn("alice", p.stderr)
        self.once("owner: bob\ntakeover: auto")

    # ---- warnings, journal, log ----

    def test_data_loss_window_threshold(self):
        self.seed()
        path = self.config("dataLossWindowThreshold: 300ms\nlog: {format: json}")
        p = self.daemon("-c", path)
        self.following(p)
        self.shipped()
        self.assertEqual(self.status()["dataLossWindowThresholdSeconds"], 0.3)
        os.rename(self.replica, self.replica + ".gone")
        self.insert(2)
        self.until("the alarm", lambda: "data-loss window" in self.daemon_log() and self.status()["dataLossWindowSeconds"] > 0.3)
        self.assertIn("past its threshold", self.ms("status").stdout)
        os.rename(self.replica + ".gone", self.replica)
        self.until("it is over", lambda: "below threshold" in self.daemon_log())
        self.assertEqual(self.status()["dataLossWindowSeconds"], 0)
        self.stop(p)
        lines = [json.loads(line) for line in self.daemon_log().splitlines()]
        alarms = [line for line in lines if "data-loss window" in line["msg"]]
        self.assertEqual([a["level"] for a in alarms], ["warn", "info"])
        # Without a threshold there is none.
        self.assertIsNone(json.loads(self.ms("status", "--json", "-c", self.config(""), rc=1).stdout)["databases"][0]["dataLossWindowThresholdSeconds"])

    def test_journal_keys(self):
        self.seed()
        journal = os.path.join(self.shadow, "journal")

        def stats(text, n=60, every=0.0):
            self.fresh()
            p = self.daemon("-c", self.config(text))
            self.following(p)
            self.shipped()
            before = json.loads(self.ms("status", "--json").stdout)["journal"]
            began = time.monotonic()
            if every:
                for _ in range(n):  # each is captured by itself, however slow or fast the machine is
                    entries = json.loads(self.ms("status", "--json").stdout)["journal"]["entries"]
                    self.insert(1)
                    self.until("it is captured", lambda: json.loads(self.ms("status", "--json").stdout)["journal"]["entries"] > entries)
                    time.sleep(every)
            else:
                self.insert(n)
            seconds = time.monotonic() - began
            self.shipped()
            after = json.loads(self.ms("status", "--json").stdout)["journal"]
            self.stop(p)
            return {"seconds": seconds, **{k: after[k] - before[k] for k in ("entries", "syncs", "rotations", "dropped")}}

        small = stats("journal: {maxSizeBytes: 4KiB}")
        self.assertGreater(small["rotations"], 2)
        self.assertEqual(stats("")["rotations"], 0)
        self.assertGreater(stats("journal: {maxAge: 100ms}", 10, 0.1)["rotations"], 2)
        paced = stats("", 30, 0.03)
        self.assertGreater(paced["syncs"], 20, "not every commit is synced")
        lazy = stats("journal: {syncMode: async, syncInterval: 1s, syncBytes: 0}", 30, 0.03)
        self.assertLess(lazy["syncs"], 10 + lazy["seconds"])
        self.assertLess(lazy["syncs"], lazy["entries"])
        by_bytes = stats("journal: {syncMode: async, syncInterval: 1h, syncBytes: 1}", 30, 0.03)
        self.assertGreater(by_bytes["syncs"], 20)
        self.assertTrue(os.path.isdir(journal))

    def test_log_level(self):
        self.seed()
        for level, seen in (("info", True), ("warn", False), ("off", False)):
            p = self.ms("replicate", "-c", self.config(f"log: {{level: {level}}}"), "--once")
            self.assertEqual("level=info" in p.stderr, seen)

    def test_shutdown_timeout(self):
        self.seed()
        path = self.config("shutdownTimeout: 400ms\nminInterval: 0")
        p = self.daemon("-c", path)
        self.following(p)
        self.shipped()
        os.rename(self.replica, self.replica + ".gone")
        self.insert(3)
        self.until("it is captured", lambda: self.status()["replicas"][0]["pendingBytes"] > 0)
        began = time.monotonic()
        self.stop(p)
        self.assertLess(time.monotonic() - began, 9, "as long as without the key")
        self.assertIn("only in the local journal", self.daemon_log())

    # ---- the database's WAL ----

    def test_checkpoint_keys(self):
        def wal_after(text, expected=False):
            self.fresh()
            for suffix in ("", "-wal", "-shm"):
                if os.path.exists(self.db + suffix):
                    os.unlink(self.db + suffix)
            self.seed()
            app = sqlite3.connect(self.db, isolation_level=None)
            app.execute("PRAGMA wal_autocheckpoint=0")
            p = self.daemon("-c", self.config(text))
            self.following(p)
            size = os.path.getsize(self.db)
            app.execute("CREATE TABLE IF NOT EXISTS u(v)")
            for i in range(60):
                app.execute("INSERT INTO u VALUES (randomblob(4000))")
            self.shipped()
            if expected:
                self.until("the frames are in the database", lambda: os.path.getsize(self.db) > size + 60 * 4000)
                time.sleep(1)  # and the wal-index says so
            else:
                time.sleep(4)  # for a checkpoint that should not come
            app.execute("INSERT INTO u VALUES (1)")
            time.sleep(0.5)
            # Frames that are in the database already need no checkpoint any more.
            log = app.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
            self.stop(p)
            app.close()
            return log

        self.assertGreater(wal_after("checkpointBytes: 1GiB"), 60)
        self.assertGreater(wal_after("checkpoint: false\ncheckpointBytes: 64KiB"), 60)
        self.assertLess(wal_after("checkpointBytes: 64KiB", True), 30, "a quiet database's WAL was not checkpointed")

    def test_max_wal_bytes(self):
        self.seed()
        for limit, told in (("1GiB", False), ("1MiB", True)):
            self.fresh()
            app = sqlite3.connect(self.db, isolation_level=None)
            app.execute("PRAGMA wal_autocheckpoint=0")
            p = self.daemon("-c", self.config(f"maxWalBytes: {limit}\ncheckpoint: false"))
            self.following(p)
            app.execute("CREATE TABLE IF NOT EXISTS u(v)")
            for i in range(2500):
                app.execute("INSERT INTO u VALUES (randomblob(8000))")
            self.shipped()
            self.assertEqual("maxWalBytes" in self.daemon_log(), told)
            rows = app.execute("SELECT count(*) FROM u").fetchone()[0]
            self.stop(p)
            app.close()
            self.restore(self.path("out.db"), "--force")
            db = sqlite3.connect(self.path("out.db"))
            self.assertEqual(db.execute("SELECT count(*) FROM u").fetchone()[0], rows)
            db.close()
