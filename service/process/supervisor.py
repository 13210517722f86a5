"""Keeps the workers of a service alive: bundles are read here once, and workers are forked that share them.

The supervisor makes no session, has no event loop and starts no thread, so that a fork copies nothing that
runs. What it holds is frozen to the garbage collector before the first fork: a collection would write to
every page that workers share.

- A worker that dies, hangs or is told to stop has a successor of the same socket: at once if it served for a
  while, else after a moment.
- One that refuses to start stops the service with status 3, but only until all have served once: from then on
  it is a matter of the moment (memory, a file) while others serve, and is tried again after longer pauses.
- SIGHUP reads the bundles anew and replaces the workers one by one: the next begins when the one before it
  serves. If the bundles, or any worker of them, are refused, the arms from before are served on, or again.
- SIGTERM and SIGINT stop all of them; each answers what is in flight.

It knows no route and no model.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

from service.arms.loading import LoadedArm, freeze_anew, read_arms
from service.errors import STARTUP_FAILURE, BadConfiguration
from service.metrics.families import Metrics
from service.process.sockets import bind_beside, bind_together, cores_of_workers
from service.process.worker import LEAVING, REFUSED, SERVING, SIGNALS, Post, become_worker
from service.settings import Settings

logger = logging.getLogger("bidlight")

START_SECONDS = 120.0
# Before another attempt; doubled at each that fails, up to the longest.
AGAIN_SECONDS, LONGEST_AGAIN_SECONDS = 1.0, 30.0
# A worker that dies sooner after its first word may die at each start.
SETTLED_SECONDS = 5.0
LISTEN_SECONDS = 0.5
# Of its metric files. Its process id will not do: in a container that is 1, as a worker may be called.
METRICS_NAME = "supervisor"


@dataclass(eq=False)
class Place:
    """Where one worker at a time serves: its socket, its core, and when the next may be started there.

    `pause_seconds` is how long none is, should the next attempt fail.
    """

    socket: socket.socket
    core: int | None
    not_before: float = 0.0
    pause_seconds: float = AGAIN_SECONDS


@dataclass(eq=False)
class Worker:
    """A process forked to serve `arms` at `place`. `deadline` is when it is killed for its silence.

    `serves_since` is when it first said that it serves; None before.
    """

    pid: int
    name: int
    pipe: int
    place: Place
    arms: Sequence[LoadedArm]
    deadline: float
    serves_since: float | None = None
    leaves: bool = False
    refusal: bytes = b""

    @property
    def serves(self) -> bool:
        """Whether it said so, ever."""
        return self.serves_since is not None


class Supervisor:
    """The workers of `settings`, forked of the process that calls `run`. Raises BadConfiguration."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        cores = cores_of_workers(settings)
        gc.disable()
        self._asked_to_reload = self._stops = self._failed = self._was_ready = False
        signal.signal(signal.SIGHUP, lambda number, _: self._obey(number))  # while bundles are read
        self.arms: Sequence[LoadedArm] = _read_to_share(settings)
        sockets = bind_together(settings.host, settings.port, settings.workers)
        self.port: int = sockets[0].getsockname()[1]
        self._places = [Place(sock, core) for sock, core in zip(sockets, cores, strict=True)]
        self._workers: list[Worker] = []
        self._listened = time.monotonic()
        self._metrics: Metrics | None = None
        self._arms_before: Sequence[LoadedArm] | None = None  # while a reload lasts

    def run(self, on_ready: Callable[[], object]) -> int:
        """Supervise until a signal; the exit status. `on_ready` is called when all workers serve."""
        with _signals() as signals:
            while not self._stops or self._workers:
                if not self._stops:
                    self._reload()
                    self._staff()
                self._listen(signals)
                self._excuse_absence()
                for worker in list(self._workers):
                    self._look_after(worker)
                if not self._was_ready and self._all_serve():
                    self._was_ready = True
                    on_ready()
        return STARTUP_FAILURE if self._failed else 0

    def _all_serve(self) -> bool:
        """Whether every place has a worker that serves the arms of now, and no other."""
        crew = [worker for worker in self._workers if not worker.leaves]
        return len(crew) == len(self._places) and all(
            worker.serves and worker.arms is self.arms for worker in crew
        )

    def _staff(self) -> None:
        """See that every place has a worker that serves the arms of now; old ones stay until it does."""
        for place in self._places:
            crew = [worker for worker in self._workers if worker.place is place and not worker.leaves]
            new = next((worker for worker in crew if worker.arms is self.arms), None)
            if new is not None and new.serves:
                for worker in crew:
                    if worker is not new:
                        self._dismiss(worker)
            elif new is None and place.not_before <= time.monotonic() and not (crew and self._one_starts()):
                # Where one serves, the next may wait: few cores shall be busy with starting.
                self._start(place)

    def _one_starts(self) -> bool:
        return not all(worker.serves for worker in self._workers if not worker.leaves)

    def _start(self, place: Place) -> None:
        names = {worker.name for worker in self._workers}
        name = next(number for number in range(len(names) + 1) if number not in names)
        try:
            heard, said = os.pipe()
        except OSError as error:
            self._start_later(place, error)
            return
        # A signal that came before the child's own handlers would be lost in those of this process.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                post = Post(place.socket, place.core, name, said)
                become_worker(self._settings, self.arms, post, partial(self._let_go, place, heard))
            self._workers.append(Worker(pid, name, heard, place, self.arms, time.monotonic() + START_SECONDS))
        except OSError as error:
            os.close(heard)
            self._start_later(place, error)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.close(said)

    def _start_later(self, place: Place, error: OSError) -> None:
        logger.error("no worker can be started now: %s", error)
        self._vacate(place)

    def _let_go(self, place: Place, heard: int) -> None:
        """In a worker: close what is of others. Their sockets would not stop to listen, nor pipes break."""
        os.close(heard)
        for worker in self._workers:
            os.close(worker.pipe)
            worker.arms = ()  # or bundles that were replaced would live on in the worker
        self._arms_before = None
        for other in self._places:
            if other is not place:
                other.socket.close()

    def _dismiss(self, worker: Worker) -> None:
        worker.leaves = True
        self._allow_silence(worker, self._settings.drain_seconds)
        os.kill(worker.pid, signal.SIGTERM)

    def _allow_silence(self, worker: Worker, more_seconds: float = 0.0) -> None:
        worker.deadline = time.monotonic() + self._settings.worker_timeout_seconds + more_seconds

    def _listen(self, signals: int) -> None:
        """Wait until there is a signal or a word of a worker, and take note of all there are."""
        pipes = [worker.pipe for worker in self._workers]
        heard, _, _ = select.select([signals, *pipes], [], [], LISTEN_SECONDS)
        if signals in heard:
            for number in os.read(signals, 4096):
                self._obey(number)
        for worker in self._workers:
            if worker.pipe in heard:
                self._hear(worker)

    def _excuse_absence(self) -> None:
        """Put deadlines off by the time that this process read bundles, or was itself kept from running."""
        now = time.monotonic()
        absence = now - self._listened - LISTEN_SECONDS
        self._listened = now
        if absence > LISTEN_SECONDS:
            for worker in self._workers:
                worker.deadline += absence

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._asked_to_reload = True
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stop()

    def _stop(self) -> None:
        """Stop the workers; the sockets first, or connections would wait here for nobody to take them."""
        self._stops = True
        for place in self._places:
            place.socket.close()
        for worker in self._workers:
            if not worker.leaves:
                self._dismiss(worker)

    def _hear(self, worker: Worker) -> None:
        words = os.read(worker.pipe, 65536)
        if worker.refusal or words.startswith(REFUSED):
            worker.refusal += words
        elif words and not worker.leaves:
            if SERVING in words:
                if worker.serves_since is None:
                    worker.serves_since = time.monotonic()
                    worker.place.pause_seconds = AGAIN_SECONDS
                self._allow_silence(worker)
            if LEAVING in words:
                worker.leaves = True
                self._allow_silence(worker, self._settings.drain_seconds)

    def _look_after(self, worker: Worker) -> None:
        """Bury it if it is dead; end it if it is silent."""
        pid, status = os.waitpid(worker.pid, os.WNOHANG)
        if pid:
            self._hear(worker)
            os.close(worker.pipe)
            self._workers.remove(worker)
            mark_process_dead(worker.name)  # type: ignore[no-untyped-call]
            if not (self._stops or worker.leaves):
                self._replace(worker, os.waitstatus_to_exitcode(status))
        elif time.monotonic() > worker.deadline:
            logger.error("worker %d is silent for too long and is killed", worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
            self._allow_silence(worker)

    def _replace(self, worker: Worker, status: int) -> None:
        """Find out what the death of a worker means for the next one."""
        reason = worker.refusal.removeprefix(REFUSED).decode() or f"a worker ended with status {status}"
        now = time.monotonic()
        if worker.serves_since is not None:
            logger.warning("%s; another one is started", reason)
            if now < worker.serves_since + SETTLED_SECONDS:
                worker.place.not_before = now + AGAIN_SECONDS
        elif worker.arms is not self.arms:
            return  # refused with another one, before
        elif self._arms_before is not None:
            self.arms = self._arms_before
            self._end_reload(reason)
        elif not self._was_ready and (status == STARTUP_FAILURE or not any(w.serves for w in self._workers)):
            logger.error("%s", reason)
            self._failed = True
            self._stop()
        else:
            logger.error("%s before it served; another one is started", reason)
            self._vacate(worker.place)

    def _vacate(self, place: Place) -> None:
        """Start nobody for a while, in which the kernel shall deal connections to where somebody is."""
        place.not_before = time.monotonic() + place.pause_seconds
        place.pause_seconds = min(2.0 * place.pause_seconds, LONGEST_AGAIN_SECONDS)
        if any(worker.place is place for worker in self._workers):
            return  # who serves here has that socket, and connections of it to hand on
        try:
            place.socket, old = bind_beside(place.socket), place.socket
        except OSError as error:  # connections wait at the old one, which is better than no supervisor
            logger.error("a socket goes on without a worker for a moment: %s", error)
        else:
            old.close()

    def _reload(self) -> None:
        """Read the arms anew if that was asked for and the last reload is over; say how a reload ended."""
        if not self._all_serve():
            return
        if self._arms_before is not None:
            self._end_reload()
        if self._asked_to_reload:
            self._asked_to_reload = False
            try:
                arms = _read_to_share(self._settings)
            except Exception as error:  # whatever it is, the workers go on
                if not isinstance(error, BadConfiguration):
                    logger.exception("the bundles cannot be read")
                self._end_reload(str(error) or repr(error))
                return
            self._arms_before, self.arms = self.arms, arms

    def _end_reload(self, refusal: str | None = None) -> None:
        self._arms_before = None
        try:
            self._count_reload("ok" if refusal is None else "refused")
        except OSError as error:
            logger.error("a reload is not counted: %s", error)
        if refusal is None:
            served = ", ".join(f"{arm.spec.name} ({arm.bundle.manifest.id})" for arm in self.arms)
            logger.info("reloaded %s", served)
        else:
            logger.error("the arms are not reloaded and go on as they were: %s", refusal)

    def _count_reload(self, outcome: str) -> None:
        """Raises OSError: its file is made at the first reload."""
        if self._metrics is None:
            values.ValueClass = values.MultiProcessValue(lambda: METRICS_NAME)  # type: ignore[no-untyped-call]
            self._metrics = Metrics()
        self._metrics.reloads.labels(outcome).inc()


def _read_to_share(settings: Settings) -> list[LoadedArm]:
    """The arms of now, which no collection of garbage will touch in any process. Raises BadConfiguration."""
    arms = read_arms(settings)
    freeze_anew()
    return arms


@contextmanager
def _signals(numbers: Iterable[signal.Signals] = SIGNALS) -> Iterator[int]:
    """A descriptor from which the numbers of signals that come are read, a byte each."""
    read, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written)  # first, or one that comes now would be lost
    for number in numbers:
        signal.signal(number, lambda *_: None)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(-1)
        os.close(read)
        os.close(written)
