"""What serving loads."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest


def test_serving_loads_nothing_of_training() -> None:
    code = (
        "import sys, service.app, service.__main__, service.supervision\n"
        "heavy = {'torch', 'onnx', 'sklearn', 'polars', 'models', 'export'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_arrows_name_every_module_of_the_service(pytestconfig: pytest.Config) -> None:
    """import-linter knows no `all but`: what its lists leave out would be free to import anything."""
    root = pytestconfig.rootpath
    modules = {f"service.{path.stem}" for path in (root / "service").glob("*.py")} - {"service.__init__"}
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    lists = [
        {name for name in names if name.startswith("service.")} - {"service.bundle"}
        for contract in contracts
        for key, names in contract.items()
        if key in ("source_modules", "forbidden_modules") and "service.wire" in names
    ]
    assert len(lists) == 3
    assert all(modules - {"service.session"} <= names <= modules for names in lists)
