"""Totals of resampled auctions -> figures with intervals, what is best, and which order the policies have."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from export.judge.bootstrap import interval
from export.replay.auctions import Floats
from export.replay.plan import PolicyName
from export.replay.records import Best, CampaignReplay, Comparison, Measured, Outcome, Setting

CLICKS, SPEND, WINS = FIGURES = ("clicks", "spend", "wins")

PUBLISHED: Final[tuple[PolicyName, ...]] = ("ortb", "linear", "truthful", "constant", "random")
"""The order by clicks, most first, of Zhang, Yuan & Wang, KDD 2014, most clearly where budgets are small."""
_BESIDE_LINEAR: Final[tuple[PolicyName, ...]] = ("ortb2", "shading")
"""Those that the order does not name."""


def outcome(
    policy: PolicyName,
    divisor: float,
    lines: Floats,
    *,
    budget: float,
    auctions: int,
    seen: int,
    off_pace: float,
    setting: Setting | None = None,
) -> Outcome:
    """Figures of totals [figures, 1 + resamples] over `auctions` judged ones; money in the currency."""
    clicks, spend, wins = lines
    return Outcome(
        policy=policy,
        divisor=divisor,
        budget=budget,
        clicks=measured(clicks),
        spend=measured(spend),
        ecpc=_ratio(spend, clicks),
        win_rate=measured(wins / auctions),
        budget_share=float(spend[0] / budget),
        seen=seen,
        off_pace=off_pace,
        setting=setting,
    )


def measured(line: Floats) -> Measured:
    """The value of all auctions and its interval, of [1 + resamples]."""
    return Measured(float(line[0]), interval(line[1:]))


def _ratio(above: Floats, below: Floats) -> Measured:
    """A ratio of two totals; without an interval where a resample has nothing below the line."""
    if below[0] <= 0:
        return Measured(None, None)
    ratios = above / np.where(below > 0, below, np.nan)
    return Measured(float(ratios[0]), None if np.isnan(ratios).any() else interval(ratios[1:]))


def totals(campaigns: Sequence[CampaignReplay], lines: Floats) -> tuple[Outcome, ...]:
    """All campaigns together; lines [figures, policies, budgets, 1 + resamples] are their sums."""
    found = []
    auctions = sum(one.auctions for one in campaigns)
    for number, same in enumerate(zip(*(one.outcomes for one in campaigns), strict=True)):
        policy, budget = divmod(number, lines.shape[2])
        found.append(
            outcome(
                same[0].policy,
                same[0].divisor,
                lines[:, policy, budget],
                budget=sum(one.budget for one in same),
                auctions=auctions,
                seen=sum(one.seen for one in same),
                off_pace=float(np.mean([one.off_pace for one in same])),
            )
        )
    return tuple(found)


def ordering(
    policies: Sequence[PolicyName], divisors: Sequence[float], clicks: Floats
) -> tuple[Comparison, ...]:
    """Each policy against the next one of the published order, and others against linear bidding.

    By clicks [policies, budgets, 1 + resamples] over all campaigns.
    """
    pairs = list(pairwise(name for name in PUBLISHED if name in policies))
    if "linear" in policies:
        pairs += [(name, "linear") for name in _BESIDE_LINEAR if name in policies]
    return tuple(
        _comparison(policies, divisor, clicks[:, number], first, second)
        for number, divisor in enumerate(divisors)
        for first, second in pairs
    )


def best_of(
    policies: Sequence[PolicyName],
    divisors: Sequence[float],
    clicks: Floats,
    campaigns: Sequence[CampaignReplay],
) -> tuple[Best, ...]:
    """The best policy at each budget, by clicks [policies, budgets, 1 + resamples] over all campaigns."""
    found = []
    for number, divisor in enumerate(divisors):
        lines = clicks[:, number]
        best = policies[int(np.argmax(lines[:, 0]))]
        others = [name for name in policies if name != best]
        equals = [name for name in others if _comparison(policies, divisor, lines, best, name).sign == 0]
        found.append(Best(divisor, best, tuple(equals), _won_campaigns(policies, divisor, campaigns)))
    return tuple(found)


def _comparison(
    policies: Sequence[PolicyName], divisor: float, lines: Floats, first: PolicyName, second: PolicyName
) -> Comparison:
    """Of clicks [policies, 1 + resamples] at one budget."""
    deltas = lines[policies.index(first)] - lines[policies.index(second)]
    return Comparison(divisor, first, second, float(deltas[0]), interval(deltas[1:]))


def _won_campaigns(
    policies: Sequence[PolicyName], divisor: float, campaigns: Sequence[CampaignReplay]
) -> dict[str, int]:
    """By policy, in how many campaigns none has more clicks."""
    wins = dict.fromkeys(map(str, policies), 0)
    for campaign in campaigns:
        clicks = {one.policy: one.clicks.value for one in campaign.outcomes if one.divisor == divisor}
        most = max(value for value in clicks.values() if value is not None)
        for name, value in clicks.items():
            wins[name] += value == most
    return wins
