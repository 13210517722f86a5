"""The live calibrations of the arms of a process, which reads what is decided, and may decide itself."""

from __future__ import annotations

from collections.abc import Sequence

from service.arms.split import Arm
from service.calibration.decider import Decider
from service.calibration.memory import LiveMemory, LiveState
from service.calibration.revisions import Revisions
from service.feedback.tokens import now_ms
from service.metrics.families import Metrics
from service.settings import Settings


class LiveArms:
    """Gives arms their revisions, if the settings say so. Of several processes only one `decides`."""

    def __init__(self, settings: Settings, memory: LiveMemory, metrics: Metrics, *, decides: bool) -> None:
        self._is_served = settings.live_calibration == "on"
        self._revisions = Revisions(memory)
        self.decider = Decider(settings, memory, metrics, now_ms(), in_thread=True) if decides else None
        self._arms: Sequence[tuple[Arm, int]] = ()

    def open(self, arms: Sequence[Arm]) -> None:
        """These arms are served from now on."""
        self._arms = [(arm, arm.source.number) for arm in arms]
        if self.decider is not None:
            self.decider.serve({number: arm.name for arm, number in self._arms})
        self.refresh()

    def refresh(self) -> None:
        """Decide if it is time for that, and serve what is decided."""
        if self.decider is not None:
            self.decider.step_if_due(now_ms())
        if self._is_served:
            for arm, number in self._arms:
                arm.predictor.revision = self._revisions.revision(number)

    def state(self, arm: Arm) -> LiveState:
        """What is served for an arm, or would be, and why."""
        return self._revisions.state(arm.source.number)
