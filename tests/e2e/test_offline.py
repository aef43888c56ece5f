"""`status` without a daemon: what the shadow directory alone tells, and that looking changes nothing in it."""
import json
import os
import shutil

from harness import Case, sha256


class Offline(Case):
    def tree(self):
        """Everything about the shadow directory that writing could change."""
        found = {}
        for d, dirs, files in os.walk(self.shadow):
            for name in dirs + files:
                path = os.path.join(d, name)
                st = os.lstat(path)
                content = sha256(path) if os.path.isfile(path) else None
                found[path] = (st.st_ino, st.st_mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns, content)
        return found

    def look(self, *args, rc=1):
        """status --json of a stopped daemon; the directory must be as before, to the byte."""
        before = self.tree()
        p = self.ms("status", "--json", *args, rc=rc)
        text = self.ms("status", *args, rc=rc).stdout
        self.assertEqual(self.tree(), before, "status changed the shadow directory")
        self.assertIn("stopped", text)
        return json.loads(p.stdout)

    def only(self, *args):
        s = self.look(*args)
        self.assertIs(s["running"], False)
        self.assertEqual(len(s["databases"]), 1)
        self.assertEqual(s["databases"][0]["state"], "stopped")
        return s["databases"][0]

    def replicate(self, commits, *args):
        p = self.daemon(*args)
        self.following(p)
        self.run_load("--commits", commits, "--rate", 200, oracle=False)
        self.shipped()
        live = self.status()
        self.assertEqual(live["txid"], commits + 1)
        return p, live

    def write_config(self, more=""):
        path = self.path("c.yml")
        with open(path, "w") as f:
            f.write(f"shadowDir: {self.shadow}\ndatabases:\n  - path: {self.db}\n    name: app\n{more}"
                    f"    replicas:\n      - {{name: near, url: '{self.url}'}}\n      - {{name: far, type: file, path: {self.path('far')}, required: false}}\n")
        return path

    def test_nothing_there(self):
        p = self.ms("status", "--json", self.db, rc=1)
        self.assertEqual(json.loads(p.stdout)["databases"], [])
        self.assertFalse(os.path.exists(self.shadow), "looking made a shadow directory")
        config = self.write_config()
        s = json.loads(self.ms("status", "--json", "-c", config, rc=1).stdout)
        self.assertEqual([d["name"] for d in s["databases"]], ["app"])
        self.assertEqual(s["databases"][0]["txid"], 0)
        self.assertIn("nothing", s["databases"][0]["why"])
        self.assertEqual([r["name"] for r in s["databases"][0]["replicas"]], ["near", "far"])
        self.assertFalse(os.path.exists(self.shadow))

    def test_after_a_clean_stop(self):
        self.seed()
        p, live = self.replicate(30)
        self.stop(p)
        d = self.only(self.db)
        for key in ("generation", "txid", "time", "checksum", "pageSize", "pages", "journalledTxid", "path"):
            self.assertEqual(d[key], live[key], key)
        r, was = d["replicas"][0], live["replicas"][0]
        for key in ("name", "txid", "time", "settledTxid", "lastSnapshotTxid"):
            self.assertEqual(r[key], was[key], key)
        self.assertEqual((r["state"], r["lagSeconds"], r["pendingBytes"]), ("stopped", 0, 0))
        self.assertEqual(d["dataLossWindowSeconds"], 0)
        # The same without naming a database.
        self.assertEqual(self.only()["txid"], 31)
        # A database of another name is not in there.
        self.assertEqual(self.look(self.path("other.db"))["databases"], [])

    def test_unshipped_after_kill(self):
        self.seed()
        p, live = self.replicate(10)
        os.rename(self.replica, self.replica + ".gone")
        self.run_load("--commits", 25, "--rate", 200, oracle=False)
        self.until("all is in the journal", lambda: (self.status() or {}).get("journalledTxid") == 36)
        live = self.status()
        self.kill9(p)
        d = self.only(self.db)
        self.assertEqual((d["txid"], d["journalledTxid"], d["time"], d["checksum"]), (36, 36, live["time"], live["checksum"]))
        r = d["replicas"][0]
        self.assertEqual(r["txid"], live["replicas"][0]["txid"])
        self.assertGreaterEqual(r["txid"], 11)
        self.assertLess(r["txid"], 36)
        self.assertEqual(r["pendingBytes"], live["replicas"][0]["pendingBytes"])
        self.assertGreater(r["pendingBytes"], 0)
        self.assertGreater(r["lagSeconds"], 0)
        self.assertGreater(d["dataLossWindowSeconds"], 0)
        # Shipped by a new start, nothing is pending.
        os.rename(self.replica + ".gone", self.replica)
        self.ms("replicate", "--once", self.db, self.url)
        d = self.only(self.db)
        self.assertEqual((d["txid"], d["replicas"][0]["txid"], d["replicas"][0]["pendingBytes"]), (36, 36, 0))

    def test_with_a_configuration(self):
        self.seed()
        os.mkdir(self.path("far"))
        config = self.write_config()
        p = self.daemon("-c", config)
        self.until("both replicas hold it", lambda: (lambda s: s and all(r["txid"] == 1 for r in s["replicas"]))(self.status()))
        shutil.rmtree(self.path("far"))
        self.run_load("--commits", 12, "--rate", 200, oracle=False)
        self.ms("wait", "app", "-c", config, "--replica", "near", "--timeout", "20s")
        live = self.status()
        self.kill9(p)
        for args in (("-c", config), ("-c", config, "app"), ("-c", config, self.db)):
            d = self.only(*args)
            self.assertEqual((d["name"], d["path"], d["txid"], d["generation"]), ("app", self.db, 13, live["generation"]))
            near, far = d["replicas"]
            self.assertEqual((near["name"], near["type"], near["url"], near["txid"], near["required"]), ("near", "file", self.url, 13, True))
            self.assertEqual((far["name"], far["type"], far["required"]), ("far", "file", False))
            self.assertLess(far["txid"], 13)
            self.assertGreater(far["pendingBytes"], 0)
            self.assertEqual(near["pendingBytes"], 0)
            self.assertEqual(d["dataLossWindowSeconds"], 0, "a replica that is not required counts")
        self.assertIn("no database", self.ms("status", "-c", config, "nobody", rc=1).stderr)
        # Without the configuration the names of the replicas are still known.
        d = self.only()
        self.assertEqual([r["name"] for r in d["replicas"]], ["far", "near"])

    def test_damage_hides_nothing_else(self):
        self.seed()
        p, _ = self.replicate(10)
        self.stop(p)
        base = os.path.join(self.shadow, "db", os.listdir(os.path.join(self.shadow, "db"))[0])
        cursor = os.path.join(base, "cursor-file")
        *_, undo = self.disturb(cursor)
        d = self.only(self.db)
        self.assertEqual(d["txid"], 11)
        self.assertIn("cursor", d["replicas"][0]["lastError"])
        undo()
        # Both marks of the page sums: position then comes from the journal alone, and the reason is shown.
        sums = os.path.join(base, "sums")
        with open(sums, "r+b") as f:
            for slot in (0, 4096):
                f.seek(slot + 100)
                f.write(b"\xff\xee")
        d = self.only(self.db)
        self.assertIn("sums", d["why"])
        self.assertEqual(d["txid"], 11)
        # Nothing but an unreadable journal: reported too.
        for name in os.listdir(os.path.join(self.shadow, "journal")):
            with open(os.path.join(self.shadow, "journal", name), "r+b") as f:
                f.write(os.urandom(64))
        self.only(self.db)
