"""S3 replicas end to end: real servers (MinIO, versitygw), and one that misbehaves as it is told."""
import hashlib
import json
import os
import subprocess
import sys
import time
import unittest

from harness import Case, SLOW, SUPPORT, free_port

from s3 import S3

ACCESS, SECRET = "migstreamtest", "migstream-test-secret"


class Server:
    """A server of tests/support as a child that ends with its standard input."""

    def __init__(self, case, program, *args):
        self.case, self.command = case, [sys.executable, os.path.join(SUPPORT, program), *map(str, args)]
        self.start()

    def start(self):
        self.p = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.case.servers.append(self)
        words = self.p.stdout.readline().split()
        if not words or words[0] != "ready":
            reason = " ".join(words)
            if self.p.wait() == 77:
                raise unittest.SkipTest(reason)
            raise RuntimeError(f"{self.command}: {reason}")
        self.endpoint, self.pid = words[1], int(words[2]) if len(words) > 2 else None

    def tell(self, line):
        self.p.stdin.write(line + "\n")
        self.p.stdin.flush()
        return self.p.stdout.readline().strip()

    def kill9(self):
        os.kill(self.pid, 9)

    def stop(self):
        if not self.p.stdin.closed:
            self.p.stdin.close()
        self.p.wait()
        if not self.p.stdout.closed:
            self.p.stdout.close()


class S3Case(Case):
    def setUp(self):
        super().setUp()
        self.servers = []
        self.env.update(AWS_ACCESS_KEY_ID=ACCESS, AWS_SECRET_ACCESS_KEY=SECRET, AWS_EC2_METADATA_DISABLED="true")

    def tearDown(self):
        # Before the directory goes. They end with their input, and take the real server along: killed, they could not.
        for s in self.servers:
            s.stop()
        super().tearDown()

    def config(self, text):
        path = self.path("migstream.yml")
        with open(path, "w") as f:
            f.write(text)
        return path

    def real(self, kind):
        port = free_port()
        server = Server(self, "s3server", kind, port, self.path("server"))
        self.url = f"s3://test/deep/app?endpoint={server.endpoint}"
        self.client = S3(server.endpoint, ACCESS, SECRET)
        return server

    def double(self):
        server = Server(self, "s3double")
        self.url = f"s3://test/deep/app?endpoint={server.endpoint}&timeout=2s"
        return server


