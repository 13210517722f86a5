"""The measurement of workers completes on real services."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import REPOSITORY


@pytest.mark.skipif(not (shutil.which("wrk") and shutil.which("taskset")), reason="needs wrk and taskset")
def test_workers_are_measured(bundles: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "loadtest.reports.scale", "--bundle", str(bundles["control"])]
    command += ["--workers", "1,2", "--candidates", "1", "--seconds", "1", "--repetitions", "1"]
    command += ["--warm-up", "0"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert [(start["workers"], len(start["loaded"])) for start in found["starts"]] == [(1, 1), (2, 3)]
    assert [speed["workers"] for speed in found["speeds"]] == [1, 2]
    assert all(speed["requests_a_second"] > 0 for speed in found["speeds"])
    supervisor, *workers = found["starts"][1]["loaded"]
    assert all(memory["private"] < memory["resident"] for memory in (supervisor, *workers))


def test_a_folder_without_a_bundle_fails_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtest.reports.scale", "--bundle", str(tmp_path)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("python -m loadtest.reports.scale: error: '--bundle' must be a bundle")
    assert len(run.stderr.strip().splitlines()) == 1
