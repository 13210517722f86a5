"""A canary on its way: what it waits for, and which gate takes a worse one back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from service.calibration.counts import Counts, count
from service.errors import BadConfiguration
from service.metrics.buckets import LATENCY_BUCKETS, PCTR_BUCKETS
from service.rollout.canary import Canary, Ruling, Verdict
from service.rollout.counts import ArmCounts, PairCounts
from service.rollout.fast import stability
from service.rollout.gates import Gate
from service.rollout.plan import Plan, check_plan
from service.rollout.slow import DOUBT, Feedback, SlowGates, losses_of

BOUNDS = (*LATENCY_BUCKETS, math.inf)
PCTR_BOUNDS = np.array([*PCTR_BUCKETS, math.inf])
PLAN = Plan(steps=(10.0, 50.0, 100.0), hold_seconds=60.0, requests=200, known_clicks=0)
ROWS = 10


class Arm:
    """Counts of an arm that answers requests of `ROWS` rows, as a service would add them up."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.counts = ArmCounts(0.0, 0.0, 0.0, 0.0, 0.0, np.zeros(len(BOUNDS)), np.zeros(len(PCTR_BOUNDS)))

    def answer(self, requests: int, failing: float = 0.0, slower_ms: float = 0.0, scale: float = 1.0) -> None:
        failed = int(self.rng.binomial(requests, failing))
        answered = requests - failed
        seconds = self.rng.lognormal(math.log(0.004), 0.6, answered) + 1e-3 * slower_ms
        pctrs = np.minimum(scale * self.rng.beta(1.0, 40.0, answered * ROWS), 1.0)
        before = self.counts
        self.counts = replace(
            before,
            requests=before.requests + requests,
            failed=before.failed + failed,
            rows=before.rows + answered * ROWS,
            bids=before.bids + answered * ROWS,
            latency=before.latency + _binned(seconds, np.array(BOUNDS)),
            pctr=before.pctr + _binned(pctrs, PCTR_BOUNDS),
        )


def _binned(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(bounds, values), minlength=len(bounds)).astype(float)