class Real(S3Case):
    def killed(self, kind):
        server = self.real(kind)
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 30, "--rate", 200)
        self.shipped()
        server.kill9()
        result = self.run_load("--commits", 40, "--rate", 100)
        self.assertLess(result["commit_us"]["p99"], 500000 * SLOW, "commits waited")
        r = self.until("the trouble is reported", lambda: (lambda s: s and s["replicas"][0]["lastError"] and s["replicas"][0])(self.status()))
        self.assertIn("s3://test/deep/app", r["lastError"])
        self.assertGreater(r["pendingBytes"], 0)
        self.ms("wait", self.db, "--timeout", "300ms", rc=1)
        server.stop()
        server.start()
        self.run_load("--commits", 20, "--rate", 100)
        self.shipped(timeout=90)
        self.assertEqual(self.status()["replicas"][0]["pendingBytes"], 0)
        # The daemon too, in the middle of a load; and on again.
        load = self.load("--commits", 60, "--rate", 200)
        time.sleep(0.2)
        self.kill9(daemon)
        self.finish(load)
        daemon = self.daemon()
        self.following(daemon)
        self.shipped(timeout=60)
        self.stop(daemon)
        found = self.check_every_txid(self.oracle(), sample=25)
        self.assertEqual(max(found.values()), 150)
        self.ms("verify", self.url)
        self.assertEqual([k for k in self.client.list("test") if not k.startswith("deep/app/")], [])

    def test_minio_killed(self):
        self.killed("minio")

    def test_versitygw_killed(self):
        self.killed("versitygw")

    def test_second_writer_is_fenced(self):
        self.real("minio")
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.shipped()
        other = self.daemon(shadow=self.path("shadow2"), log="daemon2.log")
        self.assertEqual(other.wait(20 * SLOW), 4, self.daemon_log("daemon2.log"))
        self.run_load("--commits", 5)
        self.shipped()
        self.stop(daemon)

    def test_damage_is_refused(self):
        self.real("minio")
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 10)
        self.shipped()
        self.stop(daemon)
        key = next(k for k in sorted(self.client.list("test")) if "/snapshots/" in k)
        data = bytearray(self.client.get("test", key))
        data[len(data) // 2] ^= 1
        self.client.put("test", key, bytes(data))
        out = self.path("out.db")
        self.restore(out, rc=3)
        self.assertFalse(os.path.exists(out))
        self.ms("verify", self.url, rc=3)

    def test_object_lock(self):
        self.real("minio")
        self.client.ok("PUT", "/locked", headers={"x-amz-bucket-object-lock-enabled": "true"})
        self.url = self.url.replace("//test/", "//locked/") + "&objectLockMode=COMPLIANCE&objectLockDays=1"
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        self.run_load("--commits", 10)
        self.shipped()
        self.stop(daemon)
        key = next(k for k in self.client.list("locked") if "/segments/" in k)
        headers = {k.lower(): v for k, v in self.client.ok("HEAD", f"/locked/{key}")[0].items()}
        self.assertEqual(headers["x-amz-object-lock-mode"], "COMPLIANCE")
        # Whoever deletes the version itself is refused; a plain removal only hides it.
        version = headers["x-amz-version-id"]
        self.assertNotEqual(self.client.request("DELETE", f"/locked/{key}", {"versionId": version})[0] // 100, 2)
        found = self.check_every_txid(self.oracle(), sample=3)
        self.assertEqual(max(found.values()), 10)

    def test_doctor(self):
        server = self.real("minio")
        p = self.ms("doctor", self.url)
        for name in ("reachable", "writable", "create-if-absent", "readable", "listable", "removable", "speed"):
            self.assertIn(f"  ok    {name}", p.stdout)
        self.assertEqual(list(self.client.list("test")), ["deep/app/.migstream-probe"])
        p = self.ms("doctor", self.url, rc=1, env={"AWS_SECRET_ACCESS_KEY": "wrong-secret"})
        self.assertIn("secret key is wrong", p.stdout)
        self.assertNotIn("wrong-secret", p.stdout + p.stderr)
        p = self.ms("doctor", self.url.replace("//test/", "//tset/"), rc=1)
        self.assertIn("create the bucket", p.stdout)
        p = self.ms("doctor", self.url, rc=1, env={"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})
        self.assertIn("no credentials", p.stdout)
        server.stop()
        p = self.ms("doctor", self.url, rc=1)
        self.assertIn("fail  reachable", p.stdout)


class Told(S3Case):
    def test_server_without_the_condition(self):
        server = self.double()
        server.tell("set conditions ignored")
        self.seed()
        p = self.ms("doctor", self.url, rc=1)
        self.assertIn("fail  create-if-absent", p.stdout)
        self.assertIn("fencing: none", p.stdout)
        daemon = self.daemon()
        r = self.until("it is refused", lambda: (lambda s: s and "fencing: none" in (s["replicas"][0]["lastError"] or "") and s)(self.status()))
        self.assertNotEqual(r["state"], "following")
        self.kill9(daemon)
        file = self.config(f"shadowDir: {self.shadow}\ndatabases:\n- path: {self.db}\n  replicas: [{{url: '{self.url}', fencing: none}}]\n")
        self.ms("doctor", "-c", file)
        daemon = self.daemon("-c", file)
        self.following(daemon)
        self.run_load("--commits", 20, "--rate", 200)
        self.shipped()
        self.stop(daemon)
        found = self.check_every_txid(self.oracle(), sample=8)
        self.assertEqual(max(found.values()), 20)

    def test_rights(self):
        server = self.double()
        server.tell("fault PUT ~ -1 status 403 AccessDenied")
        p = self.ms("doctor", self.url, rc=1)
        self.assertIn("fail  writable", p.stdout)
        self.assertIn("ok    listable", p.stdout)
        self.assertIn('"s3:PutObject"', p.stdout)
        self.assertIn("arn:aws:s3:::test/deep/app/*", p.stdout)
        policy = next(line for line in p.stdout.splitlines() if '"Version"' in line).partition("-> ")[2]
        self.assertEqual(json.loads(policy)["Version"], "2012-10-17")

    def test_flaky_server(self):
        server = self.double()
        self.seed()
        daemon = self.daemon()
        self.following(daemon)
        # Waits grow with failures in a row: those with long ones first.
        for fault in ("status 403 AccessDenied", "status 503 SlowDown", "status 500 InternalError", "close", "lose", "delay 0.2"):
            server.tell(f"fault PUT /deep/ 1 {fault}")
        server.tell("fault GET /deep/ 1 close")
        self.run_load("--commits", 60, "--rate", 60)
        self.shipped(timeout=90)
        self.stop(daemon)
        server.tell("clear")
        found = self.check_every_txid(self.oracle(), sample=15)
        self.assertEqual(max(found.values()), 60)
        # A restore through a server that cuts every answer at 16 KiB, now and then.
        out = self.path("out.db")
        server.tell("fault GET /deep/ 3 cut 16384")
        server.tell("fault GET /deep/ 2 status 503 SlowDown Retry-After=1")
        self.restore(out)
        self.check_file(out, self.oracle())

    def test_secrets_stay_secret(self):
        server = self.double()
        secret, token, key = "s3cr3t/that+nobody=sees", "t0ken-that-nobody-sees", "Y3VzdG9tZXIta2V5LW9mLTMyLWJ5dGVzLWV4YWN0bHk="
        del self.env["AWS_ACCESS_KEY_ID"], self.env["AWS_SECRET_ACCESS_KEY"]
        self.env["MS_T_TOKEN"] = token
        self.seed()
        file = self.config(
            f"shadowDir: {self.shadow}\nlog: {{level: debug}}\ndatabases:\n- path: {self.db}\n  replicas:\n  - type: s3\n    bucket: test\n    prefix: deep/app\n"
            f"    endpoint: {server.endpoint}\n    accessKeyId: AKVISIBLE\n    secretAccessKey: {secret}\n    sessionToken: ${{MS_T_TOKEN}}\n")
        seen = self.ms("config", "print", file).stdout + self.ms("config", "print", "--json", file).stdout
        self.assertIn("AKVISIBLE", seen)
        daemon = self.daemon("-c", file)
        self.following(daemon)
        self.run_load("--commits", 5)
        self.shipped()
        for fault in ("status 403 SignatureDoesNotMatch", "status 400 ExpiredToken", "status 500 InternalError"):
            server.tell(f"fault PUT /deep/ 1 {fault}")
        self.run_load("--commits", 5, "--rate", 5)
        for command in (("status",), ("status", "--json"), ("doctor", "-c", file), ("doctor", "--json", "-c", file)):
            p = self.ms(*command, rc=None)
            seen += p.stdout + p.stderr
        bad = self.config(open(file).read().replace("secretAccessKey", "secretAccesKey"))
        p = self.ms("config", "check", bad, rc=2)
        self.assertIn("did you mean secretAccessKey", p.stderr)
        seen += p.stdout + p.stderr
        p = self.ms("list", f"s3://test/deep/app?secretAccessKey={secret.replace('+', '%2B')}", rc=2)
        self.assertIn("does not belong in a URL", p.stderr)
        seen += p.stdout + p.stderr
        self.config(open(bad).read().replace("secretAccesKey", "sseCustomerKey: " + key + "\n    secretAccessKey"))
        p = self.ms("doctor", "-c", file, rc=1)
        self.assertIn("needs https", p.stdout)
        seen += p.stdout + p.stderr
        self.stop(daemon)
        seen += self.daemon_log()
        for d, _, names in os.walk(self.shadow):
            for n in names:
                with open(os.path.join(d, n), "rb") as f:
                    seen += f.read().decode(errors="replace")
        for hidden in (secret, token, key, hashlib.sha256(secret.encode()).hexdigest()):
            self.assertNotIn(hidden, seen)
        # What was sent is what was configured.
        self.assertEqual(server.tell("header PUT /deep/ x-amz-security-token"), token)
