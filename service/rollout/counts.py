"""What is counted of the two arms of a canary, as its gates read it; it knows no metric."""

from __future__ import annotations

from dataclasses import dataclass

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
        return ArmCounts(
            self.requests - before.requests,
            self.failed - before.failed,
            self.rows - before.rows,
            self.failed_rows - before.failed_rows,
            self.bids - before.bids,
            self.latency - before.latency,
            self.pctr - before.pctr,
        )


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Of both arms at the same moment."""

    canary: ArmCounts
    control: ArmCounts

    def since(self, before: PairCounts) -> PairCounts:
        """What has been counted since."""
        return PairCounts(self.canary.since(before.canary), self.control.since(before.control))
