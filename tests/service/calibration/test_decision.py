"""What periods of impressions and clicks make of the correction of a bundle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.calibration.counts import BINS, Counts, count, evidence_of
from service.calibration.decision import MAX_REVISION, Decision, LiveCalibration, Rules
from service.calibration.fit import NONE, Correction, fit, predicted_clicks
from service.calibration.recent import RecentCounts

MINUTE = 60.0


class World:
    """Impressions of a bundle that is calibrated but for a shift of the true log-odds."""

    def __init__(self, seed: int = 1) -> None:
        self._rng = np.random.default_rng(seed)

    def counts(self, rows: int, shift: float) -> Counts:
        log_odds = self._rng.normal(-3.5, 0.8, rows).astype(np.float32)
        is_click = self._rng.random(rows) < 1.0 / (1.0 + np.exp(-(log_odds + shift)))
        clicked = log_odds[is_click]
        return count(log_odds, np.zeros(rows, bool)) + count(clicked, np.ones(len(clicked), bool))


def run(live: LiveCalibration, world: World, minutes: int, shift: float, rows: int = 2_000) -> list[Decision]:
    found = []
    for _ in range(minutes):
        found += live.step(world.counts(rows, shift), MINUTE)
    return found


def test_a_calibrated_bundle_stays_as_it_is() -> None:
    live = LiveCalibration(Rules())
    decisions = run(live, World(), 240, 0.0)
    # An interval of 95 % is looked at 240 times; what chance fits moves little.
    assert len(decisions) < 60
    assert abs(live.correction.intercept - 3.5 * (live.correction.slope - 1)) < 0.05


def pcoc(live: LiveCalibration, counts: Counts) -> float:
    evidence = evidence_of(counts)
    return predicted_clicks(evidence, live.correction) / float(evidence.clicks.sum())


@pytest.mark.parametrize("shift", [0.26, -0.26])
def test_a_shift_is_followed_step_by_step_and_taken_back_when_it_ends(shift: float) -> None:
    world, live = World(), LiveCalibration(Rules())
    run(live, world, 120, 0.0)
    before = live.revision
    decisions = run(live, world, 60, shift)
    assert Decision.ADOPTED in decisions
    assert live.revision > before
    following = World(seed=2).counts(200_000, shift)
    assert pcoc(live, following) == pytest.approx(1.0, abs=0.05)
    run(live, world, 60, 0.0)
    assert pcoc(live, World(seed=3).counts(200_000, 0.0)) == pytest.approx(1.0, abs=0.05)


def test_nothing_is_served_before_it_was_judged_on_what_came_later() -> None:
    world, live = World(), LiveCalibration(Rules(min_clicks=100))
    assert live.step(world.counts(20_000, 0.3), MINUTE) == [Decision.FITTED]
    assert (live.revision, live.correction) == (0, NONE)
    assert live.step(np.zeros((BINS, 3)), MINUTE) == []
    assert live.step(world.counts(1_000, 0.3), MINUTE) == []  # too few clicks to judge on
    assert Decision.ADOPTED in live.step(world.counts(20_000, 0.3), MINUTE)
    assert live.revision == 1
    assert live.correction != NONE


def test_what_does_not_hold_is_rejected() -> None:
    world, live = World(), LiveCalibration(Rules())
    assert live.step(world.counts(20_000, 0.3), MINUTE) == [Decision.FITTED]
    assert Decision.REJECTED in live.step(world.counts(20_000, -0.3), MINUTE)
    assert (live.revision, live.correction) == (0, NONE)


def test_a_correction_that_the_bundle_beats_goes_at_once() -> None:
    world, live = World(), LiveCalibration(Rules())
    run(live, world, 30, 0.3)
    revision = live.revision
    assert live.correction != NONE
    assert Decision.REVERTED in live.step(world.counts(20_000, 0.0), MINUTE)
    assert live.revision > revision
    assert live.correction == NONE


def test_a_correction_that_is_right_is_not_taken_back_by_chance() -> None:
    """Few clicks a step for hours: the test may begin anew at each, and has many chances to be wrong."""
    world, live = World(), LiveCalibration(Rules())
    run(live, world, 60, -0.36)
    assert live.correction != NONE
    assert Decision.REVERTED not in run(live, world, 600, -0.36, rows=200)


def test_few_clicks_decide_nothing() -> None:
    world, live = World(), LiveCalibration(Rules(min_clicks=1_000))
    assert run(live, world, 10, 1.0, rows=500) == []


@pytest.mark.parametrize(("max_step", "max_change"), [(0.1, 0.5), (0.3, 0.2)])
def test_steps_and_the_whole_change_are_bounded(max_step: float, max_change: float) -> None:
    world, live = World(), LiveCalibration(Rules(max_step=max_step, max_change=max_change))
    served, change = NONE, 0.0
    for _ in range(60):
        live.step(world.counts(4_000, 1.2), MINUTE)
        for z in (-5.0, -3.5, -2.0):  # where nearly all rows are
            point = np.array([z])
            step = float(abs(live.correction.log_odds(point) - served.log_odds(point))[0])
            assert step <= 1.05 * max_step
            change = max(change, float(abs(live.correction.log_odds(point) - point)[0]))
        served = live.correction
    assert 0.8 * max_change < change <= 1.05 * max_change
    assert live.correction.slope > 0


def test_revisions_begin_again_where_tokens_have_no_more() -> None:
    world, live = World(), LiveCalibration(Rules())
    live.revision = MAX_REVISION
    run(live, world, 10, 0.5)
    assert 1 <= live.revision < 10


@given(st.lists(st.floats(0, 10_000), min_size=1, max_size=60))
@settings(deadline=None, max_examples=20)
def test_weights_halve_with_each_half_life(seconds: list[float]) -> None:
    recent, counts = RecentCounts(3_600.0, 50), World().counts(1_000, 0.0)
    total, squares = 0.0, 0.0
    for each in seconds:
        recent.step(counts, each)
        weight = 0.5 ** (each / 3_600.0)
        total, squares = weight * total + 1, weight**2 * squares + 1
    clicks = evidence_of(counts).clicks.sum()
    assert recent.evidence.clicks.sum() == pytest.approx(total * clicks)
    assert recent.clicks == pytest.approx(clicks * total**2 / squares)


def test_what_was_before_a_change_is_forgotten_and_no_more() -> None:
    world, recent = World(), RecentCounts(1e15, 50)
    before, after = 100, 10
    for _ in range(before):
        recent.step(world.counts(2_000, 0.0), MINUTE)
    assert recent.evidence.rows.sum() == pytest.approx(before * 2_000)
    for _ in range(after):
        recent.step(world.counts(2_000, 0.5), MINUTE)
    assert (after - 2) * 2_000 <= recent.evidence.rows.sum() <= (after + 2) * 2_000


def test_a_fit_is_not_served_when_counts_are_damaged() -> None:
    live = LiveCalibration(Rules())
    assert live.step(np.full((BINS, 3), -5.0), MINUTE) == []
    assert fit(live.recent.evidence) == NONE == Correction()


def test_frozen_it_decides_and_nothing_changes_until_it_is_thawed() -> None:
    world, live = World(), LiveCalibration(Rules())
    run(live, world, 30, 0.3)
    served = live.correction, live.revision
    live.is_frozen = True
    decisions = run(live, world, 60, -0.3)
    assert {Decision.ADOPTED, Decision.REVERTED} <= set(decisions)
    assert (live.correction, live.revision) == served
    live.is_frozen = False
    run(live, world, 60, -0.3)
    assert live.revision > served[1]
    assert pcoc(live, World(seed=2).counts(200_000, -0.3)) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_reset_forgets_all_but_the_revision(is_frozen: bool) -> None:
    world, live = World(), LiveCalibration(Rules())
    run(live, world, 30, 0.3)
    live.step(world.counts(20_000, -0.3), MINUTE)  # there may be a candidate
    revision, live.is_frozen = live.revision, is_frozen
    live.reset()
    assert (live.correction, live.revision, live.recent.clicks) == (NONE, revision + 1, 0.0)
    assert live.step(np.zeros((BINS, 3)), MINUTE) == []
    calibrated = run(live, World(seed=4), 3, 0.0)
    assert Decision.ADOPTED not in calibrated
    assert live.correction == NONE
