"""The runbook of docs/operations.md: each failure is made, and what its row quotes is what status, log and commands say."""
import os
import re
import shutil
import unittest

from test_s3 import S3Case

DOC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "operations.md")


def quotes(what):
    """The code words of the second cell of the row that begins with these words."""
    with open(DOC) as f:
        rows = [line.split("|") for line in f if line.startswith(f"| {what}")]
    assert len(rows) == 1, f"{len(rows)} rows of operations.md begin with '{what}'"
    return re.findall("`([^`]+)`", rows[0][2])


class Runbook(S3Case):
    def says(self, what, text):
        found = quotes(what)
        self.assertTrue(found, what)
        for q in found:
            self.assertIn(q, text, f"the runbook's '{what}'")

    def shipping(self):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 5, "--rate", 100)
        self.shipped()
        return daemon

    def troubled(self, what):
        """Commits that cannot be shipped: what is told."""
        self.run_load("--commits", 5, "--rate", 100)
        self.until("the trouble is reported", lambda: (self.status() or {"replicas": [{}]})["replicas"][0].get("lastError"))
        text = self.ms("status", self.db).stdout
        self.assertIn("retrying", text)
        self.assertIn("replica fails: commits stay in the local journal until it is back", self.daemon_log())
        self.says(what, text)

    def mended(self, daemon):
        self.shipped(timeout=90)
        self.until("it is said", lambda: "replica is back" in self.daemon_log())
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 10)

    def test_answers_of_a_server(self):
        server = self.double()
        daemon = self.shipping()
        commits = 5
        for what, fault in (("HTTP 500", "status 500 InternalError"), ("HTTP 503", "status 503 SlowDown"), ("HTTP 403", "status 403 AccessDenied"),
                            ("wrong credentials", "status 403 SignatureDoesNotMatch"), ("connections are cut", "close"),
                            ("full", "status 507 XMinioStorageFull")):
            server.tell("fault PUT /deep/ -1 " + fault)
            self.troubled(what)
            commits += 5
            server.tell("clear")
            self.shipped(timeout=90)
            self.until("it is well again", lambda: not self.status()["replicas"][0]["lastError"])
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), commits)

    def test_server_stopped(self):
        server = self.double()
        daemon = self.shipping()
        server.stop()
        self.troubled("server stopped")
        self.kill9(daemon)

    def test_server_frozen(self):
        server = self.double()
        daemon = self.shipping()
        server.tell("fault PUT /deep/ -1 delay 600")
        self.troubled("server frozen")
        self.kill9(daemon)

    def test_wiped(self):
        daemon = self.shipping()
        self.stop(daemon)
        for name in os.listdir(self.replica):
            if name != ".tmp":
                shutil.rmtree(os.path.join(self.replica, name))
        self.ms("verify", self.url, rc=(1, 3))
        daemon = self.daemon(log="daemon2.log")
        self.following(daemon)
        self.run_load("--commits", 5, "--rate", 100)
        self.until("it is noticed", lambda: "replica needs a snapshot" in self.daemon_log("daemon2.log"))
        self.says("wiped, or put back", self.daemon_log("daemon2.log"))
        self.assertIn("although everything up to txid", self.daemon_log("daemon2.log"))
        self.shipped(timeout=90)
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 10)

    def test_wiped_with_its_mark(self):
        daemon = self.shipping()
        for name in os.listdir(self.replica):
            shutil.rmtree(os.path.join(self.replica, name))
        self.troubled("wiped with its directory's mark")
        os.mkdir(os.path.join(self.replica, ".tmp"))
        self.mended(daemon)

    def test_fencing(self):
        daemon = self.shipping()
        shutil.copytree(self.shadow, self.path("old"), ignore=lambda d, names: [n for n in names if n.endswith(".sock")])
        other = self.path("other")
        os.mkdir(other)
        db2, env = os.path.join(other, "app.db"), {"MIGSTREAM_SHADOW": os.path.join(other, "shadow")}
        self.connect().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(self.db, db2)
        p = self.ms("replicate", "--once", db2, self.url, rc=4, env=env)
        self.says("a second host ships", p.stderr)
        # This host's disk goes back to before what the replica has.
        old = self.path("old.db")
        shutil.copy(self.db, old)
        self.run_load("--commits", 5, "--rate", 100)
        self.shipped()
        self.stop(daemon)
        new_shadow = self.path("new")
        os.rename(self.shadow, new_shadow)
        shutil.copytree(self.path("old"), self.shadow)
        for end in ("", "-wal", "-shm"):
            if os.path.exists(self.db + end):
                os.rename(self.db + end, self.path("new.db" + end))
        shutil.copy(old, self.db)
        p = self.ms("replicate", "--once", self.db, self.url, rc=4)
        self.says("an old disk", p.stderr)
        # And forward again; then another takes over while this one runs.
        shutil.rmtree(self.shadow)
        os.rename(new_shadow, self.shadow)
        os.unlink(self.db)
        for end in ("", "-wal", "-shm"):
            if os.path.exists(self.path("new.db" + end)):
                os.rename(self.path("new.db" + end), self.db + end)
        daemon = self.daemon()
        self.following(daemon)
        self.ms("replicate", "--once", "--takeover", db2, self.url, env=env)
        self.run_load("--commits", 3, "--rate", 100, oracle=False)
        self.assertEqual(daemon.wait(60), 4)
        self.says("this one was taken over", self.daemon_log())


if __name__ == "__main__":
    unittest.main()
