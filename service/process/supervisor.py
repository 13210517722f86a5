"""Keeps the workers of a service alive: it reads the bundles once and forks workers that share them.

The supervisor creates no session, has no event loop and starts no thread, so a fork copies nothing that runs.

- A worker that dies, hangs or stops gets a successor on the same socket: at once if it has served for a
  while, otherwise after a pause.
- A worker that refuses to start ends the service with status 3, but only until all have served once. After
  that the cause is taken as temporary (memory, a file): the others serve, and starts are retried with longer
  and longer pauses.
- SIGHUP reads the bundles again and replaces the workers one by one: the next starts when the one before it
  serves. If the bundles or any worker refuse, the arms from before are served again.
- SIGTERM and SIGINT stop all workers; each answers the requests in flight.

It knows no route and no model.
"""

from __future__ import annotations

import gc
import logging
import signal
import time
from collections.abc import Callable, Sequence

from service.arms.loading import LoadedArm
from service.errors import STARTUP_FAILURE
from service.feedback.memory import EventMemory
from service.feedback.restore import restore_events
from service.metrics.families import Metrics
from service.metrics.memory import CountMemory
from service.process.logs import tell_left_out
from service.process.pool import PROCESSES_A_SLOT, SUPERVISOR, WorkerPool, WorkerProcess
from service.process.reload import ReloadableArms
from service.process.signals import signal_pipe
from service.process.slots import FIRST_RETRY_SECONDS, bind_slots, cores_of_workers
from service.process.sockets import bind_admin
from service.process.worker import REFUSED
from service.settings import Settings

logger = logging.getLogger("bidlight")

# A worker that dies sooner after its first heartbeat may die at every start.
STABLE_SECONDS = 5.0


class Supervisor:
    """The workers of `settings`, forked from the process that calls `run`. Raises BadConfiguration."""

    def __init__(self, settings: Settings) -> None:
        self._is_stopping = self._has_failed = self._was_ready = False
        cores = cores_of_workers(settings)
        gc.disable()
        counts = CountMemory(1 + PROCESSES_A_SLOT * settings.workers)
        metrics = Metrics(counts, SUPERVISOR)
        self._reload = ReloadableArms(settings, metrics)
        signal.signal(signal.SIGHUP, lambda *_: self._reload.request())  # while bundles are read
        self._reload.read()
        events = EventMemory(settings.max_attributed_events) if settings.feedback_keys else None
        if events is not None:
            restore_events(settings, events, metrics)
        slots = bind_slots(settings.host, settings.port, cores)
        self.port: int = slots[0].socket.getsockname()[1]
        self._admin = bind_admin(settings)
        self._pool = WorkerPool(settings, slots, self._reload, counts, self._admin, events)

    @property
    def admin_port(self) -> int | None:
        """The admin port, if there is one."""
        return None if self._admin is None else self._admin.getsockname()[1]

    @property
    def arms(self) -> Sequence[LoadedArm]:
        """The arms to serve."""
        return self._reload.current

    def run(self, on_ready: Callable[[], object]) -> int:
        """Supervise until a signal; returns the exit status. Calls `on_ready` when all workers serve."""
        with signal_pipe() as signals:
            while not (self._is_stopping and self._pool.is_empty):
                if not self._is_stopping:
                    if self._pool.all_serving:
                        self._reload.advance()
                    self._pool.fill()
                self._pool.poll(signals, self._handle_signal)
                self._replace_ended()
                tell_left_out()
                if not self._was_ready and self._pool.all_serving:
                    self._was_ready = True
                    on_ready()
        return STARTUP_FAILURE if self._has_failed else 0

    def _handle_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload.request()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stop()

    def _stop(self) -> None:
        self._is_stopping = True
        self._reload.stop()
        self._pool.stop()

    def _replace_ended(self) -> None:
        for worker, status in self._pool.reap():
            if not (self._is_stopping or worker.is_stopping):
                self._replace(worker, status)

    def _replace(self, worker: WorkerProcess, status: int) -> None:
        """Decide what the unexpected end of a worker means for its successor."""
        reason = worker.refusal.removeprefix(REFUSED).decode() or f"a worker ended with status {status}"
        if worker.serving_since is not None:
            logger.warning("%s; another one is started", reason)
            if time.monotonic() < worker.serving_since + STABLE_SECONDS:
                worker.slot.pause(FIRST_RETRY_SECONDS)
        elif worker.arms is not self._reload.current:
            pass  # its arms were refused by another worker before
        elif self._reload.previous is not None:
            self._reload.roll_back(reason)
        elif not self._was_ready and (status == STARTUP_FAILURE or not self._pool.any_serving):
            logger.error("%s", reason)
            self._has_failed = True
            self._stop()
        else:
            logger.error("%s before it served; another one is started", reason)
            self._pool.back_off(worker.slot)
