"""Starts: restore of a lost database, reload of the configuration, one daemon a shadow directory, a takeover asked for while none runs."""
import glob
import os
import shutil
import signal
import sqlite3
import time
import unittest

from harness import Case, SLOW, seq_of, sha256


class Start(Case):
    def config(self, more="restore: {enabled: true}", replicas=None, name="c.yml"):
        path = self.path(name)
        with open(path, "w") as f:
            f.write(f"shadowDir: {self.shadow}\nminInterval: 50ms\n{more}\ndatabases:\n  - path: {self.db}\n    name: app\n"
                    f"    replicas: {replicas if replicas is not None else '[{name: r, url: ' + chr(39) + self.url + chr(39) + '}]'}\n")
        return path

    def prepare(self, commits=20, config=None):
        """A database of some commits, on its replica; the daemon has stopped."""
        self.seed()
        config = config or self.config()
        p = self.daemon("-c", config)
        self.following(p)
        self.run_load("--commits", commits, "--rate", 200)
        self.shipped()
        self.stop(p)
        return config

    def files(self, path=None):
        return sorted(os.path.basename(f) for f in glob.glob((path or self.db) + "*"))

    def remove(self):
        for f in glob.glob(self.db + "*"):
            os.unlink(f)

    def live_seq(self):
        db = sqlite3.connect(self.db)
        try:
            return db.execute("SELECT seq FROM ms_seq WHERE id=1").fetchone()[0]
        finally:
            db.close()

    def goes_on(self, config, seq):
        """A start with the lost database: it is back, and new commits follow the old ones."""
        generation = self.restorable()[-1][0]
        p = self.daemon("-c", config, log="daemon-restored.log")
        s = self.following(p)
        self.assertEqual(self.live_seq(), seq)
        self.run_load("--commits", 5, "--rate", 200, "--seed", 77)
        self.shipped()
        s = self.status()
        self.stop(p)
        self.assertEqual(s["generation"], generation, "the restored database is taken for another one")
        oracle = self.oracle()
        self.assertEqual(self.restored_seq(oracle), seq + 5)
        self.check_every_txid(oracle)

    # ---- restore ----

    def test_missing(self):
        config = self.prepare()
        self.remove()
        self.goes_on(config, 20)

    def test_missing_with_leftovers(self):
        """A -wal without its database is none of the restored one's; it is kept, under another name."""
        config = self.prepare()
        self.remove()
        for suffix in ("-wal", "-shm"):
            with open(self.db + suffix, "wb") as f:
                f.write(b"left over " * 1000)
        self.goes_on(config, 20)
        kept = [f for f in self.files() if ".damaged-" in f]
        self.assertEqual(len(kept), 2, kept)
        for f in kept:
            with open(self.path(f), "rb") as g:
                self.assertEqual(g.read(), b"left over " * 1000)

    def test_empty(self):
        config = self.prepare()
        self.remove()
        open(self.db, "w").close()
        self.goes_on(config, 20)

    def test_damaged_is_set_aside(self):
        for how in ("header", "not a database", "inside"):
            with self.subTest(how):
                shutil.rmtree(self.shadow, ignore_errors=True)
                shutil.rmtree(self.replica, ignore_errors=True)
                self.remove()
                if os.path.exists(self.log):
                    os.unlink(self.log)
                config = self.prepare(10)
                db = sqlite3.connect(self.db)
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                db.close()
                size = os.path.getsize(self.db)
                with open(self.db, "r+b") as f:
                    if how == "header":
                        f.write(b"\0" * 64)
                    elif how == "inside":
                        # Every page but the first: whatever quick_check looks at, it is wrong.
                        for at in range(4096, size, 4096):
                            f.seek(at)
                            f.write(b"\x55" * 4000)
                    else:
                        f.truncate(0)
                        f.write(b"these are the letters of a shopping list\n" * 500)
                damaged = sha256(self.db)
                self.goes_on(config, 10)
                kept = [f for f in self.files() if ".damaged-" in f and not f.endswith(("-wal", "-shm"))]
                self.assertEqual(len(kept), 1, "the damaged file is not kept")
                self.assertEqual(sha256(self.path(kept[0])), damaged)
                os.unlink(self.path(kept[0]))

    def test_a_sound_database_is_left_alone(self):
        config = self.prepare()
        self.run_load("--commits", 5, "--rate", 200, "--seed", 5)
        inode = os.stat(self.db).st_ino
        p = self.daemon("-c", config, log="daemon-2.log")
        self.following(p)
        self.shipped()
        self.stop(p)
        self.assertEqual(os.stat(self.db).st_ino, inode)
        self.assertEqual(self.live_seq(), 25)
        self.assertNotIn("restoring", self.daemon_log("daemon-2.log"))
        self.assertEqual([f for f in self.files() if "damaged" in f], [])

    def test_unshipped_commits_come_back_too(self):
        """What only the journal holds is part of what is restored: nothing acknowledged is lost with the file."""
        config = self.prepare()
        p = self.daemon("-c", config)
        self.following(p)
        self.shipped()
        os.rename(self.replica, self.replica + ".gone")
        self.run_load("--commits", 15, "--rate", 200, "--seed", 8)
        captured = lambda: (self.status() or {}).get("journalledTxid", 0) >= 36
        self.until("all is in the journal", captured)
        self.kill9(p)
        os.rename(self.replica + ".gone", self.replica)
        self.remove()
        self.goes_on(config, 35)

    def test_from_the_local_replica(self):
        """Without any other replica the one in the shadow directory serves."""
        config = self.config(replicas="[]")
        self.url = "file://" + os.path.join(self.shadow, "db", "app", "replica")
        self.prepare(config=config)
        self.remove()
        self.goes_on(config, 20)

    def test_first_start(self):
        """Neither a database nor anything on the replica: it waits for the application to make one."""
        config = self.config()
        p = self.daemon("-c", config)
        self.until("it waits", lambda: (self.status() or {}).get("state") == "waiting")
        self.assertEqual(self.files(), [])
        self.seed()
        self.following(p)
        self.run_load("--commits", 5, "--rate", 200)
        self.shipped()
        self.stop(p)
        self.assertEqual(self.restored_seq(self.oracle()), 5)

    def test_damaged_and_no_replica_holds_it(self):
        config = self.config()
        with open(self.db, "wb") as f:
            f.write(b"no database at all\n" * 500)
        before = sha256(self.db)
        p = self.ms("replicate", "-c", config, rc=3)
        self.assertIn("damaged", p.stderr)
        self.assertEqual((sha256(self.db), self.files()), (before, ["app.db"]), "the only copy was touched")

    def test_unreachable(self):
        """What cannot be read may hold the database: it is not started empty."""
        config = self.prepare()
        self.remove()
        # Not mounted: nothing is there, or an empty directory.
        os.rename(self.replica, self.replica + ".gone")
        for make in (lambda: None, lambda: os.mkdir(self.replica)):
            make()
            p = self.ms("replicate", "-c", config, rc=3)
            self.assertIn("missing", p.stderr)
            self.assertIn("mounted", p.stderr)
            self.assertEqual(self.files(), [])
        os.rmdir(self.replica)
        os.rename(self.replica + ".gone", self.replica)
        os.rename(self.replica, self.replica + ".gone")
        with open(self.replica, "w") as f:
            f.write("a file where the directory should be")
        p = self.ms("replicate", "-c", config, rc=(1, 3))
        self.assertIn("missing", p.stderr)
        self.assertEqual(self.files(), [])
        os.unlink(self.replica)
        os.rename(self.replica + ".gone", self.replica)
        self.goes_on(config, 20)

    def test_damaged_replica(self):
        """A restore that fails leaves no half of a database, and says why."""
        config = self.prepare()
        self.remove()
        for o in self.objects("snapshots/"):
            self.disturb(os.path.join(self.replica, o))
        p = self.ms("replicate", "-c", config, rc=3)
        self.assertIn("snapshot", p.stderr)
        self.assertEqual(self.files(), [])

    def test_not_enabled(self):
        self.prepare(config=self.config(more=""))
        self.remove()
        p = self.daemon("-c", self.path("c.yml"))
        self.until("it waits", lambda: (self.status() or {}).get("state") == "waiting")
        self.assertEqual(self.files(), [])
        self.stop(p)

    def test_target_path_and_temp_dir(self):
        config = self.prepare()
        target, temp = self.path("target.db"), self.path("temp")
        os.mkdir(temp)
        config = self.config(more=f"restore: {{enabled: true, targetPath: {target}, tempDir: {temp}}}")
        p = self.daemon("-c", config)
        self.following(p)
        self.stop(p)
        self.check_file(target, self.oracle())
        self.assertEqual(seq_of(target), 20)
        self.assertEqual(os.listdir(temp), [])
        # The unfinished file is made there.
        os.unlink(target)
        os.rmdir(temp)
        p = self.ms("replicate", "-c", config, rc=1)
        self.assertIn(temp, p.stderr)
        self.assertFalse(os.path.exists(target))

    # ---- reload ----

    def write(self, databases, more="", name="c.yml"):
        path = self.path(name)
        with open(path + ".new", "w") as f:
            f.write(f"shadowDir: {self.shadow}\nminInterval: 50ms\n{more}\ndatabases:\n")
            for db in databases:
                f.write(f"  - path: {self.path(db + '.db')}\n    name: {db}\n    replicas: [{{name: r, url: 'file://{self.path('rep-' + db)}'}}]\n")
        os.rename(path + ".new", path)
        return path

    def states(self):
        p = self.ms("status", "--json", "-c", self.path("c.yml"), rc=None)
        if p.returncode:
            return {}
        import json
        return {d["name"]: (d["state"], d["txid"]) for d in json.loads(p.stdout)["databases"]}

    def put(self, db, n=1):
        c = sqlite3.connect(self.path(db + ".db"), isolation_level=None, timeout=10)
        c.execute("PRAGMA journal_mode=WAL")
        c.execute("CREATE TABLE IF NOT EXISTS t(v)")
        for i in range(n):
            c.execute("INSERT INTO t VALUES (?)", (i,))
        rows = c.execute("SELECT count(*) FROM t").fetchone()[0]
        c.close()
        return rows

    def rows(self, db):
        out = self.path("out.db")
        self.restore(out, "--force", url="file://" + self.path("rep-" + db))
        c = sqlite3.connect(out)
        n = c.execute("SELECT count(*) FROM t").fetchone()[0]
        c.close()
        return n

    def waited(self, db):
        self.ms("wait", db, "-c", self.path("c.yml"), "--timeout", "60s", timeout=90)

    def all_follow(self, names):
        self.until(f"{names} are followed", lambda: {n for n, (state, txid) in self.states().items() if state == "following"} == set(names) == set(self.states()))

    def test_reload_adds_and_removes(self):
        for db in ("one", "two", "three"):
            self.put(db, 3)
        p = self.daemon("-c", self.write(["one", "two"]))
        self.all_follow(["one", "two"])
        self.write(["two", "three"])
        p.send_signal(signal.SIGHUP)
        self.all_follow(["two", "three"])
        for db in ("one", "two", "three"):
            self.put(db, 2)
        for db in ("two", "three"):
            self.waited(db)
            self.assertEqual(self.rows(db), 5)
        time.sleep(0.5)
        self.assertEqual(self.rows("one"), 3, "a database that was taken out is still replicated")
        log = self.daemon_log()
        self.assertRegex(log, r"configuration changed.*one")
        # It may come back.
        self.write(["one", "two", "three"])
        p.send_signal(signal.SIGHUP)
        self.all_follow(["one", "two", "three"])
        self.waited("one")
        self.assertEqual(self.rows("one"), 5)
        self.stop(p)

    def test_reload_changes_one(self):
        for db in ("one", "two"):
            self.put(db, 3)
        p = self.daemon("-c", self.write(["one", "two"]))
        self.all_follow(["one", "two"])
        # Another replica for one of them; the other goes on undisturbed.
        path = self.write(["one", "two"])
        with open(path) as f:
            text = f.read()
        text = text.replace(self.path("rep-two"), self.path("rep-other"))
        with open(path, "w") as f:
            f.write(text)
        mark = len(self.daemon_log())
        p.send_signal(signal.SIGHUP)
        # Another place under the same name is a new replica.
        self.until("the new replica holds it", lambda: self.objects("snapshots/", root=self.path("rep-other")))
        self.all_follow(["one", "two"])
        rows = self.put("two", 4)
        self.waited("two")
        os.rename(self.path("rep-two"), self.path("rep-before"))
        os.rename(self.path("rep-other"), self.path("rep-two"))
        self.assertEqual(self.rows("two"), rows)
        new = self.daemon_log()[mark:]
        self.assertRegex(new, "snapshot stored.*db=two")
        self.assertNotIn("db=one", new, "a database that did not change was stopped")
        self.kill9(p)

    def test_reload_under_load(self):
        self.seed()
        config = self.config(more="")
        p = self.daemon("-c", config)
        self.following(p)
        load = self.load("--commits", 400, "--rate", 200)
        for i in range(6):
            time.sleep(0.3)
            self.config(more=f"maxWalBytes: {100 + i}MiB")
            p.send_signal(signal.SIGHUP)
        self.finish(load)
        self.shipped()
        s = self.status()
        self.stop(p)
        self.assertEqual(self.restored_seq(self.oracle()), 400)
        self.check_every_txid(self.oracle(), sample=60)
        self.assertEqual(len({g for g, *_ in self.restorable()}), 1, "a reload began a new generation")

    def test_reload_restores_a_database_that_is_new(self):
        for db in ("one", "two"):
            self.put(db, 3)
        p = self.daemon("-c", self.write(["one", "two"]))
        self.all_follow(["one", "two"])
        rows = self.put("two", 4)
        self.waited("two")
        self.write(["one"])
        p.send_signal(signal.SIGHUP)
        self.all_follow(["one"])
        for f in glob.glob(self.path("two.db*")):
            os.unlink(f)
        # Its replica is away: it is not started empty, and the other one is not disturbed.
        os.rename(self.path("rep-two"), self.path("rep-away"))
        self.write(["one", "two"], more="restore: {enabled: true}")
        p.send_signal(signal.SIGHUP)
        self.until("it says why not", lambda: "database cannot be started" in self.daemon_log())
        self.assertEqual(set(self.states()), {"one"})
        self.assertEqual(self.files(self.path("two.db")), [])
        self.assertIsNone(p.poll())
        os.rename(self.path("rep-away"), self.path("rep-two"))
        p.send_signal(signal.SIGHUP)
        self.all_follow(["one", "two"])
        c = sqlite3.connect(self.path("two.db"))
        self.assertEqual(c.execute("SELECT count(*) FROM t").fetchone()[0], rows)
        c.close()
        rows = self.put("two", 2)
        self.waited("two")
        self.assertEqual(self.rows("two"), rows)
        self.stop(p)

    def test_a_bad_configuration_keeps_the_old_one(self):
        self.put("one", 3)
        path = self.write(["one"])
        p = self.daemon("-c", path)
        self.all_follow(["one"])
        good = open(path).read()
        for bad in ("nonsense: true\n" + good, good.replace("file://", "gopher://"), "databases: [", good.replace("50ms", "50"), ""):
            with open(path, "w") as f:
                f.write(bad)
            mark = len(self.daemon_log())
            p.send_signal(signal.SIGHUP)
            self.until("it says so", lambda: "not reloaded" in self.daemon_log()[mark:])
            self.assertIsNone(p.poll())
        os.unlink(path)
        mark = len(self.daemon_log())
        p.send_signal(signal.SIGHUP)
        self.until("it says so", lambda: "not reloaded" in self.daemon_log()[mark:])
        with open(path, "w") as f:
            f.write(good)
        rows = self.put("one", 2)
        self.waited("one")
        self.assertEqual(self.rows("one"), rows)
        self.stop(p)

    def test_keys_that_need_a_start(self):
        self.put("one", 1)
        p = self.daemon("-c", self.write(["one"]))
        self.all_follow(["one"])
        self.write(["one"], more="owner: somebody-else")
        p.send_signal(signal.SIGHUP)
        self.until("it says when", lambda: "next start" in self.daemon_log())
        self.all_follow(["one"])
        self.stop(p)

    # ---- one daemon a shadow directory ----

    def test_second_daemon(self):
        config = self.prepare()
        p = self.daemon("-c", config)
        self.following(p)
        for args in (("-c", config), ("-c", config, "--once")):
            second = self.ms("replicate", *args, rc=1)
            self.assertIn(str(p.pid), second.stderr)
            self.assertIn(self.shadow, second.stderr)
        # Nor does it restore anything in the first one's place.
        self.remove()
        self.ms("replicate", "-c", config, rc=1)
        self.assertEqual(self.files(), [])
        self.kill9(p)
        # A dead one is in nobody's way.
        self.goes_on(config, 20)

    # ---- takeover without a daemon ----

    def test_takeover_mark(self):
        self.prepare(config=self.config(more=""))
        shutil.rmtree(self.shadow)
        self.run_load("--commits", 5, "--rate", 200, "--seed", 3)
        config = self.path("c.yml")
        # Nobody knows this shadow directory any more, and the database has changed since.
        self.ms("replicate", "--once", "-c", config, rc=4)
        p = self.ms("takeover", "app", "-c", config)
        self.assertIn("next start", p.stdout)
        mark = os.path.join(self.shadow, "db", "app", "takeover")
        self.assertTrue(os.path.exists(mark))
        self.ms("replicate", "--once", "-c", config)
        self.assertFalse(os.path.exists(mark), "the mark serves more than once")
        self.assertEqual(self.restored_seq(self.oracle()), 25)
        self.assertIn("nobody", self.ms("takeover", "nobody", "-c", config, rc=1).stderr)

    def test_takeover_mark_without_configuration(self):
        self.seed()
        self.ms("replicate", "--once", self.db, self.url)
        other = {"MIGSTREAM_SHADOW": self.path("shadow2")}
        self.run_load("--commits", 3)
        self.ms("replicate", "--once", self.db, self.url, env=other, rc=4)
        self.assertIn("next start", self.ms("takeover", self.db, env=other).stdout)
        self.ms("replicate", "--once", self.db, self.url, env=other)
        self.assertEqual(self.restored_seq(self.oracle()), 3)
        # A mistyped name leaves nothing.
        self.ms("takeover", self.path("nothing.db"), env=other, rc=1)
        self.assertEqual(os.listdir(os.path.join(self.path("shadow2"), "db")), ["app.db"])

    def test_takeover_asks_a_running_daemon(self):
        self.seed()
        self.ms("replicate", "--once", self.db, self.url)
        self.run_load("--commits", 3)
        shadow = self.path("shadow2")
        env = {"MIGSTREAM_SHADOW": shadow}
        # Two databases, so that the refusal of one does not end it.
        with open(self.path("two.yml"), "w") as f:
            f.write(f"shadowDir: {shadow}\ndatabases:\n  - {{path: {self.db}, name: app, replicas: [{{url: '{self.url}'}}]}}\n"
                    f"  - {{path: {self.path('b.db')}, name: b, replicas: [{{url: 'file://{self.path('rep-b')}'}}]}}\n")
        self.put("b", 1)
        p = self.daemon("-c", self.path("two.yml"), log="daemon2.log")
        state = lambda: {d["name"]: d["state"] for d in (self.ms_json("status", "-c", self.path("two.yml"), rc=None) or {}).get("databases", [])}
        self.until("it is refused", lambda: state().get("app") == "fenced")
        out = self.ms("takeover", "app", "-c", self.path("two.yml"), env=env).stdout
        self.assertNotIn("next start", out)
        self.until("the mark is used", lambda: not os.path.exists(os.path.join(shadow, "db", "app", "takeover")))
        self.until("it follows", lambda: state().get("app") in ("following", "seeding"))
        self.ms("wait", "app", "-c", self.path("two.yml"), "--timeout", "20s")
        self.stop(p)
        self.assertEqual(self.restored_seq(self.oracle()), 3)


if __name__ == "__main__":
    unittest.main()
