"""Decisions from counts of processes: what is written for all of them, and what the metrics tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from service.calibration.counts import CLICKS
from service.calibration.decider import Decider
from service.calibration.memory import LiveMemory
from service.calibration.slots import SlotPart
from service.metrics.families import Metrics
from service.settings import Settings
from tests.running import read_metrics

START = 1_800_000_000_000
SECOND = 1_000


class Service:
    """Two processes that count, and the one that decides, at a time that the test sets."""

    def __init__(self, places: int = 2) -> None:
        self.settings = Settings(live_period_seconds=60, click_window_seconds=60)
        self.memory = LiveMemory(2, places, self.settings.click_window_seconds)
        self.metrics = Metrics()
        self.now = START
        self.decider = Decider(self.settings, self.memory, self.metrics, self.now)
        self.decider.serve({1: "control", 2: "treatment"})
        self._parts = SlotPart(self.memory, 0), SlotPart(self.memory, 1)
        self._rng = np.random.default_rng(5)

    def shown(self, number: int, rows: int, shift: float) -> None:
        """Impressions of a minute, and their clicks, of which any process may count any."""
        log_odds = self._rng.normal(-3.0, 0.7, rows).astype(np.float32)
        made = START + (self.now - START) // 60_000 * 60_000 + self._rng.integers(0, 60_000, rows)
        is_click = self._rng.random(rows) < 1.0 / (1.0 + np.exp(-(log_odds + shift)))
        is_first = self._rng.random(rows) < 0.5
        for part, chosen in zip(self._parts, (is_first, ~is_first), strict=True):
            part.add(number, made[chosen], log_odds[chosen], np.zeros(int(chosen.sum()), bool))
        for part, chosen in zip(reversed(self._parts), (is_first, ~is_first), strict=True):
            some = chosen & is_click
            part.add(number, made[some], log_odds[some], np.ones(int(some.sum()), bool))

    def minutes(self, count: int, shift: float) -> None:
        for _ in range(count):
            self.shown(1, 4_000, shift)
            self.shown(2, 1_000, 0.0)
            self.now += 60 * SECOND
            self.decider.step_if_due(self.now)

    def shown_metrics(self) -> dict[str, float]:
        return read_metrics(self.metrics.exposition()[0].decode())


def test_an_arm_is_corrected_by_its_own_events() -> None:
    service = Service()
    service.minutes(20, 0.3)
    state = service.memory.read(0)
    assert state.revision >= 1
    assert state.intercept - 3.0 * (state.slope - 1.0) == pytest.approx(0.3, abs=0.1)
    assert state.pcoc_bundle == pytest.approx(math.exp(-0.29), abs=0.06)
    assert state.pcoc_live == pytest.approx(1.0, abs=0.06)
    found = service.shown_metrics()
    assert found['bidlight_live_revision{arm="control"}'] == state.revision
    assert found['bidlight_live_intercept{arm="control"}'] == state.intercept
    assert found['bidlight_live_slope{arm="control"}'] == state.slope
    assert found['bidlight_live_clicks{arm="control"}'] == pytest.approx(state.clicks)
    assert found['bidlight_live_dispersion{arm="control"}'] == state.dispersion >= 1.0
    assert found['bidlight_live_pcoc{arm="control",pctr="bundle"}'] == state.pcoc_bundle
    assert found['bidlight_live_pcoc{arm="control",pctr="live"}'] == state.pcoc_live
    assert found['bidlight_live_decisions_total{arm="control",decision="adopted"}'] == state.revision
    assert abs(found['bidlight_live_intercept{arm="treatment"}']) < 0.3


def test_it_is_decided_once_a_period_and_also_when_the_clock_is_set_back() -> None:
    service = Service()
    service.shown(1, 50_000, 1.0)
    for seconds, clicks in ((59, False), (60, False), (150, True)):
        service.decider.step_if_due(START + seconds * SECOND)
        assert (service.memory.read(0).clicks > 0) is clicks
    before = service.memory.read(0)
    service.shown(1, 50_000, 1.0)
    service.decider.step_if_due(START + 209 * SECOND)
    assert service.memory.read(0) == before
    service.decider.step_if_due(START + 149 * SECOND)
    assert service.memory.read(0) != before


def test_a_new_bundle_begins_without_a_correction_and_the_others_go_on() -> None:
    service = Service()
    service.minutes(20, 0.3)
    kept = service.memory.read(0)
    assert kept.revision >= 1
    service.decider.serve({3: "treatment", 1: "control"})
    assert service.memory.read(0) == kept
    place = service.memory.place(3)
    assert place is not None
    state = service.memory.read(place)
    assert (state.revision, state.intercept, state.slope, state.clicks) == (0, 0.0, 1.0, 0.0)
    assert math.isnan(state.pcoc_live)


def test_a_bundle_that_comes_back_goes_on_with_its_correction_and_its_counts_are_older_by_then() -> None:
    service = Service(places=3)
    service.minutes(20, 0.3)
    kept = service.memory.read(0)
    assert kept.revision >= 1
    service.decider.serve({2: "treatment", 3: "control"})
    assert service.shown_metrics()['bidlight_live_revision{arm="control"}'] == 0
    service.now += service.settings.live_half_life_seconds * SECOND
    service.decider.step_if_due(service.now)
    service.decider.serve({2: "treatment", 1: "control"})
    assert service.memory.place(1) == 0
    back = service.memory.read(0)
    assert (back.revision, back.intercept, back.slope) == (kept.revision, kept.intercept, kept.slope)
    assert service.shown_metrics()['bidlight_live_revision{arm="control"}'] == kept.revision
    service.now += 60 * SECOND
    service.decider.step_if_due(service.now)
    # What came late counts in full, the rest half: fewer clicks of one weight vary as much as all of these.
    new = service.memory.mature(0, service.now)[:, CLICKS].sum() - kept.clicks
    assert service.memory.read(0).clicks < 0.97 * (kept.clicks + new)


def test_a_bundle_whose_place_another_one_took_begins_anew() -> None:
    service = Service(places=2)
    service.minutes(20, 0.3)
    service.decider.serve({2: "treatment", 3: "control"})
    service.decider.serve({2: "treatment", 1: "control"})
    place = service.memory.place(1)
    assert place is not None
    assert service.memory.read(place).revision == 0


def test_an_arm_whose_counts_are_damaged_stays_and_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    service.minutes(10, 0.3)
    before = service.memory.read(0)
    service.memory.counts[0, 0] = np.nan
    service.minutes(3, 0.3)
    after = service.memory.read(0)
    assert (after.revision, after.intercept, after.slope) == (before.revision, before.intercept, before.slope)
    assert service.memory.read(1).clicks > 0
    service.memory.counts = service.memory.counts[:0]  # nothing can be read
    service.minutes(1, 0.3)
    assert "arm control: its live calibration stays as it is for now" in caplog.text


def test_an_arm_without_room_is_named(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(places=1)
    assert "arm treatment has no live calibration" in caplog.text
    service.minutes(3, 0.0)
    assert service.memory.read(0).clicks > 0


def test_a_frozen_arm_stays_as_it_is_with_its_next_bundle_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bidlight")
    service = Service()
    service.decider.freeze("control")
    service.minutes(20, 0.3)
    state = service.decider.state("control")
    assert state is not None
    assert state == service.memory.read(0)
    assert (state.is_frozen, state.revision, state.intercept) == (True, 0, 0.0)
    assert state.clicks > 0
    found = service.shown_metrics()
    assert found['bidlight_live_frozen{arm="control"}'] == 1
    assert found['bidlight_live_frozen{arm="treatment"}'] == 0
    assert found['bidlight_live_decisions_total{arm="control",decision="adopted"}'] >= 1
    assert "arm control: live calibration" not in caplog.text
    service.decider.serve({1: "control", 3: "control"})
    following = service.decider.state("control")
    assert following is not None
    assert (following.is_frozen, following.clicks) == (True, 0.0)
    service.decider.thaw("control")
    service.minutes(10, 0.3)
    assert service.memory.read(0).revision >= 1
    assert service.decider.state("nobody") is None


def test_after_a_reset_only_tokens_that_are_made_since_are_learned_from() -> None:
    service = Service()
    service.minutes(20, 0.3)
    revision = service.memory.read(0).revision
    assert revision >= 1
    service.shown(1, 50_000, 2.0)  # is mature only after the reset
    service.decider.reset("control", service.now)
    reset = service.memory.read(0)
    assert (reset.revision, reset.intercept, reset.slope, reset.clicks) == (revision + 1, 0.0, 1.0, 0.0)
    assert service.memory.read(1).clicks > 0
    slot = service.memory.slot_ms
    service.now = (service.now // slot + 1) * slot + 60 * SECOND  # what was shown until the reset
    service.decider.step(service.now)
    assert service.memory.read(0).clicks == 0.0
    service.now = START + 30 * 60 * SECOND
    service.minutes(10, -0.3)
    state = service.memory.read(0)
    assert state.pcoc_bundle == pytest.approx(math.exp(0.29), abs=0.08)
