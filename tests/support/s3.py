"""A small S3 client for tests: signs by itself (AWS Signature Version 4), so that what the backend signs is judged by others, and can do what the
backend never would: make buckets, put foreign keys, overwrite."""
import datetime
import hashlib
import hmac
import http.client
import ssl
import urllib.parse
import xml.etree.ElementTree as ET

EMPTY = hashlib.sha256(b"").hexdigest()


def quote(text, safe=""):
    return urllib.parse.quote(text, safe=safe + "-._~")


class S3:
    def __init__(self, endpoint, access, secret, region="us-east-1"):
        self.tls = endpoint.startswith("https:")
        self.host = endpoint.split("://")[1].rstrip("/")
        self.access, self.secret, self.region = access, secret, region

    def request(self, method, path, params=None, body=b"", headers=None):
        """(status, headers, body); path is not encoded yet."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(body).hexdigest()
        path = quote(path, "/")
        query = "&".join(f"{quote(k)}={quote(v)}" for k, v in sorted((params or {}).items()))
        send = {"host": self.host, "x-amz-date": now, "x-amz-content-sha256": digest}
        send.update({k.lower(): v for k, v in (headers or {}).items()})
        names = ";".join(sorted(send))
        canonical = "\n".join([method, path, query, "".join(f"{k}:{send[k].strip()}\n" for k in sorted(send)), names, digest])
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + self.secret).encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        send["authorization"] = (f"AWS4-HMAC-SHA256 Credential={self.access}/{scope}, SignedHeaders={names}, "
                                 f"Signature={hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()}")
        if self.tls:  # whom it talks to is not what is tested with this one
            c = http.client.HTTPSConnection(self.host, timeout=20, context=ssl._create_unverified_context())
        else:
            c = http.client.HTTPConnection(self.host, timeout=20)
        try:
            c.request(method, path + ("?" + query if query else ""), body=body, headers=send)
            r = c.getresponse()
            return r.status, dict(r.getheaders()), r.read()
        finally:
            c.close()

    def ok(self, *args, **kw):
        status, headers, body = self.request(*args, **kw)
        if status // 100 != 2:
            raise RuntimeError(f"{args[0]} {args[1]}: HTTP {status}: {body[:300]!r}")
        return headers, body

    def make_bucket(self, bucket):
        self.ok("PUT", f"/{bucket}")

    def put(self, bucket, key, body, **headers):
        self.ok("PUT", f"/{bucket}/{key}", body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def get(self, bucket, key):
        return self.ok("GET", f"/{bucket}/{key}")[1]

    def delete(self, bucket, key):
        self.ok("DELETE", f"/{bucket}/{key}")

    def list(self, bucket, prefix=""):
        """{key: size}, foreign ones and the probe included."""
        found, token = {}, None
        while True:
            params = {"list-type": "2", "prefix": prefix, "encoding-type": "url"}
            if token:
                params["continuation-token"] = token
            tree = ET.fromstring(self.ok("GET", f"/{bucket}", params)[1])
            ns = tree.tag[:tree.tag.index("}") + 1] if "}" in tree.tag else ""
            for c in tree.iter(ns + "Contents"):
                found[urllib.parse.unquote_plus(c.find(ns + "Key").text)] = int(c.find(ns + "Size").text)
            token = tree.findtext(ns + "NextContinuationToken")
            if tree.findtext(ns + "IsTruncated") != "true":
                return found
