"""What searches of trials share: when one ends, and by which seed each trial draws. It knows no trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.data.progress import Bar


@dataclass(frozen=True)
class Budget:
    """When a search ends: after so many trials in all, or so many seconds from its start."""

    trials: int | None
    seconds: float | None = None

    @classmethod
    def of(cls, trials: int | None, minutes: float | None, *, usual: int) -> Budget:
        """What was asked for; `usual` trials where nothing was."""
        return cls(
            usual if trials is None and minutes is None else trials,
            None if minutes is None else 60.0 * minutes,
        )

    def is_used_up(self, taken: Sequence[float], elapsed: float, *, set_aside: float = 0.0) -> bool:
        """Whether no other trial fits in beside the seconds that are set aside; the first one always does.

        `taken` are the seconds of each trial so far.
        """
        if self.trials is not None and len(taken) >= self.trials:
            return True
        if self.seconds is None or not taken:
            return False
        return elapsed + set_aside + float(np.median(taken)) > self.seconds

    def bar(self, done: int) -> Bar:
        """What is left of it after so many trials: of the trials, else of the seconds."""
        if self.trials is not None:
            return Bar("search", max(0, self.trials - done), unit="trials", whole=True)
        return Bar("search", self.seconds, unit="s", whole=True)

    def step(self, seconds: float) -> float:
        """By how much a trial that took so long moves the bar on."""
        return seconds if self.trials is None else 1


def seed_of(search: int, trial: int) -> int:
    """The seed by which a trial of a search draws, whatever process runs it."""
    return int(np.random.SeedSequence((search, trial)).generate_state(1)[0])
