"""Counts what a shadow does and how it differs from the arm that it follows; it scores nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.feedback.shadow_events import ARM, SHADOW
from service.metrics.families import Metrics
from service.metrics.tally import HistogramTally, Tally
from service.shadow.comparison import Comparison

# Why a shadow has not scored a request.
BUSY, FULL, LATE, GONE, REFUSED, NAN, FAILED = "busy", "full", "late", "gone", "refused", "nan", "failed"
REASONS = BUSY, FULL, LATE, GONE, REFUSED, NAN, FAILED
SAME, OTHER = "same", "other"
KEPT, NO_ROOM = "kept", "no_room"


class ShadowMeter:
    """Counts of a shadow of an arm. They are made after answers, so they may take their time."""

    def __init__(self, metrics: Metrics, arm: str, shadow: str) -> None:
        pair = arm, shadow
        self._requests = Tally(metrics.shadow_requests.labels(*pair))
        self._candidates = Tally(metrics.shadow_candidates.labels(*pair))
        self._dropped = {reason: Tally(metrics.shadow_dropped.labels(*pair, reason)) for reason in REASONS}
        self._sums = [Tally(metrics.shadow_pctr.labels(*pair, whose)) for whose in (ARM, SHADOW)]
        self._pctrs = HistogramTally(metrics.shadow_pctr_difference.labels(*pair))
        self._log_odds = HistogramTally(metrics.shadow_log_odds_difference.labels(*pair))
        self._alike = HistogramTally(metrics.shadow_rank_agreement.labels(*pair))
        self._best = {same: Tally(metrics.shadow_best.labels(*pair, same)) for same in (SAME, OTHER)}
        self._seconds = HistogramTally(metrics.shadow_seconds.labels(*pair))
        self._tokens = {outcome: metrics.shadow_tokens.labels(*pair, outcome) for outcome in (KEPT, NO_ROOM)}
        self._share = metrics.shadow_share.labels(*pair)

    def follow(self, share: float) -> None:
        """The shadow follows the arm for this share from now on, 0 for no more."""
        self._share.set(share)

    def drop(self, reason: str, requests: int = 1) -> None:
        """Count requests that are not scored."""
        self._dropped[reason].inc(requests)

    def count(
        self,
        arm: NDArray[np.float64],
        shadow: NDArray[np.float64],
        sizes: Sequence[int],
        comparison: Comparison,
        seconds: float,
    ) -> None:
        """Count requests of so many candidates, that took so long together, and the pCTRs of both [n]."""
        self._requests.inc(len(sizes))
        self._candidates.inc(len(shadow))
        for total, pctrs in zip(self._sums, (arm, shadow), strict=True):
            total.inc(float(pctrs.sum()))
        for tally, values in (
            (self._pctrs, comparison.pctrs),
            (self._log_odds, comparison.log_odds),
        ):
            tally.observe_many(values)
        self._alike.observe_many(np.array(comparison.alike))
        same = sum(comparison.has_same_best)
        self._best[SAME].inc(same)
        self._best[OTHER].inc(len(comparison.has_same_best) - same)
        self._seconds.observe_many(np.array(sizes) * (seconds / len(shadow)))

    def count_tokens(self, kept: int, tokens: int) -> None:
        """Count tokens of which so many are kept until their events come."""
        self._tokens[KEPT].inc(kept)
        self._tokens[NO_ROOM].inc(tokens - kept)

    def publish(self) -> None:
        """Add what was counted to the metrics."""
        counts = self._requests, self._candidates, *self._sums, *self._best.values(), *self._dropped.values()
        for tally in counts:
            tally.publish()
        for histogram in (self._pctrs, self._log_odds, self._alike, self._seconds):
            histogram.publish()
