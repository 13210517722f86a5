"""Tests that may be looked at at any time: how often they are wrong under constant looks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rollout.evidence import (
    FACTORS,
    Block,
    Both,
    Either,
    EProcess,
    LevelTest,
    MeanTest,
    RatioTest,
    Renewed,
    ShareTest,
)

LEVEL = 0.05
LIMIT = math.log(1.0 / LEVEL)
RUNS, LOOKS = 120, 120
# So many runs at the level, and three standard deviations more.
MOST_WRONG = LEVEL + 3.0 * math.sqrt(LEVEL * (1.0 - LEVEL) / RUNS)
EXPOSURE = 400.0

Rng = np.random.Generator
Draw = Callable[[Rng, float], float]


def base_rate(look: int) -> float:
    """It moves by the hour, for both arms."""
    return 0.02 * (1.0 + 0.6 * math.sin(look / 15.0))


def share(look: int) -> float:
    """The canary's part of the exposure, step by step."""
    return (0.01, 0.05, 0.25, 0.5)[4 * look // LOOKS]


def crossings(make: Callable[[], EProcess], rate: float, seed: int) -> list[int | None]:
    """Of each run, the first look with evidence beyond the limit, for `rate` times the events of control."""
    rng = np.random.default_rng(seed)
    found: list[int | None] = []
    for _ in range(RUNS):
        test, first = make(), None
        for look in range(LOOKS):
            ours = round(EXPOSURE * share(look))
            theirs = round(EXPOSURE) - ours
            rates = base_rate(look)
            block = Block(
                float(rng.binomial(ours, min(1.0, rate * rates))),
                ours,
                float(rng.binomial(theirs, rates)),
                theirs,
            )
            test.add(block)
            if test.evidence >= LIMIT:
                first = look
                break
        found.append(first)
    return found


def share_of(found: list[int | None]) -> float:
    return sum(each is not None for each in found) / len(found)


@pytest.mark.parametrize(
    ("make", "at_the_border", "wrong"),
    [
        (lambda: RatioTest(1.2), 1.2, 3.0),
        (lambda: RatioTest(0.9, is_below=True), 0.9, 0.2),
        (lambda: Renewed(lambda: RatioTest(1.0)), 1.0, 3.0),
        (lambda: Either(RatioTest(1.0), RatioTest(1.0, is_below=True)), 1.0, 3.0),
    ],
    ids=["above", "below", "renewed", "either"],
)
def test_rates_are_compared_right_whenever_one_looks(
    make: Callable[[], EProcess], at_the_border: float, wrong: float
) -> None:
    """The base rate and the shares of the arms change meanwhile, and chance says no more than the level."""
    assert share_of(crossings(make, at_the_border, seed=1)) <= MOST_WRONG
    assert share_of(crossings(make, wrong, seed=2)) > 0.99


def test_levels_are_judged_right_whenever_one_looks() -> None:
    rng = np.random.default_rng(3)
    wrong, found = 0, 0
    for _ in range(RUNS):
        tests = [LevelTest(0.01), LevelTest(0.01, is_below=True), ShareTest(0.01)]
        worse = [LevelTest(0.01), LevelTest(0.03, is_below=True), ShareTest(0.01)]
        is_wrong = is_found = [False] * 3
        for _ in range(LOOKS):
            block = Block(float(rng.binomial(100, 0.01)), 100.0, 0.0, 0.0)
            bad = Block(float(rng.binomial(100, 0.02)), 100.0, 0.0, 0.0)
            for test in tests:
                test.add(block)
            for test in worse:
                test.add(bad)
            is_wrong = [was or test.evidence >= LIMIT for was, test in zip(is_wrong, tests, strict=True)]
            is_found = [was or test.evidence >= LIMIT for was, test in zip(is_found, worse, strict=True)]
        wrong += sum(is_wrong)
        found += sum(is_found)
    assert wrong / (3 * RUNS) <= MOST_WRONG
    assert found == 3 * RUNS


@pytest.mark.parametrize(
    ("margin", "worse", "expected"), [(0.0, 0.0, False), (0.02, 0.02, False), (0.0, 0.1, True)]
)
def test_means_are_compared_right_whenever_one_looks(margin: float, worse: float, expected: bool) -> None:
    """Values are far from normal: the LogLoss of rare clicks, with a mean that moves."""
    rng = np.random.default_rng(4)
    losses = np.array([-math.log(0.98), -math.log(0.02)])
    crossed = 0
    for _ in range(RUNS):
        test, ours, theirs = MeanTest(2_000.0), np.zeros(0), np.zeros(0)
        sums = np.zeros((2, 3))
        for look in range(LOOKS):
            count = max(1, round(EXPOSURE * share(look)))
            ours = losses[(rng.random(count) < base_rate(look)).astype(int)] + worse
            theirs = losses[(rng.random(round(EXPOSURE) - count) < base_rate(look)).astype(int)]
            test.add(ours.mean() - theirs.mean() - margin, len(ours), len(theirs))
            for row, values in zip(sums, (ours, theirs), strict=True):
                row += (len(values), values.sum(), (values**2).sum())
            variance, control_variance = (row[2] / row[0] - (row[1] / row[0]) ** 2 for row in sums)
            if sums[0, 0] > 1_000 and test.evidence_at(variance, control_variance) >= LIMIT:
                crossed += 1
                break
    assert crossed / RUNS > 0.99 if expected else crossed / RUNS <= MOST_WRONG


@given(
    st.integers(0, 50), st.integers(0, 50), st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(0.2, 5.0),
    st.booleans(),
)  # fmt: skip
def test_a_ratio_is_that_of_binomials(
    ours: int, theirs: int, exposure: float, control_exposure: float, bound: float, is_below: bool
) -> None:
    """By the definition: the mean over alternatives of likelihood ratios, given the sum of events."""
    test = RatioTest(bound, is_below=is_below)
    test.add(Block(ours, exposure, theirs, control_exposure))

    def log_likelihood(ratio: float) -> float:
        chance = ratio * exposure / (ratio * exposure + control_exposure)
        return ours * math.log(chance) + theirs * math.log1p(-chance)

    ratios = [bound / each if is_below else bound * each for each in FACTORS]
    logs = [log_likelihood(ratio) - log_likelihood(bound) for ratio in ratios]
    expected = np.logaddexp.reduce(logs) - math.log(len(logs))
    assert test.evidence == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_what_begins_late_is_found_by_what_begins_anew() -> None:
    """After many good minutes a test of all the time says nothing for long."""
    whole, renewed = LevelTest(0.01), Renewed(lambda: LevelTest(0.01))
    for _ in range(60):
        for test in (whole, renewed):
            test.add(Block(0.0, 10_000.0, 0.0, 0.0))
        renewed.renew()
    for test in (whole, renewed):
        test.add(Block(40.0, 400.0, 0.0, 0.0))
    assert whole.evidence < 0.0
    assert renewed.evidence > LIMIT


def test_an_arm_must_be_worse_than_control_and_than_what_is_tolerated() -> None:
    test = Both(RatioTest(2.0), LevelTest(0.001))
    test.add(Block(50.0, 1_000.0, 5_000.0, 100_000.0))  # as bad as control
    assert test.evidence < 0.0
    test = Both(RatioTest(2.0), LevelTest(0.001))
    test.add(Block(5.0, 100_000.0, 0.0, 100_000.0))  # worse, and rare
    assert test.evidence < 0.0
    test.add(Block(50.0, 1_000.0, 0.0, 1_000.0))
    assert test.evidence > -200.0
    test = Both(RatioTest(2.0), LevelTest(0.001))
    test.add(Block(5.0, 10.0, 0.0, 1_000.0))
    assert test.evidence > LIMIT
