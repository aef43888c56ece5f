"""The main job: a live database replicated to a directory and brought back to any commit."""
import errno
import os
import signal
import subprocess
import time
import unittest

from harness import KILLAT, Case, SLOW


class Replicate(Case):
    def test_every_commit_and_200_random_times(self):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        result = self.run_load("--profile", "mixed", "--rate", 60, "--duration", 8)
        self.shipped()
        status = self.status()
        self.stop(daemon)
        oracle = self.oracle()
        found = self.check_every_txid(oracle)
        # Nothing was missed, so every commit has a txid of its own, from the attached state on.
        self.assert_every(found, result["commits"])
        self.assertEqual(status["lostCommits"], 0)
        self.check_random_times(oracle, 200, slack_us=int(1000000 * SLOW))

    def profile(self, *args, seed=()):
        self.seed(*seed)
        daemon = self.daemon()
        self.following(daemon)
        result = self.run_load("--duration", 2.5, *args)
        self.shipped()
        self.stop(daemon)
        oracle = self.oracle()
        self.check_every_txid(oracle, sample=20)
        self.assertEqual(self.restored_seq(oracle), max(oracle.hashes))
        self.assertGreater(result["commits"], 10)

    def test_profile_oltp(self):
        self.profile("--profile", "oltp")

    def test_profile_bulk(self):
        self.profile("--profile", "bulk", "--rate", 40)

    def test_profile_zipf(self):
        self.profile("--profile", "zipf")

    def test_profile_documents(self):
        self.profile("--profile", "documents")

    def test_synchronous_full(self):
        self.profile("--profile", "mixed", "--sync", "full")

    def test_small_wal_resets_all_the_time(self):
        self.profile("--profile", "oltp", "--autocheckpoint", 20)

    def test_autocheckpoint_off(self):
        self.profile("--profile", "oltp", "--autocheckpoint", 0)

    def test_several_processes_and_threads(self):
        # Other workers commit between a worker's commit and its copy, so not every state has an oracle entry.
        self.partial = True
        self.profile("--profile", "mixed", "--processes", 2, "--threads", 2)
        self.assertLess(self.unproven, 15, "too few of 20 restored states could be compared")

    def test_application_without_busy_timeout(self):
        self.profile("--profile", "mixed", "--busy-timeout", 0)

    def test_auto_vacuum_full(self):
        self.profile("--profile", "oltp", "--retain", 50, seed=("--auto-vacuum", "full"))

    def test_auto_vacuum_incremental(self):
        self.profile("--profile", "oltp", "--retain", 50, seed=("--auto-vacuum", "incremental"))

    def test_full_speed_without_oracle_delays(self):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--profile", "oltp", "--duration", 3, oracle=False)
        newest = self.oracle_now()[0]
        self.shipped()
        status = self.status()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), int(newest))
        self.assertEqual(status["lostCommits"], 0, "granularity was lost at full speed")


def page_size_case(size):
    def test(self):
        self.seed("--page-size", size)
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--profile", "mixed", "--commits", 60, "--vacuum-every", 25)
        self.shipped()
        self.stop(daemon)
        oracle = self.oracle()
        self.check_every_txid(oracle, sample=10)
        self.assertEqual(self.restored_seq(oracle), 60)
    return test


for shift in range(9, 17):
    setattr(Replicate, f"test_page_size_{1 << shift}", page_size_case(1 << shift))


class Once(Case):
    def test_once_ships_what_is_there(self):
        self.seed()
        for expected in (0, 7, 7, 20):
            if expected > max(self.oracle().hashes):
                self.run_load("--commits", expected - max(self.oracle().hashes))
            self.ms("replicate", "--once", self.db, self.url)
            self.assertEqual(self.restored_seq(self.oracle()), expected)
        # The blind intervals are advertised as such, and every state that was captured restores.
        found = self.check_every_txid(self.oracle())
        self.assertEqual(sorted(set(found.values())), [0, 7, 20])

    def test_once_fails_when_it_cannot_ship(self):
        self.seed()
        with open(self.replica, "w") as f:
            f.write("a file where the directory should be")
        # Waiting does not mend that: at once, not after shutdownTimeout.
        began = time.monotonic()
        said = self.ms("replicate", "--once", self.db, self.url, rc=1).stderr
        self.assertLess(time.monotonic() - began, 9 * SLOW)
        self.assertRegex(said, "replica cannot be reached.*not a directory")
        os.unlink(self.replica)
        self.ms("replicate", "--once", self.db, self.url)
        self.assertEqual(self.restored_seq(self.oracle()), 0)

    def test_once_gives_up_when_the_time_is_over(self):
        self.seed()
        self.ms("replicate", "--once", self.db, self.url)
        self.run_load("--commits", 3)
        with open(self.path("config.yml"), "w") as f:
            f.write(f"shutdownTimeout: 2s\ndatabases: [{{path: {self.db}, replicas: [{{url: '{self.url}'}}]}}]\n")
        # An error that may pass: tried again until the time is over.
        broken = {"LD_PRELOAD": KILLAT, "MS_FAIL_AT": f"link:0:{errno.EIO}:{self.replica}", "ASAN_OPTIONS": self.asan()}
        began = time.monotonic()
        said = self.ms("replicate", "--once", "-c", self.path("config.yml"), rc=1, env=broken).stderr
        self.assertGreater(time.monotonic() - began, 2)
        self.assertRegex(said, "replica cannot be reached")
        self.assertRegex(said, "only in the local journal")
        self.ms("replicate", "--once", "-c", self.path("config.yml"))
        self.assertEqual(self.restored_seq(self.oracle()), 3)

    def test_once_on_a_missing_database(self):
        self.ms("replicate", "--once", self.path("no-such.db"), self.url, rc=1)


