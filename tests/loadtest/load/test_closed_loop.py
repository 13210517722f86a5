"""A case in which a server answers nothing is told as a failure, and takes no other case with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.load import closed_loop
from loadtest.load.closed_loop import Case
from loadtest.processes.machine import missing_tools
from loadtest.processes.server import running
from tests.tiny_bundle import tiny_rows, write_tiny_bundle

needs_wrk = pytest.mark.skipif(bool(missing_tools()), reason=missing_tools())


@needs_wrk
def test_a_case_that_fails_from_the_first_round_is_left_out_alone(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    row = tiny_rows(1)[0]
    answered, refused = tmp_path / "answered.jsonl", tmp_path / "refused.jsonl"
    request = {"id": "r", "context": row["context"], "candidates": [{"features": row["candidate"]}]}
    answered.write_text(f"{json.dumps(request)}\n")
    refused.write_text("no request\n")
    good, bad = Case(1, 1), Case(1, 2)
    with running("service", [f"--arm=control={bundle}"], core=0) as server:
        points, failures = closed_loop.measure(
            {"ours": server},
            [good, bad],
            lambda _, case: answered if case == good else refused,
            seconds=1,
            repetitions=2,
            core=0,
            warm_up_seconds=0,
        )
        server.resume()
    assert list(points) == [("ours", good)]
    assert points["ours", good].errors == 0
    assert list(failures) == [("ours", bad)]
    assert "must answer a request with success" in failures["ours", bad]
