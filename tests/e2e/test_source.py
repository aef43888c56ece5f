"""What applications do to their databases while they are followed (issue list: the SQLite source)."""
import os
import shutil
import sqlite3
import subprocess
import threading
import time
import unittest

from harness import BIN, Case, SLOW, rfc3339, seq_of

NOBODY = 65534


class Application(Case):
    def begin(self, *seed):
        self.seed(*seed)
        daemon = self.daemon()
        self.following(daemon)
        return daemon

    def end(self, daemon, commits, every_txid=True):
        """Ships, stops, and proves the newest commit and every txid."""
        self.shipped()
        status = self.status()
        self.stop(daemon)
        oracle = self.oracle()
        self.assertEqual(self.restored_seq(oracle), commits)
        found = self.check_every_txid(oracle) if every_txid else {}
        return status, found

    def whole(self, daemon, commits):
        """As end(), and no commit was lost on the way."""
        status, found = self.end(daemon, commits)
        self.assertEqual(status["lostCommits"], 0)
        self.assert_every(found, commits)

    def test_resume_after_restart(self):
        daemon = self.begin()
        self.run_load("--commits", 40, "--rate", 200)
        self.shipped()
        self.stop(daemon)
        generation = self.restorable()[-1][0]
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 40, "--rate", 200)
        status, found = self.end(daemon, 80)
        self.assertEqual(status["generation"], generation, "a clean restart started a new generation")
        self.assert_every(found, 80)

    def test_commits_while_the_daemon_is_down(self):
        daemon = self.begin()
        self.run_load("--commits", 20, "--rate", 200)
        self.shipped()
        self.stop(daemon)
        before = len(self.objects("snapshots"))
        # Far more than one WAL, so that continuity cannot be proven.
        self.run_load("--commits", 3000, "--autocheckpoint", 100, "--oracle-every", 100)
        daemon = self.daemon()
        self.following(daemon)
        status, found = self.end(daemon, 3020)
        self.assertIn(3020, found.values())
        self.assertEqual(len({g for g, _ in found}), 1, "downtime must not start a new generation")
        self.assertLessEqual(len(self.objects("snapshots")), before + 1)

    def test_last_connection_closes_again_and_again(self):
        daemon = self.begin()
        self.run_load("--commits", 120, "--rate", 100, "--reopen-every", 7)
        self.whole(daemon, 120)

    def checkpoints(self, mode):
        daemon = self.begin()
        self.run_load("--commits", 150, "--rate", 150, "--checkpoint", mode, "--checkpoint-every", 9)
        self.whole(daemon, 150)

    def test_passive_checkpoints(self):
        self.checkpoints("passive")

    def test_full_checkpoints(self):
        self.checkpoints("full")

    def test_restart_checkpoints(self):
        self.checkpoints("restart")

    def test_truncate_checkpoints(self):
        """TRUNCATE takes frames away under a follower that holds no mark: what that costs in granularity is reported, and nothing else."""
        daemon = self.begin()
        self.run_load("--commits", 150, "--rate", 150, "--checkpoint", "truncate", "--checkpoint-every", 9)
        status, found = self.end(daemon, 150)
        points = sum(r[2] - r[1] + 1 for r in self.restorable())
        self.assertGreaterEqual(points + status["lostCommits"], 151, "lost granularity was not reported")
        self.assertLessEqual(status["lostCommits"], 15)

    def test_vacuum_grows_and_shrinks(self):
        daemon = self.begin()
        db = self.connect()
        db.execute("CREATE TABLE ballast(x)")
        db.execute("WITH n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<2000) INSERT INTO ballast SELECT randomblob(1000) FROM n")
        self.run_load("--commits", 10)
        large = db.execute("PRAGMA page_count").fetchone()[0] * 4096
        db.execute("DELETE FROM ballast")
        self.run_load("--commits", 10, "--vacuum-every", 5)
        db.execute("INSERT INTO ballast SELECT zeroblob(3000) FROM customers")
        self.run_load("--commits", 10)
        db.close()
        self.shipped()
        self.stop(daemon)
        oracle = self.oracle()
        self.assertEqual(self.restored_seq(oracle), 30)
        self.assertGreater(large, 2000000)

    def test_page_size_change_while_paused(self):
        daemon = self.begin("--page-size", 4096)
        self.run_load("--commits", 20, "--rate", 200)
        self.shipped()
        old = self.restorable()[-1][0]
        self.ms("pause", self.db)
        db = self.connect()
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("PRAGMA page_size=8192")
        db.execute("VACUUM")
        db.execute("PRAGMA journal_mode=WAL")
        db.close()
        self.oracle_now()
        self.ms("resume", self.db)
        self.run_load("--commits", 20, "--rate", 200)
        status, found = self.end(daemon, 40)
        self.assertNotEqual(status["generation"], old)
        new = [g for g in self.ms_json("list", self.url)["generations"] if g["id"] == status["generation"]]
        self.assertEqual(new[0]["parent"], old, "the new generation does not name its parent")
        # The old page size is still restorable, at every point of the parent.
        self.assertEqual(sum(r[2] - r[1] + 1 for r in self.restorable() if r[0] == old), 21)
        self.assertTrue(self.sampled or {s for (g, _), s in found.items() if g == old} == set(range(21)))
        self.assertTrue(new[0]["seeded"])
        fork = new[0]["forkTxid"]
        self.assertEqual(fork, 21)
        self.assertGreater(status["txid"], fork + 1, "txids do not go on")
        self.before_the_first_snapshot(old, status["generation"], fork)

    def before_the_first_snapshot(self, old, new, fork):
        """The replica as it was before the new generation's snapshots had ended: everything older restores, nothing newer is passed off."""
        part = self.path("part")
        shutil.copytree(self.replica, part)
        shutil.rmtree(os.path.join(part, new, "snapshots"))
        oracle, out = self.oracle(), self.path("restored.db")
        done = self.restore(out, url=part)
        self.assertIn(f"generation {new} has no snapshot yet", done.stderr)
        self.assertIn(f"txid {fork} of generation {old}", done.stderr)
        self.assertEqual(self.check_file(out, oracle), 20)
        first, last = next((r[3], r[4]) for r in self.restorable(part) if r[0] == old)
        for t, want in ((first, 0), (last, 20)):
            os.unlink(out)
            done = self.restore(out, "--timestamp", rfc3339(t), url=part)
            self.assertEqual((self.check_file(out, oracle), done.stderr), (want, ""))
        os.unlink(out)
        for args in (("--txid", fork + 1), ("--timestamp", rfc3339(last + 3600 * 1000000)), ("--generation", new)):
            failed = self.restore(out, *args, url=part, rc=3)
            self.assertIn(new, failed.stderr)
            self.assertIn(f"to {fork} (", failed.stderr)
        self.assertFalse(os.path.exists(out))
        self.assertEqual({r[0] for r in self.restorable(part)}, {old})
        self.assertIn("its first snapshot has not come", self.ms("list", part).stdout)
        self.assertIn(f"generation {new} has no snapshot yet", self.ms("verify", part, rc=3).stdout)

    def test_replaced_by_rename(self):
        daemon = self.begin()
        self.run_load("--commits", 20, "--rate", 200)
        self.shipped()
        old = self.restorable()[-1][0]
        other = self.path("other.db")
        self.run_program("ms-loadgen", "--db", other, "--scale", "0.03", "--seed", 9, "--commits", 0, "--json", "/dev/null")
        for suffix in ("-wal", "-shm"):
            if os.path.exists(self.db + suffix):
                os.unlink(self.db + suffix)
        os.rename(other, self.db)
        self.oracle_now()
        self.run_load("--commits", 15, "--rate", 50)
        self.until("the new database is followed", lambda: (self.status() or {}).get("state") in ("following", "seeding"))
        self.shipped()
        status = self.status()
        self.stop(daemon)
        oracle = self.oracle()
        self.assertEqual(self.restored_seq(oracle), 15)
        self.assertEqual(len({g for g, *_ in self.restorable()}), 2)
        self.check_every_txid(oracle)
        self.assertNotEqual(status["generation"], old)
        new = next(g for g in self.ms_json("list", self.url)["generations"] if g["id"] == status["generation"])
        self.assertEqual((new["parent"], new["seeded"], new["snapshots"]), (old, False, []), "the parent's state serves: no snapshot is needed")

    def test_an_old_copy_is_put_back(self):
        daemon = self.begin()
        self.run_load("--commits", 20, "--rate", 200)
        self.shipped()
        self.stop(daemon)
        db = self.connect()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()
        shutil.copy(self.db, self.path("copy.db"))
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 20, "--rate", 200)
        self.shipped()
        self.stop(daemon)
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(self.db + suffix):
                os.unlink(self.db + suffix)
        shutil.copy(self.path("copy.db"), self.db)
        # Another continuation of the same history: commits 21.. exist twice, in two generations.
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 10, "--rate", 200, "--seed", 77)
        self.shipped()
        status = self.status()
        self.stop(daemon)
        oracle = self.oracle()
        self.assertEqual(self.restored_seq(oracle), 30)
        generations = {g["id"]: g for g in self.ms_json("list", self.url)["generations"]}
        self.assertEqual(len(generations), 2, "going back in time must fork")
        self.assertIn(generations[status["generation"]]["parent"], generations)
        found = self.check_every_txid(oracle)
        self.assertIn(40, found.values())

    def test_the_same_state_again_is_no_fork(self):
        """While the daemon is down, an application undoes its last change, to the byte: that is a commit like any other."""
        self.seed()
        db = self.connect()
        db.execute("CREATE TABLE undone(x)")
        db.execute("INSERT INTO undone VALUES('first')")
        db.commit()
        daemon = self.daemon()
        self.following(daemon)
        for value in ("second", "third"):
            db.execute("UPDATE undone SET x=?", (value,))
            db.commit()
            self.shipped()
        before = self.status()
        self.stop(daemon)
        for value in ("fourth", "second"):
            db.execute("UPDATE undone SET x=?", (value,))
            db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.close()
        daemon = self.daemon()
        self.following(daemon)
        self.shipped()
        after = self.status()
        self.stop(daemon)
        self.assertEqual(after["generation"], before["generation"], "forked although the database had only gone on")
        self.assertEqual(after["txid"], before["txid"] + 1)
        self.assertIn(f"again as it was at txid {before['txid'] - 1}", self.daemon_log())
        for txid, value in ((before["txid"] - 1, "second"), (before["txid"], "third"), (after["txid"], "second")):
            out = self.path("restored.db")
            self.restore(out, "--force", "--txid", txid)
            restored = sqlite3.connect(f"file:{out}?immutable=1", uri=True)
            self.assertEqual(restored.execute("SELECT x FROM undone").fetchone()[0], value)
            restored.close()

    def test_deleted_and_made_again(self):
        daemon = self.begin()
        self.run_load("--commits", 10, "--rate", 200)
        self.shipped()
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(self.db + suffix):
                os.unlink(self.db + suffix)
        self.until("it says that the database is gone", lambda: (self.status() or {}).get("state") == "waiting")
        self.assertEqual(self.restored_seq(self.oracle()), 10)
        self.seed("--seed", 5)
        self.until("the new database is followed", lambda: (self.status() or {}).get("state") in ("following", "seeding"))
        self.run_load("--commits", 5, "--rate", 50)
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 5)

    def test_not_yet_existing(self):
        daemon = self.daemon()
        self.until("it waits", lambda: (self.status() or {}).get("state") == "waiting")
        self.assertFalse(os.path.exists(self.db), "a database was made")
        self.seed()
        self.until("it follows", lambda: (self.status() or {}).get("state") in ("following", "seeding"))
        self.run_load("--commits", 10, "--rate", 100)
        self.end(daemon, 10)

    def test_empty_file(self):
        open(self.db, "w").close()
        daemon = self.daemon()
        self.until("it waits", lambda: (self.status() or {}).get("state") in ("waiting", "following", "seeding"))
        self.assertEqual(os.path.getsize(self.db), 0, "the empty file was written to")
        self.seed()
        self.run_load("--commits", 10, "--rate", 100)
        self.until("it follows", lambda: (self.status() or {}).get("state") in ("following", "seeding"))
        self.end(daemon, 10)

    def test_not_in_wal_mode(self):
        db = self.connect()
        db.execute("CREATE TABLE ms_seq(id INTEGER PRIMARY KEY, seq INTEGER, t INTEGER)")
        db.execute("INSERT INTO ms_seq VALUES(1,1,0)")
        p = self.ms("replicate", "--once", self.db, self.url, rc=1)
        self.assertIn("journal_mode", p.stderr.lower(), "the pragma to run is not named")
        daemon = self.daemon()
        s = self.until("it waits", lambda: (lambda s: s if s and s["state"] == "waiting" else None)(self.status()))
        self.assertIn("journal_mode", (s["why"] or "").lower())
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("UPDATE ms_seq SET seq=2")
        self.until("it follows once the mode is right", lambda: (self.status() or {}).get("state") in ("following", "seeding"))
        self.oracle_now()
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 2)

    def test_exclusive_locking_mode(self):
        self.seed()
        db = self.connect()
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("UPDATE ms_seq SET seq=1")
        daemon = self.daemon()
        self.until("it says why it cannot follow",
                   lambda: (lambda s: s and s["state"] == "waiting" and "exclusive" in (s["why"] or "").lower())(self.status()))
        db.execute("UPDATE ms_seq SET seq=2")
        db.close()
        self.until("it follows once the lock is gone", lambda: (self.status() or {}).get("state") in ("following", "seeding"), timeout=60)
        self.oracle_now()
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 2)

    def test_symbolic_link(self):
        os.mkdir(self.path("real"))
        os.symlink(self.path("real", "app.db"), self.db)
        daemon = self.begin()
        self.run_load("--commits", 20, "--rate", 200)
        self.whole(daemon, 20)
        self.assertTrue(os.path.islink(self.db))

    def test_rolled_back_and_spilled_transactions(self):
        daemon = self.begin()
        self.run_load("--commits", 80, "--rate", 100, "--rollback-every", 3, "--cache-pages", 10)
        self.whole(daemon, 80)

    def test_savepoints_and_readers(self):
        daemon = self.begin()
        db, reader = self.connect(), self.connect()
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM orders").fetchone()
        # A long reader of the application pins the WAL; that is the application's choice, and commits still come through.
        for i in range(1, 41):
            db.execute("BEGIN")
            db.execute("SAVEPOINT a")
            db.execute("UPDATE kv SET v=v||'x'")
            db.execute("ROLLBACK TO a" if i % 2 else "RELEASE a")
            db.execute("UPDATE ms_seq SET seq=?, t=?", (i, int(time.time() * 1e6)))
            db.execute("COMMIT")
            self.oracle_now()
        reader.execute("COMMIT")
        db.close()
        reader.close()
        self.whole(daemon, 40)

    def test_attach_under_full_load(self):
        self.seed()
        load = self.load("--profile", "oltp", "--processes", 2, "--duration", 4, "--busy-timeout", 0, oracle=False)
        time.sleep(0.5)
        daemon = self.daemon()
        self.following(daemon)
        self.finish(load)
        newest = int(self.oracle_now()[0])
        self.shipped()
        status = self.status()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), newest)
        self.assertEqual(status["lostCommits"], 0)

    def test_wait_under_full_load(self):
        """What was committed before `wait` is on the replica when it returns, although the writers never rest; and SIGTERM ships it too."""
        daemon = self.begin()
        load = self.load("--profile", "oltp", "--processes", 2, "--duration", 100000, "--busy-timeout", 0, oracle=False)
        time.sleep(1)
        out, db = self.path("restored.db"), self.connect()

        def committed():
            return db.execute("SELECT seq FROM ms_seq WHERE id=1").fetchone()[0]

        for _ in range(3):
            before = committed()
            self.ms("wait", self.db, "--timeout", "60s", timeout=90)
            self.assertIsNone(load.poll(), "the load was over before the wait")
            self.restore(out, "--force")
            self.assertGreaterEqual(seq_of(out), before)
        before = committed()
        self.stop(daemon)
        self.assertIsNone(load.poll(), "the load was over before the stop")
        db.close()
        self.restore(out, "--force")
        self.assertGreaterEqual(seq_of(out), before)
        load.terminate()
        load.wait()

    def test_leaving_wal_mode_with_pause_and_resume(self):
        daemon = self.begin()
        self.run_load("--commits", 5, "--rate", 50)
        db = self.connect()
        db.execute("PRAGMA busy_timeout=200")
        with self.assertRaises(sqlite3.OperationalError):
            db.execute("PRAGMA journal_mode=DELETE")
        self.ms("pause", self.db)
        self.assertEqual(self.status()["state"], "paused")
        self.assertEqual(db.execute("PRAGMA journal_mode=DELETE").fetchone()[0], "delete")
        db.execute("UPDATE ms_seq SET seq=6")
        self.assertEqual(db.execute("PRAGMA journal_mode=WAL").fetchone()[0], "wal")
        db.close()
        self.ms("resume", self.db)
        self.following()
        self.oracle_now()
        self.end(daemon, 6)

    def test_nothing_is_left_beside_the_database(self):
        os.mkdir(self.path("d"))
        self.db = self.path("d", "app.db")
        self.seed()
        before = open(self.db, "rb").read()
        daemon = self.daemon(self.db, self.url)
        self.following(daemon)
        time.sleep(1)
        self.assertLessEqual(set(os.listdir(self.path("d"))), {"app.db", "app.db-wal", "app.db-shm"})
        self.stop(daemon)
        self.assertEqual(open(self.db, "rb").read(), before, "the database's bytes were changed")

    def test_settings_and_schema_are_untouched(self):
        daemon = self.begin()
        self.run_load("--commits", 30, "--rate", 100)
        self.shipped()
        self.stop(daemon)
        db = self.connect()
        tables = {r[0] for r in db.execute("SELECT name FROM sqlite_schema WHERE type='table'")}
        self.assertEqual(tables, {"ms_seq", "customers", "products", "orders", "order_lines", "kv", "docs", "bulk_rows", "history"})
        self.assertEqual(db.execute("PRAGMA journal_mode").fetchone()[0], "wal")
        self.assertEqual(db.execute("PRAGMA integrity_check").fetchone()[0], "ok")


