"""What is counted of the two arms of a canary, as its gates read it; it knows no metric."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ArmCounts:
    """Of an arm, since the service began or between two moments.

    `requests` are those that were answered or failed, `failed` those that failed for want of the service.
    `latency` and `pctr` are values in buckets, of answered requests and of rows.
    """

    requests: float
    failed: float
    rows: float
    failed_rows: float
    bids: float
    latency: Numbers
    pctr: Numbers

    def since(self, before: ArmCounts) -> ArmCounts:
        """What has been counted since."""
        return self._with(before, operator.sub)

    def plus(self, other: ArmCounts) -> ArmCounts:
        """Both together."""
        return self._with(other, operator.add)

    def _with(self, other: ArmCounts, make: Callable[[Any, Any], Any]) -> ArmCounts:
        names = [each.name for each in fields(self)]
        return ArmCounts(*(make(getattr(self, name), getattr(other, name)) for name in names))


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Of both arms at the same moment."""

    canary: ArmCounts
    control: ArmCounts

    def since(self, before: PairCounts) -> PairCounts:
        """What has been counted since."""
        return PairCounts(self.canary.since(before.canary), self.control.since(before.control))

    def plus(self, other: PairCounts) -> PairCounts:
        """Both together."""
        return PairCounts(self.canary.plus(other.canary), self.control.plus(other.control))
