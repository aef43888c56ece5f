"""Several replicas of one database that come, move and go while it is written to."""
import os
import signal
import time
import unittest

from harness import Case, SLOW


class Replicas(Case):
    def config(self, *replicas, extra=""):
        path = self.path("migstream.yml")
        lines = "".join(f"      - {{name: {n}, url: \"file://{self.path(d)}\"}}\n" for n, d in replicas)
        with open(path, "w") as f:
            f.write(f"shadowDir: {self.shadow}\n{extra}databases:\n  - path: {self.db}\n    minInterval: 50ms\n    replicas:\n{lines}")
        return path

    def replica(self, name):
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