class Large(Case):
    def test_transaction_larger_than_memory(self):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        db = self.connect()
        db.execute("CREATE TABLE big(x)")
        db.execute("BEGIN")
        for _ in range(150):
            db.execute("INSERT INTO big VALUES(randomblob(1000000))")
        db.execute("UPDATE ms_seq SET seq=1")
        db.execute("COMMIT")
        db.close()
        self.oracle_now()
        self.shipped(timeout=60)
        with open(f"/proc/{daemon.pid}/status") as f:
            peak = next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 1)
        if SLOW == 1:
            self.assertLess(peak, 100 * 1024, "kB resident: the transaction was held in memory")

    def test_past_the_lock_page(self):
        """A sparse database whose pages reach over byte 0x40000000, where SQLite never writes."""
        size = 65536
        db = self.connect()
        db.execute(f"PRAGMA page_size={size}")
        db.execute("CREATE TABLE ms_seq(id INTEGER PRIMARY KEY, seq INTEGER, t INTEGER)")
        db.execute("INSERT INTO ms_seq VALUES(1,0,0)")
        db.execute("CREATE TABLE big(x)")
        db.close()
        pages = 0x40000000 // size - 1  # the next two allocations lie on both sides of the lock page
        with open(self.db, "r+b") as f:
            f.seek(28)
            f.write(pages.to_bytes(4, "big"))
            f.truncate(pages * size)
        db = self.connect()
        self.assertEqual(db.execute("PRAGMA page_count").fetchone()[0], pages)
        self.assertEqual(db.execute("PRAGMA journal_mode=WAL").fetchone()[0], "wal")
        daemon = self.daemon()
        self.following(daemon, timeout=60)
        for seq in range(1, 4):
            db.execute("BEGIN")
            db.execute("INSERT INTO big VALUES(randomblob(200000))")
            db.execute("UPDATE ms_seq SET seq=?", (seq,))
            db.execute("COMMIT")
        self.assertGreater(db.execute("PRAGMA page_count").fetchone()[0], pages + 4)
        db.close()
        self.oracle_now()
        self.shipped(timeout=60)
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle(), "--verify", "none"), 3)
        self.assertEqual(self.restored_seq(self.oracle()), 3)


