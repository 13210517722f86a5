"""A second-price auction around a replay: what is not won is not shown, so feedback is selected.

A rival bids the true click probability times a lognormal factor, so it knows what the bundle does not. The
bidder bids the pCTR that the service answers. On an explored request it bids so much that it wins always, or,
to show what that is worth, something at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.replays.log import Floats, Log
from benchmarks.replays.sending import Replayed, Rows, Served

Explored = Literal["ordinary", "random", "wins"]
"""What is bid on explored requests: the pCTR, a pCTR of another row, or more than anybody."""


@dataclass(frozen=True, eq=False)
class Auctions:
    """The rivals' bids [n] on the rows of a log, relative to what a click is worth."""

    log: Log
    rivals: Floats
    random_bids: Floats
    explored: Explored

    @classmethod
    def of(cls, log: Log, strength: float, deviation: float, explored: Explored) -> Auctions:
        """The rival's factor has the median `strength`, and the `deviation` of its logarithm."""
        assert log.true is not None
        rng = np.random.default_rng(2)
        # A rival knows the world as it is, also after a shift.
        rivals = log.true * np.exp(rng.normal(np.log(strength), deviation, len(log)))
        return cls(log, rivals, rng.permutation(log.true), explored)

    def without_feedback(self) -> Replayed:
        """What is won with the bundle's own pCTRs, as a service without live calibration answers them."""
        won = np.zeros(len(self.log), bool)
        won[self.shown(np.arange(len(won)), self.log.own, np.zeros(len(won), bool))] = True
        return Replayed(self.log.own, won, [Served(int(self.log.seconds[0]))], {}, 0.0)

    def shown(self, rows: Rows, pctrs: Floats, is_explored: NDArray[np.bool_]) -> Rows:
        """Those of rows [n] that are won under the pCTRs [n]."""
        bids = pctrs.copy()
        if self.explored == "wins":
            bids[is_explored] = np.inf
        elif self.explored == "random":
            bids[is_explored] = self.random_bids[rows[is_explored]]
        won: Rows = rows[bids > self.rivals[rows]]
        return won


def judged(log: Log, found: Replayed, parts: int = 12) -> dict[str, Any]:
    """PCOC of the rows that were shown, of the others and of all, over the last third and by parts.

    The clicks of all rows are known here; of those that were lost no bidder knows them.
    """
    assert log.true is not None
    last = np.arange(2 * len(log) // 3, len(log))
    shown, lost = last[found.was_shown[last]], last[~found.was_shown[last]]
    return {
        "won": round(len(shown) / len(last), 3),
        "pcoc_won": _pcoc(log, found.pctrs, shown),
        "pcoc_lost": _pcoc(log, found.pctrs, lost),
        "pcoc_all": _pcoc(log, found.pctrs, last),
        "revisions": found.served[-1].revision,
        "by_part": [_pcoc(log, found.pctrs, rows) for rows in np.array_split(np.arange(len(log)), parts)],
    }


def _pcoc(log: Log, pctrs: Floats, rows: Rows) -> float | None:
    assert log.true is not None
    expected = float(log.true[rows].sum())
    return round(float(pctrs[rows].sum()) / expected, 4) if expected else None
