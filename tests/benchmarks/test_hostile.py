"""The benchmark of dear bodies runs all of them through a connection, and none of them fails the service."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.hostile import measure
from loadtest.traffic.hostile import FieldNames, hostile_bodies
from tests.tiny_bundle import write_tiny_bundle


def test_every_body_is_answered_or_refused(tmp_path: Path) -> None:
    found = asyncio.run(measure(write_tiny_bundle(tmp_path / "bundle"), 20_000, 1))
    assert [body.name for body, _, _ in found[:2]] == ["ordinary", "ordinary"]
    assert [status for _, _, status in found[:2]] == ["200", "200"]
    expected = [body.name for body in hostile_bodies(FieldNames("site", "ad"), 20_000)]
    assert [body.name for body, _, _ in found[2:]] == expected
    assert {status for _, _, status in found} == {"200", "400", "422"}
    assert all(seconds > 0.0 for _, seconds, _ in found)
