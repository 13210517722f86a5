"""Counts what events say of shadows: their clicks, and how well each pCTR foretold them; it reads no token.

Both the shadow and the arm that it follows are judged by the same candidates. One counts once it was shown,
and its click if that comes within the window, before or after the event that tells of the impression.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.feedback.shadow_table import CLICKED, SHOWN, Hashes, ShadowTable
from service.metrics.families import Metrics

# Whose pCTR it is.
ARM, SHADOW = "arm", "shadow"
# The terms of the sum of log losses: that of all impressions as if none was clicked, the same of the clicked
# ones, to be taken off, and what clicks cost. A sum of them that can fall would be no counter.
UNCLICKED, TAKEN_OFF, CLICKS = "impressions", "clicked_impressions", "clicks"


class ShadowEvents:
    """Counts events of candidates in a table; `arms` are the names by the numbers of shadows."""

    def __init__(self, table: ShadowTable, arms: Sequence[str], metrics: Metrics) -> None:
        self._table = table
        self._arms = arms
        self._metrics = metrics

    def count(
        self,
        arm: str,
        hashes: Hashes,
        log_odds: NDArray[np.float32],
        is_click: NDArray[np.bool_],
        now_ms: int,
    ) -> None:
        """Count events [n] of an arm, each new: hashes of their tokens, the arm's log-odds, and the types."""
        if self._table.is_empty:
            return
        for happened, chosen in ((SHOWN, ~is_click), (CLICKED, is_click)):
            marked = self._table.mark(hashes[chosen], happened, now_ms // 1000)
            own = log_odds[chosen][marked.events].astype(np.float64)
            for number in np.unique(marked.numbers).tolist():
                is_it = marked.numbers == number
                pairs = {ARM: own[is_it], SHADOW: marked.log_odds[is_it]}
                self._count(arm, self._arms[number], happened, pairs, marked.before[is_it])

    def _count(
        self,
        arm: str,
        shadow: str,
        happened: int,
        log_odds: dict[str, NDArray[np.float64]],
        before: NDArray[np.int64],
    ) -> None:
        """Count candidates [n] of which this has happened now, and other things before."""
        metrics = self._metrics
        is_clicked = before & CLICKED > 0 if happened == SHOWN else before & SHOWN > 0
        if happened == SHOWN:
            metrics.shadow_events.labels(arm, shadow, "impression").inc(len(before))
        metrics.shadow_events.labels(arm, shadow, "click").inc(int(is_clicked.sum()))
        for whose, odds in log_odds.items():
            loss = metrics.shadow_loss
            if happened == SHOWN:
                metrics.shadow_shown_pctr.labels(arm, shadow, whose).inc(
                    float((1.0 / (1.0 + np.exp(-odds))).sum())
                )
                loss.labels(arm, shadow, whose, UNCLICKED).inc(_softplus(odds))
            loss.labels(arm, shadow, whose, TAKEN_OFF).inc(_softplus(odds[is_clicked]))
            loss.labels(arm, shadow, whose, CLICKS).inc(_softplus(-odds[is_clicked]))


def _softplus(values: NDArray[np.float64]) -> float:
    """The sum of ln(1 + exp(value)): of log-odds, the log losses of what is not clicked."""
    return float(np.logaddexp(0.0, values).sum())
