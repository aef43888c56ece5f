"""Second, stale, copied and rolled-back writers: none may damage newer state, and each says so."""
import os
import shutil
import signal
import time
import unittest

from harness import Case, SLOW


class Fencing(Case):
    def other(self):
        """Another host with its own database and shadow directory, on the same replica."""
        other = self.path("other")
        os.mkdir(other)
        db = os.path.join(other, "app.db")
        self.run_program("ms-loadgen", "--db", db, "--scale", "0.04", "--seed", 3, "--commits", 5, "--json", "/dev/null")
        return db, os.path.join(other, "shadow")

    def first(self, commits=20):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", commits, "--rate", 200)
        self.shipped()
        return daemon

    def test_second_daemon_on_the_same_shadow_directory(self):
        daemon = self.first(5)
        p = self.ms("replicate", self.db, self.url, rc=1)
        self.assertIn(str(daemon.pid), p.stderr + p.stdout, "the daemon that holds the directory is not named")
        self.run_load("--commits", 5, "--rate", 200)
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 10)

    def test_another_owner_is_refused(self):
        daemon = self.first()
        db, shadow = self.other()
        before = self.objects()
        p = self.ms("replicate", "--once", db, self.url, rc=4, env={"MIGSTREAM_SHADOW": shadow})
        self.assertIn("takeover", p.stderr, "it does not say what to type")
        self.assertEqual([o for o in self.objects() if o in before], before)
        self.run_load("--commits", 10, "--rate", 200)
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 30)

    def test_another_owner_is_refused_while_none_runs(self):
        daemon = self.first()
        self.stop(daemon)
        db, shadow = self.other()
        self.ms("replicate", "--once", db, self.url, rc=4, env={"MIGSTREAM_SHADOW": shadow})
        p = self.daemon(db, self.url, shadow=shadow, log="daemon2.log")
        self.assertEqual(p.wait(20 * SLOW), 4, "with no database left to follow the daemon must exit 4")
        self.assertEqual(self.restored_seq(self.oracle()), 20)

    def test_takeover_fences_the_old_owner(self):
        daemon = self.first()
        # The new owner continues from an equal copy of the same database, on another machine.
        other = self.path("other")
        os.mkdir(other)
        db2 = os.path.join(other, "app.db")
        c = self.connect()
        c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(self.db, db2)
        env = {"MIGSTREAM_SHADOW": os.path.join(other, "shadow")}
        self.ms("replicate", "--once", "--takeover", db2, self.url, env=env)
        # The old owner notices at its next upload, and stops.
        self.run_load("--commits", 10, "--rate", 200, oracle=False)
        self.assertEqual(daemon.wait(20 * SLOW), 4)
        self.assertIn("fenced", self.daemon_log().lower())
        self.oracle_now(db2)
        oracle = self.oracle()
        self.assertEqual(self.restored_seq(oracle), 20)
        # The new owner goes on; everything from before stays restorable.
        self.db = db2
        self.run_load("--commits", 10, "--rate", 200, "--seed", 4)
        self.ms("replicate", "--once", db2, self.url, env=env)
        oracle = self.oracle()
        self.assertEqual(self.restored_seq(oracle), 30)
        self.check_every_txid(oracle)

    def test_the_old_owner_does_not_come_back_by_itself(self):
        daemon = self.first()
        db, shadow = self.other()
        self.ms("replicate", "--once", "--takeover", db, self.url, env={"MIGSTREAM_SHADOW": shadow})
        self.run_load("--commits", 3, "--rate", 100, oracle=False)
        self.assertEqual(daemon.wait(20 * SLOW), 4)
        self.ms("replicate", "--once", self.db, self.url, rc=4)
        self.oracle_now(db)
        self.assertEqual(self.restored_seq(self.oracle()), 5)

    def test_resumed_copy_of_a_stopped_process(self):
        """A machine is suspended, its disk is copied, the copy goes on, and then the original is resumed."""
        daemon = self.first()
        daemon.send_signal(signal.SIGSTOP)
        copy = self.path("copy")
        os.mkdir(copy)
        for name in ("app.db", "app.db-wal"):
            if os.path.exists(self.path(name)):
                shutil.copy(self.path(name), os.path.join(copy, name))
        shutil.copytree(self.shadow, os.path.join(copy, "shadow"), ignore=lambda d, names: [n for n in names if n.endswith(".sock")])
        original_db, self.db = self.db, os.path.join(copy, "app.db")
        env = {"MIGSTREAM_SHADOW": os.path.join(copy, "shadow")}
        self.run_load("--commits", 10, "--rate", 200, "--seed", 8)
        self.ms("replicate", "--once", self.db, self.url, env=env)
        oracle = self.oracle()
        self.assertEqual(self.restored_seq(oracle), 30)
        kept = {o: open(os.path.join(self.replica, o), "rb").read() for o in self.objects()}
        # Now the original wakes up and its application commits.
        self.db = original_db
        daemon.send_signal(signal.SIGCONT)
        self.run_load("--commits", 10, "--rate", 100, "--seed", 9, oracle=False)
        self.assertEqual(daemon.wait(20 * SLOW), 4)
        for o, data in kept.items():
            self.assertEqual(open(os.path.join(self.replica, o), "rb").read(), data, f"{o} was changed")
        self.assertEqual(self.restored_seq(oracle), 30)
        self.check_every_txid(oracle)

    def test_restored_stale_shadow_directory(self):
        """The shadow directory is put back from an old backup, while database and replica went on."""
        daemon = self.first()
        self.stop(daemon)
        shutil.copytree(self.shadow, self.path("backup"))
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 30, "--rate", 200)
        self.shipped()
        self.stop(daemon)
        shutil.rmtree(self.shadow)
        shutil.copytree(self.path("backup"), self.shadow)
        kept = {o: open(os.path.join(self.replica, o), "rb").read() for o in self.objects()}
        p = self.ms("replicate", "--once", self.db, self.url, rc=(0, 4))
        for o, data in kept.items():
            self.assertEqual(open(os.path.join(self.replica, o), "rb").read(), data, f"{o} was changed")
        oracle = self.oracle()
        if p.returncode == 4:
            self.assertIn("takeover", p.stderr)
            self.assertEqual(self.restored_seq(oracle), 50)
            self.ms("replicate", "--once", "--takeover", self.db, self.url)
        self.assertEqual(self.restored_seq(oracle), 50)
        self.check_every_txid(oracle)

    def test_lost_shadow_directory(self):
        daemon = self.first()
        self.stop(daemon)
        shutil.rmtree(self.shadow)
        p = self.ms("replicate", "--once", self.db, self.url, rc=(0, 4))
        oracle = self.oracle()
        self.assertEqual(self.restored_seq(oracle), 20)
        if p.returncode == 4:
            self.ms("replicate", "--once", "--takeover", self.db, self.url)
        self.run_load("--commits", 10, "--rate", 200)
        self.ms("replicate", "--once", self.db, self.url)
        self.assertEqual(self.restored_seq(self.oracle()), 30)
        self.check_every_txid(self.oracle())

    def test_two_daemons_race_for_an_empty_replica(self):
        self.seed()
        db, shadow = self.other()
        a = self.daemon()
        b = self.daemon(db, self.url, shadow=shadow, log="daemon2.log")
        self.until("one of them gives up", lambda: a.poll() is not None or b.poll() is not None, timeout=60)
        time.sleep(0.5)
        loser, winner = (a, b) if a.poll() is not None else (b, a)
        self.assertEqual(loser.returncode, 4)
        self.assertIsNone(winner.poll(), "both gave up")
        self.stop(winner)
        self.oracle_now(db)
        self.restored_seq(self.oracle())


if __name__ == "__main__":
    unittest.main()
