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

from service.arms.kept import KeptArms
from service.arms.loading import LoadedArm, control_arm
from service.arms.reloads import Kind, Reloads
from service.arms.serving import start_steering
from service.arms.steering_memory import SteeringMemory
from service.calibration.decider import Decider
from service.control.commands import Commands
from service.control.events import EventLog
from service.control.protocol import WorkerStatus
from service.control.socket import ControlSocket
from service.errors import STARTUP_FAILURE
from service.feedback.memory import event_memory
from service.feedback.restore import restore_events
from service.feedback.tokens import now_ms
from service.metrics.families import Metrics
from service.metrics.memory import CountMemory
from service.process.logs import tell_left_out
from service.process.pool import PROCESSES_A_SLOT, SUPERVISOR, WorkerPool, WorkerProcess
from service.process.reload import ReloadableArms
from service.process.signals import signal_pipe
from service.process.slots import FIRST_RETRY_SECONDS, bind_slots, cores_of_workers
from service.process.sockets import bind_admin
from service.process.worker import REFUSED, SharedMemory
from service.settings import Settings

logger = logging.getLogger("bidlight")

# A worker that dies sooner after its first heartbeat may die at every start.
STABLE_SECONDS = 5.0


class Supervisor:
    """The workers of `settings`, forked from the process that calls `run`. Raises BadConfiguration.

    Commands come through `control`, if there is one.
    """

    def __init__(self, settings: Settings, control: ControlSocket | None = None) -> None:
        self._is_stopping = self._has_failed = self._was_ready = False
        cores = cores_of_workers(settings)
        gc.disable()
        control_log = EventLog(settings.control_log)
        processes = 1 + PROCESSES_A_SLOT * settings.workers
        counts = CountMemory(processes)
        metrics = Metrics(counts, SUPERVISOR)
        self._reload = ReloadableArms(settings, metrics)
        signal.signal(signal.SIGHUP, lambda *_: self.reloads.request())  # while bundles are read
        self._reload.read()
        specs = [arm.spec for arm in self._reload.current]
        self.steering = SteeringMemory(start_steering(settings, specs), processes)
        events = event_memory(settings, processes) if settings.feedback_keys else None
        self.decider: Decider | None = None
        if events is not None:
            restore_events(settings, events, metrics)
            if events.live is not None:
                self.decider = Decider(settings, events.live, metrics, now_ms())
        self._decided: dict[int, str] = {}
        slots = bind_slots(settings.host, settings.port, cores)
        self.port: int = slots[0].socket.getsockname()[1]
        self._admin = bind_admin(settings)
        self._control = control
        self._settings = settings
        self._commands = Commands(self, control_log, settings, metrics)
        memory = SharedMemory(counts, self.steering, events)
        release = (lambda: None) if control is None else control.release
        self._pool = WorkerPool(settings, slots, self._reload, memory, self._admin, release)

    @property
    def admin_port(self) -> int | None:
        """The admin port, if there is one."""
        return None if self._admin is None else self._admin.getsockname()[1]

    @property
    def arms(self) -> Sequence[LoadedArm]:
        """The arms to serve."""
        return self._reload.current

    @property
    def reloads(self) -> Reloads:
        """The reloads that are asked for by SIGHUP and by commands."""
        return self._reload.reloads

    @property
    def bundles(self) -> dict[str, str]:
        """The ids of the bundles to serve, by arm."""
        return self._reload.bundles

    @property
    def control_arm(self) -> str:
        """The arm that answers for killed ones."""
        return control_arm(self._settings, [*self.bundles])

    def workers(self) -> Sequence[WorkerStatus]:
        """The workers, those that stop included."""
        return self._pool.statuses()

    def follow(self) -> None:
        """The workers look at the weights and kills by themselves."""

    @property
    def kept(self) -> KeptArms[LoadedArm]:
        """What the arms served before."""
        return self._reload.kept

    def request(self, command: Kind, arms: Sequence[str], user: int) -> int:
        """Ask for a reload or a rollback of arms; its number. Raises BadConfiguration if it cannot be."""
        return self._reload.request(command, arms, user)

    def run(self, on_ready: Callable[[], object]) -> int:
        """Supervise until a signal; returns the exit status. Calls `on_ready` when all workers serve."""
        with signal_pipe() as signals:
            while not (self._is_stopping and self._pool.is_empty):
                if not self._is_stopping:
                    self._reload.undo_if_asked()
                    if self._pool.all_serving:
                        self._reload.advance()
                    self._decide()
                    self._pool.fill()
                self._pool.poll(signals, self._handle_signal, self._wakes)
                self._replace_ended()
                if self._control is not None:
                    self._control.poll(self._commands.answer)
                    if not self._is_stopping:
                        self._commands.step()
                tell_left_out()
                if not self._was_ready and self._pool.all_serving:
                    self._was_ready = True
                    on_ready()
        return STARTUP_FAILURE if self._has_failed else 0

    @property
    def _wakes(self) -> list[int]:
        return [] if self._control is None or self._is_stopping else [self._control.fileno()]

    def _decide(self) -> None:
        """Decide on live calibrations if it is time for that, also of arms that no worker serves yet."""
        if self.decider is None:
            return
        arms = [*(self._reload.previous or ()), *self._reload.current]
        decided = {arm.source.number: arm.spec.name for arm in arms}
        if decided != self._decided:
            self.decider.serve(decided)
            self._decided = decided
        self.decider.step_if_due(now_ms())

    def _handle_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self.reloads.request()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stop()

    def _stop(self) -> None:
        self._is_stopping = True
        if self._control is not None:
            self._control.close()
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
            self._reload.undo(reason)
        elif not self._was_ready and (status == STARTUP_FAILURE or not self._pool.any_serving):
            logger.error("%s", reason)
            self._has_failed = True
            self._stop()
        else:
            logger.error("%s before it served; another one is started", reason)
            self._pool.back_off(worker.slot)
