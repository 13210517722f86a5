"""Whether this process can still bid: every arm scores a golden row, and no queue stands still.

It knows neither probes nor the supervisor, which ask it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

from service.arms.split import Arm
from service.metrics.families import Metrics
from service.scoring.golden import check_golden

logger = logging.getLogger("bidlight")

# However often it is asked, an arm is looked at once in this time.
CHECK_SECONDS = 1.0
# Rows wait for a batch, and none begins: longer than the slowest batch takes.
STUCK_SECONDS = 5.0


class Health:
    """Of the arms that `serving` returns. The event loop runs, or nobody could ask."""

    def __init__(self, serving: Callable[[], Sequence[Arm]], metrics: Metrics) -> None:
        self._serving = serving
        self._cannot_bid = metrics.cannot_bid
        self._fault: str | None = None
        self._checked = -math.inf

    def fault(self) -> str | None:
        """Why the process cannot bid, in one line; None if it can."""
        now = time.monotonic()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            # All arms, so that each that fails is counted.
            self._fault = next(filter(None, [self._look_at(arm) for arm in self._serving()]), None)
            if self._fault is not None:
                logger.error("this process can no longer bid: %s", self._fault)
        return self._fault

    def _look_at(self, arm: Arm) -> str | None:
        fault = _fault_of(arm)
        self._cannot_bid.labels(arm.name).inc(fault is not None)
        return fault


def _fault_of(arm: Arm) -> str | None:
    waited = arm.predictor.stuck_seconds
    if waited > STUCK_SECONDS:
        return f"arm {arm.name}: rows have waited for a batch for {waited:.0f} seconds"
    try:
        check_golden(arm.predictor)
    except Exception as error:  # of any kind: ONNX Runtime's errors have no common base class
        return f"arm {arm.name}: {error}"
    return None
