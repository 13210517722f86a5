"""Whether a bundle's log-odds are corrected, and how: what each period's counts change; it knows no clock.

A correction is fitted, judged on what comes after it was fitted (progressive validation; Blum, Kalai and
Langford 1999), and only then served. It goes when the bundle alone has been better for a while.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import numpy as np

from service.calibration.counts import (
    BINS,
    CLICKS,
    Counts,
    Evidence,
    bytes_of,
    counts_of,
    evidence_of,
)
from service.calibration.dispersion import Dispersion, DispersionRecord, stretch_of
from service.calibration.fit import NONE, Correction, fit, loss
from service.calibration.recent import BucketRecord, RecentCounts

# A correction goes when the bundle alone makes what came since a time this many times as probable. Any time
# may be the one, so chance takes back one that is right once its evidence has grown by about as many nats.
REVERT_RATIO = 10_000.0
# Tokens have 16 bits for it. Of services that decide together, the upper half is of those that decide alone
# for a while.
MAX_REVISION, MAX_SHARED_REVISION = 65_535, 32_767
# The outermost rows on either side do not count for how large a change is.
_TAIL = 0.01


class Decision(StrEnum):
    """What was decided."""

    FITTED = "fitted"
    """A correction was fitted, which is judged next."""
    ADOPTED = "adopted"
    """It made what came then more probable than what was served: it is served from now on."""
    REJECTED = "rejected"
    """It did not."""
    REVERTED = "reverted"
    """The bundle's own pCTRs were better than the corrected ones: they are served from now on."""


@dataclass(frozen=True)
class Rules:
    """What an operator decides: of the settings whose names begin with live_."""

    half_life_seconds: float = 21_600.0
    min_clicks: int = 50
    max_step: float = 0.3
    max_change: float = 1.0


def next_revision(revision: int) -> int:
    """The number of the next revision, where one service decides."""
    return revision % MAX_REVISION + 1


def next_shared_revision(revision: int) -> int:
    """The same where several decide together."""
    return revision % MAX_SHARED_REVISION + 1


class LiveRecord(msgspec.Struct, frozen=True, array_like=True):
    """All of a live calibration, to be kept or sent."""

    revision: int
    correction: tuple[float, float]
    buckets: list[BucketRecord]
    candidate: tuple[float, float] | None
    window: bytes
    behind: float
    # Machines of another version may not write it.
    dispersion: DispersionRecord = DispersionRecord()


