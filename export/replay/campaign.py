"""One campaign: its policies tuned on its first auctions, and replayed on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.judge.bootstrap import resampled_means
from export.replay.auctions import Auctions, Floats
from export.replay.outcomes import CLICKS, FIGURES, SPEND, WINS, outcome
from export.replay.plan import ReplayPlan
from export.replay.policies import Policy, click_cost, policies_for
from export.replay.records import CampaignReplay, Outcome, Setting
from export.replay.stream import Stream, Won
from export.replay.tuning import tuned_scales
from export.replay.win_curve import Fitted, LogLogistic, LogNormal, Ortb1

RESAMPLES = 400
PACE_POINTS = 100
# Of long logs not all columns of figures are held at a time.
MOST_CELLS = 30_000_000
# The lowest and the highest settings that the service takes, as service/bidding.py has them.
SERVICE_LIMITS = {"bid_multiplier": (1e-6, 1e6), "bid_win_price": (1e-9, 1e9)}
# Of the prices; a curve of fewer that are above 0 says nothing of the others.
LEAST_PAID = 0.01


@dataclass(frozen=True, eq=False)
class Played:
    """What one campaign's policies did.

    lines are totals over the judged auctions, [figures, policies, budgets, 1 + resamples]: of all auctions
    first. Figures are those of FIGURES, spend in the currency of the prices.
    """

    record: CampaignReplay
    lines: Floats


def fault_of(auctions: Auctions, train_share: float) -> str | None:
    """Why a campaign cannot be replayed, in words; None: it can."""
    for part, name in zip(parts_of(auctions, train_share), ("training", "judged"), strict=True):
        clicks = int(np.count_nonzero(part.clicks))
        if not 0 < clicks < len(part):
            return f"its {name} part holds {clicks:,} clicks in {len(part):,} auctions"
        if part.cost <= 0:
            return f"all prices of its {name} part are 0"
        paid = int(np.count_nonzero(part.prices))
        if paid < LEAST_PAID * len(part):
            return f"{paid:,} of the {len(part):,} prices of its {name} part are above 0"
        if not part.pctr.any():
            return f"all pCTRs of its {name} part are 0"
    return None


def parts_of(auctions: Auctions, train_share: float) -> tuple[Auctions, Auctions]:
    """The auctions to tune on, and those to judge on."""
    end = round(train_share * len(auctions))
    return auctions[:end], auctions[end:]


def play(plan: ReplayPlan, name: str, auctions: Auctions, number: int) -> Played:
    """The campaign's policies at all budgets; `number` makes its random draws its own."""
    train, test = parts_of(auctions, plan.train_share)
    policies = policies_for(plan.policies, train)
    draw = np.random.default_rng((plan.seed, number))
    scales, won = [], []
    for policy in policies:
        own = _scales(plan, policy, train, draw)
        scales.append(own)
        won.append(_won(plan, policy, test, own, draw))
    lines = _lines(plan, test, won, number)
    record = CampaignReplay(
        name=name,
        train_auctions=len(train),
        train_clicks=int(np.count_nonzero(train.clicks)),
        auctions=len(test),
        clicks=int(np.count_nonzero(test.clicks)),
        cost=test.cost / plan.price_per,
        curves={one.name: in_words(one.shade) for one in policies if one.shade is not None},
        outcomes=tuple(
            _outcome(plan, policy, train, test, scales[p][b], won[p][b], lines[:, p, b], divisor)
            for p, policy in enumerate(policies)
            for b, divisor in enumerate(plan.budgets)
        ),
    )
    return Played(record, lines)


def _scales(plan: ReplayPlan, policy: Policy, train: Auctions, draw: np.random.Generator) -> list[float]:
    """By budget: the training part's budget is the same share of its own cost."""
    if policy.scale is not None:
        return [policy.scale] * len(plan.budgets)
    stream = Stream.of(policy, train, draw, pays_bid=plan.auction_type == "first-price")
    return tuned_scales(stream, train, [train.cost / divisor for divisor in plan.budgets])


