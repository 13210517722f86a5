"""What searches of trials share: the axes of a space, when a search ends, by which seed each trial draws.

It knows no trial, and of what axes mean only how hidden layers get narrower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from export.data.progress import Bar

Value = float | int | str
Values = Mapping[str, Value]

SMALLEST_WIDTH = 4


@dataclass(frozen=True)
class Axis:
    """One thing that is varied: numbers from `low` to `high`, or `choices`; whole ones where `default` is.

    only_with   the axis exists where another one has one of these values: its name, then the values
    """

    name: str
    default: Value
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Value, ...] = ()
    only_with: tuple[Value, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether a value is on the axis."""
        if self.choices:
            return value in self.choices
        return type(value) is type(self.default) and self.low <= float(value) <= self.high

    def exists(self, values: Values) -> bool:
        """Whether a point with these values on the other axes has a value here."""
        return not self.only_with or values.get(str(self.only_with[0])) in self.only_with[1:]


class Draws(Protocol):
    """What draws a value for an axis by its name: a trial of Optuna's."""

    def suggest_categorical(self, name: str, choices: Any, /) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, /, *, log: bool) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool) -> float: ...


def point_on(axes: Sequence[Axis], value_on: Callable[[Axis], Value]) -> dict[str, Value]:
    """A point: a value on each axis that exists with those on the axes before it."""
    values: dict[str, Value] = {}
    for axis in axes:
        if axis.exists(values):
            values[axis.name] = value_on(axis)
    return values


def drawn(trial: Draws, axes: Sequence[Axis]) -> dict[str, Value]:
    """The point that the trial draws."""
    return point_on(axes, partial(_drawn_on, trial))


def _drawn_on(trial: Draws, axis: Axis) -> Any:
    if axis.choices:
        return trial.suggest_categorical(axis.name, axis.choices)
    if isinstance(axis.default, int):
        return trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log)
    return trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)


def narrowed(widths: Sequence[int], layers: int, halvings: int) -> list[int]:
    """The first hidden layers, so many, each halved so often."""
    share = 0.5**halvings
    return [max(SMALLEST_WIDTH, round(width * share)) for width in widths[:layers]]


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

    def left(self, taken: Sequence[float], elapsed: float) -> float:
        """About how many seconds are left after trials that took so long, `elapsed` after the start."""
        typical = float(np.median(taken)) if taken else 0.0
        by_trials = None if self.trials is None else typical * max(0, self.trials - len(taken))
        by_time = None if self.seconds is None else max(0.0, self.seconds - elapsed)
        return min(one for one in (by_trials, by_time) if one is not None)

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
