"""Importing the contract loads neither training nor inference libraries."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import pkgutil, sys
import service.bundle
for module in pkgutil.iter_modules(service.bundle.__path__):
    __import__(f"service.bundle.{module.name}")
heavy = {"torch", "onnx", "onnxruntime", "polars", "sklearn", "fastapi", "pydantic", "export", "models"}
loaded = {name.partition(".")[0] for name in sys.modules}
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("service.")}
print(sorted(heavy & loaded), sorted(rooms))
"""


def test_the_contract_loads_numpy_and_msgspec_only() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "[] ['bundle']\n"
