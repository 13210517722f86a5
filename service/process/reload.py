"""The arms that the workers serve, and a reload of them: committed when all workers serve it, or rolled back.

It knows no worker.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.arms.loading import LoadedArm, freeze_anew, read_arms
from service.arms.reloads import log_refusal, log_reload
from service.arms.unlike import warn_of_unlike_arms
from service.bundle.schema import Schema
from service.metrics.families import Metrics
from service.settings import Settings


class ReloadableArms:
    """The arms of `settings`; `metrics` are the supervisor's.

    `current` are to be served; `previous` were served before the reload under way, None without one.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._is_requested = False
        self.current: Sequence[LoadedArm] = ()
        self.previous: Sequence[LoadedArm] | None = None

    def read(self) -> None:
        """Read the arms for the first time. Raises BadConfiguration."""
        self.current = _read_frozen(self._settings)
        warn_of_unlike_arms(_schemas_of(self.current))

    def request(self) -> None:
        """Ask for a reload; it begins when the one under way is over."""
        self._is_requested = True

    def advance(self) -> None:
        """Commit the reload that all workers serve, and begin the one that was requested."""
        if self.previous is not None:
            self.previous = None
            self._metrics.reloads.labels("ok").inc()
            log_reload((arm.spec.name, arm.bundle.manifest) for arm in self.current)
        if self._is_requested:
            self._is_requested = False
            try:
                arms = _read_frozen(self._settings)
            except Exception as error:  # whatever it is, the workers go on
                self._refuse(error)
            else:
                self.previous, self.current = self.current, arms
                warn_of_unlike_arms(_schemas_of(self.current), _schemas_of(self.previous))

    def roll_back(self, reason: str) -> None:
        """Serve the previous arms again: a worker has refused the new ones."""
        assert self.previous is not None
        self.current, self.previous = self.previous, None
        self._refuse(reason)

    def forget_previous(self) -> None:
        """Release the previous arms, in a worker that serves the current ones."""
        self.previous = None

    def _refuse(self, reason: Exception | str) -> None:
        self._metrics.reloads.labels("refused").inc()
        log_refusal(reason)


def _schemas_of(arms: Sequence[LoadedArm]) -> dict[str, Schema]:
    return {arm.spec.name: arm.bundle.schema for arm in arms}


def _read_frozen(settings: Settings) -> list[LoadedArm]:
    """The arms as their folders hold them now, frozen to the garbage collector. Raises BadConfiguration.

    A collection would write to every page that the workers share.
    """
    arms = read_arms(settings)
    freeze_anew()
    return arms
