"""Bid policies: what an impression is worth -> a bid, each with one number that a budget decides.

Every policy bids shade(scale x worth). The worth is the pCTR, or what a baseline has in its place; the scale
is the one parameter that is tuned; the shade is an increasing function, for linear policies the identity.

| policy   | worth   | shade              | source                                                        |
|----------|---------|--------------------|---------------------------------------------------------------|
| constant | 1       | none               | the same bid for all                                          |
| random   | uniform | none               | any bid up to a highest one                                   |
| truthful | pCTR    | none, scale fixed  | pCTR x what a click cost: mcpc of KDD 2014                    |
| linear   | pCTR    | none               | b0 pCTR / mean pCTR: Perlich et al., KDD 2012                 |
| ortb     | pCTR    | the curve of ORTB1 | Zhang, Yuan & Wang, KDD 2014; the scale is 1 / lambda         |
| ortb2    | pCTR    | the curve of ORTB2 | the same paper                                                |
| shading  | pCTR    | the fitted curve   | argmax of (scale x pCTR - b) F(b), in first-price auctions    |

Perlich et al.: "Bid optimizing and inventory scoring in targeted online advertising". It knows no budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.replay.auctions import Auctions, Floats
from export.replay.plan import PolicyName
from export.replay.win_curve import Fitted, fit_curve, fit_ortb1, fit_ortb2


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy for one campaign.

    shade  None: a bid is scale x worth
    scale  that of a policy that has nothing to tune; None: it is tuned
    """

    name: PolicyName
    shade: Fitted | None = None
    scale: float | None = None

    def worth(self, auctions: Auctions, draw: np.random.Generator) -> Floats:
        """What bids grow with, [n]."""
        if self.name == "constant":
            return np.ones(len(auctions))
        if self.name == "random":
            return draw.random(len(auctions))
        return auctions.pctr

    def bids(self, values: Floats) -> Floats:
        """scale x worth [n] -> bids [n], in the unit of prices."""
        return values if self.shade is None else self.shade.curve.bids(values)

    def least_scales(self, worth: Floats, prices: Floats) -> Floats:
        """The scale [n] above which an auction of this worth [n] and market price [n] is won."""
        values = prices if self.shade is None else self.shade.curve.values(prices)
        scales = np.full(len(prices), np.inf)
        np.divide(values, worth, out=scales, where=worth > 0)
        return scales


def policies_for(names: Sequence[PolicyName], train: Auctions) -> tuple[Policy, ...]:
    """The named policies with what they learn from the training part beside their scale."""
    return tuple(_policy(name, train) for name in names)


def _policy(name: PolicyName, train: Auctions) -> Policy:
    if name == "truthful":
        return Policy(name, scale=click_cost(train))
    fits = {"ortb": fit_ortb1, "ortb2": fit_ortb2, "shading": fit_curve}
    return Policy(name, fits[name](train.prices) if name in fits else None)


def click_cost(train: Auctions) -> float:
    """What a click costs a bidder that wins all of these auctions, in the unit of prices."""
    return train.cost / int(np.count_nonzero(train.clicks))
