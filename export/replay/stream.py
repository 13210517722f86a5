"""A stream of auctions, a policy and a budget -> which auctions are won, and what they cost.

An auction is won by a bid above its market price. The stream ends at the first win that the rest of the
budget does not pay for, as in Zhang, Yuan & Wang, KDD 2014; so spend never exceeds the budget.

With feedback the stream is cut into slots of as many auctions. After each slot a controller compares what it
spent with its share of what was left, and scales the bids of the next one by exp(u): Zhang et al., "Feedback
Control of Real-Time Display Advertising", WSDM 2016, with the spend of a slot as the controlled figure,
and proportional and integral control without the derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.replay.auctions import Auctions, Floats
from export.replay.policies import Policy

SLOTS: Final = 100
PROPORTIONAL, INTEGRAL = 0.2, 0.2
# Beyond these a slot's error counts no more: one without a win says little, nor one that costs far too much.
MOST_ERROR: Final = 1.0

Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Won:
    """The auctions that were won, by their rows [wins], and what each cost [wins].

    `seen` are the auctions until the budget was spent.
    """

    rows: Rows
    costs: Floats
    seen: int


@dataclass(frozen=True, eq=False)
class Stream:
    """Auctions as one policy sees them."""

    policy: Policy
    prices: Floats
    worth: Floats
    least_scales: Floats
    pays_bid: bool

    @classmethod
    def of(cls, policy: Policy, auctions: Auctions, draw: np.random.Generator, *, pays_bid: bool) -> Stream:
        worth = policy.worth(auctions, draw)
        return cls(policy, auctions.prices, worth, policy.least_scales(worth, auctions.prices), pays_bid)

    def replay(
        self, scale: float, budgets: Sequence[float], first: int = 0, end: int | None = None
    ) -> list[Won]:
        """What each budget wins by bids of one scale, among the rows from `first` to `end`."""
        end = len(self.prices) if end is None else end
        rows = first + np.flatnonzero(self.least_scales[first:end] < scale)
        costs = self.policy.bids(scale * self.worth[rows]) if self.pays_bid else self.prices[rows]
        spent = np.cumsum(costs)
        paid = np.searchsorted(spent, budgets, side="right").tolist()
        return [
            Won(rows[:wins], costs[:wins], end - first if wins == len(rows) else int(rows[wins]) - first)
            for wins in paid
        ]

    def paced(self, scale: float, budget: float) -> Won:
        """What a budget wins where feedback makes it last."""
        ends = np.linspace(0, len(self.prices), SLOTS + 1).astype(np.intp).tolist()
        controller, left = Controller(), budget
        parts, seen = [], 0
        for slot, (first, end) in enumerate(pairwise(ends)):
            (won,) = self.replay(scale * controller.factor, [left], first, end)
            parts.append(won)
            seen += won.seen
            if won.seen < end - first:
                break
            spent = float(won.costs.sum())
            controller.observe(spent, left / (SLOTS - slot))
            left -= spent
        return Won(
            np.concatenate([one.rows for one in parts]), np.concatenate([one.costs for one in parts]), seen
        )


class Controller:
    """Proportional and integral control of the spend of a slot, by a factor of the next one's bids."""

    def __init__(self) -> None:
        self._log_factor = self._last = 0.0

    @property
    def factor(self) -> float:
        return float(np.exp(self._log_factor))

    def observe(self, spent: float, wanted: float) -> None:
        """What a slot spent and should have spent -> another factor."""
        error = float(np.clip(1.0 - spent / wanted, -MOST_ERROR, MOST_ERROR)) if wanted > 0 else -MOST_ERROR
        self._log_factor += PROPORTIONAL * (error - self._last) + INTEGRAL * error
        self._last = error
