"""What serving loads."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import pkgutil, sys
import service
for module in pkgutil.walk_packages(service.__path__, "service."):
    __import__(module.name)
heavy = {"torch", "onnx", "sklearn", "polars", "models", "export"}
print(sorted(heavy & sys.modules.keys()))
"""


def test_serving_loads_nothing_of_training() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
