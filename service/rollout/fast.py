"""Gates that speak within seconds: failures, rows without a number, latency, the distribution of pCTRs.

They know neither feedback nor who looks. Failures and latency are judged by e-processes (`evidence`), the
distribution by the population stability index (Siddiqi, "Credit risk scorecards", 2006), which has its noise
taken off.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from functools import partial

import numpy as np

from service.rollout.counts import Numbers, PairCounts
from service.rollout.evidence import Block, Both, Either, LevelTest, RatioTest, Renewed, ShareTest
from service.rollout.gates import FAST, Gate, Reading
from service.rollout.plan import Plan

# Failures may be so many times those of control before it speaks against an arm.
TIMES_CONTROL = 2.0
# Rows that may have no number, whatever those of control do.
ROWS_FAILED = 1e-4
# Quantiles of latency that are compared. The lower ones see an arm that is slow for all its requests also
# where control waits behind it in the same processes.
QUANTILES = (0.5, 0.9, 0.99)
# A share of slow requests may be so many times that of control.
TIMES_SLOW = 1.5
# So many requests, or rows, of one look count at most: one stall makes many of them fail, or slow.
BURST = 20
RENEWED_SECONDS = 60.0
# How many requests of each arm say what is usual.
LEAST_REQUESTS = 100
LEAST_PSI_REQUESTS = 200
# A normal quantile for one look of very many.
NOISE = 6.0


class FastGates:
    """The gates of a canary; `bounds` are those of the buckets of latency, the last one infinite."""

    def __init__(self, plan: Plan, bounds: Sequence[float], limit: float) -> None:
        """`limit` is the evidence that takes an arm back."""
        self._plan, self._limit = plan, limit
        self._errors = Renewed(lambda: Both(RatioTest(TIMES_CONTROL), LevelTest(plan.errors)))
        self._nan = Renewed(lambda: Both(RatioTest(TIMES_CONTROL), LevelTest(ROWS_FAILED)))
        self._latency = LatencyTest(plan, bounds)
        self._renewed_at = -math.inf
        # All looks.
        self._whole: PairCounts | None = None
        # The looks of the step: with shares that change, sums would compare one hour with another (Simpson).
        self._step: PairCounts | None = None
        # Of these, the ones of late: since the last renewal, and since the one before.
        self._recent: deque[PairCounts] = deque(maxlen=2)
        # What waits for requests of the other arm: little traffic comes now to one, now to the other.
        self._waiting: PairCounts | None = None

    def look(self, added: PairCounts, now: float) -> None:
        """Take into account what both arms have counted since the last look; `now` in seconds."""
        if now - self._renewed_at >= RENEWED_SECONDS:
            self._renew(added, now)
        self._judge(added)
        self._whole = _sum(self._whole, added)
        self._step = _sum(self._step, added)
        self._recent = deque((each.plus(added) for each in self._recent), maxlen=2)

    def begin_step(self) -> None:
        """The canary has another share of the traffic from now on."""
        self._step = None
        self._recent.clear()

    def _judge(self, added: PairCounts) -> None:
        """Let the tests see it, once both arms have requests."""
        self._waiting = block = _sum(self._waiting, added)
        ours, theirs = block.canary, block.control
        if not (ours.requests > 0.0 and theirs.requests > 0.0):
            return
        self._waiting = None
        # Fewer events speak less against an arm, so a bound on them is safe; control's have none.
        self._errors.add(Block(min(ours.failed, BURST), ours.requests, theirs.failed, theirs.requests))
        self._nan.add(Block(min(ours.failed_rows, BURST), ours.rows, theirs.failed_rows, theirs.rows))
        self._latency.add(ours.latency, theirs.latency)

    def _renew(self, added: PairCounts, now: float) -> None:
        if self._renewed_at > -math.inf:
            self._errors.renew()
            self._nan.renew()
            self._latency.renew()
        self._renewed_at = now
        self._recent.append(added.since(added))

    def readings(self) -> list[Reading]:
        """What they say now."""
        if self._whole is None:
            return [Reading(gate, None, "nothing is counted yet") for gate in FAST]
        ours, theirs = self._whole.canary, self._whole.control
        errors = (
            f"{ours.failed:.0f} of {ours.requests:.0f} requests failed, "
            f"{theirs.failed:.0f} of {theirs.requests:.0f} of control"
        )
        nan = (
            f"{ours.failed_rows:.0f} of {ours.rows:.0f} rows have no number, "
            f"{theirs.failed_rows:.0f} of {theirs.rows:.0f} of control"
        )
        known = ours.requests > 0.0
        return [
            Reading(Gate.ERRORS, self._part(self._errors.evidence) if known else None, errors),
            Reading(Gate.NAN, self._part(self._nan.evidence) if known else None, nan),
            self._latency_reading(),
            self._pctr_reading(),
        ]

    def _latency_reading(self) -> Reading:
        assert self._whole is not None
        ours, theirs = self._whole.canary.latency, self._whole.control.latency
        if not self._latency.is_ready:
            return Reading(Gate.LATENCY, None, "too few requests of control are answered yet")
        words = ", ".join(
            f"p{100 * share:.0f} {self._latency.quantile_ms(ours, share)} "
            f"(control: {self._latency.quantile_ms(theirs, share)})"
            for share in (0.5, 0.99)
        )
        return Reading(Gate.LATENCY, self._part(self._latency.evidence), words)

    def _pctr_reading(self) -> Reading:
        """The stability index of the step, or of late, whichever is closer to what is tolerated."""
        found = [
            (psi, psi / (self._plan.psi + noise))
            for psi, noise in (stability(each) for each in (self._step, *self._recent) if each is not None)
            if not math.isnan(psi)
        ]
        if not found:
            return Reading(Gate.PCTR, None, "too few rows are scored yet")
        psi, level = max(found, key=lambda each: each[1])
        return Reading(
            Gate.PCTR,
            level,
            f"the population stability index of pCTRs is {psi:.3f} ({self._plan.psi:g} is tolerated)",
        )

    def _part(self, evidence: float) -> float:
        return max(0.0, evidence / self._limit)


class LatencyTest:
    """Whether requests of an arm are slower than quantiles of control's allow, margins included.

    A bucket's bound above each quantile is chosen from what was counted before the requests that it judges.
    Hypothesis, for each: no more requests are above it than of control at the quantile, or not many more than
    of control are now.
    """

    def __init__(self, plan: Plan, bounds: Sequence[float]) -> None:
        self._plan = plan
        self._bounds = np.array(bounds)
        self._tests = [Renewed(partial(_slow_test, 1.0 - share)) for share in QUANTILES]
        self._usual: deque[Numbers] = deque([np.zeros(len(bounds))], maxlen=2)

    @property
    def is_ready(self) -> bool:
        """Whether it is known what is usual."""
        return float(sum(each.sum() for each in self._usual)) >= LEAST_REQUESTS

    @property
    def evidence(self) -> float:
        """The logarithm of an e-process."""
        return Either(*self._tests).evidence

    def add(self, ours: Numbers, theirs: Numbers) -> None:
        """Requests of one look, in buckets."""
        if self.is_ready:
            usual = np.sum(self._usual, axis=0)
            requests = float(ours.sum())
            weight = min(1.0, BURST / max(1.0, requests))
            for share, test in zip(QUANTILES, self._tests, strict=True):
                first = self._first_slow(usual, share)
                slow, slow_of_control = float(ours[first:].sum()), float(theirs[first:].sum())
                test.add(Block(slow, requests, slow_of_control, float(theirs.sum()), weight))
        self._usual[-1] = self._usual[-1] + theirs

    def renew(self) -> None:
        """Begin anew, and forget what was usual before the last time, unless little is known since then."""
        for test in self._tests:
            test.renew()
        if float(self._usual[-1].sum()) >= LEAST_REQUESTS:
            self._usual.append(np.zeros(len(self._bounds)))

    def quantile_ms(self, counts: Numbers, share: float) -> str:
        """A quantile of buckets, for people."""
        total = float(counts.sum())
        if total <= 0.0:
            return "unknown"
        bound = self._bounds[int(np.searchsorted(np.cumsum(counts), share * total))]
        return "over 1 s" if math.isinf(bound) else f"at most {1e3 * bound:g} ms"

    def _first_slow(self, usual: Numbers, share: float) -> int:
        """The first bucket of which all are slow."""
        at = int(np.searchsorted(np.cumsum(usual), share * float(usual.sum())))
        quantile = self._bounds[min(at, len(self._bounds) - 2)]
        slow = quantile * (1.0 + self._plan.slower) + 1e-3 * self._plan.slower_ms
        return int(np.searchsorted(self._bounds, slow)) + 1


def stability(counts: PairCounts) -> tuple[float, float]:
    """The population stability index of both arms' pCTRs, and what chance alone makes of it; nan for too few.

    Rows of a request have its user in common, so what chance makes of the index, which is then distributed as
    a multiple of chi-squared (Yurdakul, "Statistical properties of population stability index", 2018), goes
    by the requests.
    """
    ours, theirs = counts.canary, counts.control
    least = min(ours.requests, theirs.requests)
    if least < LEAST_PSI_REQUESTS or min(ours.pctr.sum(), theirs.pctr.sum()) < LEAST_PSI_REQUESTS:
        return math.nan, math.nan
    used = (ours.pctr + theirs.pctr) > 0.0
    first, second = ours.pctr[used] + 0.5, theirs.pctr[used] + 0.5
    first, second = first / first.sum(), second / second.sum()
    index = float(((first - second) * np.log(first / second)).sum())
    degrees = max(1, int(used.sum()) - 1)
    # Wilson and Hilferty's quantile of chi-squared.
    cube = 1.0 - 2.0 / (9.0 * degrees) + NOISE * math.sqrt(2.0 / (9.0 * degrees))
    return index, degrees * cube**3 * (1.0 / ours.requests + 1.0 / theirs.requests)


def _slow_test(share: float) -> Both:
    return Both(RatioTest(TIMES_SLOW), ShareTest(share))


def _sum(first: PairCounts | None, second: PairCounts) -> PairCounts:
    return second if first is None else first.plus(second)