class Exec(Case):
    def command(self, commits):
        return f"{os.path.join(os.path.dirname(self.bin()), 'ms-loadgen')} --db {self.db} --commits {commits} --oracle-log {self.log} --json /dev/null"

    def bin(self):
        from harness import BIN
        return os.path.join(BIN, "x")

    def test_all_commits_of_the_child_are_shipped(self):
        self.seed()
        self.ms("replicate", "--exec", self.command(150), self.db, self.url)
        self.assertEqual(self.restored_seq(self.oracle()), 150)

    def test_exit_code_is_passed_on(self):
        self.seed()
        self.ms("replicate", "--exec", "exit 7", self.db, self.url, rc=7)
        self.ms("replicate", "--exec", "exit 0", self.db, self.url, rc=0)

    def test_signals_are_passed_on(self):
        self.seed()
        marker = self.path("got-term")
        script = f"trap 'touch {marker}; exit 5' TERM; touch {self.path('ready')}; while :; do sleep 0.05; done"
        p = self.daemon("--exec", script, self.db, self.url)
        self.until("the child runs", lambda: os.path.exists(self.path("ready")))
        self.stop(p, rc=5)
        self.assertTrue(os.path.exists(marker))


class Local(Case):
    def test_without_url_a_local_replica_is_kept(self):
        self.seed()
        daemon = self.daemon(self.db)
        self.following(daemon)
        self.run_load("--commits", 80, "--rate", 100)
        self.shipped()
        said = self.daemon_log()
        self.stop(daemon)
        self.assertIn(self.shadow, said, "it does not say where the local replica is")
        out = self.path("out.db")
        self.restore(out, "--shadow", self.shadow, url="", rc=(0, 2))
        if not os.path.exists(out):
            # The local replica is an ordinary one, so it can be named by URL too.
            heads = [d for d, dirs, _ in os.walk(self.shadow) if "head" in dirs]
            self.assertEqual(len(heads), 1, "no replica layout below the shadow directory")
            self.restore(out, url="file://" + heads[0])
        self.assertEqual(self.check_file(out, self.oracle()), 80)

    def test_shadow_adds_what_was_not_shipped(self):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 30, "--rate", 100)
        self.shipped()
        os.rename(self.replica, self.replica + ".gone")
        with open(self.replica, "w"):
            pass
        self.run_load("--commits", 30, "--rate", 100)
        self.until("the last commit is in the journal", lambda: (self.status() or {}).get("journalledTxid", 0) >= 61)
        self.kill9(daemon)
        os.unlink(self.replica)
        os.rename(self.replica + ".gone", self.replica)
        oracle = self.oracle()
        self.assertEqual(self.restored_seq(oracle), 30)
        self.assertEqual(self.restored_seq(oracle, "--shadow", self.shadow), 60)


class Stop(Case):
    def test_sigterm_ships_what_is_pending(self):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        load = self.load("--rate", 200, "--duration", 3)
        load.wait()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), max(self.oracle().hashes))

    def test_sigint_too(self):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 20)
        self.stop(daemon, sig=signal.SIGINT)
        self.assertEqual(self.restored_seq(self.oracle()), 20)

    def test_sigterm_with_a_dead_replica_ends_in_time(self):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.shipped()
        os.rename(self.replica, self.replica + ".gone")
        with open(self.replica, "w"):
            pass
        self.run_load("--commits", 20)
        daemon.send_signal(signal.SIGTERM)
        try:
            rc = daemon.wait(14 * SLOW)
        except subprocess.TimeoutExpired:
            self.fail("SIGTERM did not end the daemon in 14 s")
        self.assertEqual(rc, 0)
        self.assertRegex(self.daemon_log().strip().splitlines()[-1], r"\d", "the last line does not say how much is left")


if __name__ == "__main__":
    unittest.main()
