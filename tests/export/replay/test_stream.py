"""Streams of auctions are what a loop over single auctions gives, with and without pacing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from export.replay.auctions import Auctions
from export.replay.plan import PolicyName
from export.replay.policies import Policy, policies_for
from export.replay.stream import INTEGRAL, MOST_ERROR, PROPORTIONAL, SLOTS, Controller, Stream
from export.replay.tuning import tried_scales, tuned_scales
from tests.export.replay.conftest import drawn_auctions

NAMES: tuple[PolicyName, ...] = ("constant", "random", "linear", "ortb", "ortb2", "shading")
TRAIN, TEST = drawn_auctions(2_000, seed=1), drawn_auctions(3_050, seed=2)
SCALES = {"constant": 45.0, "random": 120.0}


def stream_of(name: PolicyName, *, pays_bid: bool) -> Stream:
    (policy,) = policies_for([name], TRAIN)
    return Stream.of(policy, TEST, np.random.default_rng(7), pays_bid=pays_bid)


def by_loop(
    stream: Stream, scale: float, budget: float, *, first: int = 0, end: int | None = None
) -> tuple[list[int], list[float], int]:
    """Rows that are won, what they cost, and how many auctions were seen, one after the other."""
    rows, costs, left = [], [], budget
    end = len(TEST) if end is None else end
    for row in range(first, end):
        bid = float(stream.policy.bids(np.array([scale * stream.worth[row]]))[0])
        if not bid > stream.prices[row]:
            continue
        cost = bid if stream.pays_bid else float(stream.prices[row])
        if cost > left + 1e-9:
            return rows, costs, row - first
        rows.append(row)
        costs.append(cost)
        left -= cost
    return rows, costs, end - first


@pytest.mark.parametrize("pays_bid", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.02, 0.2, 1.0])
def test_a_stream_is_a_loop_over_auctions(name: PolicyName, pays_bid: bool, share: float) -> None:
    stream, scale = stream_of(name, pays_bid=pays_bid), SCALES.get(name, 4_000.0)
    (won,) = stream.replay(scale, [share * TEST.cost])
    rows, costs, seen = by_loop(stream, scale, share * TEST.cost)
    assert won.rows.tolist() == rows
    assert won.costs == pytest.approx(costs, rel=1e-9)
    assert won.seen == seen
    assert 0 < len(rows) < len(TEST)
    assert won.costs.sum() <= share * TEST.cost + 1e-6


@pytest.mark.parametrize("pays_bid", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_pacing_is_a_loop_over_auctions(name: PolicyName, pays_bid: bool, share: float) -> None:
    stream, scale = stream_of(name, pays_bid=pays_bid), SCALES.get(name, 4_000.0)
    won = stream.paced(scale, share * TEST.cost)
    left, log_factor, last = share * TEST.cost, 0.0, 0.0
    rows, costs, seen = [], [], 0
    for slot in range(SLOTS):
        first, end = (slot * len(TEST)) // SLOTS, ((slot + 1) * len(TEST)) // SLOTS
        own, paid, passed = by_loop(stream, scale * math.exp(log_factor), left, first=first, end=end)
        rows, costs, seen = rows + own, costs + paid, seen + passed
        if passed < end - first:
            break
        error = max(-MOST_ERROR, min(MOST_ERROR, 1 - sum(paid) / (left / (SLOTS - slot))))
        log_factor += PROPORTIONAL * (error - last) + INTEGRAL * error
        last, left = error, left - sum(paid)
    assert won.rows.tolist() == rows
    assert won.costs == pytest.approx(costs, rel=1e-9)
    assert won.seen == seen


def test_budgets_share_one_pass() -> None:
    stream, budgets = stream_of("linear", pays_bid=False), [TEST.cost / one for one in (2, 8, 32)]
    together = stream.replay(3_000.0, budgets)
    for one, budget in zip(together, budgets, strict=True):
        (alone,) = stream.replay(3_000.0, [budget])
        assert (alone.rows.tolist(), alone.seen) == (one.rows.tolist(), one.seen)


def test_a_bid_equal_to_the_price_loses_and_one_without_worth_too() -> None:
    auctions = Auctions(np.ones(4, np.bool_), np.array([10.0, 10.0, 0, 0]), np.array([0.1, 0.2, 0.1, 0]))
    stream = Stream.of(Policy("linear"), auctions, np.random.default_rng(0), pays_bid=False)
    (won,) = stream.replay(100.0, [1e9])
    assert won.rows.tolist() == [1, 2]


def test_feedback_makes_a_budget_last() -> None:
    stream, budget = stream_of("linear", pays_bid=False), TEST.cost / 8
    (rushed,) = stream.replay(20_000.0, [budget])
    paced = stream.paced(20_000.0, budget)
    assert rushed.seen < 0.3 * len(TEST)
    assert paced.seen > 0.97 * len(TEST)
    assert 0.9 * budget < paced.costs.sum() <= budget
    assert TEST.clicks[paced.rows].sum() > TEST.clicks[rushed.rows].sum()
    shy = stream.paced(200.0, budget)
    assert shy.costs.sum() > 0.5 * budget


def test_the_controller_bids_more_after_too_little_spend() -> None:
    controller = Controller()
    assert controller.factor == 1.0
    controller.observe(0.5, 1.0)
    assert controller.factor == pytest.approx(math.exp(0.5 * (PROPORTIONAL + INTEGRAL)))
    for _ in range(3):
        controller.observe(50.0, 1.0)
    assert controller.factor < 1.0
    controller.observe(1.0, 0.0)  # nothing is left to spend
    assert math.isfinite(controller.factor)


def test_tuning_finds_the_scale_with_the_most_clicks() -> None:
    (policy,) = policies_for(["linear"], TRAIN)
    stream = Stream.of(policy, TRAIN, np.random.default_rng(0), pays_bid=False)
    budgets = [TRAIN.cost / 2, TRAIN.cost / 16]
    found = tuned_scales(stream, TRAIN, budgets)
    tried = tried_scales(stream.least_scales)
    for scale, budget in zip(found, budgets, strict=True):
        clicks = [int(TRAIN.clicks[stream.replay(one, [budget])[0].rows].sum()) for one in tried]
        assert TRAIN.clicks[stream.replay(scale, [budget])[0].rows].sum() == max(clicks) > 0
    assert found[0] > found[1]


def test_tried_scales_win_a_thousandth_to_all() -> None:
    stream = stream_of("linear", pays_bid=False)
    wins = [len(stream.replay(scale, [np.inf])[0].rows) for scale in tried_scales(stream.least_scales)]
    assert wins[0] <= 0.001 * len(TEST) + 1
    assert wins[-1] == len(TEST)
    assert wins == sorted(wins)


def test_truthful_bids_what_a_click_cost() -> None:
    (policy,) = policies_for(["truthful"], TRAIN)
    assert policy.scale == pytest.approx(TRAIN.prices.sum() / TRAIN.clicks.sum())
    stream = Stream.of(policy, TEST, np.random.default_rng(0), pays_bid=True)
    (won,) = stream.replay(policy.scale, [np.inf])
    assert won.costs == pytest.approx(policy.scale * TEST.pctr[won.rows])
