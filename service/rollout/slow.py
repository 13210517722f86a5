"""Gates that need feedback: PCOC, LogLoss, clicks per bid; they know neither tokens nor time.

They are judged by the bundles' own pCTRs, before live calibration, and by impressions whose clicks are as
complete as they will be. Where rows are not independent, their evidence counts for as much less
(service.calibration.dispersion).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from service.calibration.counts import CLICKS, IMPRESSIONS, PREDICTED, Counts, evidence_of
from service.calibration.dispersion import Dispersion, Stretch
from service.rollout.evidence import Block, Both, Either, LevelTest, MeanTest, RatioTest
from service.rollout.gates import SLOW, Gate, Reading
from service.rollout.plan import Plan

# LogLoss is judged by a test that holds as numbers grow.
LEAST_CLICKS = 30
# A gate that knows so much of what takes an arm back lets it rise no further: chance does so at one in five.
DOUBT = 0.25
# It says most for so many impressions.
TYPICAL_IMPRESSIONS = 20_000.0


@dataclass(frozen=True, eq=False)
class Feedback:
    """Impressions and clicks of an arm in bins of log-odds, and the bids of the same time."""

    counts: Counts
    bids: float


@dataclass
class Losses:
    """The sum of the LogLoss of impressions, and of its squares."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, other: Losses) -> None:
        """Those of more impressions."""
        self.count += other.count
        self.total += other.total
        self.squares += other.squares

    @property
    def mean(self) -> float:
        """0 without impressions."""
        return self.total / self.count if self.count > 0.0 else 0.0

    @property
    def variance(self) -> float:
        """That of one impression; 0 without any."""
        return max(0.0, self.squares / self.count - self.mean**2) if self.count > 0.0 else 0.0


class SlowGates:
    """The gates of a canary. PCOC must differ from control's, and from 1, in the same direction."""

    def __init__(self, plan: Plan, limit: float) -> None:
        """`limit` is the evidence that takes an arm back."""
        self._plan, self._limit = plan, limit
        over, under = 1.0 / (1.0 + plan.pcoc), 1.0 + plan.pcoc
        self._pcoc = Either(
            Both(RatioTest(over, is_below=True), LevelTest(over, is_below=True)),
            Both(RatioTest(under), LevelTest(under)),
        )
        self._clicks = RatioTest(1.0 - plan.clicks, is_below=True)
        self._logloss = MeanTest(TYPICAL_IMPRESSIONS)
        self._ours, self._theirs = np.zeros(3), np.zeros(3)
        self._bids = np.zeros(2)
        self._losses, self._control_losses = Losses(), Losses()
        self._dispersion = Dispersion()

    @property
    def clicks(self) -> float:
        """How many independent clicks those of the canary are worth that are judged."""
        return float(self._ours[CLICKS]) / self._dispersion.factor

    @property
    def doubt(self) -> Reading | None:
        """What speaks most against the canary, if it is more than chance says often."""
        worst = max(self.readings(), key=lambda each: each.level or 0.0)
        return worst if worst.level is not None and worst.level >= DOUBT else None

    @property
    def impressions(self) -> float:
        """Those of the canary that are judged."""
        return float(self._ours[IMPRESSIONS])

    def add(self, canary: Feedback, control: Feedback) -> None:
        """Take into account what was shown and clicked of both arms in the same time."""
        ours, theirs = canary.counts.sum(axis=0), control.counts.sum(axis=0)
        self._ours += ours
        self._theirs += theirs
        self._bids += (canary.bids, control.bids)
        clicks, clicks_of_control = float(ours[CLICKS]), float(theirs[CLICKS])
        predicted, predicted_of_control = float(ours[PREDICTED]), float(theirs[PREDICTED])
        weight = 1.0 / self._dispersion.factor  # as it was before: so what comes now has no say in it
        self._pcoc.add(Block(clicks, predicted, clicks_of_control, predicted_of_control, weight))
        self._clicks.add(Block(clicks, canary.bids, clicks_of_control, control.bids, weight))
        if predicted > 0.0 and predicted_of_control > 0.0:
            # Given the clicks of both, those of the canary are binomial: what both have in common cancels.
            share, total = predicted / (predicted + predicted_of_control), clicks + clicks_of_control
            self._dispersion.add(Stretch(clicks, total * share, total * share * share))
        losses, control_losses = losses_of(canary.counts), losses_of(control.counts)
        self._losses.add(losses)
        self._control_losses.add(control_losses)
        difference = losses.mean - control_losses.mean - self._plan.logloss * self._control_losses.mean
        self._logloss.add(difference, losses.count, control_losses.count)

    def readings(self) -> list[Reading]:
        """What they say now."""
        if not self.impressions:
            return [Reading(gate, None, "no impression has all its clicks yet") for gate in SLOW]
        ours, theirs = self._ours, self._theirs
        pcoc = (
            f"PCOC is {_ratio(ours[PREDICTED], ours[CLICKS])} "
            f"(control: {_ratio(theirs[PREDICTED], theirs[CLICKS])}), {ours[CLICKS]:.0f} clicks"
        )
        if self._dispersion.factor > 1.0:
            pcoc += f", worth {self.clicks:.0f} independent ones"
        clicks = (
            f"{_ratio(1e3 * ours[CLICKS], self._bids[0])} clicks per 1,000 bids "
            f"(control: {_ratio(1e3 * theirs[CLICKS], self._bids[1])})"
        )
        return [
            Reading(Gate.PCOC, self._part(self._pcoc.evidence), pcoc),
            self._logloss_reading(),
            Reading(Gate.CLICKS, self._part(self._clicks.evidence) if self._bids.all() else None, clicks),
        ]

    def _logloss_reading(self) -> Reading:
        words = (
            f"LogLoss is {self._losses.mean:.5f} (control: {self._control_losses.mean:.5f}), "
            f"{self._losses.count:.0f} impressions"
        )
        if min(self._ours[CLICKS], self._theirs[CLICKS]) < LEAST_CLICKS:
            return Reading(Gate.LOGLOSS, None, f"too few clicks yet: {words}")
        factor = self._dispersion.factor
        evidence = self._logloss.evidence_at(
            factor * self._losses.variance, factor * self._control_losses.variance
        )
        return Reading(Gate.LOGLOSS, self._part(evidence), words)

    def _part(self, evidence: float) -> float:
        return max(0.0, evidence / self._limit)


def losses_of(counts: Counts) -> Losses:
    """The LogLoss of the impressions of some bins, each with the pCTR of its bin's mean."""
    log_odds, rows, clicks = evidence_of(counts)
    none, clicked = np.logaddexp(0.0, log_odds), np.logaddexp(0.0, -log_odds)
    others = np.maximum(rows - clicks, 0.0)
    return Losses(
        float(rows.sum()),
        float((others * none + clicks * clicked).sum()),
        float((others * none**2 + clicks * clicked**2).sum()),
    )


def _ratio(first: float, second: float) -> str:
    return f"{first / second:.3f}" if second > 0.0 and math.isfinite(first) else "unknown"
