"""Whatever one value of a bundle becomes: it loads, or is refused, in bounded memory and time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import REPOSITORY


def load_extremes(folder: Path, examples: int) -> None:
    program = [sys.executable, "-m", "tests.service.scoring.extreme_bundles", str(folder), str(examples)]
    found = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]


def test_an_extreme_value_is_refused_or_harmless(tmp_path: Path) -> None:
    load_extremes(tmp_path / "bundle", 100)


@pytest.mark.slow
def test_many_extreme_values_are_refused_or_harmless(tmp_path: Path) -> None:
    load_extremes(tmp_path / "bundle", 1000)
