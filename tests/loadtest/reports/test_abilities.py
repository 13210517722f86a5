"""Services with abilities are compared with one that has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.processes.machine import missing_tools
from loadtest.reports.abilities import ABILITIES, ALL, OFF, arguments_of, main
from service.process.options import build_parser, read_settings
from tests.tiny_bundle import write_tiny_bundle


@pytest.mark.parametrize("name", [OFF, *ABILITIES, ALL])
def test_a_service_takes_its_arguments(tmp_path: Path, name: str) -> None:
    words = arguments_of(name, tmp_path / "bundle", tmp_path)
    settings = read_settings(build_parser(), words)
    assert (settings.metrics == "off") == (name == OFF)
    flags = {word for word in words if word.startswith("--")}
    if name == ALL:
        assert flags >= {flag for ability in ABILITIES.values() for flag in ability[::2]}
        assert len(settings.arms) == 2


@pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())
def test_every_ability_answers_all_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    short = ["--seconds", "1", "--repetitions", "1", "--warm-up", "0", "--candidates", "2"]
    assert main(["--bundle", str(bundle), "--abilities", ALL, "--connections", "2", *short]) == 0
    points = json.loads(capsys.readouterr().out.splitlines()[-1])["points"]
    assert [point["ability"] for point in points] == [OFF, ALL]
    assert all(point["requests_a_second"] > 0 for point in points)
