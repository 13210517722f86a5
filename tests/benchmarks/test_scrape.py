"""The benchmark of scrapes starts real services and measures each of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scrape
from tests.running import REPOSITORY
from tests.tiny_bundle import write_tiny_bundle


def test_a_scrape_of_each_checkout_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    options = ["--bundle", str(bundle), "--against", str(REPOSITORY), "--workers", "2", "--scrapes", "3"]
    assert scrape.main(options) == 0
    head, row, last = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["workers", "median", "ms"]
    assert row.split()[0] == "2"
    found = json.loads(last)["milliseconds"]["2"]
    assert [len(times) for times in found] == [3, 3]
    assert all(time > 0.0 for times in found for time in times)
