"""The worker processes of a service: started in their slots, stopped, and monitored through their messages.

It decides nothing: what the end of a worker means is up to the supervisor.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from service.arms.loading import LoadedArm
from service.feedback.memory import EventMemory
from service.metrics.memory import CountMemory
from service.process.reload import ReloadableArms
from service.process.signals import blocked_signals
from service.process.slots import FIRST_RETRY_SECONDS, Slot
from service.process.sockets import drop_new_connections
from service.process.worker import HEARTBEAT, REFUSED, STOPPING, WorkerAssignment, become_worker
from service.settings import Settings

logger = logging.getLogger("bidlight")

# The supervisor's part of the memory in which all processes count; those of workers have higher numbers.
SUPERVISOR = 0
# Worker processes for each slot that can be alive at once: one that serves, and others that still answer.
PROCESSES_A_SLOT = 4
# What a start takes beyond loading: importing, opening the feature store.
STARTING_SECONDS = 30.0
# A worker that has not served has nothing to answer, and ends as soon as it is told to.
STOP_LOADING_SECONDS = 0.3
POLL_SECONDS = 0.5


@dataclass(eq=False)
class WorkerProcess:
    """A process forked to serve `arms` in `slot`. It is killed if it sends no heartbeat until `deadline`.

    `number` is its part of the counts; `serving_since` is the time of its first heartbeat, None before.
    """

    pid: int
    number: int
    pipe: int
    slot: Slot
    arms: Sequence[LoadedArm]
    deadline: float
    serving_since: float | None = None
    is_stopping: bool = False
    refusal: bytes = b""

    @property
    def is_serving(self) -> bool:
        """Whether it has sent a heartbeat."""
        return self.serving_since is not None


class WorkerPool:
    """A worker in each of `slots`, forked to serve the current ones of `arms`; all accept from `admin`.

    They count in `counts`, and share `events`.
    """

    def __init__(
        self,
        settings: Settings,
        slots: Sequence[Slot],
        arms: ReloadableArms,
        counts: CountMemory,
        admin: socket.socket | None = None,
        events: EventMemory | None = None,
    ) -> None:
        self._settings = settings
        self._slots = slots
        self._arms = arms
        self._counts = counts
        self._admin = admin
        self._events = events
        self._workers: list[WorkerProcess] = []
        self._polled = time.monotonic()

    @property
    def is_empty(self) -> bool:
        """Whether no process is left."""
        return not self._workers

    @property
    def any_serving(self) -> bool:
        """Whether a worker has sent a heartbeat."""
        return any(worker.is_serving for worker in self._workers)

    @property
    def all_serving(self) -> bool:
        """Whether every slot has a worker that serves the current arms, and no other."""
        active = self._active()
        return len(active) == len(self._slots) and all(
            worker.is_serving and worker.arms is self._arms.current for worker in active
        )

    def _active(self, slot: Slot | None = None) -> list[WorkerProcess]:
        """The workers, of `slot` or of all, that are not stopping."""
        return [worker for worker in self._workers if not worker.is_stopping and slot in (None, worker.slot)]

    def fill(self) -> None:
        """Start workers of the current arms where there are none; stop the old ones once those serve."""
        for slot in self._slots:
            active = self._active(slot)
            new = next((worker for worker in active if worker.arms is self._arms.current), None)
            if new is not None and new.is_serving:
                for worker in active:
                    if worker is not new:
                        self._stop_worker(worker)
            elif new is None and slot.may_start and not (active and self._any_starting()):
                # Replace serving workers one by one: a start takes a core from those that serve.
                self._start(slot)

    def _any_starting(self) -> bool:
        return not all(worker.is_serving for worker in self._active())

    def _start(self, slot: Slot) -> None:
        taken = {SUPERVISOR, *(worker.number for worker in self._workers)}
        number = next((number for number in range(self._counts.parts) if number not in taken), None)
        if number is None:
            self._start_later(slot, f"{len(taken) - 1} old ones must first answer their last requests")
            return
        try:
            reader, writer = os.pipe()
        except OSError as error:
            self._start_later(slot, error)
            return
        try:
            with blocked_signals():
                pid = os.fork()
                if pid == 0:
                    assignment = WorkerAssignment(
                        self._admin, slot.socket, slot.core, self._counts, self._events, number, writer
                    )
                    release = partial(self._release_in_worker, slot, reader)
                    become_worker(self._settings, self._arms.current, assignment, release)
                deadline = time.monotonic() + self._settings.load_seconds + STARTING_SECONDS
                self._workers.append(WorkerProcess(pid, number, reader, slot, self._arms.current, deadline))
        except OSError as error:
            os.close(reader)
            self._start_later(slot, error)
        finally:
            os.close(writer)

    def _start_later(self, slot: Slot, reason: OSError | str) -> None:
        logger.error("no worker can be started now: %s", reason)
        self.back_off(slot)

    def back_off(self, slot: Slot) -> None:
        """Start no worker in `slot` for a while."""
        slot.back_off(keep_socket=any(worker.slot is slot for worker in self._workers))

    def _release_in_worker(self, slot: Slot, reader: int) -> None:
        """Close what belongs to other workers: held here, their sockets and pipes would stay open."""
        os.close(reader)
        for worker in self._workers:
            os.close(worker.pipe)
            worker.arms = ()  # or replaced bundles would stay in memory
        self._arms.forget_previous()
        for other in self._slots:
            if other is not slot:
                other.socket.close()

    def stop(self) -> None:
        """Stop all workers; each serves what waits at its socket, where nothing new may wait from now on."""
        listening = [slot.socket for slot in self._slots]
        if self._admin is not None:
            listening.append(self._admin)
        for each in listening:
            drop_new_connections(each)
        for each in listening:
            each.close()
        for worker in self._active():
            self._stop_worker(worker)

    def _stop_worker(self, worker: WorkerProcess) -> None:
        worker.is_stopping = True
        if worker.is_serving:
            self._extend_deadline(worker, self._settings.drain_seconds)
        else:
            worker.deadline = time.monotonic() + STOP_LOADING_SECONDS
        os.kill(worker.pid, signal.SIGTERM)

    def _extend_deadline(self, worker: WorkerProcess, more_seconds: float = 0.0) -> None:
        worker.deadline = time.monotonic() + self._settings.worker_timeout_seconds + more_seconds

    def poll(self, signals: int, handle_signal: Callable[[int], object]) -> None:
        """Wait for signals and messages, and handle all there are; `signals` is from `signal_pipe`."""
        pipes = [worker.pipe for worker in self._workers]
        readable, _, _ = select.select([signals, *pipes], [], [], POLL_SECONDS)
        if signals in readable:
            for number in os.read(signals, 4096):
                handle_signal(number)
        for worker in self._workers:
            if worker.pipe in readable:
                self._receive(worker)
        self._extend_deadlines_by_delay()

    def _extend_deadlines_by_delay(self) -> None:
        """Extend deadlines by however long the supervisor was blocked."""
        now = time.monotonic()
        delay = now - self._polled - POLL_SECONDS
        self._polled = now
        if delay > POLL_SECONDS:
            for worker in self._workers:
                worker.deadline += delay

    def _receive(self, worker: WorkerProcess) -> None:
        messages = os.read(worker.pipe, 65536)
        if worker.refusal or messages.startswith(REFUSED):
            worker.refusal += messages
        elif HEARTBEAT in messages and not worker.is_serving and worker.is_stopping:
            worker.serving_since = time.monotonic()  # it began just then, and has requests to answer
            self._extend_deadline(worker, self._settings.drain_seconds)
        elif messages and not worker.is_stopping:
            if HEARTBEAT in messages:
                if worker.serving_since is None:
                    worker.serving_since = time.monotonic()
                    worker.slot.retry_seconds = FIRST_RETRY_SECONDS
                self._extend_deadline(worker)
            if STOPPING in messages:
                worker.is_stopping = True
                self._extend_deadline(worker, self._settings.drain_seconds)

    def reap(self) -> Iterator[tuple[WorkerProcess, int]]:
        """The workers that have ended, with their exit status; kills those whose deadline has passed."""
        for worker in list(self._workers):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._receive(worker)
                os.close(worker.pipe)
                self._workers.remove(worker)
                self._counts.end_tenure(worker.number)
                yield worker, os.waitstatus_to_exitcode(status)
            elif time.monotonic() > worker.deadline:
                if worker.is_serving or not worker.is_stopping:
                    logger.error("worker %d is silent for too long and is killed", worker.pid)
                os.kill(worker.pid, signal.SIGKILL)
                self._extend_deadline(worker)