class LiveCalibration:
    """The correction of one bundle of an arm. `step` takes what each period has brought.

    Frozen, it decides as before, and what is decided changes nothing. `following` numbers revisions.
    """

    def __init__(
        self, rules: Rules, following: Callable[[int], int] = next_revision, *, is_frozen: bool = False
    ) -> None:
        self.correction = NONE
        self.revision = 0
        self.is_frozen = is_frozen
        self.following = following
        self._rules = rules
        self._forget()

    @classmethod
    def of(cls, record: LiveRecord, rules: Rules, following: Callable[[int], int]) -> LiveCalibration:
        """What was recorded, to go on by these rules. Raises ValueError for a record of something else."""
        live = cls(rules, following)
        live.revision, live.correction = record.revision, _correction_of(record.correction)
        live.recent.restore(record.buckets)
        live._candidate = None if record.candidate is None else _correction_of(record.candidate)
        live._window, live._behind = counts_of(record.window), record.behind
        live._dispersion = Dispersion.of(record.dispersion)
        return live

    @property
    def record(self) -> LiveRecord:
        """All of it but whether it is frozen."""
        candidate = self._candidate
        return LiveRecord(
            self.revision,
            (self.correction.intercept, self.correction.slope),
            self.recent.records,
            None if candidate is None else (candidate.intercept, candidate.slope),
            bytes_of(self._window),
            self._behind,
            self._dispersion.record,
        )

    @property
    def dispersion(self) -> float:
        """How many rows are worth one that is independent: 1 or more."""
        return self._dispersion.factor

    @property
    def clicks(self) -> float:
        """How many independent clicks of weight 1 vary as much as those that the evidence has."""
        return self.recent.clicks / self.dispersion

    def reset(self) -> None:
        """Back to the bundle alone, also when frozen, and without what was learned so far."""
        self._change(NONE)
        self._forget()

    def _forget(self) -> None:
        self.recent = RecentCounts(self._rules.half_life_seconds, self._rules.min_clicks)
        self._candidate: Correction | None = None
        self._window: Counts = np.zeros((BINS, 3))
        self._behind = 0.0
        self._dispersion = Dispersion()

    def step(self, added: Counts, seconds: float) -> list[Decision]:
        """Let so much time pass, in which these counts came; what was decided."""
        decisions: list[Decision] = []
        self._window = self._window + added
        new = evidence_of(np.maximum(added, 0.0))
        self._dispersion.add(stretch_of(new))
        if self._is_behind(new):
            self._serve(NONE)
            self._candidate = None
            decisions.append(Decision.REVERTED)
        elif (
            self._candidate is not None
            and self._window[:, CLICKS].sum() >= self._rules.min_clicks * self.dispersion
        ):
            decisions.append(self._judge(self._candidate))
        self.recent.step(added, seconds, self.dispersion)
        if self._candidate is None and self._fit():
            decisions.append(Decision.FITTED)
        return decisions

    def _is_behind(self, added: Evidence) -> bool:
        """Whether the bundle alone has been better than the correction since some time.

        Page's test (1954): the sum of likelihood ratios since the time that makes most of it; of
        quasi-likelihoods, where clicks vary more than these say.
        """
        if self.correction == NONE:
            return False
        worse = loss(added, self.correction) - loss(added, NONE)
        self._behind = max(0.0, self._behind + worse / self.dispersion)
        return self._behind > math.log(REVERT_RATIO)

    def _judge(self, candidate: Correction) -> Decision:
        """Serve the candidate if it is better than what is served on what came since it was fitted."""
        window = evidence_of(np.maximum(self._window, 0.0))
        self._candidate = None
        is_better = loss(window, candidate) < loss(window, self.correction)  # nan is not
        if not is_better:
            return Decision.REJECTED
        self._serve(candidate)
        return Decision.ADOPTED

    def _serve(self, correction: Correction) -> None:
        """Follow a decision, unless it is frozen."""
        self._behind = 0.0
        if not self.is_frozen:
            self._change(correction)

    def _change(self, correction: Correction) -> None:
        self.correction = correction
        self.revision = self.following(self.revision)

    def _fit(self) -> bool:
        """Whether there is a new candidate."""
        recent, rules = self.recent, self._rules
        if self.clicks < rules.min_clicks or not recent.excludes_one(self.correction, self.dispersion):
            return False
        evidence = recent.evidence
        bounded = _bounded(evidence, NONE, fit(evidence.worth(self.dispersion)), rules.max_change)
        candidate = _bounded(evidence, self.correction, bounded, rules.max_step)
        if candidate == self.correction:
            return False
        self._candidate, self._window = candidate, np.zeros((BINS, 3))
        return True


def _correction_of(values: tuple[float, float]) -> Correction:
    """Raises ValueError for what would change the order of candidates."""
    intercept, slope = values
    if not (math.isfinite(intercept) and 0.0 < slope < math.inf):
        raise ValueError(f"a correction must be finite with a slope above 0 (got {values})")
    return Correction(intercept, slope)


def _bounded(evidence: Evidence, start: Correction, end: Correction, most: float) -> Correction:
    """The way from `start` to `end` as far as it changes log-odds by `most`, where nearly all rows are."""
    share = np.cumsum(evidence.rows) / evidence.rows.sum()
    first, last = np.searchsorted(share, [_TAIL, 1.0 - _TAIL])
    outer = evidence.log_odds[[first, min(last, len(share) - 1)]]
    change = float(np.abs(end.log_odds(outer) - start.log_odds(outer)).max())
    return end if change <= most else start.towards(end, most / change)
