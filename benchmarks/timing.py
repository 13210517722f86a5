"""Times steps in turns; a step times itself."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping


def median_in_turns(steps: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of `rounds` calls of each, which take turns, after one round to warm up.

    A step returns its own time, because only it knows which part of it counts.
    """
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _, (name, step) in itertools.product(range(rounds + 1), steps.items()):
        found[name].append(step())
    return {name: statistics.median(times[1:]) for name, times in found.items()}
