"""What abilities cost is measured beside a service without any, in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.abilities import main
from loadtest.reports.abilities import ALL
from tests.tiny_bundle import write_tiny_bundle


def test_a_service_with_all_of_them_answers_beside_one_with_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    few = ["--timings", "1", "--connections", "2", "--candidates", "2"]
    assert main(["--bundle", str(bundle), "--abilities", ALL, *few]) == 0
    *shown, line = capsys.readouterr().out.splitlines()
    (off, on) = json.loads(line)["microseconds"][ALL]["2"]
    assert off > 0.0
    assert on > 0.0
    assert shown[-1].split()[0] == ALL
