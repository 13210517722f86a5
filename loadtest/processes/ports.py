"""Ports for the servers that load tests start; it starts none."""

from __future__ import annotations

import random
import socket

# The system hands out ports from 32768 on to whoever asks for any, and to each connection: another process
# could get such a port between its choice and the start of its server.
_CHOSEN_FROM = range(16_384, 32_768)
_random = random.SystemRandom()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on, and that the system gives to nobody else."""
    for port in _random.sample(_CHOSEN_FROM, 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port from {_CHOSEN_FROM.start} to {_CHOSEN_FROM.stop - 1} is free")
