"""Damaged, missing and hostile artefacts: always noticed, exit 3, the target untouched."""
import os
import shutil
import unittest

from harness import Case, sha256

FLIPS = int(os.environ.get("MS_FLIPS", "12"))


class Damage(Case):
    def replicate(self, *seed):
        self.seed(*seed)
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--profile", "mixed", "--commits", 40, "--rate", 40)
        self.shipped()
        self.ms("snapshot", self.db)
        self.run_load("--commits", 10, "--rate", 20)
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 50)

    def target(self):
        path = self.path("target.db")
        with open(path, "wb") as f:
            f.write(b"precious" * 100)
        return path, sha256(path)

    def refused(self, *args, url=None, rc=3):
        """With --force onto an existing file: exit 3 and nothing touched, nothing left."""
        path, before = self.target()
        p = self.restore(path, "--force", *args, url=url, rc=rc)
        self.assertEqual(sha256(path), before, "the target was touched")
        self.assertEqual([n for n in os.listdir(self.dir) if n.startswith("target.db") and n != "target.db"], [], "leftovers")
        self.assertTrue(p.stderr.strip(), "no explanation")
        self.assertLessEqual(len(p.stderr.strip().splitlines()), 4)
        return p

    def generations(self):
        return self.ms_json("list", self.url)["generations"]

    def flips(self, part, restore_args):
        names = self.objects(part)
        self.assertTrue(names, f"no object holds {part}")
        for i in range(FLIPS):
            name = names[i % len(names)] if i < len(names) else self.random.choice(names)
            args = restore_args(name)
            at, bit, undo = self.disturb(os.path.join(self.replica, name))
            with self.subTest(object=name, byte=at, bit=bit):
                if args is not None:
                    self.refused(*args)
                self.ms("verify", self.url, rc=3)
            undo()
        self.assertEqual(self.restored_seq(self.oracle()), 50)
        self.ms("verify", self.url)

    def test_segments(self):
        self.replicate()
        # The state right before the second snapshot needs every segment up to there.
        snaps = sorted(s["txid"] for g in self.generations() for s in g["snapshots"])
        upto = snaps[1] - 1 if len(snaps) > 1 else snaps[0]

        def args(name):
            first = int(os.path.basename(name)[:16], 16)
            return ("--txid", upto) if first <= upto else ()
        self.flips("/segments/", args)

    def test_snapshots(self):
        self.replicate()

        def args(name):
            return ("--txid", int(os.path.basename(name)[:16], 16))
        self.flips("/snapshots/", args)

    def test_chunks(self):
        self.replicate("--size", "9M")
        if not self.objects("/chunks/"):
            self.skipTest("a 9 MiB database lies in its manifest: no chunk objects")
        points = sorted({s["txid"] for g in self.generations() for s in g["snapshots"]})
        refused = 0
        for name in self.objects("/chunks/") * 3:
            at, bit, undo = self.disturb(os.path.join(self.replica, name))
            with self.subTest(object=name, byte=at, bit=bit):
                for txid in points:
                    # A chunk may belong to one snapshot only, or to an attempt that was given up: then the restore must be right.
                    path, before = self.target()
                    if self.restore(path, "--force", "--txid", txid, rc=(0, 3)).returncode == 3:
                        refused += 1
                        self.assertEqual(sha256(path), before, "the target was touched")
                        self.ms("verify", "--deep", self.url, rc=3, timeout=120)
                    else:
                        self.check_file(path, self.oracle())
            undo()
        self.assertGreaterEqual(refused, 3 * len(points), "damaged chunks were not noticed")

    def test_heads(self):
        self.replicate()
        newest = self.objects("head/")[-1]

        def args(name):
            return () if name == newest else None
        self.flips("head/", args)

    def test_journal(self):
        """A flipped bit in the journal never becomes wrong data: quarantined, and what is lost is caught up."""
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.shipped()
        os.rename(self.replica, self.replica + ".gone")
        open(self.replica, "w").close()
        self.run_load("--commits", 40, "--rate", 200)
        self.until("all is in the journal", lambda: (self.status() or {}).get("journalledTxid", 0) >= 41)
        self.kill9(daemon)
        os.unlink(self.replica)
        os.rename(self.replica + ".gone", self.replica)
        shutil.copytree(self.shadow, self.path("shadow.good"), ignore=lambda d, names: [n for n in names if n.endswith(".sock")])
        shutil.copytree(self.replica, self.path("replica.good"))
        for i in range(FLIPS):
            for d in ("shadow", "replica"):
                shutil.rmtree(self.path(d))
                shutil.copytree(self.path(d + ".good"), self.path(d))
            files = [f for f in self.objects("", self.shadow) if "journal" in f and os.path.getsize(os.path.join(self.shadow, f)) > 1000]
            self.assertTrue(files, "no journal file found")
            name = self.random.choice(files)
            at, bit, _ = self.disturb(os.path.join(self.shadow, name))
            with self.subTest(file=name, byte=at, bit=bit):
                self.ms("replicate", "--once", self.db, self.url)
                oracle = self.oracle()
                self.assertEqual(self.restored_seq(oracle), 40)
                self.check_every_txid(oracle, sample=12)

    def test_page_sums_and_cursors(self):
        """State of the shadow directory besides the journal: damage costs work or is refused, never a wrong restore."""
        self.seed()
        self.ms("replicate", "--once", self.db, self.url)
        self.run_load("--commits", 10)
        self.ms("replicate", "--once", self.db, self.url)
        for d in ("shadow", "replica"):
            shutil.copytree(self.path(d), self.path(d + ".good"), ignore=lambda _, names: [n for n in names if n.endswith(".sock")])
        self.run_load("--commits", 10)
        names = [f for f in self.objects("", self.path("shadow.good")) if os.path.getsize(os.path.join(self.path("shadow.good"), f)) > 0]
        for name in names:
            for _ in range(3):
                for d in ("shadow", "replica"):
                    shutil.rmtree(self.path(d))
                    shutil.copytree(self.path(d + ".good"), self.path(d))
                at, bit, _ = self.disturb(os.path.join(self.shadow, name))
                with self.subTest(file=name, byte=at, bit=bit):
                    p = self.ms("replicate", "--once", self.db, self.url, rc=(0, 1, 4))
                    oracle = self.oracle()
                    seq = self.restored_seq(oracle)
                    self.assertEqual(seq, 20 if p.returncode == 0 else 10 if seq == 10 else 20)
                    if p.returncode:
                        self.assertTrue(p.stderr.strip())

    def test_missing_middle_segment(self):
        self.replicate()
        snaps = sorted(s["txid"] for g in self.generations() for s in g["snapshots"])
        segments = [s for s in self.objects("/segments/")]
        numbers = [int(os.path.basename(s)[:16], 16) for s in segments]
        middle = [(s, n) for s, n in zip(segments, numbers) if n > snaps[0] and (len(snaps) == 1 or n < snaps[1])]
        self.assertTrue(middle, "no segment lies between the snapshots")
        name, first = middle[len(middle) // 2]
        upto = snaps[1] - 1 if len(snaps) > 1 else max(numbers)
        os.rename(os.path.join(self.replica, name), self.path("taken"))
        p = self.refused("--txid", upto)
        self.assertIn(str(first), p.stderr, "the missing txid is not named")
        out = self.path("gap.db")
        self.restore(out, "--txid", upto, "--stop-at-gap")
        seq = self.check_file(out, self.oracle())
        self.assertLess(seq, 50)
        self.ms("verify", self.url, rc=3)
        # What is advertised now still restores, and the missing stretch is not advertised.
        for g, a, b, *_ in self.restorable():
            self.assertFalse(a <= first <= b)
        self.check_every_txid(self.oracle(), sample=30)

    def test_truncated_and_foreign_objects(self):
        self.replicate()
        for part in ("/segments/", "/snapshots/", "head/"):
            name = self.objects(part)[-1]
            path = os.path.join(self.replica, name)
            data = open(path, "rb").read()
            os.chmod(path, 0o600)
            for size in (0, 1, len(data) // 2, len(data) - 1):
                with self.subTest(object=name, size=size):
                    with open(path, "wb") as f:
                        f.write(data[:size])
                    self.ms("verify", self.url, rc=3)
            with self.subTest(object=name, size="one more byte"):
                with open(path, "wb") as f:
                    f.write(data + b"\0")
                self.ms("verify", self.url, rc=3)
            with open(path, "wb") as f:
                f.write(data)
        # Names that are not ours are no damage.
        for name in ("README", "head/zzz", "head/00000001.tmp", "lost+found"):
            with open(os.path.join(self.replica, name), "w") as f:
                f.write("not ours")
        self.ms("verify", self.url)
        self.assertEqual(self.restored_seq(self.oracle()), 50)

    def test_swapped_segments(self):
        self.replicate()
        a, b = self.objects("/segments/")[:2]
        a, b = os.path.join(self.replica, a), os.path.join(self.replica, b)
        os.rename(a, self.path("x"))
        os.rename(b, a)
        os.rename(self.path("x"), b)
        self.ms("verify", self.url, rc=3)

    def test_segment_of_another_history(self):
        """A segment with the same name from a different database passes no check of the chain."""
        self.replicate()
        os.mkdir(self.path("o"))
        other, db = "file://" + self.path("o", "replica"), self.path("o", "app.db")
        self.run_program("ms-loadgen", "--db", db, "--scale", "0.05", "--seed", 8, "--commits", 0, "--json", "/dev/null")
        env = {"MIGSTREAM_SHADOW": self.path("o", "shadow")}
        for _ in range(3):
            self.ms("replicate", "--once", db, other, env=env)
            self.run_program("ms-loadgen", "--db", db, "--commits", 1, "--json", "/dev/null")
        theirs = self.objects("/segments/", self.path("o", "replica"))[0]
        ours = [s for s in self.objects("/segments/") if os.path.basename(s) == os.path.basename(theirs)]
        self.assertTrue(ours, "no segment of the same name")
        path = os.path.join(self.replica, ours[0])
        os.chmod(path, 0o600)
        shutil.copyfile(self.path("o", "replica", theirs), path)
        snaps = sorted(s["txid"] for g in self.generations() for s in g["snapshots"])
        self.refused("--txid", snaps[1] - 1 if len(snaps) > 1 else 30)
        self.ms("verify", self.url, rc=3)

    def test_nothing_there(self):
        os.mkdir(self.replica)
        self.refused()
        self.refused(url="file://" + self.path("no-such-dir"), rc=1)
        self.replicate_small()
        self.refused("--txid", 999999)
        self.refused("--timestamp", "2001-01-01T00:00:00Z")
        self.refused("--generation", "00000009-deadbeef")

    def replicate_small(self):
        self.seed()
        self.ms("replicate", "--once", self.db, self.url)

    def test_rolled_back_replica_is_noticed(self):
        """The newest objects vanish after they were confirmed: exit 3 unless the loss is accepted, and the daemon sends them again."""
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 20, "--rate", 20)
        self.shipped()
        self.stop(daemon)
        for name in self.objects("/segments/")[-1:]:
            os.unlink(os.path.join(self.replica, name))
        daemon = self.daemon()
        self.following(daemon)
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 20)
        self.check_every_txid(self.oracle())

    def test_wiped_replica_is_seeded_again(self):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 20, "--rate", 100)
        self.shipped()
        self.stop(daemon)
        # Everything in it: a directory that is gone as a whole may only be unmounted, and is waited for.
        for name in os.listdir(self.replica):
            if not name.startswith("."):
                shutil.rmtree(os.path.join(self.replica, name))
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 5, "--rate", 100)
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 25)


if __name__ == "__main__":
    unittest.main()
