"""The measurement of candidates by id over real services, and its ratios."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.load.closed_loop import Case, Point
from loadtest.processes.machine import missing_tools
from loadtest.reports.catalogue_figures import KNOWN, REFRESHED, SENT, Way, as_json, table
from loadtest.traffic.body_forms import FORMS
from tests.running import REPOSITORY
from tests.tiny_bundle import write_tiny_bundle

needs_wrk = pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())


def run_catalogue(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest.reports.catalogue", *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)


@needs_wrk
def test_known_and_sent_features_are_compared_and_the_last_line_is_for_machines(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", name="tiny")
    options = ["--bundle", str(bundle), "--forms", "columns-msgpack", "--candidates", "7"]
    options += ["--connections", "2", "--known-ads", "150"]
    options += ["--seconds", "1", "--rounds", "1", "--warm-up", "0"]
    run = run_catalogue(*options)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["bundle"].startswith("tiny@")
    assert found["known_ads"] == 150
    assert [point["features"] for point in found["points"]] == [SENT, KNOWN]
    assert [point["features"] for point in found["refresh"]] == [KNOWN, REFRESHED]
    assert [point.get("over") for point in found["points"] + found["refresh"]] == [None, SENT, None, KNOWN]
    for point in found["points"] + found["refresh"]:
        assert (point["form"], point["candidates"], point["connections"]) == ("columns-msgpack", 7, 2)
        assert point["candidates_per_second"] > 0
        assert 0.0 < point["p50_ms"] <= point["p99_ms"]
        assert point["cpu_us_per_candidate"] > 0.0
    assert f"{2 * 16 * 7} answers the same" in run.stdout


@needs_wrk
def test_a_bundle_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    run = run_catalogue("--bundle", str(tmp_path))
    assert run.returncode == 2
    assert run.stderr.startswith("python -m loadtest.reports.catalogue: error: '--bundle' must be a bundle")
    assert "Traceback" not in run.stderr


def point(requests_a_second: float, p99_ms: float, cpu_us: float | None) -> Point:
    return Point(requests_a_second, 1.0, p99_ms, p99_ms, 0, cpu_us, None)


def test_by_id_is_compared_with_sent_and_refreshed_with_by_id() -> None:
    form, case = FORMS["rows-json"], Case(100, 8)
    ways = [Way(SENT, form), Way(KNOWN, form), Way(REFRESHED, form)]
    figures = [point(1000.0, 4.0, 900.0), point(3000.0, 2.0, 300.0), point(2400.0, 3.0, None)]
    points = {(str(way), case): each for way, each in zip(ways, figures, strict=True)}
    sent, known, refreshed = as_json(ways, points)
    assert "over" not in sent
    assert (sent["candidates_per_second"], sent["cpu_us_per_candidate"]) == (100_000, 9.0)
    assert (known["over"], known["candidates_ratio"], known["p99_ratio"], known["cpu_ratio"]) == (
        *(SENT, 3.0, 0.5),
        pytest.approx(0.333),
    )
    assert (refreshed["over"], refreshed["candidates_ratio"], refreshed["p99_ratio"]) == (KNOWN, 0.8, 1.5)
    assert refreshed["cpu_us_per_candidate"] is refreshed["cpu_ratio"] is None
    lines = table(ways, points).splitlines()
    assert "300,000" in lines[2]
    assert lines[3].split()[-2:] == ["1.50", "-"]
