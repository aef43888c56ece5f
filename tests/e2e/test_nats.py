"""Over JetStream to nats-server: replicate, lose the server, freeze it, fill the bucket, correct a password; restore and compare."""
import json
import os
import shutil
import signal
import socket
import subprocess
import time

from harness import Case, SLOW, free_port


def find_server():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", "/root"), ".cache")
    return shutil.which("nats-server", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", os.path.join(cache, "migstream", "bin")]))


class Server:
    """nats-server on a free port, with its data in the case's directory."""

    def __init__(self, case):
        self.dir = case.path("nats")
        os.makedirs(self.dir)
        self.port = free_port()
        self.process = None
        self.configure("")
        self.start()

    def configure(self, more):
        with open(os.path.join(self.dir, "conf"), "w") as f:
            f.write(f'listen: 127.0.0.1:{self.port}\njetstream {{ store_dir: "{self.dir}/data" }}\n{more}\n')

    def start(self):
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen([find_server(), "-c", os.path.join(self.dir, "conf")], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(int(500 * SLOW)):
            try:
                self.connect().close()
                return
            except OSError:
                time.sleep(0.02)
        with open(os.path.join(self.dir, "log")) as log:
            raise AssertionError("nats-server did not come up: " + log.read()[-1000:])

    def signal(self, sig):
        self.process.send_signal(sig)

    def stop(self):
        """kill -9."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=5 * SLOW)
        f = s.makefile("rwb")
        s.close()
        if not f.readline().startswith(b"INFO "):
            f.close()
            raise OSError("not a NATS server")
        return f

    def request(self, subject, body):
        """One request of JetStream's API, past migstream and its library."""
        with self.connect() as f:
            data = json.dumps(body).encode()
            f.write(b'CONNECT {"verbose":false}\r\nSUB _INBOX.e2e 1\r\n' + f"PUB {subject} _INBOX.e2e {len(data)}\r\n".encode() + data + b"\r\n")
            f.flush()
            while True:
                line = f.readline().split()
                if line[:1] == [b"PING"]:
                    f.write(b"PONG\r\n")
                    f.flush()
                elif line[:1] == [b"MSG"]:
                    return json.loads(f.read(int(line[-1]) + 2))
                elif line[:1] != [b"+OK"]:
                    raise AssertionError(f"nats-server says {line}")

    def max_bytes(self, bucket, n):
        """Of a bucket that is there; -1: no limit. Returns how many bytes it holds."""
        info = self.request(f"$JS.API.STREAM.INFO.OBJ_{bucket}", {})
        answer = self.request(f"$JS.API.STREAM.UPDATE.OBJ_{bucket}", {**info["config"], "max_bytes": n})
        assert "error" not in answer, answer
        return info["state"]["bytes"]


class Nats(Case):
    def setUp(self):
        super().setUp()
        if not find_server():
            self.skipTest("no nats-server (scripts/setup tests fetches it)")
        self.server = Server(self)
        self.addCleanup(self.server.stop)
        self.url = f"nats://127.0.0.1:{self.server.port}/backups/app?timeout=2s&connectTimeout=2s"

    def troubled(self, says=""):
        def seen():
            r = (self.status() or {"replicas": [None]})["replicas"][0]
            return r if r and says in (r["lastError"] or "") and r["lastError"] and r["state"] in ("retrying", "failed", "claiming") else None
        return self.until("the replica's trouble is reported: " + says, seen)

    def all_there(self, daemon, commits):
        self.shipped(timeout=60)
        self.stop(daemon)
        self.ms("verify", self.url)
        self.assert_every(self.check_every_txid(self.oracle(), sample=20), commits)
        # One server only: said at the start, and not again with each claim.
        self.assertEqual(self.daemon_log().count("replica is less safe than it may seem"), 1)
        self.assertIn("lies on one server only (R1)", self.daemon_log())

    def outage(self, begin, end):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 20, "--rate", 200)
        self.shipped()
        begin()
        result = self.run_load("--commits", 30, "--rate", 100)
        self.assertLess(result["commit_us"]["p99"], 500000 * SLOW, "commits waited")
        self.troubled()
        end()
        self.run_load("--commits", 10, "--rate", 100)
        self.all_there(daemon, 60)

    def test_server_away_for_a_while(self):
        self.outage(self.server.stop, self.server.start)

    def test_server_frozen_for_a_while(self):
        self.outage(lambda: self.server.signal(signal.SIGSTOP), lambda: self.server.signal(signal.SIGCONT))

    def test_server_killed_and_restarted_under_load(self):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        load = self.load("--commits", 150, "--rate", 50)
        for _ in range(3):
            time.sleep(0.7)
            self.server.stop()
            self.server.start()
        self.finish(load)
        self.all_there(daemon, 150)

    def test_full_bucket(self):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 10, "--rate", 200)
        self.shipped()
        # What it holds, and less than a chunk more.
        held = self.server.max_bytes("backups", -1)
        self.server.max_bytes("backups", held + 1000)
        self.run_load("--commits", 20, "--rate", 100)
        self.troubled("full")
        p = self.ms("wait", self.db, "--timeout", "1s", rc=None)
        self.assertNotEqual(p.returncode, 0, "a commit that the bucket cannot take counts as shipped")
        self.server.max_bytes("backups", -1)
        self.run_load("--commits", 5)
        self.all_there(daemon, 35)

    def test_wrong_password_corrected_later(self):
        def password(p):
            self.server.configure(f'authorization {{ user: app, password: "{p}" }}')
            self.server.stop()
            self.server.start()
        password("changed since")
        self.env.update(NATS_USER="app", NATS_PASSWORD="open sesame")
        self.seed()
        daemon = self.daemon()
        self.troubled("refuses the login")
        self.run_load("--commits", 10)
        password("open sesame")
        self.following(daemon)
        self.run_load("--commits", 5)
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 15)
        self.assertNotIn("sesame", self.daemon_log())
