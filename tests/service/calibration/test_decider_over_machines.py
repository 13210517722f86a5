"""Services that share a real Redis decide alike, learn from each event once, and go on without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from service.calibration.counts import BINS
from service.calibration.decider import Decider
from service.calibration.decision import MAX_SHARED_REVISION
from service.calibration.errand import Report, field_of
from service.calibration.memory import LiveMemory, LiveState
from service.calibration.slots import SlotPart
from service.metrics.families import Metrics
from service.settings import Settings
from tests.redis_server import RedisServer, running_cluster, running_redis
from tests.running import read_metrics
from tests.service.calibration.test_ledger import learned

START = 1_800_000_000_000
SECOND = 1_000
MINUTE = 60 * SECOND
HALF_LIFE = 10**15  # so long that counts stay whole


class Machine:
    """A service that counts and decides, at a time that the test sets."""

    def __init__(self, url: str, now: int, arms: dict[int, str], half_life: int = HALF_LIFE) -> None:
        given = {"feedback_store": url, "feedback_keys": "keys", "live_half_life_seconds": half_life}
        self.settings = Settings(live_period_seconds=60, click_window_seconds=60, **given)
        self.memory = LiveMemory(1, 4, self.settings.click_window_seconds)
        self.metrics = Metrics()
        self.decider = Decider(self.settings, self.memory, self.metrics, now)
        self.decider.serve(arms)
        self._part = SlotPart(self.memory, 0)

    def shown(self, number: int, made_ms: int, rows: int, clicks: int, log_odds: float = -3.0) -> None:
        odds, made = np.full(rows, log_odds, np.float32), np.full(rows, made_ms)
        self._part.add(number, made, odds, np.zeros(rows, bool))
        self._part.add(number, made[:clicks], odds[:clicks], np.ones(clicks, bool))

    def visit(self, now: int) -> None:
        # The pause after a visit that the test machine made slow does not count.
        self.decider._joint._pause_ms = 0.0  # type: ignore[union-attr]
        self.decider.step_if_due(now)

    def state(self, arm: str = "only") -> LiveState:
        found = self.decider.state(arm)
        assert found is not None
        return found

    def learned(self, number: int = 7) -> tuple[float, float]:
        """Impressions and clicks."""
        found = learned(self.decider._ledger.accounts[number])
        return round(float(found[:, 0].sum()), 6), round(float(found[:, 1].sum()), 6)

    def metric(self, name: str) -> float:
        return read_metrics(self.metrics.exposition()[0].decode())[name]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def visits(machines: list[Machine], start: int, minutes: int) -> int:
    """Let all visit each quarter of so many minutes; the time then."""
    now = start
    for _ in range(4 * minutes):
        now += MINUTE // 4
        for machine in machines:
            machine.visit(now)
    return now


TURN = st.one_of(
    st.tuples(st.just("shown"), st.integers(0, 2), st.integers(1, 50)),
    st.tuples(st.just("passed"), st.integers(0, 2), st.integers(1, 200)),
    st.tuples(st.just("lost"), st.just(0), st.just(0)),
)


@settings(deadline=None, max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(st.lists(TURN, min_size=4, max_size=16))
def test_each_event_is_learned_from_once_whoever_counts_it_and_whatever_the_redis_loses(
    redis: RedisServer, turns: list[tuple[str, int, int]]
) -> None:
    redis.call("FLUSHALL")
    now = START
    machines = [Machine(redis.url, now, {7: "only"}) for _ in range(3)]
    shown = clicks = 0
    for what, which, number in turns:
        match what:
            case "shown":
                machines[which].shown(7, now, number, number // 3)
                shown, clicks = shown + number, clicks + number // 3
            case "passed":
                now += number * SECOND
                machines[which].visit(now)
            case "lost":
                redis.call("FLUSHALL")
    visits(machines, now, 4)
    assert [machine.learned() for machine in machines] == [(shown, clicks)] * 3
    assert len({machine.state().clicks for machine in machines}) == 1


def test_all_machines_serve_the_same_revision_and_follow_commands_of_any(redis: RedisServer) -> None:
    redis.call("FLUSHALL")
    one, other = (Machine(redis.url, START, {7: "only"}, half_life=3_600) for _ in range(2))
    now = START
    for _ in range(12):
        one.shown(7, now, 2_000, 160)  # 8 % where the bundle says 4.7 %
        other.shown(7, now, 1_000, 80)
        now = visits([one, other], now, 1)
    assert one.state() == other.state()
    assert one.state().revision >= 1
    assert one.state().pcoc_live == pytest.approx(1.0, abs=0.1)
    assert one.metric("bidlight_live_machines") == 2
    decided = 'bidlight_live_decisions_total{arm="only",decision="adopted"}'
    assert one.metric(decided) + other.metric(decided) == one.state().revision
    third = Machine(redis.url, now, {7: "only"})  # begins with what the others know
    third.visit(now)
    assert third.state() == one.state()
    other.decider.freeze("only")
    assert other.state().is_frozen
    visits([other, one], now, 1)
    assert one.state().is_frozen
    one.decider.reset("only", now)
    assert (one.state().intercept, one.state().clicks) == (0.0, 0.0)
    assert one.state().revision > MAX_SHARED_REVISION  # the others may give the next one to something else
    revision = other.state().revision
    now = visits([one, other], now, 1)
    assert other.state().revision == revision + 1
    assert other.state() == one.state()
    assert (other.state().is_frozen, other.state().intercept, other.state().slope) == (True, 0.0, 1.0)
    other.decider.thaw("only")
    visits([other, one], now, 1)
    assert not one.state().is_frozen


def test_machines_whose_clocks_differ_a_little_make_one_step_a_period(
    redis: RedisServer,
) -> None:
    redis.call("FLUSHALL")
    behind, ahead = (Machine(redis.url, START, {7: "only"}, half_life=600) for _ in range(2))
    now = START
    for quarter in range(4 * 12):
        now += MINUTE // 4
        if quarter == 4:
            behind.shown(7, START, 1_000, 100)
        ahead.visit(now + 50 * SECOND)
        behind.visit(now)
    # After one half-life, some minutes of which were before it was mature.
    assert 40 < behind.learned()[1] < 80
    assert len(behind.decider._ledger.accounts[7].live.recent.records) <= 14


def test_events_of_a_bundle_that_one_does_not_serve_are_learned_from(redis: RedisServer) -> None:
    redis.call("FLUSHALL")
    old, new = Machine(redis.url, START, {7: "only"}), Machine(redis.url, START, {8: "only"})
    now = visits([old, new], START, 1)
    old.shown(8, now, 300, 30)
    visits([old, new], now, 4)
    assert new.learned(8) == (300, 30)


def test_what_was_forgotten_of_a_machine_is_not_new_when_it_is_back(redis: RedisServer) -> None:
    redis.call("FLUSHALL")
    one, other = (Machine(redis.url, START, {7: "only"}) for _ in range(2))
    one.shown(7, START, 30, 3)
    other.shown(7, START, 10, 1)
    now = visits([one, other], START, 4)
    for _ in range(60):  # of half an hour
        now += 30 * MINUTE
        other.visit(now)
        assert other.learned() == (40, 4)
    now = visits([one, other], now, 2)
    assert one.learned() == other.learned() == (40, 4)
    one.shown(7, now, 20, 2)
    visits([one, other], now, 4)
    assert one.learned() == other.learned() == (60, 6)


def test_what_was_forgotten_of_a_bundle_is_not_new_when_it_is_served_again(redis: RedisServer) -> None:
    redis.call("FLUSHALL")
    both = {7: "only", 8: "old"}
    one, other = Machine(redis.url, START, both), Machine(redis.url, START, {7: "only"})
    now = visits([one, other], START, 1)
    one.shown(8, now, 30, 3)
    other.shown(8, now, 10, 1)
    now = visits([one, other], now, 4)
    assert one.learned(8) == (40, 4)
    one.decider.serve({7: "only"})
    for _ in range(60):  # of half an hour
        now += 30 * MINUTE
        for machine in (one, other):
            machine.visit(now + 40 * SECOND)
    assert 8 not in one.decider._ledger.accounts
    one.decider.serve(both)
    now = visits([one, other], now, 2)
    assert one.learned(8) == (0, 0)
    one.shown(8, now, 20, 2)
    visits([one, other], now, 4)
    assert one.learned(8) == other.learned(8) == (20, 2)


def test_without_the_redis_each_goes_on_alone_and_nothing_counts_twice_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "bidlight")
    with running_redis(tmp_path) as redis:
        one, other = (Machine(redis.url, START, {7: "only"}) for _ in range(2))
        now = START
        for _ in range(8):
            one.shown(7, now, 2_000, 160)
            now = visits([one, other], now, 1)
        shared = one.state()
        assert 1 <= shared.revision == other.state().revision <= MAX_SHARED_REVISION
        redis.stop()
        for _ in range(8):
            other.shown(7, now, 2_000, 40)
            now = visits([one, other], now, 1)
        assert (one.metric("bidlight_live_joined"), other.metric("bidlight_live_joined")) == (0, 0)
        assert (one.state().revision, one.state().intercept) == (shared.revision, shared.intercept)
        assert other.state().revision > MAX_SHARED_REVISION
        assert other.state().intercept < shared.intercept
        redis.start()  # empty
        now = visits([one, other], now, 5)
        # What came since contradicts what was before, which is forgotten; it counts once.
        assert one.learned() == other.learned() == (16_000, 320)
        assert one.state() == other.state()
        assert shared.revision <= one.state().revision <= MAX_SHARED_REVISION
        assert one.metric("bidlight_live_joined") == 1
    assert "are decided from this machine's events alone until" in caplog.text
    assert "are decided with the other machines again" in caplog.text


def test_a_ledger_that_is_none_is_replaced_and_a_cluster_is_a_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_cluster(tmp_path) as nodes:
        url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
        one = Machine(url, START, {7: "only"})
        one.shown(7, START, 30, 3)
        now = visits([one], START, 3)
        assert one.learned() == (30, 3)
        for node in nodes:
            keys = node.call("KEYS", "*")
            for key in keys:
                assert 0 < node.call("PTTL", key) <= 2 * 86_400_000
            if b"{bidlight:live}:ledger:1" in keys:
                node.call("SET", "{bidlight:live}:ledger:1", "nonsense")
                node.call("HSET", "{bidlight:live}:reports:1", "nonsense", "more")
                nan = Report.of(now, "only", np.full((BINS, 3), np.nan), is_served=True)
                node.call("HSET", "{bidlight:live}:reports:1", field_of(7, "other.1"), nan)
        visits([one], now, 2)
        assert one.learned() == (30, 3)
        assert one.metric("bidlight_live_joined") == 1
    assert "could not be decided" not in caplog.text
