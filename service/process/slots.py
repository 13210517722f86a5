"""The slots of a service, one for each worker: a listening socket, a core and the time of the next start.

A socket outlives its worker, because the supervisor holds it too: connections in its queue go to the worker's
successor, where closing the socket would reset them (unless net.ipv4.tcp_migrate_req is set, which is off by
default). In return, connections that the kernel assigns to a slot without a worker wait, even while other
workers are idle. It knows no process.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import BadConfiguration
from service.process.sockets import bind_beside, bind_together
from service.settings import Settings

logger = logging.getLogger("bidlight")

# The pause before another attempt doubles with each failure, up to the longest.
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 30.0


@dataclass(eq=False)
class Slot:
    """Where one worker at a time serves. `retry_seconds` is the pause after the next failed start."""

    socket: socket.socket
    core: int | None
    not_before: float = 0.0
    retry_seconds: float = FIRST_RETRY_SECONDS

    @property
    def may_start(self) -> bool:
        """Whether the pause is over."""
        return self.not_before <= time.monotonic()

    def pause(self, seconds: float) -> None:
        """Start no worker here for so many seconds."""
        self.not_before = time.monotonic() + seconds

    def back_off(self, *, keep_socket: bool) -> None:
        """Pause after a failed start, longer each time.

        A new socket replaces the old one, so that the kernel assigns no connections to a slot without a
        worker; `keep_socket` leaves it to a worker that still uses it.
        """
        self.pause(self.retry_seconds)
        self.retry_seconds = min(2.0 * self.retry_seconds, LONGEST_RETRY_SECONDS)
        if keep_socket:
            return
        try:
            self.socket, old = bind_beside(self.socket), self.socket
        except OSError as error:  # waiting connections are better than no supervisor
            logger.error("a socket has no worker for a moment, its connections wait: %s", error)
        else:
            old.close()


def bind_slots(host: str, port: int, cores: Sequence[int | None]) -> list[Slot]:
    """A slot for each core, all on one port. Raises BadConfiguration."""
    sockets = bind_together(host, port, len(cores))
    return [Slot(sock, core) for sock, core in zip(sockets, cores, strict=True)]


def cores_of_workers(settings: Settings) -> list[int | None]:
    """The core each worker is pinned to, or None; raises BadConfiguration.

    `auto` pins only if the process may use exactly one core a worker: two services that both took the first
    cores of a machine would share them and leave the others idle.
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
