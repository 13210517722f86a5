"""What events make of the metrics, by arm and type, and which are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.calibration.counts import CLICKS, IMPRESSIONS, PREDICTED
from service.calibration.memory import LiveMemory
from service.feedback import counting
from service.feedback.counting import EventCounter
from service.feedback.events import CLICK, IMPRESSION, Event, EventType
from service.feedback.memory import EventMemory
from service.feedback.signers import Signers
from service.feedback.tokens import Source
from service.metrics.families import Metrics
from service.settings import Settings
from tests.running import read_metrics

CONTROL, TREATMENT = Source("control", "a@1", "int8"), Source("treatment", "b@1", "int8")
START = 1_800_000_000_000
MINUTE, HOUR = 60_000, 3_600_000


class Counted:
    """A counter, its signers and its metrics, at a time that the test sets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = folder / "keys"
        file.write_text(f"0 {'ab' * 16}\n", encoding="ascii")
        self.settings = Settings(feedback_keys=str(file), max_attributed_events=10_000)
        self.memory = EventMemory(self.settings.max_attributed_events)
        self.now = START
        monkeypatch.setattr(counting, "now_ms", lambda: self.now)
        self._begin()

    def _begin(self) -> None:
        """Another process of the same service."""
        self.signers = Signers(self.settings.feedback_keys)
        self.signers.serve({source: source for source in (CONTROL, TREATMENT)})
        self.metrics = Metrics()
        self.counter = EventCounter(self.settings, self.metrics, self.memory, self.signers)
        self.counter.serve([CONTROL, TREATMENT])

    def tokens(self, *pctrs: float, source: Source = CONTROL, made: int | None = None) -> list[str]:
        made = self.now if made is None else made
        return self.signers.of(source).tokens_at(np.array(pctrs), made, 7)

    def count(self, event_type: EventType, *tokens: str, at: float | None = None) -> list[str]:
        return [*self.counter.count([Event(token, event_type, at) for token in tokens])]

    def shown(self) -> dict[str, float]:
        self.counter.publish()
        return read_metrics(self.metrics.exposition()[0].decode())


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(tmp_path, monkeypatch)


def test_what_was_shown_and_clicked_is_counted_by_arm(counted: Counted) -> None:
    of_control, of_treatment = counted.tokens(0.1, 0.2, 0.3), counted.tokens(0.5, source=TREATMENT)
    assert counted.count(IMPRESSION, *of_control, *of_treatment) == ["counted"] * 4
    counted.now += 5_000
    assert counted.count(CLICK, of_control[0], *of_treatment, of_control[0]) == [
        *["counted"] * 2,
        "duplicate",
    ]
    found = counted.shown()
    assert found['bidlight_shown_pctr_total{arm="control"}'] == pytest.approx(0.6)
    assert found['bidlight_shown_pctr_total{arm="treatment"}'] == pytest.approx(0.5)
    for arm, impressions, clicks in (("control", 3, 1), ("treatment", 1, 1)):
        events = f'bidlight_feedback_events_total{{arm="{arm}",outcome="counted",type='
        assert (found[events + '"impression"}'], found[events + '"click"}']) == (impressions, clicks)
        assert found[f'bidlight_click_delay_seconds_sum{{arm="{arm}"}}'] == pytest.approx(5.0)
    again = 'bidlight_feedback_events_total{arm="control",outcome="duplicate",type="click"}'
    assert found[again] == 1


def test_live_calibration_gets_each_new_event_of_a_source_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(tmp_path, monkeypatch)
    live = LiveMemory(1, 2, 1_800)
    live.keep({CONTROL.number})
    counted.memory.live = live
    counted._begin()
    tokens = counted.tokens(0.1, 0.2, 0.3)
    counted.count(IMPRESSION, *tokens, tokens[0], "forged", *counted.tokens(0.5, source=TREATMENT))
    counted.now += 40 * MINUTE
    counted.count(CLICK, tokens[1], tokens[1])
    counts = live.mature(0, START + HOUR)
    assert counts[:, IMPRESSIONS].sum() == 3
    assert counts[:, CLICKS].sum() == 1
    assert counts[:, PREDICTED].sum() == pytest.approx(0.6)
    assert (counts[:, CLICKS] <= counts[:, IMPRESSIONS]).all()  # in the bin of its impression