def _won(
    plan: ReplayPlan, policy: Policy, test: Auctions, scales: Sequence[float], draw: np.random.Generator
) -> list[Won]:
    stream = Stream.of(policy, test, draw, pays_bid=plan.auction_type == "first-price")
    budgets = [test.cost / divisor for divisor in plan.budgets]
    if plan.pacing == "feedback":
        return [stream.paced(scale, budget) for scale, budget in zip(scales, budgets, strict=True)]
    return [stream.replay(scale, [budget])[0] for scale, budget in zip(scales, budgets, strict=True)]


def _lines(plan: ReplayPlan, test: Auctions, won: Sequence[Sequence[Won]], number: int) -> Floats:
    """Totals of resampled auctions; the same resample for all policies, so that they can be compared.

    What is won stays as it was: a resample counts each auction anew, and does not replay the stream.
    """
    wanted = [(figure, one) for figure in FIGURES for own in won for one in own]
    seed = int(np.random.SeedSequence((plan.seed, number, RESAMPLES)).generate_state(1)[0])
    at_once = max(1, MOST_CELLS // len(test))
    means = [
        resampled_means(
            test.clicks,
            [_column(figure, test, one, plan.price_per) for figure, one in wanted[first : first + at_once]],
            resamples=RESAMPLES,
            seed=seed,  # which draws the same auctions each time
        )
        for first in range(0, len(wanted), at_once)
    ]
    lines = np.concatenate(means) * len(test)
    lines[:, 0] = [_column(figure, test, one, plan.price_per).sum() for figure, one in wanted]  # not rounded
    return lines.reshape(len(FIGURES), len(won), len(plan.budgets), -1)


def _column(figure: str, test: Auctions, won: Won, price_per: int) -> Floats:
    """What each auction adds to a figure, [n]."""
    column = np.zeros(len(test))
    own = {CLICKS: test.clicks[won.rows], SPEND: won.costs / price_per, WINS: np.ones(len(won.rows))}
    column[won.rows] = own[figure]
    return column


def _outcome(
    plan: ReplayPlan,
    policy: Policy,
    train: Auctions,
    test: Auctions,
    scale: float,
    won: Won,
    lines: Floats,
    divisor: float,
) -> Outcome:
    budget = test.cost / divisor
    return outcome(
        policy.name,
        divisor,
        lines,
        budget=budget / plan.price_per,
        auctions=len(test),
        seen=won.seen,
        off_pace=off_pace(won, budget, len(test)),
        setting=_setting(plan, policy, train, scale),
    )


def _setting(plan: ReplayPlan, policy: Policy, train: Auctions, scale: float) -> Setting:
    """The scale, and the settings of the service: its multiplier makes a value of a click of the scale."""
    if policy.name in ("constant", "random"):
        return Setting(scale)
    worth = plan.value_per_click or click_cost(train) / plan.price_per
    service = {"bid_multiplier": scale / plan.price_per / worth}
    if policy.shade is None:
        return Setting(scale, scale * float(train.pctr.mean()), worth, taken(service))
    if not isinstance(policy.shade.curve, Ortb1):
        return Setting(scale)
    service["bid_win_price"] = policy.shade.curve.median / plan.price_per
    return Setting(scale, None, worth, taken(service))


def taken(service: dict[str, float]) -> dict[str, float]:
    """Settings that the service takes; none of them where it refuses one."""
    fits = all(SERVICE_LIMITS[name][0] <= value <= SERVICE_LIMITS[name][1] for name, value in service.items())
    return service if fits else {}


def off_pace(won: Won, budget: float, auctions: int) -> float:
    """The mean distance of the spent share of the budget from the passed share of the auctions."""
    passed = np.linspace(0, 1, PACE_POINTS + 1)
    spent = np.concatenate(([0.0], np.cumsum(won.costs)))
    wins = np.searchsorted(won.rows, passed * auctions, side="left")
    return float(np.abs(spent[wins] / budget - passed).mean())


def in_words(fitted: Fitted) -> str:
    """`log-normal, median 59.0, spread 0.81, off by 2.1%`: of the shares of prices that it is fitted to."""
    curve, off = fitted.curve, f"off by {fitted.error:.1%}"
    if isinstance(curve, LogNormal):
        return f"log-normal, median {curve.median:.4g}, spread {curve.spread:.3g}, {off}"
    assert isinstance(curve, LogLogistic)
    return f"log-logistic, median {curve.median:.4g}, shape {curve.shape:.3g}, {off}"
