"""The installed library: headers, pkg-config and CMake packages, a backend and an engine from outside, and what the engine's history restores to.

The oracle is the engine's own copy of its file at each transaction; a restored file names its transaction in page 1.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
OUTSIDE = os.path.join(HERE, "outside")
BUILD = os.environ["MS_BUILD_DIR"]
CC = os.environ.get("CC", "cc")
SANITIZE = os.environ.get("MS_SANITIZE", "")
SLOW = float(os.environ.get("MS_SLOW", "1"))


class Failed(Exception):
    pass


def need(ok, what):
    if not ok:
        raise Failed(what)


class Bench:
    def __init__(self, top):
        self.top, self.prefix = top, os.path.join(top, "usr")
        self.env = {**os.environ, "HOME": top}
        self.env.pop("MIGSTREAM_SHADOW", None)
        self.env.pop("MIGSTREAM_CONFIG", None)

    def run(self, *args, rc=0, cwd=None):
        p = subprocess.run([str(a) for a in args], env=self.env, cwd=cwd or self.top, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True, timeout=120 * SLOW)
        need(p.returncode in (rc if isinstance(rc, tuple) else (rc,)), f"exit {p.returncode} of {' '.join(map(str, args))}\n{p.stdout[-1500:]}\n{p.stderr[-3000:]}")
        return p.stdout

    def path(self, *names):
        return os.path.join(self.top, *names)

    # ---- building ----

    def install(self):
        self.run("cmake", "--install", BUILD, "--prefix", self.prefix)
        found = {}
        for d, _, files in os.walk(self.prefix):
            for f in files:
                found[f] = os.path.join(d, f)
        for f in ("migstream", "migrestore", "libmigstream.a", "libmigstream.so", "migstream.pc", "migstream-config.cmake", "replica.h", "push.h", "observer.h",
                  "journal.h", "programs.h"):
            need(f in found, f + " is not installed")
        # Somewhere else than it was installed to, as a package is.
        moved = self.path("moved")
        os.rename(self.prefix, moved)
        self.prefix = moved
        self.libdir = os.path.dirname(found["libmigstream.so"]).replace(self.path("usr"), moved)
        self.env["PKG_CONFIG_PATH"] = os.path.join(self.libdir, "pkgconfig")
        self.env["LD_LIBRARY_PATH"] = self.libdir
        self.restore_program = os.path.join(moved, "bin", "migrestore")
        self.ms = os.path.join(moved, "bin", "migstream")

    def flags(self, *args, package="migstream"):
        return self.run("pkg-config", *args, package).split()

    def headers(self):
        """Each alone, from the installed tree alone, in C17 and as seen by a C11 program."""
        root = os.path.join(self.prefix, "include", "migstream")
        n = 0
        for d, _, files in os.walk(root):
            for f in files:
                for std in ("c11", "c17"):
                    self.run(CC, "-std=" + std, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c", *self.flags("--cflags"), os.path.join(d, f))
                n += 1
        need(n >= 9, f"only {n} headers")

    def compile(self, name, *sources, static=False):
        out = self.path(name)
        cflags = ["-std=c17", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *self.flags("--cflags")]
        if SANITIZE:
            cflags += ["-fsanitize=" + SANITIZE, "-fno-sanitize-recover=all"]
        libs = self.flags("--libs", package="migstream-static" if static else "migstream")
        self.run(CC, *cflags, *(os.path.join(OUTSIDE, s) for s in sources), "-o", out, *libs)
        shared = "libmigstream.so" in self.run("ldd", out)
        need(shared != static, f"{name}: linked {'shared' if shared else 'statically'}")
        return out

    # ---- the engine ----

    def engine_txid(self, path):
        with open(path, "rb") as f:
            page = f.read(20)
        need(page[:4] == b"TOY1", path + " is no toy")
        return int.from_bytes(page[8:16], "little")

    def same(self, path):
        """Equal to the engine's copy of the transaction that it names; which one."""
        n = self.engine_txid(path)
        with open(path, "rb") as a, open(self.path("db", "copies", str(n)), "rb") as b:
            need(a.read() == b.read(), f"{path} differs from the copy of transaction {n}")
        return n

    def restorable(self, url):
        found = []
        for g in json.loads(self.run(self.ms, "list", "--json", url))["generations"]:
            for r in g["restorable"]:
                found += [(g["id"], t) for t in range(r["fromTxid"], r["toTxid"] + 1)]
        return found

    def restored(self, url, *args, program=None):
        out = self.path("out.db")
        self.run(program or self.restore_program, "--quiet", "--force", "-o", out, *args, url)
        return self.same(out)

    def engine(self, program, *args):
        words = self.run(program, self.path("db"), *args).split()
        return dict(zip(words[::2], words[1::2]))


def check_points(b, url, points, program=None):
    """{(generation, txid): transaction}, in order."""
    found = {p: b.restored(url, "--generation", p[0], "--txid", p[1], program=program) for p in points}
    for g in {p[0] for p in points}:
        order = [found[p] for p in sorted(points) if p[0] == g]
        need(order == sorted(order), f"points of {g} are out of order")
    return found


