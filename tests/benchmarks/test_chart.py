"""The chart of the README is what the script draws of the committed figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import chart


def test_the_committed_chart_is_drawn_from_the_committed_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "ratios.svg"
    chart.main(["--out", str(drawn)])
    assert drawn.read_bytes() == chart.OUT.read_bytes()
    assert capsys.readouterr().out == f"wrote {drawn}\n"


def test_only_ratios_of_bidlight_over_the_two_servers_are_drawn() -> None:
    one = {"over": "naive", "candidates": 1, "connections": 8, "requests_per_second": 3.0}
    other = {"over": "mosec", "candidates": 2, "connections": 1, "requests_per_second": 1.5}
    unknown = {"over": "someone", "candidates": 2, "connections": 1, "requests_per_second": 99.0}
    plain = {**other, "contender": "bidlight_plain", "requests_per_second": 77.0}
    svg = chart.draw([one, other, unknown, plain]).decode()
    for text in ("1 ad, 8 connections", "2 ads, 1 connection", "3x", "1.5x"):
        assert f">{text}</text>" in svg
    assert "99x" not in svg
    assert "77x" not in svg
    assert "0x" not in svg