@pytest.mark.parametrize(("learn_from", "learned"), [("all", 5), ("explored", 2)])
def test_events_of_explored_requests_are_counted_again_and_may_be_all_that_is_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learn_from: str, learned: int
) -> None:
    counted = Counted(tmp_path, monkeypatch)
    live = LiveMemory(1, 1, 1_800)
    live.keep({CONTROL.number})
    counted.memory.live = live
    counted.settings = counted.settings.model_copy(update={"live_learn_from": learn_from})
    counted._begin()
    explored = counted.signers.of(CONTROL).explored.tokens_at(np.array([0.25, 0.5]), counted.now, 100)
    counted.count(IMPRESSION, *explored, *counted.tokens(0.1, 0.2, 0.3))
    counted.count(CLICK, explored[1], explored[1])
    counts = live.mature(0, START + HOUR)
    assert counts[:, IMPRESSIONS].sum() == learned
    assert counts[:, CLICKS].sum() == 1
    found = counted.shown()
    assert found['bidlight_shown_pctr_total{arm="control"}'] == pytest.approx(1.35)
    assert found['bidlight_explored_pctr_total{arm="control"}'] == pytest.approx(0.75)
    assert found['bidlight_explored_events_total{arm="control",type="impression"}'] == 2
    assert found['bidlight_explored_events_total{arm="control",type="click"}'] == 1


def test_clicks_that_come_late_count_until_their_tokens_expire(counted: Counted) -> None:
    tokens = counted.tokens(0.1, 0.2, 0.3, 0.4)
    counted.now += 30 * MINUTE
    assert counted.count(CLICK, tokens[0]) == ["counted"]
    counted.now += 1
    assert counted.count(CLICK, tokens[1]) == ["counted"]
    # It was in time and its report is late, as the sender says.
    assert counted.count(CLICK, tokens[2], at=START + MINUTE) == ["counted"]
    counted.now = START + 24 * HOUR + 1
    assert counted.count(CLICK, *tokens) == ["expired"] * 4
    found = counted.shown()
    assert found['bidlight_late_clicks_total{arm="control"}'] == 1
    assert found['bidlight_click_delay_seconds_count{arm="control"}'] == 3
    assert found['bidlight_feedback_events_total{arm="control",outcome="expired",type="click"}'] == 4


@pytest.mark.parametrize(
    ("at", "outcome"),
    [(-2 * MINUTE, "invalid"), (-MINUTE, "counted"), (MINUTE, "counted"), (2 * MINUTE, "future")],
)
def test_an_event_is_neither_before_its_token_nor_in_the_future(
    counted: Counted, at: int, outcome: str
) -> None:
    found = counted.count(CLICK, *counted.tokens(0.1), at=START + at)
    assert found == [outcome]
    delays = counted.shown().get('bidlight_click_delay_seconds_sum{arm="control"}', 0.0)
    assert delays == (max(at, 0) / 1000 if outcome == "counted" else 0.0)


def test_an_event_of_another_process_is_not_counted_again(counted: Counted) -> None:
    tokens = counted.tokens(0.1, 0.2)
    assert counted.count(IMPRESSION, tokens[0]) == ["counted"]
    counted._begin()
    assert counted.count(IMPRESSION, *tokens) == ["duplicate", "counted"]
    assert counted.shown()['bidlight_shown_pctr_total{arm="control"}'] == pytest.approx(0.2)


def test_a_bundle_that_was_never_served_is_unknown(counted: Counted) -> None:
    stranger = Source("control", "c@1", "int8")
    counted.signers.serve({CONTROL: stranger})
    assert counted.count(CLICK, *counted.tokens(0.1)) == ["unknown_bundle"]
    named = 'bidlight_feedback_events_total{arm="",outcome="unknown_bundle",type="click"}'
    assert counted.shown()[named] == 1


def test_keys_that_are_read_again_accept_what_they_signed(counted: Counted) -> None:
    file = Path(counted.settings.feedback_keys)
    old = counted.tokens(0.1, 0.2)
    file.write_text(f"1 {'cd' * 16}\n0 {'ab' * 16}\n", encoding="ascii")
    counted.signers.read_again()()
    assert counted.count(CLICK, old[0], *counted.tokens(0.3)) == ["counted"] * 2
    file.write_text(f"1 {'cd' * 16}\n", encoding="ascii")
    counted.signers.read_again()()
    assert counted.count(CLICK, old[1]) == ["unknown_key"]


def test_what_is_no_event_is_counted_beside_the_others(counted: Counted) -> None:
    (token,) = counted.tokens(0.1)
    events = [None, Event(token, CLICK), None, Event(token, CLICK), Event("x", CLICK)]
    expected = ["invalid", "counted", "invalid", "duplicate", "malformed"]
    assert counted.counter.count(events) == expected
    assert counted.counter.count([]) == []
    assert counted.counter.count([None]) == ["invalid"]
    assert counted.shown()['bidlight_feedback_events_total{arm="",outcome="invalid",type=""}'] == 3
