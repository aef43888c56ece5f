"""What the soaks share: programs, oracle, moments."""
import hashlib, os, random, subprocess, sys, time


def program(build, name):
    return os.path.join(os.path.abspath(build), "bin", name)


def tool(name):
    """A server: on PATH, or where scripts/setup keeps it."""
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "migstream", "bin")
    for d in os.environ["PATH"].split(":") + ["/usr/sbin", cache]:
        path = os.path.join(d, name)
        if os.access(path, os.X_OK):
            return path
    sys.exit("%s is neither on PATH nor in %s (scripts/setup tests)" % (name, cache))


def sha(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def peak_mib(pid):
    with open("/proc/%d/status" % pid) as f:
        return int(next(l for l in f if l.startswith("VmHWM")).split()[1]) / 1024


def cpu_seconds(pid):
    with open("/proc/%d/stat" % pid) as f:
        return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")


PAUSE_MS = 1000  # the writer's after each copy (--oracle-pause)


def compare(migrestore, url, log, moments, seed, out, env):
    """Restores to random moments of the oracle's log and compares; (equal, tried)."""
    with open(log) as f:
        copies = [l.split() for l in f]
    picks = sorted(random.Random(seed).sample(copies, min(moments, len(copies))), key=lambda c: int(c[0]))
    ok = 0
    for seq, want, _, end, size in picks:
        # The writer stands still while it copies the database and for the pause, so a moment within that time is the copied commit's and no other's;
        # a commit's time is when it was captured, milliseconds after it.
        at = int(end) + PAUSE_MS * 500 + int(size) // 600
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 1000000)) + ".%06dZ" % (at % 1000000)
        t = time.time()
        r = subprocess.run([migrestore, "--quiet", "-o", out, "--timestamp", stamp, url], stderr=subprocess.PIPE, text=True, env=env)
        took = time.time() - t
        same = r.returncode == 0 and sha(out) == want
        ok += same
        print("%s  commit %s  %.1f s  %s" % (stamp, seq, took, "equal" if same else "DIFFERENT %d %s" % (r.returncode, r.stderr.strip())), flush=True)
        if os.path.exists(out):
            os.unlink(out)
    return ok, len(picks)
