"""One worker process: forked with the bundles in memory, it makes its sessions, serves and says how it is.

It knows neither the other workers nor why it was started; what it says goes through a pipe.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from prometheus_client import values

from service.arms.loading import LoadedArm
from service.errors import STARTUP_FAILURE, BadConfiguration
from service.http.app import create_app
from service.process.server import Server, server_config
from service.settings import Settings

logger = logging.getLogger("bidlight")

# What a worker says: every second that it serves; once, that it takes no more connections; or why it does not
# start, with the reason after it.
SERVING, LEAVING, REFUSED = b"+", b"-", b"!"
BEAT_SECONDS = 1.0
# What the supervisor handles and its workers do in ways of their own.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(frozen=True)
class Post:
    """What a worker is given: a socket of its own on the port of all, a core or none, a pipe to speak into.

    `name` is that of its metric files. No two workers alive have the same; one that takes a dead one's counts
    on where that stopped, so that there are never more files than workers.
    """

    socket: socket.socket
    core: int | None
    name: int
    pipe: int


def become_worker(
    settings: Settings, arms: Sequence[LoadedArm], post: Post, let_go: Callable[[], object]
) -> NoReturn:
    """What a forked process does from there to its end: nothing of the supervisor's is for it to clean up.

    `let_go` closes what it has only because the supervisor has it.
    """
    status = 1
    try:
        let_go()
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        status = _serve(settings, arms, post)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        logger.exception("a worker failed")
    finally:
        os._exit(status)


def _serve(settings: Settings, arms: Sequence[LoadedArm], post: Post) -> int:
    """Serve until told to stop; the exit status."""
    if post.core is not None:
        os.sched_setaffinity(0, {post.core})
    values.ValueClass = values.MultiProcessValue(lambda: post.name)  # type: ignore[no-untyped-call]
    try:
        app = create_app(settings, arms)
    except BadConfiguration as error:  # what the supervisor found in order may be gone by now
        return _refuse(post, str(error))
    # The supervisor says it: once, whether one worker is refused or all of them.
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.getMessage() != app.refusal)
    pulse = _Pulse(post.pipe)
    server = Server(server_config(settings, app), lambda _: pulse.start(), pulse.stop)
    try:
        gc.enable()
        server.run([post.socket])
    except SystemExit:
        if app.refusal is None:
            raise
        return _refuse(post, app.refusal)
    return 0 if server.started else STARTUP_FAILURE


def _refuse(post: Post, reason: str) -> int:
    """Leave it to the supervisor to say why; the exit status."""
    os.write(post.pipe, REFUSED + reason.encode())
    return STARTUP_FAILURE


class _Pulse:
    """Says once a second that the event loop turns, and at last that it takes no more connections."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._timer: asyncio.TimerHandle | None = None
        os.set_blocking(pipe, False)

    def start(self) -> None:
        """Say it now and from now on. Without a supervisor nobody would stop this process: it stops too."""
        if self._say(SERVING):
            self._timer = asyncio.get_running_loop().call_later(BEAT_SECONDS, self.start)
        else:
            signal.raise_signal(signal.SIGTERM)

    def stop(self) -> None:
        """The last word."""
        if self._timer is not None:
            self._timer.cancel()
            self._say(LEAVING)

    def _say(self, word: bytes) -> bool:
        """Whether there is anybody to hear it."""
        try:
            os.write(self._pipe, word)
        except BlockingIOError:  # who does not listen now has enough to read
            return True
        except BrokenPipeError:
            return False
        return True
