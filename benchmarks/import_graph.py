"""Describes the imports of a checkout: modules, rooms, floors, circles and arrows of each package.

    python -m benchmarks.import_graph [--against FOLDER] [--arrows]

modules   Python files.
rooms     folders directly in the package; `beside` are the modules beside them.
floors    modules on the longest chain of imports, those of a circle counted as one.
circles   groups of modules that import each other, directly or not; each is listed.
arrows    pairs of rooms (and modules beside them) of which one imports the other.
back      imports to remove so that no room imports, directly or not, a room that imports it; listed.
lines     of Python, by `git ls-files`.

Shown for this checkout, and for another one beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import checkout
from benchmarks.command import Command, ended, print_table
from export.errors import ExportError
from loadtest.arguments import a_folder

REPOSITORY = Path(__file__).parents[1]
FIGURES = ("modules", "rooms", "beside", "floors", "circles", "arrows", "back", "lines")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table, what is listed and, on the last line, all of it as JSON."""
    command = Command("import_graph", __doc__)
    command.add_argument("--against", type=a_folder, metavar="FOLDER", help="another checkout")
    command.add_argument("--arrows", action="store_true", help="list the arrows between rooms too")
    options = command.parse_args(arguments)
    folders = {"here": REPOSITORY}
    if options.against is not None:
        folders["against"] = options.against.resolve()
    found = {name: read(folder) for name, folder in folders.items()}
    print_table(table(found))
    for name, one in found.items():
        for line in listed(one, with_arrows=options.arrows):
            print(f"{name}: {line}")
    command.print_json(checkouts={name: _counted(one) for name, one in found.items()})


def _counted(one: dict[str, Any]) -> dict[str, Any]:
    """The same with the number of arrows in place of their list, which is long."""
    packages = {
        name: {**package, "arrows": len(package["arrows"])} if "arrows" in package else package
        for name, package in one["packages"].items()
    }
    return {**one, "packages": packages}


def read(folder: Path) -> dict[str, Any]:
    """What `benchmarks.checkout` finds there, by a process of its own. Raises ExportError where it fails."""
    # -P: the folder of that program is not on the path, so that its neighbours hide nothing.
    command = [sys.executable, "-P", checkout.__file__, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise ExportError(
            f"'{folder}' must be a checkout with packages (got {run.stderr.strip().splitlines()[-1]})"
        )
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def table(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A line a package, a column a figure; with two checkouts the other's figure stands before an arrow."""
    before_after = list(reversed(found.values()))
    names = dict.fromkeys(name for one in found.values() for name in (*one["packages"], *one["lines"]))
    rows = [["package", *FIGURES]]
    for name in (*(each for each in names if each != "all"), "all"):
        cells = []
        for figure in FIGURES:
            values = [_figure(one, name, figure) for one in before_after]
            cells.append(values[0] if len(set(values)) == 1 else " > ".join(each or "-" for each in values))
        rows.append([name, *cells])
    return rows


def _figure(one: dict[str, Any], name: str, figure: str) -> str:
    """A figure of one package as text, empty where there is none."""
    if figure == "lines":
        lines = one["lines"]
        value = sum(lines.values()) if name == "all" else lines.get(name)
    else:
        value = one["packages"].get(name, {}).get({"beside": "top_modules"}.get(figure, figure))
    if value is None:
        return ""
    return f"{len(value) if isinstance(value, (list, dict)) else value:,}"


def listed(one: dict[str, Any], *, with_arrows: bool) -> list[str]:
    """A line for each circle and each import that runs back, and for each arrow where they are wanted."""
    lines, listed_circles = [], []
    for name, package in one["packages"].items():  # all of them together come last
        lines += [
            f"circle in {name}: {', '.join(each)}"
            for each in package["circles"]
            if each not in listed_circles
        ]
        listed_circles += package["circles"]
        lines += [f"back in {name}: {each}" for each in package.get("back", ())]
        if with_arrows:
            lines += [
                f"{name}: {arrow} ({count} imports)" for arrow, count in package.get("arrows", {}).items()
            ]
    return lines


if __name__ == "__main__":
    sys.exit(ended(main))
