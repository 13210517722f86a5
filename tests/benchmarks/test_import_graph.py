"""What is counted of imports, on small packages drawn by hand and on this checkout."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import import_graph
from benchmarks.checkout import circles, floors, strong_components
from export.errors import ExportError

CHAIN = {"a": {"b"}, "b": {"c"}, "c": set[str](), "alone": set[str]()}
CIRCLE = {"top": {"x"}, "x": {"y"}, "y": {"z"}, "z": {"x", "low"}, "low": set[str]()}


def test_floors_are_the_modules_of_the_longest_chain() -> None:
    assert floors(CHAIN) == 3
    assert floors({**CHAIN, "c": {"alone"}}) == 4
    assert floors({}) == 0


def test_a_circle_is_one_floor_and_is_listed() -> None:
    assert circles(CHAIN) == []
    assert circles(CIRCLE) == [["x", "y", "z"]]
    assert floors(CIRCLE) == 3
    assert strong_components(CIRCLE)[0] == ["low"]


def write_checkout(folder: Path, modules: dict[str, str]) -> Path:
    for name, content in modules.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(content)
    (folder / "__init__.py").unlink(missing_ok=True)
    for command in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder


def figures(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[list[str], dict[str, Any]]:
    import_graph.main(options)
    *lines, last = capsys.readouterr().out.splitlines()
    return lines, json.loads(last)["checkouts"]


def test_two_checkouts_are_read_as_they_lie_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # `service` is a package of this checkout too; the other one's is read.
    other = write_checkout(
        tmp_path,
        {
            "service/main.py": "from service.web import app\n",
            "service/web/app.py": "from service.core import rules\n",
            "service/core/rules.py": "import service.core.names\n\n",
            "service/core/names.py": "from service.web import app\n",
        },
    )
    lines, found = figures(capsys, "--against", str(other), "--arrows")
    service = found["against"]["packages"]["service"]
    assert (service["modules"], service["rooms"], service["top_modules"]) == (7, ["core", "web"], 1)
    circle = ["service.core.names", "service.core.rules", "service.web.app"]
    assert service["circles"] == [circle]
    assert service["floors"] == 2
    assert service["arrows"] == 3
    assert len(service["back"]) == 1
    assert found["against"]["lines"] == {"service": 5}
    assert [line for line in lines if "circle" in line and line.startswith("against")] == [
        f"against: circle in service: {', '.join(circle)}"
    ]
    assert "against: service: web -> core (1 imports)" in lines
    head, *rows = (line.split() for line in lines)
    assert head == ["package", *import_graph.FIGURES]
    assert next(row for row in rows if row[0] == "service")[1:3] == ["7", ">"]


def test_this_checkout_has_no_circle_and_nothing_runs_back(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = figures(capsys)
    packages = found["here"]["packages"]
    assert set(packages) >= {"service", "models", "export", "loadtest", "benchmarks", "all"}
    assert [package["circles"] for package in packages.values()] == [[]] * len(packages)
    assert all(not package["back"] for name, package in packages.items() if name != "all")
    assert set(found["here"]["lines"]) >= {"service", "export", "loadtest", "tests", "benchmarks"}


def test_a_folder_without_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="must be a checkout with packages"):
        import_graph.read(tmp_path / "nowhere")
