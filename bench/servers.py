"""The four backends as benchmarks see them: a server on 127.0.0.1, the URL of a replica there, and the backend's own plain tool moving given files.

file   a directory; cp, and sync of each file and directory
s3     MinIO; curl, four transfers at once over kept connections, signed (--aws-sigv4) with the payload's SHA-256 as migstream does it
sftp   OpenSSH's sshd; sftp, with fsync of what it puts (put -f, get -f)
nats   nats-server with JetStream; the object store of the NATS project's Go client (tests/support/natspeer, built with go into the run's directory)

What a tool fetched is synced, for so is a restored database.
"""
import collections
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time

from common import HERE, TESTS, Timed, cached, shell
from proxy import HttpReader, NatsReader

sys.path.insert(0, os.path.join(TESTS, "e2e"))
sys.path.insert(0, os.path.join(TESTS, "support"))
import test_nats  # noqa: E402
import test_sftp  # noqa: E402
from s3 import S3  # noqa: E402

ACCESS, SECRET = "migstreamtest", "migstream-test-secret"  # tests/support/s3server's


class Missing(Exception):
    """A server or tool that is not on this machine."""


class Place:
    """What the servers of the end-to-end suites want to know of a case."""

    def __init__(self, directory):
        self.dir = directory

    def path(self, *names):
        return os.path.join(self.dir, *names)


def relative_files(root):
    return sorted(os.path.relpath(os.path.join(d, f), root) for d, _, files in os.walk(root) for f in files)


class Backend:
    """port: of the server, None where there is none to put a proxy before. tool: the name of what it is compared with."""
    name = tool = port = reader = None

    def __init__(self, work):
        self.work = os.path.join(work, self.name)
        os.makedirs(self.work)
        self.env = {}

    def stop(self):
        pass

    def server_requests(self):
        """Requests that the server itself saw so far, by kind, for where a proxy cannot look; None: it cannot be known."""
        return None

    def fetch(self, files, tag, target, port=None):
        """Seconds in which the tool brings `files` of a replica back to a directory, synced."""
        for f in files:
            os.makedirs(os.path.dirname(os.path.join(target, f)), exist_ok=True)
        return self.get(files, tag, target, port) + shell('sync "$@"', *(os.path.join(target, f) for f in files))


class File(Backend):
    name, tool = "file", "cp and sync"

    def url(self, tag, port=None):
        return "file://" + os.path.join(self.work, tag)

    def put(self, root, tag, port=None):
        return shell('cp -r "$1" "$2"; find "$2" -type f -exec sync {} +; find "$2" -type d -exec sync {} +', root, os.path.join(self.work, tag))

    def get(self, files, tag, target, port=None):
        return shell('cd "$1"; t=$2; shift 2; cp --parents "$@" "$t"', os.path.join(self.work, tag), target, *files)

    def wipe(self, tag):
        shutil.rmtree(os.path.join(self.work, tag))


