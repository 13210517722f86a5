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
# redis imports what it finds of OpenTelemetry's metrics.
heavy |= {"opentelemetry.exporter", "opentelemetry.proto", "opentelemetry.sdk.trace"}
print(sorted(heavy & sys.modules.keys()))
"""


def test_serving_loads_nothing_of_training_and_no_extra() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
