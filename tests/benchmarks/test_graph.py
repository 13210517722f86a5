"""The benchmark of plain graphs."""

from __future__ import annotations

import json
import subprocess
import sys


def test_it_prints_a_table_and_a_line_of_json() -> None:
    command = [sys.executable, "-m", "benchmarks.graph", "--rows", "2000", "--nodes"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(run.stdout.splitlines()[-1])["figures"]
    assert len(figures) == 9
    assert "QGemm" in run.stdout
