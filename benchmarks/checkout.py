"""A checkout -> its packages' modules, imports and lines, as JSON: `python -P benchmarks/checkout.py FOLDER`.

It is a program of its own, because grimp finds packages on the path: in this process they are the checkout's,
whatever the caller has imported. It needs grimp, which import-linter brings, and git.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import grimp

Arrows = Mapping[str, Set[str]]  # a node -> those that it imports


def main(folder: Path) -> None:
    """Prints one line of JSON."""
    print(json.dumps({"packages": packages_of(folder), "lines": lines_of(folder)}))


def packages_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What the imports of each package of the checkout look like, and of all together."""
    sys.path.insert(0, str(folder))
    names = sorted(each.parent.name for each in folder.glob("*/__init__.py"))
    graph = grimp.build_graph(*names, cache_dir=None)
    found = {name: _package(graph, name) for name in names}
    arrows = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    found["all"] = {"modules": len(graph.modules), "floors": floors(arrows), "circles": circles(arrows)}
    return found


def _package(graph: grimp.ImportGraph, name: str) -> dict[str, Any]:
    modules = {name, *graph.find_descendants(name)}
    arrows = {module: graph.find_modules_directly_imported_by(module) & modules for module in modules}
    children = graph.find_children(name)
    rooms = sorted(child.rpartition(".")[2] for child in children if graph.find_children(child))
    between = Counter(
        (_child(importer, name), _child(imported, name))
        for importer, all_imported in arrows.items()
        for imported in all_imported
    )
    return {
        "modules": len(modules),
        "rooms": rooms,
        "top_modules": len(children) - len(rooms),
        "floors": floors(arrows),
        "circles": circles(arrows),
        "arrows": {f"{a} -> {b}": count for (a, b), count in sorted(between.items()) if a != b},
        "back": sorted(
            f"{a} -> {b}"
            for a, b in graph.nominate_cycle_breakers(name)
            if _child(a, name) != _child(b, name)
        ),
    }


def _child(module: str, package: str) -> str:
    """The room or the top module of `package` that `module` belongs to."""
    return module.removeprefix(package).removeprefix(".").partition(".")[0] or package


def floors(arrows: Arrows) -> int:
    """The number of nodes on the longest chain of imports, those of a circle counted as one."""
    components = strong_components(arrows)
    number = {node: place for place, component in enumerate(components) for node in component}
    heights: list[int] = []
    for place, component in enumerate(components):  # what a component imports comes before it
        below = {number[other] for node in component for other in arrows[node]} - {place}
        heights.append(1 + max((heights[other] for other in below), default=0))
    return max(heights, default=0)


def circles(arrows: Arrows) -> list[list[str]]:
    """The nodes of each strongly connected component that has more than one."""
    return sorted(sorted(each) for each in strong_components(arrows) if len(each) > 1)


def strong_components(arrows: Arrows) -> list[list[str]]:
    """Tarjan's algorithm: every component comes after those that it imports."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    done: set[str] = set()
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(arrows[node]):
            if other not in index:
                visit(other)
            if other not in done:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[len(stack) - len(component) :]
            done.update(component)
            found.append(component)

    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return found


def lines_of(folder: Path) -> dict[str, int]:
    """Lines of Python by top folder, of the files that git knows."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "*/*.py"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines: Counter[str] = Counter()
    for name in filter(None, listed.split("\0")):
        file = folder / name
        if file.is_file():
            lines[Path(name).parts[0]] += file.read_bytes().count(b"\n")
    return dict(sorted(lines.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