def main():
    seed = int(os.environ.get("MS_SEED") or time.time())
    print("seed", seed)
    rnd = random.Random(seed)
    top = tempfile.mkdtemp(prefix="ms-install-")
    b = Bench(top)
    try:
        b.install()
        b.headers()
        os.mkdir(b.path("db"))
        engine = b.compile("engine", "engine.c", "flat.c")
        static = b.compile("engine-static", "engine.c", "flat.c", static=True)
        restore = b.compile("restore", "restore.c", "flat.c")
        print("built with pkg-config, shared and static")
        if not SANITIZE:
            b.run("cmake", "-S", OUTSIDE, "-B", b.path("cmake"), "-DCMAKE_PREFIX_PATH=" + b.prefix)
            b.run("cmake", "--build", b.path("cmake"))
            engine = b.path("cmake", "engine")
            print("built with find_package")

        url, flat, shadow = "file://" + b.path("rep"), "flat://" + b.path("flat"), b.path("shadow")
        a = b.engine(engine, "run", shadow, seed, 400, url, flat)
        need(a == {"attached": "1", "committed": "401", "unshipped": "0"}, f"first run: {a}")
        points = b.restorable(url)
        first = points[0][1]  # where the first snapshot ended
        need(first < 200 and [t for _, t in points] == list(range(first, 402)), f"not every flush is a point of its own: {first} to {points[-1][1]}")
        found = check_points(b, url, [points[0], points[-1], *rnd.sample(points, 30)])
        for (_, txid), n in found.items():
            need(n == txid, f"txid {txid} is transaction {n}")
        check_points(b, flat, [points[-1], *rnd.sample(points[200:], 5)], program=restore)
        b.run(b.restore_program, "-o", b.path("no.db"), flat, rc=2)  # the plain program does not know this backend
        print("400 transactions, each restorable, from both replicas")

        # A restart with nothing in between goes on where it stood; the static library does the same.
        a = b.engine(static, "run", shadow, seed + 1, 100, url, flat)
        need(a == {"attached": "401", "committed": "501", "unshipped": "0"}, f"second run: {a}")
        # A blind interval is one transaction, whatever happened in it.
        b.engine(engine, "blind", seed + 2, 37)
        a = b.engine(engine, "run", shadow, seed + 3, 60, url, flat)
        need(a == {"attached": "502", "committed": "562", "unshipped": "0"}, f"run after a blind interval: {a}")
        points = b.restorable(url)
        need(len({g for g, _ in points}) == 1 and len(points) == 563 - first, f"{len(points)} points")
        g = points[0][0]
        found = check_points(b, url, [(g, 401), (g, 501), (g, 502), (g, 503), (g, 562), *rnd.sample(points, 25)])
        need((found[g, 501], found[g, 502], found[g, 503]) == (501, 538, 539), f"around the blind interval: {found[g, 501]}, {found[g, 502]}, {found[g, 503]}")
        need(b.restored(url) == b.engine_txid(b.path("db", "toy.db")) == 598, "the newest state")
        need(b.restored(flat, program=restore) == 598, "the newest state from outside")
        print("restart and blind interval")

        # Killed at any moment: every transaction that was acknowledged is there afterwards.
        for i in range(4):
            p = subprocess.Popen([engine, b.path("db"), "run", shadow, str(seed + 10 + i), "100000", url, flat], env=b.env, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, cwd=top)
            p.stdout.readline()
            time.sleep((0.2 + rnd.random()) * SLOW)
            p.send_signal(signal.SIGKILL)
            p.wait()
            p.stdout.close()
            a = b.engine(engine, "run", shadow, seed + 20 + i, 5, url, flat)
            need(a["unshipped"] == "0", f"after a kill: {a}")
            need(b.restored(url) == b.engine_txid(b.path("db", "toy.db")), "the newest state after a kill")
        points = b.restorable(url)
        check_points(b, url, rnd.sample(points, 25))
        print("killed 4 times,", len(points), "points")

        # Under the observer's control socket the programs see it as they see a daemon.
        p = subprocess.Popen([engine, b.path("db"), "run", shadow, str(seed + 30), "100000", url, flat], env=b.env, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, cwd=top)
        p.stdout.readline()
        socket = os.path.join(shadow, "control.sock")
        s = json.loads(b.run(b.ms, "status", "--json", "--socket", socket))
        need(s["running"] and s["databases"][0]["state"] in ("following", "seeding"), f"status: {s['databases'][0]['state']}")
        b.run(b.ms, "wait", "--socket", socket, "--timeout", "30s", "toy.db")
        # The engine ends at its first failed flush, perhaps before the request is answered.
        b.run(b.ms, "pause", "--socket", socket, "toy.db", rc=(0, 1))
        need(p.wait(30 * SLOW) == 1, "a flush of a paused database succeeded")
        p.stdout.close()
        a = b.engine(engine, "run", shadow, seed + 31, 5, url, flat)
        need(b.restored(url) == b.engine_txid(b.path("db", "toy.db")), "the newest state after a pause")

        need(b.run(engine, b.path("db"), "misuse", b.path("shadow2")) == "refused\n", "misuse")
        print("ok")
        return 0
    except Failed as e:
        print("FAILED:", e)
        return 1
    finally:
        if os.environ.get("MS_E2E_KEEP"):
            print("kept", top)
        else:
            shutil.rmtree(top, ignore_errors=True)


sys.exit(main())
