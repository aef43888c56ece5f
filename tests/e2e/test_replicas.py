"""Several replicas of one database that come, move and go while it is written to."""
import os
import signal
import time
import unittest

from harness import Case, SLOW


class Replicas(Case):
    def config(self, *replicas, extra="", keys={}):
        """keys: of a replica by its name, as they stand in the file."""
        path = self.path("migstream.yml")
        lines = "".join(f"      - {{name: {n}, url: \"file://{self.path(d)}\"{', ' + keys[n] if n in keys else ''}}}\n" for n, d in replicas)
        with open(path, "w") as f:
            f.write(f"shadowDir: {self.shadow}\n{extra}databases:\n  - path: {self.db}\n    minInterval: 50ms\n    replicas:\n{lines}")
        return path

    def status_of(self, name):
        return next((r for r in (self.status() or {"replicas": []})["replicas"] if r["name"] == name), None)

    def reload(self, daemon, *names):
        daemon.send_signal(signal.SIGHUP)
        self.until("the new replicas are followed", lambda: (lambda s: s and s["state"] == "following" and sorted(r["name"] for r in s["replicas"]) == sorted(names)
                                                             and all(r["state"] == "idle" for r in s["replicas"]))(self.status()), timeout=30)

    def begin(self, *replicas, **kw):
        self.seed()
        self.config_file = self.config(*replicas, **kw)
        daemon = self.daemon("-c", self.config_file)
        self.following(daemon)
        self.run_load("--commits", 20, "--rate", 100)
        self.shipped()
        return daemon

    def test_added_moved_and_removed(self):
        daemon = self.begin(("one", "a"))
        before = self.objects("", self.path("a"))
        self.config(("one", "a"), ("two", "b"))
        self.reload(daemon, "one", "two")
        self.run_load("--commits", 20, "--rate", 100)
        self.shipped()
        # The first went on where it was: no second snapshot, nothing gone.
        self.assertEqual(len(self.objects("/snapshots/", self.path("a"))), 1)
        self.assertLessEqual(set(before), set(self.objects("", self.path("a"))))
        # Another place under the same name is a new replica, not one that has been wiped.
        moved = self.objects("", self.path("b"))
        self.config(("one", "a"), ("two", "c"))
        self.reload(daemon, "one", "two")
        self.run_load("--commits", 20, "--rate", 100)
        self.shipped()
        self.assertEqual(self.objects("", self.path("b")), moved, "the old place was written to")
        self.assertNotIn("although everything", self.daemon_log())
        self.assertEqual(len(self.objects("/snapshots/", self.path("a"))), 1)
        self.config(("one", "a"))
        self.reload(daemon, "one")
        self.run_load("--commits", 10, "--rate", 100)
        self.shipped()
        self.stop(daemon)
        oracle = self.oracle()
        for place, seq in (("a", 70), ("b", 40), ("c", 60)):
            self.assertEqual(self.restored_seq(oracle, url="file://" + self.path(place)), seq)
            self.ms("verify", "file://" + self.path(place))
        self.url = "file://" + self.path("a")
        self.assert_every(self.check_every_txid(oracle, sample=40), 70)

    def heads(self, place):
        return [o for o in self.objects("", self.path(place)) if "head/" in o]

    def changed(self, daemon, *replicas, then, **kw):
        """A reload under load that must not touch the replica "one": its heads (one for each claim), its snapshots, the source."""
        before, snapshots, mark = self.heads("a"), self.objects("/snapshots/", self.path("a")), len(self.daemon_log())
        generation = self.status()["generation"]
        load = self.load("--commits", 120, "--rate", 200)
        time.sleep(0.2)
        self.config(*replicas, **kw)
        daemon.send_signal(signal.SIGHUP)
        self.until("it says what changed", lambda: "configuration changed" in self.daemon_log()[mark:])
        self.finish(load)
        self.until("the change is there", then)
        self.shipped()
        log = self.daemon_log()[mark:]
        self.assertEqual(self.heads("a"), before, "a replica that did not change was claimed again")
        self.assertEqual(self.objects("/snapshots/", self.path("a")), snapshots, "a replica that did not change took another snapshot")
        self.assertEqual(self.status()["generation"], generation)
        self.assertNotRegex(log, "state=(waiting|starting|stopped|catching-up)", "the source was let go of")
        self.assertEqual(self.status()["catchups"], 0)

    def test_a_change_of_one_replica_concerns_no_other(self):
        daemon = self.begin(("one", "a"), ("two", "b"))
        two = self.heads("b")
        self.changed(daemon, ("one", "a"), ("two", "b"), ("three", "c"), then=lambda: (self.status_of("three") or {}).get("state") == "idle")
        self.assertEqual(self.heads("b"), two)
        settings = {"two": "minInterval: 1ms, bandwidth: 300MiB, required: false, retention: {snapshotRetention: 9d}"}
        self.changed(daemon, ("one", "a"), ("two", "b"), ("three", "c"), keys=settings, then=lambda: self.status_of("two")["bandwidth"] == 300 << 20)
        self.assertFalse(self.status_of("two")["required"])
        self.assertEqual(self.heads("b"), two, "settings that need no claim were followed by one")
        self.changed(daemon, ("one", "a"), ("two", "d"), ("three", "c"), then=lambda: "/d" in self.status_of("two")["url"] and self.status_of("two")["state"] == "idle")
        self.changed(daemon, ("one", "a"), ("three", "c"), then=lambda: not self.status_of("two"))
        # And what was removed comes back to where it was.
        self.changed(daemon, ("one", "a"), ("two", "b"), ("three", "c"), then=lambda: (self.status_of("two") or {}).get("state") == "idle")
        self.stop(daemon)
        oracle = self.oracle()
        for place in ("a", "b", "c"):
            self.assertEqual(self.restored_seq(oracle, url="file://" + self.path(place)), 20 + 5 * 120)
            self.ms("verify", "file://" + self.path(place))
        self.url = "file://" + self.path("a")
        self.assert_every(self.check_every_txid(oracle, sample=60), 20 + 5 * 120)

    def test_the_authority_can_be_moved(self):
        daemon = self.begin(("one", "a"), ("two", "b"))
        self.config(("one", "c"), ("two", "b"))
        self.reload(daemon, "one", "two")
        self.config(("two", "b"))
        self.reload(daemon, "two")
        self.run_load("--commits", 20, "--rate", 100)
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle(), url="file://" + self.path("b")), 40)

    def test_bandwidth(self):
        self.seed()
        db = self.connect()
        db.execute("CREATE TABLE bulk(x)")
        for _ in range(60):
            db.execute("INSERT INTO bulk VALUES(randomblob(100000))")
        self.config_file = self.config(("one", "a"), ("two", "b"), keys={"two": "bandwidth: 64KiB"})
        daemon = self.daemon("-c", self.config_file)
        # 6 MB of first snapshot at 64 KiB a second.
        self.until("status says who is held back", lambda: (self.status_of("two") or {}).get("limited"), timeout=30)
        self.assertIn("held back by its bandwidth: 64 KiB a second".replace(" KiB", "KiB"), self.ms("status", "-c", self.config_file).stdout.replace(" KiB", "KiB"))
        self.ms("wait", self.db, "--replica", "one", "-c", self.config_file, "--timeout", f"{int(60 * SLOW)}s", timeout=90 * SLOW)
        self.assertFalse(self.status_of("one")["limited"])
        self.assertNotEqual(self.status_of("two")["state"], "idle")
        self.config(("one", "a"), ("two", "b"))
        self.reload(daemon, "one", "two")
        self.assertEqual(self.status_of("two")["bandwidth"], 0)
        self.assertGreater(self.status_of("two")["limitedSeconds"], 0)
        self.run_load("--commits", 20, "--rate", 100)
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle(), url="file://" + self.path("b")), 20)

    def test_each_has_its_own_retention(self):
        keys = {"one": "retention: {snapshotRetention: 200ms, snapshotInterval: 10ms, checkInterval: 200ms}", "two": "retention: {snapshotRetention: 30d, snapshotInterval: 10ms, checkInterval: 200ms}"}
        daemon = self.begin(("one", "a"), ("two", "b"), keys=keys)
        printed = self.ms("config", "print", self.config_file).stdout
        self.assertIn("snapshotRetention: 200ms", printed)
        self.assertIn("snapshotRetention: 30d", printed)
        for _ in range(4):
            self.run_load("--commits", 5, "--rate", 100)
            self.shipped()
            self.ms("snapshot", self.db, "-c", self.config_file)
            time.sleep(0.3)
        first = lambda place: min(self.objects("/snapshots/", self.path(place)), key=os.path.basename)
        kept = first("b")
        self.until("what one does not keep is gone", lambda: len(self.objects("/snapshots/", self.path("a"))) < len(self.objects("/snapshots/", self.path("b"))))
        self.assertEqual(first("b"), kept)
        self.assertEqual(len(self.objects("/snapshots/", self.path("b"))), 5)
        self.stop(daemon)
        oracle = self.oracle()
        for place in ("a", "b"):
            self.assertEqual(self.restored_seq(oracle, url="file://" + self.path(place)), 40)
        self.url = "file://" + self.path("b")
        self.assert_every(self.check_every_txid(oracle), 40)

    def test_one_that_is_not_required_never_holds_the_journal(self):
        daemon = self.begin(("one", "a"), ("two", "b"), extra="journal: {maxSizeBytes: 1MiB}\n", keys={"two": "required: false"})
        os.rename(self.path("b"), self.path("away"))
        db = self.connect()
        db.execute("CREATE TABLE noise(x)")
        for i in range(80):
            db.execute("INSERT INTO noise VALUES(randomblob(500000))")
        journal = lambda: sum(os.path.getsize(os.path.join(self.shadow, "journal", f)) for f in os.listdir(os.path.join(self.shadow, "journal")))
        self.ms("wait", self.db, "--replica", "one", "--timeout", f"{int(30 * SLOW)}s", "-c", self.config_file)
        self.until("the journal has gone on without it", lambda: journal() < 8 << 20, timeout=30)
        self.until("it is told what is owed", lambda: self.status_of("two")["owedCommits"] > 0, timeout=30)
        os.rename(self.path("away"), self.path("b"))
        self.run_load("--commits", 10, "--rate", 100)
        self.until("it is back", lambda: self.status_of("two")["state"] == "idle" and self.status_of("two")["txid"] == self.status()["txid"])
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle(), url="file://" + self.path("b")), 30)

    def test_a_removed_replica_frees_what_was_held_for_it(self):
        daemon = self.begin(("one", "a"), ("two", "b"), extra="journal: {maxSizeBytes: 1MiB}\n")
        os.rename(self.path("b"), self.path("away"))
        db = self.connect()
        db.execute("CREATE TABLE noise(x)")
        for _ in range(12):
            db.execute("INSERT INTO noise VALUES(randomblob(500000))")
        journal = lambda: sum(os.path.getsize(os.path.join(self.shadow, "journal", f)) for f in os.listdir(os.path.join(self.shadow, "journal")))
        self.ms("wait", self.db, "--replica", "one", "--timeout", f"{int(20 * SLOW)}s")
        time.sleep(2.5)
        self.assertGreater(journal(), 5 << 20, "the journal did not wait for the replica that is away")
        self.config(("one", "a"), extra="journal: {maxSizeBytes: 1MiB}\n")
        self.reload(daemon, "one")
        # The page sums' mark moves with the next 32 MiB, or a stop.
        self.stop(daemon)
        daemon = self.daemon("-c", self.config_file)
        self.following(daemon)
        self.until("what was held is gone", lambda: journal() < 3 << 20, timeout=20)
        self.stop(daemon)


if __name__ == "__main__":
    unittest.main()
