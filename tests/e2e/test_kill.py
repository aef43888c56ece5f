"""kill -9 of the daemon at random moments and at every named step; afterwards every advertised point is still exact."""
import os
import subprocess
import time
import unittest

from harness import Case, KILLAT, QUICK, SLOW

KILLS = int(os.environ.get("MS_KILLS", "50"))


class RandomKills(Case):
    def test_random_moments(self):
        self.seed()
        load = self.load("--profile", "mixed", "--rate", 50, "--duration", 100000, "--autocheckpoint", 100)
        started = 0
        for i in range(KILLS):
            daemon = self.daemon()
            # Mostly within the first moments of a start, sometimes long enough to ship and snapshot.
            time.sleep(self.random.choice([0.02, 0.1, 0.3, 0.6, 1.2]) * self.random.random() * SLOW)
            if daemon.poll() is not None:
                self.fail(f"kill {i}: the daemon ended by itself with {daemon.returncode}")
            self.kill9(daemon)
            started += 1
            self.assertIsNone(load.poll(), "the load ended")
            if i % 10 == 9 and self.restorable_or_none():
                # A killed daemon leaves a replica from which its newest point restores.
                self.restored_seq_when_logged()
        self.assertEqual(started, KILLS)
        daemon = self.daemon()
        self.following(daemon, timeout=60)
        time.sleep(1)
        load.terminate()
        load.wait()
        newest = int(self.oracle_now()[0])
        self.shipped()
        self.stop(daemon)
        oracle = self.oracle()
        self.check_every_txid(oracle)
        self.check_random_times(oracle, 200)
        self.assertEqual(self.restored_seq(oracle), newest)
        self.ms("verify", self.url, timeout=300)

    def restorable_or_none(self):
        p = self.ms("list", self.url, "--json", rc=(0, 1, 3))  # 1: not even the directory is there yet
        return p.returncode == 0 and self.restorable()

    def restored_seq_when_logged(self):
        """The oracle logs a commit some milliseconds after it; wait for that line instead of failing."""
        out = self.path("mid.db")
        self.restore(out, "--force")
        from harness import seq_of
        seq = seq_of(out)
        self.until(f"the oracle's line for commit {seq}", lambda: seq in self.oracle().hashes)
        self.check_file(out, self.oracle())
        os.unlink(out)


CALLS = ("fsync", "fdatasync", "link", "rename", "unlink", "ftruncate", "mkdir", "pwrite", "write")


class Steps(Case):
    """Each step is one system call that makes something durable or visible, ended before and after it."""

    def one_step(self, step, oracle_rate=80):
        daemon = self.daemon(env={"LD_PRELOAD": KILLAT, "MS_KILL_AT": step, "ASAN_OPTIONS": self.asan()})
        try:
            rc = daemon.wait(2.5 * SLOW)
        except subprocess.TimeoutExpired:
            self.kill9(daemon)
            return False
        self.assertEqual(rc, -9, f"{step}: the daemon ended with {rc}")
        return True

    def test_each_step_of_a_run(self):
        self.seed()
        load = self.load("--profile", "mixed", "--rate", 40, "--duration", 100000, "--autocheckpoint", 100)
        # Which calls a run makes is the implementation's affair: one run tells.
        calls = self.path("calls")
        probe = self.daemon(env={"LD_PRELOAD": KILLAT, "MS_CALL_LOG": calls, "ASAN_OPTIONS": self.asan()})
        time.sleep(2 * SLOW)
        self.kill9(probe)
        with open(calls) as f:
            made = [line.split()[0] for line in f]
        steps = [f"{c}:{n}:{when}" for c in CALLS for n in ((2, 8) if QUICK else (1, 2, 3, 5, 8, 13, 21)) if n <= made.count(c) for when in ("before", "after")]
        self.assertLessEqual({"fsync", "fdatasync", "link"}, {s.split(":")[0] for s in steps})
        reached = [s for s in steps if self.one_step(s)]
        self.assertGreater(len(reached), len(steps) * 0.6, f"only {reached} of {steps} were reached")
        daemon = self.daemon()
        self.following(daemon, timeout=60)
        load.terminate()
        load.wait()
        newest = int(self.oracle_now()[0])
        self.shipped()
        self.stop(daemon)
        oracle = self.oracle()
        self.check_every_txid(oracle, sample=300)
        self.assertEqual(self.restored_seq(oracle), newest)
        self.ms("verify", self.url, timeout=300)

    def test_first_steps_with_an_empty_shadow_and_replica(self):
        self.seed()
        reached = 0
        for call in ("fsync", "fdatasync", "link", "rename", "mkdir"):
            for n in ((1, 4) if QUICK else (1, 2, 3, 4, 6, 9)):
                for d in (self.shadow, self.replica):
                    subprocess.run(["rm", "-rf", d], check=True)
                if not self.one_step(f"{call}:{n}:before"):
                    break
                reached += 1
                self.ms("replicate", "--once", self.db, self.url)
                self.assertEqual(self.restored_seq(self.oracle()), 0)
        self.assertGreater(reached, 4 if QUICK else 10)

    def test_errors_of_calls_are_survived(self):
        """ENOSPC and EIO, once, at early calls in the shadow directory: reported, and nothing is lost in the end."""
        for error in (28,) if QUICK else (28, 5):
            for call in ("fdatasync", "pwrite", "write", "fsync"):
                with self.subTest(call=call, error=error):
                    for d in (self.shadow, self.replica, self.log, self.db, self.db + "-wal", self.db + "-shm"):
                        subprocess.run(["rm", "-rf", d], check=True)
                    self.seed()
                    daemon = self.daemon(env={"LD_PRELOAD": KILLAT, "MS_FAIL_AT": f"{call}:6:{error}:{self.shadow}", "ASAN_OPTIONS": self.asan()})
                    self.run_load("--commits", 40, "--rate", 60)
                    time.sleep(0.5)
                    if daemon.poll() is None:
                        self.kill9(daemon)
                    else:
                        self.assertNotEqual(daemon.returncode, 0, "it ended with success although a call failed")
                        self.assertGreater(daemon.returncode, 0, "it crashed")
                    self.ms("replicate", "--once", self.db, self.url)
                    oracle = self.oracle()
                    self.assertEqual(self.restored_seq(oracle), 40)
                    self.check_every_txid(oracle, sample=10)


if __name__ == "__main__":
    unittest.main()
