"""What canaries are judged by, read from what all processes count; it judges nothing."""

from __future__ import annotations

import numpy as np

from service.calibration.decider import Decider
from service.metrics.families import Metrics
from service.metrics.series import Labels
from service.rollout.counts import ArmCounts, PairCounts
from service.rollout.slow import Feedback

# Outcomes of requests that the service has failed, not the client.
FAILURES = (
    "inference_failed",
    "row_failed",
    "internal_error",
    "cannot_bid",
    "not_ready",
    "overloaded",
    "too_late",
)
_REQUESTS, _LATENCY, _PCTR = "bidlight_requests", "bidlight_request_seconds", "bidlight_pctr"
_FAILED_ROWS, _CANDIDATES = "bidlight_failed_rows", "bidlight_candidates"


def pair_counts(metrics: Metrics, canary: str, control: str) -> PairCounts:
    """What was counted of two arms since the service began, over all processes."""
    wanted = [key for arm in (canary, control) for key in _keys(arm)]
    sums = metrics.sums(wanted)

    def number(name: str, *labels: str) -> float:
        return sums[name, labels][0]

    def arm_counts(arm: str) -> ArmCounts:
        failed = sum(number(_REQUESTS, arm, outcome) for outcome in FAILURES)
        pctr = np.array(sums[_PCTR, (arm,)][1:])
        failed_rows = number(_FAILED_ROWS, arm)
        return ArmCounts(
            number(_REQUESTS, arm, "ok") + failed,
            failed,
            float(pctr.sum()) + failed_rows,
            failed_rows,
            number(_CANDIDATES, arm, "bid"),
            np.array(sums[_LATENCY, (arm,)][1:]),
            pctr,
        )

    return PairCounts(arm_counts(canary), arm_counts(control))


def _keys(arm: str) -> list[tuple[str, Labels]]:
    return [
        *((_REQUESTS, (arm, outcome)) for outcome in ("ok", *FAILURES)),
        (_LATENCY, (arm,)),
        (_PCTR, (arm,)),
        (_FAILED_ROWS, (arm,)),
        (_CANDIDATES, (arm, "bid")),
    ]


class FeedbackOfPair:
    """Impressions and clicks of two arms, slot by slot of the time at which their tokens were made.

    A slot is given once, when its clicks are as complete as they will be; the first one is the first that
    begins after now.
    """

    def __init__(self, decider: Decider, canary: str, control: str, now_ms: int) -> None:
        self._decider = decider
        self._arms = canary, control
        self._next = now_ms // decider.memory.slot_ms + 1
        # Bids of both arms by the beginning of slots that are not given yet.
        self._bids: dict[int, tuple[float, float]] = {}

    def read(self, counts: PairCounts, now_ms: int) -> list[tuple[Feedback, Feedback]]:
        """What has become complete, of the canary and of control; `counts` are those by now."""
        memory = self._decider.memory
        self._bids.setdefault(now_ms // memory.slot_ms, (counts.canary.bids, counts.control.bids))
        found = []
        while self._next <= memory.last_mature(now_ms):
            slot, self._next = self._next, self._next + 1
            begun = self._bids.pop(slot, None)
            ended = self._bids.get(slot + 1)
            places = [self._decider.place(arm) for arm in self._arms]
            if begun is None or ended is None or None in places:
                continue  # nobody looked in time
            ours, theirs = (
                Feedback(memory.in_slot(place, slot), after - before)
                for place, before, after in zip(places, begun, ended, strict=True)
                if place is not None
            )
            found.append((ours, theirs))
        for slot in [each for each in self._bids if each < self._next]:
            del self._bids[slot]
        return found
