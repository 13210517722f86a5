"""Sockets of several workers on one port (SO_REUSEPORT), and the core of each; it knows nothing of processes.

The kernel deals new connections to the sockets by a hash of their addresses, so that workers neither race for
a connection nor wake each other. A socket outlives its worker, because the supervisor holds it too:
connections that wait in its queue are taken by the worker's successor, where closing it would reset them
(unless net.ipv4.tcp_migrate_req is set, which it is nowhere by default). The other side of it: connections
that are dealt to a socket wait while nobody takes them, even if other workers have nothing to do.
"""

from __future__ import annotations

import os
import socket

from service.errors import BadConfiguration
from service.settings import Settings


def bind_together(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` sockets on one port, a free one for 0; none listens yet. Raises BadConfiguration."""
    if not (hasattr(socket, "SO_REUSEPORT") and hasattr(os, "fork")):
        raise BadConfiguration(
            f"'workers' must be 1 on this system (got {count}); it cannot fork, or share a port"
        )
    try:
        if port:
            # Another service of this user that shares its port would share it with this one as well.
            _bind(host, port, shared=False).close()
        first = _bind(host, port)
        return [first, *(_bind(host, first.getsockname()[1]) for _ in range(count - 1))]
    except OSError as error:
        raise BadConfiguration(
            f"'port' must be one to listen on at {host} (got {port}: {error.strerror or error}); "
            "choose another with --port"
        ) from None


def bind_beside(other: socket.socket) -> socket.socket:
    """One more socket on the port of `other`. Raises OSError."""
    host, port = other.getsockname()[:2]
    return _bind(host, port)


def _bind(host: str, port: int, *, shared: bool = True) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def cores_of_workers(settings: Settings) -> list[int | None]:
    """The core that each worker keeps to, or None; raises BadConfiguration.

    By default only where the process was given exactly a core a worker: two services that both took the first
    cores of a machine would share them, and leave the others idle.
    """
    unpinned: list[int | None] = [None] * settings.workers
    if settings.pin_workers == "off":
        return unpinned
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if settings.pin_workers == "auto":
        return [*cores] if len(cores) == settings.workers else unpinned
    if len(cores) < settings.workers:
        raise BadConfiguration(
            f"'workers' must be at most the cores of this process, {len(cores)}, to have one each "
            f"(got {settings.workers}); start fewer, or leave --pin-workers out"
        )
    return [*cores[: settings.workers]]
