"""The benchmark of feedback counts real events, and each slice of them anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import feedback


def test_every_stage_is_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "LOGGED_EVENTS", 100)
    assert feedback.main(["--events", "1", "20", "--timings", "3"]) == 0
    *table, line = capsys.readouterr().out.splitlines()
    assert len(table) == 3
    found = json.loads(line)
    assert {*found["microseconds"]} == {"1", "20"}
    for figures in found["microseconds"].values():
        assert {*figures} == {"count", "again", "decode"}
        assert min(figures.values()) > 0
    assert found["restore"] > 0


def test_the_events_that_are_measured_are_new(tmp_path: Path) -> None:
    bench = feedback.Bench(tmp_path)
    events = bench.events(30)
    assert bench._counter.count(events) == ["counted"] * 30
    assert bench._counter.count(events) == ["duplicate"] * 30
