"""Ports for servers that tests start."""

from __future__ import annotations

import random
import socket

# Below the ranges from which systems give ports to outgoing connections (Linux: 32768 up): one of those
# may be taken between the look and the server's start.
LOWEST, HIGHEST = 20000, 32000


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    chosen = random.SystemRandom()  # not the seeded generator: two workers would ask for the same
    for _ in range(100):
        port = chosen.randint(LOWEST, HIGHEST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port of 127.0.0.1 between {LOWEST} and {HIGHEST}")
