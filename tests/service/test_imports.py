"""What serving loads."""

from __future__ import annotations

import subprocess
import sys


def test_serving_loads_nothing_of_training() -> None:
    code = (
        "import sys, service.app, service.__main__, service.supervision\n"
        "heavy = {'torch', 'onnx', 'sklearn', 'polars', 'models', 'export'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