@unittest.skipUnless(os.getuid() == 0, "needs root, to run programs under another uid")
class OtherUser(Case):
    def daemon_as(self, uid, **kw):
        os.makedirs(self.shadow, exist_ok=True)
        os.makedirs(self.replica, exist_ok=True)
        for d in (self.shadow, self.replica):
            os.chown(d, uid, uid)
        os.chmod(self.dir, 0o755)
        return self.daemon(user=uid, group=uid, extra_groups=[], **kw)

    def test_foreign_uid_is_refused(self):
        """Without -wal and -shm there, a foreign uid would own the ones it makes, and lock the application out."""
        self.seed()
        for suffix in ("-wal", "-shm"):
            if os.path.exists(self.db + suffix):
                os.unlink(self.db + suffix)
        os.makedirs(self.shadow, exist_ok=True)
        os.chown(self.shadow, NOBODY, NOBODY)
        os.chmod(self.dir, 0o777)
        os.chmod(self.db, 0o666)
        p = self.daemon(user=NOBODY, group=NOBODY, extra_groups=[])
        refused = self.until("it refuses", lambda: p.poll() is not None or "waiting" in json_state(self))
        self.assertTrue(refused)
        for suffix in ("-wal", "-shm"):
            if os.path.exists(self.db + suffix):
                self.assertEqual(os.stat(self.db + suffix).st_uid, 0, f"{suffix} belongs to a foreign uid")
        db = self.connect()
        db.execute("UPDATE ms_seq SET seq=1")

    def test_root_keeps_the_owner(self):
        os.chmod(self.dir, 0o777)
        self.run_program("ms-loadgen", "--db", self.db, "--scale", "0.05", "--commits", 0, "--json", "/dev/null", user=NOBODY, group=NOBODY, extra_groups=[])
        daemon = self.daemon()
        self.following(daemon)
        for suffix in ("-wal", "-shm"):
            if os.path.exists(self.db + suffix):
                self.assertEqual(os.stat(self.db + suffix).st_uid, NOBODY, suffix)
        self.run_program("ms-loadgen", "--db", self.db, "--commits", 5, "--json", "/dev/null", user=NOBODY, group=NOBODY, extra_groups=[])
        self.oracle_now()
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 5)

    def test_read_only_directory(self):
        os.mkdir(self.path("d"))
        self.db = self.path("d", "app.db")
        self.seed()
        for suffix in ("-wal", "-shm"):
            if os.path.exists(self.db + suffix):
                os.unlink(self.db + suffix)
        os.chmod(self.path("d"), 0o555)
        p = self.daemon_as(NOBODY)
        self.until("it refuses", lambda: p.poll() is not None or "waiting" in json_state(self))
        if p.poll() is not None:
            self.assertEqual(p.returncode, 1)
        self.assertEqual(sorted(os.listdir(self.path("d"))), ["app.db"])


def json_state(case):
    s = case.status()
    return s["state"] if s else ""


if __name__ == "__main__":
    unittest.main()
