"""Over SSH to OpenSSH's server: replicate, lose the server, restore; host keys; typed keys and doctor."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

from harness import Case, SLOW, free_port

NOBODY = 65534


def find_sshd():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", "/root"), ".cache")
    for path in (os.environ.get("MS_SSHD"), "/usr/sbin/sshd", os.path.join(cache, "migstream", "bin", "sshd")):
        if path and os.access(path, os.X_OK):
            return path
    return None


class Server:
    """sshd on a free port as an ordinary user: who runs the test, or `nobody` when that is root. See tests/support/sshd.h."""

    def __init__(self, case):
        self.dir = case.path("sshd")
        self.store = os.path.join(self.dir, "store")
        os.chmod(case.dir, 0o755)
        os.makedirs(self.store)
        self.program = shutil.copy(find_sshd(), self.dir)
        self.uid = os.geteuid() or NOBODY
        self.user = subprocess.run(["id", "-un", str(self.uid)], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        self.port = free_port()
        for name in ("host", "id"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.path(name)], check=True)
        shutil.copy(self.path("id.pub"), self.path("authorized_keys"))
        with open(self.path("host.pub")) as key, open(self.path("known_hosts"), "w") as known:
            known.write(f"[127.0.0.1]:{self.port} {' '.join(key.read().split()[:2])}\n")
        with open(self.path("config"), "w") as f:
            f.write(f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.path('host')}\nAuthorizedKeysFile {self.path('authorized_keys')}\nPidFile none\n"
                    "StrictModes no\nUsePAM yes\nMaxStartups 100\nSubsystem sftp internal-sftp\n")
        if os.geteuid() == 0:
            for name in ("", "store", "host"):
                os.chown(self.path(name), self.uid, -1)
        self.process = None
        self.start()

    def path(self, name):
        return os.path.join(self.dir, name)

    def url(self, tail="app", known_hosts=None):
        return f"sftp://{self.user}@127.0.0.1:{self.port}{self.store}/{tail}?keyPath={self.path('id')}&knownHostsPath={known_hosts or self.path('known_hosts')}"

    def start(self):
        who = {"user": self.uid, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        self.process = subprocess.Popen([self.program, "-D", "-f", self.path("config"), "-E", self.path("log")], stdin=subprocess.DEVNULL, **who)
        for _ in range(int(500 * SLOW)):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("sshd did not come up: " + open(self.path("log")).read())

    def signal(self, sig):
        """The server and its sessions, which leave its process group."""
        tree, found = {}, [self.process.pid]
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as f:
                    tree.setdefault(int(f.read().rpartition(")")[2].split()[1]), []).append(int(pid))
            except OSError:
                pass
        for pid in found:
            found += tree.get(pid, [])
        for pid in found:
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                pass

    def stop(self):
        if self.process:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


class Sftp(Case):
    def setUp(self):
        super().setUp()
        if not find_sshd():
            self.skipTest("no sshd (scripts/setup tests fetches it)")
        self.server = Server(self)
        self.addCleanup(self.server.stop)
        self.replica = os.path.join(self.server.store, "app")
        self.url = self.server.url()

    def replica_status(self):
        s = self.status()
        return s["replicas"][0] if s else None

    def troubled(self):
        return self.until("the replica's trouble is reported",
                          lambda: (lambda r: r if r and r["lastError"] and r["state"] in ("retrying", "failed", "claiming") else None)(self.replica_status()))

    def outage(self, begin, end):
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 30, "--rate", 200)
        self.shipped()
        begin()
        result = self.run_load("--commits", 40, "--rate", 100)
        self.assertLess(result["commit_us"]["p99"], 500000 * SLOW, "commits waited")
        trouble = self.troubled()
        self.assertIn(f"sftp replica {self.server.user}@127.0.0.1:{self.server.port}", trouble["lastError"])
        end()
        self.run_load("--commits", 10, "--rate", 100)
        self.shipped(timeout=60)
        self.stop(daemon)
        self.ms("verify", self.url)
        found = self.check_every_txid(self.oracle(), sample=25)
        self.assert_every(found, 80)
        left = [f for f in self.objects(".ms-") if f.endswith(".tmp")]
        self.assertLessEqual(len(left), 1, left)

    def test_server_killed_and_restarted(self):
        self.outage(self.server.stop, self.server.start)

    def test_server_frozen_for_a_while(self):
        self.url += "&stallTimeout=2s&connectTimeout=2s"
        self.outage(lambda: self.server.signal(signal.SIGSTOP), lambda: self.server.signal(signal.SIGCONT))

    def test_unknown_host_key_is_refused_until_its_line_is_added(self):
        known = self.path("known_hosts")
        with open(known, "w"):
            pass
        self.url = self.server.url(known_hosts=known)
        self.seed()
        daemon = self.daemon()
        error = self.troubled()["lastError"]
        print_of = subprocess.run(["ssh-keygen", "-lf", self.server.path("host.pub")], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[1]
        self.assertIn("unknown host key " + print_of, error)
        self.assertFalse(os.path.exists(self.replica), "something was written to a server that is not trusted")
        p = self.restore(self.path("out.db"), rc=1)
        self.assertIn(print_of, p.stderr)
        # As the message says, and nothing else: it goes on by itself.
        line = re.search(r"add this line to \S+: (\[127.*)$", error).group(1)
        with open(known, "a") as f:
            f.write(line + "\n")
        self.following(daemon)
        self.run_load("--commits", 5)
        self.shipped()
        self.stop(daemon)
        self.assertEqual(self.restored_seq(self.oracle()), 5)

    def test_doctor_names_what_the_server_lacks(self):
        def without(requests):
            self.server.stop()
            with open(self.server.path("config")) as f:
                text = f.read()
            with open(self.server.path("config"), "w") as f:
                f.write(re.sub("internal-sftp.*", "internal-sftp -P " + requests, text))
            self.server.start()

        os.makedirs(self.replica)
        os.chmod(self.replica, 0o777)
        without("fsync")
        p = self.ms("doctor", self.url)
        self.assertIn("may lose what it has acknowledged for 1m", p.stdout)
        without("hardlink")
        p = self.ms("doctor", self.url, rc=1)
        self.assertIn("exclusive: false", p.stdout)
        self.assertEqual(self.objects(), [])
        p = self.ms("doctor", self.url + "&exclusive=false", rc=None)
        self.assertRegex(p.stdout, "only one migstream|second writer")
        os.chmod(self.replica, 0o555)
        p = self.ms("doctor", self.url, rc=1)
        self.assertIn("Permission denied", p.stdout)
        self.server.stop()
        p = self.ms("doctor", self.url, rc=1)
        self.assertIn("Connection refused", p.stdout)

    def test_typed_keys_secrets_and_doctor(self):
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", self.server.path("id")], check=True, stdout=subprocess.DEVNULL)
        config = self.path("migstream.yml")
        with open(config, "w") as f:
            json.dump({"shadowDir": self.shadow, "databases": [{"path": self.db, "replicas": [{
                "name": "far", "type": "sftp", "host": "127.0.0.1", "port": self.server.port, "user": self.server.user, "path": self.replica,
                "keyPath": self.server.path("id"), "keyPassphrase": "${SECRET}", "knownHostsPath": self.server.path("known_hosts")}]}]}, f)
        env = {"SECRET": "open sesame"}
        self.ms("config", "check", config, env=env)
        self.assertNotIn("sesame", self.ms("config", "print", config, env=env).stdout)
        self.seed()
        daemon = self.daemon("-c", config, env=env)
        self.following(daemon)
        self.run_load("--commits", 5)
        self.shipped()
        self.stop(daemon)
        self.assertNotIn("sesame", self.daemon_log())
        # The same from a URL, with the secret in the environment; without it the message says what is missing.
        p = self.restore(self.path("out.db"), rc=1)
        self.assertIn("MIGSTREAM_SFTP_KEY_PASSPHRASE", p.stderr)
        self.env["MIGSTREAM_SFTP_KEY_PASSPHRASE"] = "open sesame"
        self.assertEqual(self.restored_seq(self.oracle()), 5)
        p = self.ms("doctor", self.url)
        for check in ("writable", "create-if-absent", "readable"):
            self.assertRegex(p.stdout, rf"(?i)ok\s+{check}|{check}.*ok", p.stdout)
        self.assertIn("durable at once", p.stdout)
        self.env["MIGSTREAM_SFTP_KEY_PASSPHRASE"] = "open seesaw"
        p = self.ms("doctor", self.url, rc=1)
        self.assertIn("passphrase does not open", p.stdout)
        self.assertNotIn("seesaw", p.stdout + p.stderr)
