"""A service of one process, as commands see it; it knows no command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from service.arms.kept import KeptArms
from service.arms.loading import control_arm
from service.arms.reloads import ROLLBACK, Kind, Reloads
from service.arms.serving import ServedArms
from service.arms.split import Arm
from service.arms.steering_memory import SteeringMemory
from service.calibration.decider import Decider
from service.control.commands import Commands
from service.control.events import EventLog
from service.control.protocol import WorkerStatus
from service.control.socket import ControlSocket
from service.metrics.families import Metrics
from service.settings import Settings

# How often clients of the control socket are looked at that send nothing, and a canary.
LOOK_SECONDS = 1.0


class CommandedProcess:
    """Answers the commands that come through `control`, if there is one, from the event loop that serves.

    Raises BadConfiguration for a log that cannot be written.
    """

    def __init__(
        self,
        settings: Settings,
        served: ServedArms,
        control: ControlSocket | None,
        metrics: Metrics,
        decider: Decider | None = None,
    ) -> None:
        self.decider = decider
        self._served = served
        self._control = control
        self._settings = settings
        self._commands = Commands(self, EventLog(settings.control_log), settings, metrics)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Answer from now on, in the running event loop."""
        if self._control is not None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._control.fileno(), self._poll)
            self._look()

    def stop(self) -> None:
        """Answer no more, and remove the socket."""
        if self._control is None:
            return
        if self._loop is not None and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._loop.remove_reader(self._control.fileno())
        self._control.close()

    @property
    def steering(self) -> SteeringMemory:
        """The weights and kills that it serves."""
        return self._served.steering

    @property
    def reloads(self) -> Reloads:
        """The reloads that are asked for by SIGHUP and by commands."""
        return self._served.reloads

    @property
    def bundles(self) -> dict[str, str]:
        """The ids of the bundles that it serves, by arm."""
        return self._served.bundles

    @property
    def control_arm(self) -> str:
        """The arm that answers for killed ones."""
        return control_arm(self._settings, [*self.bundles])

    def workers(self) -> Sequence[WorkerStatus]:
        """This process."""
        return [WorkerStatus(os.getpid(), "serving", self.steering.noted(0), True)]

    def follow(self) -> None:
        """Serve other weights and kills at once."""
        self._served.follow()

    @property
    def kept(self) -> KeptArms[Arm]:
        """What its arms served before."""
        return self._served.kept

    def request(self, command: Kind, arms: Sequence[str], user: int) -> int:
        """Ask for a reload or a rollback of arms; its number. Raises BadConfiguration if it cannot be."""
        if command == ROLLBACK:
            self.kept.check(arms)
        return self._served.request(command, arms, user)

    def _poll(self) -> None:
        assert self._control is not None
        self._control.poll(self._commands.answer)

    def _look(self) -> None:
        assert self._loop is not None
        self._poll()
        self._commands.step()
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
