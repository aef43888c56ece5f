"""A TCP port of 127.0.0.1 that leads to another one: counts bytes and requests, and holds what passes for a while.

Requests are counted by readers of the bytes from client to server, one for each connection: HttpReader, NatsReader.
"""
import collections
import queue
import re
import socket
import threading
import time

PIECE = 128 << 10
HELD_MAX = 512  # pieces on their way in one direction


class Reader:
    """Heads that end with END, and a body of the length that a head states."""
    END = b""

    def __init__(self, count):
        self.count, self.head, self.body = count, b"", 0

    def feed(self, data):
        while data:
            if self.body:
                n = min(self.body, len(data))
                self.body -= n
                data = data[n:]
                continue
            self.head += data
            end = self.head.find(self.END)
            if end < 0:
                return
            head, data, self.head = self.head[:end], self.head[end + len(self.END):], b""
            self.body = self.meet(head)

    def meet(self, head):
        """Counts it; the length of its body."""
        raise NotImplementedError


class HttpReader(Reader):
    """Requests by method; listings apart."""
    END = b"\r\n\r\n"

    def meet(self, head):
        line = head.split(b"\r\n", 1)[0].decode("latin-1").split()
        self.count[line[0] + (" (list)" if line[0] == "GET" and "list-type=" in line[1] else "")] += 1
        length = re.search(rb"(?im)^content-length:\s*(\d+)", head)
        return int(length.group(1)) if length else 0


class NatsReader(Reader):
    """Messages by what they are for: data chunks and entries of the bucket, calls of JetStream's interface, and the rest."""
    END = b"\r\n"

    def meet(self, head):
        words = head.decode("latin-1").split()
        if not words or words[0] not in ("PUB", "HPUB"):
            return 0
        part = words[1].split(".")
        kind = {"C": "chunk", "M": "entry"}.get(part[2], "other") if part[0] == "$O" and len(part) > 2 else "api" if part[0] == "$JS" else "other"
        self.count[kind] += 1
        return int(words[-1]) + 2


class Proxy:
    """delay_ms: each way. up: bytes from clients, down: to them. The sockets go with the last of a connection's threads."""

    def __init__(self, to, delay_ms=0, reader=None):
        self.to, self.delay, self.reader = to, delay_ms / 1000, reader
        self.up = self.down = self.connections = 0
        self.requests = collections.Counter()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def accept(self):
        while True:
            try:
                a, _ = self.listener.accept()
                b = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                if self.listener.fileno() < 0:
                    return
                a.close()
                continue
            self.connections += 1
            for s in (a, b):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.copy, args=(a, b, True), daemon=True).start()
            threading.Thread(target=self.copy, args=(b, a, False), daemon=True).start()

    def send(self, b, data):
        try:
            b.sendall(data) if data else b.shutdown(socket.SHUT_WR)
            return True
        except OSError:
            return False

    def write_held(self, b, held):
        while True:
            due, data = held.get()
            time.sleep(max(0, due - time.monotonic()))
            if not self.send(b, data) or not data:
                return

    def copy(self, a, b, up):
        reader = self.reader(self.requests) if up and self.reader else None
        held = queue.Queue(HELD_MAX) if self.delay else None
        if held:
            threading.Thread(target=self.write_held, args=(b, held), daemon=True).start()
        while True:
            try:
                data = a.recv(PIECE)
            except OSError:
                data = b""
            with self.lock:
                if up:
                    self.up += len(data)
                    if reader:
                        reader.feed(data)
                else:
                    self.down += len(data)
            if held:
                held.put((time.monotonic() + self.delay, data))
            elif not self.send(b, data):
                data = b""
            if not data:
                return