class S3Server(Backend):
    name, tool, reader = "s3", "curl", HttpReader

    def __init__(self, work):
        super().__init__(work)
        if not cached("curl"):
            raise Missing("no curl")
        self.p = subprocess.Popen([sys.executable, os.path.join(TESTS, "support", "s3server"), "minio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        words = self.p.stdout.readline().split()
        if words[:1] != ["ready"]:
            self.stop()
            raise Missing(" ".join(words))
        self.port = int(words[1].rpartition(":")[2])
        self.client = S3(words[1], ACCESS, SECRET)
        self.env = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}

    def stop(self):
        self.p.stdin.close()
        self.p.wait()
        self.p.stdout.close()

    def url(self, tag, port=None):
        return f"s3://test/{tag}?endpoint=http://127.0.0.1:{port or self.port}"

    def curl(self, port, requests):
        """requests: [(object, lines of curl's configuration)]"""
        config = os.path.join(self.work, "curl")
        with open(config, "w") as f:
            f.write("\nnext\n".join(f'url = "http://127.0.0.1:{port or self.port}/test/{name}"\nuser = "{ACCESS}:{SECRET}"\naws-sigv4 = "aws:amz:us-east-1:s3"\n'
                                    f"fail\nsilent\nshow-error\n{lines}" for name, lines in requests))
        return Timed(["curl", "--parallel", "--parallel-max", "4", "-K", config]).seconds

    def put(self, root, tag, port=None):
        def digest(path):
            h = hashlib.sha256()
            with open(path, "rb") as f:
                while data := f.read(1 << 20):
                    h.update(data)
            return h.hexdigest()
        # Beforehand, so that the tool's time holds no interpreter: in its favour.
        requests = [(f"{tag}/{f}", f'upload-file = "{os.path.join(root, f)}"\nheader = "x-amz-content-sha256: {digest(os.path.join(root, f))}"\noutput = "/dev/null"')
                    for f in relative_files(root)]
        return self.curl(port, requests)

    def get(self, files, tag, target, port=None):
        return self.curl(port, [(f"{tag}/{f}", f'output = "{os.path.join(target, f)}"') for f in files])

    def wipe(self, tag):
        for key in self.client.list("test", tag + "/"):
            self.client.delete("test", key)


class Sftp(Backend):
    name, tool = "sftp", "OpenSSH sftp"

    def __init__(self, work):
        super().__init__(work)
        if not test_sftp.find_sshd() or not cached("sftp"):
            raise Missing("no sshd or no sftp (scripts/setup tests)")
        os.chmod(self.work, 0o755)
        self.server = test_sftp.Server(Place(self.work))
        self.port, self.counts = self.server.port, None

    def stop(self):
        self.server.stop()

    def known(self, port):
        """The host key holds for a proxy's port too."""
        with open(self.server.path("known_hosts"), "a") as f, open(self.server.path("host.pub")) as key:
            f.write(f"[127.0.0.1]:{port} {' '.join(key.read().split()[:2])}\n")

    def url(self, tag, port=None):
        if port:
            self.known(port)
        return self.server.url(tag).replace(f":{self.port}/", f":{port or self.port}/")

    def batch(self, lines, port=None):
        if port:
            self.known(port)
        path = os.path.join(self.work, "batch")
        with open(path, "w") as f:
            f.write("\n".join(lines) + "\n")
        return Timed(["sftp", "-q", "-i", self.server.path("id"), "-o", f"UserKnownHostsFile={self.server.path('known_hosts')}", "-o", "BatchMode=yes",
                      "-P", str(port or self.port), "-b", path, f"{self.server.user}@127.0.0.1"]).seconds

    def put(self, root, tag, port=None):
        files = relative_files(root)
        dirs = {tag}
        for f in files:
            parts = f.split("/")[:-1]
            dirs |= {"/".join([tag, *parts[:i]]) for i in range(1, len(parts) + 1)}
        return self.batch([f"mkdir {self.server.store}/{d}" for d in sorted(dirs)] + [f"put -f {root}/{f} {self.server.store}/{tag}/{f}" for f in files], port)

    def get(self, files, tag, target, port=None):
        return self.batch([f"get -f {self.server.store}/{tag}/{f} {target}/{f}" for f in files], port)

    def wipe(self, tag):
        shutil.rmtree(os.path.join(self.server.store, tag))

    def count(self):
        """From now on the server's requests are counted, where an sftp-server is to be had."""
        # The session's user may not see this interpreter, nor the home directory of who runs the benchmark.
        server, python = cached("sftp-server"), shutil.which("python3", path="/usr/bin:/usr/local/bin")
        if not server or not python:
            return
        self.counts = self.server.path("requests")
        counter = shutil.copy(os.path.join(HERE, "sftpcount"), self.server.dir)
        server = shutil.copy(server, self.server.dir)
        open(self.counts, "w").close()
        if os.geteuid() == 0:
            os.chown(self.counts, self.server.uid, -1)
        with open(self.server.path("config")) as f:
            text = f.read().replace("internal-sftp", f"{python} {counter} {self.counts} {server}")
        with open(self.server.path("config"), "w") as f:
            f.write(text)
        self.server.stop()
        if os.geteuid() != 0:
            self.server.start()
            return
        # A subsystem that is a program runs in the user's shell, and `nobody` has none: in this sshd's own view of /etc/passwd it has.
        passwd = self.server.path("passwd")
        with open("/etc/passwd") as f, open(passwd, "w") as g:
            for line in f:
                g.write(line.rpartition(":")[0] + ":/bin/sh\n" if line.startswith(self.server.user + ":") else line)
        os.chmod(passwd, 0o644)
        self.server.process = subprocess.Popen(
            ["unshare", "-m", "sh", "-euc", 'mount --bind "$1" /etc/passwd; shift; exec "$@"', "sh", passwd, "setpriv", "--reuid", str(self.server.uid),
             "--regid", str(test_sftp.NOBODY), "--clear-groups", self.server.program, "-D", "-f", self.server.path("config"), "-E", self.server.path("log")],
            stdin=subprocess.DEVNULL)
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.02)
        self.server.stop()
        raise Missing("sshd did not come up with the counting subsystem")

    def server_requests(self):
        if not self.counts:
            return None
        with open(self.counts) as f:
            return collections.Counter(line.split()[0] for line in f if " " in line)


class Nats(Backend):
    name, tool, reader = "nats", "nats.go", NatsReader

    def __init__(self, work):
        super().__init__(work)
        if not test_nats.find_server():
            raise Missing("no nats-server (scripts/setup tests)")
        self.server = test_nats.Server(Place(self.work))
        self.port, self.client = self.server.port, None

    def stop(self):
        self.server.stop()

    def url(self, tag, port=None):
        return f"nats://127.0.0.1:{port or self.port}/{tag}/app"

    def run(self, verb, tag, directory, files, port):
        if not self.client:
            if not cached("go"):
                raise Missing("no go to build tests/support/natspeer with")
            client = os.path.join(self.work, "nats-peer")
            Timed(["go", "build", "-C", os.path.join(TESTS, "support", "natspeer"), "-buildvcs=false", "-o", client, "."],
                  env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"})
            self.client = client
        return Timed([self.client, f"nats://127.0.0.1:{port or self.port}", tag, verb, directory, "app/", *files]).seconds

    def put(self, root, tag, port=None):
        return self.run("upload", tag, root, relative_files(root), port)

    def get(self, files, tag, target, port=None):
        return self.run("download", tag, target, files, port)

    def wipe(self, tag):
        self.server.request(f"$JS.API.STREAM.DELETE.OBJ_{tag}", {})


ALL = {b.name: b for b in (File, S3Server, Sftp, Nats)}


def stop_all(backends):
    for b in backends:
        b.stop()