class Rollout:
    """A canary with traffic of so many requests a second; the new arm differs from control as it is told."""

    def __init__(self, plan: Plan = PLAN, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.ours, self.theirs = Arm(self.rng), Arm(self.rng)
        self.second = 0.0
        self.canary = Canary(plan, self.pair, BOUNDS, self.second)

    @property
    def pair(self) -> PairCounts:
        return PairCounts(self.ours.counts, self.theirs.counts)

    def run(self, seconds: int, requests: int = 100, **differences: float) -> list[Ruling]:
        """The rulings of so many seconds other than to hold; it ends with one that ends it."""
        found = []
        for _ in range(seconds):
            ours = int(self.rng.binomial(requests, self.canary.share))
            self.ours.answer(ours, **differences)
            self.theirs.answer(requests - ours)
            self.second += 1.0
            ruling = self.canary.look(self.pair, self.second)
            if ruling.verdict != Verdict.HELD:
                found.append(ruling)
            if ruling.verdict in (Verdict.FINISHED, Verdict.TAKEN_BACK):
                break
        return found


@pytest.mark.parametrize("seed", range(10))
def test_an_equal_arm_earns_all_traffic_in_the_time_of_its_steps(seed: int) -> None:
    rollout = Rollout(seed=seed)
    assert [each.verdict for each in rollout.run(1_000)] == [Verdict.RAISED, Verdict.FINISHED]
    assert rollout.canary.share == 1.0
    assert rollout.second == pytest.approx(120.0, abs=10.0)


def test_a_step_waits_for_requests_however_long_it_has_lasted() -> None:
    rollout = Rollout()
    assert rollout.run(90, requests=10) == []
    assert "of 200 requests in this step" in rollout.canary.waits_for(rollout.second)
    assert [each.verdict for each in rollout.run(30)] == [Verdict.RAISED]


def test_a_step_waits_for_control_that_has_nothing_to_compare_with() -> None:
    rollout = Rollout()
    for _ in range(100):
        rollout.ours.answer(10)
        rollout.second += 1.0
        assert rollout.canary.look(rollout.pair, rollout.second).verdict == Verdict.HELD
    assert rollout.canary.waits_for(rollout.second).startswith("control has answered 0 requests")


def test_gates_see_a_worse_arm_that_gets_little_traffic() -> None:
    """A request of either arm now and then: hardly a second has both, and no minute a hundred of control."""
    failing, slow = Rollout(), Rollout()
    for second in range(1, 3_000):
        for rollout, differences in ((failing, {"failing": 1.0}), (slow, {"slower_ms": 50.0})):
            if second % 7 == 0:
                rollout.ours.answer(1, **differences)
            elif second % 2:
                rollout.theirs.answer(1)
            rollout.canary.look(rollout.pair, float(second))
    failed = [[each.gate for each in of.canary.readings if each.has_failed] for of in (failing, slow)]
    assert failed == [[Gate.ERRORS], [Gate.LATENCY]]


def test_pctrs_that_change_by_the_hour_take_no_arm_back() -> None:
    """Over all steps the canary has more of the last hour than control has, and both have the same pCTRs."""
    rollout = Rollout(Plan(steps=(2.0, 60.0), hold_seconds=300.0, requests=200, known_clicks=0))
    for second in range(1, 580):
        scale = 1.0 if second <= 310 else 4.0
        ours = round(200 * rollout.canary.share)
        rollout.ours.answer(ours, scale=scale)
        rollout.theirs.answer(200 - ours, scale=scale)
        assert rollout.canary.look(rollout.pair, float(second)).verdict != Verdict.TAKEN_BACK
    assert rollout.canary.step == 1


def test_a_last_step_below_all_traffic_ends_after_its_time() -> None:
    rollout = Rollout(replace_steps(10.0))
    assert [each.verdict for each in rollout.run(1_000)] == [Verdict.FINISHED]
    assert rollout.canary.share == 0.1


def replace_steps(*steps: float) -> Plan:
    return Plan(steps=steps, hold_seconds=60.0, requests=200)


@pytest.mark.parametrize(
    ("gate", "differences", "most_seconds"),
    [
        (Gate.ERRORS, {"failing": 0.05}, 40),
        (Gate.ERRORS, {"failing": 1.0}, 3),
        (Gate.LATENCY, {"slower_ms": 20.0}, 20),
        (Gate.PCTR, {"scale": 3.0}, 60),
    ],
)
@pytest.mark.parametrize("good_seconds", [0, 55])
def test_a_worse_arm_is_taken_back_within_seconds(
    gate: Gate, differences: dict[str, float], most_seconds: int, good_seconds: int
) -> None:
    """Also when it was good before."""
    rollout = Rollout(Plan(steps=(10.0, 50.0, 100.0), hold_seconds=600.0))
    assert rollout.run(good_seconds) == []
    (ruling,) = rollout.run(120, **differences)
    assert (ruling.verdict, ruling.gate) == (Verdict.TAKEN_BACK, gate)
    assert rollout.second - good_seconds <= most_seconds


def test_a_step_that_waits_for_impressions_goes_on_once_they_are_judged() -> None:
    rollout = Rollout(
        Plan(steps=(10.0, 50.0), hold_seconds=1e6, requests=10, impressions=500, known_clicks=20)
    )
    assert rollout.run(20) == []
    rollout.canary.learn(feedback(499, 0.02, 0.02), feedback(5_000, 0.02, 0.02))
    assert rollout.run(5) == []
    rollout.canary.learn(feedback(1, 0.02, 0.02), feedback(10, 0.02, 0.02))
    assert [each.verdict for each in rollout.run(1)] == [Verdict.RAISED]


def test_a_step_up_waits_for_as_many_clicks_as_its_share_needs_and_the_last_one_for_none() -> None:
    rollout = Rollout(Plan(steps=(10.0, 40.0, 80.0), hold_seconds=1.0, requests=10, known_clicks=500))

    def learn(shown: int) -> None:
        rollout.canary.learn(feedback(shown, 0.02, 0.02), feedback(5 * shown, 0.02, 0.02))

    learn(9_950)
    assert rollout.run(20) == []
    assert rollout.canary.waits_for(rollout.second).startswith("199 independent clicks of it are judged, and")
    learn(50)
    assert [each.verdict for each in rollout.run(20)] == [Verdict.RAISED]
    learn(10_000)
    assert [each.verdict for each in rollout.run(20)] == [Verdict.RAISED, Verdict.FINISHED]


@pytest.mark.parametrize("pctr", [0.014, 0.02, 0.026])
def test_an_arm_of_which_there_is_doubt_rises_no_further(pctr: float) -> None:
    rollout = Rollout(Plan(steps=(10.0, 100.0), hold_seconds=1.0, requests=10, known_clicks=100))
    for _ in range(100):
        rollout.canary.learn(feedback(500, 0.02, pctr), feedback(2_500, 0.02, 0.02))
        if max(each.level or 0.0 for each in rollout.canary.readings) > DOUBT:
            break
    found = rollout.run(20)
    if pctr == 0.02:
        assert [each.verdict for each in found] == [Verdict.FINISHED]
    else:
        assert found == []
        assert rollout.canary.waits_for(rollout.second).startswith("pcoc knows 0.")


def test_rows_that_are_not_independent_count_for_less_and_what_both_arms_share_does_not() -> None:
    """Users of thirty rows click all or nothing; or the rate of both arms goes up and down together."""
    rng = np.random.default_rng(2)
    bursts, tides = (SlowGates(Plan(), 6.4) for _ in range(2))
    for _ in range(400):
        for gates, ours, theirs in (
            (bursts, 30 * rng.binomial(33, 0.02), 30 * rng.binomial(100, 0.02)),
            (tides, *rng.binomial((1_000, 3_000), 0.02 * rng.choice([0.5, 1.5]))),
        ):
            gates.add(Feedback(_clicked(1_000, ours), 1e4), Feedback(_clicked(3_000, theirs), 3e4))
    assert bursts.clicks == pytest.approx(400 * 20 / 30, rel=0.3)
    assert tides.clicks == pytest.approx(400 * 20, rel=0.25)


def _clicked(shown: int, clicks: int) -> Counts:
    log_odds = np.full(shown + clicks, math.log(0.02 / 0.98))
    return count(log_odds, np.arange(shown + clicks) >= shown)


def feedback(shown: int, rate: float, pctr: float, bids: float | None = None) -> Feedback:
    """Impressions with one pCTR, of which that share is clicked."""
    clicks = round(rate * shown)
    log_odds = np.full(shown + clicks, math.log(pctr / (1.0 - pctr)))
    is_click = np.arange(shown + clicks) >= shown
    return Feedback(count(log_odds, is_click), 10.0 * shown if bids is None else bids)


@pytest.mark.parametrize(
    ("gate", "pctr", "rate", "bids"),
    [
        (Gate.PCOC, 0.014, 0.02, None),  # 30 % too low
        (Gate.PCOC, 0.026, 0.02, None),
        (Gate.CLICKS, 0.02, 0.02, 200_000.0),  # it wins half as often
    ],
)
def test_clicks_take_a_worse_arm_back(gate: Gate, pctr: float, rate: float, bids: float | None) -> None:
    rollout = Rollout()
    for _ in range(40):
        rollout.canary.learn(feedback(1_000, rate, pctr, bids and bids / 10), feedback(9_000, 0.02, 0.02))
        failed = [each.gate for each in rollout.canary.readings if each.has_failed]
        if failed:
            break
    assert gate in failed
    assert rollout.canary.look(rollout.pair, 1.0).verdict == Verdict.TAKEN_BACK


def test_an_arm_that_guesses_is_taken_back_though_its_mean_is_right() -> None:
    rollout, failed = Rollout(), []
    for _ in range(80):
        parts = [feedback(500, 0.02, pctr) for pctr in (0.039, 0.001)]
        guessed = Feedback(parts[0].counts + parts[1].counts, 10_000.0)
        rollout.canary.learn(guessed, feedback(9_000, 0.02, 0.02))
        failed = [each.gate for each in rollout.canary.readings if each.has_failed]
        if failed:
            break
    assert failed == [Gate.LOGLOSS]


def test_an_arm_that_is_better_than_a_control_that_has_drifted_is_not_taken_back() -> None:
    """Control is 25 % off and the canary is not: they differ, and only one of them is wrong."""
    rollout = Rollout()
    for _ in range(100):
        rollout.canary.learn(feedback(1_000, 0.02, 0.02), feedback(9_000, 0.02, 0.015))
    assert not [each for each in rollout.canary.readings if each.has_failed]


def test_losses_of_bins_are_those_of_their_rows() -> None:
    rng = np.random.default_rng(5)
    pctrs = rng.beta(1.0, 40.0, 50_000)
    clicks = rng.random(len(pctrs)) < pctrs
    log_odds = np.log(pctrs / (1.0 - pctrs))
    counts: Counts = count(log_odds, np.zeros(len(pctrs), bool)) + count(
        log_odds[clicks], np.ones(int(clicks.sum()), bool)
    )
    found, each = losses_of(counts), -np.log(np.where(clicks, pctrs, 1.0 - pctrs))
    assert found.count == len(pctrs)
    assert found.mean == pytest.approx(each.mean(), rel=0.01)
    assert found.variance == pytest.approx(each.var(), rel=0.03)


def test_the_stability_index_is_that_of_its_definition() -> None:
    ours, theirs = Arm(np.random.default_rng(6)), Arm(np.random.default_rng(7))
    ours.answer(2_000, scale=1.5)
    theirs.answer(2_000)
    index, noise = stability(PairCounts(ours.counts, theirs.counts))
    parts = [each.counts.pctr / each.counts.pctr.sum() for each in (ours, theirs)]
    used = (parts[0] > 0) & (parts[1] > 0)
    expected = sum((a - b) * math.log(a / b) for a, b in zip(parts[0][used], parts[1][used], strict=True))
    assert index == pytest.approx(expected, rel=0.05)
    assert 0.0 < noise < 0.1


@pytest.mark.parametrize("steps", [(), (0.0, 5.0), (5.0, 5.0), (25.0, 5.0), (5.0, 101.0), (100.0,)])
def test_steps_that_do_not_rise_from_below_all_traffic_are_refused(steps: tuple[float, ...]) -> None:
    with pytest.raises(BadConfiguration, match="'steps' must be"):
        check_plan(Plan(steps=steps))
