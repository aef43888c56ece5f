"""As tests/support/ports.h."""
import random
import socket


def free_port():
    for _ in range(200):
        port = random.SystemRandom().randrange(12000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no port to be had on 127.0.0.1")
