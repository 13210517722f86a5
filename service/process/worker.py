"""One worker process: forked with the bundles in memory, it creates sessions, serves and reports its state.

It knows neither the other workers nor why it was started; it sends its messages through a pipe.
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

from service.arms.health import Health
from service.arms.loading import LoadedArm
from service.arms.steering_memory import SteeringMemory
from service.errors import STARTUP_FAILURE, BadConfiguration
from service.feedback.memory import EventMemory
from service.http.app import create_app
from service.metrics.families import Metrics
from service.metrics.memory import CountMemory
from service.process.server import Server, server_config
from service.process.signals import reset_signals_in_worker
from service.settings import Settings

logger = logging.getLogger("bidlight")

# Messages to the supervisor: every second that the worker can bid, or that it no longer can; once, that it
# accepts no more connections; or that it does not start, followed by the reason.
HEARTBEAT, CANNOT_BID, STOPPING, REFUSED = b"+", b"?", b"-", b"!"
HEARTBEAT_SECONDS = 1.0


@dataclass(frozen=True)
class SharedMemory:
    """What all processes count in, the weights and kills that all follow, and what they know of events."""

    counts: CountMemory
    steering: SteeringMemory
    events: EventMemory | None


@dataclass(frozen=True)
class WorkerAssignment:
    """What the supervisor gives a worker: listening sockets, a core or none, and a pipe for its messages.

    `admin`, the socket of the admin port if there is one, is shared: any worker accepts the next connection.

    `number` is its part of the memory. It is unique among live processes; a successor takes the number of one
    that has ended and counts on.
    """

    admin: socket.socket | None
    socket: socket.socket
    core: int | None
    memory: SharedMemory
    number: int
    pipe: int


def become_worker(
    settings: Settings,
    arms: Sequence[LoadedArm],
    assignment: WorkerAssignment,
    release_inherited: Callable[[], object],
) -> NoReturn:
    """Run a forked process to its end; it exits without the supervisor's cleanup.

    `release_inherited` closes what only the supervisor needs.
    """
    status = 1
    try:
        release_inherited()
        reset_signals_in_worker()
        status = _serve(settings, arms, assignment)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        logger.exception("a worker failed")
    finally:
        logging.shutdown()
        os._exit(status)


def _serve(settings: Settings, arms: Sequence[LoadedArm], assignment: WorkerAssignment) -> int:
    """Serve until told to stop; returns the exit status."""
    if assignment.core is not None:
        os.sched_setaffinity(0, {assignment.core})
    memory, number = assignment.memory, assignment.number
    metrics = Metrics(memory.counts, number)
    try:
        app = create_app(
            settings, arms, metrics, steering=memory.steering, events=memory.events, number=number
        )
        config = server_config(settings, app)
    except BadConfiguration as error:  # what the supervisor has checked may have changed since
        return _refuse(assignment, str(error))
    # The supervisor logs the refusal: once, whether one worker refuses or all of them.
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.getMessage() != app.refusal)
    heartbeat = _Heartbeat(assignment.pipe, app.health)
    server = Server(config, lambda _: heartbeat.start(), heartbeat.stop, assignment.admin)
    try:
        gc.enable()
        server.run([assignment.socket])
    except BadConfiguration as error:
        return _refuse(assignment, str(error))
    except SystemExit:
        if app.refusal is None:
            raise
        return _refuse(assignment, app.refusal)
    return 0 if server.started else STARTUP_FAILURE


def _refuse(assignment: WorkerAssignment, reason: str) -> int:
    """Send the reason to the supervisor, which logs it; returns the exit status."""
    os.write(assignment.pipe, REFUSED + reason.encode())
    return STARTUP_FAILURE


class _Heartbeat:
    """Tells the supervisor every second that the worker can bid, and at the end that it stops.

    One that no longer can is replaced as one whose event loop stands still.
    """

    def __init__(self, pipe: int, health: Health) -> None:
        self._pipe = pipe
        self._health = health
        self._timer: asyncio.TimerHandle | None = None
        os.set_blocking(pipe, False)

    def start(self) -> None:
        """Send a heartbeat now and every second; without a supervisor the worker stops itself."""
        if self._send(HEARTBEAT if self._health.fault() is None else CANNOT_BID):
            self._timer = asyncio.get_running_loop().call_later(HEARTBEAT_SECONDS, self.start)
        else:
            signal.raise_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Send the last message."""
        if self._timer is not None:
            self._timer.cancel()
            self._send(STOPPING)

    def _send(self, message: bytes) -> bool:
        """Whether the supervisor is alive."""
        try:
            os.write(self._pipe, message)
        except BlockingIOError:  # the pipe is full: the supervisor is busy and has heartbeats to read
            return True
        except BrokenPipeError:
            return False
        return True
